//! Ports: where the frames of an interface go to and come from.
//!
//! # Theory of operation
//! A [`Port`] moves frames, each with a virtio-net header, between an engine and one of: a switch, by a shared-memory
//! ring ([`uplink`]); a TAP; a vde_switch ([`vde`]); another stack of this process ([`cable`]). Kinds that lack
//! offloads get their frames cut and their checksums filled on the way out. Whatever passes may be recorded
//! ([`pcap`]).
//!
//! Whoever owns the port waits for its [`Port::sources`] in an epoll set, edge-triggered where the port says so, and
//! works in rounds:
//! ```text
//!   event        → handle_ready(events)
//!   as long as   → receive() gives frames (a bounded number per turn)
//!   engine has   → send(), if has_room()
//!   round over   → flush()
//!   before sleep → before_sleep(): true means that frames wait, so no sleep
//! ```
//! Nothing here ever waits. A frame for which there is no room is dropped and counted; with
//! [`Port::has_room`] the owner asks before it makes frames. A port whose other end has gone has no carrier any
//! more; it takes no frames and gives none.

pub mod uplink;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use msocket::line::Refusal;
use nix::sys::epoll::EpollFlags;
use switch::offload::VnetHdr;
pub use switch::ports::{BUFFER_LEN, Sent};

use crate::config::{InterfaceConfig, Link};
use uplink::Uplink;

/// Where an interface's frames go to and come from.
#[derive(Debug)]
pub struct Port {
    end: End,
    carrier: bool,
}

/// The kinds of port.
#[derive(Debug)]
enum End {
    /// A ring to a switch.
    Uplink(Uplink),
}

/// Whom to ask for what a link's text only names.
#[derive(Debug)]
pub struct Plugs<'a> {
    /// The stack's name, by which others know its ports.
    pub stack: &'a str,
    /// The folder of the switches' sockets.
    pub switches: &'a Path,
}

impl Port {
    /// Plugs an interface in as it is configured; `None` for a link to nothing.
    ///
    /// # Errors
    /// What failed, why, and what to do about it.
    pub fn open(plugs: &Plugs<'_>, interface: &InterfaceConfig) -> Result<Option<Self>, Refusal> {
        let end = match &interface.link {
            Link::None => return Ok(None),
            Link::Switch { name, vlan } => {
                End::Uplink(Uplink::plug(plugs.stack, &interface.name, plugs.switches, name, vlan)?)
            }
        };
        Ok(Some(Self { end, carrier: true }))
    }

    /// What to wait for.
    pub fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, EpollFlags)> {
        match &self.end {
            End::Uplink(uplink) => uplink.sources().into_iter(),
        }
    }

    /// Something was seen at one of the sources.
    pub fn handle_ready(&mut self, events: EpollFlags) {
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR) {
            self.carrier = false;
        }
    }

    /// Is there anybody at the other end?
    pub fn has_carrier(&self) -> bool {
        self.carrier
    }

    /// Takes one frame into `buffer`, which is [`BUFFER_LEN`] long; `None` when there is none.
    pub fn receive<'b>(&mut self, now: Instant, buffer: &'b mut [u8]) -> Option<(VnetHdr, &'b [u8])> {
        let _ = now;
        if !self.carrier {
            return None;
        }
        let received = match &mut self.end {
            End::Uplink(uplink) => uplink.ring.receive(buffer).map_err(io::Error::from),
        };
        received.unwrap_or_else(|error| {
            log::debug!("a port is dead: {error}");
            self.carrier = false;
            None
        })
    }

    /// Puts one frame out.
    pub fn send(&mut self, now: Instant, header: &VnetHdr, frame: &[u8]) -> Sent {
        let _ = now;
        let sent = match &mut self.end {
            End::Uplink(uplink) => uplink.ring.send(header, &[frame]),
        };
        self.carrier &= sent != Sent::Dead;
        sent
    }

    /// Is there room for a round's frames? If not, a source becomes ready when there is.
    pub fn has_room(&mut self) -> bool {
        match &mut self.end {
            End::Uplink(uplink) => uplink.ring.want_room(uplink::ROOM).unwrap_or(true),
        }
    }

    /// The round is over: lets the other end know of what was sent.
    pub fn flush(&mut self) {
        match &mut self.end {
            End::Uplink(uplink) => uplink.ring.flush(),
        }
    }

    /// Asks to be woken; true if frames wait already.
    pub fn before_sleep(&mut self) -> bool {
        match &mut self.end {
            _ if !self.carrier => false,
            End::Uplink(uplink) => uplink.ring.arm().unwrap_or_else(|_| {
                self.carrier = false;
                false
            }),
        }
    }
}

#[cfg(test)]
mod tests;
