//! The older way to look at interfaces and change them: SIOC* (netdevice(7), arp(7), ioctl(2)).
//!
//! # Theory of operation
//! An argument comes as bytes in the layout of a 64-bit Linux and goes back in the same form. Where it holds
//! a pointer, what that points to is behind it: the device name of `struct rtentry`, the `ifr_data` of
//! SIOCETHTOOL (from its command word on). Everybody may look, changing needs rights; which of them a socket
//! knows depends on its family, as IPv4's addresses are only spoken of by IPv4 and packet sockets.
//!
//! Read: net/core/dev_ioctl.c, net/ipv4/{af_inet,devinet,fib_frontend,arp}.c, net/ipv6/af_inet6.c.

mod address;
mod route;

use std::time::Instant;

use nix::errno::Errno;

use super::World;
use super::wire::{u16_at, u32_at};
use crate::config::Mac;
use crate::smol::tables::{Link, LinkKind, Tables};

/// Length of `struct ifreq`, and of the name at its start.
const IFREQ: usize = 40;
const NAME: usize = 16;
/// linux/sockios.h
const SIOCADDRT: u32 = 0x890b;
const SIOCDELRT: u32 = 0x890c;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCSIFDSTADDR: u32 = 0x8918;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCSIFMETRIC: u32 = 0x891e;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCSIFHWADDR: u32 = 0x8924;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCSIFPFLAGS: u32 = 0x8934;
const SIOCGIFPFLAGS: u32 = 0x8935;
const SIOCDIFADDR: u32 = 0x8936;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCDARP: u32 = 0x8953;
const SIOCGARP: u32 = 0x8954;
const SIOCSARP: u32 = 0x8955;
const SIOCGIFMAP: u32 = 0x8970;
/// SIOCDEVPRIVATE and the 15 behind it.
const PRIVATE: u32 = 0x89f0;
const LAST_PRIVATE: u32 = 0x89ff;
/// linux/ethtool.h
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
/// Length of `struct ethtool_drvinfo`.
const DRIVER_INFO: usize = 196;

/// What can be seen of interfaces through a socket of `family` (AF_*), or changed. The answer is the argument
/// afterwards, empty if nothing is written back; for SIOCGIFCONF it is the length and the records, of which
/// as many are given as the length in the argument has room for (0: only the length they need).
///
/// # Errors
/// ENOTTY for what is none of ours; else those of Linux.
pub fn answer(
    request: u32,
    argument: &[u8],
    family: i32,
    world: &mut dyn World,
    now: Instant,
    rights: bool,
) -> Result<Vec<u8>, Errno> {
    let speaks_v4 = matches!(family, libc::AF_INET | libc::AF_PACKET);
    match request {
        SIOCGIFCONF => address::list(argument, world.tables()),
        SIOCSIFADDR | SIOCDIFADDR | SIOCSIFDSTADDR if family == libc::AF_INET6 => {
            require(rights)?;
            address::change_v6(request, argument, world.tables_mut())
        }
        SIOCGIFADDR | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCGIFNETMASK if speaks_v4 => {
            address::get(request, argument, world.tables())
        }
        SIOCSIFADDR | SIOCSIFDSTADDR | SIOCSIFBRDADDR | SIOCSIFNETMASK if speaks_v4 => {
            require(rights)?;
            address::set(request, argument, world.tables_mut())
        }
        SIOCADDRT | SIOCDELRT if speaks_v4 => {
            require(rights)?;
            route::change_v4(request == SIOCADDRT, argument, world.tables_mut())
        }
        SIOCADDRT | SIOCDELRT if family == libc::AF_INET6 => {
            require(rights)?;
            route::change_v6(request == SIOCADDRT, argument, world.tables_mut())
        }
        SIOCGARP if speaks_v4 => route::neighbour(argument, world.tables()),
        SIOCSARP | SIOCDARP if speaks_v4 => {
            require(rights)?;
            route::change_neighbour(request == SIOCSARP, argument, world, now)
        }
        SIOCGIFNAME => name_of(argument, world.tables()),
        SIOCGIFFLAGS | SIOCGIFMETRIC | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN
        | SIOCGIFMAP => get(request, argument, world.tables()),
        SIOCSIFFLAGS | SIOCSIFMETRIC | SIOCSIFMTU | SIOCSIFNAME | SIOCSIFHWADDR | SIOCSIFTXQLEN => {
            require(rights)?;
            set(request, argument, speaks_v4, world.tables_mut())
        }
        SIOCETHTOOL => ethtool(argument, world.tables()),
        // No driver has requests of its own.
        PRIVATE..=LAST_PRIVATE => named(&ifreq(argument)?, world.tables()).and(Err(Errno::EOPNOTSUPP)),
        // devinet_ioctl() is handed these and does not know them.
        SIOCSIFPFLAGS | SIOCGIFPFLAGS if family == libc::AF_INET => Err(Errno::EINVAL),
        _ => Err(Errno::ENOTTY),
    }
}

fn require(rights: bool) -> Result<(), Errno> {
    if rights { Ok(()) } else { Err(Errno::EPERM) }
}

/// `struct ifreq`, whole and with the name ended.
fn ifreq(argument: &[u8]) -> Result<[u8; IFREQ], Errno> {
    argument.get(..IFREQ).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EFAULT)
}

/// The text of a field that ends with a NUL or with the field.
fn text(field: &[u8]) -> Result<&str, Errno> {
    let field = field.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(field).map_err(|_| Errno::ENODEV)
}

/// The interface that a request names; what follows a colon is a label of one of its addresses.
fn named<'t>(request: &[u8; IFREQ], tables: &'t Tables) -> Result<&'t Link, Errno> {
    let name = text(&request[..NAME - 1])?;
    let name = name.split(':').next().unwrap_or_default();
    tables.link_by_name(name).ok_or(Errno::ENODEV)
}

/// Sets the union behind the name.
fn with(mut request: [u8; IFREQ], value: &[u8]) -> Vec<u8> {
    request[NAME..NAME + value.len()].copy_from_slice(value);
    request.to_vec()
}

fn name_of(argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let mut request = ifreq(argument)?;
    let index = u32_at(&request, NAME).unwrap_or_default();
    let link = tables.link(crate::smol::tables::IfIndex(index))?;
    request[..NAME].fill(0);
    request[..link.name.len()].copy_from_slice(link.name.as_bytes());
    Ok(request.to_vec())
}

fn get(code: u32, argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let request = ifreq(argument)?;
    let link = named(&request, tables)?;
    Ok(match code {
        SIOCGIFFLAGS => with(request, &(link.flags() as u16).to_ne_bytes()),
        SIOCGIFMETRIC => with(request, &0u32.to_ne_bytes()),
        SIOCGIFMTU => with(request, &link.mtu.to_ne_bytes()),
        SIOCGIFINDEX => with(request, &link.index.0.to_ne_bytes()),
        SIOCGIFTXQLEN => with(request, &link.queue_length.to_ne_bytes()),
        SIOCGIFHWADDR => {
            let mut address = [0; 16];
            address[..2].copy_from_slice(&arp_type(link).to_ne_bytes());
            address[2..8].copy_from_slice(&link.mac.0);
            with(request, &address)
        }
        _ => with(request, &[0; IFREQ - NAME]),
    })
}

fn arp_type(link: &Link) -> u16 {
    if link.kind == LinkKind::Loopback { libc::ARPHRD_LOOPBACK } else { libc::ARPHRD_ETHER }
}

fn set(code: u32, argument: &[u8], speaks_v4: bool, tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let request = ifreq(argument)?;
    let link = named(&request, tables)?;
    let (index, kind) = (link.index, arp_type(link));
    let number = u32_at(&request, NAME).unwrap_or_default();
    let result = match code {
        SIOCSIFFLAGS => {
            let flags = u32::from(u16_at(&request, NAME).unwrap_or_default());
            if speaks_v4 && text(&request[..NAME - 1])?.contains(':') {
                return address::remove_label(&request, flags, tables);
            }
            super::route::change_flags(flags, u16::MAX.into(), index, tables)
        }
        SIOCSIFMTU => tables.set_mtu(index, number),
        SIOCSIFTXQLEN if i32::try_from(number).is_err() => return Err(Errno::EINVAL),
        SIOCSIFTXQLEN => tables.set_queue_length(index, number),
        SIOCSIFNAME => {
            let name = text(&request[NAME..2 * NAME - 1])?;
            let name = tables.free_name(name).unwrap_or_else(|| name.to_owned());
            tables.rename(index, &name)
        }
        SIOCSIFHWADDR => {
            if u16_at(&request, NAME) != Some(kind) {
                return Err(Errno::EINVAL);
            }
            let mac = request[NAME + 2..NAME + 8].try_into().expect("six bytes");
            tables.set_mac(index, Mac(mac))
        }
        _ => return Err(Errno::EOPNOTSUPP),
    };
    result.map(|()| Vec::new()).map_err(|refused| refused.errno)
}

/// What can be said of a card that is none: its driver's name, and whether there is a link.
fn ethtool(argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let request = ifreq(argument)?;
    let link = named(&request, tables)?;
    let mut answer = argument.to_vec();
    let data = &mut answer[IFREQ..];
    match u32_at(data, 0).ok_or(Errno::EFAULT)? {
        ETHTOOL_GLINK => {
            let value = u32::from(link.is_running());
            data.get_mut(4..8).ok_or(Errno::EFAULT)?.copy_from_slice(&value.to_ne_bytes());
        }
        ETHTOOL_GDRVINFO => {
            let info = data.get_mut(4..DRIVER_INFO).ok_or(Errno::EFAULT)?;
            info.fill(0);
            let driver: &[u8] = match link.kind {
                LinkKind::Vlan { .. } => b"802.1Q VLAN Support",
                LinkKind::Veth { .. } => b"veth",
                LinkKind::Dummy => b"dummy",
                LinkKind::Ethernet | LinkKind::Loopback => b"viewnet",
            };
            info[..driver.len()].copy_from_slice(driver);
            let version = env!("CARGO_PKG_VERSION").as_bytes();
            info[32..32 + version.len()].copy_from_slice(version);
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
