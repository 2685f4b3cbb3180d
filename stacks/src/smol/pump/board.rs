//! What programs are shown of their sockets, so that they need not ask: the host's side of [`msocket_proto::board`].

use std::os::fd::OwnedFd;

use msocket_proto::board::options::Values;
use msocket_proto::board::{LENGTH, RECORDS, Record, Shown};
use nix::errno::Errno;
use rustc_hash::FxHashMap;

use super::memory::Memory;

/// The board of a host.
#[derive(Debug)]
pub(in super::super) struct Board {
    memory: Memory,
    /// Which records sockets have, by their tokens.
    places: FxHashMap<u64, usize>,
    /// Records that were given back.
    free: Vec<usize>,
    /// The first that nobody has had.
    fresh: usize,
    /// Where the next destination goes.
    turn: usize,
}

impl Board {
    /// An empty one.
    pub(in super::super) fn new() -> Result<Self, Errno> {
        let memory = Memory::new(LENGTH / size_of::<u32>())?;
        Ok(Self { memory, places: FxHashMap::default(), free: Vec::new(), fresh: 0, turn: 0 })
    }

    /// What programs map.
    pub(in super::super) fn file(&self) -> &OwnedFd {
        self.memory.file()
    }

    /// Gives a socket a place, if there is one left. Nothing is shown there yet.
    pub(super) fn place(&mut self, token: u64) {
        let fresh = self.fresh;
        if let Some(record) = self.free.pop().or_else(|| (fresh < RECORDS).then_some(fresh)) {
            self.fresh += usize::from(record == fresh);
            self.places.insert(token, record);
        }
    }

    /// The number of a socket's place.
    pub(super) fn number(&self, token: u64) -> Option<usize> {
        self.places.get(&token).copied()
    }

    fn record(&self, token: u64) -> Option<Record<'_>> {
        Record::of(self.memory.words(), self.number(token)?)
    }

    /// Shows that of a socket.
    pub(in super::super) fn show(&self, token: u64, shown: &Shown, options: &Values) {
        if let Some(record) = self.record(token) {
            record.show(token, shown, options);
        }
    }

    /// Shows nothing of a socket any more.
    pub(in super::super) fn hide(&self, token: u64) {
        if let Some(record) = self.record(token) {
            record.clear();
        }
    }

    /// A socket has sent to that destination, and may again.
    pub(in super::super) fn allow(&mut self, token: u64, destination: u64) {
        self.turn += 1;
        if let Some(record) = self.record(token) {
            record.allow(self.turn, destination);
        }
    }

    /// A socket has gone.
    pub(super) fn remove(&mut self, token: u64) {
        self.hide(token);
        self.free.extend(self.places.remove(&token));
    }
}
