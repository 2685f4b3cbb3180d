//! Where stacks have their paths, and what this process inherited.
//!
//! The one file of the crate that reads the environment. The rules are those of the command: a name without `/`
//! is a file in `stacks/` of the runtime folder, which is `$XDG_RUNTIME_DIR/viewnet`, else `/run/user/UID/viewnet`,
//! else `/tmp/viewnet-UID`.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::sys;

/// Default stacks in the environment, for programs that this one executes: `FAMILY=PATH`, separated by newlines,
/// which no path of ours may have.
const DEFAULTS: &str = "MSOCKET_DEFAULT";
/// The environment as setenv(3) wants it.
const DEFAULTS_C: &std::ffi::CStr = c"MSOCKET_DEFAULT";

/// The runtime folder of this user; it may not be there.
pub(crate) fn folder() -> PathBuf {
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        return PathBuf::from(dir).join("viewnet");
    }
    let uid = rustix::process::geteuid().as_raw();
    let user = PathBuf::from(format!("/run/user/{uid}"));
    let private = user.symlink_metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
    if private { user.join("viewnet") } else { PathBuf::from(format!("/tmp/viewnet-{uid}")) }
}

/// The path of the stack that the program calls `name`, absolute.
pub(crate) fn path(name: &Path) -> Result<PathBuf, Errno> {
    match name.as_os_str().as_bytes() {
        b"" => Err(Errno::ENOENT),
        bytes if bytes.contains(&b'\n') || bytes.contains(&0) => Err(Errno::EINVAL),
        bytes if bytes.contains(&b'/') => std::path::absolute(name).map_err(errno),
        _ => Ok(folder().join("stacks").join(name)),
    }
}

/// The folder for the paths of stacks in this process, made if it is not there: nobody else may enter it.
pub(crate) fn own_stacks() -> io::Result<PathBuf> {
    let (top, uid) = (folder(), rustix::process::geteuid().as_raw());
    let stacks = top.join("stacks");
    for dir in [&top, &stacks] {
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let meta = dir.symlink_metadata()?;
        if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
            return Err(Errno::EACCES.into());
        }
    }
    Ok(stacks)
}

/// What the names of this process's own stacks begin with.
pub(crate) fn own_prefix() -> String {
    format!("own-{}.", std::process::id())
}

/// Whether a path is that of a stack in this process.
pub(crate) fn is_own(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes);
    name.is_some_and(|name| name.starts_with(own_prefix().as_bytes()))
        && path.parent() == Some(&folder().join("stacks"))
}

/// Where switches have their sockets.
pub(crate) fn switches() -> PathBuf {
    folder().join("switches")
}

/// The default stacks that whoever executed us had set.
pub(crate) fn inherited() -> Vec<(i32, PathBuf)> {
    let text = std::env::var_os(DEFAULTS).unwrap_or_default().into_vec();
    let entry = |line: &[u8]| {
        let equals = line.iter().position(|byte| *byte == b'=')?;
        let family = std::str::from_utf8(&line[..equals]).ok()?.parse().ok()?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&line[equals + 1..]));
        path.is_absolute().then_some((family, path))
    };
    text.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

/// Leaves the default stacks to the programs that we execute.
pub(crate) fn leave<'a>(defaults: impl Iterator<Item = (i32, &'a Path)>) {
    let mut text = Vec::new();
    for (family, path) in defaults {
        text.extend(format!("{family}=").into_bytes());
        text.extend(path.as_os_str().as_bytes());
        text.push(b'\n');
    }
    // Paths with a NUL were refused.
    if let Ok(text) = CString::new(text) {
        sys::set_variable(DEFAULTS_C, &text);
    }
}

/// The errno in an I/O error.
pub(crate) fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
