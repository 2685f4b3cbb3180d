//! The AF_UNIX tricks behind a program's descriptor, one per function.
//!
//! # Theory of operation
//! A program's end of a stream is an ordinary AF_UNIX socket. What makes it look like TCP:
//! - *Not yet connected*: the descriptor is connected to us, and filled with junk until it takes no more, so
//!   that it polls and behaves as a socket in SYN_SENT. When the connection is there the junk is read out
//!   (which wakes writers up) and the buffer is widened ([`pend`], [`establish`]).
//! - *Reset*: our end is closed with something unread in it, which the kernel reports as ECONNRESET.
//! - *Half-closed*: the program's end is shut after one byte of junk, which stays unread to the end, so that
//!   a reset can still be told.
//!
//! Every program's end is bound to an abstract name that nobody can guess. The name tells whether the
//! program still has the socket ([`is_alive`]): closing a socket without peer wakes nobody.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, shutdown, socket_with, sockopt,
};

/// What a program's end may hold towards us once connected: the sweet spot of throughput, in bytes. The
/// kernel doubles it, and bounds it by net.core.wmem_max.
const PROGRAM_BUFFER: usize = 1 << 20;
/// What our end may hold towards the program, in bytes: our receive window beyond the engine's.
const OUR_BUFFER: usize = 256 << 10;
/// Most junk in one write: more than a socket of the smallest buffer takes.
static JUNK: [u8; 64 << 10] = [0; 64 << 10];
/// Most writes of junk; two fill the smallest buffer.
const JUNK_WRITES: usize = 64;

/// An error of ours.
pub(in super::super) type Result<T> = std::result::Result<T, Errno>;

pub(in super::super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// A fresh socket of a program, bound to `name`.
pub(in super::super) fn program_end(kind: SocketType, nonblocking: bool, name: &[u8]) -> Result<OwnedFd> {
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let end = socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None).map_err(errno)?;
    bind(&end, &abstract_name(name)?).map_err(errno)?;
    if kind == SocketType::STREAM {
        // As small as can be, from the start: to shrink it later would wake those who wait to write.
        sockopt::set_socket_send_buffer_size(&end, 1).map_err(errno)?;
    }
    Ok(end)
}

fn abstract_name(name: &[u8]) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new_abstract_name(name).map_err(errno)
}

/// A socket of ours, non-blocking.
fn our_end(kind: SocketType) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, kind, flags, None).map_err(errno)
}

/// Is the program's socket of that name still open?
pub(in super::super) fn is_alive(kind: SocketType, name: &[u8]) -> bool {
    let Ok(address) = abstract_name(name) else { return true };
    let Ok(probe) = our_end(kind) else { return true };
    bind(&probe, &address).is_err()
}

/// Where program's ends are connected to us, one at a time.
#[derive(Debug)]
pub(in super::super) struct Rendezvous {
    listener: OwnedFd,
    address: SocketAddrUnix,
}

impl Rendezvous {
    /// One with that name.
    pub(in super::super) fn new(name: &[u8]) -> Result<Self> {
        let (listener, address) = (our_end(SocketType::STREAM)?, abstract_name(name)?);
        bind(&listener, &address).map_err(errno)?;
        listen(&listener, 16).map_err(errno)?;
        Ok(Self { listener, address })
    }

    /// Connects a program's end to us. Our end comes back.
    fn meet(&self, program: &impl AsFd) -> Result<OwnedFd> {
        connect(program, &self.address).map_err(errno)?;
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let ours = accept_with(&self.listener, flags).map_err(errno)?;
            // Somebody who knows the name could come in between.
            let of_us =
                sockopt::socket_peercred(&ours).is_ok_and(|peer| peer.pid == rustix::process::getpid());
            if of_us {
                return Ok(ours);
            }
        }
    }
}

/// A program's end, connected to us but looking as if it were still connecting.
#[derive(Debug)]
pub(in super::super) struct Pending {
    /// Our end.
    pub(super) ours: OwnedFd,
    junk: usize,
}

/// Makes a program's end look like one in SYN_SENT.
pub(in super::super) fn pend(rendezvous: &Rendezvous, program: &impl AsFd) -> Result<Pending> {
    let ours = rendezvous.meet(program)?;
    let mut junk = 0;
    for _ in 0..JUNK_WRITES {
        match send(program, &JUNK, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => junk += count,
            Err(_) => break,
        }
    }
    Ok(Pending { ours, junk })
}

/// The connection is there: the program's end becomes readable and writable. Our end comes back.
pub(in super::super) fn establish(pending: Pending, program: Option<&OwnedFd>) -> Result<OwnedFd> {
    let Pending { ours, mut junk } = pending;
    let mut sink = vec![0; junk.min(JUNK.len())];
    while junk > 0 {
        let length = junk.min(sink.len());
        match recv(&ours, &mut sink[..length], RecvFlags::DONTWAIT) {
            Ok((count, _)) if count > 0 => junk -= count,
            _ => break,
        }
    }
    // Whoever hides its end has a small buffer.
    program.map_or(Ok(()), widen)?;
    narrow(&ours)?;
    Ok(ours)
}

/// Gives a connected program's end its buffer.
fn widen(program: &impl AsFd) -> Result<()> {
    sockopt::set_socket_send_buffer_size(program, PROGRAM_BUFFER).map_err(errno)
}

/// Bounds what waits in a program's end.
fn narrow(ours: &impl AsFd) -> Result<()> {
    sockopt::set_socket_send_buffer_size(ours, OUR_BUFFER).map_err(errno)
}

/// Puts a connection into the queue of a program's listener: our end of it. EAGAIN: the queue is full;
/// ECONNREFUSED: the listener has gone.
pub(in super::super) fn offer(listener: &[u8], name: &[u8]) -> Result<OwnedFd> {
    let ours = our_end(SocketType::STREAM)?;
    bind(&ours, &abstract_name(name)?).map_err(errno)?;
    narrow(&ours)?;
    connect(&ours, &abstract_name(listener)?).map_err(errno)?;
    Ok(ours)
}

/// Takes a connection out of a listener's queue, if there is one: the program's end and the name of ours.
pub(in super::super) fn take(listener: &impl AsFd, nonblocking: bool) -> Result<(OwnedFd, Vec<u8>)> {
    let mut ready = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut ready, Some(&now)).map_err(errno)? == 0 {
        return Err(Errno::EAGAIN);
    }
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let program = accept_with(listener, flags | SocketFlags::CLOEXEC).map_err(errno)?;
    widen(&program)?;
    let name = peer_name(&program).unwrap_or_default();
    Ok((program, name))
}

/// The abstract name of a socket's peer.
fn peer_name(fd: &impl AsFd) -> Option<Vec<u8>> {
    let address = rustix::net::getpeername(fd).ok()??;
    let address = SocketAddrUnix::try_from(address).ok()?;
    address.abstract_name().map(<[u8]>::to_vec)
}

/// A datagram socket of ours, named `name`, that sends to the program's socket `to`.
pub(in super::super) fn sender(name: &[u8], to: &[u8]) -> Result<OwnedFd> {
    let ours = our_end(SocketType::DGRAM)?;
    bind(&ours, &abstract_name(name)?).map_err(errno)?;
    narrow(&ours)?;
    connect(&ours, &abstract_name(to)?).map_err(errno)?;
    Ok(ours)
}

/// Makes the program's datagram socket talk to our socket `name` only.
pub(in super::super) fn link(program: &impl AsFd, name: &[u8]) -> Result<()> {
    connect(program, &abstract_name(name)?).map_err(errno)
}

/// Undoes [`link`].
pub(in super::super) fn unlink(program: &impl AsFd) -> Result<()> {
    rustix::net::connect_unspec(program).map_err(errno)
}

/// Makes the program's linked datagram socket report an error to those who poll it.
pub(in super::super) fn alarm(ours: &impl AsFd, to: &[u8]) -> Result<()> {
    rustix::net::connect_unspec(ours).map_err(errno)?;
    connect(ours, &abstract_name(to)?).map_err(errno)
}

/// Writes the byte of junk by which a later reset is told. False if there is no room.
pub(in super::super) fn put_junk(program: &impl AsFd) -> bool {
    send(program, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_ok()
}

/// shutdown(2), ENOTCONN and all.
pub(in super::super) fn shut(fd: &impl AsFd, how: Shutdown) -> Result<()> {
    shutdown(fd, how).map_err(errno)
}

/// Takes the error that the kernel keeps for a program's end, SO_ERROR.
pub(in super::super) fn take_error(fd: &impl AsFd) -> Option<Errno> {
    sockopt::socket_error(fd).ok().and_then(|error| error.err()).map(errno)
}

/// Bytes that wait to be read.
pub(in super::super) fn waiting(fd: &impl AsFd) -> usize {
    rustix::io::ioctl_fionread(fd).map_or(0, |n| n as usize)
}

/// Reads what the program wrote. `Ok(0)`: it will write no more.
pub(in super::super) fn read(ours: &impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    recv(ours, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count).map_err(errno)
}

/// Throws away what the program wrote.
pub(in super::super) fn drain(ours: &impl AsFd) {
    let mut sink = vec![0; JUNK.len()];
    while read(ours, &mut sink).is_ok_and(|count| count > 0) {}
}

/// Writes to the program.
pub(in super::super) fn write(ours: &impl AsFd, bytes: &[u8]) -> Result<usize> {
    send(ours, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(errno)
}

/// Whether a descriptor's file does not wait (O_NONBLOCK).
pub(in super::super) fn is_nonblocking(fd: &impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK))
}

/// What names a socket among all: its inode.
pub(in super::super) fn inode(fd: &impl AsFd) -> Result<u64> {
    rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(errno)
}
