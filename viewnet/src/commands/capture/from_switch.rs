//! Frames that a switch tells.

use std::os::fd::AsFd;

use switch::capture::Record;
use switch::client::{CaptureInfo, CaptureRule, Request};
use switch::ports::BUFFER_LEN;

use super::output::{Captured, Output};
use super::wait::Wait;
use super::{Args, Target};
use crate::commands::switch::{each, reach_existing};
use crate::exit::{Exit, Failure, call_failed};
use crate::runtime::Runtime;

/// Captures ports of a switch.
pub(super) fn run(
    args: &Args,
    runtime: &Runtime,
    name: &str,
    ports: Option<Vec<String>>,
    filter: String,
) -> Result<Exit, Failure> {
    if args.interface.is_some() {
        return Err(
            Failure::new("cannot use -i here", "a switch has ports").hint(format!("write `{name}:PORT`"))
        );
    }
    let client = reach_existing(runtime, name)?;
    // A frame that is to be cut is needed whole.
    let snap = args.snaplen.filter(|_| !args.cut).unwrap_or(0);
    let rule = CaptureRule { ports, direction: args.direction.into(), snap, filter };
    let mut output = Output::open(args)?;
    let mut captured = client.capture(&rule).map_err(|e| call_failed("cannot capture", e))?;
    let failed = |e: nix::Error| Failure::io("cannot wait for frames", &e.into());
    let wait = Wait::new(captured.ring().as_fd()).map_err(failed)?;
    wait.end_with(captured.client().line()).map_err(failed)?;
    // For scripts that start what they want to see.
    eprintln!("viewnet: capturing {}", args.target);
    let broken = |e: switch::ports::ring::Broken| Failure::new("the capture ended", e).hint("begin it again");
    let mut buffer = vec![0; BUFFER_LEN];
    'capture: loop {
        while let Some((hdr, record)) = captured.next(&mut buffer).map_err(broken)? {
            match record {
                Record::Port(number, name) => output.name(number, name),
                Record::Frame(seen, bytes) => {
                    let frame = Captured {
                        interface: seen.port,
                        way: seen.way,
                        dropped: seen.dropped,
                        time_ns: seen.time_ns,
                        hdr,
                        bytes,
                        len: seen.len as usize,
                    };
                    if output.take(&frame)?.is_break() {
                        break 'capture;
                    }
                }
            }
        }
        output.flush()?;
        let is_there_more = captured.ring().arm().map_err(broken)?;
        if wait.sleep(!is_there_more).map_err(failed)? {
            break;
        }
        captured.ring().disarm();
    }
    // A switch that has ended has no answer, and lost nothing that we know of.
    let captures: Vec<CaptureInfo> = captured.client().call(&Request::CaptureLs).unwrap_or_default();
    output.finish(captures.iter().filter(|c| c.own).map(|c| c.lost).sum())?;
    Ok(Exit::Done)
}

/// The one switch that has a port of this name.
pub(super) fn with_port(runtime: &Runtime, port: &str) -> Result<Target, Failure> {
    let mut found = Vec::new();
    for (name, mut client) in each(runtime) {
        if client.ports().is_ok_and(|ports| ports.iter().any(|p| p.name == port)) {
            found.push(name);
        }
    }
    match &found[..] {
        [switch] => Ok(Target::Switch(switch.clone(), Some(vec![port.to_owned()]))),
        [] => Err(Failure::new(
            format!("cannot capture `{port}`"),
            "no switch, stack or port of a switch has this name",
        )
        .hint("see `viewnet switch ls`, `viewnet stack ls` and `viewnet switch port ls SWITCH`")),
        many => Err(Failure::new(
            format!("cannot capture `{port}`"),
            format!("several switches have such a port: {}", many.join(", ")),
        )
        .hint(format!("write `{}:{port}`", many[0]))),
    }
}
