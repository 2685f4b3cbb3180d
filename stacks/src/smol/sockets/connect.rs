//! connect(2) and shutdown(2).
//!
//! Read: net/ipv4/af_inet.c (__inet_stream_connect, inet_shutdown), net/ipv4/tcp_ipv4.c, net/ipv6/tcp_ipv6.c,
//! net/ipv4/inet_hashtables.c (__inet_hash_connect), net/ipv4/datagram.c, net/ipv6/datagram.c.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use nix::errno::Errno;

use super::address::{self, Domain, Endpoint, family, needs_scope};
use super::names::Kind;
use super::ports::{Space, range};
use super::table::Flow;
use super::tcp::{Phase, settings};
use super::{Body, Ownership, Socket};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::{Path, Wish};
use crate::smol::tcp::{self, State, Tcp};

impl Engine {
    /// connect(2)
    pub(crate) fn connect(&mut self, now: Instant, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        match &socket.body {
            Body::Packet(_) => Err(Errno::EOPNOTSUPP),
            Body::Netlink(_) => self.connect_netlink(id, bytes),
            Body::Datagram(_) => self.connect_datagram(id, bytes),
            Body::Stream(_) => self.connect_stream(now, id, bytes),
        }
    }

    fn connect_stream(&mut self, now: Instant, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        match family(bytes) {
            None => return Err(Errno::EINVAL),
            Some(libc::AF_UNSPEC) => {
                self.reset_stream(now, id);
                return Ok(());
            }
            Some(_) => {}
        }
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let Body::Stream(stream) = &mut socket.body else { return Err(Errno::EOPNOTSUPP) };
        match stream.phase {
            Phase::Connected => return Err(Errno::EISCONN),
            Phase::Connecting if stream.detached || stream.connection.is_none() => {
                let error = socket.take_error().unwrap_or(Errno::ECONNABORTED);
                self.end_quietly(id);
                return Err(error);
            }
            Phase::Connecting if stream.was_connected => {
                stream.phase = Phase::Connected;
                return Ok(());
            }
            Phase::Connecting => return Err(Errno::EALREADY),
            Phase::Unconnected if stream.listener.is_some() => return Err(Errno::EISCONN),
            Phase::Unconnected => {}
        }
        let domain = socket.domain;
        let peer = self.judge_peer(id, bytes, domain)?;
        self.open_stream(now, id, peer)?;
        Err(Errno::EINPROGRESS)
    }

    /// A peer for a stream: may it be one?
    fn judge_peer(&mut self, id: SocketId, bytes: &[u8], domain: Domain) -> Result<Endpoint, Errno> {
        let mut peer = match domain {
            Domain::V4 if bytes.len() < address::IN_LEN => return Err(Errno::EINVAL),
            Domain::V4 if family(bytes) != Some(libc::AF_INET) => return Err(Errno::EAFNOSUPPORT),
            Domain::V4 => address::parse_in(bytes)?,
            Domain::V6 if bytes.len() < address::IN6_MIN => return Err(Errno::EINVAL),
            Domain::V6 if family(bytes) != Some(libc::AF_INET6) => return Err(Errno::EAFNOSUPPORT),
            Domain::V6 => address::parse_in6(bytes)?,
        };
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if peer.address.is_ipv4() && domain == Domain::V6 && socket.options.ip6.only {
            return Err(Errno::ENETUNREACH);
        }
        peer.address = somebody(peer.address, socket.local);
        if needs_scope(peer.address) {
            adopt_scope(socket, &mut peer)?;
        }
        if peer.address.is_multicast() || self.kind_of(peer.address, None) == Kind::Broadcast {
            return Err(Errno::ENETUNREACH);
        }
        Ok(peer)
    }

    /// Has a stream connect to a peer, from its own name if it has one.
    pub(crate) fn open_stream(&mut self, now: Instant, id: SocketId, peer: Endpoint) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let local = Some(socket.local).filter(|local| !local.is_unspecified());
        let link = socket.options.device.or_else(|| peer.link());
        let path = self
            .net
            .route(peer.address, &Wish { source: local, link, on_link: socket.options.dont_route })?;
        let local = local.unwrap_or(path.source);
        let port = self.connect_port(id, local, &peer, &path)?;
        let ends = tcp::Ends { local, local_port: port, peer: peer.address, peer_port: peer.port };
        let Some(socket) = self.sockets.get_mut(id) else { return Err(Errno::EBADF) };
        socket.local = local;
        socket.port = port;
        socket.peer = Some(peer);
        socket.path = Some(path);
        (socket.error, socket.soft_error) = (None, None);
        let Body::Stream(stream) = &mut socket.body else { return Err(Errno::EOPNOTSUPP) };
        let settings = settings(&socket.options, &stream.options, (path.mtu, self.super_segments), false);
        stream.connection = Some(self.tcp.connect(now, &ends, &settings));
        self.net.mib.tcp.active_opens += 1;
        stream.phase = Phase::Connecting;
        (stream.was_connected, stream.detached) = (false, false);
        self.streams.add_flow(Flow::new(local, port, &peer), id);
        self.make_ready(id);
        self.observe(now, id);
        self.mark(id);
        Ok(())
    }

    /// The port of a connection to be: the socket's own, or one with which the connection is the only one.
    fn connect_port(
        &mut self,
        id: SocketId,
        local: IpAddr,
        peer: &Endpoint,
        path: &Path,
    ) -> Result<u16, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        if socket.port != 0 && socket.ownership != Ownership::None {
            let port = socket.port;
            return if self.flow_is_free(&Flow::new(local, port, peer), path) {
                Ok(port)
            } else {
                Err(Errno::EADDRNOTAVAIL)
            };
        }
        let range = range(socket.options.ip.local_range)?;
        let hash = self.secret.of(&(local, peer.address, peer.port));
        let order = self.ports.order(range, hash, true);
        for port in order {
            let free = self.ports.is_free(Space::Tcp, port);
            if !free && !self.ports.is_given(&self.sockets, port) {
                continue;
            }
            if self.flow_is_free(&Flow::new(local, port, peer), path) {
                self.ports.add(Space::Tcp, port, id);
                if let Some(socket) = self.sockets.get_mut(id) {
                    socket.ownership = Ownership::Given;
                }
                return Ok(port);
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// No connection has these ends; one in TIME-WAIT gives way if it never left this stack
    /// (net.ipv4.tcp_tw_reuse = 2).
    fn flow_is_free(&mut self, flow: &Flow, path: &Path) -> bool {
        match self.streams.flow(flow) {
            None => true,
            Some(old) if path.local && self.sockets.get(old).is_some_and(Socket::is_time_wait) => {
                self.drop_stream(old);
                true
            }
            Some(_) => false,
        }
    }

    /// shutdown(2)
    pub(crate) fn shutdown(&mut self, now: Instant, id: SocketId, how: i32) -> Result<(), Errno> {
        if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
            return Err(Errno::EINVAL);
        }
        let (receive, send) = (how != libc::SHUT_WR, how != libc::SHUT_RD);
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let stream = match &mut socket.body {
            Body::Stream(stream) => stream,
            Body::Datagram(_) if socket.peer.is_none() => return Err(Errno::ENOTCONN),
            Body::Datagram(_) => {
                socket.shut_receive |= receive;
                socket.shut_send |= send;
                self.mark(id);
                return Ok(());
            }
            Body::Packet(_) | Body::Netlink(_) => return Err(Errno::EOPNOTSUPP),
        };
        if stream.listener.is_some() {
            if receive {
                self.stop_listening(now, id);
                self.release_port(id, false);
            }
            return Ok(());
        }
        let Some(connection) = stream.connection.as_mut().filter(|_| !stream.detached) else {
            // A connection that is over can be shut, a socket that never had one cannot.
            return Err(Errno::ENOTCONN);
        };
        let state = self.tcp.state(connection);
        if matches!(state, State::TimeWait | State::Closed) {
            return Err(Errno::ENOTCONN);
        }
        if state == State::SynSent {
            self.end_quietly(id);
            return Ok(());
        }
        socket.shut_receive |= receive;
        if send && !socket.shut_send {
            socket.shut_send = true;
            self.tcp.finish(now, connection);
            self.make_ready(id);
        }
        self.mark(id);
        self.observe(now, id);
        Ok(())
    }
}

/// Nobody in particular is ourselves, in the socket's own words.
pub(crate) fn somebody(peer: IpAddr, local: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(v4) if v4.is_unspecified() => {
            if local.is_ipv4() && !local.is_unspecified() {
                local
            } else {
                Ipv4Addr::LOCALHOST.into()
            }
        }
        IpAddr::V6(v6) if v6.is_unspecified() => {
            if local.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            }
        }
        other => other,
    }
}

/// A link-local peer needs an interface, and one that does not contradict the socket's (EINVAL).
pub(crate) fn adopt_scope(socket: &mut Socket, peer: &mut Endpoint) -> Result<(), Errno> {
    let group = peer.address.is_multicast();
    match (peer.link(), socket.options.device) {
        (Some(wanted), Some(bound)) if wanted != bound => Err(Errno::EINVAL),
        (Some(_), _) => Ok(()),
        (None, Some(bound)) => {
            peer.scope = bound.0;
            Ok(())
        }
        (None, None) => {
            let link = socket.options.ip6.group_link.filter(|_| group);
            peer.scope = link.ok_or(Errno::EINVAL)?.0;
            Ok(())
        }
    }
}
