//! The network layer: from Ethernet frames to packets for sockets, and back.
//!
//! # Theory of operation
//! [`Net::handle_frame`] takes a frame and gives at most one packet for the sockets; everything that is the
//! network layer's own business (ARP, NDP, echo, group reports, fragments, forwarding, errors) it settles
//! itself. [`Net::send`] takes a datagram to wherever its route leads. Frames that are ready wait in an arena
//! until [`Net::poll_transmit`] hands them out, each with the virtio-net header that says what is left to do
//! to it: TCP super-segments stay whole and checksums partial; a port that cannot take that makes it fit
//! (`switch::offload`). Packets to ourselves take the same way through the loopback, [`Net::poll_loopback`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::tables::{Change, IfIndex, Tables};
use crate::config::Mac;

/// Room before a segment in a reserved slot: Ethernet with two tags, IPv6, and IPv6 options, in bytes.
pub const HEADROOM: usize = 128;
/// Longest IP packet, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// A packet that arrived for a socket, checked and whole.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// Where it arrived.
    pub link: IfIndex,
    /// Sender.
    pub source: IpAddr,
    /// Receiver: one of our addresses, a broadcast address or a group.
    pub destination: IpAddr,
    /// Upper-layer protocol, IPPROTO_*.
    pub protocol: u8,
    /// The IP header as it arrived, options and extension headers included.
    pub header: Cow<'a, [u8]>,
    /// What is behind it: upper-layer header and data.
    pub payload: Cow<'a, [u8]>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// Payload bytes per segment if it is a super-segment, else 0.
    pub gso_size: u16,
    /// The upper-layer checksum was right, or need not be looked at. Wrong ones never get here for TCP, UDP
    /// and ICMP; other protocols' are not judged.
    pub checked: bool,
    /// The frame was for a group or everybody.
    pub group_frame: bool,
    /// Hardware address of the sender; absent on the loopback.
    pub mac: Option<Mac>,
}

/// Where a datagram goes: the answer of [`Net::route`]. Good until [`Net::generation`] changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Leaves by this interface.
    pub link: IfIndex,
    /// Source address: what was wished, or what RFC 6724 selects.
    pub source: IpAddr,
    /// The neighbour to hand it to; the destination itself if on-link.
    pub next_hop: IpAddr,
    /// Largest packet on the whole way, as far as is known, in bytes.
    pub mtu: u32,
    /// The destination is ourselves.
    pub local: bool,
    /// The destination is a broadcast address or a group.
    pub group: bool,
    /// The [`Net::generation`] it was made in.
    pub generation: u64,
}

/// What a socket knows of the way its datagrams should go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Source address, if bound.
    pub source: Option<IpAddr>,
    /// Interface, if bound (SO_BINDTODEVICE, scope id, IP_PKTINFO, IP_MULTICAST_IF).
    pub link: Option<IfIndex>,
    /// SO_DONTROUTE: only on-link.
    pub on_link: bool,
}

/// What to do when a datagram is longer than the way is wide (IP_MTU_DISCOVER).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fragmenting {
    /// Fragment to the path MTU, no DF bit.
    #[default]
    Allowed,
    /// DF is set; fragmented to the known path MTU if too long for it (IP_PMTUDISC_WANT).
    Want,
    /// EMSGSIZE if longer than the known path MTU (IP_PMTUDISC_DO).
    Never,
    /// EMSGSIZE only if longer than the interface's MTU; the path MTU is not believed (IP_PMTUDISC_PROBE).
    Probe,
}

/// A datagram to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Receiver.
    pub destination: IpAddr,
    /// IPPROTO_*
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// What if it is too long.
    pub fragmenting: Fragmenting,
    /// Payload bytes per TCP or UDP segment, if it is a super-segment, else 0.
    pub gso_size: u16,
    /// Where the upper-layer checksum goes, from the payload's start; the network layer sums (RFC 1071, with
    /// pseudo-header). Absent: the payload is sent as it is.
    pub checksum_at: Option<u16>,
    /// IPv4 options or IPv6 extension headers to insert, ready-made.
    pub options: &'a [u8],
    /// IPv4: ident; 0 lets the network layer choose.
    pub ident: u16,
}

/// Why nobody wants a packet: what [`Net::reject`] tells the sender, if it may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No socket of that port.
    PortUnreachable,
    /// No socket of that protocol.
    ProtocolUnreachable,
}

/// An ICMP error about a packet that we sent, for the socket that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetError {
    /// What Linux makes of it for the socket (net/ipv4/icmp.c, icmp_err_convert).
    pub errno: Errno,
    /// Whether it ends a connected TCP handshake or a UDP socket without IP_RECVERR (`fatal` there).
    pub fatal: bool,
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// The new path MTU, for fragmentation-needed and packet-too-big; else the pointer of a parameter problem.
    pub info: u32,
    /// Who says so.
    pub offender: IpAddr,
    /// Whose packet: our address.
    pub source: IpAddr,
    /// To whom it was.
    pub destination: IpAddr,
    /// IPPROTO_*
    pub protocol: u8,
    /// Where it was heard.
    pub link: IfIndex,
}

/// What [`Net::handle_frame`] and [`Net::poll_loopback`] have for the sockets.
#[derive(Debug, Clone)]
pub enum Delivery<'a> {
    /// Nothing: it was dropped, or settled here.
    None,
    /// A packet. ICMP messages come here too, after they were acted on: raw and ICMP sockets want them.
    Packet(Packet<'a>),
    /// An error about a packet of ours, and the ICMP packet that told it (raw sockets want it). The packet
    /// that caused the error, from its upper-layer header on, is in `quoted`.
    Error(NetError, Packet<'a>, Vec<u8>),
}

/// The network layer of one stack.
#[derive(Debug)]
pub struct Net {
    /// The tables; after any change, call [`Net::note`] with each of `tables.changes`.
    pub tables: Tables,
}

#[allow(unused_variables, clippy::missing_errors_doc, clippy::todo, reason = "a plan")]
impl Net {
    /// An empty stack: a loopback with its addresses, down as in a new network namespace.
    pub fn new(seed: [u8; 32], now: Instant) -> Self {
        todo!()
    }
    /// Grows whenever routes or addresses change, so that a cached [`Path`] is known to be old.
    pub fn generation(&self) -> u64 {
        todo!()
    }
    /// A frame arrived on an interface.
    pub fn handle_frame<'f>(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &'f [u8],
    ) -> Delivery<'f> {
        todo!()
    }
    /// Next packet that we sent to ourselves, until `None`. Call after everything that may send.
    pub fn poll_loopback(&mut self, now: Instant) -> Option<Delivery<'static>> {
        todo!()
    }
    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }
    /// When to call [`Net::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// The tables changed like this: start or stop what belongs to it.
    pub fn note(&mut self, now: Instant, change: &Change) {
        todo!()
    }
    /// Which way to `destination`: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL as Linux gives them, ENODEV or
    /// EADDRNOTAVAIL for a wish that cannot be granted.
    pub fn route(&self, destination: IpAddr, wish: &Wish) -> Result<Path, Errno> {
        todo!()
    }
    /// Sends a datagram whose payload is in pieces. EMSGSIZE (too long and may not be fragmented), EHOSTUNREACH
    /// (the neighbour is known not to answer), ENOBUFS, ENETDOWN.
    pub fn send(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &Datagram<'_>,
        payload: &[&[u8]],
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Room for one payload of up to 64 KiB, [`HEADROOM`] bytes before it: written in place, then
    /// [`Net::send_slot`].
    pub fn slot(&mut self) -> &mut [u8] {
        todo!()
    }
    /// As [`Net::send`], for the payload at `range` in the slot.
    pub fn send_slot(
        &mut self,
        now: Instant,
        path: &Path,
        datagram: &Datagram<'_>,
        range: std::ops::Range<usize>,
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Sends an IP packet with its header as the program made it (IP_HDRINCL).
    pub fn send_raw(&mut self, now: Instant, path: &Path, packet: &[u8]) -> Result<(), Errno> {
        todo!()
    }
    /// Sends a whole Ethernet frame (packet sockets).
    pub fn send_frame(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &[u8],
    ) -> Result<(), Errno> {
        todo!()
    }
    /// Hands every finished frame to `sink`, in order, and empties the arena.
    pub fn poll_transmit(&mut self, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) {
        todo!()
    }
    /// Datagrams that waited for a neighbour who did not answer: EHOSTUNREACH for whoever sent them.
    pub fn poll_error(&mut self) -> Option<(NetError, Vec<u8>)> {
        todo!()
    }
    /// Tells the sender that nobody wanted the packet, if the rules allow it.
    pub fn reject(&mut self, now: Instant, packet: &Packet<'_>, why: Rejection) {
        todo!()
    }
    /// The neighbour behind `next_hop` was heard from by the upper layer (RFC 4861 clause 7.3.1).
    pub fn confirm(&mut self, now: Instant, path: &Path) {
        todo!()
    }
    /// A path MTU was learned, or is to be forgotten.
    pub fn set_path_mtu(&mut self, now: Instant, destination: IpAddr, mtu: u32) {
        todo!()
    }
    /// Joins a group on an interface, with the sources wanted or not wanted. Counted: leave as often.
    pub fn set_group(
        &mut self,
        now: Instant,
        link: IfIndex,
        group: IpAddr,
        sources: Option<&GroupFilter>,
    ) -> Result<(), Errno> {
        todo!()
    }
}

/// What the sockets of one interface together want of a group (RFC 3376 clause 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFilter {
    /// INCLUDE these sources if true, else all EXCEPT these.
    pub include: bool,
    /// The sources.
    pub sources: Vec<IpAddr>,
}
