//! Several programs on one port, as a vde_switch has them.
//!
//! # Theory of operation
//! A port's frames go to all its *endpoints*; what one of them sends came in by the port, and so does not go to the
//! others. The first endpoint is the [`Plug`] itself, the others are in [`Plug::others`], each with a number of its
//! own in epoll. When something is ready at one of those, it changes places with the first, has its turn as any port
//! has, and changes back: so all that ports do with their wires is written once. When the first goes, the last
//! to come takes its place; the port goes with the last endpoint.
//!
//! Read: vde-2's src/vde_switch/port.c (`setup_ep`, `close_ep_port_fd`, `SEND_PACKET_PORT`).

use std::io;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollFlags};

use super::{Plug, Plugs, READABLE};
use crate::events::Event;
use crate::offload::{Pieces, VnetHdr};
use crate::port::{DropReason, PortId};
use crate::ports::vde::FileName;
use crate::ports::{Sent, Wire};
use crate::serve::{Source, interest};
use crate::switch::Switch;

/// Programs on one port at most: each costs two descriptors, and a copy of every frame.
const MAX_ENDPOINTS: usize = 64;

/// The number of a port's first endpoint.
pub(in crate::serve) const FIRST: u32 = 1;

/// A program that shares a port with others. What it has in common with a [`Plug`] is described there.
pub(in crate::serve) struct Endpoint {
    /// Its number among the port's.
    number: u32,
    /// Its number in epoll.
    slot: u32,
    wire: Wire,
    peer: String,
    file: Option<FileName>,
    errors: u32,
    pub(super) blocked: bool,
    pub(super) dead: bool,
    /// Frames that found no room here, and that another of the port's endpoints took.
    lost: u32,
}

impl Plug {
    /// Puts a frame out at all endpoints; it is sent if one of them took it.
    pub(in crate::serve) fn send(
        wire: &mut Wire,
        others: &mut [Endpoint],
        hdr: &VnetHdr,
        pieces: &Pieces<'_>,
    ) -> Sent {
        let mut all = wire.send(hdr, pieces);
        for other in others {
            match (all, other.wire.send(hdr, pieces)) {
                (Sent::Bytes(_), Sent::Bytes(_)) => {}
                (_, taken @ Sent::Bytes(_)) => {
                    all = taken;
                    other.lost += 1;
                }
                (Sent::Bytes(_), _) => other.lost += 1,
                // That is told of the port as a whole.
                _ => {}
            }
        }
        all
    }

    /// The endpoints' numbers, and what is said of them.
    pub(in crate::serve) fn endpoints(&self) -> impl Iterator<Item = (u32, &str)> {
        let others = self.others.iter().map(|other| (other.number, other.peer.as_str()));
        std::iter::once((self.endpoint, self.peer.as_str())).chain(others)
    }

    /// The first endpoint and one of the others change places, but for their numbers in epoll.
    fn swap(&mut self, at: usize) {
        let Some(other) = self.others.get_mut(at) else { return };
        std::mem::swap(&mut self.endpoint, &mut other.number);
        std::mem::swap(&mut self.wire, &mut other.wire);
        std::mem::swap(&mut self.peer, &mut other.peer);
        std::mem::swap(&mut self.file, &mut other.file);
        std::mem::swap(&mut self.errors, &mut other.errors);
        std::mem::swap(&mut self.blocked, &mut other.blocked);
        std::mem::swap(&mut self.dead, &mut other.dead);
    }

    /// Sends what was collected for the endpoints beside the first. True if epoll is to be told of changes.
    pub(super) fn flush_others(&mut self, id: PortId, switch: &mut Switch, dead: &mut Vec<PortId>) -> bool {
        let mut changed = false;
        for other in &mut self.others {
            let flushed = other.wire.flush();
            (0..flushed.refused).for_each(|_| switch.dropped(id, DropReason::Refused));
            (0..std::mem::take(&mut other.lost)).for_each(|_| switch.dropped(id, DropReason::Full));
            if flushed.dead && !std::mem::replace(&mut other.dead, true) {
                dead.push(id);
            }
            changed |= std::mem::replace(&mut other.blocked, flushed.blocked) != flushed.blocked;
        }
        changed
    }

    /// Has epoll tell when the endpoints beside the first can be written, if they wait for it.
    pub(super) fn watch_others(&self, epoll: &Epoll) {
        for other in &self.others {
            let flags = if other.blocked { READABLE | EpollFlags::EPOLLOUT } else { READABLE };
            if let Some(source) = other.wire.source() {
                let _ = epoll.modify(source, &mut interest(flags, Source::Endpoint(other.slot)));
            }
        }
    }
}

impl Plugs {
    /// A further program takes a seat at a port. Returns its number there.
    ///
    /// # Errors
    /// ENOSPC when the port has too many; those of epoll_ctl(2).
    pub(in crate::serve) fn join(
        &mut self,
        id: PortId,
        wire: Wire,
        peer: String,
        file: Option<FileName>,
        switch: &mut Switch,
        epoll: &Epoll,
    ) -> io::Result<u32> {
        let Self { table, slots, .. } = self;
        let plug = table.get_mut(id.index()).and_then(Option::as_mut);
        let plug = plug.ok_or_else(|| io::Error::from_raw_os_error(libc::ENXIO))?;
        if plug.others.len() + 1 >= MAX_ENDPOINTS {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let slot = slots.iter().position(Option::is_none).unwrap_or(slots.len());
        let source = wire.source().map(|fd| (fd, READABLE, Source::Endpoint(slot as u32)));
        let lifeline = wire.lifeline().map(|(fd, flags)| (fd, flags, Source::EndpointEnd(slot as u32)));
        for (fd, flags, source) in source.into_iter().chain(lifeline) {
            if let Err(e) = epoll.add(fd, interest(flags, source)) {
                wire.source().into_iter().for_each(|fd| {
                    let _ = epoll.delete(fd);
                });
                return Err(e.into());
            }
        }
        let is_taken = |number| plug.endpoint == number || plug.others.iter().any(|o| o.number == number);
        let number = (FIRST..).find(|number| !is_taken(*number)).expect("a port has few endpoints");
        let (blocked, dead, errors, lost, slot) = (false, false, 0, 0, slot as u32);
        plug.others.push(Endpoint { number, slot, wire, peer, file, errors, blocked, dead, lost });
        slots.resize(slots.len().max(slot as usize + 1), None);
        slots[slot as usize] = Some(id);
        self.tell_endpoint(id, number, switch);
        Ok(number)
    }

    /// Tells those who listen of a new endpoint.
    pub(super) fn tell_endpoint(&self, id: PortId, endpoint: u32, switch: &mut Switch) {
        if !switch.events_mut().is_on() {
            return;
        }
        let (Some(plug), Some(port)) = (self.plug(id), switch.port(id)) else { return };
        let other = plug.others.iter().find(|other| other.number == endpoint);
        let (port, peer) = (port.name.clone(), other.map_or(&plug.peer, |other| &other.peer).clone());
        switch.events_mut().push(Event::EndpointAdded { port, endpoint, peer });
    }

    /// Something happened at an endpoint beside a port's first: at its socket, or at its lifeline if there are no
    /// `events`.
    pub(in crate::serve) fn handle_endpoint(
        &mut self,
        now: Instant,
        slot: u32,
        events: Option<EpollFlags>,
        switch: &mut Switch,
        epoll: &Epoll,
    ) {
        let Some(id) = self.slots.get(slot as usize).copied().flatten() else { return };
        let at = self.plug(id).and_then(|plug| plug.others.iter().position(|other| other.slot == slot));
        let Some(at) = at else { return };
        self.plug_mut(id).into_iter().for_each(|plug| plug.swap(at));
        match events {
            Some(events) => drop(self.handle_ready(now, id, events, switch)),
            None => self.handle_lifeline(now, id, switch, epoll),
        }
        self.plug_mut(id).into_iter().for_each(|plug| plug.swap(at));
    }

    /// Closes one endpoint of a port; true if there was one of that number.
    pub(in crate::serve) fn close_endpoint(
        &mut self,
        id: PortId,
        number: u32,
        switch: &mut Switch,
        epoll: &Epoll,
    ) -> bool {
        let Some(plug) = self.plug_mut(id) else { return false };
        if plug.endpoint == number {
            plug.dead = true;
        } else if let Some(other) = plug.others.iter_mut().find(|other| other.number == number) {
            other.dead = true;
        } else {
            return false;
        }
        self.remove_dead_of(id, switch, epoll);
        true
    }

    /// Pulls out those of a port's endpoints that are dead, and the port if all are.
    pub(super) fn remove_dead_of(&mut self, id: PortId, switch: &mut Switch, epoll: &Epoll) {
        let Some(plug) = self.plug_mut(id) else { return };
        if plug.dead && plug.others.iter().all(|other| other.dead) {
            return self.remove(id, switch, epoll);
        }
        if plug.dead
            && let Some(at) = plug.others.iter().rposition(|other| !other.dead)
        {
            plug.swap(at);
            let flags = if plug.blocked { READABLE | EpollFlags::EPOLLOUT } else { READABLE };
            let source = plug.wire.source().map(|fd| (fd, flags, Source::Port(id)));
            let lifeline = plug.wire.lifeline().map(|(fd, flags)| (fd, flags, Source::Lifeline(id)));
            for (fd, flags, source) in source.into_iter().chain(lifeline) {
                let _ = epoll.modify(fd, &mut interest(flags, source));
            }
        }
        let (gone, stay) = std::mem::take(&mut plug.others).into_iter().partition(|other| other.dead);
        plug.others = stay;
        let gone: Vec<Endpoint> = gone;
        gone.into_iter().for_each(|endpoint| self.forget_endpoint(id, endpoint, switch, epoll));
    }

    /// An endpoint that is in no port's list any more ends.
    pub(super) fn forget_endpoint(
        &mut self,
        id: PortId,
        endpoint: Endpoint,
        switch: &mut Switch,
        epoll: &Epoll,
    ) {
        let Endpoint { number, slot, wire, file, .. } = endpoint;
        tell_gone(id, number, switch);
        let lifeline = wire.lifeline().map(|(fd, _)| fd);
        wire.source().into_iter().chain(lifeline).for_each(|fd| {
            let _ = epoll.delete(fd);
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = None;
        }
        self.forget_file(file);
        self.close_wire(wire);
    }
}

/// Tells those who listen that an endpoint is gone.
pub(super) fn tell_gone(id: PortId, endpoint: u32, switch: &mut Switch) {
    if switch.events_mut().is_on()
        && let Some(port) = switch.port(id).map(|port| port.name.clone())
    {
        switch.events_mut().push(Event::EndpointRemoved { port, endpoint });
    }
}
