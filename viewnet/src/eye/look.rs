//! Looking at programs: /proc, process_vm_readv(2), pidfd_getfd(2). Whoever calls this must be in the user
//! namespace of the program.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use crate::target::Inspection;

/// Names, in a program's environment, the nested view it was started in.
pub(crate) const MARKER: &str = "VIEWNET_VIEW";
/// Sockets through which the host resolves names: nscd, systemd-resolved (varlink), the system bus, on which
/// systemd-resolved has the name org.freedesktop.resolve1, and avahi (nss-mdns).
const HOST_RESOLVERS: [&str; 5] = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/dbus/system_bus_socket",
    "/run/avahi-daemon/socket",
];
/// How far up the process tree we look for the root of a nested view.
const MAX_ANCESTORS: usize = 64;
/// Most ranges of one process_vm_readv(2): UIO_MAXIOV, linux/uio.h.
const IOV_MAX: usize = 1024;
/// A pidfd of a thread rather than of its process (linux/pidfd.h, since 6.9).
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// Where viewnet was started.
#[derive(Debug)]
pub(super) struct Home {
    network: Option<(u64, u64)>,
    user: Option<(u64, u64)>,
}

impl Home {
    /// Where this process is.
    pub(super) fn read() -> Self {
        Self { network: identity("/proc/self/ns/net"), user: identity("/proc/self/ns/user") }
    }
}

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Who and where a thread is.
pub(super) fn inspect(tid: i32, views: Option<u32>, home: &Home) -> Result<Inspection, Errno> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    let same = |file: &str, ours: Option<(u64, u64)>| {
        // Where nobody may look (a program made itself undumpable), it is where it was started.
        identity(&format!("/proc/{tid}/ns/{file}")).zip(ours).is_none_or(|(theirs, ours)| theirs == ours)
    };
    let ancestors = if views.is_some() { ancestors(&status) } else { Vec::new() };
    let effective = field(&status, "CapEff").and_then(|caps| u64::from_str_radix(caps, 16).ok()).unwrap_or(0);
    Ok(Inspection {
        pid: field(&status, "Tgid").and_then(|pid| pid.parse().ok()).ok_or(Errno::EIO)?,
        home_network: same("net", home.network),
        home_user: same("user", home.user),
        euid: field(&status, "Uid")
            .and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok())
            .ok_or(Errno::EIO)?,
        // CAP_NET_RAW is number 13 in linux/capability.h.
        net_raw: effective & 1 << 13 != 0,
        // The nearest that has one: a program may have cleaned its own environment.
        marker: views.and_then(|supervisor| ancestors.iter().find_map(|pid| marker(*pid, supervisor))),
        ancestors,
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The nested view of `supervisor` that a process was started in.
fn marker(pid: i32, supervisor: u32) -> Option<u64> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARKER}={supervisor}.");
    let value = environ.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn ancestors(status: &str) -> Vec<i32> {
    let number =
        |status: &str, name| field(status, name).and_then(|n| n.parse::<i32>().ok()).filter(|pid| *pid > 0);
    let mut found: Vec<i32> = number(status, "Tgid").into_iter().collect();
    let mut parent = number(status, "PPid");
    while let Some(pid) = parent.filter(|_| found.len() < MAX_ANCESTORS) {
        found.push(pid);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        parent = number(&status, "PPid");
    }
    found
}

/// A pidfd of the thread, and whether it is exactly that: older kernels have pidfds of processes only.
pub(super) fn open_thread(tid: i32) -> Result<(OwnedFd, bool), Errno> {
    let open = |id: i32, flags: u32| {
        let pid = rustix::process::Pid::from_raw(id).ok_or(Errno::ESRCH)?;
        let flags = rustix::process::PidfdFlags::from_bits_retain(flags);
        rustix::process::pidfd_open(pid, flags).map_err(|e| Errno::from_raw(e.raw_os_error()))
    };
    match open(tid, PIDFD_THREAD) {
        Err(Errno::EINVAL) => {
            let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
            let process = field(&status, "Tgid").and_then(|pid| pid.parse().ok()).ok_or(Errno::ESRCH)?;
            Ok((open(process, 0)?, false))
        }
        opened => Ok((opened?, true)),
    }
}

/// A copy of a program's descriptor.
pub(super) fn duplicate(process: BorrowedFd<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    rustix::process::pidfd_getfd(process, fd, rustix::process::PidfdGetfdFlags::empty())
        .map_err(|e| Errno::from_raw(e.raw_os_error()))
}

/// How many descriptors a thread has.
pub(super) fn descriptors(tid: i32) -> Option<u64> {
    fs::read_dir(format!("/proc/{tid}/fd")).ok().map(|entries| entries.count() as u64)
}

/// AF_* of a socket.
pub(super) fn domain(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    let domain =
        rustix::net::sockopt::socket_domain(socket).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    Ok(i32::from(domain.as_raw()))
}

/// Copies ranges of a program's memory one behind the other; EFAULT unless all of it can be read.
pub(super) fn gather(tid: i32, ranges: &[(u64, usize)]) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; ranges.iter().map(|(_, length)| length).sum()];
    let mut rest = bytes.as_mut_slice();
    for ranges in ranges.chunks(IOV_MAX) {
        let remote: Vec<_> =
            ranges.iter().map(|(base, len)| RemoteIoVec { base: *base as usize, len: *len }).collect();
        let length = ranges.iter().map(|(_, length)| length).sum();
        if length == 0 {
            continue;
        }
        let (piece, behind) = rest.split_at_mut(length);
        rest = behind;
        if process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(piece)], &remote)? != length {
            return Err(Errno::EFAULT);
        }
    }
    Ok(bytes)
}

/// As much of a range as can be read; EFAULT if that is nothing.
pub(super) fn read_partly(tid: i32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    if length > 0 {
        let remote = [RemoteIoVec { base: address as usize, len: length }];
        let got = process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
        bytes.truncate(got);
    }
    Ok(bytes)
}

/// Writes pieces into a program's memory; EFAULT unless all of it can be written.
pub(super) fn scatter(tid: i32, pieces: &[(u64, &[u8])]) -> Result<(), Errno> {
    for pieces in pieces.chunks(IOV_MAX) {
        let local: Vec<_> = pieces.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
        let remote: Vec<_> = pieces
            .iter()
            .map(|(base, bytes)| RemoteIoVec { base: *base as usize, len: bytes.len() })
            .collect();
        let length: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        if length > 0 && process_vm_writev(Pid::from_raw(tid), &local, &remote)? != length {
            return Err(Errno::EFAULT);
        }
    }
    Ok(())
}

/// Compares by file, not by name: the program's own root, folder and links decide what a path means.
pub(super) fn is_host_resolver(tid: i32, path: &[u8]) -> bool {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let seen = match path.strip_prefix("/") {
        Ok(inside) => Path::new(&format!("/proc/{tid}/root")).join(inside),
        Err(_) => Path::new(&format!("/proc/{tid}/cwd")).join(path),
    };
    let known = |name: &str| {
        // The host's file, whether or not the program has a root of its own.
        let named = [PathBuf::from(name), Path::new(&format!("/proc/{tid}/root")).join(&name[1..])];
        named
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|meta| (meta.dev(), meta.ino()))
            .collect::<Vec<_>>()
    };
    match fs::metadata(&seen) {
        Ok(meta) => HOST_RESOLVERS.iter().any(|name| known(name).contains(&(meta.dev(), meta.ino()))),
        // Not there: the program shall be told so by the kernel.
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => false,
        // Not to be seen: by name.
        Err(_) => HOST_RESOLVERS.iter().any(|name| {
            path == Path::new(name)
                || path.strip_prefix("/var").is_ok_and(|rest| Path::new("/").join(rest) == Path::new(name))
        }),
    }
}

/// Which of the nested views still have processes.
pub(super) fn living(supervisor: u32, roots: &[(u64, i32)]) -> Vec<u64> {
    let lives = |(_, root): &&(u64, i32)| fs::metadata(format!("/proc/{root}")).is_ok();
    let mut found: BTreeSet<u64> = roots.iter().filter(lives).map(|(view, _)| *view).collect();
    if found.len() == roots.len() {
        return found.into_iter().collect();
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(view) =
            marker(pid, supervisor).filter(|view| roots.iter().any(|(known, _)| known == view))
        {
            found.insert(view);
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_fields_are_found() {
        let status =
            "Name:\tx\nTgid:\t12\nPPid:\t7\nUid:\t1000\t1001\t1002\t1003\nCapEff:\t0000000000002000\n";
        assert_eq!(field(status, "Tgid"), Some("12"));
        assert_eq!(field(status, "PPid"), Some("7"));
        assert_eq!(field(status, "Gid"), None);
    }

    #[test]
    fn we_see_ourselves_at_home() {
        let me = std::process::id() as i32;
        let seen = inspect(me, Some(1), &Home::read()).unwrap();
        assert!(seen.home_network && seen.home_user);
        assert_eq!(seen.ancestors[0], me);
        assert_eq!(seen.euid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn a_resolver_is_one_if_it_is_there() {
        let me = std::process::id() as i32;
        for path in ["/run/nscd/socket", "/var/run/nscd/socket", "/run/dbus/system_bus_socket"] {
            assert_eq!(is_host_resolver(me, path.as_bytes()), fs::metadata(path).is_ok(), "{path}");
        }
        assert!(!is_host_resolver(me, b"/etc/passwd"));
    }

    fn own_thread() -> i32 {
        nix::unistd::gettid().as_raw()
    }

    fn address(bytes: &[u8]) -> u64 {
        bytes.as_ptr().addr() as u64
    }

    #[test]
    fn memory_is_gathered_and_scattered_whole_or_not_at_all() {
        let (tid, source) = (own_thread(), std::hint::black_box(b"0123456789".to_vec()));
        let ranges = [(address(&source) + 8, 2), (0, 0), (address(&source), 3)];
        assert_eq!(gather(tid, &ranges).unwrap(), b"89012");
        assert_eq!(gather(tid, &[(address(&source), 1), (8, 1)]), Err(Errno::EFAULT));
        assert_eq!(gather(tid, &[(0, 0)]), Ok(vec![]));
        // More ranges than one call takes.
        let many: Vec<_> = (0..2500).map(|n| (address(&source) + n % 10, 1)).collect();
        assert_eq!(gather(tid, &many).unwrap(), b"0123456789".repeat(250));
        let target = std::hint::black_box(vec![b'.'; 2500]);
        let pieces: Vec<(u64, &[u8])> = (0..2500).map(|n| (address(&target) + n, &source[..1])).collect();
        scatter(tid, &pieces).unwrap();
        assert_eq!(std::hint::black_box(&target), &vec![b'0'; 2500]);
        assert_eq!(scatter(tid, &[(8, b"x")]), Err(Errno::EFAULT));
        assert_eq!(read_partly(tid, 8, 4), Err(Errno::EFAULT));
        assert_eq!(read_partly(tid, address(&source), 4).unwrap(), b"0123");
    }

    #[test]
    fn a_descriptor_is_duplicated_and_known_by_its_family() {
        use std::os::fd::{AsFd, AsRawFd};
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (process, _) = open_thread(own_thread()).unwrap();
        let copy = duplicate(process.as_fd(), socket.as_raw_fd()).unwrap();
        assert_eq!(domain(copy.as_fd()), Ok(libc::AF_UNIX));
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(domain(file.as_fd()), Err(Errno::ENOTSOCK));
        assert_eq!(duplicate(process.as_fd(), 1 << 20).unwrap_err(), Errno::EBADF);
        assert_eq!(open_thread(i32::MAX).unwrap_err(), Errno::ESRCH);
    }
}
