//! A topology: switches, stacks, what joins them, and programs, described in one file and kept as one thing.
//!
//! # Theory of operation
//! `viewnet up FILE` reads the file ([`schema`]), looks at what there is ([`world`]), compares the two ([`diff`])
//! and does what is missing, in order ([`apply`]). What a topology made stands in its state file ([`state`]),
//! written before each thing is made, so that nothing is forgotten when `up` is killed; whether it is still that
//! very thing is asked of the thing itself. So `up` may run again at any time, after a crash of anything, and does
//! what is left to do; `down` is `up` to nothing. When a step fails, the steps before it are undone in the same way:
//! by going to what was there before.
//!
//! Switches and kept stacks are what `viewnet switch up` and `viewnet stack up` make, under the same names. Programs
//! belong to the topology's runner ([`runner`]), a process in the background that starts them in the order of
//! their dependencies, starts them again as they wish, keeps their last output and their exit status.
//!
//! [`graph`] draws a file, or what runs.

pub(crate) mod apply;
pub(crate) mod diff;
pub(crate) mod graph;
pub(crate) mod log;
pub(crate) mod place;
pub(crate) mod processes;
pub(crate) mod programs;
pub(crate) mod runner;
pub(crate) mod schema;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod world;
