//! Packets to ourselves.
//!
//! # Theory of operation
//! What is sent to one of our addresses, and copies of what is sent to groups that we are in, waits here as an
//! IP packet with its header and payload apart, so that it was copied once and goes to the socket as it is. It
//! is not taken in at once: a reply to a reply to a reply would nest as deep as programs like.

use std::collections::VecDeque;
use std::time::Instant;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::buffer::Buffer;
use super::input::Arrival;
use super::{Delivery, Net};
use crate::filter::Tracked;
use crate::smol::tables::{IfIndex, LOOPBACK};

/// Packets that wait, at most (net.core.netdev_max_backlog).
const MAX_QUEUE: usize = 1000;
/// Bytes that wait, at most: what four connections with windows of 4 MiB may have under way.
const MAX_BYTES: usize = 16 << 20;

/// Packets to ourselves.
#[derive(Debug, Default)]
pub(super) struct Loopback {
    queue: VecDeque<Looped>,
    bytes: usize,
}

#[derive(Debug)]
struct Looped {
    link: IfIndex,
    buffer: Buffer<'static>,
    gso_size: u16,
    group: bool,
    tracked: Option<Tracked>,
}

impl Net {
    /// Next packet that we sent to ourselves, until `None`. Call after everything that may send.
    pub fn poll_loopback(&mut self, now: Instant) -> Option<Delivery<'static>> {
        let Some(looped) = self.loopback.queue.pop_front() else {
            if self.loopback.queue.capacity() > MAX_QUEUE / 8 {
                self.loopback.queue = VecDeque::new();
            }
            return None;
        };
        let len = looped.buffer.len();
        self.loopback.bytes -= len;
        self.count(LOOPBACK, |counters| {
            counters.rx_packets += 1;
            counters.rx_bytes += len as u64;
            counters.tx_packets += 1;
            counters.tx_bytes += len as u64;
        });
        let arrival = Arrival {
            link: looped.link,
            gso_size: looped.gso_size,
            header: VnetHdr::default(),
            trusted: true,
            group_frame: looped.group,
            mac: None,
            tracked: looped.tracked,
            reassembled: false,
        };
        Some(self.ip_input(now, &arrival, looped.buffer))
    }

    /// Lets a packet come back to us, as if it had arrived on `link`. A full queue drops it, as the kernel's.
    pub(super) fn loop_back(
        &mut self,
        link: IfIndex,
        buffer: Buffer<'static>,
        gso_size: u16,
        group: bool,
        tracked: Option<Tracked>,
    ) -> Result<(), Errno> {
        let len = buffer.len();
        if self.loopback.queue.len() >= MAX_QUEUE || self.loopback.bytes + len > MAX_BYTES {
            self.count(LOOPBACK, |counters| counters.rx_dropped += 1);
            return Ok(());
        }
        self.loopback.bytes += len;
        self.loopback.queue.push_back(Looped { link, buffer, gso_size, group, tracked });
        Ok(())
    }
}
