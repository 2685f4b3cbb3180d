//! What the machine says about itself: files read, calls tried, nothing judged.
//!
//! [`Facts`] come from files and harmless calls; [`Trials`] from children that try what `viewnet run` does.
//! Both are plain values with public fields, so that a test can make up any machine.

use std::fs;
use std::io::{ErrorKind, IoSliceMut, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::stat::Mode;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use crate::runtime::Runtime;
use crate::sys::probe::{self, Trial};
use crate::sys::process::{self, Fork};

/// A limit that is not set.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// What files and harmless calls tell.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub(crate) release: String,
    /// Effective user id.
    pub(crate) uid: u32,
    /// This program's file, if the kernel tells.
    pub(crate) exe: Option<PathBuf>,
    /// Does the process have CAP_SYS_ADMIN?
    pub(crate) sys_admin: bool,
    /// Does a view's supervisor answer us already?
    pub(crate) inside_view: bool,
    /// Is a seccomp filter in force already?
    pub(crate) filtered: bool,
    /// Is `/` of this process no mount point, as after chroot(2)?
    pub(crate) chroot: bool,
    /// Do the user namespace's maps know our user id?
    pub(crate) uid_mapped: bool,
    /// The container we are in, by the name it gives itself: `docker`, `podman`, `lxc`, `flatpak`…
    pub(crate) container: Option<String>,
    /// Does the kernel have user namespaces (CONFIG_USER_NS)?
    pub(crate) has_userns: bool,
    /// Does the kernel have network namespaces (CONFIG_NET_NS)?
    pub(crate) has_netns: bool,
    /// kernel.unprivileged_userns_clone, a patch of Debian's and others'.
    pub(crate) userns_clone: Option<u64>,
    /// kernel.apparmor_restrict_unprivileged_userns, Ubuntu's since 23.10.
    pub(crate) apparmor_userns: Option<u64>,
    /// The AppArmor profile that confines us.
    pub(crate) apparmor_profile: Option<String>,
    /// Is SELinux enforcing?
    pub(crate) selinux: bool,
    /// user.max_user_namespaces
    pub(crate) max_userns: Option<u64>,
    /// user.max_net_namespaces
    pub(crate) max_netns: Option<u64>,
    /// kernel.yama.ptrace_scope; absent without Yama.
    pub(crate) yama: Option<u64>,
    /// kernel.io_uring_disabled; absent before Linux 6.6.
    pub(crate) io_uring_disabled: Option<u64>,
    /// net.core.rmem_max in bytes.
    pub(crate) rmem_max: Option<u64>,
    /// RLIMIT_NOFILE, soft and hard.
    pub(crate) nofile: (u64, u64),
    /// RLIMIT_NPROC, soft.
    pub(crate) nproc: u64,
    /// pids.max of the tightest control group.
    pub(crate) cgroup_pids: Option<u64>,
    /// memory.max of the tightest control group, in bytes.
    pub(crate) cgroup_memory: Option<u64>,
    /// What open(2) says of /dev/net/tun.
    pub(crate) tun: Result<(), Errno>,
    /// The folder of our sockets, or why there is none.
    pub(crate) runtime: Result<PathBuf, String>,
}

/// What happens when `viewnet run`'s calls are tried.
#[derive(Debug, Clone)]
pub(crate) struct Trials {
    /// SECCOMP_RET_USER_NOTIF known, and the sizes told.
    pub(crate) notify: Result<(), Errno>,
    /// A filter with a listener installed.
    pub(crate) listener: Trial,
    /// The same with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
    pub(crate) killable: Trial,
    /// A user namespace made.
    pub(crate) userns: Trial,
    /// A user namespace and a network namespace made together.
    pub(crate) netns: Trial,
    /// The user namespace's maps written.
    pub(crate) maps: Trial,
    /// A veth pair and a packet socket made in the network namespace.
    pub(crate) veth: Trial,
    /// The memory of a child read, and a descriptor of it duplicated.
    pub(crate) look: Trial,
    /// A system call in the i386 ABI; `None` where the processor has none.
    pub(crate) i386: Option<Trial>,
    /// A system call in the x32 ABI; `None` where the processor has none.
    pub(crate) x32: Option<Trial>,
}

/// Everything `doctor` judges.
#[derive(Debug, Clone)]
pub(crate) struct Readings {
    /// From files.
    pub(crate) facts: Facts,
    /// From trials.
    pub(crate) trials: Trials,
}

impl Readings {
    /// Reads files, then tries calls in children.
    pub(crate) fn collect() -> Self {
        Self { facts: Facts::read(), trials: Trials::run() }
    }
}

impl Facts {
    /// Reads files; changes nothing but the runtime folder, which is made if it is missing.
    pub(crate) fn read() -> Self {
        let status = text("/proc/self/status");
        let uid = nix::unistd::geteuid().as_raw();
        Self {
            release: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            uid,
            exe: std::env::current_exe().ok(),
            sys_admin: has_sys_admin(&status),
            inside_view: inside_view(),
            filtered: status_field(&status, "Seccomp").is_some_and(|mode| mode != "0"),
            chroot: no_root_mount(&text("/proc/self/mountinfo")),
            uid_mapped: uid_is_mapped(uid, &text("/proc/self/uid_map")),
            container: container(),
            has_userns: Path::new("/proc/self/ns/user").exists(),
            has_netns: Path::new("/proc/self/ns/net").exists(),
            userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_userns: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            apparmor_profile: apparmor_profile(),
            selinux: number("/sys/fs/selinux/enforce") == Some(1),
            max_userns: number("/proc/sys/user/max_user_namespaces"),
            max_netns: number("/proc/sys/user/max_net_namespaces"),
            yama: number("/proc/sys/kernel/yama/ptrace_scope"),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            rmem_max: number("/proc/sys/net/core/rmem_max"),
            nofile: getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((UNLIMITED, UNLIMITED)),
            nproc: getrlimit(Resource::RLIMIT_NPROC).map_or(UNLIMITED, |(soft, _)| soft),
            cgroup_pids: tightest_cgroup_limit("pids.max"),
            cgroup_memory: tightest_cgroup_limit("memory.max"),
            tun: open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map(drop),
            runtime: Runtime::locate()
                .map(|runtime| runtime.folder().to_owned())
                .map_err(|failure| failure.refusal.why),
        }
    }
}

impl Trials {
    /// Tries each call in a child of its own; a later trial repeats the steps before it.
    pub(crate) fn run() -> Self {
        let maps = Maps::of_this_user();
        Self {
            notify: probe::action_avail(libc::SECCOMP_RET_USER_NOTIF)
                .and_then(|()| probe::notif_sizes().map(drop)),
            listener: probe::in_child(|| listen(0)),
            killable: probe::in_child(|| listen(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)),
            userns: probe::in_child(|| unshare(CloneFlags::CLONE_NEWUSER)),
            netns: probe::in_child(|| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)),
            maps: probe::in_child(|| unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| maps.write())),
            veth: probe::in_child(|| {
                unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
                make_veth()?;
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map(drop)
            }),
            look: probe::in_child(look),
            #[cfg(target_arch = "x86_64")]
            i386: Some(probe::in_child(|| {
                nix::sys::prctl::set_dumpable(false)?; // no core file of the fault
                probe::int80_getpid()
            })),
            #[cfg(target_arch = "x86_64")]
            x32: Some(probe::in_child(probe::x32_getpid)),
            #[cfg(not(target_arch = "x86_64"))]
            i386: None,
            #[cfg(not(target_arch = "x86_64"))]
            x32: None,
        }
    }
}

fn listen(flags: libc::c_ulong) -> Result<(), Errno> {
    nix::sys::prctl::set_no_new_privs()?;
    probe::allow_all_with_listener(flags).map(drop)
}

/// What the supervisor of a view on a smol stack does with its programs. The program here is a child, which Yama's
/// scope 1 allows; [`crate::stand_in`] sees to it that programs are.
fn look() -> Result<(), Errno> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let word = 0x7669_6577_u32.to_ne_bytes();
    let (mut seen, at) = ([0; 4], word.as_ptr().addr());
    let (closes, held) = nix::unistd::pipe()?;
    let child = match process::fork()? {
        // It ends when we do, as the pipe does.
        Fork::Child => {
            drop(held);
            let _ = nix::unistd::read(&closes, &mut [0]);
            process::exit_now(0)
        }
        Fork::Parent(child) => child,
    };
    let remote = [RemoteIoVec { base: at, len: seen.len() }];
    let read = process_vm_readv(child, &mut [IoSliceMut::new(&mut seen)], &remote);
    let duplicated = (|| {
        let pid = Pid::from_raw(child.as_raw()).ok_or(rustix::io::Errno::SRCH)?;
        pidfd_getfd(pidfd_open(pid, PidfdFlags::empty())?, closes.as_raw_fd(), PidfdGetfdFlags::empty())
    })();
    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(child, None);
    drop(held);
    read?;
    duplicated.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    if seen == word { Ok(()) } else { Err(Errno::EIO) }
}

/// The lines a user may write into the maps of a namespace of their own; user_namespaces(7).
struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    fn of_this_user() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self { uid: format!("0 {uid} 1"), gid: format!("0 {gid} 1") }
    }

    fn write(&self) -> Result<(), Errno> {
        for (file, line) in [("setgroups", "deny"), ("uid_map", &self.uid), ("gid_map", &self.gid)] {
            let opened = fs::OpenOptions::new().write(true).open(Path::new("/proc/self").join(file));
            opened
                .and_then(|mut map| map.write_all(line.as_bytes()))
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        }
        Ok(())
    }
}

/// RTM_NEWLINK for `ip link add type veth`, the kernel choosing the names; rtnetlink(7).
fn make_veth() -> Result<(), Errno> {
    const NLM_FLAGS: u16 = 0x0605; // REQUEST | ACK | CREATE | EXCL
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const ERROR_AT: usize = 16; // nlmsgerr.error follows the nlmsghdr
    let mut request = Vec::with_capacity(48);
    request.extend_from_slice(&48u32.to_ne_bytes());
    request.extend_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    request.extend_from_slice(&NLM_FLAGS.to_ne_bytes());
    request.extend_from_slice(&[0; 8 + 16]); // sequence, port; ifinfomsg
    request.extend_from_slice(&16u16.to_ne_bytes());
    request.extend_from_slice(&IFLA_LINKINFO.to_ne_bytes());
    request.extend_from_slice(&9u16.to_ne_bytes());
    request.extend_from_slice(&IFLA_INFO_KIND.to_ne_bytes());
    request.extend_from_slice(b"veth\0\0\0\0");
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &request, nix::sys::socket::MsgFlags::empty())?;
    let mut reply = [0; 128];
    let got = recv(netlink.as_raw_fd(), &mut reply, nix::sys::socket::MsgFlags::empty())?;
    let code = reply[..got].get(ERROR_AT..ERROR_AT + 4).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw(-code)),
        None => Err(Errno::EPROTO),
    }
}

/// Only a view's supervisor knows this family; a kernel answers EAFNOSUPPORT.
fn inside_view() -> bool {
    use rustix::net::{AddressFamily, SocketType};
    let Ok(family) = u16::try_from(msocket_proto::proto::AF_VIEWNET) else { return false };
    rustix::net::socket(AddressFamily::from_raw(family), SocketType::STREAM, None).is_ok()
}

/// A file's text; empty if it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A file's number; `max` is [`UNLIMITED`]; `None` if the file is missing.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    match fs::read_to_string(path).ok()?.trim() {
        "max" => Some(UNLIMITED),
        digits => digits.parse().ok(),
    }
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn has_sys_admin(status: &str) -> bool {
    const CAP_SYS_ADMIN: u32 = 21; // capabilities(7)
    let effective = status_field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    effective.is_some_and(|caps| caps & (1 << CAP_SYS_ADMIN) != 0)
}

/// A process that called chroot(2) sees no mount on its `/`, unless the new root is a mount point itself.
fn no_root_mount(mountinfo: &str) -> bool {
    let points = || mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points().next().is_some() && !points().any(|point| point == "/")
}

fn uid_is_mapped(uid: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u64>);
        match (fields.next(), fields.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => (first..first + count).contains(&u64::from(uid)),
            _ => false,
        }
    })
}

/// The container's name, from the marks that container managers leave.
fn container() -> Option<String> {
    let init = fs::read("/proc/1/environ").unwrap_or_default();
    let named = init.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"container="));
    let marked = named.map(|name| String::from_utf8_lossy(name).into_owned()).or_else(|| {
        let told = text("/run/systemd/container");
        (!told.trim().is_empty()).then(|| told.trim().to_owned())
    });
    let by_file = || {
        [("/run/.containerenv", "podman"), ("/.dockerenv", "docker"), ("/.flatpak-info", "flatpak")]
            .into_iter()
            .find(|(file, _)| !matches!(fs::metadata(file), Err(e) if e.kind() == ErrorKind::NotFound))
            .map(|(_, name)| name.to_owned())
    };
    marked.filter(|name| !name.is_empty()).or_else(by_file)
}

fn apparmor_profile() -> Option<String> {
    let label = fs::read_to_string("/proc/self/attr/apparmor/current").ok()?;
    let label = label.trim_matches(['\0', '\n', ' ']);
    (!label.is_empty() && !label.starts_with("unconfined")).then(|| label.to_owned())
}

/// The smallest value of a limit from our control group up to the root (cgroup v2 only).
fn tightest_cgroup_limit(file: &str) -> Option<u64> {
    let membership = text("/proc/self/cgroup");
    let own = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let root = roots.into_iter().find(|root| Path::new(root).join("cgroup.controllers").exists())?;
    Path::new(own).ancestors().filter_map(|group| number(Path::new(root).join(group).join(file))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_is_read_by_field() {
        let status = "Name:\tx\nCapEff:\t0000000000200000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
        assert!(has_sys_admin(status));
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert!(!has_sys_admin("CapEff:\t0000000000000000\n"));
    }

    #[test]
    fn a_chroot_shows_in_mountinfo() {
        let whole = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:5 / /proc rw - proc proc rw\n";
        let jail = "22 21 0:5 / /proc rw - proc proc rw\n";
        assert!(!no_root_mount(whole));
        assert!(no_root_mount(jail));
        assert!(!no_root_mount(""), "no mountinfo says nothing");
    }

    #[test]
    fn a_uid_map_is_a_list_of_ranges() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        assert!(uid_is_mapped(0, map));
        assert!(uid_is_mapped(65536, map));
        assert!(!uid_is_mapped(65537, map));
        assert!(!uid_is_mapped(0, ""));
    }

    #[test]
    fn this_machine_can_be_read() {
        let readings = Readings::collect();
        assert!(!readings.facts.release.is_empty());
        assert!(readings.facts.nofile.0 > 0);
    }
}
