//! Ports, groups and options of a netlink socket: bind(2), getsockname(2), setsockopt(2).

use std::collections::HashSet;

use nix::errno::Errno;

use super::wire::u32_at;
use super::{MAX_QUEUED, Socket};

/// Length of `struct sockaddr_nl`.
const ADDRESS: usize = 12;
/// Groups of a protocol: more than any has (RTNLGRP_MAX is 39).
const GROUPS: u32 = 64;
/// Groups that bind(2) can name.
const GROUPS_OF_BIND: u64 = 0xffff_ffff;
/// Where the ports of sockets begin whose process has one already (netlink_autobind), downwards.
const FIRST_EXTRA: i32 = -4097;
/// How many of those are tried: more than a process has descriptors.
const MAX_EXTRA: i32 = 1 << 20;

/// Ports of all netlink sockets of a stack.
#[derive(Debug, Default)]
pub struct Ports {
    taken: HashSet<(i32, u32)>,
}

impl Ports {
    /// Takes `wish`, or if that is 0 the process' own number, or if that is taken any.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn claim(&mut self, protocol: i32, wish: u32, pid: i32) -> Result<u32, Errno> {
        if wish != 0 {
            let free = self.taken.insert((protocol, wish));
            return if free { Ok(wish) } else { Err(Errno::EADDRINUSE) };
        }
        let extra = (0..MAX_EXTRA).map(|n| FIRST_EXTRA.wrapping_sub(n).cast_unsigned());
        std::iter::once(pid.cast_unsigned())
            .filter(|port| *port != 0)
            .chain(extra)
            .find(|port| self.taken.insert((protocol, *port)))
            .ok_or(Errno::EADDRINUSE)
    }

    /// The socket is closed.
    pub fn release(&mut self, socket: &Socket) {
        self.taken.remove(&(socket.protocol, socket.port));
    }
}

/// `struct sockaddr_nl`.
pub fn address(port: u32, groups: u32) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    bytes[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&port.to_ne_bytes());
    bytes[8..].copy_from_slice(&groups.to_ne_bytes());
    bytes
}

/// Port and groups of a `struct sockaddr_nl`.
fn parse_address(bytes: &[u8]) -> Result<(u32, u32), Errno> {
    let family = bytes.get(..2).ok_or(Errno::EINVAL)?;
    if bytes.len() < ADDRESS || family != (libc::AF_NETLINK as u16).to_ne_bytes() {
        return Err(Errno::EINVAL);
    }
    Ok((u32_at(bytes, 4).unwrap_or_default(), u32_at(bytes, 8).unwrap_or_default()))
}

/// What setsockopt(2) sets.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) cap_ack: bool,
    pub(super) ext_ack: bool,
    pub(super) strict: bool,
    pub(super) no_enobufs: bool,
    pub(super) packet_info: bool,
    pub(super) broadcast_error: bool,
    pub(super) receive_buffer: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cap_ack: false,
            ext_ack: false,
            strict: false,
            no_enobufs: false,
            packet_info: false,
            broadcast_error: false,
            receive_buffer: MAX_QUEUED,
        }
    }
}

/// The protocols that a socket can have. The others are not in every Linux either.
pub(super) fn is_protocol(protocol: i32) -> bool {
    matches!(
        protocol,
        libc::NETLINK_ROUTE
            | libc::NETLINK_USERSOCK
            | libc::NETLINK_SOCK_DIAG
            | libc::NETLINK_XFRM
            | libc::NETLINK_AUDIT
            | libc::NETLINK_FIB_LOOKUP
            | libc::NETLINK_NETFILTER
            | libc::NETLINK_KOBJECT_UEVENT
            | libc::NETLINK_GENERIC
    )
}

impl Socket {
    /// NETLINK_*
    pub fn protocol(&self) -> i32 {
        self.protocol
    }

    /// Its port: `nl_pid` of getsockname(2); 0 while it has none.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// bind(2). `pid` is the caller's.
    ///
    /// # Errors
    /// EINVAL, EADDRINUSE, EPERM.
    pub fn bind(&mut self, ports: &mut Ports, pid: i32, rights: bool, address: &[u8]) -> Result<(), Errno> {
        let (port, groups) = parse_address(address)?;
        if groups != 0 && !rights && !self.lets_everybody_listen() {
            return Err(Errno::EPERM);
        }
        if self.port != 0 && port != self.port {
            return Err(Errno::EINVAL);
        }
        if self.port == 0 {
            self.port = ports.claim(self.protocol, port, pid)?;
        }
        self.groups = self.groups & !GROUPS_OF_BIND | u64::from(groups);
        Ok(())
    }

    /// Gives it a port if it has none, as its first send does.
    ///
    /// # Errors
    /// EADDRINUSE.
    pub fn bind_any(&mut self, ports: &mut Ports, pid: i32) -> Result<(), Errno> {
        if self.port == 0 {
            self.port = ports.claim(self.protocol, 0, pid)?;
        }
        Ok(())
    }

    /// getsockname(2)
    pub fn local_name(&self) -> [u8; ADDRESS] {
        address(self.port, (self.groups & GROUPS_OF_BIND) as u32)
    }

    /// Whether a datagram may be sent there, or the socket connected: to the kernel and nobody else.
    ///
    /// # Errors
    /// EINVAL, EPERM (groups), ECONNREFUSED (another socket).
    pub fn check_destination(&self, address: &[u8]) -> Result<(), Errno> {
        match parse_address(address)? {
            (_, groups) if groups != 0 => Err(Errno::EPERM),
            (0, _) => Ok(()),
            _ => Err(Errno::ECONNREFUSED),
        }
    }

    /// SO_RCVBUF: how much may wait.
    pub fn set_receive_buffer(&mut self, bytes: usize) {
        self.options.receive_buffer = bytes;
    }

    /// NETLINK_PKTINFO: a datagram comes with `struct nl_pktinfo`.
    pub fn wants_packet_info(&self) -> bool {
        self.options.packet_info
    }

    /// setsockopt(2) at SOL_NETLINK.
    ///
    /// # Errors
    /// EINVAL, EPERM, ENOPROTOOPT.
    pub fn set_option(&mut self, name: i32, value: &[u8], rights: bool) -> Result<(), Errno> {
        let number = u32_at(value, 0);
        let on = number.is_some_and(|n| n != 0);
        match name {
            libc::NETLINK_ADD_MEMBERSHIP | libc::NETLINK_DROP_MEMBERSHIP => {
                if !rights && !self.lets_everybody_listen() {
                    return Err(Errno::EPERM);
                }
                let group = number.filter(|n| (1..=GROUPS).contains(n)).ok_or(Errno::EINVAL)?;
                let bit = 1u64 << (group - 1);
                if name == libc::NETLINK_ADD_MEMBERSHIP {
                    self.groups |= bit;
                } else {
                    self.groups &= !bit;
                }
                return Ok(());
            }
            // Needs CAP_NET_BROADCAST over the network namespaces of others.
            libc::NETLINK_LISTEN_ALL_NSID => return Err(Errno::EPERM),
            libc::NETLINK_PKTINFO => self.options.packet_info = on,
            libc::NETLINK_BROADCAST_ERROR => self.options.broadcast_error = on,
            libc::NETLINK_NO_ENOBUFS => self.options.no_enobufs = on,
            libc::NETLINK_CAP_ACK => self.options.cap_ack = on,
            libc::NETLINK_EXT_ACK => self.options.ext_ack = on,
            libc::NETLINK_GET_STRICT_CHK => self.options.strict = on,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// getsockopt(2) at SOL_NETLINK, in full.
    ///
    /// # Errors
    /// ENOPROTOOPT.
    pub fn option(&self, name: i32) -> Result<Vec<u8>, Errno> {
        let on = match name {
            libc::NETLINK_LIST_MEMBERSHIPS => return Ok(self.groups.to_ne_bytes().to_vec()),
            libc::NETLINK_LISTEN_ALL_NSID => false,
            libc::NETLINK_PKTINFO => self.options.packet_info,
            libc::NETLINK_BROADCAST_ERROR => self.options.broadcast_error,
            libc::NETLINK_NO_ENOBUFS => self.options.no_enobufs,
            libc::NETLINK_CAP_ACK => self.options.cap_ack,
            libc::NETLINK_EXT_ACK => self.options.ext_ack,
            libc::NETLINK_GET_STRICT_CHK => self.options.strict,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(i32::from(on).to_ne_bytes().to_vec())
    }

    /// It is a member of the group.
    pub fn listens_to(&self, group: u32) -> bool {
        (1..=GROUPS).contains(&group) && self.groups >> (group - 1) & 1 != 0
    }

    /// It is a member of any group.
    pub fn listens(&self) -> bool {
        self.groups != 0
    }

    /// NL_CFG_F_NONROOT_RECV
    fn lets_everybody_listen(&self) -> bool {
        matches!(
            self.protocol,
            libc::NETLINK_ROUTE
                | libc::NETLINK_USERSOCK
                | libc::NETLINK_KOBJECT_UEVENT
                | libc::NETLINK_GENERIC
                | libc::NETLINK_SOCK_DIAG
        )
    }
}
