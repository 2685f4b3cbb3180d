//! Deadlines of sockets, and what happens when they pass.
//!
//! A socket has one entry in the wheel, for whatever of it comes first: its connection's retransmission, probe
//! or TIME-WAIT, the end of waiting for a peer's FIN, a packet socket's ring. An entry that is early is left where it is, since
//! most deadlines move away before they come.

use std::time::Instant;

use super::{Engine, SocketId};
use crate::smol::sockets::Body;

impl Engine {
    /// `id` wants to be looked at by `deadline` at the latest, or not at all.
    pub(in crate::smol) fn arm(&mut self, id: SocketId, deadline: Option<Instant>) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        match (socket.timer, deadline) {
            (None, None) => {}
            (Some((timer, _)), None) => {
                self.wheel.cancel(timer);
                socket.timer = None;
            }
            (Some((_, armed)), Some(deadline)) if armed <= deadline => {}
            (old, Some(deadline)) => {
                if let Some((timer, _)) = old {
                    self.wheel.cancel(timer);
                }
                socket.timer = Some((self.wheel.insert(deadline, id.0), deadline));
            }
        }
    }

    /// Works off what is due: streams get their turn to speak, which is when their machine looks at the time.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(token) = self.wheel.poll(now) {
            let id = SocketId(token);
            if let Some(socket) = self.sockets.get_mut(id) {
                socket.timer = None;
                match socket.body {
                    Body::Packet(_) => self.ring_expired(now, id),
                    _ => self.stream_expired(now, id),
                }
            }
        }
    }
}
