//! Deadlines of the network layer.
//!
//! # Theory of operation
//! A sorted set of instants beside a table of what is due when. Each thing has at most one deadline, so the set
//! is as small as the tables are, whatever peers do; setting one costs a logarithm, asking for the next nothing.
//! Trees and not hash tables, as peers choose the addresses in it and must not choose collisions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use crate::smol::tables::IfIndex;

/// What may be due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A neighbour's state machine.
    Neighbour(IfIndex, IpAddr),
    /// Duplicate address detection of an address.
    Detection(IfIndex, Ipv6Addr),
    /// A datagram whose fragments do not all come.
    Reassembly(u64),
    /// A change to tell about a group.
    Report(IfIndex, IpAddr),
    /// A query to answer about a group, or about all.
    Answer(IfIndex, IpAddr),
    /// What is known of a destination grows old.
    Exception(IpAddr),
    /// The end of an address's or a route's life.
    Lifetime,
    /// Memory that may be given back.
    Trim,
}

/// The deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<Timer, Instant>,
    queue: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Sets or moves a deadline.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(old) = self.due.insert(timer, at) {
            self.queue.remove(&(old, timer));
        }
        self.queue.insert((at, timer));
    }

    /// Takes a deadline away.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(old) = self.due.remove(&timer) {
            self.queue.remove(&(old, timer));
        }
    }

    /// Is there such a deadline, and when?
    pub(super) fn due(&self, timer: Timer) -> Option<Instant> {
        self.due.get(&timer).copied()
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out what is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.queue.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn each_thing_has_one_deadline() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.set(Timer::Trim, at(5));
        timers.set(Timer::Reassembly(1), at(3));
        timers.set(Timer::Trim, at(2));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop(at(1)), None);
        assert_eq!(timers.pop(at(9)), Some(Timer::Trim));
        assert_eq!(timers.due(Timer::Reassembly(1)), Some(at(3)));
        timers.clear(Timer::Reassembly(1));
        assert_eq!(timers.pop(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
