//! A switch as a process: the loop, the control socket, the end.
//!
//! # Theory of operation
//! One thread, one epoll. Ready ports are served in turn, at most `plugs::BATCH` frames each, and every frame is
//! written to its egress ports at once, so nothing is queued here: the queues are the kernel's. Control
//! connections are served between the ports' turns and never waited for. [`Server::new`] takes the path, so that
//! whoever started the switch learns of an error before it is sent to the background; [`Server::run`] returns when
//! the switch is told to end (`down`, SIGTERM, SIGINT), was idle for long enough, or lost its watcher: a
//! descriptor, given by whoever hosts it, that hangs up when the process is gone that would clear up behind it.
//!
//! **Taking and leaving a path.** Two may start the same switch at once, and one may connect just as the
//! switch decides to end. Both ends hold flock(2) on the folder while they change the path
//! ([`msocket_proto::line::lock_folder`]): the starter while it clears the file of a dead switch and binds, the ending
//! one while it looks for late connections and unlinks. A client whose connection slips through sees it closed
//! without answer and starts over.

mod captures;
mod connections;
mod metrics;
mod plugs;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use msocket_proto::line::{SocketFile, listen_locked, lock_folder};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use connections::Connections;
use metrics::Metrics;
pub use metrics::OnFile;
use plugs::Plugs;

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
    /// After how long a silent station is forgotten.
    pub age: Duration,
    /// After how long without ports and connections the switch ends; `None`: never.
    pub idle: Option<Duration>,
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
    Ok(Bound { listener, file })
}

/// Who an event is for, as the 64-bit number epoll keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Signal,
    Watcher,
    Port(PortId),
    Connection(u32),
    Metrics(u32),
}

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Signal => 1,
            Self::Watcher => 2,
            Self::Port(id) => 1 << 32 | id.index() as u64,
            Self::Connection(index) => 2 << 32 | u64::from(index),
            Self::Metrics(index) => 3 << 32 | u64::from(index),
        }
    }

    fn of(token: u64) -> Self {
        match (token >> 32, token as u32) {
            (1, index) => Self::Port(PortId::new(index)),
            (2, index) => Self::Connection(index),
            (3, index) => Self::Metrics(index),
            (_, 0) => Self::Listener,
            (_, 1) => Self::Signal,
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
    metrics: Metrics,
    idle: Option<Duration>,
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
        let mut server = Self {
            epoll,
            bound: None,
            signals,
            switch: Switch::new(options.age),
            plugs: Plugs::new(),
            connections: Connections::new(options, now()),
            metrics: Metrics::default(),
            idle: options.idle,
            idle_since: None,
            accept_after: None,
        };
        let bound = server.bound.insert(bind(options)?);
        server.epoll.add(&bound.listener, interest(EpollFlags::EPOLLIN, Source::Listener))?;
        Ok(server)
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
        let mut now = now();
        loop {
            if self.is_over(now) && self.leave_path()? {
                return Ok(());
            }
            self.rest();
            let waiting = self.plugs.arm();
            let ready = self.wait(&mut events, now, waiting)?;
            now = self::now();
            for event in &events[..ready] {
                match Source::of(event.data()) {
                    Source::Port(id) => {
                        let _ = self.plugs.handle_ready(now, id, event.events(), &mut self.switch);
                    }
                    Source::Connection(index) => self.connections.handle_ready(index, event.events()),
                    Source::Metrics(index) => self.metrics.handle_ready(now, index, &self.epoll),
                    Source::Listener => self.accept(now),
                    Source::Watcher => self.connections.told_to_end = true,
                    Source::Signal => {
                        let _ = self.signals.read_signal();
                        self.connections.told_to_end = true;
                    }
                }
            }
            self.plugs.run(now, &mut self.switch);
            self.plugs.handle_timeout(now, &self.switch);
            self.plugs.remove_dead(&mut self.switch, &self.epoll);
            let mut hall = connections::Hall {
                switch: &mut self.switch,
                plugs: &mut self.plugs,
                metrics: &mut self.metrics,
                on_file: &mut *on_file,
                epoll: &self.epoll,
            };
            self.connections.serve(now, &mut hall);
            self.connections.publish(now, &mut hall);
            let text = hall.metrics.needs_text(now).then(|| self.connections.metrics_text(now, &hall));
            self.metrics.serve(now, text, &self.epoll);
            self.switch.handle_timeout(now);
        }
    }

    /// Lets frames gather while the traffic is bulk.
    fn rest(&mut self) {
        if self.plugs.take_bulk() > BULK {
            std::thread::sleep(BULK_REST);
        }
    }

    /// Waits for events, or merely looks if frames are `waiting` already.
    fn wait(&self, events: &mut [EpollEvent], since: Instant, waiting: bool) -> io::Result<usize> {
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
            self.plugs.poll_timeout(),
            self.accept_after,
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
    fn is_over(&mut self, now: Instant) -> bool {
        if self.accept_after.is_some_and(|at| at <= now) {
            self.accept_after = None;
            if let Some(bound) = &self.bound {
                let _ = self.epoll.add(&bound.listener, interest(EpollFlags::EPOLLIN, Source::Listener));
            }
        }
        if self.connections.told_to_end {
            return true;
        }
        let busy = self.switch.port_count() > 0 || self.connections.count() > 0;
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
            Source::Port(PortId::new(7)),
            Source::Connection(9),
            Source::Metrics(metrics::LISTENER),
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
