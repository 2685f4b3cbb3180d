//! Control connections: who is connected, what they ask, what they own.
//!
//! # Theory of operation
//! Connections are non-blocking. A ready one is put on a list, and [`Connections::serve`] answers up to
//! [`REQUESTS`] of its requests per round; the next are taken when it has read the answers. So what a peer can
//! make us keep is one request and one answer, and one that does not read its answer within [`PATIENCE`] is
//! dropped. With a connection go the ports that were added by it without `linger`.

mod events;
mod links;
mod seeing;
mod vde;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use msocket_proto::line::{Line, LineError, Received, Refusal, Reply};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt};

use self::events::Subscribers;
use super::access::Access;
use super::attach::Made;
use super::metrics::{Metrics, OnFile};
use super::plugs::{NewPlug, PlugError, Plugs};
use super::residents::Residents;
use super::vde::VdeServer;
use super::{Options, Source, interest, traffic};
use crate::control::{
    Answer, Attach, Hello, MacFilter, PortAdded, PortInfo, PortStp, Request, Show, Station, VERSION, VlanInfo,
};
use crate::metrics::Snapshot;
use crate::port::{MAX_NAME, MAX_PORTS, Port, PortId};
use crate::switch::{PortError, Switch, number_name};
use crate::vlan::{Egress, PortVlans, Vid};

/// Connections at most: one for each port, and some to look around.
const MAX_CONNECTIONS: usize = MAX_PORTS + 64;
/// Connections at most for a user who is neither ours nor root.
const MAX_FOREIGN: usize = 64;
/// Requests answered in a row.
const REQUESTS: usize = 16;
/// How long an answer may wait to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers at most that wait to be read; one can be some megabytes long.
const MAX_WAITING: usize = 16;

/// All connections.
pub(super) struct Connections {
    table: Vec<Option<Connection>>,
    free: Vec<u32>,
    count: usize,
    /// How many of them are guests'.
    guests: usize,
    runnable: Vec<u32>,
    /// Who has not read an answer yet, and since when; short, so that a round costs nothing per connection.
    waiting: Vec<(u32, Instant)>,
    /// Somebody asked for the end.
    pub(super) told_to_end: bool,
    asked_for_end: Option<u32>,
    /// Who is told what happens.
    subscribers: Subscribers,
    identity: Hello,
    idle: Option<Duration>,
    started: Instant,
    uid: u32,
}

struct Connection {
    line: Line,
    uid: u32,
    ports: Vec<PortId>,
    /// It and its ports keep no switch that ends when unused.
    guest: bool,
    runnable: bool,
    /// It is over once what waits is sent.
    closing: bool,
}

/// What requests work on.
pub(super) struct Hall<'a> {
    pub(super) switch: &'a mut Switch,
    pub(super) plugs: &'a mut Plugs,
    pub(super) metrics: &'a mut Metrics,
    pub(super) on_file: &'a mut OnFile<'a>,
    pub(super) epoll: &'a Epoll,
    pub(super) vde: &'a mut Option<VdeServer>,
    pub(super) access: &'a mut Access,
    pub(super) residents: &'a mut Residents,
}

/// What came of serving a connection.
enum Served {
    /// Nothing more to do until it is ready again.
    Waits,
    /// There may be another request.
    Again,
    /// It is over.
    Over,
}

impl Connections {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Self {
            table: Vec::new(),
            free: Vec::new(),
            count: 0,
            guests: 0,
            runnable: Vec::new(),
            waiting: Vec::new(),
            told_to_end: false,
            asked_for_end: None,
            subscribers: Subscribers::default(),
            identity: Hello { version: VERSION, name: options.name.clone(), pid: std::process::id() },
            idle: options.idle,
            started: now,
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    /// Is there anybody, or any of the switch's `ports`, that keeps it? Only where guests are alone they are counted.
    pub(super) fn keep(&self, ports: usize) -> bool {
        let theirs = || -> usize {
            self.table.iter().flatten().map(|it| if it.guest { it.ports.len() } else { 0 }).sum()
        };
        self.count > self.guests || ports > theirs()
    }

    /// Takes in a connection, if there is room.
    pub(super) fn add(&mut self, stream: UnixStream, epoll: &Epoll) {
        let Ok(credentials) = getsockopt(&stream, sockopt::PeerCredentials) else { return };
        let uid = credentials.uid();
        let foreign = self.table.iter().flatten().filter(|c| c.uid == uid && !self.may_change(uid)).count();
        if self.count >= MAX_CONNECTIONS || foreign >= MAX_FOREIGN {
            log::warn!("too many connections, user {uid} is turned away");
            return;
        }
        let Ok(line) = Line::server(stream) else { return };
        let index = self.free.pop().unwrap_or(self.table.len() as u32);
        if epoll.add(&line, interest(EpollFlags::EPOLLIN, Source::Connection(index))).is_err() {
            self.free.push(index);
            return;
        }
        if self.table.len() <= index as usize {
            self.table.resize_with(index as usize + 1, || None);
        }
        let (ports, guest, runnable, closing) = (Vec::new(), false, false, false);
        self.table[index as usize] = Some(Connection { line, uid, ports, guest, runnable, closing });
        self.count += 1;
    }

    /// A connection can be read or written.
    pub(super) fn handle_ready(&mut self, index: u32, _events: EpollFlags) {
        self.make_runnable(index);
    }

    fn make_runnable(&mut self, index: u32) {
        if let Some(connection) = self.connection(index).filter(|c| !c.runnable) {
            connection.runnable = true;
            self.runnable.push(index);
        }
    }

    /// Serves all ready connections, and drops those that do not read.
    pub(super) fn serve(&mut self, now: Instant, hall: &mut Hall<'_>) {
        for index in std::mem::take(&mut self.runnable) {
            if let Some(connection) = self.connection(index) {
                connection.runnable = false;
            }
            match self.serve_one(now, index, hall) {
                Served::Waits => {}
                Served::Again => self.make_runnable(index),
                Served::Over => self.remove(now, index, hall),
            }
        }
        while let Some(&(index, _)) = self.waiting.iter().find(|(_, since)| now >= *since + PATIENCE) {
            self.remove(now, index, hall);
        }
    }

    /// When a connection that does not read has to go, or at once if one has more requests.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if !self.runnable.is_empty() {
            return Some(self.started);
        }
        let patience = self.waiting.iter().map(|(_, since)| *since + PATIENCE);
        patience.chain(self.subscribers.poll_timeout()).min()
    }

    /// Answers the one who asked for the end.
    pub(super) fn say_goodbye(&mut self) {
        if let Some(connection) = self.asked_for_end.and_then(|index| self.connection(index)) {
            let _ = connection.line.send(&Reply::Ok(()), &[]);
        }
    }

    fn serve_one(&mut self, now: Instant, index: u32, hall: &mut Hall<'_>) -> Served {
        for _ in 0..REQUESTS {
            let Self { table, waiting, .. } = self;
            let Some(connection) = table.get_mut(index as usize).and_then(Option::as_mut) else {
                return Served::Waits;
            };
            let place = waiting.iter().position(|(waits, _)| *waits == index);
            if connection.line.flush().is_err() {
                return Served::Over;
            }
            if connection.line.wants_write() {
                if place.is_none() {
                    if waiting.len() >= MAX_WAITING {
                        return Served::Over;
                    }
                    waiting.push((index, now));
                    let mut event = interest(EpollFlags::EPOLLOUT, Source::Connection(index));
                    let _ = hall.epoll.modify(&connection.line, &mut event);
                }
                return Served::Waits;
            }
            if connection.closing {
                return Served::Over;
            }
            if let Some(place) = place {
                waiting.swap_remove(place);
                let mut event = interest(EpollFlags::EPOLLIN, Source::Connection(index));
                let _ = hall.epoll.modify(&connection.line, &mut event);
            }
            let reply = match connection.line.receive::<Request>() {
                Ok(Received::Pending) => return Served::Waits,
                Ok(Received::Closed) => return Served::Over,
                Ok(Received::Message(Request::Down, _)) if self.may_change_by(index) => {
                    self.told_to_end = true;
                    self.asked_for_end = Some(index);
                    return Served::Waits;
                }
                Ok(Received::Message(request, fds)) => match self.answer(now, index, request, fds, hall) {
                    Ok(answer) => Reply::Ok(answer),
                    Err(refusal) => Reply::Error(refusal),
                },
                Err(LineError::Malformed(e)) => Reply::Error(Refusal::new("bad request", e)),
                Err(_) => return Served::Over,
            };
            let Some(connection) = self.connection(index) else { return Served::Waits };
            if connection.line.send(&reply, &[]).is_err() {
                return Served::Over;
            }
        }
        Served::Again
    }

    fn answer(
        &mut self,
        now: Instant,
        index: u32,
        request: Request,
        fds: Vec<OwnedFd>,
        hall: &mut Hall<'_>,
    ) -> Result<Answer, Refusal> {
        self.judge(index, &request)?;
        let switch = &mut *hall.switch;
        let find = |switch: &Switch, name: &str| {
            let unknown = || refuse_port(&PortError::Unknown(name.to_owned()));
            switch.find(name).ok_or_else(unknown)
        };
        let select = |switch: &Switch, filter: &MacFilter| {
            filter.port.as_ref().map(|name| find(switch, name)).transpose()
        };
        Ok(match request {
            Request::Hello => Answer::Hello(self.identity.clone()),
            Request::Show => Answer::Show(self.show(now, hall)),
            Request::PortLs => Answer::Ports(hall.ports()),
            Request::PortAdd(attach) => Answer::Added(self.add_port(now, index, attach, fds, hall)?),
            Request::PortRm { port } => {
                let id = find(switch, &port)?;
                hall.plugs.say_farewell(now, Some(id), switch);
                hall.plugs.remove(id, switch, hall.epoll);
                Answer::Done(())
            }
            Request::PortSet { port, vlans, rename, peers } => {
                let id = find(switch, &port)?;
                peers.map_or(Ok(()), |peers| super::attach::set_peers(hall.plugs, id, peers))?;
                if let Some(name) = rename {
                    switch.rename(id, &name).map_err(|e| refuse_port(&e))?;
                    hall.plugs.captures.port_named(id, &name);
                }
                vlans.into_iter().for_each(|vlans| switch.set_vlans(id, vlans));
                hall.release_all_idle(now)
            }
            Request::VlanLs => Answer::Vlans(hall.vlans()),
            Request::VlanAdd { vid, name } => Answer::Done(name_vlan(switch, vid, &name)?),
            Request::VlanRm { vid } => {
                let removed = switch.remove_vlan(vid);
                removed.map_err(|id| self.refuse_vlan_rm(vid, id, switch.port(id)))?;
                hall.release_all_idle(now)
            }
            Request::MacLs(filter) => {
                let port = select(switch, &filter)?;
                Answer::Stations(hall.stations(now, &filter, port))
            }
            Request::MacFlush(filter) => Answer::Count(switch.flush(filter.vid, select(switch, &filter)?)),
            request @ (Request::Stp
            | Request::StpSet(_)
            | Request::StpPortSet { .. }
            | Request::Impair(_)
            | Request::ImpairLs) => links::answer(now, request, hall)?,
            request @ (Request::VdeLs | Request::VdeKeep(_) | Request::VdeRelease { .. }) => {
                vde::answer(request, hall)?
            }
            request @ (Request::Set(_)
            | Request::MirrorLs
            | Request::MirrorAdd(_)
            | Request::MirrorRm { .. }
            | Request::Capture(_)
            | Request::CaptureLs
            | Request::Events) => self.answer_seeing(now, index, request, fds, hall)?,
            Request::Host { attach, what } => Answer::Added(hall.host(now, attach, &what)?),
            about_traffic => traffic::answer(now, about_traffic, hall, &self.identity.name)?,
        })
    }

    fn refuse_vlan_rm(&self, vid: Vid, id: PortId, port: Option<&Port>) -> Refusal {
        let kept = number_name(id);
        let port = port.map_or(kept.as_str(), |p| p.name.as_str());
        let why = format!("port {port} is in it without tags");
        Refusal::new(format!("cannot remove VLAN {vid}"), why).hint(format!(
            "move it first: viewnet switch port set {} {port} --access VID",
            self.identity.name
        ))
    }

    /// Who may ask what: see [`crate::control`].
    fn judge(&mut self, index: u32, request: &Request) -> Result<(), Refusal> {
        use Request::{
            GuardLs, Hello, ImpairLs, MacLs, MirrorLs, PortAdd, PortLs, QosLs, ReserveLs, Show, Stp, VdeLs,
            VlanLs,
        };
        let allowed = match request {
            Hello | Show | PortLs | VlanLs | MacLs(_) | QosLs | GuardLs | ReserveLs | Stp | MirrorLs
            | ImpairLs | VdeLs => true,
            PortAdd(attach) => attach.vlans == PortVlans::default() && !attach.linger,
            _ => false,
        };
        if allowed || self.may_change_by(index) {
            return Ok(());
        }
        Err(Refusal::new("not permitted", format!("the switch belongs to user {}", self.uid))
            .hint("others may look, and plug in ports of VLAN 1")
            .errno(libc::EPERM))
    }

    fn may_change(&self, uid: u32) -> bool {
        uid == self.uid || uid == 0
    }

    fn may_change_by(&mut self, index: u32) -> bool {
        let uid = self.connection(index).map(|c| c.uid);
        uid.is_some_and(|uid| self.may_change(uid))
    }

    fn add_port(
        &mut self,
        now: Instant,
        index: u32,
        attach: Attach,
        fds: Vec<OwnedFd>,
        hall: &mut Hall<'_>,
    ) -> Result<PortAdded, Refusal> {
        const WHAT: &str = "cannot add the port";
        let trusted = self.may_change_by(index);
        let Made { wire, file, watch } = super::attach::made(&attach, fds, trusted)?;
        let path = file.as_ref().map(|file| file.path().to_owned());
        let name = attach.name.unwrap_or_else(|| hall.switch.free_name());
        let new = NewPlug {
            name: &name,
            wire,
            vlans: attach.vlans,
            offloads: attach.offloads,
            dying: attach.dying,
            owner: (!attach.linger).then_some(index),
            peer: super::attach::printable(&attach.peer),
            file,
            at: None,
            user: None,
        };
        let id = hall.plugs.add(now, new, hall.switch, hall.epoll).map_err(|e| refuse_plug(WHAT, e))?;
        if let Some(Err(e)) = watch.map(|fd| hall.plugs.watch(now, id, fd, hall.switch, hall.epoll)) {
            log::debug!("port {name}: its link is asked for: {e}");
        }
        if let Some(connection) = self.connection(index).filter(|_| !attach.linger) {
            connection.ports.push(id);
            let joins = attach.guest && !connection.guest;
            connection.guest |= joins;
            self.guests += usize::from(joins);
        }
        path.iter().for_each(|path| (hall.on_file)(path, true));
        Ok(PortAdded { name })
    }

    fn show(&self, now: Instant, hall: &Hall<'_>) -> Show {
        let switch = &*hall.switch;
        Show {
            name: self.identity.name.clone(),
            pid: self.identity.pid,
            uptime_s: now.saturating_duration_since(self.started).as_secs(),
            idle_s: self.idle.map(|idle| idle.as_secs()),
            age_s: switch.fdb().age().as_secs(),
            mgmt: hall.access.mgmt(),
            hub: switch.is_hub(),
            ports: switch.port_count(),
            vlans: switch.vlans().count(),
            stations: switch.stations(now).count(),
            stations_refused: switch.fdb().refused(),
            stations_learned: switch.fdb().learned(),
            stations_moved: switch.fdb().moved(),
            stations_aged: switch.fdb().aged(),
            metrics: hall.metrics.address(),
            connections: self.count,
            vde: hall.vde.as_ref().map(|vde| vde.folder().to_owned()),
        }
    }

    /// The counters, for Prometheus.
    pub(super) fn metrics_text(&self, now: Instant, hall: &Hall<'_>) -> String {
        crate::metrics::text(Snapshot {
            show: self.show(now, hall),
            ports: hall.ports(),
            vlans: hall.vlans(),
            mirrors: seeing::mirror_list(hall.switch),
        })
    }

    fn remove(&mut self, now: Instant, index: u32, hall: &mut Hall<'_>) {
        let Some(connection) = self.table.get_mut(index as usize).and_then(Option::take) else { return };
        let _ = hall.epoll.delete(&connection.line);
        self.waiting.retain(|(waits, _)| *waits != index);
        hall.plugs.captures.remove_of(index);
        self.subscribers.remove(index);
        for id in connection.ports {
            // The number may be another port's by now.
            if hall.plugs.plug(id).is_some_and(|plug| plug.owner == Some(index)) {
                hall.plugs.drain(now, id, hall.switch);
                hall.plugs.remove(id, hall.switch, hall.epoll);
            }
        }
        self.free.push(index);
        self.count -= 1;
        self.guests -= usize::from(connection.guest);
    }

    fn connection(&mut self, index: u32) -> Option<&mut Connection> {
        self.table.get_mut(index as usize)?.as_mut()
    }
}

impl Hall<'_> {
    fn ports(&self) -> Vec<PortInfo> {
        let info = |(id, port): (PortId, &Port)| {
            let plug = self.plugs.plug(id)?;
            let counted = &port.counters;
            Some(PortInfo {
                name: port.name.clone(),
                kind: plug.kind(),
                vlans: port.vlans.clone(),
                offloads: port.offloads,
                link: plug.wire.is_up(),
                stp: self
                    .switch
                    .stp()
                    .and_then(|stp| stp.role(id))
                    .map(|(role, state)| PortStp { role, state }),
                linger: plug.owner.is_none() && plug.resident.is_none(),
                peer: plug.endpoints().map(|(_, peer)| peer).collect::<Vec<_>>().join(", "),
                vxlan: plug.tunnel().map(|tunnel| tunnel.config().clone()),
                rx_frames: counted.rx_frames,
                rx_bytes: counted.rx_bytes,
                tx_frames: counted.tx_frames,
                tx_bytes: counted.tx_bytes,
                stations: self.switch.fdb().of_port(id),
                drops: counted.all_drops(),
                shut: port.shut,
            })
        };
        self.switch.ports().filter_map(info).collect()
    }

    fn vlans(&self) -> Vec<VlanInfo> {
        let name = |id| self.switch.port(id).map(|p| p.name.clone()).unwrap_or_default();
        let info = |vid| {
            let members = |untagged| {
                self.switch
                    .members(vid)
                    .filter(|(_, egress)| (*egress == Egress::Untagged) == untagged)
                    .map(|(id, _)| name(id))
                    .collect()
            };
            let counted = self.switch.vlan_counters(vid);
            VlanInfo {
                vid,
                name: self.switch.vlan_name(vid).unwrap_or_default().to_owned(),
                untagged: members(true),
                tagged: members(false),
                rx_frames: counted.rx_frames,
                rx_bytes: counted.rx_bytes,
                flooded: counted.flooded,
                tx_frames: counted.tx_frames,
                tx_bytes: counted.tx_bytes,
                limited: counted.limited,
                police: self.switch.vlan_police(vid),
            }
        };
        self.switch.vlans().map(info).collect()
    }

    fn stations(&self, now: Instant, filter: &MacFilter, port: Option<PortId>) -> Vec<Station> {
        let mut stations: Vec<Station> = self
            .switch
            .stations(now)
            .filter(|(vid, _, entry)| {
                filter.vid.is_none_or(|v| v == *vid) && port.is_none_or(|p| p == entry.port)
            })
            .map(|(vid, mac, entry)| Station {
                vid,
                mac,
                port: self.switch.port(entry.port).map(|p| p.name.clone()).unwrap_or_default(),
                age_ms: now.saturating_duration_since(entry.seen).as_millis() as u64,
                pinned: entry.pinned,
            })
            .collect();
        stations.sort_unstable_by_key(|s| (s.vid, s.mac));
        stations
    }
}

fn name_vlan(switch: &mut Switch, vid: Vid, name: &str) -> Result<(), Refusal> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Refusal::new("cannot name the VLAN", "a name is up to 64 printable bytes"));
    }
    switch.name_vlan(vid, name);
    Ok(())
}

pub(super) fn refuse_plug(what: &str, error: PlugError) -> Refusal {
    match error {
        PlugError::Port(e) => refuse_port(&e),
        PlugError::Io(e) => Refusal::system(what, e),
    }
}

pub(super) fn refuse_port(error: &PortError) -> Refusal {
    let (what, errno, hint) = match error {
        PortError::NameTaken(_) => ("cannot use the name", libc::EEXIST, "choose another"),
        PortError::BadName => ("cannot use the name", libc::EINVAL, "choose another"),
        PortError::NumberTaken(_) | PortError::NoSuchNumber(_) => {
            ("cannot use the number", libc::EINVAL, "choose another")
        }
        PortError::Full => ("cannot add the port", libc::ENOSPC, "remove one, or plug into another switch"),
        PortError::NoNumber => {
            ("cannot add the port", libc::ENOSPC, "turn it off: `viewnet switch set NAME --stp off`")
        }
        PortError::Unknown(_) => ("no such port", libc::ENOENT, "`viewnet switch port ls` lists them"),
        PortError::TooManyMirrors => ("cannot add the mirror", libc::ENOSPC, "remove one of them"),
        PortError::MirrorsItself(_) => {
            ("cannot add the mirror", libc::EINVAL, "give the copies to another port")
        }
        PortError::NoMirror(_) => ("no such mirror", libc::ENOENT, "`viewnet switch mirror ls` lists them"),
    };
    Refusal::new(what, error).errno(errno).hint(hint)
}
