//! A port as the core sees it: identity, VLAN rules, what it can take, and what it counted.
//!
//! # Theory of operation
//! The core knows no descriptor; the shell keeps those in a table of its own by [`PortId`]. Ids are small
//! numbers, used again after a port is gone (its learned stations go with it). Counters are counted per
//! frame as it crosses the switch: a super-segment is one frame on the way in, and one or, if it was
//! cut, several on the way out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::vlan::PortVlans;

/// Ports at most in one switch: a flood must end, and each costs a descriptor or two.
pub const MAX_PORTS: usize = 8192;
/// Bytes at most in a port's name.
pub const MAX_NAME: usize = 64;

/// A port's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// Out: the wire had no room.
    Full,
    /// Out: the interface is down or refused the frame.
    Refused,
    /// Out: a super-segment that cannot be cut for this port.
    Uncuttable,
    /// In: the port is a mirror's target, which takes no frames.
    MirrorPort,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Short,
        Self::Long,
        Self::BadSource,
        Self::LinkLocal,
        Self::BadOffload,
        Self::BadTag,
        Self::VlanNotAllowed,
        Self::SamePort,
        Self::Full,
        Self::Refused,
        Self::Uncuttable,
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
    /// What it counted.
    pub counters: Counters,
    /// It is a mirror's target: a member of no VLAN, and deaf.
    pub mirror_target: bool,
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
