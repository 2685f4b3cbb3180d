//! Verdicts, states and translations, packet by packet.

use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::filter::packet::{ICMP, ICMPV6};
use switch::offload::checksum::{fold, pseudo, sum};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;
const RST: u8 = 4;
const FIN_ACK: u8 = 17;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

fn filter(text: &str) -> Filter {
    Filter::new(&Ruleset::parse(text).unwrap(), [1, 2, 3, 4])
}

/// An IP packet with its checksums.
fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    upper: &[u8],
    checksum: Option<usize>,
) -> Vec<u8> {
    let mut upper = upper.to_vec();
    let (mut head, addresses) = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut head = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            head[2..4].copy_from_slice(&(20 + upper.len() as u16).to_be_bytes());
            (head, [a.octets(), b.octets()].concat())
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mut head = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            head[4..6].copy_from_slice(&(upper.len() as u16).to_be_bytes());
            (head, [a.octets(), b.octets()].concat())
        }
        _ => unreachable!("one family"),
    };
    head.extend(&addresses);
    if source.is_ipv4() {
        let value = !fold(sum(&head));
        head[10..12].copy_from_slice(&value.to_be_bytes());
    }
    if let Some(at) = checksum {
        let pseudo = if protocol == ICMP { 0 } else { pseudo(&addresses, protocol, upper.len()) };
        let value = !fold(pseudo + sum(&upper));
        upper[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    head.extend(upper);
    head
}

fn tcp(from: &str, to: &str, flags: u8) -> Vec<u8> {
    tcp_at(from, to, flags, 100, 200)
}

fn tcp_at(from: &str, to: &str, flags: u8, sequence: u32, acknowledged: u32) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut upper = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    upper.extend(sequence.to_be_bytes());
    upper.extend(acknowledged.to_be_bytes());
    upper.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    packet(from.ip(), to.ip(), TCP, &upper, Some(16))
}

fn udp(from: &str, to: &str) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut upper = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    upper.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    packet(from.ip(), to.ip(), UDP, &upper, Some(6))
}

fn echo(from: &str, to: &str, kind: u8, ident: u16) -> Vec<u8> {
    let mut upper = vec![kind, 0, 0, 0];
    upper.extend(ident.to_be_bytes());
    upper.extend([0, 1, 9, 9]);
    packet(from.parse().unwrap(), to.parse().unwrap(), ICMP, &upper, Some(2))
}

/// Time exceeded, told by `from`, about `about`.
fn exceeded(from: &str, to: &str, about: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (protocol, kind) = if from.is_ipv4() { (ICMP, 11) } else { (ICMPV6, 3) };
    let upper = [&[kind, 0, 0, 0, 0, 0, 0, 0], about].concat();
    packet(from, to, protocol, &upper, Some(2))
}

/// Are all sums in it right?
fn is_sound(bytes: &[u8]) -> bool {
    let view = View::new([bytes, &[]]).unwrap();
    let addresses = if view.source.is_ipv4() { &bytes[12..20] } else { &bytes[8..40] };
    let head = !view.source.is_ipv4() || fold(sum(&bytes[..20])) == 0xFFFF;
    let pseudo = match view.protocol {
        ICMP => 0,
        protocol => pseudo(addresses, protocol, view.upper.len()),
    };
    head && fold(pseudo + sum(view.upper)) == 0xFFFF
}

/// What the packet is behind these hooks; `None`: it ended.
fn pass(filter: &mut Filter, now: Instant, hooks: &[Hook], bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut tracked) = (bytes.to_vec(), None);
    for hook in hooks {
        let view = View::new([&bytes, &[]]).unwrap();
        let arrives = if hook.has_in() { "eth0" } else { "" };
        let leaves = if hook.has_out() { "eth1" } else { "" };
        let head = view.head;
        match filter.judge(now, *hook, &view, Ends { arrives, leaves }, &mut tracked) {
            Verdict::Accept => {}
            Verdict::Translate(rewrite) => {
                let (head, upper) = bytes.split_at_mut(head);
                rewrite.apply(head, upper, false);
            }
            Verdict::Drop => return None,
            Verdict::Reject => {
                if let Some(tracked) = &tracked {
                    filter.forget(tracked);
                }
                return None;
            }
        }
    }
    assert!(is_sound(&bytes), "{bytes:02x?}");
    Some(bytes)
}

const IN: [Hook; 2] = [Hook::Prerouting, Hook::Input];
const OUT: [Hook; 2] = [Hook::Output, Hook::Postrouting];
const THROUGH: [Hook; 3] = [Hook::Prerouting, Hook::Forward, Hook::Postrouting];

fn ends(bytes: &[u8]) -> (String, String) {
    let tuple = View::new([bytes, &[]]).unwrap().tuple().unwrap();
    let text = |address, port| SocketAddr::new(address, port).to_string();
    (text(tuple.source, tuple.sport), text(tuple.destination, tuple.dport))
}

const CLIENT: &str = "10.0.0.2:1000";
const SERVER: &str = "192.0.2.1:80";

#[test]
fn the_first_rule_that_decides_decides_and_all_that_fit_count() {
    let mut filter = filter(
        "input: proto tcp count\ninput: proto tcp dport 22 drop\ninput: from 10.0.0.0/8 accept\ndefault input drop",
    );
    let now = start();
    assert!(pass(&mut filter, now, &IN, &tcp(CLIENT, "10.0.0.1:22", SYN)).is_none());
    assert!(pass(&mut filter, now, &IN, &tcp(CLIENT, "10.0.0.1:80", SYN)).is_some());
    assert!(pass(&mut filter, now, &IN, &udp("192.0.2.1:5", "10.0.0.1:80")).is_none());
    let listing = filter.listing();
    let packets: Vec<u64> = listing.rules.iter().map(|rule| rule.counts.packets).collect();
    assert_eq!(packets, [2, 1, 1]);
    assert_eq!(listing.rules[0].counts.bytes, 80);
    let input = listing.defaults.iter().find(|rest| rest.hook == "input").unwrap();
    assert_eq!((input.action.as_str(), input.counts.packets), ("drop", 1));
    // What was dropped has left nothing behind.
    assert_eq!(listing.flows, 1);
}

#[test]
fn every_condition_is_looked_at() {
    for (rule, bytes, fits) in [
        ("input: in eth0 drop", udp(CLIENT, SERVER), true),
        ("input: in eth1,lo drop", udp(CLIENT, SERVER), false),
        ("input: in not lo drop", udp(CLIENT, SERVER), true),
        ("input: proto not tcp drop", udp(CLIENT, SERVER), true),
        ("input: from not 10.0.0.0/8 drop", udp(CLIENT, SERVER), false),
        ("input: to 192.0.2.0/31 drop", udp(CLIENT, SERVER), true),
        ("input: udp sport 1-1000 drop", udp(CLIENT, SERVER), true),
        ("input: udp dport not 80-90 drop", udp(CLIENT, SERVER), false),
        ("input: udp dport 80 drop", tcp(CLIENT, SERVER, SYN), false),
        ("input: ipv6 drop", udp(CLIENT, SERVER), false),
        ("input: ipv6 drop", udp("[fd00::1]:1", "[fd00::2]:2"), true),
        ("input: from not 10.0.0.0/8 drop", udp("[fd00::1]:1", "[fd00::2]:2"), false),
        ("input: icmp type echo-request drop", echo("10.0.0.2", "10.0.0.1", 8, 1), true),
        ("input: icmp type not 8 drop", echo("10.0.0.2", "10.0.0.1", 8, 1), false),
        ("input: state new drop", udp(CLIENT, SERVER), true),
        ("input: state not new drop", udp(CLIENT, SERVER), false),
        ("input: state invalid drop", tcp(CLIENT, SERVER, SYN_ACK), true),
        ("input: state invalid drop", tcp(CLIENT, SERVER, RST), true),
        ("input: state invalid drop", echo("10.0.0.2", "10.0.0.1", 0, 1), true),
    ] {
        let gone = pass(&mut filter(rule), start(), &IN, &bytes).is_none();
        assert_eq!(gone, fits, "{rule}");
    }
}

#[test]
fn a_limit_is_a_bucket() {
    let mut filter = filter("input: limit 10/s burst 3 accept\ndefault input drop");
    let now = start();
    let passed = |filter: &mut Filter, now| {
        (0..20).filter(|_| pass(filter, now, &IN, &udp(CLIENT, SERVER)).is_some()).count()
    };
    assert_eq!(passed(&mut filter, now), 3);
    assert_eq!(passed(&mut filter, now + Duration::from_millis(200)), 2);
    assert_eq!(passed(&mut filter, now + Duration::from_secs(60)), 3);
}

#[test]
fn a_client_behind_a_closed_door_hears_answers_and_errors_only() {
    let rules = "default input drop\ninput: state established,related accept";
    let mut filter = filter(rules);
    let now = start();
    assert!(pass(&mut filter, now, &IN, &tcp(SERVER, CLIENT, SYN)).is_none());
    let question = tcp(CLIENT, SERVER, SYN);
    assert!(pass(&mut filter, now, &OUT, &question).is_some());
    assert!(pass(&mut filter, now, &IN, &tcp(SERVER, CLIENT, SYN_ACK)).is_some());
    assert!(pass(&mut filter, now, &OUT, &tcp(CLIENT, SERVER, ACK)).is_some());
    assert!(pass(&mut filter, now, &IN, &exceeded("198.51.100.9", "10.0.0.2", &question)).is_some());
    assert!(
        pass(&mut filter, now, &IN, &exceeded("198.51.100.9", "10.0.0.2", &udp(CLIENT, SERVER))).is_none()
    );
    assert!(pass(&mut filter, now, &OUT, &echo("10.0.0.2", "192.0.2.1", 8, 7)).is_some());
    assert!(pass(&mut filter, now, &IN, &echo("192.0.2.1", "10.0.0.2", 0, 8)).is_none());
    assert!(pass(&mut filter, now, &IN, &echo("192.0.2.1", "10.0.0.2", 0, 7)).is_some());
    // An idle day is not its end, six are.
    let day = Duration::from_secs(86_400);
    assert!(pass(&mut filter, now + day, &IN, &tcp(SERVER, CLIENT, ACK)).is_some());
    assert!(pass(&mut filter, now + day * 7, &IN, &tcp(SERVER, CLIENT, ACK)).is_none());
}

#[test]
fn only_a_reset_in_its_place_ends_a_connection() {
    let mut filter = filter("default input drop\ninput: state established accept");
    let now = start();
    let open = |filter: &mut Filter| {
        pass(filter, now, &OUT, &tcp_at(CLIENT, SERVER, SYN, 99, 0)).unwrap();
        pass(filter, now, &IN, &tcp_at(SERVER, CLIENT, SYN_ACK, 199, 100)).unwrap();
        pass(filter, now, &OUT, &tcp_at(CLIENT, SERVER, ACK, 100, 200)).unwrap();
    };
    let later = now + Duration::from_secs(60);
    open(&mut filter);
    pass(&mut filter, now, &IN, &tcp_at(SERVER, CLIENT, RST, 7777, 0)).unwrap();
    assert!(pass(&mut filter, later, &IN, &tcp(SERVER, CLIENT, ACK)).is_some());
    pass(&mut filter, later, &IN, &tcp_at(SERVER, CLIENT, RST, 200, 0)).unwrap();
    assert!(pass(&mut filter, later + Duration::from_secs(60), &IN, &tcp(SERVER, CLIENT, ACK)).is_none());
    // Both FINs, and the same ends once more.
    open(&mut filter);
    pass(&mut filter, now, &OUT, &tcp(CLIENT, SERVER, FIN_ACK)).unwrap();
    pass(&mut filter, now, &IN, &tcp(SERVER, CLIENT, FIN_ACK)).unwrap();
    assert!(pass(&mut filter, now, &IN, &tcp(SERVER, CLIENT, SYN)).is_none());
    open(&mut filter);
}

#[test]
fn a_router_lends_its_address() {
    let mut filter = filter("postrouting: out eth1 snat to 198.51.100.1");
    let now = start();
    let first = pass(&mut filter, now, &THROUGH, &tcp(CLIENT, SERVER, SYN)).unwrap();
    assert_eq!(ends(&first), ("198.51.100.1:1000".into(), SERVER.into()));
    let answer = pass(&mut filter, now, &THROUGH, &tcp(SERVER, "198.51.100.1:1000", SYN_ACK)).unwrap();
    assert_eq!(ends(&answer), (SERVER.into(), CLIENT.into()));
    // Another one with the same port gets another.
    let other = pass(&mut filter, now, &THROUGH, &tcp("10.0.0.3:1000", SERVER, SYN)).unwrap();
    let name = ends(&other).0;
    assert!(name.starts_with("198.51.100.1:") && name != "198.51.100.1:1000", "{name}");
    let port: u16 = name.rsplit(':').next().unwrap().parse().unwrap();
    assert!((512..1024).contains(&port), "a port of the same kind: {port}");
    let answer = pass(&mut filter, now, &THROUGH, &tcp(SERVER, &name, SYN_ACK)).unwrap();
    assert_eq!(ends(&answer), (SERVER.into(), "10.0.0.3:1000".into()));
    // Errors find their way, and what they quote is what was sent.
    let error = pass(&mut filter, now, &THROUGH, &exceeded("203.0.113.5", "198.51.100.1", &other)).unwrap();
    let view = View::new([&error, &[]]).unwrap();
    assert_eq!(view.destination.to_string(), "10.0.0.3");
    assert_eq!(view.source.to_string(), "203.0.113.5");
    let quoted = view.quoted().unwrap().tuple().unwrap();
    assert_eq!((quoted.source.to_string(), quoted.sport), ("10.0.0.3".into(), 1000));
    assert_eq!(filter.listing().rules[0].counts.packets, 2);
    // Echo has idents for ports.
    let ask = pass(&mut filter, now, &THROUGH, &echo("10.0.0.2", "192.0.2.1", 8, 5)).unwrap();
    assert_eq!(View::new([&ask, &[]]).unwrap().tuple().unwrap().sport, 5);
    let second = pass(&mut filter, now, &THROUGH, &echo("10.0.0.3", "192.0.2.1", 8, 5)).unwrap();
    let ident = View::new([&second, &[]]).unwrap().tuple().unwrap().sport;
    assert_ne!(ident, 5);
    let answer = pass(&mut filter, now, &THROUGH, &echo("192.0.2.1", "198.51.100.1", 0, ident)).unwrap();
    let tuple = View::new([&answer, &[]]).unwrap().tuple().unwrap();
    assert_eq!((tuple.destination.to_string(), tuple.sport), ("10.0.0.3".into(), 5));
}

#[test]
fn a_router_stands_for_a_server() {
    let mut filter =
        filter("prerouting: tcp dport 8080 dnat to 10.0.0.9:80\noutput: to 192.0.2.7 dnat to 10.0.0.9");
    let now = start();
    let ask = pass(&mut filter, now, &THROUGH, &tcp("192.0.2.1:5000", "198.51.100.1:8080", SYN)).unwrap();
    assert_eq!(ends(&ask).1, "10.0.0.9:80");
    let answer = pass(&mut filter, now, &THROUGH, &tcp("10.0.0.9:80", "192.0.2.1:5000", SYN_ACK)).unwrap();
    assert_eq!(ends(&answer), ("198.51.100.1:8080".into(), "192.0.2.1:5000".into()));
    // What this stack sends itself.
    let ask = pass(&mut filter, now, &OUT, &udp("10.0.0.1:7", "192.0.2.7:53")).unwrap();
    assert_eq!(ends(&ask).1, "10.0.0.9:53");
    let answer = pass(&mut filter, now, &IN, &udp("10.0.0.9:53", "10.0.0.1:7")).unwrap();
    assert_eq!(ends(&answer), ("192.0.2.7:53".into(), "10.0.0.1:7".into()));
    // Other connections of the same server are left alone.
    let direct = pass(&mut filter, now, &THROUGH, &tcp("10.0.0.9:80", "192.0.2.1:6000", SYN)).unwrap();
    assert_eq!(ends(&direct).0, "10.0.0.9:80");
}

#[test]
fn rules_change_and_counters_and_connections_stay() {
    let mut filter = filter("input: count\ninput: proto tcp dport 80 accept\ndefault input drop");
    let now = start();
    pass(&mut filter, now, &IN, &tcp(CLIENT, SERVER, SYN)).unwrap();
    let (rules, handles) = filter.rules();
    let handles = handles.to_vec();
    assert_eq!(handles, [1, 2]);
    let change = msocket_proto::proto::FilterChange::Remove { handle: 2 };
    let mut after = crate::filter::changed(&rules, &handles, &change).unwrap();
    after.extend("input: state established accept").unwrap();
    filter.set(&after);
    let listing = filter.listing();
    let seen: Vec<_> = listing.rules.iter().map(|rule| (rule.handle, rule.counts.packets)).collect();
    assert_eq!(seen, [(1, 1), (3, 0)]);
    pass(&mut filter, now, &OUT, &tcp(SERVER, CLIENT, SYN_ACK)).unwrap();
    assert!(pass(&mut filter, now, &IN, &tcp(CLIENT, SERVER, ACK)).is_some());
    assert!(crate::filter::changed(&after, &handles, &change).is_ok());
    let gone = msocket_proto::proto::FilterChange::Remove { handle: 99 };
    assert!(crate::filter::changed(&after, &handles, &gone).is_err());
}

#[test]
fn log_lines_are_rationed_and_the_last_are_kept() {
    let mut filter = filter("input: log \"seen\"");
    let now = start();
    for _ in 0..100 {
        pass(&mut filter, now, &IN, &tcp(CLIENT, SERVER, SYN));
    }
    let lines = filter.listing().lines;
    assert_eq!(lines.len(), 50);
    assert_eq!(lines[0].text, "seen input in eth0 tcp 10.0.0.2:1000 > 192.0.2.1:80 len 40");
    pass(&mut filter, now + Duration::from_secs(1), &IN, &echo("10.0.0.2", "10.0.0.1", 8, 1));
    let lines = filter.listing().lines;
    assert_eq!((lines[50].skipped, lines[50].number), (50, 51));
    assert!(lines[50].text.ends_with("icmp 10.0.0.2 > 10.0.0.1 type 8 len 30"), "{}", lines[50].text);
    for second in 2..60 {
        for _ in 0..10 {
            pass(&mut filter, now + Duration::from_secs(second), &IN, &tcp(CLIENT, SERVER, SYN));
        }
    }
    assert_eq!(filter.listing().lines.len(), crate::filter::log::MAX_LINES);
}

fn address(n: u32, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(0x0A00_0000 | n))
    } else {
        IpAddr::V6((0xfd00_u128 << 112 | u128::from(n)).into())
    }
}

proptest! {
    /// What answers are sent to is what was asked from, whoever asks, and all sums stay right.
    #[test]
    fn translation_is_undone_by_the_answer(
        senders in prop::collection::vec((1..5u32, 1..4u16, 0..3u8), 1..20), v4: bool, random: [u64; 4],
    ) {
        let target = if v4 { "198.51.100.1" } else { "2001:db8::1" };
        let rules = Ruleset::parse(&format!("postrouting: snat to {target}")).unwrap();
        let mut filter = Filter::new(&rules, random);
        let now = start();
        let server = address(0xFF_FFFF, v4);
        let mut seen = std::collections::HashMap::new();
        for (n, port, kind) in senders {
            let from = SocketAddr::new(address(n, v4), port).to_string();
            let to = SocketAddr::new(server, 53).to_string();
            let ask = match kind {
                0 => udp(&from, &to),
                _ => tcp(&from, &to, SYN),
            };
            let sent = pass(&mut filter, now, &THROUGH, &ask).unwrap();
            let (name, _) = ends(&sent);
            // Nobody shares a name.
            let owner = seen.entry((name.clone(), kind == 0)).or_insert_with(|| from.clone()).clone();
            prop_assert_eq!(&owner, &from);
            let answer = match kind {
                0 => udp(&to, &name),
                _ => tcp(&to, &name, SYN_ACK),
            };
            let answer = pass(&mut filter, now, &THROUGH, &answer).unwrap();
            prop_assert_eq!(ends(&answer), (to, from.clone()));
            let error = exceeded(&address(77, v4).to_string(), target, &sent);
            let error = pass(&mut filter, now, &THROUGH, &error).unwrap();
            let quoted = View::new([&error, &[]]).unwrap().quoted().unwrap().tuple().unwrap();
            prop_assert_eq!(SocketAddr::new(quoted.source, quoted.sport).to_string(), from);
        }
    }

    #[test]
    fn any_bytes_are_judged(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..120), any::<u8>()), 1..40),
    ) {
        let mut filter = filter(
            "input: proto tcp dport 1-9 log drop\nprerouting: dnat to 10.9.9.9\npostrouting: snat to 10.8.8.8\n\
             postrouting: snat to fd00::8\noutput: state related,invalid reject",
        );
        let now = start();
        for (mut bytes, hooks) in packets {
            bytes[0] = if bytes[0] & 1 == 0 { 0x45 } else { 0x60 };
            let Some(view) = View::new([&bytes, &[]]) else { continue };
            let mut tracked = None;
            let hooks: &[Hook] = match hooks % 3 { 0 => &IN, 1 => &OUT, _ => &THROUGH };
            let head = view.head;
            let mut copy = bytes.clone();
            for hook in hooks {
                let view = View::new([&copy, &[]]).unwrap();
                if let Verdict::Translate(rewrite) = filter.judge(now, *hook, &view, Ends::default(), &mut tracked) {
                    let (head, upper) = copy.split_at_mut(head);
                    rewrite.apply(head, upper, false);
                }
            }
        }
    }
}
