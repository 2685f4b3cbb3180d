//! TCP: a connection of the inside, and the host's that stands for it.
//!
//! # Theory of operation
//! ```text
//!  SYN ─► knock ─► host connect() ─┬─ done ───────► admit: SYN-ACK … accepted ─► bytes, both ways
//!                                  ├─ refused ────► RST
//!                                  └─ unreachable ► ICMP error
//! ```
//! A connection to a published port ([`super::doors`]) goes the other way: the host has it, and the inside is called. Should
//! that fail, the host's is reset.
//!
//! By a proxy ([`super::way`]) the host connects to that, and is connected when the proxy says so.
//!
//! So the inside hears of its connection what the host heard. Bytes go from the frame that brought them to the
//! host's socket, and from the host's socket into the engine's buffer: one copy each way, and none is kept here.
//! What the host does not take stays in the engine, which closes its window; what the engine does not take stays in
//! the host's socket, which closes its. An end of one side becomes an end of the other; a reset a reset. Urgent
//! data are data like any other.
//!
//! The host's sockets are watched for all at once, edge-triggered: an event sets a flag, EAGAIN clears it.
//!
//! Limits: RFC 5382 (REQ-5: two hours and four minutes for an established connection, four minutes for others).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::flows::{Flows, Slot};
use super::host;
use super::mappings::{Mappings, Port, Sender};
use super::policy::Verdict;
use super::proxy::Handshake;
use super::way::{self, Way};
use super::{Hall, Place};
use crate::smol::call::SocketCall;
use crate::smol::engine::SocketId;
use crate::smol::engine::transparent::Knocked;
use crate::smol::net::Trouble;

/// Connections at once: each takes a descriptor.
pub(super) const MAX_STREAMS: usize = 32_768;
/// How long a connection may take to be established (RFC 5382, REQ-5 b).
const TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// How long an established connection may be silent (RFC 5382, REQ-5 a).
const ESTABLISHED: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Reads or writes of one connection in a row: others wait meanwhile.
const PIECES: usize = 16;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host connects.
    Connecting,
    /// The host is connected; the inside finishes its handshake.
    Admitted,
    /// The host has a connection for a published port; the inside is called.
    Calling,
    /// Bytes may flow.
    Open,
}

/// A connection.
#[derive(Debug)]
struct Stream {
    id: SocketId,
    host: OwnedFd,
    /// Whose port of the host it has.
    sender: Option<Sender>,
    phase: Phase,
    /// What is still to be said to a proxy.
    handshake: Option<Box<Handshake>>,
    /// The host's socket may have something.
    readable: bool,
    /// It may take something.
    writable: bool,
    /// The far end may have said everything, or have gone: that is read, too.
    ending: bool,
    /// The far end has said everything.
    host_finished: bool,
    /// The engine knows.
    inside_told: bool,
    /// The far end knows that the inside has said everything.
    host_told: bool,
}

/// Those of a gateway.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) flows: Flows<SocketId>,
    streams: Vec<Option<Stream>>,
    mappings: Mappings,
}

/// Counts of what became of connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) refused: u64,
    pub(super) prohibited: u64,
    pub(super) evicted: u64,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { flows: Flows::new(MAX_STREAMS), streams: Vec::new(), mappings: Mappings::default() }
    }

    /// The inside asks for a connection.
    pub(super) fn knock(&mut self, now: Instant, knocked: Knocked, hall: &mut Hall, counts: &mut Counts) {
        let Some((inside, to)) = hall.engine.ends(knocked.1) else { return };
        let outcome = match hall.policy.judge(to) {
            Verdict::Host(to) => self.connect(now, inside, to, knocked.1, hall, counts),
            Verdict::Own => Err(Errno::ECONNREFUSED),
            Verdict::Prohibited => {
                counts.prohibited += 1;
                Err(Errno::EACCES)
            }
            Verdict::Unreachable => Err(Errno::ENETUNREACH),
        };
        if let Err(errno) = outcome {
            counts.refused += 1;
            turn_away(now, knocked, errno, hall);
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        inside: SocketAddr,
        to: SocketAddr,
        id: SocketId,
        hall: &mut Hall,
        counts: &mut Counts,
    ) -> Result<(), Errno> {
        if let Some(slot) = self.flows.crowded() {
            counts.evicted += 1;
            self.end(now, slot, true, hall);
        }
        // The host's own loopback is no proxy's.
        let proxied = hall.way.as_mut().filter(|_| !to.ip().is_loopback());
        if let Some(way) = proxied {
            let (handshake, host) = (Box::new(way.connect(to)?), host::connect(way.at, None)?);
            return self
                .add(now, (id, inside.ip()), (host, Some(handshake)), Phase::Connecting, hall)
                .map(drop);
        }
        let sender = (inside, to.is_ipv4());
        let host = host::connect(to, self.shared_port(&sender))?;
        let slot = self.add(now, (id, inside.ip()), (host, None), Phase::Connecting, hall)?;
        self.mappings.add(sender, slot);
        if let Some(stream) = &mut self.streams[slot] {
            stream.sender = Some(sender);
        }
        Ok(())
    }

    /// The port of the host that other connections of the same port of the inside have.
    fn shared_port(&mut self, sender: &Sender) -> Option<u16> {
        match self.mappings.port(sender)? {
            Port::Known(port) => Some(port),
            Port::Of(slot) => {
                let port = host::share_port(&self.streams[slot].as_ref()?.host)?;
                self.mappings.learn(sender, port);
                Some(port)
            }
        }
    }

    /// The host has a connection, for which the inside is called.
    pub(super) fn call(
        &mut self,
        now: Instant,
        (id, inside): (SocketId, IpAddr),
        host: OwnedFd,
        hall: &mut Hall,
        counts: &mut Counts,
    ) {
        if let Some(slot) = self.flows.crowded() {
            counts.evicted += 1;
            self.end(now, slot, true, hall);
        }
        if self.add(now, (id, inside), (host, None), Phase::Calling, hall).is_err() {
            hall.engine.close(now, id, true);
        }
    }

    fn add(
        &mut self,
        now: Instant,
        (id, inside): (SocketId, IpAddr),
        (host, handshake): (OwnedFd, Option<Box<Handshake>>),
        phase: Phase,
        hall: &mut Hall,
    ) -> Result<Slot, Errno> {
        let slot = self.flows.insert(now, id, inside, TRANSITORY);
        let watched =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if let Err(errno) = hall.watch(&host, Place::Stream(slot), watched) {
            self.flows.remove(slot);
            return Err(errno);
        }
        if self.streams.len() <= slot {
            self.streams.resize_with(slot + 1, || None);
        }
        self.streams[slot] = Some(Stream {
            id,
            host,
            sender: None,
            phase,
            handshake,
            readable: false,
            writable: false,
            ending: false,
            host_finished: false,
            inside_told: false,
            host_told: false,
        });
        Ok(slot)
    }

    /// Something happened to the host's socket.
    pub(super) fn handle_event(
        &mut self,
        now: Instant,
        slot: Slot,
        events: EpollFlags,
        hall: &mut Hall,
        counts: &mut Counts,
    ) {
        let Some(Some(stream)) = self.streams.get_mut(slot) else { return };
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        stream.readable |= events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | over);
        stream.ending |= events.intersects(EpollFlags::EPOLLRDHUP | over);
        stream.writable |= events.intersects(EpollFlags::EPOLLOUT | over);
        if stream.phase == Phase::Connecting {
            match stream.connected(events) {
                None => {}
                Some(Ok(())) => {
                    stream.phase = Phase::Admitted;
                    counts.opened += 1;
                    if !hall.engine.admit(stream.id) {
                        self.forget(slot);
                    }
                }
                Some(Err(errno)) => {
                    counts.refused += 1;
                    let knocked = (hall.listener, stream.id);
                    self.forget(slot);
                    turn_away(now, knocked, errno, hall);
                }
            }
            return;
        }
        if stream.phase == Phase::Calling && events.intersects(over) {
            return self.end(now, slot, true, hall);
        }
        self.service(now, slot, hall);
    }

    /// The engine has something to say about a connection.
    pub(super) fn handle_dirty(&mut self, now: Instant, id: SocketId, hall: &mut Hall) {
        if let Some(slot) = self.flows.find(&id) {
            self.service(now, slot, hall);
        }
    }

    /// The inside has finished its handshake.
    pub(super) fn accept(&mut self, now: Instant, id: SocketId, hall: &mut Hall) {
        let slot = self.flows.find(&id);
        let Some((slot, Some(stream))) = slot.map(|slot| (slot, self.streams[slot].as_mut())) else {
            hall.engine.close(now, id, true);
            return;
        };
        stream.phase = Phase::Open;
        self.flows.set_lifetime(now, slot, ESTABLISHED);
        self.service(now, slot, hall);
    }

    /// Bytes of the inside, still in their frame; how many the host took.
    pub(super) fn hand_over(&mut self, now: Instant, id: SocketId, bytes: &[u8]) -> usize {
        let Some(slot) = self.flows.find(&id) else { return 0 };
        let Some(stream) = self.streams[slot].as_mut().filter(|stream| stream.phase == Phase::Open) else {
            return 0;
        };
        self.flows.touch(now, slot);
        stream.give(bytes)
    }

    /// Ends what was silent for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant, hall: &mut Hall) {
        while let Some(slot) = self.flows.poll_expired(now) {
            self.end(now, slot, true, hall);
        }
    }

    /// Moves what can be moved.
    fn service(&mut self, now: Instant, slot: Slot, hall: &mut Hall) {
        let Some(Some(stream)) = self.streams.get_mut(slot) else { return };
        let (id, engine) = (stream.id, &mut hall.engine);
        if stream.phase == Phase::Calling {
            let status = engine.status(id);
            if status.error.is_some() {
                return self.end(now, slot, true, hall);
            }
            if status.connecting || !status.connected {
                return;
            }
            stream.phase = Phase::Open;
            self.flows.set_lifetime(now, slot, ESTABLISHED);
        }
        if stream.phase != Phase::Open {
            return;
        }
        self.flows.touch(now, slot);
        let status = engine.status(id);
        if status.readable > 0 && stream.writable {
            engine.receive_with(now, id, &mut |piece| stream.give(piece));
        }
        let mut broken = false;
        if stream.readable && status.room > 0 && !stream.host_finished {
            let mut pieces = 0;
            engine.send_with(now, id, &mut |room| {
                pieces += 1;
                if pieces > PIECES { 0 } else { stream.take(room, &mut broken) }
            });
        }
        let status = engine.status(id);
        if broken || status.error.is_some() {
            return self.end(now, slot, true, hall);
        }
        if status.receive_finished && status.readable == 0 && !stream.host_told {
            stream.host_told = true;
            // If both have said everything, closing it says so, too.
            if !stream.host_finished {
                // One that is not connected any more says so when it is read.
                let _ = rustix::net::shutdown(&stream.host, Shutdown::Write);
            }
        }
        if stream.host_finished && !stream.inside_told {
            stream.inside_told = true;
            let _ = engine.call(now, id, &hall.caller, &SocketCall::Shutdown { how: libc::SHUT_WR });
        }
        if stream.host_told && stream.inside_told {
            self.end(now, slot, false, hall);
        }
    }

    /// It is over for both, in order or by a reset.
    fn end(&mut self, now: Instant, slot: Slot, reset: bool, hall: &mut Hall) {
        let Some(Some(stream)) = self.streams.get_mut(slot) else { return self.flows.remove(slot) };
        match stream.phase {
            Phase::Connecting => hall.engine.turn_away(now, hall.listener, stream.id),
            // Nobody has it yet: its handshake ends by itself, or it is closed when it is accepted.
            Phase::Admitted => {}
            Phase::Calling | Phase::Open => hall.engine.close(now, stream.id, reset),
        }
        if reset {
            host::reset_at_close(&stream.host);
        }
        self.forget(slot);
    }

    fn forget(&mut self, slot: Slot) {
        if let Some(sender) = self.streams[slot].take().and_then(|stream| stream.sender) {
            self.mappings.remove(&sender);
        }
        self.flows.remove(slot);
    }
}

impl Stream {
    /// Whether the far end is reached, after these events; `None`: not yet.
    fn connected(&mut self, events: EpollFlags) -> Option<Result<(), Errno>> {
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let error = events.intersects(over).then(|| host::take_error(&self.host)).flatten();
        match (&mut self.handshake, error) {
            (None, Some(errno)) => Some(Err(errno)),
            (None, None) => (self.writable).then_some(Ok(())),
            (Some(_), Some(errno)) => Some(Err(Way::lost(errno))),
            (Some(handshake), None) => {
                let outcome = way::negotiate(&self.host, handshake, self.ending)?;
                self.handshake = None;
                // Whatever came behind the proxy's last word was said already.
                (self.readable, self.writable) = (true, true);
                Some(outcome.map(drop))
            }
        }
    }

    /// To the host, as much as it takes.
    fn give(&mut self, bytes: &[u8]) -> usize {
        if !self.writable {
            return 0;
        }
        match rustix::net::send(&self.host, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => {
                self.writable = count == bytes.len();
                count
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.writable = false;
                0
            }
            // The far end has gone, which reading says in full.
            Err(_) => {
                self.readable = true;
                bytes.len()
            }
        }
    }

    /// From the host, as much as there is.
    fn take(&mut self, room: &mut [u8], broken: &mut bool) -> usize {
        if !self.readable || self.host_finished {
            return 0;
        }
        match rustix::net::recv(&self.host, &mut *room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.host_finished = true;
                0
            }
            Ok((count, _)) => {
                // There was no more; what comes now is an event (epoll(7), question 9).
                self.readable = count == room.len() || self.ending;
                count
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.readable = false;
                0
            }
            Err(_) => {
                *broken = true;
                0
            }
        }
    }
}

/// Tells the inside why there is no connection.
fn turn_away(now: Instant, knocked: Knocked, errno: Errno, hall: &mut Hall) {
    match trouble(errno) {
        Some(trouble) => hall.engine.turn_away_with(now, knocked, trouble),
        None => hall.engine.turn_away(now, knocked.0, knocked.1),
    }
}

/// What a router would say to whoever gets this errno from the host; `None`: a reset says it.
pub(super) fn trouble(errno: Errno) -> Option<Trouble> {
    Some(match errno {
        Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::ENETDOWN => Trouble::Network,
        Errno::EHOSTUNREACH | Errno::ETIMEDOUT | Errno::EHOSTDOWN => Trouble::Host,
        Errno::EACCES | Errno::EPERM => Trouble::Prohibited,
        _ => return None,
    })
}
