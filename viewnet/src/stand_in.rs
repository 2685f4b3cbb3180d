//! `viewnet run --parent`: viewnet stays the program's ancestor instead of becoming it.
//!
//! # Theory of operation
//! Where Yama restricts ptrace(2) (kernel.yama.ptrace_scope=1, as Ubuntu has it), an ordinary user's process may
//! look at its descendants only. The supervisor of a smol view has to look, so there the processes hang together
//! the other way round:
//! ```text
//! viewnet run, the stand-in ──fork──► supervisor ──fork──► the program
//! ```
//! The program is in the stand-in's session and process group, so the terminal treats them alike. The stand-in
//! does what the program does: it ends with its exit status or by its signal, stops when it stops, and passes
//! on the signals that are sent to it; those of the terminal reach the program by themselves. The supervisor,
//! whose child the program is, tells it what happens ([`Charge`]). If the stand-in is killed, so is the program.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use crate::doctor::{self, SetupStep};
use crate::exit::{Exit, Failure};
use crate::launch::{self, Plan};
use crate::sys::process::{self, Fork};

/// What the supervisor tells the stand-in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum News {
    /// The program's process.
    Born(i32),
    /// It has ended with this status.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
    /// It has stopped.
    Stopped,
}

/// Longest piece of news, in bytes.
const MAX_NEWS: usize = 16;

/// Whether an ordinary user's supervisor may look at the program only as its ancestor.
pub(crate) fn is_needed() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    scope.trim() == "1" && !geteuid().is_root()
}

/// Runs the program below the supervisor, and that below this process. Returns in the program's process, if it
/// cannot be executed; this one ends as the program does.
pub(crate) fn run(plan: &Plan) -> Result<Infallible, Failure> {
    let failed = |e: Errno| doctor::failure(SetupStep::Process, e);
    let (news, teller) = UnixStream::pair().map_err(|e| Failure::io("cannot start the supervisor", &e))?;
    // Until the program's process has its own again, nobody is interrupted.
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask)).map_err(failed)?;
    match process::fork().map_err(failed)? {
        Fork::Parent(_) => {
            drop(teller);
            stand_in(news, mask)
        }
        Fork::Child => {
            drop(news);
            let (ours, theirs) =
                UnixStream::pair().map_err(|e| Failure::io("cannot start the supervisor", &e))?;
            match process::fork().map_err(failed)? {
                Fork::Child => {
                    drop((theirs, teller));
                    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(failed)?;
                    let plan = Plan { pid: std::process::id() as i32, ..plan.clone() };
                    launch::become_program(&plan, ours)
                }
                Fork::Parent(program) => {
                    drop(ours);
                    let charge = Charge::new(program, teller).map_err(failed)?;
                    launch::supervise_charge(&Plan { pid: program.as_raw(), ..plan.clone() }, theirs, charge)
                }
            }
        }
    }
}

/// The supervisor's child that is the program.
#[derive(Debug)]
pub(crate) struct Charge {
    program: Pid,
    signals: SignalFd,
    teller: UnixStream,
    ended: bool,
}

impl Charge {
    /// Watches a child; the process has only SIGCHLD blocked afterwards.
    fn new(program: Pid, teller: UnixStream) -> Result<Self, Errno> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        let mut charge = Self { program, signals, teller, ended: false };
        charge.tell(News::Born(program.as_raw()));
        Ok(charge)
    }

    /// Readable when something has happened to the program.
    pub(crate) fn happened(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Readable when the stand-in has gone.
    pub(crate) fn stand_in(&self) -> BorrowedFd<'_> {
        self.teller.as_fd()
    }

    /// The descriptors to keep.
    pub(crate) fn descriptors(&self) -> [i32; 2] {
        [self.signals.as_raw_fd(), self.teller.as_raw_fd()]
    }

    fn tell(&mut self, news: News) {
        let mut bytes = [0; MAX_NEWS];
        if postcard::to_slice(&news, &mut bytes).is_ok() {
            let _ = self.teller.write_all(&bytes);
        }
    }

    /// Tells what has happened.
    pub(crate) fn turn(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        while !self.ended {
            match waitpid(self.program, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, status)) => self.end(News::Exited(status)),
                Ok(WaitStatus::Signaled(_, signal, _)) => self.end(News::Killed(signal as i32)),
                Ok(WaitStatus::Stopped(..)) => self.tell(News::Stopped),
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// The program is ending: waits until it has, and tells.
    pub(crate) fn finish(&mut self) {
        while !self.ended {
            match waitpid(self.program, None) {
                Ok(WaitStatus::Exited(_, status)) => self.end(News::Exited(status)),
                Ok(WaitStatus::Signaled(_, signal, _)) => self.end(News::Killed(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn end(&mut self, news: News) {
        self.ended = true;
        self.tell(news);
    }

    /// The stand-in was killed: the program, which it stood for, is.
    pub(crate) fn abandon(&mut self) {
        if !self.ended {
            let _ = kill(self.program, Signal::SIGKILL);
        }
    }
}

const NEWS: u64 = 1;
const SIGNALS: u64 = 2;

/// Does as the program does, until it ends.
fn stand_in(mut news: UnixStream, mask: SigSet) -> ! {
    let mut program = None;
    match follow(&mut news, &mut program) {
        Ok(News::Exited(status)) => process::exit_now(status),
        Ok(News::Killed(number)) => {
            // By the same signal: whoever waits for us sees what it would have seen of the program.
            if let Ok(signal) = Signal::try_from(number) {
                process::no_core();
                process::default_action(signal);
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let _ = raise(signal);
            }
            process::exit_now(128 + number)
        }
        _ => {
            let pid = program.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            eprintln!(
                "viewnet: cannot follow the program{pid}: its supervisor was killed; it goes on without network, \
                 so end it"
            );
            let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            process::exit_now(i32::from(Exit::SetUp.number()))
        }
    }
}

/// Follows the program; returns how it ended.
fn follow(news: &mut UnixStream, program: &mut Option<Pid>) -> Result<News, Errno> {
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&*news, EpollEvent::new(EpollFlags::EPOLLIN, NEWS))?;
    epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        // Signals first: what the program did about one is news.
        if events[..count].iter().any(|event| event.data() == SIGNALS) {
            while let Ok(Some(signal)) = signals.read_signal() {
                pass_on(signal.ssi_signo as i32, signal.ssi_code, *program);
            }
        }
        if events[..count].iter().any(|event| event.data() == NEWS) {
            let mut bytes = [0; MAX_NEWS];
            news.read_exact(&mut bytes).map_err(|_| Errno::EPIPE)?;
            match postcard::from_bytes(&bytes).map_err(|_| Errno::EPIPE)? {
                News::Born(pid) => *program = Some(Pid::from_raw(pid)),
                News::Stopped => {
                    // Whoever waits for us sees us stop; when we go on, so does the program.
                    let _ = raise(Signal::SIGSTOP);
                    if let Some(program) = *program {
                        let _ = kill(program, Signal::SIGCONT);
                    }
                }
                ended => return Ok(ended),
            }
        }
    }
}

/// Passes a signal on that was sent to us alone. The terminal's and the kernel's (`code` above 0) go to the whole
/// process group, the program included.
fn pass_on(number: i32, code: i32, program: Option<Pid>) {
    if let (Some(program), Ok(signal)) = (program, Signal::try_from(number))
        && code <= 0
        && signal != Signal::SIGCHLD
    {
        let _ = kill(program, signal);
    }
}
