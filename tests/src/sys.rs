//! The only unsafe code of the harness: what happens in the child between fork and exec.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Signals whose effect the tests look at.
const DEFAULTED: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// What a child becomes before it executes its program. Everything is prepared here, as nothing may be
/// allocated after fork.
#[derive(Clone, Debug)]
pub(crate) struct Confine {
    /// The World's host network.
    pub(crate) net: Option<Arc<OwnedFd>>,
    /// An empty folder that becomes a tmpfs with the device node in it.
    pub(crate) dev: Option<CString>,
    /// `dev` + "/tun"
    pub(crate) tun: Option<CString>,
    /// (what, over what): further bind mounts.
    pub(crate) binds: Vec<(CString, CString)>,
    /// The uid and gid to become.
    pub(crate) uid: Option<u32>,
    /// No user namespaces from here on. Its maps, of the user and of the group: each as itself.
    pub(crate) no_namespaces: Option<[Vec<u8>; 2]>,
    /// Start a session with this terminal (already open as this descriptor) as its own.
    pub(crate) terminal: Option<RawFd>,
}

impl Confine {
    /// Makes `command` start confined.
    pub(crate) fn apply(self, command: &mut Command) {
        // SAFETY: the closure only makes system calls and reads what it owns.
        unsafe {
            command.pre_exec(move || self.enter());
        }
    }

    fn enter(&self) -> io::Result<()> {
        // What another thread has open at this moment is none of the program's business.
        // SAFETY: marks descriptors close-on-exec, which concerns this child alone.
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
        // Whoever runs the tests may ignore signals (nohup, a shell's background); the tests send them.
        for signal in DEFAULTED {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        if let Some(fd) = self.terminal {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes an integer.
            if unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(net) = &self.net {
            setns(net, CloneFlags::CLONE_NEWNET)?;
        }
        if self.dev.is_some() || !self.binds.is_empty() {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, c"/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        }
        if let (Some(dev), Some(tun)) = (&self.dev, &self.tun) {
            mount(Some(c"tmpfs"), dev.as_c_str(), Some(c"tmpfs"), MsFlags::empty(), None::<&str>)?;
            let old = umask(Mode::empty());
            mknod(tun.as_c_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
            umask(old);
            mount(Some(tun.as_c_str()), c"/dev/net/tun", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        for (what, over) in &self.binds {
            let flags = MsFlags::MS_BIND;
            mount(Some(what.as_c_str()), over.as_c_str(), None::<&str>, flags, None::<&str>)?;
        }
        if let Some(uid) = self.uid {
            setgroups(&[])?;
            let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
            setresgid(gid, gid, gid)?;
            setresuid(uid, uid, uid)?;
        }
        if let Some([uids, gids]) = &self.no_namespaces {
            // The limit is that of the user namespace one is in: so in one of its own, where it is who it was. It may
            // write there, as one who changed its uid may not (PR_SET_DUMPABLE(2const)).
            nix::sys::prctl::set_dumpable(true)?;
            unshare(CloneFlags::CLONE_NEWUSER)?;
            write(c"/proc/self/setgroups", b"deny")?;
            write(c"/proc/self/uid_map", uids)?;
            write(c"/proc/self/gid_map", gids)?;
            write(c"/proc/sys/user/max_user_namespaces", b"0")?;
        }
        Ok(())
    }
}

/// Writes a file of /proc at once.
fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    let file = nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(file, bytes)?;
    Ok(())
}

/// The number of a descriptor that is kept open by its owner while the child starts.
pub(crate) fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
