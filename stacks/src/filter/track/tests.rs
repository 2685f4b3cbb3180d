//! The table's bounds, and who has to give way in it.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

fn table(limit: usize) -> Table {
    Table::new(limit, Key::new([7, 9]))
}

fn udp(from: (u32, u16), to: (u32, u16)) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0];
    bytes.extend(Ipv4Addr::from(from.0).octets());
    bytes.extend(Ipv4Addr::from(to.0).octets());
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend([0, 8, 0, 0]);
    bytes
}

fn track(table: &mut Table, now: Instant, bytes: &[u8]) -> Option<Tracked> {
    table.track(now, &View::new([bytes, &[]]).unwrap())
}

#[test]
fn who_opens_flows_without_end_displaces_its_own() {
    let mut table = table(100);
    let now = start();
    for port in 0..5 {
        track(&mut table, now, &udp((1, port), (9, 53))).unwrap();
        let answered = track(&mut table, now, &udp((9, 53), (1, port))).unwrap();
        assert_eq!(answered.state, State::Established);
    }
    for port in 0..10_000 {
        assert!(track(&mut table, now, &udp((2, port), (9, 53))).is_some());
        assert!(table.len() <= 100);
    }
    for port in 0..5 {
        assert_eq!(
            track(&mut table, now, &udp((1, port), (9, 53))).unwrap().state,
            State::Established,
            "{port}"
        );
    }
}

#[test]
fn whose_time_is_over_makes_room() {
    let mut table = table(10);
    let now = start();
    for n in 0..10 {
        track(&mut table, now, &udp((n, 1), (99, 53))).unwrap();
        track(&mut table, now, &udp((99, 53), (n, 1))).unwrap();
    }
    let later = now + STREAM;
    assert_eq!(track(&mut table, later, &udp((3, 1), (99, 53))).unwrap().state, State::New);
    for n in 20..25 {
        assert!(track(&mut table, later, &udp((n, 1), (99, 53))).is_some());
    }
    assert!(table.len() <= 10);
}

#[test]
fn what_is_carried_along_does_not_find_the_next_flow_in_its_place() {
    let mut table = table(10);
    let now = start();
    let first = track(&mut table, now, &udp((1, 1), (2, 2))).unwrap();
    table.forget(&first);
    assert_eq!(table.len(), 0);
    let second = track(&mut table, now, &udp((3, 3), (4, 4))).unwrap();
    assert!(table.flow(&first).is_none());
    assert!(table.flow(&second).is_some());
}

proptest! {
    #[test]
    fn the_table_is_bounded_and_of_one_piece(
        steps in prop::collection::vec((0..6u32, 0..4u16, 0..6u32, 0..4u16, 0..200u64, any::<bool>()), 1..200),
    ) {
        let mut table = table(8);
        let mut now = start();
        for (from, sport, to, dport, passed, forget) in steps {
            now += Duration::from_secs(passed);
            let tracked = track(&mut table, now, &udp((from, sport), (to, dport)));
            if let Some(tracked) = tracked.filter(|_| forget) {
                table.forget(&tracked);
            }
            prop_assert!(table.len() <= 8);
            prop_assert!(table.flows.len() <= 8);
            let alive: u32 = table.owners.values().sum();
            prop_assert_eq!(alive as usize, table.len());
            for (tuple, (slot, reply)) in &table.keys {
                let flow = table.flows[*slot as usize].as_ref();
                prop_assert_eq!(flow.map(|flow| flow.tuples[usize::from(*reply)]), Some(*tuple));
            }
        }
    }
}
