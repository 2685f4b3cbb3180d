//! Packets as the inside sent them, as far as one can tell, to speak of them in ICMP errors (RFC 792, RFC 4443). A core.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::smol::net::Packet;
use crate::smol::tables::IfIndex;

/// Bytes of a UDP header.
const HEADER: usize = 8;
/// Bytes of a datagram that are quoted: enough for anybody, and for a path MTU in any case.
pub(super) const QUOTED: usize = 512;

/// A packet as the inside sent it, as far as one can tell: to speak of it.
pub(super) fn quote(
    link: IfIndex,
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    payload: Vec<u8>,
) -> Packet<'static> {
    Packet {
        link,
        source,
        destination,
        protocol,
        header: Cow::Owned(header(source, destination, protocol, payload.len())),
        payload: Cow::Owned(payload),
        ttl: 1,
        tos: 0,
        flow_label: 0,
        gso_size: 0,
        checked: true,
        group_frame: false,
        mac: None,
    }
}

/// A UDP header before data.
pub(super) fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let length = (HEADER + data.len()) as u16;
    let mut bytes = Vec::with_capacity(usize::from(length));
    [from, to, length, 0].iter().for_each(|word| bytes.extend_from_slice(&word.to_be_bytes()));
    bytes.extend_from_slice(data);
    bytes
}

/// The IP header of a packet as the inside sent it, as far as one can tell.
fn header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&((20 + length) as u16).to_be_bytes());
            header[6] = 0x40;
            (header[8], header[9]) = (1, protocol);
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let sum = !switch::offload::checksum::fold(switch::offload::checksum::sum(&header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            (header[6], header[7]) = (protocol, 1);
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
            header
        }
        _ => Vec::new(),
    }
}
