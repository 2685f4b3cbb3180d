//! UDP (RFC 768; udp(7)), and what UDP-Lite has in common with it.

use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::address::Endpoint;
use super::lite::LITE;
use super::names::Kind;
use super::queue::{Auxiliary, Item, Sender};
use super::send::{Outgoing, datagram};
use super::table::{Ends, Flow, Table, udp_score};
use super::{Body, Socket};
use crate::smol::engine::{Engine, SocketId};
use crate::smol::net::{NetError, Packet, Rejection};

/// IPPROTO_UDP
const UDP: u8 = 17;
/// Bytes of a header.
const HEADER: usize = 8;
/// Where the checksum is in it.
const CHECKSUM: u16 = 6;
/// Datagrams of one UDP_SEGMENT send (UDP_MAX_SEGMENTS).
const MAX_SEGMENTS: usize = 128;

/// The packet that a datagram came in, as far as anybody looks at it.
fn packet_of(item: &Item, protocol: u8) -> Option<Packet<'static>> {
    let Sender::Inet(peer) = item.from else { return None };
    let length = u16::try_from(HEADER + item.data.len()).unwrap_or(0);
    let header = match (peer.address, item.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.saturating_add(20).to_be_bytes();
            let start = [0x45, item.tos, total[0], total[1], 0, 0, 0, 0, item.ttl, protocol, 0, 0];
            [&start[..], &from.octets(), &to.octets()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let first = (6 << 28 | u32::from(item.tos) << 20 | item.flow & 0xF_FFFF).to_be_bytes();
            let [high, low] = length.to_be_bytes();
            [&first[..], &[high, low, protocol, item.ttl], &from.octets(), &to.octets()].concat()
        }
        _ => return None,
    };
    let ports = [peer.port, item.to_port, length, 0].map(u16::to_be_bytes).concat();
    Some(Packet {
        link: item.link,
        source: peer.address,
        destination: item.to,
        protocol,
        header: header.into(),
        payload: [&ports[..], &item.data].concat().into(),
        ttl: item.ttl,
        tos: item.tos,
        flow_label: item.flow,
        gso_size: item.segment,
        checked: true,
        group_frame: false,
        mac: None,
    })
}

impl Engine {
    /// A UDP datagram for us.
    pub(crate) fn udp_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        let bytes: &[u8] = &packet.payload;
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            self.counters.malformed += 1;
            return;
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let length = usize::from(word(4));
        // UDP-Lite has something else there; a datagram is as long as its packet (RFC 3828 clause 3.1).
        let length = if packet.protocol == LITE { 0 } else { length };
        // A super-segment's length is the first datagram's or none (net/ipv4/udp_offload.c).
        let end = if packet.gso_size != 0 || length == 0 { bytes.len() } else { length };
        if end < HEADER || end > bytes.len() {
            self.counters.malformed += 1;
            return;
        }
        let peer = Endpoint::heard(packet.source, word(0), packet.link, packet.flow_label);
        let ends = Ends { local: packet.destination, local_port: word(2), peer, link: packet.link };
        let item = Item {
            data: Vec::new(),
            from: Sender::Inet(peer),
            to: packet.destination,
            to_port: word(2),
            link: packet.link,
            ttl: packet.ttl,
            tos: packet.tos,
            flow: packet.flow_label,
            segment: 0,
            at: now,
            auxiliary: Auxiliary::default(),
        };
        let data = &bytes[HEADER..end];
        if self.is_for_many(packet) {
            return self.udp_to_many(packet, &ends, &item, data);
        }
        match self.udp_receiver(packet.protocol, &ends) {
            Some(id) => self.udp_deliver(id, packet, item, data),
            None => {
                self.counters.no_socket += 1;
                self.net.mib.udp(packet.protocol == LITE, packet.source.is_ipv4()).no_ports += 1;
                self.net.reject(now, packet, Rejection::PortUnreachable);
            }
        }
    }

    /// Closes a socket whose program had gone before the datagrams that still wait arrived: they find somebody else
    /// or nobody, which their senders are told.
    pub(crate) fn refuse_datagrams(&mut self, now: Instant, id: SocketId) {
        let mut late = Vec::new();
        let protocol = self.sockets.get(id).map_or(UDP, |socket| socket.protocol as u8);
        if let Some(queue) = self.sockets.get_mut(id).filter(|s| s.is_udp()).and_then(Socket::queue_mut) {
            while let Some(item) = queue.pop() {
                late.push(item);
            }
        }
        self.close_socket(now, id, false);
        for item in late {
            if let Some(packet) = packet_of(&item, protocol) {
                let udp = self.net.mib.udp(protocol == LITE, packet.source.is_ipv4());
                udp.received = udp.received.saturating_sub(1);
                self.udp_packet(now, &packet);
            }
        }
    }

    fn udp_table(&self, protocol: u8) -> &Table {
        if protocol == LITE { &self.lites } else { &self.datagrams }
    }

    /// Whose datagram.
    fn udp_receiver(&self, protocol: u8, ends: &Ends) -> Option<SocketId> {
        let flow = Flow::new(ends.local, ends.local_port, &ends.peer);
        let table = self.udp_table(protocol);
        let connected = table
            .flow(&flow)
            .filter(|id| self.sockets.get(*id).is_some_and(|socket| socket.takes_link(ends.link)));
        connected.or_else(|| table.find(&self.sockets, &self.secret, ends, udp_score))
    }

    /// To a group, or to everybody.
    pub(crate) fn is_for_many(&self, packet: &Packet<'_>) -> bool {
        packet.destination.is_multicast()
            || (packet.destination.is_ipv4()
                && packet.group_frame
                && self.kind_of(packet.destination, None) == Kind::Broadcast)
    }

    fn udp_to_many(&mut self, packet: &Packet<'_>, ends: &Ends, item: &Item, data: &[u8]) {
        let group = packet.destination.is_multicast();
        let wanted = |id: &SocketId| {
            self.sockets.get(*id).is_some_and(|socket| {
                udp_score(socket, ends).is_some()
                    && (!group || socket.takes_group(packet.link, packet.destination, packet.source))
            })
        };
        let ids: Vec<SocketId> = self.udp_table(packet.protocol).all(ends).filter(wanted).collect();
        for id in ids {
            self.udp_deliver(id, packet, item.clone(), data);
        }
    }

    /// Gives a socket a datagram, or the datagrams of a super-segment.
    fn udp_deliver(&mut self, id: SocketId, packet: &Packet<'_>, item: Item, data: &[u8]) {
        let Some(socket) = self.sockets.get(id) else { return };
        let least =
            if packet.source.is_ipv4() { socket.options.ip.min_ttl } else { socket.options.ip6.min_hops };
        let covered = packet.protocol != LITE
            || socket.datagrams().is_some_and(|datagrams| datagrams.is_covered(&packet.payload));
        if !covered || packet.ttl < least || !self.passes_filter(id, packet) {
            return;
        }
        let size = usize::from(packet.gso_size);
        let coalesced = self.sockets.get(id).and_then(Socket::datagrams).is_some_and(|d| d.coalesced);
        if size == 0 || data.len() <= size {
            self.enqueue(id, &item, data);
        } else if coalesced {
            self.enqueue(id, &Item { segment: packet.gso_size, ..item }, data);
        } else {
            for piece in data.chunks(size) {
                self.enqueue(id, &item, piece);
            }
        }
    }

    /// Sends a datagram, or with UDP_SEGMENT several.
    pub(crate) fn send_udp(
        &mut self,
        now: Instant,
        id: SocketId,
        out: &Outgoing,
        data: &[u8],
    ) -> Result<(), Errno> {
        let path = self.way(id, out)?;
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let Body::Datagram(datagrams) = &socket.body else { return Err(Errno::EOPNOTSUPP) };
        let v4 = out.peer.address.is_ipv4();
        let unchecked = if v4 { socket.options.no_check } else { datagrams.no_check6.0 };
        let size = usize::from(out.wishes.segment.unwrap_or(datagrams.segment));
        let headers = HEADER + if v4 { 20 } else { 40 };
        if size != 0 && data.len() > size {
            if size + headers > path.mtu as usize {
                return Err(Errno::EMSGSIZE);
            }
            if data.len() > size * MAX_SEGMENTS {
                return Err(Errno::EINVAL);
            }
            if unchecked {
                return Err(Errno::EINVAL);
            }
            if socket.is_lite() {
                return Err(Errno::EIO);
            }
        }
        // An IPv4 packet counts its header in its length, an IPv6 packet does not.
        if data.len() + HEADER + if v4 { 20 } else { 0 } > usize::from(u16::MAX) {
            return self.judge_sent(id, out, &path, Err(Errno::EMSGSIZE));
        }
        let mut datagram = datagram(socket.domain, &socket.options, socket.protocol as u8, out);
        datagram.checksum_at = (!unchecked && !socket.is_lite()).then_some(CHECKSUM);
        if size != 0 && data.len() > size {
            datagram.gso_size = size as u16;
        }
        let length = (data.len() + HEADER) as u16;
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&socket.port.to_be_bytes());
        header[2..4].copy_from_slice(&out.peer.port.to_be_bytes());
        header[4..6].copy_from_slice(&length.to_be_bytes());
        if socket.is_lite() {
            datagrams.cover(&mut header, data, &path, out.peer.address);
        }
        let sent = self.net.send(now, &path, &datagram, &[&header, data]);
        let lite = i32::from(datagram.protocol) == libc::IPPROTO_UDPLITE;
        self.net.mib.udp(lite, v4).sent += u64::from(sent.is_ok());
        self.judge_sent(id, out, &path, sent)
    }

    /// An ICMP error about a datagram of ours (__udp4_lib_err).
    pub(crate) fn udp_error(&mut self, now: Instant, error: &NetError, quoted: &[u8]) {
        let Some(ports) = quoted.first_chunk::<4>() else { return };
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let peer = Endpoint::heard(error.destination, port(2), error.link, 0);
        let ends = Ends { local: error.source, local_port: port(0), peer, link: error.link };
        if let Some(id) = self.udp_receiver(error.protocol, &ends) {
            self.datagram_error(now, id, error, quoted);
        }
    }

    /// An error for a datagram socket: into its queue if it has asked for them, else as SO_ERROR if it is
    /// connected and the error is a lasting one.
    pub(crate) fn datagram_error(&mut self, now: Instant, id: SocketId, error: &NetError, quoted: &[u8]) {
        let Some(socket) = self.sockets.get_mut(id) else { return };
        let v4 = error.destination.is_ipv4();
        let too_long = error.errno == Errno::EMSGSIZE;
        if too_long {
            socket.path = None;
            let discover = if v4 { socket.options.ip.discover } else { socket.options.ip6.discover };
            // IP_PMTUDISC_DONT and those from _INTERFACE on do not believe it.
            if discover >= 3 {
                return;
            }
            self.net.set_path_mtu(now, error.destination, error.info);
            if discover == 0 {
                return;
            }
        }
        if socket.wants_errors(error.destination) {
            self.queue_error(now, id, error, quoted);
        } else if (error.fatal || too_long) && socket.peer.is_some() {
            socket.error = Some(error.errno);
            self.mark(id);
        }
    }
}
