//! Frames that a stack's interfaces take and give, by a packet socket in its network.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::SystemTime;

use clap::Parser;
use nix::net::if_::{if_indextoname, if_nametoindex};
use switch::capture::Way;
use switch::capture::filter::Filter;
use switch::mirror::Direction;
use switch::ports::BUFFER_LEN;
use switch::ports::listener::{Heard, Listener};

use super::Args;
use super::output::{Captured, Output};
use super::wait::Wait;
use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};

/// Runs this command again, in a view of the stack.
pub(super) fn run(args: &Args, stack: &str) -> Result<Exit, Failure> {
    let mut words: Vec<OsString> =
        ["viewnet", "run", "--stack", stack, "--", "/proc/self/exe", "capture", "--here"]
            .map(OsString::from)
            .to_vec();
    let mut option = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            words.extend([OsString::from(name), value]);
        }
    };
    option("--interface", args.interface.clone().map(Into::into));
    option("--write", args.write.clone().map(Into::into));
    option("--count", args.count.map(|n| n.to_string().into()));
    option("--snaplen", args.snaplen.map(|n| n.to_string().into()));
    let way = clap::ValueEnum::to_possible_value(&args.direction);
    option("--direction", way.map(|way| way.get_name().into()));
    if args.cut {
        words.push("--cut".into());
    }
    words.extend(["--".into(), args.target.clone().into()]);
    words.extend(args.filter.iter().map(OsString::from));
    let cli = Cli::try_parse_from(words).map_err(|e| Failure::new("cannot capture the stack", e))?;
    let Command::Run(run) = cli.command else { return Ok(Exit::Failed) };
    crate::commands::run::run(run)
}

/// Captures the network in which this runs.
pub(super) fn here(args: &Args, filter: &Filter) -> Result<Exit, Failure> {
    let what = format!("cannot capture `{}`", args.target);
    let failed = |e: io::Error| Failure::io(&what, &e);
    let index = match &args.interface {
        Some(name) => Some(if_nametoindex(name.as_str()).map_err(|_| {
            Failure::new(&what, format!("it has no interface `{name}`"))
                .hint(format!("`viewnet stack show {}` lists them", args.target))
        })?),
        None => None,
    };
    let mut listener = Listener::open(index).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => Failure::new(&what, "its network is not yours to look at")
            .hint("ask its owner, or capture the port of the switch that it is plugged into"),
        _ => failed(e),
    })?;
    let mut output = Output::open(args)?;
    let wait = Wait::new(listener.as_fd()).map_err(|e| failed(e.into()))?;
    eprintln!("viewnet: capturing {}", args.target);
    let direction: Direction = args.direction.into();
    let mut buffer = vec![0; BUFFER_LEN];
    let mut lost = 0;
    loop {
        let flow = loop {
            match listener.receive(&mut buffer) {
                Ok(heard) => {
                    if take(&heard, filter, direction, &mut output)?.is_break() {
                        break ControlFlow::Break(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break ControlFlow::Continue(()),
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENETDOWN | libc::EINTR)) => {}
                Err(e) => return Err(failed(e)),
            }
        };
        output.flush()?;
        lost += listener.lost();
        if flow.is_break() || wait.sleep(true).map_err(|e| failed(e.into()))? {
            break;
        }
    }
    output.finish(lost)?;
    Ok(Exit::Done)
}

fn take(
    heard: &Heard<'_>,
    filter: &Filter,
    direction: Direction,
    output: &mut Output,
) -> Result<ControlFlow<()>, Failure> {
    let wanted = if heard.way == Way::In { direction.has_in() } else { direction.has_out() };
    if !wanted || !filter.matches(heard.bytes, heard.bytes.len()) {
        return Ok(ControlFlow::Continue(()));
    }
    let interface = heard.ifindex;
    if !output.knows(interface) {
        let name = if_indextoname(interface).ok().and_then(|name| name.into_string().ok());
        output.name(interface, &name.unwrap_or_else(|| format!("#{interface}")));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    output.take(&Captured {
        interface,
        way: heard.way,
        dropped: None,
        time_ns: now.as_nanos() as u64,
        hdr: heard.hdr,
        bytes: heard.bytes,
        len: heard.bytes.len(),
    })
}
