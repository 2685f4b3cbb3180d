//! The exported functions, and whatever of theirs needs a pointer: the unsafe room of this library.
//!
//! # Theory of operation
//! Each function that stands before libc's asks [`crate::ops`] and does what it says. Pointers of the program are
//! not believed: those near the stack pointer are of memory that is there, others the kernel looks at first, as
//! it would in the call itself, so that a bad one is EFAULT. System calls are made without libc, which keeps
//! `errno` as it was, and with [`msocket_proto::proto::EXEMPT`] above the descriptor, where they are not to be trapped.

#![allow(unsafe_code)]

#[cfg(not(test))]
mod absent;
mod sys;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::transmute_copy;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{msghdr, size_t, sockaddr, socklen_t, ssize_t};
use msocket_proto::board::Address;

use crate::ops::Answer;
use crate::{config, files, ops};

pub(crate) use sys::{
    Asked, Buffer, Data, Message, Room, Which, adopt, ask, ask_at, map_from_supervisor, mapped, native_name,
    pid, receive, send, wait,
};
use sys::{can_read, close, exempt, fail, is_nonblocking, syscall, told};

/// The program's path, if it is absolute.
fn path_at<'a>(path: *const c_char) -> Option<&'a [u8]> {
    if path.is_null() || !can_read(path as usize, 1) {
        return None;
    }
    // SAFETY: its first byte can be read, and if that is a slash it is a path, which ends.
    unsafe { (*path == b'/' as c_char).then(|| CStr::from_ptr(path).to_bytes()) }
}

/// open(2)
fn opened(path: *const c_char, flags: c_int, original: &dyn Fn() -> c_int) -> c_int {
    const OTHERS: c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_PATH | libc::O_NOFOLLOW;
    let answer = match path_at(path) {
        Some(path) if config::is_view() && flags & OTHERS == libc::O_RDONLY => files::open(path),
        _ => Answer::Original,
    };
    let file = act(answer, || fail(libc::ENOSYS), original);
    if matches!(answer, Answer::Value(_)) && flags & libc::O_CLOEXEC == 0 {
        // SAFETY: no pointers.
        unsafe { syscall(libc::SYS_fcntl, [file as usize, libc::F_SETFD as usize, 0, 0, 0, 0]) };
    }
    file
}

/// stat(2) and the like: what `ask` finds out of the file.
fn looked(path: *const c_char, ask: impl Fn(c_int) -> isize, original: &dyn Fn() -> c_int) -> c_int {
    let answer = path_at(path).filter(|path| files::is_ours(path)).map_or(Answer::Original, files::open);
    let Answer::Value(file) = answer else { return act(answer, || fail(libc::ENOSYS), original) };
    let result = ask(file as c_int);
    close(file as c_int);
    told(result).unwrap_or_else(fail) as c_int
}

/// fstat(2) into the program's buffer.
fn fstat(file: c_int, to: *mut c_void) -> isize {
    // SAFETY: the kernel checks the pointer.
    unsafe { syscall(libc::SYS_fstat, [file as usize, to as usize, 0, 0, 0, 0]) }
}

/// fopen(3) of a stream for reading.
fn streamed(path: *const c_char, mode: *const c_char, original: &dyn Fn() -> Stream) -> Stream {
    // SAFETY: the mode is a string, as fopen(3) demands.
    let mode_bytes = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let reads = mode_bytes.first() == Some(&b'r') && !mode_bytes.contains(&b'+');
    let answer = match path_at(path) {
        Some(path) if config::is_view() && reads => files::open(path),
        _ => Answer::Original,
    };
    match answer {
        Answer::Value(file) => {
            if !mode_bytes.contains(&b'e') {
                // SAFETY: no pointers.
                unsafe { syscall(libc::SYS_fcntl, [file as usize, libc::F_SETFD as usize, 0, 0, 0, 0]) };
            }
            // SAFETY: a descriptor of ours, which the stream takes over.
            Stream(unsafe { libc::fdopen(file as c_int, mode) }.cast())
        }
        Answer::Fail(errno) => {
            fail(errno);
            Stream(null_mut())
        }
        _ => original(),
    }
}

/// opendir(3)
fn listed(path: *const c_char, original: &dyn Fn() -> Stream) -> Stream {
    let answer = path_at(path).filter(|path| files::is_ours(path)).map_or(Answer::Original, files::open);
    match answer {
        // SAFETY: a descriptor of ours, which the stream takes over.
        Answer::Value(file) => Stream(unsafe { libc::fdopendir(file as c_int) }.cast()),
        Answer::Fail(errno) => {
            fail(errno);
            Stream(null_mut())
        }
        _ => original(),
    }
}

/// `FILE *`, `DIR *`, `char *`
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Stream(*mut c_void);
/// libc's function of a name, or that of the next library which stands before it.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    fn find(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        // SAFETY: a string with a NUL at its end.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// # Safety
    /// `F` is the function's type.
    unsafe fn get<F: Copy>(&self) -> Option<F> {
        let found = self.find();
        // SAFETY: see above; a function's pointer is one.
        (!found.is_null()).then(|| unsafe { transmute_copy::<*mut c_void, F>(&found) })
    }
}

/// What a function returns when it fails.
trait Failed {
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

impl Failed for Stream {
    fn failed(errno: i32) -> Self {
        fail(errno);
        Self(null_mut())
    }
}

/// The exported functions: each has the type that libc's header gives it.
macro_rules! hooks {
    ($($name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty { $body:expr })*) => {
        /// What [`set_up`] looks for.
        mod next {
            use super::Next;
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
                        None => Failed::failed(libc::ENOSYS),
                    }
                };
                let body: fn(&dyn Fn() -> $result, $($type),*) -> $result = $body;
                body(&original, $($arg),*)
            }
        )*
    };
}

/// Does as it was decided.
#[inline(always)]
fn act<T>(answer: Answer, native: impl FnOnce() -> isize, original: &dyn Fn() -> T) -> T
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

fn address_at(to: *const sockaddr, length: socklen_t) -> Option<Address> {
    let length = length as usize;
    if to.is_null() || !(2..=128).contains(&length) || !can_read(to as usize, length) {
        return None;
    }
    // SAFETY: so much can be read.
    Address::internet(unsafe { std::slice::from_raw_parts(to.cast(), length) })
}

fn received(
    original: &dyn Fn() -> ssize_t,
    (fd, base, length, flags): (c_int, *mut c_void, size_t, c_int),
    (from, room): (*mut sockaddr, *mut socklen_t),
) -> ssize_t {
    if from.is_null() {
        return original();
    }
    let room = Room { address: from.cast(), length: room };
    act(ops::receive(fd, &Data { base, length }, flags, &room), || fail(libc::ENOSYS), original)
}

/// A request about an interface on a socket of the stack's, as libc makes it on one of its own.
fn interface(request: &mut libc::ifreq, number: libc::Ioctl) -> Result<isize, i32> {
    let fd = match ops::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
        Answer::Value(fd) => fd as c_int,
        Answer::Fail(errno) => return Err(errno),
        Answer::Original | Answer::Native => return Err(libc::ENETDOWN),
    };
    let args = [fd as usize, number as usize, &raw mut *request as usize, 0, 0, 0];
    // SAFETY: a pointer of ours.
    let asked = told(unsafe { syscall(libc::SYS_ioctl, args) });
    close(fd);
    asked
}

/// if_nametoindex(3); 0 is none.
fn index_of(name: *const c_char) -> c_int {
    // SAFETY: all its members may be 0.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: a string, as if_nametoindex(3) demands.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes_with_nul();
    let asked = if name.len() <= request.ifr_name.len() {
        for (to, byte) in request.ifr_name.iter_mut().zip(name) {
            *to = *byte as c_char;
        }
        interface(&mut request, libc::SIOCGIFINDEX)
    } else {
        Err(libc::ENODEV)
    };
    match asked {
        // SAFETY: the kernel has written it.
        Ok(_) => unsafe { request.ifr_ifru.ifru_ifindex },
        Err(errno) => fail(errno) as c_int + 1,
    }
}

/// if_indextoname(3), which says ENXIO where the kernel says ENODEV.
fn name_at(index: c_uint, room: *mut c_char) -> Stream {
    // SAFETY: all its members may be 0.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index as c_int;
    match interface(&mut request, libc::SIOCGIFNAME) {
        Ok(_) => {
            // SAFETY: room for IF_NAMESIZE bytes, as if_indextoname(3) demands.
            unsafe { room.copy_from_nonoverlapping(request.ifr_name.as_ptr(), request.ifr_name.len()) };
            Stream(room.cast())
        }
        Err(errno) => Stream::failed(if errno == libc::ENODEV { libc::ENXIO } else { errno }),
    }
}

hooks! {
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        |original, domain, kind, protocol| {
            act(ops::socket(domain, kind, protocol), || fail(libc::ENOSYS), original)
        }
    }
    if_indextoname(index: c_uint, room: *mut c_char) -> Stream {
        |original, index, room| if config::is_alone() { name_at(index, room) } else { original() }
    }
    if_nametoindex(name: *const c_char) -> c_int {
        |original, name| if config::is_alone() { index_of(name) } else { original() }
    }
    getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        |original, fd, address, length| {
            let answer = ops::name(fd, Which::Local, &Room { address: address.cast(), length });
            let args = [address as usize, length as usize, 0, 0, 0];
            act(answer, || native(libc::SYS_getsockname, fd, args), original)
        }
    }
    getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int {
        |original, fd, address, length| {
            let answer = ops::name(fd, Which::Peer, &Room { address: address.cast(), length });
            let args = [address as usize, length as usize, 0, 0, 0];
            act(answer, || native(libc::SYS_getpeername, fd, args), original)
        }
    }
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t) -> c_int {
        |original, fd, level, name, value, length| {
            let answer = ops::option(fd, level, name, &Room { address: value.cast(), length });
            let args = [level as usize, name as usize, value as usize, length as usize, 0];
            act(answer, || native(libc::SYS_getsockopt, fd, args), original)
        }
    }
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t) -> c_int {
        |original, fd, level, name, value, length| {
            let args = [level as usize, name as usize, value as usize, length as usize, 0];
            act(ops::set_option(fd), || native(libc::SYS_setsockopt, fd, args), original)
        }
    }
    recvfrom(fd: c_int, data: *mut c_void, length: size_t, flags: c_int, from: *mut sockaddr,
             room: *mut socklen_t) -> ssize_t {
        |original, fd, data, length, flags, from, room| {
            received(original, (fd, data, length, flags), (from, room))
        }
    }
    __recvfrom_chk(fd: c_int, data: *mut c_void, length: size_t, size: size_t, flags: c_int,
                   from: *mut sockaddr, room: *mut socklen_t) -> ssize_t {
        |original, fd, data, length, size, flags, from, room| {
            if length > size { original() } else { received(original, (fd, data, length, flags), (from, room)) }
        }
    }
    sendto(fd: c_int, data: *const c_void, length: size_t, flags: c_int, to: *const sockaddr,
           room: socklen_t) -> ssize_t {
        |original, fd, base, length, flags, to, room| {
            if to.is_null() {
                return original();
            }
            let data = Data { base: base.cast_mut(), length };
            let asked = match ops::send(fd, &data, flags, address_at(to, room)) {
                Ok(count) => return count,
                Err(asked) => asked,
            };
            let sent = original();
            if let Some(errand) = asked.filter(|_| sent >= 0) {
                errand.remember();
            }
            sent
        }
    }
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        |original, fd, message, flags| {
            let args = [message as usize, flags as u32 as usize, 0, 0, 0];
            let answer = ops::send_message(fd, &Message(message), flags);
            act(answer, || native(libc::SYS_sendmsg, fd, args), original)
        }
    }
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        |original, fd, message, flags| {
            let answer = ops::receive_message(fd, &Message(message), flags);
            act(answer, || receive_natively(fd, message, flags, original), original)
        }
    }
    open(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        |original, path, flags, _mode| opened(path, flags, original)
    }
    open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        |original, path, flags, _mode| opened(path, flags, original)
    }
    __open_2(path: *const c_char, flags: c_int) -> c_int {
        |original, path, flags| opened(path, flags, original)
    }
    __open64_2(path: *const c_char, flags: c_int) -> c_int {
        |original, path, flags| opened(path, flags, original)
    }
    openat(at: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        |original, _at, path, flags, _mode| opened(path, flags, original)
    }
    openat64(at: c_int, path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
        |original, _at, path, flags, _mode| opened(path, flags, original)
    }
    fopen(path: *const c_char, mode: *const c_char) -> Stream {
        |original, path, mode| streamed(path, mode, original)
    }
    fopen64(path: *const c_char, mode: *const c_char) -> Stream {
        |original, path, mode| streamed(path, mode, original)
    }
    opendir(path: *const c_char) -> Stream {
        |original, path| listed(path, original)
    }
    access(path: *const c_char, how: c_int) -> c_int {
        |original, path, how| match how & (libc::W_OK | libc::X_OK) {
            0 => looked(path, |_| 0, original),
            _ => original(),
        }
    }
    stat(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, |file| fstat(file, to), original)
    }
    stat64(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, |file| fstat(file, to), original)
    }
}

/// The library's constructor.
extern "C" fn set_up() {
    let variable = |name: &CStr| {
        // SAFETY: a string with a NUL at its end; nobody changes the environment while libraries are loaded.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        // SAFETY: what getenv(3) gives is a string.
        (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_bytes())
    };
    config::set(variable(config::VARIABLE));
    config::set_stack(variable(config::STACK));
    if config::is_view() || config::is_alone() {
        // Now, as dlsym(3) takes a lock, and later may be a signal handler or a child between fork and exec.
        for next in next::ALL {
            next.find();
        }
    }
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static SET_UP: extern "C" fn() = set_up;
