//! What idle connections of the smol stack cost: alone in its process, as it measures the whole process.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use stacks::smol::tcp::{Congestion, Connection, Ends, Machine, Settings, State, Tcp};

const CONNECTIONS: usize = 10_000;
/// Bytes that one may cost.
const LIMIT: usize = 2048;
const HEADROOM: usize = 128;

#[test]
fn an_idle_connection_costs_two_kilobytes_at_most_even_after_it_was_used() {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    let mut now = Instant::now();
    let mut machines = [Machine::new([1; 32], now), Machine::new([2; 32], now)];
    let mut out = vec![0; 65_535 + HEADROOM];
    let mut pairs = Vec::with_capacity(CONNECTIONS / 2);
    let before = resident();
    for at in 0..CONNECTIONS / 2 {
        pairs.push(open(&mut machines, now, at as u16, &mut out));
    }
    let fresh = resident() - before;
    for pair in &mut pairs {
        let sent = machines[0].send_with(now, &mut pair[0], &mut |room| room.len().min(10_000));
        assert!(sent >= 10_000);
        exchange(&mut machines, now, pair, &mut out);
        assert!(machines[1].received(&pair[1]) > 0);
        while machines[1].receive_with(&mut pair[1], &mut |bytes| bytes.len()) > 0 {
            exchange(&mut machines, now, pair, &mut out);
        }
    }
    let used = resident() - before;
    // Ten seconds: acknowledgements that wait are sent, and the pages of the buffers go.
    for _ in 0..10 {
        now += Duration::from_secs(1);
        for pair in &mut pairs {
            exchange(&mut machines, now, pair, &mut out);
        }
    }
    let idle = resident() - before;
    let [fresh, used, idle] = [fresh, used, idle].map(|bytes| bytes / CONNECTIONS);
    println!("resident bytes per connection: {fresh} fresh, {used} used, {idle} idle");
    assert!(used > 4096, "nothing was measured");
    assert!(fresh <= LIMIT && idle <= LIMIT, "{fresh} {idle}");
}

fn open(machines: &mut [Machine; 2], now: Instant, at: u16, out: &mut [u8]) -> [Connection; 2] {
    let settings = Settings {
        mtu: 1500,
        super_segments: true,
        max_segment: None,
        receive_buffer: 1 << 20,
        send_buffer: 256 << 10,
        no_delay: true,
        cork: false,
        quick_ack: true,
        keep_alive: None,
        user_timeout: None,
        syn_retries: 6,
        congestion: Congestion::Cubic,
        timestamps: true,
    };
    let [here, there] = [1, 2].map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)));
    let ends = Ends { local: here, local_port: 1024 + at, peer: there, peer_port: 80 };
    let turned = Ends { local: there, local_port: 80, peer: here, peer_port: 1024 + at };
    let mut first = machines[0].connect(now, &ends, &settings);
    let syn = machines[0].poll_segment(now, &mut first, out, HEADROOM).unwrap();
    let second = machines[1].accept(now, &turned, &settings, &out[syn.range]).unwrap();
    let mut pair = [first, second];
    exchange(machines, now, &mut pair, out);
    assert!((0..2).all(|at| machines[at].state(&pair[at]) == State::Established));
    pair
}

fn exchange(machines: &mut [Machine; 2], now: Instant, pair: &mut [Connection; 2], out: &mut [u8]) {
    let mut silent = 0;
    let mut from = 0;
    while silent < 2 {
        silent += 1;
        while let Some(segment) = machines[from].poll_segment(now, &mut pair[from], out, HEADROOM) {
            silent = 0;
            machines[1 - from].handle_segment(now, &mut pair[1 - from], &out[segment.range], false);
        }
        from = 1 - from;
    }
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
