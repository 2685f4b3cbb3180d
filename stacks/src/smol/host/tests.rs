//! Stacks that fail, beside others that go on.

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};

use super::super::call::Done;
use super::*;

/// What the tests' programs may do, and where: this process.
fn caller(fd: &OwnedFd) -> Caller {
    Caller { pid: std::process::id() as i32, uid: 0, fd: fd.as_raw_fd(), rights: true }
}

const NOBODY: Caller = Caller { pid: 0, uid: 0, fd: -1, rights: true };
const TCP: SocketSpec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
const UDP: SocketSpec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_DGRAM, protocol: 0 };

struct World {
    host: Host,
    _folder: tempfile::TempDir,
    tickets: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { host: Host::new(folder.path()).unwrap(), _folder: folder, tickets: 0 }
    }

    fn stack(&mut self, limits: &[&str]) -> StackKey {
        let mut config = StackConfig::default();
        limits.iter().for_each(|text| config.add_limit(text).unwrap());
        self.host.create("s", &config, Path::new("/nonexistent")).unwrap()
    }

    /// Makes a call. `None`: it waits, under the last ticket.
    fn ask(&mut self, file: &OwnedFd, call: SocketCall) -> Option<Result<Done, Errno>> {
        self.tickets += 1;
        let copy = file.try_clone().unwrap();
        let answered = self.host.call(now(), Ticket(self.tickets), &caller(file), copy, call);
        answered.map(|(result, _)| result)
    }

    fn call(&mut self, file: &OwnedFd, call: SocketCall) -> Result<Done, Errno> {
        self.ask(file, call).expect("an answer at once")
    }

    fn turns(&mut self) {
        for _ in 0..16 {
            self.host.turn().unwrap();
        }
    }

    /// A connection over the loopback: listener, and both ends.
    fn connection(&mut self, key: StackKey) -> (OwnedFd, OwnedFd, OwnedFd) {
        let listener = self.host.socket(key, TCP, &NOBODY, false).unwrap();
        self.call(&listener, SocketCall::Bind { address: localhost(80) }).unwrap();
        self.call(&listener, SocketCall::Listen { backlog: 5 }).unwrap();
        let client = self.host.socket(key, TCP, &NOBODY, false).unwrap();
        let connected = self.ask(&client, SocketCall::Connect { address: localhost(80) });
        self.turns();
        if connected.is_none() {
            assert_eq!(self.host.poll_done().unwrap().1.0, Ok(Done::Value(0)));
        }
        self.tickets += 1;
        let copy = listener.try_clone().unwrap();
        let (ticket, accept) = (Ticket(self.tickets), SocketCall::Accept { flags: 0 });
        let (answer, fd) = self.host.call(now(), ticket, &caller(&listener), copy, accept).unwrap();
        assert!(matches!(answer, Ok(Done::Accepted { .. })), "{answer:?}");
        (listener, client, fd.unwrap())
    }
}

fn localhost(port: u16) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
    bytes
}

/// Sends datagrams from a socket to itself, which nobody reads, until the stack has failed.
fn flood(world: &mut World, key: StackKey, count: usize) {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let Ok(udp) = world.host.socket(key, UDP, &NOBODY, false) else { return };
        let bind = SocketCall::Bind { address: localhost(0) };
        let named = world.ask(&udp, bind).and_then(|_| world.ask(&udp, SocketCall::LocalName)).unwrap();
        let Ok(Done::Address(name)) = named else { return };
        for _ in 0..20 {
            let (to, data) = (Some(name.clone()), vec![0; 30_000]);
            let _ =
                world.ask(&udp, SocketCall::Send { to, control: vec![], data, flags: libc::MSG_DONTWAIT });
        }
        sockets.push(udp);
    }
}

#[test]
fn a_panic_ends_one_stack_and_no_other() {
    let mut world = World::new();
    let (doomed, other) = (world.stack(&[]), world.stack(&[]));
    let (listener, client, _server) = world.connection(doomed);
    let (_l, mut fine, _s) = world.connection(other);
    let udp = world.host.socket(doomed, UDP, &caller(&client), false).unwrap();
    assert_eq!(world.ask(&listener, SocketCall::Accept { flags: 0 }), None, "it waits");
    let waiting = Ticket(world.tickets);
    assert!(world.host.guarded(doomed, |_, _| panic!("poisoned")).is_none());

    assert_eq!(
        world.host.poll_done().map(|(ticket, (result, _))| (ticket, result)),
        Some((waiting, Err(Errno::ENETDOWN)))
    );
    assert_eq!(world.host.failure(doomed), Some("its engine failed: poisoned"));
    assert_eq!(world.host.socket(doomed, TCP, &NOBODY, false).unwrap_err(), Errno::ENETDOWN);
    for file in [&listener, &client, &udp] {
        assert_eq!(world.call(file, SocketCall::LocalName), Err(Errno::ENETDOWN));
    }
    let error = TcpStream::from(client).read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    assert_eq!((world.host.poll_failed(), world.host.poll_failed()), (Some(doomed), None));

    assert_eq!(world.host.failure(other), None);
    assert!(matches!(world.call(&fine, SocketCall::PeerName), Ok(Done::Address(_))));
    fine = {
        let mut it = TcpStream::from(fine);
        std::io::Write::write_all(&mut it, b"x").unwrap();
        it.into()
    };
    world.turns();
    assert!(matches!(world.call(&fine, SocketCall::LocalName), Ok(Done::Address(_))));
    assert!(world.host.poll_timeout().is_none_or(|at| at > now()), "nothing spins");
}

#[test]
fn who_waits_on_a_descriptor_is_woken() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut world = World::new();
    let key = world.stack(&[]);
    let (listener, client, server) = world.connection(key);
    let udp = world.host.socket(key, UDP, &NOBODY, false).unwrap();
    // The stack knows who has a descriptor by the calls on it.
    world.call(&udp, SocketCall::LocalName).unwrap();
    assert!(world.host.guarded(key, |_, _| panic!("poisoned")).is_none());
    for file in [&listener, &client, &server, &udp] {
        let mut ready = [PollFd::new(file, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&now)), Ok(1));
    }
}

#[test]
fn too_much_memory_ends_a_stack() {
    let mut world = World::new();
    let (small, other) = (world.stack(&["memory=1M"]), world.stack(&[]));
    flood(&mut world, small, 2);
    assert_eq!(world.host.failure(small), None, "what it may use is no harm");
    flood(&mut world, small, 30);
    assert_eq!(world.host.failure(small), Some("it used more memory than its limit of 1M"));
    flood(&mut world, other, 30);
    assert_eq!(world.host.failure(other), None);
}

#[test]
fn too_much_time_ends_a_stack() {
    let mut world = World::new();
    let key = world.stack(&["cpu=1%"]);
    for _ in 0..1000 {
        flood(&mut world, key, 10);
        if world.host.failure(key).is_some() {
            break;
        }
    }
    let why = world.host.failure(key).expect("a busy stack is noticed");
    assert!(why.contains("1% of a processor"), "{why}");
}

#[test]
fn too_many_packets_end_a_stack() {
    let mut world = World::new();
    let mut stack = |n: u8, limits: &[&str]| {
        let mut config = StackConfig::default();
        config.add_line(&format!("eth0=pair:w,ip=10.0.0.{n}/24")).unwrap();
        limits.iter().for_each(|text| config.add_limit(text).unwrap());
        world.host.create("s", &config, Path::new("/nonexistent")).unwrap()
    };
    let (bounded, free) = (stack(1, &["packets=50/s"]), stack(2, &[]));
    let udp = world.host.socket(free, UDP, &NOBODY, false).unwrap();
    let mut to = localhost(9);
    to[4..8].copy_from_slice(&[10, 0, 0, 1]);
    for _ in 0..200 {
        let send = SocketCall::Send {
            to: Some(to.clone()),
            control: vec![],
            data: vec![1],
            flags: libc::MSG_DONTWAIT,
        };
        let _ = world.ask(&udp, send);
        world.turns();
    }
    assert_eq!(world.host.failure(bounded), Some("it passed more packets than its limit of 50/s"));
    assert_eq!(world.host.failure(free), None);
}

#[test]
fn a_call_with_a_limit_of_time_is_not_made_anew() {
    let mut world = World::new();
    let key = world.stack(&[]);
    let (listener, client, _server) = world.connection(key);
    let accept = SocketCall::Accept { flags: 0 };
    let interrupt = |world: &mut World| {
        assert_eq!(world.ask(&listener, accept.clone()), None, "it waits");
        let ticket = Ticket(world.tickets);
        world.host.cancel(ticket);
    };
    interrupt(&mut world);
    interrupt(&mut world);
    let limit = SocketCall::SetOption {
        level: libc::SOL_SOCKET,
        name: libc::SO_RCVTIMEO,
        value: [60u64.to_ne_bytes(), [0; 8]].concat(),
    };
    world.call(&listener, limit).unwrap();
    interrupt(&mut world);
    assert_eq!(world.call(&listener, accept.clone()), Err(Errno::EINTR));
    interrupt(&mut world);
    world.call(&client, SocketCall::LocalName).unwrap();
    interrupt(&mut world);
}

#[test]
fn what_was_sent_before_a_call_arrives_though_no_event_tells_of_it() {
    let mut world = World::new();
    let key = world.stack(&[]);
    let [server, client] = [(); 2].map(|()| world.host.socket(key, UDP, &NOBODY, false).unwrap());
    world.call(&server, SocketCall::Bind { address: localhost(5300) }).unwrap();
    world.call(&client, SocketCall::Connect { address: localhost(5300) }).unwrap();
    world.turns();
    rustix::net::send(&client, b"x", rustix::net::SendFlags::empty()).unwrap();
    world.call(&client, SocketCall::LocalName).unwrap();
    let mut byte = [0];
    let received = rustix::net::recv(&server, &mut byte[..], rustix::net::RecvFlags::DONTWAIT);
    assert_eq!(received.map(|(length, _)| length), Ok(1));
}
