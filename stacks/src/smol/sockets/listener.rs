//! Listeners: from a SYN to accept(2).
//!
//! # Theory of operation
//! A SYN makes a whole socket, a *child*, that shares its listener's options. It is an *embryo* until the
//! handshake's last segment, then it waits in the accept queue. As in Linux the queue takes one more than the
//! backlog; while it is full, SYNs are dropped, and so are the segments that would finish a handshake, which
//! the peer's SYN-ACK timer repairs. Embryos are bounded on their own: the oldest goes when there are too many,
//! so that a flood of SYNs delays handshakes and prevents none that is quicker than the flood fills the queue.
//!
//! Read: net/ipv4/tcp_ipv4.c (tcp_conn_request), listen(2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::address::{emit, scope_of};
use super::ports::{Claim, Space};
use super::table::{Ends, Flow};
use super::tcp::{Knock, Phase, Stream, settings};
use super::{Body, Ownership, Socket};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::{Packet, Wish};
use crate::smol::tcp::{self, State, Tcp};

/// net.core.somaxconn: the longest accept queue.
const SOMAXCONN: i32 = 4096;
/// Handshakes under way, per listener (net.ipv4.tcp_max_syn_backlog of a small machine).
const MAX_EMBRYOS: usize = 256;

/// What a listener has.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Connections that may wait, less one.
    pub(crate) backlog: usize,
    /// Handshakes under way, oldest first.
    pub(crate) embryos: VecDeque<SocketId>,
    /// How many of them there may be.
    pub(crate) most_embryos: usize,
    /// Connections that wait to be accepted.
    pub(crate) queue: VecDeque<SocketId>,
    /// Connections that wait to be accepted elsewhere.
    pub(crate) lent: usize,
}

impl Default for Listener {
    fn default() -> Self {
        let (embryos, queue) = (VecDeque::new(), VecDeque::new());
        Self { backlog: 0, embryos, most_embryos: MAX_EMBRYOS, queue, lent: 0 }
    }
}

impl Listener {
    fn is_full(&self) -> bool {
        self.queue.len() + self.lent > self.backlog
    }
}

impl Engine {
    /// listen(2)
    pub(crate) fn listen(&mut self, now: Instant, id: SocketId, backlog: i32) -> Result<(), Errno> {
        let Some(socket) = self.sockets.get_mut(id) else { return Err(Errno::EBADF) };
        let Body::Stream(stream) = &mut socket.body else { return Err(Errno::EOPNOTSUPP) };
        let backlog = if (0..=SOMAXCONN).contains(&backlog) { backlog } else { SOMAXCONN };
        if let Some(listener) = &mut stream.listener {
            listener.backlog = backlog as usize;
            return Ok(());
        }
        if stream.phase != Phase::Unconnected || stream.connection.is_some() {
            return Err(Errno::EINVAL);
        }
        if socket.port == 0 || socket.ownership == Ownership::None {
            // One that the stack gave was given back when the socket stopped to listen.
            let port = if socket.chosen_port { socket.port } else { 0 };
            self.claim_port(Space::Tcp, id, port)?;
        } else {
            let claim = Claim { local: socket.local, uid: socket.uid };
            let port = socket.port;
            let Some(socket) = self.sockets.get(id) else { return Err(Errno::EBADF) };
            if self.ports.conflicts(&self.sockets, (Space::Tcp, port), id, (socket, claim), false) {
                return Err(Errno::EADDRINUSE);
            }
        }
        let Some(socket) = self.sockets.get_mut(id) else { return Err(Errno::EBADF) };
        let (local, port) = (socket.local, socket.port);
        if let Body::Stream(stream) = &mut socket.body {
            let listener = Listener { backlog: backlog as usize, ..Listener::default() };
            stream.listener = Some(Box::new(listener));
            stream.was_connected = false;
        }
        self.streams.add(local, port, id);
        let _ = now;
        self.mark(id);
        Ok(())
    }

    /// A listener listens no more: what nobody accepted is reset.
    pub(crate) fn stop_listening(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let (local, port) = (socket.local, socket.port);
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(listener) = stream.listener.take() else { return };
        self.streams.remove(local, port, id);
        for embryo in listener.embryos {
            self.drop_stream(embryo);
        }
        for child in listener.queue {
            self.abort_child(now, child);
        }
        self.mark(id);
    }

    pub(crate) fn abort_child(&mut self, now: Instant, id: SocketId) {
        if let Some(stream) = self.sockets.get_mut(id).and_then(Socket::stream_mut)
            && let Some(connection) = stream.connection.as_mut().filter(|_| !stream.detached)
        {
            self.tcp.abort(now, connection);
            self.flush_stream(now, id);
        }
        self.drop_stream(id);
    }

    /// How many connections wait elsewhere.
    pub(crate) fn set_lent(&mut self, id: SocketId, count: usize) {
        if let Some(listener) = self.listener_mut(id) {
            listener.lent = count;
        }
    }

    /// A SYN for a listener.
    pub(crate) fn handle_syn(&mut self, now: Instant, id: SocketId, ends: &Ends, packet: &Packet<'_>) {
        if !self.passes_filter(id, packet) {
            return;
        }
        let Some(parent) = self.sockets.get_mut(id) else { return };
        let (domain, uid, device) = (parent.domain, parent.uid, parent.options.device);
        let options = Arc::clone(&parent.options);
        let (chosen_address, kind) = (parent.chosen_address, parent.kind);
        let Body::Stream(stream) = &mut parent.body else { return };
        let tcp_options = stream.options.clone();
        let Some(listener) = &mut stream.listener else { return };
        if listener.is_full() {
            self.counters.listen_overflows += 1;
            return;
        }
        let oldest =
            if listener.embryos.len() >= listener.most_embryos { listener.embryos.pop_front() } else { None };
        if let Some(oldest) = oldest {
            self.counters.listen_overflows += 1;
            self.drop_stream(oldest);
        }
        let wish =
            Wish { source: Some(ends.local), link: device.or_else(|| ends.peer.link()), on_link: false };
        let Ok(path) = self.net.route(ends.peer.address, &wish) else { return };
        let both = tcp::Ends {
            local: ends.local,
            local_port: ends.local_port,
            peer: ends.peer.address,
            peer_port: ends.peer.port,
        };
        let settings = settings(&options, &tcp_options, (path.mtu, self.super_segments), true);
        let Some(connection) = self.tcp.accept(now, &both, &settings, &packet.payload) else { return };
        let mut stream = Stream::new(tcp_options);
        stream.connection = Some(connection);
        stream.parent = Some(id);
        stream.phase = Phase::Connected;
        stream.knock = self.net.transparent.then(|| Box::new(Knock::new(packet)));
        let mut child =
            Box::new(Socket::new(domain, kind, libc::IPPROTO_TCP as u16, uid, options, Body::Stream(stream)));
        child.held = false;
        child.chosen_address = chosen_address;
        child.local = ends.local;
        child.port = ends.local_port;
        child.peer = Some(ends.peer);
        child.path = Some(path);
        child.ownership = Ownership::Bound;
        child.cookie = self.next_cookie();
        let Some(child) = self.sockets.insert(child) else { return };
        let flow = Flow::new(ends.local, ends.local_port, &ends.peer);
        self.streams.add_flow(flow, child);
        self.ports.add(Space::Tcp, ends.local_port, child);
        if let Some(listener) = self.listener_mut(id) {
            listener.embryos.push_back(child);
        }
        if let Some(knocks) = &mut self.knocks {
            return knocks.push_back((id, child));
        }
        self.make_ready(child);
        self.observe(now, child);
    }

    pub(crate) fn listener_mut(&mut self, id: SocketId) -> Option<&mut Listener> {
        self.sockets.get_mut(id)?.stream_mut()?.listener.as_deref_mut()
    }

    /// Whether a segment would finish a handshake for which there is no room: it is dropped, and the peer will
    /// hear our SYN-ACK again.
    pub(crate) fn must_wait(&mut self, id: SocketId, flags: u8) -> bool {
        let Some(stream) = self.sockets.get(id).and_then(Socket::stream) else { return false };
        if stream.knock.is_some() {
            return flags & 4 == 0;
        }
        let (Some(parent), false) = (stream.parent, stream.queued) else { return false };
        let Some(connection) = &stream.connection else { return false };
        if flags & 4 != 0 || self.tcp.state(connection) != State::SynReceived {
            return false;
        }
        let listener = self.sockets.get(parent).and_then(Socket::stream).and_then(|s| s.listener.as_deref());
        let full = listener.is_some_and(Listener::is_full);
        self.counters.listen_overflows += u64::from(full);
        full
    }

    /// TCP_DEFER_ACCEPT holds it back until there are data.
    pub(crate) fn waits_for_data(&self, id: SocketId) -> bool {
        let stream = self.sockets.get(id).and_then(Socket::stream);
        stream.is_some_and(|s| s.parent.is_some() && !s.queued && s.options.defer_accept > 0)
    }

    /// A child whose handshake is through goes to the accept queue.
    pub(crate) fn offer_to_listener(&mut self, now: Instant, id: SocketId) {
        let Some(stream) = self.sockets.get_mut(id).and_then(Socket::stream_mut) else { return };
        let (Some(parent), false) = (stream.parent, stream.queued) else { return };
        let received = stream.connection.as_ref().map_or(0, |connection| self.tcp.received(connection));
        if stream.options.defer_accept > 0 && received == 0 {
            if stream.give_up.is_none() {
                let wait = Duration::from_secs(stream.options.defer_accept.into());
                stream.give_up = Some(now + wait);
                self.arm(id, Some(now + wait));
            }
            return;
        }
        stream.queued = true;
        stream.give_up = None;
        let Some(listener) = self.listener_mut(parent) else { return self.abort_child(now, id) };
        listener.embryos.retain(|embryo| *embryo != id);
        listener.queue.push_back(id);
        self.mark(parent);
    }

    /// A handshake failed.
    pub(crate) fn forget_embryo(&mut self, parent: SocketId, id: SocketId) {
        if let Some(listener) = self.listener_mut(parent) {
            listener.embryos.retain(|embryo| *embryo != id);
        }
    }

    /// accept(2)
    pub(crate) fn take_connection(&mut self, now: Instant, id: SocketId) -> Option<(SocketId, Vec<u8>)> {
        let listener = self.listener_mut(id)?;
        let child = listener.queue.pop_front()?;
        let more = !listener.queue.is_empty();
        let socket = self.sockets.get_mut(child)?;
        socket.held = true;
        // The socket's own device is the listener's; a link-local peer ties it to its link.
        let peer = socket.peer.map(|peer| emit(socket.domain, &peer)).unwrap_or_default();
        let stream = socket.stream_mut()?;
        (stream.parent, stream.queued) = (None, false);
        self.mark(child);
        if more {
            self.mark(id);
        }
        self.observe(now, child);
        Some((child, peer))
    }

    /// The scope id a socket shows for an address of its own.
    pub(crate) fn own_scope(socket: &Socket) -> u32 {
        let link =
            socket.options.device.or_else(|| socket.peer.as_ref().and_then(super::address::Endpoint::link));
        link.map_or(0, |link| scope_of(socket.local, link))
    }
}
