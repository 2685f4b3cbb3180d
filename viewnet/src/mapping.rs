//! mmap(2) of a packet socket's ring, carried out in the program.
//!
//! # Theory of operation
//! The program wants to map its socket, which is an AF_UNIX socket and cannot be mapped. What it has to map instead
//! is a memfd(2) of the stack's, and only the program itself can map something into its memory. So, while its call
//! waits for an answer,
//! 1. we become the tracer of the calling thread (PTRACE_SEIZE), which does not stop it;
//! 2. the memfd is installed in the program, under a number that is free there;
//! 3. the thread is told to stop, and its call is answered: it leaves the call and stops, having seen nothing of the
//!    answer;
//! 4. from its own instruction it makes the call once more, with the memfd's number and as MAP_SHARED_VALIDATE,
//!    which the filter lets pass and which means the same; and then close(2) of the memfd;
//! 5. it gets its registers back, with what mmap(2) gave as its result, and we leave it.
//!
//! Meanwhile it blocks all signals; SIGKILL ends it, one that cannot be blocked is delivered in the end, and if its
//! process is stopped it stops in the end. A thread that somebody else traces cannot be helped: ENODEV, as for a socket that
//! cannot be mapped. Each wait is bounded: a thread that does not come to its stop (its machine, or its control group,
//! is frozen) is left alone until it does, and then let go with ENODEV ([`Thread::retry`]).
//!
//! Read: ptrace(2), seccomp_unotify(2), kernel/signal.c (get_signal, do_jobctl_trap).

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::desk::Mapped;
use crate::sys::ptrace::{self, Registers, Stop};
use crate::sys::seccomp::{self, Notification};

/// How long a thread that is to stop may take: it wakes up and stops, all in the kernel.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often we look whether it has.
const LOOK: Duration = Duration::from_micros(50);
/// Most stops that are not the one waited for: a signal each, which no thread gets so many of in that time.
const MAX_STOPS: usize = 64;
/// All signals; those that cannot be blocked are not.
const ALL: u64 = u64::MAX;
/// MAP_TYPE, linux/mman.h.
const TYPE: u64 = 0xf;

/// A thread that we trace.
#[derive(Debug)]
pub(crate) struct Thread {
    tid: i32,
    /// How it was before we changed anything: its registers, and the signals it blocked.
    saved: Option<(Registers, u64)>,
    /// A signal that it is still to get.
    signal: i32,
}

/// Why a thread cannot be helped.
enum Trouble {
    /// It has ended.
    Ended,
    /// It has not stopped yet.
    Late,
    /// It is not in its call any more.
    Elsewhere,
}

impl From<Errno> for Trouble {
    /// It does not do what a stopped thread does: either it was killed, or it is not stopped.
    fn from(_: Errno) -> Self {
        Self::Late
    }
}

/// Maps `file` where the call wants its socket mapped. Threads that are late are put into `late`.
pub(crate) fn map(
    listener: BorrowedFd<'_>,
    call: &Notification,
    file: BorrowedFd<'_>,
    late: &mut Vec<Thread>,
) -> Mapped {
    if ptrace::seize(call.tid).is_err() {
        return Mapped::Refused(Errno::ENODEV);
    }
    let mut thread = Thread { tid: call.tid, saved: None, signal: 0 };
    let number = seccomp::add_fd(listener, call.id, file, true);
    let _ = ptrace::interrupt(call.tid);
    // It may have left the call for the interruption already.
    let _ = seccomp::answer(listener, call.id, Err(Errno::ENODEV));
    match thread.map(call, number) {
        Ok(result) if (-4095..0).contains(&result) => Mapped::Done(Err(Errno::from_raw(-result as i32))),
        Ok(address) => Mapped::Done(Ok(address)),
        Err(Trouble::Ended | Trouble::Elsewhere) => Mapped::Gone,
        Err(Trouble::Late) => {
            late.push(thread);
            Mapped::Done(Err(Errno::ENODEV))
        }
    }
}

impl Thread {
    fn map(&mut self, call: &Notification, number: Result<i32, Errno>) -> Result<i64, Trouble> {
        match self.wait()? {
            Stop::Signal(signal) => self.signal = signal,
            Stop::Told | Stop::Call | Stop::Ended => {}
        }
        let registers = Registers::of(self.tid)?;
        // A signal was first: the call is made anew, if at all.
        if number == Err(Errno::ENOENT) || !registers.is_in(call.nr.into(), &call.args) {
            ptrace::let_go(self.tid, self.signal)?;
            return Err(Trouble::Elsewhere);
        }
        self.saved = Some((registers, ptrace::blocked(self.tid)?));
        let result = match number {
            Ok(number) => {
                ptrace::block(self.tid, ALL)?;
                let [address, length, protection, flags, _, offset] = call.args;
                let flags = flags & !TYPE | libc::MAP_SHARED_VALIDATE as u64;
                let args = [address, length, protection, flags, number as u64, offset];
                let result = self.make(registers, libc::SYS_mmap, args)?;
                self.make(registers, libc::SYS_close, [number as u64, 0, 0, 0, 0, 0])?;
                result
            }
            // Its table is full.
            Err(_) => -(Errno::ENOMEM as i64),
        };
        self.finish(result)?;
        Ok(result)
    }

    /// Has it make a call.
    fn make(&mut self, registers: Registers, number: i64, args: [u64; 6]) -> Result<i64, Trouble> {
        registers.before(number, args).give(self.tid)?;
        // Its beginning and its end.
        for _ in 0..2 {
            let mut left = MAX_STOPS;
            loop {
                ptrace::go_on(self.tid)?;
                match self.wait()? {
                    Stop::Call => break,
                    Stop::Signal(signal) => self.signal = signal,
                    Stop::Told | Stop::Ended => {}
                }
                left = left.checked_sub(1).ok_or(Trouble::Late)?;
            }
        }
        Ok(Registers::of(self.tid)?.result())
    }

    /// Gives it back what it had, with its call's result, and leaves it.
    fn finish(&mut self, result: i64) -> Result<(), Errno> {
        if let Some((registers, blocked)) = self.saved {
            registers.after(result).give(self.tid)?;
            ptrace::block(self.tid, blocked)?;
        }
        ptrace::let_go(self.tid, self.signal)
    }

    /// Waits for it to stop.
    fn wait(&mut self) -> Result<Stop, Trouble> {
        let until = Instant::now() + PATIENCE;
        loop {
            match ptrace::poll(self.tid) {
                Ok(Some(Stop::Ended)) | Err(_) => return Err(Trouble::Ended),
                Ok(Some(stop)) => return Ok(stop),
                Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
                Ok(None) => return Err(Trouble::Late),
            }
        }
    }

    /// Lets a thread that was late go, if it has stopped by now. False: it has not.
    pub(crate) fn retry(&mut self) -> bool {
        match ptrace::poll(self.tid) {
            Ok(None) => false,
            Ok(Some(Stop::Ended)) | Err(_) => true,
            Ok(Some(stop)) => {
                if let Stop::Signal(signal) = stop {
                    self.signal = signal;
                }
                self.finish(-(Errno::ENODEV as i64)).is_ok()
            }
        }
    }
}
