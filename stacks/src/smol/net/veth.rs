//! Links that end within the stack.
//!
//! # Theory of operation
//! What is sent into one end of a veth pair (veth(4)) comes out of the other, and what is sent into a dummy is
//! forgotten. Such frames never reach a port: they wait here until whoever drives the network layer has shown them
//! to packet sockets and hands them in again at the other end. As with packets to ourselves, they are not taken in
//! at once: what they cause would nest as deep as programs like. Read: drivers/net/{veth,dummy}.c.

use std::collections::VecDeque;
use std::ops::Range;

use switch::offload::VnetHdr;

use super::Net;
use crate::config::Mac;
use crate::smol::tables::{IfIndex, LinkKind};

/// Frames that wait, at most (net.core.netdev_max_backlog).
const MAX_QUEUE: usize = 1000;
/// Bytes that wait, at most: as many as for ports.
const MAX_BYTES: usize = super::arena::MAX_WAITING;

/// A frame on its way within the stack.
#[derive(Debug)]
pub struct Crossing {
    /// It left by this interface.
    pub from: IfIndex,
    /// It arrives at this one; absent: nowhere.
    pub to: Option<IfIndex>,
    /// What is left to do to it.
    pub header: VnetHdr,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Crossings {
    queue: VecDeque<Crossing>,
    bytes: usize,
}

impl Net {
    /// Next frame that stays within the stack, until `None`. Call after everything that may send.
    pub fn poll_crossing(&mut self) -> Option<Crossing> {
        let crossing = self.crossings.queue.pop_front()?;
        self.crossings.bytes -= crossing.frame.len();
        Some(crossing)
    }

    /// Takes a frame that leaves by a link of this kind; false if it is lost.
    pub(super) fn cross(&mut self, from: IfIndex, kind: LinkKind, header: VnetHdr, at: Range<usize>) -> bool {
        let to = match kind {
            LinkKind::Veth { peer } => Some(peer),
            _ => None,
        };
        if self.crossings.queue.len() >= MAX_QUEUE || self.crossings.bytes + at.len() > MAX_BYTES {
            return false;
        }
        let frame = self.arena.at(at).to_vec();
        self.crossings.bytes += frame.len();
        self.crossings.queue.push_back(Crossing { from, to, header, frame });
        true
    }

    /// The hardware address for whoever is behind a link on which nobody is asked (IFF_NOARP).
    pub(super) fn unasked_mac(&self, link: IfIndex) -> Option<Mac> {
        self.tables
            .links
            .get(&link)
            .filter(|link| link.kind == LinkKind::Dummy || link.is_tunnel())
            .map(|link| link.mac)
    }
}
