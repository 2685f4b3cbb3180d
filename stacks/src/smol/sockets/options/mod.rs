//! Socket options: what they are set to, and the way to the tables that say how.
//!
//! # Theory of operation
//! [`Options`] is what Linux keeps in `struct sock`, `inet_sock` and `ipv6_pinfo`; an accepted connection
//! inherits its listener's. Each level has a file with a table of its options: how to read one, how to set
//! it, which values it takes. What is not a number, or has an effect beside the number, is written out in the
//! same file before the table is asked. Lengths, defaults, bounds and errors are Linux's, compared natively
//! (socket(7), ip(7), ipv6(7), tcp(7), udp(7), packet(7); net/core/sock.c, net/ipv4/ip_sockglue.c,
//! net/ipv6/ipv6_sockglue.c, net/ipv4/tcp.c).
//!
//! Options whose value in C is a pointer to more (SO_ATTACH_FILTER's `struct sock_fprog`) arrive with what it
//! points to instead: the instructions.

/// The row of an option that is on or off: a field of [`Options`], or of one of its parts.
macro_rules! flag {
    ($name:expr, $($field:ident).+) => {
        Row {
            name: $name,
            get: |s| s.options.$($field).+.into(),
            set: |s, n| {
                s.options_mut().$($field).+ = n != 0;
                Ok(())
            },
        }
    };
}

/// The row of an option that asks for ancillary data: a bit of what that level wants.
macro_rules! want {
    ($name:expr, $level:ident, $bit:expr) => {
        Row {
            name: $name,
            get: |s| i32::from(s.options.$level.wants & $bit != 0),
            set: |s, n| {
                let wants = &mut s.options_mut().$level.wants;
                *wants = if n != 0 { *wants | $bit } else { *wants & !$bit };
                Ok(())
            },
        }
    };
}

pub(crate) mod ip;
pub(crate) mod ipv6;
pub(crate) mod membership;
pub(crate) mod packet;
mod shown;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::address::Domain;
use super::bpf::Program;
use super::groups::Groups;
use super::{Body, Socket};
use crate::smol::call::{Caller, Done};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

/// Whether and how a packet's time is told (SO_TIMESTAMP and friends).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stamp {
    /// Not.
    #[default]
    Off,
    /// SO_TIMESTAMP_OLD, SO_TIMESTAMP_NEW: microseconds.
    Micro(i32),
    /// SO_TIMESTAMPNS_OLD, SO_TIMESTAMPNS_NEW: nanoseconds.
    Nano(i32),
}

/// SOL_SOCKET, and the other levels that several kinds have.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) keep_alive: bool,
    pub(crate) broadcast: bool,
    pub(crate) dont_route: bool,
    pub(crate) oob_inline: bool,
    pub(crate) no_check: bool,
    pub(crate) wifi_status: bool,
    pub(crate) no_frame_check: bool,
    pub(crate) debug: bool,
    pub(crate) pass_credentials: bool,
    pub(crate) pass_security: bool,
    pub(crate) overflow_count: bool,
    pub(crate) error_queue_select: bool,
    pub(crate) prefer_busy_poll: bool,
    pub(crate) receive_mark: bool,
    pub(crate) receive_priority: bool,
    pub(crate) filter_locked: bool,
    pub(crate) send_buffer_chosen: bool,
    pub(crate) receive_buffer_chosen: bool,
    pub(crate) stamp: Stamp,
    /// SO_TIMESTAMPING.
    pub(crate) stamping: i32,
    pub(crate) rehash: u8,
    pub(crate) linger: Option<u32>,
    pub(crate) send_buffer: u32,
    pub(crate) receive_buffer: u32,
    pub(crate) receive_low: i32,
    pub(crate) receive_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    pub(crate) priority: i32,
    pub(crate) mark: u32,
    pub(crate) device: Option<IfIndex>,
    pub(crate) peek_offset: i32,
    pub(crate) incoming_cpu: i32,
    pub(crate) busy_poll: i32,
    pub(crate) pacing_rate: u64,
    pub(crate) filter: Option<Arc<Program>>,
    pub(crate) ip: Ip,
    pub(crate) ip6: Ip6,
    pub(crate) groups: Option<Box<Groups>>,
}

/// IPPROTO_IP.
#[derive(Debug, Clone)]
pub(crate) struct Ip {
    pub(crate) tos: u8,
    /// −1: the default.
    pub(crate) ttl: i16,
    pub(crate) discover: u8,
    pub(crate) receive_error: bool,
    pub(crate) receive_error_4884: bool,
    pub(crate) free_bind: bool,
    pub(crate) transparent: bool,
    pub(crate) header_included: bool,
    pub(crate) no_defragment: bool,
    pub(crate) late_port: bool,
    pub(crate) router_alert: bool,
    pub(crate) min_ttl: u8,
    pub(crate) local_range: u32,
    pub(crate) group_ttl: u8,
    pub(crate) group_loop: bool,
    pub(crate) group_all: bool,
    pub(crate) group_link: Option<IfIndex>,
    pub(crate) group_address: Ipv4Addr,
    pub(crate) unicast_link: u32,
    /// IP_CMSG_*: which ancillary data are wanted.
    pub(crate) wants: u16,
    /// IP_OPTIONS.
    pub(crate) options: Option<Box<[u8]>>,
}

/// IPPROTO_IPV6.
#[derive(Debug, Clone)]
pub(crate) struct Ip6 {
    pub(crate) only: bool,
    pub(crate) class: u8,
    /// −1: the default.
    pub(crate) hops: i16,
    pub(crate) discover: u8,
    pub(crate) receive_error: bool,
    pub(crate) receive_error_4884: bool,
    pub(crate) header_included: bool,
    pub(crate) dont_fragment: bool,
    pub(crate) flow_send: bool,
    pub(crate) auto_label: bool,
    pub(crate) router_alert: i32,
    pub(crate) router_alert_isolate: bool,
    pub(crate) min_hops: u8,
    pub(crate) group_hops: i16,
    pub(crate) group_loop: bool,
    pub(crate) group_all: bool,
    pub(crate) group_link: Option<IfIndex>,
    pub(crate) unicast_link: u32,
    pub(crate) fragment_size: i32,
    pub(crate) preferences: u16,
    /// Bits of `ipv6::WANT_*`.
    pub(crate) wants: u32,
    /// Sticky extension headers: hop-by-hop, destination, routing.
    pub(crate) headers: Option<Box<[u8]>>,
}

/// The default of IP_MTU_DISCOVER: IP_PMTUDISC_WANT.
const WANT: u8 = 1;
/// net.core.wmem_default, rmem_default and their maxima, in bytes.
pub(crate) const BUFFER_DEFAULT: u32 = 212_992;

impl Default for Options {
    fn default() -> Self {
        Self {
            reuse_address: false,
            reuse_port: false,
            keep_alive: false,
            broadcast: false,
            dont_route: false,
            oob_inline: false,
            no_check: false,
            wifi_status: false,
            no_frame_check: false,
            debug: false,
            pass_credentials: false,
            pass_security: false,
            overflow_count: false,
            error_queue_select: false,
            prefer_busy_poll: false,
            receive_mark: false,
            receive_priority: false,
            filter_locked: false,
            send_buffer_chosen: false,
            receive_buffer_chosen: false,
            stamp: Stamp::Off,
            stamping: 0,
            rehash: 1,
            linger: None,
            send_buffer: BUFFER_DEFAULT,
            receive_buffer: BUFFER_DEFAULT,
            receive_low: 1,
            receive_timeout: None,
            send_timeout: None,
            priority: 0,
            mark: 0,
            device: None,
            peek_offset: -1,
            incoming_cpu: -1,
            busy_poll: 0,
            pacing_rate: u64::MAX,
            filter: None,
            ip: Ip::default(),
            ip6: Ip6::default(),
            groups: None,
        }
    }
}

impl Default for Ip {
    fn default() -> Self {
        Self {
            tos: 0,
            ttl: -1,
            discover: WANT,
            receive_error: false,
            receive_error_4884: false,
            free_bind: false,
            transparent: false,
            header_included: false,
            no_defragment: false,
            late_port: false,
            router_alert: false,
            min_ttl: 0,
            local_range: 0,
            group_ttl: 1,
            group_loop: true,
            group_all: true,
            group_link: None,
            group_address: Ipv4Addr::UNSPECIFIED,
            unicast_link: 0,
            wants: 0,
            options: None,
        }
    }
}

impl Default for Ip6 {
    fn default() -> Self {
        Self {
            only: false,
            class: 0,
            hops: -1,
            discover: WANT,
            receive_error: false,
            receive_error_4884: false,
            header_included: false,
            dont_fragment: false,
            flow_send: false,
            auto_label: true,
            router_alert: -1,
            router_alert_isolate: false,
            min_hops: 0,
            group_hops: 1,
            group_loop: true,
            group_all: true,
            group_link: None,
            unicast_link: 0,
            fragment_size: 0,
            preferences: 0,
            wants: 0,
            headers: None,
        }
    }
}

/// A number among the options: how it is read and set.
pub(crate) struct Row {
    /// SO_*, IP_*, …
    pub(crate) name: i32,
    /// Its value.
    pub(crate) get: fn(&Socket) -> i32,
    /// Makes it a value.
    pub(crate) set: fn(&mut Socket, i32) -> Result<(), Errno>,
}

/// What is never set.
pub(crate) fn read_only(_: &mut Socket, _: i32) -> Result<(), Errno> {
    Err(Errno::ENOPROTOOPT)
}

/// The row of an option.
pub(crate) fn row(table: &[Row], name: i32) -> Option<&Row> {
    table.iter().find(|row| row.name == name)
}

/// An int of a program's buffer; EINVAL if it is shorter.
pub(crate) fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// An int, or where Linux takes it, a single byte (IPPROTO_IP).
pub(crate) fn int_or_byte(value: &[u8]) -> Result<i32, Errno> {
    match value {
        [] => Ok(0),
        [byte, ..] if value.len() < 4 => Ok((*byte).into()),
        _ => int(value),
    }
}

/// An answer cut to what the program has room for.
pub(crate) fn cut(mut bytes: Vec<u8>, room: usize) -> Vec<u8> {
    bytes.truncate(room);
    bytes
}

/// An int as an answer.
pub(crate) fn answer(n: i32) -> Vec<u8> {
    n.to_ne_bytes().to_vec()
}

/// What native reads and writes of the program go by: what its end must know, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PumpOptions {
    /// SO_RCVTIMEO; absent: for ever.
    pub receive_timeout: Option<Duration>,
    /// SO_SNDTIMEO; absent: for ever.
    pub send_timeout: Option<Duration>,
    /// SO_OOBINLINE
    pub oob_inline: bool,
}

impl Engine {
    /// getsockopt(2)
    pub(crate) fn get_option(
        &mut self,
        now: Instant,
        id: SocketId,
        level: i32,
        name: i32,
        value: &[u8],
    ) -> Result<Done, Errno> {
        let room = value.len();
        let bytes = match level {
            libc::SOL_SOCKET => self.get_socket_option(id, name, value)?,
            _ if self.sockets.get(id).is_some_and(Socket::is_spkt) => return Err(Errno::EOPNOTSUPP),
            libc::IPPROTO_IP if self.has_ip(id) => self.get_ip_option(now, id, name, value)?,
            libc::IPPROTO_IPV6 if self.is_inet6(id) => self.get_ipv6_option(now, id, name, value)?,
            libc::IPPROTO_TCP if self.is_stream(id) => self.get_tcp_option(now, id, name, value)?,
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE if self.is_udp(id) => self.get_udp_option(id, name)?,
            libc::IPPROTO_ICMPV6 | libc::SOL_RAW if self.is_raw(id) => {
                self.get_raw_option(id, level, name, room)?
            }
            libc::SOL_PACKET => self.get_packet_option(id, name, value)?,
            libc::SOL_NETLINK => self.get_netlink_option(id, name, room)?,
            _ => return Err(self.no_such_level(id)),
        };
        Ok(Done::Bytes(cut(bytes, room)))
    }

    /// setsockopt(2)
    pub(crate) fn set_option(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        (level, name, value): (i32, i32, &[u8]),
    ) -> Result<Done, Errno> {
        match level {
            libc::SOL_SOCKET => self.set_socket_option(id, caller, name, value)?,
            _ if self.sockets.get(id).is_some_and(Socket::is_spkt) => return Err(Errno::EOPNOTSUPP),
            libc::IPPROTO_IP if self.has_ip(id) => self.set_ip_option(now, id, caller, name, value)?,
            libc::IPPROTO_IPV6 if self.is_inet6(id) => self.set_ipv6_option(now, id, caller, name, value)?,
            libc::IPPROTO_TCP if self.is_stream(id) => self.set_tcp_option(now, id, caller, name, value)?,
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE if self.is_udp(id) => {
                self.set_udp_option(now, id, name, value)?
            }
            libc::IPPROTO_ICMPV6 | libc::SOL_RAW if self.is_raw(id) => {
                self.set_raw_option(id, level, name, value)?;
            }
            libc::SOL_PACKET => self.set_packet_option(now, id, name, value)?,
            libc::SOL_NETLINK => self.set_netlink_option(id, caller, name, value)?,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        if let Some(socket) = self.sockets.get_mut(id)
            && socket.stream().is_none()
        {
            // Another way may be the right one now.
            socket.path = None;
        }
        self.apply_settings(now, id);
        Ok(Done::Value(0))
    }

    /// What the pump must know of a socket's options.
    pub fn socket_options(&self, id: SocketId) -> Option<PumpOptions> {
        let options = &self.sockets.get(id)?.options;
        Some(PumpOptions {
            receive_timeout: options.receive_timeout,
            send_timeout: options.send_timeout,
            oob_inline: options.oob_inline,
        })
    }

    /// Asked for a level they do not know, sockets of IPv4 say EOPNOTSUPP (ip_getsockopt), others ENOPROTOOPT.
    pub(super) fn no_such_level(&self, id: SocketId) -> Errno {
        match self.sockets.get(id) {
            Some(s) if self.is_inet(id) && s.domain == Domain::V4 => Errno::EOPNOTSUPP,
            Some(_) => Errno::ENOPROTOOPT,
            None => Errno::EBADF,
        }
    }

    fn is_inet(&self, id: SocketId) -> bool {
        let body = self.sockets.get(id).map(|socket| &socket.body);
        matches!(body, Some(Body::Stream(_) | Body::Datagram(_)))
    }

    /// Raw sockets of IPv6 alone know no IPPROTO_IP.
    fn has_ip(&self, id: SocketId) -> bool {
        self.is_inet(id) && !(self.is_raw(id) && self.is_inet6(id))
    }

    fn is_inet6(&self, id: SocketId) -> bool {
        self.is_inet(id) && self.sockets.get(id).is_some_and(|socket| socket.domain == Domain::V6)
    }

    fn is_stream(&self, id: SocketId) -> bool {
        self.sockets.get(id).is_some_and(|socket| socket.stream().is_some())
    }

    fn is_udp(&self, id: SocketId) -> bool {
        self.sockets.get(id).is_some_and(Socket::is_udp)
    }

    fn is_raw(&self, id: SocketId) -> bool {
        self.sockets.get(id).is_some_and(Socket::is_raw)
    }
}
