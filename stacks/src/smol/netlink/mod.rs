//! Netlink: how programs look at a stack and change it (netlink(7), rtnetlink(7), sock_diag(7)).
//!
//! # Theory of operation
//! A [`Socket`] is one AF_NETLINK socket, of any protocol, sans-I/O: a datagram that the program sent goes into
//! [`Socket::handle`], what it may receive is at [`Socket::front`]. Requests work on a [`World`], the stack as
//! seen from here. A request is answered at once, but for a dump: that is made piece by piece as the program
//! reads, so that a reader who does not read costs nothing.
//!
//! The pieces are what Linux puts into its first one, [`CHUNK`] bytes, so that they fit the buffer of every
//! reader; Linux makes longer ones once it has seen a longer buffer. Changes of the tables go to everybody who
//! listens: [`notice`] makes messages of a change, [`Socket::offer`] takes those of its groups. A listener
//! that does not read loses messages and gets ENOBUFS, as in Linux.
//!
//! Files: `wire` knows bytes, `reply` framing, acknowledgements and dumps, `route` and `diag` two protocols, `other` the rest,
//! which only says no; `options` is what bind(2), getsockname(2) and setsockopt(2) do; `ioctl` is the older way
//! to the same tables (netdevice(7)), `proc` one that only looks (proc_net(5)).
//!
//! Not here: moving interfaces between stacks, routing rules, multipath routes, NLM_F_ECHO.

mod diag;
pub mod ioctl;
mod options;
mod other;
pub(super) mod proc;
mod reply;
mod route;
pub(super) mod sys;
mod wire;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::net::{Net, Path, Wish};
use super::tables::Tables;
use reply::Dump;
use wire::next_request;

pub use diag::{DiagSocket, DiagTimer, tcp_info};
pub use options::{Ports, address};
pub use route::notice;

/// Bytes in one piece of a dump (NLMSG_GOODSIZE): a page less Linux's own needs, for readers with page-sized
/// buffers such as glibc and Go.
pub const CHUNK: usize = 3776;
/// Longest request (the default of net.core.wmem_default, to which a socket's send buffer is set).
pub const MAX_REQUEST: usize = 212_992;
/// Bytes that may wait for a program to read them (net.core.rmem_default).
pub const MAX_QUEUED: usize = 212_992;

/// The stack as seen through netlink.
pub trait World {
    /// Its tables.
    fn tables(&self) -> &Tables;
    /// Its tables, to be changed; [`Tables::changes`] is the caller's to drain afterwards.
    fn tables_mut(&mut self) -> &mut Tables;
    /// Which way to a destination, as [`Net::route`].
    ///
    /// # Errors
    /// Those of [`Net::route`].
    fn route(&self, destination: IpAddr, wish: &Wish) -> Result<Path, Errno>;
    /// Its sockets of a family (AF_*) and protocol (IPPROTO_*; 0 where the family has none). Called once per dump.
    fn sockets(&self, family: u8, protocol: u8) -> Vec<DiagSocket>;
}

impl World for Net {
    fn tables(&self) -> &Tables {
        &self.tables
    }
    fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }
    fn route(&self, destination: IpAddr, wish: &Wish) -> Result<Path, Errno> {
        Self::route(self, destination, wish)
    }
    fn sockets(&self, _family: u8, _protocol: u8) -> Vec<DiagSocket> {
        Vec::new()
    }
}

/// One datagram for the program. It comes from port 0, the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Whole messages.
    pub data: Vec<u8>,
    /// The group it went to, 0 if it is an answer: `nl_groups` and `struct nl_pktinfo`.
    pub group: u32,
}

/// A message for those who listen to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// RTNLGRP_*
    pub group: u32,
    /// One message.
    pub message: Vec<u8>,
}

/// An AF_NETLINK socket.
#[derive(Debug)]
pub struct Socket {
    protocol: i32,
    port: u32,
    /// Bit n is group n + 1.
    groups: u64,
    options: options::Options,
    ready: VecDeque<Datagram>,
    queued: usize,
    dump: Option<Dump>,
    error: Option<Errno>,
}

impl Socket {
    /// A socket of a protocol, NETLINK_*.
    ///
    /// # Errors
    /// EPROTONOSUPPORT.
    pub fn new(protocol: i32) -> Result<Self, Errno> {
        if !options::is_protocol(protocol) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(Self {
            protocol,
            port: 0,
            groups: 0,
            options: options::Options::default(),
            ready: VecDeque::new(),
            queued: 0,
            dump: None,
            error: None,
        })
    }

    /// The program sent a datagram to the kernel. The socket must have its port by now ([`Ports::claim`]).
    /// `rights`: it may change things.
    ///
    /// # Errors
    /// EMSGSIZE. What is wrong with a request is told in the reply.
    pub fn handle(
        &mut self,
        request: &[u8],
        world: &mut dyn World,
        now: Instant,
        rights: bool,
    ) -> Result<(), Errno> {
        if request.len() > MAX_REQUEST {
            return Err(Errno::EMSGSIZE);
        }
        let mut rest = request;
        while let Some((one, behind)) = next_request(rest) {
            rest = behind;
            self.handle_one(&one, world, now, rights);
            // A program that never reads gets no more answers than fit (Linux: ENOBUFS to the sender).
            if self.queued > MAX_QUEUED {
                self.error = Some(Errno::ENOBUFS);
                break;
            }
        }
        Ok(())
    }

    /// Protocol, port, the first 32 groups, bytes that wait, whether it is being told a list.
    pub(crate) fn numbers(&self) -> (i32, u32, u32, usize, bool) {
        (self.protocol, self.port, self.groups as u32, self.queued, self.dump.is_some())
    }

    /// There is something to receive.
    pub fn is_readable(&self) -> bool {
        !self.ready.is_empty() || self.dump.is_some()
    }

    /// The oldest datagram; makes the next piece of a dump if there is none.
    pub fn front(&mut self, world: &dyn World, now: Instant) -> Option<&Datagram> {
        if self.ready.is_empty()
            && let Some(dump) = &mut self.dump
        {
            let (data, done) = dump.next_chunk(world, now);
            if done {
                self.dump = None;
            }
            self.push(data, 0);
        }
        self.ready.front()
    }

    /// The oldest datagram was received.
    pub fn pop(&mut self) {
        if let Some(datagram) = self.ready.pop_front() {
            self.queued -= datagram.data.len();
        }
    }

    /// Something changed: takes the message if the socket listens to its group.
    pub fn offer(&mut self, notice: &Notice) {
        if self.protocol != libc::NETLINK_ROUTE || !self.listens_to(notice.group) {
            return;
        }
        if self.queued + notice.message.len() > self.options.receive_buffer {
            if !self.options.no_enobufs {
                self.error = Some(Errno::ENOBUFS);
            }
            return;
        }
        self.push(notice.message.clone(), notice.group);
    }

    /// A pending error (SO_ERROR, or what the next receive gives), taken.
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    fn push(&mut self, data: Vec<u8>, group: u32) {
        self.queued += data.len();
        self.ready.push_back(Datagram { data, group });
    }
}

#[cfg(test)]
mod tests;
