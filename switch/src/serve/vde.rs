//! VDE's programs as ports: the folder in which they find the switch, and their plugging in.
//!
//! # Theory of operation
//! [`VdeServer`] listens on `ctl` in its folder, as a vde_switch does ([`crate::vde`] is the protocol). A client has
//! [`PATIENCE`] for its request, and [`MAX_CLIENTS`] may be about it: then the oldest has to go. Port number N is
//! called `vdeN`; a client that asks for a number gets that port, beside other programs of its user if there are some
//! (`plugs/endpoints`), and none if it is another user's, or not a program's. A number that is kept for some
//! user or group ([`crate::switch::Place`]) is for those. The port goes when the last client's connection does, and
//! each socket's name with its own.
//!
//! File modes are vde_switch's: the mode given is that of the sockets, and the folder's follows from it. A folder
//! that was there is taken over if there is nothing in it but sockets that a vde_switch left behind.

use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use msocket_proto::line::{Refusal, SocketFile, is_dead, listen_locked, lock_folder};
use nix::sys::epoll::{Epoll, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt};

use super::attach::printable;
use super::connections::Hall;
use super::plugs::{FIRST, NewPlug};
use super::{Source, interest};
use crate::control;
use crate::port::PortId;
use crate::ports::vde::{Access, Seat};
use crate::ports::{Kind, Wire, peer_groups};
use crate::switch::number_name;
use crate::vde::{BadRequest, MAX_REQUEST, Request, Wanted, address, folder_mode, is_socket_name};
use crate::vlan::PortVlans;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients at most that have not asked yet; they ask at once.
const MAX_CLIENTS: usize = 64;
/// Bytes of the folder's path at most: a socket's path in it must fit into 107 (unix(7)).
const MAX_FOLDER: usize = 96;

/// The port of a vde_switch's own management.
const ZERO: &str = "vde0";

/// Where VDE's programs plug in.
#[derive(Debug)]
pub(super) struct VdeServer {
    folder: PathBuf,
    access: Access,
    listener: UnixListener,
    file: SocketFile,
    clients: Vec<Client>,
    /// The next client's number.
    next: u32,
}

/// Somebody who has not asked yet.
#[derive(Debug)]
struct Client {
    index: u32,
    stream: UnixStream,
    uid: u32,
    since: Instant,
    request: Vec<u8>,
}

/// Serves VDE's programs elsewhere from now on, or nowhere.
pub(super) fn set(server: &mut Option<VdeServer>, vde: &control::Vde, epoll: &Epoll) -> Result<(), Refusal> {
    let access = Access { mode: vde.mode, group: vde.group };
    match (server.as_mut(), &vde.path) {
        (Some(server), Some(path)) if server.folder == *path => server.set_access(access),
        (_, None) => {
            server.take().into_iter().for_each(|server| server.close(epoll));
            Ok(())
        }
        (_, Some(path)) => {
            let new = VdeServer::new(path, access, epoll)?;
            server.replace(new).into_iter().for_each(|old| old.close(epoll));
            Ok(())
        }
    }
}

impl VdeServer {
    fn new(folder: &Path, access: Access, epoll: &Epoll) -> Result<Self, Refusal> {
        let what = format!("cannot serve VDE's programs at {}", folder.display());
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => Refusal::new(&what, "another switch is there")
                .hint("choose another folder, or end the switch that serves it"),
            io::ErrorKind::DirectoryNotEmpty => Refusal::new(&what, "there are other things in that folder")
                .hint("give a folder that is not there yet"),
            io::ErrorKind::InvalidInput => {
                Refusal::new(&what, "the path is not absolute, or longer than 96 bytes")
                    .hint("choose another")
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                Refusal::new(&what, "it is there and no folder").hint("choose another path")
            }
            _ => Refusal::system(&what, e),
        };
        if !folder.is_absolute() || folder.as_os_str().len() > MAX_FOLDER {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        // What may not be there yet is made for us alone, and opened when all is in place.
        let made = match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => take_over(folder).map(|()| false),
            other => other.map(|()| true),
        };
        let made = made.map_err(failed)?;
        let bound = bind(folder, access).and_then(|(listener, file)| {
            // By edges: without a free descriptor whoever waits would wake us for ever.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            epoll.add(&listener, interest(flags, Source::VdeListener))?;
            Ok((listener, file))
        });
        let (listener, file) = bound.map_err(|e| {
            let _ = made.then(|| std::fs::remove_dir(folder));
            failed(e)
        })?;
        let folder = folder.to_owned();
        Ok(Self { folder, access, listener, file, clients: Vec::new(), next: 0 })
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn set_access(&mut self, access: Access) -> Result<(), Refusal> {
        let done = access
            .apply(self.file.path(), access.mode, None)
            .and_then(|()| access.apply(&self.folder, folder_mode(access.mode), None));
        let what = || format!("cannot change who may use {}", self.folder.display());
        done.map_err(|e| Refusal::system(what(), e))?;
        self.access = access;
        Ok(())
    }

    /// Stops; ports that were plugged in stay.
    pub(super) fn close(self, epoll: &Epoll) {
        let _ = epoll.delete(&self.listener);
        for client in &self.clients {
            let _ = epoll.delete(&client.stream);
        }
        self.file.remove();
        // Not while ports have their sockets there; then the last of them leaves an empty folder behind.
        let _ = std::fs::remove_dir(&self.folder);
    }

    /// Takes in who connected.
    pub(super) fn accept(&mut self, now: Instant, epoll: &Epoll) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                let oldest = self.clients.remove(0);
                log::debug!("VDE: user {} asked for nothing, and is turned away", oldest.uid);
                let _ = epoll.delete(&oldest.stream);
            }
            let Ok(uid) = getsockopt(&stream, sockopt::PeerCredentials).map(|peer| peer.uid()) else {
                continue;
            };
            let index = self.next;
            self.next = self.next.wrapping_add(1);
            let added = stream.set_nonblocking(true).and_then(|()| {
                Ok(epoll.add(&stream, interest(EpollFlags::EPOLLIN, Source::VdeClient(index)))?)
            });
            if added.is_ok() {
                self.clients.push(Client { index, stream, uid, since: now, request: Vec::new() });
            }
        }
    }

    /// When to call [`VdeServer::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.clients.first().map(|client| client.since + PATIENCE)
    }

    /// Turns away who takes too long.
    pub(super) fn handle_timeout(&mut self, now: Instant, epoll: &Epoll) {
        self.clients.retain(|client| {
            let stays = now < client.since + PATIENCE;
            if !stays {
                let _ = epoll.delete(&client.stream);
            }
            stays
        });
    }

    /// A client's request, once it is whole; the client is none of the waiting any more then, nor if it is bad.
    fn request(&mut self, index: u32, epoll: &Epoll) -> Option<(Client, Request)> {
        let at = self.clients.iter().position(|client| client.index == index)?;
        let client = &mut self.clients[at];
        let mut bytes = [0; MAX_REQUEST];
        let room = MAX_REQUEST - client.request.len();
        let parsed = match client.stream.read(&mut bytes[..room]) {
            Ok(len) if len > 0 => {
                client.request.extend(&bytes[..len]);
                Request::parse(&client.request)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return None;
            }
            _ => Err(BadRequest::Magic),
        };
        if parsed == Err(BadRequest::Short) {
            return None;
        }
        let client = self.clients.remove(at);
        let _ = epoll.delete(&client.stream);
        match parsed {
            Ok(request) => Some((client, request)),
            Err(e) => {
                log::debug!("VDE: a request of user {} is refused: {e}", client.uid);
                None
            }
        }
    }
}

/// A client can be read. One that gets no port sees its connection closed, as with a vde_switch.
pub(super) fn handle_client(now: Instant, index: u32, hall: &mut Hall<'_>) {
    let Some(server) = hall.vde.as_mut() else { return };
    let Some((client, request)) = server.request(index, hall.epoll) else { return };
    let (uid, description) = (client.uid, request.description.clone());
    let (folder, access) = (server.folder.clone(), server.access);
    let added = add(now, &folder, access, client, request, hall);
    added.unwrap_or_else(|why| log::debug!("VDE: no port for user {uid}, `{description}`: {why}"));
}

/// Where a client is plugged in.
#[derive(Debug, Clone, Copy)]
enum Seated {
    /// At a port of its own, which is to have this name.
    Alone(PortId, bool),
    /// At a port where others of its user are.
    Among(PortId),
}

/// Makes a port of a client, or gives it a seat at one.
fn add(
    now: Instant,
    folder: &Path,
    access: Access,
    mut client: Client,
    request: Request,
    hall: &mut Hall<'_>,
) -> Result<(), Refusal> {
    const WHAT: &str = "cannot add a VDE port";
    let failed = |e: io::Error| Refusal::system(WHAT, e);
    let groups = groups_of(&client.stream).map_err(failed)?;
    let seated = find_seat(hall, request.port, client.uid, &groups).map_err(|why| Refusal::new(WHAT, why))?;
    let (id, is_zero) = match seated {
        Seated::Alone(id, is_zero) => (id, is_zero),
        Seated::Among(id) => (id, request.port == Wanted::Zero),
    };
    let number = if is_zero { 0 } else { id.index() + 1 };
    let seat = Seat::new(folder, number, access, &request.socket, client.uid).map_err(failed)?;
    let answer = address(std::os::unix::ffi::OsStrExt::as_bytes(seat.name.path().as_os_str()));
    let control = client.stream.try_clone().map_err(failed)?;
    let wire = Wire::new(vec![seat.data, control.into()], Kind::Vde).map_err(failed)?;
    let path = seat.name.path().to_owned();
    let peer = printable(&request.description);
    let endpoint = match seated {
        Seated::Among(_) => {
            let joined = hall.plugs.join(id, wire, peer, Some(seat.name), hall.switch, hall.epoll);
            joined.map_err(failed)?
        }
        Seated::Alone(..) => {
            let new = NewPlug {
                name: &if is_zero { ZERO.to_owned() } else { number_name(id) },
                wire,
                vlans: PortVlans::default(),
                offloads: None,
                dying: false,
                owner: None,
                peer,
                file: Some(seat.name),
                at: Some(id),
                user: Some(client.uid),
            };
            let added = hall.plugs.add(now, new, hall.switch, hall.epoll);
            added.map_err(|e| Refusal::new(WHAT, e))?;
            FIRST
        }
    };
    (hall.on_file)(&path, true);
    // Now that frames would not be lost. The answer fits into the connection's empty buffer.
    client.stream.write_all(&answer).map_err(|e| {
        hall.plugs.close_endpoint(id, endpoint, hall.switch, hall.epoll);
        failed(e)
    })
}

/// The place for a client of this user: what it wants, or why it cannot be had.
fn find_seat(hall: &Hall<'_>, wanted: Wanted, uid: u32, groups: &[u32]) -> Result<Seated, String> {
    let switch = &*hall.switch;
    let admits = |id: PortId| switch.place(id).is_none_or(|place| place.admits(uid, groups));
    let free = || switch.free_number(admits).ok_or("no number is free");
    let share = |id: PortId| match hall.plugs.plug(id).and_then(|plug| plug.user) {
        Some(user) if user == uid => Ok(Seated::Among(id)),
        Some(user) => Err(format!("port {} is user {user}'s", id.index() + 1)),
        None => Err(format!("port {} is no program's", id.index() + 1)),
    };
    match wanted {
        Wanted::Any => Ok(Seated::Alone(free()?, false)),
        Wanted::Zero => switch.find(ZERO).map_or_else(|| Ok(Seated::Alone(free()?, true)), share),
        Wanted::Number(number) => {
            let id = PortId::new(number.checked_sub(1).ok_or("ports' numbers begin with 1")?);
            match switch.port(id) {
                Some(_) => share(id),
                None if !admits(id) => Err(format!("port {number} is not for user {uid}")),
                None => Ok(Seated::Alone(id, false)),
            }
        }
    }
}

/// The groups of a client, when it connected.
fn groups_of(client: &UnixStream) -> io::Result<Vec<u32>> {
    let own = getsockopt(client, sockopt::PeerCredentials)?.gid();
    let mut groups = peer_groups(client)?;
    groups.push(own);
    Ok(groups)
}

/// Makes sure that a folder is fit to be ours, and removes what a dead switch left there.
fn take_over(folder: &Path) -> io::Result<()> {
    let ctl = folder.join("ctl");
    let mut left = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_ours = entry.file_name() == "ctl" || is_socket_name(&entry.file_name());
        if !is_ours || !entry.file_type()?.is_socket() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        left.push(entry.path());
    }
    if ctl.exists() && !is_dead(&ctl) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    left.into_iter().filter(|path| *path != ctl).try_for_each(std::fs::remove_file)
}

fn bind(folder: &Path, access: Access) -> io::Result<(UnixListener, SocketFile)> {
    let path = folder.join("ctl");
    let _lock = lock_folder(&path)?;
    let listener = listen_locked(&path, access.mode)?;
    let file = SocketFile::at(&path)?;
    let opened = access
        .apply(&path, access.mode, None)
        .and_then(|()| access.apply(folder, folder_mode(access.mode), None));
    opened.inspect_err(|_| file.remove_locked())?;
    Ok((listener, file))
}
