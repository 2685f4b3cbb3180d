//! The engine: one stack's sockets over its network layer. Sans-I/O.
//!
//! # Theory of operation
//! Inputs are `handle_*`, the calls of programs and the bytes they write; outputs are `poll_*`. A call never
//! waits here: what would block fails with EAGAIN (EINPROGRESS for a new connect, EALREADY for one under way) and
//! the caller asks again when [`Engine::poll_dirty`] names the socket. A program's bytes and ours meet in
//! the socket's buffers; the pump moves them.

use std::time::Instant;

use msocket::line::Refusal;
use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::call::{Caller, Done, SocketCall};
use super::tables::{IfIndex, Tables};
use crate::config::StackConfig;
use crate::stack::{InterfaceInfo, SocketSpec};

/// A socket of an engine; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u64);

/// How a socket is doing: what the pump needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// A stream: bytes that the program may have. A datagram socket: datagrams. A listener: connections.
    pub readable: usize,
    /// A stream: room for bytes of the program. A datagram socket: 1 if one can be sent.
    pub room: usize,
    /// A stream's connect() has neither succeeded nor failed.
    pub connecting: bool,
    /// A stream that is or was connected.
    pub connected: bool,
    /// A listener.
    pub listening: bool,
    /// The peer has sent everything and all of it was taken, or the program shut its receiving side.
    pub receive_finished: bool,
    /// A pending error, SO_ERROR; stays until the program takes it. On a stream: the connection is gone.
    pub error: Option<Errno>,
}

/// One datagram for the pump: address and ancillary facts are already in the form of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received<'a> {
    /// `struct sockaddr` of the sender.
    pub from: &'a [u8],
    /// `struct cmsghdr`s that the socket's options ask for.
    pub control: &'a [u8],
    /// The payload.
    pub data: &'a [u8],
}

/// A stack.
#[derive(Debug)]
pub struct Engine {}

#[allow(unused_variables, clippy::missing_errors_doc, clippy::todo, reason = "a plan")]
impl Engine {
    /// A stack as `config` says; `seed` is its only randomness. Interfaces have the indices 2, 3 … in the
    /// order of the configuration and no carrier until [`Engine::plug`].
    pub fn new(config: &StackConfig, seed: [u8; 32], now: Instant) -> Result<Self, Refusal> {
        todo!()
    }
    /// There is a port at the interface now, or none any more.
    pub fn plug(&mut self, now: Instant, link: IfIndex, plugged: bool) {
        todo!()
    }
    /// What it still owes peers for sockets that no program has.
    pub fn unfinished(&self) -> crate::kernel::orphans::Unfinished {
        todo!()
    }
    /// The tables, to look at.
    pub fn tables(&self) -> &Tables {
        todo!()
    }
    /// For `stack show`.
    pub fn interfaces(&self) -> Vec<InterfaceInfo> {
        todo!()
    }
    /// A frame arrived.
    pub fn handle_frame(&mut self, now: Instant, link: IfIndex, header: &VnetHdr, frame: &[u8]) {
        todo!()
    }
    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }
    /// When to call [`Engine::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// Hands frames to `sink`. Returns whether more would come at once: the work of one call is bounded.
    pub fn poll_transmit(&mut self, now: Instant, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) -> bool {
        todo!()
    }
    /// A socket whose status may have changed; each is named once until it changes again.
    pub fn poll_dirty(&mut self) -> Option<SocketId> {
        todo!()
    }
    /// How it is doing.
    pub fn status(&self, id: SocketId) -> Status {
        todo!()
    }
    /// socket(2)
    pub fn socket(&mut self, now: Instant, spec: SocketSpec, caller: &Caller) -> Result<SocketId, Errno> {
        todo!()
    }
    /// The program has no descriptor of it any more: linger, orphans and resets as Linux has them. `unread`:
    /// the program left bytes of a stream unread in the descriptor (then a RST follows, RFC 2525 clause 2.17).
    pub fn close(&mut self, now: Instant, id: SocketId, unread: bool) {
        todo!()
    }
    /// A trapped call. Never [`Done::NotOurs`]. `Accept`, and `Send` and `Receive` on streams, are the pump's
    /// and do not come here.
    pub fn call(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        call: &SocketCall,
    ) -> Result<Done, Errno> {
        todo!()
    }
    /// Next established connection of a listener, with the peer's `struct sockaddr`.
    pub fn accept(&mut self, now: Instant, listener: SocketId) -> Option<(SocketId, Vec<u8>)> {
        todo!()
    }
    /// Lets `fill` write a program's bytes into a stream's send buffer, a contiguous piece at a time; 0 ends.
    pub fn send_with(
        &mut self,
        now: Instant,
        id: SocketId,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> usize {
        todo!()
    }
    /// Lets `take` read a stream's received bytes, a contiguous piece at a time; 0 ends.
    pub fn receive_with(
        &mut self,
        now: Instant,
        id: SocketId,
        take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> usize {
        todo!()
    }
    /// Offers the oldest datagram; it is removed if `take` says true.
    pub fn receive_datagram(&mut self, id: SocketId, take: &mut dyn FnMut(&Received<'_>) -> bool) -> bool {
        todo!()
    }
    /// A datagram that the program wrote natively (to its peer).
    pub fn send_datagram(&mut self, now: Instant, id: SocketId, data: &[u8]) -> Result<(), Errno> {
        todo!()
    }
}
