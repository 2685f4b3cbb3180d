//! The steward of a kernel stack: sockets of its namespace, in an epoll set of their own.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::sockopt::{BindToDevice, Ipv6RecvHopLimit};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustc_hash::FxHashMap;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, socket_with, sockopt,
};

use super::renewal::{CLIENT, Change};
use super::{Sockets, Steward};
use crate::config::StackConfig;
use crate::dhcp6;
use crate::gateway::advertise::{self, Heard};
use crate::kernel::interfaces::Interfaces;
use crate::kernel::sys::hear_only;

/// Connections that wait for us.
const BACKLOG: i32 = 16;

/// The steward of the namespace that it was made in; readable when it is to have its turn.
#[derive(Debug)]
pub struct KernelSteward {
    steward: Steward<u64>,
    sockets: Kernel,
    timer: TimerFd,
}

/// The timer's token.
const TIMER: u64 = 0;

impl KernelSteward {
    /// Makes it in the namespace that this process is in; nothing, if there is nothing to do.
    ///
    /// # Errors
    /// Those of socket(2), epoll_create1(2) and timerfd_create(2).
    pub fn new(now: Instant, config: &StackConfig) -> Result<Option<Self>, Errno> {
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(errno)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut sockets = Kernel { epoll, open: FxHashMap::default(), next: TIMER };
        let seed = u64::from_ne_bytes(seed);
        let Some(steward) = Steward::new(now, &mut sockets, config, seed)? else { return Ok(None) };
        let timer =
            TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        sockets.epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER))?;
        let made = Self { steward, sockets, timer };
        made.set_timer(now);
        Ok(Some(made))
    }

    /// For how many seconds an interface has its lease.
    pub fn left(&self, now: Instant, interface: &str) -> Option<u64> {
        self.steward.left(now, interface)
    }

    /// For how many seconds an interface has its lease of DHCPv6.
    pub fn left_v6(&self, now: Instant, interface: &str) -> Option<u64> {
        self.steward.left_v6(now, interface)
    }

    /// The stack ends. New sockets are made in the namespace that this process is in.
    pub fn end(&mut self, now: Instant) {
        self.steward.end(now, &mut self.sockets);
    }

    /// Takes what there is. New sockets are made in the namespace that this process is in.
    pub fn turn(&mut self, now: Instant) {
        // Edge-triggered: what is not taken from the set stays readable.
        let mut events = [EpollEvent::empty(); 16];
        while self.sockets.epoll.wait(&mut events, 0u8).is_ok_and(|count| count == events.len()) {}
        self.steward.turn(now, &mut self.sockets);
        self.set_timer(now);
    }

    fn set_timer(&self, now: Instant) {
        let Some(at) = self.steward.poll_timeout() else { return };
        // Nothing would disarm it.
        let wait = at.saturating_duration_since(now).max(Duration::from_millis(1));
        let _ =
            self.timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty());
    }
}

impl AsFd for KernelSteward {
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
        rustix::net::bind(&socket, &at.unwrap_or_else(|| SocketAddr::new(any, 0))).map_err(errno)?;
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

    fn client(&mut self, interface: &str) -> Result<u64, Errno> {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), CLIENT);
        let socket = new(any, SocketType::DGRAM)?;
        sockopt::set_socket_broadcast(&socket, true).map_err(errno)?;
        setsockopt(&socket, BindToDevice, &interface.into())?;
        rustix::net::bind(&socket, &any).map_err(errno)?;
        self.keep(socket)
    }

    fn change(&mut self, interface: &str, change: &Change) {
        let changed = Interfaces::open().and_then(|mut it| it.change_lease(interface, change));
        if let Err(why) = changed {
            log::warn!("{interface}: {}: {}", why.what, why.why);
        }
    }

    fn client_v6(&mut self, interface: &str) -> Result<u64, Errno> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), dhcp6::CLIENT);
        let socket = new(any, SocketType::DGRAM)?;
        sockopt::set_ipv6_v6only(&socket, true).map_err(errno)?;
        setsockopt(&socket, BindToDevice, &interface.into())?;
        rustix::net::bind(&socket, &any).map_err(errno)?;
        self.keep(socket)
    }

    fn routers(&mut self, interface: &str) -> Result<u64, Errno> {
        let (family, flags) = (AddressFamily::INET6, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let protocol = Some(rustix::net::ipproto::ICMPV6);
        let socket = socket_with(family, SocketType::RAW, flags, protocol).map_err(errno)?;
        hear_only(socket.as_fd(), advertise::ADVERTISEMENT)?;
        setsockopt(&socket, BindToDevice, &interface.into())?;
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        self.keep(socket)
    }

    fn advertisement(&mut self, socket: u64, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr)> {
        let socket = self.get(socket).ok()?;
        loop {
            let mut control = nix::cmsg_space!(libc::c_int);
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            match recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    let hops = message.cmsgs().ok()?.find_map(|it| match it {
                        ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
                        _ => None,
                    });
                    let (length, from) = (message.bytes, message.address?.ip());
                    if hops == Some(advertise::HOPS.into()) && from.is_unicast_link_local() {
                        return Some((length, from));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn heard(&mut self, interface: &str, heard: &Heard) {
        if let Err(why) = Interfaces::open().and_then(|mut it| it.follow_router(interface, heard)) {
            log::warn!("{interface}: {}: {}", why.what, why.why);
        }
    }

    fn change_v6(&mut self, _: Instant, interface: &str, change: &dhcp6::client::Change) {
        let changed = Interfaces::open().and_then(|mut it| it.change_lease_v6(interface, change));
        if let Err(why) = changed {
            log::warn!("{interface}: {}: {}", why.what, why.why);
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
