//! What a program sees of the network beyond the gateway is what it sees natively from the gateway's host: ends and errors of
//! connections, fragments, path MTUs, hops.
//!
//! Beyond the World's host are a router and, over a link that is narrower than others, a server.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{Outcome, SOON, User, World, wait_until};

const FAR: &str = include_str!("../programs/far.py");
const NEAR: &str = include_str!("../programs/near.py");

/// What the view is told of its network.
const FIXED: &str = "switch:lan,ip=10.0.2.2/24,ip=fd00:10:0:2::2/64,gw=10.0.2.1,gw=fd00:10:0:2::1";

/// A network namespace, and the process that holds it.
struct Place(Child);

impl Place {
    fn new() -> Self {
        let mut holder = Command::new("unshare");
        let mut place = Self(holder.args(["-n", "sleep", "infinity"]).stdin(Stdio::null()).spawn().unwrap());
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let apart = || fs::read_link(format!("/proc/{}/ns/net", place.pid())).is_ok_and(|net| net != own);
        assert!(wait_until(SOON, apart), "no network namespace: {:?}", place.0.try_wait());
        place
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn run(&self, commands: &str) {
        for line in commands.lines().map(str::trim) {
            let mut command = Command::new("nsenter");
            command.args(["-t", &self.pid(), "-n"]).args(line.split(' '));
            let done = command.output().expect("nsenter");
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Router and server.
struct Beyond {
    _router: Place,
    /// Ends with its program.
    _server: Place,
    program: Child,
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// What leads from the host to the server, and what does not.
fn beyond(world: &World) -> Beyond {
    let (router, server) = (Place::new(), Place::new());
    let administer = |commands: &str| {
        commands.lines().for_each(|line| world.administer(&line.trim().split(' ').collect::<Vec<_>>()));
    };
    administer(&format!(
        "ip link add v0 type veth peer name v0 netns {}
         ip addr add 192.0.2.1/24 dev v0
         ip addr add 2001:db8:1::1/64 dev v0 nodad
         ip link set v0 up",
        router.pid()
    ));
    router.run(&format!(
        "ip link add v1 mtu 1400 type veth peer name v0 mtu 1400 netns {}
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
         ip addr add 192.0.2.2/24 dev v0
         ip addr add 2001:db8:1::2/64 dev v0 nodad
         ip addr add 198.51.100.1/24 dev v1
         ip addr add 2001:db8:2::1/64 dev v1 nodad
         ip link set v0 up
         ip link set v1 up
         nft add table inet t
         nft add chain inet t f {{ type filter hook forward priority 0; }}
         nft add rule inet t f ip daddr 203.0.113.1 reject with icmp type host-unreachable
         nft add rule inet t f ip daddr 203.0.113.9 reject with icmp type admin-prohibited
         nft add rule inet t f ip6 daddr 2001:db8:3::1 reject with icmpv6 type addr-unreachable
         nft add rule inet t f ip6 daddr 2001:db8:3::9 reject with icmpv6 type admin-prohibited
         ip route add 203.0.113.0/28 via 198.51.100.2
         ip route add 2001:db8:3::/64 via 2001:db8:2::2",
        server.pid()
    ));
    server.run(
        "ip addr add 198.51.100.2/24 dev v0
         ip addr add 198.51.100.3/24 dev v0
         ip addr add 2001:db8:2::2/64 dev v0 nodad
         ip addr add 2001:db8:2::3/64 dev v0 nodad
         sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
         ip link set v0 up
         ip route add default via 198.51.100.1
         ip route add default via 2001:db8:2::1",
    );
    administer("ip route add default via 192.0.2.2\nip route add default via 2001:db8:1::2");
    let mut program = Command::new("nsenter");
    program.args(["-t", &server.pid(), "-n", "python3", "-c", FAR]).stdin(Stdio::null());
    let mut program = program.stdout(Stdio::piped()).spawn().expect("nsenter");
    let mut up = String::new();
    let mut said = std::io::BufReader::new(program.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut said, &mut up).expect("the server");
    assert_eq!(up, "up\n");
    Beyond { _router: router, _server: server, program }
}

/// A router that lends its address.
const ROUTER: &str = "default forward drop
    forward: state established,related accept
    forward: in eth1 out eth0 accept
    postrouting: out eth0 from 10.7.0.0/24 snat to 10.0.2.2
    postrouting: out eth0 from fd07::/64 snat to fd00:10:0:2::2";

/// A program may take this long.
const LIMIT: Duration = Duration::from_secs(100);

/// A World with somebody beyond its host, and a network with a gateway.
fn each_user(test: impl Fn(&World)) {
    for &user in User::all() {
        eprintln!("as {user:?}");
        let world = World::new(user);
        if !world.has_own_host() {
            return eprintln!("not tested: the host's network is not the test's");
        }
        let _beyond = beyond(&world);
        world.viewnet(["switch", "up", "lan"]).run().ok();
        world.viewnet(["gateway", "up", "--switch", "lan"]).run().ok();
        test(&world);
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    }
}

/// What a program sees natively.
fn natively(world: &World) -> String {
    let native = world.cmd("python3").args(["-c", NEAR, "0"]).limit(LIMIT).run().ok().stdout;
    eprintln!("natively:\n{native}");
    native
}

#[test]
fn the_network_beyond_is_as_the_host_sees_it() {
    each_user(|world| {
        let native = natively(world);
        for kind in ["kernel", "smol"] {
            // The host knows the path's MTU already, and then it does not.
            for forget in [false, true] {
                eprintln!("on a {kind} stack, the host forgets: {forget}");
                if forget {
                    world.administer(&["ip", "route", "flush", "cache"]);
                    world.administer(&["ip", "-6", "route", "flush", "cache"]);
                }
                let view = world.run(["--kind", kind, "--link", FIXED, "--", "python3", "-c", NEAR, "1"]);
                same(&native, &view.limit(LIMIT).run().ok());
            }
        }
    });
}

#[test]
fn so_it_is_behind_a_router_that_lends_its_address() {
    each_user(|world| {
        // Connection tracking lets in whom the inside has spoken to, and nobody else.
        let native = natively(world).replace("b'from elsewhere'", "b'0:nothing'");
        let rules = world.write("router", ROUTER);
        world.viewnet(["switch", "up", "home"]).run().ok();
        for kind in ["kernel", "smol"] {
            eprintln!("on a {kind} stack");
            let home = "switch:home,ip=10.7.0.1/24,ip=fd07::1/64";
            let router =
                ["stack", "up", "router", "--kind", kind, "--forward", "--link", FIXED, "--link", home];
            world.viewnet(router).args(["--filter", rules.to_str().unwrap()]).run().ok();
            let link = "switch:home,ip=10.7.0.2/24,ip=fd07::2/64,gw=10.7.0.1,gw=fd07::1";
            let client = world.run(["--kind", "kernel", "--link", link, "--", "python3", "-c", NEAR, "2"]);
            same(&native, &client.limit(LIMIT).run().ok());
            world.viewnet(["stack", "down", "router"]).run().ok();
        }
        world.viewnet(["switch", "down", "home"]).run().ok();
    });
}

#[test]
fn what_comes_in_fits_ways_inside_that_are_narrow() {
    // Echoes of datagrams that were cut on their way out, by the sender or because they may be.
    const ASK: &str = "
import socket
for at in '198.51.100.2', '2001:db8:2::2':
    s = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)
    for length in 1380, 8192:
        for n in range(5):
            s.sendto(bytes(length), (at, 7007))
            try: d = s.recv(65536)
            except TimeoutError: continue
            print(len(d.split(b':', 1)[1])); break
        else: print('nothing')
";
    each_user(|world| {
        world.viewnet(["switch", "up", "home"]).run().ok();
        let home = "switch:home,ip=10.7.0.1/24,ip=fd07::1/64,mtu=1300";
        let rules = world.write("router", ROUTER);
        let router =
            ["stack", "up", "router", "--kind", "kernel", "--forward", "--link", FIXED, "--link", home];
        world.viewnet(router).args(["--filter", rules.to_str().unwrap()]).run().ok();
        let link = "switch:home,ip=10.7.0.2/24,ip=fd07::2/64,gw=10.7.0.1,gw=fd07::1,mtu=1300";
        let client = world.run(["--kind", "kernel", "--link", link, "--", "python3", "-c", ASK]);
        assert_eq!(client.limit(LIMIT).run().ok().stdout, "1380\n8192\n1380\n8192\n");
        world.viewnet(["stack", "down", "router"]).run().ok();
        world.viewnet(["switch", "down", "home"]).run().ok();
    });
}

fn same(native: &str, view: &Outcome) {
    let differ: Vec<_> = native
        .lines()
        .zip(view.stdout.lines())
        .filter(|(a, b)| a != b)
        .map(|(a, b)| format!("{a}\n  {b}"))
        .collect();
    assert!(
        differ.is_empty() && native.lines().count() == view.stdout.lines().count(),
        "{}\n{}",
        differ.join("\n"),
        view.stdout
    );
}
