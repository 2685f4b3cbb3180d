//! Numbers that a stranger cannot guess: initial sequence numbers (RFC 6528) and timestamp offsets
//! (RFC 7323 clause 5.4), by SipHash-2-4 of the ends.

use std::net::IpAddr;
use std::time::Duration;

use super::Ends;

/// The secret of a machine.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    numbers: (u64, u64),
    stamps: (u64, u64),
}

impl Secret {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&seed[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Self { numbers: (word(0), word(8)), stamps: (word(16), word(24)) }
    }

    /// Initial sequence number: a clock of 4 µs plus a keyed hash of the ends (RFC 6528 clause 3).
    pub(super) fn initial_sequence(&self, ends: &Ends, uptime: Duration) -> u32 {
        let ticks = (uptime.as_micros() / 4) as u32;
        (hash(self.numbers, ends) as u32).wrapping_add(ticks)
    }

    /// What the timestamps of a connection start at.
    pub(super) fn stamp_offset(&self, ends: &Ends) -> u32 {
        hash(self.stamps, ends) as u32
    }
}

fn hash(key: (u64, u64), ends: &Ends) -> u64 {
    let mut bytes = [0; 36];
    for (at, address) in [(0, ends.local), (16, ends.peer)] {
        let octets = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        bytes[at..at + 16].copy_from_slice(&octets);
    }
    bytes[32..34].copy_from_slice(&ends.local_port.to_be_bytes());
    bytes[34..36].copy_from_slice(&ends.peer_port.to_be_bytes());
    siphash(key, &bytes)
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012).
fn siphash(key: (u64, u64), bytes: &[u8]) -> u64 {
    let mut state = [
        key.0 ^ 0x736f_6d65_7073_6575,
        key.1 ^ 0x646f_7261_6e64_6f6d,
        key.0 ^ 0x6c79_6765_6e65_7261,
        key.1 ^ 0x7465_6462_7974_6573,
    ];
    let mut absorb = |word: u64| {
        state[3] ^= word;
        round(&mut state);
        round(&mut state);
        state[0] ^= word;
    };
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        absorb(u64::from_le_bytes(word.try_into().expect("chunks of eight")));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    last[7] = bytes.len() as u8;
    absorb(u64::from_le_bytes(last));
    state[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_siphash_2_4() {
        // Appendix A of the paper.
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &input), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn numbers_depend_on_ends_time_and_secret() {
        let ends = |port| Ends {
            local: "10.0.0.1".parse().unwrap(),
            local_port: port,
            peer: "2001:db8::1".parse().unwrap(),
            peer_port: 80,
        };
        let secret = Secret::new(&[7; 32]);
        let number = |port, micros| secret.initial_sequence(&ends(port), Duration::from_micros(micros));
        assert_eq!(number(1, 400).wrapping_sub(number(1, 0)), 100);
        assert_ne!(number(1, 0), number(2, 0));
        assert_ne!(number(1, 0), Secret::new(&[8; 32]).initial_sequence(&ends(1), Duration::ZERO));
    }
}
