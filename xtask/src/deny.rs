//! `deny`: cargo-deny by the rules of `deny.toml`.
//!
//! Licences, bans and sources need nothing but the lock file. Advisories need the RustSec database, which
//! not every machine can reach: then that check is skipped, and the output says so and why.

use std::time::Duration;

use crate::command::{Outcome, cargo};

/// The version that deny.toml was written for; a later one may need a later Rust than ours.
const CARGO_DENY: &str = "0.20.2";
/// The database is a few megabytes; a network that lets it hang is as good as none.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run(_: &[String]) -> Outcome {
    let installed =
        cargo(["deny", "--version"]).printed().is_some_and(|version| version.starts_with("cargo-deny"));
    if !installed {
        cargo(["install", "--locked", "--version", CARGO_DENY, "cargo-deny"]).run()?;
    }
    cargo(["deny", "--workspace", "check", "licenses", "bans", "sources"]).run()?;
    match cargo(["deny", "fetch", "db"]).quietly_within(FETCH_LIMIT) {
        Ok(()) => cargo(["deny", "--workspace", "check", "--disable-fetch", "advisories"]).run(),
        Err(why) => {
            eprintln!("xtask deny: advisories SKIPPED: the advisory database cannot be had here: {why}");
            Ok(())
        }
    }
}
