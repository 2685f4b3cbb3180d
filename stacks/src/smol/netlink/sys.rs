//! The folders of /sys/class/net, for programs that read those (sysfs(5); Documentation/ABI/testing/sysfs-class-net of
//! Linux; net/core/net-sysfs.c).
//!
//! Paths are those below /sys/class/net, where each interface is a link to a folder of devices.

use nix::errno::Errno;

use super::route::{oper_state, other};
use crate::smol::tables::{Link, LinkKind, Tables};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file.
    Text(String),
    /// A file that cannot be read, as nobody knows the number (EINVAL).
    Unknown,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link(String),
}

/// The folder of all devices, from that of the class.
const DEVICES: &str = "../../devices/virtual/net";
/// The class, from the folder of a device.
const CLASS: &str = "../../../../class/net";
/// A device's folders.
const FOLDERS: [&str; 4] = ["queues", "queues/rx-0", "queues/tx-0", "statistics"];
/// RFC 2863's names of what `IFLA_OPERSTATE` says.
const STATES: [&str; 7] = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
/// What an interface itself knows of the flags (netdevice(7)); the others are told of it.
const FLAGS: u32 = !(libc::IFF_RUNNING as u32 | libc::IFF_LOWER_UP as u32 | libc::IFF_DORMANT as u32);

/// The links of the class.
pub(crate) fn class(tables: &Tables) -> impl Iterator<Item = (String, Node)> {
    tables.links.values().map(|link| (link.name.clone(), Node::Link(format!("{DEVICES}/{}", link.name))))
}

/// Whether the class has such an interface.
pub(crate) fn device<'a>(tables: &'a Tables, name: &str) -> Result<&'a Link, Errno> {
    tables.links.values().find(|link| link.name == name).ok_or(Errno::ENOENT)
}

/// All that a device's folder has, by paths below it.
pub(crate) fn entries(link: &Link, tables: &Tables) -> Vec<(String, Node)> {
    let mut entries: Vec<(String, Node)> =
        FOLDERS.iter().map(|name| ((*name).to_owned(), Node::Folder)).collect();
    entries.push(("subsystem".into(), Node::Link(CLASS.into())));
    if let Some(lower) = under(link, tables) {
        entries.push((format!("lower_{lower}"), Node::Link(format!("../{lower}"))));
    }
    for upper in tables.links.values().filter(|upper| under(upper, tables) == Some(&link.name)) {
        entries.push((format!("upper_{}", upper.name), Node::Link(format!("../{}", upper.name))));
    }
    entries.extend(attributes(link, tables).map(|(name, node)| (name.to_owned(), node)));
    entries.extend(statistics(link).map(|(name, count)| (format!("statistics/{name}"), line(count))));
    entries
}

/// The interface that a subinterface belongs to.
fn under<'a>(link: &Link, tables: &'a Tables) -> Option<&'a String> {
    let LinkKind::Vlan { parent, .. } = link.kind else { return None };
    tables.links.get(&parent).map(|parent| &parent.name)
}

fn line(value: impl std::fmt::Display) -> Node {
    Node::Text(format!("{value}\n"))
}

fn attributes(link: &Link, tables: &Tables) -> impl Iterator<Item = (&'static str, Node)> {
    let loopback = link.kind == LinkKind::Loopback;
    // Of an interface that is down nobody can tell (netif_running).
    let running = |value: u8| if link.up { line(value) } else { Node::Unknown };
    let broadcast = if loopback { "00:00:00:00:00:00" } else { "ff:ff:ff:ff:ff:ff" };
    let kind = if matches!(link.kind, LinkKind::Vlan { .. }) { "DEVTYPE=vlan\n" } else { "" };
    let state = STATES.get(usize::from(oper_state(link, tables))).copied().unwrap_or("unknown");
    [
        // NET_ADDR_PERM, NET_ADDR_SET; NET_NAME_PREDICTABLE, NET_NAME_USER
        ("addr_assign_type", line(if loopback { 0 } else { 3 })),
        ("name_assign_type", line(if loopback { 2 } else { 3 })),
        ("addr_len", line(6)),
        ("address", line(link.mac)),
        ("broadcast", line(broadcast)),
        ("carrier", running(u8::from(link.carrier))),
        ("carrier_changes", line(0)),
        ("carrier_down_count", line(0)),
        ("carrier_up_count", line(0)),
        ("dev_id", line("0x0")),
        ("dev_port", line(0)),
        ("dormant", running(0)),
        // As SIOCETHTOOL has no settings to tell.
        ("duplex", Node::Unknown),
        ("flags", line(format!("{:#x}", link.flags() & FLAGS))),
        ("gro_flush_timeout", line(0)),
        ("ifalias", Node::Text(String::new())),
        ("ifindex", line(link.index.0)),
        ("iflink", line(other(link).unwrap_or(link.index).0)),
        ("link_mode", line(0)),
        ("mtu", line(link.mtu)),
        ("napi_defer_hard_irqs", line(0)),
        ("netdev_group", line(0)),
        ("operstate", line(state)),
        ("proto_down", line(0)),
        ("speed", Node::Unknown),
        ("testing", running(0)),
        ("threaded", line(0)),
        ("tx_queue_len", line(link.queue_length)),
        ("type", line(if loopback { libc::ARPHRD_LOOPBACK } else { libc::ARPHRD_ETHER })),
        ("uevent", Node::Text(format!("{kind}INTERFACE={}\nIFINDEX={}\n", link.name, link.index.0))),
    ]
    .into_iter()
}

fn statistics(link: &Link) -> impl Iterator<Item = (&'static str, u64)> {
    let c = &link.counters;
    [
        ("collisions", 0),
        ("multicast", c.multicast),
        ("rx_bytes", c.rx_bytes),
        ("rx_compressed", 0),
        ("rx_crc_errors", 0),
        ("rx_dropped", c.rx_dropped),
        ("rx_errors", c.rx_errors),
        ("rx_fifo_errors", 0),
        ("rx_frame_errors", 0),
        ("rx_length_errors", 0),
        ("rx_missed_errors", 0),
        ("rx_nohandler", 0),
        ("rx_over_errors", 0),
        ("rx_packets", c.rx_packets),
        ("tx_aborted_errors", 0),
        ("tx_bytes", c.tx_bytes),
        ("tx_carrier_errors", 0),
        ("tx_compressed", 0),
        ("tx_dropped", c.tx_dropped),
        ("tx_errors", 0),
        ("tx_fifo_errors", 0),
        ("tx_heartbeat_errors", 0),
        ("tx_packets", c.tx_packets),
        ("tx_window_errors", 0),
    ]
    .into_iter()
}
