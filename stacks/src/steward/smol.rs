//! The steward of a smol stack: sockets of its engine that no program has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use nix::errno::Errno;

use super::Sockets;
use super::renewal::{CLIENT, Change};
use crate::dhcp6;
use crate::gateway::advertise::{self, Heard};
use crate::smol::call::{Caller, SocketCall};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::sockets::address::{Domain, Endpoint, family, parse_in, parse_in6, write};
use crate::stack::SocketSpec;

/// linux/icmpv6.h: which types of message a raw socket does not hear.
const ICMP6_FILTER: i32 = 1;
/// Connections that wait for us.
const BACKLOG: i32 = 16;

/// An engine, at a moment.
pub(crate) struct Of<'e> {
    pub(crate) engine: &'e mut Engine,
    pub(crate) now: Instant,
}

/// Ourselves, as the stack's owner.
const CALLER: Caller = Caller { pid: 0, uid: 0, fd: -1, rights: true };

impl Of<'_> {
    fn socket(&mut self, like: SocketAddr, kind: i32) -> Result<SocketId, Errno> {
        let spec = SocketSpec { domain: domain(like).family(), kind, protocol: 0 };
        self.engine.socket(self.now, spec, &CALLER)
    }

    fn call(&mut self, id: SocketId, call: &SocketCall) -> Result<(), Errno> {
        self.engine.call(self.now, id, &CALLER, call).map(drop)
    }

    /// A new socket, on which calls are made; it goes if one of them fails.
    fn make(&mut self, like: SocketAddr, kind: i32, calls: &[SocketCall]) -> Result<SocketId, Errno> {
        let id = self.socket(like, kind)?;
        for call in calls {
            match self.call(id, call) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(errno) => {
                    self.close(id);
                    return Err(errno);
                }
            }
        }
        Ok(id)
    }
}

fn option(level: i32, name: i32, value: &[u8]) -> SocketCall {
    SocketCall::SetOption { level, name, value: value.to_vec() }
}

fn domain(address: SocketAddr) -> Domain {
    if address.is_ipv4() { Domain::V4 } else { Domain::V6 }
}

fn bytes(address: SocketAddr) -> Vec<u8> {
    let mut out = Vec::new();
    write(domain(address), &Endpoint::new(address.ip(), address.port()), &mut out);
    out
}

fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let parsed = if family(bytes)? == libc::AF_INET { parse_in(bytes) } else { parse_in6(bytes) };
    parsed.ok().map(|it| SocketAddr::new(it.address, it.port))
}

impl Sockets for Of<'_> {
    type Id = SocketId;

    fn datagrams(&mut self, at: Option<SocketAddr>, like: SocketAddr) -> Result<SocketId, Errno> {
        let bind = at.map(|at| SocketCall::Bind { address: bytes(at) });
        self.make(like, libc::SOCK_DGRAM, bind.as_slice())
    }

    fn listener(&mut self, at: SocketAddr) -> Result<SocketId, Errno> {
        let calls = [SocketCall::Bind { address: bytes(at) }, SocketCall::Listen { backlog: BACKLOG }];
        self.make(at, libc::SOCK_STREAM, &calls)
    }

    fn connection(&mut self, to: SocketAddr) -> Result<SocketId, Errno> {
        self.make(to, libc::SOCK_STREAM, &[SocketCall::Connect { address: bytes(to) }])
    }

    fn accept(&mut self, listener: SocketId) -> Option<SocketId> {
        self.engine.accept(self.now, listener).map(|(id, _)| id)
    }

    fn receive(&mut self, socket: SocketId, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let mut got = None;
        // One without a sender is an error of what was sent; it is taken with the next status.
        while got.is_none() && self.engine.status(socket).readable > 0 {
            let taken = self.engine.receive_datagram(socket, &mut |datagram| {
                let length = datagram.data.len().min(buffer.len());
                buffer[..length].copy_from_slice(&datagram.data[..length]);
                got = parse(datagram.from).map(|from| (length, from));
                true
            });
            if !taken {
                break;
            }
        }
        got
    }

    fn send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8]) {
        // The error of an earlier one is told once.
        for _ in 0..2 {
            if self.engine.send_datagram(self.now, socket, Some(&bytes(to)), data).is_ok() {
                return;
            }
        }
    }

    fn read(&mut self, socket: SocketId, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut got = 0;
        self.engine.receive_with(self.now, socket, &mut |piece| {
            let count = piece.len().min(buffer.len() - got);
            buffer[got..got + count].copy_from_slice(&piece[..count]);
            got += count;
            count
        });
        let status = self.engine.status(socket);
        match (got, status.error) {
            (0, Some(errno)) => Err(errno),
            (0, None) if !status.receive_finished => Err(Errno::EAGAIN),
            _ => Ok(got),
        }
    }

    fn write(&mut self, socket: SocketId, data: &[u8]) -> Result<usize, Errno> {
        let mut put = 0;
        self.engine.send_with(self.now, socket, &mut |room| {
            let count = room.len().min(data.len() - put);
            room[..count].copy_from_slice(&data[put..put + count]);
            put += count;
            count
        });
        match (put, self.engine.status(socket).error) {
            (0, Some(errno)) => Err(errno),
            (0, None) => Err(Errno::EAGAIN),
            _ => Ok(put),
        }
    }

    fn finish(&mut self, socket: SocketId) {
        // One that has gone says so when it is read.
        let _ = self.call(socket, &SocketCall::Shutdown { how: libc::SHUT_WR });
    }

    fn client(&mut self, interface: &str) -> Result<SocketId, Errno> {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), CLIENT);
        let calls = [
            option(libc::SOL_SOCKET, libc::SO_BROADCAST, &1i32.to_ne_bytes()),
            option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes()),
            SocketCall::Bind { address: bytes(any) },
        ];
        self.make(any, libc::SOCK_DGRAM, &calls)
    }

    fn change(&mut self, interface: &str, change: &Change) {
        if let Err(why) = self.engine.change_lease(self.now, interface, change) {
            log::warn!("{interface}: {}: {}", why.what, why.why);
        }
    }

    fn client_v6(&mut self, interface: &str) -> Result<SocketId, Errno> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), dhcp6::CLIENT);
        let calls = [
            option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32.to_ne_bytes()),
            option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes()),
            SocketCall::Bind { address: bytes(any) },
        ];
        self.make(any, libc::SOCK_DGRAM, &calls)
    }

    fn routers(&mut self, interface: &str) -> Result<SocketId, Errno> {
        let spec =
            SocketSpec { domain: libc::AF_INET6, kind: libc::SOCK_RAW, protocol: libc::IPPROTO_ICMPV6 };
        let id = self.engine.socket(self.now, spec, &CALLER)?;
        // All types but one, a bit each.
        let mut refused = [0xFF; 32];
        refused[usize::from(advertise::ADVERTISEMENT) / 32 * 4..][..4]
            .copy_from_slice(&(!(1u32 << (advertise::ADVERTISEMENT % 32))).to_ne_bytes());
        let calls = [
            option(libc::IPPROTO_ICMPV6, ICMP6_FILTER, &refused),
            option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes()),
            option(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &1i32.to_ne_bytes()),
        ];
        for call in &calls {
            self.call(id, call).inspect_err(|_| self.engine.close(self.now, id, false))?;
        }
        Ok(id)
    }

    fn advertisement(&mut self, socket: SocketId, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr)> {
        let mut got = None;
        while got.is_none() && self.engine.status(socket).readable > 0 {
            let taken = self.engine.receive_datagram(socket, &mut |datagram| {
                let length = datagram.data.len().min(buffer.len());
                buffer[..length].copy_from_slice(&datagram.data[..length]);
                // The one option that was asked for: its header is 16 bytes, then the number.
                let hops = datagram.control.get(16..20) == Some(&i32::from(advertise::HOPS).to_ne_bytes());
                got = match parse(datagram.from).map(|from| from.ip()) {
                    Some(IpAddr::V6(from)) if hops && from.is_unicast_link_local() => Some((length, from)),
                    _ => None,
                };
                true
            });
            if !taken {
                break;
            }
        }
        got
    }

    fn heard(&mut self, _: &str, _: &Heard) {
        // The engine has heard it itself.
    }

    fn change_v6(&mut self, now: Instant, interface: &str, change: &dhcp6::client::Change) {
        if let Err(why) = self.engine.change_lease_v6(now, interface, change) {
            log::warn!("{interface}: {}: {}", why.what, why.why);
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.engine.close(self.now, socket, false);
    }
}
