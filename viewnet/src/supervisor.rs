//! The supervisor: answers the trapped calls of a view.
//!
//! # Theory of operation
//! One thread, one epoll set, one match over what woke it: a call to answer, the end of the eye, a stack's
//! path, the stack of somebody else that has gone, a control line of a nested `viewnet run`. A socket is
//! answered in four steps that may not be swapped: install our copy in the program's table, close our
//! copy, then let the program run; were it to run while we still hold the copy, its close() would not be
//! the last one. Any step may find that the call has gone (ENOENT: its thread was killed, or interrupted
//! before we took it); then there is nothing to do. A supervisor ends when the last process of the view
//! has gone and nobody else uses its stack; if it is killed, trapped calls fail (ENOSYS).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use msocket::line::{Line, LineError, Received, Refusal, Reply};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::geteuid;
use stacks::kernel::orphans::Unfinished;
use stacks::kernel::{KernelStack, SetUpError};
use stacks::none::NoStack;
use stacks::remote;
use stacks::serve::{Server, Serving, StackId, User, is_name};

use crate::answer::{Answer, Reply as Outcome, Stop};
use crate::eye::Eye;
use crate::handlers::{self, ARCH_I386, Abi, Call};
use crate::launch::{Plan, StackSpec};
use crate::maker::{become_maker, take_turn};
use crate::nested::{self, Nested};
use crate::runtime::Runtime;
use crate::sys::seccomp::{self, Notification};
use crate::trace;
use crate::views::{Known, OWN, Source, View, Views};

/// How often we look whether a nested view still has processes.
const NESTED_CHECK: Duration = Duration::from_millis(500);
/// How often we look whether a stack without programs is done.
const UNFINISHED_CHECK: Duration = Duration::from_millis(20);
/// How long data that nobody acknowledges keeps a stack: the kernel gives an orphan up after some 100 s
/// (tcp_orphan_retries, tcp(7)); half of that is patience enough for a peer in another view.
const SENDING_LIMIT: Duration = Duration::from_secs(60);
/// How long a peer that does not close its side keeps a stack that has delivered everything.
const WAITING_LIMIT: Duration = Duration::from_secs(1);
/// Most nested views: each is a namespace.
const MAX_VIEWS: usize = 256;
/// Most control lines at once; a nested command holds one for a moment.
const MAX_CONTROLS: usize = 64;
/// File mode of a run's stack: its user's own.
const PRIVATE: u32 = 0o600;

const LISTENER: u64 = 1;
const EYE: u64 = 2;
const SERVER: u64 = 3;
/// Control lines have the tokens from here on; memberships those above [`MEMBERS`].
const CONTROLS: u64 = 16;
const MEMBERS: u64 = 1 << 32;

/// A view's supervisor.
pub(crate) struct Supervisor {
    runtime: Runtime,
    epoll: Epoll,
    eye: Eye,
    server: Server,
    views: Views,
    owner: u32,
    /// Whether this process is in the user namespace of the stacks.
    maker: bool,
    controls: HashMap<u64, (Line, i32)>,
    next_control: u64,
    next_nested_check: Option<Instant>,
    counters: BTreeMap<&'static str, u64>,
    trace: Option<File>,
}

impl Supervisor {
    /// Makes the view that `plan` asks for.
    pub(crate) fn set_up(plan: &Plan, eye: Eye, trace: Option<OwnedFd>) -> Result<Self, SetUpError> {
        let internal = |e: Errno| Refusal::system("cannot set up the supervisor", e);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let server = Server::new().map_err(internal)?;
        let mut supervisor = Self {
            runtime: plan.runtime.clone(),
            epoll,
            eye,
            server,
            views: Views::default(),
            owner: geteuid().as_raw(),
            maker: false,
            controls: HashMap::new(),
            next_control: CONTROLS,
            next_nested_check: None,
            counters: BTreeMap::new(),
            trace: trace.map(File::from),
        };
        let source = supervisor.open(&plan.stack, &plan.name, plan.pid, MEMBERS + OWN)?;
        supervisor.views = Views::own(View { name: plan.name.clone(), source, root: None, ended: None });
        let watch = |fd: std::os::fd::BorrowedFd<'_>, token| {
            supervisor.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(internal)
        };
        watch(supervisor.eye.as_fd(), EYE)?;
        watch(supervisor.server.as_fd(), SERVER)?;
        Ok(supervisor)
    }

    /// Answers until nobody needs us.
    pub(crate) fn run(&mut self, listener: OwnedFd) -> nix::Result<()> {
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let mut listener = Some(listener);
        let mut ended = None;
        loop {
            let mut check = self.views.nested().then_some(NESTED_CHECK);
            if listener.is_none() && self.server.ids().all(|id| self.server.users(id) == 0) {
                let ids: Vec<StackId> = self.server.ids().collect();
                let since = *ended.get_or_insert_with(Instant::now);
                // The next view may have the name; what is left to do needs none.
                ids.iter().for_each(|id| self.server.retire(*id));
                if ids.into_iter().all(|id| self.is_done(id, since)) {
                    return Ok(());
                }
                check = Some(UNFINISHED_CHECK);
            }
            let mut events = [EpollEvent::empty(); 8];
            let timeout = check.and_then(|t| EpollTimeout::try_from(t).ok()).unwrap_or(EpollTimeout::NONE);
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER if event.events().contains(EpollFlags::EPOLLIN) => {
                        if let Some(listener) = &listener {
                            self.take_call(listener);
                        }
                    }
                    // Nobody has the filter any more.
                    LISTENER => listener = None,
                    EYE => return Err(Errno::EPIPE),
                    SERVER => self.serve()?,
                    token if token >= MEMBERS => self.lose(token - MEMBERS),
                    token => self.converse(token),
                }
            }
            self.clear_nested();
        }
    }

    /// Whether a stack whose programs ended at `since` owes nobody anything, or has waited long enough.
    fn is_done(&mut self, id: StackId, since: Instant) -> bool {
        let waited = since.elapsed();
        match self.server.stack_mut(id).map(|stack| stack.unfinished()) {
            Some(Unfinished::Sending) => waited > SENDING_LIMIT,
            Some(Unfinished::Waiting) => waited > WAITING_LIMIT,
            Some(Unfinished::Nothing) | None => true,
        }
    }

    fn take_call(&mut self, listener: &OwnedFd) {
        let Ok(call) = seccomp::receive(listener.as_fd()) else { return };
        let Some((abi, row)) =
            abi_of(call.arch).and_then(|abi| Some((abi, handlers::find(abi, call.nr.into())?)))
        else {
            // The filter and the table are one: this cannot be a call of ours.
            let _ = seccomp::answer(listener.as_fd(), call.id, Err(Errno::ENOSYS));
            return;
        };
        *self.counters.entry(row.name).or_default() += 1;
        let answer = self.decide(&call, abi, row);
        // A call whose memory we read may have been another thread's by then (seccomp_unotify(2)).
        if !seccomp::is_valid(listener.as_fd(), call.id) {
            return;
        }
        let line = self.trace.is_some().then(|| trace::line(row.name, abi, &call));
        let shown = carry_out(listener, call.id, answer);
        if let (Some(trace), Some(line)) = (&mut self.trace, line) {
            let _ = writeln!(trace, "[{}] {line} = {shown}", call.tid);
        }
    }

    fn decide(&mut self, call: &Notification, abi: Abi, row: &handlers::Row) -> Answer {
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
        let nested = self.views.nested().then(std::process::id);
        let mut known = Known {
            views: &mut self.views,
            server: &mut self.server,
            tid: call.tid,
            now: Instant::now(),
            owner: self.owner,
            open_control: &mut open_control,
        };
        let mut target = self.eye.target(call.tid, nested);
        (row.handler)(&mut Call { abi, args: call.args, target: &mut target, caller: &mut known })
    }

    fn serve(&mut self) -> nix::Result<()> {
        let counters = &self.counters;
        let shown = |_| counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        self.server.turn(&shown).map(drop)
    }

    /// The stack of a view that we joined has gone.
    fn lose(&mut self, id: u64) {
        if let Some((_, view)) = self.views.iter_mut().find(|(known, _)| **known == id) {
            if let Source::Joined(_, Some(member)) = &view.source {
                let _ = self.epoll.delete(member.as_fd());
            }
            view.source = Source::Gone;
        }
    }

    /// A stack as asked for, for the view whose membership has `token`.
    fn open(&mut self, stack: &StackSpec, name: &str, pid: i32, token: u64) -> Result<Source, SetUpError> {
        let user = User { view: name.into(), pid };
        match stack {
            StackSpec::At(path) if self.server.find(path).is_some() => {
                Ok(self.server.find(path).map_or(Source::Gone, Source::Shared))
            }
            StackSpec::None => Ok(Source::Joined(Box::new(NoStack), None)),
            StackSpec::New(config) => {
                let turn = take_turn(&self.runtime).map_err(|e| {
                    Refusal::system(format!("cannot lock {}", self.runtime.folder().display()), e)
                })?;
                if !self.maker {
                    become_maker(&self.runtime)?;
                    self.maker = true;
                }
                let stack = KernelStack::create(name, config, &self.runtime.switches())?;
                let path = self.runtime.stack(name);
                let serving = Serving {
                    name: name.into(),
                    path: path.clone(),
                    mode: PRIVATE,
                    kept: false,
                    own: Some(user),
                };
                let id = self.server.add(serving, stack)?;
                self.eye.keep(&path).map_err(|e| Refusal::system("cannot reach the eye", e))?;
                drop(turn);
                Ok(Source::Served(id))
            }
            StackSpec::At(path) => {
                let mut member = remote::join(path, &user)?;
                let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token);
                self.epoll
                    .add(member.remote.as_fd(), event)
                    .map_err(|e| Refusal::system("cannot watch the stack", e))?;
                match member.namespace.take().filter(|stack| self.enter(stack)) {
                    Some(stack) => Ok(Source::Joined(Box::new(stack), Some(member.remote))),
                    // Its server makes our sockets; it hangs up when it goes, and then so do they.
                    None => {
                        let _ = self.epoll.delete(member.remote.as_fd());
                        Ok(Source::Joined(Box::new(member.remote), None))
                    }
                }
            }
        }
    }

    /// Moves into a stack's namespaces, if they are ours to enter.
    fn enter(&mut self, stack: &KernelStack) -> bool {
        let namespace = stack.net_namespace();
        if !self.maker {
            let entered = namespace
                .user_namespace()
                .is_ok_and(|user| stacks::kernel::namespace::enter(user.as_fd()).is_ok());
            self.maker = entered;
        }
        namespace.enter().is_ok()
    }

    /// A control line of a nested command has something to say.
    fn converse(&mut self, token: u64) {
        let Some((mut line, tid)) = self.controls.remove(&token) else { return };
        let sent = match line.receive::<nested::Request>() {
            Ok(Received::Message(nested::Request::View { name, stack }, _)) => {
                match self.nest(tid, &name, &stack) {
                    Ok(view) => {
                        let marker = format!("{}.{view}", std::process::id());
                        line.send(&Reply::Ok(Nested { marker }), &[])
                    }
                    Err(error) => line.send(&Reply::<()>::Error(error.into()), &[]),
                }
            }
            Ok(Received::Pending) => Ok(()),
            Ok(Received::Closed) => Err(LineError::Closed),
            Err(LineError::Malformed(why)) => {
                line.send(&Reply::<()>::Error(Refusal::new("cannot read the request", why)), &[])
            }
            Err(error) => Err(error),
        };
        if sent.is_ok() && !line.wants_write() {
            self.controls.insert(token, (line, tid));
        }
    }

    fn nest(&mut self, tid: i32, name: &str, stack: &StackSpec) -> Result<u64, SetUpError> {
        let refused = |why| Refusal::new("cannot make a view", why).errno(libc::EPERM);
        let seen = self.eye.inspect(tid, Some(std::process::id())).map_err(|e| refused(e.desc()))?;
        // What follows is done with our rights: whoever gave them up shall not have them back.
        if !seen.home_user || seen.euid != self.owner {
            return Err(refused("the caller is not the user who runs the outer view")
                .hint("run viewnet as that user")
                .into());
        }
        if !seen.home_network {
            return Err(refused("the caller has left the outer view's network for one of its own")
                .hint("run viewnet before it does so")
                .into());
        }
        if self.views.count() > MAX_VIEWS {
            return Err(refused("there are too many views inside this one").hint("end some of them").into());
        }
        if !is_name(name) {
            return Err(refused("its name is none").hint("use 1 to 32 letters, digits and `._-`").into());
        }
        if let StackSpec::New(config) = stack {
            config.clone().checked().map_err(|e| e.refusal("cannot use the configuration"))?;
        }
        let Some(root) = seen.ancestors.first().copied() else {
            return Err(Refusal::new("cannot make a view", "the caller is gone").into());
        };
        let id =
            self.views.nest(View { name: name.into(), source: Source::Gone, root: Some(root), ended: None });
        match self.open(stack, name, root, MEMBERS + id) {
            Ok(source) => {
                self.set_source(id, source);
                Ok(id)
            }
            Err(error) => {
                self.views.remove(id);
                Err(error)
            }
        }
    }

    fn set_source(&mut self, id: u64, source: Source) {
        if let Some((_, view)) = self.views.iter_mut().find(|(known, _)| **known == id) {
            view.source = source;
        }
    }

    /// As [`Self::is_done`], for a nested view without processes; its clock starts at the first look.
    fn is_view_done(&mut self, id: u64) -> bool {
        let Some((_, view)) = self.views.iter_mut().find(|(known, _)| **known == id) else { return true };
        let since = *view.ended.get_or_insert_with(Instant::now);
        match view.source {
            Source::Served(stack) if self.server.users(stack) > 0 => {
                view.ended = None;
                false
            }
            Source::Served(stack) => self.is_done(stack, since),
            _ => true,
        }
    }

    /// Ends the nested views that have no processes left.
    fn clear_nested(&mut self) {
        let now = Instant::now();
        if !self.views.nested() || self.next_nested_check.is_some_and(|at| now < at) {
            return;
        }
        self.next_nested_check = Some(now + NESTED_CHECK);
        let roots = self.views.roots();
        let Ok(living) = self.eye.living(roots.clone()) else { return };
        for (id, _) in roots.into_iter().filter(|(id, _)| !living.contains(id)) {
            if !self.is_view_done(id) {
                continue;
            }
            if let Some(View { source: Source::Served(stack), name, .. }) = self.views.remove(id) {
                self.server.remove(stack);
                let _ = self.eye.forget(&self.runtime.stack(&name));
            }
        }
    }
}

fn abi_of(arch: u32) -> Option<Abi> {
    match arch {
        ARCH_I386 => Some(Abi::I386),
        _ => Some(Abi::Native),
    }
}

/// Does what a handler decided and says it as strace would.
fn carry_out(listener: &OwnedFd, id: u64, answer: Answer) -> String {
    let listener = listener.as_fd();
    let fail = |errno: Errno| {
        let _ = seccomp::answer(listener, id, Err(errno));
        format!("-1 {errno:?} ({})", errno.desc())
    };
    match answer {
        Ok(Outcome::Value(value)) => {
            let _ = seccomp::answer(listener, id, Ok(value));
            value.to_string()
        }
        Ok(Outcome::Descriptor { fd, cloexec }) => match seccomp::add_fd(listener, id, fd.as_fd(), cloexec) {
            Ok(number) => {
                drop(fd);
                let _ = seccomp::answer(listener, id, Ok(number.into()));
                number.to_string()
            }
            Err(errno) => fail(errno),
        },
        Err(Stop::Fail(errno)) => fail(errno),
        Err(Stop::Native) => {
            let _ = seccomp::let_run(listener, id);
            "native".into()
        }
    }
}
