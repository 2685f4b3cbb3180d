//! A topology as it is written: TOML, parsed and checked once, here.
//!
//! ```toml
//! name = "lab"                      # the file's name, if absent
//!
//! [switch.lan]
//! age = 60
//! vlan.10 = "office"
//! port.up0 = { nic = "veth1", trunk = "10,20-29", native = 1 }
//!
//! [stack.web]
//! kind = "smol"
//!
//! [[stack.web.interface]]           # the words of `stack up --config`
//! name = "eth0"
//! link = "switch:lan[vlan 10]"
//! ip = ["10.0.0.1/24"]
//!
//! [program.httpd]
//! stack = "web"
//! command = ["python3", "-m", "http.server", "80"]
//! restart = "on-failure"
//!
//! [program.check]
//! stack = "web"
//! command = "curl --retry-connrefused http://10.0.0.1/"
//! after = ["httpd"]
//! ```

mod check;
pub(crate) mod program;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stacks::config::{InterfaceConfig, Limits, RouteConfig, StackConfig};
use switch::vlan::{PortVlans, Vid, VidSet};

use super::place::Problem;
use crate::keeper;

pub(crate) use self::program::{Program, Restart};

/// Longest file, in bytes: a thousand stacks take a tenth of it.
pub(crate) const MAX_FILE: u64 = 4 << 20;
/// Most switches, stacks and programs of one topology, each: far more than one machine runs well.
const MAX_THINGS: usize = 1024;

/// A whole topology.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topology {
    /// Its name; absent: the file's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Switches by name.
    #[serde(default, rename = "switch", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) switches: BTreeMap<String, Switch>,
    /// Stacks by name.
    #[serde(default, rename = "stack", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stacks: BTreeMap<String, Stack>,
    /// Programs by name.
    #[serde(default, rename = "program", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) programs: BTreeMap<String, Program>,
}

/// A switch; also the whole file of `viewnet switch up --config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    /// It is somebody else's and only plugged into: neither made nor changed nor ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) external: bool,
    /// After how many seconds a silent station is forgotten; absent: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) age: Option<Age>,
    /// Who may use it: the mode of its socket's file; absent: 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Mode>,
    /// The group of its sockets' files; absent: its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Where it serves the console of vde_switch; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mgmt: Option<PathBuf>,
    /// VLANs that have a name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) vlan: BTreeMap<VlanKey, String>,
    /// Ports that are not a stack's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) port: BTreeMap<String, Port>,
}

/// Seconds after which a silent station is forgotten, 1 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub(crate) struct Age(u64);

impl Age {
    /// What a switch does that was told nothing.
    pub(crate) const DEFAULT: Self = Self(switch::fdb::DEFAULT_AGE.as_secs());

    /// In seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Age {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        match seconds {
            1..=1_000_000 => Ok(Self(seconds)),
            _ => Err(format!("`{seconds}` is no age; 1 to 1,000,000 seconds")),
        }
    }
}

impl From<Age> for u64 {
    fn from(age: Age) -> Self {
        age.0
    }
}

/// A file mode, written in octal: "0660".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mode(pub(crate) u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        crate::commands::options::file_mode(&text).map(Self).map_err(|why| format!("`{text}`: {why}"))
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

/// A VLAN's number as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct VlanKey(pub(crate) Vid);

impl TryFrom<String> for VlanKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: switch::vlan::BadVid| e.to_string())
    }
}

impl From<VlanKey> for String {
    fn from(key: VlanKey) -> Self {
        key.0.to_string()
    }
}

/// A port of a switch that is an interface of the network in which `up` runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Port {
    /// A TAP to be made, or a persistent one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tap: Option<String>,
    /// The TAP has no offloads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) plain: bool,
    /// An interface that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nic: Option<String>,
    /// One VLAN, without tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<Vid>,
    /// Several, with tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trunk: Option<VidSet>,
    /// The VLAN of frames without tag on a trunk or a service port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) native: Option<Vid>,
    /// Several, some with tags, some without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hybrid: Option<VidSet>,
    /// Those of them without tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) untagged: Option<VidSet>,
    /// The VLAN of frames without tag on a hybrid port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pvid: Option<Vid>,
    /// A customer's frames, carried as they are in one VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tunnel: Option<Vid>,
    /// Several, with service tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<VidSet>,
}

impl Port {
    /// What it lets in and out.
    pub(crate) fn vlans(&self) -> PortVlans {
        let native = self.native;
        if let Some(allowed) = self.trunk.clone() {
            PortVlans::Trunk { native, allowed }
        } else if let Some(allowed) = self.hybrid.clone() {
            let untagged = self.untagged.clone().unwrap_or_else(VidSet::none);
            PortVlans::Hybrid { pvid: self.pvid, allowed, untagged }
        } else if let Some(allowed) = self.service.clone() {
            PortVlans::Service { native, allowed }
        } else if let Some(vid) = self.tunnel {
            PortVlans::Tunnel { vid }
        } else {
            self.access.map_or_else(PortVlans::default, |vid| PortVlans::Access { vid })
        }
    }

    /// The same interface with these VLANs.
    pub(crate) fn with_vlans(&self, vlans: &PortVlans) -> Self {
        if self.vlans() == *vlans {
            return self.clone();
        }
        let Self { tap, plain, nic, .. } = self.clone();
        let bare = Self { tap, plain, nic, ..Self::default() };
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
    fn modes(&self) -> usize {
        let lists = [&self.trunk, &self.hybrid, &self.service].into_iter().flatten().count();
        lists + [self.access, self.tunnel].into_iter().flatten().count()
    }

    /// Is it the same interface?
    pub(crate) fn is_same_interface(&self, other: &Self) -> bool {
        (&self.tap, self.plain, &self.nic) == (&other.tap, other.plain, &other.nic)
    }
}

/// A kept stack: the words of [`StackConfig`], and what `stack up` takes as options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stack {
    /// Kernel or smol; absent: kernel where the machine lets us, else smol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<StackKind>,
    /// Who may use it: the mode of its socket's file; absent: 0600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<Mode>,
    /// What happens when a smol stack fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restart: Option<keeper::Restart>,
    /// Interfaces beside the loopback.
    #[serde(default, rename = "interface", skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<InterfaceConfig>,
    /// Routes beside those of the interfaces.
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<RouteConfig>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub(crate) limits: Limits,
    /// It is a router.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) forward: bool,
}

/// Kinds of a kept stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StackKind {
    /// A network namespace.
    Kernel,
    /// TCP/IP in a library.
    Smol,
}

impl fmt::Display for StackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Smol => "smol",
        })
    }
}

impl Stack {
    /// What the keeper is told.
    pub(crate) fn config(&self) -> StackConfig {
        StackConfig {
            interfaces: self.interfaces.clone(),
            routes: self.routes.clone(),
            limits: self.limits,
            forward: self.forward,
            rules: Vec::new(),
        }
    }
}

impl Topology {
    /// Reads a file's text; `default` is its name if it says none.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(crate) fn parse(text: &str, default: &str) -> Result<(String, Self), Problem> {
        let topology: Self = toml::from_str(text).map_err(|e| Problem::parse(text, &e))?;
        let name = topology.name.clone().unwrap_or_else(|| default.to_owned());
        if !stacks::serve::is_name(&name) {
            let why = format!("`{name}` is no name for a topology");
            return Err(Problem::of(text, &["name"], why, check::NAME_HINT));
        }
        topology.check(text)?;
        Ok((name, topology))
    }
}

impl Switch {
    /// Reads the file of `viewnet switch up --config`.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let switch: Self = toml::from_str(text).map_err(|e| Problem::parse(text, &e))?;
        switch.check(text, &[])?;
        Ok(switch)
    }
}

#[cfg(test)]
mod tests;
