//! The host of smol stacks: one thread, one epoll set, any number of stacks.
//!
//! # Theory of operation
//! Whoever embeds a [`Host`] (a view's supervisor, the process behind `stack up`) puts its descriptor into
//! its own loop, calls [`Host::turn`] when it is readable or when [`Host::poll_timeout`] has passed, and hands
//! it the trapped calls of programs ([`SocketHost`]). Work is bounded per turn; what is left makes the next
//! timeout "now". Stacks that nothing happens to are not touched.
//!
//! A stack that panics or exceeds a bound is *failed*: its engine is dropped, its programs' descriptors
//! break, every call on them and every new socket gives ENETDOWN, and its description says why. Other
//! stacks of the host do not notice.

mod attempt;
mod bounds;
mod connecting;
mod files;
mod hosted;
mod parked;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use msocket_proto::board::SECRET;
use msocket_proto::line::Refusal;
use msocket_proto::proto::{File, FilterChange};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::call::{Answered, Caller, SocketCall, SocketHost, Ticket};
use super::engine::SocketId;
use super::port::cable::Cables;
use super::port::{BUFFER_LEN, Plugs};
use super::pump::board::Board;
use super::pump::{Place, Shared, unix};
use crate::config::StackConfig;
use crate::filter::Listing;
use crate::kernel::orphans::Unfinished;
use crate::stack::{InterfaceInfo, SocketSpec};
use attempt::would_block;
use hosted::Hosted;
use parked::{Parked, Parking};

/// Events taken at once.
const BATCH: usize = 64;
/// Longest datagram that a program may write, and the largest piece of a stream moved at once, in bytes.
const SCRATCH: usize = 128 << 10;

/// A stack of a [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackKey(u64);

/// Smol stacks and the programs' sockets on them.
#[derive(Debug)]
pub struct Host {
    shared: Shared,
    stacks: BTreeMap<StackKey, Hosted>,
    next: u64,
    deadlines: BTreeSet<(Instant, StackKey)>,
    parking: Parking,
    cables: Cables,
    /// Stacks that failed and nobody has asked about.
    failed: VecDeque<StackKey>,
}

/// The one clock read of the host's shell.
#[expect(clippy::disallowed_methods, reason = "the shell gives the time to the engines")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// This moment by the clock that only runs and by the one on the wall.
#[expect(clippy::disallowed_methods, reason = "the shell gives the time to the engines")]
fn clocks() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

/// Processor time that this thread has had.
fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(Duration::ZERO, Duration::from)
}

/// Random bytes for names and sequence numbers.
fn random() -> Result<[u8; 32], Errno> {
    let mut bytes = [0; 32];
    let got =
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(unix::errno)?;
    if got == bytes.len() { Ok(bytes) } else { Err(Errno::EIO) }
}

impl Host {
    /// A host without stacks. It makes and removes files in `folder`, which should be its user's alone.
    ///
    /// # Errors
    /// Those of epoll_create1(2), of sockets, and of making a file in the folder.
    pub fn new(folder: &Path) -> Result<Self, Errno> {
        let secret = random()?
            .iter()
            .take(SECRET / 2)
            .fold("vnet-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
        let folder = unix::folder(folder)?;
        let shared = Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            rendezvous: unix::Rendezvous::new(&folder, &format!(".{secret}"))?,
            secret,
            folder,
            scratch: vec![0; SCRATCH],
            frame: vec![0; BUFFER_LEN],
            next: 0,
            board: Board::new()?,
            places: Default::default(),
            inodes: Default::default(),
            orphaned: VecDeque::new(),
        };
        Ok(Self {
            shared,
            stacks: BTreeMap::new(),
            next: 0,
            deadlines: BTreeSet::new(),
            parking: Parking::default(),
            cables: Cables::new(),
            failed: VecDeque::new(),
        })
    }

    /// Makes a stack as `config` says. `name` marks its ports on switches, which have their sockets in
    /// `switches`.
    ///
    /// # Errors
    /// What is wrong with the configuration, or with what it is to be plugged into.
    pub fn create(&mut self, name: &str, config: &StackConfig, switches: &Path) -> Result<StackKey, Refusal> {
        let seed = random()
            .map_err(|e| Refusal::new(format!("cannot make stack {name}"), e.desc()).hint("try again"))?;
        self.next += 1;
        let key = StackKey(self.next);
        let mut plugs =
            Plugs { stack: name, switches, guest: false, cables: &mut self.cables, clocks: clocks() };
        let hosted = Hosted::create(key, &mut plugs, config, seed, &mut self.shared)?;
        self.stacks.insert(key, hosted);
        self.run(key, now(), &[]);
        Ok(key)
    }

    /// What the names of this host's sockets begin with.
    pub fn secret(&self) -> &str {
        &self.shared.secret
    }

    /// What programs see of their sockets ([`msocket_proto::board`]), and the secret in the names of those.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn board(&self) -> Result<(&str, OwnedFd), Errno> {
        let file = rustix::io::fcntl_dupfd_cloexec(self.shared.board.file(), 0).map_err(unix::errno)?;
        Ok((self.shared.secret.trim_start_matches("vnet-"), file))
    }

    /// A file about a stack's network.
    ///
    /// # Errors
    /// The errno that the program shall see; EOPNOTSUPP if it cannot be had.
    pub fn file(&mut self, key: StackKey, file: &File) -> Result<OwnedFd, Errno> {
        let now = now();
        let opened = self.guarded(key, |hosted, _| {
            let (engine, _) = hosted.parts();
            let node = engine.file(now, file)?;
            if let Some(text) = files::text(&node, file.how) {
                return text;
            }
            let nodes = engine.files(now);
            hosted.files.open(file, nodes)
        });
        opened.unwrap_or(Err(Errno::ENETDOWN))
    }

    /// Where a stack may have a folder of files; none: not any more.
    pub fn set_folder(&mut self, key: StackKey, place: Option<PathBuf>) {
        if let Some(hosted) = self.stacks.get_mut(&key) {
            hosted.files.set_place(place);
        }
    }

    /// Forgets a stack; its programs' sockets break.
    pub fn remove(&mut self, key: StackKey) {
        let now = now();
        self.guarded(key, |hosted, _| hosted.depart(now));
        self.fail(key, "it was taken down");
        self.failed.retain(|failed| *failed != key);
        self.stacks.remove(&key);
    }

    /// All stacks.
    pub fn keys(&self) -> Vec<StackKey> {
        self.stacks.keys().copied().collect()
    }

    /// The interfaces of a stack.
    pub fn interfaces(&self, key: StackKey) -> Vec<InterfaceInfo> {
        self.stacks.get(&key).map(Hosted::interfaces).unwrap_or_default()
    }

    /// Changes a stack's packet filter, if so said, and shows it.
    ///
    /// # Errors
    /// The change makes no sense, or the stack has failed.
    pub fn filter(&mut self, key: StackKey, change: Option<&FilterChange>) -> Result<Listing, Refusal> {
        let done = self.guarded(key, |hosted, _| hosted.filter(change));
        done.unwrap_or_else(|| Err(Refusal::new("cannot reach the filter", "the stack has failed")))
    }

    /// A stack that has failed; each is named once.
    pub fn poll_failed(&mut self) -> Option<StackKey> {
        self.failed.pop_front()
    }

    /// Whether [`Host::poll_failed`] has something to say.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Why a stack works no more, if so.
    pub fn failure(&self, key: StackKey) -> Option<&str> {
        self.stacks.get(&key).and_then(Hosted::failure)
    }

    /// socket(2): the program's end of a new socket. It is non-blocking if asked for. If it is `named` it has its
    /// AF_UNIX name from the beginning, by which a library in the program knows whom to ask about it.
    ///
    /// # Errors
    /// The errno that the program shall see.
    pub fn socket(
        &mut self,
        key: StackKey,
        spec: SocketSpec,
        caller: &Caller,
        named: bool,
    ) -> Result<OwnedFd, Errno> {
        let now = now();
        let made = self.guarded(key, |hosted, shared| hosted.socket(now, spec, (caller, named), shared));
        self.catch_up(key, now, &[]);
        made.unwrap_or(Err(Errno::ENETDOWN))
    }

    /// The stack that the socket with this inode is on: the inode of its program's end.
    pub fn stack_of(&self, inode: u64) -> Option<StackKey> {
        self.shared.inodes.get(&inode).map(|(stack, _)| *stack)
    }

    /// What a stack still owes others, when its programs have ended.
    pub fn unfinished(&mut self, key: StackKey) -> Unfinished {
        let now = now();
        let buried = self.guarded(key, |hosted, shared| hosted.look_for_all_orphans(now, shared));
        if buried == Some(true) {
            self.run(key, now, &[]);
        }
        self.guarded(key, |hosted, _| hosted.unfinished()).unwrap_or(Unfinished::Nothing)
    }

    /// As [`SocketHost::cancel`], for all tickets with this number in their upper half.
    pub fn cancel_all(&mut self, number: u32) {
        for ticket in self.parking.tickets(|ticket| ticket.0 >> 32 == u64::from(number)) {
            self.cancel(ticket);
        }
    }

    /// The programs of this process's own views have ended: what their last calls left behind goes, as each holds a
    /// descriptor of a program open.
    pub fn abandon(&mut self) {
        self.cancel_all(0);
        self.parking.forget_returned();
    }

    /// As [`SocketHost::cancel`], for a call that is not made anew by the kernel.
    pub fn abandon_call(&mut self, ticket: Ticket) {
        self.cancel(ticket);
        self.parking.forget_interrupted();
    }

    /// The answer of a call that waited, if it is there.
    pub fn answer_of(&mut self, ticket: Ticket) -> Option<Answered> {
        self.parking.take_done(ticket)
    }

    /// When to call [`Host::turn`], if nothing happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stacks = self.deadlines.first().map(|(at, _)| *at);
        [stacks, self.parking.poll_timeout()].into_iter().flatten().min()
    }

    /// Takes events and moves what can be moved. True: there were events.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn turn(&mut self) -> Result<bool, Errno> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.shared.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        let now = now();
        let mut touched: BTreeMap<StackKey, Vec<SocketId>> = BTreeMap::new();
        for event in &events[..count] {
            match self.shared.places.get(&event.data()).copied() {
                Some(Place::Socket(key, id)) => {
                    if let Some(hosted) = self.stacks.get_mut(&key) {
                        hosted.handle_event(id, event.events());
                        touched.entry(key).or_default().push(id);
                    }
                }
                Some(Place::Port(key, link)) => {
                    if let Some(hosted) = self.stacks.get_mut(&key) {
                        hosted.handle_port(link, event.events());
                    }
                    touched.entry(key).or_default();
                }
                Some(Place::Parked(ticket)) => self.retry(now, ticket),
                None => {}
            }
        }
        while let Some((at, key)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, key));
            let _ = self.guarded(key, |hosted, _| hosted.handle_timeout(now));
            touched.entry(key).or_default();
        }
        for (key, ids) in touched {
            self.run(key, now, &ids);
        }
        for ticket in self.parking.expired(now) {
            self.time_out(ticket);
        }
        Ok(count > 0)
    }

    /// Moves everything of one stack that can be moved, and answers the calls that waited for it.
    fn run(&mut self, key: StackKey, now: Instant, ids: &[SocketId]) {
        let woken = self.guarded(key, |hosted, shared| hosted.run(now, ids, shared)).unwrap_or_default();
        let now = self::now();
        if let Some(Some(why)) = self.guarded(key, |hosted, _| hosted.exceeded(now)) {
            self.fail(key, &why);
        }
        for ticket in woken {
            self.retry(now, ticket);
        }
        let Some((old, new)) = self.guarded(key, |hosted, _| hosted.reschedule(now)) else { return };
        if old != new {
            if let Some(old) = old {
                self.deadlines.remove(&(old, key));
            }
            if let Some(new) = new {
                self.deadlines.insert((new, key));
            }
        } else if let Some(new) = new {
            self.deadlines.insert((new, key));
        }
    }

    /// [`Self::run`], if something has happened of which no event will tell.
    fn catch_up(&mut self, key: StackKey, now: Instant, ids: &[SocketId]) {
        if self.stacks.get(&key).is_some_and(Hosted::has_untold) {
            self.run(key, now, ids);
        }
    }

    /// Does something with a stack; a panic fails the stack and nothing else. `None`: it has failed.
    fn guarded<T>(&mut self, key: StackKey, act: impl FnOnce(&mut Hosted, &mut Shared) -> T) -> Option<T> {
        let hosted = self.stacks.get_mut(&key).filter(|hosted| hosted.failure().is_none())?;
        let began = hosted.measures_time().then(thread_time);
        let done = catch_unwind(AssertUnwindSafe(|| act(hosted, &mut self.shared)));
        if let Some(began) = began {
            hosted.spend(thread_time().saturating_sub(began));
        }
        match done {
            Ok(value) => Some(value),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                self.fail(key, &format!("its engine failed: {text}"));
                None
            }
        }
    }

    /// Ends a stack's work.
    fn fail(&mut self, key: StackKey, why: &str) {
        let Some(hosted) = self.stacks.get_mut(&key) else { return };
        if hosted.failure().is_some() {
            return;
        }
        let (deadline, tickets) = hosted.fail(why, &mut self.shared);
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, key));
        }
        self.failed.push_back(key);
        log::warn!("a stack has failed: {why}");
        for ticket in tickets {
            self.finish(ticket, (Err(Errno::ENETDOWN), None));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let now = now();
        for key in self.keys() {
            self.guarded(key, |hosted, _| hosted.depart(now));
        }
    }
}

impl AsFd for Host {
    /// Readable when there is something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.epoll.0.as_fd()
    }
}

impl SocketHost for Host {
    fn call(
        &mut self,
        now: Instant,
        ticket: Ticket,
        caller: &Caller,
        file: OwnedFd,
        call: SocketCall,
    ) -> Option<Answered> {
        let ours = unix::inode(&file).ok().and_then(|inode| self.shared.inodes.get(&inode).copied());
        let Some((stack, socket)) = ours else {
            return Some((Ok(super::call::Done::NotOurs), None));
        };
        if self.failure(stack).is_some() {
            return Some((Err(Errno::ENETDOWN), None));
        }
        let parked = Parked::new(stack, socket, *caller, file, call);
        self.begin(now, ticket, parked)
    }

    fn cancel(&mut self, ticket: Ticket) {
        if let Some(parked) = self.parking.remove(ticket, &mut self.shared) {
            self.leave(ticket, &parked);
            self.parking.interrupt(ticket, parked);
        }
    }

    fn give_back(&mut self, ticket: Ticket, answered: Answered) {
        if let Some((key, id)) = self.parking.give_back(ticket, answered) {
            self.guarded(key, |hosted, shared| hosted.mark_returned(id, shared));
            self.run(key, now(), &[id]);
        }
    }

    fn poll_done(&mut self) -> Option<(Ticket, Answered)> {
        self.parking.done.pop_front()
    }
}

impl Host {
    /// Makes a call for the first time.
    fn begin(&mut self, now: Instant, ticket: Ticket, mut parked: Parked) -> Option<Answered> {
        let key = parked.stack;
        let (id, sends) = (parked.socket, parked.sends());
        if self.parking.is_made_anew(ticket, &parked) {
            return Some((Err(Errno::EINTR), None));
        }
        if parked.takes() {
            self.parking.note(ticket, (key, id));
        }
        if parked.takes()
            && !parked.accepts()
            && let Some(answered) = self.parking.take_returned((key, id), |kept| parked.fits(kept))
        {
            return Some(answered);
        }
        // What was sent natively before comes first, with all that comes of it at once.
        let _ = self.guarded(key, |hosted, shared| hosted.catch_up(now, id, shared));
        self.catch_up(key, now, &[id]);
        let answered = match self.attempt(now, &mut parked) {
            None => Some((Err(Errno::ENETDOWN), None)),
            Some(Some(answered)) => Some(answered),
            Some(None) => {
                self.park(ticket, parked);
                None
            }
        };
        if sends || answered.is_none() {
            self.run(key, now, &[id]);
        } else {
            self.catch_up(key, now, &[]);
        }
        // What waited for nothing but our own work is done already.
        answered.or_else(|| self.parking.take_done(ticket))
    }

    /// Tries a call. `None`: its stack has failed.
    fn attempt(&mut self, now: Instant, parked: &mut Parked) -> Option<Option<Answered>> {
        let outcome = self.guarded(parked.stack, |hosted, shared| hosted.attempt(now, parked, shared));
        if parked.accepts() && matches!(outcome, Some(None | Some((Err(Errno::EAGAIN), _)))) {
            let socket = (parked.stack, parked.socket);
            return self.parking.take_returned(socket, |kept| parked.fits(kept)).map(Some).or(outcome);
        }
        outcome
    }

    fn park(&mut self, ticket: Ticket, parked: Parked) {
        if let Some(hosted) = self.stacks.get_mut(&parked.stack) {
            hosted.remember_ticket(parked.socket, ticket);
        }
        self.parking.insert(ticket, parked, &mut self.shared);
    }

    /// Tries a parked call again.
    fn retry(&mut self, now: Instant, ticket: Ticket) {
        let Some(mut parked) = self.parking.remove(ticket, &mut self.shared) else { return };
        let (key, id) = (parked.stack, parked.socket);
        let connects = matches!(parked.call, SocketCall::Connect { .. });
        match self.attempt(now, &mut parked) {
            None => self.finish(ticket, (Err(Errno::ENETDOWN), None)),
            Some(Some(answered)) => {
                if let Some(hosted) = self.stacks.get_mut(&key) {
                    hosted.forget_ticket(id, ticket);
                }
                self.finish(ticket, answered);
                if connects {
                    // What the peer has said already is the program's now.
                    self.run(key, now, &[id]);
                }
            }
            Some(None) => self.parking.insert(ticket, parked, &mut self.shared),
        }
    }

    /// A parked call has waited as long as its socket's options let it.
    fn time_out(&mut self, ticket: Ticket) {
        let Some(parked) = self.parking.remove(ticket, &mut self.shared) else { return };
        self.leave(ticket, &parked);
        // SO_SNDTIMEO on connect(2): the connection is still being made.
        let errno = would_block(&parked);
        self.finish(ticket, (Err(errno), None));
    }

    /// A parked call is not to be answered any more.
    fn leave(&mut self, ticket: Ticket, parked: &Parked) {
        let now = now();
        self.guarded(parked.stack, |hosted, shared| {
            hosted.forget_ticket(parked.socket, ticket);
            hosted.leave(now, parked, shared);
        });
    }

    fn finish(&mut self, ticket: Ticket, answered: Answered) {
        drop(self.parking.remove(ticket, &mut self.shared));
        self.parking.done.push_back((ticket, answered));
    }
}

/// Watches something of the host's.
fn watch(shared: &Shared, fd: &impl AsFd, token: u64, flags: EpollFlags) -> Result<(), Errno> {
    shared.epoll.add(fd, EpollEvent::new(flags, token))
}
