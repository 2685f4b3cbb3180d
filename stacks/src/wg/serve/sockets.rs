//! The tunnel's UDP sockets on the host, one for each family, on one port.
//!
//! # Theory of operation
//! A train of datagrams is one sendmsg(2) (UDP_SEGMENT) and one recvmsg(2) (UDP_GRO), see udp(7). Where a network
//! device cannot be given one, each datagram goes alone from then on. Datagrams may be fragmented on their way, as
//! Linux's WireGuard lets them be (no DF): a tunnel's MTU does not change with its peers' ways. A full socket buffer is
//! waited for, for [`PATIENCE`] at most; what it does not take then is lost, as networks lose things.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::Ipv4PathMtuDiscovery;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::sources::Sources;
use crate::gateway::host::{Datagram, receive_at, send_from};
use crate::wg::batch::Outbox;

/// How long a full socket buffer is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// Bytes of a socket's buffers that are asked for: some milliseconds of 10 Gb/s. The kernel grants what it allows.
const BUFFER: usize = 4 << 20;
/// How often a port is tried that is free in one family and not in the other.
const ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(super) struct Sockets {
    v4: OwnedFd,
    /// Absent where the machine has no IPv6.
    v6: Option<OwnedFd>,
    port: u16,
    /// Trains go through.
    trains: bool,
    sources: Sources,
}

impl Sockets {
    /// Sockets on `port`, or on a free one if that is 0.
    ///
    /// # Errors
    /// The port is taken; the mark needs CAP_NET_ADMIN.
    pub(super) fn open(port: u16, mark: u32) -> Result<Self, Refusal> {
        let what = match port {
            0 => "cannot make the tunnel's socket".to_owned(),
            port => format!("cannot listen on UDP port {port}"),
        };
        let in_use = |e: Errno| match e {
            Errno::EADDRINUSE => Refusal::new(&what, "somebody has it")
                .hint("`ss -ulpn` shows who; leave ListenPort out, or end the other tunnel")
                .errno(e as i32),
            e => Refusal::system(&what, e),
        };
        let mut last = Errno::EADDRINUSE;
        for _ in 0..if port == 0 { ATTEMPTS } else { 1 } {
            let v4 = bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)).map_err(in_use)?;
            let got = rustix::net::getsockname(&v4)
                .ok()
                .and_then(|it| SocketAddr::try_from(it).ok())
                .map_or(port, |it| it.port());
            let v6 = match bound(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), got)) {
                Ok(socket) => Some(socket),
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => None,
                Err(why) => {
                    last = why;
                    continue;
                }
            };
            for socket in [Some(&v4), v6.as_ref()].into_iter().flatten().filter(|_| mark != 0) {
                setsockopt(socket, sockopt::Mark, &mark).map_err(|e| {
                    Refusal::new("cannot set FwMark", e.desc())
                        .hint("leave FwMark out: a stack's packets need no mark to find the tunnel")
                        .errno(e as i32)
                })?;
            }
            return Ok(Self { v4, v6, port: got, trains: true, sources: Sources::default() });
        }
        Err(in_use(last))
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten()
    }

    /// Takes a datagram, or a train of them, from one of [`Sockets::all`].
    pub(super) fn receive(&mut self, at: usize, buffer: &mut [u8]) -> Option<Datagram> {
        let socket = self.all().nth(at)?;
        // An error is that of something sent earlier: the next call tells of what came.
        let (got, to) = (0..2).find_map(|_| receive_at(socket, buffer).ok())?;
        self.sources.came(got.from, to);
        Some(got)
    }

    /// What was received last is authentic.
    pub(super) fn learn(&mut self) {
        self.sources.learn();
    }

    /// Sends everything in the outbox and empties it.
    pub(super) fn send(&mut self, outbox: &mut Outbox) {
        for (train, bytes) in outbox.trains() {
            let to = train.to;
            let socket = match (to.ip(), &self.v6) {
                (IpAddr::V4(_), _) => &self.v4,
                (IpAddr::V6(_), Some(v6)) => v6,
                (IpAddr::V6(_), None) => continue,
            };
            let mut from = self.sources.of(to);
            let single = bytes.len() <= usize::from(train.segment);
            if self.trains || single {
                let mut sent = patiently(socket, from, to, bytes, train.segment);
                if from.is_some() && matches!(sent, Err(Errno::EINVAL | Errno::ENETUNREACH)) {
                    self.sources.forget(to);
                    from = None;
                    sent = patiently(socket, from, to, bytes, train.segment);
                }
                match sent {
                    // No checksum offload, no UDP_SEGMENT (Linux 4.18), or datagrams longer than the device's MTU.
                    Err(Errno::EIO | Errno::EINVAL | Errno::ENOPROTOOPT) if !single => self.trains = false,
                    Err(Errno::EMSGSIZE) if !single => {}
                    _ => continue,
                }
            }
            for datagram in bytes.chunks(usize::from(train.segment).max(1)) {
                let _ = patiently(socket, from, to, datagram, 0);
            }
        }
        outbox.clear();
    }
}

fn patiently(
    socket: &OwnedFd,
    from: Option<IpAddr>,
    to: SocketAddr,
    bytes: &[u8],
    segment: u16,
) -> Result<(), Errno> {
    match send_from(socket, from, to, bytes, segment) {
        Err(Errno::EAGAIN | Errno::ENOBUFS) => {
            let _ = poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&PATIENCE));
            send_from(socket, from, to, bytes, segment)
        }
        other => other,
    }
}

fn bound(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let errno = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None).map_err(errno)?;
    if at.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).map_err(errno)?;
    }
    if at.is_ipv4() {
        rustix::net::sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT).map_err(errno)?;
    }
    let told = match at {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true),
    };
    told?;
    // Larger buffers and trains are economies, no needs.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
    let _ = setsockopt(&socket, sockopt::SndBuf, &BUFFER);
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    rustix::net::bind(&socket, &at).map_err(errno)?;
    Ok(socket)
}
