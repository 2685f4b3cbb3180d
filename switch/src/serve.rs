//! A switch as a process: the loop, the control socket, the end.
//!
//! # Theory of operation
//! One thread, one epoll. Ready ports are served in turn, at most `plugs::BATCH` frames each, and every frame is
//! written to its egress ports at once, so nothing is queued here: the queues are the kernel's, but for ports that
//! were given some (`queues`), and links that are to delay frames. Control connections are served between the ports'
//! turns and never waited for. [`Server::new`] takes the path, so that whoever started the switch learns of an error
//! before it is sent to the background; [`Server::run`] returns when the switch is told to end (`down`, SIGTERM,
//! SIGINT), was idle for long enough, or lost its watcher: a descriptor, given by whoever hosts it, that hangs up when
//! the process is gone that would clear up behind it.
//!
//! **Taking and leaving a path.** Two may start the same switch at once, and one may connect just as the
//! switch decides to end. Both ends hold flock(2) on the folder while they change the path
//! ([`msocket_proto::line::lock_folder`]): the starter while it clears the file of a dead switch and binds, the ending
//! one while it looks for late connections and unlinks. A client whose connection slips through sees it closed
//! without answer and starts over.

mod access;
mod attach;
mod captures;
mod connections;
mod consoles;
mod metrics;
mod plugs;
mod queues;
mod residents;
mod traffic;
mod vde;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use msocket_proto::line::{Refusal, SocketFile, listen_locked, lock_folder};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use access::Access;
use connections::{Connections, Hall};
use metrics::Metrics;
pub use metrics::OnFile;
use plugs::Plugs;
use residents::Residents;
pub use residents::{Maker, Resident};
use vde::VdeServer;

use crate::control;
use crate::frame::Mac;
use crate::port::PortId;
use crate::switch::Switch;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// How long to turn round polling before sleeping in epoll. It would cut some 10 µs off a round trip at the
/// price of a busy CPU; zero until a measurement shows that it is worth it.
const BUSY_POLL: Duration = Duration::ZERO;
/// A round that moved more than this, two super-segments at least, was one of bulk traffic.
const BULK: usize = 64 << 10;
/// How long to let frames gather after a round of bulk traffic. Waking receiver, sender and us for every
/// frame costs more than moving it: without this rest a stream takes a quarter more CPU (bench/RESULTS.md).
/// Answers of up to 64 KiB, and what has no super-segments, never wait.
const BULK_REST: Duration = Duration::from_micros(100);
/// How late a rest may end, in nanoseconds; by default it is half of [`BULK_REST`].
const TIMER_SLACK: u64 = 1_000;
/// How long the listener rests after the process ran out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a switch is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, as it tells it.
    pub name: String,
    /// Its control socket.
    pub path: PathBuf,
    /// The socket's file mode.
    pub mode: u32,
    /// The group of its sockets' files, by name or number; `None`: the user's own.
    pub group: Option<String>,
    /// Where the console of vde_switch is served; `None`: nowhere.
    pub mgmt: Option<PathBuf>,
    /// After how long a silent station is forgotten.
    pub age: Duration,
    /// After how long without ports and connections the switch ends; `None`: never.
    pub idle: Option<Duration>,
    /// It carries a link for ports that go with their connections; those that stay are that link, and no reason to go on.
    pub is_wire: bool,
    /// Where VDE's programs plug in; `None`: nowhere. [`Server::serve_vde`] is told, too.
    pub vde: Option<control::Vde>,
}

impl Options {
    /// A switch at `path` for its user alone that stays until it is told to end.
    pub fn new(name: &str, path: &Path) -> Self {
        let (name, path) = (name.to_owned(), path.to_owned());
        Self {
            name,
            path,
            mode: 0o600,
            group: None,
            mgmt: None,
            age: crate::fdb::DEFAULT_AGE,
            idle: None,
            is_wire: false,
            vde: None,
        }
    }
}

/// A control socket that is taken.
#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

/// Takes the control socket.
fn bind(options: &Options) -> io::Result<Bound> {
    let _lock = lock_folder(&options.path)?;
    let listener = listen_locked(&options.path, options.mode)?;
    let file = SocketFile::at(&options.path)?;
    if let Some(Err(e)) = options.group.as_deref().map(|group| access::give_to_group(&options.path, group)) {
        file.remove_locked();
        return Err(e);
    }
    Ok(Bound { listener, file })
}

/// Who an event is for, as the 64-bit number epoll keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Signal,
    Watcher,
    /// Something is due in an impaired link.
    Timer,
    Port(PortId),
    Connection(u32),
    /// A port's second descriptor.
    Lifeline(PortId),
    /// A VDE client that has not asked for its port yet.
    VdeClient(u32),
    /// Where VDE clients come from.
    VdeListener,
    Metrics(u32),
    /// Somebody comes to the console.
    Console,
    /// Somebody at the console.
    Session(u32),
    /// One of several programs on a port.
    Endpoint(u32),
    /// Its second descriptor.
    EndpointEnd(u32),
    /// Who tells of links.
    Watch(u32),
    /// Somebody who lives here.
    Resident(u32),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Signal => 1,
            Self::Watcher => 2,
            Self::Timer => 3,
            Self::VdeListener => 4,
            Self::Console => 5,
            Self::Session(index) => 6 << 32 | u64::from(index),
            Self::Port(id) => 1 << 32 | id.index() as u64,
            Self::Connection(index) => 2 << 32 | u64::from(index),
            Self::Lifeline(id) => 3 << 32 | id.index() as u64,
            Self::VdeClient(index) => 4 << 32 | u64::from(index),
            Self::Endpoint(slot) => 7 << 32 | u64::from(slot),
            Self::EndpointEnd(slot) => 8 << 32 | u64::from(slot),
            Self::Watch(slot) => 10 << 32 | u64::from(slot),
            Self::Resident(number) => 9 << 32 | u64::from(number),
            Self::Metrics(index) => 5 << 32 | u64::from(index),
        }
    }

    fn of(token: u64) -> Self {
        match (token >> 32, token as u32) {
            (1, index) => Self::Port(PortId::new(index)),
            (2, index) => Self::Connection(index),
            (3, index) => Self::Lifeline(PortId::new(index)),
            (4, index) => Self::VdeClient(index),
            (5, index) => Self::Metrics(index),
            (6, index) => Self::Session(index),
            (7, slot) => Self::Endpoint(slot),
            (8, slot) => Self::EndpointEnd(slot),
            (10, slot) => Self::Watch(slot),
            (9, number) => Self::Resident(number),
            (_, 0) => Self::Listener,
            (_, 1) => Self::Signal,
            (_, 3) => Self::Timer,
            (_, 4) => Self::VdeListener,
            (_, 5) => Self::Console,
            _ => Self::Watcher,
        }
    }
}

/// A switch with its descriptors.
pub struct Server {
    epoll: Epoll,
    bound: Option<Bound>,
    signals: SignalFd,
    switch: Switch,
    plugs: Plugs,
    connections: Connections,
    vde: Option<VdeServer>,
    metrics: Metrics,
    access: Access,
    maker: Option<Box<Maker>>,
    idle: Option<Duration>,
    is_wire: bool,
    /// A port was there that goes with its connection.
    had_users: bool,
    idle_since: Option<Instant>,
    accept_after: Option<Instant>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the control socket and makes a switch without ports; it ends, too, when `watcher` hangs up. Blocks
    /// SIGTERM and SIGINT in this thread.
    ///
    /// # Errors
    /// EADDRINUSE when a switch runs there; those of bind(2) and chmod(2); no descriptor left.
    pub fn new(options: &Options, watcher: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        raise_descriptor_limit();
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, interest(EpollFlags::EPOLLIN, Source::Signal))?;
        if let Some(watcher) = watcher {
            epoll.add(watcher, interest(EpollFlags::EPOLLIN, Source::Watcher))?;
        }
        let mut switch = Switch::new(options.age);
        switch.set_address(random_address());
        let mut server = Self {
            epoll,
            bound: None,
            signals,
            switch,
            plugs: Plugs::new(),
            connections: Connections::new(options, now()),
            vde: None,
            metrics: Metrics::default(),
            access: Access::new(options, now()),
            maker: None,
            idle: options.idle,
            is_wire: options.is_wire,
            had_users: false,
            idle_since: None,
            accept_after: None,
        };
        let bound = server.bound.insert(bind(options)?);
        server.epoll.add(&bound.listener, interest(EpollFlags::EPOLLIN, Source::Listener))?;
        server.access.open(options, &server.epoll)?;
        Ok(server)
    }

    /// Lets VDE's programs plug in, too.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn serve_vde(&mut self, vde: &control::Vde) -> Result<(), Refusal> {
        vde::set(&mut self.vde, vde, &self.epoll).map(|()| self.access.vde_is_at(vde))
    }

    /// Lets others live in the switch's thread, whom `maker` makes.
    pub fn take_in(&mut self, maker: Box<Maker>) {
        self.maker = Some(maker);
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// Those of epoll_wait(2); nothing a port or client does.
    pub fn run(self) -> io::Result<()> {
        self.run_with(&mut |_, _| {})
    }

    /// As [`Server::run`]; whoever removes the socket files of a switch that was killed is told of those that come later.
    ///
    /// # Errors
    /// As [`Server::run`].
    pub fn run_with(mut self, on_file: &mut OnFile<'_>) -> io::Result<()> {
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK);
        self.serve(on_file)
    }

    fn serve(&mut self, on_file: &mut OnFile<'_>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut residents = Residents::new(self.maker.take());
        let mut now = now();
        loop {
            if self.is_over(now, &residents) && self.leave_path()? {
                self.plugs.say_farewell(now, None, &mut self.switch);
                return Ok(());
            }
            self.rest(&mut residents);
            self.plugs.set_timer(now);
            let waiting = self.plugs.arm(&self.epoll);
            let ready = self.wait(&mut events, now, waiting, residents.poll_timeout())?;
            now = self::now();
            for event in &events[..ready] {
                self.handle(now, event, &mut residents, on_file);
            }
            self.plugs.run(now, &mut self.switch);
            residents.run(now, (&mut self.switch, &mut self.plugs, &self.epoll), on_file);
            self.plugs.handle_timeout(now, &mut self.switch);
            self.plugs.remove_dead(&mut self.switch, &self.epoll);
            self.plugs.take_gone_files().iter().for_each(|path| on_file(path, false));
            self.vde.iter_mut().for_each(|vde| vde.handle_timeout(now, &self.epoll));
            let (connections, mut hall) = self.hall(on_file, &mut residents);
            connections.serve(now, &mut hall);
            let text = hall.metrics.needs_text(now).then(|| connections.metrics_text(now, &hall));
            hall.metrics.serve(now, text, hall.epoll);
            self.access.consoles.serve(now, &mut self.switch, &mut self.plugs, &self.epoll);
            self.connections.told_to_end |= self.access.consoles.told_to_end;
            self.switch.handle_timeout(now);
            let (connections, mut hall) = self.hall(on_file, &mut residents);
            connections.publish(now, &mut hall);
            self.plugs.send_bpdus(now, &mut self.switch);
        }
    }

    /// Something has become ready.
    fn handle(
        &mut self,
        now: Instant,
        event: &EpollEvent,
        residents: &mut Residents,
        on_file: &mut OnFile<'_>,
    ) {
        match Source::of(event.data()) {
            Source::Port(id) => {
                let _ = self.plugs.handle_ready(now, id, event.events(), &mut self.switch);
            }
            Source::Connection(index) => self.connections.handle_ready(index, event.events()),
            Source::Lifeline(id) => {
                self.plugs.handle_lifeline(now, id, &mut self.switch, &self.epoll);
            }
            Source::Endpoint(slot) => {
                let Self { plugs, switch, epoll, .. } = &mut *self;
                plugs.handle_endpoint(now, slot, Some(event.events()), switch, epoll);
            }
            Source::EndpointEnd(slot) => {
                let Self { plugs, switch, epoll, .. } = &mut *self;
                plugs.handle_endpoint(now, slot, None, switch, epoll);
            }
            Source::Watch(slot) => {
                self.plugs.handle_watch(now, slot, &mut self.switch, &self.epoll);
            }
            Source::VdeClient(index) => vde::handle_client(now, index, &mut self.hall(on_file, residents).1),
            Source::VdeListener => {
                self.vde.iter_mut().for_each(|vde| vde.accept(now, &self.epoll));
            }
            Source::Metrics(index) => self.metrics.handle_ready(now, index, &self.epoll),
            Source::Console => self.access.consoles.accept(&self.epoll),
            Source::Session(index) => self.access.consoles.handle_ready(index),
            Source::Resident(number) => residents.handle_ready(number),
            Source::Listener => self.accept(now),
            Source::Watcher => self.connections.told_to_end = true,
            // What it is for is done in every round.
            Source::Timer => {}
            Source::Signal => {
                let _ = self.signals.read_signal();
                self.connections.told_to_end = true;
            }
        }
    }

    /// Those who ask, and what they ask about.
    fn hall<'a>(
        &'a mut self,
        on_file: &'a mut OnFile<'_>,
        residents: &'a mut Residents,
    ) -> (&'a mut Connections, Hall<'a>) {
        let Self { connections, switch, plugs, metrics, epoll, vde, access, .. } = self;
        (connections, Hall { switch, plugs, metrics, on_file, epoll, vde, access, residents })
    }

    /// Lets frames gather while the traffic is bulk. What is a resident's is not: nobody is woken for it.
    fn rest(&mut self, residents: &mut Residents) {
        let residents = residents.take_moved();
        if self.plugs.take_bulk().saturating_sub(residents) > BULK {
            std::thread::sleep(BULK_REST);
        }
    }

    /// Waits for events, or merely looks if frames are `waiting` already.
    fn wait(
        &self,
        events: &mut [EpollEvent],
        since: Instant,
        waiting: bool,
        residents: Option<Instant>,
    ) -> io::Result<usize> {
        while !waiting && BUSY_POLL > Duration::ZERO && now().saturating_duration_since(since) < BUSY_POLL {
            let ready = self.epoll.wait(events, EpollTimeout::ZERO)?;
            if ready > 0 {
                return Ok(ready);
            }
        }
        let deadlines = [
            self.switch.poll_timeout(),
            self.connections.poll_timeout(),
            self.metrics.poll_timeout(),
            self.access.consoles.poll_timeout(),
            self.plugs.poll_timeout(),
            residents,
            self.accept_after,
            self.vde.as_ref().and_then(VdeServer::poll_timeout),
            self.idle_since.zip(self.idle).map(|(since, idle)| since + idle),
        ];
        let timeout = match deadlines.into_iter().flatten().min() {
            // Rounded up, or the last millisecond would be spent turning round.
            Some(at) => {
                let left = at.saturating_duration_since(since).as_micros().div_ceil(1000);
                EpollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::NONE)
            }
            None => EpollTimeout::NONE,
        };
        let timeout = if waiting { EpollTimeout::ZERO } else { timeout };
        match self.epoll.wait(events, timeout) {
            Err(nix::errno::Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Takes in new connections, and none for a while when the process has no descriptor left.
    fn accept(&mut self, now: Instant) {
        let Some(bound) = &self.bound else { return };
        loop {
            match bound.listener.accept() {
                Ok((stream, _)) => self.connections.add(stream, &self.epoll),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                    log::warn!("no descriptor left for a connection: {e}");
                    let _ = self.epoll.delete(&bound.listener);
                    self.accept_after = Some(now + ACCEPT_PAUSE);
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// Is it time to go? Keeps the idle clock.
    fn is_over(&mut self, now: Instant, residents: &Residents) -> bool {
        if self.accept_after.is_some_and(|at| at <= now) {
            self.accept_after = None;
            if let Some(bound) = &self.bound {
                let _ = self.epoll.add(&bound.listener, interest(EpollFlags::EPOLLIN, Source::Listener));
            }
        }
        if self.connections.told_to_end {
            return true;
        }
        let busy = if self.is_wire {
            let is_used = self.plugs.table.iter().flatten().any(|plug| plug.owner.is_some());
            self.had_users |= is_used;
            // Later those who only look are no reason to go on.
            is_used || !self.had_users && self.connections.keep(0)
        } else {
            let ports = self.switch.port_count().saturating_sub(residents.guests());
            self.access.consoles.count() > 0 || self.connections.keep(ports)
        };
        self.idle_since = if busy { None } else { self.idle_since.or(Some(now)) };
        self.idle_since.zip(self.idle).is_some_and(|(since, idle)| now >= since + idle)
    }

    /// Gives up the path; false if somebody connected at the last moment and the switch is to go on.
    fn leave_path(&mut self) -> io::Result<bool> {
        let Some(bound) = &self.bound else { return Ok(true) };
        let _lock = lock_folder(bound.file.path());
        let late = if self.connections.told_to_end { None } else { bound.listener.accept().ok() };
        if let Some((stream, _)) = late {
            self.connections.add(stream, &self.epoll);
            self.idle_since = None;
            return Ok(false);
        }
        bound.file.remove_locked();
        self.bound = None;
        Ok(true)
    }
}

impl Drop for Server {
    /// Leaves the path, answers who asked for the end, and closes all ports.
    fn drop(&mut self) {
        self.connections.told_to_end = true;
        let _ = self.leave_path();
        self.connections.say_goodbye();
        self.metrics.close(&self.epoll);
        self.plugs.close_all();
        self.vde.take().into_iter().for_each(|vde| vde.close(&self.epoll));
    }
}

fn interest(flags: EpollFlags, source: Source) -> EpollEvent {
    EpollEvent::new(flags, source.token())
}

/// The shell's one clock read.
#[expect(clippy::disallowed_methods, reason = "the core is told the time from here")]
fn now() -> Instant {
    Instant::now()
}

/// An address that no other bridge is likely to have: locally administered, as the kernel gives its own.
fn random_address() -> Mac {
    let [a, rest @ .., _, _] = random_u64().to_be_bytes();
    let [b, c, d, e, f] = rest;
    Mac([a & 0xFC | 0x02, b, c, d, e, f])
}

/// A number nobody can foretell; the process's id if the kernel has none, which it has on all but the first moments.
fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => u64::from(std::process::id()),
    }
}

/// The other clock, which people read, in nanoseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "what is told to people has their time")]
fn wall_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A port costs one descriptor, and a connection for each attached stack another.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for source in [
            Source::Listener,
            Source::Signal,
            Source::Watcher,
            Source::Timer,
            Source::Port(PortId::new(7)),
            Source::Connection(9),
            Source::Lifeline(PortId::new(7)),
            Source::VdeClient(3),
            Source::VdeListener,
            Source::Metrics(metrics::LISTENER),
            Source::Console,
            Source::Session(3),
            Source::Endpoint(2),
            Source::EndpointEnd(2),
            Source::Watch(1),
            Source::Resident(2),
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
