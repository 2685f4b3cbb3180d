//! Stacks as something to connect to: each has a path, a Unix socket that speaks [`msocket_proto::proto`].
//!
//! # Theory of operation
//! A [`Server`] owns stacks, their listening sockets and the connections to them, all in one epoll set of
//! its own; the process that hosts it (a view's supervisor, or the keeper of kept stacks) puts that set
//! into its own loop and calls [`Server::turn`] when it is readable. Who may connect is decided by the
//! socket file's permissions; only the stack's owner may take its namespace or end it (SO_PEERCRED).
//! Requests are answered at once and in order; a peer that does not read its replies is dropped, and so is
//! one connection too many. A user is a connection that has joined: it counts until it closes.

mod files;
mod filter;
mod lines;
mod shed;
mod sleep;
mod smol;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use msocket_proto::line::{Line, LineError, Received, Refusal, Reply, SocketFile, listen, unusable};
use msocket_proto::proto::{Hello, Joined, Request, VERSION};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use crate::kernel::KernelStack;
use crate::smol::call::Caller;
use crate::smol::host::{Host, StackKey};
use crate::stack::{InterfaceInfo, Kind, SocketSpec, Stack};
pub(crate) use lines::is_owners;
use lines::is_same_user;
pub use lines::{Lines, converse};
pub use shed::Shed;
pub use sleep::timeout;
use smol::Smol;

/// Most connections of one server: each is one user or one question.
pub const MAX_CONNECTIONS: usize = 4096;
/// Events taken at once; the rest stays in the epoll set for the next turn.
const BATCH: usize = 64;
/// Turns in a row that may be the smol stacks' alone: connections wait for as long.
const MOST_HURRIED: u32 = 16;

/// A stack of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(u64);

/// Why a stack's program count is what it is: somebody who joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name of the view.
    pub view: String,
    /// First process of the view.
    pub pid: i32,
    /// The rules of the view.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// A stack as `viewnet stack show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Path of its socket.
    pub path: PathBuf,
    /// Kind.
    pub kind: Kind,
    /// Whether it outlives its users (`stack up`) or goes with its view (`run`).
    pub kept: bool,
    /// Process that hosts it.
    pub pid: u32,
    /// Interfaces with their addresses.
    pub interfaces: Vec<InterfaceInfo>,
    /// Who uses it.
    pub users: Vec<User>,
    /// Calls answered by the supervisor of the stack's own view, by name.
    #[serde(default)]
    pub notifications: BTreeMap<String, u64>,
    /// Why it works no more, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Stacks and the connections to them.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    next: u64,
    stacks: BTreeMap<u64, Served>,
    connections: HashMap<u64, Connection>,
    shed: Shed,
    smol: Smol,
    /// Turns in a row that were the smol stacks' alone.
    hurried: u32,
}

/// What is behind a path.
#[derive(Debug)]
pub enum Backing {
    /// A network namespace.
    Kernel(KernelStack),
    /// A stack of the server's host ([`Server::host`]).
    Smol(StackKey),
}

impl Backing {
    /// Readable when the stack wants a turn.
    fn steward(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Kernel(stack) => stack.steward(),
            Self::Smol(_) => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Kernel(_) => Kind::Kernel,
            Self::Smol(_) => Kind::Smol,
        }
    }

    /// The user namespace that it hangs under.
    fn user_namespace(&self) -> Result<std::os::fd::OwnedFd, Refusal> {
        const WHAT: &str = "cannot give the user namespace";
        match self {
            Self::Kernel(stack) => {
                stack.net_namespace().user_namespace().map_err(|e| Refusal::system(WHAT, e))
            }
            Self::Smol(_) => Err(Refusal::new(WHAT, "it is a smol stack").hint("ask a kernel stack")),
        }
    }
}

#[derive(Debug)]
struct Served {
    name: String,
    path: PathBuf,
    kept: bool,
    /// The view the stack was made for.
    own: Option<User>,
    /// The path and who waits on it; gone once the stack is retired.
    door: Option<(SocketFile, UnixListener)>,
    backing: Backing,
}

#[derive(Debug)]
struct Connection {
    line: Line,
    stack: u64,
    user: Option<User>,
}

/// How to serve a stack.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Its name.
    pub name: String,
    /// Where its socket goes.
    pub path: PathBuf,
    /// File mode of the socket: who may use the stack.
    pub mode: u32,
    /// Whether it outlives its users.
    pub kept: bool,
    /// The view it was made for.
    pub own: Option<User>,
}

impl Server {
    /// A server without stacks.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (stacks, connections) = (BTreeMap::new(), HashMap::new());
        Ok(Self {
            epoll,
            next: smol::LAST,
            stacks,
            connections,
            shed: Shed::new(),
            smol: Smol::default(),
            hurried: 0,
        })
    }

    /// Serves a stack on its path.
    ///
    /// # Errors
    /// The path is taken or cannot be made.
    pub fn add(&mut self, serving: Serving, backing: Backing) -> Result<StackId, Refusal> {
        let Serving { name, path, mode, kept, own } = serving;
        let listener = listen(&path, mode).map_err(|why| match why.kind() {
            std::io::ErrorKind::AddrInUse => {
                Refusal::new(format!("cannot make stack {name}"), format!("{} is in use", path.display()))
                    .hint("choose another name, or look at `viewnet stack ls`")
            }
            _ => unusable(format!("cannot make stack {name}"), &path, &why),
        })?;
        let file = SocketFile::at(&path)
            .map_err(|why| unusable(format!("cannot make stack {name}"), &path, &why))?;
        let id = self.token();
        self.watch(&listener, id, EpollFlags::EPOLLIN)?;
        if let Some(steward) = backing.steward() {
            self.watch(&steward, id, EpollFlags::EPOLLIN)?;
        }
        self.stacks.insert(id, Served { name, path, kept, own, door: Some((file, listener)), backing });
        Ok(StackId(id))
    }

    /// Forgets a stack: its path goes at once, its users' connections close.
    pub fn remove(&mut self, id: StackId) {
        // Users learn it first: whoever sees that the path has gone finds nobody who thinks that the stack is there.
        let users: Vec<u64> =
            self.connections.iter().filter(|(_, c)| c.stack == id.0).map(|(token, _)| *token).collect();
        users.into_iter().for_each(|token| self.hang_up(token));
        self.retire(id);
        if let Some(served) = self.stacks.remove(&id.0) {
            self.smol.forget(id);
            if let Backing::Smol(key) = served.backing {
                self.smol.remove(key);
            }
        }
    }

    /// Gives up a stack's path, so that another may have it, and keeps the stack.
    pub fn retire(&mut self, id: StackId) {
        if let Some(key) = self.smol(id) {
            self.smol.set_folder(key, None);
        }
        if let Some((file, listener)) = self.stacks.get_mut(&id.0).and_then(|served| served.door.take()) {
            file.remove();
            let _ = self.epoll.delete(&listener);
        }
    }

    /// The kernel stack behind it.
    pub fn kernel(&mut self, id: StackId) -> Option<&mut KernelStack> {
        match self.stacks.get_mut(&id.0).map(|served| &mut served.backing) {
            Some(Backing::Kernel(stack)) => Some(stack),
            _ => None,
        }
    }

    /// The smol stack behind it.
    pub fn smol(&self, id: StackId) -> Option<StackKey> {
        match self.stacks.get(&id.0).map(|served| &served.backing) {
            Some(Backing::Smol(key)) => Some(*key),
            _ => None,
        }
    }

    /// A connection is over, and with it what it was allowed.
    fn hang_up(&mut self, token: u64) {
        self.connections.remove(&token);
        self.smol.close_door(token, &self.epoll);
    }

    /// Whether there are no stacks.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }

    /// How many views have joined a stack.
    pub fn users(&self, id: StackId) -> usize {
        self.connections.values().filter(|c| c.stack == id.0 && c.user.is_some()).count()
    }

    /// All stacks of this server.
    pub fn ids(&self) -> impl Iterator<Item = StackId> + '_ {
        self.stacks.keys().map(|id| StackId(*id))
    }

    /// Where they are served.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.stacks.values().map(|served| served.path.clone()).collect()
    }

    /// The stack of that path.
    pub fn find(&self, path: &Path) -> Option<StackId> {
        self.stacks.iter().find(|(_, s)| s.path == path && s.door.is_some()).map(|(id, _)| StackId(*id))
    }

    /// Takes connections and answers requests until there is nothing more to do; `notifications` gives
    /// the counters to show with a stack. Returns the paths of the stacks that were asked to go; they are gone.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn turn(
        &mut self,
        notifications: &dyn Fn(StackId) -> BTreeMap<String, u64>,
    ) -> nix::Result<Vec<PathBuf>> {
        let mut gone = Vec::new();
        // Who wakes us is a program's socket or a port, as a rule, and not somebody on a connection.
        let is_hurried = self.smol.turn();
        // Before anybody asks: programs know of a failure as soon as it has happened.
        self.restart_failed();
        if is_hurried && self.hurried < MOST_HURRIED {
            self.hurried += 1;
            return Ok(gone);
        }
        self.hurried = 0;
        let mut events = [EpollEvent::empty(); BATCH];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            let token = event.data();
            if self.smol.handle_event(token, &self.epoll) {
                self.restart_failed();
                continue;
            }
            if self.stacks.contains_key(&token) {
                self.accept(token);
                if let Some(stack) = self.kernel(StackId(token)) {
                    stack.turn();
                }
            } else if self.connections.contains_key(&token)
                && let Some(path) = self.converse(token, notifications)
            {
                gone.push(path);
            }
        }
        self.smol.turn();
        self.restart_failed();
        Ok(gone)
    }

    /// What there is to know about a stack.
    fn describe(
        &mut self,
        id: StackId,
        notifications: BTreeMap<String, u64>,
    ) -> Result<Description, Refusal> {
        let joined = self.connections.values().filter(|c| c.stack == id.0).filter_map(|c| c.user.clone());
        let mut users: Vec<User> = joined.collect();
        users.sort_by_key(|user| user.pid);
        let Some(served) = self.stacks.get_mut(&id.0) else {
            return Err(Refusal::new("cannot show the stack", "it is gone"));
        };
        users.splice(0..0, served.own.clone());
        Ok(Description {
            name: served.name.clone(),
            path: served.path.clone(),
            kind: served.backing.kind(),
            kept: served.kept,
            pid: std::process::id(),
            interfaces: match &mut served.backing {
                Backing::Kernel(stack) => stack.interfaces()?,
                Backing::Smol(key) => self.smol.interfaces(*key),
            },
            users,
            notifications,
            failure: match &served.backing {
                Backing::Smol(key) => self.smol.failure(*key),
                Backing::Kernel(_) => None,
            },
        })
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn watch(&self, fd: &impl AsFd, token: u64, flags: EpollFlags) -> Result<(), Refusal> {
        let event = EpollEvent::new(flags, token);
        self.epoll.add(fd, event).map_err(|e| Refusal::system("cannot watch a connection", e))
    }

    fn accept(&mut self, stack: u64) {
        while let Some((_, listener)) = self.stacks.get(&stack).and_then(|served| served.door.as_ref()) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if self.shed.make_room(&e, listener) => continue,
                Err(_) => return,
            };
            let Ok(line) = Line::server(stream) else { continue };
            if self.connections.len() >= MAX_CONNECTIONS {
                log::warn!("a connection was dropped: there are {MAX_CONNECTIONS} already");
                continue;
            }
            let token = self.token();
            if self.watch(&line, token, EpollFlags::EPOLLIN).is_ok() {
                self.connections.insert(token, Connection { line, stack, user: None });
            }
        }
    }

    fn converse(
        &mut self,
        token: u64,
        notifications: &dyn Fn(StackId) -> BTreeMap<String, u64>,
    ) -> Option<PathBuf> {
        loop {
            let connection = self.connections.get_mut(&token)?;
            let flushed = connection.line.flush();
            let (id, line) = (StackId(connection.stack), &mut connection.line);
            let sent = match line.receive::<Request>() {
                _ if flushed.is_err() || line.wants_write() => Err(LineError::Closed),
                Ok(Received::Message(request, _)) => {
                    let answer = self.answer(token, id, request, notifications);
                    let line = &mut self.connections.get_mut(&token)?.line;
                    match answer {
                        Answer::Value(value) => line.send(&Reply::Ok(value), &[]),
                        Answer::Descriptor(value, fd) => line.send(&Reply::Ok(value), &[fd.as_fd()]),
                        Answer::Refused(refusal) => line.send(&Reply::<()>::Error(refusal), &[]),
                        Answer::Gone => {
                            let _ = line.send(&Reply::Ok(()), &[]);
                            let path = self.stacks.get(&id.0).map(|served| served.path.clone());
                            self.remove(id);
                            return path;
                        }
                    }
                }
                Ok(Received::Pending) => return None,
                Ok(Received::Closed) => Err(LineError::Closed),
                Err(LineError::Malformed(why)) => {
                    let refusal = Refusal::new("cannot read the request", why);
                    line.send(&Reply::<()>::Error(refusal), &[])
                }
                Err(error) => Err(error),
            };
            if sent.is_err() {
                self.hang_up(token);
                return None;
            }
        }
    }

    fn answer(
        &mut self,
        token: u64,
        id: StackId,
        request: Request,
        notifications: &dyn Fn(StackId) -> BTreeMap<String, u64>,
    ) -> Answer {
        let users = self.users(id);
        let (Some(served), Some(connection)) = (self.stacks.get_mut(&id.0), self.connections.get_mut(&token))
        else {
            return Answer::Refused(Refusal::new("cannot answer", "the stack is gone"));
        };
        let owner = is_same_user(&connection.line);
        match request {
            Request::Hello => Answer::of(&Hello { version: VERSION, name: served.name.clone() }),
            Request::Socket { domain, kind, protocol } => {
                let peer = rustix::net::sockopt::socket_peercred(connection.line.stream());
                let (pid, uid) =
                    peer.map_or((0, u32::MAX), |peer| (peer.pid.as_raw_nonzero().get(), peer.uid.as_raw()));
                let caller = Caller { pid, uid, fd: -1, rights: owner };
                let spec = SocketSpec { domain, kind, protocol };
                make_socket(&mut served.backing, self.smol.host(), spec, &caller)
            }
            Request::File(file) => {
                let file = match &mut served.backing {
                    Backing::Kernel(stack) => files::of(stack, &file, owner),
                    Backing::Smol(key) => self.smol.file(*key, &file),
                };
                file.map_or_else(no_file, |fd| Answer::Descriptor(serde_json::Value::Null, fd))
            }
            Request::Join { view, .. } if !is_name(&view) => {
                Answer::Refused(Refusal::new("cannot join", "the view's name is none"))
            }
            // They are shown to others, on a terminal as a rule.
            Request::Join { rules, .. } if rules.iter().any(|rule| rule.chars().any(char::is_control)) => {
                Answer::Refused(Refusal::new("cannot join", "a rule of the view's is none"))
            }
            Request::Join { view, pid, rules } => self.join(token, id, User { view, pid, rules }),
            Request::UserNamespace if !owner => Answer::Refused(not_owner("give its user namespace")),
            Request::UserNamespace => match served.backing.user_namespace() {
                Ok(fd) => Answer::Descriptor(serde_json::Value::Null, fd),
                Err(refusal) => Answer::Refused(refusal),
            },
            Request::Show => match self.describe(id, notifications(id)) {
                Ok(description) => Answer::of(&description),
                Err(refusal) => Answer::Refused(refusal),
            },
            Request::Filter { change } => {
                filter::answer(&mut served.backing, &mut self.smol, owner, change.as_ref())
            }
            Request::Down { .. } if !owner => Answer::Refused(not_owner("end it")),
            Request::Down { .. } if !served.kept => Answer::Refused(
                Refusal::new(format!("cannot end stack {}", served.name), "it belongs to a running view")
                    .hint(format!("end its program (pid {})", served.own.as_ref().map_or(0, |own| own.pid))),
            ),
            Request::Down { force: false } if users > 0 => Answer::Refused(
                Refusal::new(format!("cannot end stack {}", served.name), format!("{users} view(s) use it"))
                    .hint("end their programs (`viewnet stack show` names them), or use --force"),
            ),
            Request::Down { .. } => {
                if let Backing::Kernel(stack) = &mut served.backing
                    && let Err(why) = stack.shut()
                {
                    log::warn!("stack {}: {why}", served.name);
                }
                Answer::Gone
            }
        }
    }

    /// A view uses a stack from now on: its namespace for its owner, a door for a smol stack.
    fn join(&mut self, token: u64, id: StackId, user: User) -> Answer {
        let (Some(served), Some(connection)) = (self.stacks.get(&id.0), self.connections.get_mut(&token))
        else {
            return Answer::Refused(Refusal::new("cannot join", "the stack is gone"));
        };
        let owner = is_same_user(&connection.line);
        connection.user = Some(user);
        let (name, kind) = (served.name.clone(), served.backing.kind());
        let fd = match &served.backing {
            Backing::Kernel(stack) => {
                stack.namespace().filter(|_| owner).and_then(|fd| fd.try_clone_to_owned().ok())
            }
            Backing::Smol(key) => {
                match self.smol.open_door(token, *key, &connection.line, owner, &self.epoll) {
                    Ok(fd) => Some(fd),
                    Err(e) => return Answer::Refused(Refusal::system("cannot join", e)),
                }
            }
        };
        let namespace = fd.is_some() && kind == Kind::Kernel;
        let joined = Joined { name, kind: kind.name().into(), namespace };
        match (serde_json::to_value(&joined), fd) {
            (Ok(value), Some(fd)) => Answer::Descriptor(value, fd),
            _ => Answer::of(&joined),
        }
    }
}

/// One socket for a guest that has no namespace and no door.
fn make_socket(backing: &mut Backing, host: Option<&mut Host>, spec: SocketSpec, caller: &Caller) -> Answer {
    if !spec.is_of_a_stack() {
        return no_socket(Errno::EAFNOSUPPORT);
    }
    // Raw and packet sockets would show a guest its host's traffic.
    if !caller.rights && spec.needs_rights() {
        return no_socket(Errno::EPERM);
    }
    let made = match backing {
        Backing::Kernel(stack) => stack.socket(spec),
        // Whoever asks has a library that answers its calls.
        Backing::Smol(key) => host.map_or(Err(Errno::ENETDOWN), |host| host.socket(*key, spec, caller, true)),
    };
    match made {
        Ok(fd) => Answer::Descriptor(serde_json::Value::Null, fd),
        Err(e) => no_socket(e),
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ids: Vec<StackId> = self.ids().collect();
        ids.into_iter().for_each(|id| self.retire(id));
    }
}

enum Answer {
    Value(serde_json::Value),
    Descriptor(serde_json::Value, std::os::fd::OwnedFd),
    Refused(Refusal),
    Gone,
}

impl Answer {
    fn of(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::Value(value),
            Err(why) => Self::Refused(Refusal::new("cannot answer", why)),
        }
    }
}

/// A name for a view, a stack or a switch that can be a file's: 1 to 32 letters, digits and `._-`.
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=32).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.')
}

fn no_socket(errno: Errno) -> Answer {
    Answer::Refused(Refusal::new("cannot make a socket", errno.desc()).errno(errno as i32))
}

fn no_file(errno: Errno) -> Answer {
    Answer::Refused(Refusal::new("cannot open the file", errno.desc()).errno(errno as i32))
}

fn not_owner(what: &str) -> Refusal {
    Refusal::new(format!("cannot {what}"), "the stack belongs to another user").errno(libc::EPERM)
}
