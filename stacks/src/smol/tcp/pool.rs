//! Bodies without a connection: smoltcp sockets with their rings, for the next connection that has something to do.
//!
//! The one that was given back last is taken first: its memory is in the caches, and has its pages. So many
//! connections, of which few are busy at a time, share the memory of those few. Those that nobody took for a while go.

use std::fmt;
use std::time::{Duration, Instant};

use super::Congestion;
use super::slab::{Body, Slab};

/// Most bodies that wait: as many connections as become busy at once are served without making any.
const MOST_WAITING: usize = 256;
/// Bodies looked at for one with rings of the right size; nearly all connections of a stack have the same.
const LOOKED_AT: usize = 8;
/// Bytes of pages that one may keep while it waits, all together 16 MiB.
const MOST_TOUCHED: usize = 64 << 10;
/// How long nobody takes those that go.
const PATIENCE: Duration = Duration::from_secs(1);

/// What smoltcp keeps of a connection for good, in its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of the rings: to receive, to send.
    pub(super) rings: (u32, u32),
    /// Data and options that fit one segment.
    pub(super) mss: u16,
    /// The peer's window scale, if it knows of scales.
    pub(super) scale: Option<u8>,
    /// The peer knows of SACK.
    pub(super) sack: bool,
    /// Both have timestamps.
    pub(super) stamps: bool,
    pub(super) congestion: Congestion,
}

/// What an idle connection leaves in its body, so that another can go on from there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) shape: Shape,
    /// The next sequence number to send and to receive, in smoltcp's words.
    pub(super) sequences: (u32, u32),
    /// Its clock is so much later than ours, in microseconds.
    pub(super) ahead_us: i64,
    /// The window that the peer allows, as smoltcp was told last.
    pub(super) window: u16,
    /// Bytes that smoltcp would take.
    pub(super) room: u32,
}

/// The bodies.
#[derive(Default)]
pub(super) struct Pool {
    slab: Slab,
    // Boxed, as they move from hand to hand.
    #[expect(clippy::vec_box, reason = "a body moves between connections without being copied")]
    waiting: Vec<Box<Body>>,
    /// The fewest that waited at a time, since `release_at` was set.
    unused: usize,
    release_at: Option<Instant>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Bytes of pages in use, by connections or waiting for them.
    pub(super) fn bytes(&self) -> usize {
        self.slab.bytes()
    }

    /// A body with rings of these sizes; in any state.
    pub(super) fn take(&mut self, rings: (u32, u32)) -> Box<Body> {
        let rings = (rings.0 as usize, rings.1 as usize);
        let found = self.waiting.iter().rev().take(LOOKED_AT).position(|body| body.rings() == rings);
        match found {
            Some(back) => {
                let body = self.waiting.remove(self.waiting.len() - 1 - back);
                self.unused = self.unused.min(self.waiting.len());
                body
            }
            None => Box::new(Body::new(&self.slab, rings.0, rings.1)),
        }
    }

    /// A body that nobody needs now.
    pub(super) fn give_back(&mut self, now: Instant, body: Box<Body>) {
        if self.waiting.len() < MOST_WAITING && body.touched() <= MOST_TOUCHED {
            self.waiting.push(body);
            self.release_at.get_or_insert(now + PATIENCE);
        }
    }

    /// When to call [`Pool::release`].
    pub(super) fn poll_release(&self) -> Option<Instant> {
        self.release_at
    }

    /// Those that nobody has needed for a while go back to the kernel.
    pub(super) fn release(&mut self, now: Instant) {
        if self.release_at.is_none_or(|at| now < at) {
            return;
        }
        self.waiting.drain(..self.unused);
        self.unused = self.waiting.len();
        self.release_at = (self.unused > 0).then(|| now + PATIENCE);
        if self.unused == 0 {
            self.waiting = Vec::new();
        }
    }
}
