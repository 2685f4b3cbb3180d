//! Interfaces, addresses and routes of a network namespace, by rtnetlink.
//!
//! Every function works in the namespace the process is in. Errors are [`Refusal`]s that name the thing
//! and the errno in words.

use std::net::IpAddr;

use ipnet::IpNet;
use msocket_proto::line::Refusal;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::namespace::sysctl;
use super::netlink::{Mode, Netlink};
use crate::config::{InterfaceConfig, Mac, RouteConfig};
use crate::dhcp6::client;
use crate::gateway::advertise::Heard;
use crate::stack::{InterfaceCounters, InterfaceInfo};
use crate::steward::renewal::Change;

/// rtnetlink(7)
const RT_TABLE_LOCAL: u8 = 255;
/// The metric of a route to a router that was heard before the stack was there: behind the kernel's own (IP6_RT_PRIO_USER),
/// which comes with the next advertisement, and which the same metric would keep the kernel from making.
const METRIC_HEARD: u32 = 1025;
/// The loopback's index in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// The editor of one namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    netlink: Netlink,
}

impl Interfaces {
    /// Opens rtnetlink in the namespace the process is in.
    pub(crate) fn open() -> Result<Self, Refusal> {
        let netlink = Netlink::open().map_err(|e| refused("rtnetlink", "open", e))?;
        Ok(Self { netlink })
    }

    /// Sets an interface up.
    pub(crate) fn up(&mut self, index: u32) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        let set = RouteNetlinkMessage::SetLink(message);
        self.netlink.change(set, Mode::Plain).map_err(|e| refused("interface", "set up", e))
    }

    /// Sets an interface down.
    pub(crate) fn down(&mut self, index: u32) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        let set = RouteNetlinkMessage::SetLink(message);
        self.netlink.change(set, Mode::Plain).map_err(|e| refused("interface", "set down", e))
    }

    /// Makes an interface that is down one on which nobody is asked for hardware addresses, and which has no
    /// link-local address: nobody but its tunnel is there. Addresses of 127.0.0.0/8 may be behind it, if routes say so.
    pub(crate) fn become_tunnel(&mut self, name: &str) -> Result<(), Refusal> {
        let mut message = LinkMessage::default();
        message.header.index = index_of(name)?;
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes.push(LinkAttribute::Address(crate::wg::STACK_MAC.to_vec()));
        let set = RouteNetlinkMessage::SetLink(message);
        self.netlink.change(set, Mode::Plain).map_err(|e| refused(name, "set up", e))?;
        for (file, value) in [("ipv4/conf/NAME/route_localnet", "1"), ("ipv6/conf/NAME/addr_gen_mode", "1")] {
            match sysctl(&format!("net/{}", file.replace("NAME", name)), value) {
                // A machine without IPv6.
                Err(Errno::ENOENT) => {}
                other => other.map_err(|e| refused(name, "set up", e))?,
            }
        }
        Ok(())
    }

    /// Makes a veth pair whose other end goes to the namespace behind the descriptor `far`.
    pub(crate) fn add_veth(&mut self, name: &str, peer: &str, far: i32) -> Result<(), Refusal> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.into()));
        other.attributes.push(LinkAttribute::NetNsFd(far));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        let new = RouteNetlinkMessage::NewLink(message);
        self.netlink.change(new, Mode::Create).map_err(|e| refused(name, "make", e))
    }

    /// Sets what `config` says of an interface that exists, and sets it up.
    pub(crate) fn configure(&mut self, config: &InterfaceConfig) -> Result<(), Refusal> {
        let name = config.name.as_str();
        let index = index_of(name)?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(Mac(mac)) = config.mac {
            message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        if let Some(mtu) = config.mtu {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        }
        if !message.attributes.is_empty() {
            let set = RouteNetlinkMessage::SetLink(message);
            self.netlink.change(set, Mode::Plain).map_err(|e| refused(name, "set up", e))?;
        }
        if config.heard.is_some() {
            // As a router it is to hear others, too. Where this cannot be set, it is what the machine has it be.
            let _ = sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "2");
        }
        self.up(index)?;
        for ip in &config.ip {
            // A router's advertisement may have brought the very address since the interface is up; it is ours now.
            let twice = config.ip.iter().filter(|other| *other == ip).count() > 1;
            let added = match self.add_address(index, *ip, life(config, *ip), Mode::Create) {
                Err(Errno::EEXIST) if ip.addr().is_ipv6() && !twice => {
                    self.add_address(index, *ip, life(config, *ip), Mode::Replace)
                }
                added => added,
            };
            added.map_err(|e| refused(&ip.to_string(), "add", e))?;
        }
        for gw in &config.gw {
            let to = if gw.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().expect("constant");
            self.add_route(&RouteConfig { to, via: Some(*gw), dev: Some(name.into()), metric: None })?;
        }
        match &config.heard {
            Some(heard) if heard.said.lifetime_s > 0 => self.follow_router(name, heard),
            _ => Ok(()),
        }
    }

    /// The route to a router is good for as long as that says; the kernel's own, if it makes one, comes first.
    pub(crate) fn follow_router(&mut self, name: &str, heard: &Heard) -> Result<(), Refusal> {
        let (to, via) = ("::/0".parse().expect("constant"), Some(heard.router.into()));
        let route = RouteConfig { to, via, dev: Some(name.into()), metric: Some(METRIC_HEARD) };
        let mut message = route_message(&route)?;
        if heard.said.lifetime_s == 0 {
            // It may be none of ours.
            let _ = self.netlink.change(RouteNetlinkMessage::DelRoute(message), Mode::Plain);
            return Ok(());
        }
        message.attributes.push(RouteAttribute::Expires(heard.said.lifetime_s.into()));
        let new = RouteNetlinkMessage::NewRoute(message);
        self.netlink.change(new, Mode::Replace).map_err(|e| refused("the default route", "add", e))
    }

    /// Puts another lease of DHCPv6 in the place of one, or the same for longer.
    pub(crate) fn change_lease_v6(&mut self, name: &str, change: &client::Change) -> Result<(), Refusal> {
        let index = index_of(name)?;
        let (old, new) = match change {
            client::Change::Lost(old) => (Some(old), None),
            client::Change::Got(old, new) => (old.as_ref(), Some(new)),
        };
        let net = |lease: &client::Lease| IpNet::from(IpAddr::V6(lease.address));
        if let Some(new) = new {
            let life = Some((new.preferred_s, new.valid_s));
            let added = self.add_address(index, net(new), life, Mode::Replace);
            added.map_err(|e| refused(&net(new).to_string(), "add", e))?;
        }
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.address != old.address)) {
            // The program may have taken it away itself.
            let _ = self.remove_address(index, net(old));
        }
        Ok(())
    }

    /// Puts another lease in the place of one: addresses, and the default route.
    pub(crate) fn change_lease(&mut self, name: &str, change: &Change) -> Result<(), Refusal> {
        let index = index_of(name)?;
        let (old, new) = match change {
            Change::Lost(old) => (Some(old), None),
            Change::Got(old, new) => (old.as_ref(), Some(new)),
        };
        if let Some(new) = new {
            let net = IpNet::V4(new.ip);
            self.add_address(index, net, None, Mode::Replace)
                .map_err(|e| refused(&net.to_string(), "add", e))?;
        }
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.ip != old.ip)) {
            // The program may have taken it away itself.
            let _ = self.remove_address(index, IpNet::V4(old.ip));
        }
        if let Some(router) = new.and_then(|new| new.router) {
            let to = "0.0.0.0/0".parse().expect("constant");
            let route = RouteConfig { to, via: Some(router.into()), dev: Some(name.into()), metric: None };
            // The old address may have taken its route along, or not.
            if let Some(old) = old.and_then(|old| old.router).filter(|old| *old != router) {
                let _ = self.remove_route(&RouteConfig { via: Some(old.into()), ..route.clone() });
            }
            let _ = self.remove_route(&route);
            self.add_route(&route)?;
        }
        Ok(())
    }

    fn remove_address(&mut self, index: u32, net: IpNet) -> Result<(), Errno> {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr());
        message.header.prefix_len = net.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(net.addr()));
        self.netlink.change(RouteNetlinkMessage::DelAddress(message), Mode::Plain)
    }

    /// `life`: for how many seconds it is preferred, and good.
    fn add_address(
        &mut self,
        index: u32,
        net: IpNet,
        life: Option<(u32, u32)>,
        mode: Mode,
    ) -> Result<(), Errno> {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr());
        message.header.prefix_len = net.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Address(net.addr()));
        message.attributes.push(AddressAttribute::Local(net.addr()));
        match net {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => {
                message.header.flags = AddressHeaderFlags::Nodad;
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        if let Some((preferred, valid)) = life {
            let mut info = CacheInfo::default();
            (info.ifa_preferred, info.ifa_valid) = (preferred, valid);
            message.attributes.push(AddressAttribute::CacheInfo(info));
        }
        self.netlink.change(RouteNetlinkMessage::NewAddress(message), mode)
    }

    fn remove_route(&mut self, route: &RouteConfig) -> Result<(), Refusal> {
        let message = RouteNetlinkMessage::DelRoute(route_message(route)?);
        self.netlink.change(message, Mode::Plain).map_err(|e| refused(&route.to.to_string(), "remove", e))
    }

    /// Adds a route.
    pub(crate) fn add_route(&mut self, route: &RouteConfig) -> Result<(), Refusal> {
        let to = route.to.trunc();
        let message = route_message(route)?;
        let what = match route.via {
            Some(via) => format!("{} via {via}", route.to),
            None => route.to.to_string(),
        };
        let mut add = |mode| self.netlink.change(RouteNetlinkMessage::NewRoute(message.clone()), mode);
        let added = match add(Mode::Create) {
            // As with addresses: a router has told its route itself.
            Err(Errno::EEXIST) if to.prefix_len() == 0 && to.addr().is_ipv6() => add(Mode::Replace),
            added => added,
        };
        added.map_err(|e| match e {
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => {
                Refusal::new(format!("cannot add route {what}"), "the gateway is on no network of this stack")
                    .hint("give the interface an address on the gateway's network with --ip ADDRESS/LENGTH")
            }
            e => refused(&format!("route {what}"), "add", e),
        })
    }

    /// Everything there is, in kernel order; `link` says what an interface is plugged into.
    pub(crate) fn list(&mut self, link: impl Fn(&str) -> String) -> Result<Vec<InterfaceInfo>, Refusal> {
        let failed = |e| refused("interfaces", "list", e);
        let links =
            self.netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(failed)?;
        let addresses =
            self.netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).map_err(failed)?;
        let mut found = Vec::new();
        for message in links {
            let RouteNetlinkMessage::NewLink(message) = message else { continue };
            let mut info = InterfaceInfo {
                name: String::new(),
                mac: String::new(),
                mtu: 0,
                up: message.header.flags.contains(LinkFlags::Up),
                link: String::new(),
                lease_s: None,
                lease_v6_s: None,
                addresses: addresses.iter().filter_map(|a| address_on(a, message.header.index)).collect(),
                counters: InterfaceCounters::default(),
            };
            for attribute in &message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => info.name.clone_from(name),
                    LinkAttribute::Mtu(mtu) => info.mtu = *mtu,
                    LinkAttribute::Stats64(stats) => info.counters = counters(stats),
                    LinkAttribute::Address(mac) if message.header.index != LOOPBACK => {
                        info.mac = mac.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
                    }
                    _ => {}
                }
            }
            info.link = link(&info.name);
            found.push(info);
        }
        Ok(found)
    }
}

/// For how many seconds an address of a configuration is preferred, and good, if it is not for ever.
fn life(config: &InterfaceConfig, ip: IpNet) -> Option<(u32, u32)> {
    let leased = config.lease_v6.as_ref().filter(|lease| IpAddr::V6(lease.address) == ip.addr());
    let heard = || {
        let mac = config.mac?.0;
        let prefixes = &config.heard.as_ref()?.said.prefixes;
        let prefix = prefixes.iter().find(|it| it.address(mac).map(IpNet::V6) == Some(ip))?;
        Some((prefix.preferred_s, prefix.valid_s))
    };
    leased.map(|lease| (lease.preferred_s, lease.valid_s)).or_else(heard)
}

fn counters(stats: &Stats64) -> InterfaceCounters {
    InterfaceCounters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    }
}

fn route_message(route: &RouteConfig) -> Result<RouteMessage, Refusal> {
    let mut message = RouteMessage::default();
    let to = route.to.trunc();
    message.header.address_family = family(to.addr());
    message.header.destination_prefix_length = to.prefix_len();
    // The whole of 127.0.0.0/8 is in the local table, which is looked into first.
    let loopback = to.addr().is_loopback() && to.prefix_len() > 8;
    message.header.table = if loopback { RT_TABLE_LOCAL } else { RouteHeader::RT_TABLE_MAIN };
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.addr().into()));
    }
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    if let Some(dev) = &route.dev {
        message.attributes.push(RouteAttribute::Oif(index_of(dev)?));
    }
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    Ok(message)
}

/// The index of an interface in the namespace the process is in.
pub(crate) fn index_of(name: &str) -> Result<u32, Refusal> {
    nix::net::if_::if_nametoindex(name).map_err(|e| refused(name, "find", e))
}

fn address_on(message: &RouteNetlinkMessage, index: u32) -> Option<String> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    if message.header.index != index {
        return None;
    }
    // IFA_LOCAL is the interface's own on a point-to-point link and equal to IFA_ADDRESS elsewhere.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    Some(format!("{}/{}", local.or(address)?, message.header.prefix_len))
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn refused(what: &str, verb: &str, errno: Errno) -> Refusal {
    let what = format!("cannot {verb} {what}");
    let (why, hint) = match errno {
        Errno::EEXIST => ("it is there already", "leave one of the two out"),
        Errno::EINVAL | Errno::ERANGE | Errno::EADDRNOTAVAIL => {
            ("the kernel does not take these values", "ip(8) says what it takes")
        }
        Errno::ENODEV | Errno::ENXIO => {
            ("there is no such interface", "give the name of one of the stack's interfaces")
        }
        Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP => (
            "this kernel does not have it",
            "leave it out, or load what it needs; `viewnet doctor` shows the kernel",
        ),
        // Of an interface on which net.ipv6.conf says disable_ipv6, as new namespaces may inherit it.
        Errno::EACCES => ("IPv6 is switched off here", "use IPv4, or set net.ipv6.conf.all.disable_ipv6=0"),
        // Whoever prints it knows the limits of the machine.
        _ => return Refusal::system(what, errno),
    };
    Refusal::new(what, why).errno(errno as i32).hint(hint)
}
