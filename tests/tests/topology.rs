//! `viewnet up`, `down`, `graph`, `logs`: real programs in topologies that come, change, crash and go.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{Outcome, SOON, Status, User, World, each_user, wait_until};

fn json(outcome: Outcome) -> Value {
    let outcome = outcome.ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", outcome.stdout))
}

/// A web server on two switches, and a client on each.
fn lab(kind: &str) -> String {
    format!(
        r#"
[switch.left]
age = 60
vlan.10 = "office"
[switch.right]

[stack.web]
kind = "{kind}"
[[stack.web.interface]]
name = "eth0"
link = "switch:left[vlan 10]"
ip = ["10.0.1.1/24"]
[[stack.web.interface]]
name = "eth1"
link = "switch:right"
ip = ["10.0.2.1/24"]

[stack.one]
kind = "{kind}"
[[stack.one.interface]]
name = "eth0"
link = "switch:left[vlan 10]"
ip = ["10.0.1.2/24"]

[stack.two]
kind = "smol"
[[stack.two.interface]]
name = "eth0"
link = "switch:right"
ip = ["10.0.2.2/24"]

[program.httpd]
stack = "web"
command = ["python3", "-u", "-m", "http.server", "80"]
environment = {{ GREETING = "hello" }}

[program.get-one]
stack = "one"
command = "curl -sS --retry 9 --retry-connrefused http://10.0.1.1/lab.toml | tail -n +2 | head -1"
after = ["httpd"]

[program.get-two]
stack = "two"
command = "curl -sS --retry 9 --retry-connrefused http://10.0.2.1/lab.toml | tail -n +3 | head -1"
after = ["httpd"]
"#
    )
}

#[test]
fn a_topology_comes_stays_and_goes() {
    for kind in ["kernel", "smol"] {
        each_user(|world| {
            world.write("lab.toml", &lab(kind));
            let up = world.viewnet(["up", "lab.toml", "--wait=get-one,get-two"]).run().ok();
            assert!(
                up.stdout.starts_with("+ switch left: age 60 s, VLAN 10 office\n+ switch right\n"),
                "{}",
                up.stdout
            );
            assert!(up.stdout.contains("\n+ program get-two: in two: curl"), "{}", up.stdout);
            world.viewnet(["logs", "get-one", "--lines", "1"]).run().ok().says("[switch.left]");
            world.viewnet(["logs", "lab/get-two", "-n", "1"]).run().ok().says("age = 60");
            world.viewnet(["ls"]).run().ok().says("httpd");
            let programs = json(world.viewnet(["ls", "--programs", "--json"]).run());
            assert_eq!(programs[0]["outcome"]["exited"], 0, "{programs}");
            assert_eq!(programs[2]["life"], "running", "{programs}");
            let again = world.viewnet(["up", "lab.toml"]).run().ok();
            assert_eq!(again.stdout, "lab: nothing to do\n");
            world.viewnet(["graph", "--running"]).run().ok().says("\"stack web\" -> \"switch left\"");
            world.viewnet(["down", "lab.toml"]).run().ok().says("- stack web\n");
            world.viewnet(["down"]).run().code(1);
        });
    }
}

#[test]
fn an_edit_changes_only_that() {
    each_user(|world| {
        let change = |from: &str, to: &str| {
            let text = std::fs::read_to_string(world.home().join("lab.toml")).unwrap();
            world.write("lab.toml", &text.replace(from, to));
            let dry = world.viewnet(["up", "lab.toml", "--dry-run"]).run().ok().stdout;
            let wet = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
            assert_eq!(dry, format!("{wet}nothing was done: --dry-run\n"));
            assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
            wet
        };
        world.write("lab.toml", &lab("smol"));
        world.viewnet(["up", "lab.toml"]).run().ok();
        assert_eq!(change("age = 60", "age = 70"), "~ switch left: age 70 s\n");
        assert_eq!(json(world.viewnet(["switch", "show", "left", "--json"]).run())["age_s"], 70);
        assert_eq!(
            change("[vlan 10]", "[vlan 20]"),
            "~ stack one: eth0: access 10 → access 20\n~ stack web: eth0: access 10 → access 20\n"
        );
        let text = change("\"10.0.2.2/24\"", "\"10.0.2.3/24\"");
        assert_eq!(
            text,
            "~ stack two: made anew: other interface\n~ program get-two: started again: its stack two is new\n"
        );
        assert_eq!(change("\"hello\"", "\"bye\""), "~ program httpd: started again: other environment\n");
        // What somebody changed by hand is put right.
        world.viewnet(["switch", "port", "set", "left", "web.eth0", "--access", "30"]).run().ok();
        world.viewnet(["up", "lab.toml"]).run().ok().says("~ stack web: eth0: access 30 → access 20\n");
        let gone = change("[program.get-two]\nstack = \"two\"", "[program.other]\nstack = \"two\"");
        assert!(gone.contains("+ program other") && gone.ends_with("- program get-two\n"), "{gone}");
        let shown = json(world.viewnet(["down", "--dry-run", "--json"]).run());
        assert_eq!(shown["changes"][0]["sign"], "remove", "{shown}");
        world.viewnet(["down", "lab"]).run().ok();
    });
}

#[test]
fn mistakes_are_named_with_their_place() {
    let world = World::new(User::Ordinary);
    let table = [
        (
            "[stak.a]",
            "line 1, column 2: unknown field `stak`, expected one of `name`, `switch`, `gateway`, `stack`, `program`; did you mean `stack`?",
        ),
        (
            "[switch.lan]\n\n  age = \"1\"",
            "line 3, column 9: invalid type: string \"1\", expected u64; `viewnet up --help` shows how a topology is written",
        ),
        (
            "[switch.lan]\nage = 5\nage = 6",
            "line 3, column 1: duplicate key; `viewnet up --help` shows how a topology is written",
        ),
        ("[program.p]\nstack = \"host\"\ncommand = [\"no-such-program\"]", ""),
    ];
    for (text, expected) in table {
        world.write("bad.toml", text);
        let outcome = world.viewnet(["up", "bad.toml"]).run().code(1);
        let line = match expected {
            "" => "viewnet: cannot start program p: `no-such-program` was not found; install it, or write its path\n".into(),
            expected => format!("viewnet: cannot use bad.toml: {expected}\n"),
        };
        assert_eq!(outcome.stderr, line);
    }
    world.viewnet(["up", "none.toml"]).run().code(1);
    world.viewnet(["down", "none"]).run().code(1);
    world.viewnet(["logs", "none"]).run().code(1);
}

#[test]
fn names_are_taken_once() {
    each_user(|world| {
        world.write("a.toml", "[switch.lan]\n[program.p]\nstack = \"host\"\ncommand = \"sleep 1000\"");
        world.write("b.toml", "[switch.wan]\n[program.p]\nstack = \"host\"\ncommand = \"sleep 1000\"");
        world.write("c.toml", "[switch.lan]");
        world.viewnet(["up", "a.toml"]).run().ok();
        world.viewnet(["up", "b.toml"]).run().ok();
        let refused = world.viewnet(["up", "c.toml"]).run().code(1).stderr;
        assert!(refused.contains("topology a has it"), "{refused}");
        assert!(world.viewnet(["logs", "p"]).run().code(1).stderr.contains("say which: a/p"));
        assert!(world.viewnet(["down"]).run().code(1).stderr.contains("there are a, b"));
        world.write("sub/a.toml", "[switch.other]");
        let refused = world.viewnet(["up", "sub/a.toml"]).run().code(1).stderr;
        assert!(refused.contains("cannot change topology a: it was made from"), "{refused}");
        world.viewnet(["down", "a"]).run().ok();
        world.viewnet(["switch", "ls"]).run().ok().says("wan");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let refused = world.viewnet(["up", "c.toml"]).run().code(1).stderr;
        assert!(refused.contains("not this topology's"), "{refused}");
        // Somebody else's switch is plugged into, and stays.
        world.write("c.toml", "[switch.lan]\nexternal = true\n[stack.s]\ninterface = [{ name = \"eth0\", link = \"switch:lan\" }]");
        world.viewnet(["up", "c.toml"]).run().ok();
        world.viewnet(["switch", "port", "ls", "lan"]).run().ok().says("s.eth0");
        world.viewnet(["down", "c"]).run().ok();
        world.viewnet(["down", "b"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn a_step_that_fails_is_undone() {
    each_user(|world| {
        let bad = "[switch.lan]\nport.p = { nic = \"nosuch0\" }\n[switch.wan]\n[stack.s]\nkind = \"smol\"\n";
        world.write("bad.toml", bad);
        let refused = world.viewnet(["up", "bad.toml"]).run().code(1).stderr;
        assert!(refused.contains("nosuch0") && refused.contains("what it had begun was undone"), "{refused}");
        assert_eq!(world.viewnet(["switch", "ls", "--json"]).run().ok().stdout, "[]\n");
        world.viewnet(["down", "bad"]).run().code(1);
        // From a topology that runs: back to that.
        world.write(
            "bad.toml",
            "[switch.lan]\nage = 50\n[program.p]\nstack = \"host\"\ncommand = \"sleep 1000\"\n",
        );
        world.viewnet(["up", "bad.toml"]).run().ok();
        world.write("bad.toml", &bad.replace("[switch.wan]", "[switch.wan]\nage = 7"));
        world.viewnet(["up", "bad.toml"]).run().code(1);
        assert_eq!(json(world.viewnet(["switch", "show", "lan", "--json"]).run())["age_s"], 50);
        world.viewnet(["ls", "--programs"]).run().ok().says("running");
        world.viewnet(["down"]).run().ok();
    });
}

#[test]
fn programs_live_by_their_policy() {
    each_user(|world| {
        world.write(
            "p.toml",
            r#"
[program.once]
stack = "none"
command = "echo once; exit 3"
[program.again]
stack = "host"
command = "echo run >> runs; [ $(wc -l < runs) = 3 ]"
restart = "on-failure"
[program.stubborn]
stack = "host"
command = ["bash", "-c", "trap '' TERM; echo up; env -u VIEWNET_PROGRAM setsid sleep 1000 & sleep 1000"]
restart = "always"
[program.daemon]
stack = "host"
command = "setsid sleep 1000 & exit 0"
"#,
        );
        let up = world.viewnet(["up", "p.toml", "--wait=once,again", "--json"]).run();
        let shown: Value = serde_json::from_str(&up.code(1).stdout).unwrap();
        let programs = &shown["programs"];
        assert_eq!(
            (&programs[0]["name"], &programs[0]["restarts"]),
            (&"again".into(), &2.into()),
            "{programs}"
        );
        assert_eq!(programs[1]["outcome"]["exited"], 3, "{programs}");
        world.viewnet(["logs", "once"]).run().ok().says("once\n");
        assert_eq!(world.viewnet(["up", "p.toml"]).run().ok().stdout, "p: nothing to do\n");
        let stubborn = || {
            let all = json(world.viewnet(["ls", "--programs", "--json"]).run());
            all.as_array().unwrap().iter().find(|p| p["name"] == "stubborn").cloned().unwrap()
        };
        let pid = stubborn()["pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        assert!(wait_until(SOON, || stubborn()["restarts"] == 1), "{}", stubborn());
        world.viewnet(["down"]).run().ok();
    });
}

/// The process of viewnet's that has this name.
fn process(world: &World, name: &str) -> Pid {
    let is_it = |pid: &Pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).replace('\0', " ").contains(name)
    };
    world.supervisors().into_iter().find(is_it).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_stack_that_others_use_goes_by_force_only() {
    each_user(|world| {
        world.write("lab.toml", "[stack.web]\nkind = \"smol\"\n[switch.lan]\n");
        world.viewnet(["up", "lab.toml"]).run().ok();
        let guest = world.run(["--stack", "web", "--name", "guest", "--", "sh", "-c", "echo up; sleep 1000"]);
        let mut guest = guest.start();
        guest.until("up");
        let refused = world.viewnet(["down"]).run().code(1).stderr;
        assert!(refused.contains("guest") && refused.ends_with("left: switch lan, stack web\n"), "{refused}");
        world.viewnet(["down", "--force"]).run().ok();
        guest.kill_group();
        guest.wait();
    });
}

#[test]
fn ports_of_the_machine_come_and_go() {
    for user in User::all().iter().filter(|user| **user == User::Root) {
        let world = World::new(*user);
        world.write("lab.toml", "[switch.lan]\nport.vm = { tap = \"tap0\", access = 10 }\nport.up = { nic = \"v1\", trunk = \"all\", native = 1 }");
        world.cmd("ip").args(["link", "add", "v0", "type", "veth", "peer", "name", "v1"]).run().ok();
        world.viewnet(["up", "lab.toml"]).run().ok().says("+ port lan/up: nic v1, trunk all native 1");
        world.cmd("ip").args(["link", "show", "tap0"]).run().ok();
        assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
        world.write("lab.toml", "[switch.lan]\nport.vm = { tap = \"tap1\", access = 20 }\n");
        let changed = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
        assert_eq!(
            changed,
            "- port lan/up: \n~ port lan/vm: now tap tap1, access 20\n".replace(": \n", "\n")
        );
        // The switch closes it in its own time.
        let gone = || world.cmd("ip").args(["link", "show", "tap0"]).run().status == Status::Exited(1);
        assert!(wait_until(SOON, gone));
        // An interface that vanished under its port is missed.
        world.cmd("ip").args(["link", "del", "tap1"]).run().ok();
        world.viewnet(["up", "lab.toml"]).run().ok().says("+ port lan/vm: tap tap1, access 20");
        world.viewnet(["down"]).run().ok();
        world.cmd("ip").args(["link", "show", "tap1"]).run().code(1);
    }
}

#[test]
fn a_crash_of_anything_is_repaired_and_leaves_nothing() {
    each_user(|world| {
        world.write("lab.toml", &lab("smol"));
        world.viewnet(["up", "lab.toml"]).run().ok();
        let crash = |name: &str, expected: &[&str]| {
            let pid = process(&world, name);
            kill(pid, Signal::SIGKILL).unwrap();
            assert!(wait_until(SOON, || !world.supervisors().contains(&pid)));
            let repaired = world.viewnet(["up", "lab.toml"]).run().ok().stdout;
            for line in expected {
                assert!(repaired.contains(line), "no {line:?} in {repaired}");
            }
            assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
        };
        crash("switch serve", &["+ switch", "~ stack web: made anew", "~ program httpd: started again"]);
        crash(
            "viewnet-keeper",
            &["+ stack web", "+ stack one", "~ program httpd: started again: its stack web is new"],
        );
        crash("viewnet-runner", &["+ program httpd", "+ program get-one"]);
        for name in ["viewnet-runner", "switch serve", "viewnet-keeper"] {
            kill(process(&world, name), Signal::SIGKILL).unwrap();
        }
        world.viewnet(["down"]).run().ok();
    });
}

#[test]
fn up_may_be_killed_at_any_time() {
    let world = World::new(User::Ordinary);
    world.write("lab.toml", &lab("smol"));
    for delay in [0, 5, 10, 20, 40, 80, 120, 160, 240] {
        let up = world.viewnet(["up", "lab.toml"]).start();
        std::thread::sleep(Duration::from_millis(delay));
        up.kill(Signal::SIGKILL);
        up.wait();
        if delay % 3 == 0 {
            world.viewnet(["up", "lab.toml"]).run().ok();
            assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n");
        }
        // Killed before it began there is nothing to take down.
        let down = world.viewnet(["down", "lab"]).run();
        assert!(down.stderr.is_empty() || down.stderr.contains("it does not run"), "{}", down.stderr);
        assert_eq!(world.viewnet(["switch", "ls", "--json"]).run().ok().stdout, "[]\n", "after {delay} ms");
        assert_eq!(world.viewnet(["stack", "ls", "--json"]).run().ok().stdout, "[]\n", "after {delay} ms");
    }
}

/// Numbers that look random (Knuth's MMIX generator) and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn random_topologies_leave_nothing() {
    let world = World::new(User::Ordinary);
    for seed in 0..8 {
        eprintln!("seed {seed}");
        let mut dice = Dice(seed);
        for _ in 0..3 {
            let switches = dice.roll(3);
            let mut text: String =
                (0..switches).map(|n| format!("[switch.s{n}]\nage = {}\n", 1 + dice.roll(2))).collect();
            let stacks = dice.roll(4);
            for n in 0..stacks {
                let kind = if dice.roll(3) == 0 { "kernel" } else { "smol" };
                let link = match dice.roll(switches + 1) {
                    0 => "none".to_owned(),
                    n => format!("switch:s{}[vlan {}]", n - 1, 1 + dice.roll(2)),
                };
                text += &format!(
                    "[stack.n{n}]\nkind = \"{kind}\"\ninterface = [{{ name = \"eth0\", link = \"{link}\", ip = [\"10.0.0.{}/24\"] }}]\n",
                    n + 1
                );
            }
            for n in 0..dice.roll(3) {
                let stack = if stacks == 0 { "host".to_owned() } else { format!("n{}", dice.roll(stacks)) };
                text += &format!(
                    "[program.p{n}]\nstack = \"{stack}\"\ncommand = \"sleep {}\"\n",
                    100 + dice.roll(2)
                );
            }
            world.write("lab.toml", &text);
            world.viewnet(["up", "lab.toml"]).run().ok();
            assert_eq!(world.viewnet(["up", "lab.toml"]).run().ok().stdout, "lab: nothing to do\n", "{text}");
        }
        world.viewnet(["down"]).run().ok();
    }
}

#[test]
fn a_picture_is_drawn() {
    let world = World::new(User::Ordinary);
    world.write("lab.toml", &lab("smol"));
    let dot = world.viewnet(["graph", "lab.toml"]).run().ok().stdout;
    assert!(
        dot.contains("\"stack web\" -> \"switch left\" [label=\"eth0 10.0.1.1/24 [vlan 10]\", dir=none];"),
        "{dot}"
    );
    let svg = world.viewnet(["graph", "lab.toml", "--svg"]).run().ok().stdout;
    world.write("lab.svg", &svg);
    let parse = "import xml.dom.minidom as m; print(m.parse('lab.svg').documentElement.tagName)";
    world.cmd("python3").args(["-c", parse]).run().ok().says("svg");
    assert_eq!(
        json(world.viewnet(["graph", "lab.toml", "--json"]).run())["nodes"].as_array().unwrap().len(),
        8
    );
    world.viewnet(["graph"]).run().code(2);
}
