//! The news that the root is gone, and whether to believe it at once.
//!
//! # Theory of operation
//! RSTP remembers what alternate ports heard, and falls back on it when the root port has worse to tell. If the root
//! itself is gone, that is old news: where bridges that have no other way to the root make a cycle, it goes round
//! there, a little older each time, until its age is the maximum age (17.21.23), and the truth runs after it. That
//! takes seconds, as a port may send only `tx_hold` BPDUs in each, and a loop may live as long.
//!
//! Old news sets out where a bridge hears that a neighbour, who led to the root, believes in a worse one now, while another
//! port has the word of the better one: by the root port if an alternate port has it, by the alternate port if the root
//! port has. Such a bridge *doubts*: the BPDU is [`Port::late`], as if it had been [`DOUBT`] longer under way. If the root
//! is gone, the other ports hear so meanwhile, all of it is believed at once, and nothing old is told to anybody. If it is
//! only a link, the old word is believed that much later, and passed on. In a ring one bridge has a choice of ports, so
//! that is once. What a port does when its own link goes down is not put off.
//!
//! Nothing is said differently, and a late BPDU is no news to the protocol: until it is looked at, the bridge is as it was,
//! and whoever needs its agreement waits. Clause 17.32 lets bridges take some time over a BPDU.
//!
//! Read: IEEE 802.1D-2004 clause 17.21.8, 17.21.23; Elmeleegy, Cox and Ng: Understanding and mitigating the effects of
//! count to infinity in Ethernet networks, 2009. (Their own remedy needs other BPDUs.)

use std::time::Duration;

use super::Bridge;
use super::bpdu::{Bpdu, BridgeId, Role};
use super::port::{InfoIs, Port};
use crate::port::PortId;

/// How long other ports have to hear, too, that the root is gone. News crosses a bridge in a millisecond or some; this
/// is enough for dozens, and an outage that nobody notices.
const DOUBT: Duration = Duration::from_millis(50);

impl Bridge {
    /// A BPDU was heard on a port: has the port look at it, or puts that off.
    pub(super) fn hear(&mut self, id: PortId, bpdu: Bpdu) {
        let root = self.root.priority.root;
        let others = self.doubt.is_some() || {
            let mut others = self.ports.iter().flatten().filter(|port| port.id != id);
            others.any(|port| port.knows(root))
        };
        let Some(port) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let bpdu = port.late.take().map_or(bpdu, |earlier| bpdu.after(&earlier));
        if others && port.knows(root) && port.is_revoked(&bpdu) {
            port.late = Some(bpdu);
            self.doubt.get_or_insert(self.now + DOUBT);
        } else {
            port.receive(bpdu, &self.shared);
        }
    }

    /// Has the ports look at what is late, if it is time or no other word is left. Roles are selected behind that, once.
    pub(super) fn settle_doubt(&mut self) {
        let root = self.root.priority.root;
        let Some(until) = self.doubt else { return };
        let is_left = self.ports.iter().flatten().any(|port| port.late.is_none() && port.knows(root));
        if self.now < until && is_left {
            return;
        }
        self.doubt = None;
        for port in self.ports.iter_mut().flatten() {
            if let Some(bpdu) = port.late.take() {
                port.receive(bpdu, &self.shared);
                port.information(&mut self.shared);
            }
        }
    }
}

impl Port {
    /// Did its neighbour say that it leads to this root?
    fn knows(&self, root: BridgeId) -> bool {
        self.port_enabled
            && self.info_is == InfoIs::Received
            && self.rcvd_info_while > 0
            && self.port_priority.root == root
    }

    /// Does its neighbour say that there is but a worse root?
    fn is_revoked(&self, bpdu: &Bpdu) -> bool {
        let (Bpdu::Config(message) | Bpdu::Rst(message)) = bpdu else { return false };
        let (said, known) = (&message.vector, &self.port_priority);
        message.role == Role::Designated && said.root > known.root && said.is_by_sender_of(known)
    }
}
