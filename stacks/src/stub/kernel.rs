//! The stub of a kernel stack: sockets of its namespace, in an epoll set of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustc_hash::FxHashMap;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, socket_with, sockopt,
};

use super::{Nameserver, Sockets, Stub};

/// Connections that wait for us.
const BACKLOG: i32 = 16;

/// The stub of the namespace that it was made in; readable when it is to have its turn.
#[derive(Debug)]
pub struct KernelStub {
    stub: Stub<u64>,
    sockets: Kernel,
}

impl KernelStub {
    /// Makes it in the namespace that this process is in.
    ///
    /// # Errors
    /// Those of socket(2) and epoll_create1(2).
    pub fn new(config: &Nameserver) -> Result<Self, Errno> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(errno)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut sockets = Kernel { epoll, open: FxHashMap::default(), next: 0 };
        let stub = Stub::new(&mut sockets, config, u64::from_ne_bytes(seed))?;
        Ok(Self { stub, sockets })
    }

    /// Takes what there is. Its connections to the nameserver are made in the namespace that this process is in.
    pub fn turn(&mut self, now: Instant) {
        // Edge-triggered: what is not taken from the set stays readable.
        let mut events = [EpollEvent::empty(); 16];
        while self.sockets.epoll.wait(&mut events, 0u8).is_ok_and(|count| count == events.len()) {}
        self.stub.turn(now, &mut self.sockets);
    }
}

impl AsFd for KernelStub {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sockets.epoll.0.as_fd()
    }
}

/// Sockets by number.
#[derive(Debug)]
struct Kernel {
    epoll: Epoll,
    open: FxHashMap<u64, OwnedFd>,
    next: u64,
}

impl Kernel {
    fn keep(&mut self, socket: OwnedFd) -> Result<u64, Errno> {
        self.next += 1;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(flags, self.next))?;
        self.open.insert(self.next, socket);
        Ok(self.next)
    }

    fn get(&self, id: u64) -> Result<&OwnedFd, Errno> {
        self.open.get(&id).ok_or(Errno::EBADF)
    }
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

fn new(like: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if like.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).map_err(errno)
}

impl Sockets for Kernel {
    type Id = u64;

    fn datagrams(&mut self, at: Option<SocketAddr>, like: SocketAddr) -> Result<u64, Errno> {
        let socket = new(like, SocketType::DGRAM)?;
        let any: IpAddr =
            if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        rustix::net::bind(&socket, &at.unwrap_or(SocketAddr::new(any, 0))).map_err(errno)?;
        self.keep(socket)
    }

    fn listener(&mut self, at: SocketAddr) -> Result<u64, Errno> {
        let socket = new(at, SocketType::STREAM)?;
        sockopt::set_socket_reuseaddr(&socket, true).map_err(errno)?;
        rustix::net::bind(&socket, &at).map_err(errno)?;
        rustix::net::listen(&socket, BACKLOG).map_err(errno)?;
        self.keep(socket)
    }

    fn connection(&mut self, to: SocketAddr) -> Result<u64, Errno> {
        let socket = new(to, SocketType::STREAM)?;
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => self.keep(socket),
            Err(why) => Err(errno(why)),
        }
    }

    fn accept(&mut self, listener: u64) -> Option<u64> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::accept_with(self.get(listener).ok()?, flags).ok()?;
        self.keep(socket).ok()
    }

    fn receive(&mut self, socket: u64, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        loop {
            match rustix::net::recvfrom(self.get(socket).ok()?, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, length, from)) => return Some((length, SocketAddr::try_from(from?).ok()?)),
                Err(rustix::io::Errno::AGAIN) => return None,
                // An error of what was sent: taken by this call.
                Err(_) => {}
            }
        }
    }

    fn send(&mut self, socket: u64, to: SocketAddr, data: &[u8]) {
        if let Ok(socket) = self.get(socket) {
            let _ = rustix::net::sendto(socket, data, SendFlags::DONTWAIT, &to);
        }
    }

    fn read(&mut self, socket: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        rustix::net::recv(self.get(socket)?, &mut *buffer, RecvFlags::DONTWAIT)
            .map(|(count, _)| count)
            .map_err(not_yet)
    }

    fn write(&mut self, socket: u64, data: &[u8]) -> Result<usize, Errno> {
        rustix::net::send(self.get(socket)?, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(not_yet)
    }

    fn finish(&mut self, socket: u64) {
        if let Ok(socket) = self.get(socket) {
            // One that has gone says so when it is read.
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
    }

    fn close(&mut self, socket: u64) {
        self.open.remove(&socket);
    }
}

/// ENOTCONN: the connection is still being made.
fn not_yet(why: rustix::io::Errno) -> Errno {
    if why == rustix::io::Errno::NOTCONN { Errno::EAGAIN } else { errno(why) }
}
