//! A port of a vde_switch.
//!
//! # Theory of operation
//! A plug is two descriptors ([`switch::ports::vde`]): a datagram socket, connected to the switch's, where each datagram
//! is a plain Ethernet frame, and a stream connection, which hangs up when the switch ends.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use msocket_proto::line::Refusal;
use nix::sys::epoll::EpollFlags;
use rustix::net::{RecvFlags, SendFlags};
use switch::offload::Pieces;
use switch::port::DropReason;
use switch::ports::{Sent, vde};
use switch::vde::{MAX_FRAME, Wanted};

/// A port of a vde_switch.
#[derive(Debug)]
pub struct Vde {
    control: OwnedFd,
    data: OwnedFd,
}

impl Vde {
    /// Plugs in at the switch whose control socket is in `folder`, at the port that is `wanted`; `description` is what its owner reads there.
    ///
    /// # Errors
    /// No such switch, or what went wrong.
    pub fn plug(interface: &str, folder: &Path, wanted: Wanted, description: &str) -> Result<Self, Refusal> {
        let what = format!("cannot plug {interface} into vde_switch {}", folder.display());
        let plugged = vde::plug(folder, wanted, description);
        let [data, control] = plugged.map_err(|e| vde::refuse(what, &folder.to_string_lossy(), e))?;
        Ok(Self { control, data })
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// EAGAIN when there is none; others when the switch has gone.
    pub(super) fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let (len, _) = rustix::net::recv(&self.data, &mut *buffer, RecvFlags::DONTWAIT)?;
        Ok(&buffer[..len])
    }

    /// Puts one plain frame out.
    pub(super) fn send(&self, pieces: &Pieces<'_>) -> Sent {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if len > MAX_FRAME {
            return Sent::Dropped(DropReason::Refused);
        }
        let parts = pieces.map(IoSlice::new);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut control = rustix::net::SendAncillaryBuffer::default();
        use rustix::io::Errno;
        match rustix::net::sendmsg(&self.data, &parts, &mut control, flags) {
            Ok(_) => Sent::Bytes(len),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::INTR) => Sent::Dropped(DropReason::Full),
            Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::PIPE) => Sent::Dead,
            Err(_) => Sent::Dropped(DropReason::Refused),
        }
    }

    pub(super) fn sources(&self) -> [(BorrowedFd<'_>, EpollFlags); 2] {
        let hangup = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        [(self.data.as_fd(), EpollFlags::EPOLLIN), (self.control.as_fd(), hangup)]
    }
}
