//! The board: what a stack in a library shows of its sockets to the programs that have them.
//!
//! # Theory of operation
//! A program's descriptor is an AF_UNIX socket, and asking its stack for anything costs a trapped call. So the
//! stack's host keeps a *board*, a sealed memfd that programs map and cannot write: one [`Record`] per socket, with
//! its addresses and whether they can be believed. Which record is a descriptor's, the kernel tells: the AF_UNIX
//! name of the program's end, or of ours that it is connected to, is a [`Name`], and as long as the record is
//! shown that name is taken by that socket and no other. Whoever finds no name, no record, or one of another
//! socket, asks the stack.
//!
//! Records are sequence locks: the host is their only writer, readers look again (here: give up, and ask the
//! stack) when the number has changed or is odd.
//!
//! | name | of |
//! |---|---|
//! | `vnet-SECRET` | where programs without a supervisor ask |
//! | `vnet-SECRET-TOKEN.RECORD` | a program's end, or ours of an accepted stream |
//! | the same with `+N` | our end of a linked socket with message boundaries |
//! | the same with `+N@ADDRESS` | our end that gives what came from ADDRESS |
//! | the same with `<` | our end that takes [`HEADER`] and a datagram, and sends it there |

pub mod options;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Records of a board: sockets beyond that have none and are asked about. In memory each is 256 bytes once used.
pub const RECORDS: usize = 1 << 14;
/// Words of a record.
pub const WORDS: usize = 64;
/// Bytes of a board.
pub const LENGTH: usize = RECORDS * WORDS * 4;
/// What begins every name.
pub const PREFIX: &[u8] = b"vnet-";
/// Digits of the secret that names of one host have in common.
pub const SECRET: usize = 24;
/// Longest address: struct sockaddr_in6.
pub const ADDRESS: usize = 28;
/// Bytes in front of a datagram that is to be sent: the length of its address, and the address, padded.
pub const HEADER: usize = 32;
/// Destinations that a record remembers.
pub const DESTINATIONS: usize = 8;

const SEQUENCE: usize = 0;
const TOKEN: usize = 1;
const FLAGS: usize = 2;
const KIND: usize = 3;
const LOCAL: usize = 4;
const PEER: usize = 12;
/// Words of an address: its length, and the bytes.
const ADDRESS_WORDS: usize = 8;
const ALLOWED: usize = 24;
/// Which options hold, and which flags of them are on, 32 a word; the values of the others.
const HELD: usize = ALLOWED + 2 * DESTINATIONS;
const ON: usize = HELD + options::COUNT.div_ceil(32);
const NUMBERS: usize = ON + options::FLAGS.div_ceil(32);
const _: () = assert!(NUMBERS + options::COUNT - options::FLAGS <= WORDS);

/// The socket listens; what it accepts has inherited its AF_UNIX name.
pub const LISTENS: u32 = 1;
/// It has a peer.
pub const CONNECTED: u32 = 2;
/// It takes datagrams by the name that ends in `<`.
pub const TAKES: u32 = 4;
/// It has an error to tell: everything is asked of the stack.
pub const TROUBLED: u32 = 8;
/// Addresses with what was received come in the names of our ends.
pub const LOOSE: u32 = 16;
/// Ancillary data with what is received were asked for.
pub const DESCRIBES: u32 = 32;

/// An address: `struct sockaddr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Address {
    length: usize,
    bytes: [u8; ADDRESS],
}

impl Address {
    /// From its bytes; `None` if they are more than an internet address has.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut address = Self { length: bytes.len(), ..Self::default() };
        address.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(address)
    }

    /// An internet address in front of whatever a program passes behind it.
    pub fn internet(bytes: &[u8]) -> Option<Self> {
        match u16::from_ne_bytes(*bytes.first_chunk()?) {
            2 => Self::new(bytes.get(..16)?),
            10 => Self::new(bytes.get(..28)?),
            _ => None,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// What stands for it among the destinations of a record: FNV-1a over what tells destinations apart.
    pub fn hash(&self) -> u64 {
        let ipv4 = self.bytes.first_chunk() == Some(&2_u16.to_ne_bytes());
        let told = self.bytes().iter().take(if ipv4 { 8 } else { ADDRESS });
        // 0 stands for none.
        told.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }) | 1
    }

    /// What comes in front of a datagram that is to be sent there.
    pub fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let (length, bytes) = header.split_at_mut(HEADER - ADDRESS);
        length.copy_from_slice(&(self.length as u32).to_ne_bytes());
        bytes.copy_from_slice(&self.bytes);
        header
    }

    /// Takes the header off a datagram.
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (header, data) = datagram.split_at_checked(HEADER)?;
        let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
        Some((Self::new(header.get(4..)?.get(..length)?)?, data))
    }

    /// As the end of a [`Name`]: the family's letter, then address, port and scope in hexadecimal digits.
    fn told(&self) -> Option<String> {
        let family = u16::from_ne_bytes(*self.bytes.first_chunk()?);
        let (letter, parts) = match (family, self.length) {
            (2, 16) => ('4', &self.bytes[2..8]),
            // No flow label has ever been received with one (IPV6_FLOWINFO_SEND is rare).
            (10, 28) => ('6', &self.bytes[2..28]),
            _ => return None,
        };
        let mut told = String::with_capacity(64);
        told.push(letter);
        // Of IPv6 the flow label, if there is none, is left out: a name has 107 bytes.
        let skipped = if letter == '6' && parts[2..6] == [0; 4] { 2..6 } else { 0..0 };
        let scope = if letter == '6' && parts[22..] == [0; 4] { 22..26 } else { 0..0 };
        for (at, byte) in parts.iter().enumerate() {
            if !skipped.contains(&at) && !scope.contains(&at) {
                let _ = write!(told, "{byte:02x}");
            }
        }
        (!(letter == '6' && skipped.is_empty())).then_some(told)
    }

    fn untold(told: &[u8]) -> Option<Self> {
        let (letter, digits) = told.split_first()?;
        let mut bytes = [0; ADDRESS];
        let mut place = |at: usize, digits: &[u8]| -> Option<()> {
            for (to, pair) in bytes.get_mut(at..)?.iter_mut().zip(digits.chunks_exact(2)) {
                *to = digit(pair[0])? << 4 | digit(pair[1])?;
            }
            Some(())
        };
        let length = match (letter, digits.len()) {
            (b'4', 12) => {
                place(2, digits)?;
                16
            }
            (b'6', 36 | 44) => {
                place(2, digits.get(..4)?)?;
                place(8, digits.get(4..)?)?;
                28
            }
            _ => return None,
        };
        let family: u16 = if length == 16 { 2 } else { 10 };
        bytes.first_chunk_mut::<2>()?.copy_from_slice(&family.to_ne_bytes());
        Some(Self { length, bytes })
    }
}

fn digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A number in hexadecimal digits and what is behind it.
fn number(digits: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    let mut length = 0;
    while let Some(next) = digits.get(length).copied().and_then(digit).filter(|_| length < 16) {
        value = value << 4 | u64::from(next);
        length += 1;
    }
    Some((value, digits.get(length..)?)).filter(|_| length > 0)
}

/// An AF_UNIX name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The host's.
    pub secret: &'a [u8],
    /// The socket's.
    pub token: u64,
    /// Its record.
    pub record: usize,
    /// What is behind that.
    rest: &'a [u8],
}

impl<'a> Name<'a> {
    /// Reads a name: of an abstract one what is behind the NUL, of a path what is behind `/.`.
    pub fn parse(name: &'a [u8]) -> Option<Self> {
        let (secret, rest) = name.strip_prefix(PREFIX)?.split_at_checked(SECRET)?;
        let (token, rest) = number(rest.strip_prefix(b"-")?)?;
        let (record, rest) = number(rest.strip_prefix(b".")?)?;
        Some(Self { secret, token, record: usize::try_from(record).ok()?, rest })
    }

    /// Whether it is the socket's own, without more.
    pub fn is_plain(&self) -> bool {
        self.rest.is_empty()
    }

    /// Who sent what came from there.
    pub fn origin(&self) -> Option<Address> {
        let at = self.rest.iter().position(|byte| *byte == b'@')?;
        Address::untold(self.rest.get(at + 1..)?)
    }

    /// Which of our ends it is.
    pub fn number(&self) -> Option<u64> {
        number(self.rest.strip_prefix(b"+")?).map(|(number, _)| number)
    }
}

/// Names one of our ends that gives what came from `origin`.
pub fn sender(name: &[u8], number: u64, origin: Option<&[u8]>) -> Vec<u8> {
    let mut sender = [name, format!("+{number:x}").as_bytes()].concat();
    if let Some(told) = origin.and_then(Address::new).and_then(|origin| origin.told()) {
        sender.push(b'@');
        sender.extend_from_slice(told.as_bytes());
    }
    sender
}

/// What is shown of a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// [`LISTENS`], [`CONNECTED`], …
    pub flags: u32,
    /// AF_*
    pub domain: u8,
    /// SOCK_*
    pub kind: u8,
    /// IPPROTO_*
    pub protocol: u16,
    /// getsockname(2)
    pub local: Address,
    /// getpeername(2)
    pub peer: Address,
}

/// What is asked of a record beside what it shows.
#[derive(Debug, Clone, Copy)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// 1 if the socket has sent to the destination with that [`Address::hash`].
    Destination(u64),
    /// An option's value.
    Option(options::Shown),
}

/// The place of one socket on a board.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a>(&'a [AtomicU32; WORDS]);

impl<'a> Record<'a> {
    /// The one with this number.
    pub fn of(board: &'a [AtomicU32], number: usize) -> Option<Self> {
        let words = board.get(number.checked_mul(WORDS)?..)?.first_chunk()?;
        Some(Self(words))
    }

    fn word(&self, at: usize) -> u32 {
        self.0[at].load(Ordering::Relaxed)
    }

    fn set(&self, at: usize, value: u32) {
        self.0[at].store(value, Ordering::Relaxed);
    }

    /// What it shows of the socket of that token, and of what is wanted beside that; `None` if it shows nothing of it
    /// now.
    pub fn read(&self, token: u64, wanted: Wanted) -> Option<(Shown, Option<i32>)> {
        let before = self.0[SEQUENCE].load(Ordering::Acquire);
        if before & 1 != 0 || self.word(TOKEN) != token as u32 || token == 0 {
            return None;
        }
        let kind = self.word(KIND);
        let shown = Shown {
            flags: self.word(FLAGS),
            domain: kind as u8,
            kind: (kind >> 8) as u8,
            protocol: (kind >> 16) as u16,
            local: self.address(LOCAL),
            peer: self.address(PEER),
        };
        let beside = match wanted {
            Wanted::Nothing => None,
            Wanted::Destination(hash) => self.allows(hash).then_some(1),
            Wanted::Option(option) => self.option(option),
        };
        fence(Ordering::Acquire);
        (self.word(SEQUENCE) == before).then_some((shown, beside))
    }

    fn option(&self, option: options::Shown) -> Option<i32> {
        let bit = |at: usize, number: usize| self.word(at + number / 32) >> (number % 32) & 1;
        (bit(HELD, option.number()) != 0).then(|| match option.is_flag() {
            true => bit(ON, option.place()) as i32,
            false => self.word(NUMBERS + option.place()) as i32,
        })
    }

    fn address(&self, at: usize) -> Address {
        let mut address = Address { length: self.word(at) as usize, ..Address::default() };
        for (word, bytes) in (at + 1..at + ADDRESS_WORDS).zip(address.bytes.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&self.word(word).to_ne_bytes());
        }
        address
    }

    fn allows(&self, wanted: u64) -> bool {
        let halves = (wanted as u32, (wanted >> 32) as u32);
        (ALLOWED..ALLOWED + 2 * DESTINATIONS)
            .step_by(2)
            .any(|at| (self.word(at), self.word(at + 1)) == halves)
    }

    fn change(&self, change: impl FnOnce()) {
        let sequence = self.word(SEQUENCE) | 1;
        self.set(SEQUENCE, sequence);
        fence(Ordering::Release);
        change();
        self.0[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Release);
    }

    /// Shows that of the socket of this token; its destinations are forgotten.
    pub fn show(&self, token: u64, shown: &Shown, options: &options::Values) {
        self.change(|| {
            self.set(TOKEN, token as u32);
            self.set(FLAGS, shown.flags);
            let kind = u32::from(shown.kind) << 8 | u32::from(shown.protocol) << 16;
            self.set(KIND, u32::from(shown.domain) | kind);
            for (at, address) in [(LOCAL, &shown.local), (PEER, &shown.peer)] {
                self.set(at, address.length as u32);
                for (word, bytes) in (at + 1..).zip(address.bytes.chunks_exact(4)) {
                    self.set(word, u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                }
            }
            self.forget_destinations();
            let mut bits = [0; NUMBERS - HELD];
            for (option, value) in options::Shown::all().zip(options) {
                let Some(value) = *value else { continue };
                bits[option.number() / 32] |= 1 << (option.number() % 32);
                let place = option.place();
                match option.is_flag() {
                    true => bits[ON - HELD + place / 32] |= u32::from(value != 0) << (place % 32),
                    false => self.set(NUMBERS + place, value as u32),
                }
            }
            bits.iter().enumerate().for_each(|(at, word)| self.set(HELD + at, *word));
        });
    }

    fn forget_destinations(&self) {
        (ALLOWED..ALLOWED + 2 * DESTINATIONS).for_each(|at| self.set(at, 0));
    }

    /// Shows nothing any more.
    pub fn clear(&self) {
        self.change(|| self.set(TOKEN, 0));
    }

    /// Remembers a destination, in place of the one at `turn`.
    pub fn allow(&self, turn: usize, destination: u64) {
        if !self.allows(destination) {
            let at = ALLOWED + 2 * (turn % DESTINATIONS);
            self.change(|| {
                self.set(at, destination as u32);
                self.set(at + 1, (destination >> 32) as u32);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4() -> Vec<u8> {
        [&2_u16.to_ne_bytes()[..], &[0x1f, 0x90, 10, 0, 0, 1], &[0; 8]].concat()
    }

    fn v6(scope: u8) -> Vec<u8> {
        let mut address = [&10_u16.to_ne_bytes()[..], &[0, 53, 0, 0, 0, 0], &[0xfe; 16], &[0; 4]].concat();
        address[24] = scope;
        address
    }

    #[test]
    fn names_say_whose_they_are_and_who_sent() {
        let plain = b"vnet-0123456789abcdef01234567-ffffffff.3fff".to_vec();
        let name = Name::parse(&plain).unwrap();
        assert_eq!((name.token, name.record, name.is_plain()), (0xffff_ffff, 0x3fff, true));
        for address in [v4(), v6(0), v6(7)] {
            let named = sender(&plain, 0xabcd, Some(&address));
            assert!(named.len() <= 107, "{}", named.len());
            let name = Name::parse(&named).unwrap();
            assert_eq!(name.origin().unwrap().bytes(), address);
            assert_eq!(name.number(), Some(0xabcd));
            assert!(!name.is_plain());
        }
        let none = sender(&plain, 1, Some(b"?"));
        assert_eq!(Name::parse(&none).unwrap().origin(), None);
        for wrong in [&b"vnet-"[..], b"vnet-0123456789abcdef01234567-.", b"vnet-0123456789abcdef01234567-1"] {
            assert_eq!(Name::parse(wrong), None);
        }
    }

    #[test]
    fn a_record_is_believed_for_its_socket_only() {
        let board: Vec<AtomicU32> = (0..2 * WORDS).map(|_| AtomicU32::new(0)).collect();
        let record = Record::of(&board, 1).unwrap();
        assert!(Record::of(&board, 2).is_none());
        assert_eq!(record.read(0, Wanted::Nothing), None);
        let local = Address::new(&v4()).unwrap();
        let shown =
            Shown { flags: CONNECTED, domain: 2, kind: 1, protocol: 6, local, peer: Address::default() };
        let [keep_alive, mark, tos] =
            [(1, 9), (1, 36), (0, 1)].map(|(l, n)| options::Shown::of(l, n).unwrap());
        let mut values = [None; options::COUNT];
        for (option, value) in [(keep_alive, 1), (mark, -1), (tos, 0)] {
            values[option.number()] = Some(value);
        }
        record.show(5, &shown, &values);
        let (to, option) = (Wanted::Destination(local.hash()), Wanted::Option);
        assert_eq!(record.read(5, to), Some((shown, None)));
        record.allow(0, local.hash());
        assert_eq!(record.read(5, to), Some((shown, Some(1))));
        for (number, value) in values.iter().enumerate() {
            let shown_as = record.read(5, option(options::Shown::at(number).unwrap()));
            assert_eq!(shown_as, Some((shown, *value)), "{number}");
        }
        assert_eq!(record.read(6, Wanted::Nothing), None);
        record.clear();
        assert_eq!(record.read(5, Wanted::Nothing), None);
    }

    #[test]
    fn a_datagram_carries_its_destination() {
        let to = Address::new(&v6(3)).unwrap();
        let datagram = [&to.header()[..], b"data"].concat();
        assert_eq!(Address::split(&datagram), Some((to, &b"data"[..])));
        assert_eq!(Address::split(&datagram[..HEADER - 1]), None);
        assert_eq!(Address::split(&[0xff; HEADER]), None);
    }
}
