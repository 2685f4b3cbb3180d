//! Calls on sockets of stacks in a library where no supervisor traps them: they go to the stack's host as they are.
//!
//! # Theory of operation
//! Whose a socket is, its own AF_UNIX name says: whoever has the descriptor has it, after dup(2), fork(2), exec(3)
//! and SCM_RIGHTS. (Not its peer's name: anybody could take one, and would be shown our descriptor.) The call is
//! put on a line to the host, the descriptor beside it, from the program's own memory, and what comes back is written
//! there by the kernel, so that a bad pointer is EFAULT. If the host says that the call waits, the thread waits in
//! recvmsg(2), which a signal interrupts or not as it would the call itself: for ever, or with a limit of time, after
//! which signal(7) has no call made anew. An interrupted call is abandoned, and the host says whether it was answered
//! before: then that is the answer.

use std::sync::atomic::{AtomicBool, Ordering};

use msocket_proto::ask::{Asker, Call, Head, Told};
use msocket_proto::board::{PREFIX, SECRET};

use crate::config;
use crate::lines::{Key, Line};
use crate::ops::Answer;
use crate::sys::packet::{self, Part, Took};
use crate::sys::{self, Buffer, Data, Room, Which, line};

/// sizeof(struct sockaddr_storage), socket(7): the longest address that the kernel takes.
pub(crate) const MAX_ADDRESS: usize = 128;
/// Longest option that is taken.
const MAX_OPTION: usize = 64 << 10;
/// Longest one of the levels of sockets and TCP, which do not read the buffer.
const MAX_VALUE: usize = 4096;
static ZEROS: [u8; MAX_VALUE] = [0; MAX_VALUE];
/// As much of an answer as is looked at: all of it but data.
pub(crate) const TEXT: usize = 640;
/// SO_ATTACH_REUSEPORT_CBPF, asm-generic/socket.h, as SO_ATTACH_FILTER a struct sock_fprog of so many instructions.
const ATTACH_REUSEPORT: i32 = 51;
const MAX_INSTRUCTIONS: usize = 4096;
const INSTRUCTION: usize = 8;

/// The host of the socket, if it is one of a stack in a library and nobody traps its calls.
#[inline]
pub(crate) fn host_of(fd: i32) -> Option<Key> {
    /// Somebody does: filters stay as long as a process and its children live.
    static ANSWERED: AtomicBool = AtomicBool::new(false);
    if config::is_smol() || ANSWERED.load(Ordering::Relaxed) {
        return None;
    }
    let mut buffer = Buffer::new();
    let key = key(sys::native_name(fd, Which::Local, &mut buffer).ok()??)?;
    if line::is_answered(fd) {
        ANSWERED.store(true, Ordering::Relaxed);
        return None;
    }
    Some(key)
}

/// The secret in a program's end's name.
fn key(name: &[u8]) -> Option<Key> {
    let name = match name.split_first()? {
        (0, name) => name,
        _ => name.get(name.windows(2).rposition(|pair| pair == b"/.")? + 2..)?,
    };
    let (secret, rest) = name.strip_prefix(PREFIX)?.split_at_checked(SECRET)?;
    // Our own ends have more behind the number.
    let plain = |byte: &u8| byte.is_ascii_hexdigit() || b"-.\0".contains(byte);
    (rest.first() == Some(&b'-') && rest.iter().all(plain)).then_some(())?;
    let mut key = Key::default();
    for (word, bytes) in key.iter_mut().zip(secret.chunks_exact(8)) {
        *word = u64::from_ne_bytes(*bytes.first_chunk()?);
    }
    Some(key)
}

/// An answer on its line, looked at and not taken.
pub(crate) struct Came {
    pub(crate) line: Line,
    fd: i32,
    told: Told,
    text: [u8; TEXT],
    /// Of the packet.
    length: usize,
    /// The call was interrupted all the same, and one more packet says so.
    abandoned: bool,
}

/// Tickets of a line with one call at a time: the call's, and that of giving it up.
const CALL: u64 = 1;
const GIVEN_UP: u64 = 2;

/// Makes a call and waits for its answer.
pub(crate) fn ask(
    key: Key,
    fd: i32,
    call: Call,
    fill: impl Fn(&mut Head),
    rest: &mut [Part<'_>],
) -> Result<Came, i32> {
    loop {
        let line = Line::to(key)?;
        let mut head = Head::call(CALL, Asker { pid: sys::pid() as i32, uid: 0 }, fd, call);
        fill(&mut head);
        let sent = packet::put(line.fd, head.bytes_mut(), rest, Some(fd));
        let used = line.used;
        match sent.and_then(|()| first(&line)) {
            Ok((_, _, CALL, Told::Parked)) => return wait(line, fd, call),
            Ok((text, length, CALL, told)) => {
                return Ok(Came { line, fd, told, text, length, abandoned: false });
            }
            Err(
                errno @ (libc::EFAULT | libc::EMSGSIZE | libc::EBADF | libc::EMFILE | libc::ETOOMANYREFS),
            ) => {
                line.keep();
                return Err(errno);
            }
            // The host closes what it does not need; it may be there all the same.
            Err(libc::EPIPE | libc::ECONNRESET) if used => line.drop(),
            Err(libc::EAGAIN | libc::ENOBUFS) => {
                line.drop();
                return Err(libc::ENOBUFS);
            }
            _ => {
                line.drop();
                return Err(libc::ENETDOWN);
            }
        }
    }
}

/// What a host says first, in time.
fn first(line: &Line) -> Result<([u8; TEXT], usize, u64, Told), i32> {
    loop {
        match peek(line) {
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Err(libc::ENETDOWN),
            other => return other,
        }
    }
}

/// Looks at the next packet; one that only says that the call waits is taken.
fn peek(line: &Line) -> Result<([u8; TEXT], usize, u64, Told), i32> {
    let mut text = [0; TEXT];
    let took = packet::take(line.fd, &mut text, &mut [], libc::MSG_PEEK)?;
    if took.length == 0 {
        return Err(libc::EPIPE);
    }
    let bytes = text.get(..took.length.min(TEXT)).unwrap_or_default();
    let (ticket, told) = Told::read(bytes).ok_or(libc::EPROTO)?;
    if told == Told::Parked {
        packet::take(line.fd, &mut text, &mut [], 0)?;
    }
    Ok((text, took.length, ticket, told))
}

/// Waits as the call itself would.
fn wait(line: Line, fd: i32, call: Call) -> Result<Came, i32> {
    let limit =
        if matches!(call, Call::Connect | Call::Send) { libc::SO_SNDTIMEO } else { libc::SO_RCVTIMEO };
    line.wait_long(line::is_timed(fd, limit));
    let mut came = peek(&line);
    line.wait_shortly();
    let mut abandoned = false;
    if matches!(came, Err(libc::EINTR)) {
        let mut head = Head::abandon(GIVEN_UP, CALL);
        came = packet::put(line.fd, head.bytes_mut(), &mut [], None).and_then(|()| first(&line));
        abandoned = true;
    }
    match came {
        Ok((text, length, CALL, told)) if told != Told::Parked => {
            Ok(Came { line, fd, told, text, length, abandoned })
        }
        Ok((_, _, GIVEN_UP, _)) if abandoned => {
            let taken = packet::take(line.fd, &mut [], &mut [], 0);
            if taken.is_ok() {
                line.keep()
            } else {
                line.drop()
            }
            Err(libc::EINTR)
        }
        _ => {
            line.drop();
            Err(libc::ENETDOWN)
        }
    }
}

impl Came {
    /// Takes the answer: what is in front of its bytes, and them as `parts` say.
    fn take(self, before: &mut [u8], parts: &mut [Part<'_>]) -> Result<Took, i32> {
        let taken = packet::take(self.line.fd, before, parts, 0);
        // Of a bad pointer the packet has gone all the same.
        let in_order = matches!(taken, Ok(_) | Err(libc::EFAULT));
        if in_order && (!self.abandoned || has_ended(&self.line)) {
            self.line.keep();
        } else {
            self.line.drop();
        }
        taken
    }

    /// Bytes of the answer, which were looked at.
    fn bytes(&self, at: usize, length: usize) -> Option<([u8; TEXT], usize)> {
        let mut bytes = [0; TEXT];
        let piece = self.text.get(..self.length.min(TEXT))?.get(at..)?.get(..length)?;
        bytes.get_mut(..length)?.copy_from_slice(piece);
        Some((bytes, length))
    }

    /// What it says.
    pub(crate) fn told(&self) -> Told {
        self.told
    }

    /// Takes it, its bytes from `at` on as `parts` say.
    pub(crate) fn scatter(self, at: usize, parts: &mut [Part<'_>]) -> Result<(), i32> {
        let mut before = [0; 64];
        let before = before.get_mut(..at).ok_or(libc::EIO)?;
        self.take(before, parts).map(drop)
    }

    /// Takes it, for what was looked at.
    pub(crate) fn finish(self) -> Result<Option<i32>, i32> {
        self.take(&mut [], &mut []).map(|took| took.fd)
    }

    /// What becomes of a call whose answer is a number, or nothing at all.
    pub(crate) fn value(self) -> Answer {
        let (told, fd) = (self.told, self.fd);
        match self.finish() {
            Err(errno) => return Answer::Fail(errno),
            // The old end was spent by an attempt that failed.
            Ok(Some(fresh)) => packet::replace(fd, fresh),
            Ok(None) => {}
        }
        match told {
            Told::Value(value) => Answer::Value(value as isize),
            Told::Failed(errno) => Answer::Fail(errno),
            Told::NotOurs | Told::Native => Answer::Original,
            _ => Answer::Fail(libc::EIO),
        }
    }
}

/// Whether the host says that a call was given up, after all.
fn has_ended(line: &Line) -> bool {
    first(line).is_ok() && packet::take(line.fd, &mut [], &mut [], 0).is_ok()
}

/// A call whose answer is a number.
pub(crate) fn plain(
    key: Key,
    fd: i32,
    call: Call,
    fill: impl Fn(&mut Head),
    rest: &mut [Part<'_>],
) -> Answer {
    ask(key, fd, call, fill, rest).map_or_else(Answer::Fail, Came::value)
}

fn named(fd: i32, call: Call, address: Data) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    if address.length > MAX_ADDRESS {
        return Answer::Fail(libc::EINVAL);
    }
    let length = address.length as u64;
    plain(
        key,
        fd,
        call,
        |head| {
            head.number(length);
        },
        &mut [Part::Program(address)],
    )
}

/// bind(2)
pub(crate) fn bind(fd: i32, address: Data) -> Answer {
    named(fd, Call::Bind, address)
}

/// connect(2)
pub(crate) fn connect(fd: i32, address: Data) -> Answer {
    named(fd, Call::Connect, address)
}

/// listen(2)
pub(crate) fn listen(fd: i32, backlog: i32) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    plain(
        key,
        fd,
        Call::Listen,
        |head| {
            head.signed(backlog);
        },
        &mut [],
    )
}

/// shutdown(2)
pub(crate) fn shutdown(fd: i32, how: i32) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    plain(
        key,
        fd,
        Call::Shutdown,
        |head| {
            head.signed(how);
        },
        &mut [],
    )
}

/// accept4(2)
pub(crate) fn accept(fd: i32, peer: &Room, flags: i32) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Answer::Fail(libc::EINVAL);
    }
    // Linux takes the number before it looks for a connection.
    if !line::has_room(fd) {
        return Answer::Fail(libc::EMFILE);
    }
    let came = match ask(
        key,
        fd,
        Call::Accept,
        |head| {
            head.signed(flags);
        },
        &mut [],
    ) {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    let Told::Accepted(at, length) = came.told else { return came.value() };
    let name = came.bytes(at, length);
    let (accepted, (bytes, length)) = match (came.finish(), name) {
        (Ok(Some(accepted)), Some(name)) => (accepted, name),
        (Err(errno), _) => return Answer::Fail(errno),
        _ => return Answer::Fail(libc::EMFILE),
    };
    if flags & libc::SOCK_CLOEXEC == 0 {
        line::inherit(accepted);
    }
    if peer.is_there() {
        let given = give(fd, peer, bytes.get(..length).unwrap_or_default());
        if given != Answer::Value(0) {
            sys::close(accepted);
            return given;
        }
    }
    Answer::Value(accepted as isize)
}

/// Writes an answer where the program wants it, as move_addr_to_user of net/socket.c does.
pub(crate) fn give(fd: i32, room: &Room, bytes: &[u8]) -> Answer {
    let Some(length) = room.length() else { return Answer::Fail(room.errno()) };
    if !room.is_writable(fd, Which::Local) {
        return Answer::Fail(libc::EFAULT);
    }
    room.write(length, bytes);
    Answer::Value(0)
}

/// getsockname(2), getpeername(2)
pub(crate) fn name(fd: i32, which: Which, room: &Room) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    let call = if which == Which::Local { Call::LocalName } else { Call::PeerName };
    let came = match ask(key, fd, call, |_| (), &mut []) {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    let Told::Address(at, length) = came.told else { return came.value() };
    let name = came.bytes(at, length);
    match (came.finish(), name) {
        (Ok(_), Some((bytes, length))) => give(fd, room, bytes.get(..length).unwrap_or_default()),
        (Err(errno), _) => Answer::Fail(errno),
        _ => Answer::Fail(libc::EIO),
    }
}

/// getsockopt(2)
pub(crate) fn option(fd: i32, level: i32, name: i32, room: &Room) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    let Some(length) = room.length() else { return Answer::Fail(room.errno()) };
    let head = |length: usize| {
        move |head: &mut Head| {
            head.signed(level).signed(name).number(length as u64);
        }
    };
    let asked = match level {
        libc::SOL_SOCKET | libc::SOL_TCP => {
            let length = length.min(MAX_VALUE);
            ask(
                key,
                fd,
                Call::GetOption,
                head(length),
                &mut [Part::Own(ZEROS.get(..length).unwrap_or_default())],
            )
        }
        _ => {
            let length = length.min(MAX_OPTION);
            match ask(key, fd, Call::GetOption, head(length), &mut [Part::Program(room.data(length))]) {
                // What cannot be read is not looked at, or else the stack says so.
                Err(libc::EFAULT) => {
                    let length = length.min(MAX_VALUE);
                    ask(
                        key,
                        fd,
                        Call::GetOption,
                        head(length),
                        &mut [Part::Own(ZEROS.get(..length).unwrap_or_default())],
                    )
                }
                other => other,
            }
        }
    };
    let came = match asked {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    let Told::Bytes(at, given) = came.told else { return came.value() };
    let given = given.min(length);
    match came.scatter(at, &mut [Part::Program(room.data(given))]) {
        Ok(()) => {
            room.set_length(given);
            Answer::Value(0)
        }
        Err(errno) => Answer::Fail(errno),
    }
}

/// setsockopt(2)
pub(crate) fn set_option(fd: i32, level: i32, name: i32, value: &Data) -> Answer {
    let Some(key) = host_of(fd) else { return Answer::Original };
    if value.length > i32::MAX as usize {
        return Answer::Fail(libc::EINVAL);
    }
    let set = |value: Data| {
        let length = value.length as u64;
        let head = |head: &mut Head| {
            head.signed(level).signed(name).number(length);
        };
        plain(key, fd, Call::SetOption, head, &mut [Part::Program(value)])
    };
    if level == libc::SOL_SOCKET && [libc::SO_ATTACH_FILTER, ATTACH_REUSEPORT].contains(&name) {
        return match value.program(INSTRUCTION) {
            Err(errno) => Answer::Fail(errno),
            // Where the kernel would say EINVAL, there are none.
            Ok(Some(program)) if program.length <= MAX_INSTRUCTIONS * INSTRUCTION => set(program),
            Ok(_) => set(value.cut(0)),
        };
    }
    let length = value.length.min(MAX_OPTION);
    match set(value.cut(length)) {
        // The length is more than there is, and more than is looked at.
        Answer::Fail(libc::EFAULT) if value.to_page() < length && value.to_page() > 0 => {
            set(value.cut(value.to_page()))
        }
        answer => answer,
    }
}

/// mmap(2): of a packet socket's ring. `Original`: it is of something else.
pub(crate) fn map(fd: i32, wanted: &Data, (prot, flags): (i32, i32), offset: u64) -> Answer {
    const KINDS: i32 = 0xf | libc::MAP_ANONYMOUS;
    let shared = fd >= 0 && flags & KINDS == libc::MAP_SHARED && prot & libc::PROT_READ != 0;
    let Some(key) = shared.then(|| host_of(fd)).flatten() else { return Answer::Original };
    let length = wanted.length as u64;
    let head = |head: &mut Head| {
        head.number(length).number(offset);
    };
    let came = match ask(key, fd, Call::Map, head, &mut []) {
        Ok(came) => came,
        Err(errno) => return Answer::Fail(errno),
    };
    if came.told != Told::Mapping {
        return came.value();
    }
    match came.finish() {
        Ok(Some(ring)) => line::map(ring, wanted, prot, flags),
        Ok(None) => Answer::Fail(libc::EMFILE),
        Err(errno) => Answer::Fail(errno),
    }
}
