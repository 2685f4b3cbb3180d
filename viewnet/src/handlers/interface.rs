//! ioctl(2) with an interface request (netdevice(7)).
//!
//! A socket of the view's stack answers by itself. But libc asks if_nametoindex(3) and its like on an
//! AF_UNIX socket, which belongs to the machine: there the view's stack answers in its place. Requests
//! that change something are refused on such a socket, as they are for an ordinary user.

use std::os::fd::AsFd;

use nix::errno::Errno;
use stacks::stack::{Kind, SocketSpec};

use super::smol::ioctl::{IFREQ_32, question};
use super::{Abi, Call, INTERFACES, any_holds};
use crate::answer::{Answer, Reply, Stop};
use crate::ask::Ask;
use crate::sys::ioctl::{IFREQ, interface_list, interface_request};

/// Requests that only ask, that every kind of socket answers, and whose argument is a struct ifreq:
/// SIOCGIF{NAME,FLAGS,METRIC,MEM,MTU,HWADDR,SLAVE,INDEX,TXQLEN,MAP}.
const ASKING: [u32; 10] = [0x8910, 0x8913, 0x891d, 0x891f, 0x8921, 0x8927, 0x8929, 0x8933, 0x8942, 0x8970];
/// Requests that change something on any kind of socket: SIOCSIF{FLAGS,MTU,NAME,HWADDR}, SIOC{ADD,DEL}MULTI,
/// SIOCSIFHWBROADCAST, SIOCSIFTXQLEN, SIOCSMIIREG, SIOCSIFMAP.
const CHANGING: [u32; 10] = [0x8914, 0x8922, 0x8923, 0x8924, 0x8931, 0x8932, 0x8937, 0x8943, 0x8949, 0x8971];
const SIOCGIFCONF: u32 = 0x8912;
/// SIOCETHTOOL, SIOCGMIIPHY, SIOCGMIIREG: programs ask them on internet sockets.
const HARDWARE: [u32; 3] = [0x8946, 0x8947, 0x8948];
/// Most bytes of an interface list that we copy: 1,000 interfaces.
const LIST_LIMIT: usize = 1000 * IFREQ;

/// ioctl(2)
pub(super) fn ioctl(call: &mut Call<'_>) -> Answer {
    let request = call.args[1] as u32;
    if !any_holds(INTERFACES, &call.args) || call.target.domain(call.int(0)) != Ok(libc::AF_UNIX) {
        return Err(Stop::Native);
    }
    let Some(kind) = call.caller.stack(call.target)? else { return Err(Stop::Native) };
    let spec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol: 0 };
    // A view without a network has no interfaces.
    let socket = call.caller.socket(spec).map_err(|_| Errno::ENODEV)?;
    if kind == Kind::Smol && (request == SIOCGIFCONF || ASKING.contains(&request)) {
        return Ok(Reply::Ask(Box::new(Ask { socket: Some(socket), ..question(call, request)? })));
    }
    let size = if call.abi == Abi::Native { IFREQ } else { IFREQ_32 };
    match request {
        SIOCGIFCONF => list(call, socket.as_fd(), size),
        _ if ASKING.contains(&request) => {
            let mut ifreq = [0; IFREQ];
            let address = call.address(2);
            ifreq[..size].copy_from_slice(&call.target.read(address, size)?);
            interface_request(socket.as_fd(), request, &mut ifreq)?;
            call.target.write(address, &ifreq[..size])?;
            Ok(Reply::Value(0))
        }
        _ if HARDWARE.contains(&request) => Err(Stop::Fail(Errno::EOPNOTSUPP)),
        // Bonding, bridging, time stamps: on an AF_UNIX socket they are the machine's.
        0x8990..=0x89df => Err(Stop::Fail(Errno::EPERM)),
        // SIOCDEVPRIVATE: what a device without such requests says.
        0x89f0..=0x89ff => Err(Stop::Fail(Errno::EOPNOTSUPP)),
        _ if CHANGING.contains(&request) => Err(Stop::Fail(Errno::EPERM)),
        // The kernel copies the argument before it finds that this kind of socket has no answer.
        _ => {
            call.target.read(call.address(2), size)?;
            Err(Stop::Fail(Errno::ENOTTY))
        }
    }
}

/// SIOCGIFCONF: struct ifconf is an int and a pointer; a null pointer asks for the length only.
fn list(call: &mut Call<'_>, socket: std::os::fd::BorrowedFd<'_>, size: usize) -> Answer {
    let wide = call.abi == Abi::Native;
    let conf = call.target.read(call.address(2), if wide { 16 } else { 8 })?;
    let number = |at: usize| u32::from_ne_bytes([conf[at], conf[at + 1], conf[at + 2], conf[at + 3]]);
    let room = number(0) as i32;
    let pointer =
        if wide { u64::from(number(8)) | u64::from(number(12)) << 32 } else { u64::from(number(4)) };
    let length = if pointer == 0 {
        interface_list(socket, &mut [])? / IFREQ * size
    } else {
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)? / size;
        let mut buffer = vec![0; (room * IFREQ).min(LIST_LIMIT)];
        let used = if buffer.is_empty() { 0 } else { interface_list(socket, &mut buffer)? };
        let out: Vec<u8> =
            buffer[..used].chunks_exact(IFREQ).flat_map(|ifreq| &ifreq[..size]).copied().collect();
        call.target.write(pointer, &out)?;
        out.len()
    };
    let length = i32::try_from(length).map_err(|_| Errno::EINVAL)?;
    call.target.write(call.address(2), &length.to_ne_bytes())?;
    Ok(Reply::Value(0))
}
