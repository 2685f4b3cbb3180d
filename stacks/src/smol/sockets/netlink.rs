//! AF_NETLINK: between sockets and [`crate::smol::netlink`].

use std::time::Instant;

use nix::errno::Errno;

use crate::smol::call::{Caller, Done, Message};
use crate::smol::engine::{Engine, Received, SocketId};
use crate::smol::tables::Change;

/// Under construction.
#[derive(Debug, Default)]
pub(crate) struct Listeners;

/// Under construction.
#[derive(Debug)]
pub(crate) struct NetlinkSocket;

impl NetlinkSocket {
    pub(crate) fn status(&self) -> crate::smol::engine::Status {
        crate::smol::engine::Status::default()
    }
    pub(crate) fn local_name(&self) -> Vec<u8> {
        Vec::new()
    }
    pub(crate) fn peer_name(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[allow(unused_variables, clippy::unused_self, reason = "under construction")]
impl Engine {
    pub(crate) fn new_netlink(
        &mut self,
        kind: i32,
        protocol: i32,
        caller: &Caller,
    ) -> Result<super::Socket, Errno> {
        Err(Errno::EPROTONOSUPPORT)
    }
    pub(crate) fn close_netlink(&mut self, id: SocketId) {}
    pub(crate) fn notify(&mut self, now: Instant, change: &Change) {}
    pub(crate) fn bind_netlink(&mut self, id: SocketId, caller: &Caller, bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    pub(crate) fn connect_netlink(&mut self, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    pub(crate) fn send_netlink(
        &mut self,
        now: Instant,
        id: SocketId,
        to: Option<&[u8]>,
        data: &[u8],
    ) -> Result<Done, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    pub(crate) fn offer_netlink(
        &mut self,
        id: SocketId,
        from: &mut Vec<u8>,
        control: &mut Vec<u8>,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        false
    }
    pub(crate) fn receive_netlink(
        &mut self,
        id: SocketId,
        length: usize,
        room: usize,
        flags: i32,
    ) -> Result<Message, Errno> {
        Err(Errno::EAGAIN)
    }
    pub(crate) fn get_netlink_option(&self, id: SocketId, name: i32, value: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOPROTOOPT)
    }
    pub(crate) fn set_netlink_option(
        &mut self,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        Err(Errno::ENOPROTOOPT)
    }
}
