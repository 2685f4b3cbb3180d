//! Stacks inside this process.
//!
//! # Theory of operation
//! A thread runs the stack as the keeper of `viewnet stack up` would, and serves its path in the user's runtime
//! folder: what this process, its children and others of the same user do on it goes the same way as everywhere
//! else, [`crate::client`]. The thread takes no signals. It ends, and the path goes, when the [`Local`] is dropped;
//! if the process is killed, the file stays until the next `viewnet stack ls`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use msocket_proto::line::Refusal;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::event::{EventfdFlags, eventfd};
use stacks::config::StackConfig;
use stacks::serve::{Server, Serving, timeout};

use crate::places;

/// Mode of the path: this user's own.
const PRIVATE: u32 = 0o600;
const SERVER: u64 = 0;
const END: u64 = 1;

/// A stack of this process.
#[derive(Debug)]
pub(crate) struct Local {
    path: PathBuf,
    end: OwnedFd,
    thread: Option<JoinHandle<()>>,
    pid: u32,
}

impl Local {
    /// Makes a stack.
    pub(crate) fn open(config: &StackConfig) -> Result<Self, Refusal> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let cannot = |e: std::io::Error| Refusal::system("cannot make a stack in this process", e);
        let mut config = config.clone().checked().map_err(|e| e.refusal("cannot use the configuration"))?;
        let folder = places::own_stacks().map_err(cannot)?;
        let name = format!("{}{}", places::own_prefix(), NUMBER.fetch_add(1, Ordering::Relaxed));
        stacks::autoconf::settle(&mut config, &name, &places::switches())?;
        let path = folder.join(&name);
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
        let ending = end.try_clone().map_err(cannot)?;
        let (made, is_made) = channel();
        // What a thread inherits of its maker it has from the beginning.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(|e| cannot(e.into()))?;
        let serving = Serving { name, path: path.clone(), mode: PRIVATE, kept: false, own: None };
        let thread = std::thread::Builder::new().name("msocket".into()).spawn(move || {
            run(serving, &config, &places::switches(), &ending, &made);
        });
        let _ = before.thread_set_mask();
        let thread = thread.map_err(cannot)?;
        match is_made.recv() {
            Ok(Ok(())) => Ok(Self { path, end, thread: Some(thread), pid: std::process::id() }),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::new("cannot make a stack in this process", "its thread failed")),
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // The thread is its maker's.
        if self.pid == std::process::id() {
            let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
            self.thread.take().map(JoinHandle::join);
        }
    }
}

/// The thread.
fn run(
    serving: Serving,
    config: &StackConfig,
    switches: &Path,
    end: &OwnedFd,
    made: &Sender<Result<(), Refusal>>,
) {
    let set_up = || {
        let internal = |e: nix::errno::Errno| Refusal::system("cannot make a stack in this process", e);
        let mut server = Server::new().map_err(internal)?;
        server.add_smol(serving, config, switches)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        epoll.add(server.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, SERVER)).map_err(internal)?;
        epoll.add(end, EpollEvent::new(EpollFlags::EPOLLIN, END)).map_err(internal)?;
        Ok((server, epoll))
    };
    let (mut server, epoll) = match set_up() {
        Ok(set_up) => set_up,
        Err(refusal) => return drop(made.send(Err(refusal))),
    };
    let _ = made.send(Ok(()));
    loop {
        let wait = server.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
        let mut events = [EpollEvent::empty(); 4];
        let count = epoll.wait(&mut events, timeout(wait)).unwrap_or(0);
        if events[..count].iter().any(|event| event.data() == END) {
            return;
        }
        if let Err(why) = server.turn(&|_| BTreeMap::new()) {
            return log::error!("a stack in this process: {}", why.desc());
        }
    }
}
