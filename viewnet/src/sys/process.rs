//! Processes: fork, dispositions, descriptors, the title that ps(1) shows.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;

/// What SIGPIPE's disposition was when the process started; the Rust runtime ignores the signal before
/// `main` (and a program we execute would inherit that).
static SIGPIPE_AT_START: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// Runs before the Rust runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER_SIGPIPE: extern "C" fn() = {
    extern "C" fn remember() {
        // SAFETY: an all-zero sigaction is a valid value to be overwritten.
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: only reads the disposition into `old`.
        if unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut old) } == 0 {
            SIGPIPE_AT_START.store(old.sa_sigaction, Ordering::Relaxed);
        }
    }
    remember
};

/// Gives SIGPIPE the disposition the process was started with.
pub(crate) fn restore_sigpipe() {
    // SAFETY: the value is SIG_DFL or SIG_IGN: no handler survives the exec that started us.
    unsafe { libc::signal(libc::SIGPIPE, SIGPIPE_AT_START.load(Ordering::Relaxed)) };
}

/// Gives a signal its default action.
pub(crate) fn default_action(signal: nix::sys::signal::Signal) {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
}

/// No core file of this process, prctl(2).
pub(crate) fn no_core() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// Ignores SIGPIPE: a server learns of a closed connection from write(2).
pub(crate) fn ignore_sigpipe() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Takes the hard limits in place of the soft ones: of open files, for a background process holds three
/// descriptors per stack, or one per flow, and uses no select(2), for which the soft limit is low; and of time
/// and file size, which were meant for the program.
pub(crate) fn raise_limits() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    for resource in [Resource::RLIMIT_NOFILE, Resource::RLIMIT_CPU, Resource::RLIMIT_FSIZE] {
        if let Ok((_, hard)) = getrlimit(resource) {
            let _ = setrlimit(resource, hard, hard);
        }
    }
}

/// Keeps malloc(3) from holding on to memory that is free: without a word of ours, each large block that is freed raises
/// the size from which blocks are mappings of their own, which go back to the kernel when they are freed (mallopt(3)).
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [(libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 128 << 10)] {
        // SAFETY: two of malloc's numbers are set; both are what they are by default.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}

/// RLIMIT_NOFILE of a process: below that its descriptors are numbered.
///
/// # Errors
/// EPERM if it is another user's.
pub(crate) fn descriptor_limit(pid: i32) -> Result<u64, Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: nothing is set, and the limit is written to `limit`.
    Errno::result(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

/// Which side of a fork we are on.
pub(crate) enum Fork {
    /// The old process, and the new one's id.
    Parent(nix::unistd::Pid),
    /// The new process.
    Child,
}

/// fork(2). The process must have one thread.
pub(crate) fn fork() -> Result<Fork, Errno> {
    // SAFETY: with one thread the child has everything the parent had, locks included.
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends the process at once, running nothing.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}

/// Sets or removes an environment variable. The process must have one thread.
pub(crate) fn set_variable(name: &str, value: Option<&str>) {
    match value {
        // SAFETY: no other thread reads the environment meanwhile; there is none.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

/// Closes every descriptor but 0, 1, 2 and `keep`. Only for a process that forked and has left the
/// owners of all others behind for good.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            // SAFETY: the owners of these descriptors never run again in this process.
            unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Sets the names that ps(1) and top(1) show: a background process of viewnet should not look like the
/// program it serves.
pub(crate) fn set_title(title: &CStr) {
    // SAFETY: PR_SET_NAME copies at most 16 bytes of a NUL-terminated string.
    unsafe { libc::prctl(libc::PR_SET_NAME, title.as_ptr()) };
    let Some((start, end)) = argument_area() else { return };
    let length = end - start;
    let bytes = title.to_bytes();
    for i in 0..length {
        let byte = bytes.get(i).filter(|_| i + 1 < length).copied().unwrap_or(0);
        // SAFETY: the kernel placed the arguments in [start, end) of our own writable stack, and std
        // copied them when the process started.
        unsafe { ((start + i) as *mut u8).write_volatile(byte) };
    }
}

/// Where our command line lies in memory (proc(5): /proc/PID/stat, fields 48 and 49).
fn argument_area() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // The first field after the name is number 3.
    let (start, end) = (fields.get(45)?.parse().ok()?, fields.get(46)?.parse().ok()?);
    (0 < start && start < end).then_some((start, end))
}
