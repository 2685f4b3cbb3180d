//! From a configuration to tables, and from changes of the tables to those who need to know.

use std::time::Instant;

use msocket_proto::line::Refusal;
use msocket_proto::proto::FilterChange;

use super::Engine;
use crate::config::{Mac, StackConfig};
use crate::dhcp6::client;
use crate::filter::{self, Filter, Listing, Ruleset};
use crate::steward::renewal::Change;

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
        for interface in &config.interfaces {
            let link = self.net.tables.link_by_name(&interface.name).map(|link| link.index);
            let Some(link) = link else { continue };
            if let Some(heard) = &interface.heard {
                self.net.tables.advertised(now, link, heard.router, &heard.said, true);
            }
            if let Some(lease) = &interface.lease_v6 {
                let change = client::Change::Got(None, lease.clone());
                self.net.tables.change_lease_v6(now, &interface.name, &change)?;
            }
        }
        self.net.tables.set_forwarding(config.forward);
        self.set_filter(&config.filter);
        self.settle_tables(now);
        Ok(())
    }

    /// Puts another lease in the place of one: addresses, and the default route.
    pub(crate) fn change_lease(&mut self, now: Instant, name: &str, change: &Change) -> Result<(), Refusal> {
        let done = self.net.tables.change_lease(name, change);
        self.settle_tables(now);
        done
    }

    /// Puts another lease of DHCPv6 in the place of one.
    pub(crate) fn change_lease_v6(
        &mut self,
        now: Instant,
        name: &str,
        change: &client::Change,
    ) -> Result<(), Refusal> {
        let done = self.net.tables.change_lease_v6(now, name, change);
        self.settle_tables(now);
        done
    }

    /// These are the rules of the packet filter from now on.
    pub fn set_filter(&mut self, rules: &Ruleset) {
        if rules.is_empty() {
            self.net.filter = None;
        } else if let Some(filter) = &mut self.net.filter {
            filter.set(rules);
        } else {
            let seed = [(); 4].map(|()| self.secret.draw());
            self.net.filter = Some(Box::new(Filter::new(rules, seed)));
        }
    }

    /// The rules of the packet filter, and their numbers.
    pub fn filter_rules(&self) -> (Ruleset, &[u64]) {
        self.net.filter.as_ref().map_or_else(|| (Ruleset::default(), [].as_slice()), |filter| filter.rules())
    }

    /// Changes the packet filter, if so said, and shows it.
    ///
    /// # Errors
    /// The change makes no sense; nothing was changed.
    pub fn packet_filter(&mut self, change: Option<&FilterChange>) -> Result<Listing, Refusal> {
        if let Some(change) = change {
            let (rules, handles) = self.filter_rules();
            let rules = filter::changed(&rules, handles, change)?;
            self.set_filter(&rules);
        }
        let filter = self.net.filter.as_ref();
        Ok(filter.map_or_else(|| Filter::new(&Ruleset::default(), [0; 4]).listing(), |it| it.listing()))
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
