//! Ports as descriptors: taking one frame in, putting one frame out.
//!
//! # Theory of operation
//! A [`Wire`] is a descriptor of some [`Kind`] whose nature was checked when it was plugged in. [`Wire::receive`]
//! and [`Wire::send`] never wait: descriptors are non-blocking, sockets are told so in each call, and TAPs too
//! where the kernel knows RWF_NOWAIT, as the one who handed the descriptor over could make it block again.
//! A [`ring`] is memory, and its descriptor the doorbell. Datagram sockets and streams
//! collect what is sent until the burst ends, and keep what their socket does not take.
//!
//! Some have a second descriptor, the *lifeline* ([`Wire::lifeline`]): the stream connection of a VDE plug, which
//! hangs up when the other end goes; that of a ring between two switches; the listening socket of a stream.

mod datagrams;
mod expect;
pub mod listener;
mod outbox;
pub mod packet;
pub mod ring;
mod shared;
mod stream;
mod sys;
pub mod tap;
pub mod vde;
pub mod watch;

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use rustix::io::ReadWriteFlags;
use serde::{Deserialize, Serialize};

use crate::frame::{MAX_FRAME, TAG_LEN};
use crate::offload::{Pieces, VNET_HDR_LEN, VnetHdr};
use crate::port::{DropReason, Offloads};
use crate::vxlan::{self, Tunnel};
use datagrams::{Datagrams, Flushed};
use expect::Expectation;
use ring::Ring;
use stream::Stream;
use watch::Watch;

/// Bytes a receive buffer must have: header, frame, room for a tag, and more by which a frame that is too long is
/// seen, and which tell where a captured one was.
pub const BUFFER_LEN: usize = VNET_HDR_LEN + MAX_FRAME + TAG_LEN + crate::capture::HEAD_LEN;
/// The position argument of preadv2 that means "no position".
const HERE: u64 = u64::MAX;
const NOWAIT: ReadWriteFlags = ReadWriteFlags::NOWAIT;
/// Memory that frames to many ports may take in all their rings together, in bytes.
const FLOOD_MEMORY: usize = 256 << 20;

/// What a port's descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A TAP, with or without virtio-net header.
    Tap,
    /// A packet socket with virtio-net header.
    Packet,
    /// Shared memory and two doorbells; with a stream connection, the port goes when that hangs up.
    Ring,
    /// A VDE plug: its datagram socket and its stream connection.
    Vde,
    /// A connected datagram socket, over IP or Unix: each datagram a frame.
    Dgram,
    /// A bound UDP socket, for the frames of one VXLAN network.
    Vxlan,
    /// A stream socket, connected or listening: each frame behind its length.
    Stream,
}

impl Kind {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Ring => "ring",
            Self::Vde => "vde",
            Self::Dgram => "dgram",
            Self::Vxlan => "vxlan",
            Self::Stream => "stream",
        }
    }

    /// How many descriptors make such a port; a ring may have one more.
    pub fn descriptors(self) -> usize {
        match self {
            Self::Tap | Self::Packet | Self::Dgram | Self::Vxlan | Self::Stream => 1,
            Self::Vde => 2,
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
    /// How many frames to ask a packet socket for.
    expected: Expectation,
    /// RWF_NOWAIT works here, for all we know.
    nowait: bool,
    /// Hangs up when the other end is gone.
    lifeline: Option<OwnedFd>,
}

/// What frames go through.
#[derive(Debug)]
enum End {
    Fd(OwnedFd),
    Ring(Box<Ring>),
    Datagrams(Box<Datagrams>),
    Stream(Box<Stream>),
}

/// What happened on a [lifeline](Wire::lifeline).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Nothing of interest.
    Goes,
    /// Somebody connected: there is a [source](Wire::source) now.
    Begins,
    /// The other end is gone.
    Ends,
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
    /// them non-blocking. A tunnel is made by [`Wire::vxlan`].
    ///
    /// # Errors
    /// When they are something else.
    pub fn new(mut fds: Vec<OwnedFd>, kind: Kind) -> io::Result<Self> {
        let wrong = |_| io::Error::other(format!("it takes {} descriptors", kind.descriptors()));
        let mut lifeline = None;
        if kind == Kind::Vde || kind == Kind::Ring && fds.len() > kind.descriptors() {
            lifeline = fds.pop();
        }
        let is_vde = kind == Kind::Vde;
        if let Some(control) = lifeline.as_ref().filter(|_| is_vde) {
            let data = fds.first().ok_or(io::ErrorKind::InvalidInput)?;
            vde::identify(data.as_fd(), control.as_fd())?;
        } else if let Some(lifeline) = &lifeline {
            rustix::net::getpeername(lifeline)?;
        }
        if kind == Kind::Ring {
            let ring = Ring::attach(fds.try_into().map_err(wrong)?)?;
            return Ok(Self { lifeline, ..Self::of(End::Ring(Box::new(ring)), kind, true) });
        }
        let [fd]: [OwnedFd; 1] = fds.try_into().map_err(wrong)?;
        let vnet_hdr = match kind {
            Kind::Tap => tap::identify(fd.as_fd())?.1,
            Kind::Packet => packet::identify(fd.as_fd()).map(|()| true)?,
            Kind::Stream => return Ok(Self::of(End::Stream(Box::new(Stream::new(fd)?)), kind, false)),
            Kind::Dgram => {
                return Ok(Self::of(End::Datagrams(Box::new(Datagrams::peer(fd)?)), kind, false));
            }
            Kind::Vde => {
                let end = End::Datagrams(Box::new(Datagrams::vde(fd)));
                return Ok(Self { lifeline, ..Self::of(end, kind, false) });
            }
            Kind::Vxlan | Kind::Ring => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self::of(End::Fd(fd), kind, vnet_hdr))
    }

    /// Takes a bound UDP socket as a port of kind [`Kind::Vxlan`].
    ///
    /// # Errors
    /// When it is something else.
    pub fn vxlan(fd: OwnedFd, config: vxlan::Config) -> io::Result<Self> {
        let end = Datagrams::vxlan(fd, Tunnel::new(config))?;
        Ok(Self::of(End::Datagrams(Box::new(end)), Kind::Vxlan, false))
    }

    /// The end of a ring that made it, between two switches: [`Ring::create`]'s, with a stream connection that
    /// hangs up when the other switch goes.
    ///
    /// # Errors
    /// When they are something else.
    pub fn mirrored(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let [memory, bell, peer, lifeline]: [OwnedFd; 4] =
            fds.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        rustix::net::getpeername(&lifeline)?;
        let ring = Ring::adopt([memory, bell, peer])?;
        Ok(Self { lifeline: Some(lifeline), ..Self::of(End::Ring(Box::new(ring)), Kind::Ring, true) })
    }

    fn of(end: End, kind: Kind, vnet_hdr: bool) -> Self {
        Self { end, kind, vnet_hdr, nowait: true, expected: Expectation::default(), lifeline: None }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it takes, if its owner said nothing else. Kernels know USO from 6.2 on.
    pub fn offloads(&self) -> Offloads {
        match (self.kind, self.vnet_hdr) {
            (Kind::Ring, _) => Offloads::ALL,
            (Kind::Tap | Kind::Packet, true) => Offloads { uso: kernel_has_uso(), ..Offloads::ALL },
            _ => Offloads::NONE,
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
            End::Stream(stream) => return Ok((VnetHdr::default(), stream.receive(buffer)?)),
            End::Datagrams(_) => return Err(io::ErrorKind::WouldBlock.into()),
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

    /// Takes up to `limit` frames into `room` at once, and says of each where it lies or why it is none; for those of
    /// which [`Wire::is_batched`] is true. True if there may be more.
    ///
    /// # Errors
    /// As [`Wire::receive`], but EAGAIN.
    pub fn receive_batch(
        &mut self,
        now: Instant,
        room: &mut [u8],
        limit: usize,
        mut each: impl FnMut(Result<(VnetHdr, Range<usize>), DropReason>),
    ) -> io::Result<bool> {
        let fd = match &mut self.end {
            End::Datagrams(datagrams) => {
                let none = VnetHdr::default();
                return datagrams.receive(now, room, limit, |frame| each(frame.map(|at| (none, at))));
            }
            End::Fd(fd) if self.kind == Kind::Packet => &*fd,
            End::Fd(_) | End::Ring(_) | End::Stream(_) => return Ok(false),
        };
        let limit = limit.min(self.expected.count());
        let came = match limit {
            1 => {
                let base = room.as_ptr() as usize;
                packet::receive(fd.as_fd(), &mut room[..BUFFER_LEN]).map(|(hdr, frame)| {
                    let start = frame.as_ptr() as usize - base;
                    each(Ok((hdr, start..start + frame.len())));
                    1
                })
            }
            _ => packet::receive_batch(fd.as_fd(), room, limit, |hdr, at| each(Ok((hdr, at)))),
        };
        match came {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            came => Ok(self.expected.came(now, came?, limit)),
        }
    }

    /// Are its frames taken by [`Wire::receive_batch`]?
    pub fn is_batched(&self) -> bool {
        matches!(self.end, End::Datagrams(_)) || self.kind == Kind::Packet
    }

    /// May somebody else have shut down its socket?
    pub fn is_shared(&self) -> bool {
        matches!(self.end, End::Datagrams(_))
    }

    /// May frames wait in it of which its descriptor does not tell? See [`Wire::arm`].
    pub fn hoards(&self) -> bool {
        matches!(self.end, End::Ring(_) | End::Stream(_))
    }

    /// Before a sleep: true if frames wait, and so no sleep.
    ///
    /// # Errors
    /// The other end broke the rules.
    pub fn arm(&mut self) -> Result<bool, ring::Broken> {
        match &mut self.end {
            End::Ring(ring) => ring.arm(),
            End::Stream(stream) => Ok(stream.has_frame()),
            End::Fd(_) | End::Datagrams(_) => Ok(false),
        }
    }

    /// A burst begins, to as many as `receivers`. True if it wants a flush at its end.
    pub fn begin(&mut self, now: Instant, receivers: usize) -> bool {
        match &mut self.end {
            End::Fd(_) => return false,
            End::Ring(ring) => ring.limit(FLOOD_MEMORY / receivers.max(1)),
            End::Datagrams(datagrams) => datagrams.tick(now),
            End::Stream(_) => {}
        }
        true
    }

    /// A burst ends: sends what was collected, and wakes the other end.
    pub(crate) fn flush(&mut self) -> Flushed {
        match &mut self.end {
            End::Fd(_) => return Flushed::default(),
            End::Ring(ring) => ring.flush(),
            End::Datagrams(datagrams) => return datagrams.flush(),
            End::Stream(stream) => return stream.flush(),
        }
        Flushed::default()
    }

    /// What to wait for, if there is somebody at the other end.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        match &self.end {
            End::Fd(fd) => Some(fd.as_fd()),
            End::Ring(ring) => Some(ring.as_fd()),
            End::Datagrams(datagrams) => Some(datagrams.as_fd()),
            End::Stream(stream) => stream.source(),
        }
    }

    /// The other descriptor, and what to wait for there.
    pub fn lifeline(&self) -> Option<(BorrowedFd<'_>, EpollFlags)> {
        match &self.end {
            // By edges: without a free descriptor whoever waits would wake us for ever.
            End::Stream(stream) => {
                stream.listener().map(|fd| (fd, EpollFlags::EPOLLIN | EpollFlags::EPOLLET))
            }
            _ => self.lifeline.as_ref().map(|fd| (fd.as_fd(), EpollFlags::EPOLLRDHUP)),
        }
    }

    /// Something happened on the lifeline.
    pub fn handle_lifeline(&mut self) -> Life {
        match (&mut self.end, &self.lifeline) {
            (End::Stream(stream), _) => {
                if stream.accept() {
                    Life::Begins
                } else {
                    Life::Goes
                }
            }
            (_, Some(lifeline)) if vde::is_hung_up(lifeline) => Life::Ends,
            _ => Life::Goes,
        }
    }

    /// The other end is gone. True if the port waits for another one.
    pub fn hang_up(&mut self) -> bool {
        match &mut self.end {
            End::Stream(stream) => stream.hang_up(),
            _ => false,
        }
    }

    /// The tunnel that it is an end of.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match &self.end {
            End::Datagrams(datagrams) => datagrams.tunnel(),
            _ => None,
        }
    }

    /// As [`Wire::tunnel`], to be changed.
    pub fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        match &mut self.end {
            End::Datagrams(datagrams) => datagrams.tunnel_mut(),
            _ => None,
        }
    }

    /// Puts one frame out.
    pub fn send(&mut self, hdr: &VnetHdr, pieces: &Pieces<'_>) -> Sent {
        let fd = match &mut self.end {
            End::Fd(fd) => fd,
            End::Ring(ring) => return ring.send(hdr, pieces),
            End::Datagrams(datagrams) => return datagrams.send(pieces),
            End::Stream(stream) => return stream.send(pieces),
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
            End::Fd(_) | End::Datagrams(_) | End::Stream(_) => None,
        }
    }

    /// What an error of [`Wire::receive`] means. EAGAIN is none.
    pub fn judge(&self, error: &io::Error) -> Trouble {
        match (self.kind, error.raw_os_error()) {
            (Kind::Ring | Kind::Stream, _) => Trouble::Dead,
            (Kind::Tap, Some(libc::EBADFD | libc::ENODEV | libc::EFAULT | libc::EIO)) => Trouble::Dead,
            (Kind::Packet, Some(libc::ENODEV | libc::ENXIO)) => Trouble::Dead,
            (Kind::Packet, Some(libc::ENETDOWN)) if self.is_orphan() => Trouble::Dead,
            (Kind::Packet, Some(libc::ENETDOWN)) => Trouble::Down,
            _ => Trouble::Passing,
        }
    }

    /// Is the interface of a packet socket gone? A TAP says so itself.
    pub fn is_orphan(&self) -> bool {
        self.kind == Kind::Packet && matches!(&self.end, End::Fd(fd) if packet::is_orphan(fd.as_fd()))
    }

    /// Is its link up? Of a packet socket's interface that is the carrier; a TAP is up when its interface is; a ring
    /// and what has a socket have their other end as long as they are there.
    pub fn is_up(&self) -> bool {
        match (&self.end, self.kind) {
            (End::Ring(_) | End::Datagrams(_) | End::Stream(_), _) => true,
            (End::Fd(fd), Kind::Packet) => packet::is_running(fd.as_fd()),
            (End::Fd(fd), _) => tap::is_up(fd.as_fd()),
        }
    }

    /// Its interface's number, if that is in the network that a watch is of, or may be: a TAP does not say where it is.
    ///
    /// # Errors
    /// EINVAL for what is no interface or elsewhere; ENODEV when none has its name there.
    pub(crate) fn index_in(&self, watch: &Watch) -> io::Result<u32> {
        match (&self.end, self.kind) {
            (End::Fd(fd), Kind::Packet) => watch.index_of_packet(fd.as_fd()),
            (End::Fd(fd), Kind::Tap) => watch.index_of_tap(fd.as_fd()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Is there an interface whose link may go down?
    pub(crate) fn has_interface(&self) -> bool {
        matches!(self.kind, Kind::Tap | Kind::Packet)
    }

    /// How fast its link is, in Mb/s, if somebody knows.
    pub fn speed(&self) -> Option<u32> {
        match (&self.end, self.kind) {
            (End::Fd(fd), Kind::Packet) => packet::speed(fd.as_fd()),
            _ => None,
        }
    }

    /// The descriptor, to be closed; that of a ring is closed at once.
    pub fn into_fd(self) -> Option<OwnedFd> {
        match self.end {
            End::Fd(fd) => Some(fd),
            End::Datagrams(datagrams) => Some(datagrams.into_fd()),
            End::Ring(_) | End::Stream(_) => None,
        }
    }
}

/// The supplementary groups of the process at the other end of a Unix connection.
///
/// # Errors
/// Those of getsockopt(2).
pub(crate) fn peer_groups(connection: &impl AsFd) -> io::Result<Vec<u32>> {
    sys::peer_groups(connection.as_fd())
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
