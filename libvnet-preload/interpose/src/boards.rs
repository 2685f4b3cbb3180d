//! The boards of the stacks whose sockets this process has.
//!
//! # Theory of operation
//! A board is asked for when the first name of its host is seen, over a control line to the supervisor, and stays
//! mapped: children have it by fork(2). A place in the table is claimed, filled and then published, so that
//! nobody waits for anybody: who meets a place that is being filled (another thread, a signal handler, or a child
//! forked at that moment) asks the stack instead.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use msocket_proto::board::{LENGTH, Name, Record, SECRET, Shown, Wanted};

use crate::sys;

/// Most hosts: a process has sockets of one, as a rule, and of the keeper's.
const MAX_BOARDS: usize = 4;
const EMPTY: u32 = 0;
const CLAIMED: u32 = 1;
const READY: u32 = 2;
/// The supervisor has none to give.
const REFUSED: u32 = 3;

struct Board {
    state: AtomicU32,
    secret: [AtomicU64; SECRET / 8],
    /// Where it is mapped.
    base: AtomicU64,
}

static BOARDS: [Board; MAX_BOARDS] = [const {
    Board {
        state: AtomicU32::new(EMPTY),
        secret: [const { AtomicU64::new(0) }; SECRET / 8],
        base: AtomicU64::new(0),
    }
}; MAX_BOARDS];

/// What is shown of the socket that a name names, and what is wanted beside that.
pub(crate) fn look_up(name: &Name<'_>, wanted: Wanted) -> Option<(Shown, Option<i32>)> {
    let secret = words(name.secret)?;
    for board in &BOARDS {
        match board.state.load(Ordering::Acquire) {
            EMPTY => return read(fill(board, name.secret, secret)?, name, wanted),
            READY if board.has(secret) => return read(board.base.load(Ordering::Relaxed), name, wanted),
            REFUSED if board.has(secret) => return None,
            CLAIMED => return None,
            _ => {}
        }
    }
    None
}

fn words(secret: &[u8]) -> Option<[u64; SECRET / 8]> {
    let mut words = [0; SECRET / 8];
    for (word, bytes) in words.iter_mut().zip(secret.chunks_exact(8)) {
        *word = u64::from_ne_bytes(*bytes.first_chunk()?);
    }
    (secret.len() == SECRET).then_some(words)
}

fn read(base: u64, name: &Name<'_>, wanted: Wanted) -> Option<(Shown, Option<i32>)> {
    Record::of(sys::mapped(base, LENGTH / size_of::<u32>()), name.record)?.read(name.token, wanted)
}

impl Board {
    fn has(&self, secret: [u64; SECRET / 8]) -> bool {
        self.secret.iter().zip(secret).all(|(word, wanted)| word.load(Ordering::Relaxed) == wanted)
    }
}

/// Maps a board into an empty place.
fn fill(board: &Board, digits: &[u8], secret: [u64; SECRET / 8]) -> Option<u64> {
    board.state.compare_exchange(EMPTY, CLAIMED, Ordering::Acquire, Ordering::Relaxed).ok()?;
    for (word, value) in board.secret.iter().zip(secret) {
        word.store(value, Ordering::Relaxed);
    }
    let mut request = [0_u8; 64];
    let parts: [&[u8]; 3] = [br#"{"op":"board","secret":""#, digits, b"\"}\n"];
    let mut length = 0;
    for part in parts {
        request.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    let base = sys::map_from_supervisor(request.get(..length)?, LENGTH);
    board.base.store(base.unwrap_or(0), Ordering::Relaxed);
    board.state.store(if base.is_some() { READY } else { REFUSED }, Ordering::Release);
    base
}
