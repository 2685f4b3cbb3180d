//! Errors of single datagrams: IP_RECVERR, MSG_ERRQUEUE.
//!
//! # Theory of operation
//! An ICMP error for a socket that asked for IP_RECVERR waits in the socket's error queue, with the datagram that
//! caused it as far as it was quoted; for others only its number becomes SO_ERROR, if they are connected and
//! it is a lasting one. Read: ip(7), net/ipv4/ip_sockglue.c (ip_icmp_error, ip_recv_error).

use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::address::{Domain, Endpoint, emit};
use super::cmsg::{Control, realtime, stamp};
use super::options::ipv6::IPV6_RECVERR;
use super::{Body, Socket};
use crate::smol::call::Message;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::NetError;

/// Errors that wait, per socket: what fits a default receive buffer in Linux.
const MAX_ERRORS: usize = 256;
/// SO_EE_ORIGIN_*
const LOCAL: u8 = 1;
const ICMP: u8 = 2;
const ICMP6: u8 = 3;

/// An error and the datagram that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueuedError {
    at: Instant,
    errno: Errno,
    origin: u8,
    icmp: (u8, u8),
    info: u32,
    offender: Option<IpAddr>,
    destination: Endpoint,
    data: Vec<u8>,
}

impl Socket {
    /// Whether it asked for errors of packets to such an address.
    pub(crate) fn wants_errors(&self, address: IpAddr) -> bool {
        if address.is_ipv4() && self.domain == Domain::V4 {
            self.options.ip.receive_error
        } else {
            self.options.ip6.receive_error || (address.is_ipv4() && self.options.ip.receive_error)
        }
    }

    fn error_queue(&mut self) -> Option<&mut std::collections::VecDeque<QueuedError>> {
        match &mut self.body {
            Body::Datagram(datagrams) => Some(&mut datagrams.errors),
            Body::Stream(_) | Body::Packet(_) | Body::Netlink(_) => None,
        }
    }
}

impl Engine {
    /// An ICMP error for a socket that asked for them. `quoted`: its packet, from the upper layer's header on.
    pub(crate) fn queue_error(&mut self, now: Instant, id: SocketId, error: &NetError, quoted: &[u8]) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let port = quoted.get(2..4).map_or(0, |p| u16::from_be_bytes([p[0], p[1]]));
        let (header, port) = match i32::from(error.protocol) {
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => (8, port),
            libc::IPPROTO_TCP => (20, port),
            _ => (0, 0),
        };
        let queued = QueuedError {
            at: now,
            errno: error.errno,
            origin: if error.destination.is_ipv4() { ICMP } else { ICMP6 },
            icmp: error.icmp,
            info: error.info,
            offender: Some(error.offender),
            destination: Endpoint::heard(error.destination, port, error.link, 0),
            data: quoted.get(header..).unwrap_or(&[]).to_vec(),
        };
        socket.error = Some(error.errno);
        if let Some(errors) = socket.error_queue()
            && errors.len() < MAX_ERRORS
        {
            errors.push_back(queued);
        }
        self.mark(id);
    }

    /// A datagram was too long to be sent (ip_local_error).
    pub(crate) fn queue_local_error(&mut self, id: SocketId, errno: Errno, destination: Endpoint, mtu: u32) {
        let at = self.clock;
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let queued = QueuedError {
            at,
            errno,
            origin: LOCAL,
            icmp: (0, 0),
            info: mtu,
            offender: None,
            destination,
            data: Vec::new(),
        };
        if let Some(errors) = socket.error_queue()
            && errors.len() < MAX_ERRORS
        {
            errors.push_back(queued);
        }
        self.mark(id);
    }

    /// recvmsg(MSG_ERRQUEUE)
    pub(crate) fn receive_error(
        &mut self,
        id: SocketId,
        length: usize,
        room: usize,
    ) -> Result<Message, Errno> {
        let clocks = (self.origin, self.realtime);
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let (domain, options) = (socket.domain, &socket.options);
        let wishes = (options.stamp, options.stamping);
        let error =
            socket.error_queue().and_then(std::collections::VecDeque::pop_front).ok_or(Errno::EAGAIN)?;
        let next = socket.error_queue().and_then(|errors| errors.front().map(|error| error.errno));
        // SO_ERROR tells of the next one in the queue (sock_dequeue_err_skb).
        socket.error = next;
        let mut message = Message { flags: libc::MSG_ERRQUEUE, ..Message::default() };
        message.data = error.data[..error.data.len().min(length)].to_vec();
        message.length = message.data.len();
        if message.length < error.data.len() {
            message.flags |= libc::MSG_TRUNC;
        }
        message.from = emit(domain, &error.destination);
        let mut record = Vec::with_capacity(44);
        record.extend_from_slice(&(error.errno as u32).to_ne_bytes());
        record.extend_from_slice(&[error.origin, error.icmp.0, error.icmp.1, 0]);
        record.extend_from_slice(&error.info.to_ne_bytes());
        record.extend_from_slice(&[0; 4]);
        match error.offender {
            Some(offender) => {
                let scope = error.destination.scope;
                record.extend(emit(domain, &Endpoint { scope, ..Endpoint::new(offender, 0) }));
            }
            None => record.resize(16 + if domain == Domain::V4 { 16 } else { 28 }, 0),
        }
        let mut control = Control::new(&mut message.control, room);
        stamp(&mut control, wishes, realtime(error.at, clocks.0, clocks.1));
        match domain {
            Domain::V4 => control.put(libc::IPPROTO_IP, libc::IP_RECVERR, &record),
            Domain::V6 => control.put(libc::IPPROTO_IPV6, IPV6_RECVERR, &record),
        }
        if control.truncated {
            message.flags |= libc::MSG_CTRUNC;
        }
        self.mark(id);
        Ok(message)
    }
}
