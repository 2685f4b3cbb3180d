//! Who has which flow, for how long, and who has to give one up. A core.
//!
//! # Theory of operation
//! A [`Flows`] gives each flow a small number, by which the shell finds what it has of it, and keeps when it was
//! last used. Deadlines are lazy: a use is one store, and only when a flow's deadline comes it is seen whether that
//! has moved. When the table is full, the inside address that has most flows gives one up: the one that it has had
//! longest without having used it since this was last asked (a clock with one hand). So whoever opens flows without
//! end loses its own and nobody else's.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Flows that are looked at for one that was not used lately, before the oldest goes all the same.
const LOOKED_AT: usize = 16;
/// A queue of flows is swept when so many of its entries, and half of them, may be of flows that have ended.
const SLACK: usize = 64;

/// The number of a flow; used again when it has ended.
pub type Slot = usize;

#[derive(Debug)]
struct Flow<K> {
    key: K,
    owner: IpAddr,
    serial: u64,
    used_at: Instant,
    used: bool,
    lifetime: Duration,
    deadline: Instant,
}

/// The flows of an owner, oldest first, ended ones among them.
#[derive(Debug, Default)]
struct Owned {
    count: usize,
    queue: VecDeque<(Slot, u64)>,
}

/// A table of flows, each found by a key.
#[derive(Debug)]
pub struct Flows<K> {
    limit: usize,
    slots: Vec<Option<Flow<K>>>,
    free: Vec<Slot>,
    keys: HashMap<K, Slot>,
    owners: HashMap<IpAddr, Owned>,
    deadlines: BTreeSet<(Instant, Slot)>,
    serial: u64,
}

impl<K: Hash + Eq + Clone> Flows<K> {
    /// An empty table for so many flows.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            slots: Vec::new(),
            free: Vec::new(),
            keys: HashMap::new(),
            owners: HashMap::new(),
            deadlines: BTreeSet::new(),
            serial: 0,
        }
    }

    /// From now on at most so many, if that is less.
    pub fn limit_to(&mut self, most: usize) {
        self.limit = self.limit.min(most);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The flow with this key.
    pub fn find(&self, key: &K) -> Option<Slot> {
        self.keys.get(key).copied()
    }

    /// Who has it.
    pub fn owner(&self, slot: Slot) -> Option<IpAddr> {
        self.slots.get(slot)?.as_ref().map(|flow| flow.owner)
    }

    /// Its key.
    pub fn key(&self, slot: Slot) -> Option<&K> {
        self.slots.get(slot)?.as_ref().map(|flow| &flow.key)
    }

    /// Which flow has to end before there is room for another one.
    pub fn crowded(&mut self) -> Option<Slot> {
        if self.keys.len() < self.limit {
            return None;
        }
        let slots = &mut self.slots;
        let owned = self.owners.values_mut().max_by_key(|owned| owned.count)?;
        let mut looked = 0;
        while let Some((slot, serial)) = owned.queue.pop_front() {
            let Some(flow) = slots[slot].as_mut().filter(|flow| flow.serial == serial) else { continue };
            owned.queue.push_back((slot, serial));
            looked += 1;
            if !std::mem::take(&mut flow.used) || looked > LOOKED_AT {
                return Some(slot);
            }
        }
        None
    }

    /// A new flow of `owner`, to end when it was not used for `lifetime`. Whoever is named by
    /// [`Flows::crowded`] has been removed before, and the key is new.
    pub fn insert(&mut self, now: Instant, key: K, owner: IpAddr, lifetime: Duration) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.serial += 1;
        let (serial, deadline) = (self.serial, now + lifetime);
        let owned = self.owners.entry(owner).or_default();
        owned.count += 1;
        owned.queue.push_back((slot, serial));
        if owned.queue.len() > 2 * owned.count + SLACK {
            let slots = &self.slots;
            owned.queue.retain(|&(at, was)| {
                (at, was) == (slot, serial) || slots[at].as_ref().is_some_and(|flow| flow.serial == was)
            });
        }
        self.keys.insert(key.clone(), slot);
        self.deadlines.insert((deadline, slot));
        self.slots[slot] = Some(Flow { key, owner, serial, used_at: now, used: false, lifetime, deadline });
        slot
    }

    /// It was used.
    pub fn touch(&mut self, now: Instant, slot: Slot) {
        if let Some(Some(flow)) = self.slots.get_mut(slot) {
            (flow.used_at, flow.used) = (now, true);
        }
    }

    /// From now on it ends after another time without use.
    pub fn set_lifetime(&mut self, now: Instant, slot: Slot, lifetime: Duration) {
        let Some(Some(flow)) = self.slots.get_mut(slot) else { return };
        self.deadlines.remove(&(flow.deadline, slot));
        (flow.used_at, flow.lifetime, flow.deadline) = (now, lifetime, now + lifetime);
        self.deadlines.insert((flow.deadline, slot));
    }

    /// It has ended.
    pub fn remove(&mut self, slot: Slot) {
        let Some(flow) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.keys.remove(&flow.key);
        self.deadlines.remove(&(flow.deadline, slot));
        self.free.push(slot);
        if let Some(owned) = self.owners.get_mut(&flow.owner) {
            owned.count -= 1;
            if owned.count == 0 {
                self.owners.remove(&flow.owner);
            }
        }
    }

    /// When to ask for [`Flows::poll_expired`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A flow that nobody has used for its lifetime.
    pub fn poll_expired(&mut self, now: Instant) -> Option<Slot> {
        while let Some((at, slot)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            let Some(Some(flow)) = self.slots.get_mut(slot) else {
                self.deadlines.remove(&(at, slot));
                continue;
            };
            let deadline = flow.used_at + flow.lifetime;
            if deadline <= now {
                return Some(slot);
            }
            flow.deadline = deadline;
            self.deadlines.remove(&(at, slot));
            self.deadlines.insert((deadline, slot));
        }
        None
    }

    /// Each owner, and how many flows it has.
    pub fn owners(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        self.owners.iter().map(|(owner, owned)| (*owner, owned.count))
    }
}

#[cfg(test)]
#[path = "flows/tests.rs"]
mod tests;
