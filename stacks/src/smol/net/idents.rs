//! Identifications of IPv4 datagrams (RFC 6864, RFC 7739 for the danger of guessable ones).
//!
//! # Theory of operation
//! As ip_select_ident: counters in buckets, chosen by a secret hash of addresses and protocol, each datagram's
//! value moved by the same hash, so that a peer learns nothing of what others get and values repeat as late as
//! 16 bits allow.

use std::hash::Hash;

use super::random::Random;

/// Counters. Linux has 2,048 to share among all of a machine's containers.
const BUCKETS: usize = 64;

/// The counters.
#[derive(Debug)]
pub(super) struct Idents([u16; BUCKETS]);

impl Default for Idents {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Idents {
    /// The next value for datagrams like this.
    pub(super) fn next(&mut self, random: &Random, like: impl Hash) -> u16 {
        let hash = random.hash(&like);
        let counter = &mut self.0[hash as usize % BUCKETS];
        *counter = counter.wrapping_add(1);
        // 0 asks the network layer to choose.
        (*counter).wrapping_add((hash >> 32) as u16).max(1)
    }
}
