//! The engine: one stack's sockets over its network layer. Sans-I/O.
//!
//! # Theory of operation
//! Inputs are `handle_*`, the calls of programs and the bytes they write; outputs are `poll_*`. A call never
//! waits here: what would block fails with EAGAIN (EINPROGRESS for a new connect, EALREADY for one under way) and
//! the caller asks again when [`Engine::poll_dirty`] names the socket. A program's bytes and ours meet in
//! the socket's buffers; the pump moves them.
//!
//! A frame goes through the network layer and `engine/ingress.rs` to the socket it is for, and leaves that in
//! the list of *ready* sockets; [`Engine::poll_transmit`] lets each of them say one segment at a time, in turn
//! (`engine/egress.rs`). What has a deadline sits in one timer wheel (`engine/timers.rs`); a stack in which
//! nothing is under way has none.

mod configure;
mod egress;
mod ingress;
#[cfg(test)]
mod tests;
mod timers;
pub mod transparent;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::call::{Caller, Done, SocketCall};
use super::net::Net;
use super::sockets::keyed::{Key, Secret};
use super::sockets::netlink::Listeners;
use super::sockets::packet::Taps;
use super::sockets::ports::Ports;
use super::sockets::raw::Raws;
use super::sockets::slots::Slots;
use super::sockets::table::Table;
use super::tables::{IfIndex, Tables};
use super::tally::Tally;
use super::tcp::{Machine, Tcp};
use super::wheel::Wheel;
use crate::config::StackConfig;
use crate::kernel::orphans::Unfinished;
use crate::stack::{InterfaceInfo, SocketSpec};

pub(in crate::smol) use egress::{DEFAULT_TTL, extra};

/// A socket of an engine; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// How a socket is doing: what the pump needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// A stream: bytes that the program may have. A datagram socket: datagrams. A listener: connections.
    pub readable: usize,
    /// A stream: room for bytes of the program. A datagram socket: 1 if one can be sent.
    pub room: usize,
    /// A stream's connect() has neither succeeded nor failed.
    pub connecting: bool,
    /// A stream that is or was connected.
    pub connected: bool,
    /// A listener.
    pub listening: bool,
    /// A stream: how many of the bytes for the program lie before the urgent one, if that is among them.
    pub urgent: Option<usize>,
    /// The peer has sent everything and all of it was taken, or the program shut its receiving side.
    pub receive_finished: bool,
    /// A pending error, SO_ERROR; stays until the program takes it. On a stream: the connection is gone.
    pub error: Option<Errno>,
    /// An internet datagram socket with options for ancillary data.
    pub describes: bool,
}

/// One datagram for the pump: address and ancillary facts are already in the form of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received<'a> {
    /// `struct sockaddr` of the sender.
    pub from: &'a [u8],
    /// `struct cmsghdr`s that the socket's options ask for.
    pub control: &'a [u8],
    /// The payload.
    pub data: &'a [u8],
}

/// What did not go as it should, by reason (net/ipv4/proc.c has the names).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets of TCP, UDP or ICMP that were too short, or whose lengths were wrong.
    pub malformed: u64,
    /// Packets for no socket.
    pub no_socket: u64,
    /// Datagrams for which a socket had no room (RcvbufErrors).
    pub overflows: u64,
    /// SYNs and handshakes' ends for which a listener had no room (ListenOverflows).
    pub listen_overflows: u64,
    /// Connections of no program that were ended because there were too many (TCPAbortOnMemory).
    pub orphans_ended: u64,
    /// TIME-WAITs that were ended because there were too many (TCPTimeWaitOverflow).
    pub time_waits_ended: u64,
    /// ICMP errors about segments that are not under way (OutOfWindowIcmps).
    pub forged_errors: u64,
    /// Packets that a socket's filter refused.
    pub filtered: u64,
}

/// What a socket takes with its connection and its places in the tables, roughly, in bytes.
const SOCKET: usize = 2048;

/// A stack.
#[derive(Debug)]
pub struct Engine {
    pub(super) net: Net,
    pub(super) tcp: Machine,
    pub(super) netlink: Listeners,
    pub(super) sockets: Slots,
    /// TCP connections by flow, listeners by place.
    pub(super) streams: Table,
    pub(super) datagrams: Table,
    /// Those of UDP-Lite.
    pub(super) lites: Table,
    /// ICMP datagram sockets by ident.
    pub(super) pings: Table,
    pub(super) raws: Raws,
    pub(super) taps: Taps,
    pub(super) ports: Ports,
    pub(super) wheel: Wheel,
    /// Sockets that may have something to send.
    pub(super) ready: VecDeque<SocketId>,
    dirty: VecDeque<SocketId>,
    /// Streams whose connections may be warm, in the order in which they became so, or were looked at.
    warm: VecDeque<SocketId>,
    /// Listeners and the children that wait for [`Engine::admit`]; none, if nobody asks.
    pub(super) knocks: Option<VecDeque<(SocketId, SocketId)>>,
    /// The listener for connections to those for whom this stack stands.
    pub(super) catcher: Option<SocketId>,
    /// Connections that no program has, TIME-WAITs apart.
    pub(super) orphans: usize,
    /// TIME-WAITs that no program has, oldest first, with those that have ended among them.
    pub(super) time_waits: VecDeque<SocketId>,
    pub(super) secret: Secret,
    /// What CLOCK_REALTIME said at `origin`.
    pub(super) realtime: Duration,
    pub(super) origin: Instant,
    pub(super) counters: Counters,
    /// The members of each group on each interface.
    pub(super) groups: BTreeMap<(IfIndex, IpAddr), BTreeSet<SocketId>>,
    /// Buffers of datagrams that were taken.
    pub(super) spare: Vec<Vec<u8>>,
    /// Where a datagram's address and ancillary data are put together.
    scratch: (Vec<u8>, Vec<u8>),
    cookies: u64,
    /// Ports take segments of up to 64 KiB.
    pub(super) super_segments: bool,
    /// Long data may be lent: see [`Engine::handle_frame_lending`].
    pub(super) lends: bool,
    /// Whose data was, and where in its segment it lies.
    pub(super) lent: Option<(SocketId, Range<usize>)>,
    /// What waits in the queues of all sockets.
    pub(super) queued: Tally,
    /// The latest time that anybody told.
    pub(super) clock: Instant,
}

impl Engine {
    /// A stack as `config` says; `seed` is its only randomness. Interfaces have the indices 2, 3 … in the
    /// order of the configuration and no carrier until [`Engine::plug`].
    ///
    /// # Errors
    /// Which part of the configuration the tables refuse.
    pub fn new(config: &StackConfig, seed: [u8; 32], now: Instant) -> Result<Self, Refusal> {
        let mut engine = Self::empty(seed, now);
        engine.configure(now, config)?;
        Ok(engine)
    }

    fn empty(seed: [u8; 32], now: Instant) -> Self {
        let word = |at: usize| u64::from_le_bytes(seed[at..at + 8].try_into().expect("eight of 32 bytes"));
        let mut source = Secret::new([word(0) ^ word(16), word(8) ^ word(24)]);
        let mut words = || [source.draw(), source.draw()];
        let (key, secret) = (Key::new(words()), Secret::new(words()));
        let mut subseed = || {
            let mut bytes = [0; 32];
            bytes.chunks_exact_mut(8).for_each(|piece| piece.copy_from_slice(&source.draw().to_le_bytes()));
            bytes
        };
        Self {
            net: Net::new(subseed(), now),
            tcp: Machine::new(subseed(), now),
            netlink: Listeners::default(),
            sockets: Slots::default(),
            streams: Table::new(key),
            datagrams: Table::new(key),
            lites: Table::new(key),
            pings: Table::new(key),
            raws: Raws::default(),
            taps: Taps::default(),
            ports: Ports::new(key),
            wheel: Wheel::new(now),
            ready: VecDeque::new(),
            dirty: VecDeque::new(),
            warm: VecDeque::new(),
            knocks: None,
            catcher: None,
            orphans: 0,
            time_waits: VecDeque::new(),
            secret,
            realtime: Duration::ZERO,
            origin: now,
            counters: Counters::default(),
            groups: BTreeMap::new(),
            spare: Vec::new(),
            scratch: (Vec::new(), Vec::new()),
            cookies: 0,
            super_segments: true,
            lends: false,
            lent: None,
            queued: Tally::default(),
            clock: now,
        }
    }

    /// What CLOCK_REALTIME says at `now`, as time since 1970: packets' time stamps count from there.
    pub fn set_realtime(&mut self, now: Instant, realtime: Duration) {
        (self.origin, self.realtime) = (now, realtime);
    }

    /// Whether new connections send super-segments, which is worth it where somebody takes them whole: yes,
    /// unless told otherwise.
    pub fn set_super_segments(&mut self, wanted: bool) {
        self.super_segments = wanted;
    }

    /// There is a port at the interface now, or none any more.
    pub fn plug(&mut self, now: Instant, link: IfIndex, plugged: bool) {
        // An interface that a program removed has no port to lose.
        let _ = self.net.tables.set_carrier(link, plugged);
        self.settle_tables(now);
        self.drain_loopback(now);
    }

    /// What it still owes peers for sockets that no program has.
    pub fn unfinished(&self) -> Unfinished {
        if self.orphans == 0 {
            return Unfinished::Nothing;
        }
        self.sockets.iter().map(|(_, socket)| self.owed(socket)).max().unwrap_or(Unfinished::Nothing)
    }

    /// The tables, to look at.
    pub fn tables(&self) -> &Tables {
        &self.net.tables
    }

    /// What went wrong, by reason.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many sockets there are, orphans and TIME-WAITs included.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// About how many bytes it takes: sockets, what they have received and have not sent, frames on their way.
    pub fn memory(&self) -> usize {
        let spare: usize = self.spare.iter().map(Vec::capacity).sum();
        self.sockets.len() * SOCKET + self.tcp.memory() + self.queued.bytes() + self.net.memory() + spare
    }

    /// For `stack show`.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        let tables = &self.net.tables;
        let info = |link: &super::tables::Link| InterfaceInfo {
            lease_s: None,
            lease_v6_s: None,
            name: link.name.clone(),
            mac: if link.mac.0 == [0; 6] { String::new() } else { link.mac.to_string() },
            mtu: link.mtu,
            up: link.up,
            link: link.plugged.clone(),
            addresses: tables
                .addresses
                .iter()
                .filter(|address| address.link == link.index)
                .map(|address| address.net.to_string())
                .collect(),
            counters: link.counters.into(),
        };
        tables.links.values().map(info).collect()
    }

    /// A frame arrived.
    pub fn handle_frame(&mut self, now: Instant, link: IfIndex, header: &VnetHdr, frame: &[u8]) {
        self.clock = now;
        self.tap_incoming(now, link, header, frame);
        let delivery = self.net.handle_frame(now, link, header, frame);
        self.deliver(now, delivery);
        // A router has said something, or somebody has an address of ours.
        if !self.net.tables.changes.is_empty() {
            self.settle_tables(now);
        }
        self.drain_loopback(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock = now;
        self.net.handle_timeout(now);
        self.settle_tables(now);
        self.expire(now);
        self.tcp.release(now);
        self.drain_loopback(now);
    }

    /// When to call [`Engine::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.net.poll_timeout(), self.wheel.next(), self.tcp.poll_release()].into_iter().flatten().min()
    }

    /// Hands frames to `sink`. Returns whether more would come at once: the work of one call is bounded.
    pub fn poll_transmit(&mut self, now: Instant, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) -> bool {
        self.transmit(now, sink)
    }

    /// A socket whose status may have changed; each is named once until it changes again.
    pub fn poll_dirty(&mut self) -> Option<SocketId> {
        loop {
            let id = self.dirty.pop_front()?;
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.dirty = false;
                if socket.held {
                    return Some(id);
                }
            }
        }
    }

    /// Its status may have changed.
    pub(super) fn mark(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id)
            && socket.held
            && !socket.dirty
        {
            socket.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// How it is doing.
    pub fn status(&self, id: SocketId) -> Status {
        self.status_of(id).unwrap_or_default()
    }

    /// socket(2)
    ///
    /// # Errors
    /// As Linux: EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EINVAL, EPERM, ENFILE.
    pub fn socket(&mut self, now: Instant, spec: SocketSpec, caller: &Caller) -> Result<SocketId, Errno> {
        self.new_socket(now, spec, caller)
    }

    /// The inode of the program's descriptor, for lists of sockets.
    pub fn set_inode(&mut self, id: SocketId, inode: u32) {
        if let Some(socket) = self.sockets.get_mut(id) {
            socket.inode = inode;
        }
    }

    /// The next value of SO_COOKIE.
    pub(super) fn next_cookie(&mut self) -> u64 {
        self.cookies += 1;
        self.cookies
    }

    /// The program has no descriptor of it any more: linger, orphans and resets as Linux has them. `unread`:
    /// the program left bytes of a stream unread in the descriptor (then a RST follows, RFC 2525 clause 2.17).
    pub fn close(&mut self, now: Instant, id: SocketId, unread: bool) {
        self.close_socket(now, id, unread);
        self.drain_loopback(now);
    }

    /// As [`Self::close`], of a socket with message boundaries whose program had gone before what waits arrived: its
    /// senders are told that nobody was there.
    pub fn close_late(&mut self, now: Instant, id: SocketId) {
        self.refuse_datagrams(now, id);
        self.drain_loopback(now);
    }

    /// A trapped call. Never [`Done::NotOurs`]. `Accept`, and `Send` and `Receive` on streams, are the pump's
    /// and do not come here.
    ///
    /// # Errors
    /// What the program shall see; EAGAIN where it would wait.
    pub fn call(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        call: &SocketCall,
    ) -> Result<Done, Errno> {
        self.clock = now;
        let done = self.dispatch(now, id, caller, call);
        self.settle_tables(now);
        self.drain_loopback(now);
        done
    }

    /// Next established connection of a listener, with the peer's `struct sockaddr`.
    pub fn accept(&mut self, now: Instant, listener: SocketId) -> Option<(SocketId, Vec<u8>)> {
        self.take_connection(now, listener)
    }

    /// From now on nobody is answered by a listener before [`Engine::admit`]: whoever holds the listener may have
    /// gone without a word.
    pub fn ask_listeners(&mut self) {
        self.knocks.get_or_insert_default();
    }

    /// A listener, and the beginning of a connection that waits for [`Engine::admit`] or [`Engine::turn_away`].
    pub fn poll_knock(&mut self) -> Option<(SocketId, SocketId)> {
        self.knocks.as_mut()?.pop_front()
    }

    /// The listener is there: the handshake goes on. False: whoever knocked has gone.
    pub fn admit(&mut self, child: SocketId) -> bool {
        let Some(stream) = self.sockets.get_mut(child).and_then(|socket| socket.stream_mut()) else {
            return false;
        };
        stream.knock = None;
        self.make_ready(child);
        true
    }

    /// There is no listener any more: a reset says so.
    pub fn turn_away(&mut self, now: Instant, listener: SocketId, child: SocketId) {
        self.forget_embryo(listener, child);
        self.abort_child(now, child);
        self.drain_loopback(now);
    }

    /// So many of the connections that [`Engine::accept`] gave wait all the same: they count in the backlog.
    pub fn lend(&mut self, listener: SocketId, count: usize) {
        self.set_lent(listener, count);
    }

    /// Lets `fill` write a program's bytes into a stream's send buffer, a contiguous piece at a time; 0 ends.
    pub fn send_with(
        &mut self,
        now: Instant,
        id: SocketId,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        self.stream_send(now, id, fill)
    }

    /// The last byte that [`Engine::send_with`] got is urgent (MSG_OOB).
    pub fn urge(&mut self, id: SocketId) {
        self.stream_urge(id);
    }

    /// Lets `take` read a stream's received bytes, a contiguous piece at a time; 0 ends.
    pub fn receive_with(
        &mut self,
        now: Instant,
        id: SocketId,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        self.stream_receive(now, id, take)
    }

    /// Offers the oldest datagram; it is removed if `take` says true.
    pub fn receive_datagram(&mut self, id: SocketId, take: &mut dyn FnMut(&Received<'_>) -> bool) -> bool {
        let (mut from, mut control) = std::mem::take(&mut self.scratch);
        let taken = self.offer_datagram(id, &mut from, &mut control, take);
        self.scratch = (from, control);
        taken
    }

    /// A datagram that the program wrote natively (to its peer).
    ///
    /// # Errors
    /// As send(2).
    pub fn send_datagram(
        &mut self,
        now: Instant,
        id: SocketId,
        to: Option<&[u8]>,
        data: &[u8],
    ) -> Result<(), Errno> {
        self.clock = now;
        let sent = self.write_datagram(now, id, to, data);
        self.settle_tables(now);
        self.drain_loopback(now);
        sent
    }
}
