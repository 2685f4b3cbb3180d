//! The unsafe room of libmsocket: the functions of `msocket.h`.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::boundary::boundary;

/// Of socket.h's types none: msocket() sets a default.
const SOCK_DEFAULT: c_int = 0;

/// msocket(3)
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msocket(path: *const c_char, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    boundary(-1, || {
        // SAFETY: the caller's word.
        let path = unsafe { string(path) }.map(|bytes| Path::new(OsStr::from_bytes(bytes)));
        if kind == SOCK_DEFAULT {
            return client::set_default(path, domain).map(|()| 0);
        }
        client::msocket(path, domain, kind, protocol).map(IntoRawFd::into_raw_fd)
    })
}

/// The bytes of a C string, none of a null pointer.
///
/// # Safety
/// `pointer` is null or a string that outlives what is returned.
unsafe fn string<'a>(pointer: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: not null, so the caller says that it is a string.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes())
}
