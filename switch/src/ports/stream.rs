//! Byte streams as ports: QEMU's `-netdev stream`, over a Unix socket or TCP.
//!
//! # Theory of operation
//! [`crate::framing`] is how frames lie in the stream. A port is made of a connection, and goes with it; or of a
//! listening socket: then it stays, without carrier until somebody connects ([`Stream::accept`]) and again after
//! that one has gone ([`Stream::hang_up`]). One connection at a time: further ones are closed at once.
//!
//! Frames are collected and written by [`Stream::flush`]; what the socket does not take waits, at most [`BYTES`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::datagrams::Flushed;
use super::{Sent, sys};
use crate::framing::{Inbox, MAX_LEN, prefix};
use crate::offload::Pieces;
use crate::port::DropReason;

/// Bytes that may wait for the socket: some super-segments, cut to frames.
const BYTES: usize = 512 << 10;
/// A buffer larger than this is given back when it is empty.
const KEPT: usize = 64 << 10;

/// A stream that is a port.
#[derive(Debug)]
pub(super) struct Stream {
    listener: Option<OwnedFd>,
    connection: Option<OwnedFd>,
    inbox: Inbox,
    outbox: Vec<u8>,
    sent: usize,
}

/// A connection's descriptor. Each call is told not to wait, as the one who handed it over could make it block.
fn connection(fd: OwnedFd, domain: i32) -> io::Result<OwnedFd> {
    if domain != libc::AF_UNIX {
        // A frame waits for no other.
        sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    }
    Ok(fd)
}

impl Stream {
    /// A connected or listening stream socket.
    ///
    /// # Errors
    /// EINVAL, ENOTCONN or ENOTSOCK for anything else.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let domain = sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].contains(&domain);
        if !known || sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_STREAM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (mut listener, mut connection) = (None, None);
        if sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? == 1 {
            let flags = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
            listener = Some(fd);
        } else {
            rustix::net::getpeername(&fd)?;
            connection = Some(self::connection(fd, domain)?);
        }
        Ok(Self { listener, connection, inbox: Inbox::default(), outbox: Vec::new(), sent: 0 })
    }

    /// What frames come from, while there is somebody.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// What connections come from.
    pub(super) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(AsFd::as_fd)
    }

    /// Takes in who connected; true if there is another end now that was none before.
    pub(super) fn accept(&mut self) -> bool {
        let had_one = self.connection.is_some();
        while let Some(Ok((fd, domain))) = self.listener.as_ref().map(accept_one) {
            if self.connection.is_none() {
                self.connection = connection(fd, domain).ok();
            }
        }
        !had_one && self.connection.is_some()
    }

    /// The other end is gone. True if the port waits for another one.
    pub(super) fn hang_up(&mut self) -> bool {
        self.connection = None;
        self.inbox.clear();
        self.outbox = Vec::new();
        self.sent = 0;
        self.listener.is_some()
    }

    /// Frames wait of which the socket does not tell.
    pub(super) fn has_frame(&self) -> bool {
        self.connection.is_some() && self.inbox.has_frame()
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// EAGAIN when there is none; any other means the end of the stream.
    pub(super) fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let connection = self.connection.as_ref().ok_or(io::ErrorKind::WouldBlock)?;
        loop {
            if let Some(frame) = self.inbox.next_frame().map_err(io::Error::other)? {
                let place = &mut buffer[..frame.len()];
                place.copy_from_slice(frame);
                return Ok(place);
            }
            match rustix::net::recv(connection, self.inbox.space(), RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((len, _)) => self.inbox.filled(len),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Collects a frame.
    pub(super) fn send(&mut self, pieces: &Pieces<'_>) -> Sent {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if self.connection.is_none() || len > MAX_LEN {
            return Sent::Dropped(DropReason::Refused);
        }
        if self.outbox.len() - self.sent + len > BYTES {
            return Sent::Dropped(DropReason::Full);
        }
        if self.outbox.len() > BYTES {
            self.outbox.drain(..self.sent);
            self.sent = 0;
        }
        self.outbox.extend(prefix(len));
        pieces.iter().for_each(|piece| self.outbox.extend_from_slice(piece));
        Sent::Bytes(len)
    }

    /// Writes what was collected.
    pub(super) fn flush(&mut self) -> Flushed {
        let Some(connection) = &self.connection else { return Flushed::default() };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while self.sent < self.outbox.len() {
            match rustix::net::send(connection, &self.outbox[self.sent..], flags) {
                Ok(len) => self.sent += len,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return Flushed { blocked: true, ..Flushed::default() };
                }
                Err(_) => return Flushed { dead: true, ..Flushed::default() },
            }
        }
        self.outbox.clear();
        self.outbox.shrink_to(KEPT);
        self.sent = 0;
        Flushed::default()
    }
}

/// A connection and its domain.
fn accept_one(listener: &OwnedFd) -> io::Result<(OwnedFd, i32)> {
    let domain = sys::option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let fd = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC)?;
    Ok((fd, domain))
}
