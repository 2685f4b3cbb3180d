//! Priorities: which one an arriving frame has, and which one its tag tells when it leaves.
//!
//! # Theory of operation
//! 802.1Q-2018 clause 6.9.3: a frame's priority is decided where it arrives, from its tag or by the port, and travels
//! with it through the switch: it chooses the queue, and is written into the tag it leaves with, if it has one.
//! [`PriorityRules`] is what people say; [`Tables`] the same as two tables, so that a port with rules and one
//! without cost the same.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::frame::{Priority, Tci};

/// How many priority code points there are.
pub const PCPS: usize = 8;

/// The numbers are no map of priorities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no map of priorities; write eight numbers from 0 to 7, as 0,0,1,1,2,2,3,3")]
pub struct BadMap;

/// For each priority code point another number from 0 to 7, written `0,1,2,3,4,5,6,7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[u8; PCPS]", try_from = "[u8; PCPS]")]
pub struct PcpMap([u8; PCPS]);

impl PcpMap {
    /// Every code point as it is.
    pub const IDENTITY: Self = Self([0, 1, 2, 3, 4, 5, 6, 7]);

    /// What `pcp`, 0 to 7, becomes.
    pub fn of(self, pcp: u8) -> u8 {
        self.0[usize::from(pcp) % PCPS]
    }

    /// Code points to so many traffic classes, 1 to 8, as 802.1Q-2018 table 8-5 recommends.
    pub fn classes(count: usize) -> Self {
        Self(match count {
            0 | 1 => [0; PCPS],
            2 => [0, 0, 0, 0, 1, 1, 1, 1],
            3 => [0, 0, 0, 0, 1, 1, 2, 2],
            4 => [0, 0, 1, 1, 2, 2, 3, 3],
            5 => [0, 0, 1, 1, 2, 2, 3, 4],
            6 => [1, 0, 2, 2, 3, 3, 4, 5],
            7 => [1, 0, 2, 3, 4, 4, 5, 6],
            _ => [1, 0, 2, 3, 4, 5, 6, 7],
        })
    }

    /// The largest number in it.
    pub fn max(self) -> u8 {
        self.0.into_iter().max().unwrap_or(0)
    }
}

impl Default for PcpMap {
    fn default() -> Self {
        Self::IDENTITY
    }
}

impl TryFrom<[u8; PCPS]> for PcpMap {
    type Error = BadMap;

    fn try_from(map: [u8; PCPS]) -> Result<Self, BadMap> {
        if map.iter().all(|&n| usize::from(n) < PCPS) { Ok(Self(map)) } else { Err(BadMap) }
    }
}

impl From<PcpMap> for [u8; PCPS] {
    fn from(map: PcpMap) -> Self {
        map.0
    }
}

impl FromStr for PcpMap {
    type Err = BadMap;

    fn from_str(text: &str) -> Result<Self, BadMap> {
        let numbers: Result<Vec<u8>, _> = text.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|_| BadMap)?;
        Self::try_from(<[u8; PCPS]>::try_from(numbers).map_err(|_| BadMap)?)
    }
}

impl fmt::Display for PcpMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first}")?;
        rest.into_iter().try_for_each(|n| write!(f, ",{n}"))
    }
}

/// What a port does to priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PriorityRules {
    /// The code point of frames without tag, 0 to 7.
    pub default_pcp: u8,
    /// Whether tags are believed; if not, every frame has the default.
    pub trust: bool,
    /// What the code point of an arriving tag means here.
    pub ingress: PcpMap,
    /// What is written into a leaving tag.
    pub egress: PcpMap,
}

impl Default for PriorityRules {
    fn default() -> Self {
        Self { default_pcp: 0, trust: true, ingress: PcpMap::IDENTITY, egress: PcpMap::IDENTITY }
    }
}

/// [`PriorityRules`] as tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    ingress: [Priority; Priority::COUNT],
    untagged: Priority,
    egress: [Priority; Priority::COUNT],
}

impl Tables {
    /// The tables of these rules. Whether a frame is drop eligible is kept, and not believed where tags are not.
    pub fn new(rules: &PriorityRules) -> Self {
        let untagged = Priority::new(rules.default_pcp, false);
        let through = |map: PcpMap| {
            std::array::from_fn(|bits| {
                let priority = Priority::from_bits(bits as u8);
                Priority::new(map.of(priority.pcp()), priority.is_drop_eligible())
            })
        };
        let ingress = if rules.trust { through(rules.ingress) } else { [untagged; Priority::COUNT] };
        Self { ingress, untagged, egress: through(rules.egress) }
    }

    /// The priority of an arriving frame with this tag.
    #[inline]
    pub fn ingress(&self, tag: Option<Tci>) -> Priority {
        tag.map_or(self.untagged, |tci| self.ingress[usize::from(tci.priority().bits())])
    }

    /// What the tag of a leaving frame of this priority tells.
    #[inline]
    pub fn egress(&self, priority: Priority) -> Priority {
        self.egress[usize::from(priority.bits())]
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new(&PriorityRules::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_become_tables() {
        let rules = PriorityRules {
            default_pcp: 3,
            trust: true,
            ingress: "7,6,5,4,3,2,1,0".parse().unwrap(),
            egress: "0,0,0,0,0,0,0,7".parse().unwrap(),
        };
        let tables = Tables::new(&rules);
        assert_eq!(tables.ingress(None), Priority::new(3, false));
        assert_eq!(tables.ingress(Some(Tci(0x1005))), Priority::new(7, true), "DEI is kept");
        assert_eq!(tables.egress(Priority::new(7, true)), Priority::new(7, true));
        assert_eq!(tables.egress(Priority::new(6, false)), Priority::new(0, false));
        let tables = Tables::new(&PriorityRules { trust: false, ..rules });
        assert_eq!(tables.ingress(Some(Tci(0xF005))), Priority::new(3, false));
        for bits in 0..16 {
            let priority = Priority::from_bits(bits);
            assert_eq!(Tables::default().egress(priority), priority);
        }
    }

    #[test]
    fn maps_as_text() {
        let map: PcpMap = "0,0,1,1,2,2,3,3".parse().unwrap();
        assert_eq!((map.to_string().as_str(), map, map.max()), ("0,0,1,1,2,2,3,3", PcpMap::classes(4), 3));
        for bad in ["", "0,1", "0,1,2,3,4,5,6,8", "0,1,2,3,4,5,6,7,0", "a,1,2,3,4,5,6,7"] {
            assert!(bad.parse::<PcpMap>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<PcpMap>("[0,0,0,0,0,0,0,9]").is_err());
        assert!((1..=8).all(|n| usize::from(PcpMap::classes(n).max()) == n - 1));
    }
}
