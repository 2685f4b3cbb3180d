//! `--trace`: one line per trapped call, as strace(1) prints it.

use stacks::smol::call::SocketCall;

use crate::handlers::Abi;
use crate::sys::seccomp::Notification;

const FAMILIES: [(i32, &str); 12] = [
    (libc::AF_UNIX, "AF_UNIX"),
    (libc::AF_INET, "AF_INET"),
    (libc::AF_INET6, "AF_INET6"),
    (libc::AF_NETLINK, "AF_NETLINK"),
    (libc::AF_PACKET, "AF_PACKET"),
    (libc::AF_ALG, "AF_ALG"),
    (libc::AF_VSOCK, "AF_VSOCK"),
    (libc::AF_BLUETOOTH, "AF_BLUETOOTH"),
    (libc::AF_CAN, "AF_CAN"),
    (libc::AF_XDP, "AF_XDP"),
    (libc::AF_TIPC, "AF_TIPC"),
    (msocket::proto::AF_VIEWNET, "AF_VIEWNET"),
];
const TYPES: [(i32, &str); 4] = [
    (libc::SOCK_STREAM, "SOCK_STREAM"),
    (libc::SOCK_DGRAM, "SOCK_DGRAM"),
    (libc::SOCK_RAW, "SOCK_RAW"),
    (libc::SOCK_SEQPACKET, "SOCK_SEQPACKET"),
];

/// The call with its arguments, without its result.
pub(crate) fn line(name: &str, abi: Abi, call: &Notification) -> String {
    let int = |n: usize| call.args[n] as i32;
    let arguments = match name {
        "socket" | "socketpair" => {
            format!("{}, {}, {}", named(&FAMILIES, int(0)), socket_type(int(1)), int(2))
        }
        "connect" => format!("{}, {:#x}, {}", int(0), call.args[1], int(2)),
        "ioctl" => format!("{}, {:#x}, {:#x}", int(0), call.args[1] as u32, call.args[2]),
        "socketcall" => format!("{}, {:#x}", int(0), call.args[1] as u32),
        "unshare" => format!("{:#x}", call.args[0]),
        _ => format!("{}, {:#x}", int(0), call.args[1]),
    };
    let abi = if abi == Abi::I386 { "i386 " } else { "" };
    format!("{abi}{name}({arguments})")
}

/// A call that is put to a stack, with what it brings; `None` where the registers say as much.
pub(crate) fn question(_name: &str, _abi: Abi, _fd: i32, _call: &SocketCall) -> Option<String> {
    None
}

fn socket_type(kind: i32) -> String {
    let mut text = named(&TYPES, kind & 0xf);
    for (flag, name) in [(libc::SOCK_CLOEXEC, "SOCK_CLOEXEC"), (libc::SOCK_NONBLOCK, "SOCK_NONBLOCK")] {
        if kind & flag != 0 {
            text = format!("{text}|{name}");
        }
    }
    text
}

fn named(names: &[(i32, &str)], value: i32) -> String {
    names
        .iter()
        .find(|(known, _)| *known == value)
        .map_or_else(|| value.to_string(), |(_, name)| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_strace() {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        let args = [libc::AF_INET as u64, kind as u64, 6, 0, 0, 0];
        let call = Notification { id: 1, tid: 2, nr: 41, arch: 0, args };
        assert_eq!(line("socket", Abi::Native, &call), "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 6)");
    }
}
