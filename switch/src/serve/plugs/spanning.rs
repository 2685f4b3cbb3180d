//! What the spanning tree needs of descriptors: BPDUs written, and links looked at.
//!
//! # Theory of operation
//! A link that goes down is news that the protocol can act upon at once; without it three hellos must stay out first,
//! six seconds. Nobody tells us: a packet socket hears of its own interface's end, not of its carrier, and to listen
//! for rtnetlink messages we would have to be in its network. So while the spanning tree is on, every port is asked
//! every [`LINK_CHECK`]; that is two system calls a port, a hundredth of a CPU for a thousand ports.

use std::time::{Duration, Instant};

use super::Plugs;
use crate::frame::{Frame, TagEdit};
use crate::offload::VnetHdr;
use crate::port::PortId;
use crate::ports::Kind;
use crate::stp::config::{Edge, PortChange};
use crate::switch::{Switch, Transmit};

/// How often links are looked at.
const LINK_CHECK: Duration = Duration::from_millis(200);

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
        self.look_at(now, id, switch);
    }

    fn look_at(&self, now: Instant, id: PortId, switch: &mut Switch) {
        if let Some(plug) = self.plug(id).filter(|_| switch.stp().is_some()) {
            switch.set_link(now, id, plug.wire.is_up());
            switch.set_speed(now, id, plug.wire.speed());
        }
    }

    /// The spanning tree was changed: looks at all links, and how fast they are, if it is on.
    pub(in crate::serve) fn look_at_all(&mut self, now: Instant, switch: &mut Switch) {
        let ids: Vec<PortId> = switch.ports().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.look_at(now, id, switch));
        self.check_links(now, switch);
    }

    /// Looks at all links, if there is a spanning tree, and says when to look again.
    pub(super) fn check_links(&mut self, now: Instant, switch: &mut Switch) {
        self.link_check = switch.stp().map(|_| now + LINK_CHECK);
        if self.link_check.is_none() {
            return;
        }
        for (index, plug) in self.table.iter().enumerate() {
            let (Some(plug), id) = (plug, PortId::new(index as u32)) else { continue };
            let is_shut = switch.port(id).is_some_and(|port| port.shut.is_some());
            let up = plug.wire.is_up() && !is_shut;
            if switch.set_link(now, id, up) && up {
                switch.set_speed(now, id, plug.wire.speed());
            }
        }
    }
}
