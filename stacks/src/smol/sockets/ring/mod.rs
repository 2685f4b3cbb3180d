//! The ring of a packet socket: frames in memory that the program has mapped (PACKET_RX_RING, packet(7)).
//!
//! # Theory of operation
//! The ring is memory that the shell made and shares with the program; here it is a [`Memory`]. Each slot, in
//! version 3 each block of frames, has a status word that says whose it is: 0 ours, anything else the program's.
//! We fill what is ours, in order, and write the status last. Nothing else is ever read from the memory, so a program that
//! scribbles over it harms nobody else.
//!
//! A frame for which the next slot is not ours is dropped and counted. In version 3 a block goes to the program when
//! the next frame does not fit, or when its time is up; only a block with frames in it has such a time.
//!
//! The program sleeps in poll(2) on a descriptor that cannot look at the status words, so somebody has to ring a
//! *bell* there when the slot filled last is the program's, and to take it back when that has given the slot back, of
//! which nobody is told: while the bell is out the ring is looked at, often at first and then
//! less ([`LOOK`], [`LOOK_LATE`]).
//!
//! Read: net/packet/af_packet.c (tpacket_rcv, prb_*, packet_poll), Documentation/networking/packet_mmap.rst.

mod layout;
mod socket;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use layout::{BLOCK_HEADER, IN_BLOCK, Place};
pub(crate) use layout::{Layout, Version};

use super::address::{LinkLayer, write_ll};
use crate::smol::tally::Tally;

/// TP_STATUS_*
const USER: u32 = 1;
const LOSING: u32 = 4;
const BLOCK_TIMEOUT: u32 = 0x20;
/// Where a block's status is in its header.
const BLOCK_STATUS: u64 = 8;
/// How long after the bell was rung the ring is looked at first: a program wakes up and takes a frame in that time.
const LOOK: Duration = Duration::from_micros(50);
/// The same for programs that have long done nothing.
const LOOK_LATE: Duration = Duration::from_millis(128);
/// ETH_P_8021Q
const VLAN: u16 = libc::ETH_P_8021Q as u16;

/// The memory of a ring. What does not work leaves nothing behind that the program would take for a frame.
pub(crate) trait Memory: fmt::Debug + Send {
    /// The word at `at`; 1, if it cannot be read.
    fn load(&self, at: u64) -> u32;
    /// Writes bytes, which whoever sees what is written later sees as well. False: they are not there.
    fn store(&self, at: u64, bytes: &[u8]) -> bool;
}

/// A frame for the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// As much of it as the program wants.
    pub(crate) data: &'a [u8],
    /// How long it was.
    pub(crate) length: u32,
    /// Bytes of its link header, if that is shown.
    pub(crate) link: Option<u32>,
    /// TP_STATUS_*
    pub(crate) status: u32,
    pub(crate) tag: Option<u16>,
    pub(crate) from: LinkLayer,
    /// CLOCK_REALTIME
    pub(crate) at: Duration,
}

/// What is to be done with the bell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bell {
    /// To be rung.
    Ring,
    /// To be taken back.
    Hush,
}

/// A ring.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Box<dyn Memory>,
    layout: Layout,
    /// The slot or block to be filled.
    head: u32,
    block: Block,
    /// Version 3: how often no block was ours.
    pub(crate) freezes: u32,
    /// Something went to the program since the bell was rung last.
    news: bool,
    /// While the bell is out: when to look, and how long that was put off.
    look: Option<(Instant, Duration)>,
    /// Where a frame is put together.
    buffer: Vec<u8>,
    tally: Tally,
}

/// The block that is being filled, version 3.
#[derive(Debug, Default)]
struct Block {
    /// The program has not given it back yet.
    frozen: bool,
    number: u64,
    opened: Duration,
    /// Where the next frame goes, the last one is and when that came.
    next: u32,
    last: u32,
    last_at: Duration,
    frames: u32,
    /// When it goes to the program, if there are frames in it.
    retire: Option<Instant>,
}

impl Ring {
    /// A ring in memory that is all zero. It counts as memory of `tally`.
    pub(crate) fn new(layout: Layout, memory: Box<dyn Memory>, wall: Duration, tally: &Tally) -> Self {
        tally.add(usize::try_from(layout.size()).unwrap_or(usize::MAX));
        let mut ring = Self {
            memory,
            layout,
            head: 0,
            block: Block::default(),
            freezes: 0,
            news: false,
            look: None,
            buffer: Vec::new(),
            tally: tally.clone(),
        };
        ring.open(wall);
        ring
    }

    /// Bytes of it.
    pub(crate) fn size(&self) -> u64 {
        self.layout.size()
    }

    /// Puts a frame in. `losing`: some were dropped and the program was not told. False: there is no room.
    pub(crate) fn put(&mut self, now: Instant, frame: &Frame<'_>, losing: bool) -> bool {
        let Some(place) = self.layout.place(frame.link, frame.data.len()) else { return false };
        match self.layout.version {
            Version::V3 => self.put_in_block(now, frame, place, losing),
            _ => self.put_in_slot(frame, place, losing),
        }
    }

    fn put_in_slot(&mut self, frame: &Frame<'_>, place: Place, losing: bool) -> bool {
        let slot = self.layout.slot(self.head);
        if self.memory.load(slot) != 0 {
            return false;
        }
        let tag = frame.tag.unwrap_or(0).to_ne_bytes();
        let of_tag = if frame.tag.is_some() { VLAN } else { 0 }.to_ne_bytes();
        let status = frame.status | if losing { LOSING } else { 0 };
        self.begin(place, frame);
        let header = &mut self.buffer;
        // struct tpacket_hdr has a long for the status, and microseconds.
        let (at, fraction) = match self.layout.version {
            Version::V1 => (8, frame.at.subsec_micros()),
            _ => (4, frame.at.subsec_nanos()),
        };
        put(header, at, &frame.length.to_ne_bytes());
        put(header, at + 4, &place.length.to_ne_bytes());
        put(header, at + 8, &(place.mac as u16).to_ne_bytes());
        put(header, at + 10, &(place.network as u16).to_ne_bytes());
        put(header, at + 12, &(frame.at.as_secs() as u32).to_ne_bytes());
        put(header, at + 16, &fraction.to_ne_bytes());
        if self.layout.version == Version::V2 {
            put(header, 24, &tag);
            put(header, 26, &of_tag);
        }
        if !self.memory.store(slot + 4, &self.buffer[4..]) || !self.memory.store(slot, &status.to_ne_bytes())
        {
            return false;
        }
        self.head = (self.head + 1) % self.layout.frames;
        self.news = true;
        true
    }

    fn put_in_block(&mut self, now: Instant, frame: &Frame<'_>, place: Place, losing: bool) -> bool {
        let length = (place.mac + place.length).next_multiple_of(IN_BLOCK);
        if self.block.frozen {
            if self.is_the_programs(self.head) {
                return false;
            }
            self.open(frame.at);
        }
        if self.block.next + length >= self.layout.block_size {
            self.close(frame.at, if losing { LOSING } else { 0 });
            if self.block.frozen {
                return false;
            }
        }
        self.begin(place, frame);
        let header = &mut self.buffer;
        put(header, 0, &length.to_ne_bytes());
        put(header, 4, &(frame.at.as_secs() as u32).to_ne_bytes());
        put(header, 8, &frame.at.subsec_nanos().to_ne_bytes());
        put(header, 12, &place.length.to_ne_bytes());
        put(header, 16, &frame.length.to_ne_bytes());
        put(header, 20, &frame.status.to_ne_bytes());
        put(header, 24, &(place.mac as u16).to_ne_bytes());
        put(header, 26, &(place.network as u16).to_ne_bytes());
        if let Some(tag) = frame.tag {
            put(header, 32, &u32::from(tag).to_ne_bytes());
            put(header, 36, &VLAN.to_ne_bytes());
        }
        let at = self.layout.block(self.head) + u64::from(self.block.next);
        if !self.memory.store(at, &self.buffer) {
            return false;
        }
        let block = &mut self.block;
        (block.last, block.last_at) = (block.next, frame.at);
        block.next += length;
        block.frames += 1;
        block.retire.get_or_insert(now + self.layout.retire);
        true
    }

    /// Makes the buffer a frame that lacks its header but for the address.
    fn begin(&mut self, place: Place, frame: &Frame<'_>) {
        let header = self.layout.version.header() as usize;
        let (start, length) = (place.mac as usize, place.length as usize);
        self.buffer.clear();
        self.buffer.resize(header, 0);
        write_ll(&frame.from, &mut self.buffer);
        if length > 0 {
            self.buffer.resize(start, 0);
            self.buffer.extend_from_slice(&frame.data[..length]);
        }
    }

    /// Whether a slot or block is the program's.
    fn is_the_programs(&self, number: u32) -> bool {
        let at = match self.layout.version {
            Version::V3 => self.layout.block(number) + BLOCK_STATUS,
            _ => self.layout.slot(number),
        };
        self.memory.load(at) != 0
    }

    /// Whether the program has something to read: poll(2).
    pub(crate) fn is_readable(&self) -> bool {
        let count = if self.layout.version == Version::V3 { self.layout.blocks } else { self.layout.frames };
        self.is_the_programs((self.head + count - 1) % count)
    }

    /// Begins to fill the next block, prb_open_block.
    fn open(&mut self, wall: Duration) {
        let first = self.layout.first();
        let number = self.block.number + 1;
        self.block = Block { number, opened: wall, next: first, last: first, ..Block::default() };
    }

    /// Gives the block to the program, prb_close_block, and begins the next.
    fn close(&mut self, wall: Duration, status: u32) {
        let at = self.layout.block(self.head);
        let block = &self.block;
        let last_at = if block.frames > 0 {
            // It is the last: there is none behind it.
            self.memory.store(at + u64::from(block.last), &[0; 4]);
            block.last_at
        } else {
            wall
        };
        let mut header = [0; BLOCK_HEADER as usize];
        put(&mut header, 0, &2u32.to_ne_bytes());
        put(&mut header, 4, &BLOCK_HEADER.to_ne_bytes());
        put(&mut header, 12, &block.frames.to_ne_bytes());
        put(&mut header, 16, &self.layout.first().to_ne_bytes());
        put(&mut header, 20, &block.next.to_ne_bytes());
        put(&mut header, 24, &block.number.to_ne_bytes());
        for (at, time) in [(32, block.opened), (40, last_at)] {
            put(&mut header, at, &(time.as_secs() as u32).to_ne_bytes());
            put(&mut header, at + 4, &time.subsec_nanos().to_ne_bytes());
        }
        let split = BLOCK_STATUS as usize;
        self.memory.store(at, &header[..split]);
        self.memory.store(at + BLOCK_STATUS + 4, &header[split + 4..]);
        self.memory.store(at + BLOCK_STATUS, &(USER | status).to_ne_bytes());
        self.news = true;
        self.head = (self.head + 1) % self.layout.blocks;
        self.block.retire = None;
        if self.is_the_programs(self.head) {
            self.freezes += 1;
            self.block.frozen = true;
        } else {
            self.open(wall);
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, wall: Duration, losing: bool) {
        if self.block.retire.is_some_and(|at| at <= now) {
            self.close(wall, BLOCK_TIMEOUT | if losing { LOSING } else { 0 });
        }
    }

    /// When to call [`Ring::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.block.retire
    }

    /// When to call [`Ring::poll_bell`], if nothing happens first.
    pub(crate) fn bell_timeout(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    /// What is to be done with the bell.
    pub(crate) fn poll_bell(&mut self, now: Instant) -> Option<Bell> {
        if std::mem::take(&mut self.news) {
            // Who waits for edges has one coming, if the bell is out already.
            self.look = match self.look {
                Some((at, _)) => Some((at.min(now + LOOK), LOOK)),
                None => Some((now + LOOK, LOOK)),
            };
            return Some(Bell::Ring);
        }
        let (at, pause) = self.look?;
        if at > now {
            return None;
        }
        if self.is_readable() {
            let pause = (pause * 2).min(LOOK_LATE);
            self.look = Some((now + pause, pause));
            return None;
        }
        self.look = None;
        Some(Bell::Hush)
    }

    /// The bell could not be taken back now.
    pub(crate) fn keep_bell(&mut self, now: Instant) {
        self.look = Some((now + LOOK_LATE, LOOK_LATE));
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.tally.subtract(usize::try_from(self.layout.size()).unwrap_or(usize::MAX));
    }
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}
