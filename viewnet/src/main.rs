//! viewnet: every process gets its own view of the network.
//!
//! Parse, run the command, turn its result into an exit code. The work is in `commands/`.

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
    let cli = cli::Cli::parse();
    match commands::dispatch(cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            let failure = failure.complete();
            eprintln!("viewnet: {failure}");
            failure.code.into()
        }
    }
}
