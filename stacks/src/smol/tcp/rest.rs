//! Idle connections: without smoltcp's part until something happens.
//!
//! # Theory of operation
//! An open connection with nothing in its rings, nothing on its way and nothing to say is a few numbers, all of which
//! are ours. So its body, smoltcp's socket and rings, can go to the next connection that needs one ([`Pool`]); the
//! connection is then [`Phase::Open`] and has no body. When bytes come or a program sends some, it takes a body again
//! ([`Connection::wake_up`]): one whose last connection was of the same [`Shape`] goes on from there, as smoltcp's
//! sequence numbers are its own anyway; for any other, the handshake is told to a new socket.
//!
//! What smoltcp knows and we do not is the state of congestion control, which outlives a pause of no more than a
//! retransmission timeout (tcp_cwnd_restart(), RFC 5681 clause 4.1). So a connection lets go earlier only if that is
//! what it was at the beginning: nothing was lost, and no more was on its way than the initial window.
//!
//! [`Pool`]: super::pool::Pool

use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State as Inner;

use super::connection::{Connection, Phase, inner_congestion};
use super::machine::Tools;
use super::pool::{Rest, Shape};
use super::segment::{Bare, Flags, Incoming, before};
use super::wire::{DRESS, PORTS, REPLY, Wire};

/// Segments that a used body may have acknowledged before it is made as new: each lets smoltcp's congestion window grow
/// by one, which the next connection shall not inherit.
const WORN_SEGMENTS: usize = 5;
/// And bytes that went through it: its receive ring wanders through memory, and shall not get far.
const WORN_BYTES: usize = 16 << 10;
/// How long an acknowledgement waits for data to go with it: smoltcp's own delay.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(10);

impl Connection {
    /// Nothing of it is in its body alone, congestion control apart.
    pub(super) fn is_idle(&self) -> bool {
        let Some(body) = &self.body else { return false };
        self.phase == Phase::Open
            && self.in_flight() == 0
            && body.socket().state() == Inner::Established
            && body.socket().send_queue() == 0
            && body.socket().recv_queue() == 0
            && self.receiving.fin.is_none()
            && !before(self.receiving.next, self.receiving.furthest)
    }

    /// Congestion control is as it was at the beginning, or forgotten by now.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.sending.calm
            || self.timers.heard_at.is_none_or(|at| now.saturating_duration_since(at) > self.timers.timeout())
    }

    /// What smoltcp has to know of it.
    fn shape(&self) -> Shape {
        let scaled = self.sending.scale != 0 || self.receiving.scale != 0;
        Shape {
            rings: self.rings,
            mss: self.sending.mss,
            scale: scaled.then_some(self.sending.scale),
            sack: self.receiving.sack,
            stamps: self.stamps.on,
            congestion: self.settings.congestion,
        }
    }

    /// Gives its body to whoever needs one, if that loses nothing. Returns whether it has none now.
    pub(super) fn rest(&mut self, tools: &mut Tools, now: Instant) -> bool {
        if !self.is_idle() || !self.is_fresh(now) {
            return self.body.is_none();
        }
        let room = self.receiving.inner_edge.wrapping_sub(self.receiving.next);
        self.widen_whole();
        let Some(mut body) = self.body.take() else { return true };
        let worn = body.used > (WORN_SEGMENTS * usize::from(self.sending.mss)).min(WORN_BYTES);
        body.rest = (!worn && room >= self.rings.0 / 4 * 3).then(|| Rest {
            shape: self.shape(),
            sequences: (
                self.sending.max.wrapping_sub(self.sending.shift_by),
                self.receiving.next.wrapping_sub(self.receiving.shift_by),
            ),
            ahead_us: self.ahead_us,
            window: self.sending.inner_window,
            room,
        });
        tools.pool.give_back(now, body);
        self.note_unsaid();
        self.wake = self.next_deadline(tools, now);
        self.quiet = true;
        true
    }

    /// It was idle for long: the memory goes.
    pub(super) fn sleep(&mut self) {
        self.widen_whole();
        self.body = None;
        self.note_unsaid();
    }

    /// The ring is empty: all of it is the window, and the next acknowledgement says so.
    fn widen_whole(&mut self) {
        let scale = self.receiving.scale;
        let whole = (self.rings.0 >> scale).min(u32::from(u16::MAX)) << scale;
        self.widen(self.receiving.next.wrapping_add(whole));
    }

    /// smoltcp would have acknowledged it; now we do.
    fn note_unsaid(&mut self) {
        if self.receiving.acknowledged != self.receiving.next {
            self.timers.ack_at = self.timers.data_at.map(|at| at + ACK_DELAY);
        }
    }

    /// Takes a body, to receive or to send.
    #[inline]
    pub(super) fn wake_up(&mut self, tools: &mut Tools, now: Instant) {
        if self.body.is_none() && self.phase == Phase::Open {
            self.take_body(tools, now);
        }
    }

    #[cold]
    fn take_body(&mut self, tools: &mut Tools, now: Instant) {
        let shape = self.shape();
        let mut body = tools.pool.take(self.rings);
        match body.rest.take().filter(|rest| rest.shape == shape) {
            Some(rest) => {
                self.body = Some(body);
                self.ahead_us = rest.ahead_us;
                self.sending.shift_by = self.sending.max.wrapping_sub(rest.sequences.0);
                self.receiving.shift_by = self.receiving.next.wrapping_sub(rest.sequences.1);
                self.receiving.inner_edge = self.receiving.next.wrapping_add(rest.room);
                self.apply();
                if rest.window != self.sending.window {
                    self.hear(tools, now, self.receiving.next, self.sending.una, &[]);
                }
                self.cwnd = self.initial_window();
            }
            None => {
                body.renew();
                self.body = Some(body);
                self.shake_hands(tools, now, &shape);
            }
        }
        self.sending.calm = true;
        self.stir();
    }

    /// Tells a new socket the handshake of long ago, with what was agreed on then.
    fn shake_hands(&mut self, tools: &mut Tools, now: Instant, shape: &Shape) {
        self.ahead_us = 0;
        self.receiving.shift_by = 0;
        let (stamps, congestion) = (shape.stamps, inner_congestion(shape.congestion));
        let Some(body) = &mut self.body else { return };
        let listening = body.with(|socket| {
            socket.set_tsval_generator(stamps.then_some(|| 0));
            socket.set_congestion_control(congestion);
            socket.listen(PORTS.0)
        });
        debug_assert!(listening.is_ok(), "a new socket listens");
        self.apply();
        let syn = Bare {
            seq: self.receiving.next.wrapping_sub(1),
            flags: Flags::SYN,
            window: self.sending.window,
            mss: Some(shape.mss),
            scale: shape.scale,
            sack_permitted: shape.sack,
            timestamps: stamps.then_some((1, 1)),
            ..Bare::default()
        };
        tools.feed(now, self, &syn, &[]);
        let mut out = [0; REPLY];
        let mut wire = Wire::new(&mut out);
        tools.egress(now, self, &mut wire);
        let answer = wire.sent.and_then(|length| Incoming::parse(&out[DRESS..length]));
        debug_assert!(answer.is_some(), "a SYN is answered");
        let first = answer.map_or(0, |answer| answer.end());
        self.sending.shift_by = self.sending.max.wrapping_sub(first);
        self.hear(tools, now, self.receiving.next, self.sending.una, &[]);
        debug_assert_eq!(self.inner(), Inner::Established);
        self.raise(tools, now);
    }
}
