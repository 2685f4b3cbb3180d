//! The VLANs of a switch: their names, who is in them, and how a port comes and goes there.

use super::{Member, Switch, Trunk, VlanCounters};
use crate::events::Event;
use crate::port::PortId;
use crate::vlan::{self, PortVlans, Vid, VidSet};

impl Switch {
    /// Changes a port's VLANs; stations learned there are forgotten, as they may be elsewhere now.
    pub fn set_vlans(&mut self, id: PortId, vlans: PortVlans) {
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let old = std::mem::replace(&mut port.vlans, vlans.clone());
        let is_open = port.is_open();
        self.events.push(Event::PortVlans { port: port.name.clone(), vlans: vlans.clone() });
        self.leave(id, &old);
        if is_open {
            self.join(id, &vlans);
        }
        self.fdb.forget_learned(id);
    }

    /// Names a VLAN; it is listed even while it has no members.
    pub fn name_vlan(&mut self, vid: Vid, name: &str) {
        self.vlan_names.insert(vid, name.to_owned());
        self.events.push(Event::VlanNamed { vlan: vid, name: name.to_owned() });
    }

    /// The name of a VLAN.
    pub fn vlan_name(&self, vid: Vid) -> Option<&str> {
        self.vlan_names.get(&vid).map(String::as_str)
    }

    /// What a VLAN counted.
    pub fn vlan_counters(&self, vid: Vid) -> VlanCounters {
        self.vlan_counters[vid.index()]
    }

    /// The VLANs that have a name, a port whose frames have no tag, or traffic; those that trunks merely allow
    /// would make a long list.
    pub fn vlans(&self) -> impl Iterator<Item = Vid> {
        let closed = self.closed().filter_map(|(_, port)| port.vlans.pvid());
        let natives: VidSet = self.trunks.iter().filter_map(|trunk| trunk.native).chain(closed).collect();
        Vid::all().filter(move |vid| {
            self.vlan_names.contains_key(vid)
                || self.vlan_rates.contains_key(vid)
                || self.members[vid.index()].iter().any(|m| m.egress == vlan::Egress::Untagged)
                || natives.contains(*vid)
                || self.vlan_counters[vid.index()].rx_frames > 0
        })
    }

    /// The members of a VLAN and how frames leave there; trunks that carry every VLAN come later, and ports that the
    /// spanning tree has closed last.
    pub fn members(&self, vid: Vid) -> impl Iterator<Item = (PortId, vlan::Egress)> {
        let own = self.members[vid.index()].iter().map(|m| (m.port, m.egress));
        own.chain(self.trunks.iter().map(move |trunk| (trunk.port, trunk.egress(vid))))
            .chain(self.closed().filter_map(move |(id, port)| Some((id, port.vlans.egress(vid)?))))
    }

    /// Forgets a VLAN: its name, counters and stations, and its place in every trunk's list.
    ///
    /// # Errors
    /// The port whose access or native VLAN it is, or the number kept for one.
    pub fn remove_vlan(&mut self, vid: Vid) -> Result<(), PortId> {
        if let Some((id, _)) = self.ports().find(|(_, port)| port.vlans.pvid() == Some(vid)) {
            return Err(id);
        }
        if let Some(id) = self.place_within(vid) {
            return Err(id);
        }
        self.forget_vlan_of_places(vid);
        let carriers: Vec<(PortId, PortVlans)> = self
            .ports()
            .filter(|(_, port)| port.vlans.carries(vid))
            .map(|(id, port)| (id, port.vlans.clone()))
            .collect();
        for (id, mut vlans) in carriers {
            vlans.stop_carrying(vid);
            self.set_vlans(id, vlans);
        }
        self.fdb.retain(|v, _, _, _| v != vid);
        self.vlan_names.remove(&vid);
        self.vlan_rates.remove(&vid);
        self.vlan_counters[vid.index()] = VlanCounters::default();
        self.events.push(Event::VlanRemoved { vlan: vid });
        Ok(())
    }

    pub(super) fn join(&mut self, id: PortId, vlans: &PortVlans) {
        if let Some(egress) = vlans.carries_all() {
            return self.trunks.push(Trunk { port: id, native: vlans.pvid(), egress });
        }
        for_each_vlan(vlans, |vid, egress| self.members[vid.index()].push(Member { port: id, egress }));
    }

    pub(super) fn leave(&mut self, id: PortId, vlans: &PortVlans) {
        if vlans.carries_all().is_some() {
            return self.trunks.retain(|trunk| trunk.port != id);
        }
        for_each_vlan(vlans, |vid, _| self.members[vid.index()].retain(|m| m.port != id));
    }
}

fn for_each_vlan(vlans: &PortVlans, mut each: impl FnMut(Vid, vlan::Egress)) {
    let candidates: Box<dyn Iterator<Item = Vid>> = match vlans {
        PortVlans::Access { vid } | PortVlans::Tunnel { vid } => Box::new(std::iter::once(*vid)),
        _ => Box::new(Vid::all()),
    };
    candidates.filter_map(|vid| Some((vid, vlans.egress(vid)?))).for_each(|(vid, egress)| each(vid, egress));
}
