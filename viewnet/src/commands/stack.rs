//! `viewnet stack`: stacks that outlive a program.

use std::path::PathBuf;

use msocket::line::is_dead;
use msocket::proto::Request;
use stacks::remote;
use stacks::serve::Description;

use crate::commands::options::{KindName, StackOptions, hold_switches};
use crate::exit::{Exit, Failure};
use crate::keeper::{self, Up};
use crate::launch::explained;
use crate::runtime::{Runtime, check_name};

/// Make, list and end stacks that outlive a program.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a stack and keep it until `down`
    Up(UpArgs),
    /// List this user's stacks, those of running views too
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a stack: path, kind, interfaces, addresses, users
    Show {
        /// Its name or path
        stack: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// End a stack
    Down {
        /// Its name or path
        stack: String,
        /// Even if programs use it: their network goes down
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// Its name, or a path for its socket
    #[arg(value_name = "NAME|PATH", required_unless_present = "name")]
    stack: Option<String>,

    /// The name, as `run` takes it
    #[arg(long, conflicts_with = "stack")]
    name: Option<String>,

    #[command(flatten)]
    options: StackOptions,

    /// File mode of its socket: who may use the stack (0600: you; 0660: the file's group; 0666: all)
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = parse_mode)]
    mode: u32,
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Up(args) => up(&runtime, args)?,
        Command::Ls { json } => ls(&runtime, json)?,
        Command::Show { stack, json } => show(&runtime, &stack, json)?,
        Command::Down { stack, force } => {
            remote::ask::<()>(&runtime.stack(&stack), &Request::Down { force }).map_err(|refusal| {
                let hint = refusal.hint.clone();
                Failure::from(refusal)
                    .hint(hint.unwrap_or_else(|| "`viewnet stack ls` lists the stacks there are".into()))
            })?;
        }
    }
    Ok(Exit::Done)
}

fn up(runtime: &Runtime, args: UpArgs) -> Result<(), Failure> {
    let given = args.stack.or(args.name).unwrap_or_default();
    if args.options.kind == Some(KindName::None) {
        return Err(Failure::new("cannot keep a stack of kind none", "there is nothing to keep")
            .hint("use `viewnet run --stack none`"));
    }
    let path =
        std::path::absolute(runtime.stack(&given)).map_err(|why| Failure::new("cannot use the path", why))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    check_name("stack", &name)?;
    let config = args.options.stack()?;
    let switches = hold_switches(runtime, &config)?;
    keeper::up(runtime, &Up { name, path, mode: args.mode, config })?;
    drop(switches);
    Ok(())
}

/// Every stack of this user that answers; socket files of dead servers are cleared away.
pub(crate) fn all(runtime: &Runtime) -> Vec<Description> {
    let mut paths: Vec<PathBuf> = keeper::kept(runtime);
    for entry in std::fs::read_dir(runtime.stacks()).into_iter().flatten().flatten() {
        if is_dead(&entry.path()) {
            let _ = std::fs::remove_file(entry.path());
        } else if !paths.contains(&entry.path()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    paths.iter().filter_map(|path| remote::describe(path).ok()).collect()
}

fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let stacks = all(runtime);
    if json {
        return print_json(&stacks);
    }
    let mut rows = vec![["NAME", "KIND", "KEPT", "USERS", "ADDRESSES"].map(str::to_owned)];
    for stack in &stacks {
        let addresses = stack.interfaces.iter().filter(|i| i.name != "lo").flat_map(|i| i.addresses.clone());
        rows.push([
            stack.name.clone(),
            stack.kind.name().into(),
            if stack.kept { "yes" } else { "no" }.into(),
            stack.users.len().to_string(),
            addresses.collect::<Vec<_>>().join(" "),
        ]);
    }
    print_table(&rows);
    Ok(())
}

fn show(runtime: &Runtime, stack: &str, json: bool) -> Result<(), Failure> {
    let path = runtime.stack(stack);
    let stack = remote::describe(&path).map_err(|refusal| {
        Failure::from(refusal).hint("`viewnet stack ls` lists the stacks that are there")
    })?;
    if json {
        return print_json(&stack);
    }
    println!("{}: {} stack at {}", stack.name, stack.kind.name(), stack.path.display());
    println!(
        "kept: {}, by process {}",
        if stack.kept { "until `stack down`" } else { "while its view runs" },
        stack.pid
    );
    for interface in &stack.interfaces {
        let state = if interface.up { "up" } else { "down" };
        let link = if interface.link.is_empty() { String::new() } else { format!(" on {}", interface.link) };
        let mac = if interface.mac.is_empty() { String::new() } else { format!(" {}", interface.mac) };
        println!("{}: {state} mtu {}{mac}{link}", interface.name, interface.mtu);
        for address in &interface.addresses {
            println!("    {address}");
        }
    }
    for user in &stack.users {
        println!("used by view {} (process {})", user.view, user.pid);
    }
    Ok(())
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a file mode is an octal number up to 0777".into()),
    }
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new("cannot print JSON", e))?;
    println!("{text}");
    Ok(())
}

pub(crate) fn print_table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(i, cell)| format!("{cell:<w$}", w = width(i))).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

/// An error of a step comes in the doctor's words, with this command's exit code.
pub(crate) fn kept_failure(refusal: msocket::line::Refusal) -> Failure {
    explained(refusal).code(Exit::Failed)
}
