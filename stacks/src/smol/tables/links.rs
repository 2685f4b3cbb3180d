//! Interfaces: made, removed, named, set up and down.

use nix::errno::Errno;

use super::{
    Address, Change, IfIndex, LOOPBACK, Link, LinkCounters, LinkKind, MAX_LINKS, Refused, SCOPE_HOST, Tables,
    ifa_flags,
};
use crate::config::Mac;

/// Longest name, in bytes (IFNAMSIZ less the final NUL).
const MAX_NAME: usize = 15;
/// What an Ethernet link takes as MTU: IPv4's least (RFC 791), and a frame of 64 KiB less its header.
const ETHERNET_MTU: std::ops::RangeInclusive<u32> = 68..=65_521;
/// The loopback's, which is also the most it takes: no packet is longer.
const LOOPBACK_MTU: u32 = 65_536;
/// IPv6 stops on links with less (RFC 8200 clause 5).
pub(super) const MTU_FOR_IPV6: u32 = 1280;
/// Most tags of a frame: what the room before a packet is made for.
const MAX_TAGS: usize = 2;
/// txqueuelen of a link that nobody set.
const QUEUE_LENGTH: u32 = 1000;

impl Link {
    /// An interface as Linux makes one: down; the loopback and dummies alone run as soon as they are up.
    pub fn new(index: IfIndex, name: &str, kind: LinkKind, mac: Mac) -> Self {
        let loopback = kind == LinkKind::Loopback;
        // Nothing can be at the other end of a dummy, nor be missing there.
        let carrier = loopback || kind == LinkKind::Dummy;
        Self {
            index,
            name: name.to_owned(),
            kind,
            mac,
            mtu: if loopback { LOOPBACK_MTU } else { 1500 },
            up: false,
            carrier,
            promiscuous: 0,
            allmulti: 0,
            queue_length: QUEUE_LENGTH,
            wished_flags: 0,
            link_local: !loopback,
            hears_routers: false,
            configured6: false,
            plugged: String::new(),
            counters: LinkCounters::default(),
        }
    }

    /// IFF_*, as netdevice(7) and rtnetlink show them (net/core/dev.c, dev_get_flags).
    pub fn flags(&self) -> u32 {
        let mut flags = match self.kind {
            LinkKind::Loopback => libc::IFF_LOOPBACK,
            LinkKind::Dummy => libc::IFF_BROADCAST | libc::IFF_NOARP,
            LinkKind::Ethernet | LinkKind::Vlan { .. } | LinkKind::Veth { .. } => {
                libc::IFF_BROADCAST | libc::IFF_MULTICAST
            }
        };
        if self.up {
            flags |= libc::IFF_UP;
        }
        if self.is_running() {
            flags |= libc::IFF_RUNNING | libc::IFF_LOWER_UP;
        }
        flags as u32 | self.wished_flags
    }

    /// The link-local address made of its hardware address (RFC 4291 appendix A).
    pub fn eui64(&self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0;
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        octets.into()
    }
}

impl Tables {
    /// Makes an interface; `index` 0 is the next free one. A subinterface takes MAC address, MTU and carrier of
    /// its parent. EEXIST, EINVAL, ENODEV, ENFILE.
    pub fn add_link(&mut self, index: u32, name: &str, kind: LinkKind, mac: Mac) -> Result<IfIndex, Refused> {
        check_name(name)?;
        if self.link_by_name(name).is_some() || self.links.contains_key(&IfIndex(index)) {
            return Err(Errno::EEXIST.into());
        }
        if self.links.len() >= MAX_LINKS {
            return Err(Errno::ENFILE.into());
        }
        let index = match index {
            0 => self.next_index(),
            index if i32::try_from(index).is_ok() => IfIndex(index),
            _ => return Err(Errno::EINVAL.into()),
        };
        let mut link = Link::new(index, name, kind, mac);
        match kind {
            LinkKind::Loopback => return Err(Errno::EOPNOTSUPP.into()),
            LinkKind::Ethernet | LinkKind::Veth { .. } | LinkKind::Dummy => {}
            LinkKind::Vlan { parent, vid } => {
                if !(1..=4094).contains(&vid) {
                    return Err(Refused::new(Errno::ERANGE, "Invalid VLAN id"));
                }
                if self.links.values().any(|other| other.kind == kind) {
                    return Err(Errno::EEXIST.into());
                }
                if self.tags(parent)? == MAX_TAGS {
                    return Err(Errno::EMLINK.into());
                }
                let parent = self.link(parent)?;
                if parent.kind == LinkKind::Loopback {
                    return Err(Refused::new(Errno::EOPNOTSUPP, "VLANs not supported on device"));
                }
                link.mtu = parent.mtu;
                link.carrier = parent.is_running();
                if mac == Mac([0; 6]) {
                    link.mac = parent.mac;
                }
            }
        }
        self.links.insert(index, link);
        self.changes.push_back(Change::Link(index));
        Ok(index)
    }

    /// Removes an interface with all that belongs to it, its subinterfaces first, and the other end of a pair. ENODEV,
    /// EOPNOTSUPP.
    pub fn remove_link(&mut self, index: IfIndex) -> Result<(), Refused> {
        let other = self.other_end(index);
        self.take_away(index)?;
        other.map_or(Ok(()), |other| self.take_away(other))
    }

    fn take_away(&mut self, index: IfIndex) -> Result<(), Refused> {
        if self.link(index)?.kind == LinkKind::Loopback {
            return Err(Errno::EOPNOTSUPP.into());
        }
        for vlan in self.vlans_of(index) {
            self.remove_link(vlan)?;
        }
        self.set_up(index, false)?;
        self.remove_addresses_of(index);
        self.flush_neighbours(index, true);
        self.flush_routes(|route| route.link == Some(index));
        if let Some(link) = self.links.remove(&index) {
            self.changes.push_back(Change::LinkGone(Box::new(link)));
        }
        Ok(())
    }

    /// Renames an interface, and with it the labels of its addresses. ENODEV, EEXIST, EINVAL.
    pub fn rename(&mut self, index: IfIndex, name: &str) -> Result<(), Refused> {
        check_name(name)?;
        let old = self.link(index)?.name.clone();
        if old == name {
            return Ok(());
        }
        if self.link_by_name(name).is_some() {
            return Err(Errno::EEXIST.into());
        }
        self.link_mut(index)?.name = name.to_owned();
        self.changes.push_back(Change::Link(index));
        // inetdev_changename(): the first address has the name, the others an alias of it.
        let of_link = |a: &&mut Address| a.link == index && a.net.addr().is_ipv4();
        for (at, address) in self.addresses.iter_mut().filter(of_link).enumerate() {
            let alias = match (at, address.label.find(':')) {
                (0, _) => String::new(),
                (_, Some(colon)) => address.label.split_off(colon),
                (_, None) => format!(":{}", at + 1),
            };
            let room = MAX_NAME.saturating_sub(alias.len());
            address.label = format!("{}{alias}", name.get(..room).unwrap_or(name));
            self.changes.push_back(Change::Address(address.clone()));
        }
        Ok(())
    }

    /// Sets IFF_UP or clears it. A subinterface goes down and comes up with its parent, and cannot be up
    /// without it (ENETDOWN).
    pub fn set_up(&mut self, index: IfIndex, up: bool) -> Result<(), Refused> {
        let link = self.link(index)?;
        if link.up == up {
            return Ok(());
        }
        if let LinkKind::Vlan { parent, .. } = link.kind
            && up
            && !self.link(parent)?.up
        {
            return Err(Errno::ENETDOWN.into());
        }
        if up {
            self.bring_up(index)?;
        } else {
            self.bring_down(index)?;
        }
        self.set_carrier_of_pair(index)?;
        for vlan in self.vlans_of(index) {
            let carrier = self.link(index)?.is_running();
            self.set_carrier(vlan, carrier)?;
            self.set_up(vlan, up)?;
        }
        Ok(())
    }

    fn bring_up(&mut self, index: IfIndex) -> Result<(), Refused> {
        let before = self.owned_routes(index);
        self.link_mut(index)?.up = true;
        self.changes.push_back(Change::Link(index));
        self.adopt_routes(index, &before);
        if self.link(index)?.kind == LinkKind::Loopback {
            self.add_loopback_addresses();
        } else if self.link(index)?.carrier {
            self.start_ipv6(index);
        }
        Ok(())
    }

    fn bring_down(&mut self, index: IfIndex) -> Result<(), Refused> {
        self.link_mut(index)?.up = false;
        self.changes.push_back(Change::Link(index));
        self.flush_neighbours(index, true);
        // Routes to the host itself stay: the address answers on other links, too.
        self.flush_routes(|r| r.link == Some(index) && r.to.addr().is_ipv4() && r.scope != SCOPE_HOST);
        self.stop_ipv6(index);
        Ok(())
    }

    /// There is something at the other end of an interface, or nothing any more. ENODEV.
    pub fn set_carrier(&mut self, index: IfIndex, carrier: bool) -> Result<(), Refused> {
        let link = self.link_mut(index)?;
        if link.carrier == carrier {
            return Ok(());
        }
        link.carrier = carrier;
        if link.up {
            if carrier {
                self.start_ipv6(index);
            } else {
                self.flush_neighbours(index, false);
            }
        }
        self.changes.push_back(Change::Link(index));
        for vlan in self.vlans_of(index) {
            let carrier = self.link(index)?.is_running();
            self.set_carrier(vlan, carrier)?;
        }
        Ok(())
    }

    /// Sets the MTU; subinterfaces shrink along. ENODEV, EINVAL, ERANGE.
    pub fn set_mtu(&mut self, index: IfIndex, mtu: u32) -> Result<(), Refused> {
        let link = self.link(index)?;
        let (kind, old, carrier) = (link.kind, link.mtu, link.is_running());
        match kind {
            LinkKind::Loopback if mtu > LOOPBACK_MTU => {
                return Err(Refused::new(Errno::EINVAL, "mtu greater than device maximum"));
            }
            LinkKind::Loopback => {}
            LinkKind::Vlan { parent, .. } if self.link(parent)?.mtu < mtu => return Err(Errno::ERANGE.into()),
            _ if mtu < *ETHERNET_MTU.start() => {
                return Err(Refused::new(Errno::EINVAL, "mtu less than device minimum"));
            }
            _ if mtu > *ETHERNET_MTU.end() => {
                return Err(Refused::new(Errno::EINVAL, "mtu greater than device maximum"));
            }
            _ => {}
        }
        if mtu == old {
            return Ok(());
        }
        self.link_mut(index)?.mtu = mtu;
        if mtu < *ETHERNET_MTU.start() {
            self.remove_addresses_of(index);
        }
        if mtu < MTU_FOR_IPV6 {
            self.stop_ipv6(index);
        } else if old < MTU_FOR_IPV6 && carrier {
            if kind == LinkKind::Loopback {
                self.add_loopback_addresses();
            } else {
                self.start_ipv6(index);
            }
        }
        self.changes.push_back(Change::Link(index));
        for vlan in self.vlans_of(index) {
            let smaller = self.link(vlan)?.mtu.min(mtu);
            self.set_mtu(vlan, smaller)?;
        }
        Ok(())
    }

    /// Sets the hardware address; subinterfaces that had the same follow. ENODEV, EADDRNOTAVAIL, EOPNOTSUPP.
    pub fn set_mac(&mut self, index: IfIndex, mac: Mac) -> Result<(), Refused> {
        let link = self.link_mut(index)?;
        if link.kind == LinkKind::Loopback {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
            return Err(Errno::EADDRNOTAVAIL.into());
        }
        let old = std::mem::replace(&mut link.mac, mac);
        if old == mac {
            return Ok(());
        }
        self.flush_neighbours(index, true);
        self.changes.push_back(Change::Link(index));
        for vlan in self.vlans_of(index) {
            if self.link(vlan)?.mac == old {
                self.set_mac(vlan, mac)?;
            }
        }
        Ok(())
    }

    /// Sets or clears IFF_PROMISC or IFF_ALLMULTI as a person does; beside them sockets ask. ENODEV.
    pub fn wish_flags(&mut self, index: IfIndex, flags: u32, mask: u32) -> Result<(), Refused> {
        let link = self.link_mut(index)?;
        let changed = (link.wished_flags ^ flags) & mask & (libc::IFF_PROMISC | libc::IFF_ALLMULTI) as u32;
        link.wished_flags ^= changed;
        let more = |flag: i32, count: u32| match (changed & flag as u32, link.wished_flags & flag as u32) {
            (0, _) => count,
            (_, 0) => count.saturating_sub(1),
            _ => count.saturating_add(1),
        };
        link.promiscuous = more(libc::IFF_PROMISC, link.promiscuous);
        link.allmulti = more(libc::IFF_ALLMULTI, link.allmulti);
        if changed != 0 {
            self.changes.push_back(Change::Link(index));
        }
        Ok(())
    }

    /// One more or one fewer socket that asks for all frames. ENODEV.
    pub fn ask_promiscuous(&mut self, index: IfIndex, more: bool) -> Result<(), Refused> {
        let link = self.link_mut(index)?;
        link.promiscuous =
            if more { link.promiscuous.saturating_add(1) } else { link.promiscuous.saturating_sub(1) };
        self.changes.push_back(Change::Link(index));
        Ok(())
    }

    /// One more or one fewer socket that asks for all groups. ENODEV.
    pub fn ask_allmulti(&mut self, index: IfIndex, more: bool) -> Result<(), Refused> {
        let link = self.link_mut(index)?;
        link.allmulti = if more { link.allmulti.saturating_add(1) } else { link.allmulti.saturating_sub(1) };
        self.changes.push_back(Change::Link(index));
        Ok(())
    }

    /// Sets txqueuelen, which is for show: frames do not wait here. ENODEV.
    pub fn set_queue_length(&mut self, index: IfIndex, length: u32) -> Result<(), Refused> {
        self.link_mut(index)?.queue_length = length;
        self.changes.push_back(Change::Link(index));
        Ok(())
    }

    /// Whether it gets a link-local address when IPv6 starts on it. ENODEV.
    pub fn set_link_local(&mut self, index: IfIndex, wanted: bool) -> Result<(), Refused> {
        self.link_mut(index)?.link_local = wanted;
        Ok(())
    }

    /// The first `ethN`-like name that is free; `pattern` has a `%d` for the number.
    pub fn free_name(&self, pattern: &str) -> Option<String> {
        self.free_name_beside(pattern, "")
    }

    /// As [`Tables::free_name`], and not `other`, which is about to be taken.
    pub fn free_name_beside(&self, pattern: &str, other: &str) -> Option<String> {
        let (front, back) = pattern.split_once("%d")?;
        (0..=MAX_LINKS + 1)
            .map(|n| format!("{front}{n}{back}"))
            .find(|name| name.len() <= MAX_NAME && name != other && self.link_by_name(name).is_none())
    }

    /// Something is at the other end of an Ethernet link that is up: groups, and its link-local address.
    pub(super) fn start_ipv6(&mut self, index: IfIndex) {
        let Some(link) = self.links.get_mut(&index) else { return };
        if link.configured6 || link.mtu < MTU_FOR_IPV6 {
            return;
        }
        let (address, wanted) = (link.eui64(), link.link_local);
        let before = self.owned_routes(index);
        if let Some(link) = self.links.get_mut(&index) {
            link.configured6 = true;
        }
        self.adopt_routes(index, &before);
        if wanted {
            self.add_own_address(index, address.into(), 64, ifa_flags::TENTATIVE);
        }
    }

    fn stop_ipv6(&mut self, index: IfIndex) {
        if let Some(link) = self.links.get_mut(&index) {
            link.configured6 = false;
        }
        self.flush_routes(|route| route.link == Some(index) && route.to.addr().is_ipv6());
        self.remove_ipv6_addresses_of(index);
    }

    pub(super) fn vlans_of(&self, index: IfIndex) -> Vec<IfIndex> {
        let of = |link: &&Link| matches!(link.kind, LinkKind::Vlan { parent, .. } if parent == index);
        self.links.values().filter(of).map(|link| link.index).collect()
    }

    /// How many tags its frames have.
    fn tags(&self, mut index: IfIndex) -> Result<usize, Errno> {
        let mut tags = 0;
        while let LinkKind::Vlan { parent, .. } = self.link(index)?.kind {
            (index, tags) = (parent, tags + 1);
        }
        Ok(tags)
    }

    fn next_index(&self) -> IfIndex {
        let behind_last = self.links.keys().next_back().map_or(LOOPBACK.0, |last| last.0) + 1;
        (behind_last..=i32::MAX as u32)
            .chain(LOOPBACK.0 + 1..)
            .map(IfIndex)
            .find(|index| !self.links.contains_key(index))
            .expect("there are more numbers than links")
    }
}

/// What dev_valid_name() in net/core/dev.c takes.
fn check_name(name: &str) -> Result<(), Refused> {
    let bad = |c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0';
    if name.is_empty() || name.len() > MAX_NAME || name == "." || name == ".." || name.contains(bad) {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}
