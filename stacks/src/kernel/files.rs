//! The files about a namespace's network: /proc/net and /sys/class/net as its own processes see them.
//!
//! # Theory of operation
//! Both follow whoever opens or mounts them, and from then on the file: we open it where the stack is and pass the
//! descriptor on. Of sysfs there is no such view without a mount of one's own, so a thread makes one, in a mount
//! namespace of its own, attached nowhere: it is gone with its descriptor. Read: proc_net(5), fsopen(2),
//! mount_namespaces(7). A path is walked below its place and no higher (openat2(2), RESOLVE_BENEATH).

use std::os::fd::OwnedFd;

use msocket_proto::proto::{File, FilePlace, FileUse};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How often a path is walked: mounts are rare, and each walk takes microseconds.
const ATTEMPTS: usize = 64;

/// Opens a file; the caller is in the namespace. `sysfs` is made when it is needed first.
pub(super) fn open(file: &File, sysfs: &mut Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    let path = if file.path.is_empty() { "." } else { file.path.as_str() };
    match file.place {
        FilePlace::Proc => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open("/proc/thread-self/net", flags, Mode::empty()).map_err(errno)?;
            below(&folder, path, file.how)
        }
        FilePlace::Sys => {
            let root = match sysfs.take() {
                Some(root) => root,
                None => mount()?,
            };
            below(sysfs.insert(root), &format!("class/net/{path}"), file.how)
        }
    }
}

fn below(folder: &OwnedFd, path: &str, how: FileUse) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CLOEXEC
        | match how {
            FileUse::Read => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            FileUse::Look => OFlags::PATH,
            FileUse::Link => OFlags::PATH | OFlags::NOFOLLOW,
        };
    let open = || openat2(folder, path, flags, Mode::empty(), ResolveFlags::BENEATH);
    // EAGAIN: something was mounted or renamed on the machine while a `..` was walked, as links in sysfs have them.
    let again = |result: &Result<_, _>| matches!(result, Err(rustix::io::Errno::AGAIN));
    let last = || Err(rustix::io::Errno::AGAIN);
    (0..ATTEMPTS).map(|_| open()).find(|result| !again(result)).unwrap_or_else(last).map_err(errno)
}

/// A sysfs that shows the namespace's interfaces, for reading.
#[expect(clippy::disallowed_methods, reason = "the mount namespace is a thread's, not the process's")]
fn mount() -> Result<OwnedFd, Errno> {
    let mounted = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let context = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(errno)?;
        fsconfig_create(&context).map_err(errno)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(errno)
    });
    // Where it cannot be had, as in many containers, the program sees the machine's.
    mounted.join().unwrap_or(Err(Errno::EIO)).map_err(|_| Errno::EOPNOTSUPP)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
