//! `viewnet switch`
use crate::exit::{Exit, Failure};
/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_args: Args) -> Result<Exit, Failure> {
    Ok(Exit::Done)
}

/// Placeholder until the switch command lands.
#[derive(Debug, Default)]
pub(crate) struct Plugs;
impl Plugs {
    pub(crate) fn hold(&mut self, _runtime: &crate::runtime::Runtime, _name: &str) -> Result<(), Failure> {
        Ok(())
    }
}
