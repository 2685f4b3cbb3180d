//! One queue of whole frames, bounded in bytes.
//!
//! # Theory of operation
//! A ring of bytes that is had when the port is set up and never grows. A frame lies in it behind a head of
//! [`HEAD`] bytes, and may go on at the ring's beginning when the end is reached: so the frame that is next is
//! at most two slices, for a gathering write. Memory of a queue that was never used costs nothing, as the
//! kernel gives pages when they are first touched.

use crate::frame::{Priority, Tci};
use crate::offload::{Pieces, VNET_HDR_LEN, VnetHdr};
use crate::ports::BUFFER_LEN;
use crate::vlan::Vid;

/// Bytes beside each frame: its length (4), VLAN and priority (2), and virtio-net header (10).
pub const HEAD: usize = 4 + 2 + VNET_HDR_LEN;
/// A queue holds any frame.
pub const MIN_BYTES: usize = HEAD + BUFFER_LEN;

/// The frame that is next.
#[derive(Debug, Clone, Copy)]
pub struct Queued<'q> {
    /// Its virtio-net header.
    pub hdr: VnetHdr,
    /// Its VLAN.
    pub vid: Vid,
    /// Its priority.
    pub priority: Priority,
    /// Its bytes, in order.
    pub bytes: [&'q [u8]; 2],
}

/// The queue.
#[derive(Debug)]
pub struct Fifo {
    ring: Box<[u8]>,
    /// Where the next frame's head begins.
    start: usize,
    used: usize,
    frames: usize,
}

impl Fifo {
    /// An empty queue of `bytes`, but at least [`MIN_BYTES`].
    pub fn new(bytes: usize) -> Self {
        Self { ring: vec![0; bytes.max(MIN_BYTES)].into_boxed_slice(), start: 0, used: 0, frames: 0 }
    }

    /// Puts a frame in; false if there is no room.
    pub fn push(&mut self, hdr: &VnetHdr, vid: Vid, priority: Priority, pieces: &Pieces<'_>) -> bool {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if len > BUFFER_LEN || HEAD + len > self.ring.len() - self.used {
            return false;
        }
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        head[4..6].copy_from_slice(&Tci::of(priority, vid).0.to_ne_bytes());
        head[6..].copy_from_slice(&hdr.to_bytes());
        let mut at = self.wrapped(self.start + self.used);
        for piece in std::iter::once(&&head[..]).chain(pieces) {
            let (first, second) = piece.split_at(piece.len().min(self.ring.len() - at));
            self.ring[at..at + first.len()].copy_from_slice(first);
            self.ring[..second.len()].copy_from_slice(second);
            at = self.wrapped(at + piece.len());
        }
        self.used += HEAD + len;
        self.frames += 1;
        true
    }

    /// The next frame.
    pub fn peek(&self) -> Option<Queued<'_>> {
        let len = self.next_len()?;
        let mut head = [0; HEAD];
        let (first, second) = self.slices(self.start, HEAD);
        head[..first.len()].copy_from_slice(first);
        head[first.len()..].copy_from_slice(second);
        let [_, _, _, _, a, b, hdr @ ..] = head;
        let tci = Tci(u16::from_ne_bytes([a, b]));
        let (first, second) = self.slices(self.wrapped(self.start + HEAD), len);
        Some(Queued {
            hdr: VnetHdr::parse(hdr),
            vid: Vid::new(tci.raw_vid()).expect("push wrote a VLAN's number"),
            priority: tci.priority(),
            bytes: [first, second],
        })
    }

    /// Bytes of the next frame.
    pub fn next_len(&self) -> Option<usize> {
        if self.frames == 0 {
            return None;
        }
        let mut len = [0; 4];
        let (first, second) = self.slices(self.start, len.len());
        len[..first.len()].copy_from_slice(first);
        len[first.len()..].copy_from_slice(second);
        Some(u32::from_ne_bytes(len) as usize)
    }

    /// Takes the next frame out.
    pub fn pop(&mut self) {
        let Some(len) = self.next_len() else { return };
        self.start = self.wrapped(self.start + HEAD + len);
        self.used -= HEAD + len;
        self.frames -= 1;
        if self.frames == 0 {
            // The same pages again, as long as they are enough.
            self.start = 0;
        }
    }

    /// Frames in it.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes taken, heads included.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes it has.
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    fn wrapped(&self, at: usize) -> usize {
        if at >= self.ring.len() { at - self.ring.len() } else { at }
    }

    fn slices(&self, at: usize, len: usize) -> (&[u8], &[u8]) {
        let first = len.min(self.ring.len() - at);
        (&self.ring[at..at + first], &self.ring[..len - first])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list: frames come out as they went in, and never more fit than there is room.
        #[test]
        fn behaves_as_a_list(steps in prop::collection::vec((any::<bool>(), 0..20_000usize, any::<u16>()), 0..200)) {
            let (mut fifo, mut model) = (Fifo::new(0), VecDeque::new());
            for (push, len, seed) in steps {
                if push {
                    let bytes: Vec<u8> = (0..len).map(|i| (i as u16 ^ seed) as u8).collect();
                    let (head, rest) = bytes.split_at(len.min(16));
                    let hdr = VnetHdr { gso_size: seed, ..VnetHdr::default() };
                    let (vid, priority) = (Vid::new(1 + seed % 4094).unwrap(), Priority::from_bits(seed as u8));
                    let room = fifo.capacity() - fifo.used() >= HEAD + len;
                    prop_assert_eq!(fifo.push(&hdr, vid, priority, &[head, rest, &[], &[]]), room);
                    if room {
                        model.push_back((hdr, vid, priority, bytes));
                    }
                } else {
                    let next = fifo.peek().map(|q| (q.hdr, q.vid, q.priority, q.bytes.concat()));
                    prop_assert_eq!(next, model.pop_front());
                    fifo.pop();
                }
                prop_assert_eq!(fifo.frames(), model.len());
                prop_assert_eq!(fifo.used(), model.iter().map(|(.., bytes)| HEAD + bytes.len()).sum::<usize>());
            }
        }
    }
}
