//! `viewnet logs`: what a topology's programs wrote.

use std::io::Write;
use std::time::Duration;

use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::topology::log::{more, tail};
use crate::topology::state::Folder;

/// How often `--follow` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Show the output of a topology's programs.
///
/// The last of it is kept, one to two MiB for each program, until the topology is taken down.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The program; with its topology if several have one of that name
    #[arg(value_name = "[TOPOLOGY/]PROGRAM")]
    program: String,

    /// Only the last lines
    #[arg(long, short = 'n', value_name = "NUMBER")]
    lines: Option<usize>,

    /// Go on with what it writes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
}

/// Prints it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    let (topology, program) = match args.program.split_once('/') {
        Some((topology, program)) => (Some(topology), program),
        None => (None, args.program.as_str()),
    };
    let what = format!("cannot show the output of {}", args.program);
    let all =
        Folder::all(&runtime).into_iter().filter(|(name, _)| topology.is_none_or(|given| given == name));
    let all: Vec<(String, Folder)> =
        all.filter(|(_, f)| stacks::serve::is_name(program) && f.log(program).exists()).collect();
    let path = match &all[..] {
        [(_, folder)] => folder.log(program),
        [] => {
            return Err(Failure::new(what, "no topology that runs has started a program of that name")
                .hint("`viewnet ls --programs` lists them"));
        }
        [(first, _), ..] => {
            return Err(Failure::new(what, format!("{} topologies have one", all.len()))
                .hint(format!("say which: {first}/{program}")));
        }
    };
    let failed = |e: std::io::Error| Failure::io(&what, &e);
    let (text, mut read) = tail(&path, args.lines).map_err(failed)?;
    show(&text)?;
    while args.follow && path.exists() {
        std::thread::sleep(LOOK);
        // Between an old log and its successor there may be none.
        more(&path, &mut read).map_or(Ok(()), |text| show(&text))?;
    }
    Ok(Exit::Done)
}

/// As it is: bytes, not text.
fn show(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|e| Failure::io("cannot print", &e))
}
