//! The calls of a view whose stack is a library: programs hold AF_UNIX sockets there, and whatever those
//! cannot answer as the network would is asked of the stack.
//!
//! # Theory of operation
//! [`TABLE`] has a row per call, as the kernel views' table has. Most rows *ask*: the supervisor duplicates the
//! descriptor that the call is made on and hands it to the stack with what [`Row::asks`] copied from the
//! program's memory. A descriptor that is no socket of the stack is answered by [`Row::handler`], which
//! for most calls means the kernel: a filter sees numbers of descriptors and not what is behind them.
//!
//! What is *not* here runs natively: read, write, send and recv without address, poll, close, dup, sendfile.
//! Of sendto and recvfrom only what AF_UNIX would answer otherwise is trapped: an address, MSG_OOB,
//! MSG_FASTOPEN, MSG_TRUNC, MSG_ERRQUEUE. MSG_MORE is not: on a stream the stack gathers small writes
//! anyway, and to trap it would cost programs that cork their whole data path.

pub(crate) mod ioctl;
pub(crate) mod layout;
pub(crate) mod many;
pub(crate) mod messages;
mod names;
pub(crate) mod options;
mod socketcall;

pub(crate) use socketcall::{call_of_socketcall, unpack};

use msocket_proto::ioctl::{REQUESTS, SIOCOUTQ};
pub(crate) use msocket_proto::proto::EXEMPT;
use stacks::smol::call::SocketCall;

use super::{Call, Cond, Row, SOCKETS, UNIX, connect, interface, namespace, socket};
use crate::answer::{Answer, Reply, Stop};
use crate::ask::{Ask, Give};

/// When mmap(2) may be of a packet socket's ring: shared memory of a descriptor, to be read or to be written as well.
const RINGS: &[&[Cond]] = &[
    &[Cond::Is(2, (libc::PROT_READ | libc::PROT_WRITE) as u32), SHARED, FILE],
    &[Cond::Is(2, libc::PROT_READ as u32), SHARED, FILE],
];
/// MAP_SHARED, but not MAP_SHARED_VALIDATE.
const SHARED: Cond = Cond::Masked(3, 0xf | libc::MAP_ANONYMOUS as u32, libc::MAP_SHARED as u32);
const FILE: Cond = Cond::Between(4, 0, i32::MAX as u32);

/// The calls that viewnet answers in a view whose stack is a library.
pub(crate) const TABLE: &[Row] = &[
    Row {
        name: "socket",
        native: libc::SYS_socket,
        i386: Some(359),
        when: SOCKETS,
        handler: socket::socket,
        asks: None,
    },
    Row {
        name: "socketpair",
        native: libc::SYS_socketpair,
        i386: Some(360),
        when: &[&[Cond::Not(0, UNIX)]],
        handler: socket::socketpair,
        asks: None,
    },
    Row {
        name: "bind",
        native: libc::SYS_bind,
        i386: Some(361),
        when: &[],
        handler: native,
        asks: Some(names::bind),
    },
    Row {
        name: "connect",
        native: libc::SYS_connect,
        i386: Some(362),
        when: &[],
        handler: connect::connect,
        asks: Some(names::connect),
    },
    Row {
        name: "listen",
        native: libc::SYS_listen,
        i386: Some(363),
        when: &[],
        handler: native,
        asks: Some(names::listen),
    },
    Row {
        name: "accept",
        native: libc::SYS_accept,
        // Only by socketcall.
        i386: None,
        // Without an address, too: the stack has to know which connection the new descriptor is.
        when: &[],
        handler: native,
        asks: Some(names::accept),
    },
    Row {
        name: "accept4",
        native: libc::SYS_accept4,
        i386: Some(364),
        when: &[],
        handler: native,
        asks: Some(names::accept4),
    },
    Row {
        name: "getsockname",
        native: libc::SYS_getsockname,
        i386: Some(367),
        when: &[],
        handler: native,
        asks: Some(names::getsockname),
    },
    Row {
        name: "getpeername",
        native: libc::SYS_getpeername,
        i386: Some(368),
        when: &[],
        handler: native,
        asks: Some(names::getpeername),
    },
    Row {
        name: "setsockopt",
        native: libc::SYS_setsockopt,
        i386: Some(366),
        when: &[],
        handler: native,
        asks: Some(options::setsockopt),
    },
    Row {
        name: "getsockopt",
        native: libc::SYS_getsockopt,
        i386: Some(365),
        when: &[],
        handler: native,
        asks: Some(options::getsockopt),
    },
    Row {
        name: "shutdown",
        native: libc::SYS_shutdown,
        i386: Some(373),
        when: &[],
        handler: native,
        asks: Some(names::shutdown),
    },
    Row {
        name: "sendto",
        native: libc::SYS_sendto,
        i386: Some(369),
        when: &[
            &[Cond::Given(4)],
            &[Cond::Has(3, libc::MSG_OOB as u32)],
            &[Cond::Has(3, libc::MSG_FASTOPEN as u32)],
        ],
        handler: native,
        asks: Some(messages::sendto),
    },
    Row {
        name: "recvfrom",
        native: libc::SYS_recvfrom,
        i386: Some(371),
        when: &[
            &[Cond::Given(4)],
            &[Cond::Has(3, libc::MSG_OOB as u32)],
            &[Cond::Has(3, libc::MSG_TRUNC as u32)],
            &[Cond::Has(3, libc::MSG_ERRQUEUE as u32)],
        ],
        handler: native,
        asks: Some(messages::recvfrom),
    },
    Row {
        name: "sendmsg",
        native: libc::SYS_sendmsg,
        i386: Some(370),
        when: &[],
        handler: native,
        asks: Some(messages::sendmsg),
    },
    Row {
        name: "recvmsg",
        native: libc::SYS_recvmsg,
        i386: Some(372),
        when: &[],
        handler: native,
        asks: Some(messages::recvmsg),
    },
    Row {
        name: "sendmmsg",
        native: libc::SYS_sendmmsg,
        i386: Some(345),
        when: &[],
        handler: native,
        asks: Some(many::sendmmsg),
    },
    Row {
        name: "recvmmsg",
        native: libc::SYS_recvmmsg,
        i386: Some(337),
        when: &[],
        handler: native,
        asks: Some(many::recvmmsg),
    },
    Row {
        name: "recvmmsg_time64",
        native: -1,
        i386: Some(417),
        when: &[],
        handler: native,
        asks: Some(many::recvmmsg_time64),
    },
    Row {
        name: "ioctl",
        native: libc::SYS_ioctl,
        i386: Some(54),
        // Of the requests of sockets, the kernel answers FIOSETOWN to SIOCGPGRP (0x8901 to 0x8904) well.
        when: &[
            &[Cond::Is(1, SIOCOUTQ)],
            &[Cond::Between(1, REQUESTS[0].0, REQUESTS[0].1)],
            &[Cond::Between(1, REQUESTS[1].0, REQUESTS[1].1)],
        ],
        handler: interface::ioctl,
        asks: Some(ioctl::ioctl),
    },
    Row {
        name: "mmap",
        native: libc::SYS_mmap,
        // It cannot be made there in the program's name.
        i386: None,
        when: RINGS,
        handler: native,
        asks: Some(map),
    },
    Row {
        name: "prctl",
        native: libc::SYS_prctl,
        i386: Some(172),
        when: &[&[Cond::Is(0, libc::PR_SET_DUMPABLE as u32), Cond::Is(1, 0)]],
        handler: stay_dumpable,
        asks: None,
    },
    Row {
        name: "unshare",
        native: libc::SYS_unshare,
        i386: Some(310),
        when: &[&[Cond::Has(0, libc::CLONE_NEWNET as u32)]],
        handler: namespace::leave,
        asks: None,
    },
    Row {
        name: "setns",
        native: libc::SYS_setns,
        i386: Some(346),
        when: &[],
        handler: namespace::leave,
        asks: None,
    },
    Row {
        name: "socketcall",
        native: -1,
        i386: Some(102),
        // All of it: what is asked, and of which socket, is in memory.
        when: &[],
        handler: socket::socketcall,
        asks: None,
    },
];

/// mmap(2)
fn map(call: &mut Call<'_>) -> Result<Ask, Stop> {
    Ok(Ask::new(SocketCall::Map { length: call.args[1], offset: call.args[5] }, Give::Mapping))
}

/// A descriptor that is no socket of the stack.
fn native(_call: &mut Call<'_>) -> Answer {
    Err(Stop::Native)
}

/// prctl(PR_SET_DUMPABLE, 0): said to be done and not done. The kernel would let nobody look at the program any
/// more, its supervisor included, and then none of its sockets would have a network.
fn stay_dumpable(_call: &mut Call<'_>) -> Answer {
    Ok(Reply::Value(0))
}

#[cfg(test)]
mod tests;
