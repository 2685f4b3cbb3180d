//! Calls on the sockets of a stack in a library, without a supervisor.
//!
//! # Theory of operation
//! Joining such a stack gives one end of a pair, over which a view's supervisor puts the calls it traps
//! (`stacks::smol::relay`). A [`Client`] does the same for its own process: whatever AF_UNIX would answer in its
//! own words is asked of the stack, and who asks waits for the answer as the program would. It makes no difference
//! whether the stack is in another process or in a thread of this one.
//!
//! Several threads may wait in calls of one client. One of them reads answers and leaves those of others where
//! they find them; a thread that puts a call meanwhile may take an answer out of the reader's hands, and wakes
//! it. After a fork(2) the child's copy is of no use: the two would read each other's answers. [`Client::is_ours`]
//! tells.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
pub use stacks::smol::call::{Answered, Done, Message, SocketCall};
use stacks::smol::call::{Caller, SocketHost, Ticket};
use stacks::smol::relay::Relay;
use stacks::stack::SocketSpec;

use crate::client::{Joined, Way};
use crate::places;

/// Most calls of one process that wait on a stack at once: a thread each.
const MAX_WAITING: usize = 1 << 14;

/// A process's way to a stack in a library, and to all others of the process that has it.
#[derive(Debug)]
pub struct Client {
    state: Mutex<State>,
    answers: Condvar,
    /// The relay's descriptor, to be waited for without the lock.
    relay: OwnedFd,
    /// Wakes the reader.
    wake: OwnedFd,
    /// As long as this is open, we are a user of the stack.
    joined: Joined,
}

#[derive(Debug)]
struct State {
    relay: Relay,
    last: u64,
    /// Calls that wait, and the answers of those that need wait no longer.
    waiting: HashMap<Ticket, Option<Answered>>,
    /// A thread waits for the relay.
    read: bool,
}

impl Client {
    /// Joins the stack at `path`. EPROTOTYPE: it is none in a library.
    ///
    /// # Errors
    /// ENOENT, EACCES and others of connect(2).
    pub fn join(path: &Path) -> Result<Self, Errno> {
        match Way::to(&places::path(path)?)? {
            Way::Smol(client) => Arc::into_inner(client).ok_or(Errno::EPROTOTYPE),
            Way::Kernel(_) => Err(Errno::EPROTOTYPE),
        }
    }

    pub(crate) fn new(relay: Relay, joined: Joined) -> Result<Self, Errno> {
        let dup = relay.as_fd().try_clone_to_owned().map_err(places::errno)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let state = State { relay, last: 0, waiting: HashMap::new(), read: false };
        Ok(Self { state: Mutex::new(state), answers: Condvar::new(), relay: dup, wake, joined })
    }

    /// Whether this process made it, and did not inherit it by fork(2).
    pub fn is_ours(&self) -> bool {
        self.joined.is_ours()
    }

    /// Whether its descriptors are still what they were: some programs close all that they do not know.
    pub fn is_open(&self) -> bool {
        self.joined.is_open()
    }

    /// Whether its stack's process has gone.
    pub fn is_dead(&self) -> bool {
        self.lock().relay.is_dead()
    }

    /// socket(2) on that stack: an AF_UNIX socket, close-on-exec. Its bytes move by the calls that move bytes;
    /// all others are [`Client::call`]'s.
    ///
    /// # Errors
    /// Those of socket(2); ENETDOWN when the stack has gone.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        let mut state = self.lock();
        let made = state.relay.named_socket(SocketSpec { domain, kind, protocol }, &self.who(-1));
        self.sort(&mut state);
        made
    }

    /// Makes a call on a socket of the stack and waits for its answer, if the socket waits. [`Done::Native`]: the
    /// kernel's answer on the descriptor is right. [`Done::NotOurs`]: it is no socket of that stack's process. A
    /// descriptor beside the answer of a connect shall take the place of the socket's, whatever the answer.
    ///
    /// # Errors
    /// The call's; ENETDOWN when the stack has gone.
    pub fn call(&self, fd: BorrowedFd<'_>, call: SocketCall) -> Answered {
        let file = match fd.try_clone_to_owned() {
            Ok(file) => file,
            Err(error) => return (Err(places::errno(error)), None),
        };
        let who = self.who(std::os::fd::AsRawFd::as_raw_fd(&fd));
        let mut state = self.lock();
        if state.waiting.len() >= MAX_WAITING {
            return (Err(Errno::ENOBUFS), None);
        }
        // The upper bit of a ticket marks the relay's own, and its lower half is what is sent.
        state.last = (state.last + 1) & 0x7fff_ffff;
        let ticket = Ticket(state.last);
        // A clock is what a call is put with; a relay does not look at it.
        let answered = state.relay.call(Instant::now(), ticket, &who, file, call);
        if answered.is_none() {
            state.waiting.insert(ticket, None);
        }
        self.sort(&mut state);
        match answered {
            Some(answered) => answered,
            None => self.wait(state, ticket),
        }
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, ticket: Ticket) -> Answered {
        loop {
            if let Some(Some(answered)) = state.waiting.get_mut(&ticket).map(Option::take) {
                state.waiting.remove(&ticket);
                return answered;
            }
            if state.relay.is_dead() {
                state.waiting.remove(&ticket);
                self.answers.notify_all();
                return (Err(Errno::ENETDOWN), None);
            }
            if state.read {
                state = self.answers.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.read = true;
            drop(state);
            let mut ready = [PollFd::new(&self.relay, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            // An interrupted wait is begun anew, as those of std are.
            let _ = poll(&mut ready, None);
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
            state = self.lock();
            state.read = false;
            state.relay.turn();
            self.sort(&mut state);
            // Whoever waits now reads.
            self.answers.notify_all();
        }
    }

    /// Lays answers where their threads find them.
    fn sort(&self, state: &mut State) {
        let mut sorted = false;
        while let Some((ticket, answered)) = state.relay.poll_done() {
            sorted = true;
            if let Some(place) = state.waiting.get_mut(&ticket) {
                *place = Some(answered);
            }
        }
        if sorted || state.relay.is_dead() {
            self.answers.notify_all();
            if state.read {
                let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// Who asks: the other side judges our rights by our credentials and takes the lesser of the two.
    fn who(&self, fd: i32) -> Caller {
        Caller { pid: std::process::id() as i32, uid: rustix::process::geteuid().as_raw(), fd, rights: true }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
