//! The routes that an interface's addresses own.
//!
//! IPv4 (net/ipv4/fib_frontend.c, fib_add_ifaddr): each address is a route to the host itself; on an
//! interface that is up also its network and the two forms of its broadcast address. IPv6
//! (net/ipv6/addrconf.c): an address that is no longer tentative is a route to the host itself; on an
//! interface that is up its network, and all groups once IPv6 has started.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashSet;

use super::{
    Address, Change, IfIndex, Link, LinkKind, Mode, PROTOCOL_KERNEL, Route, RouteKind, SCOPE_HOST,
    SCOPE_LINK, SCOPE_UNIVERSE, TABLE_LOCAL, TABLE_MAIN, Tables, ifa_flags,
};

/// IP6_RT_PRIO_ADDRCONF: metric of the routes to IPv6 networks that addresses bring.
const METRIC_ADDRCONF: u32 = 256;

/// What makes two routes the same.
type Key = (IpNet, Option<IfIndex>, Option<IpAddr>, Option<IpAddr>, RouteKind, (u32, u32, u8, u8, u32));

impl Route {
    /// A route as the kernel makes them for addresses.
    fn owned(to: IpNet, link: IfIndex, kind: RouteKind) -> Self {
        let v4 = to.addr().is_ipv4();
        Self {
            to,
            gateway: None,
            link: Some(link),
            source: None,
            metric: 0,
            table: if kind == RouteKind::Unicast { TABLE_MAIN } else { TABLE_LOCAL },
            kind,
            scope: match kind {
                _ if !v4 => SCOPE_UNIVERSE,
                RouteKind::Local => SCOPE_HOST,
                _ => SCOPE_LINK,
            },
            protocol: PROTOCOL_KERNEL,
            flags: 0,
            mtu: None,
            expires: None,
        }
    }

    /// The same route but for what it has learned.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    fn key(&self) -> Key {
        let Self { to, link, gateway, source, kind, table, metric, scope, protocol, flags, .. } = *self;
        (to, link, gateway, source, kind, (table, metric, scope, protocol, flags))
    }
}

impl Tables {
    /// What the addresses of a link own as things stand.
    pub(super) fn owned_routes(&self, index: IfIndex) -> Vec<Route> {
        let Some(link) = self.links.get(&index) else { return Vec::new() };
        let mut owned: Vec<Route> = Vec::new();
        let mut known = FxHashSet::default();
        let mut add = |route: Route| {
            if known.insert(route.key()) {
                owned.push(route);
            }
        };
        let mut any_v6 = false;
        for address in self.addresses_of(index) {
            match address.net {
                IpNet::V4(net) => owned_by_v4(link, address, self.primary_of(address), net, &mut add),
                IpNet::V6(net) => {
                    any_v6 = true;
                    owned_by_v6(link, address, net, self.forwarding, &mut add);
                }
            }
        }
        if link.up && link.kind != LinkKind::Loopback && (link.configured6 || any_v6) {
            let groups = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
            let route = Route::owned(groups.into(), index, RouteKind::Multicast);
            add(Route { metric: METRIC_ADDRCONF, ..route });
        }
        owned
    }

    /// Removes what the link owned and no longer owns, and adds what it owns now.
    pub(super) fn adopt_routes(&mut self, index: IfIndex, before: &[Route]) {
        let now = self.owned_routes(index);
        let keys = |routes: &[Route]| routes.iter().map(Route::key).collect::<FxHashSet<Key>>();
        let (had, has) = (keys(before), keys(&now));
        for old in before.iter().filter(|route| !has.contains(&route.key())) {
            let mut range = self.range_of(old.table, old.to);
            if let Some(at) = range.find(|at| self.routes[*at].is_same(old)) {
                let route = self.routes.remove(at);
                self.changes.push_back(Change::RouteGone(route));
            }
        }
        for new in now.iter().filter(|route| !had.contains(&route.key())) {
            // What is there already, or beyond the limit, is left as it is: Linux ignores these errors, too.
            let _ = self.insert_route(new.clone(), Mode::APPEND);
        }
    }

    /// The address whose routes a secondary address shares; itself for a primary one.
    fn primary_of<'a>(&'a self, address: &'a Address) -> &'a Address {
        if address.flags & ifa_flags::SECONDARY == 0 || address.net.addr().is_ipv6() {
            return address;
        }
        self.addresses_of(address.link)
            .find(|other| other.flags & ifa_flags::SECONDARY == 0 && other.is_of_same_network(address))
            .unwrap_or(address)
    }
}

impl Address {
    /// The network it is on: that of its peer, if it has one.
    pub fn network(&self) -> IpNet {
        IpNet::new(self.peer.unwrap_or_else(|| self.net.addr()), self.net.prefix_len())
            .map_or(self.net, |net| net)
            .trunc()
    }

    pub(super) fn is_of_same_network(&self, other: &Self) -> bool {
        self.link == other.link && self.network() == other.network()
    }
}

fn owned_by_v4(link: &Link, address: &Address, primary: &Address, net: Ipv4Net, add: &mut impl FnMut(Route)) {
    let source = Some(primary.net.addr());
    let host = |ip: IpAddr, kind| Route { source, ..Route::owned(IpNet::from(ip), link.index, kind) };
    add(host(address.net.addr(), RouteKind::Local));
    if !link.up {
        return;
    }
    let everybody = IpAddr::from([255; 4]);
    if let Some(broadcast) = address.broadcast.filter(|ip| *ip != everybody && ip.is_ipv4()) {
        add(host(broadcast, RouteKind::Broadcast));
    }
    let network = address.network();
    let IpNet::V4(network4) = network else { return };
    let is_zeronet = network4.network().octets()[0] == 0;
    let is_itself = network.addr() == address.net.addr() && net.prefix_len() == 32;
    if is_zeronet || is_itself || address.flags & ifa_flags::SECONDARY != 0 {
        return;
    }
    if address.flags & ifa_flags::NOPREFIXROUTE == 0 {
        let kind = if link.kind == LinkKind::Loopback { RouteKind::Local } else { RouteKind::Unicast };
        add(Route { source, metric: address.metric, ..Route::owned(network, link.index, kind) });
    }
    if net.prefix_len() < 31 {
        add(host(network4.broadcast().into(), RouteKind::Broadcast));
    }
}

fn owned_by_v6(link: &Link, address: &Address, net: Ipv6Net, forwarding: bool, add: &mut impl FnMut(Route)) {
    let host = |ip: IpAddr, kind| Route::owned(IpNet::from(ip), link.index, kind);
    let metric = if address.metric == 0 { METRIC_ADDRCONF } else { address.metric };
    let usable = address.flags & ifa_flags::TENTATIVE == 0;
    if usable {
        add(host(net.addr().into(), RouteKind::Local));
    }
    // ::1 is its own network.
    let network = link.up && address.flags & ifa_flags::NOPREFIXROUTE == 0 && !net.addr().is_loopback();
    if network {
        let route = Route::owned(net.trunc().into(), link.index, RouteKind::Unicast);
        add(Route { metric, expires: address.valid_until, ..route });
    }
    if let Some(peer) = address.peer.filter(|_| link.up) {
        add(Route { metric, ..host(peer, RouteKind::Unicast) });
    }
    // The subnet-router anycast address (RFC 4291 clause 2.6.1).
    if forwarding && usable && link.up && link.kind != LinkKind::Loopback && net.prefix_len() < 127 {
        add(host(net.network().into(), RouteKind::Anycast));
    }
}
