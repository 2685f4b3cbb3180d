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
//! A port that the spanning tree (`crate::stp`) does not let forward is in no list of members, so that floods do
//! not meet it; frames from it, and to stations behind it, meet one comparison.
//!
//! Read: IEEE 802.1Q-2018 clause 8.6 (the forwarding process).

mod egress;
mod places;
mod spanning;

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::events::{Event, EventLog};
use crate::fdb::{Entry, Fdb, Learned, MAX_ENTRIES_PER_PORT};
use crate::forward::{self, Admitted};
use crate::frame::{Frame, Mac, TagKind};
use crate::guard::{Policer, Shut, Violation};
use crate::mirror::Mirrors;
use crate::offload::VnetHdr;
use crate::port::{self, Counters, DropReason, MAX_PORTS, Offloads, Port, PortId};
use crate::qos::priority::PcpMap;
use crate::stp::{self, config::State};
use crate::vlan::{self, PortVlans, Vid};
use places::Places;
use spanning::Spanning;

pub use egress::{Egress, Transmit};
pub use places::{Place, number_name};
pub use spanning::StpError;

/// Size of a table with a place for every 12-bit VLAN number.
const VLANS: usize = 4096;

/// What becomes of a frame that was not dropped.
enum Way {
    /// It goes on; of this kind is its tag.
    Out(Option<TagKind>),
    /// It was for the switch itself.
    Taken,
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
    /// Frames sent, on all ports.
    pub tx_frames: u64,
    /// Their bytes, as they left.
    pub tx_bytes: u64,
    /// Frames not let in, for the VLAN's rate.
    pub limited: u64,
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
    /// The spanning tree has no number for it.
    #[error("the spanning tree has numbers for {} ports only", stp::MAX_PORTS)]
    NoNumber,
    /// Another port has the number.
    #[error("there is a port with the number {0} already")]
    NumberTaken(u32),
    /// No port can have the number.
    #[error("ports' numbers are 1 to {0}")]
    NoSuchNumber(u32),
    /// No such port.
    #[error("there is no port `{0}`")]
    Unknown(String),
    /// The switch has as many mirrors as it can.
    #[error("the switch has {} mirrors already", crate::mirror::MAX_MIRRORS)]
    TooManyMirrors,
    /// A mirror may not watch its own target.
    #[error("port `{0}` cannot be watched and get the copies")]
    MirrorsItself(String),
    /// The port is not a mirror's target.
    #[error("no mirror gives its copies to port `{0}`")]
    NoMirror(String),
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
    /// Ports that carry every VLAN.
    trunks: Vec<Trunk>,
    /// How many ports change priorities on the way out.
    remapping: usize,
    vlan_rates: FxHashMap<Vid, Policer>,
    vlan_counters: Vec<VlanCounters>,
    vlan_names: FxHashMap<Vid, String>,
    spanning: Spanning,
    mirrors: Mirrors,
    places: Places,
    /// Every frame goes to every port.
    hub: bool,
    events: EventLog,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    port: PortId,
    egress: vlan::Egress,
}

#[derive(Debug, Clone, Copy)]
struct Trunk {
    port: PortId,
    native: Option<Vid>,
    /// How frames leave that are not of the native VLAN.
    egress: vlan::Egress,
}

impl Trunk {
    fn egress(&self, vid: Vid) -> vlan::Egress {
        if self.native == Some(vid) { vlan::Egress::Untagged } else { self.egress }
    }
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
            remapping: 0,
            vlan_rates: FxHashMap::default(),
            vlan_counters: vec![VlanCounters::default(); VLANS],
            vlan_names: FxHashMap::default(),
            spanning: Spanning::default(),
            mirrors: Mirrors::default(),
            places: Places::default(),
            hub: false,
            events: EventLog::default(),
        }
    }

    /// These frames arrived on `port` and will be given to [`Switch::handle_frame`] one by one. It changes nothing, but
    /// where there are many stations their entries are near then.
    pub fn foresee<'f>(&self, port: PortId, frames: impl Iterator<Item = &'f [u8]>) {
        let Some(ingress) = self.port(port).filter(|_| self.fdb.is_large()) else { return };
        for bytes in frames {
            let Some(frame) = Frame::with(bytes, ingress.vlans.tagging()) else { continue };
            if let Ok(vid) = ingress.vlans.ingress(frame.tag()) {
                self.fdb.foresee(vid, frame.source(), frame.destination());
            }
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
        out.dropped = None;
        let ingress = self.ports.get_mut(port.index())?.as_mut()?;
        ingress.counters.rx_frames += 1;
        ingress.counters.rx_bytes += bytes.len() as u64;
        match self.forward(now, port, hdr, bytes, out) {
            Ok(Way::Out(kind)) => Some(Frame::checked(bytes, kind)),
            Ok(Way::Taken) => None,
            Err(reason) => self.drop_frame(port, bytes.len(), reason, out),
        }
    }

    #[cold]
    fn drop_frame<T>(
        &mut self,
        port: PortId,
        bytes: usize,
        reason: DropReason,
        out: &mut Egress,
    ) -> Option<T> {
        let name = self.port(port).map_or("", |port| &port.name);
        log::trace!("port {name}: dropped a frame of {bytes} bytes: {reason:?}");
        self.dropped(port, reason);
        out.dropped = Some(reason);
        None
    }

    /// The way of a frame that arrived.
    // What it returns fits registers. The frame itself does not, and would be read back from the stack before all that
    // was written to the ports' rings has left the processor's store buffer: half of a frame's time.
    #[inline]
    fn forward(
        &mut self,
        now: Instant,
        port: PortId,
        hdr: &VnetHdr,
        bytes: &[u8],
        out: &mut Egress,
    ) -> Result<Way, DropReason> {
        if self.hub {
            return self.repeat(now, port, hdr, bytes, out);
        }
        let Some(ingress) = self.ports[port.index()].as_mut() else { return Ok(Way::Taken) };
        let admitted = match forward::admit(&ingress.vlans, hdr, bytes) {
            Err(DropReason::LinkLocal) if self.spanning.wants(bytes) && !ingress.is_deaf() => {
                self.hear_bpdu(now, port, bytes);
                return Ok(Way::Taken);
            }
            other => other?,
        };
        (out.vid, out.priority) = (admitted.vid, ingress.judge(now, &admitted, bytes.len())?);
        let limit = ingress.mac_limit;
        if ingress.state != State::Forwarding {
            if ingress.state == State::Learning {
                let learned = self.fdb.learn_within(now, admitted.vid, admitted.frame.source(), port, limit);
                self.tell_learned(now, &admitted, port, learned);
            }
            return Err(DropReason::Blocked);
        }
        let learned = self.fdb.learn_within(now, admitted.vid, admitted.frame.source(), port, limit);
        let broken = match learned {
            Learned::Known => None,
            Learned::New | Learned::Moved(_) => {
                self.tell_learned(now, &admitted, port, learned);
                None
            }
            Learned::NoRoom => (limit < MAX_ENTRIES_PER_PORT).then_some(DropReason::MacLimit),
            Learned::Elsewhere => Some(DropReason::WrongPort),
        };
        if let Some(reason) = broken {
            self.punish(now, port, reason);
            return Err(reason);
        }
        if !self.vlan_rates.is_empty() && !self.within_rate(now, bytes.len(), out) {
            return Err(DropReason::VlanRateLimit);
        }
        let counters = &mut self.vlan_counters[admitted.vid.index()];
        counters.rx_frames += 1;
        counters.rx_bytes += bytes.len() as u64;
        let destination = admitted.frame.destination();
        let known = match destination.is_group() {
            true => None,
            false => self.fdb.lookup(now, admitted.vid, destination),
        };
        match known {
            Some(to) if to == port => return Err(DropReason::SamePort),
            Some(to) => self.unicast(&admitted, to, out),
            None => self.flood(now, &admitted, port, out)?,
        }
        if !self.mirrors.is_empty() {
            self.mirrors.apply(port, admitted.vid, bytes.len(), &mut out.list);
        }
        Ok(Way::Out(admitted.frame.kind()))
    }

    fn unicast(&self, admitted: &Admitted<'_>, to: PortId, out: &mut Egress) {
        // A station's port may have left the VLAN since; then the frame goes nowhere until it is heard again. Or
        // it is shut, or learns and does not forward yet.
        let Some(port) = self.port(to).filter(|port| port.is_open()) else { return };
        if let Some(egress) = port.vlans.egress(admitted.vid) {
            let priority = port.tables.egress(out.priority);
            let edit = forward::tag_edit(admitted.tag, admitted.vid, egress, priority);
            out.list.push(Transmit::new(to, edit));
        }
    }

    /// Sends a frame to all members but one, unless it is one of too many.
    fn flood(
        &mut self,
        now: Instant,
        admitted: &Admitted<'_>,
        from: PortId,
        out: &mut Egress,
    ) -> Result<(), DropReason> {
        let &Admitted { vid, tag, frame } = admitted;
        self.judge_flood(now, from, frame.destination())?;
        self.vlan_counters[vid.index()].flooded += 1;
        let edit = |egress| forward::tag_edit(tag, vid, egress, out.priority).pack();
        let edits = [vlan::Egress::Untagged, vlan::Egress::Tagged, vlan::Egress::Service].map(edit);
        let members = &self.members[vid.index()];
        let own = members.iter().position(|member| member.port == from).unwrap_or(members.len());
        let (before, behind) = members.split_at(own);
        for members in [before, behind.get(1..).unwrap_or_default()] {
            let transmit = |m: &Member| Transmit { port: m.port, edit: edits[m.egress as usize] };
            out.list.extend(members.iter().map(transmit));
        }
        let trunks = self.trunks.iter().filter(|trunk| trunk.port != from);
        out.list.extend(trunks.map(|t| Transmit { port: t.port, edit: edits[t.egress(vid) as usize] }));
        // Looking at each port costs more than all of this, and few write other priorities.
        if self.remapping > 0 {
            self.remap(admitted, out);
        }
        Ok(())
    }

    /// Lets the ports of a flood write the priorities they write.
    fn remap(&self, admitted: &Admitted<'_>, out: &mut Egress) {
        for transmit in &mut out.list {
            let Some(port) = self.ports[transmit.port.index()].as_ref() else { continue };
            let Some(egress) = port.vlans.egress(admitted.vid) else { continue };
            let priority = port.tables.egress(out.priority);
            transmit.edit = forward::tag_edit(admitted.tag, admitted.vid, egress, priority).pack();
        }
    }

    /// A frame of `out`'s VLAN came: is it within the VLAN's rate? May mark it as drop eligible.
    fn within_rate(&mut self, now: Instant, bytes: usize, out: &mut Egress) -> bool {
        let Some(policer) = self.vlan_rates.get_mut(&out.vid) else { return true };
        let judged = policer.judge(now, bytes, out.priority);
        out.priority = judged.unwrap_or_default();
        self.vlan_counters[out.vid.index()].limited += u64::from(judged.is_none());
        judged.is_some()
    }

    /// A frame breaks a rule of its port; the port is shut if that is what the rule says.
    fn punish(&mut self, now: Instant, id: PortId, reason: DropReason) {
        let violation = self.port(id).map(|port| port.guard_rules().violation);
        if violation == Some(Violation::Shutdown) {
            log::warn!("port {} is shut: {reason:?}", self.port(id).map_or("", |port| &port.name));
            self.shut_port(now, id, Shut::of(reason));
        }
    }

    /// Frames of `bytes` in all were written to `port`.
    pub fn sent(&mut self, port: PortId, frames: u64, bytes: u64) {
        if let Some(counters) = self.counters_mut(port) {
            counters.tx_frames += frames;
            counters.tx_bytes += bytes;
        }
    }

    /// The same frames belong to `vid`.
    pub fn sent_in(&mut self, vid: Vid, frames: u64, bytes: u64) {
        let counters = &mut self.vlan_counters[vid.index()];
        counters.tx_frames += frames;
        counters.tx_bytes += bytes;
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
            let Self { fdb, events, ports, .. } = self;
            fdb.expire_and(now, |vlan, mac, port| {
                if events.is_on() {
                    let port = ports.get(port.index()).and_then(Option::as_ref);
                    let port = port.map(|p| p.name.clone()).unwrap_or_default();
                    events.push(Event::StationAged { vlan, mac, port });
                }
            });
        }
        self.tick_stp(now);
    }

    /// When to call [`Switch::handle_timeout`], if nothing else happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.fdb.next_expiry().into_iter().chain(self.stp().map(stp::Bridge::poll_timeout)).min()
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
        let most = self.most_ports();
        let fit = |index: u32| (index as usize) < most && !self.places.is_kept(PortId::new(index));
        let free = self.free.iter().rposition(|&index| fit(index));
        let id = match free.map(|at| self.free.swap_remove(at)) {
            Some(index) => PortId::new(index),
            None => {
                while self.places.is_kept(PortId::new(self.ports.len() as u32)) {
                    self.free.push(self.ports.len() as u32);
                    self.ports.push(None);
                }
                match self.ports.len() {
                    MAX_PORTS.. => return Err(PortError::Full),
                    index if index >= most => return Err(PortError::NoNumber),
                    index => PortId::new(index as u32),
                }
            }
        };
        if self.ports.len() <= id.index() {
            self.ports.push(None);
        }
        self.plug_in(id, name, vlans, offloads);
        Ok(id)
    }

    /// How many ports there may be at the moment.
    fn most_ports(&self) -> usize {
        if self.stp().is_some() { stp::MAX_PORTS } else { MAX_PORTS }
    }

    /// Puts a port where none is.
    fn plug_in(&mut self, id: PortId, name: &str, vlans: PortVlans, offloads: Offloads) {
        self.join(id, &vlans);
        self.names.insert(name.to_owned(), id);
        self.mirrors.add_port(id, name);
        self.events.push(Event::PortAdded { port: name.to_owned(), vlans: vlans.clone() });
        self.ports[id.index()] = Some(Port::new(name, vlans, offloads));
        self.enter_tree(id);
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
        self.remapping -= usize::from(is_remapping(&port));
        self.names.remove(&port.name);
        self.fdb.forget_port(id);
        self.leave_tree(id);
        self.leave_place(id, &port.vlans, port.counters);
        if port.mirror_target {
            self.events.push(Event::MirrorRemoved { to: port.name.clone() });
        }
        self.events.push(Event::PortRemoved { port: port.name.clone() });
        self.mirrors.forget_port(id);
        self.free.push(id.index() as u32);
        Some(port)
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
        let was = std::mem::replace(&mut port.name, name.to_owned());
        self.mirrors.rename_port(id, &was, name);
        self.events.push(Event::PortRenamed { port: name.to_owned(), was });
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
        let count = self.fdb.retain(|v, _, at, pinned| {
            pinned || vid.is_some_and(|vid| vid != v) || port.is_some_and(|port| port != at)
        });
        self.events.push(Event::StationsFlushed { count });
        count
    }

    /// The forwarding database's size, limits and age.
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// After how long a silent station is forgotten.
    pub fn set_age(&mut self, age: Duration) {
        self.fdb.set_age(age);
        self.events.push(Event::Setting { name: "age_s".to_owned(), value: age.as_secs().to_string() });
    }

    fn check_name(&self, name: &str) -> Result<(), PortError> {
        if !port::is_valid_name(name) {
            return Err(PortError::BadName);
        }
        if self.names.contains_key(name) { Err(PortError::NameTaken(name.to_owned())) } else { Ok(()) }
    }

    fn counters_mut(&mut self, port: PortId) -> Option<&mut Counters> {
        Some(&mut self.ports.get_mut(port.index())?.as_mut()?.counters)
    }
}

fn is_remapping(port: &Port) -> bool {
    port.priorities.egress != PcpMap::IDENTITY
}

mod limits;
mod seeing;
#[cfg(test)]
mod tests;
mod vlans;
