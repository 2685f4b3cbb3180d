//! Requests about the numbers of ports, and the programs that speak VDE.

use std::collections::BTreeSet;

use msocket_proto::line::Refusal;

use super::{Hall, refuse_port};
use crate::control::vde::{VdeEndpoint, VdeInfo, VdeKeep};
use crate::control::{Answer, Request};
use crate::port::PortId;
use crate::switch::PortError;

/// Answers those of the requests that are about such numbers.
pub(super) fn answer(request: Request, hall: &mut Hall<'_>) -> Result<Answer, Refusal> {
    match request {
        Request::VdeLs => Ok(Answer::Vde(list(hall))),
        Request::VdeKeep(keep) => {
            let id = number(hall, keep.number)?;
            change(hall, id, keep).map_err(|e| refuse_port(&e))?;
            Ok(Answer::Done(()))
        }
        Request::VdeRelease { number: n } => {
            let id = number(hall, n)?;
            if !hall.switch.release_place(id) {
                let why = format!("the number {n} is not kept");
                return Err(Refusal::new("cannot release the number", why)
                    .hint("`viewnet switch vde ls` lists those that are")
                    .errno(libc::ENOENT));
            }
            Ok(Answer::Done(()))
        }
        other => Err(Refusal::new("bad request", format!("{other:?} is not about VDE"))),
    }
}

fn number(hall: &Hall<'_>, number: u32) -> Result<PortId, Refusal> {
    let most = hall.switch.numbers();
    let index = number.checked_sub(1).filter(|_| number <= most);
    index.map(PortId::new).ok_or_else(|| refuse_port(&PortError::NoSuchNumber(most)))
}

fn change(hall: &mut Hall<'_>, id: PortId, keep: VdeKeep) -> Result<(), PortError> {
    let was_kept = hall.switch.place(id).is_some();
    let place = hall.switch.keep_place(id)?;
    place.allocatable = keep.allocatable.unwrap_or(place.allocatable && was_kept);
    place.user = keep.user.map_or(place.user, |user| user.id());
    place.group = keep.group.map_or(place.group, |group| group.id());
    if let Some(vlans) = keep.vlans {
        place.vlans = vlans.clone();
        hall.switch.set_vlans(id, vlans);
    }
    Ok(())
}

fn list(hall: &Hall<'_>) -> Vec<VdeInfo> {
    let (switch, plugs) = (&*hall.switch, &*hall.plugs);
    let of_programs = |id: &PortId| plugs.plug(*id).is_some_and(|plug| plug.user.is_some());
    let ports = switch.ports().map(|(id, _)| id).filter(of_programs);
    let ids: BTreeSet<PortId> = switch.places().map(|(id, _)| id).chain(ports).collect();
    let info = |id: PortId| {
        let (port, place, plug) = (switch.port(id), switch.place(id), plugs.plug(id));
        let kept = place.cloned().unwrap_or_default();
        let endpoints = plug.into_iter().flat_map(|plug| plug.endpoints());
        let mut endpoints: Vec<VdeEndpoint> =
            endpoints.map(|(endpoint, peer)| VdeEndpoint { endpoint, peer: peer.to_owned() }).collect();
        endpoints.sort_unstable_by_key(|endpoint| endpoint.endpoint);
        VdeInfo {
            number: id.index() as u32 + 1,
            port: port.map(|port| port.name.clone()),
            kept: place.is_some(),
            allocatable: place.is_none_or(|place| place.allocatable),
            user: kept.user,
            group: kept.group,
            vlans: port.map_or(kept.vlans, |port| port.vlans.clone()),
            current_user: plug.and_then(|plug| plug.user),
            endpoints,
        }
    };
    ids.into_iter().map(info).collect()
}
