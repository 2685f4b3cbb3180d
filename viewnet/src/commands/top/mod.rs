//! `viewnet top`: switches, their ports with rates, stacks, and the processes of views, live.
//!
//! # Theory of operation
//! [`sample`] asks everything that runs, once per interval. [`table`] makes tables of one sample and the one before it;
//! [`state`] is what the user has chosen by keys, and [`screen`] draws both. Those three are pure, and tested without a
//! terminal. The loop here waits for keys, the next sample, or a signal; however it ends, the terminal is as it was:
//! signals that would end the process end the loop instead, and a panic restores the terminal first.

mod processes;
mod sample;
mod screen;
mod state;
mod table;

use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event};
use serde_json::{Map, Value, json};

use self::sample::Sample;
use self::state::{State, Tab};
use self::table::Table;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::tables::{print, print_json};

/// How long a signal may wait until it is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Version of the JSON.
const VERSION: u32 = 1;

/// Show switches, ports with their rates, stacks and the processes of views, live.
///
/// Rates are of the last interval. Keys: `?` shows them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  viewnet top
  viewnet top --once
  viewnet top --json | jq '.ports[] | select(.drops_per_s > 0)'")]
pub(crate) struct Args {
    /// Seconds from one look to the next
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,

    /// Look twice, print tables, and end
    #[arg(long)]
    once: bool,

    /// Look twice, print JSON, and end
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.1..=60.0).contains(s));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it is 0.1 to 60 seconds".to_owned())
}

/// Shows it until the user has seen enough.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    if args.once || args.json {
        let before = Sample::take(&runtime);
        std::thread::sleep(args.interval);
        let sample = Sample::take(&runtime);
        return once(args, &sample, &before).map(|()| Exit::Done);
    }
    if !rustix::termios::isatty(io::stdout()) || !rustix::termios::isatty(io::stdin()) {
        return Err(Failure::new("cannot show a screen", "this is no terminal").hint("use --once or --json"));
    }
    let failed = |e: io::Error| Failure::io("cannot use the terminal", &e);
    let ends = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];
    let ends: SigSet = ends.into_iter().collect();
    let signals = ends
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|e| failed(e.into()))?;
    // Its panic hook restores the terminal, too.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(args, &runtime, &mut terminal, &signals);
    ratatui::restore();
    shown.map_err(failed)?;
    Ok(Exit::Done)
}

fn once(args: &Args, sample: &Sample, before: &Sample) -> Result<(), Failure> {
    if args.json {
        let seconds = sample.seconds_since(before);
        let mut all = Map::new();
        all.insert("version".to_owned(), json!(VERSION));
        all.insert("interval_s".to_owned(), json!(seconds));
        for tab in Tab::ALL {
            all.insert(tab.title().to_lowercase(), Table::of(tab, sample, Some(before)).json());
        }
        return print_json(&Value::Object(all));
    }
    let text: Vec<String> = Tab::ALL.iter().map(|&tab| Table::of(tab, sample, Some(before)).text()).collect();
    print(&text.join("\n"))
}

fn show(
    args: &Args,
    runtime: &Runtime,
    terminal: &mut ratatui::DefaultTerminal,
    signals: &SignalFd,
) -> io::Result<()> {
    let mut state = State::default();
    let mut before: Option<Sample> = None;
    let mut sample = Sample::take(runtime);
    let mut next = Instant::now() + args.interval;
    loop {
        let table = Table::of(state.tab(), &sample, before.as_ref());
        terminal.draw(|frame| screen::draw(frame, &mut state, &sample, table))?;
        // What was typed is taken whole before the next drawing.
        let mut wait = next.saturating_duration_since(Instant::now()).min(LOOK);
        while event::poll(wait)? {
            if let Event::Key(key) = event::read()?
                && state.handle_key(key)
            {
                return Ok(());
            }
            wait = Duration::ZERO;
        }
        if !matches!(signals.read_signal(), Ok(None)) {
            return Ok(());
        }
        if Instant::now() >= next {
            if !state.is_paused() {
                before = Some(std::mem::replace(&mut sample, Sample::take(runtime)));
            }
            next = Instant::now() + args.interval;
        }
    }
}
