//! Steering: a program's socket goes to the stack that the rules of its view choose.
//!
//! # Theory of operation
//! A socket is made on the default stack of its family. When its program says where it is to go (connect, the first
//! send with an address) or where it is (bind to an address that another stack of the view has), the rules
//! are asked ([`crate::rules`]). If another stack answers, a socket of the same kind is made there and
//! takes the place of the first: with its options ([`options`]), flags and wildcard port, under each number that
//! the program has it as, and in each epoll set. Then the call goes on as if nothing had been, and
//! nothing is looked at any more until the program names a destination again.
//!
//! Which stack a socket is on is not remembered but read from it: a socket of the kernel knows its namespace
//! (SO_NETNS_COOKIE, Linux 5.14), one of a library is known by its inode. A socket of none of the view's stacks, one that was
//! inherited, is left alone.
//!
//! A socket stays where it is when it
//! - is bound to an address that is not the wildcard, by a rule about binding, or to a device: that has chosen its stack;
//! - is a stream that is connected, connecting or listening;
//! - is a datagram socket that has sent or is connected, if it is to *send* elsewhere: [`ELSEWHERE`]. To connect(2) it anew
//!   may move it.
//!
//! Which of its names a program gave a socket by bind(2) is the one thing that the kernel does not tell; it is
//! remembered in [`Bound`] for as many sockets as [`MAX_BOUND`].
//!
//! Calls on sockets of the kernel are run by the kernel afterwards, which reads the address again: a program that changes
//! it meanwhile goes where its socket is. Rules choose a network; they do not confine programs that attack them.

mod options;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use stacks::smol::call::{Done, SocketCall, SocketHost, Ticket};
use stacks::stack::SocketSpec;

use crate::desk::Door;
use crate::handlers::Caller;
use crate::handlers::steer::{Course, ELSEWHERE, Use};
use crate::rules::{Destination, Transport};
use crate::sys::seccomp::Notification;
use crate::sys::socket as sys;
use crate::target::Target;
use crate::views::{At, Known, Source};
pub(crate) use options::Fresh;

/// Most sockets whose bind(2) is remembered; the oldest are forgotten first, and count as bound by the kernel.
const MAX_BOUND: usize = 1 << 16;
/// Most sockets of [`Chosen`]; the oldest are forgotten first, and go where the rules say.
const MAX_CHOSEN: usize = 1 << 16;
/// SO_NETNS_COOKIE, asm-generic/socket.h.
const NETNS_COOKIE: i32 = 71;
/// TCP_CLOSE, net/tcp_states.h: what `tcpi_state` of a stream is that does nothing.
const CLOSED: u8 = 7;
/// The number of the calls that are made here: answered at once, so one is enough. The desk counts from 1.
const TICKET: Ticket = Ticket(0);

/// Sockets that their programs bound, by inode.
#[derive(Debug, Default)]
pub(crate) struct Bound(BTreeMap<u64, Binding>);

#[derive(Debug, Clone, Copy)]
struct Binding {
    /// The port was the kernel's choice.
    any_port: bool,
    /// It has sent to an address.
    sent: bool,
    /// A rule about bind(2) chose its stack: it stays there.
    placed: bool,
}

impl Bound {
    fn insert(&mut self, inode: u64, binding: Binding) {
        if self.0.len() >= MAX_BOUND {
            self.0.pop_first();
        }
        self.0.insert(inode, binding);
    }
}

/// Sockets whose programs chose their stack by msocket(), by inode: they stay there.
#[derive(Debug, Default)]
pub(crate) struct Chosen(BTreeSet<u64>);

impl Chosen {
    /// Adds a new socket.
    pub(crate) fn insert(&mut self, socket: &OwnedFd) {
        if self.0.len() >= MAX_CHOSEN {
            self.0.pop_first();
        }
        self.0.extend(rustix::fs::fstat(socket).map(|stat| stat.st_ino));
    }
}

/// One call's way.
pub(crate) struct Steer<'a, 'k> {
    /// The thread.
    pub(crate) known: &'a mut Known<'k>,
    /// Its program.
    pub(crate) target: &'a mut dyn Target,
    /// Where descriptors are put.
    pub(crate) door: &'a dyn Door,
    /// The call.
    pub(crate) call: &'a Notification,
}

/// A socket of one of the view's stacks.
struct Socket {
    file: OwnedFd,
    inode: u64,
    /// It is a library's.
    library: bool,
    at: At,
    spec: SocketSpec,
}

impl Socket {
    fn is_stream(&self) -> bool {
        self.spec.kind == libc::SOCK_STREAM
    }

    fn transport(&self) -> Option<Transport> {
        match (self.spec.kind, self.spec.protocol) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => Some(Transport::Tcp),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => Some(Transport::Udp),
            _ => None,
        }
    }
}

impl Steer<'_, '_> {
    /// Brings the call's socket to where the rules want it. An error is the call's.
    pub(crate) fn steer(&mut self, course: &Course) -> Result<(), Errno> {
        let Some(view) = self.known.view(self.target)?.filter(|view| self.known.views.steers(*view)) else {
            return Ok(());
        };
        // What cannot be looked at, or is no socket of the view, is the kernel's affair.
        let Ok(file) = self.target.take(course.fd) else { return Ok(()) };
        let Some(socket) = self.recognize(view, file) else { return Ok(()) };
        match course.use_ {
            Use::Bind => self.bind(view, course, socket),
            Use::Send if socket.is_stream() => Ok(()),
            Use::Connect | Use::Send => self.go(view, course, socket),
        }
    }

    fn go(&mut self, view: u64, course: &Course, socket: Socket) -> Result<(), Errno> {
        let mut to = None;
        for bytes in &course.addresses {
            let Some((address, port)) = address(bytes, course.use_ == Use::Send) else { return Ok(()) };
            let port = socket.transport().map(|_| port);
            let destination = Destination { address, port, transport: socket.transport() };
            let at = self.known.views.decide(view, &destination)?;
            // One call, one stack.
            if *to.get_or_insert(at) != at {
                return Err(ELSEWHERE);
            }
        }
        let Some(to) = to else { return Ok(()) };
        let binding = self.known.views.bound.0.get(&socket.inode).copied();
        let sends = course.use_ == Use::Send;
        if to == socket.at {
            if let Some(binding) = binding.filter(|_| sends) {
                self.known.views.bound.insert(socket.inode, Binding { sent: true, ..binding });
            }
            return Ok(());
        }
        let name = self.ask(&socket, SocketCall::LocalName)?;
        let Some((local, port)) = address(&name, false) else { return Ok(()) };
        let named = binding.is_some_and(|binding| binding.placed || !local.is_unspecified());
        let chosen = named || self.has_device(&socket);
        if chosen || socket.is_stream() && self.is_busy(&socket) {
            return Ok(());
        }
        let settled = port != 0 && binding.is_none_or(|binding| binding.sent);
        if sends && socket.spec.kind != libc::SOCK_RAW && settled {
            return Err(ELSEWHERE);
        }
        let bound = binding.filter(|_| port != 0);
        let new = self.remake(course.fd, socket, to, bound.map(|binding| (name, binding.any_port)))?;
        if let Some(binding) = bound {
            self.known.views.bound.insert(new, Binding { sent: sends, ..binding });
        }
        Ok(())
    }

    fn bind(&mut self, view: u64, course: &Course, socket: Socket) -> Result<(), Errno> {
        let Some((local, port)) = course.addresses.first().and_then(|bytes| address(bytes, true)) else {
            return Ok(());
        };
        let transport = socket.transport();
        let name = Destination { address: local, port: Some(port), transport };
        let placed = match port != 0 && transport.is_some() {
            true => self.known.views.decide_bind(view, &name)?,
            false => None,
        };
        let binding = Binding { any_port: port == 0, sent: false, placed: placed.is_some() };
        let home = match placed {
            Some(at) => Some(at),
            None => self.home_of(view, &socket, local, &course.addresses[0])?,
        };
        let inode = match home {
            Some(at) if at != socket.at && !self.has_device(&socket) && self.is_fresh(&socket) => {
                self.remake(course.fd, socket, at, None)?
            }
            _ => socket.inode,
        };
        self.known.views.bound.insert(inode, binding);
        Ok(())
    }

    /// The stack that has the address that a socket is to be bound to, the one where the socket is before all others.
    fn home_of(
        &mut self,
        view: u64,
        socket: &Socket,
        local: IpAddr,
        wanted: &[u8],
    ) -> Result<Option<At>, Errno> {
        // One that was to have another port, which it could not, is as new.
        let placed = self.known.views.bound.0.get(&socket.inode).is_some_and(|binding| binding.placed);
        let here = if placed { self.known.views.default_of(view, socket.spec.domain)? } else { socket.at };
        if local.is_unspecified() || self.has_address(here, &socket.spec, wanted) {
            return Ok(Some(here));
        }
        let others = self.known.views.places(view).into_iter().filter(|at| *at != here);
        Ok(others.collect::<Vec<_>>().into_iter().find(|at| self.has_address(*at, &socket.spec, wanted)))
    }

    /// What a socket is, if it is an internet socket of one of the view's stacks, and the program did not choose that.
    fn recognize(&mut self, view: u64, file: OwnedFd) -> Option<Socket> {
        let inode = rustix::fs::fstat(&file).ok()?.st_ino;
        if self.known.views.chosen.0.contains(&inode) {
            return None;
        }
        let library = i32::from(rustix::net::sockopt::socket_domain(&file).ok()?.as_raw()) == libc::AF_UNIX;
        let places = self.known.views.places(view);
        let at = if library {
            let ours = self.known.smol.as_deref()?.stack_of(inode)?;
            let is_it = |at: &At| matches!(self.known.views.source(*at), Some(Source::Smol { stack, .. }) if *stack == ours);
            places.iter().copied().find(is_it)
        } else {
            None
        };
        let spec = SocketSpec { domain: 0, kind: 0, protocol: 0 };
        let mut socket = Socket { file, inode, library, at: At::own(view), spec };
        socket.at = match at {
            Some(at) => at,
            // The stack may be one that we have joined twice: for an outer view, and for this one.
            None => {
                let cookie = self.cookie(&socket)?;
                places.into_iter().find(|at| self.cookie_of(*at) == Some(cookie))?
            }
        };
        let mut number = |name| self.number(&socket, libc::SOL_SOCKET, name);
        let spec = SocketSpec {
            domain: number(libc::SO_DOMAIN)?,
            kind: number(libc::SO_TYPE)?,
            protocol: number(libc::SO_PROTOCOL)?,
        };
        socket.spec = spec;
        [libc::AF_INET, libc::AF_INET6].contains(&spec.domain).then_some(socket)
    }

    /// What names the network that a socket is in, among all (SO_NETNS_COOKIE).
    fn cookie(&mut self, socket: &Socket) -> Option<u64> {
        let call = SocketCall::GetOption { level: libc::SOL_SOCKET, name: NETNS_COOKIE, value: vec![0; 8] };
        Some(u64::from_ne_bytes(self.ask(socket, call).ok()?.try_into().ok()?))
    }

    /// The same of a stack.
    fn cookie_of(&mut self, at: At) -> Option<u64> {
        if let Some(known) = self.known.views.cookies.get(&at) {
            return *known;
        }
        if matches!(self.known.views.source(at), Some(Source::Gone | Source::Outer) | None) {
            return None;
        }
        let spec =
            SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol: 0 };
        let found = self.made(at, spec).ok().and_then(|socket| self.cookie(&socket));
        self.known.views.cookies.insert(at, found);
        found
    }

    /// Whether a stack has the address that a socket shall be bound to: by trying, on any port.
    fn has_address(&mut self, at: At, like: &SocketSpec, address: &[u8]) -> bool {
        let spec = SocketSpec { kind: libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol: 0, ..*like };
        let mut address = address.to_vec();
        address[2..4].fill(0);
        let Ok(socket) = self.made(at, spec) else { return false };
        self.ask(&socket, SocketCall::Bind { address }).is_ok()
    }

    fn has_device(&mut self, socket: &Socket) -> bool {
        let value = vec![0; libc::IFNAMSIZ];
        let call = SocketCall::GetOption { level: libc::SOL_SOCKET, name: libc::SO_BINDTODEVICE, value };
        self.ask(socket, call).is_ok_and(|name| name.first().is_some_and(|byte| *byte != 0))
    }

    /// Whether a stream is connected, connecting or listening.
    fn is_busy(&mut self, socket: &Socket) -> bool {
        let call = |name| SocketCall::GetOption { level: libc::IPPROTO_TCP, name, value: vec![0; 8] };
        match self.ask(socket, call(libc::TCP_INFO)) {
            Ok(info) => info.first() != Some(&CLOSED),
            // Another protocol than TCP.
            Err(_) => !self.is_fresh(socket),
        }
    }

    /// Whether a socket has no name yet; a raw one always has, its protocol.
    fn is_fresh(&mut self, socket: &Socket) -> bool {
        let name = self.ask(socket, SocketCall::LocalName).unwrap_or_default();
        let unnamed = |(local, port): (IpAddr, u16)| local.is_unspecified() && port == 0;
        socket.spec.kind == libc::SOCK_RAW || address(&name, false).is_none_or(unnamed)
    }

    fn made(&mut self, at: At, spec: SocketSpec) -> Result<Socket, Errno> {
        let file = self.known.make(at, spec, self.target)?;
        let stat = rustix::fs::fstat(&file).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let library = matches!(self.known.views.source(at), Some(Source::Smol { .. }));
        // As SO_TYPE says it, which has no flags.
        let spec = SocketSpec { kind: spec.kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK), ..spec };
        Ok(Socket { file, inode: stat.st_ino, library, at, spec })
    }

    /// Makes a socket on another stack as `old` is, and puts it wherever the program has that. Returns its inode.
    fn remake(&mut self, fd: i32, old: Socket, to: At, bound: Option<(Vec<u8>, bool)>) -> Result<u64, Errno> {
        let spec = SocketSpec { kind: old.spec.kind | libc::SOCK_CLOEXEC, ..old.spec };
        // A view without this network has no way there.
        let new = self.made(to, spec).map_err(|errno| match errno {
            Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => ELSEWHERE,
            other => other,
        })?;
        options::copy(self, &old, &new)?;
        sys::copy_flags(old.file.as_fd(), new.file.as_fd())?;
        if let Some((mut address, any_port)) = bound {
            match self.ask(&new, SocketCall::Bind { address: address.clone() }) {
                Err(Errno::EADDRINUSE) if any_port => {
                    address[2..4].fill(0);
                    self.ask(&new, SocketCall::Bind { address })?;
                }
                done => drop(done?),
            }
        }
        self.replace(fd, &old, &new)?;
        Ok(new.inode)
    }

    /// Puts `new` wherever the program has `old`.
    fn replace(&mut self, fd: i32, old: &Socket, new: &Socket) -> Result<(), Errno> {
        let copies = self.target.copies(fd)?;
        for watch in &copies.watches {
            // A set that is closed meanwhile needs nothing.
            let Ok(epoll) = self.target.take(watch.epoll) else { continue };
            let event = Some((watch.events, watch.data));
            // Also for other processes that still have the old one.
            let _ = sys::watch_as(epoll.as_fd(), old.file.as_fd(), watch.number, None);
            if let Err(errno) = sys::watch_as(epoll.as_fd(), new.file.as_fd(), watch.number, event) {
                log::warn!(
                    "a socket that was moved to another stack is not watched any more: {}",
                    errno.desc()
                );
            }
        }
        for (number, cloexec) in copies.numbers {
            match self.door.put_at(self.call.id, number, new.file.as_fd(), cloexec) {
                // The call has gone; made anew, it comes here again.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn number(&mut self, socket: &Socket, level: i32, name: i32) -> Option<i32> {
        let bytes = self.ask(socket, SocketCall::GetOption { level, name, value: vec![0; 4] }).ok()?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// Makes a call that is answered at once, on a socket of either kind.
    fn ask(&mut self, socket: &Socket, call: SocketCall) -> Result<Vec<u8>, Errno> {
        if !socket.library {
            return ask_kernel(socket.file.as_fd(), call);
        }
        let who = self.known.identity(self.target)?;
        let file = socket.file.try_clone().map_err(|_| Errno::EMFILE)?;
        let host = self.known.smol.as_deref_mut().ok_or(Errno::ENETDOWN)?;
        match host.call(self.known.now, TICKET, &who, file, call) {
            Some((Ok(Done::Bytes(bytes) | Done::Address(bytes)), _)) => Ok(bytes),
            Some((Ok(_), _)) => Ok(Vec::new()),
            Some((Err(errno), _)) => Err(errno),
            None => {
                host.cancel(TICKET);
                Err(Errno::EAGAIN)
            }
        }
    }
}

/// The same call on a socket of the kernel.
fn ask_kernel(socket: std::os::fd::BorrowedFd<'_>, call: SocketCall) -> Result<Vec<u8>, Errno> {
    match call {
        SocketCall::GetOption { level, name, mut value } => {
            let used = sys::option(socket, level, name, &mut value)?;
            value.truncate(used);
            Ok(value)
        }
        SocketCall::SetOption { level, name, value } => {
            sys::set_option(socket, level, name, &value).map(|()| Vec::new())
        }
        SocketCall::Bind { address } => sys::bind(socket, &address).map(|()| Vec::new()),
        SocketCall::LocalName => sys::local_name(socket),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Address and port of a struct sockaddr_in or sockaddr_in6. AF_UNSPEC is AF_INET to bind(2) and sends, and for connect(2) no address.
fn address(bytes: &[u8], unspec: bool) -> Option<(IpAddr, u16)> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_UNSPEC if !unspec => None,
        libc::AF_INET | libc::AF_UNSPEC => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some((Ipv4Addr::from(octets).into(), port))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some((Ipv6Addr::from(octets).to_canonical(), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
