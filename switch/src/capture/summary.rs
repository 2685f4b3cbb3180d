//! A frame as a line of text, short.
//!
//! The shape is `[vlan N ]FROM > TO PROTOCOL DETAILS`, with addresses of the highest layer that has any.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::packet::{ICMP, ICMPV6, Network, Packet, SCTP, TCP, UDP};

/// The frame `bytes`, of which there were `len`, in words.
pub fn line(bytes: &[u8], len: usize) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = match Packet::parse(bytes) {
        Some(packet) => describe(&mut text, &packet, len),
        None => write!(text, "a frame of {len} bytes, too short"),
    };
    text
}

fn describe(out: &mut String, packet: &Packet<'_>, len: usize) -> fmt::Result {
    if let Some(tag) = packet.frame.tag() {
        write!(out, "vlan {} ", tag.raw_vid())?;
    }
    let (from, to) = match packet.network {
        Network::V4 { from, to, .. } => (IpAddr::from(from), IpAddr::from(to)),
        Network::V6 { from, to, .. } => (IpAddr::from(from), IpAddr::from(to)),
        Network::Arp { from, to, operation: 1 } => return write!(out, "{from} ARP who has {to}"),
        Network::Arp { from, operation: 2, .. } => {
            return write!(out, "{from} ARP is at {}", packet.frame.source());
        }
        _ => {
            let (from, to) = (packet.frame.source(), packet.frame.destination());
            return write!(out, "{from} > {to} ethertype 0x{:04x} length {len}", packet.ethertype());
        }
    };
    let transport = packet.transport();
    match packet.ports() {
        Some((a, b)) if from.is_ipv6() => write!(out, "[{from}]:{a} > [{to}]:{b} ")?,
        Some((a, b)) => write!(out, "{from}:{a} > {to}:{b} ")?,
        None => write!(out, "{from} > {to} ")?,
    }
    let (end, protocol) = match packet.network {
        Network::V4 { len, protocol, .. } => (packet.frame.header_len() + len, protocol),
        Network::V6 { len, next, transport, .. } => (transport + len, next),
        _ => (len, 0),
    };
    // Super-segments beyond 64 KiB have no length of their own.
    let end = if end <= packet.frame.header_len() { len } else { end };
    let header = transport.and_then(|(_, at)| Some((at, packet.frame.bytes().get(at..)?)));
    match (protocol, header) {
        (TCP, Some((at, header))) if header.len() >= 20 => tcp(out, header, end.saturating_sub(at)),
        (UDP, Some((at, _))) => write!(out, "UDP {}", end.saturating_sub(at + 8)),
        (ICMP, Some((_, [kind, code, ..]))) => icmp(out, "ICMP", *kind, *code, [8, 0]),
        (ICMPV6, Some((_, [kind, code, ..]))) => icmp(out, "ICMPv6", *kind, *code, [128, 129]),
        (SCTP, Some((at, _))) => write!(out, "SCTP {}", end.saturating_sub(at + 12)),
        (protocol, Some((at, _))) => write!(out, "protocol {protocol} {}", end.saturating_sub(at)),
        (protocol, None) => write!(out, "protocol {protocol} fragment"),
    }
}

fn tcp(out: &mut String, header: &[u8], len: usize) -> fmt::Result {
    let word = |i: usize| u32::from_be_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let flags = header[13];
    let names = [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, '.'), (64, 'E'), (128, 'W')];
    let flags: String = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect();
    let window = u16::from_be_bytes([header[14], header[15]]);
    let payload = len.saturating_sub(usize::from(header[12] >> 4) * 4);
    write!(out, "TCP [{flags}] seq {} ack {} win {window} len {payload}", word(4), word(8))
}

fn icmp(out: &mut String, name: &str, kind: u8, code: u8, echo: [u8; 2]) -> fmt::Result {
    match kind {
        kind if kind == echo[0] => write!(out, "{name} echo request"),
        kind if kind == echo[1] => write!(out, "{name} echo reply"),
        kind => write!(out, "{name} type {kind} code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn lines() {
        let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
        let arp = frame(0x0806, &arp);
        assert_eq!(line(&arp, arp.len()), "10.0.0.1 ARP who has 10.0.0.2");
        let mut ip = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip.extend([0, 53, 0x13, 0x88, 0, 9, 0, 0, 7]);
        let udp = frame(0x0800, &ip);
        assert_eq!(line(&udp, udp.len()), "10.0.0.1:53 > 10.0.0.2:5000 UDP 1");
        let tagged = frame(0x8100, &[&[0, 10, 8, 0][..], &ip].concat());
        assert_eq!(line(&tagged, tagged.len()), "vlan 10 10.0.0.1:53 > 10.0.0.2:5000 UDP 1");
        let other = frame(0x88B5, &[1, 2]);
        assert_eq!(line(&other, 16), "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x88b5 length 16");
        assert_eq!(line(&[1], 1), "a frame of 1 bytes, too short");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_line(bytes in prop::collection::vec(any::<u8>(), 0..100), kind in 0..4usize) {
            let mut bytes = bytes;
            if let Some(place) = bytes.get_mut(12..14) {
                place.copy_from_slice(&[0x0800u16, 0x86DD, 0x0806, 0x8100][kind].to_be_bytes());
            }
            prop_assert!(line(&bytes, bytes.len()).is_ascii());
        }
    }
}
