//! IPPROTO_IP (ip(7); net/ipv4/ip_sockglue.c, do_ip_setsockopt and do_ip_getsockopt).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use nix::errno::Errno;

use super::super::Socket;
use super::{Row, answer, int_or_byte, row};
use crate::smol::call::Caller;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

/// Options that libc does not name (linux/in.h).
const IP_PKTOPTIONS: i32 = 9;
const IP_PASSSEC: i32 = 18;
const IP_MINTTL: i32 = 21;
const IP_NODEFRAG: i32 = 22;
const IP_CHECKSUM: i32 = 23;
const IP_RECVFRAGSIZE: i32 = 25;
const IP_RECVERR_RFC4884: i32 = 26;
const IP_MULTICAST_ALL: i32 = 49;
const IP_UNICAST_IF: i32 = 50;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const IP_PROTOCOL: i32 = 52;
/// linux/netfilter_ipv4.h
const SO_ORIGINAL_DST: i32 = 80;

/// Longest IP options, in bytes.
const MAX_OPTIONS: usize = 40;
/// The highest IP_PMTUDISC_*.
const LAST_DISCOVER: i32 = 5;

/// Which ancillary data a program wants.
pub(crate) mod wants {
    pub(crate) const PKTINFO: u16 = 1;
    pub(crate) const TTL: u16 = 2;
    pub(crate) const TOS: u16 = 4;
    pub(crate) const OPTS: u16 = 8;
    pub(crate) const RETOPTS: u16 = 16;
    pub(crate) const PASSSEC: u16 = 32;
    pub(crate) const ORIGDSTADDR: u16 = 64;
    pub(crate) const CHECKSUM: u16 = 128;
    pub(crate) const FRAGSIZE: u16 = 256;
}

pub(super) const TABLE: &[Row] = &[
    want!(libc::IP_PKTINFO, ip, wants::PKTINFO),
    want!(libc::IP_RECVTTL, ip, wants::TTL),
    want!(libc::IP_RECVTOS, ip, wants::TOS),
    want!(libc::IP_RECVOPTS, ip, wants::OPTS),
    want!(libc::IP_RETOPTS, ip, wants::RETOPTS),
    want!(IP_PASSSEC, ip, wants::PASSSEC),
    want!(libc::IP_RECVORIGDSTADDR, ip, wants::ORIGDSTADDR),
    want!(IP_CHECKSUM, ip, wants::CHECKSUM),
    flag!(libc::IP_FREEBIND, ip.free_bind),
    flag!(libc::IP_BIND_ADDRESS_NO_PORT, ip.late_port),
    flag!(libc::IP_TRANSPARENT, ip.transparent),
    flag!(libc::IP_MULTICAST_LOOP, ip.group_loop),
    Row {
        name: IP_RECVFRAGSIZE,
        get: |s| i32::from(s.options.ip.wants & wants::FRAGSIZE != 0),
        set: set_fragment_size,
    },
    Row {
        name: IP_RECVERR_RFC4884,
        get: |s| s.options.ip.receive_error_4884.into(),
        set: set_receive_error_4884,
    },
    Row { name: IP_MULTICAST_ALL, get: |s| s.options.ip.group_all.into(), set: set_group_all },
    Row { name: libc::IP_TOS, get: |s| s.options.ip.tos.into(), set: set_tos },
    Row { name: libc::IP_TTL, get: |s| default_ttl(s.options.ip.ttl), set: set_ttl },
    Row {
        name: libc::IP_HDRINCL,
        get: |s| i32::from(s.is_raw() && s.options.ip.header_included),
        set: set_hdrincl,
    },
    Row { name: libc::IP_ROUTER_ALERT, get: |s| s.options.ip.router_alert.into(), set: set_router_alert },
    Row { name: libc::IP_MTU_DISCOVER, get: |s| s.options.ip.discover.into(), set: set_discover },
    Row { name: libc::IP_RECVERR, get: |s| s.options.ip.receive_error.into(), set: set_receive_error },
    Row { name: IP_MINTTL, get: |s| s.options.ip.min_ttl.into(), set: set_min_ttl },
    Row { name: IP_NODEFRAG, get: |s| s.options.ip.no_defragment.into(), set: set_no_defragment },
    Row { name: libc::IP_MULTICAST_TTL, get: |s| s.options.ip.group_ttl.into(), set: set_group_ttl },
];

fn default_ttl(ttl: i16) -> i32 {
    if ttl < 0 { 64 } else { ttl.into() }
}

fn set_group_all(s: &mut Socket, n: i32) -> Result<(), Errno> {
    match n {
        0 | 1 => s.options_mut().ip.group_all = n == 1,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn set_receive_error_4884(s: &mut Socket, n: i32) -> Result<(), Errno> {
    match n {
        0 | 1 => s.options_mut().ip.receive_error_4884 = n == 1,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn set_fragment_size(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.stream().is_some() {
        return Err(Errno::EINVAL);
    }
    let wants = &mut s.options_mut().ip.wants;
    *wants = if n != 0 { *wants | wants::FRAGSIZE } else { *wants & !wants::FRAGSIZE };
    Ok(())
}

/// A stream's two ECN bits are its own.
fn set_tos(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let tos = n as u8;
    s.options_mut().ip.tos = if s.stream().is_some() { tos & !3 } else { tos };
    Ok(())
}

fn set_ttl(s: &mut Socket, n: i32) -> Result<(), Errno> {
    match n {
        -1 | 1..=255 => s.options_mut().ip.ttl = n as i16,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn set_hdrincl(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !s.is_raw() {
        return Err(Errno::ENOPROTOOPT);
    }
    s.options_mut().ip.header_included = n != 0;
    Ok(())
}

fn set_router_alert(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !s.is_raw() {
        return Err(Errno::EINVAL);
    }
    // ip_ra_control: there has to be one to be taken away.
    if n == 0 && !s.options.ip.router_alert {
        return Err(Errno::ENOBUFS);
    }
    s.options_mut().ip.router_alert = n != 0;
    Ok(())
}

fn set_discover(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !(0..=LAST_DISCOVER).contains(&n) {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip.discover = n as u8;
    Ok(())
}

fn set_receive_error(s: &mut Socket, n: i32) -> Result<(), Errno> {
    s.options_mut().ip.receive_error = n != 0;
    if let (0, Some(datagrams)) = (n, s.datagrams_mut()) {
        datagrams.errors.clear();
    }
    Ok(())
}

fn set_min_ttl(s: &mut Socket, n: i32) -> Result<(), Errno> {
    s.options_mut().ip.min_ttl = u8::try_from(n).map_err(|_| Errno::EINVAL)?;
    Ok(())
}

fn set_no_defragment(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !s.is_raw() {
        return Err(Errno::ENOPROTOOPT);
    }
    s.options_mut().ip.no_defragment = n != 0;
    Ok(())
}

fn set_group_ttl(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.stream().is_some() {
        return Err(Errno::EINVAL);
    }
    let n = if n == -1 { 1 } else { n };
    s.options_mut().ip.group_ttl = u8::try_from(n).map_err(|_| Errno::EINVAL)?;
    Ok(())
}

/// Options that have to have a value.
const NEVER_EMPTY: [i32; 7] = [
    libc::IP_TTL,
    libc::IP_MULTICAST_TTL,
    libc::IP_MULTICAST_LOOP,
    libc::IP_FREEBIND,
    libc::IP_TRANSPARENT,
    IP_MULTICAST_ALL,
    IP_MINTTL,
];

impl Engine {
    pub(crate) fn get_ip_option(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let room = value.len();
        if matches!(name, libc::IP_MSFILTER | libc::MCAST_MSFILTER) {
            return self.get_source_filter(id, name, value);
        }
        if name == libc::IP_MTU {
            self.refresh_path(now, id);
        }
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let ip = &socket.options.ip;
        let n = match name {
            libc::IP_OPTIONS => return Ok(ip.options.as_deref().unwrap_or(&[]).to_vec()),
            IP_PKTOPTIONS if socket.stream().is_some() => return Ok(Vec::new()),
            // Nobody translates addresses here.
            SO_ORIGINAL_DST if socket.stream().is_some() => {
                return Err(if room < 16 { Errno::EINVAL } else { Errno::ENOENT });
            }
            libc::IP_MTU => socket.path.ok_or(Errno::ENOTCONN)?.mtu as i32,
            libc::IP_MULTICAST_IF => return Ok(ip.group_address.octets().to_vec()),
            IP_UNICAST_IF => ip.unicast_link.to_be() as i32,
            IP_LOCAL_PORT_RANGE => ip.local_range as i32,
            IP_PROTOCOL => {
                if socket.is_raw() {
                    socket.protocol.into()
                } else {
                    0
                }
            }
            _ => (row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.get)(socket),
        };
        // A small number fits a single byte, if there is room for no more.
        match u8::try_from(n) {
            Ok(byte) if (1..4).contains(&room) => Ok(vec![byte]),
            _ => Ok(answer(n)),
        }
    }

    pub(crate) fn set_ip_option(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        if self.is_membership_v4(name) {
            return self.set_membership_v4(now, id, name, value);
        }
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        match name {
            libc::IP_OPTIONS => return set_options(socket, value),
            libc::IP_MULTICAST_IF => return self.set_group_interface(id, value),
            IP_UNICAST_IF => {
                let index = value.first_chunk().filter(|_| value.len() == 4).ok_or(Errno::EINVAL)?;
                return self.set_unicast_interface(id, u32::from_be_bytes(*index), true);
            }
            IP_LOCAL_PORT_RANGE => {
                let range = value.first_chunk().filter(|_| value.len() == 4).ok_or(Errno::EINVAL)?;
                let range = u32::from_ne_bytes(*range);
                let (low, high) = (range as u16, (range >> 16) as u16);
                if low != 0 && high != 0 && low > high {
                    return Err(Errno::EINVAL);
                }
                socket.options_mut().ip.local_range = range;
                return Ok(());
            }
            libc::IP_TRANSPARENT if !caller.rights && int_or_byte(value)? != 0 => return Err(Errno::EPERM),
            _ if value.is_empty() && NEVER_EMPTY.contains(&name) => return Err(Errno::EINVAL),
            _ => {}
        }
        (row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.set)(socket, int_or_byte(value)?)
    }

    /// IP_MULTICAST_IF: an address of ours, or `struct ip_mreq` or `ip_mreqn`.
    fn set_group_interface(&mut self, id: SocketId, value: &[u8]) -> Result<(), Errno> {
        let address = |at: usize| value.get(at..at + 4).map(|b| Ipv4Addr::new(b[0], b[1], b[2], b[3]));
        let (own, index) = match value.len() {
            12.. => (address(4), i32::from_ne_bytes(value[8..12].try_into().expect("four bytes"))),
            8.. => (address(4), 0),
            4.. => (address(0), 0),
            _ => return Err(Errno::EINVAL),
        };
        let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        if self.sockets.get(id).is_some_and(|socket| socket.stream().is_some()) {
            return Err(Errno::EINVAL);
        }
        let link = match u32::try_from(index) {
            Ok(0) if own.is_unspecified() => None,
            Ok(0) => {
                let tables = &self.net.tables;
                let found = tables.addresses.iter().find(|a| a.net.addr() == IpAddr::V4(own));
                Some(found.ok_or(Errno::EADDRNOTAVAIL)?.link)
            }
            Ok(index) if self.net.tables.links.contains_key(&IfIndex(index)) => Some(IfIndex(index)),
            _ => return Err(Errno::EADDRNOTAVAIL),
        };
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if let (Some(link), Some(device)) = (link, socket.options.device)
            && link != device
        {
            return Err(Errno::EINVAL);
        }
        let ip = &mut socket.options_mut().ip;
        (ip.group_link, ip.group_address) = (link, own);
        Ok(())
    }

    /// IP_UNICAST_IF, IPV6_UNICAST_IF
    pub(super) fn set_unicast_interface(&mut self, id: SocketId, index: u32, v4: bool) -> Result<(), Errno> {
        if index != 0 && !self.net.tables.links.contains_key(&IfIndex(index)) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if index != 0 && socket.options.device.is_some_and(|device| device.0 != index) {
            return Err(Errno::EINVAL);
        }
        let options = socket.options_mut();
        if v4 {
            options.ip.unicast_link = index;
        } else {
            options.ip6.unicast_link = index;
        }
        Ok(())
    }
}

/// IP_OPTIONS: each either a single byte or with a length that fits (ip_options_compile).
fn set_options(socket: &mut Socket, value: &[u8]) -> Result<(), Errno> {
    if value.len() > MAX_OPTIONS {
        return Err(Errno::EINVAL);
    }
    let mut at = 0;
    while let Some(kind) = value.get(at) {
        at += match kind {
            0 => break,
            1 => 1,
            _ => match value.get(at + 1) {
                Some(&length) if length >= 2 && at + usize::from(length) <= value.len() => length.into(),
                _ => return Err(Errno::EINVAL),
            },
        };
    }
    let mut options = value.to_vec();
    options.resize(value.len().next_multiple_of(4), 0);
    socket.options_mut().ip.options = (!options.is_empty()).then(|| options.into());
    Ok(())
}
