//! From a command line to a program in its view.
//!
//! # Theory of operation
//! `viewnet run` becomes the program: the process that the shell started ends up executing it, so exit
//! status, signals, job control and terminal are the program's own. Before that it forks, out of the way
//! of the terminal and of its parent, the supervisor and its eye:
//! ```text
//! viewnet run ──fork──► (intermediate, exits) ──fork──► supervisor   in the stacks' user namespace
//!      │                                        └─fork──► eye          where the program is
//!      │ ◄── ready, or why not ── supervisor
//!      ├─ no_new_privs, filter installed; its listener ──► supervisor
//!      └─ execvp
//! ```
//! The supervisor ends when nobody has the filter any more, the eye when the supervisor does.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use msocket_proto::line::{CallError, Line, LineError, Received, Refusal, Reply};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{execvp, geteuid, setsid};
use serde::{Deserialize, Serialize};
use stacks::config::StackConfig;
use stacks::kernel::SetUpError;
use stacks::kernel::namespace::Step;
use stacks::stack::Kind;

use crate::background::{self, become_eye};
use crate::doctor::{self, SetupStep};
use crate::exit::{Exit, Failure, call_failed};
use crate::rules::Rules;
use crate::runtime::Runtime;
use crate::stand_in::{self, Charge};
use crate::supervisor::{Supervisor, wants_smol};
use crate::sys::process::{self, Fork};
use crate::sys::seccomp::{self, Signals};
use crate::{eye, filter, handlers, nested};

/// Which stack a view gets, every name resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StackSpec {
    /// A stack made for this view: a kernel stack where this machine lets us, else one in a library. Inside a
    /// view: of the view's kind.
    New(StackConfig),
    /// A kernel stack made for this view.
    Kernel(StackConfig),
    /// A stack in a library made for this view.
    Smol(StackConfig),
    /// The stack that is served at a path.
    At(PathBuf),
    /// No network.
    None,
    /// The network that viewnet was started in.
    Host,
    /// Whatever the view around it has.
    Outer,
}

/// The rules of a view, with the stacks that they name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ruled {
    /// The rules.
    pub(crate) rules: Rules,
    /// Where their stacks are, in the order of [`Rules::stacks`].
    pub(crate) stacks: Vec<StackSpec>,
}

impl StackSpec {
    /// What the stack shall look like, if it is a new one.
    pub(crate) fn config(&self) -> Option<&StackConfig> {
        match self {
            Self::New(config) | Self::Kernel(config) | Self::Smol(config) => Some(config),
            Self::At(_) | Self::None | Self::Host | Self::Outer => None,
        }
    }

    /// As [`Self::config`], to be completed.
    pub(crate) fn config_mut(&mut self) -> Option<&mut StackConfig> {
        match self {
            Self::New(config) | Self::Kernel(config) | Self::Smol(config) => Some(config),
            Self::At(_) | Self::None | Self::Host | Self::Outer => None,
        }
    }
}

/// A program to run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Where our sockets are.
    pub(crate) runtime: Runtime,
    /// Name of the view, and of its stack if that is new.
    pub(crate) name: String,
    /// Its stack.
    pub(crate) stack: StackSpec,
    /// Its rules.
    pub(crate) ruled: Ruled,
    /// The process that becomes the program.
    pub(crate) pid: i32,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// One line per trapped call on stderr.
    pub(crate) trace: bool,
    /// Say what is set up.
    pub(crate) verbose: bool,
    /// Stay the program's ancestor instead of becoming it.
    pub(crate) parent: bool,
    /// Have dynamic programs load the library that spares them traps.
    pub(crate) shim: bool,
    /// What hangs up when the view has ended.
    pub(crate) life: Option<Arc<OwnedFd>>,
}

/// What the supervisor tells the launching process once the view is there.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    /// A stack of it is a library: the filter is the longer one.
    smol: bool,
    /// Its rules look at destinations, so calls that name some are trapped.
    steered: bool,
}

/// What the launching process tells the supervisor once the filter is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Filtered {}

/// Runs the program; returns only if that fails.
pub(crate) fn launch(plan: &Plan) -> Result<Infallible, Failure> {
    if let Some(mut supervisor) = nested::supervisor() {
        let marker = nested::ask(&mut supervisor, plan).map_err(set_up_failed)?.marker;
        drop(supervisor);
        if !plan.shim {
            crate::runtime::set_shim(None);
        }
        return execute(&plan.command, Some(&marker));
    }
    // The user says so, or the stack is a library and the supervisor could not look otherwise.
    if plan.parent || stand_in::is_needed() && wants_smol(plan) {
        return stand_in::run(plan);
    }
    let (supervisor, ready) = start_any(plan)?;
    filter_and_execute(plan, supervisor, ready)
}

/// The rest, in the process that becomes the program: below a supervisor that is being set up.
pub(crate) fn become_program(plan: &Plan, channel: UnixStream) -> Result<Infallible, Failure> {
    let (supervisor, ready) = await_view(channel)?.map_err(explained)?;
    filter_and_execute(plan, supervisor, ready)
}

/// The supervisor whose child the program is. It has an eye as others do, for the files it must not leave.
pub(crate) fn supervise_charge(plan: &Plan, channel: UnixStream, charge: Charge) -> ! {
    match background::start_eye() {
        Ok(eye) => supervise(plan, channel, eye, Some(charge)),
        Err(errno) => give_up(SetupStep::Process, errno, channel),
    }
}

fn filter_and_execute(plan: &Plan, mut supervisor: Line, ready: Ready) -> Result<Infallible, Failure> {
    let Ready { smol, steered } = ready;
    let signals = if smol { Signals::Interrupt } else { Signals::Wait };
    let program = filter::program(&handlers::table(smol, steered)).map_err(|e| {
        Failure::new("cannot build the filter", e)
            .hint("this is a fault of viewnet's; please report it")
            .code(Exit::SetUp)
    })?;
    // Root keeps its privileges, and so do set-user-ID programs that it runs.
    if !geteuid().is_root() {
        seccomp::set_no_new_privs().map_err(|e| doctor::failure(SetupStep::SeccompFilter, e))?;
    }
    let listener = match seccomp::install(&program, signals) {
        // Root without CAP_SYS_ADMIN, as in a container.
        Err(Errno::EACCES) => seccomp::set_no_new_privs().and_then(|()| seccomp::install(&program, signals)),
        other => other,
    };
    let listener = listener.map_err(|e| doctor::failure(SetupStep::Listener, e))?;
    hand_over(&mut supervisor, listener.as_fd(), smol || steered)?;
    drop((listener, supervisor));
    crate::runtime::set_shim(plan.shim.then_some(if smol { Kind::Smol } else { Kind::Kernel }));
    execute(&plan.command, None)
}

/// Gives the supervisor the listener and waits until it has it.
fn hand_over(
    supervisor: &mut Line,
    listener: BorrowedFd<'_>,
    sendmsg_is_trapped: bool,
) -> Result<(), Failure> {
    if !sendmsg_is_trapped {
        return supervisor.call::<_, ()>(&Filtered {}, &[listener]).map(drop).map_err(set_up_failed);
    }
    let mut line = serde_json::to_vec(&Filtered {}).map_err(|e| set_up_failed(LineError::from(e).into()))?;
    line.push(b'\n');
    seccomp::hand_over(supervisor.as_fd(), &line, listener)
        .map_err(|e| doctor::failure(SetupStep::Descriptor, e))?;
    match supervisor.receive::<Reply<()>>() {
        Ok(Received::Message(Reply::Ok(()), _)) => Ok(()),
        _ => Err(set_up_failed(LineError::Closed.into())),
    }
}

/// Starts the supervisor; of any kind of stack it makes one in a library, where this machine lets us make no
/// namespaces. Whether it does is found by trying, so that nothing is asked where all is well.
fn start_any(plan: &Plan) -> Result<(Line, Ready), Failure> {
    let refusal = match start(plan)? {
        Ok(started) => return Ok(started),
        Err(refusal) => refusal,
    };
    match &plan.stack {
        StackSpec::New(config) if forbids_namespaces(&refusal) => {
            if plan.verbose {
                let why = explained(refusal.clone()).refusal;
                eprintln!("viewnet: a smol stack in place of a kernel stack: {}: {}", why.what, why.why);
            }
            let smol = Plan { stack: StackSpec::Smol(config.clone()), ..plan.clone() };
            if stand_in::is_needed() {
                return stand_in::run(&smol).map(|never| match never {});
            }
            // If that cannot be had either, what keeps us from the first is what to mend.
            start(&smol)?.map_err(|why| {
                if plan.verbose {
                    eprintln!("viewnet: {why}");
                }
                explained(refusal)
            })
        }
        _ => Err(explained(refusal)),
    }
}

/// Whether it was a namespace that could not be made, without which there is no kernel stack.
pub(crate) fn forbids_namespaces(refusal: &Refusal) -> bool {
    let namespaces = [Step::UserNamespace, Step::IdMap, Step::NetNamespace];
    Step::told_by(refusal).is_some_and(|(step, _)| namespaces.contains(&step))
}

/// Forks the supervisor and its eye and waits until the view is there, or was refused.
fn start(plan: &Plan) -> Result<Result<(Line, Ready), Refusal>, Failure> {
    let descriptor = |e: std::io::Error| {
        doctor::failure(SetupStep::Descriptor, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
    };
    let process = |e| doctor::failure(SetupStep::Process, e);
    let (ours, theirs) = UnixStream::pair().map_err(descriptor)?;
    match process::fork().map_err(process)? {
        Fork::Parent(child) => {
            match waitpid(child, None) {
                // Whoever started us ignores SIGCHLD: the child is gone, and nobody knows how it ended.
                Ok(_) | Err(Errno::ECHILD) => {}
                Err(e) => return Err(process(e)),
            }
            drop(theirs);
        }
        Fork::Child => background(plan, theirs),
    }
    await_view(ours)
}

/// Waits until the view is there, or was refused.
fn await_view(channel: UnixStream) -> Result<Result<(Line, Ready), Refusal>, Failure> {
    let mut line = Line::client(channel);
    match line.receive::<Reply<Ready>>() {
        Ok(Received::Message(Reply::Ok(ready), _)) => Ok(Ok((line, ready))),
        Ok(Received::Message(Reply::Error(refusal), _)) => Ok(Err(refusal)),
        Ok(_) => Err(set_up_failed(LineError::Closed.into())),
        Err(error) => Err(set_up_failed(error.into())),
    }
}

/// The intermediate process: makes the twins, which thereby belong to nobody, and goes. The eye comes first: it
/// ends by itself if no supervisor follows.
fn background(plan: &Plan, channel: UnixStream) -> ! {
    let _ = setsid();
    let (eye, eye_end) = match eye::pair() {
        Ok(ends) => ends,
        Err(errno) => give_up(SetupStep::Descriptor, errno, channel),
    };
    match process::fork() {
        Ok(Fork::Child) => become_eye(&eye_end),
        Ok(Fork::Parent(_)) => drop(eye_end),
        Err(errno) => give_up(SetupStep::Process, errno, channel),
    }
    match process::fork() {
        Ok(Fork::Child) => supervise(plan, channel, eye, None),
        Ok(Fork::Parent(_)) => process::exit_now(0),
        Err(errno) => give_up(SetupStep::Process, errno, channel),
    }
}

/// Tells the launching process why there will be no view.
fn give_up(step: SetupStep, errno: Errno, channel: UnixStream) -> ! {
    let _ = Line::client(channel).send(&Reply::<()>::Error(doctor::failure(step, errno).refusal), &[]);
    process::exit_now(1)
}

fn supervise(plan: &Plan, channel: UnixStream, eye: eye::Eye, charge: Option<Charge>) -> ! {
    let mut keep = vec![channel.as_raw_fd(), eye.as_fd().as_raw_fd()];
    keep.extend(charge.iter().flat_map(Charge::descriptors));
    keep.extend(plan.life.iter().map(|life| life.as_raw_fd()));
    process::close_all_but(&keep);
    let trace = background::enter(c"viewnet-view", plan.trace);
    let mut line = Line::client(channel);
    match Supervisor::set_up(plan, eye, trace, charge) {
        Err(error) => {
            let _ = line.send(&Reply::<()>::Error(error.into()), &[]);
            process::exit_now(1)
        }
        Ok(mut supervisor) => {
            let ready = Ready { smol: supervisor.is_smol(), steered: plan.ruled.rules.steer() };
            let ended =
                line.send(&Reply::Ok(ready), &[]).is_err() || supervise_with(&mut supervisor, line).is_none();
            drop(supervisor);
            process::exit_now(i32::from(ended))
        }
    }
}

/// Takes the listener and works until nobody needs the view.
fn supervise_with(supervisor: &mut Supervisor, mut line: Line) -> Option<()> {
    let Ok(Received::Message(Filtered {}, mut fds)) = line.receive::<Filtered>() else { return None };
    let listener = fds.pop()?;
    line.send(&Reply::Ok(()), &[]).ok()?;
    drop(line);
    supervisor.run(listener).ok()
}

/// Becomes the program.
pub(crate) fn execute(command: &[OsString], marker: Option<&str>) -> Result<Infallible, Failure> {
    let arguments: Vec<CString> = command
        .iter()
        .map(|word| CString::new(word.clone().into_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            Failure::new("cannot run the program", "a NUL byte in its arguments").code(Exit::NotExecutable)
        })?;
    crate::runtime::set_marker(marker);
    process::restore_sigpipe();
    let error = execvp(&arguments[0], &arguments).expect_err("execvp returns only errors");
    let (code, hint) = match error {
        Errno::ENOENT => (Exit::NotFound, "give a program that is on PATH, or a path"),
        _ => (Exit::NotExecutable, "give a program that you may execute"),
    };
    Err(Failure::new(format!("cannot run {}", command[0].display()), error.desc()).hint(hint).code(code))
}

/// A supervisor that could not be spoken to, or that said no.
fn set_up_failed(error: CallError) -> Failure {
    match error {
        CallError::Refused(refusal) => explained(refusal),
        error @ CallError::Line(_) => call_failed("cannot set up the view", error).code(Exit::SetUp),
    }
}

/// Puts the doctor's words in place of an errno, where a step of ours failed.
pub(crate) fn explained(refusal: Refusal) -> Failure {
    match Step::told_by(&refusal) {
        Some((step, errno)) => doctor::failure(step.into(), errno),
        None => Failure::from(refusal).code(Exit::SetUp),
    }
}

/// Makes the supervisor's stack error one for the launching process.
impl From<SetUpError> for Failure {
    fn from(error: SetUpError) -> Self {
        explained(error.into())
    }
}
