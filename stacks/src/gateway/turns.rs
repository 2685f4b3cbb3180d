//! A gateway's turns: what has happened, what is due, what can be moved.
//!
//! # Theory of operation
//! A gateway in a process of its own waits in its own epoll set ([`Gateway::turn`]). One that lives in its switch's thread has
//! that set in the switch's, and a shorter turn whenever something is in it, or in its port ([`Gateway::turn_within`]). What
//! a turn leaves over has the next one.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::{Gateway, Place, clocks};

/// Events taken at once, and rounds before they are looked for again.
const EVENTS: usize = 256;
const ROUNDS: usize = 8;
/// The same where others wait meanwhile: connections with their buffers full are some milliseconds.
const EVENTS_WITHIN: usize = 32;
const ROUNDS_WITHIN: usize = 1;

impl Gateway {
    /// Waits until there is something to do, or for `most`, and does it. True if what [`Gateway::wait_for`] was told
    /// of is ready.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn turn(&mut self, most: EpollTimeout) -> Result<bool, Errno> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.hall.epoll.wait(&mut events, most) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        let now = clocks().0;
        let beside = self.handle_events(now, &events[..count]);
        self.work(now, ROUNDS);
        Ok(beside)
    }

    /// A turn in another's loop, which does not wait, and takes no longer than others there can wait; `ready`: its
    /// [source](Gateway::source) is. As [`Gateway::turn`] otherwise.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn turn_within(&mut self, now: Instant, ready: bool) -> Result<bool, Errno> {
        let mut events = [EpollEvent::empty(); EVENTS_WITHIN];
        let count = match ready.then(|| self.hall.epoll.wait(&mut events, EpollTimeout::ZERO)) {
            None | Some(Err(Errno::EINTR)) => 0,
            Some(other) => other?,
        };
        let beside = self.handle_events(now, &events[..count]);
        self.port_ready = true;
        self.work(now, ROUNDS_WITHIN);
        Ok(beside)
    }

    /// Readable when something has happened.
    pub fn source(&self) -> BorrowedFd<'_> {
        self.hall.epoll.0.as_fd()
    }

    /// True if what [`Gateway::wait_for`] was told of is ready.
    fn handle_events(&mut self, now: Instant, events: &[EpollEvent]) -> bool {
        let mut beside = false;
        for event in events {
            match Place::of(event.data()) {
                Place::Port => {
                    self.port.handle_ready(event.events());
                    self.port_ready = true;
                }
                Place::Beside => beside = true,
                Place::Stream(slot) => {
                    self.streams.handle_event(now, slot, event.events(), &mut self.hall, &mut self.counts);
                }
                Place::Datagrams(slot) => self.datagrams.handle_event(slot),
                Place::Association(slot) => {
                    self.datagrams.associations.handle_event(now, slot, event.events(), &mut self.hall);
                }
                Place::Relay(slot) => self.datagrams.associations.handle_datagrams(slot),
                Place::Door(slot) => self.doors.handle_event(slot),
                Place::Life(id) => self.doors.handle_end(id),
                Place::Auto(id) => self.doors.handle_answer(id, &mut self.hall),
                Place::View(slot) => self.services.directory.handle_event(now, slot, &self.hall),
                Place::Question(slot) => {
                    let (hall, services) = (&mut self.hall, &mut self.services);
                    self.questions.handle_event(now, slot, event.events(), hall, services);
                }
            }
        }
        beside
    }

    /// Does what is due, and moves what can be moved.
    fn work(&mut self, now: Instant, rounds: usize) {
        self.turned_at = now;
        if self.hall.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.hall.engine.handle_timeout(now);
        }
        self.streams.handle_timeout(now, &mut self.hall);
        self.datagrams.handle_timeout(now);
        self.doors.handle_timeout(now, &mut self.hall);
        self.questions.handle_timeout(now, &mut self.hall);
        self.services.handle_timeout(now, &mut self.hall);
        if let Some(kept) = self.services.directory.take_kept() {
            self.services.answer_kept(now, kept, &mut self.hall);
            self.questions.go_on(now, &mut self.hall, &mut self.services);
        }
        self.run(now, rounds);
    }

    /// Moves what can be moved.
    fn run(&mut self, now: Instant, rounds: usize) {
        self.unfinished = true;
        for round in 0..rounds {
            let now = if round == 0 { now } else { clocks().0 };
            let mut more = self.receive(now);
            self.datagrams.depart(now, &mut self.hall);
            while let Some(id) = self.hall.engine.poll_dirty() {
                if id == self.hall.listener {
                    while let Some((id, _)) = self.hall.engine.accept(now, id) {
                        if !self.questions.accept(now, id, &mut self.hall, &mut self.services) {
                            self.streams.accept(now, id, &mut self.hall);
                        }
                    }
                } else {
                    self.streams.handle_dirty(now, id, &mut self.hall);
                    self.questions.handle_dirty(now, id, &mut self.hall, &mut self.services);
                }
            }
            more |= self.datagrams.run(now, &mut self.hall);
            more |= self.doors.run(now, &mut self.hall, &mut self.streams, &mut self.counts);
            if self.datagrams.take_unheard() {
                self.services.next_nameserver(&mut self.hall);
            }
            more |= self.transmit(now);
            if !more && !self.before_sleep() {
                self.unfinished = false;
                return;
            }
        }
        self.port.flush();
    }

    fn before_sleep(&mut self) -> bool {
        self.port.flush();
        self.port_ready |= self.port.before_sleep();
        self.port_ready
    }

    /// How long there is nothing to do, at most.
    pub fn idle_for(&self) -> Option<Duration> {
        let now = clocks().0;
        self.poll_timeout().map(|at| at.saturating_duration_since(now))
    }
}
