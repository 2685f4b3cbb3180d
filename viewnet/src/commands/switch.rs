//! `viewnet switch`
use crate::exit::{Exit, Failure};
/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_args: Args) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}
