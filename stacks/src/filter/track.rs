//! Which connections there are: what makes a filter stateful. A core.
//!
//! # Theory of operation
//! A flow is entered by the first packet of a kind that may begin one, under its own [`Tuple`] and under the one
//! that answers will have; translation changes the latter. Each later packet finds it under either, which says
//! in which direction it goes. How long a flow lives without packets depends on what was seen of it, as in Linux
//! (nf_conntrack-sysctl(7)). TCP's sequence numbers are not judged, as the stacks at the ends do that; but a reset
//! counts only if it is exactly where its receiver expects the next byte, so that a forged one ends nothing.
//!
//! Nothing is done by the clock: a flow whose time is over is none to whoever finds it, and each new flow lets a
//! hand go over the next few places and clear them. In a full table a new flow takes the place of one of the
//! [`LOOKED_AT`] next: one that was never answered, else one of whom has most; but never one of whom has fewer
//! than the newcomer. So who opens flows without end displaces its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::{Message, TCP, Tuple, UDP, UDP_LITE, View};
use super::rule::State;
use crate::smol::sockets::keyed::Key;

/// Flows of one stack, at most: some twenty megabytes (nf_conntrack_max is of that order on small machines).
pub const MAX_FLOWS: usize = 65_536;
/// Places that are looked at for one to take.
const LOOKED_AT: usize = 16;
/// Places that are cleared if their time is over, with each new flow.
const SWEPT: usize = 2;

/// What is known of a packet's flow: goes with the packet through the hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// Where the flow is, if the packet belongs to one.
    place: Option<(u32, u32)>,
    /// It goes the way of answers.
    pub(super) reply: bool,
    /// How it stands to the flow.
    pub state: State,
    /// It has begun the flow.
    pub(super) fresh: bool,
}

impl Tracked {
    const fn nothing(state: State) -> Self {
        Self { place: None, reply: false, state, fresh: false }
    }
}

/// What was seen of a TCP connection (RFC 9293).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A SYN.
    Begun,
    /// Its answer.
    Answered,
    /// The answer to that, or a connection that was there before us.
    Open,
    /// A FIN.
    Closing,
    /// Both FINs.
    Closed,
    /// A reset.
    Reset,
}

impl Phase {
    /// Linux's nf_conntrack_tcp_timeout_*.
    fn lifetime(self) -> Duration {
        Duration::from_secs(match self {
            Self::Begun | Self::Closing | Self::Closed => 120,
            Self::Answered => 60,
            Self::Open => 432_000,
            Self::Reset => 10,
        })
    }
}

/// nf_conntrack_udp_timeout, nf_conntrack_icmp_timeout
const SHORT: Duration = Duration::from_secs(30);
/// nf_conntrack_udp_timeout_stream
const STREAM: Duration = Duration::from_secs(120);
/// nf_conntrack_generic_timeout
const GENERIC: Duration = Duration::from_secs(600);

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    serial: u32,
    /// As it began, and as answers come.
    pub(super) tuples: [Tuple; 2],
    /// Somebody has answered.
    answered: bool,
    phase: Phase,
    /// Who has said FIN.
    fins: [bool; 2],
    /// What each side expects next of the other, if it has said so.
    expected: [Option<u32>; 2],
    until: Instant,
    /// The rules were asked whether to replace the receiver, the sender.
    pub(super) asked: [bool; 2],
    /// Its receiver, its sender was replaced.
    pub(super) replaced: [bool; 2],
}

/// The connections.
#[derive(Debug)]
pub(super) struct Table {
    limit: usize,
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    keys: HashMap<Tuple, (u32, bool), Key>,
    owners: HashMap<IpAddr, u32, Key>,
    hand: usize,
    serial: u32,
}

impl Table {
    pub(super) fn new(limit: usize, key: Key) -> Self {
        let (keys, owners) = (HashMap::with_hasher(key), HashMap::with_hasher(key));
        Self { limit, flows: Vec::new(), free: Vec::new(), keys, owners, hand: 0, serial: 0 }
    }

    /// How many there are, those whose time is over included.
    pub(super) fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// About how many bytes they take.
    pub(super) fn memory(&self) -> usize {
        let key = size_of::<(Tuple, (u32, bool))>();
        self.flows.capacity() * size_of::<Option<Flow>>() + self.keys.capacity() * key
    }

    /// The flow of a packet.
    pub(super) fn flow(&mut self, tracked: &Tracked) -> Option<&mut Flow> {
        let (slot, serial) = tracked.place?;
        self.flows[slot as usize].as_mut().filter(|flow| flow.serial == serial)
    }

    /// Finds a packet's flow, or begins one. `None`: there is no room for it.
    pub(super) fn track(&mut self, now: Instant, view: &View<'_>) -> Option<Tracked> {
        let message = view.message();
        let Some(tuple) = view.tuple() else { return Some(Tracked::nothing(State::Invalid)) };
        match message {
            Message::Error => return Some(self.relate(now, view)),
            Message::Local => return Some(Tracked::nothing(State::Untracked)),
            _ => {}
        }
        if let Some((slot, reply)) = self.find(now, &tuple) {
            match self.advance(now, slot, reply, view) {
                Advance::Goes(state) => {
                    let serial = self.flows[slot as usize].as_ref().map_or(0, |flow| flow.serial);
                    return Some(Tracked { place: Some((slot, serial)), reply, state, fresh: false });
                }
                Advance::Nonsense => return Some(Tracked::nothing(State::Invalid)),
                // A connection of the same ends after one that is over.
                Advance::Anew => self.remove(slot),
            }
        }
        let Some(phase) = beginning(view, message) else {
            return Some(Tracked::nothing(State::Invalid));
        };
        self.insert(now, tuple, phase)
    }

    /// An error belongs to the flow of the packet that it quotes, and goes against that.
    fn relate(&mut self, now: Instant, view: &View<'_>) -> Tracked {
        let quoted = view.quoted().filter(|quoted| quoted.message() != Message::Error);
        let found =
            quoted.and_then(|quoted| quoted.tuple()).and_then(|tuple| self.find(now, &tuple.inverse()));
        let Some((slot, reply)) = found else { return Tracked::nothing(State::Invalid) };
        let serial = self.flows[slot as usize].as_ref().map_or(0, |flow| flow.serial);
        Tracked { place: Some((slot, serial)), reply, state: State::Related, fresh: false }
    }

    fn find(&mut self, now: Instant, tuple: &Tuple) -> Option<(u32, bool)> {
        let (slot, reply) = *self.keys.get(tuple)?;
        if self.flows[slot as usize].as_ref().is_some_and(|flow| flow.until > now) {
            return Some((slot, reply));
        }
        self.remove(slot);
        None
    }

    /// What a packet does to its flow.
    fn advance(&mut self, now: Instant, slot: u32, reply: bool, view: &View<'_>) -> Advance {
        let Some(flow) = self.flows[slot as usize].as_mut() else { return Advance::Nonsense };
        let lifetime = match view.protocol {
            TCP => match flow.advance_tcp(reply, view) {
                Advance::Goes(_) => flow.phase.lifetime(),
                other => return other,
            },
            UDP | UDP_LITE if reply || flow.answered => STREAM,
            UDP | UDP_LITE => SHORT,
            _ if view.kind().is_some() => SHORT,
            _ => GENERIC,
        };
        flow.answered |= reply;
        flow.until = now + lifetime;
        Advance::Goes(if flow.answered { State::Established } else { State::New })
    }

    fn insert(&mut self, now: Instant, tuple: Tuple, phase: Phase) -> Option<Tracked> {
        self.sweep(now);
        if self.len() >= self.limit && !self.make_room(now, tuple.source) {
            return None;
        }
        self.serial = self.serial.wrapping_add(1);
        let (serial, answer) = (self.serial, tuple.inverse());
        let lifetime = match tuple.protocol {
            TCP => phase.lifetime(),
            super::packet::ICMP | super::packet::ICMPV6 | UDP | UDP_LITE => SHORT,
            _ => GENERIC,
        };
        let flow = Flow {
            serial,
            tuples: [tuple, answer],
            answered: false,
            phase,
            fins: [false; 2],
            expected: [None; 2],
            until: now + lifetime,
            asked: [false; 2],
            replaced: [false; 2],
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() as u32 - 1
        });
        self.flows[slot as usize] = Some(flow);
        *self.owners.entry(tuple.source).or_default() += 1;
        self.keys.insert(tuple, (slot, false));
        self.keys.entry(answer).or_insert((slot, true));
        Some(Tracked { place: Some((slot, serial)), reply: false, state: State::New, fresh: true })
    }

    /// Would answers that look so go to this flow and to no other?
    pub(super) fn is_free(&self, tracked: &Tracked, answer: &Tuple) -> bool {
        let place = tracked.place.map(|(slot, _)| (slot, true));
        self.keys.get(answer).is_none_or(|found| Some(*found) == place)
    }

    /// Answers to a flow will look so. If those of another do already, they are its: a sender of its own makes the
    /// difference later.
    pub(super) fn set_answer(&mut self, tracked: &Tracked, answer: Tuple) {
        let (Some((slot, _)), Some(flow)) = (tracked.place, self.flow(tracked)) else { return };
        let old = std::mem::replace(&mut flow.tuples[1], answer);
        if self.keys.get(&old) == Some(&(slot, true)) {
            self.keys.remove(&old);
        }
        self.keys.entry(answer).or_insert((slot, true));
    }

    /// Forgets the flow of a packet.
    pub(super) fn forget(&mut self, tracked: &Tracked) {
        if let (Some((slot, _)), true) = (tracked.place, self.flow(tracked).is_some()) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        let Some(flow) = self.flows[slot as usize].take() else { return };
        self.free.push(slot);
        for (tuple, reply) in flow.tuples.iter().zip([false, true]) {
            if self.keys.get(tuple) == Some(&(slot, reply)) {
                self.keys.remove(tuple);
            }
        }
        let owner = flow.tuples[0].source;
        match self.owners.get_mut(&owner) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.owners.remove(&owner);
            }
        }
    }

    /// The next places.
    fn advance_hand(&mut self) -> Option<u32> {
        self.hand = if self.hand + 1 < self.flows.len() { self.hand + 1 } else { 0 };
        (!self.flows.is_empty()).then_some(self.hand as u32)
    }

    fn is_over(&self, now: Instant, slot: u32) -> bool {
        self.flows[slot as usize].as_ref().is_some_and(|flow| flow.until <= now)
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEPT {
            if let Some(slot) = self.advance_hand().filter(|slot| self.is_over(now, *slot)) {
                self.remove(slot);
            }
        }
    }

    fn make_room(&mut self, now: Instant, newcomer: IpAddr) -> bool {
        let count = |owners: &HashMap<_, u32, _>, of: &IpAddr| owners.get(of).copied().unwrap_or(0);
        let own = count(&self.owners, &newcomer);
        let mut worst: Option<(bool, u32, u32)> = None;
        for _ in 0..LOOKED_AT {
            let Some(slot) = self.advance_hand() else { break };
            let Some(flow) = self.flows[slot as usize].as_ref() else { continue };
            if flow.until <= now {
                self.remove(slot);
                return true;
            }
            let owner = &flow.tuples[0].source;
            let has = count(&self.owners, owner);
            let may = has > own || owner == &newcomer || !flow.answered && has == own;
            worst = worst.max(may.then_some((!flow.answered, has, slot)));
        }
        let Some((_, _, slot)) = worst else { return false };
        self.remove(slot);
        true
    }
}

/// What a packet means to a flow that is there.
enum Advance {
    Goes(State),
    Nonsense,
    Anew,
}

/// TCP's flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Flags, sequence number and acknowledgement.
fn tcp_header(view: &View<'_>) -> Option<(u8, u32, u32)> {
    let bytes = view.upper.first_chunk::<20>()?;
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some((bytes[13], word(4), word(8)))
}

/// What a flow is that this packet begins; `None`: it may not.
fn beginning(view: &View<'_>, message: Message) -> Option<Phase> {
    if view.protocol != TCP {
        let asks = view.kind().is_none() || matches!(message, Message::Question | Message::Other);
        return asks.then_some(Phase::Begun);
    }
    let (flags, ..) = tcp_header(view)?;
    match flags & (SYN | ACK | FIN | RST) {
        SYN => Some(Phase::Begun),
        // A connection that was there before us (nf_conntrack_tcp_loose).
        ACK => Some(Phase::Open),
        _ => None,
    }
}

impl Flow {
    fn advance_tcp(&mut self, reply: bool, view: &View<'_>) -> Advance {
        let Some((flags, sequence, acknowledged)) = tcp_header(view) else { return Advance::Nonsense };
        let side = usize::from(reply);
        let over = matches!(self.phase, Phase::Closed | Phase::Reset);
        match flags & (SYN | ACK | FIN | RST) {
            SYN if over => return Advance::Anew,
            // No connection begins from both sides but by chance (RFC 9293 clause 3.5): it is the second half.
            SYN if reply && self.phase == Phase::Begun => self.phase = Phase::Answered,
            SYN => {}
            flags if flags & RST != 0 => {
                let expected = self.expected[1 - side];
                if self.phase == Phase::Begun || expected.is_none_or(|expected| expected == sequence) {
                    self.phase = Phase::Reset;
                }
            }
            flags if flags == SYN | ACK => {
                if reply && self.phase == Phase::Begun {
                    self.phase = Phase::Answered;
                } else if !reply && self.phase == Phase::Begun {
                    return Advance::Nonsense;
                }
            }
            flags => {
                if flags & ACK == 0 {
                    return Advance::Nonsense;
                }
                // The handshake's end, or the first we hear of a connection's other side.
                if self.phase == Phase::Answered && !reply {
                    self.phase = Phase::Open;
                } else if self.phase == Phase::Begun {
                    return Advance::Nonsense;
                }
                if flags & FIN != 0 && !over {
                    self.fins[side] = true;
                    self.phase = if self.fins[1 - side] { Phase::Closed } else { Phase::Closing };
                }
            }
        }
        if flags & (ACK | RST) == ACK {
            self.expected[side] = Some(acknowledged);
        }
        Advance::Goes(State::Established)
    }
}

#[cfg(test)]
mod tests;
