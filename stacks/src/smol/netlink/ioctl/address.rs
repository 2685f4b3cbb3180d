//! Addresses by ioctl: one per label, and a mask that comes afterwards (net/ipv4/devinet.c, devinet_ioctl).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use super::{
    IFREQ, NAME, SIOCDIFADDR, SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFDSTADDR, SIOCSIFADDR, SIOCSIFBRDADDR,
    SIOCSIFDSTADDR, ifreq, named, text, with,
};
use crate::smol::netlink::wire::{u16_at, u32_at};
use crate::smol::tables::{Address, IfIndex, LinkKind, Mode, SCOPE_HOST, Tables};

/// Length of `struct in6_ifreq`.
const IN6_IFREQ: usize = 24;

/// SIOCGIFCONF: every IPv4 address under its label.
pub(super) fn list(argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let room = u32_at(argument, 0).ok_or(Errno::EFAULT)?;
    let room = usize::try_from(room.cast_signed()).map_err(|_| Errno::EINVAL)?;
    let mut records = Vec::new();
    let mut needed = 0;
    for link in tables.links.keys() {
        for address in tables.addresses_of(*link) {
            let IpAddr::V4(ip) = address.net.addr() else { continue };
            needed += IFREQ;
            if needed > room {
                continue;
            }
            let mut record = [0; IFREQ];
            record[..address.label.len()].copy_from_slice(address.label.as_bytes());
            records.extend(with(record, &sockaddr(ip)));
        }
    }
    let length = if room == 0 { needed } else { records.len() };
    let mut answer = (length as u32).to_ne_bytes().to_vec();
    answer.extend(records);
    Ok(answer)
}

/// SIOCGIFADDR and its like.
pub(super) fn get(code: u32, argument: &[u8], tables: &Tables) -> Result<Vec<u8>, Errno> {
    let request = ifreq(argument)?;
    let address = labelled(&request, tables)?.ok_or(Errno::EADDRNOTAVAIL)?;
    let ip = match code {
        SIOCGIFADDR => v4(address.net.addr()),
        SIOCGIFDSTADDR => v4(address.peer.unwrap_or_else(|| address.net.addr())),
        SIOCGIFBRDADDR => address.broadcast.map_or(Ipv4Addr::UNSPECIFIED, v4),
        _ => v4(address.net.netmask()),
    };
    Ok(with(request, &sockaddr(ip)))
}

/// SIOCSIFADDR and its like: the address of the label is taken away and put back changed.
pub(super) fn set(code: u32, argument: &[u8], tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let request = ifreq(argument)?;
    let link = named(&request, tables)?;
    let (index, kind) = (link.index, link.kind);
    if u16_at(&request, NAME) != Some(libc::AF_INET as u16) {
        return Err(Errno::EINVAL);
    }
    let octets: [u8; 4] = request[NAME + 4..NAME + 8].try_into().expect("four bytes");
    let ip = Ipv4Addr::from(octets);
    let old = labelled(&request, tables)?.cloned();
    let mut new = match (&old, code) {
        (_, SIOCSIFADDR) => {
            let length = length_by_class(ip).ok_or(Errno::EINVAL)?;
            let mut new = Address::new(index, Ipv4Net::new_assert(ip, length).into());
            if kind != LinkKind::Loopback && length < 31 {
                new.broadcast = Some(Ipv4Net::new_assert(ip, length).broadcast().into());
            }
            if ip.is_loopback() {
                new.scope = SCOPE_HOST;
            }
            new
        }
        (Some(old), _) => old.clone(),
        (None, _) => return Err(Errno::EADDRNOTAVAIL),
    };
    text(&request[..NAME - 1])?.clone_into(&mut new.label);
    match code {
        SIOCSIFADDR => {}
        SIOCSIFBRDADDR => new.broadcast = Some(ip.into()),
        SIOCSIFDSTADDR => new.peer = Some(IpAddr::from(ip)).filter(|peer| *peer != new.net.addr()),
        _ => set_mask(&mut new, ip)?,
    }
    if let Some(old) = old {
        if (old.net.addr(), code) == (IpAddr::from(ip), SIOCSIFADDR) || old == new {
            return Ok(Vec::new());
        }
        tables.remove_address(index, old.net).map_err(|refused| refused.errno)?;
    }
    tables.add_address(new, Mode::ADD).map(|()| Vec::new()).map_err(|refused| refused.errno)
}

/// SIOCSIFFLAGS of a label: not up is gone.
pub(super) fn remove_label(request: &[u8; IFREQ], flags: u32, tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let address = labelled(request, tables)?.cloned().ok_or(Errno::EADDRNOTAVAIL)?;
    if flags & libc::IFF_UP as u32 == 0 {
        tables.remove_address(address.link, address.net).map_err(|refused| refused.errno)?;
    }
    Ok(Vec::new())
}

/// SIOCSIFADDR and SIOCDIFADDR with `struct in6_ifreq`.
pub(super) fn change_v6(code: u32, argument: &[u8], tables: &mut Tables) -> Result<Vec<u8>, Errno> {
    let request = argument.get(..IN6_IFREQ).ok_or(Errno::EFAULT)?;
    let octets: [u8; 16] = request[..16].try_into().expect("sixteen bytes");
    let length = u32_at(request, 16).and_then(|length| u8::try_from(length).ok()).ok_or(Errno::EINVAL)?;
    let net = IpNet::new(Ipv6Addr::from(octets).into(), length).map_err(|_| Errno::EINVAL)?;
    let link = tables.link(IfIndex(u32_at(request, 20).unwrap_or_default()))?.index;
    let result = match code {
        SIOCSIFADDR => tables.add_address(Address::new(link, net), Mode::ADD),
        SIOCDIFADDR => tables.remove_address(link, net),
        // The far end of a tunnel, of which there are none.
        _ => return Err(Errno::EINVAL),
    };
    result.map(|()| Vec::new()).map_err(|refused| refused.errno)
}

/// The address that a request means: under its label, the one given if there is one, else the first.
fn labelled<'t>(request: &[u8; IFREQ], tables: &'t Tables) -> Result<Option<&'t Address>, Errno> {
    let link = named(request, tables)?.index;
    let label = text(&request[..NAME - 1])?;
    Ok(tables.addresses_of(link).find(|a| a.net.addr().is_ipv4() && a.label == label))
}

fn set_mask(address: &mut Address, mask: Ipv4Addr) -> Result<(), Errno> {
    let IpNet::V4(old) = address.net else { return Err(Errno::EINVAL) };
    let net = Ipv4Net::with_netmask(old.addr(), mask).map_err(|_| Errno::EINVAL)?;
    // One that was not made of the old mask is somebody's choice.
    if old.prefix_len() < 31 && address.broadcast == Some(old.broadcast().into()) {
        address.broadcast = Some(net.broadcast().into());
    }
    address.net = net.into();
    Ok(())
}

/// inet_abc_len(): classes were before prefixes.
fn length_by_class(ip: Ipv4Addr) -> Option<u8> {
    match ip.octets()[0] {
        _ if ip.is_unspecified() || ip.is_broadcast() => Some(0),
        0 => Some(0),
        1..=127 => Some(8),
        128..=191 => Some(16),
        192..=223 => Some(24),
        224..=239 => None,
        240.. => Some(32),
    }
}

fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

/// `struct sockaddr_in` without a port.
pub(super) fn sockaddr(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&ip.octets());
    bytes
}
