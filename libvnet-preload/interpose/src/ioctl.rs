//! ioctl(2) on sockets of stacks in a library (netdevice(7), arp(7), socket(7), tcp(7)).
//!
//! What a request's argument is and what it points to goes to the host as `stacks::smol::call::SocketCall::Ioctl`
//! says; the sizes are [`msocket_proto::ioctl`]'s.

use msocket_proto::ask::{Call, Head, Told};
use msocket_proto::ioctl::{
    Argument, IFNAMSIZ, IFR_DATA, IFREQ, IN6_RTMSG, LONGEST, MOST, RT_DEV, RTENTRY, SIOCETHTOOL, SIOCGIFCONF,
    ethtool_size, is_ours,
};

use crate::calls::{self, Came};
use crate::lines::Key;
use crate::ops::Answer;
use crate::sys::packet::Part;
use crate::sys::{Copied, Data};

/// ioctl(2)
pub fn ioctl(fd: i32, request: u32, address: usize) -> Answer {
    if !is_ours(request) {
        return Answer::Original;
    }
    let Some(key) = calls::host_of(fd) else { return Answer::Original };
    let argument = |length| Data::at(address, length);
    let asked = match msocket_proto::ioctl::argument(request, IFREQ) {
        Argument::List => return list(key, fd, address),
        Argument::Ethtool => return ethtool(key, fd, address),
        Argument::Number => give(key, fd, request, &[], argument(4)),
        Argument::Time => give(key, fd, request, &[], argument(16)),
        Argument::Route => route(key, fd, request, address),
        Argument::Any => {
            let copied = Copied::<IFREQ>::partly(address);
            match copied.length() {
                0 => give(key, fd, request, &[], Data::NONE),
                length => give(key, fd, request, copied.whole(), argument(length)),
            }
        }
        Argument::Struct { least, size } => {
            let copied = Copied::<LONGEST>::partly(address);
            match copied.length().min(size) {
                length if length < least => return Answer::Fail(libc::EFAULT),
                length => {
                    let given = copied.whole().get(..length).unwrap_or_default();
                    give(key, fd, request, given, argument(size))
                }
            }
        }
    };
    asked.unwrap_or_else(Answer::Fail)
}

fn ask(key: Key, fd: i32, request: u32, parts: &mut [Part<'_>], length: usize) -> Result<Came, i32> {
    let head = |head: &mut Head| {
        head.number(request.into()).number(length as u64);
    };
    calls::ask(key, fd, Call::Ioctl, head, parts)
}

/// Asks with that argument and writes what comes back, as much as there is room for.
fn give(key: Key, fd: i32, request: u32, argument: &[u8], room: Data) -> Result<Answer, i32> {
    let came = ask(key, fd, request, &mut [Part::Own(argument)], argument.len())?;
    let Told::Bytes(at, given) = came.told() else { return Ok(came.value()) };
    came.scatter(at, &mut [Part::Program(room.cut(given.min(room.length)))])?;
    Ok(Answer::Value(0))
}

/// SIOCGIFCONF: struct ifconf is an int and a pointer; a null pointer asks for the length only.
fn list(key: Key, fd: i32, address: usize) -> Answer {
    let conf = Copied::<16>::partly(address);
    if conf.length() < 16 {
        return Answer::Fail(libc::EFAULT);
    }
    let (room, buffer) = (conf.int(0), conf.word(8));
    let most = match usize::try_from(room) {
        _ if buffer == 0 => MOST,
        Ok(room) => (room / IFREQ).min(MOST),
        Err(_) => return Answer::Fail(libc::EINVAL),
    };
    let length = ((most * IFREQ) as u32).to_ne_bytes();
    let came = match ask(key, fd, SIOCGIFCONF, &mut [Part::Own(&length)], 4) {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    let Told::Bytes(at, given) = came.told() else { return came.value() };
    let records = given.saturating_sub(4).min(most * IFREQ);
    let mut length = [0; 4];
    let to = if buffer == 0 { Data::NONE } else { Data::at(buffer, records) };
    let taken = came.scatter(at, &mut [Part::Room(&mut length), Part::Program(to)]);
    match taken.and_then(|()| Data::at(address, 4).fill(&(records as u32).to_ne_bytes())) {
        Ok(()) => Answer::Value(0),
        Err(errno) => Answer::Fail(errno),
    }
}

/// SIOCADDRT, SIOCDELRT: a struct rtentry, and 16 bytes for the name of its device. On an IPv6 socket a struct
/// in6_rtmsg is its beginning.
fn route(key: Key, fd: i32, request: u32, address: usize) -> Result<Answer, i32> {
    let copied = Copied::<RTENTRY>::partly(address);
    let pointer = match copied.length() {
        length if length < IN6_RTMSG => return Err(libc::EFAULT),
        length if length < RTENTRY => 0,
        _ => copied.word(RT_DEV),
    };
    let name = if pointer == 0 { Copied::<IFNAMSIZ>::none() } else { Copied::partly(pointer) };
    let mut entry = [0; RTENTRY + IFNAMSIZ];
    entry[..RTENTRY].copy_from_slice(copied.whole());
    let named = name.whole().iter().take(IFNAMSIZ - 1).take_while(|byte| **byte != 0);
    entry[RTENTRY..].iter_mut().zip(named).for_each(|(to, byte)| *to = *byte);
    give(key, fd, request, &entry, Data::NONE)
}

/// SIOCETHTOOL: a struct ifreq, and behind it what `ifr_data` points to.
fn ethtool(key: Key, fd: i32, address: usize) -> Answer {
    let ifreq = Copied::<IFREQ>::partly(address);
    if ifreq.length() < IFREQ {
        return Answer::Fail(libc::EFAULT);
    }
    let at = ifreq.word(IFR_DATA);
    let command = Copied::<4>::partly(at);
    if command.length() < 4 {
        return Answer::Fail(libc::EFAULT);
    }
    let size = ethtool_size(command.int(0) as u32);
    let mut parts = [Part::Own(ifreq.whole()), Part::Program(Data::at(at, size))];
    let came = match ask(key, fd, SIOCETHTOOL, &mut parts, IFREQ + size) {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    let Told::Bytes(start, given) = came.told() else { return came.value() };
    let nested = given.saturating_sub(IFREQ).min(size);
    let mut parts = [Part::Program(Data::at(address, given.min(IFREQ))), Part::Program(Data::at(at, nested))];
    came.scatter(start, &mut parts).map_or_else(Answer::Fail, |()| Answer::Value(0))
}
