//! sendmmsg(2) and recvmmsg(2): several messages in one call.
//!
//! Each message is a question of its own. The first may wait; those behind it do not, so that no message that
//! has been sent or received is forgotten when a signal interrupts the call. Linux waits for the others
//! too, on a blocking socket and without MSG_WAITFORONE; its manual page says that fewer may come. What
//! `timeout` bounds there is the time until the last message: here it is checked, means "no more than one"
//! when it is zero, and is left as it is.

use nix::errno::Errno;
use stacks::smol::call::{Done, SocketCall};

use super::layout::{Header, MAX_PIECES, entry, length_of_entry};
use super::messages::refuse_compat;
use super::options::{word32, word64};
use crate::answer::Stop;
use crate::ask::{Ask, Give, Given};
use crate::handlers::{Abi, Call};
use crate::target::Target;

const NANOSECONDS: i64 = 1_000_000_000;

/// A call on several messages, half done.
#[derive(Debug)]
pub(crate) struct Many {
    abi: Abi,
    /// Where the array is.
    address: u64,
    count: usize,
    /// Those of the next message.
    flags: i32,
    done: usize,
    /// The message that is being received; none when they are sent.
    receiving: Option<Header>,
}

/// sendmmsg(2)
pub(super) fn sendmmsg(call: &mut Call<'_>) -> Result<Ask, Stop> {
    let flags = refuse_compat(call.int(3))?;
    let mut many = Many::new(call, flags);
    let question = many.send(call.target)?.ok_or(Stop::Native)?;
    Ok(Ask::new(question, Give::Many(Box::new(many))))
}

/// recvmmsg(2)
pub(super) fn recvmmsg(call: &mut Call<'_>) -> Result<Ask, Stop> {
    receive(call, call.abi == Abi::Native)
}

/// recvmmsg(2) of a 32-bit program with a 64-bit time
pub(super) fn recvmmsg_time64(call: &mut Call<'_>) -> Result<Ask, Stop> {
    receive(call, true)
}

fn receive(call: &mut Call<'_>, wide_time: bool) -> Result<Ask, Stop> {
    let flags = refuse_compat(call.int(3))?;
    let mut many = Many::new(call, flags & !libc::MSG_WAITFORONE);
    if call.address(4) != 0 {
        let bytes = call.target.read(call.address(4), if wide_time { 16 } else { 8 })?;
        let (seconds, rest) = match wide_time {
            true => (word64(&bytes, 0) as i64, word64(&bytes, 8) as i64),
            false => (i64::from(word32(&bytes, 0) as i32), i64::from(word32(&bytes, 4) as i32)),
        };
        if seconds < 0 || !(0..NANOSECONDS).contains(&rest) {
            return Err(Stop::Fail(Errno::EINVAL));
        }
        if (seconds, rest) == (0, 0) {
            many.count = many.count.min(1);
        }
    }
    // Of no messages at all the kernel makes what it makes of them on any socket.
    let question = many.receive(call.target)?.ok_or(Stop::Native)?;
    Ok(Ask::new(question, Give::Many(Box::new(many))))
}

impl Many {
    fn new(call: &Call<'_>, flags: i32) -> Self {
        let count = (call.args[2] as u32 as usize).min(MAX_PIECES);
        Self { abi: call.abi, address: call.address(1), count, flags, done: 0, receiving: None }
    }

    fn current(&self) -> u64 {
        self.address.wrapping_add(self.done as u64 * entry(self.abi))
    }

    fn send(&mut self, target: &mut dyn Target) -> Result<Option<SocketCall>, Errno> {
        if self.done == self.count {
            return Ok(None);
        }
        let header = Header::read(self.abi, self.current(), self.flags, target)?;
        Ok(Some(header.send(self.flags, target)?))
    }

    fn receive(&mut self, target: &mut dyn Target) -> Result<Option<SocketCall>, Errno> {
        if self.done == self.count {
            return Ok(None);
        }
        let header = Header::read(self.abi, self.current(), self.flags, target)?;
        let question = header.receive(self.flags);
        self.receiving = Some(header);
        Ok(Some(question))
    }

    /// How many messages went well.
    pub(crate) fn done(&self) -> i64 {
        self.done as i64
    }

    /// Writes what became of one message and says what to ask of the next. An error of a later one is none
    /// of this call.
    pub(crate) fn give(&mut self, done: &Done, target: &mut dyn Target) -> Result<Given, Errno> {
        match self.step(done, target) {
            Ok(Some(question)) => Ok(Given::Next(question)),
            Ok(None) => Ok(Given::Value(self.done())),
            Err(errno) if self.done == 0 => Err(errno),
            Err(_) => Ok(Given::Value(self.done())),
        }
    }

    fn step(&mut self, done: &Done, target: &mut dyn Target) -> Result<Option<SocketCall>, Errno> {
        let last = match (done, &self.receiving) {
            (Done::Value(sent), None) => {
                let length = (*sent as u32).to_ne_bytes();
                target.write(length_of_entry(self.abi, self.current()), &length)?;
                false
            }
            (Done::Received(message), Some(header)) => {
                header.write(message, true, target)?;
                message.flags & libc::MSG_OOB != 0
            }
            _ => return Err(Errno::EIO),
        };
        self.done += 1;
        self.flags |= libc::MSG_DONTWAIT;
        match &self.receiving {
            _ if last => Ok(None),
            Some(_) => self.receive(target),
            None => self.send(target),
        }
    }
}
