//! A packet socket's ring: setsockopt(PACKET_RX_RING), mmap(2) and the bell of poll(2).

use std::time::Instant;

use nix::errno::Errno;

use super::super::cmsg::realtime;
use super::super::packet::PacketSocket;
use super::super::{Body, Socket};
use super::{Bell, Layout, Memory, Ring, Version};
use crate::smol::engine::{Engine, SocketId};

/// What mapped memory is multiples of, in bytes (PAGE_SIZE).
const PAGE: u64 = 4096;

impl Engine {
    fn ringed(&mut self, id: SocketId) -> Option<&mut PacketSocket> {
        match self.sockets.get_mut(id).map(|socket| &mut socket.body) {
            Some(Body::Packet(packet)) => Some(packet),
            _ => None,
        }
    }

    /// Judges what setsockopt(PACKET_RX_RING) asks for; the ring itself is made by [`Engine::set_ring`]. `None`: there shall
    /// be no ring.
    pub(in crate::smol) fn plan_ring(&mut self, id: SocketId, value: &[u8]) -> Result<Option<Layout>, Errno> {
        if self.sockets.get(id).is_some_and(Socket::is_spkt) {
            return Err(Errno::EOPNOTSUPP);
        }
        let packet = self.ringed(id).ok_or(Errno::ENOPROTOOPT)?;
        let version = Version::from_number(packet.version).ok_or(Errno::EINVAL)?;
        let reserve = u32::try_from(packet.reserve).map_err(|_| Errno::EINVAL)?;
        let busy = packet.ring.is_some();
        Layout::parse(version, reserve, busy, value)
    }

    /// Gives a socket a ring in memory that is all zero, or takes its ring away. What waits in its queue is forgotten.
    pub(in crate::smol) fn set_ring(
        &mut self,
        now: Instant,
        id: SocketId,
        ring: Option<(Layout, Box<dyn Memory>)>,
    ) {
        let wall = realtime(now, self.origin, self.realtime);
        let tally = self.queued.clone();
        let Some(packet) = self.ringed(id) else { return };
        packet.ring = ring.map(|(layout, memory)| Box::new(Ring::new(layout, memory, wall, &tally)));
        while packet.queue.pop().is_some() {}
        self.arm(id, None);
        self.mark(id);
    }

    /// mmap(2): whether so much memory from there on is what the socket has.
    pub(crate) fn map_ring(&mut self, id: SocketId, length: u64, offset: u64) -> Result<(), Errno> {
        let packet = self.ringed(id).ok_or(Errno::ENODEV)?;
        let size = packet.ring.as_ref().map(|ring| ring.size());
        let pages = length.checked_next_multiple_of(PAGE);
        if size.is_some() && size == pages && offset == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// What is to be done with the bell of a socket's ring.
    pub(in crate::smol) fn poll_bell(&mut self, now: Instant, id: SocketId) -> Option<Bell> {
        self.ringed(id)?.ring.as_mut()?.poll_bell(now)
    }

    /// When to ask for it again, if nothing happens first: within microseconds, which the wheel does not know.
    pub(in crate::smol) fn bell_timeout(&mut self, id: SocketId) -> Option<Instant> {
        self.ringed(id)?.ring.as_ref()?.bell_timeout()
    }

    /// The bell could not be taken back now.
    pub(in crate::smol) fn keep_bell(&mut self, now: Instant, id: SocketId) {
        if let Some(ring) = self.ringed(id).and_then(|packet| packet.ring.as_mut()) {
            ring.keep_bell(now);
        }
    }

    /// A ring has something in it.
    pub(crate) fn tend_ring(&mut self, id: SocketId) {
        let timeout = self.ringed(id).and_then(|packet| packet.ring.as_ref()?.poll_timeout());
        self.arm(id, timeout);
        self.mark(id);
    }

    /// A ring's deadline has passed.
    pub(crate) fn ring_expired(&mut self, now: Instant, id: SocketId) {
        let wall = realtime(now, self.origin, self.realtime);
        let Some(packet) = self.ringed(id) else { return };
        let losing = packet.is_losing();
        if let Some(ring) = &mut packet.ring {
            ring.handle_timeout(now, wall, losing);
        }
        self.tend_ring(id);
    }
}
