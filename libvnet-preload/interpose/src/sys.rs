//! System calls without libc, and the program's memory: an unsafe room.
//!
//! Pointers of the program are not believed: those near the stack pointer are of memory that is there, others the
//! kernel looks at first, as it would in the call itself, so that a bad one is EFAULT. System calls are made without
//! libc, which keeps `errno` as it was, and with [`msocket_proto::proto::EXEMPT`] above the descriptor, where they are
//! not to be trapped.
#![allow(unsafe_code)]

pub(crate) mod datagram;
pub(crate) mod line;
pub(crate) mod packet;

use std::arch::asm;
use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::sync::atomic::AtomicU32;

use libc::{iovec, msghdr, size_t, socklen_t};
use msocket_proto::board::Address;
use msocket_proto::proto::{AF_VIEWNET, EXEMPT};

/// How far above the stack pointer memory is surely the stack's: the least stack of a thread (PTHREAD_STACK_MIN,
/// 16 KiB) has the frames of its callers there.
const STACK: usize = 8 << 10;
/// The smallest page there is.
const PAGE: usize = 4096;

/// Makes a system call; what it returns, errors below 0.
///
/// # Safety
/// As that call.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let result;
    // SAFETY: the convention of x86-64 (syscall(2)).
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
             in("r10") args[3], in("r8") args[4], in("r9") args[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Makes a system call; what it returns, errors below 0.
///
/// # Safety
/// As that call.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let result;
    // SAFETY: the convention of aarch64 (syscall(2)).
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") args[0] => result,
             in("x1") args[1], in("x2") args[2], in("x3") args[3],
             in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
}

/// What a system call gives.
pub fn told(result: isize) -> Result<isize, i32> {
    if result < 0 { Err(-result as i32) } else { Ok(result) }
}

/// A descriptor whose calls the filter lets pass.
pub fn exempt(fd: c_int) -> usize {
    (EXEMPT as usize) << 32 | fd as u32 as usize
}

/// Whether memory from there on is the caller's stack.
#[inline(always)]
fn is_stack(at: usize, length: usize) -> bool {
    let here = 0_u8;
    let top = &raw const here as usize;
    at > top && at.saturating_add(length) < top + STACK
}

/// Whether the kernel can read the word that a byte is in: asked to wait for it to change from what it is not, for no
/// time at all (futex(2)).
fn is_readable(at: usize) -> bool {
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: the kernel checks the pointer, and changes nothing.
    let looked =
        unsafe { syscall(libc::SYS_futex, [at & !3, wait, 0x5bd1_e995, &raw const no_time as usize, 0, 0]) };
    told(looked) != Err(libc::EFAULT)
}

/// Whether so much memory of the program's can be read.
pub fn can_read(at: usize, length: usize) -> bool {
    is_stack(at, length) || is_readable(at) && is_readable(at + length - 1)
}

/// Which name of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// getsockname(2)
    Local,
    /// getpeername(2)
    Peer,
}

/// Room for a `struct sockaddr_un`.
#[repr(C, align(8))]
pub struct Buffer([MaybeUninit<u8>; Self::LENGTH]);

impl Buffer {
    const LENGTH: usize = size_of::<libc::sockaddr_un>();

    /// Nothing yet.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self([MaybeUninit::uninit(); Self::LENGTH])
    }

    /// Makes it the address of that name. Its length; `None` if it is too long.
    pub fn set(&mut self, parts: &[&[u8]]) -> Option<usize> {
        let family = (libc::AF_UNIX as u16).to_ne_bytes();
        let mut length = 0;
        for byte in family.iter().chain(parts.iter().copied().flatten()) {
            self.0.get_mut(length)?.write(*byte);
            length += 1;
        }
        Some(length)
    }

    /// Where it is.
    pub(crate) fn at(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// The name in it, if it is one of AF_UNIX. The kernel wrote that many bytes.
    fn name(&self, length: usize) -> Option<&[u8]> {
        // SAFETY: so many bytes have been written.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), length.min(Self::LENGTH)) };
        let (family, name) = bytes.split_at_checked(2)?;
        (u16::from_ne_bytes([family[0], family[1]]) == libc::AF_UNIX as u16).then_some(name)
    }
}

/// What the kernel calls a descriptor; `None`: it is not of AF_UNIX.
#[inline]
pub fn native_name(fd: c_int, which: Which, buffer: &mut Buffer) -> Result<Option<&[u8]>, i32> {
    let mut length = Buffer::LENGTH as socklen_t;
    // SAFETY: both pointers are of ours.
    told(unsafe { name_of(fd, which, buffer.0.as_mut_ptr().cast(), &raw mut length) })?;
    Ok(buffer.name(length as usize))
}

/// # Safety
/// None: the kernel checks the pointers.
pub unsafe fn name_of(fd: c_int, which: Which, address: *mut u8, length: *mut socklen_t) -> isize {
    let number = if which == Which::Local { libc::SYS_getsockname } else { libc::SYS_getpeername };
    // SAFETY: see above.
    unsafe { syscall(number, [exempt(fd), address as usize, length as usize, 0, 0, 0]) }
}

/// Where the program wants an address, or an option, and its length.
pub struct Room {
    /// Where it goes.
    pub address: *mut u8,
    /// Where its length is and goes.
    pub length: *mut socklen_t,
}

impl Room {
    /// The room there is; `None` if that is for the kernel to judge.
    #[inline]
    pub fn length(&self) -> Option<usize> {
        if self.address.is_null() || self.length.is_null() || !can_read(self.length as usize, 4) {
            return None;
        }
        // SAFETY: it can be read.
        usize::try_from(unsafe { self.length.read_unaligned() } as i32).ok()
    }

    /// Whether the program wants it at all.
    pub fn is_there(&self) -> bool {
        !self.address.is_null()
    }

    /// Why there is no room.
    pub fn errno(&self) -> i32 {
        // SAFETY: it can be read.
        let negative = !self.length.is_null()
            && can_read(self.length as usize, 4)
            && unsafe { self.length.read_unaligned() as i32 } < 0;
        if negative { libc::EINVAL } else { libc::EFAULT }
    }

    /// As a buffer of that length.
    pub fn data(&self, length: usize) -> Data {
        Data { base: self.address.cast(), length }
    }

    /// Whether both can be written. What they held is lost: the kernel writes the socket's AF_UNIX name there, which
    /// is longer than what they are to hold.
    #[inline]
    pub fn is_writable(&self, fd: c_int, which: Which) -> bool {
        is_stack(self.address as usize, size_of::<libc::sockaddr_storage>()) && is_stack(self.length as usize, 4)
            // SAFETY: the kernel checks the pointers.
            || unsafe { name_of(fd, which, self.address, self.length) } == 0
    }

    /// Sets the length.
    pub fn set_length(&self, length: usize) {
        // SAFETY: it can be written.
        unsafe { self.length.write_unaligned(length as socklen_t) };
    }

    /// Writes as much as there is room for, and the full length.
    #[inline]
    pub fn write(&self, room: usize, bytes: &[u8]) {
        // SAFETY: so much can be written there.
        unsafe { self.address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len().min(room)) };
        self.set_length(bytes.len());
    }
}

/// A program's buffer; only the kernel looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    /// Where.
    pub base: *mut c_void,
    /// How long.
    pub length: size_t,
}

impl Data {
    /// No buffer.
    pub const NONE: Self = Self { base: std::ptr::null_mut(), length: 0 };

    /// The buffer at that address.
    pub fn at(address: usize, length: usize) -> Self {
        Self { base: address as *mut c_void, length }
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.base.is_null()
    }

    /// Its beginning.
    pub fn cut(&self, length: usize) -> Self {
        Self { base: self.base, length: length.min(self.length) }
    }

    /// The int in it, if there is one.
    pub(crate) fn int(&self) -> Option<i32> {
        let there = self.length >= 4 && !self.is_none() && can_read(self.base as usize, 4);
        // SAFETY: it can be read.
        there.then(|| unsafe { self.base.cast::<i32>().read_unaligned() })
    }

    /// How much of it is surely there if its first byte is.
    pub fn to_page(&self) -> usize {
        PAGE - self.base as usize % PAGE
    }

    /// Writes as much of the bytes as there is room for.
    pub fn fill(&self, bytes: &[u8]) -> Result<(), i32> {
        let length = bytes.len().min(self.length);
        if length > 0 && !can_read(self.base as usize, length) {
            return Err(libc::EFAULT);
        }
        // SAFETY: it can be read, and is the program's to be written.
        unsafe { self.base.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), length) };
        Ok(())
    }

    /// What a struct sock_fprog (socket(7), SO_ATTACH_FILTER) points to, of instructions that long; `None`: it is none.
    pub fn program(&self, instruction: usize) -> Result<Option<Self>, i32> {
        if self.length != size_of::<libc::sock_fprog>() {
            return Ok(None);
        }
        if !can_read(self.base as usize, self.length) {
            return Err(libc::EFAULT);
        }
        // SAFETY: it can be read.
        let program = unsafe { self.base.cast::<libc::sock_fprog>().read_unaligned() };
        Ok(Some(Self { base: program.filter.cast(), length: usize::from(program.len) * instruction }))
    }
}

/// The internet address that a program has there.
pub(crate) fn address_at(data: &Data) -> Option<Address> {
    if data.is_none() || !(2..=128).contains(&data.length) || !can_read(data.base as usize, data.length) {
        return None;
    }
    // SAFETY: so much can be read.
    Address::internet(unsafe { std::slice::from_raw_parts(data.base.cast(), data.length) })
}

/// What could be copied of the program's memory.
#[derive(Debug)]
pub struct Copied<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Copied<N> {
    /// Nothing.
    pub fn none() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// As much as can be read from that address on.
    pub fn partly(address: usize) -> Self {
        let mut copied = Self::none();
        let first = N.min(PAGE - address % PAGE);
        for (at, length) in [(0, first), (first, N - first)] {
            let from = address.wrapping_add(at);
            if length == 0 || from == 0 || !can_read(from, length) {
                break;
            }
            // SAFETY: it can be read; there is room for as much.
            unsafe {
                copied.bytes.as_mut_ptr().add(at).copy_from_nonoverlapping(from as *const u8, length);
            }
            copied.length += length;
        }
        copied
    }

    /// How much that was.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The bytes, with zeros behind them.
    pub fn whole(&self) -> &[u8; N] {
        &self.bytes
    }

    /// The int at that place.
    pub fn int(&self, at: usize) -> i32 {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    }

    /// The long at that place.
    pub fn word(&self, at: usize) -> usize {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| usize::from_ne_bytes(*bytes))
    }
}

/// A program's `struct msghdr`.
pub struct Message(pub *const msghdr);

impl Message {
    /// The one at that address.
    pub fn at(address: usize) -> Self {
        Self(address as *const msghdr)
    }

    fn header(&self) -> Option<msghdr> {
        let readable = !self.0.is_null() && can_read(self.0 as usize, size_of::<msghdr>());
        // SAFETY: it can be read.
        readable.then(|| unsafe { self.0.read_unaligned() })
    }

    /// It has no name.
    pub fn is_nameless(&self) -> bool {
        self.header().is_some_and(|header| header.msg_name.is_null())
    }

    /// It has a name and no ancillary data.
    pub fn is_addressed(&self) -> bool {
        self.header().is_some_and(|header| !header.msg_name.is_null() && header.msg_controllen == 0)
    }

    /// It has neither a name nor ancillary data.
    pub fn is_plain(&self) -> bool {
        self.header().is_some_and(|header| header.msg_name.is_null() && header.msg_controllen == 0)
    }
}

/// The words that are mapped at `base`.
pub fn mapped(base: u64, words: usize) -> &'static [AtomicU32] {
    // SAFETY: `map_from_supervisor` mapped so much there, of a file that cannot shrink, and it stays mapped.
    unsafe { std::slice::from_raw_parts(base as usize as *const AtomicU32, words) }
}

/// Asks the supervisor for a file and maps it.
pub fn map_from_supervisor(request: &[u8], length: usize) -> Option<u64> {
    let Asked::File(file) = ask(request) else { return None };
    let args = [0, length, libc::PROT_READ as usize, libc::MAP_SHARED as usize, file as usize, 0];
    // SAFETY: a new mapping at a place of the kernel's choice touches nothing.
    let base = told(unsafe { syscall(libc::SYS_mmap, args) });
    close(file);
    base.ok().map(|base| base as u64)
}

/// What the supervisor says.
pub enum Asked {
    /// A descriptor, close-on-exec.
    File(c_int),
    /// No, and the program shall see this errno.
    Refused(c_int),
    /// No, or nothing.
    Nothing,
}

/// Sends a line to the supervisor.
pub fn ask(request: &[u8]) -> Asked {
    // SAFETY: no pointers.
    let line =
        unsafe { syscall(libc::SYS_socket, [AF_VIEWNET as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0]) };
    told(line).map_or(Asked::Nothing, |line| converse(line as c_int, request))
}

/// Sends a line to the stack at a path.
pub fn ask_at(path: &[u8; 108], request: &[u8]) -> Asked {
    let mut address = Buffer::new();
    let Some(length) = address.set(&[path]) else { return Asked::Nothing };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let line = unsafe { syscall(libc::SYS_socket, [libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0]) };
    let line = match told(line) {
        Ok(line) => line,
        Err(errno) => return Asked::Refused(errno),
    };
    let args = [line as usize, address.0.as_ptr() as usize, length, 0, 0, 0];
    // SAFETY: a pointer of ours.
    if unsafe { syscall(libc::SYS_connect, args) } == 0 {
        return converse(line as c_int, request);
    }
    close(line as c_int);
    Asked::Nothing
}

fn converse(line: c_int, request: &[u8]) -> Asked {
    let args = [line as usize, request.as_ptr() as usize, request.len(), 0, 0, 0];
    // SAFETY: a pointer of ours.
    let sent = unsafe { syscall(libc::SYS_write, args) };
    let asked = if sent == request.len() as isize { answer(line) } else { Asked::Nothing };
    if let Asked::File(file) = asked {
        // The number that was free first, as open(2) and socket(2) promise.
        // SAFETY: no pointers; both descriptors are ours.
        unsafe { syscall(libc::SYS_dup3, [file as usize, line as usize, libc::O_CLOEXEC as usize, 0, 0, 0]) };
        close(file);
        return Asked::File(line);
    }
    close(line);
    asked
}

/// Sets the flags of a descriptor of ours that socket(2) was asked for.
pub fn adopt(fd: c_int, kind: c_int) {
    let set = |command: c_int, value: c_int| {
        // SAFETY: no pointers.
        unsafe { syscall(libc::SYS_fcntl, [fd as usize, command as usize, value as usize, 0, 0, 0]) }
    };
    if kind & libc::SOCK_CLOEXEC == 0 {
        set(libc::F_SETFD, 0);
    }
    if kind & libc::SOCK_NONBLOCK != 0 {
        set(libc::F_SETFL, libc::O_NONBLOCK | set(libc::F_GETFL, 0) as c_int);
    }
}

fn answer(line: c_int) -> Asked {
    let mut text = [0_u8; 256];
    let mut control = [0_u64; 8];
    let mut part = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // SAFETY: all its members may be 0.
    let mut message: msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; 8]>() as _;
    let args = [exempt(line), &raw mut message as usize, libc::MSG_CMSG_CLOEXEC as usize, 0, 0, 0];
    let length = loop {
        // SAFETY: all pointers are ours.
        match told(unsafe { syscall(libc::SYS_recvmsg, args) }) {
            Err(libc::EINTR) => {}
            Ok(count) if count > 0 => break count as usize,
            _ => return Asked::Nothing,
        }
    };
    // struct cmsghdr: length, level and type, then the descriptor (cmsg(3)).
    let rights = u64::from(libc::SCM_RIGHTS as u32) << 32 | u64::from(libc::SOL_SOCKET as u32);
    if message.msg_controllen as usize >= 20 && control[1] == rights {
        return Asked::File(control[2] as c_int);
    }
    // It came, and there was no number left for it (unix(7)).
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Asked::Refused(libc::EMFILE);
    }
    let key = br#""errno":"#;
    let text = text.get(..length).unwrap_or_default();
    let number =
        text.windows(key.len()).position(|part| part == key).and_then(|at| text.get(at + key.len()..));
    let digits = number.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    match digits.fold(0, |errno: c_int, digit| errno.wrapping_mul(10).wrapping_add(c_int::from(digit - b'0')))
    {
        0 => Asked::Nothing,
        errno => Asked::Refused(errno),
    }
}

/// This process.
pub fn pid() -> u32 {
    // SAFETY: no pointers.
    (unsafe { syscall(libc::SYS_getpid, [0; 6]) }) as u32
}

/// close(2)
pub fn close(fd: c_int) {
    // SAFETY: no pointers; the descriptor is ours.
    unsafe { syscall(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Whether a descriptor's file does not wait (O_NONBLOCK).
pub fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_GETFL as usize, 0, 0, 0, 0]) };
    flags >= 0 && flags & libc::O_NONBLOCK as isize != 0
}

/// errno(3)
pub fn errno() -> i32 {
    // SAFETY: libc's own word of this thread.
    unsafe { *libc::__errno_location() }
}

/// Sets errno(3).
pub fn fail(errno: i32) -> isize {
    // SAFETY: libc's own word of this thread.
    unsafe { *libc::__errno_location() = errno };
    -1
}
