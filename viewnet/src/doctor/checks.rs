//! The checks: each is a pure function from [`Readings`] to one [`Verdict`].

use nix::errno::Errno;
use serde::Serialize;

use super::causes::{self, Cause, count};
use super::readings::{Facts, Readings, UNLIMITED};
use crate::sys::probe::Trial;

/// Oldest kernel that viewnet is written for.
const OLDEST: (u32, u32) = (5, 14);
/// The kernel that brought SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
const WAIT_KILLABLE: (u32, u32) = (5, 19);
/// Descriptors that a switch with a thousand ports needs, with room for its control connections.
const ENOUGH_FILES: u64 = 4096;
/// Processes that viewnet itself adds to a run: supervisor, eye, keeper, switch, and the program's own few.
const ENOUGH_PROCESSES: u64 = 64;
/// Bytes that a view needs: about 0.4 MiB of kernel memory, 4 MiB for our processes, and the program's own.
const ENOUGH_MEMORY: u64 = 32 << 20;
/// Namespaces below which a user meets the limit in daily work.
const ENOUGH_NAMESPACES: u64 = 64;
/// Bytes of receive buffer that hold a few 64 KiB frames of a packet socket.
const ENOUGH_RMEM: u64 = 1 << 20;

/// The checks without which there are no kernel stacks.
const KERNEL_STACKS: [&str; 3] = ["user-namespaces", "net-namespaces", "id-maps"];

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Something is lost; `viewnet run` works.
    Warn,
    /// `viewnet run` cannot work.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Name of the check.
    pub(crate) check: &'static str,
    /// How it ended.
    pub(crate) state: State,
    /// What was found.
    pub(crate) finding: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Verdict {
    fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self { check, state: State::Ok, finding: finding.into(), fix: None }
    }

    fn bad(check: &'static str, state: State, cause: Cause) -> Self {
        Self { check, state, finding: cause.why, fix: Some(cause.fix) }
    }

    fn warn(check: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(check, State::Warn, Cause::new(finding, fix))
    }

    fn fail(check: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(check, State::Fail, Cause::new(finding, fix))
    }
}

/// All checks, in the order in which `viewnet run` would meet them.
pub(crate) fn check(readings: &Readings) -> Vec<Verdict> {
    let facts = &readings.facts;
    let mut verdicts = vec![
        kernel(facts),
        notify(readings),
        user_namespaces(readings),
        net_namespaces(readings),
        id_maps(readings),
        smol_stacks(readings),
        tap(readings),
        veth(readings),
        yama(facts),
        io_uring(facts),
        foreign_abis(readings),
        runtime_folder(facts),
        open_files(facts),
        processes(facts),
        memory(facts),
        namespace_limits(facts),
    ];
    verdicts.extend(packet_buffers(facts));
    if readings.trials.look == Trial::Works {
        // Without kernel stacks there are smol ones.
        let lacks =
            |verdict: &&mut Verdict| KERNEL_STACKS.contains(&verdict.check) && verdict.state == State::Fail;
        for verdict in verdicts.iter_mut().filter(lacks) {
            verdict.state = State::Warn;
            verdict.finding.push_str("; views are on smol stacks here");
        }
    }
    verdicts
}

/// Whether views have to do with smol stacks, as something keeps us from making kernel stacks.
pub(crate) fn smol_only(verdicts: &[Verdict]) -> bool {
    verdicts.iter().any(|verdict| KERNEL_STACKS.contains(&verdict.check) && verdict.state == State::Warn)
}

/// Can `viewnet run` work, on a stack of whatever kind?
pub(crate) fn usable(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.state != State::Fail)
}

fn kernel(facts: &Facts) -> Verdict {
    let release = &facts.release;
    match version(release) {
        Some((4, _)) if release.ends_with("-Microsoft") => Verdict::fail(
            "kernel",
            format!("{release}: WSL 1 is no Linux kernel"),
            "move the distribution to WSL 2: `wsl --set-version NAME 2`",
        ),
        Some(version) if version < OLDEST => {
            Verdict::fail("kernel", format!("{release} is older than 5.14"), "install Linux 5.14 or newer")
        }
        Some(version) if version < WAIT_KILLABLE => Verdict::warn(
            "kernel",
            format!(
                "{release}: without WAIT_KILLABLE_RECV (5.19) a signal can interrupt a trapped call, so programs with \
                 timers see EINTR from socket() more often"
            ),
            "install Linux 5.19 or newer",
        ),
        Some(_) => Verdict::ok("kernel", release),
        None => Verdict::warn(
            "kernel",
            format!("`{release}` is no version that viewnet can read"),
            "use Linux 5.14 or newer",
        ),
    }
}

fn notify(readings: &Readings) -> Verdict {
    const NAME: &str = "seccomp-notify";
    let (facts, trials) = (&readings.facts, &readings.trials);
    match (trials.notify, trials.listener) {
        (Err(errno), _) => Verdict::bad(NAME, State::Fail, causes::listener(facts, errno)),
        (Ok(()), Trial::Refused(Errno::EBUSY)) if facts.inside_view => {
            Verdict::ok(NAME, "this is a view already; a run inside it is served by its supervisor")
        }
        (Ok(()), Trial::Works) if trials.killable == Trial::Works => {
            Verdict::ok(NAME, "user notification with WAIT_KILLABLE_RECV")
        }
        (Ok(()), Trial::Works) => Verdict::ok(NAME, "user notification, without WAIT_KILLABLE_RECV"),
        (Ok(()), refused) => failed(NAME, facts, refused, causes::listener),
    }
}

fn user_namespaces(readings: &Readings) -> Verdict {
    const NAME: &str = "user-namespaces";
    match readings.trials.userns {
        Trial::Works => Verdict::ok(NAME, "can be made"),
        refused => failed(NAME, &readings.facts, refused, causes::user_namespace),
    }
}

fn net_namespaces(readings: &Readings) -> Verdict {
    const NAME: &str = "net-namespaces";
    match (readings.trials.netns, readings.trials.userns) {
        (Trial::Works, _) => Verdict::ok(NAME, "can be made"),
        (_, userns) if userns != Trial::Works => {
            Verdict::fail(NAME, "not tried: they need a user namespace", "mend user-namespaces first")
        }
        (refused, _) => failed(NAME, &readings.facts, refused, causes::net_namespace),
    }
}

fn id_maps(readings: &Readings) -> Verdict {
    const NAME: &str = "id-maps";
    match (readings.trials.maps, readings.trials.userns) {
        (Trial::Works, _) => Verdict::ok(NAME, "can be written"),
        (_, userns) if userns != Trial::Works => {
            Verdict::fail(NAME, "not tried: they need a user namespace", "mend user-namespaces first")
        }
        (refused, _) => failed(NAME, &readings.facts, refused, causes::id_maps),
    }
}

fn smol_stacks(readings: &Readings) -> Verdict {
    const NAME: &str = "smol-stacks";
    let (facts, trials) = (&readings.facts, &readings.trials);
    let kernel_stacks = [trials.userns, trials.netns, trials.maps].iter().all(|trial| *trial == Trial::Works);
    match trials.look {
        Trial::Works if facts.yama == Some(1) && facts.uid != 0 => Verdict::ok(
            NAME,
            "a program's memory and descriptors can be read by its ancestor, which viewnet then stays",
        ),
        Trial::Works => Verdict::ok(NAME, "a program's memory and descriptors can be read"),
        refused => {
            let state = if kernel_stacks { State::Warn } else { State::Fail };
            Verdict { state, ..failed(NAME, facts, refused, causes::look) }
        }
    }
}

fn tap(readings: &Readings) -> Verdict {
    const NAME: &str = "tap";
    match readings.facts.tun {
        Ok(()) => Verdict::ok(NAME, "/dev/net/tun opens"),
        Err(errno) => {
            let mut cause = causes::tap(&readings.facts, errno);
            cause.why.push_str(if readings.trials.veth == Trial::Works {
                "; links use veth and packet sockets instead, at more CPU per byte"
            } else {
                "; without veth either, a view has no link"
            });
            Verdict::bad(NAME, State::Warn, cause)
        }
    }
}

fn veth(readings: &Readings) -> Verdict {
    const NAME: &str = "veth";
    match (readings.trials.veth, readings.trials.netns) {
        (Trial::Works, _) => Verdict::ok(NAME, "pairs and packet sockets can be made"),
        (_, netns) if netns != Trial::Works => {
            Verdict::warn(NAME, "not tried: they need a network namespace", "mend net-namespaces first")
        }
        (refused, _) => {
            Verdict { state: State::Warn, ..failed(NAME, &readings.facts, refused, causes::veth) }
        }
    }
}

fn yama(facts: &Facts) -> Verdict {
    const NAME: &str = "yama";
    match facts.yama {
        None => Verdict::ok(NAME, "not in this kernel"),
        Some(0) => Verdict::ok(NAME, "kernel.yama.ptrace_scope=0"),
        Some(scope) => Verdict::bad(NAME, State::Warn, causes::yama(scope)),
    }
}

fn io_uring(facts: &Facts) -> Verdict {
    let finding = match facts.io_uring_disabled {
        Some(2) => "disabled for everybody here (kernel.io_uring_disabled=2); a view answers the same EPERM",
        Some(1) => "disabled for most here (kernel.io_uring_disabled=1); a view answers the same EPERM",
        _ => {
            "in a view io_uring_setup answers EPERM, as kernel.io_uring_disabled does; programs fall back to epoll"
        }
    };
    Verdict::ok("io-uring", finding)
}

fn foreign_abis(readings: &Readings) -> Verdict {
    let has = |abi: Option<Trial>, name| (abi == Some(Trial::Works)).then_some(name);
    let present: Vec<_> =
        [has(readings.trials.i386, "i386"), has(readings.trials.x32, "x32")].into_iter().flatten().collect();
    let finding = if present.is_empty() {
        "none but the machine's own".to_owned()
    } else {
        format!(
            "{}: in a view their socket calls are handled or refused, never let through",
            present.join(" and ")
        )
    };
    Verdict::ok("foreign-abis", finding)
}

fn runtime_folder(facts: &Facts) -> Verdict {
    const NAME: &str = "runtime-folder";
    match &facts.runtime {
        Err(why) => Verdict::fail(
            NAME,
            format!("no place for sockets: {why}"),
            "set XDG_RUNTIME_DIR to a folder of your own with mode 0700",
        ),
        Ok(folder) if folder.starts_with("/tmp") => Verdict::warn(
            NAME,
            format!(
                "{} is used, as neither XDG_RUNTIME_DIR nor /run/user/{} exists; nothing clears it when you log out",
                folder.display(),
                facts.uid
            ),
            "log in through a session manager (systemd-logind, elogind), or set XDG_RUNTIME_DIR",
        ),
        Ok(folder) => Verdict::ok(NAME, folder.display().to_string()),
    }
}

fn open_files(facts: &Facts) -> Verdict {
    let (soft, hard) = facts.nofile;
    let finding = format!("RLIMIT_NOFILE {} (hard {})", count(Some(soft)), count(Some(hard)));
    at_least(
        "open-files",
        hard,
        ENOUGH_FILES,
        finding,
        "raise the hard limit in /etc/security/limits.d/ (`* hard nofile 65536`) and log in again: a switch needs \
         one to three descriptors per port",
    )
}

fn processes(facts: &Facts) -> Verdict {
    let least = facts.nproc.min(facts.cgroup_pids.unwrap_or(UNLIMITED));
    let finding = format!("RLIMIT_NPROC {}, pids.max {}", count(Some(facts.nproc)), count(facts.cgroup_pids));
    at_least(
        "processes",
        least,
        ENOUGH_PROCESSES,
        finding,
        "raise them with `ulimit -u` and, in a container, `--pids-limit`: a run adds a few processes of its own",
    )
}

fn memory(facts: &Facts) -> Verdict {
    const MIB: u64 = 1 << 20;
    let limit = facts.cgroup_memory.unwrap_or(UNLIMITED);
    let finding = match limit {
        UNLIMITED => "no limit of a control group".to_owned(),
        bytes => format!("memory.max {} MiB", bytes / MIB),
    };
    at_least("memory", limit, ENOUGH_MEMORY, finding, "raise memory.max of the control group")
}

fn namespace_limits(facts: &Facts) -> Verdict {
    let least = facts.max_userns.unwrap_or(UNLIMITED).min(facts.max_netns.unwrap_or(UNLIMITED));
    let finding = format!(
        "user.max_user_namespaces {}, user.max_net_namespaces {}",
        count(facts.max_userns),
        count(facts.max_netns)
    );
    at_least(
        "namespace-limits",
        least,
        ENOUGH_NAMESPACES,
        finding,
        "raise them with `sudo sysctl user.max_user_namespaces=15000 user.max_net_namespaces=15000`",
    )
}

fn packet_buffers(facts: &Facts) -> Option<Verdict> {
    const NAME: &str = "packet-buffers";
    let limit = facts.rmem_max?;
    let finding = format!("net.core.rmem_max {limit} bytes");
    if facts.tun.is_ok() {
        return Some(Verdict::ok(NAME, finding));
    }
    Some(at_least(
        NAME,
        limit,
        ENOUGH_RMEM,
        format!("{finding}; packet sockets stand in for TAPs and drop frames beyond it"),
        "run `sudo sysctl net.core.rmem_max=4194304`",
    ))
}

fn at_least(check: &'static str, value: u64, enough: u64, finding: String, fix: &str) -> Verdict {
    if value >= enough { Verdict::ok(check, finding) } else { Verdict::warn(check, finding, fix) }
}

fn failed(check: &'static str, facts: &Facts, trial: Trial, cause: fn(&Facts, Errno) -> Cause) -> Verdict {
    let cause = match trial {
        Trial::Works => Cause::new("works", ""),
        Trial::Refused(errno) => cause(facts, errno),
        Trial::Killed(signal) => Cause::new(
            format!("a filter above this process ends it with {signal}"),
            "start viewnet outside that sandbox",
        ),
        Trial::NotMade(errno) => causes::common(facts, errno),
    };
    Verdict::bad(check, State::Fail, cause)
}

/// Major and minor number of `6.8.0-45-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
