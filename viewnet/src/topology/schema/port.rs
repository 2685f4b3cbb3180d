//! A port of a switch, as a topology describes it.
//!
//! It leads somewhere (`tap`, `nic`, or a `link` in the grammar of [`switch::link`]), or is that of a stack's
//! interface, STACK.INTERFACE, which is plugged in by the stack's own link; then only settings are said of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use switch::link::Link;
use switch::stp::config::{Edge, PortConfig};
use switch::vlan::{PortVlans, Vid, VidSet};

use super::VlanKey;
use super::settings::{Guard, Impair, Mirror, Pin, PortSettings, PortTree, Qos, Reserve};

/// A port of a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Port {
    /// A TAP to be made, or a persistent one.
    pub(crate) tap: Option<String>,
    /// The TAP has no offloads.
    pub(crate) plain: bool,
    /// An interface that is there.
    pub(crate) nic: Option<String>,
    /// Anything that a port may lead to.
    pub(crate) link: Option<Place>,
    /// One VLAN, without tags.
    pub(crate) access: Option<Vid>,
    /// Several, with tags.
    pub(crate) trunk: Option<VidSet>,
    /// The VLAN of frames without tag on a trunk or a service port.
    pub(crate) native: Option<Vid>,
    /// Several, some with tags, some without.
    pub(crate) hybrid: Option<VidSet>,
    /// Those of them without tags.
    pub(crate) untagged: Option<VidSet>,
    /// The VLAN of frames without tag on a hybrid port.
    pub(crate) pvid: Option<Vid>,
    /// A customer's frames, carried as they are in one VLAN.
    pub(crate) tunnel: Option<Vid>,
    /// Several, with service tags.
    pub(crate) service: Option<VidSet>,
    /// Nothing goes in or out.
    pub(crate) shut: bool,
    /// Stations that are here and nowhere else.
    pub(crate) pin: Vec<Pin>,
    /// Priorities, rates and queues.
    pub(crate) qos: Qos,
    /// Parts of its rate that are promised to VLANs.
    pub(crate) reserve: BTreeMap<VlanKey, Reserve>,
    /// Limits of what comes in.
    pub(crate) guard: Guard,
    /// What it is to the spanning tree.
    pub(crate) stp: PortTree,
    /// What its link does to frames on purpose.
    pub(crate) impair: Impair,
    /// It gets copies of other ports' frames, and nothing else.
    pub(crate) mirror: Option<Mirror>,
}

/// A link, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Place(pub(crate) Link);

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: switch::link::BadLink| e.to_string())
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.0.to_string()
    }
}

impl Port {
    /// Where it leads; `None` for the port of a stack.
    pub(crate) fn leads_to(&self) -> Option<Link> {
        let tap = self.tap.clone().map(Link::Tap);
        let nic = self.nic.clone().map(Link::Nic);
        tap.or(nic).or_else(|| self.link.as_ref().map(|place| place.0.clone()))
    }

    /// Makes what the link does on purpose a setting of the port; false if there are such settings already.
    pub(super) fn take_impairment(&mut self) -> bool {
        let Some(Place(Link::Impaired(impaired))) = &self.link else { return true };
        if self.impair != Impair::default() {
            return false;
        }
        let switch::link::Impaired { link, ingress, egress, seed } = (**impaired).clone();
        self.impair = Impair { ingress, egress, seed };
        self.link = Some(Place(link));
        true
    }

    /// Paths that are relative are so to `folder`.
    pub(super) fn root(&mut self, folder: &Path) {
        if let Some(place) = &mut self.link {
            place.0 = place.0.clone().rooted(folder);
        }
    }

    /// What it lets in and out.
    pub(crate) fn vlans(&self) -> PortVlans {
        self.given_vlans().unwrap_or_else(|| match self.link {
            Some(Place(Link::Switch { .. })) => PortVlans::between_switches(),
            _ => PortVlans::default(),
        })
    }

    /// What it was said to let in and out, if anything was.
    pub(crate) fn given_vlans(&self) -> Option<PortVlans> {
        let native = self.native;
        let vlans = if let Some(allowed) = self.trunk.clone() {
            PortVlans::Trunk { native, allowed }
        } else if let Some(allowed) = self.hybrid.clone() {
            let untagged = self.untagged.clone().unwrap_or_else(VidSet::none);
            PortVlans::Hybrid { pvid: self.pvid, allowed, untagged }
        } else if let Some(allowed) = self.service.clone() {
            PortVlans::Service { native, allowed }
        } else if let Some(vid) = self.tunnel {
            PortVlans::Tunnel { vid }
        } else {
            PortVlans::Access { vid: self.access? }
        };
        Some(vlans)
    }

    /// The same port with these VLANs.
    pub(crate) fn with_vlans(&self, vlans: &PortVlans) -> Self {
        if self.vlans() == *vlans {
            return self.clone();
        }
        let (access, trunk, native, hybrid) = (None, None, None, None);
        let (untagged, pvid, tunnel, service) = (None, None, None, None);
        let bare = Self { access, trunk, native, hybrid, untagged, pvid, tunnel, service, ..self.clone() };
        match vlans.clone() {
            PortVlans::Access { vid } => Self { access: Some(vid), ..bare },
            PortVlans::Trunk { native, allowed } => Self { trunk: Some(allowed), native, ..bare },
            PortVlans::Hybrid { pvid, allowed, untagged } => {
                let untagged = (untagged != VidSet::none()).then_some(untagged);
                Self { hybrid: Some(allowed), untagged, pvid, ..bare }
            }
            PortVlans::Tunnel { vid } => Self { tunnel: Some(vid), ..bare },
            PortVlans::Service { native, allowed } => Self { service: Some(allowed), native, ..bare },
        }
    }

    /// How many kinds of port it is said to be; one at most makes sense.
    pub(super) fn modes(&self) -> usize {
        let lists = [&self.trunk, &self.hybrid, &self.service].into_iter().flatten().count();
        lists + [self.access, self.tunnel].into_iter().flatten().count()
    }

    /// Does it lead to the same place?
    pub(crate) fn is_same_interface(&self, other: &Self) -> bool {
        (self.leads_to(), self.plain) == (other.leads_to(), other.plain)
    }

    /// What the spanning tree takes it for, unless told: behind a stack's interface there is no bridge.
    pub(crate) fn usual_tree(&self) -> PortConfig {
        let edge = if self.leads_to().is_none() { Edge::On } else { Edge::Auto };
        PortConfig { edge, ..PortConfig::default() }
    }

    /// The VLAN of its frames without tag; of a stack's port, that of all ports that were told nothing.
    pub(crate) fn usual_vid(&self) -> Option<Vid> {
        self.vlans().pvid()
    }

    /// What is said beside where it leads and its VLANs, without what is as by default.
    pub(crate) fn settings(&self) -> PortSettings {
        let Self { shut, pin, qos, reserve, guard, stp, impair, mirror, .. } = self.clone();
        let said = PortSettings { shut, pin, qos, reserve, guard, stp, impair, mirror };
        said.canonical(self.usual_tree(), self.usual_vid())
    }

    /// The same port with these settings.
    pub(crate) fn with_settings(&self, settings: PortSettings) -> Self {
        let PortSettings { shut, pin, qos, reserve, guard, stp, impair, mirror } = settings;
        Self { shut, pin, qos, reserve, guard, stp, impair, mirror, ..self.clone() }
    }
}
