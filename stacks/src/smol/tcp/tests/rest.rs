//! Connections that rest whenever they can, and share what they need when they are awake.

use super::*;

/// Two machines with many connections between them.
struct Crowd {
    now: Instant,
    machines: [Machine; 2],
    pairs: Vec<[Connection; 2]>,
    /// Bytes that were sent and not yet received, to each end.
    expected: Vec<[std::collections::VecDeque<u8>; 2]>,
    random: Random,
    loss: u64,
    /// Segments sent by either side, and those without data among them.
    segments: [u64; 2],
    bare: u64,
    out: Vec<u8>,
}

impl Crowd {
    fn new(count: u16, seed: u64, settings: impl Fn(u16) -> [Settings; 2]) -> Self {
        let now = beginning();
        let mut crowd = Self {
            now,
            machines: [Machine::new([1; 32], now), Machine::new([2; 32], now)],
            pairs: Vec::new(),
            expected: Vec::new(),
            random: Random(seed),
            loss: 0,
            segments: [0; 2],
            bare: 0,
            out: vec![0; 65_535 + HEADROOM],
        };
        for n in 0..count {
            let ends = Ends { local_port: 40_000 + n, ..ends() };
            let [ours, theirs] = settings(n);
            let mut first = crowd.machines[0].connect(now, &ends, &ours);
            let syn = crowd.machines[0].poll_segment(now, &mut first, &mut crowd.out, HEADROOM).unwrap();
            let second =
                crowd.machines[1].accept(now, &turned(&ends), &theirs, &crowd.out[syn.range]).unwrap();
            crowd.pairs.push([first, second]);
            crowd.expected.push(Default::default());
            crowd.settle(usize::from(n));
            assert_eq!(crowd.pairs[usize::from(n)][1].state(), State::Established);
        }
        crowd
    }

    /// Carries segments of a pair until there are none, reads what came, and lets both rest.
    fn settle(&mut self, n: usize) {
        let mut silent = 0;
        for from in [0, 1].into_iter().cycle() {
            silent += 1;
            if silent > 2 {
                break;
            }
            let pair = &mut self.pairs[n];
            while let Some(segment) =
                self.machines[from].poll_segment(self.now, &mut pair[from], &mut self.out, HEADROOM)
            {
                silent = 0;
                self.segments[from] += 1;
                self.bare += u64::from(segment.data == 0);
                if !self.random.happens(self.loss) {
                    let bytes = &self.out[segment.range];
                    self.machines[1 - from].handle_segment(self.now, &mut pair[1 - from], bytes, false);
                }
            }
            let expected = &mut self.expected[n][from];
            let take = &mut |bytes: &[u8]| {
                bytes.iter().for_each(|&byte| assert_eq!(Some(byte), expected.pop_front(), "pair {n}"));
                bytes.len()
            };
            if self.machines[from].receive_with(&mut pair[from], take) > 0 {
                silent = 0;
            }
        }
        for at in 0..2 {
            self.machines[at].rest(self.now, &mut self.pairs[n][at]);
        }
    }

    fn say(&mut self, n: usize, at: usize, length: usize) -> usize {
        let (mut left, random, expected) = (length, &mut self.random, &mut self.expected[n][1 - at]);
        self.machines[at].send_with(self.now, &mut self.pairs[n][at], &mut |room| {
            let length = left.min(room.len());
            for byte in &mut room[..length] {
                *byte = random.next() as u8;
                expected.push_back(*byte);
            }
            left -= length;
            length
        })
    }

    /// Lets time go by, timers of all pairs included.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            (0..self.pairs.len()).for_each(|n| self.settle(n));
            let mut next: Vec<Instant> = self.machines.iter().filter_map(Machine::poll_release).collect();
            for (at, end) in self.pairs.iter().flatten().enumerate() {
                next.extend(self.machines[at % 2].poll_timeout(self.now, end));
            }
            match next.into_iter().min() {
                Some(next) if next <= until => self.now = self.now.max(next),
                _ => break,
            }
            self.machines.iter_mut().for_each(|machine| machine.release(self.now));
        }
        self.now = until;
    }

    fn awake(&self) -> usize {
        self.pairs.iter().flatten().filter(|end| end.body.is_some()).count()
    }
}

/// Every seventh pair is of another shape.
fn mixed(n: u16) -> [Settings; 2] {
    let mut both = [settings(), settings()];
    match n % 7 {
        1 => both[0].mtu = 9000,
        2 => both[1].receive_buffer = 30_000,
        3 => both[0].timestamps = false,
        4 => both[1].congestion = Congestion::Reno,
        5 => both.iter_mut().for_each(|it| it.super_segments = true),
        _ => {}
    }
    both
}

#[test]
fn conversations_stay_apart_while_they_share_buffers() {
    for seed in 0..8 {
        let mut crowd = Crowd::new(20, seed, mixed);
        crowd.loss = [0, 0, 20, 50][seed as usize % 4];
        for _ in 0..3000 {
            let (n, at) = (crowd.random.below(20) as usize, crowd.random.below(2) as usize);
            let most = if crowd.random.happens(30) { 60_000 } else { 400 };
            let length = 1 + crowd.random.below(most) as usize;
            crowd.say(n, at, length);
            crowd.settle(n);
            if crowd.random.happens(100) {
                let time = Duration::from_millis(crowd.random.below(30));
                crowd.run(time);
            }
        }
        crowd.run(Duration::from_secs(600));
        assert!(crowd.expected.iter().flatten().all(|rest| rest.is_empty()), "seed {seed}");
        assert_eq!(crowd.awake(), 0, "seed {seed}");
        assert_eq!(crowd.machines.iter().map(Machine::memory).sum::<usize>(), 0);
        for end in crowd.pairs.iter().flatten() {
            assert_eq!((end.state(), end.error), (State::Established, None), "seed {seed}");
            assert!(crowd.loss > 0 || end.counts.retransmits == 0, "seed {seed}: {:?}", end.counts);
        }
    }
}

/// A window's worth and more in small pieces, one way: what is read makes room though nobody is awake to say so.
#[test]
fn a_window_stays_open_while_its_connection_rests() {
    let mut crowd = Crowd::new(1, 1, |_| [settings(), settings()]);
    for _ in 0..10_000 {
        assert_eq!(crowd.say(0, 0, 100), 100);
        crowd.run(Duration::from_millis(1));
    }
    crowd.run(Duration::from_secs(1));
    assert!(crowd.expected[0][1].is_empty());
    assert!(crowd.pairs[0][1].info().receive_window > 200_000, "{:?}", crowd.pairs[0][1].info());
    assert_eq!(crowd.pairs[0][0].counts.retransmits, 0);
}

#[test]
fn a_resting_connection_acknowledges_and_ends_as_any_other() {
    let mut crowd = Crowd::new(3, 1, |_| [settings(), settings()]);
    // Who answers does not acknowledge at once.
    for from in [0, 1, 0] {
        crowd.say(0, from, 100);
        crowd.settle(0);
    }
    assert!(crowd.pairs[0][1].body.is_none(), "all is read");
    assert!(crowd.pairs[0][0].body.is_some(), "nothing is acknowledged");
    crowd.run(Duration::from_millis(50));
    assert_eq!(crowd.awake(), 0);
    assert_eq!(crowd.pairs[0][0].counts.retransmits, 0, "the acknowledgement came in time");
    let now = crowd.now;
    for at in 0..2 {
        crowd.machines[at].finish(now, &mut crowd.pairs[0][at]);
        crowd.settle(0);
        crowd.run(Duration::from_millis(50));
    }
    assert_eq!([0, 1].map(|at| crowd.pairs[0][at].state()), [State::TimeWait, State::Closed]);
    crowd.machines[0].abort(now, &mut crowd.pairs[1][0]);
    crowd.settle(1);
    assert_eq!(crowd.pairs[1][1].error, Some(Errno::ECONNRESET));
    crowd.say(2, 1, 10);
    crowd.settle(2);
    assert!(crowd.expected[2][0].is_empty());
}

/// Congestion control is not forgotten in the pauses of a transfer, only after them.
#[test]
fn who_sent_much_rests_only_after_a_while() {
    let mut crowd = Crowd::new(1, 1, |_| [settings(), settings()]);
    for _ in 0..20 {
        crowd.say(0, 0, 100_000);
        crowd.run(Duration::from_millis(20));
    }
    assert!(crowd.expected[0][1].is_empty() && crowd.pairs[0][0].body.is_some());
    crowd.run(Duration::from_secs(3));
    assert_eq!(crowd.awake(), 0);
}
