//! The differences on a smol stack.

pub(super) mod tcp;

use super::{Difference, When, known};

const OWN: &str = "a smol stack has it whatever the kernel has";
const ZEROCOPY: &str =
    "a program's bytes are copied from its AF_UNIX descriptor, so nobody would tell the completions";
const REPAIR: &str = "checkpoint and restore need the inside of a connection in the kernel; to nobody, as without CAP_NET_ADMIN";
const SEGMENT: &str =
    "segments to oneself are as long as the interface takes; Linux halves the peer's first window";
const UNCONNECTED: &str =
    "send(2) without address goes to the kernel, and this is what AF_UNIX says without a peer";
const REFUSED: &str = "the program learns that its peer refused, but read(2) and send(2) without address have AF_UNIX's errno for it; \
                       recvmsg(2), recvfrom(2) with address and SO_ERROR have the right one";
const COUNT: &str = "FIONREAD goes to the kernel, and an AF_UNIX socket has an answer where netlink has none";

/// The table of smol stacks.
pub(super) const DIFFERENCES: &[Difference] = &[
    known(
        When::Always,
        "descriptors",
        "mmap on socket",
        "ok",
        "ENODEV",
        "the descriptor is an AF_UNIX socket, which cannot be mapped; TCP's zero-copy receive needs it",
    ),
    known(
        When::Maybe,
        "families",
        "family 2 type 2 protocol 136",
        "EPROTONOSUPPORT",
        "ok domain 2 type 2 protocol 136 cloexec 0 nonblock 0",
        OWN,
    ),
    known(
        When::Maybe,
        "families",
        "family 10 type 2 protocol 136",
        "EPROTONOSUPPORT",
        "ok domain 10 type 2 protocol 136 cloexec 0 nonblock 0",
        OWN,
    ),
    known(
        When::Maybe,
        "families",
        "family 2 type 1 protocol 262",
        "EPROTONOSUPPORT",
        "ok domain 2 type 1 protocol 262 cloexec 0 nonblock 0",
        OWN,
    ),
    known(
        When::Maybe,
        "families",
        "family 10 type 1 protocol 262",
        "EPROTONOSUPPORT",
        "ok domain 10 type 1 protocol 262 cloexec 0 nonblock 0",
        OWN,
    ),
    known(When::Always, "udp", "send unconnected", "EDESTADDRREQ", "ENOTCONN", UNCONNECTED),
    known(When::Always, "udp", "v4 connected recv", "ECONNREFUSED", "ECONNRESET", REFUSED),
    known(When::Always, "udp", "v4 next send", "ECONNREFUSED", "ECONNRESET", REFUSED),
    known(When::Always, "udp", "v6 connected recv", "ECONNREFUSED", "ECONNRESET", REFUSED),
    known(When::Always, "udp", "v6 next send", "ECONNREFUSED", "ECONNRESET", REFUSED),
    known(
        When::Always,
        "probe_std",
        "udp v4 refused",
        "ConnectionRefused Some(111)",
        "ConnectionReset Some(104)",
        REFUSED,
    ),
    known(
        When::Always,
        "probe_std",
        "udp v6 refused",
        "ConnectionRefused Some(111)",
        "ConnectionReset Some(104)",
        REFUSED,
    ),
    known(When::Always, "badptr", "tcp send", "EPIPE", "ENOTCONN", UNCONNECTED),
    known(When::Always, "badptr", "tcp6 send", "EPIPE", "ENOTCONN", UNCONNECTED),
    known(When::Always, "badptr", "udp send", "EDESTADDRREQ", "EFAULT", UNCONNECTED),
    known(When::Always, "interfaces", "netlink FIONREAD", "ENOTTY", "ok", COUNT),
    known(
        When::Always,
        "options",
        "tcp level 1 SO_ZEROCOPY=1",
        "*",
        "get 0/4 set EOPNOTSUPP get 0/4",
        ZEROCOPY,
    ),
    known(
        When::Always,
        "options",
        "tcp6 level 1 SO_ZEROCOPY=1",
        "*",
        "get 0/4 set EOPNOTSUPP get 0/4",
        ZEROCOPY,
    ),
    known(
        When::Always,
        "options",
        "udp level 1 SO_ZEROCOPY=1",
        "*",
        "get 0/4 set EOPNOTSUPP get 0/4",
        ZEROCOPY,
    ),
    known(
        When::Always,
        "options",
        "udp6 level 1 SO_ZEROCOPY=1",
        "*",
        "get 0/4 set EOPNOTSUPP get 0/4",
        ZEROCOPY,
    ),
    known(When::Always, "options", "tcp level 6 TCP_REPAIR=*", "*", "get 0/4 set EPERM get 0/4", REPAIR),
    known(When::Always, "options", "tcp6 level 6 TCP_REPAIR=*", "*", "get 0/4 set EPERM get 0/4", REPAIR),
    known(
        When::Always,
        "options",
        "TCP_INFO",
        "ok state 1 length full mss 32741",
        "ok state 1 length full mss 65483",
        SEGMENT,
    ),
];
