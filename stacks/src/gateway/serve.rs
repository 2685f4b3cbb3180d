//! A gateway as a process: its loop, its control socket, its end.
//!
//! # Theory of operation
//! One thread. It sleeps in the gateway's own epoll set, as nearly all that happens is there; one of its sources is the
//! set of the control socket, its connections ([`Lines`]), and a *watcher*, which hangs up when the process is gone
//! that clears up behind this one. The gateway ends when it is told to (`down`), when its switch ends, or with its
//! watcher. Or it lives in its switch's thread, as a [`Resident`]: then that has its turns, and its file is removed by
//! whoever does that for the switch's. Whoever is neither the gateway's user nor root may look, no more.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use msocket_proto::line::{Line, LineError, Refusal, Reply, SocketFile, listen, unusable};
use msocket_proto::proto::FilterChange;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use switch::ports::ring::Ring;
use switch::serve::Resident;

use super::doors::Inside;
use super::policy::{MAX_RULES, Rules};
use super::publish::{Ports, Publish};
use super::services::RESOLV_CONF;
use super::{Config, Figures, Gateway, INTERFACE, NAME};
use crate::attach;
use crate::serve::{Lines, converse, is_owners, timeout};

/// Descriptors that a switch must be able to have before a gateway lives there: it takes one for each connection.
const MIN_DESCRIPTORS: u64 = 4096;

/// A gateway that is to live in its switch's thread, as whoever wants it tells the switch.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lodger {
    config: Config,
    path: PathBuf,
    stacks: PathBuf,
    here: Here,
}

/// Where a process is, as far as a gateway can tell the difference: its network, and its nameservers' file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Here([Option<(u64, u64)>; 2]);

impl Here {
    fn look() -> Self {
        let identity = |path: &str| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        Self([identity("/proc/self/ns/net"), identity(RESOLV_CONF)])
    }
}

impl Lodger {
    /// Has the gateway live with its switch. False: it needs a process of its own. So does one that goes by a proxy, as
    /// it waits for the proxy's name to be looked up.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn move_in(
        config: &Config,
        path: &Path,
        (switches, stacks): (&Path, &Path),
    ) -> Result<bool, Refusal> {
        let Some(plug) = config.link.plug().filter(|_| config.via.is_none()) else { return Ok(false) };
        let (config, path, stacks) = (config.clone(), path.to_owned(), stacks.to_owned());
        let lodger = Self { config: config.clone(), path, stacks, here: Here::look() };
        let text = serde_json::to_string(&lodger).map_err(|e| Refusal::new(START, e))?;
        attach::host((NAME, INTERFACE), switches, &plug, config.guest, &text)
    }

    /// What a switch makes of it: see [`switch::serve::Maker`].
    ///
    /// # Errors
    /// EOPNOTSUPP: not here. What else failed, why, and what to do.
    pub fn receive(text: &str, ring: Ring) -> Result<Box<dyn Resident>, Refusal> {
        let lodger: Self = serde_json::from_str(text)
            .map_err(|e| Refusal::new("cannot read what is to live here", e).errno(libc::EOPNOTSUPP))?;
        if lodger.here != Here::look() {
            return Err(Refusal::new(START, "its switch is in another network").errno(libc::EOPNOTSUPP));
        }
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        if descriptors < MIN_DESCRIPTORS {
            return Err(Refusal::new(START, "its switch has few descriptors").errno(libc::EOPNOTSUPP));
        }
        let Self { config, path, stacks, .. } = lodger;
        Ok(Box::new(Server::within(config, &path, &stacks, ring, descriptors as usize)?))
    }
}

/// The version of the control protocol.
pub const VERSION: u32 = 1;
/// Most control connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Events taken at once.
const EVENTS: usize = 16;

const START: &str = "cannot start the gateway";

const LISTENER: u64 = 0;
const WATCHER: u64 = 1;
const CONNECTIONS: u64 = 16;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What are you like, and what have you done? Answer: [`Description`].
    Show,
    /// These rules hold for new flows. Answer: null.
    Set {
        /// The rules.
        rules: Rules,
    },
    /// The packet filter: change it, if so said, then show it. Answer: [`crate::filter::Listing`].
    Filter {
        /// What is to be another way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        change: Option<FilterChange>,
    },
    /// Publish ports of a stack, until the descriptor that comes along, a socket, hangs up. Answer: a number.
    Publish {
        /// The stack.
        inside: Inside,
        /// What of it.
        ports: Vec<Publish>,
    },
    /// Publish ports no more. Answer: how many it were.
    Unpublish {
        /// Only this stack's.
        stack: Option<String>,
        /// The ports of the host; none: all.
        ports: Vec<Ports>,
    },
    /// Have published ports lead to another stack, until the descriptor that comes along hangs up. Answer: how many it
    /// were.
    Move {
        /// The stack.
        inside: Inside,
        /// The ports of the host.
        ports: Vec<Ports>,
    },
    /// End. Answer: null.
    Down,
}

/// A gateway as `viewnet gateway show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`VERSION`]
    pub version: u32,
    /// Its process.
    pub pid: u32,
    /// Its socket.
    pub path: PathBuf,
    /// What it is like.
    #[serde(flatten)]
    pub config: Config,
    /// What it has done.
    #[serde(flatten)]
    pub figures: Figures,
}

/// A gateway with its control socket.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    gateway: Gateway,
    lines: Lines,
    file: SocketFile,
    told_to_end: bool,
}

impl Server {
    /// Takes the path and plugs the gateway in.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn new(
        config: Config,
        path: &Path,
        (switches, stacks): (&Path, &Path),
        watcher: BorrowedFd<'_>,
    ) -> Result<Self, Refusal> {
        raise_descriptor_limit();
        let server = Self::make(path, || Gateway::new(config, switches, stacks))?;
        server.watch(watcher, WATCHER)?;
        Ok(server)
    }

    /// Takes the path for a gateway that lives in its switch's thread, at the far end of a port; see [`Gateway::within`].
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn within(
        config: Config,
        path: &Path,
        stacks: &Path,
        ring: Ring,
        descriptors: usize,
    ) -> Result<Self, Refusal> {
        Self::make(path, || Gateway::within(config, ring, stacks, descriptors))
    }

    fn make(path: &Path, make: impl FnOnce() -> Result<Gateway, Refusal>) -> Result<Self, Refusal> {
        let what = START;
        let internal = |e: Errno| Refusal::system(what, e);
        let listener = listen(path, 0o600).map_err(|e| {
            let refusal = unusable(what, path, &e);
            let hint = "`viewnet gateway ls` shows which gateways there are";
            let in_use = |refusal: Refusal| refusal.hint(hint).errno(libc::EADDRINUSE);
            if e.kind() == io::ErrorKind::AddrInUse { in_use(refusal) } else { refusal }
        })?;
        let file = SocketFile::at(path).map_err(|e| unusable(what, path, &e))?;
        let gateway = make().inspect_err(|_| file.remove())?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        gateway.wait_for(&epoll.0).map_err(internal)?;
        let server = Self {
            epoll,
            gateway,
            lines: Lines::new(listener, CONNECTIONS, MAX_CONNECTIONS),
            file,
            told_to_end: false,
        };
        server.watch(server.lines.listener(), LISTENER)?;
        Ok(server)
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> Result<(), Refusal> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(fd, event).map_err(|e| Refusal::system(START, e))
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn run(mut self) -> Result<(), Errno> {
        while !self.told_to_end && self.gateway.is_alive() {
            let wait = self.gateway.idle_for();
            if self.gateway.turn(timeout(wait))? {
                self.handle_ready()?;
            }
        }
        Ok(())
    }

    /// Somebody wants something of it, or its end.
    fn handle_ready(&mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.lines.accept(&self.epoll),
                WATCHER => self.told_to_end = true,
                token => self.converse(token),
            }
        }
        Ok(())
    }

    fn converse(&mut self, token: u64) {
        let Some(mut line) = self.lines.take(token) else { return };
        if converse(&mut line, |line, request, mut fds| self.answer(line, request, fds.pop())) {
            self.lines.put_back(token, line);
        }
    }

    fn answer(&mut self, line: &mut Line, request: Request, life: Option<OwnedFd>) -> Result<(), LineError> {
        let may = is_owners(line);
        let refused = || {
            Reply::<()>::Error(
                Refusal::new("cannot change the gateway", "it is another user's").errno(libc::EPERM),
            )
        };
        match request {
            Request::Show => line.send(&Reply::Ok(self.describe()), &[]),
            Request::Filter { change } if may || change.is_none() => {
                let listing = self.gateway.filter(change.as_ref());
                line.send(&listing.map_or_else(Reply::Error, Reply::Ok), &[])
            }
            _ if !may => line.send(&refused(), &[]),
            Request::Set { rules } if rules.allow.len() + rules.deny.len() > MAX_RULES => {
                let why = format!("there are more than {MAX_RULES}");
                line.send(&Reply::<()>::Error(Refusal::new("cannot take the rules", why)), &[])
            }
            Request::Filter { .. } => line.send(&refused(), &[]),
            Request::Set { rules } => {
                self.gateway.set_rules(rules);
                line.send(&Reply::Ok(()), &[])
            }
            Request::Publish { .. } | Request::Unpublish { .. } | Request::Move { .. } => {
                match self.publish(request, life) {
                    Ok(count) => line.send(&Reply::Ok(count), &[]),
                    Err(refusal) => line.send(&Reply::<()>::Error(refusal), &[]),
                }
            }
            Request::Down => {
                self.told_to_end = true;
                self.file.remove();
                line.send(&Reply::Ok(()), &[])
            }
        }
    }

    /// What concerns published ports; how many it concerned.
    fn publish(&mut self, request: Request, life: Option<OwnedFd>) -> Result<usize, Refusal> {
        let life = || life.ok_or_else(|| Refusal::new("cannot publish ports", "no descriptor came along"));
        match request {
            Request::Publish { inside, ports } => {
                self.gateway.publish(inside, &ports, life()?).map(|()| ports.len())
            }
            Request::Unpublish { stack, ports } => Ok(self.gateway.unpublish(stack.as_deref(), &ports)),
            Request::Move { inside, ports } => self.gateway.move_ports(inside, &ports, life()?),
            Request::Show | Request::Set { .. } | Request::Filter { .. } | Request::Down => Ok(0),
        }
    }

    fn describe(&self) -> Description {
        Description {
            version: VERSION,
            pid: std::process::id(),
            path: self.file.path().to_owned(),
            config: self.gateway.config().clone(),
            figures: self.gateway.figures(),
        }
    }
}

/// In its switch's thread: it ends when it is told to, or with the switch.
impl Resident for Server {
    fn source(&self) -> BorrowedFd<'_> {
        self.gateway.source()
    }

    fn file(&self) -> &Path {
        self.file.path()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.gateway.poll_timeout()
    }

    fn turn(&mut self, now: Instant, ready: bool) -> bool {
        let turned = self.gateway.turn_within(now, ready);
        let turned = turned.and_then(|beside| if beside { self.handle_ready() } else { Ok(()) });
        turned.is_ok() && !self.told_to_end && self.gateway.is_alive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Each flow costs a descriptor.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
