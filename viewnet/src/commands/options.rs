//! The options that `run` and `stack up` share: what a stack should look like.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use ::switch::client::Client;
use stacks::config::{Auto, ConfigError, Link, StackConfig};

use crate::commands::{gateway, switch, vpn};
use crate::exit::Failure;
use crate::launch::{Ruled, StackSpec};
use crate::rules::{RuleError, Rules};
use crate::runtime::{Runtime, check_name};

/// How a new stack is made.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Stack")]
pub(crate) struct StackOptions {
    /// Kind of the stack: `kernel`, a Linux network namespace; `smol`, TCP/IP in a library, which needs no
    /// privilege at all; or `none`, no network. Without it: kernel where this machine has user namespaces for
    /// you, else smol
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<KindName>,

    /// Add an interface: `[NAME=]LINK[,ip=ADDR/LEN][,gw=ADDR][,mtu=N][,mac=MAC][,route=…]`, where LINK is
    /// `switch`, `switch:NAME`, `switch:NAME[vlan 10]` or `[trunk 10,20-29 native 1]`, `vde:PATH`, `udp:ADDR:PORT`,
    /// `vxlan:VNI[peer ADDR]`, `qemu:PATH`, `tap:NAME`, `nic:NAME`, one of these in `impair:{LINK}[delay 20ms, loss 1%]`,
    /// `socks5:HOST:PORT` or `http:HOST:PORT`, with `[auth FILE]`, to go by that proxy, which also looks up names,
    /// `wg:FILE` (a WireGuard tunnel as wg-quick(8) describes it, which says the addresses), or `none`; on smol stacks also
    /// `fd:N`, `pair:NAME`, and `,pcap=FILE` to record. `--link lo` alone: no
    /// interface but the loopback
    #[arg(long, value_name = "LINK")]
    pub(crate) link: Vec<String>,

    /// Go through a WireGuard tunnel, and nowhere else: an interface as a file of wg-quick(8) describes it, its routes,
    /// and its nameservers in place of the machine's. The same as --link wg:FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) vpn: Vec<String>,

    /// Give the last interface an address, or let its network do so: `dhcp` (IPv4), `dhcp6` (IPv6), `auto` (both, as it
    /// says); without any
    /// interface, eth0 on the default switch is made
    #[arg(long, value_name = "[IFACE=]ADDR/LEN|dhcp|dhcp6|auto")]
    pub(crate) ip: Vec<String>,

    /// Default gateway
    #[arg(long, value_name = "[IFACE=]ADDR")]
    pub(crate) gw: Vec<String>,

    /// Add a route: `DEST via GATEWAY [dev IFACE] [metric N]`
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Vec<String>,

    /// Bound what a smol stack may use: `memory=64M`, `cpu=50%` of a processor, `packets=100000/s`. A stack that
    /// uses more ends, and its programs get ENETDOWN
    #[arg(long, value_name = "LIMIT")]
    pub(crate) limit: Vec<String>,

    /// Pass on packets of others from one interface to another, as a router does
    #[arg(long)]
    pub(crate) forward: bool,

    /// Add to its packet filter: a rule, such as `input: proto tcp dport 22 from 10.0.0.0/8 accept` or
    /// `default input drop`, or a file of such lines
    #[arg(long, value_name = "RULE|FILE")]
    pub(crate) filter: Vec<String>,

    /// Read interfaces and routes from a TOML file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Kinds that can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindName {
    /// A Linux network namespace.
    Kernel,
    /// TCP/IP in a library.
    Smol,
    /// No network at all.
    None,
}

impl StackOptions {
    /// Whether any of them was given.
    pub(crate) fn given(&self) -> bool {
        self.kind.is_some() || self.describes_a_network()
    }

    /// Whether interfaces, routes, limits or a filter were asked for.
    pub(crate) fn describes_a_network(&self) -> bool {
        let lists = [&self.link, &self.vpn, &self.ip, &self.gw, &self.route, &self.limit, &self.filter];
        self.config.is_some() || self.forward || lists.iter().any(|list| !list.is_empty())
    }

    /// Whether nothing but the loopback was asked for.
    fn alone(&self) -> bool {
        self.link == ["lo"]
    }

    /// The stack of a view. True: nobody said what it is plugged into, so it is to be on the default network.
    pub(crate) fn view(&self) -> Result<(StackConfig, bool), Failure> {
        let config = self.stack()?;
        let unsaid = self.config.is_none() && !self.alone() && config.interfaces.is_empty();
        Ok((config, unsaid))
    }

    /// The stack they describe.
    pub(crate) fn stack(&self) -> Result<StackConfig, Failure> {
        let wrong = |e: ConfigError| Failure::from(e.refusal("cannot use the configuration"));
        let mut config = match &self.config {
            None => StackConfig::default(),
            Some(file) => {
                let name = file.display().to_string();
                let text = std::fs::read_to_string(file).map_err(|why| {
                    Failure::new(format!("cannot read {name}"), why)
                        .hint("--config takes the path of a TOML file")
                })?;
                StackConfig::from_toml(&text)
                    .map_err(|why| Failure::from(why.refusal(format!("cannot use {name}"))))?
            }
        };
        if !self.alone() {
            self.link.iter().try_for_each(|text| config.add_line(text)).map_err(wrong)?;
        }
        self.vpn.iter().for_each(|file| config.add_tunnel(file));
        self.ip.iter().try_for_each(|text| config.add_ip(text)).map_err(wrong)?;
        self.gw.iter().try_for_each(|text| config.add_gw(text)).map_err(wrong)?;
        self.route.iter().try_for_each(|text| config.add_route(text)).map_err(wrong)?;
        self.limit.iter().try_for_each(|text| config.add_limit(text)).map_err(wrong)?;
        config.forward |= self.forward;
        for text in &self.filter {
            let (text, what) = filter_text(text)?;
            config.add_filter(&text).map_err(|why| Failure::from(why.refusal(what)))?;
        }
        config.checked().map_err(wrong)
    }
}

/// Rules of a packet filter that were given as such, or as the name of their file; and what to say if they are wrong.
pub(crate) fn filter_text(given: &str) -> Result<(String, String), Failure> {
    if given.trim_start().starts_with("default ") || given.contains(": ") || given.contains('\n') {
        return Ok((given.to_owned(), format!("cannot use the filter `{}`", given.trim().escape_debug())));
    }
    let text = std::fs::read_to_string(given).map_err(|why| {
        Failure::new(format!("cannot read {given}"), why)
            .hint("--filter takes a rule, such as `input: proto tcp drop`, or the path of a file of rules")
    })?;
    Ok((text, format!("cannot use {given}")))
}

/// Which stack of a view answers which destination.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Rules")]
pub(crate) struct RuleOptions {
    /// Let another stack answer some destinations: `to PREFIX[,…] port PORT[-PORT][,…] tcp|udp via STACK`, with
    /// any of the conditions, or `deny` or `unreachable` in place of `via STACK`; the first rule that matches
    /// decides. With `bind` among them it is about the port that a socket is bound to. `default [FAMILY…] via
    /// STACK` is for all others. STACK is a name or a path, `own` (the view's stack without rules), `host` or `none`
    #[arg(long, value_name = "RULE")]
    pub(crate) rule: Vec<String>,
}

impl RuleOptions {
    /// The rules: those of the configuration file first.
    pub(crate) fn rules(&self, file: &[String]) -> Result<Rules, Failure> {
        let texts: Vec<String> = file.iter().chain(&self.rule).cloned().collect();
        Rules::try_from(texts).map_err(rule_failure)
    }
}

/// What is wrong with a rule, as the user reads it.
pub(crate) fn rule_failure(error: RuleError) -> Failure {
    Failure::new(format!("cannot use the rule `{}`", error.rule), error.why).hint(error.hint)
}

/// The stacks that rules name.
pub(crate) fn resolve(runtime: &Runtime, rules: Rules) -> Result<Ruled, Failure> {
    let stacks = rules.stacks().iter().map(|name| stack_named(runtime, name)).collect::<Result<_, _>>()?;
    Ok(Ruled { rules, stacks })
}

/// A stack that is there, by its name or path, or one that needs no making.
pub(crate) fn stack_named(runtime: &Runtime, name: &str) -> Result<StackSpec, Failure> {
    match name {
        "host" => return Ok(StackSpec::Host),
        "none" => return Ok(StackSpec::None),
        name if !name.contains('/') => check_name("stack", name)?,
        _ => {}
    }
    // The supervisor lives in another folder.
    let path = runtime.stack(name);
    std::path::absolute(&path)
        .map(StackSpec::At)
        .map_err(|why| Failure::io(format!("cannot use {}", path.display()), &why))
}

/// The mode of a socket's file, in octal.
pub(crate) fn file_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "a mode is octal, as 0600 or 0660".to_owned())
}

/// Plugs a stack into the default network, a gateway's on the default switch, and holds that as [`hold_switches`]
/// does; without interfaces it stays what it was.
///
/// # Errors
/// Why that cannot be; then the stack is as it was.
pub(crate) fn hold_default(
    runtime: &Runtime,
    name: &str,
    is_smol: bool,
    config: &mut StackConfig,
) -> Result<Vec<Client>, Failure> {
    let mut plugged = config.clone();
    plugged.add_ip("auto").map_err(|e| Failure::from(e.refusal("cannot use the default network")))?;
    let held = hold_switches(runtime, name, is_smol, &mut plugged)?;
    *config = plugged;
    Ok(held)
}

/// Makes relative paths in links mean the same to whoever makes the stack, in whatever folder.
fn root_links(config: &mut StackConfig) -> Result<(), Failure> {
    let rooted = |here: &Path| {
        let mut interfaces = config.interfaces.clone();
        interfaces.iter_mut().for_each(|interface| interface.root(here));
        interfaces
    };
    // Without relative paths it does not matter where this is, nor whether that folder is there still.
    if rooted(Path::new("/")) != config.interfaces {
        let here = std::env::current_dir().map_err(|e| Failure::io("cannot use this folder", &e))?;
        config.interfaces = rooted(&here);
    }
    Ok(())
}

/// Gives each proxy that a stack is plugged into a switch, whose gateway goes by it; stacks by the same proxy share them.
fn go_by_proxies(runtime: &Runtime, config: &mut StackConfig) -> Result<Vec<Client>, Failure> {
    let mut held = Vec::new();
    for interface in &mut config.interfaces {
        let Link::Via(via) = &interface.link else { continue };
        let mut hasher = DefaultHasher::new();
        via.hash(&mut hasher);
        let name = format!("via-{:016x}", hasher.finish());
        let mut client = switch::ensure(runtime, &name)?;
        gateway::ensure(runtime, &name, Some(via.clone()), &mut client)?;
        held.push(client);
        interface.link = Link::switch(&name, None);
        if interface.ip.is_empty() {
            interface.auto.get_or_insert(Auto::All);
        }
    }
    Ok(held)
}

/// Makes sure that the switches and tunnels the stack `name` is plugged into are there; they stay while the value lives.
/// Links that a stack of its kind cannot have by itself, and proxies, get a switch of their own. Interfaces that are to be
/// told their addresses by their networks are.
pub(crate) fn hold_switches(
    runtime: &Runtime,
    name: &str,
    is_smol: bool,
    config: &mut StackConfig,
) -> Result<Vec<Client>, Failure> {
    root_links(config)?;
    let mut held = go_by_proxies(runtime, config)?;
    held.extend(switch::lay(runtime, is_smol, config)?);
    for interface in &config.interfaces {
        if let Some(plug) = interface.link.plug() {
            let mut client = switch::reach(runtime, plug.switch)?;
            if interface.auto.is_some() && plug.switch == switch::DEFAULT && plug.vlans.is_none() {
                gateway::ensure(runtime, plug.switch, None, &mut client)?;
            }
            held.push(client);
        }
    }
    held.extend(vpn::hold(runtime, config)?);
    stacks::autoconf::settle(config, name, &runtime.switches())?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(file_mode("0660"), Ok(0o660));
        for wrong in ["0900", "10000", "rw", ""] {
            assert!(file_mode(wrong).is_err(), "{wrong}");
        }
    }
}
