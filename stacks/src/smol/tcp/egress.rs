//! What a connection has to send, and when.
//!
//! # Theory of operation
//! First what is ours (RST, SYN, acknowledgements, keep-alive probes), then whatever smoltcp wants to send,
//! put into our words. The SYN is smoltcp's the first time, to begin it, and ours whenever it is repeated, as
//! smoltcp would take the loss of a SYN for congestion.
//!
//! smoltcp repeats data after a second at the earliest, and never gives up. So the retransmission timer is
//! ours; when it runs out, smoltcp is told that a minute went by, which makes its own run out.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use smoltcp::socket::tcp::State as Inner;

use super::Segment;
use super::connection::{Connection, Phase, Syn};
use super::machine::Tools;
use super::segment::{Bare, Flags, HEADER, Incoming, Outgoing, before, later};
use super::timers::{DATA_PATIENCE, handshake_gap};
use super::wire::{DRESS, REPLY, Wire};

/// What makes any timer of smoltcp's run out: its longest is a minute.
const A_MINUTE_US: i64 = 61_000_000;
/// How long an idle connection keeps its body and the rings' pages.
const DISCARD_AFTER: Duration = Duration::from_secs(2);
/// What is sent so soon after something was received is an answer to it (TCP_ATO_MIN).
const ANSWER: Duration = Duration::from_millis(40);
/// How long TCP_CORK holds data back (tcp(7)).
const CORK: Duration = Duration::from_millis(200);
/// If smoltcp says that it wants to send and then does not, ask it again after this.
const HICCUP: Duration = Duration::from_millis(1);
/// Segments in a row that smoltcp may make for nothing. It can be that many, where the peer has most of a
/// window already.
const MOST_SWALLOWED: u32 = 1 << 16;

impl Connection {
    /// Next segment to send, into `out` from `at` on, where [`DRESS`] bytes before it are free.
    pub(super) fn poll(
        &mut self,
        tools: &mut Tools,
        now: Instant,
        out: &mut [u8],
        at: usize,
    ) -> Option<Segment> {
        if self.quiet && self.wake.is_none_or(|wake| now < wake) {
            return None;
        }
        self.expire(tools, now);
        if let Some(segment) = self.poll_own(tools, now, out, at) {
            return Some(segment);
        }
        if self.phase == Phase::Open && self.body.is_some() {
            let mut silent = 0;
            for _ in 0..MOST_SWALLOWED {
                if self.is_corked(now) {
                    break;
                }
                let mut wire = Wire::new(&mut out[at - DRESS..]);
                tools.egress(now, self, &mut wire);
                let (Some(length), gso_size) = (wire.sent, wire.gso_size) else {
                    self.note_cwnd();
                    break;
                };
                let bytes = &mut out[at..at + length - DRESS];
                let data = bytes.len() - Outgoing::new(bytes).header_len();
                if self.translate(tools, now, bytes) {
                    let gso_size = if data > usize::from(gso_size) { gso_size } else { 0 };
                    self.counts.segments_out += 1;
                    return Some(Segment { range: at..at + length - DRESS, gso_size, data, again: false });
                }
                // One acknowledgement for nothing is news to us only; a second one would be its last word, too.
                silent += u32::from(data == 0);
                if silent > 1 {
                    break;
                }
            }
        }
        self.quiet = true;
        self.wake = self.next_deadline(tools, now);
        None
    }

    /// Segments without data, of our own making.
    fn poll_own(&mut self, tools: &mut Tools, now: Instant, out: &mut [u8], at: usize) -> Option<Segment> {
        let clock = tools.clock_ms(now);
        let length = if let Some((seq, ack)) = self.due.reset.take() {
            let flags = if ack { Flags::RST.with(Flags::ACK) } else { Flags::RST };
            let ack = if ack { self.receiving.next } else { 0 };
            Bare { seq, ack, flags, window: 0, urgent: None, sacks: &[], ..self.acknowledgement(clock) }
                .emit(&mut out[at..])
        } else if std::mem::take(&mut self.due.syn) {
            self.say_syn(tools, now, &mut out[at..])
        } else if self.due.acks > 0 {
            self.due.acks -= 1;
            self.receiving.acknowledged = self.receiving.next;
            self.acknowledgement(clock).emit(&mut out[at..])
        } else if std::mem::take(&mut self.due.probe) {
            let seq = self.sending.una.wrapping_sub(1);
            let urgent = self.urgent_pointer(seq);
            Bare { seq, urgent, sacks: &[], ..self.acknowledgement(clock) }.emit(&mut out[at..])
        } else {
            return None;
        };
        self.counts.segments_out += 1;
        Some(Segment { range: at..at + length, gso_size: 0, data: 0, again: false })
    }

    /// The SYN, with ACK if the peer's is known; the first time through smoltcp.
    fn say_syn(&mut self, tools: &mut Tools, now: Instant, out: &mut [u8]) -> usize {
        let answer = self.inner() != Inner::SynSent;
        if !self.begun {
            self.begin(tools, now);
            self.timers.timed = Some((self.sending.max, now));
            self.timers.stalled_since = Some(now);
        } else {
            self.counts.retransmits += 1;
            self.timers.timed = None;
        }
        if self.timers.retransmit_at.is_none() {
            let (gap, _) = handshake_gap(0, self.settings.syn_retries, !answer);
            self.timers.retransmit_at = Some(now + gap);
        }
        if answer {
            let edge = self.receiving.next.wrapping_add(u32::from(self.syn.window));
            self.receiving.edge = later(self.receiving.edge, edge);
        }
        let clock = tools.clock_ms(now).wrapping_add(self.stamps.offset);
        Bare {
            ports: self.ports,
            seq: self.sending.isn,
            ack: if answer { self.receiving.next } else { 0 },
            flags: if answer { Flags::SYN.with(Flags::ACK) } else { Flags::SYN },
            window: self.syn.window,
            urgent: None,
            mss: Some(self.mss_limit()),
            scale: self.syn.scale,
            sack_permitted: self.syn.sack,
            timestamps: self.syn.stamps.then_some((clock, self.stamps.recent)),
            sacks: &[],
        }
        .emit(out)
    }

    /// Has smoltcp say its SYN, to see what it chose.
    fn begin(&mut self, tools: &mut Tools, now: Instant) {
        let mut out = [0; REPLY];
        let mut wire = Wire::new(&mut out);
        tools.egress(now, self, &mut wire);
        let Some(length) = wire.sent else { return };
        let Some(theirs) = Incoming::parse(&out[DRESS..length]) else { return };
        self.begun = true;
        self.sending.shift_by = self.sending.isn.wrapping_sub(theirs.seq);
        self.sending.max = self.sending.isn.wrapping_add(1);
        self.syn = Syn {
            window: theirs.window,
            scale: theirs.scale,
            sack: theirs.sack_permitted,
            stamps: theirs.timestamps.is_some(),
        };
        if theirs.flags.has(Flags::ACK) {
            self.receiving.scale = theirs.scale.unwrap_or(0);
        }
    }

    /// Puts a segment of smoltcp's into our words. Returns whether it need go at all.
    fn translate(&mut self, tools: &Tools, now: Instant, bytes: &mut [u8]) -> bool {
        let length = bytes.len();
        let mut segment = Outgoing::new(bytes);
        let data = length - segment.header_len();
        let flags = segment.flags();
        if flags.has(Flags::RST) {
            return false;
        }
        let takes = data as u32 + flags.length();
        let ack = segment.ack().wrapping_add(self.receiving.shift_by);
        let widened = self.widen(ack.wrapping_add(u32::from(segment.window()) << self.receiving.scale));
        if takes == 0 {
            if ack == self.receiving.acknowledged && !widened {
                return false;
            }
            segment.set_seq(self.sending.max);
            self.receiving.answering = false;
        } else {
            let seq = segment.seq().wrapping_add(self.sending.shift_by);
            if self.sending.board.has(seq, seq.wrapping_add(takes)) {
                return false;
            }
            segment.set_seq(seq);
            let heard = self.timers.data_at.is_some_and(|at| now.saturating_duration_since(at) < ANSWER);
            self.receiving.answering |= data > 0 && heard;
            self.note_sent(now, seq, seq.wrapping_add(takes));
        }
        if let Some(pointer) = self.urgent_pointer(segment.seq()) {
            segment.set_urgent(pointer);
        }
        self.receiving.acknowledged = ack;
        segment.set_ack(ack);
        segment.set_window(self.window());
        segment.set_ports(self.ports);
        if segment.header_len() > HEADER {
            let stamp = self.stamp(tools.clock_ms(now)).unwrap_or_default();
            segment.set_timestamps(stamp);
        }
        true
    }

    /// smoltcp allows the peer up to `edge`. Returns whether it is worth a segment of its own.
    ///
    /// What scaling rounds off makes smoltcp's own edge go back and forth, and it drops what lies behind: so we
    /// promise that much less.
    pub(super) fn widen(&mut self, edge: u32) -> bool {
        let edge = edge.wrapping_sub((1 << self.receiving.scale) - 1);
        self.receiving.inner_edge = later(self.receiving.inner_edge, edge);
        self.open_window()
    }

    /// Allows the peer as much as we can, if that makes room for a whole segment (silly window syndrome, RFC 9293
    /// clause 3.8.6.2.2). Returns whether it is worth a segment of its own: the window doubles
    /// (tcp_cleanup_rbuf()).
    pub(super) fn open_window(&mut self) -> bool {
        let edge = self.farthest_edge();
        let gain = edge.wrapping_sub(self.receiving.edge);
        let least = u32::from(self.mss_limit()).min(self.rings.0 / 2);
        if self.receiving.finished || !before(self.receiving.edge, edge) || gain < least {
            return false;
        }
        let before = self.receiving.edge.wrapping_sub(self.receiving.next);
        self.receiving.edge = edge;
        gain >= before
    }

    /// Sequence numbers `from` to `to` go out.
    fn note_sent(&mut self, now: Instant, from: u32, to: u32) {
        if before(from, self.sending.max) {
            self.counts.retransmits += 1;
            self.timers.timed = None;
            self.sending.calm = false;
            if from == self.sending.una && self.timers.backoff == 0 {
                self.sending.recover.get_or_insert(self.sending.max);
            }
        } else if self.timers.timed.is_none() {
            self.timers.timed = Some((to, now));
        }
        self.sending.max = later(self.sending.max, to);
        self.timers.sent(now);
    }

    /// What is on its way when the peer's window holds nothing back, but data waits, is the congestion window.
    fn note_cwnd(&mut self) {
        let (in_flight, mss) = (self.in_flight(), u32::from(self.mss()));
        let queued = self.body.as_ref().map_or(0, |body| body.socket().send_queue());
        let limited = queued as u32 > in_flight + mss && in_flight + mss < self.send_window();
        if limited || in_flight as usize > self.cwnd {
            self.cwnd = in_flight as usize;
            self.sending.calm = false;
        }
    }

    /// TCP_CORK: nothing goes that would end in a short segment, for some time.
    fn is_corked(&mut self, now: Instant) -> bool {
        let queued = self.body.as_ref().map_or(0, |body| body.socket().send_queue());
        let unsent = queued.saturating_sub(self.in_flight() as usize);
        let held = self.settings.cork && self.sending.urgent.is_none();
        if !held || unsent == 0 || unsent >= usize::from(self.mss()) || self.send_room() == 0 {
            self.timers.uncork_at = None;
            return false;
        }
        *self.timers.uncork_at.get_or_insert(now + CORK) > now
    }

    /// Timers that ran out.
    fn expire(&mut self, tools: &mut Tools, now: Instant) {
        if self.timers.time_wait_until.is_some_and(|at| at <= now) {
            self.close(None);
        }
        if self.timers.retransmit_at.is_some_and(|at| at <= now) {
            if self.phase == Phase::Handshake {
                self.expire_handshake(now);
            } else {
                self.expire_data(tools, now);
            }
        }
        if self.patience_ends().is_some_and(|at| at <= now) {
            self.close(Some(Errno::ETIMEDOUT));
        }
        if self.keep_alive_at().is_some_and(|at| at <= now) {
            self.expire_keep_alive(now);
        }
        if self.unsaid_at().is_some_and(|at| at <= now) {
            self.timers.ack_at = None;
            self.due.acks = self.due.acks.max(1);
        }
        if self.timers.discard_at.is_some_and(|at| at <= now) {
            self.timers.discard_at = None;
            if self.is_idle() && self.is_fresh(now) {
                self.sleep();
            } else if let (true, Some(body)) = (self.is_empty(), &mut self.body) {
                body.discard();
            }
        }
    }

    fn expire_handshake(&mut self, now: Instant) {
        let linear = self.inner() == Inner::SynSent;
        let (_, last) = handshake_gap(self.timers.backoff, self.settings.syn_retries, linear);
        if last {
            self.close(Some(Errno::ETIMEDOUT));
            return;
        }
        self.timers.backoff += 1;
        let (gap, _) = handshake_gap(self.timers.backoff, self.settings.syn_retries, linear);
        self.timers.retransmit_at = Some(now + gap);
        self.due.syn = true;
    }

    fn expire_data(&mut self, tools: &mut Tools, now: Instant) {
        if self.in_flight() == 0 {
            self.timers.retransmit_at = None;
            return;
        }
        self.timers.expired(now);
        self.sending.recover = None;
        if self.timers.backoff > 1 {
            self.sending.board.forget();
        }
        if self.send_window() == 0 {
            // smoltcp must be told again, or it waits for nothing; then it probes by itself.
            let header = Bare {
                seq: self.receiving.next,
                ack: self.sending.una.wrapping_sub(self.sending.shift_by),
                flags: Flags::ACK,
                ..Bare::default()
            };
            tools.feed(now, self, &header, &[]);
        } else {
            self.ahead_us += A_MINUTE_US;
        }
    }

    /// When the peer has been silent for too long (RFC 9293 clause 3.8.3, TCP_USER_TIMEOUT). While it keeps
    /// its window shut but answers, it may take as long as it likes.
    fn patience_ends(&self) -> Option<Instant> {
        let mut since = self.timers.stalled_since?;
        if self.phase == Phase::Handshake {
            return Some(since + self.settings.user_timeout?);
        }
        if self.send_window() == 0 {
            since = since.max(self.timers.heard_at?);
        }
        Some(since + self.settings.user_timeout.unwrap_or(DATA_PATIENCE))
    }

    fn keep_alive_at(&self) -> Option<Instant> {
        let (idle, gap, _) = self.settings.keep_alive?;
        if self.phase != Phase::Open || self.in_flight() != 0 {
            return None;
        }
        Some(self.timers.probed_at.map_or(self.timers.heard_at? + idle, |at| at + gap))
    }

    /// tcp_keepalive_timer()
    fn expire_keep_alive(&mut self, now: Instant) {
        let Some((idle, _, most)) = self.settings.keep_alive else { return };
        let silent = self.timers.heard_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let dead = match self.settings.user_timeout {
            Some(patience) => self.timers.probes > 0 && silent >= patience.max(idle),
            None => self.timers.probes >= most,
        };
        if dead {
            self.due.reset = Some((self.sending.max, true));
            self.close(Some(Errno::ETIMEDOUT));
        } else {
            self.timers.probes += 1;
            self.timers.probed_at = Some(now);
            self.due.probe = true;
        }
    }

    /// Nothing in the rings, in order or not.
    fn is_empty(&self) -> bool {
        let Some(body) = &self.body else { return false };
        body.socket().send_queue() == 0
            && body.socket().recv_queue() == 0
            && !before(self.receiving.next, self.receiving.furthest)
    }

    /// When to acknowledge what smoltcp would have acknowledged.
    fn unsaid_at(&self) -> Option<Instant> {
        self.timers.ack_at.filter(|_| self.receiving.acknowledged != self.receiving.next)
    }

    /// When there is something to do if nothing happens first.
    pub(super) fn next_deadline(&mut self, tools: &mut Tools, now: Instant) -> Option<Instant> {
        if self.timers.discard_at.is_none()
            && (self.is_idle()
                || self.body.as_ref().is_some_and(|body| body.touched() > 0) && self.is_empty())
        {
            self.timers.discard_at = Some(now + DISCARD_AFTER);
        }
        let inner = if self.phase == Phase::Open { tools.poll_at(now, self) } else { None };
        let inner = inner.map(|at| if at <= now { now + HICCUP } else { at });
        let inner = self.timers.uncork_at.or(inner);
        [
            inner,
            self.timers.retransmit_at,
            self.timers.time_wait_until,
            self.timers.discard_at.filter(|_| self.body.is_some()),
            self.unsaid_at(),
            self.patience_ends(),
            self.keep_alive_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
