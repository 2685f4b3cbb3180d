//! One try at a trapped call: what the engine says, and what it means for the program's descriptor.
//!
//! # Theory of operation
//! The engine decides; here its answer and the AF_UNIX end are brought together. What would block says so
//! ([`Tried::Wait`]), and the host parks it unless the descriptor is non-blocking.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use rustix::net::sockopt::{Timeout, set_socket_oobinline, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::super::call::{Answered, Done, Message, SocketCall};
use super::super::engine::{Engine, SocketId};
use super::super::pump::{End, Place, Shared, Socket, unix};
use super::super::sockets::options::packet::RX_RING;
use super::connecting::{connect, listen};
use super::hosted::{Hosted, shown};
use super::parked::Parked;

/// Longest receive at once, in bytes: the program gets less than it asked for, as it must expect.
const MAX_RECEIVE: usize = 256 << 10;
/// The 64-bit layouts' numbers of the time options, asm-generic/socket.h.
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
/// asm-generic/sockios.h
const SIOCATMARK: u32 = 0x8905;

/// What came of a try.
pub(super) enum Tried {
    Done(Done),
    Descriptor(Done, OwnedFd),
    /// It has to wait: for the socket, and for these events of the descriptor.
    Wait(EpollFlags),
}

pub(super) type Try = Result<Tried, Errno>;

impl Hosted {
    /// Tries a call. `None`: it has to wait.
    pub(super) fn attempt(
        &mut self,
        now: Instant,
        parked: &mut Parked,
        shared: &mut Shared,
    ) -> Option<Answered> {
        let id = parked.socket;
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.caller = parked.caller;
        }
        let tried = self.dispatch(now, parked, shared);
        self.show_after(now, parked, tried.is_ok(), shared);
        let started = std::mem::replace(&mut parked.started, true);
        match tried {
            Ok(Tried::Done(done)) => Some((Ok(done), parked.replacement.take())),
            Ok(Tried::Descriptor(done, fd)) => Some((Ok(done), Some(fd))),
            Ok(Tried::Wait(_)) if must_not_wait(parked) => {
                Some((Err(would_block(parked)), parked.replacement.take()))
            }
            Ok(Tried::Wait(events)) => {
                if !started {
                    parked.deadline = self.patience(parked).map(|patience| now + patience);
                }
                parked.events = events;
                None
            }
            Err(errno) => Some((Err(errno), parked.replacement.take())),
        }
    }

    /// What a call has changed is shown to those who need not ask. Who sends without being asked about is heard a moment
    /// later, which must not be seen in a ring.
    fn show_after(&mut self, now: Instant, parked: &Parked, done: bool, shared: &mut Shared) {
        let done = done && self.rings.is_empty();
        let (engine, sockets) = self.parts();
        let Some(socket) = sockets.get_mut(&parked.socket) else { return };
        if done
            && let SocketCall::Send { to: Some(to), control, .. } = &parked.call
            && control.is_empty()
        {
            socket.welcome(now, to, engine, shared);
        }
        socket.show_after(now, &parked.call, engine, shared);
    }

    /// How long a call may wait.
    fn patience(&mut self, parked: &Parked) -> Option<Duration> {
        let options = self.parts().0.socket_options(parked.socket)?;
        match parked.call {
            SocketCall::Connect { .. } | SocketCall::Send { .. } => options.send_timeout,
            _ => options.receive_timeout,
        }
    }

    fn dispatch(&mut self, now: Instant, parked: &mut Parked, shared: &mut Shared) -> Try {
        let (id, caller) = (parked.socket, parked.caller);
        if let Some(socket) = self.sockets.get_mut(&id) {
            give_address(socket, parked, shared)?;
        }
        match parked.call {
            SocketCall::Accept { flags } => return self.accept(now, parked, flags, shared),
            SocketCall::Bind { .. } => {
                let bound = self.parts().0.call(now, id, &caller, &parked.call);
                if bound == Err(Errno::EADDRINUSE) && self.look_for_all_orphans(now, shared) {
                    return Ok(Tried::Done(self.parts().0.call(now, id, &caller, &parked.call)?));
                }
                return Ok(Tried::Done(bound?));
            }
            _ => {}
        }
        let key = self.key();
        let (engine, sockets) = self.parts();
        let socket = sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        forget_seen_error(now, engine, socket, parked);
        match parked.call {
            SocketCall::Connect { .. } => connect(now, key, engine, socket, parked, shared),
            SocketCall::Listen { .. } => listen(now, key, engine, socket, parked, shared),
            SocketCall::Shutdown { .. } if matches!(socket.end, End::Listener(_)) => {
                self.shut_listener(now, parked, shared)
            }
            SocketCall::Shutdown { how } => shutdown(now, engine, socket, parked, how),
            SocketCall::Send { .. } if !matches!(socket.end, End::Datagram(_)) => send(socket, parked),
            SocketCall::Receive { .. } => match socket.end {
                End::Datagram(_) => receive_datagram(now, engine, socket, parked, shared),
                _ => receive(engine, socket, parked),
            },
            SocketCall::Send { .. } => match engine.call(now, id, &caller, &parked.call) {
                Err(Errno::EAGAIN) => Ok(Tried::Wait(EpollFlags::empty())),
                other => Ok(Tried::Done(other?)),
            },
            SocketCall::GetOption { level: libc::SOL_SOCKET, name: libc::SO_ERROR, .. } => {
                pending_error(now, engine, socket, parked)
            }
            SocketCall::SetOption { level: libc::SOL_PACKET, name: RX_RING, ref value } => {
                self.set_ring(now, parked, value, shared)
            }
            SocketCall::Map { .. } => self.map(parked),
            SocketCall::SetOption { .. } => {
                let done = engine.call(now, id, &caller, &parked.call)?;
                mirror_options(engine, parked);
                Ok(Tried::Done(done))
            }
            SocketCall::Ioctl { request: SIOCATMARK, .. } if !matches!(socket.end, End::Datagram(_)) => {
                Ok(Tried::Done(Done::Native))
            }
            SocketCall::Ioctl { request, .. } => {
                let done = engine.call(now, id, &caller, &parked.call)?;
                Ok(Tried::Done(with_bytes_of_ours(done, request, socket)))
            }
            _ => Ok(Tried::Done(engine.call(now, id, &caller, &parked.call)?)),
        }
    }

    /// accept4(2)
    fn accept(&mut self, now: Instant, parked: &mut Parked, flags: i32, shared: &mut Shared) -> Try {
        let key = self.key();
        let (engine, sockets) = self.parts();
        let socket = sockets.get_mut(&parked.socket).ok_or(Errno::EBADF)?;
        let End::Listener(listener) = &mut socket.end else {
            let messages = matches!(socket.end, End::Datagram(_));
            return Err(if messages { Errno::EOPNOTSUPP } else { Errno::EINVAL });
        };
        if !engine.status(parked.socket).listening {
            return Err(Errno::EINVAL);
        }
        let (program, name) = match unix::take(&parked.file, flags & libc::SOCK_NONBLOCK != 0) {
            Err(Errno::EAGAIN) => return Ok(Tried::Wait(EpollFlags::empty())),
            other => other?,
        };
        let token = shared.token(&name).ok_or(Errno::ECONNABORTED)?;
        let Some(Place::Socket(_, id)) = shared.places.get(&token).copied() else {
            // Only the mark of one that came back: see `mark_returned`.
            return Ok(Tried::Wait(EpollFlags::empty()));
        };
        listener.taken(parked.socket, engine);
        let accepted = sockets.get_mut(&id).ok_or(Errno::ECONNABORTED)?;
        accepted.inode = unix::inode(&program)?;
        accepted.caller = parked.caller;
        accepted.listener = None;
        shared.inodes.insert(accepted.inode, (key, accepted.id));
        engine.set_inode(id, shown(accepted.inode));
        inherit_options(engine, id, &program);
        let peer = match engine.call(now, id, &parked.caller, &SocketCall::PeerName) {
            Ok(Done::Address(peer)) => peer,
            // It was reset meanwhile; what it said before can still be read.
            _ => Vec::new(),
        };
        Ok(Tried::Descriptor(Done::Accepted { peer }, program))
    }
}

impl Hosted {
    /// shutdown(2) of a listener: nobody will accept what waits.
    fn shut_listener(&mut self, now: Instant, parked: &Parked, shared: &mut Shared) -> Try {
        let (engine, _) = self.parts();
        let done = engine.call(now, parked.socket, &parked.caller, &parked.call)?;
        if engine.status(parked.socket).listening {
            return Ok(Tried::Done(done));
        }
        while let Ok((_, name)) = unix::take(&parked.file, false) {
            let place = shared.token(&name).and_then(|token| shared.places.get(&token));
            if let Some(Place::Socket(_, id)) = place.copied() {
                self.parts().0.close(now, id, true);
                self.forget(id, shared);
            }
        }
        // Those who poll it wake up.
        let _ = unix::shut(&parked.file, Shutdown::Both);
        Ok(Tried::Done(done))
    }
}

/// Gives a program's end an address before the call that makes it one to be found.
fn give_address(socket: &mut Socket, parked: &Parked, shared: &Shared) -> Result<(), Errno> {
    let messages = match socket.end {
        End::Datagram(_) => true,
        End::Idle => false,
        _ => return Ok(()),
    };
    if socket.address.is_none() {
        let (file, token) = (&parked.file, socket.token);
        socket.address = match parked.call {
            SocketCall::Connect { .. } if messages => Some(shared.linked_address(file, token)?),
            SocketCall::Send { .. } | SocketCall::Receive { .. } if !messages => None,
            SocketCall::Bind { .. }
            | SocketCall::Listen { .. }
            | SocketCall::Send { .. }
            | SocketCall::Receive { .. } => Some(shared.address(file, token)?),
            _ => None,
        };
    }
    Ok(())
}

/// Whether a call may not wait.
pub(super) fn must_not_wait(parked: &Parked) -> bool {
    let flags = match parked.call {
        SocketCall::Send { flags, .. } | SocketCall::Receive { flags, .. } => flags,
        _ => 0,
    };
    flags & libc::MSG_DONTWAIT != 0 || unix::is_nonblocking(&parked.file)
}

/// What a call gives in place of waiting.
pub(super) fn would_block(parked: &Parked) -> Errno {
    match parked.call {
        SocketCall::Connect { .. } if parked.sent == 0 => Errno::EINPROGRESS,
        SocketCall::Connect { .. } => Errno::EALREADY,
        _ => Errno::EAGAIN,
    }
}

/// shutdown(2)
fn shutdown(now: Instant, engine: &mut Engine, socket: &mut Socket, parked: &Parked, how: i32) -> Try {
    let ways = match how {
        libc::SHUT_RD => Shutdown::Read,
        libc::SHUT_WR => Shutdown::Write,
        libc::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    };
    if let End::Stream(stream) = &mut socket.end {
        if stream.is_finished() {
            // ENOTCONN, if the connection is over.
            let done = engine.call(now, socket.id, &parked.caller, &parked.call)?;
            let _ = stream.shut(&parked.file, ways);
            return Ok(Tried::Done(done));
        }
        // The engine hears of it when everything written before has been taken.
        stream.shut(&parked.file, ways)?;
        if ways != Shutdown::Write {
            let reads = SocketCall::Shutdown { how: libc::SHUT_RD };
            let _ = engine.call(now, socket.id, &parked.caller, &reads);
        }
        return Ok(Tried::Done(Done::Value(0)));
    }
    let done = engine.call(now, socket.id, &parked.caller, &parked.call)?;
    if matches!(socket.end, End::Datagram(_)) {
        let _ = unix::shut(&parked.file, ways);
    }
    Ok(Tried::Done(done))
}

/// send(2) and friends on a stream.
fn send(socket: &Socket, parked: &mut Parked) -> Try {
    let SocketCall::Send { to, data, flags, .. } = &parked.call else { return Ok(Tried::Done(Done::Native)) };
    let urgent = flags & libc::MSG_OOB != 0;
    if flags & libc::MSG_FASTOPEN != 0 {
        // As with net.ipv4.tcp_fastopen = 0; who is connected is told so (tcp_sendmsg_fastopen).
        return Err(if matches!(socket.end, End::Stream(_)) { Errno::EISCONN } else { Errno::EOPNOTSUPP });
    }
    if !matches!(socket.end, End::Stream(_)) {
        let idle = matches!(socket.end, End::Idle | End::Listener(_));
        return if to.is_some() || urgent && idle {
            Err(Errno::EPIPE)
        } else {
            Ok(Tried::Done(Done::Native))
        };
    }
    if urgent && data.is_empty() {
        // AF_UNIX takes it for one byte too few.
        return Ok(Tried::Done(Done::Value(0)));
    }
    if to.is_none() {
        return Ok(Tried::Done(Done::Native));
    }
    // The address of a connected stream is not looked at; the kernel would refuse it on AF_UNIX.
    let mut options = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    options.set(SendFlags::OOB, urgent);
    match rustix::net::send(&parked.file, &data[parked.sent..], options).map_err(unix::errno) {
        Ok(count) if parked.sent + count == data.len() => Ok(Tried::Done(Done::Value(data.len() as i64))),
        Ok(count) => {
            parked.sent += count;
            if must_not_wait(parked) {
                return Ok(Tried::Done(Done::Value(parked.sent as i64)));
            }
            Ok(Tried::Wait(EpollFlags::EPOLLOUT))
        }
        Err(Errno::EAGAIN) if parked.sent > 0 && must_not_wait(parked) => {
            Ok(Tried::Done(Done::Value(parked.sent as i64)))
        }
        Err(Errno::EAGAIN) => Ok(Tried::Wait(EpollFlags::EPOLLOUT)),
        Err(errno) => Err(errno),
    }
}

/// recv(2) and friends on a stream.
fn receive(engine: &Engine, socket: &Socket, parked: &mut Parked) -> Try {
    let SocketCall::Receive { length, flags, named, .. } = parked.call else {
        return Ok(Tried::Done(Done::Native));
    };
    if flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno::EAGAIN);
    }
    let urgent = flags & libc::MSG_OOB != 0;
    if urgent && matches!(socket.end, End::Idle) {
        return Err(Errno::EINVAL);
    }
    if matches!(socket.end, End::Idle | End::Listener(_)) {
        return Err(Errno::ENOTCONN);
    }
    if !named && (urgent || flags & libc::MSG_TRUNC == 0) {
        return Ok(Tried::Done(Done::Native));
    }
    let _ = engine;
    let wanted = length.min(MAX_RECEIVE) - parked.progress.len().min(length.min(MAX_RECEIVE));
    let mut buffer = vec![0; wanted];
    let mut options = RecvFlags::DONTWAIT;
    options.set(RecvFlags::PEEK, flags & libc::MSG_PEEK != 0);
    options.set(RecvFlags::OOB, urgent);
    match rustix::net::recv(&parked.file, &mut buffer[..], options).map_err(unix::errno) {
        Ok((count, _)) => {
            parked.progress.extend_from_slice(&buffer[..count]);
            let whole = flags & libc::MSG_WAITALL != 0 && !urgent && count > 0 && count < wanted;
            if whole && flags & libc::MSG_PEEK == 0 && !must_not_wait(parked) {
                return Ok(Tried::Wait(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP));
            }
        }
        Err(Errno::EAGAIN) if parked.progress.is_empty() => {
            return Ok(Tried::Wait(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP));
        }
        Err(Errno::EAGAIN) => return Ok(Tried::Wait(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP)),
        Err(errno) if parked.progress.is_empty() => return Err(errno),
        Err(_) => {}
    }
    let data = std::mem::take(&mut parked.progress);
    let length = data.len();
    // MSG_TRUNC on a stream throws the bytes away (tcp(7)).
    let data = if flags & libc::MSG_TRUNC != 0 { Vec::new() } else { data };
    let flags = flags & libc::MSG_OOB;
    Ok(Tried::Done(Done::Received(Message { data, length, flags, ..Message::default() })))
}

/// recv(2) and friends on a socket with message boundaries.
fn receive_datagram(
    now: Instant,
    engine: &mut Engine,
    socket: &mut Socket,
    parked: &Parked,
    shared: &mut Shared,
) -> Try {
    let SocketCall::Receive { flags, .. } = parked.call else { return Ok(Tried::Done(Done::Native)) };
    if flags & libc::MSG_ERRQUEUE != 0 {
        let done = engine.call(now, socket.id, &parked.caller, &parked.call);
        if let End::Datagram(datagram) = &mut socket.end
            && engine.status(socket.id).error.is_none()
            && datagram.calm()
        {
            // It was the last one: poll has nothing to say any more.
            let _ = unix::take_error(&parked.file);
        }
        return Ok(Tried::Done(done?));
    }
    if datagram_ring(socket) {
        // Frames come there; what is in the program's end is the bell.
        return Ok(Tried::Wait(EpollFlags::empty()));
    }
    match read_datagram(socket, parked) {
        Err(Errno::EAGAIN) if engine.status(socket.id).readable > 0 => {
            // Its end has just become empty, of what the engine had kept for want of room.
            socket.handle_event(EpollFlags::empty());
            socket.service(now, engine, shared);
        }
        Err(_) => {}
        Ok(message) => return Ok(Tried::Done(Done::Received(message))),
    }
    match read_datagram(socket, parked) {
        Ok(message) => Ok(Tried::Done(Done::Received(message))),
        Err(Errno::EAGAIN) if engine.status(socket.id).error.is_none() => {
            Ok(Tried::Wait(EpollFlags::empty()))
        }
        Err(errno) => Err(take_error(now, engine, socket.id, parked).unwrap_or(errno)),
    }
}

/// Whether a socket's messages go to a ring.
fn datagram_ring(socket: &Socket) -> bool {
    matches!(&socket.end, End::Datagram(datagram) if datagram.ring().is_some())
}

/// Reads from the program's end.
fn read_datagram(socket: &mut Socket, parked: &Parked) -> Result<Message, Errno> {
    let End::Datagram(datagram) = &mut socket.end else { return Err(Errno::ENOTCONN) };
    let SocketCall::Receive { length, control, flags, .. } = parked.call else { return Err(Errno::EINVAL) };
    let mut data = vec![0; length.min(MAX_RECEIVE)];
    let mut options = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let peek = flags & libc::MSG_PEEK != 0;
    options.set(RecvFlags::PEEK, peek);
    let (count, whole, sender) =
        rustix::net::recvfrom(&parked.file, &mut data[..], options).map_err(unix::errno)?;
    data.truncate(count);
    let sender = sender.and_then(|sender| rustix::net::SocketAddrUnix::try_from(sender).ok());
    let sender = sender.as_ref().and_then(|sender| sender.abstract_name()).unwrap_or_default();
    let origin = datagram.origin(sender, !peek);
    let mut message = Message { data, length: count, from: origin.from, ..Message::default() };
    if whole > count {
        message.flags |= libc::MSG_TRUNC;
        if flags & libc::MSG_TRUNC != 0 {
            message.length = whole;
        }
    }
    message.control = origin.control;
    if message.control.len() > control {
        message.control.truncate(control);
        message.flags |= libc::MSG_CTRUNC;
    }
    Ok(message)
}

/// An error that polls of the program's end were made to see: a native read or write may have taken it there,
/// and then it is not told again. If not, the call tells it, or the end is alarmed once more.
fn forget_seen_error(now: Instant, engine: &mut Engine, socket: &mut Socket, parked: &Parked) {
    let tells = match parked.call {
        SocketCall::Receive { flags, .. } => flags & libc::MSG_ERRQUEUE == 0,
        SocketCall::GetOption { level, name, .. } => (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR),
        SocketCall::Send { .. } | SocketCall::Connect { .. } => true,
        _ => false,
    };
    if let End::Datagram(datagram) = &mut socket.end
        && tells
        && datagram.calm()
        && unix::take_error(&parked.file).is_none()
    {
        take_error(now, engine, socket.id, parked);
    }
}

/// Takes the engine's pending error.
fn take_error(now: Instant, engine: &mut Engine, id: SocketId, parked: &Parked) -> Option<Errno> {
    match engine.call(now, id, &parked.caller, &SocketCall::pending_error()) {
        Ok(Done::Bytes(bytes)) => {
            let number = i32::from_ne_bytes(bytes.first_chunk().copied()?);
            (number != 0).then(|| Errno::from_raw(number))
        }
        _ => None,
    }
}

/// getsockopt(SO_ERROR): the engine knows which error, the kernel whether the program has seen it already.
fn pending_error(now: Instant, engine: &mut Engine, socket: &mut Socket, parked: &Parked) -> Try {
    let seen = unix::take_error(&parked.file).is_none();
    let done = engine.call(now, socket.id, &parked.caller, &parked.call)?;
    if matches!(socket.end, End::Spent) && seen {
        return Ok(Tried::Done(Done::Bytes(vec![0; 4])));
    }
    Ok(Tried::Done(done))
}

/// Native reads and writes have to honour SO_RCVTIMEO, SO_SNDTIMEO and SO_OOBINLINE.
fn mirror_options(engine: &Engine, parked: &Parked) {
    let SocketCall::SetOption { level: libc::SOL_SOCKET, name, .. } = parked.call else { return };
    let Some(options) = engine.socket_options(parked.socket) else { return };
    let _ = match name {
        libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW => {
            set_socket_timeout(&parked.file, Timeout::Recv, options.receive_timeout)
        }
        libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW => {
            set_socket_timeout(&parked.file, Timeout::Send, options.send_timeout)
        }
        libc::SO_OOBINLINE => set_socket_oobinline(&parked.file, options.oob_inline),
        _ => return,
    };
}

/// A connection has the options of its listener.
fn inherit_options(engine: &Engine, id: SocketId, program: &OwnedFd) {
    let Some(options) = engine.socket_options(id) else { return };
    if options.receive_timeout.is_some() {
        let _ = set_socket_timeout(program, Timeout::Recv, options.receive_timeout);
    }
    if options.send_timeout.is_some() {
        let _ = set_socket_timeout(program, Timeout::Send, options.send_timeout);
    }
    if options.oob_inline {
        let _ = set_socket_oobinline(program, true);
    }
}

/// SIOCOUTQ counts what the engine has not taken yet, too.
fn with_bytes_of_ours(done: Done, request: u32, socket: &Socket) -> Done {
    match (done, &socket.end) {
        (Done::Bytes(bytes), End::Stream(stream)) if u64::from(request) == libc::TIOCOUTQ => {
            let unsent = bytes.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
            let waiting = i32::try_from(stream.waiting()).unwrap_or(i32::MAX);
            Done::Bytes(unsent.saturating_add(waiting).to_ne_bytes().to_vec())
        }
        (done, _) => done,
    }
}
