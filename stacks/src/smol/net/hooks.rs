//! Where the packet filter is asked, and what comes of its answers (netfilter's hooks of the same names).
//!
//! # Theory of operation
//! Nothing here is called without a filter. Prerouting is asked about whole packets: fragments are put together
//! first, and cut again if they go on. What a verdict changes is changed in a copy of the packet's headers, or
//! in place where the packet is ours. A packet of ours that is dropped is EPERM for its program, as in Linux; one
//! that gets another receiver takes another way. A rejected TCP segment gets a reset in its receiver's name
//! (RFC 9293 clause 3.10.7.1), anything else ICMP's port unreachable.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::buffer::Buffer;
use super::icmp_error::Trouble;
use super::input::Arrival;
use super::ipv4::Header4;
use super::ipv6::{Header6, Walk};
use super::output::{TCP, UDP, V6_HEADER};
use super::{Datagram, Delivery, Fragmenting, Net, Packet, Path, Wish, icmp_error};
use crate::filter::packet::Rewrite;
use crate::filter::{Ends, Hook, Tracked, Verdict, View};
use crate::smol::tables::{IfIndex, LOOPBACK, Tables};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// TCP's flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What prerouting says of a packet.
enum Passed<'f> {
    /// It goes on.
    As(Buffer<'f>),
    /// It ended.
    Gone,
}

impl Net {
    /// An IPv4 packet whose header is right.
    pub(super) fn ipv4_filtered<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: Header4,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let mut arrival = *arrival;
        let buffer = if header.is_fragment() {
            let Some(whole) = self.reassemble_v4(now, &arrival, &header, &buffer) else {
                return Delivery::None;
            };
            arrival.is_whole_now();
            whole
        } else {
            buffer
        };
        let Passed::As(buffer) = self.prerouting(now, &mut arrival, buffer) else { return Delivery::None };
        match Header4::parse(buffer.front(), buffer.len()) {
            Some(header) => self.ipv4_routed(now, &arrival, header, buffer),
            None => self.bad(arrival.link),
        }
    }

    /// An IPv6 packet whose header is right.
    pub(super) fn ipv6_filtered<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: Header6,
        buffer: Buffer<'f>,
    ) -> Delivery<'f> {
        let mut arrival = *arrival;
        let group = header.destination.is_multicast();
        let buffer = match self.walk(&buffer, (header.next, V6_HEADER, 6), group) {
            Walk::Fragment(at, named_at) => {
                let whole = self.reassemble_v6(now, &arrival, &header, &buffer, at, named_at);
                let Some((whole, _)) = whole else { return Delivery::None };
                arrival.is_whole_now();
                // There may be more headers behind the one that is gone.
                whole.joined()
            }
            _ => buffer,
        };
        let Passed::As(buffer) = self.prerouting(now, &mut arrival, buffer) else { return Delivery::None };
        match Header6::parse(buffer.front(), buffer.len()) {
            Some(header) => self.ipv6_routed(now, &arrival, header, buffer),
            None => self.bad(arrival.link),
        }
    }

    fn prerouting<'f>(&mut self, now: Instant, arrival: &mut Arrival, buffer: Buffer<'f>) -> Passed<'f> {
        let Some(view) = View::new(buffer.pieces()) else {
            self.count(arrival.link, |counters| counters.rx_errors += 1);
            return Passed::Gone;
        };
        let Self { filter: Some(filter), tables, .. } = self else { return Passed::As(buffer) };
        let ends = Ends { arrives: name(tables, arrives_by(arrival)), leaves: "" };
        let verdict = filter.judge(now, Hook::Prerouting, &view, ends, &mut arrival.tracked);
        match verdict {
            Verdict::Accept => Passed::As(buffer),
            Verdict::Translate(rewrite) => {
                let head = view.head;
                let mut bytes = buffer.pieces().concat();
                let partial = is_partial(&view, arrival);
                let (header, upper) = bytes.split_at_mut(head);
                rewrite.apply(header, upper, partial);
                // Only a packet to ourselves has its headers apart, and there it saves a copy.
                Passed::As(Buffer::Owned(bytes))
            }
            Verdict::Drop => {
                self.count(arrival.link, |counters| counters.rx_dropped += 1);
                Passed::Gone
            }
            Verdict::Reject => {
                if let Some(packet) = whole_packet(arrival, &view, &buffer) {
                    self.refuse(now, &packet);
                }
                self.forget_tracked(arrival);
                Passed::Gone
            }
        }
    }

    /// A packet for us.
    pub(super) fn filtered_input<'f>(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        mut packet: Packet<'f>,
    ) -> Delivery<'f> {
        let mut tracked = arrival.tracked;
        let verdict = {
            let Some(view) = View::new([&packet.header, &packet.payload]) else {
                return self.bad(arrival.link);
            };
            let Self { filter: Some(filter), tables, .. } = self else { return Delivery::None };
            let ends = Ends { arrives: name(tables, arrives_by(arrival)), leaves: "" };
            let verdict = filter.judge(now, Hook::Input, &view, ends, &mut tracked);
            (verdict, is_partial(&view, arrival))
        };
        match verdict {
            (Verdict::Accept, _) => {}
            (Verdict::Translate(rewrite), partial) => {
                rewrite.apply(packet.header.to_mut(), packet.payload.to_mut(), partial);
                packet.source = rewrite.source.map_or(packet.source, |(address, _)| address);
                packet.destination = rewrite.destination.map_or(packet.destination, |(address, _)| address);
            }
            (Verdict::Drop, _) => return self.unwanted(arrival.link),
            (Verdict::Reject, _) => {
                self.refuse(now, &packet);
                self.forget_tracked(arrival);
                return Delivery::None;
            }
        }
        self.upper_input(now, packet)
    }

    /// A packet that passes through: what is to be changed in it as it leaves, `None` if it does not.
    pub(super) fn filtered_forward(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        packet: &Packet<'_>,
        pieces: [&[u8]; 2],
        path: &Path,
    ) -> Option<Option<Rewrite>> {
        let mut tracked = arrival.tracked;
        let view = View::new(pieces)?;
        for hook in [Hook::Forward, Hook::Postrouting] {
            let Self { filter: Some(filter), tables, .. } = self else { return Some(None) };
            let arrives = if hook.has_in() { name(tables, arrival.link) } else { "" };
            let ends = Ends { arrives, leaves: name(tables, path.link) };
            match filter.judge(now, hook, &view, ends, &mut tracked) {
                Verdict::Accept => {}
                Verdict::Translate(rewrite) => return Some(Some(rewrite)),
                Verdict::Drop => {
                    self.count(path.link, |counters| counters.tx_dropped += 1);
                    return None;
                }
                Verdict::Reject => {
                    self.refuse(now, packet);
                    self.forget_tracked(arrival);
                    return None;
                }
            }
        }
        Some(None)
    }

    /// A packet of ours, in the arena, with `head` bytes of IP headers: which way it goes now.
    pub(super) fn filtered_output(
        &mut self,
        now: Instant,
        path: &Path,
        at: Range<usize>,
        head: usize,
        header: &VnetHdr,
    ) -> Result<(Path, Option<Tracked>), Errno> {
        let (mut path, mut tracked) = (*path, None);
        for hook in [Hook::Output, Hook::Postrouting] {
            let link = if path.local { LOOPBACK } else { path.link };
            let Self { filter: Some(filter), tables, arena, .. } = self else { break };
            let bytes = arena.at(at.clone());
            let view = View::new([bytes, &[]]).ok_or(Errno::EINVAL)?;
            let ends = Ends { arrives: "", leaves: name(tables, link) };
            let verdict = filter.judge(now, hook, &view, ends, &mut tracked);
            match verdict {
                Verdict::Accept => {}
                Verdict::Translate(change) => {
                    let before = view.destination;
                    rewrite(&change, bytes, header);
                    if let Some((address, _)) = change.destination.filter(|(address, _)| *address != before) {
                        let wish = Wish { source: Some(path.source), ..Wish::default() };
                        path = self.route(address, &wish)?;
                        // It was cut for another way.
                        if header.gso_size == 0 && !path.local && at.len() > path.mtu as usize {
                            return Err(Errno::EMSGSIZE);
                        }
                    }
                }
                Verdict::Drop => return Err(Errno::EPERM),
                Verdict::Reject => {
                    let bytes = bytes.to_vec();
                    let (head, payload) = bytes.split_at(head);
                    if let Some(view) = View::new([head, payload]) {
                        let packet = our_packet(link, &view, head, payload);
                        self.refuse(now, &packet);
                    }
                    if let (Some(filter), Some(tracked)) = (&mut self.filter, &tracked) {
                        filter.forget(tracked);
                    }
                    return Err(Errno::EPERM);
                }
            }
        }
        Ok((path, tracked))
    }

    /// Nothing came of a packet: if it has begun a connection, there is none.
    pub(super) fn forget_tracked(&mut self, arrival: &Arrival) {
        if let (Some(filter), Some(tracked)) = (&mut self.filter, &arrival.tracked) {
            filter.forget(tracked);
        }
    }

    /// Tells a packet's sender that it is not wanted.
    fn refuse(&mut self, now: Instant, packet: &Packet<'_>) {
        if packet.protocol == TCP {
            self.send_reset(now, packet);
        } else {
            self.tell(now, packet, Trouble::Port);
        }
    }

    fn send_reset(&mut self, now: Instant, packet: &Packet<'_>) {
        let Some(segment) = packet.payload.first_chunk::<TCP_HEADER>() else { return };
        let flags = segment[13];
        if flags & RST != 0 || packet.group_frame || packet.destination.is_multicast() {
            return;
        }
        let Ok(mut path) = self.route(packet.source, &Wish::default()) else { return };
        if path.group {
            return;
        }
        path.source = packet.destination;
        let mut reset = [0; TCP_HEADER];
        reset[..2].copy_from_slice(&segment[2..4]);
        reset[2..4].copy_from_slice(&segment[..2]);
        reset[12] = (TCP_HEADER as u8 / 4) << 4;
        if flags & ACK != 0 {
            reset[4..8].copy_from_slice(&segment[8..12]);
            reset[13] = RST;
        } else {
            let data = packet.payload.len().saturating_sub(usize::from(segment[12] >> 4) * 4);
            let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
            reset[8..12].copy_from_slice(&sequence.wrapping_add(length).to_be_bytes());
            reset[13] = RST | ACK;
        }
        let datagram = Datagram {
            destination: packet.source,
            protocol: TCP,
            ttl: icmp_error::DEFAULT_TTL,
            tos: 0,
            flow_label: 0,
            fragmenting: Fragmenting::Want,
            gso_size: 0,
            checksum_at: Some(16),
            options: &[],
            ident: 0,
        };
        let _ = self.send(now, &path, &datagram, &[&reset]);
    }
}

impl Arrival {
    /// Its fragments were put together.
    fn is_whole_now(&mut self) {
        self.gso_size = 0;
        self.header = VnetHdr::default();
        self.trusted = self.is_looped();
        self.reassembled = true;
    }
}

/// Puts other ends into a packet that is about to leave.
pub(super) fn rewrite(change: &Rewrite, packet: &mut [u8], header: &VnetHdr) {
    let Some(head) = View::new([packet, &[]]).map(|view| view.head) else { return };
    let (head, upper) = packet.split_at_mut(head);
    change.apply(head, upper, header.needs_csum());
}

fn name(tables: &Tables, link: IfIndex) -> &str {
    tables.links.get(&link).map_or("", |link| &link.name)
}

/// A packet to ourselves comes in by the loopback, a copy of one to a group by where that is.
fn arrives_by(arrival: &Arrival) -> IfIndex {
    if arrival.is_looped() && !arrival.group_frame { LOOPBACK } else { arrival.link }
}

/// Is its checksum that of the pseudo-header alone?
fn is_partial(view: &View<'_>, arrival: &Arrival) -> bool {
    matches!(view.protocol, TCP | UDP) && (arrival.header.needs_csum() || arrival.is_looped())
}

/// A packet that arrived, for an answer to it.
fn whole_packet<'a>(arrival: &Arrival, view: &View<'a>, buffer: &'a Buffer<'_>) -> Option<Packet<'a>> {
    let header = buffer.front().get(..view.head)?;
    let mut packet = our_packet(arrival.link, view, header, view.upper);
    packet.group_frame = arrival.group_frame;
    Some(packet)
}

fn our_packet<'a>(link: IfIndex, view: &View<'_>, header: &'a [u8], payload: &'a [u8]) -> Packet<'a> {
    let v4 = matches!(view.source, IpAddr::V4(_));
    Packet {
        link,
        source: view.source,
        destination: view.destination,
        protocol: view.protocol,
        header: header.into(),
        payload: payload.into(),
        ttl: 0,
        tos: if v4 { header.get(1).copied().unwrap_or(0) } else { 0 },
        flow_label: 0,
        gso_size: 0,
        checked: true,
        group_frame: false,
        mac: None,
    }
}
