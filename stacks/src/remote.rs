//! A stack that another process serves and whose namespace is not ours to enter: every socket is asked for
//! on its path.
//!
//! It costs two wake-ups more per socket than a stack of our own, and nothing afterwards: what comes back
//! is a kernel socket. So of sockets that are as good as any other of their kind, TCP's and UDP's, a few are asked for
//! ahead once the same was wanted twice in a row; their answers come while we do something else. When the other side
//! goes away, so does the network: ENETDOWN.

use std::collections::VecDeque;
use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use msocket_proto::line::{CallError, Line, LineError, Received, Refusal, Reply, unusable};
use msocket_proto::proto::{File, Joined, Request};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel::KernelStack;
use crate::serve::{Description, User};
use crate::smol::relay::Relay;
use crate::stack::{InterfaceInfo, Kind, SocketSpec, Stack, TYPE_MASK};

/// How long a server may take to answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a view may take to leave its stack once its program has ended.
const LEAVE: Duration = Duration::from_secs(3);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);
/// Sockets that are asked for ahead: as many as are made while the server wakes up; each is a descriptor.
const AHEAD: usize = 8;

/// A connection that has joined a stack.
#[derive(Debug)]
pub struct RemoteStack {
    line: Line,
    name: String,
    kind: Kind,
    /// An answer was late or lost: the next one could be another question's.
    dead: bool,
    ahead: Ahead,
}

/// Sockets that nobody has wanted yet.
#[derive(Debug, Default)]
struct Ahead {
    /// What they are, and what was wanted last.
    spec: Option<SocketSpec>,
    ready: VecDeque<OwnedFd>,
    /// How many more are asked for.
    asked: usize,
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
    let what = format!("cannot use the stack at {}", path.display());
    let mut line = connect(&what, path)?;
    let User { view, pid, rules } = user.clone();
    let request = Request::Join { view, pid, rules };
    let (joined, mut fds) = line.call::<_, Joined>(&request, &[]).map_err(|e| refusal(&what, e))?;
    let kind = if joined.kind == Kind::Smol.name() { Kind::Smol } else { Kind::Kernel };
    let fd = fds.pop();
    let (namespace, relay) = match kind {
        Kind::Smol => (None, fd.map(Relay::new)),
        _ => (fd.filter(|_| joined.namespace).and_then(|fd| KernelStack::from_namespace(fd).ok()), None),
    };
    let remote = RemoteStack { line, name: joined.name, kind, dead: false, ahead: Ahead::default() };
    Ok(Membership { remote, namespace, relay })
}

/// Asks the server of a stack for its description.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
pub fn describe(path: &Path) -> Result<Description, Refusal> {
    ask(path, &Request::Show)
}

/// Ends the kept stack at `path`, which views may use only if `force`. Views whose programs have ended count as
/// users until their supervisors have heard of it: these get the time they need.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
#[expect(clippy::disallowed_methods, reason = "whoever waits looks at the clock")]
pub fn end(path: &Path, force: bool) -> Result<(), Refusal> {
    let start = Instant::now();
    let are_leaving = |users: &[User]| !users.is_empty() && !users.iter().any(|user| is_running(user.pid));
    while !force && start.elapsed() < LEAVE && describe(path).is_ok_and(|shown| are_leaving(&shown.users)) {
        std::thread::sleep(LOOK);
    }
    ask(path, &Request::Down { force })
}

fn is_running(pid: i32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Sends one request to the stack at `path`.
///
/// # Errors
/// Nobody serves the path, or its server refuses.
pub fn ask<A: serde::de::DeserializeOwned>(path: &Path, request: &Request) -> Result<A, Refusal> {
    let what = format!("cannot reach the stack at {}", path.display());
    let mut line = connect(&what, path)?;
    line.call(request, &[]).map(|(answer, _)| answer).map_err(|e| refusal(&what, e))
}

/// The user namespace of whoever serves `path`, if it answers within `patience` and we may have it.
pub fn user_namespace(path: &Path, patience: Duration) -> Option<OwnedFd> {
    let mut line = Line::connect(path).ok()?;
    line.stream().set_read_timeout(Some(patience)).ok()?;
    line.call::<_, ()>(&Request::UserNamespace, &[]).ok()?.1.pop()
}

fn connect(what: &str, path: &Path) -> Result<Line, Refusal> {
    let line = Line::connect(path).map_err(|why| match why.kind() {
        NotFound | ConnectionRefused => Refusal::new(what, "there is none")
            .hint("make it with `viewnet stack up`, or see `viewnet stack ls`")
            .errno(libc::ENOENT),
        PermissionDenied => Refusal::new(what, why)
            .hint("its owner decides who may use it, by the mode and group of that file")
            .errno(libc::EACCES),
        _ => unusable(what, path, &why),
    })?;
    line.stream().set_read_timeout(Some(PATIENCE)).map_err(|why| Refusal::system(what, why))?;
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

    /// One more socket is on its way.
    fn ask(&mut self, spec: SocketSpec) -> Result<(), Errno> {
        let SocketSpec { domain, kind, protocol } = spec;
        let sent = self.line.send(&Request::Socket { domain, kind, protocol }, &[]);
        self.dead |= sent.is_err();
        self.ahead.asked += 1;
        sent.map_err(|_| Errno::ENETDOWN)
    }

    /// The next that comes.
    fn receive(&mut self) -> Result<OwnedFd, Errno> {
        self.ahead.asked -= 1;
        let error = match self.line.receive::<Reply<()>>() {
            Ok(Received::Message(Reply::Ok(()), mut fds)) if fds.len() == 1 => {
                return fds.pop().ok_or(Errno::ENETDOWN);
            }
            Ok(Received::Message(Reply::Error(refusal), fds)) if fds.is_empty() => {
                return Err(refusal.errno.map_or(Errno::ENETDOWN, Errno::from_raw));
            }
            Ok(_) => Errno::ENETDOWN,
            Err(_) => Errno::ENETDOWN,
        };
        self.dead = true;
        Err(error)
    }

    /// Takes what is still on its way, so that the next answer is the next question's.
    fn settle(&mut self) {
        while self.ahead.asked > 0 && !self.dead {
            if let Ok(socket) = self.receive() {
                self.ahead.ready.push_back(socket);
            }
        }
    }

    /// Whether the server has gone: then its sockets have, too, those that were made ahead included.
    fn has_gone(&self) -> bool {
        let mut ready = [PollFd::new(&self.line, PollFlags::RDHUP)];
        poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }
}

/// Whether one socket of the kind is as good as another, whenever it was made.
fn is_plain(spec: SocketSpec) -> bool {
    matches!(spec.domain, libc::AF_INET | libc::AF_INET6)
        && matches!(
            (spec.kind & TYPE_MASK, spec.protocol),
            (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) | (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP)
        )
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
        let again = self.ahead.spec == Some(spec);
        if !again {
            self.settle();
            self.ahead.ready.clear();
            self.ahead.spec = Some(spec);
        }
        let there = self.ahead.ready.len() + self.ahead.asked;
        if there <= AHEAD / 2 {
            let more = if again && is_plain(spec) { AHEAD - there } else { 1 - there.min(1) };
            for _ in 0..more {
                self.ask(spec)?;
            }
        }
        match self.ahead.ready.pop_front() {
            Some(_) if self.has_gone() => {
                self.dead = true;
                Err(Errno::ENETDOWN)
            }
            Some(socket) => Ok(socket),
            None => self.receive(),
        }
    }

    fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, Refusal> {
        self.settle();
        match self.line.call::<_, Description>(&Request::Show, &[]) {
            Ok((description, _)) => Ok(description.interfaces),
            Err(e) => Err(refusal("cannot list the interfaces", e)),
        }
    }

    fn file(&mut self, file: &File) -> Result<OwnedFd, Errno> {
        if self.dead {
            return Err(Errno::ENETDOWN);
        }
        match self.line.call::<_, ()>(&Request::File(file.clone()), &[]) {
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
