//! The forwarding database: (VLAN, address) → port, with age.
//!
//! # Theory of operation
//! [`Fdb::learn`] is called for every frame, [`Fdb::lookup`] for every frame to one station; both are one
//! hash lookup. An entry not refreshed for the age is dead at once for `lookup`, and its memory is
//! reclaimed by [`Fdb::expire`], which [`Fdb::next_expiry`] asks for a few times per age: no timer per entry.
//! The table is bounded, and so is one port's share of it, so that a port which invents addresses cannot make
//! the switch flood everybody else's frames. A full table learns nothing new; frames are then flooded. A port may
//! be told a lower bound ([`Fdb::learn_within`]).
//!
//! A station may be pinned to a port ([`Fdb::pin`]; a static entry, clause 8.8.1): it is not forgotten while the port
//! is there, and believed nowhere else.
//!
//! **Memory.** With more stations than the nearest caches hold, what a frame costs is the waiting for its two entries.
//! So an entry is 16 bytes with its key, its time in milliseconds; and who has several frames says so before the first
//! ([`Fdb::foresee`]), as the processor fetches many entries at a time that nothing depends on.
//!
//! Read: IEEE 802.1Q-2018 clauses 8.7 (learning) and 8.8.3 (ageing, 10 to 1,000,000 s, default 300 s).

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::frame::Mac;
use crate::port::PortId;
use crate::vlan::Vid;

/// Entries at most: beyond what one host carries, at about 20 bytes each.
pub const MAX_ENTRIES: usize = 131_072;
/// Entries at most for one port: the uplink to a large network, but no monopoly.
pub const MAX_ENTRIES_PER_PORT: u32 = 32_768;
/// Default age (802.1Q table 8-6).
pub const DEFAULT_AGE: Duration = Duration::from_secs(300);
/// How many times per age the dead are swept out; an entry's memory lives at most 1.25 ages.
const SWEEPS_PER_AGE: u32 = 4;

/// What is known about one station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub port: PortId,
    /// When it was last heard, or pinned.
    pub seen: Instant,
    /// Somebody said so; it is neither forgotten nor moved.
    pub pinned: bool,
}

/// An [`Entry`] as it is kept.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The port's number, and above all numbers [`PINNED`].
    port: u32,
    /// Milliseconds by [`Clock`].
    seen: u32,
}

/// Set in [`Place::port`].
const PINNED: u32 = 1 << 31;
/// The age, of which entries may be a quarter more, is less than half of the numbers.
const MAX_AGE_MS: u128 = 1 << 30;
/// With fewer entries than this, all are in the nearest caches.
const MANY: usize = 4096;

impl Place {
    fn new(port: PortId, seen: u32) -> Self {
        Self { port: port.index() as u32, seen }
    }

    fn port(self) -> PortId {
        PortId::new(self.port & !PINNED)
    }

    fn is_pinned(self) -> bool {
        self.port & PINNED != 0
    }

    /// How long ago it was heard, in milliseconds.
    fn silent(self, now: u32) -> u32 {
        // Time does not go back; if somebody says so, it was heard just now.
        (now.wrapping_sub(self.seen) as i32).max(0) as u32
    }

    fn is_alive(self, now: u32, age: u32) -> bool {
        self.is_pinned() || self.silent(now) < age
    }

    fn entry(self, now: Instant, now_ms: u32) -> Entry {
        let seen = now.checked_sub(Duration::from_millis(self.silent(now_ms).into())).unwrap_or(now);
        Entry { port: self.port(), seen, pinned: self.is_pinned() }
    }
}

/// Milliseconds since the first station was heard; they begin anew every 49 days.
#[derive(Debug, Default)]
struct Clock {
    start: Option<Instant>,
    /// What was asked for last, and asked for with each frame of a burst.
    last: Option<(Instant, u32)>,
}

impl Clock {
    fn look(&self, now: Instant) -> u32 {
        match (self.last, self.start) {
            (Some((at, ms)), _) if at == now => ms,
            (_, Some(start)) => now.saturating_duration_since(start).as_millis() as u32,
            _ => 0,
        }
    }

    fn tick(&mut self, now: Instant) -> u32 {
        self.start.get_or_insert(now);
        let ms = self.look(now);
        self.last = Some((now, ms));
        ms
    }
}

/// What came of hearing a station.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It was known to be there.
    Known,
    /// It was not known.
    New,
    /// It was on this port before.
    Moved(PortId),
    /// There was no room.
    NoRoom,
    /// It is pinned to another port.
    Elsewhere,
}

/// The table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the switch knows {MAX_ENTRIES} stations already, or the port {MAX_ENTRIES_PER_PORT}")]
pub struct Full;

/// The table.
#[derive(Debug)]
pub struct Fdb {
    entries: FxHashMap<u64, Place>,
    /// Entries per port, by index.
    shares: Vec<u32>,
    clock: Clock,
    age: Duration,
    age_ms: u32,
    /// So long a station that was heard on one port is not believed on another.
    hold: Duration,
    swept: Option<Instant>,
    refused: u64,
    learned: u64,
    moved: u64,
    aged: u64,
}

impl Fdb {
    /// An empty table.
    pub fn new(age: Duration) -> Self {
        Self {
            entries: FxHashMap::default(),
            shares: Vec::new(),
            clock: Clock::default(),
            age,
            age_ms: milliseconds(age),
            hold: Duration::ZERO,
            swept: None,
            refused: 0,
            learned: 0,
            moved: 0,
            aged: 0,
        }
    }

    /// The station `mac` on `vid` was heard on `port`.
    pub fn learn(&mut self, now: Instant, vid: Vid, mac: Mac, port: PortId) -> Learned {
        self.learn_within(now, vid, mac, port, MAX_ENTRIES_PER_PORT)
    }

    /// As [`Fdb::learn`], on a port behind which there may be `limit` stations.
    pub fn learn_within(&mut self, now: Instant, vid: Vid, mac: Mac, port: PortId, limit: u32) -> Learned {
        let (key, seen) = (key(vid, mac), self.clock.tick(now));
        let Some(place) = self.entries.get_mut(&key) else {
            return self.learn_new(now, key, port, limit);
        };
        if place.port() == port {
            place.seen = seen;
            return Learned::Known;
        }
        if place.is_pinned() {
            return Learned::Elsewhere;
        }
        if !self.hold.is_zero() && place.silent(seen) <= milliseconds(self.hold) {
            return Learned::Known;
        }
        let room = *share(&mut self.shares, port) < limit;
        if !room && limit < MAX_ENTRIES_PER_PORT {
            // A port under watch takes no station away from another.
            self.refused += 1;
            return Learned::NoRoom;
        }
        let old = std::mem::replace(place, Place::new(port, seen)).port();
        *share(&mut self.shares, old) -= 1;
        if room {
            *share(&mut self.shares, port) += 1;
            self.moved += 1;
            return Learned::Moved(old);
        }
        self.entries.remove(&key);
        self.refused += 1;
        Learned::NoRoom
    }

    fn learn_new(&mut self, now: Instant, key: u64, port: PortId, limit: u32) -> Learned {
        if self.entries.len() >= MAX_ENTRIES || *share(&mut self.shares, port) >= limit {
            self.refused += 1;
            return Learned::NoRoom;
        }
        *share(&mut self.shares, port) += 1;
        let seen = self.clock.tick(now);
        self.entries.insert(key, Place::new(port, seen));
        self.swept.get_or_insert(now);
        self.learned += 1;
        Learned::New
    }

    /// Says where a station is, until [`Fdb::unpin`] or the port's end.
    ///
    /// # Errors
    /// No room.
    pub fn pin(&mut self, now: Instant, vid: Vid, mac: Mac, port: PortId) -> Result<(), Full> {
        if let Some(old) = self.entries.remove(&key(vid, mac)) {
            *share(&mut self.shares, old.port()) -= 1;
        }
        if self.learn_new(now, key(vid, mac), port, MAX_ENTRIES_PER_PORT) == Learned::NoRoom {
            return Err(Full);
        }
        self.entries.entry(key(vid, mac)).and_modify(|place| place.port |= PINNED);
        Ok(())
    }

    /// Forgets a pinned station; false if it was not.
    pub fn unpin(&mut self, vid: Vid, mac: Mac) -> bool {
        let is_pinned = self.entries.get(&key(vid, mac)).is_some_and(|place| place.is_pinned());
        is_pinned && self.retain(|v, m, _, _| (v, m) != (vid, mac)) > 0
    }

    /// How many stations there are behind `port`, silent ones not yet swept included.
    pub fn count(&self, port: PortId) -> u32 {
        self.shares.get(port.index()).copied().unwrap_or(0)
    }

    /// Where `mac` on `vid` was heard, unless too long ago.
    pub fn lookup(&self, now: Instant, vid: Vid, mac: Mac) -> Option<PortId> {
        let place = self.entries.get(&key(vid, mac))?;
        place.is_alive(self.clock.look(now), self.age_ms).then(|| place.port())
    }

    /// Are there so many stations that [`Fdb::foresee`] is worth its time?
    pub fn is_large(&self) -> bool {
        self.entries.len() > MANY
    }

    /// Frames from one station to another will come. It changes nothing, but has the entries fetched.
    #[inline]
    pub fn foresee(&self, vid: Vid, source: Mac, destination: Mac) {
        for mac in [source, destination] {
            std::hint::black_box(self.entries.get(&key(vid, mac)).map(|place| place.seen));
        }
    }

    /// Forgets stations not heard for the age.
    pub fn expire(&mut self, now: Instant) {
        self.expire_and(now, |_, _, _| ());
    }

    /// As [`Fdb::expire`], and tells which.
    pub fn expire_and(&mut self, now: Instant, mut tell: impl FnMut(Vid, Mac, PortId)) {
        let (now_ms, age) = (self.clock.look(now), self.age_ms);
        let gone = self.retain_places(|vid, mac, place| {
            let stays = place.is_alive(now_ms, age);
            if !stays {
                tell(vid, mac, place.port());
            }
            stays
        });
        self.aged += gone as u64;
        self.swept = (!self.entries.is_empty()).then_some(now);
    }

    /// When [`Fdb::expire`] should run; `None` while the table is empty.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.swept.map(|at| at + (self.age / SWEEPS_PER_AGE).max(Duration::from_millis(250)))
    }

    /// Forgets what `keep` says no to, of which it is told the port and whether it is pinned; returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(Vid, Mac, PortId, bool) -> bool) -> usize {
        self.retain_places(|vid, mac, place| keep(vid, mac, place.port(), place.is_pinned()))
    }

    fn retain_places(&mut self, mut keep: impl FnMut(Vid, Mac, Place) -> bool) -> usize {
        let before = self.entries.len();
        let shares = &mut self.shares;
        self.entries.retain(|&key, &mut place| {
            let stays = unkey(key).is_none_or(|(vid, mac)| keep(vid, mac, place));
            if !stays {
                *share(shares, place.port()) -= 1;
            }
            stays
        });
        before - self.entries.len()
    }

    /// Forgets every station of `port`; costs nothing if it had none.
    pub fn forget_port(&mut self, port: PortId) {
        if *share(&mut self.shares, port) > 0 {
            self.retain(|_, _, at, _| at != port);
        }
    }

    /// Forgets every station that was learned on `port`, but those pinned to it.
    pub fn forget_learned(&mut self, port: PortId) {
        if *share(&mut self.shares, port) > 0 {
            self.retain(|_, _, at, pinned| at != port || pinned);
        }
    }

    /// A station stays where it was last heard until it was silent there for longer than this; zero: it moves at once.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = hold;
    }

    /// How long a station stays where it was last heard.
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// The stations alive at `now`, in no order.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (Vid, Mac, Entry)> {
        let (now_ms, age) = (self.clock.look(now), self.age_ms);
        self.entries.iter().filter(move |(_, place)| place.is_alive(now_ms, age)).filter_map(
            move |(&key, place)| unkey(key).map(|(vid, mac)| (vid, mac, place.entry(now, now_ms))),
        )
    }

    /// How many entries the table holds, dead ones not yet swept included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is the table empty?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many stations were not learned for lack of room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many stations were learned.
    pub fn learned(&self) -> u64 {
        self.learned
    }

    /// How often a known station was heard on another port.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// How many stations were forgotten because they were silent.
    pub fn aged(&self) -> u64 {
        self.aged
    }

    /// How many entries a port has, dead ones not yet swept included.
    pub fn of_port(&self, port: PortId) -> u32 {
        self.shares.get(port.index()).copied().unwrap_or(0)
    }

    /// After how long a silent station is forgotten.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// Changes the age, for present entries too.
    pub fn set_age(&mut self, age: Duration) {
        (self.age, self.age_ms) = (age, milliseconds(age));
    }
}

fn milliseconds(age: Duration) -> u32 {
    age.as_millis().min(MAX_AGE_MS) as u32
}

fn key(vid: Vid, mac: Mac) -> u64 {
    u64::from(vid.number()) << 48 | mac.bits()
}

/// Every key in the table came from [`key`]; the `None` is for the type only.
fn unkey(key: u64) -> Option<(Vid, Mac)> {
    let [v, w, mac @ ..] = key.to_be_bytes();
    Vid::new(u16::from_be_bytes([v, w])).map(|vid| (vid, Mac(mac)))
}

/// Ports are few and numbered from zero, so the table of shares is dense.
fn share(shares: &mut Vec<u32>, port: PortId) -> &mut u32 {
    if shares.len() <= port.index() {
        shares.resize(port.index() + 1, 0);
    }
    &mut shares[port.index()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac([2, 0, a, b, c, d])
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_port_cannot_fill_the_table() {
        let (now, mut fdb) = (start(), Fdb::new(DEFAULT_AGE));
        for n in 0..100_000 {
            fdb.learn(now, Vid::DEFAULT, mac(n), PortId::new(0));
        }
        assert_eq!(fdb.len(), MAX_ENTRIES_PER_PORT as usize);
        assert_eq!(fdb.refused(), 100_000 - u64::from(MAX_ENTRIES_PER_PORT));
        for n in 100_000..500_000 {
            fdb.learn(now, Vid::DEFAULT, mac(n), PortId::new(n % 100));
        }
        assert_eq!(fdb.len(), MAX_ENTRIES);
        fdb.forget_port(PortId::new(0));
        assert!(fdb.iter(now).all(|(_, _, e)| e.port != PortId::new(0)));
    }

    #[test]
    fn a_station_moving_to_a_full_port_is_forgotten() {
        let (now, mut fdb) = (start(), Fdb::new(DEFAULT_AGE));
        (0..MAX_ENTRIES_PER_PORT).for_each(|n| {
            fdb.learn(now, Vid::DEFAULT, mac(n), PortId::new(0));
        });
        fdb.learn(now, Vid::DEFAULT, mac(1 << 30), PortId::new(1));
        fdb.learn(now, Vid::DEFAULT, mac(1 << 30), PortId::new(0));
        assert_eq!(fdb.lookup(now, Vid::DEFAULT, mac(1 << 30)), None);
    }

    #[test]
    fn a_pinned_station_stays_where_it_is() {
        let (now, mut fdb) = (start(), Fdb::new(DEFAULT_AGE));
        let (home, away) = (PortId::new(0), PortId::new(1));
        fdb.pin(now, Vid::DEFAULT, mac(1), home).unwrap();
        assert_eq!(fdb.learn(now, Vid::DEFAULT, mac(1), away), Learned::Elsewhere);
        assert_eq!(fdb.learn(now, Vid::DEFAULT, mac(1), home), Learned::Known);
        let late = now + 2 * DEFAULT_AGE;
        fdb.expire(late);
        assert_eq!(fdb.lookup(late, Vid::DEFAULT, mac(1)), Some(home));
        fdb.forget_learned(home);
        assert_eq!((fdb.count(home), fdb.iter(late).count()), (1, 1));
        fdb.pin(now, Vid::DEFAULT, mac(1), away).unwrap();
        assert_eq!((fdb.count(home), fdb.count(away)), (0, 1));
        assert!(fdb.unpin(Vid::DEFAULT, mac(1)) && !fdb.unpin(Vid::DEFAULT, mac(1)));
        fdb.pin(now, Vid::DEFAULT, mac(1), home).unwrap();
        fdb.forget_port(home);
        assert!(fdb.is_empty());
    }

    #[test]
    fn a_port_under_watch_takes_no_station_away() {
        let (now, mut fdb) = (start(), Fdb::new(DEFAULT_AGE));
        let (watched, other) = (PortId::new(0), PortId::new(1));
        fdb.learn(now, Vid::DEFAULT, mac(9), other);
        let learned = [1, 2, 3, 9, 1].map(|n| fdb.learn_within(now, Vid::DEFAULT, mac(n), watched, 2));
        use Learned::{Known, New, NoRoom};
        assert_eq!(learned, [New, New, NoRoom, NoRoom, Known]);
        assert_eq!(fdb.lookup(now, Vid::DEFAULT, mac(9)), Some(other));
    }

    #[test]
    fn an_age_is_kept_when_the_milliseconds_begin_anew() {
        let (start, mut fdb) = (start(), Fdb::new(DEFAULT_AGE));
        fdb.learn(start, Vid::DEFAULT, mac(1), PortId::new(1));
        let before = start + Duration::from_millis((1 << 32) - 1000);
        fdb.learn(before, Vid::DEFAULT, mac(2), PortId::new(2));
        let soon = before + DEFAULT_AGE - Duration::from_millis(1);
        assert_eq!(fdb.lookup(soon, Vid::DEFAULT, mac(2)), Some(PortId::new(2)));
        let seen: Vec<_> =
            fdb.iter(soon).filter(|(_, it, _)| *it == mac(2)).map(|(_, _, e)| e.seen).collect();
        assert_eq!(seen, [before]);
        let late = before + DEFAULT_AGE;
        assert_eq!(fdb.lookup(late, Vid::DEFAULT, mac(2)), None);
    }

    proptest! {
        /// Against a plain map: what is younger than the age is found, nothing else is.
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((0..4u8, 0..4u16, 0..6u32, 0..4u32, 0..40u64), 0..200)) {
            let (mut now, mut fdb, mut model) = (start(), Fdb::new(Duration::from_secs(100)), HashMap::new());
            for (op, v, m, p, wait) in ops {
                now += Duration::from_secs(wait);
                let vid = Vid::new(v + 1).unwrap();
                match op {
                    0 | 1 => {
                        fdb.learn(now, vid, mac(m), PortId::new(p));
                        model.insert((vid, mac(m)), (p, now));
                    }
                    2 => fdb.expire(now),
                    _ => {
                        fdb.forget_port(PortId::new(p));
                        model.retain(|_, (port, _)| *port != p);
                    }
                }
                for v in 1..=4 {
                    for m in 0..6 {
                        let vid = Vid::new(v).unwrap();
                        let expected = model.get(&(vid, mac(m))).filter(|(_, at)| now - *at < fdb.age());
                        prop_assert_eq!(fdb.lookup(now, vid, mac(m)), expected.map(|(p, _)| PortId::new(*p)));
                    }
                }
                prop_assert_eq!(fdb.shares.iter().sum::<u32>() as usize, fdb.len());
            }
        }
    }
}
