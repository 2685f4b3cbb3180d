//! Control lines: newline-terminated JSON messages over an AF_UNIX stream, with descriptors beside them.
//!
//! # Theory of operation
//! Stacks, switches and supervisors all answer on a Unix socket file. Client and server take turns: a
//! request, then its reply, each one line of JSON of bounded length; descriptors (SCM_RIGHTS, unix(7))
//! travel with the line they belong to. A server sets its end non-blocking, calls [`Line::receive`] when
//! the descriptor is readable and [`Line::flush`] when it is writable; a client uses the same calls on a
//! blocking end. A peer that sends garbage gets a [`LineError`], never a panic; its descriptors are closed.
//!
//! A server takes [`listen`], which refuses a name in use, clears the file of a dead server and sets the
//! file's mode before anybody can connect.

mod file;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::file::{
    MAX_PATH, SocketFile, companion, is_dead, listen, listen_locked, lock_folder, sweep, unusable,
};

/// Most descriptors one message may carry.
pub const MAX_FDS: usize = 16;
/// Longest line a server accepts, in bytes: a configuration, never a bulk transfer. It is what a stranger on
/// a socket that is open to all can make us keep, per connection.
pub const SERVER_LIMIT: usize = 128 << 10;
/// Longest line a client accepts, in bytes: a forwarding database of 100,000 entries with room to spare.
pub const CLIENT_LIMIT: usize = 64 << 20;

/// One end of a control connection.
#[derive(Debug)]
pub struct Line {
    stream: UnixStream,
    limit: usize,
    inbox: Vec<u8>,
    /// How much of `inbox` holds no newline, so that a slow sender is not scanned again and again.
    scanned: usize,
    in_fds: Vec<OwnedFd>,
    outbox: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// What [`Line::receive`] found.
#[derive(Debug)]
pub enum Received<T> {
    /// A whole message and the descriptors that came with it.
    Message(T, Vec<OwnedFd>),
    /// No whole message yet (non-blocking ends only).
    Pending,
    /// The peer is gone.
    Closed,
}

/// Why a control connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The line was no valid message.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The line was longer than the receiver accepts.
    #[error("message longer than {0} bytes")]
    TooLong(usize),
    /// The peer did not answer in time (ends with a time-out).
    #[error("no answer in time")]
    TimedOut,
    /// The peer closed the connection in the middle of an exchange.
    #[error("the other side closed the connection")]
    Closed,
}

/// An answer: what was asked for, or why it was refused.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Reply<T> {
    /// Done.
    Ok(T),
    /// Not done.
    Error(Refusal),
}

/// Why a request was refused, in words for the person who made it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}{}", hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct Refusal {
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The errno behind it: what a program that asked for a socket sees, and where better words come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Which step failed, in a word for programs, where they know more about it than these words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

impl Refusal {
    /// A refusal without hint or errno.
    pub fn new(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { what: what.into(), why: plain(&why.to_string()), hint: None, errno: None, step: None }
    }

    /// A refusal by the kernel, with its errno.
    pub fn system(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self { errno: error.raw_os_error(), ..Self::new(what, error) }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the errno a program should see.
    #[must_use]
    pub fn errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Adds which step failed.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }
}

impl Line {
    /// Connects to a server's path; the result blocks.
    ///
    /// # Errors
    /// Those of connect(2): ENOENT and ECONNREFUSED mean that nobody serves the path, EAGAIN that its server
    /// is too busy (it is never waited for).
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::client(file::dial(path)?))
    }

    /// A client's end: blocking, long replies allowed.
    pub fn client(stream: UnixStream) -> Self {
        Self::with_limit(stream, CLIENT_LIMIT)
    }

    /// A server's end: non-blocking, requests bounded.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn server(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::with_limit(stream, SERVER_LIMIT))
    }

    fn with_limit(stream: UnixStream, limit: usize) -> Self {
        Self { stream, limit, inbox: Vec::new(), scanned: 0, in_fds: Vec::new(), outbox: VecDeque::new() }
    }

    /// Queues a message and sends as much as the socket takes. `fds` are duplicated.
    ///
    /// # Errors
    /// Those of sendmsg(2), and EMFILE.
    pub fn send<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), LineError> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(b'\n');
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<Vec<_>>>()?;
        self.outbox.push_back(Outgoing { bytes, sent: 0, fds });
        self.flush()
    }

    /// Sends what is queued until the socket would block.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn flush(&mut self) -> Result<(), LineError> {
        while let Some(out) = self.outbox.front_mut() {
            match send_some(&self.stream, &out.bytes[out.sent..], &out.fds) {
                Ok(n) => {
                    out.fds.clear();
                    out.sent += n;
                    if out.sent == out.bytes.len() {
                        self.outbox.pop_front();
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(LineError::Io(e.into())),
            }
        }
        Ok(())
    }

    /// Whether [`Line::flush`] has more to send once the socket is writable.
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// How many messages wait to be sent.
    pub fn backlog(&self) -> usize {
        self.outbox.len()
    }

    /// The next message; waits for it if the end is blocking.
    ///
    /// # Errors
    /// [`LineError::Malformed`] leaves the connection usable for the next line; all others end it.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Received<T>, LineError> {
        loop {
            if let Some(at) = self.inbox[self.scanned..].iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.inbox.drain(..=self.scanned + at).collect();
                self.scanned = 0;
                let fds = std::mem::take(&mut self.in_fds);
                return Ok(Received::Message(serde_json::from_slice(&line[..line.len() - 1])?, fds));
            }
            self.scanned = self.inbox.len();
            if self.inbox.len() > self.limit {
                return Err(LineError::TooLong(self.limit));
            }
            match self.receive_some() {
                Ok(0) if self.inbox.is_empty() => return Ok(Received::Closed),
                Ok(0) => return Err(LineError::Closed),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Pending),
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
                Err(e) => return Err(LineError::Io(e.into())),
            }
        }
    }

    /// Sends a request and waits for its reply (blocking ends).
    ///
    /// # Errors
    /// The connection's, or the [`Refusal`] the server sent.
    pub fn call<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        request: &Q,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(A, Vec<OwnedFd>), CallError> {
        self.send(request, fds)?;
        match self.receive::<Reply<A>>()? {
            Received::Message(Reply::Ok(answer), fds) => Ok((answer, fds)),
            Received::Message(Reply::Error(refusal), _) => Err(CallError::Refused(refusal)),
            Received::Pending => Err(LineError::TimedOut.into()),
            Received::Closed => Err(LineError::Closed.into()),
        }
    }

    /// The socket itself, for credentials and time-outs.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn receive_some(&mut self) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0u8; 16 << 10];
        let got = rustix::net::recvmsg(
            &self.stream,
            &mut [io::IoSliceMut::new(&mut chunk)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.in_fds.extend(fds);
            }
        }
        self.in_fds.truncate(MAX_FDS);
        self.inbox.extend_from_slice(&chunk[..got.bytes]);
        Ok(got.bytes)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Why [`Line::call`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection failed.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The server said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// An I/O error's words without the number that std puts behind them.
fn plain(why: &str) -> String {
    match why.rsplit_once(" (os error ") {
        Some((words, number)) if number.ends_with(')') => words.to_owned(),
        _ => why.to_owned(),
    }
}

fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::INVAL);
    }
    rustix::net::sendmsg(stream, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_and_descriptor_cross() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut a, mut b) = (Line::client(a), Line::server(b).unwrap());
        assert!(matches!(b.receive::<String>(), Ok(Received::Pending)));
        a.send(&"hello", &[io::stdin().as_fd()]).unwrap();
        let Ok(Received::Message(text, fds)) = b.receive::<String>() else { panic!("no message") };
        assert_eq!((text.as_str(), fds.len()), ("hello", 1));
        drop(a);
        assert!(matches!(b.receive::<String>(), Ok(Received::Closed)));
    }

    #[test]
    fn a_refusal_speaks_in_words() {
        let refusal = Refusal::new("cannot read x", io::Error::from_raw_os_error(2)).hint("look again");
        assert_eq!(refusal.to_string(), "cannot read x: No such file or directory; look again");
    }

    #[test]
    fn garbage_is_an_error_and_the_next_line_is_read() {
        use std::io::Write;
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut b = Line::server(b).unwrap();
        a.write_all(b"{]\n\"next\"\n").unwrap();
        assert!(matches!(b.receive::<String>(), Err(LineError::Malformed(_))));
        assert!(matches!(b.receive::<String>(), Ok(Received::Message(s, _)) if s == "next"));
    }

    #[test]
    fn endless_line_is_cut_off() {
        use std::io::Write;
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut b = Line::server(b).unwrap();
        a.set_nonblocking(true).unwrap();
        for _ in 0..2 * SERVER_LIMIT / 4096 {
            let _ = a.write(&[b'x'; 4096]);
            match b.receive::<String>() {
                Err(LineError::TooLong(_)) => return,
                Ok(Received::Pending) => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("never refused");
    }

    #[test]
    fn a_dead_servers_path_is_taken_over_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen(&path, 0o600).unwrap();
        assert_eq!(listen(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        listen(&path, 0o600).unwrap();
    }
}
