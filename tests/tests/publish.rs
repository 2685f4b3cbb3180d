//! Published ports: from the host, and from far away, into a view. Far clients are addresses of the World's own host.

use serde_json::Value;
use tests::{Outcome, Running, SOON, World, each_user, wait_until};

/// Clients with addresses of their own.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The view's network.
const LINK: &str = "switch:lan,ip=10.0.2.2/24,ip=fd00:10:0:2::2/64,gw=10.0.2.1,gw=fd00:10:0:2::1";

/// TCP and UDP servers on the ports of the arguments, of both families: each answers with its name and the address that
/// it hears; `what begins with `bulk` is echoed first. A line of its input ends a listener or begins one: `-81`, `+81`.
const SERVE: &str = r#"
import socket, sys, threading
name = sys.argv[1]; listeners = {}
def ip(a): return a[0].replace('::ffff:', '')
def stream(s, a):
    d = s.recv(65536); bulk = d.startswith(b'bulk')
    while bulk and d: s.sendall(d); d = s.recv(65536)
    s.sendall(('%s %s %d' % (name, ip(a), a[1])).encode()); s.close()
def accept(l):
    while True:
        try: s, a = l.accept()
        except OSError: return
        threading.Thread(target=stream, args=(s, a), daemon=True).start()
def listen(port):
    l = socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True); listeners[port] = l
    threading.Thread(target=accept, args=(l,), daemon=True).start()
def datagrams(port):
    u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('', port))
    u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    while True:
        # From the address that was asked: the view has another one by SLAAC.
        d, control, _, a = u.recvmsg(65536, 100)
        u.sendmsg([('%s %s %d' % (name, ip(a), a[1])).encode() + d[1:]], control, 0, a)
for port in map(int, sys.argv[2:]):
    listen(port); threading.Thread(target=datagrams, args=(port,), daemon=True).start()
print('up', flush=True)
for line in sys.stdin:
    port = int(line[1:])
    if line[0] == '+': listen(port)
    else: l = listeners.pop(port); l.shutdown(2); l.close()
    print('done', line.strip(), flush=True)
"#;

/// Asks an address and a port, over tcp or udp, perhaps from an address: the answer and the own port, or the error.
const ASK: &str = r#"
import socket, sys
def ask(kind, at, port, source=None, send=b'x'):
    f = socket.AF_INET6 if ':' in at else socket.AF_INET
    s = socket.socket(f, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM); s.settimeout(30)
    if source: s.bind((source, 0))
    try:
        s.connect((at, port)); s.send(send)
        d = s.recv(65536).decode()
        return d.replace(' %d' % s.getsockname()[1], ' same')
    except OSError as e: return 'error %s' % e.errno
print(ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:5]))
"#;

/// With either kind of stack in the view, and a switch and a gateway that run.
fn each_kind(test: impl Fn(&World, &str)) {
    for kind in ["kernel", "smol"] {
        eprintln!("on a {kind} stack");
        each_user(|world| {
            world.viewnet(["switch", "up", "lan"]).run().ok();
            world.viewnet(["gateway", "up", "--switch", "lan"]).run().ok();
            if world.has_own_host() {
                world.administer(&["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]);
                world.administer(&["ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
            }
            test(&world, kind);
            world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
            world.viewnet(["switch", "down", "lan"]).run().ok();
        });
    }
}

fn serve(world: &World, kind: &str, name: &str, link: &str, options: &[&str], ports: &[&str]) -> Running {
    let run = world.run(["--kind", kind, "--name", name, "--link", link]).args(options);
    let mut server = run.args(["--", "python3", "-c", SERVE, name]).args(ports).keep_stdin().start();
    server.until("up");
    server
}

fn ask(world: &World, args: &[&str]) -> String {
    world.cmd("python3").args(["-c", ASK]).args(args).run().ok().stdout.trim().to_owned()
}

fn listed(world: &World) -> Vec<Value> {
    serde_json::from_str(&world.viewnet(["publish", "ls", "--json"]).run().ok().stdout).unwrap()
}

fn end(mut server: Running) -> Outcome {
    server.close_stdin();
    server.wait()
}

#[test]
fn a_port_of_the_host_leads_into_the_view_and_clients_keep_their_names() {
    each_kind(|world, kind| {
        let options =
            ["--publish", "8080:80", "--publish", "8080:80/udp", "--publish", "127.0.0.1:9000-9001:81-82"];
        let server = serve(world, kind, "web", LINK, &options, &["80", "81", "82"]);
        for transport in ["tcp", "udp"] {
            // From the host's loopback it is the gateway who asks, from the same port.
            assert_eq!(ask(world, &[transport, "127.0.0.1", "8080"]), "web 10.0.2.1 same", "{transport}");
            assert_eq!(ask(world, &[transport, "::1", "8080"]), "web fd00:10:0:2::1 same", "{transport}");
            for far in FAR.iter().filter(|_| world.has_own_host()) {
                let answer = ask(world, &[transport, far, "8080", far]);
                assert_eq!(answer, format!("web {far} same"), "{transport}");
                // Only this address of the host's.
                assert_eq!(ask(world, &["tcp", far, "9000"]), "error 111");
            }
        }
        // From another view of the same network, by the host's address: there and back.
        let second = LINK.replace("2.2/24", "2.3/24").replace("::2/64", "::3/64");
        for (transport, far) in [("tcp", FAR[0]), ("udp", FAR[0]), ("tcp", FAR[1]), ("udp", FAR[1])] {
            if world.has_own_host() {
                let run = world.run(["--kind", kind, "--link", &second, "--", "python3", "-c", ASK]);
                run.args([transport, far, "8080"]).run().ok().says(&format!("web {far} "));
            }
        }
        for port in ["9000", "9001"] {
            assert_eq!(ask(world, &["tcp", "127.0.0.1", port]), "web 10.0.2.1 same");
        }
        let shown = world.viewnet(["publish", "ls"]).run().ok();
        assert!(
            shown.stdout.contains("0.0.0.0:8080") && shown.stdout.contains("10.0.2.2:80"),
            "{}",
            shown.stdout
        );
        let shown = listed(world);
        assert_eq!(shown.len(), 6, "{shown:?}");
        assert!(shown.iter().all(|it| it["stack"] == "web"), "{shown:?}");
        end(server).ok();
        // With its view it is gone, and the port is free.
        assert!(wait_until(SOON, || listed(world).is_empty()));
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8080"]), "error 111");
    });
}

#[test]
fn what_is_published_ends_with_a_view_that_is_killed() {
    each_kind(|world, kind| {
        let server = serve(world, kind, "web", LINK, &["--publish", "8080:80"], &["80"]);
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8080"]), "web 10.0.2.1 same");
        server.kill_group();
        server.wait();
        assert!(wait_until(SOON, || listed(world).is_empty()));
    });
}

#[test]
fn what_is_published_lasts_as_long_as_the_view() {
    each_kind(|world, kind| {
        let answers = |port: &str| ask(world, &["tcp", "127.0.0.1", port]);
        let gone = |port: &str| assert!(wait_until(SOON, || answers(port) == "error 111"));
        // A daemon keeps it, though the program that the view was made for has ended.
        let daemon = "sleep 1000 | python3 -c \"$0\" web 80 & read line";
        let link = ["--kind", kind, "--name", "web", "--link", LINK];
        let mut view = world
            .run(link)
            .args(["--publish", "8080:80", "--", "sh", "-c", daemon, SERVE])
            .keep_stdin()
            .start();
        view.until("up");
        view.close_stdin();
        assert!(wait_until(SOON, || view.has_ended()));
        assert_eq!(answers("8080"), "web 10.0.2.1 same");
        view.kill_group();
        gone("8080");
        // A view of a stack that is kept: what the view publishes ends with it, what is added stays.
        world.viewnet(["stack", "up", "kept", "--kind", kind, "--link", LINK]).run().ok();
        world.viewnet(["publish", "add", "kept", "auto"]).run().ok();
        for how in [&[][..], &["--parent"]] {
            let run = world.run(["--name", "v", "--stack", "kept", "--publish", "8081:8090"]).args(how);
            let mut view = run.args(["--", "python3", "-c", SERVE, "kept", "8090"]).keep_stdin().start();
            view.until("up");
            assert_eq!(answers("8081"), "kept 10.0.2.1 same");
            assert!(wait_until(SOON, || answers("8090") == "kept 10.0.2.1 same"));
            // A view is found by its name, too.
            world.viewnet(["publish", "add", "v", "8082:8090"]).run().ok();
            assert_eq!(answers("8082"), "kept 10.0.2.1 same");
            end(view).ok();
            ["8081", "8090"].into_iter().for_each(gone);
            // That one is the stack's: the host still takes what nobody takes inside.
            assert_eq!(answers("8082"), "error 104");
            world.viewnet(["publish", "rm", "v", "8082"]).run().code(1);
            world.viewnet(["publish", "rm", "kept", "8082"]).run().ok();
        }
        world.viewnet(["stack", "down", "kept"]).run().ok();
        world.run(link).args(["--publish", "8083", "--", "./nosuch"]).run().code(127);
        assert!(wait_until(SOON, || listed(world).is_empty()));
    });
}

#[test]
fn ports_are_published_and_moved_while_programs_run() {
    each_kind(|world, kind| {
        let second = LINK.replace("2.2/24", "2.3/24").replace("::2/64", "::3/64");
        let (a, b) =
            (serve(world, kind, "a", LINK, &[], &["80"]), serve(world, kind, "b", &second, &[], &["80"]));
        let publish = |args: &[&str]| world.viewnet(["publish"]).args(args).run();
        publish(&["add", "a", "8080:80", "[::1]:8081:80", "8080:80/udp"]).ok();
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8080"]), "a 10.0.2.1 same");
        assert_eq!(ask(world, &["tcp", "::1", "8081"]), "a fd00:10:0:2::1 same");
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8081"]), "error 111");
        // What came in stays, what comes goes elsewhere.
        let script = format!(
            "{}\ns = socket.create_connection(('127.0.0.1', 8080)); print('up', flush=True); sys.stdin.read()\n\
             s.send(b'x'); print(s.recv(99).decode())",
            ASK.split("print(").next().unwrap()
        );
        let mut old = world.cmd("python3").args(["-c", &script]).keep_stdin().start();
        old.until("up");
        publish(&["move", "8080", "b"]).ok();
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8080"]), "b 10.0.2.1 same");
        assert_eq!(ask(world, &["udp", "127.0.0.1", "8080"]), "a 10.0.2.1 same", "only TCP was moved");
        end(old).ok().says("a 10.0.2.1");
        publish(&["move", "8080/udp", "b"]).ok();
        assert_eq!(ask(world, &["udp", "127.0.0.1", "8080"]), "b 10.0.2.1 same");
        // It goes with the view that it leads to now, not with the one that it led to.
        end(a).ok();
        assert!(wait_until(SOON, || listed(world).len() == 4));
        // Given back to the host, a program there may listen.
        publish(&["move", "8080", "host"]).ok();
        let mut host = world.cmd("python3").args(["-c", SERVE, "host", "8080"]).keep_stdin().start();
        assert!(wait_until(SOON, || host.stdout().contains("up") || host.has_ended()));
        host.wait();
        publish(&["rm", "b", "8080/udp"]).ok();
        assert!(listed(world).is_empty());
        let none = publish(&["rm", "b", "8080"]).code(1);
        assert!(none.stderr.contains("no such port is"), "{}", none.stderr);
        end(b).ok();
    });
}

#[test]
fn what_a_program_listens_on_appears() {
    each_kind(|world, kind| {
        let mut server = serve(world, kind, "web", LINK, &["--publish", "auto"], &["8090"]);
        let answers =
            |port: &str, answer: &str| wait_until(SOON, || ask(world, &["tcp", "127.0.0.1", port]) == answer);
        assert!(answers("8090", "web 10.0.2.1 same"), "{:?}", listed(world));
        server.tell("+8091");
        assert!(answers("8091", "web 10.0.2.1 same"), "{:?}", listed(world));
        server.tell("-8090");
        assert!(answers("8090", "error 111"), "{:?}", listed(world));
        assert!(listed(world).iter().all(|it| it["auto"] == true));
        // A port that the host has is told, and had as soon as it is free.
        let taken = world.cmd("python3").args(["-c", SERVE, "host", "8092"]).keep_stdin().start();
        let mut taken = taken;
        taken.until("up");
        server.tell("+8092");
        let failure =
            || listed(world).iter().any(|it| it["failure"].is_string() && it["listen"] == "0.0.0.0:8092");
        assert!(wait_until(SOON, failure), "{:?}", listed(world));
        assert_eq!(ask(world, &["tcp", "127.0.0.1", "8092"]), "host 127.0.0.1 same");
        taken.close_stdin();
        taken.wait();
        assert!(answers("8092", "web 10.0.2.1 same"), "{:?}", listed(world));
        end(server).ok();
    });
}

#[test]
fn megabytes_and_many_clients_come_in_whole() {
    each_kind(|world, kind| {
        let server =
            serve(world, kind, "web", LINK, &["--publish", "8080:80", "--publish", "8080:80/udp"], &["80"]);
        let script = "
import socket, threading
sent = b'bulk' + bytes(range(256)) * 8192
s = socket.create_connection(('127.0.0.1', 8080)); s.settimeout(20)
threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
got = b''
while d := s.recv(65536): got += d
assert got.startswith(sent) and b'web' in got[len(sent):], (len(got), len(sent))
many = [socket.create_connection(('127.0.0.1', 8080)) for n in range(200)]
for s in many: s.settimeout(20); s.send(b'x')
for s in many: assert s.recv(99).startswith(b'web')
many = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for n in range(200)]
for n, s in enumerate(many): s.settimeout(20); s.connect(('127.0.0.1', 8080)); s.send(b'x %d' % n)
for n, s in enumerate(many): assert s.recv(99).endswith(b' %d' % n)
print('well')
";
        world.cmd("python3").args(["-c", script]).run().ok().says("well");
        end(server).ok();
    });
}

#[test]
fn what_cannot_be_published_is_refused_in_clear_words() {
    each_user(|world| {
        let refused = |link: &str, publish: &[&str]| {
            let publish = publish.iter().flat_map(|ports| ["--publish", ports]);
            let run = world.run(["--name", "web", "--link", link]).args(publish);
            run.args(["--", "true"]).run().code(125).stderr
        };
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let says = |stderr: String, words: &str| assert!(stderr.contains(words), "no {words:?} in {stderr}");
        says(refused("none", &["8080:80"]), "it is plugged into no switch");
        says(
            refused(LINK, &["8080:80"]),
            "switch lan has no gateway; start one with `viewnet gateway up --switch lan`",
        );
        world.viewnet(["gateway", "up", "--switch", "lan"]).run().ok();
        says(refused("switch:lan,ip=10.7.0.1/24", &["8080:80"]), "no address in the network of the gateway");
        says(refused(LINK, &["8080:80", "8080:81"]), "cannot publish port 8080/tcp: it is published for web");
        says(refused(LINK, &["192.0.2.7:8080:80"]), "the host has no address 192.0.2.7");
        says(refused("switch:lan,ip=10.0.2.9/24", &["[::1]:8080:80/udp"]), "no address of that family");
        let mut taken = world.cmd("python3").args(["-c", SERVE, "host", "8080"]).keep_stdin().start();
        taken.until("up");
        says(refused(LINK, &["8080:80"]), &format!("python3 (process {}) has it", taken.pid()));
        taken.close_stdin();
        taken.wait();
        if !nix::unistd::Uid::from_raw(world.uid()).is_root() {
            says(refused(LINK, &["80"]), "net.ipv4.ip_unprivileged_port_start=80");
        }
        let wrong = world.run(["--publish", "8080:x", "--", "true"]).run();
        says(wrong.code(2).stderr, "names no ports; write 8080:80");
        assert!(listed(&world).is_empty());
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}
