//! The engine in virtual time: one over its loopback, two over a wire that loses, delays and repeats.

mod arbitrary;
mod binding;
mod datagrams;
mod options;
mod others;
mod sim;
mod streams;
mod transparent;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use switch::frame::{Frame as Whole, TagEdit};
use switch::offload::{self, VnetHdr};
use switch::port::Offloads;

use super::{Engine, SocketId};
use crate::config::StackConfig;
use crate::smol::call::{Caller, Done, Message, SocketCall};
use crate::smol::sockets::address::{Domain, Endpoint, emit, family, parse_in, parse_in6};
use crate::smol::tables::IfIndex;
use crate::stack::SocketSpec;

/// The stack's owner.
const OWNER: Caller = Caller { pid: 100, uid: 0, fd: 3, rights: true };
/// Somebody else.
const GUEST: Caller = Caller { pid: 101, uid: 1001, fd: 3, rights: false };
/// The interface of the configuration.
const ETH0: IfIndex = IfIndex(2);

#[expect(clippy::disallowed_methods, reason = "any beginning will do")]
fn start() -> Instant {
    Instant::now()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Random numbers of tests (xorshift64*).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

/// What the wire does to frames, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    loss: u64,
    duplication: u64,
    /// Most extra delay, in milliseconds.
    jitter: u64,
    /// One bit is another one. Such a wire cuts super-segments and has no offloads.
    corruption: u64,
}

/// A frame under way: to which engine, with what.
type Frame = (usize, VnetHdr, Vec<u8>);

/// Engines on one wire.
struct World {
    now: Instant,
    engines: Vec<Engine>,
    wire: BTreeMap<(Instant, u64), Frame>,
    sent: u64,
    trouble: Trouble,
    dice: Dice,
}

fn engine(line: &str, seed: u8, now: Instant) -> Engine {
    let mut config = StackConfig::default();
    if !line.is_empty() {
        config.add_line(line).unwrap();
    }
    let mut engine = Engine::new(&config, [seed; 32], now).unwrap();
    engine.plug(now, ETH0, true);
    engine
}

/// Frames as they are on a wire: of its length, with their checksums.
fn bare(frames: &[(VnetHdr, Vec<u8>)]) -> Vec<(VnetHdr, Vec<u8>)> {
    let mut out = Vec::new();
    for (header, frame) in frames {
        let whole = Whole::new(frame).expect("a frame");
        let done = offload::emit(header, whole, TagEdit::Keep, Offloads::NONE, |header, pieces| {
            out.push((*header, pieces.concat()));
            std::ops::ControlFlow::Continue(())
        });
        done.expect("frames of ours are good");
    }
    out
}

impl World {
    /// One engine that has its loopback.
    fn alone() -> Self {
        let now = start();
        Self::of(vec![engine("", 1, now)], now)
    }

    /// Two engines, 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2.
    fn pair(seed: u64, trouble: Trouble) -> Self {
        let now = start();
        let one = engine("eth0=none,ip=10.0.0.1/24,ip=fd00::1/64,mac=02:00:00:00:00:01", 1, now);
        let two = engine("eth0=none,ip=10.0.0.2/24,ip=fd00::2/64,mac=02:00:00:00:00:02", 2, now);
        let mut world = Self::of(vec![one, two], now);
        world.dice = Dice(seed | 1);
        world.trouble = trouble;
        world.run(ms(10));
        world
    }

    fn of(engines: Vec<Engine>, now: Instant) -> Self {
        Self { now, engines, wire: BTreeMap::new(), sent: 0, trouble: Trouble::default(), dice: Dice(7) }
    }

    /// Takes from every engine what it wants to send. Whether there was anything.
    fn collect(&mut self) -> bool {
        let mut any = false;
        for from in 0..self.engines.len() {
            let mut frames = Vec::new();
            any |= self.engines[from].poll_transmit(self.now, &mut |link, header, frame| {
                assert_eq!(link, ETH0);
                frames.push((*header, frame.to_vec()));
            });
            any |= !frames.is_empty();
            if self.engines.len() == 2 {
                let frames = if self.trouble.corruption > 0 { bare(&frames) } else { frames };
                frames.into_iter().for_each(|(header, frame)| self.carry(1 - from, header, frame));
            }
        }
        any
    }

    fn carry(&mut self, to: usize, header: VnetHdr, mut frame: Vec<u8>) {
        if self.dice.roll(1000) < self.trouble.loss {
            return;
        }
        // What has no checksum of its own relies on the wire's.
        let summed = frame[12..14] != [0x08, 0x06];
        if self.trouble.corruption > 0 && summed && self.dice.roll(1000) < self.trouble.corruption {
            let at = self.dice.roll(frame.len() as u64) as usize;
            frame[at] ^= 1 << self.dice.roll(8);
        }
        let copies = 1 + u64::from(self.dice.roll(1000) < self.trouble.duplication);
        for _ in 0..copies {
            let delay = ms(1 + self.dice.roll(self.trouble.jitter + 1));
            self.sent += 1;
            self.wire.insert((self.now + delay, self.sent), (to, header, frame.clone()));
        }
    }

    /// Lets time pass, or less if nothing is left to happen.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while self.collect() {}
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let timeout = self.engines.iter().filter_map(Engine::poll_timeout).min();
            let Some(next) = arrival.into_iter().chain(timeout).min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (to, header, frame) = entry.remove();
                let engine = &mut self.engines[to];
                if let Some(lent) = engine.handle_frame_lending(self.now, ETH0, &header, &frame) {
                    // A program that takes nothing changes nothing.
                    engine.settle(self.now, &lent, &frame, 0);
                }
            }
            for engine in &mut self.engines {
                if engine.poll_timeout().is_some_and(|at| at <= self.now) {
                    engine.handle_timeout(self.now);
                }
            }
        }
    }

    fn socket(&mut self, at: usize, domain: i32, kind: i32, protocol: i32) -> SocketId {
        self.engines[at].socket(self.now, SocketSpec { domain, kind, protocol }, &OWNER).unwrap()
    }

    fn tcp(&mut self, at: usize) -> SocketId {
        self.socket(at, libc::AF_INET, libc::SOCK_STREAM, 0)
    }

    fn udp(&mut self, at: usize) -> SocketId {
        self.socket(at, libc::AF_INET, libc::SOCK_DGRAM, 0)
    }

    fn call(&mut self, at: usize, id: SocketId, call: SocketCall) -> Result<Done, Errno> {
        self.engines[at].call(self.now, id, &OWNER, &call)
    }

    fn bind(&mut self, at: usize, id: SocketId, name: &str) -> Result<(), Errno> {
        self.call(at, id, SocketCall::Bind { address: sockaddr(name) }).map(drop)
    }

    fn listen(&mut self, at: usize, id: SocketId, backlog: i32) -> Result<(), Errno> {
        self.call(at, id, SocketCall::Listen { backlog }).map(drop)
    }

    fn connect(&mut self, at: usize, id: SocketId, name: &str) -> Result<(), Errno> {
        self.call(at, id, SocketCall::Connect { address: sockaddr(name) }).map(drop)
    }

    /// A listener.
    fn server(&mut self, at: usize, name: &str) -> SocketId {
        let family = if name.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
        let id = self.socket(at, family, libc::SOCK_STREAM, 0);
        self.set(at, id, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).unwrap();
        self.bind(at, id, name).unwrap();
        self.listen(at, id, 128).unwrap();
        id
    }

    fn accept(&mut self, at: usize, id: SocketId) -> Option<SocketId> {
        self.engines[at].accept(self.now, id).map(|(id, _)| id)
    }

    fn set(&mut self, at: usize, id: SocketId, level: i32, name: i32, n: i32) -> Result<(), Errno> {
        let value = n.to_ne_bytes().to_vec();
        self.call(at, id, SocketCall::SetOption { level, name, value }).map(drop)
    }

    fn get(&mut self, at: usize, id: SocketId, level: i32, name: i32) -> Result<i32, Errno> {
        let call = SocketCall::GetOption { level, name, value: vec![0; 4] };
        match self.call(at, id, call)? {
            Done::Bytes(bytes) => Ok(i32::from_ne_bytes(bytes.try_into().unwrap())),
            other => panic!("{other:?}"),
        }
    }

    fn error(&mut self, at: usize, id: SocketId) -> Option<Errno> {
        match self.get(at, id, libc::SOL_SOCKET, libc::SO_ERROR).unwrap() {
            0 => None,
            n => Some(Errno::from_raw(n)),
        }
    }

    fn name(&mut self, at: usize, id: SocketId) -> SocketAddr {
        match self.call(at, id, SocketCall::LocalName).unwrap() {
            Done::Address(bytes) => parsed(&bytes),
            other => panic!("{other:?}"),
        }
    }

    fn peer(&mut self, at: usize, id: SocketId) -> Result<SocketAddr, Errno> {
        match self.call(at, id, SocketCall::PeerName)? {
            Done::Address(bytes) => Ok(parsed(&bytes)),
            other => panic!("{other:?}"),
        }
    }

    /// Writes as much as there is room for.
    fn write(&mut self, at: usize, id: SocketId, data: &[u8]) -> usize {
        let mut rest = data;
        self.engines[at].send_with(self.now, id, &mut |room| {
            let n = room.len().min(rest.len());
            room[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            n
        })
    }

    /// Reads all there is.
    fn read(&mut self, at: usize, id: SocketId) -> Vec<u8> {
        let mut out = Vec::new();
        self.engines[at].receive_with(self.now, id, &mut |bytes| {
            out.extend_from_slice(bytes);
            bytes.len()
        });
        out
    }

    fn send_to(&mut self, at: usize, id: SocketId, to: Option<&str>, data: &[u8]) -> Result<Done, Errno> {
        let to = to.map(sockaddr);
        self.call(at, id, SocketCall::Send { to, control: Vec::new(), data: data.to_vec(), flags: 0 })
    }

    fn receive(&mut self, at: usize, id: SocketId) -> Result<Message, Errno> {
        self.receive_with(at, id, 0)
    }

    fn receive_with(&mut self, at: usize, id: SocketId, flags: i32) -> Result<Message, Errno> {
        match self.call(at, id, SocketCall::Receive { length: 65536, control: 1024, flags, named: true })? {
            Done::Received(message) => Ok(message),
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self, at: usize, id: SocketId) {
        self.engines[at].close(self.now, id, false);
    }

    /// A connection between two engines or inside one: client and server ends.
    fn connected(&mut self, from: usize, to: usize, name: &str) -> (SocketId, SocketId) {
        let server = self.server(to, name);
        let family = if name.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
        let client = self.socket(from, family, libc::SOCK_STREAM, 0);
        assert_eq!(self.connect(from, client, name), Err(Errno::EINPROGRESS));
        self.run(ms(100));
        let accepted = self.accept(to, server).expect("a connection");
        self.close(to, server);
        (client, accepted)
    }
}

fn sockaddr(name: &str) -> Vec<u8> {
    let name: SocketAddr = name.parse().unwrap();
    let domain = if name.is_ipv4() { Domain::V4 } else { Domain::V6 };
    let mut endpoint = Endpoint::new(name.ip(), name.port());
    if let SocketAddr::V6(v6) = name {
        endpoint.scope = v6.scope_id();
    }
    emit(domain, &endpoint)
}

fn parsed(bytes: &[u8]) -> SocketAddr {
    let endpoint = match family(bytes) {
        Some(libc::AF_INET) => parse_in(bytes),
        _ => parse_in6(bytes),
    }
    .unwrap();
    SocketAddr::new(endpoint.address, endpoint.port)
}

/// `struct sockaddr` of a family and nothing else.
fn unspecified() -> Vec<u8> {
    vec![0; 16]
}
