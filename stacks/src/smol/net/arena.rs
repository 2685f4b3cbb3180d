//! Frames that are ready to leave.
//!
//! # Theory of operation
//! One growing piece of memory. At its tail is the *slot*: [`HEADROOM`] bytes and room for the longest packet.
//! Whoever sends writes the payload there, the network layer writes the headers right before it, and
//! [`Arena::push`] moves the tail behind it: nothing is copied and nothing allocated. [`Arena::drain`] hands out
//! all frames and starts again at the front, so the memory in use is as small as the bursts are, and warm.

use std::fmt;
use std::ops::Range;

use switch::offload::VnetHdr;

use super::{HEADROOM, MAX_PACKET};
use crate::smol::tables::IfIndex;

/// Bytes of a slot.
pub(super) const SLOT: usize = HEADROOM + MAX_PACKET;
/// Bytes of frames that wait to be fetched, at most: about sixty super-segments, or Linux's default
/// txqueuelen of 1000 with full Ethernet frames twice over. More is ENOBUFS.
pub(super) const MAX_WAITING: usize = 4 << 20;

/// The frames.
#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
    /// Everything before it belongs to a frame.
    tail: usize,
    frames: Vec<Frame>,
    /// Something was sent since [`Arena::trim`] last looked.
    used: bool,
}

/// A finished frame.
struct Frame {
    link: IfIndex,
    header: VnetHdr,
    range: Range<usize>,
}

impl Arena {
    /// Where the slot is. Its bytes exist afterwards.
    pub(super) fn slot(&mut self) -> Range<usize> {
        self.reserve(SLOT)
    }

    /// Room for `len` bytes at the tail. When the arena is full, the last bytes are reused: see
    /// [`Arena::is_full`].
    pub(super) fn reserve(&mut self, len: usize) -> Range<usize> {
        let end = self.tail + len;
        if self.bytes.len() < end {
            // Fresh zeroed memory costs nothing until touched; resizing would clear what is never read.
            let mut grown = vec![0; end.max(self.bytes.len() * 2)];
            grown[..self.tail].copy_from_slice(&self.bytes[..self.tail]);
            self.bytes = grown;
        }
        self.used = true;
        self.tail..end
    }

    /// Bytes it has, used or not.
    pub(super) fn memory(&self) -> usize {
        self.bytes.len()
    }

    /// No more frames until the next [`Arena::drain`].
    pub(super) fn is_full(&self) -> bool {
        self.tail >= MAX_WAITING
    }

    /// The bytes of a place in it.
    pub(super) fn at(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }

    /// Moves bytes from one place to another.
    pub(super) fn copy(&mut self, from: Range<usize>, to: usize) {
        self.bytes.copy_within(from, to);
    }

    /// A packet to be sent, with room for its frame's header before it. Returns where it lies.
    pub(super) fn write(&mut self, pieces: &[&[u8]]) -> Range<usize> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut at = self.reserve(HEADROOM + len).start + HEADROOM;
        let start = at;
        for piece in pieces {
            self.bytes[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        start..at
    }

    /// The frame at `range` leaves by `link`.
    pub(super) fn push(&mut self, link: IfIndex, header: VnetHdr, range: Range<usize>) {
        self.tail = self.tail.max(range.end);
        self.frames.push(Frame { link, header, range });
    }

    /// Hands out every frame, in order.
    pub(super) fn drain(&mut self, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) {
        for frame in self.frames.drain(..) {
            sink(frame.link, &frame.header, &self.bytes[frame.range]);
        }
        self.tail = 0;
    }

    /// Gives the memory back if nothing was sent since the last time. Says whether to ask again later.
    pub(super) fn trim(&mut self) -> bool {
        if !self.used && self.frames.is_empty() {
            *self = Self::default();
        }
        self.used = false;
        !self.bytes.is_empty()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} frames, {} of {} bytes)", self.frames.len(), self.tail, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_memory_goes_back() {
        let mut arena = Arena::default();
        for byte in 0..100u8 {
            let range = arena.write(&[&[byte; 700], &[byte; 801]]);
            assert_eq!(range.len(), 1501);
            arena.push(IfIndex(u32::from(byte)), VnetHdr::default(), range);
        }
        let mut seen = 0;
        arena.drain(&mut |link, _, bytes| {
            assert_eq!(bytes, [seen; 1501]);
            assert_eq!(link.0, u32::from(seen));
            seen += 1;
        });
        assert_eq!(seen, 100);
        assert!(arena.trim(), "just used");
        assert!(!arena.trim());
        assert!(arena.bytes.is_empty());
    }

    #[test]
    fn what_is_not_pushed_is_overwritten() {
        let mut arena = Arena::default();
        let first = arena.slot();
        assert_eq!(arena.slot(), first);
        assert_eq!(first.len(), SLOT);
    }
}
