//! The desk: where calls on sockets of stacks in a library are put to the stack and answers handed out.
//!
//! # Theory of operation
//! A call is *put* to the stack under a ticket. Its answer comes at once, or the call *waits* and nothing else is
//! held up by it. An answer is handed out in this order: is the call still there; write the program's memory;
//! answer the notification. A signal that the program handles may end the call between any two of these
//! (the kernel then fails it with EINTR, or makes it anew under another id, SA_RESTART), and a call that has
//! gone is not announced. So
//! - a thread that makes a call waits in no other: the one it waited in is cancelled first;
//! - a thread that has ended waits no more;
//! - an answer that cannot be delivered is *given back* to the stack if it took something from there, a
//!   connection or a message. Any other is *kept* for the thread: if the very next call of this is the same call,
//!   that is the call made anew, and the kept answer is its answer. A bind(2) that succeeded is not run
//!   twice.
//!
//! One gap is the kernel's: a signal that meets a thread while NOTIF_SEND is under way can end the call although
//! the answer was taken (seccomp_do_user_notification looks at the signal first), and nobody is told. Some
//! two signals in ten thousand that fall into a trapped call meet it; then a datagram is sent twice, or one is lost,
//! as networks do. Descriptors cannot be lost so: the thread itself installs them.
//!
//! The desk knows neither the listener nor the host but through [`Door`] and [`SocketHost`].

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use stacks::smol::call::{Answered, Caller as Who, Done, SocketCall, SocketHost, Ticket};

use crate::ask::{Ask, Give, Given};
use crate::sys::seccomp::Notification;
use crate::target::Target;

/// Most calls that wait at once: a thread each, and as many are more than a machine has
/// (kernel.threads-max is 2 per MiB of memory by default).
const MAX_WAITING: usize = 1 << 16;
/// Most answers that are kept; past that, all are forgotten. Each is for a call that a signal met within the
/// microseconds of its answer.
const MAX_KEPT: usize = 256;
/// How long an answer is kept: longer than a signal handler runs, not as long as a thread id comes back.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Where answers go: the notifications' listener.
pub(crate) trait Door {
    /// Whether a call is still there.
    fn is_valid(&self, id: u64) -> bool;
    /// Answers it.
    fn answer(&self, id: u64, result: Result<i64, Errno>) -> Result<(), Errno>;
    /// Answers it with a new descriptor.
    fn install(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> Result<i32, Errno>;
    /// Puts a descriptor in the place of the program's `number`.
    fn replace(&self, call: &Notification, number: i32, fd: BorrowedFd<'_>) -> Result<(), Errno>;
    /// Puts a descriptor in the place of number `number` of the program that makes the call `id`.
    fn put_at(&self, id: u64, number: i32, fd: BorrowedFd<'_>, cloexec: bool) -> Result<(), Errno>;
    /// Lets the kernel run it.
    fn let_run(&self, id: u64) -> Result<(), Errno>;
    /// Maps a descriptor in the place of the program's.
    fn map(&self, call: &Notification, fd: BorrowedFd<'_>) -> Mapped;
}

/// What became of a call that maps something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// It has its result.
    Done(Result<i64, Errno>),
    /// It is still to be answered with this.
    Refused(Errno),
    /// It was interrupted, and is made anew if at all.
    Gone,
}

/// What a call is put with.
pub(crate) struct Desk<'a> {
    /// Whoever answers.
    pub(crate) stack: &'a mut dyn SocketHost,
    /// Where the answer goes.
    pub(crate) door: &'a dyn Door,
    /// The program.
    pub(crate) target: &'a mut dyn Target,
    /// The time.
    pub(crate) now: Instant,
}

/// Calls that wait, and answers that could not be delivered.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: HashMap<Ticket, Waiting>,
    threads: HashMap<i32, Ticket>,
    kept: HashMap<i32, Kept>,
    last: u64,
}

/// A call that is put.
#[derive(Debug)]
pub(crate) struct Made {
    /// As it was trapped.
    pub(crate) call: Notification,
    /// Who makes it.
    pub(crate) who: Who,
    /// The descriptor it is made on, if it is the program's.
    pub(crate) fd: Option<i32>,
    /// How it is shown, when it is traced.
    pub(crate) line: Option<String>,
}

/// A call between being put and being answered.
#[derive(Debug)]
struct Waiting {
    made: Made,
    give: Give,
    /// Its answers take something from the stack.
    takes: bool,
    /// What was taken for it, in order.
    taken: Vec<(Ticket, Answered)>,
}

/// An answer that could not be delivered.
#[derive(Debug)]
struct Kept {
    call: Notification,
    result: Result<i64, Errno>,
    at: Instant,
}

/// How a call ended, as strace shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// With a value.
    Value(i64),
    /// With an error.
    Fails(Errno),
    /// The kernel runs it.
    Native,
    /// It was interrupted before its answer.
    Gone,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Fails(errno) => write!(f, "-1 {errno:?} ({})", errno.desc()),
            Self::Native => f.write_str("native"),
            Self::Gone => f.write_str("? (interrupted)"),
        }
    }
}

/// What became of a call that was put, with the line that shows it.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is over.
    Over(Shown, Option<String>),
    /// It waits.
    Waits,
    /// The descriptor is none of the stack's: nothing has happened.
    NotOurs(Option<String>),
}

impl Calls {
    /// What was kept for the thread, if the call it now makes is the one it was kept for.
    pub(crate) fn replay(&mut self, now: Instant, call: &Notification) -> Option<Result<i64, Errno>> {
        let kept = self.kept.remove(&call.tid)?;
        let same = (kept.call.arch, kept.call.nr, kept.call.args) == (call.arch, call.nr, call.args);
        (same && now.duration_since(kept.at) < KEPT_FOR).then_some(kept.result)
    }

    /// The thread waits no more: it has ended, or makes another call. Returns the line of the call it waited in.
    pub(crate) fn interrupt(&mut self, stack: &mut dyn SocketHost, tid: i32) -> Option<String> {
        let ticket = self.threads.remove(&tid)?;
        stack.cancel(ticket);
        self.waiting.remove(&ticket)?.made.line
    }

    /// Whether the thread waits.
    pub(crate) fn waits(&self, tid: i32) -> bool {
        self.threads.contains_key(&tid)
    }

    /// The thread whose call waits under a ticket.
    pub(crate) fn thread_of(&self, ticket: Ticket) -> Option<i32> {
        self.waiting.get(&ticket).map(|waiting| waiting.made.call.tid)
    }

    /// Puts a call to the stack, made on `file`.
    pub(crate) fn put(&mut self, desk: &mut Desk<'_>, made: Made, file: OwnedFd, ask: Ask) -> Put {
        let Ask { call: question, give, .. } = ask;
        let takes = match &question {
            SocketCall::Receive { flags, .. } => flags & libc::MSG_PEEK == 0,
            SocketCall::Accept { .. } => true,
            _ => false,
        };
        let waiting = Waiting { made, give, takes, taken: Vec::new() };
        self.ask(desk, waiting, file, question)
    }

    fn ask(&mut self, desk: &mut Desk<'_>, waiting: Waiting, file: OwnedFd, question: SocketCall) -> Put {
        // Linux takes the number before it looks for a connection.
        if matches!(question, SocketCall::Accept { .. }) && !desk.target.has_room() {
            return self.finish(desk, waiting, Err(Errno::EMFILE));
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        match desk.stack.call(desk.now, ticket, &waiting.made.who, file, question) {
            Some(answered) => self.hand_out(desk, waiting, ticket, answered),
            None if self.waiting.len() >= MAX_WAITING => {
                desk.stack.cancel(ticket);
                self.finish(desk, waiting, Err(Errno::ENOBUFS))
            }
            None => {
                self.threads.insert(waiting.made.call.tid, ticket);
                self.waiting.insert(ticket, waiting);
                Put::Waits
            }
        }
    }

    /// A parked call has its answer.
    pub(crate) fn answered(&mut self, desk: &mut Desk<'_>, ticket: Ticket, answered: Answered) -> Put {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            // Cancelled meanwhile.
            give_back(desk.stack, vec![(ticket, answered)]);
            return Put::Waits;
        };
        self.threads.remove(&waiting.made.call.tid);
        if desk.door.is_valid(waiting.made.call.id) {
            // A descriptor that is the stack's no more, as the stack has gone: no handler is asked again.
            let answered = if answered.0 == Ok(Done::NotOurs) { (Ok(Done::Native), None) } else { answered };
            return self.hand_out(desk, waiting, ticket, answered);
        }
        match answered.0 {
            // Of several messages the first was sent.
            Ok(Done::Value(_)) if matches!(waiting.give, Give::Many(_)) => self.lose(desk, waiting, Ok(1)),
            Ok(Done::Value(value)) => self.lose(desk, waiting, Ok(value)),
            Err(errno) => self.lose(desk, waiting, Err(errno)),
            Ok(_) => {
                if waiting.takes {
                    give_back(desk.stack, vec![(ticket, answered)]);
                }
                Put::Over(Shown::Gone, waiting.made.line)
            }
        }
    }

    fn hand_out(
        &mut self,
        desk: &mut Desk<'_>,
        mut waiting: Waiting,
        ticket: Ticket,
        mut answered: Answered,
    ) -> Put {
        // A connect whose old descriptor could not be used again.
        if !matches!(answered.0, Ok(Done::Accepted { .. } | Done::Mapping))
            && let Some(fresh) = answered.1.take()
            && let Some(number) = waiting.made.fd
        {
            // Of a socketcall the first argument is none.
            let _ = desk.door.replace(&waiting.made.call, number, fresh.as_fd());
        }
        let given = match &answered.0 {
            Ok(Done::NotOurs) if waiting.give.untouched() => return Put::NotOurs(waiting.made.line),
            Ok(Done::Native) if waiting.give.untouched() => {
                let shown = desk.door.let_run(waiting.made.call.id).map_or(Shown::Gone, |()| Shown::Native);
                return Put::Over(shown, waiting.made.line);
            }
            // In the middle of several messages the descriptor became another's.
            Ok(Done::NotOurs | Done::Native) => waiting.give.fail(Errno::EBADF),
            Ok(done) => waiting.give.give(done, desk.target),
            Err(errno) => waiting.give.fail(*errno),
        };
        match given {
            Ok(Given::Descriptor { cloexec }) => {
                return self.install(desk, waiting, ticket, answered, cloexec);
            }
            Ok(Given::Mapping) => return self.map(desk, waiting, answered),
            _ if waiting.takes && takes_something(&answered) => waiting.taken.push((ticket, answered)),
            _ => {}
        }
        match given {
            Ok(Given::Next(question)) => {
                match waiting.made.fd.ok_or(Errno::EBADF).and_then(|fd| desk.target.duplicate(fd)) {
                    Ok(file) => self.ask(desk, waiting, file, question),
                    Err(errno) => match waiting.give.fail(errno) {
                        Ok(Given::Value(value)) => self.finish(desk, waiting, Ok(value)),
                        _ => self.finish(desk, waiting, Err(errno)),
                    },
                }
            }
            Ok(Given::Value(value)) => self.finish(desk, waiting, Ok(value)),
            Ok(Given::Descriptor { .. } | Given::Mapping) => self.finish(desk, waiting, Err(Errno::EIO)),
            Err(errno) => self.finish(desk, waiting, Err(errno)),
        }
    }

    /// A connection has its descriptor installed in the program's table and our copy closed.
    fn install(
        &mut self,
        desk: &mut Desk<'_>,
        mut waiting: Waiting,
        ticket: Ticket,
        answered: Answered,
        cloexec: bool,
    ) -> Put {
        let Some(file) = &answered.1 else { return self.finish(desk, waiting, Err(Errno::EIO)) };
        match desk.door.install(waiting.made.call.id, file.as_fd(), cloexec) {
            Ok(number) => Put::Over(Shown::Value(number.into()), waiting.made.line),
            Err(Errno::ENOENT) => {
                waiting.taken.push((ticket, answered));
                self.lose(desk, waiting, Ok(0))
            }
            // Linux takes the number (EMFILE) before it takes the connection.
            Err(errno) => {
                give_back(desk.stack, vec![(ticket, answered)]);
                self.finish(desk, waiting, Err(errno))
            }
        }
    }

    /// A ring is mapped into the program's memory.
    fn map(&mut self, desk: &mut Desk<'_>, waiting: Waiting, answered: Answered) -> Put {
        let mapped = match &answered.1 {
            Some(file) => desk.door.map(&waiting.made.call, file.as_fd()),
            None => Mapped::Refused(Errno::EIO),
        };
        match mapped {
            Mapped::Done(result) => {
                Put::Over(result.map_or_else(Shown::Fails, Shown::Value), waiting.made.line)
            }
            Mapped::Refused(errno) => self.finish(desk, waiting, Err(errno)),
            Mapped::Gone => Put::Over(Shown::Gone, waiting.made.line),
        }
    }

    fn finish(&mut self, desk: &mut Desk<'_>, waiting: Waiting, result: Result<i64, Errno>) -> Put {
        match desk.door.answer(waiting.made.call.id, result) {
            Ok(()) => Put::Over(result.map_or_else(Shown::Fails, Shown::Value), waiting.made.line),
            Err(_) => self.lose(desk, waiting, result),
        }
    }

    /// The call has gone before its answer.
    fn lose(&mut self, desk: &mut Desk<'_>, waiting: Waiting, result: Result<i64, Errno>) -> Put {
        if waiting.taken.is_empty() {
            if self.kept.len() >= MAX_KEPT {
                self.kept.clear();
            }
            // A call that may be made anew as it is needs no memory of what it was told.
            self.kept.insert(waiting.made.call.tid, Kept { call: waiting.made.call, result, at: desk.now });
        } else {
            give_back(desk.stack, waiting.taken);
        }
        Put::Over(Shown::Gone, waiting.made.line)
    }
}

fn takes_something(answered: &Answered) -> bool {
    matches!(answered.0, Ok(Done::Accepted { .. } | Done::Received(_)))
}

/// Each goes to the front of where it came from: the last one first.
fn give_back(stack: &mut dyn SocketHost, taken: Vec<(Ticket, Answered)>) {
    for (ticket, answered) in taken.into_iter().rev().filter(|(_, answered)| takes_something(answered)) {
        stack.give_back(ticket, answered);
    }
}

#[cfg(test)]
mod tests;
