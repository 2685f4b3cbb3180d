//! Sockets of any stack: [`MSocket`].
//!
//! # Theory of operation
//! A socket of a kernel stack is the kernel's, wherever it was made, and inside a view every socket behaves as one.
//! Only a socket of a stack in a library, outside of a view, is an AF_UNIX socket that knows nothing of addresses
//! and options: such calls go to its stack ([`crate::call`]), all others to the kernel.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use stacks::smol::call::{Done, SocketCall};

use crate::address::{self, bytes};
use crate::call::Client;
use crate::sys;

/// A socket of a stack, of any family and type.
#[derive(Debug)]
pub struct MSocket {
    fd: OwnedFd,
    /// Who answers its calls, if it is not the kernel.
    client: Option<Arc<Client>>,
}

impl MSocket {
    pub(crate) fn new(fd: OwnedFd, client: Option<Arc<Client>>) -> Self {
        Self { fd, client }
    }

    /// Whether every call works on the descriptor itself. If not, only those do that move bytes, wait or close.
    pub fn is_native(&self) -> bool {
        self.client.is_none()
    }

    /// The descriptor alone.
    ///
    /// # Errors
    /// The socket itself, if it is not native.
    pub fn into_native(self) -> Result<OwnedFd, Self> {
        if self.is_native() { Ok(self.fd) } else { Err(self) }
    }

    /// The descriptor alone, whatever it is.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Asks the stack; `None` if the kernel's answer on the descriptor is right.
    fn ask(&self, call: SocketCall) -> Result<Option<(Done, Option<OwnedFd>)>, Errno> {
        let Some(client) = &self.client else { return Ok(None) };
        let connects = matches!(call, SocketCall::Connect { .. });
        let (done, mut fd) = client.call(self.fd.as_fd(), call);
        if connects && let Some(fresh) = fd.take() {
            // The old one was spent by an attempt that failed.
            sys::replace(self.fd.as_fd(), fresh)?;
        }
        match done? {
            Done::Native | Done::NotOurs => Ok(None),
            done => Ok(Some((done, fd))),
        }
    }

    /// bind(2) to an address of any family, as `struct sockaddr`.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind_to(&self, address: &[u8]) -> Result<(), Errno> {
        match self.ask(SocketCall::Bind { address: address.to_vec() })? {
            Some(_) => Ok(()),
            None => sys::with_address(sys::Named::Bind, self.as_fd(), address),
        }
    }

    /// connect(2) to an address of any family, as `struct sockaddr`.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect_to(&self, address: &[u8]) -> Result<(), Errno> {
        match self.ask(SocketCall::Connect { address: address.to_vec() })? {
            Some(_) => Ok(()),
            None => sys::with_address(sys::Named::Connect, self.as_fd(), address),
        }
    }

    /// bind(2)
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(&self, address: SocketAddr) -> io::Result<()> {
        Ok(self.bind_to(&bytes(address))?)
    }

    /// connect(2)
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        Ok(self.connect_to(&bytes(address))?)
    }

    /// listen(2)
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        match self.ask(SocketCall::Listen { backlog })? {
            Some(_) => Ok(()),
            None => Ok(rustix::net::listen(&self.fd, backlog)?),
        }
    }

    /// accept4(2): the new socket, close-on-exec, and its peer.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept(&self) -> io::Result<(Self, SocketAddr)> {
        let (fd, peer) = match self.ask(SocketCall::Accept { flags: libc::SOCK_CLOEXEC })? {
            Some((Done::Accepted { peer }, Some(fd))) => (fd, peer),
            Some(_) => return Err(Errno::EIO.into()),
            None => sys::accept(self.as_fd(), libc::SOCK_CLOEXEC)?,
        };
        Ok((Self::new(fd, self.client.clone()), address::parsed(&peer)?))
    }

    /// getsockname(2)
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.name(SocketCall::LocalName, false)
    }

    /// getpeername(2)
    ///
    /// # Errors
    /// Those of getpeername(2).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.name(SocketCall::PeerName, true)
    }

    fn name(&self, call: SocketCall, peer: bool) -> io::Result<SocketAddr> {
        match self.ask(call)? {
            Some((Done::Address(name), _)) => address::parsed(&name),
            Some(_) => Err(Errno::EIO.into()),
            None => address::parsed(&sys::name(self.as_fd(), peer)?),
        }
    }

    /// setsockopt(2)
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_option(&self, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
        match self.ask(SocketCall::SetOption { level, name, value: value.to_vec() })? {
            Some(_) => Ok(()),
            None => Ok(sys::set_option(self.as_fd(), level, name, value)?),
        }
    }

    /// getsockopt(2): at most `room` bytes.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn option(&self, level: i32, name: i32, room: usize) -> io::Result<Vec<u8>> {
        let value = vec![0; room];
        match self.ask(SocketCall::GetOption { level, name, value: value.clone() })? {
            Some((Done::Bytes(value), _)) => Ok(value),
            Some(_) => Err(Errno::EIO.into()),
            None => Ok(sys::option(self.as_fd(), level, name, value)?),
        }
    }

    /// The error that waits on the socket, SO_ERROR of socket(7); it is taken away.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let value = self.option(libc::SOL_SOCKET, libc::SO_ERROR, size_of::<i32>())?;
        let errno = value.try_into().map(i32::from_ne_bytes).unwrap_or_default();
        Ok((errno != 0).then(|| io::Error::from_raw_os_error(errno)))
    }

    /// shutdown(2)
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let (number, how) = match how {
            Shutdown::Read => (libc::SHUT_RD, rustix::net::Shutdown::Read),
            Shutdown::Write => (libc::SHUT_WR, rustix::net::Shutdown::Write),
            Shutdown::Both => (libc::SHUT_RDWR, rustix::net::Shutdown::Both),
        };
        match self.ask(SocketCall::Shutdown { how: number })? {
            Some(_) => Ok(()),
            None => Ok(rustix::net::shutdown(&self.fd, how)?),
        }
    }

    /// send(2): to the peer, without SIGPIPE.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        Ok(sys::send(self.as_fd(), data, libc::MSG_NOSIGNAL, &[])?)
    }

    /// recv(2)
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.fd, buffer, rustix::net::RecvFlags::empty())?.0)
    }

    /// sendto(2)
    ///
    /// # Errors
    /// Those of sendto(2).
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        let (to, flags) = (bytes(to), libc::MSG_NOSIGNAL);
        let call = SocketCall::Send { to: Some(to.clone()), control: Vec::new(), data: data.to_vec(), flags };
        match self.ask(call)? {
            Some((Done::Value(sent), _)) => Ok(usize::try_from(sent).unwrap_or_default()),
            Some(_) => Err(Errno::EIO.into()),
            None => Ok(sys::send(self.as_fd(), data, flags, &to)?),
        }
    }

    /// recvfrom(2)
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, control, flags, named) = (buffer.len(), 0, 0, true);
        match self.ask(SocketCall::Receive { length, control, flags, named })? {
            Some((Done::Received(message), _)) => {
                let length = message.data.len().min(buffer.len());
                buffer[..length].copy_from_slice(&message.data[..length]);
                Ok((length, address::parsed(&message.from)?))
            }
            Some(_) => Err(Errno::EIO.into()),
            None => {
                let (length, from) = sys::receive(self.as_fd(), buffer, flags)?;
                Ok((length, address::parsed(&from)?))
            }
        }
    }

    /// O_NONBLOCK, of all copies of the descriptor.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, nonblocking)?)
    }
}

impl AsFd for MSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for MSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
