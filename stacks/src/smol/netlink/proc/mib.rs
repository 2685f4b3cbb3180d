//! What was counted: `snmp`, `snmp6`, `netstat`, `sockstat`, `sockstat6` (net/ipv4/proc.c, net/ipv6/proc.c).
//!
//! `netstat` has those of Linux's counters that are kept here; one that is not there is not known, and not 0.

use std::fmt::Write as _;

use super::Stack;
use crate::smol::netlink::DiagSocket;
use crate::smol::tcp::State;

/// Bytes of a page, in which memory is told.
const PAGE: usize = 4096;
/// Types of ICMP that have names: what comes in or goes out of each.
const ICMP: [(&str, u8); 11] = [
    ("DestUnreachs", 3),
    ("TimeExcds", 11),
    ("ParmProbs", 12),
    ("SrcQuenchs", 4),
    ("Redirects", 5),
    ("Echos", 8),
    ("EchoReps", 0),
    ("Timestamps", 13),
    ("TimestampReps", 14),
    ("AddrMasks", 17),
    ("AddrMaskReps", 18),
];
/// And of ICMPv6.
const ICMP6: [(&str, u8); 14] = [
    ("DestUnreachs", 1),
    ("PktTooBigs", 2),
    ("TimeExcds", 3),
    ("ParmProblems", 4),
    ("Echos", 128),
    ("EchoReplies", 129),
    ("GroupMembQueries", 130),
    ("GroupMembResponses", 131),
    ("GroupMembReductions", 132),
    ("RouterSolicits", 133),
    ("RouterAdvertisements", 134),
    ("NeighborSolicits", 135),
    ("NeighborAdvertisements", 136),
    ("Redirects", 137),
];
const MLD2_REPORT: usize = 143;
/// Types told in one line of IcmpMsg.
const PER_LINE: usize = 16;

/// Two lines: names, and numbers.
fn put(text: &mut String, head: &str, pairs: &[(String, i64)]) {
    let names: String = pairs.iter().fold(String::new(), |names, (name, _)| names + " " + name);
    let numbers =
        pairs.iter().fold(String::new(), |numbers, (_, number)| numbers + " " + &number.to_string());
    let _ = write!(text, "{head}:{names}\n{head}:{numbers}\n");
}

fn pair(name: &str, number: u64) -> (String, i64) {
    (name.to_owned(), number as i64)
}

pub(super) fn snmp(stack: &dyn Stack) -> String {
    let mut text = String::new();
    let ip = stack.mib().ip_of(true);
    let forwarding = if stack.tables().forwarding { 1 } else { 2 };
    let numbers = [
        ("Forwarding", forwarding),
        ("DefaultTTL", 64),
        ("InReceives", ip.in_receives),
        ("InHdrErrors", ip.in_header_errors),
        ("InAddrErrors", ip.in_address_errors),
        ("ForwDatagrams", ip.forwarded),
        ("InUnknownProtos", ip.in_unknown_protocols),
        ("InDiscards", 0),
        ("InDelivers", ip.in_delivers),
        ("OutRequests", ip.out_requests),
        ("OutDiscards", ip.out_discards),
        ("OutNoRoutes", 0),
        ("ReasmTimeout", ip.parts_late),
        ("ReasmReqds", ip.parts),
        ("ReasmOKs", ip.wholes),
        ("ReasmFails", ip.parts_failed),
        ("FragOKs", ip.cut),
        ("FragFails", ip.cut_failed),
        ("FragCreates", ip.cut_parts),
        ("OutTransmits", ip.out_transmits),
    ];
    put(&mut text, "Ip", &numbers.map(|(name, number)| pair(name, number)));
    snmp_icmp(&mut text, stack);
    let (tcp, open) = (&stack.mib().tcp, |family| {
        let open = |s: &&DiagSocket| [State::Established as u8, State::CloseWait as u8].contains(&s.state);
        stack.sockets(family as u8, libc::IPPROTO_TCP as u8).iter().filter(open).count() as u64
    });
    // The times are those of RFC 6298 as Linux has them, in ms; there is no bound of connections.
    let mut numbers: Vec<_> = [("RtoAlgorithm", 1), ("RtoMin", 200), ("RtoMax", 120_000)]
        .map(|(name, number)| pair(name, number))
        .to_vec();
    numbers.push(("MaxConn".to_owned(), -1));
    numbers.extend(
        [
            ("ActiveOpens", tcp.active_opens),
            ("PassiveOpens", tcp.passive_opens),
            ("AttemptFails", tcp.attempts_failed),
            ("EstabResets", tcp.resets),
            ("CurrEstab", open(libc::AF_INET) + open(libc::AF_INET6)),
            ("InSegs", tcp.received),
            ("OutSegs", tcp.sent),
            ("RetransSegs", tcp.sent_again),
            ("InErrs", tcp.errors),
            ("OutRsts", tcp.resets_sent),
            ("InCsumErrors", tcp.bad_sums),
        ]
        .map(|(name, number)| pair(name, number)),
    );
    put(&mut text, "Tcp", &numbers);
    for (head, lite) in [("Udp", false), ("UdpLite", true)] {
        put(&mut text, head, &udp(stack, lite, true));
    }
    text
}

fn snmp_icmp(text: &mut String, stack: &dyn Stack) {
    let icmp = stack.mib().icmp_of(true);
    let mut numbers = vec![
        pair("InMsgs", icmp.received),
        pair("InErrors", icmp.errors),
        pair("InCsumErrors", icmp.bad_sums),
    ];
    let named = |way: &'static str, counted: &[u64; 256]| {
        ICMP.map(|(name, kind)| pair(&format!("{way}{name}"), counted[usize::from(kind)]))
    };
    numbers.extend(named("In", &icmp.received_as));
    numbers.extend(
        [("OutMsgs", icmp.sent), ("OutErrors", 0), ("OutRateLimitGlobal", 0), ("OutRateLimitHost", 0)]
            .map(|(name, number)| pair(name, number)),
    );
    numbers.extend(named("Out", &icmp.sent_as));
    put(text, "Icmp", &numbers);
    let types = seen("InType", &icmp.received_as).chain(seen("OutType", &icmp.sent_as));
    for line in types.collect::<Vec<_>>().chunks(PER_LINE) {
        put(text, "IcmpMsg", line);
    }
}

/// Types of which there were any.
fn seen<'a>(name: &'a str, counted: &'a [u64; 256]) -> impl Iterator<Item = (String, i64)> + 'a {
    let any = counted.iter().enumerate().filter(|(_, count)| **count > 0);
    any.map(move |(kind, count)| pair(&format!("{name}{kind}"), *count))
}

fn udp(stack: &dyn Stack, lite: bool, v4: bool) -> Vec<(String, i64)> {
    let udp = stack.mib().udp_of(lite, v4);
    let numbers = [
        ("InDatagrams", udp.received),
        ("NoPorts", udp.no_ports),
        ("InErrors", udp.errors),
        ("OutDatagrams", udp.sent),
        ("RcvbufErrors", udp.overflows),
        ("SndbufErrors", 0),
        ("InCsumErrors", udp.bad_sums),
        ("IgnoredMulti", 0),
        ("MemErrors", 0),
    ];
    // net/ipv6/proc.c has none of the first for UDP-Lite.
    let has = |(name, _): &(&str, u64)| v4 || !lite || *name != "IgnoredMulti";
    numbers.into_iter().filter(has).map(|(name, number)| pair(name, number)).collect()
}

pub(super) fn snmp6(stack: &dyn Stack) -> String {
    let mut text = String::new();
    let mut line = |name: &str, number: u64| {
        let _ = writeln!(text, "{name:<32}\t{number}");
    };
    let (ip, icmp) = (stack.mib().ip_of(false), stack.mib().icmp_of(false));
    for (name, number) in [
        ("InReceives", ip.in_receives),
        ("InHdrErrors", ip.in_header_errors),
        ("InTooBigErrors", 0),
        ("InNoRoutes", 0),
        ("InAddrErrors", ip.in_address_errors),
        ("InUnknownProtos", ip.in_unknown_protocols),
        ("InTruncatedPkts", 0),
        ("InDiscards", 0),
        ("InDelivers", ip.in_delivers),
        ("OutForwDatagrams", ip.forwarded),
        ("OutRequests", ip.out_requests),
        ("OutDiscards", ip.out_discards),
        ("OutNoRoutes", 0),
        ("ReasmTimeout", ip.parts_late),
        ("ReasmReqds", ip.parts),
        ("ReasmOKs", ip.wholes),
        ("ReasmFails", ip.parts_failed),
        ("FragOKs", ip.cut),
        ("FragFails", ip.cut_failed),
        ("FragCreates", ip.cut_parts),
        ("InOctets", ip.in_octets),
        ("OutOctets", ip.out_octets),
        ("OutTransmits", ip.out_transmits),
    ] {
        line(&format!("Ip6{name}"), number);
    }
    for (name, number) in [
        ("InMsgs", icmp.received),
        ("InErrors", icmp.errors),
        ("OutMsgs", icmp.sent),
        ("OutErrors", 0),
        ("InCsumErrors", icmp.bad_sums),
        ("OutRateLimitHost", 0),
    ] {
        line(&format!("Icmp6{name}"), number);
    }
    for (way, counted) in [("In", &icmp.received_as), ("Out", &icmp.sent_as)] {
        for (name, kind) in ICMP6 {
            line(&format!("Icmp6{way}{name}"), counted[usize::from(kind)]);
        }
        line(&format!("Icmp6{way}MLDv2Reports"), counted[MLD2_REPORT]);
    }
    for (name, number) in seen("InType", &icmp.received_as).chain(seen("OutType", &icmp.sent_as)) {
        line(&format!("Icmp6{name}"), number as u64);
    }
    for (head, lite) in [("Udp6", false), ("UdpLite6", true)] {
        for (name, number) in udp(stack, lite, false) {
            line(&format!("{head}{name}"), number as u64);
        }
    }
    text
}

pub(super) fn netstat(stack: &dyn Stack) -> String {
    let mut text = String::new();
    let (counters, ip) = (stack.counters(), stack.mib().ip_of(true));
    let numbers = [
        // There are no cookies.
        ("SyncookiesSent", 0),
        ("SyncookiesRecv", 0),
        ("SyncookiesFailed", 0),
        ("OutOfWindowIcmps", counters.forged_errors),
        ("ListenOverflows", counters.listen_overflows),
        ("ListenDrops", counters.listen_overflows),
        ("TCPAbortOnMemory", counters.orphans_ended),
        ("TCPTimeWaitOverflow", counters.time_waits_ended),
    ];
    put(&mut text, "TcpExt", &numbers.map(|(name, number)| pair(name, number)));
    put(&mut text, "IpExt", &[pair("InOctets", ip.in_octets), pair("OutOctets", ip.out_octets)]);
    text
}

/// How many sockets of a family and protocol there are, and pages of what waits in them.
fn used(sockets: &[DiagSocket]) -> (usize, usize) {
    let waiting = sockets.iter().filter(|socket| socket.state != State::Listen as u8);
    let bytes: usize = waiting.map(|socket| (socket.receive_queue + socket.send_queue) as usize).sum();
    (sockets.len(), bytes.div_ceil(PAGE))
}

pub(super) fn sockstat(stack: &dyn Stack) -> String {
    let sockets = |family: i32, protocol: i32| stack.sockets(family as u8, protocol as u8);
    let (inet, inet6) = (libc::AF_INET, libc::AF_INET6);
    let tcp = sockets(inet, libc::IPPROTO_TCP);
    let in_state = |state| move |socket: &&DiagSocket| socket.state == state as u8;
    let waits = tcp.iter().filter(in_state(State::TimeWait)).count();
    let orphans = tcp.iter().filter(|socket| socket.inode == 0).count().saturating_sub(waits);
    // Memory is that of both versions.
    let memory = |protocol| used(&sockets(inet, protocol)).1 + used(&sockets(inet6, protocol)).1;
    let (parts, bytes) = stack.parts(true);
    format!(
        "sockets: used {}\nTCP: inuse {} orphan {orphans} tw {waits} alloc {} mem {}\nUDP: inuse {} mem {}\n\
         UDPLITE: inuse {}\nRAW: inuse {}\nFRAG: inuse {parts} memory {bytes}\n",
        stack.used(),
        tcp.len() - waits,
        tcp.len() - waits + sockets(inet6, libc::IPPROTO_TCP).len(),
        memory(libc::IPPROTO_TCP),
        sockets(inet, libc::IPPROTO_UDP).len(),
        memory(libc::IPPROTO_UDP),
        sockets(inet, libc::IPPROTO_UDPLITE).len(),
        sockets(inet, libc::IPPROTO_RAW).len(),
    )
}

pub(super) fn sockstat6(stack: &dyn Stack) -> String {
    let count = |protocol: i32| stack.sockets(libc::AF_INET6 as u8, protocol as u8).len();
    let (parts, bytes) = stack.parts(false);
    format!(
        "TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse {}\nRAW6: inuse {}\nFRAG6: inuse {parts} memory {bytes}\n",
        count(libc::IPPROTO_TCP),
        count(libc::IPPROTO_UDP),
        count(libc::IPPROTO_UDPLITE),
        count(libc::IPPROTO_RAW),
    )
}
