//! Whether the ports' links are up.
//!
//! # Theory of operation
//! A link that goes down is news for the switch, which forgets who was behind it, and more so for the spanning tree, which
//! would have to miss three hellos otherwise. A port that came with a [`Watch`] is looked at when that tells of its
//! interface; while nothing happens, nothing is done. All ports of a network share the watch that came first. Ports
//! over interfaces that came without one are asked every [`LINK_CHECK`] while the spanning tree is on, at three system calls
//! each, and else when somebody wants to know. All others have no link that goes down before the port does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};

use super::{Plug, Plugs};
use crate::port::PortId;
use crate::ports::watch::{Heard, Watch};
use crate::serve::{Source, interest};
use crate::switch::Switch;

/// How often links are asked for that nobody tells of.
const LINK_CHECK: Duration = Duration::from_millis(200);
/// Messages taken from a watch in one round: who holds its other copy may write without end.
const MESSAGES: usize = 64;

/// A watch and how many ports it is for.
#[derive(Debug)]
pub(super) struct Watched {
    watch: Watch,
    ports: usize,
}

/// Who tells of a port's link: the number of the watch, and of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    slot: u32,
    interface: u32,
}

impl Plugs {
    /// Has somebody tell of a port's link.
    ///
    /// # Errors
    /// When the descriptor is no watch, or of another network than the port.
    pub(in crate::serve) fn watch(
        &mut self,
        now: Instant,
        id: PortId,
        fd: OwnedFd,
        switch: &mut Switch,
        epoll: &Epoll,
    ) -> io::Result<()> {
        let Self { table, watches, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return Ok(()) };
        let watch = Watch::new(fd)?;
        let interface = plug.wire.index_in(&watch)?;
        let is_same = |watched: &Option<Watched>| watched.as_ref().is_some_and(|w| w.watch.is_where(&watch));
        let slot = match watches.iter().position(is_same) {
            Some(slot) => slot,
            None => {
                let slot = watches.iter().position(Option::is_none).unwrap_or(watches.len());
                epoll.add(&watch, interest(EpollFlags::EPOLLIN, Source::Watch(slot as u32)))?;
                if slot == watches.len() {
                    watches.push(None);
                }
                watches[slot] = Some(Watched { watch, ports: 0 });
                slot
            }
        };
        watches[slot].iter_mut().for_each(|watched| watched.ports += 1);
        plug.told = Some(Told { slot: slot as u32, interface });
        self.look_at(now, id, switch);
        Ok(())
    }

    /// A port goes; the last one of its network takes the watch with it.
    pub(super) fn unwatch(&mut self, plug: &Plug, epoll: &Epoll) {
        let Some(Told { slot, .. }) = plug.told else { return };
        let Some(place) = self.watches.get_mut(slot as usize) else { return };
        let Some(watched) = place else { return };
        watched.ports -= 1;
        if watched.ports == 0 {
            let _ = epoll.delete(&watched.watch);
            *place = None;
        }
    }

    /// A watch has something to tell.
    pub(in crate::serve) fn handle_watch(
        &mut self,
        now: Instant,
        slot: u32,
        switch: &mut Switch,
        epoll: &Epoll,
    ) {
        for _ in 0..MESSAGES {
            let Some(Some(Watched { watch, .. })) = self.watches.get(slot as usize) else { return };
            let is_meant = match watch.receive() {
                Ok(Heard::Of(interface)) => Some(interface),
                Ok(Heard::Lost) => None,
                Ok(Heard::Else) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // It would be readable for ever.
                    log::debug!("nobody tells of links any more: {e}");
                    let _ = epoll.delete(watch);
                    self.watches[slot as usize] = None;
                    let told = |plug: &&mut Plug| plug.told.is_some_and(|told| told.slot == slot);
                    self.table.iter_mut().flatten().filter(told).for_each(|plug| plug.told = None);
                    return self.ask_later(now, switch);
                }
            };
            for index in 0..self.table.len() {
                let told = self.table[index].as_ref().and_then(|plug| plug.told);
                let Some(told) = told.filter(|told| told.slot == slot) else { continue };
                if is_meant.is_none_or(|interface| interface == told.interface) {
                    self.look_at(now, PortId::new(index as u32), switch);
                }
            }
        }
    }

    /// Looks whether a port's link is up, and how fast it is then, and whether its interface is gone.
    pub(super) fn look_at(&mut self, now: Instant, id: PortId, switch: &mut Switch) {
        let Self { table, dead, .. } = self;
        let Some(plug) = table.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let is_up = plug.wire.is_up();
        let is_news = switch.set_link(now, id, is_up);
        if is_up && (is_news || switch.stp().is_some()) {
            switch.set_speed(now, id, plug.wire.speed());
        }
        if !is_up && plug.wire.is_orphan() {
            plug.mark_dead(id, dead);
        }
    }

    /// The spanning tree was changed: looks at all links, and how fast they are.
    pub(in crate::serve) fn look_at_all(&mut self, now: Instant, switch: &mut Switch) {
        (0..self.table.len()).for_each(|index| self.look_at(now, PortId::new(index as u32), switch));
        self.ask_later(now, switch);
    }

    /// When links are to be asked for, if there are any that nobody tells of, and the spanning tree is on.
    pub(super) fn ask_later(&mut self, now: Instant, switch: &Switch) {
        let is_wanted = switch.stp().is_some() && self.table.iter().flatten().any(Plug::is_untold);
        self.link_check = is_wanted.then(|| now + LINK_CHECK);
    }

    /// Looks at links that nobody tells of.
    pub(super) fn ask_for_links(&mut self, now: Instant, switch: &mut Switch) {
        for index in 0..self.table.len() {
            if self.table[index].as_ref().is_some_and(Plug::is_untold) {
                self.look_at(now, PortId::new(index as u32), switch);
            }
        }
        self.ask_later(now, switch);
    }
}

impl Plug {
    /// Does nobody tell of its link?
    fn is_untold(&self) -> bool {
        self.told.is_none() && self.wire.has_interface()
    }
}
