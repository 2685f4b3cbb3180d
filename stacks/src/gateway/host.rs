//! The host's sockets: making them, asking them.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use super::nat64;
use super::policy::Families;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// Which families lead from the host to everybody, as far as its routes say: nothing is sent.
pub(super) fn families() -> Families {
    let leads = |to: IpAddr| {
        let socket = new(to.is_ipv4(), SocketType::DGRAM, None);
        socket.is_ok_and(|it| rustix::net::connect(&it, &SocketAddr::new(to, DISCARD)).is_ok())
    };
    // An address of documentation (RFC 5737), which goes where all goes, and the same in IPv6.
    let anybody = Ipv4Addr::new(198, 51, 100, 1);
    Families { v4: leads(anybody.into()), v6: leads(nat64::embed(anybody).into()) }
}

/// The port of nobody (RFC 863).
const DISCARD: u16 = 9;

/// What is received at once at most: a datagram, or a train of them (UDP_GRO).
pub(crate) const LONGEST: usize = 65_535;

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

fn new(v4: bool, kind: SocketType, protocol: Option<rustix::net::Protocol>) -> Result<OwnedFd, Errno> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol).map_err(errno)
}

/// A connection to `to`, under way or there; from a port that others have, too ([`share_port`]), if that is possible.
///
/// # Errors
/// Those of socket(2) and connect(2) that are said at once.
pub(super) fn connect(to: SocketAddr, shared: Option<u16>) -> Result<OwnedFd, Errno> {
    let socket = new(to.is_ipv4(), SocketType::STREAM, None)?;
    // What is relayed was gathered by whoever wrote it.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    urgent_in_line(&socket);
    if let Some(port) = shared {
        let _ = rustix::net::sockopt::set_socket_reuseaddr(&socket, true);
        let _ = rustix::net::bind(&socket, &any(to.is_ipv4(), port));
    }
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        // There is such a connection already, or there was one just now.
        Err(rustix::io::Errno::ADDRNOTAVAIL) if shared.is_some() => connect(to, None),
        Err(why) => Err(errno(why)),
    }
}

/// All addresses of the host.
fn any(v4: bool, port: u16) -> SocketAddr {
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(any, port)
}

/// The port that a connection has, which others may have from now on.
pub(super) fn share_port(socket: &OwnedFd) -> Option<u16> {
    rustix::net::sockopt::set_socket_reuseaddr(socket, true).ok()?;
    let own = rustix::net::getsockname(socket).ok()?;
    SocketAddr::try_from(own).ok().map(|own| own.port())
}

/// Urgent data come among the others, where they were sent; accepted sockets have it of their listener.
fn urgent_in_line(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_oobinline(socket, true);
}

/// Connections that wait to be accepted: as many as the kernel lets them be (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A socket that connections or datagrams to `at` come to.
///
/// # Errors
/// Those of socket(2), bind(2), listen(2): EADDRINUSE, EACCES.
pub(super) fn door(at: SocketAddr, stream: bool) -> Result<OwnedFd, Errno> {
    let kind = if stream { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = new(at.is_ipv4(), kind, None)?;
    if !at.is_ipv4() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).map_err(errno)?;
    }
    if stream {
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(errno)?;
        urgent_in_line(&socket);
    }
    rustix::net::bind(&socket, &at).map_err(errno)?;
    if stream {
        rustix::net::listen(&socket, BACKLOG).map_err(errno)?;
    } else {
        // Trains of datagrams are an economy, no need.
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    }
    Ok(socket)
}

/// A connection that came, and who made it.
///
/// # Errors
/// Those of accept4(2); EAGAIN when there is none.
pub(super) fn accept(door: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, from) = rustix::net::acceptfrom_with(door, flags).map_err(errno)?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).ok_or(Errno::ECONNABORTED)?;
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    Ok((socket, from))
}

/// SO_ERROR
pub(super) fn take_error(socket: &OwnedFd) -> Option<Errno> {
    match rustix::net::sockopt::socket_error(socket) {
        Ok(Ok(())) => None,
        Ok(Err(why)) | Err(why) => Some(errno(why)),
    }
}

/// Closing it shall reset the connection.
pub(super) fn reset_at_close(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// A socket for datagrams from one inside address, of which errors are told.
///
/// # Errors
/// Those of socket(2), bind(2).
pub(super) fn datagram_socket(v4: bool) -> Result<OwnedFd, Errno> {
    let socket = new(v4, SocketType::DGRAM, None)?;
    if !v4 {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true).map_err(errno)?;
    }
    rustix::net::bind(&socket, &any(v4, 0)).map_err(errno)?;
    hear_errors(&socket, v4);
    // Trains of datagrams are an economy, no need.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    Ok(socket)
}

/// A socket that sends echo requests (icmp(7), ping_group_range).
///
/// # Errors
/// EACCES: its user may not.
pub(super) fn echo_socket(v4: bool) -> Result<OwnedFd, Errno> {
    let protocol = if v4 { ipproto::ICMP } else { ipproto::ICMPV6 };
    let socket = new(v4, SocketType::DGRAM, Some(protocol))?;
    hear_errors(&socket, v4);
    Ok(socket)
}

fn hear_errors(socket: &OwnedFd, v4: bool) {
    // Without them the inside waits where it could have known.
    let _ = if v4 {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)
    };
}

/// What is sent from now on has come this far already.
pub(super) fn set_ttl(socket: &OwnedFd, v4: bool, ttl: u8) {
    let _ = if v4 {
        rustix::net::sockopt::set_ip_ttl(socket, ttl.into())
    } else {
        rustix::net::sockopt::set_ipv6_unicast_hops(socket, Some(ttl))
    };
}

/// Whether what is sent from now on has to stay whole: the sender is told if it is longer than the way is wide. Else it is
/// cut where that is so: by routers in IPv4, in IPv6 by the host.
pub(super) fn set_uncut(socket: &OwnedFd, v4: bool, uncut: bool) {
    let _ = match (v4, uncut) {
        (true, true) => rustix::net::sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO),
        (true, false) => rustix::net::sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT),
        (false, true) => rustix::net::sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO),
        (false, false) => rustix::net::sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT),
    };
}

/// Sends a datagram, or a train of them `segment` bytes each.
///
/// # Errors
/// Those of sendmsg(2).
pub(crate) fn send(socket: &OwnedFd, to: SocketAddr, data: &[u8], segment: u16) -> Result<(), Errno> {
    send_from(socket, None, to, data, segment)
}

/// The same, from this address of the host's, if one is said.
///
/// # Errors
/// Those of sendmsg(2); EINVAL if the host has no such address.
pub(crate) fn send_from(
    socket: &OwnedFd,
    from: Option<IpAddr>,
    to: SocketAddr,
    data: &[u8],
    segment: u16,
) -> Result<(), Errno> {
    let train = segment > 0 && usize::from(segment) < data.len();
    if !train && from.is_none() {
        return rustix::net::sendto(socket, data, rustix::net::SendFlags::DONTWAIT, &to)
            .map(|_| ())
            .map_err(errno);
    }
    let to = SockaddrStorage::from(to);
    let cut = train.then_some(ControlMessage::UdpGsoSegments(&segment));
    let (v4, v6) = (from.and_then(packet_info4), from.and_then(packet_info6));
    let v6 = v6.as_ref().map(ControlMessage::Ipv6PacketInfo);
    let from = v4.as_ref().map(ControlMessage::Ipv4PacketInfo).or(v6);
    let data = [std::io::IoSlice::new(data)];
    let send = |control: &[ControlMessage<'_>]| {
        sendmsg(socket.as_raw_fd(), &data, control, MsgFlags::MSG_DONTWAIT, Some(&to)).map(|_| ())
    };
    match (cut, from) {
        (Some(cut), Some(from)) => send(&[cut, from]),
        (Some(one), None) | (None, Some(one)) => send(&[one]),
        (None, None) => send(&[]),
    }
}

fn packet_info4(from: IpAddr) -> Option<libc::in_pktinfo> {
    let IpAddr::V4(from) = from else { return None };
    let of = |address: Ipv4Addr| libc::in_addr { s_addr: u32::from(address).to_be() };
    Some(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: of(from), ipi_addr: of(Ipv4Addr::UNSPECIFIED) })
}

fn packet_info6(from: IpAddr) -> Option<libc::in6_pktinfo> {
    let IpAddr::V6(from) = from else { return None };
    Some(libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 })
}

/// A datagram, or a train of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// Who sent it.
    pub(crate) from: SocketAddr,
    /// How long it is.
    pub(crate) length: usize,
    /// Bytes of each piece of a train; 0: it is one.
    pub(crate) segment: u16,
}

/// Takes a datagram into `buffer`.
///
/// # Errors
/// Those of recvmsg(2); EAGAIN when there is none.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Datagram, Errno> {
    receive_at(socket, buffer).map(|(datagram, _)| datagram)
}

/// The same, with the address of the host's that it came to, on a socket that is told (IP_PKTINFO, IPV6_RECVPKTINFO).
///
/// # Errors
/// Those of recvmsg(2); EAGAIN when there is none.
pub(crate) fn receive_at(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(Datagram, Option<IpAddr>), Errno> {
    let mut control = nix::cmsg_space!(i32, libc::in6_pktinfo);
    let mut into = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut into,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let (mut segment, mut to) = (0, None);
    for message in got.cmsgs()? {
        match message {
            ControlMessageOwned::UdpGroSegments(size) => segment = u16::try_from(size).unwrap_or(0),
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                to = Some(IpAddr::V4(u32::from_be(info.ipi_spec_dst.s_addr).into()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into())),
            _ => {}
        }
    }
    let from = got.address.as_ref().and_then(address).ok_or(Errno::EINVAL)?;
    let segment = if usize::from(segment) < got.bytes { segment } else { 0 };
    Ok((Datagram { from, length: got.bytes, segment }, to))
}

/// An ICMP error that the host heard of a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    /// Whom the datagram was for.
    pub(super) to: SocketAddr,
    /// Whoever says so, if it was not the host itself.
    pub(super) offender: Option<IpAddr>,
    /// What it means for a program.
    pub(super) errno: Errno,
    /// ICMP type and code; (0, 0) from the host itself.
    pub(super) icmp: (u8, u8),
    /// What goes with it: a path MTU.
    pub(super) info: u32,
    /// Bytes of the datagram that are in the buffer.
    pub(super) length: usize,
}

/// Takes an error from the socket's queue; the datagram's first bytes go into `buffer`.
pub(super) fn receive_error(socket: &OwnedFd, buffer: &mut [u8]) -> Option<Heard> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut into = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut into, Some(&mut control), flags).ok()?;
    let (error, offender) = got.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4RecvErr(error, offender) => {
            let address = offender.map(|it| IpAddr::V4(Ipv4Addr::from(u32::from_be(it.sin_addr.s_addr))));
            Some((error, address))
        }
        ControlMessageOwned::Ipv6RecvErr(error, offender) => {
            Some((error, offender.map(|it| IpAddr::V6(Ipv6Addr::from(it.sin6_addr.s6_addr)))))
        }
        _ => None,
    })?;
    Some(Heard {
        to: got.address.as_ref().and_then(address)?,
        offender: offender.filter(|address| !address.is_unspecified()),
        errno: Errno::from_raw(error.ee_errno as i32),
        icmp: (error.ee_type, error.ee_code),
        info: error.ee_info,
        length: got.bytes,
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|it| SocketAddr::from((it.ip(), it.port())));
    let v6 = |it: &SockaddrIn6| SocketAddrV6::new(it.ip(), it.port(), 0, it.scope_id()).into();
    v4.or_else(|| storage.as_sockaddr_in6().map(v6))
}

/// A socket for datagrams that a proxy relays at `to`, and for nobody else's.
///
/// # Errors
/// Those of socket(2), connect(2).
pub(super) fn relay_socket(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = new(to.is_ipv4(), SocketType::DGRAM, None)?;
    rustix::net::connect(&socket, &to).map_err(errno)?;
    Ok(socket)
}

/// Sends a datagram in two pieces to whom the socket is connected with.
///
/// # Errors
/// Those of sendmsg(2).
pub(super) fn pass(socket: &OwnedFd, head: &[u8], data: &[u8]) -> Result<(), Errno> {
    let pieces = [std::io::IoSlice::new(head), std::io::IoSlice::new(data)];
    sendmsg::<()>(socket.as_raw_fd(), &pieces, &[], MsgFlags::MSG_DONTWAIT, None).map(|_| ())
}
