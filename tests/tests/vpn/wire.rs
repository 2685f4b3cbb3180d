//! Outside: addresses of both families, moves, names, keepalives, and what others send there.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::{SOON, User, World, wait_until};

use super::peer::Peer;
use super::{TALK, each_kind_as, json, python};

/// On each kind of stack. The tunnel is a process of its own, the same whoever runs it.
fn each_kind(test: impl Fn(&World, &Peer, &str)) {
    each_kind_as(&[User::Ordinary], test);
}

fn show(world: &World, name: &str) -> Value {
    json(world.viewnet(["vpn", "show", name, "--json"]).run())
}

fn ping(world: &World, name: &str, at: &str) {
    world.viewnet(["vpn", "run", name, "--", "ping", "-c", "1", "-W", "40", at]).run().ok();
}

#[test]
fn peers_may_be_on_ipv6_and_named_so() {
    for &user in User::all() {
        let ways = ["[2001:db8::2]:51820", "gate.test:51820", "[fe80::2%v0]:51820"];
        for (kind, endpoint) in ["kernel", "smol", "kernel"].into_iter().zip(ways) {
            let mut world = World::new(user);
            let hosts = world.write("hosts", "2001:db8::2 gate.test\n");
            world.bind_mount(&hosts, Path::new("/etc/hosts"));
            let Some(peer) = Peer::new(&world) else { return };
            peer.begin();
            let _servers = peer.servers();
            peer.file(&world, "office.conf", &[("192.0.2.2:51820", endpoint)]);
            let seen = peer.capture(|| drop(python(&world, kind, &[], TALK).run().ok().says("talked")));
            let outside =
                |line: &&String| !line.contains("2001:db8::2.51820") && !line.contains("fe80::2.51820");
            assert_eq!(seen.iter().filter(outside).collect::<Vec<_>>(), Vec::<&String>::new());
        }
    }
}

#[test]
fn one_tunnel_has_peers_of_both_families() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let (second, _second) = peer.second(world, "[2001:db8::2]:51830");
        let _servers = peer.servers_at(&["10.9.0.1", "fd09::1", "10.8.0.1", "fd08::1"]);
        let second = fs::read_to_string(second).unwrap();
        let (_, second) = second.split_once("[Peer]").unwrap();
        let second = second.replace("0.0.0.0/0, ::/0", "10.8.0.0/24, fd08::/64");
        // Our addresses are those of the one peer's network and of the other's.
        let changes = [
            ("10.9.0.2/24, fd09::2/64", "10.9.0.2/24, fd09::2/64, 10.8.0.2/24, fd08::2/64"),
            ("0.0.0.0/0, ::/0", "10.9.0.0/24, fd09::/64"),
            ("51820\n", &format!("51820\n[Peer]{second}")),
        ];
        peer.file(world, "office.conf", &changes);
        let script = "
import socket
for at in ('10.9.0.1', 'fd09::1', '10.8.0.1', 'fd08::1'):
    s = socket.create_connection((at, 7007), 9); s.sendall(b'x'); assert s.recv(1) == b'x'
    u = socket.socket(s.family, socket.SOCK_DGRAM); u.settimeout(30)
    u.sendto(b'y', (at, 7007)); assert u.recv(9) == b'y'
print('reached all')";
        python(world, kind, &[], script).run().ok().says("reached all");
    });
}

#[test]
fn both_ends_may_move_and_the_peer_may_begin_anew() {
    each_kind(|world, peer, kind| {
        peer.begin();
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        ping(world, "office", "10.9.0.1");
        // The host has another address.
        world.administer(&["ip", "addr", "add", "192.0.2.3/24", "dev", "v0"]);
        world.administer(&["ip", "addr", "del", "192.0.2.1/24", "dev", "v0"]);
        world.administer(&["ip", "addr", "replace", "192.0.2.3/24", "dev", "v0"]);
        ping(world, "office", "10.9.0.1");
        assert!(peer.endpoint().starts_with("192.0.2.3:"), "{}", peer.endpoint());
        // The peer has another port, which is known from what it sends, and then another family.
        peer.wg(&["listen-port", "51999"]);
        peer.ping();
        ping(world, "office", "10.9.0.1");
        assert_eq!(show(world, "office")["peers"][0]["endpoint"], "192.0.2.2:51999");
        let port = show(world, "office")["listen_port"].to_string();
        peer.wg(&["peer", &peer.public("ours"), "endpoint", &format!("[2001:db8::1]:{port}")]);
        peer.ping();
        ping(world, "office", "10.9.0.1");
        let shown = show(world, "office");
        assert_eq!(shown["peers"][0]["endpoint"], "[2001:db8::2]:51999");
        // The peer forgets all sessions, and begins a new one. Ours goes over to that.
        let before = shown["peers"][0]["received"].as_u64();
        peer.forget();
        peer.ping();
        ping(world, "office", "10.9.0.1");
        assert!(show(world, "office")["peers"][0]["received"].as_u64() > before);
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

#[test]
fn a_peer_is_answered_from_the_address_it_sends_to() {
    each_kind(|world, peer, kind| {
        peer.begin();
        for more in ["192.0.2.7/24", "2001:db8::7/64"] {
            let nodad = if more.contains(':') { &["nodad"][..] } else { &[] };
            world.administer(&[&["ip", "addr", "add", more, "dev", "v0"], nodad].concat());
        }
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        let port = show(world, "office")["listen_port"].to_string();
        for own in ["[2001:db8::7]", "192.0.2.7"] {
            let own = format!("{own}:{port}");
            peer.wg(&["peer", &peer.public("ours"), "endpoint", &own]);
            peer.ping();
            ping(world, "office", "10.9.0.1");
            assert_eq!(peer.endpoint(), own);
        }
        // Until the host has it no more.
        world.administer(&["ip", "addr", "del", "192.0.2.7/24", "dev", "v0"]);
        ping(world, "office", "10.9.0.1");
        assert_eq!(peer.endpoint(), format!("192.0.2.1:{port}"));
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

#[test]
fn a_name_is_asked_for_again_where_nobody_answers() {
    let mut world = World::new(User::Ordinary);
    // The first address leads nowhere. What is behind the name may change, too.
    let hosts = world.write("hosts", "2001:db8::99 gate.test\n192.0.2.2 gate.test\n192.0.2.99 moved.test\n");
    world.bind_mount(&hosts, Path::new("/etc/hosts"));
    let Some(peer) = Peer::new(&world) else { return };
    peer.begin();
    peer.file(&world, "moved.conf", &[("192.0.2.2", "moved.test")]);
    peer.file(&world, "office.conf", &[("192.0.2.2", "gate.test")]);
    world.viewnet(["vpn", "up", "office.conf"]).run().ok();
    assert_eq!(show(&world, "office")["peers"][0]["endpoint"], "[2001:db8::99]:51820");
    ping(&world, "office", "10.9.0.1");
    assert_eq!(show(&world, "office")["peers"][0]["endpoint"], "192.0.2.2:51820");
    world.viewnet(["vpn", "down", "office"]).run().ok();
    world.viewnet(["vpn", "up", "moved.conf"]).run().ok();
    assert_eq!(show(&world, "moved")["peers"][0]["endpoint"], "192.0.2.99:51820");
    fs::write(&hosts, "192.0.2.2 moved.test\n").unwrap();
    ping(&world, "moved", "10.9.0.1");
    world.viewnet(["vpn", "down", "moved"]).run().ok();
}

#[test]
fn a_keepalive_opens_the_way_and_keeps_it_open() {
    each_kind(|world, peer, kind| {
        peer.begin();
        peer.file(world, "office.conf", &[("Endpoint", "PersistentKeepalive = 1\nEndpoint")]);
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        // A handshake and five keepalives, without any program.
        let enough = || peer.transfer().0 >= 148 + 5 * 32;
        assert!(wait_until(SOON, enough), "{:?}", peer.transfer());
        peer.ping();
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

/// Sends the datagrams of a file once more, and with a bit changed, from another port: those for port 51820 to the peer,
/// others to us. Says how many those are, and what is answered.
const REPLAY: &str = r#"
import socket, struct, sys
data, ours = open(sys.argv[1], 'rb').read(), int(sys.argv[2])
assert data[:4] == b'\xd4\xc3\xb2\xa1'
at, kinds, count = 24, set(), 0
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('192.0.2.2', 0))
while at < len(data):
    length = struct.unpack_from('<I', data, at + 8)[0]; frame = data[at + 16:at + 16 + length]; at += 16 + length
    assert frame[12:14] == b'\x08\x00' and frame[14] == 0x45
    port = struct.unpack_from('>H', frame, 36)[0]; message = frame[42:]
    to = ('192.0.2.2', 51820) if port == 51820 else ('192.0.2.1', ours)
    kinds.add((port == 51820, message[0]))
    for place in (None, 4, 20, len(message) - 33, len(message) - 1):
        changed = bytearray(message)
        if place is not None: changed[max(place, 4)] ^= 1
        s.sendto(changed, to); count += port != 51820
s.settimeout(1)
try: print('answered', s.recvfrom(2048))
except TimeoutError: pass
print(sorted(kinds)); print(count)
"#;

#[test]
fn what_is_replayed_or_forged_is_refused_by_both() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let mut refused = 0;
        let mut replay = |file: &Path, kinds: &str| {
            let (at, shown) = (peer.endpoint(), show(world, "office"));
            assert_eq!(shown["dropped"]["not_authentic"], refused);
            let (file, port) = (file.display().to_string(), shown["listen_port"].to_string());
            let said = peer.run(&["python3", "-c", REPLAY, &file, &port]);
            let said: Vec<&str> = said.lines().collect();
            // Nothing of it is answered.
            assert_eq!(said[0], kinds);
            refused += said[1].parse::<u64>().unwrap();
            let counted = || show(world, "office")["dropped"]["not_authentic"] == refused;
            assert!(wait_until(SOON, counted), "{refused} of {}", show(world, "office"));
            // Nor is anybody thought to be elsewhere now.
            assert_eq!(show(world, "office")["peers"][0]["endpoint"], "192.0.2.2:51820");
            assert_eq!(peer.endpoint(), at);
        };
        // We begin a handshake, and then the peer does. The kinds are first messages, answers, data; of us and to us.
        let file = peer.datagrams(|| {
            world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
            ping(world, "office", "10.9.0.1");
        });
        replay(&file, "[(False, 2), (False, 4), (True, 1), (True, 4)]");
        peer.forget();
        let file = peer.datagrams(|| peer.ping());
        replay(&file, "[(False, 1), (False, 4), (True, 2), (True, 4)]");
        ping(world, "office", "10.9.0.1");
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

/// Begins handshakes as somebody does who knows our public key and no more, and from many ports.
const FLOOD: &str = r#"
import base64, hashlib, os, socket, sys, time
key = hashlib.blake2s(b'mac1----' + base64.b64decode(sys.argv[1])).digest()
def first():
    text = bytes([1, 0, 0, 0]) + os.urandom(112)
    return text + hashlib.blake2s(text, key=key, digest_size=16).digest() + bytes(16)
messages = [first() for _ in range(250)]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print('up', flush=True)
while True:
    # More than are answered without a cookie in a second, and no more than a busy machine gets done.
    for message in messages: s.sendto(message, ('192.0.2.1', int(sys.argv[2])))
    time.sleep(0.5)
"#;

#[test]
fn under_load_wireguard_go_is_asked_for_a_cookie_and_gets_through() {
    let world = World::new(User::Ordinary);
    let Some(peer) = Peer::new(&world) else { return };
    peer.begin();
    world.viewnet(["vpn", "up", "office.conf"]).run().ok();
    ping(&world, "office", "10.9.0.1");
    let port = show(&world, "office")["listen_port"].to_string();
    let _flood = peer.until_up(&["python3", "-c", FLOOD, &peer.public("ours"), &port]);
    // There may be no load at the moment of the first attempt, and too much for a busy machine at others.
    let through = (0..9).any(|_| {
        let mut reached = false;
        let seen = peer.capture(|| {
            peer.forget();
            reached = peer.reaches_us();
        });
        reached && seen.iter().any(|line| line.ends_with("> 192.0.2.2.51820: UDP, length 64"))
    });
    assert!(through, "no cookie was asked for, or none was enough");
    ping(&world, "office", "10.9.0.1");
    world.viewnet(["vpn", "down", "office"]).run().ok();
}

#[test]
fn the_kernels_wireguard_is_met_where_there_is_one() {
    each_kind(|world, peer, kind| {
        if !peer.begin_in_kernel() {
            eprintln!("skipped: this machine's kernel has no WireGuard");
            return;
        }
        let _servers = peer.servers();
        python(world, kind, &[], TALK).run().ok().says("talked");
    });
}
