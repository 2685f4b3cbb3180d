//! Addresses: added, changed, removed, expired, with the routes that come and go with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;

use super::links::MTU_FOR_IPV6;
use super::{
    Address, Change, IfIndex, LOOPBACK, LinkKind, MAX_ADDRESSES, Mode, Refused, SCOPE_HOST, SCOPE_LINK,
    SCOPE_UNIVERSE, TABLE_MAIN, Tables, ifa_flags,
};

/// IFAPROT_KERNEL_LO
const PROTOCOL_LOOPBACK: u8 = 1;
/// IFAPROT_KERNEL_LL
const PROTOCOL_LINK_LOCAL: u8 = 3;
/// RT_SCOPE_SITE
const SCOPE_SITE: u8 = 200;
/// What a request may set of an IPv6 address' flags; the others are ours (inet6_rtm_newaddr).
const SETTABLE_V6: u32 = ifa_flags::NODAD
    | ifa_flags::HOMEADDRESS
    | ifa_flags::MANAGETEMPADDR
    | ifa_flags::NOPREFIXROUTE
    | ifa_flags::MCAUTOJOIN
    | ifa_flags::OPTIMISTIC;
/// What a request may set of an IPv4 address' flags (IPV6ONLY_FLAGS are the others).
const SETTABLE_V4: u32 = ifa_flags::NOPREFIXROUTE | ifa_flags::MCAUTOJOIN;

impl Address {
    /// An address with everything else as `ip address add` leaves it.
    pub fn new(link: IfIndex, net: IpNet) -> Self {
        Self {
            link,
            net,
            peer: None,
            broadcast: None,
            scope: match net.addr() {
                IpAddr::V4(_) => SCOPE_UNIVERSE,
                IpAddr::V6(ip) => scope_of_v6(ip),
            },
            flags: 0,
            label: String::new(),
            preferred_until: None,
            valid_until: None,
            protocol: 0,
            metric: 0,
        }
    }
}

impl Tables {
    /// Adds an address, or changes one with `mode.replace`. An IPv6 address begins tentative unless NODAD is
    /// set or the link is the loopback. EEXIST, EINVAL, ENODEV, EADDRNOTAVAIL, ENOBUFS.
    pub fn add_address(&mut self, mut address: Address, mode: Mode) -> Result<(), Refused> {
        let v4 = address.net.addr().is_ipv4();
        let link = self.link(address.link)?;
        if v4 && address.label.is_empty() {
            address.label.clone_from(&link.name);
        }
        let known = self.addresses.iter().position(|a| {
            a.link == address.link
                && a.net.addr() == address.net.addr()
                && (!v4 || a.network() == address.network())
        });
        if let Some(at) = known {
            if mode.exclusive || !mode.replace {
                let why =
                    if v4 { "ipv4: Address already assigned" } else { "ipv6: address already assigned" };
                return Err(Refused::new(Errno::EEXIST, why));
            }
            return self.change_address(at, &address);
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS.into());
        }
        let permanent = if address.valid_until.is_none() { ifa_flags::PERMANENT } else { 0 };
        match address.net {
            IpNet::V4(_) => {
                address.flags = address.flags & SETTABLE_V4 | permanent;
                self.add_v4(address)
            }
            IpNet::V6(net) => {
                let ip = net.addr();
                let loopback = link.kind == LinkKind::Loopback;
                let why = match ip {
                    _ if ip.is_unspecified() => "ipv6: Invalid address",
                    _ if ip.is_multicast() => {
                        "ipv6: Cannot assign multicast address without \"IFA_F_MCAUTOJOIN\" flag"
                    }
                    _ if ip.is_loopback() && !loopback => {
                        "ipv6: Cannot assign loopback address on this device"
                    }
                    _ => "",
                };
                if !why.is_empty() {
                    return Err(Refused::new(Errno::EADDRNOTAVAIL, why));
                }
                if link.mtu < MTU_FOR_IPV6 {
                    return Err(Errno::EINVAL.into());
                }
                address.flags = address.flags & SETTABLE_V6 | permanent;
                address.scope = scope_of_v6(ip);
                if !loopback && address.flags & ifa_flags::NODAD == 0 {
                    address.flags |= ifa_flags::TENTATIVE;
                }
                self.insert_v6(address);
                Ok(())
            }
        }
    }

    /// Removes an address; with an IPv4 primary address go its secondaries (promote_secondaries is 0).
    /// ENODEV, EADDRNOTAVAIL.
    pub fn remove_address(&mut self, link: IfIndex, net: IpNet) -> Result<(), Refused> {
        self.link(link)?;
        let why = if net.addr().is_ipv4() { "ipv4: Address not found" } else { "ipv6: address not found" };
        let at = self
            .addresses
            .iter()
            .position(|a| a.link == link && a.net == net)
            .ok_or_else(|| Refused::new(Errno::EADDRNOTAVAIL, why))?;
        self.remove_at(at);
        Ok(())
    }

    /// Duplicate address detection has come to an end: nobody else has the address, or somebody has
    /// (RFC 4862 clause 5.4.5: it is not used).
    pub fn dad_done(&mut self, link: IfIndex, ip: Ipv6Addr, unique: bool) {
        let at = self.addresses.iter().position(|a| a.link == link && a.net.addr() == ip);
        let Some(at) = at.filter(|at| self.addresses[*at].flags & ifa_flags::TENTATIVE != 0) else { return };
        let before = self.owned_routes(link);
        let address = &mut self.addresses[at];
        if unique {
            address.flags &= !(ifa_flags::TENTATIVE | ifa_flags::OPTIMISTIC | ifa_flags::DADFAILED);
        } else if address.flags & ifa_flags::PERMANENT != 0 {
            address.flags |= ifa_flags::DADFAILED;
        } else {
            self.remove_at(at);
            return;
        }
        self.changes.push_back(Change::Address(address.clone()));
        self.adopt_routes(link, &before);
    }

    /// Lets go of addresses and routes whose time has come; an address whose preferred time is over becomes
    /// deprecated.
    pub fn expire(&mut self, now: Instant) {
        let due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        while let Some(at) = self.addresses.iter().position(|a| due(a.valid_until)) {
            self.remove_at(at);
        }
        for address in &mut self.addresses {
            if due(address.preferred_until) && address.flags & ifa_flags::DEPRECATED == 0 {
                address.flags |= ifa_flags::DEPRECATED;
                self.changes.push_back(Change::Address(address.clone()));
            }
        }
        self.flush_routes(|route| due(route.expires));
    }

    /// When to call [`Tables::expire`]: looks at everything, so keep the answer until something changes.
    pub fn next_expiry(&self) -> Option<Instant> {
        let not_yet = |a: &Address| a.flags & ifa_flags::DEPRECATED == 0;
        let preferred = self.addresses.iter().filter(|a| not_yet(a)).filter_map(|a| a.preferred_until);
        let valid = self.addresses.iter().filter_map(|a| a.valid_until);
        preferred.chain(valid).chain(self.routes.iter().filter_map(|r| r.expires)).min()
    }

    /// What the loopback has when it comes up.
    pub(super) fn add_loopback_addresses(&mut self) {
        let v4 = Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8);
        if !self.addresses_of(LOOPBACK).any(|a| a.net.addr().is_ipv4()) {
            let mut address = Address::new(LOOPBACK, v4.into());
            address.scope = SCOPE_HOST;
            address.label = "lo".into();
            address.flags = ifa_flags::PERMANENT;
            // The loopback has a free place: there is no limit but for all addresses together.
            let _ = self.add_v4(address);
        }
        self.add_own_address(LOOPBACK, Ipv6Addr::LOCALHOST.into(), 128, 0);
    }

    /// An IPv6 address that the stack gives itself.
    pub(super) fn add_own_address(&mut self, link: IfIndex, ip: IpAddr, prefix: u8, flags: u32) {
        let known = self.addresses_of(link).any(|a| a.net.addr() == ip);
        let (Ok(net), false) = (IpNet::new(ip, prefix), known) else { return };
        let mut address = Address::new(link, net);
        address.flags = flags | ifa_flags::PERMANENT;
        address.protocol = if link == LOOPBACK { PROTOCOL_LOOPBACK } else { PROTOCOL_LINK_LOCAL };
        self.insert_v6(address);
    }

    /// Removes every address of a link.
    pub(super) fn remove_addresses_of(&mut self, link: IfIndex) {
        while let Some(at) = self.addresses.iter().position(|a| a.link == link) {
            self.remove_at(at);
        }
    }

    pub(super) fn remove_ipv6_addresses_of(&mut self, link: IfIndex) {
        while let Some(at) = self.addresses.iter().position(|a| a.link == link && a.net.addr().is_ipv6()) {
            self.remove_at(at);
        }
    }

    /// inet_insert_ifa() in net/ipv4/devinet.c
    fn add_v4(&mut self, mut address: Address) -> Result<(), Refused> {
        // As Linux has it: nothing is added, and nothing is wrong.
        if address.net.addr().is_unspecified() {
            return Ok(());
        }
        let link = address.link;
        let same_network = |a: &&Address| a.is_of_same_network(&address);
        let secondary = self.addresses_of(link).any(|a| same_network(&a));
        if self.addresses_of(link).filter(same_network).any(|other| other.scope != address.scope) {
            return Err(Refused::new(Errno::EINVAL, "ipv4: Invalid scope value"));
        }
        if secondary {
            address.flags |= ifa_flags::SECONDARY;
        }
        let of_link = |a: &Address| a.link == link && a.net.addr().is_ipv4();
        let primary = address.flags & ifa_flags::SECONDARY == 0;
        let before_it = |a: &Address| {
            of_link(a) && (!primary || a.flags & ifa_flags::SECONDARY == 0 && address.scope <= a.scope)
        };
        let at = match self.addresses.iter().rposition(before_it) {
            Some(last) => last + 1,
            None => self.addresses.iter().position(of_link).unwrap_or(self.addresses.len()),
        };
        self.insert_at(at, address);
        Ok(())
    }

    /// ipv6_link_dev_addr() in net/ipv6/addrconf.c: wide scopes first, the newest of equals first.
    fn insert_v6(&mut self, address: Address) {
        let of_link = |a: &Address| a.link == address.link && a.net.addr().is_ipv6();
        let narrower = |a: &Address| of_link(a) && a.scope >= address.scope;
        let at = self.addresses.iter().position(narrower).unwrap_or_else(|| {
            self.addresses.iter().rposition(of_link).map_or(self.addresses.len(), |last| last + 1)
        });
        self.insert_at(at, address);
    }

    fn insert_at(&mut self, at: usize, address: Address) {
        let link = address.link;
        let before = self.owned_routes(link);
        self.addresses.insert(at, address.clone());
        self.changes.push_back(Change::Address(address));
        self.adopt_routes(link, &before);
    }

    /// inet_rtm_newaddr(), inet6_addr_modify(): lifetimes, metric and protocol, and some of IPv6's flags.
    fn change_address(&mut self, at: usize, new: &Address) -> Result<(), Refused> {
        let link = new.link;
        let before = self.owned_routes(link);
        let address = &mut self.addresses[at];
        address.preferred_until = new.preferred_until;
        address.valid_until = new.valid_until;
        address.metric = new.metric;
        address.protocol = new.protocol;
        if new.net.addr().is_ipv6() {
            let settable = SETTABLE_V6 & !(ifa_flags::OPTIMISTIC | ifa_flags::MCAUTOJOIN);
            address.flags = address.flags & !settable | new.flags & settable;
            address.peer = new.peer;
        }
        address.flags &= !(ifa_flags::DEPRECATED | ifa_flags::PERMANENT);
        if new.valid_until.is_none() {
            address.flags |= ifa_flags::PERMANENT;
        }
        self.changes.push_back(Change::Address(address.clone()));
        self.adopt_routes(link, &before);
        Ok(())
    }

    /// __inet_del_ifa() with fib_del_ifaddr(), ipv6_del_addr().
    fn remove_at(&mut self, at: usize) {
        let link = self.addresses[at].link;
        let gone = self.addresses[at].clone();
        let ip = gone.net.addr();
        if ip.is_ipv4() && gone.flags & ifa_flags::SECONDARY == 0 {
            let secondary = |a: &Address| a.flags & ifa_flags::SECONDARY != 0 && a.is_of_same_network(&gone);
            // Behind the primary, so `at` stays right.
            while let Some(second) = self.addresses.iter().rposition(secondary) {
                self.remove_one(second);
            }
        }
        let Some(at) = self.addresses.iter().position(|a| *a == gone) else { return };
        self.remove_one(at);
        if ip.is_ipv4() && !self.addresses_of(link).any(|a| a.net.addr().is_ipv4()) {
            self.flush_routes(|route| route.link == Some(link) && route.to.addr().is_ipv4());
        }
    }

    fn remove_one(&mut self, at: usize) {
        let link = self.addresses[at].link;
        let before = self.owned_routes(link);
        let gone = self.addresses.remove(at);
        let ip = gone.net.addr();
        self.changes.push_back(Change::AddressGone(gone));
        self.adopt_routes(link, &before);
        if self.addresses.iter().any(|a| a.net.addr() == ip) {
            return;
        }
        // Routes that prefer an address that has gone: IPv4's go along (fib_sync_down_addr), IPv6's have no
        // preference any more (fib6_remove_prefsrc).
        if ip.is_ipv4() {
            self.flush_routes(|route| route.source == Some(ip) && route.table == TABLE_MAIN);
        } else {
            for route in self.routes.iter_mut().filter(|route| route.source == Some(ip)) {
                self.changes.push_back(Change::RouteGone(route.clone()));
                route.source = None;
                self.changes.push_back(Change::Route(route.clone()));
            }
        }
    }
}

/// rt_scope() in net/ipv6/addrconf.c
fn scope_of_v6(ip: Ipv6Addr) -> u8 {
    let site_local = Ipv6Net::new_assert(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10);
    if ip.is_loopback() {
        SCOPE_HOST
    } else if ip.is_unicast_link_local() {
        SCOPE_LINK
    } else if site_local.contains(&ip) {
        SCOPE_SITE
    } else {
        SCOPE_UNIVERSE
    }
}
