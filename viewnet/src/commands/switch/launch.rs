//! Starting switches: `switch up`, the process it leaves behind, and the default switch.
//!
//! # Theory of operation
//! `up` runs this program again as `switch serve --detach`, which starts `switch serve` in a session of its
//! own and ends; so the switch is nobody's child, and whoever starts one from a long-lived process never has
//! to wait for it. The switch says on its standard output, one line, whether it has its socket; then it puts
//! that on /dev/null too. Nothing but the standard three descriptors comes along. Every switch, also one in the
//! foreground, has an eye ([`crate::eye`]) that removes its socket's file should it be killed; it ends in good
//! order should the eye be killed.
//!
//! [`ensure`] connects to a switch that ends when unused, the default one above all, and starts it if there is none. Two may do so at
//! once: the loser finds the path taken and connects to the winner's. The switch may be just ending: then the
//! greeting stays without answer, and the next attempt finds the path free. Holding the connection keeps
//! the switch alive.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use msocket_proto::line::{Refusal, Reply, unusable};
use nix::errno::Errno;
use stacks::gateway::serve::Lodger;
use switch::client::{Client, is_gone};
use switch::control::Vde;
use switch::serve::{Options, Server};

use super::change::plug;
use super::{DEFAULT, Target, VdeOptions, check_version, connect};
use crate::background::start_eye;
use crate::commands::options::file_mode;
use crate::commands::up::read_text;
use crate::exit::{Exit, Failure, call_failed};
use crate::eye::Eye;
use crate::runtime::Runtime;
use crate::topology::schema::{self as config, Age};
use crate::topology::settings;

/// After how long without ports and connections the default switch ends.
const DEFAULT_IDLE: Duration = Duration::from_millis(500);
/// After how long the switch of a link ends that nobody uses: a smol stack that failed is made anew by then.
const WIRE_IDLE: Duration = Duration::from_millis(100);
/// Attempts to reach or start the default switch, and the pause between two: two seconds in all.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);
/// Where this program is.
const SELF: &str = "/proc/self/exe";

/// `switch up`
#[derive(Debug, clap::Args)]
pub(super) struct Up {
    #[command(flatten)]
    target: Target,
    /// Stay in the foreground until Ctrl-C
    #[arg(long)]
    foreground: bool,
    /// Forget stations silent for so many seconds [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = age())]
    age: Option<u64>,
    /// Who may use the switch: the mode of its socket file, in octal [default: 0600]
    #[arg(long, visible_alias = "socket-mode", value_name = "MODE", value_parser = file_mode)]
    mode: Option<u32>,
    /// The group of its socket files, by name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Serve the console of vde_switch at this path, for unixterm and vdecmd
    #[arg(long, value_name = "PATH")]
    mgmt: Option<PathBuf>,
    /// Read settings, VLANs and ports from a TOML file, as in a topology's [switch.NAME]; options go first
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    config: Option<PathBuf>,
    #[command(flatten)]
    vde: VdeOptions,
}

/// `switch serve`, which users do not type.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    path: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long)]
    detach: bool,
    #[arg(long, value_parser = age())]
    age: u64,
    #[arg(long, value_parser = file_mode)]
    mode: u32,
    #[arg(long)]
    group: Option<String>,
    #[arg(long)]
    mgmt: Option<PathBuf>,
    /// Milliseconds
    #[arg(long)]
    idle: Option<u64>,
    #[arg(long)]
    wire: bool,
    /// JSON
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<Vde>(text))]
    vde: Option<Vde>,
}

fn age() -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(1..=1_000_000)
}

/// Starts a switch.
pub(super) fn up(up: Up, runtime: &Runtime) -> Result<(), Failure> {
    let file = up.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let options = Options {
        name: display_name(&up.target.name),
        path: up.target.path(runtime)?,
        mode: up.mode.or_else(|| file.mode.map(|mode| mode.0)).unwrap_or(0o600),
        group: up.group.or_else(|| file.group.clone()),
        mgmt: up.mgmt.or_else(|| file.mgmt.clone()).as_deref().map(absolute).transpose()?,
        age: Duration::from_secs(
            up.age.or_else(|| file.age.map(Age::seconds)).unwrap_or_else(|| Age::DEFAULT.seconds()),
        ),
        idle: None,
        is_wire: false,
        vde: match up.vde.resolve()? {
            None => file.vde.as_ref().map(config::VdeFolder::told).transpose()?,
            given => given,
        },
    };
    if up.foreground {
        let (server, mut eye) = set_up(&options)?;
        return run(server, &mut eye)
            .map_err(|e| Failure::io(format!("the switch `{}` failed", options.name), &e));
    }
    launch_patiently(&options)?;
    furnish(runtime, &up.target.name, &options, &file)
}

/// Reads the file of `--config`; paths in it are relative to it.
fn read_config(path: &Path) -> Result<config::Switch, Failure> {
    let (place, text) = read_text(path)?;
    let what = || format!("cannot use {}", path.display());
    let mut file = config::Switch::parse(&text).map_err(|problem| problem.failure(what()))?;
    if file.external {
        return Err(
            Failure::new(what(), "`external` is for switches that are there already").hint("leave it out")
        );
    }
    place.parent().into_iter().for_each(|folder| file.root(folder));
    Ok(file)
}

/// Gives a new switch its VLANs and ports; if one cannot be had, there is no switch either.
fn furnish(runtime: &Runtime, name: &str, options: &Options, file: &config::Switch) -> Result<(), Failure> {
    let furnish = || {
        let mut client = connect(&options.name, &options.path)?;
        // It was started with the rest.
        let begun =
            config::Switch { hub: false, stp: None, metrics: None, vlan: Default::default(), ..file.clone() };
        settings::change_switch(&mut client, &options.name, &begun, file)?;
        for (port_name, port) in &file.port {
            plug(runtime, name, port_name, port)?;
        }
        // Mirrors name other ports.
        let mut ports: Vec<_> = file.port.iter().collect();
        ports.sort_by_key(|(_, port)| port.mirror.is_some());
        for (port_name, port) in ports {
            let plain = port.with_settings(config::PortSettings::default());
            settings::change_port(&mut client, port_name, &plain, port)?;
        }
        Ok(())
    };
    furnish().inspect_err(|_| {
        let _ = connect(&options.name, &options.path).map(|mut client| client.down());
    })
}

/// How a switch is set up, beside its name.
#[derive(Debug)]
pub(crate) struct Definition {
    /// After how long a silent station is forgotten.
    pub(crate) age: Duration,
    /// Mode of its socket's file.
    pub(crate) mode: u32,
    /// Group of its sockets' files.
    pub(crate) group: Option<String>,
    /// Where its console is.
    pub(crate) mgmt: Option<PathBuf>,
    /// Where VDE's programs plug in.
    pub(crate) vde: Option<Vde>,
}

/// Starts a switch in the background, under a name that is known to be good.
pub(crate) fn start_switch(runtime: &Runtime, name: &str, definition: Definition) -> Result<(), Failure> {
    let Definition { age, mode, group, mgmt, vde } = definition;
    let (name, path) = (name.to_owned(), runtime.switch(name));
    let options = Options::new(&name, &path);
    launch_patiently(&Options { mode, group, mgmt, age, vde, ..options })
}

/// Starts a switch that only carries links of stacks ([`Options::is_wire`]), under a name that nobody has.
pub(super) fn start_wire(runtime: &Runtime) -> Result<(String, Client), Failure> {
    let pid = std::process::id();
    for number in 0..ATTEMPTS {
        let name = format!("wire-{pid}-{number}");
        let options = Options::new(&name, &runtime.switch(&name));
        match launch(&Options { idle: Some(WIRE_IDLE), is_wire: true, ..options }) {
            Ok(()) => return connect(&name, &runtime.switch(&name)).map(|client| (name, client)),
            Err(refusal) if refusal.errno == Some(libc::EADDRINUSE) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Failure::new("cannot start a switch for a link", "no name was free")
        .hint("`viewnet switch ls` lists who has them"))
}

/// Starts a switch; one that is just ending is waited for.
fn launch_patiently(options: &Options) -> Result<(), Failure> {
    for _ in 1..ATTEMPTS {
        match launch(options) {
            Err(refusal) if refusal.errno == Some(libc::EADDRINUSE) && is_ending(&options.path) => {
                std::thread::sleep(PAUSE);
            }
            other => return other.map_err(Failure::from),
        }
    }
    launch(options).map_err(Failure::from)
}

/// A path that means the same to a process in another folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::io(format!("cannot use {}", path.display()), &e))
}

/// Whether the switch at `path` takes connections but answers none: it is ending, or was killed and its
/// descriptors are still being closed.
fn is_ending(path: &Path) -> bool {
    match Client::connect(path) {
        Ok(mut client) => client.hello().is_err_and(|e| is_gone(&e)),
        Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
    }
}

/// A connection to the user's default switch, started if need be. It keeps the switch alive.
pub(crate) fn ensure_default(runtime: &Runtime) -> Result<Client, Failure> {
    ensure(runtime, DEFAULT)
}

/// A connection to a switch that ends when it is not used, started if need be. It keeps the switch alive.
pub(crate) fn ensure(runtime: &Runtime, name: &str) -> Result<Client, Failure> {
    let options = Options { idle: Some(DEFAULT_IDLE), ..Options::new(name, &runtime.switch(name)) };
    for _ in 0..ATTEMPTS {
        match Client::connect(&options.path) {
            Ok(mut client) => match client.hello() {
                Ok(hello) => return check_version(name, &hello).map(|()| client),
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(call_failed(&format!("cannot talk to the {name} switch"), e)),
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                match launch(&options) {
                    Ok(()) => continue,
                    Err(refusal) if refusal.errno == Some(libc::EADDRINUSE) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            Err(_) => return connect(name, &options.path),
        }
        std::thread::sleep(PAUSE);
    }
    Err(Failure::new(format!("cannot start the {name} switch"), "it comes and goes")
        .hint(format!("start one that stays: `viewnet switch up {name}`")))
}

/// Starts a switch in the background; when this returns, its socket answers.
fn launch(options: &Options) -> Result<(), Refusal> {
    let what = format!("cannot start the switch `{}`", options.name);
    let failed = |e: io::Error| Refusal::system(&what, e);
    if crate::nested::supervisor().is_some() {
        return Err(Refusal::new(what, "this is inside a view, which it would not outlive")
            .hint(format!("start it outside: `viewnet switch up {}`", options.name)));
    }
    let mut starter = serve_command(options, true).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = starter.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    let _ = starter.wait();
    match serde_json::from_str::<Reply<()>>(&line) {
        Ok(Reply::Ok(())) => Ok(()),
        Ok(Reply::Error(refusal)) => Err(refusal),
        Err(_) => Err(Refusal::new(what, "its process ended without a word")
            .hint(format!("`viewnet switch up {} --foreground` shows its last words", options.name))),
    }
}

fn serve_command(options: &Options, detach: bool) -> Command {
    let mut command = Command::new(SELF);
    command.arg0("viewnet");
    command.args(["switch", "serve"]).arg(&options.path).args(["--name", &options.name]);
    command.args(["--age", &options.age.as_secs().to_string()]);
    command.args(["--mode", &format!("{:o}", options.mode)]);
    if let Some(group) = &options.group {
        command.args(["--group", group]);
    }
    if let Some(mgmt) = &options.mgmt {
        command.arg("--mgmt").arg(mgmt);
    }
    if let Some(idle) = options.idle {
        command.args(["--idle", &idle.as_millis().to_string()]);
    }
    if options.is_wire {
        command.arg("--wire");
    }
    if let Some(vde) = options.vde.as_ref().and_then(|vde| serde_json::to_string(vde).ok()) {
        command.args(["--vde", &vde]);
    }
    if detach {
        command.arg("--detach");
    }
    command.current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The background process; says on standard output how it went.
pub(super) fn serve(args: Serve) -> Result<Exit, Failure> {
    let options = Options {
        name: args.name,
        path: args.path,
        mode: args.mode,
        group: args.group,
        mgmt: args.mgmt,
        age: Duration::from_secs(args.age),
        idle: args.idle.map(Duration::from_millis),
        is_wire: args.wire,
        vde: args.vde,
    };
    let failed = |e: io::Error| Failure::io(format!("cannot start the switch `{}`", options.name), &e);
    if args.detach {
        // Not waited for: it is to outlive us.
        let spawn = || serve_command(&options, false).stdout(Stdio::inherit()).spawn();
        switch::ports::close_on_exec().and_then(|()| spawn()).map_err(failed).inspect_err(say_why)?;
        return Ok(Exit::Done);
    }
    // Fails only for a leader of a process group, who needs no session to be on its own.
    let _ = nix::unistd::setsid();
    let (server, mut eye) = set_up(&options).inspect_err(say_why)?;
    say(&Reply::Ok(()));
    let null = std::fs::File::options().write(true).open("/dev/null").map_err(failed)?;
    nix::unistd::dup2_stdout(&null).map_err(|e| failed(e.into()))?;
    drop(null);
    // For top and ps, which would show `exe`.
    let _ = rustix::thread::set_name(c"viewnet-switch");
    run(server, &mut eye).map_err(failed)?;
    Ok(Exit::Done)
}

/// A switch that has its path, and the eye that clears up behind it.
fn set_up(options: &Options) -> Result<(Server, Eye), Failure> {
    let internal = |e: Errno| Failure::io(format!("cannot start the switch `{}`", options.name), &e.into());
    // First: it shall inherit nothing of the switch.
    let mut eye = start_eye().map_err(internal)?;
    let mut server = Server::new(options, Some(eye.as_fd())).map_err(|e| refuse(options, &e))?;
    eye.keep(&options.path).map_err(internal)?;
    server.take_in(Box::new(Lodger::receive));
    if let Some(mgmt) = &options.mgmt {
        eye.keep(mgmt).map_err(internal)?;
    }
    if let Some(vde) = &options.vde {
        server.serve_vde(vde)?;
        vde.path.iter().try_for_each(|folder| eye.keep(&folder.join("ctl"))).map_err(internal)?;
    }
    Ok((server, eye))
}

/// Runs the switch, whose eye learns of the socket files that come later.
fn run(server: Server, eye: &mut Eye) -> io::Result<()> {
    // What it does not take is cleared by the next who wants the path.
    server.run_with(&mut |path, is_there| {
        let _ = if is_there { eye.keep(path) } else { eye.forget(path) };
    })
}

fn say_why(failure: &Failure) {
    say(&Reply::Error(failure.refusal.clone()));
}

/// Whoever started us may be gone; that is no reason to end.
fn say(reply: &Reply<()>) {
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = io::stdout();
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
}

fn refuse(options: &Options, error: &io::Error) -> Failure {
    let refusal = unusable(format!("cannot start the switch `{}`", options.name), &options.path, error);
    let running = error.kind() == io::ErrorKind::AddrInUse && is_socket(&options.path);
    let seen = "see `viewnet switch show {0}`, or end it with `viewnet switch down {0}`";
    Failure::from(if running { refusal.hint(seen.replace("{0}", &options.name)) } else { refusal })
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket())
}

/// A switch that was named by its path calls itself by the file's name.
fn display_name(name: &str) -> String {
    Path::new(name).file_name().map_or_else(|| name.to_owned(), |file| file.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_its_last_part_as_name() {
        assert_eq!(display_name("lan"), "lan");
        assert_eq!(display_name("/tmp/x/lab.sock"), "lab.sock");
    }
}
