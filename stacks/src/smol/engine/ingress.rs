//! What arrives: from the network layer to the socket layer.

use std::ops::Range;
use std::time::Instant;

use switch::offload::VnetHdr;

use super::{Engine, SocketId};
use crate::smol::net::{Crossing, Delivery, NetError, Packet, Rejection};
use crate::smol::sockets::Body;
use crate::smol::tables::IfIndex;
use crate::smol::tcp::Tcp;

/// Packets to ourselves that are delivered before anything else gets its turn. Answers to them wait there too,
/// so the bound is against two sockets of one stack that keep each other busy (echo to chargen).
const LOOPS: usize = 4096;

/// Long data of a stream that came next in order while none waited: the program may have it from the frame.
#[derive(Debug)]
pub struct Lent {
    /// Whose it is.
    pub socket: SocketId,
    /// Where in the frame it lies.
    pub at: Range<usize>,
}

impl Engine {
    /// As [`Engine::handle_frame`], but long data of a stream may be lent to the caller, who gives as much of it to
    /// the program as that takes and then calls [`Engine::settle`]; nothing else before.
    pub fn handle_frame_lending(
        &mut self,
        now: Instant,
        link: IfIndex,
        header: &VnetHdr,
        frame: &[u8],
    ) -> Option<Lent> {
        self.clock = now;
        self.tap_incoming(now, link, header, frame);
        let delivery = self.net.handle_frame(now, link, header, frame);
        let start = match &delivery {
            Delivery::Packet(packet) => packet.payload.as_ptr().addr().wrapping_sub(frame.as_ptr().addr()),
            _ => 0,
        };
        self.lends = true;
        self.deliver(now, delivery);
        self.lends = false;
        match self.lent.take() {
            Some((socket, at)) => Some(Lent { socket, at: start + at.start..start + at.end }),
            None => {
                self.drain_loopback(now);
                None
            }
        }
    }

    /// The program has the first `taken` of the bytes of `frame` that were lent.
    pub fn settle(&mut self, now: Instant, lent: &Lent, frame: &[u8], taken: usize) {
        let bytes = &frame[lent.at.clone()];
        let stream = self.sockets.get_mut(lent.socket).map(|socket| &mut socket.body);
        if let Some(Body::Stream(stream)) = stream
            && let Some(connection) = &mut stream.connection
        {
            self.tcp.settle(now, connection, bytes, taken);
            self.make_ready(lent.socket);
            if taken < bytes.len() {
                self.mark(lent.socket);
                self.observe(now, lent.socket);
            }
        }
        self.drain_loopback(now);
    }

    /// Delivers what we sent to ourselves.
    pub(super) fn drain_loopback(&mut self, now: Instant) {
        for _ in 0..LOOPS {
            if let Some(delivery) = self.net.poll_loopback(now) {
                self.deliver(now, delivery);
            } else if let Some(crossing) = self.net.poll_crossing() {
                self.cross(now, &crossing);
            } else {
                break;
            }
        }
        while let Some((error, quoted)) = self.net.poll_error() {
            self.network_error(now, &error, &quoted);
        }
    }

    /// A frame that stays within the stack: packet sockets see it leave, and arrive at the other end.
    fn cross(&mut self, now: Instant, crossing: &Crossing) {
        self.tap_outgoing(now, crossing.from, &crossing.header, &crossing.frame);
        if let Some(to) = crossing.to {
            self.tap_incoming(now, to, &crossing.header, &crossing.frame);
            let delivery = self.net.handle_frame(now, to, &crossing.header, &crossing.frame);
            self.deliver(now, delivery);
        }
    }

    pub(super) fn deliver(&mut self, now: Instant, delivery: Delivery<'_>) {
        match delivery {
            Delivery::None => {}
            Delivery::Packet(packet) => self.packet(now, &packet),
            Delivery::Error(error, packet, quoted) => {
                self.raw_packet(now, &packet);
                self.network_error(now, &error, &quoted);
            }
        }
    }

    fn packet(&mut self, now: Instant, packet: &Packet<'_>) {
        self.tap_loopback(now, packet);
        let raw = self.raw_packet(now, packet);
        match i32::from(packet.protocol) {
            libc::IPPROTO_TCP => self.tcp_packet(now, packet),
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => self.udp_packet(now, packet),
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => self.ping_packet(now, packet),
            libc::IPPROTO_IGMP => {}
            _ if raw => self.net.mib.ip(packet.source.is_ipv4()).in_delivers += 1,
            _ => {
                self.net.mib.ip(packet.source.is_ipv4()).in_unknown_protocols += 1;
                self.counters.no_socket += 1;
                self.net.reject(now, packet, Rejection::ProtocolUnreachable);
            }
        }
    }

    /// Somebody told us that a packet of ours did not arrive.
    fn network_error(&mut self, now: Instant, error: &NetError, quoted: &[u8]) {
        match i32::from(error.protocol) {
            libc::IPPROTO_TCP => self.tcp_error(now, error, quoted),
            libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => self.udp_error(now, error, quoted),
            libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => self.ping_error(now, error, quoted),
            _ => {}
        }
        self.raw_error(now, error, quoted);
    }
}
