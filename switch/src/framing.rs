//! Frames in a byte stream, each behind its length: how QEMU's `-netdev stream` and `-netdev socket` speak.
//!
//! # Theory of operation
//! A frame is preceded by its length, four bytes in network order. [`Inbox`] takes bytes as they come, in any
//! pieces, and gives frames. Its buffer holds any frame; a length that no frame has is the end of the stream, as
//! nothing behind it can be believed.
//!
//! Read: QEMU's net/net.c (`net_fill_rstate`) and net/stream.c.

use crate::frame::{MAX_FRAME, TAG_LEN};

/// Bytes of a length.
pub const PREFIX_LEN: usize = 4;
/// Longest frame, in bytes: what a receive buffer holds.
pub const MAX_LEN: usize = MAX_FRAME + TAG_LEN;
/// Bytes kept: a frame of any length, and as much again to be read at once.
const CAPACITY: usize = 2 * (PREFIX_LEN + MAX_LEN);

/// A length that no frame has; the stream is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is announced")]
pub struct BadLength(pub u32);

/// The length of a frame, as it precedes it.
pub fn prefix(len: usize) -> [u8; PREFIX_LEN] {
    (len as u32).to_be_bytes()
}

/// Bytes that arrived and are not yet taken as frames.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Room for what arrives next; not empty if [`Inbox::next_frame`] has none.
    pub fn space(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(CAPACITY, 0);
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end > CAPACITY / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were put into [`Inbox::space`].
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.bytes.len());
    }

    /// Is there a whole frame, or a bad length?
    pub fn has_frame(&self) -> bool {
        self.length().is_some_and(|len| len > MAX_LEN || self.waiting() >= PREFIX_LEN + len)
    }

    /// The next frame, if it is there.
    ///
    /// # Errors
    /// A length that no frame has.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, BadLength> {
        let Some(len) = self.length() else { return Ok(None) };
        if len > MAX_LEN {
            return Err(BadLength(len as u32));
        }
        if self.waiting() < PREFIX_LEN + len {
            return Ok(None);
        }
        let at = self.start + PREFIX_LEN;
        self.start = at + len;
        Ok(Some(&self.bytes[at..at + len]))
    }

    /// Forgets everything: another stream begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn waiting(&self) -> usize {
        self.end - self.start
    }

    fn length(&self) -> Option<usize> {
        let prefix = self.bytes[self.start..self.end].first_chunk::<PREFIX_LEN>()?;
        Some(u32::from_be_bytes(*prefix) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(inbox: &mut Inbox, bytes: &[u8]) -> usize {
        let space = inbox.space();
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        inbox.filled(len);
        len
    }

    #[test]
    fn a_bad_length_is_the_end() {
        let mut inbox = Inbox::default();
        put(&mut inbox, &prefix(MAX_LEN + 1));
        assert!(inbox.has_frame());
        assert_eq!(inbox.next_frame(), Err(BadLength(MAX_LEN as u32 + 1)));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            lengths in prop::collection::vec(prop_oneof![9 => 0usize..2000, 1 => Just(MAX_LEN)], 1..12),
            pieces in prop::collection::vec(1usize..70_000, 1..12),
        ) {
            let frames: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
            let stream: Vec<u8> = frames.iter().flat_map(|f| [&prefix(f.len())[..], f].concat()).collect();
            let (mut inbox, mut rest, mut got) = (Inbox::default(), &stream[..], Vec::new());
            let mut pieces = pieces.into_iter().cycle();
            while !rest.is_empty() {
                let piece = pieces.next().unwrap().min(rest.len());
                let taken = put(&mut inbox, &rest[..piece]);
                prop_assert!(taken > 0, "no room and no frame");
                rest = &rest[taken..];
                while let Some(frame) = inbox.next_frame().unwrap() {
                    got.push(frame.to_vec());
                }
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64)) {
            let mut inbox = Inbox::default();
            for piece in pieces {
                put(&mut inbox, &piece);
                while let Ok(Some(frame)) = inbox.next_frame() {
                    prop_assert!(frame.len() <= MAX_LEN);
                }
            }
        }
    }
}
