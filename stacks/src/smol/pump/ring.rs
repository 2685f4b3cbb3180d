//! The shell's side of a packet socket's ring: its memory, and the bell in the program's end.
//!
//! # Theory of operation
//! The memory is a memfd(2) that is sealed against shrinking, so that nobody's access to it can fail; the program has
//! it mapped instead of its socket. We only write(2) and read(2) it, which keeps us out of what the program does to
//! it meanwhile.
//!
//! The bell is an empty datagram in the program's end, which polls as readable by it. To take it back we have to read it
//! there, by a duplicate of the program's end for as long as that takes: only its owner can read a socket's queue.
//! When to look whether it is to be taken back is a matter of microseconds, so each ring has a timer of its own.
//! Programs that forked since their last call are looked for among all processes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::SocketType;

use super::super::call::Caller;
use super::super::engine::{Engine, SocketId};
use super::super::sockets::ring::{Bell, Memory};
use super::Shared;
use super::stream::find_program_end;
use super::unix::{self, Address, errno};

/// Most bells taken back at once: more than there is room for in a program's end.
const BELLS: usize = 4096;

/// No time at all would stop the timer.
const SHORTEST: Duration = Duration::from_micros(1);

/// A ring's memory.
#[derive(Debug, Clone)]
struct Pages(Arc<File>);

/// The ring of a program's socket.
#[derive(Debug)]
pub(in super::super) struct Ring {
    pages: Pages,
    /// When to look after the bell.
    timer: TimerFd,
    due: Option<Instant>,
    /// Who has the socket, if it is not whose call we saw last.
    holder: Option<i32>,
}

impl Memory for Pages {
    fn load(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.0.read_exact_at(&mut word, at).map_or(1, |()| u32::from_ne_bytes(word))
    }

    fn store(&self, at: u64, bytes: &[u8]) -> bool {
        self.0.write_all_at(bytes, at).is_ok()
    }
}

impl Ring {
    /// A ring of so many bytes, all zero, and its memory for the engine. EINVAL: no bell could be taken back.
    pub(in super::super) fn new(
        size: u64,
        (caller, inode): (&Caller, u64),
        (token, shared): (u64, &Shared),
    ) -> Result<(Self, Box<dyn Memory>), Errno> {
        find_program_end(caller, inode).ok_or(Errno::EINVAL)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = match memfd_create("packet-ring", flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(rustix::io::Errno::INVAL) => memfd_create("packet-ring", flags),
            other => other,
        };
        let file = file.map_err(errno)?;
        ftruncate(&file, size).map_err(errno)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW).map_err(errno)?;
        let pages = Pages(Arc::new(File::from(file)));
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // Told once each time, so that nobody has to read it.
        shared.epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token))?;
        Ok((Self { pages: pages.clone(), timer, due: None, holder: None }, Box::new(pages)))
    }

    /// What the program is to have mapped.
    pub(in super::super) fn file(&self) -> BorrowedFd<'_> {
        self.pages.0.as_fd()
    }

    /// Whether the program, or a child, has it mapped. If not, nothing can be written there any more.
    pub(in super::super) fn is_mapped(&self) -> bool {
        fcntl_add_seals(self.file(), SealFlags::WRITE).is_err()
    }

    /// Rings the bell, or takes it back, as the ring's status says. False: the program has closed its end.
    pub(super) fn tend(
        &mut self,
        now: Instant,
        id: SocketId,
        (ours, address): (&OwnedFd, &Address),
        (caller, inode): (&Caller, u64),
        engine: &mut Engine,
    ) -> bool {
        let alive = self.follow(now, id, (ours, address), (caller, inode), engine);
        let due = engine.bell_timeout(id);
        if due != self.due {
            let wait = due.map(|at| at.saturating_duration_since(now).max(SHORTEST));
            let _ = match wait {
                Some(wait) => self.timer.set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty()),
                None => self.timer.unset(),
            };
            self.due = due;
        }
        alive
    }

    fn follow(
        &mut self,
        now: Instant,
        id: SocketId,
        (ours, address): (&OwnedFd, &Address),
        (caller, inode): (&Caller, u64),
        engine: &mut Engine,
    ) -> bool {
        match engine.poll_bell(now, id) {
            // If there is no room for another one there is one.
            Some(Bell::Ring) => unix::write(ours, &[]) != Err(Errno::ECONNREFUSED),
            Some(Bell::Hush) => {
                let of = |pid| find_program_end(&Caller { pid, ..*caller }, inode);
                let mut program = of(self.holder.unwrap_or(caller.pid));
                if program.is_none() {
                    // Most often it is closed.
                    if !address.is_alive(SocketType::DGRAM) {
                        return false;
                    }
                    self.holder = all_processes().find(|pid| of(*pid).is_some());
                    program = self.holder.and_then(of);
                }
                match program {
                    Some(program) => hush(&program),
                    None => engine.keep_bell(now, id),
                }
                true
            }
            None => true,
        }
    }
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Takes everything out of a program's end.
pub(in super::super) fn hush(program: &impl AsFd) {
    for _ in 0..BELLS {
        if unix::read(program, &mut [0]).is_err() {
            return;
        }
    }
}
