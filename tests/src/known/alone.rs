//! The differences of a program whose view is made by the preloaded library alone.

use super::{Difference, When, known};

const NUMBER: &str = "to ask the stack takes a descriptor for a moment: one socket fewer can be made";
const MACHINE: &str =
    "an AF_UNIX socket is the machine's, and so are the interfaces and the privilege that it asks for";
const LEFT: &str = "a process that makes a network of its own still has its sockets from the stack";
const ESCAPED: &str = "a call that is not made by libc goes to the machine's network";
const COPY: &str = "the stack's process has its copy of a new socket for a moment longer";
const UIDS: &str = "sock_diag shows uids as the view's user namespace does, in which its owner is 0";
const OUT: &str = "a family whose sockets lead out of the view: refused";

/// The table.
pub(super) const DIFFERENCES: &[Difference] = &[
    known(When::Maybe, "bindrace", "fin", "at once", "late at times", COPY),
    known(When::Always, "descriptors", "limit", "4 made then EMFILE", "3 made then EMFILE", NUMBER),
    known(When::Always, "descriptors", "limit unix", "EMFILE", "ok", NUMBER),
    known(When::Always, "descriptors", "limit bad family", "EAFNOSUPPORT", "EMFILE", NUMBER),
    known(When::Always, "descriptors", "limit, one closed", "ok", "EMFILE", NUMBER),
    known(When::Always, "descriptors", "descriptors left", "0", "1", NUMBER),
    known(When::Maybe, "families", "family VSOCK*", "*", "EAFNOSUPPORT", OUT),
    known(When::Maybe, "families", "family BLUETOOTH*", "*", "EAFNOSUPPORT", OUT),
    known(When::Ordinary, "families", "socketpair PACKET*", "*", "EPERM", MACHINE),
    known(When::Ordinary, "foreign", "socket family 2 by int 0x80 bind 81", "ok", "EACCES", ESCAPED),
    known(When::Ordinary, "foreign", "socketcall family 2 by int 0x80 bind 81", "ok", "EACCES", ESCAPED),
    known(When::Ordinary, "interfaces", "unix dgram SIOCSIFMTU", "ok", "EPERM", MACHINE),
    known(When::Ordinary, "interfaces", "unix stream SIOCSIFMTU", "ok", "EPERM", MACHINE),
    known(When::Ordinary, "interfaces", "unix dgram SIOCGIFMTU after", "ok 30000", "ok 65536", MACHINE),
    known(When::Ordinary, "interfaces", "unix stream SIOCGIFMTU after", "ok 30000", "ok 65536", MACHINE),
    known(When::Ordinary, "netlink", "diag listener", "*", "backlog 7 inode right uid other", UIDS),
    known(When::Ordinary, "options", "unix level 1 SO_PRIORITY=7", "*", "get 3/4 set EPERM get 3/4", MACHINE),
    known(When::Ordinary, "options", "unix level 1 SO_MARK=5", "*", "get 0/4 set EPERM get 0/4", MACHINE),
    known(When::Always, "ownns", "own connect", "ENETUNREACH", "ECONNREFUSED", LEFT),
    known(When::Always, "ownns", "own lo up", "ok", "EPERM", LEFT),
    known(When::Always, "ownns", "own to home's listener", "ENETUNREACH", "ok", LEFT),
    known(When::Always, "ownns", "own up interface 0", "*", "lo family 17 flags 0x8", LEFT),
    known(When::Always, "ownns", "own up interface 1", "*", "(no such line)", LEFT),
    known(When::Always, "ownns", "own up interface 2", "*", "(no such line)", LEFT),
    known(When::Always, "ownns", "own up lo by unix ioctl", "*", "ok 0x8", LEFT),
    known(When::Always, "ownns", "own up to home's listener", "ECONNREFUSED", "ok", LEFT),
    known(When::Always, "ownns", "to home's listener then", "ENETUNREACH", "ok", LEFT),
];
