//! A segment arrives: what a connection believes of it.
//!
//! # Theory of operation
//! RFC 9293 clause 3.10.7 in its order, with RFC 5961 (blind attacks), RFC 7323 clause 5 (PAWS) and the
//! leniencies of Linux's tcp_input.c. What survives is said to smoltcp in few and fixed forms: a clean header,
//! data cut to the window that we really promised (smoltcp takes the window of its SYN for a scaled one, and
//! would write behind its ring), an acknowledgement of what was really sent (smoltcp takes any that lies in
//! its send ring), a window that is the latest, a FIN when everything before it is there. RSTs, SYNs of
//! connections that have one, and everything in TIME-WAIT are settled here.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use smoltcp::socket::tcp::State as Inner;

use super::connection::{Connection, Phase};
use super::machine::Tools;
use super::rest::ACK_DELAY;
use super::segment::{Bare, Flags, Incoming, SACK_BLOCKS, before, later};
use super::wire::LONGEST_SEGMENT;

/// Between two answers to segments that should not be (tcp_invalid_ratelimit).
const CHALLENGE_GAP: Duration = Duration::from_millis(500);
/// How long TIME-WAIT lasts (TCP_TIMEWAIT_LEN).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// After so long a timestamp says nothing (RFC 7323 clause 5.5).
const STAMPS_OUTDATED: Duration = Duration::from_secs(24 * 86_400);
/// Most acknowledgements that wait at a time: three make the peer send again at once, more say nothing new.
const MOST_ACKS: u8 = 16;
/// How long an acknowledgement waits for data to go with it: smoltcp's own delay.
const INNER_ACK_DELAY: smoltcp::time::Duration =
    smoltcp::time::Duration::from_millis(ACK_DELAY.as_millis() as u64);

/// Data shorter than this is not lent: to copy it costs little, and its acknowledgement may wait.
const LEAST_LENT: usize = 8 << 10;

/// Duplicate acknowledgements that tell a loss (RFC 5681 clause 3.2).
const DUPLICATES: u32 = 3;
/// smoltcp's initial congestion window, in bytes.
const INNER_CWND: usize = 2048;
/// What it shall be, in segments (RFC 6928).
const INITIAL_SEGMENTS: u32 = 10;

impl Connection {
    /// Peer's SYN, for a passive open.
    pub(super) fn greet(&mut self, tools: &mut Tools, now: Instant, syn: &Incoming<'_>) -> bool {
        let listening =
            self.body.as_mut().is_some_and(|body| body.with(|it| it.listen(super::wire::PORTS.0).is_ok()));
        self.learn(now, syn);
        self.counts.segments_in = 1;
        tools.feed(now, self, &self.peer_syn(syn), &[]);
        listening && self.inner() == Inner::SynReceived
    }

    /// Any segment.
    pub(super) fn handle(&mut self, tools: &mut Tools, now: Instant, segment: &Incoming<'_>) {
        self.counts.segments_in += 1;
        self.stir();
        match (self.phase, self.inner()) {
            (Phase::Closed, _) => {}
            (Phase::TimeWait, _) => self.handle_late(now, segment),
            (Phase::Handshake, Inner::SynSent) => self.handle_answer(tools, now, segment),
            _ => self.handle_synchronized(tools, now, segment),
        }
        if matches!(self.phase, Phase::TimeWait | Phase::Closed) {
            self.shed();
        }
    }

    /// In SYN-SENT (RFC 9293 clause 3.10.7.3).
    fn handle_answer(&mut self, tools: &mut Tools, now: Instant, segment: &Incoming<'_>) {
        let flags = segment.flags;
        if flags.has(Flags::ACK) && (!self.begun || segment.ack != self.sending.max) {
            if !flags.has(Flags::RST) {
                self.due.reset = Some((segment.ack, false));
            }
            return;
        }
        if flags.has(Flags::RST) {
            if flags.has(Flags::ACK) {
                self.close(Some(Errno::ECONNREFUSED));
            }
            return;
        }
        if !flags.has(Flags::SYN) || flags.has(Flags::FIN) || !self.begun {
            return;
        }
        self.learn(now, segment);
        tools.feed(now, self, &self.peer_syn(segment), &[]);
        if flags.has(Flags::ACK) {
            self.receiving.acknowledged = segment.seq;
            self.advance(now, segment.ack);
            self.establish(tools, now);
        } else {
            // Both sides began (clause 3.5): our SYN again, with ACK.
            self.due.syn = true;
        }
    }

    /// Everything that a peer's SYN says.
    fn learn(&mut self, now: Instant, syn: &Incoming<'_>) {
        self.agree_on_mss(syn.mss);
        let first = syn.seq.wrapping_add(1);
        let receiving = &mut self.receiving;
        receiving.isn = syn.seq;
        receiving.start = first;
        receiving.next = first;
        receiving.acknowledged = first;
        receiving.furthest = first;
        receiving.edge = first.wrapping_add(u32::from(self.syn.window));
        receiving.scale = syn.scale.and(self.syn.scale).unwrap_or(0);
        receiving.sack = syn.sack_permitted;
        self.sending.scale = syn.scale.unwrap_or(0);
        self.sending.window = syn.window >> self.sending.scale;
        self.sending.window_seq = syn.seq;
        self.sending.most_window = u32::from(syn.window);
        if let (true, Some((value, _))) = (self.settings.timestamps, syn.timestamps) {
            self.stamps.on = true;
            self.stamps.recent = value;
            self.stamps.recent_at = Some(now);
        }
        self.timers.heard_at = Some(now);
    }

    /// A peer's SYN as smoltcp shall see it.
    fn peer_syn(&self, syn: &Incoming<'_>) -> Bare<'static> {
        Bare {
            seq: syn.seq,
            ack: syn.ack.wrapping_sub(self.sending.shift_by),
            flags: if syn.flags.has(Flags::ACK) { Flags::SYN.with(Flags::ACK) } else { Flags::SYN },
            window: syn.window,
            mss: Some(self.sending.mss),
            scale: syn.scale,
            sack_permitted: syn.sack_permitted,
            timestamps: self.stamps.on.then_some((1, 1)),
            ..Bare::default()
        }
    }

    /// The handshake is done.
    fn establish(&mut self, tools: &mut Tools, now: Instant) {
        self.phase = Phase::Open;
        self.due.syn = false;
        // smoltcp takes the window of its SYN for a scaled one.
        let scale = self.receiving.scale;
        let window = (u32::from(self.syn.window) << scale).min(self.rings.0);
        let window = window.saturating_sub((1 << scale) - 1);
        let first = self.receiving.isn.wrapping_add(1);
        self.receiving.inner_edge = later(self.receiving.edge, first.wrapping_add(window));
        self.cwnd = INNER_CWND;
        if self.counts.retransmits <= 1 {
            self.raise(tools, now);
        }
        if std::mem::take(&mut self.finish_later) {
            self.finish();
        }
    }

    /// Raises smoltcp's congestion window from its 2 KiB to ten segments (RFC 6928).
    /// A window grows as data is acknowledged; so some is queued, bytes that nobody wrote and nobody will
    /// send, and acknowledged, a segment at a time.
    pub(super) fn raise(&mut self, tools: &mut Tools, now: Instant) {
        self.cwnd = INNER_CWND;
        let (mss, target) = (u32::from(self.sending.mss), self.initial_window());
        while self.cwnd < target
            && let Some(body) = &mut self.body
        {
            let step = (target - self.cwnd).min(mss as usize);
            let queued = body.with(|socket| socket.send(|room| (step.min(room.len()), step.min(room.len()))));
            let Ok(queued) = queued else { return };
            self.sending.shift_by = self.sending.shift_by.wrapping_sub(queued as u32);
            self.hear(tools, now, self.receiving.next, self.sending.una, &[]);
            self.cwnd += queued;
            if queued == 0 {
                return;
            }
        }
    }

    /// Ten segments, in bytes, if the peer's window is as large.
    pub(super) fn initial_window(&self) -> usize {
        let segments = INITIAL_SEGMENTS * u32::from(self.sending.mss);
        segments.min(u32::from(u16::MAX).max(self.send_window())) as usize
    }

    /// In every state with a peer that is known (RFC 9293 clause 3.10.7.4).
    fn handle_synchronized(&mut self, tools: &mut Tools, now: Instant, segment: &Incoming<'_>) {
        let flags = segment.flags;
        if self.phase == Phase::Handshake && flags == Flags::SYN && segment.seq == self.receiving.isn {
            self.due.syn = true;
            return;
        }
        if !self.is_acceptable(now, segment) {
            if !flags.has(Flags::RST) {
                self.answer_unacceptable(now, segment);
            }
            return;
        }
        if flags.has(Flags::RST) {
            if segment.seq == self.receiving.next {
                self.handle_reset();
            } else {
                self.challenge(now);
            }
            return;
        }
        if flags.has(Flags::SYN) {
            self.challenge(now);
            return;
        }
        if !flags.has(Flags::ACK) {
            self.counts.dropped += 1;
            return;
        }
        if self.phase == Phase::Handshake {
            if !self.begun || segment.ack != self.sending.max {
                self.due.reset = Some((segment.ack, false));
                return;
            }
        } else {
            let oldest = self.sending.una.wrapping_sub(self.sending.most_window);
            if before(self.sending.max, segment.ack) || before(segment.ack, oldest) {
                self.counts.dropped += 1;
                self.challenge(now);
                return;
            }
        }
        self.timers.heard_at = Some(now);
        self.timers.probes = 0;
        self.timers.probed_at = None;
        self.note_stamp(now, segment);
        self.take_in(tools, now, segment);
    }

    /// PAWS, and Linux's form of the test for sequence numbers (tcp_sequence()): a zero window does not keep
    /// acknowledgements out.
    fn is_acceptable(&self, now: Instant, segment: &Incoming<'_>) -> bool {
        if let (true, Some((value, _))) = (self.stamps.on, segment.timestamps)
            && !segment.flags.has(Flags::RST)
            && before(value, self.stamps.recent)
            && self.stamps.recent_at.is_some_and(|at| now.saturating_duration_since(at) < STAMPS_OUTDATED)
        {
            return false;
        }
        !before(segment.end(), self.receiving.acknowledged) && !before(self.receiving.edge, segment.seq)
    }

    /// Data gets an acknowledgement, as it may be there already; others only now and then.
    fn answer_unacceptable(&mut self, now: Instant, segment: &Incoming<'_>) {
        self.counts.dropped += 1;
        if segment.payload.is_empty() || segment.flags.has(Flags::SYN) {
            self.challenge(now);
        } else {
            self.acknowledge();
        }
    }

    /// An acknowledgement to who may not be the peer, not too often (RFC 5961 clause 7).
    fn challenge(&mut self, now: Instant) {
        if self.timers.challenge_at.is_none_or(|at| at <= now) {
            self.timers.challenge_at = Some(now + CHALLENGE_GAP);
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.due.acks = (self.due.acks + 1).min(MOST_ACKS);
    }

    /// The peer resets (tcp_reset()).
    fn handle_reset(&mut self) {
        let error = match self.inner() {
            Inner::CloseWait => Errno::EPIPE,
            Inner::SynReceived => Errno::ECONNREFUSED,
            _ => Errno::ECONNRESET,
        };
        self.close(Some(error));
    }

    /// TS.Recent (RFC 7323 clause 4.3).
    fn note_stamp(&mut self, now: Instant, segment: &Incoming<'_>) {
        if let (true, Some((value, _))) = (self.stamps.on, segment.timestamps)
            && !before(self.receiving.acknowledged, segment.seq)
        {
            self.stamps.recent = value;
            self.stamps.recent_at = Some(now);
        }
    }

    /// Acknowledgement, window, data and FIN of an acceptable segment.
    fn take_in(&mut self, tools: &mut Tools, now: Instant, segment: &Incoming<'_>) {
        let una = self.sending.una;
        let stale = before(segment.ack, una);
        let shut = self.sending.window == 0;
        let news = self.note_window(segment, stale);
        if shut && self.sending.window != 0 {
            self.timers.reopened(now);
        }
        self.note_fin(segment);
        self.note_urgent(segment);
        let (seq, mut payload) = self.cut(segment);
        if !payload.is_empty() {
            self.receiving.pushed = segment.flags.has(Flags::PSH);
            self.timers.data_at = Some(now);
        }
        let lent = tools.lends && self.may_lend(segment, payload);
        if lent {
            tools.lent = payload.len();
            payload = &[];
        }
        let again = segment.payload.is_empty() && !segment.flags.has(Flags::FIN) && !stale;
        let max = self.sending.max;
        if !stale && self.sending.board.note(&segment.sacks, segment.ack, max) && segment.ack == una && !again
        {
            // Something was lost; smoltcp sees it in acknowledgements that say nothing else.
            self.hear(tools, now, self.receiving.next, una, &[]);
        }
        if !payload.is_empty() {
            self.wake_up(tools, now);
        }
        if self.body.is_some() && (!payload.is_empty() || news || again || before(una, segment.ack)) {
            let ack = later(segment.ack, una);
            self.hear(tools, now, seq, ack, payload);
            if before(una, ack) {
                self.advance(now, ack);
                self.recover(tools, now);
            }
        }
        if payload.is_empty() && !segment.payload.is_empty() && !lent {
            self.acknowledge();
        }
        self.follow(tools, now);
    }

    /// Long data that comes next, and nothing waits before or behind it.
    fn may_lend(&self, segment: &Incoming<'_>, data: &[u8]) -> bool {
        data.len() >= LEAST_LENT
            && data.len() == segment.payload.len()
            && segment.seq == self.receiving.next
            && self.receiving.furthest == self.receiving.next
            && self.received() == 0
            && !segment.flags.has(Flags::FIN)
            && self.receiving.urgent.is_none()
            && matches!(self.inner(), Inner::Established | Inner::FinWait1 | Inner::FinWait2)
    }

    /// The program has the first `taken` of the bytes that were lent to it: smoltcp's sequence numbers stay where
    /// they are, and so does its window, while the peer's go on. smoltcp gets the rest.
    pub(super) fn settle(&mut self, tools: &mut Tools, now: Instant, lent: &[u8], taken: usize) {
        let (past, rest) = lent.split_at(taken.min(lent.len()));
        let (count, receiving) = (past.len() as u32, &mut self.receiving);
        receiving.shift_by = receiving.shift_by.wrapping_add(count);
        receiving.start = receiving.start.wrapping_add(count);
        receiving.next = receiving.next.wrapping_add(count);
        receiving.furthest = receiving.next;
        receiving.edge = receiving.edge.wrapping_add(count);
        receiving.inner_edge = receiving.inner_edge.wrapping_add(count);
        self.counts.bytes_received += u64::from(count);
        if rest.is_empty() {
            self.grow(past.len());
            self.receiving.edge = later(self.receiving.edge, self.farthest_edge());
        }
        if count > 0 {
            // More than a segment, as a rule: see `hear`.
            self.due.acks = self.due.acks.max(1);
        }
        if !rest.is_empty() {
            self.wake_up(tools, now);
            self.hear(tools, now, self.receiving.next, self.sending.una, rest);
        }
        self.follow(tools, now);
        self.stir();
    }

    /// A loss was noticed, and not all that was on its way then is acknowledged: the next segment is lost, too
    /// (RFC 6582 clause 3.2). smoltcp sends it after three duplicates.
    fn recover(&mut self, tools: &mut Tools, now: Instant) {
        self.sending.board.acknowledge(self.sending.una);
        let Some(recover) = self.sending.recover else { return };
        if !before(self.sending.una, recover) {
            self.sending.recover = None;
            return;
        }
        for _ in 0..DUPLICATES {
            self.hear(tools, now, self.receiving.next, self.sending.una, &[]);
        }
    }

    /// The peer's window, if this is the latest word on it (tcp_may_update_window()). Is it another one?
    fn note_window(&mut self, segment: &Incoming<'_>, stale: bool) -> bool {
        let sending = &mut self.sending;
        let newer = before(sending.una, segment.ack)
            || before(sending.window_seq, segment.seq)
            || (sending.window_seq == segment.seq
                && (segment.window > sending.window || segment.window == 0));
        if stale || !newer {
            return false;
        }
        sending.window_seq = segment.seq;
        let changed = sending.window != segment.window;
        sending.window = segment.window;
        sending.most_window = sending.most_window.max(u32::from(segment.window) << sending.scale);
        changed
    }

    /// Remembers where the peer's data ends, if that is within the window.
    fn note_fin(&mut self, segment: &Incoming<'_>) {
        let at = segment.seq.wrapping_add(segment.payload.len() as u32);
        let receiving = &mut self.receiving;
        if segment.flags.has(Flags::FIN)
            && receiving.fin.is_none()
            && !before(receiving.edge, at)
            && !before(at, receiving.furthest)
        {
            receiving.fin = Some(at);
        }
    }

    /// The data that we promised to take, and where it begins.
    fn cut<'s>(&self, segment: &Incoming<'s>) -> (u32, &'s [u8]) {
        let receiving = &self.receiving;
        let end = segment.seq.wrapping_add(segment.payload.len() as u32);
        let limit = receiving.fin.filter(|&fin| before(fin, receiving.edge)).unwrap_or(receiving.edge);
        let from = later(segment.seq, receiving.next);
        let to = if before(limit, end) { limit } else { end };
        if receiving.finished || !before(from, to) {
            return (receiving.next, &[]);
        }
        let skip = from.wrapping_sub(segment.seq) as usize;
        let length = (to.wrapping_sub(from) as usize).min(LONGEST_SEGMENT - 20);
        (from, &segment.payload[skip..skip + length])
    }

    /// Says it to smoltcp, and learns what that made of it.
    pub(super) fn hear(&mut self, tools: &mut Tools, now: Instant, seq: u32, ack: u32, payload: &[u8]) {
        let end = seq.wrapping_add(payload.len() as u32);
        if !payload.is_empty() {
            // More than a segment is acknowledged at once, also if it comes as one (tcp_ack_snd_check()).
            let idle = self.receiving.acknowledged == self.receiving.next;
            let at_once = self.settings.quick_ack || (idle && payload.len() > usize::from(self.mss()));
            if let Some(body) = &mut self.body {
                body.touch_receive(payload.len());
                body.with(|socket| socket.set_ack_delay((!at_once).then_some(INNER_ACK_DELAY)));
            }
        }
        let header = Bare {
            seq,
            ack: ack.wrapping_sub(self.sending.shift_by),
            flags: Flags::ACK,
            window: self.window_to_say(ack),
            ..Bare::default()
        };
        self.sending.inner_window = header.window;
        let next = self.receiving.next;
        let reply = tools.feed(now, self, &header, payload);
        self.measure();
        if payload.is_empty() {
            return;
        }
        if next != self.receiving.next {
            self.receiving.furthest = later(self.receiving.furthest, later(end, self.receiving.next));
            self.forget_sacks();
        }
        if let Some((ack, window)) = reply {
            self.widen(ack.wrapping_add(u32::from(window) << self.receiving.scale));
            self.acknowledge();
            if next == self.receiving.next {
                self.receiving.furthest = later(self.receiving.furthest, end);
                self.note_sack(seq, end);
            }
        }
    }

    /// The peer's window as smoltcp shall see it. Where there will be nothing to send any more, a shut window
    /// means nothing, and smoltcp, probing it without data, would send acknowledgements without end.
    fn window_to_say(&self, ack: u32) -> u16 {
        let Some(body) = &self.body else { return 0 };
        let left = ack.wrapping_sub(self.sending.una) < body.socket().send_queue() as u32;
        self.sending.window.max(u16::from(!left && !body.socket().may_send()))
    }

    /// An out-of-order range to tell the peer, first (RFC 2018 clause 4).
    fn note_sack(&mut self, mut from: u32, mut to: u32) {
        let receiving = &mut self.receiving;
        let mut kept = [(0, 0); SACK_BLOCKS];
        let mut count = 1;
        for &(left, right) in &receiving.sacks[..usize::from(receiving.sack_count)] {
            if !before(right, from) && !before(to, left) {
                from = if before(left, from) { left } else { from };
                to = later(to, right);
            } else if count < SACK_BLOCKS {
                kept[count] = (left, right);
                count += 1;
            }
        }
        kept[0] = (from, to);
        receiving.sacks = kept;
        receiving.sack_count = count as u8;
    }

    /// Forgets the ranges that are in order now.
    fn forget_sacks(&mut self) {
        let receiving = &mut self.receiving;
        let mut count = 0;
        for at in 0..usize::from(receiving.sack_count) {
            if before(receiving.next, receiving.sacks[at].0) {
                receiving.sacks[count] = receiving.sacks[at];
                count += 1;
            }
        }
        receiving.sack_count = count as u8;
    }

    /// The peer acknowledged up to `ack`.
    pub(super) fn advance(&mut self, now: Instant, ack: u32) {
        let bytes = ack.wrapping_sub(self.sending.una);
        self.counts.bytes_acked += u64::from(bytes);
        if let Some(body) = &mut self.body {
            body.used += bytes as usize;
        }
        self.sending.una = ack;
        self.note_urgent_taken();
        self.timers.acknowledged(now, ack, ack == self.sending.max);
    }

    /// What follows from what smoltcp knows now.
    fn follow(&mut self, tools: &mut Tools, now: Instant) {
        if self.phase == Phase::Handshake && !matches!(self.inner(), Inner::SynReceived | Inner::Listen) {
            self.establish(tools, now);
        }
        if self.receiving.fin == Some(self.receiving.next) && !self.receiving.finished {
            self.wake_up(tools, now);
            let header = Bare {
                seq: self.receiving.next,
                ack: self.sending.una.wrapping_sub(self.sending.shift_by),
                flags: Flags::FIN.with(Flags::ACK),
                window: self.window_to_say(self.sending.una),
                ..Bare::default()
            };
            tools.feed(now, self, &header, &[]);
            self.receiving.finished = true;
            self.receiving.furthest = self.receiving.next.wrapping_add(1);
            self.measure();
            self.acknowledge();
        }
        match self.inner() {
            Inner::TimeWait => {
                self.phase = Phase::TimeWait;
                self.timers.retransmit_at = None;
                self.timers.stalled_since = None;
                self.timers.time_wait_until = Some(now + TIME_WAIT);
            }
            Inner::Closed => self.close(None),
            _ => {}
        }
    }

    /// In TIME-WAIT. A new SYN ends it (RFC 6191, and RFC 9293 clause 3.6.1): the caller looks for a listener.
    fn handle_late(&mut self, now: Instant, segment: &Incoming<'_>) {
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            if segment.seq == self.receiving.next {
                self.close(None);
            }
        } else if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && self.is_newer(segment) {
            self.close(None);
        } else if !segment.payload.is_empty() || flags.has(Flags::FIN) {
            self.timers.time_wait_until = Some(now + TIME_WAIT);
            self.acknowledge();
        } else if segment.seq != self.receiving.next || flags.has(Flags::SYN) {
            self.challenge(now);
        }
    }

    /// A SYN that no old duplicate can be.
    fn is_newer(&self, syn: &Incoming<'_>) -> bool {
        match (self.stamps.on, syn.timestamps) {
            (true, Some((value, _))) if value != self.stamps.recent => before(self.stamps.recent, value),
            _ => before(self.receiving.next, syn.seq),
        }
    }
}
