//! A connected stream: bytes from the program to the engine and back, ends and resets.
//!
//! # Theory of operation
//! | the program | our end sees | the engine is told |
//! | --- | --- | --- |
//! | writes | bytes | the bytes |
//! | sends a byte with MSG_OOB | that byte at the mark | the byte, and that it is urgent |
//! | shutdown(SHUT_WR) | bytes, one byte of junk that stays, RDHUP | shutdown, once all but the junk is read |
//! | close() | bytes, then HUP | the bytes, then close |
//! | close() with bytes unread | HUP, and ECONNRESET from the kernel | close with unread bytes: a reset |
//!
//! | the engine | our end does | the program sees |
//! | --- | --- | --- |
//! | bytes | writes them | bytes |
//! | an urgent byte | writes it with MSG_OOB | SIGURG, POLLPRI, the mark |
//! | the peer's FIN, all bytes given | shutdown(SHUT_WR) | end of file |
//! | reset, timeout | closes with a byte unread | ECONNRESET |
//!
//! Long data goes to our end from the frame that brought it ([`Stream::hand_over`]), if none waits before it; the engine
//! keeps what our end does not take.
//!
//! When both sides have finished, the kernel says HUP although the program has its end still: then we ask whether it
//! has ([`is_abandoned`]).
//!
//! AF_UNIX streams have urgent data themselves (CONFIG_AF_UNIX_OOB), in TCP's words: one urgent byte at its place, at
//! which reads stop. So a read begins at that byte or does not meet it, and it is enough to ask before a read whether
//! it does. [`Mark`] says when that need not be asked.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use rustix::net::Shutdown;

use super::super::call::{Caller, SocketCall};
use super::super::engine::{Engine, SocketId};
use super::abandoned::is_abandoned;
use super::{Found, Shared, unix};

/// Most processes looked at for a connection that is reset: each costs some ten microseconds and more.
const MAX_FAMILY: usize = 64;

/// Most urgent bytes taken in a row: each costs some system calls, and a program can write them as fast.
const URGENT_AT_ONCE: usize = 16;

/// A stream that looks as if it were connecting.
#[derive(Debug)]
pub(in super::super) struct Pending {
    ends: unix::Pending,
    /// The program's end, if the program does not have it yet. Else we keep none: its close must be the last.
    program: Option<OwnedFd>,
    /// The program has closed its end.
    hung_up: bool,
}

impl Pending {
    /// Makes the program's end look so, and watches ours.
    pub(in super::super) fn new(shared: &Shared, token: u64, program: &OwnedFd) -> Result<Self, Errno> {
        // By this the program finds its record on the board; one that was bound has a name already.
        let _ = shared.linked_address(program, token);
        let ends = unix::pend(&shared.rendezvous, program)?;
        shared.watch(&ends.ours, token)?;
        Ok(Self { ends, program: None, hung_up: false })
    }

    /// The program will get its end with the answer of its call.
    pub(in super::super) fn keep(&mut self, program: OwnedFd) {
        self.program = Some(program);
    }

    /// An event.
    pub(super) fn handle_event(&mut self, events: EpollFlags) {
        self.hung_up |= events.contains(EpollFlags::EPOLLHUP);
    }

    /// The program has closed its end: nobody waits for the connection.
    pub(super) fn is_abandoned(&self) -> bool {
        self.hung_up
    }

    /// The connection is there.
    pub(super) fn establish(self, caller: &Caller, inode: u64) -> Result<OwnedFd, Errno> {
        let program = self.program.or_else(|| find_program_end(caller, inode));
        unix::establish(self.ends, program.as_ref())
    }
}

/// Where an urgent byte of the program's may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Anywhere.
    Unknown,
    /// Not in front: something else was there when the kernel last said that there is something, and what is urgent
    /// has come behind it.
    Behind,
    /// There is one: reads stop at it, and then there is more.
    Ahead,
}

/// A connected stream.
#[derive(Debug)]
pub(in super::super) struct Stream {
    ours: OwnedFd,
    /// The program may have written something.
    readable: bool,
    /// Something urgent, perhaps.
    mark: Mark,
    /// Our end may take something.
    writable: bool,
    /// Room in our end is told as an event.
    awaited: bool,
    /// That event came though nobody waited for it.
    needless: bool,
    /// The program may have ended what it writes: that end is read, too.
    ending: bool,
    /// The program has closed its end.
    hung_up: bool,
    /// The program has said that it will write no more; a byte of junk ends what it wrote.
    shut: bool,
    /// The engine knows that.
    finished: bool,
    /// The program knows that the peer will write no more.
    told: bool,
    /// The program has said that it will read no more.
    deaf: bool,
    /// The program closed with something unread.
    unread: bool,
    /// The connection is gone, not in order.
    reset: bool,
}

impl Stream {
    /// A stream over our end, which is watched already.
    pub(in super::super) fn new(ours: OwnedFd) -> Self {
        Self {
            ours,
            readable: true,
            mark: Mark::Unknown,
            writable: true,
            awaited: false,
            needless: false,
            ending: true,
            hung_up: false,
            shut: false,
            finished: false,
            told: false,
            deaf: false,
            unread: false,
            reset: false,
        }
    }

    /// One over a program's end that nothing was done with yet.
    pub(in super::super) fn meet(program: &OwnedFd, token: u64, shared: &Shared) -> Result<Self, Errno> {
        // As above.
        let _ = shared.linked_address(program, token);
        let ours = unix::join(&shared.rendezvous, program)?;
        shared.watch(&ours, token)?;
        Ok(Self::new(ours))
    }

    /// An event.
    pub(super) fn handle_event(&mut self, events: EpollFlags) {
        self.readable |= events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        if events.contains(EpollFlags::EPOLLPRI) {
            self.mark = Mark::Ahead;
        } else if events.contains(EpollFlags::EPOLLIN) {
            self.mark = Mark::Behind;
        }
        self.ending |= events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        if events.contains(EpollFlags::EPOLLOUT) {
            self.needless = self.writable;
            self.writable = true;
        }
        self.hung_up |= events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
    }

    /// Has us woken when there is room again, or no more. Room that came meanwhile is told at once.
    pub(super) fn await_room(&mut self, token: u64, shared: &Shared) {
        let wanted = !self.writable || self.awaited && !self.needless;
        if wanted != self.awaited && shared.await_room(&self.ours, token, wanted).is_ok() {
            self.awaited = wanted;
        }
        self.needless = false;
    }

    /// Bytes that the program wrote and the engine has not taken.
    pub(in super::super) fn waiting(&self) -> usize {
        unix::waiting(&self.ours) - usize::from(self.shut).min(unix::waiting(&self.ours))
    }

    /// The engine knows that the program will write no more.
    pub(in super::super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// The connection has been reset; see [`Self::reset`].
    pub(super) fn was_reset(&self) -> bool {
        self.reset
    }

    /// The program's shutdown(2), on a duplicate of its end. What it wrote before goes first.
    pub(in super::super) fn shut(&mut self, program: &OwnedFd, how: Shutdown) -> Result<(), Errno> {
        let writes = matches!(how, Shutdown::Write | Shutdown::Both);
        self.deaf |= how != Shutdown::Write;
        if writes && !self.shut {
            // Without room for junk a later reset will look like an end.
            self.shut = unix::put_junk(program);
            self.readable = true;
        }
        unix::shut(program, how)
    }

    /// Moves what can be moved; `hide` comes before the program can see that its peer has ended.
    pub(super) fn service(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        engine: &mut Engine,
        hide: &dyn Fn(),
    ) -> Found {
        let mut found = Found::default();
        let status = engine.status(id);
        if self.writable && status.readable > 0 {
            found.moved |= self.give(now, id, status.urgent, engine);
        }
        let ended = self.readable && status.room > 0 && self.take(now, id, engine, &mut found);
        let status = engine.status(id);
        if self.shut && !self.finished && unix::waiting(&self.ours) <= 1 {
            self.finished = true;
            found.moved = true;
            let _ = engine.call(now, id, caller, &SocketCall::Shutdown { how: libc::SHUT_WR });
        }
        if self.hung_up && self.shut && (self.told || self.deaf) {
            // Both directions are shut, which looks as a close does.
            self.hung_up = is_abandoned(&self.ours).unwrap_or(true);
        }
        // Dissolved (AF_UNSPEC), it takes nothing any more.
        if self.hung_up && (ended || self.finished || status.error.is_some() || !status.connected)
            || ended && !self.shut && self.has_hung_up()
        {
            self.unread |= unix::take_error(&self.ours) == Some(Errno::ECONNRESET) || status.readable > 0;
            engine.close(now, id, self.unread);
            return Found { gone: true, moved: true };
        }
        if ended && !self.shut && !self.finished {
            // The program's end was shut behind our back, by somebody outside the view.
            self.finished = true;
            found.moved = true;
            let _ = engine.call(now, id, caller, &SocketCall::Shutdown { how: libc::SHUT_WR });
        }
        if status.readable == 0 {
            if status.error.is_some() {
                self.reset = true;
            } else if status.receive_finished && !self.told {
                self.told = true;
                hide();
                let _ = unix::shut(&self.ours, Shutdown::Write);
            }
        }
        found
    }

    /// From the engine to the program.
    fn give(&mut self, now: Instant, id: SocketId, urgent: Option<usize>, engine: &mut Engine) -> bool {
        // How many bytes lie before the urgent one.
        let mut ahead = urgent;
        let mut give = |piece: &[u8]| {
            let count = match (ahead, piece.first()) {
                (Some(0), Some(byte)) => self.hand_over_urgent(*byte),
                _ => self.hand_over(&piece[..ahead.map_or(piece.len(), |ahead| piece.len().min(ahead))]),
            };
            ahead = ahead.and_then(|ahead| ahead.checked_sub(count));
            count
        };
        engine.receive_with(now, id, &mut give) > 0
    }

    /// To the program, as much as it takes at once.
    pub(in super::super) fn hand_over(&mut self, piece: &[u8]) -> usize {
        if !self.writable {
            return 0;
        }
        let written = unix::write(&self.ours, piece);
        self.note_written(written, piece.len())
    }

    fn hand_over_urgent(&mut self, byte: u8) -> usize {
        let written = unix::write_urgent(&self.ours, byte);
        self.note_written(written, 1)
    }

    /// How much of `length` bytes need not be given again.
    fn note_written(&mut self, written: Result<usize, Errno>, length: usize) -> usize {
        match written {
            Ok(count) => {
                self.writable = count == length;
                count
            }
            Err(Errno::EAGAIN) => {
                self.writable = false;
                0
            }
            // The program has shut its receiving side, or has gone: nobody will read this.
            Err(_) => length,
        }
    }

    /// From the program to the engine. True if the program will write no more and all of it was taken.
    fn take(&mut self, now: Instant, id: SocketId, engine: &mut Engine, found: &mut Found) -> bool {
        for _ in 0..URGENT_AT_ONCE {
            let (ended, urgent) = self.take_some(now, id, engine, found);
            if !urgent {
                return ended;
            }
            engine.urge(id);
        }
        // The rest has its turn when the peer has acknowledged these.
        false
    }

    /// As [`Self::take`], up to an urgent byte: whether that was the last one.
    fn take_some(
        &mut self,
        now: Instant,
        id: SocketId,
        engine: &mut Engine,
        found: &mut Found,
    ) -> (bool, bool) {
        let (mut ended, mut dry, mut unread, mut urgent) = (false, false, false, false);
        // The byte of junk behind a shutdown stays.
        let mut left = if self.shut { unix::waiting(&self.ours).saturating_sub(1) } else { usize::MAX };
        let (ours, ending, mark) = (&self.ours, &mut self.ending, &mut self.mark);
        let mut take = |room: &mut [u8]| {
            let mut length = room.len().min(left);
            if length == 0 || dry || urgent {
                return 0;
            }
            let marked = *mark != Mark::Behind && unix::reach_mark(ours);
            if marked {
                length = 1;
            }
            if marked || *mark == Mark::Behind {
                *mark = Mark::Unknown;
            }
            match unix::read(ours, &mut room[..length]) {
                Ok(0) => {
                    ended = true;
                    0
                }
                Ok(count) => {
                    left -= count.min(left);
                    urgent = marked;
                    // There was no more; what comes now is an event (epoll(7), question 9).
                    dry = count < length && !*ending && *mark != Mark::Ahead;
                    count
                }
                Err(Errno::EAGAIN) => {
                    (dry, *ending) = (true, false);
                    0
                }
                Err(errno) => {
                    ended = true;
                    unread |= errno == Errno::ECONNRESET;
                    0
                }
            }
        };
        found.moved |= engine.send_with(now, id, &mut take) > 0;
        if dry || ended {
            self.readable = false;
        }
        self.unread |= unread;
        (ended, urgent)
    }

    fn has_hung_up(&self) -> bool {
        let mut ready = [rustix::event::PollFd::new(&self.ours, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = rustix::event::poll(&mut ready, Some(&now));
        polled.is_ok() && ready[0].revents().contains(rustix::event::PollFlags::HUP)
    }

    /// Closes our end so that the program reads ECONNRESET behind what it has not read yet: that takes an
    /// unread byte of the program's, and if there is none, we put one there through its descriptor.
    ///
    /// Behind the peer's end (CLOSE-WAIT and later) a reset is an EPIPE for those who write, which the kernel says of
    /// a closed peer anyway, and nothing to those who read.
    pub(super) fn reset(self, caller: &Caller, inode: u64) {
        if self.told {
            return unix::drain(&self.ours);
        }
        if unix::waiting(&self.ours) == 0
            && let Some(program) = find_program_end(caller, inode)
        {
            unix::put_junk(&program);
        }
    }
}

/// A duplicate of the program's end, if the process that last used it still has it, or one of its children does (a
/// server that forks for each connection).
pub(super) fn find_program_end(caller: &Caller, inode: u64) -> Option<OwnedFd> {
    let mut family = vec![caller.pid];
    let mut at = 0;
    while let Some(&pid) = family.get(at) {
        if let Some(found) = find_program_end_in(pid, caller.fd, inode) {
            return Some(found);
        }
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split(' ').filter_map(|child| child.parse::<i32>().ok()));
        family.truncate(MAX_FAMILY);
        at += 1;
    }
    None
}

fn find_program_end_in(pid: i32, fd: i32, inode: u64) -> Option<OwnedFd> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let wanted = |fd: i32| {
        // A new socket has no number yet.
        let fd = Some(fd).filter(|fd| *fd >= 0)?;
        let copy = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok()?;
        unix::inode(&copy).is_ok_and(|found| found == inode).then_some(copy)
    };
    wanted(fd).or_else(|| {
        // It has moved, by dup(2) for example: a look at all of them, by name, finds it.
        let name = format!("socket:[{inode}]");
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let named = |entry: &std::fs::DirEntry| {
            std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == name.as_str())
        };
        let entry = entries.flatten().find(named)?;
        wanted(entry.file_name().to_str()?.parse().ok()?)
    })
}
