//! Two machines and a link between them, in virtual time.

mod basic;
mod guard;
mod rest;
mod simulation;
mod urgent;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::segment::Incoming;
use super::*;

/// Room before a segment.
const HEADROOM: usize = 128;

/// The one clock read of these tests: where virtual time begins.
#[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
fn beginning() -> Instant {
    Instant::now()
}

fn settings() -> Settings {
    Settings {
        mtu: 1500,
        super_segments: false,
        max_segment: None,
        receive_buffer: 256 << 10,
        send_buffer: 256 << 10,
        no_delay: false,
        cork: false,
        quick_ack: false,
        keep_alive: None,
        user_timeout: None,
        syn_retries: 6,
        congestion: Congestion::Cubic,
        timestamps: true,
    }
}

fn ends() -> Ends {
    Ends {
        local: "10.0.0.1".parse().unwrap(),
        local_port: 40_000,
        peer: "10.0.0.2".parse().unwrap(),
        peer_port: 80,
    }
}

fn turned(ends: &Ends) -> Ends {
    Ends { local: ends.peer, local_port: ends.peer_port, peer: ends.local, peer_port: ends.local_port }
}

/// A small generator: SplitMix64.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What the link does, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
struct Model {
    delay: Duration,
    jitter_us: u64,
    loss: u64,
    duplication: u64,
    corruption: u64,
}

/// One end.
struct End {
    machine: Machine,
    ends: Ends,
    settings: Settings,
    connection: Option<Connection>,
    now: Instant,
    /// It takes what is lent.
    borrows: bool,
    /// What it took so.
    borrowed: Vec<u8>,
}

impl End {
    fn new(now: Instant, ends: Ends, settings: Settings, byte: u8) -> Self {
        let machine = Machine::new([byte; 32], now);
        Self { machine, ends, settings, connection: None, now, borrows: false, borrowed: Vec::new() }
    }

    fn received(&self) -> usize {
        self.connection.as_ref().unwrap().received()
    }

    fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().unwrap()
    }

    fn state(&self) -> State {
        self.connection.as_ref().map_or(State::Listen, Connection::state)
    }

    fn send(&mut self, mut data: &[u8]) -> usize {
        let connection = self.connection.as_mut().unwrap();
        self.machine.send_with(self.now, connection, &mut |room| {
            let length = room.len().min(data.len());
            room[..length].copy_from_slice(&data[..length]);
            data = &data[length..];
            length
        })
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.borrowed);
        let connection = self.connection.as_mut().unwrap();
        self.machine.receive_with(connection, &mut |bytes| {
            all.extend_from_slice(bytes);
            bytes.len()
        });
        all
    }
}

/// Two ends; the second listens.
struct Pair {
    now: Instant,
    start: Instant,
    ends: [End; 2],
    model: Model,
    random: Random,
    /// Segments on their way, by arrival and order: to whom, and what.
    link: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    order: u64,
    /// What went over the link, for tests that look: from whom, and what.
    log: Option<Vec<(usize, Vec<u8>)>>,
    out: Vec<u8>,
}

impl Pair {
    fn new(model: Model, seed: u64, settings: [Settings; 2]) -> Self {
        let now = beginning();
        let [first, second] = settings;
        let end = |ends, settings, byte| End::new(now, ends, settings, byte);
        let mut pair = Self {
            now,
            start: now,
            ends: [end(ends(), first, seed as u8), end(turned(&ends()), second, !seed as u8)],
            model,
            random: Random(seed),
            link: BTreeMap::new(),
            order: 0,
            log: None,
            out: vec![0; 65_535 + HEADROOM],
        };
        let first = &mut pair.ends[0];
        first.connection = Some(first.machine.connect(now, &first.ends, &first.settings));
        pair
    }

    /// Both ends as they come, a good link.
    fn plain() -> Self {
        Self::new(Model::default(), 1, [settings(), settings()])
    }

    /// A plain one, with the handshake done.
    fn established() -> Self {
        let mut pair = Self::plain();
        pair.settle();
        assert_eq!(pair.states(), [State::Established; 2]);
        pair
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn put(&mut self, to: usize, bytes: Vec<u8>) {
        let jitter = Duration::from_micros(self.random.below(self.model.jitter_us + 1));
        self.order += 1;
        self.link.insert((self.now + self.model.delay + jitter, self.order), (to, bytes));
    }

    /// Everything that an end has to send goes on the link.
    fn drain(&mut self, from: usize) {
        let mut budget = 10_000;
        self.ends[from].now = self.now;
        loop {
            let end = &mut self.ends[from];
            let Some(connection) = &mut end.connection else { return };
            let Some(segment) = end.machine.poll_segment(self.now, connection, &mut self.out, HEADROOM)
            else {
                return;
            };
            budget -= 1;
            assert!(budget > 0, "an end never stops sending: {connection:?}");
            assert!(segment.range.start >= HEADROOM);
            let mut bytes = self.out[segment.range.clone()].to_vec();
            let parsed = Incoming::parse(&bytes).expect("what we send is a segment");
            assert_eq!(parsed.payload.len(), segment.data);
            let wire = if segment.gso_size == 0 { segment.data } else { usize::from(segment.gso_size) };
            assert!(wire <= usize::from(end.settings.mtu.min(65_535) as u16) - 40);
            if let Some(log) = &mut self.log {
                log.push((from, bytes.clone()));
            }
            if self.random.happens(self.model.loss) {
                continue;
            }
            if self.random.happens(self.model.duplication) {
                self.put(1 - from, bytes.clone());
            }
            if self.random.happens(self.model.corruption) {
                // A checksum would catch damaged data, so only headers that no checksum covers are damaged.
                let at = self.random.below(20) as usize;
                bytes[at] ^= 1 << self.random.below(8);
                bytes.truncate(20);
            }
            self.put(1 - from, bytes);
        }
    }

    /// The next thing that happens: an arrival or a timer. Says whether there was any before `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.drain(0);
        self.drain(1);
        let mut next = self.link.keys().next().map(|key| key.0);
        for end in &mut self.ends {
            if let Some(connection) = &end.connection {
                let at = end.machine.poll_timeout(self.now, connection);
                assert!(at.is_none_or(|at| at > self.now), "a timer that does not advance: {connection:?}");
                next = next.into_iter().chain(at).min();
            }
        }
        let Some(next) = next.filter(|&next| next <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.link.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, bytes) = entry.remove();
            self.arrive(to, &bytes);
        }
        true
    }

    fn arrive(&mut self, to: usize, bytes: &[u8]) {
        let end = &mut self.ends[to];
        match &mut end.connection {
            Some(connection) if end.borrows => {
                let count = end.machine.handle_segment_lending(self.now, connection, bytes, false);
                if count > 0 {
                    let lent = &bytes[bytes.len() - count..];
                    // All, none, half.
                    let taken = self.random.below(3) as usize * count / 2;
                    end.borrowed.extend_from_slice(&lent[..taken]);
                    end.machine.settle(self.now, connection, lent, taken);
                }
            }
            Some(connection) => end.machine.handle_segment(self.now, connection, bytes, false),
            None => end.connection = end.machine.accept(self.now, &end.ends, &end.settings, bytes),
        }
        self.drain(to);
    }

    /// Lets time go by.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Until nothing is left that happens within a second.
    fn settle(&mut self) {
        self.run(Duration::from_millis(500));
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}
