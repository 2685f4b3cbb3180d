//! Topology changes: when what was learned may be wrong.
//!
//! # Theory of operation
//! A port that begins to forward, and is not at the edge, changes the topology. It says so on all root and
//! designated ports for a little while (`tcWhile`); whoever hears it forgets the stations it learned on its other
//! ports, and passes it on. Where the old protocol is spoken, a notification goes up to the root instead, which
//! tells everybody by a flag.
//!
//! Read: IEEE 802.1D-2004 clause 17.31, figure 17-25.

use super::bpdu::Role;
use super::port::{Port, Shared, Topology};

impl Port {
    /// Topology change machine; true if it took a transition.
    pub(super) fn topology_change(&mut self, shared: &mut Shared) -> bool {
        let active = matches!(self.role, Role::Root | Role::Designated);
        match self.topology {
            Topology::Inactive => {
                if !self.learn {
                    return false;
                }
                self.forget_notices();
                self.topology = Topology::Learning;
            }
            Topology::Learning if active && self.forward && !self.oper_edge => {
                // DETECTED
                self.new_tc_while();
                self.tell_others(shared);
                self.new_info = true;
                shared.topology_changes += 1;
                self.topology = Topology::Active;
            }
            Topology::Learning if self.has_notice() => self.forget_notices(),
            Topology::Learning if !active && !self.learn && !self.learning => {
                self.fdb_flush = true;
                (self.tc_while, self.tc_ack) = (0, false);
                self.topology = Topology::Inactive;
            }
            Topology::Learning => return false,
            Topology::Active if !active || self.oper_edge => {
                self.forget_notices();
                self.topology = Topology::Learning;
            }
            Topology::Active if self.rcvd_tcn || self.rcvd_tc => {
                // NOTIFIED_TCN, NOTIFIED_TC
                if self.rcvd_tcn {
                    self.new_tc_while();
                }
                (self.rcvd_tcn, self.rcvd_tc) = (false, false);
                self.tc_ack |= self.role == Role::Designated;
                self.tell_others(shared);
            }
            Topology::Active if self.tc_prop => {
                // PROPAGATING
                self.new_tc_while();
                self.fdb_flush = true;
                self.tc_prop = false;
            }
            Topology::Active if self.rcvd_tc_ack => {
                // ACKNOWLEDGED
                (self.tc_while, self.rcvd_tc_ack) = (0, false);
            }
            Topology::Active => return false,
        }
        true
    }

    fn has_notice(&self) -> bool {
        self.rcvd_tc || self.rcvd_tcn || self.rcvd_tc_ack || self.tc_prop
    }

    fn forget_notices(&mut self) {
        (self.rcvd_tc, self.rcvd_tcn, self.rcvd_tc_ack, self.tc_prop) = (false, false, false, false);
    }

    /// setTcPropTree, for all ports but this one.
    fn tell_others(&self, shared: &mut Shared) {
        shared.wishes.tc_prop = true;
    }

    /// newTcWhile (17.21.7).
    fn new_tc_while(&mut self) {
        if self.tc_while > 0 {
            return;
        }
        let times = self.designated_times;
        self.tc_while = if self.send_rstp {
            self.new_info = true;
            times.hello.saturating_add(1)
        } else {
            times.max_age.saturating_add(times.forward_delay)
        };
    }
}
