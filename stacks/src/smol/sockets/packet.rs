//! Packet sockets: frames as they are (packet(7)).
//!
//! # Theory of operation
//! Every frame that comes or goes is shown to the packet sockets of its interface and protocol, cut to what
//! their filter wants. A tag is taken out of the frame and told in PACKET_AUXDATA, as Linux does. Frames of the
//! loopback have no Ethernet header until somebody looks: then they get one of zeros.
//!
//! With PACKET_RX_RING frames go to a ring in memory (`ring`) and no more to the queue. PACKET_TX_RING is EINVAL.
//!
//! Read: net/packet/af_packet.c.

use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::address::{self, LinkLayer, emit_ll, family};
use super::bpf::View;
use super::cmsg::{Control, realtime};
use super::queue::{Auxiliary, Item, Queue, Sender};
use super::ring::{Frame, Ring};
use super::{Body, Socket, spkt};
use crate::smol::call::Done;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::Packet;
use crate::smol::tables::{IfIndex, LOOPBACK, Link, LinkKind};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// Where its type is.
const TYPE: usize = 12;
/// Bytes of a tag.
pub(crate) const TAG: usize = 4;
/// ETH_P_*
const ALL: u16 = libc::ETH_P_ALL as u16;
const IPV4: u16 = libc::ETH_P_IP as u16;
const IPV6: u16 = libc::ETH_P_IPV6 as u16;
const VLAN: u16 = libc::ETH_P_8021Q as u16;
/// PACKET_*: whose frame.
const HOST: u8 = 0;
const BROADCAST: u8 = 1;
const MULTICAST: u8 = 2;
const OTHER: u8 = 3;
const OUTGOING: u8 = 4;
/// TP_STATUS_*
const STATUS_USER: u32 = 1;
const STATUS_SUM_NOT_READY: u32 = 8;
const STATUS_TAG: u32 = 0x10 | 0x40;
/// PACKET_AUXDATA
pub(crate) const AUXDATA: i32 = 8;

/// What a packet socket has beside what all have.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    pub(crate) queue: Queue,
    /// SOCK_DGRAM: without the Ethernet header.
    pub(crate) cooked: bool,
    /// ETH_P_*; 0: nothing.
    pub(crate) protocol: u16,
    /// The interface it is bound to.
    pub(crate) link: Option<IfIndex>,
    pub(crate) auxdata: bool,
    pub(crate) original_device: bool,
    pub(crate) ignore_outgoing: bool,
    pub(crate) version: i32,
    pub(crate) reserve: i32,
    pub(crate) time_stamp: i32,
    /// PACKET_STATISTICS: packets, and the drops that were told already.
    pub(crate) packets: u32,
    pub(crate) told_drops: u64,
    /// PACKET_ADD_MEMBERSHIP: interface, kind, address.
    pub(crate) memberships: Vec<(IfIndex, u16, [u8; 8])>,
    /// PACKET_RX_RING: where frames go instead of the queue.
    pub(crate) ring: Option<Box<Ring>>,
}

impl PacketSocket {
    pub(crate) fn new(protocol: u16, cooked: bool) -> Self {
        Self {
            queue: Queue::default(),
            cooked,
            protocol,
            link: None,
            auxdata: false,
            original_device: false,
            ignore_outgoing: false,
            version: 0,
            reserve: 0,
            time_stamp: 0,
            packets: 0,
            told_drops: 0,
            memberships: Vec::new(),
            ring: None,
        }
    }

    /// Frames were dropped of which the program was not told.
    pub(crate) fn is_losing(&self) -> bool {
        self.queue.dropped != self.told_drops
    }

    /// struct tpacket_auxdata, if wanted.
    pub(crate) fn describe(&self, control: &mut Control<'_>, item: &Item) {
        if !self.auxdata {
            return;
        }
        let auxiliary = &item.auxiliary;
        let mut data = [0; 20];
        data[..4].copy_from_slice(&auxiliary.status.to_ne_bytes());
        data[4..8].copy_from_slice(&auxiliary.length.to_ne_bytes());
        data[8..12].copy_from_slice(&(item.data.len() as u32).to_ne_bytes());
        data[14..16].copy_from_slice(&auxiliary.network.to_ne_bytes());
        if let Some(tag) = auxiliary.tag {
            data[16..18].copy_from_slice(&tag.to_ne_bytes());
            data[18..20].copy_from_slice(&VLAN.to_ne_bytes());
        }
        control.put(libc::SOL_PACKET, AUXDATA, &data);
    }
}

/// The packet sockets of an engine.
#[derive(Debug, Default)]
pub(crate) struct Taps(Vec<SocketId>);

impl Taps {
    /// Nobody looks: the usual case.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, id: SocketId) {
        self.0.push(id);
    }
}

/// A frame for packet sockets.
struct Seen<'a> {
    link: IfIndex,
    kind: u8,
    /// Without its tag.
    frame: &'a [u8],
    protocol: u16,
    tag: Option<u16>,
    partial: bool,
}

impl Engine {
    /// Shows an incoming frame to whoever wants it.
    pub(crate) fn tap_incoming(&mut self, now: Instant, link: IfIndex, header: &VnetHdr, frame: &[u8]) {
        if self.taps.is_empty() || frame.len() < ETHERNET {
            return;
        }
        let own = self.net.tables.links.get(&link).map(|link| link.mac.0);
        let destination = &frame[..6];
        let kind = if own.is_some_and(|own| own == destination) {
            HOST
        } else if destination == [0xff; 6] {
            BROADCAST
        } else if destination[0] & 1 != 0 {
            MULTICAST
        } else {
            OTHER
        };
        self.tap(now, link, kind, header.needs_csum(), frame);
    }

    /// Shows a frame that leaves to whoever wants it.
    pub(crate) fn tap_outgoing(&mut self, now: Instant, link: IfIndex, header: &VnetHdr, frame: &[u8]) {
        if !self.taps.is_empty() {
            self.tap(now, link, OUTGOING, header.needs_csum(), frame);
        }
    }

    /// Hands the frames that leave to `sink` and shows them to whoever wants them.
    pub(crate) fn transmit_tapped(&mut self, now: Instant, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) {
        let mut copies: Vec<(IfIndex, bool, Vec<u8>)> = Vec::new();
        self.net.poll_transmit(&mut |link, header, frame| {
            copies.push((link, header.needs_csum(), frame.to_vec()));
            sink(link, header, frame);
        });
        for (link, partial, frame) in copies {
            self.tap(now, link, OUTGOING, partial, &frame);
        }
    }

    /// Shows a packet on the loopback to whoever wants it, on its way out and in.
    pub(crate) fn tap_loopback(&mut self, now: Instant, packet: &Packet<'_>) {
        if self.taps.is_empty() || packet.mac.is_some() {
            return;
        }
        let protocol = if packet.source.is_ipv4() { IPV4 } else { IPV6 };
        let mut frame = vec![0; TYPE];
        frame.extend_from_slice(&protocol.to_be_bytes());
        frame.extend_from_slice(&packet.header);
        frame.extend_from_slice(&packet.payload);
        for kind in [OUTGOING, HOST] {
            self.tap(now, LOOPBACK, kind, true, &frame);
        }
    }

    fn tap(&mut self, now: Instant, link: IfIndex, kind: u8, partial: bool, frame: &[u8]) {
        if frame.len() < ETHERNET {
            return;
        }
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let tagged = word(TYPE) == VLAN && frame.len() >= ETHERNET + TAG;
        let tag = tagged.then(|| word(TYPE + 2));
        let untagged = tagged.then(|| [&frame[..TYPE], &frame[TYPE + TAG..]].concat());
        let protocol = if tagged { word(TYPE + TAG) } else { word(TYPE) };
        let frame = untagged.as_deref().unwrap_or(frame);
        let seen = Seen { link, kind, frame, protocol, tag, partial };
        let ids = self.taps.0.clone();
        for id in ids {
            self.tap_one(now, id, &seen);
        }
    }

    fn tap_one(&mut self, now: Instant, id: SocketId, seen: &Seen<'_>) {
        let random = self.secret.draw() as u32;
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let old = socket.is_spkt();
        let filter = socket.options.filter.clone();
        let Body::Packet(packet) = &mut socket.body else { return };
        let wanted = packet.protocol == ALL
            || (packet.protocol != 0 && packet.protocol == seen.protocol && seen.kind != OUTGOING);
        let here = packet.link.is_none_or(|link| link == seen.link);
        if !wanted || !here || (packet.ignore_outgoing && seen.kind == OUTGOING) {
            return;
        }
        let data = if packet.cooked { &seen.frame[ETHERNET..] } else { seen.frame };
        let mut keep = data.len();
        if let Some(filter) = filter {
            let view = View {
                data,
                network: (&seen.frame[ETHERNET..], &[]),
                link: seen.frame,
                protocol: seen.protocol,
                kind: seen.kind,
                index: seen.link.0,
                tag: seen.tag,
                random,
            };
            keep = keep.min(filter.run(&view) as usize);
            if keep == 0 {
                return;
            }
        }
        packet.packets = packet.packets.wrapping_add(1);
        let status = status(seen);
        let losing = packet.is_losing();
        if let Some(ring) = &mut packet.ring {
            let frame = Frame {
                data: &data[..keep],
                length: data.len() as u32,
                link: (!packet.cooked).then_some(ETHERNET as u32),
                status,
                tag: seen.tag,
                from: sender(seen),
                at: realtime(now, self.origin, self.realtime),
            };
            packet.queue.dropped += u64::from(!ring.put(now, &frame, losing));
            return self.tend_ring(id);
        }
        let from = match self.net.tables.links.get(&seen.link) {
            Some(link) if old => Sender::Device(spkt::sender(link, seen.protocol)),
            _ => Sender::Link(sender(seen)),
        };
        let item = Item {
            data: Vec::new(),
            from,
            to: std::net::Ipv4Addr::UNSPECIFIED.into(),
            to_port: 0,
            link: seen.link,
            ttl: 0,
            tos: 0,
            flow: 0,
            segment: 0,
            at: now,
            auxiliary: Auxiliary {
                status,
                length: data.len() as u32,
                network: if packet.cooked { 0 } else { ETHERNET as u16 },
                tag: seen.tag,
            },
        };
        self.enqueue(id, &item, &data[..keep]);
    }

    /// bind(2): to an interface and a protocol.
    pub(crate) fn bind_packet(&mut self, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        let (link, protocol) = if self.sockets.get(id).is_some_and(Socket::is_spkt) {
            (self.spkt_device(bytes)?.0, 0)
        } else {
            let ll = address::parse_ll(bytes)?;
            if family(bytes) != Some(libc::AF_PACKET) {
                return Err(Errno::EINVAL);
            }
            (u32::try_from(ll.link).map_err(|_| Errno::ENODEV)?, ll.protocol)
        };
        let link = match link {
            0 => None,
            index => Some(self.net.tables.links.get(&IfIndex(index)).ok_or(Errno::ENODEV)?),
        };
        let (index, down) = (link.map(|link| link.index), link.is_some_and(|link| !link.up));
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if down {
            socket.error = Some(Errno::ENETDOWN);
        }
        let Body::Packet(packet) = &mut socket.body else { return Err(Errno::EOPNOTSUPP) };
        packet.link = index;
        if protocol != 0 {
            packet.protocol = protocol;
        }
        self.mark(id);
        Ok(())
    }

    /// getsockname(2)
    pub(crate) fn packet_name(&self, packet: &PacketSocket) -> Vec<u8> {
        let link = packet.link.and_then(|index| self.net.tables.links.get(&index));
        let mut ll = LinkLayer { protocol: packet.protocol, ..LinkLayer::default() };
        if let Some(link) = link {
            ll.link = link.index.0 as i32;
            ll.hardware = hardware(link);
            ll.length = 6;
            ll.address[..6].copy_from_slice(&link.mac.0);
        }
        emit_ll(&ll)
    }

    /// sendmsg(2): a frame, or what is behind its header.
    pub(crate) fn send_packet(
        &mut self,
        now: Instant,
        id: SocketId,
        to: Option<&[u8]>,
        data: &[u8],
    ) -> Result<Done, Errno> {
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if socket.is_spkt() {
            return self.send_spkt(now, to, data);
        }
        if let Some(error) = socket.take_error() {
            return Err(error);
        }
        let Body::Packet(packet) = &socket.body else { return Err(Errno::EOPNOTSUPP) };
        let to = to.map(|bytes| match family(bytes) {
            Some(libc::AF_PACKET) => address::parse_ll(bytes),
            _ => Err(Errno::EINVAL),
        });
        let to = to.transpose()?;
        let index = match to {
            Some(ll) => u32::try_from(ll.link).map_err(|_| Errno::ENXIO)?,
            None => packet.link.map_or(0, |link| link.0),
        };
        let link = self.net.tables.links.get(&IfIndex(index)).ok_or(Errno::ENXIO)?;
        if !link.up {
            return Err(Errno::ENETDOWN);
        }
        let headers = if packet.cooked { 0 } else { ETHERNET + TAG };
        if data.len() > link.mtu as usize + headers {
            return Err(Errno::EMSGSIZE);
        }
        let mut made = Vec::new();
        let frame = if packet.cooked {
            let protocol = to.map_or(packet.protocol, |ll| ll.protocol);
            let destination = to.map_or([0; 8], |ll| ll.address);
            made.extend_from_slice(&destination[..6]);
            made.extend_from_slice(&link.mac.0);
            made.extend_from_slice(&protocol.to_be_bytes());
            made.extend_from_slice(data);
            &made
        } else if data.len() < ETHERNET {
            return Err(Errno::EINVAL);
        } else {
            data
        };
        self.net.send_frame(now, IfIndex(index), &VnetHdr::default(), frame)?;
        Ok(Done::Value(data.len() as i64))
    }

    /// A new packet socket looks from now on.
    pub(crate) fn open_tap(&mut self, id: SocketId) {
        self.taps.add(id);
    }

    /// close(2) of a packet socket.
    pub(crate) fn close_packet(&mut self, id: SocketId) {
        self.arm(id, None);
        self.taps.0.retain(|other| *other != id);
        let Some(Body::Packet(packet)) = self.sockets.remove(id).map(|socket| socket.body) else { return };
        for (link, kind, _) in packet.memberships {
            // The interface may have gone before the socket.
            let _ = self.ask(link, kind, false);
        }
    }

    /// Asks an interface for more frames, or for fewer again. Groups of frames are asked for as all groups.
    pub(crate) fn ask(&mut self, link: IfIndex, kind: u16, more: bool) -> Result<(), Errno> {
        let tables = &mut self.net.tables;
        match i32::from(kind) {
            libc::PACKET_MR_PROMISC | libc::PACKET_MR_UNICAST => tables.ask_promiscuous(link, more),
            _ => tables.ask_allmulti(link, more),
        }
        .map_err(|refused| refused.errno)
    }

    /// Whether a socket's filter lets a packet of IP through.
    pub(crate) fn passes_filter(&mut self, id: SocketId, packet: &Packet<'_>) -> bool {
        let Some(filter) = self.sockets.get(id).and_then(|socket| socket.options.filter.clone()) else {
            return true;
        };
        let raw_v4 = packet.source.is_ipv4() && self.sockets.get(id).is_some_and(Socket::is_raw);
        let whole = if raw_v4 { [&packet.header[..], &packet.payload[..]].concat() } else { Vec::new() };
        let view = View {
            data: if raw_v4 { &whole } else { &packet.payload },
            network: (&packet.header, &packet.payload),
            link: &[],
            protocol: if packet.source.is_ipv4() { IPV4 } else { IPV6 },
            kind: if packet.group_frame { MULTICAST } else { HOST },
            index: packet.link.0,
            tag: None,
            random: self.secret.draw() as u32,
        };
        let passes = filter.run(&view) > 0;
        self.counters.filtered += u64::from(!passes);
        passes
    }
}

/// ARPHRD_*
pub(crate) fn hardware(link: &Link) -> u16 {
    if link.kind == LinkKind::Loopback { libc::ARPHRD_LOOPBACK } else { libc::ARPHRD_ETHER }
}

/// TP_STATUS_*
fn status(seen: &Seen<'_>) -> u32 {
    let partial = if seen.partial { STATUS_SUM_NOT_READY } else { 0 };
    let tagged = if seen.tag.is_some() { STATUS_TAG } else { 0 };
    STATUS_USER | partial | tagged
}

fn sender(seen: &Seen<'_>) -> LinkLayer {
    let mut ll = LinkLayer {
        protocol: seen.protocol,
        link: seen.link.0 as i32,
        hardware: if seen.link == LOOPBACK { libc::ARPHRD_LOOPBACK } else { libc::ARPHRD_ETHER },
        kind: seen.kind,
        length: 6,
        address: [0; 8],
    };
    ll.address[..6].copy_from_slice(&seen.frame[6..12]);
    ll
}
