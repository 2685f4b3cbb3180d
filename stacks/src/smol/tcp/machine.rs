//! [`Tcp`] by smoltcp's TCP sockets.
//!
//! # Theory of operation
//! A [`Connection`] is a smoltcp socket, alone in a `SocketSet`, behind a guard. The guard reads every segment
//! before smoltcp does (`ingress`) and puts every segment of smoltcp's into our words (`egress`); it owns what
//! smoltcp has wrong or not at all: initial sequence numbers (`isn`), timestamps, PAWS, SACK blocks,
//! retransmission timeout, retry limits and keep-alive (`timers`), resets, TIME-WAIT. smoltcp keeps reassembly,
//! rings, segmentation, Nagle, congestion control, window and probes of it. It lives in a small world of its
//! own (`wire`), its rings in memory that costs nothing while empty (`slab`). Long data that comes in order while
//! nothing waits need not pass through smoltcp and its ring: the caller may have it from the segment.
//!
//! Each connection has its own clock towards smoltcp, ours or later: skipping time makes smoltcp repeat data
//! when we say so. An idle connection has no smoltcp socket at all (`rest`). The `Interface`s, which smoltcp needs to be called at all, are shared: their only state
//! that matters is the longest packet.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use smoltcp::iface::Interface;
use smoltcp::time::Instant as InnerInstant;

pub use super::connection::Connection;
use super::connection::Phase;
use super::isn::Secret;
use super::pool::Pool;
use super::segment::{Bare, Flags, Incoming};
use super::wire::{DRESS, REPLY, Wire, dress, interface};
use super::{Ends, Info, Segment, Settings, State, Tcp};

/// smoltcp's clock when ours begins: it takes zero for "at once".
const INNER_EPOCH_US: i64 = 1_000_000_000;
/// Most interfaces. One or two serve everything but narrowed ways; beyond, the oldest is made anew.
const MOST_INTERFACES: usize = 16;
/// The widest.
const WIDEST: u16 = u16::MAX;

/// Makes and drives connections.
#[derive(Debug)]
pub struct Machine {
    secret: Secret,
    tools: Tools,
}

impl Machine {
    /// `seed` is its only randomness.
    pub fn new(seed: [u8; 32], now: Instant) -> Self {
        let secret = Secret::new(&seed);
        let inner_seed =
            u64::from_le_bytes([seed[0], seed[8], seed[16], seed[24], seed[5], seed[13], seed[21], seed[29]]);
        let tools = Tools {
            pool: Pool::default(),
            interfaces: Vec::new(),
            lends: false,
            lent: 0,
            packet: Vec::new(),
            epoch: now,
            seed: inner_seed,
        };
        Self { secret, tools }
    }

    /// Bytes in the rings of all connections, in whole pages.
    pub fn memory(&self) -> usize {
        self.tools.pool.bytes()
    }

    fn connection(&mut self, now: Instant, ends: &Ends, settings: &Settings) -> Connection {
        let isn = self.secret.initial_sequence(ends, now.saturating_duration_since(self.tools.epoch));
        Connection::new(&mut self.tools.pool, ends, settings, isn, self.secret.stamp_offset(ends))
    }

    /// Lets the next connection have what this one is done with.
    fn reclaim(&mut self, now: Instant, connection: &mut Connection) {
        if let Some(body) = connection.spent.take() {
            self.tools.pool.give_back(now, body);
        }
    }
}

impl Tcp for Machine {
    type Connection = Connection;

    fn connect(&mut self, now: Instant, ends: &Ends, settings: &Settings) -> Connection {
        let mut connection = self.connection(now, ends, settings);
        let interface = self.tools.interface((WIDEST, false));
        if let Some(body) = &mut connection.body {
            body.connect(interface);
        }
        connection
    }

    fn accept(&mut self, now: Instant, ends: &Ends, settings: &Settings, syn: &[u8]) -> Option<Connection> {
        let syn = Incoming::parse(syn)?;
        if !syn.flags.has(Flags::SYN) || syn.flags.has_any(Flags::ACK.with(Flags::RST).with(Flags::FIN)) {
            return None;
        }
        let mut connection = self.connection(now, ends, settings);
        connection.greet(&mut self.tools, now, &syn).then_some(connection)
    }

    fn handle_segment(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        segment: &[u8],
        _congested: bool,
    ) {
        match Incoming::parse(segment) {
            Some(segment) => connection.handle(&mut self.tools, now, &segment),
            None => connection.counts.dropped += 1,
        }
        self.reclaim(now, connection);
    }

    fn handle_segment_lending(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        segment: &[u8],
        congested: bool,
    ) -> usize {
        self.tools.lends = true;
        self.handle_segment(now, connection, segment, congested);
        self.tools.lends = false;
        std::mem::take(&mut self.tools.lent)
    }

    fn settle(&mut self, now: Instant, connection: &mut Connection, lent: &[u8], taken: usize) {
        connection.settle(&mut self.tools, now, lent, taken);
        self.reclaim(now, connection);
    }

    fn poll_segment(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        out: &mut [u8],
        headroom: usize,
    ) -> Option<Segment> {
        let before = connection.counts.retransmits;
        let segment = connection.poll(&mut self.tools, now, out, headroom.max(DRESS));
        self.reclaim(now, connection);
        Some(Segment { again: connection.counts.retransmits > before, ..segment? })
    }

    fn poll_timeout(&mut self, now: Instant, connection: &Connection) -> Option<Instant> {
        if connection.quiet { connection.wake } else { Some(now) }
    }

    fn set(&mut self, _now: Instant, connection: &mut Connection, settings: &Settings) {
        // TCP_MAXSEG is for the SYN: afterwards it changes nothing (tcp_connect_init).
        let max_segment =
            if connection.begun { connection.settings.max_segment } else { settings.max_segment };
        connection.settings = Settings { max_segment, ..settings.clone() };
        connection.apply();
        connection.narrow();
        connection.stir();
    }

    fn set_mtu(&mut self, now: Instant, connection: &mut Connection, mtu: u32) {
        let narrower = mtu < connection.settings.mtu;
        connection.settings.mtu = mtu;
        connection.narrow();
        if narrower && connection.in_flight() > 0 && connection.phase == Phase::Open {
            // What is on its way was too long (RFC 1191 clause 6.4).
            connection.timers.retransmit_at = Some(now);
        }
        connection.stir();
    }

    fn state(&self, connection: &Connection) -> State {
        connection.state()
    }

    fn take_error(&mut self, connection: &mut Connection) -> Option<Errno> {
        connection.error.take()
    }

    fn send_room(&self, connection: &Connection) -> usize {
        connection.send_room()
    }

    fn is_warm(&self, connection: &Connection) -> bool {
        connection.body.is_some()
    }

    fn rest(&mut self, now: Instant, connection: &mut Connection) -> bool {
        connection.rest(&mut self.tools, now)
    }

    fn poll_release(&self) -> Option<Instant> {
        self.tools.pool.poll_release()
    }

    fn release(&mut self, now: Instant) {
        self.tools.pool.release(now);
    }

    fn send_with(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        connection.wake_up(&mut self.tools, now);
        connection.send_with(fill)
    }

    fn received(&self, connection: &Connection) -> usize {
        connection.received()
    }

    fn receive_with(&mut self, connection: &mut Connection, take: &mut dyn FnMut(&[u8]) -> usize) -> usize {
        let taken = connection.receive_with(take);
        // Nobody says when it is, and so for how long it would wait.
        connection.spent = None;
        taken
    }

    fn urge(&mut self, connection: &mut Connection) {
        connection.urge();
    }

    fn urgent(&self, connection: &Connection) -> Option<usize> {
        connection.urgent()
    }

    fn is_drained(&self, connection: &Connection) -> bool {
        connection.is_drained()
    }

    fn is_under_way(&self, connection: &Connection, sequence: u32) -> bool {
        let sending = &connection.sending;
        sequence.wrapping_sub(sending.una) <= sending.max.wrapping_sub(sending.una)
    }

    fn finish(&mut self, now: Instant, connection: &mut Connection) {
        connection.wake_up(&mut self.tools, now);
        connection.finish();
        self.reclaim(now, connection);
    }

    fn abort(&mut self, now: Instant, connection: &mut Connection) {
        connection.abort();
        self.reclaim(now, connection);
    }

    fn info(&self, connection: &Connection) -> Info {
        connection.info()
    }
}

/// What all connections of a machine work with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) pool: Pool,
    /// By MSS and whether super-segments may be made.
    interfaces: Vec<((u16, bool), Box<Inner>)>,
    /// Long data is left to the caller.
    pub(super) lends: bool,
    /// So much of it was, at the end of the segment.
    pub(super) lent: usize,
    /// A packet for smoltcp, its memory kept.
    packet: Vec<u8>,
    epoch: Instant,
    seed: u64,
}

/// An interface, which has no form of its own for people.
struct Inner(Interface);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interface")
    }
}

impl Tools {
    /// Milliseconds, for timestamps.
    pub(super) fn clock_ms(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }

    /// Gives smoltcp a segment. Returns acknowledgement number and window if it wants to acknowledge at once.
    pub(super) fn feed(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        header: &Bare<'_>,
        payload: &[u8],
    ) -> Option<(u32, u16)> {
        let inner_now = self.inner(now, connection.ahead_us);
        let mut packet = std::mem::take(&mut self.packet);
        let shift_by = connection.receiving.shift_by;
        let ports = (super::wire::PORTS.1, super::wire::PORTS.0);
        let header = Bare { ports, seq: header.seq.wrapping_sub(shift_by), ..*header };
        dress(&mut packet, &header, payload);
        let mut reply = [0; REPLY];
        let mut wire = Wire::new(&mut reply);
        wire.incoming = Some(&packet);
        let interface = self.interface(kind(connection));
        if let Some(body) = &mut connection.body {
            body.ingress(interface, inner_now, &mut wire);
        }
        let sent = wire.sent;
        self.packet = packet;
        let reply = Incoming::parse(&reply[DRESS..sent?])?;
        (!reply.flags.has(Flags::RST)).then_some((reply.ack.wrapping_add(shift_by), reply.window))
    }

    /// Lets smoltcp send.
    pub(super) fn egress(&mut self, now: Instant, connection: &mut Connection, wire: &mut Wire<'_>) {
        let inner_now = self.inner(now, connection.ahead_us);
        let interface = self.interface(kind(connection));
        if let Some(body) = &mut connection.body {
            body.egress(interface, inner_now, wire);
        }
    }

    /// When smoltcp wants to send.
    pub(super) fn poll_at(&mut self, now: Instant, connection: &Connection) -> Option<Instant> {
        let inner_now = self.inner(now, connection.ahead_us);
        let interface = self.interface(kind(connection));
        let at = connection.body.as_ref()?.poll_at(interface, inner_now)?;
        let wait = at.total_micros().saturating_sub(inner_now.total_micros());
        Some(now + Duration::from_micros(u64::try_from(wait).unwrap_or(0)))
    }

    fn inner(&self, now: Instant, ahead_us: i64) -> InnerInstant {
        let uptime = now.saturating_duration_since(self.epoch).as_micros();
        InnerInstant::from_micros(uptime as i64 + INNER_EPOCH_US + ahead_us)
    }

    fn interface(&mut self, kind: (u16, bool)) -> &mut Interface {
        let at = match self.interfaces.iter().position(|(it, _)| *it == kind) {
            Some(at) => at,
            None => {
                if self.interfaces.len() == MOST_INTERFACES {
                    self.interfaces.remove(0);
                }
                self.seed = self.seed.wrapping_add(1);
                self.interfaces.push((kind, Box::new(Inner(interface(kind.0, kind.1, self.seed)))));
                self.interfaces.len() - 1
            }
        };
        &mut self.interfaces[at].1.0
    }
}

/// Which interface it needs. A corked one gets whole segments only, so it makes them one by one.
fn kind(connection: &Connection) -> (u16, bool) {
    // The pointer is each segment's own, so urgent data go in single ones (tcp_write_xmit()), too.
    let single = connection.settings.cork || connection.sending.urgent.is_some();
    let super_segments = connection.settings.super_segments && !single;
    (connection.sending.narrow.unwrap_or(WIDEST), super_segments)
}
