//! One look at everything that runs.

use std::time::{Duration, Instant};

use stacks::serve::Description;
use switch::client::Client;
use switch::metrics::Snapshot;

use super::processes::Processes;
use crate::commands::stack;
use crate::commands::switch::each;
use crate::runtime::Runtime;

/// How long one switch may hold up the screen.
const PATIENCE: Duration = Duration::from_millis(500);

/// What was seen, and when.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) switches: Vec<Snapshot>,
    pub(super) stacks: Vec<Description>,
    pub(super) views: Vec<View>,
}

/// A view and its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) pid: i32,
    pub(super) stack: String,
    /// Name of the process it was made for, while that runs.
    pub(super) command: Option<String>,
    /// How many processes it is, with all that descend from it.
    pub(super) processes: usize,
    /// CPU time of them all, in clock ticks.
    pub(super) ticks: u64,
}

impl Sample {
    /// Looks.
    pub(super) fn take(runtime: &Runtime) -> Self {
        let at = Instant::now();
        let switches = each(runtime).into_iter().filter_map(|(name, client)| ask(name, client)).collect();
        let stacks = stack::all(runtime);
        let processes = Processes::read();
        let view = |stack: &Description| {
            let name = stack.name.clone();
            let view = |user: &stacks::serve::User| {
                let (count, ticks) = processes.below(user.pid);
                View {
                    name: user.view.clone(),
                    pid: user.pid,
                    stack: name.clone(),
                    command: processes.name(user.pid),
                    processes: count,
                    ticks,
                }
            };
            stack.users.iter().map(view).collect::<Vec<_>>()
        };
        let views = stacks.iter().flat_map(view).collect();
        Self { at, switches, stacks, views }
    }

    /// Seconds between two looks.
    pub(super) fn seconds_since(&self, before: &Self) -> f64 {
        self.at.saturating_duration_since(before.at).as_secs_f64()
    }
}

fn ask(name: String, mut client: Client) -> Option<Snapshot> {
    client.line().stream().set_read_timeout(Some(PATIENCE)).ok()?;
    let mut show = client.show().ok()?;
    show.name = name;
    let (ports, vlans) = (client.ports().ok()?, client.vlans().ok()?);
    Some(Snapshot { show, ports, vlans, mirrors: Vec::new() })
}
