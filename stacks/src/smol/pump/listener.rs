//! A listening stream: one connection at a time waits where accept(2) and poll(2) see it.
//!
//! # Theory of operation
//! The engine's queue is the backlog. Its first connection is offered to the program's listener, a real
//! AF_UNIX one, so that poll(2) says what it should; the next one follows when that was accepted. accept(2) is
//! always trapped: we take the connection out of the program's queue ourselves and so know which it is.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;

use super::super::engine::{Engine, SocketId};
use super::super::host::StackKey;
use super::unix::{self, Address};
use super::{Place, Shared};

/// A listener.
#[derive(Debug, Default)]
pub(in super::super) struct Listener {
    /// How many connections wait in the program's queue.
    offered: usize,
}

/// A connection that was offered.
#[derive(Debug)]
pub(in super::super) struct Offered {
    /// The engine's socket.
    pub(in super::super) id: SocketId,
    /// Its token, which is in the name of our end.
    pub(in super::super) token: u64,
    /// Our end.
    pub(in super::super) ours: OwnedFd,
}

/// Most connections that wait in the program's queue: one makes it readable.
const OFFERED: usize = 1;

impl Listener {
    /// Offers the next connection to one of the stack's listeners. `Err`: the program's end has gone.
    pub(in super::super) fn offer(
        &mut self,
        now: Instant,
        (stack, listener): (StackKey, SocketId),
        address: &Address,
        engine: &mut Engine,
        shared: &mut Shared,
    ) -> Result<Option<Offered>, ()> {
        if self.offered >= OFFERED {
            return Ok(None);
        }
        let Some((id, _)) = engine.accept(now, listener) else { return Ok(None) };
        let fresh = shared.number(Place::Socket(stack, id));
        match unix::offer(address, &shared.name(fresh)) {
            Ok(ours) if shared.watch(&ours, fresh).is_ok() => {
                self.offered += 1;
                engine.lend(listener, self.offered);
                Ok(Some(Offered { id, token: fresh, ours }))
            }
            Err(Errno::ECONNREFUSED) => {
                shared.vacate(fresh);
                engine.close(now, id, true);
                Err(())
            }
            Ok(_) | Err(_) => {
                shared.vacate(fresh);
                engine.close(now, id, true);
                Ok(None)
            }
        }
    }

    /// A connection was accepted.
    pub(in super::super) fn taken(&mut self, listener: SocketId, engine: &mut Engine) {
        self.offered = self.offered.saturating_sub(1);
        engine.lend(listener, self.offered);
    }
}
