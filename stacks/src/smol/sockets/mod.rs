//! The socket layer: what is between the programs' calls and the network layer.
//!
//! # Theory of operation
//! A [`Socket`] is what Linux calls a `struct sock`: names, options, a pending error, and a [`Body`] by kind.
//! The tables find it: `table` a packet's receiver, `ports` whether a name is free. Each kind has its file
//! with the calls on it and the packets for it; `options` has what getsockopt and setsockopt know, one table
//! per level. A TCP socket exists from the SYN that a listener takes, before a program has it
//! ([`Socket::held`]), until its connection is through with TIME-WAIT, long after the program let go of it.

pub(crate) mod address;
pub(crate) mod bpf;
pub(crate) mod calls;
pub(crate) mod cmsg;
pub(crate) mod connect;
pub(crate) mod datagram;
pub(crate) mod diag;
pub(crate) mod errors;
pub(crate) mod groups;
pub(crate) mod icmp;
pub(crate) mod ioctl;
pub(crate) mod keyed;
pub(crate) mod life;
pub(crate) mod listener;
pub(crate) mod lite;
pub(crate) mod names;
pub(crate) mod netlink;
pub(crate) mod options;
pub(crate) mod packet;
pub(crate) mod ports;
pub(crate) mod queue;
pub(crate) mod raw;
pub(crate) mod ring;
pub(crate) mod send;
pub(crate) mod slots;
pub(crate) mod spkt;
pub(crate) mod table;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use self::address::{Domain, Endpoint};
use self::datagram::Datagrams;
use self::netlink::NetlinkSocket;
use self::options::Options;
use self::packet::PacketSocket;
use self::tcp::Stream;
use super::net::Path;
use super::wheel::Timer;

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// AF_INET or AF_INET6; of no meaning for the others.
    pub(crate) domain: Domain,
    /// IPPROTO_*, some of which no packet can have; a netlink family; unused by packet sockets.
    pub(crate) protocol: u16,
    /// SOCK_*
    pub(crate) kind: i32,
    /// Whose it is.
    pub(crate) uid: u32,
    /// A program has a descriptor of it.
    pub(crate) held: bool,
    /// It waits in the list of those that changed.
    pub(crate) dirty: bool,
    /// SHUT_RD was done.
    pub(crate) shut_receive: bool,
    /// SHUT_WR was done.
    pub(crate) shut_send: bool,
    /// The program chose the address (SOCK_BINDADDR_LOCK).
    pub(crate) chosen_address: bool,
    /// The program chose the port (SOCK_BINDPORT_LOCK).
    pub(crate) chosen_port: bool,
    /// `local` is a group's or everybody's address: datagrams come to it and do not come from it.
    pub(crate) local_is_shared: bool,
    /// Whether and how it owns its port in [`ports::Ports`].
    pub(crate) ownership: Ownership,
    /// SO_ERROR.
    pub(crate) error: Option<Errno>,
    /// What would be SO_ERROR if the connection fails for it (sk_err_soft).
    pub(crate) soft_error: Option<Errno>,
    /// Our address; unspecified: any of the family's.
    pub(crate) local: IpAddr,
    /// Our port, protocol or ident; 0: none yet.
    pub(crate) port: u16,
    /// The other end.
    pub(crate) peer: Option<Endpoint>,
    /// SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6.
    /// An accepted connection shares its listener's until either is set.
    pub(crate) options: Arc<Options>,
    /// The way to the peer, as last asked.
    pub(crate) path: Option<Path>,
    /// What the timer wheel has of it.
    pub(crate) timer: Option<(Timer, Instant)>,
    /// SO_COOKIE.
    pub(crate) cookie: u64,
    /// The inode of the program's descriptor, if anybody said.
    pub(crate) inode: u32,
    /// The rest.
    pub(crate) body: Body,
}

/// How a socket came to its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// It has none.
    None,
    /// By bind(2), or by the first datagram.
    Bound,
    /// By connect(2), which chose it: others that connect elsewhere may have it too.
    Given,
}

/// What is different from kind to kind.
#[expect(clippy::large_enum_variant, reason = "streams are the many; what follows a pointer costs them time")]
#[derive(Debug)]
pub(crate) enum Body {
    /// TCP.
    Stream(Stream),
    /// UDP, ICMP datagrams, raw IP.
    Datagram(Box<Datagrams>),
    /// AF_PACKET
    Packet(Box<PacketSocket>),
    /// AF_NETLINK
    Netlink(Box<NetlinkSocket>),
}

impl Socket {
    /// A new one, held by a program.
    pub(crate) fn new(
        domain: Domain,
        kind: i32,
        protocol: u16,
        uid: u32,
        options: Arc<Options>,
        body: Body,
    ) -> Self {
        Self {
            domain,
            protocol,
            kind,
            uid,
            held: true,
            dirty: false,
            shut_receive: false,
            shut_send: false,
            chosen_address: false,
            chosen_port: false,
            local_is_shared: false,
            ownership: Ownership::None,
            error: None,
            soft_error: None,
            local: domain.unspecified(),
            port: 0,
            peer: None,
            options,
            path: None,
            timer: None,
            cookie: 0,
            inode: 0,
            body,
        }
    }

    /// Its options, to change.
    pub(crate) fn options_mut(&mut self) -> &mut Options {
        Arc::make_mut(&mut self.options)
    }

    /// Its stream part.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match &self.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Its stream part.
    pub(crate) fn stream_mut(&mut self) -> Option<&mut Stream> {
        match &mut self.body {
            Body::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// Its datagram part.
    pub(crate) fn datagrams(&self) -> Option<&Datagrams> {
        match &self.body {
            Body::Datagram(datagrams) => Some(datagrams),
            _ => None,
        }
    }

    /// Its datagram part.
    pub(crate) fn datagrams_mut(&mut self) -> Option<&mut Datagrams> {
        match &mut self.body {
            Body::Datagram(datagrams) => Some(datagrams),
            _ => None,
        }
    }

    /// It is a TCP socket that listens.
    pub(crate) fn is_listening(&self) -> bool {
        self.stream().is_some_and(|stream| stream.listener.is_some())
    }

    /// Takes packets of IPv4 as well as of IPv6, or only its family's.
    pub(crate) fn takes(&self, address: IpAddr) -> bool {
        match (self.domain, address) {
            (Domain::V4, address) => address.is_ipv4(),
            (Domain::V6, IpAddr::V4(_)) => !self.options.ip6.only,
            (Domain::V6, IpAddr::V6(_)) => !self.local.is_ipv4(),
        }
    }

    /// Takes what arrives on an interface (SO_BINDTODEVICE).
    pub(crate) fn takes_link(&self, link: super::tables::IfIndex) -> bool {
        self.options.device.is_none_or(|device| device == link)
    }

    /// The pending error, which is not pending any more.
    pub(crate) fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }
}
