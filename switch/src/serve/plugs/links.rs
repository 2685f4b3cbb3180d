//! Ports that collect what is sent and take what comes in batches, and those with a second descriptor.
//!
//! # Theory of operation
//! A burst's frames are collected by such a port and leave it with one system call ([`Plugs::flush`]). What the socket
//! has no room for waits there; only while it does, epoll is asked to tell when there is room
//! ([`Plugs::tell_changes`]), as that would wake us for every frame that the other end takes.

use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollFlags};

use super::{Plugs, READABLE, TRIM_CHECK, Taken};
use crate::port::{DropReason, PortId};
use crate::ports::Life;
use crate::serve::{Source, interest};
use crate::switch::Switch;

impl Plugs {
    /// Takes frames that come in batches.
    pub(super) fn take_batch(&mut self, now: Instant, id: PortId, limit: usize, switch: &mut Switch) -> bool {
        let Self { table, arena, taken, .. } = self;
        taken.clear();
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return false };
        let got = plug.wire.receive_batch(now, arena, limit, |frame| match frame {
            Ok((hdr, at)) => taken.push(Taken { hdr, at }),
            Err(reason) => switch.dropped(id, reason),
        });
        match got {
            Ok(more) => {
                plug.errors = 0;
                plug.down &= taken.is_empty();
                more
            }
            Err(e) => {
                self.suffer(now, id, &e);
                false
            }
        }
    }

    /// Ends a burst for a port.
    pub(super) fn flush(&mut self, now: Instant, id: PortId, switch: &mut Switch) {
        let Self { table, dead, changed, swollen, trim_check, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        plug.unflushed = false;
        let flushed = plug.wire.flush();
        for _ in 0..flushed.refused {
            switch.dropped(id, DropReason::Refused);
        }
        if flushed.dead {
            plug.mark_dead(id, dead);
        }
        let mut news = std::mem::replace(&mut plug.blocked, flushed.blocked) != flushed.blocked;
        if !plug.others.is_empty() {
            news |= plug.flush_others(id, switch, dead);
        }
        if news {
            changed.push(id);
        }
        if plug.wire.ring().is_some_and(|ring| ring.is_swollen())
            && !std::mem::replace(&mut plug.swollen, true)
        {
            swollen.push((id, 0));
            trim_check.get_or_insert(now + TRIM_CHECK);
        }
    }

    /// Has epoll tell when ports can be written that wait for it, and no more for those that do not.
    pub(super) fn tell_changes(&mut self, epoll: &Epoll) {
        let Self { table, changed, .. } = self;
        for id in changed.drain(..) {
            let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { continue };
            let flags = if plug.blocked { READABLE | EpollFlags::EPOLLOUT } else { READABLE };
            if let Some(source) = plug.wire.source() {
                let _ = epoll.modify(source, &mut interest(flags, Source::Port(id)));
            }
            plug.watch_others(epoll);
        }
    }

    /// Something happened on a port's second descriptor.
    pub(in crate::serve) fn handle_lifeline(
        &mut self,
        now: Instant,
        id: PortId,
        switch: &mut Switch,
        epoll: &Epoll,
    ) {
        let Some(plug) = self.plug_mut(id) else { return };
        match plug.wire.handle_lifeline() {
            Life::Goes => {}
            Life::Begins => {
                plug.blocked = false;
                let added = plug.wire.source().map(|fd| epoll.add(fd, interest(READABLE, Source::Port(id))));
                if added.is_some_and(|added| added.is_err()) {
                    plug.wire.hang_up();
                }
            }
            Life::Ends => {
                self.drain(now, id, switch);
                let Self { table, dead, .. } = self;
                let plug = table.get_mut(id.index()).and_then(Option::as_mut);
                plug.into_iter().for_each(|plug| plug.mark_dead(id, dead));
            }
        }
    }
}
