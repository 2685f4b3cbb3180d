//! Sending: from a payload to a frame, and where each goes.
//!
//! # Theory of operation
//! A payload lies in the arena's slot; the IP header goes right before it, the Ethernet header (with the tags of
//! 802.1Q subinterfaces) before that, and nothing has moved. TCP and UDP checksums stay partial: the field holds
//! the folded sum of the pseudo-header, and the virtio-net header says what is left to do. What is longer than
//! the way is wide is fragmented or refused (ip(7), IP_MTU_DISCOVER; __ip_append_data and __ip_make_skb);
//! super-segments are not, only their segments have to fit. Packets to ourselves leave by
//! [`Net::poll_loopback`]; a copy of what is sent to a group or to everybody that we belong to does, too.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use nix::errno::Errno;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};
use switch::frame::{self, HEADER_LEN, TAG_LEN};
use switch::offload::checksum::{fold, pseudo, sum};
use switch::offload::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};

use super::buffer::Buffer;
use super::neighbours::{Origin, Waiting};
use super::{Datagram, Fragmenting, HEADROOM, MAX_PACKET, Net, Path};
use crate::config::Mac;
use crate::smol::tables::{IfIndex, LOOPBACK, LinkCounters, LinkKind};

/// Bytes of an IPv4 header without options.
pub(super) const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const V6_HEADER: usize = 40;
/// Tags on a frame, at most: a VLAN of a VLAN.
const MAX_TAGS: usize = 2;
/// Bytes before the IP header on any link.
const LINK_ROOM: usize = HEADER_LEN + MAX_TAGS * TAG_LEN;
/// Bytes of IPv6 extension headers that a socket may insert (the kernel's limit is IPV6_MAXOPTLEN, 2 KiB each).
const MAX_EXTENSIONS: usize = 2048;
/// Bytes of IPv4 options (RFC 791 clause 3.1).
const MAX_OPTIONS: usize = 40;

/// Where a packet in the arena goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) link: IfIndex,
    pub(super) next_hop: IpAddr,
    pub(super) group: bool,
}

/// A datagram's measures.
struct Plan {
    source: IpAddr,
    destination: IpAddr,
    /// Bytes before the payload.
    head: usize,
    /// Longest packet, if it has to be fragmented.
    fragment: Option<usize>,
    dont_fragment: bool,
    super_segment: bool,
}

impl Net {
    /// Sends a datagram whose payload is in pieces.
    ///
    /// # Errors
    /// EMSGSIZE (too long and may not be fragmented), ENOBUFS, ENETDOWN, ENODEV.
    pub fn send(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &Datagram<'_>,
        payload: &[&[u8]],
    ) -> Result<(), Errno> {
        let mut at = HEADROOM;
        let slot = self.slot();
        for piece in payload {
            let room = slot.get_mut(at..at + piece.len()).ok_or(Errno::EMSGSIZE)?;
            room.copy_from_slice(piece);
            at += piece.len();
        }
        self.send_slot(now, path, datagram, HEADROOM..at)
    }

    /// Room for one payload of up to 64 KiB, [`HEADROOM`] bytes before it: written in place, then
    /// [`Net::send_slot`].
    pub fn slot(&mut self) -> &mut [u8] {
        let slot = self.arena.slot();
        self.arena.at(slot)
    }

    /// As [`Net::send`], for the payload at `range` in the slot.
    ///
    /// # Errors
    /// As [`Net::send`].
    pub fn send_slot(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &Datagram<'_>,
        range: Range<usize>,
    ) -> Result<(), Errno> {
        let slot = self.arena.slot();
        self.arm_trim(now);
        if range.start > range.end || range.end > slot.len() {
            return Err(Errno::EINVAL);
        }
        let mut payload = slot.start + range.start..slot.start + range.end;
        let plan = self.plan(path, datagram, &payload)?;
        let v4 = path.source.is_ipv4();
        let icmp = datagram.protocol == if v4 { ICMP } else { ICMPV6 };
        let kind = if icmp { self.arena.at(payload.clone()).first().copied() } else { None };
        self.mib.leaves(v4, plan.head + payload.len(), kind);
        if self.arena.is_full() && !path.local {
            self.mib.ip(v4).out_discards += 1;
            self.count(path.link, |counters| counters.tx_dropped += 1);
            return Err(Errno::ENOBUFS);
        }
        if range.start < plan.head + LINK_ROOM {
            // Long extension headers, or a caller who left no room.
            let to = slot.start + plan.head + LINK_ROOM;
            self.arena.reserve(plan.head + LINK_ROOM + payload.len());
            self.arena.copy(payload.clone(), to);
            payload = to..to + payload.len();
        }
        let start = payload.start - plan.head;
        let packet = start..payload.end;
        let ident = self.write_header(&plan, datagram, packet.clone());
        let partial = plan.fragment.is_none() && matches!(datagram.protocol, TCP | UDP);
        let header = self.write_checksum(&plan, datagram, payload, partial)?;
        let (mut path, mut tracked) = (*path, None);
        if self.filter.is_some() {
            (path, tracked) = self.filtered_output(now, &path, packet.clone(), plan.head, &header)?;
        }
        if path.local || path.looped {
            let link = path.link;
            let copy = self.arena_copy(packet.clone(), plan.head);
            self.loop_back(link, copy, header.gso_size, path.group, tracked)?;
            if path.local {
                return Ok(());
            }
        }
        let way = Way { link: path.link, next_hop: path.next_hop, group: path.group };
        match plan.fragment {
            Some(limit) => {
                let packet = self.arena.at(packet).to_vec();
                self.send_fragments(now, way, &packet, limit, ident, Origin::Ours)
            }
            None => self.send_packet(now, way, packet, header, Origin::Ours),
        }
    }

    /// Sends an IP packet with its header as the program made it (IP_HDRINCL): length, checksum and, if zero,
    /// identification and source address are filled in (raw(7)).
    ///
    /// # Errors
    /// EINVAL for what is no IP packet, EMSGSIZE, ENOBUFS, ENETDOWN, ENODEV.
    pub fn send_raw(&mut self, now: Instant, path: &Path, packet: &[u8]) -> Result<(), Errno> {
        let device = self.device_up(path)?;
        if packet.len() > device as usize || packet.len() > MAX_PACKET {
            return Err(Errno::EMSGSIZE);
        }
        if self.arena.is_full() {
            return Err(Errno::ENOBUFS);
        }
        let at = self.arena.write(&[packet]);
        let bytes = self.arena.at(at.clone());
        let head = match path.source {
            IpAddr::V4(source) => {
                let head = usize::from(packet.first().ok_or(Errno::EINVAL)? & 0x0F) * 4;
                if head < V4_HEADER || head > bytes.len() {
                    return Err(Errno::EINVAL);
                }
                let mut view = Ipv4Packet::new_unchecked(bytes);
                if view.src_addr().is_unspecified() {
                    view.set_src_addr(source);
                }
                view.set_total_len(packet.len() as u16);
                if view.ident() == 0 {
                    let ident = self.random.next() as u16;
                    view.set_ident(ident);
                }
                view.fill_checksum();
                head
            }
            IpAddr::V6(_) if bytes.len() >= V6_HEADER => V6_HEADER,
            IpAddr::V6(_) => return Err(Errno::EINVAL),
        };
        self.arm_trim(now);
        let v4 = path.source.is_ipv4();
        let kind = packet.get(head).copied().filter(|_| v4 && packet.get(9) == Some(&ICMP));
        self.mib.leaves(v4, packet.len(), kind);
        let (mut path, mut tracked) = (*path, None);
        if self.filter.is_some() {
            (path, tracked) = self.filtered_output(now, &path, at.clone(), head, &VnetHdr::default())?;
        }
        if path.local || path.looped {
            let copy = self.arena_copy(at.clone(), head);
            self.loop_back(path.link, copy, 0, path.group, tracked)?;
            if path.local {
                return Ok(());
            }
        }
        let way = Way { link: path.link, next_hop: path.next_hop, group: path.group };
        self.send_packet(now, way, at, VnetHdr::default(), Origin::Ours)
    }

    /// Sends a whole Ethernet frame (packet sockets).
    ///
    /// # Errors
    /// EINVAL if it is too short, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV.
    pub fn send_frame(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &[u8],
    ) -> Result<(), Errno> {
        let device = self.tables.links.get(&link).ok_or(Errno::ENODEV)?;
        if !device.up {
            return Err(Errno::ENETDOWN);
        }
        let parsed = frame::Frame::new(frame).ok_or(Errno::EINVAL)?;
        if header.gso_type == GSO_NONE && frame.len() > device.mtu as usize + parsed.header_len() {
            return Err(Errno::EMSGSIZE);
        }
        if !header.fits(frame.len(), parsed.header_len()) {
            return Err(Errno::EINVAL);
        }
        if frame.len() > frame::MAX_FRAME {
            return Err(Errno::EMSGSIZE);
        }
        if device.kind == LinkKind::Loopback {
            let packet = frame[parsed.header_len()..].to_vec();
            return self.loop_back(
                link,
                Buffer::Owned(packet),
                header.gso_size,
                parsed.destination().is_group(),
                None,
            );
        }
        if self.arena.is_full() {
            return Err(Errno::ENOBUFS);
        }
        self.arm_trim(now);
        let mut tags = Vec::new();
        let bottom = self.under(link, |vid| {
            tags.splice(0..0, [frame::TPID.to_be_bytes(), vid.to_be_bytes()].concat());
        });
        let at = self.arena.write(&[&frame[..12], &tags, &frame[12..]]);
        self.push(link, bottom, header.shifted(tags.len() as isize), at);
        Ok(())
    }

    /// Hands every finished frame to `sink`, in order, and empties the arena.
    pub fn poll_transmit(&mut self, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) {
        self.arena.drain(sink);
    }

    /// Sends a packet that is complete, in the arena, with room before it. Offsets in `header` count from its
    /// start.
    pub(super) fn send_packet(
        &mut self,
        now: Instant,
        way: Way,
        at: Range<usize>,
        header: VnetHdr,
        origin: Origin,
    ) -> Result<(), Errno> {
        let mac = if way.group {
            Some(group_mac(way.next_hop))
        } else {
            self.neighbour_mac(now, way.link, way.next_hop).or_else(|| self.unasked_mac(way.link))
        };
        if let Some(mac) = mac {
            self.emit_ip(way.link, mac, at, header);
            return Ok(());
        }
        let packet = self.arena.at(at).to_vec();
        self.wait(now, way.link, way.next_hop, Waiting { packet, header, origin })
    }

    /// Puts an IP packet that lies in the arena into a frame for `to`.
    pub(super) fn emit_ip(&mut self, link: IfIndex, to: Mac, at: Range<usize>, header: VnetHdr) {
        let ethertype = if self.arena.at(at.clone())[0] >> 4 == 4 { frame::IPV4 } else { frame::IPV6 };
        self.emit(link, to, ethertype, at, header);
    }

    /// Sends a packet that is no IP packet.
    pub(super) fn emit_bytes(&mut self, link: IfIndex, to: Mac, ethertype: u16, bytes: &[u8]) {
        if self.arena.is_full() {
            self.count(link, |counters| counters.tx_dropped += 1);
            return;
        }
        let at = self.arena.write(&[bytes]);
        self.emit(link, to, ethertype, at, VnetHdr::default());
    }

    fn emit(&mut self, link: IfIndex, to: Mac, ethertype: u16, at: Range<usize>, header: VnetHdr) {
        let Some(own) = self.mac(link) else { return };
        let mut head = [0; LINK_ROOM];
        let mut start = LINK_ROOM - 2;
        head[start..].copy_from_slice(&ethertype.to_be_bytes());
        let bottom = self.under(link, |vid| {
            if start >= HEADER_LEN {
                head[start - 2..start].copy_from_slice(&vid.to_be_bytes());
                head[start - 4..start - 2].copy_from_slice(&frame::TPID.to_be_bytes());
                start -= TAG_LEN;
            }
        });
        head[start - 6..start].copy_from_slice(&own.0);
        head[start - 12..start - 6].copy_from_slice(&to.0);
        let head = &head[start - 12..];
        let frame = at.start - head.len()..at.end;
        self.arena.at(frame.start..at.start).copy_from_slice(head);
        self.push(link, bottom, header.shifted(head.len() as isize), frame);
    }

    /// The link whose frames carry those of `link`; `tag` is told each VLAN on the way, the innermost first.
    fn under(&self, link: IfIndex, mut tag: impl FnMut(u16)) -> Option<(IfIndex, LinkKind)> {
        let mut at = link;
        for _ in 0..=MAX_TAGS {
            let device = self.tables.links.get(&at).filter(|device| device.is_running())?;
            match device.kind {
                kind @ (LinkKind::Ethernet | LinkKind::Veth { .. } | LinkKind::Dummy) => {
                    return Some((at, kind));
                }
                LinkKind::Loopback => return None,
                LinkKind::Vlan { parent, vid } => {
                    tag(vid);
                    at = parent;
                }
            }
        }
        None
    }

    /// A finished frame of `link` leaves by `bottom`; without one it is lost.
    fn push(
        &mut self,
        link: IfIndex,
        bottom: Option<(IfIndex, LinkKind)>,
        header: VnetHdr,
        at: Range<usize>,
    ) {
        let len = at.len() as u64;
        let sent = match bottom {
            None => false,
            Some((bottom, LinkKind::Ethernet)) => {
                self.arena.push(bottom, header, at);
                true
            }
            Some((bottom, kind)) => self.cross(bottom, kind, header, at),
        };
        let count = |counters: &mut LinkCounters| {
            if sent {
                counters.tx_packets += 1;
                counters.tx_bytes += len;
            } else {
                counters.tx_dropped += 1;
            }
        };
        self.count(link, count);
        if let Some((bottom, _)) = bottom
            && bottom != link
        {
            self.count(bottom, count);
        }
    }

    /// Counts something on an interface.
    pub(super) fn count(&mut self, link: IfIndex, count: impl FnOnce(&mut LinkCounters)) {
        if let Some(link) = self.tables.links.get_mut(&link) {
            count(&mut link.counters);
        }
    }

    /// The hardware address of an interface.
    pub(super) fn mac(&self, link: IfIndex) -> Option<Mac> {
        self.tables.links.get(&link).map(|link| link.mac)
    }

    /// The MTU of the interface that a path leaves by, if it can.
    fn device_up(&self, path: &Path) -> Result<u32, Errno> {
        let link = if path.local { LOOPBACK } else { path.link };
        let device = self.tables.links.get(&link).ok_or(Errno::ENODEV)?;
        if device.up { Ok(device.mtu) } else { Err(Errno::ENETDOWN) }
    }

    fn plan(&self, path: &Path, datagram: &Datagram<'_>, payload: &Range<usize>) -> Result<Plan, Errno> {
        let device_mtu = self.device_up(path)?;
        let destination = match datagram.destination {
            address if address.is_unspecified() => path.next_hop,
            address => address,
        };
        let options = datagram.options.len();
        let (head, longest) = match (path.source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) if options <= MAX_OPTIONS => {
                (V4_HEADER + options.next_multiple_of(4), MAX_PACKET)
            }
            (IpAddr::V6(_), IpAddr::V6(_)) if options <= MAX_EXTENSIONS => {
                // A super-segment has to fit a frame; what is fragmented, or stays here, meets none.
                (V6_HEADER + options, MAX_PACKET + V6_HEADER)
            }
            _ => return Err(Errno::EINVAL),
        };
        let total = head + payload.len();
        let mtu = match datagram.fragmenting {
            Fragmenting::Probe => device_mtu,
            _ => path.mtu,
        } as usize;
        let gso = usize::from(datagram.gso_size);
        let super_segment = gso != 0 && payload.len() > gso;
        let fits = if super_segment { head + gso <= mtu } else { total <= mtu };
        let never = matches!(datagram.fragmenting, Fragmenting::Never | Fragmenting::Probe);
        let longest = if super_segment && !path.local { MAX_PACKET } else { longest };
        if total > longest || (!fits && (never || super_segment)) {
            return Err(Errno::EMSGSIZE);
        }
        Ok(Plan {
            source: path.source,
            destination,
            head,
            fragment: (!fits && !path.local).then_some(mtu),
            dont_fragment: never || (fits && datagram.fragmenting == Fragmenting::Want),
            super_segment,
        })
    }

    /// Writes the IP header of the packet at `packet` and gives its identification.
    fn write_header(&mut self, plan: &Plan, datagram: &Datagram<'_>, packet: Range<usize>) -> u32 {
        let (head, total) = (plan.head, packet.len());
        match (plan.source, plan.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ident = match datagram.ident {
                    0 if plan.dont_fragment => 0,
                    0 => self.idents.next(&self.random, (source, destination, datagram.protocol)),
                    ident => ident,
                };
                let bytes = &mut self.arena.at(packet)[..head];
                bytes[V4_HEADER..].fill(0);
                bytes[V4_HEADER..][..datagram.options.len()].copy_from_slice(datagram.options);
                let mut view = Ipv4Packet::new_unchecked(bytes);
                view.set_version(4);
                view.set_header_len(head as u8);
                view.set_dscp(datagram.tos >> 2);
                view.set_ecn(datagram.tos & 3);
                view.set_total_len(total as u16);
                view.set_ident(ident);
                view.clear_flags();
                view.set_frag_offset(0);
                view.set_dont_frag(plan.dont_fragment);
                view.set_hop_limit(datagram.ttl);
                view.set_next_header(IpProtocol::from(datagram.protocol));
                view.set_src_addr(source);
                view.set_dst_addr(destination);
                view.fill_checksum();
                u32::from(ident)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let bytes = &mut self.arena.at(packet)[..head];
                let first = chain(&mut bytes[V6_HEADER..], datagram.options, datagram.protocol);
                let mut view = Ipv6Packet::new_unchecked(bytes);
                view.set_version(6);
                view.set_traffic_class(datagram.tos);
                view.set_flow_label(datagram.flow_label & 0xF_FFFF);
                view.set_payload_len((total - V6_HEADER).min(0xFFFF) as u16);
                view.set_next_header(IpProtocol::from(first));
                view.set_hop_limit(datagram.ttl);
                view.set_src_addr(source);
                view.set_dst_addr(destination);
                if plan.fragment.is_some() { (self.random.next() as u32).max(1) } else { 0 }
            }
            _ => 0,
        }
    }

    /// Fills the checksum field, whole or with the pseudo-header's part, and says what is left to do.
    fn write_checksum(
        &mut self,
        plan: &Plan,
        datagram: &Datagram<'_>,
        payload: Range<usize>,
        partial: bool,
    ) -> Result<VnetHdr, Errno> {
        let Some(place) = datagram.checksum_at.map(usize::from) else { return Ok(VnetHdr::default()) };
        let bytes = self.arena.at(payload);
        let len = bytes.len();
        let field = bytes.get_mut(place..place + 2).ok_or(Errno::EINVAL)?;
        field.fill(0);
        let protocol = datagram.protocol;
        let pseudo = pseudo_sum(plan.source, plan.destination, protocol, len);
        if !partial {
            let value = match !fold(pseudo + sum(bytes)) {
                0 if protocol == UDP => 0xFFFF,
                value => value,
            };
            bytes[place..place + 2].copy_from_slice(&value.to_be_bytes());
            return Ok(VnetHdr::default());
        }
        bytes[place..place + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
        let head = plan.head;
        let mut header = VnetHdr {
            flags: NEEDS_CSUM,
            csum_start: head as u16,
            csum_offset: place as u16,
            ..VnetHdr::default()
        };
        if plan.super_segment {
            let (kind, transport) = match (protocol, plan.source) {
                (TCP, _) if len < 20 => return Err(Errno::EINVAL),
                (TCP, source) => {
                    let congestion = if bytes[13] & CWR != 0 { GSO_ECN } else { 0 };
                    let kind = if source.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 };
                    (kind | congestion, usize::from(bytes[12] >> 4) * 4)
                }
                _ => (GSO_UDP_L4, 8),
            };
            header.gso_type = kind;
            header.gso_size = datagram.gso_size;
            header.hdr_len = (head + transport) as u16;
        }
        Ok(header)
    }

    /// The packet at a place in the arena, on its own, header and payload apart.
    fn arena_copy(&mut self, at: Range<usize>, head: usize) -> Buffer<'static> {
        let (header, payload) = self.arena.at(at).split_at(head);
        Buffer::Split { header: header.to_vec(), payload: payload.to_vec() }
    }
}

/// IPPROTO_*
pub(super) const ICMP: u8 = 1;
/// IPPROTO_*
pub(super) const TCP: u8 = 6;
/// IPPROTO_*
pub(super) const UDP: u8 = 17;
/// IPPROTO_*
pub(super) const ICMPV6: u8 = 58;
/// IPPROTO_*
pub(super) const UDP_LITE: u8 = 136;

/// TCP's flag of RFC 3168.
const CWR: u8 = 0x80;

/// The sum of the pseudo-header; ICMP over IPv4 has none.
pub(in crate::smol) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    match (source, destination) {
        (IpAddr::V4(_), _) if protocol == ICMP => 0,
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            pseudo(&source.octets(), protocol, len) + sum(&destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            pseudo(&source.octets(), protocol, len) + sum(&destination.octets())
        }
        _ => 0,
    }
}

/// Writes the extension headers `options`, in which each header says its own type where the next one's goes,
/// as a chain that ends in `protocol`. Returns the type of the first.
fn chain(out: &mut [u8], options: &[u8], protocol: u8) -> u8 {
    out.copy_from_slice(options);
    let mut at = 0;
    while let Some(&[_, len]) = out.get(at..at + 2) {
        let next = at + 8 + usize::from(len) * 8;
        out[at] = options.get(next).copied().unwrap_or(protocol);
        at = next;
    }
    options.first().copied().unwrap_or(protocol)
}

/// RFC 1112 clause 6.4, RFC 2464 clause 7; everybody for IPv4 broadcasts.
pub(super) fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, a, b, c] = group.octets();
            Mac([0x01, 0x00, 0x5E, a & 0x7F, b, c])
        }
        IpAddr::V4(_) => super::arp::BROADCAST,
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            Mac([0x33, 0x33, a, b, c, d])
        }
    }
}
