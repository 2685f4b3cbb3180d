//! Interfaces: RTM_GETLINK, NEWLINK, SETLINK, DELLINK (`struct ifinfomsg`, linux/if_link.h).

use std::time::Instant;

use libc::{
    IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_BROADCAST, IFLA_CARRIER, IFLA_CARRIER_CHANGES, IFLA_EXT_MASK,
    IFLA_GROUP, IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINK,
    IFLA_LINKINFO, IFLA_LINKMODE, IFLA_MAP, IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_NET_NS_PID,
    IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES, IFLA_OPERSTATE, IFLA_PROMISCUITY, IFLA_PROTINFO, IFLA_PROTO_DOWN,
    IFLA_QDISC, IFLA_STATS, IFLA_STATS64, IFLA_TXQLEN, RTM_NEWLINK,
};
use nix::errno::Errno;

use super::super::World;
use super::super::reply::{Answer, Answered, Asked, List, Sink, fill_from};
use super::super::wire::{Attributes, Header, Message, u32_at};
use super::newlink::{create, describe, info_kind, other, own_mac};
use super::{fixed, index};
use crate::smol::tables::{IfIndex, Link, LinkKind, Refused, Tables};

/// Length of `struct ifinfomsg`.
pub(super) const INFO: usize = 16;
/// ARPHRD_ETHER, ARPHRD_LOOPBACK
const TYPES: [u16; 2] = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK];
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_ALLMULTI: u16 = 61;
/// Attributes inside IFLA_AF_SPEC.
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_FLAGS: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_CACHEINFO: u16 = 5;
const IFLA_INET6_TOKEN: u16 = 7;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// IF_READY (net/if_inet6.h)
const IF_READY: u32 = 0x8000_0000;
/// IPV4_DEVCONF_MAX, DEVCONF_MAX
const DEVCONF_V4: usize = 33;
const DEVCONF_V6: usize = 60;
/// Highest MTU of a link, for show (the loopback has no bound).
const MAX_MTU: u32 = 65_521;
/// GSO_MAX_SIZE, GSO_MAX_SEGS: the longest super-segment.
const GSO: (u32, u32) = (65_536, 65_535);
/// IF_OPER_* (RFC 2863)
const OPER_UNKNOWN: u8 = 0;
const OPER_DOWN: u8 = 2;
const OPER_LOWER_LAYER_DOWN: u8 = 3;
const OPER_UP: u8 = 6;

/// Every interface.
#[derive(Debug)]
struct Links {
    /// Only those of that IFLA_INFO_KIND.
    kind: Option<String>,
    /// IPv6's own view, which is shorter.
    v6: bool,
}

impl List for Links {
    fn fill(
        &self,
        from: usize,
        world: &dyn World,
        _: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let header = Header { kind: RTM_NEWLINK, ..header };
        fill_from(world.tables().links.values(), from, sink, |link| {
            let fits = self.kind.as_deref().is_none_or(|kind| info_kind(link) == Some(kind));
            fits.then(|| {
                if self.v6 {
                    message_v6(link, world.tables(), header)
                } else {
                    message(link, world.tables(), header)
                }
            })
        })
    }
}

/// `ip link show`
pub(super) fn list(asked: &Asked<'_>, _: &dyn World) -> Answered {
    let attributes = Attributes::behind(asked.request.payload, INFO);
    let kind = match attributes.nest(IFLA_LINKINFO) {
        Some(info) => info.text(IFLA_INFO_KIND)?.map(ToOwned::to_owned),
        None => None,
    };
    let v6 = i32::from(asked.request.payload[0]) == libc::AF_INET6;
    Ok(Answer::Dump(Box::new(Links { kind, v6 })))
}

/// `ip link show dev NAME`
pub(super) fn get(asked: &Asked<'_>, world: &dyn World) -> Answered {
    let attributes = Attributes::behind(asked.request.payload, INFO);
    attributes.u32(IFLA_EXT_MASK)?;
    let found = find(asked, &attributes, world.tables())?.ok_or(Errno::EINVAL)??;
    let link = world.tables().link(found)?;
    Ok(Answer::Message(message(link, world.tables(), asked.header(RTM_NEWLINK))))
}

/// What a request names by index or name: nothing, something that is not there, or an interface.
fn find(
    asked: &Asked<'_>,
    attributes: &Attributes<'_>,
    tables: &Tables,
) -> Result<Option<Result<IfIndex, Errno>>, Refused> {
    let info = fixed(asked, INFO)?;
    if let Some(index) = u32_at(info, 4).and_then(index) {
        return Ok(Some(tables.link(index).map(|link| link.index)));
    }
    let name = attributes.text(IFLA_IFNAME)?.or(attributes.text(IFLA_ALT_IFNAME)?);
    Ok(name.map(|name| tables.link_by_name(name).map(|link| link.index).ok_or(Errno::ENODEV)))
}

/// `ip link add`, `ip link set`
pub(super) fn new(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let attributes = Attributes::behind(asked.request.payload, INFO);
    let header = asked.request.header;
    match find(asked, &attributes, tables)? {
        Some(Ok(_)) if header.has(libc::NLM_F_EXCL) => Err(Errno::EEXIST.into()),
        Some(Ok(_)) if header.has(libc::NLM_F_REPLACE) => Err(Errno::EOPNOTSUPP.into()),
        Some(Ok(found)) => change(asked, &attributes, found, tables),
        _ if !header.has(libc::NLM_F_CREATE) => Err(Errno::ENODEV.into()),
        _ => create(asked, &attributes, tables),
    }
}

/// `ip link set`, as older programs do it
pub(super) fn set(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let attributes = Attributes::behind(asked.request.payload, INFO);
    let found = find(asked, &attributes, tables)?.ok_or(Errno::EINVAL)??;
    change(asked, &attributes, found, tables)
}

/// `ip link delete`
pub(super) fn delete(asked: &Asked<'_>, tables: &mut Tables) -> Result<(), Refused> {
    let attributes = Attributes::behind(asked.request.payload, INFO);
    let found = find(asked, &attributes, tables)?.ok_or(Errno::EINVAL)??;
    match tables.link(found)?.kind {
        LinkKind::Vlan { .. } | LinkKind::Veth { .. } | LinkKind::Dummy => tables.remove_link(found),
        // Its plug is not the program's to remove.
        LinkKind::Ethernet | LinkKind::Loopback => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// do_setlink(): one setting after the other; those before one that is refused stay made.
fn change(
    asked: &Asked<'_>,
    attributes: &Attributes<'_>,
    index: IfIndex,
    tables: &mut Tables,
) -> Result<(), Refused> {
    let fixed = fixed(asked, INFO)?;
    let other_namespace = attributes.has(IFLA_NET_NS_PID) || attributes.has(IFLA_NET_NS_FD);
    if other_namespace {
        return Err(Refused::new(Errno::EOPNOTSUPP, "interfaces do not leave their stack"));
    }
    let master = attributes.u32(IFLA_MASTER)?.is_some_and(|master| master != 0);
    let group = attributes.u32(IFLA_GROUP)?.is_some_and(|group| group != 0);
    let unknown =
        [IFLA_MAP, IFLA_CARRIER, IFLA_PROTINFO, IFLA_IFALIAS].iter().any(|kind| attributes.has(*kind));
    if master || group || unknown {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if let Some(mac) = own_mac(attributes)? {
        tables.set_mac(index, mac)?;
    }
    if let Some(mtu) = attributes.u32(IFLA_MTU)? {
        tables.set_mtu(index, mtu)?;
    }
    // By its index an interface is renamed; by its name it was found.
    if u32_at(fixed, 4) == Some(index.0)
        && let Some(name) = attributes.text(IFLA_IFNAME)?.filter(|name| !name.is_empty())
    {
        let name = tables.free_name(name).unwrap_or_else(|| name.to_owned());
        tables.rename(index, &name)?;
    }
    change_flags_of(fixed, index, tables)?;
    if let Some(length) = attributes.u32(IFLA_TXQLEN)? {
        tables.set_queue_length(index, length)?;
    }
    let v6 = attributes.nest(IFLA_AF_SPEC).and_then(|spec| spec.nest(libc::AF_INET6 as u16));
    if let Some(mode) = v6.map(|v6| v6.u8(IFLA_INET6_ADDR_GEN_MODE)).transpose()?.flatten() {
        // IN6_ADDR_GEN_MODE_EUI64, …_NONE; the others need a secret or a random number.
        match mode {
            0 | 1 => tables.set_link_local(index, mode == 0)?,
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
    }
    Ok(())
}

/// `ifi_flags` under `ifi_change`, of which 0 means all (rtnl_dev_get_flags).
pub(super) fn change_flags_of(fixed: &[u8], index: IfIndex, tables: &mut Tables) -> Result<(), Refused> {
    let flags = u32_at(fixed, 8).unwrap_or_default();
    let mask = u32_at(fixed, 12).unwrap_or_default();
    if flags == 0 && mask == 0 {
        return Ok(());
    }
    let mask = if mask == 0 { u32::MAX } else { mask };
    change_flags(flags, mask, index, tables)
}

/// Sets those flags of an interface that can be set.
pub(in crate::smol::netlink) fn change_flags(
    flags: u32,
    mask: u32,
    index: IfIndex,
    tables: &mut Tables,
) -> Result<(), Refused> {
    tables.wish_flags(index, flags, mask)?;
    if mask & libc::IFF_UP as u32 != 0 {
        tables.set_up(index, flags & libc::IFF_UP as u32 != 0)?;
    }
    Ok(())
}

/// IF_OPER_*
pub(in crate::smol::netlink) fn oper_state(link: &Link, tables: &Tables) -> u8 {
    let lower_down = other(link).is_some_and(|other| !tables.links.get(&other).is_some_and(Link::is_running));
    match link.kind {
        LinkKind::Loopback | LinkKind::Dummy if link.up => OPER_UNKNOWN,
        _ if link.is_running() => OPER_UP,
        _ if link.up && lower_down => OPER_LOWER_LAYER_DOWN,
        _ => OPER_DOWN,
    }
}

fn start(link: &Link, family: u8, header: Header) -> Message {
    let mut message = Message::new(header);
    let arp_type = TYPES[usize::from(link.kind == LinkKind::Loopback)];
    message.raw(&[family, 0]).raw(&arp_type.to_ne_bytes());
    message.raw(&link.index.0.to_ne_bytes()).raw(&link.flags().to_ne_bytes()).raw(&[0; 4]);
    message
}

/// An interface as rtnl_fill_ifinfo() tells it.
pub(super) fn message(link: &Link, tables: &Tables, header: Header) -> Vec<u8> {
    let loopback = link.kind == LinkKind::Loopback;
    let mut message = start(link, libc::AF_UNSPEC as u8, header);
    message.text(IFLA_IFNAME, &link.name);
    message.u32(IFLA_TXQLEN, link.queue_length);
    message.u8(IFLA_OPERSTATE, oper_state(link, tables));
    message.u8(IFLA_LINKMODE, 0);
    message.u32(IFLA_MTU, link.mtu);
    message.u32(IFLA_MIN_MTU, if loopback { 0 } else { 68 });
    message.u32(IFLA_MAX_MTU, if loopback { 0 } else { MAX_MTU });
    message.u32(IFLA_GROUP, 0);
    message.u32(IFLA_PROMISCUITY, link.promiscuous);
    message.u32(IFLA_ALLMULTI, link.allmulti);
    message.u32(IFLA_NUM_TX_QUEUES, 1);
    message.u32(IFLA_GSO_MAX_SEGS, GSO.1);
    message.u32(IFLA_GSO_MAX_SIZE, GSO.0);
    message.u32(IFLA_NUM_RX_QUEUES, 1);
    message.u8(IFLA_CARRIER, u8::from(link.carrier));
    message.u32(IFLA_CARRIER_CHANGES, 0);
    message.u32(IFLA_CARRIER_UP_COUNT, 0);
    message.u32(IFLA_CARRIER_DOWN_COUNT, 0);
    message.u8(IFLA_PROTO_DOWN, 0);
    message.attribute(IFLA_MAP, &[0; 32]);
    message.attribute(IFLA_ADDRESS, &link.mac.0);
    message.attribute(IFLA_BROADCAST, &if loopback { [0; 6] } else { [0xff; 6] });
    let counters = statistics(link);
    message.attribute(IFLA_STATS64, &counters.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
    // The old form has 32 bits per number, and one number fewer.
    let old = counters.iter().take(24).flat_map(|n| (*n as u32).to_ne_bytes()).collect::<Vec<_>>();
    message.attribute(IFLA_STATS, &old);
    describe(link, &mut message);
    message.text(IFLA_QDISC, "noqueue");
    message.nest(IFLA_AF_SPEC, |spec| {
        spec.nest(libc::AF_INET as u16, |v4| {
            let mut conf = [0u32; DEVCONF_V4];
            conf[0] = tables.forwarding.into();
            v4.attribute(IFLA_INET_CONF, &conf.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
        });
        if link.mtu >= 1280 {
            spec.nest(libc::AF_INET6 as u16, |v6| inet6(link, tables, v6));
        }
    });
    message.finish()
}

/// An interface as IPv6 tells it (inet6_fill_ifinfo).
fn message_v6(link: &Link, tables: &Tables, header: Header) -> Vec<u8> {
    let mut message = start(link, libc::AF_INET6 as u8, header);
    message.text(IFLA_IFNAME, &link.name);
    message.attribute(IFLA_ADDRESS, &link.mac.0);
    message.u32(IFLA_MTU, link.mtu);
    if let Some(other) = other(link) {
        message.u32(IFLA_LINK, other.0);
    }
    message.u8(IFLA_OPERSTATE, oper_state(link, tables));
    message.nest(IFLA_PROTINFO, |v6| inet6(link, tables, v6));
    message.finish()
}

fn inet6(link: &Link, tables: &Tables, v6: &mut Message) {
    let ready = link.configured6 || link.kind == LinkKind::Loopback && link.up;
    v6.u32(IFLA_INET6_FLAGS, if ready { IF_READY } else { 0 });
    // `struct ifla_cacheinfo`: reassembly limit, changed, reachable time, retransmission time.
    let cache = [65_535u32, 0, 30_000, 1000];
    v6.attribute(IFLA_INET6_CACHEINFO, &cache.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
    let mut conf = [0u32; DEVCONF_V6];
    // DEVCONF_FORWARDING, HOPLIMIT, MTU6, DAD_TRANSMITS, ACCEPT_DAD. No router is listened to.
    for (at, value) in [(0, tables.forwarding.into()), (1, 64), (2, link.mtu), (6, 1), (27, 1)] {
        conf[at] = value;
    }
    v6.attribute(IFLA_INET6_CONF, &conf.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>());
    v6.attribute(IFLA_INET6_TOKEN, &[0; 16]);
    v6.u8(IFLA_INET6_ADDR_GEN_MODE, u8::from(!link.link_local && link.kind != LinkKind::Loopback));
}

/// `struct rtnl_link_stats64`
fn statistics(link: &Link) -> [u64; 25] {
    let c = &link.counters;
    let mut all = [0; 25];
    let known = [
        c.rx_packets,
        c.tx_packets,
        c.rx_bytes,
        c.tx_bytes,
        c.rx_errors,
        0,
        c.rx_dropped,
        c.tx_dropped,
        c.multicast,
    ];
    all[..known.len()].copy_from_slice(&known);
    all
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::u16_at;
    use super::*;
    use crate::config::Mac;

    #[test]
    fn the_fixed_part_is_as_long_as_linux_has_it() {
        let link = Link::new(IfIndex(2), "eth0", LinkKind::Ethernet, Mac([2, 0, 0, 0, 0, 1]));
        let header = Header { kind: RTM_NEWLINK, flags: 0, sequence: 0, port: 0 };
        let bytes = message(&link, &Tables::new(), header);
        assert_eq!(u16_at(&bytes, 18), Some(libc::ARPHRD_ETHER));
        assert_eq!(u32_at(&bytes, 20), Some(2));
        let attributes = Attributes::behind(&bytes, 16 + INFO);
        assert_eq!(attributes.text(IFLA_IFNAME), Ok(Some("eth0")));
        assert_eq!(attributes.get(IFLA_STATS64).map(<[u8]>::len), Some(200));
        assert_eq!(attributes.get(IFLA_STATS).map(<[u8]>::len), Some(96));
    }
}
