//! Ports whose links misbehave on purpose: what is in flight there, and when it arrives.
//!
//! # Theory of operation
//! A port has [`Lines`] if somebody asked for it: a channel (`crate::impair`) for what comes in, one for what goes
//! out, or both. Others pay for it with one comparison a frame. A frame for a channel is made plain first: cut if
//! it is a super-segment, its checksum filled, its tag as on the wire. [`Plugs::deliver`] takes what is due: what
//! came in goes to the switch as if it came just now, what goes out to the wire.
//!
//! When which port has something due is kept in one heap, however many ports are impaired. An entry that another
//! has overtaken is found to be stale when its time comes. What all channels hold together is limited, too.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::{Plug, Plugs, Source, interest};
use crate::control::{Impair, Impairment, LineInfo};
use crate::frame::{Frame, TagEdit};
use crate::impair::Channel;
use crate::offload::{self, GSO_NONE, VnetHdr};
use crate::port::{DropReason, Offloads, PortId};
use crate::ports::Sent;
use crate::qos::fifo::Queued;
use crate::switch::{Switch, Transmit};

/// Bytes in flight in all channels together: four full ones of the largest size.
const MAX_IN_FLIGHT: usize = 1 << 30;
/// The channels of one seed, told apart.
const IN: u32 = 1;
const OUT: u32 = 2;

/// A port's channels.
#[derive(Debug)]
pub(in crate::serve) struct Lines {
    seed: u64,
    ingress: Option<Channel>,
    egress: Option<Channel>,
    /// The earliest entry of this port in [`Impaired::due`].
    scheduled: Option<Instant>,
}

/// What is due in all ports' channels.
#[derive(Debug, Default)]
pub(in crate::serve) struct Impaired {
    due: BinaryHeap<Reverse<(Instant, PortId)>>,
    in_flight: usize,
    /// A frame out of a queue, in one piece.
    scratch: Vec<u8>,
    /// epoll counts milliseconds, this counts finer; started with the first impaired port.
    timer: Option<TimerFd>,
    /// What it is set to.
    set_to: Option<Instant>,
}

impl Lines {
    fn next(&self) -> Option<Instant> {
        [&self.ingress, &self.egress].into_iter().flatten().filter_map(Channel::poll_timeout).min()
    }

    fn in_flight(&self) -> usize {
        [&self.ingress, &self.egress].into_iter().flatten().map(Channel::in_flight).sum()
    }
}

impl Impaired {
    /// When to call [`Plugs::deliver`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    fn start_timer(&mut self, epoll: &Epoll) -> nix::Result<()> {
        if self.timer.is_none() {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
            // Never read: each time it goes off is an edge.
            epoll.add(&timer, interest(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Source::Timer))?;
            self.timer = Some(timer);
        }
        Ok(())
    }

    /// A frame leaves by an impaired port; false if that is so on its way in only.
    pub(super) fn egress(
        &mut self,
        now: Instant,
        plug: &mut Plug,
        hdr: &VnetHdr,
        frame: Frame<'_>,
        transmit: &Transmit,
        switch: &mut Switch,
    ) -> bool {
        let Some(lines) = &mut plug.lines else { return false };
        let Some(channel) = &mut lines.egress else { return false };
        if !self.put(now, channel, hdr, frame, transmit.edit()) {
            switch.dropped(transmit.port, DropReason::Uncuttable);
        }
        self.schedule(transmit.port, lines);
        true
    }

    /// The same with a frame that waited in the port's queues.
    pub(in crate::serve) fn egress_queued(
        &mut self,
        now: Instant,
        lines: &mut Lines,
        id: PortId,
        queued: &Queued<'_>,
        switch: &mut Switch,
    ) -> bool {
        let Some(channel) = &mut lines.egress else { return false };
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        queued.bytes.iter().for_each(|part| bytes.extend_from_slice(part));
        let put =
            Frame::new(&bytes).is_some_and(|frame| self.put(now, channel, &queued.hdr, frame, TagEdit::Keep));
        if !put {
            switch.dropped(id, DropReason::Uncuttable);
        }
        self.scratch = bytes;
        self.schedule(id, lines);
        true
    }

    /// Puts a frame's packets into a channel; false if it cannot be cut.
    fn put(
        &mut self,
        now: Instant,
        channel: &mut Channel,
        hdr: &VnetHdr,
        frame: Frame<'_>,
        edit: TagEdit,
    ) -> bool {
        offload::emit(hdr, frame, edit, Offloads::NONE, |_, pieces| {
            let before = channel.in_flight();
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            // A copy may come of it.
            if self.in_flight + 2 * len > MAX_IN_FLIGHT {
                channel.overflow(len);
            } else {
                channel.handle_packet(now, pieces);
            }
            self.in_flight += channel.in_flight() - before;
            ControlFlow::Continue(())
        })
        .is_ok()
    }

    fn schedule(&mut self, id: PortId, lines: &mut Lines) {
        let Some(next) = lines.next() else { return };
        if lines.scheduled.is_none_or(|at| next < at) {
            lines.scheduled = Some(next);
            self.due.push(Reverse((next, id)));
        }
    }

    /// A port is gone, and what was in flight with it.
    pub(super) fn forget(&mut self, plug: &Plug) {
        self.in_flight -= plug.lines.as_ref().map_or(0, |lines| lines.in_flight());
    }
}

impl Plugs {
    /// A frame came in; true if a channel has it now. One that makes no sense is left to the switch, which counts it.
    pub(super) fn impair_ingress(
        &mut self,
        now: Instant,
        id: PortId,
        hdr: &VnetHdr,
        bytes: &[u8],
        switch: &mut Switch,
    ) -> bool {
        let Self { table, impaired, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
        let Some(lines) = &mut plug.lines else { return false };
        let Some(channel) = &mut lines.ingress else { return false };
        let Some(frame) = Frame::new(bytes).filter(|frame| hdr.fits(bytes.len(), frame.header_len())) else {
            return false;
        };
        if !impaired.put(now, channel, hdr, frame, TagEdit::Keep) {
            switch.dropped(
                id,
                if hdr.gso_type == GSO_NONE { DropReason::BadOffload } else { DropReason::Uncuttable },
            );
        }
        impaired.schedule(id, lines);
        true
    }

    /// Takes out of the channels what is due.
    pub(super) fn deliver(&mut self, now: Instant, switch: &mut Switch) {
        let mut any = false;
        while let Some(&Reverse((at, id))) = self.impaired.due.peek().filter(|Reverse((at, _))| *at <= now) {
            self.impaired.due.pop();
            let Some(mut lines) = self.plug_mut(id).and_then(|plug| plug.lines.take()) else { continue };
            if lines.scheduled == Some(at) {
                any = true;
                lines.scheduled = None;
                let before = lines.in_flight();
                self.deliver_port(now, id, &mut lines, switch);
                self.impaired.in_flight -= before - lines.in_flight();
                self.impaired.schedule(id, &mut lines);
            }
            if let Some(plug) = self.plug_mut(id) {
                plug.lines = Some(lines);
            }
        }
        if any {
            self.end_burst(now, switch);
        }
    }

    fn deliver_port(&mut self, now: Instant, id: PortId, lines: &mut Lines, switch: &mut Switch) {
        let hdr = VnetHdr::default();
        if let Some(channel) = &mut lines.ingress {
            while let Some(bytes) = channel.poll_packet(now) {
                self.forward(now, id, &hdr, &bytes, switch);
                channel.recycle(bytes);
            }
        }
        let Some(channel) = &mut lines.egress else { return };
        let Self { table, dead, unflushed, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        if plug.wire.begin(now, 1) && !std::mem::replace(&mut plug.unflushed, true) {
            unflushed.push(id);
        }
        let (mut frames, mut sum) = (0, 0);
        while let Some(bytes) = channel.poll_packet(now) {
            match Plug::send(&mut plug.wire, &mut plug.others, &hdr, &[&bytes, &[], &[], &[]]) {
                Sent::Bytes(len) => (frames, sum) = (frames + 1, sum + len as u64),
                Sent::Dropped(reason) => switch.dropped(id, reason),
                Sent::Dead => plug.mark_dead(id, dead),
            }
            channel.recycle(bytes);
        }
        if frames > 0 {
            switch.sent(id, frames, sum);
        }
    }

    /// Sets the timer to what is due next.
    pub(in crate::serve) fn set_timer(&mut self, now: Instant) {
        let next = self.impaired.poll_timeout();
        let Impaired { timer: Some(timer), set_to, .. } = &mut self.impaired else { return };
        if let Some(at) = next.filter(|at| *set_to != Some(*at)) {
            // Zero would turn it off.
            let wait = at.saturating_duration_since(now).max(Duration::from_nanos(1));
            let once = Expiration::OneShot(TimeSpec::from_duration(wait));
            if timer.set(once, TimerSetTimeFlags::empty()).is_ok() {
                *set_to = next;
            }
        }
    }

    /// Changes what a port's link does to frames; `seed` is taken if none was given, now or before.
    pub(in crate::serve) fn impair(&mut self, id: PortId, change: &Impair, seed: u64, epoll: &Epoll) {
        // Without a timer everything comes up to a millisecond late.
        if let Err(e) = self.impaired.start_timer(epoll) {
            log::debug!("no timer for impaired links: {e}");
        }
        let Self { table, impaired, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let anew = change.seed.is_some();
        let seed = change.seed.or_else(|| plug.lines.as_ref().map(|lines| lines.seed)).unwrap_or(seed);
        let mut lines = plug
            .lines
            .take()
            .unwrap_or_else(|| Box::new(Lines { seed, ingress: None, egress: None, scheduled: None }));
        lines.seed = seed;
        let before = lines.in_flight();
        let wishes = [(&mut lines.ingress, &change.ingress, IN), (&mut lines.egress, &change.egress, OUT)];
        for (channel, wish, stream) in wishes {
            match (&mut *channel, wish) {
                (_, Some(spec)) if spec.is_nothing() => *channel = None,
                (Some(channel), Some(spec)) if !anew => channel.set(spec.clone()),
                (Some(old), None) if anew => *channel = Some(Channel::new(old.spec().clone(), seed, stream)),
                (_, Some(spec)) => *channel = Some(Channel::new(spec.clone(), seed, stream)),
                (_, None) => {}
            }
        }
        impaired.in_flight -= before - lines.in_flight();
        plug.lines = (lines.ingress.is_some() || lines.egress.is_some()).then_some(lines);
    }

    /// What a port's link does to frames.
    pub(in crate::serve) fn impairment(
        &mut self,
        now: Instant,
        id: PortId,
        port: String,
    ) -> Option<Impairment> {
        let lines = self.plug_mut(id)?.lines.as_mut()?;
        let info = |channel: &mut Channel| LineInfo {
            spec: channel.spec().clone(),
            state: channel.state(now).to_owned(),
            in_flight: channel.in_flight(),
            counters: channel.counters(),
        };
        let Lines { seed, ingress, egress, .. } = &mut **lines;
        Some(Impairment {
            port,
            seed: *seed,
            ingress: ingress.as_mut().map(info),
            egress: egress.as_mut().map(info),
        })
    }
}
