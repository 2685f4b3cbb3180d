//! Becoming a maker: joining the user namespace in which this user's stacks live, or making it.
//!
//! The first of a user's stacks makes the user namespace; whoever comes later is given it by any process
//! that serves a stack. A lock on the runtime folder keeps two first ones from making two.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use msocket_proto::line::sweep;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use stacks::kernel::namespace::{Step, enter, enter_new};
use stacks::remote;

use crate::runtime::Runtime;

/// How long a server may take to give its user namespace: one that is stopped is passed over.
const PATIENCE: Duration = Duration::from_millis(200);

/// Held while a stack is being made, so that the next one finds its user namespace.
pub(crate) type Turn = Flock<File>;

/// Waits for our turn to make a stack.
pub(crate) fn take_turn(runtime: &Runtime) -> Result<Turn, Errno> {
    let file =
        File::open(runtime.folder()).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e)
}

/// Moves this process, which has one thread, into the user namespace of the user's stacks. Clears away the
/// socket files of servers that were killed together with their eyes.
pub(crate) fn become_maker(runtime: &Runtime) -> Result<(), (Step, Errno)> {
    for entry in std::fs::read_dir(runtime.stacks()).into_iter().flatten().flatten() {
        let path = entry.path();
        match remote::user_namespace(&path, PATIENCE) {
            Some(namespace) if enter(namespace.as_fd()).is_ok() => return Ok(()),
            Some(_) => {}
            None => drop(sweep(&path)),
        }
    }
    enter_new()
}
