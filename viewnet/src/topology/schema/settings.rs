//! What may be said of a port beside what it is: priorities, rates, limits, the spanning tree, impairments.
//!
//! The words are those of `viewnet switch`'s options. Each group becomes what the switch is told (`told`), and what a
//! switch tells becomes a group (`of`), in which everything that is as by default is absent; so two of them can be
//! compared, and what differs can be named by its words.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use switch::client::MirrorRule;
use switch::client::traffic::PortQos;
use switch::frame::Mac;
use switch::guard::{Exceed, GuardRules, Police, Violation};
use switch::impair::Spec;
use switch::mirror::Direction;
use switch::qos::priority::{PcpMap, PriorityRules};
use switch::qos::queues::{Class, Shape};
use switch::qos::rate::Rate;
use switch::qos::reserve::Reservation;
use switch::stp::config::{Edge, PortConfig};
use switch::vlan::{Vid, VidSet};

use super::VlanKey;
use super::word::{Short, Typed, Word, short_or_table};

/// All of it; a port that was told nothing has the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortSettings {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shut: bool,
    pub(crate) pin: Vec<Pin>,
    pub(crate) qos: Qos,
    pub(crate) reserve: BTreeMap<VlanKey, Reserve>,
    pub(crate) guard: Guard,
    pub(crate) stp: PortTree,
    pub(crate) impair: Impair,
    pub(crate) mirror: Option<Mirror>,
}

/// `viewnet switch qos set`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Qos {
    pub(crate) default_pcp: Option<u8>,
    pub(crate) trust: Option<bool>,
    pub(crate) map_in: Option<PcpMap>,
    pub(crate) map_out: Option<PcpMap>,
    pub(crate) police: Option<Word<Rate>>,
    pub(crate) police_burst: Option<Word<u32>>,
    pub(crate) exceed: Option<Exceed>,
    pub(crate) rate: Option<Word<Rate>>,
    pub(crate) burst: Option<Word<u32>>,
    pub(crate) classes: Vec<Word<Class>>,
    pub(crate) map: Option<PcpMap>,
    pub(crate) queue_bytes: Option<Word<u32>>,
    pub(crate) reservable: Option<u8>,
}

/// A rate of arriving frames, as three words.
pub(super) fn police(
    rate: Option<Word<Rate>>,
    burst: Option<Word<u32>>,
    exceed: Option<Exceed>,
) -> Option<Police> {
    let exceed = exceed.unwrap_or_default();
    rate.map(|rate| Police { rate: rate.0, burst_bytes: burst.map(|burst| burst.0), exceed })
}

/// A value, unless it is the default.
fn other<T: PartialEq>(value: T, default: T) -> Option<T> {
    (value != default).then_some(value)
}

impl Qos {
    /// What the switch is told.
    pub(crate) fn told(&self) -> PortQos {
        let usual = PriorityRules::default();
        let priority = PriorityRules {
            default_pcp: self.default_pcp.unwrap_or(usual.default_pcp),
            trust: self.trust.unwrap_or(usual.trust),
            ingress: self.map_in.unwrap_or(usual.ingress),
            egress: self.map_out.unwrap_or(usual.egress),
        };
        let usual = Shape::default();
        let classes: Vec<Class> = self.classes.iter().map(|class| class.0).collect();
        let shape = Shape {
            rate: self.rate.map(|rate| rate.0),
            burst_bytes: self.burst.map(|burst| burst.0),
            classes: if classes.is_empty() { usual.classes.clone() } else { classes },
            map: self.map,
            queue_bytes: self.queue_bytes.map(|bytes| bytes.0),
            reservable_percent: self.reservable.unwrap_or(usual.reservable_percent),
        };
        let has_queues = shape.rate.is_some() || shape.classes != usual.classes;
        let police = police(self.police, self.police_burst, self.exceed);
        PortQos { priority, police, shape: has_queues.then_some(shape) }
    }

    /// What a switch was told.
    pub(crate) fn of(qos: &PortQos) -> Self {
        let PortQos { priority, police, shape } = qos;
        let (usual, plain) = (PriorityRules::default(), Shape::default());
        let shape = shape.clone().unwrap_or_else(|| plain.clone());
        let classes = other(shape.classes, plain.classes).unwrap_or_default();
        Self {
            default_pcp: other(priority.default_pcp, usual.default_pcp),
            trust: other(priority.trust, usual.trust),
            map_in: other(priority.ingress, usual.ingress),
            map_out: other(priority.egress, usual.egress),
            police: police.map(|police| Word(police.rate)),
            police_burst: police.and_then(|police| police.burst_bytes).map(Word),
            exceed: police.and_then(|police| other(police.exceed, Exceed::default())),
            rate: shape.rate.map(Word),
            burst: shape.burst_bytes.map(Word),
            classes: classes.into_iter().map(Word).collect(),
            map: shape.map,
            queue_bytes: shape.queue_bytes.map(Word),
            reservable: other(shape.reservable_percent, plain.reservable_percent),
        }
    }
}

/// `viewnet switch reserve add`: a rate, or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub(crate) struct Reserve {
    pub(crate) rate: Word<Rate>,
    #[serde(default)]
    pub(crate) max: Option<Word<Rate>>,
}

impl Reserve {
    /// What the switch is told.
    pub(crate) fn told(self, vid: Vid) -> Reservation {
        Reservation { vid, rate: self.rate.0, max: self.max.map(|max| max.0) }
    }

    /// What a switch was told.
    pub(crate) fn of(reservation: &Reservation) -> Self {
        Self { rate: Word(reservation.rate), max: reservation.max.map(Word) }
    }
}

impl Short for Reserve {
    const EXPECTED: &'static str = "a rate, as \"100M\",";

    fn of_text(text: &str) -> Option<Self> {
        Some(Self { rate: Word(Rate::read(text).ok()?), max: None })
    }

    fn of_table<'de, D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        Self::deserialize(table)
    }
}
short_or_table!(Reserve);

/// `viewnet switch guard set`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Guard {
    pub(crate) broadcast: Option<u32>,
    pub(crate) multicast: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) macs: Option<u32>,
    pub(crate) violation: Option<Violation>,
}

impl Guard {
    /// What the switch is told.
    pub(crate) fn told(self) -> GuardRules {
        GuardRules {
            broadcast_fps: self.broadcast,
            multicast_fps: self.multicast,
            unknown_fps: self.unknown,
            mac_limit: self.macs,
            violation: self.violation.unwrap_or_default(),
        }
    }

    /// What a switch was told.
    pub(crate) fn of(rules: &GuardRules) -> Self {
        Self {
            broadcast: rules.broadcast_fps,
            multicast: rules.multicast_fps,
            unknown: rules.unknown_fps,
            macs: rules.mac_limit,
            violation: other(rules.violation, Violation::default()),
        }
    }
}

/// What a port is to the spanning tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PortTree {
    pub(crate) cost: Option<u32>,
    pub(crate) priority: Option<u8>,
    pub(crate) edge: Option<Edge>,
    pub(crate) point_to_point: Option<bool>,
    pub(crate) bpdu_guard: Option<bool>,
    pub(crate) root_guard: Option<bool>,
}

impl PortTree {
    /// What the switch is told of a port with this default.
    pub(crate) fn told(self, usual: PortConfig) -> PortConfig {
        PortConfig {
            cost: self.cost.filter(|cost| *cost > 0),
            priority: self.priority.unwrap_or(usual.priority),
            edge: self.edge.unwrap_or(usual.edge),
            point_to_point: self.point_to_point.unwrap_or(usual.point_to_point),
            bpdu_guard: self.bpdu_guard.unwrap_or(usual.bpdu_guard),
            root_guard: self.root_guard.unwrap_or(usual.root_guard),
        }
    }

    /// What a switch was told of a port with this default.
    pub(crate) fn of(config: PortConfig, usual: PortConfig) -> Self {
        Self {
            cost: config.cost,
            priority: other(config.priority, usual.priority),
            edge: other(config.edge, usual.edge),
            point_to_point: other(config.point_to_point, usual.point_to_point),
            bpdu_guard: other(config.bpdu_guard, usual.bpdu_guard),
            root_guard: other(config.root_guard, usual.root_guard),
        }
    }
}

/// `viewnet switch port impair`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Impair {
    #[serde(rename = "in")]
    pub(crate) ingress: Option<Spec>,
    #[serde(rename = "out")]
    pub(crate) egress: Option<Spec>,
    pub(crate) seed: Option<u64>,
}

impl Impair {
    /// Without what does nothing.
    pub(super) fn canonical(self) -> Self {
        let does = |spec: &Spec| !spec.is_nothing();
        let (ingress, egress) = (self.ingress.filter(does), self.egress.filter(does));
        let seed = self.seed.filter(|_| ingress.is_some() || egress.is_some());
        Self { ingress, egress, seed }
    }
}

/// `viewnet switch mirror add`, to this port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub(crate) struct Mirror {
    /// Absent: all ports.
    pub(crate) from: Option<Vec<String>>,
    pub(crate) direction: Direction,
    pub(crate) vlan: Option<VidSet>,
}

impl Mirror {
    /// What the switch is told.
    pub(crate) fn told(&self, to: &str) -> MirrorRule {
        MirrorRule {
            to: to.to_owned(),
            from: self.from.clone(),
            direction: self.direction,
            vlans: self.vlan.clone().unwrap_or_else(VidSet::all),
        }
    }

    /// What a switch was told.
    pub(crate) fn of(rule: &MirrorRule) -> Self {
        let vlan = other(rule.vlans.clone(), VidSet::all());
        Self { from: rule.from.clone(), direction: rule.direction, vlan }.canonical()
    }

    pub(super) fn canonical(mut self) -> Self {
        if let Some(from) = &mut self.from {
            from.sort();
            from.dedup();
        }
        self.vlan = self.vlan.filter(|vlan| !vlan.is_all());
        self
    }
}

impl Short for Mirror {
    const EXPECTED: &'static str = "\"all\"";

    fn of_text(text: &str) -> Option<Self> {
        (text == "all").then(Self::default)
    }

    fn of_table<'de, D: serde::Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        Self::deserialize(table)
    }
}
short_or_table!(Mirror);

/// `viewnet switch mac add`: `02:00:00:00:00:07`, or `02:00:00:00:00:07 vlan 10`; without VLAN that of the port's
/// frames without tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Pin {
    pub(crate) mac: Mac,
    pub(crate) vid: Option<Vid>,
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no station; write 02:00:00:00:00:07, or 02:00:00:00:00:07 vlan 10");
        let (mac, vid) = match text.split_once(" vlan ") {
            Some((mac, vid)) => (mac, Some(Vid::from_str(vid).map_err(|_| wrong())?)),
            None => (text.as_str(), None),
        };
        let mac: Mac = mac.parse().map_err(|_| wrong())?;
        if !mac.is_station() {
            return Err(format!("`{mac}` is a group's address, or nobody's; pin that of a station"));
        }
        Ok(Self { mac, vid })
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mac)?;
        self.vid.map_or(Ok(()), |vid| write!(f, " vlan {vid}"))
    }
}

impl PortSettings {
    /// Without what is as by default; `pvid` is the VLAN of the port's frames without tag.
    pub(crate) fn canonical(self, usual: PortConfig, pvid: Option<Vid>) -> Self {
        let mut pin = self.pin;
        pin.iter_mut().filter(|pin| pin.vid == pvid).for_each(|pin| pin.vid = None);
        pin.sort();
        pin.dedup();
        Self {
            shut: self.shut,
            pin,
            qos: Qos::of(&self.qos.told()),
            reserve: self.reserve,
            guard: Guard::of(&self.guard.told()),
            stp: PortTree::of(self.stp.told(usual), usual),
            impair: self.impair.canonical(),
            mirror: self.mirror.map(Mirror::canonical),
        }
    }
}
