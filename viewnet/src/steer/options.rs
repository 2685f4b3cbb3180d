//! The options of a socket that are carried over to one on another stack: those that the program has set.
//!
//! What a program has set is what differs from a fresh socket on the same stack: where the stacks differ in their defaults,
//! the new socket keeps those of its own. What one stack has and the other does not is lost, as it would be had the program asked there. Options that
//! cannot be read back are not carried over either: groups that were joined, filters, MD5 keys, IPsec policies.
//!
//! What a fresh socket has is believed for [`BELIEF`], as it is half of what a move costs otherwise.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use stacks::smol::call::SocketCall;
use stacks::stack::SocketSpec;

use super::{Socket, Steer};
use crate::eye::BELIEF;
use crate::views::At;

/// How a value is read and set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As many bytes as getsockopt(2) gives, at most this.
    Bytes(usize),
    /// A size in bytes, which the kernel doubles when it is set (socket(7)); not set by the program unless this bit of SO_BUF_LOCK
    /// is.
    Doubled(i32),
}
use Form::{Bytes, Doubled};

/// SO_BUF_LOCK, linux/socket.h (Linux 5.16): SOCK_SNDBUF_LOCK is 1, SOCK_RCVBUF_LOCK 2.
const BUF_LOCK: i32 = 72;
const INT: Form = Bytes(4);
/// TCP_CA_NAME_MAX, net/tcp.h.
const NAME: Form = Bytes(16);

const SOL: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IP6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;

/// Options by level, number (asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h, linux/udp.h) and form. An
/// order matters where it is the manual's: IP_RETOPTS before nothing, IPV6_V6ONLY before a bind.
const OPTIONS: &[(i32, i32, Form)] = &[
    (SOL, libc::SO_DEBUG, INT),
    (SOL, libc::SO_REUSEADDR, INT),
    (SOL, libc::SO_REUSEPORT, INT),
    (SOL, libc::SO_DONTROUTE, INT),
    (SOL, libc::SO_BROADCAST, INT),
    (SOL, libc::SO_SNDBUF, Doubled(1)),
    (SOL, libc::SO_RCVBUF, Doubled(2)),
    (SOL, libc::SO_KEEPALIVE, INT),
    (SOL, libc::SO_OOBINLINE, INT),
    (SOL, libc::SO_NO_CHECK, INT),
    (SOL, libc::SO_PRIORITY, INT),
    (SOL, libc::SO_LINGER, Bytes(8)),
    (SOL, libc::SO_RCVLOWAT, INT),
    (SOL, libc::SO_RCVTIMEO, Bytes(16)),
    (SOL, libc::SO_SNDTIMEO, Bytes(16)),
    (SOL, libc::SO_TIMESTAMP, INT),
    (SOL, libc::SO_TIMESTAMPNS, INT),
    (SOL, libc::SO_TIMESTAMPING, INT),
    (SOL, libc::SO_MARK, INT),
    (SOL, libc::SO_RXQ_OVFL, INT),
    (SOL, libc::SO_PEEK_OFF, INT),
    (SOL, libc::SO_SELECT_ERR_QUEUE, INT),
    (SOL, libc::SO_BUSY_POLL, INT),
    (SOL, libc::SO_MAX_PACING_RATE, Bytes(8)),
    (SOL, libc::SO_ZEROCOPY, INT),
    (IP, libc::IP_TOS, INT),
    (IP, libc::IP_TTL, INT),
    (IP, libc::IP_HDRINCL, INT),
    (IP, libc::IP_OPTIONS, Bytes(40)),
    (IP, libc::IP_RECVOPTS, INT),
    (IP, libc::IP_RETOPTS, INT),
    (IP, libc::IP_PKTINFO, INT),
    (IP, libc::IP_MTU_DISCOVER, INT),
    (IP, libc::IP_RECVERR, INT),
    (IP, libc::IP_RECVTTL, INT),
    (IP, libc::IP_RECVTOS, INT),
    (IP, libc::IP_FREEBIND, INT),
    (IP, libc::IP_TRANSPARENT, INT),
    (IP, libc::IP_RECVORIGDSTADDR, INT),
    (IP, libc::IP_MINTTL, INT),
    (IP, libc::IP_BIND_ADDRESS_NO_PORT, INT),
    (IP, libc::IP_MULTICAST_TTL, INT),
    (IP, libc::IP_MULTICAST_LOOP, INT),
    (IP, libc::IP_MULTICAST_ALL, INT),
    // IP_LOCAL_PORT_RANGE, Linux 6.3
    (IP, 51, INT),
    (IP6, libc::IPV6_V6ONLY, INT),
    (IP6, libc::IPV6_UNICAST_HOPS, INT),
    (IP6, libc::IPV6_MULTICAST_HOPS, INT),
    (IP6, libc::IPV6_MULTICAST_LOOP, INT),
    (IP6, libc::IPV6_MTU_DISCOVER, INT),
    (IP6, libc::IPV6_RECVERR, INT),
    (IP6, libc::IPV6_RECVPKTINFO, INT),
    (IP6, libc::IPV6_RECVHOPLIMIT, INT),
    (IP6, libc::IPV6_RECVTCLASS, INT),
    (IP6, libc::IPV6_TCLASS, INT),
    (IP6, libc::IPV6_DONTFRAG, INT),
    // IPV6_AUTOFLOWLABEL, IPV6_ADDR_PREFERENCES, IPV6_MINHOPCOUNT, IPV6_FREEBIND
    (IP6, 70, INT),
    (IP6, 72, INT),
    (IP6, 73, INT),
    (IP6, libc::IPV6_TRANSPARENT, INT),
    (IP6, 78, INT),
    (TCP, libc::TCP_NODELAY, INT),
    (TCP, libc::TCP_MAXSEG, INT),
    (TCP, libc::TCP_CORK, INT),
    (TCP, libc::TCP_KEEPIDLE, INT),
    (TCP, libc::TCP_KEEPINTVL, INT),
    (TCP, libc::TCP_KEEPCNT, INT),
    (TCP, libc::TCP_SYNCNT, INT),
    (TCP, libc::TCP_LINGER2, INT),
    (TCP, libc::TCP_DEFER_ACCEPT, INT),
    (TCP, libc::TCP_WINDOW_CLAMP, INT),
    (TCP, libc::TCP_QUICKACK, INT),
    (TCP, libc::TCP_CONGESTION, NAME),
    (TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, INT),
    (TCP, libc::TCP_USER_TIMEOUT, INT),
    (TCP, libc::TCP_FASTOPEN, INT),
    (TCP, libc::TCP_FASTOPEN_CONNECT, INT),
    (TCP, libc::TCP_NOTSENT_LOWAT, INT),
    (TCP, libc::TCP_SAVE_SYN, INT),
    (TCP, libc::TCP_INQ, INT),
    (UDP, libc::UDP_CORK, INT),
    // UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX, UDP_SEGMENT, UDP_GRO
    (UDP, 101, INT),
    (UDP, 102, INT),
    (UDP, 103, INT),
    (UDP, 104, INT),
];

/// Most kinds of sockets that are known; past that all are looked at again.
const MAX_KNOWN: usize = 64;

/// The value of each option of a socket, if it has that.
type Values = [Option<Vec<u8>>; OPTIONS.len()];

/// What a fresh socket has, by stack and kind, and when that was looked at.
#[derive(Debug, Default)]
pub(crate) struct Fresh(BTreeMap<(At, [i32; 3]), (Instant, Rc<Values>)>);

/// Sets on `new` what differs on `old` from a fresh socket on the same stack.
pub(super) fn copy(steer: &mut Steer<'_, '_>, old: &Socket, new: &Socket) -> Result<(), Errno> {
    let lock = steer.number(old, SOL, BUF_LOCK);
    let fresh = fresh(steer, old)?;
    for (&(level, name, form), fresh) in OPTIONS.iter().zip(fresh.iter()) {
        if matches!(form, Doubled(bit) if lock.is_some_and(|lock| lock & bit == 0)) {
            continue;
        }
        let Some(mut value) = read(steer, old, (level, name, form)) else { continue };
        if fresh.as_ref() == Some(&value) {
            continue;
        }
        if let (Doubled(_), Ok(bytes)) = (form, <[u8; 4]>::try_from(&value[..])) {
            value = (i32::from_ne_bytes(bytes) / 2).to_ne_bytes().to_vec();
        }
        if let Err(errno) = steer.ask(new, SocketCall::SetOption { level, name, value }) {
            log::debug!("option {level}/{name} is not carried over: {}", errno.desc());
        }
    }
    Ok(())
}

/// What a fresh socket like this one has.
fn fresh(steer: &mut Steer<'_, '_>, like: &Socket) -> Result<Rc<Values>, Errno> {
    let SocketSpec { domain, kind, protocol } = like.spec;
    let (key, now) = ((like.at, [domain, kind, protocol]), steer.known.now);
    if let Some((at, values)) = steer.known.views.fresh.0.get(&key)
        && now.saturating_duration_since(*at) < BELIEF
    {
        return Ok(Rc::clone(values));
    }
    let socket = steer.made(like.at, SocketSpec { kind: kind | libc::SOCK_CLOEXEC, ..like.spec })?;
    let values: Rc<Values> = Rc::new(std::array::from_fn(|at| read(steer, &socket, OPTIONS[at])));
    let known = &mut steer.known.views.fresh.0;
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(key, (now, Rc::clone(&values)));
    Ok(values)
}

/// The value of an option, if the socket has it.
fn read(
    steer: &mut Steer<'_, '_>,
    socket: &Socket,
    (level, name, form): (i32, i32, Form),
) -> Option<Vec<u8>> {
    let room = match form {
        Bytes(room) => room,
        Doubled(_) => 4,
    };
    let call = SocketCall::GetOption { level, name, value: vec![0; room] };
    if applies(level, socket) { steer.ask(socket, call).ok() } else { None }
}

/// Whether a socket can have options of a level.
fn applies(level: i32, socket: &Socket) -> bool {
    match level {
        IP6 => socket.spec.domain == libc::AF_INET6,
        TCP => socket.is_stream(),
        UDP => socket.spec.kind == libc::SOCK_DGRAM,
        _ => true,
    }
}
