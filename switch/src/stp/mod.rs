//! The rapid spanning tree protocol: which ports may forward, so that the network has no loop.
//!
//! # Theory of operation
//! A [`Bridge`] is one switch's part in the protocol. It is told what happens ([`Bridge::handle_frame`],
//! [`Bridge::handle_timeout`], [`Bridge::set_link`], ports that come and go) and lets its state machines run until
//! none can; then [`Bridge::poll_transmit`] has BPDUs to send, and [`Bridge::poll_event`] ports that changed their
//! state or must forget their stations. Time counts in ticks of a second, as in the standard: whatever is fast here
//! is fast because a neighbour answered, not because a timer is short.
//!
//! The machines are in [`port`](self), `roles` and `topology`. A message that is news for its port alone costs
//! the same with many ports as with few; what concerns the tree (another root, a topology change) visits all of them.
//!
//! There is one tree for all VLANs (a common spanning tree): a port that discards does so in all of them. BPDUs
//! have no tag. At most [`MAX_PORTS`] ports take part, as port numbers have 12 bits.
//!
//! The protocol's own weakness is old news of a root that is gone; what is done against it is in `doubt`.
//!
//! Read: IEEE 802.1D-2004 clause 17.

pub mod bpdu;
pub mod config;
mod doubt;
mod port;
mod roles;
mod topology;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::Mac;
use crate::port::PortId;
use bpdu::{Bpdu, BridgeId, FRAME_LEN, Role, Vector};
use config::{Config, PortChange, PortConfig, PortTree, Protocol, State, Tree};
use port::{InfoIs, Port, Shared, Wishes};
use roles::Root;

pub use config::BadValue;

/// Ports at most: numbers are 1 to 4095 (clause 9.2.7).
pub const MAX_PORTS: usize = 4095;
/// The unit of all timers.
const TICK: Duration = Duration::from_secs(1);
/// BPDUs from one port in one tick that are looked at: a bridge sends ten at most (table 17-1), and whoever sends
/// without end shall not keep us busy.
const MAX_HEARD: u32 = 100;
/// Rounds over all ports after one event; a handful is the most that was seen. The limit is for mistakes.
const MAX_ROUNDS: usize = 64;

/// What the switch has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The port does something else with frames from now on.
    State(PortId, State),
    /// Stations learned on this port are to be forgotten.
    Flush(PortId),
}

/// A bridge that takes part in the protocol.
#[derive(Debug)]
pub struct Bridge {
    shared: Shared,
    ports: Vec<Option<Box<Port>>>,
    root: Root,
    /// Until when to wait with what some ports heard (`doubt`).
    doubt: Option<Instant>,
    /// When it was last told anything.
    now: Instant,
    next_tick: Instant,
    changed: Option<Instant>,
    events: VecDeque<Event>,
}

impl Bridge {
    /// A bridge without ports, with the address it is known by.
    pub fn new(now: Instant, address: Mac, config: Config) -> Self {
        let shared = Shared {
            id: BridgeId::new(config.priority, address),
            address,
            config,
            unsynced: 0,
            retiring: 0,
            wishes: Wishes::default(),
            out: VecDeque::new(),
            topology_changes: 0,
        };
        let root = Root::itself(&shared);
        Self {
            shared,
            ports: Vec::new(),
            root,
            doubt: None,
            now,
            next_tick: now + TICK,
            changed: None,
            events: VecDeque::new(),
        }
    }

    /// A frame for [`bpdu::GROUP`] arrived on a port.
    pub fn handle_frame(&mut self, now: Instant, id: PortId, frame: &[u8]) {
        self.now = now;
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        port.heard += 1;
        if port.heard > MAX_HEARD {
            port.bad_bpdus += 1;
            return;
        }
        let bpdu = match Bpdu::parse(frame) {
            Ok(bpdu) => bpdu,
            Err(reason) => {
                log::trace!("port {}: {reason}", id.index());
                port.bad_bpdus += 1;
                return;
            }
        };
        if port.config.bpdu_guard {
            log::info!("port {} is shut: it heard a BPDU", id.index());
            port.rx_bpdus += 1;
            port.shut = true;
            port.port_enabled = false;
        } else if let Bpdu::Config(message) | Bpdu::Rst(message) = bpdu
            && (message.vector.bridge, message.vector.port) == (self.shared.id, port.number)
        {
            // It said that itself (clause 9.3.4).
            port.bad_bpdus += 1;
            return;
        } else {
            port.rx_bpdus += 1;
            self.hear(id, bpdu);
        }
        self.run(Some(id));
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.doubt.is_some_and(|until| until <= now) {
            self.now = now;
            self.run(None);
        }
        if now < self.next_tick {
            return;
        }
        // After a standstill the seconds that were missed are not made up for: nobody was heard in them.
        self.now = now;
        self.next_tick += TICK;
        if self.next_tick <= now {
            self.next_tick = now + TICK;
        }
        self.ports.iter_mut().flatten().for_each(|port| port.tick());
        self.run(None);
    }

    /// When to call [`Bridge::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        self.doubt.map_or(self.next_tick, |until| until.min(self.next_tick))
    }

    /// The next BPDU to send: a whole frame, without tag.
    pub fn poll_transmit(&mut self) -> Option<(PortId, [u8; FRAME_LEN])> {
        self.shared.out.pop_front()
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A port is there, whose link is up or down.
    ///
    /// # Panics
    /// When its number is [`MAX_PORTS`] or more.
    pub fn add_port(&mut self, id: PortId, config: PortConfig, link: bool) {
        assert!(id.index() < MAX_PORTS, "whoever adds ports keeps to the limit");
        self.remove(id);
        if self.ports.len() <= id.index() {
            self.ports.resize_with(id.index() + 1, || None);
        }
        let mut port = Port::new(id, config, link, &self.shared);
        port.count(&mut self.shared);
        self.ports[id.index()] = Some(Box::new(port));
        self.shared.wishes.reselect = true;
        self.run(Some(id));
    }

    /// A port is gone.
    pub fn remove_port(&mut self, id: PortId) {
        if self.remove(id) {
            self.shared.wishes.reselect = true;
            self.run(None);
        }
    }

    /// A port, or with `None` the bridge, is about to go: has its neighbours hear that what they know of us is as old as it
    /// may become, so that they need not miss three hellos.
    pub fn say_farewell(&mut self, id: Option<PortId>) {
        let Self { ports, shared, .. } = self;
        let going = ports.iter().flatten().filter(|port| id.is_none_or(|id| port.id == id));
        let words: Vec<_> = going.filter_map(|port| Some((port.id, port.last_word(shared)?))).collect();
        shared.out.extend(words);
    }

    fn remove(&mut self, id: PortId) -> bool {
        let Some(mut port) = self.ports.get_mut(id.index()).and_then(Option::take) else { return false };
        port.uncount(&mut self.shared);
        true
    }

    /// A port's link went up or down; true if that was new.
    pub fn set_link(&mut self, now: Instant, id: PortId, up: bool) -> bool {
        let Some(port) = self.port_mut(id).filter(|port| port.link != up) else { return false };
        port.link = up;
        port.port_enabled = up && !port.shut;
        self.now = now;
        self.run(Some(id));
        true
    }

    /// A port's link has this speed, in Mb/s, or an unknown one.
    pub fn set_speed(&mut self, now: Instant, id: PortId, mbps: Option<u32>) {
        self.now = now;
        let Self { ports, shared, .. } = self;
        let Some(port) = ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let cost = config::cost_of_speed(mbps);
        if std::mem::replace(&mut port.speed_cost, cost) != cost {
            port.ask_reselect(shared);
            self.run(Some(id));
        }
    }

    /// Changes the bridge. Another protocol makes all ports begin anew.
    pub fn set_config(&mut self, now: Instant, config: Config) {
        self.now = now;
        let anew = config.protocol != self.shared.config.protocol;
        self.shared.id = BridgeId::new(config.priority, self.shared.address);
        self.shared.config = config;
        for at in 0..self.ports.len() {
            let Some(port) = self.ports[at].as_mut() else { continue };
            if anew {
                port.uncount(&mut self.shared);
                let mut new = Port::new(port.id, port.config, port.link, &self.shared);
                (new.told, new.rx_bpdus, new.tx_bpdus) = (port.told, port.rx_bpdus, port.tx_bpdus);
                new.speed_cost = port.speed_cost;
                new.count(&mut self.shared);
                **port = new;
            } else {
                port.ask_reselect(&mut self.shared);
            }
        }
        self.shared.wishes.reselect = true;
        self.run(None);
    }

    /// Changes a port.
    ///
    /// # Errors
    /// A value that the standard forbids.
    pub fn set_port(&mut self, now: Instant, id: PortId, change: &PortChange) -> Result<(), BadValue> {
        self.now = now;
        let Self { ports, shared, .. } = self;
        let Some(port) = ports.get_mut(id.index()).and_then(Option::as_mut) else { return Ok(()) };
        let config = change.apply(port.config)?;
        let was = std::mem::replace(&mut port.config, config);
        port.set_number();
        port.shut &= change.bpdu_guard.is_none();
        port.port_enabled = port.link && !port.shut;
        port.mcheck |= change.migrate && shared.config.protocol == Protocol::Rstp;
        if was.edge != config.edge {
            port.oper_edge = config.edge == config::Edge::On;
        }
        port.ask_reselect(shared);
        self.run(Some(id));
        Ok(())
    }

    /// The bridge's parameters.
    pub fn config(&self) -> Config {
        self.shared.config
    }

    /// A port's parameters.
    pub fn port_config(&self, id: PortId) -> Option<PortConfig> {
        self.port(id).map(|port| port.config)
    }

    /// A port's role and state.
    pub fn role(&self, id: PortId) -> Option<(Role, State)> {
        self.port(id).map(|port| (port.role, port.state()))
    }

    /// The root, what the path there costs, and the port it begins with.
    pub fn root(&self) -> (BridgeId, u32, Option<PortId>) {
        (self.root.priority.root, self.root.priority.cost, self.root.port)
    }

    /// This bridge.
    pub fn id(&self) -> BridgeId {
        self.shared.id
    }

    /// The tree as this bridge sees it; `name` names ports.
    pub fn report(&self, now: Instant, name: impl Fn(PortId) -> String) -> Tree {
        let times = self.root.times;
        Tree {
            enabled: true,
            protocol: self.shared.config.protocol,
            bridge: self.shared.id.to_string(),
            root: self.root.priority.root.to_string(),
            root_cost: self.root.priority.cost,
            root_port: self.root.port.map(&name),
            hello_s: times.hello,
            max_age_s: times.max_age,
            forward_delay_s: times.forward_delay,
            tx_hold: self.shared.config.tx_hold,
            config: self.shared.config,
            topology_changes: self.shared.topology_changes,
            changed_s: self.changed.map(|at| now.saturating_duration_since(at).as_secs()),
            ports: self.ports.iter().flatten().map(|port| report_port(port, name(port.id))).collect(),
        }
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_deref()
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(id.index())?.as_deref_mut()
    }

    /// Lets the machines run until all rest: those of `one` port, or of all if there is none; and those of all as
    /// long as something concerns the tree.
    fn run(&mut self, one: Option<PortId>) {
        let changes = self.shared.topology_changes;
        self.settle_doubt();
        let mut all = one.is_none();
        if let Some(id) = one {
            all = self.step(id.index());
        }
        for _ in 0..MAX_ROUNDS {
            if !all {
                break;
            }
            all = false;
            for at in 0..self.ports.len() {
                all |= self.step(at);
            }
        }
        debug_assert!(!all, "a bridge without rest: {self:?}");
        if self.shared.topology_changes != changes {
            self.changed = Some(self.now);
        }
    }

    /// Lets one port's machines run; true if all others have to look again.
    fn step(&mut self, at: usize) -> bool {
        let Self { shared, ports, root, events, .. } = self;
        let Some(port) = ports[at].as_mut() else {
            return fulfil(shared, ports, root, at);
        };
        let before = (port.counted, shared.unsynced, shared.retiring);
        port.step(shared);
        tell(port, events);
        let counts = before != (port.counted, shared.unsynced, shared.retiring);
        fulfil(shared, ports, root, at) | counts
    }
}

/// What a port's machines asked to be done to all ports; true if anything was.
fn fulfil(shared: &mut Shared, ports: &mut [Option<Box<Port>>], root: &mut Root, at: usize) -> bool {
    let wishes = std::mem::take(&mut shared.wishes);
    if wishes == Wishes::default() {
        return false;
    }
    for (_, port) in ports.iter_mut().enumerate().filter(|(i, _)| *i != at) {
        let Some(port) = port else { continue };
        port.sync |= wishes.sync;
        port.re_root |= wishes.re_root;
        port.tc_prop |= wishes.tc_prop;
    }
    if wishes.reselect {
        *root = roles::select(shared, ports);
        // Ports whose role is not the selected one are not in sync.
        ports.iter_mut().flatten().for_each(|port| port.count(shared));
    }
    true
}

/// Tells what the switch has to know of a port that has come to rest.
fn tell(port: &mut Port, events: &mut VecDeque<Event>) {
    let state = port.state();
    if port.told != Some(state) {
        log::debug!("port {}: {:?}, {state:?}", port.id.index(), port.role);
        port.told = Some(state);
        events.push_back(Event::State(port.id, state));
    }
    if std::mem::take(&mut port.fdb_flush) {
        events.push_back(Event::Flush(port.id));
    }
}

fn report_port(port: &Port, name: String) -> PortTree {
    let designated: Vector = match port.info_is {
        InfoIs::Disabled => port.designated_priority,
        _ => port.port_priority,
    };
    let number = |n: u16| format!("{:x}.{:03x}", n >> 12, n & 0x0FFF);
    PortTree {
        name,
        role: port.role,
        state: port.state(),
        cost: port.cost(),
        told_cost: port.config.cost,
        priority: port.config.priority,
        id: number(port.number),
        protocol: if port.send_rstp { Protocol::Rstp } else { Protocol::Stp },
        link: port.link,
        shut: port.shut,
        edge: port.config.edge,
        is_edge: port.oper_edge,
        point_to_point: port.config.point_to_point,
        bpdu_guard: port.config.bpdu_guard,
        root_guard: port.config.root_guard,
        designated_bridge: designated.bridge.to_string(),
        designated_port: number(designated.port),
        designated_cost: designated.cost,
        rx_bpdus: port.rx_bpdus,
        tx_bpdus: port.tx_bpdus,
        bad_bpdus: port.bad_bpdus,
    }
}

#[cfg(test)]
mod tests;
