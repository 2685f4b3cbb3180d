//! The differences of programs whose sockets have no supervisor and are made complete by a library: on smol stacks the
//! preloaded one or libmsocket, on kernel stacks libmsocket, which only asks for them.

use super::{Difference, When, known};

const LINES: &str = "the library keeps lines to the stack's host for the next call, descriptors above 511";
const ASKED: &str =
    "the library keeps its connection to the stack's path for the next socket, a descriptor above 511";
const COUNTED: &str =
    "the probe sets its limit by the number of descriptors, and takes the library's for its own";
const NUMBER: &str = "to ask the stack takes a descriptor for a moment: one socket fewer can be made";
const MACHINE: &str =
    "an AF_UNIX socket is the machine's, and so are the interfaces and the privilege that it asks for";
const LEFT: &str = "the stack's host is found by a name of the network namespace it is in: who leaves that leaves its sockets";
const ESCAPED: &str = "a call that is not made by libc goes to the machine's network";
const DEFAULT: &str = "type 0 is what msocket() calls SOCK_DEFAULT, so the probe asks the machine for it";
const UIDS: &str =
    "sock_diag shows uids as the user namespace of the stack's keeper does, in which its owner is 0";
const COPY: &str = "the stack's process has its copy of a new socket for a moment longer";
const KEPT: &str = "a process that makes a network of its own still has its sockets from the stack";

macro_rules! left {
    ($reason:ident: $($probe:literal $count:literal),* $(,)?) => {
        &[$(known(When::Always, $probe, "descriptors left", "0", $count, $reason)),*]
    };
}

/// On a smol stack.
pub(super) const SMOL: &[Difference] = &[
    known(
        When::Always,
        "signals",
        "1 ms",
        "sockets made, connections made, refusals seen, other errors 0 , leaked 0",
        "sockets made, connections made, refusals seen, other errors 0 , leaked *",
        LINES,
    ),
    known(
        When::Always,
        "threads",
        "threads",
        "failures 0 connections 256 leaked 0",
        "failures 0 connections 256 leaked *",
        LINES,
    ),
    known(When::Always, "ownns", "own lo", "1", "0", LEFT),
    known(When::Always, "ownns", "own bind", "ok", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own listen", "ok", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own connect", "ENETUNREACH", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own to home's listener", "ENETUNREACH", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own lo up", "ok", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own up interface 0", "*", "lo family 17 flags 0x8", LEFT),
    known(When::Always, "ownns", "own up interface 1", "*", "(no such line)", LEFT),
    known(When::Always, "ownns", "own up interface 2", "*", "(no such line)", LEFT),
    known(When::Always, "ownns", "own up lo", "1", "0", LEFT),
    known(When::Always, "ownns", "own up lo by unix ioctl", "ok 0x49", "ok 0x8", LEFT),
    known(When::Always, "ownns", "own up bind", "ok", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own up listen", "ok", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own up connect", "ECONNREFUSED", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "own up to home's listener", "ECONNREFUSED", "ENETDOWN", LEFT),
    known(When::Always, "ownns", "to home's listener then", "ENETUNREACH", "ENETDOWN", LEFT),
];

/// By the preloaded library: besides.
pub(super) const ALONE_SMOL: &[Difference] = &[
    known(When::Always, "descriptors", "limit", "4 made then EMFILE", "3 made then EMFILE", NUMBER),
    known(When::Always, "descriptors", "limit unix", "EMFILE", "ok", NUMBER),
    known(When::Always, "descriptors", "limit bad family", "EAFNOSUPPORT", "EMFILE", NUMBER),
    known(When::Always, "descriptors", "limit, one closed", "ok", "EMFILE", NUMBER),
];
pub(super) const ALONE_LEFT: &[Difference] = left!(LINES: "badptr" "1", "children" "*", "descriptors" "2", "families" "1",
    "icmp" "1", "interfaces" "1", "links" "1", "lite" "1", "netlink" "1", "packet" "*", "tcp_data" "1", "udp" "1", "unix" "1");

/// By libmsocket: besides.
pub(super) const LINKED_SMOL: &[Difference] = &[
    known(When::Always, "descriptors", "limit", "4 made then EMFILE", "5 made then EMFILE", COUNTED),
    known(When::Ordinary, "families", "family PACKET type 0", "ESOCKTNOSUPPORT", "EPERM", DEFAULT),
];
pub(super) const LINKED_SMOL_LEFT: &[Difference] = left!(LINES: "badptr" "2", "children" "*", "descriptors" "2", "families" "2",
    "icmp" "2", "interfaces" "2", "links" "2", "lite" "2", "netlink" "2", "packet" "*", "tcp_data" "2", "udp" "2", "unix" "2");

/// Of what is the machine's: besides.
pub(super) const OUTSIDE: &[Difference] = &[
    known(When::Ordinary, "foreign", "socket family 2 by int 0x80 bind 81", "ok", "EACCES", ESCAPED),
    known(When::Ordinary, "foreign", "socketcall family 2 by int 0x80 bind 81", "ok", "EACCES", ESCAPED),
    known(When::Ordinary, "interfaces", "unix dgram SIOCSIFMTU", "ok", "EPERM", MACHINE),
    known(When::Ordinary, "interfaces", "unix stream SIOCSIFMTU", "ok", "EPERM", MACHINE),
    known(When::Ordinary, "interfaces", "unix dgram SIOCGIFMTU after", "ok 30000", "ok 65536", MACHINE),
    known(When::Ordinary, "interfaces", "unix stream SIOCGIFMTU after", "ok 30000", "ok 65536", MACHINE),
];

/// On a kernel stack, by libmsocket.
pub(super) const LINKED: &[Difference] = &[
    known(When::Maybe, "bindrace", "fin", "at once", "late at times", COPY),
    known(When::Always, "descriptors", "limit", "4 made then EMFILE", "5 made then EMFILE", COUNTED),
    known(When::Ordinary, "families", "family PACKET type 0", "ESOCKTNOSUPPORT", "EPERM", DEFAULT),
    known(When::Ordinary, "netlink", "diag listener", "*", "backlog 7 inode right uid other", UIDS),
    known(When::Always, "ownns", "own connect", "ENETUNREACH", "ECONNREFUSED", KEPT),
    known(When::Always, "ownns", "own to home's listener", "ENETUNREACH", "ok", KEPT),
    known(When::Always, "ownns", "own lo up", "ok", "EPERM", KEPT),
    known(When::Always, "ownns", "own up interface 0", "*", "lo family 17 flags 0x8", KEPT),
    known(When::Always, "ownns", "own up interface 1", "*", "(no such line)", KEPT),
    known(When::Always, "ownns", "own up interface 2", "*", "(no such line)", KEPT),
    known(When::Always, "ownns", "own up lo by unix ioctl", "ok 0x49", "ok 0x8", KEPT),
    known(When::Always, "ownns", "own up to home's listener", "ECONNREFUSED", "ok", KEPT),
    known(When::Always, "ownns", "to home's listener then", "ENETUNREACH", "ok", KEPT),
    known(
        When::Always,
        "signals",
        "1 ms",
        "sockets made, connections made, refusals seen, other errors 0 , leaked 0",
        "sockets made, connections made, refusals seen, other errors 0 , leaked *",
        ASKED,
    ),
];
pub(super) const LINKED_LEFT: &[Difference] = left!(ASKED: "badptr" "1", "children" "*", "descriptors" "1", "families" "1",
    "icmp" "1", "interfaces" "1", "links" "1", "lite" "1", "netlink" "1", "packet" "1", "tcp_data" "1", "udp" "1", "unix" "1");
