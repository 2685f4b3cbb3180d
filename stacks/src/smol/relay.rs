//! Calls across a process boundary: a view's supervisor uses a smol stack that another process hosts.
//!
//! # Theory of operation
//! Joining a smol stack (`msocket_proto::proto::Request::Join`) gives one end of a SEQPACKET pair. On it the
//! supervisor's side, [`Relay`], asks: one [`Ask`] per packet, the program's descriptor beside it; the host's
//! side, [`Door`], answers each at once with a [`Tell`], if only that the call waits. Answers of calls that
//! waited come whenever they come. The host believes nothing that its peer says about rights: whose process
//! it is decides that. When either side goes, the other sees the end of the pair.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use msocket_proto::proto::File;
use nix::errno::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recvmsg, sendmsg,
    socket_with, socketpair, sockopt,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::call::{Answered, Caller, Done, SocketCall, SocketHost, Ticket};
use super::host::{Host, StackKey};
use super::pump::unix::errno;
use crate::stack::SocketSpec;

/// Longest packet, in bytes: the longest message of a call and room for what is beside it.
const MAX_PACKET: usize = 384 << 10;
/// Packets taken from one peer before the next has its turn.
const BURST: usize = 64;
/// How long a host may take for its first answer before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a supervisor asks.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// socket(2). Answered with the descriptor; `named`: programs are to find us by it ([`Host::socket`]).
    Socket { ticket: Ticket, spec: SocketSpec, caller: Caller, named: bool },
    /// A call on the socket whose descriptor comes along.
    Call { ticket: Ticket, caller: Caller, call: SocketCall },
    /// What programs see of their sockets, if that is the secret in their names. Answered with the descriptor.
    Board { ticket: Ticket, secret: String },
    /// A file about the stack's network. Answered with the descriptor.
    File { ticket: Ticket, file: File },
    /// A parked call was interrupted.
    Cancel { ticket: Ticket },
    /// An answer could not be delivered; its descriptor comes along, if it had one.
    GiveBack { ticket: Ticket, result: Result<Done, i32> },
    /// A parked call was interrupted, and whoever made it will hear so. Answered with EINTR: what became of the call
    /// until then has been told before.
    Abandon { ticket: Ticket, of: Ticket },
}

/// What a host answers.
#[derive(Debug, Serialize, Deserialize)]
enum Tell {
    /// The answer; its descriptor comes along, if it has one.
    Answer { ticket: Ticket, result: Result<Done, i32> },
    /// The call waits.
    Parked { ticket: Ticket },
}

/// A connected pair: the host's end, and the supervisor's.
///
/// # Errors
/// Those of socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(errno)?;
    widen(&a);
    widen(&b);
    Ok((a, b))
}

/// Makes room for the longest packet.
pub(crate) fn widen(end: &OwnedFd) {
    // Bounded by net.core.wmem_max; what does not fit is refused with EMSGSIZE.
    let _ = sockopt::set_socket_send_buffer_size(end, 2 * MAX_PACKET);
}

/// Where programs that have sockets of a host, and no supervisor, connect to it: an abstract name that their sockets'
/// names tell them ([`msocket_proto::board`]). To make a call they show the socket, so anybody may connect.
pub(crate) fn listen(secret: &str, backlog: i32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(errno)?;
    let name = SocketAddrUnix::new_abstract_name(secret.as_bytes()).map_err(errno)?;
    bind(&listener, &name).map_err(errno)?;
    rustix::net::listen(&listener, backlog).map_err(errno)?;
    Ok(listener)
}

fn put(socket: &OwnedFd, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let bytes = postcard::to_stdvec(message).map_err(|_| Errno::EMSGSIZE)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags).map(drop).map_err(errno)
}

/// Takes a packet that has come. EPIPE: the other side has gone. EBADMSG: it makes no sense.
fn take<T: DeserializeOwned>(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(T, Option<OwnedFd>), Errno> {
    receive(socket, buffer, RecvFlags::DONTWAIT)
}

/// As [`take`], but waits for a packet as long as the socket has it.
fn wait_for<T: DeserializeOwned>(socket: &OwnedFd, buffer: &mut [u8]) -> Result<(T, Option<OwnedFd>), Errno> {
    loop {
        match receive(socket, buffer, RecvFlags::empty()) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn receive<T: DeserializeOwned>(
    socket: &OwnedFd,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> Result<(T, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags).map_err(errno)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.flatten().next();
    if got.bytes == 0 {
        return Err(Errno::EPIPE);
    }
    let message = postcard::from_bytes(&buffer[..got.bytes]).map_err(|_| Errno::EBADMSG)?;
    Ok((message, fd))
}

fn told(result: Result<Done, i32>) -> Result<Done, Errno> {
    result.map_err(Errno::from_raw)
}

/// The supervisor's side: a stack of another process.
#[derive(Debug)]
pub struct Relay {
    socket: OwnedFd,
    buffer: Vec<u8>,
    done: VecDeque<(Ticket, Answered)>,
    /// The host has gone, or answers no more.
    dead: bool,
    /// Counts the calls that need no ticket of the caller's.
    own: u64,
}

impl Relay {
    /// Takes the end that joining gave.
    pub fn new(socket: OwnedFd) -> Self {
        // Neither can fail on a socket. So an answer is one call, where poll(2) would make it three.
        let _ = rustix::io::ioctl_fionbio(&socket, false);
        let _ = sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE));
        Self { socket, buffer: vec![0; MAX_PACKET], done: VecDeque::new(), dead: false, own: 1 << 63 }
    }

    /// socket(2) there.
    ///
    /// # Errors
    /// The errno that the program shall see; ENETDOWN when the host has gone.
    pub fn socket(&mut self, spec: SocketSpec, caller: &Caller) -> Result<OwnedFd, Errno> {
        self.ask_for(|ticket| Ask::Socket { ticket, spec, caller: *caller, named: false })
    }

    /// The same for a program without a supervisor: the library in it finds the host by the socket's name.
    ///
    /// # Errors
    /// As [`Relay::socket`].
    pub fn named_socket(&mut self, spec: SocketSpec, caller: &Caller) -> Result<OwnedFd, Errno> {
        self.ask_for(|ticket| Ask::Socket { ticket, spec, caller: *caller, named: true })
    }

    /// What programs see of their sockets there, as [`Host::board`].
    ///
    /// # Errors
    /// ENOENT if that is not the secret in their names; EPERM if the stack is not its user's own.
    pub fn board(&mut self, secret: &str) -> Result<OwnedFd, Errno> {
        self.ask_for(|ticket| Ask::Board { ticket, secret: secret.to_owned() })
    }

    /// A file about the network there, as [`Host::file`].
    ///
    /// # Errors
    /// The errno that the program shall see; ENETDOWN when the host has gone.
    pub fn file(&mut self, file: &File) -> Result<OwnedFd, Errno> {
        self.ask_for(|ticket| Ask::File { ticket, file: file.clone() })
    }

    /// Asks for a descriptor.
    fn ask_for(&mut self, ask: impl FnOnce(Ticket) -> Ask) -> Result<OwnedFd, Errno> {
        self.own += 1;
        let ticket = Ticket(self.own);
        match self.ask(&ask(ticket), None, ticket)? {
            Some((Ok(_), Some(fd))) => Ok(fd),
            Some((Err(errno), _)) => Err(errno),
            _ => Err(Errno::ENETDOWN),
        }
    }

    /// Whether the host has gone.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Takes the answers that have come, for [`SocketHost::poll_done`].
    pub fn turn(&mut self) {
        loop {
            match take::<Tell>(&self.socket, &mut self.buffer) {
                Ok((Tell::Answer { ticket, result }, fd)) => {
                    self.done.push_back((ticket, (told(result), fd)));
                }
                Ok((Tell::Parked { .. }, _)) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.dead = true;
                    return;
                }
            }
        }
    }

    /// Asks and waits for the first answer. `None`: parked.
    fn ask(
        &mut self,
        ask: &Ask,
        fd: Option<BorrowedFd<'_>>,
        ticket: Ticket,
    ) -> Result<Option<Answered>, Errno> {
        if self.dead {
            return Err(Errno::ENETDOWN);
        }
        put(&self.socket, ask, fd).map_err(|e| match e {
            Errno::EMSGSIZE => Errno::EMSGSIZE,
            Errno::EAGAIN => Errno::ENOBUFS,
            _ => Errno::ENETDOWN,
        })?;
        loop {
            match wait_for::<Tell>(&self.socket, &mut self.buffer) {
                Ok((Tell::Answer { ticket: of, result }, fd)) if of == ticket => {
                    return Ok(Some((told(result), fd)));
                }
                Ok((Tell::Parked { ticket: of }, _)) if of == ticket => return Ok(None),
                Ok((Tell::Answer { ticket: of, result }, fd)) => {
                    self.done.push_back((of, (told(result), fd)));
                }
                Ok((Tell::Parked { .. }, _)) => {}
                Err(_) => {
                    // An answer that comes too late would be taken for another question's.
                    self.dead = true;
                    return Err(Errno::ENETDOWN);
                }
            }
        }
    }
}

impl AsFd for Relay {
    /// Readable when answers have come, or the host has gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl SocketHost for Relay {
    fn call(
        &mut self,
        _now: Instant,
        ticket: Ticket,
        caller: &Caller,
        file: OwnedFd,
        call: SocketCall,
    ) -> Option<Answered> {
        let ask = Ask::Call { ticket, caller: *caller, call };
        self.ask(&ask, Some(file.as_fd()), ticket).unwrap_or_else(|errno| Some((Err(errno), None)))
    }

    fn cancel(&mut self, ticket: Ticket) {
        let _ = put(&self.socket, &Ask::Cancel { ticket }, None);
        self.done.retain(|(done, _)| *done != ticket);
    }

    fn give_back(&mut self, ticket: Ticket, (result, fd): Answered) {
        let result = result.map_err(|errno| errno as i32);
        let _ = put(&self.socket, &Ask::GiveBack { ticket, result }, fd.as_ref().map(AsFd::as_fd));
    }

    fn poll_done(&mut self) -> Option<(Ticket, Answered)> {
        self.done.pop_front()
    }
}

/// The host's side: one supervisor that uses a stack, or a program that has sockets of some.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    /// None: there are sockets to be asked about here, and none to be had.
    stack: Option<StackKey>,
    /// Tickets of this peer are its own; to the host they have this number in their upper half.
    number: u32,
    /// The peer's user, and whether it owns the stack.
    uid: u32,
    owner: bool,
}

impl Door {
    /// A door over the host's end of a pair. `number` is unique among the doors of the host, and not 0.
    pub fn new(socket: OwnedFd, stack: Option<StackKey>, number: u32, uid: u32, owner: bool) -> Self {
        Self { socket, stack, number, uid, owner }
    }

    /// The stack has failed and another has taken its place.
    pub fn follow(&mut self, old: StackKey, new: StackKey) {
        if self.stack == Some(old) {
            self.stack = Some(new);
        }
    }

    /// The number in its tickets.
    pub fn number_of(ticket: Ticket) -> u32 {
        (ticket.0 >> 32) as u32
    }

    fn inside(&self, ticket: Ticket) -> Ticket {
        // The two halves of the peer's ticket: its top bit marks calls of its own, the rest counts.
        let short = ticket.0 & 0x7fff_ffff | (ticket.0 >> 63) << 31;
        Ticket(u64::from(self.number) << 32 | short)
    }

    fn outside(ticket: Ticket) -> Ticket {
        let short = ticket.0 & 0xffff_ffff;
        Ticket(short & 0x7fff_ffff | (short >> 31) << 63)
    }

    /// Answers what the peer asked. False when it has gone or makes no sense: the door is to be closed.
    pub fn turn(&mut self, now: Instant, host: &mut Host, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(MAX_PACKET, 0);
        for _ in 0..BURST {
            // What takes a failed stack's place comes first; then there is another turn.
            if host.has_failed() {
                return true;
            }
            let (ask, fd) = match take::<Ask>(&self.socket, buffer) {
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
                Ok(taken) => taken,
            };
            if !self.answer(now, ask, fd, host) {
                return false;
            }
        }
        true
    }

    fn answer(&mut self, now: Instant, ask: Ask, fd: Option<OwnedFd>, host: &mut Host) -> bool {
        match ask {
            Ask::Socket { ticket, spec, caller, named } => {
                let caller = self.judged(caller);
                let made = match self.stack {
                    _ if !spec.is_of_a_stack() => Err(Errno::EAFNOSUPPORT),
                    _ if spec.needs_rights() && !caller.rights => Err(Errno::EPERM),
                    Some(stack) => host.socket(stack, spec, &caller, named),
                    None => Err(Errno::EACCES),
                };
                self.give(ticket, made)
            }
            Ask::Board { ticket, secret } => {
                // It shows the sockets of all stacks of this host.
                let board = if self.owner { host.board() } else { Err(Errno::EPERM) };
                let board =
                    board.and_then(|(own, file)| (own == secret).then_some(file).ok_or(Errno::ENOENT));
                self.give(ticket, board)
            }
            Ask::File { ticket, file } => {
                let stack = self.stack.ok_or(Errno::EACCES);
                self.give(ticket, stack.and_then(|stack| host.file(stack, &file)))
            }
            Ask::Call { ticket, caller, call } => {
                let Some(file) = fd else { return false };
                let caller = self.judged(caller);
                match host.call(now, self.inside(ticket), &caller, file, call) {
                    Some(answered) => self.tell(ticket, answered),
                    None => put(&self.socket, &Tell::Parked { ticket }, None).is_ok(),
                }
            }
            Ask::Cancel { ticket } => {
                host.cancel(self.inside(ticket));
                true
            }
            Ask::Abandon { ticket, of } => {
                host.abandon_call(self.inside(of));
                // What was answered while the call was taken back goes first.
                let told = match host.answer_of(self.inside(of)) {
                    Some(answered) => self.tell(of, answered),
                    None => true,
                };
                told && self.tell(ticket, (Err(Errno::EINTR), None))
            }
            Ask::GiveBack { ticket, result } => {
                host.give_back(self.inside(ticket), (told(result), fd));
                true
            }
        }
    }

    fn judged(&self, caller: Caller) -> Caller {
        Caller { uid: self.uid, rights: caller.rights && self.owner, ..caller }
    }

    /// Answers with a descriptor.
    fn give(&self, ticket: Ticket, made: Result<OwnedFd, Errno>) -> bool {
        match made {
            Ok(fd) => self.tell(ticket, (Ok(Done::Value(0)), Some(fd))),
            Err(errno) => self.tell(ticket, (Err(errno), None)),
        }
    }

    fn tell(&self, ticket: Ticket, (result, fd): Answered) -> bool {
        let tell = Tell::Answer { ticket, result: result.map_err(|errno| errno as i32) };
        put(&self.socket, &tell, fd.as_ref().map(AsFd::as_fd)).is_ok()
    }

    /// Passes the answer of a call on that had waited. False: the door is to be closed.
    pub fn pass(&self, ticket: Ticket, answered: Answered) -> bool {
        self.tell(Self::outside(ticket), answered)
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
