//! nf_tables' messages (linux/netfilter/nf_tables.h, nfnetlink.h): written and read, no I/O.
//!
//! # Theory of operation
//! A change is a [`Batch`], which the kernel does whole or not at all. An [`Attributes`] is a run of netlink
//! attributes, some of which hold others. Numbers are big-endian, as all of nfnetlink's; what goes into a register
//! is as the packet or the kernel has it.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NlaBuffer};
use nix::errno::Errno;

/// NFPROTO_INET: rules for both families.
pub(super) const INET: u8 = 1;
/// NFNL_SUBSYS_NFTABLES
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Bytes of a netlink header and nfnetlink's behind it.
pub(super) const HEADERS: usize = 20;
const NESTED: u16 = 0x8000;

/// NFT_MSG_*
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    NewTable = 0,
    DelTable = 2,
    NewChain = 3,
    NewRule = 6,
    GetRule = 7,
    DelRule = 8,
    NewSet = 9,
    NewSetElem = 12,
}

/// A run of attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One that holds others.
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let len = 4 + value.len();
        self.0.extend((len as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`, with their kinds; what is malformed ends it.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let nla = NlaBuffer::new_checked(bytes).ok()?;
        let (kind, len) = (nla.kind(), usize::from(nla.length()));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(of, _)| *of == kind).map(|(_, value)| value)
}

/// A big-endian number.
pub(super) fn long(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Messages that are one change.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Of the last message.
    pub(super) sequence: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), sequence: 0 };
        batch.message(BATCH_BEGIN, NLM_F_REQUEST, 0, NFTABLES, &[]);
        batch
    }

    pub(super) fn add(&mut self, message: Message, flags: u16, attributes: &Attributes) {
        let kind = NFTABLES << 8 | message as u16;
        self.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, INET, 0, &attributes.0);
    }

    /// To be sent; the answer to `sequence` is the last.
    pub(super) fn finish(mut self) -> Self {
        let last = self.sequence;
        self.message(BATCH_END, NLM_F_REQUEST, 0, NFTABLES, &[]);
        self.sequence = last;
        self
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, payload: &[u8]) {
        self.sequence += 1;
        message(&mut self.bytes, (kind, flags, self.sequence), family, resource, payload);
    }
}

/// One message that is no change.
pub(super) fn question(
    subsystem: u16,
    message_kind: u16,
    flags: u16,
    head: (u8, u16),
    of: &Attributes,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let kind = subsystem << 8 | message_kind;
    message(&mut bytes, (kind, NLM_F_REQUEST | flags, 1), head.0, head.1, &of.0);
    bytes
}

/// That of nf_tables.
pub(super) fn ask(kind: Message, flags: u16, of: &Attributes) -> Vec<u8> {
    question(NFTABLES, kind as u16, flags, (INET, 0), of)
}

fn message(
    bytes: &mut Vec<u8>,
    (kind, flags, sequence): (u16, u16, u32),
    family: u8,
    resource: u16,
    payload: &[u8],
) {
    let len = HEADERS + payload.len();
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the kernel answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// It is done, or why not.
    Result(u32, Result<(), Errno>),
    /// That was all.
    Done,
    /// A message of this kind; attributes.
    Item(u16, &'a [u8]),
}

/// The answers in what was received; what is malformed ends it.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<16>()?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let (len, sequence) = (word(0) as usize, word(8));
        let whole = bytes.get(..len).filter(|whole| whole.len() >= 16)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(match kind {
            ERROR => {
                let code =
                    whole.get(16..20).and_then(<[u8]>::first_chunk).map_or(0, |c| i32::from_ne_bytes(*c));
                Answer::Result(sequence, if code == 0 { Ok(()) } else { Err(Errno::from_raw(-code)) })
            }
            DONE => Answer::Done,
            kind => Answer::Item(kind, whole.get(HEADERS..).unwrap_or_default()),
        })
    })
}
