//! `viewnet up` and `viewnet down`: a topology as its file says, or gone.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::commands::run::find;
use crate::exit::{Exit, Failure};
use crate::runtime::{Runtime, wants_colour};
use crate::tables::{print, print_json, table};
use crate::topology::apply::Applier;
use crate::topology::diff::{Change, Plan, Sign, Step, plan};
use crate::topology::place::Problem;
use crate::topology::programs::{Life, Outcome, Status};
use crate::topology::schema::{MAX_FILE, Topology};
use crate::topology::state::{Folder, State};
use crate::topology::{processes, runner, world};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(50);

/// Make what a topology file describes: switches, stacks, programs.
///
/// Prints what changes (+ comes, ~ changes, - goes) and does that, no more: run again, it does nothing; after a change
/// of the file, just that. If a step fails, what was begun is undone. `viewnet down` takes everything away.
#[derive(Debug, clap::Args)]
#[command(after_help = "A topology:
  [switch.lan]                      # age, mode, group, mgmt, vde, metrics, hub, stp
  vlan.10 = \"office\"
  port.up0 = { nic = \"veth1\", trunk = \"10,20-29\", native = 1 }    # or tap, link; access = 10
                                    # qos, reserve, guard, stp, impair, pin, mirror, shut:
                                    # also of a stack's port, port.\"web.eth0\"
  [gateway.lan]                     # ip, vlan, host-loopback, isolate, allow, deny, via,
                                    # dns64, filter,
                                    # dhcp = { static, lease, domain, mtu, ntp, v6 }

  [stack.web]                       # kind, mode, restart, limits, forward, filter, vpn;
                                    # publish = [\"8080:80\"]
  [[stack.web.interface]]           # and [[stack.web.route]]: as in `stack up --config`
  name = \"eth0\"
  link = \"switch:lan[vlan 10]\"
  ip = [\"10.0.0.1/24\"]

  [program.httpd]                   # environment, folder, rules, publish; after = [\"other\"]
  stack = \"web\"                     # or vpn
  command = [\"python3\", \"-m\", \"http.server\", \"80\"]
  restart = \"on-failure\"            # never, always")]
pub(crate) struct Up {
    /// The topology's file, in TOML
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// Stay until these programs, or else all, have ended, and show how; fails if one of them did
    #[arg(long, value_name = "PROGRAM,…", num_args = 0.., require_equals = true, value_delimiter = ',')]
    wait: Option<Vec<String>>,

    /// End stacks that go even if programs of others use them
    #[arg(long)]
    force: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Take away what a topology made.
#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    /// The topology's name, or its file; not needed if there is only one
    #[arg(value_name = "NAME|FILE")]
    topology: Option<String>,

    /// Only show what would go
    #[arg(long)]
    dry_run: bool,

    /// End stacks even if programs of others use them
    #[arg(long)]
    force: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// For `--json`.
#[derive(Serialize)]
struct Printed<'a> {
    topology: &'a str,
    changes: &'a [Change],
    #[serde(skip_serializing_if = "Option::is_none")]
    programs: Option<&'a [Status]>,
}

/// Reads a topology's file: its path, name and content.
pub(crate) fn read(file: &Path) -> Result<(PathBuf, String, Topology), Failure> {
    let (path, text) = read_text(file)?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let wrong = |problem: Problem| problem.failure(format!("cannot use {}", file.display()));
    let (name, mut topology) = Topology::parse(&text, &stem).map_err(wrong)?;
    path.parent().into_iter().for_each(|folder| topology.root(folder));
    Ok((path, name, topology))
}

/// A file of bounded length.
pub(crate) fn read_text(file: &Path) -> Result<(PathBuf, String), Failure> {
    let what = || format!("cannot read {}", file.display());
    let hint = "give the path of a TOML file; `viewnet help up` shows one";
    let failed = |e: std::io::Error| Failure::new(what(), &e).hint(hint);
    let path = file.canonicalize().map_err(failed)?;
    if path.metadata().map_err(failed)?.len() > MAX_FILE {
        return Err(Failure::new(what(), format!("it is longer than {MAX_FILE} bytes")).hint(hint));
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    Ok((path, text))
}

/// `viewnet up`
pub(crate) fn up(args: &Up) -> Result<Exit, Failure> {
    let (file, name, topology) = read(&args.file)?;
    if let Some(unknown) = args.wait.iter().flatten().find(|name| !topology.programs.contains_key(*name)) {
        let known: Vec<&String> = topology.programs.keys().collect();
        return Err(Failure::new(
            format!("cannot wait for `{unknown}`"),
            "there is no such program in the file",
        )
        .hint(crate::topology::place::did_you_mean(unknown, &known)));
    }
    let runtime = Runtime::locate()?;
    let lock = Folder::lock(&runtime)?;
    let folder = Folder::of(&runtime, &name);
    let known = folder.load()?;
    let is_new = known.is_none();
    let mut state = known.unwrap_or_else(|| State::new(&file));
    if state.file != file {
        let why = format!("it was made from {}", state.file.display());
        return Err(Failure::new(format!("cannot change topology {name}"), why)
            .hint(format!("end it with `viewnet down {name}`, or give this file another `name`")));
    }
    let current = world::observe(&runtime, &folder, &mut state)?;
    let plan = plan(&topology, &current);
    if let Some(failure) = world::taken(&runtime, &topology, &current) {
        return Err(failure);
    }
    check_programs(&plan)?;
    if !args.json {
        print(&words(&name, &plan, args.dry_run))?;
    }
    if !args.dry_run {
        folder.save(&state)?;
        let mut applier =
            Applier { runtime: &runtime, name: &name, folder: &folder, state, force: args.force };
        if let Err(failure) = applier.apply(&current, &plan) {
            if is_new && applier.state.switches.is_empty() && applier.state.stacks.is_empty() {
                runner::down(&folder)?;
                folder.remove()?;
            }
            return Err(failure);
        }
    }
    drop(lock);
    let programs = args.wait.as_ref().filter(|_| !args.dry_run).map(|names| wait(&folder, names));
    if args.json {
        print_json(&Printed { topology: &name, changes: &plan.changes, programs: programs.as_deref() })?;
    } else if let Some(programs) = &programs {
        print(&program_table(programs.iter().map(|status| (name.as_str(), status))))?;
    }
    let failed = |status: &Status| status.outcome.is_none_or(|outcome| !outcome.is_success());
    Ok(if programs.iter().flatten().any(failed) { Exit::Failed } else { Exit::Done })
}

/// `viewnet down`
pub(crate) fn down(args: &Down) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    let _lock = Folder::lock(&runtime)?;
    let (name, folder) = choose(&runtime, args.topology.as_deref())?;
    // What a crash left of a folder that has no state any more.
    let Some(mut state) = folder.load()? else { return folder.remove().map(|()| Exit::Done) };
    let current = world::observe(&runtime, &folder, &mut state)?;
    let plan = plan(&Topology::default(), &current);
    if args.json {
        print_json(&Printed { topology: &name, changes: &plan.changes, programs: None })?;
    } else {
        print(&words(&name, &plan, args.dry_run))?;
    }
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let mut applier = Applier { runtime: &runtime, name: &name, folder: &folder, state, force: args.force };
    applier.take_down(&plan)?;
    runner::down(&folder)?;
    processes::end(&processes::marker(&folder, ""));
    folder.remove()?;
    Ok(Exit::Done)
}

/// The topology that is meant: by its name, by its file, or the only one.
fn choose(runtime: &Runtime, given: Option<&str>) -> Result<(String, Folder), Failure> {
    let all = Folder::all(runtime);
    let names: Vec<&String> = all.iter().map(|(name, _)| name).collect();
    let Some(given) = given else {
        return match all.len() {
            1 => Ok(all.into_iter().next().expect("there is one")),
            0 => {
                Err(Failure::new("cannot end a topology", "there is none")
                    .hint("`viewnet up FILE` makes one"))
            }
            _ => {
                let list: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
                Err(Failure::new("cannot end a topology", format!("there are {}", list.join(", ")))
                    .hint("say which one"))
            }
        };
    };
    let file = Path::new(given).canonicalize().ok();
    let is_of_file =
        |folder: &Folder| folder.load().ok().flatten().is_some_and(|state| Some(state.file) == file);
    let found =
        all.iter().find(|(name, _)| name == given).or_else(|| all.iter().find(|(_, f)| is_of_file(f)));
    found.cloned().ok_or_else(|| {
        let hint = crate::topology::place::did_you_mean(given, &names);
        Failure::new(format!("cannot end topology {given}"), "it does not run").hint(hint)
    })
}

/// Those that are about to start must be there: better said before anything is made.
fn check_programs(plan: &Plan) -> Result<(), Failure> {
    let starts = plan.steps.iter().filter_map(|step| match step {
        Step::StartPrograms(programs) => Some(programs),
        _ => None,
    });
    for (name, program) in starts.flatten() {
        let word = program.command.words().remove(0);
        // Another PATH or folder: found, or not, when it starts.
        let elsewhere = program.environment.contains_key("PATH") || word.contains('/');
        if !elsewhere && find(&word.clone().into()).is_none() {
            return Err(Failure::new(
                format!("cannot start program {name}"),
                format!("`{word}` was not found"),
            )
            .hint("install it, or write its path"));
        }
    }
    Ok(())
}

/// The difference in words.
fn words(name: &str, plan: &Plan, dry_run: bool) -> String {
    if plan.changes.is_empty() {
        return format!("{name}: nothing to do\n");
    }
    let colours = std::io::stdout().is_terminal() && wants_colour();
    let line = |change: &Change| {
        let colour = match change.sign {
            Sign::Add => "\x1b[32m",
            Sign::Change => "\x1b[33m",
            Sign::Remove => "\x1b[31m",
        };
        let detail = if change.detail.is_empty() { String::new() } else { format!(": {}", change.detail) };
        // What the file's author wrote must not steer a terminal.
        let text: String = format!("{} {}{detail}", change.sign.symbol(), change.thing)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if colours { format!("{colour}{text}\x1b[0m\n") } else { text + "\n" }
    };
    let lines: String = plan.changes.iter().map(line).collect();
    if dry_run { lines + "nothing was done: --dry-run\n" } else { lines }
}

/// Waits until these programs, or all, have ended for good; a lost runner ends the wait.
fn wait(folder: &Folder, names: &[String]) -> Vec<Status> {
    loop {
        let Some(mut all) = runner::list(folder) else { return Vec::new() };
        all.retain(|status| names.is_empty() || names.contains(&status.name));
        if all.iter().all(|status| status.life == Life::Ended) {
            return all;
        }
        std::thread::sleep(LOOK);
    }
}

/// Programs, each with the name of its topology.
pub(crate) fn program_table<'a>(programs: impl Iterator<Item = (&'a str, &'a Status)>) -> String {
    let row = |(topology, status): (&str, &Status)| {
        let life = serde_json::to_value(status.life).ok();
        let outcome = match status.outcome {
            None => "-".to_owned(),
            Some(Outcome::Exited(code)) => format!("exit {code}"),
            Some(Outcome::Killed(signal)) => format!("signal {signal}"),
        };
        [
            topology.to_owned(),
            status.name.clone(),
            life.as_ref().and_then(|life| life.as_str()).unwrap_or_default().to_owned(),
            status.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            outcome,
            status.restarts.to_string(),
        ]
    };
    table(["TOPOLOGY", "PROGRAM", "STATE", "PID", "ENDED", "RESTARTS"], programs.map(row))
}
