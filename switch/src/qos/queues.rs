//! The queues of one port: which frame is next, and when.
//!
//! # Theory of operation
//! Frames are put in by [`PortQueues::push`], as the wire would have been given them; [`PortQueues::poll`] says which
//! is next and when, [`PortQueues::peek`] shows it, and [`PortQueues::pop`] takes it out once it is sent. Frames go
//! to the queue of their class, by priority, or that of their VLAN's reservation. Next is
//!
//! 1. a reserved queue within its promised rate;
//! 2. the highest strict class (802.1Q-2018 clause 8.6.8.1);
//! 3. of the weighted classes, and the reserved queues that have more than was promised, the one whose turn it is
//!    by deficit round robin: at each turn a queue may send [`QUANTUM`] bytes more for each unit of its weight,
//!    and keeps what it did not use for its next turn, unless it runs empty.
//!
//! A class, or a reservation, that has sent as much as its own rate allows is passed over, whatever else there is.
//! All this when the port's own token bucket says that the frame's bits may go. A frame that is next waits for
//! that, and is not overtaken but by one that would be next itself. A wire that is full is tried again after [`RETRY`].
//!
//! A queue is bounded in bytes; what does not fit is dropped, and frames that are drop eligible are dropped when
//! half of it is taken.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::bucket::Bucket;
pub use super::class::{BadClass, Class, Service};
use super::fifo::{Fifo, MIN_BYTES, Queued};
use super::priority::{PCPS, PcpMap};
use super::rate::Rate;
use super::reserve::{RESERVABLE_PERCENT, Reservation, ReserveError, admit};
use crate::frame::Priority;
use crate::offload::{Pieces, VnetHdr};
use crate::vlan::Vid;

/// Bytes that one unit of weight is worth in a turn: a full frame with its tag.
pub const QUANTUM: u32 = 1522;
/// Traffic classes at most (802.1Q-2018 clause 8.6.6).
pub const MAX_CLASSES: usize = PCPS;
/// After how long a full wire is tried again.
pub const RETRY: Duration = Duration::from_millis(1);
/// What a bucket holds unless told otherwise, in the time its rate takes for it: we wake up by milliseconds, and
/// what came together while we slept must not be lost.
const BURST: Duration = Duration::from_millis(5);
/// A bucket holds a frame or two at least, in bytes.
const MIN_BURST: u64 = 2 * QUANTUM as u64;
/// What a queue holds unless told otherwise, in the time the port takes for it, and its bounds in bytes.
const QUEUE: Duration = Duration::from_millis(50);
const QUEUE_BYTES: std::ops::RangeInclusive<u64> = 128 << 10..=4 << 20;
/// Most bytes one queue may be given.
pub const MAX_QUEUE_BYTES: u32 = 64 << 20;

/// How a port sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// Bits per second at most; absent: as the wire takes them.
    #[serde(rename = "rate_bps", skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Bytes that may go at once; absent: what goes in 5 ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
    /// The classes, lowest first, one to eight.
    pub classes: Vec<Class>,
    /// Which class a priority code point has; absent: as 802.1Q recommends for so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<PcpMap>,
    /// Bytes each queue holds; absent: what goes in 50 ms, 128 KiB to 4 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u32>,
    /// How much of the rate may be reserved.
    pub reservable_percent: u8,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            rate: None,
            burst_bytes: None,
            classes: vec![Class::weight(1)],
            map: None,
            queue_bytes: None,
            reservable_percent: RESERVABLE_PERCENT,
        }
    }
}

/// Why a port cannot send so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Too few, too many.
    #[error("a port has one to {MAX_CLASSES} classes, not {0}")]
    Classes(usize),
    /// It names a class that is not there.
    #[error("the map names class {0}, and there are {1}, from 0")]
    Map(u8, usize),
    /// A number out of bounds.
    #[error("a queue holds at most {MAX_QUEUE_BYTES} bytes")]
    QueueBytes,
    /// A number out of bounds.
    #[error("at most 100 % can be reserved")]
    Percent,
    /// What was promised could not be kept.
    #[error("VLAN {0} has a reservation there: {1}")]
    Promised(Vid, ReserveError),
}

/// What a queue counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueCounters {
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that found no room.
    pub dropped: u64,
}

/// One queue as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// The reservation it belongs to; `None` for classes.
    pub reservation: Option<Reservation>,
    /// What it counted.
    pub counters: QueueCounters,
    /// Frames waiting.
    pub frames: usize,
    /// Bytes of memory they take.
    pub bytes: usize,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This frame, now.
    Frame(Pick),
    /// Nothing before then.
    At(Instant),
    /// Nothing at all.
    Idle,
}

/// A queue whose first frame is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    queue: usize,
    turn: Turn,
}

/// Why it is next: what it is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Promised,
    Strict,
    Weighted,
}

/// The queues of one port.
#[derive(Debug)]
pub struct PortQueues {
    shape: Shape,
    shaper: Option<Bucket>,
    /// By priority code point.
    map: PcpMap,
    /// The classes, then the reservations.
    queues: Vec<Queue>,
    by_vid: FxHashMap<Vid, usize>,
    /// Which queues have frames, and which are what, as bits.
    backlog: u64,
    strict: u64,
    promised: u64,
    limited: u64,
    /// Deficit round robin: whose turn it is, and whether it got its quantum.
    turn: usize,
    granted: bool,
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Queue {
    fifo: Fifo,
    /// Bytes more in each turn.
    quantum: u32,
    deficit: u32,
    promise: Option<Promise>,
    /// What it may send at most.
    max: Option<Bucket>,
    counters: QueueCounters,
}

#[derive(Debug)]
struct Promise {
    reservation: Reservation,
    promised: Bucket,
}

impl PortQueues {
    /// Empty queues.
    ///
    /// # Errors
    /// A shape that contradicts itself.
    pub fn new(shape: Shape) -> Result<Self, ShapeError> {
        let count = shape.classes.len();
        if !(1..=MAX_CLASSES).contains(&count) {
            return Err(ShapeError::Classes(count));
        }
        let map = shape.map.unwrap_or_else(|| PcpMap::classes(count));
        if usize::from(map.max()) >= count {
            return Err(ShapeError::Map(map.max(), count));
        }
        if shape.queue_bytes.is_some_and(|bytes| bytes > MAX_QUEUE_BYTES) {
            return Err(ShapeError::QueueBytes);
        }
        if shape.reservable_percent > 100 {
            return Err(ShapeError::Percent);
        }
        let mut queues = Self {
            shaper: shape.rate.map(|rate| bucket(rate, shape.burst_bytes)),
            map,
            queues: Vec::with_capacity(count),
            by_vid: FxHashMap::default(),
            backlog: 0,
            strict: 0,
            promised: 0,
            limited: 0,
            turn: 0,
            granted: false,
            retry: None,
            shape,
        };
        for at in 0..count {
            let Class { service, rate } = queues.shape.classes[at];
            let weight = match service {
                Service::Strict => {
                    queues.strict |= 1 << at;
                    1
                }
                Service::Weight(weight) => u32::from(weight),
            };
            queues.add(weight, None, rate);
        }
        Ok(queues)
    }

    /// The same reservations in another shape, still empty.
    ///
    /// # Errors
    /// A shape that contradicts itself or a promise.
    pub fn reshaped(&self, shape: Shape) -> Result<Self, ShapeError> {
        let mut new = Self::new(shape)?;
        for reservation in self.reservations() {
            new.reserve(reservation).map_err(|e| ShapeError::Promised(reservation.vid, e))?;
        }
        Ok(new)
    }

    /// Takes the frames of other queues over, and what they counted; calls `lost` for each frame that finds no room.
    pub fn take_over(&mut self, old: &mut Self, mut lost: impl FnMut()) {
        let name =
            |at: usize, queue: &Queue| queue.promise.as_ref().map_or(Err(at), |p| Ok(p.reservation.vid));
        for (at, queue) in self.queues.iter_mut().enumerate() {
            let same = |(n, other): &(usize, &Queue)| name(*n, other) == name(at, queue);
            queue.counters =
                old.queues.iter().enumerate().find(same).map_or(queue.counters, |(_, q)| q.counters);
        }
        old.drain(|next| {
            let [first, second] = next.bytes;
            if !self.push(&next.hdr, next.vid, next.priority, &[first, second, &[], &[]]) {
                lost();
            }
        });
    }

    /// Takes all frames out, queue by queue.
    pub fn drain(&mut self, mut each: impl FnMut(Queued<'_>)) {
        for queue in &mut self.queues {
            while let Some(next) = queue.fifo.peek() {
                each(next);
                queue.fifo.pop();
            }
        }
        self.backlog = 0;
    }

    /// Promises a VLAN a rate.
    ///
    /// # Errors
    /// There is not so much to promise.
    pub fn reserve(&mut self, reservation: Reservation) -> Result<(), ReserveError> {
        let present: Vec<Reservation> = self.reservations().collect();
        admit(self.shape.rate, self.shape.reservable_percent, &present, &reservation)?;
        let promised = bucket(reservation.rate, None);
        self.by_vid.insert(reservation.vid, self.queues.len());
        self.promised |= 1 << self.queues.len();
        self.add(1, Some(Promise { reservation, promised }), reservation.max);
        Ok(())
    }

    /// The same without one reservation, still empty.
    ///
    /// # Errors
    /// There is none.
    pub fn released(&self, vid: Vid) -> Result<Self, ReserveError> {
        if !self.by_vid.contains_key(&vid) {
            return Err(ReserveError::Unknown(vid));
        }
        let mut new = Self::new(self.shape.clone()).expect("this very shape was taken before");
        for reservation in self.reservations().filter(|r| r.vid != vid) {
            new.reserve(reservation).expect("fewer promises fit where more did");
        }
        Ok(new)
    }

    /// The promises, in the order they were made.
    pub fn reservations(&self) -> impl Iterator<Item = Reservation> {
        self.queues.iter().filter_map(|queue| queue.promise.as_ref().map(|p| p.reservation))
    }

    /// How it sends.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Which class a priority code point has.
    pub fn map(&self) -> PcpMap {
        self.map
    }

    /// The queues: the classes, then the reservations.
    pub fn states(&self) -> impl Iterator<Item = QueueState> {
        self.queues.iter().map(|queue| QueueState {
            reservation: queue.promise.as_ref().map(|p| p.reservation),
            counters: queue.counters,
            frames: queue.fifo.frames(),
            bytes: queue.fifo.used(),
        })
    }

    /// Bytes of memory that all queues may come to use.
    pub fn memory(&self) -> usize {
        self.queues.iter().map(|queue| queue.fifo.capacity()).sum()
    }

    /// The longest frame that goes without waiting for more than its turn: super-segments that are longer are better
    /// cut before they are put in.
    pub fn burst_bytes(&self) -> usize {
        self.shaper.map_or(usize::MAX, |shaper| (shaper.burst() / 8) as usize)
    }

    /// Puts a frame in; false if it was dropped.
    pub fn push(&mut self, hdr: &VnetHdr, vid: Vid, priority: Priority, pieces: &Pieces<'_>) -> bool {
        let class = usize::from(self.map.of(priority.pcp()));
        let at = if self.promised == 0 { class } else { *self.by_vid.get(&vid).unwrap_or(&class) };
        let queue = &mut self.queues[at];
        let early = priority.is_drop_eligible() && queue.fifo.used() > queue.fifo.capacity() / 2;
        let fits = !early && queue.fifo.push(hdr, vid, priority, pieces);
        if fits {
            self.backlog |= 1 << at;
        } else {
            queue.counters.dropped += 1;
        }
        fits
    }

    /// Is there a frame?
    pub fn is_empty(&self) -> bool {
        self.backlog == 0
    }

    /// What is next?
    pub fn poll(&mut self, now: Instant) -> Next {
        if self.backlog == 0 {
            return Next::Idle;
        }
        if let Some(at) = self.retry.filter(|at| now < *at) {
            return Next::At(at);
        }
        self.retry = None;
        let Some(pick) = self.choose(now) else { return Next::At(self.when_unlimited(now)) };
        let bits = self.next_bits(pick.queue);
        match self.shaper.as_mut().map(|shaper| shaper.ready_at(now, bits)) {
            None => Next::Frame(pick),
            Some(Some(at)) if at <= now => Next::Frame(pick),
            Some(at) => Next::At(at.unwrap_or(now + LONG)),
        }
    }

    /// The frame that is next.
    pub fn peek(&self, pick: Pick) -> Option<Queued<'_>> {
        self.queues[pick.queue].fifo.peek()
    }

    /// The frame was sent: takes it out and charges it.
    pub fn pop(&mut self, now: Instant, pick: Pick) {
        let bits = self.next_bits(pick.queue);
        if let Some(shaper) = &mut self.shaper {
            shaper.charge(now, bits);
        }
        let queue = &mut self.queues[pick.queue];
        queue.counters.tx_frames += 1;
        queue.counters.tx_bytes += bits / 8;
        if let Some(promise) = queue.promise.as_mut().filter(|_| pick.turn == Turn::Promised) {
            promise.promised.charge(now, bits);
        }
        if let Some(max) = &mut queue.max {
            max.charge(now, bits);
        }
        if pick.turn == Turn::Weighted {
            queue.deficit = queue.deficit.saturating_sub((bits / 8) as u32);
        }
        self.discard(pick);
    }

    /// The wire refused the frame: takes it out.
    pub fn discard(&mut self, pick: Pick) {
        let queue = &mut self.queues[pick.queue];
        queue.fifo.pop();
        if queue.fifo.frames() == 0 {
            queue.deficit = 0;
            self.backlog &= !(1 << pick.queue);
        }
    }

    /// The wire is full: nothing is next for a while.
    pub fn wire_is_full(&mut self, now: Instant) {
        self.retry = Some(now + RETRY);
    }

    fn add(&mut self, weight: u32, promise: Option<Promise>, max: Option<Rate>) {
        if max.is_some() {
            self.limited |= 1 << self.queues.len();
        }
        let max = max.map(|max| bucket(max, None));
        let rate = self.shape.rate.map_or(u64::MAX, Rate::bps);
        let usual = in_time(rate, QUEUE).clamp(*QUEUE_BYTES.start(), *QUEUE_BYTES.end());
        let bytes = self.shape.queue_bytes.map_or(usual as usize, |bytes| (bytes as usize).max(MIN_BYTES));
        let counters = QueueCounters::default();
        let quantum = weight * QUANTUM;
        self.queues.push(Queue { fifo: Fifo::new(bytes), quantum, deficit: 0, promise, max, counters });
    }

    fn next_bits(&self, queue: usize) -> u64 {
        8 * self.queues[queue].fifo.next_len().unwrap_or(0) as u64
    }

    fn choose(&mut self, now: Instant) -> Option<Pick> {
        let mut eligible = self.backlog;
        for at in bits_of(self.backlog & self.limited) {
            let bits = self.next_bits(at);
            if self.queues[at].max.as_mut().is_some_and(|max| !max.has(now, bits)) {
                eligible &= !(1 << at);
            }
        }
        for at in bits_of(eligible & self.promised) {
            let bits = self.next_bits(at);
            if self.queues[at].promise.as_mut().is_some_and(|promise| promise.promised.has(now, bits)) {
                return Some(Pick { queue: at, turn: Turn::Promised });
            }
        }
        match (eligible & self.strict).checked_ilog2() {
            Some(at) => Some(Pick { queue: at as usize, turn: Turn::Strict }),
            None => self.round_robin(eligible).map(|queue| Pick { queue, turn: Turn::Weighted }),
        }
    }

    /// Whose turn it is; each round gives all of them a quantum, so it ends.
    fn round_robin(&mut self, eligible: u64) -> Option<usize> {
        if eligible == 0 {
            return None;
        }
        loop {
            let at = self.turn;
            if eligible >> at & 1 != 0 {
                let queue = &mut self.queues[at];
                if !std::mem::replace(&mut self.granted, true) {
                    queue.deficit += queue.quantum;
                }
                if queue.fifo.next_len().is_some_and(|len| len <= queue.deficit as usize) {
                    return Some(at);
                }
            }
            // The next one behind, or the first.
            let behind = eligible & (!1 << at);
            self.turn = if behind != 0 { behind } else { eligible }.trailing_zeros() as usize;
            self.granted = false;
        }
    }

    /// When the first of the queues that have had their maximum may send again.
    fn when_unlimited(&mut self, now: Instant) -> Instant {
        let mut first = now + LONG;
        for queue in &mut self.queues {
            let Some(len) = queue.fifo.next_len() else { continue };
            let at = queue.max.as_mut().and_then(|max| max.ready_at(now, 8 * len as u64));
            first = first.min(at.unwrap_or(first));
        }
        first
    }
}

/// The numbers of the bits that are set, the lowest first.
fn bits_of(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = bits.checked_ilog2().map(|_| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(at)
    })
}

/// When a bucket says never.
const LONG: Duration = Duration::from_secs(3600);

/// A bucket of bits.
pub(crate) fn bucket(rate: Rate, burst_bytes: Option<u32>) -> Bucket {
    let burst = burst_bytes.map_or_else(|| in_time(rate.bps(), BURST), u64::from);
    Bucket::new(rate.bps(), 8 * burst.max(MIN_BURST))
}

/// Bytes that go in some time.
fn in_time(bps: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bps) * time.as_micros() / 8_000_000).unwrap_or(u64::MAX / 16)
}

#[cfg(test)]
mod tests;
