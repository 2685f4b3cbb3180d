//! Routes: added, replaced, removed, with what Linux demands of them.
//!
//! The order of [`Tables::routes`] is that of a dump: by family and table, and within a table IPv4 by
//! address, longer prefixes first (net/ipv4/fib_trie.c), IPv6 a network behind what is inside it
//! (net/ipv6/ip6_fib.c), and then by metric.

use std::cmp::{Ordering, Reverse};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::{
    Change, IfIndex, LOOPBACK, LinkKind, MAX_ROUTES, Mode, NEXTHOP_ONLINK, PROTOCOL_BOOT, Refused, Route,
    RouteKind, SCOPE_HOST, SCOPE_LINK, SCOPE_NOWHERE, SCOPE_UNIVERSE, TABLE_LOCAL, TABLE_MAIN, Tables,
    ifa_flags,
};

/// IP6_RT_PRIO_USER: the metric of an IPv6 route that names none.
pub(super) const METRIC_USER: u32 = 1024;

const INVALID_GATEWAY: &str = "Nexthop has invalid gateway";

/// Which route to remove: what is absent matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// Destination.
    pub to: IpNet,
    /// RT_TABLE_*; 0 is MAIN.
    pub table: u32,
    /// What it does.
    pub kind: Option<RouteKind>,
    /// RT_SCOPE_*; only IPv4's routes have one.
    pub scope: Option<u8>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// RTPROT_*
    pub protocol: Option<u8>,
    /// Interface.
    pub link: Option<IfIndex>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Priority.
    pub metric: Option<u32>,
}

impl RouteMatch {
    /// Any route to `to` in the main table.
    pub fn new(to: IpNet) -> Self {
        Self {
            to,
            table: TABLE_MAIN,
            kind: None,
            scope: None,
            source: None,
            protocol: None,
            link: None,
            gateway: None,
            metric: None,
        }
    }

    fn matches(&self, route: &Route) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, has: Option<T>) -> bool {
            wanted.is_none() || wanted == has
        }
        let v4 = self.to.addr().is_ipv4();
        fits(self.kind, Some(route.kind))
            && (!v4 || fits(self.scope, Some(route.scope)))
            && (!v4 || fits(self.source, route.source))
            && fits(self.protocol, Some(route.protocol))
            && fits(self.link, route.link)
            && fits(self.gateway, route.gateway)
            && fits(self.metric, Some(route.metric))
    }
}

impl RouteKind {
    /// Sends nothing anywhere.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit)
    }
}

impl Tables {
    /// Adds or replaces a route. Absent settings are found: the link by the gateway. EEXIST, ENOENT, EINVAL,
    /// ENODEV, ENETDOWN, ENETUNREACH (IPv4) or EHOSTUNREACH (IPv6) for a gateway that is on no link.
    pub fn add_route(&mut self, mut route: Route, mode: Mode) -> Result<(), Refused> {
        if route.table == 0 {
            route.table = TABLE_MAIN;
        }
        match route.to {
            IpNet::V4(net) => {
                if net.trunc() != net {
                    return Err(Refused::new(Errno::EINVAL, "Invalid prefix for given prefix length"));
                }
                self.check_v4(&mut route)?;
            }
            IpNet::V6(net) => {
                route.to = net.trunc().into();
                self.check_v6(&mut route)?;
            }
        }
        self.insert_route(route, mode)
    }

    /// Removes the first route that matches. ESRCH, EINVAL.
    pub fn remove_route(&mut self, which: &RouteMatch) -> Result<(), Refused> {
        let table = if which.table == 0 { TABLE_MAIN } else { which.table };
        let mut which = which.clone();
        match which.to {
            IpNet::V4(net) if net.trunc() != net => {
                return Err(Refused::new(Errno::EINVAL, "Invalid prefix for given prefix length"));
            }
            IpNet::V4(_) => {}
            IpNet::V6(net) => which.to = net.trunc().into(),
        }
        if table != TABLE_MAIN && table != TABLE_LOCAL && !self.has_table(table) {
            return Err(Refused::new(Errno::ESRCH, "FIB table does not exist"));
        }
        let range = self.range_of(table, which.to);
        let at = range.into_iter().find(|at| which.matches(&self.routes[*at])).ok_or(Errno::ESRCH)?;
        let gone = self.routes.remove(at);
        self.changes.push_back(Change::RouteGone(gone));
        Ok(())
    }

    /// Whether the host forwards; routers listen to an anycast address per network.
    pub fn set_forwarding(&mut self, on: bool) {
        let links: Vec<IfIndex> = self.links.keys().copied().collect();
        let before: Vec<_> = links.iter().map(|link| self.owned_routes(*link)).collect();
        self.forwarding = on;
        for (link, before) in links.into_iter().zip(before) {
            self.adopt_routes(link, &before);
        }
    }

    /// Removes every route of which `gone` is true.
    pub(super) fn flush_routes(&mut self, gone: impl Fn(&Route) -> bool) {
        let (changes, routes) = (&mut self.changes, &mut self.routes);
        for route in routes.extract_if(.., |route| gone(route)) {
            changes.push_back(Change::RouteGone(route));
        }
    }

    /// Puts a route, which is known to be good, at its place.
    pub(super) fn insert_route(&mut self, route: Route, mode: Mode) -> Result<(), Refused> {
        let range = self.range_of(route.table, route.to);
        let peers = range.start + self.routes[range.clone()].partition_point(|r| r.metric < route.metric);
        let behind = range.start + self.routes[range.clone()].partition_point(|r| r.metric <= route.metric);
        let v4 = route.to.addr().is_ipv4();
        if peers < behind {
            if mode.exclusive {
                return Err(Errno::EEXIST.into());
            }
            let known = (peers..behind).find(|at| self.routes[*at].is_same(&route));
            if mode.replace {
                return self.replace_route(route, peers..behind, known);
            }
            if known.is_some() {
                return Err(Errno::EEXIST.into());
            }
        }
        if !mode.create && (v4 || mode.replace) {
            let root = v4 || route.to.prefix_len() == 0;
            let why = if root { "" } else { "Can not replace route - no match found" };
            return Err(Refused::new(Errno::ENOENT, why));
        }
        if self.routes.len() >= MAX_ROUTES {
            return Err(Errno::ENOBUFS.into());
        }
        // IPv4 puts a new one before its equals unless it is appended; IPv6 always behind them.
        let at = if v4 && !mode.append { peers } else { behind };
        self.routes.insert(at, route.clone());
        self.changes.push_back(Change::Route(route));
        Ok(())
    }

    fn replace_route(
        &mut self,
        route: Route,
        peers: std::ops::Range<usize>,
        known: Option<usize>,
    ) -> Result<(), Refused> {
        let at = match known {
            Some(at) if at != peers.start && route.to.addr().is_ipv4() => return Err(Errno::EEXIST.into()),
            Some(at) => at,
            // IPv6 replaces like with like: a gateway's route by a gateway's.
            None if route.to.addr().is_ipv6() => peers
                .clone()
                .find(|at| self.routes[*at].gateway.is_some() == route.gateway.is_some())
                .unwrap_or(peers.start),
            None => peers.start,
        };
        let old = std::mem::replace(&mut self.routes[at], route.clone());
        if old != route {
            if !old.is_same(&route) {
                self.changes.push_back(Change::RouteGone(old));
            }
            self.changes.push_back(Change::Route(route));
        }
        Ok(())
    }

    /// Where routes of a table to a destination are, or would be.
    pub(super) fn range_of(&self, table: u32, to: IpNet) -> std::ops::Range<usize> {
        let start = self.routes.partition_point(|r| order((r.table, r.to), (table, to)) == Ordering::Less);
        let length =
            self.routes[start..].partition_point(|r| order((r.table, r.to), (table, to)) == Ordering::Equal);
        start..start + length
    }

    /// fib_create_info() in net/ipv4/fib_semantics.c
    fn check_v4(&self, route: &mut Route) -> Result<(), Refused> {
        let invalid_scope = Refused::new(Errno::EINVAL, "Invalid scope");
        if route.scope < least_scope(route.kind) {
            return Err(invalid_scope);
        }
        if route.kind.is_refusal() {
            if route.gateway.is_some() || route.link.is_some() {
                let why = "Gateway, device and multipath can not be specified for this route type";
                return Err(Refused::new(Errno::EINVAL, why));
            }
        } else if route.scope > SCOPE_HOST {
            return Err(invalid_scope);
        } else if route.scope == SCOPE_HOST {
            if route.gateway.is_some() {
                return Err(Refused::new(Errno::EINVAL, "Route with host scope can not have a gateway"));
            }
            self.link(route.link.ok_or(Errno::ENODEV)?)?;
        } else {
            match route.gateway {
                Some(IpAddr::V4(gateway)) => self.check_v4_gateway(route, gateway.into())?,
                Some(IpAddr::V6(_)) => self.check_v6_nexthop(route)?,
                None => {
                    if route.flags & NEXTHOP_ONLINK != 0 {
                        let why = "Invalid flags for nexthop - PERVASIVE and ONLINK can not be set";
                        return Err(Refused::new(Errno::EINVAL, why));
                    }
                    if !self.link(route.link.ok_or(Errno::ENODEV)?)?.up {
                        return Err(Refused::new(Errno::ENETDOWN, "Device for nexthop is not up"));
                    }
                }
            }
        }
        if let Some(source) = route.source
            && !(route.kind == RouteKind::Local && IpNet::from(source) == route.to)
            && self.kind_of(source) != Some(RouteKind::Local)
        {
            return Err(Refused::new(Errno::EINVAL, "Invalid prefsrc address"));
        }
        Ok(())
    }

    /// fib_check_nh_v4_gw()
    fn check_v4_gateway(&self, route: &mut Route, gateway: IpAddr) -> Result<(), Refused> {
        if route.flags & NEXTHOP_ONLINK != 0 {
            if route.scope >= SCOPE_LINK {
                return Err(Refused::new(Errno::EINVAL, "Nexthop has invalid scope"));
            }
            let device = route.link.and_then(|link| self.links.get(&link));
            let device =
                device.ok_or_else(|| Refused::new(Errno::ENODEV, "Nexthop device required for onlink"))?;
            if !device.up {
                return Err(Refused::new(Errno::ENETDOWN, "Nexthop device is not up"));
            }
            let group = matches!(gateway, IpAddr::V4(ip) if ip.is_multicast() || ip.is_broadcast());
            if group || !matches!(self.kind_of(gateway), None | Some(RouteKind::Unicast)) {
                return Err(Refused::new(Errno::EINVAL, INVALID_GATEWAY));
            }
            return Ok(());
        }
        let scope = (route.scope + 1).max(SCOPE_LINK);
        let way = self
            .longest_match(gateway, |r| {
                (r.table == TABLE_MAIN || r.table == TABLE_LOCAL || r.table == route.table)
                    && (r.kind.is_refusal() || r.scope >= scope)
                    && (r.kind.is_refusal() || route.link.is_none() || r.link == route.link)
            })
            .ok_or_else(|| Refused::new(Errno::ENETUNREACH, INVALID_GATEWAY))?;
        let errno = match way.kind {
            RouteKind::Unicast | RouteKind::Local => None,
            RouteKind::Unreachable => Some(Errno::EHOSTUNREACH),
            RouteKind::Prohibit => Some(Errno::EACCES),
            _ => Some(Errno::EINVAL),
        };
        if let Some(errno) = errno {
            return Err(Refused::new(errno, INVALID_GATEWAY));
        }
        let device = self.link(way.link.ok_or(Errno::EINVAL)?)?;
        if !device.up {
            return Err(Errno::ENETDOWN.into());
        }
        route.link = Some(device.index);
        Ok(())
    }

    /// ip6_route_info_create() in net/ipv6/route.c
    fn check_v6(&self, route: &mut Route) -> Result<(), Refused> {
        if route.metric == 0 {
            route.metric = METRIC_USER;
        }
        if route.protocol == 0 {
            route.protocol = PROTOCOL_BOOT;
        }
        // IPv6's routes have no scope.
        route.scope = SCOPE_UNIVERSE;
        if route.kind.is_refusal() {
            match route.link {
                Some(link) => {
                    self.link(link)?;
                }
                None if route.flags & NEXTHOP_ONLINK != 0 => {
                    return Err(Refused::new(Errno::ENODEV, "Nexthop device required for onlink"));
                }
                None => {}
            }
            if route.gateway.is_some_and(|gateway| gateway.is_unspecified()) {
                return Err(Refused::new(Errno::EINVAL, "Invalid gateway address"));
            }
            route.link = Some(LOOPBACK);
            route.gateway = None;
        } else {
            if matches!(route.gateway, Some(IpAddr::V4(_))) {
                return Err(Refused::new(Errno::EINVAL, "Invalid address family for nexthop"));
            }
            self.check_v6_nexthop(route)?;
        }
        if let Some(source) = route.source
            && !self.addresses.iter().any(|a| {
                a.net.addr() == source
                    && a.flags & ifa_flags::TENTATIVE == 0
                    && (!source_is_link_local(source) || Some(a.link) == route.link)
            })
        {
            return Err(Refused::new(Errno::EINVAL, "Invalid source address"));
        }
        Ok(())
    }

    /// fib6_nh_init() and ip6_validate_gw() in net/ipv6/route.c
    fn check_v6_nexthop(&self, route: &mut Route) -> Result<(), Refused> {
        let on_link = route.flags & NEXTHOP_ONLINK != 0;
        if let Some(link) = route.link {
            let device = self.link(link)?;
            if on_link && !device.up {
                return Err(Refused::new(Errno::ENETDOWN, "Nexthop device is not up"));
            }
        } else if on_link {
            return Err(Refused::new(Errno::ENODEV, "Nexthop device required for onlink"));
        }
        if let Some(IpAddr::V6(gateway)) = route.gateway {
            let link_local = gateway.is_unicast_link_local();
            let ours = |a: &super::Address| {
                a.net.addr() == IpAddr::V6(gateway) && (!link_local || Some(a.link) == route.link)
            };
            if self.addresses.iter().any(ours) {
                return Err(Refused::new(Errno::EINVAL, "Gateway can not be a local address"));
            }
            if gateway.is_multicast() || gateway.is_unspecified() {
                return Err(Refused::new(Errno::EINVAL, "Invalid gateway address"));
            }
            if !link_local && !on_link {
                let way = self.longest_match(gateway.into(), |r| {
                    (r.table == TABLE_MAIN || r.table == TABLE_LOCAL || r.table == route.table)
                        && (r.kind.is_refusal() || route.link.is_none() || r.link == route.link)
                });
                let way = way.filter(|w| !w.kind.is_refusal() && w.gateway.is_none());
                route.link = Some(way.and_then(|w| w.link).ok_or(Errno::EHOSTUNREACH)?);
            }
            let link =
                route.link.ok_or_else(|| Refused::new(Errno::EINVAL, "Egress device not specified"))?;
            if self.link(link)?.kind == LinkKind::Loopback {
                let why = "Egress device can not be loopback device for this route";
                return Err(Refused::new(Errno::EINVAL, why));
            }
        }
        let device = self.link(route.link.ok_or(Errno::ENODEV)?)?;
        if !device.up {
            return Err(Refused::new(Errno::ENETDOWN, "Nexthop device is not up"));
        }
        Ok(())
    }

    /// The route by which a path goes: for showing, not for sending.
    pub fn rule_for(&self, destination: IpAddr, link: IfIndex, local: bool) -> Option<&Route> {
        let of_link = |r: &Route| (local && r.kind == RouteKind::Local) || r.link == Some(link);
        self.longest_match(destination, |r| (r.table == TABLE_MAIN || r.table == TABLE_LOCAL) && of_link(r))
    }

    /// There is a route in the table.
    pub fn has_table(&self, table: u32) -> bool {
        self.routes.iter().any(|r| r.table == table)
    }

    /// What an address is to this host by its tables (inet_addr_type); `None` if no route says.
    pub(super) fn kind_of(&self, ip: IpAddr) -> Option<RouteKind> {
        self.longest_match(ip, |r| r.table == TABLE_LOCAL).map(|r| r.kind)
    }

    /// The longest prefix that holds `ip` among routes that `wanted` likes; the first of equals.
    pub(super) fn longest_match(&self, ip: IpAddr, wanted: impl Fn(&Route) -> bool) -> Option<&Route> {
        let holds = |r: &&Route| r.to.contains(&ip) && wanted(r);
        self.routes.iter().filter(holds).min_by_key(|r| (Reverse(r.to.prefix_len()), r.metric))
    }
}

/// fib_props[] in net/ipv4/fib_semantics.c: no route of a kind reaches farther than this.
fn least_scope(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Local => SCOPE_HOST,
        RouteKind::Broadcast | RouteKind::Anycast => SCOPE_LINK,
        _ => SCOPE_UNIVERSE,
    }
}

fn source_is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The order of a dump; tables hash by their lowest eight bits (FIB_TABLE_HASHSZ).
pub(super) fn order((table, a): (u32, IpNet), (other_table, b): (u32, IpNet)) -> Ordering {
    let by_table =
        (a.addr().is_ipv6(), table & 0xff, table).cmp(&(b.addr().is_ipv6(), other_table & 0xff, other_table));
    by_table.then_with(|| match (a, b) {
        (IpNet::V6(inner), IpNet::V6(outer)) if inner != outer && outer.contains(&inner) => Ordering::Less,
        (IpNet::V6(outer), IpNet::V6(inner)) if inner != outer && outer.contains(&inner) => Ordering::Greater,
        (IpNet::V4(_), IpNet::V4(_)) => a.addr().cmp(&b.addr()).then(b.prefix_len().cmp(&a.prefix_len())),
        _ => a.addr().cmp(&b.addr()),
    })
}

const _: () = assert!(SCOPE_NOWHERE > SCOPE_HOST);
