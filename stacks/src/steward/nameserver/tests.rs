//! The stub, on sockets that are queues.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A datagram: the other end, and what it says.
type Datagram = (SocketAddr, Vec<u8>);

/// What a socket has heard and said.
#[derive(Debug, Default)]
struct Fake {
    heard: VecDeque<Datagram>,
    said: Vec<Datagram>,
    children: VecDeque<usize>,
    input: VecDeque<u8>,
    input_ended: bool,
    room: usize,
    output: Vec<u8>,
    output_ended: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Fakes {
    sockets: Vec<Fake>,
    refused: Vec<SocketAddr>,
}

impl Fakes {
    fn add(&mut self) -> usize {
        self.sockets.push(Fake { room: 1 << 20, ..Fake::default() });
        self.sockets.len() - 1
    }
}

impl Sockets for Fakes {
    type Id = usize;

    fn datagrams(&mut self, at: Option<SocketAddr>, _: SocketAddr) -> Result<usize, Errno> {
        if at.is_some_and(|at| self.refused.contains(&at)) { Err(Errno::EADDRINUSE) } else { Ok(self.add()) }
    }
    fn listener(&mut self, _: SocketAddr) -> Result<usize, Errno> {
        Ok(self.add())
    }
    fn connection(&mut self, _: SocketAddr) -> Result<usize, Errno> {
        Ok(self.add())
    }
    fn accept(&mut self, listener: usize) -> Option<usize> {
        self.sockets[listener].children.pop_front()
    }
    fn receive(&mut self, socket: usize, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let (from, data) = self.sockets[socket].heard.pop_front()?;
        buffer[..data.len()].copy_from_slice(&data);
        Some((data.len(), from))
    }
    fn send(&mut self, socket: usize, to: SocketAddr, data: &[u8]) {
        self.sockets[socket].said.push((to, data.to_vec()));
    }
    fn read(&mut self, socket: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let fake = &mut self.sockets[socket];
        let count = fake.input.len().min(buffer.len());
        fake.input.drain(..count).zip(buffer).for_each(|(byte, place)| *place = byte);
        if count == 0 && !fake.input_ended { Err(Errno::EAGAIN) } else { Ok(count) }
    }
    fn write(&mut self, socket: usize, data: &[u8]) -> Result<usize, Errno> {
        let fake = &mut self.sockets[socket];
        let count = data.len().min(fake.room);
        fake.room -= count;
        fake.output.extend_from_slice(&data[..count]);
        if count == 0 { Err(Errno::EAGAIN) } else { Ok(count) }
    }
    fn finish(&mut self, socket: usize) {
        self.sockets[socket].output_ended = true;
    }
    fn client(&mut self, _: &str) -> Result<usize, Errno> {
        Ok(self.add())
    }
    fn client_v6(&mut self, _: &str) -> Result<usize, Errno> {
        Ok(self.add())
    }

    fn routers(&mut self, _: &str) -> Result<usize, Errno> {
        Ok(self.add())
    }

    fn advertisement(&mut self, _: usize, _: &mut [u8]) -> Option<(usize, std::net::Ipv6Addr)> {
        None
    }

    fn heard(&mut self, _: &str, _: &crate::gateway::advertise::Heard) {}

    fn change_v6(&mut self, _: Instant, _: &str, _: &crate::dhcp6::client::Change) {}

    fn change(&mut self, _: &str, _: &super::super::renewal::Change) {}
    fn close(&mut self, socket: usize) {
        self.sockets[socket].closed = true;
    }
}

/// The sockets that a stub makes first, in this order.
const UP: usize = 0;
const DOOR: usize = 1;
const LISTENER: usize = 2;

fn stub() -> (Stub<usize>, Fakes) {
    let config = Nameserver { at: vec!["127.0.0.53".parse().unwrap()], ask: "10.0.2.1".parse().unwrap() };
    let mut fakes = Fakes::default();
    let stub = Stub::new(&mut fakes, &config, 7).unwrap();
    (stub, fakes)
}

fn server() -> SocketAddr {
    "10.0.2.1:53".parse().unwrap()
}

fn program(port: u16) -> SocketAddr {
    SocketAddr::new("127.0.0.1".parse().unwrap(), port)
}

fn question(number: u16, text: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], text].concat()
}

#[expect(clippy::disallowed_methods, reason = "any moment will do")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn two_programs_with_one_number_get_their_own_answers() {
    let (mut stub, mut fakes) = stub();
    for port in [1000, 1001] {
        fakes.sockets[DOOR].heard.push_back((program(port), question(7, &port.to_be_bytes())));
    }
    stub.turn(now(), &mut fakes);
    let asked = std::mem::take(&mut fakes.sockets[UP].said);
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0].1[..2], asked[1].1[..2], "each has a number of its own");
    // Answered in the other order, and by somebody else first.
    fakes.sockets[UP].heard.push_back((program(53), asked[0].1.clone()));
    for (to, message) in asked.iter().rev() {
        assert_eq!(*to, server());
        fakes.sockets[UP].heard.push_back((server(), message.clone()));
    }
    fakes.sockets[UP].heard.push_back((server(), asked[0].1.clone()));
    stub.turn(now(), &mut fakes);
    let answers = &fakes.sockets[DOOR].said;
    let expected: Vec<Datagram> =
        [1001u16, 1000].map(|port| (program(port), question(7, &port.to_be_bytes()))).into();
    assert_eq!(*answers, expected);
}

#[test]
fn unanswered_questions_are_forgotten_and_no_more_than_so_many_wait() {
    let (mut stub, mut fakes) = stub();
    let began = now();
    let mut ask = |now, count| {
        for number in 0..count {
            fakes.sockets[DOOR].heard.push_back((program(1000), question(number as u16, b"")));
        }
        while !fakes.sockets[DOOR].heard.is_empty() {
            stub.turn(now, &mut fakes);
        }
        std::mem::take(&mut fakes.sockets[UP].said).len()
    };
    assert_eq!(ask(began, MAX_ASKED + 10), MAX_ASKED);
    assert_eq!(ask(began, 1), 0);
    assert_eq!(ask(began + PATIENCE, 1), 1);
}

#[test]
fn connections_carry_bytes_both_ways_and_end_with_both_ends() {
    let (mut stub, mut fakes) = stub();
    let end = fakes.add();
    fakes.sockets[LISTENER].children.push_back(end);
    fakes.sockets[end].input.extend(b"question");
    stub.turn(now(), &mut fakes);
    let other = end + 1;
    assert!(stub.owns(end) && stub.owns(other));
    assert_eq!(fakes.sockets[other].output, b"question");
    // There is room for half of the answer.
    (fakes.sockets[end].input_ended, fakes.sockets[end].room) = (true, 3);
    fakes.sockets[other].input.extend(b"answer");
    stub.turn(now(), &mut fakes);
    assert_eq!(fakes.sockets[end].output, b"ans");
    assert!(fakes.sockets[other].output_ended && !fakes.sockets[other].closed);
    (fakes.sockets[end].room, fakes.sockets[other].input_ended) = (10, true);
    stub.turn(now(), &mut fakes);
    assert_eq!(fakes.sockets[end].output, b"answer");
    assert!(fakes.sockets[end].output_ended && fakes.sockets[end].closed && fakes.sockets[other].closed);
    assert!(!stub.owns(end));
}

#[test]
fn of_too_many_connections_the_silent_one_ends_and_a_taken_address_is_left_out() {
    let (mut stub, mut fakes) = stub();
    let first = fakes.add();
    fakes.sockets[LISTENER].children.push_back(first);
    let began = now();
    for at in 0..=MAX_TALKS as u32 {
        stub.turn(began + Duration::from_secs(at.into()), &mut fakes);
        let end = fakes.add();
        fakes.sockets[LISTENER].children.push_back(end);
    }
    assert!(fakes.sockets[first].closed && stub.talks.len() == MAX_TALKS);
    let config = Nameserver { at: vec!["::1".parse().unwrap()], ask: "fd00::1".parse().unwrap() };
    let mut taken = Fakes { refused: vec!["[::1]:53".parse().unwrap()], ..Fakes::default() };
    assert!(Stub::new(&mut taken, &config, 0).unwrap().doors.is_empty());
}

proptest! {
    #[test]
    fn anything_may_come(messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..40)) {
        let (mut stub, mut fakes) = stub();
        for (up, message) in messages {
            let (socket, from) = if up { (UP, server()) } else { (DOOR, program(1)) };
            fakes.sockets[socket].heard.push_back((from, message));
        }
        stub.turn(now(), &mut fakes);
        prop_assert!(stub.asked.len() <= MAX_ASKED);
    }
}
