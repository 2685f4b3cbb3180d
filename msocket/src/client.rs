//! Connections to stacks' paths, and the few of them that are kept.
//!
//! # Theory of operation
//! Without a supervisor a socket is asked for on the stack's path. The connection is kept for the next one, in a
//! table that no thread waits for: who finds it locked connects anew, for this once. So a thread that forks while
//! another one holds the lock leaves the child a slower way and no dead one. A kept connection is used only by the
//! process that made it and only while its descriptor is what it was, as programs close descriptors that they do
//! not know.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use msocket_proto::line::{CallError, Line, LineError};
use msocket_proto::proto::{self, Request};
use nix::errno::Errno;
use stacks::smol::relay::Relay;
use stacks::stack::Kind;

use crate::call::Client;
use crate::{places, sys};

/// From where on connections have their numbers.
const HIGH: i32 = 512;
/// Most connections that are kept: a descriptor each.
const MAX_KEPT: usize = 16;
/// How long a stack's server may take to answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a server is knocked at that has no place left, and how long one waits in between: 2 s in all.
const LOOKS: usize = 1000;
const GAP: Duration = Duration::from_millis(2);
/// What we are called among the users of a stack.
const NAME: &str = "msocket";

static KEPT: LazyLock<Mutex<HashMap<PathBuf, Joined>>> = LazyLock::new(Mutex::default);

/// A connection that has joined a stack.
#[derive(Debug)]
pub(crate) struct Joined {
    line: Line,
    identity: Option<(u64, u64)>,
    pid: u32,
}

/// A way to a stack.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Its sockets are the kernel's.
    Kernel(Arc<Mutex<Joined>>),
    /// They are AF_UNIX sockets.
    Smol(Arc<Client>),
}

impl Joined {
    /// Whether this process made it.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Whether its descriptor is still what it was.
    pub(crate) fn is_open(&self) -> bool {
        self.identity.is_some() && sys::identity(self.line.as_fd()) == self.identity
    }

    /// Joins the stack at `path`; if it is one in a library, also the way to its host.
    fn to(path: &Path) -> Result<(Self, Option<OwnedFd>), Errno> {
        let mut line = raised(dial(path)?);
        line.stream().set_read_timeout(Some(PATIENCE)).map_err(places::errno)?;
        let request = Request::Join { view: NAME.into(), pid: std::process::id() as i32, rules: Vec::new() };
        let (joined, mut fds) = line.call::<_, proto::Joined>(&request, &[]).map_err(errno)?;
        let identity = sys::identity(line.as_fd());
        // Of a kernel stack it is the namespace, which is not ours to enter.
        let relay = fds.pop().filter(|_| joined.kind == Kind::Smol.name());
        Ok((Self { line, identity, pid: std::process::id() }, relay))
    }

    fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        let request = Request::Socket { domain, kind, protocol };
        let (_, mut fds) = self.line.call::<_, ()>(&request, &[]).map_err(errno)?;
        // It was sent, and there was no number left for it (unix(7)).
        inherited(fds.pop().ok_or(Errno::EMFILE)?, kind)
    }
}

/// All descriptors come close-on-exec.
fn inherited(made: OwnedFd, kind: i32) -> Result<OwnedFd, Errno> {
    if kind & libc::SOCK_CLOEXEC == 0 {
        rustix::io::fcntl_setfd(&made, rustix::io::FdFlags::empty())
            .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    }
    Ok(made)
}

/// Connects to a stack's path; waits for a server that has too many to let in.
fn dial(path: &Path) -> Result<Line, Errno> {
    let mut looks = 0..LOOKS;
    loop {
        match Line::connect(path).map_err(places::errno) {
            Ok(line) => return Ok(line),
            Err(Errno::EAGAIN) if looks.next().is_some() => std::thread::sleep(GAP),
            // A path whose server has died is no stack either; nor is a file of another kind.
            Err(Errno::ECONNREFUSED | Errno::ENOTDIR | Errno::EPROTOTYPE) => return Err(Errno::ENOENT),
            Err(errno) => return Err(errno),
        }
    }
}

/// The line under a number above those that a program expects for its own descriptors, if there are so many.
fn raised(line: Line) -> Line {
    match rustix::io::fcntl_dupfd_cloexec(&line, HIGH) {
        Ok(high) => Line::client(high.into()),
        Err(_) => line,
    }
}

impl Way {
    /// Joins the stack at `path`.
    pub(crate) fn to(path: &Path) -> Result<Self, Errno> {
        Ok(match Joined::to(path)? {
            (ours, Some(relay)) => Self::Smol(Arc::new(Client::new(Relay::new(relay), ours)?)),
            (ours, None) => Self::Kernel(Arc::new(Mutex::new(ours))),
        })
    }

    /// Whether its stack's calls need somebody to answer them.
    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        match self {
            Self::Kernel(_) => None,
            Self::Smol(client) => Some(client),
        }
    }

    /// socket(2) there.
    pub(crate) fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        match self {
            Self::Kernel(joined) => {
                joined.lock().unwrap_or_else(PoisonError::into_inner).socket(domain, kind, protocol)
            }
            Self::Smol(client) => inherited(client.socket(domain, kind, protocol)?, kind),
        }
    }
}

/// socket(2) on the stack at `path`, which is absolute, by a kept connection if there is one.
pub(crate) fn socket(path: &Path, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    let Ok(mut kept) = KEPT.try_lock() else {
        return Joined::to(path)?.0.socket(domain, kind, protocol);
    };
    if let Some(way) = kept.get_mut(path) {
        if !way.is_open() {
            // Its descriptor is no longer ours to close.
            std::mem::forget(kept.remove(path));
        } else if !way.is_ours() {
            kept.remove(path);
        } else {
            match way.socket(domain, kind, protocol) {
                // The stack has gone; there may be another one.
                Err(Errno::ENETDOWN) => drop(kept.remove(path)),
                made => return made,
            }
        }
    }
    let (mut way, _) = Joined::to(path)?;
    let made = way.socket(domain, kind, protocol);
    if kept.len() >= MAX_KEPT {
        kept.drain().filter(|(_, way)| !way.is_open()).for_each(std::mem::forget);
    }
    kept.insert(path.to_owned(), way);
    made
}

/// What the program sees of a connection's failure.
fn errno(error: CallError) -> Errno {
    match error {
        CallError::Refused(refusal) => refusal.errno.map_or(Errno::ENETDOWN, Errno::from_raw),
        CallError::Line(LineError::Io(error)) => match places::errno(error) {
            Errno::EMFILE | Errno::ENFILE => Errno::EMFILE,
            _ => Errno::ENETDOWN,
        },
        CallError::Line(_) => Errno::ENETDOWN,
    }
}
