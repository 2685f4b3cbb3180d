//! The unsafe room of TCP: buffers that cost nothing until bytes are in them.
//!
//! # Theory of operation
//! smoltcp wants its two rings as slices of full size. Allocated, they would cost their size in every idle
//! connection. So they are slots in *regions*: memory mapped with MAP_NORESERVE, of which the kernel gives a
//! page when it is first touched and takes it back with MADV_DONTNEED (mmap(2), madvise(2)), when the slot is
//! given back or its ring has been idle. Huge pages are refused, or the first byte would cost two megabytes.
//! Slots come in powers of two, each region holds one size, and regions are added and unmapped whole.
//! If no memory can be mapped, a connection gets small rings from the heap.
//!
//! [`Body`] is a smoltcp socket together with the slots of its rings, so that neither outlives the other: the
//! socket's lifetime `'static` is a promise of this file, kept by never handing it out by value.
//! Bodies without a connection wait in a [`Pool`](super::pool::Pool).
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use smoltcp::iface::{Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;

use super::super::tally::Tally;
use super::connection::MOST_RING;
use super::pool::Rest;
use super::wire::{HERE, PORTS, THERE, Wire};

/// Smallest slot, in bytes: a page.
const LEAST_SLOT: usize = 4096;
/// Largest slot, in bytes.
const MOST_SLOT: usize = MOST_RING;
/// Sizes of slots: powers of two from the least to the most.
const CLASSES: usize = 15;
/// Bytes of a region, unless one slot is as large: few mappings (vm.max_map_count is 65,530), and a stack with
/// one connection does not take much of its address space.
const REGION: usize = 64 << 20;
/// Bytes of a ring if no memory can be mapped.
const FALLBACK_RING: usize = 16 << 10;

/// Where slots come from; clones share it.
#[derive(Clone, Default)]
pub(super) struct Slab {
    classes: Arc<Mutex<[Class; CLASSES]>>,
    /// Bytes of pages that the kernel has given.
    touched: Tally,
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").finish_non_exhaustive()
    }
}

/// The regions of one size of slot.
#[derive(Default)]
struct Class {
    regions: Vec<Option<Region>>,
    /// Regions with a free slot, the one to take from last. May name one that has none any more.
    open: Vec<usize>,
    /// Free slots in all regions.
    free: usize,
}

/// One mapping.
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    free: Vec<u32>,
    slots: usize,
}

// SAFETY: a region is an address range that it alone owns; nothing in it belongs to a thread.
unsafe impl Send for Region {}

impl Region {
    /// Maps a region of slots of `slot` bytes.
    fn map(slot: usize) -> Option<Self> {
        let bytes = slot.max(REGION);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping wherever the kernel likes touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the range was just mapped; the advice changes no byte. Refused without huge pages: as well.
        unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
        let slots = bytes / slot;
        let free = (0..slots as u32).rev().collect();
        Some(Self { base: NonNull::new(base.cast())?, bytes, free, slots })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and slots keep the slab, so none is in use.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A slot, and the slab it goes back to.
struct Slot {
    slab: Slab,
    class: usize,
    region: usize,
    index: u32,
    base: NonNull<u8>,
    /// Bytes of the ring in it.
    ring: usize,
    /// From where on no byte was written since it was last empty of pages.
    touched: usize,
    /// Where the last byte was written, if the ring began at the front when it was last empty.
    written: usize,
}

// SAFETY: a slot is an address range that it alone owns; nothing in it belongs to a thread.
unsafe impl Send for Slot {}

impl Slab {
    /// Bytes of pages in use.
    pub(super) fn bytes(&self) -> usize {
        self.touched.bytes()
    }

    /// A slot of at least `bytes`, all zero.
    fn take(&self, bytes: usize) -> Option<Slot> {
        if bytes > MOST_SLOT {
            return None;
        }
        let size = bytes.next_power_of_two().max(LEAST_SLOT);
        let class = (size / LEAST_SLOT).ilog2() as usize;
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = &mut classes[class];
        loop {
            let Some(&region) = shelf.open.last() else {
                shelf.add(Region::map(size)?);
                continue;
            };
            let taken = shelf.regions[region].as_mut().and_then(|it| Some((it.free.pop()?, it.base)));
            let Some((index, start)) = taken else {
                shelf.open.pop();
                continue;
            };
            shelf.free -= 1;
            // SAFETY: the index is below the number of slots, so the address lies in the mapping.
            let base = unsafe { start.add(index as usize * size) };
            return Some(Slot {
                slab: self.clone(),
                class,
                region,
                index,
                base,
                ring: size,
                touched: 0,
                written: 0,
            });
        }
    }
}

impl Class {
    fn add(&mut self, region: Region) {
        self.free += region.slots;
        let at = self.regions.iter().position(Option::is_none).unwrap_or(self.regions.len());
        if at == self.regions.len() {
            self.regions.push(None);
        }
        self.regions[at] = Some(region);
        self.open.push(at);
    }

    /// A slot comes back. A region that is all free goes, if another has room for as many.
    fn give_back(&mut self, region: usize, index: u32) {
        let Some(home) = &mut self.regions[region] else { return };
        if home.free.is_empty() {
            self.open.push(region);
        }
        home.free.push(index);
        self.free += 1;
        if home.free.len() == home.slots && self.free >= 2 * home.slots {
            self.free -= home.slots;
            self.regions[region] = None;
            self.open.retain(|&open| open != region);
        }
    }
}

impl Slot {
    fn bytes(&self) -> usize {
        LEAST_SLOT << self.class
    }

    /// Bytes come into the ring: behind the last ones, or at the front.
    fn touch(&mut self, bytes: usize, front: bool) {
        self.written = if front { bytes } else { self.written.saturating_add(bytes) };
        let touched = self.touched.max(self.written.min(self.bytes()));
        self.slab.touched.add(pages(touched) - pages(self.touched));
        self.touched = touched;
    }

    /// Gives the pages back to the kernel; the bytes are zero then.
    fn discard(&mut self) {
        if self.touched > 0 {
            // SAFETY: the range is this slot's, private and anonymous; nobody holds a reference into it but
            // the socket of its body, which is not running as the body is borrowed exclusively.
            unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes(), libc::MADV_DONTNEED) };
            self.slab.touched.subtract(pages(self.touched));
            (self.touched, self.written) = (0, 0);
        }
    }
}

/// Bytes of the pages that the first `bytes` lie in.
fn pages(bytes: usize) -> usize {
    bytes.next_multiple_of(LEAST_SLOT)
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.discard();
        let mut classes = self.slab.classes.lock().unwrap_or_else(PoisonError::into_inner);
        classes[self.class].give_back(self.region, self.index);
    }
}

/// A smoltcp socket, alone in its set, and its rings.
pub(super) struct Body {
    // Declared, so dropped, before the slots that its rings lie in.
    set: SocketSet<'static>,
    handle: SocketHandle,
    receive: Option<Slot>,
    send: Option<Slot>,
    /// What it knows of the connection that it was last used for, if another may have it as it is.
    pub(super) rest: Option<Rest>,
    /// Bytes acknowledged and received since it was new, to know when it is worn.
    pub(super) used: usize,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The socket's own form would print every byte of its rings.
        f.debug_struct("Body").field("state", &self.socket().state()).finish_non_exhaustive()
    }
}

impl Body {
    /// A closed socket with rings of these sizes.
    pub(super) fn new(slab: &Slab, receive: usize, send: usize) -> Self {
        let (receive_ring, receive) = ring(slab, receive);
        let (send_ring, send) = ring(slab, send);
        let mut set = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = set.add(Socket::new(receive_ring, send_ring));
        Self { set, handle, receive, send, rest: None, used: 0 }
    }

    /// Makes it as new, on the same rings.
    pub(super) fn renew(&mut self) {
        drop(self.set.remove(self.handle));
        let receive = self.receive.as_ref().map_or_else(fallback, slice);
        let send = self.send.as_ref().map_or_else(fallback, slice);
        self.handle = self.set.add(Socket::new(receive, send));
        (self.rest, self.used) = (None, 0);
    }

    /// Bytes of its rings.
    pub(super) fn rings(&self) -> (usize, usize) {
        (self.socket().recv_capacity(), self.socket().send_capacity())
    }

    /// The socket, to look at.
    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    /// The socket, to change. `change` works for any lifetime, so it cannot carry the socket away.
    pub(super) fn with<R>(&mut self, change: impl for<'a> FnOnce(&mut Socket<'a>) -> R) -> R {
        change(self.set.get_mut(self.handle))
    }

    /// Begins an active open.
    pub(super) fn connect(&mut self, interface: &mut Interface) {
        let (here, there) = ((HERE, PORTS.0), (THERE, PORTS.1));
        let done = self.set.get_mut::<Socket<'_>>(self.handle).connect(interface.context(), there, here);
        debug_assert!(done.is_ok(), "a closed socket connects to a valid address");
    }

    /// Lets the socket have the packet on the wire.
    pub(super) fn ingress(&mut self, interface: &mut Interface, now: Instant, wire: &mut Wire<'_>) {
        interface.poll_ingress_single(now, wire, &mut self.set);
    }

    /// Lets the socket send a packet.
    pub(super) fn egress(&mut self, interface: &mut Interface, now: Instant, wire: &mut Wire<'_>) {
        interface.poll_egress(now, wire, &mut self.set);
    }

    /// When the socket wants to send.
    pub(super) fn poll_at(&self, interface: &mut Interface, now: Instant) -> Option<Instant> {
        interface.poll_at(now, &self.set)
    }

    /// So many bytes come into the receive ring, which goes round and round.
    pub(super) fn touch_receive(&mut self, bytes: usize) {
        self.used += bytes;
        if let Some(slot) = &mut self.receive {
            slot.touch(bytes, false);
        }
    }

    /// So many bytes came into the send ring, which begins at the front whenever it is empty.
    pub(super) fn touch_send(&mut self, bytes: usize) {
        let front = self.socket().send_queue() == bytes;
        if let Some(slot) = &mut self.send {
            slot.touch(bytes, front);
        }
    }

    /// Bytes of pages that [`Body::discard`] would free.
    pub(super) fn touched(&self) -> usize {
        [&self.receive, &self.send].into_iter().flatten().map(|slot| pages(slot.touched)).sum()
    }

    /// Gives the rings' pages back: whatever is in them is lost, so only when both are empty.
    pub(super) fn discard(&mut self) {
        for slot in [&mut self.receive, &mut self.send].into_iter().flatten() {
            slot.discard();
        }
    }
}

/// A ring of `bytes`, and the slot it lies in.
fn ring(slab: &Slab, bytes: usize) -> (SocketBuffer<'static>, Option<Slot>) {
    let Some(mut slot) = slab.take(bytes) else {
        log::warn!("smol: no memory to map for a TCP buffer of {bytes} bytes, taking {FALLBACK_RING}");
        return (fallback(), None);
    };
    slot.ring = bytes;
    (slice(&slot), Some(slot))
}

/// A ring from the heap.
fn fallback() -> SocketBuffer<'static> {
    SocketBuffer::new(vec![0; FALLBACK_RING])
}

/// The ring in a slot. There is one at a time: the last one is dropped before the next is made.
fn slice(slot: &Slot) -> SocketBuffer<'static> {
    // SAFETY: the slot is `slot.bytes()` long, zeroed by the kernel at first and nobody else's until it is dropped,
    // which `Body` does after the socket that has this reference.
    let slice = unsafe { std::slice::from_raw_parts_mut(slot.base.as_ptr(), slot.ring.min(slot.bytes())) };
    SocketBuffer::new(slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_come_back() {
        let slab = Slab::default();
        let slots: Vec<Slot> = (0..200).map(|_| slab.take(1 << 20).unwrap()).collect();
        let mut bases: Vec<usize> = slots.iter().map(|slot| slot.base.as_ptr() as usize).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= 1 << 20));
        let regions = |slab: &Slab| slab.classes.lock().unwrap()[8].regions.iter().flatten().count();
        assert_eq!(regions(&slab), 4);
        drop(slots);
        assert_eq!(regions(&slab), 1, "regions that nobody needs are unmapped");
        assert!(slab.take(1 << 20).is_some());
        assert_eq!(regions(&slab), 1);
    }

    #[test]
    fn sizes_are_rounded_up_and_limited() {
        let slab = Slab::default();
        assert_eq!(slab.take(1).unwrap().bytes(), LEAST_SLOT);
        assert_eq!(slab.take(4097).unwrap().bytes(), 8192);
        assert_eq!(slab.take(MOST_SLOT).unwrap().bytes(), MOST_SLOT);
        assert!(slab.take(MOST_SLOT + 1).is_none());
    }

    #[test]
    fn a_ring_is_empty_again_after_it_was_given_back() {
        let slab = Slab::default();
        let (mut first, slot) = ring(&slab, 4096);
        assert_eq!(first.enqueue_slice(&[7; 4096]), 4096);
        let mut slot = slot.unwrap();
        slot.touch(4096, true);
        assert_eq!(slab.bytes(), 4096);
        drop(first);
        let base = slot.base;
        drop(slot);
        assert_eq!(slab.bytes(), 0);
        let (mut second, slot) = ring(&slab, 4096);
        assert_eq!(slot.as_ref().unwrap().base, base);
        assert!(second.enqueue_many(4096).iter().all(|&byte| byte == 0));
        drop(second);
        drop(slot);
    }
}
