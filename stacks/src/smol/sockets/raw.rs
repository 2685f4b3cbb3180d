//! Raw IP sockets (raw(7)).
//!
//! # Theory of operation
//! Every packet goes to all raw sockets of its protocol that fit, beside what else happens to it. A socket of
//! IPv4 sees the IP header, one of IPv6 does not. IPPROTO_RAW sends and never receives. Read: net/ipv4/raw.c,
//! net/ipv6/raw.c.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::address::{self, Domain, Endpoint, family};
use super::datagram::DatagramKind;
use super::icmp::checksum;
use super::names::Kind;
use super::options::{answer, int};
use super::queue::{Auxiliary, Item, Sender};
use super::send::{Outgoing, datagram};
use super::{Body, Socket};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::{NetError, Packet};

/// ICMP_FILTER and ICMP6_FILTER.
const FILTER: i32 = 1;
/// IPV6_CHECKSUM at SOL_RAW and at IPPROTO_IPV6.
pub(crate) const IPV6_CHECKSUM: i32 = 7;
/// Bytes of an IPv4 header without options.
const IPV4_HEADER: usize = 20;

/// Raw sockets by protocol.
#[derive(Debug, Default)]
pub(crate) struct Raws(BTreeMap<u16, Vec<SocketId>>);

impl Raws {
    pub(crate) fn add(&mut self, protocol: u16, id: SocketId) {
        self.0.entry(protocol).or_default().push(id);
    }

    pub(crate) fn remove(&mut self, protocol: u16, id: SocketId) {
        if let Some(ids) = self.0.get_mut(&protocol) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.0.remove(&protocol);
            }
        }
    }

    fn of(&self, protocol: u16) -> &[SocketId] {
        self.0.get(&protocol).map_or(&[], Vec::as_slice)
    }
}

/// Whether a raw socket takes a packet between these (raw_v4_match).
fn fits(socket: &Socket, local: IpAddr, peer: IpAddr, link: crate::smol::tables::IfIndex) -> bool {
    (socket.domain == Domain::V4) == local.is_ipv4()
        && (socket.local.is_unspecified() || socket.local == local)
        && socket.peer.is_none_or(|other| other.address == peer)
        && socket.takes_link(link)
}

/// Whether a socket's ICMP_FILTER refuses a message.
fn refuses(socket: &Socket, kind: u8) -> bool {
    let Some(datagrams) = socket.datagrams() else { return false };
    let word = datagrams.refused_types[usize::from(kind) / 32];
    match i32::from(socket.protocol) {
        libc::IPPROTO_ICMP => kind < 32 && datagrams.refused_types[0] >> kind & 1 != 0,
        libc::IPPROTO_ICMPV6 => word >> (kind % 32) & 1 != 0,
        _ => false,
    }
}

impl Engine {
    /// A packet for raw sockets; whether there was one.
    pub(crate) fn raw_packet(&mut self, now: Instant, packet: &Packet<'_>) -> bool {
        let ids = self.raws.of(packet.protocol.into());
        if ids.is_empty() {
            return false;
        }
        let (local, peer) = (packet.destination, packet.source);
        let group = local.is_multicast();
        let kind = packet.payload.first().copied().unwrap_or(0);
        let wanted = |id: &SocketId| {
            self.sockets.get(*id).is_some_and(|socket| {
                fits(socket, local, peer, packet.link)
                    && (!group || socket.takes_group(packet.link, local, peer))
                    && !refuses(socket, kind)
            })
        };
        let ids: Vec<SocketId> = ids.iter().copied().filter(wanted).collect();
        let item = Item {
            data: Vec::new(),
            from: Sender::Inet(Endpoint::heard(peer, 0, packet.link, packet.flow_label)),
            to: local,
            to_port: 0,
            link: packet.link,
            ttl: packet.ttl,
            tos: packet.tos,
            flow: packet.flow_label,
            segment: 0,
            at: now,
            auxiliary: Auxiliary::default(),
        };
        let v4 = local.is_ipv4();
        let whole = if v4 { [&packet.header[..], &packet.payload[..]].concat() } else { Vec::new() };
        for id in &ids {
            if self.passes_filter(*id, packet) {
                self.enqueue(*id, &item, if v4 { &whole } else { &packet.payload });
            }
        }
        !ids.is_empty()
    }

    /// An ICMP error about a packet of a raw socket (raw_err).
    pub(crate) fn raw_error(&mut self, now: Instant, error: &NetError, quoted: &[u8]) {
        let ids = self.raws.of(error.protocol.into());
        let fit = |id: &SocketId| {
            self.sockets
                .get(*id)
                .is_some_and(|socket| fits(socket, error.source, error.destination, error.link))
        };
        let ids: Vec<SocketId> = ids.iter().copied().filter(fit).collect();
        for id in ids {
            self.datagram_error(now, id, error, quoted);
        }
    }

    /// bind(2) of a raw socket: an address, again and again.
    pub(crate) fn bind_raw(&mut self, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let endpoint = match socket.domain {
            Domain::V4 => address::parse_in(bytes)?,
            Domain::V6 if bytes.len() < address::IN6_MIN || family(bytes) != Some(libc::AF_INET6) => {
                return Err(Errno::EINVAL);
            }
            // "Raw sockets are IPv6 only".
            Domain::V6 if address::is_mapped(bytes) => return Err(Errno::EADDRNOTAVAIL),
            Domain::V6 => address::parse_in6(bytes)?,
        };
        if socket.peer.is_some() {
            return Err(Errno::EINVAL);
        }
        self.judge_address(socket, &endpoint, false)?;
        let shared = matches!(self.kind_of(endpoint.address, None), Kind::Broadcast | Kind::Group);
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        socket.local_is_shared = shared;
        socket.local = endpoint.address;
        socket.chosen_address = !endpoint.address.is_unspecified();
        if let Some(link) = endpoint.link() {
            socket.options_mut().device = Some(link);
        }
        Ok(())
    }

    /// Sends what a raw socket's program made.
    pub(crate) fn send_raw(
        &mut self,
        now: Instant,
        id: SocketId,
        out: &Outgoing,
        data: &[u8],
    ) -> Result<(), Errno> {
        let path = self.way(id, out)?;
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let Body::Datagram(datagrams) = &socket.body else { return Err(Errno::EOPNOTSUPP) };
        debug_assert!(datagrams.kind == DatagramKind::Raw, "the caller looked");
        let included = match socket.domain {
            Domain::V4 => socket.options.ip.header_included,
            Domain::V6 => socket.options.ip6.header_included,
        };
        if included {
            let packet = match socket.domain {
                Domain::V4 => complete(data, path.source, self.secret.draw() as u16)?,
                Domain::V6 if data.len() < 40 => return Err(Errno::EINVAL),
                Domain::V6 => data.to_vec(),
            };
            let sent = self.net.send_raw(now, &path, &packet);
            return self.judge_sent(id, out, &path, sent);
        }
        let protocol = match (socket.domain, out.peer.port) {
            (Domain::V6, port @ 1..=255) => port as u8,
            // A header has eight bits of it.
            _ => socket.protocol as u8,
        };
        let mut datagram = datagram(socket.domain, &socket.options, protocol, out);
        if socket.domain == Domain::V6 {
            let at = if i32::from(protocol) == libc::IPPROTO_ICMPV6 { 2 } else { datagrams.checksum };
            datagram.checksum_at = u16::try_from(at).ok();
            if datagram.checksum_at.is_some_and(|at| usize::from(at) + 2 > data.len()) {
                return Err(Errno::EINVAL);
            }
        }
        let sent = self.net.send(now, &path, &datagram, &[data]);
        self.judge_sent(id, out, &path, sent)
    }

    /// getsockopt of SOL_RAW, and of SOL_ICMPV6 and IPPROTO_ICMP by their own numbers.
    pub(crate) fn get_raw_option(
        &self,
        id: SocketId,
        level: i32,
        name: i32,
        room: usize,
    ) -> Result<Vec<u8>, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let datagrams = socket.datagrams().ok_or(Errno::ENOPROTOOPT)?;
        let filter = datagrams.refused_types.iter().flat_map(|word| word.to_ne_bytes());
        match (level, name) {
            (libc::SOL_RAW, FILTER) if socket.domain == Domain::V4 => {
                if i32::from(socket.protocol) == libc::IPPROTO_ICMP {
                    Ok(filter.take(4).collect())
                } else {
                    Err(Errno::EOPNOTSUPP)
                }
            }
            (libc::IPPROTO_ICMPV6, FILTER) if socket.domain == Domain::V6 => {
                if i32::from(socket.protocol) == libc::IPPROTO_ICMPV6 {
                    Ok(filter.take(room).collect())
                } else {
                    Err(Errno::EOPNOTSUPP)
                }
            }
            (libc::SOL_RAW, IPV6_CHECKSUM) if socket.domain == Domain::V6 => {
                let icmp = i32::from(socket.protocol) == libc::IPPROTO_ICMPV6;
                Ok(answer(if icmp { 2 } else { datagrams.checksum }))
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// setsockopt of SOL_RAW and its relatives.
    pub(crate) fn set_raw_option(
        &mut self,
        id: SocketId,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let (domain, protocol) = (socket.domain, i32::from(socket.protocol));
        let datagrams = socket.datagrams_mut().ok_or(Errno::ENOPROTOOPT)?;
        let filter = match (level, name) {
            (libc::SOL_RAW, FILTER) if domain == Domain::V4 => protocol == libc::IPPROTO_ICMP,
            (libc::IPPROTO_ICMPV6, FILTER) if domain == Domain::V6 => protocol == libc::IPPROTO_ICMPV6,
            (libc::SOL_RAW, IPV6_CHECKSUM) if domain == Domain::V6 => {
                let at = int(value)?;
                if protocol == libc::IPPROTO_ICMPV6 || (at > 0 && at % 2 != 0) {
                    return Err(Errno::EINVAL);
                }
                datagrams.checksum = at.max(-1);
                return Ok(());
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        if !filter {
            return Err(Errno::EOPNOTSUPP);
        }
        for (word, bytes) in datagrams.refused_types.iter_mut().zip(value.chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().expect("chunks of four"));
        }
        Ok(())
    }
}

/// An IPv4 packet of a program (IP_HDRINCL), with what the kernel fills in: length and checksum always,
/// source and ident if they are 0. EINVAL if it has no header.
fn complete(data: &[u8], source: IpAddr, ident: u16) -> Result<Vec<u8>, Errno> {
    let header = data.first().map_or(0, |first| usize::from(first & 15) * 4);
    if data.len() < IPV4_HEADER || header < IPV4_HEADER || header > data.len() {
        return Err(Errno::EINVAL);
    }
    let mut packet = data.to_vec();
    packet[2..4].copy_from_slice(&(data.len() as u16).to_be_bytes());
    if packet[4..6] == [0, 0] {
        packet[4..6].copy_from_slice(&ident.to_be_bytes());
    }
    if let (IpAddr::V4(v4), [0, 0, 0, 0]) = (source, &packet[12..16]) {
        packet[12..16].copy_from_slice(&v4.octets());
    }
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    Ok(packet)
}
