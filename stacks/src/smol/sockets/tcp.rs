//! TCP sockets: from connection to close.
//!
//! # Theory of operation
//! A [`Stream`] owns at most one connection of the machine behind [`crate::smol::tcp`], and is what remains of
//! it: SS_* state, options, and on a listener the queues (`listener.rs`); its life after that is in `life.rs`.
//!
//! Urgent bytes lie in line, as with SO_OOBINLINE; the machine knows which is one. What MSG_OOB and SIOCATMARK make
//! of that is said where the program's bytes are.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use switch::ports::ring;

use super::address::Endpoint;
use super::listener::Listener;
use super::options::Options;
use super::options::tcp::TcpOptions;
use super::table::{Ends, Flow, listener_score};
use super::{Body, Socket};
use crate::smol::engine::{Engine, SocketId, Status};
use crate::smol::net::{Fragmenting, NetError, Packet, Wish};
use crate::smol::tcp::{Machine, Settings, State, Tcp, refuse};

/// What the machine keeps of a connection.
pub(crate) type Connection = <Machine as Tcp>::Connection;

/// net.ipv4.tcp_fin_timeout: how long an orphan waits for its peer's FIN.
pub(crate) const FIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Send and receive buffers of those who did not choose, in bytes: room for 8 Gbit/s over 3 ms. Linux's grow to 4
/// and 6 MiB. Less than a switch's ring holds, or one stream to a busy program would fill it and lose segments.
/// Memory is taken only for bytes that are there.
const AUTOMATIC_BUFFER: usize = ring::CAPACITY as usize / 4 * 3;
/// How often the neighbour is said to be well (RFC 4861's REACHABLE_TIME is 30 s).
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// Smallest TCP header, in bytes.
const HEADER: usize = 20;

/// SS_* of a stream socket (linux/net.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// SS_UNCONNECTED
    Unconnected,
    /// SS_CONNECTING: connect() was called, and nobody was told how it went.
    Connecting,
    /// SS_CONNECTED
    Connected,
}

/// What is kept of a SYN that was not answered yet.
#[derive(Debug)]
pub(crate) struct Knock(Packet<'static>);

impl Knock {
    /// Headers are enough for whoever is told of it.
    pub(crate) fn new(packet: &Packet<'_>) -> Self {
        let (header, payload) = (packet.header.to_vec(), packet.payload[..HEADER].to_vec());
        Self(Packet { header: Cow::Owned(header), payload: Cow::Owned(payload), ..*packet })
    }

    /// The SYN.
    pub(crate) fn packet(&self) -> &Packet<'static> {
        &self.0
    }
}

/// What a TCP socket has beside what all have.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) phase: Phase,
    pub(crate) connection: Option<Connection>,
    pub(crate) listener: Option<Box<Listener>>,
    /// The listener that took its SYN, until it is accepted.
    pub(crate) parent: Option<SocketId>,
    /// It waits to be let in, its handshake unanswered.
    pub(crate) knock: Option<Box<Knock>>,
    /// It waits to be accepted.
    pub(crate) queued: bool,
    /// It is in the list of those that may have something to send.
    pub(crate) ready: bool,
    /// It is in the list of those whose connections may be warm.
    pub(crate) warm: bool,
    /// It was established at some time.
    pub(crate) was_connected: bool,
    /// Established, or only the peer has finished, when last looked at.
    pub(crate) open: bool,
    /// It is in the list of TIME-WAITs without a program.
    pub(crate) time_wait: bool,
    /// It is in no table any more: only received bytes are left of it.
    pub(crate) detached: bool,
    /// When the socket layer ends it: an orphan's FIN-WAIT-2, TCP_DEFER_ACCEPT.
    pub(crate) give_up: Option<Instant>,
    /// When the neighbour was last said to be well.
    pub(crate) confirmed: Option<Instant>,
    pub(crate) options: TcpOptions,
}

impl Stream {
    pub(crate) fn new(options: TcpOptions) -> Self {
        Self {
            phase: Phase::Unconnected,
            connection: None,
            listener: None,
            parent: None,
            knock: None,
            queued: false,
            ready: false,
            warm: false,
            was_connected: false,
            open: false,
            time_wait: false,
            detached: false,
            give_up: None,
            confirmed: None,
            options,
        }
    }
}

impl Socket {
    /// A connection in TIME-WAIT that no program has.
    pub(crate) fn is_time_wait(&self) -> bool {
        self.stream().is_some_and(|stream| stream.time_wait)
    }

    /// Its place in the table of connections.
    pub(crate) fn flow(&self) -> Option<Flow> {
        self.peer.as_ref().map(|peer| Flow::new(self.local, self.port, peer))
    }
}

/// IP_MTU_DISCOVER as the network layer has it.
pub(crate) fn fragmenting(discover: u8) -> Fragmenting {
    match discover {
        1 => Fragmenting::Want,
        2 => Fragmenting::Never,
        3 | 4 => Fragmenting::Probe,
        _ => Fragmenting::Allowed,
    }
}

fn receive_buffer(options: &Options) -> usize {
    if options.receive_buffer_chosen { options.receive_buffer as usize } else { AUTOMATIC_BUFFER }
}

/// What a socket's options mean for its connection, on a way of a width that takes super-segments or not.
pub(crate) fn settings(
    options: &Options,
    tcp: &TcpOptions,
    (mtu, super_segments): (u32, bool),
    passive: bool,
) -> Settings {
    let send_buffer =
        if options.send_buffer_chosen { options.send_buffer as usize } else { AUTOMATIC_BUFFER };
    let seconds = |n: u32| Duration::from_secs(n.into());
    Settings {
        mtu,
        super_segments,
        max_segment: (tcp.max_segment != 0).then_some(tcp.max_segment),
        receive_buffer: receive_buffer(options),
        send_buffer,
        no_delay: tcp.no_delay,
        cork: tcp.cork,
        quick_ack: tcp.quick_ack,
        keep_alive: options
            .keep_alive
            .then(|| (seconds(tcp.keep_idle), seconds(tcp.keep_interval), tcp.keep_count.into())),
        user_timeout: (tcp.user_timeout != 0).then(|| Duration::from_millis(tcp.user_timeout.into())),
        syn_retries: match tcp.syn_count {
            0 if passive => 5, // net.ipv4.tcp_synack_retries
            0 => 6,            // net.ipv4.tcp_syn_retries
            n => n.into(),
        },
        congestion: tcp.congestion,
        timestamps: true,
    }
}

impl Engine {
    /// Asks again for the way to the peer, if routes have changed.
    pub(crate) fn refresh_path(&mut self, now: Instant, id: SocketId) {
        let generation = self.net.generation();
        let Some(socket) = self.sockets.get_mut(id) else { return };
        if socket.path.is_some_and(|path| path.generation == generation) {
            return;
        }
        let Some(peer) = socket.peer else { return };
        let wish = Wish {
            source: Some(socket.local).filter(|local| !local.is_unspecified()),
            link: socket.options.device.or_else(|| peer.link()),
            on_link: socket.options.dont_route,
        };
        let old = socket.path.map(|path| path.mtu);
        socket.path = self.net.route(peer.address, &wish).ok();
        if let (Some(path), Body::Stream(stream)) = (&socket.path, &mut socket.body)
            && let Some(connection) = &mut stream.connection
            && old != Some(path.mtu)
        {
            self.tcp.set_mtu(now, connection, path.mtu);
        }
    }

    /// Tells the connection what the socket's options are now.
    pub(crate) fn apply_settings(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(connection) = &mut stream.connection else { return };
        let mtu = socket.path.map_or(1500, |path| path.mtu);
        let settings = settings(&socket.options, &stream.options, (mtu, self.super_segments), false);
        self.tcp.set(now, connection, &settings);
        self.make_ready(id);
    }

    /// A TCP segment for us.
    pub(crate) fn tcp_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        let segment: &[u8] = &packet.payload;
        self.net.mib.tcp.received += match packet.gso_size {
            0 => 1,
            size => (segment.len() as u64).div_ceil(size.into()),
        };
        if segment.len() < HEADER {
            self.counters.malformed += 1;
            return;
        }
        if packet.group_frame || packet.destination.is_multicast() {
            return;
        }
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let ends = Ends {
            local: packet.destination,
            local_port: port(2),
            peer: Endpoint::heard(packet.source, port(0), packet.link, packet.flow_label),
            link: packet.link,
        };
        let flow = Flow::new(ends.local, ends.local_port, &ends.peer);
        let flags = segment[13];
        let (rst, syn, ack) = (flags & 4 != 0, flags & 2 != 0, flags & 16 != 0);
        if let Some(id) = self.streams.flow(&flow) {
            let fresh = syn && !ack && !rst;
            let over = fresh && self.sockets.get(id).is_some_and(Socket::is_time_wait);
            // A new connection may take the place of one in TIME-WAIT (RFC 9293 clause 3.6.1).
            if !over || self.find_listener(&ends).is_none() {
                return self.tcp_segment(now, id, packet);
            }
            self.drop_stream(id);
        }
        match self.find_listener(&ends) {
            Some(listener) if syn && !ack && !rst => self.handle_syn(now, listener, &ends, packet),
            _ if rst => {}
            _ => self.refuse(now, packet),
        }
    }

    fn find_listener(&self, ends: &Ends) -> Option<SocketId> {
        let found = self.streams.find(&self.sockets, &self.secret, ends, listener_score);
        found.or_else(|| self.catcher.filter(|_| self.net.transparent))
    }

    /// A segment of a connection we have.
    fn tcp_segment(&mut self, now: Instant, id: SocketId, packet: &Packet<'_>) {
        if self.must_wait(id, packet.payload[13]) || !self.passes_filter(id, packet) {
            return;
        }
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let v4 = packet.source.is_ipv4();
        let least = if v4 { socket.options.ip.min_ttl } else { socket.options.ip6.min_hops };
        if !socket.takes_link(packet.link) || packet.ttl < least {
            return;
        }
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(connection) = stream.connection.as_mut() else { return };
        let tcp = &mut self.tcp;
        let before = (tcp.received(connection), tcp.send_room(connection), tcp.state(connection));
        let congested = packet.tos & 3 == 3;
        let least_shown = socket.options.receive_low;
        let lends = self.lends && socket.held && stream.parent.is_none() && least_shown <= 1;
        if let (true, Cow::Borrowed(segment)) = (lends, &packet.payload) {
            let count = tcp.handle_segment_lending(now, connection, segment, congested);
            self.lent = (count > 0).then(|| (id, segment.len() - count..segment.len()));
        } else {
            tcp.handle_segment(now, connection, &packet.payload, congested);
        }
        let after = (tcp.received(connection), tcp.send_room(connection), tcp.state(connection));
        let (path, confirmed) = (socket.path, stream.confirmed);
        if after.1 > before.1
            && let Some(path) = path
            && confirmed.is_none_or(|at| now.saturating_duration_since(at) >= CONFIRM_EVERY)
        {
            stream.confirmed = Some(now);
            self.net.confirm(now, &path);
        }
        // Data for a program that is gone are data lost: say so (RFC 2525 clause 2.17).
        if after.0 > before.0 && !socket.held && stream.parent.is_none() {
            self.tcp.abort(now, connection);
        }
        self.make_ready(id);
        if before != after {
            self.mark(id);
            if before.2 != after.2 || self.waits_for_data(id) {
                self.observe(now, id);
            }
        }
    }

    /// Says RST to a segment of no connection.
    fn refuse(&mut self, now: Instant, packet: &Packet<'_>) {
        self.counters.no_socket += 1;
        let mut out = [0; HEADER];
        let Some(length) = refuse(&packet.payload, &mut out) else { return };
        let link = if super::address::needs_scope(packet.source) { Some(packet.link) } else { None };
        let wish = Wish { source: Some(packet.destination), link, on_link: false };
        let Ok(path) = self.net.route(packet.source, &wish) else { return };
        let datagram = super::send::plain(packet.source, libc::IPPROTO_TCP as u8, Some(16));
        self.net.mib.tcp.sent += 1;
        self.net.mib.tcp.resets_sent += 1;
        // A RST that does not arrive is as good as none.
        let _ = self.net.send(now, &path, &datagram, &[&out[..length]]);
    }

    /// An ICMP error about a segment of ours.
    pub(crate) fn tcp_error(&mut self, now: Instant, error: &NetError, quoted: &[u8]) {
        let Some(ports) = quoted.first_chunk::<4>() else { return };
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let peer = Endpoint::heard(error.destination, port(2), error.link, 0);
        let flow = Flow::new(error.source, port(0), &peer);
        let Some(id) = self.streams.flow(&flow) else { return };
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let Body::Stream(stream) = &mut socket.body else { return };
        let Some(connection) = &mut stream.connection else { return };
        // Whoever does not see the packets knows no sequence number of them (RFC 5927).
        let sequence = quoted.get(4..8).map(|b| u32::from_be_bytes(b.try_into().expect("four bytes")));
        if sequence.is_some_and(|sequence| !self.tcp.is_under_way(connection, sequence)) {
            self.counters.forged_errors += 1;
            return;
        }
        if error.errno == Errno::EMSGSIZE {
            self.tcp.set_mtu(now, connection, error.info);
            socket.path = None;
            self.net.set_path_mtu(now, error.destination, error.info);
            self.make_ready(id);
            return;
        }
        let state = self.tcp.state(connection);
        if matches!(state, State::SynSent | State::SynReceived) {
            self.end_stream(id, Some(error.errno));
        } else {
            // IP_RECVERR makes no difference: SO_ERROR of a stream means that it is over, and this is not.
            socket.soft_error = Some(error.errno);
        }
    }

    /// How a stream is doing.
    pub(crate) fn stream_status(&self, socket: &Socket, stream: &Stream) -> Status {
        if let Some(listener) = &stream.listener {
            return Status {
                readable: listener.queue.len(),
                listening: true,
                error: socket.error,
                ..Status::default()
            };
        }
        let connection = stream.connection.as_ref();
        let received = connection.map_or(0, |connection| self.tcp.received(connection));
        let live = connection.filter(|_| !stream.detached);
        let drained = match live {
            Some(connection) => self.tcp.is_drained(connection),
            None => stream.was_connected && received == 0,
        };
        // SO_RCVLOWAT: fewer bytes are not shown, unless no more will come or can come (tcp_stream_is_readable).
        let low =
            usize::try_from(socket.options.receive_low).unwrap_or(1).min(receive_buffer(&socket.options) / 2);
        let may_grow = live.is_some_and(|connection| {
            matches!(self.tcp.state(connection), State::Established | State::FinWait1 | State::FinWait2)
        });
        let urgent = connection.and_then(|connection| self.tcp.urgent(connection));
        let readable = if received < low && may_grow && urgent.is_none() { 0 } else { received };
        let room = match live {
            Some(connection) if !socket.shut_send && stream.was_connected => self.tcp.send_room(connection),
            _ => 0,
        };
        Status {
            readable,
            room,
            connecting: live.is_some() && !stream.was_connected,
            connected: stream.was_connected,
            listening: false,
            urgent,
            receive_finished: drained || (socket.shut_receive && received == 0),
            error: socket.error,
            describes: false,
        }
    }

    /// Bytes of the program for the peer.
    pub(crate) fn stream_send(
        &mut self,
        now: Instant,
        id: SocketId,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        let _ = now;
        let Some(socket) = self.sockets.get_mut(id) else { return 0 };
        let shut = socket.shut_send;
        let Body::Stream(stream) = &mut socket.body else { return 0 };
        if shut || stream.detached || !stream.was_connected {
            return 0;
        }
        let Some(connection) = &mut stream.connection else { return 0 };
        let sent = self.tcp.send_with(now, connection, fill);
        if sent > 0 {
            self.make_ready(id);
        }
        sent
    }

    /// The last byte of the program for the peer is urgent.
    pub(crate) fn stream_urge(&mut self, id: SocketId) {
        let Some(Body::Stream(stream)) = self.sockets.get_mut(id).map(|socket| &mut socket.body) else {
            return;
        };
        if let Some(connection) = stream.connection.as_mut().filter(|_| !stream.detached) {
            self.tcp.urge(connection);
            self.make_ready(id);
        }
    }

    /// Bytes of the peer for the program.
    pub(crate) fn stream_receive(
        &mut self,
        now: Instant,
        id: SocketId,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        let _ = now;
        let Some(Body::Stream(stream)) = self.sockets.get_mut(id).map(|socket| &mut socket.body) else {
            return 0;
        };
        let Some(connection) = &mut stream.connection else { return 0 };
        let taken = self.tcp.receive_with(connection, take);
        if stream.detached && self.tcp.received(connection) == 0 {
            stream.connection = None;
            self.mark(id);
        } else if taken > 0 {
            self.make_ready(id);
        }
        taken
    }
}
