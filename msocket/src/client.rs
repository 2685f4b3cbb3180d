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

/// Most connections that are kept: a descriptor or four each.
const MAX_KEPT: usize = 16;
/// How long a stack's server may take to answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// What we are called among the users of a stack.
const NAME: &str = "msocket";

static KEPT: LazyLock<Mutex<HashMap<PathBuf, Way>>> = LazyLock::new(Mutex::default);

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

    fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
        let request = Request::Socket { domain, kind, protocol };
        let (_, mut fds) = self.line.call::<_, ()>(&request, &[]).map_err(errno)?;
        fds.pop().ok_or(Errno::ENETDOWN)
    }
}

impl Way {
    /// Joins the stack at `path`.
    pub(crate) fn to(path: &Path) -> Result<Self, Errno> {
        let mut line = Line::connect(path).map_err(|error| match places::errno(error) {
            // A path whose server has died is no stack either; nor is a file of another kind.
            Errno::ECONNREFUSED | Errno::ENOTDIR | Errno::EPROTOTYPE => Errno::ENOENT,
            errno => errno,
        })?;
        line.stream().set_read_timeout(Some(PATIENCE)).map_err(places::errno)?;
        let request = Request::Join { view: NAME.into(), pid: std::process::id() as i32, rules: Vec::new() };
        let (joined, mut fds) = line.call::<_, proto::Joined>(&request, &[]).map_err(errno)?;
        let identity = sys::identity(line.as_fd());
        let ours = Joined { line, identity, pid: std::process::id() };
        // Of a kernel stack it is the namespace, which is not ours to enter.
        match fds.pop().filter(|_| joined.kind == Kind::Smol.name()) {
            Some(relay) => Ok(Self::Smol(Arc::new(Client::new(Relay::new(relay), ours)?))),
            None => Ok(Self::Kernel(Arc::new(Mutex::new(ours)))),
        }
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
        let made = match self {
            Self::Kernel(joined) => {
                joined.lock().unwrap_or_else(PoisonError::into_inner).socket(domain, kind, protocol)
            }
            Self::Smol(client) => client.socket(domain, kind, protocol),
        }?;
        // All descriptors come close-on-exec.
        if kind & libc::SOCK_CLOEXEC == 0 {
            rustix::io::fcntl_setfd(&made, rustix::io::FdFlags::empty())
                .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        }
        Ok(made)
    }

    fn is_ours(&self) -> bool {
        match self {
            Self::Kernel(joined) => joined.try_lock().is_ok_and(|joined| joined.is_ours()),
            Self::Smol(client) => client.is_ours(),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Kernel(joined) => joined.try_lock().is_ok_and(|joined| joined.is_open()),
            Self::Smol(client) => client.is_open(),
        }
    }
}

/// socket(2) on the stack at `path`, which is absolute, by a kept connection if there is one.
pub(crate) fn socket(path: &Path, domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    let Ok(mut kept) = KEPT.try_lock() else {
        return Way::to(path)?.socket(domain, kind, protocol);
    };
    if let Some(way) = kept.get(path) {
        if !way.is_open() {
            // Its descriptors are no longer ours to close.
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
    let way = Way::to(path)?;
    let made = way.socket(domain, kind, protocol);
    if kept.len() >= MAX_KEPT {
        kept.retain(|_, way| {
            let open = way.is_open();
            if !open {
                std::mem::forget(way.clone());
            }
            false
        });
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
