//! ioctl(2): queues' lengths here, interfaces in [`crate::smol::netlink`].
//!
//! Read: tcp(7), udp(7), socket(7), netdevice(7); net/ipv4/tcp.c (tcp_ioctl).

use std::time::Instant;

use nix::errno::Errno;

use super::{Body, Socket};
use crate::smol::call::{Caller, Done};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tcp::{State, Tcp};

/// SIOCINQ, also called FIONREAD.
const SIOCINQ: u32 = 0x541b;
/// SIOCOUTQ, also called TIOCOUTQ.
const SIOCOUTQ: u32 = 0x5411;
/// Bytes not even sent.
const SIOCOUTQNSD: u32 = 0x894b;

impl Engine {
    /// ioctl(2)
    pub(crate) fn ioctl(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        request: u32,
        argument: &[u8],
    ) -> Result<Done, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let number = match (&socket.body, request) {
            (Body::Stream(_), SIOCINQ | SIOCOUTQ | SIOCOUTQNSD) => self.stream_ioctl(socket, request)?,
            (Body::Datagram(_) | Body::Packet(_), SIOCOUTQ) => 0,
            (Body::Datagram(_) | Body::Packet(_), SIOCINQ) => {
                let next = socket.queue().and_then(|queue| queue.front());
                next.map_or(0, |item| item.data.len() as i32)
            }
            _ => return self.interface_ioctl(now, id, caller, request, argument),
        };
        Ok(Done::Bytes(number.to_ne_bytes().to_vec()))
    }

    fn stream_ioctl(&self, socket: &Socket, request: u32) -> Result<i32, Errno> {
        let Some(stream) = socket.stream() else { return Err(Errno::ENOTTY) };
        if stream.listener.is_some() {
            return Err(Errno::EINVAL);
        }
        let Some(connection) = &stream.connection else { return Ok(0) };
        let handshake = matches!(self.tcp.state(connection), State::SynSent | State::SynReceived);
        if request == SIOCINQ {
            return Ok(self.tcp.received(connection) as i32);
        }
        let info = self.tcp.info(connection);
        Ok(match request {
            _ if handshake => 0,
            SIOCOUTQ => (info.unacked + info.unsent) as i32,
            _ => info.unsent as i32,
        })
    }
}
