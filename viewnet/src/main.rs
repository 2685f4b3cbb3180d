//! viewnet: every process gets its own view of the network.
//!
//! Parse, run the command, turn its result into an exit code. The work is in `commands/`. What this program starts of
//! itself in the background ([`commands::service`]) is looked for before: the command line for people would leave such
//! a process a quarter of a megabyte heavier, for as long as it is there.

mod answer;
mod ask;
mod background;
mod cli;
mod commands;
mod desk;
mod doctor;
mod exit;
mod eye;
mod filter;
mod handlers;
mod keeper;
mod launch;
mod logger;
mod maker;
mod mapping;
mod nested;
mod rules;
mod runtime;
mod served;
mod smol;
mod stand_in;
mod steer;
mod supervisor;
mod sys;
mod tables;
mod target;
mod topology;
mod trace;
mod views;

use clap::Parser;

fn main() -> std::process::ExitCode {
    sys::process::restore_sigpipe();
    logger::install(runtime::log_level().as_deref());
    let service = commands::service(std::env::args_os());
    match service.unwrap_or_else(|| commands::dispatch(cli::Cli::parse())) {
        Ok(code) => code.into(),
        Err(failure) => {
            let failure = failure.complete();
            eprintln!("viewnet: {failure}");
            failure.code.into()
        }
    }
}
