//! The differences between a program's own network and a view that we know, accept and state in the manual.
//!
//! The conformance test checks the table itself: an entry that no longer describes what happens fails it.

mod alone;
mod client;
pub mod smol;

use crate::binaries::Linkage;
use crate::plan;
use crate::subject::Subject;
use crate::world::User;

/// One accepted difference.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Where it must show.
    pub when: When,
    /// The probe that sees it.
    pub probe: &'static str,
    /// The observation; a `*` at the end stands for any rest.
    pub key: &'static str,
    /// What it is natively; `*` stands for anything.
    pub native: &'static str,
    /// What it is in a view.
    pub view: &'static str,
    /// Why it is so.
    pub reason: &'static str,
}

/// Where a difference shows. Elsewhere it is none, and the referee fails on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In every run.
    Always,
    /// To a user without privilege on the machine.
    Ordinary,
    /// To an i386 program.
    I386,
    /// Where the kernel has what it is about, or where chance has it: the one kind that may fail to show.
    Maybe,
}

impl When {
    /// May the difference show in this run?
    pub fn applies(self, user: User, linkage: Option<Linkage>) -> bool {
        match self {
            Self::Always | Self::Maybe => true,
            Self::Ordinary => user == User::Ordinary,
            Self::I386 => linkage == Some(Linkage::Static32),
        }
    }
}

const fn known(
    when: When,
    probe: &'static str,
    key: &'static str,
    native: &'static str,
    view: &'static str,
    reason: &'static str,
) -> Difference {
    Difference { when, probe, key, native, view, reason }
}

const URING: &str =
    "a ring makes sockets that seccomp never sees; EPERM is what kernel.io_uring_disabled=2 answers";

const UNIX: &str = "AF_UNIX sockets are the machine's, and so is the privilege these options need";

/// Those of a view on a stack of that kind, of the probes that run there.
pub fn differences(subject: Subject) -> Vec<Difference> {
    let mut all = listed(subject);
    all.retain(|d| plan::is_run(subject, d.probe));
    all
}

fn listed(subject: Subject) -> Vec<Difference> {
    match subject {
        Subject::Native => Vec::new(),
        Subject::View => [COMMON, KERNEL].concat(),
        Subject::Ruled => [COMMON, KERNEL, RULED].concat(),
        Subject::Alone => alone::DIFFERENCES.to_vec(),
        Subject::AloneSmol => {
            let library = [client::SMOL, client::OUTSIDE, client::ALONE_SMOL, client::ALONE_LEFT].concat();
            [COMMON, smol::DIFFERENCES, smol::tcp::DIFFERENCES, &library].concat()
        }
        Subject::Linked => [COMMON, client::OUTSIDE, client::LINKED, client::LINKED_LEFT].concat(),
        Subject::LinkedSmol => {
            let library =
                [client::SMOL, client::OUTSIDE, client::LINKED_SMOL, client::LINKED_SMOL_LEFT].concat();
            [COMMON, smol::DIFFERENCES, smol::tcp::DIFFERENCES, &library].concat()
        }
        Subject::Smol | Subject::Shimmed | Subject::RuledSmol => {
            [COMMON, smol::DIFFERENCES, smol::tcp::DIFFERENCES].concat()
        }
    }
}

/// On a kernel stack, in a view with rules: what there is besides.
pub const RULED: &[Difference] = &[known(
    When::Maybe,
    "signals",
    "connect without waiting",
    "interrupted never",
    "interrupted at times",
    "each connect asks for the rules and waits for the supervisor for a moment",
)];

/// On a stack of any kind.
const COMMON: &[Difference] = &[
    known(When::Maybe, "uring", "io_uring_setup*", "ok", "EPERM", URING),
    known(When::Maybe, "foreign", "io_uring_setup by int 0x80", "*", "EPERM", URING),
    known(
        When::Maybe,
        "foreign",
        "x32*",
        "*",
        "ENOSYS",
        "x32 calls would pass the filter under other numbers: refused",
    ),
    known(
        When::Maybe,
        "signals",
        "connect without waiting by socketcall",
        "interrupted never",
        "interrupted at times",
        "i386 keeps the address where only the supervisor can look, so each connect waits for it for a moment",
    ),
    known(
        When::Ordinary,
        "families",
        "socketpair PACKET*",
        "*",
        "EPERM",
        "socketpair is the machine's own; it fails either way, for want of privilege first",
    ),
    known(When::Ordinary, "options", "unix level 1 SO_PRIORITY=7", "*", "get 3/4 set EPERM get 3/4", UNIX),
    known(When::Ordinary, "options", "unix level 1 SO_MARK=5", "*", "get 0/4 set EPERM get 0/4", UNIX),
    known(
        When::Maybe,
        "families",
        "family VSOCK*",
        "*",
        "EAFNOSUPPORT",
        "a family whose sockets lead out of the view: refused",
    ),
    known(
        When::Maybe,
        "families",
        "family BLUETOOTH*",
        "*",
        "EAFNOSUPPORT",
        "a family whose sockets lead out of the view: refused",
    ),
];

/// On a kernel stack.
const KERNEL: &[Difference] = &[known(
    When::Ordinary,
    "netlink",
    "diag listener",
    "*",
    "backlog 7 inode right uid other",
    "sock_diag shows uids as the view's user namespace does, in which its owner is 0",
)];
