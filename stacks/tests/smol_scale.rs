//! What many smol stacks, and many connections of one, cost: alone in its process, and one measurement after
//! the other, as it measures the whole process. `-- --nocapture` shows the figures.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use stacks::config::StackConfig;
use stacks::smol::call::{Caller, Done, SocketCall, SocketHost, Ticket};
use stacks::smol::engine::{Engine, SocketId};
use stacks::smol::host::{Host, StackKey};
use stacks::smol::tables::IfIndex;
use stacks::stack::SocketSpec;
use switch::client::Client;
use switch::offload::VnetHdr;
use switch::serve;

const OWNER: Caller = Caller { pid: 0, uid: 0, fd: -1, rights: true };
const TCP: SocketSpec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
const ETH0: IfIndex = IfIndex(2);
const STACKS: usize = 10_000;
/// Bytes that so many idle stacks may take together.
const MOST_FOR_STACKS: usize = 1 << 30;
/// Bytes of ours that an idle connection may take; the kernel's are apart.
const MOST_FOR_CONNECTION: usize = 2048;
/// Connections to one port of one peer: nearly all ports that there are.
const TO_ONE_PORT: usize = 25_000;
/// Between two requests, in virtual time: acknowledgements wait for ten milliseconds.
const BETWEEN: Duration = Duration::from_micros(20);
/// How much more a request may cost among many connections: caches are what they are.
const FLAT: f64 = 4.0;

#[test]
fn idle_stacks_and_connections_cost_little() {
    hosted_connections();
    // Kept, so that what comes next is in fresh memory.
    let kept = many_stacks();
    let few = requests(100);
    let many = requests(100_000);
    drop(kept);
    idle_on_a_switch();
    println!("a request and its reply: {few:.0} ns among 100 connections, {many:.0} ns among 100,000");
    assert!(many < few * FLAT, "{few} {many}");
}

#[expect(clippy::disallowed_methods, reason = "the shell's clock")]
fn now() -> Instant {
    Instant::now()
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

fn cpu() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock").into()
}

/// Lets a host work until it has nothing to do, ever.
fn settle(host: &mut Host) {
    let end = now() + Duration::from_secs(60);
    while now() < end {
        host.turn().expect("a turn");
        let wait = host.poll_timeout().map(|at| at.saturating_duration_since(now()));
        // Whatever the wire brings comes within this time.
        let wait = wait.map_or(300, |wait| wait.as_millis().min(300) as u16);
        let mut ready = [PollFd::new(host.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::from(wait)).expect("it polls") == 0 && host.poll_timeout().is_none()
        {
            return;
        }
    }
    panic!("an idle stack has a timer: {:?}", host.poll_timeout().map(|at| at - now()));
}

fn config(line: &str) -> StackConfig {
    let mut config = StackConfig::default();
    config.add_line(line).expect("a good line");
    config
}

fn many_stacks() -> Host {
    let folder = tempfile::tempdir().expect("a folder");
    let mut host = Host::new(folder.path()).expect("a host");
    let config = config("eth0=none,ip=10.0.0.1/24,ip=fd00::1/64,gw=10.0.0.254");
    let before = resident();
    for _ in 0..STACKS {
        host.create("s", &config, Path::new("/nonexistent")).expect("a stack");
    }
    settle(&mut host);
    let taken = resident() - before;
    println!("{STACKS} idle stacks: {} MB, {} bytes each", taken >> 20, taken / STACKS);
    assert!(taken <= MOST_FOR_STACKS, "{taken}");
    host
}

fn idle_on_a_switch() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lan");
    let options = serve::Options::new("lan", &path);
    let server = serve::Server::new(&options, None).expect("a switch");
    let thread = std::thread::Builder::new().spawn(move || server.run()).expect("a thread");
    let mut host = Host::new(folder.path()).expect("a host");
    let before = resident();
    for n in 1..=10 {
        let line = format!("eth0=switch:lan,ip=10.0.0.{n}/24,ip=fd00::{n}/64,gw=10.0.0.254");
        host.create("s", &config(&line), folder.path()).expect("a stack");
    }
    settle(&mut host);
    println!("10 stacks on a switch: {} bytes each", (resident() - before) / 10);
    let spent = cpu();
    let mut ready = [PollFd::new(host.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(1000u16)), Ok(0), "nothing happens");
    println!("and in a second {:?} of processor time", cpu() - spent);
    drop(host);
    Client::connect(&path).expect("a switch").down().expect("down");
    thread.join().expect("it ends").expect("in order");
}

/// A call that is answered at once, or after some turns.
fn call(host: &mut Host, file: &OwnedFd, call: SocketCall) -> (Result<Done, Errno>, Option<OwnedFd>) {
    let caller = Caller { pid: std::process::id() as i32, fd: file.as_raw_fd(), ..OWNER };
    let copy = file.try_clone().expect("a duplicate");
    if let Some(answered) = host.call(now(), Ticket(1), &caller, copy, call) {
        return answered;
    }
    for _ in 0..100 {
        host.turn().expect("a turn");
        if let Some((_, answered)) = host.poll_done() {
            return answered;
        }
    }
    panic!("no answer");
}

fn hosted_connections() {
    const CONNECTIONS: usize = 3000;
    raise_limit(CONNECTIONS as u64 * 8 + 2000);
    let folder = tempfile::tempdir().expect("a folder");
    let mut host = Host::new(folder.path()).expect("a host");
    let key = host.create("s", &StackConfig::default(), Path::new("/nonexistent")).expect("a stack");
    let listener = host.socket(key, TCP, &OWNER, false).expect("a socket");
    call(&mut host, &listener, SocketCall::Bind { address: name([127, 0, 0, 1], 80) }).0.expect("bound");
    call(&mut host, &listener, SocketCall::Listen { backlog: 100 }).0.expect("listens");
    // Tables have their first size, scratch memory is there.
    let mut ends = connect(&mut host, key, &listener, 100);
    let before = resident();
    ends.extend(connect(&mut host, key, &listener, CONNECTIONS));
    settle(&mut host);
    let each = (resident() - before) / (2 * CONNECTIONS);
    println!(
        "{CONNECTIONS} connections inside a hosted stack: {each} bytes for each of two ends, pump and all"
    );
    assert!(each <= MOST_FOR_CONNECTION, "{each}");
}

fn connect(host: &mut Host, key: StackKey, listener: &OwnedFd, count: usize) -> Vec<OwnedFd> {
    let mut ends = Vec::with_capacity(2 * count);
    for _ in 0..count {
        let client = host.socket(key, TCP, &OWNER, false).expect("a socket");
        let connect = SocketCall::Connect { address: name([127, 0, 0, 1], 80) };
        assert_eq!(call(host, &client, connect).0, Ok(Done::Value(0)));
        let (accepted, fd) = call(host, listener, SocketCall::Accept { flags: 0 });
        accepted.expect("accepted");
        ends.extend([client, fd.expect("a descriptor")]);
    }
    ends
}

fn raise_limit(count: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, count.min(hard), hard).expect("a limit");
}

fn name(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address);
    bytes
}

/// Two engines, frames handed from one to the other.
struct Pair {
    engines: [Engine; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = now();
        let engine = |n: u8| {
            let line = format!("eth0=none,ip=10.0.0.{n}/24,mac=02:00:00:00:00:0{n}");
            let mut engine = Engine::new(&config(&line), [n; 32], now).expect("good");
            engine.plug(now, ETH0, true);
            engine
        };
        Self { engines: [engine(1), engine(2)], now }
    }

    fn settle(&mut self) {
        let mut frames = Vec::new();
        loop {
            for from in 0..2 {
                self.engines[from].poll_transmit(self.now, &mut |_, header: &VnetHdr, frame| {
                    frames.push((1 - from, *header, frame.to_vec()));
                });
            }
            if frames.is_empty() {
                break;
            }
            for (to, header, frame) in frames.drain(..) {
                self.engines[to].handle_frame(self.now, ETH0, &header, &frame);
            }
        }
        for engine in &mut self.engines {
            while engine.poll_dirty().is_some() {}
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) =
            self.engines.iter().filter_map(Engine::poll_timeout).min().filter(|at| *at <= end)
        {
            self.now = self.now.max(at);
            self.engines.iter_mut().for_each(|engine| engine.handle_timeout(self.now));
            self.settle();
        }
        self.now = end;
    }

    fn say(&mut self, at: usize, id: SocketId, data: &[u8]) {
        let mut rest = data;
        self.engines[at].send_with(self.now, id, &mut |room| {
            let length = rest.len().min(room.len());
            room[..length].copy_from_slice(&rest[..length]);
            rest = &rest[length..];
            length
        });
        self.settle();
        assert_eq!(self.engines[1 - at].poll_dirty(), None);
    }
}

/// Nanoseconds of a request of 100 bytes and its reply, on any of so many connections.
fn requests(connections: usize) -> f64 {
    const REQUESTS: usize = 20_000;
    let before = resident();
    let mut pair = Pair::new();
    let call =
        |pair: &mut Pair, at: usize, id, call: SocketCall| pair.engines[at].call(pair.now, id, &OWNER, &call);
    let mut ends = Vec::with_capacity(connections);
    let mut listener = None;
    for n in 0..connections {
        let port = 80 + (n / TO_ONE_PORT) as u16;
        if n % TO_ONE_PORT == 0 {
            let id = pair.engines[1].socket(pair.now, TCP, &OWNER).expect("a socket");
            call(&mut pair, 1, id, SocketCall::Bind { address: name([0; 4], port) }).expect("bound");
            call(&mut pair, 1, id, SocketCall::Listen { backlog: 10 }).expect("listens");
            listener = Some(id);
        }
        let client = pair.engines[0].socket(pair.now, TCP, &OWNER).expect("a socket");
        let begun = call(&mut pair, 0, client, SocketCall::Connect { address: name([10, 0, 0, 2], port) });
        assert_eq!(begun, Err(Errno::EINPROGRESS));
        pair.settle();
        let (server, _) = pair.engines[1].accept(pair.now, listener.expect("a listener")).expect("accepted");
        ends.push((client, server));
    }
    pair.wait(Duration::from_secs(120));
    if connections >= 10_000 {
        let each = (resident() - before) / (2 * connections);
        println!("{connections} idle connections between two engines: {each} bytes for each end");
        assert!(each <= MOST_FOR_CONNECTION, "{each}");
        assert_eq!(
            pair.engines.iter().filter_map(Engine::poll_timeout).min(),
            None,
            "an idle one has a timer"
        );
    }
    let (mut dice, start) = (12_345u64, cpu());
    for _ in 0..REQUESTS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (client, server) = ends[(dice >> 33) as usize % connections];
        pair.say(0, client, &[1; 100]);
        assert_eq!(pair.engines[1].receive_with(pair.now, server, &mut |bytes| bytes.len()), 100);
        pair.say(1, server, &[2; 100]);
        assert_eq!(pair.engines[0].receive_with(pair.now, client, &mut |bytes| bytes.len()), 100);
        pair.wait(BETWEEN);
    }
    (cpu() - start).as_nanos() as f64 / REQUESTS as f64
}
