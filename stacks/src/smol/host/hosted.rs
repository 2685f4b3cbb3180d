//! One stack of a host: its engine, its ports and its sockets.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use msocket_proto::line::Refusal;
use msocket_proto::proto::FilterChange;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use rustc_hash::FxHashMap;
use rustix::net::SocketType;

use super::super::call::{Caller, Ticket};
use super::super::engine::{Engine, SocketId};
use super::super::port::{Plugs, Port};
use super::super::pump::listener::Offered;
use super::super::pump::stream::Stream;
use super::super::pump::{End, Facts, Place, Shared, Socket, unix};
use super::super::tables::{IfIndex, LOOPBACK};
use super::StackKey;
use super::bounds::Bounds;
use super::files::Files;
use crate::config::StackConfig;
use crate::filter::Listing;
use crate::kernel::orphans::Unfinished;
use crate::stack::{InterfaceInfo, SOCK_PACKET, SocketSpec, TYPE_MASK};
use crate::steward::Steward;
use crate::steward::smol::Of;

/// Frames taken from a port before the sockets have their turn.
const FRAMES: usize = 64;
/// Rounds of work per turn, each bounded by the engine: other stacks of the host wait meanwhile.
const ROUNDS: usize = 8;
/// Sockets looked at, per new one, whether their program still has them.
const PROBES: usize = 2;

/// A stack of a host.
#[derive(Debug)]
pub(super) struct Hosted {
    key: StackKey,
    state: Result<Engine, String>,
    /// Boxed: the table has places to spare.
    pub(super) sockets: FxHashMap<SocketId, Box<Socket>>,
    /// Sockets without a peer, whose end nobody tells us of; looked at in turn.
    unwatched: VecDeque<SocketId>,
    /// Those whose frames go to a ring, which programs look at without a call.
    pub(super) rings: BTreeSet<SocketId>,
    /// What programs read about its network.
    pub(super) files: Files,
    deadline: Option<Instant>,
    /// There is more to do at once.
    unfinished: bool,
    /// Something has happened since it was done that no event will tell of.
    untold: bool,
    ports: Vec<Plugged>,
    /// Who keeps its leases, and the nameserver on its loopback.
    steward: Option<Steward<SocketId>>,
    bounds: Bounds,
    /// Used and not yet judged: processor time, packets.
    used: (Duration, u64),
}

/// A port, and the interface it is of.
#[derive(Debug)]
struct Plugged {
    link: IfIndex,
    token: u64,
    port: Port,
    /// The interface knows that nobody is at the other end.
    dead: bool,
    /// Frames may wait.
    ready: bool,
}

impl Hosted {
    /// Makes a stack and plugs it in.
    pub(super) fn create(
        key: StackKey,
        plugs: &mut Plugs<'_>,
        config: &StackConfig,
        seed: [u8; 32],
        shared: &mut Shared,
    ) -> Result<Self, Refusal> {
        let now = plugs.clocks.0;
        let mut engine = Engine::new(config, seed, now)?;
        engine.ask_listeners();
        let wall = plugs.clocks.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        engine.set_realtime(now, wall);
        let mut ports = Vec::new();
        for (interface, number) in config.interfaces.iter().zip(LOOPBACK.0 + 1..) {
            if let Some(port) = Port::open(plugs, interface)? {
                let link = IfIndex(number);
                let token = shared.number(Place::Port(key, link));
                for (fd, flags) in port.sources() {
                    let what = format!("cannot watch the port of {}", interface.name);
                    shared.watch_port(fd, token, flags).map_err(|e| Refusal::system(what, e))?;
                }
                engine.plug(now, link, true);
                ports.push(Plugged { link, token, port, dead: false, ready: true });
            }
        }
        let seed = super::random().map(|it| it.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)));
        let steward =
            seed.and_then(|seed| Steward::new(now, &mut Of { engine: &mut engine, now }, config, seed));
        let steward = steward.map_err(|e| Refusal::system("cannot make the view's steward", e))?;
        Ok(Self {
            key,
            state: Ok(engine),
            sockets: FxHashMap::default(),
            unwatched: VecDeque::new(),
            rings: BTreeSet::new(),
            files: Files::default(),
            deadline: None,
            unfinished: true,
            untold: false,
            ports,
            steward,
            bounds: Bounds::new(now, config.limits),
            used: (Duration::ZERO, 0),
        })
    }

    /// Why it works no more.
    pub(super) fn failure(&self) -> Option<&str> {
        self.state.as_ref().err().map(String::as_str)
    }

    /// For `stack show`.
    pub(super) fn interfaces(&self) -> Vec<InterfaceInfo> {
        let mut listed = self.state.as_ref().map(Engine::interfaces).unwrap_or_default();
        for interface in &mut listed {
            let steward = self.steward.as_ref();
            interface.lease_s = steward.and_then(|it| it.left(super::now(), &interface.name));
            interface.lease_v6_s = steward.and_then(|it| it.left_v6(super::now(), &interface.name));
        }
        listed
    }

    /// Changes the packet filter, if so said, and shows it.
    pub(super) fn filter(&mut self, change: Option<&FilterChange>) -> Result<Listing, Refusal> {
        self.engine().packet_filter(change)
    }

    /// The engine; [`super::Host::guarded`] calls us only while there is one.
    fn engine(&mut self) -> &mut Engine {
        self.state.as_mut().expect("a failed stack is not asked")
    }

    /// Its number.
    pub(super) fn key(&self) -> StackKey {
        self.key
    }

    /// Engine and sockets at once.
    pub(super) fn parts(&mut self) -> (&mut Engine, &mut FxHashMap<SocketId, Box<Socket>>) {
        (self.state.as_mut().expect("a failed stack is not asked"), &mut self.sockets)
    }

    /// What is still to be done for sockets whose programs have ended.
    pub(super) fn unfinished(&self) -> Unfinished {
        // What a program wrote last may still be on its way to the engine.
        if self.sockets.values().any(|socket| matches!(socket.end, End::Stream(_))) {
            return Unfinished::Sending;
        }
        self.state.as_ref().map_or(Unfinished::Nothing, Engine::unfinished)
    }

    /// socket(2)
    pub(super) fn socket(
        &mut self,
        now: Instant,
        spec: SocketSpec,
        (caller, named): (&Caller, bool),
        shared: &mut Shared,
    ) -> Result<OwnedFd, Errno> {
        self.look_for_orphans(now, shared);
        let id = self.engine().socket(now, spec, caller)?;
        let made = self.dress(id, spec, (caller, named), shared);
        if made.is_err() {
            self.engine().close(now, id, false);
        }
        made
    }

    /// Gives an engine's new socket its program's end.
    fn dress(
        &mut self,
        id: SocketId,
        spec: SocketSpec,
        (caller, named): (&Caller, bool),
        shared: &mut Shared,
    ) -> Result<OwnedFd, Errno> {
        let stream = spec.kind & TYPE_MASK == libc::SOCK_STREAM;
        let kind = if stream { SocketType::STREAM } else { SocketType::DGRAM };
        let token = shared.number(Place::Socket(self.key, id));
        let made = (|| {
            let nonblocking = spec.kind & libc::SOCK_NONBLOCK != 0;
            let program = unix::program_end(kind, nonblocking)?;
            let mut address = None;
            let mut end = if stream { End::Idle } else { End::Datagram(Box::default()) };
            if let End::Datagram(datagram) = &mut end
                && matches!(spec.domain, libc::AF_NETLINK | libc::AF_PACKET)
                && spec.kind & TYPE_MASK != SOCK_PACKET
            {
                // One peer each, the stack itself: native send(2) and write(2) must reach it.
                let address = address.insert(shared.linked_address(&program, token)?);
                datagram.link(&program, (token, address), shared)?;
            } else if named
                || !stream
                    && (spec.kind & TYPE_MASK != libc::SOCK_DGRAM
                        || !matches!(spec.protocol, 0 | libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE))
            {
                // It hears from now on.
                address = Some(shared.address(&program, token)?);
            }
            let inode = unix::inode(&program)?;
            Ok((program, inode, end, address))
        })();
        let (program, inode, end, address) = match made {
            Ok(made) => made,
            Err(errno) => {
                shared.vacate(token);
                return Err(errno);
            }
        };
        shared.inodes.insert(inode, (self.key, id));
        self.engine().set_inode(id, shown(inode));
        self.unwatched.push_back(id);
        let (caller, listener, parked) = (*caller, None, Vec::new());
        let facts = Facts::default();
        let socket =
            Socket { id, token, spec, kind, address, named, inode, caller, listener, end, parked, facts };
        self.sockets.insert(id, Box::new(socket));
        Ok(program)
    }

    /// An event for one of our ends.
    pub(super) fn handle_event(&mut self, id: SocketId, events: EpollFlags) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.handle_event(events);
        }
    }

    /// An event for a port.
    pub(super) fn handle_port(&mut self, link: IfIndex, events: EpollFlags) {
        if let Some(plugged) = self.ports.iter_mut().find(|plugged| plugged.link == link) {
            plugged.port.handle_ready(events);
            plugged.ready = true;
        }
    }

    /// Takes frames from the ports. True: there may be more.
    fn receive(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let engine = self.state.as_mut().expect("a failed stack is not asked");
        let mut more = false;
        for plugged in self.ports.iter_mut().filter(|plugged| plugged.ready) {
            plugged.ready = false;
            for left in (0..FRAMES).rev() {
                let Some((header, frame)) = plugged.port.receive(now, &mut shared.frame) else { break };
                self.used.1 += 1;
                if let Some(lent) = engine.handle_frame_lending(now, plugged.link, &header, frame) {
                    let taken = match self.sockets.get_mut(&lent.socket).map(|socket| &mut socket.end) {
                        Some(End::Stream(stream)) => stream.hand_over(&frame[lent.at.clone()]),
                        _ => 0,
                    };
                    engine.settle(now, &lent, frame, taken);
                }
                if left == 0 {
                    plugged.ready = true;
                    more = true;
                }
            }
            // The other end of a cable may be plugged in later, and again.
            let carrier = plugged.port.has_carrier();
            if carrier == plugged.dead {
                plugged.dead = !carrier;
                engine.plug(now, plugged.link, carrier);
            }
        }
        more
    }

    /// Lets the other ends know, and asks to be woken. True: frames wait already.
    fn before_sleep(&mut self) -> bool {
        let mut waiting = false;
        for plugged in &mut self.ports {
            plugged.port.flush();
            if plugged.port.before_sleep() {
                plugged.ready = true;
                waiting = true;
            }
        }
        waiting
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.unfinished = false;
        self.engine().handle_timeout(now);
        if self.steward.as_ref().and_then(Steward::poll_timeout).is_some_and(|at| at <= now) {
            self.steward(now, None);
        }
    }

    /// Moves what can be moved, beginning with the sockets `ids`. Returns the parked calls to try again.
    pub(super) fn run(&mut self, now: Instant, ids: &[SocketId], shared: &mut Shared) -> Vec<Ticket> {
        let mut woken = Vec::new();
        let mut work: Vec<SocketId> = ids.to_vec();
        (self.unfinished, self.untold) = (true, false);
        for round in 0..ROUNDS {
            // What comes back meanwhile shall not seem to have come at once.
            let now = if round == 0 { now } else { super::now() };
            let more = self.receive(now, shared) | self.transmit(now);
            let more = self.answer_knocks(now, shared) | more;
            while let Some(id) = self.engine().poll_dirty() {
                work.push(id);
            }
            let mut seen = BTreeSet::new();
            work.retain(|id| seen.insert(*id));
            let mut moved = more;
            for id in work.drain(..) {
                let held = self.sockets.len();
                moved |= self.service(now, id, shared, &mut woken);
                if self.sockets.len() < held {
                    // Who was closed first shall be heard first, by the one that is closed next above all.
                    moved |= self.transmit(now);
                }
            }
            if !moved && !self.before_sleep() {
                self.unfinished = false;
                break;
            }
        }
        if self.unfinished {
            self.ports.iter_mut().for_each(|plugged| plugged.port.flush());
        }
        woken
    }

    /// Lets listeners that are still there answer. True: some knocked.
    fn answer_knocks(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let mut knocked = false;
        while let Some((listener, child)) = self.engine().poll_knock() {
            knocked = true;
            // Who waits in accept(2) is there.
            let waits = self.sockets.get(&listener).is_some_and(|socket| !socket.parked.is_empty());
            if !waits && self.is_dead(listener) {
                self.engine().turn_away(now, listener, child);
                self.bury(now, listener, shared);
            } else {
                self.engine().admit(child);
            }
        }
        knocked
    }

    /// Puts the engine's frames on their ports. True: there would be more at once.
    fn transmit(&mut self, now: Instant) -> bool {
        let engine = self.state.as_mut().expect("a failed stack is not asked");
        let (ports, packets) = (&mut self.ports, &mut self.used.1);
        if !ports.iter_mut().all(|plugged| plugged.dead || plugged.port.has_room()) {
            return false;
        }
        engine.poll_transmit(now, &mut |link, header, frame| {
            if let Some(plugged) = ports.iter_mut().find(|plugged| plugged.link == link) {
                *packets += 1;
                let _ = plugged.port.send(now, header, frame);
            }
        })
    }

    fn service(&mut self, now: Instant, id: SocketId, shared: &mut Shared, woken: &mut Vec<Ticket>) -> bool {
        let key = self.key;
        let (engine, sockets) = self.parts();
        let Some(socket) = sockets.get_mut(&id) else { return self.steward(now, Some(id)) };
        let mut found = socket.service(now, engine, shared);
        let listening = id;
        let caller = socket.caller;
        let mut offered = None;
        if let (End::Listener(listener), Some(address)) = (&mut socket.end, &socket.address) {
            match listener.offer(now, (key, id), address, engine, shared) {
                Ok(new) => offered = new,
                Err(()) => {
                    engine.close(now, id, false);
                    found.gone = true;
                }
            }
        }
        let spec = socket.spec;
        woken.extend_from_slice(&socket.parked);
        if let Some(Offered { id, token, ours }) = offered {
            let end = End::Stream(Stream::new(ours));
            let (kind, parked) = (SocketType::STREAM, Vec::new());
            let (listener, address, named) = (Some(listening), None, false);
            let (inode, facts) = (0, Facts::default());
            let mut socket =
                Socket { id, token, spec, kind, address, named, inode, caller, listener, end, parked, facts };
            socket.show(now, engine, shared);
            sockets.insert(id, Box::new(socket));
            found.moved = true;
        }
        if found.gone {
            let listener = self.sockets.get(&id).and_then(|socket| socket.listener);
            self.forget(id, shared);
            if let Some(listener) = listener {
                // Nobody accepts it any more: this is how the end of a listener is heard of.
                self.bury(now, listener, shared);
            }
        }
        found.moved || found.gone
    }

    /// Something happened to a socket of no program's, or time has passed.
    fn steward(&mut self, now: Instant, id: Option<SocketId>) -> bool {
        let asked = self.steward.as_mut().filter(|it| id.is_none_or(|id| it.owns(id)));
        let Some(steward) = asked else { return false };
        let engine = self.state.as_mut().expect("a failed stack is not asked");
        steward.turn(now, &mut Of { engine, now });
        true
    }

    /// The program has no descriptor of it any more, and the engine knows.
    pub(super) fn forget(&mut self, id: SocketId, shared: &mut Shared) {
        self.rings.remove(&id);
        if let Some(socket) = self.sockets.remove(&id) {
            shared.vacate(socket.token);
            shared.inodes.remove(&socket.inode);
        }
    }

    /// A connection that was accepted came back (EMFILE, a signal): what stands in its place in the program's
    /// queue makes the listener readable again. Without room there, others do.
    pub(super) fn mark_returned(&mut self, listener: SocketId, shared: &mut Shared) {
        if let Some(Socket { end: End::Listener(_), address: Some(address), .. }) =
            self.sockets.get(&listener).map(Box::as_ref)
        {
            shared.next += 1;
            let _ = unix::offer(address, &shared.name(shared.next));
        }
    }

    /// A parked call waits for a socket.
    pub(super) fn remember_ticket(&mut self, id: SocketId, ticket: Ticket) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.parked.push(ticket);
        }
    }

    /// It waits no more.
    pub(super) fn forget_ticket(&mut self, id: SocketId, ticket: Ticket) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.parked.retain(|parked| *parked != ticket);
        }
    }

    /// Looks whether the programs of some sockets without peer still have them.
    fn look_for_orphans(&mut self, now: Instant, shared: &mut Shared) {
        for _ in 0..PROBES.min(self.unwatched.len()) {
            let Some(id) = self.unwatched.pop_front() else { return };
            let Some(socket) = self.sockets.get(&id) else { continue };
            if !matches!(socket.end, End::Stream(_)) && self.bury(now, id, shared) {
                continue;
            }
            self.unwatched.push_back(id);
        }
    }

    /// As [`Self::look_for_orphans`], for all: something is in the way of a program, perhaps a dead socket.
    pub(super) fn look_for_all_orphans(&mut self, now: Instant, shared: &mut Shared) -> bool {
        let ids: Vec<SocketId> = self.unwatched.iter().copied().collect();
        let buried = ids.into_iter().filter(|id| self.bury(now, *id, shared)).count();
        buried > 0
    }

    fn is_dead(&self, id: SocketId) -> bool {
        self.sockets.get(&id).is_some_and(|socket| !socket.is_alive())
    }

    /// Takes what a program has sent natively.
    pub(super) fn catch_up(&mut self, now: Instant, id: SocketId, shared: &mut Shared) {
        let (engine, sockets) = self.parts();
        if let Some(socket) = sockets.get_mut(&id)
            && let End::Datagram(datagram) = &mut socket.end
        {
            self.untold |= datagram.catch_up(now, (id, socket.token), &socket.caller, engine, shared);
        }
    }

    /// Whether [`Self::run`] has something to do of which no event will tell.
    pub(super) fn has_untold(&self) -> bool {
        self.untold
    }

    fn bury(&mut self, now: Instant, id: SocketId, shared: &mut Shared) -> bool {
        let dead = self.is_dead(id);
        if dead {
            // What it sent before it closed its socket goes out all the same.
            self.catch_up(now, id, shared);
            self.engine().close(now, id, false);
            self.forget(id, shared);
            self.untold = true;
        }
        dead
    }

    /// The deadline it is filed under, and the one it has now.
    pub(super) fn reschedule(&mut self, now: Instant) -> (Option<Instant>, Option<Instant>) {
        let engine = self.state.as_ref().ok();
        let steward = self.steward.as_ref().filter(|_| engine.is_some()).and_then(Steward::poll_timeout);
        let timeout = engine.and_then(Engine::poll_timeout).into_iter().chain(steward).min();
        let new = if self.unfinished { Some(now) } else { timeout };
        (std::mem::replace(&mut self.deadline, new), new)
    }

    /// Whether its processor time is to be told.
    pub(super) fn measures_time(&self) -> bool {
        self.bounds.measures_time()
    }

    /// It took so much processor time.
    pub(super) fn spend(&mut self, time: Duration) {
        self.used.0 += time;
    }

    /// What it has used too much of, if anything.
    pub(super) fn exceeded(&mut self, now: Instant) -> Option<String> {
        let memory = self.state.as_ref().map_or(0, Engine::memory);
        let (time, packets) = std::mem::take(&mut self.used);
        self.bounds.check(now, memory, time, packets)
    }

    /// How much more memory it may have, in bytes.
    pub(super) fn memory_left(&self) -> u64 {
        self.bounds.memory_left(self.state.as_ref().map_or(0, Engine::memory))
    }

    /// Gives back what it has from its networks, with its last frames.
    pub(super) fn depart(&mut self, now: Instant) {
        let Some(mut steward) = self.steward.take() else { return };
        steward.end(now, &mut Of { engine: self.engine(), now });
        // What there is no room for now, nobody waits for.
        self.transmit(now);
        self.ports.iter_mut().for_each(|plugged| plugged.port.flush());
    }

    /// Ends everything. The deadline it was filed under and the calls that waited for it are returned.
    pub(super) fn fail(&mut self, why: &str, shared: &mut Shared) -> (Option<Instant>, Vec<Ticket>) {
        self.state = Err(why.to_owned());
        self.unfinished = false;
        let mut tickets = Vec::new();
        for socket in self.sockets.values_mut() {
            tickets.append(&mut socket.parked);
            socket.break_off();
            shared.vacate(socket.token);
            shared.orphan(socket.inode, self.key);
        }
        for plugged in self.ports.drain(..) {
            shared.places.remove(&plugged.token);
        }
        (self.deadline.take(), tickets)
    }
}

/// An inode as sock_diag(7) shows it.
pub(super) fn shown(inode: u64) -> u32 {
    inode as u32
}
