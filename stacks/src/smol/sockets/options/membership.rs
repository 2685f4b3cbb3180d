//! Joining and leaving groups, by the options of both IPs (ip(7), ipv6(7), RFC 3678).

use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::super::address::{Domain, Endpoint, emit, family, parse_in, parse_in6};
use super::super::groups::{Membership, SourceChange};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

/// Bytes of a sockaddr_storage.
const STORAGE: usize = 128;
/// Where the address lies in `struct group_req` and `group_source_req`.
const GROUP: usize = 8;
/// MCAST_EXCLUDE, MCAST_INCLUDE
const EXCLUDE: u32 = 0;
const INCLUDE: u32 = 1;

fn word(value: &[u8], at: usize) -> Result<u32, Errno> {
    let bytes = value.get(at..at + 4).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

fn v4(value: &[u8], at: usize) -> Result<IpAddr, Errno> {
    let bytes: [u8; 4] = value.get(at..at + 4).ok_or(Errno::EINVAL)?.try_into().expect("four bytes");
    Ok(bytes.into())
}

/// A sockaddr_storage inside a structure. EADDRNOTAVAIL for a family that is not the option's.
fn storage(value: &[u8], at: usize, domain: Domain) -> Result<IpAddr, Errno> {
    let bytes = value.get(at..at + STORAGE).ok_or(Errno::EINVAL)?;
    match (domain, family(bytes)) {
        (Domain::V4, Some(libc::AF_INET)) => Ok(parse_in(bytes)?.address),
        (Domain::V6, Some(libc::AF_INET6)) => Ok(parse_in6(bytes)?.address),
        _ => Err(Errno::EADDRNOTAVAIL),
    }
}

impl Engine {
    pub(super) fn is_membership_v4(&self, name: i32) -> bool {
        matches!(name, libc::IP_ADD_MEMBERSHIP..=libc::MCAST_MSFILTER)
    }

    pub(super) fn is_membership_v6(&self, name: i32) -> bool {
        matches!(
            name,
            libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP | libc::MCAST_JOIN_GROUP
                ..=libc::MCAST_MSFILTER
        )
    }

    /// IP_ADD_MEMBERSHIP and its relatives.
    pub(super) fn set_membership_v4(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        // A stream has no groups (EPROTO).
        if self.sockets.get(id).is_some_and(|socket| socket.stream().is_some()) {
            return Err(Errno::EPROTO);
        }
        match name {
            libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP => {
                let (group, own) = (v4(value, 0)?, v4(value, 4)?);
                let index = if value.len() >= 12 { word(value, 8)? } else { 0 };
                if !group.is_multicast() {
                    return Err(Errno::EINVAL);
                }
                if name == libc::IP_DROP_MEMBERSHIP {
                    let link = if index == 0 && own.is_unspecified() {
                        None
                    } else {
                        Some(self.named(id, group, index, own)?)
                    };
                    return self.leave(now, id, group, link);
                }
                let link = self.named(id, group, index, own)?;
                self.join(now, id, group, link)
            }
            libc::IP_ADD_SOURCE_MEMBERSHIP
            | libc::IP_DROP_SOURCE_MEMBERSHIP
            | libc::IP_BLOCK_SOURCE
            | libc::IP_UNBLOCK_SOURCE => {
                // struct ip_mreq_source: group, interface, source.
                let (group, own, source) = (v4(value, 0)?, v4(value, 4)?, v4(value, 8)?);
                if value.len() != 12 {
                    return Err(Errno::EINVAL);
                }
                let link = self.named(id, group, 0, own)?;
                let change = match name {
                    libc::IP_ADD_SOURCE_MEMBERSHIP => SourceChange::Join,
                    libc::IP_DROP_SOURCE_MEMBERSHIP => SourceChange::Leave,
                    libc::IP_BLOCK_SOURCE => SourceChange::Block,
                    _ => SourceChange::Unblock,
                };
                self.change_source(now, id, (group, link), source, change)
            }
            libc::IP_MSFILTER => {
                // struct ip_msfilter: group, interface, mode, count, sources.
                let (group, own, mode, count) =
                    (v4(value, 0)?, v4(value, 4)?, word(value, 8)?, word(value, 12)?);
                let sources = (0..count as usize).map(|n| v4(value, 16 + 4 * n));
                let sources = sources.collect::<Result<Vec<_>, _>>()?;
                let link = self.named(id, group, 0, own)?;
                self.filter(now, id, (group, link), mode, sources)
            }
            _ => self.set_mcast(now, id, name, value, Domain::V4),
        }
    }

    /// IPV6_ADD_MEMBERSHIP and its relatives.
    pub(super) fn set_membership_v6(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let least = match name {
            libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP => 20,
            libc::MCAST_JOIN_GROUP | libc::MCAST_LEAVE_GROUP => GROUP + STORAGE,
            libc::MCAST_MSFILTER => GROUP + STORAGE + 8,
            _ => GROUP + 2 * STORAGE,
        };
        if value.len() < least {
            return Err(Errno::EINVAL);
        }
        if self.sockets.get(id).is_some_and(|socket| socket.stream().is_some()) {
            return Err(Errno::EPROTO);
        }
        if !matches!(name, libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP) {
            return self.set_mcast(now, id, name, value, Domain::V6);
        }
        // struct ipv6_mreq: group, interface.
        let octets: [u8; 16] = value.get(..16).ok_or(Errno::EINVAL)?.try_into().expect("sixteen bytes");
        let (group, index) = (IpAddr::from(octets), word(value, 16)?);
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if name == libc::IPV6_DROP_MEMBERSHIP {
            return self.leave(now, id, group, (index != 0).then_some(IfIndex(index)));
        }
        let link = self.named(id, group, index, octets_unspecified())?;
        self.join(now, id, group, link)
    }

    /// MCAST_*: the same for both IPs (RFC 3678 clause 5).
    fn set_mcast(
        &mut self,
        now: Instant,
        id: SocketId,
        name: i32,
        value: &[u8],
        domain: Domain,
    ) -> Result<(), Errno> {
        let index = word(value, 0)?;
        let group = storage(value, GROUP, domain)?;
        let link = self.named(id, group, index, domain.unspecified())?;
        let source = || storage(value, GROUP + STORAGE, domain);
        let change = match name {
            libc::MCAST_JOIN_GROUP => return self.join(now, id, group, link),
            libc::MCAST_LEAVE_GROUP => {
                return self.leave(now, id, group, (index != 0).then_some(IfIndex(index)));
            }
            libc::MCAST_JOIN_SOURCE_GROUP => SourceChange::Join,
            libc::MCAST_LEAVE_SOURCE_GROUP => SourceChange::Leave,
            libc::MCAST_BLOCK_SOURCE => SourceChange::Block,
            libc::MCAST_UNBLOCK_SOURCE => SourceChange::Unblock,
            libc::MCAST_MSFILTER => {
                let at = GROUP + STORAGE;
                let (mode, count) = (word(value, at)?, word(value, at + 4)?);
                let sources = (0..count as usize).map(|n| storage(value, at + 8 + n * STORAGE, domain));
                let sources = sources.collect::<Result<Vec<_>, _>>()?;
                return self.filter(now, id, (group, link), mode, sources);
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        self.change_source(now, id, (group, link), source()?, change)
    }

    fn filter(
        &mut self,
        now: Instant,
        id: SocketId,
        place: (IpAddr, IfIndex),
        mode: u32,
        sources: Vec<IpAddr>,
    ) -> Result<(), Errno> {
        if !matches!(mode, EXCLUDE | INCLUDE) || !place.0.is_multicast() {
            return Err(Errno::EINVAL);
        }
        self.set_sources(now, id, place, mode == INCLUDE, sources)
    }

    /// The interface that a request names, by index or address, or leaves to the routes.
    fn named(&self, id: SocketId, group: IpAddr, index: u32, own: IpAddr) -> Result<IfIndex, Errno> {
        match index {
            0 => self.group_interface(id, group, Some(own)),
            n if self.net.tables.links.contains_key(&IfIndex(n)) => Ok(IfIndex(n)),
            _ => Err(Errno::ENODEV),
        }
    }

    /// getsockopt of IP_MSFILTER and MCAST_MSFILTER: the program's structure, filled in.
    pub(super) fn get_source_filter(&self, id: SocketId, name: i32, value: &[u8]) -> Result<Vec<u8>, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let old = name == libc::IP_MSFILTER;
        let head = if old { 16 } else { GROUP + STORAGE + 8 };
        if value.len() < head {
            return Err(Errno::EINVAL);
        }
        let domain = socket.domain;
        let (group, link) = if old {
            let group = v4(value, 0)?;
            (group, self.named(id, group, 0, v4(value, 4)?)?)
        } else {
            let group = storage(value, GROUP, domain)?;
            (group, self.named(id, group, word(value, 0)?, domain.unspecified())?)
        };
        let member = |m: &&Membership| m.group == group && m.link == link;
        let groups = socket.options.groups.as_ref();
        let membership =
            groups.and_then(|groups| groups.0.iter().find(member)).ok_or(Errno::EADDRNOTAVAIL)?;
        let mut out = value[..head].to_vec();
        let room = word(value, head - 4)? as usize;
        let mode = if membership.include { INCLUDE } else { EXCLUDE };
        out[head - 8..head - 4].copy_from_slice(&mode.to_ne_bytes());
        out[head - 4..].copy_from_slice(&(membership.sources.len() as u32).to_ne_bytes());
        for source in membership.sources.iter().take(room) {
            match (old, source) {
                (true, IpAddr::V4(v4)) => out.extend_from_slice(&v4.octets()),
                (true, IpAddr::V6(_)) => {}
                (false, source) => {
                    let mut bytes = emit(domain, &Endpoint::new(*source, 0));
                    bytes.resize(STORAGE, 0);
                    out.extend_from_slice(&bytes);
                }
            }
        }
        Ok(out)
    }
}

fn octets_unspecified() -> IpAddr {
    Domain::V6.unspecified()
}
