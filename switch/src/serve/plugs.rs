//! The ports' descriptors, and the frame path between them.
//!
//! # Theory of operation
//! [`Plugs::handle_ready`] reads up to [`BATCH`] frames from one port into an arena that all ports share, and
//! then writes each where the core says, in slices of the arena. Reading first and writing then makes bursts: a
//! receiver that is woken by the first frame finds the next ones without going to sleep in between, which is
//! a tenth more packets (bench/RESULTS.md). A port that cannot take a frame at once loses it, as a wire would; a
//! port whose interface is gone is marked dead, and removed when the round is over. A packet socket hears once
//! that its interface went down, but not that it was then removed: such ports are looked at every
//! [`DOWN_CHECK`].
//!
//! **Rings** are silent while we are awake: their other end rings the doorbell only if it is asked to. A ring
//! that had a turn is on the list of those that are not armed. [`Plugs::arm`] asks for their doorbells when the
//! round is over; those in which frames wait nevertheless stay on the list, and have their next turn at once,
//! by [`Plugs::run`]. The other end of a ring that we put frames into is woken, if it sleeps, at the burst's
//! end. Rings take memory as frames wait in them. A flood to thousands may fill only some of each, and rings
//! that were full are trimmed when they have been silent for a while.
//!
//! **Ports with queues** get their frames through those: see [`super::queues`].
//!
//! **Several programs** may share a port: see [`endpoints`]. How ports come and go: see [`plugging`].

mod endpoints;
mod impaired;
mod links;
mod plug;
mod plugging;
mod spanning;
mod watches;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};

use super::captures::Captures;
use super::queues::Waiting;
use super::{Source, interest};
use crate::offload;
use crate::port::{Offloads, PortId};
use crate::ports::ring::Broken;
use crate::ports::vde::FileName;
use crate::ports::{BUFFER_LEN, Kind, Trouble, Wire};
use crate::qos::queues::PortQueues;
use crate::switch::{Egress, PortError, Switch};
use crate::vlan::PortVlans;
use endpoints::Endpoint;
pub(super) use endpoints::FIRST;
pub(super) use impaired::Impaired;
use impaired::Lines;
use watches::{Told, Watched};

/// Frames taken from one port before the next has its turn: at 64 KiB each, 4 MiB or about a millisecond.
pub(super) const BATCH: usize = 64;
/// Room for the frames of a burst, in bytes: a batch, each of any size. Only what frames lie in takes memory.
const ARENA: usize = BATCH * BUFFER_LEN;
/// Where a frame begins, no other ends, in bytes.
const CACHE_LINE: usize = 64;
/// Turns in which a port is emptied before it is pulled out: a TAP queues 1,000 frames (txqueuelen).
const DRAIN_TURNS: usize = 256;
/// Rounds in which a port gave an error and no frame before it is taken for dead.
const MAX_ERRORS: u32 = 64;
/// How long the port of a removed interface may outlive it, while its interface was down.
const DOWN_CHECK: Duration = Duration::from_millis(250);

/// How long a ring that has taken much memory may be silent before it gives it back.
const TRIM_CHECK: Duration = Duration::from_secs(1);
/// Rings trimmed in one go, at some 10 µs each.
const TRIMS: usize = 256;

/// Frames longer than this are of a stream that fills super-segments: no answer to a question, nor most
/// answers.
const BULK_FRAME: usize = 8 << 10;

/// All descriptors of ports, by the core's numbers.
pub(super) struct Plugs {
    pub(super) table: Vec<Option<Plug>>,
    egress: Egress,
    /// Where the frames of a turn lie, one behind the other.
    arena: Box<[u8]>,
    taken: Vec<Taken>,
    pub(super) dead: Vec<PortId>,
    /// Ports whose interface was down when they were last looked at.
    down: Vec<PortId>,
    down_check: Option<Instant>,
    /// When to ask for links that nobody tells of.
    link_check: Option<Instant>,
    /// Who tells of links, a network each.
    watches: Vec<Option<Watched>>,
    closer: Option<Sender<OwnedFd>>,
    bulk: usize,
    /// Rings that are not armed.
    awake: Vec<PortId>,
    /// How many of them, the first ones, have frames.
    waiting: usize,
    /// Ports that something was collected for in this burst.
    pub(super) unflushed: Vec<PortId>,
    /// Ports with frames in their queues.
    pub(super) waiting_queues: Waiting,
    /// Ports that want to know, or no more, when they can be written.
    changed: Vec<PortId>,
    /// Rings that have taken much memory, with what they had sent when they were last looked at.
    swollen: Vec<(PortId, u64)>,
    trim_check: Option<Instant>,
    /// Who wants to see the frames.
    pub(super) captures: Captures,
    pub(super) impaired: Impaired,
    /// Of each endpoint beside a port's first its port.
    slots: Vec<Option<PortId>>,
    /// Names of sockets that went with their ports.
    gone_files: Vec<PathBuf>,
}

/// A frame that was taken from a port: its virtio-net header, and where in the arena it lies.
struct Taken {
    hdr: offload::VnetHdr,
    at: Range<usize>,
}

/// What epoll is to tell of a port's source.
const READABLE: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);
/// Whoever shares a datagram socket has shut it down: it would be readable for ever.
const SHUT_DOWN: EpollFlags = EpollFlags::EPOLLRDHUP.union(EpollFlags::EPOLLHUP);

/// A port's descriptor and what belongs to it.
pub(super) struct Plug {
    pub(super) wire: Wire,
    pub(super) offloads: Offloads,
    /// Where its frames wait, if they do.
    pub(super) queues: Option<Box<PortQueues>>,
    /// It is in [`Waiting`]'s list of this burst, and in that of ports with frames.
    pub(super) touched: bool,
    pub(super) listed: bool,
    dying: bool,
    /// The connection it lives and dies with.
    pub(super) owner: Option<u32>,
    /// Who lives at its far end, that it goes with.
    pub(super) resident: Option<u32>,
    errors: u32,
    dead: bool,
    down: bool,
    /// It is in [`Plugs::awake`].
    awake: bool,
    /// It is in [`Plugs::unflushed`].
    pub(super) unflushed: bool,
    /// What it has collected waits for its socket.
    blocked: bool,
    /// What is said of its other end.
    pub(super) peer: String,
    /// The name of its socket, which goes with it.
    file: Option<FileName>,
    /// The number of its first endpoint among those of the port.
    pub(super) endpoint: u32,
    /// Those that share the port, if several do.
    pub(super) others: Vec<Endpoint>,
    /// Whose program it is, if that matters: no other user's shares the port.
    pub(super) user: Option<u32>,
    /// It is in [`Plugs::swollen`].
    swollen: bool,
    /// Who tells of its link.
    told: Option<Told>,
    /// What its link does to frames on purpose.
    pub(super) lines: Option<Box<Lines>>,
}

/// A plug to be.
pub(super) struct NewPlug<'a> {
    pub(super) name: &'a str,
    pub(super) wire: Wire,
    pub(super) vlans: PortVlans,
    pub(super) offloads: Option<Offloads>,
    pub(super) dying: bool,
    pub(super) owner: Option<u32>,
    /// What is said of its other end.
    pub(super) peer: String,
    /// The name of its socket, which is to go with the port.
    pub(super) file: Option<FileName>,
    /// Where it is plugged in; `None`: at any number that is not kept.
    pub(super) at: Option<PortId>,
    /// Whose program it is, if others may want to share the port.
    pub(super) user: Option<u32>,
}

/// Why a plug cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlugError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Plugs {
    pub(super) fn new() -> Self {
        Self {
            table: Vec::new(),
            egress: Egress::new(),
            arena: vec![0; ARENA].into_boxed_slice(),
            taken: Vec::with_capacity(BATCH),
            dead: Vec::new(),
            down: Vec::new(),
            down_check: None,
            link_check: None,
            watches: Vec::new(),
            closer: None,
            bulk: 0,
            awake: Vec::new(),
            waiting: 0,
            unflushed: Vec::new(),
            waiting_queues: Waiting::default(),
            changed: Vec::new(),
            swollen: Vec::new(),
            trim_check: None,
            captures: Captures::default(),
            impaired: Impaired::default(),
            slots: Vec::new(),
            gone_files: Vec::new(),
        }
    }

    /// Moves frames from one port, as far as its turn goes; true if there may be more.
    pub(super) fn handle_ready(
        &mut self,
        now: Instant,
        id: PortId,
        events: EpollFlags,
        switch: &mut Switch,
    ) -> bool {
        let mut troubled = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let Some(plug) = self.table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
        let is_ring = plug.kind() == Kind::Ring;
        if let Some(ring) = plug.wire.ring() {
            ring.disarm();
            // A doorbell has no trouble worth looking at.
            troubled = false;
        }
        if plug.wire.hoards() && !std::mem::replace(&mut plug.awake, true) {
            self.awake.push(id);
        }
        if plug.wire.is_shared() && events.intersects(SHUT_DOWN) {
            plug.mark_dead(id, &mut self.dead);
            return false;
        }
        if plug.blocked && events.contains(EpollFlags::EPOLLOUT) {
            self.flush(now, id, switch);
            if !troubled && !events.intersects(READABLE) {
                return false;
            }
        }
        let more = self.take_turn(now, id, troubled, switch);
        if is_ring && let Some(ring) = self.plug_mut(id).and_then(|plug| plug.wire.ring()) {
            // It may wait for room.
            ring.flush();
        }
        more
    }

    /// Does this resident live at the far end of this port?
    pub(super) fn is_home_of(&self, id: PortId, resident: u32) -> bool {
        self.plug(id).is_some_and(|plug| plug.resident == Some(resident) && !plug.dead)
    }

    /// Who lives at the far end of this ring need not ring.
    pub(super) fn silence(&mut self, id: PortId) {
        let Some(plug) = self.table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let Some(ring) = plug.wire.ring() else { return };
        ring.disarm();
        if !std::mem::replace(&mut plug.awake, true) {
            self.awake.push(id);
        }
    }

    /// Takes and puts up to [`BATCH`] frames; true if there may be more.
    fn take_turn(&mut self, now: Instant, id: PortId, mut troubled: bool, switch: &mut Switch) -> bool {
        let mut left = BATCH;
        while left > 0 {
            let is_batched = self.plug(id).is_some_and(|plug| plug.wire.is_batched());
            let more = match is_batched {
                true => self.take_batch(now, id, left, switch),
                false => self.take(now, id, left, troubled),
            };
            self.put(now, id, switch);
            if !more {
                return false;
            }
            left = left.saturating_sub(self.taken.len().max(1));
            troubled = false;
        }
        true
    }

    /// Writes what was taken from a port where it belongs.
    fn put(&mut self, now: Instant, id: PortId, switch: &mut Switch) {
        // Lent, so that all else can be used meanwhile.
        let (arena, taken) = (std::mem::take(&mut self.arena), std::mem::take(&mut self.taken));
        let impaired = self.plug(id).is_some_and(|plug| plug.lines.is_some());
        switch.foresee(id, taken.iter().map(|taken| &arena[taken.at.clone()]));
        for Taken { hdr, at } in &taken {
            let bytes = &arena[at.clone()];
            if !impaired || !self.impair_ingress(now, id, hdr, bytes, switch) {
                self.forward(now, id, hdr, bytes, switch);
            }
        }
        (self.arena, self.taken) = (arena, taken);
        self.end_burst(now, switch);
    }

    /// Writes one frame that came in on a port where it belongs.
    fn forward(
        &mut self,
        now: Instant,
        id: PortId,
        hdr: &offload::VnetHdr,
        bytes: &[u8],
        switch: &mut Switch,
    ) {
        let Self { table, egress, dead, unflushed, waiting_queues, captures, impaired, .. } = self;
        let frame = switch.handle_frame(now, id, hdr, bytes, egress);
        if captures.is_on() {
            captures.see(now, id, (hdr, bytes), frame, egress, switch);
        }
        let Some(frame) = frame else { return };
        for transmit in egress.as_slice() {
            let Some(plug) = table.get_mut(transmit.port.index()).and_then(Option::as_mut) else {
                continue;
            };
            if plug.queues.is_some() {
                plug.enqueue(hdr, frame, transmit, egress, switch);
                plug.touch(transmit.port, waiting_queues);
                continue;
            }
            let receivers = egress.as_slice().len();
            if plug.wire.begin(now, receivers) && !std::mem::replace(&mut plug.unflushed, true) {
                unflushed.push(transmit.port);
            }
            if plug.lines.is_none() || !impaired.egress(now, plug, hdr, frame, transmit, switch) {
                plug.transmit(hdr, frame, transmit, Some(egress.vid()), switch, dead);
            }
        }
    }

    /// A burst is over: writes what was collected and is due, and wakes the other ends.
    pub(super) fn end_burst(&mut self, now: Instant, switch: &mut Switch) {
        if self.captures.is_on() {
            self.captures.flush();
        }
        if !self.waiting_queues.touched.is_empty() {
            self.send_touched(now, switch);
        }
        self.flush_all(now, switch);
    }

    /// Sends what was collected, and wakes the other ends.
    pub(super) fn flush_all(&mut self, now: Instant, switch: &mut Switch) {
        while let Some(id) = self.unflushed.pop() {
            self.flush(now, id, switch);
        }
    }

    /// Gives back the memory of rings that nothing was sent to lately.
    fn trim(&mut self, now: Instant, switch: &Switch) {
        if self.trim_check.is_none_or(|at| now < at) {
            return;
        }
        let Self { table, swollen, dead, .. } = self;
        let mut left = TRIMS;
        swollen.retain_mut(|(id, before)| {
            let sent = switch.port(*id).map_or(0, |port| port.counters.tx_frames);
            let was_silent = std::mem::replace(before, sent) == sent;
            let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
            let Some(ring) = plug.wire.ring() else { return false };
            let mut trimmed = was_silent && left > 0;
            if trimmed {
                left -= 1;
                trimmed = ring.trim().unwrap_or_else(|Broken| {
                    plug.mark_dead(*id, dead);
                    true
                });
            }
            plug.swollen = !trimmed;
            plug.swollen
        });
        self.trim_check = (!self.swollen.is_empty()).then(|| now + TRIM_CHECK);
    }

    /// The round is over: asks the rings for their doorbells, and epoll for what can be written. True if there is
    /// something to do at once: frames in some already, or dead ports.
    pub(super) fn arm(&mut self, epoll: &Epoll) -> bool {
        self.tell_changes(epoll);
        let Self { table, awake, dead, .. } = self;
        awake.retain(|&id| {
            let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
            plug.awake = plug.wire.arm().unwrap_or_else(|Broken| {
                plug.mark_dead(id, dead);
                false
            });
            plug.awake
        });
        self.waiting = self.awake.len();
        self.waiting > 0 || !self.dead.is_empty()
    }

    /// Gives those rings a turn that had frames in [`Plugs::arm`].
    pub(super) fn run(&mut self, now: Instant, switch: &mut Switch) {
        for at in 0..std::mem::take(&mut self.waiting) {
            let _ = self.handle_ready(now, self.awake[at], EpollFlags::EPOLLIN, switch);
        }
    }

    /// Takes at most `limit` frames from a port into the arena, one if it is a super-segment: that is a burst by
    /// itself, and its receiver shall have it at once. True if there may be more.
    fn take(&mut self, now: Instant, id: PortId, limit: usize, troubled: bool) -> bool {
        let Self { table, arena, taken, bulk, .. } = self;
        taken.clear();
        let mut free = 0;
        while taken.len() < limit && free + BUFFER_LEN <= arena.len() {
            let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
            let room = &mut arena[free..free + BUFFER_LEN];
            let base = room.as_ptr() as usize;
            match plug.wire.receive(room) {
                Ok((hdr, bytes)) => {
                    (plug.errors, plug.down) = (0, false);
                    if bytes.len() > BULK_FRAME {
                        *bulk += bytes.len();
                    }
                    let start = free + (bytes.as_ptr() as usize - base);
                    let at = start..start + bytes.len();
                    free = at.end.next_multiple_of(CACHE_LINE);
                    let is_bulk = at.len() > BULK_FRAME;
                    taken.push(Taken { hdr, at });
                    if is_bulk {
                        return true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !(troubled && taken.is_empty()) => {
                    return false;
                }
                Err(e) => {
                    self.suffer(now, id, &e);
                    return false;
                }
            }
        }
        true
    }

    /// A port gave an error instead of a frame.
    fn suffer(&mut self, now: Instant, id: PortId, error: &io::Error) {
        let Some(plug) = self.table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        plug.errors += 1;
        match plug.wire.judge(error) {
            Trouble::Passing if plug.errors <= MAX_ERRORS => {}
            // It will be told.
            Trouble::Down if plug.told.is_some() => {}
            Trouble::Down => {
                plug.down = true;
                self.down.push(id);
                self.down_check.get_or_insert(now + DOWN_CHECK);
            }
            Trouble::Passing | Trouble::Dead => {
                log::debug!("port {}: {error}", id.index());
                plug.mark_dead(id, &mut self.dead);
            }
        }
    }

    pub(super) fn plug_mut(&mut self, id: PortId) -> Option<&mut Plug> {
        self.table.get_mut(id.index())?.as_mut()
    }

    /// A port's descriptor.
    pub(super) fn plug(&self, id: PortId) -> Option<&Plug> {
        self.table.get(id.index())?.as_ref()
    }

    /// Bytes of super-segments moved since the last call.
    pub(super) fn take_bulk(&mut self) -> usize {
        std::mem::take(&mut self.bulk)
    }

    /// When to call [`Plugs::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let checks = [
            self.down_check,
            self.trim_check,
            self.link_check,
            self.impaired.poll_timeout(),
            self.poll_queues(),
        ];
        checks.into_iter().flatten().min()
    }

    /// Writes queued frames that are due, and looks after rings that have taken much memory, and ports whose interface
    /// is down: is it gone?
    pub(super) fn handle_timeout(&mut self, now: Instant, switch: &mut Switch) {
        self.send_due(now, switch);
        self.trim(now, switch);
        self.deliver(now, switch);
        if self.link_check.is_some_and(|at| at <= now) {
            self.ask_for_links(now, switch);
        }
        if self.down_check.is_none_or(|at| now < at) {
            return;
        }
        let Self { table, down, dead, .. } = self;
        down.sort_unstable();
        down.dedup();
        down.retain(|&id| {
            let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
            if plug.down && plug.wire.is_orphan() {
                plug.mark_dead(id, dead);
            }
            plug.down && !plug.dead
        });
        self.down_check = (!self.down.is_empty()).then(|| now + DOWN_CHECK);
    }
}
