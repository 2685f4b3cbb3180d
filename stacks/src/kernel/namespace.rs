//! The maker: the process that lives in the user's network namespaces and makes sockets there.
//!
//! # Theory of operation
//! A process becomes a maker once, while it has one thread: by [`enter_new`] it unshares a user namespace
//! and maps its own user and group to 0 in it; by [`enter`] it joins the one that another maker of the same
//! user made, so that all stacks of a user are siblings. The owner of a user namespace has every
//! capability over the network namespaces it owns (user_namespaces(7), "capable owner"), also from
//! outside; that is why the programs of a view need not enter it.
//!
//! A maker is in one network namespace at a time; [`NetNamespace::enter`] moves it. setns(2) costs less
//! than a microsecond, and nothing at all when it is there already.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;

use super::sys;

/// Inode of the network namespace this process is in, if it is one of ours; 0 before the first.
static CURRENT: AtomicU64 = AtomicU64::new(0);

/// A step of becoming a maker, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making or joining the user namespace.
    UserNamespace,
    /// Mapping our ids in it.
    IdMap,
    /// Making a network namespace.
    NetNamespace,
    /// Making an interface that a switch can be plugged into: neither a TAP nor a veth.
    Plug,
}

/// Makes a user namespace in which the caller is user and group 0, and moves this process into it.
///
/// # Errors
/// The step that failed and its errno; EPERM and ENOSPC are policies of the machine (`viewnet doctor`).
pub fn enter_new() -> Result<(), (Step, Errno)> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| (Step::UserNamespace, e))?;
    let write = |file: &str, text: String| {
        let written =
            fs::OpenOptions::new().write(true).open(file).and_then(|mut f| f.write_all(text.as_bytes()));
        written.map_err(|e| (Step::IdMap, errno_of(&e)))
    };
    // Without this the group map is refused (user_namespaces(7), "setgroups").
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Moves this process into a user namespace that another maker of the same user made.
///
/// # Errors
/// EPERM if it is not ours, EINVAL if we are in it already or have threads.
pub fn enter(user_namespace: BorrowedFd<'_>) -> Result<(), (Step, Errno)> {
    setns(user_namespace, CloneFlags::CLONE_NEWUSER).map_err(|e| (Step::UserNamespace, e))
}

/// A network namespace.
#[derive(Debug)]
pub struct NetNamespace {
    fd: OwnedFd,
    inode: u64,
}

impl NetNamespace {
    /// Makes one and moves into it: loopback up, ping allowed, duplicate address detection off.
    ///
    /// # Errors
    /// The step that failed.
    pub fn create() -> Result<Self, (Step, Errno)> {
        let failed = |e| (Step::NetNamespace, e);
        unshare(CloneFlags::CLONE_NEWNET).map_err(failed)?;
        // Whatever fails from here on, we are no longer where we were.
        CURRENT.store(0, Ordering::Relaxed);
        let file = fs::File::open("/proc/self/ns/net").map_err(|e| failed(errno_of(&e)))?;
        let namespace = Self::from_fd(file.into()).map_err(failed)?;
        CURRENT.store(namespace.inode, Ordering::Relaxed);
        // Echo sockets for everybody who gets a socket from us: our group is 0 in the user namespace.
        sysctl("net/ipv4/ping_group_range", "0 0").map_err(failed)?;
        // A fresh interface is usable at once: nobody else can be on it with our address before us.
        for scope in ["all", "default"] {
            match sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0") {
                // A machine without IPv6.
                Err(Errno::ENOENT) => {}
                other => other.map_err(failed)?,
            }
        }
        Ok(namespace)
    }

    /// One that another process gave us.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Errno> {
        let inode = fstat(&fd)?.st_ino;
        Ok(Self { fd, inode })
    }

    /// The user namespace that owns it.
    ///
    /// # Errors
    /// EPERM if it is out of reach.
    pub fn user_namespace(&self) -> Result<OwnedFd, Errno> {
        sys::owning_user_namespace(self.fd.as_fd())
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// EPERM if this process is not a maker of its user.
    pub fn enter(&self) -> Result<(), Errno> {
        if CURRENT.load(Ordering::Relaxed) != self.inode {
            setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)?;
            CURRENT.store(self.inode, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl AsFd for NetNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes a sysctl of the network namespace this process is in.
///
/// # Errors
/// ENOENT if this kernel lacks it.
pub fn sysctl(name: &str, value: &str) -> Result<(), Errno> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(|e| errno_of(&e))
}

/// The errno in an I/O error.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Step {
    const ALL: [Self; 4] = [Self::UserNamespace, Self::IdMap, Self::NetNamespace, Self::Plug];

    fn what(self) -> &'static str {
        match self {
            Self::UserNamespace => "cannot make a user namespace",
            Self::IdMap => "cannot map user ids in a user namespace",
            Self::NetNamespace => "cannot make a network namespace",
            Self::Plug => "cannot make an interface",
        }
    }

    /// A refusal for a person, when nothing better is known than the errno.
    pub fn refusal(self, errno: Errno) -> Refusal {
        let step = format!("{self:?}");
        Refusal::new(self.what(), errno.desc()).hint("run `viewnet doctor`").errno(errno as i32).step(step)
    }

    /// The step and errno that such a refusal tells of.
    pub fn told_by(refusal: &Refusal) -> Option<(Self, Errno)> {
        let step =
            Self::ALL.into_iter().find(|step| refusal.step.as_deref() == Some(&format!("{step:?}")))?;
        Some((step, Errno::from_raw(refusal.errno?)))
    }
}
