//! SOL_SOCKET (socket(7); net/core/sock.c, sk_setsockopt and sk_getsockopt).
//!
//! SO_ZEROCOPY is EOPNOTSUPP: nobody would tell the completions. SO_TIMESTAMPING tells when datagrams were
//! received; what was sent is not stamped.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::super::bpf::Program;
use super::super::{Body, Socket};
use super::{BUFFER_DEFAULT, Row, Stamp, answer, int, read_only, row};
use crate::smol::call::Caller;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::tables::IfIndex;

/// Options that libc does not name (asm-generic/socket.h).
const SO_NO_CHECK: i32 = 11;
const SO_BSDCOMPAT: i32 = 14;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_TIMESTAMPING_NEW: i32 = 65;
const SO_NOFCS: i32 = 43;
const SO_WIFI_STATUS: i32 = 41;
const SO_BPF_EXTENSIONS: i32 = 48;
const SO_CNX_ADVICE: i32 = 53;
const SO_MEMINFO: i32 = 55;
const SO_INCOMING_NAPI_ID: i32 = 56;
const SO_PEERGROUPS: i32 = 59;
const SO_TXTIME: i32 = 61;
const SO_NETNS_COOKIE: i32 = 71;
const SO_BUF_LOCK: i32 = 72;
const SO_RESERVE_MEM: i32 = 73;
const SO_TXREHASH: i32 = 74;
const SO_RCVMARK: i32 = 75;
const SO_PASSPIDFD: i32 = 76;
const SO_PEERPIDFD: i32 = 77;
const SO_RCVPRIORITY: i32 = 82;
const SO_PASSRIGHTS: i32 = 83;

/// SOCK_MIN_SNDBUF and SOCK_MIN_RCVBUF, in bytes.
const LEAST_SEND: u32 = 4608;
const LEAST_RECEIVE: u32 = 2304;
/// Half of `net.ipv4.tcp_rmem[2]`: the most that SO_RCVLOWAT of a stream can be, in bytes.
const MOST_LOW: i32 = 3 << 20;
/// Longest interface name, with its NUL (IFNAMSIZ).
const NAME: usize = 16;
/// The highest SO_PRIORITY without rights (TC_PRIO_INTERACTIVE).
const FREE_PRIORITY: i32 = 6;
/// Bits of SO_TIMESTAMPING that Linux knows (SOF_TIMESTAMPING_MASK).
const STAMPING: i32 = (1 << 19) - 1;
/// SKF_AD_MAX
const EXTENSIONS: i32 = 64;

pub(super) const TABLE: &[Row] = &[
    flag!(libc::SO_DEBUG, debug),
    flag!(libc::SO_REUSEADDR, reuse_address),
    flag!(libc::SO_DONTROUTE, dont_route),
    flag!(libc::SO_BROADCAST, broadcast),
    flag!(libc::SO_KEEPALIVE, keep_alive),
    flag!(libc::SO_OOBINLINE, oob_inline),
    flag!(SO_NO_CHECK, no_check),
    flag!(libc::SO_RXQ_OVFL, overflow_count),
    flag!(libc::SO_SELECT_ERR_QUEUE, error_queue_select),
    flag!(libc::SO_PREFER_BUSY_POLL, prefer_busy_poll),
    flag!(SO_RCVMARK, receive_mark),
    flag!(SO_RCVPRIORITY, receive_priority),
    Row { name: SO_BSDCOMPAT, get: |_| 0, set: |_, _| Ok(()) },
    flag!(SO_WIFI_STATUS, wifi_status),
    flag!(SO_NOFCS, no_frame_check),
    Row { name: libc::SO_TYPE, get: |s| s.kind, set: read_only },
    Row {
        name: libc::SO_PROTOCOL,
        get: |s| if matches!(s.body, Body::Packet(_)) { 0 } else { s.protocol.into() },
        set: read_only,
    },
    Row { name: libc::SO_DOMAIN, get: domain, set: read_only },
    Row { name: libc::SO_ACCEPTCONN, get: |s| s.is_listening().into(), set: read_only },
    Row { name: libc::SO_SNDLOWAT, get: |_| 1, set: read_only },
    Row { name: SO_BPF_EXTENSIONS, get: |_| EXTENSIONS, set: read_only },
    Row { name: SO_INCOMING_NAPI_ID, get: |_| 0, set: read_only },
    Row { name: libc::SO_REUSEPORT, get: |s| s.options.reuse_port.into(), set: set_reuse_port },
    Row {
        name: libc::SO_SNDBUF,
        get: |s| s.options.send_buffer as i32,
        set: |s, n| set_send_buffer(s, (n as u32).min(BUFFER_DEFAULT)),
    },
    Row {
        name: libc::SO_RCVBUF,
        get: |s| s.options.receive_buffer as i32,
        set: |s, n| set_receive_buffer(s, (n as u32).min(BUFFER_DEFAULT)),
    },
    Row { name: libc::SO_RCVLOWAT, get: |s| s.options.receive_low, set: set_receive_low },
    Row {
        name: libc::SO_PRIORITY,
        get: |s| s.options.priority,
        set: |s, n| {
            s.options_mut().priority = n;
            Ok(())
        },
    },
    Row {
        name: libc::SO_MARK,
        get: |s| s.options.mark as i32,
        set: |s, n| {
            s.options_mut().mark = n as u32;
            Ok(())
        },
    },
    Row {
        name: libc::SO_BINDTOIFINDEX,
        get: |s| s.options.device.map_or(0, |d| d.0 as i32),
        set: set_device,
    },
    Row {
        name: libc::SO_PASSCRED,
        get: |s| s.options.pass_credentials.into(),
        set: |s, n| scm(s, |s| s.options_mut().pass_credentials = n != 0),
    },
    Row {
        name: libc::SO_PASSSEC,
        get: |s| s.options.pass_security.into(),
        set: |s, n| scm(s, |s| s.options_mut().pass_security = n != 0),
    },
    Row {
        name: libc::SO_TIMESTAMP,
        get: |s| i32::from(matches!(s.options.stamp, Stamp::Micro(libc::SO_TIMESTAMP))),
        set: |s, n| set_stamp(s, n, Stamp::Micro(libc::SO_TIMESTAMP)),
    },
    Row {
        name: libc::SO_TIMESTAMPNS,
        get: |s| i32::from(matches!(s.options.stamp, Stamp::Nano(libc::SO_TIMESTAMPNS))),
        set: |s, n| set_stamp(s, n, Stamp::Nano(libc::SO_TIMESTAMPNS)),
    },
    Row {
        name: SO_TIMESTAMP_NEW,
        get: |s| i32::from(matches!(s.options.stamp, Stamp::Micro(SO_TIMESTAMP_NEW))),
        set: |s, n| set_stamp(s, n, Stamp::Micro(SO_TIMESTAMP_NEW)),
    },
    Row {
        name: SO_TIMESTAMPNS_NEW,
        get: |s| i32::from(matches!(s.options.stamp, Stamp::Nano(SO_TIMESTAMPNS_NEW))),
        set: |s, n| set_stamp(s, n, Stamp::Nano(SO_TIMESTAMPNS_NEW)),
    },
    Row { name: libc::SO_LOCK_FILTER, get: |s| s.options.filter_locked.into(), set: set_lock },
    Row {
        name: libc::SO_PEEK_OFF,
        get: |s| s.options.peek_offset,
        set: |s, n| {
            s.options_mut().peek_offset = n;
            Ok(())
        },
    },
    Row {
        name: libc::SO_INCOMING_CPU,
        get: |s| s.options.incoming_cpu,
        set: |s, n| {
            s.options_mut().incoming_cpu = n;
            Ok(())
        },
    },
    Row {
        name: libc::SO_BUSY_POLL,
        get: |s| s.options.busy_poll,
        set: |s, n| at_least_zero(n).map(|n| s.options_mut().busy_poll = n),
    },
    Row { name: SO_BUF_LOCK, get: buffer_lock, set: set_buffer_lock },
    Row {
        name: SO_RESERVE_MEM,
        get: |_| 0,
        set: |_, n| if n < 0 { Err(Errno::EINVAL) } else { Err(Errno::EOPNOTSUPP) },
    },
    Row { name: SO_CNX_ADVICE, get: |_| 0, set: |_, _| Ok(()) },
    Row {
        name: libc::SO_ZEROCOPY,
        get: |_| 0,
        set: |_, n| if n == 0 { Ok(()) } else { Err(Errno::EOPNOTSUPP) },
    },
    Row { name: SO_TXREHASH, get: |s| s.options.rehash.into(), set: set_rehash },
];

fn domain(s: &Socket) -> i32 {
    match s.body {
        Body::Packet(_) => libc::AF_PACKET,
        Body::Netlink(_) => libc::AF_NETLINK,
        Body::Stream(_) | Body::Datagram(_) => s.domain.family(),
    }
}

fn at_least_zero(n: i32) -> Result<i32, Errno> {
    if n < 0 { Err(Errno::EINVAL) } else { Ok(n) }
}

fn is_inet(s: &Socket) -> bool {
    matches!(s.body, Body::Stream(_) | Body::Datagram(_))
}

fn set_reuse_port(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if n != 0 && !is_inet(s) {
        return Err(Errno::EOPNOTSUPP);
    }
    s.options_mut().reuse_port = n != 0;
    Ok(())
}

fn set_send_buffer(s: &mut Socket, n: u32) -> Result<(), Errno> {
    let options = s.options_mut();
    options.send_buffer = n.saturating_mul(2).clamp(LEAST_SEND, i32::MAX as u32);
    options.send_buffer_chosen = true;
    Ok(())
}

fn set_receive_buffer(s: &mut Socket, n: u32) -> Result<(), Errno> {
    let options = s.options_mut();
    options.receive_buffer = n.saturating_mul(2).clamp(LEAST_RECEIVE, i32::MAX as u32);
    options.receive_buffer_chosen = true;
    let size = options.receive_buffer;
    if let Body::Netlink(netlink) = &mut s.body {
        netlink.set_receive_buffer(size);
    }
    Ok(())
}

fn set_receive_low(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let n = if n < 0 { i32::MAX } else { n.max(1) };
    // tcp_set_rcvlowat
    let most = match s.stream() {
        None => i32::MAX,
        Some(_) if s.options.receive_buffer_chosen => (s.options.receive_buffer / 2) as i32,
        Some(_) => MOST_LOW,
    };
    s.options_mut().receive_low = n.min(most);
    Ok(())
}

fn set_device(s: &mut Socket, n: i32) -> Result<(), Errno> {
    let index = at_least_zero(n)? as u32;
    s.options_mut().device = (index != 0).then_some(IfIndex(index));
    s.path = None;
    Ok(())
}

/// What only AF_UNIX and AF_NETLINK can pass along.
fn scm(s: &mut Socket, set: impl FnOnce(&mut Socket)) -> Result<(), Errno> {
    if !matches!(s.body, Body::Netlink(_)) {
        return Err(Errno::EOPNOTSUPP);
    }
    set(s);
    Ok(())
}

fn set_stamp(s: &mut Socket, n: i32, stamp: Stamp) -> Result<(), Errno> {
    s.options_mut().stamp = if n != 0 { stamp } else { Stamp::Off };
    Ok(())
}

fn set_lock(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.options.filter_locked && n == 0 {
        return Err(Errno::EPERM);
    }
    s.options_mut().filter_locked = n != 0;
    Ok(())
}

fn buffer_lock(s: &Socket) -> i32 {
    i32::from(s.options.send_buffer_chosen) | i32::from(s.options.receive_buffer_chosen) << 1
}

fn set_buffer_lock(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if n & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    let options = s.options_mut();
    (options.send_buffer_chosen, options.receive_buffer_chosen) = (n & 1 != 0, n & 2 != 0);
    Ok(())
}

fn set_rehash(s: &mut Socket, n: i32) -> Result<(), Errno> {
    if s.stream().is_none() {
        return Err(Errno::EOPNOTSUPP);
    }
    match n {
        -1 => s.options_mut().rehash = 1,
        0 | 1 => s.options_mut().rehash = n as u8,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// A `struct timeval` or `__kernel_sock_timeval`: both two words of eight bytes here. EDOM, EINVAL.
fn timeout(value: &[u8]) -> Result<Option<Duration>, Errno> {
    let bytes: &[u8; 16] = value.first_chunk().ok_or(Errno::EINVAL)?;
    let word = |at: usize| i64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (seconds, micros) = (word(0), word(8));
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM);
    }
    Ok(match u64::try_from(seconds) {
        // A negative time is none at all.
        Err(_) => Some(Duration::ZERO),
        Ok(0) if micros == 0 => None,
        Ok(seconds) => Some(Duration::new(seconds, micros as u32 * 1000)),
    })
}

fn timeval(time: Option<Duration>) -> Vec<u8> {
    let time = time.unwrap_or_default();
    let (seconds, micros) = (time.as_secs() as i64, i64::from(time.subsec_micros()));
    [seconds.to_ne_bytes(), micros.to_ne_bytes()].concat()
}

impl Engine {
    pub(crate) fn get_socket_option(
        &mut self,
        id: SocketId,
        name: i32,
        value: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let (room, cookie) = (value.len(), self.secret.of(&"network namespace"));
        let exactly = |bytes: &[u8; 8]| if room == 8 { Ok(bytes.to_vec()) } else { Err(Errno::EINVAL) };
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        let options = &socket.options;
        Ok(match name {
            libc::SO_ERROR => {
                let error = socket.take_error().or_else(|| socket.soft_error.take());
                self.mark(id);
                answer(error.map_or(0, |errno| errno as i32))
            }
            libc::SO_LINGER => {
                let (on, seconds) = (i32::from(options.linger.is_some()), options.linger.unwrap_or(0));
                [on.to_ne_bytes(), seconds.to_ne_bytes()].concat()
            }
            libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => timeval(options.receive_timeout),
            libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => timeval(options.send_timeout),
            libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => [options.stamping.to_ne_bytes(), [0; 4]].concat(),
            libc::SO_PASSCRED | libc::SO_PASSSEC if !matches!(socket.body, Body::Netlink(_)) => {
                return Err(Errno::EOPNOTSUPP);
            }
            SO_PASSPIDFD | SO_PASSRIGHTS => return Err(Errno::EOPNOTSUPP),
            SO_PEERGROUPS | SO_PEERPIDFD => return Err(Errno::ENODATA),
            libc::SO_PEEK_OFF if !socket.is_udp() && socket.stream().is_none() => {
                return Err(Errno::EOPNOTSUPP);
            }
            SO_TXREHASH if socket.stream().is_none() => return Err(Errno::EOPNOTSUPP),
            SO_CNX_ADVICE => return Err(Errno::ENOPROTOOPT),
            libc::SO_PEERCRED => {
                [0u32.to_ne_bytes(), u32::MAX.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat()
            }
            libc::SO_PEERNAME => {
                let name = self.peer_name(id).map_err(|_| Errno::ENOTCONN)?;
                return if name.len() < room { Err(Errno::EINVAL) } else { Ok(name) };
            }
            libc::SO_BINDTODEVICE => return self.bound_name(id, room),
            libc::SO_GET_FILTER => options.filter.as_ref().map(|f| f.bytes()).unwrap_or_default(),
            libc::SO_MAX_PACING_RATE if room < 8 => {
                u32::try_from(options.pacing_rate).unwrap_or(u32::MAX).to_ne_bytes().to_vec()
            }
            libc::SO_MAX_PACING_RATE => options.pacing_rate.to_ne_bytes().to_vec(),
            SO_TXTIME => vec![0; 8],
            SO_MEMINFO => memory(socket),
            libc::SO_COOKIE => return exactly(&socket.cookie.to_ne_bytes()),
            SO_NETNS_COOKIE => return exactly(&cookie.to_ne_bytes()),
            _ => answer((row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.get)(socket)),
        })
    }

    /// SO_BINDTODEVICE: the name with its NUL, or nothing.
    fn bound_name(&self, id: SocketId, room: usize) -> Result<Vec<u8>, Errno> {
        let device = self.sockets.get(id).and_then(|socket| socket.options.device);
        let Some(device) = device else { return Ok(Vec::new()) };
        if room < NAME {
            return Err(Errno::EINVAL);
        }
        let link = self.net.tables.links.get(&device).ok_or(Errno::ENODEV)?;
        Ok([link.name.as_bytes(), &[0]].concat())
    }

    pub(crate) fn set_socket_option(
        &mut self,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        if name == libc::SO_BINDTODEVICE {
            return self.bind_to_device(id, caller, value);
        }
        let number = int(value)?;
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        permit(socket, caller, name, number)?;
        match name {
            libc::SO_LINGER => {
                let seconds = value.get(4..8).ok_or(Errno::EINVAL)?;
                let seconds = u32::from_ne_bytes(seconds.try_into().expect("four bytes"));
                socket.options_mut().linger = (number != 0).then_some(seconds);
                return Ok(());
            }
            libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => {
                socket.options_mut().receive_timeout = timeout(value)?;
                return Ok(());
            }
            libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => {
                socket.options_mut().send_timeout = timeout(value)?;
                return Ok(());
            }
            libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
                if number & !STAMPING != 0 {
                    return Err(Errno::EINVAL);
                }
                socket.options_mut().stamping = number;
                return Ok(());
            }
            libc::SO_SNDBUFFORCE => return set_send_buffer(socket, number.max(0) as u32),
            libc::SO_RCVBUFFORCE => return set_receive_buffer(socket, number.max(0) as u32),
            libc::SO_PEEK_OFF if !socket.is_udp() && socket.stream().is_none() => {
                return Err(Errno::EOPNOTSUPP);
            }
            libc::SO_BUSY_POLL_BUDGET => {
                return u16::try_from(number).map(|_| ()).map_err(|_| Errno::EINVAL);
            }
            libc::SO_MAX_PACING_RATE => {
                let long = value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
                let short = if number == -1 { u64::MAX } else { u64::from(number as u32) };
                socket.options_mut().pacing_rate = long.unwrap_or(short);
                return Ok(());
            }
            SO_TXTIME => return if value.len() == 8 { Ok(()) } else { Err(Errno::EINVAL) },
            libc::SO_ATTACH_FILTER | libc::SO_DETACH_FILTER => {
                return set_filter(socket, name == libc::SO_ATTACH_FILTER, value);
            }
            // Their values are descriptors of eBPF programs, which nobody here can run.
            libc::SO_ATTACH_BPF | libc::SO_ATTACH_REUSEPORT_EBPF => return Err(Errno::EBADF),
            SO_PASSPIDFD | SO_PASSRIGHTS => return Err(Errno::EOPNOTSUPP),
            _ => {}
        }
        (row(TABLE, name).ok_or(Errno::ENOPROTOOPT)?.set)(socket, number)
    }

    fn bind_to_device(&mut self, id: SocketId, caller: &Caller, value: &[u8]) -> Result<(), Errno> {
        let name = &value[..value.len().min(NAME - 1)];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let device = match std::str::from_utf8(&name[..end]) {
            Ok("") => None,
            Ok(name) => Some(self.net.tables.link_by_name(name).ok_or(Errno::ENODEV)?.index),
            Err(_) => return Err(Errno::ENODEV),
        };
        let socket = self.sockets.get_mut(id).ok_or(Errno::EBADF)?;
        if socket.options.device.is_some() && !caller.rights {
            return Err(Errno::EPERM);
        }
        socket.options_mut().device = device;
        socket.path = None;
        Ok(())
    }
}

/// Whether a caller may set an option to a number. EPERM, EACCES.
fn permit(socket: &Socket, caller: &Caller, name: i32, number: i32) -> Result<(), Errno> {
    // What touches the machine and not only the stack is for who rules the machine (capable()).
    let root = caller.rights && caller.uid == 0;
    match name {
        libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE | libc::SO_BUSY_POLL_BUDGET if !root => Err(Errno::EPERM),
        libc::SO_PREFER_BUSY_POLL if number != 0 && !root => Err(Errno::EPERM),
        libc::SO_BUSY_POLL if number > socket.options.busy_poll && !caller.rights => Err(Errno::EPERM),
        libc::SO_DEBUG if number != 0 && !root => Err(Errno::EACCES),
        libc::SO_MARK | SO_RESERVE_MEM if !caller.rights => Err(Errno::EPERM),
        libc::SO_PRIORITY if !(0..=FREE_PRIORITY).contains(&number) && !caller.rights => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

/// SO_ATTACH_FILTER, SO_DETACH_FILTER.
fn set_filter(socket: &mut Socket, attach: bool, value: &[u8]) -> Result<(), Errno> {
    if socket.options.filter_locked {
        return Err(Errno::EPERM);
    }
    if attach {
        let program = Program::new(value)?;
        socket.options_mut().filter = Some(Arc::new(program));
    } else if socket.options_mut().filter.take().is_none() {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

/// SO_MEMINFO (linux/sock_diag.h, SK_MEMINFO_*).
fn memory(socket: &Socket) -> Vec<u8> {
    let queued = socket.queue().map_or(0, super::super::queue::Queue::bytes) as u32;
    let drops = socket.queue().map_or(0, |queue| queue.dropped as u32);
    let (receive, send) = (socket.options.receive_buffer, socket.options.send_buffer);
    let words = [queued, receive, 0, send, 0, 0, 0, 0, drops];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
