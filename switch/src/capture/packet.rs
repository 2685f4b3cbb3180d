//! The headers of a frame, as far as filters and people look.
//!
//! # Theory of operation
//! [`Packet::parse`] looks through the VLAN tag, at the network header, and says where the transport header begins.
//! It trusts nothing: what is cut off or contradicts itself is [`Network::Other`], and every later look at a byte
//! may find that there is none.
//!
//! Read: RFC 791, RFC 826, RFC 8200.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::{Frame, HEADER_LEN, IPV4, IPV6, TPID};

/// EtherType of ARP (RFC 826).
pub const ARP: u16 = 0x0806;
/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;
/// See [`ICMP`].
pub const SCTP: u8 = 132;
/// IPv6's fragment header (RFC 8200 clause 4.5).
pub const FRAGMENT: u8 = 44;

/// A frame with its headers.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The frame, or as much of it as was kept.
    pub frame: Frame<'a>,
    /// What it carries.
    pub network: Network,
}

/// The network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4 {
        /// Source.
        from: Ipv4Addr,
        /// Destination.
        to: Ipv4Addr,
        /// What it carries.
        protocol: u8,
        /// A fragment other than the first, so without transport header.
        later_fragment: bool,
        /// Where the transport header begins, from the frame's first byte.
        transport: usize,
        /// Bytes of the packet, by its own account.
        len: usize,
    },
    /// IPv6.
    V6 {
        /// Source.
        from: Ipv6Addr,
        /// Destination.
        to: Ipv6Addr,
        /// What follows the fixed header.
        next: u8,
        /// Where that begins, from the frame's first byte.
        transport: usize,
        /// Bytes behind the fixed header, by its own account.
        len: usize,
    },
    /// ARP for IPv4 over Ethernet.
    Arp {
        /// Sender's address.
        from: Ipv4Addr,
        /// Target's address.
        to: Ipv4Addr,
        /// 1 request, 2 reply.
        operation: u16,
    },
    /// Something else.
    Other,
}

impl<'a> Packet<'a> {
    /// Reads the headers; `None` if the frame is too short to be one.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let frame = Frame::new(bytes)?;
        let payload = &bytes[frame.header_len()..];
        let at = frame.header_len();
        let network = match frame.ethertype() {
            IPV4 => ipv4(payload, at),
            IPV6 => ipv6(payload, at),
            ARP => arp(payload),
            _ => None,
        };
        Some(Self { frame, network: network.unwrap_or(Network::Other) })
    }

    /// The EtherType behind the tag.
    pub fn ethertype(&self) -> u16 {
        self.frame.ethertype()
    }

    /// Has it a VLAN tag?
    pub fn is_tagged(&self) -> bool {
        self.frame.header_len() > HEADER_LEN && self.frame.bytes()[12..14] == TPID.to_be_bytes()
    }

    /// The transport protocol and where its header begins, if the packet has its beginning.
    pub fn transport(&self) -> Option<(u8, usize)> {
        match self.network {
            Network::V4 { protocol, later_fragment: false, transport, .. } => Some((protocol, transport)),
            Network::V6 { next, transport, .. } => Some((next, transport)),
            _ => None,
        }
    }

    /// Source and destination port of TCP, UDP and SCTP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let (protocol, at) = self.transport()?;
        let ports = self.frame.bytes().get(at..at + 4)?;
        [TCP, UDP, SCTP]
            .contains(&protocol)
            .then(|| (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    /// Is it IPv6 whose next header, or the one behind a fragment header, is this one?
    pub fn is_v6_of(&self, wanted: u8) -> bool {
        match self.network {
            Network::V6 { next, .. } if next == wanted => true,
            Network::V6 { next: FRAGMENT, transport, .. } => {
                self.frame.bytes().get(transport) == Some(&wanted)
            }
            _ => false,
        }
    }

    /// Is it IPv4 of this protocol?
    pub fn is_v4_of(&self, wanted: u8) -> bool {
        matches!(self.network, Network::V4 { protocol, .. } if protocol == wanted)
    }
}

fn ipv4(header: &[u8], at: usize) -> Option<Network> {
    let fixed = header.first_chunk::<20>()?;
    let len = usize::from(fixed[0] & 0x0F) * 4;
    if fixed[0] >> 4 != 4 || len < 20 {
        return None;
    }
    let half = |i: usize| u16::from_be_bytes([fixed[i], fixed[i + 1]]);
    let address = |i: usize| Ipv4Addr::new(fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]);
    Some(Network::V4 {
        from: address(12),
        to: address(16),
        protocol: fixed[9],
        later_fragment: half(6) & 0x1FFF != 0,
        transport: at + len,
        len: usize::from(half(2)),
    })
}

fn ipv6(header: &[u8], at: usize) -> Option<Network> {
    let fixed = header.first_chunk::<40>()?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let address = |i: usize| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&fixed[i..i + 16]);
        Ipv6Addr::from(bytes)
    };
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    Some(Network::V6 { from: address(8), to: address(24), next: fixed[6], transport: at + 40, len })
}

fn arp(packet: &[u8]) -> Option<Network> {
    let fixed = packet.first_chunk::<28>()?;
    // Ethernet, IPv4, and their addresses' lengths.
    if fixed[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let address = |i: usize| Ipv4Addr::new(fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]);
    let operation = u16::from_be_bytes([fixed[6], fixed[7]]);
    Some(Network::Arp { from: address(14), to: address(24), operation })
}
