//! Ports that have queues: frames wait there, and are written when they are due.
//!
//! # Theory of operation
//! A port without queues is written at once, in `plugs`. For one that has some, [`Plug::enqueue`] puts the frame as
//! the wire will be given it, tag edited and, where need be, cut; a super-segment that is longer than the port's
//! burst is cut as well, so that others get in between. [`Plugs::send_due`] writes what is due: for the ports of a
//! burst at its end, and for all that have frames waiting when the first of them may send again, which
//! [`Plugs::poll_queues`] tells. [`crate::qos::queues`] decides everything.

use std::ops::ControlFlow;
use std::time::Instant;

use super::plugs::{Impaired, Plug, Plugs};
use crate::frame::Frame;
use crate::offload::{self, VnetHdr};
use crate::port::{DropReason, Offloads, PortId};
use crate::ports::Sent;
use crate::qos::fifo::Queued;
use crate::qos::queues::{Next, PortQueues};
use crate::switch::{Egress, Switch, Transmit};

/// Bytes that the queues of all ports may take together.
const MAX_MEMORY: usize = 1 << 30;
/// Frames written to one port before others have their turn.
const BATCH: usize = 256;

/// Why a port cannot have such queues.
#[derive(Debug, thiserror::Error)]
#[error("the queues of all ports could take {0} MiB of memory then, and may take {max}", max = MAX_MEMORY >> 20)]
pub(super) struct TooMuchMemory(usize);

/// Which ports have frames waiting, and until when.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Ports that got frames in this burst.
    pub(super) touched: Vec<PortId>,
    /// Ports that have frames still.
    ports: Vec<PortId>,
    /// When the first of them may send.
    due: Option<Instant>,
    /// Bytes that the queues of all ports have.
    memory: usize,
}

impl Plug {
    /// Puts a frame into the port's queues.
    #[cold]
    pub(super) fn enqueue(
        &mut self,
        hdr: &VnetHdr,
        frame: Frame<'_>,
        transmit: &Transmit,
        egress: &Egress,
        switch: &mut Switch,
    ) {
        let Some(queues) = &mut self.queues else { return };
        let mut takes = self.offloads;
        if frame.bytes().len() > queues.burst_bytes() {
            takes = Offloads { csum: takes.csum, ..Offloads::NONE };
        }
        let cut = offload::emit(hdr, frame, transmit.edit(), takes, |hdr, pieces| {
            if !queues.push(hdr, egress.vid(), egress.priority(), pieces) {
                switch.dropped(transmit.port, DropReason::QueueFull);
            }
            ControlFlow::Continue(())
        });
        if cut.is_err() {
            switch.dropped(transmit.port, DropReason::Uncuttable);
        }
    }

    /// Writes what is due; what is next after that.
    fn send_due(
        &mut self,
        now: Instant,
        id: PortId,
        switch: &mut Switch,
        impaired: &mut Impaired,
        dead: &mut Vec<PortId>,
    ) -> Next {
        let Self { queues: Some(queues), wire, others, lines, .. } = self else { return Next::Idle };
        let mut next = queues.poll(now);
        let mut left = BATCH;
        while let Next::Frame(pick) = next {
            let Some(queued) = queues.peek(pick).filter(|_| left > 0) else { return Next::At(now) };
            left -= 1;
            if let Some(lines) = lines
                && impaired.egress_queued(now, lines, id, &queued, switch)
            {
                queues.pop(now, pick);
                next = queues.poll(now);
                continue;
            }
            let vid = queued.vid;
            let [first, second] = queued.bytes;
            match Self::send(wire, others, &queued.hdr, &[first, second, &[], &[]]) {
                Sent::Bytes(bytes) => {
                    switch.sent(id, 1, bytes as u64);
                    switch.sent_in(vid, 1, bytes as u64);
                    queues.pop(now, pick);
                }
                Sent::Dropped(DropReason::Full) => queues.wire_is_full(now),
                Sent::Dropped(reason) => {
                    switch.dropped(id, reason);
                    queues.discard(pick);
                }
                Sent::Dead => {
                    self.mark_dead(id, dead);
                    return Next::Idle;
                }
            }
            next = queues.poll(now);
        }
        next
    }
}

impl Plug {
    /// The port has frames waiting, perhaps.
    pub(super) fn touch(&mut self, id: PortId, waiting: &mut Waiting) {
        if !std::mem::replace(&mut self.touched, true) {
            waiting.touched.push(id);
        }
    }

    /// The port is to have no queues any more: what waits there is written at once, if there is room.
    fn write_out(&mut self, id: PortId, queued: Queued<'_>, switch: &mut Switch) {
        let [first, second] = queued.bytes;
        match Self::send(&mut self.wire, &mut self.others, &queued.hdr, &[first, second, &[], &[]]) {
            Sent::Bytes(bytes) => {
                switch.sent(id, 1, bytes as u64);
                switch.sent_in(queued.vid, 1, bytes as u64);
            }
            Sent::Dropped(reason) => switch.dropped(id, reason),
            // The next frame that is read or written tells.
            Sent::Dead => {}
        }
    }
}

impl Plugs {
    /// The burst is over: writes what is due on the ports that got frames.
    pub(super) fn send_touched(&mut self, now: Instant, switch: &mut Switch) {
        let mut touched = std::mem::take(&mut self.waiting_queues.touched);
        for id in touched.drain(..) {
            let Some(plug) = self.plug_mut(id) else { continue };
            plug.touched = false;
            let Some(at) = self.send_one(now, id, switch) else { continue };
            let listed = self.plug_mut(id).is_none_or(|plug| std::mem::replace(&mut plug.listed, true));
            if !listed {
                self.waiting_queues.ports.push(id);
            }
            let due = &mut self.waiting_queues.due;
            *due = Some(due.map_or(at, |due| due.min(at)));
        }
        self.waiting_queues.touched = touched;
    }

    /// Writes what is due on all ports that have frames waiting.
    pub(super) fn send_due(&mut self, now: Instant, switch: &mut Switch) {
        if self.waiting_queues.due.is_none_or(|at| now < at) {
            return;
        }
        let mut ports = std::mem::take(&mut self.waiting_queues.ports);
        let mut due: Option<Instant> = None;
        ports.retain(|&id| {
            let at = self.send_one(now, id, switch);
            due = due.into_iter().chain(at).min();
            if let Some(plug) = self.plug_mut(id) {
                plug.listed = at.is_some();
            }
            at.is_some()
        });
        self.waiting_queues.ports = ports;
        self.waiting_queues.due = due;
        self.flush_all(now, switch);
    }

    /// When [`Plugs::send_due`] has something to do.
    pub(super) fn poll_queues(&self) -> Option<Instant> {
        self.waiting_queues.due
    }

    /// Writes what is due on a port; tells when to go on.
    fn send_one(&mut self, now: Instant, id: PortId, switch: &mut Switch) -> Option<Instant> {
        let Self { table, dead, unflushed, impaired, .. } = self;
        let plug = table.get_mut(id.index()).and_then(Option::as_mut)?;
        if plug.wire.begin(now, 1) && !std::mem::replace(&mut plug.unflushed, true) {
            unflushed.push(id);
        }
        match plug.send_due(now, id, switch, impaired, dead) {
            Next::At(at) => Some(at),
            Next::Frame(_) | Next::Idle => None,
        }
    }

    /// The queues of a port.
    pub(super) fn queues(&self, id: PortId) -> Option<&PortQueues> {
        self.plug(id)?.queues.as_deref()
    }

    /// Gives a port other queues, or none; frames that wait go over, or out.
    ///
    /// # Errors
    /// All queues together would take too much memory.
    pub(super) fn set_queues(
        &mut self,
        now: Instant,
        id: PortId,
        queues: Option<PortQueues>,
        switch: &mut Switch,
    ) -> Result<(), TooMuchMemory> {
        let before = self.queues(id).map_or(0, PortQueues::memory);
        let after = queues.as_ref().map_or(0, PortQueues::memory);
        let memory = self.waiting_queues.memory - before + after;
        if after > before && memory > MAX_MEMORY {
            return Err(TooMuchMemory(memory >> 20));
        }
        let Self { table, waiting_queues, unflushed, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return Ok(()) };
        if plug.wire.begin(now, 1) && !std::mem::replace(&mut plug.unflushed, true) {
            unflushed.push(id);
        }
        let mut queues = queues.map(Box::new);
        if let Some(mut old) = plug.queues.take() {
            match &mut queues {
                Some(new) => new.take_over(&mut old, || switch.dropped(id, DropReason::QueueFull)),
                None => old.drain(|queued| plug.write_out(id, queued, switch)),
            }
        }
        plug.queues = queues;
        plug.touch(id, waiting_queues);
        waiting_queues.memory = memory;
        self.send_touched(now, switch);
        self.flush_all(now, switch);
        Ok(())
    }

    /// A port is gone, and its queues with it.
    pub(super) fn forget_queues(&mut self, plug: &Plug, id: PortId) {
        self.waiting_queues.memory -= plug.queues.as_ref().map_or(0, |queues| queues.memory());
        if plug.listed {
            self.waiting_queues.ports.retain(|port| *port != id);
        }
    }
}
