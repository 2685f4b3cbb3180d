//! UDP by a proxy: one association of SOCKS for each address and port of the inside (RFC 1928 section 7).
//!
//! # Theory of operation
//! ```text
//!  datagram ─► waits ─── control connection: handshake ─┬─ relay ──► head + datagram ─► proxy
//!                                                       └─ refused ► ICMP error
//! ```
//! An association is a connection to the proxy, which lives as long as it does, and a socket that is connected with the
//! proxy's relay. Few datagrams wait while it is made. Whoever is sent to by name answers from an address that nobody
//! here has asked for, so each name that an inside port sends to has an association of its own, and what comes by that
//! comes from the name; all others share one. One that was refused is remembered for a moment, so that a program
//! which goes on sending does not ask the proxy each time.
//!
//! Limits: RFC 4787 REQ-5, as without a proxy.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::flows::{Flows, Slot};
use super::proxy::{Handshake, Head, Host, MAX_HEAD};
use super::quote::{QUOTED, quote, udp};
use super::standins::StandIns;
use super::streams::trouble;
use super::way::{self, Way};
use super::{Hall, Place, host};
use crate::smol::net::{Packet, Trouble};

/// Associations at once: each takes two descriptors, and a connection of the proxy's.
pub(super) const MAX_ASSOCIATIONS: usize = 4096;
/// Datagrams that wait for one: what a program sends before it waits for an answer.
const MAX_WAITING: usize = 16;
/// Datagrams taken from one socket before others have their turn.
const TURN: usize = 32;
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long the proxy's refusal holds.
const REFUSED: Duration = Duration::from_secs(1);

/// Which inside address and port, and which stand-in, if it is for one.
type Key = (SocketAddr, Option<IpAddr>);

#[derive(Debug)]
enum State {
    /// The proxy is asked; these wait.
    Asking(Handshake, VecDeque<(SocketAddr, Vec<u8>)>),
    /// Datagrams go by this socket.
    Open(OwnedFd),
    /// The proxy does not.
    Refused(Trouble),
}

#[derive(Debug)]
struct Association {
    key: Key,
    control: OwnedFd,
    state: State,
    /// There may be more to take.
    ready: bool,
}

/// Those of a gateway.
#[derive(Debug)]
pub(super) struct Associations {
    pub(super) flows: Flows<Key>,
    list: Vec<Option<Association>>,
    /// Those that are ready.
    turn: VecDeque<Slot>,
    /// Datagrams that neither the host's kernel took nor the queue.
    pub(super) unsent: u64,
    pub(super) evicted: u64,
}

impl Associations {
    pub(super) fn new() -> Self {
        Self {
            flows: Flows::new(MAX_ASSOCIATIONS),
            list: Vec::new(),
            turn: VecDeque::new(),
            unsent: 0,
            evicted: 0,
        }
    }

    /// A datagram, or a train of them, of the inside.
    ///
    /// # Errors
    /// What its sender is to hear.
    pub(super) fn send(
        &mut self,
        now: Instant,
        inside: SocketAddr,
        to: SocketAddr,
        packet: &Packet<'_>,
        data: &[u8],
        hall: &mut Hall,
    ) -> Result<(), Trouble> {
        if packet.ttl <= 1 {
            return Err(Trouble::Hops);
        }
        let key = (inside, Some(to.ip()).filter(|address| StandIns::is_one(*address)));
        let slot = match self.flows.find(&key) {
            Some(slot) => slot,
            None => self.open(now, key, hall).map_err(|e| trouble(e).unwrap_or(Trouble::Network))?,
        };
        let Some(Some(association)) = self.list.get_mut(slot) else { return Ok(()) };
        if let State::Refused(why) = association.state {
            return Err(why);
        }
        self.flows.touch(now, slot);
        let size = if packet.gso_size == 0 { data.len().max(1) } else { usize::from(packet.gso_size) };
        // An empty one is one, too.
        let mut rest = Some(data);
        while let Some(data) = rest {
            let (piece, more) = data.split_at(size.min(data.len()));
            rest = (!more.is_empty()).then_some(more);
            association.pass(to, piece, hall, &mut self.unsent)?;
        }
        Ok(())
    }

    fn open(&mut self, now: Instant, key: Key, hall: &mut Hall) -> Result<Slot, Errno> {
        let Some(way) = &mut hall.way else { return Err(Errno::ENETUNREACH) };
        // Of a name that nobody knows the proxy is not asked.
        key.1.map_or(Ok(()), |stand_in| way::host(&mut way.names, stand_in).map(drop))?;
        let inside = key.0.ip();
        if !hall.policy.is_inside(inside) {
            return Err(Errno::EACCES);
        }
        let handshake = way.associate()?;
        let control = host::connect(way.at, None).map_err(Way::lost)?;
        if let Some(slot) = self.flows.crowded() {
            self.evicted += 1;
            self.forget(slot);
        }
        let slot = self.flows.insert(now, key, inside, LIFETIME);
        let watched =
            EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        if let Err(errno) = hall.watch(&control, Place::Association(slot), watched) {
            self.flows.remove(slot);
            return Err(errno);
        }
        if self.list.len() <= slot {
            self.list.resize_with(slot + 1, || None);
        }
        let state = State::Asking(handshake, VecDeque::new());
        self.list[slot] = Some(Association { key, control, state, ready: false });
        Ok(slot)
    }

    /// Something happened to a connection with the proxy.
    pub(super) fn handle_event(&mut self, now: Instant, slot: Slot, events: EpollFlags, hall: &mut Hall) {
        let Some(Some(association)) = self.list.get_mut(slot) else { return };
        let over = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        let ending = events.intersects(EpollFlags::EPOLLRDHUP | over);
        let State::Asking(handshake, waiting) = &mut association.state else {
            // It lives as long as its connection (RFC 1928 section 6).
            if ending && matches!(association.state, State::Open(_)) {
                self.forget(slot);
            }
            return;
        };
        let error = events.intersects(over).then(|| host::take_error(&association.control)).flatten();
        let outcome = match error {
            Some(errno) => Err(Way::lost(errno)),
            None => match way::negotiate(&association.control, handshake, ending) {
                // It has ended already.
                Some(Ok(_)) if ending => Err(Errno::ECONNRESET),
                Some(outcome) => outcome,
                None => return,
            },
        };
        let waiting = std::mem::take(waiting);
        let opened = outcome.and_then(|port| {
            let way = hall.way.as_ref().ok_or(Errno::ENETUNREACH)?;
            let relay = host::relay_socket(SocketAddr::new(way.at.ip(), port))?;
            hall.watch(&relay, Place::Relay(slot), EpollFlags::EPOLLIN | EpollFlags::EPOLLET).map(|()| relay)
        });
        match opened {
            Ok(relay) => {
                association.state = State::Open(relay);
                for (to, data) in waiting {
                    // Lost, as on any way.
                    let _ = association.pass(to, &data, hall, &mut self.unsent);
                }
            }
            Err(errno) => {
                let why = trouble(errno).unwrap_or(Trouble::Prohibited);
                association.state = State::Refused(why);
                self.flows.set_lifetime(now, slot, REFUSED);
                let v4 = association.key.0.is_ipv4();
                for (to, data) in waiting {
                    let Some(to) = hall.policy.name(to, v4) else { continue };
                    let from = association.key.0;
                    let bytes = udp(from.port(), to.port(), &data[..data.len().min(QUOTED)]);
                    let (ends, protocol) = ((from.ip(), to.ip()), libc::IPPROTO_UDP as u8);
                    let packet = quote(hall.link, ends, protocol, bytes);
                    hall.engine.tell(now, &packet, why, None);
                }
            }
        }
    }

    /// Datagrams came.
    pub(super) fn handle_datagrams(&mut self, slot: Slot) {
        if let Some(Some(association)) = self.list.get_mut(slot)
            && !association.ready
        {
            association.ready = true;
            self.turn.push_back(slot);
        }
    }

    /// Takes what has come; true: there may be more.
    pub(super) fn run(&mut self, now: Instant, hall: &mut Hall) -> bool {
        for _ in 0..self.turn.len() {
            let Some(slot) = self.turn.pop_front() else { break };
            let Some(Some(association)) = self.list.get_mut(slot) else { continue };
            association.ready = association.receive(now, hall);
            if association.ready {
                self.turn.push_back(slot);
            }
            self.flows.touch(now, slot);
        }
        !self.turn.is_empty()
    }

    /// Ends what was silent for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(slot) = self.flows.poll_expired(now) {
            self.forget(slot);
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.list[slot] = None;
        self.flows.remove(slot);
    }
}

impl Association {
    /// To the proxy, or to those that wait.
    fn pass(
        &mut self,
        to: SocketAddr,
        data: &[u8],
        hall: &mut Hall,
        unsent: &mut u64,
    ) -> Result<(), Trouble> {
        let relay = match &mut self.state {
            State::Asking(_, waiting) => {
                match waiting.len() < MAX_WAITING {
                    true => waiting.push_back((to, data.to_vec())),
                    false => *unsent += 1,
                }
                return Ok(());
            }
            State::Refused(why) => return Err(*why),
            State::Open(relay) => relay,
        };
        let Some(way) = &mut hall.way else { return Err(Trouble::Network) };
        let whom = way::host(&mut way.names, to.ip()).map_err(|_| Trouble::Host)?;
        let mut head = [0; MAX_HEAD];
        let length = Head { host: whom, port: to.port() }.write(&mut head);
        // An error of an earlier datagram stands before this one.
        let sent =
            host::pass(relay, &head[..length], data).or_else(|_| host::pass(relay, &head[..length], data));
        *unsent += u64::from(sent.is_err());
        Ok(())
    }

    /// Takes what has come; true: there may be more.
    fn receive(&mut self, now: Instant, hall: &mut Hall) -> bool {
        let State::Open(relay) = &self.state else { return false };
        let (inside, named) = self.key;
        for _ in 0..TURN {
            let length = match host::receive(relay, &mut hall.scratch) {
                Ok(got) => got.length,
                // An error of a datagram that was sent: the relay has gone, which its connection says, too.
                Err(errno) if errno != Errno::EAGAIN => continue,
                Err(_) => return false,
            };
            let Some((head, at)) = Head::read(&hall.scratch[..length]) else { continue };
            let from = match (head.host, named) {
                (_, Some(stand_in)) => Some(SocketAddr::new(stand_in, head.port)),
                (Host::Address(address), None) => {
                    hall.policy.name(SocketAddr::new(address, head.port), inside.is_ipv4())
                }
                (Host::Name(_), None) => None,
            };
            let Some(from) = from else { continue };
            // No room: as lost as on any way.
            let _ = hall.engine.send_as(now, (from, inside), None, &hall.scratch[at..length], 0);
        }
        true
    }
}
