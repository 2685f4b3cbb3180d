//! ioctl(2) on sockets (netdevice(7), arp(7), socket(7), tcp(7)): which requests are a network's, and what their
//! arguments are. A supervisor copies them from a program's memory, a library in the program itself.

/// sizeof(struct ifreq) of 64-bit Linux, and of 32-bit x86.
pub const IFREQ: usize = 40;
/// See [`IFREQ`].
pub const IFREQ_32: usize = 32;
/// Where a struct ifreq has its union, and so `ifr_data`.
pub const IFR_DATA: usize = 16;
/// IFNAMSIZ, linux/if.h.
pub const IFNAMSIZ: usize = 16;
/// struct rtentry, linux/route.h: its size and where `rt_dev` points from.
pub const RTENTRY: usize = 120;
/// See [`RTENTRY`].
pub const RT_DEV: usize = 88;
/// sizeof(struct in6_rtmsg), linux/ipv6_route.h, which the same requests take on an IPv6 socket.
pub const IN6_RTMSG: usize = 80;
/// The longest argument that is a [`Argument::Struct`]: struct arpreq.
pub const LONGEST: usize = ARPREQ;
/// Most interfaces of a list.
pub const MOST: usize = 1000;

/// linux/sockios.h and asm/ioctls.h: SIOCOUTQ, which is TIOCOUTQ.
pub const SIOCOUTQ: u32 = 0x5411;
/// What else a stack is asked for; it answers FIOSETOWN to SIOCGPGRP (0x8901 to 0x8904) as the kernel does on any socket.
/// From each first to its last.
pub const REQUESTS: [(u32, u32); 2] = [(0x8905, 0x89ff), WIRELESS];
/// The requests of wireless devices.
pub const WIRELESS: (u32, u32) = (0x8b00, 0x8bff);
/// The list of interfaces.
pub const SIOCGIFCONF: u32 = 0x8912;
/// ethtool(8)
pub const SIOCETHTOOL: u32 = 0x8946;
const SIOCGSKNS: u32 = 0x894c;
/// SIOCATMARK, SIOCOUTQNSD
const NUMBERS: [u32; 3] = [SIOCOUTQ, 0x8905, 0x894b];
/// SIOCGSTAMP, SIOCGSTAMPNS
const STAMPS: [u32; 2] = [0x8906, 0x8907];
/// SIOCADDRT, SIOCDELRT
const ROUTES: [u32; 2] = [0x890b, 0x890c];
/// SIOCDARP, SIOCGARP, SIOCSARP and sizeof(struct arpreq).
const ARP: std::ops::RangeInclusive<u32> = 0x8953..=0x8955;
const ARPREQ: usize = 68;
/// SIOCGIFVLAN, SIOCSIFVLAN and sizeof(struct vlan_ioctl_args), linux/if_vlan.h.
const VLAN: [u32; 2] = [0x8982, 0x8983];
const VLAN_ARGS: usize = 56;
/// SIOCSIFADDR, SIOCSIFDSTADDR, SIOCDIFADDR, whose argument on an IPv6 socket is a struct in6_ifreq.
const ADDRESSES: [u32; 3] = [0x8916, 0x8918, 0x8936];
const IN6_IFREQ: usize = 24;

/// What a request's argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// An int comes back.
    Number,
    /// A time comes back, two longs.
    Time,
    /// A struct ifconf, which has a pointer to the list.
    List,
    /// A struct ifreq, which has a pointer to a struct of ethtool's.
    Ethtool,
    /// A struct rtentry, which has a pointer to its device's name; or a struct in6_rtmsg.
    Route,
    /// Requests of drivers, bridges, wireless devices, and those of AF_UNIX itself, some without an argument: as much of
    /// a struct ifreq as is there.
    Any,
    /// A struct, which goes and comes.
    Struct {
        /// What must be there.
        least: usize,
        /// What may.
        size: usize,
    },
}

/// Whether a stack is asked for it.
pub fn is_ours(request: u32) -> bool {
    request == SIOCOUTQ || REQUESTS.iter().any(|range| (range.0..=range.1).contains(&request))
}

/// What the argument of one that [`is_ours`] is, where a struct ifreq has that size.
pub fn argument(request: u32, ifreq: usize) -> Argument {
    match request {
        SIOCGIFCONF => Argument::List,
        SIOCETHTOOL => Argument::Ethtool,
        SIOCGSKNS | 0x8984.. => Argument::Any,
        _ if NUMBERS.contains(&request) => Argument::Number,
        _ if STAMPS.contains(&request) => Argument::Time,
        _ if ROUTES.contains(&request) => Argument::Route,
        _ if ARP.contains(&request) => Argument::Struct { least: ARPREQ, size: ARPREQ },
        _ if VLAN.contains(&request) => Argument::Struct { least: VLAN_ARGS, size: VLAN_ARGS },
        _ if ADDRESSES.contains(&request) => Argument::Struct { least: IN6_IFREQ, size: ifreq },
        _ => Argument::Struct { least: ifreq, size: ifreq },
    }
}

/// How long the struct of an ethtool command is, linux/ethtool.h; a struct ethtool_value where nothing longer is
/// known, for most commands to ask have one, and all others are refused whatever is in them.
pub fn ethtool_size(command: u32) -> usize {
    match command {
        // ETHTOOL_GSET, GDRVINFO, GCOALESCE, GRINGPARAM, GCHANNELS, GET_TS_INFO, GLINKSETTINGS
        0x01 => 44,
        0x03 => 196,
        0x0e => 92,
        0x10 => 36,
        0x3c => 36,
        0x41 => 44,
        0x4c => 48,
        _ => 8,
    }
}
