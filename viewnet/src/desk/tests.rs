//! The desk, with a stack, a listener and a program that exist only here.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};

use stacks::smol::call::Message;

use super::*;
use crate::ask::Name;
use crate::target::{BASE, Pretend};

/// A stack that says what it is told to say.
#[derive(Default)]
struct Script {
    /// Answers to calls, in order; `None` parks.
    answers: VecDeque<Option<Result<Done, Errno>>>,
    asked: Vec<(Ticket, SocketCall)>,
    cancelled: Vec<Ticket>,
    given_back: Vec<(Ticket, Result<Done, Errno>)>,
}

fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn answer(result: Result<Done, Errno>) -> Answered {
    let file = matches!(result, Ok(Done::Accepted { .. } | Done::Mapping)).then(descriptor);
    (result, file)
}

impl SocketHost for Script {
    fn call(
        &mut self,
        _now: Instant,
        ticket: Ticket,
        _caller: &Who,
        _file: OwnedFd,
        call: SocketCall,
    ) -> Option<Answered> {
        self.asked.push((ticket, call));
        self.answers.pop_front().expect("an answer for each call").map(answer)
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.cancelled.push(ticket);
    }

    fn give_back(&mut self, ticket: Ticket, answered: Answered) {
        let is_accepted = matches!(answered.0, Ok(Done::Accepted { .. }));
        assert_eq!(answered.1.is_some(), is_accepted, "the descriptor comes back with its connection");
        self.given_back.push((ticket, answered.0));
    }

    fn poll_done(&mut self) -> Option<(Ticket, Answered)> {
        None
    }
}

/// A listener on which the calls in `gone` are there no more, and those in `fleeting` until they are answered.
#[derive(Default)]
struct Book {
    gone: HashSet<u64>,
    fleeting: HashSet<u64>,
    /// Descriptors cannot be installed.
    full: bool,
    answers: RefCell<Vec<(u64, Result<i64, Errno>)>>,
    native: RefCell<Vec<u64>>,
}

impl Book {
    fn reach(&self, id: u64) -> Result<(), Errno> {
        if self.gone.contains(&id) || self.fleeting.contains(&id) { Err(Errno::ENOENT) } else { Ok(()) }
    }
}

impl Door for Book {
    fn is_valid(&self, id: u64) -> bool {
        !self.gone.contains(&id)
    }

    fn answer(&self, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
        self.reach(id)?;
        self.answers.borrow_mut().push((id, result));
        Ok(())
    }

    fn install(&self, id: u64, _fd: BorrowedFd<'_>, _cloexec: bool) -> Result<i32, Errno> {
        self.reach(id)?;
        if self.full {
            return Err(Errno::EMFILE);
        }
        self.answers.borrow_mut().push((id, Ok(7)));
        Ok(7)
    }

    fn put_at(&self, id: u64, _number: i32, _fd: BorrowedFd<'_>, _cloexec: bool) -> Result<(), Errno> {
        self.reach(id)
    }

    fn replace(&self, call: &Notification, _number: i32, _fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.reach(call.id)
    }

    fn let_run(&self, id: u64) -> Result<(), Errno> {
        self.reach(id)?;
        self.native.borrow_mut().push(id);
        Ok(())
    }

    fn map(&self, call: &Notification, _fd: BorrowedFd<'_>) -> Mapped {
        match self.reach(call.id) {
            Err(_) => Mapped::Gone,
            Ok(()) if self.full => Mapped::Refused(Errno::ENODEV),
            Ok(()) => Mapped::Done(Ok(0x7000)),
        }
    }
}

const WHO: Who = Who { pid: 77, uid: 1000, fd: 3, rights: true };

struct Office {
    calls: Calls,
    stack: Script,
    door: Book,
    target: Pretend,
    now: Instant,
}

impl Office {
    fn new(answers: impl IntoIterator<Item = Option<Result<Done, Errno>>>) -> Self {
        Self {
            calls: Calls::default(),
            stack: Script { answers: answers.into_iter().collect(), ..Script::default() },
            door: Book::default(),
            target: Pretend { memory: vec![0; 100], sockets: vec![libc::AF_UNIX], ..Pretend::default() },
            now: Instant::now(),
        }
    }

    fn put(&mut self, call: &Notification, ask: Ask) -> Put {
        let mut desk =
            Desk { stack: &mut self.stack, door: &self.door, target: &mut self.target, now: self.now };
        let made = Made { call: *call, who: WHO, fd: Some(0), line: None };
        self.calls.put(&mut desk, made, descriptor(), ask)
    }

    fn answered(&mut self, ticket: Ticket, result: Result<Done, Errno>) -> Put {
        let mut desk =
            Desk { stack: &mut self.stack, door: &self.door, target: &mut self.target, now: self.now };
        self.calls.answered(&mut desk, ticket, answer(result))
    }

    fn answers(&self) -> Vec<(u64, Result<i64, Errno>)> {
        self.door.answers.borrow().clone()
    }
}

/// Call number `id` of thread 5.
fn call(id: u64) -> Notification {
    Notification { id, tid: 5, nr: 49, arch: 1, args: [3, BASE, 16, 0, 0, 0] }
}

fn bind() -> Ask {
    Ask::new(SocketCall::Bind { address: vec![] }, Give::Value)
}

fn receive(flags: i32) -> Ask {
    let from = Name { address: 0, length: 0 };
    let call = SocketCall::Receive { length: 4, control: 0, flags, named: true };
    Ask::new(call, Give::Datagram { data: BASE, from })
}

fn accept() -> Ask {
    let peer = Name { address: 0, length: 0 };
    Ask::new(SocketCall::Accept { flags: 0 }, Give::Accepted { peer, cloexec: false })
}

fn message(text: &[u8]) -> Result<Done, Errno> {
    Ok(Done::Received(Message { data: text.to_vec(), length: text.len(), ..Message::default() }))
}

fn accepted() -> Result<Done, Errno> {
    Ok(Done::Accepted { peer: vec![1; 16] })
}

fn over(put: &Put) -> Shown {
    match put {
        Put::Over(shown, _) => *shown,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_goes_out_at_once_or_when_it_is_there() {
    let mut office = Office::new([Some(Ok(Done::Value(0))), Some(Err(Errno::EADDRINUSE)), None]);
    assert_eq!(over(&office.put(&call(1), bind())), Shown::Value(0));
    assert_eq!(over(&office.put(&call(2), bind())), Shown::Fails(Errno::EADDRINUSE));
    assert!(matches!(office.put(&call(3), receive(0)), Put::Waits));
    assert!(office.calls.waits(5));
    let ticket = office.stack.asked[2].0;
    assert_eq!(office.calls.thread_of(ticket), Some(5));
    assert_eq!(over(&office.answered(ticket, message(b"data"))), Shown::Value(4));
    assert!(!office.calls.waits(5));
    assert_eq!(&office.target.memory[..5], b"data\0");
    assert_eq!(office.answers(), [(1, Ok(0)), (2, Err(Errno::EADDRINUSE)), (3, Ok(4))]);
}

#[test]
fn what_is_not_the_stack_s_is_left_alone() {
    let mut office = Office::new([Some(Ok(Done::NotOurs)), Some(Ok(Done::Native)), None, None]);
    assert!(matches!(office.put(&call(1), bind()), Put::NotOurs(_)));
    assert_eq!(over(&office.put(&call(2), receive(0))), Shown::Native);
    assert!(matches!(office.put(&call(3), receive(0)), Put::Waits));
    let ticket = office.stack.asked[2].0;
    assert_eq!(over(&office.answered(ticket, Ok(Done::Native))), Shown::Native);
    assert!(matches!(office.put(&call(4), receive(0)), Put::Waits));
    let ticket = office.stack.asked[3].0;
    assert_eq!(over(&office.answered(ticket, Ok(Done::NotOurs))), Shown::Native);
    assert_eq!((office.answers(), office.door.native.borrow().as_slice()), (vec![], &[2, 3, 4][..]));
}

#[test]
fn a_connection_is_installed_or_goes_back() {
    let mut office = Office::new([Some(accepted()), Some(accepted()), Some(accepted())]);
    assert_eq!(over(&office.put(&call(1), accept())), Shown::Value(7));
    office.door.fleeting.insert(2);
    assert_eq!(over(&office.put(&call(2), accept())), Shown::Gone);
    office.door.full = true;
    assert_eq!(over(&office.put(&call(3), accept())), Shown::Fails(Errno::EMFILE));
    assert_eq!(office.stack.given_back, [(Ticket(2), accepted()), (Ticket(3), accepted())]);
    assert_eq!(office.answers(), [(1, Ok(7)), (3, Err(Errno::EMFILE))]);
    // What went back is not kept besides.
    assert_eq!(office.calls.replay(office.now, &call(4)), None);
}

#[test]
fn a_message_that_cannot_be_delivered_goes_back_unless_it_was_only_looked_at() {
    let mut office = Office::new([Some(message(b"a")), Some(message(b"b")), None, None]);
    office.door.fleeting.extend([1, 2]);
    office.door.gone.extend([3, 4]);
    assert_eq!(over(&office.put(&call(1), receive(0))), Shown::Gone);
    assert_eq!(over(&office.put(&call(2), receive(libc::MSG_PEEK))), Shown::Gone);
    for (id, flags) in [(3, 0), (4, libc::MSG_PEEK)] {
        assert!(matches!(office.put(&call(id), receive(flags)), Put::Waits));
        let ticket = office.stack.asked.last().unwrap().0;
        assert_eq!(over(&office.answered(ticket, message(b"c"))), Shown::Gone);
    }
    assert_eq!(office.stack.given_back, [(Ticket(1), message(b"a")), (Ticket(3), message(b"c"))]);
    assert_eq!(&office.target.memory[..1], b"b", "a call that has gone has no memory to be written");
}

#[test]
fn a_call_made_anew_has_the_answer_it_missed() {
    let mut office = Office::new([Some(Ok(Done::Value(0)))]);
    office.door.fleeting.insert(1);
    assert_eq!(over(&office.put(&call(1), bind())), Shown::Gone);
    let (now, anew) = (office.now, call(2));
    assert_eq!(office.calls.replay(now, &anew), Some(Ok(0)));
    assert_eq!(office.calls.replay(now, &anew), None, "once");
}

#[test]
fn another_call_forgets_what_was_kept() {
    let changes: [fn(&mut Notification); 3] =
        [|call| call.nr = 50, |call| call.args[2] = 17, |call| call.arch = 2];
    for change in changes {
        let mut office = Office::new([Some(Err(Errno::EINPROGRESS))]);
        office.door.fleeting.insert(1);
        office.put(&call(1), bind());
        let mut other = call(2);
        change(&mut other);
        assert_eq!(office.calls.replay(office.now, &other), None);
        assert_eq!(office.calls.replay(office.now, &call(3)), None);
    }
    let mut office = Office::new([Some(Ok(Done::Value(0)))]);
    office.door.fleeting.insert(1);
    office.put(&call(1), bind());
    assert_eq!(office.calls.replay(office.now + KEPT_FOR, &call(2)), None, "too late");
}

#[test]
fn a_connect_that_waited_and_was_interrupted_is_answered_when_it_is_made_anew() {
    let mut office = Office::new([None]);
    let connect = Ask::new(SocketCall::Connect { address: vec![] }, Give::Value);
    office.put(&call(1), connect);
    office.door.gone.insert(1);
    assert_eq!(over(&office.answered(Ticket(1), Ok(Done::Value(0)))), Shown::Gone);
    assert_eq!(office.calls.replay(office.now, &call(2)), Some(Ok(0)));
}

#[test]
fn a_thread_waits_in_one_call_only() {
    let mut office = Office::new([None, None]);
    office.put(&call(1), receive(0));
    office.calls.interrupt(&mut office.stack, 5);
    assert_eq!((office.stack.cancelled.as_slice(), office.calls.waits(5)), (&[Ticket(1)][..], false));
    office.put(&call(2), receive(0));
    // The answer to the first was on its way.
    assert!(matches!(office.answered(Ticket(1), message(b"a")), Put::Waits));
    assert_eq!(office.stack.given_back, [(Ticket(1), message(b"a"))]);
    assert_eq!(over(&office.answered(Ticket(2), message(b"b"))), Shown::Value(1));
    assert_eq!(office.answers(), [(2, Ok(1))]);
    office.calls.interrupt(&mut office.stack, 5);
    assert_eq!(office.stack.cancelled.len(), 1, "nothing waits");
}

#[test]
fn accept_takes_the_number_before_it_looks_for_a_connection() {
    let mut office = Office::new([Some(accepted())]);
    office.target.full = true;
    assert_eq!(over(&office.put(&call(1), accept())), Shown::Fails(Errno::EMFILE));
    assert!(office.stack.asked.is_empty());
    office.target.full = false;
    assert_eq!(over(&office.put(&call(2), accept())), Shown::Value(7));
}

/// A recvmmsg(2) for two messages of a byte.
fn several(office: &mut Office) -> Ask {
    use crate::handlers::smol::TABLE;
    use crate::handlers::tests::Thread;
    use crate::handlers::{Abi, Call};
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
    let mut memory = words(&[BASE, 1]);
    memory.extend(words(&[0, 0, BASE, 1, 0, 0, 0, 0].repeat(2)));
    office.target.memory = memory;
    let row = TABLE.iter().find(|row| row.name == "recvmmsg").unwrap();
    let args = [0, BASE + 16, 2, 0, 0, 0];
    let mut caller = Thread::default();
    let mut call = Call { abi: Abi::Native, args, target: &mut office.target, caller: &mut caller };
    row.asks.unwrap()(&mut call).unwrap()
}

#[test]
fn several_messages_go_back_the_last_one_first() {
    let script = [Some(message(b"a")), Some(message(b"b"))];
    let mut office = Office::new(script.clone());
    let ask = several(&mut office);
    assert_eq!(over(&office.put(&call(1), ask)), Shown::Value(2));
    let mut office = Office::new(script);
    office.door.fleeting.insert(1);
    let ask = several(&mut office);
    assert_eq!(over(&office.put(&call(1), ask)), Shown::Gone);
    assert_eq!(office.stack.given_back, [(Ticket(2), message(b"b")), (Ticket(1), message(b"a"))]);
}

#[test]
fn several_messages_end_with_those_there_are() {
    for last in [Err(Errno::EAGAIN), Ok(Done::NotOurs), Ok(Done::Native)] {
        let mut office = Office::new([Some(message(b"a")), Some(last)]);
        let ask = several(&mut office);
        assert_eq!(over(&office.put(&call(1), ask)), Shown::Value(1));
    }
    // The descriptor was closed meanwhile.
    let mut office = Office::new([Some(message(b"a"))]);
    office.target.sockets.clear();
    let ask = several(&mut office);
    assert_eq!(over(&office.put(&call(1), ask)), Shown::Value(1));
    // The first of them waits.
    let mut office = Office::new([None, Some(message(b"b"))]);
    let ask = several(&mut office);
    assert!(matches!(office.put(&call(1), ask), Put::Waits));
    assert_eq!(over(&office.answered(Ticket(1), message(b"a"))), Shown::Value(2));
}

#[test]
fn an_end_is_shown_as_strace_shows_it() {
    assert_eq!(Shown::Value(3).to_string(), "3");
    assert!(Shown::Fails(Errno::EAGAIN).to_string().starts_with("-1 EAGAIN ("));
}

#[test]
fn a_mapping_is_made_refused_or_made_anew() {
    let map = || Ask::new(SocketCall::Map { length: 4096, offset: 0 }, Give::Mapping);
    let mut office = Office::new([Some(Ok(Done::Mapping)), Some(Ok(Done::Mapping)), Some(Ok(Done::Mapping))]);
    assert_eq!(over(&office.put(&call(1), map())), Shown::Value(0x7000));
    assert_eq!(office.answers(), [], "it has its result already");
    office.door.full = true;
    assert_eq!(over(&office.put(&call(2), map())), Shown::Fails(Errno::ENODEV));
    office.door.gone.insert(3);
    assert_eq!(over(&office.put(&call(3), map())), Shown::Gone);
    assert_eq!(office.calls.replay(office.now, &call(4)), None, "the next one is a new one");
}
