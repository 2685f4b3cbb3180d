//! Calls that send and receive, where AF_UNIX would answer otherwise than the network: with addresses, ancillary data, and
//! flags that it does not know. All others are the kernel's on the descriptor itself.

use msocket_proto::ask::{Call, Head, Tail, Told, flags};

use crate::calls::{Came, MAX_ADDRESS, TEXT, ask, give, host_of, plain};
use crate::lines::Key;
use crate::ops::Answer;
use crate::sys::packet::{self, Header, Part, Vector};
use crate::sys::{Data, Message, Room, line};

/// What recv(2) asks of a socket of ours by these is answered otherwise than AF_UNIX does.
pub(crate) const RECEIVE_FLAGS: i32 = libc::MSG_OOB | libc::MSG_TRUNC | libc::MSG_ERRQUEUE;
/// And send(2) by these.
pub(crate) const SEND_FLAGS: i32 = libc::MSG_OOB | libc::MSG_FASTOPEN;
/// With these a message without address and ancillary data is what AF_UNIX takes it for.
const PLAIN_FLAGS: i32 =
    libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_NOSIGNAL | libc::MSG_CMSG_CLOEXEC | libc::MSG_WAITALL;
/// Most bytes of one message that are taken: of a datagram at most 64 KiB are, of a netlink message what SO_SNDBUF
/// allows, 208 KiB; a stream takes as much as it gets.
const MAX_DATA: usize = 256 << 10;
/// Most ancillary data of one message: net.core.optmem_max, socket(7).
const MAX_CONTROL: usize = 128 << 10;
/// sendto(2)
pub(crate) fn send(fd: i32, data: &Data, flags: i32, to: Option<Data>) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    let data = data.cut(data.length.min(MAX_DATA));
    let to = match to {
        Some(to) if to.length > MAX_ADDRESS => return Answer::Fail(libc::EINVAL),
        Some(to) => Some(to),
        None => None,
    };
    let (mut before, mut behind) = (Head::default(), Head::default());
    before.number(0).number(data.length as u64);
    behind.signed(flags & i32::MAX);
    let given = to.as_ref().map(|to| to.length as u64);
    let head = |head: &mut Head| {
        match given {
            Some(length) => head.byte(1).number(length),
            None => head.byte(0),
        };
    };
    let to = to.unwrap_or(Data::NONE);
    let mut parts =
        [Part::Program(to), Part::Own(before.bytes()), Part::Program(data), Part::Own(behind.bytes())];
    sent(plain(key, fd, Call::Send, head, &mut parts), fd, flags)
}

/// Whoever writes to a stream that has ended gets a signal.
fn sent(answer: Answer, fd: i32, flags: i32) -> Answer {
    if answer == Answer::Fail(libc::EPIPE)
        && flags & libc::MSG_NOSIGNAL == 0
        && line::kind(fd) == Some(libc::SOCK_STREAM)
    {
        line::raise_pipe();
    }
    answer
}

/// recvfrom(2)
pub(crate) fn receive(fd: i32, data: &Data, flags: i32, room: &Room) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    let length = data.length.min(MAX_DATA);
    let came =
        match ask(key, fd, Call::Receive, wanted(length, 0, flags & i32::MAX, room.is_there()), &mut []) {
            Ok(came) => came,
            Err(errno) => return Answer::Fail(errno),
        };
    let Told::Received(at, given) = came.told() else { return came.value() };
    let mut behind = [0; TEXT];
    let data = Part::Program(data.cut(given.min(length)));
    if let Err(errno) = came.scatter(at, &mut [data, Part::Room(&mut behind)]) {
        return Answer::Fail(errno);
    }
    let Some(tail) = Tail::read(&behind) else { return Answer::Fail(libc::EIO) };
    if room.is_there() {
        let from = behind.get(tail.from.0..tail.from.0 + tail.from.1).unwrap_or_default();
        let given = give(fd, room, from);
        if given != Answer::Value(0) {
            return given;
        }
    }
    Answer::Value(tail.length as isize)
}

/// What is asked when something is to be received.
fn wanted(length: usize, control: usize, flags: i32, named: bool) -> impl Fn(&mut Head) {
    move |head| {
        head.number(length as u64).number(control as u64).signed(flags).byte(u8::from(named));
    }
}

/// sendmsg(2)
pub(crate) fn send_message(fd: i32, message: &Message, flags: i32) -> Answer {
    match host_of(fd) {
        None => Answer::Original,
        Some(_) if message.is_plain() && flags & !PLAIN_FLAGS == 0 => Answer::Native,
        Some(key) => match Header::read(message) {
            None => Answer::Native,
            Some(header) => send_header(key, fd, header, flags),
        },
    }
}

/// sendmsg(2), of a message that the host has to see.
pub(crate) fn send_header(key: Key, fd: i32, header: Header, flags: i32) -> Answer {
    let length = match header.vector.length() {
        Err(errno) => return Answer::Fail(errno),
        Ok(length) => length.min(MAX_DATA),
    };
    if flags < 0 {
        return Answer::Fail(libc::EINVAL);
    }
    if header.control.length > MAX_CONTROL {
        return Answer::Fail(libc::ENOBUFS);
    }
    let Header { name, control, vector, .. } = header;
    let name = name.cut(name.length.min(MAX_ADDRESS));
    let given = name.length as u64;
    let head = |head: &mut Head| {
        match given {
            0 => head.byte(0),
            length => head.byte(1).number(length),
        };
    };
    let (mut first, mut second, mut last) = (Head::default(), Head::default(), Head::default());
    first.number(control.length as u64);
    second.number(length as u64);
    last.signed(flags);
    let mut parts = [
        Part::Program(name),
        Part::Own(first.bytes()),
        Part::Program(control),
        Part::Own(second.bytes()),
        Part::Vector(vector, length),
        Part::Own(last.bytes()),
    ];
    sent(plain(key, fd, Call::Send, head, &mut parts), fd, flags)
}

/// recvmsg(2)
pub(crate) fn receive_message(fd: i32, message: &Message, flags: i32) -> Answer {
    match host_of(fd) {
        None => Answer::Original,
        Some(_) if message.is_plain() && flags & !PLAIN_FLAGS == 0 => Answer::Native,
        Some(key) => match Header::read(message) {
            None => Answer::Native,
            Some(header) => receive_header(key, fd, &header, flags).0,
        },
    }
}

/// recvmsg(2), of a message that the host has to give; also its flags.
pub(crate) fn receive_header(key: Key, fd: i32, header: &Header, asked: i32) -> (Answer, i32) {
    let failed = |errno| (Answer::Fail(errno), 0);
    let length = match header.vector.length() {
        Ok(length) if asked >= 0 => length.min(MAX_DATA),
        Ok(_) => return failed(libc::EINVAL),
        Err(errno) => return failed(errno),
    };
    let room = header.control.length.min(MAX_CONTROL);
    let named = !header.name.is_none();
    let came = match ask(key, fd, Call::Receive, wanted(length, room, asked, named), &mut []) {
        Ok(came) => came,
        Err(errno) => return failed(errno),
    };
    let Told::Received(at, given) = came.told() else { return (came.value(), 0) };
    match fetch(came, (at, given.min(length)), header.vector, header.control.cut(room)) {
        Err(errno) => failed(errno),
        Ok((behind, tail, told)) => {
            let from = behind.get(tail.from.0..tail.from.0 + tail.from.1).unwrap_or_default();
            if named && let Err(errno) = header.name.fill(from) {
                return failed(errno);
            }
            let shown = told | asked & libc::MSG_CMSG_CLOEXEC;
            header.finish(from.len(), tail.control.1, shown);
            (Answer::Value(tail.length as isize), told)
        }
    }
}

/// Takes a message: data and ancillary data into the program's memory, what is between them and `msg_flags` here.
fn fetch(
    came: Came,
    (at, given): (usize, usize),
    vector: Vector,
    control: Data,
) -> Result<([u8; TEXT], Tail, i32), i32> {
    let (mut before, mut behind, mut last) = ([0; 64], [0; TEXT], [0; 8]);
    let before = before.get_mut(..at).ok_or(libc::EIO)?;
    // Where ancillary data begins stands behind the data.
    let mut parts = [Part::Vector(vector, given), Part::Room(&mut behind)];
    if let Err(errno) = packet::take(came.line.fd, before, &mut parts, libc::MSG_PEEK) {
        let _ = came.finish();
        return Err(errno);
    }
    let Some(tail) = Tail::read(&behind) else {
        let _ = came.finish();
        return Err(libc::EIO);
    };
    let between = behind.get_mut(..tail.control.0).ok_or(libc::EIO)?;
    let parts = &mut [
        Part::Vector(vector, given),
        Part::Room(between),
        Part::Program(control.cut(tail.control.1.min(control.length))),
        Part::Room(&mut last),
    ];
    came.scatter(at, parts)?;
    Ok((behind, tail, flags(&last).ok_or(libc::EIO)?))
}
