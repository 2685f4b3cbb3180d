//! A port as the core sees it: identity, VLAN rules, what it can take, and what it counted.
//!
//! # Theory of operation
//! The core knows no descriptor; the shell keeps those in a table of its own by [`PortId`]. Ids are small
//! numbers, used again after a port is gone (its learned stations go with it). Counters are counted per
//! frame as it crosses the switch: a super-segment is one frame on the way in, and one or, if it was
//! cut, several on the way out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fdb::MAX_ENTRIES_PER_PORT;
use crate::guard::{Guard, GuardRules, Police, Shut};
use crate::qos::priority::{PriorityRules, Tables};
use crate::stp::config::State;
use crate::vlan::PortVlans;

/// Ports at most in one switch: a flood must end, and each costs a descriptor or two.
pub const MAX_PORTS: usize = 8192;
/// Bytes at most in a port's name.
pub const MAX_NAME: usize = 64;

/// A port's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortId(u32);

impl PortId {
    /// The port with this index.
    pub fn new(index: u32) -> Self {
        Self(index)
    }

    /// Its place in a table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a port takes without our help (virtio 1.2 clause 5.1.6.2, linux/virtio_net.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Offloads {
    /// Partial checksums (NEEDS_CSUM).
    pub csum: bool,
    /// TCP super-segments over IPv4.
    pub tso4: bool,
    /// TCP super-segments over IPv6.
    pub tso6: bool,
    /// UDP super-segments (USO).
    pub uso: bool,
}

impl Offloads {
    /// Nothing: plain Ethernet.
    pub const NONE: Self = Self { csum: false, tso4: false, tso6: false, uso: false };
    /// Everything.
    pub const ALL: Self = Self { csum: true, tso4: true, tso6: true, uso: true };
}

/// Why a frame went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// In: header or tag cut off.
    Short,
    /// In: longer than a super-segment can be.
    Long,
    /// In: from a group address or from nobody.
    BadSource,
    /// In: 01-80-C2-00-00-0x, which stays on its link.
    LinkLocal,
    /// In: a virtio-net header that contradicts the frame.
    BadOffload,
    /// In: the reserved VLAN 4095.
    BadTag,
    /// In: a VLAN this port does not carry.
    VlanNotAllowed,
    /// In: the destination is behind the port it came from.
    SamePort,
    /// In: more than the port's rate.
    RateLimit,
    /// In: more than the VLAN's rate.
    VlanRateLimit,
    /// In: one broadcast too many.
    StormBroadcast,
    /// In: one multicast too many.
    StormMulticast,
    /// In: one frame to an unknown station too many.
    StormUnknown,
    /// In: from one station too many.
    MacLimit,
    /// In: from a station that is pinned to another port.
    WrongPort,
    /// In: the port is shut.
    Shut,
    /// Out: its queue had no room.
    QueueFull,
    /// Out: the wire had no room.
    Full,
    /// Out: the interface is down or refused the frame.
    Refused,
    /// Out: a super-segment that cannot be cut for this port.
    Uncuttable,
    /// In: the spanning tree has the port discard, or learn only.
    Blocked,
    /// In: a datagram that is not of this port's tunnel: another network's, or cut off.
    BadTunnel,
    /// In: the port is a mirror's target, which takes no frames.
    MirrorPort,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 23] = [
        Self::Short,
        Self::Long,
        Self::BadSource,
        Self::LinkLocal,
        Self::BadOffload,
        Self::BadTag,
        Self::VlanNotAllowed,
        Self::SamePort,
        Self::RateLimit,
        Self::VlanRateLimit,
        Self::StormBroadcast,
        Self::StormMulticast,
        Self::StormUnknown,
        Self::MacLimit,
        Self::WrongPort,
        Self::Shut,
        Self::QueueFull,
        Self::Full,
        Self::Refused,
        Self::Uncuttable,
        Self::Blocked,
        Self::BadTunnel,
        Self::MirrorPort,
    ];

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
            Self::BadSource => "bad_source",
            Self::LinkLocal => "link_local",
            Self::BadOffload => "bad_offload",
            Self::BadTag => "bad_tag",
            Self::VlanNotAllowed => "vlan_not_allowed",
            Self::SamePort => "same_port",
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Uncuttable => "uncuttable",
            Self::MirrorPort => "mirror_port",
            Self::RateLimit => "rate_limit",
            Self::VlanRateLimit => "vlan_rate_limit",
            Self::StormBroadcast => "storm_broadcast",
            Self::StormMulticast => "storm_multicast",
            Self::StormUnknown => "storm_unknown",
            Self::MacLimit => "mac_limit",
            Self::WrongPort => "wrong_port",
            Self::Shut => "shut",
            Self::QueueFull => "queue_full",
            Self::Blocked => "blocked",
            Self::BadTunnel => "bad_tunnel",
        }
    }
}

/// What a port counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Frames that arrived, dropped ones included.
    pub rx_frames: u64,
    /// Their bytes, without virtio-net header.
    pub rx_bytes: u64,
    /// Frames written.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// One frame was dropped.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// How many frames were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// The reasons that occurred.
    pub fn all_drops(&self) -> BTreeMap<DropReason, u64> {
        DropReason::ALL.into_iter().map(|r| (r, self.drops(r))).filter(|(_, n)| *n > 0).collect()
    }
}

/// A port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its name, unique in the switch.
    pub name: String,
    /// Its VLAN rules.
    pub vlans: PortVlans,
    /// What it takes.
    pub offloads: Offloads,
    /// What the spanning tree lets it do.
    pub state: State,
    /// What it counted.
    pub counters: Counters,
    /// What it does to priorities.
    pub priorities: PriorityRules,
    /// The same as tables.
    pub(crate) tables: Tables,
    /// Its limits, if it has any.
    pub(crate) guard: Option<Box<Guard>>,
    /// Stations learned behind it at most.
    pub(crate) mac_limit: u32,
    /// Why it is shut, if it is.
    pub shut: Option<Shut>,
    /// Its link is up, for all the shell has told.
    pub link: bool,
    /// It is a mirror's target: a member of no VLAN, and deaf.
    pub mirror_target: bool,
}

impl Port {
    /// A port that was told no more than this.
    pub(crate) fn new(name: &str, vlans: PortVlans, offloads: Offloads) -> Self {
        Self {
            name: name.to_owned(),
            vlans,
            offloads,
            state: State::Forwarding,
            counters: Counters::default(),
            priorities: PriorityRules::default(),
            tables: Tables::default(),
            guard: None,
            mac_limit: MAX_ENTRIES_PER_PORT,
            shut: None,
            link: true,
            mirror_target: false,
        }
    }

    /// A member of its VLANs: neither shut, nor closed by the spanning tree, nor a mirror's target.
    pub fn is_open(&self) -> bool {
        self.shut.is_none() && self.state == State::Forwarding && !self.mirror_target
    }

    /// Shut, or a mirror's target: nothing is let in.
    pub fn is_deaf(&self) -> bool {
        self.shut.is_some() || self.mirror_target
    }

    /// Its limits on storms and stations.
    pub fn guard_rules(&self) -> GuardRules {
        self.guard.as_ref().map_or_else(GuardRules::default, |guard| guard.rules())
    }

    /// The rate that arriving frames keep.
    pub fn police(&self) -> Option<Police> {
        self.guard.as_ref().and_then(|guard| guard.police())
    }
}

/// Is `name` fit for a port: 1 to 64 printable ASCII characters without space?
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
        let mut counters = Counters::default();
        counters.count_drop(DropReason::LinkLocal);
        let json = serde_json::to_string(&counters.all_drops()).unwrap();
        assert_eq!(json, r#"{"link_local":1}"#);
    }

    #[test]
    fn names() {
        assert!(is_valid_name("eth0"));
        assert!(!is_valid_name(""));
        assert!(!is_valid_name("a b"));
        assert!(!is_valid_name("a\x1b[2J"));
        assert!(!is_valid_name(&"x".repeat(65)));
    }
}
