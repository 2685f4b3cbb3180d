//! The network layer: from Ethernet frames to packets for sockets, and back.
//!
//! # Theory of operation
//! [`Net::handle_frame`] takes a frame and gives at most one packet for the sockets; everything that is the
//! network layer's own business (ARP, NDP, echo, group reports, fragments, forwarding, errors) it settles
//! itself. [`Net::send`] takes a datagram to wherever its route leads. Frames that are ready wait in an arena
//! until [`Net::poll_transmit`] hands them out, each with the virtio-net header that says what is left to do
//! to it: TCP super-segments stay whole and checksums partial; a port that cannot take that makes it fit
//! (`switch::offload`). Packets to ourselves take the same way through the loopback, [`Net::poll_loopback`].
//!
//! ```text
//!  in:   input ─ arp                              out:  output ─ fragment ─ arena
//!          └ ipv4, ipv6 ─ reassembly ─ upper              └ neighbours ─ arp, ndp
//!               └ forward              ├ icmp ─ ndp ─ detection, redirect
//!                                      └ group_messages ─ groups
//! ```
//! `routes` and `source` say which way and from which address, `exceptions` what was learned of single
//! destinations, `icmp_error` whether and what to tell a sender,
//! `hooks` what the packet filter says, if there is one, `timers` when to look again. All state that
//! others can make grow has a limit where it is kept.
//!
//! Absent: router advertisements (addresses and routes come from the configuration or by netlink), mobility,
//! IPsec, policy routing.

mod arena;
mod arp;
mod buffer;
mod detection;
mod exceptions;
mod forward;
mod fragment;
mod group_messages;
mod groups;
mod hooks;
mod icmp;
mod icmp_error;
mod idents;
mod input;
mod ipv4;
mod ipv6;
mod loopback;
mod ndp;
mod neighbours;
mod output;
mod random;
mod reassembly;
mod redirect;
mod routes;
mod source;
mod timers;
mod upper;
mod veth;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustc_hash::{FxHashMap, FxHashSet};

use self::timers::Timer;
use super::mib::Mib;
use super::tables::{Address, Change, IfIndex, LinkKind, Tables};
use crate::config::Mac;
use crate::filter::Filter;

pub use icmp_error::Trouble;
pub(in crate::smol) use output::pseudo_sum;
pub use veth::Crossing;

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

impl Packet<'_> {
    /// It came whole, and nobody on its way was to cut it: IPv4's DF; in IPv6 only the sender cuts (RFC 8200 clause 4.5).
    /// What was put together from fragments lacks DF, and is no longer in the frame that it came in.
    pub fn must_stay_whole(&self) -> bool {
        match self.source {
            IpAddr::V4(_) => self.header.get(6).is_some_and(|flags| flags & 0x40 != 0),
            IpAddr::V6(_) => matches!(self.header, Cow::Borrowed(_)),
        }
    }
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
    /// A copy comes back to us: broadcasts, and what goes to groups that we are in. Whoever sends may clear it
    /// (IP_MULTICAST_LOOP).
    pub looped: bool,
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
    /// IPv4 options, or IPv6 extension headers to insert. Of the latter each says its own type where the next
    /// one's goes; the network layer makes the chain.
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
    /// We stand for everybody who is not on our networks: packets for them are ours, and we send in their names.
    pub transparent: bool,
    /// What was counted.
    pub(in crate::smol) mib: Mib,
    /// See [`Net::generation`].
    generation: u64,
    /// Grows whenever links, addresses or routes change.
    revision: u64,
    cache: RefCell<routes::Index>,
    random: random::Random,
    timers: timers::Timers,
    arena: arena::Arena,
    /// [`Timer::Trim`] is set.
    trimming: bool,
    loopback: loopback::Loopback,
    crossings: veth::Crossings,
    neighbours: neighbours::Neighbours,
    detections: detection::Detections,
    /// Addresses that the link was told of.
    announced: FxHashSet<(IfIndex, IpAddr)>,
    /// Interfaces that run, as far as was told, and their hardware addresses.
    running: FxHashMap<IfIndex, Mac>,
    groups: groups::Groups,
    /// The groups that our addresses brought: IPv6's solicited-node groups.
    joined: FxHashSet<(IfIndex, IpAddr)>,
    exceptions: exceptions::Exceptions,
    reassembly: reassembly::Reassembly,
    rations: icmp_error::Rations,
    idents: idents::Idents,
    errors: VecDeque<(NetError, Vec<u8>)>,
    /// Asked about every packet, if there is one.
    pub(in crate::smol) filter: Option<Box<Filter>>,
}

/// Between two looks whether the arena's memory may go back.
const TRIM: Duration = Duration::from_secs(1);

impl Net {
    /// An empty stack: a loopback, down and without addresses as in a new network namespace.
    pub fn new(seed: [u8; 32], _now: Instant) -> Self {
        Self {
            tables: Tables::new(),
            transparent: false,
            mib: Mib::default(),
            generation: 1,
            revision: 1,
            cache: RefCell::default(),
            random: random::Random::new(seed),
            timers: timers::Timers::default(),
            arena: arena::Arena::default(),
            trimming: false,
            loopback: loopback::Loopback::default(),
            crossings: veth::Crossings::default(),
            neighbours: neighbours::Neighbours::default(),
            detections: detection::Detections::default(),
            announced: FxHashSet::default(),
            running: FxHashMap::default(),
            groups: groups::Groups::default(),
            joined: FxHashSet::default(),
            exceptions: exceptions::Exceptions::default(),
            reassembly: reassembly::Reassembly::default(),
            rations: icmp_error::Rations::default(),
            idents: idents::Idents::default(),
            errors: VecDeque::new(),
            filter: None,
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        // A deadline may set another one for this very moment; more than one round is no hurry.
        for _ in 0..MAX_DEADLINES {
            let Some(timer) = self.timers.pop(now) else { return };
            match timer {
                Timer::Neighbour(link, address) => self.neighbour_due(now, link, address),
                Timer::Detection(link, address) => self.detection_due(now, link, address),
                Timer::Reassembly(id) => self.reassembly_due(now, id),
                Timer::Report(link, group) => self.report_due(now, link, group),
                Timer::Answer(link, group) => self.answer_due(now, link, group),
                Timer::Exception(destination) => self.exception_due(destination),
                Timer::Lifetime => {
                    self.tables.expire(now);
                    if let Some(at) = self.tables.next_expiry() {
                        self.timers.set(Timer::Lifetime, at);
                    }
                }
                Timer::Trim => {
                    self.trimming = false;
                    if self.arena.trim() {
                        self.arm_trim(now);
                    }
                }
            }
        }
    }

    /// Bytes of frames that wait to leave, and of fragments whose others have not come.
    pub fn memory(&self) -> usize {
        let filter = self.filter.as_ref().map_or(0, |filter| filter.memory());
        self.arena.memory() + self.reassembly.memory() + filter
    }

    /// When to call [`Net::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The tables changed like this: start or stop what belongs to it. What the tables say now is what counts.
    pub fn note(&mut self, now: Instant, change: &Change) {
        if !matches!(change, Change::Neighbour(..) | Change::NeighbourGone(..)) {
            self.tables_changed();
        }
        match change {
            Change::Link(link) => self.note_link(now, *link),
            Change::LinkGone(link) => {
                self.flush_neighbours(link.index, false);
                self.forget_groups(link.index);
                self.announced.retain(|(at, _)| *at != link.index);
                self.joined.retain(|(at, _)| *at != link.index);
                self.running.remove(&link.index);
            }
            Change::Address(address) => {
                self.watch_life(address.preferred_until.into_iter().chain(address.valid_until).min());
                self.join_solicited(now, address);
                self.consider(now, address.link, address.net.addr());
            }
            Change::AddressGone(address) => {
                let (link, address) = (address.link, address.net.addr());
                self.abandon(link, address);
                self.leave_solicited(now, link, address);
            }
            Change::Route(route) => {
                self.watch_life(route.expires);
                self.forget_gateways();
            }
            Change::RouteGone(_) => self.forget_gateways(),
            Change::Neighbour(link, address, _) | Change::NeighbourGone(link, address, _) => {
                self.sync_neighbour(now, *link, *address);
            }
        }
    }

    /// Something ends then.
    fn watch_life(&mut self, at: Option<Instant>) {
        let sooner = |at: &Instant| self.timers.due(Timer::Lifetime).is_none_or(|due| *at < due);
        if let Some(at) = at.filter(sooner) {
            self.timers.set(Timer::Lifetime, at);
        }
    }

    /// Paths have to be looked up again, in a new index.
    fn tables_changed(&mut self) {
        self.generation += 1;
        self.revision += 1;
    }

    fn note_link(&mut self, now: Instant, link: IfIndex) {
        let Some(device) = self.tables.links.get(&link) else { return };
        if device.is_running() {
            let mac = device.mac;
            let before = self.running.insert(link, mac);
            if before == Some(mac) {
                return;
            }
            if before.is_some() {
                // Another hardware address: who knew us has to learn anew, and so have we (neigh_changeaddr).
                self.flush_neighbours(link, false);
                self.announced.retain(|(at, _)| *at != link);
            }
            self.report_all(now, link);
            for address in self.addresses_of(link) {
                self.consider(now, link, address);
            }
        } else {
            let keep_permanent = device.up;
            self.running.remove(&link);
            self.flush_neighbours(link, keep_permanent);
            for address in self.addresses_of(link) {
                self.abandon(link, address);
            }
        }
    }

    fn addresses_of(&self, link: IfIndex) -> Vec<IpAddr> {
        let here = self.tables.addresses.iter().filter(|address| address.link == link);
        here.map(|address| address.net.addr()).collect()
    }

    /// An IPv6 address's owner listens for questions about it.
    fn join_solicited(&mut self, now: Instant, address: &Address) {
        let IpAddr::V6(owned) = address.net.addr() else { return };
        let lo = self.tables.links.get(&address.link).is_none_or(|link| link.kind == LinkKind::Loopback);
        if !lo && self.joined.insert((address.link, IpAddr::V6(owned))) {
            self.join(now, address.link, IpAddr::V6(ndp::solicited_node(owned)));
        }
    }

    fn leave_solicited(&mut self, now: Instant, link: IfIndex, address: IpAddr) {
        let IpAddr::V6(owned) = address else { return };
        if self.joined.remove(&(link, address)) {
            self.leave(now, link, IpAddr::V6(ndp::solicited_node(owned)));
        }
    }

    /// Memory that is about to be used shall go back some day.
    fn arm_trim(&mut self, now: Instant) {
        if !self.trimming {
            self.trimming = true;
            self.timers.set(Timer::Trim, now + TRIM);
        }
    }
}

/// Deadlines handled at once, so that a call ends; what is left is due still.
const MAX_DEADLINES: usize = 4096;

/// What the sockets of one interface together want of a group (RFC 3376 clause 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFilter {
    /// INCLUDE these sources if true, else all EXCEPT these.
    pub include: bool,
    /// The sources.
    pub sources: Vec<IpAddr>,
}

#[cfg(test)]
mod tests;
