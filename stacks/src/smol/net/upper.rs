//! Whole packets for us: checksums, and who gets them.
//!
//! # Theory of operation
//! TCP, UDP, UDP-Lite and ICMP packets are given on only if their checksum is right, or was vouched for: by the port that
//! left it partial (virtio-net), or because the packet never left this stack. ICMP and group management act here
//! and go on all the same, as raw and ICMP sockets want them.

use std::borrow::Cow;
use std::time::Instant;

use switch::offload::checksum::{fold, sum};

use super::output::{ICMP, ICMPV6, TCP, UDP, UDP_LITE, pseudo_sum};
use super::{Delivery, Net, Packet};
use crate::smol::mib::Unsound;

/// IPPROTO_IGMP
pub(super) const IGMP: u8 = 2;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

impl Net {
    /// A whole packet for us.
    pub(super) fn upper_input<'f>(&mut self, now: Instant, mut packet: Packet<'f>) -> Delivery<'f> {
        let v4 = packet.source.is_ipv4();
        if is_ours(packet.protocol, v4) {
            self.mib.ip(v4).in_delivers += 1;
        }
        if let Err(why) = check(&mut packet) {
            self.mib.unsound(&packet, why);
            return self.bad(packet.link);
        }
        match packet.protocol {
            ICMP if v4 => self.icmp_input(now, packet),
            ICMPV6 if !v4 => self.icmpv6_input(now, packet),
            IGMP if v4 => {
                self.igmp_input(now, &packet);
                Delivery::Packet(packet)
            }
            _ => Delivery::Packet(packet),
        }
    }
}

/// Whether the protocol is one of those that a stack itself knows; all others are raw sockets', or nobody's.
fn is_ours(protocol: u8, v4: bool) -> bool {
    match protocol {
        TCP | UDP | UDP_LITE => true,
        ICMP | IGMP => v4,
        ICMPV6 => !v4,
        _ => false,
    }
}

/// Looks at a UDP-Lite datagram: its checksum covers as much as it says and cannot be absent (RFC 3828 clause 3.1).
fn check_lite(packet: &mut Packet<'_>) -> Result<(), Unsound> {
    let bytes: &[u8] = &packet.payload;
    let header = bytes.first_chunk::<UDP_HEADER>().ok_or(Unsound::Length)?;
    let covered = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
        0 => bytes.len(),
        covered => covered,
    };
    let covered =
        bytes.get(..covered).filter(|covered| covered.len() >= UDP_HEADER).ok_or(Unsound::Length)?;
    if !packet.checked {
        let pseudo = pseudo_sum(packet.source, packet.destination, packet.protocol, bytes.len());
        packet.checked = header[6..] != [0, 0] && fold(pseudo + sum(covered)) == 0xFFFF;
    }
    if packet.checked { Ok(()) } else { Err(Unsound::Sum) }
}

/// Looks at lengths and checksum of the protocols that we know; cuts off what is behind a UDP datagram.
fn check(packet: &mut Packet<'_>) -> Result<(), Unsound> {
    let v4 = packet.source.is_ipv4();
    let minimum = match packet.protocol {
        TCP => TCP_HEADER,
        UDP => UDP_HEADER,
        ICMP if v4 => 8,
        ICMPV6 if !v4 => 4,
        UDP_LITE => return check_lite(packet),
        _ => return Ok(()),
    };
    if packet.payload.len() < minimum {
        return Err(Unsound::Length);
    }
    if packet.protocol == UDP && packet.gso_size == 0 {
        let len = usize::from(u16::from_be_bytes([packet.payload[4], packet.payload[5]]));
        if len < UDP_HEADER || len > packet.payload.len() {
            return Err(Unsound::Length);
        }
        match &mut packet.payload {
            Cow::Borrowed(bytes) => *bytes = &bytes[..len],
            Cow::Owned(bytes) => bytes.truncate(len),
        }
        if packet.payload[6..8] == [0, 0] && !packet.checked {
            // The sender made none, which only IPv4 allows (RFC 768, RFC 8200 clause 8.1).
            packet.checked = true;
            return if v4 { Ok(()) } else { Err(Unsound::Sum) };
        }
    }
    if !packet.checked {
        let pseudo = pseudo_sum(packet.source, packet.destination, packet.protocol, packet.payload.len());
        packet.checked = fold(pseudo + sum(&packet.payload)) == 0xFFFF;
    }
    if packet.checked { Ok(()) } else { Err(Unsound::Sum) }
}
