//! Neighbours as a person sets them; the network layer keeps the learned ones itself.

use std::net::IpAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::{Change, IfIndex, MAX_NEIGHBOURS, Mode, Neighbour, Nud, Refused, Tables};
use crate::config::Mac;

impl Nud {
    /// Its address can be used (NUD_VALID).
    pub fn is_valid(self) -> bool {
        !matches!(self, Self::Incomplete | Self::Failed)
    }
}

impl Tables {
    /// Adds or changes a neighbour (net/core/neighbour.c, neigh_add). ENOENT, EEXIST, EINVAL, ENODEV, ENOBUFS.
    #[allow(clippy::too_many_arguments, reason = "an entry's settings are its columns")]
    pub fn add_neighbour(
        &mut self,
        now: Instant,
        link: IfIndex,
        ip: IpAddr,
        mac: Option<Mac>,
        state: Nud,
        router: bool,
        mode: Mode,
    ) -> Result<(), Refused> {
        self.link(link)?;
        let known = self.neighbours.get(&(link, ip));
        match known {
            None if !mode.create => return Err(Errno::ENOENT.into()),
            Some(_) if mode.exclusive => return Err(Errno::EEXIST.into()),
            None if self.neighbours.len() >= MAX_NEIGHBOURS => return Err(Errno::ENOBUFS.into()),
            _ => {}
        }
        let old_mac = known.filter(|n| n.state.is_valid()).and_then(|n| n.mac);
        // Without NLM_F_REPLACE a known address is not overridden.
        let mac = if mode.replace { mac.or(old_mac) } else { old_mac.or(mac) };
        if state.is_valid() && mac.is_none() {
            return Err(Refused::new(Errno::EINVAL, "No link layer address given"));
        }
        let neighbour = Neighbour { mac: mac.filter(|_| state.is_valid()), state, router, updated: now };
        self.neighbours.insert((link, ip), neighbour.clone());
        self.changes.push_back(Change::Neighbour(link, ip, neighbour));
        Ok(())
    }

    /// Removes a neighbour. ENOENT, ENODEV.
    pub fn remove_neighbour(&mut self, link: IfIndex, ip: IpAddr) -> Result<(), Refused> {
        self.link(link)?;
        let gone = self.neighbours.remove(&(link, ip)).ok_or(Errno::ENOENT)?;
        self.changes.push_back(Change::NeighbourGone(link, ip, gone));
        Ok(())
    }

    /// Forgets the neighbours of a link; those set by hand too if `all`.
    pub(super) fn flush_neighbours(&mut self, link: IfIndex, all: bool) {
        let gone = |n: &Neighbour| all || n.state != Nud::Permanent;
        let mut keys: Vec<_> = self
            .neighbours
            .iter()
            .filter(|((on, _), n)| *on == link && gone(n))
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        for key in keys {
            if let Some(old) = self.neighbours.remove(&key) {
                self.changes.push_back(Change::NeighbourGone(key.0, key.1, old));
            }
        }
    }
}
