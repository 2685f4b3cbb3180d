//! IPv6 packets that arrived (RFC 8200), as ipv6_rcv and ip6_input_finish.
//!
//! # Theory of operation
//! Addresses that cannot be are dropped; what is for others is forwarded or dropped; what is for us goes through
//! its extension headers, each at most once round the loop of [`Net::ipv6_deliver`]: options are judged by the
//! two high bits of their type, a routing header with segments left is refused, fragments are put together and
//! what comes out goes on where its fragment header stood. [`MAX_EXTENSIONS`] bounds the walk.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use smoltcp::wire::Ipv6Packet;

use super::buffer::Buffer;
use super::icmp_error::Trouble;
use super::input::Arrival;
use super::output::V6_HEADER;
use super::{Delivery, Net, Packet};
use crate::smol::tables::{LinkKind, RouteKind};

/// Extension headers of a packet, at most; more is nonsense or worse (RFC 8504 clause 5.3 allows a limit).
const MAX_EXTENSIONS: usize = 8;
/// Options that a host has to look at in one header, at most (max_dst_opts_number, max_hbh_opts_number).
const MAX_OPTIONS: usize = 8;

/// Extension headers, IPPROTO_*.
pub(super) const HOP_BY_HOP: u8 = 0;
/// As above.
pub(super) const ROUTING: u8 = 43;
/// As above.
pub(super) const FRAGMENT: u8 = 44;
/// As above.
pub(super) const NO_NEXT_HEADER: u8 = 59;
/// As above.
pub(super) const DESTINATION_OPTIONS: u8 = 60;

/// What is known of a packet from its first header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header6 {
    pub(super) total: usize,
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    pub(super) next: u8,
    pub(super) hops: u8,
    pub(super) class: u8,
    pub(super) flow_label: u32,
}

/// How a walk through extension headers ends.
pub(super) enum Walk {
    /// The upper-layer header of this protocol begins there.
    Upper(u8, usize),
    /// A fragment header; its place, and the place of the field that names it.
    Fragment(usize, usize),
    /// Nobody is told.
    Drop,
    /// The sender is told, if the rules allow.
    Tell(Trouble),
}

impl Header6 {
    /// `len` is how long the packet is.
    pub(super) fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        if bytes.len() < V6_HEADER {
            return None;
        }
        let view = Ipv6Packet::new_unchecked(bytes);
        let total = view.total_len();
        (view.version() == 6 && total <= len).then(|| Self {
            total,
            source: view.src_addr(),
            destination: view.dst_addr(),
            next: bytes[6],
            hops: view.hop_limit(),
            class: view.traffic_class(),
            flow_label: view.flow_label(),
        })
    }
}

impl Net {
    pub(super) fn ipv6_input<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        mut buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let len = buffer.len();
        let Some(header) = Header6::parse(buffer.front(), len) else {
            return self.misheaded(arrival.link, false);
        };
        buffer.truncate(header.total);
        let (source, destination) = (header.source, header.destination);
        let lo = self.tables.links.get(&arrival.link).is_some_and(|link| link.kind == LinkKind::Loopback);
        let outside = !arrival.is_looped() && !lo;
        let scope = destination.octets()[1] & 0x0F;
        let bad_group = destination.is_multicast() && (scope == 0 || (scope == 1 && outside));
        let bad_loopback = outside && (source.is_loopback() || destination.is_loopback());
        if source.is_multicast() || bad_group || bad_loopback || source.to_ipv4_mapped().is_some() {
            self.mib.ip(false).in_header_errors += 1;
            return self.unwanted(arrival.link);
        }
        if self.filter.is_some() {
            return self.ipv6_filtered(now, arrival, header, buffer);
        }
        self.ipv6_routed(now, arrival, header, buffer)
    }

    /// To whoever it is for.
    pub(super) fn ipv6_routed<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: Header6,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let destination = header.destination;
        let ours = if destination.is_multicast() {
            self.groups.is_member(arrival.link, IpAddr::V6(destination))
        } else {
            let kind = self.index().find_local(IpAddr::V6(destination)).map(|hop| hop.kind);
            let here = matches!(kind, Some(RouteKind::Local | RouteKind::Anycast));
            here && self.is_ours(IpAddr::V6(destination), Some(arrival.link))
                || !arrival.is_looped() && self.stands_for(IpAddr::V6(destination))
        };
        if ours {
            return self.ipv6_deliver(now, arrival, &header, buffer);
        }
        if self.tables.forwarding && !arrival.is_looped() && !destination.is_multicast() {
            self.forward_v6(now, arrival, &header, buffer);
            return Delivery::None;
        }
        self.forget_tracked(arrival);
        self.misaddressed(arrival.link, false)
    }

    fn ipv6_deliver<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header6,
        mut buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let mut arrival = *arrival;
        let mut from = (header.next, V6_HEADER, 6);
        // At most one datagram comes out of fragments: fragments of fragments are dropped.
        for nested in [false, true] {
            let group = header.destination.is_multicast();
            let mut walk = self.walk(&buffer, from, group);
            let apart = matches!(walk, Walk::Upper(_, at) if at == buffer.front().len());
            if matches!(buffer, Buffer::Split { .. }) && !apart {
                buffer = buffer.joined();
                walk = self.walk(&buffer, from, group);
            }
            match walk {
                Walk::Upper(protocol, at) => {
                    return self.ipv6_upper(now, &arrival, header, protocol, at, buffer);
                }
                Walk::Fragment(at, named_at) if !nested => {
                    let Some((whole, next)) =
                        self.reassemble_v6(now, &arrival, header, &buffer, at, named_at)
                    else {
                        return Delivery::None;
                    };
                    from = (next, at, named_at);
                    buffer = whole;
                    arrival.gso_size = 0;
                    arrival.trusted = arrival.is_looped();
                }
                Walk::Drop | Walk::Fragment(..) => return self.unwanted(arrival.link),
                Walk::Tell(trouble) => {
                    self.mib.ip(false).in_header_errors += 1;
                    let packet = packet(&arrival, header, header.next, V6_HEADER, buffer);
                    self.tell(now, &packet, trouble);
                    return self.bad(arrival.link);
                }
            }
        }
        Delivery::None
    }

    fn ipv6_upper<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header6,
        protocol: u8,
        at: usize,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        if protocol == NO_NEXT_HEADER {
            return Delivery::None;
        }
        let packet = packet(arrival, header, protocol, at, buffer);
        match self.filter {
            None => self.upper_input(now, packet),
            Some(_) => self.filtered_input(now, arrival, packet),
        }
    }

    /// Goes through extension headers, `from` a type, its place, and the place where the type is named.
    pub(super) fn walk(&self, buffer: &Buffer<'_>, from: (u8, usize, usize), group: bool) -> Walk {
        let bytes = buffer.front();
        let (mut next, mut at, mut named_at) = from;
        for _ in 0..=MAX_EXTENSIONS {
            match next {
                // Only as the very first (RFC 8200 clause 4.1).
                HOP_BY_HOP if at != V6_HEADER => {
                    return Walk::Tell(Trouble::UnknownHeader { at: named_at as u32 });
                }
                HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {}
                FRAGMENT => return Walk::Fragment(at, named_at),
                _ => return Walk::Upper(next, at),
            }
            let Some(fixed) = bytes.get(at..at + 8) else { return Walk::Drop };
            let len = 8 + usize::from(fixed[1]) * 8;
            let Some(whole) = bytes.get(at..at + len) else { return Walk::Drop };
            if next == ROUTING {
                // Segments left: we are no node to route by (RFC 8200 clause 4.4, RFC 5095).
                if whole[3] != 0 {
                    return Walk::Tell(Trouble::BadField { at: at as u32 + 2 });
                }
            } else if let Err(walk) = judge_options(&whole[2..], at + 2, group) {
                return walk;
            }
            (next, named_at) = (whole[0], at);
            at += len;
        }
        Walk::Drop
    }
}

/// RFC 8200 clause 4.2: what an unknown option asks for.
fn judge_options(mut options: &[u8], mut at: usize, group: bool) -> Result<(), Walk> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    const ROUTER_ALERT: u8 = 5;
    let mut seen = 0;
    while let Some((&kind, rest)) = options.split_first() {
        let len = match (kind, rest.first()) {
            (PAD1, _) => 1,
            (_, Some(len)) => 2 + usize::from(*len),
            _ => return Err(Walk::Drop),
        };
        if len > options.len() {
            return Err(Walk::Drop);
        }
        if kind != PAD1 && kind != PADN {
            seen += 1;
        }
        match (kind, kind >> 6) {
            (PAD1 | PADN | ROUTER_ALERT, _) | (_, 0) => {}
            (_, 1) => return Err(Walk::Drop),
            (_, 3) if group => return Err(Walk::Drop),
            _ => {
                return Err(Walk::Tell(Trouble::UnknownOption {
                    at: at as u32,
                    told_groups: kind >> 6 == 2,
                }));
            }
        }
        if seen > MAX_OPTIONS {
            return Err(Walk::Drop);
        }
        options = &options[len..];
        at += len;
    }
    Ok(())
}

fn packet<'f>(
    arrival: &Arrival,
    header: &Header6,
    protocol: u8,
    at: usize,
    buffer: Buffer<'f>,
) -> Packet<'f> {
    let (head, payload) = buffer.split(at);
    Packet {
        link: arrival.link,
        source: IpAddr::V6(header.source),
        destination: IpAddr::V6(header.destination),
        protocol,
        header: head,
        payload,
        ttl: header.hops,
        tos: header.class,
        flow_label: header.flow_label,
        gso_size: arrival.gso_size,
        checked: arrival.trusted,
        group_frame: arrival.group_frame,
        mac: arrival.mac,
    }
}
