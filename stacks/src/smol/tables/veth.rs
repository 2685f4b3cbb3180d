//! Links that end within the stack: veth pairs and dummies (drivers/net/{veth,dummy}.c).

use super::{IfIndex, LinkKind, Refused, Tables};
use crate::config::Mac;

/// What one end of a pair is to be.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    /// Its number; 0: the next free one.
    pub index: u32,
    /// Its name.
    pub name: &'a str,
    /// Its hardware address, if it matters.
    pub mac: Option<Mac>,
}

impl Tables {
    /// Makes a veth pair and gives the number of the first end. As in Linux the other end is made before it. EEXIST,
    /// EINVAL, ENFILE.
    pub fn add_veth(&mut self, end: &NewLink<'_>, other: &NewLink<'_>) -> Result<IfIndex, Refused> {
        let peer = self.add_inside(other, LinkKind::Veth { peer: IfIndex(0) })?;
        match self.add_inside(end, LinkKind::Veth { peer }) {
            Ok(index) => {
                self.link_mut(peer)?.kind = LinkKind::Veth { peer: index };
                Ok(index)
            }
            Err(refused) => {
                // It was made a moment ago, so it can go.
                let _ = self.remove_link(peer);
                Err(refused)
            }
        }
    }

    /// Makes a dummy. EEXIST, EINVAL, ENFILE.
    pub fn add_dummy(&mut self, new: &NewLink<'_>) -> Result<IfIndex, Refused> {
        self.add_inside(new, LinkKind::Dummy)
    }

    fn add_inside(&mut self, new: &NewLink<'_>, kind: LinkKind) -> Result<IfIndex, Refused> {
        let index = self.add_link(new.index, new.name, kind, new.mac.unwrap_or(Mac([0; 6])))?;
        if new.mac.is_none() {
            // Linux draws one. Nobody outside of the stack ever sees this one, so it need be new only here.
            let [a, b, c, d] = index.0.to_be_bytes();
            self.link_mut(index)?.mac = Mac([0x02, 0x76, a, b, c, d]);
        }
        Ok(index)
    }

    /// The other end of a pair, while it is there.
    pub(super) fn other_end(&self, index: IfIndex) -> Option<IfIndex> {
        match self.links.get(&index)?.kind {
            LinkKind::Veth { peer } => self.links.contains_key(&peer).then_some(peer),
            _ => None,
        }
    }

    /// A pair carries frames while both of its ends are up (veth_open, veth_close).
    pub(super) fn set_carrier_of_pair(&mut self, index: IfIndex) -> Result<(), Refused> {
        let Some(peer) = self.other_end(index) else { return Ok(()) };
        let carrier = self.link(index)?.up && self.link(peer)?.up;
        self.set_carrier(index, carrier)?;
        self.set_carrier(peer, carrier)
    }
}
