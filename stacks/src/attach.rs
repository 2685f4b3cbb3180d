//! Plugging an interface into a switch: what stacks of every kind have in common.

use std::io;
use std::path::{Path, PathBuf};

use msocket_proto::line::{CallError, LineError, Refusal, unusable};
use switch::client::{Client, Impair, Kind, PortAdded, Request};
use switch::control::Attach;
use switch::link::Impaired;

use crate::config::Plug;

/// Names tried for a port before its switch's refusal counts.
const NAME_ATTEMPTS: u32 = 100;

/// The socket of the switch that the user calls `switch`; switches have theirs in the folder `switches`.
pub(crate) fn path(switches: &Path, switch: &str) -> PathBuf {
    if switch.contains('/') { PathBuf::from(switch) } else { switches.join(switch) }
}

/// Connects to the switch at `path`, called `switch` by the user, for `interface`.
pub(crate) fn connect(interface: &str, path: &Path, switch: &str) -> Result<Client, Refusal> {
    Client::connect(path).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if path == Path::new(switch) => {
            Refusal::new(failure(interface, switch), "nobody serves this path")
                .hint("`viewnet switch ls` and `viewnet vpn ls` show who does")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Refusal::new(failure(interface, switch), "there is no such switch")
                .hint(format!("start it with `viewnet switch up {switch}`"))
        }
        _ => unusable(failure(interface, switch), path, &why),
    })
}

/// Adds a port under the name of its stack and interface, or that with a number.
pub(crate) fn add(
    stack: &str,
    interface: &str,
    switch: &str,
    mut attach: Attach,
    mut add_port: impl FnMut(&Attach) -> Result<PortAdded, CallError>,
) -> Result<PortAdded, Refusal> {
    let what = failure(interface, switch);
    attach.name = Some(format!("{stack}.{interface}"));
    for again in 1..=NAME_ATTEMPTS {
        match add_port(&attach) {
            Ok(added) => return Ok(added),
            // A view of the same name is still saying its last words.
            Err(CallError::Refused(refusal))
                if refusal.errno == Some(libc::EEXIST) && again < NAME_ATTEMPTS =>
            {
                attach.name = Some(format!("{stack}.{interface}.{}", again + 1));
            }
            Err(CallError::Refused(refusal)) => return Err(refusal),
            Err(CallError::Line(LineError::Io(why))) => return Err(Refusal::system(what, why)),
            Err(CallError::Line(why)) => {
                let hint = format!("`viewnet switch ls` shows whether {switch} still runs");
                return Err(Refusal::new(what, why).hint(hint));
            }
        }
    }
    Err(Refusal::new(what, "no name was free for its port")
        .hint(format!("`viewnet switch port ls {switch}` shows who has them; choose another name")))
}

/// Has a switch host somebody at a port of its own, for `interface` of `stack`; `what` says who. False: it does not, or is
/// not this user's, and so whoever it is needs a process.
///
/// # Errors
/// No such switch, or its refusal.
pub(crate) fn host(
    (stack, interface): (&str, &str),
    switches: &Path,
    plug: &Plug<'_>,
    guest: bool,
    what: &str,
) -> Result<bool, Refusal> {
    let switch = plug.switch;
    let mut client = connect(interface, &path(switches, switch), switch)?;
    let peer = rustix::net::sockopt::socket_peercred(client.line().stream());
    if !peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
        return Ok(false);
    }
    let wanted = Attach { vlans: plug.vlans(), guest, ..Attach::new(Kind::Ring) };
    match add(stack, interface, switch, wanted, |attach| client.host(attach, what)) {
        Ok(added) => impair(&mut client, &added.name, plug).map(|()| true),
        Err(refusal) if refusal.errno == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// Has the switch impair the port `name` as its link says. What comes from the link to the stack leaves the switch.
pub(crate) fn impair(client: &mut Client, name: &str, plug: &Plug<'_>) -> Result<(), Refusal> {
    let Some(impaired) = plug.impaired else { return Ok(()) };
    let Impaired { ingress, egress, seed, .. } = impaired.clone();
    let change = Impair { port: name.to_owned(), ingress: egress, egress: ingress, seed };
    client.call(&Request::Impair(change)).map_err(|error| match error {
        CallError::Refused(refusal) => refusal,
        CallError::Line(why) => Refusal::new(format!("cannot impair the port {name}"), why),
    })
}

fn failure(interface: &str, switch: &str) -> String {
    format!("cannot plug {interface} into switch {switch}")
}
