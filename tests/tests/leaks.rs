//! What must not leak or break: other roads to a socket, other privileges, other namespaces, a supervisor that
//! stops or dies.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tests::binaries::{Linkage, c_probe};
use tests::{SOON, Status, User, World, each_user, wait_until};

/// As each user with each kind of stack.
fn each(test: impl Fn(&World, &str)) {
    for kind in ["kernel", "smol"] {
        each_user(|world| {
            eprintln!("on a {kind} stack");
            test(&world, kind);
        });
    }
}

fn on(world: &World, kind: &str) -> tests::Cmd {
    world.alone(["--kind", kind, "--"])
}

fn script(world: &World, kind: &str, script: &str) -> tests::Cmd {
    on(world, kind).args(["bash", "-euc", script])
}

fn python(world: &World, kind: &str, script: &str) -> tests::Cmd {
    on(world, kind).args(["python3", "-c", script])
}

#[test]
fn io_uring_is_refused() {
    each(|world, kind| {
        let probe = world.install(&c_probe("uring", Linkage::Static), "uring");
        let outcome = on(world, kind).args([probe]).run().ok();
        assert_eq!(outcome.stdout, "io_uring_setup: EPERM\nio_uring_setup nothing: EPERM\n");
    });
}

#[test]
fn foreign_system_calls_see_the_view() {
    each(|world, kind| {
        let probe = world.install(&c_probe("foreign", Linkage::Dynamic), "foreign");
        let text = format!("ip link set lo down; exec {}", probe.display());
        let outcome = script(world, kind, &text).run().ok();
        for call in ["socket family 2", "socketcall family 2", "socket family 10", "socketcall family 1"] {
            let line = outcome.stdout.lines().find(|l| l.starts_with(&format!("{call} by int 0x80: domain")));
            let line = line.unwrap_or_else(|| panic!("{call}:\n{}", outcome.stdout));
            assert!(line.ends_with("0x8"), "not the view's lo, which is down: {line}");
        }
        assert!(outcome.stdout.contains("socketcall family 2 by int 0x80 bind 81: ok"), "{}", outcome.stdout);
        assert!(outcome.stdout.contains("x32 socket: ENOSYS"), "{}", outcome.stdout);
    });
}

#[test]
fn other_families_are_refused() {
    const SCRIPT: &str = "
import socket
allowed = {1, 2, 10, 15, 16, 17, 29, 38, 43, 44, 45}
for family in range(0, 70):
    if family in allowed: continue
    for kind in (1, 2, 3, 4, 5, 10, 1 | 0o2000000):
        try:
            socket.socket(family, kind, 0)
            print('made', family, kind)
        except OSError as e:
            if e.errno != 97: print('errno', e.errno, family, kind)
        try:
            socket.socketpair(family, kind, 0)
            print('pair', family, kind)
        except OSError:
            pass  # socketpair is the machine's own; no family that matters has it
print('end')
";
    each(|world, kind| assert_eq!(python(world, kind, SCRIPT).run().ok().stdout, "end\n"));
}

#[test]
fn the_hosts_network_cannot_be_reached() {
    const LISTEN: &str = "
import socket, sys
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))
print('ports', s.getsockname()[1], u.getsockname()[1], 'end', flush=True)
sys.stdin.read()
";
    each(|world, kind| {
        let mut host = world.cmd("python3").args(["-c", LISTEN]).keep_stdin().start();
        host.until("end");
        let text = host.stdout();
        let ports: Vec<_> = text.split(' ').collect();
        let script = format!(
            "import socket; print('tcp', socket.socket().connect_ex(('127.0.0.1', {tcp})))\n\
             u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', {udp})); print('udp free')\n\
             s = socket.socket(); s.bind(('127.0.0.1', {tcp})); print('tcp free')\n\
             print('out', socket.socket().connect_ex(('192.0.2.1', 80)))",
            tcp = ports[1],
            udp = ports[2]
        );
        let outcome = python(world, kind, &script).run().ok();
        assert_eq!(outcome.stdout, "tcp 111\nudp free\ntcp free\nout 101\n");
    });
}

#[test]
fn a_namespace_of_its_own_is_its_own() {
    each(|world, kind| {
        let text = "ip addr add 10.99.0.1/32 dev lo; unshare -rn ip -br addr; echo -; ip -br addr";
        let outcome = script(world, kind, text).run().ok();
        let (own, view) = outcome.stdout.split_once("-\n").unwrap();
        assert!(own.contains("lo") && !own.contains("10.99.0.1"), "own:\n{own}");
        assert!(view.contains("10.99.0.1"), "view:\n{view}");
    });
}

#[test]
fn runs_nest() {
    const SERVE: &str = "import socket; s=socket.socket(); s.bind((\"0.0.0.0\",80)); s.listen()";
    each_user(|world| {
        world.alone(["--", "viewnet", "run", "--link", "lo", "--", "sh", "-c", "exit 9"]).run().code(9);
        world
            .alone([
                "--", "viewnet", "run", "--link", "lo", "--", "viewnet", "run", "--link", "lo", "--", "ip",
                "link",
            ])
            .run()
            .ok()
            .says("lo");
        let outcome =
            world.alone(["--", "viewnet", "run", "--link", "lo", "--", "sh", "-c", "kill -TERM $$"]).run();
        assert_eq!(outcome.status, Status::Signaled(15), "{}", outcome.stderr);
        let script = format!(
            "ip addr add 10.99.0.1/32 dev lo; python3 -c '{SERVE}; import time; time.sleep(100)' & \
             until ss -ltn | grep -q :80; do sleep 0.05; done; \
             viewnet run --link lo -- sh -euc 'ip -br addr; python3 -c '\\''{SERVE}; print(\"inner bound\")'\\'; \
             echo -; ip -br addr; ss -ltn; kill $!"
        );
        let outcome = world.run_script(&script).run().ok();
        let (inner, outer) = outcome.stdout.split_once("-\n").unwrap();
        assert!(inner.contains("inner bound") && !inner.contains("10.99.0.1"), "inner:\n{inner}");
        assert!(outer.contains("10.99.0.1") && outer.contains(":80 "), "outer:\n{outer}");
        assert!(wait_until(SOON, || world.supervisors().len() < 5), "supervisors stay");
    });
}

#[test]
fn runs_nest_on_smol_stacks_and_kinds_do_not_mix() {
    const SERVE: &str = "import socket; s=socket.socket(); s.bind((\"0.0.0.0\",80)); s.listen()";
    each_user(|world| {
        let nested = |outer: &str, inner: &str| {
            let inner: Vec<_> = inner.split_whitespace().collect();
            on(&world, outer).args(["viewnet", "run"]).args(inner).args(["--", "ip", "-br", "addr"])
        };
        nested("smol", "").run().ok().says("127.0.0.1/8");
        nested("smol", "--stack smol --link none --ip 10.0.0.2/24").run().ok().says("10.0.0.2/24");
        for (outer, inner, why, hint) in [
            (
                "kernel",
                "smol",
                "this is inside a view on a kernel stack",
                "start the outer view with --stack smol",
            ),
            ("smol", "kernel", "a view with a smol stack can make none", "viewnet stack up"),
        ] {
            let refused = nested(outer, &format!("--stack {inner}")).run().code(125);
            let said = format!("cannot make a {inner} stack: {why}; ");
            assert!(refused.stderr.contains(&said) && refused.stderr.contains(hint), "{}", refused.stderr);
        }
        // A kernel stack that was made outside can be used inside, and a smol one as well.
        for kind in ["kernel", "smol"] {
            world.viewnet(["stack", "up", "kept", "--kind", kind, "--ip", "10.0.0.5/24"]).run().ok();
            nested("smol", "--stack kept").run().ok().says("10.0.0.5/24");
            assert!(wait_until(SOON, || {
                world.viewnet(["stack", "down", "kept"]).run().status == Status::Exited(0)
            }));
        }
        let text = format!(
            "ip addr add 10.99.0.1/32 dev lo; python3 -c '{SERVE}; import time; time.sleep(100)' & \
             until ss -ltn | grep -q :80; do sleep 0.05; done; \
             viewnet run --link lo -- sh -euc 'ip -br addr; python3 -c '\\''{SERVE}; print(\"inner bound\")'\\'; \
             echo -; ip -br addr; ss -ltn; kill $!"
        );
        let outcome = script(&world, "smol", &text).run().ok();
        let (inner, outer) = outcome.stdout.split_once("-\n").unwrap();
        assert!(inner.contains("inner bound") && !inner.contains("10.99.0.1"), "inner:\n{inner}");
        assert!(outer.contains("10.99.0.1") && outer.contains(":80 "), "outer:\n{outer}");
    });
}

/// By fork, vfork and exec, to threads, and over AF_UNIX: a socket stays a socket of its stack.
#[test]
fn sockets_go_where_descriptors_go() {
    const SCRIPT: &str = "
import os, socket, subprocess, sys, threading
a = socket.socket(); a.bind(('127.0.0.1', 80)); a.listen()
def serve(count):
    for _ in range(count):
        c, peer = a.accept(); c.sendall(b'%d %s' % (peer[1], c.recv(9))); c.close()
threading.Thread(target=serve, args=(4,), daemon=True).start()
USE = '''
import socket, sys
s = socket.socket(fileno=int(sys.argv[1])) if len(sys.argv) > 1 else socket.recv_fds(socket.socket(fileno=0), 1, 1)[1][0]
s = s if isinstance(s, socket.socket) else socket.socket(fileno=s)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if s.getsockname()[1] == 0: s.connect((\"127.0.0.1\", 80))
s.sendall(b\"hello\"); print(s.getpeername(), s.recv(99).decode().split()[0] == str(s.getsockname()[1]), flush=True)
'''
def made(connect):
    s = socket.socket(); s.set_inheritable(True)
    if connect: s.connect(('127.0.0.1', 80))
    return s
sys.stdout.flush()
s = made(True)
if os.fork() == 0:
    s.sendall(b'hello'); print(s.getpeername(), s.recv(99).decode().split()[0] == str(s.getsockname()[1]), flush=True); os._exit(0)
os.wait()
for connect in (True, False):
    s = made(connect)
    subprocess.run([sys.executable, '-c', USE, str(s.fileno())], pass_fds=[s.fileno()], check=True)
ours, theirs = socket.socketpair()
p = subprocess.Popen([sys.executable, '-c', USE], stdin=theirs)
s = made(False); socket.send_fds(ours, [b'x'], [s.fileno()]); s.close(); p.wait()
";
    each(|world, kind| {
        let outcome = python(world, kind, SCRIPT).run().ok();
        assert_eq!(outcome.stdout, "('127.0.0.1', 80) True\n".repeat(4), "{}", outcome.stderr);
    });
}

#[test]
fn a_thousand_processes_at_once() {
    const SCRIPT: &str = "
import os, socket
r, w = os.pipe()
ready_r, ready_w = os.pipe()
pids = []
for i in range(1000):
    pid = os.fork()
    if pid == 0:
        os.close(w); os.write(ready_w, b'.')
        os.read(r, 1)
        try:
            for k in range(20):
                s = socket.socket(socket.AF_INET, socket.SOCK_STREAM); s.bind(('127.0.0.1', 0)); s.close()
        except OSError as e:
            os._exit(e.errno)
        os._exit(0)
    pids.append(pid)
got = 0
while got < 1000: got += len(os.read(ready_r, 1000))
os.close(w)
codes = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids]
print('bad', sum(1 for c in codes if c))
";
    each(|world, kind| {
        let outcome = python(world, kind, SCRIPT).limit(Duration::from_secs(600)).run().ok();
        assert_eq!(outcome.stdout, "bad 0\n", "{}", outcome.stderr);
    });
}

#[test]
fn a_setuid_program_is_told() {
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: only root can make a setuid program of another user");
        return;
    }
    let world = World::new(User::Ordinary);
    let id = world.install(Path::new("/usr/bin/id"), "setuid-id");
    chown(&id, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let native = world.cmd(&id).args(["-u"]).run().ok();
    let outcome = world.alone(["--"]).args([&id]).args(["-u"]).run().ok();
    assert_eq!(outcome.stdout.trim(), world.uid().to_string(), "privilege gained in a view");
    if native.stdout.trim() == "0" {
        let text = outcome.stderr.to_lowercase();
        assert!(text.starts_with("viewnet: ") && text.contains("set"), "no clear message: {text:?}");
    }
}

/// A program that keeps its uid but drops its capabilities keeps its rights in the view: the owner of a user
/// namespace has them all, and that is how an ordinary user has them.
#[test]
fn a_dropped_uid_gains_nothing() {
    const SCRIPT: &str = "
import socket, subprocess, errno
def attempt(name, make):
    try:
        make(); print(name, 'ok')
    except OSError as e:
        print(name, errno.errorcode[e.errno])
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('raw6', lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt('old packet', lambda: socket.socket(socket.AF_INET, 10, 0))
attempt('bind 80', lambda: socket.socket().bind(('0.0.0.0', 80)))
attempt('mark', lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 1))
attempt('tcp', lambda: socket.socket().bind(('127.0.0.1', 0)))
print('link', subprocess.run(['ip', 'link', 'set', 'lo', 'mtu', '1400'], stderr=subprocess.DEVNULL).returncode)
print('addr', subprocess.run(['ip', 'addr', 'add', '10.1.1.1/32', 'dev', 'lo'], stderr=subprocess.DEVNULL).returncode)
";
    const WANTED: &str = "raw EPERM\nraw6 EPERM\npacket EPERM\nold packet EPERM\nbind 80 EACCES\nmark EPERM\ntcp ok\nlink 2\naddr 2\n";
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: only root can drop its uid");
        return;
    }
    let world = World::new(User::Root);
    let drop = ["setpriv", "--reuid", "64999", "--regid", "64999", "--clear-groups"];
    let native = world.cmd("setpriv").args(&drop[1..]).args(["python3", "-c", SCRIPT]).run().ok();
    assert_eq!(native.stdout, WANTED, "natively");
    let view = world.alone(["--"]).args(drop).args(["python3", "-c", SCRIPT]).run().ok();
    assert_eq!(view.stdout, WANTED, "in a view");
}

/// Documented: a descriptor made outside stays a socket of the outside, whichever way it comes in.
#[test]
fn descriptors_from_outside_stay_outside() {
    const INHERIT: &str = "
import socket, subprocess, sys
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
inner = 's=__import__(\"socket\").socket(fileno=%d); c=s.accept()[0]; c.send(b\"from the view\")' % s.fileno()
p = subprocess.Popen(['viewnet', 'run', '--kind', sys.argv[1], '--', 'python3', '-c', inner], pass_fds=[s.fileno()])
c = socket.create_connection(s.getsockname())
print(c.recv(100).decode()); sys.exit(p.wait())
";
    const PASS: &str = "
import socket, subprocess, sys
u = socket.socket(socket.AF_UNIX); u.bind('pass'); u.listen()
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
inner = '''
import socket
u = socket.socket(socket.AF_UNIX); u.connect('pass')
_, fds, _, _ = socket.recv_fds(u, 10, 1)
socket.socket(fileno=fds[0]).accept()[0].send(b'passed')
mine = socket.socket(); mine.bind(('127.0.0.1', 0)); mine.listen()
socket.send_fds(u, [b'x'], [mine.fileno()])
mine.accept()[0].send(b'out')
'''
p = subprocess.Popen(['viewnet', 'run', '--kind', sys.argv[1], '--', 'python3', '-c', inner])
c = u.accept()[0]
socket.send_fds(c, [b'x'], [s.fileno()])
d = socket.create_connection(s.getsockname())
print(d.recv(100).decode())
_, fds, _, _ = socket.recv_fds(c, 10, 1)
view = socket.socket(fileno=fds[0])
# Outside, what was a smol stack's is an AF_UNIX socket.
print('host reaches it', view.family == socket.AF_INET and socket.socket().connect_ex(view.getsockname()) == 0)
p.kill(); p.wait()
";
    each(|world, kind| {
        let outcome = world.cmd("python3").args(["-c", INHERIT, kind]).run().ok();
        assert_eq!(outcome.stdout, "from the view\n");
        let outcome = world.cmd("python3").args(["-c", PASS, kind]).run().ok();
        assert_eq!(outcome.stdout, "passed\nhost reaches it False\n");
    });
}

#[test]
fn the_hosts_resolvers_are_refused() {
    const PATHS: [&str; 3] =
        ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/dbus/system_bus_socket"];
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: only root can put resolvers under /run");
        return;
    }
    for &user in User::all() {
        let mut world = World::new(user);
        let run = world.folder().join("fake");
        let listeners: Vec<_> = PATHS
            .iter()
            .map(|path| {
                let path = run.join(path.strip_prefix("/run/").unwrap());
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let listener = UnixListener::bind(&path).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
                listener
            })
            .collect();
        world.bind_mount(&run, Path::new("/run"));
        let probe = world.install(&c_probe("resolver", Linkage::Static), "resolver");
        let native = world.cmd(&probe).args(PATHS).run().ok();
        let reached = native.stdout.matches("REACHED").count();
        assert_eq!(reached, native.stdout.lines().count(), "natively:\n{}", native.stdout);
        for listener in &listeners {
            // Enough room for the connections nobody accepts.
            listener.set_nonblocking(true).unwrap();
            while listener.accept().is_ok() {}
        }
        for kind in ["kernel", "smol"] {
            let view = on(&world, kind).args([&probe]).args(PATHS).run().ok();
            let leaks: Vec<_> =
                view.stdout.lines().filter(|line| !line.ends_with(": ECONNREFUSED")).collect();
            assert!(leaks.is_empty(), "as {user:?} on a {kind} stack:\n{}", leaks.join("\n"));
        }
    }
}

const SOCKETS_ON_DEMAND: &str = "
import socket, sys, errno
a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen()
b = socket.create_connection(a.getsockname()); c = a.accept()[0]
print('up', flush=True)
for n, line in enumerate(sys.stdin):
    if 'data' in line:
        try:
            b.send(b'x' * 1000); print('data', n, len(c.recv(1000)), flush=True)
        except OSError as e:
            print('data', n, errno.errorcode[e.errno], flush=True)
    elif 'unix' in line:
        p = socket.socketpair(); p[0].send(b'u'); print('unix', n, len(p[1].recv(9)), flush=True)
    else:
        try:
            socket.socket(); print('socket', n, 'ok', flush=True)
        except OSError as e:
            print('socket', n, errno.errorcode[e.errno], flush=True)
";

#[test]
fn a_stopped_supervisor_goes_on_where_it_was() {
    each(|world, kind| {
        let mut program = python(world, kind, SOCKETS_ON_DEMAND).keep_stdin().start();
        program.until("up");
        let data = |program: &mut tests::Running| {
            program.tell("data");
            program.until("data 0 1000");
        };
        // A smol stack stands still with its supervisor.
        if kind == "smol" {
            data(&mut program);
        }
        let supervisors = world.supervisors();
        assert!(!supervisors.is_empty());
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        if kind == "kernel" {
            data(&mut program);
        }
        program.tell("socket");
        assert!(
            !wait_until(Duration::from_millis(300), || program.stdout().contains("socket 1")),
            "who answered?"
        );
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
        program.until("socket 1 ok");
        // Stopped again, and the program killed while it waits: it must die, and all must go.
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).unwrap());
        program.tell("socket");
        std::thread::sleep(Duration::from_millis(100));
        program.kill(Signal::SIGKILL);
        assert!(wait_until(SOON, || program.has_ended()), "cannot be killed");
        supervisors.iter().for_each(|pid| kill(*pid, Signal::SIGCONT).unwrap());
    });
}

#[test]
fn a_killed_supervisor_fails_closed() {
    each(|world, kind| {
        let mut program = python(world, kind, SOCKETS_ON_DEMAND).keep_stdin().start();
        program.until("up");
        for pid in world.supervisors() {
            // The second of a pair may already have followed the first.
            let _ = kill(pid, Signal::SIGKILL);
        }
        assert!(wait_until(SOON, || world.supervisors().is_empty()));
        program.tell("socket");
        program.until("socket 0 ENOSYS");
        program.tell("data");
        // A smol stack ends with its supervisor, and connections with it.
        program.until(if kind == "smol" { "data 1 E" } else { "data 1 1000" });
        program.tell("unix");
        program.until("unix 2 1");
        program.wait().ok();
        // The next run is as good as any, and the next list removes the socket's file, as nobody else was left to.
        world.alone(["--", "true"]).run().ok();
        world.viewnet(["stack", "ls"]).run().ok();
    });
}

#[test]
fn a_killed_program_leaves_nothing() {
    each(|world, kind| {
        let mut program = world
            .run(["--kind", kind, "--ip", "10.0.0.9/24", "--", "python3", "-c", SOCKETS_ON_DEMAND])
            .keep_stdin()
            .start();
        program.until("up");
        program.kill(Signal::SIGKILL);
        program.wait();
        let left = world.settle(SOON);
        assert!(left.is_empty(), "{}", left.iter().map(|l| format!("{l}\n")).collect::<String>());
    });
}

/// The supervisor may not read the memory of a program whose file nobody may read, nor of one that made itself
/// undumpable, as ssh-agent and gpg do. (Documented: the kernel then answers SIOC* on their AF_UNIX sockets, from
/// the machine's network.)
#[test]
fn programs_whose_memory_is_closed_have_a_network() {
    const CLOSED: &str = "
import ctypes, socket, errno
print('undumpable', ctypes.CDLL(None).prctl(4, 0, 0, 0, 0))
a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen()
b = socket.create_connection(a.getsockname()); print('tcp', a.accept()[0].send(b'x'))
u = socket.socket(socket.AF_UNIX); u.bind('sock'); u.listen()
c = socket.socket(socket.AF_UNIX)
try: c.connect('sock'); print('unix ok')
except OSError as e: print('unix', errno.errorcode[e.errno])
try: print('lo', socket.if_nametoindex('lo'))
except OSError as e: print('lo', errno.errorcode[e.errno])
";
    each_user(|world| {
        for name in ["tcp_connect", "udp", "unix", "children", "tcp_listen"] {
            let probe = world.install(&c_probe(name, Linkage::Dynamic), name);
            std::fs::set_permissions(&probe, std::fs::Permissions::from_mode(0o711)).unwrap();
            let readable = world.install(&c_probe(name, Linkage::Dynamic), &format!("{name}-readable"));
            let open = world.alone(["--"]).args([readable]).run().ok();
            let closed = world.alone(["--"]).args([probe]).run().ok();
            let report = tests::compare::compare(name, &open.stdout, &closed.stdout, &[]);
            assert!(report.is_clean(), "{name}:\n{}", report.failures());
        }
        // A smol view cannot look into a file that nobody may read, and keeps its programs from closing theirs.
        for kind in ["kernel", "smol"] {
            let _ = std::fs::remove_file(world.home().join("sock"));
            let outcome = python(&world, kind, CLOSED).run().ok();
            assert_eq!(outcome.stdout, "undumpable 0\ntcp 1\nunix ok\nlo 1\n", "{kind}");
        }
    });
}

#[test]
fn wrappers_stay_in_the_view() {
    const LOOK: &str = "python3 -c 'import socket; s = socket.socket(); s.bind((\"10.99.0.1\", 8080)); print(\"in the view\")'; ip -br link show lo";
    each(|world, kind| {
        world.write("look", LOOK);
        let wrappers = [
            "timeout 20",
            "setsid -w",
            "nohup",
            "env -i PATH=/usr/bin:/bin",
            "busybox env",
            "strace -f -o /dev/null",
            "unshare -r",
            "unshare -rpf --mount-proc",
            "unshare -rmC",
            "xargs -n1 -I{}",
            "script -qefc 'bash ./look' /dev/null #",
            "python3 -c 'import os, sys; os.execvp(sys.argv[1], sys.argv[1:])'",
        ];
        for wrapper in wrappers {
            let text = format!("ip addr add 10.99.0.1/32 dev lo; echo x | {wrapper} bash ./look 2>&1");
            let outcome = script(world, kind, &text).run();
            assert!(outcome.stdout.contains("in the view"), "{wrapper}: {outcome:?}");
            assert_eq!(outcome.status, Status::Exited(0), "{wrapper}: {outcome:?}");
        }
    });
}

#[test]
fn two_hundred_views_at_once() {
    each_user(|world| {
        let script = "seq 200 | xargs -P 40 -I{} viewnet run --link lo -- sh -c 'ip -br link show lo >/dev/null && echo {}' | sort -nu | wc -l";
        let outcome = world.cmd("bash").args(["-c", script]).limit(Duration::from_secs(300)).run().ok();
        assert_eq!(outcome.stdout.trim(), "200", "{}", outcome.stderr);
        assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);
    });
}
