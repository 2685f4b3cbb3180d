//! Two engines over a bad wire: frames are lost, late, repeated, in another order and not what they were. The
//! same seed gives the same course; a failure names it.

use super::*;

/// A wire worse than any that is in use.
const BAD: Trouble = Trouble { loss: 30, duplication: 20, jitter: 15, corruption: 10 };
/// A transfer that takes longer has stopped.
const PATIENCE: Duration = Duration::from_secs(900);
/// Seeds of each simulation; one takes a fraction of a second.
const SEEDS: std::ops::Range<u64> = 100..112;
/// What goes through a connection, each way, in bytes: more than the buffers hold.
const BULK: usize = 700_000;

/// Names the seed if its simulation fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with seed {}", self.0);
        }
    }
}

fn each_seed(simulate: impl Fn(&mut World, u64)) {
    for seed in SEEDS {
        let _named = Seed(seed);
        let mut world = World::pair(seed, BAD);
        simulate(&mut world, seed);
        // Everybody has gone: orphans, TIME-WAITs and timers go, too.
        world.run(Duration::from_secs(1800));
        for engine in &world.engines {
            assert_eq!((engine.sockets(), engine.wheel.len(), engine.tcp.memory()), (0, 0, 0));
        }
    }
}

/// One end of a transfer.
struct End {
    at: usize,
    id: SocketId,
    sent: usize,
    got: usize,
    finished: bool,
}

impl End {
    fn new(at: usize, id: SocketId) -> Self {
        Self { at, id, sent: 0, got: 0, finished: false }
    }

    /// The byte at an offset of what this end sends.
    fn byte(at: usize, offset: usize) -> u8 {
        (offset.wrapping_mul(31) >> 3) as u8 ^ offset as u8 ^ at as u8
    }

    /// Writes what there is room for, reads what there is, and shuts when it has sent all.
    fn go(&mut self, world: &mut World, bytes: usize) {
        let (from, to) = (self.at, 1 - self.at);
        let piece: Vec<u8> =
            (self.sent..bytes.min(self.sent + 50_000)).map(|n| Self::byte(from, n)).collect();
        self.sent += world.write(from, self.id, &piece);
        if self.sent == bytes && !self.finished {
            self.finished = true;
            world.call(from, self.id, SocketCall::Shutdown { how: libc::SHUT_WR }).unwrap();
        }
        for byte in world.read(from, self.id) {
            assert_eq!(byte, Self::byte(to, self.got), "byte {} to engine {from}", self.got);
            self.got += 1;
        }
    }

    fn is_done(&self, world: &World, bytes: usize) -> bool {
        let status = world.engines[self.at].status(self.id);
        assert_eq!(status.error, None);
        self.got == bytes && self.finished && status.receive_finished
    }
}

/// Lets pairs of ends talk until all have all.
fn transfer(world: &mut World, ends: &mut [End], bytes: usize) {
    let end = world.now + PATIENCE;
    while !ends.iter().all(|it| it.is_done(world, bytes)) {
        assert!(world.now < end, "the transfer has stopped");
        ends.iter_mut().for_each(|it| it.go(world, bytes));
        world.run(ms(5));
    }
    for it in ends {
        world.close(it.at, it.id);
    }
}

/// A connection, however long its handshake takes.
fn established(world: &mut World, server: SocketId, name: &str) -> (SocketId, SocketId) {
    let family = if name.starts_with('[') { libc::AF_INET6 } else { libc::AF_INET };
    let client = world.socket(0, family, libc::SOCK_STREAM, 0);
    assert_eq!(world.connect(0, client, name), Err(Errno::EINPROGRESS));
    let end = world.now + PATIENCE;
    loop {
        if let Some(accepted) = world.accept(1, server) {
            return (client, accepted);
        }
        assert!(world.now < end, "no connection");
        world.run(ms(10));
    }
}

fn bulk(name: &str) {
    each_seed(|world, _| {
        let server = world.server(1, name);
        let (client, accepted) = established(world, server, name);
        transfer(world, &mut [End::new(0, client), End::new(1, accepted)], BULK);
        world.close(1, server);
    });
}

#[test]
fn bytes_both_ways_by_ipv4() {
    bulk("10.0.0.2:80");
}

#[test]
fn bytes_both_ways_by_ipv6() {
    bulk("[fd00::2]:80");
}

#[test]
fn many_connections_at_once() {
    each_seed(|world, seed| {
        let name = if seed % 2 == 0 { "10.0.0.2:80" } else { "[fd00::2]:80" };
        let server = world.server(1, name);
        let mut ends = Vec::new();
        for _ in 0..50 {
            let (client, accepted) = established(world, server, name);
            ends.extend([End::new(0, client), End::new(1, accepted)]);
        }
        transfer(world, &mut ends, 6000);
        world.close(1, server);
    });
}

#[test]
fn datagrams_come_whole_or_not_at_all() {
    each_seed(|world, _| {
        let (one, two) = (world.udp(0), world.udp(1));
        world.bind(0, one, "10.0.0.1:53").unwrap();
        world.bind(1, two, "10.0.0.2:53").unwrap();
        let mut came = [0; 2];
        for n in 0..400u64 {
            // Some are fragmented.
            let length = 1 + world.dice.roll(if n % 10 == 0 { 6000 } else { 1400 }) as usize;
            let data = vec![(length % 251) as u8; length];
            world.send_to(0, one, Some("10.0.0.2:53"), &data).unwrap();
            world.send_to(1, two, Some("10.0.0.1:53"), &data).unwrap();
            world.run(ms(20));
            for (at, id) in [(0, one), (1, two)] {
                while let Ok(message) = world.receive(at, id) {
                    let length = message.data.len();
                    assert!(message.data.iter().all(|byte| *byte == (length % 251) as u8), "garbled");
                    came[at] += 1;
                }
            }
        }
        assert!(came.iter().all(|came| (300..480).contains(came)), "{came:?}");
        world.close(0, one);
        world.close(1, two);
    });
}
