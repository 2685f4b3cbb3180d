//! Interfaces that a program makes: VLANs, veth pairs, dummies (`ip link add`; rtnl_newlink of net/core/rtnetlink.c).

use libc::{
    IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, IFLA_MTU,
    IFLA_NET_NS_FD, IFLA_NET_NS_PID, IFLA_TXQLEN,
};
use nix::errno::Errno;

use super::super::reply::Asked;
use super::super::wire::{Attributes, Message, u32_at};
use super::fixed;
use super::link::{INFO, change_flags_of};
use crate::config::Mac;
use crate::smol::tables::{IfIndex, Link, LinkKind, NewLink, Refused, Tables};

/// Attributes inside IFLA_INFO_DATA of a VLAN.
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_FLAGS: u16 = 2;
const IFLA_VLAN_PROTOCOL: u16 = 5;
/// 802.1Q's EtherType, the only tag here.
const ETH_P_8021Q: u16 = 0x8100;
/// Inside IFLA_INFO_DATA of a veth: a `struct ifinfomsg` and attributes (linux/veth.h).
const VETH_INFO_PEER: u16 = 1;

/// An interface of a kind that can be made.
pub(super) fn create(
    asked: &Asked<'_>,
    attributes: &Attributes<'_>,
    tables: &mut Tables,
) -> Result<(), Refused> {
    let info = attributes.nest(IFLA_LINKINFO);
    let kind = info.map(|info| info.text(IFLA_INFO_KIND)).transpose()?.flatten();
    let data = info.and_then(|info| info.nest(IFLA_INFO_DATA));
    let fixed = fixed(asked, INFO)?;
    match kind {
        Some("vlan") => {
            let data = data.ok_or_else(|| Refused::new(Errno::EINVAL, "VLAN properties not specified"))?;
            let index = create_vlan(&data, fixed, attributes, tables)?;
            finish(index, fixed, attributes, tables)
        }
        Some("dummy") => {
            let name = name_of(attributes, "dummy%d", tables)?;
            let index = tables.add_dummy(&new_link(fixed, attributes, &name)?)?;
            finish(index, fixed, attributes, tables)
        }
        Some("veth") => create_veth(data, fixed, attributes, tables),
        _ => Err(Refused::new(Errno::EOPNOTSUPP, "Unknown device type")),
    }
}

fn create_vlan(
    data: &Attributes<'_>,
    fixed: &[u8],
    attributes: &Attributes<'_>,
    tables: &mut Tables,
) -> Result<IfIndex, Refused> {
    if data.u16(IFLA_VLAN_PROTOCOL)?.is_some_and(|p| u16::from_be(p) != ETH_P_8021Q) {
        return Err(Refused::new(Errno::EPROTONOSUPPORT, "Invalid VLAN protocol"));
    }
    let vid = data.u16(IFLA_VLAN_ID)?.ok_or_else(|| Refused::new(Errno::EINVAL, "VLAN id not specified"))?;
    let parent =
        attributes.u32(IFLA_LINK)?.ok_or_else(|| Refused::new(Errno::EINVAL, "link not specified"))?;
    let parent =
        tables.link(IfIndex(parent)).map_err(|_| Refused::new(Errno::ENODEV, "link does not exist"))?;
    let (parent, parent_mtu) = (parent.index, parent.mtu);
    if attributes.u32(IFLA_MTU)?.is_some_and(|mtu| mtu > parent_mtu) {
        return Err(Errno::ERANGE.into());
    }
    let name = name_of(attributes, "vlan%d", tables)?;
    let new = new_link(fixed, attributes, &name)?;
    tables.add_link(new.index, &name, LinkKind::Vlan { parent, vid }, new.mac.unwrap_or(Mac([0; 6])))
}

/// veth_newlink(): the other end is described like this one, in a request within the request.
fn create_veth(
    data: Option<Attributes<'_>>,
    fixed: &[u8],
    attributes: &Attributes<'_>,
    tables: &mut Tables,
) -> Result<(), Refused> {
    let nested = data.and_then(|data| data.get(VETH_INFO_PEER)).unwrap_or(&[0; INFO]);
    let other_fixed = nested.get(..INFO).ok_or(Errno::EINVAL)?;
    let other_attributes = Attributes::behind(nested, INFO);
    let other_name = name_of(&other_attributes, "veth%d", tables)?;
    let name = match attributes.text(IFLA_IFNAME)? {
        Some(_) => name_of(attributes, "veth%d", tables)?,
        None => tables.free_name_beside("veth%d", &other_name).ok_or(Errno::ENFILE)?,
    };
    let end = new_link(fixed, attributes, &name)?;
    let other = new_link(other_fixed, &other_attributes, &other_name)?;
    let index = tables.add_veth(&end, &other)?;
    let LinkKind::Veth { peer } = tables.link(index)?.kind else { return Err(Errno::ENODEV.into()) };
    finish(peer, other_fixed, &other_attributes, tables)?;
    finish(index, fixed, attributes, tables)
}

fn name_of(attributes: &Attributes<'_>, pattern: &str, tables: &Tables) -> Result<String, Refused> {
    let name = attributes.text(IFLA_IFNAME)?.unwrap_or(pattern);
    Ok(tables.free_name(name).unwrap_or_else(|| name.to_owned()))
}

fn new_link<'a>(fixed: &[u8], attributes: &Attributes<'_>, name: &'a str) -> Result<NewLink<'a>, Refused> {
    if attributes.has(IFLA_NET_NS_PID) || attributes.has(IFLA_NET_NS_FD) {
        return Err(Refused::new(Errno::EOPNOTSUPP, "interfaces do not leave their stack"));
    }
    Ok(NewLink { index: u32_at(fixed, 4).unwrap_or_default(), name, mac: own_mac(attributes)? })
}

/// IFLA_ADDRESS; another length is another kind of link's address.
pub(super) fn own_mac(attributes: &Attributes<'_>) -> Result<Option<Mac>, Refused> {
    attributes.mac(IFLA_ADDRESS).map(|mac| mac.map(Mac)).map_err(|_| Errno::EINVAL.into())
}

/// rtnl_configure_link(): what else was asked of a new interface; if it cannot be, the interface goes again.
fn finish(
    index: IfIndex,
    fixed: &[u8],
    attributes: &Attributes<'_>,
    tables: &mut Tables,
) -> Result<(), Refused> {
    let rest = || {
        if let Some(mtu) = attributes.u32(IFLA_MTU)? {
            tables.set_mtu(index, mtu)?;
        }
        if let Some(length) = attributes.u32(IFLA_TXQLEN)? {
            tables.set_queue_length(index, length)?;
        }
        change_flags_of(fixed, index, tables)
    };
    let result = { rest }();
    if result.is_err() {
        // It was made a moment ago, so it can go.
        let _ = tables.remove_link(index);
    }
    result
}

/// IFLA_INFO_KIND; an Ethernet link has none, as a card.
pub(super) fn info_kind(link: &Link) -> Option<&'static str> {
    match link.kind {
        LinkKind::Loopback | LinkKind::Ethernet => None,
        LinkKind::Vlan { .. } => Some("vlan"),
        LinkKind::Veth { .. } => Some("veth"),
        LinkKind::Dummy => Some("dummy"),
    }
}

/// IFLA_LINK: what is under a subinterface, or at the other end.
pub(in crate::smol::netlink) fn other(link: &Link) -> Option<IfIndex> {
    match link.kind {
        LinkKind::Vlan { parent, .. } => Some(parent),
        LinkKind::Veth { peer } => Some(peer),
        LinkKind::Loopback | LinkKind::Ethernet | LinkKind::Dummy => None,
    }
}

/// IFLA_LINKINFO and IFLA_LINK.
pub(super) fn describe(link: &Link, message: &mut Message) {
    if let Some(kind) = info_kind(link) {
        message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, kind);
            if let LinkKind::Vlan { vid, .. } = link.kind {
                info.nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_VLAN_ID, &vid.to_ne_bytes());
                    // VLAN_FLAG_REORDER_HDR, as `struct ifla_vlan_flags` with its mask.
                    data.attribute(IFLA_VLAN_FLAGS, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
                    data.attribute(IFLA_VLAN_PROTOCOL, &ETH_P_8021Q.to_be_bytes());
                });
            }
        });
    }
    if let Some(other) = other(link) {
        message.u32(IFLA_LINK, other.0);
    }
}
