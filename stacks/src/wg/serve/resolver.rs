//! Looking up the names of endpoints, without waiting.
//!
//! # Theory of operation
//! Each question is a thread of its own, as getaddrinfo(3) may wait for half a minute; there are at most
//! [`MAX_ASKING`]. The answer lies in a channel, and an eventfd says so. Names are looked up as the machine looks
//! them up, beside the tunnel: a name that leads to the tunnel cannot be asked for within.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::errno::Errno;
use rustix::event::EventfdFlags;

use crate::wg::quick::Endpoint;

/// Most questions at once; others are asked when the tunnel wants to know again.
const MAX_ASKING: usize = 16;

type Answer = (usize, Option<SocketAddr>);

#[derive(Debug)]
pub(super) struct Resolver {
    bell: Arc<OwnedFd>,
    answers: Receiver<Answer>,
    sender: Sender<Answer>,
    asking: usize,
}

impl Resolver {
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let bell = rustix::event::eventfd(0, flags).map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let (sender, answers) = channel();
        Ok(Self { bell: Arc::new(bell), answers, sender, asking: 0 })
    }

    #[expect(clippy::disallowed_methods, reason = "getaddrinfo(3) waits")]
    pub(super) fn ask(&mut self, peer: usize, name: Endpoint) {
        if self.asking >= MAX_ASKING {
            return;
        }
        self.asking += 1;
        let (bell, sender) = (Arc::clone(&self.bell), self.sender.clone());
        std::thread::spawn(move || {
            // Nobody hears it if the tunnel has ended meanwhile.
            let _ = sender.send((peer, look_up(&name)));
            let _ = rustix::io::write(&*bell, &1u64.to_ne_bytes());
        });
    }

    /// The next answer that is an address.
    pub(super) fn take(&mut self) -> Option<(usize, SocketAddr)> {
        let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
        while let Ok((peer, address)) = self.answers.try_recv() {
            self.asking -= 1;
            if let Some(address) = address {
                return Some((peer, address));
            }
        }
        None
    }
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The first address that the machine knows.
pub(super) fn look_up(name: &Endpoint) -> Option<SocketAddr> {
    (name.host.as_str(), name.port).to_socket_addrs().ok()?.next()
}
