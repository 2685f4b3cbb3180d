//! A packet socket that hears what a network's interfaces take and give, for captures.
//!
//! # Theory of operation
//! Unlike a port ([`super::packet`]) it hears outgoing frames, too, sends none, and may hear all interfaces at once; the
//! kernel says beside each frame where it was and which way it went. Super-segments come whole, with a virtio-net
//! header, where the socket has one: a smol stack's has not, and none of its frames needs any. Interfaces that are not
//! Ethernet are not heard.
//!
//! Read: packet(7).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::sys;
use crate::capture::Way;
use crate::frame::TAG_LEN;
use crate::offload::{VNET_HDR_LEN, VnetHdr};

/// Receive buffer asked for, in bytes: some hundred super-segments. The kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: i32 = 32 << 20;
/// ARPHRD_ETHER and ARPHRD_LOOPBACK, whose frames have an Ethernet header (if_arp.h).
const ETHERNET: [u16; 2] = [1, 772];

/// Such a socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    vnet_hdr: bool,
}

/// A frame that was heard.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'b> {
    /// On which interface.
    pub ifindex: u32,
    /// Which way, as the network sees it.
    pub way: Way,
    /// Its virtio-net header.
    pub hdr: VnetHdr,
    /// Its bytes, with the VLAN tag where it was.
    pub bytes: &'b [u8],
}

impl Listener {
    /// Listens to an interface of the caller's network, or to all.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW in the network, ENODEV without the interface.
    pub fn open(ifindex: Option<u32>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        // Protocol 0 hears nothing until bind: nothing is queued before the options are set.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        let set = |level, option, value| sys::set_option(fd.as_fd(), level, option, value);
        let vnet_hdr = set(libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1).is_ok();
        set(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        let _ = set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
            .or_else(|_| set(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER));
        sys::packet_bind(fd.as_fd(), ifindex.map_or(0, |index| index as i32))?;
        Ok(Self { fd, vnet_hdr })
    }

    /// The next Ethernet frame; `buffer` is [`super::BUFFER_LEN`] long.
    ///
    /// # Errors
    /// EAGAIN when there is none; ENETDOWN when the interface went down.
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<Heard<'b>> {
        loop {
            let mut hdr = [0; VNET_HDR_LEN];
            let hdr_len = if self.vnet_hdr { VNET_HDR_LEN } else { 0 };
            let mut parts = [IoSliceMut::new(&mut hdr[..hdr_len]), IoSliceMut::new(&mut buffer[TAG_LEN..])];
            let mut from = sys::Address::default();
            let (len, tag) = sys::packet_recv(self.fd.as_fd(), &mut parts, Some(&mut from))?;
            if !ETHERNET.contains(&from.hatype) {
                continue;
            }
            let end = TAG_LEN + len.saturating_sub(hdr_len);
            let way = if from.pkttype == libc::PACKET_OUTGOING { Way::Out } else { Way::In };
            let hdr = VnetHdr::parse(hdr);
            let (hdr, bytes) = super::packet::restore_tag(hdr, tag, buffer, end);
            return Ok(Heard { ifindex: from.ifindex, way, hdr, bytes });
        }
    }

    /// Frames that were lost for want of room since the last call.
    pub fn lost(&self) -> u64 {
        sys::packet_drops(self.fd.as_fd()).map_or(0, u64::from)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
