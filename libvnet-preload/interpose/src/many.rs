//! sendmmsg(2) and recvmmsg(2): several messages in one call, each asked about by itself. The first may wait, those
//! behind it do not, as in a view (`viewnet`'s `handlers/smol/many.rs` says why).

use msocket_proto::board::SECRET;

use crate::ops::Answer;
use crate::sys::packet::Header;
use crate::sys::{Copied, Data, Message};
use crate::{calls, messages};

/// Most messages of a call: UIO_MAXIOV, linux/uio.h.
const MAX_MESSAGES: u32 = 1024;
/// sizeof(struct mmsghdr), and where its `msg_len` is.
const ENTRY: usize = size_of::<libc::mmsghdr>();
const LENGTH: usize = size_of::<libc::msghdr>();
const NANOSECONDS: i64 = 1_000_000_000;

/// One message: what became of it, and its `msg_flags`.
type One = fn([u64; SECRET / 8], i32, Header, i32) -> (Answer, i32);

/// sendmmsg(2)
pub(crate) fn send(fd: i32, messages: usize, count: u32, flags: i32) -> Answer {
    all(fd, (messages, count), flags, |key, fd, header, flags| {
        (messages::send_header(key, fd, header, flags), 0)
    })
}

/// recvmmsg(2)
pub(crate) fn receive(fd: i32, messages: usize, mut count: u32, flags: i32, time: usize) -> Answer {
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
    all(fd, (messages, count), flags, |key, fd, header, flags| {
        messages::receive_header(key, fd, &header, flags)
    })
}

fn all(fd: i32, (messages, count): (usize, u32), mut flags: i32, one: One) -> Answer {
    let Some(key) = calls::host_of(fd) else { return Answer::Original };
    let mut done = 0;
    for at in 0..count.min(MAX_MESSAGES) as usize {
        let entry = messages.wrapping_add(at * ENTRY);
        let (answer, told) = match Header::read(&Message::at(entry)) {
            Some(header) => one(key, fd, header, flags),
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
