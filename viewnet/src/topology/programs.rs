//! The life of a topology's programs: a core without processes and clocks.
//!
//! # Theory of operation
//! A program [waits](Life::Waiting) until all it comes after were started once, is [started](Life::Running), and
//! [ends](Life::Ended). Its restart policy may then start it again, after a [pause](Life::Pausing) that doubles each
//! time, from [`FIRST_PAUSE`] to [`LAST_PAUSE`], and begins anew once it has run for [`STEADY`]. Told to stop it is
//! asked to end, killed after [`GRACE`], and forgotten when no process of it is left.
//!
//! The shell calls the `handle_*` functions with what happened, does what [`Programs::poll_action`] says until that
//! says nothing more, and comes back at [`Programs::poll_timeout`]. A program is known by its name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::schema::{Program, Restart};

/// Pause before the first restart.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: short enough to come back soon after whatever was missing is there.
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A program that ran for so long did not fail at once.
const STEADY: Duration = Duration::from_secs(10);
/// How long a program may take to end when it is asked to.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How often we look whether the processes of a program that is to stop are gone.
const LOOK: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal of this number.
    Killed(i32),
}

impl Outcome {
    /// Did it succeed?
    pub(crate) fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

/// Where in its life a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Life {
    /// For those that it comes after.
    Waiting,
    /// As a process.
    Running,
    /// Until it is started again.
    Pausing,
    /// It was asked to end.
    Stopping,
    /// For good.
    Ended,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start it, and say so by [`Programs::handle_started`] or [`Programs::handle_end`].
    Start(String),
    /// Ask its processes to end.
    Terminate(String),
    /// Kill its processes.
    Kill(String),
    /// Look whether it has processes still; if not, say so by [`Programs::handle_gone`].
    Look(String),
}

/// A program as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Its name.
    pub(crate) name: String,
    /// As it was started.
    pub(crate) program: Program,
    /// Where it is.
    pub(crate) life: Life,
    /// Its first process, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// How it ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    /// How often it was started again.
    pub(crate) restarts: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Programs {
    entries: BTreeMap<String, Entry>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Entry {
    program: Program,
    life: Life,
    pid: Option<u32>,
    outcome: Option<Outcome>,
    restarts: u64,
    /// It was started at least once.
    started: bool,
    since: Instant,
    pause: Duration,
    /// When something is to be done next.
    due: Option<Instant>,
    /// Until when it may take to end.
    deadline: Option<Instant>,
}

impl Programs {
    /// Takes a program in; one of that name is replaced, and must have ended.
    pub(crate) fn add(&mut self, now: Instant, name: &str, program: Program) {
        let entry = Entry {
            program,
            life: Life::Waiting,
            pid: None,
            outcome: None,
            restarts: 0,
            started: false,
            since: now,
            pause: FIRST_PAUSE,
            due: None,
            deadline: None,
        };
        self.entries.insert(name.to_owned(), entry);
        self.start_ready();
    }

    /// Ends a program and forgets it.
    pub(crate) fn stop(&mut self, now: Instant, name: &str) {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.life != Life::Stopping) else {
            return;
        };
        entry.life = Life::Stopping;
        entry.deadline = Some(now + GRACE);
        entry.due = Some(now + LOOK);
        self.actions.push_back(Action::Terminate(name.to_owned()));
        self.actions.push_back(Action::Look(name.to_owned()));
    }

    /// It runs.
    pub(crate) fn handle_started(&mut self, now: Instant, name: &str, pid: u32) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        (entry.pid, entry.since, entry.started) = (Some(pid), now, true);
        self.start_ready();
    }

    /// Its first process ended, or could not be started.
    pub(crate) fn handle_end(&mut self, now: Instant, name: &str, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        (entry.pid, entry.outcome, entry.started) = (None, Some(outcome), true);
        if entry.life == Life::Stopping {
            return;
        }
        let again = match entry.program.restart {
            Restart::Never => false,
            Restart::OnFailure => !outcome.is_success(),
            Restart::Always => true,
        };
        if again {
            if now.saturating_duration_since(entry.since) >= STEADY {
                entry.pause = FIRST_PAUSE;
            }
            entry.life = Life::Pausing;
            entry.due = Some(now + entry.pause);
            entry.pause = (entry.pause * 2).min(LAST_PAUSE);
        } else {
            entry.life = Life::Ended;
        }
        self.start_ready();
    }

    /// No process of it is left.
    pub(crate) fn handle_gone(&mut self, name: &str) {
        if self.entries.get(name).is_some_and(|entry| entry.life == Life::Stopping && entry.pid.is_none()) {
            self.entries.remove(name);
        }
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for (name, entry) in &mut self.entries {
            if entry.due.is_none_or(|due| now < due) {
                continue;
            }
            match entry.life {
                Life::Pausing => {
                    (entry.life, entry.due) = (Life::Running, None);
                    entry.restarts += 1;
                    self.actions.push_back(Action::Start(name.clone()));
                }
                Life::Stopping => {
                    if entry.deadline.is_some_and(|deadline| deadline <= now) {
                        self.actions.push_back(Action::Kill(name.clone()));
                    }
                    entry.due = Some(now + LOOK);
                    self.actions.push_back(Action::Look(name.clone()));
                }
                Life::Waiting | Life::Running | Life::Ended => entry.due = None,
            }
        }
    }

    /// When to call [`Programs::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.due).min()
    }

    /// What to do next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The program of that name.
    pub(crate) fn program(&self, name: &str) -> Option<&Program> {
        self.entries.get(name).map(|entry| &entry.program)
    }

    /// Is there none?
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Status> {
        let status = |(name, entry): (&String, &Entry)| Status {
            name: name.clone(),
            program: entry.program.clone(),
            life: entry.life,
            pid: entry.pid,
            outcome: entry.outcome,
            restarts: entry.restarts,
        };
        self.entries.iter().map(status).collect()
    }

    /// Starts those that wait for nobody any more. A program that others are waiting for and that is not here, as
    /// it was stopped, is waited for: it comes with its successor.
    fn start_ready(&mut self) {
        let started: BTreeSet<String> =
            self.entries.iter().filter(|(_, entry)| entry.started).map(|(name, _)| name.clone()).collect();
        for (name, entry) in &mut self.entries {
            if entry.life == Life::Waiting && entry.program.after.iter().all(|other| started.contains(other))
            {
                entry.life = Life::Running;
                self.actions.push_back(Action::Start(name.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::schema::program::CommandLine;

    fn program(restart: Restart, after: &[&str]) -> Program {
        Program {
            stack: Some("host".into()),
            vpn: None,
            command: CommandLine::Shell("x".into()),
            environment: BTreeMap::new(),
            folder: None,
            restart,
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            rules: vec![],
            publish: vec![],
        }
    }

    fn start() -> Instant {
        Instant::now()
    }

    fn actions(programs: &mut Programs) -> Vec<Action> {
        std::iter::from_fn(|| programs.poll_action()).collect()
    }

    #[test]
    fn each_starts_after_those_it_waits_for() {
        let (now, mut programs) = (start(), Programs::default());
        programs.add(now, "client", program(Restart::Never, &["server"]));
        assert_eq!(actions(&mut programs), []);
        programs.add(now, "server", program(Restart::Never, &[]));
        assert_eq!(actions(&mut programs), [Action::Start("server".into())]);
        programs.handle_started(now, "server", 7);
        assert_eq!(actions(&mut programs), [Action::Start("client".into())]);
        programs.handle_started(now, "client", 8);
        programs.handle_end(now, "client", Outcome::Exited(0));
        assert_eq!(programs.list()[0].life, Life::Ended);
        assert_eq!(programs.poll_timeout(), None);
    }

    #[test]
    fn restarts_come_slower_and_slower() {
        let (mut now, mut programs) = (start(), Programs::default());
        programs.add(now, "p", program(Restart::OnFailure, &[]));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(actions(&mut programs), [Action::Start("p".into())]);
            programs.handle_started(now, "p", 7);
            programs.handle_end(now, "p", Outcome::Exited(1));
            let due = programs.poll_timeout().unwrap();
            pauses.push(due - now);
            now = due;
            programs.handle_timeout(now);
        }
        assert_eq!((pauses[0], pauses[1], pauses[11]), (FIRST_PAUSE, 2 * FIRST_PAUSE, LAST_PAUSE));
        assert_eq!(actions(&mut programs), [Action::Start("p".into())]);
        programs.handle_started(now, "p", 7);
        programs.handle_end(now + STEADY, "p", Outcome::Killed(9));
        assert_eq!(programs.poll_timeout(), Some(now + STEADY + FIRST_PAUSE));
        programs.handle_timeout(now + STEADY + FIRST_PAUSE);
        programs.handle_end(now, "p", Outcome::Exited(0));
        assert_eq!((programs.list()[0].life, programs.list()[0].restarts), (Life::Ended, 13));
    }

    #[test]
    fn who_does_not_end_is_killed() {
        let (now, mut programs) = (start(), Programs::default());
        programs.add(now, "p", program(Restart::Always, &[]));
        programs.handle_started(now, "p", 7);
        let _ = actions(&mut programs);
        programs.stop(now, "p");
        let look = || Action::Look("p".into());
        assert_eq!(actions(&mut programs), [Action::Terminate("p".into()), look()]);
        programs.handle_gone("p");
        assert!(!programs.is_empty(), "its first process was not waited for");
        programs.handle_timeout(now + LOOK);
        assert_eq!(actions(&mut programs), [look()]);
        programs.handle_timeout(now + GRACE);
        assert_eq!(actions(&mut programs), [Action::Kill("p".into()), look()]);
        programs.handle_end(now + GRACE, "p", Outcome::Killed(9));
        programs.handle_gone("p");
        assert!(programs.is_empty());
    }
}
