//! Which way a datagram goes.
//!
//! # Theory of operation
//! [`Index`] is made from the tables when they have changed, at the first question afterwards: for each routing
//! table (local, main, default: the rules 0, 32766 and 32767 of ip-rule(8)) a hash table by prefix, asked
//! from the longest prefix length in use to the shortest, so that a lookup costs as many probes as there are
//! different lengths, however many routes there are. Within a prefix the lowest metric wins. Routes over
//! interfaces that are down are passed over, as nexthops with RTNH_F_DEAD are.
//!
//! [`Net::route`] follows ip_route_output_key_hash_rcu and __mkroute_output (net/ipv4/route.c), and
//! ip6_route_output_flags with ip6_dst_lookup_tail (net/ipv6): errno for errno.

use std::cell::Ref;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::{Net, Path, Wish};
use crate::smol::tables::{IfIndex, LOOPBACK, LinkKind, RouteKind, Tables};

/// RT_TABLE_*: the tables that are asked, in this order.
const TABLES: [u32; 3] =
    [libc::RT_TABLE_LOCAL as u32, libc::RT_TABLE_MAIN as u32, libc::RT_TABLE_DEFAULT as u32];
/// Longest IPv4 packet (IP_MAX_MTU, net/ip.h).
const MAX_MTU_V4: u32 = 0xFFFF;
/// Longest IPv6 packet (IP6_MAX_MTU, net/ip6_fib.h).
const MAX_MTU_V6: u32 = 0xFFFF + 40;

/// What is needed of a route to use it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hop {
    pub(super) gateway: Option<IpAddr>,
    pub(super) link: Option<IfIndex>,
    pub(super) source: Option<IpAddr>,
    pub(super) metric: u32,
    pub(super) kind: RouteKind,
    pub(super) scope: u8,
    pub(super) mtu: Option<u32>,
}

/// Routes of one table and family.
#[derive(Debug, Default)]
struct Tree {
    /// Prefix lengths in use, longest first.
    lengths: Vec<u8>,
    hops: FxHashMap<(u8, u128), Vec<Hop>>,
}

/// One of our addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owned {
    pub(super) link: IfIndex,
    pub(super) flags: u32,
}

impl Owned {
    /// Not under suspicion of belonging to somebody else (RFC 4862 clause 5.4).
    pub(super) fn is_usable(&self) -> bool {
        let optimistic = self.flags & libc::IFA_F_OPTIMISTIC != 0;
        self.flags & libc::IFA_F_DADFAILED == 0 && (self.flags & libc::IFA_F_TENTATIVE == 0 || optimistic)
    }
}

/// The tables, made quick to ask.
#[derive(Debug, Default)]
pub(super) struct Index {
    revision: u64,
    v4: [Tree; 3],
    v6: [Tree; 3],
    addresses: FxHashMap<IpAddr, Vec<Owned>>,
    vlans: FxHashMap<(IfIndex, u16), IfIndex>,
}

impl Tree {
    fn insert(&mut self, to: IpNet, hop: Hop) {
        let length = to.prefix_len();
        if let Err(place) = self.lengths.binary_search_by(|have| length.cmp(have)) {
            self.lengths.insert(place, length);
        }
        let hops = self.hops.entry((length, bits(to.network()))).or_default();
        let place = hops.partition_point(|have| have.metric <= hop.metric);
        hops.insert(place, hop);
    }

    /// The longest prefix's first route that `accept` likes, with the prefix's length.
    fn find(&self, to: IpAddr, mut accept: impl FnMut(&Hop) -> bool) -> Option<(&Hop, u8)> {
        let to = bits(to);
        self.lengths.iter().find_map(|&length| {
            let hops = self.hops.get(&(length, to & mask(length)))?;
            hops.iter().find(|hop| accept(hop)).map(|hop| (hop, length))
        })
    }
}

/// The address as the high bits of a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl Index {
    /// From the tables as they are.
    pub(super) fn new(tables: &Tables, revision: u64) -> Self {
        let mut index = Self { revision, ..Self::default() };
        for route in &tables.routes {
            let Some(table) = TABLES.iter().position(|table| *table == route.table) else { continue };
            let hop = Hop {
                gateway: route.gateway,
                link: route.link,
                source: route.source,
                metric: route.metric,
                kind: route.kind,
                scope: route.scope,
                mtu: route.mtu,
            };
            let trees = if route.to.addr().is_ipv4() { &mut index.v4 } else { &mut index.v6 };
            trees[table].insert(route.to, hop);
        }
        for address in &tables.addresses {
            let owned = Owned { link: address.link, flags: address.flags };
            index.addresses.entry(address.net.addr()).or_default().push(owned);
        }
        for link in tables.links.values() {
            if let LinkKind::Vlan { parent, vid } = link.kind {
                index.vlans.insert((parent, vid), link.index);
            }
        }
        index
    }

    /// The subinterface of a VLAN.
    pub(super) fn vlan(&self, parent: IfIndex, vid: u16) -> Option<IfIndex> {
        self.vlans.get(&(parent, vid)).copied()
    }

    /// Who has this address of ours.
    pub(super) fn owned(&self, address: IpAddr) -> &[Owned] {
        self.addresses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The route to `to` in the tables that are asked.
    pub(super) fn find(&self, to: IpAddr, mut accept: impl FnMut(&Hop) -> bool) -> Option<(&Hop, u8)> {
        let trees = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        trees.iter().find_map(|tree| tree.find(to, &mut accept))
    }

    /// The route to `to` in the local table: our addresses, broadcast addresses, IPv6 groups.
    pub(super) fn find_local(&self, to: IpAddr) -> Option<&Hop> {
        let tree = if to.is_ipv4() { &self.v4[0] } else { &self.v6[0] };
        tree.find(to, |_| true).map(|(hop, _)| hop)
    }
}

impl Net {
    /// Grows whenever routes or addresses change, so that a cached [`Path`] is known to be old.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Which way to `destination`: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL as Linux gives them, ENODEV or
    /// EADDRNOTAVAIL for a wish that cannot be granted.
    ///
    /// An unspecified destination is ourselves: the path's `next_hop` says which address to put into the header.
    ///
    /// # Errors
    /// As said.
    pub fn route(&self, destination: IpAddr, wish: &Wish) -> Result<Path, Errno> {
        match (destination, wish.source) {
            (IpAddr::V4(to), None | Some(IpAddr::V4(_))) => self.route_v4(to, wish),
            (IpAddr::V6(to), None | Some(IpAddr::V6(_))) => self.route_v6(to, wish),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The index, made anew if it is old.
    pub(super) fn index(&self) -> Ref<'_, Index> {
        if self.cache.borrow().revision != self.revision {
            *self.cache.borrow_mut() = Index::new(&self.tables, self.revision);
        }
        self.cache.borrow()
    }

    fn route_v4(&self, mut to: Ipv4Addr, wish: &Wish) -> Result<Path, Errno> {
        let mut source = match wish.source {
            Some(IpAddr::V4(source)) if !source.is_unspecified() => Some(source),
            _ => None,
        };
        let mut oif = wish.link;
        let group = to.is_multicast() || to.is_broadcast();
        if let Some(source) = source {
            if source.is_multicast() || source.is_broadcast() || source.octets()[0] == 0 {
                return Err(Errno::EINVAL);
            }
            match self.owner(IpAddr::V4(source)) {
                Some(owner) if oif.is_none() && group => oif = Some(owner),
                None if !self.transparent => return Err(Errno::ENETUNREACH),
                _ => {}
            }
        }
        if let Some(oif) = oif {
            let link = self.tables.links.get(&oif).ok_or(Errno::ENODEV)?;
            if !link.up {
                return Err(Errno::ENETUNREACH);
            }
            if (to.is_multicast() && to.octets()[..3] == [224, 0, 0]) || to.is_broadcast() {
                let source = source.or_else(|| self.select_v4(oif, None, libc::RT_SCOPE_LINK));
                return self.path_v4(to, source, oif, None);
            }
            if to.is_multicast() {
                source = source.or_else(|| self.select_v4(oif, None, libc::RT_SCOPE_UNIVERSE));
            } else if to.is_unspecified() {
                source = source.or_else(|| self.select_v4(oif, None, libc::RT_SCOPE_HOST));
            }
        }
        if to.is_unspecified() {
            to = source.unwrap_or(Ipv4Addr::LOCALHOST);
            return self.path_v4(to, Some(source.unwrap_or(to)), LOOPBACK, None).map(|path| Path {
                local: true,
                mtu: MAX_MTU_V4,
                ..path
            });
        }
        let Some((hop, length)) = self.find_v4(to, oif, wish.on_link) else {
            // As Linux: whoever names the interface means that the destination is there.
            let oif = oif.ok_or(Errno::ENETUNREACH)?;
            let source = source.or_else(|| self.select_v4(oif, None, libc::RT_SCOPE_LINK));
            return self.path_v4(to, source, oif, None);
        };
        refusal(hop.kind)?;
        let link = hop.link.unwrap_or(LOOPBACK);
        if hop.kind == RouteKind::Local {
            let source = source.or_else(|| v4(hop.source)).unwrap_or(to);
            return Ok(self.path_local(IpAddr::V4(to), IpAddr::V4(source), link, MAX_MTU_V4));
        }
        let source =
            source.or_else(|| v4(hop.source)).or_else(|| self.select_v4(link, v4(hop.gateway), hop.scope));
        // Everybody is here, and groups never go to a gateway by way of a default route.
        let group = to.is_broadcast() || (to.is_multicast() && length < 4);
        let hop = if group { Hop { gateway: None, ..hop } } else { hop };
        self.path_v4(to, source, link, Some(hop))
    }

    fn find_v4(&self, to: Ipv4Addr, oif: Option<IfIndex>, on_link: bool) -> Option<(Hop, u8)> {
        let accept = |hop: &Hop| {
            if refusal(hop.kind).is_err() {
                return true;
            }
            let up = hop.link.and_then(|link| self.tables.links.get(&link)).is_some_and(|link| link.up);
            let there = oif.is_none_or(|oif| hop.link == Some(oif));
            up && there && !(on_link && hop.gateway.is_some())
        };
        self.index().find(IpAddr::V4(to), accept).map(|(hop, length)| (*hop, length))
    }

    /// __mkroute_output.
    fn path_v4(
        &self,
        to: Ipv4Addr,
        source: Option<Ipv4Addr>,
        link: IfIndex,
        hop: Option<Hop>,
    ) -> Result<Path, Errno> {
        let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let device = self.tables.links.get(&link).ok_or(Errno::ENODEV)?;
        let loopback = device.kind == LinkKind::Loopback;
        if source.is_loopback() && !loopback {
            return Err(Errno::EINVAL);
        }
        let broadcast = to.is_broadcast() || hop.is_some_and(|hop| hop.kind == RouteKind::Broadcast);
        if !broadcast && !to.is_multicast() && to.octets()[0] == 0 {
            return Err(Errno::EINVAL);
        }
        let route_mtu = hop.and_then(|hop| hop.mtu).unwrap_or(u32::MAX);
        let mut path = Path {
            link,
            source: IpAddr::V4(source),
            next_hop: hop.and_then(|hop| hop.gateway).unwrap_or(IpAddr::V4(to)),
            mtu: device.mtu.min(route_mtu).min(MAX_MTU_V4),
            local: loopback,
            group: broadcast || to.is_multicast(),
            looped: broadcast || (to.is_multicast() && self.groups.is_member(link, IpAddr::V4(to))),
            generation: self.generation,
        };
        if !path.group {
            self.except(IpAddr::V4(to), &mut path);
        }
        Ok(path)
    }

    /// A path to ourselves. Its interface is the one that has the address.
    fn path_local(&self, to: IpAddr, source: IpAddr, link: IfIndex, mtu: u32) -> Path {
        let lo = self.tables.links.get(&LOOPBACK).map_or(mtu, |lo| lo.mtu);
        Path {
            link,
            source,
            next_hop: to,
            mtu: mtu.min(lo),
            local: true,
            group: false,
            looped: false,
            generation: self.generation,
        }
    }

    fn route_v6(&self, mut to: Ipv6Addr, wish: &Wish) -> Result<Path, Errno> {
        if let Some(oif) = wish.link {
            self.tables.links.get(&oif).ok_or(Errno::ENODEV)?;
        }
        let source = match wish.source {
            Some(IpAddr::V6(source)) if !source.is_unspecified() => Some(source),
            _ => None,
        };
        if to.is_unspecified() {
            to = source.filter(|source| source.is_loopback()).unwrap_or(Ipv6Addr::LOCALHOST);
        }
        if to.is_unicast_link_local() && wish.link.is_none() {
            return Err(Errno::EINVAL);
        }
        let Some(hop) = self.find_v6(to, wish.link) else { return Err(Errno::ENETUNREACH) };
        refusal(hop.kind)?;
        let link = hop.link.unwrap_or(LOOPBACK);
        let device = self.tables.links.get(&link).ok_or(Errno::ENETUNREACH)?;
        let local = hop.kind == RouteKind::Local;
        let source = match (source, hop.source) {
            (Some(source), _) => source,
            (None, Some(IpAddr::V6(source))) => source,
            _ => self.select_v6(to, link).ok_or(Errno::EADDRNOTAVAIL)?,
        };
        if local {
            return Ok(self.path_local(IpAddr::V6(to), IpAddr::V6(source), link, MAX_MTU_V6));
        }
        let group = to.is_multicast();
        let mut path = Path {
            link,
            source: IpAddr::V6(source),
            next_hop: if group { None } else { hop.gateway }.unwrap_or(IpAddr::V6(to)),
            mtu: device.mtu.min(hop.mtu.unwrap_or(u32::MAX)).min(MAX_MTU_V6),
            local: device.kind == LinkKind::Loopback,
            group,
            looped: group && self.groups.is_member(link, IpAddr::V6(to)),
            generation: self.generation,
        };
        if !group {
            self.except(IpAddr::V6(to), &mut path);
        }
        Ok(path)
    }

    /// Among routes of one prefix and metric, one whose gateway answers is better (rt6_score_route).
    fn find_v6(&self, to: Ipv6Addr, oif: Option<IfIndex>) -> Option<Hop> {
        let silent = |hop: &Hop| {
            let (Some(link), Some(gateway)) = (hop.link, hop.gateway) else { return false };
            self.neighbours.has_failed(link, gateway)
        };
        let usable = |hop: &Hop| {
            if refusal(hop.kind).is_err() {
                return true;
            }
            let up = hop.link.and_then(|link| self.tables.links.get(&link)).is_some_and(|link| link.up);
            let there = oif.is_none_or(|oif| hop.link == Some(oif));
            // An address that is not ours yet is not ours.
            let ours = hop.kind != RouteKind::Local || self.is_ours(IpAddr::V6(to), hop.link);
            up && there && ours
        };
        let index = self.index();
        let first = *index.find(IpAddr::V6(to), usable)?.0;
        if !silent(&first) {
            return Some(first);
        }
        let same = |hop: &Hop| usable(hop) && hop.metric == first.metric && !silent(hop);
        Some(index.find(IpAddr::V6(to), same).map_or(first, |(hop, _)| *hop))
    }

    /// May packets for this address be delivered here? `link` matters to link-local addresses only. Addresses
    /// of local routes without an entry of their own (127.0.0.0/8, routes of type local) are.
    pub(super) fn is_ours(&self, address: IpAddr, link: Option<IfIndex>) -> bool {
        let index = self.index();
        let owned = index.owned(address);
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if owned.is_empty() {
            return !link_local;
        }
        owned
            .iter()
            .any(|owned| owned.is_usable() && !(link_local && link.is_some_and(|link| link != owned.link)))
    }

    /// Is it somebody for whom we stand: one whom no route of ours leads to?
    pub(super) fn stands_for(&self, address: IpAddr) -> bool {
        self.transparent && self.index().find(address, |_| true).is_none()
    }

    /// The interface that has this address of ours.
    pub(super) fn owner(&self, address: IpAddr) -> Option<IfIndex> {
        let index = self.index();
        if let Some(owned) = index.owned(address).first() {
            return Some(owned.link);
        }
        index.find_local(address).filter(|hop| hop.kind == RouteKind::Local).and_then(|hop| hop.link)
    }
}

/// What senders get for routes that lead nowhere (fib_props; ip6_rt_type_to_error).
fn refusal(kind: RouteKind) -> Result<(), Errno> {
    match kind {
        RouteKind::Blackhole => Err(Errno::EINVAL),
        RouteKind::Unreachable => Err(Errno::EHOSTUNREACH),
        RouteKind::Prohibit => Err(Errno::EACCES),
        _ => Ok(()),
    }
}

fn v4(address: Option<IpAddr>) -> Option<Ipv4Addr> {
    match address {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    }
}
