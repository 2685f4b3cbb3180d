//! Links of stacks that lead further than a stack can plug in by itself.
//!
//! # Theory of operation
//! A kernel stack plugs into our switches only, a smol stack into a vde_switch or a TAP besides. Any other link is
//! carried by a switch of its own, a *wire*: one port is the link, opened by this process and so in its network, the
//! other one the stack's. Both are tunnel ports, so frames pass as they are, tags and all. The wire ends with its
//! stack: its link stays plugged in, but is no reason for it to go on.

use std::time::Duration;

use stacks::config::{Link, StackConfig};
use switch::client::Client;
use switch::link::Link as PortLink;
use switch::vlan::{PortVlans, Vid};

use super::change::put;
use super::launch::start_wire;
use super::links::Plug;
use crate::exit::Failure;
use crate::runtime::Runtime;

/// How often a link is tried whose address is in use, and the pause between two times: longer than a wire outlives its
/// stack.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);
/// What the link's port is called.
const PORT: &str = "link";

/// Lays wires for the links of a configuration that need them, and makes it plug into those. The wires are there
/// while the connections live that are returned, and as long as their stacks.
pub(crate) fn lay(
    runtime: &Runtime,
    is_smol: bool,
    config: &mut StackConfig,
) -> Result<Vec<Client>, Failure> {
    let mut held = Vec::new();
    for interface in &mut config.interfaces {
        let Link::To(link) = &interface.link else { continue };
        let is_direct = is_smol && matches!(link, PortLink::Vde { .. } | PortLink::Tap(_));
        if is_direct || interface.link.plug().is_some() {
            continue;
        }
        let through = || Some(PortVlans::Tunnel { vid: Vid::DEFAULT });
        let plug = || Plug { switch: "wire", port: PORT, plain: false, vlans: through() };
        let mut attempts = ATTEMPTS;
        let opened = loop {
            match plug().open(link, runtime) {
                // The wire of a stack that has just ended may have the address for a moment more.
                Err(e) if e.refusal.errno == Some(libc::EADDRINUSE) && attempts > 0 => attempts -= 1,
                other => break other?,
            }
            std::thread::sleep(PAUSE);
        };
        let (name, mut client) = start_wire(runtime)?;
        put(&mut client, link, &opened)?;
        interface.link = Link::switch(&name, through());
        held.push(client);
    }
    Ok(held)
}
