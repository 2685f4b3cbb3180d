//! A socket with message boundaries: UDP, ping, raw, packet and netlink.
//!
//! # Theory of operation
//! A *loose* socket takes datagrams from anybody, so each origin (sender's address and ancillary data) has a
//! socket of ours that sends to the program, with a name that says which: recvfrom(2) and recvmsg(2) are
//! trapped and read the name, read(2) and recv(2) run natively and need none. A *linked* socket, a connected one
//! or one with only one peer, talks to one socket of ours both ways, so that write(2) and send(2) run natively;
//! its ancillary data, if any, waits in a queue beside it, in the order of the datagrams.
//!
//! A library in the program that has seen on the board where datagrams may go sends them, destination in front, to
//! the socket's *inlet*, one more socket of ours; recvfrom(2) it runs natively and reads the origin's address in
//! the name of ours ([`msocket_proto::board`]).
//!
//! The kernel bounds what waits in the program's end; what it does not take stays in the engine, whose
//! queue is bounded by SO_RCVBUF.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use msocket_proto::board::{self, Name, sender};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::super::call::{Caller, SocketCall};
use super::super::engine::{Engine, Received, SocketId};
use super::ring::Ring;
use super::stream::find_program_end;
use super::unix::{self, Address};
use super::{Found, Shared};

/// Most origins of one socket that have a descriptor; the one not used for longest goes first.
const MAX_SENDERS: usize = 32;
/// Most origins remembered: more than the kernel keeps datagrams of (net.unix.max_dgram_qlen).
const MAX_ORIGINS: usize = 1024;
/// How many datagrams with destinations are asked about before others are taken as they come: who sends one does
/// not pay for that.
const FIRST: u32 = 2;
/// Most datagrams of a program taken in one visit.
const BURST: usize = 64;
/// Most visits that a call waits for: more than the program's send buffer has room for.
const BURSTS: usize = 64;

/// Where a datagram came from, as the program will be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Origin {
    /// `struct sockaddr`
    pub(in super::super) from: Vec<u8>,
    /// `struct cmsghdr`s
    pub(in super::super) control: Vec<u8>,
}

#[derive(Debug)]
struct Sender {
    number: u64,
    ours: OwnedFd,
    /// Room in the program's end is told as an event.
    awaited: bool,
}

#[derive(Debug)]
struct Link {
    ours: OwnedFd,
    name: Vec<u8>,
    /// Of datagrams in the program's end, oldest first.
    origins: VecDeque<Origin>,
    /// Room in the program's end is told as an event.
    awaited: bool,
}

/// A socket with message boundaries.
#[derive(Debug, Default)]
pub(in super::super) struct Datagram {
    senders: VecDeque<Sender>,
    origins: VecDeque<(u64, Origin)>,
    next: u64,
    link: Option<Link>,
    /// Takes datagrams with their destinations in front, once the program has sent more than one.
    inlet: Option<OwnedFd>,
    /// Datagrams with destinations that were asked about.
    asked: u32,
    /// One of those that were not could not be sent: the record has been taken back.
    failed: bool,
    /// The program has been made to look for its error.
    alarmed: bool,
    /// The program's end was full.
    full: bool,
    /// Room was told though nobody waited for it.
    needless: bool,
    /// A linked program may have written something.
    readable: bool,
    /// Messages go there.
    ring: Option<Ring>,
}

impl Datagram {
    /// Something can be read or written again.
    pub(super) fn handle_event(&mut self, events: EpollFlags) {
        self.needless |= !self.full && events.contains(EpollFlags::EPOLLOUT);
        self.full = false;
        self.readable = true;
    }

    /// Nobody waits for room any more.
    fn forget_room(&mut self, token: u64, shared: &Shared) {
        let link = self.link.iter_mut().map(|link| (&link.ours, &mut link.awaited));
        let senders = self.senders.iter_mut().map(|sender| (&sender.ours, &mut sender.awaited));
        for (ours, awaited) in link.chain(senders).filter(|(_, awaited)| **awaited) {
            let _ = shared.await_room(ours, token, false);
            *awaited = false;
        }
        self.needless = false;
    }

    /// Links the program's end to a socket of ours, by a duplicate.
    pub(in super::super) fn link(
        &mut self,
        program: &OwnedFd,
        (token, address): (u64, &Address),
        shared: &Shared,
    ) -> Result<(), Errno> {
        (self.link, self.inlet, self.full) = (None, None, false);
        let name = sender(&shared.name(token), self.number(), None);
        let ours = unix::sender(&name, address)?;
        unix::link(program, &name)?;
        shared.watch(&ours, token)?;
        self.senders.clear();
        self.link = Some(Link { ours, name, origins: VecDeque::new(), awaited: false });
        self.alarmed = false;
        self.readable = true;
        Ok(())
    }

    /// Hears from anybody.
    pub(super) fn is_loose(&self) -> bool {
        self.link.is_none()
    }

    /// Takes datagrams that nobody asked about.
    pub(super) fn takes(&self) -> bool {
        self.inlet.is_some()
    }

    /// A datagram was sent. True if more of them can be taken from now on, which could not before.
    pub(super) fn open_inlet(&mut self, token: u64, address: &Address, shared: &Shared) -> bool {
        self.asked = self.asked.saturating_add(1);
        if self.inlet.is_some() || self.link.is_some() || self.asked < FIRST {
            return std::mem::take(&mut self.failed);
        }
        // Connected to the program's end, so that nobody else can send to it, and that nothing bounds what waits
        // there but the program's own buffer (net/unix/af_unix.c, unix_dgram_sendmsg).
        let name = [&shared.name(token)[..], b"<"].concat();
        let Ok(ours) = unix::sender(&name, address) else { return false };
        if shared.watch(&ours, token).is_ok() {
            self.inlet = Some(ours);
        }
        self.inlet.is_some()
    }

    /// Lets the program's end loose again.
    pub(in super::super) fn unlink(&mut self, program: &OwnedFd) {
        if self.link.take().is_some() {
            self.full = false;
            let _ = unix::unlink(program);
        }
    }

    /// The ring that messages go to instead.
    pub(in super::super) fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// Messages go to a ring from now on, or do not.
    pub(in super::super) fn set_ring(&mut self, ring: Option<Ring>) {
        self.ring = ring;
        if let Some(link) = &mut self.link {
            link.origins.clear();
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Moves what can be moved.
    pub(super) fn service(
        &mut self,
        now: Instant,
        id: SocketId,
        (token, address): (u64, &Address),
        whose: (&Caller, u64),
        engine: &mut Engine,
        shared: &mut Shared,
    ) -> Found {
        let mut found = Found::default();
        if self.needless {
            self.forget_room(token, shared);
        }
        while !self.full && !found.gone {
            let mut give = |received: &Received<'_>| match self.give(received, (token, address), shared) {
                Ok(()) => true,
                Err(Errno::EAGAIN) => {
                    self.full = true;
                    false
                }
                Err(Errno::ECONNREFUSED) => {
                    found.gone = true;
                    false
                }
                // The program's end talks to somebody else now, or we are out of descriptors.
                Err(_) => true,
            };
            if !engine.receive_datagram(id, &mut give) {
                break;
            }
        }
        if let (Some(ring), Some(link)) = (&mut self.ring, &self.link) {
            found.gone |= !ring.tend(now, id, (&link.ours, address), whose, engine);
        }
        found.moved |= self.take(now, (id, token), whose.0, engine, shared);
        if self.readable && (self.link.is_some() || self.inlet.is_some()) {
            // There may be more, of which no event will tell.
            engine.mark(id);
        }
        let error = engine.status(id).error.is_some();
        if error && !std::mem::replace(&mut self.alarmed, error) {
            match &self.link {
                Some(link) => drop(unix::alarm(&link.ours, &link.name, address)),
                None => self.alarm_loose(whose, sender(&shared.name(token), 0, None), address),
            }
        }
        self.alarmed = error;
        if found.gone {
            engine.close_late(now, id);
        }
        found
    }

    /// Makes a loose program's end, `whose` says which, report an error to those who poll it: it is linked to a
    /// socket of ours for a moment. What waits there would be lost by that, but then it is readable anyway.
    fn alarm_loose(&self, (caller, inode): (&Caller, u64), alarm: Vec<u8>, address: &Address) {
        let raise = |program: OwnedFd| {
            if unix::is_readable(&program) {
                return Ok(());
            }
            let ours = unix::sender(&alarm, address)?;
            unix::link(&program, &alarm)?;
            let raised = unix::alarm(&ours, &alarm, address);
            unix::unlink(&program)?;
            raised
        };
        let _ = find_program_end(caller, inode).map(raise);
    }

    /// Whether the program has been made to look for an error; not any more.
    pub(in super::super) fn calm(&mut self) -> bool {
        std::mem::take(&mut self.alarmed)
    }

    /// One datagram to the program.
    fn give(
        &mut self,
        received: &Received<'_>,
        (token, address): (u64, &Address),
        shared: &Shared,
    ) -> Result<(), Errno> {
        if let Some(link) = &mut self.link {
            offer((&link.ours, &mut link.awaited), received.data, token, shared)?;
            if link.origins.len() >= MAX_ORIGINS {
                link.origins.pop_front();
            }
            link.origins
                .push_back(Origin { from: received.from.to_vec(), control: received.control.to_vec() });
            return Ok(());
        }
        let known = self
            .origins
            .iter()
            .find(|(_, origin)| origin.from == received.from && origin.control == received.control);
        let number = match known {
            Some((number, _)) => *number,
            None => {
                let number = self.number();
                if self.origins.len() >= MAX_ORIGINS {
                    self.origins.pop_front();
                }
                let origin = Origin { from: received.from.to_vec(), control: received.control.to_vec() };
                self.origins.push_back((number, origin));
                number
            }
        };
        let at = match self.senders.iter().position(|sender| sender.number == number) {
            Some(at) => at,
            None => {
                if self.senders.len() >= MAX_SENDERS {
                    self.senders.pop_front();
                }
                let name = sender(&shared.name(token), number, Some(received.from));
                let ours = unix::sender(&name, address)?;
                shared.watch(&ours, token)?;
                self.senders.push_back(Sender { number, ours, awaited: false });
                self.senders.len() - 1
            }
        };
        let Sender { ours, awaited, .. } = &mut self.senders[at];
        offer((ours, awaited), received.data, token, shared)
    }

    /// Takes all that a program has written: what it asks now comes behind that. True: there was something, of which no
    /// event will tell any more.
    pub(in super::super) fn catch_up(
        &mut self,
        now: Instant,
        (id, token): (SocketId, u64),
        caller: &Caller,
        engine: &mut Engine,
        shared: &mut Shared,
    ) -> bool {
        self.readable = true;
        let mut took = false;
        for _ in 0..BURSTS {
            if !self.readable || !self.take(now, (id, token), caller, engine, shared) {
                break;
            }
            took = true;
        }
        took
    }

    /// What a program wrote. True: there was something.
    fn take(
        &mut self,
        now: Instant,
        (id, token): (SocketId, u64),
        caller: &Caller,
        engine: &mut Engine,
        shared: &mut Shared,
    ) -> bool {
        let ours = self.link.as_ref().map(|link| &link.ours).or(self.inlet.as_ref());
        let Some(ours) = ours.filter(|_| self.readable) else { return false };
        let mut took = false;
        for _ in 0..BURST {
            match unix::read(ours, &mut shared.scratch) {
                // What native send(2) could have been told comes with the next trapped call.
                Ok(length) => {
                    took = true;
                    if std::mem::take(&mut self.alarmed) {
                        // Who can write has seen the error that it was alarmed about.
                        drop(engine.call(now, id, caller, &SocketCall::pending_error()));
                    }
                    let datagram = &shared.scratch[..length];
                    let sent = match (&self.link, board::Address::split(datagram)) {
                        (Some(_), _) => engine.send_datagram(now, id, None, datagram),
                        (None, Some((to, data))) => engine.send_datagram(now, id, Some(to.bytes()), data),
                        // Not of a library that knows what it does.
                        (None, None) => Ok(()),
                    };
                    if self.link.is_none() && sent.is_err() {
                        // The next one will be asked about, and be told why.
                        shared.board.hide(token);
                        self.failed = true;
                    }
                }
                Err(_) => {
                    self.readable = false;
                    break;
                }
            }
        }
        took
    }

    /// Where the datagram came from that was just read from the program's end, sent by the socket of that
    /// name. `taken`: it is not in the queue any more.
    pub(in super::super) fn origin(&mut self, sender: &[u8], taken: bool) -> Origin {
        if let Some(link) = &mut self.link {
            let first = if taken { link.origins.pop_front() } else { link.origins.front().cloned() };
            return first.unwrap_or_default();
        }
        let number = Name::parse(sender).and_then(|name| name.number());
        let known = self.origins.iter().find(|(known, _)| Some(*known) == number);
        known.map(|(_, origin)| origin.clone()).unwrap_or_default()
    }
}

/// Writes a datagram to the program. If its end is full, we wait until it is not.
fn offer(
    (ours, awaited): (&OwnedFd, &mut bool),
    data: &[u8],
    token: u64,
    shared: &Shared,
) -> Result<(), Errno> {
    let written = unix::write(ours, data).map(drop);
    if written == Err(Errno::EAGAIN) && !*awaited {
        *awaited = shared.await_room(ours, token, true).is_ok();
    }
    written
}
