//! IPv4 packets that arrived (RFC 791, RFC 1122 clause 3.2), as ip_rcv and ip_route_input_slow.
//!
//! # Theory of operation
//! A header that is wrong is an error of the interface; addresses that cannot be (martians) are dropped: group
//! and broadcast sources, 127/8 from outside, our own address as a stranger's. What is for us, wherever its
//! address is (weak end system), for everybody, or for a group we are in, is put together if it came in
//! fragments and goes on to its protocol; what is for others is forwarded or dropped.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use smoltcp::wire::Ipv4Packet;
use switch::offload::checksum::{fold, sum};

use super::buffer::Buffer;
use super::input::Arrival;
use super::output::V4_HEADER;
use super::{Delivery, Net, Packet};
use crate::smol::tables::{Link, RouteKind};

/// What is known of a packet from its header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header4 {
    pub(super) len: usize,
    pub(super) total: usize,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) ident: u16,
    pub(super) dont_fragment: bool,
    pub(super) more_fragments: bool,
    /// In bytes.
    pub(super) offset: usize,
}

/// Whose packet it is.
enum Whose {
    Ours,
    Everybodys,
    Strangers,
    Nobodys,
}

impl Header4 {
    /// `len` is how long the packet is.
    pub(super) fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        if bytes.len() < V4_HEADER {
            return None;
        }
        let view = Ipv4Packet::new_unchecked(bytes);
        let head = usize::from(view.header_len());
        let total = usize::from(view.total_len());
        let whole = head >= V4_HEADER && head <= bytes.len() && head <= total && total <= len;
        if view.version() != 4 || !whole {
            return None;
        }
        Some(Self {
            len: head,
            total,
            source: view.src_addr(),
            destination: view.dst_addr(),
            protocol: bytes[9],
            ttl: view.hop_limit(),
            tos: bytes[1],
            ident: view.ident(),
            dont_fragment: view.dont_frag(),
            more_fragments: view.more_frags(),
            offset: usize::from(view.frag_offset()),
        })
    }

    pub(super) fn is_fragment(&self) -> bool {
        self.more_fragments || self.offset != 0
    }
}

impl Net {
    pub(super) fn ipv4_input<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        mut buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let len = buffer.len();
        let Some(header) = Header4::parse(buffer.front(), len) else {
            return self.misheaded(arrival.link, true);
        };
        if !arrival.is_looped() && fold(sum(&buffer.front()[..header.len])) != 0xFFFF {
            return self.misheaded(arrival.link, true);
        }
        buffer.truncate(header.total);
        if !self.options_allow(&buffer.front()[V4_HEADER..header.len]) {
            self.mib.ip(true).in_header_errors += 1;
            return self.unwanted(arrival.link);
        }
        if self.filter.is_some() {
            return self.ipv4_filtered(now, arrival, header, buffer);
        }
        self.ipv4_routed(now, arrival, header, buffer)
    }

    /// To whoever it is for.
    pub(super) fn ipv4_routed<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        mut header: Header4,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        match self.whose_v4(arrival, &header) {
            Whose::Ours | Whose::Everybodys => {}
            Whose::Strangers => {
                self.forward_v4(now, arrival, &header, buffer);
                return Delivery::None;
            }
            Whose::Nobodys => {
                self.forget_tracked(arrival);
                return self.misaddressed(arrival.link, true);
            }
        }
        if header.is_fragment() {
            let Some(whole) = self.reassemble_v4(now, arrival, &header, &buffer) else {
                return Delivery::None;
            };
            let Some(again) = Header4::parse(whole.front(), whole.len()) else { return Delivery::None };
            header = again;
            let whole_arrival = Arrival { gso_size: 0, trusted: arrival.is_looped(), ..*arrival };
            return self.ipv4_deliver(now, &whole_arrival, &header, whole);
        }
        self.ipv4_deliver(now, arrival, &header, buffer)
    }

    fn ipv4_deliver<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header4,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let (head, payload) = buffer.split(header.len);
        let packet = Packet {
            link: arrival.link,
            source: IpAddr::V4(header.source),
            destination: IpAddr::V4(header.destination),
            protocol: header.protocol,
            header: head,
            payload,
            ttl: header.ttl,
            tos: header.tos,
            flow_label: 0,
            gso_size: arrival.gso_size,
            checked: arrival.trusted,
            group_frame: arrival.group_frame,
            mac: arrival.mac,
        };
        match self.filter {
            None => self.upper_input(now, packet),
            Some(_) => self.filtered_input(now, arrival, packet),
        }
    }

    /// ip_route_input_slow.
    fn whose_v4(&self, arrival: &Arrival, header: &Header4) -> Whose {
        let (source, destination) = (header.source, header.destination);
        let looped = arrival.is_looped();
        if source.is_multicast() || source.is_broadcast() {
            return Whose::Nobodys;
        }
        let index = self.index();
        if !looped {
            // As with route_localnet: behind a tunnel is who answers in the name of the machine's own nameserver.
            let routed = self.tables.links.get(&arrival.link).is_some_and(Link::is_tunnel);
            let loopback = (source.is_loopback() && !routed) || destination.is_loopback();
            if loopback || !index.owned(IpAddr::V4(source)).is_empty() {
                return Whose::Nobodys;
            }
        }
        if destination.is_multicast() {
            let member = self.groups.is_member(arrival.link, IpAddr::V4(destination));
            return if member { Whose::Everybodys } else { Whose::Nobodys };
        }
        let unspecified = source.is_unspecified() && destination.is_unspecified();
        if destination.is_broadcast() || unspecified {
            return Whose::Everybodys;
        }
        if source.octets()[0] == 0 || destination.octets()[0] == 0 {
            return Whose::Nobodys;
        }
        match index.find_local(IpAddr::V4(destination)).map(|hop| hop.kind) {
            Some(RouteKind::Local) => Whose::Ours,
            Some(RouteKind::Broadcast) => Whose::Everybodys,
            _ if !looped && self.stands_for(IpAddr::V4(destination)) => Whose::Ours,
            _ if self.tables.forwarding && !looped => Whose::Strangers,
            _ => Whose::Nobodys,
        }
    }

    /// Options that make sense, and no source route (accept_source_route 0).
    fn options_allow(&self, mut options: &[u8]) -> bool {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        const LOOSE_SOURCE_ROUTE: u8 = 131;
        const STRICT_SOURCE_ROUTE: u8 = 137;
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                END => return true,
                NO_OPERATION => options = rest,
                LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return false,
                _ => match rest.first().map(|len| usize::from(*len)) {
                    Some(len) if len >= 2 && len <= options.len() => options = &options[len..],
                    _ => return false,
                },
            }
        }
        true
    }
}
