//! `viewnet run` behaves as env(1), nice(1) or strace(1) do: status, streams, signals, terminal, environment,
//! orphans, and nothing left behind.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::binaries::rust_probe;
use tests::compare::compare;
use tests::pty::Terminal;
use tests::{SOON, Status, User, World, each_kind, each_user, wait_until};

#[test]
fn the_exit_status_is_the_programs() {
    each_kind(|world, kind| {
        for code in [0, 1, 3, 125, 126, 127, 255] {
            world.alone(["--kind", kind, "--", "sh", "-c", &format!("exit {code}")]).run().code(code);
        }
    });
}

#[test]
fn a_signal_ends_it_as_without_us() {
    each_kind(|world, kind| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGSEGV] {
            let program = format!("kill -{} $$", signal as i32);
            let outcome = world.alone(["--kind", kind, "--", "sh", "-c", &program]).run();
            assert_eq!(outcome.status, Status::Signaled(signal as i32), "{}", outcome.stderr);
        }
        let script = "viewnet run --link lo -- sh -c 'kill -TERM $$'; echo $?";
        world.cmd("bash").args(["-c", script]).run().ok().says("143");
    });
}

#[test]
fn a_program_that_cannot_start() {
    each_user(|world| {
        let plain = world.write("plain", "not a program");
        let cases = [
            ("no-such-program", 127),
            ("./no/such/file", 127),
            (plain.to_str().unwrap(), 126),
            ("/tmp", 126),
        ];
        for (program, code) in cases {
            let outcome = world.alone(["--", program, "arg"]).run().code(code);
            assert!(outcome.stderr.starts_with("viewnet: "), "{}", outcome.stderr);
            assert!(outcome.stderr.contains(program), "{}", outcome.stderr);
            assert!(outcome.stdout.is_empty());
        }
    });
}

#[test]
fn our_own_failures_are_125_in_three_parts() {
    each_user(|world| {
        let cases: [&[&str]; 5] = [
            &["--stack", "no-such-stack"],
            &["--stack", "/no/such/folder/stack"],
            &["--ip", "10.0.0.300/24"],
            &["--link", "nonsense"],
            &["--config", "/no/such/file"],
        ];
        for options in cases {
            let outcome = world.run(options).args(["--", "sh", "-c", "echo started"]).run();
            // A command line that makes no sense ends with clap's 2.
            assert!(matches!(outcome.status, Status::Exited(125 | 2)), "{options:?}: {outcome:?}");
            assert!(outcome.stdout.is_empty(), "{options:?}: {outcome:?}");
            if outcome.status == Status::Exited(125) {
                let line = outcome.stderr.lines().next().unwrap_or_default();
                assert!(
                    line.starts_with("viewnet: ") && line.matches(": ").count() >= 2,
                    "{options:?}: {line}"
                );
                assert!(line.contains("; ") || line.contains("such as "), "says not what to do: {line}");
                assert!(!line.contains("os error"), "a bare errno: {line}");
            }
        }
    });
}

#[test]
fn everything_else_is_inherited_untouched() {
    each_user(|world| {
        let probe = world.install(&rust_probe("probe_facts"), "facts");
        let probe = probe.to_str().unwrap();
        for run in [
            "viewnet run --link lo",
            "viewnet run --link lo --no-shim",
            "viewnet run --link lo --no-shim --stack smol",
            "viewnet run --link lo --stack smol --parent",
        ] {
            let script = format!(
                "umask 027; ulimit -n 321; trap '' USR2 PIPE; exec 7</dev/null; \
                 for prefix in env '{run} --'; do (exec $prefix {probe} a '' 'b c'); echo ----; done"
            );
            let outcome = world.cmd("bash").args(["-c", &script]).env("ODD", "x=y\n: z").run().ok();
            let (native, view) = outcome.stdout.split_once("----\n").unwrap();
            let theirs = |line: &&str| run.contains("--no-shim") || !of_the_library(line);
            let view: Vec<_> = view.trim_end_matches("----\n").lines().filter(theirs).collect();
            let report = compare("facts", native, &view.join("\n"), &[]);
            assert!(report.is_clean(), "{run}: {}", report.failures());
            assert!(native.contains("descriptors: [0, 1, 2, 7]"), "{native}");
        }
    });
}

/// A variable by which the preloaded library is loaded and told of the view.
fn of_the_library(line: &str) -> bool {
    ["LD_PRELOAD", "ASAN_OPTIONS", "VIEWNET_SHIM"]
        .iter()
        .any(|name| line.starts_with(&format!("env {name}:")))
}

#[test]
fn the_program_takes_the_commands_place() {
    each_user(|world| {
        let script = "echo $$ $PPID; exec viewnet run --link lo -- sh -c 'echo $$ $PPID'";
        let outcome = world.cmd("bash").args(["-c", script]).run().ok();
        let lines: Vec<_> = outcome.stdout.lines().collect();
        assert_eq!(lines[0], lines[1]);
    });
}

#[test]
fn streams_are_the_programs_own() {
    each_user(|world| {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[0] & 0x7f).collect();
        let outcome = world.alone(["--", "cat"]).stdin(bytes.clone()).run().ok();
        assert!(outcome.stdout.as_bytes() == bytes, "{} bytes came through", outcome.stdout.len());
        assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
        let outcome = world.alone(["--", "sh", "-c", "echo out; echo err >&2"]).run().ok();
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
        assert!(!outcome.held_open, "the supervisor holds the program's output");
        // Everything closed, as cron or a careless parent may do it.
        world.cmd("bash").args(["-c", "exec <&- >&- 2>&-; exec viewnet run --link lo -- true"]).run().ok();
        // A reader that goes away ends the writer, not us.
        let script = "viewnet run --link lo -- yes | head -1; echo ${PIPESTATUS[0]}";
        world.cmd("bash").args(["-c", script]).run().ok().says("y\n141\n");
        let script = "viewnet run --link lo -- echo one | viewnet run --link lo -- tr a-z A-Z | viewnet run --link lo -- cat";
        world.cmd("bash").args(["-c", script]).run().ok().says("ONE\n");
    });
}

#[test]
fn views_are_apart_and_alike() {
    each_kind(|world, kind| {
        let serve = "import socket,sys; s=socket.socket(); s.bind(('0.0.0.0',80)); s.listen(); print('up',flush=True); sys.stdin.read()";
        let (mut one, mut two) = (
            world.alone(["--kind", kind, "--", "python3", "-c", serve]),
            world.alone(["--kind", kind, "--", "python3", "-c", serve]),
        );
        // A pipe that stays open keeps them alive.
        one.command.env("N", "1");
        two.command.env("N", "2");
        let (mut one, mut two) = (one.keep_stdin().start(), two.keep_stdin().start());
        one.until("up");
        two.until("up");
        let seen = world.alone([
            "--kind",
            kind,
            "--",
            "python3",
            "-c",
            "import socket; print(socket.socket().connect_ex(('127.0.0.1',80)))",
        ]);
        seen.run().ok().says("111");
        one.close_stdin();
        two.close_stdin();
        one.wait().ok();
        two.wait().ok();
    });
}

#[test]
fn trace_writes_one_line_per_trapped_call() {
    each_user(|world| {
        let program = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print('done')";
        let outcome = world.alone(["--trace", "--", "python3", "-c", program]).run().ok();
        assert_eq!(outcome.stdout, "done\n");
        let line = outcome.stderr.lines().find(|l| l.contains("socket(") && l.contains("AF_INET"));
        let line = line.unwrap_or_else(|| panic!("no such line:\n{}", outcome.stderr));
        assert!(line.contains("SOCK_DGRAM") && line.contains(" = "), "{line}");
        let untrapped = ["read(", "write(", "close(", "fork(", "poll("];
        assert!(
            !outcome.stderr.lines().any(|l| untrapped.iter().any(|u| l.contains(u))),
            "{}",
            outcome.stderr
        );
        let quiet = world.alone(["--", "python3", "-c", program]).run().ok();
        assert!(quiet.stderr.is_empty(), "{}", quiet.stderr);
        world.alone(["--verbose", "--", "true"]).run().ok();
    });
}

#[test]
fn orphans_and_daemons_keep_their_view() {
    each_kind(|world, kind| {
        let orphan = "sleep 0.7; ip -br addr show dev lo >out.new 2>&1; \
                      python3 -c 'import socket; s=socket.socket(); s.bind((\"10.99.0.1\",80)); print(\"bound\")' >>out.new 2>&1; \
                      mv out.new out";
        let script = format!(
            "ip addr add 10.99.0.1/32 dev lo; setsid sh -c '{}' </dev/null >/dev/null 2>&1 &",
            orphan.replace('\'', "'\\''")
        );
        let outcome = world.alone(["--kind", kind, "--", "bash", "-euc", &script]).run().ok();
        assert!(!outcome.held_open);
        let out = world.home().join("out");
        assert!(wait_until(SOON, || out.exists()), "the orphan is gone");
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains("10.99.0.1") && text.contains("bound"), "{text}");
    });
}

#[track_caller]
fn nothing_left(world: &World, after: &str) {
    let left = world.settle(SOON);
    assert!(left.is_empty(), "after {after}: {}", left.iter().map(|l| format!("{l}\n")).collect::<String>());
}

/// The processes of that name.
fn role_of(world: &World, role: &str) -> Vec<nix::unistd::Pid> {
    let name =
        |pid: &nix::unistd::Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    world.supervisors().into_iter().filter(|pid| name(pid).trim_end() == role).collect()
}

/// As [`role_of`], once there are `count` of them: a process gets its name a moment after its start.
fn all_of_role(world: &World, role: &str, count: usize) -> Vec<nix::unistd::Pid> {
    wait_until(SOON, || role_of(world, role).len() == count);
    let found = role_of(world, role);
    assert_eq!(found.len(), count, "{role}: {:?}", world.leftovers());
    found
}

/// One of a pair may already have followed the other.
fn kill(pid: nix::unistd::Pid) {
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
}

/// On the default switch.
const ON: &str = "--ip 10.0.0.2/24";
/// On no network.
const OFF: &str = "--link lo";

#[test]
fn nothing_is_left_whoever_dies_first() {
    each_user(|world| {
        for (kind, address) in [("kernel", OFF), ("kernel", ON), ("smol", OFF), ("smol", ON)] {
            let plugged = address == ON;
            let options = ["--kind", kind].into_iter().chain(address.split_whitespace()).chain(["--"]);
            let options = &options.collect::<Vec<_>>();
            world.run(options).args(["true"]).run().ok();
            nothing_left(&world, "true");
            // Its children outlive it for a while.
            world.run(options).args(["sh", "-c", "sleep 0.5 & exit 3"]).run().code(3);
            nothing_left(&world, "orphan");
            let start = || {
                let mut running = world.run(options).args(["sh", "-c", "echo up; exec sleep 100"]).start();
                running.until("up");
                running
            };
            for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP] {
                let running = start();
                running.kill(signal);
                running.wait();
                nothing_left(&world, &format!("{options:?} program killed by {signal}"));
            }
            let roles: &[(&str, usize)] = if plugged {
                &[("viewnet-view", 1), ("viewnet-eye", 2), ("viewnet-switch", 1)]
            } else {
                &[("viewnet-view", 1), ("viewnet-eye", 1)]
            };
            for (role, count) in roles {
                for nth in 0..*count {
                    for together in [false, true] {
                        let running = start();
                        kill(all_of_role(&world, role, *count)[nth]);
                        if !together {
                            std::thread::sleep(Duration::from_millis(100));
                        }
                        running.kill(Signal::SIGKILL);
                        running.wait();
                        nothing_left(
                            &world,
                            &format!("{options:?} {role} {nth} killed, together: {together}"),
                        );
                    }
                }
            }
            // The view goes at once with either of its twins, not only when the program ends.
            for (role, count) in roles.iter().filter(|it| it.0 != "viewnet-switch") {
                let running = start();
                kill(all_of_role(&world, role, *count)[0]);
                let stacks = world.runtime().join("viewnet/stacks");
                let gone = || tests::leftovers::files_in(&stacks).is_empty();
                let other = plugged && *role == "viewnet-eye";
                assert!(other || wait_until(SOON, gone), "{role} killed, and the view's path stays");
                running.kill(Signal::SIGKILL);
                running.wait();
                nothing_left(&world, role);
            }
            // All of ours at once: nobody is left to remove files, and the next command that looks does.
            let running = start();
            world.supervisors().into_iter().chain([running.pid()]).for_each(kill);
            running.wait();
            // (A process that is being torn down may still hold its socket, so that one look is not enough.)
            wait_until(SOON, || {
                world.viewnet(["stack", "ls"]).run().ok();
                world.viewnet(["switch", "ls"]).run().ok();
                world.leftovers().is_empty()
            });
            nothing_left(&world, &format!("{options:?} all killed at once"));
        }
    });
}

#[test]
fn nothing_is_left_of_a_killed_keeper_or_switch() {
    each_user(|world| {
        // On the default switch, with a view in the stack: a keeper, a supervisor, a switch, and an eye of each.
        let roles = [("viewnet-keeper", 1), ("viewnet-switch", 1), ("viewnet-view", 1), ("viewnet-eye", 3)];
        let on = |kind| roles.map(|(role, count)| (kind, role, count));
        for (kind, role, count) in [on("kernel"), on("smol")].concat() {
            for nth in 0..count {
                world.viewnet(["stack", "up", "kept", "--kind", kind, "--ip", "10.0.0.1/24"]).run().ok();
                let mut running =
                    world.run(["--stack", "kept", "--", "sh", "-c", "echo up; exec sleep 100"]).start();
                running.until("up");
                kill(all_of_role(&world, role, count)[nth]);
                std::thread::sleep(Duration::from_millis(100));
                running.kill(Signal::SIGKILL);
                running.wait();
                // The killed one may have taken the kept stack with it.
                let down = || {
                    world.viewnet(["stack", "down", "kept", "--force"]).run().status == Status::Exited(0)
                        || !world.runtime().join("viewnet/stacks/kept").exists()
                };
                assert!(wait_until(SOON, down), "{kind}: {role} {nth} killed, and the stack stays");
                nothing_left(&world, &format!("{kind}: {role} {nth} killed"));
            }
        }
        for (role, options) in [
            ("viewnet-switch", &["switch", "up", "lan"][..]),
            ("viewnet-eye", &["switch", "up", "lan"]),
            ("viewnet", &["switch", "up", "lan", "--foreground"]),
            ("viewnet-eye", &["switch", "up", "lan", "--foreground"]),
        ] {
            let path = world.runtime().join("viewnet/switches/lan");
            let command = world.viewnet(options).start();
            // Once it is two processes with their names, and answers.
            let all = || role_of(&world, role).len() == 1 && world.supervisors().len() == 2 && path.exists();
            assert!(wait_until(SOON, all), "{role}: {:?}", world.leftovers());
            world.viewnet(["switch", "show", "lan"]).run().ok();
            kill(role_of(&world, role)[0]);
            command.wait();
            nothing_left(&world, &format!("{role} killed after {options:?}"));
        }
    });
}

#[test]
fn a_killed_switch_is_replaced_at_once() {
    each_user(|world| {
        let path = world.runtime().join("viewnet/switches/lan");
        for _ in 0..10 {
            world.viewnet(["switch", "up", "lan"]).run().ok();
            kill(all_of_role(&world, "viewnet-switch", 1)[0]);
            world.viewnet(["switch", "up", "lan"]).run().ok();
            std::thread::sleep(Duration::from_millis(50));
            assert!(path.exists(), "the watcher of the old switch removed the new one's file");
            world.viewnet(["switch", "down", "lan"]).run().ok();
            nothing_left(&world, "down");
        }
    });
}

#[test]
fn as_the_programs_ancestor_it_does_what_the_program_does() {
    each_user(|world| {
        for stack in ["kernel", "smol"] {
            let run = |script: &str| world.run(["--stack", stack, "--parent", "--", "bash", "-uc", script]);
            assert_eq!(run("exit 7").run().status, Status::Exited(7));
            assert_eq!(run("kill -TERM $$").run().status, Status::Signaled(Signal::SIGTERM as i32));
            assert_eq!(
                world.run(["--stack", stack, "--parent", "--", "nosuch"]).run().status,
                Status::Exited(127)
            );
            // A signal sent to it is the program's; one that nobody can catch ends both.
            let trap = "trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.05; done";
            let mut running = run(trap).start();
            running.until("up");
            running.kill(Signal::SIGTERM);
            assert_eq!(running.wait().status, Status::Exited(3));
            let mut running = run("echo up; exec sleep 100").start();
            running.until("up");
            running.kill(Signal::SIGKILL);
            running.wait();
            nothing_left(&world, &format!("{stack}, its stand-in killed"));
            let mut running = run("echo up $$; exec sleep 100").start();
            running.until("\n");
            let program = running.stdout().trim().rsplit(' ').next().unwrap().parse().unwrap();
            kill(all_of_role(&world, "viewnet-view", 1)[0]);
            let outcome = running.wait();
            assert_eq!(outcome.status, Status::Exited(125));
            let told =
                format!("viewnet: cannot follow the program (pid {program}): its supervisor was killed; ");
            assert!(outcome.stderr.starts_with(&told), "{}", outcome.stderr);
            kill(nix::unistd::Pid::from_raw(program));
            nothing_left(&world, &format!("{stack}, its supervisor killed"));
        }
        let mut shell = world.cmd("bash").args(["--norc", "--noprofile", "-i"]);
        shell.command.env("PS1", "ready> ").env("BASH_SILENCE_DEPRECATION_WARNING", "1");
        let mut terminal = Terminal::start(shell);
        terminal.until("ready> ");
        terminal.type_keys(
            "viewnet run --link lo --stack smol --parent -- sh -c 'test -t 0 && echo is\"\"-tty; exec sleep 100'\r",
        );
        terminal.until("is-tty");
        terminal.until_foreground("sleep");
        terminal.type_keys("\x1a");
        terminal.until("Stopped");
        terminal.until("ready> ");
        terminal.type_keys("fg\r");
        terminal.until("viewnet run");
        terminal.until_foreground("sleep");
        terminal.type_keys("\x03");
        terminal.until("ready> ");
        terminal.type_keys("echo status-$?; exit 5\r");
        terminal.until("status-130");
        assert_eq!(terminal.wait(), Some(5));
    });
}

#[test]
fn job_control_on_a_terminal() {
    each_user(|world| {
        let mut shell = world.cmd("bash").args(["--norc", "--noprofile", "-i"]);
        shell.command.env("PS1", "ready> ").env("BASH_SILENCE_DEPRECATION_WARNING", "1");
        let mut terminal = Terminal::start(shell);
        terminal.until("ready> ");
        terminal.type_keys("viewnet run --link lo -- sh -c 'tty; test -t 0 && echo is\"\"-tty; cat'\r");
        terminal.until("/dev/pts/");
        terminal.until("is-tty");
        terminal.type_keys("\x03");
        terminal.until("ready> ");
        terminal.type_keys("echo status-$?\r");
        terminal.until("status-130");
        terminal.type_keys("viewnet run --link lo -- sh -c 'echo star\"\"ted; sleep 100; echo never'\r");
        terminal.until("started");
        // A shell that is just starting its child by vfork(2) cannot be stopped, natively either.
        terminal.until_foreground("sleep");
        terminal.type_keys("\x1a");
        terminal.until("Stopped");
        terminal.until("ready> ");
        terminal.type_keys("jobs\r");
        terminal.until("Stopped");
        terminal.type_keys("bg\r");
        terminal.until("ready> ");
        terminal.type_keys("jobs -r\r");
        terminal.until("Running");
        terminal.until("ready> ");
        terminal.type_keys("fg\r");
        terminal.until("viewnet run");
        // bash names the job first and hands it the terminal then.
        terminal.until_foreground("sleep");
        terminal.type_keys("\x03");
        terminal.until("ready> ");
        terminal.type_keys("PS1='inside> ' viewnet run --link lo -- bash --norc --noprofile -i\r");
        terminal.until("inside> ");
        terminal.until("inside> ");
        terminal.type_keys("PS1='ready> '\r");
        terminal.until("ready> ");
        terminal.type_keys("echo nest\"\"ed; sleep 100\r");
        terminal.until("nested");
        terminal.until_foreground("sleep");
        terminal.type_keys("\x1a");
        terminal.until("Stopped");
        terminal.type_keys("kill -9 %1; sleep 0.5; wait; echo inn\"\"er; exit 7\r");
        terminal.until("inner");
        terminal.until("ready> ");
        terminal.type_keys("echo status-$?; stty size\r");
        terminal.until("status-7");
        terminal.type_keys("exit 5\r");
        assert_eq!(terminal.wait(), Some(5));
    });
}

#[test]
fn a_terminal_of_its_own() {
    each_user(|world| {
        let mut terminal =
            Terminal::start(world.alone(["--", "sh", "-c", "tty; stty -a | head -1; read x; echo got-$x"]));
        terminal.until("/dev/pts/");
        terminal.type_keys("word\r");
        terminal.until("got-word");
        assert_eq!(terminal.wait(), Some(0));
        // The terminal goes away: the program gets SIGHUP and nothing stays.
        let mut terminal = Terminal::start(world.alone(["--", "sh", "-c", "echo up; sleep 100"]));
        terminal.until("up");
        drop(terminal);
    });
}

#[test]
fn narrow_circumstances() {
    each_user(|world| {
        let scripts = [
            "ulimit -n 16; viewnet run --link lo -- sh -c 'echo fine'",
            "mkdir gone; cd gone; rmdir ../gone; viewnet run --link lo -- /bin/echo fine",
            "viewnet=$(command -v viewnet); env -i XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR $viewnet run --link lo -- /bin/echo fine",
            "setpriv --no-new-privs viewnet run --link lo -- echo fine",
            "trap '' CHLD PIPE TERM; viewnet run --link lo -- echo fine",
            "nice viewnet run --link lo -- echo fine",
            "viewnet run --link lo -- viewnet stack ls; echo fine",
            "unshare -rm viewnet run --link lo -- echo fine",
        ];
        for script in scripts {
            let outcome = world.cmd("bash").args(["-euc", script]).run();
            assert!(
                outcome.status == Status::Exited(0) && outcome.stdout.ends_with("fine\n"),
                "{script}: {outcome:?}"
            );
            assert!(outcome.stderr.is_empty(), "{script}: {outcome:?}");
        }
    });
}

#[test]
fn without_a_runtime_folder_it_makes_one() {
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: it would be the real user's folder");
        return;
    }
    let world = World::new(User::Ordinary);
    let folder = std::path::PathBuf::from(format!("/tmp/viewnet-{}", world.uid()));
    let run = || {
        world
            .cmd("env")
            .args(["-u", "XDG_RUNTIME_DIR", "viewnet", "run", "--link", "lo", "--", "echo", "fine"])
            .run()
    };
    run().ok().says("fine");
    assert!(wait_until(SOON, || tests::leftovers::files_in(&folder).is_empty()));
    // A folder that others may enter is no place for sockets.
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let refused = run().code(125);
    assert!(refused.stderr.contains("; "), "{}", refused.stderr);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_machine_that_lacks_something_is_told_what() {
    let mut world = World::new(User::Ordinary);
    let none = "echo 0 >/proc/sys/user/max_user_namespaces; exec viewnet run --link lo --kind kernel -- echo started";
    let outcome = world.cmd("unshare").args(["-rm", "sh", "-c", none]).run().code(125);
    assert!(
        outcome.stdout.is_empty() && outcome.stderr.contains("max_user_namespaces"),
        "{}",
        outcome.stderr
    );
    if world.has_own_host() {
        world.forbid_tun();
        world.alone(["--", "echo", "fine"]).run().ok().says("fine");
        world.run(["--kind", "smol", "--ip", "10.0.0.1/24", "--", "echo", "fine"]).run().ok().says("fine");
        let outcome = world.run(["--ip", "10.0.0.1/24", "--", "echo", "started"]).run();
        // Whether TAPs need the device node is viewnet's affair; a failure must name it.
        if outcome.status != Status::Exited(0) {
            assert_eq!(outcome.status, Status::Exited(125));
            assert!(
                outcome.stderr.contains("/dev/net/tun") && outcome.stderr.contains("; "),
                "{}",
                outcome.stderr
            );
        }
    }
}
