//! The runner: the process in the background that has a topology's programs.
//!
//! # Theory of operation
//! It starts with the first program and ends with `down`. What happens when is decided by [`Programs`]; here are the
//! processes. A program is `viewnet run --stack STACK -- COMMAND`, which becomes the command, in a process group of its
//! own and with the [variable](processes::VARIABLE) by which its processes are found. Its output comes by a pipe and
//! goes to its [`Log`]. Orphans of programs become the runner's children (PR_SET_CHILD_SUBREAPER), so that they are
//! waited for, and ended with it, even if they took the variable out of their environment.
//!
//! Its socket, `runner` in the topology's folder, takes [`Request`]s from its user, one after the other. A runner that
//! is killed leaves its programs: the next `up` or `down` ends them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use msocket_proto::line::{
    CallError, Line, LineError, Received, Refusal, Reply, SocketFile, listen, unusable,
};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use stacks::serve::{Lines, converse, timeout};

use super::log::Log;
use super::processes::{self, VARIABLE, marker};
use super::programs::{Action, GRACE, Outcome, Programs, Status};
use super::schema::Program;
use super::state::Folder;
use crate::background;
use crate::commands::RUNNER;
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;

/// What failed, if it cannot be started.
const START: &str = "cannot start the runner of programs";
/// How long the runner may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often whoever waits for programs to end looks.
const LOOK: Duration = Duration::from_millis(10);
/// Most connections at once: `up`, `down`, `ls` and `logs`, and some more of them.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of output taken at once, so that one program does not keep the others waiting.
const CHUNK: usize = 64 << 10;
/// How long a reader of a long list may keep the runner waiting.
const READER: Duration = Duration::from_millis(500);
/// Status of a program that could not be started, as a shell has it.
const CANNOT_START: i32 = 126;

const LISTENER: u64 = 1;
const SIGNALS: u64 = 2;
const CONNECTIONS: u64 = 16;
const OUTPUTS: u64 = 1 << 32;

/// What the runner is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    /// Start a program. Answer: null.
    Start {
        name: String,
        program: Box<Program>,
        /// Where it starts if it does not say.
        home: PathBuf,
    },
    /// End programs and forget them. Answer: null, before they have ended.
    Stop { names: Vec<String> },
    /// What is there? Answer: a list of [`Status`].
    List,
    /// End all, and the runner. Answer: null; the connection closes at the end.
    Down,
}

fn connect(folder: &Folder) -> io::Result<Line> {
    let line = Line::connect(&folder.runner())?;
    line.stream().set_read_timeout(Some(PATIENCE))?;
    Ok(line)
}

/// The programs of a topology; `None` if it has no runner.
pub(crate) fn list(folder: &Folder) -> Option<Vec<Status>> {
    Some(connect(folder).ok()?.call(&Request::List, &[]).ok()?.0)
}

fn ask(folder: &Folder, request: &Request) -> Result<(), Failure> {
    const WHAT: &str = "cannot reach the runner of programs";
    let mut line = connect(folder).map_err(|e| Failure::io(WHAT, &e))?;
    line.call(request, &[]).map(|((), _)| ()).map_err(|e: CallError| call_failed(WHAT, e))
}

/// Ends programs, and waits until they are gone.
pub(crate) fn stop(folder: &Folder, names: &[String]) -> Result<(), Failure> {
    ask(folder, &Request::Stop { names: names.to_vec() })?;
    let begin = Instant::now();
    while let Some(name) = list(folder)
        .unwrap_or_default()
        .into_iter()
        .map(|status| status.name)
        .find(|name| names.contains(name))
    {
        if begin.elapsed() > GRACE + PATIENCE {
            return Err(Failure::new(
                format!("cannot end program {name}"),
                "it does not end, though it was killed",
            )
            .hint("look with `ps` what it waits for"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Starts programs, in this order, and the runner if there is none.
pub(crate) fn start(
    runtime: &Runtime,
    topology: &str,
    folder: &Folder,
    home: &Path,
    programs: &[(String, Program)],
) -> Result<(), Failure> {
    if list(folder).is_none() {
        launch(runtime, topology)?;
    }
    programs.iter().try_for_each(|(name, program)| {
        let (name, program, home) = (name.clone(), Box::new(program.clone()), home.to_owned());
        ask(folder, &Request::Start { name, program, home })
    })
}

/// Ends all programs and the runner.
pub(crate) fn down(folder: &Folder) -> Result<(), Failure> {
    let Ok(mut line) = connect(folder) else { return Ok(()) };
    let what = "cannot end the runner of programs";
    line.stream().set_read_timeout(Some(GRACE + PATIENCE)).map_err(|e| Failure::io(what, &e))?;
    line.call(&Request::Down, &[]).map(|((), _)| ()).map_err(|e: CallError| call_failed(what, e))?;
    match line.receive::<()>() {
        Ok(Received::Closed) => Ok(()),
        _ => Err(Failure::new(what, "it does not end").hint("try again")),
    }
}

/// Starts the process and waits until it answers or says why not.
fn launch(runtime: &Runtime, topology: &str) -> Result<(), Failure> {
    if crate::nested::supervisor().is_some() {
        return Err(Failure::new(START, "this is inside a view, which it would not outlive")
            .hint("run `viewnet up` outside of it"));
    }
    let hint = format!("look at {}", runtime.folder().display());
    let mut command = background::command("viewnet-runner", &[&RUNNER, &topology]);
    Ok(background::launch(START, command.env_remove(VARIABLE), &(), hint)??)
}

/// `viewnet serve-programs`: what [`launch`] starts.
pub(crate) fn run(topology: &str) -> Result<Exit, Failure> {
    let set_up = |()| Ok((Runner::set_up(Folder::of(&Runtime::locate()?, topology))?, ()));
    background::serve(START, c"viewnet-runner", set_up, |mut runner| runner.run())
}

struct Runner {
    folder: Folder,
    epoll: Epoll,
    lines: Lines,
    signals: SignalFd,
    file: SocketFile,
    programs: Programs,
    /// Where programs start that do not say, by their names.
    homes: HashMap<String, PathBuf>,
    /// First processes, by number.
    pids: HashMap<i32, String>,
    outputs: HashMap<u64, Output>,
    next_output: u64,
    /// Programs may have ended without a signal for us.
    must_look: bool,
    /// Who asked for the end.
    ending: Vec<Line>,
    told_to_end: bool,
}

/// A program's output, on its way into its log.
struct Output {
    pipe: PipeReader,
    log: Log,
}

impl Runner {
    fn set_up(folder: Folder) -> Result<Self, Refusal> {
        let internal = |e: Errno| Refusal::system(START, e);
        let path = folder.runner();
        let listener = listen(&path, 0o600).map_err(|e| unusable(START, &path, &e))?;
        let file = SocketFile::at(&path).map_err(|e| unusable(START, &path, &e))?;
        let signals = ours();
        signals.thread_block().map_err(internal)?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(internal)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(internal)?;
        let event = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&listener, event(LISTENER)).map_err(internal)?;
        epoll.add(&signals, event(SIGNALS)).map_err(internal)?;
        nix::sys::prctl::set_child_subreaper(true).map_err(internal)?;
        Ok(Self {
            folder,
            epoll,
            lines: Lines::new(listener, CONNECTIONS, MAX_CONNECTIONS),
            signals,
            file,
            programs: Programs::default(),
            homes: HashMap::new(),
            pids: HashMap::new(),
            outputs: HashMap::new(),
            next_output: OUTPUTS,
            must_look: false,
            ending: Vec::new(),
            told_to_end: false,
        })
    }

    fn run(&mut self) -> nix::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let now = Instant::now();
            self.programs.handle_timeout(now);
            self.act_on_all();
            if std::mem::take(&mut self.must_look) {
                self.reap();
                continue;
            }
            if self.told_to_end && self.programs.is_empty() {
                self.clear_up();
                return Ok(());
            }
            let wait = self.programs.poll_timeout().map(|due| due.saturating_duration_since(now));
            let count = match self.epoll.wait(&mut events, timeout(wait)) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.lines.accept(&self.epoll),
                    SIGNALS => self.take_signals(),
                    token if token > OUTPUTS => self.take_output(token),
                    token => self.converse(token),
                }
            }
        }
    }

    fn act_on_all(&mut self) {
        while let Some(action) = self.programs.poll_action() {
            self.act(&action);
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Start(name) => self.start(name),
            Action::Terminate(name) => self.signal(name, Signal::SIGTERM),
            Action::Kill(name) => self.signal(name, Signal::SIGKILL),
            Action::Look(name) => {
                let is_running = self.pids.values().any(|other| other == name);
                if !is_running && processes::find(&marker(&self.folder, name)).is_empty() {
                    self.programs.handle_gone(name);
                }
            }
        }
    }

    fn start(&mut self, name: &str) {
        let Some(program) = self.programs.program(name).cloned() else { return };
        // What is left of it from before, perhaps under a runner that was killed.
        processes::end(&marker(&self.folder, name));
        match self.spawn(name, &program) {
            Ok(pid) => {
                self.pids.insert(pid as i32, name.to_owned());
                self.programs.handle_started(Instant::now(), name, pid);
            }
            Err(error) => {
                if let Ok(mut log) = Log::open(&self.folder.log(name)) {
                    log.write(format!("viewnet: cannot start {}: {error}\n", program.command).as_bytes());
                }
                self.programs.handle_end(Instant::now(), name, Outcome::Exited(CANNOT_START));
            }
        }
    }

    fn spawn(&mut self, name: &str, program: &Program) -> io::Result<u32> {
        let log = Log::open(&self.folder.log(name))?;
        let (pipe, end) = io::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let home = self.homes.get(name).cloned().unwrap_or_else(|| "/".into());
        let folder = program.folder.as_ref().map_or_else(|| home.clone(), |folder| home.join(folder));
        let mut command = Command::new("/proc/self/exe");
        command.arg0("viewnet").args(["run", "--name", name]);
        command.args(program.stack.iter().flat_map(|stack| ["--stack", stack]));
        command.args(program.vpn.iter().flat_map(|file| [OsStr::new("--vpn"), file.as_os_str()]));
        command.args(program.publish.iter().flat_map(|ports| ["--publish".to_owned(), ports.to_string()]));
        command
            .args(program.rules.iter().flat_map(|rule| ["--rule", rule]))
            .arg("--")
            .args(program.command.words());
        command.envs(&program.environment).env(VARIABLE, processes::value(&self.folder, name));
        command.current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
        // A program begins with no signal blocked. One that comes to us now is not lost: we look for ended
        // programs afterwards, and to be told to end has its default meaning for this moment.
        let ours = ours();
        ours.thread_unblock()?;
        let child = command.spawn();
        ours.thread_block()?;
        self.must_look = true;
        let child = child?;
        self.next_output += 1;
        self.epoll.add(&pipe, EpollEvent::new(EpollFlags::EPOLLIN, self.next_output))?;
        self.outputs.insert(self.next_output, Output { pipe, log });
        Ok(child.id())
    }

    /// To its first process's group, and to all others of it.
    fn signal(&self, name: &str, signal: Signal) {
        for (pid, _) in self.pids.iter().filter(|(_, other)| *other == name) {
            // Not waited for yet: the number is still its own.
            let _ = killpg(Pid::from_raw(*pid), signal);
        }
        let number = if signal == Signal::SIGKILL {
            rustix::process::Signal::KILL
        } else {
            rustix::process::Signal::TERM
        };
        processes::signal(&marker(&self.folder, name), number);
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo != Signal::SIGCHLD as u32 {
                self.end();
            }
        }
        self.reap();
    }

    /// Waits for those of our children that have ended.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            let (pid, outcome) = match status {
                WaitStatus::Exited(pid, code) => (pid, Outcome::Exited(code)),
                WaitStatus::Signaled(pid, signal, _) => (pid, Outcome::Killed(signal as i32)),
                WaitStatus::StillAlive => return,
                _ => continue,
            };
            if let Some(name) = self.pids.remove(&pid.as_raw()) {
                self.programs.handle_end(Instant::now(), &name, outcome);
            }
        }
    }

    fn take_output(&mut self, token: u64) {
        let Some(output) = self.outputs.get_mut(&token) else { return };
        let mut chunk = [0; CHUNK];
        match output.pipe.read(&mut chunk) {
            Ok(0) => {}
            Ok(length) => return output.log.write(&chunk[..length]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => {}
        }
        self.outputs.remove(&token);
    }

    fn converse(&mut self, token: u64) {
        let Some(mut line) = self.lines.take(token) else { return };
        let (mut is_last, now) = (false, Instant::now());
        let open = converse(&mut line, |line, request, _| match request {
            Request::Down => {
                is_last = true;
                line.send(&Reply::Ok(()), &[])
            }
            Request::List => {
                line.send(&Reply::Ok(self.programs.list()), &[])?;
                push(line)
            }
            Request::Start { name, program, home } => {
                self.homes.insert(name.clone(), home);
                self.programs.add(now, &name, *program);
                // Who asked shall find it started.
                self.act_on_all();
                line.send(&Reply::Ok(()), &[])
            }
            Request::Stop { names } => {
                names.iter().for_each(|name| self.programs.stop(now, name));
                line.send(&Reply::Ok(()), &[])
            }
        });
        if is_last {
            self.ending.extend(open.then_some(line));
            self.end();
        } else if open {
            self.lines.put_back(token, line);
        }
    }

    fn end(&mut self) {
        self.told_to_end = true;
        for status in self.programs.list() {
            self.programs.stop(Instant::now(), &status.name);
        }
    }

    /// Ends what programs left behind without their variable: our children by adoption.
    fn clear_up(&self) {
        processes::end(&marker(&self.folder, ""));
        for _ in 0..MAX_CONNECTIONS {
            let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
            let ours = std::fs::read_link("/proc/self/exe").ok();
            let others = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            // Supervisors end with their programs.
            let others = others.filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok() != ours);
            let alive = others.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).count();
            while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
            {
            }
            if alive == 0 {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The signals that are taken from a descriptor.
fn ours() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// Sends what is left of a list too long for the socket, waiting a little: whoever asked is our user, and reads it.
fn push(line: &mut Line) -> Result<(), LineError> {
    if !line.wants_write() {
        return Ok(());
    }
    line.stream().set_write_timeout(Some(READER))?;
    line.stream().set_nonblocking(false)?;
    line.flush()?;
    line.stream().set_nonblocking(true)?;
    if line.wants_write() { Err(LineError::TimedOut) } else { Ok(()) }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.file.remove();
    }
}
