//! ICMP messages that arrived (RFC 792, RFC 4443).
//!
//! # Theory of operation
//! Echo requests are answered, IPv4's to groups and everybody are not (icmp_echo_ignore_broadcasts). Neighbour
//! discovery and group queries go where they belong. An error about a packet of ours becomes a [`NetError`] with
//! the errno that Linux makes of it (icmp_err_convert in net/ipv4/icmp.c, icmpv6_err_convert in
//! net/ipv6/icmp.c), for the socket that sent the packet: it alone can tell whether the quoted packet is its
//! own, so a path MTU is learned only when it says so by [`Net::set_path_mtu`] (RFC 5927). Only for echo
//! replies, which no socket sent, is it learned here.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use nix::errno::Errno;

use super::icmp_error::control;
use super::ipv4::Header4;
use super::ipv6::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, Header6, ROUTING};
use super::output::{ICMP, ICMPV6, V6_HEADER};
use super::{Datagram, Delivery, Net, NetError, Packet, Wish};

/// Bytes of a quoted packet behind its IP header without which nobody can tell whose it is (RFC 792).
const QUOTED: usize = 8;
/// Extension headers that a quoted packet is searched through.
const MAX_EXTENSIONS: usize = 8;

/// A packet that an error quotes.
pub(super) struct Quoted {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Where its upper-layer header begins, from its start.
    pub(super) upper: usize,
}

impl Net {
    pub(super) fn icmp_input<'f>(&mut self, now: Instant, packet: Packet<'f>) -> Delivery<'f> {
        self.mib.heard(true, packet.payload[0]);
        let group = packet.group_frame || packet.destination.is_multicast();
        match packet.payload[0] {
            8 if !group && !self.stands_for(packet.destination) => self.answer(now, &packet, 0),
            13 if !group && !self.stands_for(packet.destination) && packet.payload.len() >= 20 => {
                self.answer_time(now, &packet)
            }
            3 | 4 | 11 | 12 => return self.icmp_error(now, packet),
            5 => return self.redirected_v4(now, packet),
            _ => {}
        }
        Delivery::Packet(packet)
    }

    pub(super) fn icmpv6_input<'f>(&mut self, now: Instant, packet: Packet<'f>) -> Delivery<'f> {
        self.mib.heard(false, packet.payload[0]);
        match packet.payload[0] {
            1..=4 => return self.icmp_error(now, packet),
            128 if packet.payload.len() >= 8 && !self.stands_for(packet.destination) => {
                self.answer(now, &packet, 129);
            }
            130 | 131 | 132 | 143 => self.mld_input(now, &packet),
            133..=137 => self.ndp_input(now, &packet),
            _ => {}
        }
        Delivery::Packet(packet)
    }

    /// Answers an echo request.
    fn answer(&mut self, now: Instant, request: &Packet<'_>, kind: u8) {
        let mut head = [0; 8];
        head.copy_from_slice(&request.payload[..8]);
        head[0] = kind;
        self.answer_with(now, request, &[&head, &request.payload[8..]]);
    }

    /// Answers a timestamp request (RFC 792). There is no clock here: the originator's time with the bit that
    /// says it is none of the usual kind.
    fn answer_time(&mut self, now: Instant, request: &Packet<'_>) {
        let mut message = [0; 20];
        message.copy_from_slice(&request.payload[..20]);
        message[0] = 14;
        let mut time = [message[8], message[9], message[10], message[11]];
        time[0] |= 0x80;
        message[12..16].copy_from_slice(&time);
        message[16..20].copy_from_slice(&time);
        self.answer_with(now, request, &[&message]);
    }

    fn answer_with(&mut self, now: Instant, request: &Packet<'_>, message: &[&[u8]]) {
        let link_local = matches!(request.source, IpAddr::V6(address) if address.is_unicast_link_local());
        let wish = Wish {
            source: (!request.destination.is_multicast()).then_some(request.destination),
            link: link_local.then_some(request.link),
            ..Wish::default()
        };
        let Ok(path) = self.route(request.source, &wish) else { return };
        if path.group {
            return;
        }
        let datagram = Datagram {
            tos: if request.source.is_ipv4() { request.tos } else { 0 },
            ..control(request.source)
        };
        let _ = self.send(now, &path, &datagram, message);
    }

    /// An error about a packet that we sent, if it is one.
    fn icmp_error<'f>(&mut self, now: Instant, packet: Packet<'f>) -> Delivery<'f> {
        let Some(bytes) = packet.payload.get(8..) else { return Delivery::Packet(packet) };
        let v4 = packet.source.is_ipv4();
        let (kind, code) = (packet.payload[0], packet.payload[1]);
        let value = [packet.payload[4], packet.payload[5], packet.payload[6], packet.payload[7]];
        let word = u32::from_be_bytes(value);
        let meaning = if v4 { meaning_v4(kind, code, word) } else { meaning_v6(kind, code, word) };
        let quoted = if v4 { quoted_v4(bytes) } else { quoted_v6(bytes) };
        let (Some((errno, fatal, info)), Some(quoted)) = (meaning, quoted) else {
            return Delivery::Packet(packet);
        };
        if self.owner(quoted.source).is_none() && !self.stands_for(quoted.source) {
            return Delivery::Packet(packet);
        }
        let error = NetError {
            errno,
            fatal,
            icmp: (kind, code),
            info,
            offender: packet.source,
            source: quoted.source,
            destination: quoted.destination,
            protocol: quoted.protocol,
            link: packet.link,
        };
        let rest = bytes[quoted.upper..].to_vec();
        let echo_reply = matches!((quoted.protocol, rest.first()), (ICMP, Some(0)) | (ICMPV6, Some(129)));
        if errno == Errno::EMSGSIZE && echo_reply {
            self.set_path_mtu(now, quoted.destination, info);
        }
        Delivery::Error(error, packet, rest)
    }

    /// What a redirect's quoted packet says of its destination, if it was ours.
    pub(super) fn quoted_destination(&self, bytes: &[u8]) -> Option<IpAddr> {
        let quoted = quote(bytes);
        quoted.filter(|quoted| self.owner(quoted.source).is_some()).map(|quoted| quoted.destination)
    }
}

/// Whose a packet is.
pub(super) fn quote(bytes: &[u8]) -> Option<Quoted> {
    if bytes.first()? >> 4 == 4 { quoted_v4(bytes) } else { quoted_v6(bytes) }
}

/// Errno, fatal or not, and the value that goes with it. `None`: not for sockets.
fn meaning_v4(kind: u8, code: u8, value: u32) -> Option<(Errno, bool, u32)> {
    const UNREACHABLE: [(Errno, bool); 16] = [
        (Errno::ENETUNREACH, false),
        (Errno::EHOSTUNREACH, false),
        (Errno::ENOPROTOOPT, true),
        (Errno::ECONNREFUSED, true),
        (Errno::EMSGSIZE, false),
        (Errno::EOPNOTSUPP, false),
        (Errno::ENETUNREACH, true),
        (Errno::EHOSTDOWN, true),
        (Errno::ENONET, true),
        (Errno::ENETUNREACH, true),
        (Errno::EHOSTUNREACH, true),
        (Errno::ENETUNREACH, false),
        (Errno::EHOSTUNREACH, false),
        (Errno::EHOSTUNREACH, true),
        (Errno::EHOSTUNREACH, true),
        (Errno::EHOSTUNREACH, true),
    ];
    match (kind, code) {
        (3, _) => {
            let (errno, fatal) = *UNREACHABLE.get(usize::from(code))?;
            Some((errno, fatal, if code == 4 { value & 0xFFFF } else { 0 }))
        }
        // Reassembly is the sender's packet's fate, not the way's.
        (11, 0) => Some((Errno::EHOSTUNREACH, false, 0)),
        (12, _) => Some((Errno::EPROTO, true, value >> 24)),
        _ => None,
    }
}

fn meaning_v6(kind: u8, code: u8, value: u32) -> Option<(Errno, bool, u32)> {
    const UNREACHABLE: [(Errno, bool); 7] = [
        (Errno::ENETUNREACH, false),
        (Errno::EACCES, true),
        (Errno::EHOSTUNREACH, false),
        (Errno::EHOSTUNREACH, false),
        (Errno::ECONNREFUSED, true),
        (Errno::EACCES, true),
        (Errno::EACCES, true),
    ];
    match kind {
        1 => {
            let (errno, fatal) = UNREACHABLE.get(usize::from(code)).copied().unwrap_or((Errno::EPROTO, true));
            Some((errno, fatal, 0))
        }
        2 => Some((Errno::EMSGSIZE, false, value)),
        3 => Some((Errno::EHOSTUNREACH, false, 0)),
        4 => Some((Errno::EPROTO, true, value)),
        _ => None,
    }
}

fn quoted_v4(bytes: &[u8]) -> Option<Quoted> {
    // A router may have cut it: its length is no measure.
    let header = Header4::parse(bytes, usize::MAX)?;
    (bytes.len() >= header.len + QUOTED && header.offset == 0).then_some(Quoted {
        source: IpAddr::V4(header.source),
        destination: IpAddr::V4(header.destination),
        protocol: header.protocol,
        upper: header.len,
    })
}

fn quoted_v6(bytes: &[u8]) -> Option<Quoted> {
    let header = Header6::parse(bytes, usize::MAX)?;
    let (mut next, mut at) = (header.next, V6_HEADER);
    for _ in 0..=MAX_EXTENSIONS {
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + usize::from(*bytes.get(at + 1)?) * 8,
            // Only the first fragment has the upper-layer header.
            FRAGMENT if bytes.get(at + 2..at + 4)?[0] == 0 && bytes[at + 3] & 0xF8 == 0 => 8,
            FRAGMENT => return None,
            _ => break,
        };
        next = *bytes.get(at)?;
        at += len;
    }
    (bytes.len() >= at + QUOTED).then_some(Quoted {
        source: IpAddr::V6(header.source),
        destination: IpAddr::V6(header.destination),
        protocol: next,
        upper: at,
    })
}

/// Is it an address that one host may have?
pub(super) fn is_one_host(address: Ipv6Addr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
}
