//! A tunnel as a process: its sockets, its plug, its loop, its end.
//!
//! # Theory of operation
//! One thread, one epoll set: the UDP sockets, the plugged-in interface, the control socket with its connections, a
//! *watcher*, which hangs up when the process is gone that clears up behind this one, and what a helper thread
//! says of names that it looked up (getaddrinfo(3) waits, and nothing else may).
//!
//! A stack plugs in with the request `port_add`, as at a switch, and is unplugged when its connection ends. There is one
//! plug: a tunnel's packets have one stack to go to. The tunnel ends when it is told to, with its watcher, or when
//! its last connection ends. Whoever is neither the tunnel's user nor root may not even look: AllowedIPs and endpoints
//! are a person's own affair.
//!
//! A tunnel through which nothing has passed for [`REST`] gives back the memory of its buffers, and of the ring.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use msocket_proto::line::{Line, LineError, Refusal, Reply, SocketFile, listen, unusable};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};
use switch::control::{Attach, PortAdded};
use switch::ports::{BUFFER_LEN, Kind, Sent, Trouble, Wire};

use super::Config;
use super::quick::{Endpoint, Key};
use super::tunnel::{Dropped, PeerInfo, Tunnel};
use crate::gateway::host::LONGEST;
use crate::gateway::names::nameservers;
use crate::serve::{Lines, converse, is_owners, timeout};
use resolver::Resolver;
use sockets::Sockets;

pub use route::mtu;

mod resolver;
mod route;
mod sockets;
mod sources;

/// The version of the control protocol.
pub const VERSION: u32 = 1;
/// Most control connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a tunnel waits for its first connection.
const GRACE: Duration = Duration::from_secs(10);
/// Events taken at once.
const EVENTS: usize = 16;
/// Frames, and trains of datagrams, that are taken before anybody else has a turn.
const BATCH: usize = 32;
/// Silence after which buffers are given back. To have their pages again costs less than the handshake that a longer
/// silence often ends with.
const REST: Duration = Duration::from_secs(2);
/// Bytes of what is received into: enough for a frame and for a train, and so many that malloc(3) makes a mapping of
/// them, of which only what is used takes memory.
const BUFFER: usize = 128 << 10;
const _: () = assert!(BUFFER >= BUFFER_LEN && BUFFER >= LONGEST);
/// Errors in a row after which a plug is taken for dead.
const MAX_ERRORS: u32 = 64;

const LISTENER: u64 = 0;
const WATCHER: u64 = 1;
const RESOLVER: u64 = 2;
const PLUG: u64 = 3;
const UDP: u64 = 4;
const CONNECTIONS: u64 = 16;

/// What a tunnel is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The file it comes from, for people.
    pub file: String,
    /// What that says.
    pub config: Config,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// A stack's interface, as at a switch. Answer: [`PortAdded`].
    PortAdd(Attach),
    /// What are you like, and what have you done? Answer: [`Description`].
    Show,
    /// End. Answer: null.
    Down,
}

/// A tunnel as `viewnet vpn show` prints it. There is no private key in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`VERSION`]
    pub version: u32,
    /// Its process.
    pub pid: u32,
    /// Its socket.
    pub path: PathBuf,
    /// The file it comes from.
    pub file: String,
    /// Our public key.
    pub public_key: Key,
    /// The UDP port.
    pub listen_port: u16,
    /// SO_MARK.
    pub fwmark: u32,
    /// The stack's addresses.
    pub addresses: Vec<IpNet>,
    /// Nameservers within.
    pub dns: Vec<IpAddr>,
    /// Those of the machine for which they stand.
    pub stands_for: Vec<IpAddr>,
    /// Bytes.
    pub mtu: u32,
    /// The interface that is plugged in.
    pub plugged: Option<String>,
    /// The peers.
    pub peers: Vec<PeerInfo>,
    /// What was thrown away.
    pub dropped: Dropped,
}

/// A tunnel with its sockets.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    tunnel: Tunnel,
    start: Start,
    stands_for: Vec<IpAddr>,
    sockets: Sockets,
    resolver: Resolver,
    plug: Option<Plug>,
    lines: Lines,
    file: SocketFile,
    born: Instant,
    told_to_end: bool,
    /// Received into; empty while nothing passes.
    buffer: Vec<u8>,
    /// When something last passed, unless the buffers rest.
    busy: Option<Instant>,
}

/// The stack's interface.
#[derive(Debug)]
struct Plug {
    wire: Wire,
    name: String,
    /// The connection it lives by.
    by: u64,
    /// More frames may be waiting than the descriptor tells of.
    more: bool,
    errors: u32,
}

impl Server {
    /// Takes the path and makes the sockets; `addresses` are those that the names of the peers' endpoints have, by peer.
    ///
    /// # Errors
    /// What failed, why, and what to do.
    pub fn new(
        start: Start,
        path: &Path,
        addresses: &[(usize, SocketAddr)],
        watcher: BorrowedFd<'_>,
    ) -> Result<Self, Refusal> {
        let what = "cannot start the tunnel";
        let internal = |e: Errno| Refusal::system(what, e);
        let sockets = Sockets::open(start.config.listen_port.unwrap_or(0), start.config.fwmark)?;
        let listener = listen(path, 0o600).map_err(|e| {
            let refusal = unusable(what, path, &e);
            let hint = "`viewnet vpn ls` shows which there are; give another --name";
            if e.kind() == io::ErrorKind::AddrInUse { refusal.hint(hint) } else { refusal }
        })?;
        let file = SocketFile::at(path).map_err(|e| unusable(what, path, &e))?;
        let machine = nameservers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let mut base = [0; 4];
        rustix::rand::getrandom(&mut base, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| internal(Errno::from_raw(e.raw_os_error())))?;
        let now = now();
        let mut tunnel = Tunnel::new(&start.config, u32::from_ne_bytes(base), &machine);
        for (peer, address) in addresses {
            tunnel.handle_resolved(now, *peer, *address);
        }
        let resolver = Resolver::new().map_err(internal)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let watch = |fd: BorrowedFd<'_>, token| {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(internal)
        };
        watch(listener.as_fd(), LISTENER)?;
        watch(watcher, WATCHER)?;
        watch(resolver.as_fd(), RESOLVER)?;
        for (at, socket) in sockets.all().enumerate() {
            watch(socket.as_fd(), UDP + at as u64)?;
        }
        Ok(Self {
            epoll,
            tunnel,
            stands_for: start.config.stands_for(&machine),
            start,
            sockets,
            resolver,
            plug: None,
            lines: Lines::new(listener, CONNECTIONS, MAX_CONNECTIONS),
            file,
            born: now,
            told_to_end: false,
            buffer: Vec::new(),
            busy: None,
        })
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// Those of epoll_wait(2).
    pub fn run(mut self) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); EVENTS];
        self.tunnel.handle_timeout(now());
        self.transmit();
        while !self.is_done() {
            let timeout = self.wait();
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            let now = now();
            if self.tunnel.poll_timeout().is_some_and(|at| at <= now) {
                self.tunnel.handle_timeout(now);
                self.transmit();
            }
            if self.busy.is_some_and(|at| at + REST <= now) {
                self.rest();
            }
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.lines.accept(&self.epoll),
                    WATCHER => self.told_to_end = true,
                    RESOLVER => self.take_resolved(now),
                    PLUG => self.plug_ready(),
                    token if token < CONNECTIONS => self.take_datagrams(now, (token - UDP) as usize),
                    token => self.converse(token),
                }
            }
            self.take_frames(now);
            for (peer, name) in std::mem::take(&mut self.tunnel.unresolved) {
                self.resolver.ask(peer, name, self.tunnel.endpoint(peer));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let young = !self.lines.had_any() && now().saturating_duration_since(self.born) < GRACE;
        self.told_to_end || (self.lines.is_empty() && !young)
    }

    fn wait(&mut self) -> EpollTimeout {
        if self.plug.as_ref().is_some_and(|plug| plug.more) {
            return EpollTimeout::ZERO;
        }
        let due = self.tunnel.poll_timeout();
        let grace = (!self.lines.had_any()).then_some(self.born + GRACE);
        let rest = self.busy.map(|at| at + REST);
        timeout(due.into_iter().chain(grace).chain(rest).min().map(|at| at.saturating_duration_since(now())))
    }

    /// Datagrams of the host, to be decrypted for the stack.
    fn take_datagrams(&mut self, now: Instant, socket: usize) {
        self.work(now);
        for _ in 0..BATCH {
            let Some(got) = self.sockets.receive(socket, &mut self.buffer) else { break };
            let size = if got.segment == 0 { got.length.max(1) } else { usize::from(got.segment) };
            let heard = self.tunnel.heard();
            for datagram in self.buffer[..got.length].chunks(size) {
                self.tunnel.handle_datagram(now, got.from, datagram);
            }
            if self.tunnel.heard() != heard {
                self.sockets.learn();
            }
            self.deliver();
            self.transmit();
        }
        if let Some(ring) = self.plug.as_mut().and_then(|plug| plug.wire.ring()) {
            ring.flush();
        }
    }

    /// Frames for the stack.
    fn deliver(&mut self) {
        if let Some(plug) = &mut self.plug {
            let mut dead = false;
            for (header, frame) in self.tunnel.inbox.frames() {
                dead |= plug.wire.send(header, &[frame, &[], &[], &[]]) == Sent::Dead;
            }
            if dead {
                self.unplug();
            }
        }
        self.tunnel.inbox.clear();
    }

    /// Frames of the stack, to be encrypted for peers.
    fn take_frames(&mut self, now: Instant) {
        if self.plug.as_ref().is_none_or(|plug| !plug.more) {
            return;
        }
        self.work(now);
        let Some(plug) = &mut self.plug else { return };
        for _ in 0..BATCH {
            match plug.wire.receive(&mut self.buffer) {
                Ok((header, frame)) => {
                    plug.errors = 0;
                    self.tunnel.handle_frame(now, &header, frame);
                    if self.tunnel.outbox.is_long() {
                        self.sockets.send(&mut self.tunnel.outbox);
                    }
                }
                Err(why) => {
                    plug.more = false;
                    if why.kind() != io::ErrorKind::WouldBlock {
                        plug.errors += 1;
                        if plug.wire.judge(&why) == Trouble::Dead || plug.errors > MAX_ERRORS {
                            return self.unplug();
                        }
                    }
                    break;
                }
            }
        }
        self.sockets.send(&mut self.tunnel.outbox);
        if !plug.more {
            match plug.wire.arm() {
                Ok(more) => plug.more = more,
                Err(_) => self.unplug(),
            }
        } else if let Some(ring) = plug.wire.ring() {
            ring.flush();
        }
    }

    /// Something may be about to pass.
    fn work(&mut self, now: Instant) {
        self.busy = Some(now);
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
    }

    /// Nothing has passed for a while.
    fn rest(&mut self) {
        self.busy = None;
        self.buffer = Vec::new();
        self.tunnel.outbox.rest();
        self.tunnel.inbox.rest();
        let ring = self.plug.as_mut().and_then(|plug| plug.wire.ring());
        if ring.is_some_and(|ring| ring.is_swollen() && ring.trim().is_err()) {
            self.unplug();
        }
    }

    fn plug_ready(&mut self) {
        if let Some(plug) = &mut self.plug {
            plug.more = true;
        }
    }

    fn unplug(&mut self) {
        if let Some(plug) = self.plug.take() {
            if let Some(source) = plug.wire.source() {
                let _ = self.epoll.delete(source);
            }
            // The stack sees by its connection that it has lost its carrier.
            if let Some(line) = self.lines.take(plug.by) {
                let _ = self.epoll.delete(&line);
            }
        }
    }

    fn transmit(&mut self) {
        self.sockets.send(&mut self.tunnel.outbox);
    }

    fn take_resolved(&mut self, now: Instant) {
        while let Some((peer, address)) = self.resolver.take() {
            self.tunnel.handle_resolved(now, peer, address);
        }
        self.transmit();
    }

    fn converse(&mut self, token: u64) {
        let Some(mut line) = self.lines.take(token) else { return };
        if converse(&mut line, |line, request, fds| self.answer(token, line, request, fds)) {
            self.lines.put_back(token, line);
        } else if self.plug.as_ref().is_some_and(|plug| plug.by == token) {
            self.unplug();
        }
    }

    fn answer(
        &mut self,
        token: u64,
        line: &mut Line,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(), LineError> {
        if !is_owners(line) {
            let refusal = Refusal::new("cannot use the tunnel", "it is another user's").errno(libc::EPERM);
            return line.send(&Reply::<()>::Error(refusal), &[]);
        }
        match request {
            Request::Show => line.send(&Reply::Ok(self.describe()), &[]),
            Request::PortAdd(attach) => match self.plug_in(token, attach, fds) {
                Ok(added) => line.send(&Reply::Ok(added), &[]),
                Err(refusal) => line.send(&Reply::<()>::Error(refusal), &[]),
            },
            Request::Down => {
                self.told_to_end = true;
                self.file.remove();
                line.send(&Reply::Ok(()), &[])
            }
        }
    }

    fn plug_in(&mut self, by: u64, attach: Attach, fds: Vec<OwnedFd>) -> Result<PortAdded, Refusal> {
        let what = "cannot plug into the tunnel";
        if let Some(plug) = &self.plug {
            let why = format!("{} is plugged in", plug.name);
            return Err(Refusal::new(what, why).hint("use that stack: `viewnet run --stack NAME`"));
        }
        let wire = Wire::new(fds, attach.kind).map_err(|e| Refusal::new(what, e))?;
        if !wire.offloads().tso4 {
            return Err(Refusal::new(what, "it takes no super-segments").hint("plug it into a switch"));
        }
        let source = wire.source().ok_or_else(|| Refusal::new(what, "it has no descriptor to wait for"))?;
        let edges = if wire.kind() == Kind::Ring { EpollFlags::EPOLLET } else { EpollFlags::empty() };
        let event = EpollEvent::new(EpollFlags::EPOLLIN | edges, PLUG);
        self.epoll.add(source, event).map_err(|e| Refusal::system(what, e))?;
        let name = attach.name.unwrap_or_else(|| "stack".to_owned());
        self.plug = Some(Plug { wire, name: name.clone(), by, more: true, errors: 0 });
        Ok(PortAdded { name })
    }

    fn describe(&self) -> Description {
        let Start { file, config } = &self.start;
        Description {
            version: VERSION,
            pid: std::process::id(),
            path: self.file.path().to_owned(),
            file: file.clone(),
            public_key: self.tunnel.public_key(),
            listen_port: self.sockets.port(),
            fwmark: config.fwmark,
            addresses: config.addresses.clone(),
            dns: config.dns.clone(),
            stands_for: self.stands_for.clone(),
            mtu: config.mtu.unwrap_or(super::MTU),
            plugged: self.plug.as_ref().map(|plug| plug.name.clone()),
            peers: self.tunnel.peers(now()),
            dropped: self.tunnel.dropped(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Looks up the names of a configuration's endpoints, now: addresses by peer, and the names that have none.
pub fn look_up(config: &Config) -> (Vec<(usize, SocketAddr)>, Vec<Endpoint>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (number, peer) in config.peers.iter().enumerate() {
        let Some(name) = peer.endpoint.as_ref().filter(|name| name.address().is_none()) else { continue };
        match resolver::look_up(name, None) {
            Some(address) => found.push((number, address)),
            None => missing.push(name.clone()),
        }
    }
    (found, missing)
}

#[expect(clippy::disallowed_methods, reason = "the shell's clock")]
fn now() -> Instant {
    Instant::now()
}
