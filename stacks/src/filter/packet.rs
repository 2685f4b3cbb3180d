//! What a filter sees of a packet, and how addresses in it are replaced.
//!
//! # Theory of operation
//! [`View::new`] looks at an IP packet in one or two pieces and finds its upper-layer header, past IPv6's extension
//! headers. A [`Tuple`] is what packets of one connection have in common; ICMP's echo has its ident for a port.
//! [`Rewrite::apply`] puts other addresses into a packet and mends the checksums by what changed (RFC 1624), so
//! that a super-segment costs no more than its headers, and a checksum that is partial (virtio-net's
//! NEEDS_CSUM) stays so. In an ICMP error the packet that it quotes is changed the other way round (RFC 5508 clause 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use switch::offload::checksum::{fold, pseudo, sum};

/// IPPROTO_*
pub(super) const ICMP: u8 = 1;
/// IPPROTO_*
pub(super) const TCP: u8 = 6;
/// IPPROTO_*
pub(super) const UDP: u8 = 17;
/// IPPROTO_*
pub(super) const ICMPV6: u8 = 58;
/// IPPROTO_*
pub(super) const UDP_LITE: u8 = 136;
/// Protocols whose headers begin with two ports: SCTP and DCCP besides.
const PORTED: [u8; 5] = [TCP, UDP, UDP_LITE, 132, 33];
/// Bytes of an ICMP header before the packet that an error quotes.
const ICMP_HEADER: usize = 8;
/// Extension headers of a packet, at most, as in the network layer.
const MAX_EXTENSIONS: usize = 8;

/// What packets of one direction of a connection have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IPPROTO_*
    pub protocol: u8,
    /// Sender's port; the ident of an echo.
    pub sport: u16,
    /// Receiver's port; the type of an echo.
    pub dport: u16,
}

impl Tuple {
    /// That of the other direction.
    pub fn inverse(self) -> Self {
        let (sport, dport) = match self.protocol {
            ICMP | ICMPV6 => (self.sport, answer_to(self.protocol, self.dport)),
            _ => (self.dport, self.sport),
        };
        Self { source: self.destination, destination: self.source, sport, dport, ..self }
    }
}

/// Questions of ICMP and ICMPv6 with their answers (RFC 792, RFC 950, RFC 4443).
const QUESTIONS: [(u8, u16, u16); 4] = [(ICMP, 8, 0), (ICMP, 13, 14), (ICMP, 17, 18), (ICMPV6, 128, 129)];

fn answer_to(protocol: u8, kind: u16) -> u16 {
    let pair = QUESTIONS.iter().filter(|(of, ..)| *of == protocol);
    let mut other = pair.filter_map(|(_, a, b)| match kind {
        kind if kind == *a => Some(*b),
        kind if kind == *b => Some(*a),
        _ => None,
    });
    other.next().unwrap_or(kind)
}

/// What ICMP has to do with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// It asks, and may be answered.
    Question,
    /// It answers.
    Answer,
    /// It tells of a packet that did not arrive.
    Error,
    /// It belongs to neighbour discovery or to groups' reports.
    Local,
    /// Anything else.
    Other,
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IPPROTO_* of what is behind IP's headers.
    pub protocol: u8,
    /// From the upper-layer header on; empty in all but first fragments.
    pub upper: &'a [u8],
    /// Bytes of IP's headers.
    pub head: usize,
    /// Bytes of the packet.
    pub len: usize,
}

impl<'a> View<'a> {
    /// A packet in two pieces: IP's headers are whole in the first, and the second is empty or what is behind
    /// them. `None`: it is no IP packet.
    pub fn new(pieces: [&'a [u8]; 2]) -> Option<Self> {
        let first = pieces[0];
        let (source, destination, protocol, head, whole) = match first.first()? >> 4 {
            4 => {
                let fixed = first.first_chunk::<20>()?;
                let ends = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
                let head = usize::from(fixed[0] & 0x0F) * 4;
                let beginning = fixed[6] & 0x1F == 0 && fixed[7] == 0;
                (IpAddr::V4(ends(12)), IpAddr::V4(ends(16)), fixed[9], head, beginning)
            }
            6 => {
                let fixed = first.first_chunk::<40>()?;
                let ends = |at: usize| {
                    let octets: [u8; 16] = fixed[at..at + 16].try_into().expect("16 bytes of 40");
                    IpAddr::V6(Ipv6Addr::from(octets))
                };
                let (protocol, head, beginning) = walk(first, fixed[6])?;
                (ends(8), ends(24), protocol, head, beginning)
            }
            _ => return None,
        };
        let behind = first.get(head..)?;
        let upper = match (whole, behind.is_empty()) {
            (false, _) => &[],
            (true, true) => pieces[1],
            (true, false) => behind,
        };
        Some(Self { source, destination, protocol, upper, head, len: first.len() + pieces[1].len() })
    }

    /// Ports, if the protocol has them and they are there.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let bytes = self.upper.first_chunk::<4>().filter(|_| PORTED.contains(&self.protocol))?;
        Some((u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])))
    }

    /// The type of an ICMP packet.
    pub(super) fn kind(&self) -> Option<u8> {
        self.upper.first().copied().filter(|_| matches!(self.protocol, ICMP | ICMPV6))
    }

    /// What an ICMP packet is.
    pub(super) fn message(&self) -> Message {
        let Some(kind) = self.kind() else { return Message::Other };
        let as_asked = u16::from(kind);
        match (self.protocol, kind) {
            (ICMP, 3 | 4 | 5 | 11 | 12) | (ICMPV6, 1..=4) => Message::Error,
            (ICMPV6, 130..=136 | 143) => Message::Local,
            (of, _) if QUESTIONS.iter().any(|(at, ask, _)| (*at, *ask) == (of, as_asked)) => {
                Message::Question
            }
            (of, _) if QUESTIONS.iter().any(|(at, _, say)| (*at, *say) == (of, as_asked)) => Message::Answer,
            _ => Message::Other,
        }
    }

    /// What it has in common with others of its connection. Of protocols that are not known the addresses count.
    /// `None`: its upper-layer header is cut off.
    pub(super) fn tuple(&self) -> Option<Tuple> {
        let Self { source, destination, protocol, upper, .. } = *self;
        let (sport, dport) = match protocol {
            TCP | UDP | UDP_LITE => self.ports()?,
            ICMP | ICMPV6 => {
                let bytes = upper.first_chunk::<ICMP_HEADER>()?;
                let ident = match self.message() {
                    Message::Question | Message::Answer => u16::from_be_bytes([bytes[4], bytes[5]]),
                    _ => 0,
                };
                (ident, u16::from(bytes[0]))
            }
            _ => (0, 0),
        };
        Some(Tuple { source, destination, protocol, sport, dport })
    }

    /// The packet that an ICMP error quotes.
    pub(super) fn quoted(&self) -> Option<Self> {
        Self::new([self.upper.get(ICMP_HEADER..)?, &[]])
    }
}

/// Past IPv6's extension headers: protocol, where its header begins, and whether it is there at all.
fn walk(packet: &[u8], mut next: u8) -> Option<(u8, usize, bool)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    let mut at = 40;
    let mut whole = true;
    for _ in 0..=MAX_EXTENSIONS {
        let len = match next {
            HOP_BY_HOP | ROUTING | OPTIONS => 8 + usize::from(*packet.get(at + 1)?) * 8,
            FRAGMENT => {
                let offset = packet.get(at + 2..at + 4)?;
                whole &= u16::from_be_bytes([offset[0], offset[1]]) & !7 == 0;
                8
            }
            _ => return Some((next, at, whole)),
        };
        next = *packet.get(at)?;
        at += len;
    }
    None
}

/// Other ends for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// A new sender, with its port or ident.
    pub source: Option<(IpAddr, u16)>,
    /// A new receiver, with its port or ident.
    pub destination: Option<(IpAddr, u16)>,
}

impl Rewrite {
    /// Puts them in. `head` is IP's headers, `upper` what is behind; `partial`: the checksum there is the
    /// pseudo-header's alone.
    pub fn apply(&self, head: &mut [u8], upper: &mut [u8], partial: bool) {
        let Some(view) = View::new([head, upper]) else { return };
        let (protocol, message, addresses) = (view.protocol, view.message(), (view.source, view.destination));
        let error = message == Message::Error;
        let fields = Fields::of(protocol, message, upper);
        for (new, old, at) in
            [(self.source, addresses.0, Ends::Source), (self.destination, addresses.1, Ends::Destination)]
        {
            let Some((address, port)) = new else { continue };
            put_address(head, at, address);
            if let Some(checksum) = fields.checksum.filter(|_| protocol != ICMP) {
                mend(upper, checksum, &octets(old), &octets(address), partial, protocol == UDP);
            }
            let place = if at == Ends::Source { fields.source } else { fields.destination };
            if let Some(place) = place {
                let before = [upper[place], upper[place + 1]];
                upper[place..place + 2].copy_from_slice(&port.to_be_bytes());
                if let Some(checksum) = fields.checksum.filter(|_| !partial) {
                    mend(upper, checksum, &before, &port.to_be_bytes(), false, protocol == UDP);
                }
            }
        }
        if error {
            self.apply_quoted(upper);
            seal(head, upper, protocol);
        }
    }

    /// The quoted packet went the other way.
    fn apply_quoted(&self, upper: &mut [u8]) {
        let Some(quoted) = upper.get_mut(ICMP_HEADER..) else { return };
        let Some(head) = View::new([quoted, &[]]).map(|view| view.head) else { return };
        let (head, upper) = quoted.split_at_mut(head);
        let other = Self { source: self.destination, destination: self.source };
        // An error is not told of an error, so this ends here.
        if View::new([head, upper]).is_some_and(|view| view.message() != Message::Error) {
            other.apply(head, upper, false);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Source,
    Destination,
}

/// Where things are in an upper-layer header, as far as it is there.
#[derive(Debug, Clone, Copy, Default)]
struct Fields {
    source: Option<usize>,
    destination: Option<usize>,
    checksum: Option<usize>,
}

impl Fields {
    fn of(protocol: u8, message: Message, upper: &[u8]) -> Self {
        let there = |at: usize| (upper.len() >= at + 2).then_some(at);
        let ports = |checksum| Self { source: there(0), destination: there(2), checksum: there(checksum) };
        match (protocol, message) {
            (TCP, _) => ports(16),
            // The sender made none (RFC 768).
            (UDP, _) if upper.get(6..8) == Some(&[0, 0]) => Self { checksum: None, ..ports(6) },
            (UDP | UDP_LITE, _) => ports(6),
            (ICMP | ICMPV6, Message::Question) => {
                Self { source: there(4), destination: None, checksum: there(2) }
            }
            (ICMP | ICMPV6, Message::Answer) => {
                Self { source: None, destination: there(4), checksum: there(2) }
            }
            // Summed as a whole when the quoted packet has changed.
            (ICMP | ICMPV6, Message::Error) => Self::default(),
            (ICMPV6, _) => Self { checksum: there(2), ..Self::default() },
            _ => Self::default(),
        }
    }
}

fn octets(address: IpAddr) -> Octets {
    match address {
        IpAddr::V4(address) => Octets::new(&address.octets()),
        IpAddr::V6(address) => Octets::new(&address.octets()),
    }
}

/// Up to 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Octets([u8; 16], usize);

impl Octets {
    fn new(bytes: &[u8]) -> Self {
        let mut all = [0; 16];
        all[..bytes.len()].copy_from_slice(bytes);
        Self(all, bytes.len())
    }
}

impl std::ops::Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

fn put_address(head: &mut [u8], at: Ends, address: IpAddr) {
    let new = octets(address);
    let place = match (address.is_ipv4(), at) {
        (true, Ends::Source) => 12,
        (true, Ends::Destination) => 16,
        (false, Ends::Source) => 8,
        (false, Ends::Destination) => 24,
    };
    let Some(field) = head.get_mut(place..place + new.len()) else { return };
    let old = Octets::new(field);
    field.copy_from_slice(&new);
    if address.is_ipv4() {
        mend(head, 10, &old, &new, false, false);
    }
}

/// The checksum at a place, after `old` became `new` (RFC 1624, equation 3).
fn mend(bytes: &mut [u8], at: usize, old: &[u8], new: &[u8], partial: bool, never_zero: bool) {
    let Some(field) = bytes.get_mut(at..at + 2) else { return };
    let before = u16::from_be_bytes([field[0], field[1]]);
    let before = if partial { before } else { !before };
    // Sums are in native byte order, folded ones in big-endian.
    let word = |value: u16| u64::from(value.to_be());
    let now = fold(word(before) + word(!fold(sum(old))) + sum(new));
    let after = match if partial { now } else { !now } {
        0 if never_zero && !partial => 0xFFFF,
        after => after,
    };
    field.copy_from_slice(&after.to_be_bytes());
}

/// An ICMP checksum from the beginning.
fn seal(head: &[u8], upper: &mut [u8], protocol: u8) {
    if upper.len() < 4 {
        return;
    }
    upper[2..4].fill(0);
    let mut total = sum(upper);
    if protocol == ICMPV6
        && let Some(addresses) = head.get(8..40)
    {
        total += pseudo(addresses, protocol, upper.len());
    }
    let value = !fold(total);
    upper[2..4].copy_from_slice(&value.to_be_bytes());
}
