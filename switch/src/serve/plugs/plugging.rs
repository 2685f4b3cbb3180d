//! Ports are plugged in and pulled out.
//!
//! # Theory of operation
//! Closing a TAP waits some 30 ms for the kernel, in which no frame would move. So descriptors are closed by
//! a thread that does nothing else, started with the first; TAPs whose namespace dies anyway are abandoned
//! instead, at once. A port is marked dead when its wire is, and pulled out when the round is over, as others may be
//! about to write to it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollFlags};

use super::endpoints::{FIRST, tell_gone};
use super::{DRAIN_TURNS, NewPlug, Plug, PlugError, Plugs, READABLE};
use crate::port::{Offloads, PortId};
use crate::ports::vde::FileName;
use crate::ports::{Kind, Wire, tap};
use crate::serve::{Source, interest};
use crate::switch::Switch;

impl Plugs {
    /// Moves what a port still holds before it is pulled out: the last words of a program that has ended.
    pub(in crate::serve) fn drain(&mut self, now: Instant, id: PortId, switch: &mut Switch) {
        for _ in 0..DRAIN_TURNS {
            if !self.handle_ready(now, id, EpollFlags::EPOLLIN, switch) {
                return;
            }
        }
    }

    /// Plugs a port in.
    pub(in crate::serve) fn add(
        &mut self,
        now: Instant,
        new: NewPlug<'_>,
        switch: &mut Switch,
        epoll: &Epoll,
    ) -> Result<PortId, PlugError> {
        let offloads = match new.offloads {
            // Without a virtio-net header there is nobody to tell what is undone.
            Some(wanted) if new.wire.offloads() != Offloads::NONE => wanted,
            _ => new.wire.offloads(),
        };
        let id = match new.at {
            Some(id) => switch.add_port_at(id, new.name, offloads).map(|()| id)?,
            None => switch.add_port(new.name, new.vlans, offloads)?,
        };
        let is_ring = new.wire.kind() == Kind::Ring;
        let flags = if is_ring { READABLE | EpollFlags::EPOLLET } else { READABLE };
        let source = new.wire.source().map(|fd| (fd, flags, Source::Port(id)));
        let lifeline = new.wire.lifeline().map(|(fd, flags)| (fd, flags, Source::Lifeline(id)));
        for (fd, flags, source) in source.into_iter().chain(lifeline) {
            if let Err(e) = epoll.add(fd, interest(flags, source)) {
                new.wire.source().into_iter().for_each(|fd| {
                    let _ = epoll.delete(fd);
                });
                switch.remove_port(id);
                return Err(io::Error::from(e).into());
            }
        }
        if self.table.len() <= id.index() {
            self.table.resize_with(id.index() + 1, || None);
        }
        self.captures.port_named(id, new.name);
        if is_ring {
            // Its other end may have put frames already.
            self.awake.push(id);
        }
        self.table[id.index()] = Some(Plug {
            wire: new.wire,
            offloads,
            queues: None,
            touched: false,
            listed: false,
            dying: new.dying,
            owner: new.owner,
            resident: None,
            errors: 0,
            dead: false,
            down: false,
            awake: is_ring,
            unflushed: false,
            blocked: false,
            peer: new.peer,
            file: new.file,
            endpoint: FIRST,
            others: Vec::new(),
            user: new.user,
            swollen: false,
            told: None,
            lines: None,
        });
        self.enter_tree(now, id, switch);
        if new.user.is_some() {
            self.tell_endpoint(id, FIRST, switch);
        }
        Ok(id)
    }

    /// Pulls a port out.
    pub(in crate::serve) fn remove(&mut self, id: PortId, switch: &mut Switch, epoll: &Epoll) {
        let Some(mut plug) = self.table.get_mut(id.index()).and_then(Option::take) else { return };
        for endpoint in std::mem::take(&mut plug.others) {
            self.forget_endpoint(id, endpoint, switch, epoll);
        }
        if plug.user.is_some() {
            tell_gone(id, plug.endpoint, switch);
        }
        let lifeline = plug.wire.lifeline().map(|(fd, _)| fd);
        plug.wire.source().into_iter().chain(lifeline).for_each(|fd| {
            let _ = epoll.delete(fd);
        });
        switch.remove_port(id);
        self.unwatch(&plug, epoll);
        self.forget_queues(&plug, id);
        self.captures.port_gone(id);
        self.impaired.forget(&plug);
        self.close(plug);
    }

    /// Pulls out what is dead: ports whose interfaces are gone, programs that share a port.
    pub(in crate::serve) fn remove_dead(&mut self, switch: &mut Switch, epoll: &Epoll) {
        while let Some(id) = self.dead.pop() {
            self.remove_dead_of(id, switch, epoll);
        }
    }

    /// The end: descriptors close with the process, but abandoned ones must be told first.
    pub(in crate::serve) fn close_all(&mut self) {
        for plug in std::mem::take(&mut self.table).into_iter().flatten() {
            if plug.wire.kind() == Kind::Tap && plug.dying {
                plug.wire.into_fd().into_iter().for_each(tap::abandon);
            }
        }
    }

    fn close(&mut self, plug: Plug) {
        self.forget_file(plug.file);
        if plug.wire.kind() == Kind::Tap && plug.dying {
            return plug.wire.into_fd().into_iter().for_each(tap::abandon);
        }
        self.close_wire(plug.wire);
    }

    pub(super) fn close_wire(&mut self, wire: Wire) {
        let Some(fd) = wire.into_fd() else { return };
        let closer = self.closer.get_or_insert_with(start_closer);
        // Without the thread the descriptor comes back in the error, and closes here.
        let _ = closer.send(fd);
    }

    /// The name of a socket goes.
    pub(super) fn forget_file(&mut self, file: Option<FileName>) {
        self.gone_files.extend(file.map(|file| file.path().to_owned()));
    }

    /// Names of sockets that are gone since the last call.
    pub(in crate::serve) fn take_gone_files(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.gone_files)
    }
}

fn start_closer() -> Sender<OwnedFd> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("closer".into()).stack_size(64 << 10);
    if let Err(e) = thread.spawn(move || receiver.into_iter().for_each(drop::<OwnedFd>)) {
        log::debug!("ports will close slowly: {e}");
    }
    sender
}
