//! AF_NETLINK: between sockets and [`crate::smol::netlink`].
//!
//! # Theory of operation
//! A request is handled with the whole stack in view ([`View`]): its tables to look at and to change, its
//! sockets to list. Changes of the tables, whoever made them, are told to the sockets that listen. Who a socket
//! belongs to is asked when it is made: what it may do, and which port it gets first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use msocket_proto::proto::{File, FilePlace};
use nix::errno::Errno;

use super::address::Domain;
use super::cmsg::Control;
use super::diag;
use super::groups::Membership;
use super::slots::Slots;
use super::{Body, Socket};
use crate::smol::call::{Caller, Done, Message};
use crate::smol::engine::{Counters, Engine, Received, SocketId, Status};
use crate::smol::mib::Mib;
use crate::smol::net::{Net, Path, Wish};
use crate::smol::netlink::proc::{Group, Holder, Stack};
use crate::smol::netlink::sys::{self, Node};
use crate::smol::netlink::{self, DiagSocket, Ports, World, notice};
use crate::smol::tables::{Change, Tables};
use crate::smol::tcp::Machine;

/// The netlink sockets of an engine.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    ports: Ports,
    /// Those that are members of a group, or may be.
    sockets: Vec<SocketId>,
}

/// A netlink socket and whose it is.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    inner: netlink::Socket,
    pid: i32,
    rights: bool,
    connected: bool,
}

impl NetlinkSocket {
    pub(crate) fn status(&self) -> Status {
        Status {
            readable: usize::from(self.inner.is_readable()),
            room: 1,
            connected: true,
            ..Status::default()
        }
    }

    pub(crate) fn local_name(&self) -> Vec<u8> {
        self.inner.local_name().to_vec()
    }

    /// The kernel, connected or not.
    pub(crate) fn peer_name(&self) -> Vec<u8> {
        netlink::address(0, 0).to_vec()
    }

    pub(crate) fn set_receive_buffer(&mut self, bytes: u32) {
        self.inner.set_receive_buffer(bytes as usize);
    }
}

/// The stack as netlink sees it.
struct View<'a> {
    net: &'a mut Net,
    sockets: &'a Slots,
    tcp: &'a Machine,
    now: Instant,
    counters: Counters,
}

impl Stack for View<'_> {
    fn mib(&self) -> &Mib {
        &self.net.mib
    }
    fn counters(&self) -> Counters {
        self.counters
    }
    fn groups(&self) -> Vec<Group> {
        let mut groups: BTreeMap<_, Group> = BTreeMap::new();
        let fresh = |link, group| Group { link, group, users: 0, filters: Vec::new() };
        for (link, group, own) in self.net.own_groups() {
            groups.entry((link, group)).or_insert_with(|| fresh(link, group)).users += own;
        }
        let lists = self.sockets.iter().filter_map(|(_, socket)| socket.options.groups.as_ref());
        for Membership { group, link, include, sources } in lists.flat_map(|list| &list.0) {
            let known = groups.entry((*link, *group)).or_insert_with(|| fresh(*link, *group));
            known.users += 1;
            known.filters.push((*include, sources.clone()));
        }
        groups.into_values().collect()
    }
    fn holders(&self, family: i32) -> Vec<Holder> {
        self.sockets.iter().filter_map(|(_, socket)| holder(socket, family)).collect()
    }
    fn used(&self) -> usize {
        self.sockets.len()
    }
    fn parts(&self, v4: bool) -> (usize, usize) {
        self.net.parts(v4)
    }
}

/// A packet socket, or a netlink socket, if that family is asked for.
fn holder(socket: &Socket, family: i32) -> Option<Holder> {
    let common = Holder { kind: socket.kind, uid: socket.uid, inode: socket.inode, ..Holder::default() };
    match &socket.body {
        Body::Packet(packet) if family == libc::AF_PACKET => Some(Holder {
            protocol: packet.protocol,
            link: packet.link.map_or(0, |link| link.0),
            queued: packet.queue.bytes(),
            ..common
        }),
        Body::Netlink(netlink) if family == libc::AF_NETLINK => {
            let (protocol, port, groups, queued, dumps) = netlink.inner.numbers();
            Some(Holder { protocol: protocol as u16, port, groups, queued, dumps, ..common })
        }
        _ => None,
    }
}

impl World for View<'_> {
    fn tables(&self) -> &Tables {
        &self.net.tables
    }
    fn tables_mut(&mut self) -> &mut Tables {
        &mut self.net.tables
    }
    fn route(&self, destination: IpAddr, wish: &Wish) -> Result<Path, Errno> {
        self.net.route(destination, wish)
    }
    fn sockets(&self, family: u8, protocol: u8) -> Vec<DiagSocket> {
        diag::list(self.sockets, self.tcp, self.now, family, protocol)
    }
}

impl Engine {
    pub(crate) fn new_netlink(&mut self, kind: i32, protocol: i32, caller: &Caller) -> Result<Socket, Errno> {
        if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        let inner = netlink::Socket::new(protocol)?;
        let netlink = NetlinkSocket { inner, pid: caller.pid, rights: caller.rights, connected: false };
        let body = Body::Netlink(Box::new(netlink));
        Ok(Socket::new(Domain::V4, kind, protocol as u16, caller.uid, Arc::default(), body))
    }

    /// What a file of /proc/net says.
    ///
    /// # Errors
    /// ENOENT, or EOPNOTSUPP for files that are not about this network.
    pub(crate) fn proc_file(&mut self, now: Instant, path: &str) -> Result<String, Errno> {
        let Self { net, sockets, tcp, counters, .. } = self;
        netlink::proc::file(path, &View { net, sockets, tcp, now, counters: *counters })
    }

    /// What is at a path of /proc/net or /sys/class/net; of a link what it leads to, unless the link itself is asked for.
    ///
    /// # Errors
    /// As [`Engine::proc_file`].
    pub(crate) fn file(&mut self, now: Instant, file: &File) -> Result<Node, Errno> {
        let parts: Vec<&str> = file.path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        match (file.place, parts.as_slice()) {
            // Whoever has folders knows what `..` is.
            (_, parts) if parts.is_empty() || parts.contains(&"..") => Ok(Node::Folder),
            (FilePlace::Proc, _) => self.proc_file(now, &file.path).map(Node::Text),
            (FilePlace::Sys, [name, rest @ ..]) => {
                let link = sys::device(&self.net.tables, name)?;
                if rest.is_empty() {
                    return Ok(Node::Folder);
                }
                let path = rest.join("/");
                let mut entries = sys::entries(link, &self.net.tables).into_iter();
                match entries.find(|(name, _)| *name == path) {
                    Some((_, node)) => Ok(node),
                    // It may be behind a link.
                    None if rest.len() > 1 => Ok(Node::Folder),
                    None => Err(Errno::ENOENT),
                }
            }
            (FilePlace::Sys, []) => Ok(Node::Folder),
        }
    }

    /// All files of both, below `proc` and `sys`: folders before what is in them.
    pub(crate) fn files(&mut self, now: Instant) -> Vec<(String, Node)> {
        let folders = ["proc", "sys", "sys/class", "sys/class/net", "sys/devices", "sys/devices/virtual"];
        let folders = folders.into_iter().chain(["sys/devices/virtual/net"]);
        let mut files: Vec<_> = folders.map(|name| (name.to_owned(), Node::Folder)).collect();
        for name in netlink::proc::NAMES {
            let text = self.proc_file(now, name).unwrap_or_default();
            files.push((format!("proc/{name}"), Node::Text(text)));
        }
        let tables = &self.net.tables;
        files.extend(sys::class(tables).map(|(name, node)| (format!("sys/class/net/{name}"), node)));
        for link in tables.links.values() {
            let folder = format!("sys/devices/virtual/net/{}", link.name);
            let below = sys::entries(link, tables);
            let below = below.into_iter().map(|(name, node)| (format!("{folder}/{name}"), node));
            files.push((folder.clone(), Node::Folder));
            files.extend(below);
        }
        files
    }

    /// Works on a netlink socket with the stack in view.
    fn with_netlink<T>(
        &mut self,
        id: SocketId,
        now: Instant,
        work: impl FnOnce(&mut NetlinkSocket, &mut Ports, &mut dyn World) -> T,
    ) -> Option<T> {
        // The socket leaves the table of sockets while that is looked at.
        let socket = self.sockets.get_mut(id)?;
        let Body::Netlink(netlink) = &mut socket.body else { return None };
        let idle = NetlinkSocket {
            inner: netlink::Socket::new(netlink.inner.protocol()).ok()?,
            pid: 0,
            rights: false,
            connected: false,
        };
        let mut netlink = std::mem::replace(&mut **netlink, idle);
        let mut view =
            View { net: &mut self.net, sockets: &self.sockets, tcp: &self.tcp, now, counters: self.counters };
        let result = work(&mut netlink, &mut self.netlink.ports, &mut view);
        if let Some(Body::Netlink(place)) = self.sockets.get_mut(id).map(|socket| &mut socket.body) {
            **place = netlink;
        }
        Some(result)
    }

    fn netlink_mut(&mut self, id: SocketId) -> Result<(&mut NetlinkSocket, &mut Ports), Errno> {
        match self.sockets.get_mut(id).map(|socket| &mut socket.body) {
            Some(Body::Netlink(netlink)) => Ok((netlink, &mut self.netlink.ports)),
            Some(_) => Err(Errno::ENOPROTOOPT),
            None => Err(Errno::EBADF),
        }
    }

    /// Tells whoever listens what changed.
    pub(crate) fn notify(&mut self, now: Instant, change: &Change) {
        if self.netlink.sockets.is_empty() {
            return;
        }
        let Some(notice) = notice(change, &self.net.tables, now) else { return };
        for id in self.netlink.sockets.clone() {
            if let Ok((netlink, _)) = self.netlink_mut(id) {
                netlink.inner.offer(&notice);
                self.mark(id);
            }
        }
    }

    /// Keeps the list of those that listen.
    fn note_listener(&mut self, id: SocketId) {
        let listens = self.netlink_mut(id).is_ok_and(|(netlink, _)| netlink.inner.listens());
        let known = self.netlink.sockets.contains(&id);
        match (listens, known) {
            (true, false) => self.netlink.sockets.push(id),
            (false, true) => self.netlink.sockets.retain(|other| *other != id),
            _ => {}
        }
    }

    pub(crate) fn bind_netlink(&mut self, id: SocketId, caller: &Caller, bytes: &[u8]) -> Result<(), Errno> {
        let (netlink, ports) = self.netlink_mut(id)?;
        netlink.inner.bind(ports, caller.pid, caller.rights, bytes)?;
        self.note_listener(id);
        Ok(())
    }

    pub(crate) fn connect_netlink(&mut self, id: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        let (netlink, ports) = self.netlink_mut(id)?;
        if super::address::family(bytes) == Some(libc::AF_UNSPEC) {
            netlink.connected = false;
            return Ok(());
        }
        netlink.inner.check_destination(bytes)?;
        let pid = netlink.pid;
        netlink.inner.bind_any(ports, pid)?;
        netlink.connected = true;
        Ok(())
    }

    pub(crate) fn send_netlink(
        &mut self,
        now: Instant,
        id: SocketId,
        to: Option<&[u8]>,
        data: &[u8],
    ) -> Result<Done, Errno> {
        let sent = self.with_netlink(id, now, |netlink, ports, world| {
            to.map_or(Ok(()), |to| netlink.inner.check_destination(to))?;
            netlink.inner.bind_any(ports, netlink.pid)?;
            netlink.inner.handle(data, world, now, netlink.rights)
        });
        sent.ok_or(Errno::EBADF)??;
        self.mark(id);
        Ok(Done::Value(data.len() as i64))
    }

    /// Offers the oldest datagram.
    pub(crate) fn offer_netlink(
        &mut self,
        id: SocketId,
        from: &mut Vec<u8>,
        control: &mut Vec<u8>,
        take: &mut dyn FnMut(&Received<'_>) -> bool,
    ) -> bool {
        let now = self.clock;
        let taken = self.with_netlink(id, now, |netlink, _, world| {
            let Some(datagram) = netlink.inner.front(world, now) else { return false };
            let group = datagram.group;
            from.clear();
            from.extend_from_slice(&netlink::address(0, group_bit(group)));
            let data = datagram.data.clone();
            let mut records = Control::new(control, usize::MAX);
            describe(netlink, group, &mut records);
            let taken = take(&Received { from, control, data: &data });
            if taken {
                netlink.inner.pop();
            }
            taken
        });
        taken.unwrap_or(false)
    }

    pub(crate) fn receive_netlink(
        &mut self,
        id: SocketId,
        length: usize,
        room: usize,
        flags: i32,
    ) -> Result<Message, Errno> {
        let now = self.clock;
        let received = self.with_netlink(id, now, |netlink, _, world| {
            if let Some(error) = netlink.inner.take_error() {
                return Err(error);
            }
            let datagram = netlink.inner.front(world, now).ok_or(Errno::EAGAIN)?;
            let copied = datagram.data.len().min(length);
            let (whole, group) = (datagram.data.len(), datagram.group);
            let mut message = Message {
                data: datagram.data[..copied].to_vec(),
                length: copied,
                from: netlink::address(0, group_bit(group)).to_vec(),
                ..Message::default()
            };
            if copied < whole {
                message.flags |= libc::MSG_TRUNC;
                if flags & libc::MSG_TRUNC != 0 {
                    message.length = whole;
                }
            }
            let mut records = Control::new(&mut message.control, room);
            describe(netlink, group, &mut records);
            if records.truncated {
                message.flags |= libc::MSG_CTRUNC;
            }
            if flags & libc::MSG_PEEK == 0 {
                netlink.inner.pop();
            }
            Ok(message)
        });
        received.ok_or(Errno::EBADF)?
    }

    pub(crate) fn get_netlink_option(
        &mut self,
        id: SocketId,
        name: i32,
        room: usize,
    ) -> Result<Vec<u8>, Errno> {
        let Ok((netlink, _)) = self.netlink_mut(id) else { return Err(self.no_such_level(id)) };
        let bytes = netlink.inner.option(name)?;
        // A list is as long as there are groups, and nothing of it is given if there are none.
        let list = name == libc::NETLINK_LIST_MEMBERSHIPS;
        if !list && room < 4 {
            return Err(Errno::EINVAL);
        }
        Ok(if list && !netlink.inner.listens() { Vec::new() } else { bytes })
    }

    pub(crate) fn set_netlink_option(
        &mut self,
        id: SocketId,
        caller: &Caller,
        name: i32,
        value: &[u8],
    ) -> Result<(), Errno> {
        let Ok((netlink, ports)) = self.netlink_mut(id) else { return Err(Errno::ENOPROTOOPT) };
        if matches!(name, libc::NETLINK_ADD_MEMBERSHIP | libc::NETLINK_DROP_MEMBERSHIP) {
            let pid = netlink.pid;
            netlink.inner.bind_any(ports, pid)?;
        }
        netlink.inner.set_option(name, value, caller.rights)?;
        self.note_listener(id);
        Ok(())
    }

    /// ioctl(2) about interfaces, on any socket.
    pub(crate) fn interface_ioctl(
        &mut self,
        now: Instant,
        id: SocketId,
        caller: &Caller,
        request: u32,
        argument: &[u8],
    ) -> Result<Done, Errno> {
        let socket = self.sockets.get(id).ok_or(Errno::EBADF)?;
        let family = match socket.body {
            Body::Packet(_) => libc::AF_PACKET,
            Body::Netlink(_) => libc::AF_NETLINK,
            Body::Stream(_) | Body::Datagram(_) => socket.domain.family(),
        };
        let mut view =
            View { net: &mut self.net, sockets: &self.sockets, tcp: &self.tcp, now, counters: self.counters };
        netlink::ioctl::answer(request, argument, family, &mut view, now, caller.rights).map(Done::Bytes)
    }

    pub(crate) fn close_netlink(&mut self, id: SocketId) {
        self.netlink.sockets.retain(|other| *other != id);
        if let Some(Body::Netlink(netlink)) = self.sockets.remove(id).map(|socket| socket.body) {
            self.netlink.ports.release(&netlink.inner);
        }
    }
}

/// nl_groups of a datagram: of the first 32 groups, a bit.
fn group_bit(group: u32) -> u32 {
    group.checked_sub(1).map_or(0, |n| 1u32.checked_shl(n).unwrap_or(0))
}

/// NETLINK_PKTINFO
fn describe(netlink: &NetlinkSocket, group: u32, records: &mut Control<'_>) {
    if netlink.inner.wants_packet_info() {
        records.put(libc::SOL_NETLINK, libc::NETLINK_PKTINFO, &group.to_ne_bytes());
    }
}
