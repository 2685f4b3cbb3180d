//! The default stack of each family, where no supervisor keeps it.
//!
//! # Theory of operation
//! Inside a view the supervisor knows the default stacks of its processes, so that socket(2) follows them, too.
//! Elsewhere they are this process's memory, which fork(2) copies, and an environment variable, which execve(2)
//! passes on; and only msocket() with a null path follows them. The lock is held for moments; a child of a fork
//! that met it locked goes on without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use nix::errno::Errno;
use stacks::stack::FAMILIES;

use crate::places;

static DEFAULTS: LazyLock<Mutex<BTreeMap<i32, PathBuf>>> =
    LazyLock::new(|| Mutex::new(places::inherited().into_iter().collect()));

/// The default stack of a family, if it was set.
pub(crate) fn of(family: i32) -> Option<PathBuf> {
    DEFAULTS.try_lock().ok()?.get(&family).cloned()
}

/// Makes the stack at `path` the default of a family, or with PF_UNSPEC of all.
pub(crate) fn set(path: &Path, family: i32) -> Result<(), Errno> {
    let families = match family {
        libc::PF_UNSPEC => &FAMILIES[..],
        family => FAMILIES.iter().position(|known| *known == family).map_or(&[][..], |at| &FAMILIES[at..=at]),
    };
    if families.is_empty() {
        return Err(Errno::EAFNOSUPPORT);
    }
    let Ok(mut defaults) = DEFAULTS.lock() else { return Err(Errno::EAGAIN) };
    defaults.extend(families.iter().map(|family| (*family, path.to_owned())));
    places::leave(defaults.iter().map(|(family, path)| (*family, path.as_path())));
    Ok(())
}
