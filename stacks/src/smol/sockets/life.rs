//! The life of a stream after its handshake: its states, its clocks, its end.
//!
//! # Theory of operation
//! After everything that may have changed a connection, [`Engine::observe`] compares its state with what the
//! socket made of it: a connect that succeeded or failed, a child that may be accepted, an orphan whose time
//! runs, an end. A connection outlives its program: an orphan goes on until its FIN is acknowledged, then
//! TIME-WAIT, for which the machine has the time. There are at most [`MAX_ORPHANS`] and [`MAX_TIME_WAITS`] of
//! them.
//!
//! Read: net/ipv4/tcp.c (tcp_close, tcp_disconnect), net/ipv4/tcp_timer.c, RFC 2525 clause 2.17.

use std::time::Instant;

use nix::errno::Errno;

use super::ports::Space;
use super::tcp::{Phase, settings};
use super::{Body, Ownership, Socket};
use crate::kernel::orphans::Unfinished;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tcp::{ORPHAN_PATIENCE, State, Tcp};

/// How many retransmissions in a row without an answer mean that the peer has gone (kernel/orphans.rs).
const GONE_AFTER: u32 = 3;
/// Connections without a program, at most (net.ipv4.tcp_max_orphans of a small machine).
pub(crate) const MAX_ORPHANS: usize = 8192;
/// TIME-WAITs, at most (net.ipv4.tcp_max_tw_buckets of a small machine).
pub(crate) const MAX_TIME_WAITS: usize = 16_384;
/// Segments said in haste before a connection is forgotten: its RST, and what the machine says before it.
const FLUSH: usize = 4;

impl Engine {
    /// Looks at what became of a connection.
    pub(crate) fn observe(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(connection) = stream.connection.as_mut() else { return };
        let state = self.tcp.state(connection);
        if state == State::Closed {
            let error = self.tcp.take_error(connection);
            return self.end_stream(id, error);
        }
        let up = !matches!(state, State::SynSent | State::SynReceived);
        stream.open = matches!(state, State::Established | State::CloseWait);
        if up && !stream.was_connected {
            stream.was_connected = true;
            self.net.mib.tcp.passive_opens += u64::from(stream.parent.is_some());
            self.mark(id);
        }
        let deadline = self.tcp_deadline(now, id, state);
        self.arm(id, deadline);
        if up {
            self.offer_to_listener(now, id);
        }
    }

    /// What is owed to a peer for a socket without a program, as the kernel's stacks judge it.
    pub(crate) fn owed(&self, socket: &Socket) -> Unfinished {
        let Body::Stream(stream) = &socket.body else { return Unfinished::Nothing };
        let Some(connection) = stream.connection.as_ref().filter(|_| !socket.held && stream.parent.is_none())
        else {
            return Unfinished::Nothing;
        };
        match self.tcp.state(connection) {
            State::FinWait1 | State::LastAck | State::Closing
                if self.tcp.info(connection).backoff < GONE_AFTER =>
            {
                Unfinished::Sending
            }
            State::FinWait2 => Unfinished::Waiting,
            _ => Unfinished::Nothing,
        }
    }

    /// When to look at a connection again, and the orphan's clocks.
    fn tcp_deadline(&mut self, now: Instant, id: SocketId, state: State) -> Option<Instant> {
        let socket = self.sockets.get_mut(id)?;
        let orphan = !socket.held;
        let Body::Stream(stream) = &mut socket.body else { return None };
        if orphan && stream.parent.is_none() {
            if state == State::FinWait2 && stream.give_up.is_none() {
                stream.give_up = Some(now + stream.options.fin_timeout());
            }
            if state == State::TimeWait && !stream.time_wait {
                stream.time_wait = true;
                stream.give_up = None;
                self.orphans -= 1;
                self.time_waits.push_back(id);
                self.bound_time_waits();
            }
        }
        let stream = self.sockets.get(id)?.stream()?;
        let machine = self.tcp.poll_timeout(now, stream.connection.as_ref()?);
        [machine, stream.give_up].into_iter().flatten().min()
    }

    /// A socket's deadline has passed.
    pub(crate) fn stream_expired(&mut self, now: Instant, id: SocketId) {
        let Some(stream) = self.sockets.get_mut(id).and_then(|socket| socket.stream_mut()) else { return };
        if stream.give_up.is_some_and(|at| at <= now) {
            if stream.parent.is_none() {
                return self.drop_stream(id);
            }
            // TCP_DEFER_ACCEPT waited long enough.
            stream.give_up = None;
            stream.options.defer_accept = 0;
            self.offer_to_listener(now, id);
        }
        self.make_ready(id);
    }

    /// Ends the oldest TIME-WAITs if there are too many.
    fn bound_time_waits(&mut self) {
        while self.time_waits.len() > MAX_TIME_WAITS {
            let Some(oldest) = self.time_waits.pop_front() else { break };
            if self.sockets.get(oldest).is_some_and(Socket::is_time_wait) {
                self.counters.time_waits_ended += 1;
                self.drop_stream(oldest);
            }
        }
    }

    /// A connection is over: nothing more will come of it but what was received.
    pub(crate) fn end_stream(&mut self, id: SocketId, error: Option<Errno>) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let flow = socket.flow();
        let Body::Stream(stream) = &mut socket.body else { return };
        if let Some(flow) = flow
            && !stream.detached
        {
            self.streams.remove_flow(&flow, id);
        }
        stream.detached = true;
        stream.give_up = None;
        let received = stream.connection.as_ref().map_or(0, |connection| self.tcp.received(connection));
        if received == 0 || (!socket.held && !stream.queued) {
            stream.connection = None;
        }
        let never = !stream.was_connected;
        self.net.mib.tcp.attempts_failed += u64::from(never);
        self.net.mib.tcp.resets += u64::from(std::mem::take(&mut stream.open));
        let (queued, parent) = (stream.queued, stream.parent);
        if error.is_some() {
            socket.error = if never { error } else { socket.error.or(error) };
        }
        self.arm(id, None);
        if self.sockets.get(id).is_some_and(|socket| socket.held) || queued {
            self.release_port(id, false);
            self.mark(id);
        } else {
            if let Some(parent) = parent {
                self.forget_embryo(parent, id);
            }
            self.drop_stream(id);
        }
    }

    /// Forgets a stream that no program has.
    pub(crate) fn drop_stream(&mut self, id: SocketId) {
        self.arm(id, None);
        self.release_port(id, true);
        let Some(socket) = self.sockets.remove(id) else { return };
        let Body::Stream(stream) = &socket.body else { return };
        self.net.mib.tcp.resets += u64::from(stream.open);
        if let Some(flow) = socket.flow() {
            self.streams.remove_flow(&flow, id);
        }
        if stream.time_wait {
            // Usually it is the oldest; others are left in the list and skipped there.
            if self.time_waits.front() == Some(&id) {
                self.time_waits.pop_front();
            }
        } else if !socket.held && stream.parent.is_none() {
            self.orphans = self.orphans.saturating_sub(1);
        }
    }

    /// connect(AF_UNSPEC), shutdown of a listener: back to the beginning.
    pub(crate) fn reset_stream(&mut self, now: Instant, id: SocketId) {
        self.stop_listening(now, id);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Body::Stream(stream) = &mut socket.body else { return };
        if let Some(connection) = &mut stream.connection
            && !stream.detached
        {
            let state = self.tcp.state(connection);
            if !matches!(state, State::TimeWait | State::Closed) {
                self.tcp.abort(now, connection);
                self.flush_stream(now, id);
                if let Some(socket) = self.sockets.get_mut(id) {
                    socket.error = Some(Errno::ECONNRESET);
                }
            }
        }
        self.end_quietly(id);
    }

    /// Takes a socket out of everything without a word, and makes it as new.
    pub(crate) fn end_quietly(&mut self, id: SocketId) {
        self.arm(id, None);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if let Some(flow) = socket.flow() {
            self.streams.remove_flow(&flow, id);
        }
        socket.peer = None;
        socket.path = None;
        (socket.shut_receive, socket.shut_send) = (false, false);
        let unspecified = socket.domain.unspecified();
        if !socket.chosen_address {
            socket.local = unspecified;
        }
        if let Body::Stream(stream) = &mut socket.body {
            stream.connection = None;
            stream.phase = Phase::Unconnected;
            stream.was_connected = false;
            stream.detached = false;
            stream.give_up = None;
        }
        self.release_port(id, false);
        if let Some(socket) = self.sockets.get_mut(id)
            && !socket.chosen_port
        {
            socket.port = 0;
        }
    }

    /// Sends at once what a connection has to say before it is forgotten (its RST).
    pub(crate) fn flush_stream(&mut self, now: Instant, id: SocketId) {
        for _ in 0..FLUSH {
            if !self.speak_once(now, id) {
                break;
            }
        }
    }

    /// close(2) of a stream.
    pub(crate) fn close_stream(&mut self, now: Instant, id: SocketId, unread: bool) {
        self.stop_listening(now, id);
        let Some(socket) = self.sockets.get_mut(id) else { return };
        socket.held = false;
        self.orphans += 1;
        let reset_wanted = socket.options.linger == Some(0);
        let user_timeout = (socket.options.clone(), socket.path.map_or(1500, |path| path.mtu));
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(connection) = stream.connection.as_mut().filter(|_| !stream.detached) else {
            return self.drop_stream(id);
        };
        let state = self.tcp.state(connection);
        let lost = unread || self.tcp.received(connection) > 0;
        let too_many = self.orphans > MAX_ORPHANS;
        if state == State::SynSent || state == State::Closed {
            return self.drop_stream(id);
        }
        if lost || reset_wanted || too_many {
            self.counters.orphans_ended += u64::from(too_many);
            self.tcp.abort(now, connection);
            self.flush_stream(now, id);
            return self.drop_stream(id);
        }
        if stream.options.user_timeout == 0 {
            stream.options.user_timeout = ORPHAN_PATIENCE.as_millis() as u32;
            let (options, mtu) = user_timeout;
            self.tcp.set(
                now,
                connection,
                &settings(&options, &stream.options, (mtu, self.super_segments), false),
            );
        }
        self.tcp.finish(now, connection);
        self.make_ready(id);
        self.observe(now, id);
    }

    /// Gives its port back, if it has one that it did not choose or is to have none any more.
    pub(crate) fn release_port(&mut self, id: SocketId, always: bool) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.ownership != Ownership::None && (always || !socket.chosen_port) {
            socket.ownership = Ownership::None;
            self.ports.remove(Space::Tcp, socket.port, id);
        }
    }
}
