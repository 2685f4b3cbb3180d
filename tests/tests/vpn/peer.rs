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
import socket, threading
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
for at in ('10.9.0.1', 'fd09::1'): threading.Thread(target=datagrams, args=(at,), daemon=True).start()
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
    wireguard: std::cell::RefCell<Option<Kept>>,
    interface: String,
    folder: PathBuf,
}

impl Peer {
    /// A network with 192.0.2.2 beyond the host, which has 192.0.2.1, and its route to everywhere there; the file
    /// office.conf in the World's home names it as the way to everywhere. Nobody is there yet who speaks WireGuard.
    pub(crate) fn new(world: &World) -> Option<Self> {
        if !world.has_own_host() {
            eprintln!("skipped: only root can make a network for wireguard-go to be in");
            return None;
        }
        let mut holder = Command::new("unshare");
        holder.args(["-n", "sleep", "infinity"]).stdin(Stdio::null());
        let holder = Kept(holder.spawn().expect("unshare"));
        let pid = holder.0.id();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let apart = || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net != own);
        assert!(wait_until(SOON, apart), "no network namespace");
        world.administer(&[
            "ip",
            "link",
            "add",
            "v0",
            "type",
            "veth",
            "peer",
            "name",
            "v1",
            "netns",
            &pid.to_string(),
        ]);
        world.administer(&["sysctl", "-qw", "net.ipv6.conf.v0.disable_ipv6=1"]);
        world.administer(&["ip", "addr", "add", "192.0.2.1/24", "dev", "v0"]);
        world.administer(&["ip", "link", "set", "v0", "up"]);
        world.administer(&["ip", "route", "add", "default", "via", "192.0.2.2"]);
        world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
        let interface =
            format!("vnt{}x{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = world.folder().to_owned();
        let peer = Self { holder, wireguard: None.into(), interface, folder };
        peer.run(&["sysctl", "-qw", "net.ipv6.conf.v1.disable_ipv6=1"]);
        for args in ["link set lo up", "addr add 192.0.2.2/24 dev v1", "link set v1 up"] {
            peer.run(&[&["ip"], &args.split(' ').collect::<Vec<_>>()[..]].concat());
        }
        for name in ["ours", "theirs"] {
            let key = Command::new("wg").arg("genkey").output().expect("wg").stdout;
            fs::write(peer.folder.join(name), key).unwrap();
        }
        let public = peer.public("theirs");
        let file = world.write(
            "office.conf",
            &format!(
                "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.2/24, fd09::2/64\nDNS = 10.9.0.1\n\n[Peer]\n\
                 PublicKey = {public}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 192.0.2.2:51820\n",
                peer.secret(),
            ),
        );
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Some(peer)
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["-t", &self.holder.0.id().to_string(), "-n"]).args(command).stdin(Stdio::null());
        entered
    }

    fn run(&self, command: &[&str]) {
        let done = self.command(command).output().expect("nsenter");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Our private key, in base64.
    pub(crate) fn secret(&self) -> String {
        fs::read_to_string(self.folder.join("ours")).unwrap().trim().to_owned()
    }

    fn public(&self, name: &str) -> String {
        let mut wg = Command::new("wg");
        let mut wg = wg.arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wg");
        let private = fs::read(self.folder.join(name)).unwrap();
        wg.stdin.take().unwrap().write_all(&private).unwrap();
        let out = wg.wait_with_output().unwrap().stdout;
        String::from_utf8(out).unwrap().trim().to_owned()
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
        let theirs = self.folder.join("theirs").display().to_string();
        self.wg(&["private-key", &theirs, "listen-port", "51820"]);
        self.wg(&["peer", &self.public("ours"), "allowed-ips", "10.9.0.2/32,fd09::2/128"]);
        for args in ["addr add 10.9.0.1/24", "addr add fd09::1/64 nodad", "link set mtu 1420 up"] {
            let args = format!("{args} dev {name}");
            self.run(&[&["ip"], &args.split(' ').collect::<Vec<_>>()[..]].concat());
        }
    }

    /// It takes packets from this network, too, and sends packets there to us.
    pub(crate) fn route(&self, net: &str) {
        self.wg(&["peer", &self.public("ours"), "allowed-ips", &format!("10.9.0.2/32,fd09::2/128,{net}")]);
        self.run(&["ip", "route", "add", net, "dev", &self.interface]);
    }

    /// A second peer, which is reached through the first only, at 10.8.0.1 inside; and the file for it.
    pub(crate) fn within(&self, world: &World) -> (String, Kept) {
        let name = format!("{}i", self.interface);
        let inner =
            self.command(&["wireguard-go", "-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let inner = Kept(inner.expect("wireguard-go"));
        let there = || self.command(&["wg", "show", &name]).output().is_ok_and(|out| out.status.success());
        assert!(wait_until(SOON, there), "wireguard-go does not start");
        let theirs = self.folder.join("theirs").display().to_string();
        let (us, allowed) = (self.public("ours"), "10.8.0.2/32");
        self.run(&[
            "wg",
            "set",
            &name,
            "private-key",
            &theirs,
            "listen-port",
            "51830",
            "peer",
            &us,
            "allowed-ips",
            allowed,
        ]);
        self.run(&["ip", "addr", "add", "10.8.0.1/24", "dev", &name]);
        self.run(&["ip", "link", "set", "mtu", "1340", "up", "dev", &name]);
        let text = fs::read_to_string(world.home().join("office.conf")).unwrap();
        let text = text
            .replace("10.9.0.2/24, fd09::2/64", "10.8.0.2/24\nMTU = 1340")
            .replace("192.0.2.2:51820", "10.9.0.1:51830");
        (world.write("inner.conf", &text).display().to_string(), inner)
    }

    /// `wg set INTERFACE ARGS`
    pub(crate) fn wg(&self, args: &[&str]) {
        self.run(&[&["wg", "set", &self.interface], args].concat());
    }

    /// Makes it forget all sessions, but not where we are.
    pub(crate) fn forget(&self) {
        let out = self.command(&["wg", "show", &self.interface, "endpoints"]).output().unwrap().stdout;
        let endpoint = String::from_utf8(out).unwrap().split_whitespace().last().unwrap().to_owned();
        let public = self.public("ours");
        self.wg(&["peer", &public, "remove"]);
        self.wg(&["peer", &public, "allowed-ips", "10.9.0.2/32,fd09::2/128", "endpoint", &endpoint]);
    }

    /// Bytes that it received and sent.
    pub(crate) fn transfer(&self) -> (u64, u64) {
        let out = self.command(&["wg", "show", &self.interface, "transfer"]).output().unwrap().stdout;
        let out = String::from_utf8(out).unwrap();
        let mut words = out.split_whitespace().skip(1).map(|word| word.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    }

    /// It speaks to us.
    pub(crate) fn ping(&self) {
        self.run(&["ping", "-c", "1", "-W", "9", "10.9.0.2"]);
    }

    fn until_up(&self, mut command: Command) -> Kept {
        use std::io::{BufRead, BufReader};
        let mut child = command.stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Kept(child)
    }

    /// Servers on its addresses, inside the tunnel and beside it.
    pub(crate) fn servers(&self) -> Kept {
        self.until_up(self.command(&["python3", "-c", SERVERS]))
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

    /// What comes out of the host while something is done, a line for each packet, without ARP.
    pub(crate) fn capture(&self, done: impl FnOnce()) -> Vec<String> {
        let file = self.folder.join("capture");
        let out = fs::File::create(&file).unwrap();
        let mut tcpdump =
            self.command(&["tcpdump", "-Q", "in", "-lnni", "v1", "--immediate-mode", "not arp"]);
        let log = self.folder.join("tcpdump.log");
        tcpdump.stdout(out).stderr(fs::File::create(&log).unwrap());
        let kept = Kept(tcpdump.spawn().expect("tcpdump"));
        let listens = || fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"));
        assert!(wait_until(SOON, listens), "tcpdump does not start");
        done();
        std::thread::sleep(Duration::from_millis(200));
        drop(kept);
        fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.wireguard.take();
        for name in [&self.interface, &format!("{}i", self.interface)] {
            let _ = fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
        }
    }
}
