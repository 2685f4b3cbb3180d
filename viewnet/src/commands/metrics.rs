//! `viewnet metrics`: the counters of all switches and stacks as Prometheus reads them.

use stacks::serve::Description;
use stacks::stack::InterfaceCounters;
use switch::metrics::{Exposition, Kind, Snapshot, expose};

use crate::commands::stack;
use crate::commands::switch::each;
use crate::exit::{Exit, Failure};
use crate::runtime::Runtime;
use crate::tables::print;

/// Print the counters of this user's switches and stacks in Prometheus' text format.
///
/// For node_exporter's textfile collector, for example. A switch gives its own over HTTP: `viewnet switch set
/// --metrics`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints them.
pub(crate) fn run(Args {}: &Args) -> Result<Exit, Failure> {
    let runtime = Runtime::locate()?;
    let mut out = Exposition::default();
    expose(&mut out, &snapshots(&runtime));
    let stacks = stack::all(&runtime);
    out.family(Kind::Gauge, "viewnet_stack_info", "A stack and its kind; always 1.");
    for stack in &stacks {
        out.sample(&[("stack", &stack.name), ("kind", stack.kind.name())], 1);
    }
    out.family(Kind::Gauge, "viewnet_stack_failed", "1 if the stack works no more.");
    for stack in &stacks {
        out.sample(&[("stack", &stack.name)], u8::from(stack.failure.is_some()));
    }
    out.family(Kind::Gauge, "viewnet_stack_views", "Views that use the stack.");
    for stack in &stacks {
        out.sample(&[("stack", &stack.name)], stack.users.len());
    }
    out.family(
        Kind::Counter,
        "viewnet_stack_calls_total",
        "Calls that the supervisor of the stack's own view answered.",
    );
    for stack in &stacks {
        for (call, count) in &stack.notifications {
            out.sample(&[("stack", &stack.name), ("call", call)], count);
        }
    }
    interfaces(&mut out, &stacks);
    print(&out.finish())?;
    Ok(Exit::Done)
}

/// What the stacks' interfaces counted, the loopback's too.
fn interfaces(out: &mut Exposition, stacks: &[Description]) {
    type Counter = (&'static str, &'static str, fn(&InterfaceCounters) -> u64);
    let counters: [Counter; 8] = [
        ("viewnet_interface_receive_packets_total", "Packets that a stack's interface received.", |c| {
            c.rx_packets
        }),
        ("viewnet_interface_receive_bytes_total", "Their bytes.", |c| c.rx_bytes),
        ("viewnet_interface_receive_errors_total", "Packets received that made no sense.", |c| c.rx_errors),
        ("viewnet_interface_receive_drops_total", "Packets received and dropped.", |c| c.rx_dropped),
        ("viewnet_interface_transmit_packets_total", "Packets that a stack's interface sent.", |c| {
            c.tx_packets
        }),
        ("viewnet_interface_transmit_bytes_total", "Their bytes.", |c| c.tx_bytes),
        ("viewnet_interface_transmit_errors_total", "Packets that could not be sent.", |c| c.tx_errors),
        ("viewnet_interface_transmit_drops_total", "Packets to be sent and dropped.", |c| c.tx_dropped),
    ];
    for (name, help, count) in counters {
        out.family(Kind::Counter, name, help);
        for stack in stacks {
            for interface in &stack.interfaces {
                let labels = [("stack", stack.name.as_str()), ("interface", interface.name.as_str())];
                out.sample(&labels, count(&interface.counters));
            }
        }
    }
}

/// What each switch that answers says of itself.
pub(crate) fn snapshots(runtime: &Runtime) -> Vec<Snapshot> {
    let ask = |(name, mut client): (String, switch::client::Client)| {
        let mut show = client.show().ok()?;
        // Two switches may give themselves the same name, their files not.
        show.name = name;
        let (ports, vlans) = (client.ports().ok()?, client.vlans().ok()?);
        // An older switch has none.
        let mirrors = client.mirrors().unwrap_or_default();
        Some(Snapshot { show, ports, vlans, mirrors })
    };
    each(runtime).into_iter().filter_map(ask).collect()
}
