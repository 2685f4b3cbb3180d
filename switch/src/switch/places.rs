//! Numbers that are kept for VDE's programs, and the switch as a hub: what a vde_switch has and a bridge has not.
//!
//! # Theory of operation
//! A port's number is its place in the table, from 1. A number may be *kept*: then no port is plugged in there but
//! one that asks for it ([`Switch::add_port_at`]), and what is said of it ([`Place`]) outlives the ports that come
//! and go there, as do a port's counters. vde_switch calls that a port that was created.
//!
//! A hub gives every frame, as it came, to all other ports: it learns nothing, knows no VLAN, and repeats what a
//! switch keeps to its link. The spanning tree is off meanwhile.
//!
//! Read: vde-2's src/vde_switch/port.c (`alloc_port`, `checkport_ac`, `handle_in_packet`).

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Egress, PortError, Switch, Transmit, Way};
use crate::events::Event;
use crate::forward::{self, Admitted};
use crate::frame::{Priority, TagEdit};
use crate::offload::VnetHdr;
use crate::port::{Counters, DropReason, MAX_PORTS, Offloads, PortId};
use crate::vlan::{PortVlans, Vid};

/// What is kept of a port's number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The VLAN rules of whoever plugs in there.
    pub vlans: PortVlans,
    /// A program that asks for no number may get it.
    pub allocatable: bool,
    /// Only this user may plug in there, or one of the group.
    pub user: Option<u32>,
    /// Only who is in this group may plug in there, or the user.
    pub group: Option<u32>,
    /// What was counted there so far.
    pub counters: Counters,
}

impl Place {
    /// May a user with these groups plug in there? Root may always, and where nobody is named all may.
    pub fn admits(&self, uid: u32, groups: &[u32]) -> bool {
        let free = self.user.is_none() && self.group.is_none();
        free || uid == 0 || self.user == Some(uid) || self.group.is_some_and(|group| groups.contains(&group))
    }
}

/// The numbers that are kept, and how many there are to be had.
#[derive(Debug)]
pub(super) struct Places {
    table: BTreeMap<PortId, Place>,
    limit: u32,
}

impl Default for Places {
    fn default() -> Self {
        Self { table: BTreeMap::new(), limit: MAX_PORTS as u32 }
    }
}

impl Places {
    pub(super) fn is_kept(&self, id: PortId) -> bool {
        self.table.contains_key(&id)
    }
}

impl Switch {
    /// The numbers that are kept, in their order.
    pub fn places(&self) -> impl Iterator<Item = (PortId, &Place)> {
        self.places.table.iter().map(|(id, place)| (*id, place))
    }

    /// What is kept of a number.
    pub fn place(&self, id: PortId) -> Option<&Place> {
        self.places.table.get(&id)
    }

    /// Keeps a number, if it was not kept yet, and lets its place be changed; of one with a port, the port's VLAN rules
    /// count as long as it is there.
    ///
    /// # Errors
    /// There is no such number.
    pub fn keep_place(&mut self, id: PortId) -> Result<&mut Place, PortError> {
        if id.index() >= MAX_PORTS {
            return Err(PortError::Full);
        }
        let vlans = self.port(id).map(|port| port.vlans.clone()).unwrap_or_default();
        // Whoever is there has the number already, and others may have it afterwards as before.
        let allocatable = self.port(id).is_some();
        Ok(self.places.table.entry(id).or_insert_with(|| Place { vlans, allocatable, ..Place::default() }))
    }

    /// Keeps a number no more; a port that is there stays. True if it was kept.
    pub fn release_place(&mut self, id: PortId) -> bool {
        self.places.table.remove(&id).is_some()
    }

    /// How many numbers there are for programs that plug in: those up to this one.
    pub fn numbers(&self) -> u32 {
        self.places.limit
    }

    /// Changes how many numbers there are, 1 to [`MAX_PORTS`]; ports beyond stay.
    pub fn set_numbers(&mut self, limit: u32) {
        self.places.limit = limit.clamp(1, MAX_PORTS as u32);
    }

    /// The first number that a program gets which asked for none, among those it may have.
    pub fn free_number(&self, admits: impl Fn(PortId) -> bool) -> Option<PortId> {
        let most = self.places.limit.min(self.most_ports() as u32);
        let fit = |id: &PortId| self.place(*id).is_none_or(|place| place.allocatable) && admits(*id);
        let free = (0..most).map(PortId::new).filter(|id| self.port(*id).is_none());
        free.filter(fit).find(|id| self.find(&number_name(*id)).is_none())
    }

    /// Adds a port with this number, with the VLAN rules and counters that were kept of it.
    ///
    /// # Errors
    /// A bad name, a number that is taken or that there is not.
    pub fn add_port_at(&mut self, id: PortId, name: &str, offloads: Offloads) -> Result<(), PortError> {
        self.check_name(name)?;
        match id.index() {
            index if index >= self.places.limit as usize => {
                return Err(PortError::NoSuchNumber(self.places.limit));
            }
            index if index >= self.most_ports() => return Err(PortError::NoNumber),
            _ => {}
        }
        if self.port(id).is_some() {
            return Err(PortError::NumberTaken(id.index() as u32 + 1));
        }
        if let Some(at) = self.free.iter().position(|index| *index == id.index() as u32) {
            self.free.swap_remove(at);
        }
        while self.ports.len() <= id.index() {
            self.free.extend((self.ports.len() < id.index()).then_some(self.ports.len() as u32));
            self.ports.push(None);
        }
        let place = self.place(id).cloned().unwrap_or_default();
        self.plug_in(id, name, place.vlans, offloads);
        if let Some(counters) = self.counters_mut(id) {
            *counters = place.counters;
        }
        Ok(())
    }

    /// A port is gone: what is kept of its number is as it was at last.
    pub(super) fn leave_place(&mut self, id: PortId, vlans: &PortVlans, counters: Counters) {
        if let Some(place) = self.places.table.get_mut(&id) {
            (place.vlans, place.counters) = (vlans.clone(), counters);
        }
    }

    /// A number that is kept, and at which nobody is, whose frames without tag are of this VLAN.
    pub(super) fn place_within(&self, vid: Vid) -> Option<PortId> {
        let mut empty = self.places().filter(|(id, _)| self.port(*id).is_none());
        empty.find(|(_, place)| place.vlans.pvid() == Some(vid)).map(|(id, _)| id)
    }

    /// A VLAN is forgotten: nobody who plugs in later is in it.
    pub(super) fn forget_vlan_of_places(&mut self, vid: Vid) {
        let carriers = self.places.table.values_mut().filter(|place| place.vlans.carries(vid));
        carriers.for_each(|place| place.vlans.stop_carrying(vid));
    }

    /// Is the switch a hub?
    pub fn is_hub(&self) -> bool {
        self.hub
    }

    /// Makes the switch a hub, or one that learns again. A hub has no spanning tree; it must be off.
    pub fn set_hub(&mut self, hub: bool) {
        if std::mem::replace(&mut self.hub, hub) != hub {
            self.fdb.retain(|_, _, _, pinned| pinned);
            let value = if hub { "on" } else { "off" }.to_owned();
            self.events.push(Event::Setting { name: "hub".to_owned(), value });
        }
    }

    /// What a hub does with a frame.
    #[cold]
    pub(super) fn repeat(
        &mut self,
        now: Instant,
        from: PortId,
        hdr: &VnetHdr,
        bytes: &[u8],
        out: &mut Egress,
    ) -> Result<Way, DropReason> {
        let frame = forward::check(hdr, bytes)?;
        let (vid, tag) = (Vid::DEFAULT, None);
        let ingress = self.ports[from.index()].as_mut();
        let judged = ingress.map(|port| port.judge(now, &Admitted { frame, vid, tag }, bytes.len()));
        (out.vid, out.priority) = (vid, judged.unwrap_or_else(|| Ok(Priority::default()))?);
        self.judge_flood(now, from, frame.destination())?;
        let others = self.ports().filter(|(id, port)| *id != from && port.is_open());
        out.list.extend(others.map(|(port, _)| Transmit::new(port, TagEdit::Keep)));
        if !self.mirrors.is_empty() {
            self.mirrors.apply(from, vid, bytes.len(), &mut out.list);
        }
        Ok(Way::Out(frame.kind()))
    }
}

/// The name of a VDE program's port with this number.
pub fn number_name(id: PortId) -> String {
    format!("vde{}", id.index() + 1)
}

#[cfg(test)]
mod tests;
