//! Addresses: RTM_GETADDR, NEWADDR, DELADDR (`struct ifaddrmsg`, linux/if_addr.h).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use libc::{IFA_ADDRESS, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_LABEL, IFA_LOCAL, RTM_NEWADDR};
use nix::errno::Errno;

use super::super::World;
use super::super::reply::{Answer, Answered, Asked, List, Sink, fill_from};
use super::super::wire::{Attributes, Header, Message, u32_at};
use super::{family, fixed, index, is_v4, wants};
use crate::smol::tables::{Address, IfIndex, Mode, Refused, Tables};

/// Length of `struct ifaddrmsg`.
const MESSAGE: usize = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
/// INFINITY_LIFE_TIME
const FOREVER: u32 = u32::MAX;

/// Every address.
#[derive(Debug)]
struct Addresses {
    family: u8,
    link: Option<IfIndex>,
}

impl List for Addresses {
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        now: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let header = Header { kind: RTM_NEWADDR, ..header };
        let wanted =
            |a: &&Address| wants(self.family, a.net.addr()) && self.link.is_none_or(|link| link == a.link);
        let mut all: Vec<&Address> = world.tables().addresses.iter().filter(wanted).collect();
        // IPv4's first, by interface; within one the order stays.
        all.sort_by_key(|a| (a.net.addr().is_ipv6(), a.link));
        fill_from(all.into_iter(), from, sink, |address| Some(message(address, now, header)))
    }
}

/// `ip address show`
pub(super) fn list(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let payload = asked.request.payload;
    let mut link = None;
    if asked.strict {
        link = u32_at(fixed(asked, MESSAGE)?, 4).and_then(index);
        if let Some(link) = link {
            world.tables().link(link)?;
        }
    }
    Ok(Answer::Dump(Box::new(Addresses { family: payload[0], link })))
}

/// `ip address add`, `change`, `replace`
pub(super) fn new(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let v4 = is_v4(fixed[0])?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    let link = IfIndex(u32_at(fixed, 4).unwrap_or_default());
    let local = attributes.ip(IFA_LOCAL, v4)?;
    let far = attributes.ip(IFA_ADDRESS, v4)?;
    let why = if v4 { "ipv4: Invalid prefix length" } else { "ipv6: Invalid prefix length" };
    if fixed[1] > if v4 { 32 } else { 128 } {
        return Err(Refused::new(Errno::EINVAL, why));
    }
    let own = match (v4, local) {
        (true, None) => return Err(Refused::new(Errno::EINVAL, "ipv4: Local address is not supplied")),
        (_, Some(local)) => local,
        (false, None) => far.ok_or(Errno::EINVAL)?,
    };
    let net = IpNet::new(own, fixed[1]).map_err(|_| Refused::new(Errno::EINVAL, why))?;
    let why = if v4 { "ipv4: Device not found" } else { "ipv6: Unable to find the interface" };
    tables.link(link).map_err(|errno| Refused::new(errno, why))?;

    let mut address = Address::new(link, net);
    address.peer = far.filter(|far| *far != own);
    address.broadcast = if v4 { attributes.ip(IFA_BROADCAST, true)? } else { None };
    address.flags = attributes.u32(IFA_FLAGS)?.unwrap_or_else(|| fixed[2].into());
    if v4 {
        address.scope = fixed[3];
        address.label = attributes.text(IFA_LABEL)?.unwrap_or_default().to_owned();
    }
    address.metric = attributes.u32(IFA_RT_PRIORITY)?.unwrap_or_default();
    address.protocol = attributes.u8(IFA_PROTO)?.unwrap_or_default();
    if let Some(cache) = attributes.get(IFA_CACHEINFO) {
        let (preferred, valid) = (u32_at(cache, 0), u32_at(cache, 4));
        let (preferred, valid) = preferred.zip(valid).ok_or(Errno::ERANGE)?;
        if valid == 0 || preferred > valid {
            let why = if v4 { "ipv4: address lifetime invalid" } else { "address lifetime invalid" };
            return Err(Refused::new(Errno::EINVAL, why));
        }
        address.preferred_until = deadline(preferred, asked.now);
        address.valid_until = deadline(valid, asked.now);
    }
    tables.add_address(address, Mode::of(asked))
}

/// `ip address delete`
pub(super) fn delete(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let fixed = fixed(asked, MESSAGE)?;
    let v4 = is_v4(fixed[0])?;
    let attributes = Attributes::behind(asked.request.payload, MESSAGE);
    let link = IfIndex(u32_at(fixed, 4).unwrap_or_default());
    let local = attributes.ip(IFA_LOCAL, v4)?;
    let far = attributes.ip(IFA_ADDRESS, v4)?;
    let label = attributes.text(IFA_LABEL)?.filter(|_| v4);
    let why = if v4 { "ipv4: Device not found" } else { "ipv6: Unable to find the interface" };
    tables.link(link).map_err(|errno| Refused::new(errno, why))?;
    if !v4 && local.is_none() && far.is_none() {
        return Err(Errno::EINVAL.into());
    }
    let found = tables.addresses_of(link).find(|a| {
        // IPv6 always looks at the prefix length, IPv4 only if there is a network.
        let matches_length = a.net.prefix_len() == fixed[1] || v4 && far.is_none();
        let matches_network = |far: IpAddr| !v4 || a.network().contains(&far);
        a.net.addr().is_ipv4() == v4
            && matches_length
            && local.or(if v4 { None } else { far }).is_none_or(|local| local == a.net.addr())
            && label.is_none_or(|label| label == a.label)
            && far.is_none_or(matches_network)
    });
    let why = if v4 { "ipv4: Address not found" } else { "ipv6: address not found" };
    let net = found.map(|a| a.net).ok_or_else(|| Refused::new(Errno::EADDRNOTAVAIL, why))?;
    tables.remove_address(link, net)
}

/// An address as inet_fill_ifaddr() and inet6_fill_ifaddr() tell it.
pub(super) fn message(address: &Address, now: Instant, header: Header) -> Vec<u8> {
    let own = address.net.addr();
    let mut message = Message::new(header);
    // The flags' lowest byte is here, all of them in IFA_FLAGS.
    message.raw(&[family(own), address.net.prefix_len(), address.flags as u8, address.scope]);
    message.raw(&address.link.0.to_ne_bytes());
    if own.is_ipv4() || address.peer.is_some() {
        message.ip(IFA_ADDRESS, address.peer.unwrap_or(own)).ip(IFA_LOCAL, own);
    } else {
        message.ip(IFA_ADDRESS, own);
    }
    if let Some(broadcast) = address.broadcast {
        message.ip(IFA_BROADCAST, broadcast);
    }
    if own.is_ipv4() {
        message.text(IFA_LABEL, &address.label);
    }
    if address.protocol != 0 {
        message.u8(IFA_PROTO, address.protocol);
    }
    message.u32(IFA_FLAGS, address.flags);
    if address.metric != 0 {
        message.u32(IFA_RT_PRIORITY, address.metric);
    }
    // `struct ifa_cacheinfo`: preferred, valid, made, changed.
    let cache = [left(address.preferred_until, now), left(address.valid_until, now), 0, 0];
    message.attribute(IFA_CACHEINFO, &cache.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
    message.finish()
}

fn deadline(seconds: u32, now: Instant) -> Option<Instant> {
    (seconds != FOREVER).then(|| now + Duration::from_secs(seconds.into()))
}

fn left(until: Option<Instant>, now: Instant) -> u32 {
    let seconds = |until: Instant| until.saturating_duration_since(now).as_secs();
    until.map_or(FOREVER, |until| u32::try_from(seconds(until)).unwrap_or(FOREVER - 1))
}
