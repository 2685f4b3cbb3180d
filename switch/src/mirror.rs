//! Port mirroring: copies of the frames of some ports, given to another one.
//!
//! # Theory of operation
//! A [`Mirror`] watches ports and gives a copy of what they take (`in`), give (`out`) or both to one port, its
//! *target*. The target is for copies only: it is a member of no VLAN, and what arrives there is dropped
//! ([`crate::port::DropReason::MirrorPort`]) before anything is learned. So a copy cannot come back, be
//! copied again, or teach the switch that a station moved. A copy is as the frame was on the watched port's
//! wire, tag included; a frame that goes through two watched ports is copied twice.
//!
//! A mirror is known by its target, and goes with it. [`Mirrors::apply`] adds the copies to the list of ports that
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
    pub from: Option<BTreeSet<PortId>>,
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

impl Mirror {
    fn watches(&self, port: PortId) -> bool {
        self.from.as_ref().is_none_or(|from| from.contains(&port))
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

    /// A port is gone: it is watched no more. A mirror that watched nothing else stays, and sees nothing.
    pub fn forget_port(&mut self, port: PortId) {
        self.remove(port);
        for mirror in &mut self.list {
            if let Some(from) = &mut mirror.from {
                from.remove(&port);
            }
        }
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
