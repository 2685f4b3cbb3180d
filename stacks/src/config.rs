//! What a stack should look like: interfaces, addresses, routes. Parsed once, here.
//!
//! # One line
//! `eth0=switch:lan[vlan 10],ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,mtu=1500,mac=02:00:00:00:00:01`
//! — an interface, what it is plugged into, and its settings. The name may be left out (`switch:lan`): the
//! first free `ethN` is taken. Links are those of switches ([`switch::link`]): `switch`, `switch:lan[vlan 10]`,
//! `vde:PATH`, `udp:ADDR:PORT` and so on, and these that only stacks have: `none`, plugged into nothing; `wg:FILE`, a
//! WireGuard tunnel as wg-quick(8) describes it; and on smol
//! stacks `fd:N`, a TAP of their host that is open already as descriptor N, and `pair:NAME`, into each other, if one
//! process has the two that name the same. Smol stacks record frames: `pcap=FILE`, whole or, with
//! `FILE[cut snap 128]`, as a wire would have them and only their first bytes.
//!
//! # TOML
//! ```toml
//! rules = ["to 10.8.0.0/16 via office", "port 25 deny"]
//! forward = true
//! filter = ["default input drop", "input: state established,related accept"]
//!
//! [[interface]]
//! name = "eth0"
//! link = "switch:lan[vlan 10]"
//! ip = ["10.0.0.2/24", "fd00::2/64"]
//! gw = ["10.0.0.1"]
//! mtu = 1500
//! pcap = "eth0.pcapng"
//!
//! [[route]]
//! to = "10.8.0.0/16"
//! via = "10.0.0.254"
//!
//! [limits]
//! memory = "64M"
//! cpu = "50%"
//! packets = "100000/s"
//! ```

mod limits;
mod link;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use msocket_proto::line::Refusal;
use serde::{Deserialize, Serialize};

use crate::dhcp6;
use crate::filter::{FilterError, Ruleset};
use crate::gateway::advertise::Heard;
use crate::steward::nameserver::Nameserver;
use crate::steward::renewal::Lease;

pub use limits::{CpuLimit, Limits, MemoryLimit, PacketLimit};
pub use link::{Link, Pcap, Plug};
pub use switch::link::DEFAULT_SWITCH;

/// Longest interface name, in bytes (IFNAMSIZ less the final NUL).
pub const MAX_INTERFACE_NAME: usize = 15;
/// What the kernel takes as an MTU: IPv4's least, and a frame of 64 KiB less its header, in bytes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65521;
/// Most interfaces of one stack: a bound on what a control client can ask for.
pub const MAX_INTERFACES: usize = 64;

/// A whole stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// Interfaces beside the loopback.
    #[serde(default, rename = "interface")]
    pub interfaces: Vec<InterfaceConfig>,
    /// Routes beside those of the interfaces' addresses and gateways.
    #[serde(default, rename = "route")]
    pub routes: Vec<RouteConfig>,
    /// Nameservers on its own loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<Nameserver>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// It passes on packets of others from one interface to another, as a router.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
    /// Rules of its packet filter ([`crate::filter`]).
    #[serde(default, skip_serializing_if = "Ruleset::is_empty")]
    pub filter: Ruleset,
    /// Rules of the view that is run with this configuration; a stack has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceConfig {
    /// Kernel name.
    pub name: String,
    /// What it is plugged into.
    #[serde(default)]
    pub link: Link,
    /// Addresses with prefix lengths.
    #[serde(default)]
    pub ip: Vec<IpNet>,
    /// Who else says addresses and gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<Auto>,
    /// The one of its addresses that DHCP gave, to be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// As that, of DHCPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_v6: Option<dhcp6::client::Lease>,
    /// What an IPv6 router advertised, for whose later advertisements it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Default gateways, at most one per family.
    #[serde(default)]
    pub gw: Vec<IpAddr>,
    /// In bytes; the kernel's default is 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Hardware address; random when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Where its frames are recorded; nowhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcap: Option<Pcap>,
}

/// What an interface lets its network tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// `ip=dhcp`: an IPv4 address and a router, by DHCP.
    Dhcp,
    /// `ip=dhcp6`: an IPv6 address by DHCPv6, whatever routers say of it, and what they advertise.
    Dhcp6,
    /// `ip=auto`: an IPv4 address by DHCP, and what an IPv6 router advertises: an address in its network, one by DHCPv6 or
    /// names by DHCPv6, as it says.
    #[serde(rename = "auto")]
    All,
}

impl Auto {
    /// Does it ask for addresses of IPv4?
    pub fn is_v4(self) -> bool {
        self != Self::Dhcp6
    }

    /// Of IPv6?
    pub fn is_v6(self) -> bool {
        self != Self::Dhcp
    }

    /// What stands in the place of an address.
    fn of(text: &str) -> Option<Self> {
        match text.trim() {
            "dhcp" => Some(Self::Dhcp),
            "dhcp6" => Some(Self::Dhcp6),
            "auto" => Some(Self::All),
            _ => None,
        }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Destination.
    pub to: IpNet,
    /// Next hop; absent for a route to a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface; found by the next hop when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Priority; lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// A hardware address (IEEE 802, 48 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A configuration that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{input}`: {why}")]
pub struct ConfigError {
    /// The piece that is wrong.
    pub input: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl ConfigError {
    fn new(input: &str, why: impl fmt::Display) -> Self {
        Self { input: input.to_owned(), why: why.to_string() }
    }

    fn of_link(error: &switch::link::BadLink) -> Self {
        let (input, why) = error.parts();
        let more = if why.contains("known are") {
            "; of stacks also none, fd:N and pair:NAME, socks5:HOST:PORT and http:HOST:PORT"
        } else {
            ""
        };
        Self::new(input, format!("{why}{more}"))
    }

    /// For the person who wrote it, and tried `what`.
    pub fn refusal(&self, what: impl Into<String>) -> Refusal {
        Refusal::new(what, self).hint("`viewnet run --help` shows how a stack is described")
    }
}

impl InterfaceConfig {
    /// An interface that has a name and a link, and nothing else yet.
    pub fn new(name: &str, link: Link) -> Self {
        let (name, ip, gw) = (name.into(), Vec::new(), Vec::new());
        let (lease, lease_v6, heard) = (None, None, None);
        Self { name, link, ip, auto: None, lease, lease_v6, heard, gw, mtu: None, mac: None, pcap: None }
    }

    /// Makes relative paths in its link, and of its recording, ones in `folder`.
    pub fn root(&mut self, folder: &Path) {
        self.link = std::mem::take(&mut self.link).rooted(folder);
        if let Some(pcap) = &mut self.pcap {
            pcap.file = folder.join(&pcap.file);
        }
    }

    /// `ip=`: an address, or who gives one.
    fn add_ip(&mut self, text: &str) -> Result<(), ConfigError> {
        match Auto::of(text) {
            Some(auto) if self.auto.is_some_and(|other| other != auto) => {
                let why =
                    "the interface is configured by its network in another way already; ip=auto is both";
                return Err(ConfigError::new(text, why));
            }
            Some(auto) => self.auto = Some(auto),
            None => self.ip.push(parse_net(text)?),
        }
        Ok(())
    }
}

impl StackConfig {
    /// A configuration file in TOML.
    ///
    /// # Errors
    /// Names the line and what is wrong in it.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let line =
                e.span().and_then(|span| text.get(..span.start)).map_or(1, |s| s.matches('\n').count() + 1);
            ConfigError::new(&format!("line {line}"), e.message().replace('\n', ", "))
        })?;
        for interface in &config.interfaces {
            check_name(&interface.name)?;
        }
        config.checked()
    }

    /// Adds an interface from the one-line form.
    ///
    /// # Errors
    /// Names the part of the line that is wrong.
    pub fn add_line(&mut self, line: &str) -> Result<(), ConfigError> {
        let (interface, routes) = parse_line(line, |kind| self.free_name(kind))?;
        self.interfaces.push(interface);
        self.routes.extend(routes);
        Ok(())
    }

    /// `--vpn FILE`: an interface that is plugged into the tunnel which the file describes.
    pub fn add_tunnel(&mut self, file: &str) {
        let link = Link::Wg { path: file.to_owned() };
        self.interfaces.push(InterfaceConfig::new(&self.free_name("wg"), link));
    }

    /// The interface that an option without an interface name means: the last one, or a new one on the
    /// default switch if there is none.
    fn last_interface(&mut self) -> &mut InterfaceConfig {
        if self.interfaces.is_empty() {
            let link = Link::switch(DEFAULT_SWITCH, None);
            self.interfaces.push(InterfaceConfig::new("eth0", link));
        }
        self.interfaces.last_mut().expect("an interface was just added")
    }

    fn named_interface(
        &mut self,
        option: &str,
        text: &str,
    ) -> Result<(&mut InterfaceConfig, String), ConfigError> {
        match text.split_once('=') {
            None => Ok((self.last_interface(), text.to_owned())),
            Some((name, value)) => {
                let value = value.to_owned();
                match self.interfaces.iter_mut().find(|i| i.name == name) {
                    Some(interface) => Ok((interface, value)),
                    None => Err(ConfigError::new(
                        text,
                        format!("no interface {name}; give --link {name}=… before {option}"),
                    )),
                }
            }
        }
    }

    /// `--ip [IFACE=]ADDRESS/LENGTH`, `--ip [IFACE=]dhcp`, `…dhcp6`, `…auto`
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn add_ip(&mut self, text: &str) -> Result<(), ConfigError> {
        let (interface, value) = self.named_interface("--ip", text)?;
        interface.add_ip(&value)?;
        Ok(())
    }

    /// `--gw [IFACE=]ADDRESS`
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn add_gw(&mut self, text: &str) -> Result<(), ConfigError> {
        let (interface, value) = self.named_interface("--gw", text)?;
        interface.gw.push(parse_ip(&value)?);
        Ok(())
    }

    /// `--route 'DESTINATION [via GATEWAY] [dev IFACE] [metric N]'`
    ///
    /// # Errors
    /// What is wrong with the route.
    pub fn add_route(&mut self, text: &str) -> Result<(), ConfigError> {
        self.routes.push(text.parse()?);
        Ok(())
    }

    /// `--limit memory=64M`, `--limit cpu=50%`, `--limit packets=100000/s`
    ///
    /// # Errors
    /// What is wrong with the limit.
    pub fn add_limit(&mut self, text: &str) -> Result<(), ConfigError> {
        self.limits.add(text)
    }

    /// `--filter 'input: proto tcp dport 22 drop'`, or the text of a file of such lines
    ///
    /// # Errors
    /// The line that is wrong, and what would be right.
    pub fn add_filter(&mut self, text: &str) -> Result<(), FilterError> {
        self.filter.extend(text)
    }

    /// The configuration, once everything has been added.
    ///
    /// # Errors
    /// What does not fit together.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.interfaces.len() > MAX_INTERFACES {
            return Err(ConfigError::new("interfaces", format!("more than {MAX_INTERFACES}")));
        }
        for (i, interface) in self.interfaces.iter().enumerate() {
            if self.interfaces[..i].iter().any(|other| other.name == interface.name) {
                return Err(ConfigError::new(
                    &interface.name,
                    "given twice; each interface needs its own name",
                ));
            }
            if interface.auto.is_some() && !matches!(interface.link, Link::To(_) | Link::Via(_)) {
                let why = "ip=dhcp, ip=dhcp6 and ip=auto are for interfaces that are plugged into a network";
                return Err(ConfigError::new(&interface.name, why));
            }
            if let Some(mtu) = interface.mtu.filter(|mtu| !MTU.contains(mtu)) {
                return Err(ConfigError::new(&mtu.to_string(), "no MTU; 68 to 65521 bytes"));
            }
            for v4 in [true, false] {
                if interface.gw.iter().filter(|gw| gw.is_ipv4() == v4).count() > 1 {
                    let why = "two gateways of one family; use route= for the second";
                    return Err(ConfigError::new(&interface.name, why));
                }
            }
        }
        self.routes.iter().try_for_each(RouteConfig::check)?;
        Ok(self)
    }

    fn free_name(&self, kind: &str) -> String {
        (0..)
            .map(|n| format!("{kind}{n}"))
            .find(|name| self.interfaces.iter().all(|i| i.name != *name))
            .expect("endless")
    }
}

fn parse_line(
    line: &str,
    free_name: impl Fn(&str) -> String,
) -> Result<(InterfaceConfig, Vec<RouteConfig>), ConfigError> {
    let mut parts = split_outside_brackets(line);
    let head = parts.remove(0);
    // A path may have a `=` in it.
    let named = head.split_once('=').filter(|(name, _)| !name.contains(':'));
    let link: Link = named.map_or(head, |(_, link)| link).parse()?;
    let name = named.map(|(name, _)| name.to_owned());
    let name = &name.unwrap_or_else(|| free_name(if matches!(link, Link::Wg { .. }) { "wg" } else { "eth" }));
    check_name(name)?;
    let mut interface = InterfaceConfig::new(name, link);
    let mut routes = Vec::new();
    for part in parts {
        let Some((key, value)) = part.split_once('=') else {
            return Err(ConfigError::new(part, "expected KEY=VALUE, such as ip=10.0.0.2/24"));
        };
        match key.trim() {
            "ip" => interface.add_ip(value)?,
            "gw" => interface.gw.push(parse_ip(value)?),
            "mtu" => interface.mtu = Some(parse_mtu(value)?),
            "mac" => interface.mac = Some(value.parse()?),
            "pcap" => interface.pcap = Some(value.parse()?),
            "route" => {
                let mut route: RouteConfig = value.parse()?;
                route.dev.get_or_insert_with(|| name.clone());
                routes.push(route);
            }
            _ => {
                let why = "unknown setting; known are ip, gw, mtu, mac, pcap, route";
                return Err(ConfigError::new(part, why));
            }
        }
    }
    Ok((interface, routes))
}

fn split_outside_brackets(line: &str) -> Vec<&str> {
    let mut depth = 0u32;
    line.split(|c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > MAX_INTERFACE_NAME
        || !name.chars().all(plain)
        || [".", "..", "lo"].contains(&name)
    {
        let why =
            format!("no name for an interface; use up to {MAX_INTERFACE_NAME} letters and digits, not lo");
        return Err(ConfigError::new(name, why));
    }
    Ok(())
}

fn parse_ip(text: &str) -> Result<IpAddr, ConfigError> {
    text.trim().parse().map_err(|_| ConfigError::new(text, "no IP address, such as 10.0.0.1 or fd00::1"))
}

fn parse_net(text: &str) -> Result<IpNet, ConfigError> {
    let text = text.trim();
    if let Ok(net) = text.parse() {
        return Ok(net);
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(IpNet::from(ip)),
        Err(_) => Err(ConfigError::new(
            text,
            "no address with prefix length, such as 10.0.0.2/24 or fd00::2/64, nor dhcp or auto",
        )),
    }
}

fn parse_mtu(text: &str) -> Result<u32, ConfigError> {
    match text.trim().parse() {
        Ok(mtu) if MTU.contains(&mtu) => Ok(mtu),
        _ => Err(ConfigError::new(text, "no MTU; 68 to 65521 bytes")),
    }
}

impl RouteConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let text = self.to.to_string();
        if self.via.is_none() && self.dev.is_none() {
            return Err(ConfigError::new(&text, "a route needs `via GATEWAY` or `dev IFACE`"));
        }
        if self.via.is_some_and(|via| via.is_ipv4() != self.to.addr().is_ipv4()) {
            return Err(ConfigError::new(&text, "destination and gateway are of different families"));
        }
        Ok(())
    }
}

impl FromStr for RouteConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut words = text.split_whitespace();
        let destination = words.next().unwrap_or_default();
        let (mut via, mut dev, mut metric) = (None, None, None);
        while let Some(key) = words.next() {
            let value =
                words.next().ok_or_else(|| ConfigError::new(text, format!("nothing after `{key}`")))?;
            match key {
                "via" => via = Some(parse_ip(value)?),
                "dev" => dev = Some(value.to_owned()),
                "metric" => {
                    metric = Some(value.parse().map_err(|_| ConfigError::new(value, "no metric; a number"))?);
                }
                _ => {
                    return Err(ConfigError::new(
                        text,
                        "expected `DESTINATION [via GATEWAY] [dev IFACE] [metric N]`",
                    ));
                }
            }
        }
        let to = match (destination, via) {
            ("default", Some(IpAddr::V6(_))) => "::/0".parse().expect("constant"),
            ("default", _) => "0.0.0.0/0".parse().expect("constant"),
            _ => parse_net(destination)?.trunc(),
        };
        let route = Self { to, via, dev, metric };
        route.check()?;
        Ok(route)
    }
}

impl FromStr for Mac {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::new(text, "no hardware address, such as 02:00:00:00:00:01");
        let mut mac = [0u8; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(ConfigError::new(
                text,
                "a group address cannot be an interface's own; clear the lowest bit",
            ));
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Gives a type that parses and prints the serde form of its text.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ConfigError;
            fn try_from(text: String) -> Result<Self, ConfigError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Link, Mac, Pcap, MemoryLimit, CpuLimit, PacketLimit);

#[cfg(test)]
mod tests;
