//! Transfers over links that are not good.

use super::*;

/// Both ways at once, `length` bytes each, then both close.
fn transfer(model: Model, seed: u64, settings: [Settings; 2], length: usize, limit: Duration) -> Duration {
    let mut pair = Pair::new(model, seed, settings);
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
            if sent[at] == length && !finished[at] && pair.ends[at].state() == State::Established
                || pair.ends[at].state() == State::CloseWait && sent[at] == length && !finished[at]
            {
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
    for at in 0..2 {
        assert!(got[at] == data, "seed {seed}: other bytes arrived at {at}");
        assert_eq!(pair.ends[at].connection().error, None, "seed {seed}");
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
