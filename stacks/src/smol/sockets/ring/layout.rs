//! What a program asks for with PACKET_RX_RING, and where things are in the ring that it gets.
//!
//! The checks are those of packet_set_ring (net/packet/af_packet.c), in its order; the places are those of
//! tpacket_rcv there and of linux/if_packet.h.

use std::time::Duration;

use nix::errno::Errno;

/// What blocks are multiples of, in bytes (PAGE_SIZE).
const PAGE: u32 = 4096;
/// What frames and headers are multiples of (TPACKET_ALIGNMENT).
const ALIGNMENT: u32 = 16;
/// sizeof(struct sockaddr_ll), which follows each frame's header.
const ADDRESS: u32 = 20;
/// sizeof(struct tpacket_block_desc).
pub(super) const BLOCK_HEADER: u32 = 48;
/// What is in a block is aligned to so many bytes (V3_ALIGNMENT).
pub(super) const IN_BLOCK: u32 = 8;
/// When a block goes to the program at the latest, if that does not say (DEFAULT_PRB_RETIRE_TOV).
const RETIRE: u32 = 8;

/// TPACKET_V1 and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
    V3,
}

impl Version {
    /// As PACKET_VERSION counts.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        [Self::V1, Self::V2, Self::V3].get(usize::try_from(number).ok()?).copied()
    }

    /// Bytes of a frame's header, before its address.
    pub(crate) fn header(self) -> u32 {
        match self {
            Self::V1 | Self::V2 => 32,
            Self::V3 => 48,
        }
    }

    /// sizeof(struct tpacket_req), sizeof(struct tpacket_req3)
    fn request(self) -> usize {
        if self == Self::V3 { 28 } else { 16 }
    }
}

/// A ring that the program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) version: Version,
    pub(super) block_size: u32,
    pub(super) blocks: u32,
    pub(super) frame_size: u32,
    pub(super) frames: u32,
    frames_per_block: u32,
    /// PACKET_RESERVE: bytes that the program wants before each frame.
    reserve: u32,
    /// Version 3: bytes that the program has for itself in each block.
    private: u32,
    /// Version 3: how long a block with frames may stay here.
    pub(super) retire: Duration,
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its link header, from the beginning of its slot.
    pub(super) mac: u32,
    /// Its network header.
    pub(super) network: u32,
    /// How much of it is there.
    pub(super) length: u32,
}

impl Layout {
    /// Judges a struct tpacket_req or tpacket_req3 of a socket that has a ring, if it is `busy`. `None`: there
    /// shall be no ring.
    pub(crate) fn parse(
        version: Version,
        reserve: u32,
        busy: bool,
        request: &[u8],
    ) -> Result<Option<Self>, Errno> {
        let request = request.get(..version.request()).ok_or(Errno::EINVAL)?;
        let mut words = [0; 7];
        for (word, bytes) in words.iter_mut().zip(request.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let [block_size, blocks, frame_size, frames, retire, private, _] = words;
        if blocks == 0 {
            return if frames == 0 { Ok(None) } else { Err(Errno::EINVAL) };
        }
        if busy {
            return Err(Errno::EBUSY);
        }
        let least = u64::from(version.header() + ADDRESS) + u64::from(reserve);
        let before = u64::from(BLOCK_HEADER) + u64::from(private).next_multiple_of(u64::from(IN_BLOCK));
        let fits = version != Version::V3 || u64::from(block_size) >= before + least;
        if i32::try_from(block_size).map_or(true, |size| size == 0)
            || block_size % PAGE != 0
            || !fits
            || u64::from(frame_size) < least
            || frame_size % ALIGNMENT != 0
        {
            return Err(Errno::EINVAL);
        }
        let frames_per_block = block_size / frame_size;
        if frames_per_block == 0 || frames_per_block.checked_mul(blocks) != Some(frames) {
            return Err(Errno::EINVAL);
        }
        let retire = Duration::from_millis(u64::from(if retire == 0 { RETIRE } else { retire }));
        Ok(Some(Self {
            version,
            block_size,
            blocks,
            frame_size,
            frames,
            frames_per_block,
            reserve,
            private,
            retire,
        }))
    }

    /// Bytes of the whole ring.
    pub(crate) fn size(&self) -> u64 {
        u64::from(self.block_size) * u64::from(self.blocks)
    }

    /// Where the slot of a frame begins, in versions 1 and 2.
    pub(super) fn slot(&self, number: u32) -> u64 {
        let (block, within) = (number / self.frames_per_block, number % self.frames_per_block);
        self.block(block) + u64::from(within) * u64::from(self.frame_size)
    }

    /// Where a block begins.
    pub(super) fn block(&self, number: u32) -> u64 {
        u64::from(number) * u64::from(self.block_size)
    }

    /// Where a block's first frame begins, in version 3.
    pub(super) fn first(&self) -> u32 {
        BLOCK_HEADER + self.private.next_multiple_of(IN_BLOCK)
    }

    /// Where a frame of `length` bytes lies, `link` of them its link header. `None`: too far from its slot's
    /// beginning to say where.
    pub(super) fn place(&self, link: Option<u32>, length: usize) -> Option<Place> {
        let header = self.version.header() + ADDRESS;
        let network = match link {
            Some(link) => (header + link.max(16)).next_multiple_of(ALIGNMENT),
            None => header.next_multiple_of(ALIGNMENT) + 16,
        };
        let network = network.checked_add(self.reserve)?;
        u16::try_from(network).ok()?;
        let mac = network - link.unwrap_or(0);
        let room = match self.version {
            Version::V1 | Version::V2 => self.frame_size,
            Version::V3 => self.block_size - self.first(),
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).min(room.saturating_sub(mac));
        let mac = if self.version == Version::V3 { mac.min(room) } else { mac };
        Some(Place { mac, network, length })
    }
}
