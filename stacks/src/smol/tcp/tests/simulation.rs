//! Transfers over links that are not good.

use super::*;

/// Both ways at once, `length` bytes each, then both close.
fn transfer(model: Model, seed: u64, settings: [Settings; 2], length: usize, limit: Duration) -> Duration {
    let mut pair = Pair::new(model, seed, settings);
    pair.ends[0].borrows = seed % 5 > 2;
    pair.ends[1].borrows = seed % 4 > 1;
    let data = pattern(length);
    let mut sent = [0, 0];
    let mut got = [Vec::new(), Vec::new()];
    let mut finished = [false, false];
    let until = pair.now + limit;
    loop {
        for at in 0..2 {
            if pair.ends[at].connection.is_none() {
                continue;
            }
            sent[at] += pair.ends[at].send(&data[sent[at]..]);
            let piece = pair.ends[at].receive();
            got[at].extend_from_slice(&piece);
            let open = matches!(pair.ends[at].state(), State::Established | State::CloseWait);
            if open && sent[at] == length && !finished[at] {
                finished[at] = true;
                let now = pair.now;
                let end = &mut pair.ends[at];
                end.machine.finish(now, end.connection.as_mut().unwrap());
            }
        }
        let whole = (0..2).all(|at| got[at].len() >= length);
        if whole && pair.ends.iter().all(|end| matches!(end.state(), State::TimeWait | State::Closed)) {
            break;
        }
        assert!(
            pair.step(until),
            "seed {seed}: stuck at {:?} {:?} {pair_ends:?}",
            sent,
            pair.states(),
            pair_ends = [&pair.ends[0].connection, &pair.ends[1].connection]
        );
    }
    for (end, got) in pair.ends.iter_mut().zip(got) {
        assert!(got == data, "seed {seed}: other bytes arrived");
        assert_eq!(end.connection().error, None, "seed {seed}");
    }
    pair.elapsed()
}

#[test]
fn a_good_link_is_used_well() {
    let model = Model { delay: Duration::from_millis(5), ..Model::default() };
    let took = transfer(model, 1, [settings(), settings()], 4 << 20, Duration::from_secs(60));
    println!("4 MiB each way, 10 ms: {took:?}");
    assert!(took < Duration::from_secs(5));
}

#[test]
fn bad_links_lose_nothing() {
    for seed in 0..20 {
        let model = Model {
            delay: Duration::from_millis(2),
            jitter_us: 3000 * (seed % 3),
            loss: 10 * (seed % 5),
            duplication: 20 * (seed % 2),
            corruption: 10 * (seed % 4 / 2),
        };
        let mut both = [settings(), settings()];
        both[0].timestamps = seed % 7 != 0;
        both[0].super_segments = seed % 2 == 0;
        both[1].super_segments = seed % 3 == 0;
        let took = transfer(model, seed, both, 300_000, Duration::from_secs(2000));
        println!("seed {seed} {model:?}: {took:?}");
    }
}

/// One way over 20 ms with loss: how long 4 MiB take.
#[test]
fn loss_costs_time_only() {
    for loss in [0, 1, 10, 30] {
        let mut took = Duration::ZERO;
        for seed in 0..5 {
            let model = Model { delay: Duration::from_millis(10), loss, ..Model::default() };
            took += transfer(model, seed, [settings(), settings()], 1 << 20, Duration::from_secs(2000));
        }
        println!("1 MiB each way, 20 ms, {loss} per mille lost: {:?}", took / 5);
    }
}

/// 64 KiB at a time over wires of 1500 and more, good and bad.
#[test]
fn super_segments_arrive_whole() {
    let ways = [(1500, 0), (1500, 20), (9000, 20), (65_536, 20)];
    for (mtu, loss, borrows) in
        ways.into_iter().flat_map(|(mtu, loss)| [(mtu, loss, false), (mtu, loss, true)])
    {
        for local in ["10.0.0.1", "2001:db8::1"] {
            let both = [settings(), settings()].map(|it| Settings {
                mtu,
                super_segments: true,
                receive_buffer: 1 << 20,
                send_buffer: 1 << 20,
                ..it
            });
            let model = Model { delay: Duration::from_millis(1), loss, ..Model::default() };
            let mut pair = Pair::new(model, 5, both);
            pair.ends[1].borrows = borrows;
            for end in &mut pair.ends {
                end.ends.local = local.parse().unwrap();
            }
            let now = pair.now;
            let first = &mut pair.ends[0];
            first.connection = Some(first.machine.connect(now, &first.ends, &first.settings));
            pair.log = Some(Vec::new());
            let data = pattern(3 << 20);
            let (mut sent, mut got, mut borrowed) = (0, Vec::new(), 0);
            while got.len() < data.len() {
                if pair.ends[0].state() == State::Established {
                    sent += pair.ends[0].send(&data[sent..]);
                }
                if pair.ends[1].connection.is_some() {
                    borrowed += pair.ends[1].borrowed.len();
                    got.extend(pair.ends[1].receive());
                }
                assert!(pair.step(now + Duration::from_secs(1000)), "{mtu} {loss}");
            }
            assert!(got == data, "{mtu} {loss}");
            assert_eq!(borrowed > 100_000, borrows, "{mtu} {loss}: {borrowed}");
            let window = pair.ends[1].connection().info().receive_window;
            assert!(loss > 0 || window > 1 << 19, "{mtu}: {window}");
            let header = if local.contains(':') { 40 } else { 20 };
            let longest = pair.log.unwrap().iter().map(|(_, bytes)| bytes.len()).max().unwrap();
            assert!(longest > 30_000 && longest + header <= 65_535, "{longest}");
        }
    }
}
