//! connect(2) and listen(2): what becomes of a program's end without a peer.
//!
//! # Theory of operation
//! Where connect(2) does not wait, the program's end looks as if it were connecting until the outcome is known
//! ([`Pending`]), and a failure leaves it spent. Where it waits nobody looks at the end meanwhile: it is connected
//! when the connection is there, so that a failure leaves it as it was, as tcp_disconnect() does. A wait that a signal
//! or SO_SNDTIMEO ends goes on as in the other case.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::super::call::SocketCall;
use super::super::engine::Engine;
use super::super::pump::stream::{Pending, Stream};
use super::super::pump::{End, Place, Shared, Socket, unix};
use super::StackKey;
use super::attempt::{Tried, Try, must_not_wait};
use super::hosted::{Hosted, shown};
use super::parked::Parked;

/// connect(2). In a parked call `sent` says that it did not begin the connection.
pub(super) fn connect(
    now: Instant,
    key: StackKey,
    engine: &mut Engine,
    socket: &mut Socket,
    parked: &mut Parked,
    shared: &mut Shared,
) -> Try {
    let answer = engine.call(now, socket.id, &parked.caller, &parked.call);
    if let End::Datagram(datagram) = &mut socket.end {
        let done = answer?;
        let SocketCall::Connect { address } = &parked.call else { return Ok(Tried::Done(done)) };
        // Netlink and packet sockets are linked for good.
        let family = address.get(..2).map(|f| i32::from(u16::from_ne_bytes([f[0], f[1]])));
        match family {
            Some(libc::AF_UNSPEC) => datagram.unlink(&parked.file),
            Some(libc::AF_INET | libc::AF_INET6) => {
                let address = socket.address.as_ref().ok_or(Errno::EINVAL)?;
                datagram.link(&parked.file, (socket.token, address), shared)?;
            }
            _ => {}
        }
        return Ok(Tried::Done(done));
    }
    match answer {
        Err(Errno::EINPROGRESS) => {
            // What was connected once cannot be again: the program gets a fresh end in its place.
            let fresh = match socket.end {
                End::Idle => None,
                _ => Some(replace(key, socket, &parked.file, shared)?),
            };
            socket.end = End::Idle;
            engine.set_inode(socket.id, shown(socket.inode));
            parked.replacement = fresh;
            if must_not_wait(parked) {
                hold(socket, parked, shared)?;
            }
            Ok(Tried::Wait(EpollFlags::empty()))
        }
        Err(Errno::EALREADY) => {
            parked.sent |= usize::from(!parked.started);
            Ok(Tried::Wait(EpollFlags::empty()))
        }
        Ok(done) => {
            if matches!(socket.end, End::Idle) && engine.status(socket.id).connected {
                let program = parked.replacement.as_ref().unwrap_or(&parked.file);
                socket.end = End::Stream(Stream::meet(program, socket.token, shared)?);
            }
            Ok(Tried::Done(done))
        }
        Err(errno) => {
            if matches!(socket.end, End::Spent) {
                // The error is told here: the descriptor has nothing more to say about it.
                let _ = unix::take_error(&parked.file);
            }
            Err(errno)
        }
    }
}

/// Nobody waits for the connection any more: the program's end looks as if it were connecting.
fn hold(socket: &mut Socket, parked: &Parked, shared: &mut Shared) -> Result<(), Errno> {
    let program = parked.replacement.as_ref().unwrap_or(&parked.file);
    let mut pending = Pending::new(shared, socket.token, program)?;
    if let Some(fresh) = &parked.replacement {
        pending.keep(fresh.try_clone().map_err(|_| Errno::ENFILE)?);
    }
    socket.end = End::Pending(pending);
    Ok(())
}

impl Hosted {
    /// A call was given up. If it is a connect that waited, the connection goes on without it.
    pub(super) fn leave(&mut self, now: Instant, parked: &Parked, shared: &mut Shared) {
        let id = parked.socket;
        let (engine, sockets) = self.parts();
        let Some(socket) = sockets.get_mut(&id) else { return };
        let status = engine.status(id);
        let begun = status.connecting || status.connected || status.error.is_some();
        if matches!(parked.call, SocketCall::Connect { .. })
            && matches!(socket.end, End::Idle)
            && begun
            && hold(socket, parked, shared).is_ok()
        {
            socket.service(now, engine, shared);
        }
    }
}

/// A fresh program's end for a socket, instead of `old`.
fn replace(key: StackKey, socket: &mut Socket, old: &OwnedFd, shared: &mut Shared) -> Result<OwnedFd, Errno> {
    let token = shared.number(Place::Socket(key, socket.id));
    let made = unix::program_end(socket.kind, unix::is_nonblocking(old))
        .and_then(|fresh| Ok((unix::inode(&fresh)?, fresh)));
    let (inode, fresh) = made.inspect_err(|_| {
        shared.vacate(token);
    })?;
    shared.vacate(socket.token);
    shared.inodes.remove(&socket.inode);
    shared.inodes.insert(inode, (key, socket.id));
    (socket.token, socket.inode, socket.address) = (token, inode, None);
    if socket.named {
        socket.address = Some(shared.address(&fresh, token)?);
    }
    Ok(fresh)
}

/// listen(2)
pub(super) fn listen(
    now: Instant,
    key: StackKey,
    engine: &mut Engine,
    socket: &mut Socket,
    parked: &mut Parked,
    shared: &mut Shared,
) -> Try {
    let again = engine.status(socket.id).listening;
    let done = engine.call(now, socket.id, &parked.caller, &parked.call)?;
    if again || matches!(socket.end, End::Datagram(_)) {
        return Ok(Tried::Done(done));
    }
    // What was shut or spent cannot listen any more: the program gets a fresh end in its place.
    let fresh = match socket.end {
        End::Idle => None,
        _ => {
            let fresh = replace(key, socket, &parked.file, shared)?;
            if socket.address.is_none() {
                socket.address = Some(shared.address(&fresh, socket.token)?);
            }
            Some(fresh)
        }
    };
    // The backlog is the engine's; here only a few wait at a time.
    rustix::net::listen(fresh.as_ref().unwrap_or(&parked.file), 16).map_err(unix::errno)?;
    socket.end = End::Listener(Default::default());
    parked.replacement = fresh;
    Ok(Tried::Done(done))
}
