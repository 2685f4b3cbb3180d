//! What TCP costs without anything below it: two machines in one thread, no link between them.
//!
//! `cargo run --release -p stacks --example tcp_bench [CONNECTIONS]` prints nanoseconds of CPU, for both ends
//! together, per frame and per request, and the memory of idle connections.

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use stacks::smol::tcp::{Congestion, Connection, Ends, Machine, Settings, Tcp};

/// Room before a segment.
const HEADROOM: usize = 128;
/// Bytes per transfer.
const TRANSFER: usize = 1 << 30;
/// Requests per measurement.
const REQUESTS: usize = 400_000;

fn main() {
    println!("bulk, one connection, both ends, {} MiB:", TRANSFER >> 20);
    for (name, mtu, super_segments) in
        [("1500", 1500, false), ("9000", 9000, false), ("1500, super", 1500, true), ("65535", 65_535, false)]
    {
        let best = (0..3).map(|_| bulk(mtu, super_segments)).min_by(|a, b| a.0.total_cmp(&b.0));
        let (per_frame, gigabits, size) = best.unwrap_or_default();
        println!("  MTU {name:12} {per_frame:8.0} ns/frame of {size:5} B, {gigabits:6.1} Gbit/s per CPU");
    }
    let most = std::env::args().nth(1).and_then(|it| it.parse().ok()).unwrap_or(10_000);
    println!("one byte there and back, on connections at random:");
    let mut count = 1;
    while count <= most {
        requests(count);
        count *= 10;
    }
}

/// Nanoseconds per frame, Gbit/s and bytes per frame.
fn bulk(mtu: u32, super_segments: bool) -> (f64, f64, usize) {
    let mut bench = Bench::new(Settings { mtu, super_segments, ..settings(1 << 20) });
    let mut pair = bench.open(0);
    let source = vec![7; 1 << 20];
    let mut sink = vec![0; 1 << 20];
    let (mut sent, mut got, mut frames) = (0, 0, 0);
    let before = cpu_ns();
    while got < TRANSFER {
        let now = bench.now;
        sent += bench.client.send_with(now, &mut pair[0], &mut |room| {
            let length = room.len().min(source.len()).min(TRANSFER - sent);
            room[..length].copy_from_slice(&source[..length]);
            length
        });
        frames += bench.exchange(&mut pair);
        got += bench.server.receive_with(&mut pair[1], &mut |bytes| {
            sink[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        bench.now += Duration::from_micros(20);
    }
    black_box(&sink);
    let spent = (cpu_ns() - before) as f64;
    (spent / frames as f64, (TRANSFER * 8) as f64 / spent, TRANSFER / frames)
}

fn requests(count: usize) {
    let mut bench = Bench::new(settings(256 << 10));
    let before = (cpu_ns(), rss());
    let mut pairs: Vec<[Connection; 2]> = (0..count).map(|at| bench.open(at)).collect();
    let opening = (cpu_ns() - before.0) / count as u64;
    let fresh = rss().saturating_sub(before.1) / count;
    for pair in &mut pairs {
        bench.request(pair);
    }
    let mut random = 1u64;
    let mut spent = 0;
    for _ in 0..REQUESTS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pair = &mut pairs[(random >> 33) as usize % count];
        bench.now += Duration::from_micros(3);
        spent += bench.request(pair);
    }
    let used = rss().saturating_sub(before.1) / count;
    for _ in 0..2 {
        bench.now += Duration::from_secs(10);
        for pair in &mut pairs {
            bench.exchange(pair);
        }
    }
    let idle = rss().saturating_sub(before.1) / count;
    println!(
        "  {count:6} connections: {:5} ns/request; opening {opening} ns; resident bytes per pair: {fresh} fresh, {used} used, {idle} idle",
        spent / REQUESTS as u64
    );
}

struct Bench {
    now: Instant,
    client: Machine,
    server: Machine,
    settings: Settings,
    out: Vec<u8>,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let (client, server) = (Machine::new([1; 32], now), Machine::new([2; 32], now));
        Self { now, client, server, settings, out: vec![0; 65_535 + HEADROOM] }
    }

    fn open(&mut self, at: usize) -> [Connection; 2] {
        let [here, there] = [1, 2].map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, (at >> 15) as u8, host)));
        let port = 1024 + (at & 0x7fff) as u16;
        let ends = Ends { local: here, local_port: port, peer: there, peer_port: 80 };
        let turned = Ends { local: there, local_port: 80, peer: here, peer_port: port };
        let mut client = self.client.connect(self.now, &ends, &self.settings);
        let syn = self.client.poll_segment(self.now, &mut client, &mut self.out, HEADROOM).expect("a SYN");
        let server = self.server.accept(self.now, &turned, &self.settings, &self.out[syn.range]);
        let mut pair = [client, server.expect("a good SYN")];
        self.exchange(&mut pair);
        pair
    }

    /// Everything that both ends have to say. Returns how many segments with data went.
    fn exchange(&mut self, pair: &mut [Connection; 2]) -> usize {
        let [client, server] = pair;
        let mut frames = 0;
        loop {
            let mut silent = true;
            for forth in [true, false] {
                let (from, sender, to, receiver) = if forth {
                    (&mut self.client, &mut *client, &mut self.server, &mut *server)
                } else {
                    (&mut self.server, &mut *server, &mut self.client, &mut *client)
                };
                while let Some(segment) = from.poll_segment(self.now, sender, &mut self.out, HEADROOM) {
                    frames += usize::from(segment.data > 0);
                    silent = false;
                    to.handle_segment(self.now, receiver, &self.out[segment.range], false);
                }
            }
            if silent {
                return frames;
            }
        }
    }

    /// One byte there and back. Returns nanoseconds.
    fn request(&mut self, pair: &mut [Connection; 2]) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "a measurement")]
        let before = Instant::now();
        let once = |room: &mut [u8]| {
            let first = room.len().min(1);
            room[..first].fill(1);
            first
        };
        let mut byte = false;
        self.client.send_with(self.now, &mut pair[0], &mut |room| {
            if byte {
                0
            } else {
                byte = true;
                once(room)
            }
        });
        self.exchange(pair);
        self.server.receive_with(&mut pair[1], &mut |bytes| bytes.len());
        let mut byte = false;
        self.server.send_with(self.now, &mut pair[1], &mut |room| {
            if byte {
                0
            } else {
                byte = true;
                once(room)
            }
        });
        self.exchange(pair);
        self.client.receive_with(&mut pair[0], &mut |bytes| bytes.len());
        black_box(self.client.poll_timeout(self.now, &pair[0]));
        black_box(self.server.poll_timeout(self.now, &pair[1]));
        before.elapsed().as_nanos() as u64
    }
}

fn settings(buffer: usize) -> Settings {
    Settings {
        mtu: 1500,
        super_segments: false,
        max_segment: None,
        receive_buffer: buffer,
        send_buffer: buffer,
        no_delay: true,
        cork: false,
        quick_ack: false,
        keep_alive: None,
        user_timeout: None,
        syn_retries: 6,
        congestion: Congestion::Cubic,
        timestamps: true,
    }
}

/// Nanoseconds that this thread has run.
fn cpu_ns() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// Resident bytes of this process.
fn rss() -> usize {
    let stat = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    stat.split(' ').nth(1).and_then(|it| it.parse::<usize>().ok()).unwrap_or(0) * 4096
}
