//! The switch: a frame came in on a port; on which ports does it go out, and how.
//!
//! # Theory of operation
//! [`Switch::handle_frame`] is the whole frame path: judge (`crate::forward`), learn, look up, and write
//! the decision into an [`Egress`], which the caller reuses; it allocates nothing once its tables have
//! grown, and a frame to a known station costs the same with two ports or with thousands. A flood visits the
//! members of the frame's VLAN only: a list per VLAN, and one list of the trunks that carry them all, so
//! that such a trunk does not cost 4094 entries.
//!
//! The caller writes the frame (`crate::offload::emit`) and reports back with [`Switch::sent`] and
//! [`Switch::dropped`]. Ports come and go with [`Switch::add_port`] and [`Switch::remove_port`]. Time is an
//! argument; [`Switch::poll_timeout`] says when [`Switch::handle_timeout`] has work.
//!
//! Read: IEEE 802.1Q-2018 clause 8.6 (the forwarding process).

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::fdb::{Entry, Fdb};
use crate::forward::{self, Admitted};
use crate::frame::{Frame, Mac, TagEdit};
use crate::offload::VnetHdr;
use crate::port::{self, Counters, DropReason, MAX_PORTS, Offloads, Port, PortId};
use crate::vlan::{self, PortVlans, Vid, VidSet};

/// Size of a table with a place for every 12-bit VLAN number.
const VLANS: usize = 4096;

/// Where a frame goes.
#[derive(Debug, Default)]
pub struct Egress {
    list: Vec<Transmit>,
}

/// One port a frame leaves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The port.
    pub port: PortId,
    /// What happens to its tag there.
    pub edit: TagEdit,
}

impl Egress {
    /// An empty list, to be used again and again.
    pub fn new() -> Self {
        Self::default()
    }

    /// The ports of the last frame.
    pub fn as_slice(&self) -> &[Transmit] {
        &self.list
    }
}

/// What a VLAN counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VlanCounters {
    /// Frames let in.
    pub rx_frames: u64,
    /// Their bytes, as they arrived.
    pub rx_bytes: u64,
    /// Those of them that went to every member: broadcast, multicast, unknown.
    pub flooded: u64,
}

/// Why a port cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Another port has the name.
    #[error("there is a port `{0}` already")]
    NameTaken(String),
    /// The name is empty, too long or not printable.
    #[error("a port's name is 1 to 64 printable characters without space")]
    BadName,
    /// The switch is full.
    #[error("the switch has {MAX_PORTS} ports already")]
    Full,
    /// No such port.
    #[error("there is no port `{0}`")]
    Unknown(String),
}

/// An Ethernet switch with 802.1Q.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Option<Port>>,
    free: Vec<u32>,
    names: FxHashMap<String, PortId>,
    fdb: Fdb,
    /// Per VLAN its members, but those in `trunks`.
    members: Vec<Vec<Member>>,
    /// Ports that carry every VLAN, with their native one.
    trunks: Vec<(PortId, Option<Vid>)>,
    vlan_counters: Vec<VlanCounters>,
    vlan_names: FxHashMap<Vid, String>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    port: PortId,
    egress: vlan::Egress,
}

impl Switch {
    /// A switch without ports that forgets silent stations after `age`.
    pub fn new(age: Duration) -> Self {
        Self {
            ports: Vec::new(),
            free: Vec::new(),
            names: FxHashMap::default(),
            fdb: Fdb::new(age),
            members: vec![Vec::new(); VLANS],
            trunks: Vec::new(),
            vlan_counters: vec![VlanCounters::default(); VLANS],
            vlan_names: FxHashMap::default(),
        }
    }

    /// A frame with its virtio-net header arrived on `port`; `out` is replaced by where it goes. Returns the
    /// checked frame, for writing, unless it was dropped.
    pub fn handle_frame<'f>(
        &mut self,
        now: Instant,
        port: PortId,
        hdr: &VnetHdr,
        bytes: &'f [u8],
        out: &mut Egress,
    ) -> Option<Frame<'f>> {
        out.list.clear();
        let ingress = self.ports.get_mut(port.index())?.as_mut()?;
        ingress.counters.rx_frames += 1;
        ingress.counters.rx_bytes += bytes.len() as u64;
        let admitted = match forward::admit(&ingress.vlans, hdr, bytes) {
            Ok(admitted) => admitted,
            Err(reason) => {
                log::trace!("port {}: dropped a frame of {} bytes: {reason:?}", ingress.name, bytes.len());
                ingress.counters.count_drop(reason);
                return None;
            }
        };
        let counters = &mut self.vlan_counters[admitted.vid.index()];
        counters.rx_frames += 1;
        counters.rx_bytes += bytes.len() as u64;
        self.fdb.learn(now, admitted.vid, admitted.source, port);
        let known = match admitted.destination.is_group() {
            true => None,
            false => self.fdb.lookup(now, admitted.vid, admitted.destination),
        };
        match known {
            Some(to) if to == port => {
                self.dropped(port, DropReason::SamePort);
                return None;
            }
            Some(to) => self.unicast(&admitted, to, out),
            None => self.flood(&admitted, port, out),
        }
        Some(admitted.frame)
    }

    fn unicast(&self, admitted: &Admitted<'_>, to: PortId, out: &mut Egress) {
        // A station's port may have left the VLAN since; then the frame goes nowhere until it is heard again.
        if let Some(egress) = self.port(to).and_then(|p| p.vlans.egress(admitted.vid)) {
            out.list.push(Transmit { port: to, edit: forward::tag_edit(admitted.tag, admitted.vid, egress) });
        }
    }

    fn flood(&mut self, admitted: &Admitted<'_>, from: PortId, out: &mut Egress) {
        let &Admitted { vid, tag, .. } = admitted;
        self.vlan_counters[vid.index()].flooded += 1;
        for member in self.members[vid.index()].iter().filter(|m| m.port != from) {
            let edit = forward::tag_edit(tag, vid, member.egress);
            out.list.push(Transmit { port: member.port, edit });
        }
        for &(port, native) in self.trunks.iter().filter(|(port, _)| *port != from) {
            let egress = if native == Some(vid) { vlan::Egress::Untagged } else { vlan::Egress::Tagged };
            out.list.push(Transmit { port, edit: forward::tag_edit(tag, vid, egress) });
        }
    }

    /// Frames of `bytes` in all were written to `port`.
    pub fn sent(&mut self, port: PortId, frames: u64, bytes: u64) {
        if let Some(counters) = self.counters_mut(port) {
            counters.tx_frames += frames;
            counters.tx_bytes += bytes;
        }
    }

    /// Counts from zero again: one port, or all.
    pub fn reset_counters(&mut self, port: Option<PortId>) {
        let chosen = |id: usize| port.is_none_or(|port| port.index() == id);
        let ports = self.ports.iter_mut().enumerate().filter(|(id, _)| chosen(*id));
        ports.filter_map(|(_, port)| port.as_mut()).for_each(|port| port.counters = Counters::default());
    }

    /// A frame was dropped at `port`.
    pub fn dropped(&mut self, port: PortId, reason: DropReason) {
        if let Some(counters) = self.counters_mut(port) {
            counters.count_drop(reason);
        }
    }

    /// Time passed: reclaims the memory of stations long silent.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.fdb.next_expiry().is_some_and(|at| at <= now) {
            self.fdb.expire(now);
        }
    }

    /// When to call [`Switch::handle_timeout`], if nothing else happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.fdb.next_expiry()
    }

    /// Adds a port.
    ///
    /// # Errors
    /// A bad name or a full switch.
    pub fn add_port(
        &mut self,
        name: &str,
        vlans: PortVlans,
        offloads: Offloads,
    ) -> Result<PortId, PortError> {
        self.check_name(name)?;
        let id = match self.free.pop() {
            Some(index) => PortId::new(index),
            None if self.ports.len() >= MAX_PORTS => return Err(PortError::Full),
            None => {
                let index = self.ports.len() as u32;
                self.ports.push(None);
                PortId::new(index)
            }
        };
        self.join(id, &vlans);
        self.names.insert(name.to_owned(), id);
        let counters = Counters::default();
        self.ports[id.index()] = Some(Port { name: name.to_owned(), vlans, offloads, counters });
        Ok(id)
    }

    /// A name no port has: `p1`, `p2` …
    pub fn free_name(&self) -> String {
        // One of MAX_PORTS + 1 names is free; the search starts where it most likely is.
        (self.names.len() + 1..)
            .map(|n| format!("p{n}"))
            .find(|name| !self.names.contains_key(name))
            .expect("numbers do not run out")
    }

    /// Takes a port away, with all stations behind it.
    pub fn remove_port(&mut self, id: PortId) -> Option<Port> {
        let port = self.ports.get_mut(id.index())?.take()?;
        self.leave(id, &port.vlans);
        self.names.remove(&port.name);
        self.fdb.forget_port(id);
        self.free.push(id.index() as u32);
        Some(port)
    }

    /// Changes a port's VLANs; stations learned there are forgotten, as they may be elsewhere now.
    pub fn set_vlans(&mut self, id: PortId, vlans: PortVlans) {
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let old = std::mem::replace(&mut port.vlans, vlans.clone());
        self.leave(id, &old);
        self.join(id, &vlans);
        self.fdb.forget_port(id);
    }

    /// Changes a port's name.
    ///
    /// # Errors
    /// A bad name, or no such port.
    pub fn rename(&mut self, id: PortId, name: &str) -> Result<(), PortError> {
        if self.find(name) != Some(id) {
            self.check_name(name)?;
        }
        let port = self.ports.get_mut(id.index()).and_then(Option::as_mut);
        let port = port.ok_or_else(|| PortError::Unknown(name.to_owned()))?;
        self.names.remove(&port.name);
        port.name = name.to_owned();
        self.names.insert(name.to_owned(), id);
        Ok(())
    }

    /// The port of this name.
    pub fn find(&self, name: &str) -> Option<PortId> {
        self.names.get(name).copied()
    }

    /// A port.
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// All ports, by number.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, &Port)> {
        (0..).map(PortId::new).zip(&self.ports).filter_map(|(id, port)| Some((id, port.as_ref()?)))
    }

    /// How many ports there are.
    pub fn port_count(&self) -> usize {
        self.names.len()
    }

    /// The stations known at `now`, in no order.
    pub fn stations(&self, now: Instant) -> impl Iterator<Item = (Vid, Mac, Entry)> {
        self.fdb.iter(now)
    }

    /// Forgets the stations of a VLAN, of a port, of both or of all; returns how many.
    pub fn flush(&mut self, vid: Option<Vid>, port: Option<PortId>) -> usize {
        self.fdb.retain(|v, _, entry| {
            vid.is_some_and(|vid| vid != v) || port.is_some_and(|port| port != entry.port)
        })
    }

    /// The forwarding database's size, limits and age.
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// After how long a silent station is forgotten.
    pub fn set_age(&mut self, age: Duration) {
        self.fdb.set_age(age);
    }

    /// Names a VLAN; it is listed even while it has no members.
    pub fn name_vlan(&mut self, vid: Vid, name: &str) {
        self.vlan_names.insert(vid, name.to_owned());
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
        let natives: VidSet = self.trunks.iter().filter_map(|(_, native)| *native).collect();
        Vid::all().filter(move |vid| {
            self.vlan_names.contains_key(vid)
                || self.members[vid.index()].iter().any(|m| m.egress == vlan::Egress::Untagged)
                || natives.contains(*vid)
                || self.vlan_counters[vid.index()].rx_frames > 0
        })
    }

    /// The members of a VLAN and how frames leave there; trunks that carry every VLAN are last.
    pub fn members(&self, vid: Vid) -> impl Iterator<Item = (PortId, vlan::Egress)> {
        let own = self.members[vid.index()].iter().map(|m| (m.port, m.egress));
        own.chain(self.trunks.iter().map(move |&(port, native)| {
            (port, if native == Some(vid) { vlan::Egress::Untagged } else { vlan::Egress::Tagged })
        }))
    }

    /// Forgets a VLAN: its name, counters and stations, and its place in every trunk's list.
    ///
    /// # Errors
    /// The port whose access or native VLAN it is.
    pub fn remove_vlan(&mut self, vid: Vid) -> Result<(), PortId> {
        if let Some((id, _)) = self.ports().find(|(_, port)| port.vlans.pvid() == Some(vid)) {
            return Err(id);
        }
        let carriers: Vec<PortId> = self.members(vid).map(|(port, _)| port).collect();
        for id in carriers {
            let port = self.ports[id.index()].as_ref().expect("members are ports");
            let mut vlans = port.vlans.clone();
            if let PortVlans::Trunk { allowed, .. } = &mut vlans {
                allowed.remove(vid);
            }
            self.set_vlans(id, vlans);
        }
        self.flush(Some(vid), None);
        self.vlan_names.remove(&vid);
        self.vlan_counters[vid.index()] = VlanCounters::default();
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), PortError> {
        if !port::is_valid_name(name) {
            return Err(PortError::BadName);
        }
        if self.names.contains_key(name) { Err(PortError::NameTaken(name.to_owned())) } else { Ok(()) }
    }

    fn join(&mut self, id: PortId, vlans: &PortVlans) {
        if vlans.carries_all() {
            return self.trunks.push((id, vlans.pvid()));
        }
        for_each_vlan(vlans, |vid, egress| self.members[vid.index()].push(Member { port: id, egress }));
    }

    fn leave(&mut self, id: PortId, vlans: &PortVlans) {
        if vlans.carries_all() {
            return self.trunks.retain(|(port, _)| *port != id);
        }
        for_each_vlan(vlans, |vid, _| self.members[vid.index()].retain(|m| m.port != id));
    }

    fn counters_mut(&mut self, port: PortId) -> Option<&mut Counters> {
        Some(&mut self.ports.get_mut(port.index())?.as_mut()?.counters)
    }
}

fn for_each_vlan(vlans: &PortVlans, mut each: impl FnMut(Vid, vlan::Egress)) {
    let candidates: Box<dyn Iterator<Item = Vid>> = match vlans {
        PortVlans::Access { vid } => Box::new(std::iter::once(*vid)),
        PortVlans::Trunk { .. } => Box::new(Vid::all()),
    };
    candidates.filter_map(|vid| Some((vid, vlans.egress(vid)?))).for_each(|(vid, egress)| each(vid, egress));
}

#[cfg(test)]
mod tests;
