//! Interface requests (netdevice(7)) on a socket of ours.

use std::os::fd::{AsRawFd, BorrowedFd};

use msocket_proto::ioctl::{IFREQ, SIOCETHTOOL};
use nix::errno::Errno;

/// SIOCGIFCONF's argument on 64-bit Linux.
#[repr(C)]
struct IfConf {
    length: libc::c_int,
    buffer: *mut u8,
}

/// A request whose argument is a struct ifreq.
pub(crate) fn interface_request(
    fd: BorrowedFd<'_>,
    request: u32,
    ifreq: &mut [u8; IFREQ],
) -> Result<(), Errno> {
    #[repr(C, align(8))]
    struct Aligned([u8; IFREQ]);
    let mut aligned = Aligned(*ifreq);
    // SAFETY: the request reads and writes one struct ifreq, which `aligned` is in size and alignment.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(request), &raw mut aligned) };
    *ifreq = aligned.0;
    Errno::result(rc).map(drop)
}

/// The ethtool commands that anybody may ask and whose struct has a fixed length, with that: ETHTOOL_GSET, GDRVINFO,
/// GMSGLVL, GLINK, GCOALESCE, GRINGPARAM, GRXCSUM, GTXCSUM, GSG, GTSO, GGSO, GFLAGS, GPFLAGS, GGRO, GCHANNELS,
/// GET_TS_INFO (linux/ethtool.h, net/ethtool/ioctl.c).
const ETHTOOL: [(u32, usize); 16] = [
    (0x01, 44),
    (0x03, 196),
    (0x07, 8),
    (0x0a, 8),
    (0x0e, 92),
    (0x10, 36),
    (0x14, 8),
    (0x16, 8),
    (0x18, 8),
    (0x1e, 8),
    (0x23, 8),
    (0x25, 8),
    (0x27, 8),
    (0x2b, 8),
    (0x3c, 36),
    (0x41, 44),
];

/// SIOCETHTOOL with a command of [`ETHTOOL`]; EOPNOTSUPP for all others. `data` is what `ifr_data` points to.
pub(crate) fn ethtool_request(
    fd: BorrowedFd<'_>,
    ifreq: &mut [u8; IFREQ],
    data: &mut [u8],
) -> Result<(), Errno> {
    #[repr(C, align(8))]
    struct Aligned([u8; 196]);
    let command = data.first_chunk().map(|word| u32::from_ne_bytes(*word)).ok_or(Errno::EFAULT)?;
    let known = ETHTOOL.contains(&(command, data.len()));
    let mut aligned = Aligned([0; 196]);
    let room = aligned.0.get_mut(..data.len()).filter(|_| known).ok_or(Errno::EOPNOTSUPP)?;
    room.copy_from_slice(data);
    // SAFETY: a struct ifreq is plain old data of that size.
    let mut request: libc::ifreq = unsafe { std::mem::transmute_copy(ifreq) };
    request.ifr_ifru.ifru_data = (&raw mut aligned).cast();
    // SAFETY: the kernel reads one struct ifreq, and reads and writes what its command says behind `ifr_data`:
    // no more than the longest of them has, as the command is one of the table.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(SIOCETHTOOL), &raw mut request) };
    data.copy_from_slice(&aligned.0[..data.len()]);
    Errno::result(rc).map(drop)
}

/// SIOCGIFCONF: the length in bytes, of which as many records follow as `room`, the bytes of a number, has space for;
/// none if it says 0: the length only.
pub(crate) fn interface_list(fd: BorrowedFd<'_>, room: &[u8]) -> Result<Vec<u8>, Errno> {
    let room = room.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word) as usize);
    let mut answer = vec![0; 4 + room];
    let buffer = &mut answer[4..];
    let pointer = if buffer.is_empty() { std::ptr::null_mut() } else { buffer.as_mut_ptr() };
    let length = libc::c_int::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
    let mut conf = IfConf { length, buffer: pointer };
    // SAFETY: the kernel writes at most `length` bytes behind `buffer`, or none if it is null.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFCONF as libc::c_ulong, &raw mut conf) };
    Errno::result(rc)?;
    let used = usize::try_from(conf.length).map_err(|_| Errno::EIO)?;
    answer.truncate(4 + used);
    answer[..4].copy_from_slice(&conf.length.to_ne_bytes());
    Ok(answer)
}
