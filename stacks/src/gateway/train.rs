//! Trains: datagrams of one flow that follow each other, to be handed to the host's kernel at once. A core.
//!
//! # Theory of operation
//! The host's kernel takes a row of datagrams in one call if they have one destination and one length, the last of
//! them perhaps a shorter one (UDP_SEGMENT, udp(7)), and carries them as one packet as far as it can. A sender that
//! sends many sends such rows. So a datagram waits for the next one as long as frames are there to be looked at, in
//! a [`Train`], and no longer: whoever owns it sends it when the frames are through, or when [`Train::join`] refuses.

use std::net::SocketAddr;

use super::flows::Slot;

/// Datagrams in a train (UDP_MAX_SEGMENTS, include/linux/udp.h; more since Linux 6.9).
const MOST: usize = 64;
/// Bytes in a train: what fits a packet of 65,535 bytes behind an IPv6 header and its own.
const MOST_BYTES: usize = 65_535 - 40 - 8;

/// Datagrams that wait for the next one.
#[derive(Debug)]
pub(super) struct Train {
    flow: Slot,
    to: SocketAddr,
    segment: usize,
    bytes: Vec<u8>,
}

impl Train {
    /// An empty one.
    pub(super) fn new() -> Self {
        let to = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { flow: 0, to, segment: 0, bytes: Vec::with_capacity(MOST_BYTES) }
    }

    /// Takes a datagram in, if it is like those that are there; false if it has to go by itself, after them.
    pub(super) fn join(&mut self, flow: Slot, to: SocketAddr, data: &[u8]) -> bool {
        if data.is_empty() || data.len() > MOST_BYTES {
            return false;
        }
        if self.bytes.is_empty() {
            (self.flow, self.to, self.segment) = (flow, to, data.len());
        }
        let is_like_them = (self.flow, self.to) == (flow, to) && data.len() <= self.segment;
        let ended = !self.bytes.len().is_multiple_of(self.segment);
        let full = self.bytes.len() + data.len() > MOST_BYTES.min(MOST * self.segment);
        if !is_like_them || ended || full {
            return false;
        }
        self.bytes.extend_from_slice(data);
        true
    }

    /// The flow, the destination, bytes of each datagram but the last, and all of them; `None` if there are none.
    pub(super) fn whole(&self) -> Option<(Slot, SocketAddr, usize, &[u8])> {
        (!self.bytes.is_empty()).then_some((self.flow, self.to, self.segment, &self.bytes))
    }

    /// They are gone.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn only_what_is_alike_rides_together() {
        let mut train = Train::new();
        assert_eq!(train.whole(), None);
        assert!(train.join(3, to(1), &[1; 100]));
        assert!(train.join(3, to(1), &[2; 100]));
        assert!(!train.join(4, to(1), &[2; 100]), "another sender");
        assert!(!train.join(3, to(2), &[2; 100]), "another destination");
        assert!(!train.join(3, to(1), &[2; 101]), "a longer one");
        assert!(!train.join(3, to(1), &[]), "nothing is no datagram of a train");
        assert!(train.join(3, to(1), &[3; 40]), "a shorter one may be the last");
        assert!(!train.join(3, to(1), &[4; 40]) && !train.join(3, to(1), &[4; 100]), "and is");
        let (flow, destination, segment, bytes) = train.whole().unwrap();
        assert_eq!((flow, destination, segment, bytes.len()), (3, to(1), 100, 240));
        train.clear();
        assert!(train.join(4, to(2), &[1; 7]));
    }

    #[test]
    fn a_train_is_no_longer_than_the_kernel_takes() {
        let count = |length: usize| {
            let mut train = Train::new();
            (0..).take_while(|_| train.join(0, to(1), &vec![0; length])).count()
        };
        assert_eq!([count(1), count(1000), count(1400), count(30_000), count(60_000)], [64, 64, 46, 2, 1]);
        assert_eq!(count(MOST_BYTES + 1), 0);
    }
}
