//! What the engine costs alone: two of them in one thread, frames handed over without a copy of our own.
//!
//! `cargo run --release -p stacks --example engine_bench`: bulk data with and without super-segments, small
//! requests on one of N connections, and connecting.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::{Duration, Instant};

use nix::errno::Errno;
use stacks::config::StackConfig;
use stacks::smol::call::{Caller, SocketCall};
use stacks::smol::engine::{Engine, SocketId};
use stacks::smol::tables::IfIndex;
use stacks::stack::SocketSpec;
use switch::offload::VnetHdr;

const OWNER: Caller = Caller { pid: 1, uid: 0, fd: 3, rights: true };
const ETH0: IfIndex = IfIndex(2);

struct Pair {
    engines: [Engine; 2],
    frames: u64,
    buffers: Vec<(VnetHdr, Vec<u8>)>,
}

impl Pair {
    fn new(super_segments: bool) -> Self {
        let now = Instant::now();
        let engine = |n: u8| {
            let mut config = StackConfig::default();
            let line = format!("eth0=none,ip=10.0.0.{n}/16,mac=02:00:00:00:00:0{n}");
            config.add_line(&line).expect("a good line");
            let mut engine = Engine::new(&config, [n; 32], now).expect("a good configuration");
            engine.set_super_segments(super_segments);
            engine.plug(now, ETH0, true);
            engine
        };
        Self { engines: [engine(1), engine(2)], frames: 0, buffers: Vec::new() }
    }

    /// Carries frames until nobody has any.
    fn settle(&mut self) {
        let now = Instant::now();
        loop {
            let mut any = false;
            for from in 0..2 {
                let mut used = 0;
                let buffers = &mut self.buffers;
                any |= self.engines[from].poll_transmit(now, &mut |_, header, frame| {
                    if used == buffers.len() {
                        buffers.push((VnetHdr::default(), Vec::new()));
                    }
                    let (to, buffer) = &mut buffers[used];
                    *to = *header;
                    buffer.clear();
                    buffer.extend_from_slice(frame);
                    used += 1;
                });
                self.frames += used as u64;
                any |= used > 0;
                for (header, frame) in &self.buffers[..used] {
                    self.engines[1 - from].handle_frame(now, ETH0, header, frame);
                }
            }
            if !any {
                break;
            }
        }
        for engine in &mut self.engines {
            if engine.poll_timeout().is_some_and(|at| at <= now) {
                engine.handle_timeout(now);
            }
            while engine.poll_dirty().is_some() {}
        }
    }

    fn socket(&mut self, at: usize) -> SocketId {
        let spec = SocketSpec { domain: libc::AF_INET, kind: libc::SOCK_STREAM, protocol: 0 };
        self.engines[at].socket(Instant::now(), spec, &OWNER).expect("a socket")
    }

    fn call(&mut self, at: usize, id: SocketId, call: &SocketCall) -> Result<(), Errno> {
        self.engines[at].call(Instant::now(), id, &OWNER, call).map(drop)
    }

    fn listen(&mut self, port: u16) -> SocketId {
        let id = self.socket(1);
        self.call(1, id, &SocketCall::Bind { address: name([0; 4], port) }).expect("bound");
        self.call(1, id, &SocketCall::Listen { backlog: 4096 }).expect("listens");
        id
    }

    fn connect(&mut self, listener: SocketId, port: u16) -> (SocketId, SocketId) {
        let id = self.socket(0);
        let call = SocketCall::Connect { address: name([10, 0, 0, 2], port) };
        assert_eq!(self.call(0, id, &call), Err(Errno::EINPROGRESS));
        self.settle();
        let (server, _) = self.engines[1].accept(Instant::now(), listener).expect("accepted");
        (id, server)
    }
}

fn name(address: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address);
    bytes
}

/// The processor's time of this thread, by the scheduler's account.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}

fn bulk(super_segments: bool, bytes: usize) {
    let mut pair = Pair::new(super_segments);
    let listener = pair.listen(80);
    let (client, server) = pair.connect(listener, 80);
    let (mut received, mut left) = (0, bytes);
    let mut start = (cpu(), pair.frames);
    let mut warm = bytes / 10;
    while received < bytes {
        let now = Instant::now();
        left -= pair.engines[0].send_with(now, client, &mut |room| room.len().min(left));
        pair.settle();
        received += pair.engines[1].receive_with(now, server, &mut |data| data.len());
        pair.settle();
        if warm > 0 && received >= warm {
            warm = 0;
            start = (cpu(), pair.frames);
        }
    }
    let (time, frames) = (cpu() - start.0, pair.frames - start.1);
    let moved = (received - bytes / 10) as f64;
    println!(
        "bulk, super-segments {super_segments}: {:.1} Gbit/s per cpu, {:.0} ns per 1448 bytes, {frames} frames, {:.0} ns each",
        moved * 8.0 / time.as_nanos() as f64,
        time.as_nanos() as f64 / (moved / 1448.0),
        time.as_nanos() as f64 / frames as f64
    );
}

fn requests(connections: usize, count: usize) {
    let mut pair = Pair::new(true);
    let mut ends = Vec::with_capacity(connections);
    let start = cpu();
    let listeners: Vec<_> = (0..connections.div_ceil(25_000)).map(|n| pair.listen(80 + n as u16)).collect();
    for n in 0..connections {
        let which = n / 25_000;
        ends.push(pair.connect(listeners[which], 80 + which as u16));
    }
    let set_up = (cpu() - start).as_nanos() as f64 / connections as f64;
    let (mut dice, start, mut busy) = (12345u64, cpu(), false);
    for _ in 0..count {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (client, server) = ends[(dice >> 33) as usize % connections];
        let now = Instant::now();
        pair.engines[0].send_with(now, client, &mut |room| one(room, &mut busy));
        pair.settle();
        pair.engines[1].receive_with(now, server, &mut |data| data.len());
        pair.engines[1].send_with(now, server, &mut |room| one(room, &mut busy));
        pair.settle();
        pair.engines[0].receive_with(now, client, &mut |data| data.len());
        pair.settle();
    }
    let each = (cpu() - start).as_nanos() as f64 / count as f64;
    println!(
        "{connections} connections: {each:.0} ns per request and reply, {set_up:.0} ns to connect (both ends)"
    );
}

/// One byte, then none.
fn one(room: &mut [u8], written: &mut bool) -> usize {
    *written = !*written;
    if *written {
        room[0] = 1;
    }
    usize::from(*written)
}

fn main() {
    if std::env::args().len() == 1 {
        bulk(true, 4 << 30);
        bulk(false, 1 << 30);
    }
    let only = std::env::args().nth(1).and_then(|n| n.parse().ok());
    for connections in only.map_or_else(|| vec![1, 100, 10_000, 100_000], |n| vec![n]) {
        requests(connections, 200_000);
    }
}
