//! The supervisor: answers the trapped calls of a view.
//!
//! # Theory of operation
//! One thread, one epoll set, one match over what woke it: a call to answer, the end of the eye, a stack's
//! path, the stack of somebody else that has gone, a control line of a nested `viewnet run`, the host of
//! stacks in a library, the end of a thread that waits for one. A socket of the kernel is answered in four steps that may not be swapped: install our copy in the program's table, close our
//! copy, then let the program run; were it to run while we still hold the copy, its close() would not be
//! the last one. Any step may find that the call has gone (ENOENT: its thread was killed, or interrupted
//! before we took it); then there is nothing to do. A supervisor ends when the last process of the view
//! has gone and nobody else uses its stack; if it is killed, trapped calls fail (ENOSYS).

mod calls;
mod msocket;
mod nesting;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use msocket_proto::line::{Line, Refusal};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::geteuid;
use stacks::config::StackConfig;
use stacks::kernel::orphans::Unfinished;
use stacks::kernel::{KernelStack, SetUpError};
use stacks::none::NoStack;
use stacks::remote;
use stacks::serve::{Backing, Server, Serving, StackId, User, timeout};
use stacks::stack::Kind;

use self::msocket::{STACKS, Stacks};
use crate::desk::Calls;
use crate::eye::Eye;
use crate::handlers::{self, Table};
use crate::launch::{Plan, Ruled, StackSpec};
use crate::maker::{become_maker, take_turn};
use crate::mapping::Thread;
use crate::runtime::Runtime;
use crate::smol::{Hosts, SmolId};
use crate::stand_in::Charge;
use crate::sys::seccomp;
use crate::views::{At, OWN, Source, View, Views};

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
const HOST: u64 = 4;
const CHARGE: u64 = 5;
const STAND_IN: u64 = 6;
/// Control lines have the tokens from here on; memberships those above [`MEMBERS`]; threads that wait, those
/// above [`THREADS`].
const CONTROLS: u64 = 16;
const MEMBERS: u64 = 1 << 32;
const THREADS: u64 = 1 << 48;

/// A view's supervisor.
pub(crate) struct Supervisor {
    runtime: Runtime,
    epoll: Epoll,
    eye: Eye,
    server: Server,
    views: Views,
    stacks: Stacks,
    owner: u32,
    /// Whether this process is in the user namespace of the stacks.
    maker: bool,
    controls: HashMap<u64, (Line, i32)>,
    next_control: u64,
    next_nested_check: Option<Instant>,
    counters: BTreeMap<&'static str, u64>,
    trace: Option<File>,
    /// The calls that the filter sends us.
    table: Table,
    /// In a view with a stack that is a library; then there are no kernel stacks that we are in.
    smol: Option<Smol>,
    /// Threads that were to map something and are not there yet.
    late: RefCell<Vec<Thread>>,
    /// The program, if it is our child.
    charge: Option<Charge>,
}

/// Stacks in a library, and the calls on their sockets.
struct Smol {
    host: Hosts,
    calls: Calls,
    /// The threads that have waited, to learn of their end.
    watched: HashMap<i32, Rc<OwnedFd>>,
}

impl Supervisor {
    /// Makes the view that `plan` asks for.
    pub(crate) fn set_up(
        plan: &Plan,
        eye: Eye,
        trace: Option<OwnedFd>,
        charge: Option<Charge>,
    ) -> Result<Self, SetUpError> {
        let internal = |e: Errno| Refusal::system("cannot set up the supervisor", e);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let server = Server::new().map_err(internal)?;
        let mut supervisor = Self {
            runtime: plan.runtime.clone(),
            epoll,
            eye,
            server,
            views: Views::default(),
            stacks: Stacks::default(),
            owner: geteuid().as_raw(),
            maker: false,
            controls: HashMap::new(),
            next_control: CONTROLS,
            next_nested_check: None,
            counters: BTreeMap::new(),
            trace: trace.map(File::from),
            table: handlers::table(wants_smol(plan), plan.ruled.rules.steer()),
            smol: None,
            late: RefCell::default(),
            charge,
        };
        if wants_smol(plan) || plan.ruled.rules.steer() {
            // Better said now than by each of the program's sockets.
            let what = "cannot look at the programs of a view on a smol stack or with rules on destinations";
            supervisor.eye.check(plan.pid).map_err(|e| {
                Refusal::new(what, e.desc()).hint(
                    "if `kernel.yama.ptrace_scope` is not 0, set it so, or use a kernel stack without such rules: \
                     `viewnet doctor`",
                )
            })?;
        }
        if wants_smol(plan) {
            let host = Hosts::new().map_err(internal)?;
            supervisor
                .epoll
                .add(host.watched(), EpollEvent::new(EpollFlags::EPOLLIN, HOST))
                .map_err(internal)?;
            let (calls, watched) = (Calls::default(), HashMap::new());
            supervisor.smol = Some(Smol { host, calls, watched });
        }
        let mut view = View::new(&plan.name, Source::Gone);
        supervisor.fill(&mut view, OWN, &plan.stack, &plan.ruled, plan.pid)?;
        supervisor.views = Views::own(view);
        let watch = |fd: std::os::fd::BorrowedFd<'_>, token| {
            supervisor.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(internal)
        };
        watch(supervisor.eye.as_fd(), EYE)?;
        watch(supervisor.server.as_fd(), SERVER)?;
        if let Some(charge) = &supervisor.charge {
            watch(charge.happened(), CHARGE)?;
            watch(charge.stand_in(), STAND_IN)?;
        }
        Ok(supervisor)
    }

    /// Whether its stacks are libraries: the program's filter is made from that table.
    pub(crate) fn is_smol(&self) -> bool {
        self.smol.is_some()
    }

    /// Answers until nobody needs us.
    pub(crate) fn run(&mut self, listener: OwnedFd) -> nix::Result<()> {
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        seccomp::share_cpu(listener.as_fd());
        let mut listener = Some(listener);
        let mut ended = None;
        loop {
            let mut check = self.views.nested().then_some(NESTED_CHECK);
            // Nobody has the filter any more, so the program is at its end.
            if let (None, Some(charge)) = (&listener, &mut self.charge) {
                charge.finish();
            }
            if listener.is_none() && self.users() == 0 {
                if self.wind_up(*ended.get_or_insert_with(Instant::now)) {
                    return Ok(());
                }
                check = Some(UNFINISHED_CHECK);
            }
            let mut events = [EpollEvent::empty(); 8];
            let count = match self.epoll.wait(&mut events, self.patience(check)) {
                Err(Errno::EINTR) => 0,
                other => other?,
            };
            let mut turn = false;
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
                    HOST => turn = true,
                    CHARGE => {
                        self.charge.as_mut().map(Charge::turn);
                    }
                    STAND_IN => self.abandon(),
                    token if token >= THREADS => self.end_thread((token - THREADS) as i32),
                    token if token >= MEMBERS => self.lose(token - MEMBERS),
                    token => self.converse(token),
                }
            }
            self.turn(turn, listener.as_ref());
            self.clear_nested();
        }
    }

    /// The stand-in has gone, because the program has ended or because it was killed.
    fn abandon(&mut self) {
        if let Some(mut charge) = self.charge.take() {
            charge.turn();
            charge.abandon();
            let _ = self.epoll.delete(charge.happened());
            let _ = self.epoll.delete(charge.stand_in());
        }
    }

    /// How many other views use the stacks of this one.
    fn users(&self) -> usize {
        let kernel: usize = self.server.ids().map(|id| self.server.users(id)).sum();
        let smol = self
            .smol
            .iter()
            .flat_map(|smol| smol.host.own().into_iter().map(|id| smol.host.users(SmolId::Own(id))));
        kernel + smol.sum::<usize>()
    }

    /// How long nothing needs to be done: until `check`, or until the host of stacks wants its turn.
    fn patience(&self, check: Option<Duration>) -> EpollTimeout {
        let turn = self.smol.as_ref().and_then(|smol| smol.host.poll_timeout());
        let turn = turn.map(|at| at.saturating_duration_since(Instant::now()));
        let late = (!self.late.borrow().is_empty()).then_some(UNFINISHED_CHECK);
        timeout([check, turn, late].into_iter().flatten().min())
    }

    /// The programs ended at `since`: whether the stacks owe nobody anything any more.
    fn wind_up(&mut self, since: Instant) -> bool {
        let ids: Vec<StackId> = self.server.ids().collect();
        // The next view may have the name; what is left to do needs none.
        ids.iter().for_each(|id| self.server.retire(*id));
        let mut smol: Vec<SmolId> = Vec::new();
        if let Some(Smol { host, .. }) = &mut self.smol {
            host.retire();
            host.abandon();
            smol.extend(host.own().into_iter().map(SmolId::Own));
        }
        ids.into_iter().all(|id| self.is_done(id, since))
            && smol.into_iter().all(|id| self.is_smol_done(id, since))
    }

    /// Whether a stack whose programs ended at `since` owes nobody anything, or has waited long enough.
    fn is_done(&mut self, id: StackId, since: Instant) -> bool {
        let unfinished = self.server.kernel(id).map(|stack| stack.unfinished());
        is_over(unfinished.unwrap_or(Unfinished::Nothing), since)
    }

    /// The same for a stack in a library.
    fn is_smol_done(&mut self, id: SmolId, since: Instant) -> bool {
        let unfinished = self.smol.as_mut().map(|smol| smol.host.unfinished(id));
        is_over(unfinished.unwrap_or(Unfinished::Nothing), since)
    }

    fn serve(&mut self) -> nix::Result<()> {
        let counters = &self.counters;
        let shown = |_| counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        self.server.turn(&shown).map(drop)
    }

    /// A stack of a view that we joined has gone, or one that was joined for msocket().
    fn lose(&mut self, token: u64) {
        let at = if token > STACKS { At::joined(token) } else { At::of_number(token) };
        if let Some(source) = self.views.source(at) {
            if let Source::Joined(_, Some(member)) = &*source {
                let _ = self.epoll.delete(member.as_fd());
            }
            *source = Source::Gone;
        }
    }

    /// Opens the stacks of a view and gives them to it, with its rules.
    fn fill(
        &mut self,
        view: &mut View,
        id: u64,
        stack: &StackSpec,
        ruled: &Ruled,
        pid: i32,
    ) -> Result<(), SetUpError> {
        let user = User { view: view.name.clone(), pid, rules: ruled.rules.texts().to_vec() };
        view.source = self.open(stack, &user, MEMBERS + At::own(id).number())?;
        for (place, other) in ruled.stacks.iter().enumerate() {
            view.stacks.push(self.open(other, &user, MEMBERS + At::named(id, place).number())?);
        }
        view.rules = ruled.rules.clone();
        Ok(())
    }

    /// A stack as asked for, for the view whose membership has `token`.
    fn open(&mut self, stack: &StackSpec, user: &User, token: u64) -> Result<Source, SetUpError> {
        let cannot = |what: &str, why: &str| Refusal::new(format!("cannot make a {what} stack"), why);
        match stack {
            StackSpec::At(path) => self.join(path, user, token),
            StackSpec::None => Ok(Source::Joined(Box::new(NoStack), None)),
            StackSpec::Host => Ok(Source::Host),
            StackSpec::Outer => Ok(Source::Outer),
            StackSpec::New(config) | StackSpec::Smol(config) if self.smol.is_some() => {
                self.make_smol(config, user)
            }
            // The filter of kernel views sends us too few calls, and a filter can only be added to.
            StackSpec::Smol(_) => Err(cannot("smol", "this is inside a view on a kernel stack")
                .hint("run it outside of the view, or start the outer view with --stack smol")
                .into()),
            // We would have to leave for its user namespace, and our own sockets' names stay behind.
            StackSpec::Kernel(_) if self.smol.is_some() => {
                Err(cannot("kernel", "a view with a smol stack can make none")
                    .hint("make it outside with `viewnet stack up`, and use it with --stack NAME")
                    .into())
            }
            StackSpec::New(config) | StackSpec::Kernel(config) => self.make_kernel(config, user),
        }
    }

    fn make_smol(&mut self, config: &StackConfig, user: &User) -> Result<Source, SetUpError> {
        let path = self.runtime.stack(&user.view);
        let Some(smol) = &mut self.smol else { return Ok(Source::Gone) };
        let stack = smol.host.create(serving(&path, user), config, &self.runtime.switches())?;
        self.eye.keep(&path).map_err(|e| Refusal::system("cannot reach the eye", e))?;
        Ok(Source::Smol { stack, shared: false })
    }

    fn make_kernel(&mut self, config: &StackConfig, user: &User) -> Result<Source, SetUpError> {
        let name = &user.view;
        let turn = take_turn(&self.runtime)
            .map_err(|e| Refusal::system(format!("cannot lock {}", self.runtime.folder().display()), e))?;
        if !self.maker {
            self.eye.leave();
            become_maker(&self.runtime)?;
            self.maker = true;
        }
        let stack = KernelStack::create(name, config, &self.runtime.switches())?;
        let path = self.runtime.stack(name);
        let id = self.server.add(serving(&path, user), Backing::Kernel(stack))?;
        self.eye.keep(&path).map_err(|e| Refusal::system("cannot reach the eye", e))?;
        drop(turn);
        Ok(Source::Served(id))
    }

    fn join(&mut self, path: &Path, user: &User, token: u64) -> Result<Source, SetUpError> {
        if let Some(stack) = self.server.find(path) {
            return Ok(Source::Shared(stack));
        }
        if let Some(stack) = self.smol.as_ref().and_then(|smol| smol.host.find(path)) {
            return Ok(Source::Smol { stack, shared: true });
        }
        let mut member = remote::join(path, user)?;
        if let Some(relay) = member.relay.take() {
            let Some(smol) = &mut self.smol else {
                return Err(Refusal::new("cannot use the stack", "this is inside a view on a kernel stack")
                    .hint("run it outside of the view, or start the outer view with --stack smol")
                    .into());
            };
            let stack = smol.host.join(relay, member.remote);
            let stack = stack.map_err(|e| Refusal::system("cannot watch the stack", e))?;
            return Ok(Source::Smol { stack, shared: false });
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token);
        self.epoll
            .add(member.remote.as_fd(), event)
            .map_err(|e| Refusal::system("cannot watch the stack", e))?;
        match member.namespace.take().filter(|stack| self.smol.is_none() && self.enter(stack)) {
            Some(stack) => Ok(Source::Joined(Box::new(stack), Some(member.remote))),
            // Its server makes our sockets; it hangs up when it goes, and then so do they.
            None => {
                let _ = self.epoll.delete(member.remote.as_fd());
                Ok(Source::Joined(Box::new(member.remote), None))
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
            if entered {
                self.eye.leave();
            }
        }
        namespace.enter().is_ok()
    }
}

/// Whether a stack of a view is a library, here or in the process that serves it.
pub(crate) fn wants_smol(plan: &Plan) -> bool {
    std::iter::once(&plan.stack).chain(&plan.ruled.stacks).any(|stack| match stack {
        StackSpec::Smol(_) => true,
        // Whatever is wrong with the path is told when it is joined.
        StackSpec::At(path) => remote::describe(path).is_ok_and(|stack| stack.kind == Kind::Smol),
        StackSpec::New(_) | StackSpec::Kernel(_) | StackSpec::None | StackSpec::Host | StackSpec::Outer => {
            false
        }
    })
}

/// How the stack of a view of its own is served: to its user alone, as long as the view lives.
fn serving(path: &Path, user: &User) -> Serving {
    let name = user.view.clone();
    Serving { name, path: path.to_owned(), mode: PRIVATE, kept: false, own: Some(user.clone()) }
}

/// Whether what a stack owes is little, or since `since` has been owed for long enough.
fn is_over(unfinished: Unfinished, since: Instant) -> bool {
    match unfinished {
        Unfinished::Sending => since.elapsed() > SENDING_LIMIT,
        Unfinished::Waiting => since.elapsed() > WAITING_LIMIT,
        Unfinished::Nothing => true,
    }
}
