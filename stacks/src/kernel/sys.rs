//! The unsafe room of the kernel stack, with what the smol stack asks of the kernel: one system call per function.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// NS_GET_USERNS, ioctl_ns(2): the user namespace that owns a namespace.
const NS_GET_USERNS: libc::c_ulong = 0xb701;

/// SIOCATMARK, asm-generic/sockios.h: whether the next byte is the urgent one.
const SIOCATMARK: libc::c_ulong = 0x8905;

/// socket(2) with the three numbers as the program gave them.
///
/// # Errors
/// The kernel's.
pub(super) fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user namespace that owns the namespace behind `namespace`.
///
/// # Errors
/// EPERM if it is out of reach.
pub(super) fn owning_user_namespace(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: the request takes no argument and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) })?;
    // SAFETY: the kernel just gave us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// ICMP6_FILTER, linux/icmpv6.h: which types of message a raw socket does not hear, a bit each.
const ICMP6_FILTER: libc::c_int = 1;

/// A raw socket of ICMPv6 hears messages of no other type than `kind`.
///
/// # Errors
/// The kernel's.
pub(crate) fn hear_only(socket: BorrowedFd<'_>, kind: u8) -> Result<(), Errno> {
    let mut refused = [u32::MAX; 8];
    refused[usize::from(kind) / 32] &= !(1 << (kind % 32));
    let length = size_of_val(&refused) as libc::socklen_t;
    let (level, value) = (libc::IPPROTO_ICMPV6, refused.as_ptr().cast());
    // SAFETY: `value` points to `length` bytes, which the kernel reads.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, ICMP6_FILTER, value, length) };
    Errno::result(done).map(drop)
}

/// Whether the next byte to be read from a stream is the urgent one. On kernels that know none, it is not.
pub(crate) fn is_at_mark(socket: BorrowedFd<'_>) -> bool {
    let mut answer: libc::c_int = 0;
    // Not libc's function: in a program with a library before that, it would ask us.
    // SAFETY: the request writes one int, to `answer`.
    let done = unsafe { libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), SIOCATMARK, &raw mut answer) };
    done == 0 && answer != 0
}

/// Bytes of the longest packet that goes unfragmented where `socket` is connected to, headers included (IP_MTU, ip(7);
/// IPV6_MTU, ipv6(7)).
///
/// # Errors
/// ENOTCONN before it is connected.
pub(crate) fn path_mtu(socket: BorrowedFd<'_>, v6: bool) -> Result<u32, Errno> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    let (value_at, length_at) = ((&raw mut value).cast(), &raw mut length);
    // SAFETY: the kernel writes one int to `value`, and four to `length`.
    Errno::result(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value_at, length_at) })?;
    Ok(value.unsigned_abs())
}
