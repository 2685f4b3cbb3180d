//! WireGuard with Debian's wireguard-go as referee: it is the peer, in a network of its own beyond the World's host.

#[path = "vpn/compose.rs"]
mod compose;
#[path = "vpn/leaks.rs"]
mod leaks;
#[path = "vpn/peer.rs"]
mod peer;
#[path = "vpn/sizes.rs"]
mod sizes;
#[path = "vpn/wire.rs"]
mod wire;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use peer::Peer;
use serde_json::Value;
use tests::{Cmd, Outcome, SOON, User, World, wait_until};

/// With each user who can run viewnet, on either kind of stack.
fn each_kind(test: impl Fn(&World, &Peer, &str)) {
    each_kind_as(User::all(), test);
}

/// On each kind of stack, as each of these users.
fn each_kind_as(users: &[User], test: impl Fn(&World, &Peer, &str)) {
    for &user in users {
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
    u = socket.socket(kind(at), socket.SOCK_DGRAM); u.settimeout(30)
    # The last one is in fragments.
    for n in (0, 1, 1300, 4000):
        u.sendto(b'x' * n, (at, 7007)); assert u.recv(9999) == b'x' * n, n
# A server inside the tunnel: the peer calls back.
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('10.9.0.2', 7070)); l.listen()
s = socket.create_connection(('10.9.0.1', 7008), 9)
l.settimeout(30); c, who = l.accept()
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
                let seen = peer.capture(|| {
                    python(&world, kind, &[], script).run().ok().says("10.9.0.77 10.9.0.1");
                    // By TCP, too.
                    let file = world.home().join("office.conf").display().to_string();
                    let dig = ["--", "dig", "+tcp", "+short", "intranet.test"];
                    world.run(["--kind", kind, "--vpn", &file]).args(dig).run().ok().says("10.9.0.77");
                });
                leaks::only_the_tunnel(&seen);
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
