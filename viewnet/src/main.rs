//! viewnet: every process gets its own view of the network.
//!
//! Parse, run the command, turn its result into an exit code. The work is in `commands/`.

mod cli;
mod commands;
mod doctor;
mod exit;
mod runtime;
mod sys;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    match commands::dispatch(cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("viewnet: {failure}");
            failure.code.into()
        }
    }
}
