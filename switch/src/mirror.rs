//! Port mirroring: copies of the frames of some ports, given to another one.
//!
//! # Theory of operation
//! A [`Mirror`] watches ports and gives a copy of what they take (`in`), give (`out`) or both to one port, its
//! *target*. The target is for copies only: it is a member of no VLAN, and what arrives there is dropped
//! ([`crate::port::DropReason::MirrorPort`]) before anything is learned. So a copy cannot come back, be
//! copied again, or teach the switch that a station moved. A copy is as the frame was on the watched port's
//! wire, tag included; a frame that goes through two watched ports is copied twice.
//!
//! Watched ports are known by their names: one that goes, and comes again, is watched again. A mirror is known by its
//! target, and goes with it. [`Mirrors::apply`] adds the copies to the list of ports that
//! the switch made for a frame; without mirrors it is not called.
//!
//! Read: switched port analysers as described for Open vSwitch's `Mirror` table (ovs-vswitchd.conf.db(5)).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::frame::TagEdit;
use crate::port::PortId;
use crate::switch::Transmit;
use crate::vlan::{Vid, VidSet};

/// Mirrors at most: each is looked at for every frame while there is one.
pub const MAX_MIRRORS: usize = 16;

/// Which frames of a port are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Those that arrive at the switch there.
    In,
    /// Those that leave the switch there.
    Out,
    /// All.
    #[default]
    Both,
}

impl Direction {
    /// Are arriving frames meant?
    pub fn has_in(self) -> bool {
        self != Self::Out
    }

    /// Are leaving frames meant?
    pub fn has_out(self) -> bool {
        self != Self::In
    }
}

/// One mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The watched ports; `None`: all.
    pub from: Option<Watched>,
    /// Which of their frames.
    pub direction: Direction,
    /// Of which VLANs.
    pub vlans: VidSet,
    /// The port that gets the copies.
    pub to: PortId,
    /// Copies made; those the target had no room for are among its drops.
    pub frames: u64,
    /// Their bytes, as the frames arrived at the switch.
    pub bytes: u64,
}

/// Ports by their names, those that are there by their numbers, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    names: BTreeSet<String>,
    ids: BTreeSet<PortId>,
}

impl Watched {
    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Is it this port?
    pub fn contains(&self, port: PortId) -> bool {
        self.ids.contains(&port)
    }
}

impl<'a> FromIterator<(&'a str, PortId)> for Watched {
    fn from_iter<I: IntoIterator<Item = (&'a str, PortId)>>(ports: I) -> Self {
        let (names, ids) = ports.into_iter().map(|(name, id)| (name.to_owned(), id)).unzip();
        Self { names, ids }
    }
}

impl Mirror {
    fn watches(&self, port: PortId) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(port))
    }
}

/// All mirrors of a switch.
#[derive(Debug, Default)]
pub struct Mirrors {
    list: Vec<Mirror>,
}

impl Mirrors {
    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Mirror> {
        self.list.iter()
    }

    /// Adds a mirror, in the place of one with the same target; false if there are too many.
    #[must_use]
    pub fn set(&mut self, mirror: Mirror) -> bool {
        let is_full = self.list.len() >= MAX_MIRRORS;
        match self.list.iter_mut().find(|m| m.to == mirror.to) {
            Some(old) => *old = mirror,
            None if is_full => return false,
            None => self.list.push(mirror),
        }
        true
    }

    /// Takes the mirror with this target away; false if there is none.
    pub fn remove(&mut self, to: PortId) -> bool {
        let before = self.list.len();
        self.list.retain(|mirror| mirror.to != to);
        self.list.len() < before
    }

    /// A port is gone. Whoever watched it waits for one of its name.
    pub fn forget_port(&mut self, port: PortId) {
        self.remove(port);
        for from in self.watched() {
            from.ids.remove(&port);
        }
    }

    /// A port is new.
    pub fn add_port(&mut self, port: PortId, name: &str) {
        for from in self.watched().filter(|from| from.names.contains(name)) {
            from.ids.insert(port);
        }
    }

    /// A port has another name: whoever watched it does so still, and it is watched by whoever waits for that name.
    pub fn rename_port(&mut self, port: PortId, old: &str, new: &str) {
        for from in self.watched().filter(|from| from.ids.contains(&port)) {
            from.names.remove(old);
            from.names.insert(new.to_owned());
        }
        self.add_port(port, new);
    }

    fn watched(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.list.iter_mut().filter_map(|mirror| mirror.from.as_mut())
    }

    /// Adds the copies of a frame of `len` bytes, which came in on `from` as one of `vid` and leaves as `list` says.
    pub fn apply(&mut self, from: PortId, vid: Vid, len: usize, list: &mut Vec<Transmit>) {
        let forwarded = list.len();
        for mirror in self.list.iter_mut().filter(|m| m.vlans.contains(vid)) {
            let before = list.len();
            if mirror.direction.has_in() && mirror.watches(from) {
                list.push(Transmit::new(mirror.to, TagEdit::Keep));
            }
            if mirror.direction.has_out() {
                for at in 0..forwarded {
                    let copied = list[at];
                    if mirror.watches(copied.port) {
                        list.push(Transmit::new(mirror.to, copied.edit()));
                    }
                }
            }
            let copies = (list.len() - before) as u64;
            mirror.frames += copies;
            mirror.bytes += copies * len as u64;
        }
    }
}
