//! The Internet checksum (RFC 1071).
//!
//! # Theory of operation
//! The one's complement sum does not care about byte order or word size, so [`sum`] adds native 32-bit words
//! into 64 bits, which compilers turn into vector code, and [`fold`] makes it 16 bits and big-endian at the
//! end. Sums of parts of even length may be added together before folding.

/// The unfolded sum of `bytes`, in native byte order; an odd last byte counts as followed by zero.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_ne_bytes(last));
    sum
}

/// The sum as a 16-bit number, as if all words had been big-endian.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

/// The sum of the pseudo-header of TCP or UDP over IPv4 or IPv6 (RFC 9293 clause 3.1, RFC 8200 clause 8.1).
/// `addresses` are source and destination as they lie in the IP header, `len` counts header and payload.
pub fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    let [a, b, c, d] = (len as u32).to_be_bytes();
    sum(addresses) + sum(&[a, b, c, d]) + sum(&[0, protocol])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 to the letter, as the referee.
    pub(crate) fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])), 0xDDF2);
    }

    proptest! {
        #[test]
        fn equals_the_plain_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(fold(sum(&bytes)), plain(&bytes));
        }

        #[test]
        fn parts_add_up(a in prop::collection::vec(any::<u16>(), 0..50), b in prop::collection::vec(any::<u8>(), 0..50)) {
            let a: Vec<u8> = a.into_iter().flat_map(u16::to_be_bytes).collect();
            prop_assert_eq!(fold(sum(&a) + sum(&b)), plain(&[a, b].concat()));
        }
    }
}
