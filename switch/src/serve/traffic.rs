//! Answers to requests about priorities, rates, queues, reservations, limits and pinned stations.

use std::time::Instant;

use msocket_proto::line::Refusal;

use super::connections::{Hall, refuse_port};
use crate::control::Answer;
use crate::control::Request;
use crate::control::traffic::{
    GuardInfo, GuardSet, MacAdd, MacRm, PortOpen, PortQos, QosInfo, QosSet, QueueInfo, ReserveAdd,
    ReserveInfo, ReserveRm, VlanSet,
};
use crate::fdb::MAX_ENTRIES_PER_PORT;
use crate::guard::{GuardRules, Shut};
use crate::port::PortId;
use crate::qos::queues::{PortQueues, ShapeError};
use crate::qos::reserve::{ReserveError, reservable};
use crate::switch::PortError;
use crate::vlan::Vid;

const RESERVE: &str = "cannot reserve";
const SHAPE: &str = "cannot set the port's queues";

/// Answers a request that is about traffic; `name` is the switch's.
pub(super) fn answer(
    now: Instant,
    request: Request,
    hall: &mut Hall<'_>,
    name: &str,
) -> Result<Answer, Refusal> {
    match request {
        Request::QosSet(set) => hall.qos_set(now, set),
        Request::QosLs => return Ok(Answer::Qos(hall.qos())),
        Request::GuardSet(set) => hall.guard_set(&set),
        Request::GuardLs => return Ok(Answer::Guards(hall.guards())),
        Request::PortOpen(PortOpen { port, open }) => {
            let id = hall.find(&port)?;
            match open {
                true => hall.switch.open_port(now, id),
                false => hall.switch.shut_port(now, id, Shut::Admin),
            }
            Ok(())
        }
        Request::ReserveAdd(add) => hall.reserve(now, &add, name),
        Request::ReserveRm(rm) => hall.release(now, &rm),
        Request::ReserveLs => return Ok(Answer::Reservations(hall.reservations())),
        Request::VlanSet(VlanSet { vid, police }) => {
            hall.switch.set_vlan_police(vid, police);
            Ok(())
        }
        Request::MacAdd(add) => hall.pin(now, &add),
        Request::MacRm(MacRm { vid, mac }) => match hall.switch.unpin(vid, mac) {
            true => Ok(()),
            false => {
                Err(Refusal::new("cannot unpin the station", format!("{mac} is not pinned in VLAN {vid}"))
                    .errno(libc::ENOENT)
                    .hint("`viewnet switch mac ls` shows which are"))
            }
        },
        // The others are answered where this was called, or before: the end, asked for by one who may.
        _ => Ok(()),
    }
    .map(Answer::Done)
}

impl Hall<'_> {
    fn find(&self, port: &str) -> Result<PortId, Refusal> {
        let unknown = || refuse_port(&PortError::Unknown(port.to_owned()));
        self.switch.find(port).ok_or_else(unknown)
    }

    fn qos_set(&mut self, now: Instant, set: QosSet) -> Result<(), Refusal> {
        let id = self.find(&set.port)?;
        let PortQos { priority, police, shape } = set.qos;
        if usize::from(priority.default_pcp) >= crate::qos::priority::PCPS {
            return Err(Refusal::new("cannot set the port's priority", "it is 0 to 7"));
        }
        let present = self.plugs.queues(id);
        let queues = match (shape, present) {
            (Some(shape), Some(present)) if *present.shape() == shape => None,
            (Some(shape), Some(present)) => Some(Some(present.reshaped(shape).map_err(refuse_shape)?)),
            (Some(shape), None) => Some(Some(PortQueues::new(shape).map_err(refuse_shape)?)),
            (None, Some(present)) => match present.reservations().next() {
                Some(reservation) => {
                    return Err(refuse_shape(ShapeError::Promised(reservation.vid, ReserveError::NoRate)));
                }
                None => Some(None),
            },
            (None, None) => None,
        };
        if let Some(queues) = queues {
            self.set_queues(now, id, queues, SHAPE)?;
        }
        self.switch.set_priorities(id, priority);
        if self.switch.port(id).is_some_and(|port| port.police() != police) {
            self.switch.set_police(id, police);
        }
        Ok(())
    }

    fn guard_set(&mut self, set: &GuardSet) -> Result<(), Refusal> {
        let id = self.find(&set.port)?;
        if set.guard.mac_limit.is_some_and(|limit| !(1..=MAX_ENTRIES_PER_PORT).contains(&limit)) {
            return Err(Refusal::new(
                "cannot limit the port's stations",
                format!("the limit is 1 to {MAX_ENTRIES_PER_PORT}"),
            ));
        }
        self.switch.set_guard(id, set.guard);
        Ok(())
    }

    fn pin(&mut self, now: Instant, add: &MacAdd) -> Result<(), Refusal> {
        const WHAT: &str = "cannot pin the station";
        let id = self.find(&add.port)?;
        if !add.mac.is_station() {
            return Err(Refusal::new(WHAT, format!("{} is a group's address, or nobody's", add.mac)));
        }
        if !self.switch.port(id).is_some_and(|port| port.vlans.carries(add.vid)) {
            let why = format!("port {} does not carry VLAN {}", add.port, add.vid);
            return Err(Refusal::new(WHAT, why).hint("see `viewnet switch port ls`"));
        }
        self.switch
            .pin(now, add.vid, add.mac, id)
            .map_err(|e| Refusal::new(WHAT, e).errno(libc::ENOSPC).hint("remove one that is not needed"))
    }

    fn reserve(&mut self, now: Instant, add: &ReserveAdd, name: &str) -> Result<(), Refusal> {
        let id = self.find(&add.port)?;
        if !self.switch.port(id).is_some_and(|port| port.vlans.carries(add.reservation.vid)) {
            let why = format!("port {} does not carry VLAN {}", add.port, add.reservation.vid);
            return Err(Refusal::new(RESERVE, why).hint("see `viewnet switch port ls`"));
        }
        let refused = |e: ReserveError| {
            let hint = match &e {
                ReserveError::NoRate => {
                    format!("give it one: viewnet switch qos set {name} {} --rate 1G", add.port)
                }
                ReserveError::TooMuch { .. } | ReserveError::Full => {
                    format!("see viewnet switch reserve ls {name}, and release what is not needed")
                }
                ReserveError::Taken(_) => "release it first".to_owned(),
                ReserveError::BadMax { .. } | ReserveError::Unknown(_) => String::new(),
            };
            let refusal = Refusal::new(RESERVE, e).errno(libc::ENOSPC);
            if hint.is_empty() { refusal } else { refusal.hint(hint) }
        };
        let present = self.plugs.queues(id).ok_or(ReserveError::NoRate).map_err(refused)?;
        let mut new = present.reshaped(present.shape().clone()).map_err(refuse_shape)?;
        new.reserve(add.reservation).map_err(refused)?;
        self.set_queues(now, id, Some(new), RESERVE)
    }

    fn release(&mut self, now: Instant, rm: &ReserveRm) -> Result<(), Refusal> {
        const WHAT: &str = "cannot release";
        let id = self.find(&rm.port)?;
        let none = |e: ReserveError| Refusal::new(WHAT, e).errno(libc::ENOENT);
        let present = self.plugs.queues(id).ok_or(ReserveError::Unknown(rm.vid)).map_err(none)?;
        let new = present.released(rm.vid).map_err(none)?;
        self.set_queues(now, id, Some(new), WHAT)
    }

    /// Takes back what ports promised to VLANs that they do not carry any more.
    pub(super) fn release_all_idle(&mut self, now: Instant) -> Answer {
        let ids: Vec<PortId> = self.switch.ports().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.release_idle(now, id));
        Answer::Done(())
    }

    fn release_idle(&mut self, now: Instant, id: PortId) {
        let (Some(port), Some(mut queues)) = (self.switch.port(id), self.plugs.queues(id)) else { return };
        let is_idle = |vid: &Vid| !port.vlans.carries(*vid);
        let idle: Vec<Vid> = queues.reservations().map(|promise| promise.vid).filter(is_idle).collect();
        let mut new = None;
        for vid in idle {
            if let Ok(released) = queues.released(vid) {
                queues = new.insert(released);
            }
        }
        if let Some(new) = new {
            // Fewer queues take no more memory.
            let _ = self.set_queues(now, id, Some(new), RESERVE);
        }
    }

    fn set_queues(
        &mut self,
        now: Instant,
        id: PortId,
        queues: Option<PortQueues>,
        what: &str,
    ) -> Result<(), Refusal> {
        self.plugs
            .set_queues(now, id, queues, self.switch)
            .map_err(|e| Refusal::new(what, e).errno(libc::ENOMEM).hint("give smaller --queue-bytes"))
    }

    fn qos(&self) -> Vec<QosInfo> {
        let info = |(id, port): (PortId, &crate::port::Port)| {
            let queues = self.plugs.queues(id);
            let shape = queues.map(|queues| queues.shape().clone());
            let qos = PortQos { priority: port.priorities, police: port.police(), shape };
            if qos == PortQos::default() {
                return None;
            }
            let classes = qos.shape.iter().flat_map(|shape| shape.classes.clone()).map(Some);
            let classes = classes.chain(std::iter::repeat(None));
            let states = queues.into_iter().flat_map(PortQueues::states);
            let list = states.zip(classes).map(|(state, class)| QueueInfo {
                class,
                vid: state.reservation.map(|r| r.vid),
                counters: state.counters,
                waiting_frames: state.frames,
                waiting_bytes: state.bytes,
            });
            let (queues, classes_by_pcp) = (list.collect(), queues.map(PortQueues::map));
            Some(QosInfo { port: port.name.clone(), qos, classes_by_pcp, queues })
        };
        self.switch.ports().filter_map(info).collect()
    }

    fn guards(&self) -> Vec<GuardInfo> {
        let ports = self.switch.ports();
        ports
            .filter(|(_, port)| port.guard_rules() != GuardRules::default() || port.shut.is_some())
            .map(|(id, port)| GuardInfo {
                port: port.name.clone(),
                guard: port.guard_rules(),
                macs: self.switch.fdb().count(id),
                shut: port.shut,
            })
            .collect()
    }

    fn reservations(&self) -> Vec<ReserveInfo> {
        let of_port = |(id, port): (PortId, &crate::port::Port)| {
            let queues = self.plugs.queues(id)?;
            let shape = queues.shape();
            let sum: u64 = queues.reservations().map(|r| r.rate.bps()).sum();
            let whole = shape.rate.map_or(0, |rate| reservable(rate, shape.reservable_percent));
            let name = port.name.clone();
            Some(queues.states().filter_map(move |state| {
                Some(ReserveInfo {
                    port: name.clone(),
                    reservation: state.reservation?,
                    free_bps: whole.saturating_sub(sum),
                    counters: state.counters,
                })
            }))
        };
        self.switch.ports().filter_map(of_port).flatten().collect()
    }
}

fn refuse_shape(error: ShapeError) -> Refusal {
    let refusal = Refusal::new(SHAPE, &error).errno(libc::EINVAL);
    match error {
        ShapeError::Promised(..) => refusal.hint("release it first: viewnet switch reserve rm"),
        _ => refusal,
    }
}
