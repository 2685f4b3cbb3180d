//! The differences on a smol stack that concern streams, signals and many processes.

use crate::known::{Difference, When, known};

const REFUSED: &str =
    "behind a failed connect that did not wait is an AF_UNIX socket whose peer has gone, and read says so";
const REFUSAL: &str = "read has one error for a failed connect, that of AF_UNIX; SO_ERROR and a second connect say which it was";
const RESET: &str = "AF_UNIX looks for the peer before it looks for a pending error: the first write after a reset \
                     gets what the second one would; read, poll and SO_ERROR tell of the reset";
const URGENT: &str =
    "AF_UNIX calls a lone urgent byte something to read, and a read passes it by as one of TCP does";
const ZEROCOPY: &str = "bytes go through the stack by copy, and nobody would say when they are done with";
const LISTENER: &str = "reads, writes and poll run on an AF_UNIX listener, which answers in its own words";
const ANSWERED: &str = "the kernel makes a call anew (SA_RESTART) if a signal comes within the microseconds in which its \
                        answer is on the way";
const TRAPPED: &str = "a trapped call waits for the supervisor for a moment, and a signal can end it there";

/// The table.
pub(in crate::known) const DIFFERENCES: &[Difference] = &[
    known(When::Always, "tcp_connect", "v4 refused nonblocking*", "ENOTCONN", "0", REFUSED),
    known(When::Always, "tcp_connect", "v6 refused nonblocking*", "ENOTCONN", "0", REFUSED),
    known(
        When::Always,
        "tcp_connect",
        "v4 refused nonblocking read",
        "connect ok read ECONNREFUSED",
        "connect ok read ECONNRESET",
        REFUSAL,
    ),
    known(
        When::Always,
        "tcp_connect",
        "v6 refused nonblocking read",
        "connect ok read ECONNREFUSED",
        "connect ok read ECONNRESET",
        REFUSAL,
    ),
    known(
        When::Always,
        "tcp_data",
        "rd #2",
        "peer wrote, read 4",
        "peer wrote, read 0",
        "AF_UNIX takes nothing for a program that shut its receiving side; TCP takes what still comes",
    ),
    known(
        When::Always,
        "tcp_data",
        "reset*",
        "first write ECONNRESET sigpipes 0",
        "first write EPIPE sigpipes 1",
        RESET,
    ),
    known(
        When::Always,
        "tcp_data",
        "reset*",
        "second write EPIPE sigpipes 1",
        "second write EPIPE sigpipes 2",
        RESET,
    ),
    known(When::Always, "tcp_data", "urgent alone", "poll OUT|PRI", "poll IN|OUT|PRI", URGENT),
    known(When::Always, "tcp_data", "zerocopy", "ok", "EOPNOTSUPP", ZEROCOPY),
    known(When::Always, "tcp_data", "zerocopy completion", "ERR", "none", ZEROCOPY),
    known(When::Always, "tcp_data", "zerocopy errqueue", "0", "EAGAIN", ZEROCOPY),
    known(When::Always, "tcp_listen", "send on listener", "EPIPE", "ENOTCONN", LISTENER),
    known(When::Always, "tcp_listen", "recv on listener", "ENOTCONN", "EINVAL", LISTENER),
    known(When::Always, "tcp_listen", "shutdown listener poll", "OUT|HUP", "IN|HUP|RDHUP", LISTENER),
    known(
        When::Maybe,
        "signals",
        "1 ms restart #2",
        "connect made anew after it succeeded never",
        "connect made anew after it succeeded at times",
        ANSWERED,
    ),
    known(
        When::Maybe,
        "signals",
        "250 us restart #2",
        "connect made anew after it succeeded never",
        "connect made anew after it succeeded at times",
        ANSWERED,
    ),
    known(
        When::Maybe,
        "signals",
        "connect without waiting*",
        "interrupted never",
        "interrupted at times",
        TRAPPED,
    ),
    known(
        When::Maybe,
        "bindrace",
        "fin",
        "at once",
        "late at times",
        "close runs natively: the stack hears of it when the supervisor runs next, some ten microseconds later",
    ),
];
