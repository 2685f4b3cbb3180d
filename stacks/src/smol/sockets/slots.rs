//! The sockets of an engine by their ids.

use super::Socket;
use crate::smol::engine::SocketId;

/// Most sockets of one engine, those without a program included: as many as a generous RLIMIT_NOFILE.
pub(crate) const MAX_SOCKETS: usize = 1 << 20;

/// Sockets by id. A slot's generation grows with each use, so that an id is never used again.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    socket: Option<Box<Socket>>,
}

fn split(id: SocketId) -> (usize, u32) {
    (id.0 as u32 as usize, (id.0 >> 32) as u32)
}

impl Slots {
    /// Puts a socket in; `None` if there are too many.
    pub(crate) fn insert(&mut self, socket: Box<Socket>) -> Option<SocketId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() >= MAX_SOCKETS => return None,
            None => {
                self.slots.push(Slot { generation: 0, socket: None });
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.socket = Some(socket);
        Some(SocketId(u64::from(slot.generation) << 32 | u64::from(index)))
    }

    /// The socket, if it is still there.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Socket> {
        let (index, generation) = split(id);
        let slot = self.slots.get(index).filter(|slot| slot.generation == generation)?;
        slot.socket.as_deref()
    }

    /// The socket, if it is still there.
    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        slot.socket.as_deref_mut()
    }

    /// Takes a socket out.
    pub(crate) fn remove(&mut self, id: SocketId) -> Option<Box<Socket>> {
        let (index, generation) = split(id);
        let slot = self.slots.get_mut(index).filter(|slot| slot.generation == generation)?;
        let socket = slot.socket.take()?;
        self.free.push(index as u32);
        Some(socket)
    }

    /// All of them, in the order of their slots: for lists that people read.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketId, &Socket)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = SocketId(u64::from(slot.generation) << 32 | index as u64);
            slot.socket.as_deref().map(|socket| (id, socket))
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smol::sockets::options::Options;

    /// Of the 2 KB that an idle connection may cost, this much is the socket layer's and the machine's; the
    /// rest is the tables, and the pump.
    #[test]
    fn a_socket_is_small() {
        let (socket, options) = (size_of::<Socket>(), size_of::<Options>());
        println!("{socket} {options} {}", size_of::<crate::smol::sockets::tcp::Connection>());
        assert!(socket <= 1024, "{socket}");
        assert!(options <= 512, "{options}");
    }
}
