//! Processes in the background: how one is started, and what it leaves behind of whoever started it.
//!
//! # Theory of operation
//! [`launch`] runs this program again; [`serve`] is what that does. Between the two is a line, the new program's standard
//! input: over it goes what the process is to be (so no secret is ever an argument), and back how it went. The program
//! that was started forks and ends, so the process in the background is nobody's child, and whoever starts one from a
//! long-lived process never has to wait for it. It leaves behind whatever could be held against somebody ([`enter`]):
//! the working folder, the terminal, the standard descriptors, the limits, the name.

use std::ffi::{CStr, OsStr};
use std::io::{self, stderr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use msocket_proto::line::{Line, Received, Refusal, Reply};
use nix::errno::Errno;
use nix::unistd::{chdir, setsid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::{Exit, Failure};
use crate::eye::{self, Eye};
use crate::sys::process::{self, Fork};

/// This program with these arguments, for [`launch`].
pub(crate) fn command(name: &str, arguments: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments.iter().map(|argument| argument.as_ref()));
    command
}

/// Runs a command that ends in [`serve`], tells it what the process is to be, and waits until that serves (its answer) or
/// says why not (the refusal). `what` is what failed otherwise, and `hint` what to do if it ends without a word.
pub(crate) fn launch<A: DeserializeOwned>(
    what: &str,
    command: &mut Command,
    told: &impl Serialize,
    hint: impl Into<String>,
) -> Result<Result<A, Refusal>, Failure> {
    let failed = |e: io::Error| Failure::io(what, &e);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    // The command keeps a copy of its standard input, without which we would never hear of the end.
    command.stdin(Stdio::null());
    let mut line = Line::client(ours);
    // Should it have ended already, no answer says so, too.
    let _ = line.send(told, &[]);
    let answer = line.receive::<Reply<A>>();
    // The process that we started only forked the other.
    let _ = child.wait();
    match answer {
        Ok(Received::Message(Reply::Ok(answer), _)) => Ok(Ok(answer)),
        Ok(Received::Message(Reply::Error(refusal), _)) => Ok(Err(refusal)),
        _ => Err(Failure::new(what, "it ended at once").hint(hint)),
    }
}

/// What a command of [`launch`] does: becomes a process in the background that ps(1) shows as `title`, sets itself up as
/// it was told, answers, and runs.
pub(crate) fn serve<T: DeserializeOwned, A: Serialize, S>(
    what: &str,
    title: &CStr,
    set_up: impl FnOnce(T) -> Result<(S, A), Failure>,
    run: impl FnOnce(S) -> nix::Result<()>,
) -> Result<Exit, Failure> {
    let failed = |e: io::Error| Failure::io(what, &e);
    let starter = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let mut line = Line::client(UnixStream::from(starter));
    let Ok(Received::Message(told, _)) = line.receive::<T>() else {
        return Err(Failure::new(what, "nobody said what it is to be"));
    };
    match process::fork() {
        Ok(Fork::Parent(_)) => return Ok(Exit::Done),
        Ok(Fork::Child) => {}
        Err(errno) => return refuse(&mut line, failed(errno.into())),
    }
    process::close_all_but(&[line.as_fd().as_raw_fd()]);
    enter(title, false);
    match set_up(told) {
        Ok((server, answer)) => {
            let _ = line.send(&Reply::Ok(answer), &[]);
            drop(line);
            run(server).map_err(|errno| failed(errno.into()))?;
            Ok(Exit::Done)
        }
        Err(failure) => refuse(&mut line, failure),
    }
}

fn refuse(line: &mut Line, failure: Failure) -> Result<Exit, Failure> {
    let _ = line.send(&Reply::<()>::Error(failure.refusal), &[]);
    Ok(Exit::Failed)
}

/// Makes this process, just forked, one of the background that ps(1) shows as `title`. Descriptors are the
/// caller's affair, but for the standard three, which are /dev/null afterwards. Returns a copy of what stderr
/// was if asked for.
pub(crate) fn enter(title: &CStr, keep_stderr: bool) -> Option<OwnedFd> {
    process::ignore_sigpipe();
    process::raise_limits();
    process::give_memory_back();
    process::set_title(title);
    // Fails only for a leader of a process group, who is in a session of its own here.
    let _ = setsid();
    let _ = chdir("/");
    let copy = keep_stderr.then(|| stderr().as_fd().try_clone_to_owned().ok()).flatten();
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    copy
}

/// Starts an eye that watches this process, which must have one thread. It is our child; as we end when it does,
/// nobody has to wait for it.
pub(crate) fn start_eye() -> Result<Eye, Errno> {
    let (eye, eye_end) = eye::pair()?;
    match process::fork()? {
        Fork::Parent(_) => Ok(eye),
        Fork::Child => become_eye(&eye_end),
    }
}

/// Makes this process, just forked, an eye.
pub(crate) fn become_eye(eye_end: &OwnedFd) -> ! {
    process::close_all_but(&[eye_end.as_raw_fd()]);
    enter(c"viewnet-eye", false);
    eye::watch(eye_end);
    process::exit_now(0)
}
