//! From a configuration to tables, and from changes of the tables to those who need to know.

use std::time::Instant;

use msocket_proto::line::Refusal;

use super::Engine;
use crate::config::{Mac, StackConfig};

impl Engine {
    /// Makes what the configuration says.
    pub(super) fn configure(&mut self, now: Instant, config: &StackConfig) -> Result<(), Refusal> {
        let secret = &mut self.secret;
        let mut random_mac = || {
            let [a, b, c, d, e, ..] = secret.draw().to_le_bytes();
            // Locally administered, for one station (IEEE 802 clause 8.4).
            Mac([0x02, a, b, c, d, e])
        };
        self.net.tables.apply(config, &mut random_mac)?;
        self.net.tables.set_forwarding(config.forward);
        self.settle_tables(now);
        Ok(())
    }

    /// Tells the network layer and the programs that listen what changed in the tables.
    pub(super) fn settle_tables(&mut self, now: Instant) {
        for _ in 0..MAX_CHANGES {
            let Some(change) = self.net.tables.changes.pop_front() else { break };
            self.net.note(now, &change);
            self.notify(now, &change);
        }
    }
}

/// Changes that are told at a time: what one removed interface with full tables brings, and no endless game
/// between the layers.
const MAX_CHANGES: usize = 1 << 18;
