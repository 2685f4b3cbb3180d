//! The virtio-net header, and making frames fit ports that cannot take them as they are.
//!
//! # Theory of operation
//! Every frame in the switch travels with a [`VnetHdr`], the 10-byte `virtio_net_hdr` in the machine's byte
//! order: what TAPs speak unless told otherwise and packet sockets always do, so that no frame needs a
//! conversion (the 12-byte form adds only a field for merged buffers). It says that the frame is a
//! super-segment to be cut (`gso_type`, `gso_size`) or that its checksum is yet to be filled in
//! (`NEEDS_CSUM`, `csum_start`, `csum_offset`).
//!
//! [`emit`] turns one frame into what one port takes: most often the frame itself with its tag edited, as a
//! few slices for a gathering write; for lesser ports the checksum is filled ([`checksum`]) or the frame is
//! cut ([`segment`]). Payload bytes are never copied, whatever happens to the headers.
//!
//! Read: virtio 1.2 clause 5.1.6, include/uapi/linux/virtio_net.h, include/linux/virtio_net.h.

pub mod checksum;
pub mod segment;

use std::ops::ControlFlow;

use crate::frame::{Frame, HEADER_LEN, TagEdit};
use crate::port::Offloads;

/// Bytes of the header on the wire.
pub const VNET_HDR_LEN: usize = 10;
/// `flags`: the checksum from `csum_start` on is yet to be filled in at `csum_offset` from there.
pub const NEEDS_CSUM: u8 = 1;
/// `gso_type`: no super-segment.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP datagrams (USO), Linux 6.2.
pub const GSO_UDP_L4: u8 = 5;
/// `gso_type`, as a bit beside the others: the TCP segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// What is to be done to a frame (`struct virtio_net_hdr`). All offsets count from the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHdr {
    /// [`NEEDS_CSUM`]; other bits are hints and are cleared.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// A hint: bytes of headers.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksum begins to count.
    pub csum_start: u16,
    /// Where it goes, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// From the wire.
    pub fn parse(bytes: [u8; VNET_HDR_LEN]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags: flags & NEEDS_CSUM,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// To the wire.
    pub fn to_bytes(self) -> [u8; VNET_HDR_LEN] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Is the checksum yet to be filled in?
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The kind of super-segment, without the ECN bit.
    pub fn gso(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }

    /// Does the header make sense for a frame of `len` bytes whose payload starts at `header_len`?
    /// Fragmentation offload (UFO) and tunnels are not negotiated with any port and make none.
    pub fn fits(&self, len: usize, header_len: usize) -> bool {
        let start = usize::from(self.csum_start);
        let csum_inside = start >= header_len && start + usize::from(self.csum_offset) + 2 <= len;
        let gso_known = match self.gso() {
            GSO_NONE => self.gso_type == GSO_NONE,
            GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 => self.gso_size > 0,
            _ => false,
        };
        gso_known && (!self.needs_csum() || csum_inside)
    }

    /// Can a port with these offloads take the frame as it is?
    pub fn taken_by(&self, takes: Offloads) -> bool {
        let gso = match self.gso() {
            GSO_NONE => true,
            GSO_TCPV4 => takes.tso4,
            GSO_TCPV6 => takes.tso6,
            _ => takes.uso,
        };
        gso && (takes.csum || (!self.needs_csum() && self.gso_type == GSO_NONE))
    }

    /// The header after everything behind the addresses moved by `by` bytes.
    #[must_use]
    pub fn shifted(mut self, by: isize) -> Self {
        let add = |n: u16| n.saturating_add_signed(by as i16);
        if self.needs_csum() {
            self.csum_start = add(self.csum_start);
        }
        if self.hdr_len != 0 {
            self.hdr_len = add(self.hdr_len);
        }
        self
    }
}

/// One frame for the wire: slices to be written together, some of them empty.
pub type Pieces<'a> = [&'a [u8]; 4];

/// The frame cannot be cut: its headers are not what its virtio-net header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the headers contradict the virtio-net header")]
pub struct Malformed;

/// Gives `put` the frames into which one frame turns for a port that takes `takes`. `put` may stop it.
/// `hdr` must [fit](VnetHdr::fits) the frame.
///
/// # Errors
/// [`Malformed`], before the first `put`.
pub fn emit(
    hdr: &VnetHdr,
    frame: Frame<'_>,
    edit: TagEdit,
    takes: Offloads,
    mut put: impl FnMut(&VnetHdr, &Pieces<'_>) -> ControlFlow<()>,
) -> Result<(), Malformed> {
    if hdr.taken_by(takes) {
        let (head, rest) = edit.apply(frame);
        let _ = put(&hdr.shifted(edit.shift()), &[head.as_ref(), rest, &[], &[]]);
        return Ok(());
    }
    if hdr.gso_type != GSO_NONE {
        return segment::cut(hdr, frame, edit, takes.csum, put);
    }
    let start = usize::from(hdr.csum_start);
    let at = start + usize::from(hdr.csum_offset);
    let bytes = frame.bytes();
    if start < HEADER_LEN || at + 2 > bytes.len() {
        return Err(Malformed);
    }
    // The field holds the sum of the pseudo-header; a result of zero is sent as all ones (RFC 768).
    let sum = match !checksum::fold(checksum::sum(&bytes[start..])) {
        0 => 0xFFFF,
        sum => sum,
    };
    let (head, rest) = edit.apply(frame);
    let split = at.checked_sub(bytes.len() - rest.len()).ok_or(Malformed)?;
    let pieces = [head.as_ref(), &rest[..split], &sum.to_be_bytes(), &rest[split + 2..]];
    let _ = put(&VnetHdr::default(), &pieces);
    Ok(())
}

#[cfg(test)]
mod tests;
