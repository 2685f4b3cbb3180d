//! sendmmsg(2) and recvmmsg(2): several messages in one call, each asked about by itself. The first may wait, those
//! behind it do not, as in a view (`viewnet`'s `handlers/smol/many.rs` says why).

use crate::ops::{self, Answer, Errand};
use crate::sys::packet::Header;
use crate::sys::{Copied, Data, Message};
use crate::{calls, config, messages};

/// Most messages of a call: UIO_MAXIOV, linux/uio.h.
const MAX_MESSAGES: u32 = 1024;
/// sizeof(struct mmsghdr), and where its `msg_len` is.
const ENTRY: usize = size_of::<libc::mmsghdr>();
const LENGTH: usize = size_of::<libc::msghdr>();
const NANOSECONDS: i64 = 1_000_000_000;

/// sendmmsg(2) where nobody traps it.
pub(crate) fn send(fd: i32, array: (usize, u32), flags: i32) -> Answer {
    let Some(key) = calls::host_of(fd) else { return Answer::Original };
    all(array, flags, |header, flags| (messages::send_header(key, fd, header, flags), 0))
}

/// sendmmsg(2) of datagrams in a view: how many could be sent unasked, and where the next one goes.
pub(crate) fn send_unasked(fd: i32, (messages, count): (usize, u32), flags: i32) -> (u32, Option<Errand>) {
    let mut errand = None;
    let sent = all((messages, count), flags, |header, _| match ops::send_header(fd, &header, flags) {
        Ok(length) => (Answer::Value(length), 0),
        Err(to) => {
            errand = to;
            (Answer::Original, 0)
        }
    });
    match sent {
        Answer::Value(sent) => (sent as u32, errand),
        _ => (0, errand),
    }
}

/// Whether recvmmsg(2)'s limit of time is over at once: one message, and no more.
pub(crate) fn is_no_time(time: usize) -> bool {
    time != 0 && (Copied::<16>::partly(time).word(0), Copied::<16>::partly(time).word(8)) == (0, 0)
}

/// Where the message of that number is.
pub(crate) fn entry(messages: usize, number: u32) -> usize {
    messages.wrapping_add(number as usize * ENTRY)
}

/// recvmmsg(2)
pub(crate) fn receive(fd: i32, (messages, mut count): (usize, u32), flags: i32, time: usize) -> Answer {
    if time != 0 {
        let time = Copied::<16>::partly(time);
        let (seconds, rest) = (time.word(0) as i64, time.word(8) as i64);
        // Of a time that is none the kernel says so, on the descriptor itself.
        if time.length() < 16 || seconds < 0 || !(0..NANOSECONDS).contains(&rest) {
            return Answer::Original;
        }
        if (seconds, rest) == (0, 0) {
            count = count.min(1);
        }
    }
    let flags = flags & !libc::MSG_WAITFORONE;
    if config::is_smol() {
        return all((messages, count), flags, |header, flags| ops::receive_header(fd, &header, flags));
    }
    let Some(key) = calls::host_of(fd) else { return Answer::Original };
    all((messages, count), flags, |header, flags| messages::receive_header(key, fd, &header, flags))
}

/// Does `one` with all messages: what became of it, and its `msg_flags`.
fn all(
    (messages, count): (usize, u32),
    mut flags: i32,
    mut one: impl FnMut(Header, i32) -> (Answer, i32),
) -> Answer {
    let mut done = 0;
    for number in 0..count.min(MAX_MESSAGES) {
        let entry = entry(messages, number);
        let (answer, told) = match Header::read(&Message::at(entry)) {
            Some(header) => one(header, flags),
            None => (Answer::Fail(libc::EFAULT), 0),
        };
        let length = match answer {
            Answer::Value(length) => length,
            // An error of a later one is none of this call.
            _ if done > 0 => break,
            answer => return answer,
        };
        if Data::at(entry + LENGTH, 4).fill(&(length as u32).to_ne_bytes()).is_err() {
            return if done > 0 { Answer::Value(done) } else { Answer::Fail(libc::EFAULT) };
        }
        done += 1;
        flags |= libc::MSG_DONTWAIT;
        if told & libc::MSG_OOB != 0 {
            break;
        }
    }
    if count == 0 { Answer::Original } else { Answer::Value(done) }
}
