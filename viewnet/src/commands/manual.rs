//! `viewnet completions` and `viewnet man`: made from the command line's own definition.

use std::io::Write;
use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::{Exit, Failure};

/// Print shell completions
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell that shall complete viewnet's words
    shell: clap_complete::Shell,
}

/// Print the manual page, or one page per command into a folder
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write viewnet.1, viewnet-run.1, … here instead of viewnet.1 to standard output
    folder: Option<PathBuf>,
}

/// Prints completions.
pub(crate) fn completions(args: &Completions) -> Result<Exit, Failure> {
    clap_complete::generate(args.shell, &mut Cli::command(), "viewnet", &mut std::io::stdout());
    Ok(Exit::Done)
}

/// Prints the manual.
pub(crate) fn man(args: &Man) -> Result<Exit, Failure> {
    let failed = |why: std::io::Error| Failure::new("cannot write the manual page", why);
    match &args.folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(failed)?;
            std::io::stdout().write_all(&page).map_err(failed)?;
        }
    }
    Ok(Exit::Done)
}
