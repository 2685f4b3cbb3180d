//! Putting fragments together (RFC 791 clause 3.2, RFC 815, RFC 8200 clause 4.5, RFC 5722, RFC 6946).
//!
//! # Theory of operation
//! Each datagram has its own buffer and a sorted list of the runs of bytes that have come. A fragment that
//! repeats bytes of one run is a duplicate and ignored; one that overlaps otherwise is an attack, and the whole
//! datagram goes, in both families (RFC 5722; Linux since 4.19 for IPv4, too). What takes too long goes, and its
//! sender is told if the first fragment was there. Memory is bounded for all together; the oldest go first, so
//! that who sends fragments to waste has to go on doing it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use switch::offload::checksum::{fold, sum};

use super::buffer::Buffer;
use super::icmp_error::Trouble;
use super::input::Arrival;
use super::ipv4::Header4;
use super::ipv6::{DESTINATION_OPTIONS, Header6};
use super::output::{ICMPV6, TCP, UDP, V6_HEADER};
use super::timers::Timer;
use super::{MAX_PACKET, Net, Packet};
use crate::smol::tables::IfIndex;

/// Bytes of all unfinished datagrams (ipfrag_high_thresh, ip6frag_high_thresh).
const MAX_BYTES: usize = 4 << 20;
/// What a datagram costs beside its bytes.
const OVERHEAD: usize = 512;
/// Runs of one datagram. In order there is one; this many mean that every other fragment of eight bytes is late.
const MAX_RUNS: usize = 64;
/// How long IPv4's fragments may take (ipfrag_time).
const TIME_V4: Duration = Duration::from_secs(30);
/// How long IPv6's fragments may take (RFC 8200 clause 4.5, ip6frag_time).
const TIME_V6: Duration = Duration::from_secs(60);
/// Bytes of IPv6's fragment header.
const FRAGMENT_HEADER: usize = 8;

/// Whose fragments belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    /// IPv4 only.
    protocol: u8,
    ident: u32,
    /// Where link-local addresses mean something.
    link: Option<IfIndex>,
}

/// A datagram.
#[derive(Debug)]
struct Partial {
    id: u64,
    arrival: Arrival,
    /// The first fragment's header: IPv4's, or IPv6's unfragmentable part.
    header: Option<Vec<u8>>,
    /// IPv6: what follows the fragment header.
    next: u8,
    data: Vec<u8>,
    /// Sorted, apart.
    runs: Vec<(usize, usize)>,
    /// Where the last fragment ends.
    end: Option<usize>,
    /// ECN fields seen, a bit each.
    ecn: u8,
    cost: usize,
}

/// A fragment.
struct Piece<'a> {
    header: &'a [u8],
    next: u8,
    offset: usize,
    more: bool,
    ecn: u8,
    data: &'a [u8],
}

/// What a fragment did.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// More are missing.
    Waiting,
    /// All are there.
    Whole,
    /// The datagram cannot be any more.
    Spoilt,
}

/// All datagrams.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    partials: BTreeMap<Key, Partial>,
    /// By age.
    order: BTreeMap<u64, Key>,
    bytes: usize,
    last: u64,
}

impl Partial {
    fn new(id: u64, arrival: Arrival) -> Self {
        Self {
            id,
            arrival,
            header: None,
            next: 0,
            data: Vec::new(),
            runs: Vec::new(),
            end: None,
            ecn: 0,
            cost: OVERHEAD,
        }
    }

    fn add(&mut self, piece: &Piece<'_>) -> Outcome {
        let (start, end) = (piece.offset, piece.offset + piece.data.len());
        let beyond = self.end.is_some_and(|have| if piece.more { end > have } else { end != have });
        let last = self.runs.last().map_or(0, |run| run.1);
        if beyond || (!piece.more && last > end) || piece.data.is_empty() {
            return Outcome::Spoilt;
        }
        // The first run that does not end before this piece starts.
        let place = self.runs.partition_point(|run| run.1 <= start);
        match self.runs.get(place) {
            Some(&(from, to)) if from <= start && end <= to => return Outcome::Waiting,
            Some(&(from, _)) if from < end => return Outcome::Spoilt,
            _ => {}
        }
        if !piece.more {
            self.end = Some(end);
        }
        if start == 0 {
            self.header = Some(piece.header.to_vec());
            self.next = piece.next;
        }
        self.ecn |= 1 << piece.ecn;
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[start..end].copy_from_slice(piece.data);
        self.insert(place, (start, end));
        self.cost = OVERHEAD + self.data.capacity() + self.header.as_ref().map_or(0, Vec::len);
        if self.runs.len() > MAX_RUNS {
            return Outcome::Spoilt;
        }
        let whole = self.header.is_some() && self.end.is_some_and(|end| self.runs == [(0, end)]);
        if whole { Outcome::Whole } else { Outcome::Waiting }
    }

    fn insert(&mut self, place: usize, (start, end): (usize, usize)) {
        let joins_last = place > 0 && self.runs[place - 1].1 == start;
        let joins_next = self.runs.get(place).is_some_and(|run| run.0 == end);
        match (joins_last, joins_next) {
            (true, true) => {
                self.runs[place - 1].1 = self.runs[place].1;
                self.runs.remove(place);
            }
            (true, false) => self.runs[place - 1].1 = end,
            (false, true) => self.runs[place].0 = start,
            (false, false) => self.runs.insert(place, (start, end)),
        }
    }

    /// The ECN field of the whole (ip_frag_ecn_table; RFC 3168 clause 5.3): congestion of one is congestion of
    /// all. `None`: fragments that contradict each other.
    fn ecn(&self) -> Option<u8> {
        const NOT_CAPABLE: u8 = 1;
        const CONGESTED: u8 = 8;
        match self.ecn {
            NOT_CAPABLE => Some(0),
            seen if seen & NOT_CAPABLE != 0 => None,
            seen if seen & CONGESTED != 0 => Some(3),
            _ => Some(0),
        }
    }
}

impl Reassembly {
    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.partials.remove(key)?;
        self.order.remove(&partial.id);
        self.bytes -= partial.cost;
        Some(partial)
    }

    /// Bytes in use.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    /// The same, counted again.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        assert_eq!(self.bytes, self.partials.values().map(|partial| partial.cost).sum::<usize>());
        assert_eq!(self.order.len(), self.partials.len());
        self.bytes
    }
}

impl Net {
    /// How many datagrams are there in part, and their bytes.
    pub(in crate::smol) fn parts(&self, v4: bool) -> (usize, usize) {
        let of = self.reassembly.partials.iter().filter(|(key, _)| key.source.is_ipv4() == v4);
        of.fold((0, 0), |(count, bytes), (_, partial)| (count + 1, bytes + partial.cost))
    }

    /// A fragment of an IPv4 datagram: the datagram, if it was the last one missing.
    pub(super) fn reassemble_v4(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header4,
        buffer: &Buffer<'_>,
    ) -> Option<Buffer<'static>> {
        self.mib.ip(true).parts += 1;
        let joined = buffer.pieces().concat();
        let (head, data) = joined.split_at(header.len);
        let end = header.offset + data.len();
        if (header.more_fragments && data.len() % 8 != 0) || end + header.len > MAX_PACKET {
            self.mib.ip(true).parts_failed += 1;
            self.count(arrival.link, |counters| counters.rx_errors += 1);
            return None;
        }
        let key = Key {
            source: IpAddr::V4(header.source),
            destination: IpAddr::V4(header.destination),
            protocol: header.protocol,
            ident: u32::from(header.ident),
            link: None,
        };
        let piece = Piece {
            header: head,
            next: 0,
            offset: header.offset,
            more: header.more_fragments,
            ecn: header.tos & 3,
            data,
        };
        let whole = self.assemble(now, arrival, key, &piece, TIME_V4)?;
        let ecn = whole.ecn()?;
        let mut head = whole.header?;
        let total = head.len() + whole.data.len();
        head[1] |= ecn;
        head[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
        head[6..8].fill(0);
        head[10..12].fill(0);
        let value = !fold(sum(&head));
        head[10..12].copy_from_slice(&value.to_be_bytes());
        Some(Buffer::Split { header: head, payload: whole.data })
    }

    /// A fragment of an IPv6 datagram, its fragment header `at` there: the datagram without that header, and
    /// the type of what follows.
    pub(super) fn reassemble_v6(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        header: &Header6,
        buffer: &Buffer<'_>,
        at: usize,
        named_at: usize,
    ) -> Option<(Buffer<'static>, u8)> {
        self.mib.ip(false).parts += 1;
        let joined = buffer.pieces().concat();
        let fragment = joined.get(at..at + FRAGMENT_HEADER)?;
        let data = &joined[at + FRAGMENT_HEADER..];
        let field = usize::from(u16::from_be_bytes([fragment[2], fragment[3]]));
        let (offset, more) = (field & !7, field & 1 != 0);
        let ident = u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]);
        let next = fragment[0];
        let trouble = if more && data.len() % 8 != 0 {
            Some(Trouble::BadField { at: 4 })
        } else if at - V6_HEADER + offset + data.len() > MAX_PACKET {
            Some(Trouble::BadField { at: at as u32 + 2 })
        } else if offset == 0 && is_cut(next, data) {
            Some(Trouble::CutHeaders)
        } else {
            None
        };
        if let Some(trouble) = trouble {
            let packet = quote(arrival, header, &joined[..at], &joined[at..]);
            self.tell(now, &packet, trouble);
            self.mib.ip(false).parts_failed += 1;
            self.count(arrival.link, |counters| counters.rx_errors += 1);
            return None;
        }
        let mut head = joined[..at].to_vec();
        head[named_at] = next;
        // A fragment that is whole is nobody's business but its own (RFC 6946).
        let (mut head, data, next) = if offset == 0 && !more {
            self.mib.ip(false).wholes += 1;
            (head, data.to_vec(), next)
        } else {
            let link = header.source.is_unicast_link_local().then_some(arrival.link);
            let key = Key {
                source: IpAddr::V6(header.source),
                destination: IpAddr::V6(header.destination),
                protocol: 0,
                ident,
                link,
            };
            let piece = Piece { header: &head, next, offset, more, ecn: header.class & 3, data };
            let whole = self.assemble(now, arrival, key, &piece, TIME_V6)?;
            let ecn = whole.ecn()?;
            let mut head = whole.header?;
            head[1] |= ecn << 4;
            (head, whole.data, whole.next)
        };
        let len = head.len() - V6_HEADER + data.len();
        head[4..6].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
        Some((Buffer::Split { header: head, payload: data }, next))
    }

    fn assemble(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        key: Key,
        piece: &Piece<'_>,
        time: Duration,
    ) -> Option<Partial> {
        let reassembly = &mut self.reassembly;
        if !reassembly.partials.contains_key(&key) {
            reassembly.last += 1;
            let id = reassembly.last;
            reassembly.partials.insert(key, Partial::new(id, *arrival));
            reassembly.order.insert(id, key);
            reassembly.bytes += OVERHEAD;
            self.timers.set(Timer::Reassembly(id), now + time);
        }
        let partial = reassembly.partials.get_mut(&key)?;
        let before = partial.cost;
        let outcome = partial.add(piece);
        reassembly.bytes = reassembly.bytes + partial.cost - before;
        let id = partial.id;
        if outcome == Outcome::Waiting {
            self.make_room_for_fragments(id);
            return None;
        }
        self.timers.clear(Timer::Reassembly(id));
        let partial = self.reassembly.remove(&key)?;
        let ip = self.mib.ip(key.source.is_ipv4());
        if outcome == Outcome::Spoilt {
            ip.parts_failed += 1;
            self.count(arrival.link, |counters| counters.rx_errors += 1);
            return None;
        }
        ip.wholes += 1;
        Some(partial)
    }

    /// The oldest datagrams go, but not this one.
    fn make_room_for_fragments(&mut self, keep: u64) {
        while self.reassembly.bytes > MAX_BYTES {
            let oldest = self.reassembly.order.iter().find(|(id, _)| **id != keep);
            let Some((&id, &key)) = oldest else { return };
            self.timers.clear(Timer::Reassembly(id));
            let _ = self.reassembly.remove(&key);
            self.mib.ip(key.source.is_ipv4()).parts_failed += 1;
        }
    }

    /// A datagram's fragments took too long.
    pub(super) fn reassembly_due(&mut self, now: Instant, id: u64) {
        let Some(key) = self.reassembly.order.get(&id).copied() else { return };
        let Some(partial) = self.reassembly.remove(&key) else { return };
        let ip = self.mib.ip(key.source.is_ipv4());
        ip.parts_late += 1;
        ip.parts_failed += 1;
        self.count(partial.arrival.link, |counters| counters.rx_dropped += 1);
        let Some(header) = &partial.header else { return };
        let first = partial.runs.first().map_or(0, |run| run.1);
        let packet = Packet {
            link: partial.arrival.link,
            source: key.source,
            destination: key.destination,
            protocol: if key.source.is_ipv4() { key.protocol } else { partial.next },
            header: header.into(),
            payload: (&partial.data[..first]).into(),
            ttl: 0,
            tos: 0,
            flow_label: 0,
            gso_size: 0,
            checked: false,
            group_frame: partial.arrival.group_frame,
            mac: partial.arrival.mac,
        };
        self.tell(now, &packet, Trouble::Reassembly);
    }
}

/// Does a first fragment lack part of the headers (RFC 7112; ipv6frag_thdr_truncated)?
fn is_cut(mut next: u8, mut data: &[u8]) -> bool {
    while next == DESTINATION_OPTIONS {
        let Some(len) = data.get(1).map(|len| 8 + usize::from(*len) * 8) else { return true };
        let Some(rest) = data.get(len..) else { return true };
        next = data[0];
        data = rest;
    }
    let least = match next {
        TCP => 20,
        UDP | ICMPV6 => 8,
        _ => 1,
    };
    data.len() < least
}

fn quote<'a>(arrival: &Arrival, header: &Header6, head: &'a [u8], payload: &'a [u8]) -> Packet<'a> {
    Packet {
        link: arrival.link,
        source: IpAddr::V6(header.source),
        destination: IpAddr::V6(header.destination),
        protocol: super::ipv6::FRAGMENT,
        header: head.into(),
        payload: payload.into(),
        ttl: header.hops,
        tos: header.class,
        flow_label: header.flow_label,
        gso_size: 0,
        checked: false,
        group_frame: arrival.group_frame,
        mac: arrival.mac,
    }
}
