//! socket(2), socketpair(2) and the 32-bit socketcall(2): which network a new socket belongs to.
//!
//! | family | where |
//! |---|---|
//! | UNIX, ALG | the machine: no network |
//! | INET, INET6, NETLINK, PACKET, KEY, CAN, XDP, SMC, MCTP | the view's stack |
//! | NETLINK protocols of [`HOST_NETLINK`] | the machine |
//! | all others | EAFNOSUPPORT: VSOCK, BLUETOOTH, … would reach past the view |
//!
//! The maker of the sockets has every right over the stack; a program that gave up its own (dropped its
//! uid, lost CAP_NET_RAW) must not get it back, so raw sockets are given by the caller's rights.

use nix::errno::Errno;
use stacks::stack::{SOCK_PACKET, SocketSpec, TYPE_MASK};

use super::{Abi, Call};
use crate::answer::{Answer, Reply, Stop};

/// Netlink protocols about the machine, not a network: SELINUX, AUDIT, CONNECTOR, KOBJECT_UEVENT.
pub(super) const HOST_NETLINK: [i32; 4] =
    [libc::NETLINK_SELINUX, libc::NETLINK_AUDIT, libc::NETLINK_CONNECTOR, libc::NETLINK_KOBJECT_UEVENT];

/// Bits of socket(2)'s type argument that are flags.
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
/// First number that is no family, linux/socket.h.
const AF_MAX: i32 = 46;
/// SYS_SOCKET, linux/net.h.
const SYS_SOCKET: i32 = 1;
/// SYS_CONNECT, linux/net.h.
const SYS_CONNECT: i32 = 3;
/// SYS_SOCKETPAIR, linux/net.h.
const SYS_SOCKETPAIR: i32 = 8;

/// socket(2)
pub(super) fn socket(call: &mut Call<'_>) -> Answer {
    let spec = SocketSpec { domain: call.int(0), kind: call.int(1), protocol: call.int(2) };
    make(call, spec)
}

fn make(call: &mut Call<'_>, spec: SocketSpec) -> Answer {
    let cloexec = spec.kind & libc::SOCK_CLOEXEC != 0;
    if spec.domain == msocket_proto::proto::AF_VIEWNET {
        return Ok(Reply::Descriptor { fd: call.caller.control()?, cloexec: true });
    }
    if call.caller.stack(spec.domain, call.target)?.is_none() {
        return Err(Stop::Native);
    }
    if spec.needs_rights() && !call.inspect()?.has_rights(call.caller.owner()) {
        return Err(Stop::Fail(Errno::EPERM));
    }
    if !spec.is_of_a_stack() {
        return Err(Stop::Fail(refusal(spec)));
    }
    Ok(Reply::Descriptor { fd: call.caller.socket(spec, call.target)?, cloexec })
}

/// socketpair(2): the families that have it are AF_UNIX and, reaching past the view, AF_TIPC.
pub(super) fn socketpair(call: &mut Call<'_>) -> Answer {
    pair(call.int(0))
}

fn pair(domain: i32) -> Answer {
    Err(if domain == libc::AF_TIPC { Stop::Fail(Errno::EAFNOSUPPORT) } else { Stop::Native })
}

/// socketcall(2) of 32-bit x86, in a view whose sockets are the kernel's: the real arguments are in memory, and the kernel would read them again.
pub(super) fn socketcall(call: &mut Call<'_>) -> Answer {
    if call.abi != Abi::I386 {
        return Err(Stop::Fail(Errno::ENOSYS));
    }
    let bytes = call.target.read(call.address(1), 12)?;
    let word =
        |n: usize| u32::from_ne_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]]);
    match call.int(0) {
        SYS_SOCKET => {
            let spec = SocketSpec { domain: word(0) as i32, kind: word(1) as i32, protocol: word(2) as i32 };
            if !is_of_the_machine(spec) {
                return make(call, spec);
            }
            // Not left to the kernel: the program could put another family there meanwhile.
            if call.caller.stack(spec.domain, call.target)?.is_none() {
                return Err(Stop::Native);
            }
            let cloexec = spec.kind & libc::SOCK_CLOEXEC != 0;
            Ok(Reply::Descriptor { fd: call.caller.socket(spec, call.target)?, cloexec })
        }
        SYS_CONNECT => {
            call.args = [u64::from(word(0)), u64::from(word(1)), u64::from(word(2)), 0, 0, 0];
            super::connect::connect(call)
        }
        SYS_SOCKETPAIR => pair(word(0) as i32),
        _ => Err(Stop::Native),
    }
}

/// Whether it belongs to the machine rather than to a network.
pub(crate) fn is_of_the_machine(spec: SocketSpec) -> bool {
    matches!(spec.domain, libc::AF_UNIX | libc::AF_ALG)
        || spec.domain == libc::AF_NETLINK && HOST_NETLINK.contains(&spec.protocol)
}

/// What a kernel without the family says, in the order in which it looks (net/socket.c).
pub(crate) fn refusal(spec: SocketSpec) -> Errno {
    let out_of_range = !(0..AF_MAX).contains(&spec.domain);
    if spec.kind & !(FLAGS | TYPE_MASK) != 0 || !out_of_range && spec.kind & TYPE_MASK > SOCK_PACKET {
        Errno::EINVAL
    } else {
        Errno::EAFNOSUPPORT
    }
}
