//! Rules of a view, and `viewnet on`: one program, several stacks.
//!
//! Two networks, lan (10.1.0.0/16) and office (10.2.0.0/16), each a switch with a host .9 that says its name. On each the
//! user keeps a stack .1 (fd01::1 and fd02::1).

use tests::binaries::libmsocket;
use tests::{Cmd, Outcome, Running, User, World};

const ASK: &str = include_str!("../programs/ask.py");
const MOVE: &str = include_str!("../programs/move.py");
const REPLY: &str = include_str!("../programs/reply.py");
const UNASKED: &str = include_str!("../programs/unasked.py");

/// Kinds of the stack on the lan and of that in the office.
const KINDS: [(&str, &str); 4] =
    [("kernel", "kernel"), ("smol", "smol"), ("kernel", "smol"), ("smol", "kernel")];

struct Networks {
    world: World,
    hosts: Vec<Running>,
}

impl Networks {
    fn new(user: User, lan: &str, office: &str) -> Self {
        let world = World::new(user);
        let programs = [("ask.py", ASK), ("move.py", MOVE), ("reply.py", REPLY), ("unasked.py", UNASKED)];
        for (name, text) in programs {
            world.write(name, text);
        }
        let mut hosts = Vec::new();
        for (net, name, kind) in [(1, "lan", lan), (2, "office", office)] {
            world.viewnet(["switch", "up", name]).run().ok();
            let link = |host| format!("eth0=switch:{name},ip=10.{net}.0.{host}/24,ip=fd0{net}::{host}/64");
            let mut host = world.run(["--link", &link(9), "--", "python3", "reply.py", name]).start();
            host.until("up");
            hosts.push(host);
            world.viewnet(["stack", "up", name, "--kind", kind, "--link", &link(1)]).run().ok();
        }
        Self { world, hosts }
    }

    fn each_kind(test: impl Fn(&Self)) {
        for (lan, office) in KINDS {
            eprintln!("lan is {lan}, office is {office}");
            let networks = Self::new(User::Ordinary, lan, office);
            test(&networks);
            networks.end();
        }
    }

    fn end(self) {
        for host in self.hosts {
            host.kill_group();
            host.wait();
        }
        for name in ["lan", "office"] {
            self.world.viewnet(["stack", "down", name, "--force"]).run().ok();
            self.world.viewnet(["switch", "down", name]).run().ok();
        }
    }

    fn run(&self, stack: &str, rules: &[&str]) -> Cmd {
        let rules = rules.iter().flat_map(|rule| ["--rule", rule]);
        self.world.run(["--stack", stack]).args(rules).args(["--"])
    }

    fn ask(&self, stack: &str, rules: &[&str], to: &[&str]) -> Outcome {
        self.run(stack, rules).args(["python3", "ask.py"]).args(to).run().ok()
    }
}

const OFFICE: &[&str] = &["to 10.2.0.0/16,[fd02::]/16 via office"];

#[test]
fn each_destination_has_its_stack() {
    Networks::each_kind(|networks| {
        let outcome = networks.ask("lan", OFFICE, &["10.1.0.9", "10.2.0.9", "fd01::9", "fd02::9"]);
        let outcome = outcome.says("10.1.0.9 tcp lan to 10.1.0.1 from 10.1.0.1");
        let outcome = outcome.says("10.1.0.9 udp lan to 10.1.0.1:");
        let outcome = outcome.says("10.2.0.9 tcp office to 10.2.0.1 from 10.2.0.1");
        let outcome = outcome.says("10.2.0.9 udp office to 10.2.0.1:");
        let outcome = outcome.says("fd01::9 tcp lan to fd01::1").says("fd01::9 udp lan to fd01::1:");
        outcome.says("fd02::9 tcp office to fd02::1").says("fd02::9 udp office to fd02::1:");
    });
}

#[test]
fn what_a_program_did_with_its_socket_before_is_not_lost() {
    Networks::each_kind(|networks| {
        let outcome = networks.run("lan", OFFICE).args(["python3", "move.py"]).run().ok();
        assert!(!outcome.stdout.contains("WRONG"), "{}", outcome.stdout);
        outcome.says("epoll ok").says("udp to another stack ok").says("done");
    });
}

const DENIED: &str = "to 10.1.0.8,10.2.0.8 udp deny";

#[test]
fn rules_hold_for_calls_that_the_preloaded_library_answers() {
    Networks::each_kind(|networks| {
        let outcome = networks.run("lan", &[DENIED, OFFICE[0]]).args(["python3", "unasked.py"]).run();
        assert_eq!(outcome.ok().stdout, "done\n");
    });
}

#[test]
fn the_preloaded_library_serves_a_view_whose_default_is_the_hosts_network() {
    let networks = Networks::new(User::Ordinary, "smol", "smol");
    let rules = ["default via host", DENIED, "to 10.1.0.0/16 via lan", OFFICE[0]];
    let outcome = networks.run("lan", &rules).args(["python3", "unasked.py"]).run().ok();
    assert_eq!(outcome.stdout, "done\n");
    let files = "cut -d: -f1 /proc/net/dev; ls /sys/class/net; cat /proc/net/if_inet6";
    let native = networks.world.cmd("sh").args(["-c", files]).run().ok();
    assert_eq!(networks.run("lan", &rules).args(["sh", "-c", files]).run().ok().stdout, native.stdout);
    networks.end();
}

#[test]
fn rules_hold_for_root_and_beside_the_hosts_network() {
    for &user in User::all() {
        let networks = Networks::new(user, "kernel", "smol");
        let outcome = networks.ask(
            "host",
            &["to 10.2.0.0/16 via office", "to 10.1.0.0/16 via lan"],
            &["10.2.0.9", "10.1.0.9", "127.0.0.1"],
        );
        outcome.says("10.2.0.9 tcp office").says("10.1.0.9 tcp lan").says("127.0.0.1 tcp [Errno 111]");
        networks.end();
    }
}

#[test]
fn curl_reaches_two_networks_and_the_order_of_rules_decides() {
    Networks::each_kind(|networks| {
        let curl = |rules: &[&str], url: &str| {
            networks.run("lan", rules).args(["curl", "-s", "--http0.9", "-m", "10", url]).run()
        };
        curl(OFFICE, "http://10.1.0.9:8000/").ok().says("tcp lan to 10.1.0.1");
        curl(OFFICE, "http://[fd02::9]:8000/").ok().says("tcp office to fd02::1");
        let deny = "port 8000 tcp deny";
        // curl's code for a connection that could not be made.
        curl(&[deny, OFFICE[0]], "http://10.2.0.9:8000/").code(7);
        curl(&[OFFICE[0], deny], "http://10.2.0.9:8000/").ok().says("tcp office");
    });
}

#[test]
fn nobody_answers_what_is_denied() {
    Networks::each_kind(|networks| {
        let rules = ["to 10.1.0.9 port 8000 udp deny", "to 10.2.0.9 tcp unreachable", "to 10.2.0.9 via none"];
        let outcome = networks.ask("lan", &rules, &["10.1.0.9", "10.2.0.9"]);
        let outcome = outcome.says("10.1.0.9 tcp lan").says("10.1.0.9 udp [Errno 13]");
        outcome.says("10.2.0.9 tcp [Errno 101]").says("10.2.0.9 udp [Errno 101]");
        let rules = ["default unreachable", "to 10.1.0.0/16 via own"];
        let outcome = networks.ask("lan", &rules, &["10.1.0.9", "10.2.0.9"]);
        outcome.says("10.1.0.9 udp lan").says("10.2.0.9 udp [Errno 101]");
    });
}

#[test]
fn rules_stand_in_toml_before_those_of_the_command_line() {
    let networks = Networks::new(User::Ordinary, "kernel", "kernel");
    let text = "rules = ['to 10.2.0.0/16 via office']\n[[interface]]\nname = 'eth0'\nlink = 'switch:lan'\nip = ['10.1.0.5/24']\n";
    networks.world.write("view.toml", text);
    let run = networks.world.run(["--config", "view.toml", "--rule", "default deny", "--"]);
    let outcome = run.args(["python3", "ask.py", "10.2.0.9", "10.1.0.9"]).run().ok();
    outcome.says("10.2.0.9 tcp office").says("10.1.0.9 tcp [Errno 13]");
    let up = networks.world.viewnet(["stack", "up", "x", "--config", "view.toml"]).run().code(1);
    assert!(up.stderr.contains("rules are a view's"), "{}", up.stderr);
    networks.end();
}

#[test]
fn bad_rules_are_refused_in_clear_words() {
    let world = World::new(User::Ordinary);
    for (rule, words) in [
        ("to 10.8.0.1/16 via lan", "`10.8.0.1/16` has bits behind its prefix; write 10.8.0.0/16 or 10.8.0.1"),
        ("to 10.8.0.0/16 vai lan", "`vai` is no word of a rule"),
        ("to 10.8.0.0/16 via nowhere", "there is none; make it with `viewnet stack up`"),
        ("default via kernel", "it is the name of a kind"),
    ] {
        let outcome = world.alone(["--rule", rule, "--", "true"]).run().code(125);
        assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    }
    let outcome = world.viewnet(["on", "nowhere", "-4", "--", "true"]).run().code(125);
    assert!(outcome.stderr.contains("there is none"), "{}", outcome.stderr);
    let outcome = world.viewnet(["on", "none", "-f", "irda", "--", "true"]).run().code(125);
    assert!(outcome.stderr.contains("`irda` is no address family"), "{}", outcome.stderr);
}

#[test]
fn on_changes_the_default_of_the_families_that_it_names() {
    for (lan, office) in [("kernel", "kernel"), ("smol", "smol"), ("smol", "kernel")] {
        let networks = Networks::new(User::Ordinary, lan, office);
        let on = |args: &[&str]| networks.world.viewnet(["on"]).args(args);
        // Outside of a view what is not named is the host's.
        let outcome = on(&["office", "-4", "--", "python3", "ask.py", "10.2.0.9", "::1"]).run().ok();
        outcome.says("10.2.0.9 tcp office to 10.2.0.1").says("::1 tcp [Errno 111]");
        on(&["office", "-n", "ip", "addr", "show", "eth0"]).run().ok().says("10.2.0.1/24");
        on(&["office", "ip", "addr", "show", "eth0"]).run().ok().says("10.2.0.1/24");
        on(&["none", "-f", "netlink,17", "ip", "addr"]).run().code(1);
        // Inside, the view's.
        let nested = networks.run("lan", &[]).args(["viewnet", "on", "office", "-n", "-v", "--", "sh", "-c"]);
        let outcome = nested
            .args(["ip addr show eth0; python3 ask.py 10.1.0.9 10.2.0.9"])
            .env("PATIENCE", "1")
            .run()
            .ok();
        let outcome = outcome.says("10.2.0.1/24").says("10.1.0.9 tcp lan");
        assert!(!outcome.stdout.contains("tcp office"), "{}", outcome.stdout);
        assert!(outcome.stderr.contains("office for netlink"), "{}", outcome.stderr);
        // Rules of the view around it still hold.
        let nested = networks.run("lan", OFFICE).args(["viewnet", "on", "none", "-n", "--"]);
        let outcome = nested.args(["python3", "ask.py", "10.1.0.9", "10.2.0.9"]).run().ok();
        outcome.says("10.1.0.9 tcp lan").says("10.2.0.9 udp office");
        // It ends as its program does.
        on(&["office", "-4", "--", "sh", "-c", "exit 3"]).run().code(3);
        on(&["office", "-4", "--", "./nosuch"]).run().code(127);
        networks.end();
    }
}

#[test]
fn a_nested_view_has_rules_of_its_own_where_the_filter_is_wide_enough() {
    let networks = Networks::new(User::Ordinary, "kernel", "kernel");
    let inner = ["viewnet", "run", "--stack", "office", "--rule", "to 10.1.0.0/16 via lan", "--"];
    let ask = ["python3", "ask.py", "10.1.0.9", "10.2.0.9"];
    let outcome = networks.run("lan", &["port 1 deny"]).args(inner).args(ask).run().ok();
    outcome.says("10.1.0.9 tcp lan").says("10.2.0.9 tcp office");
    let outcome = networks.run("lan", &[]).args(inner).args(ask).run().code(125);
    assert!(outcome.stderr.contains("start the outer view with such a rule"), "{}", outcome.stderr);
    let outcome =
        networks.run("lan", &[]).args(["viewnet", "on", "host", "-4", "--", "true"]).run().code(125);
    assert!(outcome.stderr.contains("already inside a view"), "{}", outcome.stderr);
    networks.end();
}

/// A socket that an outer view made on the same stack is one of this view's.
#[test]
fn an_inherited_socket_of_the_views_stack_goes_by_the_rules_of_the_inner_view() {
    for (lan, office) in [("smol", "smol"), ("kernel", "kernel"), ("smol", "kernel")] {
        let networks = Networks::new(User::Ordinary, lan, office);
        let inner = "import socket, sys
s = socket.socket(fileno=0)
s.connect((sys.argv[1], 8000))
s.settimeout(10)
if s.type == socket.SOCK_DGRAM: s.send(b'x')
print(' '.join(s.recv(100).decode().split()[:2]))
";
        let outer = "import socket, subprocess, sys
for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
    for host in ['10.1.0.9', '10.2.0.9']:
        run = ['viewnet', 'run', '--stack', 'lan', '--rule', sys.argv[1], '--', 'python3', '-c', sys.argv[2], host]
        subprocess.run(run, stdin=socket.socket(socket.AF_INET, kind))
";
        // On kernel stacks the outer view's filter has to send what the inner one asks about.
        let wide: &[&str] = if lan == "kernel" { &["port 1 deny"] } else { &[] };
        let run = networks.run("lan", wide).args(["python3", "-c", outer, OFFICE[0], inner]);
        assert_eq!(run.run().ok().stdout, "tcp lan\ntcp office\nudp lan\nudp office\n", "{lan} {office}");
        networks.end();
    }
}

#[test]
fn rules_are_shown_with_the_views_that_use_a_stack() {
    let networks = Networks::new(User::Ordinary, "smol", "kernel");
    let mut view = networks.run("lan", OFFICE).args(["sh", "-c", "echo up; read x"]).keep_stdin().start();
    view.until("up");
    for stack in ["lan", "office"] {
        networks.world.viewnet(["stack", "show", stack]).run().ok().says(&format!("\n    {}\n", OFFICE[0]));
    }
    networks.world.viewnet(["ls", "--json"]).run().ok().says(OFFICE[0]);
    view.close_stdin();
    view.wait();
    networks.end();
}

#[test]
fn a_copy_in_another_process_stays_where_it_was() {
    Networks::each_kind(|networks| {
        let script = "import os,socket,time\ns=socket.socket(); r,w=os.pipe()\nif os.fork()==0:\n os.read(r,1); s.connect(('10.1.0.9',8000)); print(s.recv(9)); os._exit(0)\n\
                      s.connect(('10.2.0.9',8000)); print(s.recv(12)); os.write(w,b'x'); os.wait()\n";
        let outcome = networks.run("lan", OFFICE).args(["python3", "-uc", script]).run().ok();
        outcome.says("b'tcp office t'").says("b'tcp lan t'");
    });
}

/// What msocket() chose is asked for the other network; a socket that is older than the default goes on by the rules.
const CHOICE: &str = "
import ctypes, socket
def ask(what, s, host):
    s.settimeout(10)
    try:
        if s.type == socket.SOCK_STREAM: s.connect((host, 8000))
        else: s.sendto(b'x', (host, 8000))
        print(what, ' '.join(s.recv(100).decode().split()[:2]))
    except OSError as e: print(what, type(e).__name__)
msocket = ctypes.CDLL('libmsocket.so', use_errno=True).msocket
def chosen(kind, stack=b'office'):
    fd = msocket(stack, 2, kind, 0)
    assert fd >= 0, ctypes.get_errno()
    return socket.socket(fileno=fd)
old = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask('before:', old, '10.1.0.9')
for kind in 1, 2: ask('chosen:', chosen(kind), '10.2.0.9')
assert msocket(b'office', 0, 0, 0) == 0
ask('after:', old, '10.1.0.9')
for kind in 1, 2: ask('default:', socket.socket(socket.AF_INET, kind), '10.2.0.9')
";

#[test]
fn what_msocket_chose_stays_and_all_else_goes_by_the_rules() {
    let all = "before: udp lan\nchosen: tcp office\nchosen: udp office\nafter: udp lan\n\
               default: tcp office\ndefault: udp office\n";
    for (lan, office) in KINDS {
        let networks = Networks::new(User::Ordinary, lan, office);
        networks.world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
        let denied: &[&str] = &["to 10.2.0.0/16 deny"];
        // The office is a stack of the view as well, for a destination that nobody asks.
        let elsewhere: &[&str] = &["to 10.3.0.0/16 via office", "to 10.2.0.0/16 via own"];
        for rules in [denied, elsewhere] {
            if (lan, office, rules) == ("kernel", "smol", denied) {
                // msocket() gets no smol stacks in a view on kernel stacks alone.
                continue;
            }
            let view = networks.run("lan", rules).args(["python3", "-c", CHOICE]);
            let outcome = view.env("LD_LIBRARY_PATH", networks.world.folder().join("bin")).run().ok();
            assert_eq!(outcome.stdout, all, "{lan} {office} {rules:?}");
        }
        networks.end();
    }
}
