//! The differences between a program's own network and a view that we know, accept and state in the manual.
//!
//! The conformance test checks the table itself: an entry that no longer describes what happens fails it.

/// One accepted difference.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// The probe that sees it.
    pub probe: &'static str,
    /// The observation; a `*` at the end stands for any rest.
    pub key: &'static str,
    /// What it is natively; `*` stands for anything.
    pub native: &'static str,
    /// What it is in a view.
    pub view: &'static str,
    /// True if the difference need not show on every machine or in every run.
    pub sometimes: bool,
    /// Why it is so.
    pub reason: &'static str,
}

const fn sometimes(
    probe: &'static str,
    key: &'static str,
    native: &'static str,
    view: &'static str,
    reason: &'static str,
) -> Difference {
    Difference { probe, key, native, view, sometimes: true, reason }
}

const URING: &str =
    "a ring makes sockets that seccomp never sees; EPERM is what kernel.io_uring_disabled=2 answers";

const ASKED: &str =
    "on an AF_UNIX socket an interface can be asked about (SIOCGIF*), not changed; use an AF_INET one";
const WIRELESS: &str = "the kernel's i386 layer has an errno of its own for wireless requests";
const UNIX: &str = "AF_UNIX sockets are the machine's, and so is the privilege these options need";

/// The table.
pub const DIFFERENCES: &[Difference] = &[
    sometimes("uring", "io_uring_setup*", "ok", "EPERM", URING),
    sometimes("foreign", "io_uring_setup by int 0x80", "*", "EPERM", URING),
    sometimes(
        "foreign",
        "x32*",
        "*",
        "ENOSYS",
        "x32 calls would pass the filter under other numbers: refused",
    ),
    sometimes(
        "signals",
        "connect without waiting by socketcall",
        "interrupted never",
        "interrupted at times",
        "i386 keeps the address where only the supervisor can look, so each connect waits for it for a moment",
    ),
    sometimes("interfaces", "unix dgram SIOCETHTOOL link", "*", "EOPNOTSUPP 0", ASKED),
    sometimes("interfaces", "unix stream SIOCETHTOOL link", "*", "EOPNOTSUPP 0", ASKED),
    sometimes("interfaces", "unix dgram SIOCSIFMTU", "ok", "EPERM", ASKED),
    sometimes("interfaces", "unix stream SIOCSIFMTU", "ok", "EPERM", ASKED),
    sometimes("interfaces", "unix dgram SIOCGIFMTU after", "ok 30000", "ok 65536", ASKED),
    sometimes("interfaces", "unix stream SIOCGIFMTU after", "ok 30000", "ok 65536", ASKED),
    sometimes("interfaces", "unix dgram SIOCGIWNAME*", "EINVAL", "ENOTTY", WIRELESS),
    sometimes("interfaces", "unix stream SIOCGIWNAME*", "EINVAL", "ENOTTY", WIRELESS),
    sometimes(
        "families",
        "socketpair PACKET*",
        "*",
        "EPERM",
        "socketpair is the machine's own; it fails either way, for want of privilege first",
    ),
    sometimes("options", "unix level 1 SO_PRIORITY=7", "*", "get 3/4 set EPERM get 3/4", UNIX),
    sometimes("options", "unix level 1 SO_MARK=5", "*", "get 0/4 set EPERM get 0/4", UNIX),
    sometimes(
        "netlink",
        "diag listener",
        "*",
        "backlog 7 inode right uid other",
        "sock_diag shows uids as the view's user namespace does, in which its owner is 0",
    ),
    sometimes(
        "families",
        "family VSOCK*",
        "*",
        "EAFNOSUPPORT",
        "a family whose sockets lead out of the view: refused",
    ),
    sometimes(
        "families",
        "family BLUETOOTH*",
        "*",
        "EAFNOSUPPORT",
        "a family whose sockets lead out of the view: refused",
    ),
];
