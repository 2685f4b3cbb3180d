//! TCP and UDP on any stack, as std has them: [`TcpStream`], [`TcpListener`], [`UdpSocket`].
//!
//! Where the socket is the kernel's, and inside a view always, each converts to the type of that name in
//! [`std::net`], and so to those of every library that takes them. Otherwise the conversion gives it back.

use std::io::{self, Read, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use crate::socket::MSocket;

/// A TCP connection.
#[derive(Debug)]
pub struct TcpStream(MSocket);

/// A TCP listener.
#[derive(Debug)]
pub struct TcpListener(MSocket);

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket(MSocket);

macro_rules! socket {
    ($type:ident) => {
        impl $type {
            pub(crate) fn of(socket: MSocket) -> Self {
                Self(socket)
            }

            /// The address of this side.
            ///
            /// # Errors
            /// Those of getsockname(2).
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.0.local_addr()
            }

            /// The error that waits on the socket; it is taken away.
            ///
            /// # Errors
            /// Those of getsockopt(2).
            pub fn take_error(&self) -> io::Result<Option<io::Error>> {
                self.0.take_error()
            }

            /// Whether calls give WouldBlock instead of waiting.
            ///
            /// # Errors
            /// Those of fcntl(2).
            pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                self.0.set_nonblocking(nonblocking)
            }

            /// The socket, for options and whatever else there is.
            pub fn socket(&self) -> &MSocket {
                &self.0
            }

            /// The socket itself.
            pub fn into_socket(self) -> MSocket {
                self.0
            }
        }

        impl TryFrom<$type> for net::$type {
            type Error = $type;

            fn try_from(socket: $type) -> Result<Self, $type> {
                socket.0.into_native().map(Self::from).map_err($type)
            }
        }

        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }
    };
}

socket!(TcpStream);
socket!(TcpListener);
socket!(UdpSocket);

impl TcpStream {
    /// The address of the other side.
    ///
    /// # Errors
    /// Those of getpeername(2).
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    /// Closes one direction, or both.
    ///
    /// # Errors
    /// Those of shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    /// TCP_NODELAY of tcp(7).
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.set_option(libc::IPPROTO_TCP, libc::TCP_NODELAY, &i32::from(nodelay).to_ne_bytes())
    }
}

impl Read for &TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Read for TcpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for &TcpStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for TcpStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TcpListener {
    /// The next connection, and who made it.
    ///
    /// # Errors
    /// Those of accept(2).
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = self.0.accept()?;
        Ok((TcpStream(socket), peer))
    }
}

impl UdpSocket {
    /// Whom [`UdpSocket::send`] and [`UdpSocket::recv`] speak with.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.0.connect(to)
    }

    /// Sends to the peer.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.0.send(data)
    }

    /// Receives from the peer.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }

    /// Sends to an address.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.0.send_to(data, to)
    }

    /// Receives from anybody.
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buffer)
    }
}
