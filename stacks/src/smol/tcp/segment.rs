//! Segments as bytes: what a peer says, and what we say ourselves.
//!
//! Header and options by smoltcp's views (RFC 9293 clause 3.1, RFC 7323, RFC 2018). Options that make no
//! sense end the options and do no other harm, as in Linux's tcp_parse_options().

use smoltcp::wire::{TcpOption, TcpPacket, TcpSeqNumber};

/// Bytes of a header without options.
pub(super) const HEADER: usize = 20;
/// Bytes of the longest header.
pub(super) const LONGEST_HEADER: usize = 60;
/// Largest window scale (RFC 7323 clause 2.3).
const MOST_SCALE: u8 = 14;
/// NOP, NOP, timestamps: how nearly every segment's options begin (RFC 7323 appendix A).
const TIMESTAMPS_ALONE: [u8; 4] = [1, 1, 8, 10];

/// Control bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    pub(super) const FIN: Self = Self(0x01);
    pub(super) const SYN: Self = Self(0x02);
    pub(super) const RST: Self = Self(0x04);

    pub(super) const PSH: Self = Self(0x08);
    pub(super) const ACK: Self = Self(0x10);

    /// As they stand in a header.
    pub(super) const fn of(byte: u8) -> Self {
        Self(byte & 0x1f)
    }

    /// All of `other` are set.
    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other` is set.
    pub(super) fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These and those.
    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Sequence numbers that they take: SYN and FIN one each.
    pub(super) fn length(self) -> u32 {
        u32::from(self.has(Self::SYN)) + u32::from(self.has(Self::FIN))
    }
}

/// Whether sequence number `a` comes before `b` (RFC 9293 clause 3.4).
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// The later one of two sequence numbers.
pub(super) fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// A segment that arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) sacks: [Option<(u32, u32)>; SACK_BLOCKS],
    pub(super) payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// `None` if it is no TCP segment.
    pub(super) fn parse(segment: &'a [u8]) -> Option<Self> {
        let packet = TcpPacket::new_checked(segment).ok()?;
        let mut incoming = Self {
            seq: packet.seq_number().0.cast_unsigned(),
            ack: packet.ack_number().0.cast_unsigned(),
            flags: Flags::of(segment[13]),
            window: packet.window_len(),
            mss: None,
            scale: None,
            sack_permitted: false,
            timestamps: None,
            sacks: [None; SACK_BLOCKS],
            payload: packet.payload(),
        };
        let mut options = &segment[HEADER..usize::from(packet.header_len())];
        if options.len() == 12 && options[..4] == TIMESTAMPS_ALONE {
            incoming.timestamps = Some((word(&options[4..]), word(&options[8..])));
            return Some(incoming);
        }
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::EndOfList => break,
                TcpOption::MaxSegmentSize(size) => incoming.mss = Some(size),
                TcpOption::WindowScale(scale) => incoming.scale = Some(scale.min(MOST_SCALE)),
                TcpOption::SackPermitted => incoming.sack_permitted = true,
                TcpOption::SackRange(blocks) => incoming.sacks = blocks,
                TcpOption::TimeStamp { tsval, tsecr } => incoming.timestamps = Some((tsval, tsecr)),
                _ => {}
            }
            options = rest;
        }
        Some(incoming)
    }

    /// Sequence numbers that it takes.
    pub(super) fn length(&self) -> u32 {
        self.payload.len() as u32 + self.flags.length()
    }

    /// Behind its last sequence number.
    pub(super) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.length())
    }
}

/// A segment without data that we make ourselves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bare<'a> {
    pub(super) ports: (u16, u16),
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) scale: Option<u8>,
    pub(super) sack_permitted: bool,
    pub(super) timestamps: Option<(u32, u32)>,
    pub(super) sacks: &'a [(u32, u32)],
}

/// Most SACK blocks beside timestamps (RFC 2018 clause 3).
pub(super) const SACK_BLOCKS: usize = 3;

impl Bare<'_> {
    /// Writes it and says how long it is.
    pub(super) fn emit(&self, out: &mut [u8]) -> usize {
        let mut options = [1u8; LONGEST_HEADER - HEADER];
        let mut length = 0;
        let mut put = |option: TcpOption<'_>| {
            let size = option.buffer_len();
            // Everything but the MSS is set behind NOPs, so that words are aligned.
            length += (4 - (size & 3)) & 3;
            option.emit(&mut options[length..length + size]);
            length += size;
        };
        if let Some(size) = self.mss {
            put(TcpOption::MaxSegmentSize(size));
        }
        if let Some(scale) = self.scale {
            put(TcpOption::WindowScale(scale));
        }
        if self.sack_permitted {
            put(TcpOption::SackPermitted);
        }
        if let Some((tsval, tsecr)) = self.timestamps {
            put(TcpOption::TimeStamp { tsval, tsecr });
        }
        if !self.sacks.is_empty() {
            let mut blocks = [None; SACK_BLOCKS];
            for (to, from) in blocks.iter_mut().zip(self.sacks) {
                *to = Some(*from);
            }
            put(TcpOption::SackRange(blocks));
        }
        let whole = HEADER + length;
        let mut packet = TcpPacket::new_unchecked(&mut out[..whole]);
        packet.set_src_port(self.ports.0);
        packet.set_dst_port(self.ports.1);
        packet.set_seq_number(TcpSeqNumber(self.seq.cast_signed()));
        packet.set_ack_number(TcpSeqNumber(self.ack.cast_signed()));
        packet.set_header_len(whole as u8);
        packet.set_window_len(self.window);
        packet.set_checksum(0);
        packet.set_urgent_at(0);
        out[13] = self.flags.0;
        out[HEADER..whole].copy_from_slice(&options[..length]);
        whole
    }
}

/// A segment that smoltcp made, to be put into our words in place.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Outgoing<'a> {
    /// Of a whole segment that smoltcp wrote.
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn seq(&self) -> u32 {
        word(&self.bytes[4..])
    }

    pub(super) fn ack(&self) -> u32 {
        word(&self.bytes[8..])
    }

    pub(super) fn flags(&self) -> Flags {
        Flags::of(self.bytes[13])
    }

    pub(super) fn window(&self) -> u16 {
        u16::from_be_bytes([self.bytes[14], self.bytes[15]])
    }

    pub(super) fn header_len(&self) -> usize {
        usize::from(self.bytes[12] >> 4) * 4
    }

    pub(super) fn set_ports(&mut self, ports: (u16, u16)) {
        self.bytes[0..2].copy_from_slice(&ports.0.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&ports.1.to_be_bytes());
    }

    pub(super) fn set_seq(&mut self, seq: u32) {
        self.bytes[4..8].copy_from_slice(&seq.to_be_bytes());
    }

    pub(super) fn set_ack(&mut self, ack: u32) {
        self.bytes[8..12].copy_from_slice(&ack.to_be_bytes());
    }

    pub(super) fn set_window(&mut self, window: u16) {
        self.bytes[14..16].copy_from_slice(&window.to_be_bytes());
    }

    /// Overwrites the timestamps, smoltcp's only option on a segment that is no SYN, in the order that every
    /// receiver has a short way for.
    pub(super) fn set_timestamps(&mut self, (value, echo): (u32, u32)) {
        if self.header_len() == HEADER + 12 {
            self.bytes[HEADER..HEADER + 4].copy_from_slice(&TIMESTAMPS_ALONE);
            self.bytes[HEADER + 4..HEADER + 8].copy_from_slice(&value.to_be_bytes());
            self.bytes[HEADER + 8..HEADER + 12].copy_from_slice(&echo.to_be_bytes());
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_come_back() {
        let bare = Bare {
            ports: (5, 6),
            seq: 0xffff_fff0,
            ack: 77,
            flags: Flags::SYN.with(Flags::ACK),
            window: 1000,
            mss: Some(1460),
            scale: Some(7),
            sack_permitted: true,
            timestamps: Some((1, 2)),
            sacks: &[],
        };
        let mut out = [0xee; LONGEST_HEADER];
        let length = bare.emit(&mut out);
        let parsed = Incoming::parse(&out[..length]).unwrap();
        assert_eq!((parsed.seq, parsed.ack, parsed.window), (0xffff_fff0, 77, 1000));
        assert_eq!((parsed.mss, parsed.scale), (Some(1460), Some(7)));
        assert!(parsed.sack_permitted);
        assert_eq!(parsed.timestamps, Some((1, 2)));
        assert!(parsed.flags.has(Flags::SYN.with(Flags::ACK)) && parsed.payload.is_empty());
        assert_eq!(parsed.end(), 0xffff_fff1);
    }

    #[test]
    fn an_acknowledgement_with_everything_fits_a_header() {
        let bare = Bare {
            flags: Flags::ACK,
            timestamps: Some((1, 2)),
            sacks: &[(1, 2), (5, 9), (20, 30)],
            ..Bare::default()
        };
        let mut out = [0; LONGEST_HEADER];
        let length = bare.emit(&mut out);
        assert_eq!(length, LONGEST_HEADER);
        let packet = TcpPacket::new_checked(&out[..length]).unwrap();
        assert_eq!(packet.selective_ack_ranges().unwrap(), [Some((1, 2)), Some((5, 9)), Some((20, 30))]);
    }

    #[test]
    fn bad_options_do_no_harm() {
        let mut out = [0; LONGEST_HEADER];
        let bare = Bare { mss: Some(9), ..Bare::default() };
        let length = bare.emit(&mut out);
        out[length..length + 4].copy_from_slice(&[8, 200, 1, 1]);
        out[12] = ((length + 4) << 2) as u8;
        let parsed = Incoming::parse(&out[..length + 4]).unwrap();
        assert_eq!((parsed.mss, parsed.timestamps), (Some(9), None));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(parsed) = Incoming::parse(&bytes) {
                prop_assert!(parsed.payload.len() <= bytes.len() - HEADER);
            }
        }
    }
}
