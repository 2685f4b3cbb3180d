//! The preloaded library: what it exports and asks for, what it is loaded into, and what programs see by it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::binaries::{c_program, libmsocket, shim};
use tests::{Outcome, Subject, User, World};

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// It stands before these functions of libc and no others.
#[test]
fn exports_are_those_of_the_list() {
    let listed = output(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(shim()));
    let exported: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("exports/libvnet_preload.txt");
    let list = std::fs::read_to_string(list).expect("the list");
    assert_eq!(exported, list.lines().collect::<Vec<_>>());
}

/// Programs of another libc, and those without libgcc_s, load it, too.
#[test]
fn it_needs_libc_and_nothing_else() {
    let listed = output(Command::new("readelf").arg("-d").arg(shim()));
    let needed: Vec<&str> = listed.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().all(|line| line.contains("[libc.so.6]")), "{needed:#?}");
}

/// A program, with a name of its own in the World, in views of both kinds.
fn in_views(world: &World, program: &Path, name: &str, before: &[&str]) -> Vec<Outcome> {
    let program = world.install(program, name);
    let run = |kind: &str| {
        let words = [&["--stack", kind, "--"][..], before].concat();
        world.run(words).args([&program]).run().ok()
    };
    vec![run("kernel"), run("smol")]
}

/// How the program is built, and what runs it.
fn same_as_natively(name: &str, compiler: &str, flags: &[&str], before: &[&str]) {
    let program: PathBuf = c_program("shim", compiler, flags);
    let world = World::new(User::Ordinary);
    let reference = Subject::Native.command(&world, User::Ordinary, &world.install(&program, name), &[]);
    let reference = reference.run().ok();
    for outcome in in_views(&world, &program, name, before) {
        assert_eq!(outcome.stdout, reference.stdout, "{name}");
        assert_eq!(outcome.stderr, "", "{name}");
    }
}

#[test]
fn constructors_handlers_threads_and_deepbind() {
    same_as_natively("glibc", "gcc", &[], &[]);
}

#[test]
fn musl_programs_are_served() {
    same_as_natively("musl", "musl-gcc", &[], &[]);
}

#[test]
fn address_sanitizer_bears_it() {
    same_as_natively("sanitized", "gcc", &["-fsanitize=address,undefined"], &[]);
}

#[test]
fn valgrind_bears_it() {
    // Its lock is not fair by itself: of two threads, the one that never waits would have it nearly always.
    let valgrind = ["valgrind", "-q", "--fair-sched=yes", "--error-exitcode=9"];
    same_as_natively("watched", "gcc", &["-O0"], &valgrind);
}

/// How many calls of those names are trapped of a script in a smol view.
fn trapped(world: &World, options: &[&str], script: &str, calls: &[&str]) -> usize {
    let words = [options, &["--stack", "smol", "--trace", "--", "python3", "-c", script]].concat();
    let trace = world.run(words).run().ok().stderr;
    trace.lines().filter(|line| calls.iter().any(|call| line.contains(call))).count()
}

/// The point of it: calls that are not trapped.
#[test]
fn names_and_datagrams_are_not_trapped() {
    let world = World::new(User::Ordinary);
    let script = "import socket
server, client, linked = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
server.bind(('127.0.0.1', 5300))
linked.connect(server.getsockname())
for n in range(100):
    client.sendmsg([b'a', b'sk'], [], 0, server.getsockname())
    asked, who = server.recvfrom(100)
    server.sendto(asked, who)
    assert client.recvmsg(2, 200) == (b'as', [], socket.MSG_TRUNC, ('127.0.0.1', 5300))
    linked.sendmsg([b'more'])
    asked, _, _, who = server.recvmsg(100)
    server.sendto(asked, who)
    assert linked.recvmsg(100, 200) == (b'more', [], 0, ('127.0.0.1', 5300))
    assert n or linked.getsockname() == who
";
    let calls = ["sendto", "sendmsg", "recvfrom", "recvmsg", "getsockname"];
    assert!(trapped(&world, &["--no-shim"], script, &calls) >= 800);
    let trapped = trapped(&world, &[], script, &calls);
    assert!(trapped <= 20, "{trapped} calls were trapped");
}

/// Several messages in a call, to one destination and with a peer; taken as they come (MSG_WAITFORONE), for a call that
/// wants more than there is yet asks the stack for it.
#[test]
fn several_datagrams_in_a_call_are_not_trapped() {
    let world = World::new(User::Ordinary);
    let script = "import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [('base', ctypes.c_char_p), ('length', ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [('name', ctypes.c_char_p), ('namelen', ctypes.c_uint), ('parts', ctypes.POINTER(Part)),
                ('count', ctypes.c_size_t), ('control', ctypes.c_void_p), ('room', ctypes.c_size_t),
                ('flags', ctypes.c_size_t), ('length', ctypes.c_size_t)]
def array(name):
    parts = [(Part * 2)(Part(b'0123456789', n), Part(b'ab', 2)) for n in range(8)]
    return (Message * 8)(*[Message(name, len(name or b''), p, 2, None, 0, 0, 0) for p in parts])
server, client, linked = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
server.bind(('127.0.0.1', 5300))
linked.connect(server.getsockname())
to = (2).to_bytes(2, 'little') + (5300).to_bytes(2, 'big') + bytes([127, 0, 0, 1] + [0] * 8)
for n in range(50):
    for sock, name in [(client, to), (linked, None)]:
        given = array(name)
        assert libc.sendmmsg(sock.fileno(), given, 8, 0) == 8
        assert [m.length for m in given] == [n + 2 for n in range(8)]
        rooms = [ctypes.create_string_buffer(16) for _ in range(9)]
        heres = [ctypes.create_string_buffer(16) for _ in range(9)]
        parts = [Part(ctypes.cast(h, ctypes.c_char_p), 8) for h in heres]
        taken = (Message * 9)(*[Message(ctypes.cast(r, ctypes.c_char_p), 16, ctypes.pointer(p), 1, None, 0, 9, 0)
                                for r, p in zip(rooms, parts)])
        got = 0
        while got < 8:
            rest = ctypes.byref(taken, got * ctypes.sizeof(Message))
            got += libc.recvmmsg(server.fileno(), rest, 8 - got, 0x10000, None)
        assert [m.length for m in taken] == [2, 3, 4, 5, 6, 7, 8, 8, 0]
        assert [m.flags for m in taken] == [0] * 7 + [socket.MSG_TRUNC, 9]
        assert all(r.raw[2:8] == sock.getsockname()[1].to_bytes(2, 'big') + bytes([127, 0, 0, 1]) for r in rooms[:8])
        assert heres[7].raw == b'0123456a' + bytes(8)
";
    let trapped = trapped(&world, &[], script, &["sendmmsg", "recvmmsg"]);
    assert!(trapped <= 10, "{trapped} calls were trapped");
}

/// Options are read without a trap, and so is set what is so already; what changes is seen by whoever has the socket.
#[test]
fn options_are_not_trapped_but_to_be_changed() {
    let world = World::new(User::Ordinary);
    let script = "import os, socket
from socket import IPPROTO_TCP, SO_KEEPALIVE, SO_RCVBUF, SO_BROADCAST, SOL_SOCKET, TCP_NODELAY, TCP_KEEPIDLE
listener = socket.create_server(('127.0.0.1', 5300))
listener.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, 33)
client = socket.create_connection(listener.getsockname())
client.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
server, _ = listener.accept()
loose = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
loose.bind(('127.0.0.1', 5301))
for n in range(100):
    client.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    loose.setsockopt(SOL_SOCKET, SO_BROADCAST, 0)
    assert client.getsockopt(IPPROTO_TCP, TCP_NODELAY) == 1 and server.getsockopt(IPPROTO_TCP, TCP_NODELAY) == 0
    assert server.getsockopt(IPPROTO_TCP, TCP_KEEPIDLE) == 33 and client.getsockopt(IPPROTO_TCP, TCP_KEEPIDLE) == 7200
    assert loose.getsockopt(SOL_SOCKET, SO_RCVBUF) == 212992 and loose.getsockopt(SOL_SOCKET, SO_BROADCAST) == 0
for value in [1, 0, 1]:
    server.setsockopt(SOL_SOCKET, SO_KEEPALIVE, value)
    assert server.dup().getsockopt(SOL_SOCKET, SO_KEEPALIVE) == value
    if os.fork() == 0:
        server.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1 - server.getsockopt(SOL_SOCKET, SO_KEEPALIVE))
        os._exit(0)
    os.wait()
    assert server.getsockopt(SOL_SOCKET, SO_KEEPALIVE) == 1 - value
    assert server.getsockopt(SOL_SOCKET, SO_KEEPALIVE, 2) == bytes([1 - value, 0])
print('ok')
";
    assert!(trapped(&world, &["--no-shim"], script, &["setsockopt", "getsockopt"]) >= 800);
    let trapped = trapped(&world, &[], script, &["setsockopt", "getsockopt"]);
    assert!(trapped <= 20, "{trapped} calls were trapped");
}

/// However many the program writes before the stack looks.
#[test]
fn a_burst_of_datagrams_arrives_whole() {
    let world = World::new(User::Ordinary);
    let script = "import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
server.bind(('127.0.0.1', 5300))
server.settimeout(10)
loose, linked = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
linked.connect(('127.0.0.1', 5300))
for _ in range(30):
    for send in [lambda: loose.sendto(b'x', ('127.0.0.1', 5300)), lambda: linked.send(b'x')]:
        for _ in range(150):
            send()
        for _ in range(150):
            server.recv(10)
print('ok')
";
    world.alone(["--stack", "smol", "--", "python3", "-c", script]).run().ok().says("ok");
}

/// A program without the library has the same sockets.
#[test]
fn descriptors_are_shared_with_programs_that_do_not_load_it() {
    let world = World::new(User::Ordinary);
    let script = "import os, socket, subprocess
listener = socket.create_server(('127.0.0.1', 8000))
client = socket.create_connection(('127.0.0.1', 8000))
server, who = listener.accept()
ask = 'import socket; s = socket.socket(fileno=0); print(s.getpeername(), s.getsockname())'
for environment in [{}, dict(os.environ)]:
    said = subprocess.run(['python3', '-c', ask], stdin=server, env={'PATH': os.environ['PATH'], **environment},
                          capture_output=True, text=True)
    assert said.stdout == f'{who} {listener.getsockname()}\\n', said
print('ok')
";
    world.alone(["--stack", "smol", "--", "python3", "-c", script]).run().ok().says("ok");
}

/// What lists sockets, interfaces and routes from files lists the view's.
#[test]
fn proc_net_is_the_views() {
    for kind in ["kernel", "smol"] {
        let world = World::new(User::Ordinary);
        let script = "set -eu
            python3 -c 'import socket, time; s = socket.create_server((\"10.7.7.1\", 8123)); print(1, flush=True); time.sleep(60)' >ready &
            until [ -s ready ]; do sleep 0.05; done
            netstat -tln | grep 10.7.7.1:8123
            route -n | grep '^10.7.7.0'
            ifconfig eth0 | grep 'inet 10.7.7.1'
            grep eth0 /proc/net/dev /proc/self/net/dev /proc/$$/net/dev
            cat /proc/net/if_inet6
            kill %1";
        let run = ["--stack", kind, "--ip", "10.7.7.1/24", "--", "bash", "-c", script];
        world
            .run(run)
            .run()
            .ok()
            .says("0.0.0.0:*")
            .says("/proc/self/net/dev:")
            .says("0001 01 80 10 80       lo");
    }
}

/// A kept stack is another process's.
#[test]
fn a_kept_smol_stack_is_served_as_well() {
    let world = World::new(User::Ordinary);
    world.viewnet(["stack", "up", "lan", "--kind", "smol", "--ip", "10.7.7.1/24"]).run().ok();
    let script = "import socket
listener = socket.create_server(('10.7.7.1', 80))
client = socket.create_connection(('10.7.7.1', 80))
for _ in range(50):
    assert client.getpeername() == ('10.7.7.1', 80)
print(open('/proc/net/tcp').read().count('0107070A:0050'))
";
    let outcome =
        world.run(["--trace", "--stack", "lan", "--", "python3", "-c", script]).run().ok().says("3");
    assert!(outcome.stderr.matches("getpeername").count() <= 1, "{}", outcome.stderr);
    world.viewnet(["stack", "down", "lan"]).run().ok();
}

/// A supervisor that is in no namespace asks a kept kernel stack for its files, as it does for its sockets.
#[test]
fn a_kept_kernel_stacks_files_are_asked_for() {
    let world = World::new(User::Ordinary);
    world.viewnet(["stack", "up", "lan", "--kind", "kernel", "--ip", "10.7.7.1/24"]).run().ok();
    let script = "set -eu
        grep -c eth0 /proc/net/dev /proc/self/net/dev
        cat /sys/class/net/eth0/operstate
        ls /sys/class/net";
    let run = ["--stack", "smol", "--", "viewnet", "run", "--stack", "lan", "--", "bash", "-c", script];
    let lines = ["/proc/net/dev:1", "/proc/self/net/dev:1", "unknown", "eth0", "lo", ""];
    assert_eq!(world.run(run).run().ok().stdout, lines.join("\n"));
    world.viewnet(["stack", "down", "lan"]).run().ok();
}

/// Another user has them as far as everybody may read them in the stack, and no folders.
#[test]
fn a_guest_reads_what_everybody_may() {
    if !User::all().contains(&User::Root) {
        eprintln!("not tested: only root can be two users");
        return;
    }
    let world = World::new(User::Root);
    let path = world.folder().join("bin/open.stack");
    let path = path.to_str().unwrap();
    let script = "import os
print(open('/proc/net/dev').read().count('guests0'), open('/sys/class/net/guests0/mtu').read().strip())
print('guests0' in os.listdir('/sys/class/net'))
def code(name):
    try: return len(open(name).read())
    except OSError as error: return error.errno
print(code('/proc/net/nosuch'), code('/sys/class/net/' + '../' * 9 + 'etc/passwd'))
folder = os.open('/proc/net', os.O_RDONLY)
secret = [name for name in os.listdir(folder) if not os.stat(name, dir_fd=folder).st_mode & 0o4]
print({code('/proc/net/' + name) for name in secret} <= {2, 13})
";
    let options = ["--kind", "kernel", "--mode", "0666", "--link", "guests0=none,mtu=1300"];
    world.viewnet([&["stack", "up", path][..], &options].concat()).run().ok();
    let other = ["--reuid", "64997", "--regid", "64997", "--clear-groups", "env", "XDG_RUNTIME_DIR="];
    let run = ["viewnet", "run", "--stack", path, "--", "python3", "-c", script];
    let outcome = world.cmd("setpriv").args(other).args(run).run().ok();
    world.viewnet(["stack", "down", path]).run().ok();
    let _ = std::fs::remove_dir_all("/tmp/viewnet-64997");
    assert_eq!(outcome.stdout, "1 1300\nFalse\n2 18\nTrue\n");
}

/// Where a socket has sent before its process came into a view with rules, these have not been asked.
#[test]
fn a_socket_goes_by_the_rules_of_the_view_that_it_is_used_in() {
    let world = World::new(User::Ordinary);
    let inner = "import socket
socket = socket.socket(fileno=0)
try: print(socket.sendto(b'x', ('127.0.0.1', 5300)))
except OSError as error: print(error.errno)
";
    let outer = "import socket, subprocess, sys
server, client = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
server.bind(('127.0.0.1', 5300))
for n in range(6):
    client.sendto(b'x', server.getsockname())
for rule in ['to 127.0.0.2 deny', 'to 127.0.0.1 deny']:
    run = ['viewnet', 'run', '--stack', 'outer', '--rule', rule, '--', 'python3', '-c', sys.argv[1]]
    subprocess.run(run, stdin=client)
";
    let run = ["--name", "outer", "--stack", "smol", "--", "python3", "-c", outer, inner];
    assert_eq!(world.run(run).run().ok().stdout, "1\n13\n");
}

/// The files follow what socket(2) follows.
#[test]
fn proc_net_is_the_default_stacks() {
    let world = World::new(User::Ordinary);
    let library = world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
    world.viewnet(["stack", "up", "lan", "--kind", "smol", "--ip", "10.7.7.1/24"]).run().ok();
    let script = "import ctypes, socket, sys
assert '0107070A' not in open('/proc/net/tcp').read()
assert ctypes.CDLL(sys.argv[1]).msocket(b'lan', socket.AF_INET, 0, 0) == 0
listener = socket.create_server(('10.7.7.1', 80))
client = socket.create_connection(('10.7.7.1', 80))
assert listener.getsockname() == client.getpeername() == ('10.7.7.1', 80)
print(open('/proc/net/tcp').read().count('0107070A:0050'))
";
    let run = ["--stack", "smol", "--", "python3", "-c", script, library.to_str().unwrap()];
    world.run(run).run().ok().says("3");
    world.viewnet(["stack", "down", "lan"]).run().ok();
}

/// Formats are the kernel's, to the byte.
#[test]
fn proc_net_of_a_smol_stack_reads_as_the_kernels() {
    let script = "python3 -c 'import socket
a = socket.create_server((\"127.0.0.1\", 8123)); b = socket.create_server((\"::1\", 8124), family=socket.AF_INET6)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((\"127.0.0.1\", 5353))
v = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); v.bind((\"::1\", 5354))
import re
for name in [\"tcp\", \"tcp6\", \"udp\", \"udp6\", \"dev\", \"route\", \"if_inet6\", \"arp\"]:
    for line in open(\"/proc/net/\" + name).read().splitlines(True):
        # Numbers of places, users, inodes and objects, and how wide they are.
        line = re.sub(r\"^ *\\d+:\", \"N:\", line)
        line = re.sub(r\" +\\d+ +0 \\d+ \\d [0-9a-f]{16}\", \" U\", line)
        print(name, repr(re.sub(r\" +\\n\", \"\\n\", line)))
'";
    let world = World::new(User::Ordinary);
    let sh = world.install(Path::new("/bin/bash"), "bash");
    let native = Subject::Native.command(&world, User::Ordinary, &sh, &["-c", script]).run().ok();
    let smol = Subject::Shimmed.command(&world, User::Ordinary, &sh, &["-c", script]).run().ok();
    assert_eq!(native.stdout, smol.stdout);
}

/// Without a supervisor.
#[test]
fn the_library_alone_serves_a_kept_stack_and_says_what_it_cannot() {
    let world = World::new(User::Ordinary);
    world.viewnet(["stack", "up", "lan", "--kind", "kernel", "--ip", "10.7.7.1/24"]).run().ok();
    let ask = "import socket; s = socket.create_server(('10.7.7.1', 80)); print(s.getsockname())";
    let run = ["--preload-only", "--stack", "lan", "--", "python3", "-c", ask];
    let outcome = world.run(run).run().ok().says("('10.7.7.1', 80)");
    assert!(outcome.stderr.contains("static programs use the machine's network"), "{}", outcome.stderr);
    world.viewnet(["stack", "down", "lan"]).run().ok();
    let gone = world.run(["--preload-only", "--stack", "lan", "--", "true"]).run();
    assert!(gone.stderr.contains("cannot reach the stack"), "{}", gone.stderr);
}
