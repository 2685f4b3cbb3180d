//! bind(2), getsockname(2), getpeername(2).
//!
//! Read: net/ipv4/af_inet.c (__inet_bind), net/ipv6/af_inet6.c (__inet6_bind), net/ipv4/{raw,ping}.c.

use std::net::IpAddr;

use nix::errno::Errno;

use super::address::{self, Domain, Endpoint, emit, family, needs_scope};
use super::datagram::DatagramKind;
use super::ports::{Claim, Space, range};
use super::{Body, Ownership, Socket};
use crate::smol::call::Caller;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::{IfIndex, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use crate::smol::tcp::{State, Tcp};

/// net.ipv4.ip_unprivileged_port_start
const FIRST_FREE_PORT: u16 = 1024;

/// What an address is to us (RTN_*; net/ipv4/fib_frontend.c, inet_addr_type).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any.
    Unspecified,
    /// One of our own.
    Local,
    /// A broadcast address.
    Broadcast,
    /// A group.
    Group,
    /// Somebody else's.
    Foreign,
}

impl Engine {
    /// What an address is to us, on one interface or any.
    pub(crate) fn kind_of(&self, ip: IpAddr, link: Option<IfIndex>) -> Kind {
        if ip.is_unspecified() {
            return Kind::Unspecified;
        }
        if ip.is_multicast() {
            return Kind::Group;
        }
        let tables = &self.net.tables;
        let on = |at: IfIndex| link.is_none_or(|link| link == at || ip.is_ipv4());
        if tables.addresses.iter().any(|address| address.net.addr() == ip && on(address.link)) {
            return Kind::Local;
        }
        let IpAddr::V4(v4) = ip else { return if ip.is_loopback() { Kind::Local } else { Kind::Foreign } };
        if v4.is_broadcast() || tables.addresses.iter().any(|address| address.broadcast == Some(ip)) {
            return Kind::Broadcast;
        }
        let local = tables.routes.iter().any(|route| {
            // Without rules of policy, Linux has both tables in one.
            let looked_at = matches!(route.table, TABLE_LOCAL | TABLE_MAIN);
            looked_at && route.kind == RouteKind::Local && route.to.contains(&ip)
        });
        if local { Kind::Local } else { Kind::Foreign }
    }

    /// bind(2)
    pub(crate) fn bind(&mut self, id: SocketId, caller: &Caller, bytes: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        match &socket.body {
            Body::Packet(_) => return self.bind_packet(id, bytes),
            Body::Netlink(_) => return self.bind_netlink(id, caller, bytes),
            Body::Datagram(datagrams) if datagrams.kind == DatagramKind::Raw => {
                return self.bind_raw(id, bytes);
            }
            Body::Datagram(_) | Body::Stream(_) => {}
        }
        let endpoint = self.judge_name(id, bytes)?;
        let space = self.space_of(id);
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        if endpoint.port != 0 && endpoint.port < FIRST_FREE_PORT && space != Space::Ping && !caller.rights {
            return Err(Errno::EACCES);
        }
        let busy = socket.stream().is_some_and(|s| s.connection.is_some() || s.listener.is_some());
        if socket.port != 0 || busy {
            return Err(Errno::EINVAL);
        }
        let (late, domain) = (socket.options.ip.late_port, socket.domain);
        let old = (socket.local, socket.options.device);
        if let Some(link) = endpoint.link() {
            self.net.tables.links.get(&link).ok_or(Errno::ENODEV)?;
        }
        self.set_local(id, endpoint.address, endpoint.link());
        if (endpoint.port != 0 || !late)
            && let Err(errno) = self.claim_port(space, id, endpoint.port)
        {
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.local = old.0;
                socket.options_mut().device = old.1;
            }
            return Err(errno);
        }
        let shared = matches!(self.kind_of(endpoint.address, None), Kind::Broadcast | Kind::Group);
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        socket.local_is_shared = shared;
        socket.chosen_address = !endpoint.address.is_unspecified();
        socket.chosen_port = endpoint.port != 0;
        if domain == Domain::V6 && socket.chosen_address && endpoint.address.is_ipv6() {
            socket.options_mut().ip6.only = true;
        }
        self.enter_table(id);
        Ok(())
    }

    fn set_local(&mut self, id: SocketId, local: IpAddr, link: Option<IfIndex>) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.local = local;
            if link.is_some() && socket.options.device.is_none() {
                socket.options_mut().device = link;
            }
        }
    }

    /// A name for a socket of IP: may it be one?
    fn judge_name(&self, id: SocketId, bytes: &[u8]) -> Result<Endpoint, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let ping = socket.datagrams().is_some_and(|d| d.kind == DatagramKind::Ping);
        let least = if socket.domain == Domain::V4 { address::IN_LEN } else { address::IN6_MIN };
        if bytes.len() < least {
            return Err(Errno::EINVAL);
        }
        let endpoint = match socket.domain {
            Domain::V4 => {
                let endpoint = address::parse_in(bytes)?;
                match family(bytes) {
                    Some(libc::AF_INET) => {}
                    // An old habit of programs: no family at all, for any address.
                    Some(libc::AF_UNSPEC) if endpoint.address.is_unspecified() => {}
                    _ => return Err(Errno::EAFNOSUPPORT),
                }
                endpoint
            }
            Domain::V6 if family(bytes) != Some(libc::AF_INET6) => return Err(Errno::EAFNOSUPPORT),
            Domain::V6 if address::is_mapped(bytes) && (socket.options.ip6.only || ping) => {
                return Err(Errno::EINVAL);
            }
            Domain::V6 => address::parse_in6(bytes)?,
        };
        let stream = socket.stream().is_some();
        if endpoint.address.is_ipv6() && endpoint.address.is_multicast() && stream {
            return Err(Errno::EINVAL);
        }
        self.judge_address(socket, &endpoint, ping)?;
        Ok(endpoint)
    }

    /// Whether an address may be a socket's own.
    pub(crate) fn judge_address(
        &self,
        socket: &Socket,
        endpoint: &Endpoint,
        local_only: bool,
    ) -> Result<(), Errno> {
        let link = socket.options.device.or_else(|| endpoint.link());
        let unicast_v6 = endpoint.address.is_ipv6() && !endpoint.address.is_unspecified();
        if unicast_v6 && needs_scope(endpoint.address) && link.is_none() {
            return Err(Errno::EINVAL);
        }
        let free = socket.options.ip.free_bind || socket.options.ip.transparent;
        match self.kind_of(endpoint.address, link.filter(|_| needs_scope(endpoint.address))) {
            Kind::Unspecified | Kind::Local => Ok(()),
            Kind::Broadcast | Kind::Group if !local_only => Ok(()),
            _ if free => Ok(()),
            _ => Err(Errno::EADDRNOTAVAIL),
        }
    }

    /// Which ports a socket has.
    pub(crate) fn space_of(&self, id: SocketId) -> Space {
        match self.sockets.get(id).map(|socket| &socket.body) {
            Some(Body::Datagram(datagrams)) if datagrams.kind == DatagramKind::Ping => Space::Ping,
            Some(Body::Datagram(_)) if self.sockets.get(id).is_some_and(Socket::is_lite) => Space::Lite,
            Some(Body::Datagram(_)) => Space::Udp,
            _ => Space::Tcp,
        }
    }

    /// Makes a port a socket's own; 0: one that is free. EADDRINUSE.
    pub(crate) fn claim_port(&mut self, space: Space, id: SocketId, port: u16) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let claim = Claim { local: socket.local, uid: socket.uid };
        let free = |ports: &super::ports::Ports, port: u16, strict: bool| {
            !ports.conflicts(&self.sockets, (space, port), id, (socket, claim), strict)
        };
        let port = if port == 0 {
            let ends = (space, socket.local, id);
            let range =
                if space == Space::Ping { 1..=u16::MAX } else { range(socket.options.ip.local_range)? };
            let mut order = self.ports.order(range, self.secret.of(&ends), false);
            order.find(|port| free(&self.ports, *port, true)).ok_or(Errno::EADDRINUSE)?
        } else if free(&self.ports, port, false) {
            port
        } else {
            return Err(Errno::EADDRINUSE);
        };
        self.ports.add(space, port, id);
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.port = port;
            socket.ownership = Ownership::Bound;
        }
        Ok(())
    }

    /// A datagram socket that has a name can be found from now on.
    pub(crate) fn enter_table(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(id) else { return };
        let (local, port) = (socket.local, socket.port);
        if port == 0 {
            return;
        }
        match socket.datagrams().map(|datagrams| datagrams.kind) {
            Some(DatagramKind::Udp) if socket.is_lite() => self.lites.add(local, port, id),
            Some(DatagramKind::Udp) => self.datagrams.add(local, port, id),
            Some(DatagramKind::Ping) => self.pings.add(local, port, id),
            _ => {}
        }
    }

    /// The opposite of [`Engine::enter_table`]; to be called before the name changes.
    pub(crate) fn leave_table(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(id) else { return };
        let (local, port) = (socket.local, socket.port);
        match socket.datagrams().map(|datagrams| datagrams.kind) {
            Some(DatagramKind::Udp) if socket.is_lite() => self.lites.remove(local, port, id),
            Some(DatagramKind::Udp) => self.datagrams.remove(local, port, id),
            Some(DatagramKind::Ping) => self.pings.remove(local, port, id),
            _ => {}
        }
    }

    /// getsockname(2)
    pub(crate) fn local_name(&self, id: SocketId) -> Result<Vec<u8>, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        match &socket.body {
            Body::Packet(packet) if socket.is_spkt() => return Ok(self.spkt_name(packet)),
            Body::Packet(packet) => return Ok(self.packet_name(packet)),
            Body::Netlink(netlink) => return Ok(netlink.local_name()),
            Body::Stream(_) | Body::Datagram(_) => {}
        }
        let endpoint =
            Endpoint { address: socket.local, port: socket.port, scope: Self::own_scope(socket), flow: 0 };
        Ok(emit(socket.domain, &endpoint))
    }

    /// getpeername(2)
    pub(crate) fn peer_name(&self, id: SocketId) -> Result<Vec<u8>, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        match &socket.body {
            Body::Packet(_) => return Err(Errno::EOPNOTSUPP),
            Body::Netlink(netlink) => return Ok(netlink.peer_name()),
            Body::Stream(stream) => {
                let over = |connection| matches!(self.tcp.state(connection), State::TimeWait | State::Closed);
                let over = stream.detached || stream.connection.as_ref().is_some_and(over);
                let live = stream.was_connected && !over;
                if !live || stream.listener.is_some() {
                    return Err(Errno::ENOTCONN);
                }
            }
            Body::Datagram(_) => {}
        }
        let peer = socket.peer.filter(|peer| peer.port != 0).ok_or(Errno::ENOTCONN)?;
        Ok(emit(socket.domain, &peer))
    }
}
