//! What leaves: ready streams say a segment each, in turn.
//!
//! One call does a bounded amount of work: at most [`SEGMENTS`] segments. A stream that spoke goes to the end
//! of the list, so that nobody waits longer for a busy neighbour than one round. Packets to ourselves are
//! delivered right after each of them, as the next may depend on what they bring.

use std::time::Instant;

use switch::offload::VnetHdr;

use super::{Engine, SocketId};
use crate::smol::net::{Datagram, HEADROOM};
use crate::smol::sockets::Body;
use crate::smol::sockets::address::Domain;
use crate::smol::sockets::tcp::fragmenting;
use crate::smol::tables::IfIndex;
use crate::smol::tcp::Tcp;

/// Segments of one call: as many super-segments of 64 KiB as the arena takes (4 MiB), less room for what else
/// waits there.
const SEGMENTS: usize = 48;
/// Segments after which frames leave: as many super-segments as stay in a CPU's cache (256 KiB) are copied to a
/// port at half the price.
const BATCH: usize = 4;
/// Connections that keep what only busy ones need although they are idle: some hundred kilobytes, as much as stays in
/// a CPU's cache.
const WARM: usize = 128;
/// Connections looked at, per one that becomes warm, for one that can rest.
const LOOKED_AT: usize = 2;
/// Where the checksum and the flags are in a TCP header.
const TCP_CHECKSUM: u16 = 16;
const FLAGS: usize = 13;
const RST: u8 = 4;
/// net.ipv4.ip_default_ttl, and the default hop limit.
pub(in crate::smol) const DEFAULT_TTL: u8 = 64;

/// What a stream had to say.
enum Said {
    /// A segment; there may be more.
    Something,
    /// Nothing (more).
    Nothing,
}

impl Engine {
    /// A stream may have something to send.
    pub(in crate::smol) fn make_ready(&mut self, id: SocketId) {
        if let Some(stream) = self.sockets.get_mut(id).and_then(|socket| socket.stream_mut())
            && !stream.ready
            && stream.connection.is_some()
        {
            stream.ready = true;
            self.ready.push_back(id);
        }
    }

    pub(super) fn transmit(&mut self, now: Instant, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) -> bool {
        let mut left = SEGMENTS;
        while left > 0 {
            self.drain_loopback(now);
            let Some(id) = self.ready.pop_front() else { break };
            match self.speak(now, id) {
                Said::Something => {
                    left -= 1;
                    self.ready.push_back(id);
                    if left.is_multiple_of(BATCH) {
                        self.hand_out(now, sink);
                    }
                }
                Said::Nothing => {
                    let mut news = false;
                    if let Some(stream) = self.sockets.get_mut(id).and_then(|socket| socket.stream_mut()) {
                        stream.ready = false;
                        let warm = stream.connection.as_ref().is_some_and(|it| self.tcp.is_warm(it));
                        news = warm && !stream.warm;
                        stream.warm |= warm;
                    }
                    self.observe(now, id);
                    if news {
                        self.note_warm(now, id);
                    }
                }
            }
        }
        self.drain_loopback(now);
        self.hand_out(now, sink);
        !self.ready.is_empty()
    }

    /// A connection had something to do. Beyond [`WARM`], the one for which that is longest ago rests, or is left for
    /// later if it is still busy: a clock with one hand.
    fn note_warm(&mut self, now: Instant, id: SocketId) {
        self.warm.push_back(id);
        for _ in 0..LOOKED_AT {
            if self.warm.len() <= WARM {
                break;
            }
            let Some(oldest) = self.warm.pop_front() else { break };
            let Some(stream) = self.sockets.get_mut(oldest).and_then(|socket| socket.stream_mut()) else {
                continue;
            };
            if stream.ready || stream.connection.as_mut().is_some_and(|it| !self.tcp.rest(now, it)) {
                self.warm.push_back(oldest);
            } else {
                stream.warm = false;
                self.observe(now, oldest);
            }
        }
    }

    /// Frames that are ready leave.
    fn hand_out(&mut self, now: Instant, sink: &mut dyn FnMut(IfIndex, &VnetHdr, &[u8])) {
        if self.taps.is_empty() {
            self.net.poll_transmit(sink);
        } else {
            self.transmit_tapped(now, sink);
        }
    }

    /// Lets a stream send one segment; whether there was one.
    pub(in crate::smol) fn speak_once(&mut self, now: Instant, id: SocketId) -> bool {
        matches!(self.speak(now, id), Said::Something)
    }

    /// Lets a stream send one segment.
    fn speak(&mut self, now: Instant, id: SocketId) -> Said {
        self.refresh_path(now, id);
        let Some(socket) = self.sockets.get_mut(id) else { return Said::Nothing };
        let (path, options) = (socket.path, &socket.options);
        let (Some(peer), Body::Stream(stream)) = (socket.peer, &mut socket.body) else {
            return Said::Nothing;
        };
        let Some(connection) = stream.connection.as_mut() else { return Said::Nothing };
        let slot = self.net.slot();
        let Some(segment) = self.tcp.poll_segment(now, connection, slot, HEADROOM) else {
            return Said::Nothing;
        };
        let count = &mut self.net.mib.tcp;
        let segments = match segment.gso_size {
            0 => 1,
            size => segment.data.div_ceil(usize::from(size)) as u64,
        };
        count.sent += segments;
        count.sent_again += if segment.again { segments } else { 0 };
        let flags = self.net.slot().get(segment.range.start + FLAGS).copied().unwrap_or(0);
        self.net.mib.tcp.resets_sent += u64::from(flags & RST != 0);
        // Without a way the segment is lost; the machine will say it again.
        let Some(path) = path else { return Said::Something };
        let v4 = peer.address.is_ipv4();
        let ttl = if v4 { options.ip.ttl } else { options.ip6.hops };
        let datagram = Datagram {
            destination: peer.address,
            protocol: libc::IPPROTO_TCP as u8,
            ttl: u8::try_from(ttl).unwrap_or(DEFAULT_TTL),
            tos: if v4 { options.ip.tos } else { options.ip6.class },
            flow_label: peer.flow & 0xf_ffff,
            fragmenting: fragmenting(if socket.domain == Domain::V4 || v4 {
                options.ip.discover
            } else {
                options.ip6.discover
            }),
            gso_size: segment.gso_size,
            checksum_at: Some(TCP_CHECKSUM),
            options: extra(socket.domain, v4, options),
            ident: 0,
        };
        // What cannot be sent is lost like what the wire loses.
        let _ = self.net.send_slot(now, &path, &datagram, segment.range);
        Said::Something
    }
}

/// IP options or extension headers of a socket.
pub(in crate::smol) fn extra(
    domain: Domain,
    v4: bool,
    options: &crate::smol::sockets::options::Options,
) -> &[u8] {
    let bytes = if v4 {
        options.ip.options.as_deref()
    } else if domain == Domain::V6 {
        options.ip6.headers.as_deref()
    } else {
        None
    };
    bytes.unwrap_or(&[])
}
