//! Every verdict, by name, from made-up machines.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::causes::Cause;
use super::readings::{Facts, Readings, Trials, UNLIMITED};
use super::{SetupStep, State, Verdict, check, explain_with, smol_only, usable};
use crate::sys::probe::Trial;

/// A machine where everything works.
fn good() -> Readings {
    Readings {
        facts: Facts {
            release: "6.8.0-45-generic".to_owned(),
            uid: 1000,
            exe: Some("/opt/bin/viewnet".into()),
            sys_admin: false,
            inside_view: false,
            filtered: false,
            chroot: false,
            uid_mapped: true,
            container: None,
            has_userns: true,
            has_netns: true,
            userns_clone: None,
            apparmor_userns: None,
            apparmor_profile: None,
            selinux: false,
            max_userns: Some(96_365),
            max_netns: Some(96_365),
            yama: Some(0),
            io_uring_disabled: Some(0),
            rmem_max: Some(212_992),
            nofile: (1024, 524_288),
            nproc: 96_365,
            cgroup_pids: None,
            cgroup_memory: None,
            tun: Ok(()),
            runtime: Ok("/run/user/1000/viewnet".into()),
        },
        trials: Trials {
            notify: Ok(()),
            listener: Trial::Works,
            killable: Trial::Works,
            userns: Trial::Works,
            netns: Trial::Works,
            maps: Trial::Works,
            veth: Trial::Works,
            look: Trial::Works,
            i386: Some(Trial::Works),
            x32: Some(Trial::Refused(Errno::ENOSYS)),
        },
    }
}

fn changed(change: impl FnOnce(&mut Readings)) -> Readings {
    let mut readings = good();
    change(&mut readings);
    readings
}

fn verdict(readings: &Readings, name: &str) -> Verdict {
    check(readings).into_iter().find(|verdict| verdict.check == name).expect("a check of that name")
}

/// A machine where user namespaces are refused with EPERM and, where `whole`, nothing after them works.
fn forbidding(change: impl FnOnce(&mut Facts)) -> Readings {
    changed(|r| {
        let refused = Trial::Refused(Errno::EPERM);
        (r.trials.userns, r.trials.netns, r.trials.maps, r.trials.veth) =
            (refused, refused, refused, refused);
        change(&mut r.facts);
    })
}

#[track_caller]
fn assert_fails(readings: &Readings, name: &str, why: &str, fix: &str) {
    let verdict = verdict(readings, name);
    assert_eq!(verdict.state, State::Fail, "{verdict:?}");
    assert!(verdict.finding.contains(why), "{verdict:?}");
    assert!(verdict.fix.as_deref().is_some_and(|text| text.contains(fix)), "{verdict:?}");
    assert!(!usable(&check(readings)));
}

#[track_caller]
fn assert_warns(readings: &Readings, name: &str, why: &str, fix: &str) {
    let verdict = verdict(readings, name);
    assert_eq!(verdict.state, State::Warn, "{verdict:?}");
    assert!(verdict.finding.contains(why), "{verdict:?}");
    assert!(verdict.fix.as_deref().is_some_and(|text| text.contains(fix)), "{verdict:?}");
    assert!(usable(&check(readings)));
}

/// No kernel stacks: views are on smol stacks, and cannot be at all where these cannot be had either.
#[track_caller]
fn assert_smol_only(readings: &Readings, name: &str, why: &str, fix: &str) {
    assert_warns(readings, name, why, fix);
    assert_warns(readings, name, "smol stacks here", fix);
    assert!(smol_only(&check(readings)));
    let mut neither = readings.clone();
    neither.trials.look = Trial::Refused(Errno::EPERM);
    assert_fails(&neither, name, why, fix);
    assert_eq!(verdict(&neither, "smol-stacks").state, State::Fail);
}

#[test]
fn a_good_machine_has_nothing_to_fix() {
    let verdicts = check(&good());
    assert!(verdicts.iter().all(|v| v.state == State::Ok && v.fix.is_none()), "{verdicts:?}");
    assert!(usable(&verdicts));
    let mut names: Vec<_> = verdicts.iter().map(|v| v.check).collect();
    names.dedup();
    assert_eq!(names.len(), 17);
    assert!(!smol_only(&verdicts));
}

#[test]
fn kernels() {
    for (release, state) in [
        ("5.13.19-2-pve", State::Fail),
        ("4.4.0-19041-Microsoft", State::Fail),
        ("5.14.0-427.el9.x86_64", State::Warn),
        ("5.15.167.4-microsoft-standard-WSL2", State::Warn),
        ("5.19.0", State::Ok),
        ("6.1.0-25-amd64", State::Ok),
        ("7.0-rc1+", State::Ok),
        ("nonsense", State::Warn),
    ] {
        let readings = changed(|r| r.facts.release = release.to_owned());
        assert_eq!(verdict(&readings, "kernel").state, state, "{release}");
    }
    let old = changed(|r| r.facts.release = "5.15.0".to_owned());
    assert_warns(&old, "kernel", "WAIT_KILLABLE_RECV", "5.19");
    let wsl = changed(|r| r.facts.release = "4.4.0-19041-Microsoft".to_owned());
    assert_fails(&wsl, "kernel", "WSL 1", "--set-version");
}

#[test]
fn seccomp_notification() {
    let without = changed(|r| r.trials.notify = Err(Errno::EINVAL));
    assert_fails(&without, "seccomp-notify", "without seccomp filters", "CONFIG_SECCOMP_FILTER");
    let sandboxed = changed(|r| r.trials.listener = Trial::Refused(Errno::EBUSY));
    assert_fails(&sandboxed, "seccomp-notify", "one per chain", "outside");
    let nested = changed(|r| {
        r.trials.listener = Trial::Refused(Errno::EBUSY);
        r.facts.inside_view = true;
    });
    assert_eq!(verdict(&nested, "seccomp-notify").state, State::Ok);
    let killed = changed(|r| r.trials.listener = Trial::Killed(Signal::SIGSYS));
    assert_fails(&killed, "seccomp-notify", "SIGSYS", "outside");
    let no_flag = changed(|r| r.trials.killable = Trial::Refused(Errno::EINVAL));
    assert_eq!(verdict(&no_flag, "seccomp-notify").state, State::Ok);
    let sandbox = changed(|r| {
        r.facts.filtered = true;
        r.trials.listener = Trial::Refused(Errno::ENOSYS);
    });
    assert_fails(&sandbox, "seccomp-notify", "seccomp filter of whoever", "loosen");
}

#[test]
fn user_namespaces_by_the_name_of_the_setting() {
    let debian = forbidding(|f| f.userns_clone = Some(0));
    assert_smol_only(&debian, "user-namespaces", "kernel.unprivileged_userns_clone=0", "userns_clone=1");
    let ubuntu = forbidding(|f| f.apparmor_userns = Some(1));
    assert_smol_only(
        &ubuntu,
        "user-namespaces",
        "apparmor_restrict_unprivileged_userns=1",
        "/opt/bin/viewnet flags",
    );
    let profile = forbidding(|f| f.apparmor_profile = Some("snap.x.y (enforce)".to_owned()));
    assert_smol_only(&profile, "user-namespaces", "snap.x.y", "userns,");
    let chroot = forbidding(|f| f.chroot = true);
    assert_smol_only(&chroot, "user-namespaces", "chroot", "pivot_root");
    let unmapped = forbidding(|f| f.uid_mapped = false);
    assert_smol_only(&unmapped, "user-namespaces", "user 1000 is not mapped", "uid_map");
    let selinux = forbidding(|f| f.selinux = true);
    assert_smol_only(&selinux, "user-namespaces", "SELinux", "ausearch");
    let service = forbidding(|f| f.filtered = true);
    assert_smol_only(&service, "user-namespaces", "RestrictNamespaces=", "outside");
    assert_smol_only(&forbidding(|_| ()), "user-namespaces", "security module", "root");
}

#[test]
fn user_namespaces_in_containers() {
    for (name, why, fix) in [
        ("docker", "Docker", "seccomp=unconfined"),
        ("podman", "Podman", "seccomp=unconfined"),
        ("lxc", "LXC", "security.nesting"),
        ("systemd-nspawn", "nspawn", "--system-call-filter"),
        ("flatpak", "Flatpak", "flatpak-spawn"),
        ("oci", "container (oci)", "Unconfined"),
    ] {
        for filtered in [true, false] {
            let readings = forbidding(|f| {
                f.container = Some(name.to_owned());
                f.filtered = filtered;
            });
            assert_smol_only(&readings, "user-namespaces", why, fix);
        }
    }
    // Root without CAP_SYS_ADMIN in Docker on Ubuntu: the profile of the container comes first.
    let both = forbidding(|f| {
        f.container = Some("docker".to_owned());
        f.filtered = true;
        f.apparmor_profile = Some("docker-default (enforce)".to_owned());
        f.apparmor_userns = Some(1);
    });
    assert_smol_only(&both, "user-namespaces", "Docker", "apparmor=unconfined");
}

#[test]
fn namespace_counts() {
    let none = changed(|r| {
        r.trials.userns = Trial::Refused(Errno::ENOSPC);
        r.trials.netns = Trial::Refused(Errno::ENOSPC);
        r.facts.max_userns = Some(0);
    });
    assert_smol_only(&none, "user-namespaces", "user.max_user_namespaces=0", "max_user_namespaces=15000");
    assert_smol_only(&none, "net-namespaces", "not tried", "user-namespaces first");
    let spent = changed(|r| r.trials.userns = Trial::Refused(Errno::ENOSPC));
    assert_smol_only(&spent, "user-namespaces", "all 96365", "max_user_namespaces=100000");
    let no_net = changed(|r| {
        r.trials.netns = Trial::Refused(Errno::ENOSPC);
        r.facts.max_netns = Some(0);
    });
    assert_smol_only(&no_net, "net-namespaces", "user.max_net_namespaces=0", "max_net_namespaces=15000");
    assert_warns(&changed(|r| r.facts.max_netns = Some(8)), "namespace-limits", "8", "sysctl");
}

#[test]
fn kernels_without_namespaces() {
    let no_user = changed(|r| {
        r.trials.userns = Trial::Refused(Errno::EINVAL);
        r.facts.has_userns = false;
    });
    assert_smol_only(&no_user, "user-namespaces", "without user namespaces", "CONFIG_USER_NS");
    let no_net = changed(|r| {
        r.trials.netns = Trial::Refused(Errno::EINVAL);
        r.facts.has_netns = false;
    });
    assert_smol_only(&no_net, "net-namespaces", "without network namespaces", "CONFIG_NET_NS");
}

#[test]
fn ubuntu_lets_the_namespace_be_made_but_not_used() {
    let readings = changed(|r| {
        r.facts.apparmor_userns = Some(1);
        (r.trials.netns, r.trials.maps) = (Trial::Refused(Errno::EPERM), Trial::Refused(Errno::EPERM));
    });
    assert_smol_only(
        &readings,
        "net-namespaces",
        "apparmor_restrict_unprivileged_userns=1",
        "apparmor_parser",
    );
    assert_smol_only(&readings, "id-maps", "apparmor_restrict_unprivileged_userns=1", "apparmor_parser");
}

#[test]
fn id_maps() {
    for (errno, why, fix) in [
        (Errno::ENOENT, "/proc is not mounted", "mount -t proc"),
        (Errno::EROFS, "read-only", "systempaths"),
        (Errno::EACCES, "own /proc files", "chmod a+r /opt/bin/viewnet"),
    ] {
        assert_smol_only(&changed(|r| r.trials.maps = Trial::Refused(errno)), "id-maps", why, fix);
    }
}

#[test]
fn links() {
    for (errno, container, why, fix) in [
        (Errno::ENOENT, None, "module is not loaded", "modprobe tun"),
        (Errno::ENODEV, None, "module is not loaded", "modprobe tun"),
        (Errno::EACCES, None, "file mode", "0666"),
        (Errno::ENOENT, Some("docker"), "container has no /dev/net/tun", "--device"),
        (Errno::EPERM, Some("podman"), "device rules", "--device"),
    ] {
        let readings = changed(|r| {
            r.facts.tun = Err(errno);
            r.facts.container = container.map(str::to_owned);
        });
        assert_warns(&readings, "tap", why, fix);
        assert_warns(&readings, "tap", "links use veth", fix);
    }
    let neither = changed(|r| {
        r.facts.tun = Err(Errno::ENOENT);
        r.trials.veth = Trial::Refused(Errno::EOPNOTSUPP);
    });
    assert_warns(&neither, "tap", "a view has no link", "modprobe");
    assert_warns(&neither, "veth", "no veth", "modprobe veth");
    let no_packet = changed(|r| r.trials.veth = Trial::Refused(Errno::EAFNOSUPPORT));
    assert_warns(&no_packet, "veth", "packet sockets", "CONFIG_PACKET");
    let small = changed(|r| r.facts.tun = Err(Errno::EACCES));
    assert_warns(&small, "packet-buffers", "212992", "rmem_max");
}

#[test]
fn yama_scopes() {
    assert_warns(&changed(|r| r.facts.yama = Some(1)), "yama", "socketcall", "ptrace_scope=0");
    assert_warns(&changed(|r| r.facts.yama = Some(2)), "yama", "only root", "ptrace_scope=0");
    assert_warns(&changed(|r| r.facts.yama = Some(3)), "yama", "nobody", "restart");
    assert_eq!(verdict(&changed(|r| r.facts.yama = None), "yama").state, State::Ok);
}

#[test]
fn what_smol_stacks_need() {
    let scope = |scope, uid| {
        changed(|r| {
            (r.facts.yama, r.facts.uid) = (Some(scope), uid);
            r.trials.look = if scope < 2 { Trial::Works } else { Trial::Refused(Errno::EPERM) };
        })
    };
    let ancestor = verdict(&scope(1, 1000), "smol-stacks");
    assert!(ancestor.state == State::Ok && ancestor.finding.contains("ancestor"), "{ancestor:?}");
    assert!(!verdict(&scope(1, 0), "smol-stacks").finding.contains("ancestor"));
    assert_warns(&scope(2, 1000), "smol-stacks", "ptrace_scope=2", "ptrace_scope=0");
    assert_warns(&scope(3, 1000), "smol-stacks", "ptrace_scope=3", "restart");
    let docker = changed(|r| {
        r.facts.container = Some("docker".to_owned());
        r.trials.look = Trial::Refused(Errno::EPERM);
    });
    assert_warns(&docker, "smol-stacks", "seccomp filter", "SYS_PTRACE");
    let kernel = changed(|r| r.trials.look = Trial::Refused(Errno::ENOSYS));
    assert_warns(&kernel, "smol-stacks", "process_vm_readv", "CROSS_MEMORY");
}

#[test]
fn notes_that_need_no_fix() {
    for value in [None, Some(0), Some(1), Some(2)] {
        let readings = changed(|r| r.facts.io_uring_disabled = value);
        let verdict = verdict(&readings, "io-uring");
        assert_eq!(verdict.state, State::Ok);
        assert!(verdict.finding.contains("EPERM"));
    }
    assert!(verdict(&good(), "foreign-abis").finding.starts_with("i386:"));
    let both = changed(|r| r.trials.x32 = Some(Trial::Works));
    assert!(verdict(&both, "foreign-abis").finding.starts_with("i386 and x32:"));
    let neither = changed(|r| r.trials.i386 = Some(Trial::Killed(Signal::SIGSEGV)));
    assert!(verdict(&neither, "foreign-abis").finding.starts_with("none"));
}

#[test]
fn runtime_folder() {
    let tmp = changed(|r| r.facts.runtime = Ok("/tmp/viewnet-1000".into()));
    assert_warns(&tmp, "runtime-folder", "/run/user/1000", "XDG_RUNTIME_DIR");
    let none = changed(|r| r.facts.runtime = Err("other users may enter it".to_owned()));
    assert_fails(&none, "runtime-folder", "other users", "0700");
}

#[test]
fn limits() {
    assert_warns(&changed(|r| r.facts.nofile = (1024, 1024)), "open-files", "hard 1024", "nofile");
    assert_warns(&changed(|r| r.facts.nproc = 20), "processes", "RLIMIT_NPROC 20", "ulimit -u");
    assert_warns(&changed(|r| r.facts.cgroup_pids = Some(10)), "processes", "pids.max 10", "--pids-limit");
    assert_warns(&changed(|r| r.facts.cgroup_memory = Some(16 << 20)), "memory", "16 MiB", "memory.max");
    let endless = changed(|r| r.facts.nproc = UNLIMITED);
    assert!(verdict(&endless, "processes").finding.contains("unlimited"));
}

#[test]
fn no_step_ends_with_a_bare_errno() {
    let facts = good().facts;
    for step in SetupStep::ALL {
        for errno in [
            Errno::EPERM,
            Errno::EACCES,
            Errno::ENOSPC,
            Errno::EINVAL,
            Errno::ENOSYS,
            Errno::ENOENT,
            Errno::EBUSY,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EIO,
            Errno::ESRCH,
        ] {
            let Cause { why, fix } = explain_with(&facts, step, errno);
            assert!(why.contains(' ') && fix.contains(' '), "{step:?} {errno}: {why}; {fix}");
            assert!(!why.ends_with('.') && !fix.ends_with('.'), "{step:?} {errno}: {why}; {fix}");
        }
        assert!(step.what().starts_with("cannot "));
    }
}

#[test]
fn the_steps_of_a_kernel_stack_are_steps_of_ours() {
    use stacks::kernel::namespace::Step;
    assert_eq!(SetupStep::from(Step::UserNamespace), SetupStep::UserNamespace);
    assert_eq!(SetupStep::from(Step::IdMap), SetupStep::IdMap);
    assert_eq!(SetupStep::from(Step::NetNamespace), SetupStep::NetNamespace);
    assert_eq!(SetupStep::from(Step::Plug), SetupStep::Interface);
}

#[test]
fn a_failed_step_and_the_doctor_use_the_same_words() {
    let debian = forbidding(|f| f.userns_clone = Some(0));
    let doctor = verdict(&debian, "user-namespaces");
    let run = explain_with(&debian.facts, SetupStep::UserNamespace, Errno::EPERM);
    assert!(doctor.finding.starts_with(&run.why), "{}", doctor.finding);
    assert_eq!(doctor.fix, Some(run.fix));
    let yama = changed(|r| r.facts.yama = Some(2));
    assert_ne!(verdict(&yama, "yama").state, State::Ok);
    let limits = changed(|r| r.facts.nofile = (77, 77));
    let run = explain_with(&limits.facts, SetupStep::Descriptor, Errno::EMFILE);
    assert!(run.why.contains("RLIMIT_NOFILE") && run.why.contains("77"));
}
