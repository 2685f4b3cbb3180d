//! What IPv6 routers advertise, made into routes and addresses (RFC 4861 clause 6.3.4, RFC 4862 clause 5.5.3), as
//! ndisc_router_discovery() in net/ipv6/ndisc.c and addrconf_prefix_rcv() in net/ipv6/addrconf.c.
//!
//! # Theory of operation
//! A router is a default route with a lifetime, a network that is on the link a route with one, a network in which
//! addresses may be chosen an address with two: while it is preferred, and while it is good. Later advertisements
//! move those times, and nothing else: what comes to its end is taken away by [`Tables::expire`]. Nobody can shorten an
//! address's life to less than two hours by an advertisement, as those are not signed. What a configuration or a program has
//! made is left alone, but for the addresses that a configuration took from the first advertisement.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv6Net};
use msocket_proto::line::Refusal;
use nix::errno::Errno;

use super::apply::refused;
use super::routes::METRIC_USER;
use super::{
    Address, Change, IfIndex, Mode, PROTOCOL_KERNEL, Route, RouteKind, SCOPE_UNIVERSE, TABLE_MAIN, Tables,
    ifa_flags,
};
use crate::dhcp6::client;
use crate::gateway::advertise::{Advertisement, INFINITY, Prefix};

/// RTPROT_RA
const PROTOCOL_RA: u8 = 9;
/// IFAPROT_KERNEL_RA
const PROTOCOL_ADDRESS: u8 = 2;
/// The metric of the routes of networks (IP6_RT_PRIO_ADDRCONF).
const METRIC_PREFIX: u32 = 256;
/// Most routers, networks and addresses of an interface that come so (net.ipv6.conf.*.max_addresses; Linux has no limit
/// for the others).
const MOST: usize = 16;
/// A life that is left cannot be made shorter than this by an advertisement (MIN_VALID_LIFETIME).
const LEAST: Duration = Duration::from_secs(7200);
/// The least MTU of IPv6 (RFC 8200 section 5).
const LEAST_MTU: u32 = 1280;

/// The end of a lifetime; none: never.
fn until(now: Instant, seconds: u32) -> Option<Instant> {
    (seconds != INFINITY).then(|| now + Duration::from_secs(seconds.into()))
}

impl Tables {
    /// A router, whose address on the link it is, advertises. `first`: addresses are the configuration's already.
    pub fn advertised(
        &mut self,
        now: Instant,
        link: IfIndex,
        router: Ipv6Addr,
        said: &Advertisement,
        first: bool,
    ) {
        let Ok(device) = self.link(link) else { return };
        let (mac, mtu) = (device.mac.0, device.mtu);
        let default = IpNet::V6(Ipv6Net::default());
        let route = Route {
            gateway: Some(router.into()),
            metric: METRIC_USER,
            protocol: PROTOCOL_RA,
            mtu: said.mtu.filter(|said| (LEAST_MTU..=mtu).contains(said)),
            ..learned(default, link)
        };
        self.live(now, route, said.lifetime_s.into());
        for prefix in &said.prefixes {
            match prefix.address(mac) {
                Some(address) => self.live_address(now, link, address, prefix, first),
                None if prefix.on_link => {
                    let route = Route { metric: METRIC_PREFIX, ..learned(prefix.net.into(), link) };
                    self.live(now, route, prefix.valid_s);
                }
                None => {}
            }
        }
    }

    /// Puts another lease of DHCPv6 in the place of one, or the same for longer.
    ///
    /// # Errors
    /// What cannot be.
    pub fn change_lease_v6(
        &mut self,
        now: Instant,
        name: &str,
        change: &client::Change,
    ) -> Result<(), Refusal> {
        let link = self.link_by_name(name).map(|link| link.index);
        let link = link.ok_or_else(|| refused(name, "find", Errno::ENODEV.into()))?;
        let (old, new) = match change {
            client::Change::Lost(old) => (Some(old), None),
            client::Change::Got(old, new) => (old.as_ref(), Some(new)),
        };
        let net = |lease: &client::Lease| IpNet::from(IpAddr::V6(lease.address));
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.address != old.address)) {
            // The program may have taken it away itself.
            let _ = self.remove_address(link, net(old));
        }
        let Some(new) = new else { return Ok(()) };
        let mut address = Address::new(link, net(new));
        // As the configuration's: usable at once.
        address.flags = ifa_flags::NODAD;
        address.preferred_until = until(now, new.preferred_s);
        address.valid_until = until(now, new.valid_s);
        self.add_address(address, Mode::REPLACE).map_err(|e| refused(&net(new).to_string(), "add", e))
    }

    /// A route that is good for so long from now on.
    fn live(&mut self, now: Instant, mut route: Route, seconds: u32) {
        route.expires = until(now, seconds);
        let range = self.range_of(TABLE_MAIN, route.to);
        let known = range.into_iter().find(|at| self.routes[*at].is_same(&route));
        match known {
            // What has no end, nobody told us by an advertisement that had one.
            Some(at) if seconds == 0 => {
                let gone = self.routes.remove(at);
                self.changes.push_back(Change::RouteGone(gone));
            }
            Some(at) => {
                self.routes[at].clone_from(&route);
                self.changes.push_back(Change::Route(route));
            }
            None if seconds > 0 => {
                let like = |it: &&Route| {
                    (it.link, it.protocol, it.gateway.is_some())
                        == (route.link, route.protocol, route.gateway.is_some())
                        && it.expires.is_some()
                };
                if self.routes.iter().filter(like).count() < MOST {
                    // Another of the same metric stands beside it; a full table has no room for it.
                    let _ = self.insert_route(route, Mode::APPEND);
                }
            }
            None => {}
        }
    }

    /// An address that is good for as long as its network.
    fn live_address(&mut self, now: Instant, link: IfIndex, net: Ipv6Net, prefix: &Prefix, first: bool) {
        let ip = IpAddr::V6(net.addr());
        let known = self.addresses_of(link).find(|it| it.net.addr() == ip);
        let mut address = Address::new(link, net.into());
        address.protocol = PROTOCOL_ADDRESS;
        address.preferred_until = until(now, prefix.preferred_s);
        address.valid_until = until(now, prefix.valid_s);
        if !prefix.on_link {
            address.flags |= ifa_flags::NOPREFIXROUTE;
        }
        match known {
            Some(known) if first || known.protocol == PROTOCOL_ADDRESS => {
                address.flags |= known.flags & ifa_flags::NODAD;
                let left = known.valid_until.map(|until| until.saturating_duration_since(now));
                let least = now + left.unwrap_or(LEAST).min(LEAST);
                if !first {
                    address.valid_until = address.valid_until.map(|until| until.max(least));
                }
            }
            // Somebody's own.
            Some(_) => return,
            None if prefix.valid_s == 0 => return,
            None => {
                let ours = |it: &&Address| it.protocol == PROTOCOL_ADDRESS;
                if self.addresses_of(link).filter(ours).count() >= MOST {
                    return;
                }
            }
        }
        // A full table, or an MTU that is too small for IPv6: there is no address then.
        let _ = self.add_address(address, Mode::REPLACE);
    }
}

/// A route as advertisements bring them.
fn learned(to: IpNet, link: IfIndex) -> Route {
    Route {
        to,
        gateway: None,
        link: Some(link),
        source: None,
        metric: 0,
        table: TABLE_MAIN,
        kind: RouteKind::Unicast,
        scope: SCOPE_UNIVERSE,
        protocol: PROTOCOL_KERNEL,
        flags: 0,
        mtu: None,
        expires: None,
    }
}

#[cfg(test)]
#[path = "advertised/tests.rs"]
mod tests;
