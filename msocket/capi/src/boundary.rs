//! Where Rust ends: an error or a panic becomes errno and -1.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;

/// What a C caller gets of `work`: its value, or `failed` with errno set. A panic is EIO. On success errno is
/// what it was.
pub(crate) fn boundary<T>(failed: T, work: impl FnOnce() -> Result<T, Errno>) -> T {
    let before = Errno::last_raw();
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Errno::EIO));
    match done {
        Ok(value) => {
            Errno::set_raw(before);
            value
        }
        Err(errno) => {
            errno.set();
            failed
        }
    }
}
