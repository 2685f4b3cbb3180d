//! The numbers of stacks, inside a view.
//!
//! For the supervisor to read a path from our memory costs more than all the rest of an msocket(), so it gives each
//! stack a number. They are kept by path, and dropped when the supervisor knows them no more. Children have
//! the same supervisor, and so the same numbers. No thread waits for the table: who finds it locked asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

/// Most numbers that are kept: as many as a supervisor has stacks.
const MAX_NUMBERS: usize = 64;

static NUMBERS: LazyLock<Mutex<HashMap<PathBuf, u32>>> = LazyLock::new(Mutex::default);

/// The number of the stack at a path.
pub(crate) fn of(path: &Path) -> Option<u32> {
    NUMBERS.try_lock().ok()?.get(path).copied()
}

/// Remembers it.
pub(crate) fn keep(path: &Path, number: u32) -> u32 {
    if let Ok(mut numbers) = NUMBERS.try_lock() {
        if numbers.len() >= MAX_NUMBERS {
            numbers.clear();
        }
        numbers.insert(path.to_owned(), number);
    }
    number
}

/// Forgets it.
pub(crate) fn forget(path: &Path) {
    if let Ok(mut numbers) = NUMBERS.try_lock() {
        numbers.remove(path);
    }
}
