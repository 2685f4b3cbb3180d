//! `viewnet doctor` on this machine, and on the same machine with something taken away.
//!
//! The verdicts of machines that cannot be had here are unit tests in `viewnet/src/doctor`.

use serde_json::Value;
use tests::{Cmd, Outcome, Status, User, World};

fn verdict<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no check {name} in {report}"))
}

#[test]
fn everything_run_needs_is_here() {
    for &user in User::all() {
        let world = World::new(user);
        let outcome = world.viewnet(["doctor", "--json"]).run().ok();
        let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(report["usable"], true, "{user:?}: {report}");
        for name in
            ["kernel", "seccomp-notify", "user-namespaces", "net-namespaces", "id-maps", "runtime-folder"]
        {
            assert_ne!(verdict(&report, name)["state"], "fail", "{user:?}: {report}");
        }
        let table = world.viewnet(["doctor"]).run().ok();
        assert!(table.stdout.contains("`viewnet run` works here"), "{}", table.stdout);
    }
}

/// `script` by an ordinary user without any right, where `limit` is 0.
fn without(world: &World, limit: &str, script: &str) -> Cmd {
    let lower = format!(
        "echo 0 >/proc/sys/{}; exec setpriv --ambient-caps=-all --inh-caps=-all \"$@\"",
        limit.replace('.', "/")
    );
    let keep =
        ["--user", "--map-current-user", "--keep-caps", "sh", "-euc", &lower, "sh", "bash", "-euc", script];
    world.cmd("unshare").args(keep)
}

const LIMITS: [(&str, &str); 2] =
    [("user.max_user_namespaces", "user-namespaces"), ("user.max_net_namespaces", "net-namespaces")];

#[test]
fn a_limit_of_zero_is_named_and_leaves_smol_stacks() {
    let world = World::new(User::Ordinary);
    for (limit, check) in LIMITS {
        let outcome = without(&world, limit, "exec viewnet doctor --json").run().ok();
        let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
        assert_eq!(report["usable"], true, "{report}");
        assert_eq!(verdict(&report, "smol-stacks")["state"], "ok", "{report}");
        let verdict = verdict(&report, check);
        assert_eq!(verdict["state"], "warn", "{verdict}");
        let finding = verdict["finding"].as_str().unwrap();
        assert!(finding.starts_with(&format!("{limit}=0")) && finding.contains("smol"), "{verdict}");
        assert!(verdict["fix"].as_str().unwrap().contains(&format!("sysctl {limit}=")), "{verdict}");
        let table = without(&world, limit, "exec viewnet doctor").run().ok();
        assert!(table.stdout.contains("works here, on smol stacks only."), "{}", table.stdout);
    }
}

#[test]
fn without_namespaces_programs_run_on_smol_stacks() {
    const FETCH: &str = "for i in $(seq 100); do curl -sf http://10.0.0.1/hello && break; sleep 0.1; done";
    let world = World::new(User::Ordinary);
    world.write("hello", "hello from a smol stack");
    for (limit, _) in LIMITS {
        let serve = "exec viewnet run --name web --ip 10.0.0.1/24 -- python3 -m http.server 80";
        let server = without(&world, limit, serve).start();
        for kind in ["", "--stack smol"] {
            let script = format!("viewnet run {kind} --ip 10.0.0.2/24 -- sh -c '{FETCH}'");
            let outcome = without(&world, limit, &script).run().ok().says("hello from a smol stack");
            assert_eq!(outcome.stderr, "", "{limit} {kind}");
        }
        let shown = without(&world, limit, "viewnet stack show web").run().ok();
        assert!(shown.stdout.starts_with("web: smol stack at "), "{}", shown.stdout);
        server.kill_group();
        server.wait();
        let outcome = without(&world, limit, "viewnet run --link lo --verbose -- true").run().ok();
        let said = outcome.stderr.lines().filter(|line| line.contains("a smol stack in place of")).count();
        assert!(said == 1 && outcome.stderr.contains(&format!("{limit}=0")), "{}", outcome.stderr);
        // Kept ones as well.
        let kept = "viewnet stack up kept --ip 10.0.0.1/24; viewnet run --stack kept -- ip -br addr; \
                    viewnet stack ls; viewnet stack down kept";
        without(&world, limit, kept).run().ok().says("10.0.0.1/24").says("kept  smol");
    }
}

#[test]
fn a_failed_run_says_what_doctor_says() {
    let world = World::new(User::Ordinary);
    for (limit, _) in LIMITS {
        for (command, code) in [("run --stack kernel -- true", 125), ("stack up kept --kind kernel", 1)] {
            let outcome = without(&world, limit, &format!("exec viewnet {command}")).run().code(code);
            assert!(outcome.stderr.contains(&format!("{limit}=0")), "{}", outcome.stderr);
            assert!(outcome.stderr.contains(&format!("sysctl {limit}=")), "{}", outcome.stderr);
        }
    }
}

/// The one form of every message: `viewnet: what failed: why; what to do`.
fn check_form(script: &str, outcome: &Outcome) {
    let line = outcome.stderr.lines().next().unwrap_or_default();
    let message = line.strip_prefix("viewnet: ").unwrap_or_else(|| panic!("{script}: not ours: {outcome:?}"));
    let parts = message.split_once(": ").and_then(|(what, rest)| Some((what, rest.split_once("; ")?)));
    let Some((what, (why, hint))) = parts else { panic!("{script}: not in three parts: {line}") };
    let said = [what, why, hint].iter().all(|part| part.len() > 3);
    assert!(said && !line.contains("os error"), "{script}: {line}");
    let last = hint.rsplit([' ', '(']).next().unwrap_or_default().trim_end_matches(')');
    let bare = last.starts_with('E') && last.len() > 3 && last.chars().all(|c| c.is_ascii_uppercase());
    assert!(!bare && !outcome.stdout.contains("started"), "{script}: {outcome:?}");
    eprintln!("{script}\n    {line}");
}

/// Options of `run` that make no sense here.
const RUN: &[&str] = &[
    "--link 'bad name=switch'",
    "--link eth0=vde:x",
    "--link switch:nosuch",
    "--link switch:./plain",
    "--link switch:$PWD/nosuch/lan",
    "--link 'switch:lan[vlan 5000]'",
    "--link 'switch:lan[vlan 5'",
    "--link ..=switch",
    "--link all=switch",
    "--link all=none",
    "--link eth0=switch,mtu=20",
    "--link eth0=switch,mac=ff:ff:ff:ff:ff:ff",
    "--link eth0=switch --link eth0=switch",
    "--link a-name-that-is-too-long=switch",
    "--ip 10.0.0.300/24",
    "--ip 10.0.0.1/24 --ip 10.0.0.1/24",
    "--ip 10.0.0.1/24 --gw 10.9.9.9",
    "--ip fd00::1/64 --ip ff02::1/64",
    "--ip 10.0.0.1/24 --route '10.8.0.0/16 dev nosuch'",
    "--ip 10.0.0.1/24 --route '10.8.0.0/16'",
    "--config nosuch",
    "--config .",
    "--config closed",
    "--config plain",
    "--stack nosuch",
    "--stack /no/such/folder/stack",
    "--stack ./plain",
    "--stack ./plain/below",
    "--stack .",
    "--stack $XDG_RUNTIME_DIR/viewnet/switches/lan",
    "--stack $(printf '/%0200d' 1)",
    "--stack lab --ip 10.0.0.1/24",
    "--name 'a b'",
    "--name $(printf '%0200d' 1)",
    "--name kernel",
    "--name lab",
    "--kind none --ip 10.0.0.1/24",
];
/// Other commands that cannot work here.
const UP: &[&str] = &[
    "stack up lab",
    "stack up ./plain",
    "stack up ./nosuch/stack",
    "stack up ./plain/stack",
    "stack up /stack",
    "stack up ./$(printf '%0200d' 1)/stack",
    "stack up 'a b'",
    "stack up other --kind none",
    "stack up other --link eth0=none,ip=10.0.0.1/24,ip=10.0.0.1/24",
    "stack up other --link all=none",
    "switch up lan",
    "switch up 'a b'",
    "switch up ./plain",
    "switch up ./nosuch/switch",
    "switch up ./plain/switch",
    "switch up /switch",
    "switch up --foreground /switch",
    "switch up ./$(printf '%0200d' 1)",
    "switch mirror add nosuch --to p1",
    "switch mirror add lan --to nosuch",
    "switch mirror rm lan nosuch",
    "switch set lan --metrics 10.0.0.1:9100",
    "switch set lan --metrics unix:/no/such/folder/socket",
    "switch set lan --metrics here",
    "capture nosuch",
    "capture lan:nosuch",
    "capture lan -w /no/such/folder/file",
    "capture lan host here",
    "capture lan 'tcp and (port 80'",
    "capture lan: -i eth0",
    "capture lab -i nosuch",
    "events nosuch",
    "top </dev/null",
    "run --link lo -- viewnet switch up other",
    "run --link lo -- viewnet run --ip 10.0.0.1/24 --ip 10.0.0.1/24 -- echo started",
    "run --link lo -- viewnet run --link lo --name 'a b' -- echo started",
    "run --link lo -- viewnet run --stack nosuch -- echo started",
];

#[test]
fn whatever_is_wrong_with_the_command_it_says_what_to_do() {
    let world = World::new(User::Ordinary);
    world.write("plain", "nonsense");
    world.write("closed", "");
    world.cmd("chmod").args(["0", "closed"]).run().ok();
    world.viewnet(["switch", "up", "lan"]).run().ok();
    world.viewnet(["stack", "up", "lab"]).run().ok();
    let runs = RUN.iter().map(|options| format!("viewnet run {options} -- echo started"));
    for script in runs.chain(UP.iter().map(|words| format!("viewnet {words}"))) {
        let outcome = world.cmd("bash").args(["-c", &script]).run();
        let code = if script.starts_with("viewnet run") && !script.contains(" up ") { 125 } else { 1 };
        assert_eq!(outcome.status, Status::Exited(code), "{script}: {outcome:?}");
        check_form(&script, &outcome);
    }
    world.viewnet(["stack", "down", "lab"]).run().ok();
    world.viewnet(["switch", "down", "lan"]).run().ok();
}

#[test]
fn whatever_is_wrong_with_the_machine_it_says_what_to_do() {
    // What the machine lacks; each is followed by each command.
    const LACKS: &[&str] = &[
        "XDG_RUNTIME_DIR=/proc",
        "XDG_RUNTIME_DIR=/nonexistent",
        "touch f; XDG_RUNTIME_DIR=$PWD/f",
        "mkdir -m 500 no; XDG_RUNTIME_DIR=$PWD/no",
        "mkdir -m 700 open; mkdir -m 777 open/viewnet; chmod 777 open/viewnet; XDG_RUNTIME_DIR=$PWD/open",
        "mkdir -p long/$(printf '%0100d' 1); XDG_RUNTIME_DIR=$PWD/long/$(printf '%0100d' 1)",
        "mkdir -p ro/viewnet/{stacks,switches}; chmod -R 500 ro/viewnet; XDG_RUNTIME_DIR=$PWD/ro",
        "mkdir -p s; chmod 700 s; mount -t tmpfs -o mode=700,nr_inodes=4 tmpfs s; XDG_RUNTIME_DIR=$PWD/s",
        "mkdir -p t; mount -t tmpfs -o mode=700,ro tmpfs t; XDG_RUNTIME_DIR=$PWD/t",
        "echo 0 >/proc/sys/user/max_user_namespaces",
        "echo 0 >/proc/sys/user/max_net_namespaces",
    ];
    const COMMANDS: &[&str] = &[
        "run --link eth0=switch,ip=10.0.0.1/24 --link none -- echo started",
        "run -- echo started",
        "stack up kept --ip 10.0.0.1/24",
        "switch up lan",
    ];
    let world = World::new(User::Ordinary);
    for lack in LACKS {
        for command in COMMANDS {
            // A switch needs no namespaces.
            if command.starts_with("switch") && lack.contains("namespaces") {
                continue;
            }
            let command = match (lack.contains("namespaces"), command.split_once(' ')) {
                (true, Some(("run", rest))) => format!("run --kind kernel {rest}"),
                (true, _) => format!("{command} --kind kernel"),
                (false, _) => (*command).to_owned(),
            };
            let script = format!("cd $(mktemp -d); {lack}; export XDG_RUNTIME_DIR; exec viewnet {command}");
            // Limits and mounts need rights, for which permissions would not count.
            let rights = ["mount", "/proc/sys"].iter().any(|word| lack.contains(word));
            let shell = if rights { world.cmd("unshare").args(["-rm", "bash"]) } else { world.cmd("bash") };
            let outcome = shell.args(["-c", &script]).run();
            // The owner of a user namespace makes sockets in any folder of its own.
            if lack.contains("chmod -R") && outcome.status == Status::Exited(0) {
                continue;
            }
            let code = if command.starts_with("run") { 125 } else { 1 };
            assert_eq!(outcome.status, Status::Exited(code), "{script}: {outcome:?}");
            check_form(&script, &outcome);
        }
    }
}

#[test]
fn whatever_runs_out_it_says_what_to_do() {
    const COMMANDS: &[&str] = &[
        "run -- echo started",
        "run --ip 10.0.0.1/24 -- echo started",
        "stack up kept --ip 10.0.0.1/24",
        "switch up lan",
    ];
    for limit in (4..14).map(|n| format!("-n {n}")).chain((0..9).map(|n| format!("-u {n}"))) {
        for command in COMMANDS {
            // A user each: zombies count, and where the tests run nobody may be reaping them.
            let world = World::new(User::Ordinary);
            let script = format!("ulimit {limit}; exec viewnet {command}");
            let outcome = world.cmd("bash").args(["-c", &script]).run();
            if outcome.status != Status::Exited(0) {
                let code = if command.starts_with("run") { 125 } else { 1 };
                assert_eq!(outcome.status, Status::Exited(code), "{script}: {outcome:?}");
                check_form(&script, &outcome);
            }
            world.viewnet(["stack", "down", "kept"]).run();
            world.viewnet(["switch", "down", "lan"]).run();
        }
    }
}

#[test]
fn a_view_is_recognized() {
    let world = World::new(User::Ordinary);
    let outcome = world.alone(["--", "viewnet", "doctor", "--json"]).run().ok();
    let report: Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let verdict = verdict(&report, "seccomp-notify");
    assert!(verdict["finding"].as_str().unwrap().contains("a view already"), "{verdict}");
}

#[test]
fn a_reader_may_leave_early() {
    let world = World::new(User::Ordinary);
    let outcome = world.cmd("sh").args(["-c", "viewnet doctor | head -n 1"]).run().ok();
    assert_eq!(outcome.stderr, "");
}
