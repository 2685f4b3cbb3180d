//! Exit codes and the one form of error message: `what failed: why; what to do`.
//!
//! `viewnet run` ends as env(1) does: the program's own status, 125 if viewnet itself failed, 126 if the
//! program cannot be executed, 127 if it was not found. Every other command ends with 0 or 1, and with 2
//! for a command line that makes no sense (clap's code).

use std::fmt;
use std::process::ExitCode;

use msocket::line::{CallError, Refusal};

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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::SetUp => 125,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
        })
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

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.refusal.hint = Some(hint.into());
        self
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
        CallError::Line(error) => Failure::new(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_three_parts() {
        let failure = Failure::new("cannot start", "no such switch").hint("run `viewnet switch up lan`");
        assert_eq!(failure.to_string(), "cannot start: no such switch; run `viewnet switch up lan`");
    }
}
