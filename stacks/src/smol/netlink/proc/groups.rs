//! Groups: `igmp`, `igmp6`, `mcfilter`, `mcfilter6`, `dev_mcast` (net/ipv4/igmp.c, net/ipv6/mcast.c,
//! net/core/dev_addr_lists.c).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Stack;
use crate::smol::tables::{IfIndex, Link, LinkKind, Tables};

/// MAF_LOADED: it is in the interface's list; MAF_NOREPORT: nobody is told (net/if_inet6.h).
const LOADED: u32 = 4;
const NO_REPORT: u32 = 8;

/// IPV6_MIN_MTU
const LEAST_MTU: u32 = 1280;

/// A group that somebody is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Where.
    pub(crate) link: IfIndex,
    /// Which.
    pub(crate) group: IpAddr,
    /// How many are.
    pub(crate) users: usize,
    /// Of those who name sources: whether they want them, and which.
    pub(crate) filters: Vec<(bool, Vec<IpAddr>)>,
}

const ALL_HOSTS: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1));
const ALL_NODES: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1)),
];

/// Of each interface that has some: the groups of sockets and addresses, and behind them those that all are in.
fn all(stack: &dyn Stack, v4: bool) -> Vec<(&Link, Vec<Group>)> {
    let mut groups: BTreeMap<IfIndex, Vec<Group>> = BTreeMap::new();
    for group in stack.groups().into_iter().filter(|group| group.group.is_ipv4() == v4) {
        groups.entry(group.link).or_default().push(group);
    }
    let with_all = |link: &Link| {
        let mut own = groups.remove(&link.index).unwrap_or_default();
        own.sort_by_key(|group| group.group);
        let everybody: &[IpAddr] = match v4 {
            true if link.up => &[ALL_HOSTS],
            // From the moment that IPv6 can be spoken on it (ipv6_add_dev).
            false if link.mtu >= LEAST_MTU => &ALL_NODES,
            _ => &[],
        };
        for group in everybody {
            let asked = own.iter().position(|own| own.group == *group).map(|at| own.remove(at));
            let (users, filters) = asked.map_or((0, Vec::new()), |asked| (asked.users, asked.filters));
            own.push(Group { link: link.index, group: *group, users: users + 1, filters });
        }
        own
    };
    let mut with_all = with_all;
    let links = stack.tables().links.values().map(|link| (link, with_all(link)));
    links.filter(|(_, groups)| !groups.is_empty()).collect()
}

pub(super) fn igmp(stack: &dyn Stack) -> String {
    let mut text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n".to_owned();
    for (link, groups) in all(stack, true) {
        let _ = writeln!(text, "{}\t{:<10}: {:5} {:>7}", link.index.0, link.name, groups.len(), "V3");
        for Group { group, users, .. } in groups {
            let IpAddr::V4(group) = group else { continue };
            let word = u32::from_ne_bytes(group.octets());
            let _ = writeln!(text, "\t\t\t\t{word:08X} {users:5} 0:{:08X}\t\t0", 0);
        }
    }
    text
}

fn digits(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => format!("{:032x}", u128::from(v6)),
        IpAddr::V4(v4) => format!("0x{:08x}", u32::from(v4)),
    }
}

pub(super) fn igmp6(stack: &dyn Stack) -> String {
    let mut text = String::new();
    for (link, groups) in all(stack, false) {
        for Group { group, users, .. } in groups {
            let silent = if ALL_NODES.contains(&group) { NO_REPORT } else { 0 };
            // Those of the node itself are in no interface's list.
            let loaded = if group == ALL_NODES[1] { 0 } else { LOADED };
            let _ = writeln!(
                text,
                "{:<4} {:<15} {} {users:5} {:08X} 0",
                link.index.0,
                link.name,
                digits(group),
                silent | loaded
            );
        }
    }
    text
}

pub(super) fn mcfilter(stack: &dyn Stack, v4: bool) -> String {
    let mut text = if v4 {
        "Idx Device        MCA        SRC    INC    EXC\n".to_owned()
    } else {
        "Idx Device                Multicast Address                   Source Address    INC    EXC\n"
            .to_owned()
    };
    for (link, groups) in all(stack, v4) {
        for Group { group, filters, .. } in groups {
            let mut sources: BTreeMap<IpAddr, [usize; 2]> = BTreeMap::new();
            for (include, named) in &filters {
                for source in named {
                    sources.entry(*source).or_default()[usize::from(!include)] += 1;
                }
            }
            for (source, [wanted, unwanted]) in sources {
                let name: String = link.name.chars().take(6).collect();
                let (group, source) = (digits(group), digits(source));
                let _ =
                    writeln!(text, "{:3} {name:>6} {group} {source} {wanted:6} {unwanted:6}", link.index.0);
            }
        }
    }
    text
}

/// Addresses of groups that an interface listens to.
pub(super) fn dev_mcast(stack: &dyn Stack, tables: &Tables) -> String {
    let mut wanted: BTreeMap<(IfIndex, [u8; 6]), usize> = BTreeMap::new();
    for (link, groups) in [all(stack, false), all(stack, true)].into_iter().flatten() {
        let ethernet = link.kind != LinkKind::Loopback;
        for Group { group, .. } in groups.iter().filter(|group| ethernet && group.group != ALL_NODES[1]) {
            *wanted.entry((link.index, hardware(*group))).or_default() += 1;
        }
    }
    let mut text = String::new();
    for ((index, address), users) in wanted {
        let Ok(link) = tables.link(index) else { continue };
        let digits: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{:<4} {:<15} {users:<5} {:<5} {digits}", index.0, link.name, 0);
    }
    text
}

/// RFC 1112 clause 6.4, RFC 2464 clause 7.
fn hardware(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}
