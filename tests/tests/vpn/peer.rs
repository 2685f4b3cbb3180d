//! wireguard-go in a network namespace beyond the World's host, with servers behind it.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tests::{SOON, World, wait_until};

/// Where the peer is, as tcpdump writes it.
pub(crate) const ENDPOINT: &str = "192.0.2.2.51820";

/// Numbers interfaces: wireguard-go's control sockets have their names in one folder.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// TCP and UDP echo on port 7007, of both families and on all addresses; on port 7008 the caller is called back.
const SERVERS: &str = r#"
import socket, sys, threading
def echo(s):
    while d := s.recv(1 << 20): s.sendall(d)
    s.close()
def back(s):
    c = socket.create_connection((s.getpeername()[0].replace('::ffff:', ''), 7070), 9); c.sendall(b'called'); c.close()
def accept(l, serve):
    while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
for port, serve in ((7007, echo), (7008, back)):
    l = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=accept, args=(l, serve), daemon=True).start()
def datagrams(at):
    u = socket.socket(socket.AF_INET6 if ':' in at else socket.AF_INET, socket.SOCK_DGRAM); u.bind((at, 7007))
    while True: d, who = u.recvfrom(65536); u.sendto(d, who)
for at in sys.argv[1:]: threading.Thread(target=datagrams, args=(at,), daemon=True).start()
print('up', flush=True); threading.Event().wait()
"#;

/// A child that is killed when it is no longer needed.
pub(crate) struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Peer {
    /// Holds the namespace.
    holder: Kept,
    /// Holds that of a router before it, if there is one.
    router: Option<Kept>,
    wireguard: std::cell::RefCell<Option<Kept>>,
    interface: String,
    folder: PathBuf,
}

/// A network namespace of its own, while it lives.
fn namespace() -> Kept {
    let mut holder = Command::new("unshare");
    let holder =
        Kept(holder.args(["-n", "sleep", "infinity"]).stdin(Stdio::null()).spawn().expect("unshare"));
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let pid = holder.0.id();
    let apart = || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net != own);
    assert!(wait_until(SOON, apart), "no network namespace");
    holder
}

fn enter(holder: &Kept, command: &[&str]) -> Command {
    let mut entered = Command::new("nsenter");
    entered.args(["-t", &holder.0.id().to_string(), "-n"]).args(command).stdin(Stdio::null());
    entered
}

fn run_in(holder: &Kept, command: &[&str]) -> String {
    let done = enter(holder, command).output().expect("nsenter");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// An interface with addresses, about which no kernel says anything unasked.
fn quiet(device: &str, addresses: &[&str]) -> Vec<String> {
    let mut lines = vec![
        format!("sysctl -qw net.ipv6.conf.{device}.accept_dad=0"),
        format!("sysctl -qw net.ipv6.conf.{device}.router_solicitations=0"),
        format!("sysctl -qw net.ipv6.conf.{device}.accept_ra=0"),
    ];
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        lines.push(format!("ip addr add {address}{nodad} dev {device}"));
    }
    lines.push(format!("ip link set {device} up"));
    lines
}

impl Peer {
    /// A network with 192.0.2.2 and 2001:db8::2 beyond the host, which has 192.0.2.1 and 2001:db8::1, and its routes to
    /// everywhere there; the file office.conf in the World's home names it as the way to everywhere. Nobody is there yet
    /// who speaks WireGuard.
    pub(crate) fn new(world: &World) -> Option<Self> {
        let holder = Self::next_to_the_host(world)?;
        Some(Self::made(world, holder, None, "192.0.2.2:51820"))
    }

    /// The same a network farther on, at 203.0.113.2 and 2001:db8:9::2, to which packets of `mtu` bytes pass.
    pub(crate) fn beyond(world: &World, mtu: u32) -> Option<Self> {
        let router = Self::next_to_the_host(world)?;
        let holder = namespace();
        let mtu = mtu.to_string();
        let pid = holder.0.id().to_string();
        run_in(
            &router,
            &[
                "ip", "link", "add", "w0", "mtu", &mtu, "type", "veth", "peer", "name", "w1", "mtu", &mtu,
                "netns", &pid,
            ],
        );
        quiet("w0", &["203.0.113.1/24", "2001:db8:9::1/64"])
            .iter()
            .for_each(|line| drop(run_in(&router, &words(line))));
        run_in(&router, &words("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"));
        quiet("w1", &["203.0.113.2/24", "2001:db8:9::2/64"])
            .iter()
            .for_each(|line| drop(run_in(&holder, &words(line))));
        run_in(&holder, &words("ip link set lo up"));
        run_in(&holder, &words("ip route add default via 203.0.113.1"));
        run_in(&holder, &words("ip route add default via 2001:db8:9::1"));
        Some(Self::made(world, holder, Some(router), "203.0.113.2:51820"))
    }

    fn next_to_the_host(world: &World) -> Option<Kept> {
        if !world.has_own_host() {
            eprintln!("skipped: only root can make a network for wireguard-go to be in");
            return None;
        }
        let holder = namespace();
        let pid = holder.0.id().to_string();
        world.administer(&["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &pid]);
        quiet("v0", &["192.0.2.1/24", "2001:db8::1/64"])
            .iter()
            .for_each(|line| world.administer(&words(line)));
        world.administer(&words("ip route add default via 192.0.2.2"));
        world.administer(&words("ip route add default via 2001:db8::2"));
        world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
        run_in(&holder, &words("ip link set lo up"));
        quiet("v1", &["192.0.2.2/24", "2001:db8::2/64", "fe80::2/64"])
            .iter()
            .for_each(|line| drop(run_in(&holder, &words(line))));
        Some(holder)
    }

    fn made(world: &World, holder: Kept, router: Option<Kept>, endpoint: &str) -> Self {
        let interface =
            format!("vnt{}x{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let peer =
            Self { holder, router, wireguard: None.into(), interface, folder: world.folder().to_owned() };
        for name in ["ours", "theirs", "second"] {
            let key = Command::new("wg").arg("genkey").output().expect("wg").stdout;
            fs::write(peer.folder.join(name), key).unwrap();
        }
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.2/24, fd09::2/64\nDNS = 10.9.0.1\n\n[Peer]\n\
             PublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {endpoint}\n",
            peer.secret(),
            peer.public("theirs"),
        );
        write_private(world, "office.conf", &text);
        peer
    }

    /// A file like office.conf, with other words in some places; its path.
    pub(crate) fn file(&self, world: &World, name: &str, changes: &[(&str, &str)]) -> String {
        let text = fs::read_to_string(world.home().join("office.conf")).unwrap();
        let text = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "no {from} in {text}");
            text.replace(from, to)
        });
        write_private(world, name, &text)
    }

    fn command(&self, command: &[&str]) -> Command {
        enter(&self.holder, command)
    }

    /// Runs a command where the peer is; what it says.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        run_in(&self.holder, command)
    }

    /// Our private key, in base64.
    pub(crate) fn secret(&self) -> String {
        fs::read_to_string(self.folder.join("ours")).unwrap().trim().to_owned()
    }

    /// A public key, in base64.
    pub(crate) fn public(&self, name: &str) -> String {
        let mut wg = Command::new("wg");
        let mut wg = wg.arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wg");
        let private = fs::read(self.folder.join(name)).unwrap();
        wg.stdin.take().unwrap().write_all(&private).unwrap();
        let out = wg.wait_with_output().unwrap().stdout;
        String::from_utf8(out).unwrap().trim().to_owned()
    }

    /// It is gone, without a word.
    pub(crate) fn end(&self) {
        self.wireguard.take();
        let _ = fs::remove_file(format!("/var/run/wireguard/{}.sock", self.interface));
    }

    /// Starts wireguard-go: 10.9.0.1 and fd09::1 are its addresses inside.
    pub(crate) fn begin(&self) {
        let name = &self.interface;
        let mut go = self.command(&["wireguard-go", "-f", name]);
        let log = fs::File::create(self.folder.join("wireguard-go.log")).unwrap();
        // Of its own group: what kills the terminal's does not leave its socket behind.
        go.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        *self.wireguard.borrow_mut() = Some(Kept(go.spawn().expect("wireguard-go")));
        let there = || self.command(&["wg", "show", name]).output().is_ok_and(|out| out.status.success());
        assert!(wait_until(SOON, there), "wireguard-go does not start");
        self.set_up();
    }

    /// The same with the kernel's WireGuard; false where there is none.
    pub(crate) fn begin_in_kernel(&self) -> bool {
        let mut ip = self.command(&["ip", "link", "add", &self.interface, "type", "wireguard"]);
        let made = ip.output().expect("nsenter").status.success();
        if made {
            self.set_up();
        }
        made
    }

    fn set_up(&self) {
        let name = &self.interface;
        let theirs = self.folder.join("theirs").display().to_string();
        self.wg(&["private-key", &theirs, "listen-port", "51820"]);
        self.wg(&["peer", &self.public("ours"), "allowed-ips", "10.9.0.2/32,fd09::2/128"]);
        for args in ["addr add 10.9.0.1/24", "addr add fd09::1/64 nodad", "link set mtu 1420 up"] {
            self.run(&words(&format!("ip {args} dev {name}")));
        }
    }

    /// It takes packets from this network, too, and sends packets there to us.
    pub(crate) fn route(&self, net: &str) {
        self.wg(&["peer", &self.public("ours"), "allowed-ips", &format!("10.9.0.2/32,fd09::2/128,{net}")]);
        self.run(&["ip", "route", "add", net, "dev", &self.interface]);
    }

    /// A second peer, with port 51830 and a key of its own, at 10.8.0.1 and fd08::1 inside, and the file for it, by which it
    /// is at `endpoint`.
    pub(crate) fn second(&self, world: &World, endpoint: &str) -> (String, Kept) {
        let name = format!("{}i", self.interface);
        let mut go = self.command(&["wireguard-go", "-f", &name]);
        let go = go.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let second = Kept(go.spawn().expect("wireguard-go"));
        let there = || self.command(&["wg", "show", &name]).output().is_ok_and(|out| out.status.success());
        assert!(wait_until(SOON, there), "wireguard-go does not start");
        let key = self.folder.join("second").display().to_string();
        let us = self.public("ours");
        self.run(&["wg", "set", &name, "private-key", &key, "listen-port", "51830"]);
        self.run(&["wg", "set", &name, "peer", &us, "allowed-ips", "10.8.0.2/32,fd08::2/128"]);
        for args in ["addr add 10.8.0.1/24", "addr add fd08::1/64 nodad", "link set mtu 1340 up"] {
            self.run(&words(&format!("ip {args} dev {name}")));
        }
        let changes = [
            ("10.9.0.2/24, fd09::2/64", "10.8.0.2/24, fd08::2/64"),
            ("DNS = 10.9.0.1", ""),
            (&self.public("theirs"), &self.public("second")),
            ("192.0.2.2:51820", endpoint),
        ];
        (self.file(world, "second.conf", &changes), second)
    }

    /// `wg set INTERFACE ARGS`
    pub(crate) fn wg(&self, args: &[&str]) {
        self.run(&[&["wg", "set", &self.interface], args].concat());
    }

    /// Where it thinks we are.
    pub(crate) fn endpoint(&self) -> String {
        let said = self.run(&["wg", "show", &self.interface, "endpoints"]);
        said.split_whitespace().last().unwrap().to_owned()
    }

    /// Makes it forget all sessions, but not where we are.
    pub(crate) fn forget(&self) {
        let endpoint = self.endpoint();
        let public = self.public("ours");
        self.wg(&["peer", &public, "remove"]);
        self.wg(&["peer", &public, "allowed-ips", "10.9.0.2/32,fd09::2/128", "endpoint", &endpoint]);
    }

    /// Bytes that it received and sent.
    pub(crate) fn transfer(&self) -> (u64, u64) {
        let out = self.run(&["wg", "show", &self.interface, "transfer"]);
        let mut words = out.split_whitespace().skip(1).map(|word| word.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    }

    /// It speaks to us.
    pub(crate) fn ping(&self) {
        self.run(&["ping", "-c", "1", "-W", "20", "10.9.0.2"]);
    }

    /// Starts a program where the peer is that says "up".
    pub(crate) fn until_up(&self, command: &[&str]) -> Kept {
        use std::io::{BufRead, BufReader};
        let mut child = self.command(command).stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Kept(child)
    }

    /// Servers on its addresses, inside the tunnel and beside it.
    pub(crate) fn servers(&self) -> Kept {
        self.servers_at(&["10.9.0.1", "fd09::1"])
    }

    /// The same, for datagrams at these addresses.
    pub(crate) fn servers_at(&self, at: &[&str]) -> Kept {
        self.until_up(&[&["python3", "-c", SERVERS], at].concat())
    }

    /// A nameserver inside the tunnel.
    pub(crate) fn nameserver(&self) -> Kept {
        let mut dnsmasq = self.command(&[
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--listen-address=10.9.0.1",
            "--bind-interfaces",
            "--address=/intranet.test/10.9.0.77",
            "--address=/big.test/10.9.0.1",
        ]);
        let kept = Kept(dnsmasq.spawn().expect("dnsmasq"));
        let there = || {
            let out = self.command(&["ss", "-Huln", "src", "10.9.0.1:53"]).output();
            out.is_ok_and(|out| !out.stdout.is_empty())
        };
        assert!(wait_until(SOON, there), "dnsmasq does not start");
        kept
    }

    /// What comes out of the host while something is done, a line for each packet, but for what kernels say to each other
    /// of their neighbours and of multicast.
    pub(crate) fn capture(&self, done: impl FnOnce()) -> Vec<String> {
        let asked = "ip or not (arp or ip6[6] = 0 or (icmp6 and ip6[40] >= 133 and ip6[40] <= 136))";
        let file = self.recorded(&["-Q", "in", "-lnn", asked], done);
        fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect()
    }

    /// All of WireGuard's datagrams while something is done, as a file of pcap(5).
    pub(crate) fn datagrams(&self, done: impl FnOnce()) -> PathBuf {
        self.recorded(&["-U", "-w", "-", "udp port 51820"], done)
    }

    /// What tcpdump writes, on the wire between the host and what is next to it.
    fn recorded(&self, args: &[&str], done: impl FnOnce()) -> PathBuf {
        let file = self.folder.join("capture");
        let next = self.router.as_ref().unwrap_or(&self.holder);
        let mut tcpdump = enter(next, &["tcpdump", "-i", "v1", "--immediate-mode"]);
        let log = self.folder.join("tcpdump.log");
        tcpdump.args(args).stdout(fs::File::create(&file).unwrap()).stderr(fs::File::create(&log).unwrap());
        let kept = Kept(tcpdump.spawn().expect("tcpdump"));
        let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"));
        assert!(wait_until(SOON, listens), "tcpdump does not start");
        done();
        // Until it writes no more.
        let size = || fs::metadata(&file).map_or(0, |meta| meta.len());
        let mut written = None;
        while written.replace(size()) != Some(size()) {
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(kept);
        file
    }
}

/// A file that only the World's user can read; its path.
fn write_private(world: &World, name: &str, text: &str) -> String {
    let file = world.write(name, text);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    file.display().to_string()
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.wireguard.take();
        for name in [&self.interface, &format!("{}i", self.interface)] {
            let _ = fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
        }
    }
}
