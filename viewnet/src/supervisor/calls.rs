//! Taking a call and answering it: by a handler, by a stack in a library, now or when that has its answer.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use stacks::smol::call::{Caller as Who, SocketHost};

use super::msocket::is_msocket;
use super::{CONTROLS, MAX_CONTROLS, MEMBERS, Smol, Supervisor, THREADS};
use crate::answer::{Answer, Reply, Stop};
use crate::ask::Ask;
use crate::desk::{Calls, Desk, Door, Made, Mapped, Put, Shown};
use crate::handlers::smol::unpack;
use crate::handlers::{self, ARCH_I386, Abi, Call, Caller, Row};
use crate::mapping::{self, Thread};
use crate::nested;
use crate::steer::Steer;
use crate::sys::seccomp::{self, Notification};
use crate::target::Target;
use crate::trace;
use crate::views::Known;

/// What happens to a call.
enum Decision {
    /// This.
    Answer(Answer),
    /// It has been answered, or waits.
    Put(Put),
}

/// The listener of a view's filter, and the threads that were to map something and are late.
struct Listener<'a>(BorrowedFd<'a>, &'a RefCell<Vec<Thread>>);

impl Door for Listener<'_> {
    fn is_valid(&self, id: u64) -> bool {
        seccomp::is_valid(self.0, id)
    }

    fn answer(&self, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
        seccomp::answer(self.0, id, result)
    }

    fn install(&self, id: u64, fd: BorrowedFd<'_>, cloexec: bool) -> Result<i32, Errno> {
        seccomp::add_fd_and_answer(self.0, id, fd, cloexec)
    }

    fn replace(&self, call: &Notification, number: i32, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        seccomp::replace_fd(self.0, call.id, fd, number, is_cloexec(call.tid, number))
    }

    fn put_at(&self, id: u64, number: i32, fd: BorrowedFd<'_>, cloexec: bool) -> Result<(), Errno> {
        seccomp::replace_fd(self.0, id, fd, number, cloexec)
    }

    fn let_run(&self, id: u64) -> Result<(), Errno> {
        seccomp::let_run(self.0, id)
    }

    fn map(&self, call: &Notification, fd: BorrowedFd<'_>) -> Mapped {
        mapping::map(self.0, call, fd, &mut self.1.borrow_mut())
    }
}

/// Whether a program's descriptor is close-on-exec, proc_pid_fdinfo(5).
fn is_cloexec(tid: i32, fd: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

impl Supervisor {
    /// Takes a call and answers it, unless it has to wait.
    pub(super) fn take_call(&mut self, listener: &OwnedFd) {
        let Ok(call) = seccomp::receive(listener.as_fd()) else { return };
        if self.smol.is_some() && self.resume(listener, &call) {
            return;
        }
        let abi = if call.arch == ARCH_I386 { Abi::I386 } else { Abi::Native };
        let Some(row) = handlers::find(&self.table, abi, call.nr.into()) else {
            // The filter and the table are one: this cannot be a call of ours.
            let _ = seccomp::answer(listener.as_fd(), call.id, Err(Errno::ENOSYS));
            return;
        };
        *self.counters.entry(row.name).or_default() += 1;
        let line = self.trace.is_some().then(|| trace::line(row.name, abi, &call));
        let answer = match self.decide(listener, &call, abi, row, line.clone()) {
            Decision::Answer(answer) => answer,
            Decision::Put(Put::Waits) => return self.watch_thread(call.tid),
            Decision::Put(Put::Over(shown, line)) => return self.show(call.tid, line.as_deref(), shown),
            Decision::Put(Put::NotOurs(_)) => Err(Stop::Fail(Errno::EIO)),
        };
        // A call whose memory we read may have been another thread's by then (seccomp_unotify(2)).
        if seccomp::is_valid(listener.as_fd(), call.id) {
            let shown = carry_out(listener.as_fd(), call.id, answer, self.smol.is_some());
            self.show(call.tid, line.as_deref(), shown);
        }
    }

    fn show(&mut self, tid: i32, line: Option<&str>, shown: Shown) {
        if let (Some(trace), Some(line)) = (&mut self.trace, line) {
            let _ = writeln!(trace, "[{tid}] {line} = {shown}");
        }
    }

    /// What the thread did before has ended with this call. True if it has its answer with that.
    fn resume(&mut self, listener: &OwnedFd, call: &Notification) -> bool {
        if self.smol.as_ref().is_some_and(|smol| smol.calls.waits(call.tid)) {
            // It may be that very call made anew, and have its answer by now.
            self.hand_out(listener);
        }
        let Some(smol) = &mut self.smol else { return false };
        if smol.calls.waits(call.tid) {
            let line = smol.calls.interrupt(&mut smol.host, call.tid);
            self.show(call.tid, line.as_deref(), Shown::Gone);
        }
        let Some(smol) = &mut self.smol else { return false };
        let kept = smol.calls.replay(Instant::now(), call);
        kept.is_some_and(|result| seccomp::answer(listener.as_fd(), call.id, result).is_ok())
    }

    fn decide(
        &mut self,
        listener: &OwnedFd,
        call: &Notification,
        abi: Abi,
        row: &'static Row,
        line: Option<String>,
    ) -> Decision {
        if row.name == "socket" && is_msocket(call) {
            let mut args = call.args;
            if abi == Abi::I386 {
                args.iter_mut().for_each(|arg| *arg &= 0xffff_ffff);
            }
            return Decision::Answer(self.msocket(call.tid, args));
        }
        let (controls, epoll, next) = (&mut self.controls, &self.epoll, &mut self.next_control);
        let mut open_control = |tid| {
            if controls.len() >= MAX_CONTROLS {
                return Err(Errno::ENFILE);
            }
            let (line, theirs) = nested::pair()?;
            *next = (*next + 1).max(CONTROLS) % MEMBERS;
            epoll.add(&line, EpollEvent::new(EpollFlags::EPOLLIN, *next))?;
            controls.insert(*next, (line, tid));
            Ok(theirs)
        };
        let (host, calls) = match &mut self.smol {
            Some(Smol { host, calls, .. }) => (Some(host), Some(calls)),
            None => (None, None),
        };
        let nested = self.views.nested().then(std::process::id);
        let now = Instant::now();
        let mut known = Known {
            views: &mut self.views,
            server: &mut self.server,
            smol: host,
            tid: call.tid,
            now,
            owner: self.owner,
            open_control: &mut open_control,
        };
        let mut target = self.eye.target(call.tid, nested, now);
        match calls {
            None => {
                let (args, door) = (call.args, Listener(listener.as_fd(), &self.late));
                if let Err(errno) = steer(row, args, abi, call, &door, &mut known, &mut target) {
                    return Decision::Answer(Err(Stop::Fail(errno)));
                }
                let mut call = Call { abi, args, target: &mut target, caller: &mut known };
                Decision::Answer((row.handler)(&mut call))
            }
            Some(calls) => {
                let door = &Listener(listener.as_fd(), &self.late);
                let taken = Taken { door, call, abi, line };
                taken.decide(row, calls, &mut known, &mut target)
            }
        }
    }

    /// The host of stacks has its turn, if it wants one, and its answers go out.
    pub(super) fn turn(&mut self, wanted: bool, listener: Option<&OwnedFd>) {
        self.late.borrow_mut().retain_mut(|thread| !thread.retry());
        let Some(smol) = &mut self.smol else { return };
        let now = Instant::now();
        if wanted || smol.host.poll_timeout().is_some_and(|at| at <= now) {
            smol.host.turn(&self.counters);
        }
        match listener {
            Some(listener) => self.hand_out(listener),
            // Nobody is left to be answered.
            None => while smol.host.poll_done().is_some() {},
        }
    }

    /// Hands out the answers that are ready.
    fn hand_out(&mut self, listener: &OwnedFd) {
        let nested = self.views.nested().then(std::process::id);
        while let Some(Smol { host, calls, .. }) = &mut self.smol
            && let Some((ticket, answered)) = host.poll_done()
        {
            let tid = calls.thread_of(ticket).unwrap_or_default();
            let (now, door) = (Instant::now(), Listener(listener.as_fd(), &self.late));
            let mut target = self.eye.target(tid, nested, now);
            let mut desk = Desk { stack: host, door: &door, target: &mut target, now };
            let put = calls.answered(&mut desk, ticket, answered);
            if let Put::Over(shown, line) = put {
                self.show(tid, line.as_deref(), shown);
            }
        }
    }

    /// A thread waits: its end will be told.
    fn watch_thread(&mut self, tid: i32) {
        let Some(smol) = &mut self.smol else { return };
        if smol.watched.contains_key(&tid) {
            return;
        }
        // Without a descriptor for it, the thread is found to have ended when its answer is ready.
        let Ok(process) = self.eye.process(tid, Instant::now()) else { return };
        if self.epoll.add(&*process, EpollEvent::new(EpollFlags::EPOLLIN, THREADS + tid as u64)).is_ok() {
            smol.watched.insert(tid, process);
        }
    }

    /// A thread that has waited has ended.
    pub(super) fn end_thread(&mut self, tid: i32) {
        let Some(smol) = &mut self.smol else { return };
        if let Some(process) = smol.watched.remove(&tid) {
            let _ = self.epoll.delete(&*process);
        }
        self.eye.end_thread(tid);
        let line = smol.calls.interrupt(&mut smol.host, tid);
        self.show(tid, line.as_deref(), Shown::Gone);
    }
}

/// Brings the socket of a call to the stack that the rules of the view choose.
fn steer(
    row: &Row,
    args: [u64; 6],
    abi: Abi,
    call: &Notification,
    door: &dyn Door,
    known: &mut Known<'_>,
    target: &mut dyn Target,
) -> Result<(), Errno> {
    if !known.views.any_steers() {
        return Ok(());
    }
    let course = handlers::steer::course(row.name, &mut Call { abi, args, target, caller: known });
    // What we read may have been another thread's by then (seccomp_unotify(2)).
    match course.filter(|_| door.is_valid(call.id)) {
        Some(course) => Steer { known, target, door, call }.steer(&course),
        None => Ok(()),
    }
}

/// A call in a view whose stack is a library.
struct Taken<'a> {
    door: &'a dyn Door,
    call: &'a Notification,
    abi: Abi,
    line: Option<String>,
}

impl Taken<'_> {
    /// Asks the stack, if the call is on one of its sockets; else the handler.
    fn decide(
        mut self,
        row: &'static Row,
        calls: &mut Calls,
        known: &mut Known<'_>,
        target: &mut dyn Target,
    ) -> Decision {
        let mut call = Call { abi: self.abi, args: self.call.args, target, caller: known };
        let row = match row.name {
            "socketcall" => match unpack(&mut call) {
                Ok(real) => real.unwrap_or(row),
                Err(stop) => return Decision::Answer(Err(stop)),
            },
            _ => row,
        };
        let args = call.args;
        let fd = args[row.descriptor()] as i32;
        if let Err(errno) = steer(row, args, self.abi, self.call, self.door, known, target) {
            return Decision::Answer(Err(Stop::Fail(errno)));
        }
        let mut call = Call { abi: self.abi, args, target, caller: known };
        let file = match row.asks {
            Some(marshal) => call.target.duplicate(fd).map(|file| (marshal, file)),
            None => Err(Errno::ENOSYS),
        };
        // To let the kernel run it would be to answer as another kind of socket.
        if let Err(Errno::EMFILE | Errno::ENFILE) = file {
            return Decision::Answer(Err(Stop::Fail(Errno::ENOBUFS)));
        }
        // What is no socket of ours, or not to be seen, is the kernel's affair.
        if let Ok((marshal, file)) = file {
            let ask = match marshal(&mut call) {
                Ok(ask) => ask,
                Err(stop) => return Decision::Answer(Err(stop)),
            };
            if let Some(line) = &mut self.line {
                *line = trace::question(row.name, self.abi, fd, &ask.call)
                    .unwrap_or_else(|| std::mem::take(line));
            }
            match self.put(calls, known, target, Some(fd), file, ask) {
                Put::NotOurs(line) => self.line = line,
                put => return Decision::Put(put),
            }
        }
        let mut call = Call { abi: self.abi, args, target, caller: known };
        match (row.handler)(&mut call) {
            Ok(Reply::Ask(mut ask)) => match ask.socket.take() {
                Some(file) => Decision::Put(self.put(calls, known, target, None, file, *ask)),
                None => Decision::Answer(Err(Stop::Fail(Errno::EIO))),
            },
            answer => Decision::Answer(answer),
        }
    }

    fn put(
        &mut self,
        calls: &mut Calls,
        known: &mut Known<'_>,
        target: &mut dyn Target,
        fd: Option<i32>,
        file: OwnedFd,
        ask: Ask,
    ) -> Put {
        let line = self.line.take();
        // What we read may have been another thread's by then (seccomp_unotify(2)).
        if !self.door.is_valid(self.call.id) {
            return Put::Over(Shown::Gone, line);
        }
        let (who, now) = (known.identity(target), known.now);
        match (who, known.smol.as_deref_mut()) {
            (Ok(who), Some(host)) => {
                let who = Who { fd: fd.unwrap_or(-1), ..who };
                let mut desk = Desk { stack: host, door: self.door, target, now };
                let made = Made { call: *self.call, who, fd, line };
                calls.put(&mut desk, made, file, ask)
            }
            (who, _) => {
                let errno = who.err().unwrap_or(Errno::EIO);
                let _ = self.door.answer(self.call.id, Err(errno));
                Put::Over(Shown::Fails(errno), line)
            }
        }
    }
}

/// Does what a handler decided.
fn carry_out(listener: BorrowedFd<'_>, id: u64, answer: Answer, at_once: bool) -> Shown {
    let fail = |errno: Errno| {
        let _ = seccomp::answer(listener, id, Err(errno));
        Shown::Fails(errno)
    };
    match answer {
        Ok(Reply::Value(value)) => {
            let _ = seccomp::answer(listener, id, Ok(value));
            Shown::Value(value)
        }
        // One step, as a signal between two would leave the program with a descriptor it does not know of.
        Ok(Reply::Descriptor { fd, cloexec }) if at_once => {
            match seccomp::add_fd_and_answer(listener, id, fd.as_fd(), cloexec) {
                Ok(number) => Shown::Value(number.into()),
                Err(errno) => fail(errno),
            }
        }
        Ok(Reply::Descriptor { fd, cloexec }) => match seccomp::add_fd(listener, id, fd.as_fd(), cloexec) {
            Ok(number) => {
                drop(fd);
                let _ = seccomp::answer(listener, id, Ok(number.into()));
                Shown::Value(number.into())
            }
            Err(errno) => fail(errno),
        },
        // A view without stacks in a library has nobody to ask.
        Ok(Reply::Ask(_)) => fail(Errno::EIO),
        Err(Stop::Fail(errno)) => fail(errno),
        Err(Stop::Native) => {
            let _ = seccomp::let_run(listener, id);
            Shown::Native
        }
    }
}
