//! Cutting packets that are too long (RFC 791 clause 3.2, RFC 8200 clause 4.5).
//!
//! # Theory of operation
//! A packet with a complete checksum is cut into pieces of a multiple of eight bytes, as long as the way allows.
//! IPv4: each piece has the header, later ones only those options that are to be copied; a fragment can be cut
//! again. IPv6: only the sender cuts; headers that routers look at (hop-by-hop, and all up to a routing header)
//! are repeated, the fragment header follows, all else is cut.

use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;
use switch::offload::checksum::{fold, sum};

use super::Net;
use super::ipv6::{DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING};
use super::neighbours::Origin;
use super::output::{V4_HEADER, V6_HEADER, Way};

/// Bytes of IPv6's fragment header.
const FRAGMENT_HEADER: usize = 8;
/// IPv4's flag.
const MORE_FRAGMENTS: u16 = 0x2000;

impl Net {
    /// Sends `packet` in pieces of at most `limit` bytes.
    pub(super) fn send_fragments(
        &mut self,
        now: Instant,
        way: Way,
        packet: &[u8],
        limit: usize,
        ident: u32,
        origin: Origin,
    ) -> Result<(), Errno> {
        let v4 = packet.first().map(|byte| byte >> 4) == Some(4);
        let sent = if v4 {
            self.send_fragments_v4(now, way, packet, limit, origin)
        } else {
            self.send_fragments_v6(now, way, packet, limit, ident, origin)
        };
        let ip = self.mib.ip(v4);
        match sent {
            Ok(()) => ip.cut += 1,
            Err(_) => ip.cut_failed += 1,
        }
        sent
    }

    fn send_fragments_v4(
        &mut self,
        now: Instant,
        way: Way,
        packet: &[u8],
        limit: usize,
        origin: Origin,
    ) -> Result<(), Errno> {
        let head = usize::from(packet[0] & 0x0F) * 4;
        let (header, payload) = packet.split_at(head);
        let step = limit.saturating_sub(head) & !7;
        if step == 0 {
            return Err(Errno::EMSGSIZE);
        }
        let field = u16::from_be_bytes([header[6], header[7]]);
        let mut copy = header.to_vec();
        for (index, piece) in payload.chunks(step).enumerate() {
            let last = (index + 1) * step >= payload.len();
            let offset = (field & 0x1FFF) + (index * step / 8) as u16;
            let more = if last { field & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
            if index == 1 {
                keep_copied_options(&mut copy[V4_HEADER..]);
            }
            copy[2..4].copy_from_slice(&((head + piece.len()) as u16).to_be_bytes());
            copy[6..8].copy_from_slice(&(offset | more).to_be_bytes());
            copy[10..12].fill(0);
            let value = !fold(sum(&copy));
            copy[10..12].copy_from_slice(&value.to_be_bytes());
            self.send_piece(now, way, &[&copy, piece], origin)?;
        }
        Ok(())
    }

    fn send_fragments_v6(
        &mut self,
        now: Instant,
        way: Way,
        packet: &[u8],
        limit: usize,
        ident: u32,
        origin: Origin,
    ) -> Result<(), Errno> {
        let (head, named_at) = unfragmentable(packet);
        let (header, payload) = packet.split_at(head);
        let step = limit.saturating_sub(head + FRAGMENT_HEADER) & !7;
        if step == 0 {
            return Err(Errno::EMSGSIZE);
        }
        let mut copy = header.to_vec();
        let next = std::mem::replace(&mut copy[named_at], FRAGMENT);
        for (index, piece) in payload.chunks(step).enumerate() {
            let more = u16::from((index + 1) * step < payload.len());
            let mut fragment = [next, 0, 0, 0, 0, 0, 0, 0];
            fragment[2..4].copy_from_slice(&((index * step) as u16 | more).to_be_bytes());
            fragment[4..].copy_from_slice(&ident.to_be_bytes());
            let len = head - V6_HEADER + FRAGMENT_HEADER + piece.len();
            copy[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            self.send_piece(now, way, &[&copy, &fragment, piece], origin)?;
        }
        Ok(())
    }

    fn send_piece(&mut self, now: Instant, way: Way, pieces: &[&[u8]], origin: Origin) -> Result<(), Errno> {
        if self.arena.is_full() {
            self.count(way.link, |counters| counters.tx_dropped += 1);
            return Err(Errno::ENOBUFS);
        }
        let v4 = pieces.first().and_then(|head| head.first()).map(|byte| byte >> 4) == Some(4);
        self.mib.ip(v4).cut_parts += 1;
        let at = self.arena.write(pieces);
        self.send_packet(now, way, at, VnetHdr::default(), origin)
    }
}

/// Options that are not for every fragment become no-operations (ip_options_fragment).
fn keep_copied_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)).max(2),
        };
        let end = (at + len).min(options.len());
        if kind & COPIED == 0 {
            options[at..end].fill(1);
        }
        at = end;
    }
}

/// How long the part of an IPv6 packet is that every fragment repeats, and where it names what follows.
fn unfragmentable(packet: &[u8]) -> (usize, usize) {
    let (mut next, mut at) = (packet[6], V6_HEADER);
    let mut found = (V6_HEADER, 6);
    while let (HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS, Some(header)) = (next, packet.get(at..at + 8)) {
        let end = at + 8 + usize::from(header[1]) * 8;
        if end > packet.len() {
            break;
        }
        if next != DESTINATION_OPTIONS {
            found = (end, at);
        }
        (next, at) = (header[0], end);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_for_the_first_fragment_only_become_no_operations() {
        // Record route is not copied, router alert is.
        let mut options = [7, 3, 4, 0x94, 4, 0, 0, 0];
        keep_copied_options(&mut options);
        assert_eq!(options, [1, 1, 1, 0x94, 4, 0, 0, 0]);
        let mut cut = [7, 200, 4, 0];
        keep_copied_options(&mut cut);
        assert_eq!(cut, [1; 4]);
    }

    #[test]
    fn destination_options_are_repeated_only_before_a_routing_header() {
        let mut packet = vec![0; 80];
        packet[6] = DESTINATION_OPTIONS;
        packet[40] = ROUTING;
        packet[48] = DESTINATION_OPTIONS;
        packet[56] = 17;
        assert_eq!(unfragmentable(&packet), (56, 48));
        packet[40] = 17;
        assert_eq!(unfragmentable(&packet), (40, 6));
    }
}
