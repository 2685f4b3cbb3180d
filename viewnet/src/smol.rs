//! Stacks in a library, as a supervisor uses them: its own, and those of other processes that it joined.
//!
//! # Theory of operation
//! [`Hosts`] is where the supervisor asks for sockets and puts the calls on them. Its own stacks are a
//! server's, which serves their paths too; a joined one answers through its relay. Which of them a descriptor
//! belongs to is known by its inode.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use msocket_proto::line::Refusal;
use msocket_proto::proto::File;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use stacks::config::StackConfig;
use stacks::kernel::orphans::Unfinished;
use stacks::remote::RemoteStack;
use stacks::serve::{Server, Serving, StackId};
use stacks::smol::call::{Answered, Caller as Who, Done, SocketCall, SocketHost, Ticket};
use stacks::smol::relay::Relay;
use stacks::stack::{SocketSpec, TYPE_MASK};

/// Most descriptors of joined stacks remembered; the oldest are forgotten first, and are the kernel's then.
const MAX_INODES: usize = 1 << 16;
/// The server in our epoll set; relays have other numbers.
const SERVER: u64 = 0;

/// Names a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SmolId {
    /// One of our own.
    Own(StackId),
    /// One of another process.
    Joined(u64),
}

/// A stack of another process.
#[derive(Debug)]
struct Joined {
    relay: Relay,
    /// As long as this is open, we are a user of it.
    _member: RemoteStack,
}

/// All stacks in a library that a supervisor uses.
#[derive(Debug)]
pub(crate) struct Hosts {
    epoll: Epoll,
    server: Server,
    joined: BTreeMap<u64, Joined>,
    next: u64,
    /// Whose a descriptor is, by inode; those of our own are known to the host.
    inodes: BTreeMap<u64, u64>,
    /// Which relay has a parked call.
    asked: BTreeMap<Ticket, u64>,
    done: VecDeque<(Ticket, Answered)>,
}

impl Hosts {
    /// None yet.
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let server = Server::new()?;
        epoll.add(server.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, SERVER))?;
        Ok(Self {
            epoll,
            server,
            joined: BTreeMap::new(),
            next: SERVER,
            inodes: BTreeMap::new(),
            asked: BTreeMap::new(),
            done: VecDeque::new(),
        })
    }

    /// Readable when there is something to do.
    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// When a turn is due at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    /// Frames, timers, what programs have written, who wants to use our stacks. `counters` are shown with them.
    pub(crate) fn turn(&mut self, counters: &BTreeMap<&'static str, u64>) {
        let shown = |_| counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        if let Err(why) = self.server.turn(&shown) {
            log::error!("stacks in a library: {}", why.desc());
        }
        for joined in self.joined.values_mut() {
            joined.relay.turn();
        }
        let dead: Vec<u64> =
            self.joined.iter().filter(|(_, joined)| joined.relay.is_dead()).map(|(id, _)| *id).collect();
        for id in dead {
            self.part(id);
        }
    }

    /// A joined stack has gone: calls that wait there end.
    fn part(&mut self, id: u64) {
        if let Some(joined) = self.joined.remove(&id) {
            let _ = self.epoll.delete(joined.relay.as_fd());
        }
        let waiting: Vec<Ticket> =
            self.asked.iter().filter(|(_, relay)| **relay == id).map(|(ticket, _)| *ticket).collect();
        for ticket in waiting {
            self.asked.remove(&ticket);
            self.done.push_back((ticket, (Err(Errno::ENETDOWN), None)));
        }
    }

    /// Makes a stack of our own and serves it on its path.
    pub(crate) fn create(
        &mut self,
        serving: Serving,
        config: &StackConfig,
        switches: &Path,
    ) -> Result<SmolId, Refusal> {
        self.server.add_smol(serving, config, switches).map(SmolId::Own)
    }

    /// Takes a stack of another process.
    pub(crate) fn join(&mut self, relay: Relay, member: RemoteStack) -> Result<SmolId, Errno> {
        self.next += 1;
        self.epoll.add(relay.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, self.next))?;
        self.joined.insert(self.next, Joined { relay, _member: member });
        Ok(SmolId::Joined(self.next))
    }

    /// Our own stack of that path.
    pub(crate) fn find(&self, path: &Path) -> Option<SmolId> {
        self.server.find(path).map(SmolId::Own)
    }

    /// Ends a stack of our own, or our use of another's.
    pub(crate) fn remove(&mut self, stack: SmolId) {
        match stack {
            SmolId::Own(id) => self.server.remove(id),
            SmolId::Joined(id) => self.part(id),
        }
    }

    /// Our own stacks.
    pub(crate) fn own(&self) -> Vec<StackId> {
        self.server.ids().collect()
    }

    /// Gives up the paths of our own stacks: other views may have their names.
    pub(crate) fn retire(&mut self) {
        for id in self.own() {
            self.server.retire(id);
        }
    }

    /// Our programs have ended: what their last calls left behind goes.
    pub(crate) fn abandon(&mut self) {
        if let Some(host) = self.server.host() {
            host.abandon();
        }
    }

    /// How many others use a stack of our own.
    pub(crate) fn users(&self, stack: SmolId) -> usize {
        match stack {
            SmolId::Own(id) => self.server.users(id),
            SmolId::Joined(_) => 0,
        }
    }

    /// Makes a socket, close-on-exec on this side.
    pub(crate) fn socket(&mut self, stack: SmolId, spec: SocketSpec, who: &Who) -> Result<OwnedFd, Errno> {
        match stack {
            SmolId::Own(id) => {
                let key = self.server.smol(id).ok_or(Errno::ENETDOWN)?;
                self.server.host().ok_or(Errno::ENETDOWN)?.socket(key, spec, who, false)
            }
            SmolId::Joined(id) => {
                let joined = self.joined.get_mut(&id).ok_or(Errno::ENETDOWN)?;
                let made = joined.relay.socket(spec, who)?;
                self.remember(&made, id);
                Ok(made)
            }
        }
    }

    /// What programs see of their sockets, of the host with that secret.
    pub(crate) fn board(&mut self, secret: &str) -> Option<OwnedFd> {
        let own = self.server.host().and_then(|host| host.board().ok());
        let own = own.filter(|(own, _)| *own == secret).map(|(_, file)| file);
        own.or_else(|| self.joined.values_mut().find_map(|joined| joined.relay.board(secret).ok()))
    }

    /// A file about a stack's network.
    pub(crate) fn file(&mut self, stack: SmolId, file: &File) -> Result<OwnedFd, Errno> {
        match stack {
            SmolId::Own(id) => {
                let key = self.server.smol(id).ok_or(Errno::ENETDOWN)?;
                self.server.host().ok_or(Errno::ENETDOWN)?.file(key, file)
            }
            SmolId::Joined(id) => self.joined.get_mut(&id).ok_or(Errno::ENETDOWN)?.relay.file(file),
        }
    }

    /// The stack of a socket with this inode.
    pub(crate) fn stack_of(&self, inode: u64) -> Option<SmolId> {
        match self.inodes.get(&inode) {
            Some(joined) => Some(SmolId::Joined(*joined)),
            None => self.server.smol_of(inode).map(SmolId::Own),
        }
    }

    fn remember(&mut self, fd: &OwnedFd, relay: u64) {
        if let Ok(stat) = rustix::fs::fstat(fd) {
            if self.inodes.len() >= MAX_INODES {
                self.inodes.pop_first();
            }
            self.inodes.insert(stat.st_ino, relay);
        }
    }

    /// What a stack still owes others when its programs have ended.
    pub(crate) fn unfinished(&mut self, stack: SmolId) -> Unfinished {
        let SmolId::Own(id) = stack else { return Unfinished::Nothing };
        match (self.server.smol(id), self.server.host()) {
            (Some(key), Some(host)) => host.unfinished(key),
            _ => Unfinished::Nothing,
        }
    }
}

impl SocketHost for Hosts {
    fn call(
        &mut self,
        now: Instant,
        ticket: Ticket,
        caller: &Who,
        file: OwnedFd,
        call: SocketCall,
    ) -> Option<Answered> {
        // As a rule there is none, and no need to ask for the inode.
        let inode_of = |file: &OwnedFd| rustix::fs::fstat(file).ok().map(|stat| stat.st_ino);
        let inode = if self.inodes.is_empty() { None } else { inode_of(&file) };
        let Some(id) = inode.and_then(|inode| self.inodes.get(&inode).copied()) else {
            return match self.server.host() {
                Some(host) => host.call(now, ticket, caller, file, call),
                None => Some((Ok(Done::NotOurs), None)),
            };
        };
        let Some(joined) = self.joined.get_mut(&id) else { return Some((Err(Errno::ENETDOWN), None)) };
        let answered = joined.relay.call(now, ticket, caller, file, call);
        match &answered {
            // Memory is no socket.
            Some((Ok(Done::Mapping), _)) => {}
            Some((_, Some(fd))) => self.remember(fd, id),
            Some(_) => {}
            None => drop(self.asked.insert(ticket, id)),
        }
        answered
    }

    fn cancel(&mut self, ticket: Ticket) {
        match self.asked.remove(&ticket).and_then(|id| self.joined.get_mut(&id)) {
            Some(joined) => joined.relay.cancel(ticket),
            None => {
                if let Some(host) = self.server.host() {
                    host.cancel(ticket);
                }
            }
        }
        self.done.retain(|(done, _)| *done != ticket);
    }

    fn give_back(&mut self, ticket: Ticket, answered: Answered) {
        let by_fd = answered.1.as_ref().and_then(|fd| rustix::fs::fstat(fd).ok());
        let relay = by_fd.and_then(|stat| self.inodes.get(&stat.st_ino).copied());
        match relay.and_then(|id| self.joined.get_mut(&id)) {
            Some(joined) => joined.relay.give_back(ticket, answered),
            None => {
                if let Some(host) = self.server.host() {
                    host.give_back(ticket, answered);
                }
            }
        }
    }

    fn poll_done(&mut self) -> Option<(Ticket, Answered)> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        let relayed = self.joined.iter_mut().find_map(|(id, joined)| Some((*id, joined.relay.poll_done()?)));
        if let Some((id, (ticket, answered))) = relayed {
            self.asked.remove(&ticket);
            if let Some(fd) = &answered.1 {
                self.remember(fd, id);
            }
            return Some((ticket, answered));
        }
        self.server.poll_done()
    }
}

/// A socket of the machine rather than of a network, for a caller whose arguments are in memory that it could
/// change before the kernel reads them.
pub(crate) fn machine_socket(spec: SocketSpec) -> Result<OwnedFd, Errno> {
    let kind = u32::try_from(spec.kind & TYPE_MASK).map_err(|_| Errno::EINVAL)?;
    let flags = u32::try_from(spec.kind & !TYPE_MASK).map_err(|_| Errno::EINVAL)?;
    let family = u16::try_from(spec.domain).map_err(|_| Errno::EAFNOSUPPORT)?;
    let protocol = u32::try_from(spec.protocol).map_err(|_| Errno::EPROTONOSUPPORT)?;
    socket_with(
        AddressFamily::from_raw(family),
        SocketType::from_raw(kind),
        SocketFlags::from_bits_retain(flags) | SocketFlags::CLOEXEC,
        std::num::NonZeroU32::new(protocol).map(Protocol::from_raw),
    )
    .map_err(|e| Errno::from_raw(e.raw_os_error()))
}
