//! `switch port impair`: links that misbehave on purpose.

use switch::client::{self, Impairment, LineInfo, Request};
use switch::impair::Spec;

use super::Target;
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

/// `switch port impair`
#[derive(Debug, clap::Args)]
#[command(after_long_help = GRAMMAR)]
pub(super) struct Impair {
    #[command(flatten)]
    target: Target,
    /// The port's name; without it all impaired ports are shown
    port: Option<String>,
    /// What happens to frames that come in from the port's link; `none` ends it
    #[arg(long = "in", value_name = "SPEC", requires = "port")]
    ingress: Option<Spec>,
    /// What happens to frames that go out to the port's link; `none` ends it
    #[arg(long = "out", value_name = "SPEC", requires = "port")]
    egress: Option<Spec>,
    /// Where chance begins: the same frames meet the same fate
    #[arg(long, value_name = "N", requires = "port")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["ingress", "egress", "seed"])]
    json: bool,
}

/// What `--help` says of SPEC.
const GRAMMAR: &str = "\
A SPEC is a list of properties:
  delay 20ms [uniform 5ms | normal 5ms], delay table 1ms/2ms/30ms
  loss 1%, loss gilbert TO-BAD TO-GOOD [LOSS-BAD [LOSS-GOOD]]
  duplicate 1%, corrupt 0.1%, reorder 2%
  rate 10M (bits a second), mtu 1400, capacity 64k (bytes in flight)
or a Markov chain of states:
  state good: delay 5ms; state bad: loss 30%; every 100ms: good>bad 5%, bad>good 20%";

pub(super) fn run(args: Impair, runtime: &Runtime) -> Result<(), Failure> {
    let mut client = args.target.connect(runtime)?;
    let Impair { port, ingress, egress, seed, json, .. } = args;
    if let Some(port) = port.clone()
        && (ingress.is_some() || egress.is_some() || seed.is_some())
    {
        let change = client::Impair { port, ingress, egress, seed };
        return client.call(&Request::Impair(change)).map_err(|e| call_failed("cannot impair the port", e));
    }
    let mut all = client.impairments().map_err(|e| call_failed("cannot ask the switch", e))?;
    all.retain(|i| port.as_ref().is_none_or(|port| *port == i.port));
    if json {
        return print_json(&all);
    }
    let rows = all.iter().flat_map(|i| {
        let lines = [("in", &i.ingress), ("out", &i.egress)];
        lines.into_iter().filter_map(move |(way, line)| Some(row(i, way, line.as_ref()?)))
    });
    let head = [
        "PORT",
        "WAY",
        "PACKETS",
        "DELIVERED",
        "LOST",
        "FULL",
        "LONG",
        "TWICE",
        "CORRUPT",
        "OVERTOOK",
        "SPEC",
    ];
    print(&table(head, rows))
}

fn row(impairment: &Impairment, way: &str, line: &LineInfo) -> [String; 11] {
    let c = &line.counters;
    let state = if line.state.is_empty() { String::new() } else { format!(" (now {})", line.state) };
    [
        impairment.port.clone(),
        way.to_owned(),
        c.packets.to_string(),
        c.delivered.to_string(),
        c.lost.to_string(),
        c.overflowed.to_string(),
        c.too_long.to_string(),
        c.duplicated.to_string(),
        c.corrupted.to_string(),
        c.reordered.to_string(),
        format!("{}, seed {}{state}", line.spec, impairment.seed),
    ]
}
