//! Questions go elsewhere, answers come back, checksums are right.

use proptest::prelude::*;
use switch::offload::checksum;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A UDP or TCP packet with right checksums.
fn packet(protocol: u8, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Vec<u8> {
    let header = if protocol == UDP { 8 } else { 20 };
    let mut upper = vec![0; header];
    upper[..2].copy_from_slice(&from.1.to_be_bytes());
    upper[2..4].copy_from_slice(&to.1.to_be_bytes());
    let len = header + payload.len();
    match protocol {
        UDP => upper[4..6].copy_from_slice(&(len as u16).to_be_bytes()),
        _ => upper[12] = 0x50,
    }
    upper.extend(payload);
    let mut packet = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0; 12];
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
            ip[8..10].copy_from_slice(&[64, protocol]);
            [ip, from.octets().to_vec(), to.octets().to_vec()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            ip[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            [ip, from.octets().to_vec(), to.octets().to_vec()].concat()
        }
        _ => panic!("two families"),
    };
    let at = packet.len();
    packet.extend(upper);
    if at == 20 {
        let sum = !checksum::fold(checksum::sum(&packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let field = at + if protocol == UDP { 6 } else { 16 };
    let addresses = if at == 20 { 12..20 } else { 8..40 };
    let pseudo = checksum::pseudo(&packet[addresses], protocol, packet.len() - at);
    let sum = match !checksum::fold(pseudo + checksum::sum(&packet[at..])) {
        0 if protocol == UDP => 0xFFFF,
        sum => sum,
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn names() -> Names {
    let machine = ["127.0.0.53", "192.168.1.1", "fe80::1"].map(ip).to_vec();
    Names::new(machine, ["10.0.0.53", "10.0.0.54", "fd00::53"].map(ip).to_vec())
}

#[test]
fn a_question_goes_to_the_tunnels_nameserver_and_its_answer_comes_from_the_machines() {
    let mut names = names();
    for (machine, ours, me) in [
        ("127.0.0.53", "10.0.0.53", "10.9.0.2"),
        ("192.168.1.1", "10.0.0.54", "10.9.0.2"),
        ("fe80::1", "fd00::53", "fd09::2"),
    ] {
        for protocol in [TCP, UDP] {
            let mut question = packet(protocol, (me, 4000), (machine, 53), b"who?");
            names.outbound(&mut question);
            assert_eq!(question, packet(protocol, (me, 4000), (ours, 53), b"who?"));
            let mut answer = packet(protocol, (ours, 53), (me, 4000), b"me");
            names.inbound(&mut answer);
            assert_eq!(answer, packet(protocol, (machine, 53), (me, 4000), b"me"));
            // Of another protocol or port nothing was asked.
            for other in [
                packet(protocol, (ours, 53), (me, 4001), b"me"),
                packet(TCP + UDP - protocol, (ours, 53), (me, 4000), b"me"),
                packet(protocol, (ours, 54), (me, 4000), b"me"),
            ] {
                let mut same = other.clone();
                names.inbound(&mut same);
                assert_eq!(same, other);
            }
        }
    }
}

#[test]
fn all_else_passes_as_it_is() {
    let mut names = names();
    let mut fragment = packet(UDP, ("10.9.0.2", 4000), ("127.0.0.53", 53), b"who?");
    fragment[6] = 0x20;
    for other in [
        packet(UDP, ("10.9.0.2", 4000), ("10.0.0.53", 53), b"asked itself"),
        packet(UDP, ("10.9.0.2", 4000), ("127.0.0.53", 853), b"who?"),
        fragment,
        vec![],
        vec![0x45],
    ] {
        let mut same = other.clone();
        names.outbound(&mut same);
        names.inbound(&mut same);
        assert_eq!(same, other);
    }
    assert!(names.may_rewrite(ip("127.0.0.53")) && !names.may_rewrite(ip("10.0.0.53")));
    assert!(!Names::new(vec![ip("127.0.0.53")], vec![]).may_rewrite(ip("127.0.0.53")));
}

proptest! {
    #[test]
    fn no_packet_makes_it_stumble(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v4: bool, to_name: bool) {
        let mut names = names();
        if let Some(first) = bytes.first_mut() {
            *first = if v4 { 0x45 } else { 0x60 };
        }
        if to_name && v4 && bytes.len() >= 24 {
            (bytes[6], bytes[7], bytes[9]) = (0, 0, UDP);
            bytes[16..20].copy_from_slice(&[127, 0, 0, 53]);
            bytes[22..24].copy_from_slice(&[0, 53]);
        }
        let len = bytes.len();
        names.outbound(&mut bytes);
        names.inbound(&mut bytes);
        prop_assert_eq!(bytes.len(), len);
    }

    #[test]
    fn the_mended_checksum_is_the_right_one(payload in prop::collection::vec(any::<u8>(), 0..64), port in 1024u16.., tcp: bool) {
        let mut names = names();
        let protocol = if tcp { TCP } else { UDP };
        let mut question = packet(protocol, ("10.9.0.2", port), ("192.168.1.1", 53), &payload);
        names.outbound(&mut question);
        prop_assert_eq!(question, packet(protocol, ("10.9.0.2", port), ("10.0.0.54", 53), &payload));
    }
}
