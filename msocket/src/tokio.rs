//! The same sockets for programs with a tokio runtime (feature `tokio`).
//!
//! A socket that is the kernel's converts to tokio's own types by way of std's. These types are for all
//! sockets: they wait for the descriptor, which is the network's whatever it is, and call then.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use nix::errno::Errno;

use crate::{MSocket, Stack, sys};

/// A TCP connection.
#[derive(Debug)]
pub struct TcpStream(AsyncFd<MSocket>);

/// A TCP listener.
#[derive(Debug)]
pub struct TcpListener(AsyncFd<MSocket>);

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket(AsyncFd<MSocket>);

fn watched(socket: MSocket) -> io::Result<AsyncFd<MSocket>> {
    socket.set_nonblocking(true)?;
    sys::register(socket)
}

impl TcpStream {
    /// Connects by a stack.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect(stack: &Stack, to: SocketAddr) -> io::Result<Self> {
        let domain = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let socket = stack.socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        match socket.connect(to) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            other => other?,
        }
        let socket = sys::register(socket)?;
        // Writable is what connected or failed is.
        let _ = socket.writable().await?;
        match socket.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(Self(socket)),
        }
    }

    /// The socket, for names and options.
    pub fn socket(&self) -> &MSocket {
        self.0.get_ref()
    }
}

impl TryFrom<crate::TcpStream> for TcpStream {
    type Error = io::Error;

    fn try_from(stream: crate::TcpStream) -> io::Result<Self> {
        watched(stream.into_socket()).map(Self)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|socket| socket.get_ref().recv(room)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(sent) = guard.try_io(|socket| socket.get_ref().send(data)) {
                return Poll::Ready(sent);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}

impl TcpListener {
    /// The next connection, and who made it.
    ///
    /// # Errors
    /// Those of accept(2).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(accepted) = guard.try_io(|socket| socket.get_ref().accept()) {
                let (socket, peer) = accepted?;
                return Ok((TcpStream(watched(socket)?), peer));
            }
        }
    }

    /// The socket, for names and options.
    pub fn socket(&self) -> &MSocket {
        self.0.get_ref()
    }
}

impl TryFrom<crate::TcpListener> for TcpListener {
    type Error = io::Error;

    fn try_from(listener: crate::TcpListener) -> io::Result<Self> {
        watched(listener.into_socket()).map(Self)
    }
}

impl UdpSocket {
    /// Sends to an address.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        loop {
            let mut guard = self.0.writable().await?;
            if let Ok(sent) = guard.try_io(|socket| socket.get_ref().send_to(data, to)) {
                return sent;
            }
        }
    }

    /// Receives from anybody.
    ///
    /// # Errors
    /// Those of recvfrom(2).
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let mut guard = self.0.readable().await?;
            if let Ok(got) = guard.try_io(|socket| socket.get_ref().recv_from(buffer)) {
                return got;
            }
        }
    }

    /// The socket, for names and options.
    pub fn socket(&self) -> &MSocket {
        self.0.get_ref()
    }
}

impl TryFrom<crate::UdpSocket> for UdpSocket {
    type Error = io::Error;

    fn try_from(socket: crate::UdpSocket) -> io::Result<Self> {
        watched(socket.into_socket()).map(Self)
    }
}
