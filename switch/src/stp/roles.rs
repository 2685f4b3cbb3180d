//! Which role each port has, and how it gets from one to another.
//!
//! # Theory of operation
//! [`select`] is updtRolesTree (17.21.25): of all that the ports heard, the best is the root's word; the port
//! that heard it is the root port, ports that have something better to say than what they heard are designated,
//! and the others stand by. Then each port's role transition machine (17.29) takes it there: down at once, up
//! when its neighbour agrees, or when nobody objected for long enough. What lets RSTP be fast is the *sync*: a
//! bridge that accepts a new root port first has all its designated ports discard, unless their neighbours
//! agree, and then may tell that it agrees: no loop can be closed anywhere behind it.
//!
//! Read: IEEE 802.1D-2004 clauses 17.28 and 17.29, figures 17-19 to 17-22.

use super::bpdu::{BridgeId, Role, Times, Vector};
use super::config::Protocol;
use super::port::{InfoIs, MIGRATE_TIME, Port, Shared};
use crate::port::PortId;

/// The root as a bridge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    /// rootPriority, as this bridge would tell it.
    pub(super) priority: Vector,
    /// The port that leads there; none at the root itself.
    pub(super) port: Option<PortId>,
    /// rootTimes.
    pub(super) times: Times,
}

impl Root {
    /// A bridge that believes to be the root.
    pub(super) fn itself(shared: &Shared) -> Self {
        let id = shared.id;
        let priority = Vector { root: id, cost: 0, bridge: id, port: 0 };
        Self { priority, port: None, times: shared.config.times() }
    }
}

/// Port role selection machine: gives every port its selected role.
pub(super) fn select(shared: &Shared, ports: &mut [Option<Box<Port>>]) -> Root {
    let root = best(shared, ports);
    for port in ports.iter_mut().flatten() {
        port.reselect = false;
        port.designated_priority = Vector {
            root: root.priority.root,
            cost: root.priority.cost,
            bridge: shared.id,
            port: port.number,
        };
        port.designated_times = Times { hello: shared.config.hello_s, ..root.times };
        let ours = port.designated_priority;
        (port.selected_role, port.updt_info) = match port.info_is {
            InfoIs::Disabled => (Role::Disabled, false),
            InfoIs::Aged => (Role::Designated, true),
            InfoIs::Mine => {
                let news = port.port_priority != ours || port.port_times != port.designated_times;
                (Role::Designated, news)
            }
            InfoIs::Received if root.port == Some(port.id) => (Role::Root, false),
            InfoIs::Received if ours < port.port_priority => (Role::Designated, true),
            InfoIs::Received if is_own(port.port_priority.bridge, shared) => (Role::Backup, false),
            InfoIs::Received => (Role::Alternate, false),
        };
    }
    // setSelectedTree: no port asks again, as all were answered.
    ports.iter_mut().flatten().for_each(|port| port.selected = true);
    root
}

fn best(shared: &Shared, ports: &[Option<Box<Port>>]) -> Root {
    let mut root = Root::itself(shared);
    let mut best = (root.priority, 0);
    for port in ports.iter().flatten() {
        let heard = port.port_priority;
        if port.info_is != InfoIs::Received || is_own(heard.bridge, shared) || port.config.root_guard {
            continue;
        }
        let path = Vector { cost: heard.cost.saturating_add(port.cost()), ..heard };
        if (path, port.number) < best {
            best = (path, port.number);
            root = Root {
                priority: path,
                port: Some(port.id),
                times: Times {
                    message_age: port.port_times.message_age.saturating_add(1),
                    ..port.port_times
                },
            };
        }
    }
    root
}

fn is_own(bridge: BridgeId, shared: &Shared) -> bool {
    bridge.address() == shared.address
}

impl Port {
    /// Port role transitions machine; true if it took one.
    pub(super) fn role_transitions(&mut self, shared: &mut Shared) -> bool {
        // What the figures qualify all transitions with; a port just shut needs no answer first.
        if !self.selected || self.updt_info {
            return false;
        }
        if self.role != self.selected_role {
            self.role = self.selected_role;
            match self.role {
                Role::Root => self.rr_while = self.designated_times.forward_delay,
                Role::Designated => {}
                Role::Disabled | Role::Alternate | Role::Backup => {
                    (self.learn, self.forward) = (false, false);
                }
            }
            return true;
        }
        match self.role {
            Role::Disabled => self.disabled_port(),
            Role::Root => self.root_port(shared),
            Role::Designated => self.designated_port(),
            Role::Alternate | Role::Backup => self.alternate_port(shared),
        }
    }

    fn disabled_port(&mut self) -> bool {
        if self.learning || self.forwarding {
            return false;
        }
        self.rest(self.designated_times.max_age)
    }

    /// DISABLED_PORT and ALTERNATE_PORT: a port that does nothing, and stands in nobody's way.
    fn rest(&mut self, delay: u8) -> bool {
        let was = (self.fd_while, self.synced, self.rr_while, self.sync, self.re_root);
        let is = (delay, true, 0, false, false);
        (self.fd_while, self.synced, self.rr_while, self.sync, self.re_root) = is;
        was != is
    }

    fn root_port(&mut self, shared: &mut Shared) -> bool {
        let rstp = shared.config.protocol == Protocol::Rstp;
        let delay = self.designated_times.forward_delay;
        if self.proposed && !self.agree {
            // ROOT_PROPOSED
            self.proposed = false;
            self.ask_sync(shared);
        } else if (!self.agree && self.all_synced(shared)) || (self.proposed && self.agree) {
            // ROOT_AGREED
            (self.proposed, self.sync, self.agree, self.new_info) = (false, false, true, true);
        } else if !self.forward && !self.re_root {
            // REROOT
            self.re_root = true;
            shared.wishes.re_root = true;
        } else if !(self.learn && self.forward)
            && (self.fd_while == 0 || (rstp && self.rb_while == 0 && self.re_rooted(shared)))
        {
            // ROOT_LEARN, ROOT_FORWARD
            (self.fd_while, self.forward) = if self.learn { (0, true) } else { (delay, false) };
            self.learn = true;
        } else if self.re_root && self.forward {
            // REROOTED
            self.re_root = false;
        } else if self.rr_while != delay {
            self.rr_while = delay;
        } else {
            return false;
        }
        true
    }

    fn ask_sync(&mut self, shared: &mut Shared) {
        self.sync = true;
        shared.wishes.sync = true;
    }

    fn designated_port(&mut self) -> bool {
        let free = self.fd_while == 0 || self.agreed || self.oper_edge;
        let retired = self.rr_while == 0 || !self.re_root;
        let objection = (self.sync && !self.synced) || !retired || self.disputed;
        if objection && !self.oper_edge && (self.learn || self.forward) {
            // DESIGNATED_DISCARD
            (self.learn, self.forward, self.disputed) = (false, false, false);
            self.fd_while = self.forward_delay();
        } else if !self.forward && !self.agreed && !self.proposing && !self.oper_edge {
            // DESIGNATED_PROPOSE
            (self.proposing, self.new_info) = (true, true);
            self.edge_delay_while =
                if self.config.point_to_point { MIGRATE_TIME } else { self.designated_times.max_age };
        } else if (!self.synced && ((!self.learning && !self.forwarding) || self.agreed || self.oper_edge))
            || (self.sync && self.synced)
        {
            // DESIGNATED_SYNCED
            (self.rr_while, self.synced, self.sync) = (0, true, false);
        } else if self.rr_while == 0 && self.re_root {
            // DESIGNATED_RETIRED
            self.re_root = false;
        } else if free && retired && !self.sync && !self.learn {
            // DESIGNATED_LEARN
            self.learn = true;
            self.fd_while = self.forward_delay();
        } else if free && retired && !self.sync && !self.forward {
            // DESIGNATED_FORWARD
            (self.forward, self.fd_while, self.agreed) = (true, 0, self.send_rstp);
        } else {
            return false;
        }
        true
    }

    fn alternate_port(&mut self, shared: &mut Shared) -> bool {
        if self.learning || self.forwarding {
            return false;
        }
        if self.proposed && !self.agree {
            // ALTERNATE_PROPOSED
            self.proposed = false;
            self.ask_sync(shared);
        } else if (!self.agree && self.all_synced(shared)) || (self.proposed && self.agree) {
            // ALTERNATE_AGREED
            (self.proposed, self.agree, self.new_info) = (false, true, true);
        } else if self.role == Role::Backup && self.rb_while != 2 * self.designated_times.hello {
            self.rb_while = 2 * self.designated_times.hello;
        } else {
            return self.rest(self.forward_delay());
        }
        true
    }
}
