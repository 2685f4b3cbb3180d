//! Looking up the names of endpoints, without waiting.
//!
//! # Theory of operation
//! Each question is a thread of its own, as getaddrinfo(3) may wait for half a minute; there are at most
//! [`MAX_ASKING`]. The answer lies in a channel, and an eventfd says so. Names are looked up as the machine looks
//! them up, beside the tunnel: a name that leads to the tunnel cannot be asked for within. Of several addresses the first
//! is taken, and the next one when a peer does not answer: a machine may have IPv6 that leads nowhere.

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

    /// Looks up the name of a peer that does not answer at `tried`.
    #[expect(clippy::disallowed_methods, reason = "getaddrinfo(3) waits")]
    pub(super) fn ask(&mut self, peer: usize, name: Endpoint, tried: Option<SocketAddr>) {
        if self.asking >= MAX_ASKING {
            return;
        }
        self.asking += 1;
        let (bell, sender) = (Arc::clone(&self.bell), self.sender.clone());
        std::thread::spawn(move || {
            // Nobody hears it if the tunnel has ended meanwhile.
            let _ = sender.send((peer, look_up(&name, tried)));
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

/// An address that the machine knows, another one than `tried` if there are several.
pub(super) fn look_up(name: &Endpoint, tried: Option<SocketAddr>) -> Option<SocketAddr> {
    let known: Vec<_> = (name.host.as_str(), name.port).to_socket_addrs().ok()?.collect();
    another(&known, tried)
}

/// The one behind `tried`, round and round.
fn another(known: &[SocketAddr], tried: Option<SocketAddr>) -> Option<SocketAddr> {
    let next = known.iter().position(|address| Some(*address) == tried).map_or(0, |at| at + 1);
    known.get(next).or_else(|| known.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_at_one_address_is_tried_at_the_next() {
        let [one, two, gone]: [SocketAddr; 3] =
            ["192.0.2.1:7", "[2001:db8::1]:7", "192.0.2.9:7"].map(|text| text.parse().unwrap());
        let known = [one, two];
        for (tried, next) in [(None, one), (Some(one), two), (Some(two), one), (Some(gone), one)] {
            assert_eq!(another(&known, tried), Some(next), "{tried:?}");
        }
        assert_eq!(another(&[], Some(one)), None);
    }
}
