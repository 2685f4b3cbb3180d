//! The files of /proc/net, for programs that read those (proc_net(5)).
//!
//! Read: net/ipv4/tcp_ipv4.c (tcp4_seq_show), net/ipv6/tcp_ipv6.c, net/ipv4/udp.c, net/core/net-procfs.c,
//! net/ipv4/fib_trie.c (fib_route_seq_show), net/ipv6/addrconf.c (if6_seq_show), net/ipv4/arp.c. Numbers that
//! are the kernel's own business (places in hash tables, addresses of objects) are 0, as it shows them to ordinary users.

mod groups;
mod mib;
mod rest;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;

use super::{DiagSocket, World};
use crate::smol::engine::Counters;
use crate::smol::mib::Mib;
use crate::smol::tables::{LinkKind, Nud, Route, RouteKind, TABLE_MAIN, Tables};
use crate::smol::tcp::State;

pub(crate) use groups::Group;

/// Width of a line in `tcp`, without its newline (TMPSZ less 1).
const TCP_WIDTH: usize = 149;
/// Width of a line in `udp` and `route`.
const WIDTH: usize = 127;
/// There is no cache of routes since Linux 3.6, and nobody here leases flow labels.
const RT_CACHE: &str = "Iface\tDestination\tGateway \tFlags\t\tRefCnt\tUse\tMetric\tSource\t\tMTU\tWindow\tIRTT\tTOS\t\
                        HHRef\tHHUptod\tSpecDst                          \n";
const FLOW_LABELS: &str = "Label S Owner  Users  Linger Expires  Dst                              Opt\n";
/// Clock ticks a second, as programs know them (USER_HZ).
const TICKS: u128 = 100;

/// The files, as far as a stack has something to say in them. Others of Linux's (netfilter, connection tracking, IPsec,
/// the shape of its routing table) are as on a kernel that was built without.
pub(crate) const NAMES: [&str; 35] = [
    "anycast6",
    "arp",
    "dev",
    "dev_mcast",
    "icmp",
    "icmp6",
    "if_inet6",
    "igmp",
    "igmp6",
    "ip6_flowlabel",
    "ipv6_route",
    "mcfilter",
    "mcfilter6",
    "netlink",
    "netstat",
    "packet",
    "ptype",
    "raw",
    "raw6",
    "route",
    "rt_cache",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    // Of the machine: AF_UNIX, its network cards' interrupts, its clock, its protocols.
    "protocols",
    "psched",
    "softnet_stat",
    "unix",
];

/// A socket that is in no table of ports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holder {
    /// SOCK_*
    pub(crate) kind: i32,
    /// ETH_P_*, NETLINK_*
    pub(crate) protocol: u16,
    /// The interface of a packet socket, or 0.
    pub(crate) link: u32,
    /// The port and the first 32 groups of a netlink socket.
    pub(crate) port: u32,
    pub(crate) groups: u32,
    /// It is being told a list.
    pub(crate) dumps: bool,
    /// Bytes that wait.
    pub(crate) queued: usize,
    pub(crate) uid: u32,
    pub(crate) inode: u32,
}

/// What these files show beside what netlink does.
pub(crate) trait Stack: World {
    /// What was counted of packets.
    fn mib(&self) -> &Mib;
    /// What went wrong.
    fn counters(&self) -> Counters;
    /// Groups that sockets and addresses are in.
    fn groups(&self) -> Vec<Group>;
    /// Packet sockets, or netlink sockets.
    fn holders(&self, family: i32) -> Vec<Holder>;
    /// How many sockets there are.
    fn used(&self) -> usize;
    /// Datagrams that came in part, and their bytes.
    fn parts(&self, v4: bool) -> (usize, usize);
}

/// What a file says; ENOENT if it is none of ours, EOPNOTSUPP if it is the machine's.
pub(crate) fn file(path: &str, world: &dyn Stack) -> Result<String, Errno> {
    let (inet, inet6) = (libc::AF_INET as u8, libc::AF_INET6 as u8);
    let (tcp, udp) = (libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8);
    Ok(match path {
        "tcp" => self::tcp(&world.sockets(inet, tcp)),
        "tcp6" => tcp6(&world.sockets(inet6, tcp)),
        "udp" => datagrams(&world.sockets(inet, udp), &UDP),
        "udp6" => datagrams(&world.sockets(inet6, udp), &IPV6),
        "udplite" => datagrams(&world.sockets(inet, libc::IPPROTO_UDPLITE as u8), &UDP),
        "udplite6" => datagrams(&world.sockets(inet6, libc::IPPROTO_UDPLITE as u8), &IPV6),
        "raw" => datagrams(&world.sockets(inet, libc::IPPROTO_RAW as u8), &RAW),
        "raw6" => datagrams(&world.sockets(inet6, libc::IPPROTO_RAW as u8), &IPV6),
        "dev" => dev(world.tables()),
        "route" => route(world.tables()),
        "if_inet6" => if_inet6(world.tables()),
        "arp" => arp(world.tables()),
        "icmp" => datagrams(&world.sockets(inet, libc::IPPROTO_ICMP as u8), &PING),
        "icmp6" => datagrams(&world.sockets(inet6, libc::IPPROTO_ICMPV6 as u8), &IPV6),
        "snmp" => mib::snmp(world),
        "snmp6" => mib::snmp6(world),
        "netstat" => mib::netstat(world),
        "sockstat" => mib::sockstat(world),
        "sockstat6" => mib::sockstat6(world),
        "igmp" => groups::igmp(world),
        "igmp6" => groups::igmp6(world),
        "mcfilter" => groups::mcfilter(world, true),
        "mcfilter6" => groups::mcfilter(world, false),
        "dev_mcast" => groups::dev_mcast(world, world.tables()),
        "ipv6_route" => rest::ipv6_route(world.tables()),
        "packet" => rest::packet(world),
        "netlink" => rest::netlink(world),
        "ptype" => rest::ptype(world),
        "rt_cache" => RT_CACHE.to_owned(),
        "anycast6" => String::new(),
        "ip6_flowlabel" => FLOW_LABELS.to_owned(),
        "protocols" | "psched" | "softnet_stat" | "unix" => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOENT),
    })
}

/// An end as these files print it: words of the machine's byte order, the port in host order.
fn end(end: (IpAddr, u16)) -> String {
    let words = |bytes: &[u8]| -> String {
        bytes.chunks_exact(4).fold(String::new(), |mut text, word| {
            let _ = write!(text, "{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            text
        })
    };
    let address = match end.0 {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    };
    format!("{address}:{:04X}", end.1)
}

fn stream(number: usize, socket: &DiagSocket) -> String {
    let DiagSocket { state, uid, inode, timer, .. } = socket;
    let ends = format!("{} {}", end(socket.local), end(socket.peer));
    let left = timer.left.as_millis() * TICKS / 1000;
    if *state == State::TimeWait as u8 {
        return format!(
            "{number:4}: {ends} 06 00000000:00000000 03:{left:08X} 00000000     0        0 0 3 {:016}",
            0
        );
    }
    let listens = *state == State::Listen as u8;
    let (send, kind, left) = if listens { (0, 0, 0) } else { (socket.send_queue, timer.kind, left) };
    let left = if kind == 0 { 0 } else { left };
    let (rto, window, threshold) = match &socket.tcp {
        Some((info, _)) if !listens => {
            let mss = usize::from(info.send_mss).max(1);
            let slow = info.ssthresh / mss;
            let threshold = if slow >= 0x7fff { -1 } else { slow as i64 };
            (info.rto.as_millis() * TICKS / 1000, info.cwnd / mss, threshold)
        }
        _ => (TICKS, 10, 0),
    };
    format!(
        "{number:4}: {ends} {state:02X} {send:08X}:{:08X} {kind:02X}:{left:08X} {:08X} {uid:5} {:8} {inode} 1 \
         {:016} {rto} 0 0 {window} {threshold}",
        socket.receive_queue,
        if listens { 0 } else { timer.retransmits },
        0,
        0
    )
}

/// Listeners first, as the kernel has them in a table of their own.
fn in_order(sockets: &[DiagSocket]) -> impl Iterator<Item = &DiagSocket> {
    let listens = |socket: &&DiagSocket| socket.state == State::Listen as u8;
    sockets.iter().filter(listens).chain(sockets.iter().filter(move |socket| !listens(socket)))
}

fn tcp(sockets: &[DiagSocket]) -> String {
    let head =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    let mut text = format!("{head:TCP_WIDTH$}\n");
    for (number, socket) in in_order(sockets).enumerate() {
        let _ = writeln!(text, "{:TCP_WIDTH$}", stream(number, socket));
    }
    text
}

fn tcp6(sockets: &[DiagSocket]) -> String {
    let mut text =
        "  sl  local_address                         remote_address                        st tx_queue \
                    rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
            .to_owned();
    for (number, socket) in in_order(sockets).enumerate() {
        let _ = writeln!(text, "{}", stream(number, socket));
    }
    text
}

/// How a list of sockets with datagrams looks.
struct Looks {
    /// Addresses of IPv6.
    wide: bool,
    /// Blanks before the head, and width of a line's number.
    indent: usize,
    number: usize,
    /// Width of a line.
    width: usize,
}

/// net/ipv4/udp.c (udp4_seq_show), net/ipv4/ping.c (ping_v4_seq_show), net/ipv4/raw.c (raw_seq_show), net/ipv6/datagram.c
/// (__ip6_dgram_sock_seq_show).
const UDP: Looks = Looks { wide: false, indent: 3, number: 5, width: WIDTH };
const PING: Looks = Looks { wide: false, indent: 2, number: 5, width: WIDTH };
const RAW: Looks = Looks { wide: false, indent: 2, number: 4, width: 0 };
const IPV6: Looks = Looks { wide: true, indent: 2, number: 5, width: 0 };

fn datagrams(sockets: &[DiagSocket], looks: &Looks) -> String {
    let addresses = if looks.wide {
        "local_address                         remote_address                       "
    } else {
        "local_address rem_address  "
    };
    let (indent, digits, width) = (looks.indent, looks.number, looks.width);
    let head = format!(
        "{:indent$}sl  {addresses} st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops",
        ""
    );
    let mut text = format!("{head:width$}\n");
    for (number, socket) in sockets.iter().enumerate() {
        let DiagSocket { state, uid, inode, drops, .. } = socket;
        let line = format!(
            "{number:digits$}: {} {} {state:02X} {:08X}:{:08X} 00:00000000 00000000 {uid:5} {:8} {inode} 2 {:016} \
             {drops}",
            end(socket.local),
            end(socket.peer),
            socket.send_queue,
            socket.receive_queue,
            0,
            0
        );
        let _ = writeln!(text, "{line:width$}");
    }
    text
}

fn dev(tables: &Tables) -> String {
    let mut text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop \
                    fifo colls carrier compressed\n"
        .to_owned();
    for link in tables.links.values() {
        let c = &link.counters;
        let _ = writeln!(
            text,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            link.name,
            c.rx_bytes,
            c.rx_packets,
            c.rx_errors,
            c.rx_dropped,
            0,
            0,
            0,
            c.multicast,
            c.tx_bytes,
            c.tx_packets,
            0,
            c.tx_dropped,
            0,
            0,
            0,
            0
        );
    }
    text
}

fn route(tables: &Tables) -> String {
    let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut text = format!("{head:WIDTH$}\n");
    let shown = |route: &&Route| {
        route.table == TABLE_MAIN
            && !matches!(route.kind, RouteKind::Local | RouteKind::Broadcast | RouteKind::Multicast)
    };
    let v4 = |route: &Route| match route.to {
        IpNet::V4(to) => Some((to.network(), 32 - to.prefix_len(), route.metric)),
        IpNet::V6(_) => None,
    };
    let mut routes: Vec<_> =
        tables.routes.iter().filter(shown).filter_map(|route| Some((v4(route)?, route))).collect();
    routes.sort_by_key(|(place, _)| *place);
    for ((to, free, metric), route) in routes {
        let word = |address: Ipv4Addr| u32::from_ne_bytes(address.octets());
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(free.into()).unwrap_or(0));
        let gateway = match route.gateway {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        // RTF_UP, RTF_GATEWAY, RTF_HOST, RTF_REJECT (linux/route.h).
        let reject = matches!(route.kind, RouteKind::Unreachable | RouteKind::Prohibit);
        let flags = [(true, 1), (!gateway.is_unspecified(), 2), (free == 0, 4), (reject, 0x200)];
        let flags: u32 = flags.iter().map(|(is, flag)| if *is { *flag } else { 0 }).sum();
        let name = route.link.and_then(|link| tables.link(link).ok()).map_or("*", |link| link.name.as_str());
        let line = format!(
            "{name}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{metric}\t{:08X}\t0\t0\t0",
            word(to),
            word(gateway),
            word(mask)
        );
        let _ = writeln!(text, "{line:WIDTH$}");
    }
    text
}

/// IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL, IPV6_ADDR_SITELOCAL (net/ipv6.h).
fn scope(address: Ipv6Addr) -> u8 {
    match address.segments()[0] {
        _ if address.is_loopback() => 0x10,
        first if first & 0xffc0 == 0xfe80 => 0x20,
        first if first & 0xffc0 == 0xfec0 => 0x40,
        _ => 0,
    }
}

fn if_inet6(tables: &Tables) -> String {
    let mut text = String::new();
    for address in &tables.addresses {
        let (IpNet::V6(net), Ok(link)) = (address.net, tables.link(address.link)) else { continue };
        let digits = u128::from(net.addr());
        let (index, length, scope, flags) =
            (address.link.0, net.prefix_len(), scope(net.addr()), address.flags as u8);
        let _ =
            writeln!(text, "{digits:032x} {index:02x} {length:02x} {scope:02x} {flags:02x} {:>8}", link.name);
    }
    text
}

fn arp(tables: &Tables) -> String {
    let mut text =
        "IP address       HW type     Flags       HW address            Mask     Device\n".to_owned();
    let mut entries: Vec<_> = tables.neighbours.iter().filter(|((_, ip), _)| ip.is_ipv4()).collect();
    entries.sort_by_key(|(place, _)| **place);
    for ((index, address), neighbour) in entries {
        let Ok(link) = tables.link(*index) else { continue };
        // ATF_COM, ATF_PERM (linux/if_arp.h).
        let flags = match neighbour.state {
            Nud::NoArp => continue,
            Nud::Permanent => 6,
            Nud::Incomplete | Nud::Failed => 0,
            Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe => 2,
        };
        let hardware = if link.kind == LinkKind::Loopback { 772 } else { 1 };
        let mac = neighbour.mac.map_or_else(|| "00:00:00:00:00:00".to_owned(), |mac| mac.to_string());
        let _ = writeln!(
            text,
            "{:<16} 0x{hardware:<10x}0x{flags:<10x}{mac:<17}     *        {}",
            address.to_string(),
            link.name
        );
    }
    text
}
