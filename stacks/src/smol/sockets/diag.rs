//! What ss(8) shows of the sockets (sock_diag(7)).

use std::net::IpAddr;
use std::time::Instant;

use super::address::Domain;
use super::datagram::DatagramKind;
use super::slots::Slots;
use super::tcp::Stream;
use super::{Body, Socket};
use crate::smol::engine::SocketId;
use crate::smol::netlink::{DiagSocket, DiagTimer};
use crate::smol::tcp::{Congestion, Machine, State, Tcp};

/// Timers as ss names them: 1 retransmission, 2 keep-alive, 3 TIME-WAIT.
const RETRANSMISSION: u8 = 1;
const KEEP_ALIVE: u8 = 2;
const TIME_WAIT: u8 = 3;

/// The sockets of a family and protocol.
pub(crate) fn list(
    sockets: &Slots,
    tcp: &Machine,
    now: Instant,
    family: u8,
    protocol: u8,
) -> Vec<DiagSocket> {
    let wanted = |socket: &Socket| {
        let known = match &socket.body {
            Body::Stream(stream) => i32::from(protocol) == libc::IPPROTO_TCP && is_shown(stream),
            Body::Datagram(datagrams) => match datagrams.kind {
                // One without a port is in no table.
                DatagramKind::Udp => u16::from(protocol) == socket.protocol && socket.port != 0,
                DatagramKind::Ping => i32::from(protocol) == i32::from(socket.protocol),
                DatagramKind::Raw => i32::from(protocol) == libc::IPPROTO_RAW,
            },
            Body::Packet(_) | Body::Netlink(_) => false,
        };
        known && i32::from(family) == socket.domain.family()
    };
    sockets.iter().filter(|(_, s)| wanted(s)).map(|(id, s)| show(tcp, now, id, s)).collect()
}

/// A stream that was never bound, or whose connection is over, is in no table of Linux's.
fn is_shown(stream: &Stream) -> bool {
    stream.listener.is_some() || (stream.connection.is_some() && !stream.detached)
}

fn show(tcp: &Machine, now: Instant, _id: SocketId, socket: &Socket) -> DiagSocket {
    let any = socket.domain.unspecified();
    let peer = socket.peer.map_or((any, 0), |peer| (peer.address, peer.port));
    let v6 = |ip: IpAddr| match (socket.domain, ip) {
        (Domain::V6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().into(),
        (_, ip) => ip,
    };
    let mut shown = DiagSocket {
        family: socket.domain.family() as u8,
        protocol: if socket.is_raw() { libc::IPPROTO_RAW as u8 } else { socket.protocol as u8 },
        state: if socket.peer.is_some() { State::Established } else { State::Closed } as u8,
        local: (v6(socket.local), socket.port),
        peer: (v6(peer.0), peer.1),
        link: socket.options.device.map_or(0, |device| device.0),
        inode: if socket.held { socket.inode } else { 0 },
        cookie: socket.cookie,
        uid: socket.uid,
        receive_queue: socket.queue().map_or(0, super::queue::Queue::bytes) as u32,
        send_queue: 0,
        receive_buffer: socket.options.receive_buffer,
        send_buffer: socket.options.send_buffer,
        drops: socket.queue().map_or(0, |queue| queue.dropped) as u32,
        timer: DiagTimer::default(),
        tos: if socket.domain == Domain::V4 { socket.options.ip.tos } else { socket.options.ip6.class },
        mark: socket.options.mark,
        v6_only: socket.options.ip6.only,
        shutdown: u8::from(socket.shut_receive) | u8::from(socket.shut_send) << 1,
        tcp: None,
    };
    if let Body::Stream(stream) = &socket.body {
        show_stream(&mut shown, tcp, now, socket, stream);
    }
    shown
}

fn show_stream(shown: &mut DiagSocket, tcp: &Machine, now: Instant, socket: &Socket, stream: &Stream) {
    let congestion = match stream.options.congestion {
        Congestion::Cubic => "cubic",
        Congestion::Reno => "reno",
    };
    if let Some(listener) = &stream.listener {
        shown.state = State::Listen as u8;
        shown.receive_queue = listener.queue.len() as u32;
        shown.send_queue = listener.backlog as u32;
        shown.tcp = Some((crate::smol::tcp::Info::default(), congestion));
        return;
    }
    let Some(connection) = &stream.connection else { return };
    let info = tcp.info(connection);
    let state = tcp.state(connection);
    shown.state = state as u8;
    shown.receive_queue = tcp.received(connection) as u32;
    shown.send_queue = (info.unacked + info.unsent) as u32;
    let kind = match state {
        State::TimeWait => TIME_WAIT,
        _ if info.unacked > 0 => RETRANSMISSION,
        _ => KEEP_ALIVE,
    };
    if let Some((_, at)) = socket.timer {
        let left = at.saturating_duration_since(now);
        let retransmits = u8::try_from(info.backoff).unwrap_or(u8::MAX);
        shown.timer = DiagTimer { kind, retransmits, left };
    }
    shown.tcp = Some((info, congestion));
}
