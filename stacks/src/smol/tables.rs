//! Interfaces, addresses, routes and neighbours of a smol stack: what rtnetlink(7) shows and changes.
//!
//! # Theory of operation
//! [`Tables`] is data with Linux's rules for changing it: an address brings its local, broadcast and prefix
//! routes and takes them away again, an interface that goes down loses its routes (and its IPv6 addresses'
//! routes), a route to a gateway needs the gateway on a link. Each change is noted in [`Tables::changes`],
//! from which the network layer learns what to do (duplicate address detection, group reports) and netlink
//! what to tell its listeners. Nothing here sends a packet or knows the time: lifetimes are deadlines that
//! somebody else watches.

//!
//! What one change brings along is found by comparison: the routes that a link's addresses own are computed
//! before and after, and the difference is made. So a route that a program removed by hand stays removed.
//! [`Tables::routes`] is kept in the order in which Linux lists it.
//!
//! Read: net/ipv4/{devinet,fib_frontend,fib_semantics,fib_trie}.c, net/ipv6/{addrconf,route,ip6_fib}.c,
//! net/core/{dev,neighbour}.c, net/8021q/vlan.c.

mod addresses;
mod advertised;
mod apply;
mod links;
mod neighbours;
mod owned;
mod routes;
mod veth;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::config::Mac;

pub use routes::RouteMatch;
pub use veth::NewLink;

/// The loopback's index.
pub const LOOPBACK: IfIndex = IfIndex(1);
/// Most interfaces of a stack: what a configuration may hold, and as many more that programs make.
pub const MAX_LINKS: usize = 1024;
/// Most addresses of a stack: adding one costs time in proportion to those of its link.
pub const MAX_ADDRESSES: usize = 1024;
/// Most routes of a stack: adding one may move all of them.
pub const MAX_ROUTES: usize = 65_536;
/// Most neighbours of a stack (net.ipv4.neigh.default.gc_thresh3).
pub const MAX_NEIGHBOURS: usize = 1024;

/// RT_TABLE_MAIN
pub const TABLE_MAIN: u32 = 254;
/// RT_TABLE_LOCAL
pub const TABLE_LOCAL: u32 = 255;

/// RT_SCOPE_UNIVERSE
pub const SCOPE_UNIVERSE: u8 = 0;
/// RT_SCOPE_LINK
pub const SCOPE_LINK: u8 = 253;
/// RT_SCOPE_HOST
pub const SCOPE_HOST: u8 = 254;
/// RT_SCOPE_NOWHERE
pub const SCOPE_NOWHERE: u8 = 255;

/// RTPROT_KERNEL
pub const PROTOCOL_KERNEL: u8 = 2;
/// RTPROT_BOOT
pub const PROTOCOL_BOOT: u8 = 3;
/// RTPROT_STATIC
pub const PROTOCOL_STATIC: u8 = 4;

/// RTNH_F_ONLINK
pub const NEXTHOP_ONLINK: u32 = 4;

/// The bits of [`Address::flags`] (linux/if_addr.h).
pub mod ifa_flags {
    /// IFA_F_SECONDARY (IPv4); IFA_F_TEMPORARY (IPv6).
    pub const SECONDARY: u32 = 0x01;
    /// IFA_F_NODAD
    pub const NODAD: u32 = 0x02;
    /// IFA_F_OPTIMISTIC
    pub const OPTIMISTIC: u32 = 0x04;
    /// IFA_F_DADFAILED
    pub const DADFAILED: u32 = 0x08;
    /// IFA_F_HOMEADDRESS
    pub const HOMEADDRESS: u32 = 0x10;
    /// IFA_F_DEPRECATED
    pub const DEPRECATED: u32 = 0x20;
    /// IFA_F_TENTATIVE
    pub const TENTATIVE: u32 = 0x40;
    /// IFA_F_PERMANENT
    pub const PERMANENT: u32 = 0x80;
    /// IFA_F_MANAGETEMPADDR
    pub const MANAGETEMPADDR: u32 = 0x100;
    /// IFA_F_NOPREFIXROUTE
    pub const NOPREFIXROUTE: u32 = 0x200;
    /// IFA_F_MCAUTOJOIN
    pub const MCAUTOJOIN: u32 = 0x400;
}

/// A change that was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", if why.is_empty() { errno.desc() } else { why })]
pub struct Refused {
    /// As Linux answers.
    pub errno: Errno,
    /// Linux's own words for it (NLMSGERR_ATTR_MSG); empty where it has none.
    pub why: &'static str,
}

impl Refused {
    /// With Linux's words.
    pub fn new(errno: Errno, why: &'static str) -> Self {
        Self { errno, why }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self { errno, why: "" }
    }
}

/// What a request may do to things that exist or do not: NLM_F_* of the same names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// Make it if it is not there.
    pub create: bool,
    /// EEXIST if it is there.
    pub exclusive: bool,
    /// Put it in the place of what is there.
    pub replace: bool,
    /// Behind what is there (routes).
    pub append: bool,
}

impl Mode {
    /// `ip … add`
    pub const ADD: Self = Self { create: true, exclusive: true, replace: false, append: false };
    /// `ip … replace`
    pub const REPLACE: Self = Self { create: true, exclusive: false, replace: true, append: false };
    /// `ip … change`
    pub const CHANGE: Self = Self { create: false, exclusive: false, replace: true, append: false };
    /// `ip … append`
    pub const APPEND: Self = Self { create: true, exclusive: false, replace: false, append: true };
}

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
    /// One end of a cable within the stack.
    Veth {
        /// The other end.
        peer: IfIndex,
    },
    /// Takes frames and forgets them.
    Dummy,
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

impl From<LinkCounters> for crate::stack::InterfaceCounters {
    fn from(counters: LinkCounters) -> Self {
        let LinkCounters {
            rx_packets,
            rx_bytes,
            rx_errors,
            rx_dropped,
            tx_packets,
            tx_bytes,
            tx_dropped,
            ..
        } = counters;
        // Whatever cannot be sent is dropped here.
        Self { rx_packets, rx_bytes, rx_errors, rx_dropped, tx_packets, tx_bytes, tx_errors: 0, tx_dropped }
    }
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
    /// IFF_PROMISC and IFF_ALLMULTI as set by hand: each is one of those who ask. IFF_NOARP of a tunnel.
    pub wished_flags: u32,
    /// Gets a link-local address when it comes up (IN6_ADDR_GEN_MODE_EUI64; else …_NONE).
    pub link_local: bool,
    /// What IPv6 routers advertise on it is believed (net.ipv6.conf.*.accept_ra).
    pub hears_routers: bool,
    /// IPv6 has started on it since it was last set up.
    pub configured6: bool,
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

    /// Plugged into a tunnel, as it was made: nobody there is asked for a hardware address (IFF_NOARP).
    pub fn is_tunnel(&self) -> bool {
        self.wished_flags & libc::IFF_NOARP as u32 != 0
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
    /// Metric of its prefix route (IFA_RT_PRIORITY); 0 for the default.
    pub metric: u32,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// net.ipv4.ip_forward, net.ipv6.conf.all.forwarding; set by [`Tables::set_forwarding`].
    pub forwarding: bool,
}

impl Tables {
    /// As in a new network namespace: a loopback that is down.
    pub fn new() -> Self {
        let mut tables = Self::default();
        tables.links.insert(LOOPBACK, Link::new(LOOPBACK, "lo", LinkKind::Loopback, Mac([0; 6])));
        tables
    }

    /// The interface of that number. ENODEV.
    pub fn link(&self, index: IfIndex) -> Result<&Link, Errno> {
        self.links.get(&index).ok_or(Errno::ENODEV)
    }

    /// The interface of that name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses of an interface, in their order.
    pub fn addresses_of(&self, link: IfIndex) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |address| address.link == link)
    }

    fn link_mut(&mut self, index: IfIndex) -> Result<&mut Link, Errno> {
        self.links.get_mut(&index).ok_or(Errno::ENODEV)
    }
}

#[cfg(test)]
mod tests;
