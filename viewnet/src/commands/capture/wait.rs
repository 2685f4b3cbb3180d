//! Waiting for frames, or for a reason to end.

use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What is waited for.
#[derive(Debug)]
pub(super) struct Wait {
    epoll: Epoll,
    /// Kept open: it is in the set.
    _signals: SignalFd,
}

/// Tokens of the set.
const SOURCE: u64 = 0;
const END: u64 = 1;

impl Wait {
    /// Waits for `source`, whose doorbell may be one that is never read, and for SIGINT, SIGTERM, and the loss of whoever
    /// reads standard output.
    pub(super) fn new(source: impl AsFd) -> nix::Result<Self> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, SOURCE))?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, END))?;
        // A file cannot be lost.
        let _ = epoll.add(std::io::stdout(), EpollEvent::new(EpollFlags::empty(), END));
        Ok(Self { epoll, _signals: signals })
    }

    /// Its being readable or hung up ends the capture, too.
    pub(super) fn end_with(&self, other: impl AsFd) -> nix::Result<()> {
        self.epoll.add(other, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, END))
    }

    /// Sleeps until something happens, or merely looks; true if it is the end.
    pub(super) fn sleep(&self, may_sleep: bool) -> nix::Result<bool> {
        let timeout = if may_sleep { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let mut events = [EpollEvent::empty(); 4];
        match self.epoll.wait(&mut events, timeout) {
            Ok(ready) => Ok(events[..ready].iter().any(|event| event.data() == END)),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(e) => Err(e),
        }
    }
}
