//! The calls: socket(2), close(2), and the way from each other one to who does it.

use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::address::{Domain, STORAGE_LEN};
use super::cmsg::describes;
use super::datagram::{DatagramKind, Datagrams};
use super::options::Options;
use super::options::tcp::{RECEIVE_DEFAULT, SEND_DEFAULT, TcpOptions};
use super::packet::PacketSocket;
use super::tcp::Stream;
use super::{Body, Ownership, Socket};
use crate::smol::call::{Caller, Done, SocketCall};
use crate::smol::engine::{Engine, SocketId, Status};
use crate::stack::{SOCK_PACKET, SocketSpec, TYPE_MASK};

/// The first protocol number that is none (IPPROTO_MAX).
const IPPROTO_MAX: i32 = 263;
/// The first type that is none (SOCK_MAX).
const SOCK_MAX: i32 = 11;
/// The first family that is none (AF_MAX).
const AF_MAX: i32 = 46;

impl Engine {
    /// socket(2) (net/socket.c, net/ipv4/af_inet.c, net/ipv6/af_inet6.c, net/packet/af_packet.c).
    pub(crate) fn new_socket(
        &mut self,
        now: Instant,
        spec: SocketSpec,
        caller: &Caller,
    ) -> Result<SocketId, Errno> {
        let _ = now;
        let kind = spec.kind & TYPE_MASK;
        if spec.kind & !(TYPE_MASK | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        if !(0..AF_MAX).contains(&spec.domain) {
            return Err(Errno::EAFNOSUPPORT);
        }
        if kind >= SOCK_MAX {
            return Err(Errno::EINVAL);
        }
        let mut socket = match spec.domain {
            // "Uglymoron": the old name of packet sockets.
            libc::AF_INET if kind == SOCK_PACKET => packet(kind, spec.protocol, caller)?,
            libc::AF_INET => inet(Domain::V4, kind, spec.protocol, caller)?,
            libc::AF_INET6 => inet(Domain::V6, kind, spec.protocol, caller)?,
            libc::AF_PACKET => packet(kind, spec.protocol, caller)?,
            libc::AF_NETLINK => self.new_netlink(kind, spec.protocol, caller)?,
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        socket.cookie = self.next_cookie();
        if let Some(queue) = socket.queue_mut() {
            queue.count_in(&self.queued);
        }
        let (protocol, raw) = (socket.protocol, socket.is_raw());
        let tap = matches!(socket.body, Body::Packet(_));
        let id = self.sockets.insert(Box::new(socket)).ok_or(Errno::ENFILE)?;
        if raw && i32::from(protocol) != libc::IPPROTO_RAW {
            self.raws.add(protocol, id);
        }
        if tap {
            self.open_tap(id);
        }
        Ok(id)
    }

    /// close(2)
    pub(crate) fn close_socket(&mut self, now: Instant, id: SocketId, unread: bool) {
        let Some(socket) = self.sockets.get(id) else { return };
        match &socket.body {
            Body::Stream(_) => self.close_stream(now, id, unread),
            Body::Datagram(_) => self.close_datagram(now, id),
            Body::Packet(_) => self.close_packet(id),
            Body::Netlink(_) => self.close_netlink(id),
        }
    }

    /// A trapped call.
    pub(crate) fn dispatch(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        call: &SocketCall,
    ) -> Result<Done, Errno> {
        let zero = |()| Done::Value(0);
        match call {
            SocketCall::Bind { address } => {
                checked(address)?;
                self.bind(id, caller, address).map(zero)
            }
            SocketCall::Listen { backlog } => self.listen(now, id, *backlog).map(zero),
            SocketCall::Connect { address } => {
                checked(address)?;
                self.connect(now, id, address).map(zero)
            }
            SocketCall::Accept { .. } => Err(self.cannot_accept(id)),
            SocketCall::LocalName => self.local_name(id).map(Done::Address),
            SocketCall::PeerName => self.peer_name(id).map(Done::Address),
            SocketCall::GetOption { level, name, value } => self.get_option(now, id, *level, *name, value),
            SocketCall::SetOption { level, name, value } => {
                self.set_option(now, id, caller, (*level, *name, value))
            }
            SocketCall::Shutdown { how } => self.shutdown(now, id, *how).map(zero),
            SocketCall::Send { to, control, data, flags } => {
                to.as_deref().map_or(Ok(()), checked)?;
                self.send(now, id, (to.as_deref(), control), data, *flags)
            }
            SocketCall::Receive { length, control, flags, .. } => self.receive(id, *length, *control, *flags),
            SocketCall::Map { .. } => Err(Errno::ENODEV),
            SocketCall::Ioctl { request, argument } => self.ioctl(now, id, caller, *request, argument),
        }
    }

    /// accept(2) on what is no listener.
    fn cannot_accept(&self, id: SocketId) -> Errno {
        match self.sockets.get(id).map(|socket| &socket.body) {
            Some(Body::Stream(stream)) if stream.listener.is_some() => Errno::EAGAIN,
            Some(Body::Stream(_)) => Errno::EINVAL,
            _ => Errno::EOPNOTSUPP,
        }
    }

    /// How a socket is doing.
    pub(crate) fn status_of(&self, id: SocketId) -> Option<Status> {
        let socket = self.sockets.get(id)?;
        Some(match &socket.body {
            Body::Stream(stream) => self.stream_status(socket, stream),
            Body::Datagram(_) | Body::Packet(_) => Status {
                readable: socket.queue().map_or(0, super::queue::Queue::len),
                room: usize::from(!socket.shut_send),
                connected: socket.peer.is_some(),
                receive_finished: socket.shut_receive,
                error: socket.error,
                describes: describes(socket),
                ..Status::default()
            },
            Body::Netlink(netlink) => netlink.status(),
        })
    }
}

/// An address may not be longer than any is.
fn checked(address: &[u8]) -> Result<(), Errno> {
    if address.len() > STORAGE_LEN { Err(Errno::EINVAL) } else { Ok(()) }
}

fn inet(domain: Domain, kind: i32, protocol: i32, caller: &Caller) -> Result<Socket, Errno> {
    if !(0..IPPROTO_MAX).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let icmp = if domain == Domain::V4 { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let mut options = Options::default();
    // Linux forgets to set it on sockets of IPv6.
    options.ip.group_all = domain == Domain::V4;
    let datagrams = |kind| Body::Datagram(Box::new(Datagrams::new(kind)));
    let (protocol, body) = match (kind, protocol) {
        (libc::SOCK_STREAM, libc::IPPROTO_IP | libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => {
            (options.send_buffer, options.receive_buffer) = (SEND_DEFAULT, RECEIVE_DEFAULT);
            // A socket of MPTCP is one of TCP as soon as its peer, or the host here, knows only that (RFC 8684
            // clause 3.7).
            let protocol = if protocol == libc::IPPROTO_IP { libc::IPPROTO_TCP } else { protocol };
            (protocol, Body::Stream(Stream::new(TcpOptions::default())))
        }
        (libc::SOCK_DGRAM, libc::IPPROTO_IP | libc::IPPROTO_UDP) => {
            (libc::IPPROTO_UDP, datagrams(DatagramKind::Udp))
        }
        (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE) => (protocol, datagrams(DatagramKind::Udp)),
        (libc::SOCK_DGRAM, protocol) if protocol == icmp => (protocol, datagrams(DatagramKind::Ping)),
        (libc::SOCK_RAW, libc::IPPROTO_IP) => return Err(Errno::EPROTONOSUPPORT),
        (libc::SOCK_RAW, _) if !caller.rights => return Err(Errno::EPERM),
        // Numbers from 256 on are in no packet: such a socket receives nothing.
        (libc::SOCK_RAW, protocol) => {
            let whole = protocol == libc::IPPROTO_RAW;
            (options.ip.header_included, options.ip6.header_included) = (whole, whole);
            // INET_PROTOSW_REUSE
            options.reuse_address = true;
            (protocol, datagrams(DatagramKind::Raw))
        }
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let mut socket = Socket::new(domain, kind, protocol as u16, caller.uid, Arc::new(options), body);
    if kind == libc::SOCK_RAW {
        // inet_num of a raw socket is its protocol, and getsockname(2) shows it.
        socket.port = protocol as u16;
        socket.ownership = Ownership::None;
    }
    Ok(socket)
}

fn packet(kind: i32, protocol: i32, caller: &Caller) -> Result<Socket, Errno> {
    if !caller.rights {
        return Err(Errno::EPERM);
    }
    let cooked = match kind {
        libc::SOCK_RAW | SOCK_PACKET => false,
        libc::SOCK_DGRAM => true,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    // The argument is in network order.
    let protocol = u16::from_be(protocol as u16);
    let body = Body::Packet(Box::new(PacketSocket::new(protocol, cooked)));
    Ok(Socket::new(Domain::V4, kind, 0, caller.uid, Arc::default(), body))
}
