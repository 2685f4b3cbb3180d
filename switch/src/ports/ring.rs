//! Shared-memory rings: a port whose other end is a program, with no kernel in the frames' way.
//!
//! # Theory of operation
//! A *ring port* is a sealed memfd with two rings of frames, one for each direction, each with one producer and
//! one consumer, and two doorbells. Whoever wants the port [`Ring::create`]s it and hands three descriptors to
//! the switch, which [`Ring::attach`]es: the memfd, the doorbell that wakes the switch, the one that wakes the
//! creator.
//!
//! **Memory.** Ring 0 leads from creator to switch, ring 1 back. All words are 64 bits in the machine's order.
//! ```text
//! 0     page of words, each in a cache line of its own; ring R's begin at 64 + R * 256:
//!         +0    head   producer: epoch << 32 | position behind the last whole record
//!         +64   tail   consumer: epoch << 32 | position behind the last record taken
//!         +128  wake   consumer: 1, ring my doorbell when you have put a record
//!         +192  room   producer: 1, ring my doorbell when half of the ring is free
//! 4096  records of ring 0: capacity bytes, a power of two, 128 KiB to 8 MiB
//!       records of ring 1: as many
//! ```
//! The file's length says the capacity; every page begins as zeros. A record is its length in bytes (u32), two
//! bytes of nothing, the 10-byte `virtio_net_hdr` (which the length leaves out) and the frame, padded to a
//! multiple of 64; it may go on at the beginning of the ring. Positions count bytes and wrap at 2³², modulo the
//! capacity they are offsets. A producer that finds its ring empty may begin again at offset 0, in the next
//! epoch: so quiet rings keep to their first pages, and busy ones to the cache. The consumer follows when it
//! sees the new epoch.
//!
//! **Doorbells** are eventfds whose counter is not 0, ever: nobody reads them. They are waited for with
//! EPOLLET and rung by writing 0, which wakes and, unlike writing 1, can never be made to block. Who is about to
//! sleep sets its `wake` and looks once more ([`Ring::arm`]); who has put records looks at `wake` once per batch
//! ([`Ring::flush`]). So an awake peer costs no system call. The fences make it impossible that both miss.
//!
//! **The peer may be hostile.** It can change every byte of the memory at every time. Each word and length is
//! read once, into a copy that is judged and then used; positions of our own side live in our own memory and are
//! only ever written to the ring; a frame is copied out before anybody looks into it. What contradicts the
//! rules [breaks](Broken) the port for good. Seals keep the file from shrinking. Work per call is one record.
//! What remains: looking into holes of the file fills them, at our expense, up to the file's size; where the kernel
//! promises no more memory than it has (vm.overcommit_memory 2) and has none left, that is a SIGBUS.
//!
//! Read: memfd_create(2), eventfd(2), epoll(7); virtio 1.2 clause 2.7.10 (notification suppression).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};

use super::shared::Shared;
use super::{BUFFER_LEN, Sent};
use crate::frame::{MAX_FRAME, TAG_LEN};
use crate::offload::{VNET_HDR_LEN, VnetHdr};
use crate::port::DropReason;

/// Bytes of records per direction: 64 super-segments, more than TCP has under way at once between neighbours.
pub const CAPACITY: u32 = 4 << 20;
/// The least and most that are taken: one record of any length, and a bound on what a stranger makes us map.
const CAPACITIES: std::ops::RangeInclusive<u32> = 128 << 10..=8 << 20;
/// Longest frame in a record, or a captured one with what is told about it: what a receive buffer holds.
const MAX_RECORD: usize = MAX_FRAME + TAG_LEN + crate::capture::HEAD_LEN;
/// Where the first ring's words begin.
const WORDS: usize = 64;
/// From one ring's words to the next's.
const RING_WORDS: usize = 256;
/// From one word to the next: a cache line, so that producer and consumer do not fight for it.
const LINE: usize = 64;
/// Where records begin.
const RECORDS: usize = 4096;
/// Bytes of a record before its frame.
const HEAD: usize = 16;
/// Records begin at its multiples.
const ALIGN: usize = 64;
/// A quiet ring is not begun anew before this many bytes, which are then an idle port's memory: that of a stack
/// to which nobody speaks but the broadcasts of thousands of others.
const REWIND: u32 = 16 << 10;
/// A ring of which more bytes than these were used is worth [trimming](Ring::trim).
const SWOLLEN: u32 = 64 << 10;

/// The peer broke the rules; the port is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring's other end broke the rules")]
pub struct Broken;

impl From<Broken> for io::Error {
    fn from(_: Broken) -> Self {
        io::ErrorKind::InvalidData.into()
    }
}

/// One end of a ring port.
#[derive(Debug)]
pub struct Ring {
    shared: Shared,
    producer: Producer,
    consumer: Consumer,
    /// Wakes us; waited for with EPOLLET, never read.
    bell: OwnedFd,
    /// Wakes the peer.
    peer: OwnedFd,
}

/// The descriptors of the end that is handed over: memory, the doorbell that wakes it, the doorbell that wakes us.
pub type Handover = [OwnedFd; 3];

/// Our side of the ring we put into.
#[derive(Debug)]
struct Producer {
    side: Side,
    epoch: u32,
    position: u32,
    /// Free bytes as far as we know: there may be more.
    free: u32,
    /// Bytes that may be in use.
    limit: u32,
    /// Where records have ended at most since the last trimming: memory that is in use.
    highest: u32,
    /// Something was put since the last [`Ring::flush`].
    unflushed: bool,
}

/// Our side of the ring we take from.
#[derive(Debug)]
struct Consumer {
    side: Side,
    epoch: u32,
    position: u32,
    /// Where the records end, as far as we know.
    head: u32,
    /// `wake` is set.
    armed: bool,
    /// Something was taken since the last [`Ring::flush`].
    unflushed: bool,
}

/// Where a ring lies.
#[derive(Debug, Clone, Copy)]
struct Side {
    words: usize,
    records: usize,
    capacity: u32,
}

impl Ring {
    /// Makes a ring port with `capacity` bytes for each direction: our end, and what the other end needs.
    ///
    /// # Errors
    /// EINVAL when the capacity is no power of two from 128 KiB to 8 MiB; EMFILE and the like.
    pub fn create(capacity: u32) -> io::Result<(Self, Handover)> {
        if !capacity.is_power_of_two() || !CAPACITIES.contains(&capacity) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Linux 6.3; some machines insist on it (vm.memfd_noexec).
        let memory = rustix::fs::memfd_create("ring", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| rustix::fs::memfd_create("ring", flags))?;
        rustix::fs::ftruncate(&memory, file_len(capacity) as u64)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)?;
        let eventfd = || rustix::event::eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (ours, theirs) = (eventfd()?, eventfd()?);
        let shared = Shared::map(memory.as_fd(), file_len(capacity))?;
        let handover = [memory, theirs.try_clone()?, ours.try_clone()?];
        Ok((Self::new(shared, capacity, 0, ours, theirs), handover))
    }

    /// Takes the other end of a ring port that somebody made.
    ///
    /// # Errors
    /// When a descriptor is not what it should be, with the reason in words.
    pub fn attach(ends: Handover) -> io::Result<Self> {
        Self::open(ends, 1)
    }

    /// Takes the end of whoever made a ring port and took no frames yet: memory, the doorbell that wakes us, the one
    /// that wakes the other end. So a program joins two switches.
    ///
    /// # Errors
    /// As [`Ring::attach`].
    pub fn adopt(ends: Handover) -> io::Result<Self> {
        Self::open(ends, 0)
    }

    fn open([memory, bell, peer]: Handover, to: usize) -> io::Result<Self> {
        let capacity = check_memory(memory.as_fd())?;
        check_bell(bell.as_fd())?;
        check_bell(peer.as_fd())?;
        let shared = Shared::map(memory.as_fd(), file_len(capacity))?;
        Ok(Self::new(shared, capacity, to, bell, peer))
    }

    /// The end that puts into ring `to`, 0 or 1, and takes from the other.
    fn new(shared: Shared, capacity: u32, to: usize, bell: OwnedFd, peer: OwnedFd) -> Self {
        let side = |ring: usize| Side {
            words: WORDS + ring * RING_WORDS,
            records: RECORDS + ring * capacity as usize,
            capacity,
        };
        let (epoch, position, free, limit, highest, unflushed) = (0, 0, 0, capacity, 0, false);
        let producer = Producer { side: side(to), epoch, position, free, limit, highest, unflushed };
        let side = side(1 - to);
        let consumer = Consumer { side, epoch: 0, position: 0, head: 0, armed: false, unflushed: false };
        Self { shared, producer, consumer, bell, peer }
    }

    /// Takes one frame into `buffer`, which is [`BUFFER_LEN`] long; `None` when there is none.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<(VnetHdr, &'b [u8])>, Broken> {
        assert!(buffer.len() >= BUFFER_LEN, "the caller's buffer holds any frame");
        let Self { shared, consumer, .. } = self;
        if consumer.is_empty() && !consumer.look(shared)? {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        consumer.side.copy_out(shared, consumer.position, &mut head);
        let [a, b, c, d, _, _, hdr @ ..] = head;
        let len = u32::from_ne_bytes([a, b, c, d]) as usize;
        if len > MAX_RECORD || record_len(len) > consumer.head.wrapping_sub(consumer.position) {
            return Err(Broken);
        }
        let frame = &mut buffer[..len];
        consumer.side.copy_out(shared, consumer.position.wrapping_add(HEAD as u32), frame);
        consumer.position = consumer.position.wrapping_add(record_len(len));
        consumer.unflushed = true;
        let tail = joined(consumer.epoch, consumer.position);
        consumer.side.tail(shared).store(tail, Ordering::Release);
        Ok(Some((VnetHdr::parse(hdr), frame)))
    }

    /// Puts one frame, in pieces; without room it is dropped.
    pub fn send(&mut self, hdr: &VnetHdr, pieces: &[&[u8]]) -> Sent {
        let Self { shared, producer, .. } = self;
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if len > MAX_RECORD {
            return Sent::Dropped(DropReason::Refused);
        }
        let need = record_len(len);
        match producer.make_room(shared, need) {
            Ok(true) => {}
            Ok(false) => return Sent::Dropped(DropReason::Full),
            Err(Broken) => return Sent::Dead,
        }
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(len as u32).to_ne_bytes());
        head[HEAD - VNET_HDR_LEN..].copy_from_slice(&hdr.to_bytes());
        let mut at = producer.position;
        for piece in std::iter::once(&&head[..]).chain(pieces) {
            producer.side.copy_in(shared, at, piece);
            at = at.wrapping_add(piece.len() as u32);
        }
        producer.position = producer.position.wrapping_add(need);
        producer.highest = producer.highest.max(producer.position.min(producer.side.capacity));
        producer.free -= need;
        producer.unflushed = true;
        let head = joined(producer.epoch, producer.position);
        producer.side.head(shared).store(head, Ordering::Release);
        Sent::Bytes(len)
    }

    /// Ends a batch: rings the peer's doorbell if it sleeps and there is something for it to do.
    pub fn flush(&mut self) {
        let Self { shared, producer, consumer, .. } = self;
        if !producer.unflushed && !consumer.unflushed {
            return;
        }
        // Between our stores of positions and the loads of the peer's wishes: see `arm` and `want_room`.
        fence(Ordering::SeqCst);
        let take = |word: usize, wanted: bool| {
            let word = shared.word(word);
            wanted && word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Relaxed) != 0
        };
        let mut ring = take(producer.side.wake(), producer.unflushed);
        producer.unflushed = false;
        if consumer.unflushed {
            let waiting = consumer.head.wrapping_sub(consumer.position);
            ring |= take(consumer.side.room(), waiting <= consumer.side.capacity / 2);
            consumer.unflushed = false;
        }
        if ring {
            self.wake_peer();
        }
    }

    /// Rings the peer's doorbell, whether or not it asked.
    pub fn wake_peer(&self) {
        // It cannot block, and there is nobody to tell if the descriptor has gone bad.
        let _ = rustix::io::write(&self.peer, &0u64.to_ne_bytes());
    }

    /// Asks for the doorbell before a sleep; true if there is a frame and so no sleep.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn arm(&mut self) -> Result<bool, Broken> {
        self.flush();
        let Self { shared, consumer, .. } = self;
        if !consumer.is_empty() {
            return Ok(true);
        }
        shared.word(consumer.side.wake()).store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        consumer.armed = true;
        let found = consumer.look(shared)?;
        if found {
            self.disarm();
        }
        Ok(found)
    }

    /// Awake: no doorbell until [`Ring::arm`].
    pub fn disarm(&mut self) {
        if self.consumer.armed {
            self.consumer.armed = false;
            self.shared.word(self.consumer.side.wake()).store(0, Ordering::Relaxed);
        }
    }

    /// From now on at most `bytes`, or what one record of any length takes, may be waiting in the ring we put into.
    pub fn limit(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.producer.limit = bytes.clamp(*CAPACITIES.start(), self.producer.side.capacity);
    }

    /// Was so much of the ring we put into used that its memory is worth having back?
    pub fn is_swollen(&self) -> bool {
        self.producer.highest > SWOLLEN
    }

    /// Gives back the memory of the ring we put into, if the peer has taken everything; false if it has not. For a time
    /// of quiet, as the pages have to be had again when they are needed.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn trim(&mut self) -> Result<bool, Broken> {
        let Self { shared, producer, .. } = self;
        producer.look(shared)?;
        if producer.free < producer.side.capacity {
            return Ok(false);
        }
        let records = producer.side.records;
        shared.discard(records + REWIND as usize..records + producer.highest as usize);
        producer.highest = 0;
        Ok(true)
    }

    /// Is there room for `bytes` of records? Each takes its frame and at most 79 bytes more.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn has_room(&mut self, bytes: u32) -> Result<bool, Broken> {
        self.producer.make_room(&self.shared, bytes)
    }

    /// As [`Ring::has_room`]; if there is none, the doorbell will ring when half of the ring is free.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn want_room(&mut self, bytes: u32) -> Result<bool, Broken> {
        if self.has_room(bytes)? {
            return Ok(true);
        }
        self.flush();
        let word = self.shared.word(self.producer.side.room());
        word.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.has_room(self.producer.side.capacity / 2)
    }
}

impl AsFd for Ring {
    /// Our doorbell: to be waited for with EPOLLIN and EPOLLET, after [`Ring::arm`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Producer {
    /// Is there room for `need` bytes? Looks at the peer's tail when it must, or to begin anew.
    fn make_room(&mut self, shared: &Shared, need: u32) -> Result<bool, Broken> {
        // A new batch after enough bytes: the peer may have taken everything.
        let may_rewind = !self.unflushed && self.position >= REWIND;
        if self.has_room(need) && !may_rewind {
            return Ok(true);
        }
        self.look(shared)?;
        Ok(self.has_room(need))
    }

    fn has_room(&self, need: u32) -> bool {
        self.free >= need.saturating_add(self.side.capacity - self.limit)
    }

    /// Sees how much is free, and begins anew if everything is.
    fn look(&mut self, shared: &Shared) -> Result<(), Broken> {
        let (epoch, tail) = split(self.side.tail(shared).load(Ordering::Acquire));
        let used = match epoch {
            epoch if epoch == self.epoch => self.position.wrapping_sub(tail),
            // It has not seen yet that we began anew.
            epoch if epoch == self.epoch.wrapping_sub(1) => self.position,
            _ => return Err(Broken),
        };
        if used > self.side.capacity {
            return Err(Broken);
        }
        if used == 0 && self.position >= REWIND && epoch == self.epoch {
            (self.epoch, self.position) = (self.epoch.wrapping_add(1), 0);
        }
        self.free = self.side.capacity - used;
        Ok(())
    }
}

impl Consumer {
    fn is_empty(&self) -> bool {
        self.position == self.head
    }

    /// Looks for new records, all known ones being taken; true if there are any.
    fn look(&mut self, shared: &Shared) -> Result<bool, Broken> {
        let (epoch, head) = split(self.side.head(shared).load(Ordering::Acquire));
        let begins = epoch == self.epoch.wrapping_add(1);
        if !begins && epoch != self.epoch {
            return Err(Broken);
        }
        let position = if begins { 0 } else { self.position };
        let waiting = head.wrapping_sub(position);
        if waiting > self.side.capacity || !waiting.is_multiple_of(ALIGN as u32) {
            return Err(Broken);
        }
        (self.epoch, self.position, self.head) = (epoch, position, head);
        Ok(waiting > 0)
    }
}

impl Side {
    fn head<'s>(&self, shared: &'s Shared) -> &'s AtomicU64 {
        shared.word(self.words)
    }

    fn tail<'s>(&self, shared: &'s Shared) -> &'s AtomicU64 {
        shared.word(self.words + LINE)
    }

    fn wake(&self) -> usize {
        self.words + 2 * LINE
    }

    fn room(&self) -> usize {
        self.words + 3 * LINE
    }

    /// Copies what begins at `position` out, from the ring's beginning on if it ends meanwhile.
    fn copy_out(&self, shared: &Shared, position: u32, to: &mut [u8]) {
        let at = (position & (self.capacity - 1)) as usize;
        let (first, second) = to.split_at_mut(to.len().min(self.capacity as usize - at));
        shared.copy_out(self.records + at, first);
        shared.copy_out(self.records, second);
    }

    fn copy_in(&self, shared: &Shared, position: u32, from: &[u8]) {
        let at = (position & (self.capacity - 1)) as usize;
        let (first, second) = from.split_at(from.len().min(self.capacity as usize - at));
        shared.copy_in(self.records + at, first);
        shared.copy_in(self.records, second);
    }
}

/// Bytes of a record whose frame has `len`; that is at most [`MAX_RECORD`].
fn record_len(len: usize) -> u32 {
    (HEAD + len).next_multiple_of(ALIGN) as u32
}

fn file_len(capacity: u32) -> usize {
    RECORDS + 2 * capacity as usize
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

fn joined(epoch: u32, position: u32) -> u64 {
    u64::from(epoch) << 32 | u64::from(position)
}

/// The capacity of a ring port's memory, if it is one and will stay one.
fn check_memory(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // linux/magic.h; huge pages may run out, and an access would then be a SIGBUS.
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| io::Error::other("the memory is no memfd"))?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(io::Error::other("the memory is not sealed against shrinking and growing"));
    }
    if rustix::fs::fstatfs(fd)?.f_type as u64 != TMPFS_MAGIC {
        return Err(io::Error::other("the memory is of huge pages"));
    }
    let len = usize::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    let capacity = u32::try_from(len.saturating_sub(RECORDS) / 2).unwrap_or(0);
    if file_len(capacity) != len || !capacity.is_power_of_two() || !CAPACITIES.contains(&capacity) {
        return Err(io::Error::other("the memory is not of a ring's size"));
    }
    Ok(capacity)
}

/// Anything but an eventfd could make us wait in write(2).
fn check_bell(fd: BorrowedFd<'_>) -> io::Result<()> {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(io::Error::other("a doorbell is no eventfd"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
