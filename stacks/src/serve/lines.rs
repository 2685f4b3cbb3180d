//! The control connections of a process that has one socket: who comes, what they ask, who they are.
//!
//! # Theory of operation
//! [`Lines`] puts each connection into its host's epoll set under a token of its own, counted up from a first one, so
//! that the host knows by a token whose event it is. Client and server take turns, a line of JSON each
//! ([`msocket_proto::line`]): the host takes a line out, lets [`converse`] read the request and answer it, and puts it
//! back if it is still open. One connection too many is closed, and so is one whose peer does not read.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use msocket_proto::line::{Line, LineError, Received, Refusal, Reply};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use serde::de::DeserializeOwned;

use super::Shed;

/// A listening socket and its connections.
#[derive(Debug)]
pub struct Lines {
    listener: UnixListener,
    connections: HashMap<u64, Line>,
    first: u64,
    next: u64,
    limit: usize,
    shed: Shed,
}

impl Lines {
    /// None yet of at most `limit` connections at once, whose tokens are above `first`.
    pub fn new(listener: UnixListener, first: u64, limit: usize) -> Self {
        Self { listener, connections: HashMap::new(), first, next: first, limit, shed: Shed::new() }
    }

    /// What becomes readable when somebody waits to be taken in.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes in who waits: the listening socket is readable.
    pub fn accept(&mut self, epoll: &Epoll) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if self.shed.make_room(&e, &self.listener) => continue,
                Err(_) => return,
            };
            let Ok(line) = Line::server(stream) else { continue };
            self.next += 1;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, self.next);
            if self.connections.len() < self.limit && epoll.add(&line, event).is_ok() {
                self.connections.insert(self.next, line);
            }
        }
    }

    /// Takes out the connection with this token; dropped, it is closed.
    pub fn take(&mut self, token: u64) -> Option<Line> {
        self.connections.remove(&token)
    }

    /// Puts back what was taken out.
    pub fn put_back(&mut self, token: u64, line: Line) {
        self.connections.insert(token, line);
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Somebody has ever come.
    pub fn had_any(&self) -> bool {
        self.next > self.first
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Reads what came over a readable line and has a request answered, descriptors beside it. False: the line is over. A
/// peer that does not read its replies has had its chance.
pub fn converse<R: DeserializeOwned>(
    line: &mut Line,
    answer: impl FnOnce(&mut Line, R, Vec<OwnedFd>) -> Result<(), LineError>,
) -> bool {
    let sent = match line.receive::<R>() {
        Ok(Received::Message(request, fds)) => answer(line, request, fds),
        Ok(Received::Pending) => Ok(()),
        Ok(Received::Closed) => Err(LineError::Closed),
        Err(LineError::Malformed(why)) => {
            line.send(&Reply::<()>::Error(Refusal::new("cannot read the request", why)), &[])
        }
        Err(error) => Err(error),
    };
    sent.is_ok() && !line.wants_write()
}

/// Whether the peer runs as the user we run as; in a user namespace others appear as the overflow id.
pub(super) fn is_same_user(line: &Line) -> bool {
    rustix::net::sockopt::socket_peercred(line.stream())
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

/// Whether the peer is our user, or root.
pub(crate) fn is_owners(line: &Line) -> bool {
    is_same_user(line)
        || rustix::net::sockopt::socket_peercred(line.stream()).is_ok_and(|peer| peer.uid.is_root())
}
