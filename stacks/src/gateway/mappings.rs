//! Which port of the host stands for a port of the inside in TCP: endpoint-independent mapping (RFC 5382 REQ-1). A core.
//!
//! # Theory of operation
//! A connection gets any port of the host's, which the kernel chooses. Only when the same port of the inside makes
//! another one meanwhile is the first one asked for its port, and all that follow share it, whoever they go to, until the last
//! of them is gone. Most ports of the inside make one connection, which costs an entry here and no call.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::flows::Slot;

/// A port of the inside, and whether the host goes by IPv4 for it: each family has its own ports.
pub(super) type Sender = (SocketAddr, bool);

/// What is known of the host's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// This connection has it.
    Of(Slot),
    /// It is this one.
    Known(u16),
}

/// Those of a gateway: no more than it has connections.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    of: HashMap<Sender, (Port, u32)>,
}

impl Mappings {
    /// The port that connections of `sender` have, if there are some.
    pub(super) fn port(&self, sender: &Sender) -> Option<Port> {
        self.of.get(sender).map(|(port, _)| *port)
    }

    /// The port that they have has been asked for.
    pub(super) fn learn(&mut self, sender: &Sender, port: u16) {
        if let Some((known, _)) = self.of.get_mut(sender) {
            *known = Port::Known(port);
        }
    }

    /// `sender` has another connection.
    pub(super) fn add(&mut self, sender: Sender, slot: Slot) {
        self.of.entry(sender).or_insert((Port::Of(slot), 0)).1 += 1;
    }

    /// `sender` has one less.
    pub(super) fn remove(&mut self, sender: &Sender) {
        let Some((_, count)) = self.of.get_mut(sender) else { return };
        *count -= 1;
        if *count == 0 {
            self.of.remove(sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_shared_until_the_last_connection_is_gone() {
        let one = SocketAddr::from(([10, 0, 2, 2], 5000));
        let (sender, other) = ((one, true), (one, false));
        let mut mappings = Mappings::default();
        assert_eq!(mappings.port(&sender), None);
        mappings.add(sender, 7);
        assert_eq!((mappings.port(&sender), mappings.port(&other)), (Some(Port::Of(7)), None));
        mappings.learn(&sender, 40_000);
        mappings.add(sender, 8);
        // The first one goes.
        mappings.remove(&sender);
        assert_eq!(mappings.port(&sender), Some(Port::Known(40_000)));
        mappings.remove(&sender);
        mappings.remove(&sender);
        assert!(mappings.of.is_empty());
    }
}
