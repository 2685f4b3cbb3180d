//! What `ip monitor` sees: a change of the tables as a message for a group.

use std::net::IpAddr;
use std::time::Instant;

use libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE,
};

use super::super::Notice;
use super::super::wire::Header;
use super::{address, link, neighbour, routes};
use crate::smol::tables::{Change, Tables};

/// RTNLGRP_*
const GROUP_LINK: u32 = 1;
const GROUP_NEIGH: u32 = 3;
const GROUP_IPV4_IFADDR: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV6_IFADDR: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;

/// The message that tells a change of the tables; `None` if what changed is gone meanwhile. Make it only if
/// some socket listens ([`Socket::listens`](super::super::Socket::listens)).
pub fn notice(change: &Change, tables: &Tables, now: Instant) -> Option<Notice> {
    let header = |kind| Header { kind, flags: 0, sequence: 0, port: 0 };
    let by_family = |ip: IpAddr, v4, v6| if ip.is_ipv4() { v4 } else { v6 };
    let (group, message) = match change {
        Change::Link(index) => {
            let changed = tables.links.get(index)?;
            (GROUP_LINK, link::message(changed, tables, header(RTM_NEWLINK)))
        }
        Change::LinkGone(gone) => (GROUP_LINK, link::message(gone, tables, header(RTM_DELLINK))),
        Change::Address(new) | Change::AddressGone(new) => {
            let kind = if matches!(change, Change::Address(_)) { RTM_NEWADDR } else { RTM_DELADDR };
            let group = by_family(new.net.addr(), GROUP_IPV4_IFADDR, GROUP_IPV6_IFADDR);
            (group, address::message(new, now, header(kind)))
        }
        Change::Route(route) | Change::RouteGone(route) => {
            let kind = if matches!(change, Change::Route(_)) { RTM_NEWROUTE } else { RTM_DELROUTE };
            let group = by_family(route.to.addr(), GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE);
            (group, routes::message(route, tables, now, header(kind)))
        }
        Change::Neighbour(on, ip, one) | Change::NeighbourGone(on, ip, one) => {
            let kind = if matches!(change, Change::Neighbour(..)) { RTM_NEWNEIGH } else { RTM_DELNEIGH };
            (GROUP_NEIGH, neighbour::message(*on, *ip, one, now, header(kind)))
        }
    };
    Some(Notice { group, message })
}
