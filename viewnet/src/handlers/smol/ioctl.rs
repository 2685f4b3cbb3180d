//! ioctl(2) on a socket (netdevice(7), arp(7), socket(7), tcp(7)): how long the argument is, what it points to.
//!
//! The argument goes to the stack as the machine's layout has it, and what comes back is written where it came
//! from. Three arguments have pointers in them, behind which the stack cannot look: SIOCGIFCONF goes without
//! its buffer; SIOCADDRT and SIOCDELRT with the name of the device behind the struct; SIOCETHTOOL with what
//! `ifr_data` points to behind the struct.

use nix::errno::Errno;
use stacks::smol::call::SocketCall;

use super::SIOCOUTQ;
use super::options::{word32, word64};
use crate::answer::Stop;
use crate::ask::{Ask, Give};
use crate::handlers::{Abi, Call};
use crate::sys::ioctl::IFREQ;
use crate::target::Target;

/// sizeof(struct ifreq) of 32-bit x86.
const IFREQ_32: usize = 32;
/// Most bytes of an interface list that we copy: 1,000 interfaces.
const LIST_LIMIT: usize = 1000 * IFREQ;
pub(crate) const SIOCGIFCONF: u32 = 0x8912;
pub(crate) const SIOCETHTOOL: u32 = 0x8946;
/// The requests of wireless devices, which have an errno of their own for programs of 32 bits where the kernel
/// has no such devices (compat_wext_handle_ioctl of net/wext.h).
const WIRELESS: std::ops::RangeInclusive<u32> = 0x8b00..=0x8bff;
const SIOCGSKNS: u32 = 0x894c;
/// SIOCADDRT, SIOCDELRT.
const ROUTES: [u32; 2] = [0x890b, 0x890c];
/// SIOCATMARK, SIOCOUTQNSD: an int comes back.
const NUMBERS: [u32; 3] = [SIOCOUTQ, 0x8905, 0x894b];
/// SIOCGSTAMP, SIOCGSTAMPNS: a time comes back.
const STAMPS: [u32; 2] = [0x8906, 0x8907];
/// SIOCDARP, SIOCGARP, SIOCSARP and sizeof(struct arpreq).
const ARP: std::ops::RangeInclusive<u32> = 0x8953..=0x8955;
const ARPREQ: usize = 68;
/// SIOCGIFVLAN, SIOCSIFVLAN and sizeof(struct vlan_ioctl_args), linux/if_vlan.h.
const VLAN: [u32; 2] = [0x8982, 0x8983];
const VLAN_ARGS: usize = 56;
/// SIOCSIFADDR, SIOCSIFDSTADDR, SIOCDIFADDR, whose argument on an IPv6 socket is a struct in6_ifreq.
const ADDRESSES: [u32; 3] = [0x8916, 0x8918, 0x8936];
const IN6_IFREQ: usize = 24;
/// struct rtentry, linux/route.h: its size and where `rt_dev` points from.
const RTENTRY: usize = 120;
const RT_DEV: usize = 88;
const RTENTRY_32: usize = 84;
const RT_DEV_32: usize = 68;
/// sizeof(struct in6_rtmsg), linux/ipv6_route.h, which the same requests take on an IPv6 socket.
const IN6_RTMSG: usize = 80;
/// IFNAMSIZ, linux/if.h.
const IFNAMSIZ: usize = 16;
/// Where a struct ifreq has its union, and so `ifr_data`.
const IFR_DATA: usize = 16;

/// Where the argument is, to be written back.
#[derive(Debug)]
pub(crate) enum Argument {
    /// As it came from the stack, at most so many bytes.
    Plain {
        /// Where.
        address: u64,
        /// At most.
        room: usize,
    },
    /// A time in longs, for a 32-bit program.
    ShortTime(u64),
    /// A struct ifconf.
    List {
        /// The struct.
        address: u64,
        /// Its buffer; null: the length only.
        buffer: u64,
        /// sizeof(struct ifreq) there.
        size: usize,
        /// Room in the buffer.
        room: usize,
    },
    /// A struct ifreq and what `ifr_data` points to.
    Nested {
        /// The struct.
        address: u64,
        /// Its length.
        room: usize,
        /// What it points to.
        data: u64,
    },
}

/// ioctl(2)
pub(super) fn ioctl(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let request = call.args[1] as u32;
    Ok(question(call, request)?)
}

/// The question that an ioctl(2) is.
pub(crate) fn question(call: &mut Call<'_>, request: u32) -> Result<Ask, Errno> {
    let address = call.address(2);
    let wide = call.abi == Abi::Native;
    let ifreq = if wide { IFREQ } else { IFREQ_32 };
    let ask = |argument, give| Ask::new(SocketCall::Ioctl { request, argument }, Give::Argument(give));
    Ok(match request {
        SIOCGIFCONF => return list(call, address),
        _ if WIRELESS.contains(&request) && !wide => return Err(Errno::EINVAL),
        SIOCETHTOOL => return ethtool(call, address, ifreq),
        _ if NUMBERS.contains(&request) => ask(Vec::new(), Argument::Plain { address, room: 4 }),
        _ if STAMPS.contains(&request) && wide => ask(Vec::new(), Argument::Plain { address, room: 16 }),
        _ if STAMPS.contains(&request) => ask(Vec::new(), Argument::ShortTime(address)),
        // Requests of drivers, bridges, wireless devices, and those of AF_UNIX itself, some without an
        // argument: whoever knows them knows.
        SIOCGSKNS | 0x8984.. => {
            let mut argument = call.target.read_partly(address, ifreq).unwrap_or_default();
            let room = argument.len();
            argument.resize(if room == 0 { 0 } else { IFREQ }, 0);
            ask(argument, Argument::Plain { address, room })
        }
        _ if ROUTES.contains(&request) => {
            ask(route(call.target, address, wide)?, Argument::Plain { address, room: 0 })
        }
        _ => {
            let (least, size) = match request {
                _ if ARP.contains(&request) => (ARPREQ, ARPREQ),
                _ if VLAN.contains(&request) => (VLAN_ARGS, VLAN_ARGS),
                _ if ADDRESSES.contains(&request) => (IN6_IFREQ, ifreq),
                _ => (ifreq, ifreq),
            };
            let mut argument = call.target.read_partly(address, size)?;
            if argument.len() < least {
                return Err(Errno::EFAULT);
            }
            if size == IFREQ_32 {
                argument.resize(IFREQ, 0);
            }
            ask(argument, Argument::Plain { address, room: size })
        }
    })
}

/// SIOCGIFCONF: struct ifconf is an int and a pointer; a null pointer asks for the length only.
fn list(call: &mut Call<'_>, address: u64) -> Result<Ask, Errno> {
    let wide = call.abi == Abi::Native;
    let size = if wide { IFREQ } else { IFREQ_32 };
    let conf = call.target.read(address, if wide { 16 } else { 8 })?;
    let buffer = if wide { word64(&conf, 8) } else { word32(&conf, 4).into() };
    let room = match buffer {
        0 => LIST_LIMIT / IFREQ,
        _ => usize::try_from(word32(&conf, 0) as i32).map_err(|_| Errno::EINVAL)? / size,
    };
    let length = (room * IFREQ).min(LIST_LIMIT);
    let argument = (length as u32).to_ne_bytes().to_vec();
    let give = Give::Argument(Argument::List { address, buffer, size, room: length / IFREQ * size });
    Ok(Ask::new(SocketCall::Ioctl { request: SIOCGIFCONF, argument }, give))
}

/// SIOCADDRT, SIOCDELRT: a struct rtentry in the machine's layout, and 16 bytes for the name of its device. On an
/// IPv6 socket a struct in6_rtmsg is its beginning.
fn route(target: &mut dyn Target, address: u64, wide: bool) -> Result<Vec<u8>, Errno> {
    let (least, size, device) =
        if wide { (IN6_RTMSG, RTENTRY, RT_DEV) } else { (RTENTRY_32, RTENTRY_32, RT_DEV_32) };
    let given = target.read_partly(address, size)?;
    if given.len() < least {
        return Err(Errno::EFAULT);
    }
    let pointer = match given.len() {
        length if length < size => 0,
        _ if wide => word64(&given, device),
        _ => word32(&given, device).into(),
    };
    let name =
        if pointer == 0 { Vec::new() } else { target.read_partly(pointer, IFNAMSIZ - 1).unwrap_or_default() };
    let mut entry = if wide { given } else { widen_route(&given) };
    entry.resize(RTENTRY, 0);
    entry.extend(name.iter().copied().take_while(|byte| *byte != 0));
    entry.resize(RTENTRY + IFNAMSIZ, 0);
    Ok(entry)
}

/// struct rtentry32 of net/compat.c in the machine's layout.
fn widen_route(narrow: &[u8]) -> Vec<u8> {
    let mut wide = vec![0; RTENTRY];
    // Three addresses behind a long; flags; the metric; MTU, window and round-trip time as longs.
    for (from, to, length) in [(4, 8, 48), (52, 56, 2), (64, 80, 2), (72, 96, 4), (76, 104, 4), (80, 112, 2)]
    {
        wide[to..to + length].copy_from_slice(&narrow[from..from + length]);
    }
    wide
}

/// SIOCETHTOOL: a struct ifreq, and behind it what `ifr_data` points to.
fn ethtool(call: &mut Call<'_>, address: u64, room: usize) -> Result<Ask, Errno> {
    let mut argument = call.target.read(address, room)?;
    let data = match call.abi {
        Abi::Native => word64(&argument, IFR_DATA),
        Abi::I386 => word32(&argument, IFR_DATA).into(),
    };
    argument.resize(IFREQ, 0);
    let command = word32(&call.target.read(data, 4)?, 0);
    argument.extend(call.target.read(data, ethtool_size(command))?);
    let give = Give::Argument(Argument::Nested { address, room, data });
    Ok(Ask::new(SocketCall::Ioctl { request: SIOCETHTOOL, argument }, give))
}

/// How long the struct of an ethtool command is, linux/ethtool.h; a struct ethtool_value where nothing longer is
/// known, for most commands to ask have one, and all others are refused whatever is in them.
fn ethtool_size(command: u32) -> usize {
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

impl Argument {
    /// Writes what the stack made of it.
    pub(crate) fn write(&self, bytes: &[u8], target: &mut dyn Target) -> Result<(), Errno> {
        match *self {
            Self::Plain { address, room } => target.write(address, &bytes[..bytes.len().min(room)]),
            Self::ShortTime(address) if bytes.len() == 16 => {
                target.write(address, &[&bytes[..4], &bytes[8..12]].concat())
            }
            Self::ShortTime(_) => Err(Errno::EIO),
            Self::List { address, buffer, size, room } => {
                let (_, records) = bytes.split_at_checked(4).ok_or(Errno::EIO)?;
                let mut list: Vec<u8> =
                    records.chunks_exact(IFREQ).flat_map(|ifreq| &ifreq[..size]).copied().collect();
                list.truncate(room);
                let length = (list.len() as u32).to_ne_bytes();
                let list = if buffer == 0 { &[] } else { list.as_slice() };
                target.scatter(&[(buffer, list), (address, &length)])
            }
            Self::Nested { address, room, data } => {
                let (ifreq, nested) = bytes.split_at_checked(IFREQ).unwrap_or((bytes, &[]));
                target.scatter(&[(data, nested), (address, &ifreq[..ifreq.len().min(room)])])
            }
        }
    }
}
