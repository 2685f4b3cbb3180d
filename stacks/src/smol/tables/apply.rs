//! A configuration, made into interfaces, addresses and routes.

use std::net::IpAddr;

use ipnet::IpNet;
use msocket_proto::line::Refusal;
use nix::errno::Errno;

use super::{
    Address, IfIndex, LOOPBACK, LinkKind, Mode, PROTOCOL_STATIC, Refused, Route, RouteKind, RouteMatch,
    SCOPE_LINK, SCOPE_UNIVERSE, TABLE_LOCAL, TABLE_MAIN, Tables, ifa_flags,
};
use crate::config::{InterfaceConfig, Mac, RouteConfig, StackConfig};
use crate::steward::renewal::Change;

impl Tables {
    /// Sets the loopback up and makes what `config` says: interfaces with the indices 2, 3 … in its order, up
    /// and without carrier. `random_mac` gives the hardware addresses that are not said.
    ///
    /// # Errors
    /// What cannot be, why, and what to do.
    pub fn apply(
        &mut self,
        config: &StackConfig,
        random_mac: &mut dyn FnMut() -> Mac,
    ) -> Result<(), Refusal> {
        self.set_up(LOOPBACK, true).map_err(|e| refused("lo", "set up", e))?;
        for interface in &config.interfaces {
            let mac = interface.mac.unwrap_or_else(&mut *random_mac);
            self.configure(interface, mac)?;
        }
        config.routes.iter().try_for_each(|route| self.configure_route(route))
    }

    fn configure(&mut self, config: &InterfaceConfig, mac: Mac) -> Result<(), Refusal> {
        let name = config.name.as_str();
        let index = self.add_link(0, name, LinkKind::Ethernet, mac).map_err(|e| refused(name, "make", e))?;
        if let Some(link) = self.links.get_mut(&index) {
            link.plugged = config.link.to_string();
            link.hears_routers = config.heard.is_some() || config.lease_v6.is_some();
            if matches!(config.link, crate::config::Link::Wg { .. }) {
                link.wished_flags |= libc::IFF_NOARP as u32;
                (link.link_local, link.mac) = (false, Mac(crate::wg::STACK_MAC));
            }
        }
        if let Some(mtu) = config.mtu {
            self.set_mtu(index, mtu).map_err(|e| refused(name, "set up", e))?;
        }
        self.set_up(index, true).map_err(|e| refused(name, "set up", e))?;
        for net in &config.ip {
            self.configure_address(index, *net).map_err(|e| refused(&net.to_string(), "add", e))?;
        }
        for gw in &config.gw {
            let to = if gw.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().expect("constant");
            self.configure_route(&RouteConfig { to, via: Some(*gw), dev: Some(name.into()), metric: None })?;
        }
        Ok(())
    }

    /// Puts another lease in the place of one: addresses, and the default route.
    ///
    /// # Errors
    /// What cannot be.
    pub fn change_lease(&mut self, name: &str, change: &Change) -> Result<(), Refusal> {
        let index = self.link_by_name(name).map(|link| link.index);
        let index = index.ok_or_else(|| refused(name, "find", Errno::ENODEV.into()))?;
        let (old, new) = match change {
            Change::Lost(old) => (Some(old), None),
            Change::Got(old, new) => (old.as_ref(), Some(new)),
        };
        let to: IpNet = "0.0.0.0/0".parse().expect("constant");
        if let Some(old) = old {
            // The program may have taken them away itself.
            if let Some(router) = old.router {
                let gateway = Some(router.into());
                let _ = self.remove_route(&RouteMatch { link: Some(index), gateway, ..RouteMatch::new(to) });
            }
            if new.is_none_or(|new| new.ip != old.ip) {
                let _ = self.remove_address(index, IpNet::V4(old.ip));
            }
        }
        let Some(new) = new else { return Ok(()) };
        match self.configure_address(index, IpNet::V4(new.ip)) {
            Err(why) if why.errno != Errno::EEXIST => return Err(refused(&new.ip.to_string(), "add", why)),
            _ => {}
        }
        let Some(router) = new.router else { return Ok(()) };
        let via = Some(router.into());
        self.configure_route(&RouteConfig { to, via, dev: Some(name.into()), metric: None })
    }

    fn configure_address(&mut self, index: IfIndex, net: IpNet) -> Result<(), Refused> {
        let mut address = Address::new(index, net);
        match net {
            IpNet::V4(net) if net.prefix_len() < 31 => address.broadcast = Some(net.broadcast().into()),
            IpNet::V4(_) => {}
            // As the kernel's stacks: usable at once.
            IpNet::V6(_) => address.flags = ifa_flags::NODAD,
        }
        self.add_address(address, Mode::ADD)
    }

    fn configure_route(&mut self, config: &RouteConfig) -> Result<(), Refusal> {
        let link = match &config.dev {
            Some(dev) => Some(
                self.link_by_name(dev)
                    .map(|link| link.index)
                    .ok_or_else(|| refused(dev, "find", Errno::ENODEV.into()))?,
            ),
            None => None,
        };
        let loopback = config.to.addr().is_loopback() && config.to.prefix_len() > 8;
        let route = Route {
            to: config.to.trunc(),
            gateway: config.via,
            link,
            source: None,
            metric: config.metric.unwrap_or(0),
            // The whole of 127.0.0.0/8 is in the local table, which is looked into first.
            table: if loopback { TABLE_LOCAL } else { TABLE_MAIN },
            kind: RouteKind::Unicast,
            scope: if config.via.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK },
            protocol: PROTOCOL_STATIC,
            flags: 0,
            mtu: None,
            expires: None,
        };
        let what = match config.via {
            Some(via) => format!("{} via {via}", config.to),
            None => config.to.to_string(),
        };
        self.add_route(route, Mode::ADD).map_err(|e| match (e.errno, config.via) {
            (Errno::ENETUNREACH | Errno::EHOSTUNREACH, _) => {
                Refusal::new(format!("cannot add route {what}"), "the gateway is on no network of this stack")
                    .hint("give the interface an address on the gateway's network with --ip ADDRESS/LENGTH")
            }
            (Errno::EINVAL, Some(IpAddr::V6(via))) if via.is_unicast_link_local() && link.is_none() => {
                Refusal::new(format!("cannot add route {what}"), "the gateway is on every link")
                    .hint("say which one with `dev IFACE`")
            }
            _ => refused(&format!("route {what}"), "add", e),
        })
    }
}

pub(super) fn refused(what: &str, verb: &str, error: Refused) -> Refusal {
    let refusal = Refusal::new(format!("cannot {verb} {what}"), error).errno(error.errno as i32);
    match error.errno {
        Errno::EEXIST => refusal.hint("it is there already; leave one of the two out"),
        Errno::EINVAL | Errno::ERANGE | Errno::EADDRNOTAVAIL => {
            refusal.hint("these values do not fit; see ip(8)")
        }
        Errno::ENODEV => refusal.hint("give the name of one of the stack's interfaces"),
        _ => refusal,
    }
}
