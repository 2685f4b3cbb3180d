//! What calls bring to a stack and what becomes of its answers, on a program that exists only here.

use nix::errno::Errno;
use stacks::smol::call::{Done, Message, SocketCall};

use super::layout::MAX_DATA;
use super::*;
use crate::ask::{Ask, Given};
use crate::handlers::tests::Thread;
use crate::handlers::{Abi, Call};
use crate::target::{BASE, Pretend};

mod ioctl;
mod layouts;

/// A program's memory that grows as things are put into it.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Memory {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = BASE + self.0.len() as u64;
        self.0.extend(bytes);
        at
    }

    fn words(&mut self, words: &[u64]) -> u64 {
        self.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// A struct msghdr with its struct iovecs.
    fn header(&mut self, name: (u64, u32), pieces: &[(u64, u64)], control: (u64, u64)) -> u64 {
        let pieces: Vec<u64> = pieces.iter().flat_map(|(base, length)| [*base, *length]).collect();
        let vectors = self.words(&pieces);
        self.words(&[name.0, u64::from(name.1), vectors, pieces.len() as u64 / 2, control.0, control.1, 0])
    }

    fn program(self) -> Pretend {
        Pretend { memory: self.0, ..Pretend::default() }
    }
}

fn at(target: &Pretend, address: u64, length: usize) -> &[u8] {
    &target.memory[(address - BASE) as usize..][..length]
}

fn number(target: &Pretend, address: u64) -> i32 {
    let bytes = at(target, address, 4);
    i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn ask_as(abi: Abi, name: &str, args: &[u64], target: &mut Pretend) -> Result<Ask, Stop> {
    let row = TABLE.iter().find(|row| row.name == name).expect("a row of that name");
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let mut caller = Thread::default();
    row.asks.expect("a row that asks")(&mut Call { abi, args: all, target, caller: &mut caller })
}

fn ask(name: &str, args: &[u64], target: &mut Pretend) -> Result<Ask, Stop> {
    ask_as(Abi::Native, name, args, target)
}

fn refused(name: &str, args: &[u64], target: &mut Pretend) -> Errno {
    match ask(name, args, target) {
        Err(Stop::Fail(errno)) => errno,
        other => panic!("{name} {args:?}: {other:?}"),
    }
}

const NEGATIVE: u64 = -1i32 as u32 as u64;
/// Null and beyond the memory there is.
const NOWHERE: [u64; 2] = [0, BASE + (1 << 20)];

#[test]
fn an_address_is_copied_and_its_length_judged_as_the_kernel_does() {
    let mut target = Pretend { memory: (0..200).collect(), ..Pretend::default() };
    for name in ["bind", "connect"] {
        for length in [0, 16, 128] {
            let address = target.memory[..length].to_vec();
            let expected = match name {
                "bind" => SocketCall::Bind { address },
                _ => SocketCall::Connect { address },
            };
            assert_eq!(ask(name, &[3, BASE, length as u64], &mut target).unwrap().call, expected);
        }
        assert_eq!(refused(name, &[3, BASE, 129], &mut target), Errno::EINVAL);
        assert_eq!(refused(name, &[3, 0, NEGATIVE], &mut target), Errno::EINVAL);
        for pointer in NOWHERE {
            assert_eq!(refused(name, &[3, pointer, 16], &mut target), Errno::EFAULT);
        }
    }
}

#[test]
fn a_name_is_cut_to_the_room_there_is_and_its_length_told_in_full() {
    for (room, expected) in [(16, Ok(16)), (100, Ok(16)), (4, Ok(4)), (0, Ok(0)), (-1, Err(Errno::EINVAL))] {
        let mut memory = Memory::default();
        let (name, length) = (memory.put(&[0xff; 32]), memory.put(&i32::to_ne_bytes(room)));
        let mut target = memory.program();
        let mut ask = ask("getsockname", &[3, name, length], &mut target).unwrap();
        assert_eq!(ask.call, SocketCall::LocalName);
        let given = ask.give.give(&Done::Address((1..=16).collect()), &mut target);
        assert_eq!(given.clone().err(), expected.err(), "room {room}");
        if let Ok(written) = expected {
            assert_eq!(number(&target, length), 16);
            let bytes = at(&target, name, 32);
            assert!(bytes[..written].iter().eq((1..=16).take(written).collect::<Vec<u8>>().iter()));
            assert!(bytes[written..].iter().all(|byte| *byte == 0xff), "more than there was room for");
        }
    }
}

#[test]
fn a_bad_pointer_for_a_name_is_found_after_the_call() {
    let mut memory = Memory::default();
    let length = memory.put(&16i32.to_ne_bytes());
    let mut target = memory.program();
    for (name, length) in [(NOWHERE[1], length), (BASE, 0), (BASE, NOWHERE[1])] {
        let mut ask = ask("getpeername", &[3, name, length], &mut target).unwrap();
        // The stack's error comes first.
        assert_eq!(ask.give.fail(Errno::ENOTCONN), Err(Errno::ENOTCONN));
        assert_eq!(ask.give.give(&Done::Address(vec![0; 16]), &mut target), Err(Errno::EFAULT));
    }
}

#[test]
fn accept_wants_known_flags_and_writes_no_peer_where_none_is_wanted() {
    let mut target = Pretend::default();
    assert_eq!(refused("accept4", &[3, 0, 0, 1], &mut target), Errno::EINVAL);
    let done = Done::Accepted { peer: vec![7; 16] };
    for (flags, cloexec) in [(libc::SOCK_NONBLOCK, false), (libc::SOCK_CLOEXEC, true)] {
        let mut ask = ask("accept4", &[3, 0, 0, flags as u64], &mut target).unwrap();
        assert_eq!(ask.call, SocketCall::Accept { flags });
        assert_eq!(ask.give.give(&done, &mut target), Ok(Given::Descriptor { cloexec }));
    }
    let mut ask = ask("accept", &[3, BASE, BASE, libc::SOCK_CLOEXEC as u64], &mut target).unwrap();
    assert_eq!(ask.call, SocketCall::Accept { flags: 0 });
    assert_eq!(ask.give.give(&done, &mut target), Err(Errno::EFAULT));
}

#[test]
fn an_answer_to_another_question_is_an_error_and_no_panic() {
    let mut target = Pretend::default();
    let mut ask = ask("getsockname", &[3, BASE, BASE], &mut target).unwrap();
    assert_eq!(ask.give.give(&Done::Received(Message::default()), &mut target), Err(Errno::EIO));
}

#[test]
fn a_datagram_goes_where_it_belongs() {
    let mut memory = Memory::default();
    let data = memory.put(b"hello");
    let (name, length) = (memory.put(&[0; 16]), memory.put(&16i32.to_ne_bytes()));
    let mut target = memory.program();
    let mut sent = ask("sendto", &[3, data, 5, 0, name, 16], &mut target).unwrap();
    let send = |to| SocketCall::Send { to, control: Vec::new(), data: b"hello".to_vec(), flags: 0 };
    assert_eq!(sent.call, send(Some(vec![0; 16])));
    assert_eq!(sent.give.give(&Done::Value(5), &mut target), Ok(Given::Value(5)));
    assert_eq!(ask("sendto", &[3, data, 5, 0, 0, 16], &mut target).unwrap().call, send(None));
    assert_eq!(refused("sendto", &[3, 0, 5, 0, name, 16], &mut target), Errno::EFAULT);
    assert_eq!(refused("sendto", &[3, data, 5, 0, name, NEGATIVE], &mut target), Errno::EINVAL);

    let flags = libc::MSG_TRUNC;
    let mut received = ask("recvfrom", &[3, data, 3, flags as u64, name, length], &mut target).unwrap();
    assert_eq!(received.call, SocketCall::Receive { length: 3, control: 0, flags, named: true });
    let message = Message { data: b"abc".to_vec(), length: 9, from: vec![5; 28], ..Message::default() };
    let done = Done::Received(message);
    assert_eq!(received.give.give(&done, &mut target), Ok(Given::Value(9)));
    assert_eq!((at(&target, data, 5), at(&target, name, 16)), (&b"abclo"[..], &[5; 16][..]));
    assert_eq!(number(&target, length), 28);
    // Without an address the length is not looked at.
    let mut received = ask("recvfrom", &[3, data, 3, 0, 0, 0], &mut target).unwrap();
    assert_eq!(received.give.give(&done, &mut target), Ok(Given::Value(9)));
    let mut received = ask("recvfrom", &[3, 8, 3, 0, 0, 0], &mut target).unwrap();
    assert_eq!(received.give.give(&done, &mut target), Err(Errno::EFAULT));
}

#[test]
fn no_length_makes_us_copy_without_bound() {
    let mut target = Pretend { memory: vec![1; MAX_DATA + 10], ..Pretend::default() };
    for length in [u64::MAX, 1 << 40, MAX_DATA as u64 + 1] {
        let sent = ask("sendto", &[3, BASE, length, 0, 0, 0], &mut target).unwrap().call;
        assert!(matches!(sent, SocketCall::Send { data, .. } if data.len() == MAX_DATA));
        let received = ask("recvfrom", &[3, BASE, length, 0, 0, 0], &mut target).unwrap().call;
        assert!(matches!(received, SocketCall::Receive { length: MAX_DATA, .. }));
    }
}

#[test]
fn an_option_is_copied_as_far_as_it_is_there() {
    let mut target = Pretend { memory: (0..10).collect(), ..Pretend::default() };
    let value = |length: u64, target: &mut Pretend| match ask("setsockopt", &[3, 1, 2, BASE, length], target)
        .unwrap()
        .call
    {
        SocketCall::SetOption { level: 1, name: 2, value } => value,
        other => panic!("{other:?}"),
    };
    assert_eq!(value(4, &mut target), [0, 1, 2, 3]);
    assert!(value(0, &mut target).is_empty());
    assert_eq!(value(1 << 30, &mut target).len(), 10);
    assert_eq!(refused("setsockopt", &[3, 1, 2, BASE, NEGATIVE], &mut target), Errno::EINVAL);
    assert_eq!(refused("setsockopt", &[3, 1, 2, 0, 4], &mut target), Errno::EFAULT);
}

#[test]
fn a_packet_filter_goes_as_its_instructions() {
    let mut memory = Memory::default();
    let instructions = memory.put(&[9; 24]);
    let program = memory.words(&[3, instructions]);
    let narrow = memory.put(&[3u32.to_ne_bytes(), (instructions as u32).to_ne_bytes()].concat());
    let long = memory.words(&[5000, instructions]);
    let gone = memory.words(&[3, 0]);
    let mut target = memory.program();
    let (level, name) = (libc::SOL_SOCKET as u64, libc::SO_ATTACH_FILTER as u64);
    let mut value = |abi, program, length| match ask_as(
        abi,
        "setsockopt",
        &[3, level, name, program, length],
        &mut target,
    )
    .map(|ask| ask.call)
    {
        Ok(SocketCall::SetOption { value, .. }) => Ok(value),
        Ok(other) => panic!("{other:?}"),
        Err(stop) => Err(stop),
    };
    assert_eq!(value(Abi::Native, program, 16), Ok(vec![9; 24]));
    assert_eq!(value(Abi::I386, narrow, 8), Ok(vec![9; 24]));
    // What the kernel calls invalid is nothing.
    assert_eq!(value(Abi::Native, program, 8), Ok(vec![]));
    assert_eq!(value(Abi::Native, long, 16), Ok(vec![]));
    assert_eq!(value(Abi::Native, gone, 16), Err(Stop::Fail(Errno::EFAULT)));
}

#[test]
fn what_is_asked_for_is_written_with_its_length() {
    let mut memory = Memory::default();
    let (value, length) = (memory.put(&[6; 8]), memory.put(&8i32.to_ne_bytes()));
    let negative = memory.put(&(-8i32).to_ne_bytes());
    let mut target = memory.program();
    let get = |level: i32, length: u64, target: &mut Pretend| {
        ask("getsockopt", &[3, level as u64, 7, value, length], target)
    };
    // The buffer goes with the question only where an option may read it.
    for (level, offered) in [(libc::SOL_SOCKET, vec![0; 8]), (libc::SOL_IP, vec![6; 8])] {
        let question = SocketCall::GetOption { level, name: 7, value: offered };
        assert_eq!(get(level, length, &mut target).unwrap().call, question);
    }
    let mut ask = get(libc::SOL_SOCKET, length, &mut target).unwrap();
    assert_eq!(ask.give.give(&Done::Bytes(vec![1, 2, 3, 4]), &mut target), Ok(Given::Value(0)));
    assert_eq!((at(&target, value, 8), number(&target, length)), (&[1, 2, 3, 4, 6, 6, 6, 6][..], 4));
    // More than there was room for cannot be written.
    let mut ask = get(libc::SOL_SOCKET, length, &mut target).unwrap();
    assert_eq!(ask.give.give(&Done::Bytes(vec![5; 30]), &mut target), Ok(Given::Value(0)));
    assert_eq!(at(&target, value, 6), [5, 5, 5, 5, 6, 6]);
    assert_eq!(get(1, negative, &mut target).unwrap_err(), Stop::Fail(Errno::EINVAL));
    assert_eq!(get(1, 0, &mut target).unwrap_err(), Stop::Fail(Errno::EFAULT));
}

#[test]
fn a_message_is_gathered_from_its_pieces() {
    let mut memory = Memory::default();
    let (name, control) = (memory.put(&[4; 200]), memory.put(&[8; 32]));
    let (a, b) = (memory.put(b"ab"), memory.put(b"cde"));
    let header = memory.header((name, 16), &[(a, 2), (0, 0), (b, 3)], (control, 32));
    let plain = memory.header((0, 16), &[(a, 2)], (0, 99));
    let long_name = memory.header((name, 200), &[], (0, 0));
    let negative_name = memory.header((name, u32::MAX), &[], (0, 0));
    let negative_piece = memory.header((0, 0), &[(a, u64::MAX)], (0, 0));
    let faulty_piece = memory.header((0, 0), &[(8, 1)], (0, 0));
    let huge_control = memory.header((0, 0), &[], (control, 1 << 30));
    let mut target = memory.program();
    let mut send =
        |header| ask("sendmsg", &[3, header, libc::MSG_DONTWAIT as u64], &mut target).map(|ask| ask.call);
    let sent = |to, control, data: &[u8]| {
        Ok(SocketCall::Send { to, control, data: data.to_vec(), flags: libc::MSG_DONTWAIT })
    };
    assert_eq!(send(header), sent(Some(vec![4; 16]), vec![8; 32], b"abcde"));
    assert_eq!(send(plain), sent(None, vec![], b"ab"));
    assert_eq!(send(long_name), sent(Some(vec![4; 128]), vec![], b""));
    assert_eq!(send(negative_name), Err(Stop::Fail(Errno::EINVAL)));
    assert_eq!(send(negative_piece), Err(Stop::Fail(Errno::EINVAL)));
    assert_eq!(send(faulty_piece), Err(Stop::Fail(Errno::EFAULT)));
    assert_eq!(send(huge_control), Err(Stop::Fail(Errno::ENOBUFS)));
    assert_eq!(send(8), Err(Stop::Fail(Errno::EFAULT)));
    assert_eq!(refused("sendmsg", &[3, header, 1 << 31], &mut target), Errno::EINVAL);
}

#[test]
fn a_message_has_no_more_pieces_and_bytes_than_the_kernel_takes() {
    let mut memory = Memory::default();
    let data = memory.put(&vec![1; MAX_DATA]);
    let many = memory.header((0, 0), &[(data, 1); 1025], (0, 0));
    let most = memory.header((0, 0), &[(data, 1); 1024], (0, 0));
    let long = memory.header((0, 0), &[(data, MAX_DATA as u64 - 3), (data, 1 << 40), (0, 1 << 62)], (0, 0));
    let mut target = memory.program();
    assert_eq!(refused("sendmsg", &[3, many, 0], &mut target), Errno::EMSGSIZE);
    let mut length = |header| match ask("sendmsg", &[3, header, 0], &mut target).unwrap().call {
        SocketCall::Send { data, .. } => data.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(length(most), 1024);
    assert_eq!(length(long), MAX_DATA);
}

#[test]
fn a_message_is_scattered_over_its_pieces() {
    let mut memory = Memory::default();
    let (name, control, data) = (memory.put(&[0; 16]), memory.put(&[0; 24]), memory.put(b"......."));
    let header = memory.header((name, 4), &[(data, 2), (0, 0), (data + 3, 4)], (control, 24));
    let nameless = memory.header((0, 16), &[(data, 7)], (0, 24));
    let faulty = memory.header((0, 0), &[(8, 4)], (0, 0));
    let mut target = memory.program();
    let flags = libc::MSG_CMSG_CLOEXEC;
    let mut ask1 = ask("recvmsg", &[3, header, flags as u64], &mut target).unwrap();
    assert_eq!(ask1.call, SocketCall::Receive { length: 6, control: 24, flags, named: true });
    let message = Message {
        data: b"abcde".to_vec(),
        length: 5,
        from: vec![1; 16],
        control: vec![2; 20],
        flags: libc::MSG_TRUNC,
    };
    assert_eq!(ask1.give.give(&Done::Received(message.clone()), &mut target), Ok(Given::Value(5)));
    assert_eq!(at(&target, data, 7), b"ab.cde.");
    assert_eq!((at(&target, name, 5), at(&target, control, 21)[20]), (&[1, 1, 1, 1, 0][..], 0));
    assert_eq!((number(&target, header + 8), number(&target, header + 40)), (16, 20));
    assert_eq!(number(&target, header + 48), libc::MSG_TRUNC | flags);

    // Where nothing is wanted nothing is written, the length of the name included.
    let mut ask2 = ask("recvmsg", &[3, nameless, 0], &mut target).unwrap();
    assert_eq!(ask2.call, SocketCall::Receive { length: 7, control: 0, flags: 0, named: false });
    let bare = Message { control: Vec::new(), ..message.clone() };
    assert_eq!(ask2.give.give(&Done::Received(bare.clone()), &mut target), Ok(Given::Value(5)));
    assert_eq!((number(&target, nameless + 8), number(&target, nameless + 40)), (16, 0));
    let mut ask3 = ask("recvmsg", &[3, faulty, 0], &mut target).unwrap();
    assert_eq!(ask3.give.give(&Done::Received(bare), &mut target), Err(Errno::EFAULT));
}

/// An array of struct mmsghdr, a byte of data each.
fn entries(memory: &mut Memory, count: usize) -> u64 {
    let data = memory.put(b"0123456789");
    let headers: Vec<u64> = (0..count as u64)
        .map(|n| memory.words(&[data + n, 1]))
        .flat_map(|v| [0, 0, v, 1, 0, 0, 0, 77])
        .collect();
    memory.words(&headers)
}

fn next(given: Result<Given, Errno>) -> SocketCall {
    match given {
        Ok(Given::Next(call)) => call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn several_messages_are_sent_one_by_one_and_only_the_first_waits() {
    let mut memory = Memory::default();
    let array = entries(&mut memory, 3);
    let mut target = memory.program();
    let sent =
        |data: &[u8], flags| SocketCall::Send { to: None, control: vec![], data: data.to_vec(), flags };
    let mut ask1 = ask("sendmmsg", &[3, array, 3, 0], &mut target).unwrap();
    assert_eq!(ask1.call, sent(b"0", 0));
    assert!(ask1.give.untouched());
    assert_eq!(ask1.give.fail(Errno::EPIPE), Err(Errno::EPIPE));
    assert_eq!(next(ask1.give.give(&Done::Value(1), &mut target)), sent(b"1", libc::MSG_DONTWAIT));
    assert!(!ask1.give.untouched());
    assert_eq!(next(ask1.give.give(&Done::Value(1), &mut target)), sent(b"2", libc::MSG_DONTWAIT));
    assert_eq!(number(&target, array + 64 + 56), 1);
    assert_eq!(number(&target, array + 128 + 56), 77);
    // An error after the first is the next call's.
    assert_eq!(ask1.give.fail(Errno::EAGAIN), Ok(Given::Value(2)));
    assert_eq!(ask1.give.give(&Done::Value(1), &mut target), Ok(Given::Value(3)));
    assert_eq!(ask("sendmmsg", &[3, array, 0, 0], &mut target).unwrap_err(), Stop::Native);
    assert_eq!(refused("sendmmsg", &[3, 8, 1, 0], &mut target), Errno::EFAULT);
}

#[test]
fn several_messages_are_received_until_one_is_missing_urgent_or_unwritable() {
    let mut memory = Memory::default();
    let array = entries(&mut memory, 3);
    let (zero, wrong) = (memory.words(&[0, 0]), memory.words(&[0, 1_000_000_000]));
    let mut target = memory.program();
    let message =
        |flags| Done::Received(Message { data: b"x".to_vec(), length: 1, flags, ..Message::default() });
    let receive = |flags| SocketCall::Receive { length: 1, control: 0, flags, named: false };
    let mut ask1 = ask("recvmmsg", &[3, array, 9, libc::MSG_WAITFORONE as u64], &mut target).unwrap();
    assert_eq!(ask1.call, receive(0));
    assert_eq!(next(ask1.give.give(&message(0), &mut target)), receive(libc::MSG_DONTWAIT));
    assert_eq!(number(&target, array + 56), 1);
    assert_eq!(next(ask1.give.give(&message(0), &mut target)), receive(libc::MSG_DONTWAIT));
    // The third is the last that there is memory for.
    assert_eq!(ask1.give.give(&message(0), &mut target), Ok(Given::Value(3)));
    let mut ask2 = ask("recvmmsg", &[3, array, 3, 0], &mut target).unwrap();
    assert_eq!(ask2.give.give(&message(libc::MSG_OOB), &mut target), Ok(Given::Value(1)));
    let mut ask3 = ask("recvmmsg", &[3, array, 3, 0, zero], &mut target).unwrap();
    assert_eq!(ask3.give.give(&message(0), &mut target), Ok(Given::Value(1)));
    assert_eq!(refused("recvmmsg", &[3, array, 3, 0, wrong], &mut target), Errno::EINVAL);
    assert_eq!(refused("recvmmsg", &[3, array, 3, 0, 8], &mut target), Errno::EFAULT);
}

#[test]
fn a_program_cannot_close_its_memory_to_us() {
    let mut target = Pretend::default();
    let row = TABLE.iter().find(|row| row.name == "prctl").unwrap();
    let (dumpable, undumpable) = ([4, 1, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]);
    assert!(row.applies(&undumpable) && !row.applies(&dumpable));
    let mut call =
        Call { abi: Abi::Native, args: undumpable, target: &mut target, caller: &mut Thread::default() };
    assert!(matches!((row.handler)(&mut call), Ok(Reply::Value(0))));
}
