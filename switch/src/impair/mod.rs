//! Links that misbehave on purpose: late, lossy, slow, narrow.
//!
//! # Theory of operation
//! A [`Channel`] is one direction of a link. [`Channel::handle_packet`] decides a packet's fate and keeps what is to
//! arrive; [`Channel::poll_packet`] gives what is due; [`Channel::poll_timeout`] says when. It reads no clock, and
//! its chance is a generator whose seed it is given: the fate of the n-th packet depends on the seed, on n and on
//! what was set, not on the time. So the same packets meet the same fate again, but for what time itself does: a
//! queue that is full, a chain ([`Spec`]) that has another state by then. The chain has a generator of its own, so
//! that its course depends on the time alone.
//!
//! A packet is first tried for loss, then for room (capacity, MTU), then waits its turn at the rate, then takes its
//! delay. Packets keep their order, however the delay varies; only those that `reorder` picks overtake. What is
//! in flight when the settings change arrives as it would have.
//!
//! A packet is a plain Ethernet frame: super-segments are cut and checksums filled before (`crate::offload`), so that
//! loss is of packets, as on a wire, and a changed bit is not covered by a checksum made afterwards.
//!
//! Read: tc-netem(8), wirefilter(1).

pub mod spec;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use oorandom::Rand32;
use serde::{Deserialize, Serialize};

pub use spec::{BadSpec, Spec};

use crate::frame::{Frame, HEADER_LEN};
use spec::{DEFAULT_CAPACITY, Delay, Loss, Settings};

/// Packets in flight at most in one channel; small ones cost more than their bytes.
const MAX_PACKETS: usize = 65_536;
/// Steps that a chain makes up for when nobody looked at it for long. After so many, where it began matters no more.
const MAX_STEPS: u32 = 10_000;
/// Buffers kept to be used again, and their size at most: a burst of packets of an ordinary MTU.
const SPARES: usize = 256;
const SPARE_LEN: usize = 2048;
/// Bytes of the two addresses, which never change: a wire that does so delivers to nobody.
const ADDRESSES: usize = 12;
/// The generators of one seed are told apart by their stream.
const CHAIN_STREAM: u64 = 1 << 32;

/// What a channel counted, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// That came.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// That went on, copies included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because there was no room in flight.
    pub overflowed: u64,
    /// Lost because they were longer than the MTU.
    pub too_long: u64,
    /// That went on twice.
    pub duplicated: u64,
    /// In which a bit changed.
    pub corrupted: u64,
    /// That overtook.
    pub reordered: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Channel {
    spec: Spec,
    random: Rand32,
    chain: Rand32,
    state: usize,
    /// When the chain takes its next step; set by the first packet.
    next_step: Option<Instant>,
    /// Gilbert and Elliott's state.
    is_bad: bool,
    flying: BinaryHeap<Reverse<Flying>>,
    /// Bytes in flight.
    bytes: usize,
    /// Until when the wire is busy sending.
    busy: Option<Instant>,
    /// When the last packet in order arrives.
    last_due: Option<Instant>,
    number: u64,
    counters: Counters,
    spares: Vec<Vec<u8>>,
}

/// A packet in flight; ordered by when it arrives, and then by when it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    due: Instant,
    number: u64,
    bytes: Vec<u8>,
}

/// What chance decided about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fate {
    lost: bool,
    duplicated: bool,
    /// Which bit changes, as a share of all.
    corrupted: Option<u32>,
    reordered: bool,
    delay: Duration,
}

impl Channel {
    /// A channel; `stream` tells the channels of one seed apart.
    pub fn new(spec: Spec, seed: u64, stream: u32) -> Self {
        let stream = u64::from(stream);
        Self {
            spec,
            random: Rand32::new_inc(seed, stream),
            chain: Rand32::new_inc(seed, CHAIN_STREAM | stream),
            state: 0,
            next_step: None,
            is_bad: false,
            flying: BinaryHeap::new(),
            bytes: 0,
            busy: None,
            last_due: None,
            number: 0,
            counters: Counters::default(),
            spares: Vec::new(),
        }
    }

    /// Changes what it does from now on; its generators go on.
    pub fn set(&mut self, spec: Spec) {
        (self.spec, self.state, self.next_step, self.is_bad) = (spec, 0, None, false);
    }

    /// A packet came: a whole frame in pieces.
    pub fn handle_packet(&mut self, now: Instant, pieces: &[&[u8]]) {
        self.advance(now);
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.counters.packets += 1;
        self.counters.bytes += len as u64;
        let settings = self.spec.state(self.state).1;
        let fate = draw(settings, &mut self.random, &mut self.is_bad);
        let capacity = settings.capacity.unwrap_or(DEFAULT_CAPACITY);
        if fate.lost {
            self.counters.lost += 1;
            return;
        }
        if self.bytes + len > capacity || self.flying.len() >= MAX_PACKETS {
            self.counters.overflowed += 1;
            return;
        }
        let mut bytes = self.spares.pop().unwrap_or_else(|| Vec::with_capacity(len));
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        if settings.mtu.is_some_and(|mtu| len > mtu + header_len(&bytes)) {
            self.counters.too_long += 1;
            self.recycle(bytes);
            return;
        }
        let sending = settings.rate.map_or(Duration::ZERO, |rate| sending_time(len, rate));
        let sent = self.busy.map_or(now, |busy| busy.max(now)) + sending;
        self.busy = Some(sent);
        let due = if fate.reordered {
            self.counters.reordered += 1;
            sent
        } else {
            let due = self.last_due.map_or(sent + fate.delay, |last| last.max(sent + fate.delay));
            self.last_due = Some(due);
            due
        };
        if let Some(share) = fate.corrupted.filter(|_| len > ADDRESSES) {
            self.counters.corrupted += 1;
            let bit = (u64::from(share) * ((len - ADDRESSES) as u64 * 8)) >> 32;
            bytes[ADDRESSES + bit as usize / 8] ^= 1 << (bit % 8);
        }
        let copy = fate.duplicated.then(|| {
            let mut copy = self.spares.pop().unwrap_or_default();
            copy.extend_from_slice(&bytes);
            copy
        });
        self.put(due, bytes);
        if let Some(copy) = copy.filter(|_| self.bytes + len <= capacity) {
            self.counters.duplicated += 1;
            self.put(due, copy);
        }
    }

    /// A packet came and there is no memory to keep it.
    pub fn overflow(&mut self, len: usize) {
        self.counters.packets += 1;
        self.counters.bytes += len as u64;
        self.counters.overflowed += 1;
    }

    /// The next packet that is due. Give it to [`Channel::recycle`] afterwards.
    pub fn poll_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.flying.peek().is_none_or(|Reverse(first)| first.due > now) {
            return None;
        }
        let Reverse(first) = self.flying.pop()?;
        self.bytes -= first.bytes.len();
        self.counters.delivered += 1;
        Some(first.bytes)
    }

    /// When the next packet is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse(first)| first.due)
    }

    /// Takes back a packet's memory.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spares.len() < SPARES && bytes.capacity() <= SPARE_LEN {
            bytes.clear();
            self.spares.push(bytes);
        }
    }

    /// Bytes in flight.
    pub fn in_flight(&self) -> usize {
        self.bytes
    }

    /// What it does.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The name of the state it is in; empty if it has only one.
    pub fn state(&mut self, now: Instant) -> &str {
        if self.next_step.is_some() {
            self.advance(now);
        }
        self.spec.state(self.state).0
    }

    /// What it counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn put(&mut self, due: Instant, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.flying.push(Reverse(Flying { due, number: self.number, bytes }));
        self.number += 1;
    }

    /// Takes the chain's steps up to now.
    fn advance(&mut self, now: Instant) {
        let Some(interval) = self.spec.interval() else { return };
        let mut next = self.next_step.unwrap_or(now + interval);
        let mut steps = 0;
        while next <= now && steps < MAX_STEPS {
            self.state = self.spec.step(self.state, self.chain.rand_u32());
            next += interval;
            steps += 1;
        }
        self.next_step = Some(if next <= now { now + interval } else { next });
    }
}

/// Draws a packet's fate: the same draws for each, whatever comes of them, so that the fate of the next does not
/// depend on this one's.
fn draw(settings: &Settings, random: &mut Rand32, is_bad: &mut bool) -> Fate {
    let loss = match settings.loss {
        Loss::Uniform(share) => share,
        Loss::Gilbert { to_bad, to_good, bad, good } => {
            let turns = if *is_bad { to_good } else { to_bad }.happens(random.rand_u32());
            *is_bad ^= turns;
            if *is_bad { bad } else { good }
        }
    };
    let [lost, duplicated, corrupted, bit, reordered] = std::array::from_fn(|_| random.rand_u32());
    Fate {
        lost: loss.happens(lost),
        duplicated: settings.duplicate.happens(duplicated),
        corrupted: settings.corrupt.happens(corrupted).then_some(bit),
        reordered: settings.reorder.happens(reordered),
        delay: draw_delay(&settings.delay, random),
    }
}

fn draw_delay(delay: &Delay, random: &mut Rand32) -> Duration {
    match delay {
        Delay::Constant(delay) => *delay,
        Delay::Uniform(mean, by) => {
            // 0 to 2, less 1.
            let off = scaled(*by, u64::from(random.rand_u32()) << 1);
            (*mean + off).saturating_sub(*by)
        }
        Delay::Normal(mean, by) => {
            // The sum of twelve even numbers has a deviation of one and is all but normal; it is the same on
            // every machine, as a logarithm is not.
            let sum: u64 = (0..12).map(|_| u64::from(random.rand_u32())).sum();
            (*mean + scaled(*by, sum)).saturating_sub(*by * 6)
        }
        Delay::Table(list) => {
            let at = (u64::from(random.rand_u32()) * list.len() as u64) >> 32;
            list.get(at as usize).copied().unwrap_or_default()
        }
    }
}

/// `unit` times a number of 32 fractional bits.
fn scaled(unit: Duration, factor: u64) -> Duration {
    let ns = (unit.as_nanos() * u128::from(factor)) >> 32;
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

fn sending_time(len: usize, rate: u64) -> Duration {
    // At most 65,553 bytes, at 1 b/s at least: half a million seconds.
    Duration::from_nanos(len as u64 * 8 * 1_000_000_000 / rate)
}

fn header_len(bytes: &[u8]) -> usize {
    Frame::new(bytes).map_or(HEADER_LEN, Frame::header_len)
}

#[cfg(test)]
mod tests;
