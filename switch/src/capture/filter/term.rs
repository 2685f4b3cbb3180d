//! One question about a frame.

use std::net::IpAddr;

use crate::capture::packet::{ARP, ICMP, ICMPV6, Network, Packet, SCTP, TCP, UDP};
use crate::frame::{IPV4, IPV6, Mac};

/// Which end of a conversation is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
    Either,
    Both,
}

impl End {
    fn of<T>(self, source: T, destination: T, wanted: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Source => wanted(source),
            Self::Destination => wanted(destination),
            Self::Either => wanted(source) || wanted(destination),
            Self::Both => wanted(source) && wanted(destination),
        }
    }
}

/// A protocol that may stand before a primitive, or alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proto {
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Icmp,
    Icmp6,
    Sctp,
}

impl Proto {
    pub(super) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            "arp" => Self::Arp,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "icmp" => Self::Icmp,
            "icmp6" => Self::Icmp6,
            "sctp" => Self::Sctp,
            _ => return None,
        })
    }

    /// Its number, if it is one above IP.
    pub(super) fn transport(self) -> Option<u8> {
        match self {
            Self::Tcp => Some(TCP),
            Self::Udp => Some(UDP),
            Self::Sctp => Some(SCTP),
            _ => None,
        }
    }

    fn matches(self, packet: &Packet<'_>) -> bool {
        match self {
            Self::Ip => packet.ethertype() == IPV4,
            Self::Ip6 => packet.ethertype() == IPV6,
            Self::Arp => packet.ethertype() == ARP,
            Self::Icmp => packet.is_v4_of(ICMP),
            Self::Icmp6 => packet.is_v6_of(ICMPV6),
            Self::Tcp => is_of(packet, TCP),
            Self::Udp => is_of(packet, UDP),
            Self::Sctp => is_of(packet, SCTP),
        }
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Term {
    Proto(Proto),
    /// Over IPv4 or IPv6, or either.
    IpProto(Option<Proto>, u8),
    /// An address, or those that begin with so many of its bits.
    Net(Option<Proto>, End, IpAddr, u8),
    /// A range of ports, of one protocol or of any.
    Ports(Option<u8>, End, u16, u16),
    Mac(End, Mac),
    Ethertype(u16),
    Broadcast,
    Multicast,
    Vlan(Option<u16>),
    Less(usize),
    Greater(usize),
}

impl Term {
    pub(super) fn matches(&self, packet: &Packet<'_>, len: usize) -> bool {
        match *self {
            Self::Proto(proto) => proto.matches(packet),
            Self::IpProto(None, number) => is_of(packet, number),
            Self::IpProto(Some(Proto::Ip), number) => packet.is_v4_of(number),
            Self::IpProto(Some(_), number) => packet.is_v6_of(number),
            Self::Net(proto, end, net, bits) => {
                proto.is_none_or(|proto| proto.matches(packet)) && has_address(packet, end, net, bits)
            }
            Self::Ports(protocol, end, first, last) => {
                let ports = packet.ports().filter(|_| {
                    protocol.is_none_or(|wanted| packet.transport().is_some_and(|(is, _)| is == wanted))
                });
                ports.is_some_and(|(from, to)| end.of(from, to, |port| (first..=last).contains(&port)))
            }
            Self::Mac(end, mac) => {
                end.of(packet.frame.source(), packet.frame.destination(), |address| address == mac)
            }
            Self::Ethertype(ethertype) => packet.ethertype() == ethertype,
            Self::Broadcast => packet.frame.destination() == Mac([0xFF; 6]),
            Self::Multicast => packet.frame.destination().is_group(),
            Self::Vlan(vid) => {
                let tag = packet.frame.tag();
                tag.is_some_and(|tag| vid.is_none_or(|vid| tag.raw_vid() == vid))
            }
            Self::Less(most) => len <= most,
            Self::Greater(least) => len >= least,
        }
    }
}

fn is_of(packet: &Packet<'_>, protocol: u8) -> bool {
    packet.is_v4_of(protocol) || packet.is_v6_of(protocol)
}

fn has_address(packet: &Packet<'_>, end: End, net: IpAddr, bits: u8) -> bool {
    match (packet.network, net) {
        (Network::V4 { from, to, .. } | Network::Arp { from, to, .. }, IpAddr::V4(net)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            end.of(from, to, |address| (address.to_bits() ^ net.to_bits()) & mask == 0)
        }
        (Network::V6 { from, to, .. }, IpAddr::V6(net)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            end.of(from, to, |address| (address.to_bits() ^ net.to_bits()) & mask == 0)
        }
        _ => false,
    }
}
