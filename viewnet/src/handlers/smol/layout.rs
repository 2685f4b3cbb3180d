//! struct msghdr, struct iovec and struct cmsghdr, as 64-bit and as 32-bit programs lay them out.
//!
//! What may be asked for and which error comes first is net/socket.c (__copy_msghdr), lib/iov_iter.c
//! (import_iovec) and, for 32-bit programs, net/compat.c.

use nix::errno::Errno;
use stacks::smol::call::Message;

use super::names::MAX_ADDRESS;
use super::options::{word32, word64};
use crate::handlers::Abi;
use crate::target::Target;

/// Most pieces of one message: UIO_MAXIOV, linux/uio.h.
pub(crate) const MAX_PIECES: usize = 1024;
/// Most bytes of one message that are copied: of a datagram at most 64 KiB are taken, of a netlink message what
/// SO_SNDBUF allows, 208 KiB. A longer one is told its errno from the beginning alone; a stream takes as much
/// as it gets.
pub(crate) const MAX_DATA: usize = 256 << 10;
/// Most ancillary data of one message: net.core.optmem_max, socket(7).
const MAX_CONTROL: usize = 128 << 10;
/// MAX_RW_COUNT, linux/fs.h.
const MAX_RW_COUNT: usize = 0x7fff_f000;
/// MSG_CMSG_CLOEXEC, which recvmsg(2) shows in msg_flags.
const CMSG_CLOEXEC: i32 = libc::MSG_CMSG_CLOEXEC;
/// SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING, asm-generic/socket.h, as they are on the machine: made of
/// longs alone.
const STAMPS: [i32; 3] = [29, 35, 37];

/// Places in struct msghdr.
struct Places {
    name_length: usize,
    vectors: usize,
    count: usize,
    control: usize,
    control_length: usize,
    flags: usize,
    size: usize,
    /// sizeof(struct mmsghdr); its `msg_len` stands behind the struct msghdr.
    entry: usize,
}

const WIDE: Places = Places {
    name_length: 8,
    vectors: 16,
    count: 24,
    control: 32,
    control_length: 40,
    flags: 48,
    size: 56,
    entry: 64,
};
const NARROW: Places = Places {
    name_length: 4,
    vectors: 8,
    count: 12,
    control: 16,
    control_length: 20,
    flags: 24,
    size: 28,
    entry: 32,
};

fn places(abi: Abi) -> &'static Places {
    match abi {
        Abi::Native => &WIDE,
        Abi::I386 => &NARROW,
    }
}

/// sizeof(struct mmsghdr).
pub(crate) fn entry(abi: Abi) -> u64 {
    places(abi).entry as u64
}

/// Where an entry's `msg_len` is.
pub(super) fn length_of_entry(abi: Abi, address: u64) -> u64 {
    address + places(abi).size as u64
}

/// A struct msghdr of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    abi: Abi,
    /// Where it is.
    address: u64,
    name: u64,
    name_length: usize,
    /// Address and length of each piece.
    pieces: Vec<(u64, usize)>,
    control: u64,
    control_length: usize,
    /// MSG_* of the call.
    flags: i32,
}

/// What a program sends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) to: Option<Vec<u8>>,
    pub(super) control: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Header {
    /// Copies the header and the list of its pieces.
    pub(super) fn read(abi: Abi, address: u64, flags: i32, target: &mut dyn Target) -> Result<Self, Errno> {
        let at = places(abi);
        let bytes = target.read(address, at.size)?;
        let word = |at: usize| match abi {
            Abi::Native => word64(&bytes, at),
            Abi::I386 => u64::from(word32(&bytes, at)),
        };
        let (name, length) = (word(0), word32(&bytes, at.name_length) as i32);
        let name_length = match usize::try_from(length) {
            _ if name == 0 => 0,
            Ok(length) => length.min(MAX_ADDRESS),
            Err(_) => return Err(Errno::EINVAL),
        };
        let count = usize::try_from(word(at.count)).unwrap_or(usize::MAX);
        if count > MAX_PIECES {
            return Err(Errno::EMSGSIZE);
        }
        let pieces = pieces(abi, word(at.vectors), count, target)?;
        let control = word(at.control);
        let control_length = usize::try_from(word(at.control_length)).unwrap_or(usize::MAX);
        Ok(Self { abi, address, name, name_length, pieces, control, control_length, flags })
    }

    /// How many bytes of data there are, or is room for.
    pub(super) fn length(&self) -> usize {
        self.pieces.iter().map(|(_, length)| length).sum::<usize>().min(MAX_DATA)
    }

    /// Whether the sender's address is wanted.
    pub(super) fn wants_name(&self) -> bool {
        self.name != 0
    }

    /// How much ancillary data in the machine's layout there is room for.
    pub(super) fn control_room(&self) -> usize {
        match (self.control, self.abi) {
            (0, _) => 0,
            (_, Abi::Native) => self.control_length.min(MAX_CONTROL),
            // A header of 12 bytes becomes 16, and what follows is aligned to 8 in place of 4.
            (_, Abi::I386) => self.control_length.min(MAX_CONTROL) * 2,
        }
    }

    /// Copies what is to be sent, in one reading.
    pub(super) fn outgoing(&self, target: &mut dyn Target) -> Result<Outgoing, Errno> {
        let control_length = if self.control == 0 { 0 } else { self.control_length };
        if control_length > MAX_CONTROL {
            return Err(Errno::ENOBUFS);
        }
        let mut ranges = vec![(self.name, self.name_length), (self.control, control_length)];
        let mut room = MAX_DATA;
        for &(address, length) in &self.pieces {
            let length = length.min(room);
            ranges.push((address, length));
            room -= length;
        }
        let mut data = target.gather(&ranges)?;
        let mut to = data;
        let mut control = to.split_off(self.name_length);
        data = control.split_off(control_length);
        if self.abi == Abi::I386 {
            control = widen_control(&control)?;
        }
        Ok(Outgoing { to: (self.name_length > 0).then_some(to), control, data })
    }

    /// Writes what was received: data, sender, ancillary data, and the header's own members; as an entry of several
    /// also its `msg_len`.
    pub(crate) fn write(&self, message: &Message, entry: bool, target: &mut dyn Target) -> Result<(), Errno> {
        let at = places(self.abi);
        let mut flags = message.flags | self.flags & CMSG_CLOEXEC;
        let narrowed;
        let control = match self.abi {
            Abi::Native => &message.control[..message.control.len().min(self.control_length)],
            Abi::I386 => {
                let (bytes, cut) = narrow_control(&message.control, self.control_length);
                flags |= if cut { libc::MSG_CTRUNC } else { 0 };
                narrowed = bytes;
                &narrowed[..]
            }
        };
        let name_length = (message.from.len() as u32).to_ne_bytes();
        let (control_length, flags) = ((control.len() as u64).to_ne_bytes(), flags.to_ne_bytes());
        // Little-endian, as are all machines with such programs: the low half stands first.
        let control_length = &control_length[..if self.abi == Abi::Native { 8 } else { 4 }];
        let member = |place: usize| self.address + place as u64;
        let mut parts: Vec<(u64, &[u8])> = Vec::with_capacity(self.pieces.len().min(8) + 6);
        let mut rest = message.data.as_slice();
        for &(address, length) in &self.pieces {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(length.min(rest.len()));
            parts.push((address, piece));
            rest = behind;
        }
        if self.name != 0 {
            parts.push((self.name, &message.from[..self.name_length.min(message.from.len())]));
            parts.push((member(at.name_length), &name_length));
        }
        parts.push((self.control, control));
        parts.push((member(at.control_length), control_length));
        parts.push((member(at.flags), &flags));
        let length = (message.length as u32).to_ne_bytes();
        if entry {
            parts.push((member(at.size), &length));
        }
        target.scatter(&parts)
    }
}

/// The pieces of a message; together at most as long as the kernel takes.
fn pieces(abi: Abi, address: u64, count: usize, target: &mut dyn Target) -> Result<Vec<(u64, usize)>, Errno> {
    let size = if abi == Abi::Native { 16 } else { 8 };
    let bytes = target.read(address, count * size)?;
    let mut room = MAX_RW_COUNT;
    let piece = |bytes: &[u8]| {
        let (base, length) = match abi {
            Abi::Native => (word64(bytes, 0), word64(bytes, 8) as i64),
            Abi::I386 => (word32(bytes, 0).into(), i64::from(word32(bytes, 4) as i32)),
        };
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?.min(room);
        room -= length;
        Ok((base, length))
    };
    bytes.chunks_exact(size).map(piece).collect()
}

/// Ancillary data of a 32-bit program in the machine's layout: cmsghdr_from_user_compat_to_kern.
pub(super) fn widen_control(narrow: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut wide = Vec::with_capacity(narrow.len() * 2);
    let mut rest = narrow;
    while rest.len() >= 12 {
        let length = word32(rest, 0) as usize;
        if length < 12 || length > rest.len() {
            return Err(Errno::EINVAL);
        }
        wide.resize(wide.len().next_multiple_of(8), 0);
        wide.extend(((length + 4) as u64).to_ne_bytes());
        wide.extend(&rest[4..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(wide)
}

/// Ancillary data in a 32-bit program's layout, and whether it had to be cut: put_cmsg_compat.
pub(super) fn narrow_control(wide: &[u8], room: usize) -> (Vec<u8>, bool) {
    let mut narrow: Vec<u8> = Vec::new();
    let mut rest = wide;
    while rest.len() >= 16 {
        let length = (word64(rest, 0) as usize).clamp(16, rest.len());
        let (level, kind) = (word32(rest, 8) as i32, word32(rest, 12) as i32);
        let stamp = level == libc::SOL_SOCKET && STAMPS.contains(&kind);
        let payload: Vec<u8> = if stamp {
            rest[16..length].chunks(8).flat_map(|long| &long[..long.len().min(4)]).copied().collect()
        } else {
            rest[16..length].to_vec()
        };
        narrow.resize(narrow.len().next_multiple_of(4).min(room), 0);
        let left = room - narrow.len();
        if left < 12 {
            return (narrow, true);
        }
        let whole = 12 + payload.len();
        narrow.extend((whole.min(left) as u32).to_ne_bytes());
        narrow.extend(&rest[8..16]);
        narrow.extend(&payload[..payload.len().min(left - 12)]);
        if whole > left {
            return (narrow, true);
        }
        rest = &rest[length.next_multiple_of(8).min(rest.len())..];
    }
    // The padding behind the last one counts, where there is room for it (CMSG_SPACE).
    narrow.resize(narrow.len().next_multiple_of(4).min(room.max(narrow.len())), 0);
    (narrow, false)
}
