//! The pump: moves bytes between the engine and the descriptors that programs hold.
//!
//! # Theory of operation
//! Each engine socket has a [`Socket`] here, which knows the program's end by name and inode and holds our
//! end once there is one. [`stream`] is TCP's: nothing while idle, a pending connection, a connection.
//! [`listener`] offers connections to accept(2). [`datagram`] is everything with message boundaries. Our ends
//! are in the host's epoll set, edge-triggered: an event sets a flag, EAGAIN clears it, and
//! [`Socket::service`] moves what flags and engine allow. The pump never keeps a duplicate of a program's
//! descriptor but while a call is parked: the program's close(2) must be the last one.

mod abandoned;
pub(super) mod board;
pub(super) mod datagram;
pub(super) mod listener;
mod memory;
pub(super) mod ring;
mod show;
pub(super) mod stream;
pub(super) mod unix;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustc_hash::FxHashMap;
use rustix::net::{Shutdown, SocketType};

use super::call::{Caller, Ticket};
use super::engine::{Engine, SocketId};
use super::host::StackKey;
use super::tables::IfIndex;
use crate::stack::SocketSpec;
use board::Board;
use datagram::Datagram;
use listener::Listener;
pub(super) use show::Facts;
use stream::{Pending, Stream, find_program_end};
use unix::Address;

/// What is always news of one of our ends.
const WATCHED: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLPRI).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// What the sockets of all stacks of a host share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Our ends, by [`Socket::token`].
    pub(super) epoll: Epoll,
    /// Where program's ends meet us.
    pub(super) rendezvous: unix::Rendezvous,
    /// Nobody can guess names that begin with it.
    pub(super) secret: String,
    /// Where program's ends are bound.
    pub(super) folder: OwnedFd,
    /// One datagram, or a piece of a stream.
    pub(super) scratch: Vec<u8>,
    /// One frame.
    pub(super) frame: Vec<u8>,
    /// The token given last.
    pub(super) next: u64,
    /// What programs see of their sockets.
    pub(super) board: Board,
    /// What is behind a token.
    pub(super) places: FxHashMap<u64, Place>,
    /// Whose program's end has an inode.
    pub(super) inodes: FxHashMap<u64, (StackKey, SocketId)>,
    /// Those of stacks that have failed or gone, oldest first: their programs are still told so.
    pub(super) orphaned: VecDeque<(u64, StackKey)>,
}

/// Most descriptors of stacks that are gone which are still known as such; the kernel answers on older ones.
const MAX_ORPHANED: usize = 1 << 16;

impl Shared {
    /// The stack of a program's end has failed or gone.
    pub(super) fn orphan(&mut self, inode: u64, stack: StackKey) {
        self.orphaned.push_back((inode, stack));
        if self.orphaned.len() > MAX_ORPHANED
            && let Some((oldest, gone)) = self.orphaned.pop_front()
            && self.inodes.get(&oldest).is_some_and(|(stack, _)| *stack == gone)
        {
            self.inodes.remove(&oldest);
        }
    }

    /// Watches a port.
    pub(super) fn watch_port(&self, fd: BorrowedFd<'_>, token: u64, flags: EpollFlags) -> Result<(), Errno> {
        self.epoll.add(fd, EpollEvent::new(flags, token))
    }

    /// An address for a program's end that hears from anybody.
    pub(super) fn address(&self, program: &OwnedFd, token: u64) -> Result<Address, Errno> {
        let name = [&b"."[..], &self.name(token)].concat();
        Address::file(program, &self.folder, std::str::from_utf8(&name).map_err(|_| Errno::EINVAL)?)
    }

    /// An address for one that is linked at once and then hears from us alone.
    pub(super) fn linked_address(&self, program: &OwnedFd, token: u64) -> Result<Address, Errno> {
        Address::name(program, self.name(token))
    }

    /// What the abstract names of our ends of the socket with this token begin with.
    pub(super) fn name(&self, token: u64) -> Vec<u8> {
        let record = self.board.number(token).map(|record| format!(".{record:x}")).unwrap_or_default();
        format!("{}-{token:x}{record}", self.secret).into_bytes()
    }

    /// A token for something to watch.
    pub(super) fn number(&mut self, place: Place) -> u64 {
        self.next += 1;
        if let Place::Socket(..) = place {
            self.board.place(self.next);
        }
        self.places.insert(self.next, place);
        self.next
    }

    /// Nothing is behind a token any more.
    pub(super) fn vacate(&mut self, token: u64) {
        self.places.remove(&token);
        self.board.remove(token);
    }

    /// The token in the name of one of our ends.
    pub(super) fn token(&self, name: &[u8]) -> Option<u64> {
        let rest = name.strip_prefix(self.secret.as_bytes())?.strip_prefix(b"-")?;
        let digits = rest.split(|b| !b.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// Watches one of our ends.
    pub(super) fn watch(&self, ours: &OwnedFd, token: u64) -> Result<(), Errno> {
        self.epoll.add(ours, EpollEvent::new(WATCHED, token))
    }

    /// Whether room in one of our ends is news; room that is there already is told at once. As a rule it is
    /// none: each of the program's reads would wake us.
    pub(super) fn await_room(&self, ours: &OwnedFd, token: u64, awaited: bool) -> Result<(), Errno> {
        let room = if awaited { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        self.epoll.modify(ours, &mut EpollEvent::new(WATCHED | room, token))
    }
}

/// What an event of the host's epoll set is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// One of our ends of a socket.
    Socket(StackKey, SocketId),
    /// A port.
    Port(StackKey, IfIndex),
    /// A program's descriptor that a parked call waits for.
    Parked(Ticket),
}

/// What is behind a program's descriptor.
#[derive(Debug)]
pub(super) enum End {
    /// A stream without peer.
    Idle,
    /// A stream whose connection is being made.
    Pending(Pending),
    /// A stream.
    Stream(Stream),
    /// A stream whose connection failed or was reset: the program's end is spent.
    Spent,
    /// A listener.
    Listener(Listener),
    /// Messages.
    Datagram(Box<Datagram>),
}

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    /// The engine's number.
    pub(super) id: SocketId,
    /// Its number in the epoll set, and its name's.
    pub(super) token: u64,
    /// What it was asked for as.
    pub(super) spec: SocketSpec,
    /// The program's end: stream or datagram.
    pub(super) kind: SocketType,
    /// Where it is found, if it has to be: [`Shared::address`].
    pub(super) address: Option<Address>,
    /// It has to be found by its program: its ends have addresses from the beginning.
    pub(super) named: bool,
    /// The program's end, once it has been seen.
    pub(super) inode: u64,
    /// Who made it, or last made a call on it.
    pub(super) caller: Caller,
    /// The listener that it waits at to be accepted.
    pub(super) listener: Option<SocketId>,
    /// What is behind it.
    pub(super) end: End,
    /// Calls that wait for it.
    pub(super) parked: Vec<Ticket>,
    /// What of it is on the board.
    pub(super) facts: Facts,
}

/// What [`Socket::service`] found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The program has closed it: it is to be forgotten.
    pub(super) gone: bool,
    /// The engine may have frames to send, or other sockets something to do.
    pub(super) moved: bool,
}

impl Socket {
    /// Moves what can be moved.
    pub(super) fn service(&mut self, now: Instant, engine: &mut Engine, shared: &mut Shared) -> Found {
        self.show_news(now, engine, shared);
        if let End::Pending(pending) = &self.end {
            if pending.is_abandoned() {
                engine.close(now, self.id, false);
                return Found { gone: true, moved: true };
            }
            self.settle(engine);
        }
        match &mut self.end {
            End::Stream(stream) => {
                let hide = || shared.board.hide(self.token);
                let found = stream.service(now, self.id, &self.caller, engine, &hide);
                stream.await_room(self.token, shared);
                if stream.was_reset() {
                    hide();
                    self.spend();
                }
                found
            }
            End::Datagram(datagram) => match &self.address {
                Some(address) => {
                    let whose = (&self.caller, self.inode);
                    datagram.service(now, self.id, (self.token, address), whose, engine, shared)
                }
                None => Found::default(),
            },
            End::Idle | End::Pending(_) | End::Spent | End::Listener(_) => Found::default(),
        }
    }

    /// An event for one of our ends.
    pub(super) fn handle_event(&mut self, events: EpollFlags) {
        match &mut self.end {
            End::Stream(stream) => stream.handle_event(events),
            End::Datagram(datagram) => datagram.handle_event(events),
            End::Pending(pending) => pending.handle_event(events),
            End::Idle | End::Spent | End::Listener(_) => {}
        }
    }

    /// A pending connection has come about, or has failed.
    fn settle(&mut self, engine: &Engine) {
        let status = engine.status(self.id);
        if status.error.is_some() {
            // Its junk is unread: the program's end becomes an errored one.
            self.end = End::Spent;
        } else if status.connected && !status.connecting {
            let End::Pending(pending) = std::mem::replace(&mut self.end, End::Spent) else { return };
            if let Ok(ours) = pending.establish(&self.caller, self.inode) {
                self.end = End::Stream(Stream::new(ours));
            }
        }
    }

    /// The connection was reset: the program shall read ECONNRESET.
    fn spend(&mut self) {
        let End::Stream(stream) = std::mem::replace(&mut self.end, End::Spent) else { return };
        stream.reset(&self.caller, self.inode);
    }

    /// The stack has failed: the program's end breaks.
    pub(super) fn break_off(&mut self) {
        match std::mem::replace(&mut self.end, End::Spent) {
            End::Stream(stream) => stream.reset(&self.caller, self.inode),
            End::Spent => {}
            // Whoever polls or reads natively is woken by an end of file; our calls say ENETDOWN.
            End::Idle | End::Pending(_) | End::Listener(_) | End::Datagram(_) => {
                if let Some(program) = find_program_end(&self.caller, self.inode) {
                    let _ = unix::shut(&program, Shutdown::Both);
                }
            }
        }
    }

    /// Is the program's end still open, as far as one can know without a peer?
    pub(super) fn is_alive(&self) -> bool {
        match self.end {
            End::Pending(_) | End::Stream(_) => true,
            End::Idle | End::Spent | End::Listener(_) | End::Datagram(_) => {
                self.address.as_ref().is_none_or(|address| address.is_alive(self.kind))
            }
        }
    }
}
