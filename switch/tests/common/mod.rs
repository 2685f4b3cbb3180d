//! Worlds for the switch's integration tests: namespaces of their own, a served switch, real traffic.
//!
//! # Theory of operation
//! A test runs itself again under `unshare --map-root-user --net` ([`isolated`]), where it may make network
//! namespaces as any user; everything ends with that process. There, a [`Namespace`] is a thread in a network
//! namespace of its own, and closures run in it: sockets they open and commands they start belong to it.

#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod programs;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use switch::client::{Attach, Client, Kind};
use switch::ports::{packet, tap};
use switch::serve;
use switch::vlan::{PortVlans, Vid, VidSet};

const INNER: &str = "VIEWNET_TEST_INNER";

/// Runs `body` in user and network namespaces of its own; `name` is the calling test's.
#[expect(clippy::disallowed_methods, reason = "how the inner run knows that it is one")]
pub(crate) fn isolated(name: &str, body: fn()) {
    if std::env::var_os(INNER).is_some() {
        return body();
    }
    let probe = Command::new("unshare").args(["--map-root-user", "--net", "true"]).output();
    if !probe.as_ref().is_ok_and(|out| out.status.success()) {
        return eprintln!("{name}: SKIPPED, no user namespaces here: {probe:?}");
    }
    let out = Command::new("unshare")
        .args(["--map-root-user", "--net", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).concat();
    eprintln!("{text}");
    assert!(out.status.success(), "{name} failed inside its namespaces");
}

/// Is there a /dev/net/tun for us? Says so if not.
pub(crate) fn has_tap() -> bool {
    let opened = std::fs::File::open(tap::DEVICE);
    if let Err(e) = &opened {
        eprintln!("SKIPPED, {}: {e}", tap::DEVICE);
    }
    opened.is_ok()
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that dies with this value.
pub(crate) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                todo.into_iter().for_each(|job| job());
            })
            .unwrap();
        let ns = Self { jobs: Some(jobs), thread: Some(thread) };
        ns.sh("ip link set lo up");
        ns
    }

    /// Starts `job` in the namespace; the receiver gives its result.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> std::sync::mpsc::Receiver<T> {
        let (sender, receiver) = channel();
        let job = Box::new(move || drop(sender.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        receiver
    }

    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("the job panicked")
    }

    /// Runs a shell command; panics with its output if it fails.
    pub(crate) fn sh(&self, command: &str) {
        assert!(self.try_sh(command), "{command}");
    }

    pub(crate) fn try_sh(&self, command: &str) -> bool {
        let command = command.to_owned();
        self.run(move || {
            let out = Command::new("sh").args(["-ec", &command]).output().unwrap();
            if !out.status.success() {
                eprintln!(
                    "$ {command}\n{}{}",
                    String::from_utf8_lossy(&out.stdout),
                    String::from_utf8_lossy(&out.stderr)
                );
            }
            out.status.success()
        })
    }

    /// Brings an interface up with addresses.
    pub(crate) fn configure(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.sh(&format!("ip addr add {address} dev {interface} {nodad}"));
        }
        self.sh(&format!("ip link set {interface} up"));
    }

    pub(crate) fn tap(&self) -> OwnedFd {
        self.run(|| tap::open(Path::new(tap::DEVICE), "eth0").unwrap().0)
    }

    pub(crate) fn plain_tap(&self) -> OwnedFd {
        self.run(|| tap::open_plain(Path::new(tap::DEVICE), "eth0").unwrap().0)
    }

    /// A packet socket on the other end of a veth pair whose end here is `eth0`.
    pub(crate) fn veth(&self) -> OwnedFd {
        self.sh("ip link add eth0 type veth peer name wire && ip link set wire up addrgenmode none");
        self.packet("wire")
    }

    /// A packet socket on an interface.
    pub(crate) fn packet(&self, interface: &'static str) -> OwnedFd {
        self.run(move || packet::open(nix::net::if_::if_nametoindex(interface).unwrap()).unwrap())
    }

    pub(crate) fn ping(&self, address: &str) -> bool {
        self.try_sh(&format!("ping -n -c 1 -W 2 {address} >/dev/null"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// A served switch that ends with this value.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) path: PathBuf,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Served {
    pub(crate) fn new(idle: Option<Duration>) -> Self {
        Self::set_up(idle, |_| {})
    }

    /// As `set_up` has it.
    pub(crate) fn set_up(idle: Option<Duration>, set_up: fn(&mut serve::Server)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test");
        let options = serve::Options { idle, ..serve::Options::new("test", &path) };
        // In the thread whose signals it blocks; the path is there when it answers.
        let (ready, is_ready) = channel();
        let serve = move || {
            let mut server = serve::Server::new(&options, None).unwrap();
            set_up(&mut server);
            ready.send(()).unwrap();
            server.run()
        };
        let thread = std::thread::Builder::new().spawn(serve).unwrap();
        is_ready.recv().unwrap();
        Self { dir, path, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// Waits for the end.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Ok(mut client) = Client::connect(&self.path) {
            let _ = client.down();
        }
        if !std::thread::panicking() {
            self.join();
        }
    }
}

pub(crate) fn access(kind: Kind, vid: u16) -> Attach {
    Attach { vlans: PortVlans::Access { vid: Vid::new(vid).unwrap() }, ..Attach::new(kind) }
}

pub(crate) fn trunk(kind: Kind, allowed: &str, native: Option<u16>) -> Attach {
    let allowed: VidSet = allowed.parse().unwrap();
    Attach { vlans: PortVlans::Trunk { native: native.and_then(Vid::new), allowed }, ..Attach::new(kind) }
}

/// Sends `len` bytes by TCP from one namespace to an address of the other, and back their checksum.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: &str, len: usize) {
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(move || TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let received = to.start(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let bytes: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let sent = bytes.clone();
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(20)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert!(received.recv().unwrap() == bytes, "the bytes arrived changed");
}

/// A descriptor fit for a port, of the best kind this machine lets us have, and its kind.
pub(crate) fn any_port(ns: &Namespace) -> (OwnedFd, Kind) {
    if has_tap() { (ns.tap(), Kind::Tap) } else { (ns.veth(), Kind::Packet) }
}

/// Waits until `what` holds: on a machine that has other things to do for half a minute.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}
