//! Neighbours: who is reachable at which hardware address.
//!
//! # Theory of operation
//! Both families share one state machine (RFC 4861 clause 7.3.2; net/core/neighbour.c), here with all it needs
//! to work, in [`Tables::neighbours`](crate::smol::tables::Tables::neighbours) for all to see. A packet for an
//! unknown neighbour waits in that neighbour's own queue while it is asked for; neighbours are asked for
//! independently of each other. Used while stale, a neighbour has five seconds in which something above may
//! confirm it; then it is asked, thrice, a second apart; then it has failed, what waited is reported, and the
//! next packet asks anew. Times and numbers are Linux's defaults (arp_tbl, nd_tbl, arp(7)).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustc_hash::FxHashMap;
use switch::offload::VnetHdr;

use super::timers::Timer;
use super::{Net, Path};
use crate::config::Mac;
use crate::smol::tables::{Change, IfIndex, Neighbour, Nud};

/// Neighbours of a stack, at most (gc_thresh3).
pub(super) const MAX_NEIGHBOURS: usize = 1024;
/// How many are kept when room has to be made (gc_thresh2).
const KEEP_NEIGHBOURS: usize = 512;
/// Entries that changed a shorter time ago are not thrown out for others (neigh_forced_gc).
const YOUNG: Duration = Duration::from_secs(5);
/// Bytes that wait for one neighbour (unres_qlen_bytes: SK_WMEM_MAX); the oldest go first.
const MAX_QUEUE: usize = 212_992;
/// Bytes that wait for all neighbours together, so that a scan of dead addresses costs no more.
const MAX_QUEUES: usize = 4 << 20;
/// Mean time a confirmation lasts (base_reachable_time_ms; RFC 4861 clause 10); drawn anew per entry, 0.5 to 1.5.
const REACHABLE: Duration = Duration::from_secs(30);
/// Time for something above to confirm a stale neighbour (delay_first_probe_time).
const DELAY: Duration = Duration::from_secs(5);
/// Between two questions (retrans_time_ms).
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Questions before a neighbour has failed (mcast_solicit, ucast_solicit).
const MAX_PROBES: u8 = 3;

/// Whose packet it is: who is told if it cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A socket's, or our own.
    Ours,
    /// Somebody's, heard on this interface.
    Forwarded(IfIndex),
}

/// A packet without its frame's header.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) packet: Vec<u8>,
    /// Offsets count from the packet's start.
    pub(super) header: VnetHdr,
    pub(super) origin: Origin,
}

/// A neighbour.
#[derive(Debug)]
struct Entry {
    mac: Option<Mac>,
    state: Nud,
    router: bool,
    /// When it was last heard from for certain.
    confirmed: Option<Instant>,
    updated: Instant,
    used: Instant,
    /// How long a confirmation lasts.
    reachable: Duration,
    probes: u8,
    queue: VecDeque<Waiting>,
    queued: usize,
}

/// All neighbours.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: FxHashMap<(IfIndex, IpAddr), Entry>,
    /// Bytes in all queues.
    queued: usize,
}

/// What a message says of a neighbour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    /// Its hardware address, if it is said.
    pub(super) mac: Option<Mac>,
    /// [`Nud::Reachable`] if it answers us, else [`Nud::Stale`].
    pub(super) state: Nud,
    /// A different address may replace the known one.
    pub(super) replace: bool,
    /// If it may not, at least doubt the known one.
    pub(super) doubt: bool,
    /// Remember it even if it was not asked for.
    pub(super) create: bool,
    /// Whether it is a router, if it is said.
    pub(super) router: Option<bool>,
}

impl Entry {
    fn is_valid(&self) -> bool {
        !matches!(self.state, Nud::Incomplete | Nud::Failed)
    }

    fn is_fixed(&self) -> bool {
        matches!(self.state, Nud::Permanent | Nud::NoArp)
    }
}

impl Neighbours {
    /// It was asked and did not answer.
    pub(super) fn has_failed(&self, link: IfIndex, address: IpAddr) -> bool {
        self.entries.get(&(link, address)).is_some_and(|entry| entry.state == Nud::Failed)
    }

    /// When its entry last changed.
    pub(super) fn updated(&self, link: IfIndex, address: IpAddr) -> Option<Instant> {
        self.entries.get(&(link, address)).map(|entry| entry.updated)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn take_queue(&mut self, key: (IfIndex, IpAddr)) -> VecDeque<Waiting> {
        let Some(entry) = self.entries.get_mut(&key) else { return VecDeque::new() };
        self.queued -= std::mem::take(&mut entry.queued);
        std::mem::take(&mut entry.queue)
    }

    /// Lets a packet wait, at the expense of older ones.
    fn push(&mut self, key: (IfIndex, IpAddr), waiting: Waiting) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.queued += waiting.packet.len();
        self.queued += waiting.packet.len();
        entry.queue.push_back(waiting);
        while entry.queued > MAX_QUEUE || self.queued > MAX_QUEUES {
            let Some(oldest) = entry.queue.pop_front() else { break };
            entry.queued -= oldest.packet.len();
            self.queued -= oldest.packet.len();
        }
    }
}

impl Net {
    /// The hardware address to send to now; `None` if it has to be asked for first.
    pub(super) fn neighbour_mac(&mut self, now: Instant, link: IfIndex, address: IpAddr) -> Option<Mac> {
        let entry = self.neighbours.entries.get_mut(&(link, address))?;
        entry.used = now;
        match entry.state {
            Nud::Incomplete | Nud::Failed => None,
            Nud::Stale => {
                let mac = entry.mac;
                self.enter(now, (link, address), Nud::Delay);
                self.timers.set(Timer::Neighbour(link, address), now + DELAY);
                mac
            }
            // Set by hand without one: none is needed.
            Nud::NoArp | Nud::Permanent => Some(entry.mac.unwrap_or(Mac([0; 6]))),
            _ => entry.mac,
        }
    }

    /// Lets a packet wait for a neighbour, and asks for it.
    pub(super) fn wait(
        &mut self,
        now: Instant,
        link: IfIndex,
        address: IpAddr,
        waiting: Waiting,
    ) -> Result<(), Errno> {
        let key = (link, address);
        let state = match self.neighbours.entries.get(&key) {
            Some(entry) => entry.state,
            None => {
                self.create(now, key).then_some(()).ok_or(Errno::ENOBUFS)?;
                Nud::Failed
            }
        };
        self.neighbours.push(key, waiting);
        if state == Nud::Failed {
            self.enter(now, key, Nud::Incomplete);
            self.neighbour_due(now, link, address);
        }
        Ok(())
    }

    /// A neighbour was heard from (neigh_update).
    pub(super) fn heard(&mut self, now: Instant, link: IfIndex, address: IpAddr, heard: &Heard) {
        let key = (link, address);
        let known = self.neighbours.entries.contains_key(&key);
        if !known && (!heard.create || heard.mac.is_none() || !self.create(now, key)) {
            return;
        }
        let Some(entry) = self.neighbours.entries.get_mut(&key) else { return };
        if entry.is_fixed() {
            return;
        }
        let (valid, connected) = (entry.is_valid(), entry.state == Nud::Reachable);
        let mut mac = match (heard.mac, entry.mac) {
            (Some(mac), _) => mac,
            (None, Some(mac)) if valid => mac,
            _ => return,
        };
        let mut state = heard.state;
        if valid && entry.mac != Some(mac) && !heard.replace {
            if !(heard.doubt && connected) {
                return;
            }
            mac = entry.mac.unwrap_or(mac);
            state = Nud::Stale;
        } else if valid && entry.mac == Some(mac) && state == Nud::Stale {
            state = entry.state;
        }
        if heard.state == Nud::Reachable {
            entry.confirmed = Some(now);
        }
        let router = heard.router.unwrap_or(entry.router);
        let changed = entry.mac != Some(mac) || entry.router != router;
        entry.mac = Some(mac);
        entry.router = router;
        if state == Nud::Reachable {
            let due = now + entry.reachable;
            self.timers.set(Timer::Neighbour(link, address), due);
        } else if entry.state != state {
            self.timers.clear(Timer::Neighbour(link, address));
        }
        if changed || entry.state != state {
            self.enter(now, key, state);
        }
        if !valid {
            self.release(now, key, mac);
        }
    }

    /// The neighbour behind `next_hop` was heard from by the upper layer (RFC 4861 clause 7.3.1).
    pub fn confirm(&mut self, now: Instant, path: &Path) {
        if let Some(entry) = self.neighbours.entries.get_mut(&(path.link, path.next_hop)) {
            entry.confirmed = Some(now);
        }
    }

    /// A neighbour's deadline (neigh_timer_handler).
    pub(super) fn neighbour_due(&mut self, now: Instant, link: IfIndex, address: IpAddr) {
        let key = (link, address);
        let Some(entry) = self.neighbours.entries.get_mut(&key) else { return };
        let lately = |span| entry.confirmed.is_some_and(|confirmed| now < confirmed + span);
        let (next, due) = match entry.state {
            Nud::Reachable if lately(entry.reachable) => {
                (Nud::Reachable, entry.confirmed.map(|confirmed| confirmed + entry.reachable))
            }
            Nud::Reachable if now <= entry.used + DELAY => (Nud::Delay, Some(now + DELAY)),
            Nud::Reachable => (Nud::Stale, None),
            Nud::Delay | Nud::Probe if lately(DELAY) => (Nud::Reachable, Some(now + entry.reachable)),
            Nud::Delay => {
                entry.probes = 0;
                (Nud::Probe, Some(now + RETRANSMIT))
            }
            Nud::Probe | Nud::Incomplete if entry.probes >= MAX_PROBES => (Nud::Failed, None),
            Nud::Probe | Nud::Incomplete => (entry.state, Some(now + RETRANSMIT)),
            _ => return,
        };
        if entry.state != next {
            self.enter(now, key, next);
        }
        if let Some(due) = due {
            self.timers.set(Timer::Neighbour(link, address), due);
        }
        match next {
            Nud::Failed => {
                for waiting in self.neighbours.take_queue(key) {
                    self.report_unreachable(now, link, &waiting);
                }
            }
            Nud::Probe | Nud::Incomplete => self.ask(now, key),
            _ => {}
        }
    }

    /// Somebody else may have changed the table: what it says holds.
    pub(super) fn sync_neighbour(&mut self, now: Instant, link: IfIndex, address: IpAddr) {
        let key = (link, address);
        let Some(shown) = self.tables.neighbours.get(&key).cloned() else {
            self.timers.clear(Timer::Neighbour(link, address));
            let _ = self.neighbours.take_queue(key);
            self.neighbours.entries.remove(&key);
            return;
        };
        if !self.neighbours.entries.contains_key(&key) && !self.insert(now, key) {
            return;
        }
        let Some(entry) = self.neighbours.entries.get_mut(&key) else { return };
        if entry.state == shown.state && entry.mac == shown.mac && entry.router == shown.router {
            return;
        }
        entry.state = shown.state;
        entry.mac = shown.mac;
        entry.router = shown.router;
        entry.updated = now;
        entry.probes = 0;
        let due = match shown.state {
            Nud::Reachable => {
                entry.confirmed = Some(now);
                Some(now + entry.reachable)
            }
            Nud::Delay => Some(now + DELAY),
            Nud::Probe | Nud::Incomplete => Some(now),
            _ => None,
        };
        match due {
            Some(due) => self.timers.set(Timer::Neighbour(link, address), due),
            None => self.timers.clear(Timer::Neighbour(link, address)),
        }
        if let (Some(mac), Nud::Permanent | Nud::Reachable | Nud::Stale | Nud::NoArp) =
            (shown.mac, shown.state)
        {
            self.release(now, key, mac);
        }
    }

    /// Forgets the neighbours on a link, but those set by hand while it merely lost its carrier.
    pub(super) fn flush_neighbours(&mut self, link: IfIndex, keep_permanent: bool) {
        let entries = &self.neighbours.entries;
        let leaves = |(key, entry): (&(IfIndex, IpAddr), &Entry)| {
            let keep = key.0 != link || (keep_permanent && entry.state == Nud::Permanent);
            (!keep).then_some(*key)
        };
        let gone: Vec<_> = entries.iter().filter_map(leaves).collect();
        for key in gone {
            self.forget(key);
        }
    }

    /// Removes an entry; what waits for it is dropped.
    /// What is known of an address may be of somebody who had it before: it is asked for anew.
    pub fn forget_neighbour(&mut self, link: IfIndex, address: IpAddr) {
        if self.tables.neighbours.contains_key(&(link, address)) {
            self.forget((link, address));
        }
    }

    fn forget(&mut self, key: (IfIndex, IpAddr)) {
        self.timers.clear(Timer::Neighbour(key.0, key.1));
        let _ = self.neighbours.take_queue(key);
        self.neighbours.entries.remove(&key);
        if let Some(old) = self.tables.neighbours.remove(&key) {
            self.tables.changes.push_back(Change::NeighbourGone(key.0, key.1, old));
        }
    }

    /// A new entry in no state worth telling yet. False if there are too many.
    fn create(&mut self, now: Instant, key: (IfIndex, IpAddr)) -> bool {
        if self.neighbours.entries.len() >= MAX_NEIGHBOURS {
            self.make_room(now);
        }
        self.insert(now, key)
    }

    fn insert(&mut self, now: Instant, key: (IfIndex, IpAddr)) -> bool {
        if self.neighbours.entries.len() >= MAX_NEIGHBOURS {
            return false;
        }
        let entry = Entry {
            mac: None,
            state: Nud::Failed,
            router: false,
            confirmed: None,
            updated: now,
            used: now,
            reachable: REACHABLE / 2 + self.random.delay(REACHABLE),
            probes: 0,
            queue: VecDeque::new(),
            queued: 0,
        };
        self.neighbours.entries.insert(key, entry);
        true
    }

    /// neigh_forced_gc: failed ones go, and those that have not changed lately.
    fn make_room(&mut self, now: Instant) {
        let surplus = self.neighbours.entries.len() - KEEP_NEIGHBOURS;
        let entries = self.neighbours.entries.iter();
        let old = entries.filter(|(_, entry)| !entry.is_fixed()).filter(|(_, entry)| {
            entry.state == Nud::Failed || (entry.state != Nud::Incomplete && now > entry.updated + YOUNG)
        });
        let gone: Vec<_> = old.take(surplus).map(|(key, _)| *key).collect();
        for key in gone {
            self.forget(key);
        }
    }

    /// Enters a state and tells it.
    fn enter(&mut self, now: Instant, key: (IfIndex, IpAddr), state: Nud) {
        let Some(entry) = self.neighbours.entries.get_mut(&key) else { return };
        if state == Nud::Incomplete {
            entry.probes = 0;
            entry.mac = None;
        }
        entry.state = state;
        entry.updated = now;
        let shown = Neighbour { mac: entry.mac, state, router: entry.router, updated: now };
        self.tables.neighbours.insert(key, shown.clone());
        self.tables.changes.push_back(Change::Neighbour(key.0, key.1, shown));
    }

    /// Asks a neighbour for its hardware address: everybody, or itself if the address is merely doubted.
    fn ask(&mut self, now: Instant, key: (IfIndex, IpAddr)) {
        let Some(entry) = self.neighbours.entries.get_mut(&key) else { return };
        entry.probes += 1;
        let known = if entry.state == Nud::Probe { entry.mac } else { None };
        let source = entry.queue.front().and_then(|waiting| source_of(&waiting.packet));
        let source =
            source.filter(|source| self.index().owned(*source).iter().any(|owned| owned.is_usable()));
        match key.1 {
            IpAddr::V4(target) => self.send_arp_request(key.0, source, target, known),
            IpAddr::V6(target) => self.send_solicitation(now, key.0, source, target, known),
        }
    }

    /// Sends what waited.
    fn release(&mut self, now: Instant, key: (IfIndex, IpAddr), mac: Mac) {
        let queue = self.neighbours.take_queue(key);
        if let Some(entry) = self.neighbours.entries.get_mut(&key) {
            entry.used = now;
        }
        for waiting in queue {
            if self.arena.is_full() {
                self.count(key.0, |counters| counters.tx_dropped += 1);
                continue;
            }
            let at = self.arena.write(&[&waiting.packet]);
            self.emit_ip(key.0, mac, at, waiting.header);
        }
    }
}

/// The source address in an IP header.
fn source_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from),
        6 => packet.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from),
        _ => None,
    }
}
