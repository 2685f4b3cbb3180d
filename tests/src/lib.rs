//! What the referee and end-to-end tests share.
//!
//! *Theory of operation.* A [`World`] is one test's machine: a user (root, or an ordinary uid without any
//! capability), a runtime folder, a copy of the `viewnet` binary, and, when the tests run as root, a "host"
//! network namespace of its own, so that nothing a test does can meet the real host or another test. Every
//! command of the World starts there, in its own process group, with an environment made from nothing, and
//! ends within a limit. When the World is dropped it asserts that nothing is left behind: no process that
//! carries its runtime folder in its environment, no file in that folder.
//!
//! A *probe* is a plain program (`probes/*.c`, `src/bin/probe_*.rs`) that knows nothing of viewnet and prints
//! one line per observation, never a pid, an ephemeral port or a time. [`Subject::Native`] runs it in a fresh
//! namespace whose loopback is up, [`Subject::View`] under `viewnet run`; [`compare`] judges the two outputs
//! line by line against the table of known differences in [`known`].

pub mod binaries;
mod command;
pub mod compare;
pub mod known;
pub mod leftovers;
pub mod plan;
pub mod pty;
mod subject;
mod sys;
mod world;

pub use command::{Cmd, Outcome, Running, Status};
pub use subject::Subject;
pub use world::{SOON, User, World, each_kind, each_user, wait_until};
