//! One connection: what we know of it beside smoltcp, and what a program does with it.
//!
//! Sequence numbers here are those on the wire. smoltcp chooses its own initial one; [`Sending::shift_by`] is
//! the difference.

use std::fmt;
use std::time::Instant;

use nix::errno::Errno;
use smoltcp::socket::tcp::{CongestionControl, State as Inner};

use super::pool::Pool;
use super::scoreboard::Scoreboard;
use super::segment::{Bare, Flags, SACK_BLOCKS, before};
use super::slab::Body;
use super::timers::Timers;
use super::{Congestion, Ends, Info, Settings, State};

/// Smallest ring, in bytes: Linux's SOCK_MIN_RCVBUF, rounded.
const LEAST_RING: usize = 2048;
/// Largest: Linux's tcp_rmem and tcp_wmem end at 6 and 4 MiB; SO_RCVBUFFORCE goes further.
pub(super) const MOST_RING: usize = 64 << 20;
/// Bytes that may wait for a program that has not shown yet how fast it reads.
const FIRST_LIMIT: u32 = 1 << 20;
/// MSS of a peer that names none (RFC 9293 clause 3.7.1).
const DEFAULT_MSS: (u16, u16) = (536, 1220);
/// Smallest MSS that we believe (Linux's TCP_MIN_SND_MSS).
const LEAST_MSS: u16 = 48;
/// Longest IP packet.
const LONGEST_PACKET: u32 = 65_535;
/// A TCP header without options.
const HEADER: u32 = 20;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its SYN is not acknowledged.
    Handshake,
    /// smoltcp knows more.
    Open,
    /// Both sides have finished; late segments are answered.
    TimeWait,
    /// Over.
    Closed,
}

/// The sending half.
#[derive(Debug, Clone, Default)]
pub(super) struct Sending {
    /// Initial sequence number.
    pub(super) isn: u32,
    /// Oldest one that is not acknowledged.
    pub(super) una: u32,
    /// Behind the last one that was ever sent.
    pub(super) max: u32,
    /// To add to smoltcp's to get ours.
    pub(super) shift_by: u32,
    /// The peer's window as it says it.
    pub(super) window: u16,
    /// Window scale of the peer.
    pub(super) scale: u8,
    /// Segment that the window is from (RFC 9293 clause 3.3.1, SND.WL1).
    pub(super) window_seq: u32,
    /// Largest window ever.
    pub(super) most_window: u32,
    /// Data and options that fit one segment, as negotiated.
    pub(super) mss: u16,
    /// The same, now that the way got narrower.
    pub(super) narrow: Option<u16>,
    /// What the peer has out of order.
    pub(super) board: Scoreboard,
    /// Behind what was on its way when a loss was noticed; until that is acknowledged, more may be lost.
    pub(super) recover: Option<u32>,
    /// Behind the last urgent byte, until that is acknowledged (SND.UP).
    pub(super) urgent: Option<u32>,
    /// Nothing was sent again, and never more than the initial window was on its way, since smoltcp was new to it.
    pub(super) calm: bool,
    /// The peer's window as smoltcp was told last.
    pub(super) inner_window: u16,
}

/// The receiving half.
#[derive(Debug, Clone, Default)]
pub(super) struct Receiving {
    /// Peer's initial sequence number.
    pub(super) isn: u32,
    /// Of the first byte that the program has not taken.
    pub(super) start: u32,
    /// Next one expected.
    pub(super) next: u32,
    /// Last one that we acknowledged.
    pub(super) acknowledged: u32,
    /// Behind the last one that we ever allowed.
    pub(super) edge: u32,
    /// Behind the last one that smoltcp would take at least.
    pub(super) inner_edge: u32,
    /// Most bytes that may wait for the program; it grows as the program keeps up (Linux's receive buffer
    /// auto-tuning).
    pub(super) limit: u32,
    /// To add to smoltcp's sequence numbers to get the peer's: bytes that went past smoltcp.
    pub(super) shift_by: u32,
    /// Behind the last byte that lies in the ring, in order or not.
    pub(super) furthest: u32,
    /// Our window scale.
    pub(super) scale: u8,
    /// Where the peer's FIN is.
    pub(super) fin: Option<u32>,
    /// It was reached.
    pub(super) finished: bool,
    /// The last urgent byte, until it is taken (RCV.UP).
    pub(super) urgent: Option<u32>,
    /// The peer pushed what it sent last.
    pub(super) pushed: bool,
    /// What we send acknowledges what we receive; no need to do that by itself (Linux's pingpong mode).
    pub(super) answering: bool,
    /// SACK is agreed on.
    pub(super) sack: bool,
    /// Out-of-order ranges, the latest first.
    pub(super) sacks: [(u32, u32); SACK_BLOCKS],
    /// How many of them.
    pub(super) sack_count: u8,
}

/// Timestamps (RFC 7323 clause 3).
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps {
    /// Agreed on.
    pub(super) on: bool,
    /// Ours start here.
    pub(super) offset: u32,
    /// TS.Recent.
    pub(super) recent: u32,
    /// When that was heard.
    pub(super) recent_at: Option<Instant>,
}

/// What waits to be sent beside what smoltcp wants to send.
#[derive(Debug, Clone, Default)]
pub(super) struct Due {
    /// The SYN, or SYN with ACK.
    pub(super) syn: bool,
    /// Acknowledgements, one segment each.
    pub(super) acks: u8,
    /// A RST with this sequence number, and with ACK?
    pub(super) reset: Option<(u32, bool)>,
    /// A keep-alive probe.
    pub(super) probe: bool,
}

/// Counters.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) bytes_acked: u64,
    pub(super) bytes_received: u64,
    pub(super) segments_out: u64,
    pub(super) segments_in: u64,
    pub(super) retransmits: u64,
    /// Segments that made no sense here.
    pub(super) dropped: u64,
}

/// One connection.
pub struct Connection {
    /// smoltcp's part; gone when nothing is left to be done by it, and while there is nothing to do (`rest`).
    pub(super) body: Option<Box<Body>>,
    /// What was its body, on the way to the next connection.
    pub(super) spent: Option<Box<Body>>,
    /// Bytes of its rings: to receive, to send.
    pub(super) rings: (u32, u32),
    pub(super) settings: Settings,
    pub(super) ports: (u16, u16),
    /// Bytes of an IP header.
    pub(super) ip_header: u8,
    pub(super) phase: Phase,
    pub(super) error: Option<Errno>,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    pub(super) stamps: Stamps,
    pub(super) timers: Timers,
    pub(super) due: Due,
    pub(super) counts: Counts,
    /// The program finished before the handshake did.
    pub(super) finish_later: bool,
    /// How much later it is for smoltcp than for us, in microseconds.
    pub(super) ahead_us: i64,
    /// smoltcp was offered its first words: the SYN.
    pub(super) begun: bool,
    /// Nothing to send before [`Connection::wake`], unless something happens.
    pub(super) quiet: bool,
    /// See `quiet`.
    pub(super) wake: Option<Instant>,
    /// Most that was ever on its way when the congestion window held more back.
    pub(super) cwnd: usize,
    /// The SYN, to be repeated.
    pub(super) syn: Syn,
}

/// What our SYN says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Syn {
    pub(super) window: u16,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) stamps: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("ports", &self.ports)
            .field("state", &self.state())
            .field("sending", &self.sending)
            .field("receiving", &self.receiving)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that has said nothing yet.
    pub(super) fn new(pool: &mut Pool, ends: &Ends, settings: &Settings, isn: u32, offset: u32) -> Self {
        let ring = |bytes: usize| bytes.clamp(LEAST_RING, MOST_RING) as u32;
        let mut body = pool.take((ring(settings.receive_buffer), ring(settings.send_buffer)));
        body.renew();
        let rings = body.rings();
        body.with(|socket| {
            socket.set_tsval_generator(settings.timestamps.then_some(|| 0));
            socket.set_congestion_control(inner_congestion(settings.congestion));
        });
        let mut connection = Self {
            body: Some(body),
            spent: None,
            rings: (rings.0 as u32, rings.1 as u32),
            settings: settings.clone(),
            ports: (ends.local_port, ends.peer_port),
            ip_header: if ends.local.is_ipv4() { 20 } else { 40 },
            phase: Phase::Handshake,
            error: None,
            sending: Sending { isn, una: isn, max: isn, calm: true, ..Sending::default() },
            receiving: Receiving { limit: FIRST_LIMIT, ..Receiving::default() },
            stamps: Stamps { offset, ..Stamps::default() },
            timers: Timers::default(),
            due: Due { syn: true, ..Due::default() },
            counts: Counts::default(),
            finish_later: false,
            ahead_us: 0,
            begun: false,
            quiet: false,
            wake: None,
            cwnd: 0,
            syn: Syn::default(),
        };
        connection.sending.mss = connection.mss_limit();
        connection.apply();
        connection
    }

    /// Passes settings on to smoltcp.
    pub(super) fn apply(&mut self) {
        // Urgent data wait for nothing (tcp_nagle_test()).
        let (no_delay, settings) = (self.settings.no_delay || self.sending.urgent.is_some(), &self.settings);
        let congestion = inner_congestion(settings.congestion);
        let Some(body) = &mut self.body else { return };
        body.with(|socket| {
            socket.set_nagle_enabled(!no_delay);
            if socket.congestion_control() != congestion {
                socket.set_congestion_control(congestion);
            }
        });
    }

    /// Data and options that fit one segment, as far as the way and the socket allow.
    pub(super) fn mss_limit(&self) -> u16 {
        let way = self.settings.mtu.min(LONGEST_PACKET).saturating_sub(u32::from(self.ip_header) + HEADER);
        let way = u16::try_from(way).unwrap_or(u16::MAX).max(LEAST_MSS);
        self.settings.max_segment.map_or(way, |limit| way.min(limit.max(LEAST_MSS)))
    }

    /// The MSS towards a peer that names `theirs`.
    pub(super) fn agree_on_mss(&mut self, theirs: Option<u16>) -> u16 {
        let default = if self.ip_header == 20 { DEFAULT_MSS.0 } else { DEFAULT_MSS.1 };
        let theirs = theirs.filter(|&size| size != 0).unwrap_or(default);
        self.sending.mss = theirs.max(LEAST_MSS).min(self.mss_limit());
        self.sending.mss
    }

    /// The MSS in force.
    pub(super) fn mss(&self) -> u16 {
        self.sending.narrow.map_or(self.sending.mss, |narrow| narrow.min(self.sending.mss))
    }

    /// The way or the socket's wish changed: segments of no more than that.
    pub(super) fn narrow(&mut self) {
        let limit = self.mss_limit();
        self.sending.narrow = (self.phase != Phase::Handshake && limit < self.sending.mss).then_some(limit);
    }

    /// smoltcp's idea of the state.
    pub(super) fn inner(&self) -> Inner {
        match &self.body {
            Some(body) => body.socket().state(),
            None if self.phase == Phase::Open => Inner::Established,
            None => Inner::Closed,
        }
    }

    pub(super) fn state(&self) -> State {
        match (self.phase, self.inner()) {
            (Phase::Closed, _) => State::Closed,
            (Phase::TimeWait, _) | (_, Inner::TimeWait) => State::TimeWait,
            (_, Inner::Closed) => State::Closed,
            (_, Inner::SynSent) => State::SynSent,
            (_, Inner::Listen | Inner::SynReceived) => State::SynReceived,
            (_, Inner::Established) => State::Established,
            (_, Inner::FinWait1) => State::FinWait1,
            (_, Inner::FinWait2) => State::FinWait2,
            (_, Inner::CloseWait) => State::CloseWait,
            (_, Inner::Closing) => State::Closing,
            (_, Inner::LastAck) => State::LastAck,
        }
    }

    /// Something happened: it may have something to send.
    pub(super) fn stir(&mut self) {
        self.quiet = false;
    }

    pub(super) fn send_room(&self) -> usize {
        let Some(body) = &self.body else {
            return if self.phase == Phase::Open { self.rings.1 as usize } else { 0 };
        };
        let socket = body.socket();
        if self.finish_later || self.phase != Phase::Open || !socket.may_send() {
            return 0;
        }
        socket.send_capacity() - socket.send_queue()
    }

    pub(super) fn send_with(&mut self, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> usize {
        let mut sum = 0;
        while self.send_room() > 0
            && let Some(body) = &mut self.body
        {
            let piece = body.with(|socket| {
                socket.send(|room| {
                    let length = fill(room).min(room.len());
                    (length, length)
                })
            });
            match piece {
                Ok(length) if length > 0 => {
                    body.touch_send(length);
                    sum += length;
                }
                _ => break,
            }
        }
        if sum > 0 {
            self.stir();
        }
        sum
    }

    pub(super) fn received(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.socket().recv_queue())
    }

    pub(super) fn receive_with(&mut self, take: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let mut sum = 0;
        while self.received() > 0
            && let Some(body) = &mut self.body
        {
            let piece = body.with(|socket| {
                socket.recv(|bytes| {
                    let length = take(bytes).min(bytes.len());
                    (length, length)
                })
            });
            match piece {
                Ok(length) if length > 0 => sum += length,
                _ => break,
            }
        }
        if sum > 0 {
            self.receiving.start = self.receiving.start.wrapping_add(sum as u32);
            self.forget_urgent();
            if self.received() == 0 {
                self.grow(sum);
            }
            if self.phase == Phase::Open && self.open_window() {
                self.due.acks = self.due.acks.max(1);
            }
            self.note_read();
            self.stir();
            self.shed();
        }
        sum
    }

    /// The program took `count` bytes, all there were: more may wait for it.
    pub(super) fn grow(&mut self, count: usize) {
        let limit = self.receiving.limit.saturating_add(count as u32);
        self.receiving.limit = limit.min(self.rings.0.max(FIRST_LIMIT));
    }

    /// The window's edge: what smoltcp would take, and no more than may wait for the program.
    pub(super) fn farthest_edge(&self) -> u32 {
        let most = self.receiving.start.wrapping_add(self.receiving.limit);
        if before(most, self.receiving.inner_edge) { most } else { self.receiving.inner_edge }
    }

    /// The program read what the peer had pushed. If it does not answer, the peer may wait for an
    /// acknowledgement to send more (RFC 9293 clause 3.7.4); so there is one now (tcp_cleanup_rbuf()).
    fn note_read(&mut self) {
        let receiving = &self.receiving;
        let unsaid = receiving.acknowledged != receiving.next;
        if receiving.pushed
            && !receiving.answering
            && unsaid
            && self.received() == 0
            && self.phase == Phase::Open
        {
            self.due.acks = self.due.acks.max(1);
            self.receiving.pushed = false;
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.receiving.finished && self.received() == 0
    }

    /// Lets go of smoltcp's part when nobody needs it any more.
    pub(super) fn shed(&mut self) {
        if matches!(self.phase, Phase::TimeWait | Phase::Closed) && self.received() == 0 {
            self.spent = self.body.take();
        }
    }

    pub(super) fn finish(&mut self) {
        self.stir();
        match self.inner() {
            Inner::SynSent => self.close(None),
            Inner::Listen | Inner::SynReceived => self.finish_later = true,
            _ => {
                if let Some(body) = &mut self.body {
                    body.with(|socket| socket.close());
                }
            }
        }
    }

    pub(super) fn abort(&mut self) {
        if matches!(self.phase, Phase::Open | Phase::Handshake) && self.inner() != Inner::SynSent {
            self.due.reset = Some((self.sending.max, true));
        }
        self.close(None);
    }

    /// It is over.
    pub(super) fn close(&mut self, error: Option<Errno>) {
        self.phase = Phase::Closed;
        self.error = self.error.or(error);
        self.due = Due { reset: self.due.reset, ..Due::default() };
        self.timers = Timers { round_trip: self.timers.round_trip, ..Timers::default() };
        self.stir();
        self.shed();
    }

    /// The peer's window, in bytes.
    pub(super) fn send_window(&self) -> u32 {
        u32::from(self.sending.window) << self.sending.scale
    }

    /// Sent and not acknowledged.
    pub(super) fn in_flight(&self) -> u32 {
        self.sending.max.wrapping_sub(self.sending.una)
    }

    /// Where everything that was received in order ends, after smoltcp took something in.
    pub(super) fn measure(&mut self) {
        let queued = self.received() as u32;
        let next = self.receiving.start.wrapping_add(queued).wrapping_add(u32::from(self.receiving.finished));
        self.counts.bytes_received += u64::from(next.wrapping_sub(self.receiving.next));
        self.receiving.next = next;
    }

    /// What follows what was promised: the window to say with our own segments. It never promises more than
    /// smoltcp did, as that drops what it did not promise.
    pub(super) fn window(&self) -> u16 {
        let open = self.receiving.edge.wrapping_sub(self.receiving.next) >> self.receiving.scale;
        u16::try_from(open).unwrap_or(u16::MAX)
    }

    /// Our timestamp and the peer's, if they were agreed on.
    pub(super) fn stamp(&self, clock_ms: u32) -> Option<(u32, u32)> {
        self.stamps.on.then(|| (clock_ms.wrapping_add(self.stamps.offset), self.stamps.recent))
    }

    /// An acknowledgement of everything received.
    pub(super) fn acknowledgement(&self, clock_ms: u32) -> Bare<'_> {
        let count = if self.receiving.sack { usize::from(self.receiving.sack_count) } else { 0 };
        Bare {
            ports: self.ports,
            seq: self.sending.max,
            ack: self.receiving.next,
            flags: Flags::ACK,
            window: self.window(),
            urgent: self.urgent_pointer(self.sending.max),
            timestamps: self.stamp(clock_ms),
            sacks: &self.receiving.sacks[..count],
            ..Bare::default()
        }
    }

    pub(super) fn info(&self) -> Info {
        let queued = self.body.as_ref().map_or(0, |body| body.socket().send_queue());
        let in_flight = self.in_flight() as usize;
        let trip = &self.timers.round_trip;
        let options = if self.stamps.on { 12 } else { 0 };
        Info {
            rtt: trip.smoothed.unwrap_or_default(),
            rtt_var: trip.variation,
            rto: self.timers.timeout(),
            cwnd: self.cwnd.max(in_flight),
            ssthresh: usize::MAX,
            send_mss: self.mss() - options,
            receive_mss: self.mss_limit() - options,
            send_scale: self.sending.scale,
            receive_scale: self.receiving.scale,
            timestamps: self.stamps.on,
            sack: self.receiving.sack,
            unacked: in_flight,
            unsent: queued.saturating_sub(in_flight),
            bytes_acked: self.counts.bytes_acked,
            bytes_received: self.counts.bytes_received,
            segments_out: self.counts.segments_out,
            segments_in: self.counts.segments_in,
            retransmits: self.counts.retransmits,
            backoff: self.timers.backoff,
            send_window: self.send_window() as usize,
            receive_window: self.receiving.edge.wrapping_sub(self.receiving.next) as usize,
        }
    }
}

pub(super) fn inner_congestion(congestion: Congestion) -> CongestionControl {
    match congestion {
        Congestion::Cubic => CongestionControl::Cubic,
        Congestion::Reno => CongestionControl::Reno,
    }
}
