//! What UDP, ICMP datagram and raw sockets have in common: peers, queues, receiving.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::address::{self, Domain, Endpoint, family, needs_scope, write, write_ll};
use super::cmsg::{Control, describe, realtime};
use super::connect::{adopt_scope, somebody};
use super::errors::QueuedError;
use super::lite::Coverage;
use super::names::Kind;
use super::queue::{Item, Queue, Sender};
use super::send::Cork;
use super::table::Flow;
use super::{Body, Ownership, Socket};
use crate::smol::call::{Done, Message};
use crate::smol::engine::{Engine, Received, SocketId};
use crate::smol::net::Wish;

/// Which sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatagramKind {
    /// UDP, and UDP-Lite.
    Udp,
    /// ICMP echo by ident.
    Ping,
    /// Raw IP.
    Raw,
}

/// What a datagram socket has beside what all have.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pub(crate) kind: DatagramKind,
    pub(crate) queue: Queue,
    /// MSG_ERRQUEUE.
    pub(crate) errors: VecDeque<QueuedError>,
    /// UDP_CORK, MSG_MORE.
    pub(crate) cork: Option<Box<Cork>>,
    /// UDP_CORK is set.
    pub(crate) corked: bool,
    /// UDP_ENCAP, kept and told: what is in such datagrams is the program's to take out.
    pub(crate) encapsulation: i32,
    /// UDP_SEGMENT.
    pub(crate) segment: u16,
    /// UDP_GRO.
    pub(crate) coalesced: bool,
    /// UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX.
    pub(crate) no_check6: (bool, bool),
    /// ICMP_FILTER in the first word, or all of ICMP6_FILTER: bits set are types refused.
    pub(crate) refused_types: [u32; 8],
    /// IPV6_CHECKSUM; −1: off.
    pub(crate) checksum: i32,
    /// UDP-Lite's.
    pub(crate) coverage: Coverage,
    /// It is in the table of connected sockets.
    pub(crate) in_flows: bool,
}

impl Datagrams {
    pub(crate) fn new(kind: DatagramKind) -> Self {
        Self {
            kind,
            queue: Queue::default(),
            errors: VecDeque::new(),
            cork: None,
            corked: false,
            encapsulation: 0,
            segment: 0,
            coalesced: false,
            no_check6: (false, false),
            refused_types: [0; 8],
            checksum: -1,
            coverage: Coverage::default(),
            in_flows: false,
        }
    }
}

impl Socket {
    /// A UDP socket.
    pub(crate) fn is_udp(&self) -> bool {
        self.datagrams().is_some_and(|datagrams| datagrams.kind == DatagramKind::Udp)
    }

    /// A raw socket of IP.
    pub(crate) fn is_raw(&self) -> bool {
        self.datagrams().is_some_and(|datagrams| datagrams.kind == DatagramKind::Raw)
    }

    /// The queue of whatever has one.
    pub(crate) fn queue_mut(&mut self) -> Option<&mut Queue> {
        match &mut self.body {
            Body::Datagram(datagrams) => Some(&mut datagrams.queue),
            Body::Packet(packet) => Some(&mut packet.queue),
            Body::Stream(_) | Body::Netlink(_) => None,
        }
    }

    /// The queue of whatever has one.
    pub(crate) fn queue(&self) -> Option<&Queue> {
        match &self.body {
            Body::Datagram(datagrams) => Some(&datagrams.queue),
            Body::Packet(packet) => Some(&packet.queue),
            Body::Stream(_) | Body::Netlink(_) => None,
        }
    }
}

/// Buffers of taken datagrams that are kept for the next ones.
const SPARE: usize = 64;
/// Longest buffer that is kept, in bytes.
const SPARE_LEN: usize = 4096;

impl Engine {
    /// connect(2) of a datagram socket: only what is sent to and heard from.
    pub(crate) fn connect_datagram(&mut self, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        match family(bytes) {
            None => return Err(Errno::EINVAL),
            Some(libc::AF_UNSPEC) => {
                self.disconnect_datagram(id);
                return Ok(());
            }
            Some(_) => {}
        }
        self.autobind(id)?;
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let mut peer = judge_peer(socket, bytes)?;
        peer.address = somebody(peer.address, socket.local);
        if needs_scope(peer.address) {
            adopt_scope(socket, &mut peer)?;
        }
        let group = peer.address.is_multicast();
        let source = Some(socket.local).filter(|ip| !ip.is_unspecified() && !socket.local_is_shared);
        let mut wish = Wish {
            source: source.filter(|source| source.is_ipv4() == peer.address.is_ipv4()),
            link: socket.options.device.or_else(|| peer.link()),
            on_link: socket.options.dont_route,
        };
        if group {
            wish.link = wish.link.or_else(|| group_link(socket, peer.address));
        }
        let broadcast = socket.options.broadcast;
        let path = self.net.route(peer.address, &wish)?;
        if !broadcast && self.kind_of(peer.address, None) == Kind::Broadcast {
            return Err(Errno::EACCES);
        }
        self.leave_flows(id);
        self.leave_table(id);
        if let Some(socket) = self.sockets.get_mut(id) {
            if socket.local.is_unspecified() {
                socket.local = path.source;
            }
            socket.peer = Some(peer);
            socket.path = Some(path);
        }
        self.enter_table(id);
        self.enter_flows(id);
        self.mark(id);
        Ok(())
    }

    fn enter_flows(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let flow = socket.peer.map(|peer| Flow::new(socket.local, socket.port, &peer));
        let lite = socket.is_lite();
        if let (Some(flow), Body::Datagram(datagrams)) = (flow, &mut socket.body)
            && datagrams.kind == DatagramKind::Udp
        {
            let table = if lite { &mut self.lites } else { &mut self.datagrams };
            datagrams.in_flows = table.add_flow(flow, id);
        }
    }

    /// The opposite of connecting, in the table.
    pub(crate) fn leave_flows(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let flow = socket.peer.map(|peer| Flow::new(socket.local, socket.port, &peer));
        let lite = socket.is_lite();
        if let (Some(flow), Body::Datagram(datagrams)) = (flow, &mut socket.body)
            && std::mem::take(&mut datagrams.in_flows)
        {
            let table = if lite { &mut self.lites } else { &mut self.datagrams };
            table.remove_flow(&flow, id);
        }
    }

    /// connect(AF_UNSPEC) (net/ipv4/udp.c, __udp_disconnect).
    fn disconnect_datagram(&mut self, id: SocketId) {
        let space = self.space_of(id);
        self.leave_flows(id);
        self.leave_table(id);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        (socket.peer, socket.path) = (None, None);
        if socket.options.device.is_some() {
            socket.options_mut().device = None;
        }
        if !socket.chosen_address {
            socket.local = socket.domain.unspecified();
        }
        if !socket.chosen_port && !socket.is_raw() && socket.ownership != Ownership::None {
            let port = std::mem::take(&mut socket.port);
            socket.ownership = Ownership::None;
            self.ports.remove(space, port, id);
        }
        self.enter_table(id);
        self.mark(id);
    }

    /// A datagram socket gets a port with its first datagram. EAGAIN if there is none (inet_autobind).
    pub(crate) fn autobind(&mut self, id: SocketId) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        if socket.port != 0 || socket.is_raw() {
            return Ok(());
        }
        let space = self.space_of(id);
        self.claim_port(space, id, 0).map_err(|_| Errno::EAGAIN)?;
        self.enter_table(id);
        Ok(())
    }

    /// Puts a datagram into a socket's queue, if its filter and its buffer allow.
    pub(crate) fn enqueue(&mut self, id: SocketId, item: &Item, data: &[u8]) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let limit = socket.options.receive_buffer;
        if socket.shut_receive {
            return;
        }
        // Those of other protocols have no such counters.
        let udp = (socket.is_udp()).then(|| (socket.is_lite(), item.to.is_ipv4()));
        let Some(queue) = socket.queue_mut() else { return };
        if !queue.has_room(data.len(), limit) {
            self.counters.overflows += 1;
            if let Some((lite, v4)) = udp {
                let udp = self.net.mib.udp(lite, v4);
                udp.overflows += 1;
                udp.errors += 1;
            }
            return;
        }
        if let Some((lite, v4)) = udp {
            self.net.mib.udp(lite, v4).received += 1;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(data);
        queue.push(Item { data: buffer, ..item.clone() });
        self.mark(id);
    }

    /// A datagram's buffer, for another one.
    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE && buffer.capacity() <= SPARE_LEN {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Offers the oldest datagram with address and ancillary data.
    pub(crate) fn offer_datagram(
        &mut self,
        id: SocketId,
        from: &mut Vec<u8>,
        control: &mut Vec<u8>,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        let Some(socket) = self.sockets.get(id) else { return false };
        if let Body::Netlink(_) = socket.body {
            return self.offer_netlink(id, from, control, take);
        }
        let Some(queue) = socket.queue() else { return false };
        let Some(item) = queue.front() else { return false };
        from.clear();
        name(socket, item, from);
        let mut records = Control::new(control, usize::MAX);
        self.describe(&mut records, socket, item, queue.dropped);
        let taken = take(&Received { from, control, data: &item.data });
        if taken && let Some(item) = self.sockets.get_mut(id).and_then(Socket::queue_mut).and_then(Queue::pop)
        {
            self.recycle(item.data);
        }
        taken
    }

    fn describe(&self, records: &mut Control<'_>, socket: &Socket, item: &Item, dropped: u64) {
        let when = realtime(item.at, self.origin, self.realtime);
        describe(records, socket, item, when, &self.net.tables, dropped);
        if let Body::Packet(packet) = &socket.body {
            packet.describe(records, item);
        }
    }

    /// recvmsg(2) of what the engine still has.
    pub(crate) fn receive(
        &mut self,
        id: SocketId,
        length: usize,
        room: usize,
        flags: i32,
    ) -> Result<Done, Errno> {
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if flags & libc::MSG_ERRQUEUE != 0 {
            return self.receive_error(id, length, room).map(Done::Received);
        }
        if flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Body::Netlink(_) = socket.body {
            return self.receive_netlink(id, length, room, flags).map(Done::Received);
        }
        if let Some(error) = socket.take_error() {
            return Err(error);
        }
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let queue = socket.queue().ok_or(Errno::EOPNOTSUPP)?;
        let Some(item) = queue.front() else {
            return if socket.shut_receive {
                Ok(Done::Received(Message::default()))
            } else {
                Err(Errno::EAGAIN)
            };
        };
        let mut message = Message::default();
        let copied = item.data.len().min(length);
        message.data = item.data[..copied].to_vec();
        message.length = copied;
        if copied < item.data.len() {
            message.flags |= libc::MSG_TRUNC;
            if flags & libc::MSG_TRUNC != 0 {
                message.length = item.data.len();
            }
        }
        name(socket, item, &mut message.from);
        let mut records = Control::new(&mut message.control, room);
        self.describe(&mut records, socket, item, queue.dropped);
        if records.truncated {
            message.flags |= libc::MSG_CTRUNC;
        }
        if flags & libc::MSG_PEEK == 0
            && let Some(item) = self.sockets.get_mut(id).and_then(Socket::queue_mut).and_then(Queue::pop)
        {
            self.recycle(item.data);
        }
        Ok(Done::Received(message))
    }

    /// close(2) of a datagram socket.
    pub(crate) fn close_datagram(&mut self, now: Instant, id: SocketId) {
        let space = self.space_of(id);
        self.leave_flows(id);
        self.leave_table(id);
        self.leave_groups(now, id);
        let Some(socket) = self.sockets.remove(id) else { return };
        if socket.ownership != Ownership::None {
            self.ports.remove(space, socket.port, id);
        }
        if socket.is_raw() {
            self.raws.remove(socket.protocol, id);
        }
    }
}

/// The sender of a datagram as its program sees it.
fn name(socket: &Socket, item: &Item, out: &mut Vec<u8>) {
    match &item.from {
        Sender::Inet(endpoint) => write(socket.domain, endpoint, out),
        Sender::Link(ll) => write_ll(ll, out),
        Sender::Device(pkt) => out.extend_from_slice(pkt),
    }
}

/// The interface for a group, of those who chose one (IP_MULTICAST_IF, IPV6_MULTICAST_IF).
pub(crate) fn group_link(socket: &Socket, group: IpAddr) -> Option<crate::smol::tables::IfIndex> {
    if group.is_ipv4() { socket.options.ip.group_link } else { socket.options.ip6.group_link }
}

/// A peer for a datagram socket: may it be one?
fn judge_peer(socket: &Socket, bytes: &[u8]) -> Result<Endpoint, Errno> {
    let only = socket.options.ip6.only;
    match (socket.domain, family(bytes)) {
        (Domain::V4, _) if bytes.len() < address::IN_LEN => Err(Errno::EINVAL),
        (Domain::V4, Some(libc::AF_INET)) => address::parse_in(bytes),
        (Domain::V6, Some(libc::AF_INET)) if only => Err(Errno::EAFNOSUPPORT),
        (Domain::V6, Some(libc::AF_INET)) => address::parse_in(bytes),
        (Domain::V6, _) if bytes.len() < address::IN6_MIN => Err(Errno::EINVAL),
        (Domain::V6, Some(libc::AF_INET6)) if address::is_mapped(bytes) && only => Err(Errno::ENETUNREACH),
        (Domain::V6, Some(libc::AF_INET6)) => address::parse_in6(bytes),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}
