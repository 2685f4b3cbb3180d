//! Kept stacks, their configuration, and the default switch.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tests::{Cmd, Outcome, SOON, Status, User, World, each_kind, each_user, wait_until};

fn json(outcome: Outcome) -> Value {
    let outcome = outcome.ok();
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e} in:\n{}", outcome.stdout))
}

const LISTEN: &str = "import socket,sys; s=socket.socket(); s.bind(('127.0.0.1',80)); s.listen(); print('up',flush=True); \
                      [s.accept()[0].send(b'hello') for _ in range(1)]; sys.stdin.read()";
const FETCH: &str = "import socket; print(socket.create_connection(('127.0.0.1',80)).recv(9))";

#[test]
fn a_kept_stack_is_shared_and_listed() {
    each_kind(|world, kind| {
        let addresses = ["--ip", "10.0.0.1/24", "--ip", "fd00::1/64"];
        world.viewnet(["stack", "up", "lab", "--kind", kind]).args(addresses).run().ok();
        let list = world.viewnet(["stack", "ls", "--json"]).run();
        assert!(list.stdout.contains("\"lab\""), "{}", list.stdout);
        json(list);
        world.viewnet(["stack", "ls"]).run().ok().says("lab");
        let mut server = world
            .run(["--stack", "lab", "--name", "server", "--", "python3", "-c", LISTEN])
            .keep_stdin()
            .start();
        server.until("up");
        world.run(["--stack", "lab", "--", "python3", "-c", FETCH]).run().ok().says("hello");
        world.alone(["--", "python3", "-c", FETCH]).run().code(1);
        let show = json(world.viewnet(["stack", "show", "lab", "--json"]).run());
        assert_eq!(show["name"], "lab");
        assert_eq!(show["kind"], kind);
        assert!(show.get("failure").is_none(), "{show}");
        let path = show["path"].as_str().unwrap();
        assert!(path.starts_with(world.runtime().to_str().unwrap()), "{path}");
        let text = show["interfaces"].to_string();
        assert!(
            text.contains("10.0.0.1/24") && text.contains("fd00::1/64") && text.contains("eth0"),
            "{text}"
        );
        assert!(show["users"].to_string().contains("server"), "{show}");
        world.viewnet(["stack", "show", "lab"]).run().ok().says("10.0.0.1/24");
        world.viewnet(["ls"]).run().ok().says("server");
        server.wait().ok();
        // A change made by a program stays in the stack.
        world.run(["--stack", "lab", "--", "ip", "addr", "add", "10.7.7.7/32", "dev", "lo"]).run().ok();
        world.run(["--stack", "lab", "--", "ip", "-br", "addr"]).run().ok().says("10.7.7.7/32");
        let again = world.viewnet(["stack", "up", "lab"]).run().code(1);
        assert!(again.stderr.starts_with("viewnet: "), "{}", again.stderr);
        world.viewnet(["stack", "down", "lab"]).run().ok();
        world.run(["--stack", "lab", "--", "true"]).run().code(125);
        world.viewnet(["stack", "down", "lab"]).run().code(1);
        world.viewnet(["stack", "show", "lab"]).run().code(1);
    });
}

#[test]
fn a_stacks_path_may_be_anywhere() {
    each_kind(|world, kind| {
        let path = world.home().join("my.stack");
        let path = path.to_str().unwrap();
        world.viewnet(["stack", "up", path, "--kind", kind]).run().ok();
        let mut server = world.run(["--stack", path, "--", "python3", "-c", LISTEN]).keep_stdin().start();
        server.until("up");
        world.run(["--stack", "./my.stack", "--", "python3", "-c", FETCH]).run().ok().says("hello");
        server.wait().ok();
        let down = || world.viewnet(["stack", "down", path]).run().status == Status::Exited(0);
        assert!(wait_until(SOON, down), "still used");
        assert!(wait_until(SOON, || !std::path::Path::new(path).exists()), "{path} stays");
    });
}

/// `viewnet run` by another user, who has no runtime folder but in /tmp.
fn by_another_user<'a>(world: &World, options: impl IntoIterator<Item = &'a str>) -> Cmd {
    let other = ["--reuid", "64998", "--regid", "64998", "--clear-groups"];
    let cmd = world.cmd("setpriv").args(other).args(["env", "XDG_RUNTIME_DIR=", "viewnet", "run"]);
    cmd.args(options.into_iter().collect::<Vec<_>>())
}

#[test]
fn another_users_stack_is_out_of_reach_unless_it_is_open() {
    const RAW: &str = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)";
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: only root can be two users");
        return;
    }
    for kind in ["kernel", "smol"] {
        let world = World::new(User::Root);
        let path = world.folder().join("bin/open.stack");
        let path = path.to_str().unwrap();
        let other = |script| by_another_user(&world, ["--stack", path, "--", "python3", "-c", script]).run();
        world.viewnet(["stack", "up", path, "--kind", kind]).run().ok();
        let outcome = other("").code(125);
        assert!(outcome.stderr.starts_with("viewnet: "), "{}", outcome.stderr);
        world.viewnet(["stack", "down", path]).run().ok();
        world.viewnet(["stack", "up", path, "--kind", kind, "--mode", "0666"]).run().ok();
        let mut server = world.run(["--stack", path, "--", "python3", "-c", LISTEN]).keep_stdin().start();
        server.until("up");
        other(FETCH).ok().says("hello");
        let raw = other(RAW).code(1);
        assert!(raw.stderr.contains("PermissionError"), "{kind}: {}", raw.stderr);
        server.wait().ok();
        let down = "viewnet stack down";
        let refused = world.cmd("setpriv").args(["--reuid", "64998", "--clear-groups", "sh", "-c"]);
        let refused = refused.args([&format!("XDG_RUNTIME_DIR= {down} {path}")]).run().code(1);
        assert!(refused.stderr.starts_with("viewnet: "), "{}", refused.stderr);
        world.viewnet(["stack", "down", path]).run().ok();
        let _ = std::fs::remove_dir_all("/tmp/viewnet-64998");
    }
}

#[test]
fn a_stack_in_use_ends_by_force_only() {
    const USE: &str = "
import socket, errno, sys
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
b = socket.create_connection(l.getsockname()); c = l.accept()[0]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 9))
print('up', flush=True); sys.stdin.readline()
def attempt(name, call):
    try: print(name, call(), flush=True)
    except OSError as e: print(name, errno.errorcode[e.errno], flush=True)
b.settimeout(30)
attempt('recv', lambda: b.recv(9))
attempt('connect', lambda: socket.socket().connect(('10.0.0.9', 80)))
attempt('option', lambda: u.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
attempt('send', lambda: u.sendto(b'x', ('10.0.0.9', 9)))
";
    each_user(|world| {
        world.viewnet(["stack", "up", "lab", "--kind", "smol", "--ip", "10.0.0.1/24"]).run().ok();
        let mut program = world.run(["--stack", "lab", "--", "python3", "-c", USE]).keep_stdin().start();
        program.until("up");
        let refused = world.viewnet(["stack", "down", "lab"]).run().code(1);
        assert!(refused.stderr.contains("; "), "{}", refused.stderr);
        world.viewnet(["stack", "down", "lab", "--force"]).run().ok();
        world.viewnet(["stack", "show", "lab"]).run().code(1);
        program.tell("go");
        let outcome = program.wait().ok();
        assert_eq!(outcome.stdout, "up\nrecv ECONNRESET\nconnect ENETDOWN\noption ENETDOWN\nsend ENETDOWN\n");
        assert!(world.settle(SOON).is_empty(), "{:?}", world.leftovers());
    });
}

/// Its supervisor is what leaves the stack; until it has heard of its program's end, the program counts.
#[test]
fn who_ends_a_stack_waits_for_a_view_that_is_leaving() {
    each_kind(|world, kind| {
        world.viewnet(["stack", "up", "lab", "--kind", kind, "--ip", "10.0.0.1/24"]).run().ok();
        let keepers = world.supervisors();
        let mut program =
            world.run(["--stack", "lab", "--", "sh", "-c", "echo up; read _"]).keep_stdin().start();
        program.until("up");
        let mut supervisors = world.supervisors();
        supervisors.retain(|pid| !keepers.contains(pid));
        assert!(!supervisors.is_empty());
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        program.tell("end");
        program.wait().ok();
        let mut down = world.viewnet(["stack", "down", "lab"]).start();
        let has_ended = wait_until(Duration::from_millis(300), || down.has_ended());
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
        assert!(!has_ended, "the view has not left");
        down.wait().ok();
    });
}

#[test]
fn options_line_and_file_say_the_same() {
    const FILE: &str = "
[[interface]]
name = \"eth0\"
link = \"switch\"
ip = [\"10.0.0.2/24\", \"fd00::2/64\"]
gw = [\"10.0.0.1\"]

[[route]]
to = \"10.8.0.0/16\"
via = \"10.0.0.254\"
";
    const SHOW: &str = "ip -br -4 addr show eth0; ip -br -6 addr show eth0 scope global; ip route; ip -br link show eth0 | cut -c1-5";
    each_kind(|world, kind| {
        let file = world.write("view.toml", FILE);
        let forms: [&[&str]; 4] = [
            &[
                "--ip",
                "10.0.0.2/24",
                "--ip",
                "fd00::2/64",
                "--gw",
                "10.0.0.1",
                "--route",
                "10.8.0.0/16 via 10.0.0.254",
            ],
            &[
                "--link",
                "switch",
                "--ip",
                "10.0.0.2/24",
                "--ip",
                "fd00::2/64",
                "--gw",
                "10.0.0.1",
                "--route",
                "10.8.0.0/16 via 10.0.0.254",
            ],
            &[
                "--link",
                "eth0=switch,ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1",
                "--route",
                "10.8.0.0/16 via 10.0.0.254",
            ],
            &["--config", file.to_str().unwrap()],
        ];
        let shown = forms.map(|form| {
            world.run(["--kind", kind]).args(form).args(["--", "sh", "-c", SHOW]).run().ok().stdout
        });
        for text in ["10.0.0.2/24", "fd00::2/64", "default via 10.0.0.1", "10.8.0.0/16 via 10.0.0.254"] {
            assert!(shown[0].contains(text), "no {text} in:\n{}", shown[0]);
        }
        for (form, other) in forms.iter().zip(&shown) {
            assert_eq!(*other, shown[0], "{form:?}");
        }
    });
}

#[test]
fn the_default_switch_comes_and_goes() {
    each_kind(|world, kind| {
        let list = || world.viewnet(["switch", "ls", "--json"]).run().ok().stdout;
        assert!(!list().contains("default"), "{}", list());
        let mut one = world
            .run(["--kind", kind, "--ip", "10.0.0.1/24", "--", "sh", "-c", "echo up; exec sleep 100"])
            .start();
        one.until("up");
        assert!(list().contains("default"), "{}", list());
        world
            .run(["--kind", kind, "--ip", "10.0.0.2/24", "--", "ping", "-c", "1", "-W", "20", "10.0.0.1"])
            .run()
            .ok();
        one.kill(Signal::SIGTERM);
        one.wait();
        // Asking the switch counts as using it: look at the processes.
        assert!(wait_until(SOON, || world.supervisors().is_empty()), "{}", list());
    });
}

/// Who has 10.0.0.1 in this VLAN? Tagged by hand, as not every kernel has VLAN interfaces.
const ASK: &str = r"
import socket, struct, sys, time
vlan = int(sys.argv[1])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('eth0', 0)); s.settimeout(0.2)
mac = s.getsockname()[4]
arp = struct.pack('!HHBBH6s4s6s4s', 1, 0x800, 6, 4, 1, mac, socket.inet_aton('10.0.0.9'), bytes(6), socket.inet_aton('10.0.0.1'))
frame = b'\xff' * 6 + mac + struct.pack('!HHH', 0x8100, vlan, 0x806) + arp
end = time.time() + float(sys.argv[2])
while time.time() < end:
    s.send(frame)
    try:
        while True:
            got = s.recv(2000)
            if b'\x00\x02' + got[6:12] + socket.inet_aton('10.0.0.1') in got: print('answered'); sys.exit()
    except TimeoutError: pass
print('silence')
";

#[test]
fn vlans_keep_views_apart() {
    each_kind(|world, kind| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let run = |vlan: &str, ip: &str, script: &str| {
            let link = format!("eth0=switch:lan[{vlan}],ip={ip}");
            world.run(["--kind", kind, "--link", &link, "--", "sh", "-euc", script])
        };
        let mut ten = run("vlan 10", "10.0.0.1/24", "echo up; exec sleep 100").start();
        let mut twenty = run("vlan 20", "10.0.0.1/24", "echo up; exec sleep 100").start();
        ten.until("up");
        twenty.until("up");
        run("vlan 10", "10.0.0.2/24", "ping -c 1 -W 20 10.0.0.1").run().ok();
        run("vlan 30", "10.0.0.2/24", "ping -c 1 -W 1 10.0.0.1").run().code(1);
        let ask = world.write("ask.py", ASK);
        let ask = |vlan: u16, wait: &str| {
            let script = format!("python3 {} {vlan} {wait}", ask.display());
            run("trunk 10,20", "10.9.0.1/24", &script).run().ok().stdout
        };
        assert_eq!(ask(20, "30"), "answered\n");
        assert_eq!(ask(10, "30"), "answered\n");
        assert_eq!(ask(30, "1"), "silence\n");
        drop((ten, twenty));
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn no_network_at_all() {
    each_user(|world| {
        let script = "import socket; socket.socketpair(); socket.socket(socket.AF_UNIX)\n\
                      try: socket.socket(); print('a socket')\nexcept OSError as e: print(e.errno)";
        let outcome = world.run(["--stack", "none", "--", "python3", "-c", script]).run().ok();
        assert_ne!(outcome.stdout, "a socket\n");
    });
}

#[test]
fn doctor_finds_this_machine_fit() {
    each_user(|world| {
        world.viewnet(["doctor"]).run().ok();
        json(world.viewnet(["doctor", "--json"]).run());
    });
}

#[test]
fn many_runs_start_the_default_switch_at_once() {
    each_kind(|world, kind| {
        const N: usize = 12;
        let start = |n: usize| {
            let ip = format!("10.0.0.{n}/24");
            let peer = format!("10.0.0.{}", n % N + 1);
            let script = format!(
                "for i in $(seq 100); do ping -n -c 1 -W 1 {peer} >/dev/null && echo met && break; done; cat"
            );
            world.run(["--kind", kind, "--ip", &ip, "--", "sh", "-c", &script]).keep_stdin().start()
        };
        let mut all: Vec<_> = (1..=N).map(start).collect();
        all.iter_mut().for_each(|one| one.until("met"));
        let switches = json(world.viewnet(["switch", "ls", "--json"]).run());
        assert_eq!(switches.as_array().map(Vec::len), Some(1), "{switches}");
        for one in all {
            one.wait().ok();
        }
    });
}

/// As natively, where the kernel goes on sending when the program has ended.
#[test]
fn what_was_sent_before_the_end_arrives() {
    const RECEIVE: &str = "
import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000); s.bind(('10.0.0.1', 80)); s.listen()
for round in range(3):
    print('up', round, flush=True)
    c = s.accept()[0]; c.settimeout(30); time.sleep(0.2)
    total = 0
    try:
        while True:
            data = c.recv(65536)
            if not data: break
            total += len(data)
        print('round', round, 'got', total, flush=True)
    except OSError as e:
        print('round', round, 'got', total, 'then', e, flush=True)
";
    const SEND: &str =
        "import socket; s = socket.create_connection(('10.0.0.1', 80)); s.sendall(b'x' * 200000)";
    each_kind(|world, kind| {
        let mut receiver =
            world.run(["--kind", kind, "--ip", "10.0.0.1/24", "--", "python3", "-c", RECEIVE]).start();
        for round in 0..3 {
            receiver.until(&format!("up {round}"));
            world.run(["--kind", kind, "--ip", "10.0.0.2/24", "--", "python3", "-c", SEND]).run().ok();
            receiver.until(&format!("round {round} got"));
        }
        let said = receiver.wait().ok().stdout;
        assert_eq!(said.matches("got 200000\n").count(), 3, "{said}");
    });
}

/// The one thing that is left of a view whose programs have ended; plain namespaces are the referee.
#[test]
fn what_is_owed_keeps_a_view_as_it_keeps_a_namespace() {
    const RECEIVE: &str = "
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000); s.bind(('10.0.0.1', 80)); s.listen()
print('up', flush=True); c = s.accept()[0]; sys.stdin.readline(); total = 0
while data := c.recv(65536): total += len(data)
c.close(); print('got', total, flush=True); sys.stdin.readline()";
    const SEND: &str = "
import socket
s = socket.create_connection(('10.0.0.1', 80)); s.settimeout(0.3); total = 0
try:
    while True: total += s.send(b'x' * 65536)
except TimeoutError: print('owed', total)";
    // The sender's namespace is there as long as its end of the cable is.
    const PLAIN: &str = "
unshare --net sleep 100 & other=$!
until [ $(readlink /proc/$other/ns/net) != $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
ip link add here type veth peer name there netns $other
ip address add 10.0.0.1/24 dev here; ip link set here up; ip link set lo up
in='nsenter --target '$other' --net'
$in ip address add 10.0.0.2/24 dev there; $in ip link set there up
coproc python3 -c \"$1\"; read -u ${COPROC[0]} up
$in python3 -c \"$2\"; kill -9 $other
sleep 2; ip link show here >/dev/null && echo stays
echo >&${COPROC[1]}; read -u ${COPROC[0]} got; echo $got
for n in $(seq 300); do ip link show here >/dev/null 2>&1 || break; sleep 0.1; done
ip link show here >/dev/null || echo gone; echo >&${COPROC[1]}";
    each_user(|world| {
        let plain =
            world.cmd("unshare").args(["--user", "--map-root-user", "--net", "bash", "-c", PLAIN, "bash"]);
        let plain = plain.args([RECEIVE, SEND]).run().ok().stdout;
        let owed = plain.lines().next().and_then(|line| line.strip_prefix("owed ")).expect(&plain);
        assert_eq!(plain, format!("owed {owed}\nstays\ngot {owed}\ngone\n"));
    });
    each_kind(|world, kind| {
        let view =
            |ip, script| world.run(["--kind", kind, "--ip", ip, "--", "python3", "-c", script]).keep_stdin();
        let mut receiver = view("10.0.0.1/24", RECEIVE).start();
        receiver.until("up");
        let before = world.supervisors().len();
        let sender = view("10.0.0.2/24", SEND).run().ok().stdout;
        let owed = sender.trim().strip_prefix("owed ").expect(&sender).to_owned();
        std::thread::sleep(Duration::from_secs(2));
        assert!(world.supervisors().len() > before, "nobody is left to send what is owed");
        receiver.tell("");
        receiver.until(&format!("got {owed}\n"));
        assert!(wait_until(SOON, || world.supervisors().len() == before), "{:?}", world.leftovers());
        receiver.tell("");
        receiver.wait().ok();
    });
}

/// However many the program writes before the stack looks.
#[test]
fn a_burst_of_datagrams_arrives_whole() {
    let world = World::new(User::Ordinary);
    let script = "import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
server.bind(('127.0.0.1', 5300))
server.settimeout(30)
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(('127.0.0.1', 5300))
for _ in range(30):
    for _ in range(150): client.send(b'x')
    for _ in range(150): server.recv(10)
print('ok')";
    world.alone(["--stack", "smol", "--", "python3", "-c", script]).run().ok().says("ok");
}

#[test]
fn the_last_datagram_arrives() {
    const RECEIVE: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.0.0.1', 9)); s.settimeout(60)
print('up', flush=True)
while True: print('got', s.recv(100).decode(), flush=True)
";
    // Its neighbour is known beforehand: natively, too, a datagram that waits for ARP dies with its socket.
    const SEND: &str = "import socket,sys,subprocess; subprocess.run(['ping', '-q', '-c', '1', '10.0.0.1'], stdout=2); \
                        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), ('10.0.0.1', 9))";
    each_kind(|world, kind| {
        let mut receiver =
            world.run(["--kind", kind, "--ip", "10.0.0.1/24", "--", "python3", "-c", RECEIVE]).start();
        receiver.until("up");
        for n in 0..10 {
            let name = format!("number-{n}");
            world.run(["--kind", kind, "--ip", "10.0.0.2/24", "--", "python3", "-c", SEND, &name]).run().ok();
        }
        let all = wait_until(SOON, || receiver.stdout().matches("got").count() == 10);
        assert!(all, "{}", receiver.stdout());
    });
}

/// Fills sockets that nobody reads until the stack has had enough, and says what programs see then.
const HOG: &str = "
import errno, socket, select, time
l = socket.socket(); l.bind(('127.0.0.1', 80)); l.listen()
c = socket.create_connection(('127.0.0.1', 80)); a, _ = l.accept()
kept, why = [], None
for _ in range(400):
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0)); s.setblocking(False)
        kept.append(s); name = s.getsockname()
    except OSError as e:
        why = e; break
    try:
        try:
            for _ in range(20): s.sendto(bytes(30000), name)
        except BlockingIOError: pass
        # The stack takes what the preloaded library sent before it answers.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    except OSError as e:
        why = e; break
print('call', errno.errorcode[why.errno])
print('ready', len(select.select([l, c, a], [], [], 5)[0]))
for end in (c, a):
    try: print('read', end.recv(1))
    except OSError as e: print('read', errno.errorcode[e.errno])
try: socket.socket(); print('made')
except OSError as e: print('socket', errno.errorcode[e.errno])
";

#[test]
fn a_smol_stack_that_uses_too_much_ends_alone() {
    each_user(|world| {
        let up = |name: &str, more: &[&str]| {
            world.viewnet(["stack", "up", name, "--kind", "smol", "--link", "none"]).args(more).run()
        };
        up("hog", &["--limit", "memory=4M"]).ok();
        up("again", &["--limit", "memory=4M", "--restart", "on-failure"]).ok();
        up("calm", &[]).ok();
        let mut calm = world.run(["--stack", "calm", "--", "python3", "-c", LISTEN]).keep_stdin().start();
        calm.until("up");
        let seen = "call ENETDOWN\nready 3\nread ECONNRESET\nread ECONNRESET\n";
        let hog = |stack| world.run(["--stack", stack, "--", "python3", "-c", HOG]).run().ok().stdout;
        assert_eq!(hog("hog"), format!("{seen}socket ENETDOWN\n"));
        assert_eq!(hog("again"), format!("{seen}made\n"));
        let failure =
            |stack| json(world.viewnet(["stack", "show", stack, "--json"]).run())["failure"].clone();
        assert_eq!(failure("hog"), "it used more memory than its limit of 4M");
        assert_eq!(failure("again"), Value::Null);
        world.viewnet(["stack", "show", "hog"]).run().ok().says("failed: it used more memory");
        world.run(["--stack", "calm", "--", "python3", "-c", FETCH]).run().ok().says("hello");
        calm.wait().ok();
        for stack in ["hog", "again", "calm"] {
            world.viewnet(["stack", "down", stack]).run().ok();
        }
        let refused = world.viewnet(["stack", "up", "k", "--kind", "kernel", "--limit", "cpu=50%"]).run();
        assert!(refused.code(1).stderr.contains("use a smol stack"));
    });
}
