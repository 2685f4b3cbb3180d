//! The gateway of a switch, as a topology describes it: the words of `viewnet gateway up`.

use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stacks::gateway::policy::{Destinations, Rules};
use stacks::gateway::proxy::Via;
use switch::vlan::Vid;

/// A gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Gateway {
    /// Its addresses; none: those that every gateway has that was told nothing.
    pub(crate) ip: Vec<IpNet>,
    /// The switch's VLAN that it is in.
    pub(crate) vlan: Option<Vid>,
    /// The proxy that it goes by.
    pub(crate) via: Option<Via>,
    /// Its own addresses lead to the host's loopback.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) host_loopback: bool,
    /// Nothing goes through but what is allowed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) isolate: bool,
    /// What goes through in any case.
    pub(crate) allow: Vec<Destinations>,
    /// What does not.
    pub(crate) deny: Vec<Destinations>,
}

impl Gateway {
    /// Makes a relative path in it one in `folder`.
    pub(super) fn root(&mut self, folder: &Path) {
        self.via = self.via.take().map(|via| via.rooted(folder));
    }

    /// Who may go where.
    pub(crate) fn rules(&self) -> Rules {
        let Self { host_loopback, isolate, allow, deny, .. } = self.clone();
        Rules { host_loopback, isolate, allow, deny }
    }

    /// The same gateway with these rules.
    pub(crate) fn with_rules(&self, rules: Rules) -> Self {
        let Rules { host_loopback, isolate, allow, deny } = rules;
        Self { host_loopback, isolate, allow, deny, ..self.clone() }
    }

    /// Does it stand in the same place?
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        (&self.ip, self.vlan, &self.via) == (&other.ip, other.vlan, &other.via)
    }
}
