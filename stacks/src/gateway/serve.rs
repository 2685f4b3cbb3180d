//! A gateway as a process: its loop, its control socket, its end.
//!
//! # Theory of operation
//! One thread. It sleeps in the gateway's own epoll set, as nearly all that happens is there; one of its sources is the
//! set of the control socket, its connections ([`Lines`]), and a *watcher*, which hangs up when the process is gone
//! that clears up behind this one. The gateway ends when it is told to (`down`), when its switch ends, or with its
//! watcher. Whoever is neither the gateway's user nor root may look, no more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use msocket_proto::line::{Line, LineError, Refusal, Reply, SocketFile, listen, unusable};
use msocket_proto::proto::FilterChange;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use super::doors::Inside;
use super::policy::{MAX_RULES, Rules};
use super::publish::{Ports, Publish};
use super::{Config, Figures, Gateway};
use crate::serve::{Lines, converse, is_owners, timeout};

/// The version of the control protocol.
pub const VERSION: u32 = 1;
/// Most control connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Events taken at once.
const EVENTS: usize = 16;

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
        let what = "cannot start the gateway";
        let internal = |e: Errno| Refusal::system(what, e);
        let listener = listen(path, 0o600).map_err(|e| {
            let refusal = unusable(what, path, &e);
            let hint = "`viewnet gateway ls` shows which gateways there are";
            let in_use = |refusal: Refusal| refusal.hint(hint).errno(libc::EADDRINUSE);
            if e.kind() == io::ErrorKind::AddrInUse { in_use(refusal) } else { refusal }
        })?;
        let file = SocketFile::at(path).map_err(|e| unusable(what, path, &e))?;
        let gateway = Gateway::new(config, switches, stacks).inspect_err(|_| file.remove())?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let watch = |fd: BorrowedFd<'_>, token| {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(internal)
        };
        watch(listener.as_fd(), LISTENER)?;
        watch(watcher, WATCHER)?;
        gateway.wait_for(&epoll.0).map_err(internal)?;
        Ok(Self {
            epoll,
            gateway,
            lines: Lines::new(listener, CONNECTIONS, MAX_CONNECTIONS),
            file,
            told_to_end: false,
        })
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

impl Drop for Server {
    fn drop(&mut self) {
        self.file.remove();
    }
}
