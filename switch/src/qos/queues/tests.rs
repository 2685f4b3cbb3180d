//! Shares, rates and orders of a port's queues, in virtual time.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
fn start() -> Instant {
    Instant::now()
}

fn vid(n: u16) -> Vid {
    Vid::new(n).unwrap()
}

fn pcp(n: u8) -> Priority {
    Priority::new(n, false)
}

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn shape(classes: &str) -> Shape {
    Shape { classes: classes.split(',').map(|c| c.parse().unwrap()).collect(), ..Shape::default() }
}

/// Puts a frame whose first byte says whose it is.
fn push(queues: &mut PortQueues, vlan: u16, priority: Priority, mark: u8, len: usize) -> bool {
    let bytes = vec![mark; len];
    queues.push(&VnetHdr::default(), vid(vlan), priority, &[&bytes, &[], &[], &[]])
}

/// What goes out now: marks and lengths.
fn drain(queues: &mut PortQueues, now: Instant) -> Vec<(u8, usize)> {
    let mut out = Vec::new();
    while let Next::Frame(pick) = queues.poll(now) {
        let bytes = queues.peek(pick).unwrap().bytes.concat();
        out.push((bytes[0], bytes.len()));
        queues.pop(now, pick);
    }
    out
}

#[test]
fn strict_classes_go_first_and_in_order() {
    let (now, mut queues) = (start(), PortQueues::new(shape("1,2,strict,strict")).unwrap());
    for (priority, mark) in [(0, 0), (2, 1), (4, 2), (6, 3), (7, 3), (5, 2)] {
        assert!(push(&mut queues, 1, pcp(priority), mark, 100));
    }
    let order: Vec<u8> = drain(&mut queues, now).into_iter().map(|(mark, _)| mark).collect();
    assert_eq!(order, [3, 3, 2, 2, 0, 1]);
    assert_eq!(queues.poll(now), Next::Idle);
}

#[test]
fn a_class_keeps_its_own_rate_whatever_else_there_is() {
    let (start, mut queues) = (start(), PortQueues::new(shape("1,4@2M,strict@1M")).unwrap());
    let mut sent = [0u64; 3];
    // A second of far too much in all classes, then one in which the limited ones are alone.
    for ms in 0..2000 {
        let now = start + Duration::from_millis(ms);
        for (priority, mark) in [(0, 0), (4, 1), (7, 2)] {
            if mark > 0 || ms < 1000 {
                push(&mut queues, 1, pcp(priority), mark, 1000);
            }
        }
        for (mark, len) in drain(&mut queues, now) {
            sent[usize::from(mark)] += 8 * len as u64;
        }
        if ms == 1999 {
            let next = queues.poll(now);
            assert!(
                matches!(next, Next::At(at) if at > now && at < now + Duration::from_millis(20)),
                "{next:?}"
            );
        }
    }
    assert_eq!(sent[0], 8_000_000, "what has no rate is not held up");
    // What a bucket holds at first, and a frame, may be more.
    let bound = |rate: u64| rate * 2 * 95 / 100..=rate * 2 + rate / 200 + 8 * u64::from(3 * QUANTUM);
    assert!(bound(2_000_000).contains(&sent[1]) && bound(1_000_000).contains(&sent[2]), "{sent:?}");
}

#[test]
fn a_full_wire_is_tried_again() {
    let (now, mut queues) = (start(), PortQueues::new(shape("1")).unwrap());
    push(&mut queues, 1, pcp(0), 1, 100);
    queues.wire_is_full(now);
    assert_eq!(queues.poll(now), Next::At(now + RETRY));
    assert_eq!(drain(&mut queues, now + RETRY).len(), 1);
}

#[test]
fn what_may_be_dropped_is_dropped_first() {
    let shape = Shape { queue_bytes: Some(0), ..shape("1") };
    let mut queues = PortQueues::new(shape).unwrap();
    let (mut kept, mut early) = (0, 0);
    for _ in 0..1000 {
        early += u32::from(push(&mut queues, 1, Priority::new(0, true), 1, 1000));
        kept += u32::from(push(&mut queues, 1, pcp(0), 0, 1000));
    }
    assert!(early * 2 < kept && kept < 64, "{early} {kept}");
    assert_eq!(queues.states().next().unwrap().counters.dropped, u64::from(2000 - kept - early));
}

#[test]
fn shapes_that_contradict_themselves() {
    assert_eq!(
        PortQueues::new(Shape { classes: vec![], ..Shape::default() }).err(),
        Some(ShapeError::Classes(0))
    );
    let map = Some(PcpMap::IDENTITY);
    assert_eq!(PortQueues::new(Shape { map, ..shape("1,1") }).err(), Some(ShapeError::Map(7, 2)));
    let json = serde_json::to_string(&Shape { rate: Some(rate("1M")), ..shape("4,strict") }).unwrap();
    assert_eq!(json, r#"{"rate_bps":1000000,"classes":["4","strict"],"reservable_percent":75}"#);
    assert!(serde_json::from_str::<Shape>(r#"{"classes":["0"]}"#).is_err());
}

#[test]
fn a_reservation_gets_its_rate_under_load_and_leaves_the_rest() {
    let shape = Shape { rate: Some(rate("100M")), ..shape("1,strict") };
    let mut queues = PortQueues::new(shape).unwrap();
    queues.reserve(Reservation { vid: vid(10), rate: rate("30M"), max: None }).unwrap();
    queues.reserve(Reservation { vid: vid(20), rate: rate("20M"), max: Some(rate("25M")) }).unwrap();
    let (begin, mut sent) = (start(), [0usize; 4]);
    let run = |queues: &mut PortQueues, from: u64, to: u64, loads: &[(u16, u8)], sent: &mut [usize; 4]| {
        for ms in from..to {
            for (mark, (vlan, priority)) in loads.iter().enumerate() {
                while push(queues, *vlan, pcp(*priority), mark as u8, 1250) {}
            }
            for (mark, len) in drain(queues, begin + Duration::from_millis(ms)) {
                sent[usize::from(mark)] += len * 8;
            }
        }
    };
    // A strict class that would take everything.
    run(&mut queues, 0, 1000, &[(10, 0), (20, 0), (1, 7), (1, 0)], &mut sent);
    let mbits = sent.map(|bits| bits as f64 / 1e6);
    assert!((mbits[0] - 30.0).abs() < 1.0 && (mbits[1] - 20.0).abs() < 1.0, "{mbits:?}");
    assert!((mbits[2] - 50.0).abs() < 2.0 && mbits[3] == 0.0, "{mbits:?}");
    // Without it they share what is left, as far as they may.
    let mut sent = [0; 4];
    let mut queues = queues.released(vid(10)).unwrap();
    run(&mut queues, 1000, 2000, &[(10, 0), (20, 0)], &mut sent);
    let mbits = sent.map(|bits| bits as f64 / 1e6);
    assert!((mbits[1] - 25.0).abs() < 1.0 && (mbits[0] - 75.0).abs() < 2.0, "{mbits:?}");
    assert_eq!(queues.released(vid(10)).err(), Some(ReserveError::Unknown(vid(10))));
}

#[test]
fn frames_survive_another_shape() {
    let mut old = PortQueues::new(Shape { rate: Some(rate("1M")), ..shape("1,1") }).unwrap();
    old.reserve(Reservation { vid: vid(10), rate: rate("100k"), max: None }).unwrap();
    for (vlan, priority) in [(10, 0), (1, 7), (1, 0)] {
        assert!(push(&mut old, vlan, pcp(priority), vlan as u8, 1000));
    }
    let mut new = old.reshaped(shape("1")).err();
    assert!(matches!(new.take(), Some(ShapeError::Promised(..))));
    let mut new = old.released(vid(10)).unwrap().reshaped(shape("1")).unwrap();
    new.take_over(&mut old, || panic!("there is room"));
    assert_eq!(drain(&mut new, start()).len(), 3);
}

proptest! {
    /// In no span of time more than rate × t + burst, or one frame that is longer.
    #[test]
    fn a_port_keeps_its_rate(
        bps in 1_000_000..10_000_000_000u64,
        frames in prop::collection::vec((60..65_000usize, 0..8u8, 0..2_000u64), 1..100),
    ) {
        let shape = Shape { rate: Rate::from_bps(bps), ..shape("1,3,strict") };
        let mut queues = PortQueues::new(shape).unwrap();
        let (mut now, mut sent) = (start(), Vec::new());
        let burst = queues.burst_bytes().max(65_000) as u128 * 8;
        for (len, priority, wait) in frames {
            push(&mut queues, 1, pcp(priority), 1, len);
            now += Duration::from_micros(wait);
            sent.extend(drain(&mut queues, now).into_iter().map(|(_, len)| (now, len)));
        }
        while let Next::At(at) = queues.poll(now) {
            prop_assert!(at > now);
            now = at;
            sent.extend(drain(&mut queues, now).into_iter().map(|(_, len)| (now, len)));
        }
        prop_assert!(queues.is_empty());
        for (first, (from, _)) in sent.iter().enumerate() {
            let mut bits = 0u128;
            for (to, len) in &sent[first..] {
                bits += *len as u128 * 8;
                prop_assert!(bits <= u128::from(bps) * (*to - *from).as_nanos() / 1_000_000_000 + burst + 1);
            }
        }
    }

    /// Weighted queues that always have frames get their shares, to a turn's quantum and a frame.
    #[test]
    fn shares_are_as_the_weights(
        weights in prop::collection::vec(1..20u8, 2..8),
        lens in prop::collection::vec(60..9_000usize, 8),
        rounds in 1..2_000usize,
    ) {
        let classes = weights.iter().map(|w| Class::weight(*w)).collect::<Vec<_>>();
        let count = classes.len();
        let map = PcpMap::try_from(std::array::from_fn(|n| (n % count) as u8)).unwrap();
        let mut queues = PortQueues::new(Shape { classes, map: Some(map), ..Shape::default() }).unwrap();
        let (now, mut sent) = (start(), vec![0usize; count]);
        for class in (0..count as u8).cycle().take(count * 4) {
            push(&mut queues, 1, pcp(class), class, lens[usize::from(class)]);
        }
        for _ in 0..rounds {
            let Next::Frame(pick) = queues.poll(now) else { panic!("there are frames") };
            let bytes = queues.peek(pick).unwrap().bytes.concat();
            let class = bytes[0];
            sent[usize::from(class)] += bytes.len();
            // Another one first, so that it never runs empty.
            push(&mut queues, 1, pcp(class), class, lens[usize::from(class)]);
            queues.pop(now, pick);
        }
        // Everybody has had so many turns, or one more.
        let turns = |at: usize| sent[at] as f64 / (f64::from(weights[at]) * f64::from(QUANTUM));
        for a in 0..count {
            for b in 0..count {
                let slack = |at: usize| 9_000.0 / (f64::from(weights[at]) * f64::from(QUANTUM));
                prop_assert!(turns(a) - turns(b) <= 1.0 + slack(a) + slack(b) + 0.01, "{sent:?} {weights:?}");
            }
        }
    }
}
