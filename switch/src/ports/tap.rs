//! TAP interfaces: the usual port, one end a network interface, the other a descriptor.
//!
//! # Theory of operation
//! The interface appears in the network namespace of whoever opens the node: the namespace is taken at
//! open(2), so a stack opens its TAP itself and hands the descriptor over. [`open`] makes a TAP with
//! virtio-net header and all offloads, [`open_plain`] one without. A TAP made by TUNSETIFF on an existing
//! persistent interface joins it. An interface goes when its descriptor is closed, which takes about 30 ms
//! of waiting for the kernel; [`abandon`] avoids that where the namespace dies anyway.
//!
//! Read: Documentation/networking/tuntap.rst, drivers/net/tun.c.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::sys;
use crate::offload::VNET_HDR_LEN;

/// Where the node usually is.
pub const DEVICE: &str = "/dev/net/tun";

/// Makes a TAP with virtio-net header and offloads in the caller's network namespace; returns the
/// non-blocking descriptor and the interface's name. `name` may be empty or hold `%d`; an existing persistent
/// TAP is joined.
///
/// # Errors
/// Those of open(2) on `device`; EPERM without CAP_NET_ADMIN in the namespace, EBUSY when the interface is in
/// use, EINVAL when it is no TAP or its name is too long (15 bytes).
pub fn open(device: &Path, name: &str) -> io::Result<(OwnedFd, String)> {
    let fd = open_device(device)?;
    let name = set_up(fd.as_fd(), name)?;
    Ok((fd, name))
}

/// As [`open`], without virtio-net header: every frame is whole and at most as long as the MTU allows.
///
/// # Errors
/// As [`open`].
pub fn open_plain(device: &Path, name: &str) -> io::Result<(OwnedFd, String)> {
    let fd = open_device(device)?;
    let name = sys::tun_set_iff(fd.as_fd(), name, sys::IFF_TAP | sys::IFF_NO_PI)?;
    Ok((fd, name))
}

/// As [`open`], on a descriptor of the node opened before.
///
/// # Errors
/// As [`open`], those of open(2) apart.
pub fn set_up(fd: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    let name = sys::tun_set_iff(fd, name, sys::IFF_TAP | sys::IFF_NO_PI | sys::IFF_VNET_HDR)?;
    sys::tun_set_vnet_hdr_sz(fd, VNET_HDR_LEN as i32)?;
    take_offloads(fd)?;
    Ok(name)
}

/// Lets the kernel hand over super-segments and partial checksums.
///
/// # Errors
/// EINVAL for what is no TAP.
pub fn take_offloads(fd: BorrowedFd<'_>) -> io::Result<()> {
    let tso = sys::TUN_F_CSUM | sys::TUN_F_TSO4 | sys::TUN_F_TSO6 | sys::TUN_F_TSO_ECN;
    // Before Linux 6.2 there is no USO, and the whole request fails.
    sys::tun_set_offload(fd, tso | sys::TUN_F_USO).or_else(|_| sys::tun_set_offload(fd, tso))
}

/// The interface's name, and whether frames have a virtio-net header. An error for what is no TAP.
///
/// # Errors
/// ENOTTY, EBADFD or EINVAL for other descriptors.
pub fn identify(fd: BorrowedFd<'_>) -> io::Result<(String, bool)> {
    // Other devices may give the ioctl's number another meaning. 10, 200: admin-guide/devices.txt.
    if rustix::fs::fstat(fd)?.st_rdev != rustix::fs::makedev(10, 200) {
        return Err(io::Error::other("it is no TAP"));
    }
    let (name, flags) = sys::tun_get_iff(fd)?;
    if flags & sys::IFF_TAP == 0 || flags & sys::IFF_NO_PI == 0 {
        return Err(io::Error::other("it is a TUN, or has the four-byte prefix"));
    }
    let vnet_hdr = flags & sys::IFF_VNET_HDR != 0;
    if vnet_hdr {
        sys::tun_set_vnet_hdr_sz(fd, VNET_HDR_LEN as i32)?;
    }
    Ok((name, vnet_hdr))
}

/// Closes a TAP at once, leaving the interface to the end of its namespace.
pub fn abandon(fd: OwnedFd) {
    if let Err(e) = sys::tun_set_persist(fd.as_fd(), true) {
        log::debug!("cannot abandon a TAP: {e}");
    }
}

fn open_device(device: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    Ok(OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)?.into())
}

/// Is the interface up? The kernel lets nobody write into one that is not (tun_chr_poll); what cannot be found out
/// is taken for yes.
pub(crate) fn is_up(fd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec::default())).is_err() || fds[0].revents().contains(PollFlags::OUT)
}
