//! `viewnet ls`: the views that run, whichever stacks they are on.

use serde::Serialize;

use crate::commands::stack::all;
use crate::commands::up::program_table;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};
use crate::topology::programs::Status;
use crate::topology::runner;
use crate::topology::state::Folder;

/// List the running views
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,

    /// The programs of topologies in place of the views, also those that have ended
    #[arg(long)]
    programs: bool,
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

/// One program, for `--json`.
#[derive(Debug, Serialize)]
struct ProgramRow {
    topology: String,
    #[serde(flatten)]
    status: Status,
}

/// Those of all topologies.
fn programs(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (topology, folder) in Folder::all(runtime) {
        let all = runner::list(&folder).unwrap_or_default().into_iter();
        rows.extend(all.map(|status| ProgramRow { topology: topology.clone(), status }));
    }
    if json {
        return print_json(&rows);
    }
    print(&program_table(rows.iter().map(|row| (row.topology.as_str(), &row.status))))
}

/// Prints them.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    if args.programs {
        return programs(&runtime, args.json).map(|()| Exit::Done);
    }
    let mut views = Vec::new();
    for stack in all(&runtime) {
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
