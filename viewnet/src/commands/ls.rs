//! `viewnet ls`: the views that run, whichever stacks they are on.

use serde::Serialize;

use crate::commands::stack::all;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

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
    /// Which stack answers what, if the view has rules.
    rules: Vec<String>,
}

/// Prints them.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut views = Vec::new();
    for stack in all(&Runtime::locate()?) {
        for user in stack.users {
            let command = std::fs::read_to_string(format!("/proc/{}/comm", user.pid)).ok();
            let command = command.map(|name| name.trim_end().to_owned());
            views.push(Row {
                view: user.view,
                pid: user.pid,
                stack: stack.name.clone(),
                command,
                rules: user.rules,
            });
        }
    }
    if args.json {
        print_json(&views)?;
        return Ok(Exit::Done);
    }
    let rows = views
        .into_iter()
        .map(|v| [v.view, v.pid.to_string(), v.stack, v.command.unwrap_or_else(|| "-".into())]);
    print(&table(["VIEW", "PID", "STACK", "COMMAND"], rows))?;
    Ok(Exit::Done)
}
