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
//! A program's end that others would have to find (a listener, a datagram socket that hears from anybody) has an
//! [`Address`] that we alone can connect to: it is bound to a file in a folder of ours, and the file is removed at
//! once; what remains is a descriptor of it. (Abstract names are there for all to see, /proc/net/unix, and for all
//! to connect to.) That costs a file, so it is done when it is needed first. The address tells whether the program still has the socket
//! ([`Address::is_alive`]): closing a socket without peer wakes nobody. Our own ends have abstract names; they
//! are connected, so that nobody else can send to them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, shutdown, socket_with, sockopt,
};

use crate::kernel::sys::is_at_mark;

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

/// Where a program's end can be connected to.
#[derive(Debug)]
pub(in super::super) enum Address {
    /// A file that was removed: only whoever has its descriptor can connect.
    File(OwnedFd),
    /// An abstract name: for ends that talk to one peer of ours, so that the kernel refuses everybody else.
    Name(Vec<u8>),
}

impl Address {
    /// Binds a socket to a file called `name` in `folder` and removes the file.
    pub(in super::super) fn file(socket: &OwnedFd, folder: &OwnedFd, name: &str) -> Result<Self> {
        // By way of the folder's descriptor: a socket's address has room for 107 bytes of path.
        let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        bind(socket, &SocketAddrUnix::new(path).map_err(errno)?).map_err(errno)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(errno);
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        file.map(Self::File)
    }

    /// Binds a socket to an abstract name.
    pub(in super::super) fn name(socket: &OwnedFd, name: Vec<u8>) -> Result<Self> {
        bind(socket, &abstract_name(&name)?).map_err(errno)?;
        Ok(Self::Name(name))
    }

    /// For connect(2).
    fn target(&self) -> Result<SocketAddrUnix> {
        match self {
            Self::File(file) => {
                SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(errno)
            }
            Self::Name(name) => abstract_name(name),
        }
    }

    /// Is the socket, of that type, still open?
    pub(in super::super) fn is_alive(&self, kind: SocketType) -> bool {
        let (Ok(target), Ok(probe)) = (self.target(), our_end(probe_type(self, kind))) else { return true };
        match self {
            // To connect one of another type fails either way, and in its own way if there is a socket.
            Self::File(_) => connect(&probe, &target).map_err(errno) != Err(Errno::ECONNREFUSED),
            // The name is free if there is none.
            Self::Name(_) => bind(&probe, &target).is_err(),
        }
    }
}

fn probe_type(address: &Address, kind: SocketType) -> SocketType {
    match address {
        Address::File(_) if kind == SocketType::STREAM => SocketType::DGRAM,
        Address::File(_) => SocketType::STREAM,
        Address::Name(_) => kind,
    }
}

/// Opens the folder in which [`Address`]es are made.
pub(in super::super) fn folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(errno)
}

/// A fresh socket of a program, without an address.
pub(in super::super) fn program_end(kind: SocketType, nonblocking: bool) -> Result<OwnedFd> {
    let flags = if nonblocking { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let end = socket_with(AddressFamily::UNIX, kind, flags | SocketFlags::CLOEXEC, None).map_err(errno)?;
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

/// Where program's ends are connected to us, one at a time.
#[derive(Debug)]
pub(in super::super) struct Rendezvous {
    listener: OwnedFd,
    address: Address,
}

impl Rendezvous {
    /// One in that folder.
    pub(in super::super) fn new(folder: &OwnedFd, name: &str) -> Result<Self> {
        let listener = our_end(SocketType::STREAM)?;
        let address = Address::file(&listener, folder, name)?;
        listen(&listener, 16).map_err(errno)?;
        Ok(Self { listener, address })
    }

    /// Connects a program's end to us. Our end comes back.
    fn meet(&self, program: &impl AsFd) -> Result<OwnedFd> {
        connect(program, &self.address.target()?).map_err(errno)?;
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

/// Connects a program's end to us. Our end comes back.
pub(in super::super) fn join(rendezvous: &Rendezvous, program: &OwnedFd) -> Result<OwnedFd> {
    let ours = rendezvous.meet(program)?;
    widen(program)?;
    narrow(&ours)?;
    Ok(ours)
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
pub(in super::super) fn offer(listener: &Address, name: &[u8]) -> Result<OwnedFd> {
    let ours = our_end(SocketType::STREAM)?;
    bind(&ours, &abstract_name(name)?).map_err(errno)?;
    narrow(&ours)?;
    connect(&ours, &listener.target()?).map_err(errno)?;
    Ok(ours)
}

/// Takes a connection out of a listener's queue, if there is one: the program's end and the name of ours.
pub(in super::super) fn take(listener: &impl AsFd, nonblocking: bool) -> Result<(OwnedFd, Vec<u8>)> {
    if !is_readable(listener) {
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
pub(in super::super) fn sender(name: &[u8], to: &Address) -> Result<OwnedFd> {
    let ours = our_end(SocketType::DGRAM)?;
    bind(&ours, &abstract_name(name)?).map_err(errno)?;
    narrow(&ours)?;
    connect(&ours, &to.target()?).map_err(errno)?;
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

/// Makes the program's linked datagram socket report an error to those who poll it (ECONNRESET to who reads or
/// writes): that is what happens when our socket, `name`, leaves it with something unread
/// (net/unix/af_unix.c, unix_dgram_disconnected). Only a socket without peer can write to itself.
pub(in super::super) fn alarm(ours: &impl AsFd, name: &[u8], to: &Address) -> Result<()> {
    let to = to.target()?;
    rustix::net::connect_unspec(ours).map_err(errno)?;
    let options = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let written = rustix::net::sendto(ours, &[0], options, &abstract_name(name)?).map_err(errno);
    connect(ours, &to).map_err(errno)?;
    written?;
    rustix::net::connect_unspec(ours).map_err(errno)?;
    connect(ours, &to).map_err(errno)
}

/// Whether there is something to be read.
pub(in super::super) fn is_readable(fd: &impl AsFd) -> bool {
    let mut ready = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
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

/// Whether the next byte that the program wrote is an urgent one, which then is read as any other.
pub(in super::super) fn reach_mark(ours: &impl AsFd) -> bool {
    is_at_mark(ours.as_fd()) && sockopt::set_socket_oobinline(ours, true).is_ok()
}

/// Writes to the program.
pub(in super::super) fn write(ours: &impl AsFd, bytes: &[u8]) -> Result<usize> {
    send(ours, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(errno)
}

/// Writes an urgent byte to the program.
pub(in super::super) fn write_urgent(ours: &impl AsFd, byte: u8) -> Result<usize> {
    let options = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match send(ours, &[byte], options | SendFlags::OOB).map_err(errno) {
        // A kernel that knows none: as with SO_OOBINLINE.
        Err(Errno::EOPNOTSUPP) => write(ours, &[byte]),
        sent => sent,
    }
}

/// Whether a descriptor's file does not wait (O_NONBLOCK).
pub(in super::super) fn is_nonblocking(fd: &impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// A file that holds that text and is in nobody's file system.
pub(in super::super) fn text_file(text: &str) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("text", rustix::fs::MemfdFlags::CLOEXEC).map_err(errno)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).map_err(errno)?;
    let mut at = 0;
    while at < text.len() {
        let count = rustix::io::pwrite(&file, &text.as_bytes()[at..], at as u64).map_err(errno)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        at += count;
    }
    Ok(file)
}

/// What names a socket among all: its inode.
pub(in super::super) fn inode(fd: &impl AsFd) -> Result<u64> {
    rustix::fs::fstat(fd).map(|stat| stat.st_ino).map_err(errno)
}
