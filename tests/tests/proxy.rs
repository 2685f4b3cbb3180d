//! Out of a view by a proxy: SOCKS 5 and CONNECT. "The internet" is addresses of the World's own host network, of which the
//! proxy has two: whatever passes there and has neither at one end, did not go by it.

use std::path::Path;
use std::time::Duration;

use tests::{Outcome, Running, User, World};

/// Somebody far away.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The proxy's addresses.
const PROXY: [&str; 2] = ["192.0.2.9", "2001:db8::9"];

/// Echo by TCP and UDP on port 7007.
const ECHO: &str = r"
import socket, sys, threading
def stream(s):
    while d := s.recv(65536): s.sendall(d)
    s.close()
def accept(l):
    while True: threading.Thread(target=stream, args=(l.accept()[0],), daemon=True).start()
def datagrams(u):
    while True:
        d, who = u.recvfrom(65536); u.sendto(d, who)
for at in sys.argv[1:]:
    f = socket.AF_INET6 if ':' in at else socket.AF_INET
    l = socket.socket(f); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((at, 7007)); l.listen(64)
    u = socket.socket(f, socket.SOCK_DGRAM); u.bind((at, 7007))
    threading.Thread(target=accept, args=(l,), daemon=True).start()
    threading.Thread(target=datagrams, args=(u,), daemon=True).start()
print('up', flush=True); sys.stdin.read()
";

/// A SOCKS proxy on port 1080 that knows names of its own, and says what it was asked for; the first argument is the
/// `user:password` that it wants. To some names its answers are odd.
const SOCKS: &str = r"
import select, socket, struct, sys, threading, time
WANTED = sys.argv[1].encode()
OUT = {socket.AF_INET: '192.0.2.9', socket.AF_INET6: '2001:db8::9'}
NAMES = {'far.example': '192.0.2.1', 'six.example': '2001:db8::1', 'slow.example': '192.0.2.1', 'glued.example': '192.0.2.1'}
def exact(s, n):
    d = b''
    while len(d) < n:
        m = s.recv(n - len(d))
        if not m: raise EOFError
        d += m
    return d
def place(read):
    kind = read(1)[0]
    if kind == 3: host = read(read(1)[0]).decode()
    else: host = socket.inet_ntop(*((socket.AF_INET, read(4)) if kind == 1 else (socket.AF_INET6, read(16))))
    return host, struct.unpack('!H', read(2))[0]
def packed(at):
    f = socket.AF_INET6 if ':' in at[0] else socket.AF_INET
    return bytes([4 if ':' in at[0] else 1]) + socket.inet_pton(f, at[0]) + struct.pack('!H', at[1])
def out(to, kind):
    s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, kind); s.bind((OUT[s.family], 0)); return s
def relay(a, b):
    try:
        while d := a.recv(65536): b.sendall(d)
        b.shutdown(socket.SHUT_WR)
    except OSError: a.close(); b.close()
def datagrams(s, u):
    out4, out6, client = out('', socket.SOCK_DGRAM), out(':', socket.SOCK_DGRAM), None
    while True:
        ready = select.select([s, u, out4, out6], [], [])[0]
        if s in ready: return
        if u in ready:
            d, client = u.recvfrom(65536); at = [3]
            def read(n): at[0] += n; return d[at[0] - n:at[0]]
            host, port = place(read); print('datagram for', host, flush=True)
            host = NAMES.get(host, host)
            (out6 if ':' in host else out4).sendto(d[at[0]:], (host, port))
        for o in (out4, out6):
            if o in ready:
                d, who = o.recvfrom(65536); u.sendto(bytes(3) + packed(who) + d, client)
def serve(s):
    methods = exact(s, exact(s, 2)[1])
    if WANTED:
        if 2 not in methods: s.sendall(b'\x05\xff'); return
        s.sendall(b'\x05\x02'); exact(s, 1)
        user = exact(s, exact(s, 1)[0]); password = exact(s, exact(s, 1)[0])
        if user + b':' + password != WANTED: s.sendall(b'\x01\x01'); return
        s.sendall(b'\x01\x00')
    else: s.sendall(b'\x05\x00')
    command = exact(s, 3)[1]
    host, port = place(lambda n: exact(s, n))
    if command == 3:
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((OUT[u.family], 0))
        s.sendall(b'\x05\x00\x00' + packed(u.getsockname())); return datagrams(s, u)
    print('asked for', host, port, flush=True)
    odd = {'never.example': 2, 'lost.example': 4, 'unnamed.example': 1}
    if host in odd: s.sendall(bytes([5, odd[host], 0, 1, 0, 0, 0, 0, 0, 0])); return
    if host == 'mute.example': return
    if host == 'half.example': s.sendall(b'\x05\x00'); return
    to = NAMES.get(host, host)
    try: far = out(to, socket.SOCK_STREAM); far.connect((to, port))
    except ConnectionRefusedError: s.sendall(bytes([5, 5, 0, 1, 0, 0, 0, 0, 0, 0])); return
    reply = b'\x05\x00\x00' + packed(far.getsockname()[:2])
    if host == 'slow.example':
        for byte in reply: s.sendall(bytes([byte])); time.sleep(0.02)
    else: s.sendall(reply + (b'first' if host == 'glued.example' else b''))
    threading.Thread(target=relay, args=(far, s), daemon=True).start(); relay(s, far)
def begin(s):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try: serve(s)
    except (EOFError, OSError): pass
    s.close()
def accept(l):
    while True: threading.Thread(target=begin, args=(l.accept()[0],), daemon=True).start()
for f, at in OUT.items():
    l = socket.socket(f); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((at, 1080)); l.listen(64)
    threading.Thread(target=accept, args=(l,), daemon=True).start()
print('up', flush=True); sys.stdin.read()
";

/// What programs in views begin with.
const HELPERS: &str = "
import errno, socket
def kind(at): return socket.AF_INET6 if ':' in at else socket.AF_INET
def name(host, f): return socket.getaddrinfo(host, 1, f)[0][4][0]
def tcp(at, port):
    s = socket.socket(kind(at)); s.settimeout(30); s.connect((at, port)); return s
def udp(at, port, f=None):
    s = socket.socket(f or kind(at), socket.SOCK_DGRAM); s.settimeout(30); s.connect((at, port))
    # IP_RECVERR, IPV6_RECVERR: also errors that may pass.
    s.setsockopt(*((socket.IPPROTO_IPV6, 25) if s.family == socket.AF_INET6 else (socket.IPPROTO_IP, 11)), 1); return s
def fails(do, *args):
    try: do(*args)
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
def equal(got, wanted): assert got == wanted, (got, wanted)
def said(s, what):
    s.sendall(what); got = b''
    while len(got) < len(what): got += s.recv(65536)
    assert got == what, got
FAMILIES = (socket.AF_INET, socket.AF_INET6)
";

/// With either kind of stack, as each user, on a host network that has the far addresses and the proxy's.
fn each_kind(test: impl Fn(&mut World, &str)) {
    for kind in ["kernel", "smol"] {
        for &user in User::all() {
            eprintln!("on a {kind} stack, as {user:?}");
            let mut world = World::new(user);
            if !world.has_own_host() {
                eprintln!("skipped: only root can give the test a host network of its own");
                return;
            }
            for address in FAR.iter().chain(&PROXY) {
                world.administer(&["ip", "addr", "add", address, "dev", "lo"]);
            }
            test(&mut world, kind);
        }
    }
}

fn echo(world: &World) -> Running {
    started(world, ECHO, &FAR)
}

fn socks(world: &World, wanted: &str) -> Running {
    started(world, SOCKS, &[wanted])
}

fn started(world: &World, script: &str, args: &[&str]) -> Running {
    let mut server = world.cmd("python3").args(["-c", script]).args(args).keep_stdin().start();
    server.until("up");
    server
}

fn inside(world: &World, kind: &str, link: &str, script: &str) -> Outcome {
    let script = format!("{HELPERS}{script}print('well')\n");
    let run = world.run(["--kind", kind, "--link", link, "--", "python3", "-c", &script]);
    run.limit(Duration::from_secs(40)).run().ok().says("well")
}

#[test]
fn streams_and_datagrams_go_by_socks_by_name_and_by_address() {
    each_kind(|world, kind| {
        let (_echo, mut proxy) = (echo(world), socks(world, ""));
        let script = format!(
            "
for at in {FAR:?}: said(tcp(at, 7007), b'x' * 300000); said(udp(at, 7007), b'hello')
for f in FAMILIES:
    for host in ('far.example', 'six.example', 'slow.example'): said(tcp(name(host, f), 7007), b'hello')
    # Whoever was sent to by name answers from that name's address.
    a, b = (udp(name(host, f), 7007, f) for host in ('far.example', 'six.example'))
    said(a, b'hello'); said(b, b'hello'); said(a, b'again')
    many = [tcp(name('far.example', f), 7007) for n in range(100)]
    for s in many: s.sendall(b'x' * 10000)
    for s in many: assert s.recv(10000, socket.MSG_WAITALL) == b'x' * 10000
    glued = tcp(name('glued.example', f), 7007); assert glued.recv(5) == b'first'; said(glued, b'hello')
assert name('FAR.example', socket.AF_INET).startswith('198.18.')
assert socket.gethostbyaddr(name('far.example', socket.AF_INET6))[0] == 'far.example'
"
        );
        inside(world, kind, "socks5:192.0.2.9:1080", &script);
        for text in ["asked for far.example 7007", "asked for 2001:db8::1 7007", "datagram for six.example"] {
            proxy.until(text);
        }
        // The proxy's own address may be one of IPv6.
        let script = "said(tcp(name('far.example', socket.AF_INET), 7007), b'hello')\n";
        inside(world, kind, "eth3=socks5:[2001:db8::9]:1080,ip=auto", script);
    });
}

#[test]
fn what_the_proxy_refuses_is_refused() {
    each_kind(|world, kind| {
        let (_echo, _proxy) = (echo(world), socks(world, ""));
        let script = "
for f in FAMILIES:
    v4 = f == socket.AF_INET
    equal(fails(tcp, name('far.example', f), 9), 'ECONNREFUSED')
    equal(fails(tcp, name('unnamed.example', f), 9), 'ECONNREFUSED')
    equal(fails(tcp, name('never.example', f), 9), ('EHOSTUNREACH' if v4 else 'EACCES'))
    equal(fails(tcp, name('lost.example', f), 9), 'EHOSTUNREACH')
    # It says nothing, or breaks off.
    for host in ('mute.example', 'half.example'): equal(fails(tcp, name(host, f), 9), 'ECONNREFUSED')
# What stands for no name; what no router forwards.
equal(fails(tcp, '198.19.0.7', 9), 'EHOSTUNREACH')
u = udp('198.19.0.7', 9); u.send(b'x'); equal(fails(u.recvfrom, 9), 'EHOSTUNREACH')
assert fails(tcp, '169.254.1.1', 9) in ('ENETUNREACH', 'EHOSTUNREACH')
import subprocess
def dig(*args): return subprocess.run(['dig', '+time=20', '+tries=1', *args], capture_output=True, text=True).stdout
# Who asks is not whom the proxy finds there; and it tells no more of names than that they are.
assert 'NXDOMAIN' in dig('x.localhost') and 'NXDOMAIN' in dig('-x', '192.0.2.1')
assert '198.18.' in dig('+tcp', 'far.example') and 'fd73:6f63:6b73::' in dig('+tcp', '-t', 'AAAA', 'far.example')
assert 'NOERROR' in dig('-t', 'MX', 'far.example') and 'ANSWER: 0' in dig('-t', 'MX', 'far.example')
";
        inside(world, kind, "socks5:192.0.2.9:1080", script);
    });
}

#[test]
fn only_who_knows_the_password_goes_out_and_nobody_sees_it() {
    each_kind(|world, kind| {
        let (_echo, _proxy) = (echo(world), socks(world, "ann:s3:cret"));
        let chmod = |file: &Path, mode: &str| {
            world.cmd("chmod").args([mode, &file.display().to_string()]).run().ok();
        };
        let right = world.write("right", "ann:s3:cret\n");
        let wrong = world.write("wrong", "ann:s3cret\n");
        chmod(&wrong, "600");
        let up = |file: &str| {
            let via = format!("socks5:192.0.2.9:1080[auth {file}]");
            world.viewnet(["gateway", "up", "--switch", "lan", "--via", &via]).run()
        };
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let open = up("right");
        assert!(open.code(1).stderr.contains("others may read"), "it was taken");
        chmod(&right, "600");
        let link = "switch:lan,ip=auto";
        up("wrong").ok();
        let script = "equal(fails(tcp, name('far.example', socket.AF_INET6), 7007), 'EACCES')\n\
                      u = udp('192.0.2.1', 7007); u.send(b'x'); equal(fails(u.recvfrom, 9), 'EHOSTUNREACH')\n";
        inside(world, kind, link, script);
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        up("right").ok();
        inside(
            world,
            kind,
            link,
            "said(tcp('192.0.2.1', 7007), b'hello'); said(udp('192.0.2.1', 7007), b'x')\n",
        );
        let shown = world.viewnet(["gateway", "show", "--switch", "lan"]).run().ok().says("goes by").stdout;
        let json = world.viewnet(["gateway", "show", "--switch", "lan", "--json"]).run().ok().stdout;
        assert!(
            !shown.contains("cret") && !json.contains("cret") && json.contains("[auth "),
            "{shown}{json}"
        );
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn rules_see_names_and_the_hosts_loopback_is_no_proxys() {
    each_kind(|world, kind| {
        let _echo = started(world, ECHO, &[FAR[0], FAR[1], "127.0.0.1"]);
        let _proxy = socks(world, "");
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let up = world.viewnet(["gateway", "up", "--switch", "lan", "--via", "socks5:192.0.2.9:1080"]);
        up.args(["--host-loopback", "--isolate", "--allow", "198.18.0.0/15:7007"]).run().ok();
        let script = "
stand_in = name('far.example', socket.AF_INET)
said(tcp(stand_in, 7007), b'hello'); said(udp(stand_in, 7007), b'hello')
for at, port in ((stand_in, 7008), ('192.0.2.1', 7007)): equal(fails(tcp, at, port), 'EHOSTUNREACH')
u = udp('192.0.2.1', 7007); u.send(b'x'); equal(fails(u.recvfrom, 9), 'EHOSTUNREACH')
said(tcp('10.0.2.1', 7007), b'hello'); said(udp('10.0.2.1', 7007), b'hello')
";
        inside(world, kind, "switch:lan,ip=auto", script);
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn nothing_goes_elsewhere() {
    each_kind(|world, kind| {
        // Questions and packets would go there.
        let file = world.write("resolv.conf", "nameserver 192.0.2.1\n");
        world.bind_mount(&file, Path::new("/etc/resolv.conf"));
        let (_echo, proxy) = (echo(world), socks(world, ""));
        let strange = format!("not host {} and not host {}", PROXY[0], PROXY[1]);
        let net = format!("--net=/proc/{}/ns/net", proxy.pid());
        let mut capture = std::process::Command::new("nsenter")
            .args([&net, "tcpdump", "-i", "lo", "-nn", "-l", "-U", "--immediate-mode", &strange])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(capture.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "tcpdump ended");
        }
        let script = format!(
            "
for host in ('far.example', 'six.example', 'unnamed.example'):
    for f in FAMILIES: fails(tcp, name(host, f), 7007)
for at in {FAR:?}: said(tcp(at, 7007), b'x'); said(udp(at, 7007), b'x')
import subprocess
for args in (['+tcp'], ['-t', 'MX'], ['@192.0.2.1'], ['@192.0.2.1', '-t', 'TXT'], ['-x', '192.0.2.1']):
    subprocess.run(['dig', '+time=2', '+tries=1', 'far.example', *args], stdout=subprocess.DEVNULL)
assert subprocess.run(['ping', '-c1', '-W1', '192.0.2.1'], stdout=subprocess.DEVNULL).returncode != 0
"
        );
        inside(world, kind, "socks5:192.0.2.9:1080", &script);
        // The filter would have shown it: this goes past the proxy, and is the first that does.
        let past = "import socket; socket.socket().connect_ex(('192.0.2.1', 9999))";
        world.cmd("python3").args(["-c", past]).run().ok();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(capture.stdout.take().unwrap()));
        let first = lines.next().unwrap().unwrap();
        capture.kill().unwrap();
        capture.wait().unwrap();
        assert!(first.contains("192.0.2.1.9999: Flags [S]"), "this went past the proxy: {first}");
    });
}

#[test]
fn a_proxy_that_is_not_there_leads_nowhere() {
    each_kind(|world, kind| {
        let _echo = echo(world);
        let script = "
equal(fails(tcp, '192.0.2.1', 7007), 'ENETUNREACH')
equal(fails(tcp, name('far.example', socket.AF_INET6), 7007), 'ENETUNREACH')
u = udp('192.0.2.1', 7007); u.send(b'x'); equal(fails(u.recvfrom, 9), 'ENETUNREACH')
";
        inside(world, kind, "socks5:192.0.2.9:1080", script);
        inside(
            world,
            kind,
            "http:192.0.2.9:1080",
            &script.replace("9), 'ENETUNREACH'", "9), 'EHOSTUNREACH'"),
        );
    });
}

/// A web server at the far addresses, and a nameserver of the host's for proxies that ask one.
fn web(world: &mut World) -> [Running; 3] {
    let file = world.write("resolv.conf", "nameserver 127.0.0.1\n");
    world.bind_mount(&file, Path::new("/etc/resolv.conf"));
    world.administer(&["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=53"]);
    world.write("web/index.html", "hello from afar\n");
    let server = |at: &str| {
        let web =
            world.cmd("python3").args(["-u", "-m", "http.server", "--directory", "web", "-b", at, "8000"]);
        let mut web = web.start();
        web.until("Serving");
        web
    };
    let script = "exec dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
                  --log-facility=- --listen-address=127.0.0.1 --bind-interfaces --address=/far.example/192.0.2.1 \
                  --address=/six.example/2001:db8::1 2>&1";
    let mut names = world.cmd("sh").args(["-c", script]).start();
    names.until("started");
    [server(FAR[0]), server(FAR[1]), names]
}

fn curl(world: &World, kind: &str, link: &str) {
    for url in ["far.example:8000", "six.example:8000", "192.0.2.1:8000", "[2001:db8::1]:8000"] {
        let args = ["--kind", kind, "--link", link, "--", "curl", "-sS", "--max-time", "20", "-g", url];
        world.run(args).limit(Duration::from_secs(30)).run().ok().says("hello from afar");
    }
    let args = ["--kind", kind, "--link", link, "--", "curl", "-sS", "--max-time", "20", "192.0.2.1:9"];
    // CURLE_COULDNT_CONNECT
    world.run(args).limit(Duration::from_secs(30)).run().code(7);
}

#[test]
fn curl_goes_by_microsocks_with_a_password() {
    each_kind(|world, kind| {
        let _web = web(world);
        let secret = world.write("secret", "ann:s3cret\n");
        world.cmd("chmod").args(["600", &secret.display().to_string()]).run().ok();
        let args = ["-i", PROXY[0], "-p", "1080", "-u", "ann", "-P", "s3cret"];
        let proxy = world.cmd("microsocks").args(args).start();
        listens(world, 1080);
        curl(world, kind, "socks5:192.0.2.9:1080[auth secret]");
        proxy.kill(nix::sys::signal::Signal::SIGTERM);
    });
}

#[test]
fn curl_goes_by_tinyproxy_with_a_password() {
    each_kind(|world, kind| {
        let _web = web(world);
        let secret = world.write("secret", "ann:s3cret\n");
        world.cmd("chmod").args(["600", &secret.display().to_string()]).run().ok();
        let config = "Port 8888\nListen 192.0.2.9\nTimeout 60\nMaxClients 20\nBasicAuth ann s3cret\nLogLevel Critical\n";
        let config = world.write("tinyproxy.conf", config);
        let proxy = world.cmd("tinyproxy").args(["-d", "-c", &config.display().to_string()]).start();
        listens(world, 8888);
        curl(world, kind, "http:192.0.2.9:8888[auth secret]");
        // It has no UDP, and nobody pings by it.
        let script = "u = udp('192.0.2.1', 7007); u.send(b'x'); equal(fails(u.recvfrom, 9), 'EHOSTUNREACH')\n\
                      u = udp('2001:db8::1', 7007); u.send(b'x'); equal(fails(u.recvfrom, 9), 'EACCES')\n";
        inside(world, kind, "http:192.0.2.9:8888[auth secret]", script);
        proxy.kill(nix::sys::signal::Signal::SIGTERM);
    });
}

#[test]
fn datagrams_go_by_dante() {
    each_kind(|world, kind| {
        if world.uid() != 0 {
            return eprintln!("skipped: danted wants an account of its own");
        }
        let config = "logoutput: stderr\ninternal: 192.0.2.9 port = 1080\nexternal: 192.0.2.9\nclientmethod: none\n\
                      socksmethod: none\nuser.privileged: root\nuser.unprivileged: root\n\
                      client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\nsocks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n";
        let config = world.write("danted.conf", config);
        let _echo = echo(world);
        let proxy = world.cmd("danted").args(["-N", "1", "-f", &config.display().to_string()]).start();
        listens(world, 1080);
        let script = "
a, b = udp('192.0.2.1', 7007), udp('192.0.2.1', 7007)
for n in range(9): said(a, b'%d' % n); said(b, b'x' * 1400)
said(tcp('192.0.2.1', 7007), b'hello')
";
        inside(world, kind, "socks5:192.0.2.9:1080", script);
        proxy.kill(nix::sys::signal::Signal::SIGTERM);
        proxy.wait();
    });
}

fn listens(world: &World, port: u16) {
    let open = format!("until (: </dev/tcp/192.0.2.9/{port}) 2>/dev/null; do sleep 0.02; done");
    world.cmd("bash").args(["-c", &open]).limit(Duration::from_secs(10)).run().ok();
}
