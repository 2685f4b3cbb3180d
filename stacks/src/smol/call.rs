//! What a program asks of a socket, and what it gets: the calls that a supervisor traps, by value.
//!
//! # Theory of operation
//! A call carries everything it needs: bytes that were copied once from the program's memory, and beside it
//! a duplicate of the descriptor it was made on. Most are answered at once; connect, accept, and sends and
//! receives on a blocking socket may have to wait: they are parked under the caller's [`Ticket`] and answered
//! later. Interrupted calls are cancelled by ticket, and what they had already taken is put back. The types
//! are plain data, so that a call can cross a process boundary to a stack that another process serves.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Names a parked call; chosen by whoever makes it, unique while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// A call on a socket. Addresses are `struct sockaddr` bytes as the program gave them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketCall {
    /// bind(2)
    Bind {
        /// Where to.
        address: Vec<u8>,
    },
    /// listen(2)
    Listen {
        /// As given; the stack bounds it.
        backlog: i32,
    },
    /// connect(2); AF_UNSPEC dissolves.
    Connect {
        /// Where to.
        address: Vec<u8>,
    },
    /// accept4(2). Answer: [`Done::Accepted`].
    Accept {
        /// SOCK_NONBLOCK and SOCK_CLOEXEC for the new socket.
        flags: i32,
    },
    /// getsockname(2). Answer: [`Done::Address`].
    LocalName,
    /// getpeername(2). Answer: [`Done::Address`].
    PeerName,
    /// getsockopt(2). Answer: [`Done::Bytes`], at most `length`, already cut.
    GetOption {
        /// SOL_*, IPPROTO_*
        level: i32,
        /// SO_*, IP_*, …
        name: i32,
        /// What is in the program's buffer; its length is the length offered.
        value: Vec<u8>,
    },
    /// setsockopt(2)
    SetOption {
        /// SOL_*, IPPROTO_*
        level: i32,
        /// SO_*, IP_*, …
        name: i32,
        /// The value, in the machine's 64-bit layout. For SO_ATTACH_FILTER and SO_ATTACH_REUSEPORT_CBPF: the
        /// instructions themselves; empty if the program is none.
        value: Vec<u8>,
    },
    /// shutdown(2)
    Shutdown {
        /// SHUT_*
        how: i32,
    },
    /// sendto(2), sendmsg(2). Answer: [`Done::Value`], the bytes taken.
    Send {
        /// Where to; absent: the peer.
        to: Option<Vec<u8>>,
        /// Ancillary data, `struct cmsghdr` and all, in the machine's 64-bit layout.
        control: Vec<u8>,
        /// The bytes, in one piece.
        data: Vec<u8>,
        /// MSG_*
        flags: i32,
    },
    /// recvfrom(2), recvmsg(2). Answer: [`Done::Received`].
    Receive {
        /// Room for data, in bytes.
        length: usize,
        /// Room for ancillary data, in bytes.
        control: usize,
        /// MSG_*
        flags: i32,
        /// The program wants the sender's address.
        named: bool,
    },
    /// mmap(2). Answer: [`Done::Mapping`].
    Map {
        /// How much.
        length: u64,
        /// From where on.
        offset: u64,
    },
    /// ioctl(2). Answer: [`Done::Bytes`], the argument afterwards (empty if nothing is written back).
    Ioctl {
        /// SIOC*
        request: u32,
        /// The argument's bytes, in the machine's 64-bit layout; empty for requests that only give (SIOCOUTQ,
        /// SIOCATMARK, SIOCGSTAMP). For SIOCGIFCONF: `ifc_len` as 4 bytes; the answer is 4 bytes of length and
        /// the records. For SIOCADDRT and SIOCDELRT: 120 bytes of struct rtentry (on an IPv6 socket its first
        /// 80 are a struct in6_rtmsg) and 16 with the name that `rt_dev` points to. For SIOCETHTOOL: 40 bytes of
        /// struct ifreq and what `ifr_data` points to, and the same as the answer. On an IPv6 socket, of the 24
        /// to 40 bytes of SIOCSIFADDR, SIOCDIFADDR and SIOCSIFDSTADDR the first 24 are a struct in6_ifreq.
        argument: Vec<u8>,
    },
}

impl SocketCall {
    /// getsockopt(SO_ERROR), which takes the error away.
    pub(crate) fn pending_error() -> Self {
        Self::GetOption { level: libc::SOL_SOCKET, name: libc::SO_ERROR, value: vec![0; 4] }
    }
}

/// What a call gives. Errors are errno values beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// A return value.
    Value(i64),
    /// Bytes for the program's buffer.
    Bytes(Vec<u8>),
    /// An address for the program's buffer, in full; the caller cuts it as Linux does.
    Address(Vec<u8>),
    /// A new socket: its descriptor travels beside this. The peer's address, in full.
    Accepted {
        /// The peer.
        peer: Vec<u8>,
    },
    /// The descriptor beside this is what the program is to have mapped, all of it, instead of its own.
    Mapping,
    /// A message.
    Received(Message),
    /// The descriptor is none of this stack: the kernel shall run the call.
    NotOurs,
    /// The kernel's answer on the descriptor itself is right: it shall run the call.
    Native,
}

/// What recvmsg(2) gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The bytes, at most as many as there was room for.
    pub data: Vec<u8>,
    /// The return value; with MSG_TRUNC more than `data` holds.
    pub length: usize,
    /// The sender; empty on a stream.
    pub from: Vec<u8>,
    /// Ancillary data in the machine's 64-bit layout, at most as much as there was room for.
    pub control: Vec<u8>,
    /// `msg_flags`: MSG_TRUNC, MSG_CTRUNC, MSG_OOB, MSG_ERRQUEUE.
    pub flags: i32,
}

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its process, for messages and accounts.
    pub pid: i32,
    /// Effective user id, as the host counts.
    pub uid: u32,
    /// The number of the descriptor there, as last seen.
    pub fd: i32,
    /// It has the rights of the stack's owner: raw and packet sockets, configuration, low ports.
    pub rights: bool,
}

/// A call's answer, with the descriptor that goes with it: that of [`Done::Accepted`] and [`Done::Mapping`]; with the answer of
/// a connect, one that shall take the place of the program's (a second try after a failed one), whatever the
/// answer says.
pub type Answered = (Result<Done, Errno>, Option<OwnedFd>);

/// Whoever answers calls: the stacks of this process, or of another one.
pub trait SocketHost {
    /// A call of `caller`, on the socket of which `file` is a duplicate. `None`: it is parked and will come out
    /// of [`SocketHost::poll_done`] under its ticket, unless it is cancelled. The duplicate is closed before
    /// the answer is given.
    fn call(
        &mut self,
        now: Instant,
        ticket: Ticket,
        caller: &Caller,
        file: OwnedFd,
        call: SocketCall,
    ) -> Option<Answered>;

    /// A parked call was interrupted: it has never been. A connection attempt goes on without it, and a new
    /// connect of the same thread with the same address joins it.
    fn cancel(&mut self, ticket: Ticket);

    /// An answer that could not be delivered, because its call was interrupted meanwhile: what it took
    /// (a connection, a datagram) goes back to the front of where it came from.
    fn give_back(&mut self, ticket: Ticket, answered: Answered);

    /// The next parked call that has its answer.
    fn poll_done(&mut self) -> Option<(Ticket, Answered)>;
}
