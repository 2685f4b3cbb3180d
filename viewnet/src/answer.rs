//! How a handler says what should happen: a value, an errno, or "let the kernel do it".
//!
//! The supervisor carries it out; `?` in a handler ends it with the errno or with [`Stop::Native`].

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::ask::Ask;

/// What the program gets.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A return value.
    Value(i64),
    /// A new descriptor, which the supervisor installs in the program's table.
    Descriptor {
        /// Our copy; closed before the program runs on.
        fd: OwnedFd,
        /// Close-on-exec in the program's table.
        cloexec: bool,
    },
    /// What a stack in a library says.
    Ask(Box<Ask>),
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The call fails.
    Fail(Errno),
    /// The kernel runs the call as it stands. Never a security decision: the program can change its
    /// memory after we looked (seccomp_unotify(2)).
    Native,
}

/// A handler's decision.
pub(crate) type Answer = Result<Reply, Stop>;

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno)
    }
}
