//! A port of the spanning tree: its variables, and the state machines that look at nothing but one port.
//!
//! # Theory of operation
//! The variables have the standard's names (clause 17.19), in Rust's spelling, and the timers too (17.17): they
//! count seconds down. A machine is a method that takes at most one transition and tells whether it did;
//! [`Port::step`] lets all of them run until none can. Transitions that act on the whole tree leave a wish in
//! [`Shared`], which the bridge fulfils when the port has come to rest; what a port must know of the others
//! (are they all synced, have they all retired from being root) is kept there as two counts.
//!
//! Here are port receive (17.23), protocol migration (17.24), bridge detection (17.25), transmit (17.26), port
//! information (17.27) and state transition (17.30); the machines of roles and of topology changes have files of
//! their own.
//!
//! Read: IEEE 802.1D-2004 clause 17; the figures are more exact than the text.

use std::collections::VecDeque;

use super::bpdu::{Bpdu, BridgeId, FRAME_LEN, Message, Role, Times, Vector};
use super::config::{Config, Edge, PortConfig, Protocol, State, cost_of_speed};
use crate::frame::Mac;
use crate::port::PortId;

/// Seconds in which a port makes up its mind about its neighbour's protocol (table 17-1).
pub(super) const MIGRATE_TIME: u8 = 3;
/// Transitions in a row, after which a port is left alone until the next event. It takes a dozen at most; the
/// limit is for mistakes.
const MAX_STEPS: usize = 64;

/// What the ports share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: BridgeId,
    pub(super) address: Mac,
    pub(super) config: Config,
    /// Ports that are neither in sync nor root.
    pub(super) unsynced: usize,
    /// Ports that were root not long ago.
    pub(super) retiring: usize,
    pub(super) wishes: Wishes,
    /// BPDUs to send: never more than `tx_hold` a second and port.
    pub(super) out: VecDeque<(PortId, [u8; FRAME_LEN])>,
    pub(super) topology_changes: u64,
}

/// What a port asks to be done to the whole tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Select the roles anew.
    pub(super) reselect: bool,
    /// setSyncTree.
    pub(super) sync: bool,
    /// setReRootTree.
    pub(super) re_root: bool,
    /// setTcPropTree.
    pub(super) tc_prop: bool,
}

/// infoIs: where a port's priority vector is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum InfoIs {
    #[default]
    Disabled,
    Aged,
    Mine,
    Received,
}

/// rcvdInfo: what a message is worth (17.21.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RcvdInfo {
    SuperiorDesignated,
    RepeatedDesignated,
    InferiorDesignated,
    InferiorRootAlternate,
    Other,
}

/// Port protocol migration machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Migration {
    #[default]
    CheckingRstp,
    SelectingStp,
    Sensing,
}

/// Topology change machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Topology {
    #[default]
    Inactive,
    Learning,
    Active,
}

/// A port.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) id: PortId,
    pub(super) config: PortConfig,
    /// Priority and number, as in BPDUs.
    pub(super) number: u16,
    pub(super) link: bool,
    /// What its link costs by its speed.
    pub(super) speed_cost: u32,
    /// A BPDU shut it.
    pub(super) shut: bool,
    pub(super) rx_bpdus: u64,
    pub(super) tx_bpdus: u64,
    pub(super) bad_bpdus: u64,
    /// BPDUs in this second.
    pub(super) heard: u32,
    /// What [`Shared`] counts this port as.
    pub(super) counted: Counted,
    /// The state that was last told.
    pub(super) told: Option<State>,
    /// Addresses learned here are to be forgotten.
    pub(super) fdb_flush: bool,

    pub(super) agree: bool,
    pub(super) agreed: bool,
    pub(super) disputed: bool,
    pub(super) forward: bool,
    pub(super) forwarding: bool,
    pub(super) learn: bool,
    pub(super) learning: bool,
    pub(super) mcheck: bool,
    pub(super) new_info: bool,
    pub(super) oper_edge: bool,
    pub(super) port_enabled: bool,
    pub(super) proposed: bool,
    pub(super) proposing: bool,
    pub(super) re_root: bool,
    pub(super) reselect: bool,
    pub(super) selected: bool,
    pub(super) send_rstp: bool,
    pub(super) sync: bool,
    pub(super) synced: bool,
    pub(super) tc_ack: bool,
    pub(super) tc_prop: bool,
    pub(super) updt_info: bool,
    rcvd_rstp: bool,
    rcvd_stp: bool,
    pub(super) rcvd_tc: bool,
    pub(super) rcvd_tc_ack: bool,
    pub(super) rcvd_tcn: bool,
    /// rcvdBPDU and rcvdMsg in one: what is yet to be looked at.
    rcvd: Option<Bpdu>,
    /// One that is to be looked at later (`super::doubt`).
    pub(super) late: Option<Bpdu>,
    pub(super) info_is: InfoIs,
    pub(super) role: Role,
    pub(super) selected_role: Role,
    pub(super) port_priority: Vector,
    pub(super) port_times: Times,
    pub(super) designated_priority: Vector,
    pub(super) designated_times: Times,
    migration: Migration,
    pub(super) topology: Topology,

    pub(super) edge_delay_while: u8,
    pub(super) fd_while: u8,
    pub(super) hello_when: u8,
    mdelay_while: u8,
    pub(super) rb_while: u8,
    pub(super) rcvd_info_while: u8,
    pub(super) rr_while: u8,
    pub(super) tc_while: u8,
    tx_count: u8,
}

/// What a port is counted as among all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    unsynced: bool,
    retiring: bool,
}

impl Port {
    /// A port in the state of BEGIN.
    pub(super) fn new(id: PortId, config: PortConfig, link: bool, shared: &Shared) -> Self {
        let times = shared.config.times();
        let mut port = Self {
            id,
            config,
            link,
            speed_cost: cost_of_speed(None),
            port_times: times,
            designated_times: times,
            fd_while: times.max_age,
            rr_while: times.forward_delay,
            edge_delay_while: MIGRATE_TIME,
            mdelay_while: MIGRATE_TIME,
            hello_when: times.hello,
            send_rstp: shared.config.protocol == Protocol::Rstp,
            oper_edge: config.edge == Edge::On,
            reselect: true,
            new_info: true,
            fdb_flush: true,
            ..Self::default()
        };
        port.set_number();
        port.port_enabled = link;
        port
    }

    /// What its link costs.
    pub(super) fn cost(&self) -> u32 {
        self.config.cost.unwrap_or(self.speed_cost)
    }

    /// After a change of its priority.
    pub(super) fn set_number(&mut self) {
        // The lower 12 bits count from 1 (clause 9.2.7); `super::MAX_PORTS` keeps the index within them.
        self.number = u16::from(self.config.priority) << 8 | (self.id.index() as u16 + 1) & 0x0FFF;
    }

    /// What it does with frames.
    pub(super) fn state(&self) -> State {
        match (self.learning, self.forwarding) {
            (_, true) => State::Forwarding,
            (true, false) => State::Learning,
            (false, false) => State::Discarding,
        }
    }

    /// A BPDU arrived (updtBPDUVersion, 17.21.22).
    pub(super) fn receive(&mut self, bpdu: Bpdu, shared: &Shared) {
        if !self.port_enabled {
            return;
        }
        let rapid = matches!(bpdu, Bpdu::Rst(_));
        self.rcvd_rstp |= rapid && shared.config.protocol == Protocol::Rstp;
        self.rcvd_stp |= !rapid;
        self.oper_edge = false;
        self.edge_delay_while = MIGRATE_TIME;
        // Looked at by `information`, once it has nothing of its own to tell first.
        self.rcvd = Some(bpdu);
    }

    /// A second passed (port timers machine, 17.22).
    pub(super) fn tick(&mut self) {
        self.heard = 0;
        for timer in [
            &mut self.edge_delay_while,
            &mut self.fd_while,
            &mut self.hello_when,
            &mut self.mdelay_while,
            &mut self.rb_while,
            &mut self.rcvd_info_while,
            &mut self.rr_while,
            &mut self.tc_while,
            &mut self.tx_count,
        ] {
            *timer = timer.saturating_sub(1);
        }
    }

    /// Lets the machines run until none can; true if any did.
    pub(super) fn step(&mut self, shared: &mut Shared) -> bool {
        let mut steps = 0;
        while steps < MAX_STEPS
            && (self.receive_machine()
                || self.migration_machine(shared)
                || self.bridge_detection()
                || self.information(shared)
                || self.role_transitions(shared)
                || self.state_transition()
                || self.topology_change(shared)
                || self.transmit(shared))
        {
            steps += 1;
        }
        debug_assert!(steps < MAX_STEPS, "a port without rest: {self:?}");
        self.count(shared);
        steps > 0
    }

    /// Keeps the counts in `shared`.
    pub(super) fn count(&mut self, shared: &mut Shared) {
        let is = Counted { unsynced: !self.is_synced(), retiring: self.rr_while > 0 };
        let was = std::mem::replace(&mut self.counted, is);
        shared.unsynced = shared.unsynced + usize::from(is.unsynced) - usize::from(was.unsynced);
        shared.retiring = shared.retiring + usize::from(is.retiring) - usize::from(was.retiring);
    }

    /// It goes: takes itself out of the counts.
    pub(super) fn uncount(&mut self, shared: &mut Shared) {
        shared.unsynced -= usize::from(self.counted.unsynced);
        shared.retiring -= usize::from(self.counted.retiring);
        self.counted = Counted::default();
    }

    /// Its part of allSynced (17.20.3).
    fn is_synced(&self) -> bool {
        self.is_settled() && (self.synced || self.role == Role::Root)
    }

    fn is_settled(&self) -> bool {
        self.selected && self.role == self.selected_role && !self.updt_info
    }

    /// allSynced, as a root or alternate port sees it.
    pub(super) fn all_synced(&self, shared: &Shared) -> bool {
        self.is_settled() && shared.unsynced == usize::from(self.counted.unsynced)
    }

    /// reRooted (17.20.10).
    pub(super) fn re_rooted(&self, shared: &Shared) -> bool {
        shared.retiring == usize::from(self.counted.retiring)
    }

    /// forwardDelay (17.20.5).
    pub(super) fn forward_delay(&self) -> u8 {
        if self.send_rstp { self.designated_times.hello } else { self.designated_times.forward_delay }
    }

    /// Port receive machine (17.23); [`Port::receive`] is its other half.
    fn receive_machine(&mut self) -> bool {
        if self.port_enabled {
            return false;
        }
        let was = (self.rcvd.take().is_some(), self.rcvd_rstp, self.rcvd_stp, self.edge_delay_while);
        (self.rcvd_rstp, self.rcvd_stp, self.edge_delay_while) = (false, false, MIGRATE_TIME);
        was != (false, false, false, MIGRATE_TIME)
    }

    /// Port protocol migration machine (17.24).
    fn migration_machine(&mut self, shared: &Shared) -> bool {
        let rstp = shared.config.protocol == Protocol::Rstp;
        let next = match self.migration {
            Migration::CheckingRstp if self.mdelay_while == 0 => Migration::Sensing,
            Migration::CheckingRstp if self.mdelay_while != MIGRATE_TIME && !self.port_enabled => {
                Migration::CheckingRstp
            }
            Migration::SelectingStp if self.mdelay_while == 0 || !self.port_enabled || self.mcheck => {
                Migration::Sensing
            }
            Migration::Sensing
                if !self.port_enabled || self.mcheck || (rstp && !self.send_rstp && self.rcvd_rstp) =>
            {
                Migration::CheckingRstp
            }
            Migration::Sensing if self.send_rstp && self.rcvd_stp => Migration::SelectingStp,
            _ => return false,
        };
        self.migration = next;
        match next {
            Migration::CheckingRstp => {
                (self.mcheck, self.send_rstp, self.mdelay_while) = (false, rstp, MIGRATE_TIME);
            }
            Migration::SelectingStp => (self.send_rstp, self.mdelay_while) = (false, MIGRATE_TIME),
            Migration::Sensing => (self.rcvd_rstp, self.rcvd_stp) = (false, false),
        }
        true
    }

    /// Bridge detection machine (17.25). An edge port that heard a BPDU is none any more: [`Port::receive`] has
    /// cleared the flag.
    fn bridge_detection(&mut self) -> bool {
        let admin = self.config.edge == Edge::On;
        let edge = match self.oper_edge {
            true => self.port_enabled || admin,
            false if !self.port_enabled => admin,
            false => {
                self.edge_delay_while == 0
                    && self.config.edge != Edge::Off
                    && self.send_rstp
                    && self.proposing
            }
        };
        std::mem::replace(&mut self.oper_edge, edge) != edge
    }

    /// Port information machine (17.27).
    pub(super) fn information(&mut self, shared: &mut Shared) -> bool {
        if self.info_is == InfoIs::Disabled {
            self.rcvd = None;
            if self.port_enabled {
                self.age(shared);
            }
            return self.port_enabled;
        }
        if !self.port_enabled {
            (self.proposing, self.proposed, self.agree, self.agreed) = (false, false, false, false);
            self.rcvd_info_while = 0;
            self.age(shared);
            self.info_is = InfoIs::Disabled;
            return true;
        }
        if self.selected && self.updt_info {
            (self.proposing, self.proposed) = (false, false);
            let better = self.info_is == InfoIs::Mine && self.designated_priority <= self.port_priority;
            self.agreed &= better;
            self.synced &= self.agreed;
            self.port_priority = self.designated_priority;
            self.port_times = self.designated_times;
            (self.updt_info, self.new_info) = (false, true);
            self.info_is = InfoIs::Mine;
            return true;
        }
        if self.info_is == InfoIs::Aged || self.updt_info {
            return false;
        }
        if let Some(bpdu) = self.rcvd.take() {
            self.hear(bpdu, shared);
            return true;
        }
        if self.info_is == InfoIs::Received && self.rcvd_info_while == 0 {
            self.age(shared);
            return true;
        }
        false
    }

    fn age(&mut self, shared: &mut Shared) {
        self.info_is = InfoIs::Aged;
        self.ask_reselect(shared);
    }

    pub(super) fn ask_reselect(&mut self, shared: &mut Shared) {
        (self.reselect, self.selected) = (true, false);
        shared.wishes.reselect = true;
    }

    /// RECEIVE and the states behind it.
    fn hear(&mut self, bpdu: Bpdu, shared: &mut Shared) {
        let message = match bpdu {
            Bpdu::Tcn => {
                self.rcvd_tcn = true;
                return;
            }
            Bpdu::Config(message) | Bpdu::Rst(message) => message,
        };
        let rapid = matches!(bpdu, Bpdu::Rst(_));
        match self.judge(&message) {
            RcvdInfo::SuperiorDesignated => {
                (self.agreed, self.proposing) = (false, false);
                self.record_proposal(&message);
                self.set_tc_flags(&message);
                self.agree &= self.info_is == InfoIs::Received && message.vector <= self.port_priority;
                self.synced &= self.agreed;
                self.port_priority = message.vector;
                self.port_times = message.times;
                self.updt_rcvd_info_while();
                self.info_is = InfoIs::Received;
                self.ask_reselect(shared);
            }
            RcvdInfo::RepeatedDesignated => {
                self.record_proposal(&message);
                self.set_tc_flags(&message);
                self.record_agreement(&message, shared);
                self.updt_rcvd_info_while();
            }
            RcvdInfo::InferiorDesignated if rapid && message.learning => {
                // recordDispute: its sender hears nothing from us.
                (self.disputed, self.agreed) = (true, false);
            }
            RcvdInfo::InferiorDesignated => {}
            RcvdInfo::InferiorRootAlternate => {
                self.record_agreement(&message, shared);
                self.set_tc_flags(&message);
            }
            RcvdInfo::Other => {}
        }
    }

    /// rcvInfo.
    fn judge(&self, message: &Message) -> RcvdInfo {
        let (heard, known) = (&message.vector, &self.port_priority);
        let same_times = message.times == self.port_times;
        if message.role != Role::Designated {
            return if heard >= known { RcvdInfo::InferiorRootAlternate } else { RcvdInfo::Other };
        }
        if heard == known && same_times && self.info_is == InfoIs::Received {
            return RcvdInfo::RepeatedDesignated;
        }
        // The same bridge and port may say something worse than before, and is believed (clause 17.6).
        match heard < known || (heard.is_by_sender_of(known) && (heard != known || !same_times)) {
            true => RcvdInfo::SuperiorDesignated,
            false if heard > known => RcvdInfo::InferiorDesignated,
            false => RcvdInfo::Other,
        }
    }

    fn record_proposal(&mut self, message: &Message) {
        self.proposed |= message.proposal && self.config.point_to_point;
    }

    fn record_agreement(&mut self, message: &Message, shared: &Shared) {
        let rstp = shared.config.protocol == Protocol::Rstp;
        self.agreed = rstp && self.config.point_to_point && message.agreement;
        self.proposing &= !self.agreed;
    }

    fn set_tc_flags(&mut self, message: &Message) {
        self.rcvd_tc |= message.tc;
        self.rcvd_tc_ack |= message.tc_ack;
    }

    fn updt_rcvd_info_while(&mut self) {
        let Times { message_age, max_age, hello, .. } = self.port_times;
        self.rcvd_info_while = if message_age < max_age { hello.saturating_mul(3) } else { 0 };
    }

    /// Port state transition machine (17.30).
    fn state_transition(&mut self) -> bool {
        let (learning, forwarding) = match (self.learning, self.learn) {
            (false, true) => (true, false),
            (true, true) => (true, self.forward),
            (_, false) => (false, false),
        };
        let was = (self.learning, self.forwarding);
        (self.learning, self.forwarding) = (learning, forwarding);
        was != (learning, forwarding)
    }

    /// Port transmit machine (17.26).
    fn transmit(&mut self, shared: &mut Shared) -> bool {
        if !self.port_enabled || !self.selected || self.updt_info {
            return false;
        }
        if self.hello_when == 0 {
            self.new_info |= self.role == Role::Designated || (self.role == Role::Root && self.tc_while != 0);
            self.hello_when = self.designated_times.hello;
            return true;
        }
        if !self.new_info || self.tx_count >= shared.config.tx_hold {
            return false;
        }
        let bpdu = match self.role {
            _ if self.send_rstp => Bpdu::Rst(self.message()),
            Role::Designated => Bpdu::Config(Message { tc_ack: self.tc_ack, ..self.message() }),
            Role::Root => Bpdu::Tcn,
            Role::Disabled | Role::Alternate | Role::Backup => return false,
        };
        self.new_info = false;
        if bpdu != Bpdu::Tcn {
            self.tc_ack = false;
        }
        self.tx_count += 1;
        self.tx_bpdus += 1;
        shared.out.push_back((self.id, bpdu.to_frame(shared.address)));
        true
    }

    /// What a designated port says before it goes: its information, at its maximum age. Who receives that has nothing to
    /// wait for (17.21.23). The old protocol has no such word (clause 9.3.4).
    pub(super) fn last_word(&self, shared: &Shared) -> Option<[u8; FRAME_LEN]> {
        let is_heard = self.port_enabled && self.send_rstp && !self.oper_edge;
        let message = self.message();
        let times = Times { message_age: message.times.max_age, ..message.times };
        let last = Bpdu::Rst(Message { times, proposal: false, ..message });
        (is_heard && self.role == Role::Designated).then(|| last.to_frame(shared.address))
    }

    /// txRstp and txConfig (17.21.19, 17.21.20).
    fn message(&self) -> Message {
        Message {
            vector: self.designated_priority,
            times: self.designated_times,
            role: self.role,
            tc: self.tc_while != 0,
            proposal: self.proposing,
            learning: self.learning,
            forwarding: self.forwarding,
            agreement: self.agree,
            tc_ack: false,
        }
    }
}
