//! Finding and ending the processes of a program, whoever their parent is by now.
//!
//! Each process of a program has [`VARIABLE`] in its environment, with the topology's folder and the program's name;
//! what it starts inherits that (proc(5): /proc/PID/environ is the environment at the time of the exec). Supervisors
//! of views have it, too, and end by themselves with the last program of the view: they are let alone, or else the
//! program would lose its network before it could say goodbye.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::state::Folder;

/// The variable.
pub(crate) const VARIABLE: &str = "VIEWNET_PROGRAM";
/// How often processes that are being killed are looked at again, and how long that takes between two.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Which processes are meant.
#[derive(Debug, Clone)]
pub(crate) struct Marker {
    entry: Vec<u8>,
    /// Not the start of the entry, but all of it.
    whole: bool,
}

/// The variable's value for a program.
pub(crate) fn value(folder: &Folder, program: &str) -> PathBuf {
    folder.path().join(program)
}

/// The processes of a program, or, without a name, of all of the topology.
pub(crate) fn marker(folder: &Folder, program: &str) -> Marker {
    let mut entry = format!("{VARIABLE}=").into_bytes();
    // A path joined with nothing ends in a slash, so that no longer name is meant.
    entry.extend_from_slice(value(folder, program).as_os_str().as_bytes());
    Marker { entry, whole: !program.is_empty() }
}

/// Those that there are now. A descriptor cannot come to mean another process.
pub(crate) fn find(marker: &Marker) -> Vec<OwnedFd> {
    let ours = fs::read_link("/proc/self/exe").ok();
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_meant = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environment.split(|byte| *byte == 0);
        entries.any(|entry| match marker.whole {
            true => entry == marker.entry,
            false => entry.starts_with(&marker.entry),
        }) && (ours.is_none() || fs::read_link(format!("/proc/{pid}/exe")).ok() != ours)
    };
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            // Opened before it is looked at: it is what we saw, or gone.
            let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            is_meant(pid).then_some(fd)
        })
        .collect()
}

/// Asks them to end.
pub(crate) fn signal(marker: &Marker, signal: Signal) {
    for process in find(marker) {
        let _ = pidfd_send_signal(&process, signal);
    }
}

/// Kills them, and waits until they are gone.
pub(crate) fn end(marker: &Marker) {
    for _ in 0..LOOKS {
        let found = find(marker);
        if found.is_empty() {
            return;
        }
        for process in &found {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        std::thread::sleep(PAUSE);
    }
}
