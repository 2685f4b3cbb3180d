//! Options against Linux's own: what they are on new sockets, what becomes of values that are set.
//!
//! The tables were written by Linux 6.18: level, name, room or value, and an answer for each kind of socket, in
//! hexadecimal or as an error (`?`: set, and then not readable).

use super::*;

/// The kinds of socket in the order of the tables.
const KINDS: [(i32, i32, i32); 8] = [
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET6, libc::SOCK_DGRAM, 0),
    (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
    (libc::AF_PACKET, libc::SOCK_RAW, 0),
    (libc::AF_NETLINK, libc::SOCK_RAW, 0),
];

fn answer(result: Result<Done, Errno>) -> String {
    match result {
        Ok(Done::Bytes(bytes)) if bytes.is_empty() => "-".into(),
        Ok(Done::Bytes(bytes)) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Ok(other) => panic!("{other:?}"),
        Err(errno) => format!("{errno:?}"),
    }
}

fn get(world: &mut World, id: SocketId, level: i32, name: i32, room: usize) -> String {
    answer(world.call(0, id, SocketCall::GetOption { level, name, value: vec![0; room] }))
}

fn compare(different: &mut Vec<String>, what: &str, expected: &str, got: &str) {
    if expected != got {
        different.push(format!("{what}: Linux {expected}, here {got}"));
    }
}

#[test]
fn defaults_are_those_of_linux() {
    let mut world = World::alone();
    let ids = KINDS.map(|(domain, kind, protocol)| world.socket(0, domain, kind, protocol));
    let mut different = Vec::new();
    for line in include_str!("defaults.txt").lines() {
        let mut words = line.split(' ');
        let mut number = || words.next().unwrap().parse::<i32>().unwrap();
        let (level, name, room) = (number(), number(), number());
        for (kind, (id, expected)) in ids.into_iter().zip(words).enumerate() {
            let got = get(&mut world, id, level, name, room as usize);
            compare(
                &mut different,
                &format!("level {level} option {name} room {room} kind {kind}"),
                expected,
                &got,
            );
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn values_are_taken_as_by_linux() {
    let mut world = World::alone();
    let mut different = Vec::new();
    for line in include_str!("values.txt").lines() {
        let mut words = line.split(' ');
        let mut number = || words.next().unwrap().parse::<i32>().unwrap();
        let (level, name, value) = (number(), number(), number());
        for ((domain, kind, protocol), expected) in KINDS.into_iter().zip(words) {
            let id = world.socket(0, domain, kind, protocol);
            let got = match world.set(0, id, level, name, value) {
                Err(errno) => format!("{errno:?}"),
                Ok(()) => match get(&mut world, id, level, name, 4) {
                    error if error.starts_with('E') => format!("?{error}"),
                    value => value,
                },
            };
            world.close(0, id);
            let what = format!("level {level} option {name} := {value} on {domain} {kind}");
            compare(&mut different, &what, expected, &got);
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

/// What programs are shown is what they would be told, and what they need not set changes nothing.
#[test]
fn options_that_are_shown_are_those_that_are_told() {
    use msocket_proto::board::options::Shown;

    let mut world = World::alone();
    for (domain, kind, protocol) in KINDS.into_iter().take(4) {
        let id = world.socket(0, domain, kind, protocol);
        for shown in Shown::all() {
            let (level, name) = shown.name();
            for value in -3..=300 {
                let before = world.engines[0].shown_options(id);
                let nothing = before[shown.number()].is_some_and(|has| shown.is_nothing(has, value));
                let set = world.set(0, id, level, name, value);
                if nothing {
                    assert!(set.is_ok(), "level {level} option {name} := {value} on {domain} {kind}");
                    assert_eq!(before, world.engines[0].shown_options(id));
                }
                let told = get(&mut world, id, level, name, 4);
                let corked = get(&mut world, id, libc::IPPROTO_TCP, libc::TCP_CORK, 4) == "01000000";
                if corked && (level, name) == (libc::IPPROTO_TCP, libc::TCP_NODELAY) {
                    assert_eq!(before[shown.number()], None);
                    continue;
                }
                let now = world.engines[0].shown_options(id)[shown.number()];
                let now = now.map(|value| answer(Ok(Done::Bytes(value.to_ne_bytes().to_vec()))));
                assert_eq!(
                    now,
                    Some(told).filter(|told| !told.starts_with('E')),
                    "level {level} option {name}"
                );
            }
        }
    }
}
