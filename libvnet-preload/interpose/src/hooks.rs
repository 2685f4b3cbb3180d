//! The exported functions, and how one stands before libc's: an unsafe room.
//!
//! # Theory of operation
//! Each function that stands before libc's asks [`crate::ops`] and [`crate::calls`] and does what they say.

#![allow(unsafe_code)]

use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use std::mem::transmute_copy;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};
use msocket_proto::board::Address;

use crate::ops::Answer;
use crate::sys::datagram;
use crate::sys::packet::{Header, Vector};
use crate::sys::{Data, Message, Room, Which, address_at, exempt, fail, is_nonblocking, syscall, told};
use crate::{calls, config, ioctl, many, messages, ops};

// A static program of some libcs has none, and needs none.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".weak dlsym",
    ".globl interpose_dlsym",
    ".hidden interpose_dlsym",
    ".type interpose_dlsym, @function",
    "interpose_dlsym:",
    "mov rax, qword ptr [rip + dlsym@GOTPCREL]",
    "ret",
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".weak dlsym",
    ".globl interpose_dlsym",
    ".hidden interpose_dlsym",
    ".type interpose_dlsym, %function",
    "interpose_dlsym:",
    "adrp x0, :got:dlsym",
    "ldr x0, [x0, :got_lo12:dlsym]",
    "ret",
);

type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

unsafe extern "C" {
    /// dlsym(3), if there is one.
    fn interpose_dlsym() -> Option<Dlsym>;
}

/// libc's function of a name, or that of the next library which stands before it.
#[derive(Debug)]
pub struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    /// That of the name, which is to be looked for.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    /// Looks for it.
    pub fn find(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        // SAFETY: it gives an address.
        let Some(dlsym) = (unsafe { interpose_dlsym() }) else { return null_mut() };
        // SAFETY: a string with a NUL at its end.
        let found = unsafe { dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// The function.
    ///
    /// # Safety
    /// `F` is the function's type.
    pub unsafe fn get<F: Copy>(&self) -> Option<F> {
        let found = self.find();
        // SAFETY: see above; a function's pointer is one.
        (!found.is_null()).then(|| unsafe { transmute_copy::<*mut c_void, F>(&found) })
    }
}

/// What a function returns when it fails.
pub trait Failed {
    /// That, with errno set.
    fn failed(errno: i32) -> Self;
}

impl Failed for c_int {
    fn failed(errno: i32) -> Self {
        fail(errno) as Self
    }
}

impl Failed for ssize_t {
    fn failed(errno: i32) -> Self {
        fail(errno)
    }
}

/// The exported functions: each has the type that libc's header gives it. Where there is no libc's function to be
/// found, as in static programs, a call that has `or` does that.
#[macro_export]
macro_rules! hooks {
    ($($name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty $(, or ($otherwise:expr))? { $body:expr })*) => {
        /// What is looked for when the library is loaded.
        mod next {
            use $crate::hooks::Next;
            $(
                #[allow(non_upper_case_globals)]
                pub(super) static $name: Next =
                    Next::new(match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name without NUL"),
                    });
            )*
            pub(super) static ALL: &[&Next] = &[$(&$name),*];
        }
        $(
            /// As libc's.
            ///
            /// # Safety
            /// As libc's.
            #[cfg_attr(not(test), unsafe(no_mangle))]
            pub(crate) unsafe extern "C" fn $name($($arg: $type),*) -> $result {
                let original = || -> $result {
                    type Function = unsafe extern "C" fn($($type),*) -> $result;
                    // SAFETY: the function's type.
                    match unsafe { next::$name.get::<Function>() } {
                        // SAFETY: the program's own arguments.
                        Some(function) => unsafe { function($($arg),*) },
                        None => {
                            $(return $otherwise;)?
                            #[allow(unreachable_code)]
                            $crate::hooks::Failed::failed(libc::ENOSYS)
                        }
                    }
                };
                let body: fn(&dyn Fn() -> $result, $($type),*) -> $result = $body;
                body(&original, $($arg),*)
            }
        )*
    };
}

/// All functions of libc that those of this library stand before.
pub fn all() -> impl Iterator<Item = &'static Next> {
    next::ALL.iter().copied()
}

/// A call as the kernel has it.
fn plain<T: TryFrom<isize> + Default>(number: i64, args: [usize; 6]) -> T {
    // SAFETY: the program's own arguments, which the kernel checks.
    let result = told(unsafe { syscall(number, args) });
    T::try_from(result.unwrap_or_else(fail)).unwrap_or_default()
}

/// Does as it was decided.
#[inline(always)]
pub fn act<T>(answer: Answer, native: impl FnOnce() -> isize, original: &dyn Fn() -> T) -> T
where
    T: TryFrom<isize> + Default,
{
    let value = match answer {
        Answer::Original => return original(),
        Answer::Value(value) => value,
        Answer::Fail(errno) => fail(errno),
        Answer::Native => native(),
    };
    T::try_from(value).unwrap_or_default()
}

/// A call on the descriptor itself, exempt.
fn native(number: i64, fd: c_int, args: [usize; 5]) -> isize {
    // SAFETY: the program's own arguments, which the kernel checks.
    let result = unsafe { syscall(number, [exempt(fd), args[0], args[1], args[2], args[3], args[4]]) };
    told(result).unwrap_or_else(fail)
}

/// recvmsg(2) as the kernel has it; to wait is libc's affair, as the thread may be cancelled there.
fn receive_natively(
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
    original: &dyn Fn() -> ssize_t,
) -> ssize_t {
    let flags = (flags | libc::MSG_DONTWAIT) as u32 as usize;
    // SAFETY: the program's own arguments, which the kernel checks.
    match told(unsafe { syscall(libc::SYS_recvmsg, [exempt(fd), message as usize, flags, 0, 0, 0]) }) {
        Err(libc::EAGAIN) if !is_nonblocking(fd) => original(),
        other => other.unwrap_or_else(fail),
    }
}

/// recvfrom(2) where something is asked of it that a descriptor of ours does not know.
fn received(
    original: &dyn Fn() -> ssize_t,
    (fd, base, length, flags): (c_int, *mut c_void, size_t, c_int),
    (from, room): (*mut sockaddr, *mut socklen_t),
) -> ssize_t {
    let (data, room) = (Data { base, length }, Room { address: from.cast(), length: room });
    if from.is_null() {
        return act(messages::receive(fd, &data, flags, &room), || fail(libc::ENOSYS), original);
    }
    let piece = datagram::piece(base, length);
    let answer = ops::receive(fd, &Vector::of(&piece), flags, &room);
    act(answer.or(|| messages::receive(fd, &data, flags, &room)), || fail(libc::ENOSYS), original)
}

/// sendto(2), likewise.
fn sent(
    original: &dyn Fn() -> ssize_t,
    (fd, base, length, flags): (c_int, *const c_void, size_t, c_int),
    (to, room): (*const sockaddr, socklen_t),
) -> ssize_t {
    let data = Data { base: base.cast_mut(), length };
    let given = (!to.is_null()).then(|| address(to, room));
    let ask = || act(messages::send(fd, &data, flags, given), || fail(libc::ENOSYS), original);
    let piece = datagram::piece(data.base, length);
    if to.is_null() {
        ask()
    } else {
        sent_to(fd, &Vector::of(&piece), flags, address_at(&address(to, room)), ask)
    }
}

/// What goes to an address that is read once: unasked, or as `ask` does it.
fn sent_to(
    fd: c_int,
    vector: &Vector,
    flags: c_int,
    to: Option<Address>,
    ask: impl Fn() -> ssize_t,
) -> ssize_t {
    match ops::send(fd, vector, flags, to) {
        Ok(count) => count,
        Err(errand) => {
            let sent = ask();
            if let Some(errand) = errand.filter(|_| sent >= 0) {
                errand.remember();
            }
            sent
        }
    }
}

/// sendmmsg(2) in a view: unasked as far as that goes, and then asked.
fn sent_unasked(
    original: &dyn Fn() -> c_int,
    fd: c_int,
    (messages, count): (usize, c_uint),
    flags: c_int,
) -> c_int {
    let (done, errand) = many::send_unasked(fd, (messages, count), flags);
    let asked = match done {
        0 => original(),
        _ if done == count => return done as c_int,
        _ => {
            let rest = [many::entry(messages, done), (count - done) as usize, flags as u32 as usize];
            plain(libc::SYS_sendmmsg, [fd as u32 as usize, rest[0], rest[1], rest[2], 0, 0])
        }
    };
    if let Some(errand) = errand.filter(|_| asked > 0) {
        errand.remember();
    }
    // An error of a later message is none of this call.
    if done == 0 { asked } else { done as c_int + asked.max(0) }
}

/// The rest of a recvmmsg(2) in a view that is to wait for all: a few wait in the program's end, and the stack has more.
fn received_more(fd: c_int, (messages, count): (usize, c_uint), flags: c_int, done: c_uint) -> c_int {
    const NO_WAIT: c_int = libc::MSG_DONTWAIT | libc::MSG_WAITFORONE;
    if done == 0 || done >= count || flags & NO_WAIT != 0 || is_nonblocking(fd) {
        return 0;
    }
    let rest = [many::entry(messages, done), (count - done) as usize];
    let flags = (flags | libc::MSG_DONTWAIT) as u32 as usize;
    // An error of a later message is none of this call.
    plain::<c_int>(libc::SYS_recvmmsg, [fd as u32 as usize, rest[0], rest[1], flags, 0, 0]).max(0)
}

fn address(address: *const sockaddr, length: socklen_t) -> Data {
    Data { base: address.cast_mut().cast(), length: length as usize }
}

fn accepted(
    original: &dyn Fn() -> c_int,
    fd: c_int,
    (peer, length): (*mut sockaddr, *mut socklen_t),
    flags: c_int,
) -> c_int {
    let room = Room { address: peer.cast(), length };
    act(calls::accept(fd, &room, flags), || fail(libc::ENOSYS), original)
}

/// mmap(2), in which libc does nothing of its own: to look for its function could need memory.
fn mapped(wanted: &Data, prot: c_int, flags: c_int, fd: c_int, offset: libc::off_t) -> ssize_t {
    let args =
        [wanted.base as usize, wanted.length, prot as usize, flags as usize, fd as usize, offset as usize];
    act(calls::map(fd, wanted, (prot, flags), offset as u64), || fail(libc::ENOSYS), &|| {
        plain(libc::SYS_mmap, args)
    })
}

hooks! {
    mmap(at: *mut c_void, length: size_t, prot: c_int, flags: c_int, fd: c_int, offset: libc::off_t) -> ssize_t {
        |_original, at, length, prot, flags, fd, offset| {
            mapped(&Data { base: at, length }, prot, flags, fd, offset)
        }
    }
    mmap64(at: *mut c_void, length: size_t, prot: c_int, flags: c_int, fd: c_int, offset: libc::off_t) -> ssize_t {
        |_original, at, length, prot, flags, fd, offset| {
            mapped(&Data { base: at, length }, prot, flags, fd, offset)
        }
    }
    bind(fd: c_int, to: *const sockaddr, length: socklen_t) -> c_int, or (plain(libc::SYS_bind, [fd as usize, to as usize, length as usize, 0, 0, 0])) {
        |original, fd, to, length| act(calls::bind(fd, address(to, length)), || fail(libc::ENOSYS), original)
    }
    connect(fd: c_int, to: *const sockaddr, length: socklen_t) -> c_int, or (plain(libc::SYS_connect, [fd as usize, to as usize, length as usize, 0, 0, 0])) {
        |original, fd, to, length| act(calls::connect(fd, address(to, length)), || fail(libc::ENOSYS), original)
    }
    listen(fd: c_int, backlog: c_int) -> c_int, or (plain(libc::SYS_listen, [fd as usize, backlog as usize, 0, 0, 0, 0])) {
        |original, fd, backlog| act(calls::listen(fd, backlog), || fail(libc::ENOSYS), original)
    }
    accept(fd: c_int, peer: *mut sockaddr, length: *mut socklen_t) -> c_int, or (plain(libc::SYS_accept, [fd as usize, peer as usize, length as usize, 0, 0, 0])) {
        |original, fd, peer, length| accepted(original, fd, (peer, length), 0)
    }
    accept4(fd: c_int, peer: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int, or (plain(libc::SYS_accept4, [fd as usize, peer as usize, length as usize, flags as usize, 0, 0])) {
        |original, fd, peer, length, flags| accepted(original, fd, (peer, length), flags)
    }
    shutdown(fd: c_int, how: c_int) -> c_int, or (plain(libc::SYS_shutdown, [fd as usize, how as usize, 0, 0, 0, 0])) {
        |original, fd, how| act(calls::shutdown(fd, how), || fail(libc::ENOSYS), original)
    }
    ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int, or (plain(libc::SYS_ioctl, [fd as usize, request as usize, argument as usize, 0, 0, 0])) {
        |original, fd, request, argument| {
            act(ioctl::ioctl(fd, request as u32, argument as usize), || fail(libc::ENOSYS), original)
        }
    }
    getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, or (plain(libc::SYS_getsockname, [fd as usize, address as usize, length as usize, 0, 0, 0])) {
        |original, fd, address, length| {
            let room = Room { address: address.cast(), length };
            let answer = ops::name(fd, Which::Local, &room).or(|| calls::name(fd, Which::Local, &room));
            let args = [address as usize, length as usize, 0, 0, 0];
            act(answer, || native(libc::SYS_getsockname, fd, args), original)
        }
    }
    getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, or (plain(libc::SYS_getpeername, [fd as usize, address as usize, length as usize, 0, 0, 0])) {
        |original, fd, address, length| {
            let room = Room { address: address.cast(), length };
            let answer = ops::name(fd, Which::Peer, &room).or(|| calls::name(fd, Which::Peer, &room));
            let args = [address as usize, length as usize, 0, 0, 0];
            act(answer, || native(libc::SYS_getpeername, fd, args), original)
        }
    }
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int, or (plain(libc::SYS_getsockopt, [fd as usize, level as usize, name as usize, value as usize, length as usize, 0])) {
        |original, fd, level, name, value, length| {
            let room = Room { address: value.cast(), length };
            let answer = ops::option(fd, level, name, &room).or(|| calls::option(fd, level, name, &room));
            let args = [level as usize, name as usize, value as usize, length as usize, 0];
            act(answer, || native(libc::SYS_getsockopt, fd, args), original)
        }
    }
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int, or (plain(libc::SYS_setsockopt, [fd as usize, level as usize, name as usize, value as usize, length as usize, 0])) {
        |original, fd, level, name, value, length| {
            let data = Data { base: value.cast_mut(), length: length as usize };
            let answer = ops::set_option(fd, level, name, &data).or(|| calls::set_option(fd, level, name, &data));
            let args = [level as usize, name as usize, value as usize, length as usize, 0];
            act(answer, || native(libc::SYS_setsockopt, fd, args), original)
        }
    }
    recv(fd: c_int, data: *mut c_void, length: size_t, flags: c_int) -> ssize_t, or (plain(libc::SYS_recvfrom, [fd as usize, data as usize, length as usize, flags as usize, 0, 0])) {
        |original, fd, data, length, flags| match flags & messages::RECEIVE_FLAGS {
            0 => original(),
            _ => received(original, (fd, data, length, flags), (null_mut(), null_mut())),
        }
    }
    __recv_chk(fd: c_int, data: *mut c_void, length: size_t, size: size_t, flags: c_int) -> ssize_t {
        |original, fd, data, length, size, flags| match flags & messages::RECEIVE_FLAGS {
            0 => original(),
            _ if length > size => original(),
            _ => received(original, (fd, data, length, flags), (null_mut(), null_mut())),
        }
    }
    recvfrom(fd: c_int, data: *mut c_void, length: size_t, flags: c_int, from: *mut sockaddr,
             room: *mut socklen_t) -> ssize_t, or (plain(libc::SYS_recvfrom, [fd as usize, data as usize, length as usize, flags as usize, from as usize, room as usize])) {
        |original, fd, data, length, flags, from, room| {
            if from.is_null() && flags & messages::RECEIVE_FLAGS == 0 {
                return original();
            }
            received(original, (fd, data, length, flags), (from, room))
        }
    }
    __recvfrom_chk(fd: c_int, data: *mut c_void, length: size_t, size: size_t, flags: c_int,
                   from: *mut sockaddr, room: *mut socklen_t) -> ssize_t {
        |original, fd, data, length, size, flags, from, room| {
            if length > size || from.is_null() && flags & messages::RECEIVE_FLAGS == 0 {
                return original();
            }
            received(original, (fd, data, length, flags), (from, room))
        }
    }
    send(fd: c_int, data: *const c_void, length: size_t, flags: c_int) -> ssize_t, or (plain(libc::SYS_sendto, [fd as usize, data as usize, length as usize, flags as usize, 0, 0])) {
        |original, fd, data, length, flags| match flags & messages::SEND_FLAGS {
            0 => original(),
            _ => sent(original, (fd, data, length, flags), (std::ptr::null(), 0)),
        }
    }
    sendto(fd: c_int, data: *const c_void, length: size_t, flags: c_int, to: *const sockaddr,
           room: socklen_t) -> ssize_t, or (plain(libc::SYS_sendto, [fd as usize, data as usize, length as usize, flags as usize, to as usize, room as usize])) {
        |original, fd, data, length, flags, to, room| {
            if to.is_null() && flags & messages::SEND_FLAGS == 0 {
                return original();
            }
            sent(original, (fd, data, length, flags), (to, room))
        }
    }
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t, or (plain(libc::SYS_sendmsg, [fd as usize, message as usize, flags as usize, 0, 0, 0])) {
        |original, fd, message, flags| {
            let args = [message as usize, flags as u32 as usize, 0, 0, 0];
            let message = Message(message);
            let addressed = if config::is_smol() && message.is_addressed() { Header::read(&message) } else { None };
            if let Some(Header { name, vector, .. }) = addressed {
                return sent_to(fd, &vector, flags, address_at(&name), original);
            }
            let answer = ops::send_message(fd, &message, flags).or(|| messages::send_message(fd, &message, flags));
            act(answer, || native(libc::SYS_sendmsg, fd, args), original)
        }
    }
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t, or (plain(libc::SYS_recvmsg, [fd as usize, message as usize, flags as usize, 0, 0, 0])) {
        |original, fd, message, flags| {
            let given = Message(message);
            let answer = ops::receive_message(fd, &given, flags).or(|| messages::receive_message(fd, &given, flags));
            act(answer, || receive_natively(fd, message, flags, original), original)
        }
    }
    sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, or (plain(libc::SYS_sendmmsg, [fd as usize, messages as usize, count as usize, flags as usize, 0, 0])) {
        |original, fd, messages, count, flags| {
            if config::is_smol() {
                return sent_unasked(original, fd, (messages as usize, count), flags);
            }
            act(many::send(fd, (messages as usize, count), flags), || fail(libc::ENOSYS), original)
        }
    }
    recvmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, time: *mut timespec) -> c_int, or (plain(libc::SYS_recvmmsg, [fd as usize, messages as usize, count as usize, flags as usize, time as usize, 0])) {
        |original, fd, messages, count, flags, time| {
            let answer = many::receive(fd, (messages as usize, count), flags, time as usize);
            if let (Answer::Value(done), true) = (answer, config::is_smol() && !many::is_no_time(time as usize)) {
                return done as c_int + received_more(fd, (messages as usize, count), flags, done as c_uint);
            }
            act(answer, || fail(libc::ENOSYS), original)
        }
    }
}
