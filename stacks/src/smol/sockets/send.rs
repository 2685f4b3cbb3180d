//! Datagrams out: where to, which way, with what in the header.
//!
//! Read: net/ipv4/udp.c (udp_sendmsg), net/ipv6/udp.c, net/ipv4/ip_output.c.

use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::address::{self, Domain, Endpoint, family, needs_scope};
use super::cmsg::{Wishes, destination, parse};
use super::connect::{adopt_scope, somebody};
use super::datagram::{DatagramKind, group_link};
use super::options::Options;
use super::tcp::fragmenting;
use super::{Body, Socket};
use crate::smol::call::Done;
use crate::smol::engine::{DEFAULT_TTL, Engine, SocketId, extra};
use crate::smol::net::{Datagram, Fragmenting, Path, Wish};
use crate::smol::tables::IfIndex;

/// Longest datagram of UDP and IP that sendmsg(2) takes, headers included, in bytes.
pub(crate) const MOST: usize = 0xffff;
/// MSG_MORE
pub(crate) const MSG_MORE: i32 = 0x8000;

/// A datagram without its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    pub(crate) peer: Endpoint,
    /// It goes to the peer that connect(2) named, with no other wishes.
    pub(crate) usual: bool,
    pub(crate) wishes: Wishes,
    pub(crate) on_link: bool,
}

/// A datagram that grows until it is uncorked.
#[derive(Debug)]
pub(crate) struct Cork {
    pub(crate) out: Outgoing,
    pub(crate) data: Vec<u8>,
}

/// A datagram of the stack's own, of no socket.
pub(crate) fn plain(destination: IpAddr, protocol: u8, checksum_at: Option<u16>) -> Datagram<'static> {
    Datagram {
        destination,
        protocol,
        ttl: DEFAULT_TTL,
        tos: 0,
        flow_label: 0,
        fragmenting: Fragmenting::Want,
        gso_size: 0,
        checksum_at,
        options: &[],
        ident: 0,
    }
}

/// How a socket's datagram is to be sent.
pub(crate) fn datagram<'a>(
    domain: Domain,
    options: &'a Options,
    protocol: u8,
    out: &Outgoing,
) -> Datagram<'a> {
    let to = out.peer.address;
    let (v4, group) = (to.is_ipv4(), to.is_multicast());
    let ttl = match (v4, group) {
        (true, true) => options.ip.group_ttl.into(),
        (true, false) => options.ip.ttl,
        (false, true) => options.ip6.group_hops,
        (false, false) => options.ip6.hops,
    };
    let mut how = fragmenting(if v4 { options.ip.discover } else { options.ip6.discover });
    if !v4 && out.wishes.dont_fragment.unwrap_or(options.ip6.dont_fragment) {
        how = Fragmenting::Never;
    }
    Datagram {
        destination: to,
        protocol,
        ttl: out.wishes.ttl.unwrap_or_else(|| u8::try_from(ttl).unwrap_or(DEFAULT_TTL)),
        tos: out.wishes.tos.unwrap_or(if v4 { options.ip.tos } else { options.ip6.class }),
        flow_label: if options.ip6.flow_send { out.peer.flow & 0xf_ffff } else { 0 },
        fragmenting: how,
        gso_size: 0,
        checksum_at: None,
        options: extra(domain, v4, options),
        ident: 0,
    }
}

impl Engine {
    /// sendmsg(2)
    pub(crate) fn send(
        &mut self,
        now: Instant,
        id: SocketId,
        (to, control): (Option<&[u8]>, &[u8]),
        data: &[u8],
        flags: i32,
    ) -> Result<Done, Errno> {
        let to = to.filter(|to| !to.is_empty());
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let kind = match &socket.body {
            Body::Packet(_) => return self.send_packet(now, id, to, data),
            Body::Netlink(_) => return self.send_netlink(now, id, to, data),
            Body::Stream(_) => return Err(Errno::EOPNOTSUPP),
            Body::Datagram(datagrams) => datagrams.kind,
        };
        if data.len() > MOST {
            return Err(Errno::EMSGSIZE);
        }
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if kind == DatagramKind::Udp && socket.datagrams().is_some_and(|d| d.cork.is_some()) {
            return self.append(now, id, data, flags);
        }
        let out = self.outgoing(id, to, control, flags)?;
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if let Some(error) = socket.take_error() {
            return Err(error);
        }
        if socket.shut_send {
            return Err(Errno::EPIPE);
        }
        match kind {
            DatagramKind::Udp => {
                self.autobind(id)?;
                let corked = self.sockets.get(id).and_then(Socket::datagrams).is_some_and(|d| d.corked);
                if corked || flags & MSG_MORE != 0 {
                    if let Some(datagrams) = self.sockets.get_mut(id).and_then(Socket::datagrams_mut) {
                        datagrams.cork = Some(Box::new(Cork { out, data: data.to_vec() }));
                    }
                } else {
                    self.send_udp(now, id, &out, data)?;
                }
            }
            DatagramKind::Ping => {
                self.autobind(id)?;
                self.send_ping(now, id, &out, data)?;
            }
            DatagramKind::Raw => self.send_raw(now, id, &out, data)?,
        }
        Ok(Done::Value(data.len() as i64))
    }

    /// A datagram to the peer, without address or ancillary data.
    pub(crate) fn write_datagram(
        &mut self,
        now: Instant,
        id: SocketId,
        to: Option<&[u8]>,
        data: &[u8],
    ) -> Result<(), Errno> {
        self.send(now, id, (to, &[]), data, 0).map(|_| ())
    }

    /// More of a corked datagram.
    fn append(&mut self, now: Instant, id: SocketId, data: &[u8], flags: i32) -> Result<Done, Errno> {
        let datagrams = self.sockets.get_mut(id).and_then(Socket::datagrams_mut).ok_or(Errno::EBADF)?;
        let corked = datagrams.corked;
        if let Some(cork) = &mut datagrams.cork {
            if cork.data.len() + data.len() > MOST {
                return Err(Errno::EMSGSIZE);
            }
            cork.data.extend_from_slice(data);
        }
        if !corked && flags & MSG_MORE == 0 {
            self.uncork(now, id)?;
        }
        Ok(Done::Value(data.len() as i64))
    }

    /// A corked datagram leaves.
    pub(crate) fn uncork(&mut self, now: Instant, id: SocketId) -> Result<(), Errno> {
        let datagrams = self.sockets.get_mut(id).and_then(Socket::datagrams_mut).ok_or(Errno::EBADF)?;
        match datagrams.cork.take() {
            Some(cork) => self.send_udp(now, id, &cork.out, &cork.data),
            None => Ok(()),
        }
    }

    /// Where a datagram is to go, and how.
    fn outgoing(
        &mut self,
        id: SocketId,
        to: Option<&[u8]>,
        control: &[u8],
        flags: i32,
    ) -> Result<Outgoing, Errno> {
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let wishes = if control.is_empty() { Wishes::default() } else { parse(control, socket.domain)? };
        let on_link = flags & libc::MSG_DONTROUTE != 0 || socket.options.dont_route;
        let nobody = socket.domain == Domain::V6 && to.and_then(family) == Some(libc::AF_UNSPEC);
        let Some(bytes) = to.filter(|_| !nobody) else {
            let peer = socket.peer.ok_or(Errno::EDESTADDRREQ)?;
            return Ok(Outgoing { peer, usual: wishes == Wishes::default() && !on_link, wishes, on_link });
        };
        let mut peer = judge_destination(socket, bytes)?;
        peer.address = somebody(peer.address, socket.local);
        if needs_scope(peer.address) && wishes.link.is_none() {
            adopt_scope(socket, &mut peer)?;
        }
        Ok(Outgoing { peer, usual: false, wishes, on_link })
    }

    /// The way of a datagram. ENETUNREACH and the like; EACCES for everybody without SO_BROADCAST.
    pub(crate) fn way(&mut self, id: SocketId, out: &Outgoing) -> Result<Path, Errno> {
        let generation = self.net.generation();
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        if out.usual
            && let Some(path) = socket.path.filter(|path| path.generation == generation)
        {
            return Ok(path);
        }
        let to = out.peer.address;
        let (v4, group) = (to.is_ipv4(), to.is_multicast());
        let options = &socket.options;
        let own = Some(socket.local)
            .filter(|own| !own.is_unspecified() && !socket.local_is_shared && own.is_ipv4() == v4);
        let chosen = Some(options.ip.group_address).filter(|a| v4 && group && !a.is_unspecified());
        let preferred = if v4 { options.ip.unicast_link } else { options.ip6.unicast_link };
        let mut link = options.device.or(out.wishes.link).or_else(|| out.peer.link());
        if group {
            link = link.or_else(|| group_link(socket, to));
        } else if preferred != 0 {
            link = link.or(Some(IfIndex(preferred)));
        }
        let source = out.wishes.source.or(own).or_else(|| chosen.map(IpAddr::V4));
        let mut path = self.net.route(to, &Wish { source, link, on_link: out.on_link })?;
        if group {
            path.looped &= if v4 { options.ip.group_loop } else { options.ip6.group_loop };
        }
        let broadcast = self.sockets.get(id).is_some_and(|socket| socket.options.broadcast);
        if path.group && !group && !broadcast {
            return Err(Errno::EACCES);
        }
        if out.usual
            && let Some(socket) = self.sockets.get_mut(id)
        {
            socket.path = Some(path);
        }
        Ok(path)
    }

    /// What sendmsg(2) says of a datagram that the network layer did not take.
    pub(crate) fn judge_sent(
        &mut self,
        id: SocketId,
        out: &Outgoing,
        path: &Path,
        sent: Result<(), Errno>,
    ) -> Result<(), Errno> {
        let wants = self.sockets.get(id).is_some_and(|socket| socket.wants_errors(out.peer.address));
        match sent {
            Err(Errno::EMSGSIZE) if wants => {
                self.queue_local_error(id, Errno::EMSGSIZE, out.peer, path.mtu);
                Err(Errno::EMSGSIZE)
            }
            // A full queue is a loss like others, for those who do not care for errors.
            Err(Errno::ENOBUFS) if !wants => Ok(()),
            other => other,
        }
    }
}

/// A destination for one datagram: may it be one?
fn judge_destination(socket: &Socket, bytes: &[u8]) -> Result<Endpoint, Errno> {
    let datagrams = socket.datagrams().ok_or(Errno::EOPNOTSUPP)?;
    let raw = datagrams.kind == DatagramKind::Raw;
    let least = match family(bytes) {
        Some(libc::AF_INET6) => address::IN6_MIN,
        _ => address::IN_LEN,
    };
    if bytes.len() < least {
        return Err(Errno::EINVAL);
    }
    if raw && socket.domain == Domain::V6 && family(bytes) != Some(libc::AF_INET6) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if socket.domain == Domain::V4
        && matches!(family(bytes), Some(f) if f != libc::AF_INET && f != libc::AF_UNSPEC)
    {
        return Err(Errno::EAFNOSUPPORT);
    }
    let endpoint = destination(bytes, socket.domain)?;
    if endpoint.address.is_ipv4() && socket.domain == Domain::V6 && socket.options.ip6.only {
        return Err(Errno::ENETUNREACH);
    }
    match datagrams.kind {
        DatagramKind::Udp if endpoint.port == 0 => Err(Errno::EINVAL),
        DatagramKind::Raw if socket.domain == Domain::V6 => {
            let own = socket.protocol;
            let wrong = endpoint.port != 0 && endpoint.port != own && own != libc::IPPROTO_RAW as u16;
            let protocol = if endpoint.port == 0 { own } else { endpoint.port };
            if wrong || protocol > 255 { Err(Errno::EINVAL) } else { Ok(endpoint) }
        }
        _ => Ok(endpoint),
    }
}
