//! NETLINK_SOCK_DIAG: what ss(8) lists (sock_diag(7), net/ipv4/inet_diag.c).
//!
//! Whoever knows the sockets gives them as plain [`DiagSocket`]s; here they are filtered by state and put into
//! messages. A filter in byte code is not run: ss filters once more what it gets. Sockets of AF_UNIX are not of
//! the stack, and those of AF_PACKET and AF_NETLINK are not listed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::World;
use super::reply::{Answer, Answered, Asked, Empty, List, Sink, fill_from};
use super::wire::{Attributes, Header, Message, u32_at};
use crate::smol::tcp::{Info, State};

/// SOCK_DIAG_BY_FAMILY
const BY_FAMILY: u16 = 20;
/// SOCK_DESTROY
const DESTROY: u16 = 21;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// INET_DIAG_REQ_PROTOCOL: for numbers that do not fit into a byte, as MPTCP's.
const REQ_PROTOCOL: u16 = 3;
/// INET_DIAG_NOCOOKIE, both halves.
const NO_COOKIE: u64 = u64::MAX;
/// INET_DIAG_*
const MEMINFO: u16 = 1;
const INFO: u16 = 2;
const CONG: u16 = 4;
const TOS: u16 = 5;
const TCLASS: u16 = 6;
const SKMEMINFO: u16 = 7;
const SHUTDOWN: u16 = 8;
const SKV6ONLY: u16 = 11;
const MARK: u16 = 15;
/// Length of `struct tcp_info` as of Linux 6.7.
const TCP_INFO: usize = 248;

/// TCP_INIT_CWND, in segments.
const INITIAL_WINDOW: u32 = 10;
/// TCP_INFINITE_SSTHRESH
const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// When a socket's timer goes off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiagTimer {
    /// 0 none, 1 retransmission, 2 keep-alive, 3 TIME-WAIT, 4 window probe.
    pub kind: u8,
    /// How often it has in a row.
    pub retransmits: u8,
    /// How long until it does.
    pub left: Duration,
}

/// A socket, for ss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiagSocket {
    /// AF_INET or AF_INET6.
    pub family: u8,
    /// IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE or IPPROTO_RAW.
    pub protocol: u8,
    /// TCP_* state; a datagram socket is ESTABLISHED if connected, else CLOSE.
    pub state: u8,
    /// Our end. A raw socket's port is its protocol.
    pub local: (IpAddr, u16),
    /// The other end; unspecified if there is none.
    pub peer: (IpAddr, u16),
    /// The interface it is bound to, or 0.
    pub link: u32,
    /// The inode of the program's descriptor, 0 if it has none any more.
    pub inode: u32,
    /// SO_COOKIE.
    pub cookie: u64,
    /// Whose it is.
    pub uid: u32,
    /// Bytes to be read; of a listener, connections to be accepted.
    pub receive_queue: u32,
    /// Bytes not yet acknowledged; of a listener, the most that may wait.
    pub send_queue: u32,
    /// SO_RCVBUF.
    pub receive_buffer: u32,
    /// SO_SNDBUF.
    pub send_buffer: u32,
    /// Datagrams dropped.
    pub drops: u32,
    /// Its timer.
    pub timer: DiagTimer,
    /// IP_TOS or IPV6_TCLASS.
    pub tos: u8,
    /// SO_MARK.
    pub mark: u32,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
    pub shutdown: u8,
    /// TCP's numbers and the name of its congestion control.
    pub tcp: Option<(Info, &'static str)>,
}

/// The part of a request that counts.
#[derive(Debug, Clone, Copy)]
struct Filter {
    family: u8,
    protocol: u8,
    extensions: u8,
    states: u32,
    rights: bool,
}

#[derive(Debug)]
struct Sockets {
    filter: Filter,
    sockets: Vec<DiagSocket>,
}

impl List for Sockets {
    fn fill(
        &self,
        from: usize,
        _: &dyn World,
        _: Instant,
        header: Header,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let header = Header { kind: BY_FAMILY, ..header };
        fill_from(self.sockets.iter(), from, sink, |socket| Some(message(socket, &self.filter, header)))
    }
}

pub(super) fn answer(asked: &Asked<'_>, world: &dyn World) -> Answered {
    match asked.request.header.kind {
        BY_FAMILY => {}
        DESTROY => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    let payload = asked.request.payload;
    let [family, protocol, extensions, ..] = *payload else { return Err(Errno::EINVAL.into()) };
    match i32::from(family) {
        libc::AF_INET | libc::AF_INET6 => {}
        libc::AF_UNIX | libc::AF_PACKET | libc::AF_NETLINK if asked.is_dump() => {
            return Ok(Answer::Dump(Box::new(Empty)));
        }
        _ => return Err(Errno::ENOENT.into()),
    }
    if payload.len() < REQUEST {
        return Err(Errno::EINVAL.into());
    }
    if ![libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE, libc::IPPROTO_RAW]
        .contains(&i32::from(protocol))
    {
        return Err(Errno::ENOENT.into());
    }
    let protocol_in_full = Attributes::behind(payload, REQUEST).u32(REQ_PROTOCOL)?;
    if protocol_in_full.is_some_and(|full| full != u32::from(protocol)) {
        return Err(Errno::ENOENT.into());
    }
    let states = u32_at(payload, 4).unwrap_or_default();
    let filter = Filter { family, protocol, extensions, states, rights: asked.rights };
    let mut sockets = world.sockets(family, protocol);
    sockets.retain(|s| s.family == filter.family && s.protocol == filter.protocol);
    if asked.is_dump() {
        sockets.retain(|s| filter.states & 1u32.checked_shl(s.state.into()).unwrap_or(0) != 0);
        let ports = [port(payload, 8), port(payload, 10)];
        sockets
            .retain(|s| (ports[0] == 0 || ports[0] == s.local.1) && (ports[1] == 0 || ports[1] == s.peer.1));
        return Ok(Answer::Dump(Box::new(Sockets { filter, sockets })));
    }
    let found = sockets.iter().find(|socket| is_named(socket, payload)).ok_or(Errno::ENOENT)?;
    Ok(Answer::Message(message(found, &filter, asked.header(BY_FAMILY))))
}

fn port(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// `struct inet_diag_sockid` at byte 8 of a request names this socket.
fn is_named(socket: &DiagSocket, payload: &[u8]) -> bool {
    let cookie = u64::from(u32_at(payload, 48).unwrap_or_default())
        | u64::from(u32_at(payload, 52).unwrap_or_default()) << 32;
    id(socket)[..36] == payload[8..44] && (cookie == NO_COOKIE || cookie == socket.cookie)
}

/// `struct inet_diag_sockid`
fn id(socket: &DiagSocket) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..2].copy_from_slice(&socket.local.1.to_be_bytes());
    bytes[2..4].copy_from_slice(&socket.peer.1.to_be_bytes());
    for (at, ip) in [(4, socket.local.0), (20, socket.peer.0)] {
        match ip {
            IpAddr::V4(ip) if i32::from(socket.family) == libc::AF_INET6 && !ip.is_unspecified() => {
                bytes[at..at + 16].copy_from_slice(&ip.to_ipv6_mapped().octets());
            }
            IpAddr::V4(ip) => bytes[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    bytes[36..40].copy_from_slice(&socket.link.to_ne_bytes());
    bytes[40..44].copy_from_slice(&(socket.cookie as u32).to_ne_bytes());
    bytes[44..].copy_from_slice(&((socket.cookie >> 32) as u32).to_ne_bytes());
    bytes
}

/// A socket as inet_sk_diag_fill() tells it.
fn message(socket: &DiagSocket, filter: &Filter, header: Header) -> Vec<u8> {
    let mut message = Message::new(header);
    message.raw(&[socket.family, socket.state, socket.timer.kind, socket.timer.retransmits]);
    message.raw(&id(socket));
    let left = u32::try_from(socket.timer.left.as_millis()).unwrap_or(u32::MAX);
    for number in [left, socket.receive_queue, socket.send_queue, socket.uid, socket.inode] {
        message.raw(&number.to_ne_bytes());
    }
    let wants = |extension: u16| filter.extensions & (1 << (extension - 1)) != 0;
    let v6 = i32::from(socket.family) == libc::AF_INET6;
    message.u8(SHUTDOWN, socket.shutdown);
    if wants(TOS) && !v6 {
        message.u8(TOS, socket.tos);
    }
    if wants(TCLASS) && v6 {
        message.u8(TCLASS, socket.tos);
    }
    let idle = socket.state == State::Listen as u8 || socket.state == State::Closed as u8;
    if v6 && idle {
        message.u8(SKV6ONLY, socket.v6_only.into());
    }
    if filter.rights && socket.mark != 0 {
        message.u32(MARK, socket.mark);
    }
    let listens = socket.state == State::Listen as u8;
    let (read, written) = if listens { (0, 0) } else { (socket.receive_queue, socket.send_queue) };
    let numbers = |all: &[u32]| all.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<_>>();
    if wants(MEMINFO) {
        message.attribute(MEMINFO, &numbers(&[read, written, 0, written]));
    }
    if wants(SKMEMINFO) {
        let (room_in, room_out) = (socket.receive_buffer, socket.send_buffer);
        let all = [read, room_in, written, room_out, 0, written, 0, 0, socket.drops];
        message.attribute(SKMEMINFO, &numbers(&all));
    }
    if let Some((info, congestion)) = &socket.tcp {
        if wants(INFO) {
            let mut bytes = tcp_info(socket.state, info);
            if listens {
                // tcp_get_info(): the backlog stands where segments in flight do.
                bytes[24..28].copy_from_slice(&socket.receive_queue.to_ne_bytes());
                bytes[28..32].copy_from_slice(&socket.send_queue.to_ne_bytes());
                bytes[76..80].copy_from_slice(&INFINITE_SSTHRESH.to_ne_bytes());
                bytes[80..84].copy_from_slice(&INITIAL_WINDOW.to_ne_bytes());
            }
            message.attribute(INFO, &bytes);
        }
        if wants(CONG) {
            message.text(CONG, congestion);
        }
    }
    message.finish()
}

/// `struct tcp_info` (linux/tcp.h): for sock_diag and for TCP_INFO of getsockopt(2). What is not counted is 0.
pub fn tcp_info(state: u8, info: &Info) -> [u8; TCP_INFO] {
    let mut bytes = [0; TCP_INFO];
    let mss = usize::from(info.send_mss).max(1);
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let total = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    bytes[0] = state;
    bytes[2] = u8::try_from(info.backoff).unwrap_or(u8::MAX);
    bytes[4] = bytes[2];
    // TCPI_OPT_TIMESTAMPS, _SACK, _WSCALE
    let scaled = info.send_scale != 0 || info.receive_scale != 0;
    bytes[5] = u8::from(info.timestamps) | u8::from(info.sack) << 1 | u8::from(scaled) << 2;
    bytes[6] = info.send_scale & 0xf | info.receive_scale << 4;
    let words = [
        (8, micros(info.rto)),
        (16, info.send_mss.into()),
        (20, info.receive_mss.into()),
        // Segments in flight.
        (24, small(info.unacked.div_ceil(mss))),
        (64, small(info.receive_window)),
        (68, micros(info.rtt)),
        (72, micros(info.rtt_var)),
        (76, small(info.ssthresh / mss).min(INFINITE_SSTHRESH)),
        (80, small(info.cwnd / mss)),
        (84, info.send_mss.into()),
        // TCP_FASTRETRANS_THRESH: reordering that is taken for loss.
        (88, 3),
        (96, small(info.receive_window)),
        (100, total(info.retransmits)),
        (136, total(info.segments_out)),
        (140, total(info.segments_in)),
        (144, small(info.unsent)),
        (228, small(info.send_window)),
        (232, small(info.receive_window)),
    ];
    for (at, word) in words {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    let long_words = [(112, u64::MAX), (120, info.bytes_acked), (128, info.bytes_received)];
    for (at, word) in long_words {
        bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}
