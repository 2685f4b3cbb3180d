//! Plugging an interface of a kernel stack into a switch.
//!
//! # Theory of operation
//! The interface is a TAP with virtio-net headers where /dev/net/tun can be opened. Where it cannot, it is
//! one end of a veth; the other end waits in the closet, a network namespace that nobody sees, with a packet
//! socket on it. Either way the switch gets a descriptor to read and write frames with, over a control
//! connection that the [`Plug`] keeps: when it closes, whoever closed it, the switch lets go of the port.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use msocket::line::{CallError, LineError, Refusal, unusable};
use nix::errno::Errno;
use switch::client::Client;
use switch::control::Attach;
use switch::ports::{Kind, packet, tap};
use switch::vlan::{PortVlans, Vid, VidSet};

use super::SetUpError;
use super::interfaces::{Interfaces, index_of};
use super::namespace::{NetNamespace, Step, errno_of, sysctl};
use crate::config::PortVlan;

thread_local! {
    /// The closet of this maker; it lives as long as the process or a packet socket in it.
    static CLOSET: OnceCell<NetNamespace> = const { OnceCell::new() };
}
/// Names tried for a port before its switch's refusal counts.
const NAME_ATTEMPTS: u32 = 100;
/// Numbers the far ends in the closet.
static NEXT_FAR: AtomicU32 = AtomicU32::new(0);

/// A port of a switch that lasts as long as this value.
#[derive(Debug)]
pub(super) struct Plug {
    /// The connection; the port goes with it.
    _client: Client,
}

/// Makes interface `name` in `namespace`, where this process is, and plugs it into the switch at `path`
/// (called `switch` by the user) as a port named after the `stack`.
pub(super) fn plug(
    namespace: &NetNamespace,
    stack: &str,
    name: &str,
    path: &Path,
    switch: &str,
    vlan: &PortVlan,
) -> Result<Plug, SetUpError> {
    let what = format!("cannot plug {name} into switch {switch}");
    let mut client = Client::connect(path).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Refusal::new(what.clone(), "there is no such switch")
                .hint(format!("start it with `viewnet switch up {switch}`"))
        }
        _ => unusable(what.clone(), path, &why),
    })?;
    let (fd, kind) = match tap::open(Path::new(tap::DEVICE), name) {
        Ok((fd, _)) => (fd, Kind::Tap),
        Err(why) => {
            log::debug!("{name}: no TAP, for {} answers: {why}", tap::DEVICE);
            (veth(namespace, name)?, Kind::Packet)
        }
    };
    let mut attach = Attach {
        name: Some(format!("{stack}.{name}")),
        kind,
        vlans: vlans(vlan)?,
        offloads: None,
        linger: false,
        dying: kind == Kind::Tap,
    };
    for again in 1..=NAME_ATTEMPTS {
        match client.add_port(&fd, &attach) {
            Ok(_) => return Ok(Plug { _client: client }),
            // A view of the same name is still saying its last words.
            Err(CallError::Refused(refusal))
                if refusal.errno == Some(libc::EEXIST) && again < NAME_ATTEMPTS =>
            {
                attach.name = Some(format!("{stack}.{name}.{}", again + 1));
            }
            Err(CallError::Refused(refusal)) => return Err(refusal.into()),
            Err(CallError::Line(LineError::Io(why))) => return Err(Refusal::system(what, why).into()),
            Err(CallError::Line(why)) => {
                let hint = format!("`viewnet switch ls` shows whether {switch} still runs");
                return Err(Refusal::new(what, why).hint(hint).into());
            }
        }
    }
    Err(Refusal::new(what, "no name was free for its port")
        .hint(format!("`viewnet switch port ls {switch}` shows who has them; choose another name"))
        .into())
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

/// The switch's words for the configuration's.
fn vlans(vlan: &PortVlan) -> Result<PortVlans, Refusal> {
    let vid = |number: u16| {
        Vid::new(number).ok_or_else(|| {
            Refusal::new("cannot use the VLAN", format!("{number} is no VLAN id")).hint("use 1 to 4094")
        })
    };
    Ok(match vlan {
        PortVlan::Default => PortVlans::default(),
        PortVlan::Access(number) => PortVlans::Access { vid: vid(*number)? },
        PortVlan::Trunk { allowed, native } => {
            let mut set = VidSet::none();
            for (first, last) in allowed {
                for number in *first..=*last {
                    set.insert(vid(number)?);
                }
            }
            PortVlans::Trunk { native: native.map(vid).transpose()?, allowed: set }
        }
    })
}
