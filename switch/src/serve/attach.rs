//! A port from the descriptors that came with a request.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use msocket_proto::line::Refusal;

use super::plugs::{Plug, Plugs};
use crate::control::Attach;
use crate::port::PortId;
use crate::ports::vde::FileName;
use crate::ports::{Kind, Wire};
use crate::vxlan;

const WHAT: &str = "cannot add the port";
/// What could be sent instead.
const FIT: &str =
    "send a TAP, a packet socket bound to an interface, a ring, a VDE plug, or a datagram or stream socket";
/// Characters at most of what is said of the other end.
const MAX_PEER: usize = 128;

/// What a port is made of.
pub(super) struct Made {
    pub(super) wire: Wire,
    /// The name of its socket, if that goes with it.
    pub(super) file: Option<FileName>,
    /// Who tells of its link.
    pub(super) watch: Option<OwnedFd>,
}

/// The port's descriptors, if they are what the request says. `trusted`: it comes from one who may change the switch.
pub(super) fn made(attach: &Attach, mut fds: Vec<OwnedFd>, trusted: bool) -> Result<Made, Refusal> {
    let may_be_watched = matches!(attach.kind, Kind::Tap | Kind::Packet);
    // Other ports of its network will rely on it; whoever holds a copy can read what is told to them.
    let watch = if may_be_watched && fds.len() == 2 { fds.pop().filter(|_| trusted) } else { None };
    let named = trusted && matches!(attach.kind, Kind::Dgram | Kind::Stream);
    let file = fds.first().filter(|_| named).and_then(FileName::of_socket);
    let wire = make(attach, fds).map_err(|e| e.hint(FIT))?;
    // Whoever shares a listening socket can make accept(2) wait.
    if attach.kind == Kind::Stream && wire.lifeline().is_some() && !trusted {
        return Err(Refusal::new(WHAT, "a listening socket is for the switch's user to give")
            .hint("send a connected one")
            .errno(libc::EPERM));
    }
    Ok(Made { wire, file, watch })
}

fn make(attach: &Attach, fds: Vec<OwnedFd>) -> Result<Wire, Refusal> {
    let more =
        usize::from(attach.mirrored || attach.kind == Kind::Ring && fds.len() > attach.kind.descriptors());
    let number = attach.kind.descriptors() + more;
    if fds.len() != number {
        let words = ["no descriptor", "one descriptor", "two descriptors", "three descriptors"];
        let words = words.get(number).unwrap_or(&"four descriptors");
        let why = format!("exactly {words} must come with the request");
        return Err(Refusal::new(WHAT, why));
    }
    let wire = match (attach.kind, &attach.vxlan) {
        (Kind::Ring, None) if attach.mirrored => Wire::mirrored(fds),
        (_, None) if attach.mirrored => return Err(Refusal::new(WHAT, "only a ring can be mirrored")),
        (Kind::Vxlan, None) => return Err(Refusal::new(WHAT, "a vxlan port needs its network: `vxlan`")),
        (Kind::Vxlan, Some(config)) if config.peers.len() > vxlan::MAX_PEERS => {
            return Err(Refusal::new(WHAT, format!("a tunnel has {} peers at most", vxlan::MAX_PEERS)));
        }
        (Kind::Vxlan, Some(config)) => {
            let fd = fds.into_iter().next().ok_or_else(|| Refusal::new(WHAT, "no descriptor came"))?;
            Wire::vxlan(fd, config.clone())
        }
        (_, Some(_)) => return Err(Refusal::new(WHAT, "only a vxlan port has a network")),
        (kind, None) => Wire::new(fds, kind),
    };
    wire.map_err(|e| {
        Refusal::new(WHAT, format!("the descriptor is not fit for a {:?} port: {e}", attach.kind))
    })
}

/// What is printable of what somebody says of the other end.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_PEER).collect()
}

/// Gives a tunnel another flood list.
pub(super) fn set_peers(plugs: &mut Plugs, id: PortId, peers: Vec<SocketAddr>) -> Result<(), Refusal> {
    let what = "cannot change the peers";
    let plug = plugs.plug_mut(id);
    let tunnel = plug.and_then(Plug::tunnel_mut).ok_or_else(|| Refusal::new(what, "it is no vxlan port"))?;
    if peers.len() > vxlan::MAX_PEERS {
        return Err(Refusal::new(what, format!("a tunnel has {} peers at most", vxlan::MAX_PEERS)));
    }
    tunnel.set_peers(peers);
    Ok(())
}
