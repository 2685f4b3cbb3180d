//! Requests and answers about priorities, rates, queues, reservations, limits and pinned stations.

use serde::{Deserialize, Serialize};

use crate::frame::Mac;
use crate::guard::{GuardRules, Police, Shut};
use crate::qos::priority::{PcpMap, PriorityRules};
use crate::qos::queues::{Class, QueueCounters, Shape};
use crate::qos::reserve::Reservation;
use crate::vlan::Vid;

/// What a port does to priorities, and which rates it keeps. It is set as a whole: what is absent is off.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortQos {
    /// Priorities.
    pub priority: PriorityRules,
    /// The rate of arriving frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub police: Option<Police>,
    /// The rate and classes of leaving frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// `qos_set`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosSet {
    /// The port's name.
    pub port: String,
    /// All of it.
    #[serde(flatten)]
    pub qos: PortQos,
}

/// `guard_set`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardSet {
    /// The port's name.
    pub port: String,
    /// All of it: what is absent is off.
    #[serde(flatten)]
    pub guard: GuardRules,
}

/// `port_open`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortOpen {
    /// The port's name.
    pub port: String,
    /// Open it, or shut it.
    pub open: bool,
}

/// `reserve_add`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveAdd {
    /// The port's name.
    pub port: String,
    /// What is promised.
    #[serde(flatten)]
    pub reservation: Reservation,
}

/// `reserve_rm`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRm {
    /// The port's name.
    pub port: String,
    /// The VLAN.
    pub vid: Vid,
}

/// `vlan_set`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanSet {
    /// The VLAN.
    pub vid: Vid,
    /// The rate its frames keep, all ports together; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub police: Option<Police>,
}

/// `mac_add`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacAdd {
    /// The VLAN.
    pub vid: Vid,
    /// The station.
    pub mac: Mac,
    /// The name of the port it is pinned to.
    pub port: String,
}

/// `mac_rm`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacRm {
    /// The VLAN.
    pub vid: Vid,
    /// The station.
    pub mac: Mac,
}

/// A port in the answer to `qos_ls`: those that differ from one that was told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosInfo {
    /// Its name.
    pub port: String,
    /// What it was told.
    #[serde(flatten)]
    pub qos: PortQos,
    /// Which class a priority code point has, if the port has classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_by_pcp: Option<PcpMap>,
    /// Its queues: the classes, lowest first, and the reservations.
    #[serde(default)]
    pub queues: Vec<QueueInfo>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// How it is served, if it is that of a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The VLAN whose reservation it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vid: Option<Vid>,
    /// What it counted.
    #[serde(flatten)]
    pub counters: QueueCounters,
    /// Frames waiting.
    pub waiting_frames: usize,
    /// Bytes of memory they take.
    pub waiting_bytes: usize,
}

/// A port in the answer to `guard_ls`: those that have limits or are shut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardInfo {
    /// Its name.
    pub port: String,
    /// Its limits.
    #[serde(flatten)]
    pub guard: GuardRules,
    /// How many stations are behind it, pinned ones included.
    pub macs: u32,
    /// Why it is shut, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut: Option<Shut>,
}

/// A reservation in the answer to `reserve_ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveInfo {
    /// The port's name.
    pub port: String,
    /// What is promised.
    #[serde(flatten)]
    pub reservation: Reservation,
    /// How much more could be promised on this port, in bits per second.
    pub free_bps: u64,
    /// What its queue counted.
    #[serde(flatten)]
    pub counters: QueueCounters,
}
