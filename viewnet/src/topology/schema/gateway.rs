//! The gateway of a switch, as a topology describes it: the words of `viewnet gateway up`.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stacks::filter::Ruleset;
use stacks::gateway::Dns64;
use stacks::gateway::dhcp::{Dhcp6, Fixed, Said};
use stacks::gateway::policy::{Destinations, Rules};
use stacks::gateway::proxy::Via;
use switch::vlan::Vid;

use crate::commands::gateway::Wanted;

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
    /// When names are looked up for IPv4 addresses.
    #[serde(skip_serializing_if = "is_usual")]
    pub(crate) dns64: Dns64,
    /// What DHCP says.
    pub(crate) dhcp: Dhcp,
    /// It has a process of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) apart: bool,
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
    /// Rules of its packet filter, as `--filter` takes them.
    pub(crate) filter: Ruleset,
}

/// What DHCP says beside addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dhcp {
    /// Addresses that are kept for one client each.
    #[serde(rename = "static")]
    pub(crate) fixed: Vec<Fixed>,
    /// For how many seconds addresses are given; absent: as every gateway does.
    pub(crate) lease: Option<u32>,
    /// The domain in which names are looked up.
    pub(crate) domain: Option<String>,
    /// The network's MTU, in bytes.
    pub(crate) mtu: Option<u16>,
    /// Servers of NTP.
    pub(crate) ntp: Vec<IpAddr>,
    /// What DHCPv6 gives; absent: as every gateway does.
    pub(crate) v6: Option<Dhcp6>,
}

impl Dhcp {
    /// What the gateway is told.
    pub(crate) fn told(&self) -> Said {
        let Self { fixed, lease, domain, mtu, ntp, v6 } = self.clone();
        let usual = Said::default();
        Said { lease_s: lease.unwrap_or(usual.lease_s), fixed, domain, mtu, ntp, v6: v6.unwrap_or(usual.v6) }
    }
}

fn is_usual(dns64: &Dns64) -> bool {
    *dns64 == Dns64::default()
}

impl Gateway {
    /// Makes a relative path in it one in `folder`.
    pub(super) fn root(&mut self, folder: &Path) {
        self.via = self.via.take().map(|via| via.rooted(folder));
    }

    /// What is started.
    pub(crate) fn told(&self) -> Wanted {
        let Self { ip, vlan, via, dns64, filter, apart, .. } = self.clone();
        Wanted { ip, vlan, dns64, via, dhcp: self.dhcp.told(), rules: self.rules(), filter, apart }
    }

    /// Who may go where.
    pub(crate) fn rules(&self) -> Rules {
        let Self { host_loopback, isolate, allow, deny, .. } = self.clone();
        Rules { host_loopback, isolate, allow, deny }
    }

    /// The same gateway with these rules and this filter.
    pub(crate) fn with(&self, rules: Rules, filter: Ruleset) -> Self {
        let Rules { host_loopback, isolate, allow, deny } = rules;
        Self { host_loopback, isolate, allow, deny, filter, ..self.clone() }
    }

    /// Do they differ in nothing but what can be changed while it runs?
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        self.with(Rules::default(), Ruleset::default()) == other.with(Rules::default(), Ruleset::default())
    }
}
