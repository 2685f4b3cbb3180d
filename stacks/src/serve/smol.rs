//! The smol stacks of a server: their host, and the doors through which other processes' views use them.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use msocket_proto::line::{Line, Refusal, companion};
use msocket_proto::proto::{File, FilterChange};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustix::net::{SocketFlags, accept_with};

use super::{Backing, Server, Serving, StackId};
use crate::config::StackConfig;
use crate::filter::Listing;
use crate::smol::call::{Answered, SocketHost, Ticket};
use crate::smol::host::{Host, StackKey, now};
use crate::smol::relay::{self, Door};
use crate::stack::InterfaceInfo;

/// The host's number in the server's epoll set, and that of the listener for programs; doors have the numbers above
/// [`DOORS`].
const HOST: u64 = 1;
const PROGRAMS: u64 = 2;
/// Last number that is neither a connection's nor a door's.
pub(super) const LAST: u64 = PROGRAMS;
const DOORS: u64 = 1 << 48;
/// Most doors for programs: each is a thread that is in a call, or the one that a process keeps for its next.
const MAX_PROGRAMS: usize = 4096;
/// Most of them for other users' programs, which could keep all for nothing.
const MAX_STRANGERS: usize = 256;
/// Programs that wait to be let in.
const BACKLOG: i32 = 128;
/// How often a stack is made anew within [`RESTART_WINDOW`]: one that fails at once, again and again, stays down.
const MAX_RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How to make a stack anew when it has failed.
#[derive(Debug)]
struct Restart {
    config: StackConfig,
    switches: PathBuf,
    /// When it was done.
    times: VecDeque<Instant>,
}

/// A server's smol stacks.
#[derive(Debug, Default)]
pub(super) struct Smol {
    host: Option<Host>,
    /// By their numbers.
    doors: HashMap<u32, Door>,
    /// Doors of connections, by their tokens.
    opened: HashMap<u64, u32>,
    /// Where programs with sockets of ours knock; none: there is no host, or no name for it.
    programs: Option<OwnedFd>,
    /// Nobody is let in: too many are, or descriptors have run out. Ends when a door closes.
    full: bool,
    /// Doors for programs, and whether each is another user's.
    within: HashMap<u32, bool>,
    last_door: u32,
    buffer: Vec<u8>,
    /// Answers for the process that has the server.
    done: VecDeque<(Ticket, Answered)>,
    /// Stacks that do not stay down, by their ids.
    restarts: HashMap<StackId, Restart>,
    /// Why some stay down all the same.
    given_up: HashMap<StackKey, String>,
}

impl Smol {
    /// An event of one of ours. False: it is none.
    pub(super) fn handle_event(&mut self, token: u64, epoll: &Epoll) -> bool {
        match token {
            HOST => return true,
            PROGRAMS => {
                self.let_in(epoll);
                return true;
            }
            ..=DOORS => return false,
            _ => {}
        }
        let (Some(host), number) = (&mut self.host, (token - DOORS) as u32) else { return true };
        if let Some(door) = self.doors.get_mut(&number)
            && !door.turn(now(), host, &mut self.buffer)
        {
            self.shut_door(number, epoll);
        }
        true
    }

    /// Programs that knock get doors.
    fn let_in(&mut self, epoll: &Epoll) {
        while let Some(listener) = &self.programs {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let strangers = self.within.values().filter(|stranger| **stranger).count();
            let came = match accept_with(listener, flags) {
                _ if self.within.len() >= MAX_PROGRAMS => Err(rustix::io::Errno::MFILE),
                came => came,
            };
            match came {
                Ok(ours) => {
                    let Ok(peer) = rustix::net::sockopt::socket_peercred(&ours) else { continue };
                    let stranger = peer.uid != rustix::process::geteuid();
                    if stranger && strangers >= MAX_STRANGERS {
                        continue;
                    }
                    relay::widen(&ours);
                    let number = self.next_number();
                    let door = Door::new(ours, None, number, peer.uid.as_raw(), !stranger);
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, DOORS + u64::from(number));
                    if epoll.add(door.as_fd(), event).is_ok() {
                        self.doors.insert(number, door);
                        self.within.insert(number, stranger);
                    }
                }
                Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                    // Who knocks waits: to be woken again and again would help nobody.
                    self.full = epoll.delete(listener).is_ok();
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn next_number(&mut self) -> u32 {
        self.last_door = (self.last_door % (u32::MAX >> 1)) + 1;
        self.last_door
    }

    fn shut_door(&mut self, number: u32, epoll: &Epoll) {
        self.doors.remove(&number);
        self.within.remove(&number);
        if let Some(host) = &mut self.host {
            host.cancel_all(number);
        }
        if self.full
            && let Some(listener) = &self.programs
        {
            self.full = epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, PROGRAMS)).is_err();
        }
    }

    /// Does what there is to do, and passes answers on. True: something had happened.
    pub(super) fn turn(&mut self) -> bool {
        let Some(host) = &mut self.host else { return false };
        let busy = host.turn();
        self.pass_on();
        busy.unwrap_or_else(|why| {
            log::error!("the host of smol stacks: {}", why.desc());
            false
        })
    }

    /// Passes on the answers that there are.
    fn pass_on(&mut self) {
        let Some(host) = &mut self.host else { return };
        while let Some((ticket, answered)) = host.poll_done() {
            let number = Door::number_of(ticket);
            if number == 0 {
                self.done.push_back((ticket, answered));
                continue;
            }
            if self.doors.get(&number).is_some_and(|door| !door.pass(ticket, answered)) {
                self.doors.remove(&number);
                self.within.remove(&number);
                host.cancel_all(number);
            }
        }
    }

    /// A door for the connection with this token; the other side's end comes back.
    pub(super) fn open_door(
        &mut self,
        token: u64,
        key: StackKey,
        line: &Line,
        owner: bool,
        epoll: &Epoll,
    ) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = relay::pair()?;
        let uid =
            rustix::net::sockopt::socket_peercred(line.stream()).map_or(u32::MAX, |peer| peer.uid.as_raw());
        let number = self.next_number();
        let door = Door::new(ours, Some(key), number, uid, owner);
        epoll.add(door.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, DOORS + u64::from(number)))?;
        self.doors.insert(number, door);
        if let Some(before) = self.opened.insert(token, number) {
            self.shut_door(before, epoll);
        }
        Ok(theirs)
    }

    pub(super) fn close_door(&mut self, token: u64, epoll: &Epoll) {
        if let Some(number) = self.opened.remove(&token) {
            self.shut_door(number, epoll);
        }
    }

    pub(super) fn host(&mut self) -> Option<&mut Host> {
        self.host.as_mut()
    }

    /// A file about a stack's network.
    pub(super) fn file(&mut self, key: StackKey, file: &File) -> Result<OwnedFd, Errno> {
        self.host.as_mut().ok_or(Errno::ENETDOWN)?.file(key, file)
    }

    /// Where a stack may have a folder of files.
    pub(super) fn set_folder(&mut self, key: StackKey, place: Option<PathBuf>) {
        if let Some(host) = &mut self.host {
            host.set_folder(key, place);
        }
    }

    pub(super) fn remove(&mut self, key: StackKey) {
        self.given_up.remove(&key);
        if let Some(host) = &mut self.host {
            host.remove(key);
        }
    }

    /// The stack goes for good.
    pub(super) fn forget(&mut self, id: StackId) {
        self.restarts.remove(&id);
    }

    /// Makes a failed stack anew, if that was asked for; its new key.
    fn restart(&mut self, id: StackId, name: &str, old: StackKey) -> Option<StackKey> {
        let (restart, host) = (self.restarts.get_mut(&id)?, self.host.as_mut()?);
        let now = now();
        restart.times.retain(|at| now.saturating_duration_since(*at) < RESTART_WINDOW);
        if restart.times.len() >= MAX_RESTARTS {
            let why = format!("it failed {} times within a minute", MAX_RESTARTS + 1);
            self.given_up.insert(old, why);
            return None;
        }
        restart.times.push_back(now);
        match host.create(name, &restart.config, &restart.switches) {
            Err(refusal) => {
                self.given_up.insert(old, format!("it cannot be made anew: {refusal}"));
                None
            }
            Ok(new) => {
                host.remove(old);
                self.doors.values_mut().for_each(|door| door.follow(old, new));
                Some(new)
            }
        }
    }

    pub(super) fn interfaces(&self, key: StackKey) -> Vec<InterfaceInfo> {
        self.host.as_ref().map(|host| host.interfaces(key)).unwrap_or_default()
    }

    pub(super) fn filter(
        &mut self,
        key: StackKey,
        change: Option<&FilterChange>,
    ) -> Result<Listing, Refusal> {
        match &mut self.host {
            Some(host) => host.filter(key, change),
            None => Err(Refusal::new("cannot reach the filter", "the stack is gone")),
        }
    }

    pub(super) fn failure(&self, key: StackKey) -> Option<String> {
        let why = self.host.as_ref().and_then(|host| host.failure(key))?;
        Some(match self.given_up.get(&key) {
            None => why.to_owned(),
            Some(more) => format!("{why}; {more}"),
        })
    }
}

impl Server {
    /// The host of the server's smol stacks, if it has any.
    pub fn host(&mut self) -> Option<&mut Host> {
        self.smol.host.as_mut()
    }

    /// The same, made on first use; it makes and removes files in `folder`.
    fn host_in(&mut self, folder: &Path) -> Result<&mut Host, Errno> {
        if self.smol.host.is_none() {
            let host = Host::new(folder)?;
            self.epoll.add(host.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, HOST))?;
            let programs = relay::listen(host.secret(), BACKLOG)?;
            self.epoll.add(&programs, EpollEvent::new(EpollFlags::EPOLLIN, PROGRAMS))?;
            self.smol.programs = Some(programs);
            self.smol.host = Some(host);
        }
        self.smol.host.as_mut().ok_or(Errno::ENETDOWN)
    }

    /// Makes a smol stack and serves it on its path; `switches` is where switches have their sockets.
    ///
    /// # Errors
    /// What is wrong with the configuration or the path.
    pub fn add_smol(
        &mut self,
        serving: Serving,
        config: &StackConfig,
        switches: &Path,
    ) -> Result<StackId, Refusal> {
        let what = format!("cannot make stack {}", serving.name);
        let folder = serving.path.parent().unwrap_or_else(|| Path::new("/"));
        let host = self.host_in(folder).map_err(|e| Refusal::system(what, e))?;
        let key = host.create(&serving.name, config, switches)?;
        let place = companion(&serving.path);
        let id = self.add(serving, Backing::Smol(key)).inspect_err(|_| self.smol.remove(key))?;
        self.smol.set_folder(key, Some(place));
        Ok(id)
    }

    /// When the stack fails, it is made anew, as `config` says.
    pub fn restart_on_failure(&mut self, id: StackId, config: StackConfig, switches: PathBuf) {
        self.smol.restarts.insert(id, Restart { config, switches, times: VecDeque::new() });
    }

    /// Makes anew what has failed.
    pub(super) fn restart_failed(&mut self) {
        while let Some(old) = self.smol.host.as_mut().and_then(Host::poll_failed) {
            let is_it = |served: &super::Served| matches!(served.backing, Backing::Smol(key) if key == old);
            let Some((id, served)) = self.stacks.iter_mut().find(|(_, served)| is_it(served)) else {
                continue;
            };
            if let Some(new) = self.smol.restart(StackId(*id), &served.name, old) {
                log::warn!("stack {} was made anew", served.name);
                self.smol.set_folder(new, served.door.is_some().then(|| companion(&served.path)));
                served.backing = Backing::Smol(new);
            }
        }
    }

    /// The smol stack that the socket with this inode is on.
    pub fn smol_of(&self, inode: u64) -> Option<StackId> {
        let key = self.smol.host.as_ref()?.stack_of(inode)?;
        let is_it = |served: &super::Served| matches!(served.backing, Backing::Smol(known) if known == key);
        self.stacks.iter().find(|(_, served)| is_it(served)).map(|(id, _)| StackId(*id))
    }

    /// When to call [`Server::turn`], if nothing happens first.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.smol.host.as_ref().and_then(Host::poll_timeout)
    }

    /// The next parked call of this process's own that has its answer.
    pub fn poll_done(&mut self) -> Option<(Ticket, Answered)> {
        self.smol.pass_on();
        self.smol.done.pop_front()
    }
}
