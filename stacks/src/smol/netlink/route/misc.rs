//! What can be looked at and not changed: rules, address labels, settings, queues, namespaces.

use std::net::Ipv6Addr;
use std::time::Instant;

use libc::{RTM_NEWADDRLABEL, RTM_NEWQDISC, RTM_NEWRULE};

use super::super::World;
use super::super::reply::{Answer, Asked, List, Sink, fill_from};
use super::super::wire::{Header, Message};
use super::{RTM_NEWNETCONF, RTM_NEWNSID};
use crate::smol::tables::{IfIndex, PROTOCOL_KERNEL, TABLE_LOCAL, TABLE_MAIN};

/// RT_TABLE_DEFAULT
const TABLE_DEFAULT: u32 = 253;
/// FR_ACT_TO_TBL
const ACTION_TABLE: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
/// IFAL_ADDRESS, IFAL_LABEL
const IFAL_ADDRESS: u16 = 1;
const IFAL_LABEL: u16 = 2;
/// NETCONFA_*
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_MC_FORWARDING: u16 = 4;
const NETCONFA_PROXY_NEIGH: u16 = 5;
const NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN: u16 = 6;
/// NETCONFA_IFINDEX_ALL, NETCONFA_IFINDEX_DEFAULT
const ALL_AND_DEFAULT: [i32; 2] = [-1, -2];
/// TCA_KIND
const TCA_KIND: u16 = 1;
/// TC_H_ROOT
const ROOT: u32 = u32::MAX;
/// NETNSA_NSID
const NETNSA_NSID: u16 = 1;

const V4: u8 = libc::AF_INET as u8;
const V6: u8 = libc::AF_INET6 as u8;

/// The rules a network namespace is born with; IPv6 has no default table.
const RULES: [(u8, u32, u32); 5] = [
    (V4, TABLE_LOCAL, 0),
    (V4, TABLE_MAIN, 32_766),
    (V4, TABLE_DEFAULT, 32_767),
    (V6, TABLE_LOCAL, 0),
    (V6, TABLE_MAIN, 32_766),
];

/// net/ipv6/addrlabel.c, ip6addrlbl_init_table[]: RFC 6724 clause 2.1 and two historic ones.
const LABELS: [(Ipv6Addr, u8, u32); 10] = [
    (Ipv6Addr::LOCALHOST, 128, 0),
    (Ipv6Addr::UNSPECIFIED, 96, 3),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 4),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 6),
    (Ipv6Addr::new(0x2001, 0x10, 0, 0, 0, 0, 0, 0), 28, 7),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 12),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 11),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 5),
    (Ipv6Addr::UNSPECIFIED, 0, 1),
];

/// The lists of this file, with the family that was asked for.
#[derive(Debug)]
enum Fixed {
    Rules(u8),
    Labels,
    Configurations(u8),
    Disciplines,
}

pub(super) fn rules(family: u8) -> Answer {
    Answer::Dump(Box::new(Fixed::Rules(family)))
}

pub(super) fn labels() -> Answer {
    Answer::Dump(Box::new(Fixed::Labels))
}

pub(super) fn configurations(family: u8) -> Answer {
    Answer::Dump(Box::new(Fixed::Configurations(family)))
}

pub(super) fn disciplines() -> Answer {
    Answer::Dump(Box::new(Fixed::Disciplines))
}

/// No network namespace has a number here.
pub(super) fn namespace_id(asked: &Asked<'_>) -> Answer {
    let mut message = Message::new(asked.header(RTM_NEWNSID));
    message.raw(&[0; 4]).attribute(NETNSA_NSID, &(-1i32).to_ne_bytes());
    Answer::Message(message.finish())
}

impl List for Fixed {
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        _: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let wanted = |family: u8, one: u8| family == 0 || (family != V4 && family != V6) || family == one;
        match self {
            Self::Rules(family) => {
                let rules = RULES.iter().filter(|(one, ..)| wanted(*family, *one));
                fill_from(rules, from, sink, |rule| Some(rule_message(*rule, header)))
            }
            Self::Labels => fill_from(LABELS.iter(), from, sink, |label| Some(label_message(*label, header))),
            Self::Configurations(family) => {
                let links: Vec<i32> =
                    world.tables().links.keys().map(|link| link.0 as i32).chain(ALL_AND_DEFAULT).collect();
                let both = [V4, V6].into_iter().filter(|one| wanted(*family, *one));
                let all = both.flat_map(|one| links.iter().map(move |link| (one, *link)));
                let forwarding = world.tables().forwarding;
                fill_from(all, from, sink, |one| Some(configuration_message(one, forwarding, header)))
            }
            Self::Disciplines => {
                let links = world.tables().links.values().filter(|link| link.up);
                fill_from(links, from, sink, |link| Some(discipline_message(link.index, header)))
            }
        }
    }
}

fn rule_message((family, table, priority): (u8, u32, u32), header: Header) -> Vec<u8> {
    let mut message = Message::new(Header { kind: RTM_NEWRULE, ..header });
    message.raw(&[family, 0, 0, 0, table as u8, 0, 0, ACTION_TABLE, 0, 0, 0, 0]);
    message.u32(FRA_TABLE, table).u32(FRA_SUPPRESS_PREFIXLEN, u32::MAX).u8(FRA_PROTOCOL, PROTOCOL_KERNEL);
    if priority != 0 {
        message.u32(FRA_PRIORITY, priority);
    }
    message.finish()
}

fn label_message((prefix, length, label): (Ipv6Addr, u8, u32), header: Header) -> Vec<u8> {
    let mut message = Message::new(Header { kind: RTM_NEWADDRLABEL, ..header });
    // `struct ifaddrlblmsg`
    message.raw(&[V6, 0, length, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.ip(IFAL_ADDRESS, prefix.into()).u32(IFAL_LABEL, label);
    message.finish()
}

fn configuration_message((family, link): (u8, i32), forwarding: bool, header: Header) -> Vec<u8> {
    let mut message = Message::new(Header { kind: RTM_NEWNETCONF, ..header });
    message.raw(&[family, 0, 0, 0]);
    message.attribute(NETCONFA_IFINDEX, &link.to_ne_bytes());
    message.u32(NETCONFA_FORWARDING, forwarding.into());
    if family == V4 {
        message.u32(NETCONFA_RP_FILTER, 0);
    }
    for kind in [NETCONFA_MC_FORWARDING, NETCONFA_PROXY_NEIGH, NETCONFA_IGNORE_ROUTES_WITH_LINKDOWN] {
        message.u32(kind, 0);
    }
    message.finish()
}

/// A link has no queue that could be shaped.
fn discipline_message(link: IfIndex, header: Header) -> Vec<u8> {
    let mut message = Message::new(Header { kind: RTM_NEWQDISC, ..header });
    // `struct tcmsg`: family, index, handle, parent, and how many use it.
    message.raw(&[0; 4]).raw(&link.0.to_ne_bytes()).raw(&[0; 4]).raw(&ROOT.to_ne_bytes());
    message.raw(&2u32.to_ne_bytes()).text(TCA_KIND, "noqueue");
    message.finish()
}
