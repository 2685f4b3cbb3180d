//! What this machine offers, what it lacks, why, and how to mend it.
//!
//! # Theory of operation
//! [`readings`] is the shell: it reads files and tries calls in children, and judges nothing. [`checks`]
//! and [`causes`] are pure: readings in, words out, so every verdict is tested with made-up machines.
//! `viewnet doctor` prints [`check`]'s verdicts; a set-up step of `viewnet run` that fails asks
//! [`explain`], which finds the same words from the step and its errno. No failure ends with a bare errno.

mod causes;
mod checks;
mod readings;
#[cfg(test)]
mod tests;

use nix::errno::Errno;

pub(crate) use causes::Cause;
pub(crate) use checks::{State, Verdict, check, smol_only, usable};
pub(crate) use readings::{Facts, Readings};

use crate::exit::{Exit, Failure};

/// A step that sets up a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetupStep {
    /// clone(2) or unshare(2) with CLONE_NEWUSER.
    UserNamespace,
    /// clone(2) or unshare(2) with CLONE_NEWNET.
    NetNamespace,
    /// Writing setgroups, uid_map and gid_map.
    IdMap,
    /// seccomp(2) without a listener, prctl(PR_SET_NO_NEW_PRIVS).
    SeccompFilter,
    /// seccomp(2) with SECCOMP_FILTER_FLAG_NEW_LISTENER, and ioctls on the listener.
    Listener,
    /// A veth pair and a packet socket, where there is no TAP.
    Interface,
    /// fork(2), clone(2).
    Process,
    /// pipe(2), socketpair(2), epoll_create(2), passing descriptors.
    Descriptor,
}

impl SetupStep {
    /// Every step, for tests and documentation.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] = [
        Self::UserNamespace,
        Self::NetNamespace,
        Self::IdMap,
        Self::SeccompFilter,
        Self::Listener,
        Self::Interface,
        Self::Process,
        Self::Descriptor,
    ];

    /// What failed, as the first part of a message.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::UserNamespace => "cannot make a user namespace",
            Self::NetNamespace => "cannot make a network namespace",
            Self::IdMap => "cannot map the user into its namespace",
            Self::SeccompFilter => "cannot install the seccomp filter",
            Self::Listener => "cannot listen to the program's calls",
            Self::Interface => "cannot make an interface",
            Self::Process => "cannot start a process",
            Self::Descriptor => "cannot make a descriptor",
        }
    }
}

impl From<stacks::kernel::namespace::Step> for SetupStep {
    fn from(step: stacks::kernel::namespace::Step) -> Self {
        use stacks::kernel::namespace::Step;
        match step {
            Step::UserNamespace => Self::UserNamespace,
            Step::IdMap => Self::IdMap,
            Step::NetNamespace => Self::NetNamespace,
            Step::Plug => Self::Interface,
        }
    }
}

/// Why a step failed on this machine, and what to do: reads the facts it needs.
pub(crate) fn explain(step: SetupStep, errno: Errno) -> Cause {
    explain_with(&Facts::read(), step, errno)
}

/// The failure that ends `viewnet run` when a step failed.
pub(crate) fn failure(step: SetupStep, errno: Errno) -> Failure {
    let Cause { why, fix } = explain(step, errno);
    Failure::new(step.what(), why).hint(fix).code(Exit::SetUp)
}

/// What to do when the kernel said `errno` and nobody knows more: a better reason, if there is one, and advice.
pub(crate) fn next_step(errno: Errno) -> (Option<String>, String) {
    causes::next_step(&Facts::read(), errno)
}

fn explain_with(facts: &Facts, step: SetupStep, errno: Errno) -> Cause {
    match step {
        SetupStep::UserNamespace => causes::user_namespace(facts, errno),
        SetupStep::NetNamespace => causes::net_namespace(facts, errno),
        SetupStep::IdMap => causes::id_maps(facts, errno),
        SetupStep::SeccompFilter | SetupStep::Listener => causes::listener(facts, errno),
        SetupStep::Interface => causes::veth(facts, errno),
        SetupStep::Process | SetupStep::Descriptor => causes::common(facts, errno),
    }
}
