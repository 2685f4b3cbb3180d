//! WireGuard with Debian's wireguard-go as referee: it is the peer, in a network of its own beyond the World's host.

#[path = "vpn/peer.rs"]
mod peer;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use peer::{ENDPOINT, Peer};
use serde_json::Value;
use tests::{Cmd, Outcome, SOON, User, World, wait_until};

/// With each user who can run viewnet, on either kind of stack.
fn each_kind(test: impl Fn(&World, &Peer, &str)) {
    for &user in User::all() {
        for kind in ["kernel", "smol"] {
            eprintln!("as {user:?} on a {kind} stack");
            let world = World::new(user);
            let Some(peer) = Peer::new(&world) else { return };
            test(&world, &peer, kind);
        }
    }
}

fn python(world: &World, kind: &str, more: &[&str], script: &str) -> Cmd {
    let file = world.home().join("office.conf").display().to_string();
    world
        .run(["--kind", kind, "--vpn", &file])
        .args(more)
        .args(["--", "python3", "-c", script])
        .limit(Duration::from_secs(40))
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.ok().stdout).unwrap()
}

/// Talks to the peer's servers in every way, and is a server itself.
const TALK: &str = r#"
import hashlib, os, socket, subprocess, threading
def kind(at): return socket.AF_INET6 if ':' in at else socket.AF_INET
for at in ('10.9.0.1', 'fd09::1'):
    subprocess.run(['ping', '-c', '1', '-W', '9', at], check=True, stdout=subprocess.DEVNULL)
    s = socket.create_connection((at, 7007), 9)
    mss = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert mss <= 1420 - (60 if ':' in at else 40), mss
    sent = os.urandom(4 << 20)
    threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(socket.SHUT_WR))).start()
    got = bytearray()
    while d := s.recv(1 << 20): got += d
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest(), (len(got), len(sent))
    u = socket.socket(kind(at), socket.SOCK_DGRAM); u.settimeout(9)
    # The last one is in fragments.
    for n in (0, 1, 1300, 4000):
        u.sendto(b'x' * n, (at, 7007)); assert u.recv(9999) == b'x' * n, n
# A server inside the tunnel: the peer calls back.
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('10.9.0.2', 7070)); l.listen()
s = socket.create_connection(('10.9.0.1', 7008), 9)
l.settimeout(9); c, who = l.accept()
assert c.recv(9) == b'called' and who[0] == '10.9.0.1', who
print('talked')
"#;

#[test]
fn programs_reach_the_peer_and_the_peer_reaches_them() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers();
        python(world, kind, &[], TALK).run().ok().says("talked");
        // The tunnel goes with its view.
        assert!(
            wait_until(SOON, || json(world.viewnet(["vpn", "ls", "--json"]).run()) == serde_json::json!([]))
        );
    });
}

#[test]
fn names_are_asked_for_in_the_tunnel_whoever_the_machine_asks() {
    for nameserver in ["127.0.0.53", "192.0.2.53"] {
        for &user in User::all() {
            for kind in ["kernel", "smol"] {
                let mut world = World::new(user);
                let resolv = world.write("resolv.conf", &format!("nameserver {nameserver}\n"));
                world.bind_mount(&resolv, std::path::Path::new("/etc/resolv.conf"));
                let Some(peer) = Peer::new(&world) else { return };
                peer.begin();
                let _names = peer.nameserver();
                let script = "import socket; print(socket.gethostbyname('intranet.test'), \
                              socket.getaddrinfo('big.test', 1)[0][4][0])";
                python(&world, kind, &[], script).run().ok().says("10.9.0.77 10.9.0.1");
                // By TCP, too.
                let file = world.home().join("office.conf").display().to_string();
                let dig = ["--", "dig", "+tcp", "+short", "intranet.test"];
                world.run(["--kind", kind, "--vpn", &file]).args(dig).run().ok().says("10.9.0.77");
            }
        }
    }
}

/// Tries whatever could leave; prints what it heard.
const ESCAPE: &str = r#"
import ctypes, os, socket, subprocess, sys, threading
attempts = []
def attempt(what, do):
    def run():
        try: print(what, 'ANSWERED', do())
        except (OSError, subprocess.SubprocessError) as e: print(what, e)
    attempts.append(threading.Thread(target=run)); attempts[-1].start()
def tcp(at):
    s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET); s.settimeout(1); s.connect((at, 7007))
def udp(at, port=7007):
    s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.3)
    s.sendto(b'leak', (at, port)); return s.recv(99)
def unix(path):
    s = socket.socket(socket.AF_UNIX); s.connect(path); return path
def everything():
    for at in ('192.0.2.2', '198.51.100.7', '2001:db8::2', '2001:db8:7::7'):
        attempt('tcp ' + at, lambda at=at: tcp(at)); attempt('udp ' + at, lambda at=at: udp(at))
        attempt('dns ' + at, lambda at=at: udp(at, 53))
        attempt('ping ' + at, lambda at=at: subprocess.run(['ping', '-c', '1', '-W', '1', at], check=True, stdout=-3, stderr=-3))
    attempt('name', lambda: socket.getaddrinfo('leak.example.com', 1))
    for path in ('/run/nscd/socket', '/run/systemd/resolve/io.systemd.Resolve', '/run/dbus/system_bus_socket'):
        attempt(path, lambda path=path: unix(path))
    ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))
    print('io_uring', 'ANSWERED' if ring >= 0 and 'inside' in sys.argv else 'refused')
    for one in attempts: one.join()
    attempts.clear()
everything()
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: everything()
    os._exit(0)
os.close(w); os.wait(); os.read(r, 1)
print('tried')
"#;

#[test]
fn nothing_leaves_beside_the_tunnel() {
    for &user in User::all() {
        for kind in ["kernel", "smol"] {
            eprintln!("as {user:?} on a {kind} stack");
            let mut world = World::new(user);
            let resolv = world.write("resolv.conf", "nameserver 192.0.2.2\noptions timeout:1 attempts:1\n");
            world.bind_mount(&resolv, std::path::Path::new("/etc/resolv.conf"));
            let Some(peer) = Peer::new(&world) else { return };
            // That a leak would be seen: without a view everything leaves.
            let seen = peer.capture(|| {
                world
                    .cmd("python3")
                    .args(["-c", ESCAPE])
                    .limit(Duration::from_secs(60))
                    .run()
                    .ok()
                    .says("tried");
            });
            for what in
                ["192.0.2.2.7007", "198.51.100.7.7007", "192.0.2.2.53", "198.51.100.7: ICMP echo request"]
            {
                assert!(seen.iter().any(|line| line.contains(what)), "no {what} in {seen:#?}");
            }
            // Nobody answers the handshake.
            let seen = peer.capture(|| {
                let heard = python(&world, kind, &[], ESCAPE)
                    .args(["inside"])
                    .limit(Duration::from_secs(90))
                    .run()
                    .ok();
                assert!(!heard.stdout.contains("ANSWERED"), "{}", heard.stdout);
            });
            let only_handshakes = |seen: &[String]| {
                assert!(seen.iter().any(|line| line.contains(ENDPOINT)), "no handshake");
                let beside: Vec<_> = seen.iter().filter(|line| !line.contains(ENDPOINT)).collect();
                assert!(beside.is_empty(), "beside the tunnel: {beside:#?}");
            };
            only_handshakes(&seen);
            // The tunnel is killed, and then the view's supervisor, under a program that goes on.
            for victim in ["vpn", "view"] {
                let seen = peer.capture(|| {
                    let script = format!("print('up', flush=True)\ninput()\n{ESCAPE}");
                    let mut program = python(&world, kind, &["--name", "victim"], &script)
                        .keep_stdin()
                        .limit(Duration::from_secs(90))
                        .start();
                    program.until("up");
                    let killed = world.supervisors().into_iter().filter(|pid| {
                        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                        match victim {
                            "vpn" => title.starts_with("viewnet-vpn"),
                            _ => !title.starts_with("viewnet-vpn") && !title.starts_with("viewnet-eye"),
                        }
                    });
                    let killed: Vec<_> = killed.collect();
                    assert!(!killed.is_empty());
                    killed.iter().for_each(|pid| nix::sys::signal::kill(*pid, Signal::SIGKILL).unwrap());
                    program.tell("");
                    let heard = program.wait();
                    assert!(!heard.stdout.contains("ANSWERED"), "{}", heard.stdout);
                });
                let beside: Vec<_> = seen.iter().filter(|line| !line.contains(ENDPOINT)).collect();
                assert!(beside.is_empty(), "beside the tunnel: {beside:#?}");
            }
        }
    }
}

#[test]
fn a_kept_tunnel_is_shared_shown_and_ended() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers();
        let file = world.home().join("office.conf");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(world.home(), Permissions::from_mode(0o755)).unwrap();
        let up = world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        assert!(up.stderr.contains("is world accessible"), "{}", up.stderr);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        for _ in 0..2 {
            world
                .viewnet(["vpn", "run", "office", "--", "python3", "-c", TALK])
                .limit(Duration::from_secs(40))
                .run()
                .ok();
        }
        let shown = json(world.viewnet(["vpn", "show", "office", "--json"]).run());
        assert_eq!((&shown["plugged"], &shown["mtu"]), (&"office.wg0".into(), &1420.into()));
        let known = &shown["peers"][0];
        assert!(
            known["handshake_s"].as_u64().is_some() && known["received"].as_u64() > Some(8 << 20),
            "{shown}"
        );
        let text = world.viewnet(["vpn", "show"]).run().ok().stdout;
        for line in [
            "interface: office",
            "private key: (hidden)",
            "latest handshake:",
            "allowed ips: 0.0.0.0/0, ::/0",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        // The peer's figures are ours, the other way round, but for what it had no room for.
        let (received, sent) = peer.transfer();
        assert!(received > 8 << 20 && received <= known["sent"].as_u64().unwrap(), "{received} {shown}");
        assert!(sent >= known["received"].as_u64().unwrap(), "{sent} {shown}");
        assert!(world.viewnet(["vpn", "ls"]).run().ok().stdout.contains("office.wg0"));
        // No key where others could see one.
        let secret = peer.secret();
        for pid in world.supervisors() {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment);
            assert!(!line.contains(&secret) && !environment.contains(&secret));
        }
        // One key, one tunnel.
        let again = world.run(["--vpn", "office.conf", "--", "true"]).limit(Duration::from_secs(20)).run();
        assert!(again.stderr.contains("viewnet vpn ls"), "{}", again.stderr);
        world.viewnet(["vpn", "down", "office"]).run().ok();
        assert_eq!(json(world.viewnet(["vpn", "ls", "--json"]).run()), serde_json::json!([]));
        let gone = world.viewnet(["vpn", "show", "office"]).run();
        assert!(gone.stderr.contains("viewnet vpn ls"), "{}", gone.stderr);
    });
}

#[test]
fn both_ends_may_move_and_the_peer_may_begin_anew() {
    each_kind(|world, peer, kind| {
        peer.begin();
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        let ping = |from: &str| {
            let args = ["vpn", "run", "office", "--", "ping", "-c", "1", "-W", "9", "10.9.0.1"];
            world.viewnet(args).run().code(0);
            eprintln!("reached {from}");
        };
        ping("at first");
        // The host has another address.
        world.administer(&["ip", "addr", "add", "192.0.2.3/24", "dev", "v0"]);
        world.administer(&["ip", "addr", "del", "192.0.2.1/24", "dev", "v0"]);
        world.administer(&["ip", "addr", "replace", "192.0.2.3/24", "dev", "v0"]);
        ping("from a new address");
        // The peer has another port, which is known from what it sends.
        peer.wg(&["listen-port", "51999"]);
        peer.ping();
        ping("at its new port");
        let shown = json(world.viewnet(["vpn", "show", "office", "--json"]).run());
        assert_eq!(shown["peers"][0]["endpoint"], "192.0.2.2:51999");
        // The peer forgets all sessions, and begins a new one. Ours goes over to that.
        let before = shown["peers"][0]["received"].as_u64();
        peer.forget();
        peer.ping();
        ping("after a new handshake");
        let shown = json(world.viewnet(["vpn", "show", "office", "--json"]).run());
        assert!(shown["peers"][0]["received"].as_u64() > before);
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

#[test]
fn a_rule_takes_some_destinations_through_a_tunnel() {
    for &user in User::all() {
        let world = World::new(user);
        let Some(peer) = Peer::new(&world) else { return };
        peer.begin();
        let _servers = peer.servers();
        world.viewnet(["vpn", "up", "office.conf"]).run().ok();
        let script = "
import socket
s = socket.create_connection(('10.9.0.1', 7007), 9); print('office sees', s.getsockname()[0])
s = socket.create_connection(('192.0.2.2', 7007), 9); print('others see', s.getsockname()[0])";
        let rule = ["--stack", "host", "--rule", "to 10.9.0.0/24 via office", "--", "python3", "-c", script];
        world.run(rule).run().ok().says("office sees 10.9.0.2\nothers see 192.0.2.1");
        world.viewnet(["vpn", "down", "office"]).run().ok();
    }
}

#[test]
fn a_file_that_asks_for_commands_is_refused_by_its_line() {
    let world = World::new(User::Ordinary);
    let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    let text = format!("[Interface]\nPrivateKey = {key}\nPostUp = touch /tmp/x\n");
    world.write("hook.conf", &text);
    let refused = world.run(["--vpn", "hook.conf", "--", "true"]).run();
    assert!(refused.stderr.contains("line 3: commands are not run"), "{}", refused.stderr);
    assert!(!refused.stderr.contains(key));
    let missing = world.run(["--link", "wg:none.conf", "--", "true"]).run();
    assert!(missing.stderr.contains("none.conf: No such file"), "{}", missing.stderr);
}

#[test]
fn a_tunnel_goes_through_another_one() {
    for &user in User::all() {
        let world = World::new(user);
        let Some(peer) = Peer::new(&world) else { return };
        peer.begin();
        let (inner, _inner) = peer.within(&world);
        let over = |name: &str| {
            let ping = ["ping", "-c", "1", "-W", "9", "10.8.0.1"];
            world
                .viewnet(["vpn", "run", name, "--", "viewnet", "run", "--vpn", &inner, "--"])
                .args(ping)
                .run()
        };
        world.viewnet(["vpn", "up", "office.conf"]).run().ok();
        let seen = peer.capture(|| drop(over("office").ok()));
        assert!(seen.iter().all(|line| line.contains(ENDPOINT)), "beside the outer tunnel: {seen:#?}");
        world.viewnet(["vpn", "down", "office", "--force"]).run().ok();
        world.viewnet(["vpn", "up", "office.conf", "--kind", "smol"]).run().ok();
        let refused = over("office").stderr;
        assert!(refused.contains("a stack of kind kernel"), "{refused}");
        world.viewnet(["vpn", "down", "office", "--force"]).run().ok();
    }
}

#[test]
fn a_stack_between_a_tunnel_and_a_switch_is_a_router() {
    each_kind(|world, peer, kind| {
        peer.begin();
        peer.route("10.0.3.0/24");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let links = ["--forward", "--link", "switch:lan,ip=10.0.3.1/24"];
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).args(links).run().ok();
        let view = ["--kind", kind, "--link", "switch:lan,ip=10.0.3.2/24,gw=10.0.3.1"];
        world.run(view).args(["--", "ping", "-c", "1", "-W", "9", "10.9.0.1"]).run().ok();
        world.viewnet(["vpn", "down", "office"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn without_an_ipv6_address_there_is_no_ipv6() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let file = world.home().join("office.conf");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(", fd09::2/64", "")).unwrap();
        let script = "
import errno, socket
for at in ('fd09::1', '2001:db8::1'):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try: s.connect((at, 7)); print('connected')
    except OSError as e: print(errno.errorcode[e.errno])";
        let heard = python(world, kind, &[], script).run().ok().stdout;
        assert_eq!(heard, "ENETUNREACH\nENETUNREACH\n");
    });
}
