//! Memory that another process shares with us and may change at any time. One function, one access.
//!
//! # Theory of operation
//! An unsafe room: it maps a file and lets bytes and 64-bit words be copied in and out, within bounds that the
//! peer cannot move. No reference to a plain byte of the memory ever leaves this file, as such bytes change
//! under whoever looks at them; words are atomics, which may. Policy lives in [`super::ring`], which also makes
//! sure that the file cannot shrink: an access beyond its end would be a SIGBUS.
//!
//! Copying bytes that somebody changes meanwhile gives any mixture of old and new ones; nobody here takes them
//! for anything else until they are copied.

#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

/// A shared mapping.
#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and every access to it is a copy or an atomic.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the first `len` bytes of a file, for reading and writing.
    pub(crate) fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, len })
    }

    /// The word at `at`, a multiple of eight.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.len), "in bounds");
        // SAFETY: eight bytes from `at` are inside the mapping, which lives as long as `self`, and aligned, as
        // it begins with a page; all-atomic access makes no promise about what others store there.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Copies bytes from `at` on out.
    #[inline]
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        assert!(at.checked_add(to.len()).is_some_and(|end| end <= self.len), "in bounds");
        // SAFETY: the source is inside the mapping, and `to`, being borrowed, is outside of it.
        unsafe {
            ptr::copy_nonoverlapping(self.base.as_ptr().add(at).cast_const(), to.as_mut_ptr(), to.len())
        }
    }

    /// Copies bytes in, from `at` on.
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at.checked_add(from.len()).is_some_and(|end| end <= self.len), "in bounds");
        // SAFETY: the destination is inside the mapping, and `from`, being borrowed, is outside of it.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.base.as_ptr().add(at), from.len()) }
    }
}

impl Shared {
    /// Gives the pages that are wholly within `range` back to the system; they are zeros from then on.
    pub(crate) fn discard(&self, range: Range<usize>) {
        // SAFETY: no memory is involved.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page) = usize::try_from(page) else { return };
        let start = range.start.next_multiple_of(page);
        let end = range.end.min(self.len) / page * page;
        if start < end {
            // SAFETY: the range is inside the mapping, and to whoever reads it the same as storing zeros. It may fail:
            // then the memory is kept.
            unsafe { libc::madvise(self.base.as_ptr().add(start).cast(), end - start, libc::MADV_REMOVE) };
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
