//! Packet sockets: a port over any interface, with no device node and no interface of its own.
//!
//! # Theory of operation
//! For veth ends where /dev/net/tun is closed, and for real NICs. The socket gets every frame that arrives on
//! the interface (promiscuous, frames sent by this host excepted) with a virtio-net header, so that
//! super-segments cross whole, and what is written goes out. The kernel takes VLAN tags out of arriving
//! frames and tells them beside the frame; `receive` puts them back where they were.
//!
//! Frames are taken by recvmsg(2), and in a burst by recvmmsg(2). A receive ring would be cheaper for small frames, but one
//! of version 3 tells of a frame up to a millisecond late, and one of version 2 has no room for super-segments
//! (bench/nic.sh; bench/RESULTS.md).
//!
//! Read: packet(7), net/packet/af_packet.c. PACKET_IGNORE_OUTGOING is from Linux 4.20.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::{BUFFER_LEN, sys};
use crate::frame::TAG_LEN;
use crate::offload::{VNET_HDR_LEN, VnetHdr};

/// Receive buffer asked for, in bytes: a hundred super-segments. The kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: i32 = 8 << 20;

/// Opens a port over the interface `ifindex` of the caller's network namespace; the descriptor does not block.
///
/// # Errors
/// EPERM without CAP_NET_RAW in the namespace, ENODEV without the interface, ENETDOWN is not one: an
/// interface that is down may be opened.
pub fn open(ifindex: u32) -> io::Result<OwnedFd> {
    let ifindex = i32::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    // Protocol 0 hears nothing until bind, so that no frame of another interface is ever queued.
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
    let set = |option| sys::set_option(fd.as_fd(), libc::SOL_PACKET, option, 1);
    set(libc::PACKET_VNET_HDR)?;
    set(libc::PACKET_AUXDATA)?;
    set(libc::PACKET_IGNORE_OUTGOING)?;
    // A larger buffer is a wish; FORCE needs CAP_NET_ADMIN on the host.
    let _ = sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
        .or_else(|_| sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER));
    sys::packet_set_promiscuous(fd.as_fd(), ifindex)?;
    sys::packet_bind(fd.as_fd(), ifindex)?;
    Ok(fd)
}

/// Is this a packet socket fit for a port? Makes sure it speaks as [`open`]'s do.
///
/// # Errors
/// EINVAL for other sockets, ENOTSOCK for other descriptors.
pub fn identify(fd: BorrowedFd<'_>) -> io::Result<()> {
    let domain = sys::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let kind = sys::option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    if (domain, kind) != (libc::AF_PACKET, libc::SOCK_RAW) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if sys::option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR)? != 1 {
        return Err(io::Error::other("it has no PACKET_VNET_HDR"));
    }
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Is the interface gone? (The kernel unbinds the socket then, and leaves -1.)
pub(crate) fn is_orphan(fd: BorrowedFd<'_>) -> bool {
    sys::packet_ifindex(fd).is_ok_and(|ifindex| ifindex <= 0)
}

/// Is the interface up, and somebody at the other end of its wire? What cannot be found out is taken for yes.
pub(crate) fn is_running(fd: BorrowedFd<'_>) -> bool {
    let flags = sys::packet_ifindex(fd).and_then(|at| sys::interface_name(fd, at));
    let flags = flags.and_then(|name| sys::interface_flags(fd, name));
    flags.map_or_else(|_| !is_orphan(fd), |flags| flags & libc::IFF_RUNNING as u16 != 0)
}

/// How fast the interface is, in Mb/s, if its driver says.
pub(crate) fn speed(fd: BorrowedFd<'_>) -> Option<u32> {
    let name = sys::packet_ifindex(fd).and_then(|at| sys::interface_name(fd, at)).ok()?;
    let mbps = sys::interface_speed(fd, name).ok()?;
    // SPEED_UNKNOWN is all ones (linux/ethtool.h).
    (1..u32::MAX).contains(&mbps).then_some(mbps)
}

/// Takes one frame into `buffer`, tag and all.
///
/// # Errors
/// EAGAIN when there is none; ENETDOWN once when the interface goes down or away.
pub(crate) fn receive<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8]) -> io::Result<(VnetHdr, &'b [u8])> {
    let mut hdr = [0; VNET_HDR_LEN];
    let mut parts = [IoSliceMut::new(&mut hdr), IoSliceMut::new(&mut buffer[TAG_LEN..])];
    let (len, tag) = sys::packet_recv(fd, &mut parts, None)?;
    let end = TAG_LEN + len.saturating_sub(VNET_HDR_LEN);
    Ok(restore_tag(VnetHdr::parse(hdr), tag, buffer, end))
}

/// Takes up to `count` frames into `room`, each into [`BUFFER_LEN`] bytes of it, and says of each where it lies; returns how
/// many there were.
///
/// # Errors
/// As [`receive`].
pub(crate) fn receive_batch(
    fd: BorrowedFd<'_>,
    room: &mut [u8],
    count: usize,
    mut each: impl FnMut(VnetHdr, Range<usize>),
) -> io::Result<usize> {
    sys::packet_recv_batch(fd, room, BUFFER_LEN, count, |start, slot, tag| {
        let Some((hdr, _)) = slot.split_first_chunk::<VNET_HDR_LEN>() else { return };
        // Room for a tag, before the frame, is where its virtio-net header was.
        const BEFORE: usize = VNET_HDR_LEN - TAG_LEN;
        let (hdr, end) = (VnetHdr::parse(*hdr), slot.len() - BEFORE);
        let (hdr, frame) = restore_tag(hdr, tag, &mut slot[BEFORE..], end);
        let start = start + BEFORE + end - frame.len();
        each(hdr, start..start + frame.len());
    })
}

/// Puts the tag that the kernel took out of the frame, which lies from [`TAG_LEN`] to `end`, back where it was.
pub(super) fn restore_tag(
    hdr: VnetHdr,
    tag: Option<(u16, u16)>,
    buffer: &mut [u8],
    end: usize,
) -> (VnetHdr, &[u8]) {
    match tag {
        Some((tpid, tci)) if end >= TAG_LEN + 12 => {
            buffer.copy_within(TAG_LEN..TAG_LEN + 12, 0);
            buffer[12..14].copy_from_slice(&tpid.to_be_bytes());
            buffer[14..16].copy_from_slice(&tci.to_be_bytes());
            (hdr.shifted(TAG_LEN as isize), &buffer[..end])
        }
        _ => (hdr, &buffer[TAG_LEN..end]),
    }
}
