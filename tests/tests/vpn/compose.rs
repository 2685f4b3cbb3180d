//! Tunnels with other things: rules, msocket, switches, topologies, other tunnels.

use std::fs;

use tests::binaries::libmsocket;
use tests::{Outcome, User, World};

use super::peer::{ENDPOINT, Peer};
use super::{TALK, each_kind};

#[test]
fn a_rule_takes_some_destinations_through_a_tunnel() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers_at(&["10.9.0.1", "192.0.2.2"]);
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        let script = "
import socket
for at, who in (('10.9.0.1', 'office sees'), ('192.0.2.2', 'others see')):
    s = socket.create_connection((at, 7007), 9); s.sendall(b'x'); assert s.recv(1) == b'x'
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30); u.connect((at, 7007))
    u.send(b'y'); assert u.recv(9) == b'y'
    print(who, s.getsockname()[0], u.getsockname()[0])";
        let rule = ["--stack", "host", "--rule", "to 10.9.0.0/24 via office", "--", "python3", "-c", script];
        let seen = peer.capture(|| {
            let said = world.run(rule).run().ok().stdout;
            assert_eq!(said, "office sees 10.9.0.2 10.9.0.2\nothers see 192.0.2.1 192.0.2.1\n");
        });
        let direct = seen.iter().filter(|line| line.contains("192.0.2.1") && line.contains("192.0.2.2.7007"));
        let hidden = seen.iter().filter(|line| line.contains(ENDPOINT));
        assert!(direct.clone().count() > 0 && hidden.clone().count() > 0);
        assert_eq!(direct.count() + hidden.count(), seen.len(), "{seen:#?}");
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

/// One program with a socket in each of two tunnels.
const BOTH: &str = r#"
import ctypes, socket
lib = ctypes.CDLL('libmsocket.so', use_errno=True)
open_ones = []
for stack, at in (('office', '10.9.0.1'), ('second', '10.8.0.1')):
    fd = lib.msocket(stack.encode(), socket.AF_INET, socket.SOCK_STREAM, 0)
    assert fd >= 0, ctypes.get_errno()
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd); s.settimeout(30); s.connect((at, 7007))
    open_ones.append(s)
    fd = lib.msocket(stack.encode(), socket.AF_INET, socket.SOCK_DGRAM, 0)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 0, fd); u.settimeout(30)
    u.sendto(b'y', (at, 7007)); assert u.recv(9) == b'y'
for s in open_ones:
    s.sendall(b'x' * 100_000); got = 0
    while got < 100_000: got += len(s.recv(100_000))
    print(s.getpeername()[0], 'sees', s.getsockname()[0])
"#;

#[test]
fn two_tunnels_are_in_one_program() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let (_, _second) = peer.second(world, "192.0.2.2:51830");
        let _servers = peer.servers_at(&["10.9.0.1", "10.8.0.1"]);
        world.install(&libmsocket().join("libmsocket.so"), "libmsocket.so");
        for name in ["office", "second"] {
            world.viewnet(["vpn", "up", &format!("{name}.conf"), "--kind", kind]).run().ok();
        }
        let both = |cmd: tests::Cmd| {
            let cmd = cmd.args(["python3", "-c", BOTH]).env("LD_LIBRARY_PATH", world.folder().join("bin"));
            let said = cmd.run().ok().stdout;
            assert_eq!(said, "10.9.0.1 sees 10.9.0.2\n10.8.0.1 sees 10.8.0.2\n");
        };
        both(world.run(["--link", "lo", "--"]));
        both(world.viewnet(["vpn", "run", "office", "--"]));
        // Sockets of a kernel stack need nobody's help.
        if kind == "kernel" {
            both(world.cmd("env"));
        }
        for name in ["office", "second"] {
            world.viewnet(["vpn", "down", name]).run().ok();
        }
    });
}

/// What a view behind a router says with the peer: as [`TALK`], but with its own address, and over IPv4.
fn talk_as(address: &str) -> String {
    TALK.replace("('10.9.0.1', 'fd09::1')", "('10.9.0.1',)").replace("10.9.0.2", address)
}

#[test]
fn a_stack_between_a_tunnel_and_a_switch_is_a_router() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers();
        peer.route("10.0.3.0/24");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let links = ["--forward", "--link", "switch:lan,ip=10.0.3.1/24"];
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).args(links).run().ok();
        let view = ["--kind", kind, "--link", "switch:lan,ip=10.0.3.2/24,gw=10.0.3.1", "--", "python3", "-c"];
        let talk = talk_as("10.0.3.2");
        let seen = peer.capture(|| drop(world.run(view).args([&talk]).run().ok().says("talked")));
        assert!(seen.iter().all(|line| line.contains(ENDPOINT)), "beside the tunnel: {seen:#?}");
        world.viewnet(["vpn", "down", "office"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn a_topology_has_a_tunnel_and_a_stack_that_goes_through_it() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers();
        peer.route("10.0.3.0/24");
        let topology = format!(
            r#"
[switch.lan]

[stack.router]
kind = "{kind}"
forward = true
[[stack.router.interface]]
name = "wg0"
link = "wg:office.conf"
[[stack.router.interface]]
name = "eth0"
link = "switch:lan"
ip = ["10.0.3.1/24"]

[stack.web]
kind = "{kind}"
[[stack.web.interface]]
name = "eth0"
link = "switch:lan"
ip = ["10.0.3.2/24"]
gw = ["10.0.3.1"]

[program.talk]
stack = "web"
command = ["python3", "talk.py"]
"#
        );
        world.write("lab.toml", &topology);
        world.write("talk.py", &talk_as("10.0.3.2"));
        world.viewnet(["up", "lab.toml", "--wait=talk"]).run().ok();
        world.viewnet(["logs", "talk"]).run().ok().says("talked");
        assert!(world.viewnet(["vpn", "ls"]).run().ok().stdout.contains("router.wg0"));
        // What is there is what the file says.
        let again = world.viewnet(["up", "lab.toml", "--dry-run"]).run().ok();
        assert!(!again.stdout.contains("stack"), "{}", again.stdout);
        world.viewnet(["down", "lab"]).run().ok();
        assert_eq!(world.viewnet(["vpn", "ls", "--json"]).run().ok().stdout.trim(), "[]");
    });
}

#[test]
fn a_tunnel_goes_through_another_one() {
    for &user in User::all() {
        let world = World::new(user);
        let Some(peer) = Peer::new(&world) else { return };
        peer.begin();
        let (inner, _inner) = peer.second(&world, "10.9.0.1:51830");
        let _servers = peer.servers_at(&["10.8.0.1", "fd08::1"]);
        let talk = TALK.replace("10.9.0.", "10.8.0.").replace("fd09::", "fd08::");
        let over = |name: &str| -> Outcome {
            let run = ["vpn", "run", name, "--", "viewnet", "run", "--kind", "kernel", "--vpn", &inner, "--"];
            world.viewnet(run).args(["python3", "-c", &talk]).run()
        };
        world.viewnet(["vpn", "up", "office.conf"]).run().ok();
        let seen = peer.capture(|| drop(over("office").ok().says("talked")));
        assert!(seen.iter().all(|line| line.contains(ENDPOINT)), "beside the outer tunnel: {seen:#?}");
        // No datagram of the inner one is longer than a packet of the outer one may be.
        let run = ["vpn", "run", "office", "--", "viewnet", "run", "--vpn", &inner, "--", "cat"];
        let mtu = world.viewnet(run).args(["/sys/class/net/wg0/mtu"]).run().ok();
        assert_eq!(mtu.stdout.trim(), "1340");
        world.viewnet(["vpn", "down", "office", "--force"]).run().ok();
        world.viewnet(["vpn", "up", "office.conf", "--kind", "smol"]).run().ok();
        let refused = over("office").stderr;
        assert!(refused.contains("a stack of kind kernel"), "{refused}");
        world.viewnet(["vpn", "down", "office", "--force"]).run().ok();
        fs::remove_file(inner).unwrap();
    }
}
