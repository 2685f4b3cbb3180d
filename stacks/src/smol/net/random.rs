//! Numbers that nobody can guess, from a seed.
//!
//! SipHash-2-4 with a key from the seed, in counter mode: a pseudo-random function, so that what was seen on the
//! wire (identifications, delays) tells nothing of what comes.

#![expect(
    deprecated,
    reason = "std deprecates the keyed form for one with random keys; ours come from the seed"
)]

use std::hash::{Hash, Hasher, SipHasher};
use std::time::Duration;

/// The numbers.
#[derive(Debug)]
pub(super) struct Random {
    keys: (u64, u64),
    count: u64,
}

impl Random {
    /// From a seed.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        let (words, _) = seed.as_chunks::<8>();
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at]));
        // Every bit of the seed counts.
        let all = Self { keys: (a, b), count: 0 };
        Self { keys: (all.hash(&(0, c, d)), all.hash(&(1, c, d))), count: 0 }
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.count += 1;
        self.hash(&self.count)
    }

    /// Always the same number for the same thing.
    pub(super) fn hash(&self, thing: &impl Hash) -> u64 {
        let mut hasher = SipHasher::new_with_keys(self.keys.0, self.keys.1);
        thing.hash(&mut hasher);
        hasher.finish()
    }

    /// A number below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A time shorter than `bound`.
    pub(super) fn delay(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.below(bound.as_micros() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence_and_another_seed_another() {
        let sequence = |seed| {
            let mut random = Random::new([seed; 32]);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
        let mut random = Random::new([3; 32]);
        let all: Vec<_> = (0..200).map(|_| random.below(10)).collect();
        assert!((0..10).all(|n| all.contains(&n)) && all.iter().all(|n| *n < 10));
        assert_eq!(random.below(0), 0);
    }
}
