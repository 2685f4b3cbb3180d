//! `viewnet run`: a program in a view of its own.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use stacks::gateway::publish::Publish;

use crate::commands::options::{
    KindName, RuleOptions, StackOptions, hold_default, hold_switches, resolve, stack_named,
};
use crate::commands::publish;
use crate::exit::{Exit, Failure};
use crate::launch::{self, Plan, StackSpec};
use crate::runtime::{Runtime, check_name};
use ::switch::client::Client;
use nix::unistd::geteuid;
use stacks::config::StackConfig;

/// Run a program on a network stack of its own.
///
/// The program is not changed and needs no privilege. Its exit status, signals, terminal and job control
/// are its own: viewnet becomes the program once its view is ready. Without options the view has eth0 on
/// the default switch, whose gateway gives it addresses, names and a way out.
///
/// Exit status: the program's; 125 if viewnet could not set up the view, 126 if the program cannot be
/// executed, 127 if it was not found.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet run -- curl https://example.org/
  viewnet run --link lo -- make test
  viewnet run --name web --ip 10.0.0.1/24 -- python3 -m http.server 80
  viewnet run --ip 10.0.0.2/24 -- curl http://10.0.0.1/
  viewnet run --link 'eth0=switch:lan[vlan 10],ip=10.0.0.2/24,gw=10.0.0.1' -- ssh host
  viewnet run --stack smol --ip 10.0.0.3/24 -- curl http://10.0.0.1/
  viewnet run --link switch,ip=auto --publish 8080:80 -- nginx
  viewnet run --stack none -- make test
  viewnet run --stack host --rule 'to 10.8.0.0/16 via office' --rule 'port 25 deny' -- firefox")]
pub(crate) struct Args {
    /// Use a stack that is there: a name, a path, or a kind (`kernel`, `smol`, `none`, `host`)
    #[arg(long, value_name = "NAME|PATH|KIND")]
    stack: Option<String>,

    /// Name of the view and of its stack; others join it with --stack NAME
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    options: StackOptions,

    #[command(flatten)]
    rules: RuleOptions,

    /// Let ports of the host lead to ports of the view, by the gateway of its network: `8080:80`,
    /// `[ADDR:]PORT[-PORT][:PORT[-PORT]][/udp]`; `auto`: every TCP port that a program of the view listens on. See `viewnet publish`
    #[arg(long, value_name = "PORTS", conflicts_with = "preload_only")]
    publish: Vec<Publish>,

    /// Print a line on standard error for each call that viewnet answers
    #[arg(long)]
    trace: bool,

    /// Say what is set up
    #[arg(long, short)]
    verbose: bool,

    /// Stay the program's ancestor instead of becoming it, as a smol stack needs where an ordinary user may look
    /// at descendants only (kernel.yama.ptrace_scope=1); chosen by itself there
    #[arg(long)]
    parent: bool,

    /// Do not have dynamic programs load libvnet_preload.so (LD_PRELOAD), which spares them traps and shows them the
    /// view's files under /proc/net
    #[arg(long)]
    no_shim: bool,

    /// Without a supervisor, by libvnet_preload.so alone: where this machine has no seccomp notification. Static
    /// programs, and what libc does inside itself (names are looked up), use the machine's network. The stack is one
    /// that is kept, of kind kernel
    #[arg(long, requires = "stack", conflicts_with_all = ["no_shim", "trace", "parent"])]
    preload_only: bool,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs it; returns only if that fails.
pub(crate) fn run(args: Args) -> Result<Exit, Failure> {
    set_up(args).map_err(Failure::before_program)
}

fn set_up(args: Args) -> Result<Exit, Failure> {
    let choice = choose(&args)?;
    let runtime = Runtime::locate()?;
    let pid = std::process::id() as i32;
    let name = args.name.unwrap_or_else(|| free_name(&runtime, pid));
    check_name("view", &name)?;
    let ruled = resolve(&runtime, args.rules.rules(choice.rules())?)?;
    let (stack, switches) = match choice {
        Choice::Host if !ruled.rules.is_empty() => (StackSpec::Host, None),
        Choice::Host => {
            if crate::nested::supervisor().is_some() {
                return Err(Failure::new("cannot use the host's network", "this is already inside a view")
                    .hint("run it outside of the view"));
            }
            publish::of_a_view(&runtime, &name, &StackSpec::Host, args.publish)?;
            let error = launch::execute(&args.command, None);
            return error.map(|never| match never {});
        }
        Choice::Spec(mut spec, unsaid) => {
            let is_smol = matches!(spec, StackSpec::Smol(_));
            let hold = |config| hold((&runtime, &name), is_smol, config, unsaid, args.verbose);
            let switches = spec.config_mut().map(hold).transpose()?;
            (spec, switches)
        }
        Choice::Named(name) => (stack_named(&runtime, &name)?, None),
    };
    if args.preload_only {
        return preload_only(&stack, &args.command).map(|never| match never {});
    }
    let life = publish::of_a_view(&runtime, &name, &stack, args.publish)?;
    warn_of_lost_privileges(&args.command[0]);
    if args.verbose {
        let what = match &stack {
            StackSpec::New(_) => "a stack of its own".to_owned(),
            StackSpec::Kernel(_) => "a kernel stack of its own".to_owned(),
            StackSpec::Smol(_) => "a smol stack of its own".to_owned(),
            StackSpec::At(path) => format!("the stack at {}", path.display()),
            StackSpec::None => "no network".to_owned(),
            StackSpec::Host | StackSpec::Outer => "the network that is there".to_owned(),
        };
        eprintln!("viewnet: view {name} has {what}");
        ruled.rules.texts().iter().for_each(|rule| eprintln!("viewnet: rule: {rule}"));
    }
    let Args { command, trace, verbose, parent, no_shim, .. } = args;
    let plan =
        Plan { runtime, name, stack, ruled, pid, command, trace, verbose, parent, shim: !no_shim, life };
    let failed = launch::launch(&plan);
    drop(switches);
    failed.map(|never| match never {})
}

/// The switches of a new stack, `unsaid` if it is to be on the default network. Inside a view that network is there only
/// if somebody outside has started it; else the inner view has a loopback and nothing more.
fn hold(
    (runtime, name): (&Runtime, &str),
    is_smol: bool,
    config: &mut StackConfig,
    unsaid: bool,
    verbose: bool,
) -> Result<Vec<Client>, Failure> {
    if !unsaid {
        return hold_switches(runtime, name, is_smol, config);
    }
    match hold_default(runtime, name, is_smol, config) {
        Err(why) if crate::nested::supervisor().is_some() => {
            if verbose {
                let why = why.refusal;
                eprintln!("viewnet: the view has nothing but a loopback: {}: {}", why.what, why.why);
            }
            Ok(Vec::new())
        }
        held => held,
    }
}

/// The program in a view that the preloaded library makes.
fn preload_only(stack: &StackSpec, command: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let cannot = |why: &str| Failure::new("cannot make a view by the preloaded library alone", why);
    let StackSpec::At(path) = stack else {
        return Err(cannot("it serves no stack").hint("make one with `viewnet stack up` and give its name"));
    };
    // Better said now than by each socket.
    stacks::remote::describe(path).map_err(Failure::from)?;
    let path = path.to_str().ok_or_else(|| cannot("the stack's path is not UTF-8").hint("rename it"))?;
    if !crate::runtime::set_shim_alone(path) {
        return Err(cannot("there is no libvnet_preload.so beside viewnet, nor in ../lib").hint("install it"));
    }
    eprintln!(
        "viewnet: warning: without a supervisor static programs use the machine's network, and so does what libc \
         does inside itself, such as looking up names"
    );
    launch::execute(command, None)
}

impl Choice {
    /// The rules in the configuration file.
    fn rules(&self) -> &[String] {
        match self {
            Self::Spec(spec, _) => spec.config().map_or(&[], |config| &config.rules),
            Self::Host | Self::Named(_) => &[],
        }
    }
}

/// `run-PID`; a run nested in another one has the pid of the outer, and so a number behind it.
pub(super) fn free_name(runtime: &Runtime, pid: i32) -> String {
    let names = (1..).map(|n| format!("run-{pid}.{n}"));
    let mut names = std::iter::once(format!("run-{pid}")).chain(names);
    names.find(|name| !runtime.stack(name).exists()).expect("numbers do not run out")
}

enum Choice {
    Host,
    Named(String),
    /// A new stack; true: on the default network, if there is one.
    Spec(StackSpec, bool),
}

fn choose(args: &Args) -> Result<Choice, Failure> {
    let options = &args.options;
    let kind = match args.stack.as_deref() {
        None => options.kind,
        Some("kernel") => Some(KindName::Kernel),
        Some("smol") => Some(KindName::Smol),
        Some("none") => Some(KindName::None),
        Some("host") if !options.given() => return Ok(Choice::Host),
        Some(name) if options.given() => {
            return Err(Failure::new(
                format!("cannot change stack {name}"),
                "--stack takes a stack as it is; --link, --ip, --gw, --route, --limit, --config and --kind make a new one",
            )
            .hint("leave out one or the other"));
        }
        Some(name) => {
            if !name.contains('/') {
                check_name("stack", name)?;
            }
            return Ok(Choice::Named(name.to_owned()));
        }
    };
    let new = |spec: fn(StackConfig) -> StackSpec| {
        options.view().map(|(config, unsaid)| Choice::Spec(spec(config), unsaid))
    };
    match kind {
        None => new(StackSpec::New),
        Some(KindName::Kernel) => new(StackSpec::Kernel),
        Some(KindName::Smol) => new(StackSpec::Smol),
        Some(KindName::None) if options.describes_a_network() => {
            Err(Failure::new("cannot give a network to a view without one", "kind none has no interfaces")
                .hint("leave out --kind none, or the options of the network"))
        }
        Some(KindName::None) => Ok(Choice::Spec(StackSpec::None, false)),
    }
}

/// A set-user-ID program runs in a view of an ordinary user with that user's privileges only; better said
/// before it complains in its own words.
pub(super) fn warn_of_lost_privileges(program: &OsString) {
    if geteuid().is_root() {
        return;
    }
    let Some(path) = find(program) else { return };
    let Ok(meta) = path.metadata() else { return };
    if meta.permissions().mode() & 0o6000 != 0 {
        eprintln!(
            "viewnet: warning: {} is a set-user-ID program: inside a view it runs without that privilege \
             (no_new_privs); to have it as root, run viewnet itself from it",
            path.display()
        );
    }
}

/// As execvp(3) finds it.
pub(crate) fn find(program: &OsString) -> Option<PathBuf> {
    if Path::new(program).components().count() > 1 {
        return Some(program.into());
    }
    crate::runtime::search_path().map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn chosen(words: &[&str]) -> Result<Choice, Failure> {
        let line = ["viewnet", "run"].iter().chain(words).chain(&["--", "true"]);
        let cli = crate::cli::Cli::try_parse_from(line).unwrap();
        let crate::cli::Command::Run(args) = cli.command else { panic!("not run") };
        choose(&args)
    }

    #[test]
    fn without_options_a_new_stack_of_any_kind() {
        assert!(
            matches!(chosen(&[]), Ok(Choice::Spec(StackSpec::New(config), true)) if config == StackConfig::default())
        );
        for option in ["--stack", "--kind"] {
            assert!(matches!(chosen(&[option, "kernel"]), Ok(Choice::Spec(StackSpec::Kernel(_), true))));
            assert!(matches!(chosen(&[option, "smol"]), Ok(Choice::Spec(StackSpec::Smol(_), true))));
        }
        assert!(matches!(chosen(&["--kind", "none"]), Ok(Choice::Spec(StackSpec::None, false))));
        for said in [&["--link", "lo"][..], &["--ip", "10.0.0.1/24"], &["--link", "none"]] {
            assert!(matches!(chosen(said), Ok(Choice::Spec(_, false))), "{said:?}");
        }
        assert!(matches!(chosen(&["--stack", "lan1"]), Ok(Choice::Named(name)) if name == "lan1"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for words in
            [&["--stack", "lan1", "--ip", "10.0.0.1/24"][..], &["--stack", "none", "--ip", "10.0.0.1/24"]]
        {
            let Err(failure) = chosen(words) else { panic!("{words:?} was accepted") };
            assert!(failure.to_string().contains(':'));
        }
    }
}
