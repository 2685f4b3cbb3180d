//! Frames that wait for their wire: what a burst left for one port, and what the port could not take yet.
//!
//! # Theory of operation
//! An [`Outbox`] is a list of datagrams whose bytes lie one behind the other in one buffer. It is filled while a
//! burst is written and emptied by one system call at its end ([`Outbox::send`]); what the socket does not take
//! stays until it can be written again. Several datagrams may share their bytes: those of a flood to many tunnel
//! ends. The buffer grows to what bursts need, up to [`BYTES`], and is used again and again.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::sys;
use crate::offload::Pieces;

/// Bytes that may wait: five super-segments, cut to frames, or as many frames as a vde_switch queues, and more.
const BYTES: usize = 320 << 10;
/// Datagrams that may wait; a vde_switch queues 128 (`stdqlen`).
const DATAGRAMS: usize = 1024;

/// Datagrams on their way out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    at: Range<usize>,
    to: Option<SocketAddr>,
}

/// How emptying an [`Outbox`] ended.
#[derive(Debug)]
pub(super) enum Emptied {
    /// Nothing waits any more.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The first datagram was not sent; see [`Outbox::drop_first`].
    Refused(io::Error),
}

impl Outbox {
    /// Is there room for a frame of `len` bytes to so many receivers?
    pub(super) fn has_room(&self, len: usize, receivers: usize) -> bool {
        self.used() + len <= BYTES && self.waiting.len() + receivers <= DATAGRAMS
    }

    /// Adds a frame behind its header, for the one the socket is connected to.
    pub(super) fn push(&mut self, pieces: &Pieces<'_>) {
        let at = self.put(&[], pieces);
        self.waiting.push_back(Waiting { at, to: None });
    }

    /// Adds a frame behind a header, for each of some receivers.
    pub(super) fn push_to(&mut self, header: &[u8], pieces: &Pieces<'_>, receivers: &[SocketAddr]) {
        let at = self.put(header, pieces);
        let each = receivers.iter().map(|to| Waiting { at: at.clone(), to: Some(*to) });
        self.waiting.extend(each);
    }

    fn put(&mut self, header: &[u8], pieces: &Pieces<'_>) -> Range<usize> {
        if self.waiting.is_empty() {
            self.bytes.clear();
        } else if self.bytes.len() > BYTES {
            self.compact();
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(header);
        pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
        start..self.bytes.len()
    }

    /// Bytes from the first one that waits.
    fn used(&self) -> usize {
        self.waiting.front().map_or(0, |first| self.bytes.len() - first.at.start)
    }

    fn compact(&mut self) {
        let Some(start) = self.waiting.front().map(|first| first.at.start) else { return };
        self.bytes.drain(..start);
        for waiting in &mut self.waiting {
            waiting.at = waiting.at.start - start..waiting.at.end - start;
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>) -> Emptied {
        while !self.waiting.is_empty() {
            let Self { bytes, waiting } = self;
            let sent = match waiting.front() {
                // The usual case of a question and its answer, and the shorter way into the kernel.
                Some(Waiting { at, to: None }) if waiting.len() == 1 => {
                    sys::send_one(fd, &bytes[at.clone()]).map(|_| 1)
                }
                _ => sys::send_batch(fd, waiting.iter().map(|one| (&bytes[one.at.clone()], one.to))),
            };
            match sent {
                Ok(sent) => drop(waiting.drain(..sent.min(waiting.len()))),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Emptied::Blocked,
                Err(e) => return Emptied::Refused(e),
            }
        }
        Emptied::All
    }

    /// Forgets the datagram that would go next.
    pub(super) fn drop_first(&mut self) {
        self.waiting.pop_front();
    }

    /// Forgets what waits; returns how many datagrams.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes.clear();
        self.waiting.drain(..).count()
    }
}
