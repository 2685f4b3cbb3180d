//! Capturing: what a switch tells about the frames it moves, and what is made of it.
//!
//! # Theory of operation
//! A capture is a ring ([`crate::ports::ring`]) that the one who captures makes, and into which the switch puts
//! [`Record`]s: a frame with where, when and which way it went, or the name of a port, before the first frame that
//! needs it. So the reader costs the switch no system call per frame, and cannot slow it: a record for which the
//! ring has no room is lost and counted, and the next one says how many were.
//!
//! - [`filter`]: which frames are wanted, in tcpdump's words;
//! - [`packet`]: the headers of a frame, as far as filters and people look;
//! - [`pcapng`]: the file format;
//! - [`summary`]: a frame as a line of text.
//!
//! All of them are cores: bytes in, values and bytes out.

pub mod filter;
pub mod packet;
pub mod pcapng;
pub mod summary;

use crate::port::DropReason;

/// Bytes of a record before the frame or the name.
pub const HEAD_LEN: usize = 24;

/// Which way a frame crossed a port, as seen from the switch or the stack that tells it. The numbers are pcapng's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It arrived.
    In = 1,
    /// It was sent.
    Out = 2,
}

/// What the switch tells about a frame, beside its bytes and its virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The port's number, which a [`Record::Port`] named before.
    pub port: u32,
    /// Which way.
    pub way: Way,
    /// Why the switch did not let it in, if so.
    pub dropped: Option<DropReason>,
    /// When, in nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// Bytes of the whole frame, of which fewer may have been kept.
    pub len: u32,
    /// Records lost so far for want of room; it wraps.
    pub lost: u32,
}

/// One thing the switch tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// A frame.
    Frame(Seen, &'a [u8]),
    /// From now on this number is the port of this name.
    Port(u32, &'a str),
}

const FRAME: u8 = 0;
const PORT: u8 = 1;

impl Seen {
    /// The record's first bytes; the frame follows.
    pub fn to_bytes(self) -> [u8; HEAD_LEN] {
        let dropped = self.dropped.map_or(0, |reason| reason as u8 + 1);
        let mut bytes = head([FRAME, self.way as u8, dropped], self.port);
        bytes[8..16].copy_from_slice(&self.time_ns.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.lost.to_ne_bytes());
        bytes
    }
}

/// The first bytes of the record that names a port; the name follows.
pub fn name_head(port: u32) -> [u8; HEAD_LEN] {
    head([PORT, 0, 0], port)
}

impl<'a> Record<'a> {
    /// Reads a record; `None` for one of a later version, which may be skipped.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let port = word(4);
        match head[0] {
            PORT => Some(Self::Port(port, std::str::from_utf8(rest).ok()?)),
            FRAME => {
                let way = match head[1] {
                    1 => Way::In,
                    2 => Way::Out,
                    _ => return None,
                };
                let dropped = match head[2] {
                    0 => None,
                    n => DropReason::ALL.get(usize::from(n) - 1).copied(),
                };
                let mut time = [0; 8];
                time.copy_from_slice(&head[8..16]);
                let time_ns = u64::from_ne_bytes(time);
                let seen = Seen { port, way, dropped, time_ns, len: word(16), lost: word(20) };
                Some(Self::Frame(seen, rest))
            }
            _ => None,
        }
    }
}

fn head(first: [u8; 3], port: u32) -> [u8; HEAD_LEN] {
    let mut bytes = [0; HEAD_LEN];
    bytes[..3].copy_from_slice(&first);
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_round_trip(port: u32, out: bool, reason in 0..13usize, time_ns: u64, len: u32, lost: u32) {
            let dropped = reason.checked_sub(1).map(|n| DropReason::ALL[n]);
            let way = if out { Way::Out } else { Way::In };
            let seen = Seen { port, way, dropped, time_ns, len, lost };
            let bytes = [&seen.to_bytes()[..], b"frame"].concat();
            prop_assert_eq!(Record::parse(&bytes), Some(Record::Frame(seen, b"frame")));
            let bytes = [&name_head(port)[..], b"eth0"].concat();
            prop_assert_eq!(Record::parse(&bytes), Some(Record::Port(port, "eth0")));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::parse(&bytes);
        }
    }
}
