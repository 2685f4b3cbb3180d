//! Urgent data: the pointer, which smoltcp does not know.
//!
//! # Theory of operation
//! RFC 9293 clause 3.8.5 as Linux has it (RFC 6093, net.ipv4.tcp_stdurg off): one byte is urgent, the last of what was
//! sent so, and the pointer leads behind it. Everything lies in the stream in order; here is only where. While a
//! sent one is not acknowledged, every segment from before it says where it ends, repeated ones and bare
//! acknowledgements too, and nothing waits to be gathered. A later urgent byte takes the place of an earlier one, on
//! either side, and that is then a byte as any other.
//!
//! A peer's pointer is a number to compare with, never one to index by: what it leads to is urgent when it is reached
//! by data in order, and nothing is if it is not.

use super::connection::Connection;
use super::segment::{Incoming, before};

/// Furthest that a pointer leads.
const FURTHEST: u32 = u16::MAX as u32;

impl Connection {
    /// The last byte that the program wrote is urgent (tcp_mark_urg()).
    pub(super) fn urge(&mut self) {
        let Some(body) = &self.body else { return };
        let written = self.sending.una.wrapping_add(body.socket().send_queue() as u32);
        self.sending.urgent = Some(written);
        self.apply();
        self.stir();
    }

    /// The pointer of a segment that begins at `seq` (tcp_transmit_skb()).
    pub(super) fn urgent_pointer(&self, seq: u32) -> Option<u16> {
        let end = self.sending.urgent.filter(|&end| before(seq, end))?;
        match u16::try_from(end.wrapping_sub(seq)) {
            Ok(pointer) => Some(pointer),
            Err(_) if before(self.sending.max, seq.wrapping_add(FURTHEST)) => Some(u16::MAX),
            Err(_) => None,
        }
    }

    /// The peer acknowledged something: the urgent byte, perhaps.
    pub(super) fn note_urgent_taken(&mut self) {
        if self.sending.urgent.is_some_and(|end| !before(self.sending.una, end)) {
            self.sending.urgent = None;
            self.apply();
        }
    }

    /// The peer's pointer (tcp_check_urg()): what was there already is not urgent any more, nor is what lies before a
    /// newer urgent byte.
    pub(super) fn note_urgent(&mut self, segment: &Incoming<'_>) {
        let Some(pointer) = segment.urgent else { return };
        let at = segment.seq.wrapping_add(u32::from(pointer.saturating_sub(1)));
        let receiving = &mut self.receiving;
        let known = receiving.urgent.is_some_and(|old| !before(old, at));
        if !known && !before(at, receiving.next) {
            receiving.urgent = Some(at);
        }
    }

    /// Received bytes before the urgent one, if that was received.
    pub(super) fn urgent(&self) -> Option<usize> {
        let at = self.receiving.urgent.filter(|&at| before(at, self.receiving.next))?;
        let ahead = at.wrapping_sub(self.receiving.start) as usize;
        (ahead < self.received()).then_some(ahead)
    }

    /// The program has read on.
    pub(super) fn forget_urgent(&mut self) {
        if self.receiving.urgent.is_some_and(|at| before(at, self.receiving.start)) {
            self.receiving.urgent = None;
        }
    }
}
