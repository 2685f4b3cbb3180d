//! One plug: a frame written, with its tag and cut as its port takes it.

use std::ops::ControlFlow;

use super::Plug;
use crate::frame::Frame;
use crate::offload;
use crate::port::{DropReason, PortId};
use crate::ports::{Kind, Sent};
use crate::switch::{Switch, Transmit};
use crate::vlan::Vid;
use crate::vxlan::Tunnel;

impl Plug {
    /// The tunnel that it is an end of.
    pub(in crate::serve) fn tunnel(&self) -> Option<&Tunnel> {
        self.wire.tunnel()
    }

    /// As [`Plug::tunnel`], to be changed.
    pub(in crate::serve) fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        self.wire.tunnel_mut()
    }

    pub(in crate::serve) fn kind(&self) -> Kind {
        self.wire.kind()
    }

    pub(super) fn transmit(
        &mut self,
        hdr: &offload::VnetHdr,
        frame: Frame<'_>,
        transmit: &Transmit,
        vid: Option<Vid>,
        switch: &mut Switch,
        dead: &mut Vec<PortId>,
    ) {
        let (mut frames, mut bytes, mut is_dead) = (0, 0, false);
        let Self { wire, others, offloads, .. } = self;
        let cut = offload::emit(hdr, frame, transmit.edit(), *offloads, |hdr, pieces| {
            match Self::send(wire, others, hdr, pieces) {
                Sent::Bytes(n) => {
                    frames += 1;
                    bytes += n as u64;
                }
                Sent::Dropped(reason) => switch.dropped(transmit.port, reason),
                Sent::Dead => {
                    is_dead = true;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        if cut.is_err() {
            switch.dropped(transmit.port, DropReason::Uncuttable);
        }
        if frames > 0 {
            switch.sent(transmit.port, frames, bytes);
            if let Some(vid) = vid {
                switch.sent_in(vid, frames, bytes);
            }
        }
        if is_dead {
            self.mark_dead(transmit.port, dead);
        }
    }

    pub(in crate::serve) fn mark_dead(&mut self, id: PortId, dead: &mut Vec<PortId>) {
        // Some wait for another one at their other end.
        if !self.wire.hang_up() && !self.dead {
            self.dead = true;
            dead.push(id);
        }
    }
}
