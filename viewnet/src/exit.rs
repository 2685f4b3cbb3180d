//! Exit codes and the one form of error message: `what failed: why; what to do`.
//!
//! `viewnet run` ends as env(1) does: the program's own status, 125 if viewnet itself failed, 126 if the
//! program cannot be executed, 127 if it was not found. Every other command ends with 0 or 1, and with 2
//! for a command line that makes no sense (clap's code).

use std::fmt;
use std::process::ExitCode;

use msocket_proto::line::{CallError, LineError, Refusal};
use nix::errno::Errno;

use crate::doctor;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Done,
    /// It did not.
    Failed,
    /// `run` could not set up the view.
    SetUp,
    /// The program cannot be executed.
    NotExecutable,
    /// The program was not found.
    NotFound,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::SetUp => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// An error as the user reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed, why, and what to do.
    pub(crate) refusal: Refusal,
    /// How the command ends.
    pub(crate) code: Exit,
}

impl Failure {
    /// `what: why`
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { refusal: Refusal::new(what, why), code: Exit::Failed }
    }

    /// `what`, the kernel's reason, and what to do about it.
    pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::from(Refusal { errno: error.raw_os_error(), ..Refusal::new(what, error) })
    }

    /// Adds what to do next, where whoever refused knew no more than the errno: no message ends without it.
    pub(crate) fn complete(mut self) -> Self {
        let refusal = &mut self.refusal;
        if refusal.hint.is_none() {
            let (why, hint) = match refusal.errno {
                Some(errno) => doctor::next_step(Errno::from_raw(errno)),
                None => (None, "`viewnet help` says what is possible, `viewnet doctor` what is not".into()),
            };
            refusal.why = why.unwrap_or_else(|| std::mem::take(&mut refusal.why));
            refusal.hint = Some(hint);
        }
        self
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.refusal.hint = Some(hint.into());
        self
    }

    /// That of a command that becomes its program: what failed was the set-up, if nothing else is known.
    pub(crate) fn before_program(self) -> Self {
        match self.code {
            Exit::Failed => self.code(Exit::SetUp),
            _ => self,
        }
    }

    /// Sets the exit code.
    pub(crate) fn code(mut self, code: Exit) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, code: Exit::Failed }
    }
}

/// What a control call's error means to the user, `what` being what was tried.
pub(crate) fn call_failed(what: &str, error: CallError) -> Failure {
    match error {
        CallError::Refused(refusal) => refusal.into(),
        CallError::Line(LineError::Io(error)) => Failure::io(what, &error),
        CallError::Line(error) => {
            Failure::new(what, error).hint("try again; if it stays so, look whether its process is stopped")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_hint_gets_one() {
        for errno in [Errno::EMFILE, Errno::EAGAIN, Errno::EACCES, Errno::ENOSPC, Errno::EXDEV] {
            let failure = Failure::io("cannot start", &errno.into()).complete();
            assert!(failure.refusal.hint.is_some(), "{failure}");
        }
        assert!(Failure::new("cannot start", "it cannot").complete().refusal.hint.is_some());
        let hinted = Failure::io("cannot start", &Errno::EMFILE.into()).hint("wait").complete();
        assert!(hinted.to_string().ends_with("; wait"), "{hinted}");
    }

    #[test]
    fn message_has_three_parts() {
        let failure = Failure::new("cannot start", "no such switch").hint("run `viewnet switch up lan`");
        assert_eq!(failure.to_string(), "cannot start: no such switch; run `viewnet switch up lan`");
    }
}
