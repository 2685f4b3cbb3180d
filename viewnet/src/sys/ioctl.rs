//! Interface requests (netdevice(7)) on a socket of ours.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// sizeof(struct ifreq) on 64-bit Linux; the 32-bit layout is its first 32 bytes.
pub(crate) const IFREQ: usize = 40;

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

/// SIOCGIFCONF into `buffer`, or only its length if `buffer` is empty. Returns the bytes used.
pub(crate) fn interface_list(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    let pointer = if buffer.is_empty() { std::ptr::null_mut() } else { buffer.as_mut_ptr() };
    let length = libc::c_int::try_from(buffer.len()).map_err(|_| Errno::EINVAL)?;
    let mut conf = IfConf { length, buffer: pointer };
    // SAFETY: the kernel writes at most `length` bytes behind `buffer`, or none if it is null.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFCONF as libc::c_ulong, &raw mut conf) };
    Errno::result(rc)?;
    usize::try_from(conf.length).map_err(|_| Errno::EIO)
}
