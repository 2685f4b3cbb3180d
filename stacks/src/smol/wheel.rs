//! A timer wheel: when which socket wants to be looked at.
//!
//! # Theory of operation
//! Six levels of 64 slots (Varghese and Lauck, 1987, scheme 7): a slot of level 0 is one millisecond, a slot of
//! level n is a whole turn of level n−1. An entry sits on the level where its deadline first differs from the
//! present, and moves down when the present reaches its slot: at most five moves in its life. Slots are
//! doubly linked lists through one array of entries, a bit per slot says that it is not empty: putting in,
//! taking out and finding the next deadline are O(1), and a wheel without entries has no deadline.
//! Deadlines are rounded up, so that nothing comes too early; the next deadline that [`Wheel::next`] gives may
//! be early for an entry that has to move down first.

use std::time::{Duration, Instant};

/// Bits of a level.
const BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << BITS;
/// Levels: 64^6 ms are two years, more than any timer of a socket.
const LEVELS: usize = 6;
/// The furthest deadline, in ticks from now.
const FURTHEST: u64 = (1 << (BITS * LEVELS as u32)) - 1;
/// No entry.
const NIL: u32 = u32::MAX;
/// `place` of an entry that is due.
const DUE: u16 = (LEVELS * SLOTS) as u16;

/// Names an entry, from [`Wheel::insert`] until it is cancelled or comes out of [`Wheel::poll`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer(u32);

/// The wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    origin: Instant,
    /// Ticks that have been worked off.
    elapsed: u64,
    occupied: [u64; LEVELS],
    /// Heads of the slots' lists, and of the list of what is due.
    heads: Box<[u32; LEVELS * SLOTS + 1]>,
    entries: Vec<Entry>,
    free: u32,
    armed: usize,
}

#[derive(Debug)]
struct Entry {
    deadline: u64,
    token: u64,
    next: u32,
    previous: u32,
    place: u16,
}

impl Wheel {
    /// An empty wheel.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            elapsed: 0,
            occupied: [0; LEVELS],
            heads: Box::new([NIL; LEVELS * SLOTS + 1]),
            entries: Vec::new(),
            free: NIL,
            armed: 0,
        }
    }

    /// Entries in it.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.armed
    }

    /// `token` wants to come out of [`Wheel::poll`] at `deadline`.
    pub(crate) fn insert(&mut self, deadline: Instant, token: u64) -> Timer {
        let since = deadline.saturating_duration_since(self.origin);
        let ticks = u64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let deadline = ticks.min(self.elapsed.saturating_add(FURTHEST));
        let entry = Entry { deadline, token, next: NIL, previous: NIL, place: DUE };
        let index = if self.free == NIL {
            self.entries.push(entry);
            (self.entries.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.entries[index as usize].next;
            self.entries[index as usize] = entry;
            index
        };
        self.armed += 1;
        self.link(index);
        Timer(index)
    }

    /// Takes an entry out.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.unlink(timer.0);
        self.release(timer.0);
    }

    /// The token of an entry whose time has come; the entry is gone then.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(self.origin);
        let ticks = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        loop {
            let first = self.heads[usize::from(DUE)];
            if first != NIL {
                self.unlink(first);
                let token = self.entries[first as usize].token;
                self.release(first);
                return Some(token);
            }
            match self.next_slot() {
                Some((place, at)) if at <= ticks => {
                    self.elapsed = self.elapsed.max(at);
                    self.settle(place);
                }
                _ => {
                    self.elapsed = self.elapsed.max(ticks);
                    return None;
                }
            }
        }
    }

    /// When to call [`Wheel::poll`].
    pub(crate) fn next(&self) -> Option<Instant> {
        let ticks = if self.heads[usize::from(DUE)] != NIL { self.elapsed } else { self.next_slot()?.1 };
        Some(self.origin + Duration::from_millis(ticks))
    }

    /// The occupied slot whose time comes first, and that time.
    fn next_slot(&self) -> Option<(usize, u64)> {
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = BITS * level as u32;
            let here = (self.elapsed >> shift) as u32 % SLOTS as u32;
            let ahead = occupied.rotate_right(here).trailing_zeros();
            let slot = (here + ahead) as usize % SLOTS;
            let turn = 1u64 << (shift + BITS);
            let mut at = (self.elapsed & !(turn - 1)) + ((slot as u64) << shift);
            if slot < here as usize {
                at += turn;
            }
            return Some((level * SLOTS + slot, at.max(self.elapsed)));
        }
        None
    }

    /// The time of a slot has come: its entries are due, or move down.
    fn settle(&mut self, place: usize) {
        let mut index = std::mem::replace(&mut self.heads[place], NIL);
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.link(index);
            index = next;
        }
    }

    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        let place = if deadline <= self.elapsed {
            usize::from(DUE)
        } else {
            let differs = (self.elapsed ^ deadline) | (SLOTS as u64 - 1);
            let level = ((63 - differs.leading_zeros()) / BITS).min(LEVELS as u32 - 1);
            let slot = (deadline >> (BITS * level)) as usize % SLOTS;
            self.occupied[level as usize] |= 1 << slot;
            level as usize * SLOTS + slot
        };
        let head = std::mem::replace(&mut self.heads[place], index);
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.next, entry.previous, entry.place) = (head, NIL, place as u16);
    }

    fn unlink(&mut self, index: u32) {
        let Entry { next, previous, place, .. } = self.entries[index as usize];
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
            return;
        }
        self.heads[usize::from(place)] = next;
        if next == NIL && place != DUE {
            self.occupied[usize::from(place) / SLOTS] &= !(1 << (usize::from(place) % SLOTS));
        }
    }

    fn release(&mut self, index: u32) {
        self.armed -= 1;
        if self.armed == 0 {
            // The whole array is free: give back what a crowd needed.
            self.entries.clear();
            self.entries.shrink_to(SLOTS);
            self.free = NIL;
            return;
        }
        self.entries[index as usize].next = self.free;
        self.free = index;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any beginning will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_empty_wheel_has_no_deadline() {
        let now = start();
        let mut wheel = Wheel::new(now);
        assert_eq!(wheel.next(), None);
        let timer = wheel.insert(now + ms(5), 1);
        assert_eq!(wheel.next(), Some(now + ms(5)));
        wheel.cancel(timer);
        assert_eq!((wheel.next(), wheel.poll(now + ms(10)), wheel.len()), (None, None, 0));
    }

    #[test]
    fn nothing_comes_early_and_a_fraction_is_rounded_up() {
        let now = start();
        let mut wheel = Wheel::new(now);
        wheel.insert(now + Duration::from_micros(1500), 7);
        assert_eq!(wheel.poll(now + Duration::from_micros(1999)), None);
        assert_eq!(wheel.poll(now + ms(2)), Some(7));
    }

    #[test]
    fn a_far_deadline_wakes_a_few_times_only() {
        let now = start();
        let mut wheel = Wheel::new(now);
        wheel.insert(now + Duration::from_secs(7200), 1);
        let mut wakes = 0;
        while let Some(at) = wheel.next() {
            wakes += 1;
            if wheel.poll(at).is_some() {
                assert_eq!(at, now + Duration::from_secs(7200));
            }
        }
        assert!(wakes <= LEVELS, "{wakes}");
    }

    proptest! {
        /// Against a sorted map: the same tokens come out at the same times.
        #[test]
        fn behaves_like_a_sorted_map(ops in prop::collection::vec((0u8..4, 0u64..300_000), 1..300)) {
            let origin = start();
            let (mut now, mut wheel) = (0u64, Wheel::new(origin));
            let mut model: BTreeMap<u64, (u64, Timer)> = BTreeMap::new();
            for (token, (op, n)) in ops.into_iter().enumerate() {
                let token = token as u64;
                match op {
                    0 | 1 => {
                        let timer = wheel.insert(origin + ms(now + n), token);
                        model.insert(token, (now + n, timer));
                    }
                    2 => if let Some((&token, &(_, timer))) = model.iter().nth(n as usize % 7) {
                        wheel.cancel(timer);
                        model.remove(&token);
                    },
                    _ => {
                        now += n / 10;
                        let mut out = Vec::new();
                        while let Some(token) = wheel.poll(origin + ms(now)) {
                            out.push(token);
                        }
                        out.sort_unstable();
                        let due: Vec<u64> =
                            model.iter().filter(|(_, (at, _))| *at <= now).map(|(t, _)| *t).collect();
                        prop_assert_eq!(&out, &due);
                        model.retain(|_, (at, _)| *at > now);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let first = model.values().map(|(at, _)| *at).min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next(), first) {
                    prop_assert!(next <= origin + ms(first.max(now)));
                }
            }
        }
    }
}
