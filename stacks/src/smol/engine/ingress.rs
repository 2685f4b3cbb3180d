//! What arrives: from the network layer to the socket layer.

use std::time::Instant;

use super::Engine;
use crate::smol::net::{Crossing, Delivery, NetError, Packet, Rejection};

/// Packets to ourselves that are delivered before anything else gets its turn. Answers to them wait there too,
/// so the bound is against two sockets of one stack that keep each other busy (echo to chargen).
const LOOPS: usize = 4096;

impl Engine {
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
            _ if raw => {}
            _ => {
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
