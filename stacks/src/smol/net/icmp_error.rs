//! ICMP errors that we send (RFC 792, RFC 1122 clause 3.2.2, RFC 1812 clause 4.3, RFC 4443 clause 2.4).
//!
//! # Theory of operation
//! [`Net::tell`] says to a packet's sender what is wrong with it, unless one of the rules forbids: no error about
//! an error or a redirect, about a group's or everybody's packet, about any but the first fragment, or to who
//! cannot be one host. What is left is rationed twice, as in Linux: one error a second to each destination, six
//! at once (icmp_ratelimit and XRLIM_BURST_FACTOR), and a thousand a second in all, fifty at once
//! (icmp_msgs_per_sec, icmp_msgs_burst). Path MTU messages are only rationed in all; nothing is on the loopback.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::output::{ICMP, ICMPV6, V6_HEADER};
use super::{Datagram, Fragmenting, Net, Packet, Rejection, Wish};
use crate::smol::tables::RouteKind;

/// Bytes of an ICMPv4 error with its IP header, at most (RFC 1812 clause 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Bytes of an ICMPv6 error with its IP header, at most (RFC 4443 clause 2.4 (c)).
const LONGEST_V6: usize = 1280;
/// Hop limit of what we send ourselves (RFC 1700, ip_default_ttl).
pub(super) const DEFAULT_TTL: u8 = 64;
/// Type of service of IPv4 errors: internetwork control (RFC 1812 clause 4.3.2.5).
const ERROR_TOS: u8 = 0xC0;

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody has the port.
    Port,
    /// Nobody has the protocol (IPv4).
    Protocol,
    /// Nobody knows the header that is named there (IPv6).
    UnknownHeader {
        /// Place of the field, from the packet's start.
        at: u32,
    },
    /// An option that must not be passed over (IPv6).
    UnknownOption {
        /// Place of its type.
        at: u32,
        /// Even the sender to a group is told.
        told_groups: bool,
    },
    /// A field makes no sense.
    BadField {
        /// Its place.
        at: u32,
    },
    /// The first fragment does not hold all headers (IPv6, RFC 7112).
    CutHeaders,
    /// It has come too far.
    Hops,
    /// Its other fragments did not come.
    Reassembly,
    /// No route.
    Network,
    /// The neighbour does not answer.
    Host,
    /// A route of type prohibit.
    Prohibited,
    /// A link-local source does not reach beyond its link (IPv6).
    Scope,
    /// Too long for the way, and not to be fragmented.
    TooBig {
        /// The longest that goes.
        mtu: u32,
    },
}

impl Trouble {
    /// Type, code, and the four bytes behind the checksum.
    fn icmp_v4(self) -> Option<(u8, u8, u32)> {
        Some(match self {
            Self::Network => (3, 0, 0),
            Self::Host => (3, 1, 0),
            Self::Protocol => (3, 2, 0),
            Self::Port => (3, 3, 0),
            Self::TooBig { mtu } => (3, 4, mtu.min(0xFFFF)),
            Self::Prohibited => (3, 13, 0),
            Self::Hops => (11, 0, 0),
            Self::Reassembly => (11, 1, 0),
            Self::BadField { at } => (12, 0, at << 24),
            Self::UnknownHeader { .. } | Self::UnknownOption { .. } | Self::CutHeaders | Self::Scope => {
                return None;
            }
        })
    }

    fn icmp_v6(self) -> Option<(u8, u8, u32)> {
        Some(match self {
            Self::Network => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::Scope => (1, 2, 0),
            Self::Host => (1, 3, 0),
            Self::Port => (1, 4, 0),
            Self::TooBig { mtu } => (2, 0, mtu),
            Self::Hops => (3, 0, 0),
            Self::Reassembly => (3, 1, 0),
            Self::BadField { at } => (4, 0, at),
            Self::UnknownHeader { at } => (4, 1, at),
            Self::UnknownOption { at, .. } => (4, 2, at),
            Self::CutHeaders => (4, 3, 0),
            Self::Protocol => return None,
        })
    }

    /// RFC 4443 clause 2.4 (e.3): the two errors that packets to groups get.
    fn is_for_groups(self) -> bool {
        matches!(self, Self::TooBig { .. } | Self::UnknownOption { told_groups: true, .. })
    }
}

impl Net {
    /// Tells the sender that nobody wanted the packet, if the rules allow it.
    pub fn reject(&mut self, now: Instant, packet: &Packet<'_>, why: Rejection) {
        let trouble = match why {
            Rejection::PortUnreachable => Trouble::Port,
            Rejection::ProtocolUnreachable if packet.source.is_ipv4() => Trouble::Protocol,
            Rejection::ProtocolUnreachable => Trouble::UnknownHeader { at: named_at(&packet.header) as u32 },
        };
        self.tell(now, packet, trouble);
    }

    /// Tells a packet's sender what is wrong with it, if the rules allow it.
    pub fn tell(&mut self, now: Instant, packet: &Packet<'_>, trouble: Trouble) {
        self.tell_as(now, packet, trouble, None);
    }

    /// As [`Net::tell`], in the name of `offender`, if it is somebody for whom we stand.
    pub(in crate::smol) fn tell_as(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        trouble: Trouble,
        offender: Option<IpAddr>,
    ) {
        let allowed = if packet.source.is_ipv4() { allowed_v4(packet) } else { allowed_v6(packet, trouble) };
        let icmp = if packet.source.is_ipv4() { trouble.icmp_v4() } else { trouble.icmp_v6() };
        let (true, Some((kind, code, info))) = (allowed, icmp) else { return };
        let route = self.index().find_local(packet.destination).map(|hop| hop.kind);
        if route == Some(RouteKind::Broadcast) {
            return;
        }
        let wish = Wish {
            source: offender.or_else(|| (route == Some(RouteKind::Local)).then_some(packet.destination)),
            link: is_link_local(packet.source).then_some(packet.link),
            ..Wish::default()
        };
        let Ok(path) = self.route(packet.source, &wish) else { return };
        if path.group {
            return;
        }
        let discovery = matches!(trouble, Trouble::TooBig { .. });
        if !path.local && !self.rations.allow(now, packet.source, discovery) {
            return;
        }
        let mut head = [kind, code, 0, 0, 0, 0, 0, 0];
        head[4..].copy_from_slice(&info.to_be_bytes());
        let (longest, used) = if path.source.is_ipv4() { (LONGEST_V4, 28) } else { (LONGEST_V6, 48) };
        let room = longest.min(path.mtu as usize).saturating_sub(used);
        let header = &packet.header[..packet.header.len().min(room)];
        let payload = &packet.payload[..packet.payload.len().min(room - header.len())];
        let datagram = Datagram {
            tos: if path.source.is_ipv4() { packet.tos & 0x1E | ERROR_TOS } else { 0 },
            ..control(packet.source)
        };
        let _ = self.send(now, &path, &datagram, &[&head, header, payload]);
    }
}

/// An ICMP message of ours.
pub(super) fn control(destination: IpAddr) -> Datagram<'static> {
    Datagram {
        destination,
        protocol: if destination.is_ipv4() { ICMP } else { ICMPV6 },
        ttl: DEFAULT_TTL,
        tos: 0,
        flow_label: 0,
        fragmenting: Fragmenting::Allowed,
        gso_size: 0,
        checksum_at: Some(2),
        options: &[],
        ident: 0,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// __icmp_send.
fn allowed_v4(packet: &Packet<'_>) -> bool {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (packet.source, packet.destination) else {
        return false;
    };
    let one_host = !source.is_unspecified() && !source.is_multicast() && !source.is_broadcast();
    let for_one = !packet.group_frame && !destination.is_multicast() && !destination.is_broadcast();
    let first = packet.header.get(6..8).is_some_and(|bytes| bytes[0] & 0x1F == 0 && bytes[1] == 0);
    // Types that are no errors: echo, router discovery, timestamp, information, address mask.
    let question =
        packet.protocol != ICMP || matches!(packet.payload.first(), Some(0 | 8 | 9 | 10 | 13..=18));
    one_host && for_one && first && question
}

/// icmp6_send.
fn allowed_v6(packet: &Packet<'_>, trouble: Trouble) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return false;
    };
    let one_host = !source.is_unspecified() && !source.is_multicast();
    let for_one = (!packet.group_frame && !destination.is_multicast()) || trouble.is_for_groups();
    const REDIRECT: u8 = 137;
    let question = match packet.payload.first() {
        Some(kind) if packet.protocol == ICMPV6 => *kind >= 128 && *kind != REDIRECT,
        None if packet.protocol == ICMPV6 => false,
        _ => true,
    };
    one_host && for_one && question
}

/// Where the last header of a chain is named.
fn named_at(header: &[u8]) -> usize {
    let (mut named_at, mut at) = (6, V6_HEADER);
    while let Some(bytes) = header.get(at..at + 8) {
        named_at = at;
        at += 8 + usize::from(bytes[1]) * 8;
    }
    named_at
}

/// One error costs this much of a bucket.
const PRICE: Duration = Duration::from_secs(1);
/// A destination's bucket holds this many errors (XRLIM_BURST_FACTOR).
const BURST: u32 = 6;
/// Errors a second in all (icmp_msgs_per_sec).
const ALL_RATE: u32 = 1000;
/// Errors at once in all (icmp_msgs_burst).
const ALL_BURST: u32 = 50;
/// Destinations with a bucket of their own. Who comes when all are in use shares what is left in all.
const MAX_BUCKETS: usize = 1024;

/// Token buckets, kept as the time at which each will be full.
#[derive(Debug, Default)]
pub(super) struct Rations {
    full: Option<Instant>,
    each: BTreeMap<IpAddr, Instant>,
}

impl Rations {
    /// May an error be sent to `to`? `discovery`: it is a path MTU message.
    pub(super) fn allow(&mut self, now: Instant, to: IpAddr, discovery: bool) -> bool {
        let price = Duration::from_secs(1) / ALL_RATE;
        let full = self.full.map_or(now, |full| full.max(now)) + price;
        if full > now + price * ALL_BURST {
            return false;
        }
        if !discovery {
            if self.each.len() >= MAX_BUCKETS && !self.each.contains_key(&to) {
                self.each.retain(|_, full| *full > now);
            }
            let mine = self.each.get(&to).map_or(now, |full| (*full).max(now)) + PRICE;
            if mine > now + PRICE * BURST {
                return false;
            }
            if self.each.len() < MAX_BUCKETS || self.each.contains_key(&to) {
                self.each.insert(to, mine);
            }
        }
        self.full = Some(full);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    fn errors_are_rationed_by_destination_and_in_all() {
        let start = Instant::now();
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let mut rations = Rations::default();
        let sent = (0..20).filter(|_| rations.allow(start, one, false)).count();
        assert_eq!(sent, 6);
        let later = start + Duration::from_secs(2);
        assert_eq!((0..20).filter(|_| rations.allow(later, one, false)).count(), 2);
        let much_later = start + Duration::from_secs(60);
        let all = (0..3000u32).filter(|n| rations.allow(much_later, IpAddr::V4((*n).into()), false)).count();
        assert_eq!(all, 50);
        assert!(rations.each.len() <= MAX_BUCKETS);
    }

    #[test]
    fn the_field_that_names_the_last_header_is_found() {
        let mut header = vec![0; 40 + 16];
        header[41] = 1;
        assert_eq!(named_at(&header), 40);
        header.extend([0; 8]);
        assert_eq!(named_at(&header), 56);
        assert_eq!(named_at(&header[..40]), 6);
    }
}
