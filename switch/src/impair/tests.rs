//! Links in virtual time.

use proptest::prelude::*;

use super::spec::Chance;
use super::*;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn channel(spec: &str, seed: u64) -> Channel {
    Channel::new(spec.parse().unwrap(), seed, 0)
}

/// The `n`th packet of `len` bytes.
fn packet(n: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(18)];
    bytes[14..18].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[14..18].try_into().unwrap())
}

/// Sends `count` packets, one every `gap`; returns (number, when it arrived since the beginning).
fn send(channel: &mut Channel, count: u32, len: usize, gap: Duration) -> Vec<(u32, Duration)> {
    let begin = start();
    let mut arrived = Vec::new();
    let mut take = |channel: &mut Channel, until: Instant| {
        while let Some(due) = channel.poll_timeout().filter(|due| *due <= until) {
            assert!(channel.poll_packet(due - Duration::from_nanos(1)).is_none(), "not before it is due");
            let bytes = channel.poll_packet(due).unwrap();
            arrived.push((number(&bytes), due - begin));
            channel.recycle(bytes);
        }
    };
    for n in 0..count {
        let now = begin + gap * n;
        take(channel, now);
        channel.handle_packet(now, &[&packet(n, len)]);
    }
    take(channel, begin + Duration::from_secs(1_000_000));
    assert_eq!(channel.in_flight(), 0);
    arrived
}

/// Is `share` of `count` within four standard deviations of what was expected?
fn about(count: usize, of: u32, share: f64) -> bool {
    let (expected, deviation) = (f64::from(of) * share, (f64::from(of) * share * (1.0 - share)).sqrt());
    (count as f64 - expected).abs() <= 4.0 * deviation
}

#[test]
fn text_is_read_and_written() {
    for (text, written) in [
        ("", "none"),
        ("none", "none"),
        ("state quiet: ", "state quiet: "),
        ("delay 20ms normal 5ms, loss 1%, rate 10M", "delay 20ms normal 5ms, loss 1%, rate 10000000"),
        ("delay 1.5ms uniform 300us,corrupt 0.05%", "delay 1500us uniform 300us, corrupt 0.05%"),
        ("delay table 1ms/1ms/30ms, reorder 2.5%", "delay table 1ms/1ms/30ms, reorder 2.5%"),
        (
            "loss gilbert 1% 10%, capacity 64k, mtu 1400",
            "loss gilbert 1% 10% 100% 0%, mtu 1400, capacity 65536",
        ),
        ("rate 1Gbit, duplicate 100%", "duplicate 100%, rate 1000000000"),
        (
            "state good: delay 5ms; state bad: delay 50ms, loss 30%; every 100ms: good>bad 5%, bad>good 20%",
            "state good: delay 5ms; state bad: delay 50ms, loss 30%; every 100ms: good>bad 5%, bad>good 20%",
        ),
    ] {
        let spec: Spec = text.parse().unwrap();
        assert_eq!(spec.to_string(), written);
        assert_eq!(written.parse::<Spec>().unwrap(), spec);
    }
}

#[test]
fn what_is_refused_is_named() {
    for (text, word) in [
        ("latency 5ms", "latency 5ms"),
        ("delay 5", "`5`"),
        ("delay 61s", "61s"),
        ("delay 5ms pareto 2ms", "pareto"),
        ("loss 101%", "101%"),
        ("loss 0.5", "0.5"),
        ("loss -1%", "-1%"),
        ("rate 0", "`0`"),
        ("rate 10X", "10X"),
        ("mtu 20", "20"),
        ("capacity 1G", "1G"),
        ("state a: loss 1%; state a: loss 2%; every 1s: ", "twice"),
        ("state a: loss 1%; state b: loss 2%", "every"),
        ("state a: ; state b: ; every 1s: a>c 1%", "a>c"),
        ("state a: ; state b: ; every 1s: a>b 1%, a>b 2%", "a>b"),
        ("state a: ; state b: ; state c: ; every 1s: a>b 60%, a>c 60%", "100%"),
        ("state a: ; state b: ; every 1us: a>b 1%", "1ms"),
    ] {
        let error = text.parse::<Spec>().expect_err(text).to_string();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn delays_are_distributed_as_asked() {
    let delays = |spec: &str| {
        let arrived = send(&mut channel(spec, 7), 10_000, 100, ms(200));
        arrived.iter().map(|(n, at)| (*at - ms(200) * *n).as_secs_f64() * 1000.0).collect::<Vec<_>>()
    };
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    let deviation = |list: &[f64]| {
        let m = mean(list);
        (list.iter().map(|d| (d - m).powi(2)).sum::<f64>() / list.len() as f64).sqrt()
    };
    assert!(delays("delay 20ms").iter().all(|d| (d - 20.0).abs() < 1e-6));
    let uniform = delays("delay 20ms uniform 10ms");
    assert!(uniform.iter().all(|d| (10.0..30.0).contains(d)));
    assert!((mean(&uniform) - 20.0).abs() < 0.25 && (deviation(&uniform) - 10.0 / 3f64.sqrt()).abs() < 0.15);
    let normal = delays("delay 50ms normal 5ms");
    assert!((mean(&normal) - 50.0).abs() < 0.2 && (deviation(&normal) - 5.0).abs() < 0.15);
    let within = normal.iter().filter(|d| (**d - 50.0).abs() < 5.0).count();
    assert!(about(within, 10_000, 0.683), "{within}");
    let table = delays("delay table 1ms/1ms/1ms/100ms");
    assert!(about(table.iter().filter(|d| **d > 99.0).count(), 10_000, 0.25));
    assert!(delays("delay 1ms normal 5ms").iter().all(|d| *d >= 0.0));
}

#[test]
fn losses_are_as_many_as_asked() {
    let mut uniform = channel("loss 3%", 1);
    assert_eq!(send(&mut uniform, 50_000, 100, ms(1)).len() as u64, uniform.counters().delivered);
    assert!(about(uniform.counters().lost as usize, 50_000, 0.03), "{:?}", uniform.counters());
    // Bad for p / (p + r) of the time, in bursts of 1 / r packets.
    let mut bursty = channel("loss gilbert 1% 25%", 1);
    let arrived = send(&mut bursty, 100_000, 100, ms(1));
    let share = bursty.counters().lost as f64 / 100_000.0;
    assert!((share - 0.01 / 0.26).abs() < 0.004, "{share}");
    let bursts = arrived.windows(2).filter(|w| w[1].0 > w[0].0 + 1).count();
    let length = bursty.counters().lost as f64 / bursts as f64;
    assert!((length - 4.0).abs() < 0.4, "{length}");
    let mut all = channel("loss 100%", 1);
    assert_eq!(send(&mut all, 1000, 100, ms(1)), []);
}

#[test]
fn copies_changed_bits_and_overtaking() {
    let mut twice = channel("duplicate 10%", 3);
    let arrived = send(&mut twice, 20_000, 100, ms(1));
    assert!(about(arrived.len() - 20_000, 20_000, 0.1));
    let mut changed = channel("corrupt 20%", 3);
    let now = start();
    let mut bits = 0;
    for _ in 0..10_000 {
        changed.handle_packet(now, &[&[0; 20], &[0; 80]]);
        let bytes = changed.poll_packet(now).unwrap();
        assert_eq!(bytes[..12], [0; 12]);
        let ones: u32 = bytes.iter().map(|b| b.count_ones()).sum();
        assert!(ones <= 1);
        bits += ones as usize;
        changed.recycle(bytes);
    }
    assert!(about(bits, 10_000, 0.2));
    assert_eq!(changed.counters().corrupted as usize, bits);
    let mut reordered = channel("delay 10ms, reorder 5%", 3);
    let arrived = send(&mut reordered, 20_000, 100, ms(1));
    assert_eq!(arrived.len(), 20_000);
    assert!(about(reordered.counters().reordered as usize, 20_000, 0.05));
    assert!(arrived.windows(2).any(|w| w[1].0 < w[0].0));
}

#[test]
fn rate_capacity_and_mtu() {
    // 1000 bytes at 1 Mb/s are 8 ms.
    let mut slow = channel("rate 1M, capacity 10000", 1);
    let arrived = send(&mut slow, 100, 1000, ms(1));
    assert_eq!(arrived[0], (0, ms(8)));
    assert!(arrived.windows(2).all(|w| w[1].1 - w[0].1 == ms(8)));
    assert_eq!(slow.counters().overflowed + slow.counters().delivered, 100);
    assert!((20..25).contains(&arrived.len()), "{}", arrived.len());
    let mut narrow = channel("mtu 1400", 1);
    assert_eq!(send(&mut narrow, 1, 1414, ms(1)).len(), 1);
    assert_eq!(send(&mut narrow, 1, 1415, ms(1)).len(), 0);
    assert_eq!(narrow.counters().too_long, 1);
    // Far more than there is room for, and a rate at which nothing leaves.
    let mut flooded = channel("rate 1", 1);
    let now = start();
    (0..100_000).for_each(|n| flooded.handle_packet(now, &[&packet(n, 1000)]));
    assert!(flooded.in_flight() <= DEFAULT_CAPACITY);
    let mut flooded = channel("delay 60s", 1);
    (0..100_000).for_each(|n| flooded.handle_packet(now, &[&packet(n, 20)]));
    assert_eq!(flooded.flying.len(), MAX_PACKETS);
}

#[test]
fn a_chain_spends_its_time_as_its_matrix_says() {
    let text = "state good: ; state bad: loss 100%; every 10ms: good>bad 10%, bad>good 30%";
    let mut chain = channel(text, 5);
    send(&mut chain, 100_000, 100, ms(10));
    let share = chain.counters().lost as f64 / 100_000.0;
    assert!((share - 0.25).abs() < 0.01, "{share}");
    // However much traffic there is, the chain's course is the same.
    let at = |gap: u64| {
        let mut chain = channel(text, 5);
        let now = start();
        let mut states = Vec::new();
        for t in (0..20_000).step_by(gap as usize) {
            chain.handle_packet(now + ms(t), &[&[0; 60]]);
            if t % 1000 == 0 {
                states.push(chain.state(now + ms(t)).to_owned());
            }
        }
        states
    };
    assert_eq!(at(1), at(500));
    // After years of silence it is not busy with the past.
    let mut chain = channel(text, 5);
    let now = start();
    chain.handle_packet(now, &[&[0; 60]]);
    chain.handle_packet(now + Duration::from_secs(100_000_000), &[&[0; 60]]);
}

#[test]
fn what_is_in_flight_stays_when_the_settings_change() {
    let mut link = channel("delay 100ms", 1);
    let now = start();
    link.handle_packet(now, &[&packet(0, 60)]);
    link.set("delay 1ms".parse().unwrap());
    link.handle_packet(now, &[&packet(1, 60)]);
    assert_eq!(link.poll_timeout(), Some(now + ms(100)));
    let first = link.poll_packet(now + ms(100)).unwrap();
    let second = link.poll_packet(now + ms(100)).unwrap();
    assert_eq!((number(&first), number(&second)), (0, 1), "in order");
}

fn specs() -> impl Strategy<Value = String> {
    let delay = prop_oneof![
        Just(String::new()),
        (0..50u32, 0..50u32).prop_map(|(m, by)| format!("delay {m}ms uniform {by}ms")),
        (0..50u32, 0..50u32).prop_map(|(m, by)| format!("delay {m}ms normal {by}ms")),
        Just("delay table 1ms/7ms/9ms".to_owned()),
    ];
    let loss = prop_oneof![
        (0..=100u32).prop_map(|p| format!("loss {p}%")),
        (0..=100u32, 0..=100u32).prop_map(|(p, r)| format!("loss gilbert {p}% {r}%")),
    ];
    let rate = prop_oneof![Just(String::new()), (1..100u32).prop_map(|r| format!("rate {r}M"))];
    (delay, loss, rate, 0..20u32, 0..20u32).prop_map(|(delay, loss, rate, twice, bad)| {
        format!("{delay},{loss},{rate},duplicate {twice}%,corrupt {bad}%")
    })
}

proptest! {
    #[test]
    fn order_is_kept(spec in specs(), seed: u64, gap_us in 0..20_000u64) {
        let mut link = channel(&spec.replace("corrupt", "duplicate"), seed);
        let arrived = send(&mut link, 300, 100, Duration::from_micros(gap_us));
        prop_assert!(arrived.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1));
        let counted = link.counters();
        prop_assert_eq!(counted.delivered as usize, arrived.len());
        prop_assert_eq!(counted.packets + counted.duplicated, counted.delivered + counted.lost);
    }

    /// What is lost, doubled and changed, and by how much it is delayed, is the same for the same seed,
    /// however fast the packets come.
    #[test]
    fn the_same_seed_is_the_same_fate(spec in specs(), seed: u64, gaps in (0..20u64, 0..20u64)) {
        let spec = spec.replace("rate", "capacity");
        let fates = |gap| {
            let mut link = channel(&spec, seed);
            let arrived = send(&mut link, 200, 100, ms(gap));
            (arrived.iter().map(|(n, _)| *n).collect::<Vec<_>>(), link.counters())
        };
        prop_assert_eq!(fates(gaps.0), fates(gaps.1));
        let settings: Settings = spec.parse().unwrap();
        let draws = |seed| {
            let (mut random, mut bad) = (Rand32::new_inc(seed, 0), false);
            (0..64).map(|_| draw(&settings, &mut random, &mut bad)).collect::<Vec<_>>()
        };
        prop_assert_eq!(draws(seed), draws(seed));
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}", words in prop::collection::vec(
        prop::sample::select(vec!["delay", "loss", "gilbert", "1%", "5ms", "state", "a", ":", ";", ",", "every",
            "a>b", "table", "1ms/2ms", "rate", "9999999999999G", "0.0000001%", "uniform", " "]), 0..20)) {
        for text in [text, words.join(" "), words.concat()] {
            if let Ok(spec) = text.parse::<Spec>() {
                prop_assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec);
            }
        }
    }
}

#[test]
fn chances_are_exact_at_both_ends() {
    assert!(Chance::ALWAYS.happens(u32::MAX) && !Chance::NEVER.happens(0));
}
