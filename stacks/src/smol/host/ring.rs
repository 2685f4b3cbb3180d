//! PACKET_RX_RING and mmap(2) of a packet socket: a ring that engine, host and program share.

use std::time::Instant;

use nix::errno::Errno;

use super::super::call::{Done, SocketCall};
use super::super::pump::ring::{Ring, hush};
use super::super::pump::{End, Shared};
use super::attempt::{Tried, Try};
use super::hosted::Hosted;
use super::parked::Parked;

impl Hosted {
    /// setsockopt(PACKET_RX_RING)
    pub(super) fn set_ring(&mut self, now: Instant, parked: &Parked, value: &[u8], shared: &Shared) -> Try {
        let id = parked.socket;
        let room = self.memory_left();
        let (engine, sockets) = self.parts();
        let layout = engine.plan_ring(id, value)?;
        let socket = sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let End::Datagram(datagram) = &mut socket.end else { return Err(Errno::ENOPROTOOPT) };
        let Some(layout) = layout else {
            if datagram.ring().is_some_and(Ring::is_mapped) {
                return Err(Errno::EBUSY);
            }
            engine.set_ring(now, id, None);
            datagram.set_ring(None);
            hush(&parked.file);
            self.rings.remove(&id);
            return Ok(Tried::Done(Done::Value(0)));
        };
        if layout.size() > room {
            return Err(Errno::ENOMEM);
        }
        let (ring, memory) =
            Ring::new(layout.size(), (&parked.caller, socket.inode), (socket.token, shared))?;
        engine.set_ring(now, id, Some((layout, memory)));
        datagram.set_ring(Some(ring));
        hush(&parked.file);
        // From now on whoever sends is to ask.
        sockets.values_mut().for_each(|socket| socket.show(now, engine, shared));
        self.rings.insert(id);
        Ok(Tried::Done(Done::Value(0)))
    }

    /// mmap(2)
    pub(super) fn map(&mut self, parked: &Parked) -> Try {
        let SocketCall::Map { length, offset } = parked.call else { return Ok(Tried::Done(Done::Native)) };
        let (engine, sockets) = self.parts();
        let socket = sockets.get(&parked.socket).ok_or(Errno::EBADF)?;
        engine.map_ring(parked.socket, length, offset)?;
        let End::Datagram(datagram) = &socket.end else { return Err(Errno::ENODEV) };
        let ring = datagram.ring().ok_or(Errno::EINVAL)?;
        let file = ring.file().try_clone_to_owned().map_err(|_| Errno::ENFILE)?;
        Ok(Tried::Descriptor(Done::Mapping, file))
    }
}
