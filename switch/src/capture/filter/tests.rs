//! Filters: the language, and tcpdump as the referee of what they mean.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::capture::Way;
use crate::capture::pcapng::{self, Pcapng};

#[test]
fn what_is_no_filter_says_why() {
    for bad in [
        "host",
        "host x",
        "tcp host",
        "and",
        "not",
        "(tcp",
        "tcp)",
        "tcp udp",
        "port 70000",
        "arp port 1",
        "portrange 5-2",
        "ether host 1",
        "less",
        "net 10.0.0.0/33",
        "ip6 host 10.0.0.1",
        "frob",
        "tcp or",
        "&",
    ] {
        assert!(bad.parse::<Filter>().is_err(), "{bad}");
    }
    let deep = "(".repeat(40) + "tcp";
    assert!(deep.parse::<Filter>().unwrap_err().why.contains("parentheses"));
    assert!("tcp or ".repeat(200).parse::<Filter>().unwrap_err().why.contains("terms"));
    assert!(" ".repeat(4000).parse::<Filter>().unwrap_err().why.contains("long"));
    let error = "tcp prot 80".parse::<Filter>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`prot` is not understood here: expected an address, as 10.0.0.1, or with `net` 10.0.0.0/8"
    );
    assert!("".parse::<Filter>().unwrap().is_empty());
}

#[test]
fn tags_are_looked_through() {
    let tagged =
        [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 10][..], &ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6)];
    let tagged = tagged.concat();
    let wants = |filter: &str| filter.parse::<Filter>().unwrap().matches(&tagged, tagged.len());
    assert!(wants("host 10.0.0.1") && wants("vlan") && wants("vlan 10 and dst port 80"));
    assert!(!wants("vlan 11") && !wants("not vlan"));
}

/// EtherType, IPv4 header without options, ports 5000 and 80, some bytes.
fn ipv4(from: [u8; 4], to: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend([0x13, 0x88, 0, 80]);
    bytes.extend([0; 16]);
    bytes
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![Just("10.0.0.1".to_owned()), Just("10.0.0.2".to_owned()), Just("10.1.0.1".to_owned())]
}

/// Filters that libpcap understands as we do.
fn primitive() -> impl Strategy<Value = String> {
    let dir = prop_oneof![Just(""), Just("src "), Just("dst "), Just("src and dst "), Just("src or dst ")];
    let port = prop_oneof![Just("80"), Just("5000"), Just("7")];
    let l4 = prop_oneof![Just(""), Just("tcp "), Just("udp "), Just("sctp ")];
    prop_oneof![
        prop_oneof![
            Just("ip"),
            Just("ip6"),
            Just("arp"),
            Just("tcp"),
            Just("udp"),
            Just("icmp"),
            Just("icmp6"),
            Just("sctp"),
            Just("broadcast"),
            Just("multicast"),
            Just("ip proto 17"),
            Just("ip6 proto 6"),
            Just("less 60"),
            Just("greater 60"),
            Just("ether proto 0x88b5"),
            Just("ether host 02:00:00:00:00:01"),
            Just("ether dst 02:00:00:00:00:02"),
            Just("net 10.0.0.0/8"),
            Just("dst net 10.1.0.0/16"),
            Just("ip6 host fd00::1"),
            Just("net fd00::/16"),
            Just("portrange 70-90")
        ]
        .prop_map(str::to_owned),
        (dir.clone(), address()).prop_map(|(dir, a)| format!("{dir}host {a}")),
        address().prop_map(|a| format!("ip host {a}")),
        address().prop_map(|a| format!("arp host {a}")),
        (l4, dir, port).prop_map(|(proto, dir, port)| format!("{proto}{dir}port {port}")),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    primitive().prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), inner.clone(), any::<[bool; 2]>()).prop_map(|(a, b, c, and)| {
                let word = |and: bool| if and { "and" } else { "or" };
                format!("{a} {} {b} {} {c}", word(and[0]), word(and[1]))
            }),
            inner.clone().prop_map(|a| format!("not ({a})")),
            inner.prop_map(|a| format!("({a})")),
        ]
    })
}

fn frame() -> impl Strategy<Value = Vec<u8>> {
    let v4 = prop_oneof![Just([10, 0, 0, 1]), Just([10, 0, 0, 2]), Just([10, 1, 0, 1])];
    let port = prop_oneof![Just(80u16), Just(5000), Just(7)];
    let protocol = prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(132), Just(44)];
    let mac = prop_oneof![
        Just([2u8, 0, 0, 0, 0, 1]),
        Just([2, 0, 0, 0, 0, 2]),
        Just([0xFF; 6]),
        Just([1, 0, 0x5E, 0, 0, 1])
    ];
    let kind = prop_oneof![4 => Just(0x0800u16), 4 => Just(0x86DD), 2 => Just(0x0806), 1 => Just(0x88B5)];
    let ends = (v4.clone(), v4, port.clone(), port);
    (mac, kind, ends, protocol, any::<bool>(), 0..40usize).prop_map(
        |(mac, kind, (from, to, a, b), protocol, fragment, more)| {
            let mut bytes = [&mac[..], &[2, 0, 0, 0, 0, 1]].concat();
            bytes.extend(kind.to_be_bytes());
            match kind {
                0x0800 => {
                    bytes.extend([0x45, 0, 0, 40, 0, 0, 0, u8::from(fragment), 64, protocol, 0, 0]);
                    bytes.extend([from, to].concat());
                }
                0x86DD => {
                    bytes.extend([0x60, 0, 0, 0, 0, 20, protocol, 64]);
                    for end in [from, to] {
                        bytes.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end[3]]);
                    }
                }
                0x0806 => {
                    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
                    bytes.extend([&from[..], &[0; 6], &to].concat());
                }
                _ => {}
            }
            bytes.extend([a.to_be_bytes(), b.to_be_bytes()].concat());
            bytes.extend(vec![0; more]);
            bytes
        },
    )
}

#[test]
fn tcpdump_understands_them_as_we_do() {
    if Command::new("tcpdump").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: there is no tcpdump");
    }
    let cases = (filter(), prop::collection::vec(frame(), 40));
    let mut runner = TestRunner::new(Config { cases: 100, ..Config::default() });
    let judge = |(text, frames): (String, Vec<Vec<u8>>)| {
        let filter: Filter = text.parse().unwrap();
        let ours: Vec<usize> =
            (0..frames.len()).filter(|&i| filter.matches(&frames[i], frames[i].len())).collect();
        prop_assert_eq!(ours, by_tcpdump(&text, &frames), "{}", text);
        Ok(())
    };
    runner.run(&cases, judge).unwrap();
}

/// Which frames tcpdump chooses; their times are their numbers.
fn by_tcpdump(filter: &str, frames: &[Vec<u8>]) -> Vec<usize> {
    let mut file = Pcapng::new("test");
    file.interface("x", 0);
    for (i, frame) in frames.iter().enumerate() {
        let time_ns = (i as u64 + 1) * 1_000_000_000;
        let pieces = &[&frame[..]][..];
        file.packet(&pcapng::Packet {
            interface: 0,
            time_ns,
            way: Way::In,
            snap: usize::MAX,
            len: 0,
            pieces,
            comment: "",
        });
    }
    let mut command = Command::new("tcpdump");
    command
        .args(["-tt", "-n", "-q", "-r", "-", filter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(file.bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() || said.contains("rejects all packets"), "{filter}: {said}");
    let lines = String::from_utf8_lossy(&out.stdout).into_owned();
    let time = |line: &str| line.split_once('.')?.0.parse::<usize>().ok();
    lines.lines().filter_map(time).map(|seconds| seconds - 1).collect()
}

proptest! {
    #[test]
    fn any_text_is_a_filter_or_an_error(text in "[ a-z0-9.:/()!&|-]{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(filter) = text.parse::<Filter>() {
            let _ = filter.matches(&bytes, bytes.len());
        }
    }

    #[test]
    fn any_words_are_a_filter_or_an_error(words in prop::collection::vec(
        prop_oneof!["tcp", "src", "dst", "host", "net", "port", "and", "or", "not", "ether", "vlan", "proto", "10\\.0\\.0\\.1", "5", "\\(", "\\)"], 0..12),
        bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(filter) = words.join(" ").parse::<Filter>() {
            let _ = filter.matches(&bytes, bytes.len());
        }
    }
}
