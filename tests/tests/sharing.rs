//! The host's own network in a view: destinations that go there past the view's stack, ports that the view has of the
//! host's, services that are handed over.

use tests::binaries::go_program;
use tests::{Cmd, Outcome, Running, SOON, User, World, wait_until};

const MOVE: &str = include_str!("../programs/move.py");
const REPLY: &str = include_str!("../programs/reply.py");

fn each_kind(test: impl Fn(&World, &str)) {
    for kind in ["kernel", "smol"] {
        for &user in User::all() {
            eprintln!("on a {kind} stack, as {user:?}");
            let world = World::new(user);
            if !world.has_own_host() {
                eprintln!(
                    "skipped: the host's addresses are not ours to change, as the tests do not run as root"
                );
                continue;
            }
            world.administer(&["ip", "addr", "add", "10.2.0.9/32", "dev", "lo"]);
            world.administer(&["ip", "addr", "add", "10.2.0.1/32", "dev", "lo"]);
            world.administer(&["ip", "addr", "add", "fd02::9/128", "dev", "lo", "nodad"]);
            // .9 is as a far host, whom .1 talks to.
            for (to, from) in [("10.2.0.9", "10.2.0.1"), ("10.2.0.1", "10.2.0.9")] {
                world.administer(&[
                    "ip", "route", "replace", "local", to, "dev", "lo", "table", "local", "src", from,
                ]);
            }
            test(&world, kind);
        }
    }
}

fn view(world: &World, kind: &str, rules: &[&str]) -> Cmd {
    let link = "switch:lan,ip=10.1.0.1/24,ip=fd01::1/64";
    let rules = rules.iter().flat_map(|rule| ["--rule", rule]);
    world.run(["--kind", kind, "--link", link]).args(rules).args(["--"])
}

fn host(world: &World, script: &str, args: &[&str]) -> Running {
    let mut server = world.cmd("python3").args(["-uc", script]).args(args).keep_stdin().start();
    assert!(wait_until(SOON, || server.stdout().contains("up") || server.has_ended()));
    server
}

fn end(mut server: Running) -> Outcome {
    server.close_stdin();
    server.wait()
}

const OFFICE: &str = "to 10.2.0.0/16,[fd02::]/16 via host";

#[test]
fn a_socket_that_goes_to_the_host_takes_all_along() {
    each_kind(|world, kind| {
        world.write("move.py", MOVE);
        world.write("reply.py", REPLY);
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let link = "eth0=switch:lan,ip=10.1.0.9/24";
        let lan = world.run(["--link", link, "--", "python3", "reply.py", "lan"]).start();
        let office = world.cmd("python3").args(["reply.py", "office"]).start();
        let mut servers = [lan, office];
        servers.iter_mut().for_each(|server| server.until("up"));
        let outcome = view(world, kind, &[OFFICE]).args(["python3", "move.py"]).run().ok();
        assert!(!outcome.stdout.contains("WRONG"), "{}", outcome.stdout);
        outcome.says("epoll ok").says("udp to another stack ok").says("done");
        for server in servers {
            server.kill_group();
            server.wait();
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn static_programs_and_go_go_to_the_host_too() {
    each_kind(|world, kind| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        world.write("page", "the host's page");
        world.install(&go_program("net"), "gonet");
        let serve = "import http.server, socket\n\
            class V6(http.server.ThreadingHTTPServer): address_family = socket.AF_INET6\n\
            s = V6(('::', 8001), http.server.SimpleHTTPRequestHandler); print('up'); s.serve_forever()";
        let server = host(world, serve, &[]);
        for address in ["10.2.0.9", "[fd02::9]"] {
            let url = format!("http://{address}:8001/page");
            let get = |command: &[&str]| view(world, kind, &[OFFICE]).args(command).args([&url]).run().ok();
            get(&["gonet", "get"]).says("the host's page");
            get(&["busybox", "wget", "-q", "-O", "-"]).says("the host's page");
            // The view's own stack has no way there.
            view(world, kind, &[]).args(["curl", "-s", "-m", "5", &url]).run().code(7);
        }
        server.kill_group();
        server.wait();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

/// A server on a port, TCP and UDP, that says whom it hears.
const SERVE: &str = r"
import socket, sys, threading
port = int(sys.argv[1])
try: l = socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
except OSError as e: print('error', e.errno); sys.exit()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', port))
def stream():
    while True: s, a = l.accept(); s.sendall(('tcp %s' % a[0]).encode()); s.close()
def datagrams():
    while True: d, a = u.recvfrom(99); u.sendto(('udp %s' % a[0]).encode(), a)
for f in stream, datagrams: threading.Thread(target=f, daemon=True).start()
print('up', l.getsockname()[1]); sys.stdin.read()
";

const ASK: &str = r"
import socket, sys
at, port = sys.argv[1], int(sys.argv[2]); f = socket.AF_INET6 if ':' in at else socket.AF_INET
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    s = socket.socket(f, kind); s.settimeout(30)
    try: s.connect((at, port)); s.send(b'x') if kind == socket.SOCK_DGRAM else 0; print(s.recv(99).decode())
    except OSError as e: print('error', e.errno)
";

fn ask(world: &World, at: &str, port: &str) -> String {
    world.cmd("python3").args(["-c", ASK, at, port]).run().ok().stdout
}

#[test]
fn a_view_has_ports_of_the_hosts_own_address() {
    let rules = ["bind port 8080-8082 via host", "bind tcp port 8025 deny"];
    each_kind(|world, kind| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let serve = |port: &str| {
            let mut server =
                view(world, kind, &rules).args(["python3", "-uc", SERVE, port]).keep_stdin().start();
            assert!(wait_until(SOON, || server.stdout().contains("up") || server.has_ended()));
            server
        };
        let server = serve("8080");
        // Clients are who they are, and the answers of UDP come from the host, too.
        assert_eq!(ask(world, "127.0.0.1", "8080"), "tcp ::ffff:127.0.0.1\nudp 127.0.0.1\n");
        assert_eq!(ask(world, "10.2.0.9", "8080"), "tcp ::ffff:10.2.0.1\nudp 10.2.0.1\n");
        // It is taken, for the host as for other views, until it is not.
        end(host(world, SERVE, &["8080"])).ok().says("error 98");
        end(serve("8080")).ok().says("error 98");
        end(server).ok();
        let server = host(world, SERVE, &["8080"]);
        assert_eq!(ask(world, "127.0.0.1", "8080"), "tcp ::ffff:127.0.0.1\nudp 127.0.0.1\n");
        end(serve("8080")).ok().says("error 98");
        end(server).ok();
        // All other ports are the view's own; those that are denied nobody's.
        let server = serve("8090");
        assert_eq!(ask(world, "127.0.0.1", "8090"), "error 111\nerror 111\n");
        end(server).ok();
        end(serve("8025")).ok().says("error 13");
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn a_socket_that_could_not_have_the_hosts_port_may_have_one_of_the_view() {
    let script = "
import errno, socket
s = socket.socket()
try: s.bind(('', 8081))
except OSError as e: assert e.errno == errno.EADDRINUSE
s.bind(('10.1.0.1', 8085)); s.listen()
s = socket.socket(); s.bind(('', 8086)); s.listen(); c = socket.create_connection(('10.1.0.1', 8086)); print('well')
s = socket.socket(); s.bind(('10.2.0.9', 8082)); s.listen(); print(s.getsockname())
";
    each_kind(|world, kind| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let server = host(world, SERVE, &["8081"]);
        let outcome =
            view(world, kind, &["bind port 8081-8082 via host"]).args(["python3", "-c", script]).run();
        outcome.ok().says("well\n('10.2.0.9', 8082)");
        end(server).ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

/// Serves what it is told to on a listener that it opens, or gets over `sock`, for one client; then gives it to whoever comes
/// to `next`.
const HAND: &str = r"
import os, socket, sys
name, came, goes = sys.argv[1:]
if came == '-': l = socket.create_server(('127.0.0.1', 8080))
else:
    u = socket.socket(socket.AF_UNIX); u.connect(came); _, fds, _, _ = socket.recv_fds(u, 1, 1)
    l = socket.socket(fileno=fds[0])
print('has it'); s, a = l.accept(); s.sendall(name.encode())
if goes != '-':
    u = socket.socket(socket.AF_UNIX); u.bind(goes + '.new'); u.listen(); os.rename(goes + '.new', goes)
    socket.send_fds(u.accept()[0], [b'x'], [l.fileno()])
l.close(); s.sendall(b' on and on'); sys.stdin.read()
";

#[test]
fn a_service_is_handed_from_host_to_view_and_back() {
    let client = "import socket; s = socket.create_connection(('127.0.0.1', 8080)); s.settimeout(20)\nfor n in range(2): print(s.recv(99).decode())";
    each_kind(|world, kind| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let first = world.cmd("python3").args(["-uc", HAND, "host", "-", "one"]).keep_stdin().start();
        let second = view(world, kind, &[]).args(["python3", "-uc", HAND, "view"]);
        let third = world.cmd("python3").args(["-uc", HAND, "back"]);
        let mut holder = first;
        let mut next = [(second, ["one", "two"], "view"), (third, ["two", "-"], "back")].into_iter();
        let mut all = Vec::new();
        for name in ["host", "view", "back"] {
            holder.until("has it");
            // It waits in the listener's queue, whoever has that.
            let mut asks = world.cmd("python3").args(["-uc", client]).start();
            asks.until(name);
            all.push((asks, name));
            let Some((cmd, ends, _)) = next.next() else { break };
            assert!(wait_until(SOON, || world.home().join(ends[0]).exists()));
            let taken = std::mem::replace(&mut holder, cmd.args(ends).keep_stdin().start());
            // What it accepted it keeps.
            end(taken).ok();
        }
        end(holder).ok();
        for (asks, name) in all {
            assert!(asks.wait().ok().stdout.starts_with(name));
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}
