//! Memory that programs may see and not change. An unsafe room: it maps a file of ours, sealed against others'
//! writing (F_SEAL_FUTURE_WRITE, fcntl(2)), as atomic words.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};

/// A mapping of a file that others can map for reading only.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<AtomicU32>,
    words: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to no thread, and every access to it is atomic.
unsafe impl Send for Memory {}

impl Memory {
    /// As many words, all 0; pages take memory once they are written to.
    pub(super) fn new(words: usize) -> Result<Self, Errno> {
        let errno = super::unix::errno;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("board", flags | MemfdFlags::NOEXEC_SEAL)
            // Linux 6.3 knows that flag, and some machines insist on it (vm.memfd_noexec).
            .or_else(|_| rustix::fs::memfd_create("board", flags))
            .map_err(errno)?;
        let length = words * size_of::<AtomicU32>();
        rustix::fs::ftruncate(&file, length as u64).map_err(errno)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), length, rights, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let base = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
        let memory = Self { base, words, file };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory.file, seals).map_err(errno)?;
        Ok(memory)
    }

    /// The words.
    pub(super) fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is that long, aligned as it begins with a page, cannot shrink, and lives as long as
        // `self`; whoever has it accesses it by atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// The file.
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody has its words any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * size_of::<AtomicU32>()) };
    }
}
