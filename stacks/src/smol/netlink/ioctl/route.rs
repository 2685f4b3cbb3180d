//! Routes and neighbours by ioctl: `struct rtentry`, `struct in6_rtmsg`, `struct arpreq`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use super::text;
use crate::config::Mac;
use crate::smol::net::Wish;
use crate::smol::netlink::World;
use crate::smol::netlink::wire::{u16_at, u32_at};
use crate::smol::tables::{
    IfIndex, Mode, Nud, PROTOCOL_BOOT, Refused, Route, RouteKind, RouteMatch, SCOPE_HOST, SCOPE_LINK,
    SCOPE_UNIVERSE, TABLE_MAIN, Tables,
};

/// Length of `struct rtentry`, with a pointer at byte 88 to what is behind it here.
const RTENTRY: usize = 120;
/// Length of `struct in6_rtmsg`.
const IN6_RTMSG: usize = 80;
/// Length of `struct arpreq`.
const ARPREQ: usize = 68;
/// RTF_GATEWAY, RTF_HOST, RTF_MTU, RTF_REJECT
const GATEWAY: u32 = 0x2;
const HOST: u32 = 0x4;
const MTU: u32 = 0x40;
const REJECT: u32 = 0x200;
/// ATF_COM, ATF_PERM, ATF_PUBL, ATF_NETMASK, ATF_DONTPUB
const COMPLETE: u32 = 0x02;
const PERMANENT: u32 = 0x04;
const PUBLISH: u32 = 0x08;
const ODD: u32 = 0x20 | 0x40;

/// A request may name what is there already, but not twice.
const CREATE: Mode = Mode { create: true, exclusive: false, replace: false, append: false };

/// SIOCADDRT, SIOCDELRT (net/ipv4/fib_frontend.c, rtentry_to_fib_config).
pub(super) fn change_v4(add: bool, argument: &[u8], tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let entry = argument.get(..RTENTRY).ok_or(Errno::EFAULT)?;
    let flags = u32::from(u16_at(entry, 56).unwrap_or_default());
    let address = |at: usize| (u16_at(entry, at).unwrap_or_default(), ip_at(entry, at + 4));
    let (family, to) = address(8);
    if i32::from(family) != libc::AF_INET {
        return Err(Errno::EAFNOSUPPORT);
    }
    let to = if flags & HOST != 0 {
        Ipv4Net::new_assert(to, 32)
    } else {
        let (family, mask) = address(40);
        if i32::from(family) != libc::AF_INET && (family != 0 || !mask.is_unspecified()) {
            return Err(Errno::EAFNOSUPPORT);
        }
        Ipv4Net::with_netmask(to, mask).map_err(|_| Errno::EINVAL)?
    };
    if to.trunc() != to {
        return Err(Errno::EINVAL);
    }
    let device = text(&argument[RTENTRY..])?.split(':').next().unwrap_or_default();
    let link = match device {
        "" => None,
        name => Some(tables.link_by_name(name).ok_or(Errno::ENODEV)?.index),
    };
    let (family, gateway) = address(24);
    let gateway = (i32::from(family) == libc::AF_INET && !gateway.is_unspecified()).then_some(gateway);
    let gateway = gateway.map(IpAddr::from);
    // The metric is one more than meant, so that 0 means none.
    let metric = u16_at(entry, 80).filter(|metric| *metric != 0).map(|metric| u32::from(metric) - 1);
    let refusal = flags & REJECT != 0;
    if !add {
        let which = match refusal {
            true => RouteMatch { kind: Some(RouteKind::Unreachable), metric, ..RouteMatch::new(to.into()) },
            false => RouteMatch { link, gateway, metric, ..RouteMatch::new(to.into()) },
        };
        return done(tables.remove_route(&which));
    }
    if flags & GATEWAY != 0 && gateway.is_none() {
        return Err(Errno::EINVAL);
    }
    let route = Route {
        to: to.into(),
        gateway: gateway.filter(|_| !refusal),
        link: link.filter(|_| !refusal),
        source: None,
        metric: metric.unwrap_or_default(),
        table: TABLE_MAIN,
        kind: if refusal { RouteKind::Unreachable } else { RouteKind::Unicast },
        scope: match gateway {
            _ if refusal => SCOPE_HOST,
            Some(_) => SCOPE_UNIVERSE,
            None => SCOPE_LINK,
        },
        protocol: PROTOCOL_BOOT,
        flags: 0,
        // The first half of a long word on a machine that writes the small end first.
        mtu: if flags & MTU != 0 { u32_at(entry, 96) } else { None },
        expires: None,
    };
    done(tables.add_route(route, CREATE))
}

/// SIOCADDRT, SIOCDELRT of IPv6 (net/ipv6/route.c, rtmsg_to_fib6_config).
pub(super) fn change_v6(add: bool, argument: &[u8], tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let entry = argument.get(..IN6_RTMSG).ok_or(Errno::EFAULT)?;
    let address = |at: usize| {
        let octets: [u8; 16] = entry[at..at + 16].try_into().expect("sixteen bytes");
        Ipv6Addr::from(octets)
    };
    let word = |at| u32_at(entry, at).unwrap_or_default();
    let length = u16_at(entry, 52).and_then(|length| u8::try_from(length).ok()).ok_or(Errno::EINVAL)?;
    let to = IpNet::new(address(0).into(), length).map_err(|_| Errno::EINVAL)?;
    let flags = word(72);
    let gateway = (flags & GATEWAY != 0).then(|| IpAddr::from(address(32)));
    let link = (word(76) != 0).then_some(IfIndex(word(76)));
    if !add {
        let metric = Some(word(56)).filter(|metric| *metric != 0);
        let which = RouteMatch { link, gateway, metric, ..RouteMatch::new(to) };
        return done(tables.remove_route(&which));
    }
    let refusal = flags & REJECT != 0;
    let route = Route {
        to,
        gateway,
        link,
        source: None,
        metric: word(56),
        table: TABLE_MAIN,
        kind: if refusal { RouteKind::Unreachable } else { RouteKind::Unicast },
        scope: SCOPE_UNIVERSE,
        protocol: PROTOCOL_BOOT,
        flags: 0,
        mtu: None,
        expires: None,
    };
    done(tables.add_route(route, CREATE))
}

/// SIOCGARP
pub(super) fn neighbour(argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let (ip, flags, link) = arpreq(argument, tables)?;
    let link = link.ok_or(Errno::ENODEV)?;
    let neighbour = tables.neighbours.get(&(link, ip)).ok_or(Errno::ENXIO)?;
    let mut answer = argument[..ARPREQ].to_vec();
    answer[16..32].fill(0);
    answer[16..18].copy_from_slice(&libc::ARPHRD_ETHER.to_ne_bytes());
    if let Some(mac) = neighbour.mac {
        answer[18..24].copy_from_slice(&mac.0);
    }
    let known = match neighbour.state {
        Nud::Permanent => COMPLETE | PERMANENT,
        state if state.is_valid() => COMPLETE,
        _ => 0,
    };
    let flags = flags & !(COMPLETE | PERMANENT) | known;
    answer[32..36].copy_from_slice(&flags.to_ne_bytes());
    Ok(answer)
}

/// SIOCSARP, SIOCDARP
pub(super) fn change_neighbour(
    add: bool,
    argument: &[u8],
    world: &mut dyn World,
    now: Instant,
) -> Result<Vec<u8>, Errno> {
    let (ip, flags, link) = arpreq(argument, world.tables())?;
    // No entry is answered for to others.
    if flags & PUBLISH != 0 {
        return Err(if add { Errno::EOPNOTSUPP } else { Errno::ENXIO });
    }
    let link = match link {
        Some(link) => link,
        None => world.route(ip, &Wish::default())?.link,
    };
    let tables = world.tables_mut();
    if !add {
        return done(tables.remove_neighbour(link, ip)).map_err(|e| match e {
            Errno::ENOENT => Errno::ENXIO,
            e => e,
        });
    }
    let kind = u16_at(argument, 16).unwrap_or_default();
    if kind != 0 && kind != libc::ARPHRD_ETHER {
        return Err(Errno::EINVAL);
    }
    let mac = Mac(argument[18..24].try_into().expect("six bytes"));
    let state = if flags & PERMANENT != 0 { Nud::Permanent } else { Nud::Stale };
    done(tables.add_neighbour(now, link, ip, Some(mac), state, false, Mode::REPLACE))
}

/// Address, flags and interface of `struct arpreq` (net/ipv4/arp.c, arp_ioctl).
fn arpreq(argument: &[u8], tables: &Tables) -> Result<(IpAddr, u32, Option<IfIndex>), Errno> {
    let request = argument.get(..ARPREQ).ok_or(Errno::EFAULT)?;
    if u16_at(request, 0) != Some(libc::AF_INET as u16) {
        return Err(Errno::EPFNOSUPPORT);
    }
    let flags = u32_at(request, 32).unwrap_or_default();
    if flags & PUBLISH == 0 && flags & ODD != 0 {
        return Err(Errno::EINVAL);
    }
    let link = match text(&request[52..])? {
        "" => None,
        name => Some(tables.link_by_name(name).ok_or(Errno::ENODEV)?.index),
    };
    Ok((ip_at(request, 4).into(), flags, link))
}

fn ip_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    let octets: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
    octets.into()
}

fn done(result: Result<(), Refused>) -> Result<Vec<u8>, Errno> {
    result.map(|()| Vec::new()).map_err(|refused| refused.errno)
}
