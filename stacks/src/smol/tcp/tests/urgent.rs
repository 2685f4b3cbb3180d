//! Urgent data, between two machines and with a peer that says what it likes.

use proptest::prelude::*;

use super::super::segment::{Bare, Flags};
use super::*;

/// The pointer of a segment, if it has one that counts.
fn pointer(segment: &[u8]) -> Option<u32> {
    let parsed = Incoming::parse(segment).unwrap();
    parsed.urgent.map(|pointer| parsed.seq.wrapping_add(pointer.into()))
}

/// Writes pieces whose last bytes are urgent at times, over a link of that kind. Every byte has to arrive, what is
/// called urgent has to be, and the last one has to be called so: nothing takes its place.
fn exchange(model: Model, seed: u64, both: [Settings; 2]) {
    let mut pair = Pair::new(model, seed, both);
    let mut random = Random(!seed);
    let data = pattern(120_000);
    let (mut sent, mut got) = (0, Vec::new());
    let (mut urgent, mut seen) = (Vec::new(), Vec::new());
    let until = pair.now + Duration::from_secs(2000);
    while got.len() < data.len() {
        if pair.ends[0].state() == State::Established && sent < data.len() {
            let piece = (1 + random.below(9000) as usize).min(data.len() - sent);
            let taken = pair.ends[0].send(&data[sent..sent + piece]);
            sent += taken;
            if taken == piece && (random.happens(300) || sent == data.len()) {
                pair.ends[0].connection().urge();
                urgent.push(sent - 1);
            }
        }
        if pair.ends[1].connection.is_some() && random.happens(500) {
            let mark = pair.ends[1].connection().urgent().map(|ahead| got.len() + ahead);
            seen.extend(mark.filter(|mark| seen.last() != Some(mark)));
            got.extend(pair.ends[1].receive());
        }
        // A program that reads at times wakes up at times.
        pair.step(pair.now + Duration::from_millis(10));
        assert!(pair.now < until, "seed {seed}: stuck at {sent} and {}", got.len());
    }
    assert!(got == data, "seed {seed}: other bytes arrived");
    assert!(seen.iter().all(|mark| urgent.contains(mark)), "seed {seed}: {seen:?} of {urgent:?}");
    assert_eq!(seen.last(), urgent.last(), "seed {seed}");
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.ends[0].connection().sending.urgent, None, "seed {seed}: all was acknowledged");
    assert_eq!(pair.ends[1].connection().receiving.urgent, None, "seed {seed}: all was taken");
}

#[test]
fn the_mark_keeps_its_place_on_bad_links() {
    for seed in 0..40 {
        let model = Model {
            delay: Duration::from_millis(2),
            jitter_us: 3000 * (seed % 3),
            loss: 20 * (seed % 5),
            duplication: 20 * (seed % 2),
            corruption: 0,
        };
        let mut both = [settings(), settings()];
        both[0].super_segments = seed % 2 == 0;
        both[0].cork = seed % 8 == 7;
        both[0].mtu = [1500, 576, 9000][seed as usize % 3];
        exchange(model, seed, both);
    }
}

#[test]
fn every_segment_before_its_end_has_the_pointer() {
    let mut pair = Pair::established();
    pair.log = Some(Vec::new());
    pair.ends[0].send(&pattern(5000));
    pair.ends[0].connection().urge();
    // While those are on their way a small piece waits for nothing, and has no pointer.
    pair.ends[0].send(b"more");
    let end = pair.ends[0].connection().sending.una.wrapping_add(5000);
    pair.settle();
    let log = pair.log.take().unwrap();
    let from_us =
        log.iter().filter(|(from, bytes)| *from == 0 && !Incoming::parse(bytes).unwrap().payload.is_empty());
    let told: Vec<(u32, Option<u32>)> =
        from_us.map(|(_, bytes)| (Incoming::parse(bytes).unwrap().seq, pointer(bytes))).collect();
    assert!(told.len() >= 4, "{told:?}");
    for (seq, pointer) in told {
        assert_eq!(pointer, segment::before(seq, end).then_some(end));
    }
    assert!(log.iter().all(|(from, bytes)| *from == 0 || pointer(bytes).is_none()));
    assert_eq!(pair.ends[1].connection().urgent(), Some(4999));
}

#[test]
fn nagle_and_cork_do_not_hold_urgent_data_back() {
    let mut pair = Pair::established();
    pair.ends[0].settings.cork = true;
    let (now, end) = (pair.now, &mut pair.ends[0]);
    end.machine.set(now, end.connection.as_mut().unwrap(), &end.settings);
    end.send(b"!");
    end.connection().urge();
    pair.run(Duration::from_millis(1));
    assert_eq!(pair.ends[1].received(), 1);
}

#[test]
fn super_segments_are_none_while_something_is_urgent() {
    let both = [settings(), settings()].map(|it| Settings { super_segments: true, ..it });
    let mut pair = Pair::new(Model::default(), 3, both);
    pair.settle();
    pair.log = Some(Vec::new());
    pair.ends[0].send(&pattern(10_000));
    pair.ends[0].connection().urge();
    pair.settle();
    let log = pair.log.take().unwrap();
    assert!(log.iter().all(|(_, bytes)| bytes.len() <= 1500), "one pointer is for one segment");
    assert_eq!(pair.ends[1].connection().urgent(), Some(9999));
    pair.log = Some(Vec::new());
    pair.ends[0].send(&pattern(10_000));
    pair.settle();
    assert!(pair.log.unwrap().iter().any(|(_, bytes)| bytes.len() > 1500), "and then they are again");
}

/// A segment of a peer that is established: so much behind what was expected, with that pointer.
fn say(pair: &mut Pair, ahead: u32, urgent: u16, payload: &[u8]) {
    let connection = pair.ends[1].connection();
    let bare = Bare {
        seq: connection.receiving.next.wrapping_add(ahead),
        ack: connection.sending.max,
        flags: Flags::ACK,
        window: 1000,
        urgent: Some(urgent),
        timestamps: Some((connection.stamps.recent, 0)),
        ..Bare::default()
    };
    let mut segment = vec![0; 60];
    let length = bare.emit(&mut segment);
    segment.truncate(length);
    segment.extend_from_slice(payload);
    pair.arrive(1, &segment);
}

#[test]
fn a_pointer_is_believed_once_and_only_forwards() {
    let mut pair = Pair::established();
    say(&mut pair, 0, 3, b"ab");
    assert_eq!(pair.ends[1].connection().urgent(), None, "the urgent byte has not come");
    say(&mut pair, 0, 1, b"!c");
    assert_eq!(pair.ends[1].connection().urgent(), Some(2));
    assert_eq!(pair.ends[1].receive(), b"ab!c");
    // What was taken is not urgent again: not as a repeated segment, nor by a pointer of nothing.
    say(&mut pair, 0u32.wrapping_sub(4), 3, b"ab!c");
    assert_eq!(pair.ends[1].connection().receiving.urgent, None);
    // The newer one counts, an older one behind it does not.
    say(&mut pair, 0, 2, b"1234");
    say(&mut pair, 0, 6, b"5678");
    say(&mut pair, 0, 1, b"9");
    assert_eq!(pair.ends[1].connection().urgent(), None);
    say(&mut pair, 0, 1, b"!");
    assert_eq!(pair.ends[1].connection().urgent(), Some(9));
    // Pointer zero is the segment's first byte (tcp_check_urg()).
    assert_eq!(pair.ends[1].receive(), b"123456789!");
    say(&mut pair, 0, 0, b"z");
    assert_eq!(pair.ends[1].connection().urgent(), Some(0));
}

proptest! {
    /// Whatever a peer points at, what is called urgent is a byte that is there, and bytes come as they are.
    #[test]
    fn pointers_do_no_harm(
        said in proptest::collection::vec((0u32..5, any::<u16>(), 0usize..600, any::<bool>()), 1..40),
    ) {
        let mut pair = Pair::established();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for (ahead, urgent, length, read) in said {
            let payload = vec![urgent as u8; length];
            if ahead == 0 {
                expected.extend_from_slice(&payload);
                say(&mut pair, 0, urgent, &payload);
            } else {
                // Nothing in it: what is out of order would be said twice, differently.
                say(&mut pair, ahead * 1_000_000_000, urgent, &[]);
            }
            let mark = pair.ends[1].connection().urgent();
            prop_assert!(mark.is_none_or(|mark| mark < pair.ends[1].received()));
            if read {
                got.extend(pair.ends[1].receive());
                prop_assert_eq!(pair.ends[1].connection().urgent(), None);
            }
        }
        got.extend(pair.ends[1].receive());
        prop_assert_eq!(got, expected);
    }
}
