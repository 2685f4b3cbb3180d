//! The eye: how a supervisor sees the programs of its view.
//!
//! # Theory of operation
//! A supervisor of kernel stacks lives in their user namespace, from where the kernel lets it neither read a
//! program's memory nor follow its /proc links (both ask for rights in the program's user namespace). The
//! eye is its twin that stays where the program is, and answers one [`Question`] at a time over a
//! socket pair. A supervisor that never left (it has no kernel stacks) looks by itself, with the same
//! functions ([`look`]): it asks the twin nothing. In both cases the twin keeps the list of socket files that
//! the supervisor serves: whichever of the two dies, the other notices at once, and the files go. It decides
//! nothing. The keeper of stacks and every switch have an eye for these files alone.
//!
//! Descriptors are duplicated by pidfd_getfd(2). A pidfd of a thread (Linux 6.9) names that thread and no
//! other, so it is kept as long as there is room; a pidfd of its process is as good as the thread id it was
//! found by, and is believed for [`BELIEF`].

mod copies;
mod look;

use std::collections::{BTreeMap, HashMap};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use msocket_proto::line::SocketFile;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use rustix::buffer::spare_capacity;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use stacks::stack::SocketSpec;

use crate::smol::machine_socket;
use crate::sys::process::descriptor_limit;
use crate::target::{Inspection, Target};
use look::Home;

pub(crate) use copies::Copies;
pub(crate) use look::MARKER;

/// Largest piece of a program's memory that the twin copies at once.
const MAX_COPY: usize = 64 << 10;
/// Longest message between the twins.
const MAX_MESSAGE: usize = MAX_COPY + 4096;
/// Longest answer that a descriptor comes with: that it does, or an errno.
const MAX_SHORT: usize = 64;
/// How long a thread id means the same thread: ids are not used again within this time.
pub(crate) const BELIEF: Duration = Duration::from_secs(1);
/// Most pidfds that we keep; past that all are opened again. A descriptor each, of a thousand at least.
const MAX_PROCESSES: usize = 512;

/// What the supervisor wants to know or done.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// `views`: which supervisor's nested views are looked for, if any.
    Inspect {
        tid: i32,
        views: Option<u32>,
    },
    Read {
        tid: i32,
        address: u64,
        length: usize,
    },
    Write {
        tid: i32,
        address: u64,
        bytes: Vec<u8>,
    },
    Domain {
        tid: i32,
        fd: i32,
    },
    HostResolver {
        tid: i32,
        path: Vec<u8>,
    },
    Keep {
        file: SocketFile,
    },
    Forget {
        path: PathBuf,
    },
    Living {
        supervisor: u32,
        roots: Vec<(u64, i32)>,
    },
    /// A copy of a descriptor comes with the answer.
    Take {
        tid: i32,
        fd: i32,
    },
    Copies {
        tid: i32,
        fd: i32,
    },
    /// A socket of the host's network comes with the answer.
    Socket {
        spec: SocketSpec,
    },
}

/// The answers, in the order of the questions; an errno for any of them.
#[derive(Debug, Serialize, Deserialize)]
enum Reading {
    Inspection(Inspection),
    Bytes(Vec<u8>),
    Done,
    Domain(i32),
    Yes(bool),
    Living(Vec<u64>),
    Copies(Copies),
    Failed(i32),
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Eye {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// Where the supervisor is, as long as it can see from there by itself.
    home: Option<Home>,
    processes: HashMap<i32, Process>,
}

/// A thread of a program, or its process where the kernel has no pidfds of threads.
#[derive(Debug)]
struct Process {
    pidfd: Rc<OwnedFd>,
    /// When a thread id was taken for this process; a thread's own pidfd needs no such.
    found: Option<Instant>,
}

/// A pair of connected ends, the supervisor's first.
pub(crate) fn pair() -> Result<(Eye, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let eye = Eye { socket: ours, buffer: Vec::new(), home: Some(Home::read()), processes: HashMap::new() };
    Ok((eye, theirs))
}

impl Eye {
    fn ask(&mut self, question: &Question) -> Result<Reading, Errno> {
        self.put(question)?;
        receive(&self.socket, &mut self.buffer)?;
        reading(&self.buffer)
    }

    fn put(&self, question: &Question) -> Result<(), Errno> {
        let bytes = postcard::to_stdvec(question).map_err(|_| Errno::EMSGSIZE)?;
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// Asks for a descriptor, which comes with the answer.
    fn ask_for(&mut self, question: &Question) -> Result<OwnedFd, Errno> {
        self.put(question)?;
        let mut answer = [0; MAX_SHORT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            let piece = &mut [IoSliceMut::new(&mut answer)];
            match recvmsg(&self.socket, piece, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(|e| Errno::from_raw(e.raw_os_error()))?.bytes,
            }
        };
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.flatten().next();
        reading(&answer[..length])?;
        fd.ok_or(Errno::EMFILE)
    }

    /// A socket of the host's network, made with the user's own rights.
    pub(crate) fn host_socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        if self.home.is_some() {
            return machine_socket(spec);
        }
        self.ask_for(&Question::Socket { spec })
    }

    /// The supervisor is about to leave for a user namespace, from where it sees nothing by itself.
    pub(crate) fn leave(&mut self) {
        self.home = None;
        self.processes.clear();
    }

    /// Who and where a thread is; its ancestors too, and marks of nested views, if `views` names us.
    pub(crate) fn inspect(&mut self, tid: i32, views: Option<u32>) -> Result<Inspection, Errno> {
        if let Some(home) = &self.home {
            return look::inspect(tid, views, home);
        }
        match self.ask(&Question::Inspect { tid, views })? {
            Reading::Inspection(inspection) => Ok(inspection),
            _ => Err(Errno::EIO),
        }
    }

    /// Remembers a socket file that must not outlive the supervisor.
    pub(crate) fn keep(&mut self, path: &Path) -> Result<(), Errno> {
        let file =
            SocketFile::at(path).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        self.ask(&Question::Keep { file }).map(drop)
    }

    /// Forgets such a file.
    pub(crate) fn forget(&mut self, path: &Path) -> Result<(), Errno> {
        self.ask(&Question::Forget { path: path.to_owned() }).map(drop)
    }

    /// Which of the nested views, given with the process each was made for, still have processes.
    pub(crate) fn living(&mut self, roots: Vec<(u64, i32)>) -> Result<Vec<u64>, Errno> {
        let supervisor = std::process::id();
        if self.home.is_some() {
            return Ok(look::living(supervisor, &roots));
        }
        match self.ask(&Question::Living { supervisor, roots })? {
            Reading::Living(views) => Ok(views),
            _ => Err(Errno::EIO),
        }
    }

    /// One thread, as a handler's target.
    pub(crate) fn target(&mut self, tid: i32, views: Option<u32>, now: Instant) -> Seen<'_> {
        Seen { eye: self, tid, views, now }
    }

    /// The pidfd of a thread, readable when it has ended.
    pub(crate) fn process(&mut self, tid: i32, now: Instant) -> Result<Rc<OwnedFd>, Errno> {
        if self.home.is_none() {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(known) = self.processes.get(&tid)
            && known.found.is_none_or(|found| now.duration_since(found) < BELIEF)
        {
            return Ok(known.pidfd.clone());
        }
        let (pidfd, exact) = look::open_thread(tid)?;
        if self.processes.len() >= MAX_PROCESSES {
            self.processes.clear();
        }
        let pidfd = Rc::new(pidfd);
        self.processes.insert(tid, Process { pidfd: pidfd.clone(), found: (!exact).then_some(now) });
        Ok(pidfd)
    }

    /// Whether the kernel lets us look at a program at all: EPERM if not (Yama, ptrace(2)).
    pub(crate) fn check(&mut self, pid: i32) -> Result<(), Errno> {
        let process = self.process(pid, Instant::now())?;
        match look::duplicate(process.as_fd(), 0) {
            // Allowed to look, and nothing there.
            Ok(_) | Err(Errno::EBADF) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// A thread has ended.
    pub(crate) fn end_thread(&mut self, tid: i32) {
        self.processes.remove(&tid);
    }

    fn duplicate(&mut self, tid: i32, fd: i32, now: Instant) -> Result<OwnedFd, Errno> {
        let process = self.process(tid, now)?;
        match look::duplicate(process.as_fd(), fd) {
            // The id is another thread's by now.
            Err(Errno::ESRCH) => {
                self.processes.remove(&tid);
                let process = self.process(tid, now)?;
                look::duplicate(process.as_fd(), fd)
            }
            other => other,
        }
    }
}

impl AsFd for Eye {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A thread seen through the eye.
pub(crate) struct Seen<'a> {
    eye: &'a mut Eye,
    tid: i32,
    views: Option<u32>,
    now: Instant,
}

impl Target for Seen<'_> {
    fn inspect(&mut self) -> Result<Inspection, Errno> {
        self.eye.inspect(self.tid, self.views)
    }

    fn gather(&mut self, ranges: &[(u64, usize)]) -> Result<Vec<u8>, Errno> {
        if self.eye.home.is_some() {
            return look::gather(self.tid, ranges);
        }
        let mut all = Vec::new();
        for &(address, length) in ranges.iter().filter(|(_, length)| *length > 0) {
            match self.eye.ask(&Question::Read { tid: self.tid, address, length })? {
                Reading::Bytes(bytes) if all.is_empty() => all = bytes,
                Reading::Bytes(bytes) => all.extend(bytes),
                _ => return Err(Errno::EIO),
            }
        }
        Ok(all)
    }

    fn read_partly(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        if self.eye.home.is_some() {
            look::read_partly(self.tid, address, length)
        } else {
            self.read(address, length)
        }
    }

    fn scatter(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), Errno> {
        if self.eye.home.is_some() {
            return look::scatter(self.tid, pieces);
        }
        let pieces = pieces.iter().filter(|(_, bytes)| !bytes.is_empty());
        for (address, bytes) in pieces {
            let question = Question::Write { tid: self.tid, address: *address, bytes: bytes.to_vec() };
            self.eye.ask(&question)?;
        }
        Ok(())
    }

    fn duplicate(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
        let file = self.eye.duplicate(self.tid, fd, self.now)?;
        if look::domain(file.as_fd())? == libc::AF_UNIX { Ok(file) } else { Err(Errno::EPROTOTYPE) }
    }

    fn take(&mut self, fd: i32) -> Result<OwnedFd, Errno> {
        if self.eye.home.is_some() {
            return self.eye.duplicate(self.tid, fd, self.now);
        }
        self.eye.ask_for(&Question::Take { tid: self.tid, fd })
    }

    fn copies(&mut self, fd: i32) -> Result<Copies, Errno> {
        if self.eye.home.is_some() {
            return copies::copies(self.tid, fd);
        }
        match self.eye.ask(&Question::Copies { tid: self.tid, fd })? {
            Reading::Copies(copies) => Ok(copies),
            _ => Err(Errno::EIO),
        }
    }

    fn host_socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        self.eye.host_socket(spec)
    }

    fn domain(&mut self, fd: i32) -> Result<i32, Errno> {
        if self.eye.home.is_some() {
            return look::domain(self.eye.duplicate(self.tid, fd, self.now)?.as_fd());
        }
        match self.eye.ask(&Question::Domain { tid: self.tid, fd })? {
            Reading::Domain(domain) => Ok(domain),
            _ => Err(Errno::EIO),
        }
    }

    fn has_room(&mut self) -> bool {
        let Ok(limit) = descriptor_limit(self.tid) else { return true };
        let last = i32::try_from(limit.saturating_sub(1)).unwrap_or(i32::MAX);
        // Where the last number is free, nobody need count.
        let used = self.eye.duplicate(self.tid, last, self.now).map(drop);
        used == Err(Errno::EBADF) || look::descriptors(self.tid).is_none_or(|count| count < limit)
    }

    fn is_host_resolver(&mut self, path: &[u8]) -> Result<bool, Errno> {
        if self.eye.home.is_some() {
            return Ok(look::is_host_resolver(self.tid, path));
        }
        match self.eye.ask(&Question::HostResolver { tid: self.tid, path: path.to_vec() })? {
            Reading::Yes(yes) => Ok(yes),
            _ => Err(Errno::EIO),
        }
    }
}

/// Waits for a message, which is in the buffer then; an empty one is the end. The buffer's memory is touched only as far
/// as messages are long: an eye that keeps files is asked short questions.
fn receive(socket: &OwnedFd, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    buffer.clear();
    buffer.reserve(MAX_MESSAGE);
    loop {
        match rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.map(drop).map_err(|e| Errno::from_raw(e.raw_os_error())),
        }
    }
}

fn reading(answer: &[u8]) -> Result<Reading, Errno> {
    match postcard::from_bytes(answer) {
        Ok(Reading::Failed(errno)) => Err(Errno::from_raw(errno)),
        Ok(reading) => Ok(reading),
        Err(_) => Err(Errno::EIO),
    }
}

/// The eye itself: answers until the supervisor is gone, then clears up behind it.
pub(crate) fn watch(socket: &OwnedFd) {
    let mut kept = BTreeMap::new();
    let home = Home::read();
    let mut buffer = Vec::new();
    while receive(socket, &mut buffer).is_ok() && !buffer.is_empty() {
        let (reading, fd) = match postcard::from_bytes(&buffer) {
            Ok(question) => {
                answer_with(question, &home, &mut kept).unwrap_or_else(|e| (Reading::Failed(e as i32), None))
            }
            Err(_) => (Reading::Failed(Errno::EBADMSG as i32), None),
        };
        let Ok(bytes) = postcard::to_stdvec(&reading) else { break };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        if sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    kept.values().for_each(SocketFile::remove);
}

/// The answer, and the descriptor that goes with it.
fn answer_with(
    question: Question,
    home: &Home,
    kept: &mut BTreeMap<PathBuf, SocketFile>,
) -> Result<(Reading, Option<OwnedFd>), Errno> {
    match question {
        Question::Take { tid, fd } => {
            let (process, _) = look::open_thread(tid)?;
            Ok((Reading::Done, Some(look::duplicate(process.as_fd(), fd)?)))
        }
        Question::Socket { spec } => Ok((Reading::Done, Some(machine_socket(spec)?))),
        question => answer(question, home, kept).map(|reading| (reading, None)),
    }
}

fn answer(
    question: Question,
    home: &Home,
    kept: &mut BTreeMap<PathBuf, SocketFile>,
) -> Result<Reading, Errno> {
    Ok(match question {
        Question::Inspect { tid, views } => Reading::Inspection(look::inspect(tid, views, home)?),
        Question::Read { length, .. } if length > MAX_COPY => return Err(Errno::EINVAL),
        Question::Read { tid, address, length } => Reading::Bytes(look::gather(tid, &[(address, length)])?),
        Question::Write { tid, address, bytes } => {
            look::scatter(tid, &[(address, &bytes)])?;
            Reading::Done
        }
        Question::Domain { tid, fd } => {
            let (process, _) = look::open_thread(tid)?;
            Reading::Domain(look::domain(look::duplicate(process.as_fd(), fd)?.as_fd())?)
        }
        Question::HostResolver { tid, path } => Reading::Yes(look::is_host_resolver(tid, &path)),
        Question::Keep { file } => {
            kept.insert(file.path().to_owned(), file);
            Reading::Done
        }
        Question::Forget { path } => {
            kept.remove(&path);
            Reading::Done
        }
        Question::Living { supervisor, roots } => Reading::Living(look::living(supervisor, &roots)),
        Question::Copies { tid, fd } => Reading::Copies(copies::copies(tid, fd)?),
        Question::Take { .. } | Question::Socket { .. } => return Err(Errno::EINVAL),
    })
}
