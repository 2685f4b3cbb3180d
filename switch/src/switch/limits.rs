//! What the switch is told about priorities, limits and pinned stations, and what a port lets in by that.

use std::time::{Duration, Instant};

use super::{Switch, is_remapping};
use crate::fdb::{Full, MAX_ENTRIES_PER_PORT};
use crate::forward::Admitted;
use crate::frame::{Mac, Priority};
use crate::guard::{Flood, Guard, GuardRules, Police, Policer, Shut};
use crate::port::{DropReason, Port, PortId};
use crate::qos::priority::{PriorityRules, Tables};
use crate::vlan::Vid;

impl Port {
    /// A frame of so many bytes may come in by its looks: may it by the port's limits, and with which priority?
    #[inline]
    pub(super) fn judge(
        &mut self,
        now: Instant,
        admitted: &Admitted<'_>,
        bytes: usize,
    ) -> Result<Priority, DropReason> {
        let tag = admitted.tag.map(|tag| tag.tci).or_else(|| admitted.frame.inner_tag());
        let priority = self.tables.ingress(tag);
        if self.shut.is_some() {
            return Err(DropReason::Shut);
        }
        if self.mirror_target {
            return Err(DropReason::MirrorPort);
        }
        match &mut self.guard {
            None => Ok(priority),
            Some(guard) => guard.judge(now, bytes, priority),
        }
    }
}

impl Switch {
    /// A station stays where it was last heard until it was silent there for longer than this.
    pub fn set_hold(&mut self, hold: Duration) {
        self.fdb.set_hold(hold);
    }

    /// A frame to this station is about to go everywhere: is it one of too many?
    #[inline]
    pub(super) fn judge_flood(&mut self, now: Instant, from: PortId, to: Mac) -> Result<(), DropReason> {
        let guard = self.ports[from.index()].as_mut().and_then(|port| port.guard.as_mut());
        let Some(guard) = guard else { return Ok(()) };
        guard.judge_flood(
            now,
            match to.is_group() {
                false => Flood::Unknown,
                true if to == Mac::BROADCAST => Flood::Broadcast,
                true => Flood::Multicast,
            },
        )
    }

    /// Changes what a port does to priorities.
    pub fn set_priorities(&mut self, id: PortId, rules: PriorityRules) {
        let Some(port) = self.port_mut(id) else { return };
        let before = is_remapping(port);
        port.priorities = rules;
        port.tables = Tables::new(&rules);
        let after = is_remapping(port);
        self.remapping = self.remapping + usize::from(after) - usize::from(before);
    }

    /// Changes a port's limits.
    pub fn set_guard(&mut self, id: PortId, rules: GuardRules) {
        let Some(port) = self.port_mut(id) else { return };
        port.guard = Guard::new(rules, port.police());
        let limit = rules.mac_limit.unwrap_or(MAX_ENTRIES_PER_PORT).min(MAX_ENTRIES_PER_PORT);
        port.mac_limit = limit;
        if self.fdb.count(id) > limit {
            self.fdb.forget_learned(id);
        }
    }

    /// Changes the rate that frames arriving on a port keep.
    pub fn set_police(&mut self, id: PortId, police: Option<Police>) {
        let Some(port) = self.port_mut(id) else { return };
        port.guard = Guard::new(port.guard_rules(), police);
    }

    /// Changes the rate that a VLAN's frames keep, wherever they come in.
    pub fn set_vlan_police(&mut self, vid: Vid, police: Option<Police>) {
        match police {
            Some(police) => drop(self.vlan_rates.insert(vid, Policer::new(police))),
            None => drop(self.vlan_rates.remove(&vid)),
        }
    }

    /// The rate that a VLAN's frames keep.
    pub fn vlan_police(&self, vid: Vid) -> Option<Police> {
        self.vlan_rates.get(&vid).map(Policer::rules)
    }

    /// Shuts a port: nothing goes in or out until [`Switch::open_port`].
    pub fn shut_port(&mut self, now: Instant, id: PortId, why: Shut) {
        let Some(port) = self.port_mut(id) else { return };
        let was_open = port.is_open();
        port.shut = Some(why);
        let vlans = port.vlans.clone();
        if was_open {
            self.leave(id, &vlans);
        }
        self.fdb.forget_learned(id);
        self.tell_tree_of_link(now, id);
    }

    /// Opens a port that was shut.
    pub fn open_port(&mut self, now: Instant, id: PortId) {
        let Some(port) = self.port_mut(id).filter(|port| port.shut.is_some()) else { return };
        port.shut = None;
        let (is_open, vlans) = (port.is_open(), port.vlans.clone());
        if is_open {
            self.join(id, &vlans);
        }
        self.tell_tree_of_link(now, id);
    }

    /// Pins a station to a port.
    ///
    /// # Errors
    /// The table is full.
    pub fn pin(&mut self, now: Instant, vid: Vid, mac: Mac, port: PortId) -> Result<(), Full> {
        self.fdb.pin(now, vid, mac, port)
    }

    /// Forgets a pinned station; false if there is none.
    pub fn unpin(&mut self, vid: Vid, mac: Mac) -> bool {
        self.fdb.unpin(vid, mac)
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.index())?.as_mut()
    }
}
