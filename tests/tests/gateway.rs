//! The gateway: out of a view by sockets of the host. "The internet" is addresses of the World's own host network.

use std::time::Duration;

use serde_json::Value;
use tests::{Cmd, Outcome, Running, SOON, User, World, each_user, wait_until};

/// Somebody far away.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// What the view is told of its network.
const FIXED: &str = "switch:lan,ip=10.0.2.2/24,ip=fd00:10:0:2::2/64,gw=10.0.2.1,gw=fd00:10:0:2::1";

/// TCP and UDP echo at an address, port 7007: the UDP one says from which port it was asked, too. On TCP port 7008 it answers
/// once it has heard everything, and on port 7009 it has the first and the last word.
const ECHO: &str = r#"
import socket, sys, threading
def stream(s):
    while d := s.recv(65536): s.sendall(d)
    s.close()
def late(s):
    n = 0
    while d := s.recv(65536): n += len(d)
    s.sendall(b'%d' % n); s.close()
def bye(s):
    s.send(b'bye'); s.close()
def accept(l, serve):
    while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
for at in sys.argv[1:]:
    f = socket.AF_INET6 if ':' in at else socket.AF_INET
    for port, serve in ((7007, stream), (7008, late), (7009, bye)):
        l = socket.socket(f); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        l.bind((at, port)); l.listen(); threading.Thread(target=accept, args=(l, serve), daemon=True).start()
    def datagrams(f=f, at=at):
        u = socket.socket(f, socket.SOCK_DGRAM); u.bind((at, 7007))
        while True:
            d, who = u.recvfrom(65536); u.sendto(b'%d:' % who[1] + d, who)
    threading.Thread(target=datagrams, daemon=True).start()
print('up', flush=True); sys.stdin.read()
"#;

/// With either kind of stack in the view, and a switch and a gateway that run.
fn each_kind(options: &[&str], test: impl Fn(&World, &str)) {
    for kind in ["kernel", "smol"] {
        eprintln!("on a {kind} stack");
        each_user(|world| {
            world.viewnet(["switch", "up", "lan"]).run().ok();
            world.viewnet(["gateway", "up", "--switch", "lan"]).args(options).run().ok();
            test(&world, kind);
            world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
            world.viewnet(["switch", "down", "lan"]).run().ok();
        });
    }
}

/// The far addresses are there, if the World can have them.
fn far_away(world: &World) -> bool {
    if world.has_own_host() {
        world.administer(&["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]);
        world.administer(&["ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
        world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
    }
    world.has_own_host()
}

fn echo(world: &World, at: &[&str]) -> Running {
    let mut server = world.cmd("python3").args(["-c", ECHO]).args(at).keep_stdin().start();
    server.until("up");
    server
}

fn inside(world: &World, kind: &str, link: &str, script: &str) -> Cmd {
    world.run(["--kind", kind, "--link", link, "--", "python3", "-c", script])
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.ok().stdout).unwrap()
}

const HELPERS: &str = "
import socket, sys
def kind(at): return socket.AF_INET6 if ':' in at else socket.AF_INET
def tcp(at, port):
    s = socket.socket(kind(at)); s.settimeout(30); s.connect((at, port)); return s
def udp(at):
    s = socket.socket(kind(at), socket.SOCK_DGRAM); s.settimeout(30); return s
def fails(do, *args):
    try: do(*args)
    except OSError as e: return e.errno
";

#[test]
fn streams_go_out_whole_and_end_as_they_should() {
    each_kind(&[], |world, kind| {
        if !far_away(world) {
            return;
        }
        let _server = echo(world, &FAR);
        let script = format!(
            "{HELPERS}
import errno, struct, threading, time
for at in {FAR:?}:
    s = tcp(at, 7007)
    sent = bytes(range(256)) * 8192
    threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
    got = b''
    while d := s.recv(65536): got += d
    assert got == sent, (len(got), len(sent))
    # Half-closed, it still hears.
    s = tcp(at, 7008); s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR)
    assert s.recv(100) == b'100000' and s.recv(100) == b''
    # Nobody listens there: the far end's word, at once.
    assert fails(tcp, at, 9) == errno.ECONNREFUSED
    # Where the far end went first, the port is free again at once.
    for n in range(3):
        s = socket.socket(kind(at)); s.settimeout(30); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('', 40000)); s.connect((at, 7009)); assert s.recv(9) == b'bye' and s.recv(9) == b''; s.close(); time.sleep(0.2)
    # A reset is a reset.
    s = tcp(at, 7007); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()
print('well')
"
        );
        inside(world, kind, FIXED, &script).run().ok().says("well");
    });
}

#[test]
fn datagrams_have_one_port_for_everybody_and_hear_errors() {
    each_kind(&[], |world, kind| {
        if !far_away(world) {
            return;
        }
        let _server = echo(world, &FAR);
        let script = format!(
            "{HELPERS}
import errno
for at in {FAR:?}:
    s = udp(at); ports = set()
    for n in (1, 1400, 20000):
        s.sendto(b'x' * n, (at, 7007)); d, who = s.recvfrom(65536)
        assert who[:2] == (at, 7007) and d.endswith(b':' + b'x' * n), (who, len(d)); ports.add(d.split(b':')[0])
    assert len(ports) == 1, ports
    s.connect((at, 9)); s.send(b'x'); assert fails(s.recvmsg, 1) == errno.ECONNREFUSED
print('well')
"
        );
        inside(world, kind, FIXED, &script).run().ok().says("well");
        for (at, ping) in FAR.iter().zip(["ping", "ping"]) {
            let args = ["--kind", kind, "--link", FIXED, "--", ping, "-c", "2", "-i", "0.2", "-W", "20", at];
            world.run(args).run().ok().says("2 received");
        }
    });
}

#[test]
fn the_network_says_addresses_and_names() {
    each_kind(&[], |world, kind| {
        let far = far_away(world);
        let link = "switch:lan,ip=auto";
        let mut web = world
            .run(["--kind", kind, "--name", "web", "--link", "switch:lan,ip=10.0.2.5/24", "--", "cat"])
            .keep_stdin()
            .start();
        assert!(wait_until(SOON, || {
            world.viewnet(["stack", "show", "web"]).run().stdout.contains("10.0.2.5")
        }));
        let dig = |args: &[&str]| {
            let args = ["dig", "+short", "+time=20", "+tries=1", "@10.0.2.1"].iter().chain(args);
            world.run(["--kind", kind, "--link", link, "--"]).args(args).run().ok()
        };
        dig(&["web.view"]).says("10.0.2.5");
        dig(&["-x", "10.0.2.5"]).says("web.view.");
        assert_eq!(dig(&["nobody.view"]).stdout, "");
        let shown = world.run(["--kind", kind, "--link", link, "--", "ip", "addr"]).run().ok();
        assert!(
            shown.stdout.contains("fd00:10:0:2:") && shown.stdout.contains("inet 10.0.2."),
            "{}",
            shown.stdout
        );
        let figures = json(world.viewnet(["gateway", "show", "--switch", "lan", "--json"]).run());
        assert!(figures["leases"].as_u64().unwrap() >= 1, "{figures}");
        if far {
            let _server = echo(world, &FAR);
            let script = format!(
                "{HELPERS}\nfor at in {FAR:?}:\n s = tcp(at, 7007); s.send(b'hello'); assert s.recv(9) == b'hello'\nprint('well')"
            );
            inside(world, kind, link, &script).run().ok().says("well");
        }
        web.close_stdin();
        web.wait().ok();
    });
}

#[test]
fn a_view_that_nothing_is_said_of_is_on_the_default_network() {
    for kind in ["kernel", "smol"] {
        each_user(|world| {
            let far = far_away(&world);
            let run = |args: &[&str]| world.run(["--kind", kind]).args(args).run().ok();
            // Whether the host has a network or not.
            let shown = run(&["--", "ip", "-br", "addr"]).stdout;
            assert!(shown.contains("10.0.2.") && shown.contains("fd00:10:0:2:"), "{shown}");
            world.viewnet(["gateway", "ls"]).run().ok().says("switch:default");
            let alone = run(&["--link", "lo", "--", "ip", "-br", "addr"]).stdout;
            assert!(!alone.contains("eth0"), "{alone}");
            // What it started ends by itself, and is started anew.
            assert!(wait_until(SOON, || world.supervisors().is_empty()));
            // Several at once start one.
            let script =
                format!("for n in 1 2 3 4; do viewnet run --kind {kind} -- ip -br addr & done; wait");
            let shown = world.cmd("bash").args(["-euc", &script]).run().ok().stdout;
            assert_eq!(shown.matches("10.0.2.").count(), 4, "{shown}");
            if far {
                let _server = echo(&world, &FAR);
                let script = format!(
                    "{HELPERS}\nfor at in {FAR:?}:\n s = tcp(at, 7007); s.send(b'hello'); assert s.recv(9) == b'hello'\nprint('well')"
                );
                run(&["--", "python3", "-c", &script]).says("well");
            }
            // A view inside of one has what there is outside.
            let inner = run(&["--", "viewnet", "run", "--", "ip", "-br", "addr"]).stdout;
            assert!(inner.contains("10.0.2."), "{inner}");
            assert!(wait_until(SOON, || world.supervisors().is_empty()));
            let nobody = run(&["--link", "lo", "--", "viewnet", "run", "--", "ip", "-br", "addr"]);
            assert!(!nobody.stdout.contains("eth0") && nobody.stderr.is_empty(), "{nobody:?}");
            run(&["--link", "lo", "--", "viewnet", "run", "--verbose", "--", "true"]);
        });
    }
}

/// The host's nameserver: dnsmasq, on its loopback. It says what it was asked.
fn dnsmasq(world: &World, at: &str) -> Running {
    world.administer(&["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=53"]);
    let long: Vec<String> =
        (0..20).map(|n| format!("--txt-record=long.example,{}", n.to_string().repeat(100))).collect();
    let server = world
        .cmd("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
        ])
        .args(["--user=root", "--pid-file=", "--log-queries", "--log-facility=-", "--local=/example/"])
        .args([format!("--listen-address={at}"), "--host-record=far.example,192.0.2.1,2001:db8::1".into()])
        .args(long)
        .start();
    assert!(wait_until(SOON, || server.stderr().contains("cleared cache")), "{}", server.stderr());
    server
}

#[test]
fn nameservers_of_the_hosts_loopback_answer_in_the_view() {
    for (kind, at) in
        [("kernel", "127.0.0.53"), ("smol", "127.0.0.53"), ("kernel", "::1"), ("smol", "127.0.0.1")]
    {
        eprintln!("{kind}, {at}");
        each_user(|mut world| {
            if !far_away(&world) {
                return eprintln!("not tested: the host's network is not the test's");
            }
            let file = world.write("resolv.conf", &format!("nameserver {at}\n"));
            world.bind_mount(&file, std::path::Path::new("/etc/resolv.conf"));
            let host = dnsmasq(&world, at);
            let run = |args: &[&str]| world.run(["--kind", kind, "--name", "web", "--"]).args(args).run();
            // By libc, by UDP, by TCP because it is long, by TCP because it was asked for.
            run(&["getent", "hosts", "far.example"]).ok().says("2001:db8::1");
            run(&["dig", "+short", "far.example"]).ok().says("192.0.2.1");
            let long = run(&["dig", "+short", "+bufsize=512", "long.example", "TXT"]).ok().stdout;
            assert_eq!(long.lines().count(), 20, "{long}");
            run(&["dig", "+short", "+tcp", "far.example", "AAAA"]).ok().says("2001:db8::1");
            // Names of views, by both; nobody else hears of them.
            run(&["getent", "ahostsv4", "web.view"]).ok().says("10.0.2.");
            run(&["dig", "+short", "+tcp", "web.view"]).ok().says("10.0.2.");
            run(&["dig", "+short", "+tcp", "nobody.view"]).ok();
            assert!(!host.stderr().contains("view") && !host.stdout().contains("view"), "{}", host.stderr());
            // Many questions on one connection, of both kinds.
            run(&["dig", "+short", "+tcp", "+keepopen", "web.view", "far.example", "web.view"])
                .ok()
                .says("192.0.2.1");
            // As on the host, the address is in use; one that only looks alike is free.
            let bind = format!(
                "import socket\nfor at in ('{at}', '127.0.0.7'):\n s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_DGRAM)\n print(at, s.connect_ex((at, 1)), end=' ')\n s = socket.socket(s.family, socket.SOCK_DGRAM)\n try: s.bind((at, 53)); print('bound')\n except OSError as e: print(e.errno)"
            );
            run(&["python3", "-c", &bind]).ok().says("98").says("127.0.0.7 0 bound");
            host.kill(nix::sys::signal::Signal::SIGTERM);
            host.wait();
        });
    }
}

/// TCP, UDP and ping with the echo server at an address.
const REACH: &str = "
for at in sys.argv[1:]:
    s = tcp(at, 7007); s.send(b'hello'); assert s.recv(9) == b'hello'
    u = udp(at); u.sendto(b'x' * 1400, (at, 7007)); d, who = u.recvfrom(2000)
    assert who[:2] == (at, 7007) and d.endswith(b'x' * 1400), who
    u.connect((at, 9)); u.send(b'x'); assert fails(u.recvmsg, 1) == 111
    assert fails(tcp, at, 9) == 111
    import subprocess
    assert subprocess.run(['ping', '-c', '1', '-W', '5', at], stdout=2).returncode == 0
print('well')
";

#[test]
fn ipv6_views_reach_an_ipv4_host_by_address_and_by_name() {
    for kind in ["kernel", "smol"] {
        each_user(|mut world| {
            if !far_away(&world) {
                return eprintln!("not tested: the host's network is not the test's");
            }
            world.administer(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
            world.administer(&["ip", "route", "add", "198.51.100.0/24", "dev", "lo"]);
            let file = world.write("resolv.conf", "nameserver 127.0.0.1\n");
            world.bind_mount(&file, std::path::Path::new("/etc/resolv.conf"));
            let nameserver = dnsmasq(&world, "127.0.0.1");
            world.viewnet(["switch", "up", "lan"]).run().ok();
            let ip = ["--ip", "fd00:10:0:2::1/64"];
            world.viewnet(["gateway", "up", "--switch", "lan"]).args(ip).run().ok();
            let _server = echo(&world, &FAR[..1]);
            let run = |args: &[&str]| {
                let view = world.run(["--kind", kind, "--link", "switch:lan,ip=auto", "--"]).args(args);
                view.limit(Duration::from_secs(30)).run().ok()
            };
            let script = format!("{HELPERS}{REACH}");
            run(&["python3", "-c", &script, "64:ff9b::c000:201"]).says("well");
            // The view's own nameserver is the host's address, and asks in IPv6.
            run(&["getent", "ahostsv6", "far.example"]).says("64:ff9b::c000:201");
            run(&["dig", "+short", "+tcp", "far.example", "AAAA"]).says("64:ff9b::c000:201");
            run(&["dig", "+short", "far.example", "A"]).says("192.0.2.1");
            run(&["dig", "+short", "nobody.example", "AAAA"]);
            world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
            world.viewnet(["gateway", "up", "--switch", "lan", "--dns64", "never"]).args(ip).run().ok();
            run(&["dig", "+short", "far.example", "AAAA"]).says("2001:db8::1");
            nameserver.kill(nix::sys::signal::Signal::SIGTERM);
            nameserver.wait();
            world.viewnet(["switch", "down", "lan"]).run().ok();
        });
    }
}

#[test]
fn ipv4_views_reach_ipv4_through_an_ipv6_host() {
    each_kind(&[], |world, kind| {
        if !world.has_own_host() {
            return eprintln!("not tested: the host's network is not the test's");
        }
        // In place of a translator in the host's network, the translated address itself.
        world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
        world.administer(&["ip", "addr", "add", "64:ff9b::c000:201/128", "dev", "lo", "nodad"]);
        world.administer(&["ip", "route", "add", "64:ff9b::/96", "dev", "lo"]);
        let _server = echo(world, &["64:ff9b::c000:201"]);
        let script = format!("{HELPERS}{REACH}");
        let args =
            ["--kind", kind, "--link", "switch:lan,ip=dhcp", "--", "python3", "-c", &script, "192.0.2.1"];
        world.run(args).limit(Duration::from_secs(30)).run().ok().says("well");
    });
}

#[test]
fn the_hosts_loopback_is_reachable_only_if_asked_for() {
    each_kind(&[], |world, kind| {
        let _server = echo(world, &["127.0.0.1"]);
        let script = format!("{HELPERS}\nprint(fails(tcp, '10.0.2.1', 7007), fails(tcp, '127.0.0.1', 7007))");
        inside(world, kind, FIXED, &script).run().ok().says("111 111");
        world.viewnet(["gateway", "set", "--switch", "lan", "--host-loopback"]).run().ok();
        let script = format!(
            "{HELPERS}\ns = tcp('10.0.2.1', 7007); s.send(b'hello'); print(s.recv(9))\n\
             s = udp(''); s.sendto(b'x', ('10.0.2.1', 7007)); print(s.recvfrom(99)[1])"
        );
        inside(world, kind, FIXED, &script).run().ok().says("b'hello'\n('10.0.2.1', 7007)");
    });
}

#[test]
fn rules_say_who_goes_where_and_can_be_changed() {
    each_kind(&["--isolate", "--allow", "192.0.2.1:7007"], |world, kind| {
        if !far_away(world) {
            return;
        }
        let _server = echo(world, &FAR);
        let script =
            format!("{HELPERS}\nprint(fails(tcp, '192.0.2.1', 7007), fails(tcp, '192.0.2.1', 7008))");
        inside(world, kind, FIXED, &script).run().ok().says("None 113");
        world.viewnet(["gateway", "set", "--switch", "lan", "--deny", ":7007"]).run().ok();
        inside(world, kind, FIXED, &script).run().ok().says("113 None");
        let shown = json(world.viewnet(["gateway", "show", "--switch", "lan", "--json"]).run());
        assert_eq!(shown["rules"]["deny"][0], ":7007", "{shown}");
        // By prefix, and by prefix and port; datagrams and pings, too.
        let deny = ["--deny", "192.0.2.0/24", "--deny", "[2001:db8::/32]:7000-7010"];
        world.viewnet(["gateway", "set", "--switch", "lan"]).args(deny).run().ok();
        let script = format!(
            "{HELPERS}
import subprocess
def send(at, port): u = udp(at); u.connect((at, port)); u.send(b'x'); u.recvmsg(9)
for at in {FAR:?}:
    print(fails(tcp, at, 7007), fails(send, at, 7007), fails(send, at, 9), subprocess.call(['ping', '-c', '1', '-W', '5', at], stdout=-3))"
        );
        inside(world, kind, FIXED, &script).run().ok().says("113 113 113 1\n13 13 111 0\n");
        assert!(shown["prohibited"].as_u64().unwrap() >= 2, "{shown}");
    });
}

#[test]
fn leases_are_kept_and_renewed_and_another_network_is_moved_to() {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let up = |options: &[&str]| {
            world.viewnet(["gateway", "up", "--switch", "lan", "--lease", "8"]).args(options).run().ok();
        };
        let kinds = ["kernel1", "smol1"];
        up(&["--static", "kernel1=10.0.2.7", "--static", "02:00:00:00:00:09=10.0.2.9"]);
        for kind in kinds {
            let link =
                format!("switch:lan,ip=dhcp{}", if kind == "smol1" { ",mac=02:00:00:00:00:09" } else { "" });
            world
                .viewnet(["stack", "up", kind, "--kind", kind.trim_end_matches('1'), "--link", &link])
                .run()
                .ok();
        }
        let interface = |kind: &str| {
            let shown = json(world.viewnet(["stack", "show", kind, "--json"]).run());
            let all = shown["interfaces"].as_array().unwrap();
            all.iter().find(|it| it["name"] == "eth0").unwrap().clone()
        };
        let has = |kind: &str, start: &str| interface(kind)["addresses"].to_string().contains(start);
        assert!(has("kernel1", "10.0.2.7/24") && has("smol1", "10.0.2.9/24"));
        // Longer than the lease.
        std::thread::sleep(Duration::from_secs(10));
        for kind in kinds {
            let it = interface(kind);
            assert!(
                has(kind, "10.0.2.") && it["lease_s"].as_u64().is_some_and(|left| left <= 8),
                "{kind}: {it}"
            );
        }
        world.viewnet(["stack", "show", "smol1"]).run().ok().says("and renewed");
        // Nobody gives them any more, and then somebody else does.
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        for kind in kinds {
            let lost = || !has(kind, "10.0.2.") && interface(kind)["lease_s"].is_null();
            assert!(wait_until(SOON, lost), "{kind}: {}", interface(kind));
        }
        up(&["--ip", "10.9.0.1/24"]);
        for kind in kinds {
            let moved = || has(kind, "10.9.0.");
            assert!(wait_until(Duration::from_secs(75), moved), "{kind}: {}", interface(kind));
            let route = world.run(["--stack", kind, "--", "ip", "-4", "route"]).run().ok();
            route.says("default via 10.9.0.1 dev eth0");
            world.viewnet(["stack", "down", kind]).run().ok();
        }
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

/// Connections at once, and what the gateway may take for them, in kilobytes.
const MANY: usize = 10_000;
const ROOM_KB: usize = 100 << 10;

#[test]
fn ten_thousand_connections_fit_into_a_hundred_megabytes() {
    const SERVE: &str = "
import select, socket
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('192.0.2.1', 7010)); l.listen(4096)
p = select.epoll(); p.register(l, 1); all = {}; print('up', flush=True)
while True:
    for fd, _ in p.poll():
        if fd == l.fileno(): s = l.accept()[0]; all[s.fileno()] = s; p.register(s, 1)
        elif d := all[fd].recv(65536): all[fd].send(d)
        else: p.unregister(fd); all.pop(fd).close()
";
    let world = World::new(User::Ordinary);
    if !far_away(&world) {
        return eprintln!("not tested: the host's network is not the test's");
    }
    let most = |script: &str| {
        format!("import resource; resource.setrlimit(7, (resource.getrlimit(7)[1],) * 2)\n{script}")
    };
    let mut server = world.cmd("python3").args(["-c", &most(SERVE)]).limit(Duration::from_secs(300)).start();
    server.until("up");
    let script = most(&format!(
        "{HELPERS}\nall = [tcp('192.0.2.1', 7010) for n in range({MANY})]\n\
         for round in range(2):\n for s in all: s.send(b'x' * 1000)\n for s in all: assert len(s.recv(2000, socket.MSG_WAITALL | 0) or b'') > 0\n\
         print('well', flush=True); sys.stdin.read()"
    ));
    let mut view =
        world.run(["--", "python3", "-c", &script]).keep_stdin().limit(Duration::from_secs(300)).start();
    // A loaded machine takes its time.
    assert!(wait_until(Duration::from_secs(240), || view.stdout().contains("well")), "{}", view.stderr());
    let shown = json(world.viewnet(["gateway", "show", "--json"]).run());
    assert_eq!(shown["streams"], MANY, "{shown}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shown["pid"])).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    eprintln!("{MANY} connections: {resident} kB");
    assert!(resident < ROOM_KB, "{resident} kB");
    view.close_stdin();
    view.wait().ok();
    server.kill_group();
    server.wait();
}

#[test]
fn a_gateway_is_listed_and_goes_with_its_switch() {
    each_user(|world| {
        world.viewnet(["gateway", "up", "--switch", "lan"]).run().code(1);
        world.viewnet(["switch", "up", "lan"]).run().ok();
        world.viewnet(["gateway", "up", "--switch", "lan", "--ip", "10.9.0.1/24"]).run().ok();
        let again = world.viewnet(["gateway", "up", "--switch", "lan"]).run().code(1);
        assert!(again.stderr.starts_with("viewnet: cannot start the gateway: "), "{}", again.stderr);
        world.viewnet(["gateway", "ls"]).run().ok().says("switch:lan");
        world.viewnet(["gateway", "show", "--switch", "lan"]).run().ok().says("10.9.0.1/24");
        world.viewnet(["switch", "down", "lan"]).run().ok();
        assert!(wait_until(SOON, || {
            !world.viewnet(["gateway", "ls"]).run().ok().stdout.contains("switch:lan")
        }));
        let gone = world.viewnet(["gateway", "show", "--switch", "lan"]).run().code(1);
        assert!(gone.stderr.contains("gateway up"), "{}", gone.stderr);
    });
}

/// The processes of the switch `lan` and of its gateway.
fn processes(world: &World) -> [i64; 2] {
    [["switch", "show", "lan"], ["gateway", "show", "--switch=lan"]].map(|show| {
        let shown = json(world.viewnet(show).args(["--json"]).run());
        shown["pid"].as_i64().unwrap()
    })
}

#[test]
fn a_gateway_lives_with_its_switch_and_alone_if_that_has_no_room() {
    each_user(|world| {
        let asks = |script: &str| inside(&world, "kernel", "switch:lan,ip=auto", script).run().ok();
        let speaks = format!("{HELPERS}\nprint('gateway', fails(tcp, '10.0.2.1', 9))");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        for _ in 0..2 {
            world.viewnet(["gateway", "up", "--switch", "lan"]).run().ok();
            let [switch, gateway] = processes(&world);
            assert_eq!(switch, gateway);
            asks(&speaks).says("gateway 111");
            world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
            let ports = world.viewnet(["switch", "port", "ls", "lan"]).run().ok();
            assert!(!ports.stdout.contains("gateway"), "{}", ports.stdout);
        }
        world.viewnet(["gateway", "up", "--switch", "lan"]).run().ok();
        let [switch, _] = processes(&world);
        let killed = nix::unistd::Pid::from_raw(switch as i32);
        nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).unwrap();
        let files =
            || ["switches/lan", "gateways/lan"].map(|name| world.runtime().join("viewnet").join(name));
        assert!(
            wait_until(Duration::from_secs(5), || files().iter().all(|file| !file.exists())),
            "{:?}",
            files()
        );
        let alone = |up: &[&str]| {
            world.viewnet(["gateway", "up", "--switch", "lan"]).args(up).run().ok();
            let [switch, gateway] = processes(&world);
            assert_ne!(switch, gateway);
            asks(&speaks).says("gateway 111");
        };
        // Its connections would take the descriptors that the ports need.
        world.cmd("sh").args(["-c", "ulimit -n 1000; exec viewnet switch up lan"]).run().ok();
        alone(&[]);
        world.viewnet(["switch", "down", "lan"]).run().ok();
        assert!(
            wait_until(Duration::from_secs(5), || files().iter().all(|file| !file.exists())),
            "{:?}",
            files()
        );
        world.viewnet(["switch", "up", "lan"]).run().ok();
        alone(&["--apart"]);
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}
