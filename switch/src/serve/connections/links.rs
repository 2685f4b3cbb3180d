//! Requests about what links are: part of a spanning tree, or impaired on purpose.

use std::time::Instant;

use msocket_proto::line::Refusal;

use super::{Hall, refuse_port};
use crate::control::{Answer, Request};
use crate::port::PortId;
use crate::serve::random_u64;
use crate::switch::{PortError, StpError};

/// Answers those of the requests that are about links.
pub(super) fn answer(now: Instant, request: Request, hall: &mut Hall<'_>) -> Result<Answer, Refusal> {
    let Hall { switch, plugs, .. } = hall;
    match request {
        Request::Stp => Ok(Answer::Tree(switch.stp_tree(now))),
        Request::StpSet(change) => {
            switch.set_stp(now, &change).map_err(|e| refuse_stp(&e))?;
            plugs.look_at_all(now, switch);
            Ok(Answer::Done(()))
        }
        Request::StpPortSet { port, change } => {
            let id = find(hall, &port)?;
            hall.switch.set_stp_port(now, id, &change).map_err(|e| refuse_stp(&e))?;
            Ok(Answer::Done(()))
        }
        Request::Impair(change) => {
            let id = find(hall, &change.port)?;
            hall.plugs.impair(id, &change, random_u64(), hall.epoll);
            Ok(Answer::Done(()))
        }
        Request::ImpairLs => {
            let ports = switch.ports();
            let impaired = ports.filter_map(|(id, port)| plugs.impairment(now, id, port.name.clone()));
            Ok(Answer::Impaired(impaired.collect()))
        }
        other => Err(Refusal::new("bad request", format!("{other:?} is not about links"))),
    }
}

fn find(hall: &Hall<'_>, name: &str) -> Result<PortId, Refusal> {
    hall.switch.find(name).ok_or_else(|| refuse_port(&PortError::Unknown(name.to_owned())))
}

fn refuse_stp(error: &StpError) -> Refusal {
    Refusal::new("cannot set the spanning tree", error).errno(libc::EINVAL)
}
