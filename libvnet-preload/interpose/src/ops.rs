//! What becomes of a call: safe code, no memory of the program's but through [`sys`].
//!
//! # Theory of operation
//! [`identify`] asks the kernel for the AF_UNIX names behind a descriptor, which says at once what it is: a socket of
//! a stack whose record is on a board, a socket of the machine, or one of which only the supervisor can tell. The
//! first kind is answered from its record, the second by the kernel, the third by libc's function.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use msocket_proto::board::{self, Address, Name, Shown, Wanted, options};

use crate::sys::datagram::{self, Received};
use crate::sys::packet::{Header, Vector};
use crate::sys::{self, Asked, Buffer, Data, Message, Room, Which};
use crate::{boards, config};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It returns that.
    Value(isize),
    /// It fails with that errno.
    Fail(i32),
    /// libc's own function is called.
    Original,
    /// The kernel answers it on the descriptor itself, without a trap.
    Native,
}

impl Answer {
    /// The next to be asked, if nobody knew better than libc.
    pub(crate) fn or(self, next: impl FnOnce() -> Self) -> Self {
        if self == Self::Original { next() } else { self }
    }
}

/// Whose a descriptor is.
enum Whose {
    /// A stack's: what is shown of it, the name that says so, its number, what was wanted beside that.
    Ours { shown: Shown, by: Which, socket: u64, beside: Option<i32> },
    /// The machine's, or no socket of AF_UNIX at all.
    Machine,
    /// To be asked.
    Unknown,
}

/// Descriptors whose own names say more than their peers': guesses, which save a call when they are right.
static OWN_FIRST: [AtomicBool; GUESSES] = [const { AtomicBool::new(false) }; GUESSES];
const GUESSES: usize = 1024;

/// Longest datagram of UDP over IPv4; of a longer one the stack says what it thinks of it.
const MAX_DATAGRAM: usize = 65507;

fn guess(fd: i32) -> Option<&'static AtomicBool> {
    usize::try_from(fd).ok().and_then(|fd| OWN_FIRST.get(fd))
}

fn identify(fd: i32, wanted: Wanted) -> Whose {
    let own_first = guess(fd).is_some_and(|guess| guess.load(Ordering::Relaxed));
    let order = if own_first { [Which::Local, Which::Peer] } else { [Which::Peer, Which::Local] };
    let mut passive = None;
    for which in order {
        let mut buffer = Buffer::new();
        let name = match sys::native_name(fd, which, &mut buffer) {
            Ok(name) => name,
            Err(libc::ENOTCONN) if which == Which::Peer => continue,
            Err(_) => return Whose::Unknown,
        };
        let Some(name) = name else { return Whose::Machine };
        match parse(name, which) {
            Some(parsed) => {
                let Some((shown, beside)) = boards::look_up(&parsed, wanted) else {
                    return Whose::Unknown;
                };
                // What a listener accepts has inherited its name.
                let ours = Whose::Ours { shown, by: which, socket: number(&parsed), beside };
                if which == Which::Local && shown.flags & board::LISTENS != 0 && own_first {
                    passive = Some(ours);
                    continue;
                }
                if let Some(guess) = guess(fd) {
                    guess.store(which == Which::Local, Ordering::Relaxed);
                }
                return ours;
            }
            // Who has a peer that is none of ours is none either.
            None if which == Which::Peer && !is_ours(name) => return Whose::Machine,
            None => {}
        }
    }
    passive.unwrap_or(Whose::Unknown)
}

/// A name of ours that names a socket. A path is believed of the program's own end only: anybody can bind one.
fn parse(name: &[u8], which: Which) -> Option<Name<'_>> {
    match name.split_first()? {
        (0, name) => Name::parse(name).filter(|name| which == Which::Peer || name.is_plain()),
        _ if which == Which::Local => {
            let at = name.windows(2).rposition(|pair| pair == b"/.")?;
            let name = name.get(at + 2..)?;
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            Name::parse(name.get(..end)?)
        }
        _ => None,
    }
}

/// A number that no socket of another host has either.
fn number(name: &Name<'_>) -> u64 {
    name.secret.first_chunk().map_or(0, |secret| u64::from_ne_bytes(*secret)) ^ name.token
}

/// Whether it begins as names of ours do, where our ends of connections meet programs' included.
fn is_ours(name: &[u8]) -> bool {
    name.windows(board::PREFIX.len()).any(|part| part == board::PREFIX)
}

/// Netlink protocols about the machine, not a network: SELINUX, AUDIT, CONNECTOR, KOBJECT_UEVENT.
const HOST_NETLINK: [i32; 4] =
    [libc::NETLINK_SELINUX, libc::NETLINK_AUDIT, libc::NETLINK_CONNECTOR, libc::NETLINK_KOBJECT_UEVENT];

/// First number that is no family, linux/socket.h.
const AF_MAX: i32 = 46;
/// The bits of socket(2)'s type that are one, and the largest, linux/net.h.
const TYPE_MASK: i32 = 0xf;
const SOCK_PACKET: i32 = 10;

/// socket(2): where there is no supervisor, the stack is asked for it on its path.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Answer {
    let of_the_machine = matches!(domain, libc::AF_UNIX | libc::AF_ALG)
        || domain == libc::AF_NETLINK && HOST_NETLINK.contains(&protocol);
    if !config::is_alone() || of_the_machine {
        return Answer::Original;
    }
    // In the order in which the kernel looks (net/socket.c).
    const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let known = (0..AF_MAX).contains(&domain);
    if kind & !(FLAGS | TYPE_MASK) != 0 || known && kind & TYPE_MASK > SOCK_PACKET {
        return Answer::Fail(libc::EINVAL);
    }
    let mut request = Request { bytes: [0; 96], length: 0 };
    request.put(br#"{"op":"socket","domain":"#).number(domain).put(br#","type":"#).number(kind);
    request.put(br#","protocol":"#).number(protocol).put(b"}\n");
    match sys::ask_at(&config::stack(), request.bytes()) {
        Asked::File(fd) => {
            sys::adopt(fd, kind);
            Answer::Value(fd as isize)
        }
        Asked::Refused(errno) => Answer::Fail(errno),
        // Nobody is there, and the machine's network is not to be used in its place.
        Asked::Nothing => Answer::Fail(libc::ENETDOWN),
    }
}

/// A line that is put together without allocating.
struct Request {
    bytes: [u8; 96],
    length: usize,
}

impl Request {
    fn put(&mut self, part: &[u8]) -> &mut Self {
        if let Some(room) = self.bytes.get_mut(self.length..self.length + part.len()) {
            room.copy_from_slice(part);
            self.length += part.len();
        }
        self
    }

    fn number(&mut self, number: i32) -> &mut Self {
        let mut digits = [0; 10];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            at = place;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            self.put(b"-");
        }
        self.put(digits.get(at..).unwrap_or_default())
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// getsockname(2), getpeername(2)
pub(crate) fn name(fd: i32, which: Which, room: &Room) -> Answer {
    if !config::is_smol() {
        return Answer::Original;
    }
    let Some(length) = room.length() else { return Answer::Original };
    match identify(fd, Wanted::Nothing) {
        Whose::Ours { shown, .. } if shown.flags & board::TROUBLED != 0 => Answer::Original,
        Whose::Ours { shown, by, .. } => {
            let address = match which {
                Which::Local => shown.local,
                Which::Peer if shown.flags & board::CONNECTED != 0 => shown.peer,
                Which::Peer => return Answer::Fail(libc::ENOTCONN),
            };
            if room.is_writable(fd, by) { give(room, length, address.bytes()) } else { Answer::Original }
        }
        Whose::Machine => Answer::Native,
        Whose::Unknown => Answer::Original,
    }
}

fn give(room: &Room, length: usize, bytes: &[u8]) -> Answer {
    room.write(length, bytes);
    Answer::Value(0)
}

/// getsockopt(2)
pub(crate) fn option(fd: i32, level: i32, name: i32, room: &Room) -> Answer {
    if !config::is_smol() {
        return Answer::Original;
    }
    let Some(length) = room.length() else { return Answer::Original };
    let option = options::Shown::of(level, name);
    match identify(fd, option.map_or(Wanted::Nothing, Wanted::Option)) {
        Whose::Ours { shown, by, beside, .. } if shown.flags & board::TROUBLED == 0 => {
            let value = match (level, name) {
                (libc::SOL_SOCKET, libc::SO_TYPE) => i32::from(shown.kind),
                (libc::SOL_SOCKET, libc::SO_DOMAIN) => i32::from(shown.domain),
                (libc::SOL_SOCKET, libc::SO_PROTOCOL) => i32::from(shown.protocol),
                (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => i32::from(shown.flags & board::LISTENS != 0),
                // A record is shown of connections that have none.
                (libc::SOL_SOCKET, libc::SO_ERROR) if shown.flags & board::CONNECTED != 0 => 0,
                // With less room some levels answer in another way than others.
                _ => match beside.filter(|_| length >= 4) {
                    Some(value) => value,
                    None => return Answer::Original,
                },
            };
            if !room.is_writable(fd, by) {
                return Answer::Original;
            }
            let bytes = value.to_ne_bytes();
            room.write(length, bytes.get(..length.min(4)).unwrap_or_default());
            Answer::Value(0)
        }
        Whose::Machine => Answer::Native,
        _ => Answer::Original,
    }
}

/// setsockopt(2): of what changes the stack has to know, before anything else is done with the socket.
pub(crate) fn set_option(fd: i32, level: i32, name: i32, value: &Data) -> Answer {
    if !config::is_smol() {
        return Answer::Original;
    }
    let option = options::Shown::of(level, name);
    match (identify(fd, option.map_or(Wanted::Nothing, Wanted::Option)), option) {
        (Whose::Machine, _) => Answer::Native,
        (Whose::Ours { beside: Some(has), .. }, Some(option))
            if value.length == 4 && value.int().is_some_and(|set| option.is_nothing(has, set)) =>
        {
            Answer::Value(0)
        }
        _ => Answer::Original,
    }
}

/// What a datagram is received with.
const RECEIVE_FLAGS: i32 =
    libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_WAITALL | libc::MSG_CMSG_CLOEXEC;

/// A socket whose datagrams come with what their senders are called, and nothing that only the stack knows.
fn tells(shown: &Shown) -> bool {
    i32::from(shown.kind) == libc::SOCK_DGRAM
        && shown.flags & (board::LOOSE | board::CONNECTED) != 0
        && shown.flags & board::TROUBLED == 0
}

/// A datagram of a socket that [`tells`]: its length, its flags and its sender.
fn take(fd: i32, shown: &Shown, vector: &Vector, flags: i32) -> Result<(isize, i32, Option<Address>), i32> {
    loop {
        let mut buffer = Buffer::new();
        match datagram::receive(fd, vector, flags | libc::MSG_DONTWAIT, &mut buffer) {
            Ok(Received { length, flags, sender }) => {
                let origin = sender.and_then(|name| Name::parse(name.split_first()?.1)?.origin());
                let peer = (shown.flags & board::CONNECTED != 0).then_some(shown.peer);
                return Ok((length, flags, origin.or(peer)));
            }
            Err(libc::EAGAIN) if flags & libc::MSG_DONTWAIT == 0 => datagram::wait(fd).map_err(told)?,
            Err(errno) => return Err(told(errno)),
        }
    }
}

/// recvfrom(2) with an address.
pub(crate) fn receive(fd: i32, vector: &Vector, flags: i32, room: &Room) -> Answer {
    if !config::is_smol() || flags & !RECEIVE_FLAGS != 0 {
        return Answer::Original;
    }
    let Some(length) = room.length() else { return Answer::Original };
    let (shown, by) = match identify(fd, Wanted::Nothing) {
        Whose::Ours { shown, by, .. } if tells(&shown) => (shown, by),
        _ => return Answer::Original,
    };
    if !room.is_writable(fd, by) {
        return Answer::Original;
    }
    // The kernel's look at it has changed the length.
    room.set_length(length);
    match take(fd, &shown, vector, flags) {
        Ok((count, _, from)) => {
            room.write(length, from.as_ref().map(Address::bytes).unwrap_or_default());
            Answer::Value(count)
        }
        Err(errno) => Answer::Fail(errno),
    }
}

/// UDP is never reset: that is how our ends say that there is an error, and this the one there is.
fn told(errno: i32) -> i32 {
    if errno == libc::ECONNRESET { libc::ECONNREFUSED } else { errno }
}

/// Where this process has sent by asking: a guess again, which costs a call if it is not there any more.
static ASKED: [AtomicU64; ERRANDS] = [const { AtomicU64::new(0) }; ERRANDS];
const ERRANDS: usize = 256;

/// A socket and a destination, hashed; not 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errand(u64);

impl Errand {
    fn new(socket: u64, destination: u64) -> Self {
        // As Fibonacci hashing has it, so that the upper half depends on all bits.
        Self((socket.rotate_left(32) ^ destination).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }

    fn place(self) -> &'static AtomicU64 {
        &ASKED[(self.0 >> 32) as usize % ERRANDS]
    }

    /// The socket has sent there, by asking.
    pub(crate) fn remember(self) {
        self.place().store(self.0, Ordering::Relaxed);
    }

    fn is_known(self) -> bool {
        self.place().load(Ordering::Relaxed) == self.0
    }
}

/// sendto(2) with an address. The board says where a socket has sent, whoever did; the rules of a view are asked by
/// asking, so a process that has not asked itself does that first. What was sent; or, if it is to ask, where it will
/// have sent then.
pub(crate) fn send(
    fd: i32,
    vector: &Vector,
    flags: i32,
    to: Option<Address>,
) -> Result<isize, Option<Errand>> {
    let to = to.filter(|_| config::is_smol()).ok_or(None)?;
    let length = vector.length().ok().filter(|length| *length <= MAX_DATAGRAM).ok_or(None)?;
    if flags & !SEND_FLAGS != 0 {
        return Err(None);
    }
    let Whose::Ours { shown, by: Which::Local, socket, beside } =
        identify(fd, Wanted::Destination(to.hash()))
    else {
        return Err(None);
    };
    let errand = Errand::new(socket, to.hash());
    let ready = board::TAKES | board::LOOSE;
    if beside.is_none() || !errand.is_known() || shown.flags & (ready | board::TROUBLED) != ready {
        return Err(Some(errand));
    }
    // The inlet's name is the socket's own with a letter behind it.
    let mut buffer = Buffer::new();
    let name = sys::native_name(fd, Which::Local, &mut buffer).ok().flatten();
    let (inlet, room) = name.and_then(inlet).ok_or(None)?;
    // It is full, or has gone: the stack knows what to do.
    datagram::send(fd, (&inlet, room), to.header(), (vector, length)).map_err(|_| None)
}

/// One message of sendmmsg(2), as [`send`].
pub(crate) fn send_header(fd: i32, header: &Header, flags: i32) -> Result<isize, Option<Errand>> {
    if header.control.length > 0 {
        return Err(None);
    }
    if !header.name.is_none() {
        return send(fd, &header.vector, flags, sys::address_at(&header.name));
    }
    match config::is_smol().then(|| identify(fd, Wanted::Nothing)) {
        // Its end is full: the stack knows when it is not.
        Some(Whose::Ours { shown, .. }) if sends_plainly(&shown, &header.vector, flags) => {
            datagram::put(fd, &header.vector, flags).map_err(|_| None)
        }
        _ => Err(None),
    }
}

fn inlet(name: &[u8]) -> Option<(Buffer, usize)> {
    let own = match name.split_first()? {
        (0, name) => name,
        _ => {
            let at = name.windows(2).rposition(|pair| pair == b"/.")?;
            let name = name.get(at + 2..)?;
            name.get(..name.iter().position(|byte| *byte == 0).unwrap_or(name.len()))?
        }
    };
    let mut buffer = Buffer::new();
    let length = buffer.set(&[&[0], own, b"<"])?;
    Some((buffer, length))
}

/// sendmsg(2). Of one with a name on a socket of the machine the rules of the view are asked.
pub(crate) fn send_message(fd: i32, message: &Message, flags: i32) -> Answer {
    match config::is_smol().then(|| identify(fd, Wanted::Nothing)) {
        Some(Whose::Machine) if message.is_nameless() => Answer::Native,
        Some(Whose::Ours { shown, .. }) if is_plain(&shown, message, flags) => Answer::Native,
        _ => Answer::Original,
    }
}

/// recvmsg(2)
pub(crate) fn receive_message(fd: i32, message: &Message, flags: i32) -> Answer {
    match config::is_smol().then(|| identify(fd, Wanted::Nothing)) {
        Some(Whose::Machine) => Answer::Native,
        Some(Whose::Ours { shown, .. }) if is_bytes(&shown, flags) && message.is_plain() => Answer::Native,
        Some(Whose::Ours { shown, .. }) if describes_nothing(&shown, flags) => {
            Header::read(message).map_or(Answer::Original, |header| described(fd, &shown, &header, flags).0)
        }
        _ => Answer::Original,
    }
}

/// recvmsg(2) of a header that was read; also its flags.
pub(crate) fn receive_header(fd: i32, header: &Header, flags: i32) -> (Answer, i32) {
    match config::is_smol().then(|| identify(fd, Wanted::Nothing)) {
        Some(Whose::Ours { shown, .. }) if describes_nothing(&shown, flags) => {
            described(fd, &shown, header, flags)
        }
        _ => (Answer::Original, 0),
    }
}

/// Datagrams that come with no ancillary data.
fn describes_nothing(shown: &Shown, flags: i32) -> bool {
    tells(shown) && shown.flags & board::DESCRIBES == 0 && flags & !RECEIVE_FLAGS == 0
}

fn described(fd: i32, shown: &Shown, header: &Header, asked: i32) -> (Answer, i32) {
    let (length, flags, from) = match take(fd, shown, &header.vector, asked) {
        Ok(taken) => taken,
        Err(errno) => return (Answer::Fail(errno), 0),
    };
    let from = from.unwrap_or_default();
    if !header.name.is_none()
        && let Err(errno) = header.name.fill(from.bytes())
    {
        return (Answer::Fail(errno), 0);
    }
    let flags = flags & libc::MSG_TRUNC | asked & libc::MSG_CMSG_CLOEXEC;
    header.finish(from.bytes().len(), 0, flags);
    (Answer::Value(length), flags)
}

/// What a socket with a peer sends without address and ancillary data is what send(2) sends.
fn is_plain(shown: &Shown, message: &Message, flags: i32) -> bool {
    message.is_plain()
        && (is_bytes(shown, flags)
            || Header::read(message).is_some_and(|header| sends_plainly(shown, &header.vector, flags)))
}

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

fn sends_plainly(shown: &Shown, vector: &Vector, flags: i32) -> bool {
    tells(shown)
        && shown.flags & board::LOOSE == 0
        && flags & !SEND_FLAGS == 0
        && vector.length().is_ok_and(|length| length <= MAX_DATAGRAM)
}

/// With neither address nor ancillary data a stream's messages are bytes.
fn is_bytes(shown: &Shown, flags: i32) -> bool {
    const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_NOSIGNAL | libc::MSG_CMSG_CLOEXEC;
    i32::from(shown.kind) == libc::SOCK_STREAM
        && shown.flags & (board::CONNECTED | board::TROUBLED) == board::CONNECTED
        && flags & !FLAGS == 0
}
