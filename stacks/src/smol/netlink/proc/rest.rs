//! Routes of IPv6, sockets that have no ports, and who takes which packets: `ipv6_route`, `packet`, `netlink`, `ptype`
//! (net/ipv6/route.c, net/packet/af_packet.c, net/netlink/af_netlink.c, net/core/net-procfs.c).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{Holder, Stack};
use crate::smol::tables::{RouteKind, Tables};

/// RTF_* (linux/route.h, linux/ipv6_route.h).
const UP: u32 = 1;
const GATEWAY: u32 = 2;
const HOST: u32 = 4;
const REJECT: u32 = 0x200;
const ANYCAST: u32 = 0x10_0000;
const NO_NEXT_HOP: u32 = 0x20_0000;
const LOCAL: u32 = 0x8000_0000;

pub(super) fn ipv6_route(tables: &Tables) -> String {
    let mut text = String::new();
    let mut line = |to: (Ipv6Addr, u8), gateway: Ipv6Addr, (metric, flags): (u32, u32), name: &str| {
        let digits = |address: Ipv6Addr| format!("{:032x}", u128::from(address));
        let _ = writeln!(
            text,
            "{} {:02x} {:032x} 00 {} {metric:08x} 00000001 00000000 {flags:08x} {name:>8}",
            digits(to.0),
            to.1,
            0,
            digits(gateway)
        );
    };
    for route in &tables.routes {
        let IpNet::V6(to) = route.to else { continue };
        let (gateway, via) = match route.gateway {
            Some(IpAddr::V6(gateway)) => (gateway, GATEWAY),
            _ => (Ipv6Addr::UNSPECIFIED, 0),
        };
        let host = if to.prefix_len() == 128 && route.kind == RouteKind::Unicast { HOST } else { 0 };
        let kind = match route.kind {
            RouteKind::Local => LOCAL | NO_NEXT_HOP,
            RouteKind::Anycast => ANYCAST | NO_NEXT_HOP,
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => REJECT,
            RouteKind::Unicast | RouteKind::Broadcast | RouteKind::Multicast => 0,
        };
        let name = route.link.and_then(|link| tables.link(link).ok()).map_or("lo", |link| link.name.as_str());
        line((to.network(), to.prefix_len()), gateway, (route.metric, UP | via | host | kind), name);
    }
    // Where nothing else leads to.
    line((Ipv6Addr::UNSPECIFIED, 0), Ipv6Addr::UNSPECIFIED, (u32::MAX, REJECT | NO_NEXT_HOP), "lo");
    text
}

pub(super) fn packet(stack: &dyn Stack) -> String {
    let mut text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n".to_owned();
    for holder in stack.holders(libc::AF_PACKET) {
        let Holder { kind, protocol, link, queued, uid, inode, .. } = holder;
        let runs = u8::from(protocol != 0);
        let _ = writeln!(
            text,
            "{:016} {:<6} {kind:<4} {protocol:04x}   {link:<5} {runs} {queued:<6} {uid:<6} {inode:<6}",
            0, 3
        );
    }
    text
}

pub(super) fn netlink(stack: &dyn Stack) -> String {
    let mut text =
        "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
            .to_owned();
    for holder in stack.holders(libc::AF_NETLINK) {
        let Holder { protocol, port, groups, queued, dumps, inode, .. } = holder;
        let _ = writeln!(
            text,
            "{:016} {protocol:<3} {port:<10} {groups:08x} {queued:<8} {:<8} {:<5} {:<8} {:<8} {inode:<8}",
            0,
            0,
            u8::from(dumps),
            2,
            0
        );
    }
    text
}

pub(super) fn ptype(stack: &dyn Stack) -> String {
    let mut text = "Type Device      Function\n".to_owned();
    let mut holders = stack.holders(libc::AF_PACKET);
    // Those of one interface are in a list of its own, which is not shown.
    holders.retain(|holder| holder.protocol != 0 && holder.link == 0);
    holders.sort_by_key(|holder| holder.protocol != libc::ETH_P_ALL as u16);
    for Holder { protocol, .. } in holders {
        let kind =
            if i32::from(protocol) == libc::ETH_P_ALL { "ALL ".into() } else { format!("{protocol:04x}") };
        let _ = writeln!(text, "{kind}          packet_rcv");
    }
    text + "0800          ip_rcv\n0806          arp_rcv\n86dd          ipv6_rcv\n"
}
