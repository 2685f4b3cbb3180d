//! Calls that wait.
//!
//! # Theory of operation
//! A call is parked with everything it needs to be tried again, its duplicate of the program's descriptor
//! included: its thread is in the call, so the descriptor is in use anyway. It is tried when its socket is
//! serviced, when the descriptor itself becomes ready (reads and writes on a stream that we make for the
//! program), and given up when SO_RCVTIMEO or SO_SNDTIMEO has passed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;

use super::super::call::{Answered, Caller, Done, SocketCall, Ticket};
use super::super::engine::SocketId;
use super::super::pump::{Place, Shared};
use super::{StackKey, watch};

/// Most answers kept for calls that were interrupted at the last moment.
const MAX_RETURNED: usize = 256;

/// A call on a socket of ours.
#[derive(Debug)]
pub(super) struct Parked {
    /// Its stack.
    pub(super) stack: StackKey,
    /// Its socket.
    pub(super) socket: SocketId,
    /// Who made it.
    pub(super) caller: Caller,
    /// A duplicate of the descriptor it was made on.
    pub(super) file: OwnedFd,
    /// What was asked.
    pub(super) call: SocketCall,
    /// It was tried before.
    pub(super) started: bool,
    /// Bytes of a stream that were sent so far, or received.
    pub(super) progress: Vec<u8>,
    /// How many of them.
    pub(super) sent: usize,
    /// Takes the place of the program's descriptor when the call is answered.
    pub(super) replacement: Option<OwnedFd>,
    /// When it has waited long enough.
    pub(super) deadline: Option<Instant>,
    /// The descriptor's events that may end the wait.
    pub(super) events: EpollFlags,
    token: Option<u64>,
}

impl Parked {
    /// A call that was not tried yet.
    pub(super) fn new(
        stack: StackKey,
        socket: SocketId,
        caller: Caller,
        file: OwnedFd,
        call: SocketCall,
    ) -> Self {
        let (started, deadline, events, token) = (false, None, EpollFlags::empty(), None);
        let (progress, sent, replacement) = (Vec::new(), 0, None);
        Self {
            stack,
            socket,
            caller,
            file,
            call,
            started,
            progress,
            sent,
            replacement,
            deadline,
            events,
            token,
        }
    }

    /// Whether its answer takes something away that cannot be asked for again.
    pub(super) fn takes(&self) -> bool {
        matches!(self.call, SocketCall::Accept { .. } | SocketCall::Receive { .. })
    }

    /// Whether it takes a connection.
    pub(super) fn accepts(&self) -> bool {
        matches!(self.call, SocketCall::Accept { .. })
    }

    /// Whether an answer kept for an interrupted call does for this one.
    pub(super) fn fits(&self, (result, _): &Answered) -> bool {
        match (&self.call, result) {
            (SocketCall::Accept { .. }, Ok(Done::Accepted { .. })) => true,
            (SocketCall::Receive { length, control, .. }, Ok(Done::Received(message))) => {
                message.data.len() <= *length && message.control.len() <= *control
            }
            _ => false,
        }
    }

    /// Whether the call may make frames or change what others wait for.
    pub(super) fn sends(&self) -> bool {
        !matches!(self.call, SocketCall::LocalName | SocketCall::PeerName | SocketCall::GetOption { .. })
    }
}

/// All parked calls of a host, and the answers to be fetched.
#[derive(Debug, Default)]
pub(super) struct Parking {
    parked: HashMap<Ticket, Parked>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    /// Answers of calls that were parked.
    pub(super) done: VecDeque<(Ticket, Answered)>,
    /// Sockets of the calls answered last.
    recent: VecDeque<(Ticket, Asked)>,
    /// Answers that could not be delivered, by socket.
    returned: HashMap<Asked, VecDeque<Answered>>,
    /// The call interrupted last, if it had a limit of time.
    interrupted: Option<Interrupted>,
}

/// A call as it was made: by whom, on what, and which.
#[derive(Debug, PartialEq)]
struct Interrupted {
    /// The upper half of its ticket: where it came from.
    origin: u64,
    pid: i32,
    socket: Asked,
    call: SocketCall,
}

/// A socket that was asked something.
type Asked = (StackKey, SocketId);

impl Parking {
    /// Parks a call.
    pub(super) fn insert(&mut self, ticket: Ticket, mut parked: Parked, shared: &mut Shared) {
        if let Some(deadline) = parked.deadline {
            self.deadlines.insert((deadline, ticket));
        }
        if !parked.events.is_empty() {
            let token = shared.number(Place::Parked(ticket));
            let flags = parked.events | EpollFlags::EPOLLONESHOT;
            // EEXIST: another call waits on the same descriptor and will be tried with this one's socket.
            if watch(shared, &parked.file, token, flags).is_ok() {
                parked.token = Some(token);
            } else {
                shared.places.remove(&token);
            }
        }
        self.parked.insert(ticket, parked);
    }

    /// Takes a call out.
    pub(super) fn remove(&mut self, ticket: Ticket, shared: &mut Shared) -> Option<Parked> {
        let mut parked = self.parked.remove(&ticket)?;
        if let Some(deadline) = parked.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        if let Some(token) = parked.token.take() {
            let _ = shared.epoll.delete(&parked.file);
            shared.places.remove(&token);
        }
        Some(parked)
    }

    /// The tickets for which `fits`.
    pub(super) fn tickets(&self, fits: impl Fn(Ticket) -> bool) -> Vec<Ticket> {
        self.parked.keys().copied().filter(|ticket| fits(*ticket)).collect()
    }

    /// When the first of them has waited long enough.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A call was interrupted by a signal. With SA_RESTART the kernel makes it anew, but Linux's sockets do not have
    /// that done to calls with a limit of time (signal(7)): see [`Self::is_made_anew`].
    pub(super) fn interrupt(&mut self, ticket: Ticket, parked: Parked) {
        let untouched = matches!(parked.call, SocketCall::Connect { .. }) || parked.sent == 0;
        self.interrupted =
            (parked.deadline.is_some() && untouched && parked.progress.is_empty()).then_some(Interrupted {
                origin: ticket.0 >> 32,
                pid: parked.caller.pid,
                socket: (parked.stack, parked.socket),
                call: parked.call,
            });
    }

    /// Whether a call is one with a limit of time, made anew: it ends with EINTR. A program that makes it again by
    /// itself, at once, cannot be told from that and hears of the signal twice.
    pub(super) fn is_made_anew(&mut self, ticket: Ticket, parked: &Parked) -> bool {
        let Some(last) = self.interrupted.take_if(|last| last.origin == ticket.0 >> 32) else { return false };
        (last.pid, last.socket) == (parked.caller.pid, (parked.stack, parked.socket))
            && last.call == parked.call
    }

    /// The call interrupted last is not one that the kernel makes anew.
    pub(super) fn forget_interrupted(&mut self) {
        self.interrupted = None;
    }

    /// Those that have waited long enough.
    pub(super) fn expired(&self, now: Instant) -> Vec<Ticket> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, ticket)| *ticket).collect()
    }

    /// The answer of a call that was parked and is done.
    pub(super) fn take_done(&mut self, ticket: Ticket) -> Option<Answered> {
        let at = self.done.iter().position(|(done, _)| *done == ticket)?;
        self.done.remove(at).map(|(_, answered)| answered)
    }

    /// Notes whose answer a call that takes something got.
    pub(super) fn note(&mut self, ticket: Ticket, socket: Asked) {
        if self.recent.len() >= MAX_RETURNED {
            self.recent.pop_front();
        }
        self.recent.push_back((ticket, socket));
    }

    /// Keeps an answer that could not be delivered for the socket's next call. The listener, if it is a connection.
    pub(super) fn give_back(&mut self, ticket: Ticket, answered: Answered) -> Option<Asked> {
        let (_, socket) = self.recent.iter().find(|(recent, _)| *recent == ticket)?;
        if self.returned.len() >= MAX_RETURNED && !self.returned.contains_key(socket) {
            return None;
        }
        let connection = matches!(answered.0, Ok(Done::Accepted { .. }));
        self.returned.entry(*socket).or_default().push_back(answered);
        connection.then_some(*socket)
    }

    /// Drops the answers that nobody is left to take.
    pub(super) fn forget_returned(&mut self) {
        self.returned.clear();
    }

    /// An answer that an earlier call on the socket could not be given.
    pub(super) fn take_returned(
        &mut self,
        socket: Asked,
        fits: impl Fn(&Answered) -> bool,
    ) -> Option<Answered> {
        let waiting = self.returned.get_mut(&socket)?;
        let answered = waiting.iter().position(fits).and_then(|at| waiting.remove(at));
        if waiting.is_empty() {
            self.returned.remove(&socket);
        }
        answered
    }
}
