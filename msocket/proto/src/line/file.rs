//! Socket files: taking a path, telling a dead one, leaving it.
//!
//! # Theory of operation
//! The kernel forgets a socket with its process, but not the socket's file. So whoever binds a path first clears
//! away the file of a dead server, and whoever ends, or finds out that its twin was killed, removes its own: by
//! device, inode and time of birth, as a file system may give the inode of a removed file to the next one.
//! Between the look and the deed the file could change hands; so all of them hold flock(2) on the folder
//! meanwhile ([`lock_folder`]), for at most [`LOCK_ATTEMPTS`] of [`LOCK_PAUSE`]: the folder may be locked by a
//! stranger to us, and the identity alone errs only by accident.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, StatxFlags, flock, statx};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};

use super::Refusal;

/// Connections that may wait to be accepted; the kernel's own limit (net.core.somaxconn) is below.
const BACKLOG: i32 = 4096;
/// Longest path of a socket, in bytes: sun_path of unix(7) less the final NUL.
pub const MAX_PATH: usize = 107;
/// Attempts to lock a folder, and the pause between two: two seconds in all. We hold it for microseconds, but
/// for the making of a stack, which takes some milliseconds.
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Binds and listens on `path` with file mode `mode`; the result is non-blocking.
///
/// # Errors
/// EADDRINUSE when a living server has the path; those of bind(2) and chmod(2) otherwise.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let _lock = lock_folder(path)?;
    listen_locked(path, mode)
}

/// As [`listen`], for whoever holds [`lock_folder`], or another flock(2) on that folder.
///
/// # Errors
/// As [`listen`].
pub fn listen_locked(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        // Whom the mode shuts out may at no time connect, and whom it lets in, at once: the file has the mode of the
        // socket, less the mask of the process, which other threads use as well (unix_bind_bsd of net/unix/af_unix.c).
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(mode))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    };
    let listener = match bind() {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead(path) => {
            std::fs::remove_file(path)?;
            bind()?
        }
        other => other?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether `path` is the socket file of a server that died.
pub fn is_dead(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|m| m.file_type().is_socket());
    is_socket && dial(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Removes the socket file of a server that died; true if there was one.
///
/// # Errors
/// Those of unlink(2).
pub fn sweep(path: &Path) -> io::Result<bool> {
    let dead = is_dead(path) && {
        let _lock = lock_folder(path)?;
        // It may have been taken while we waited.
        let dead = is_dead(path);
        if dead {
            std::fs::remove_file(path)?;
            let _ = std::fs::remove_dir_all(companion(path));
        }
        dead
    };
    Ok(dead)
}

/// Holds the folder of `path` until the result is dropped. A folder that is not ours is not locked, as its
/// owner could hold us up; nor can two of us meet there but by intent.
///
/// # Errors
/// Those of stat(2) and open(2).
pub fn lock_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if folder.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(None);
    }
    let fd: OwnedFd = std::fs::File::open(folder)?.into();
    for _ in 0..LOCK_ATTEMPTS {
        match flock(fd.as_fd(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(fd)),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            // A file system without locks.
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Connects without waiting for a place in the server's queue; the result blocks.
pub(super) fn dial(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The folder that a server may have beside its socket's file: whoever removes that removes this, too.
pub fn companion(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".files");
    path.with_file_name(name)
}

/// A socket file that is ours: whoever takes the path after us is safe from us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode, and when it was made, where the file system knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    born: (i64, u32),
}

impl SocketFile {
    /// The file that is at `path` now.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Identity::of(path)? })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless the path is another's by now.
    pub fn remove(&self) {
        let _lock = lock_folder(&self.path);
        self.remove_locked();
    }

    /// As [`Self::remove`], for whoever holds [`lock_folder`].
    pub fn remove_locked(&self) {
        if Identity::of(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_dir_all(companion(&self.path));
        }
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let flags = StatxFlags::INO | StatxFlags::BTIME;
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags)?;
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        })
    }
}

/// What an error of taking or reaching the socket file `path` means to a person, who tried `what`.
pub fn unusable(what: impl Into<String>, path: &Path, error: &io::Error) -> Refusal {
    use io::ErrorKind::{
        AddrInUse, InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull,
        WouldBlock,
    };
    let shown = path.display();
    let is_socket = || path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let (why, hint) = match error.kind() {
        // std checks the length before the kernel does.
        _ if path.as_os_str().len() > MAX_PATH => (
            format!(
                "{shown} is {} bytes long, and a socket's path is at most {MAX_PATH}",
                path.as_os_str().len()
            ),
            "choose a shorter path or name, or set XDG_RUNTIME_DIR to a shorter folder",
        ),
        InvalidInput => (format!("{shown} is no path"), "choose another path"),
        AddrInUse if is_socket() => (format!("{shown} is served already"), "choose another name or path"),
        AddrInUse => (format!("{shown} exists and is no socket"), "choose another name or path"),
        // connect(2) without waiting, to a server whose queue is full.
        WouldBlock => (format!("{shown}: its server is too busy to answer"), "try again"),
        NotFound => {
            (format!("the folder of {shown} does not exist"), "make the folder, or choose another path")
        }
        NotADirectory => (format!("a part of {shown} is no folder"), "choose another path"),
        PermissionDenied => {
            (format!("{shown}: {error}"), "choose a path in a folder of your own, or a name without `/`")
        }
        ReadOnlyFilesystem => (format!("{shown} is on a read-only file system"), "choose another path"),
        StorageFull => {
            (format!("there is no room on the file system of {shown}"), "make room, or choose another path")
        }
        _ => return Refusal { errno: error.raw_os_error(), ..Refusal::new(what, error) },
    };
    Refusal { errno: error.raw_os_error(), ..Refusal::new(what, why).hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_from_the_dead_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen(&path, 0o600).unwrap();
        assert_eq!(listen(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(!sweep(&path).unwrap());
        drop(first);
        assert!(is_dead(&path));
        drop(listen(&path, 0o600).unwrap());
        assert!(sweep(&path).unwrap() && !path.exists() && !sweep(&path).unwrap());
    }

    #[test]
    fn only_ones_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..50 {
            drop(listen(&path, 0o600).unwrap());
            let old = SocketFile::at(&path).unwrap();
            // Some file systems have their clock tick every few milliseconds, and give the same inode again.
            std::thread::sleep(Duration::from_millis(11));
            let living = listen(&path, 0o600).unwrap();
            old.remove();
            assert!(path.exists(), "the next server's file was removed");
            let own = SocketFile::at(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
            own.remove();
            assert!(!path.exists(), "a change of its mode made it another's");
            drop(living);
        }
    }

    #[test]
    fn a_locked_folder_delays_and_does_not_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let held = lock_folder(&path).unwrap();
        assert!(held.is_some());
        listen(&path, 0o600).unwrap();
    }

    #[test]
    fn every_error_says_what_to_do() {
        let long = PathBuf::from(format!("/{}", "x".repeat(MAX_PATH)));
        let tried = UnixListener::bind(&long).unwrap_err();
        let refusal = unusable("cannot make the socket", &long, &tried).to_string();
        assert!(refusal.contains("at most 107") && refusal.contains("; choose a shorter"), "{refusal}");
        let missing = Path::new("/no/such/folder/s");
        let tried = listen(missing, 0o600).unwrap_err();
        let refusal = unusable("cannot make the socket", missing, &tried).to_string();
        assert!(refusal.contains("does not exist; make the folder"), "{refusal}");
    }
}
