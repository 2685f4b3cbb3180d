//! The exported functions about files, interfaces and new sockets: the unsafe room of this library.
//!
//! Those on sockets that a program has are `interpose`'s.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;

use interpose::hooks::{Failed, act};
use interpose::ops::{self, Answer};
use interpose::sys::{can_read, close, fail, syscall, told};
use interpose::{config, hooks, ioctl};
use libc::{size_t, ssize_t};

use crate::files::{self, For};

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
    const OTHERS: c_int = libc::O_CREAT | libc::O_PATH | libc::O_NOFOLLOW;
    let answer = match path_at(path).filter(|_| config::is_view()) {
        Some(path) if flags & (libc::O_ACCMODE | OTHERS) == libc::O_RDONLY => files::open(path, For::Reading),
        Some(path) if flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0 => {
            files::refuse(path)
        }
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
fn looked<T: TryFrom<isize> + Default>(
    path: *const c_char,
    how: For,
    ask: impl Fn(c_int) -> isize,
    original: &dyn Fn() -> T,
) -> T {
    let path = path_at(path).filter(|_| config::is_view());
    let answer = path.map_or(Answer::Original, |path| files::open(path, how));
    let Answer::Value(file) = answer else { return act(answer, || fail(libc::ENOSYS), original) };
    let result = ask(file as c_int);
    close(file as c_int);
    T::try_from(told(result).unwrap_or_else(fail)).unwrap_or_default()
}

/// Whether stat(2)'s other forms follow symbolic links.
fn following(flags: c_int) -> For {
    if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { For::Looking } else { For::Itself }
}

/// fstat(2) into the program's buffer.
fn fstat(file: c_int, to: *mut c_void) -> isize {
    // SAFETY: the kernel checks the pointer.
    unsafe { syscall(libc::SYS_fstat, [file as usize, to as usize, 0, 0, 0, 0]) }
}

/// statx(2) into the program's buffer.
fn statx_of(file: c_int, flags: c_int, mask: c_uint, to: *mut c_void) -> isize {
    let flags = flags | libc::AT_EMPTY_PATH;
    let args = [file as usize, c"".as_ptr() as usize, flags as usize, mask as usize, to as usize, 0];
    // SAFETY: the kernel checks the program's pointer.
    unsafe { syscall(libc::SYS_statx, args) }
}

/// readlink(2) into the program's buffer.
fn readlink_of(file: c_int, to: *mut c_char, room: size_t) -> isize {
    // SAFETY: the kernel checks the program's pointer.
    let read = unsafe {
        syscall(libc::SYS_readlinkat, [file as usize, c"".as_ptr() as usize, to as usize, room, 0, 0])
    };
    // Of what is no link the kernel says ENOENT here, and EINVAL of a path.
    if read == -libc::ENOENT as isize { -libc::EINVAL as isize } else { read }
}

/// access(2)
fn accessible(path: *const c_char, how: c_int, original: &dyn Fn() -> c_int) -> c_int {
    match how & (libc::W_OK | libc::X_OK) {
        0 => looked(path, For::Looking, |_| 0, original),
        _ => original(),
    }
}

/// fopen(3) of a stream for reading.
fn streamed(path: *const c_char, mode: *const c_char, original: &dyn Fn() -> Stream) -> Stream {
    // SAFETY: the mode is a string, as fopen(3) demands.
    let mode_bytes = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let reads = mode_bytes.first() == Some(&b'r') && !mode_bytes.contains(&b'+');
    let answer = match path_at(path).filter(|_| config::is_view()) {
        Some(path) if reads => files::open(path, For::Reading),
        Some(path) => files::refuse(path),
        None => Answer::Original,
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
    let path = path_at(path).filter(|_| config::is_view());
    match path.map_or(Answer::Original, |path| files::open(path, For::Reading)) {
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
impl Failed for Stream {
    fn failed(errno: i32) -> Self {
        fail(errno);
        Self(null_mut())
    }
}

/// A request about an interface on a socket of the stack's, as libc makes it on one of its own.
fn interface(request: &mut libc::ifreq, number: libc::Ioctl) -> Result<isize, i32> {
    let fd = match ops::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
        Answer::Value(fd) => fd as c_int,
        Answer::Fail(errno) => return Err(errno),
        Answer::Original | Answer::Native => return Err(libc::ENETDOWN),
    };
    let address = &raw mut *request as usize;
    let args = [fd as usize, number as usize, address, 0, 0, 0];
    let asked = match ioctl::ioctl(fd, number as u32, address) {
        Answer::Value(value) => Ok(value),
        Answer::Fail(errno) => Err(errno),
        // SAFETY: a pointer of ours.
        Answer::Original | Answer::Native => told(unsafe { syscall(libc::SYS_ioctl, args) }),
    };
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
        |original, path, how| accessible(path, how, original)
    }
    faccessat(at: c_int, path: *const c_char, how: c_int, flags: c_int) -> c_int {
        |original, _at, path, how, _flags| accessible(path, how, original)
    }
    stat(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, For::Looking, |file| fstat(file, to), original)
    }
    stat64(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, For::Looking, |file| fstat(file, to), original)
    }
    lstat(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, For::Itself, |file| fstat(file, to), original)
    }
    lstat64(path: *const c_char, to: *mut c_void) -> c_int {
        |original, path, to| looked(path, For::Itself, |file| fstat(file, to), original)
    }
    fstatat(at: c_int, path: *const c_char, to: *mut c_void, flags: c_int) -> c_int {
        |original, _at, path, to, flags| looked(path, following(flags), |file| fstat(file, to), original)
    }
    fstatat64(at: c_int, path: *const c_char, to: *mut c_void, flags: c_int) -> c_int {
        |original, _at, path, to, flags| looked(path, following(flags), |file| fstat(file, to), original)
    }
    statx(at: c_int, path: *const c_char, flags: c_int, mask: c_uint, to: *mut c_void) -> c_int {
        |original, _at, path, flags, mask, to| {
            looked(path, following(flags), |file| statx_of(file, flags, mask, to), original)
        }
    }
    readlink(path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        |original, path, to, room| looked(path, For::Itself, |file| readlink_of(file, to, room), original)
    }
    readlinkat(at: c_int, path: *const c_char, to: *mut c_char, room: size_t) -> ssize_t {
        |original, _at, path, to, room| looked(path, For::Itself, |file| readlink_of(file, to, room), original)
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
        for next in hooks::all().chain(next::ALL.iter().copied()) {
            next.find();
        }
    }
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static SET_UP: extern "C" fn() = set_up;
