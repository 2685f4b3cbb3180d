//! Ethernet frames: addresses, the 802.1Q tag, and the ways a switch changes the tag.
//!
//! # Theory of operation
//! A frame is destination (6), source (6), optionally a tag (TPID 0x8100, then TCI), EtherType, payload; no
//! preamble, no FCS. [`Frame`] is a view whose length was checked once. A frame is never edited in place
//! and never copied: [`TagEdit::apply`] gives the few changed leading bytes and the rest as it lies in
//! memory, for a gathering write. Only the outermost tag is looked at, and only if it is of the kind the port
//! speaks ([`TagKind`]): customer tags (0x8100) on most ports, service tags (0x88A8) towards a provider, none
//! where all that a customer sends is carried as it is. Whatever lies behind that tag is payload, more tags too.
//!
//! Read: IEEE 802.1Q-2018 clauses 9.3 to 9.6.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::vlan::Vid;

/// Bytes before the payload of an untagged frame (IEEE 802.3 clause 3.1.1).
pub const HEADER_LEN: usize = 14;
/// Bytes of a tag (802.1Q clause 9.3).
pub const TAG_LEN: usize = 4;
/// Longest frame: a 65,535-byte IP packet with header and tag, as a super-segment.
pub const MAX_FRAME: usize = 65_535 + HEADER_LEN + TAG_LEN;
/// EtherType of a customer VLAN tag (802.1Q clause 9.5, table 9-1).
pub const TPID: u16 = 0x8100;
/// EtherType of a service VLAN tag (802.1Q clause 9.5, table 9-1; once 802.1ad).
pub const TPID_SERVICE: u16 = 0x88A8;
/// Tags that may lie behind each other for a super-segment to be cut: a service's, a customer's, and one more.
pub const MAX_TAGS: usize = 3;
/// EtherType of IPv4 (RFC 894).
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6 (RFC 2464).
pub const IPV6: u16 = 0x86DD;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xFF; 6]);

    /// Group bit: a multicast or the broadcast address.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// An address a station may send from: individual and not all zero.
    pub fn is_station(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// 01-80-C2-00-00-00 to -0F, which no bridge forwards (802.1Q clause 8.6.3, table 8-1).
    pub fn is_link_local(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xC2, 0, 0] && self.0[5] & 0xF0 == 0
    }

    /// The address as the low 48 bits of a number.
    pub fn bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// The text is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no MAC address; write it as 02:00:00:00:00:01")]
pub struct BadMac(String);

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(part.ok_or_else(bad)?, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(mac)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

/// Tag control information: priority (3 bits), drop eligible (1), VLAN (12) (802.1Q clause 9.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The VLAN number as on the wire: 0 is a mere priority tag, 4095 is reserved.
    pub fn raw_vid(self) -> u16 {
        self.0 & 0x0FFF
    }

    /// The priority bits.
    pub fn priority(self) -> Priority {
        Priority::from_bits((self.0 >> 12) as u8)
    }

    /// From its parts.
    pub fn of(priority: Priority, vid: Vid) -> Self {
        Self(u16::from(priority.bits()) << 12 | vid.number())
    }

    /// The same priority on another VLAN.
    #[must_use]
    pub fn with_vid(self, vid: Vid) -> Self {
        Self(self.0 & 0xF000 | vid.number())
    }
}

/// A frame's priority: priority code point (0 to 7) and whether it may be dropped first (802.1Q clause 6.9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Priority(u8);

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// `pcp` is 0 to 7; higher bits are not looked at.
    pub fn new(pcp: u8, drop_eligible: bool) -> Self {
        Self((pcp & 7) << 1 | u8::from(drop_eligible))
    }

    /// From the four bits of a tag.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 15)
    }

    /// The four bits of a tag.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The priority code point, 0 to 7.
    pub fn pcp(self) -> u8 {
        self.0 >> 1
    }

    /// May it be dropped before others (DEI)?
    pub fn is_drop_eligible(self) -> bool {
        self.0 & 1 != 0
    }
}

/// Whose tag it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagKind {
    /// A customer's (C-TAG, 0x8100).
    Customer,
    /// A provider's (S-TAG, 0x88A8).
    Service,
}

impl TagKind {
    /// Its EtherType.
    pub fn tpid(self) -> u16 {
        match self {
            Self::Customer => TPID,
            Self::Service => TPID_SERVICE,
        }
    }
}

/// A tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Whose.
    pub kind: TagKind,
    /// Priority and VLAN.
    pub tci: Tci,
}

impl From<Tci> for Tag {
    /// A customer's.
    fn from(tci: Tci) -> Self {
        Self { kind: TagKind::Customer, tci }
    }
}

/// A frame whose header, and tag if it has one, are complete.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    bytes: &'a [u8],
    kind: Option<TagKind>,
}

impl<'a> Frame<'a> {
    /// Checks the length; `None` if the header or the customer's tag is cut off.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        Self::with(bytes, Some(TagKind::Customer))
    }

    /// As [`Frame::new`], where only tags of this kind, or none at all, are taken for tags.
    pub fn with(bytes: &'a [u8], kind: Option<TagKind>) -> Option<Self> {
        let ethertype = bytes.get(12..HEADER_LEN)?;
        let kind = kind.filter(|kind| ethertype == kind.tpid().to_be_bytes());
        (kind.is_none() || bytes.len() >= HEADER_LEN + TAG_LEN).then_some(Self { bytes, kind })
    }

    /// Of which kind its tag is, if it has one.
    pub(crate) fn kind(self) -> Option<TagKind> {
        self.kind
    }

    /// A frame that was checked before, and had a tag of this kind.
    pub(crate) fn checked(bytes: &'a [u8], kind: Option<TagKind>) -> Self {
        debug_assert!(bytes.len() >= HEADER_LEN + kind.map_or(0, |_| TAG_LEN));
        Self { bytes, kind }
    }

    /// Other bytes with the same headers; they must hold them.
    pub(crate) fn with_headers(self, bytes: &[u8]) -> Option<Frame<'_>> {
        (bytes.len() >= self.header_len()).then_some(Frame { bytes, kind: self.kind })
    }

    /// Where the frame goes.
    pub fn destination(self) -> Mac {
        self.mac(0)
    }

    /// Where it comes from.
    pub fn source(self) -> Mac {
        self.mac(6)
    }

    /// What its tag tells, if it has one.
    pub fn tag(self) -> Option<Tci> {
        self.kind.map(|_| Tci(self.half(14)))
    }

    /// Its tag, if it has one.
    pub fn whole_tag(self) -> Option<Tag> {
        self.kind.map(|kind| Tag { kind, tci: Tci(self.half(14)) })
    }

    /// Priority and VLAN of a customer's tag that is payload here: of a frame with no tag of its own, as it comes
    /// from a customer whose tags are carried.
    #[inline]
    pub fn inner_tag(self) -> Option<Tci> {
        let is_there =
            self.kind.is_none() && self.half(12) == TPID && self.bytes.len() >= HEADER_LEN + TAG_LEN;
        is_there.then(|| Tci(self.half(14)))
    }

    /// What lies behind all tags, of either kind, and where it begins.
    pub fn innermost(self) -> (u16, usize) {
        let mut at = HEADER_LEN;
        for _ in 0..MAX_TAGS {
            let is_tag = matches!(self.half(at - 2), TPID | TPID_SERVICE);
            if !is_tag || self.bytes.len() < at + TAG_LEN {
                break;
            }
            at += TAG_LEN;
        }
        (self.half(at - 2), at)
    }

    /// Bytes before the payload: 14, or 18 with a tag.
    pub fn header_len(self) -> usize {
        if self.kind.is_some() { HEADER_LEN + TAG_LEN } else { HEADER_LEN }
    }

    /// What the payload is, behind the tag.
    pub fn ethertype(self) -> u16 {
        self.half(self.header_len() - 2)
    }

    /// All bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    fn mac(self, at: usize) -> Mac {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.bytes[at..at + 6]);
        Mac(mac)
    }

    fn half(self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
}

/// What happens to the tag on the way out of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagEdit {
    /// The frame leaves as it came.
    Keep,
    /// A tag goes in.
    Push(Tag),
    /// The tag comes out.
    Pop,
    /// The tag changes.
    Set(Tag),
}

impl TagEdit {
    /// By how many bytes everything behind the addresses moves.
    pub fn shift(self) -> isize {
        match self {
            Self::Keep | Self::Set(_) => 0,
            Self::Push(_) => TAG_LEN as isize,
            Self::Pop => -(TAG_LEN as isize),
        }
    }

    /// The edited frame in two parts: new leading bytes, and the rest as it is. `Pop` and `Set` are for
    /// tagged frames only.
    pub fn apply<'f>(self, frame: Frame<'f>) -> (Head, &'f [u8]) {
        let bytes = frame.bytes;
        let mut head = Head { bytes: [0; 16], len: 0 };
        let tag = match self {
            Self::Keep => return (head, bytes),
            Self::Push(tag) | Self::Set(tag) => Some(tag),
            Self::Pop => None,
        };
        head.bytes[..12].copy_from_slice(&bytes[..12]);
        head.len = 12;
        if let Some(Tag { kind, tci }) = tag {
            head.bytes[12..14].copy_from_slice(&kind.tpid().to_be_bytes());
            head.bytes[14..].copy_from_slice(&tci.0.to_be_bytes());
            head.len = 16;
        }
        let skip = if matches!(self, Self::Push(_)) { 12 } else { 12 + TAG_LEN };
        (head, &bytes[skip..])
    }
}

/// A [`TagEdit`] in one word: a list of enums is written in pieces, which the processor cannot read back at once.
///
/// The TCI is in the low half, above it bit 0 for a service tag, and bits 1 and 2 for what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedEdit(u32);

const SERVICE: u32 = 1 << 16;
const PUSH: u32 = 1 << 17;
const POP: u32 = 2 << 17;
const SET: u32 = 3 << 17;

impl TagEdit {
    /// As one word.
    #[inline]
    pub(crate) fn pack(self) -> PackedEdit {
        let tag = |Tag { kind, tci }: Tag| {
            let service = if kind == TagKind::Service { SERVICE } else { 0 };
            service | u32::from(tci.0)
        };
        PackedEdit(match self {
            Self::Keep => 0,
            Self::Push(new) => PUSH | tag(new),
            Self::Pop => POP,
            Self::Set(new) => SET | tag(new),
        })
    }
}

impl PackedEdit {
    /// What was [packed](TagEdit::pack).
    #[inline]
    pub(crate) fn unpack(self) -> TagEdit {
        let kind = if self.0 & SERVICE == 0 { TagKind::Customer } else { TagKind::Service };
        let tag = Tag { kind, tci: Tci(self.0 as u16) };
        match self.0 & SET {
            PUSH => TagEdit::Push(tag),
            POP => TagEdit::Pop,
            SET => TagEdit::Set(tag),
            _ => TagEdit::Keep,
        }
    }
}

/// The leading bytes of an edited frame; empty if nothing was edited.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; 16],
    len: usize,
}

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_edit_is_what_it_was_after_packing() {
        for kind in [TagKind::Customer, TagKind::Service] {
            for tci in [0, 1, 0x8000, 0xFFFF] {
                let tag = Tag { kind, tci: Tci(tci) };
                for edit in [TagEdit::Keep, TagEdit::Push(tag), TagEdit::Pop, TagEdit::Set(tag)] {
                    assert_eq!(edit.pack().unpack(), edit);
                }
            }
        }
    }

    fn edited(edit: TagEdit, bytes: &[u8]) -> Vec<u8> {
        let (head, rest) = edit.apply(Frame::new(bytes).unwrap());
        [head.as_ref(), rest].concat()
    }

    #[test]
    fn short_frames_are_refused() {
        assert!(Frame::new(&[0; 13]).is_none());
        assert!(Frame::new(&[0; 14]).is_some());
        let mut tagged = [0; 18];
        tagged[12..14].copy_from_slice(&TPID.to_be_bytes());
        assert!(Frame::new(&tagged[..17]).is_none());
        assert_eq!(Frame::new(&tagged).unwrap().tag(), Some(Tci(0)));
    }

    #[test]
    fn addresses_are_told_apart() {
        let mac = |text: &str| text.parse::<Mac>().unwrap();
        assert!(mac("01:80:c2:00:00:0e").is_link_local());
        assert!(!mac("01:80:c2:00:00:10").is_link_local());
        assert!(!mac("ff:ff:ff:ff:ff:ff").is_station());
        assert!(!mac("00:00:00:00:00:00").is_station());
        assert!(mac("02-00-00-00-00-01").is_station());
        for bad in ["", "02:00", "02:00:00:00:00:00:00", "0+:00:00:00:00:00", "2:0:0:0:0:0"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        }

        #[test]
        fn push_then_pop_is_nothing(mut bytes in prop::collection::vec(any::<u8>(), 18..100), tci: u16) {
            bytes[12] = 8;
            let tagged = edited(TagEdit::Push(Tci(tci).into()), &bytes);
            prop_assert_eq!(tagged.len(), bytes.len() + 4);
            prop_assert_eq!(Frame::new(&tagged).unwrap().tag(), Some(Tci(tci)));
            prop_assert_eq!(Frame::new(&tagged).unwrap().ethertype(), Frame::new(&bytes).unwrap().ethertype());
            prop_assert_eq!(edited(TagEdit::Pop, &tagged), bytes.clone());
            let set = edited(TagEdit::Set(Tci(!tci).into()), &tagged);
            prop_assert_eq!(Frame::new(&set).unwrap().tag(), Some(Tci(!tci)));
            prop_assert_eq!(&set[16..], &tagged[16..]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(frame) = Frame::new(&bytes) {
                let _ = (frame.destination(), frame.source(), frame.tag(), frame.ethertype());
            }
        }
    }
}
