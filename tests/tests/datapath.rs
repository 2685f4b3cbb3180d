//! The promise about the data path: what moves bytes is never trapped.

use serde_json::Value;
use tests::{User, World};

#[test]
fn the_data_path_is_never_trapped() {
    const SCRIPT: &str = "
import socket, select, sys, os, array
a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen()
b = socket.create_connection(a.getsockname()); c = a.accept()[0]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0))
l, r = socket.socketpair()
e = select.epoll(); e.register(c, select.EPOLLIN)
print('up', flush=True); sys.stdin.readline()
f = open('/dev/zero', 'rb')
for i in range(2000):
    b.send(b'x' * 1000); e.poll(1); c.recv(2000)
    u.sendto(b'y', u.getsockname()); u.recvfrom(10)
    b.getpeername(); b.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); select.select([c], [b], [], 0)
    d = b.dup(); d.sendmsg([b'z']); c.recvmsg(9); d.close()
    socket.send_fds(l, [b'f'], [b.fileno()]); [os.close(x) for x in socket.recv_fds(r, 9, 1)[1]]
    os.sendfile(b.fileno(), f.fileno(), 0, 0)
if os.fork() == 0: b.send(b'child'); os._exit(0)
os.wait()
print('done', flush=True); sys.stdin.readline()
";
    never_trapped("kernel", "socket", SCRIPT);
}

/// On a smol stack sendmsg, recvmsg and the calls that make and name sockets may be trapped; these are not.
#[test]
fn the_data_path_is_never_trapped_on_a_smol_stack() {
    const SCRIPT: &str = "
import socket, select, sys, os
a = socket.socket(); a.bind(('127.0.0.1', 0)); a.listen()
b = socket.create_connection(a.getsockname()); c = a.accept()[0]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0)); u.connect(u.getsockname())
e = select.epoll(); e.register(c, select.EPOLLIN)
print('up', flush=True); sys.stdin.readline()
f = open('/dev/zero', 'rb')
for i in range(2000):
    b.send(b'x' * 1000); e.poll(1); c.recv(2000); os.write(b.fileno(), b'w'); os.read(c.fileno(), 1)
    u.send(b'y'); u.recv(10); select.select([c], [b], [], 0)
    d = os.dup(b.fileno()); os.write(d, b'z'); c.recv(9); os.close(d)
    os.sendfile(b.fileno(), f.fileno(), 0, 0)
if os.fork() == 0: b.send(b'child'); os._exit(0)
os.wait()
print('done', flush=True); sys.stdin.readline()
";
    never_trapped("smol", "accept", SCRIPT);
}

/// Runs a Python script that says `up`, waits for a line, and says `done`: between these, nothing may be trapped.
/// Before, a call named `counted` was.
fn never_trapped(kind: &str, counted: &str, script: &str) {
    for &user in User::all() {
        eprintln!("as {user:?}");
        let world = World::new(user);
        let options = ["--kind", kind, "--name", "busy", "--", "python3", "-c", script];
        let mut program = world.run(options).keep_stdin().start();
        let count = || {
            let shown = world.viewnet(["stack", "show", "busy", "--json"]).run().ok().stdout;
            serde_json::from_str::<Value>(&shown).expect("JSON")["notifications"].clone()
        };
        program.until("up");
        let before = count();
        assert!(before.to_string().contains(counted), "counts nothing: {before}");
        program.tell("go");
        program.until("done");
        assert_eq!(count(), before, "notifications on the data path");
        program.tell("end");
        program.wait().ok();
    }
}
