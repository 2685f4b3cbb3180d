//! VLANs: their numbers, sets of numbers, and what a port lets in and out.
//!
//! # Theory of operation
//! Every frame inside the switch belongs to exactly one VLAN. On ingress [`PortVlans::ingress`] finds it
//! from the tag or the port (802.1Q-2018 clause 6.9.1), or refuses the frame, as ingress filtering
//! (clause 8.6.2) is always on. On egress [`PortVlans::egress`] says whether the port is a member of the
//! VLAN (clause 8.6.4) and whether the frame leaves with a tag.
//!
//! - An access port takes frames without VLAN tag (a priority tag, VLAN 0, counts as none) and gives them
//!   without tag.
//! - A trunk takes tagged frames of the VLANs it allows; frames without VLAN tag belong to its native VLAN, if it
//!   has one, whose frames leave without tag. The native VLAN is always allowed.
//! - A hybrid port says for each VLAN whether its frames leave with or without tag, and to which VLAN
//!   frames without tag belong.
//! - A tunnel port is a customer's: whatever comes, tagged or not, belongs to one VLAN, and leaves as it came (802.1Q
//!   clause 15.3, port-based service interface). Behind a trunk its frames have two tags.
//! - A service port is a trunk whose tags are a provider's, 0x88A8 (clause 9.5): where tunnels lead.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::frame::{TagKind, Tci};

/// A VLAN number, 1 to 4094 (802.1Q clause 9.6, table 9-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub struct Vid(NonZeroU16);

impl Vid {
    /// The VLAN of a port that was told nothing else (802.1Q table 9-2: the default PVID).
    pub const DEFAULT: Self = Self(NonZeroU16::MIN);
    /// The highest number.
    pub const MAX: u16 = 4094;

    /// `None` unless 1 to 4094.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).filter(|n| n.get() <= Self::MAX).map(Self)
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// The number as an index into a table of 4096.
    pub fn index(self) -> usize {
        usize::from(self.number())
    }

    /// Every VLAN, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MAX).filter_map(Self::new)
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Vid> for u16 {
    fn from(vid: Vid) -> Self {
        vid.number()
    }
}

/// The text or number names no VLAN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no VLAN; use 1 to 4094")]
pub struct BadVid(String);

impl TryFrom<u16> for Vid {
    type Error = BadVid;

    fn try_from(number: u16) -> Result<Self, BadVid> {
        Self::new(number).ok_or_else(|| BadVid(number.to_string()))
    }
}

impl FromStr for Vid {
    type Err = BadVid;

    fn from_str(text: &str) -> Result<Self, BadVid> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| BadVid(text.to_owned()))
    }
}

/// A set of VLANs, written `1,10-20` or `all`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VidSet(Box<[u64; 64]>);

impl VidSet {
    /// No VLAN.
    pub fn none() -> Self {
        Self(Box::new([0; 64]))
    }

    /// Every VLAN.
    pub fn all() -> Self {
        let mut words = [u64::MAX; 64];
        words[0] = !1;
        words[63] = !(1 << 63);
        Self(Box::new(words))
    }

    /// Is `vid` in the set?
    pub fn contains(&self, vid: Vid) -> bool {
        self.0[vid.index() / 64] >> (vid.index() % 64) & 1 != 0
    }

    /// Puts `vid` in.
    pub fn insert(&mut self, vid: Vid) {
        self.0[vid.index() / 64] |= 1 << (vid.index() % 64);
    }

    /// Takes `vid` out.
    pub fn remove(&mut self, vid: Vid) {
        self.0[vid.index() / 64] &= !(1 << (vid.index() % 64));
    }

    /// Has it every VLAN?
    pub fn is_all(&self) -> bool {
        *self == Self::all()
    }

    /// Its members, in order.
    pub fn iter(&self) -> impl Iterator<Item = Vid> {
        Vid::all().filter(|&vid| self.contains(vid))
    }
}

impl FromIterator<Vid> for VidSet {
    fn from_iter<I: IntoIterator<Item = Vid>>(vids: I) -> Self {
        let mut set = Self::none();
        vids.into_iter().for_each(|vid| set.insert(vid));
        set
    }
}

impl FromStr for VidSet {
    type Err = BadVid;

    fn from_str(text: &str) -> Result<Self, BadVid> {
        if text == "all" {
            return Ok(Self::all());
        }
        let mut set = Self::none();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (Vid, Vid) = (first.parse()?, last.parse()?);
            if first > last {
                return Err(BadVid(part.to_owned()));
            }
            Vid::all().filter(|v| (first..=last).contains(v)).for_each(|vid| set.insert(vid));
        }
        Ok(set)
    }
}

impl TryFrom<String> for VidSet {
    type Error = BadVid;

    fn try_from(text: String) -> Result<Self, BadVid> {
        text.parse()
    }
}

impl From<VidSet> for String {
    fn from(set: VidSet) -> Self {
        set.to_string()
    }
}

impl fmt::Display for VidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        let mut vids = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = vids.next() {
            let mut last = first;
            while let Some(next) = vids.next_if(|v| v.number() == last.number() + 1) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for VidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VidSet({self})")
    }
}

/// What a port lets in and out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum PortVlans {
    /// One VLAN, without tags.
    Access {
        /// The VLAN.
        vid: Vid,
    },
    /// Several VLANs, with tags.
    Trunk {
        /// The VLAN of frames without tag (pvid untagged); without it they are refused.
        #[serde(default)]
        native: Option<Vid>,
        /// The VLANs whose tags are accepted; the native one always is.
        allowed: VidSet,
    },
    /// Several VLANs, some with tags, some without.
    Hybrid {
        /// The VLAN of frames without tag, always carried; without it they are refused.
        #[serde(default)]
        pvid: Option<Vid>,
        /// The VLANs whose frames leave with tags.
        allowed: VidSet,
        /// The VLANs whose frames leave without; carried in any case, and first if `allowed` has them, too.
        #[serde(default = "VidSet::none")]
        untagged: VidSet,
    },
    /// A customer whose frames are carried as they are, tags and all, in one VLAN.
    Tunnel {
        /// The VLAN.
        vid: Vid,
    },
    /// Several VLANs, with service tags (0x88A8).
    Service {
        /// The VLAN of frames without service tag; without it they are refused.
        #[serde(default)]
        native: Option<Vid>,
        /// The VLANs whose tags are accepted; the native one always is.
        allowed: VidSet,
    },
}

impl Default for PortVlans {
    fn default() -> Self {
        Self::Access { vid: Vid::DEFAULT }
    }
}

/// Why a frame has no VLAN on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The tag has the reserved number 4095.
    Reserved,
    /// The port does not carry this VLAN, or no untagged frames.
    NotAllowed,
}

impl PortVlans {
    /// What a port between two switches is that were told nothing: every VLAN, and the first one without tag as
    /// vde_switches have it.
    pub fn between_switches() -> Self {
        Self::Trunk { native: Some(Vid::DEFAULT), allowed: VidSet::all() }
    }

    /// The VLAN of an arriving frame with this tag, which is of the kind that [`PortVlans::tagging`] tells.
    ///
    /// # Errors
    /// Frames the port must not let in.
    #[inline]
    pub fn ingress(&self, tag: Option<Tci>) -> Result<Vid, Refused> {
        let raw = tag.map_or(0, Tci::raw_vid);
        if raw == 0 {
            return self.pvid().ok_or(Refused::NotAllowed);
        }
        let vid = Vid::new(raw).ok_or(Refused::Reserved)?;
        let takes_tags = !matches!(self, Self::Access { .. });
        if takes_tags && self.carries(vid) { Ok(vid) } else { Err(Refused::NotAllowed) }
    }

    /// How a frame of `vid` leaves: with a tag or without; `None` if it must not.
    #[inline]
    pub fn egress(&self, vid: Vid) -> Option<Egress> {
        // The two that most ports are, before a jump by kind.
        match self {
            Self::Access { vid: own } => (*own == vid).then_some(Egress::Untagged),
            Self::Trunk { native, .. } if *native == Some(vid) => Some(Egress::Untagged),
            Self::Trunk { allowed, .. } => allowed.contains(vid).then_some(Egress::Tagged),
            _ => self.rare_egress(vid),
        }
    }

    fn rare_egress(&self, vid: Vid) -> Option<Egress> {
        match self {
            Self::Access { .. } | Self::Trunk { .. } => self.egress(vid),
            Self::Tunnel { vid: own } => (*own == vid).then_some(Egress::Untagged),
            Self::Service { native, .. } if *native == Some(vid) => Some(Egress::Untagged),
            Self::Service { allowed, .. } => allowed.contains(vid).then_some(Egress::Service),
            Self::Hybrid { untagged, .. } if untagged.contains(vid) => Some(Egress::Untagged),
            Self::Hybrid { allowed, .. } if allowed.contains(vid) => Some(Egress::Tagged),
            Self::Hybrid { pvid, .. } => (*pvid == Some(vid)).then_some(Egress::Untagged),
        }
    }

    /// Which tags are tags here; `None`: none are.
    #[inline]
    pub fn tagging(&self) -> Option<TagKind> {
        match self {
            Self::Access { .. } | Self::Trunk { .. } | Self::Hybrid { .. } => Some(TagKind::Customer),
            Self::Service { .. } => Some(TagKind::Service),
            Self::Tunnel { .. } => None,
        }
    }

    /// Is the port a member of `vid`?
    pub fn carries(&self, vid: Vid) -> bool {
        self.egress(vid).is_some()
    }

    /// The VLAN of frames without tag.
    pub fn pvid(&self) -> Option<Vid> {
        match self {
            Self::Access { vid } | Self::Tunnel { vid } => Some(*vid),
            Self::Trunk { native, .. } | Self::Service { native, .. } => *native,
            Self::Hybrid { pvid, .. } => *pvid,
        }
    }

    /// How frames leave of every VLAN but the native one, if the port is a member of every VLAN so.
    pub fn carries_all(&self) -> Option<Egress> {
        match self {
            Self::Trunk { allowed, .. } if allowed.is_all() => Some(Egress::Tagged),
            Self::Service { allowed, .. } if allowed.is_all() => Some(Egress::Service),
            _ => None,
        }
    }

    /// Stops carrying a VLAN, unless it is that of frames without tag.
    pub fn stop_carrying(&mut self, vid: Vid) {
        match self {
            Self::Access { .. } | Self::Tunnel { .. } => {}
            Self::Trunk { allowed, .. } | Self::Service { allowed, .. } => allowed.remove(vid),
            Self::Hybrid { allowed, untagged, .. } => {
                allowed.remove(vid);
                untagged.remove(vid);
            }
        }
    }
}

impl fmt::Display for PortVlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = |f: &mut fmt::Formatter<'_>, word: &str, vid: &Option<Vid>| match vid {
            Some(vid) => write!(f, " {word} {vid}"),
            None => Ok(()),
        };
        match self {
            Self::Access { vid } => write!(f, "access {vid}"),
            Self::Tunnel { vid } => write!(f, "tunnel {vid}"),
            Self::Trunk { native, allowed } => {
                write!(f, "trunk {allowed}")?;
                own(f, "native", native)
            }
            Self::Service { native, allowed } => {
                write!(f, "service {allowed}")?;
                own(f, "native", native)
            }
            Self::Hybrid { pvid, allowed, untagged } => {
                write!(f, "hybrid {allowed}")?;
                if *untagged != VidSet::none() {
                    write!(f, " untagged {untagged}")?;
                }
                own(f, "pvid", pvid)
            }
        }
    }
}

/// How a frame leaves a member port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Without the VLAN's tag.
    Untagged,
    /// With it.
    Tagged,
    /// With a service tag.
    Service,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vid(n: u16) -> Vid {
        Vid::new(n).unwrap()
    }

    #[test]
    fn rules_of_clause_8_6() {
        let access = PortVlans::Access { vid: vid(10) };
        let trunk = PortVlans::Trunk { native: Some(vid(1)), allowed: "10,20-30".parse().unwrap() };
        let tagged_only = PortVlans::Trunk { native: None, allowed: VidSet::all() };
        let hybrid = PortVlans::Hybrid {
            pvid: Some(vid(5)),
            allowed: "7,8".parse().unwrap(),
            untagged: "8,9".parse().unwrap(),
        };
        let service = PortVlans::Service { native: None, allowed: "100".parse().unwrap() };
        let table: [(&PortVlans, Option<u16>, Result<u16, Refused>); 20] = [
            (&hybrid, None, Ok(5)),
            (&hybrid, Some(5), Ok(5)),
            (&hybrid, Some(7), Ok(7)),
            (&hybrid, Some(9), Ok(9)),
            (&hybrid, Some(10), Err(Refused::NotAllowed)),
            (&service, None, Err(Refused::NotAllowed)),
            (&service, Some(100), Ok(100)),
            (&access, None, Ok(10)),
            (&access, Some(0xE000), Ok(10)),
            (&access, Some(10), Err(Refused::NotAllowed)),
            (&access, Some(4095), Err(Refused::Reserved)),
            (&trunk, None, Ok(1)),
            (&trunk, Some(0), Ok(1)),
            (&trunk, Some(1), Ok(1)),
            (&trunk, Some(0x600A), Ok(10)),
            (&trunk, Some(25), Ok(25)),
            (&trunk, Some(31), Err(Refused::NotAllowed)),
            (&tagged_only, None, Err(Refused::NotAllowed)),
            (&tagged_only, Some(4094), Ok(4094)),
            (&tagged_only, Some(4095), Err(Refused::Reserved)),
        ];
        for (rules, tci, expected) in table {
            assert_eq!(rules.ingress(tci.map(Tci)).map(Vid::number), expected, "{rules} {tci:?}");
        }
        assert_eq!(access.egress(vid(10)), Some(Egress::Untagged));
        assert_eq!(access.egress(vid(11)), None);
        assert_eq!(trunk.egress(vid(1)), Some(Egress::Untagged));
        assert_eq!(trunk.egress(vid(20)), Some(Egress::Tagged));
        assert_eq!(trunk.egress(vid(2)), None);
        assert_eq!(service.egress(vid(100)), Some(Egress::Service));
        let leaves = [5, 7, 8, 9, 10].map(|n| hybrid.egress(vid(n)));
        let (tagged, untagged) = (Some(Egress::Tagged), Some(Egress::Untagged));
        assert_eq!(leaves, [untagged, tagged, untagged, untagged, None]);
        let tunnel = PortVlans::Tunnel { vid: vid(100) };
        assert_eq!((tunnel.tagging(), tunnel.ingress(None)), (None, Ok(vid(100))));
    }

    #[test]
    fn texts() {
        assert_eq!("1,3-5,7".parse::<VidSet>().unwrap().to_string(), "1,3-5,7");
        assert_eq!("1-4094".parse::<VidSet>().unwrap().to_string(), "all");
        assert_eq!("".parse::<VidSet>().unwrap(), VidSet::none());
        for bad in ["0", "4095", "5-3", "1,", "a", "-1", "1-"] {
            assert!(bad.parse::<VidSet>().is_err(), "{bad}");
        }
        let json = serde_json::to_string(&PortVlans::default()).unwrap();
        assert_eq!(json, r#"{"mode":"access","vid":1}"#);
        assert!(serde_json::from_str::<PortVlans>(r#"{"mode":"access","vid":0}"#).is_err());
        let hybrid: PortVlans = serde_json::from_str(r#"{"mode":"hybrid","pvid":5,"allowed":"7"}"#).unwrap();
        assert_eq!(hybrid.to_string(), "hybrid 7 pvid 5");
    }

    proptest! {
        #[test]
        fn sets_round_trip(numbers in prop::collection::btree_set(1..=Vid::MAX, 0..200)) {
            let set: VidSet = numbers.iter().copied().map(vid).collect();
            prop_assert_eq!(set.iter().map(Vid::number).collect::<std::collections::BTreeSet<_>>(), numbers);
            prop_assert_eq!(set.to_string().parse::<VidSet>().unwrap(), set);
        }

        #[test]
        fn what_is_let_in_may_leave_by_the_same_port(native in 0..6u16, tci: u16, list in prop::collection::vec(1..6u16, 0..6)) {
            let rules = PortVlans::Trunk {
                native: Vid::new(native),
                allowed: list.into_iter().map(vid).collect(),
            };
            let PortVlans::Trunk { native, allowed } = rules.clone() else { unreachable!() };
            let service = PortVlans::Service { native, allowed: allowed.clone() };
            let hybrid = PortVlans::Hybrid { pvid: native, untagged: VidSet::none(), allowed };
            for rules in [rules, service, hybrid] {
                if let Ok(vid) = rules.ingress(Some(Tci(tci))) {
                    prop_assert!(rules.carries(vid));
                }
            }
        }
    }
}
