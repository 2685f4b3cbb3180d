//! Connections that are told what happens.
//!
//! # Theory of operation
//! A connection that asked for [`Request::Events`](crate::control::Request::Events) gets each event as a line, when the
//! round is over. What it does not read waits, up to [`MAX_BACKLOG`] events; then [`Event::TooSlow`] is the last one, and it
//! is hung up once it has read that, or did not in the time that any answer may wait.

use std::time::Instant;

use super::super::wall_ns;
use super::{Connections, Hall};
use crate::control::Answer;
use crate::events::{DROP_LOOK, DropWatch, Event, Told, VERSION};
use msocket_proto::line::Refusal;

/// Connections at most that are told events.
const MAX_SUBSCRIBERS: usize = 16;
/// Events at most that wait for one reader, at some 150 bytes each; the socket holds a few hundred more.
const MAX_BACKLOG: usize = 4096;

/// Who is told what happens.
#[derive(Default)]
pub(super) struct Subscribers {
    list: Vec<u32>,
    drops: DropWatch,
    next_look: Option<Instant>,
}

impl Subscribers {
    /// When to look for drops.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// A connection has ended.
    pub(super) fn remove(&mut self, index: u32) {
        let before = self.list.len();
        self.list.retain(|subscriber| *subscriber != index);
        if self.list.is_empty() && before > 0 {
            *self = Self::default();
        }
    }
}

impl Connections {
    /// From now on the connection is told.
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        index: u32,
        hall: &mut Hall<'_>,
    ) -> Result<Answer, Refusal> {
        let subscribers = &mut self.subscribers;
        if subscribers.list.contains(&index) {
            return Ok(Answer::Done(()));
        }
        if subscribers.list.len() >= MAX_SUBSCRIBERS {
            let why = format!("{MAX_SUBSCRIBERS} connections are told events already");
            return Err(Refusal::new("cannot tell the events", why)
                .hint("end one of them")
                .errno(libc::ENOSPC));
        }
        if subscribers.list.is_empty() {
            hall.switch.events_mut().listen(true);
            subscribers.drops.look(now, hall.switch);
            subscribers.next_look = Some(now + DROP_LOOK);
        }
        subscribers.list.push(index);
        Ok(Answer::Done(()))
    }

    /// The round is over: tells what happened in it.
    pub(in super::super) fn publish(&mut self, now: Instant, hall: &mut Hall<'_>) {
        let consoles = &mut hall.access.consoles;
        let is_on = !self.subscribers.list.is_empty() || consoles.is_told();
        if is_on != hall.switch.events_mut().is_on() {
            hall.switch.events_mut().listen(is_on);
        }
        if !is_on {
            return;
        }
        let mut events = hall.switch.events_mut().take();
        consoles.publish(now, &events, hall.switch, hall.epoll);
        if self.subscribers.list.is_empty() {
            return;
        }
        if self.subscribers.next_look.is_some_and(|at| at <= now) {
            events.extend(self.subscribers.drops.look(now, hall.switch));
            self.subscribers.next_look = Some(now + DROP_LOOK);
        }
        if events.is_empty() {
            return;
        }
        let time_ms = wall_ns() / 1_000_000;
        for event in events {
            let told = Told { version: VERSION, time_ms, switch: self.identity.name.clone(), event };
            for at in 0..self.subscribers.list.len() {
                self.tell(self.subscribers.list[at], &told);
            }
        }
        for at in 0..self.subscribers.list.len() {
            let index = self.subscribers.list[at];
            if self.connection(index).is_some_and(|c| c.line.wants_write() || c.closing) {
                self.make_runnable(index);
            }
        }
    }

    fn tell(&mut self, index: u32, told: &Told) {
        let Some(connection) = self.connection(index).filter(|c| !c.closing) else { return };
        if connection.line.backlog() >= MAX_BACKLOG {
            connection.closing = true;
            let _ = connection.line.send(&Told { event: Event::TooSlow, ..told.clone() }, &[]);
        } else if connection.line.send(told, &[]).is_err() {
            connection.closing = true;
        }
    }
}
