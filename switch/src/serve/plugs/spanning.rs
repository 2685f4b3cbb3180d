//! What the spanning tree needs of descriptors: BPDUs written. Whether links are up: see [`super::watches`].

use std::time::Instant;

use super::Plugs;
use crate::frame::{Frame, TagEdit};
use crate::offload::VnetHdr;
use crate::port::PortId;
use crate::ports::Kind;
use crate::stp::config::{Edge, PortChange};
use crate::switch::{Switch, Transmit};

impl Plugs {
    /// Writes the BPDUs that there are.
    pub(in crate::serve) fn send_bpdus(&mut self, now: Instant, switch: &mut Switch) {
        while let Some((port, bytes)) = switch.poll_bpdu() {
            let Self { table, dead, unflushed, impaired, .. } = self;
            let Some(plug) = table.get_mut(port.index()).and_then(Option::as_mut) else { continue };
            let Some(frame) = Frame::new(&bytes) else { continue };
            let transmit = Transmit::new(port, TagEdit::Keep);
            let hdr = VnetHdr::default();
            if plug.lines.is_some() && impaired.egress(now, plug, &hdr, frame, &transmit, switch) {
                continue;
            }
            if plug.wire.begin(now, 1) && !std::mem::replace(&mut plug.unflushed, true) {
                unflushed.push(port);
            }
            plug.transmit(&VnetHdr::default(), frame, &transmit, None, switch, dead);
        }
        self.flush_all(now, switch);
    }

    /// A port, or with `None` the switch, is about to go by command: tells the neighbours.
    pub(in crate::serve) fn say_farewell(&mut self, now: Instant, id: Option<PortId>, switch: &mut Switch) {
        switch.say_farewell(id);
        self.send_bpdus(now, switch);
    }

    /// A port is new. Behind a ring that is no link to another switch, or in the namespace of a view, is a host and no
    /// bridge: it is an edge port, until a BPDU says otherwise.
    pub(super) fn enter_tree(&mut self, now: Instant, id: PortId, switch: &mut Switch) {
        let Some(plug) = self.plug(id) else { return };
        let is_host = plug.kind() == Kind::Ring && plug.wire.lifeline().is_none();
        if is_host || plug.dying {
            let edge = PortChange { edge: Some(Edge::On), ..PortChange::default() };
            // Nothing else is changed that might be refused.
            let _ = switch.set_stp_port(now, id, &edge);
        }
        if switch.stp().is_some() {
            self.look_at(now, id, switch);
        }
        if self.link_check.is_none() {
            self.ask_later(now, switch);
        }
    }
}
