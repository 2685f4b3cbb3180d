//! From an errno and the machine's facts to the reason by name, and what to do about it.
//!
//! Pure functions: the words that `doctor` prints and that end a failed `viewnet run` both come from here.

use nix::errno::Errno;

use super::readings::{Facts, UNLIMITED};

/// Why something fails, and how to mend it; both without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The reason, by the name of the setting that decides it.
    pub(crate) why: String,
    /// What to do.
    pub(crate) fix: String,
}

impl Cause {
    pub(super) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }
}

/// unshare(CLONE_NEWUSER) or clone(2) with it failed.
pub(super) fn user_namespace(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::ENOSPC | Errno::EUSERS => match facts.max_userns {
            Some(0) => Cause::new(
                "user.max_user_namespaces=0: the administrator forbids user namespaces",
                sysctl("user.max_user_namespaces=15000"),
            ),
            limit => Cause::new(
                format!(
                    "all {} of user.max_user_namespaces are in use, or namespaces are nested 32 deep",
                    count(limit)
                ),
                sysctl("user.max_user_namespaces=100000"),
            ),
        },
        Errno::EINVAL | Errno::ENOSYS if !facts.has_userns => {
            Cause::new("the kernel was built without user namespaces", "use a kernel with CONFIG_USER_NS=y")
        }
        Errno::EPERM | Errno::EACCES => forbidden(facts),
        Errno::ENOSYS => filtered(facts),
        _ => common(facts, errno),
    }
}

/// unshare(CLONE_NEWNET) failed although the user namespace is there.
pub(super) fn net_namespace(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::ENOSPC | Errno::EUSERS => match facts.max_netns {
            Some(0) => Cause::new(
                "user.max_net_namespaces=0: the administrator forbids network namespaces",
                sysctl("user.max_net_namespaces=15000"),
            ),
            limit => Cause::new(
                format!("all {} of user.max_net_namespaces are in use", count(limit)),
                sysctl("user.max_net_namespaces=100000"),
            ),
        },
        Errno::EINVAL | Errno::ENOSYS if !facts.has_netns => {
            Cause::new("the kernel was built without network namespaces", "use a kernel with CONFIG_NET_NS=y")
        }
        Errno::EPERM | Errno::EACCES => forbidden(facts),
        Errno::ENOSYS => filtered(facts),
        _ => common(facts, errno),
    }
}

/// /proc/self/setgroups, uid_map or gid_map could not be written.
pub(super) fn id_maps(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::EPERM => forbidden(facts),
        Errno::ENOSPC | Errno::EUSERS => user_namespace(facts, errno),
        Errno::ENOENT => Cause::new("/proc is not mounted here", "mount it: `sudo mount -t proc proc /proc`"),
        Errno::EROFS => Cause::new(
            "/proc is mounted read-only, as some containers do",
            "start the container with `--security-opt systempaths=unconfined`",
        ),
        Errno::EACCES => Cause::new(
            "the process may not write its own /proc files, as when its program file is not readable by you",
            format!("make the program readable: `chmod a+r {}`", exe(facts)),
        ),
        _ => common(facts, errno),
    }
}

/// The seccomp filter or its listener could not be installed.
pub(super) fn listener(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::EBUSY => Cause::new(
            "another seccomp listener is in force above this process, and the kernel allows one per chain: a sandbox \
             or container manager that answers system calls itself",
            "start viewnet outside that sandbox",
        ),
        Errno::EINVAL | Errno::ENOSYS if !facts.filtered => Cause::new(
            "the kernel was built without seccomp filters, or is too old for user notification",
            "use Linux 5.14 or newer with CONFIG_SECCOMP_FILTER=y",
        ),
        Errno::ENOSYS | Errno::EPERM => filtered(facts),
        Errno::EACCES => Cause::new(
            "a filter needs no_new_privs (or CAP_SYS_ADMIN), and prctl(2) did not set it",
            "this is a fault of viewnet's; please report it",
        ),
        Errno::ENOMEM => Cause::new(
            "the seccomp filters above this process are together too long, or memory is short",
            "start viewnet from a shell with fewer sandboxes around it",
        ),
        _ => common(facts, errno),
    }
}

/// /dev/net/tun could not be opened, or no TAP made of it.
pub(super) fn tap(facts: &Facts, errno: Errno) -> Cause {
    let contained = facts.container.is_some();
    match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO if contained => Cause::new(
            "the container has no /dev/net/tun",
            "start the container with `--device /dev/net/tun`",
        ),
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            Cause::new("there is no /dev/net/tun: the module is not loaded", "run `sudo modprobe tun`")
        }
        Errno::EACCES => Cause::new(
            "the file mode of /dev/net/tun keeps you out (most systems have 0666)",
            "run `sudo chmod 0666 /dev/net/tun`; to keep it: a udev rule KERNEL==\"tun\", MODE=\"0666\"",
        ),
        Errno::EPERM if contained => Cause::new(
            "the container's device rules forbid /dev/net/tun",
            "start the container with `--device /dev/net/tun`",
        ),
        _ => common(facts, errno),
    }
}

/// No veth pair or packet socket in a network namespace of our own.
pub(super) fn veth(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::EOPNOTSUPP | Errno::ENODEV => {
            Cause::new("the kernel has no veth", "run `sudo modprobe veth`, or use a kernel with CONFIG_VETH")
        }
        Errno::EAFNOSUPPORT => Cause::new(
            "the kernel has no packet sockets",
            "run `sudo modprobe af_packet`, or use a kernel with CONFIG_PACKET",
        ),
        Errno::EPERM | Errno::EACCES => forbidden(facts),
        _ => common(facts, errno),
    }
}

/// process_vm_readv(2) or pidfd_getfd(2) on a child failed: a view on a smol stack cannot be.
pub(super) fn look(facts: &Facts, errno: Errno) -> Cause {
    match (errno, facts.yama) {
        (Errno::EPERM, Some(scope @ 2..)) => {
            let fix = yama(scope).fix;
            Cause::new(
                format!(
                    "kernel.yama.ptrace_scope={scope}: a program's memory and descriptors cannot be read, without which \
                     there are no views on smol stacks"
                ),
                fix,
            )
        }
        (Errno::EPERM | Errno::EACCES | Errno::ENOSYS, _) if facts.filtered || facts.container.is_some() => {
            Cause::new(
                "a seccomp filter above this process forbids to read a program's memory or descriptors, without which \
                 there are no views on smol stacks",
                "start the container with `--cap-add SYS_PTRACE` or an unconfined seccomp profile",
            )
        }
        (Errno::ENOSYS, _) => Cause::new(
            "the kernel was built without process_vm_readv(2): there are no views on smol stacks",
            "use a kernel with CONFIG_CROSS_MEMORY_ATTACH=y",
        ),
        _ => common(facts, errno),
    }
}

/// What Yama's ptrace scope keeps from us.
pub(super) fn yama(scope: u64) -> Cause {
    let fix = match scope {
        3 => "set kernel.yama.ptrace_scope=0 in /etc/sysctl.d/ and restart: 3 cannot be lowered at run time"
            .to_owned(),
        _ => sysctl("kernel.yama.ptrace_scope=0"),
    };
    let why = match scope {
        1 => {
            "kernel.yama.ptrace_scope=1: viewnet cannot read the memory of a program's children, so for these \
             connect and sendto on AF_UNIX are not judged by path, SIOC* on AF_UNIX sockets gets no answer from the \
             view, and i386 socketcall is refused"
        }
        2 => {
            "kernel.yama.ptrace_scope=2: only root may read a program's memory, so calls judged by their arguments are refused"
        }
        _ => {
            "kernel.yama.ptrace_scope=3: nobody may read a program's memory, so calls judged by their arguments are refused"
        }
    };
    Cause::new(why, fix)
}

/// What an errno means whatever the step was: limits, and what is left.
pub(super) fn common(facts: &Facts, errno: Errno) -> Cause {
    match errno {
        Errno::EMFILE => Cause::new(
            format!("RLIMIT_NOFILE: all {} descriptors of the process are in use", facts.nofile.0),
            "raise it with `ulimit -n`",
        ),
        Errno::ENFILE => {
            Cause::new("fs.file-max: all open files of the machine are in use", sysctl("fs.file-max=1000000"))
        }
        Errno::EAGAIN => Cause::new(
            format!(
                "no more processes: RLIMIT_NPROC is {}, pids.max of the control group is {}",
                count(Some(facts.nproc)),
                count(facts.cgroup_pids)
            ),
            "raise them with `ulimit -u` and `systemctl set-property … TasksMax=`, or end some processes",
        ),
        Errno::ENOMEM | Errno::ENOBUFS => Cause::new(
            format!(
                "memory is short (memory.max of the control group is {} bytes)",
                count(facts.cgroup_memory)
            ),
            "free some memory, or raise the limit",
        ),
        _ => Cause::new(format!("{} ({errno:?})", errno.desc()), remedy(errno)),
    }
}

/// What to do about an errno of which nothing else is known.
pub(super) fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES => "look at the owner and mode of what it names, or take something of your own",
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR | Errno::ENAMETOOLONG => {
            "look whether the name is right"
        }
        Errno::EROFS => "take a path on a file system that can be written",
        Errno::ENOSPC | Errno::EDQUOT => "make room: `df` shows full file systems, `viewnet doctor` limits",
        Errno::EEXIST | Errno::EADDRINUSE => "take another name, or end what has this one",
        Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ETIMEDOUT | Errno::EINTR => {
            "try again: the process at the other end has gone or is stopped"
        }
        Errno::EPERM => "`viewnet doctor` says what this machine forbids",
        Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            "`viewnet doctor` says what this kernel lacks"
        }
        _ => "`viewnet doctor` checks the whole machine",
    }
}

/// What to tell of an errno whose refusal says no more than the kernel does: a better reason, if it was one of
/// the machine's limits, and what to do.
pub(super) fn next_step(facts: &Facts, errno: Errno) -> (Option<String>, String) {
    match errno {
        Errno::EMFILE | Errno::ENFILE | Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS => {
            let Cause { why, fix } = common(facts, errno);
            (Some(why), fix)
        }
        _ => (None, remedy(errno).to_owned()),
    }
}

/// EPERM for a namespace: whose rule it is, the most certain first.
fn forbidden(facts: &Facts) -> Cause {
    if facts.userns_clone == Some(0) && !facts.sys_admin {
        return Cause::new(
            "kernel.unprivileged_userns_clone=0 (Debian's switch) forbids user namespaces to ordinary users",
            sysctl("kernel.unprivileged_userns_clone=1"),
        );
    }
    if facts.chroot {
        return Cause::new(
            "this process is in a chroot, and the kernel makes no user namespace there",
            "start viewnet outside the chroot, or enter the folder with pivot_root (systemd-nspawn, bubblewrap)",
        );
    }
    if !facts.uid_mapped {
        return Cause::new(
            format!("user {} is not mapped in the user namespace around this process", facts.uid),
            "start viewnet as a user that /proc/self/uid_map lists",
        );
    }
    if facts.filtered {
        return filtered(facts);
    }
    if let Some(profile) = &facts.apparmor_profile {
        return Cause::new(
            format!("the AppArmor profile {profile} confines this process"),
            "start viewnet from an unconfined shell, or add the rule `userns,` to the profile",
        );
    }
    if facts.apparmor_userns == Some(1) {
        let exe = exe(facts);
        return Cause::new(
            "kernel.apparmor_restrict_unprivileged_userns=1 (Ubuntu 23.10 and later) takes all rights from an \
             ordinary user's namespaces",
            format!(
                "allow it to viewnet: `printf 'abi <abi/4.0>,\\nprofile viewnet {exe} flags=(unconfined) \
                 {{ userns, }}\\n' | sudo tee /etc/apparmor.d/viewnet && sudo apparmor_parser -r \
                 /etc/apparmor.d/viewnet`; or to everybody: {}",
                sysctl("kernel.apparmor_restrict_unprivileged_userns=0")
            ),
        );
    }
    if facts.selinux {
        return Cause::new(
            "SELinux is enforcing and may forbid user namespaces to this domain",
            "look for `user_namespace` with `sudo ausearch -m avc -ts recent`, and allow it",
        );
    }
    if facts.container.is_some() {
        return filtered(facts);
    }
    Cause::new(
        "a security module or the administrator forbids user namespaces to ordinary users (EPERM)",
        "ask the administrator, or run viewnet as root",
    )
}

/// A filter or a container above us says no.
fn filtered(facts: &Facts) -> Cause {
    match facts.container.as_deref() {
        Some("docker") => Cause::new(
            "Docker's seccomp profile forbids it in this container",
            "start the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`",
        ),
        Some("podman") => Cause::new(
            "Podman's seccomp profile forbids it in this container",
            "start the container with `--security-opt seccomp=unconfined`",
        ),
        Some("lxc") => Cause::new(
            "the LXC container forbids nested namespaces",
            "allow them: `lxc config set CONTAINER security.nesting true` (or the same with incus), then restart it",
        ),
        Some("systemd-nspawn") => Cause::new(
            "systemd-nspawn's system call filter forbids it",
            "start the container with `--system-call-filter='@process @sandbox'`",
        ),
        Some("flatpak") => Cause::new(
            "the Flatpak sandbox forbids it",
            "start viewnet outside: `flatpak-spawn --host viewnet …`",
        ),
        Some(other) => Cause::new(
            format!("the container ({other}) forbids it, most likely by its seccomp profile"),
            "start the container with an unconfined seccomp profile (Kubernetes: seccompProfile.type: Unconfined)",
        ),
        None => Cause::new(
            "a seccomp filter of whoever started this shell forbids it (a systemd service with RestrictNamespaces= \
             or SystemCallFilter=, snap, firejail, bubblewrap)",
            "start viewnet outside that sandbox, or loosen its filter",
        ),
    }
}

fn sysctl(setting: &str) -> String {
    format!("run `sudo sysctl {setting}`; to keep it, put that line into /etc/sysctl.d/60-viewnet.conf")
}

fn exe(facts: &Facts) -> String {
    facts.exe.as_ref().map_or_else(|| "/usr/bin/viewnet".to_owned(), |path| path.display().to_string())
}

/// A limit in words.
pub(super) fn count(limit: Option<u64>) -> String {
    match limit {
        None | Some(UNLIMITED) => "unlimited".to_owned(),
        Some(limit) => limit.to_string(),
    }
}
