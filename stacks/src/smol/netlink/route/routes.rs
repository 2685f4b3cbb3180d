//! Routes: RTM_GETROUTE, NEWROUTE, DELROUTE (`struct rtmsg`, linux/rtnetlink.h).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use libc::{
    RTA_CACHEINFO, RTA_DST, RTA_GATEWAY, RTA_IIF, RTA_METRICS, RTA_MULTIPATH, RTA_OIF, RTA_PREFSRC,
    RTA_PRIORITY, RTA_SRC, RTA_TABLE, RTM_NEWROUTE,
};
use nix::errno::Errno;

use super::super::World;
use super::super::reply::{Answer, Answered, Asked, List, Sink, fill_from};
use super::super::wire::{Attributes, Header, Iter, Message, u16_at, u32_at};
use super::{family, fixed, index, is_v4, wants};
use crate::smol::net::Wish;
use crate::smol::tables::{
    IfIndex, Mode, NEXTHOP_ONLINK, Refused, Route, RouteKind, RouteMatch, SCOPE_HOST, SCOPE_NOWHERE,
    TABLE_LOCAL, TABLE_MAIN, Tables,
};

/// Length of `struct rtmsg`.
const MESSAGE: usize = 12;
const RTA_VIA: u16 = 18;
const RTA_PREF: u16 = 20;
const RTA_ENCAP: u16 = 22;
const RTA_EXPIRES: u16 = 23;
const RTA_UID: u16 = 25;
const RTA_NH_ID: u16 = 30;
/// RTAX_MTU, the only metric that is kept.
const RTAX_MTU: u16 = 2;
/// RT_TABLE_COMPAT: the table's number does not fit its byte and is in RTA_TABLE.
const TABLE_COMPAT: u8 = 252;
/// RTNH_F_DEAD, RTNH_F_LINKDOWN
const NEXTHOP_DEAD: u32 = 1;
const NEXTHOP_LINKDOWN: u32 = 16;
/// RTM_F_CLONED: learned for one destination. RTM_F_FIB_MATCH: answer a lookup with the route.
const FLAG_CLONED: u32 = 0x200;
const FLAG_FIB_MATCH: u32 = 0x2000;
/// RTCF_LOCAL, RTCF_BROADCAST, RTCF_MULTICAST: what a lookup found (linux/in_route.h).
const FOUND_LOCAL: u32 = 0x8000_0000;
const FOUND_BROADCAST: u32 = 0x1000_0000;
const FOUND_MULTICAST: u32 = 0x2000_0000;
/// RTN_*
const KINDS: [(RouteKind, u8); 8] = [
    (RouteKind::Unicast, 1),
    (RouteKind::Local, 2),
    (RouteKind::Broadcast, 3),
    (RouteKind::Anycast, 4),
    (RouteKind::Multicast, 5),
    (RouteKind::Blackhole, 6),
    (RouteKind::Unreachable, 7),
    (RouteKind::Prohibit, 8),
];
/// RTN_MAX
const MAX_KIND: u8 = 11;

/// The routes that a dump asked for.
#[derive(Debug, Default)]
struct Routes {
    family: u8,
    table: Option<u32>,
    link: Option<IfIndex>,
    kind: Option<RouteKind>,
    protocol: Option<u8>,
}

impl List for Routes {
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        now: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let header = Header { kind: RTM_NEWROUTE, ..header };
        fill_from(world.tables().routes.iter(), from, sink, |route| {
            let fits = wants(self.family, route.to.addr())
                && self.table.is_none_or(|table| table == route.table)
                && self.link.is_none_or(|link| Some(link) == route.link)
                && self.kind.is_none_or(|kind| kind == route.kind)
                && self.protocol.is_none_or(|protocol| protocol == route.protocol);
            fits.then(|| message(route, world.tables(), now, header))
        })
    }
}

/// `ip route show`
pub(super) fn list(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let payload = asked.request.payload;
    let mut routes = Routes { family: payload[0], ..Routes::default() };
    // A cache of routes, and of prefixes, is not kept.
    if u32_at(payload, 8).is_some_and(|flags| flags & FLAG_CLONED != 0) {
        return Ok(Answer::Dump(Box::new(super::Empty)));
    }
    if asked.strict {
        let fixed = fixed(asked, MESSAGE)?;
        let attributes = Attributes::behind(payload, MESSAGE);
        let table = attributes.u32(RTA_TABLE)?.unwrap_or_else(|| fixed[4].into());
        routes.table = (table != 0).then_some(table);
        routes.protocol = (fixed[5] != 0).then_some(fixed[5]);
        routes.kind = KINDS.iter().find(|(_, number)| *number == fixed[7]).map(|(kind, _)| *kind);
        routes.link = attributes.u32(RTA_OIF)?.and_then(index);
        if let Some(link) = routes.link {
            world.tables().link(link)?;
        }
        let known = |table| table == TABLE_MAIN || table == TABLE_LOCAL || world.tables().has_table(table);
        if routes.table.is_some_and(|table| !known(table)) {
            return match i32::from(routes.family) {
                libc::AF_INET => Err(Refused::new(Errno::ENOENT, "ipv4: FIB table does not exist")),
                libc::AF_INET6 => Err(Refused::new(Errno::ENOENT, "ipv6: FIB table does not exist")),
                _ => Ok(Answer::Dump(Box::new(super::Empty))),
            };
        }
    }
    Ok(Answer::Dump(Box::new(routes)))
}

/// `ip route get`
pub(super) fn get(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let fixed = fixed(asked, MESSAGE)?;
    let v4 = is_v4(fixed[0])?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    if attributes.has(RTA_IIF) {
        return Err(Refused::new(Errno::EOPNOTSUPP, "lookups for packets that arrive are not supported"));
    }
    let any = if v4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    let destination = attributes.ip(RTA_DST, v4)?.unwrap_or(any);
    let source = attributes.ip(RTA_SRC, v4)?.filter(|source| !source.is_unspecified());
    let link = attributes.u32(RTA_OIF)?.and_then(index);
    let path = world.route(destination, &Wish { source, link, on_link: false })?;

    let flags = u32_at(fixed, 8).unwrap_or_default();
    let rule = world.tables().rule_for(destination, path.link, path.local);
    let header = asked.header(RTM_NEWROUTE);
    if let Some(rule) = rule.filter(|_| flags & FLAG_FIB_MATCH != 0) {
        return Ok(Answer::Message(message(rule, world.tables(), asked.now, header)));
    }
    let kind = match destination {
        _ if path.local => RouteKind::Local,
        ip if ip.is_multicast() => RouteKind::Multicast,
        _ if path.group => RouteKind::Broadcast,
        _ => RouteKind::Unicast,
    };
    let found = Route {
        to: IpNet::from(destination),
        gateway: Some(path.next_hop).filter(|hop| *hop != destination && !path.local),
        link: Some(if path.local { crate::smol::tables::LOOPBACK } else { path.link }),
        source: Some(path.source),
        metric: rule.map_or(0, |rule| rule.metric),
        // IPv4's local table is part of the main one until there are rules (fib_trie_table).
        table: rule.filter(|_| !v4).map_or(TABLE_MAIN, |rule| rule.table),
        kind,
        scope: 0,
        protocol: rule.filter(|_| !v4).map_or(0, |rule| rule.protocol),
        flags: if v4 { FLAG_CLONED | found_flag(kind) } else { 0 },
        mtu: rule.and_then(|rule| rule.mtu),
        expires: None,
    };
    // IPv6 repeats the source that was asked for, even if it is none.
    let source = source.or_else(|| (!v4).then_some(any));
    let mut message = start(&found, source, world.tables(), asked.now, header);
    if v4 {
        message.u32(RTA_UID, 0).attribute(RTA_CACHEINFO, &[0; 32]);
    }
    Ok(Answer::Message(message.finish()))
}

fn found_flag(kind: RouteKind) -> u32 {
    match kind {
        RouteKind::Local => FOUND_LOCAL,
        RouteKind::Broadcast => FOUND_LOCAL | FOUND_BROADCAST,
        RouteKind::Multicast => FOUND_MULTICAST,
        _ => 0,
    }
}

/// `ip route add`, `append`, `change`, `replace`
pub(super) fn new(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    if fixed[7] > MAX_KIND {
        return Err(Refused::new(Errno::EINVAL, "Invalid route type"));
    }
    let (v4, to) = destination(fixed, &attributes)?;
    if v4 && to.trunc() != to {
        return Err(Refused::new(Errno::EINVAL, "Invalid prefix for given prefix length"));
    }
    for (kind, why) in [
        (RTA_MULTIPATH, "routes of several paths are not supported"),
        (RTA_ENCAP, "encapsulation is not supported"),
        (RTA_NH_ID, "next hop objects are not supported"),
    ] {
        if attributes.has(kind) {
            return Err(Refused::new(Errno::EOPNOTSUPP, why));
        }
    }
    if fixed[3] != 0 && v4 {
        return Err(Refused::new(Errno::EOPNOTSUPP, "routes by type of service are not supported"));
    }
    let number = if fixed[7] == 0 && !v4 { 1 } else { fixed[7] };
    let kind = KINDS.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind);
    let kind = kind.ok_or_else(|| match number {
        0 => Refused::new(Errno::EINVAL, "Invalid scope"),
        MAX_KIND => Refused::new(Errno::EINVAL, "Invalid route type"),
        _ => Errno::EOPNOTSUPP.into(),
    })?;
    let flags = u32_at(fixed, 8).unwrap_or_default();
    if flags & (NEXTHOP_DEAD | NEXTHOP_LINKDOWN) != 0 {
        let why = "Invalid rtm_flags - can not contain DEAD or LINKDOWN";
        return Err(Refused::new(Errno::EINVAL, why));
    }
    let expires = attributes.u32(RTA_EXPIRES)?.filter(|_| !v4);
    let route = Route {
        to,
        gateway: gateway(&attributes, v4)?,
        link: attributes.u32(RTA_OIF)?.and_then(index),
        source: attributes.ip(RTA_PREFSRC, v4)?.filter(|source| !source.is_unspecified()),
        metric: attributes.u32(RTA_PRIORITY)?.unwrap_or_default(),
        table: table(fixed, &attributes)?,
        kind,
        scope: fixed[6],
        protocol: fixed[5],
        flags: flags & NEXTHOP_ONLINK,
        mtu: mtu(&attributes)?,
        expires: expires.map(|seconds| asked.now + Duration::from_secs(seconds.into())),
    };
    tables.add_route(route, Mode::of(asked))
}

/// `ip route delete`
pub(super) fn delete(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    let (v4, to) = destination(fixed, &attributes)?;
    let kind = KINDS.iter().find(|(_, number)| *number == fixed[7]).map(|(kind, _)| *kind);
    tables.remove_route(&RouteMatch {
        to,
        table: table(fixed, &attributes)?,
        kind: kind.filter(|_| v4),
        scope: (fixed[6] != SCOPE_NOWHERE).then_some(fixed[6]),
        source: attributes.ip(RTA_PREFSRC, v4)?,
        protocol: (fixed[5] != 0).then_some(fixed[5]),
        link: attributes.u32(RTA_OIF)?.and_then(index),
        gateway: gateway(&attributes, v4)?,
        metric: attributes.u32(RTA_PRIORITY)?.filter(|metric| *metric != 0),
    })
}

fn destination(fixed: &[u8], attributes: &Attributes<'_>) -> Result<(bool, IpNet), Refused> {
    let v4 = is_v4(fixed[0])?;
    if fixed[2] != 0 || attributes.has(RTA_SRC) {
        let why = "Specifying source address requires IPV6_SUBTREES to be enabled";
        return Err(Refused::new(Errno::EINVAL, why));
    }
    let any = if v4 { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u8; 16]) };
    // IPv6's may be cut behind the prefix.
    let to = match attributes.get(RTA_DST) {
        Some(value) if !v4 => {
            let mut octets = [0; 16];
            let length = usize::from(fixed[1]).div_ceil(8).min(16);
            if value.len() < length {
                return Err(Errno::EINVAL.into());
            }
            let length = value.len().min(16);
            octets[..length].copy_from_slice(&value[..length]);
            IpAddr::from(octets)
        }
        _ => attributes.ip(RTA_DST, v4)?.unwrap_or(any),
    };
    let invalid = |_| Refused::new(Errno::EINVAL, "Invalid prefix length");
    Ok((v4, IpNet::new(to, fixed[1]).map_err(invalid)?))
}

fn table(fixed: &[u8], attributes: &Attributes<'_>) -> Result<u32, Refused> {
    Ok(attributes.u32(RTA_TABLE)?.unwrap_or_else(|| fixed[4].into()))
}

fn gateway(attributes: &Attributes<'_>, v4: bool) -> Result<Option<IpAddr>, Refused> {
    // IPv4 takes 0.0.0.0 for none, IPv6 looks at what it is given.
    let gateway = attributes.ip(RTA_GATEWAY, v4)?.filter(|gateway| !v4 || !gateway.is_unspecified());
    let Some(via) = attributes.get(RTA_VIA) else { return Ok(gateway) };
    if gateway.is_some() {
        let why = "Nexthop configuration can not contain both GATEWAY and VIA";
        return Err(Refused::new(Errno::EINVAL, why));
    }
    if !v4 {
        return Err(Refused::new(Errno::EINVAL, "IPv6 does not support RTA_VIA attribute"));
    }
    let wrong = Refused::new(Errno::EINVAL, "Invalid address length in RTA_VIA");
    let (family, octets) = (u16_at(via, 0), via.get(2..).unwrap_or_default());
    match family.map(i32::from) {
        Some(libc::AF_INET) => Ok(Some(<[u8; 4]>::try_from(octets).map_err(|_| wrong)?.into())),
        Some(libc::AF_INET6) => Ok(Some(<[u8; 16]>::try_from(octets).map_err(|_| wrong)?.into())),
        _ => Err(Refused::new(Errno::EINVAL, "Unsupported address family in RTA_VIA")),
    }
}

/// RTAX_MTU; the other metrics are refused rather than ignored.
fn mtu(attributes: &Attributes<'_>) -> Result<Option<u32>, Refused> {
    let mut mtu = None;
    for (kind, value) in Iter(attributes.get(RTA_METRICS).unwrap_or_default()) {
        match kind {
            RTAX_MTU => mtu = Some(u32_at(value, 0).ok_or(Errno::ERANGE)?),
            // RTAX_LOCK: which of them path MTU discovery must not change.
            1 => {}
            _ => {
                return Err(Refused::new(
                    Errno::EOPNOTSUPP,
                    "of a route's metrics only the MTU is supported",
                ));
            }
        }
    }
    Ok(mtu)
}

/// A route as fib_dump_info() and rt6_fill_node() tell it.
pub(super) fn message(route: &Route, tables: &Tables, now: Instant, header: Header) -> Vec<u8> {
    start(route, None, tables, now, header).finish()
}

/// A route's message without an end; `from` is the source of which it speaks, if of one.
fn start(route: &Route, from: Option<IpAddr>, tables: &Tables, now: Instant, header: Header) -> Message {
    let to = route.to.addr();
    let v4 = to.is_ipv4();
    let number = KINDS.iter().find(|(kind, _)| *kind == route.kind).map_or(0, |(_, number)| *number);
    let table = u8::try_from(route.table).unwrap_or(TABLE_COMPAT);
    let mut message = Message::new(header);
    let from_length = from.map_or(0, |_| to_bits(to));
    message.raw(&[
        family(to),
        route.to.prefix_len(),
        from_length,
        0,
        table,
        route.protocol,
        route.scope,
        number,
    ]);
    message.raw(&(route.flags | link_down(route, tables)).to_ne_bytes());
    message.u32(RTA_TABLE, route.table);
    if route.to.prefix_len() > 0 {
        message.ip(RTA_DST, to);
    }
    if let Some(from) = from {
        message.ip(RTA_SRC, from);
    }
    if route.metric != 0 || !v4 {
        message.u32(RTA_PRIORITY, route.metric);
    }
    if let Some(mtu) = route.mtu {
        message.nest(RTA_METRICS, |metrics| {
            metrics.u32(RTAX_MTU, mtu);
        });
    }
    if let Some(source) = route.source {
        message.ip(RTA_PREFSRC, source);
    }
    match route.gateway {
        Some(IpAddr::V6(via)) if v4 => {
            let mut value = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            value.extend_from_slice(&via.octets());
            message.attribute(RTA_VIA, &value);
        }
        Some(gateway) => {
            message.ip(RTA_GATEWAY, gateway);
        }
        None => {}
    }
    if let Some(link) = route.link {
        message.u32(RTA_OIF, link.0);
    }
    if !v4 {
        let left = route.expires.map_or(0, |until| until.saturating_duration_since(now).as_millis() / 10);
        // `struct rta_cacheinfo`: references, last use, expiry in hundredths of a second, error, used …
        let mut cache = [0; 32];
        cache[8..12].copy_from_slice(&i32::try_from(left).unwrap_or(i32::MAX).to_ne_bytes());
        message.attribute(RTA_CACHEINFO, &cache).u8(RTA_PREF, 0);
    }
    message
}

/// Bits of an address.
fn to_bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// RTNH_F_LINKDOWN: there is nothing at the other end.
fn link_down(route: &Route, tables: &Tables) -> u32 {
    let reaches_out = route.kind != RouteKind::Local && route.scope != SCOPE_HOST;
    let link = route.link.and_then(|link| tables.links.get(&link));
    if reaches_out && link.is_some_and(|link| link.up && !link.carrier) { NEXTHOP_LINKDOWN } else { 0 }
}
