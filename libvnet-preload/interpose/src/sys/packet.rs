//! Packets to and from a host of stacks, with pieces of the program's memory in them: the kernel copies those, and
//! says EFAULT of what is none.

use std::ffi::c_int;
use std::mem::{size_of, zeroed};

use libc::{iovec, msghdr};

use super::{Buffer, Data, Message, can_read, close, exempt, syscall, told};

/// Most pieces that fit on our stack; more are put into memory of their own.
const FEW: usize = 24;
/// Most pieces of a packet: UIO_MAXIOV, linux/uio.h.
const MAX_PIECES: usize = 1024;

/// A part of a packet.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    /// Bytes of ours.
    Own(&'a [u8]),
    /// Room of ours.
    Room(&'a mut [u8]),
    /// The program's memory.
    Program(Data),
    /// Several pieces of the program's memory, so many bytes of them.
    Vector(Vector, usize),
}

/// The program's `struct iovec`s: where, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vector {
    base: *const iovec,
    count: usize,
}

impl Vector {
    /// Of one piece, which stays where it is as long as this is used.
    pub(crate) fn of(piece: &iovec) -> Self {
        Self { base: piece, count: 1 }
    }

    /// As `struct msghdr` has it.
    pub(crate) fn raw(&self) -> (*mut iovec, usize) {
        (self.base.cast_mut(), self.count)
    }

    /// How many bytes they have, as far as that matters.
    pub(crate) fn length(&self) -> Result<usize, i32> {
        let mut sum = 0_usize;
        for at in 0..self.count {
            let piece = self.piece(at);
            if isize::try_from(piece.iov_len).is_err() {
                return Err(libc::EINVAL);
            }
            sum = sum.saturating_add(piece.iov_len);
        }
        Ok(sum)
    }

    fn piece(&self, at: usize) -> iovec {
        // SAFETY: `Header::read` has seen that they can be read.
        unsafe { self.base.add(at).read_unaligned() }
    }
}

/// A program's `struct msghdr`, copied.
#[derive(Debug)]
pub(crate) struct Header {
    /// Where the address is, or goes.
    pub(crate) name: Data,
    /// Where ancillary data is, or goes.
    pub(crate) control: Data,
    /// Where the data is, or goes.
    pub(crate) vector: Vector,
    at: *mut msghdr,
}

impl Header {
    /// `None`: it is for the kernel to judge.
    pub(crate) fn read(message: &Message) -> Option<Self> {
        let at = message.0.cast_mut();
        if at.is_null() || !can_read(at as usize, size_of::<msghdr>()) {
            return None;
        }
        // SAFETY: it can be read.
        let header = unsafe { at.read_unaligned() };
        let count = header.msg_iovlen;
        if count > MAX_PIECES || (header.msg_namelen as i32) < 0 && !header.msg_name.is_null() {
            return None;
        }
        if count > 0 && !can_read(header.msg_iov as usize, count * size_of::<iovec>()) {
            return None;
        }
        let control_length = if header.msg_control.is_null() { 0 } else { header.msg_controllen };
        let name_length = if header.msg_name.is_null() { 0 } else { header.msg_namelen as usize };
        Some(Self {
            name: Data { base: header.msg_name, length: name_length },
            control: Data { base: header.msg_control, length: control_length },
            vector: Vector { base: header.msg_iov, count },
            at,
        })
    }

    /// Writes what recvmsg(2) says of the message.
    pub(crate) fn finish(&self, name: usize, control: usize, flags: c_int) {
        // SAFETY: it could be read, and is the program's to be written: recvmsg(2) takes no constant one.
        unsafe {
            if !self.name.base.is_null() {
                (&raw mut (*self.at).msg_namelen).write_unaligned(name as libc::socklen_t);
            }
            (&raw mut (*self.at).msg_controllen).write_unaligned(control as _);
            (&raw mut (*self.at).msg_flags).write_unaligned(flags);
        }
    }
}

/// The pieces of a packet.
struct Pieces {
    few: [iovec; FEW],
    /// All of them, if they are many.
    many: *mut iovec,
    length: usize,
}

impl Pieces {
    const MAPPED: usize = (MAX_PIECES + FEW) * size_of::<iovec>();

    fn of(head: &mut [u8], parts: &mut [Part<'_>]) -> Result<Self, i32> {
        // SAFETY: all its members may be 0.
        let mut pieces = Self { few: unsafe { zeroed() }, many: std::ptr::null_mut(), length: 0 };
        pieces.push(head.as_mut_ptr(), head.len())?;
        for part in parts {
            match part {
                Part::Own(bytes) => pieces.push(bytes.as_ptr().cast_mut(), bytes.len())?,
                Part::Room(bytes) => pieces.push(bytes.as_mut_ptr(), bytes.len())?,
                Part::Program(data) => pieces.push(data.base.cast(), data.length)?,
                Part::Vector(vector, length) => {
                    let mut left = *length;
                    for at in 0..vector.count {
                        let piece = vector.piece(at);
                        let length = piece.iov_len.min(left);
                        pieces.push(piece.iov_base.cast(), length)?;
                        left -= length;
                    }
                }
            }
        }
        Ok(pieces)
    }

    fn push(&mut self, base: *mut u8, length: usize) -> Result<(), i32> {
        if length == 0 {
            return Ok(());
        }
        let piece = iovec { iov_base: base.cast(), iov_len: length };
        if self.length == FEW && self.many.is_null() {
            let args = [
                0,
                Self::MAPPED,
                (libc::PROT_READ | libc::PROT_WRITE) as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
                usize::MAX,
                0,
            ];
            // SAFETY: a new mapping at a place of the kernel's choice touches nothing.
            self.many = told(unsafe { syscall(libc::SYS_mmap, args) })? as usize as *mut iovec;
            // SAFETY: there is room for them.
            unsafe { self.many.copy_from_nonoverlapping(self.few.as_ptr(), FEW) };
        }
        if self.length >= MAX_PIECES {
            return Err(libc::EMSGSIZE);
        }
        if self.many.is_null() {
            self.few[self.length] = piece;
        } else {
            // SAFETY: there is room for as many.
            unsafe { self.many.add(self.length).write(piece) };
        }
        self.length += 1;
        Ok(())
    }

    fn all(&mut self) -> *mut iovec {
        if self.many.is_null() { self.few.as_mut_ptr() } else { self.many }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.many.is_null() {
            // SAFETY: we mapped it, and nobody has it any more.
            unsafe { syscall(libc::SYS_munmap, [self.many as usize, Self::MAPPED, 0, 0, 0, 0]) };
        }
    }
}

/// `struct cmsghdr` with one descriptor (cmsg(3)).
#[repr(C, align(8))]
struct Beside {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
}

/// Sends a packet, with a descriptor beside it, without waiting.
pub(crate) fn put(
    line: c_int,
    head: &mut [u8],
    parts: &mut [Part<'_>],
    beside: Option<c_int>,
) -> Result<(), i32> {
    let mut pieces = Pieces::of(head, parts)?;
    let rights =
        Beside { length: 20, level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, fd: beside.unwrap_or(-1) };
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_iov = pieces.all();
    message.msg_iovlen = pieces.length as _;
    if beside.is_some() {
        message.msg_control = (&raw const rights).cast_mut().cast();
        message.msg_controllen = size_of::<Beside>() as _;
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let args = [exempt(line), &raw const message as usize, flags as usize, 0, 0, 0];
    // SAFETY: all pointers but the program's are ours, and the kernel checks those.
    told(unsafe { syscall(libc::SYS_sendmsg, args) }).map(drop)
}

/// Sends a packet without waiting to the AF_UNIX socket whose address is there. How much of it.
pub(crate) fn put_to(
    fd: c_int,
    (to, length): (&Buffer, usize),
    head: &mut [u8],
    parts: &mut [Part<'_>],
) -> Result<isize, i32> {
    let mut pieces = Pieces::of(head, parts)?;
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_name = to.at() as *mut _;
    message.msg_namelen = length as libc::socklen_t;
    message.msg_iov = pieces.all();
    message.msg_iovlen = pieces.length as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let args = [exempt(fd), &raw const message as usize, flags as usize, 0, 0, 0];
    // SAFETY: all pointers but the program's are ours, and the kernel checks those.
    told(unsafe { syscall(libc::SYS_sendmsg, args) })
}

/// What was taken from a line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// How long the packet is, whatever there was room for.
    pub(crate) length: usize,
    /// The descriptor beside it, close-on-exec.
    pub(crate) fd: Option<c_int>,
}

/// Takes a packet, or with MSG_PEEK looks at it; without descriptors then.
pub(crate) fn take(line: c_int, head: &mut [u8], parts: &mut [Part<'_>], flags: c_int) -> Result<Took, i32> {
    let mut pieces = Pieces::of(head, parts)?;
    let mut rights = Beside { length: 0, level: 0, kind: 0, fd: -1 };
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_iov = pieces.all();
    message.msg_iovlen = pieces.length as _;
    if flags & libc::MSG_PEEK == 0 {
        message.msg_control = (&raw mut rights).cast();
        message.msg_controllen = size_of::<Beside>() as _;
    }
    let flags = flags | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    let args = [exempt(line), &raw mut message as usize, flags as usize, 0, 0, 0];
    // SAFETY: all pointers but the program's are ours, and the kernel checks those.
    let length = told(unsafe { syscall(libc::SYS_recvmsg, args) })? as usize;
    let has = message.msg_controllen as usize >= 20
        && (rights.level, rights.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    Ok(Took { length, fd: has.then_some(rights.fd) })
}

/// Puts a descriptor in the place of another, which stays close-on-exec if it was.
pub(crate) fn replace(old: c_int, new: c_int) {
    // SAFETY: no pointers; the new one is ours, and the old one the program's, who is in a call on it.
    unsafe {
        let flags = syscall(libc::SYS_fcntl, [exempt(old), libc::F_GETFD as usize, 0, 0, 0, 0]);
        let cloexec = if flags & libc::FD_CLOEXEC as isize != 0 { libc::O_CLOEXEC } else { 0 };
        syscall(libc::SYS_dup3, [new as usize, old as usize, cloexec as usize, 0, 0, 0]);
    }
    close(new);
}
