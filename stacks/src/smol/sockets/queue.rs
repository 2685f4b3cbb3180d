//! Datagrams that wait for their program.
//!
//! A queue is bounded by SO_RCVBUF, where each datagram counts with what Linux's bookkeeping would add to it
//! (SKB_TRUESIZE), so that as many fit as there. What does not fit is dropped and counted (SO_RXQ_OVFL).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use super::address::{Endpoint, LinkLayer};
use super::spkt::PKT_LEN;
use crate::smol::tables::IfIndex;
use crate::smol::tally::Tally;

/// What a datagram counts beside its bytes: struct sk_buff and skb_shared_info, roughly.
const OVERHEAD: usize = 576;
/// Buffers are counted in steps of this many bytes, as Linux's allocator gives them.
const STEP: usize = 256;

/// Who sent a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// By IP.
    Inet(Endpoint),
    /// By a link.
    Link(LinkLayer),
    /// By a link, as a struct sockaddr_pkt has it.
    Device([u8; PKT_LEN]),
}

/// What a packet socket tells beside the frame (struct tpacket_auxdata).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Auxiliary {
    /// TP_STATUS_*
    pub(crate) status: u32,
    /// Bytes of the frame on the wire.
    pub(crate) length: u32,
    /// Where the network layer's header is.
    pub(crate) network: u16,
    /// Tag control information.
    pub(crate) tag: Option<u16>,
}

/// A datagram and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) data: Vec<u8>,
    pub(crate) from: Sender,
    pub(crate) to: IpAddr,
    pub(crate) to_port: u16,
    pub(crate) link: IfIndex,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) flow: u32,
    /// UDP_GRO: bytes per datagram if several are in it, else 0.
    pub(crate) segment: u16,
    pub(crate) at: Instant,
    pub(crate) auxiliary: Auxiliary,
}

/// The queue of one socket.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Where they are counted with those of others.
    tally: Option<Tally>,
    /// What did not fit, ever.
    pub(crate) dropped: u64,
}

/// What a datagram counts.
fn cost(length: usize) -> usize {
    length.next_multiple_of(STEP) + OVERHEAD
}

impl Queue {
    /// From now on what it holds is counted there as well.
    pub(crate) fn count_in(&mut self, tally: &Tally) {
        tally.add(self.bytes);
        self.tally = Some(tally.clone());
    }

    /// Whether a datagram fits; it is counted if not. One always does, as in Linux.
    pub(crate) fn has_room(&mut self, length: usize, limit: u32) -> bool {
        let fits = self.items.is_empty() || self.bytes + cost(length) <= limit as usize;
        self.dropped += u64::from(!fits);
        fits
    }

    /// Puts a datagram at the end.
    pub(crate) fn push(&mut self, item: Item) {
        self.bytes += cost(item.data.len());
        if let Some(tally) = &self.tally {
            tally.add(cost(item.data.len()));
        }
        self.items.push_back(item);
    }

    /// Takes the oldest out.
    pub(crate) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= cost(item.data.len());
        if let Some(tally) = &self.tally {
            tally.subtract(cost(item.data.len()));
        }
        if self.items.is_empty() && self.items.capacity() > KEEP {
            self.items = VecDeque::new();
        }
        Some(item)
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// What they count together, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(tally) = &self.tally {
            tally.subtract(self.bytes);
        }
    }
}

/// Places that an empty queue keeps.
const KEEP: usize = 16;
