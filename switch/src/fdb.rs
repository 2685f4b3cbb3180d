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
//! Read: IEEE 802.1Q-2018 clauses 8.7 (learning) and 8.8.3 (ageing, 10 to 1,000,000 s, default 300 s).

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::frame::Mac;
use crate::port::PortId;
use crate::vlan::Vid;

/// Entries at most; 65,536 stations is beyond what one host carries, at about 40 bytes each.
pub const MAX_ENTRIES: usize = 65_536;
/// Entries at most for one port: the uplink to a large network, but no monopoly.
pub const MAX_ENTRIES_PER_PORT: u32 = 16_384;
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

impl Entry {
    fn is_alive(&self, now: Instant, age: Duration) -> bool {
        self.pinned || now.saturating_duration_since(self.seen) < age
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
    entries: FxHashMap<u64, Entry>,
    /// Entries per port, by index.
    shares: Vec<u32>,
    age: Duration,
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
            age,
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
        let key = key(vid, mac);
        let Some(entry) = self.entries.get_mut(&key) else {
            return self.learn_new(now, key, port, limit);
        };
        if entry.port == port {
            entry.seen = now;
            return Learned::Known;
        }
        if entry.pinned {
            return Learned::Elsewhere;
        }
        if !self.hold.is_zero() && now.saturating_duration_since(entry.seen) <= self.hold {
            return Learned::Known;
        }
        let room = *share(&mut self.shares, port) < limit;
        if !room && limit < MAX_ENTRIES_PER_PORT {
            // A port under watch takes no station away from another.
            self.refused += 1;
            return Learned::NoRoom;
        }
        let old = std::mem::replace(entry, Entry { port, seen: now, pinned: false }).port;
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
        self.entries.insert(key, Entry { port, seen: now, pinned: false });
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
            *share(&mut self.shares, old.port) -= 1;
        }
        if self.learn_new(now, key(vid, mac), port, MAX_ENTRIES_PER_PORT) == Learned::NoRoom {
            return Err(Full);
        }
        self.entries.entry(key(vid, mac)).and_modify(|entry| entry.pinned = true);
        Ok(())
    }

    /// Forgets a pinned station; false if it was not.
    pub fn unpin(&mut self, vid: Vid, mac: Mac) -> bool {
        let is_pinned = self.entries.get(&key(vid, mac)).is_some_and(|entry| entry.pinned);
        is_pinned && self.retain(|v, m, _| (v, m) != (vid, mac)) > 0
    }

    /// How many stations there are behind `port`, silent ones not yet swept included.
    pub fn count(&self, port: PortId) -> u32 {
        self.shares.get(port.index()).copied().unwrap_or(0)
    }

    /// Where `mac` on `vid` was heard, unless too long ago.
    pub fn lookup(&self, now: Instant, vid: Vid, mac: Mac) -> Option<PortId> {
        let entry = self.entries.get(&key(vid, mac))?;
        entry.is_alive(now, self.age).then_some(entry.port)
    }

    /// Forgets stations not heard for the age.
    pub fn expire(&mut self, now: Instant) {
        self.expire_and(now, |_, _, _| ());
    }

    /// As [`Fdb::expire`], and tells which.
    pub fn expire_and(&mut self, now: Instant, mut tell: impl FnMut(Vid, Mac, PortId)) {
        let age = self.age;
        let gone = self.retain(|vid, mac, entry| {
            let stays = entry.is_alive(now, age);
            if !stays {
                tell(vid, mac, entry.port);
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

    /// Forgets what `keep` says no to; returns how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(Vid, Mac, &Entry) -> bool) -> usize {
        let before = self.entries.len();
        let shares = &mut self.shares;
        self.entries.retain(|&key, entry| {
            let stays = unkey(key).is_none_or(|(vid, mac)| keep(vid, mac, entry));
            if !stays {
                *share(shares, entry.port) -= 1;
            }
            stays
        });
        before - self.entries.len()
    }

    /// Forgets every station of `port`; costs nothing if it had none.
    pub fn forget_port(&mut self, port: PortId) {
        if *share(&mut self.shares, port) > 0 {
            self.retain(|_, _, entry| entry.port != port);
        }
    }

    /// Forgets every station that was learned on `port`, but those pinned to it.
    pub fn forget_learned(&mut self, port: PortId) {
        if *share(&mut self.shares, port) > 0 {
            self.retain(|_, _, entry| entry.port != port || entry.pinned);
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
        let age = self.age;
        self.entries
            .iter()
            .filter(move |(_, entry)| entry.is_alive(now, age))
            .filter_map(|(&key, &entry)| unkey(key).map(|(vid, mac)| (vid, mac, entry)))
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
        self.age = age;
    }
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
        for n in 100_000..400_000 {
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
