//! Requests about settings, mirrors and captures.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use msocket_proto::line::Refusal;

use super::super::captures::MAX_CAPTURES;
use super::{Connections, Hall, refuse_port};
use crate::capture::filter::Filter;
use crate::control::{Answer, CaptureRule, MirrorInfo, MirrorRule, Request, Settings};
use crate::events::Event;
use crate::mirror::Mirror;
use crate::port::PortId;
use crate::ports::ring::Ring;
use crate::switch::{PortError, Switch};

/// Ports at most that a mirror or a capture may name; whoever wants more wants all.
const MAX_NAMED: usize = 1024;

impl Connections {
    /// Answers the requests that this file is about.
    pub(super) fn answer_seeing(
        &mut self,
        now: Instant,
        index: u32,
        request: Request,
        fds: Vec<OwnedFd>,
        hall: &mut Hall<'_>,
    ) -> Result<Answer, Refusal> {
        match request {
            Request::Set(settings) => set(settings, hall),
            Request::MirrorLs => Ok(Answer::Mirrors(mirror_list(hall.switch))),
            Request::MirrorAdd(rule) => add_mirror(hall.switch, rule),
            Request::MirrorRm { to } => remove_mirror(hall.switch, &to),
            Request::Capture(rule) => capture(now, index, rule, fds, hall),
            Request::CaptureLs => Ok(Answer::Captures(hall.plugs.captures.describe(index))),
            Request::Events => self.subscribe(now, index, hall),
            // All others were answered before.
            _ => Err(Refusal::new("bad request", "nobody here answers it").hint("ask for `hello` first")),
        }
    }
}

/// Changes the switch. The first that cannot be had ends it; what was changed before stays.
fn set(settings: Settings, hall: &mut Hall<'_>) -> Result<Answer, Refusal> {
    if let Some(age_s) = settings.age_s {
        if !(1..=1_000_000).contains(&age_s) {
            return Err(Refusal::new("cannot set the age", "it is 1 to 1,000,000 seconds"));
        }
        hall.switch.set_age(Duration::from_secs(age_s));
    }
    hall.access.change(&settings, hall.epoll)?;
    if let Some(mgmt) = settings.mgmt.as_ref().filter(|path| !path.as_os_str().is_empty()) {
        (hall.on_file)(mgmt, true);
    }
    if let Some(hub) = settings.hub {
        if hub && hall.switch.stp().is_some() {
            return Err(Refusal::new("cannot make a hub of the switch", "it has a spanning tree")
                .hint("turn that off: `viewnet switch set NAME --stp off`"));
        }
        hall.switch.set_hub(hub);
    }
    if let Some(vde) = settings.vde {
        super::super::vde::set(hall.vde, &vde, hall.epoll)?;
        hall.access.vde_is_at(&vde);
        vde.path.iter().for_each(|folder| (hall.on_file)(&folder.join("ctl"), true));
    }
    if let Some(place) = settings.metrics {
        hall.metrics.set(&place, hall.access.mode(), hall.epoll, hall.on_file)?;
        let value = hall.metrics.address().unwrap_or_else(|| "off".to_owned());
        hall.switch.events_mut().push(Event::Setting { name: "metrics".to_owned(), value });
    }
    Ok(Answer::Done(()))
}

pub(super) fn mirror_list(switch: &Switch) -> Vec<MirrorInfo> {
    let name = |id: PortId| switch.port(id).map(|port| port.name.clone()).unwrap_or_default();
    let info = |mirror: &Mirror| MirrorInfo {
        rule: MirrorRule {
            to: name(mirror.to),
            from: mirror.from.as_ref().map(|from| from.names().map(str::to_owned).collect()),
            direction: mirror.direction,
            vlans: mirror.vlans.clone(),
        },
        frames: mirror.frames,
        bytes: mirror.bytes,
    };
    switch.mirrors().iter().map(info).collect()
}

fn add_mirror(switch: &mut Switch, rule: MirrorRule) -> Result<Answer, Refusal> {
    let watched = |names: &[String]| {
        let ids = find_all(switch, names)?;
        Ok(names.iter().map(String::as_str).zip(ids).collect())
    };
    let from = rule.from.as_deref().map(watched).transpose()?;
    let mirror = Mirror {
        from,
        direction: rule.direction,
        vlans: rule.vlans,
        to: find(switch, &rule.to)?,
        frames: 0,
        bytes: 0,
    };
    switch.set_mirror(mirror).map_err(|e| refuse_port(&e))?;
    Ok(Answer::Done(()))
}

fn remove_mirror(switch: &mut Switch, to: &str) -> Result<Answer, Refusal> {
    let to = find(switch, to)?;
    switch.remove_mirror(to).map_err(|e| refuse_port(&e))?;
    Ok(Answer::Done(()))
}

/// Begins a capture of the connection `index` over the ring that came along.
fn capture(
    now: Instant,
    index: u32,
    rule: CaptureRule,
    fds: Vec<OwnedFd>,
    hall: &mut Hall<'_>,
) -> Result<Answer, Refusal> {
    const WHAT: &str = "cannot capture";
    if hall.plugs.captures.is_full() {
        return Err(Refusal::new(WHAT, format!("{MAX_CAPTURES} captures are running already"))
            .hint("end one of them")
            .errno(libc::ENOSPC));
    }
    find_all(hall.switch, rule.ports.as_deref().unwrap_or_default())?;
    let filter: Filter = rule.filter.parse().map_err(|e| {
        Refusal::new("cannot use the filter", e)
            .hint("write it as tcpdump's, e.g. `tcp port 80 and host 10.0.0.1`")
    })?;
    let fds = fds.try_into().map_err(|_| {
        Refusal::new(WHAT, "exactly three descriptors must come with the request").hint("send a ring")
    })?;
    let ring = Ring::attach(fds).map_err(|e| {
        Refusal::new(WHAT, format!("the descriptors are not fit for a ring: {e}")).hint("send a ring")
    })?;
    hall.plugs.captures.add(now, index, ring, filter, rule, hall.switch);
    Ok(Answer::Done(()))
}

fn find(switch: &Switch, name: &str) -> Result<PortId, Refusal> {
    switch.find(name).ok_or_else(|| refuse_port(&PortError::Unknown(name.to_owned())))
}

/// The ports of these names, in their order.
fn find_all(switch: &Switch, names: &[String]) -> Result<Vec<PortId>, Refusal> {
    if names.len() > MAX_NAMED {
        return Err(Refusal::new("too many ports", format!("at most {MAX_NAMED} may be named"))
            .hint("name none, which means all"));
    }
    names.iter().map(|name| find(switch, name)).collect()
}
