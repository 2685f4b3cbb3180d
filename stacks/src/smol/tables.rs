//! Interfaces, addresses, routes and neighbours of a smol stack: what rtnetlink(7) shows and changes.
//!
//! # Theory of operation
//! [`Tables`] is data with Linux's rules for changing it: an address brings its local, broadcast and prefix
//! routes and takes them away again, an interface that goes down loses its routes (and its IPv6 addresses'
//! routes), a route to a gateway needs the gateway on a link. Each change is noted in [`Tables::changes`],
//! from which the network layer learns what to do (duplicate address detection, group reports) and netlink
//! what to tell its listeners. Nothing here sends a packet or knows the time: lifetimes are deadlines that
//! somebody else watches.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use crate::config::Mac;

/// The loopback's index.
pub const LOOPBACK: IfIndex = IfIndex(1);

/// An interface's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// `lo`.
    Loopback,
    /// Ethernet, with a port behind it or none.
    Ethernet,
    /// An 802.1Q subinterface.
    Vlan {
        /// Carries its frames.
        parent: IfIndex,
        /// 1 to 4094.
        vid: u16,
    },
}

/// What an interface counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames in.
    pub rx_packets: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Frames in that made no sense.
    pub rx_errors: u64,
    /// Frames in that nobody wanted or for which there was no room.
    pub rx_dropped: u64,
    /// Group frames in.
    pub multicast: u64,
    /// Frames out.
    pub tx_packets: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Frames out that could not be sent.
    pub tx_dropped: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Hardware address; zero for the loopback.
    pub mac: Mac,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// IFF_UP.
    pub up: bool,
    /// There is something at the other end.
    pub carrier: bool,
    /// How many ask for all frames (IFF_PROMISC).
    pub promiscuous: u32,
    /// How many ask for all groups (IFF_ALLMULTI).
    pub allmulti: u32,
    /// txqueuelen, for show.
    pub queue_length: u32,
    /// What it is plugged into, for people.
    pub plugged: String,
    /// What it counted.
    pub counters: LinkCounters,
}

impl Link {
    /// Up, and something at the other end.
    pub fn is_running(&self) -> bool {
        self.up && self.carrier
    }
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub link: IfIndex,
    /// Address and prefix length.
    pub net: IpNet,
    /// Far end, if it is a point-to-point address.
    pub peer: Option<IpAddr>,
    /// Broadcast address (IPv4).
    pub broadcast: Option<IpAddr>,
    /// RT_SCOPE_*
    pub scope: u8,
    /// IFA_F_* (TENTATIVE, DADFAILED, PERMANENT, SECONDARY, NODAD, DEPRECATED …)
    pub flags: u32,
    /// IFA_LABEL.
    pub label: String,
    /// When it ceases to be preferred; absent: never.
    pub preferred_until: Option<Instant>,
    /// When it goes; absent: never.
    pub valid_until: Option<Instant>,
    /// IFAPROT_*
    pub protocol: u8,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// RTN_UNICAST
    Unicast,
    /// RTN_LOCAL
    Local,
    /// RTN_BROADCAST
    Broadcast,
    /// RTN_ANYCAST
    Anycast,
    /// RTN_MULTICAST
    Multicast,
    /// RTN_BLACKHOLE: EINVAL to senders.
    Blackhole,
    /// RTN_UNREACHABLE: EHOSTUNREACH.
    Unreachable,
    /// RTN_PROHIBIT: EACCES.
    Prohibit,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Next hop, which may be of the other family (RTA_VIA).
    pub gateway: Option<IpAddr>,
    /// Interface; absent for kinds that need none.
    pub link: Option<IfIndex>,
    /// Source address to prefer.
    pub source: Option<IpAddr>,
    /// Priority; lower wins. 0 for IPv4's default, 1024 for IPv6's (256 for the kernel's own).
    pub metric: u32,
    /// RT_TABLE_*: MAIN 254, LOCAL 255; others are kept and not asked.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// RT_SCOPE_*
    pub scope: u8,
    /// RTPROT_*
    pub protocol: u8,
    /// RTNH_F_ONLINK and friends.
    pub flags: u32,
    /// RTAX_MTU.
    pub mtu: Option<u32>,
    /// When it goes (a learned path MTU, a router's lifetime); absent: never.
    pub expires: Option<Instant>,
}

/// NUD_* states (linux/neighbour.h, RFC 4861 clause 7.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Nud {
    /// Asked for.
    Incomplete,
    /// Heard from lately.
    Reachable,
    /// Not heard from for a while.
    Stale,
    /// Used while stale; will be asked.
    Delay,
    /// Being asked.
    Probe,
    /// Did not answer.
    Failed,
    /// Never asked.
    NoArp,
    /// Set by hand.
    Permanent,
}

/// A neighbour's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address, once known.
    pub mac: Option<Mac>,
    /// What we believe of it.
    pub state: Nud,
    /// NTF_ROUTER: it said so.
    pub router: bool,
    /// When its state last changed.
    pub updated: Instant,
}

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An interface is new or different.
    Link(IfIndex),
    /// An interface has gone; as it last was.
    LinkGone(Box<Link>),
    /// An address is new or different.
    Address(Address),
    /// An address has gone.
    AddressGone(Address),
    /// A route is new or different.
    Route(Route),
    /// A route has gone.
    RouteGone(Route),
    /// A neighbour is new or different.
    Neighbour(IfIndex, IpAddr, Neighbour),
    /// A neighbour has gone.
    NeighbourGone(IfIndex, IpAddr, Neighbour),
}

/// The tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// Interfaces, the loopback included.
    pub links: BTreeMap<IfIndex, Link>,
    /// Addresses, in the order in which they were added (IPv4's primaries before their secondaries).
    pub addresses: Vec<Address>,
    /// Routes of every table and kind, those of addresses included.
    pub routes: Vec<Route>,
    /// Neighbours by interface and address.
    pub neighbours: HashMap<(IfIndex, IpAddr), Neighbour>,
    /// What changed and was not yet told.
    pub changes: VecDeque<Change>,
    /// net.ipv4.ip_forward, net.ipv6.conf.all.forwarding.
    pub forwarding: bool,
}
