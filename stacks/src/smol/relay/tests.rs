//! What programs without a supervisor say ([`msocket_proto::ask`]) is what a supervisor would, byte for byte.

use msocket_proto::ask::{self, Asker, Head, Tail, Told};

use super::super::call::Message;
use super::*;

const PID: i32 = 123_456;
const FD: i32 = 7;
const TICKET: u64 = 300;

fn bytes(call: SocketCall) -> Vec<u8> {
    let caller = Caller { pid: PID, uid: 0, fd: FD, rights: true };
    postcard::to_stdvec(&Ask::Call { ticket: Ticket(TICKET), caller, call }).unwrap()
}

fn head(call: ask::Call, fill: impl FnOnce(&mut Head)) -> Vec<u8> {
    let mut head = Head::call(TICKET, Asker { pid: PID, uid: 0 }, FD, call);
    fill(&mut head);
    head.bytes().to_vec()
}

#[test]
fn calls_are_put_together_as_they_are_read() {
    let address = vec![2, 0, 0, 80, 127, 0, 0, 1];
    let named = |call| {
        let mut bytes = head(call, |head| {
            head.number(8);
        });
        bytes.extend(&address);
        bytes
    };
    assert_eq!(named(ask::Call::Bind), bytes(SocketCall::Bind { address: address.clone() }));
    assert_eq!(named(ask::Call::Connect), bytes(SocketCall::Connect { address: address.clone() }));
    let signed = |call, number| {
        head(call, |head| {
            head.signed(number);
        })
    };
    assert_eq!(signed(ask::Call::Listen, -1), bytes(SocketCall::Listen { backlog: -1 }));
    assert_eq!(signed(ask::Call::Accept, 0x80800), bytes(SocketCall::Accept { flags: 0x80800 }));
    assert_eq!(signed(ask::Call::Shutdown, 2), bytes(SocketCall::Shutdown { how: 2 }));
    assert_eq!(head(ask::Call::LocalName, |_| ()), bytes(SocketCall::LocalName));
    assert_eq!(head(ask::Call::PeerName, |_| ()), bytes(SocketCall::PeerName));
    for (call, wanted) in [
        (ask::Call::GetOption, SocketCall::GetOption { level: 6, name: -9, value: address.clone() }),
        (ask::Call::SetOption, SocketCall::SetOption { level: 6, name: -9, value: address.clone() }),
    ] {
        let mut put = head(call, |head| {
            head.signed(6).signed(-9).number(8);
        });
        put.extend(&address);
        assert_eq!(put, bytes(wanted));
    }
    let mut put = head(ask::Call::Ioctl, |head| {
        head.number(0x8912).number(8);
    });
    put.extend(&address);
    assert_eq!(put, bytes(SocketCall::Ioctl { request: 0x8912, argument: address }));
}

#[test]
fn messages_are_put_together_as_they_are_read() {
    let (to, control, data) = (vec![1; 16], vec![2; 300], vec![3; 5000]);
    let mut put = head(ask::Call::Send, |head| {
        head.byte(1).number(16);
    });
    put.extend(&to);
    let mut between = Head::default();
    put.extend(between.number(300).bytes());
    put.extend(&control);
    let mut between = Head::default();
    put.extend(between.number(5000).bytes());
    put.extend(&data);
    let mut behind = Head::default();
    put.extend(behind.signed(0x4040).bytes());
    let call = SocketCall::Send { to: Some(to), control, data, flags: 0x4040 };
    assert_eq!(put, bytes(call));
    let put = head(ask::Call::Receive, |head| {
        head.number(9000).number(64).signed(0x22).byte(1);
    });
    assert_eq!(put, bytes(SocketCall::Receive { length: 9000, control: 64, flags: 0x22, named: true }));
    let abandon = Ask::Abandon { ticket: Ticket(2), of: Ticket(1) };
    assert_eq!(Head::abandon(2, 1).bytes(), postcard::to_stdvec(&abandon).unwrap());
    let board = Ask::Board { ticket: Ticket(2), secret: "0123".into() };
    assert_eq!(Head::board(2, b"0123").bytes(), postcard::to_stdvec(&board).unwrap());
}

fn told_of(result: Result<Done, i32>) -> Told {
    let bytes = postcard::to_stdvec(&Tell::Answer { ticket: Ticket(TICKET), result }).unwrap();
    let (ticket, told) = Told::read(&bytes).unwrap();
    assert_eq!(ticket, TICKET);
    if let Told::Bytes(at, length) | Told::Address(at, length) | Told::Accepted(at, length) = told {
        assert_eq!(bytes.get(at..at + length), Some(&[9; 200][..]));
    }
    told
}

#[test]
fn answers_are_read_as_they_are_put_together() {
    assert!(matches!(told_of(Ok(Done::Bytes(vec![9; 200]))), Told::Bytes(_, 200)));
    assert!(matches!(told_of(Ok(Done::Address(vec![9; 200]))), Told::Address(_, 200)));
    assert!(matches!(told_of(Ok(Done::Accepted { peer: vec![9; 200] })), Told::Accepted(_, 200)));
    assert_eq!(told_of(Ok(Done::Value(-70_000))), Told::Value(-70_000));
    assert_eq!(told_of(Ok(Done::Mapping)), Told::Mapping);
    assert_eq!(told_of(Ok(Done::NotOurs)), Told::NotOurs);
    assert_eq!(told_of(Ok(Done::Native)), Told::Native);
    assert_eq!(told_of(Err(libc::ECONNREFUSED)), Told::Failed(libc::ECONNREFUSED));
    let parked = postcard::to_stdvec(&Tell::Parked { ticket: Ticket(5) }).unwrap();
    assert_eq!(Told::read(&parked), Some((5, Told::Parked)));
    assert_eq!(Told::read(&[]), None);
    assert_eq!(Told::read(&[7, 7, 7]), None);
}

#[test]
fn messages_are_read_as_they_are_put_together() {
    let message = Message {
        data: vec![1; 1000],
        length: 2000,
        from: vec![2; 16],
        control: vec![3; 40],
        flags: libc::MSG_TRUNC,
    };
    let tell = Tell::Answer { ticket: Ticket(1), result: Ok(Done::Received(message)) };
    let bytes = postcard::to_stdvec(&tell).unwrap();
    let Some((1, Told::Received(at, 1000))) = Told::read(&bytes) else { panic!("{bytes:?}") };
    assert_eq!(bytes[at..at + 1000], [1; 1000]);
    let behind = &bytes[at + 1000..];
    let tail = Tail::read(behind).unwrap();
    assert_eq!((tail.length, tail.from.1, tail.control.1), (2000, 16, 40));
    assert_eq!(behind[tail.from.0..][..16], [2; 16]);
    assert_eq!(behind[tail.control.0..][..40], [3; 40]);
    assert_eq!(ask::flags(&behind[tail.control.0 + 40..]), Some(libc::MSG_TRUNC));
}
