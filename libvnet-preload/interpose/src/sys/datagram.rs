//! Datagrams of sockets that the kernel is asked to move without a trap.

use std::ffi::c_int;
use std::mem::zeroed;

use libc::{iovec, msghdr, socklen_t};
use msocket_proto::board::HEADER;

use super::packet::{Part, Vector, put_to};
use super::{Buffer, errno, exempt, syscall, told};

/// A datagram that was received.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// What recvmsg(2) returns.
    pub(crate) length: isize,
    /// Its `msg_flags`.
    pub(crate) flags: c_int,
    /// The AF_UNIX name of the sender.
    pub(crate) sender: Option<&'a [u8]>,
}

/// recvmsg(2), by the kernel, into the program's memory.
pub(crate) fn receive<'a>(
    fd: c_int,
    vector: &Vector,
    flags: c_int,
    buffer: &'a mut Buffer,
) -> Result<Received<'a>, i32> {
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_name = buffer.at() as *mut _;
    message.msg_namelen = Buffer::LENGTH as socklen_t;
    (message.msg_iov, message.msg_iovlen) = vector.raw();
    let args = [exempt(fd), &raw mut message as usize, flags as u32 as usize, 0, 0, 0];
    // SAFETY: the kernel checks the program's pointers, and the others are ours.
    let length = told(unsafe { syscall(libc::SYS_recvmsg, args) })?;
    Ok(Received { length, flags: message.msg_flags, sender: buffer.name(message.msg_namelen as usize) })
}

/// Waits, as recv(2) does, until something can be received: with time-outs, signals and cancellation.
pub(crate) fn wait(fd: c_int) -> Result<(), i32> {
    let mut byte = 0_u8;
    // SAFETY: a byte of ours.
    let peeked = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK) };
    if peeked < 0 { Err(errno()) } else { Ok(()) }
}

/// Sends a header and the program's data to the AF_UNIX socket of that name. How much of the data.
pub(crate) fn send(
    fd: c_int,
    to: (&Buffer, usize),
    mut header: [u8; HEADER],
    (vector, length): (&Vector, usize),
) -> Result<isize, i32> {
    let sent = put_to(fd, to, &mut header, &mut [Part::Vector(*vector, length)])?;
    Ok(sent - HEADER as isize)
}

/// sendmsg(2) without a name, by the kernel, without waiting.
pub(crate) fn put(fd: c_int, vector: &Vector, flags: c_int) -> Result<isize, i32> {
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    (message.msg_iov, message.msg_iovlen) = vector.raw();
    let flags = (flags | libc::MSG_DONTWAIT) as u32 as usize;
    // SAFETY: the kernel checks the program's pointers.
    told(unsafe { syscall(libc::SYS_sendmsg, [exempt(fd), &raw const message as usize, flags, 0, 0, 0]) })
}

/// One piece of a program's memory, for a call that has no `struct iovec`.
pub(crate) fn piece(base: *mut std::ffi::c_void, length: usize) -> iovec {
    iovec { iov_base: base, iov_len: length }
}
