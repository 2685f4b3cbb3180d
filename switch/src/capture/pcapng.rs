//! Writing pcapng, the file format of Wireshark and tcpdump.
//!
//! # Theory of operation
//! A [`Pcapng`] gathers blocks in a buffer, which its owner writes where it likes: a section header, an interface
//! description for each interface before its first packet, packets, and at the end what each interface lost. Times are
//! nanoseconds, words are in the machine's order, which the section header tells.
//!
//! Read: draft-ietf-opsawg-pcapng, clauses 4.1 to 4.6.

use super::Way;

/// LINKTYPE_ETHERNET.
const ETHERNET: u16 = 1;
const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Options of any block: a comment; of a section: the program.
const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
/// Options of an interface: its name, its time's resolution.
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
/// Ten to the power of minus nine.
const NANOSECONDS: u8 = 9;
/// The option of a packet that holds its direction.
const EPB_FLAGS: u16 = 2;
/// Options of statistics: packets received, packets lost.
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

/// Blocks that are yet to be written.
#[derive(Debug, Default)]
pub struct Pcapng {
    gathered: Vec<u8>,
}

/// A packet to be written.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The interface's number: that many were described before it.
    pub interface: u32,
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Which way.
    pub way: Way,
    /// Bytes at most that are kept.
    pub snap: usize,
    /// Bytes it had before somebody else cut it; never less than its pieces have.
    pub len: usize,
    /// The bytes, in pieces.
    pub pieces: &'a [&'a [u8]],
    /// Something to tell about it, or nothing.
    pub comment: &'a str,
}

impl Pcapng {
    /// Begins a file.
    pub fn new(program: &str) -> Self {
        let mut new = Self::default();
        new.block(SECTION, |block| {
            block.extend(0x1A2B_3C4Du32.to_ne_bytes());
            [1u16, 0].iter().for_each(|version| block.extend(version.to_ne_bytes()));
            // The section's length is not known.
            block.extend((-1i64).to_ne_bytes());
            option(block, SHB_USERAPPL, program.as_bytes());
            option(block, 0, &[]);
        });
        new
    }

    /// Describes the next interface; `snap` is 0 if frames are kept whole.
    pub fn interface(&mut self, name: &str, snap: u32) {
        self.block(INTERFACE, |block| {
            [ETHERNET, 0].iter().for_each(|half| block.extend(half.to_ne_bytes()));
            block.extend(snap.to_ne_bytes());
            option(block, IF_NAME, name.as_bytes());
            option(block, IF_TSRESOL, &[NANOSECONDS]);
            option(block, 0, &[]);
        });
    }

    /// Adds a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        self.block(PACKET, |block| {
            let there: usize = packet.pieces.iter().map(|piece| piece.len()).sum();
            let kept = there.min(packet.snap);
            let len = packet.len.max(there);
            let time = packet.time_ns;
            let words = [packet.interface, (time >> 32) as u32, time as u32, kept as u32, len as u32];
            words.iter().for_each(|word| block.extend(word.to_ne_bytes()));
            let mut left = kept;
            for piece in packet.pieces {
                let part = &piece[..piece.len().min(left)];
                block.extend(part);
                left -= part.len();
            }
            pad(block, kept);
            option(block, EPB_FLAGS, &(packet.way as u32).to_ne_bytes());
            if !packet.comment.is_empty() {
                option(block, COMMENT, packet.comment.as_bytes());
            }
            option(block, 0, &[]);
        });
    }

    /// Says how many packets an interface gave until `time_ns`, and how many more were lost.
    pub fn statistics(&mut self, interface: u32, time_ns: u64, received: u64, lost: u64) {
        self.block(STATISTICS, |block| {
            let words = [interface, (time_ns >> 32) as u32, time_ns as u32];
            words.iter().for_each(|word| block.extend(word.to_ne_bytes()));
            option(block, ISB_IFRECV, &received.to_ne_bytes());
            option(block, ISB_IFDROP, &lost.to_ne_bytes());
            option(block, 0, &[]);
        });
    }

    /// What has gathered.
    pub fn bytes(&self) -> &[u8] {
        &self.gathered
    }

    /// It was written.
    pub fn clear(&mut self) {
        self.gathered.clear();
    }

    /// A block: its type, its length, its body, a multiple of four bytes, and its length again.
    fn block(&mut self, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.gathered.len();
        self.gathered.extend(kind.to_ne_bytes());
        self.gathered.extend([0; 4]);
        fill(&mut self.gathered);
        let len = (self.gathered.len() - start + 4) as u32;
        self.gathered[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
        self.gathered.extend(len.to_ne_bytes());
    }
}

fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    block.extend(code.to_ne_bytes());
    block.extend((value.len() as u16).to_ne_bytes());
    block.extend(value);
    pad(block, value.len());
}

/// Fills up to a multiple of four bytes.
fn pad(block: &mut Vec<u8>, len: usize) {
    block.extend(&[0; 4][..len.next_multiple_of(4) - len]);
}
