//! What a socket's program may know of it without asking.
//!
//! # Theory of operation
//! A record is shown before the program can notice what it says, and taken back before it can notice that it is
//! wrong: [`Socket::show_news`] comes before bytes, ends and errors are moved, and after each call that may have
//! changed a name ([`Socket::show_after`]). Streams are shown while they are connected and their peer has not
//! ended; what they are called before and behind that depends on states that only the engine knows.

use std::time::Instant;

use msocket_proto::board::{self, Address, Shown};
use rustix::net::SocketType;

use super::super::call::{Done, SocketCall};
use super::super::engine::{Engine, Status};
use super::{End, Shared, Socket};
use crate::stack::TYPE_MASK;

/// What was found when the record was shown last.
#[derive(Debug, Default)]
pub(in super::super) struct Facts {
    /// Of the status, what changes names.
    phase: [bool; 5],
    /// It has a port.
    bound: bool,
}

fn phase(status: &Status) -> [bool; 5] {
    let Status { connected, connecting, listening, receive_finished, .. } = *status;
    [connected, connecting, listening, receive_finished, status.error.is_some()]
}

impl Socket {
    /// Only TCP and UDP have records.
    fn has_record(&self) -> bool {
        let internet = matches!(self.spec.domain, libc::AF_INET | libc::AF_INET6);
        internet
            && matches!(
                (self.spec.kind & TYPE_MASK, self.spec.protocol),
                (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP)
            )
    }

    /// Shows what has changed by itself.
    pub(super) fn show_news(&mut self, now: Instant, engine: &mut Engine, shared: &Shared) {
        if phase(&engine.status(self.id)) != self.facts.phase {
            self.show(now, engine, shared);
        }
    }

    /// Shows what a call has changed.
    pub(in super::super) fn show_after(
        &mut self,
        now: Instant,
        call: &SocketCall,
        engine: &mut Engine,
        shared: &Shared,
    ) {
        match call {
            SocketCall::Bind { .. }
            | SocketCall::Connect { .. }
            | SocketCall::Listen { .. }
            | SocketCall::Shutdown { .. }
            | SocketCall::SetOption { .. } => self.show(now, engine, shared),
            SocketCall::Send { .. } | SocketCall::Receive { .. } if !self.facts.bound => {
                self.show(now, engine, shared);
            }
            _ => self.show_news(now, engine, shared),
        }
    }

    /// A datagram was sent to that destination: more of them need not be asked about, from the second one on.
    pub(in super::super) fn welcome(
        &mut self,
        now: Instant,
        to: &[u8],
        engine: &mut Engine,
        shared: &mut Shared,
    ) {
        let (Some(to), true) = (Address::internet(to), self.has_record()) else { return };
        let (End::Datagram(datagram), Some(address)) = (&mut self.end, &self.address) else { return };
        let opened = datagram.open_inlet(self.token, address, shared);
        if opened {
            self.show(now, engine, shared);
        }
        if let End::Datagram(datagram) = &self.end
            && datagram.takes()
        {
            shared.board.allow(self.token, to.hash());
        }
    }

    /// Shows what there is to be shown.
    pub(in super::super) fn show(&mut self, now: Instant, engine: &mut Engine, shared: &Shared) {
        if !self.has_record() {
            return;
        }
        let status = engine.status(self.id);
        self.facts.phase = phase(&status);
        match self.shown(now, &status, engine) {
            Some(shown) => {
                self.facts.bound = shown.local.bytes().get(2..4).is_some_and(|port| port != [0, 0]);
                shared.board.show(self.token, &shown, &engine.shown_options(self.id));
            }
            None => shared.board.hide(self.token),
        }
    }

    fn shown(&self, now: Instant, status: &Status, engine: &mut Engine) -> Option<Shown> {
        let stream = self.kind == SocketType::STREAM;
        if stream && (status.connecting || status.receive_finished || status.error.is_some()) {
            return None;
        }
        let mut name = |call| match engine.call(now, self.id, &self.caller, &call) {
            Ok(Done::Address(name)) => Address::new(&name),
            _ => None,
        };
        let local = name(SocketCall::LocalName)?;
        let peer = name(SocketCall::PeerName);
        let flag = |flag, holds: bool| if holds { flag } else { 0 };
        let (loose, takes) = match &self.end {
            End::Datagram(datagram) => (datagram.is_loose(), datagram.takes()),
            _ => (false, false),
        };
        let flags = flag(board::LISTENS, status.listening)
            | flag(board::CONNECTED, peer.is_some())
            | flag(board::TROUBLED, status.error.is_some())
            | flag(board::LOOSE, loose)
            | flag(board::TAKES, takes)
            | flag(board::DESCRIBES, status.describes);
        let protocol = if stream { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
        Some(Shown {
            flags,
            domain: self.spec.domain as u8,
            kind: (self.spec.kind & TYPE_MASK) as u8,
            protocol: protocol as u16,
            local,
            peer: peer.unwrap_or_default(),
        })
    }
}
