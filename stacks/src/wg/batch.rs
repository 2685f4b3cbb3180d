//! What leaves a tunnel, collected: trains of datagrams for the host, super-segments for the stack.
//!
//! # Theory of operation
//! **[`Outbox`].** Datagrams to one peer that are equally long, but for the last, lie one behind the other: such a
//! *train* is one sendmsg(2) with UDP_SEGMENT (udp(7)).
//!
//! **[`Inbox`].** Packets for the stack, each behind an Ethernet header. A TCP segment that goes on where the last one
//! ended is joined to it, by the rules of Linux's tcp_gro_receive: same addresses, ports, options, window and
//! acknowledgement, nothing but ACK and PSH set, no fragment, DF set on IPv4. What is joined has its checksum left to
//! be filled (virtio-net's NEEDS_CSUM): Poly1305 has shown already that nothing was changed on the way, as Linux's
//! WireGuard takes it (CHECKSUM_UNNECESSARY).
//!
//! Both are emptied by their owner after each input. They have their memory from the first packet on, until the owner
//! has nothing to do and lets them [rest](Outbox::rest): then it goes back to the kernel, as blocks of their size are
//! mappings of their own (mallopt(3), M_MMAP_THRESHOLD).

use std::net::SocketAddr;
use std::ops::Range;

use switch::frame::{HEADER_LEN, IPV4, IPV6};
use switch::offload::{GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VnetHdr, checksum};

use super::{STACK_MAC, TUNNEL_MAC};

/// Bytes of an outbox: what becomes of one super-segment, or of the 256 packets that may wait for a session.
const OUTBOX: usize = 512 << 10;
/// Most datagrams in a train (UDP_MAX_SEGMENTS in Linux until 6.9).
const MAX_TRAIN: usize = 64;
/// Longest train: what a UDP datagram over IPv4 may have.
pub const MAX_DATAGRAM: usize = 65_507;
/// Bytes of an inbox: what is received at once, and an Ethernet header for each of the smallest packets in it.
const INBOX: usize = 160 << 10;
/// Longest IP packet.
const MAX_PACKET: usize = 65_535;

/// Datagrams for the host.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
}

/// Datagrams for one peer.
#[derive(Debug, Clone)]
pub struct Train {
    /// The peer.
    pub to: SocketAddr,
    /// Bytes of each datagram but the last.
    pub segment: u16,
    at: Range<usize>,
    count: usize,
    closed: bool,
}

impl Outbox {
    /// Room for a datagram of `len` bytes; `None`: there is none until it is emptied.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; OUTBOX];
        }
        self.bytes.get_mut(self.used..self.used + len)
    }

    /// The first `len` bytes of the room are a datagram for `to`.
    pub fn commit(&mut self, to: SocketAddr, len: usize) {
        let at = self.used..self.used + len;
        self.used = at.end;
        if let Some(train) = self.trains.last_mut()
            && train.to == to
            && !train.closed
            && train.count < MAX_TRAIN
            && len <= usize::from(train.segment)
            && at.end - train.at.start <= MAX_DATAGRAM
        {
            train.at.end = at.end;
            train.count += 1;
            train.closed = len < usize::from(train.segment);
            return;
        }
        let segment = u16::try_from(len).unwrap_or(u16::MAX);
        self.trains.push(Train { to, segment, at, count: 1, closed: len == 0 });
    }

    /// Is there as much as one sendmsg(2) takes?
    pub fn is_long(&self) -> bool {
        self.used >= MAX_DATAGRAM
    }

    /// The trains, and what is in them.
    pub fn trains(&self) -> impl Iterator<Item = (&Train, &[u8])> {
        self.trains.iter().map(|train| (train, &self.bytes[train.at.clone()]))
    }

    /// Everything was sent.
    pub fn clear(&mut self) {
        self.used = 0;
        self.trains.clear();
    }

    /// Gives its memory back, and what is in it, until there is something again.
    pub fn rest(&mut self) {
        *self = Self::default();
    }
}

/// Packets for the stack, as frames.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    used: usize,
    frames: Vec<(VnetHdr, Range<usize>)>,
    open: Option<Open>,
}

/// The last frame, if it is a TCP segment that may be gone on with.
#[derive(Debug)]
struct Open {
    /// Where its IP header begins.
    ip: usize,
    layout: Layout,
    /// The sequence number behind it.
    next: u32,
    /// Payload of each segment.
    size: usize,
    segments: usize,
}

impl Inbox {
    /// Room for a packet of `len` bytes; `None`: there is none until it is emptied.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; INBOX];
        }
        let start = self.used + HEADER_LEN;
        self.bytes.get_mut(start..start + len)
    }

    /// The first `len` bytes of the room are an IP packet.
    pub fn commit(&mut self, len: usize) {
        let ip = self.used + HEADER_LEN;
        let layout = Layout::parse(&self.bytes[ip..ip + len]);
        if let Some(layout) = &layout
            && self.join(ip, layout)
        {
            return;
        }
        self.close();
        let header = &mut self.bytes[self.used..ip];
        header[..6].copy_from_slice(&STACK_MAC);
        header[6..12].copy_from_slice(&TUNNEL_MAC);
        let v4 = self.bytes[ip] >> 4 == 4;
        self.bytes[ip - 2..ip].copy_from_slice(&if v4 { IPV4 } else { IPV6 }.to_be_bytes());
        self.frames.push((VnetHdr::default(), self.used..ip + len));
        self.used = ip + len;
        self.open = layout.filter(|layout| !layout.push).map(|layout| {
            let size = len - layout.payload;
            let next = layout.sequence(&self.bytes[ip..]).wrapping_add(size as u32);
            Open { ip, layout, next, size, segments: 1 }
        });
    }

    /// Joins the packet at `ip` to the last frame, if it belongs there.
    fn join(&mut self, ip: usize, layout: &Layout) -> bool {
        let Some(open) = &mut self.open else { return false };
        let len = layout.end - layout.payload;
        let end = self.used;
        let (before, after) = self.bytes.split_at(ip);
        let (was, new) = (&before[open.ip..], after);
        if len > open.size
            || layout.payload != open.layout.payload
            || layout.sequence(new) != open.next
            || end - open.ip + len > MAX_PACKET
            || !layout.same_flow(was, new)
        {
            return false;
        }
        self.bytes.copy_within(ip + layout.payload..ip + layout.end, end);
        self.used = end + len;
        let frame = self.frames.last_mut().expect("the open frame is the last");
        frame.1.end = self.used;
        open.next = open.next.wrapping_add(len as u32);
        open.segments += 1;
        if layout.push {
            let flags = open.ip + open.layout.transport + 13;
            self.bytes[flags] |= PSH;
        }
        if layout.push || len < open.size {
            self.close();
        }
        true
    }

    /// Makes what was joined a super-segment.
    fn close(&mut self) {
        let Some(open) = self.open.take().filter(|open| open.segments > 1) else { return };
        let Open { ip, layout, size, .. } = open;
        let len = self.used - ip;
        let packet = &mut self.bytes[ip..self.used];
        let addresses = if layout.v4 {
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[10..12].fill(0);
            let sum = !checksum::fold(checksum::sum(&packet[..layout.transport]));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            12..20
        } else {
            packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            8..40
        };
        let pseudo = checksum::pseudo(&packet[addresses], TCP, len - layout.transport);
        let field = layout.transport + 16;
        packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let frame = self.frames.last_mut().expect("the open frame is the last");
        frame.0 = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: if layout.v4 { GSO_TCPV4 } else { GSO_TCPV6 },
            hdr_len: (HEADER_LEN + layout.payload) as u16,
            gso_size: size as u16,
            csum_start: (HEADER_LEN + layout.transport) as u16,
            csum_offset: 16,
        };
    }

    /// The frames; nothing is joined to them any more.
    pub fn frames(&mut self) -> impl Iterator<Item = (&VnetHdr, &[u8])> {
        self.close();
        self.frames.iter().map(|(header, at)| (header, &self.bytes[at.clone()]))
    }

    /// Everything was put out.
    pub fn clear(&mut self) {
        self.used = 0;
        self.frames.clear();
        self.open = None;
    }

    /// Gives its memory back, and what is in it, until there is something again.
    pub fn rest(&mut self) {
        *self = Self::default();
    }
}

const TCP: u8 = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Where things are in a TCP segment that can be joined to others, from its IP header on.
#[derive(Debug)]
struct Layout {
    v4: bool,
    transport: usize,
    payload: usize,
    end: usize,
    push: bool,
}

impl Layout {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (v4, transport) = match packet.first()? {
            0x45 => (true, 20),
            first if first >> 4 == 6 => (false, 40),
            _ => return None,
        };
        let tcp = packet.get(transport..transport + 20)?;
        let end = packet.len();
        let plain = if v4 {
            // DF and no fragment; the length is the packet's.
            let total = u16::from_be_bytes([packet[2], packet[3]]);
            packet[9] == TCP && packet[6] == 0x40 && packet[7] == 0 && usize::from(total) == end
        } else {
            let length = u16::from_be_bytes([packet[4], packet[5]]);
            packet[6] == TCP && usize::from(length) + 40 == end
        };
        let payload = transport + usize::from(tcp[12] >> 4) * 4;
        let flags = tcp[13];
        let joinable =
            plain && payload >= transport + 20 && payload < end && flags & !PSH == ACK && tcp[12] & 0x0F == 0;
        joinable.then_some(Self { v4, transport, payload, end, push: flags & PSH != 0 })
    }

    fn sequence(&self, packet: &[u8]) -> u32 {
        let at = self.transport + 4;
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    }

    /// Do the headers of two packets with this layout differ only in what each segment has of its own?
    fn same_flow(&self, was: &[u8], new: &[u8]) -> bool {
        let same = |at: Range<usize>| was[at.clone()] == new[at];
        let ip = if self.v4 {
            // Version, length of the header, service; lifetime and protocol; addresses.
            same(0..2) && same(6..10) && same(12..20)
        } else {
            same(0..4) && same(6..40)
        };
        let t = self.transport;
        // Ports; acknowledgement; length of the header; window; urgent pointer and options.
        ip && same(t..t + 4) && same(t + 8..t + 13) && same(t + 14..t + 16) && same(t + 18..self.payload)
    }
}

#[cfg(test)]
mod tests;
