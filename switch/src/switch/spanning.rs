//! The spanning tree's hold on the switch.
//!
//! # Theory of operation
//! The protocol itself is `crate::stp`; it hears the BPDUs that come in, and its events are carried out here: a
//! port that may not forward leaves the lists of members, one whose stations may be elsewhere now forgets them.
//! What was set stays while the protocol is off. BPDUs to send are taken with [`Switch::poll_bpdu`].

use std::time::Instant;

use rustc_hash::FxHashMap;

use super::Switch;
use crate::events::Event as Told;
use crate::frame::Mac;
use crate::port::{Port, PortId};
use crate::stp::bpdu::{BridgeId, FRAME_LEN, GROUP};
use crate::stp::config::{Change, Config, PortChange, PortConfig, State, Tree};
use crate::stp::{BadValue, Bridge, Event, MAX_PORTS};

/// The spanning tree, on or off.
#[derive(Debug, Default)]
pub(super) struct Spanning {
    bridge: Option<Box<Bridge>>,
    address: Mac,
    config: Config,
    /// Those of ports that are not as by default.
    ports: FxHashMap<PortId, PortConfig>,
    /// The root that was last told of, and the port that leads there.
    told: Option<(BridgeId, Option<PortId>)>,
}

/// Why the spanning tree cannot be had, or not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StpError {
    /// A value that the standard forbids.
    #[error(transparent)]
    BadValue(#[from] BadValue),
    /// Some port would have no number.
    #[error("the switch has a port whose number is above {MAX_PORTS}, the last that BPDUs can name")]
    TooManyPorts,
    /// A hub has none.
    #[error("the switch is a hub")]
    Hub,
}

impl Spanning {
    /// Is this frame, which stays on its link, one for us?
    pub(super) fn wants(&self, frame: &[u8]) -> bool {
        self.bridge.is_some() && frame.starts_with(&GROUP.0)
    }
}

impl Switch {
    /// The address by which other bridges know this one. To be set before the spanning tree is turned on.
    pub fn set_address(&mut self, address: Mac) {
        self.spanning.address = address;
    }

    /// That address.
    pub fn address(&self) -> Mac {
        self.spanning.address
    }

    /// The bridge's parameters, also while the protocol is off.
    pub fn stp_config(&self) -> Config {
        self.spanning.config
    }

    /// The spanning tree, if it is on.
    pub fn stp(&self) -> Option<&Bridge> {
        self.spanning.bridge.as_deref()
    }

    /// Changes the spanning tree, turns it on or off.
    ///
    /// # Errors
    /// A value that the standard forbids, or too many ports.
    pub fn set_stp(&mut self, now: Instant, change: &Change) -> Result<(), StpError> {
        let config = change.apply(self.spanning.config)?;
        let on = change.enabled.unwrap_or_else(|| self.stp().is_some());
        if on && self.ports().any(|(id, _)| id.index() >= MAX_PORTS) {
            return Err(StpError::TooManyPorts);
        }
        if on && self.hub {
            return Err(StpError::Hub);
        }
        self.spanning.config = config;
        match (&mut self.spanning.bridge, on) {
            (Some(bridge), true) => bridge.set_config(now, config),
            (None, false) => {}
            (None, true) => {
                self.spanning.bridge = Some(Box::new(Bridge::new(now, self.spanning.address, config)));
                let ids: Vec<PortId> = self.ports().map(|(id, _)| id).collect();
                ids.into_iter().for_each(|id| self.enter_tree(id));
            }
            (Some(_), false) => {
                let ids: Vec<PortId> = self.closed().map(|(id, _)| id).collect();
                self.spanning.bridge = None;
                ids.into_iter().for_each(|id| self.set_state(id, State::Forwarding));
            }
        }
        self.obey();
        Ok(())
    }

    /// Changes what a port is to the spanning tree, also while that is off.
    ///
    /// # Errors
    /// A value that the standard forbids.
    pub fn set_stp_port(&mut self, now: Instant, id: PortId, change: &PortChange) -> Result<(), StpError> {
        let config = change.apply(self.spanning.ports.get(&id).copied().unwrap_or_default())?;
        self.spanning.ports.insert(id, config);
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.set_port(now, id, change)?;
        }
        self.obey();
        Ok(())
    }

    /// A port's link is up or down; true if that is new. Who was behind a link that is down may be elsewhere now.
    pub fn set_link(&mut self, now: Instant, id: PortId, up: bool) -> bool {
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return false };
        if std::mem::replace(&mut port.link, up) == up {
            return false;
        }
        if self.events.is_on() {
            self.events.push(Told::PortLink { port: port.name.clone(), up });
        }
        if !up {
            self.fdb.forget_learned(id);
        }
        self.tell_tree_of_link(now, id);
        true
    }

    /// To the spanning tree the link of a port that is shut is down.
    pub(super) fn tell_tree_of_link(&mut self, now: Instant, id: PortId) {
        let is_up = self.is_linked(id);
        if self.spanning.bridge.as_mut().is_some_and(|bridge| bridge.set_link(now, id, is_up)) {
            self.obey();
        }
    }

    fn is_linked(&self, id: PortId) -> bool {
        self.port(id).is_some_and(|port| port.link && port.shut.is_none())
    }

    /// A port's link has this speed, in Mb/s, or an unknown one.
    pub fn set_speed(&mut self, now: Instant, id: PortId, mbps: Option<u32>) {
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.set_speed(now, id, mbps);
            self.obey();
        }
    }

    /// A port, or with `None` the switch, is about to go: there are [BPDUs](Switch::poll_bpdu) to say so.
    pub fn say_farewell(&mut self, id: Option<PortId>) {
        self.spanning.bridge.iter_mut().for_each(|bridge| bridge.say_farewell(id));
    }

    /// The next BPDU to write to a port, as it is.
    pub fn poll_bpdu(&mut self) -> Option<(PortId, [u8; FRAME_LEN])> {
        self.spanning.bridge.as_mut()?.poll_transmit()
    }

    /// The tree as this switch sees it; while the protocol is off, what it would begin with.
    pub fn stp_tree(&self, now: Instant) -> Tree {
        let name = |id| self.port(id).map(|port| port.name.clone()).unwrap_or_default();
        match self.stp() {
            Some(bridge) => bridge.report(now, name),
            None => {
                let mut bridge = Bridge::new(now, self.spanning.address, self.spanning.config);
                for (id, _) in self.ports().filter(|(id, _)| id.index() < MAX_PORTS) {
                    let config = self.spanning.ports.get(&id).copied().unwrap_or_default();
                    bridge.add_port(id, config, self.is_linked(id));
                }
                let mut tree = bridge.report(now, name);
                tree.enabled = false;
                tree.ports.iter_mut().for_each(|port| port.state = State::Forwarding);
                tree
            }
        }
    }

    /// Ports that the spanning tree does not let forward.
    pub(super) fn closed(&self) -> impl Iterator<Item = (PortId, &Port)> {
        // None are, and nothing is to be searched, while it is off.
        let ports = self.spanning.bridge.iter().flat_map(|_| self.ports());
        ports.filter(|(_, port)| port.state != State::Forwarding)
    }

    pub(super) fn hear_bpdu(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.handle_frame(now, port, frame);
            self.obey();
        }
    }

    pub(super) fn tick_stp(&mut self, now: Instant) {
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.handle_timeout(now);
            self.obey();
        }
    }

    /// A port is new in the switch.
    pub(super) fn enter_tree(&mut self, id: PortId) {
        let is_up = self.is_linked(id);
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.add_port(id, self.spanning.ports.get(&id).copied().unwrap_or_default(), is_up);
            self.obey();
        }
    }

    /// A port is gone.
    pub(super) fn leave_tree(&mut self, id: PortId) {
        self.spanning.ports.remove(&id);
        if let Some(bridge) = &mut self.spanning.bridge {
            bridge.remove_port(id);
            self.obey();
        }
    }

    /// Does what the spanning tree says.
    fn obey(&mut self) {
        let mut flushed = Vec::new();
        while let Some(event) = self.spanning.bridge.as_mut().and_then(|bridge| bridge.poll_event()) {
            match event {
                Event::State(id, state) => self.set_state(id, state),
                Event::Flush(id) => flushed.push(id),
            }
        }
        if self.events.is_on() {
            self.tell_root();
        }
        match flushed[..] {
            [] => {}
            [id] => self.fdb.forget_learned(id),
            // Often all ports but one: the table is searched once.
            _ => {
                flushed.sort_unstable();
                self.fdb.retain(|_, _, at, pinned| pinned || flushed.binary_search(&at).is_err());
            }
        }
    }

    /// Tells of another root, and of another port that leads there.
    fn tell_root(&mut self) {
        let root = self.stp().map(|bridge| bridge.root()).map(|(root, _, port)| (root, port));
        if std::mem::replace(&mut self.spanning.told, root) != root
            && let Some((root, port)) = root
        {
            let port = port.and_then(|id| self.port(id)).map(|port| port.name.clone());
            self.events.push(Told::RootChanged { root: root.to_string(), port });
        }
    }

    fn set_state(&mut self, id: PortId, state: State) {
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let was_open = port.is_open();
        port.state = state;
        if self.events.is_on() {
            self.events.push(Told::PortState { port: port.name.clone(), state });
        }
        let (is_open, vlans) = (port.is_open(), port.vlans.clone());
        match (was_open, is_open) {
            (true, false) => self.leave(id, &vlans),
            (false, true) => self.join(id, &vlans),
            _ => {}
        }
    }
}
