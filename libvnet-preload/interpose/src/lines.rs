//! Lines to the hosts of stacks in a library, for programs that have sockets of theirs and no supervisor.
//!
//! # Theory of operation
//! A socket's AF_UNIX name has its host's secret, and that is the name at which the host lets programs in
//! ([`msocket_proto::board`]). A line has one call at a time: who finds none that is free (other threads wait in
//! theirs; a signal handler has met its own thread in a call) makes one more, so that nobody waits for anybody, no lock
//! is held over fork(2), and a call that is left by longjmp(3) costs a line and no more. A few lines are kept for
//! the next call, each by the process that made it: a child knows by the number of its process that a line is its
//! parent's, and closes its copy. A line whose descriptor is no longer what it was (programs close all that they do
//! not know) is the program's by now, and left alone.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use msocket_proto::board::{PREFIX, SECRET};

use crate::sys::{self, line};

/// Most lines that are kept: of a program whose threads wait, most wait on few sockets. Others are made for a call.
const MAX_KEPT: usize = 16;
/// How long a host may take to say something, in seconds, before it counts as gone. Nobody waits for it but the caller.
const PATIENCE: i64 = 10;
/// States of a place: nobody's; with a line that is free; somebody is at it. The process is in the upper half.
const FREE: u64 = 1;
const TAKEN: u64 = 2;

/// The secret of a host, as words.
pub(crate) type Key = [u64; SECRET / 8];

/// A place for a line.
struct Place {
    state: AtomicU64,
    key: [AtomicU64; SECRET / 8],
    fd: AtomicI32,
    inode: AtomicU64,
}

static PLACES: [Place; MAX_KEPT] = [const {
    Place {
        state: AtomicU64::new(0),
        key: [const { AtomicU64::new(0) }; SECRET / 8],
        fd: AtomicI32::new(-1),
        inode: AtomicU64::new(0),
    }
}; MAX_KEPT];

/// A line that a call has.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) fd: i32,
    /// Its number among the kept ones.
    place: Option<usize>,
    /// It was kept, and so may have been closed meanwhile by the host.
    pub(crate) used: bool,
}

impl Line {
    /// A line to the host with that secret. ENETDOWN: it has gone.
    pub(crate) fn to(key: Key) -> Result<Self, i32> {
        let pid = u64::from(sys::pid()) << 32;
        let mut empty = None;
        for (number, place) in PLACES.iter().enumerate() {
            let state = place.state.load(Ordering::Relaxed);
            if state == pid | FREE && place.has(key) {
                if place.take(state, pid) {
                    let fd = place.fd.load(Ordering::Relaxed);
                    if place.is_intact(fd) {
                        return Ok(Self { fd, place: Some(number), used: true });
                    }
                    return Self::open(key, Some(number), pid);
                }
            } else if state & !0xffff_ffff != pid || state & 3 == 0 {
                empty = empty.or(Some((number, state)));
            }
        }
        // In the place of another host's, if all are full.
        let free = || {
            let found = PLACES.iter().map(|place| place.state.load(Ordering::Relaxed));
            found.enumerate().find(|(_, state)| *state == pid | FREE)
        };
        match empty.or_else(free) {
            Some((number, state)) if PLACES[number].take(state, pid) => {
                PLACES[number].clear();
                Self::open(key, Some(number), pid)
            }
            _ => Self::open(key, None, pid),
        }
    }

    fn open(key: Key, number: Option<usize>, pid: u64) -> Result<Self, i32> {
        let mut secret = [0_u8; SECRET];
        for (bytes, word) in secret.chunks_exact_mut(8).zip(key) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let made = line::connect(&[&[0], PREFIX, &secret], PATIENCE).map_err(|errno| match errno {
            libc::ECONNREFUSED | libc::ENOENT => libc::ENETDOWN,
            libc::EAGAIN => libc::ENOBUFS,
            errno => errno,
        });
        let place = number.map(|number| &PLACES[number]);
        match made {
            Ok(fd) => {
                line::set_patience(fd, PATIENCE);
                if let Some(place) = place {
                    place.key.iter().zip(key).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
                    place.inode.store(line::inode(fd), Ordering::Relaxed);
                    place.fd.store(fd, Ordering::Relaxed);
                }
                Ok(Self { fd, place: number, used: false })
            }
            Err(errno) => {
                if let Some(place) = place {
                    place.state.store(pid, Ordering::Release);
                }
                Err(errno)
            }
        }
    }

    /// From now on a packet may take as long as it likes; with a limit, no signal is passed over (signal(7)).
    pub(crate) fn wait_long(&self, timed: bool) {
        // A limit that nobody lives to see.
        line::set_patience(self.fd, if timed { 1 << 30 } else { 0 });
    }

    /// A packet is to come soon.
    pub(crate) fn wait_shortly(&self) {
        line::set_patience(self.fd, PATIENCE);
    }

    /// The call is over.
    pub(crate) fn keep(self) {
        match self.place {
            Some(number) => {
                let state = &PLACES[number].state;
                state.store(state.load(Ordering::Relaxed) & !0xffff_ffff | FREE, Ordering::Release);
            }
            None => sys::close(self.fd),
        }
    }

    /// The line is of no more use.
    pub(crate) fn drop(self) {
        sys::close(self.fd);
        if let Some(number) = self.place {
            PLACES[number].inode.store(0, Ordering::Relaxed);
            let state = &PLACES[number].state;
            state.store(state.load(Ordering::Relaxed) & !0xffff_ffff, Ordering::Release);
        }
    }
}

impl Place {
    fn has(&self, key: Key) -> bool {
        self.key.iter().zip(key).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }

    fn take(&self, state: u64, pid: u64) -> bool {
        self.state.compare_exchange(state, pid | TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Closes what was here before.
    fn clear(&self) {
        let fd = self.fd.swap(-1, Ordering::Relaxed);
        if fd >= 0 && self.is_intact(fd) {
            sys::close(fd);
        }
        self.inode.store(0, Ordering::Relaxed);
    }

    /// Whether the descriptor is what it was.
    fn is_intact(&self, fd: i32) -> bool {
        let inode = self.inode.load(Ordering::Relaxed);
        inode != 0 && line::inode(fd) == inode
    }
}
