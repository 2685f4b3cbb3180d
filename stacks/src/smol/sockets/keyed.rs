//! Keyed hashes: for tables that a stranger's packets index, and for choices a stranger must not foresee.
//!
//! # Theory of operation
//! [`Key`] makes hashers for hash maps: each word is mixed into the state by a folded 64-by-64 multiplication
//! (the construction of wyhash), with a secret start, so that nobody who cannot see the table finds
//! addresses that collide in it. [`Secret`] is for ports (RFC 6056) and groups: SipHash, whose outputs tell
//! nothing of its key.

use std::hash::{BuildHasher, Hash, Hasher};

/// Odd constants with mixed bits (the first digits of pi).
const MIX: u64 = 0x2436_8D31_3198_A2E1;

/// A secret for hash maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(u64, u64);

impl Key {
    /// From random words.
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self(seed[0], seed[1] | 1)
    }
}

impl BuildHasher for Key {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer { state: self.0, key: self.1 }
    }
}

/// A hasher of a [`Key`].
#[derive(Debug)]
pub(crate) struct Mixer {
    state: u64,
    key: u64,
}

fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        fold(self.state ^ MIX, self.key)
    }

    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.key ^ MIX);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

/// A secret for choices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secret {
    key: [u64; 2],
    drawn: u64,
}

impl Secret {
    /// From random words.
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self { key, drawn: 0 }
    }

    /// SipHash-2-4 of `value`.
    #[expect(deprecated, reason = "the only keyed hash of the standard library whose key can be given")]
    pub(crate) fn of(&self, value: &impl Hash) -> u64 {
        let mut hasher = std::hash::SipHasher::new_with_keys(self.key[0], self.key[1]);
        value.hash(&mut hasher);
        hasher.finish()
    }

    /// The next number of a stream that only the key foretells.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.of(&(0x6472_6177u32, self.drawn))
    }
}

/// `hash` scaled to `0..n` (Linux's reciprocal_scale).
pub(crate) fn scale(hash: u64, n: usize) -> usize {
    ((u128::from(hash) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_orders_differently() {
        let (a, b) = (Key::new([1, 2]), Key::new([3, 4]));
        let low = |key: &Key| (0u32..64).map(|n| key.hash_one(n) & 1).collect::<Vec<_>>();
        assert_ne!(low(&a), low(&b));
        assert_eq!(low(&a), low(&a));
    }

    #[test]
    fn a_scale_reaches_every_member() {
        let secret = Secret::new([5, 6]);
        let mut seen = [0; 3];
        (0u32..300).for_each(|n| seen[scale(secret.of(&n), 3)] += 1);
        assert!(seen.iter().all(|n| *n > 60), "{seen:?}");
    }
}
