//! Questions for names over TCP (RFC 7766).
//!
//! # Theory of operation
//! A connection to the gateway's port 53, or to that of a nameserver that the host's resolv.conf names, is not done again
//! as others are: it is taken at once, and its messages are looked at one by one. What [`Services::answer`] knows is
//! answered here; what it does not is sent on, over a connection to the nameserver that is made with the first
//! such question and again after it has ended.
//! ```text
//!  inside ─ engine ─► asked ─┬─ known ──────────────► told ─ engine ─► inside
//!                            └─ others ─ to_host ─► nameserver ─ heard ┘
//! ```
//! Each buffer has at most one message more than [`ENOUGH`] bytes; beyond that nothing is taken, and TCP closes its
//! window. Who is silent for [`LIFETIME`] is closed.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use rustix::net::{RecvFlags, SendFlags};

use super::flows::{Flows, Slot};
use super::names::{self, Answer};
use super::services::Services;
use super::{Hall, Place, host, nat64};
use crate::smol::call::SocketCall;
use crate::smol::engine::SocketId;
use crate::smol::engine::transparent::Knocked;

/// Connections at once; a resolver makes one for some answers that are long.
const MAX_TALKS: usize = 256;
/// How long a connection may be silent (RFC 7766 section 6.2.3: some seconds; as long as other questions here).
const LIFETIME: Duration = Duration::from_secs(30);
/// Longest message, and the two bytes of its length before it (RFC 1035 section 4.2.2).
const LONGEST: usize = 65_535;
const LENGTH: usize = 2;
/// Bytes in a buffer after which no more are taken: a message.
const ENOUGH: usize = LENGTH + LONGEST;
/// Bytes that are read at once.
const PIECE: usize = 16 << 10;
/// Questions of a connection that wait for their answers; a resolver that asks more does not read them.
const MAX_OPEN: usize = 256;

/// A connection.
#[derive(Debug)]
struct Talk {
    id: SocketId,
    /// Where questions go that are not ours; nowhere, if they are refused.
    server: Option<SocketAddr>,
    host: Option<OwnedFd>,
    /// The host's socket may have something, may take something.
    readable: bool,
    writable: bool,
    /// The inside has finished its handshake.
    open: bool,
    asked: Vec<u8>,
    to_host: Vec<u8>,
    heard: Vec<u8>,
    told: Vec<u8>,
    /// Numbers of the questions that were sent on, and whether they were asked for IPv4 addresses in the place of IPv6 ones.
    waiting: VecDeque<([u8; 2], bool)>,
}

/// Those of a gateway.
#[derive(Debug)]
pub(super) struct Questions {
    pub(super) flows: Flows<SocketId>,
    talks: Vec<Option<Talk>>,
}

impl Questions {
    pub(super) fn new() -> Self {
        Self { flows: Flows::new(MAX_TALKS), talks: Vec::new() }
    }

    /// The inside asks for a connection; `server` answers what is not answered here.
    pub(super) fn knock(
        &mut self,
        now: Instant,
        knocked: Knocked,
        inside: SocketAddr,
        server: Option<SocketAddr>,
        hall: &mut Hall,
    ) {
        if !hall.policy.is_inside(inside.ip()) {
            return hall.engine.turn_away(now, knocked.0, knocked.1);
        }
        if let Some(slot) = self.flows.crowded() {
            self.end(now, slot, true, hall);
        }
        if !hall.engine.admit(knocked.1) {
            return;
        }
        let slot = self.flows.insert(now, knocked.1, inside.ip(), LIFETIME);
        if self.talks.len() <= slot {
            self.talks.resize_with(slot + 1, || None);
        }
        self.talks[slot] = Some(Talk {
            id: knocked.1,
            server,
            host: None,
            readable: false,
            writable: false,
            open: false,
            asked: Vec::new(),
            to_host: Vec::new(),
            heard: Vec::new(),
            told: Vec::new(),
            waiting: VecDeque::new(),
        });
    }

    /// The inside has finished its handshake. False: it is none of these.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        id: SocketId,
        hall: &mut Hall,
        services: &mut Services,
    ) -> bool {
        let Some(slot) = self.flows.find(&id) else { return false };
        if let Some(talk) = &mut self.talks[slot] {
            talk.open = true;
        }
        self.service(now, slot, hall, services);
        true
    }

    /// The engine has something to say about a connection.
    pub(super) fn handle_dirty(
        &mut self,
        now: Instant,
        id: SocketId,
        hall: &mut Hall,
        services: &mut Services,
    ) {
        if let Some(slot) = self.flows.find(&id) {
            self.service(now, slot, hall, services);
        }
    }

    /// Something happened to the host's socket.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        slot: Slot,
        events: EpollFlags,
        hall: &mut Hall,
        services: &mut Services,
    ) {
        let Some(Some(talk)) = self.talks.get_mut(slot) else { return };
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        talk.readable |= events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | over);
        talk.writable |= events.intersects(EpollFlags::EPOLLOUT | over);
        self.service(now, slot, hall, services);
    }

    /// Questions may have an answer now that had none before.
    pub(super) fn go_on(&mut self, now: Instant, hall: &mut Hall, services: &mut Services) {
        for slot in 0..self.talks.len() {
            if self.talks[slot].as_ref().is_some_and(|talk| message(&talk.asked).is_some()) {
                self.service(now, slot, hall, services);
            }
        }
    }

    /// Ends what was silent for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant, hall: &mut Hall) {
        while let Some(slot) = self.flows.poll_expired(now) {
            self.end(now, slot, true, hall);
        }
    }

    fn end(&mut self, now: Instant, slot: Slot, reset: bool, hall: &mut Hall) {
        // One whose handshake goes on is closed when it is accepted.
        if let Some(talk) = self.talks[slot].take().filter(|talk| talk.open) {
            hall.engine.close(now, talk.id, reset);
        }
        self.flows.remove(slot);
    }

    /// Moves what can be moved.
    fn service(&mut self, now: Instant, slot: Slot, hall: &mut Hall, services: &mut Services) {
        let Some(talk) = self.talks[slot].as_mut().filter(|talk| talk.open) else { return };
        self.flows.touch(now, slot);
        let mut lost = false;
        // What is answered at once makes room for what comes next.
        loop {
            let before = talk.amounts();
            talk.take(now, hall);
            talk.ask(now, slot, hall, services);
            lost |= talk.relay(hall).is_none();
            talk.tell();
            talk.give(now, hall);
            if before == talk.amounts() {
                break;
            }
        }
        let status = hall.engine.status(talk.id);
        if status.error.is_some() {
            return self.end(now, slot, true, hall);
        }
        let asked = !talk.waiting.is_empty() || message(&talk.asked).is_some();
        let over = status.receive_finished && status.readable == 0 && !asked;
        if lost && talk.waiting.is_empty() {
            talk.host = None;
        } else if lost {
            // Whoever asked asks somebody else.
            services.next_nameserver(hall);
            return self.end(now, slot, false, hall);
        }
        if over && talk.told.is_empty() {
            let call = SocketCall::Shutdown { how: libc::SHUT_WR };
            let _ = hall.engine.call(now, talk.id, &hall.caller, &call);
            self.end(now, slot, false, hall);
        }
    }
}

/// The first whole message of a buffer.
fn message(buffer: &[u8]) -> Option<&[u8]> {
    let (length, rest) = buffer.split_first_chunk::<LENGTH>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

fn put(buffer: &mut Vec<u8>, message: &[u8]) {
    if let Ok(length) = u16::try_from(message.len()) {
        buffer.extend_from_slice(&length.to_be_bytes());
        buffer.extend_from_slice(message);
    }
}

impl Talk {
    fn amounts(&self) -> [usize; 5] {
        [self.asked.len(), self.to_host.len(), self.heard.len(), self.told.len(), self.waiting.len()]
    }

    /// Takes bytes of the inside.
    fn take(&mut self, now: Instant, hall: &mut Hall) {
        let asked = &mut self.asked;
        hall.engine.receive_with(now, self.id, &mut |piece| {
            let count = piece.len().min(ENOUGH.saturating_sub(asked.len()));
            asked.extend_from_slice(&piece[..count]);
            count
        });
    }

    /// Answers questions, or puts them where they are sent on.
    fn ask(&mut self, now: Instant, slot: Slot, hall: &mut Hall, services: &mut Services) {
        while let Some(question) = message(&self.asked) {
            if self.told.len() > ENOUGH || self.to_host.len() > ENOUGH || self.waiting.len() >= MAX_OPEN {
                return;
            }
            let used = LENGTH + question.len();
            // It has its answer when it is looked at again (`go_on`).
            let Some(known) = services.answer(now, question, hall) else { return };
            let refused =
                || self.server.is_none().then(|| names::answer(question, &Answer::Refused)).flatten();
            if let Some(answer) = known.or_else(refused) {
                put(&mut self.told, &answer);
            } else if let (Some(server), Some(number)) = (self.server, question.first_chunk()) {
                let translated = hall.dns64.then(|| nat64::as_v4(question)).flatten();
                self.waiting.push_back((*number, translated.is_some()));
                put(&mut self.to_host, translated.as_deref().unwrap_or(question));
                if self.host.is_none() {
                    self.connect(server, slot, hall);
                }
            }
            self.asked.drain(..used);
        }
    }

    fn connect(&mut self, server: SocketAddr, slot: Slot, hall: &Hall) {
        let watched =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        (self.readable, self.writable) = (false, false);
        self.heard.clear();
        let connected = host::connect(server, None);
        self.host =
            connected.and_then(|it| hall.watch(&it, Place::Question(slot), watched).map(|()| it)).ok();
    }

    /// To and from the nameserver; `None`: it has gone, or was not there.
    fn relay(&mut self, hall: &mut Hall) -> Option<()> {
        let Some(host) = &self.host else { return self.waiting.is_empty().then_some(()) };
        if self.writable && !self.to_host.is_empty() {
            match rustix::net::send(host, &self.to_host, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.to_host.drain(..count)),
                Err(rustix::io::Errno::AGAIN) => self.writable = false,
                Err(_) => return None,
            }
        }
        while self.readable && self.heard.len() < ENOUGH && self.told.len() <= ENOUGH {
            let room = &mut hall.scratch[..PIECE.min(ENOUGH - self.heard.len())];
            match rustix::net::recv(host, &mut *room, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return None,
                Ok((count, _)) => self.heard.extend_from_slice(&hall.scratch[..count]),
                Err(rustix::io::Errno::AGAIN) => self.readable = false,
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Answers of the nameserver, whole ones, each to a question that was asked.
    fn tell(&mut self) {
        while let Some(answer) = message(&self.heard) {
            if self.told.len() > ENOUGH {
                return;
            }
            let used = LENGTH + answer.len();
            let place = self.waiting.iter().position(|(number, _)| answer.starts_with(number));
            if let Some((_, translated)) = place.and_then(|place| self.waiting.remove(place)) {
                let told = translated.then(|| nat64::as_v6(answer, LONGEST)).flatten();
                put(&mut self.told, told.as_deref().unwrap_or(answer));
            }
            self.heard.drain(..used);
        }
    }

    /// To the inside.
    fn give(&mut self, now: Instant, hall: &mut Hall) {
        let told = &mut self.told;
        hall.engine.send_with(now, self.id, &mut |room| {
            let count = room.len().min(told.len());
            room[..count].copy_from_slice(&told[..count]);
            told.drain(..count);
            count
        });
    }
}
