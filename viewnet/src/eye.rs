//! The eye: the part of a supervisor that stays outside.
//!
//! # Theory of operation
//! The supervisor lives in the user namespace of the stacks, from where the kernel lets it neither read a
//! program's memory nor follow its /proc links (both ask for rights in the program's user namespace). The
//! eye is its twin that stays where the program is, and answers one [`Question`] at a time over a
//! socket pair. It also keeps the list of socket files that the supervisor serves: whichever of the two
//! dies, the other notices at once, and the files go. It decides nothing. The keeper of stacks and every switch
//! have an eye for these files alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use msocket::line::SocketFile;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;

use crate::target::{Inspection, Target};

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
/// Largest piece of a program's memory that is copied at once.
const MAX_COPY: usize = 64 << 10;
/// Longest message between the twins.
const MAX_MESSAGE: usize = MAX_COPY + 4096;
/// How far up the process tree we look for the root of a nested view.
const MAX_ANCESTORS: usize = 64;

/// What the supervisor wants to know or done.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// `views`: which supervisor's nested views are looked for, if any.
    Inspect {
        tid: i32,
        views: Option<u32>,
    },
    Read {
        tid: i32,
        address: u64,
        length: usize,
    },
    Write {
        tid: i32,
        address: u64,
        bytes: Vec<u8>,
    },
    Domain {
        tid: i32,
        fd: i32,
    },
    HostResolver {
        tid: i32,
        path: Vec<u8>,
    },
    Keep {
        file: SocketFile,
    },
    Forget {
        path: PathBuf,
    },
    Living {
        supervisor: u32,
        roots: Vec<(u64, i32)>,
    },
}

/// The answers, in the order of the questions; an errno for any of them.
#[derive(Debug, Serialize, Deserialize)]
enum Reading {
    Inspection(Inspection),
    Bytes(Vec<u8>),
    Done,
    Domain(i32),
    Yes(bool),
    Living(Vec<u64>),
    Failed(i32),
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Eye {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// A pair of connected ends, the supervisor's first.
pub(crate) fn pair() -> Result<(Eye, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Eye { socket: ours, buffer: vec![0; MAX_MESSAGE] }, theirs))
}

impl Eye {
    fn ask(&mut self, question: &Question) -> Result<Reading, Errno> {
        let bytes = postcard::to_stdvec(question).map_err(|_| Errno::EMSGSIZE)?;
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)?;
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        match postcard::from_bytes(&self.buffer[..length]) {
            Ok(Reading::Failed(errno)) => Err(Errno::from_raw(errno)),
            Ok(reading) => Ok(reading),
            Err(_) => Err(Errno::EIO),
        }
    }

    /// Who and where a thread is; its ancestors too, and marks of nested views, if `views` names us.
    pub(crate) fn inspect(&mut self, tid: i32, views: Option<u32>) -> Result<Inspection, Errno> {
        match self.ask(&Question::Inspect { tid, views })? {
            Reading::Inspection(inspection) => Ok(inspection),
            _ => Err(Errno::EIO),
        }
    }

    /// Remembers a socket file that must not outlive the supervisor.
    pub(crate) fn keep(&mut self, path: &Path) -> Result<(), Errno> {
        let file =
            SocketFile::at(path).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        self.ask(&Question::Keep { file }).map(drop)
    }

    /// Forgets such a file.
    pub(crate) fn forget(&mut self, path: &Path) -> Result<(), Errno> {
        self.ask(&Question::Forget { path: path.to_owned() }).map(drop)
    }

    /// Which of the nested views, given with the process each was made for, still have processes.
    pub(crate) fn living(&mut self, roots: Vec<(u64, i32)>) -> Result<Vec<u64>, Errno> {
        match self.ask(&Question::Living { supervisor: std::process::id(), roots })? {
            Reading::Living(views) => Ok(views),
            _ => Err(Errno::EIO),
        }
    }

    /// One thread, as a handler's target.
    pub(crate) fn target(&mut self, tid: i32, views: Option<u32>) -> Seen<'_> {
        Seen { eye: self, tid, views }
    }
}

impl AsFd for Eye {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A thread seen through the eye.
pub(crate) struct Seen<'a> {
    eye: &'a mut Eye,
    tid: i32,
    views: Option<u32>,
}

impl Target for Seen<'_> {
    fn inspect(&mut self) -> Result<Inspection, Errno> {
        self.eye.inspect(self.tid, self.views)
    }

    fn read(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        match self.eye.ask(&Question::Read { tid: self.tid, address, length })? {
            Reading::Bytes(bytes) => Ok(bytes),
            _ => Err(Errno::EIO),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.eye.ask(&Question::Write { tid: self.tid, address, bytes: bytes.to_vec() }).map(drop)
    }

    fn domain(&mut self, fd: i32) -> Result<i32, Errno> {
        match self.eye.ask(&Question::Domain { tid: self.tid, fd })? {
            Reading::Domain(domain) => Ok(domain),
            _ => Err(Errno::EIO),
        }
    }

    fn is_host_resolver(&mut self, path: &[u8]) -> Result<bool, Errno> {
        match self.eye.ask(&Question::HostResolver { tid: self.tid, path: path.to_vec() })? {
            Reading::Yes(yes) => Ok(yes),
            _ => Err(Errno::EIO),
        }
    }
}

/// The eye itself: answers until the supervisor is gone, then clears up behind it.
pub(crate) fn watch(socket: &OwnedFd) {
    let mut kept = BTreeMap::new();
    let home = Home::read();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let reading = match postcard::from_bytes(&buffer[..length]) {
            Ok(question) => look(question, &home, &mut kept).unwrap_or_else(|e| Reading::Failed(e as i32)),
            Err(_) => Reading::Failed(Errno::EBADMSG as i32),
        };
        let Ok(bytes) = postcard::to_stdvec(&reading) else { break };
        if send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).is_err() {
            break;
        }
    }
    kept.values().for_each(SocketFile::remove);
}

/// Where viewnet was started.
struct Home {
    network: Option<(u64, u64)>,
    user: Option<(u64, u64)>,
}

impl Home {
    fn read() -> Self {
        Self { network: identity("/proc/self/ns/net"), user: identity("/proc/self/ns/user") }
    }
}

fn look(question: Question, home: &Home, kept: &mut BTreeMap<PathBuf, SocketFile>) -> Result<Reading, Errno> {
    Ok(match question {
        Question::Inspect { tid, views } => Reading::Inspection(inspect(tid, views, home)?),
        Question::Read { length, .. } if length > MAX_COPY => return Err(Errno::EINVAL),
        Question::Read { tid, address, length } => {
            let mut bytes = vec![0; length];
            let remote = [RemoteIoVec { base: address as usize, len: length }];
            let got = process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(&mut bytes)], &remote)?;
            if got != length {
                return Err(Errno::EFAULT);
            }
            Reading::Bytes(bytes)
        }
        Question::Write { tid, address, bytes } => {
            let remote = [RemoteIoVec { base: address as usize, len: bytes.len() }];
            let put = process_vm_writev(Pid::from_raw(tid), &[std::io::IoSlice::new(&bytes)], &remote)?;
            if put != bytes.len() {
                return Err(Errno::EFAULT);
            }
            Reading::Done
        }
        Question::Domain { tid, fd } => Reading::Domain(domain(tid, fd)?),
        Question::HostResolver { tid, path } => Reading::Yes(is_host_resolver(tid, &path)),
        Question::Keep { file } => {
            kept.insert(file.path().to_owned(), file);
            Reading::Done
        }
        Question::Forget { path } => {
            kept.remove(&path);
            Reading::Done
        }
        Question::Living { supervisor, roots } => Reading::Living(living(supervisor, &roots)),
    })
}

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

fn inspect(tid: i32, views: Option<u32>, home: &Home) -> Result<Inspection, Errno> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    let same = |file: &str, ours: Option<(u64, u64)>| {
        // Where nobody may look (a program made itself undumpable), it is where it was started.
        identity(&format!("/proc/{tid}/ns/{file}")).zip(ours).is_none_or(|(theirs, ours)| theirs == ours)
    };
    let ancestors = if views.is_some() { ancestors(&status) } else { Vec::new() };
    let effective = field(&status, "CapEff").and_then(|caps| u64::from_str_radix(caps, 16).ok()).unwrap_or(0);
    Ok(Inspection {
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

fn domain(tid: i32, fd: i32) -> Result<i32, Errno> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).map_err(|_| Errno::ESRCH)?;
    let tgid = field(&status, "Tgid").and_then(|pid| pid.parse().ok()).ok_or(Errno::ESRCH)?;
    let pid = rustix::process::Pid::from_raw(tgid).ok_or(Errno::ESRCH)?;
    let errno = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(errno)?;
    let copy = rustix::process::pidfd_getfd(&process, fd, rustix::process::PidfdGetfdFlags::empty())
        .map_err(errno)?;
    let domain = rustix::net::sockopt::socket_domain(&copy).map_err(errno)?;
    Ok(i32::from(domain.as_raw()))
}

/// Compares by file, not by name: the program's own root, folder and links decide what a path means.
fn is_host_resolver(tid: i32, path: &[u8]) -> bool {
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

fn living(supervisor: u32, roots: &[(u64, i32)]) -> Vec<u64> {
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
}
