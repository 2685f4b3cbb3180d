//! What every kind of stack can do.
//!
//! A stack makes sockets; what happens on a socket afterwards is between the program and the engine behind
//! the descriptor. Errors that a program will see are errno values, errors that a person will see are
//! [`Refusal`]s.

use std::os::fd::{BorrowedFd, OwnedFd};

use msocket_proto::line::Refusal;
use msocket_proto::proto::File;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The kinds of stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Linux network namespace.
    Kernel,
    /// A stack in a library.
    Smol,
    /// No network.
    None,
}

impl Kind {
    /// The name used on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Smol => "smol",
            Self::None => "none",
        }
    }
}

/// The three arguments of socket(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSpec {
    /// Address family, AF_*.
    pub domain: i32,
    /// SOCK_* with SOCK_CLOEXEC and SOCK_NONBLOCK.
    pub kind: i32,
    /// Protocol, 0 for the family's default.
    pub protocol: i32,
}

/// Families that live in a network namespace and nowhere else: those whose sockets a stack makes; linux/socket.h. The
/// first four are those of a stack in a library.
pub const FAMILIES: [i32; 9] = [
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
    libc::AF_KEY,
    libc::AF_CAN,
    libc::AF_XDP,
    43, // AF_SMC
    45, // AF_MCTP
];

const SMOL_FAMILIES: usize = 4;

/// Bits of socket(2)'s type argument that are the type.
pub const TYPE_MASK: i32 = 0xf;
/// The last of the types, linux/net.h; libc calls it deprecated.
pub const SOCK_PACKET: i32 = 10;

impl SocketSpec {
    /// The families of a kind of stack.
    pub fn families(kind: Kind) -> impl Iterator<Item = i32> {
        let all: &[i32] = match kind {
            Kind::Kernel => &FAMILIES,
            Kind::Smol => &FAMILIES[..SMOL_FAMILIES],
            Kind::None => &[],
        };
        all.iter().copied()
    }

    /// Whether a stack makes such sockets at all.
    pub fn is_of_a_stack(self) -> bool {
        FAMILIES.contains(&self.domain)
    }

    /// Whether the kernel asks whoever makes one for a capability over the network.
    pub fn needs_rights(self) -> bool {
        match self.domain {
            libc::AF_PACKET | libc::AF_KEY | libc::AF_XDP => true,
            // The old name of a packet socket: the kernel takes SOCK_PACKET of INET for AF_PACKET.
            libc::AF_INET | libc::AF_INET6 => matches!(self.kind & TYPE_MASK, libc::SOCK_RAW | SOCK_PACKET),
            _ => false,
        }
    }
}

/// One interface as `viewnet stack show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceInfo {
    /// Kernel name.
    pub name: String,
    /// Hardware address, `02:…`; empty for the loopback.
    pub mac: String,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// What it is plugged into, `switch:lan`.
    pub link: String,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// For how many seconds one of them is leased, if it came by DHCP and is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
    /// As that, by DHCPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_v6_s: Option<u64>,
    /// What it counted.
    #[serde(default)]
    pub counters: InterfaceCounters,
}

/// What an interface counted, as in `ip -s link` (rtnetlink(7), IFLA_STATS64).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceCounters {
    /// Frames in.
    pub rx_packets: u64,
    /// Bytes in.
    pub rx_bytes: u64,
    /// Frames in that made no sense.
    pub rx_errors: u64,
    /// Frames in for which there was no room, or that nobody wanted.
    pub rx_dropped: u64,
    /// Frames out.
    pub tx_packets: u64,
    /// Bytes out.
    pub tx_bytes: u64,
    /// Frames out that could not be sent.
    pub tx_errors: u64,
    /// Frames out for which there was no room.
    pub tx_dropped: u64,
}

/// A protocol engine that makes sockets.
pub trait Stack: std::fmt::Debug {
    /// Which kind it is.
    fn kind(&self) -> Kind;

    /// Makes a socket: socket(2) in this stack. The descriptor is close-on-exec on this side.
    ///
    /// # Errors
    /// The errno that the program shall see.
    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno>;

    /// The interfaces with their addresses, the loopback first.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal>;

    /// Opens a file about the network for reading.
    ///
    /// # Errors
    /// The errno that the program shall see; EOPNOTSUPP if such files cannot be had.
    fn file(&mut self, file: &File) -> Result<OwnedFd, Errno> {
        let _ = file;
        Err(Errno::EOPNOTSUPP)
    }

    /// The network namespace behind the stack, if there is one.
    fn namespace(&self) -> Option<BorrowedFd<'_>>;
}
