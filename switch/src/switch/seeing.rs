//! The switch's mirrors, and what it tells of its own doings.

use std::time::Instant;

use super::{PortError, Switch};
use crate::events::{Event, EventLog};
use crate::fdb::Learned;
use crate::forward::Admitted;
use crate::mirror::{Mirror, Mirrors};
use crate::port::PortId;

impl Switch {
    /// Adds a mirror, or changes the one with this target, which from now on is for copies only.
    ///
    /// # Errors
    /// Too many mirrors, no such port, or one that would watch its own target.
    pub fn set_mirror(&mut self, mirror: Mirror) -> Result<(), PortError> {
        let to = mirror.to;
        let port = self.port(to).ok_or_else(|| PortError::Unknown(format!("#{}", to.index())))?;
        if mirror.from.as_ref().is_some_and(|from| from.contains(to)) {
            return Err(PortError::MirrorsItself(port.name.clone()));
        }
        if !self.mirrors.set(mirror) {
            return Err(PortError::TooManyMirrors);
        }
        let port = self.ports[to.index()].as_mut().expect("it was looked at just now");
        port.mirror_target = true;
        self.events.push(Event::MirrorAdded { to: port.name.clone() });
        let vlans = port.vlans.clone();
        self.leave(to, &vlans);
        self.fdb.forget_port(to);
        Ok(())
    }

    /// Takes the mirror with this target away; the port is an ordinary one again.
    ///
    /// # Errors
    /// It is no mirror's target.
    pub fn remove_mirror(&mut self, to: PortId) -> Result<(), PortError> {
        let Some(port) = self.ports.get_mut(to.index()).and_then(Option::as_mut) else { return Ok(()) };
        if !self.mirrors.remove(to) {
            return Err(PortError::NoMirror(port.name.clone()));
        }
        port.mirror_target = false;
        self.events.push(Event::MirrorRemoved { to: port.name.clone() });
        let (is_open, vlans) = (port.is_open(), port.vlans.clone());
        if is_open {
            self.join(to, &vlans);
        }
        Ok(())
    }

    /// The mirrors.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// What happens.
    pub fn events_mut(&mut self) -> &mut EventLog {
        &mut self.events
    }

    /// A station was heard: tells those who listen if that is news.
    pub(super) fn tell_learned(
        &mut self,
        now: Instant,
        admitted: &Admitted<'_>,
        port: PortId,
        learned: Learned,
    ) {
        if !self.events.is_on() {
            return;
        }
        let (vlan, mac) = (admitted.vid, admitted.frame.source());
        let name = |id: PortId| self.port(id).map(|p| p.name.clone()).unwrap_or_default();
        let port = name(port);
        match learned {
            Learned::Known | Learned::NoRoom | Learned::Elsewhere => {}
            Learned::New => self.events.push(Event::StationLearned { vlan, mac, port }),
            Learned::Moved(was) => {
                let was = name(was);
                self.events.moved(now, vlan, mac, &port, &was);
            }
        }
    }
}
