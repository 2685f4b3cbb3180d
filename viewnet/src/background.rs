//! What a background process leaves behind of the process that started it: whatever could be held against
//! somebody. Its working folder, its terminal, its standard descriptors, its limits, its name.

use std::ffi::CStr;
use std::io::stderr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{chdir, setsid};

use crate::eye::{self, Eye};
use crate::sys::process::{self, Fork};

/// Makes this process, just forked, one of the background that ps(1) shows as `title`. Descriptors are the
/// caller's affair, but for the standard three, which are /dev/null afterwards. Returns a copy of what stderr
/// was if asked for.
pub(crate) fn enter(title: &CStr, keep_stderr: bool) -> Option<OwnedFd> {
    process::ignore_sigpipe();
    process::raise_limits();
    process::give_memory_back();
    process::set_title(title);
    // Fails only for a leader of a process group, who is in a session of its own here.
    let _ = setsid();
    let _ = chdir("/");
    let copy = keep_stderr.then(|| stderr().as_fd().try_clone_to_owned().ok()).flatten();
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    copy
}

/// Starts an eye that watches this process, which must have one thread. It is our child; as we end when it does,
/// nobody has to wait for it.
pub(crate) fn start_eye() -> Result<Eye, Errno> {
    let (eye, eye_end) = eye::pair()?;
    match process::fork()? {
        Fork::Parent(_) => Ok(eye),
        Fork::Child => become_eye(&eye_end),
    }
}

/// Makes this process, just forked, an eye.
pub(crate) fn become_eye(eye_end: &OwnedFd) -> ! {
    process::close_all_but(&[eye_end.as_raw_fd()]);
    enter(c"viewnet-eye", false);
    eye::watch(eye_end);
    process::exit_now(0)
}
