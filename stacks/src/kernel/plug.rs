//! Plugging an interface of a kernel stack into a switch.
//!
//! # Theory of operation
//! The interface is a TAP with virtio-net headers where /dev/net/tun can be opened. Where it cannot, it is
//! one end of a veth; the other end waits in the closet, a network namespace that nobody sees, with a packet
//! socket on it. Either way the switch gets a descriptor to read and write frames with, over a control
//! connection that the [`Plug`] keeps: when it closes, whoever closed it, the switch lets go of the port.

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use switch::client::Client;
use switch::control::Attach;
use switch::ports::{Kind, packet, tap};

use super::SetUpError;
use super::interfaces::{Interfaces, index_of};
use super::namespace::{NetNamespace, Step, errno_of, sysctl};
use crate::attach;
use crate::config;

thread_local! {
    /// The closet of this maker; it lives as long as the process or a packet socket in it.
    static CLOSET: OnceCell<NetNamespace> = const { OnceCell::new() };
}
/// Numbers the far ends in the closet.
static NEXT_FAR: AtomicU32 = AtomicU32::new(0);

/// A port of a switch that lasts as long as this value.
#[derive(Debug)]
pub(super) struct Plug {
    /// The connection; the port goes with it.
    _client: Client,
}

/// Makes interface `name` in `namespace`, where this process is, and plugs it into the switch at `path` as a port named
/// after the `stack`.
pub(super) fn plug(
    namespace: &NetNamespace,
    stack: &str,
    name: &str,
    path: &Path,
    plug: &config::Plug<'_>,
) -> Result<Plug, SetUpError> {
    let switch = plug.switch;
    let mut client = attach::connect(name, path, switch)?;
    let (fd, kind) = match tap::open(Path::new(tap::DEVICE), name) {
        Ok((fd, _)) => (fd, Kind::Tap),
        Err(why) => {
            log::debug!("{name}: no TAP, for {} answers: {why}", tap::DEVICE);
            (veth(namespace, name)?, Kind::Packet)
        }
    };
    let wanted = Attach { vlans: plug.vlans(), dying: kind == Kind::Tap, ..Attach::new(kind) };
    let added = attach::add(stack, name, switch, wanted, |attach| client.add_port(&fd, attach))?;
    attach::impair(&mut client, &added.name, plug)?;
    Ok(Plug { _client: client })
}

/// Makes interface `name` in `namespace`, where this process is, plugged into nothing: no carrier.
pub(super) fn unplugged(namespace: &NetNamespace, name: &str) -> Result<(), SetUpError> {
    with_far_end(namespace, name, |_| Ok(()))
}

/// Makes a veth whose far end is in the closet, and opens that end.
fn veth(namespace: &NetNamespace, name: &str) -> Result<OwnedFd, SetUpError> {
    with_far_end(namespace, name, |far| {
        let index = index_of(far)?;
        Interfaces::open()?.up(index)?;
        packet::open(index).map_err(|e| SetUpError::Step(Step::Plug, errno_of(&e)))
    })
}

/// Makes a veth between `namespace` and the closet and does something with its far end, there.
fn with_far_end<T>(
    namespace: &NetNamespace,
    name: &str,
    then: impl FnOnce(&str) -> Result<T, SetUpError>,
) -> Result<T, SetUpError> {
    CLOSET.with(|closet| {
        if closet.get().is_none() {
            let made = NetNamespace::create().inspect(|_| {
                // The far ends are cables, not stations: they shall not speak (no such file without IPv6).
                let _ = sysctl("net/ipv6/conf/default/disable_ipv6", "1");
            });
            enter(namespace)?;
            let _ = closet.set(made?);
        }
        let closet = closet.get().expect("it was just made");
        let far = format!("far{}", NEXT_FAR.fetch_add(1, Ordering::Relaxed));
        Interfaces::open()?.add_veth(name, &far, closet.as_fd().as_raw_fd()).map_err(|refusal| {
            match refusal.errno.map(Errno::from_raw) {
                // The name's fault, not the machine's.
                None | Some(Errno::EINVAL | Errno::EEXIST | Errno::ERANGE) => SetUpError::Refused(refusal),
                Some(errno) => SetUpError::Step(Step::Plug, errno),
            }
        })?;
        enter(closet)?;
        let done = then(&far);
        enter(namespace)?;
        done
    })
}

fn enter(namespace: &NetNamespace) -> Result<(), Refusal> {
    namespace.enter().map_err(|e| Refusal::system("cannot enter a network namespace", e))
}
