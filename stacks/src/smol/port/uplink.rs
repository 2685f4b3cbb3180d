//! A port of a switch, by shared-memory ring.
//!
//! # Theory of operation
//! We make the ring and hand its other end to the switch with the control request `port_add`. The port lives
//! as long as the control connection, which is kept for that and says, by hanging up, that the switch has ended.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use msocket_proto::line::Refusal;
use nix::sys::epoll::EpollFlags;
use switch::client::{Attach, Client, Kind};
use switch::ports::ring::{CAPACITY, Ring};

use crate::attach;
use crate::config::Plug;

/// Free bytes below which no frames are made: what an engine makes in a round, some super-segments.
pub(super) const ROOM: u32 = 1 << 20;

/// A port of a switch.
#[derive(Debug)]
pub struct Uplink {
    pub(super) ring: Ring,
    client: Client,
}

impl Uplink {
    /// Plugs `interface` of `stack` into a switch; a `guest` does not keep it.
    ///
    /// # Errors
    /// No such switch, or its refusal.
    pub fn plug(
        (stack, interface): (&str, &str),
        switches: &Path,
        plug: &Plug<'_>,
        guest: bool,
    ) -> Result<Self, Refusal> {
        let switch = plug.switch;
        let mut client = attach::connect(interface, &attach::path(switches, switch), switch)?;
        let (ring, ends) = Ring::create(CAPACITY)
            .map_err(|e| Refusal::new(format!("cannot make a ring for {interface}"), e))?;
        let wanted = Attach { vlans: plug.vlans(), guest, ..Attach::new(Kind::Ring) };
        let added = attach::add(stack, interface, switch, wanted, |attach| client.add_ring(&ends, attach))?;
        attach::impair(&mut client, &added.name, plug)?;
        Ok(Self { ring, client })
    }

    pub(super) fn sources(&self) -> [(BorrowedFd<'_>, EpollFlags); 2] {
        let (edge, read) = (EpollFlags::EPOLLET, EpollFlags::EPOLLIN);
        [(self.ring.as_fd(), read | edge), (self.client.line().as_fd(), EpollFlags::EPOLLRDHUP | edge)]
    }
}
