//! `viewnet stack`: stacks that outlive a program.

use std::path::PathBuf;

use stacks::remote;
use stacks::serve::Description;
use stacks::stack::Kind;

use crate::commands::options::{KindName, StackOptions, file_mode, hold_switches};
use crate::exit::{Exit, Failure};
use crate::keeper::{self, Restart, Up};
use crate::launch::explained;
use crate::runtime::{Runtime, check_name};
use crate::served::sockets;
use crate::tables::{print, print_json, table};

/// Make, list and end stacks that outlive a program.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a stack and keep it until `down`
    Up(Box<UpArgs>),
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
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = file_mode)]
    mode: u32,

    /// What to do when a smol stack fails: it stays down, or is made anew up to five times a minute. Its
    /// programs' sockets break either way
    #[arg(long, value_name = "WHEN", default_value = "never")]
    restart: Restart,
}

/// Runs the subcommand.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    match args.command {
        Command::Up(args) => up(&runtime, *args)?,
        Command::Ls { json } => ls(&runtime, json)?,
        Command::Show { stack, json } => show(&runtime, &stack, json)?,
        Command::Down { stack, force } => {
            remote::end(&runtime.stack(&stack), force).map_err(|refusal| {
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
        std::path::absolute(runtime.stack(&given)).map_err(|why| Failure::io("cannot use the path", &why))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    check_name("stack", &name)?;
    let mut config = args.options.stack()?;
    if !config.rules.is_empty() {
        return Err(Failure::new(format!("cannot give rules to stack {name}"), "rules are a view's")
            .hint("leave `rules` out of the file, and use --rule with `viewnet run`"));
    }
    let switches = hold_switches(runtime, &name, args.options.kind == Some(KindName::Smol), &mut config)?;
    let kind = if args.options.kind == Some(KindName::Smol) { Kind::Smol } else { Kind::Kernel };
    if kind == Kind::Kernel && args.restart != Restart::Never {
        return Err(Failure::new(format!("cannot restart stack {name}"), "a kernel stack does not fail")
            .hint("leave out --restart, or use --kind smol"));
    }
    let any = args.options.kind.is_none();
    keeper::up(runtime, &Up { name, path, mode: args.mode, config, kind, restart: args.restart }, any)?;
    drop(switches);
    Ok(())
}

/// Every stack of this user that answers; socket files of dead servers are cleared away.
pub(crate) fn all(runtime: &Runtime) -> Vec<Description> {
    let mut paths: Vec<PathBuf> = keeper::kept(runtime);
    paths.extend(sockets(&runtime.stacks()).unwrap_or_default());
    paths.sort();
    paths.dedup();
    paths.iter().filter_map(|path| remote::describe(path).ok()).collect()
}

fn ls(runtime: &Runtime, json: bool) -> Result<(), Failure> {
    let stacks = all(runtime);
    if json {
        return print_json(&stacks);
    }
    let rows = stacks.iter().map(|stack| {
        let addresses = stack.interfaces.iter().filter(|i| i.name != "lo").flat_map(|i| i.addresses.clone());
        [
            stack.name.clone(),
            stack.kind.name().into(),
            if stack.kept { "yes" } else { "no" }.into(),
            stack.users.len().to_string(),
            addresses.collect::<Vec<_>>().join(" "),
        ]
    });
    print(&table(["NAME", "KIND", "KEPT", "USERS", "ADDRESSES"], rows))
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
    if let Some(why) = &stack.failure {
        println!("failed: {why}");
    }
    for interface in &stack.interfaces {
        let state = if interface.up { "up" } else { "down" };
        let link = if interface.link.is_empty() { String::new() } else { format!(" on {}", interface.link) };
        let mac = if interface.mac.is_empty() { String::new() } else { format!(" {}", interface.mac) };
        println!("{}: {state} mtu {}{mac}{link}", interface.name, interface.mtu);
        for address in &interface.addresses {
            println!("    {address}");
        }
        if let Some(left) = interface.lease_s {
            println!("    leased for {left} s, and renewed");
        }
        if let Some(left) = interface.lease_v6_s {
            println!("    leased by DHCPv6 for {left} s, and renewed");
        }
    }
    for user in &stack.users {
        println!("used by view {} (process {})", user.view, user.pid);
        user.rules.iter().for_each(|rule| println!("    {rule}"));
    }
    Ok(())
}

/// An error of a step comes in the doctor's words, with this command's exit code.
pub(crate) fn kept_failure(refusal: msocket_proto::line::Refusal) -> Failure {
    explained(refusal).code(Exit::Failed)
}
