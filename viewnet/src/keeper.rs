//! The keeper: the one process per user that hosts the stacks of `viewnet stack up`.
//!
//! # Theory of operation
//! A kept kernel stack is a namespace descriptor and a socket file, so thousands of them fit into one
//! process. The keeper starts with the first of them and ends with the last, or if nothing comes within
//! [`IDLE`]. Smol stacks have a keeper of their own, as a process in a user namespace could neither see the
//! programs of its guests nor meet their sockets. The keeper of kernel stacks is a maker like a supervisor and, like one, has an eye, which takes its socket files away
//! should it be killed. Its own socket, `keeper` or `keeper-smol` in the runtime folder, takes [`Request`]s from its user.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use msocket_proto::line::{CallError, Line, LineError, Refusal, Reply, SocketFile, listen_locked, unusable};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use stacks::config::StackConfig;
use stacks::kernel::{KernelStack, SetUpError};
use stacks::serve::{Backing, Lines, Server, Serving, converse, timeout};
use stacks::stack::Kind;

use crate::background::{self, start_eye};
use crate::commands::KEEPER;
use crate::commands::stack::kept_failure;
use crate::exit::{Exit, Failure};
use crate::eye::Eye;
use crate::launch;
use crate::maker::{become_maker, take_turn};
use crate::runtime::Runtime;

/// How long a keeper without stacks waits for the first one.
const IDLE: Duration = Duration::from_secs(2);
/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// How often `stack up` tries again when it meets a keeper that is just ending.
const ATTEMPTS: usize = 5;

/// What failed, if it cannot be started.
const START: &str = "cannot start the keeper of stacks";

const LISTENER: u64 = 1;
const SERVER: u64 = 2;
const EYE: u64 = 3;
const CONNECTIONS: u64 = 16;

/// A stack to be kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Up {
    /// Its name.
    pub(crate) name: String,
    /// Where its socket goes.
    pub(crate) path: PathBuf,
    /// Mode of that file.
    pub(crate) mode: u32,
    /// What it looks like.
    pub(crate) config: StackConfig,
    /// Kernel or smol.
    pub(crate) kind: Kind,
    /// What to do when it fails.
    pub(crate) restart: Restart,
}

/// What to do with a stack that has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restart {
    /// Nothing: `stack show` says why.
    #[default]
    Never,
    /// Make it anew, but not again and again.
    OnFailure,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    /// Make a stack. Answer: its path, alone in a list.
    Up(Box<Up>),
    /// Which stacks are there? Answer: their paths.
    List,
}

/// Makes a kept stack, starting the keeper if there is none. With `any`, of whatever kind this machine lets us
/// make: one in a library in place of a kernel stack.
pub(crate) fn up(runtime: &Runtime, up: &Up, any: bool) -> Result<(), Failure> {
    let Err(refusal) = ask_for(runtime, up)? else { return Ok(()) };
    if any && launch::forbids_namespaces(&refusal) {
        let smol = Up { kind: Kind::Smol, ..up.clone() };
        return ask_for(runtime, &smol)?.map_err(kept_failure);
    }
    Err(kept_failure(refusal))
}

/// Asks the keeper for a stack, or says why it cannot be had.
fn ask_for(runtime: &Runtime, up: &Up) -> Result<Result<(), Refusal>, Failure> {
    let mut last = LineError::Closed;
    for _ in 0..ATTEMPTS {
        let Ok(mut line) = Line::connect(&runtime.keeper(up.kind)) else {
            match start(runtime, up.kind)? {
                Ok(()) => continue,
                Err(refusal) => return Ok(Err(refusal)),
            }
        };
        match line.call::<_, Vec<PathBuf>>(&Request::Up(Box::new(up.clone())), &[]) {
            Ok(_) => return Ok(Ok(())),
            Err(CallError::Refused(refusal)) => return Ok(Err(refusal)),
            Err(CallError::Line(error)) => last = error,
        }
    }
    Err(Failure::new("cannot reach the keeper of stacks", last).hint("try again, or run `viewnet doctor`"))
}

/// The paths of all kept stacks.
pub(crate) fn kept(runtime: &Runtime) -> Vec<PathBuf> {
    let ask = |mut line: Line| Some(line.call::<_, Vec<PathBuf>>(&Request::List, &[]).ok()?.0);
    let of = |kind| Line::connect(&runtime.keeper(kind)).ok().and_then(ask).unwrap_or_default();
    [of(Kind::Kernel), of(Kind::Smol)].concat()
}

/// Starts a keeper and waits until it answers or says why not.
fn start(runtime: &Runtime, kind: Kind) -> Result<Result<(), Refusal>, Failure> {
    if crate::nested::supervisor().is_some() {
        return Err(Failure::new(START, "this is inside a view, which it would not outlive")
            .hint("make the first stack outside of it"));
    }
    let hint = format!("look at {}", runtime.folder().display());
    let mut command = background::command("viewnet-keeper", &[&KEEPER, &kind.name()]);
    background::launch(START, &mut command, &(), hint)
}

/// `viewnet serve-stacks`: what [`start`] starts.
pub(crate) fn run(kind: &str) -> Result<Exit, Failure> {
    let kind = if kind == Kind::Smol.name() { Kind::Smol } else { Kind::Kernel };
    let set_up = |()| {
        let eye = start_eye().map_err(|e| Failure::io(START, &e.into()))?;
        Ok((Keeper::set_up(Runtime::locate()?, eye, kind)?, ()))
    };
    background::serve(START, c"viewnet-keeper", set_up, |mut keeper| keeper.run())
}

struct Keeper {
    runtime: Runtime,
    epoll: Epoll,
    lines: Lines,
    server: Server,
    eye: Eye,
    /// Our own socket's file.
    file: SocketFile,
}

impl Keeper {
    fn set_up(runtime: Runtime, mut eye: Eye, kind: Kind) -> Result<Self, Refusal> {
        let internal = |e: Errno| Refusal::system(START, e);
        let turn = take_turn(&runtime).map_err(internal)?;
        let path = runtime.keeper(kind);
        // A keeper that was quicker is as good.
        let listener = listen_locked(&path, 0o600).map_err(|e| unusable(START, &path, &e))?;
        let file = SocketFile::at(&path).map_err(|e| unusable(START, &path, &e))?;
        eye.keep(&path).map_err(internal)?;
        if kind == Kind::Kernel {
            become_maker(&runtime).map_err(|(step, errno)| {
                file.remove_locked();
                step.refusal(errno)
            })?;
        }
        drop(turn);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let server = Server::new().map_err(internal)?;
        let watch = |fd: std::os::fd::BorrowedFd<'_>, token| {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(internal)
        };
        watch(listener.as_fd(), LISTENER)?;
        watch(server.as_fd(), SERVER)?;
        watch(eye.as_fd(), EYE)?;
        Ok(Self {
            runtime,
            epoll,
            lines: Lines::new(listener, CONNECTIONS, MAX_CONNECTIONS),
            server,
            eye,
            file,
        })
    }

    fn run(&mut self) -> nix::Result<()> {
        loop {
            let idle = self.server.is_empty() && self.lines.is_empty();
            let wait = if idle { Some(IDLE) } else { self.until_turn() };
            let mut events = [EpollEvent::empty(); 16];
            let count = match self.epoll.wait(&mut events, timeout(wait)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if count == 0 && idle {
                return Ok(());
            }
            if self.until_turn() == Some(Duration::ZERO) {
                self.turn()?;
            }
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.lines.accept(&self.epoll),
                    SERVER => {
                        self.turn()?;
                        if self.server.is_empty() {
                            return Ok(());
                        }
                    }
                    EYE => return Err(Errno::EPIPE),
                    token => self.converse(token),
                }
            }
        }
    }

    /// How long the server needs no turn, if that is known.
    fn until_turn(&self) -> Option<Duration> {
        Some(self.server.poll_timeout()?.saturating_duration_since(std::time::Instant::now()))
    }

    fn turn(&mut self) -> nix::Result<()> {
        for path in self.server.turn(&|_| BTreeMap::new())? {
            let _ = self.eye.forget(&path);
        }
        Ok(())
    }

    fn converse(&mut self, token: u64) {
        let Some(mut line) = self.lines.take(token) else { return };
        let open = converse(&mut line, |line, request, _| match request {
            Request::Up(up) => match self.up(*up) {
                Ok(path) => line.send(&Reply::Ok(vec![path]), &[]),
                Err(error) => line.send(&Reply::<()>::Error(error.into()), &[]),
            },
            Request::List => line.send(&Reply::Ok(self.server.paths()), &[]),
        });
        if open {
            self.lines.put_back(token, line);
        }
    }

    fn up(&mut self, up: Up) -> Result<PathBuf, SetUpError> {
        let Up { name, path, mode, config, kind, restart } = up;
        let config = config.checked().map_err(|e| e.refusal("cannot use the configuration"))?;
        if self.server.find(&path).is_some() {
            return Err(Refusal::new(format!("cannot make stack {name}"), "it is there already")
                .hint(format!("`viewnet stack show {name}` shows it, `viewnet stack down {name}` ends it"))
                .into());
        }
        let switches = self.runtime.switches();
        if kind == Kind::Smol {
            let serving = Serving { name, path: path.clone(), mode, kept: true, own: None };
            let id = self.server.add_smol(serving, &config, &switches)?;
            if restart == Restart::OnFailure {
                self.server.restart_on_failure(id, config, switches);
            }
        } else {
            let stack = Backing::Kernel(KernelStack::create(&name, &config, &switches)?);
            self.server.add(Serving { name, path: path.clone(), mode, kept: true, own: None }, stack)?;
        }
        self.eye.keep(&path).map_err(|e| Refusal::system("cannot reach the eye", e))?;
        Ok(path)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.file.remove();
    }
}
