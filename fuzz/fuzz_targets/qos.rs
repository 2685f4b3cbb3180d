//! Any queues, promises and frames in any order of time: no panic, nothing lost that was taken, never more sent than
//! rate × time + burst, and whatever waits is sent in the end.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use switch::frame::Priority;
use switch::offload::VnetHdr;
use switch::qos::priority::PcpMap;
use switch::qos::queues::{Class, Next, PortQueues, Shape};
use switch::qos::rate::Rate;
use switch::qos::reserve::Reservation;
use switch::vlan::Vid;

#[derive(Debug, Arbitrary)]
struct Sketch {
    rate: Option<u32>,
    burst: Option<u16>,
    classes: Vec<Option<u8>>,
    map: Option<[u8; 8]>,
    percent: u8,
}

#[derive(Debug, Arbitrary)]
enum Step {
    Push { vid: u16, priority: u8, len: u16 },
    Send { at_most: u8 },
    Full,
    Wait { micros: u32 },
    Reserve { vid: u16, rate: u32, max: Option<u32> },
    Release { vid: u16 },
    Reshape(Sketch),
}

impl Sketch {
    fn shape(self) -> Shape {
        let class = |weight: Option<u8>| weight.filter(|w| *w > 0).map_or(Class::STRICT, Class::weight);
        Shape {
            rate: self.rate.and_then(|bps| Rate::from_bps(bps.into())),
            burst_bytes: self.burst.map(u32::from),
            classes: self.classes.into_iter().map(class).collect(),
            map: self.map.and_then(|map| PcpMap::try_from(map).ok()),
            queue_bytes: Some(0),
            reservable_percent: self.percent,
        }
    }
}

/// Sends what is due; returns bits and frames.
fn send(queues: &mut PortQueues, now: Instant, at_most: usize) -> (u64, usize) {
    let (mut bits, mut frames) = (0, 0);
    while frames < at_most
        && let Next::Frame(pick) = queues.poll(now)
    {
        let len: usize =
            queues.peek(pick).expect("what is next is there").bytes.map(<[u8]>::len).iter().sum();
        bits += 8 * len as u64;
        frames += 1;
        queues.pop(now, pick);
    }
    (bits, frames)
}

fuzz_target!(|input: (Sketch, Vec<Step>)| {
    let (sketch, steps) = input;
    let Ok(mut queues) = PortQueues::new(sketch.shape()) else { return };
    let mut now = Instant::now();
    // Since the last change of shape: when, how many bits; and frames inside.
    let (mut since, mut sent, mut inside) = (now, 0u64, 0usize);
    let zeros = [0; 65_535];
    for step in steps.into_iter().take(256) {
        match step {
            Step::Push { vid, priority, len } => {
                let Some(vid) = Vid::new(vid % 64) else { continue };
                let pieces = [&zeros[..usize::from(len)], &[], &[], &[]];
                let taken = queues.push(&VnetHdr::default(), vid, Priority::from_bits(priority), &pieces);
                inside += usize::from(taken);
            }
            Step::Send { at_most } => {
                let (bits, frames) = send(&mut queues, now, at_most.into());
                (sent, inside) = (sent + bits, inside - frames);
            }
            Step::Full => queues.wire_is_full(now),
            Step::Wait { micros } => now += Duration::from_micros(micros.into()),
            Step::Reserve { vid, rate, max } => {
                let rate_of = |bps: u32| Rate::from_bps(bps.into());
                let Some((vid, rate)) = Vid::new(vid % 64).zip(rate_of(rate)) else { continue };
                let _ = queues.reserve(Reservation { vid, rate, max: max.and_then(rate_of) });
                let promised: u64 = queues.reservations().map(|r| r.rate.bps()).sum();
                assert!(promised <= queues.shape().rate.map_or(0, Rate::bps));
            }
            Step::Release { vid } => {
                let Some(Ok(new)) = Vid::new(vid % 64).map(|vid| queues.released(vid)) else { continue };
                let mut old = std::mem::replace(&mut queues, new);
                queues.take_over(&mut old, || inside -= 1);
                (since, sent) = (now, 0);
            }
            Step::Reshape(sketch) => {
                let Ok(new) = queues.reshaped(sketch.shape()) else { continue };
                let mut old = std::mem::replace(&mut queues, new);
                queues.take_over(&mut old, || inside -= 1);
                (since, sent) = (now, 0);
            }
        }
        if let Some(rate) = queues.shape().rate {
            let burst = 8 * queues.burst_bytes().max(zeros.len()) as u128;
            let bound = u128::from(rate.bps()) * (now - since).as_nanos() / 1_000_000_000 + burst + 1;
            assert!(u128::from(sent) <= bound);
        }
        assert_eq!(inside, queues.states().map(|state| state.frames).sum::<usize>());
    }
    for _ in 0..10_000 {
        match queues.poll(now) {
            Next::Frame(_) => inside -= send(&mut queues, now, usize::MAX).1,
            Next::At(at) => {
                assert!(at > now);
                now = at;
            }
            Next::Idle => break,
        }
    }
    assert_eq!(inside, 0);
});
