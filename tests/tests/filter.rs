//! The packet filter: the same rules on stacks of both kinds, with nftables in a plain namespace for a referee.

use std::time::Duration;

use serde_json::Value;
use tests::{Outcome, each_user};

/// What happens at some ports of the stack itself, printed. TCP listens on 80 to 83, UDP answers on 53.
const PROBE: &str = r#"
import errno, os, socket, struct, sys, threading
def name(e): return errno.errorcode.get(e.errno, 'timeout') if e.errno else 'timeout'
LO = {4: '127.0.0.1', 6: '::1'}
F = {4: socket.AF_INET, 6: socket.AF_INET6}
kept = []
for v in LO:
    for port in (80, 81, 82, 83):
        l = socket.socket(F[v]); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        l.bind((LO[v], port)); l.listen(); kept.append(l)
        def serve(l=l, port=port):
            while True:
                s, who = l.accept()
                try: s.sendall(b'%d from %s' % (port, who[0].encode())); s.close()
                except OSError: pass
        threading.Thread(target=serve, daemon=True).start()
    u = socket.socket(F[v], socket.SOCK_DGRAM); u.bind((LO[v], 53))
    def answer(u=u):
        while True:
            d, who = u.recvfrom(70000); u.sendto(b'%d from %s' % (len(d), who[0].encode()), who)
    threading.Thread(target=answer, daemon=True).start()
def tcp(v, port, at=None):
    s = socket.socket(F[v]); s.settimeout(3)
    try:
        s.connect((at or LO[v], port)); return s.recv(100).decode()
    except OSError as e: return name(e)
def udp(v, port, data=b'x', at=None):
    s = socket.socket(F[v], socket.SOCK_DGRAM); s.settimeout(3)
    try:
        s.sendto(data, (at or LO[v], port)); return s.recv(100).decode()
    except OSError as e: return name(e)
def ping(v):
    p = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}[v]
    s = socket.socket(F[v], socket.SOCK_DGRAM, p); s.settimeout(3)
    try:
        s.sendto(struct.pack('!BBHHH', {4: 8, 6: 128}[v], 0, 0, 0, 1) + b'hello', (LO[v], 0))
        return 'pong' if s.recv(100) else 'nothing'
    except OSError as e: return name(e)
"#;

/// Rules in our language, the same for nft(8), and what is looked at.
struct Case {
    rules: &'static str,
    nft: &'static str,
    look: &'static str,
}

const CASES: &[Case] = &[
    Case {
        rules: "input: proto tcp dport 80 accept\ninput: proto tcp dport 81 drop\ninput: proto tcp dport 82-83 reject\n\
                output: proto udp dport 9 drop\noutput: proto udp dport 10 reject",
        nft: "chain i { type filter hook input priority 0;
                tcp dport 80 accept
                tcp dport 81 drop
                tcp dport 82-83 reject with tcp reset
              }
              chain o { type filter hook output priority -150;
                udp dport 9 drop
                udp dport 10 reject
              }",
        look: "[tcp(v, p) for v in LO for p in (80, 81, 82, 83)], [udp(v, p) for v in LO for p in (9, 10, 11, 53)]",
    },
    Case {
        rules: "default input drop\ninput: state established,related accept\ninput: ipv4 proto tcp dport 80 state new accept\n\
                input: proto icmp type echo-request accept",
        nft: "chain i { type filter hook input priority 0; policy drop;
                ct state established,related accept
                meta nfproto ipv4 tcp dport 80 ct state new accept
                icmp type echo-request accept
              }",
        look: "[tcp(v, p) for v in LO for p in (80, 81)], [udp(v, 53) for v in LO], [ping(v) for v in LO]",
    },
    Case {
        rules: "output: proto tcp dport 80,82-83 reject\noutput: to not 127.0.0.0/8,10.0.0.0/8 proto udp drop\n\
                output: proto icmpv6 type 128 reject",
        nft: "chain o { type filter hook output priority -150;
                meta l4proto tcp tcp dport { 80, 82-83 } reject with tcp reset
                ip daddr != { 127.0.0.0/8, 10.0.0.0/8 } meta l4proto udp drop
                icmpv6 type 128 reject
              }",
        look: "[tcp(v, p) for v in LO for p in (80, 81, 82)], udp(4, 53), udp(4, 53, at='192.0.2.1'), [ping(v) for v in LO]",
    },
    Case {
        // Receivers and senders of this stack's own connections.
        rules: "output: to 127.0.0.9 proto tcp dport 8080 dnat to 127.0.0.1:80\noutput: to 127.0.0.9 proto udp dnat to 127.0.0.1\n\
                postrouting: to 127.0.0.1 proto tcp dport 81 snat to 127.0.0.77\n\
                postrouting: proto udp dport 53 snat to 127.0.0.78:5000-5003",
        nft: "chain o { type nat hook output priority -100;
                ip daddr 127.0.0.9 tcp dport 8080 dnat ip to 127.0.0.1:80
                ip daddr 127.0.0.9 meta l4proto udp dnat ip to 127.0.0.1
              }
              chain p { type nat hook postrouting priority 100;
                ip daddr 127.0.0.1 tcp dport 81 snat ip to 127.0.0.77
                meta nfproto ipv4 udp dport 53 snat ip to 127.0.0.78:5000-5003
              }",
        look: "tcp(4, 8080, '127.0.0.9'), tcp(4, 8081, '127.0.0.9'), udp(4, 53, at='127.0.0.9'), tcp(4, 81), tcp(4, 82), \
               [udp(4, 53) for n in range(3)], udp(4, 54, at='127.0.0.9'), tcp(6, 81), udp(6, 53)",
    },
    Case {
        // A super-datagram, and who comes in by the loopback.
        rules: "input: in lo proto udp dport 53 accept\ninput: in not lo drop\noutput: out lo proto tcp dport 80 drop\n\
                prerouting: proto tcp dport 82 reject",
        nft: "chain i { type filter hook input priority 0;
                iifname lo udp dport 53 accept
                iifname != lo drop
              }
              chain o { type filter hook output priority -150;
                oifname lo tcp dport 80 drop
              }
              chain p { type filter hook prerouting priority -150;
                tcp dport 82 reject with tcp reset
              }",
        look: "[udp(v, 53, bytes(60000)) for v in LO], [tcp(v, p) for v in LO for p in (80, 81, 82)]",
    },
];

fn has_nft() -> bool {
    let there = ["/usr/sbin/nft", "/sbin/nft"].iter().any(|path| std::path::Path::new(path).exists());
    if !there {
        eprintln!("the referee, nft(8), is not installed: `cargo xtask test` installs it; not compared");
    }
    there
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.ok().stdout).unwrap()
}

#[test]
fn rules_do_what_nftables_do() {
    each_user(|world| {
        for case in CASES {
            let script = format!("{PROBE}\nprint({})", case.look);
            let rules = world.write("rules", case.rules);
            // All at once: most of the time is spent waiting for what does not come.
            let mut running = Vec::new();
            if has_nft() {
                let table = format!("table inet referee {{\n{}\n}}\n", case.nft);
                let nft = world.write("referee.nft", &table);
                let make = "ip link set lo up; sysctl -qw net.ipv4.ping_group_range='0 0'; PATH=$PATH:/usr/sbin nft -f \"$1\" && exec python3 -c \"$2\"";
                let native = world
                    .cmd("unshare")
                    .args(["-Urn", "sh", "-c", make, "sh"])
                    .args([nft.to_str().unwrap(), &script]);
                running.push(("nft", native.limit(Duration::from_secs(60)).start()));
            }
            for kind in ["kernel", "smol"] {
                // A sender hears what its datagram met only if the call is answered, not written.
                let view =
                    world.run(["--no-shim", "--kind", kind, "--link", "none", "--filter"]).args([&rules]);
                let view = view.args(["--", "python3", "-c", &script]).limit(Duration::from_secs(60));
                running.push((kind, view.start()));
            }
            let ended = running.into_iter().map(|(kind, view)| (kind, view.wait().ok().stdout));
            let outcomes: Vec<(&str, String)> = ended.collect();
            eprintln!("{}{}", case.rules, outcomes[0].1);
            for (kind, outcome) in &outcomes[1..] {
                assert_eq!(outcome, &outcomes[0].1, "{kind}, not as {}, with\n{}", outcomes[0].0, case.rules);
            }
        }
    });
}

#[test]
fn rules_are_counted_logged_and_changed_while_they_are_at_work() {
    each_user(|world| {
        for kind in ["kernel", "smol"] {
            eprintln!("on a {kind} stack");
            world.viewnet(["stack", "up", "s", "--kind", kind, "--link", "none"]).run().ok();
            let send = |count: usize, port: u16| {
                let script = format!(
                    "import socket\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nr = socket.socket(socket.AF_INET, \
                     socket.SOCK_DGRAM); r.bind(('127.0.0.1', {port})); r.settimeout(2); n = 0\n\
                     for i in range({count}):\n  try: u.sendto(b'x' * 72, ('127.0.0.1', {port}))\n  except PermissionError: pass\n\
                     try:\n  while True: r.recv(100); n += 1\nexcept OSError: print(n)"
                );
                let view = world.run(["--stack", "s", "--", "python3", "-c", &script]);
                view.run().ok().stdout.trim().parse::<usize>().unwrap()
            };
            let rules = || json(world.viewnet(["filter", "ls", "s", "--json"]).run());
            let counts = |listing: &Value, at: usize| {
                (
                    listing["rules"][at]["packets"].as_u64().unwrap(),
                    listing["rules"][at]["bytes"].as_u64().unwrap(),
                )
            };
            let add = |rule: &str| world.viewnet(["filter", "add", "s", rule]).run();
            assert_eq!(rules()["rules"].as_array().unwrap().len(), 0);
            assert_eq!(send(3, 9), 3);
            add("input: udp dport 9 log \"nine\" count").ok();
            add("output: udp dport 9 limit 1/h burst 4 accept").ok();
            add("output: udp dport 9 drop").ok();
            // Of ten the limit lets four through.
            assert_eq!(send(10, 9), 4);
            let listing = rules();
            assert_eq!(listing["rules"][0]["rule"], "input: proto udp dport 9 log \"nine\" count");
            assert_eq!(
                [counts(&listing, 0), counts(&listing, 1), counts(&listing, 2)],
                [(4, 400), (4, 400), (6, 600)]
            );
            let log = world.viewnet(["filter", "log", "s"]).run().ok().stdout;
            assert_eq!(log.lines().count(), 4, "{log}");
            assert!(
                log.starts_with("1 nine input in lo udp 127.0.0.1:")
                    && log.contains(" > 127.0.0.1:9 len 100\n"),
                "{log}"
            );
            // A mistake changes nothing; what goes takes its number with it and leaves the others'.
            let wrong = add("input: dprt 9 drop");
            assert!(
                wrong.stderr.contains("column 8") && wrong.stderr.contains("did you mean `dport`"),
                "{}",
                wrong.stderr
            );
            let number = |at: usize| listing["rules"][at]["handle"].to_string();
            world.viewnet(["filter", "rm", "s", &number(1), &number(2)]).run().ok();
            let wrong = world.viewnet(["filter", "rm", "s", &number(1)]).run();
            assert!(wrong.stderr.contains("there is none of that number"), "{}", wrong.stderr);
            let listing = rules();
            assert_eq!((listing["rules"].as_array().unwrap().len(), counts(&listing, 0)), (1, (4, 400)));
            assert_eq!(send(7, 9), 7);
            assert_eq!(counts(&rules(), 0), (11, 1100));
            add("default input drop").ok();
            assert_eq!(send(2, 9), 0);
            let shown = world.viewnet(["filter", "ls", "s"]).run().ok().stdout;
            assert!(shown.contains("default input drop"), "{shown}");
            world.viewnet(["filter", "flush", "s"]).run().ok();
            assert_eq!(send(2, 9), 2);
            world.viewnet(["stack", "down", "s"]).run().ok();
        }
    });
}

/// A client on one side of a router, a server on the other, both on kernel stacks.
const SERVER: &str = r#"
import socket, threading
def serve(l, v):
    while True:
        s, who = l.accept()
        s.sendall(who[0].encode()); n = 0
        while d := s.recv(65536): n += len(d)
        s.sendall(b' %d' % n); s.close()
for v, at in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    l = socket.socket(v); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if v == socket.AF_INET6: l.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    l.bind((at, 80)); l.listen(); threading.Thread(target=serve, args=(l, v), daemon=True).start()
    u = socket.socket(v, socket.SOCK_DGRAM)
    if v == socket.AF_INET6: u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    u.bind((at, 53))
    def answer(u=u):
        while True:
            d, who = u.recvfrom(70000); u.sendto(b'%d from %s' % (len(d), who[0].encode()), who)
    threading.Thread(target=answer, daemon=True).start()
print('up', flush=True)
import sys; sys.stdin.read()
"#;

const CLIENT: &str = r#"
import errno, socket
def kind(at): return socket.AF_INET6 if ':' in at else socket.AF_INET
def tcp(at, port):
    s = socket.socket(kind(at)); s.settimeout(4)
    try:
        s.connect((at, port)); s.settimeout(10); s.sendall(b'x' * 3000000); s.shutdown(socket.SHUT_WR); got = b''
        while d := s.recv(100): got += d
        return got.decode()
    except OSError as e: return errno.errorcode.get(e.errno, 'timeout') if e.errno else 'timeout'
def udp(at, port, n):
    s = socket.socket(kind(at), socket.SOCK_DGRAM); s.settimeout(4)
    try:
        s.connect((at, port)); s.send(bytes(n)); return s.recv(100).decode()
    except OSError as e: return errno.errorcode.get(e.errno, 'timeout') if e.errno else 'timeout'
print([tcp(at, 80) for at in ('10.2.0.2', 'fd02::2')], [udp(at, 53, n) for at in ('10.2.0.2', 'fd02::2') for n in (5, 9000)],
      tcp('10.1.0.1', 8080), udp('fd01::1', 5353, 5), tcp('10.2.0.2', 81), udp('10.2.0.2', 54, 5))
"#;

#[test]
fn a_router_lends_its_address_and_stands_for_servers() {
    each_user(|world| {
        let mut outcomes = Vec::new();
        for kind in ["kernel", "smol"] {
            eprintln!("on a {kind} stack");
            for switch in ["a", "b"] {
                world.viewnet(["switch", "up", switch]).run().ok();
            }
            let rules = "default forward drop
                forward: state established,related accept
                forward: in eth0 out eth1 proto tcp,udp dport 80,53 accept
                forward: proto udp dport 54 reject
                prerouting: in eth0 to 10.1.0.1 proto tcp dport 8080 dnat to 10.2.0.2:80
                prerouting: in eth0 to fd01::1 proto udp dport 5353 dnat to [fd02::2]:53
                postrouting: out eth1 from 10.1.0.0/16 snat to 10.2.0.1
                postrouting: out eth1 from fd01::/64 snat to fd02::1";
            let rules = world.write("router", rules);
            let router = [
                "stack",
                "up",
                "r",
                "--kind",
                kind,
                "--forward",
                "--link",
                "switch:a,ip=10.1.0.1/16,ip=fd01::1/64",
            ];
            let router =
                world.viewnet(router).args(["--link", "switch:b,ip=10.2.0.1/16,ip=fd02::1/64", "--filter"]);
            router.args([&rules]).run().ok();
            // Without a route back: who is not translated is not answered.
            let server = [
                "--kind",
                "kernel",
                "--link",
                "switch:b,ip=10.2.0.2/16,ip=fd02::2/64",
                "--",
                "python3",
                "-c",
                SERVER,
            ];
            let mut server = world.run(server).keep_stdin().start();
            server.until("up");
            let link = "switch:a,ip=10.1.0.2/16,ip=fd01::2/64,gw=10.1.0.1,gw=fd01::1";
            let client = world.run(["--kind", "kernel", "--link", link, "--", "python3", "-c", CLIENT]);
            outcomes.push(client.limit(Duration::from_secs(60)).run().ok().stdout);
            drop(server);
            let shown = world.viewnet(["filter", "ls", "r"]).run().ok().stdout;
            eprintln!("{}{shown}", outcomes[outcomes.len() - 1]);
            world.viewnet(["stack", "down", "r"]).run().ok();
            for switch in ["a", "b"] {
                world.viewnet(["switch", "down", switch]).run().ok();
            }
        }
        let expected = "['10.2.0.1 3000000', 'fd02::1 3000000'] ['5 from 10.2.0.1', '9000 from 10.2.0.1', '5 from fd02::1', \
                        '9000 from fd02::1'] 10.2.0.1 3000000 5 from fd02::1 timeout ECONNREFUSED\n";
        assert_eq!(outcomes, [expected, expected]);
    });
}

#[test]
fn a_gateway_filters_what_goes_out() {
    each_user(|world| {
        if !world.has_own_host() {
            return;
        }
        world.administer(&["ip", "addr", "add", "192.0.2.1/32", "dev", "lo"]);
        let serve = "import socket,sys\nfor p in (8080, 8081): \n  l = socket.socket(); l.bind(('192.0.2.1', p)); l.listen(); globals()[p] = l\nprint('up', flush=True); sys.stdin.read()";
        let mut server = world.cmd("python3").args(["-c", serve]).keep_stdin().start();
        server.until("up");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let up = ["gateway", "up", "--switch", "lan", "--filter", "input: proto tcp dport 8081 reject"];
        world.viewnet(up).run().ok();
        let script = "import socket, errno
def tcp(port):
    s = socket.socket(); s.settimeout(4)
    try: s.connect(('192.0.2.1', port)); return 'ok'
    except OSError as e: return errno.errorcode.get(e.errno, 'timeout') if e.errno else 'timeout'
print(tcp(8080), tcp(8081))";
        let ask = || {
            let link = "switch:lan,ip=10.0.2.2/24,gw=10.0.2.1";
            world.run(["--kind", "smol", "--link", link, "--", "python3", "-c", script]).run().ok().stdout
        };
        assert_eq!(ask(), "ok ECONNREFUSED\n");
        let listing = json(world.viewnet(["filter", "ls", "gateway:lan", "--json"]).run());
        assert_eq!(listing["rules"][0]["packets"], 1);
        world.viewnet(["filter", "add", "gateway:lan", "prerouting: proto tcp dport 8080 drop"]).run().ok();
        world.viewnet(["filter", "rm", "gateway:lan", "1"]).run().ok();
        assert_eq!(ask(), "timeout ok\n");
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
        drop(server);
    });
}
