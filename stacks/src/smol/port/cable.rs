//! A cable between two stacks of one process.
//!
//! # Theory of operation
//! A cable is a ring whose two ends are both ours. Each has a name, under which [`Cables`] keeps it while one of
//! its ends is plugged in somewhere. The two ends may be in two threads. An end that is pulled out can be plugged
//! in again; what was under way to it is lost then.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use msocket_proto::line::Refusal;
use nix::sys::epoll::EpollFlags;
use switch::ports::BUFFER_LEN;
use switch::ports::ring::{CAPACITY, Ring};

/// The cables of one process.
#[derive(Debug, Default)]
pub struct Cables {
    by_name: HashMap<String, Arc<Cord>>,
}

/// What both ends know.
#[derive(Debug)]
struct Cord {
    /// The ends that are plugged in nowhere.
    loose: Mutex<[Option<Ring>; 2]>,
    /// How many are plugged in.
    plugged: AtomicUsize,
}

/// One end of a cable, plugged in as long as this value lives.
#[derive(Debug)]
pub struct Cable {
    cord: Arc<Cord>,
    side: usize,
    /// Absent only while it is dropped.
    ring: Option<Ring>,
}

impl Cables {
    /// No cables yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a free end of the cable `name` for `interface`.
    ///
    /// # Errors
    /// Both ends are taken, or there are no descriptors left.
    pub fn plug(&mut self, interface: &str, name: &str) -> Result<Cable, Refusal> {
        let what = || format!("cannot plug {interface} into cable {name}");
        self.by_name.retain(|_, cord| cord.plugged.load(Ordering::Acquire) > 0);
        if !self.by_name.contains_key(name) {
            let cord = Cord::new().map_err(|e| Refusal::new(what(), e))?;
            self.by_name.insert(name.to_owned(), Arc::new(cord));
        }
        Cable::take(&self.by_name[name]).ok_or_else(|| {
            Refusal::new(what(), "both its ends are plugged in").hint("use a switch to connect more than two")
        })
    }
}

impl Cord {
    fn new() -> std::io::Result<Self> {
        let (a, handover) = Ring::create(CAPACITY)?;
        let ends = [Some(a), Some(Ring::attach(handover)?)];
        Ok(Self { loose: Mutex::new(ends), plugged: AtomicUsize::new(0) })
    }
}

impl Cable {
    fn take(cord: &Arc<Cord>) -> Option<Self> {
        let mut loose = cord.loose.lock().unwrap_or_else(PoisonError::into_inner);
        let side = loose.iter().position(Option::is_some)?;
        let mut ring = loose[side].take()?;
        drop(loose);
        let mut old = vec![0; BUFFER_LEN];
        while ring.receive(&mut old).is_ok_and(|frame| frame.is_some()) {}
        cord.plugged.fetch_add(1, Ordering::AcqRel);
        // The other end's owner looks whether there is a carrier now.
        ring.wake_peer();
        Some(Self { cord: Arc::clone(cord), side, ring: Some(ring) })
    }

    pub(super) fn ring(&mut self) -> &mut Ring {
        self.ring.as_mut().expect("it is there until it is dropped")
    }

    pub(super) fn has_carrier(&self) -> bool {
        self.cord.plugged.load(Ordering::Acquire) == 2
    }

    pub(super) fn source(&self) -> (BorrowedFd<'_>, EpollFlags) {
        let ring = self.ring.as_ref().expect("it is there until it is dropped");
        (ring.as_fd(), EpollFlags::EPOLLIN | EpollFlags::EPOLLET)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let ring = self.ring.take();
        self.cord.plugged.fetch_sub(1, Ordering::AcqRel);
        ring.iter().for_each(Ring::wake_peer);
        self.cord.loose.lock().unwrap_or_else(PoisonError::into_inner)[self.side] = ring;
    }
}
