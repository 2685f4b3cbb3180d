//! ioctl(2) with an interface request (netdevice(7)).
//!
//! A socket of the view's stack answers by itself. But libc asks if_nametoindex(3) and its like on an
//! AF_UNIX socket, which belongs to the machine: there the view's stack answers in its place, on a netlink
//! socket, which like an AF_UNIX one knows interfaces and not the addresses of a family. The maker of that
//! socket may change interfaces, so the program's own rights are looked at first.
//!
//! Read: net/socket.c (sock_do_ioctl), net/core/dev_ioctl.c, net/ethtool/ioctl.c.

use std::os::fd::AsFd;

use msocket_proto::ioctl::{IFREQ, SIOCETHTOOL, SIOCGIFCONF};
use nix::errno::Errno;
use stacks::smol::call::{Done, SocketCall};
use stacks::stack::{Kind, SocketSpec};

use super::smol::ioctl::question;
use super::{Call, INTERFACES, any_holds};
use crate::answer::{Answer, Reply, Stop};
use crate::ask::{Ask, Given};
use crate::sys::ioctl::{ethtool_request, interface_list, interface_request};

/// Requests that only ask, that every kind of socket answers, and whose argument is a struct ifreq:
/// SIOCGIF{NAME,FLAGS,METRIC,MEM,MTU,HWADDR,SLAVE,INDEX,TXQLEN,MAP}.
const ASKING: [u32; 10] = [0x8910, 0x8913, 0x891d, 0x891f, 0x8921, 0x8927, 0x8929, 0x8933, 0x8942, 0x8970];
/// Requests that change something through any kind of socket, and whose argument is a struct ifreq:
/// SIOCSIF{FLAGS,METRIC,MTU,NAME,HWADDR}, SIOC{ADD,DEL}MULTI, SIOCSIFHWBROADCAST, SIOCSIFTXQLEN.
const CHANGING: [u32; 9] = [0x8914, 0x891e, 0x8922, 0x8923, 0x8924, 0x8931, 0x8932, 0x8937, 0x8943];
/// SIOCSMIIREG, SIOCSIFMAP, and the requests of bonds, bridges and time stamps: they change a driver's innards.
const REFUSED: [std::ops::RangeInclusive<u32>; 3] = [0x8949..=0x8949, 0x8971..=0x8971, 0x8990..=0x89df];
/// SIOCGMIIPHY, SIOCGMIIREG: programs ask them on internet sockets.
const HARDWARE: [u32; 2] = [0x8947, 0x8948];

/// ioctl(2)
pub(super) fn ioctl(call: &mut Call<'_>) -> Answer {
    let request = call.args[1] as u32;
    if !any_holds(INTERFACES, &call.args) || call.target.domain(call.int(0)) != Ok(libc::AF_UNIX) {
        return Err(Stop::Native);
    }
    let Some(kind) = call.caller.stack(libc::AF_NETLINK, call.target)? else { return Err(Stop::Native) };
    let ask = question(call, request)?;
    let kind_of_socket = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let spec = SocketSpec { domain: libc::AF_NETLINK, kind: kind_of_socket, protocol: libc::NETLINK_ROUTE };
    // A view without a network has no interfaces.
    let socket = call.caller.socket(spec, call.target).map_err(|_| Errno::ENODEV)?;
    if kind == Kind::Smol {
        return Ok(Reply::Ask(Box::new(Ask { socket: Some(socket), ..ask })));
    }
    let Ask { call: SocketCall::Ioctl { argument, .. }, mut give, .. } = ask else {
        return Err(Stop::Fail(Errno::ENOTTY));
    };
    let answer = carry_out(call, socket.as_fd(), request, argument)?;
    match give.give(&Done::Bytes(answer), call.target)? {
        Given::Value(value) => Ok(Reply::Value(value)),
        _ => Err(Stop::Fail(Errno::EIO)),
    }
}

/// What a socket of the view's kernel stack says to a request that it may be asked.
fn carry_out(
    call: &mut Call<'_>,
    socket: std::os::fd::BorrowedFd<'_>,
    request: u32,
    mut argument: Vec<u8>,
) -> Result<Vec<u8>, Stop> {
    let changing = CHANGING.contains(&request);
    if changing && !call.inspect()?.has_rights(call.caller.owner()) {
        return Err(Stop::Fail(Errno::EPERM));
    }
    match request {
        SIOCGIFCONF => Ok(interface_list(socket, &argument)?),
        SIOCETHTOOL => {
            let (ifreq, data) = argument.split_first_chunk_mut::<IFREQ>().ok_or(Errno::EFAULT)?;
            ethtool_request(socket, ifreq, data)?;
            Ok(argument)
        }
        _ if changing || ASKING.contains(&request) => {
            let ifreq = argument.first_chunk_mut::<IFREQ>().ok_or(Errno::EFAULT)?;
            interface_request(socket, request, ifreq)?;
            Ok(argument)
        }
        // The kernel copies the argument before it finds that this kind of socket has no answer.
        _ if argument.is_empty() => Err(Stop::Fail(Errno::EFAULT)),
        _ if REFUSED.iter().any(|range| range.contains(&request)) => Err(Stop::Fail(Errno::EPERM)),
        // And SIOCDEVPRIVATE: what a device without such requests says.
        0x89f0..=0x89ff => Err(Stop::Fail(Errno::EOPNOTSUPP)),
        _ if HARDWARE.contains(&request) => Err(Stop::Fail(Errno::EOPNOTSUPP)),
        _ => Err(Stop::Fail(Errno::ENOTTY)),
    }
}
