//! Publishing what programs listen on, whatever that is at the moment.
//!
//! # Theory of operation
//! Nothing tells who listens in a network namespace, so the stack is asked for its lists of TCP sockets (proc_net(5))
//! every [`INTERVAL`], over its path: first the IPv4 list, then the IPv6 list. Neither question nor answer is waited for. What
//! listens and is not published is; what is published and does not listen any more is not. A port that cannot be had
//! is tried again each time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use msocket_proto::line::{Line, Received, Reply};
use msocket_proto::proto::{File, FilePlace, FileUse, Request};
use nix::sys::epoll::EpollFlags;

use super::{Doors, Inside};
use crate::gateway::publish::{MAX_PORTS, Transport, listening};
use crate::gateway::{Hall, Place};

/// How often it is looked: what a person takes for at once.
const INTERVAL: Duration = Duration::from_millis(250);
/// Bytes of a list that are read: twenty-five thousand sockets.
const MAX_LIST: u64 = 4 << 20;
/// Below /proc/net.
const LISTS: [&str; 2] = ["tcp", "tcp6"];

/// What is published by itself.
#[derive(Debug)]
pub(super) struct Auto {
    /// The host's address; `None`: any.
    address: Option<IpAddr>,
    line: Option<Line>,
    /// When to ask.
    at: Instant,
    /// Which list is asked for.
    asked: Option<usize>,
    found: BTreeSet<u16>,
    failed: BTreeMap<u16, String>,
}

impl Auto {
    pub(super) fn new(now: Instant, address: Option<IpAddr>) -> Self {
        Self { address, line: None, at: now, asked: None, found: BTreeSet::new(), failed: BTreeMap::new() }
    }

    /// The host's address; `None`: any.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Ports that cannot be had, and why.
    pub(super) fn failures(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        let address = self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.failed.iter().map(move |(port, why)| (SocketAddr::new(address, *port), why.as_str()))
    }

    /// Asks for the first list; an answer that is late is given up with its connection.
    fn begin(&mut self, now: Instant, id: u32, inside: &Inside, hall: &Hall) {
        self.at = now + INTERVAL;
        if self.asked.is_some() {
            (self.line, self.asked) = (None, None);
            return;
        }
        if self.line.is_none() {
            // A stack that is not there yet is asked the next time.
            let line = UnixStream::connect(&inside.path).and_then(Line::server);
            self.line =
                line.ok().filter(|line| hall.watch(line, Place::Auto(id), EpollFlags::EPOLLIN).is_ok());
        }
        self.found.clear();
        self.ask(0);
    }

    fn ask(&mut self, list: usize) {
        let Some(line) = &mut self.line else { return };
        let request =
            Request::File(File { place: FilePlace::Proc, path: LISTS[list].into(), how: FileUse::Read });
        self.asked = Some(list);
        if line.send(&request, &[]).is_err() {
            (self.line, self.asked) = (None, None);
        }
    }

    /// Takes an answer. True: all is known.
    fn receive(&mut self, addresses: &[IpAddr]) -> bool {
        let (Some(line), Some(list)) = (&mut self.line, self.asked) else { return false };
        let file = match line.receive::<Reply<()>>() {
            Ok(Received::Pending) => return false,
            Ok(Received::Message(Reply::Ok(()), mut fds)) => fds.pop(),
            // A stack without this family has no such list.
            Ok(Received::Message(Reply::Error(_), _)) => None,
            Ok(Received::Closed) | Err(_) => {
                (self.line, self.asked) = (None, None);
                return false;
            }
        };
        if let Some(file) = file {
            let mut bytes = Vec::new();
            let _ = std::fs::File::from(file).take(MAX_LIST).read_to_end(&mut bytes);
            self.found.extend(listening(&String::from_utf8_lossy(&bytes), addresses));
        }
        self.asked = None;
        if list + 1 < LISTS.len() {
            self.ask(list + 1);
            return false;
        }
        true
    }
}

impl Doors {
    /// Asks those whose time has come.
    pub(super) fn look(&mut self, now: Instant, hall: &Hall) {
        self.look_at = None;
        for (id, publication) in &mut self.publications {
            let Some(auto) = &mut publication.auto else { continue };
            if auto.at <= now {
                auto.begin(now, *id, &publication.inside, hall);
            }
            self.look_at = Some(self.look_at.map_or(auto.at, |at| at.min(auto.at)));
        }
    }

    /// A stack has answered.
    pub(in crate::gateway) fn handle_answer(&mut self, id: u32, hall: &mut Hall) {
        let Some(publication) = self.publications.get_mut(&id) else { return };
        let Some(auto) = &mut publication.auto else { return };
        if !auto.receive(&publication.inside.addresses) {
            return;
        }
        let (found, address) = (std::mem::take(&mut auto.found), auto.address);
        let mut open = BTreeSet::new();
        for slot in 0..self.doors.len() {
            let Some(door) = self.doors[slot].as_ref().filter(|door| door.publication == id) else {
                continue;
            };
            if door.auto && !found.contains(&door.port) {
                self.close(slot);
            } else if door.transport == Transport::Tcp {
                open.insert(door.port);
            }
        }
        let mut failed = BTreeMap::new();
        for &port in found.iter().filter(|port| !open.contains(port)).take(MAX_PORTS) {
            if let Err(refusal) = self.open_port(id, (Transport::Tcp, address, port), port, true, hall) {
                self.close_auto(id, port);
                failed.insert(port, refusal.why);
            }
        }
        if let Some(auto) = self.publications.get_mut(&id).and_then(|it| it.auto.as_mut()) {
            auto.failed = failed;
        }
    }

    /// One family of a port could be had, the other could not.
    fn close_auto(&mut self, id: u32, port: u16) {
        for slot in 0..self.doors.len() {
            let half = |door: &super::Door| door.publication == id && door.auto && door.port == port;
            if self.doors[slot].as_ref().is_some_and(half) {
                self.close(slot);
            }
        }
    }
}
