//! Who tells that a link went up or down: rtnetlink.
//!
//! # Theory of operation
//! A packet socket hears of its own interface's end, not of its carrier, and a TAP of neither. So whoever opens an
//! interface for a port opens a [`watch`](open) in the same network, and hands it over, too: a socket that hears of all
//! interfaces there. That needs no privilege, and the switch need not be in that network. One watch serves all ports of a
//! network, which is known by its cookie.
//!
//! What is heard is believed to be a hint and no more: it names the interface that is to be looked at, as whoever handed
//! the socket over still holds it and could have anything said there.
//!
//! Read: rtnetlink(7), netlink(7); net/core/rtnetlink.c.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::link::LinkHeader;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::{sys, tap};

/// The messages that tell of an interface (linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
/// Their group, as a bit (linux/rtnetlink.h).
const RTMGRP_LINK: u32 = 1;
/// Bytes of a message's header, `struct nlmsghdr` (linux/netlink.h).
const HEADER_LEN: usize = 16;
/// What is read of a datagram: one message is 1 to 2 KiB, and its beginning is enough.
const BUFFER_LEN: usize = 4096;

/// Opens a watch in the caller's network.
///
/// # Errors
/// Those of socket(2) and bind(2).
pub fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
    Ok(fd)
}

/// A socket that tells of a network's interfaces.
#[derive(Debug)]
pub(crate) struct Watch {
    fd: OwnedFd,
    network: u64,
}

/// What a watch told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something about this interface, perhaps its link.
    Of(u32),
    /// Nothing of interest.
    Else,
    /// Something was lost: look at all interfaces.
    Lost,
}

impl Watch {
    /// Takes a descriptor as a watch.
    ///
    /// # Errors
    /// EINVAL when it is something else; ENOPROTOOPT before Linux 5.14, which has no cookies.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let is = |option, value| sys::option(fd.as_fd(), libc::SOL_SOCKET, option).map(|is| is == value);
        if !is(libc::SO_DOMAIN, libc::AF_NETLINK)? || !is(libc::SO_PROTOCOL, libc::NETLINK_ROUTE)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let network = sys::network_cookie(fd.as_fd())?;
        Ok(Self { fd, network })
    }

    /// Is the other one of the same network?
    pub(crate) fn is_where(&self, other: &Self) -> bool {
        self.network == other.network
    }

    /// The next thing that is told.
    ///
    /// # Errors
    /// EAGAIN when there is nothing, or those of recv(2).
    pub(crate) fn receive(&self) -> io::Result<Heard> {
        let mut buffer = [0; BUFFER_LEN];
        // Whoever else holds the socket could make it block.
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => Ok(read(&buffer[..len])),
            Err(nix::errno::Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(e) => Err(e.into()),
        }
    }

    /// The number of the interface that a packet socket is bound to.
    pub(super) fn index_of_packet(&self, packet: BorrowedFd<'_>) -> io::Result<u32> {
        if sys::network_cookie(packet)? != self.network {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        index(sys::packet_ifindex(packet)?)
    }

    /// The number of a TAP's interface.
    pub(super) fn index_of_tap(&self, tap: BorrowedFd<'_>) -> io::Result<u32> {
        let (name, _) = tap::identify(tap)?;
        index(sys::interface_index(self.fd.as_fd(), &name)?)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn index(raw: i32) -> io::Result<u32> {
    u32::try_from(raw).ok().filter(|&index| index > 0).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// The kernel sends one message at a time to groups (rtnl_notify).
fn read(datagram: &[u8]) -> Heard {
    let Some(payload) = datagram.get(HEADER_LEN..) else { return Heard::Else };
    match (NetlinkBuffer::new(datagram).message_type(), LinkHeader::parse(payload)) {
        (RTM_NEWLINK | RTM_DELLINK, Ok(header)) => Heard::Of(header.index),
        _ => Heard::Else,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages() {
        let mut message = [0; 32];
        message[4] = RTM_NEWLINK as u8;
        // Type of the link: loopback; its number.
        message[HEADER_LEN + 2..][..6].copy_from_slice(&[0x04, 0x03, 1, 0, 0, 0]);
        assert_eq!(read(&message), Heard::Of(1));
        message[4] = 20; // RTM_NEWADDR
        assert_eq!(read(&message), Heard::Else);
    }

    #[test]
    fn other_descriptors_are_no_watches() {
        assert!(Watch::new(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        let (pair, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Watch::new(pair.into()).is_err());
        assert!(Watch::new(open().unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn anything_may_be_said(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            read(&bytes);
        }
    }
}
