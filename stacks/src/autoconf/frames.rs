//! Frames of an interface that has no address yet but its own hardware address, and what follows from that.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use crate::dhcp6;
use crate::gateway::advertise::{self, HOPS};
use crate::steward::renewal::{CLIENT, SERVER};

const ETHERNET: usize = 14;
/// A neighbour advertisement that answers and overrides; the option that says a hardware address (RFC 4861 clause 4.4).
const ADVERTISEMENT: [u8; 8] = [136, 0, 0, 0, 0x60, 0, 0, 0];
const TARGET_LINK_LAYER: u8 = 2;

/// The link-local address of a hardware address (RFC 4291 appendix A).
pub(super) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xFE80, 0, 0, 0, word(a ^ 2, b), word(c, 0xFF), word(0xFE, d), word(e, f))
}

/// A message to all DHCP servers.
pub(super) fn to_servers_v4(mac: [u8; 6], message: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: CLIENT, dst_port: SERVER };
    let (source, everybody) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: everybody,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + message.len(),
        hop_limit: 64,
    };
    let length = ip.buffer_len() + ip.payload_len;
    let mut frame = frame(mac, EthernetAddress::BROADCAST, EthernetProtocol::Ipv4, length);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let ends = (IpAddress::Ipv4(source), IpAddress::Ipv4(everybody));
    let put = |room: &mut [u8]| room.copy_from_slice(message);
    udp.emit(&mut datagram, &ends.0, &ends.1, message.len(), put, &checksums);
    frame
}

/// A message to all DHCPv6 servers.
pub(super) fn to_servers_v6(mac: [u8; 6], message: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: dhcp6::CLIENT, dst_port: dhcp6::SERVER };
    let ends = (link_local(mac), dhcp6::ALL_SERVERS);
    // One hop is all that there is to a server on the link, or to a relay.
    packet_v6(mac, ends, (IpProtocol::Udp, 1), udp.header_len() + message.len(), |payload| {
        let ends = (IpAddress::Ipv6(ends.0), IpAddress::Ipv6(ends.1));
        let put = |room: &mut [u8]| room.copy_from_slice(message);
        let mut datagram = UdpPacket::new_unchecked(payload);
        udp.emit(&mut datagram, &ends.0, &ends.1, message.len(), put, &checksums);
    })
}

/// A question for all routers.
pub(super) fn solicitation(mac: [u8; 6]) -> Vec<u8> {
    let ends = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2));
    icmp_v6(mac, ends, &[advertise::SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
}

/// Whose our link-local address is.
pub(super) fn advertisement(mac: [u8; 6], to: Ipv6Addr) -> Vec<u8> {
    let own = link_local(mac);
    let option = [TARGET_LINK_LAYER, 1];
    icmp_v6(mac, (own, to), &[&ADVERTISEMENT[..], &own.octets(), &option, &mac].concat())
}

fn icmp_v6(mac: [u8; 6], ends: (Ipv6Addr, Ipv6Addr), message: &[u8]) -> Vec<u8> {
    packet_v6(mac, ends, (IpProtocol::Icmpv6, HOPS), message.len(), |payload| {
        payload.copy_from_slice(message);
        Icmpv6Packet::new_unchecked(payload).fill_checksum(&ends.0, &ends.1);
    })
}

fn packet_v6(
    mac: [u8; 6],
    (source, to): (Ipv6Addr, Ipv6Addr),
    (next_header, hop_limit): (IpProtocol, u8),
    length: usize,
    put: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip = Ipv6Repr { src_addr: source, dst_addr: to, next_header, payload_len: length, hop_limit };
    let [.., a, b, c, d] = to.octets();
    // Groups have hardware addresses of their own; all others hear what is for everybody.
    let station = if to.is_multicast() {
        EthernetAddress([0x33, 0x33, a, b, c, d])
    } else {
        EthernetAddress::BROADCAST
    };
    let mut frame = frame(mac, station, EthernetProtocol::Ipv6, ip.buffer_len() + length);
    let mut packet = Ipv6Packet::new_unchecked(&mut frame[ETHERNET..]);
    ip.emit(&mut packet);
    put(packet.payload_mut());
    frame
}

fn frame(mac: [u8; 6], to: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + length];
    let header = EthernetRepr { src_addr: EthernetAddress(mac), dst_addr: to, ethertype };
    header.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    bytes
}
