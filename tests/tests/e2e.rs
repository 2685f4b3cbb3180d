//! Real programs, unmodified, as an ordinary user, each in a view, joined by the user's default switch.
//!
//! A program that is missing is a failure, not a skip: `tests/PACKAGES` lists what they come from.

use std::path::PathBuf;
use std::time::Duration;

use tests::binaries::go_program;
use tests::{Outcome, Running, SOON, User, World, wait_until};

/// Which kinds of stack the programs are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinds {
    server: &'static str,
    client: &'static str,
    namespaces: bool,
}

impl Kinds {
    const fn of(server: &'static str, client: &'static str) -> Self {
        Self { server, client, namespaces: true }
    }
}

const KERNEL: Kinds = Kinds::of("kernel", "kernel");
const SMOL: Kinds = Kinds::of("smol", "smol");
/// On a machine that lets nobody make user namespaces.
const SMOL_HARDENED: Kinds = Kinds { namespaces: false, ..SMOL };
/// Both through the same switch.
const SMOL_SERVES: Kinds = Kinds::of("smol", "kernel");
const KERNEL_SERVES: Kinds = Kinds::of("kernel", "smol");

macro_rules! on_each_kind {
    ($($name:ident)*) => {
        mod kernel { $(#[test] fn $name() { super::$name(super::KERNEL); })* }
        mod smol { $(#[test] fn $name() { super::$name(super::SMOL); })* }
        mod smol_hardened { $(#[test] fn $name() { super::$name(super::SMOL_HARDENED); })* }
        mod smol_serves { $(#[test] fn $name() { super::$name(super::SMOL_SERVES); })* }
        mod kernel_serves { $(#[test] fn $name() { super::$name(super::KERNEL_SERVES); })* }
    };
}

on_each_kind! {
    two_nginx_on_port_80_reached_from_a_third_view python_http_server_and_curl redis_and_its_benchmark
    static_go_client_and_server busybox_static iperf3_tcp_udp_and_v6 node_and_bash_dev_tcp socat_and_nc
    names_from_a_server_in_a_view ping_traceroute_and_tcpdump captures ip_and_ss_show_and_change_the_view sshd_in_a_view
    a_daemon_started_in_a_view_serves_on urgent_data
}

/// Views on one switch.
struct Lan {
    world: World,
    kinds: Kinds,
}

/// Tries until it works; a server may not be up yet.
const RETRY: &str =
    "retry() { for i in $(seq 200); do \"$@\" 2>/tmp/null.$$ && return 0; sleep 0.1; done; \"$@\"; }\n";

impl Lan {
    fn new(kinds: Kinds) -> Self {
        let mut world = World::new(User::Ordinary);
        if !kinds.namespaces {
            world.forbid_user_namespaces();
            let refused = world.alone(["--kind", "kernel", "--", "true"]).run().code(125);
            assert!(refused.stderr.contains("max_user_namespaces"), "{}", refused.stderr);
        }
        Self { world, kinds }
    }

    fn ips(host: u8) -> [String; 4] {
        ["--ip".into(), format!("10.0.0.{host}/24"), "--ip".into(), format!("fd00::{host}/64")]
    }

    /// A server at 10.0.0.HOST and fd00::HOST.
    fn serve(&self, host: u8, script: &str) -> Running {
        self.world
            .run(["--kind", self.kinds.server])
            .args(Self::ips(host))
            .args(["--", "bash", "-euc", script])
            .limit(Duration::from_secs(120))
            .start()
    }

    /// A client there, to its end.
    fn client(&self, host: u8, script: &str) -> Outcome {
        let script = RETRY.replace("/tmp/null.$$", "/dev/null") + script;
        let run = self.world.run(["--kind", self.kinds.client]).args(Self::ips(host));
        run.args(["--", "bash", "-euc", &script]).run().ok()
    }
}

fn end(server: Running) {
    server.kill_group();
    server.wait();
}

fn nginx(lan: &Lan, name: &str) -> String {
    let home = lan.world.home();
    let config = format!(
        "daemon off; user root; worker_processes 2; pid {home}/{name}.pid; error_log stderr; events {{}} http {{ access_log off; \
         client_body_temp_path {home}/{name}.1; proxy_temp_path {home}/{name}.2; fastcgi_temp_path {home}/{name}.3; \
         uwsgi_temp_path {home}/{name}.4; scgi_temp_path {home}/{name}.5; sendfile on; \
         server {{ listen 80 reuseport; listen [::]:80; root {home}; location = / {{ return 200 'this is {name}\\n'; }} }} }}",
        home = home.display()
    );
    let path = lan.world.write(&format!("{name}.conf"), &config);
    format!("exec nginx -e stderr -c {}", path.display())
}

fn two_nginx_on_port_80_reached_from_a_third_view(kinds: Kinds) {
    for &user in User::all() {
        let lan = Lan { world: World::new(user), kinds };
        lan.world.write("big", &"0123456789abcdef".repeat(1 << 20));
        let one = lan.serve(1, &nginx(&lan, "one"));
        let two = lan.serve(2, &nginx(&lan, "two"));
        lan.client(3, "retry curl -sf http://10.0.0.1/; retry curl -sf 'http://[fd00::2]/'")
            .says("this is one\nthis is two\n");
        let outcome = lan.client(3, "curl -sf http://10.0.0.2/big | cmp - big && echo same; seq 50 | xargs -P8 -I{} curl -sf http://10.0.0.1/ | sort | uniq -c");
        outcome.says("same").says("50 this is one");
        end(one);
        end(two);
    }
}

fn python_http_server_and_curl(kinds: Kinds) {
    let lan = Lan::new(kinds);
    lan.world.write("hello", "hello from python");
    let server = lan.serve(1, "exec python3 -m http.server 80");
    lan.client(2, "retry curl -sf http://10.0.0.1/hello").says("hello from python");
    lan.client(2, "python3 -c \"import urllib.request as u; print(u.urlopen('http://10.0.0.1/hello').read().decode())\"")
        .says("hello from python");
    end(server);
}

fn redis_and_its_benchmark(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let server = lan.serve(1, "exec redis-server --save '' --bind 0.0.0.0 --protected-mode no");
    lan.client(2, "retry redis-cli -h 10.0.0.1 set key value; redis-cli -h 10.0.0.1 get key")
        .says("OK\nvalue");
    lan.client(
        2,
        "redis-benchmark -h 10.0.0.1 -n 5000 -c 20 -P 4 -q -t set,get | tr '\\r' '\\n' | grep 'per second'",
    )
    .says("GET: ");
    end(server);
}

fn static_go_client_and_server(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let net = lan.world.install(&go_program("net"), "gonet");
    let server = lan.serve(1, "exec gonet serve");
    let outcome = lan.client(2, "retry gonet get http://10.0.0.1/");
    let outcome = outcome.says("go server").says("10.0.0.1/24").says("go client").says("10.0.0.2/24");
    assert_eq!(outcome.stdout.matches("lo ").count(), 2, "{}", outcome.stdout);
    assert_eq!(outcome.stdout.matches("eth0 ").count(), 2, "{}", outcome.stdout);
    lan.world
        .alone(["--kind", kinds.client, "--"])
        .args([&net])
        .args(["echo", "200"])
        .run()
        .ok()
        .says("echoes 200");
    lan.world
        .alone(["--kind", kinds.client, "--"])
        .args([&net])
        .args(["preempt", "2000"])
        .run()
        .ok()
        .says("made 2000 under SIGURG");
    end(server);
}

fn busybox_static(kinds: Kinds) {
    let lan = Lan::new(kinds);
    lan.world.write("index.html", "busybox page");
    let server = lan.serve(1, "exec busybox httpd -f -p 80 -h .");
    lan.client(
        2,
        "retry sh -c 'printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | busybox nc 10.0.0.1 80 | grep busybox'",
    )
    .says("busybox page");
    lan.client(2, "busybox ping -c 1 10.0.0.1; busybox ip addr show eth0; busybox ifconfig eth0")
        .says("1 packets received");
    end(server);
}

fn iperf3_tcp_udp_and_v6(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let server = lan.serve(1, "while true; do iperf3 -s -1 >/dev/null || exit; done");
    for options in
        ["-4 -c 10.0.0.1", "-4 -c 10.0.0.1 -R", "-6 -c fd00::1 -P 4", "-c 10.0.0.1 -u -b 20M -l 1400"]
    {
        // With -J it ends with 0 even if nobody listens yet.
        let measure = format!(
            "retry sh -c 'iperf3 -J -t 1 {options} >report; ! grep -q \\\"error\\\": report'; cat report"
        );
        let outcome = lan.client(2, &measure);
        let report: serde_json::Value =
            serde_json::from_str(&outcome.stdout[outcome.stdout.find('{').unwrap()..]).unwrap();
        assert!(report["error"].is_null(), "{options}: {report}");
        let bytes = &report["end"][if options.contains("-u") { "sum" } else { "sum_received" }]["bytes"];
        assert!(bytes.as_f64().is_some_and(|n| n > 1e5), "{options}: {report}");
    }
    end(server);
}

fn node_and_bash_dev_tcp(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let server = lan.serve(
        1,
        "exec node -e \"require('http').createServer((q, r) => r.end('node says ' + q.url)).listen(80)\"",
    );
    lan.client(2, "retry curl -sf http://10.0.0.1/x; exec 3<>/dev/tcp/10.0.0.1/80; printf 'GET /bash HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
        .says("node says /x")
        .says("node says /bash");
    lan.client(
        2,
        "node -e \"require('http').get('http://10.0.0.1/n', r => r.on('data', d => console.log('' + d)))\"",
    )
    .says("node says /n");
    lan.client(2, "node -e \"console.log(Object.keys(require('os').networkInterfaces()))\"").says("eth0");
    end(server);
}

fn socat_and_nc(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let server = lan.serve(1, "socat TCP6-LISTEN:7,fork,reuseaddr EXEC:'tr a-z A-Z' & socat UDP4-RECVFROM:9,fork EXEC:'tr a-z A-Z' & wait");
    lan.client(2, "retry sh -c 'echo over six | socat -t 3 - TCP6:[fd00::1]:7 | grep SIX'").says("OVER SIX");
    lan.client(2, "echo over four | nc -N 10.0.0.1 7; echo datagram | socat -t 1 - UDP4:10.0.0.1:9")
        .says("OVER FOUR")
        .says("DATAGRAM");
    lan.client(2, "nc -z 10.0.0.1 7 && echo open; nc -z 10.0.0.1 8 || echo closed").says("open\nclosed");
    end(server);
}

/// Each side sends urgent bytes in the middle of others and tells the other's apart, in line and not.
const URGENT: &str = r#"
import fcntl, select, signal, socket, struct, sys

def at_mark(s):
    answer = fcntl.ioctl(s, 0x8905, bytes(4))
    return struct.unpack("i", answer)[0]

def wait(s, event):
    p = select.poll()
    p.register(s, event)
    assert p.poll(10000), "nothing came"

def say(s):
    assert whole(s, 1) == b"?"
    s.sendall(b"a" * 100000)
    s.send(b"bc!", socket.MSG_OOB)
    s.sendall(b"d" * 100000)

def whole(s, length):
    # Up to a mark, however it comes.
    got = b""
    while len(got) < length:
        wait(s, select.POLLIN)
        piece = s.recv(length - len(got))
        assert piece, "ended"
        got += piece
    return got

def hear(s, inline):
    came = []
    if not inline:
        signal.signal(signal.SIGURG, lambda *_: came.append(1))
        fcntl.fcntl(s, fcntl.F_SETOWN, __import__("os").getpid())
    s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
    s.sendall(b"?")
    assert whole(s, 100002) == b"a" * 100000 + b"bc"
    wait(s, select.POLLPRI)
    assert at_mark(s)
    if inline:
        assert s.recv(1) == b"!"
    else:
        assert came, "no SIGURG"
        assert s.recv(10, socket.MSG_OOB) == b"!"
    assert whole(s, 100000) == b"d" * 100000
    assert not at_mark(s)

def talk(s, first):
    for inline in 0, 1, 0:
        if first:
            say(s)
            hear(s, inline)
        else:
            hear(s, inline)
            say(s)

if sys.argv[1] == "serve":
    listener = socket.create_server(("", 7), backlog=9)
    while True:
        s, _ = listener.accept()
        talk(s, False)
else:
    for _ in range(200):
        try:
            s = socket.create_connection(("10.0.0.1", 7))
            break
        except OSError:
            select.select([], [], [], 0.1)
    talk(s, True)
    print("all told apart")
"#;

fn urgent_data(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let program = lan.world.write("urgent.py", URGENT);
    let server = lan.serve(1, &format!("exec python3 {} serve", program.display()));
    lan.client(2, &format!("python3 {} call", program.display())).says("all told apart");
    end(server);
}

fn names_from_a_server_in_a_view(kinds: Kinds) {
    let mut lan = Lan::new(kinds);
    lan.world.install(&go_program("net"), "gonet");
    let server = lan.serve(
        1,
        "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user= --pid-file= --log-facility=- \
         --address=/web.test/10.0.0.7 --address=/web.test/fd00::7 --bind-interfaces --listen-address=10.0.0.1",
    );
    lan.client(2, "retry dig +short +time=1 +tries=1 @10.0.0.1 web.test; dig +short @10.0.0.1 web.test aaaa; dig +short +tcp @10.0.0.1 web.test")
        .says("10.0.0.7\nfd00::7\n10.0.0.7\n");
    lan.client(2, "gonet lookup web.test 10.0.0.1").says("10.0.0.7");
    if lan.world.has_own_host() {
        // What libc asks goes through the view as well.
        let resolver = lan.world.write("resolv.conf", "nameserver 10.0.0.1\noptions timeout:2 attempts:3\n");
        lan.world.bind_mount(&resolver, &PathBuf::from("/etc/resolv.conf"));
        let web = lan.serve(7, "exec python3 -m http.server 80");
        let names = "getent ahosts web.test; python3 -c 'import socket; print(socket.gethostbyname(\"web.test\"))'; \
                     retry curl -sf -o /dev/null http://web.test/ && echo fetched; getent hosts no.such.name || echo unknown";
        let outcome = lan.client(2, names).says("fd00::7 ").says("10.0.0.7 ").says("\n10.0.0.7\n");
        outcome.says("fetched").says("unknown");
        end(web);
    }
    end(server);
}

fn ping_traceroute_and_tcpdump(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let dump = "tcpdump -l -n -i eth0 -c 4 'icmp or (icmp6 and (ip6[40] = 128 or ip6[40] = 129))' 2>&1";
    let mut sniffer = lan.serve(1, dump);
    sniffer.until("listening on eth0");
    lan.client(2, "ping -n -c 1 10.0.0.1; ping -n -c 1 fd00::1").says("1 received");
    let seen = sniffer.wait().ok();
    seen.says("10.0.0.2 > 10.0.0.1: ICMP echo request").says("fd00::2 > fd00::1: ICMP6, echo request");
    let other = lan.serve(1, "sleep 100");
    let trace = lan.client(2, "retry ping -n -c 1 -W 1 10.0.0.1 >/dev/null; traceroute -n -q 1 10.0.0.1; traceroute -n -q 1 -I 10.0.0.1; traceroute -6 -n -q 1 fd00::1");
    assert_eq!(trace.stdout.matches(" 1  10.0.0.1 ").count(), 2, "{}", trace.stdout);
    assert_eq!(trace.stdout.matches(" 1  fd00::1 ").count(), 1, "{}", trace.stdout);
    let lost = lan.client(2, "ping -n -c 1 -W 1 10.0.0.99 || echo nobody");
    lost.says("nobody");
    end(other);
}

fn captures(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let server = lan.serve(1, "sleep 100");
    lan.client(2, "retry ping -n -c 1 -W 1 10.0.0.1").says(" 0% packet loss");
    // Into a file, with a filter, until it is interrupted; each frame at once; all interfaces; without a filter.
    let script = "
        until_it_listens() { until grep -q 'listening on' $1; do sleep 0.05; done; }
        tcpdump -n -U -i eth0 -w file 'icmp[0] = 0 and src 10.0.0.1' 2>one & one=$!
        tcpdump -n -l --immediate-mode -i eth0 -c 4 icmp >two 2>&1 & two=$!
        tcpdump -n -l -i any -c 2 'icmp and host 10.0.0.1' >three 2>&1 & three=$!
        for log in one two three; do until_it_listens $log; done
        ping -n -c 3 -i 0.2 10.0.0.1
        wait $two $three
        until test $(tcpdump -n -r file 2>/dev/null | wc -l) = 3; do sleep 0.1; done
        kill -INT $one; wait $one
        cat one two three; tcpdump -n -r file 2>/dev/null
    ";
    let seen = lan.client(2, script);
    let seen = seen.says("3 packets captured").says("4 packets captured").says("2 packets captured");
    let seen =
        seen.says("0 packets dropped by kernel").says("eth0  Out IP 10.0.0.2 > 10.0.0.1: ICMP echo request");
    assert_eq!(seen.stdout.matches("ICMP echo reply").count(), 3 + 2 + 1, "{}", seen.stdout);
    end(server);
}

fn ip_and_ss_show_and_change_the_view(kinds: Kinds) {
    let lan = Lan::new(kinds);
    // A smol stack has the interfaces it was made with, and no policy routing (documented).
    let (make, rule) = match kinds.client {
        "smol" => {
            ("! ip link add dummy-a type veth peer name dummy-b", "! ip rule add from 10.5.0.1 table 77")
        }
        _ => ("ip link add dummy-a type veth peer name dummy-b", "ip rule add from 10.5.0.1 table 77"),
    };
    let script = format!(
        "
        ip -br addr; ip link show eth0; ip route; ip -6 route; ip neigh
        ip addr add 10.5.0.1/24 dev eth0
        ip route add 10.6.0.0/16 via 10.5.0.9
        {make}
        ip neigh add 10.5.0.9 lladdr 02:00:00:00:00:09 dev eth0
        ip link set eth0 mtu 1400
        echo CHANGED
        ip -br addr; ip link show eth0; ip route; ip neigh; ip -br link
        {rule}; ip rule
        python3 -m http.server 80 >/dev/null 2>&1 &
        until ss -ltnp | grep ':80 .*python3'; do sleep 0.1; done
        kill $!
    "
    );
    let outcome = lan.client(1, &script);
    let (before, after) = outcome.stdout.split_once("CHANGED").unwrap();
    assert!(before.contains("10.0.0.1/24") && before.contains("fd00::1/64"), "{before}");
    assert!(before.contains("mtu 1500") && before.contains("10.0.0.0/24 dev eth0"), "{before}");
    let mut shown =
        vec!["10.5.0.1/24", "mtu 1400", "10.6.0.0/16 via 10.5.0.9", "02:00:00:00:00:09", "python3"];
    if kinds.client == "kernel" {
        shown.extend(["dummy-a", "from 10.5.0.1 lookup 77"]);
    }
    for text in shown {
        assert!(after.contains(text), "no {text:?} in:\n{after}");
    }
}

fn sshd_in_a_view(kinds: Kinds) {
    let mut lan = Lan::new(kinds);
    let home = lan.world.home().display().to_string();
    if lan.world.has_own_host() {
        // sshd and ssh want to know who their user is.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let own = format!("{passwd}viewtest:x:{uid}:{uid}::{home}:/bin/bash\n", uid = lan.world.uid());
        let file = lan.world.write("passwd", &own);
        lan.world.bind_mount(&file, &PathBuf::from("/etc/passwd"));
    }
    let keys = "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; cp key.pub authorized";
    lan.world.cmd("bash").args(["-euc", keys]).run().ok();
    let config = format!(
        "Port 22\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
         PasswordAuthentication no\n"
    );
    lan.world.write("sshd_config", &config);
    let server = lan.serve(1, "exec /usr/sbin/sshd -D -e -f ~/sshd_config");
    let ssh = "ssh -F none -i ~/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o LogLevel=ERROR 10.0.0.1";
    lan.client(2, &format!("retry {ssh} true; {ssh} 'echo through $SSH_CONNECTION; ip -br addr show eth0'"))
        .says("through 10.0.0.2 ")
        .says("10.0.0.1/24");
    end(server);
}

fn a_daemon_started_in_a_view_serves_on(kinds: Kinds) {
    let lan = Lan::new(kinds);
    let script = "redis-server --daemonize yes --save '' --bind 0.0.0.0 --protected-mode no --pidfile ~/pid --logfile ~/log; \
                  until redis-cli ping; do sleep 0.1; done";
    lan.serve(1, script).wait().ok().says("PONG");
    lan.client(2, "redis-cli -h 10.0.0.1 ping").says("PONG");
    lan.client(2, "redis-cli -h 10.0.0.1 shutdown nosave || true");
    assert!(wait_until(SOON, || lan.world.leftovers().is_empty()), "{:?}", lan.world.leftovers());
}
