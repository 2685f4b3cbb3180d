//! IPPROTO_IPV6 (ipv6(7); net/ipv6/ipv6_sockglue.c).

use std::time::Instant;

use nix::errno::Errno;

use super::super::Socket;
use super::super::address::{self, Endpoint, emit};
use super::super::raw::IPV6_CHECKSUM;
use super::{Row, answer, int, row};
use crate::smol::call::Caller;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

/// Options that libc does not name (linux/in6.h).
const IPV6_ADDRFORM: i32 = 1;
const IPV6_2292PKTINFO: i32 = 2;
const IPV6_2292HOPOPTS: i32 = 3;
const IPV6_2292DSTOPTS: i32 = 4;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292PKTOPTIONS: i32 = 6;
const IPV6_2292HOPLIMIT: i32 = 8;
const IPV6_FLOWINFO: i32 = 11;
const IPV6_ROUTER_ALERT: i32 = 22;
/// IPV6_RECVERR
pub(crate) const IPV6_RECVERR: i32 = 25;
const IPV6_JOIN_ANYCAST: i32 = 27;
const IPV6_LEAVE_ANYCAST: i32 = 28;
const IPV6_MULTICAST_ALL: i32 = 29;
const IPV6_ROUTER_ALERT_ISOLATE: i32 = 30;
const IPV6_RECVERR_RFC4884: i32 = 31;
const IPV6_FLOWLABEL_MGR: i32 = 32;
const IPV6_FLOWINFO_SEND: i32 = 33;
const IPV6_XFRM_POLICY: i32 = 35;
const IPV6_HDRINCL: i32 = 36;
const IPV6_RECVHOPOPTS: i32 = 53;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_RTHDRDSTOPTS: i32 = 55;
const IPV6_RECVRTHDR: i32 = 56;
const IPV6_RTHDR: i32 = 57;
const IPV6_RECVDSTOPTS: i32 = 58;
const IPV6_DSTOPTS: i32 = 59;
const IPV6_RECVPATHMTU: i32 = 60;
const IPV6_PATHMTU: i32 = 61;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_ADDR_PREFERENCES: i32 = 72;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_ORIGDSTADDR: i32 = 74;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_RECVFRAGSIZE: i32 = 77;
const IPV6_FREEBIND: i32 = 78;

/// The highest IPV6_PMTUDISC_*.
const LAST_DISCOVER: i32 = 5;
/// IPV6_MIN_MTU
const LEAST_MTU: i32 = 1280;
/// IPV6_PREFER_SRC_* (RFC 5014): a temporary or a public address, or either; care-of or home.
const TEMPORARY: i32 = 1;
const PUBLIC: i32 = 2;
const EITHER: i32 = 0x100;
const CARE_OF: i32 = 4;
const HOME: i32 = 0x400;
/// Options of netfilter (linux/netfilter_ipv6/ip6_tables.h), which is not here.
const IP6T_SO_ORIGINAL_DST: i32 = 80;

/// Which ancillary data a program wants.
pub(crate) mod wants {
    pub(crate) const PKTINFO: u32 = 1;
    pub(crate) const HOPLIMIT: u32 = 2;
    pub(crate) const TCLASS: u32 = 4;
    pub(crate) const FLOWINFO: u32 = 8;
    pub(crate) const ORIGDSTADDR: u32 = 16;
    pub(crate) const OLD_PKTINFO: u32 = 32;
    pub(crate) const OLD_HOPLIMIT: u32 = 64;
    pub(crate) const HEADERS: u32 = 128;
    pub(crate) const PATHMTU: u32 = 1 << 16;
    pub(crate) const FRAGSIZE: u32 = 1 << 17;
}

/// Extension headers are not told; each wish for one is remembered in a bit of its own.
pub(super) const TABLE: &[Row] = &[
    want!(libc::IPV6_RECVPKTINFO, ip6, wants::PKTINFO),
    want!(libc::IPV6_RECVHOPLIMIT, ip6, wants::HOPLIMIT),
    want!(libc::IPV6_RECVTCLASS, ip6, wants::TCLASS),
    want!(IPV6_FLOWINFO, ip6, wants::FLOWINFO),
    want!(IPV6_ORIGDSTADDR, ip6, wants::ORIGDSTADDR),
    want!(IPV6_2292PKTINFO, ip6, wants::OLD_PKTINFO),
    want!(IPV6_2292HOPLIMIT, ip6, wants::OLD_HOPLIMIT),
    want!(IPV6_RECVHOPOPTS, ip6, wants::HEADERS),
    want!(IPV6_RECVRTHDR, ip6, wants::HEADERS << 1),
    want!(IPV6_RECVDSTOPTS, ip6, wants::HEADERS << 2),
    want!(IPV6_2292HOPOPTS, ip6, wants::HEADERS << 3),
    want!(IPV6_2292RTHDR, ip6, wants::HEADERS << 4),
    want!(IPV6_2292DSTOPTS, ip6, wants::HEADERS << 5),
    want!(IPV6_RECVPATHMTU, ip6, wants::PATHMTU),
    want!(IPV6_RECVFRAGSIZE, ip6, wants::FRAGSIZE),
    flag!(libc::IPV6_DONTFRAG, ip6.dont_fragment),
    flag!(IPV6_FLOWINFO_SEND, ip6.flow_send),
    flag!(IPV6_AUTOFLOWLABEL, ip6.auto_label),
    flag!(IPV6_FREEBIND, ip.free_bind),
    flag!(IPV6_TRANSPARENT, ip.transparent),
    flag!(IPV6_ROUTER_ALERT_ISOLATE, ip6.router_alert_isolate),
    Row { name: libc::IPV6_V6ONLY, get: |s| s.options.ip6.only.into(), set: set_only },
    Row { name: libc::IPV6_UNICAST_HOPS, get: |s| default_hops(s.options.ip6.hops), set: set_hops },
    Row {
        name: libc::IPV6_MULTICAST_HOPS,
        get: |s| default_hops(s.options.ip6.group_hops),
        set: set_group_hops,
    },
    Row {
        name: libc::IPV6_MULTICAST_LOOP,
        get: |s| s.options.ip6.group_loop.into(),
        set: |s, n| bit(n).map(|on| s.options_mut().ip6.group_loop = on),
    },
    flag!(IPV6_MULTICAST_ALL, ip6.group_all),
    Row {
        name: IPV6_RECVERR_RFC4884,
        get: |s| s.options.ip6.receive_error_4884.into(),
        set: |s, n| bit(n).map(|on| s.options_mut().ip6.receive_error_4884 = on),
    },
    Row { name: IPV6_2292PKTOPTIONS, get: |_| 0, set: |_, _| Ok(()) },
    Row {
        name: libc::IPV6_MULTICAST_IF,
        get: |s| s.options.ip6.group_link.map_or(0, |l| l.0 as i32),
        set: super::read_only,
    },
    Row { name: libc::IPV6_MTU_DISCOVER, get: |s| s.options.ip6.discover.into(), set: set_discover },
    Row { name: IPV6_RECVERR, get: |s| s.options.ip6.receive_error.into(), set: set_receive_error },
    Row { name: libc::IPV6_TCLASS, get: |s| s.options.ip6.class.into(), set: set_class },
    Row { name: IPV6_MINHOPCOUNT, get: |s| s.options.ip6.min_hops.into(), set: set_min_hops },
    Row {
        name: IPV6_ROUTER_ALERT,
        get: |s| i32::from(s.options.ip6.router_alert >= 0),
        set: set_router_alert,
    },
    Row { name: IPV6_ADDR_PREFERENCES, get: preferences, set: set_preferences },
    Row { name: libc::IPV6_MTU, get: |_| 0, set: set_mtu },
    Row { name: IPV6_HDRINCL, get: |s| s.options.ip6.header_included.into(), set: set_hdrincl },
];

fn default_hops(hops: i16) -> i32 {
    if hops < 0 { 64 } else { hops.into() }
}

fn bit(n: i32) -> Result<bool, Errno> {
    match n {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Errno::EINVAL),
    }
}

fn byte_or_default(n: i32) -> Result<i16, Errno> {
    if (-1..=255).contains(&n) { Ok(n as i16) } else { Err(Errno::EINVAL) }
}

/// Only before the socket has a port.
fn set_only(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.port != 0 {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip6.only = n != 0;
    Ok(())
}

fn set_hops(s: &mut Socket, n: i32) -> Result<(), Errno> {
    s.options_mut().ip6.hops = byte_or_default(n)?;
    Ok(())
}

fn set_group_hops(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.stream().is_some() {
        return Err(Errno::ENOPROTOOPT);
    }
    let hops = byte_or_default(n)?;
    s.options_mut().ip6.group_hops = if hops < 0 { 1 } else { hops };
    Ok(())
}

fn set_discover(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !(0..=LAST_DISCOVER).contains(&n) {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip6.discover = n as u8;
    Ok(())
}

fn set_receive_error(s: &mut Socket, n: i32) -> Result<(), Errno> {
    s.options_mut().ip6.receive_error = n != 0;
    if let (0, Some(datagrams)) = (n, s.datagrams_mut()) {
        datagrams.errors.clear();
    }
    Ok(())
}

fn set_class(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let class = byte_or_default(n)?.max(0) as u8;
    s.options_mut().ip6.class = if s.stream().is_some() { class & !3 } else { class };
    Ok(())
}

fn set_min_hops(s: &mut Socket, n: i32) -> Result<(), Errno> {
    s.options_mut().ip6.min_hops = u8::try_from(n).map_err(|_| Errno::EINVAL)?;
    Ok(())
}

fn set_router_alert(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !s.is_raw() || i32::from(s.protocol) != libc::IPPROTO_RAW {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip6.router_alert = n;
    Ok(())
}

fn preferences(s: &Socket) -> i32 {
    let n = i32::from(s.options.ip6.preferences);
    let public = match n & (TEMPORARY | PUBLIC) {
        0 => EITHER,
        n if n & TEMPORARY != 0 => TEMPORARY,
        _ => PUBLIC,
    };
    public | if n & CARE_OF != 0 { CARE_OF } else { HOME }
}

fn set_preferences(s: &mut Socket, n: i32) -> Result<(), Errno> {
    // Of each pair only one (RFC 5014 clause 5).
    let both = |pair: i32| n & pair == pair;
    if both(0x3) || both(0x404) || both(0x808) {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip6.preferences = n as u16 & 0x7;
    Ok(())
}

fn set_mtu(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if n != 0 && n < LEAST_MTU {
        return Err(Errno::EINVAL);
    }
    s.options_mut().ip6.fragment_size = n;
    Ok(())
}

fn set_hdrincl(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if !s.is_raw() {
        return Err(Errno::ENOPROTOOPT);
    }
    s.options_mut().ip6.header_included = n != 0;
    Ok(())
}

impl Engine {
    pub(crate) fn get_ipv6_option(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        if name == libc::MCAST_MSFILTER {
            return self.get_source_filter(id, name, value);
        }
        if matches!(name, libc::IPV6_MTU | IPV6_PATHMTU) {
            self.refresh_path(now, id);
        }
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let path = socket.path.ok_or(Errno::ENOTCONN);
        let raw = socket.is_raw();
        let n = match name {
            IPV6_ADDRFORM if raw => return Err(Errno::ENOPROTOOPT),
            IPV6_ADDRFORM => socket.peer.map(|_| socket.domain.family()).ok_or(Errno::ENOTCONN)?,
            IPV6_2292PKTOPTIONS if socket.stream().is_some() => return Ok(Vec::new()),
            IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_RTHDR | IPV6_DSTOPTS => return Ok(Vec::new()),
            IPV6_FLOWLABEL_MGR | 64 | 65 | 68 | 69 => return Err(Errno::EINVAL),
            IPV6_2292PKTOPTIONS => return Err(Errno::ENOPROTOOPT),
            IP6T_SO_ORIGINAL_DST if socket.stream().is_some() => {
                return Err(if value.len() < address::IN6_LEN { Errno::EINVAL } else { Errno::ENOENT });
            }
            libc::IPV6_MTU => path?.mtu as i32,
            IPV6_PATHMTU => {
                // struct ip6_mtuinfo: address and MTU.
                if value.len() < 32 {
                    return Err(Errno::EINVAL);
                }
                let mtu = path?.mtu;
                let peer = socket.peer.unwrap_or_else(|| Endpoint::new(socket.local, 0));
                return Ok([emit(socket.domain, &peer), mtu.to_ne_bytes().to_vec()].concat());
            }
            IPV6_UNICAST_IF => socket.options.ip6.unicast_link.to_be() as i32,
            IPV6_CHECKSUM if raw => socket.datagrams().map_or(-1, |datagrams| {
                if i32::from(socket.protocol) == libc::IPPROTO_ICMPV6 { 2 } else { datagrams.checksum }
            }),
            IPV6_HDRINCL if !raw => return Err(Errno::ENOPROTOOPT),
            _ => (row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.get)(socket),
        };
        Ok(answer(n))
    }

    pub(crate) fn set_ipv6_option(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        if self.is_membership_v6(name) {
            return self.set_membership_v6(now, id, name, value);
        }
        let raw = self.sockets.get(id).is_some_and(Socket::is_raw);
        match name {
            libc::IPV6_MULTICAST_IF => return self.set_group_interface6(id, int(value)?),
            IPV6_UNICAST_IF => {
                let index = value.first_chunk().filter(|_| value.len() == 4).ok_or(Errno::EINVAL)?;
                return self.set_unicast_interface(id, u32::from_be_bytes(*index), false);
            }
            // Sticky extension headers are not here; taking none away is no work.
            IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS | IPV6_RTHDR if value.is_empty() => return Ok(()),
            IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS if !caller.rights => return Err(Errno::EPERM),
            IPV6_HOPOPTS | IPV6_RTHDRDSTOPTS | IPV6_DSTOPTS | IPV6_RTHDR => return Err(Errno::EINVAL),
            libc::IPV6_PKTINFO => {
                let link = value.get(16..20).ok_or(Errno::EINVAL)?;
                let link = u32::from_ne_bytes(link.try_into().expect("four bytes"));
                return self.set_unicast_interface(id, link, false);
            }
            IPV6_ADDRFORM if !raw => return self.refuse_other_form(id, int(value)?),
            IPV6_JOIN_ANYCAST | IPV6_LEAVE_ANYCAST if value.len() < 20 => return Err(Errno::EINVAL),
            IPV6_JOIN_ANYCAST | IPV6_LEAVE_ANYCAST => return Err(Errno::EPERM),
            IPV6_TRANSPARENT if !caller.rights && int(value)? != 0 => return Err(Errno::EPERM),
            IPV6_CHECKSUM if raw => return self.set_raw_option(id, libc::SOL_RAW, name, value),
            IPV6_FLOWLABEL_MGR | IPV6_XFRM_POLICY | 64 | 65 | 68 | 69 => return Err(Errno::EINVAL),
            _ => {}
        }
        let known = row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?;
        let number = int(value)?;
        (known.set)(self.sockets.get_mut(id).ok_or(Errno::EBADF)?, number)
    }

    /// IPV6_ADDRFORM makes a socket of IPv4 out of one connected to such an address; here nobody becomes another.
    fn refuse_other_form(&self, id: SocketId, family: i32) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        Err(match socket.peer {
            _ if family != libc::AF_INET => Errno::EINVAL,
            None => Errno::ENOTCONN,
            Some(peer) if socket.options.ip6.only || peer.address.is_ipv6() => Errno::EADDRNOTAVAIL,
            Some(_) => Errno::ENOPROTOOPT,
        })
    }

    /// IPV6_MULTICAST_IF
    fn set_group_interface6(&mut self, id: SocketId, index: i32) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if socket.stream().is_some() {
            return Err(Errno::ENOPROTOOPT);
        }
        let link = match u32::try_from(index) {
            Ok(0) => None,
            Ok(index) if self.net.tables.links.contains_key(&IfIndex(index)) => Some(IfIndex(index)),
            _ => return Err(Errno::ENODEV),
        };
        if let (Some(link), Some(device)) = (link, socket.options.device)
            && link != device
        {
            return Err(Errno::EINVAL);
        }
        socket.options_mut().ip6.group_link = link;
        Ok(())
    }
}
