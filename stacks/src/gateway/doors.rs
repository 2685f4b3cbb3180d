//! Doors: sockets of the host for published ports, and what comes in by them.
//!
//! # Theory of operation
//! ```text
//!  host's client ─► door of TCP ─ accept ─► engine connects in the client's name ─► streams ─► bytes, both ways
//!                ─► door of UDP ─ recv ───► a datagram in the client's name … its answer leaves by the door
//! ```
//! As the gateway stands for everybody beyond its network, the inside sees the client's own address and port. Where that
//! cannot be (a client on the host's loopback, or in a network with the addresses of ours, or of the family that the
//! stack lacks) it sees the gateway's address, and the client's port if no other connection has that. A UDP client is
//! remembered until nothing came and nothing left for five minutes (RFC 4787 REQ-5), so that answers find their door.
//!
//! Doors belong to *publications*, one for each request. A publication ends, and its doors with it, when its *life* hangs
//! up: a connection whose other end lives as long as the view or stack. Connections that came in stay.

mod auto;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};

use super::flows::{Flows, Slot};
use super::host;
use super::publish::{MAX_PORTS, Ports, Publish, Transport};
use super::streams::{Counts, Streams};
use super::{Hall, Place};
use crate::smol::engine::SocketId;
use crate::smol::net::{NetError, Packet};
use auto::Auto;
pub use told::{Published, Watched};

/// Publications of one gateway: each is a connection.
const MAX_PUBLICATIONS: usize = 256;
/// UDP clients that are remembered.
const MAX_CLIENTS: usize = 16_384;
/// How long (RFC 4787, REQ-5).
const CLIENT_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Connections or datagrams taken from one door before others have their turn.
const TURN: usize = 32;
/// When descriptors have run out: how long until the next try.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a UDP header.
const HEADER: usize = 8;

/// A stack as a publication knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inside {
    /// Its name.
    pub stack: String,
    /// Its path, where `auto` asks who listens.
    pub path: PathBuf,
    /// Its addresses in the gateway's network.
    pub addresses: Vec<IpAddr>,
}

impl Inside {
    fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == v4)
    }
}

#[derive(Debug)]
struct Publication {
    inside: Inside,
    /// Hangs up when the publication is to end.
    _life: OwnedFd,
    auto: Option<Auto>,
}

#[derive(Debug)]
struct Door {
    publication: u32,
    transport: Transport,
    listen: SocketAddr,
    port: u16,
    auto: bool,
    socket: OwnedFd,
    clients: u64,
    /// Something may have come.
    ready: bool,
}

/// Whom a UDP client's answers are for.
#[derive(Debug, Clone, Copy)]
struct Client {
    door: usize,
    address: SocketAddr,
}

/// Those of a gateway.
#[derive(Debug)]
pub(super) struct Doors {
    publications: BTreeMap<u32, Publication>,
    next: u32,
    doors: Vec<Option<Door>>,
    /// Those that are ready.
    turn: VecDeque<usize>,
    /// No connection is taken before.
    pause: Option<Instant>,
    /// When to ask a stack who listens.
    look_at: Option<Instant>,
    /// UDP clients by the inside's address and the one in whose name they are heard there.
    flows: Flows<(SocketAddr, SocketAddr)>,
    clients: Vec<Option<Client>>,
}

impl Doors {
    pub(super) fn new() -> Self {
        Self {
            publications: BTreeMap::new(),
            next: 0,
            doors: Vec::new(),
            turn: VecDeque::new(),
            pause: None,
            look_at: None,
            flows: Flows::new(MAX_CLIENTS),
            clients: Vec::new(),
        }
    }

    /// Opens doors, all of them or none, that stay until `life` hangs up.
    pub(super) fn publish(
        &mut self,
        now: Instant,
        inside: Inside,
        what: &[Publish],
        life: OwnedFd,
        hall: &mut Hall,
    ) -> Result<(), Refusal> {
        let id = self.admit(inside, life, hall)?;
        let opened = what.iter().try_for_each(|publish| match publish {
            Publish::Ports(ports) => self.open_all(id, ports, hall),
            Publish::Auto(address) => {
                if let Some(publication) = self.publications.get_mut(&id) {
                    publication.auto = Some(Auto::new(now, *address));
                    self.look_at = Some(now);
                }
                Ok(())
            }
        });
        if opened.is_err() {
            self.end(id);
        }
        opened
    }

    /// A new publication.
    fn admit(&mut self, mut inside: Inside, life: OwnedFd, hall: &mut Hall) -> Result<u32, Refusal> {
        let what = format!("cannot publish ports of {}", inside.stack);
        inside.addresses.retain(|address| hall.policy.is_inside(*address));
        if inside.addresses.is_empty() {
            return Err(Refusal::new(what, "it has no address in the gateway's network")
                .hint("give it one, as by --link switch:NAME,ip=auto"));
        }
        if self.publications.len() >= MAX_PUBLICATIONS {
            return Err(Refusal::new(what, format!("there are {MAX_PUBLICATIONS} publications already"))
                .hint("`viewnet publish ls` shows them, `viewnet publish rm` ends some"));
        }
        for address in &inside.addresses {
            hall.engine.forget_neighbour(hall.link, *address);
        }
        self.next = self.next.wrapping_add(1);
        let hung_up = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        hall.watch(&life, Place::Life(self.next), hung_up).map_err(|e| Refusal::system(what, e))?;
        self.publications.insert(self.next, Publication { inside, _life: life, auto: None });
        Ok(self.next)
    }

    fn open_all(&mut self, id: u32, ports: &Ports, hall: &mut Hall) -> Result<(), Refusal> {
        for (port, inside) in ports.each() {
            self.open_port(id, (ports.transport(), ports.address(), port), inside, false, hall)?;
        }
        Ok(())
    }

    /// A port of the host, at one address or at all of them.
    fn open_port(
        &mut self,
        id: u32,
        (transport, address, port): (Transport, Option<IpAddr>, u16),
        inside: u16,
        auto: bool,
        hall: &mut Hall,
    ) -> Result<(), Refusal> {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let all = match &address {
            Some(address) => std::slice::from_ref(address),
            None => &any[..],
        };
        let Some(publication) = self.publications.get(&id) else { return Ok(()) };
        let has =
            |ip: &&IpAddr| transport == Transport::Tcp || publication.inside.address(ip.is_ipv4()).is_some();
        let wanted: Vec<IpAddr> = all.iter().filter(has).copied().collect();
        let what = || format!("cannot publish port {port}/{transport}");
        if wanted.is_empty() {
            return Err(Refusal::new(what(), "the stack has no address of that family")
                .hint("give it one, or name an address of the other family"));
        }
        for ip in wanted {
            let listen = SocketAddr::new(ip, port);
            match self.open(id, (transport, listen, inside), auto, hall) {
                // A host without IPv6.
                Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if address.is_none() && ip.is_ipv6() => {}
                Err(errno) => return Err(self.refusal(what(), transport, listen, errno, !auto)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn open(
        &mut self,
        publication: u32,
        (transport, listen, port): (Transport, SocketAddr, u16),
        auto: bool,
        hall: &mut Hall,
    ) -> Result<(), Errno> {
        if self.doors.iter().flatten().count() >= 2 * MAX_PORTS {
            return Err(Errno::ENOSPC);
        }
        let socket = host::door(listen, transport == Transport::Tcp)?;
        let slot = self.doors.iter().position(Option::is_none).unwrap_or(self.doors.len());
        hall.watch(&socket, Place::Door(slot), EpollFlags::EPOLLIN | EpollFlags::EPOLLET)?;
        let door = Door { publication, transport, listen, port, auto, socket, clients: 0, ready: false };
        match self.doors.get_mut(slot) {
            Some(free) => *free = Some(door),
            None => self.doors.push(Some(door)),
        }
        Ok(())
    }

    /// Closes doors of a stack: those named, or all of them with the publication. How many.
    pub(super) fn unpublish(&mut self, stack: Option<&str>, ports: &[Ports]) -> usize {
        let before = self.doors.iter().flatten().count();
        let of = |inside: &Inside| stack.is_none_or(|stack| inside.stack == stack);
        if ports.is_empty() {
            let ended: Vec<u32> =
                self.publications.iter().filter(|(_, it)| of(&it.inside)).map(|(id, _)| *id).collect();
            ended.iter().for_each(|id| self.end(*id));
            return ended.len() + before - self.doors.iter().flatten().count();
        }
        for slot in 0..self.doors.len() {
            let Some(door) = &self.doors[slot] else { continue };
            let named = ports.iter().any(|ports| ports.has(door.transport, door.listen));
            if named && self.publications.get(&door.publication).is_some_and(|it| of(&it.inside)) {
                self.close(slot);
            }
        }
        self.end_empty();
        before - self.doors.iter().flatten().count()
    }

    /// From now on these ports of the host lead to another stack; what came in already stays. How many.
    pub(super) fn move_to(
        &mut self,
        inside: Inside,
        ports: &[Ports],
        life: OwnedFd,
        hall: &mut Hall,
    ) -> Result<usize, Refusal> {
        let id = self.admit(inside, life, hall)?;
        let mut moved = 0;
        for door in self.doors.iter_mut().flatten() {
            if ports.iter().any(|ports| ports.has(door.transport, door.listen)) {
                (door.publication, door.auto) = (id, false);
                moved += 1;
            }
        }
        self.end_empty();
        Ok(moved)
    }

    /// Ends publications that have no door any more, and will get none.
    fn end_empty(&mut self) {
        let doors = &self.doors;
        let has_door = |id: u32| doors.iter().flatten().any(|door| door.publication == id);
        self.publications.retain(|id, it| it.auto.is_some() || has_door(*id));
    }

    /// Ends a publication.
    fn end(&mut self, id: u32) {
        self.publications.remove(&id);
        for slot in 0..self.doors.len() {
            if self.doors[slot].as_ref().is_some_and(|door| door.publication == id) {
                self.close(slot);
            }
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(Door { transport: Transport::Udp, .. }) = self.doors[slot].take() else { return };
        for client in 0..self.clients.len() {
            if self.clients[client].is_some_and(|client| client.door == slot) {
                self.forget(client);
            }
        }
    }

    fn forget(&mut self, client: Slot) {
        self.clients[client] = None;
        self.flows.remove(client);
    }

    /// Something came for a door.
    pub(super) fn handle_event(&mut self, slot: usize) {
        if let Some(Some(door)) = self.doors.get_mut(slot)
            && !door.ready
        {
            door.ready = true;
            self.turn.push_back(slot);
        }
    }

    /// The life of a publication has hung up.
    pub(super) fn handle_end(&mut self, id: u32) {
        self.end(id);
    }

    /// When to call [`Doors::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.look_at, self.pause, self.flows.poll_timeout()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant, hall: &mut Hall) {
        while let Some(client) = self.flows.poll_expired(now) {
            self.forget(client);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(now, hall);
        }
    }

    /// Takes what has come; true: there may be more.
    pub(super) fn run(
        &mut self,
        now: Instant,
        hall: &mut Hall,
        streams: &mut Streams,
        counts: &mut Counts,
    ) -> bool {
        self.pause = self.pause.filter(|until| *until > now);
        if self.turn.is_empty() || self.pause.is_some() {
            return false;
        }
        for _ in 0..self.turn.len() {
            let Some(slot) = self.turn.pop_front() else { break };
            let more = match self.doors.get(slot) {
                Some(Some(Door { transport: Transport::Tcp, .. })) => {
                    self.accept(now, slot, hall, streams, counts)
                }
                Some(Some(_)) => self.receive(now, slot, hall),
                _ => continue,
            };
            if let Some(Some(door)) = self.doors.get_mut(slot) {
                door.ready = more;
                if more {
                    self.turn.push_back(slot);
                }
            }
        }
        !self.turn.is_empty() && self.pause.is_none()
    }

    /// Takes connections; true: there may be more.
    fn accept(
        &mut self,
        now: Instant,
        slot: usize,
        hall: &mut Hall,
        streams: &mut Streams,
        counts: &mut Counts,
    ) -> bool {
        let Some(Some(door)) = self.doors.get_mut(slot) else { return false };
        let Some(publication) = self.publications.get(&door.publication) else { return false };
        for _ in 0..TURN {
            let (socket, from) = match host::accept(&door.socket) {
                Ok(accepted) => accepted,
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    self.pause = Some(now + PAUSE);
                    return true;
                }
                // It has gone already.
                Err(_) => continue,
            };
            let Some(ip) = target(&publication.inside, from.is_ipv4()) else { continue };
            let to = SocketAddr::new(ip, door.port);
            match connect(now, from, to, hall) {
                Ok(id) => {
                    door.clients += 1;
                    streams.call(now, (id, ip), socket, hall, counts);
                }
                Err(_) => {
                    counts.refused += 1;
                    host::reset_at_close(&socket);
                }
            }
        }
        true
    }

    /// Takes datagrams; true: there may be more.
    fn receive(&mut self, now: Instant, slot: usize, hall: &mut Hall) -> bool {
        let Some(Some(door)) = self.doors.get_mut(slot) else { return false };
        let Some(publication) = self.publications.get(&door.publication) else { return false };
        let Some(ip) = publication.inside.address(door.listen.is_ipv4()) else { return false };
        let inside = SocketAddr::new(ip, door.port);
        for _ in 0..TURN {
            let got = match host::receive(&door.socket, &mut hall.scratch) {
                Ok(got) => got,
                Err(Errno::EAGAIN) => return false,
                Err(_) => continue,
            };
            let Some(named) = name(got.from, ip, hall) else { continue };
            let key = (inside, named);
            let known = self.flows.find(&key);
            let client = known.unwrap_or_else(|| {
                if let Some(oldest) = self.flows.crowded() {
                    self.clients[oldest] = None;
                    self.flows.remove(oldest);
                }
                door.clients += 1;
                // A client that is many takes the room of its own.
                self.flows.insert(now, key, got.from.ip(), CLIENT_LIFETIME)
            });
            self.flows.touch(now, client);
            if self.clients.len() <= client {
                self.clients.resize(client + 1, None);
            }
            self.clients[client] = Some(Client { door: slot, address: got.from });
            let data = &hall.scratch[..got.length];
            // No room: as lost as on any way.
            let _ = hall.engine.send_as(now, (named, inside), None, data, got.segment);
        }
        true
    }

    /// A UDP datagram of the inside: if it answers a client, it leaves by the client's door. False: it does not.
    pub(super) fn answer(&mut self, now: Instant, packet: &Packet<'_>) -> bool {
        if self.flows.is_empty() {
            return false;
        }
        let Some((head, data)) = packet.payload.split_first_chunk::<HEADER>() else { return false };
        let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let key = (SocketAddr::new(packet.source, port(0)), SocketAddr::new(packet.destination, port(2)));
        let Some(slot) = self.flows.find(&key) else { return false };
        let Some(Some(client)) = self.clients.get(slot) else { return false };
        let Some(Some(door)) = self.doors.get(client.door) else { return false };
        self.flows.touch(now, slot);
        // An error is that of an earlier datagram, or as lost as on any way.
        let _ = host::send(&door.socket, client.address, data, packet.gso_size);
        true
    }

    /// Has a datagram of a client been sent that an error quotes?
    pub(super) fn sent(&self, error: &NetError, quoted: &[u8]) -> bool {
        let Some(&[a, b, c, d]) = quoted.first_chunk() else { return false };
        let from = SocketAddr::new(error.source, u16::from_be_bytes([a, b]));
        let inside = SocketAddr::new(error.destination, u16::from_be_bytes([c, d]));
        i32::from(error.protocol) == libc::IPPROTO_UDP && self.flows.find(&(inside, from)).is_some()
    }
}

/// The stack's address for a client of a family, of the other one if it has none of that.
fn target(inside: &Inside, v4: bool) -> Option<IpAddr> {
    inside.address(v4).or_else(|| inside.address(!v4))
}

/// In whose name a client is heard at `to`.
fn name(client: SocketAddr, to: IpAddr, hall: &Hall) -> Option<SocketAddr> {
    let own = || hall.policy.own(to.is_ipv4()).map(|own| SocketAddr::new(own, client.port()));
    let same = client.is_ipv4() == to.is_ipv4();
    hall.policy.name(client, client.is_ipv4()).filter(|_| same).or_else(own)
}

/// Connects to the inside in the name of a client.
fn connect(now: Instant, client: SocketAddr, to: SocketAddr, hall: &mut Hall) -> Result<SocketId, Errno> {
    let from = name(client, to.ip(), hall).ok_or(Errno::EADDRNOTAVAIL)?;
    let mut connect = |from| hall.engine.connect_as(now, (from, to), &hall.caller);
    match connect(from) {
        // Another client has the same name, or has had it a moment ago.
        Err(Errno::EADDRNOTAVAIL) => {
            let own = hall.policy.own(to.is_ipv4()).ok_or(Errno::EADDRNOTAVAIL)?;
            connect(SocketAddr::new(own, 0))
        }
        done => done,
    }
}
