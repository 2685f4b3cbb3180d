//! A stack that another process serves and whose namespace is not ours to enter: every socket is asked for
//! on its path.
//!
//! It costs two wake-ups more per socket than a stack of our own, and nothing afterwards: what comes back
//! is a kernel socket. When the other side goes away, so does the network: ENETDOWN.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use msocket_proto::line::{CallError, Line, LineError, Refusal, unusable};
use msocket_proto::proto::{FilePlace, Joined, Request};
use nix::errno::Errno;

use crate::kernel::KernelStack;
use crate::serve::{Description, User};
use crate::smol::relay::Relay;
use crate::stack::{InterfaceInfo, Kind, SocketSpec, Stack};

/// How long a server may take to answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that has joined a stack.
#[derive(Debug)]
pub struct RemoteStack {
    line: Line,
    name: String,
    kind: Kind,
    /// An answer was late or lost: the next one could be another question's.
    dead: bool,
}

/// What joining gave.
#[derive(Debug)]
pub struct Membership {
    /// The connection that makes us a user of the stack; it ends with the stack.
    pub remote: RemoteStack,
    /// The stack's namespace, if it is ours to enter.
    pub namespace: Option<KernelStack>,
    /// A smol stack's calls go this way.
    pub relay: Option<Relay>,
}

/// Joins the stack at `path` for a view.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
pub fn join(path: &Path, user: &User) -> Result<Membership, Refusal> {
    let what = || format!("cannot use the stack at {}", path.display());
    let mut line = connect(path).map_err(|why| match why.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Refusal::new(what(), "there is none")
                .hint("make it with `viewnet stack up`, or see `viewnet stack ls`")
                .errno(libc::ENOENT)
        }
        std::io::ErrorKind::PermissionDenied => Refusal::new(what(), why)
            .hint("its owner decides who may use it, by the mode and group of that file")
            .errno(libc::EACCES),
        _ => unusable(what(), path, &why),
    })?;
    let User { view, pid, rules } = user.clone();
    let request = Request::Join { view, pid, rules };
    let (joined, mut fds) = line.call::<_, Joined>(&request, &[]).map_err(|e| refusal(&what(), e))?;
    let kind = if joined.kind == Kind::Smol.name() { Kind::Smol } else { Kind::Kernel };
    let fd = fds.pop();
    let (namespace, relay) = match kind {
        Kind::Smol => (None, fd.map(Relay::new)),
        _ => (fd.filter(|_| joined.namespace).and_then(|fd| KernelStack::from_namespace(fd).ok()), None),
    };
    let remote = RemoteStack { line, name: joined.name, kind, dead: false };
    Ok(Membership { remote, namespace, relay })
}

/// Asks the server of a stack for its description.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
pub fn describe(path: &Path) -> Result<Description, Refusal> {
    ask(path, &Request::Show)
}

/// Sends one request to the stack at `path`.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
pub fn ask<A: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> Result<A, Refusal> {
    let what = format!("cannot reach the stack at {}", path.display());
    let mut line = connect(path).map_err(|why| unusable(what.clone(), path, &why))?;
    line.call(request, &[]).map(|(answer, _)| answer).map_err(|e| refusal(&what, e))
}

/// The user namespace of whoever serves `path`, if it answers within `patience` and we may have it.
pub fn user_namespace(path: &Path, patience: Duration) -> Option<OwnedFd> {
    let mut line = Line::connect(path).ok()?;
    line.stream().set_read_timeout(Some(patience)).ok()?;
    line.call::<_, ()>(&Request::UserNamespace, &[]).ok()?.1.pop()
}

fn connect(path: &Path) -> std::io::Result<Line> {
    let line = Line::connect(path)?;
    line.stream().set_read_timeout(Some(PATIENCE))?;
    Ok(line)
}

fn refusal(what: &str, error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        CallError::Line(LineError::Io(error)) => Refusal::system(what, error),
        CallError::Line(error) => {
            Refusal::new(what, error).hint("try again; if it stays so, look whether its process is stopped")
        }
    }
}

impl RemoteStack {
    /// Name of the stack.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for RemoteStack {
    /// Readable when the stack's server has gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

impl Stack for RemoteStack {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        if self.dead {
            return Err(Errno::ENETDOWN);
        }
        let SocketSpec { domain, kind, protocol } = spec;
        match self.line.call::<_, ()>(&Request::Socket { domain, kind, protocol }, &[]) {
            Ok((_, mut fds)) => fds.pop().ok_or(Errno::ENETDOWN),
            Err(CallError::Refused(refusal)) => Err(refusal.errno.map_or(Errno::ENETDOWN, Errno::from_raw)),
            Err(CallError::Line(_)) => {
                self.dead = true;
                Err(Errno::ENETDOWN)
            }
        }
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        match self.line.call::<_, Description>(&Request::Show, &[]) {
            Ok((description, _)) => Ok(description.interfaces),
            Err(e) => Err(refusal("cannot list the interfaces", e)),
        }
    }

    fn file(&mut self, place: FilePlace, path: &str) -> Result<OwnedFd, Errno> {
        if self.dead {
            return Err(Errno::ENETDOWN);
        }
        match self.line.call::<_, ()>(&Request::File { place, path: path.to_owned() }, &[]) {
            Ok((_, mut fds)) => fds.pop().ok_or(Errno::ENETDOWN),
            Err(CallError::Refused(refusal)) => Err(refusal.errno.map_or(Errno::EOPNOTSUPP, Errno::from_raw)),
            Err(CallError::Line(_)) => {
                self.dead = true;
                Err(Errno::ENETDOWN)
            }
        }
    }

    fn namespace(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
