//! `--trace`: one line per trapped call, as strace(1) prints it.

use std::net::{Ipv4Addr, Ipv6Addr};

use stacks::smol::call::SocketCall;

use crate::handlers::Abi;
use crate::sys::seccomp::Notification;

const FAMILIES: [(i32, &str); 13] = [
    (libc::AF_UNSPEC, "AF_UNSPEC"),
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
    (msocket_proto::proto::AF_VIEWNET, "AF_VIEWNET"),
];
const TYPES: [(i32, &str); 4] = [
    (libc::SOCK_STREAM, "SOCK_STREAM"),
    (libc::SOCK_DGRAM, "SOCK_DGRAM"),
    (libc::SOCK_RAW, "SOCK_RAW"),
    (libc::SOCK_SEQPACKET, "SOCK_SEQPACKET"),
];

const LEVELS: [(i32, &str); 9] = [
    (libc::SOL_SOCKET, "SOL_SOCKET"),
    (libc::SOL_IP, "SOL_IP"),
    (libc::SOL_IPV6, "SOL_IPV6"),
    (libc::SOL_TCP, "SOL_TCP"),
    (libc::SOL_UDP, "SOL_UDP"),
    (libc::SOL_RAW, "SOL_RAW"),
    (libc::IPPROTO_ICMPV6, "SOL_ICMPV6"),
    (libc::SOL_PACKET, "SOL_PACKET"),
    (libc::SOL_NETLINK, "SOL_NETLINK"),
];
const FLAGS: [(i32, &str); 11] = [
    (libc::MSG_OOB, "MSG_OOB"),
    (libc::MSG_PEEK, "MSG_PEEK"),
    (libc::MSG_TRUNC, "MSG_TRUNC"),
    (libc::MSG_DONTWAIT, "MSG_DONTWAIT"),
    (libc::MSG_WAITALL, "MSG_WAITALL"),
    (libc::MSG_CONFIRM, "MSG_CONFIRM"),
    (libc::MSG_ERRQUEUE, "MSG_ERRQUEUE"),
    (libc::MSG_NOSIGNAL, "MSG_NOSIGNAL"),
    (libc::MSG_MORE, "MSG_MORE"),
    (libc::MSG_FASTOPEN, "MSG_FASTOPEN"),
    (libc::MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC"),
];

/// The call with its arguments, without its result.
pub(crate) fn line(name: &str, abi: Abi, call: &Notification) -> String {
    let int = |n: usize| call.args[n] as i32;
    let arguments = match name {
        "socket" | "socketpair" => {
            format!("{}, {}, {}", named(&FAMILIES, int(0)), socket_type(int(1)), int(2))
        }
        "connect" | "bind" => format!("{}, {:#x}, {}", int(0), call.args[1], int(2)),
        "sendto" | "recvfrom" => format!("{}, {:#x}, {}, {:#x}", int(0), call.args[1], call.args[2], int(3)),
        "setsockopt" | "getsockopt" => format!("{}, {}, {}", int(0), named(&LEVELS, int(1)), int(2)),
        "accept4" => format!("{}, {:#x}, {:#x}, {}", int(0), call.args[1], call.args[2], int(3)),
        "accept" | "getsockname" | "getpeername" => {
            format!("{}, {:#x}, {:#x}", int(0), call.args[1], call.args[2])
        }
        "shutdown" | "listen" | "prctl" => format!("{}, {}", int(0), int(1)),
        "ioctl" => format!("{}, {:#x}, {:#x}", int(0), call.args[1] as u32, call.args[2]),
        "socketcall" => format!("{}, {:#x}", int(0), call.args[1] as u32),
        "mmap" => format!(
            "{:#x}, {}, {:#x}, {:#x}, {}, {:#x}",
            call.args[0],
            call.args[1],
            int(2),
            int(3),
            int(4),
            call.args[5]
        ),
        "unshare" => format!("{:#x}", call.args[0]),
        _ => format!("{}, {:#x}", int(0), call.args[1]),
    };
    format!("{}{name}({arguments})", prefix(abi))
}

/// A call that is put to a stack, with what it brings; `None` where the registers say as much.
pub(crate) fn question(name: &str, abi: Abi, fd: i32, call: &SocketCall) -> Option<String> {
    let arguments = match call {
        SocketCall::Bind { address: to } | SocketCall::Connect { address: to } => {
            format!("{}, {}", address(to), to.len())
        }
        SocketCall::Listen { backlog } => backlog.to_string(),
        SocketCall::GetOption { level, name, value } => {
            format!("{}, {name}, {} bytes", named(&LEVELS, *level), value.len())
        }
        SocketCall::SetOption { level, name, value } => {
            let shown = match <[u8; 4]>::try_from(value.as_slice()) {
                Ok(number) => format!("[{}]", i32::from_ne_bytes(number)),
                Err(_) => format!("{} bytes", value.len()),
            };
            format!("{}, {name}, {shown}", named(&LEVELS, *level))
        }
        SocketCall::Map { length, offset } => format!("{length} bytes, {offset:#x}"),
        SocketCall::Shutdown { how } => how.to_string(),
        SocketCall::Send { to, control, data, flags } => {
            let to = to.as_deref().map_or_else(|| "NULL".into(), address);
            let control = if control.is_empty() { "" } else { ", control" };
            format!("{} bytes, {}, {to}{control}", data.len(), all_named(&FLAGS, *flags))
        }
        SocketCall::Receive { length, flags, .. } => {
            format!("{length} bytes, {}", all_named(&FLAGS, *flags))
        }
        SocketCall::Accept { .. }
        | SocketCall::LocalName
        | SocketCall::PeerName
        | SocketCall::Ioctl { .. } => {
            return None;
        }
    };
    Some(format!("{}{name}({fd}, {arguments})", prefix(abi)))
}

/// An address as its family writes it.
fn address(bytes: &[u8]) -> String {
    let Some(family) = bytes.first_chunk::<2>().map(|two| i32::from(u16::from_ne_bytes(*two))) else {
        return "{}".into();
    };
    let port = || u16::from_be_bytes([bytes[2], bytes[3]]);
    let name = named(&FAMILIES, family);
    let rest = match family {
        libc::AF_INET if bytes.len() >= 16 => {
            format!("{}:{}", Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), port())
        }
        libc::AF_INET6 if bytes.len() >= 28 => {
            let mut address = [0; 16];
            address.copy_from_slice(&bytes[8..24]);
            format!("[{}]:{}", Ipv6Addr::from(address), port())
        }
        libc::AF_UNIX => format!("{:?}", String::from_utf8_lossy(&bytes[2..]).trim_end_matches('\0')),
        _ => "…".into(),
    };
    format!("{{{name} {rest}}}")
}

fn all_named(names: &[(i32, &str)], flags: i32) -> String {
    let known = names.iter().filter(|(flag, _)| flags & flag != 0);
    let rest = known.clone().fold(flags, |rest, (flag, _)| rest & !flag);
    let mut words: Vec<String> = known.map(|(_, name)| (*name).to_owned()).collect();
    if rest != 0 || words.is_empty() {
        words.push(format!("{rest:#x}"));
    }
    words.join("|")
}

fn prefix(abi: Abi) -> &'static str {
    if abi == Abi::I386 { "i386 " } else { "" }
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

    #[test]
    fn what_is_put_to_a_stack_is_shown_by_value() {
        let shown = |name, call| question(name, Abi::Native, 3, &call);
        let mut to = vec![2, 0, 0, 80, 10, 0, 0, 1];
        to.resize(16, 0);
        let connect = shown("connect", SocketCall::Connect { address: to });
        assert_eq!(connect.unwrap(), "connect(3, {AF_INET 10.0.0.1:80}, 16)");
        let short = shown("bind", SocketCall::Bind { address: vec![2] });
        assert_eq!(short.unwrap(), "bind(3, {}, 1)");
        let name = SocketCall::SetOption { level: 1, name: 2, value: vec![1, 0, 0, 0] };
        assert_eq!(shown("setsockopt", name).unwrap(), "setsockopt(3, SOL_SOCKET, 2, [1])");
        let flags = libc::MSG_PEEK | 1 << 20;
        let receive = shown("recvmsg", SocketCall::Receive { length: 9, control: 0, named: false, flags });
        assert_eq!(receive.unwrap(), "recvmsg(3, 9 bytes, MSG_PEEK|0x100000)");
        assert_eq!(shown("getsockname", SocketCall::LocalName), None);
    }
}
