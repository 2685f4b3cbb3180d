//! Residents: whoever lives at the far end of a ring in the switch's own thread.
//!
//! # Theory of operation
//! A program at a ring is woken by a doorbell and wakes the switch by another. One that does next to nothing with a
//! frame but hand it on, as a gateway, costs more by being woken than by what it does. So a [`Resident`] lives here: what
//! the switch put into its ring it takes in the same round, and what it puts there is forwarded in the same round, without
//! a doorbell. Its port is an ordinary ring port, of which it has the far end, and goes with it, as it goes with its port.
//!
//! It has a turn when its source is ready, when its time has come, and when frames were put into its ring. What a turn
//! may take is bounded by the resident; it never waits. One that panics is gone, with its port; the switch goes on.
//!
//! Limits: [`MAX_RESIDENTS`].

use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use msocket_proto::line::Refusal;
use nix::sys::epoll::{Epoll, EpollFlags};

use super::connections::{Hall, refuse_plug};
use super::metrics::OnFile;
use super::plugs::{NewPlug, Plugs};
use super::{Source, attach, interest};
use crate::control::{Attach, PortAdded};
use crate::port::PortId;
use crate::ports::ring::{CAPACITY, Ring};
use crate::ports::{Kind, Wire};
use crate::switch::Switch;

/// Residents at once: gateways in some of the switch's networks. Each takes its part of the one thread.
const MAX_RESIDENTS: usize = 4;
const WHAT: &str = "cannot live in the switch";

/// Somebody who lives in the switch's thread. It has the end of a ring port whose other end is the switch's, and asks for
/// no doorbell there.
pub trait Resident: Send {
    /// What to wait for: readable as long as there is something to do.
    fn source(&self) -> BorrowedFd<'_>;

    /// Its socket's file.
    fn file(&self) -> &Path;

    /// When its turn is, if nothing happens first.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Its turn: `ready` if the source is. False: it has come to its end.
    fn turn(&mut self, now: Instant, ready: bool) -> bool;
}

/// Makes a resident of what was asked for ([`crate::control::Request::Host`]), with its end of the port.
///
/// EOPNOTSUPP: not here.
pub type Maker = dyn FnMut(&str, Ring) -> Result<Box<dyn Resident>, Refusal> + Send;

/// Those of a switch that runs: they need not be fit for another thread.
pub(super) struct Residents {
    maker: Option<Box<Maker>>,
    list: Vec<Lodging>,
    next: u32,
    /// Bytes that went to them and came from them since [`Residents::take_moved`].
    moved: u64,
}

/// A resident and where it lives.
struct Lodging {
    number: u32,
    resident: Box<dyn Resident>,
    file: PathBuf,
    port: PortId,
    guest: bool,
    /// Frames that its port had sent when it had its last turn.
    seen: u64,
    /// Bytes that its port had sent and received then.
    bytes: u64,
    ready: bool,
    due: Option<Instant>,
}

impl Residents {
    /// None yet, and none ever without a maker.
    pub(super) fn new(maker: Option<Box<Maker>>) -> Self {
        Self { maker, list: Vec::new(), next: 0, moved: 0 }
    }

    /// How many of their ports keep no switch that ends when unused.
    pub(super) fn guests(&self) -> usize {
        self.list.iter().filter(|it| it.guest).count()
    }

    /// A resident's source is ready.
    pub(super) fn handle_ready(&mut self, number: u32) {
        self.list.iter_mut().filter(|it| it.number == number).for_each(|it| it.ready = true);
    }

    /// Bytes of frames to and from residents since the last call.
    pub(super) fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved) as usize
    }

    /// When the next one has its turn, if nothing happens first.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.list.iter().filter_map(|it| it.due).min()
    }

    /// Gives a turn to those who have something to do, and forwards what comes of it.
    pub(super) fn run(
        &mut self,
        now: Instant,
        (switch, plugs, epoll): (&mut Switch, &mut Plugs, &Epoll),
        on_file: &mut OnFile<'_>,
    ) {
        let mut at = 0;
        while let Some(lodging) = self.list.get_mut(at) {
            let goes_on = lodging.turn(now, switch, plugs);
            self.moved += lodging.take_moved(switch);
            if goes_on {
                at += 1;
                continue;
            }
            let gone = self.list.remove(at);
            let _ = epoll.delete(gone.resident.source());
            if plugs.is_home_of(gone.port, gone.number) {
                plugs.remove(gone.port, switch, epoll);
            }
            on_file(&gone.file, false);
        }
    }
}

impl Lodging {
    /// False: it has come to its end.
    fn turn(&mut self, now: Instant, switch: &mut Switch, plugs: &mut Plugs) -> bool {
        if !plugs.is_home_of(self.port, self.number) {
            return false;
        }
        let sent = switch.port(self.port).map_or(0, |port| port.counters.tx_frames);
        if !self.ready && sent == self.seen && self.due.is_none_or(|at| now < at) {
            return true;
        }
        self.seen = sent;
        let ready = std::mem::take(&mut self.ready);
        plugs.silence(self.port);
        let resident = &mut self.resident;
        let turn = catch_unwind(AssertUnwindSafe(|| (resident.turn(now, ready), resident.poll_timeout())));
        let Ok((goes_on, due)) = turn else {
            log::error!("who lived in the switch, at {}, has failed", self.file.display());
            return false;
        };
        self.due = due;
        let _ = plugs.handle_ready(now, self.port, EpollFlags::EPOLLIN, switch);
        goes_on
    }
}

impl Lodging {
    /// Bytes that its port sent and received since the last call.
    fn take_moved(&mut self, switch: &Switch) -> u64 {
        let counted = switch.port(self.port).map(|port| port.counters.tx_bytes + port.counters.rx_bytes);
        let before = std::mem::replace(&mut self.bytes, counted.unwrap_or(0));
        self.bytes.saturating_sub(before)
    }
}

impl Hall<'_> {
    /// Takes a resident in.
    pub(super) fn host(&mut self, now: Instant, attach: Attach, what: &str) -> Result<PortAdded, Refusal> {
        let Self { switch, plugs, epoll, on_file, residents, .. } = self;
        let refuse = |why: &str| Refusal::new(WHAT, why).errno(libc::EOPNOTSUPP);
        let failed = |e: io::Error| Refusal::system(WHAT, e);
        let Some(maker) = &mut residents.maker else { return Err(refuse("whoever runs it takes nobody in")) };
        let at_home = |it: &&Lodging| plugs.is_home_of(it.port, it.number);
        if residents.list.iter().filter(at_home).count() >= MAX_RESIDENTS {
            return Err(refuse("there is no room"));
        }
        let name = attach.name.unwrap_or_else(|| switch.free_name());
        if switch.find(&name).is_some() {
            return Err(super::connections::refuse_port(&crate::switch::PortError::NameTaken(name)));
        }
        let (ring, ends) = Ring::create(CAPACITY).map_err(failed)?;
        let resident = maker(what, ring)?;
        residents.next = residents.next.wrapping_add(1);
        let number = residents.next;
        let event = interest(EpollFlags::EPOLLIN, Source::Resident(number));
        epoll.add(resident.source(), event).map_err(|e| failed(e.into()))?;
        let new = NewPlug {
            name: &name,
            wire: Wire::new(ends.into(), Kind::Ring).map_err(failed)?,
            vlans: attach.vlans,
            offloads: attach.offloads,
            dying: attach.dying,
            owner: None,
            peer: attach::printable(&attach.peer),
            file: None,
            at: None,
            user: None,
        };
        let port = plugs.add(now, new, switch, epoll).map_err(|e| refuse_plug(WHAT, e))?;
        plugs.plug_mut(port).into_iter().for_each(|plug| plug.resident = Some(number));
        let (file, guest) = (resident.file().to_owned(), attach.guest);
        on_file(&file, true);
        let (seen, bytes, ready, due) = (0, 0, true, None);
        residents.list.push(Lodging { number, resident, file, port, guest, seen, bytes, ready, due });
        Ok(PortAdded { name })
    }
}
