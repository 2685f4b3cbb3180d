//! What a World's commands left behind: processes that carry its runtime folder in their environment, files in
//! that folder, and mounts of namespaces below it.
//!
//! A network namespace without a process, an open descriptor or a mount does not exist; so when these are gone,
//! so are the namespaces, their sockets and their TAPs.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One thing left behind.
#[derive(Debug, Clone)]
pub enum Leftover {
    /// A process that is not a zombie.
    Process {
        /// Its id.
        pid: i32,
        /// Its command line.
        line: String,
    },
    /// A file (not a folder) in the runtime folder.
    File(PathBuf),
    /// A line of /proc/self/mountinfo.
    Mount(String),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, line } => write!(f, "process {pid}: {line}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Mount(line) => write!(f, "mount {line}"),
        }
    }
}

/// Everything that is left of the World whose runtime folder this is.
pub fn find(runtime: &Path) -> Vec<Leftover> {
    let mut found: Vec<_> =
        processes(runtime).into_iter().map(|(pid, line)| Leftover::Process { pid, line }).collect();
    found.extend(files_in(runtime).into_iter().map(Leftover::File));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let folder = runtime.to_string_lossy();
    found.extend(mounts.lines().filter(|l| l.contains(&*folder)).map(|l| Leftover::Mount(l.into())));
    found
}

/// The processes of a World: pid and command line.
pub fn processes(runtime: &Path) -> Vec<(i32, String)> {
    let mut mark = b"XDG_RUNTIME_DIR=".to_vec();
    mark.extend_from_slice(runtime.as_os_str().as_bytes());
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| *pid != std::process::id().cast_signed())
        .filter_map(|pid| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let environ = fs::read(proc.join("environ")).ok()?;
            if !environ.split(|b| *b == 0).any(|variable| variable == mark) {
                return None;
            }
            let line = fs::read(proc.join("cmdline")).ok()?;
            (!is_zombie(pid)).then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with(['Z', 'X']))
}

/// Everything but folders in a folder and those below it.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let below = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_in(&entry.path()),
        _ => vec![entry.path()],
    });
    below.collect()
}
