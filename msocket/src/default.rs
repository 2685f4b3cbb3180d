//! The default stack of each family, where no supervisor keeps it.
//!
//! # Theory of operation
//! Inside a view the supervisor knows the default stacks of its processes, so that socket(2) follows them, too.
//! Elsewhere they are this process's memory, which fork(2) copies, and an environment variable, which execve(2)
//! passes on; and only msocket() with a null path follows them. Threads read side by side. The lock is taken alone for
//! moments, when a default is set; a child of a fork that met it so goes on without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, RwLock};

use nix::errno::Errno;
use stacks::stack::FAMILIES;

use crate::places;

/// How often a lock that is taken is looked at again: for longer than a default is being set.
const LOOKS: usize = 1000;

static DEFAULTS: LazyLock<RwLock<BTreeMap<i32, PathBuf>>> =
    LazyLock::new(|| RwLock::new(places::inherited().into_iter().collect()));

/// The default stack of a family, if it was set.
pub(crate) fn of(family: i32) -> Option<PathBuf> {
    let mut looks = 0..LOOKS;
    let read = || DEFAULTS.try_read().inspect_err(|_| std::thread::yield_now()).ok();
    let defaults = looks.find_map(|_| read())?;
    defaults.get(&family).cloned()
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
    let Ok(mut defaults) = DEFAULTS.write() else { return Err(Errno::EAGAIN) };
    defaults.extend(families.iter().map(|family| (*family, path.to_owned())));
    places::leave(defaults.iter().map(|(family, path)| (*family, path.as_path())));
    Ok(())
}

/// The supervisor keeps the default of a family from now on, or with PF_UNSPEC of all.
pub(crate) fn forget(family: i32) {
    if let Ok(mut defaults) = DEFAULTS.write()
        && !defaults.is_empty()
    {
        defaults.retain(|known, _| family != libc::PF_UNSPEC && *known != family);
        places::leave(defaults.iter().map(|(family, path)| (*family, path.as_path())));
    }
}
