//! The console's socket, and who is at it.
//!
//! # Theory of operation
//! Whoever can connect may do everything, so the file is for the switch's user alone. Connections do not block. A
//! session is served as long as its answers are read: one command at a time, each answer written before the next
//! command is looked at, so that what it can make us keep is one answer. One whose answers nobody reads for
//! [`PATIENCE`] is dropped.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use msocket_proto::line::{SocketFile, listen};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::unistd::{Group, User};

use super::plugs::Plugs;
use super::{Source, interest};
use crate::console::{
    self, After, Categories, Context, Debugger, END, Endpoint, Identity, MAX_SCRIPT, Memory, PROMPT, Ports,
    Session, Who,
};
use crate::events::Event;
use crate::port::PortId;
use crate::ports::Kind;
use crate::switch::Switch;

/// Sessions at most: some persons and their scripts. An answer can be some megabytes long.
const MAX_SESSIONS: usize = 16;
/// Commands done in a row before others have their turn.
const COMMANDS: usize = 16;
/// Bytes of unasked lines that wait to be read at most.
const MAX_UNREAD: usize = 64 << 10;
/// How long an answer may wait to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// The mode of the socket's file.
pub(super) const MODE: u32 = 0o600;

/// The console, if there is one, and its sessions.
pub(super) struct Consoles {
    bound: Option<Bound>,
    table: Vec<Option<Connection>>,
    memory: Memory,
    /// While somebody is told what happens.
    debugger: Option<Debugger>,
    pub(super) identity: Identity,
    /// Somebody said `shutdown`.
    pub(super) told_to_end: bool,
}

struct Bound {
    listener: UnixListener,
    file: SocketFile,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.file.remove();
    }
}

struct Connection {
    stream: UnixStream,
    session: Session,
    output: Vec<u8>,
    sent: usize,
    /// Since when nothing of the output was read.
    waits: Option<Instant>,
    /// What it is told unasked.
    categories: Categories,
    /// The end comes when all is sent.
    ending: bool,
    /// There may be commands that were not done yet.
    runnable: bool,
}

/// What the console needs of the switch's shell.
struct Door<'a> {
    plugs: &'a mut Plugs,
    epoll: &'a Epoll,
}

impl Ports for Door<'_> {
    fn endpoints(&self, port: PortId) -> Vec<Endpoint> {
        let Some(plug) = self.plugs.plug(port) else { return Vec::new() };
        let module = match plug.kind() {
            Kind::Vde => "unix prog",
            Kind::Tap => "tuntap",
            other => other.name(),
        };
        let says = |text: &str| match text {
            "" => "no endpoint description".to_owned(),
            text => text.to_owned(),
        };
        let mut all: Vec<_> = plug.endpoints().collect();
        all.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
        all.into_iter().map(|(number, peer)| Endpoint { number, module, description: says(peer) }).collect()
    }

    fn user(&self, port: PortId) -> Option<u32> {
        self.plugs.plug(port)?.user
    }

    fn close(&mut self, switch: &mut Switch, port: PortId, endpoint: u32) -> bool {
        self.plugs.close_endpoint(port, endpoint, switch, self.epoll)
    }

    fn tree_changed(&mut self, now: Instant, switch: &mut Switch) {
        self.plugs.look_at_all(now, switch);
    }

    // Who sits here asked for it, and waits as long as the system takes.
    fn find(&self, who: Who<&str>) -> Option<u32> {
        match who {
            Who::User(name) => Some(User::from_name(name).ok()??.uid.as_raw()),
            Who::Group(name) => Some(Group::from_name(name).ok()??.gid.as_raw()),
        }
    }

    fn name(&self, who: Who<u32>) -> Option<String> {
        match who {
            Who::User(id) => Some(User::from_uid(id.into()).ok()??.name),
            Who::Group(id) => Some(Group::from_gid(id.into()).ok()??.name),
        }
    }
}

impl Consoles {
    pub(super) fn new(identity: Identity) -> Self {
        let table = Vec::new();
        Self { bound: None, table, memory: Memory::default(), debugger: None, identity, told_to_end: false }
    }

    /// Serves the console at `path`, or nowhere; sessions go on.
    pub(super) fn serve_at(&mut self, path: &Path, epoll: &Epoll) -> io::Result<()> {
        if self.bound.is_some() && self.identity.mgmt == path {
            return Ok(());
        }
        let mut new = None;
        if !path.as_os_str().is_empty() {
            let listener = listen(path, MODE)?;
            let bound = Bound { listener, file: SocketFile::at(path)? };
            epoll.add(&bound.listener, interest(EpollFlags::EPOLLIN, Source::Console))?;
            new = Some(bound);
        }
        if let Some(old) = std::mem::replace(&mut self.bound, new) {
            let _ = epoll.delete(&old.listener);
        }
        self.identity.mgmt = path.to_owned();
        Ok(())
    }

    /// How many sit at it.
    pub(super) fn count(&self) -> usize {
        self.table.iter().flatten().count()
    }

    /// Takes in new sessions.
    pub(super) fn accept(&mut self, epoll: &Epoll) {
        let Some(bound) = &self.bound else { return };
        while let Ok((stream, _)) = bound.listener.accept() {
            let index = self.table.iter().position(Option::is_none).unwrap_or(self.table.len());
            let event = interest(EpollFlags::EPOLLIN, Source::Session(index as u32));
            // One too many sees the end at once.
            if index >= MAX_SESSIONS
                || stream.set_nonblocking(true).is_err()
                || epoll.add(&stream, event).is_err()
            {
                continue;
            }
            let mut greeting = String::new();
            let session = Session::begin(&self.identity, &mut greeting);
            let output = greeting.into_bytes();
            let connection = Connection {
                stream,
                session,
                output,
                sent: 0,
                waits: None,
                categories: Categories::default(),
                ending: false,
                runnable: true,
            };
            match self.table.get_mut(index) {
                Some(place) => *place = Some(connection),
                None => self.table.push(Some(connection)),
            }
        }
    }

    /// A session can be read or written.
    pub(super) fn handle_ready(&mut self, index: u32) {
        if let Some(connection) = self.table.get_mut(index as usize).and_then(Option::as_mut) {
            connection.runnable = true;
        }
    }

    /// Does what was typed, and drops those that do not read.
    pub(super) fn serve(&mut self, now: Instant, switch: &mut Switch, plugs: &mut Plugs, epoll: &Epoll) {
        let Self { table, memory, identity, told_to_end, .. } = self;
        for (index, place) in table.iter_mut().enumerate() {
            let Some(connection) = place.as_mut() else { continue };
            let mut door = Door { plugs: &mut *plugs, epoll };
            let mut categories = connection.categories;
            let mut context = Context {
                now,
                switch: &mut *switch,
                ports: &mut door,
                memory: &mut *memory,
                categories: &mut categories,
                identity,
            };
            let late = connection.waits.is_some_and(|since| now >= since + PATIENCE);
            let is_over = late
                || connection.runnable && {
                    connection.runnable = false;
                    connection.turn(&mut context, told_to_end).is_err()
                };
            if is_over {
                let _ = epoll.delete(&connection.stream);
                *place = None;
                continue;
            }
            connection.categories = categories;
            connection.watch(now, epoll, Source::Session(index as u32));
        }
        let is_told = table.iter().flatten().any(|connection| !connection.categories.is_empty());
        if is_told != self.debugger.is_some() {
            self.debugger = is_told.then(|| Debugger::new(switch));
            // Who is told no more, and nobody else, is noticed when events are published.
            if is_told {
                switch.events_mut().listen(true);
            }
        }
    }

    /// Does somebody want to be told what happens?
    pub(super) fn is_told(&self) -> bool {
        self.debugger.is_some()
    }

    /// The round is over: tells what happened in it.
    pub(super) fn publish(&mut self, now: Instant, events: &[Event], switch: &Switch, epoll: &Epoll) {
        let Self { table, debugger: Some(debugger), .. } = self else { return };
        let told: Vec<_> = events.iter().flat_map(|event| debugger.tell(event, switch)).flatten().collect();
        for (index, place) in table.iter_mut().enumerate() {
            let Some(connection) = place.as_mut().filter(|c| !c.categories.is_empty() && !c.ending) else {
                continue;
            };
            for line in told.iter().filter(|line| connection.categories.contain(line)) {
                // Who does not read misses some.
                if connection.output.len() + line.text.len() <= MAX_UNREAD {
                    connection.output.extend_from_slice(line.text.as_bytes());
                }
            }
            // A session that is gone is noticed when it is read.
            let _ = connection.flush();
            connection.watch(now, epoll, Source::Session(index as u32));
        }
    }

    /// When a session that does not read has to go, or at once if one has more to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = |connection: &Connection| match connection.waits {
            Some(since) => Some(since + PATIENCE),
            None => connection.runnable.then_some(self.identity.started),
        };
        self.table.iter().flatten().filter_map(due).min()
    }
}

impl Connection {
    /// Takes what was typed, does it, and sends the answers, as far as a turn goes.
    ///
    /// # Errors
    /// It is over.
    fn turn(&mut self, context: &mut Context<'_>, told_to_end: &mut bool) -> io::Result<()> {
        let closed = self.read()?;
        for _ in 0..COMMANDS {
            if !self.flush()? {
                return Ok(());
            }
            if self.ending {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let Some(line) = self.session.next() else {
                return if closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) };
            };
            let mut out = String::new();
            match console::run(context, &line, &mut out) {
                After::Prompt => out.push_str(PROMPT),
                After::Load(path) => {
                    *told_to_end |= load(context, &path, &mut out);
                    out.push_str(PROMPT);
                }
                end => {
                    *told_to_end |= end == After::Shutdown;
                    out.push_str(END);
                    self.ending = true;
                }
            }
            self.output = out.into_bytes();
            self.sent = 0;
        }
        self.runnable = true;
        let _ = self.flush()?;
        Ok(())
    }

    /// Reads what there is room for; true at the end of the input.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4096];
        loop {
            let room = self.session.room().min(chunk.len());
            if room == 0 {
                return Ok(false);
            }
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return Ok(true),
                Ok(length) => self.session.handle_input(&chunk[..length]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends; true if all is sent.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(length) => {
                    self.sent += length;
                    self.waits = None;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.output = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// Waits for room while there is an answer to be sent, else for input.
    fn watch(&mut self, now: Instant, epoll: &Epoll, source: Source) {
        let is_waiting = !self.output.is_empty();
        if is_waiting == self.waits.is_some() {
            return;
        }
        self.waits = is_waiting.then_some(now);
        let flags = if is_waiting { EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        let _ = epoll.modify(&self.stream, &mut interest(flags, source));
    }
}

/// Does the commands of a script, and writes their answers; true if one ended the switch.
fn load(context: &mut Context<'_>, path: &Path, out: &mut String) -> bool {
    let text = match read_script(path) {
        Ok(text) => text,
        Err(e) => {
            console::loaded(Err(e.raw_os_error().unwrap_or(libc::EINVAL)), out);
            return false;
        }
    };
    for (prompt, line) in console::script(path, &text) {
        out.push_str(&prompt);
        match console::run(context, line, out) {
            After::Prompt | After::Logout => {}
            // A script that loads itself would have no end.
            After::Load(_) => console::loaded(Err(libc::ELOOP), out),
            After::Shutdown => return true,
        }
    }
    console::loaded(Ok(()), out);
    false
}

/// A regular file, so that no frame waits for it.
fn read_script(path: &Path) -> io::Result<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut text = Vec::new();
    file.take(MAX_SCRIPT as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_SCRIPT {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
