//! ioctl(2) on a socket (netdevice(7), arp(7), socket(7), tcp(7)): how long the argument is, what it points to.
//!
//! The argument goes to the stack as the machine's layout has it, and what comes back is written where it came
//! from. Three arguments have pointers in them, behind which the stack cannot look: SIOCGIFCONF goes without
//! its buffer; SIOCADDRT and SIOCDELRT with the name of the device behind the struct; SIOCETHTOOL with what
//! `ifr_data` points to behind the struct.

use msocket_proto::ioctl::{
    self as table, IFNAMSIZ, IFR_DATA, IFREQ, IFREQ_32, IN6_RTMSG, MOST, RT_DEV, RTENTRY, SIOCETHTOOL,
    SIOCGIFCONF, ethtool_size,
};
use nix::errno::Errno;
use stacks::smol::call::SocketCall;

use super::options::{word32, word64};
use crate::answer::Stop;
use crate::ask::{Ask, Give};
use crate::handlers::{Abi, Call};
use crate::target::Target;

/// struct rtentry of 32-bit x86, and where its `rt_dev` points from.
const RTENTRY_32: usize = 84;
const RT_DEV_32: usize = 68;

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
    // Programs of 32 bits have an errno of their own where the kernel has no wireless devices
    // (compat_wext_handle_ioctl of net/wext.h).
    if (table::WIRELESS.0..=table::WIRELESS.1).contains(&request) && !wide {
        return Err(Errno::EINVAL);
    }
    Ok(match table::argument(request, ifreq) {
        table::Argument::List => return list(call, address),
        table::Argument::Ethtool => return ethtool(call, address, ifreq),
        table::Argument::Number => ask(Vec::new(), Argument::Plain { address, room: 4 }),
        table::Argument::Time if wide => ask(Vec::new(), Argument::Plain { address, room: 16 }),
        table::Argument::Time => ask(Vec::new(), Argument::ShortTime(address)),
        table::Argument::Any => {
            let mut argument = call.target.read_partly(address, ifreq).unwrap_or_default();
            let room = argument.len();
            argument.resize(if room == 0 { 0 } else { IFREQ }, 0);
            ask(argument, Argument::Plain { address, room })
        }
        table::Argument::Route => {
            ask(route(call.target, address, wide)?, Argument::Plain { address, room: 0 })
        }
        table::Argument::Struct { least, size } => {
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
        0 => MOST,
        _ => usize::try_from(word32(&conf, 0) as i32).map_err(|_| Errno::EINVAL)? / size,
    };
    let length = room.min(MOST) * IFREQ;
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
