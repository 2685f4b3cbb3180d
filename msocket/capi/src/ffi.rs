//! The unsafe room of libmsocket: the functions of `msocket.h`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::boundary::boundary;

/// The library's constructor. Now, as dlsym(3) takes a lock, and later may be a signal handler or a child between fork
/// and exec.
extern "C" fn set_up() {
    for next in interpose::hooks::all() {
        next.find();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static SET_UP: extern "C" fn() = set_up;

/// Of socket.h's types none: msocket() sets a default.
const SOCK_DEFAULT: c_int = 0;

/// msocket(3)
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn msocket(path: *const c_char, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    boundary(-1, || {
        // SAFETY: the caller's word.
        let path = unsafe { string(path) }.map(|bytes| Path::new(OsStr::from_bytes(bytes)));
        if kind == SOCK_DEFAULT {
            return client::set_default_interposed(path, domain).map(|()| 0);
        }
        client::msocket_interposed(path, domain, kind, protocol).map(IntoRawFd::into_raw_fd)
    })
}

/// `struct msocket_stack`
#[derive(Debug)]
struct OwnStack {
    path: CString,
    /// Ends with it.
    _stack: client::Stack,
}

/// msocket_stack_open(3)
///
/// # Safety
/// `config` is null or a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn msocket_stack_open(config: *const c_char) -> *mut OwnStack {
    boundary(std::ptr::null_mut(), || {
        // SAFETY: the caller's word.
        let config = unsafe { string(config) }.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let stack = client::Stack::create(config.ok_or(Errno::EINVAL)?).map_err(|error| errno_of(&error))?;
        let path = CString::new(stack.path().as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        Ok(Box::into_raw(Box::new(OwnStack { path, _stack: stack })))
    })
}

/// msocket_stack_path(3)
///
/// # Safety
/// `stack` is null or what msocket_stack_open gave, and not closed yet.
#[unsafe(no_mangle)]
unsafe extern "C" fn msocket_stack_path(stack: *const OwnStack) -> *const c_char {
    boundary(std::ptr::null(), || {
        // SAFETY: null, or by the caller's word a stack that is open.
        let stack = unsafe { stack.as_ref() }.ok_or(Errno::EINVAL)?;
        Ok(stack.path.as_ptr())
    })
}

/// msocket_stack_close(3)
///
/// # Safety
/// As msocket_stack_path; afterwards it is closed.
#[unsafe(no_mangle)]
unsafe extern "C" fn msocket_stack_close(stack: *mut OwnStack) -> c_int {
    boundary(-1, || {
        if stack.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: by the caller's word it came from msocket_stack_open, which boxed it.
        drop(unsafe { Box::from_raw(stack) });
        Ok(0)
    })
}

/// What a C program is told of a stack that cannot be made: what is no errno is the configuration's fault.
fn errno_of(error: &std::io::Error) -> Errno {
    match error.kind() {
        std::io::ErrorKind::NotFound => Errno::ENOENT,
        std::io::ErrorKind::PermissionDenied => Errno::EACCES,
        _ => error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw),
    }
}

/// The bytes of a C string, none of a null pointer.
///
/// # Safety
/// `pointer` is null or a string that outlives what is returned.
unsafe fn string<'a>(pointer: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: not null, so the caller says that it is a string.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes())
}
