//! The descriptors of lines to hosts.

use std::ffi::c_int;
use std::mem::zeroed;

use super::{Buffer, Data, close, exempt, syscall, told};
use crate::ops::Answer;

/// From where on lines have their numbers, if there are so many: a program expects the lowest for its own.
const HIGH: usize = 512;
/// What a line holds towards its host, in bytes: the longest packet. The kernel bounds it (net.core.wmem_max).
const ROOM: c_int = 768 << 10;

/// A connection to that name of AF_UNIX, close-on-exec. EAGAIN: so many seconds were not enough to be let in.
pub(crate) fn connect(name: &[&[u8]], patience: i64) -> Result<c_int, i32> {
    let mut address = Buffer::new();
    let length = address.set(name).ok_or(libc::EINVAL)?;
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let made = unsafe { syscall(libc::SYS_socket, [libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0]) };
    let low = told(made)? as c_int;
    set(low, libc::SO_SNDTIMEO, &limit(patience));
    let args = [exempt(low), address.at(), length, 0, 0, 0];
    loop {
        // SAFETY: a pointer of ours.
        match told(unsafe { syscall(libc::SYS_connect, args) }) {
            Ok(_) => break,
            Err(libc::EINTR) => {}
            Err(errno) => {
                close(low);
                return Err(errno);
            }
        }
    }
    // SAFETY: no pointers.
    let high =
        unsafe { syscall(libc::SYS_fcntl, [low as usize, libc::F_DUPFD_CLOEXEC as usize, HIGH, 0, 0, 0]) };
    let line = match told(high) {
        Ok(high) => {
            close(low);
            high as c_int
        }
        Err(_) => low,
    };
    set(line, libc::SO_SNDBUF, &ROOM.to_ne_bytes());
    Ok(line)
}

fn set(line: c_int, option: c_int, value: &[u8]) {
    let args =
        [exempt(line), libc::SOL_SOCKET as usize, option as usize, value.as_ptr() as usize, value.len(), 0];
    // SAFETY: a pointer of ours.
    unsafe { syscall(libc::SYS_setsockopt, args) };
}

/// How long the line waits for a packet, in seconds; 0: for ever.
pub(crate) fn set_patience(line: c_int, seconds: i64) {
    set(line, libc::SO_RCVTIMEO, &limit(seconds));
}

/// `struct timeval`
fn limit(seconds: i64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&seconds.to_ne_bytes());
    value
}

/// Whether the socket's calls of that option, SO_RCVTIMEO or SO_SNDTIMEO, have a limit of time.
pub(crate) fn is_timed(fd: c_int, option: c_int) -> bool {
    let (mut value, mut length) = ([0_u64; 2], 16_u32);
    let args = [
        exempt(fd),
        libc::SOL_SOCKET as usize,
        option as usize,
        value.as_mut_ptr() as usize,
        &raw mut length as usize,
        0,
    ];
    // SAFETY: pointers of ours.
    told(unsafe { syscall(libc::SYS_getsockopt, args) }).is_ok() && value != [0, 0]
}

/// SOCK_STREAM or another: what the AF_UNIX descriptor is.
pub(crate) fn kind(fd: c_int) -> Option<c_int> {
    let (mut value, mut length) = (0_i32, 4_u32);
    let args = [
        exempt(fd),
        libc::SOL_SOCKET as usize,
        libc::SO_TYPE as usize,
        &raw mut value as usize,
        &raw mut length as usize,
        0,
    ];
    // SAFETY: pointers of ours.
    told(unsafe { syscall(libc::SYS_getsockopt, args) }).ok().map(|_| value)
}

/// What a descriptor is, whatever its number: its inode. 0 is none.
pub(crate) fn inode(fd: c_int) -> u64 {
    // SAFETY: all its members may be 0.
    let mut stat: libc::stat = unsafe { zeroed() };
    // SAFETY: a pointer of ours.
    let looked = unsafe { syscall(libc::SYS_fstat, [fd as usize, &raw mut stat as usize, 0, 0, 0, 0]) };
    if looked == 0 { stat.st_ino } else { 0 }
}

/// Whether the process has a number for one more descriptor.
pub(crate) fn has_room(fd: c_int) -> bool {
    // SAFETY: no pointers.
    let made = unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, 0, 0, 0, 0]) };
    told(made).is_ok_and(|more| {
        close(more as c_int);
        true
    })
}

/// Whether somebody answers the calls on a descriptor for the kernel: it is one of AF_UNIX, and is said to be another.
pub(crate) fn is_answered(fd: c_int) -> bool {
    let (mut address, mut length) = ([0_u8; 128], 128_u32);
    let args = [fd as u32 as usize, address.as_mut_ptr() as usize, &raw mut length as usize, 0, 0, 0];
    // SAFETY: pointers of ours.
    let asked = told(unsafe { syscall(libc::SYS_getsockname, args) });
    asked.is_err() || address[..2] != (libc::AF_UNIX as u16).to_ne_bytes()
}

/// Clears close-on-exec.
pub(crate) fn inherit(fd: c_int) {
    // SAFETY: no pointers; the descriptor is ours.
    unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_SETFD as usize, 0, 0, 0, 0]) };
}

/// SIGPIPE to the thread that wrote.
pub(crate) fn raise_pipe() {
    // SAFETY: no pointers.
    unsafe {
        let pid = syscall(libc::SYS_getpid, [0; 6]);
        let tid = syscall(libc::SYS_gettid, [0; 6]);
        syscall(libc::SYS_tgkill, [pid as usize, tid as usize, libc::SIGPIPE as usize, 0, 0, 0]);
    }
}

/// Maps a descriptor of ours where and as the program wants, and closes it.
pub(crate) fn map(fd: c_int, wanted: &Data, prot: c_int, flags: c_int) -> Answer {
    let args = [wanted.base as usize, wanted.length, prot as usize, flags as usize, fd as usize, 0];
    // SAFETY: what mmap(2) replaces there is the program's own wish.
    let mapped = told(unsafe { syscall(libc::SYS_mmap, args) });
    close(fd);
    mapped.map_or_else(Answer::Fail, Answer::Value)
}
