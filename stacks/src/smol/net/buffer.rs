//! An IP packet that arrived: where its bytes are.

use std::borrow::Cow;

/// The bytes.
#[derive(Debug, Clone)]
pub(super) enum Buffer<'f> {
    /// In the frame, which the caller has.
    Frame(&'f [u8]),
    /// On their own.
    Owned(Vec<u8>),
    /// On their own, with a complete header apart, so that nothing is copied to give both away.
    Split {
        /// IP header with options and extension headers.
        header: Vec<u8>,
        /// The rest.
        payload: Vec<u8>,
    },
}

impl<'f> Buffer<'f> {
    /// From the first byte on: as much as there is in one piece, the header at least.
    pub(super) fn front(&self) -> &[u8] {
        match self {
            Self::Frame(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Split { header, .. } => header,
        }
    }

    /// All bytes, in two pieces.
    pub(super) fn pieces(&self) -> [&[u8]; 2] {
        match self {
            Self::Frame(bytes) => [bytes, &[]],
            Self::Owned(bytes) => [bytes, &[]],
            Self::Split { header, payload } => [header, payload],
        }
    }

    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    /// Cuts off what is behind `len` (Ethernet pads short frames).
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Self::Frame(bytes) => *bytes = &bytes[..len.min(bytes.len())],
            Self::Owned(bytes) => bytes.truncate(len),
            Self::Split { header, payload } => payload.truncate(len.saturating_sub(header.len())),
        }
    }

    /// All bytes in one piece.
    pub(super) fn joined(self) -> Self {
        match self {
            Self::Split { mut header, payload } => {
                header.extend_from_slice(&payload);
                Self::Owned(header)
            }
            whole => whole,
        }
    }

    /// The first `head` bytes and the rest.
    pub(super) fn split(self, head: usize) -> (Cow<'f, [u8]>, Cow<'f, [u8]>) {
        match self {
            Self::Frame(bytes) => {
                let (header, payload) = bytes.split_at(head.min(bytes.len()));
                (Cow::Borrowed(header), Cow::Borrowed(payload))
            }
            Self::Owned(mut header) => {
                let payload = header.split_off(head.min(header.len()));
                (Cow::Owned(header), Cow::Owned(payload))
            }
            Self::Split { header, payload } if header.len() == head => {
                (Cow::Owned(header), Cow::Owned(payload))
            }
            split @ Self::Split { .. } => split.joined().split(head),
        }
    }
}
