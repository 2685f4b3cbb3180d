//! Forwarding: packets of others (RFC 1812, RFC 8200), as ip_forward and ip6_forward.
//!
//! # Theory of operation
//! Off unless the tables say so. A packet for somebody else, in a frame for us alone, loses a hop and goes where
//! its route leads, super-segments whole and partial checksums partial. Senders hear of packets that have come
//! too far, lead nowhere, or are too long; hosts that could have sent to a neighbour directly hear of that.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use switch::offload::checksum::{fold, sum};
use switch::offload::{GSO_UDP_L4, VnetHdr};

use super::buffer::Buffer;
use super::icmp_error::Trouble;
use super::input::Arrival;
use super::ipv4::Header4;
use super::ipv6::Header6;
use super::neighbours::{Origin, Waiting};
use super::output::Way;
use super::{Net, NetError, Packet, Path, Wish, hooks};
use crate::smol::tables::{IfIndex, RouteKind};

/// Datagrams of ours that found no neighbour and whose senders were not told yet, at most.
const MAX_ERRORS: usize = 64;

/// A packet of somebody.
struct Passing<'a> {
    arrival: &'a Arrival,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    tos: u8,
    /// Bytes of its first header, options included.
    head: usize,
    dont_fragment: bool,
    buffer: Buffer<'a>,
}

impl Net {
    pub(super) fn forward_v4(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header4,
        buffer: Buffer<'_>,
    ) {
        let reserved = header.source.octets()[0] == 0 || header.destination.octets()[0] >= 240;
        if reserved || is_link_local_v4(header.source) || is_link_local_v4(header.destination) {
            self.count(arrival.link, |counters| counters.rx_dropped += 1);
            return;
        }
        let passing = Passing {
            arrival,
            source: IpAddr::V4(header.source),
            destination: IpAddr::V4(header.destination),
            protocol: header.protocol,
            hops: header.ttl,
            tos: header.tos,
            head: header.len,
            dont_fragment: header.dont_fragment,
            buffer,
        };
        self.forward(now, &passing);
    }

    pub(super) fn forward_v6(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header6,
        buffer: Buffer<'_>,
    ) {
        let no_host = header.source.is_unspecified() || header.source.is_loopback();
        if no_host || header.destination.is_unspecified() || header.destination.is_unicast_link_local() {
            self.count(arrival.link, |counters| counters.rx_dropped += 1);
            return;
        }
        let passing = Passing {
            arrival,
            source: IpAddr::V6(header.source),
            destination: IpAddr::V6(header.destination),
            protocol: header.next,
            hops: header.hops,
            tos: header.class,
            head: super::output::V6_HEADER,
            // Who puts fragments together may cut them again.
            dont_fragment: !arrival.reassembled,
            buffer,
        };
        if header.source.is_unicast_link_local() {
            self.tell(now, &passing.packet(), Trouble::Scope);
            return;
        }
        self.forward(now, &passing);
    }

    fn forward(&mut self, now: Instant, passing: &Passing<'_>) {
        if passing.arrival.group_frame {
            self.count(passing.arrival.link, |counters| counters.rx_dropped += 1);
            return;
        }
        let path = match self.forwarding_path(passing) {
            Ok(path) => path,
            Err(trouble) => {
                if let Some(trouble) = trouble {
                    self.tell(now, &passing.packet(), trouble);
                }
                return;
            }
        };
        if passing.hops <= 1 {
            self.tell(now, &passing.packet(), Trouble::Hops);
            return;
        }
        let header = passing.arrival.header;
        // The way's MTU counts; what we learned for ourselves does not (ip_forward_use_pmtu 0).
        let mtu = self.tables.links.get(&path.link).map_or(path.mtu, |link| link.mtu);
        let len = match usize::from(passing.arrival.gso_size) {
            0 => passing.buffer.len(),
            segment => passing.headers() + segment,
        };
        let too_long = len > mtu as usize;
        if too_long && (passing.dont_fragment || passing.arrival.gso_size != 0) {
            self.tell(now, &passing.packet(), Trouble::TooBig { mtu });
            return;
        }
        let mut rewrite = None;
        if self.filter.is_some() {
            let (packet, pieces) = (passing.packet(), passing.buffer.pieces());
            match self.filtered_forward(now, passing.arrival, &packet, pieces, &path) {
                Some(other) => rewrite = other,
                None => return,
            }
        }
        if path.link == passing.arrival.link {
            self.send_redirect(now, &passing.packet(), &path);
        }
        if self.arena.is_full() {
            self.count(path.link, |counters| counters.tx_dropped += 1);
            return;
        }
        let at = self.arena.write(&passing.buffer.pieces());
        let bytes = self.arena.at(at.clone());
        lose_hop(bytes);
        if let Some(rewrite) = rewrite {
            hooks::rewrite(&rewrite, bytes, &header);
        }
        let (v4, length) = (passing.destination.is_ipv4(), bytes.len());
        let way = Way { link: path.link, next_hop: path.next_hop, group: false };
        let origin = Origin::Forwarded(passing.arrival.link);
        self.mib.passes(v4, length);
        let _ = if too_long {
            if header.needs_csum() && !complete(bytes, &header) {
                return;
            }
            let packet = bytes.to_vec();
            let ident = self.random.next() as u32;
            self.send_fragments(now, way, &packet, mtu as usize, ident, origin)
        } else {
            self.send_packet(now, way, at, header, origin)
        };
    }

    /// Where somebody's packet goes, or what to tell the sender.
    fn forwarding_path(&self, passing: &Passing<'_>) -> Result<Path, Option<Trouble>> {
        use nix::errno::Errno;
        // No address of ours is needed to pass on others' packets.
        let source = passing.source.is_ipv6().then_some(passing.source);
        let wish = Wish { source, ..Wish::default() };
        let path = self.route(passing.destination, &wish).map_err(|errno| match errno {
            Errno::EHOSTUNREACH => Some(Trouble::Host),
            Errno::EACCES => Some(Trouble::Prohibited),
            // A black hole says nothing.
            Errno::EINVAL => None,
            _ => Some(Trouble::Network),
        })?;
        let broadcast =
            self.index().find_local(passing.destination).is_some_and(|hop| hop.kind != RouteKind::Unicast);
        if path.local || path.group || broadcast { Err(None) } else { Ok(path) }
    }

    /// A packet that waited for a neighbour in vain.
    pub(super) fn report_unreachable(&mut self, now: Instant, link: IfIndex, waiting: &Waiting) {
        self.count(link, |counters| counters.tx_dropped += 1);
        match waiting.origin {
            Origin::Forwarded(from) => {
                if let Some(packet) = again(&waiting.packet, from) {
                    self.tell(now, &packet, Trouble::Host);
                }
            }
            Origin::Ours => {
                let Some(quoted) = super::icmp::quote(&waiting.packet) else { return };
                if self.errors.len() >= MAX_ERRORS {
                    return;
                }
                let error = NetError {
                    errno: nix::errno::Errno::EHOSTUNREACH,
                    fatal: false,
                    icmp: if quoted.source.is_ipv4() { (3, 1) } else { (1, 3) },
                    info: 0,
                    offender: quoted.source,
                    source: quoted.source,
                    destination: quoted.destination,
                    protocol: quoted.protocol,
                    link,
                };
                self.errors.push_back((error, waiting.packet[quoted.upper..].to_vec()));
            }
        }
    }

    /// Datagrams that waited for a neighbour who did not answer: EHOSTUNREACH for whoever sent them.
    pub fn poll_error(&mut self) -> Option<(NetError, Vec<u8>)> {
        self.errors.pop_front()
    }
}

impl Passing<'_> {
    /// Bytes of all headers of a super-segment.
    fn headers(&self) -> usize {
        let start = usize::from(self.arrival.header.csum_start);
        let transport = match self.arrival.header.gso() {
            GSO_UDP_L4 => 8,
            _ => self.buffer.front().get(start + 12).map_or(20, |byte| usize::from(byte >> 4) * 4),
        };
        start.max(self.head) + transport
    }

    /// For errors about it.
    fn packet(&self) -> Packet<'_> {
        let [front, back] = self.buffer.pieces();
        let (header, payload) = front.split_at(self.head.min(front.len()));
        Packet {
            link: self.arrival.link,
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            header: header.into(),
            payload: if payload.is_empty() { back } else { payload }.into(),
            ttl: self.hops,
            tos: self.tos,
            flow_label: 0,
            gso_size: self.arrival.gso_size,
            checked: false,
            group_frame: self.arrival.group_frame,
            mac: self.arrival.mac,
        }
    }
}

/// Makes a checksum whole; false if there is no place for it.
fn complete(packet: &mut [u8], header: &VnetHdr) -> bool {
    let (start, field) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    if start + field + 2 > packet.len() {
        return false;
    }
    let value = !fold(sum(&packet[start..]));
    packet[start + field..start + field + 2].copy_from_slice(&value.to_be_bytes());
    true
}

/// 169.254/16 is not forwarded (RFC 3927 clause 7).
fn is_link_local_v4(address: Ipv4Addr) -> bool {
    address.is_link_local()
}

/// One hop less (RFC 1141 for the checksum).
fn lose_hop(packet: &mut [u8]) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => {
            packet[8] -= 1;
            let head = usize::from(packet[0] & 0x0F) * 4;
            packet[10..12].fill(0);
            let value = !fold(sum(&packet[..head]));
            packet[10..12].copy_from_slice(&value.to_be_bytes());
        }
        Some(6) => packet[7] -= 1,
        _ => {}
    }
}

/// A packet that was to be forwarded, for an error about it.
fn again(bytes: &[u8], link: IfIndex) -> Option<Packet<'_>> {
    let (source, destination, protocol, head, tos) = match bytes.first()? >> 4 {
        4 => {
            let header = Header4::parse(bytes, bytes.len())?;
            let ends = (IpAddr::V4(header.source), IpAddr::V4(header.destination));
            (ends.0, ends.1, header.protocol, header.len, header.tos)
        }
        _ => {
            let header = Header6::parse(bytes, bytes.len())?;
            let ends = (IpAddr::V6(header.source), IpAddr::V6(header.destination));
            (ends.0, ends.1, header.next, super::output::V6_HEADER, header.class)
        }
    };
    let (header, payload) = bytes.split_at(head);
    Some(Packet {
        link,
        source,
        destination,
        protocol,
        header: header.into(),
        payload: payload.into(),
        ttl: 0,
        tos,
        flow_label: 0,
        gso_size: 0,
        checked: false,
        group_frame: false,
        mac: None,
    })
}
