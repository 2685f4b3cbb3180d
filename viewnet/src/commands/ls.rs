//! `viewnet ls`: the views that run, whichever stacks they are on.

use serde::Serialize;

use crate::commands::stack::{all, print_json, print_table};
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One view, for `--json`.
#[derive(Debug, Serialize)]
struct Row {
    view: String,
    pid: i32,
    stack: String,
    /// Name of the process it was made for, while that runs.
    command: Option<String>,
}

/// Prints them.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut views = Vec::new();
    for stack in all(&Runtime::locate()?) {
        for user in stack.users {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", user.pid)).ok();
            let command = command.map(|name| name.trim_end().to_owned());
            views.push(Row { view: user.view, pid: user.pid, stack: stack.name.clone(), command });
        }
    }
    if args.json {
        print_json(&views)?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["VIEW", "PID", "STACK", "COMMAND"].map(str::to_owned)];
    rows.extend(
        views
            .into_iter()
            .map(|v| [v.view, v.pid.to_string(), v.stack, v.command.unwrap_or_else(|| "-".into())]),
    );
    print_table(&rows);
    Ok(Exit::Done)
}
