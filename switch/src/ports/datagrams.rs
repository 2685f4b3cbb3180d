//! Datagram sockets as ports: each datagram a frame, moved in batches.
//!
//! # Theory of operation
//! Three kinds of port differ in little: a VDE plug ([`super::vde`]), a socket connected to one peer (UDP between
//! two points, QEMU's `dgram`), and a VXLAN tunnel ([`crate::vxlan`]), whose frames have a header and many
//! receivers. [`Datagrams::receive`] takes as many as there are with one system call; [`Datagrams::send`] only
//! collects, and [`Datagrams::flush`] at the burst's end sends them all with another. What the socket has no
//! room for waits in the [`Outbox`] until it is writable, which the owner learns from [`Flushed::blocked`].
//!
//! Over UDP nobody says that the other end is gone for good: errors there (ICMP's) are passing. A plug's other
//! end is gone when its socket is.
//!
//! Read: udp(7), unix(7), recvmmsg(2), sendmmsg(2); QEMU's net/dgram.c.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use super::expect::Expectation;
use super::outbox::{Emptied, Outbox};
use super::{Sent, sys};
use crate::frame::{HEADER_LEN, Mac};
use crate::offload::Pieces;
use crate::port::DropReason;
use crate::vde;
use crate::vxlan::{Tunnel, VXLAN_HEADER_LEN};

/// Longest frame over UDP, or over a Unix socket that is no plug, in bytes: a jumbo frame's MTU of 9,000, and some.
const MAX_FRAME: usize = 9216 + 14 + 4;
/// Bytes from one datagram to the next where they are received: a multiple of a cache line.
const SLOT: usize = (MAX_FRAME + VXLAN_HEADER_LEN).next_multiple_of(64);
/// The same for plugs.
const VDE_SLOT: usize = vde::MAX_FRAME.next_multiple_of(64);
/// Buffer asked for in each direction, in bytes: some thousand frames. The kernel caps it at net.core.rmem_max.
const BUFFER: i32 = 4 << 20;

/// A datagram socket that is a port.
#[derive(Debug)]
pub(super) struct Datagrams {
    fd: OwnedFd,
    outbox: Outbox,
    flavour: Flavour,
    /// How many datagrams to ask for.
    expected: Expectation,
    /// This moment, as far as the port was told.
    now: Option<Instant>,
}

/// Whom it speaks to.
#[derive(Debug)]
enum Flavour {
    /// A VDE plug's other end.
    Vde,
    /// One peer, by IP, or a Unix socket of this name, which may go and come again.
    Peer(Option<PathBuf>),
    /// The ends of a tunnel.
    Vxlan(Box<Tunnel>),
}

/// What came of a flush.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Something waits for the socket to be writable.
    pub(crate) blocked: bool,
    /// The other end is gone.
    pub(crate) dead: bool,
    /// Frames that were not sent after all.
    pub(crate) refused: u32,
}

impl Datagrams {
    /// A plug's datagram socket; see [`super::vde::identify`].
    pub(super) fn vde(fd: OwnedFd) -> Self {
        Self::new(fd, Flavour::Vde)
    }

    /// A connected UDP or Unix socket.
    ///
    /// # Errors
    /// EINVAL, ENOTCONN or ENOTSOCK for anything else.
    pub(super) fn peer(fd: OwnedFd) -> io::Result<Self> {
        let domain = check(fd.as_fd())?;
        rustix::net::getpeername(&fd)?;
        let name = match domain {
            libc::AF_UNIX => {
                let socket = std::os::unix::net::UnixDatagram::from(fd.try_clone()?);
                socket.peer_addr()?.as_pathname().map(PathBuf::from)
            }
            _ => None,
        };
        Ok(Self::new(fd, Flavour::Peer(name)))
    }

    /// A bound UDP socket with a tunnel's end.
    ///
    /// # Errors
    /// EINVAL or ENOTSOCK for anything else.
    pub(super) fn vxlan(fd: OwnedFd, tunnel: Tunnel) -> io::Result<Self> {
        if check(fd.as_fd())? == libc::AF_UNIX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self::new(fd, Flavour::Vxlan(Box::new(tunnel))))
    }

    fn new(fd: OwnedFd, flavour: Flavour) -> Self {
        // Larger buffers are a wish.
        for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            let _ = sys::set_option(fd.as_fd(), libc::SOL_SOCKET, option, BUFFER);
        }
        Self { fd, outbox: Outbox::default(), flavour, expected: Expectation::default(), now: None }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        match &mut self.flavour {
            Flavour::Vxlan(tunnel) => Some(tunnel),
            Flavour::Vde | Flavour::Peer(_) => None,
        }
    }

    pub(super) fn tunnel(&self) -> Option<&Tunnel> {
        match &self.flavour {
            Flavour::Vxlan(tunnel) => Some(tunnel),
            Flavour::Vde | Flavour::Peer(_) => None,
        }
    }

    /// Takes up to `limit` frames into `room`, and says of each where it lies, or why it is none. True if there may
    /// be more.
    ///
    /// # Errors
    /// Those of recvmmsg(2) that do not pass.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        room: &mut [u8],
        limit: usize,
        mut each: impl FnMut(Result<Range<usize>, DropReason>),
    ) -> io::Result<bool> {
        if self.expected.count() == 1 && !matches!(self.flavour, Flavour::Vxlan(_)) {
            return self.receive_one(now, room, each).map(|()| false);
        }
        let slot = self.slot();
        let limit = limit.min(room.len() / slot).min(self.expected.count());
        let flavour = &mut self.flavour;
        let named = matches!(flavour, Flavour::Vxlan(_));
        let taken = sys::recv_batch(self.fd.as_fd(), room, slot, limit, named, |datagram, bytes| {
            let whole = datagram.start..datagram.start + bytes.len();
            each(match flavour {
                _ if datagram.truncated => Err(DropReason::Long),
                Flavour::Vde | Flavour::Peer(_) => Ok(whole),
                Flavour::Vxlan(tunnel) => open(tunnel, now, datagram.from, bytes)
                    .map(|()| whole.start + VXLAN_HEADER_LEN..whole.end)
                    .ok_or(DropReason::BadTunnel),
            });
        });
        let Some(count) = passing(taken)? else { return Ok(false) };
        Ok(self.expected.came(now, count, limit))
    }

    /// Takes one, where no more are expected: that is quicker. If there are others the next turn, which comes at once
    /// then, expects some.
    fn receive_one(
        &mut self,
        now: Instant,
        room: &mut [u8],
        mut each: impl FnMut(Result<Range<usize>, DropReason>),
    ) -> io::Result<()> {
        let slot = self.slot().min(room.len());
        let taken = sys::recv_one(self.fd.as_fd(), &mut room[..slot]);
        let Some(len) = passing(taken)? else { return Ok(()) };
        self.expected.came(now, 1, 1);
        each(if len > slot { Err(DropReason::Long) } else { Ok(0..len) });
        Ok(())
    }

    /// Bytes from one datagram to the next.
    fn slot(&self) -> usize {
        if matches!(self.flavour, Flavour::Vde) { VDE_SLOT } else { SLOT }
    }

    /// A burst begins.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// Collects a frame for [`Datagrams::flush`].
    pub(super) fn send(&mut self, pieces: &Pieces<'_>) -> Sent {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let longest = if matches!(self.flavour, Flavour::Vde) { vde::MAX_FRAME } else { MAX_FRAME };
        if !(HEADER_LEN..=longest).contains(&len) {
            return Sent::Dropped(DropReason::Refused);
        }
        let Self { fd, outbox, flavour, now, .. } = self;
        let receivers = match flavour {
            Flavour::Vde | Flavour::Peer(_) => 1,
            Flavour::Vxlan(tunnel) => {
                now.map_or(0, |now| tunnel.destinations(now, destination(pieces)).len())
            }
        };
        if receivers == 0 {
            return Sent::Dropped(DropReason::Refused);
        }
        if !outbox.has_room(len + VXLAN_HEADER_LEN, receivers) {
            // A long burst: what is there may go already. Errors come again at the end.
            let _ = outbox.send(fd.as_fd());
            if !outbox.has_room(len + VXLAN_HEADER_LEN, receivers) {
                return Sent::Dropped(DropReason::Full);
            }
        }
        match (flavour, now) {
            (Flavour::Vxlan(tunnel), Some(now)) => {
                outbox.push_to(&tunnel.header(), pieces, tunnel.destinations(*now, destination(pieces)));
            }
            _ => outbox.push(pieces),
        }
        Sent::Bytes(len)
    }

    /// Ends a burst.
    pub(super) fn flush(&mut self) -> Flushed {
        let mut flushed = Flushed::default();
        let mut told = false;
        loop {
            let error = match self.outbox.send(self.fd.as_fd()) {
                Emptied::All => return flushed,
                Emptied::Blocked => return Flushed { blocked: true, ..flushed },
                Emptied::Refused(error) => error,
            };
            let gone = [libc::ECONNREFUSED, libc::ECONNRESET, libc::ENOTCONN, libc::EPIPE];
            let is_gone = error.raw_os_error().is_some_and(|errno| gone.contains(&errno));
            let retry = match &self.flavour {
                Flavour::Vde => {
                    flushed.dead |= is_gone;
                    false
                }
                // It may be there again under its name.
                Flavour::Peer(Some(name)) => is_gone && reconnect(&self.fd, name),
                // What became of an earlier datagram.
                Flavour::Peer(None) | Flavour::Vxlan(_) => is_gone,
            };
            if retry && !std::mem::replace(&mut told, true) {
                continue;
            }
            flushed.refused += 1;
            self.outbox.drop_first();
            if is_gone {
                // Nobody is there: the rest of the burst is lost as well.
                flushed.refused += self.outbox.clear() as u32;
                return flushed;
            }
        }
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The domain of a datagram socket.
fn check(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let domain = sys::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].contains(&domain);
    if !known || sys::option(fd, libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_DGRAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(domain)
}

fn open(tunnel: &mut Tunnel, now: Instant, from: Option<SocketAddr>, bytes: &[u8]) -> Option<()> {
    tunnel.handle_datagram(now, from?, bytes).ok().map(drop)
}

fn destination(pieces: &Pieces<'_>) -> Mac {
    let mut mac = Mac([0; 6]);
    let bytes = pieces.iter().flat_map(|piece| piece.iter());
    mac.0.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    mac
}

fn reconnect(fd: &OwnedFd, name: &PathBuf) -> bool {
    rustix::net::SocketAddrUnix::new(name).is_ok_and(|name| rustix::net::connect(fd, &name).is_ok())
}

/// What was received, if anything was.
fn passing<T>(taken: io::Result<T>) -> io::Result<Option<T>> {
    match taken {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // An error of an earlier datagram; it is told once.
        Err(e) if is_passing(&e) => Ok(None),
        other => other.map(Some),
    }
}

/// Errors that an earlier datagram met on its way.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::EMSGSIZE
                | libc::EINTR
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::ENOPROTOOPT
                | libc::EACCES
        )
    )
}
