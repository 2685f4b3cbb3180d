//! Flows: how they end, who gives one up, and that the table keeps its limits.

use super::*;
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn inside(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 2, n])
}

#[test]
fn a_flow_ends_when_nobody_uses_it() {
    let t0 = start();
    let mut flows = Flows::new(8);
    let (a, b) = (flows.insert(t0, 1, inside(1), MINUTE), flows.insert(t0, 2, inside(1), MINUTE));
    flows.touch(t0 + MINUTE / 2, b);
    assert_eq!(flows.poll_expired(t0 + MINUTE / 2), None);
    assert_eq!(flows.poll_expired(t0 + MINUTE), Some(a));
    flows.remove(a);
    assert_eq!(flows.poll_expired(t0 + MINUTE), None);
    assert_eq!(flows.poll_timeout(), Some(t0 + MINUTE * 3 / 2));
    flows.set_lifetime(t0 + MINUTE, b, 10 * MINUTE);
    assert_eq!(flows.poll_expired(t0 + 5 * MINUTE), None);
    assert_eq!(flows.poll_expired(t0 + 11 * MINUTE), Some(b));
}

#[test]
fn who_has_most_gives_one_up_and_keeps_what_it_uses() {
    let t0 = start();
    let mut flows = Flows::new(4);
    let modest = flows.insert(t0, 0, inside(1), MINUTE);
    let greedy: Vec<Slot> = (1..4).map(|key| flows.insert(t0, key, inside(2), MINUTE)).collect();
    flows.touch(t0, greedy[0]);
    assert_eq!(flows.crowded(), Some(greedy[1]));
    flows.remove(greedy[1]);
    assert_eq!(flows.crowded(), None);
    for key in 10..100 {
        if let Some(slot) = flows.crowded() {
            assert_ne!(slot, modest);
            flows.remove(slot);
        }
        flows.insert(t0, key, inside(2), MINUTE);
    }
    assert_eq!((flows.len(), flows.find(&0)), (4, Some(modest)));
}

#[derive(Debug, Clone)]
enum Act {
    Insert(u16, u8),
    Touch(u16),
    Remove(u16),
    Wait(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<u16>(), 0..4u8).prop_map(|(key, owner)| Act::Insert(key % 64, owner)),
        2 => (0..64u16).prop_map(Act::Touch),
        2 => (0..64u16).prop_map(Act::Remove),
        1 => (0..90u16).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn the_table_is_never_fuller_than_it_may_be(acts in prop::collection::vec(act(), 1..400)) {
        let mut now = start();
        let mut flows = Flows::new(16);
        for act in acts {
            match act {
                Act::Insert(key, owner) => if flows.find(&key).is_none() {
                    while let Some(slot) = flows.crowded() {
                        let most = flows.owners().map(|(_, count)| count).max().unwrap_or(0);
                        let owner = flows.owner(slot).expect("a flow that is there");
                        prop_assert_eq!(flows.owners().find(|(o, _)| *o == owner), Some((owner, most)));
                        flows.remove(slot);
                    }
                    let slot = flows.insert(now, key, inside(owner), MINUTE);
                    prop_assert_eq!(flows.find(&key), Some(slot));
                },
                Act::Touch(key) => if let Some(slot) = flows.find(&key) { flows.touch(now, slot) },
                Act::Remove(key) => if let Some(slot) = flows.find(&key) { flows.remove(slot) },
                Act::Wait(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    while let Some(slot) = flows.poll_expired(now) { flows.remove(slot) }
                    prop_assert!(flows.poll_timeout().is_none_or(|at| at > now));
                }
            }
            prop_assert!(flows.len() <= 16);
            prop_assert_eq!(flows.owners().map(|(_, count)| count).sum::<usize>(), flows.len());
            let queued: usize = flows.owners.values().map(|owned| owned.queue.len()).sum();
            prop_assert!(queued <= 2 * flows.len() + 4 * (SLACK + 2));
        }
    }
}
