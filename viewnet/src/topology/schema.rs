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
//! [gateway.lan]                     # of that switch
//! isolate = true
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
pub(crate) mod gateway;
pub(crate) mod port;
pub(crate) mod program;
pub(crate) mod settings;
pub(crate) mod switch;
mod word;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stacks::config::{InterfaceConfig, Limits, RouteConfig, StackConfig};
use stacks::filter::Ruleset;
use stacks::gateway::publish::Publish;

use super::place::Problem;
use crate::keeper;

pub(crate) use self::gateway::Gateway;
pub(crate) use self::port::{Place, Port};
pub(crate) use self::program::{Program, Restart};
pub(crate) use self::settings::PortSettings;
pub(crate) use self::switch::{Age, Mode, Switch, Tree, VdeFolder, Vlan, VlanKey};

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
    /// Gateways by the names of their switches.
    #[serde(default, rename = "gateway", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) gateways: BTreeMap<String, Gateway>,
    /// Stacks by name.
    #[serde(default, rename = "stack", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) stacks: BTreeMap<String, Stack>,
    /// Programs by name.
    #[serde(default, rename = "program", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) programs: BTreeMap<String, Program>,
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
    /// Rules of its packet filter, as `--filter` takes them.
    #[serde(default, skip_serializing_if = "Ruleset::is_empty")]
    pub(crate) filter: Ruleset,
    /// A file of wg-quick(8): an interface by a tunnel that has the stack's name, as `vpn up` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vpn: Option<PathBuf>,
    /// Ports of the host that lead to it, as `publish add` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) publish: Vec<Publish>,
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
        let mut config = StackConfig {
            interfaces: self.interfaces.clone(),
            routes: self.routes.clone(),
            limits: self.limits,
            nameserver: None,
            forward: self.forward,
            filter: self.filter.clone(),
            rules: Vec::new(),
        };
        if let Some(file) = &self.vpn {
            config.add_tunnel(&file.to_string_lossy());
            // The first tunnel is the one with the stack's name.
            config.interfaces.rotate_right(1);
        }
        config
    }

    /// Switches that it is plugged into.
    pub(crate) fn switches(&self) -> impl Iterator<Item = &str> {
        self.interfaces.iter().filter_map(|interface| Some(interface.link.plug()?.switch))
    }
}

impl Topology {
    /// Paths that are relative are so to `folder`, from here on.
    pub(crate) fn root(&mut self, folder: &Path) {
        self.switches.values_mut().for_each(|switch| switch.root(folder));
        self.gateways.values_mut().for_each(|gateway| gateway.root(folder));
        let interfaces = self.stacks.values_mut().flat_map(|stack| &mut stack.interfaces);
        interfaces.for_each(|interface| interface.root(folder));
        let of_stacks = self.stacks.values_mut().filter_map(|stack| stack.vpn.as_mut());
        let of_programs = self.programs.values_mut().filter_map(|program| program.vpn.as_mut());
        of_stacks.chain(of_programs).for_each(|file| *file = folder.join(&file));
    }

    /// The stack and the interface behind the port `port` of `switch`, if it is one of a stack.
    pub(crate) fn behind(&self, switch: &str, port: &str) -> Option<(&str, &InterfaceConfig)> {
        let interfaces = self.stacks.iter().flat_map(|(name, stack)| {
            stack.interfaces.iter().map(move |interface| (name.as_str(), interface))
        });
        let mut plugged = interfaces
            .filter(|(_, interface)| interface.link.plug().is_some_and(|plug| plug.switch == switch));
        plugged.find(|(stack, interface)| port == format!("{stack}.{}", interface.name))
    }

    /// Reads a file's text; `default` is its name if it says none.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(crate) fn parse(text: &str, default: &str) -> Result<(String, Self), Problem> {
        let mut topology: Self = toml::from_str(text).map_err(|e| Problem::parse(text, &e))?;
        for (name, switch) in &mut topology.switches {
            switch.settle(text, &["switch", name])?;
        }
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
    /// What links say of impairments is said of their ports.
    fn settle(&mut self, text: &str, path: &[&str]) -> Result<(), Problem> {
        for (name, port) in &mut self.port {
            if !port.take_impairment() {
                let path: Vec<&str> = path.iter().copied().chain(["port", name, "impair"]).collect();
                let why = "the link says it, too";
                return Err(Problem::of(text, &path, why, "say it in one place"));
            }
        }
        Ok(())
    }

    /// Reads the file of `viewnet switch up --config`.
    ///
    /// # Errors
    /// The first thing that is wrong in it.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let mut switch: Self = toml::from_str(text).map_err(|e| Problem::parse(text, &e))?;
        switch.settle(text, &[])?;
        switch.check(text, &[])?;
        match switch.port.iter().find(|(_, port)| port.leads_to().is_none()) {
            None => Ok(switch),
            Some((name, _)) => {
                let hint = "give one of `tap`, `nic` and `link`";
                Err(Problem::of(text, &["port", name], "what is it?", hint))
            }
        }
    }
}

#[cfg(test)]
mod tests;
