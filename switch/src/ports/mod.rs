//! Ports as descriptors: taking one frame in, putting one frame out.
//!
//! # Theory of operation
//! A [`Wire`] is a descriptor of some [`Kind`] whose nature was checked when it was plugged in. [`Wire::receive`]
//! and [`Wire::send`] never wait: descriptors are non-blocking, sockets are told so in each call, and TAPs too
//! where the kernel knows RWF_NOWAIT, as the one who handed the descriptor over could make it block again.
//! A [`ring`] is memory, and its descriptor the doorbell.

pub mod packet;
pub mod ring;
mod shared;
mod sys;
pub mod tap;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::io::ReadWriteFlags;
use serde::{Deserialize, Serialize};

use crate::frame::{MAX_FRAME, TAG_LEN};
use crate::offload::{Pieces, VNET_HDR_LEN, VnetHdr};
use crate::port::{DropReason, Offloads};
use ring::Ring;

/// Bytes a receive buffer must have: header, frame, room for a tag, and one more by which a frame that is too
/// long is seen.
pub const BUFFER_LEN: usize = VNET_HDR_LEN + MAX_FRAME + TAG_LEN + 1;
/// The position argument of preadv2 that means "no position".
const HERE: u64 = u64::MAX;
const NOWAIT: ReadWriteFlags = ReadWriteFlags::NOWAIT;

/// What a port's descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A TAP, with or without virtio-net header.
    Tap,
    /// A packet socket with virtio-net header.
    Packet,
    /// Shared memory and two doorbells.
    Ring,
}

impl Kind {
    /// Its name, as in the control protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Ring => "ring",
        }
    }

    /// How many descriptors make such a port.
    pub fn descriptors(self) -> usize {
        match self {
            Self::Tap | Self::Packet => 1,
            Self::Ring => 3,
        }
    }
}

/// A port's descriptor.
#[derive(Debug)]
pub struct Wire {
    end: End,
    kind: Kind,
    vnet_hdr: bool,
    /// RWF_NOWAIT works here, for all we know.
    nowait: bool,
}

/// What frames go through.
#[derive(Debug)]
enum End {
    Fd(OwnedFd),
    Ring(Box<Ring>),
}

/// What came of sending a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way; so many bytes.
    Bytes(usize),
    /// It was not sent, for now.
    Dropped(DropReason),
    /// The interface is gone.
    Dead,
}

/// What an error means for the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing, if it does not go on.
    Passing,
    /// The interface is down, and about to go perhaps: [`Wire::is_orphan`] tells later.
    Down,
    /// The interface is gone.
    Dead,
}

impl Wire {
    /// Takes descriptors as a port, if they are what `kind` says and [as many](Kind::descriptors), and makes
    /// them non-blocking.
    ///
    /// # Errors
    /// When they are something else.
    pub fn new(fds: Vec<OwnedFd>, kind: Kind) -> io::Result<Self> {
        let wrong = |_| io::Error::other(format!("it takes {} descriptors", kind.descriptors()));
        if kind == Kind::Ring {
            let ring = Ring::attach(fds.try_into().map_err(wrong)?)?;
            return Ok(Self { end: End::Ring(Box::new(ring)), kind, vnet_hdr: true, nowait: true });
        }
        let [fd]: [OwnedFd; 1] = fds.try_into().map_err(wrong)?;
        let vnet_hdr = match kind {
            Kind::Tap => tap::identify(fd.as_fd())?.1,
            Kind::Packet | Kind::Ring => packet::identify(fd.as_fd()).map(|()| true)?,
        };
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { end: End::Fd(fd), kind, vnet_hdr, nowait: true })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it takes, if its owner said nothing else. Kernels know USO from 6.2 on.
    pub fn offloads(&self) -> Offloads {
        match (self.kind, self.vnet_hdr) {
            (Kind::Ring, _) => Offloads::ALL,
            (_, true) => Offloads { uso: kernel_has_uso(), ..Offloads::ALL },
            (_, false) => Offloads::NONE,
        }
    }

    /// Takes one frame into `buffer`, which is [`BUFFER_LEN`] long.
    ///
    /// # Errors
    /// EAGAIN when there is none, others see [`Wire::judge`].
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<(VnetHdr, &'b [u8])> {
        let fd = match &mut self.end {
            End::Fd(fd) => fd,
            End::Ring(ring) => return ring.receive(buffer)?.ok_or_else(|| io::ErrorKind::WouldBlock.into()),
        };
        if self.kind == Kind::Packet {
            return packet::receive(fd.as_fd(), buffer);
        }
        let len = match self.nowait {
            true => match rustix::io::preadv2(&*fd, &mut [IoSliceMut::new(buffer)], HERE, NOWAIT) {
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    self.nowait = false;
                    rustix::io::read(fd, &mut *buffer)?
                }
                other => other?,
            },
            false => rustix::io::read(fd, &mut *buffer)?,
        };
        match buffer[..len].split_first_chunk::<VNET_HDR_LEN>() {
            Some((hdr, frame)) if self.vnet_hdr => Ok((VnetHdr::parse(*hdr), frame)),
            _ => Ok((VnetHdr::default(), &buffer[..len])),
        }
    }

    /// Puts one frame out.
    pub fn send(&mut self, hdr: &VnetHdr, pieces: &Pieces<'_>) -> Sent {
        let fd = match &mut self.end {
            End::Fd(fd) => fd,
            End::Ring(ring) => return ring.send(hdr, pieces),
        };
        let hdr = hdr.to_bytes();
        let [a, b, c, d] = pieces.map(IoSlice::new);
        let parts = [IoSlice::new(&hdr), a, b, c, d];
        let parts = if self.vnet_hdr { &parts[..] } else { &parts[1..] };
        let sent = match self.kind {
            Kind::Packet => {
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                let mut control = rustix::net::SendAncillaryBuffer::default();
                rustix::net::sendmsg(fd, parts, &mut control, flags)
            }
            _ if self.nowait => match rustix::io::pwritev2(&*fd, parts, HERE, NOWAIT) {
                Err(rustix::io::Errno::OPNOTSUPP) => {
                    self.nowait = false;
                    rustix::io::writev(fd, parts)
                }
                other => other,
            },
            _ => rustix::io::writev(fd, parts),
        };
        match sent.map_err(|e| Errno::from_raw(e.raw_os_error())) {
            Ok(_) => Sent::Bytes(pieces.iter().map(|p| p.len()).sum()),
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                Sent::Dropped(DropReason::Full)
            }
            Err(Errno::EBADFD | Errno::ENODEV | Errno::ENXIO) => Sent::Dead,
            // EIO and ENETDOWN: the interface is down. EINVAL, EMSGSIZE: it does not want this frame.
            Err(_) => Sent::Dropped(DropReason::Refused),
        }
    }

    /// The ring that it is.
    pub fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.end {
            End::Ring(ring) => Some(ring),
            End::Fd(_) => None,
        }
    }

    /// What an error of [`Wire::receive`] means. EAGAIN is none.
    pub fn judge(&self, error: &io::Error) -> Trouble {
        match (self.kind, error.raw_os_error()) {
            (Kind::Ring, _) => Trouble::Dead,
            (Kind::Tap, Some(libc::EBADFD | libc::ENODEV | libc::EFAULT | libc::EIO)) => Trouble::Dead,
            (Kind::Packet, Some(libc::ENODEV | libc::ENXIO)) => Trouble::Dead,
            (Kind::Packet, Some(libc::ENETDOWN)) if self.is_orphan() => Trouble::Dead,
            (Kind::Packet, Some(libc::ENETDOWN)) => Trouble::Down,
            _ => Trouble::Passing,
        }
    }

    /// Is the interface of a packet socket gone? A TAP says so itself.
    pub fn is_orphan(&self) -> bool {
        self.kind == Kind::Packet && packet::is_orphan(self.as_fd())
    }

    /// The descriptor, to be closed; that of a ring is closed at once.
    pub fn into_fd(self) -> Option<OwnedFd> {
        match self.end {
            End::Fd(fd) => Some(fd),
            End::Ring(_) => None,
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.end {
            End::Fd(fd) => fd.as_fd(),
            End::Ring(ring) => ring.as_fd(),
        }
    }
}

/// No descriptor of this process survives an exec, but the standard three.
///
/// # Errors
/// ENOSYS before Linux 5.11.
pub fn close_on_exec() -> io::Result<()> {
    sys::close_on_exec_from(3)
}

fn kernel_has_uso() -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}
