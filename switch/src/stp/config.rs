//! What can be set about the spanning tree, and what it tells about itself: the types of the control protocol.
//!
//! # Theory of operation
//! [`Config`] is of the bridge, [`PortConfig`] of one port; [`Change`] and [`PortChange`] are requests, in
//! which absent fields stay as they are. [`Change::apply`] and [`PortChange::apply`] refuse what IEEE
//! 802.1D-2004 forbids (table 17-1, 17-2 and 17-3; clause 17.14). [`Tree`] and [`PortTree`] are answers.

use serde::{Deserialize, Serialize};

use super::bpdu::{Role, Times};

/// Which protocol a bridge speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The old one only.
    Stp,
    /// The rapid one, and the old one on ports where it is heard.
    #[default]
    Rstp,
}

/// May a port be taken for the edge of the network, with no bridge behind it?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// From the beginning, until a BPDU is heard.
    On,
    /// When no bridge was heard for 3 seconds, until one is.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// The bridge's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Which protocol.
    pub protocol: Protocol,
    /// Its priority, 0 to 61440 in steps of 4096; the smallest becomes root.
    pub priority: u16,
    /// Seconds between two BPDUs, if it is root: 1 to 2.
    pub hello_s: u8,
    /// How many seconds (bridges) away from the root a BPDU is believed, if it is root: 6 to 40.
    pub max_age_s: u8,
    /// Seconds of listening and of learning, if it is root: 4 to 30.
    pub forward_delay_s: u8,
    /// BPDUs in one second on one port: 1 to 10.
    pub tx_hold: u8,
}

impl Default for Config {
    /// Table 17-1 and 17-2.
    fn default() -> Self {
        Self {
            protocol: Protocol::Rstp,
            priority: 32_768,
            hello_s: 2,
            max_age_s: 20,
            forward_delay_s: 15,
            tx_hold: 6,
        }
    }
}

impl Config {
    pub(super) fn times(&self) -> Times {
        let &Self { max_age_s, hello_s, forward_delay_s, .. } = self;
        Times { message_age: 0, max_age: max_age_s, hello: hello_s, forward_delay: forward_delay_s }
    }
}

impl Default for Times {
    fn default() -> Self {
        Config::default().times()
    }
}

/// The largest path cost (table 17-3).
const MAX_COST: u32 = 200_000_000;

/// What a link of this speed, in Mb/s, costs (table 17-3); 10 Gb/s if it is unknown, as fast as the kernel says that
/// a veth or a TAP is.
pub fn cost_of_speed(mbps: Option<u32>) -> u32 {
    (20_000_000 / mbps.unwrap_or(10_000).max(1)).clamp(1, MAX_COST)
}

/// A port's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortConfig {
    /// What the link costs, 1 to 200,000,000; `None`: according to its speed.
    pub cost: Option<u32>,
    /// 0 to 240 in steps of 16.
    pub priority: u8,
    /// Is it the edge?
    pub edge: Edge,
    /// The link has two ends; on a shared one nobody can agree.
    pub point_to_point: bool,
    /// A BPDU shuts the port.
    pub bpdu_guard: bool,
    /// It may not become root port ("restricted role").
    pub root_guard: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            cost: None,
            priority: 128,
            edge: Edge::Auto,
            point_to_point: true,
            bpdu_guard: false,
            root_guard: false,
        }
    }
}

/// A value that the standard forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Bridge priority.
    #[error("a bridge's priority is a multiple of 4096, 0 to 61440, not {0}")]
    Priority(u16),
    /// Hello time.
    #[error("the hello time is 1 or 2 seconds, not {0}")]
    Hello(u8),
    /// Maximum age.
    #[error("the maximum age is 6 to 40 seconds, not {0}")]
    MaxAge(u8),
    /// Forward delay.
    #[error("the forward delay is 4 to 30 seconds, not {0}")]
    ForwardDelay(u8),
    /// Clause 17.14.
    #[error("2 × (forward delay − 1) ≥ maximum age ≥ 2 × (hello time + 1) does not hold")]
    Relation,
    /// Transmit hold count.
    #[error("the transmit hold count is 1 to 10, not {0}")]
    TxHold(u8),
    /// Path cost.
    #[error("a path cost is 1 to 200,000,000, not {0}")]
    Cost(u32),
    /// Port priority.
    #[error("a port's priority is a multiple of 16, 0 to 240, not {0}")]
    PortPriority(u8),
}

/// A change of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Change {
    /// On or off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// See [`Config::protocol`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// See [`Config::priority`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// See [`Config::hello_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello_s: Option<u8>,
    /// See [`Config::max_age_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<u8>,
    /// See [`Config::forward_delay_s`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_delay_s: Option<u8>,
    /// See [`Config::tx_hold`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_hold: Option<u8>,
}

impl Change {
    /// The bridge's parameters after the change.
    ///
    /// # Errors
    /// The first value that the standard forbids.
    pub fn apply(&self, old: Config) -> Result<Config, BadValue> {
        let new = Config {
            protocol: self.protocol.unwrap_or(old.protocol),
            priority: self.priority.unwrap_or(old.priority),
            hello_s: self.hello_s.unwrap_or(old.hello_s),
            max_age_s: self.max_age_s.unwrap_or(old.max_age_s),
            forward_delay_s: self.forward_delay_s.unwrap_or(old.forward_delay_s),
            tx_hold: self.tx_hold.unwrap_or(old.tx_hold),
        };
        let ensure = |holds: bool, bad| if holds { Ok(()) } else { Err(bad) };
        ensure(new.priority & 0x0FFF == 0, BadValue::Priority(new.priority))?;
        ensure((1..=2).contains(&new.hello_s), BadValue::Hello(new.hello_s))?;
        ensure((6..=40).contains(&new.max_age_s), BadValue::MaxAge(new.max_age_s))?;
        ensure((4..=30).contains(&new.forward_delay_s), BadValue::ForwardDelay(new.forward_delay_s))?;
        let (delay, age, hello) = (new.forward_delay_s, new.max_age_s, new.hello_s);
        ensure(2 * (delay - 1) >= age && age >= 2 * (hello + 1), BadValue::Relation)?;
        ensure((1..=10).contains(&new.tx_hold), BadValue::TxHold(new.tx_hold))?;
        Ok(new)
    }
}

/// A change of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortChange {
    /// See [`PortConfig::cost`]; 0 is for: according to the speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// See [`PortConfig::priority`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// See [`PortConfig::edge`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<Edge>,
    /// See [`PortConfig::point_to_point`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_to_point: Option<bool>,
    /// See [`PortConfig::bpdu_guard`]. Setting it, to either value, opens a port that it has shut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpdu_guard: Option<bool>,
    /// See [`PortConfig::root_guard`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_guard: Option<bool>,
    /// Try the rapid protocol again on a port that fell back to the old one (mcheck).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub migrate: bool,
}

impl PortChange {
    /// The port's parameters after the change.
    ///
    /// # Errors
    /// The first value that the standard forbids.
    pub fn apply(&self, old: PortConfig) -> Result<PortConfig, BadValue> {
        let new = PortConfig {
            cost: self.cost.map_or(old.cost, |cost| (cost > 0).then_some(cost)),
            priority: self.priority.unwrap_or(old.priority),
            edge: self.edge.unwrap_or(old.edge),
            point_to_point: self.point_to_point.unwrap_or(old.point_to_point),
            bpdu_guard: self.bpdu_guard.unwrap_or(old.bpdu_guard),
            root_guard: self.root_guard.unwrap_or(old.root_guard),
        };
        if let Some(cost) = new.cost.filter(|cost| !(1..=MAX_COST).contains(cost)) {
            return Err(BadValue::Cost(cost));
        }
        if new.priority & 0x0F != 0 {
            return Err(BadValue::PortPriority(new.priority));
        }
        Ok(new)
    }
}

/// What a port does with frames (clause 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing.
    Discarding,
    /// It learns where stations are.
    Learning,
    /// Everything. Without spanning tree every port does.
    #[default]
    Forwarding,
}

/// The spanning tree as a bridge sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Is it on? If not, the rest is what it would begin with.
    pub enabled: bool,
    /// Which protocol.
    pub protocol: Protocol,
    /// This bridge: priority in hexadecimal, and address.
    pub bridge: String,
    /// The root.
    pub root: String,
    /// What the path to the root costs; 0 at the root.
    pub root_cost: u32,
    /// The port that leads to the root; absent at the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_port: Option<String>,
    /// Seconds between two BPDUs of the root.
    pub hello_s: u8,
    /// The root's maximum age.
    pub max_age_s: u8,
    /// The root's forward delay.
    pub forward_delay_s: u8,
    /// BPDUs in one second on one port.
    pub tx_hold: u8,
    /// What this bridge was told; above are the root's times.
    #[serde(default)]
    pub config: Config,
    /// How often the topology changed.
    pub topology_changes: u64,
    /// Seconds since it last did; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_s: Option<u64>,
    /// The ports.
    pub ports: Vec<PortTree>,
}

/// A port of the spanning tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTree {
    /// Its name.
    pub name: String,
    /// What it is to its link.
    pub role: Role,
    /// What it does with frames.
    pub state: State,
    /// What its link costs.
    pub cost: u32,
    /// What it was told that its link costs; absent: according to its speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_cost: Option<u32>,
    /// Its priority.
    #[serde(default)]
    pub priority: u8,
    /// Its priority and number, in hexadecimal: `8.001`.
    pub id: String,
    /// The protocol it speaks.
    pub protocol: Protocol,
    /// Its link is up.
    pub link: bool,
    /// A BPDU shut it.
    pub shut: bool,
    /// What was asked about the edge.
    pub edge: Edge,
    /// Is it the edge?
    pub is_edge: bool,
    /// Its link has two ends.
    pub point_to_point: bool,
    /// A BPDU shuts it.
    pub bpdu_guard: bool,
    /// It may not become root port.
    pub root_guard: bool,
    /// The bridge that leads its link.
    pub designated_bridge: String,
    /// That bridge's port.
    pub designated_port: String,
    /// What that bridge's path to the root costs.
    pub designated_cost: u32,
    /// BPDUs heard.
    pub rx_bpdus: u64,
    /// BPDUs sent.
    pub tx_bpdus: u64,
    /// Frames to the bridge group address that were no BPDU or too old.
    pub bad_bpdus: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_is_kept() {
        let change = |change: Change| change.apply(Config::default());
        assert_eq!(change(Change::default()), Ok(Config::default()));
        assert_eq!(change(Change { priority: Some(1), ..Change::default() }), Err(BadValue::Priority(1)));
        assert_eq!(change(Change { hello_s: Some(3), ..Change::default() }), Err(BadValue::Hello(3)));
        assert_eq!(change(Change { forward_delay_s: Some(4), ..Change::default() }), Err(BadValue::Relation));
        let fast =
            Change { forward_delay_s: Some(4), max_age_s: Some(6), hello_s: Some(1), ..Change::default() };
        assert_eq!(change(fast).unwrap().forward_delay_s, 4);
        let port = PortChange { priority: Some(17), ..PortChange::default() };
        assert_eq!(port.apply(PortConfig::default()), Err(BadValue::PortPriority(17)));
        let costs = [Some(10), Some(1_000), Some(0), None].map(cost_of_speed);
        assert_eq!(costs, [2_000_000, 20_000, 20_000_000, 2_000]);
        let port = PortChange { cost: Some(200_000_001), ..PortChange::default() };
        assert_eq!(port.apply(PortConfig::default()), Err(BadValue::Cost(200_000_001)));
    }
}
