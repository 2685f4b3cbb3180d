//! ICMP datagram sockets: echo without rights.
//!
//! # Theory of operation
//! socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) sends echo requests whose ident is its port, and gets the echo
//! replies with that ident. net.ipv4.ping_group_range is open to all here. Read: net/ipv4/ping.c, icmp(7).

use std::time::Instant;

use nix::errno::Errno;

use super::Socket;
use super::address::{Domain, Endpoint};
use super::queue::{Auxiliary, Item, Sender};
use super::send::{Outgoing, datagram};
use super::table::Ends;
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::{NetError, Packet};

/// Bytes of an echo message without its data.
const HEADER: usize = 8;
/// Types of ICMP.
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;
/// Types of ICMPv6.
const ECHO6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}

/// How well a socket fits an echo reply (ping_lookup: the first one).
fn score(socket: &Socket, ends: &Ends) -> Option<u32> {
    let own_family = (socket.domain == Domain::V4) == ends.local.is_ipv4();
    let own_address = socket.local.is_unspecified() || socket.local == ends.local;
    (own_family && own_address && socket.takes_link(ends.link)).then_some(1)
}

impl Engine {
    /// An ICMP message: an echo reply may be for a socket.
    pub(crate) fn ping_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        let Some(header) = packet.payload.first_chunk::<HEADER>() else { return };
        let reply = if packet.destination.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
        if header[0] != reply {
            return;
        }
        let ident = u16::from_be_bytes([header[4], header[5]]);
        let Some(id) = self.ping_receiver(packet.destination, ident, packet) else { return };
        if !self.passes_filter(id, packet) {
            return;
        }
        let item = Item {
            data: Vec::new(),
            from: Sender::Inet(Endpoint::heard(packet.source, 0, packet.link, packet.flow_label)),
            to: packet.destination,
            to_port: 0,
            link: packet.link,
            ttl: packet.ttl,
            tos: packet.tos,
            flow: packet.flow_label,
            segment: 0,
            at: now,
            auxiliary: Auxiliary::default(),
        };
        self.enqueue(id, &item, &packet.payload);
    }

    fn ping_receiver(&self, local: std::net::IpAddr, ident: u16, packet: &Packet<'_>) -> Option<SocketId> {
        let peer = Endpoint::heard(packet.source, 0, packet.link, 0);
        let ends = Ends { local, local_port: ident, peer, link: packet.link };
        self.pings.find(&self.sockets, &self.secret, &ends, score)
    }

    /// Sends an echo request. EINVAL for anything else.
    pub(crate) fn send_ping(
        &mut self,
        now: Instant,
        id: SocketId,
        out: &Outgoing,
        data: &[u8],
    ) -> Result<(), Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let domain = socket.domain;
        let [kind, code, _, _, _, _, sequence @ ..] = *data.first_chunk::<HEADER>().ok_or(Errno::EINVAL)?;
        let expected = if domain == Domain::V4 { ECHO } else { ECHO6 };
        if kind != expected || code != 0 {
            return Err(Errno::EINVAL);
        }
        if (domain == Domain::V4) != out.peer.address.is_ipv4() {
            return Err(Errno::EINVAL);
        }
        let mut message = Vec::with_capacity(data.len());
        message.extend_from_slice(&[kind, code, 0, 0]);
        message.extend_from_slice(&socket.port.to_be_bytes());
        message.extend_from_slice(&sequence);
        message.extend_from_slice(&data[HEADER..]);
        let path = self.way(id, out)?;
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let mut datagram = datagram(domain, &socket.options, socket.protocol as u8, out);
        match domain {
            Domain::V4 => {
                let sum = checksum(&message).to_be_bytes();
                message[2..4].copy_from_slice(&sum);
            }
            Domain::V6 => datagram.checksum_at = Some(2),
        }
        let sent = match self.net.send(now, &path, &datagram, &[&message]) {
            // What a filter refuses is told of IPv4's alone (icmpv6_push_pending_frames).
            Err(Errno::EPERM) if domain == Domain::V6 => Ok(()),
            sent => sent,
        };
        self.judge_sent(id, out, &path, sent)
    }

    /// An error about an echo request of ours.
    pub(crate) fn ping_error(&mut self, now: Instant, error: &NetError, quoted: &[u8]) {
        let Some(header) = quoted.first_chunk::<HEADER>() else { return };
        if !matches!(header[0], ECHO | ECHO6) {
            return;
        }
        let ident = u16::from_be_bytes([header[4], header[5]]);
        let peer = Endpoint::heard(error.destination, 0, error.link, 0);
        let ends = Ends { local: error.source, local_port: ident, peer, link: error.link };
        if let Some(id) = self.pings.find(&self.sockets, &self.secret, &ends, score) {
            self.datagram_error(now, id, error, quoted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
    }
}
