//! What happens in a switch, for those who want to be told.
//!
//! # Theory of operation
//! The switch puts an [`Event`] into its [`EventLog`] whenever its configuration or its forwarding database changes,
//! while somebody listens; while nobody does, that is one branch at places that no frame to a known station comes by.
//! The shell takes the events after each round and gives them a time. The log is bounded: what comes faster is
//! counted, and told as one [`Event::Lost`].
//!
//! Drops are counted per frame, so nothing is said for each: [`DropWatch`] looks at the counters now and then, and tells
//! where drops began.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::frame::Mac;
use crate::port::{DropReason, PortId};
use crate::stp::config::State;
use crate::switch::Switch;
use crate::vlan::{PortVlans, Vid};

/// Version of the events' form.
pub const VERSION: u32 = 1;
/// Events at most between two rounds of the shell: a burst of frames from new stations is 64.
pub const MAX_PENDING: usize = 1024;
/// So many moves in [`FLAP_WINDOW`] make a station one that flaps: a live migration moves it once, a failover twice.
pub const FLAP_MOVES: u32 = 5;
/// See [`FLAP_MOVES`].
pub const FLAP_WINDOW: Duration = Duration::from_secs(10);
/// Stations at most whose moves are counted at the same time.
const MAX_MOVERS: usize = 1024;
/// How often [`DropWatch`] wants to look.
pub const DROP_LOOK: Duration = Duration::from_secs(1);
/// Drops that begin again after so long are told again.
const DROP_QUIET: Duration = Duration::from_secs(10);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are what they are called")]
pub enum Event {
    /// A port was plugged in.
    PortAdded { port: String, vlans: PortVlans },
    /// A port was pulled out.
    PortRemoved { port: String },
    /// A port has another name.
    PortRenamed { port: String, was: String },
    /// A port has other VLANs.
    PortVlans { port: String, vlans: PortVlans },
    /// A program that speaks VDE has a seat at a port.
    EndpointAdded { port: String, endpoint: u32, peer: String },
    /// Such a program is gone.
    EndpointRemoved { port: String, endpoint: u32 },
    /// A port's link went up or down.
    PortLink { port: String, up: bool },
    /// The spanning tree has a port do something else.
    PortState { port: String, state: State },
    /// The spanning tree has another root, or another port leads there.
    RootChanged {
        root: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
    /// A station was heard for the first time.
    StationLearned { vlan: Vid, mac: Mac, port: String },
    /// A station was heard on another port.
    StationMoved { vlan: Vid, mac: Mac, port: String, was: String },
    /// A station moves again and again: it is on two ports, or there is a loop.
    StationFlapping { vlan: Vid, mac: Mac, port: String, was: String, moves: u32 },
    /// A station was silent for too long.
    StationAged { vlan: Vid, mac: Mac, port: String },
    /// Stations were forgotten by command.
    StationsFlushed { count: usize },
    /// A VLAN has a name.
    VlanNamed { vlan: Vid, name: String },
    /// A VLAN was forgotten.
    VlanRemoved { vlan: Vid },
    /// A mirror was added or changed.
    MirrorAdded { to: String },
    /// A mirror was removed.
    MirrorRemoved { to: String },
    /// A setting of the switch has another value.
    Setting { name: String, value: String },
    /// A port begins to drop frames; `total` is how many it has dropped for this reason.
    DropsBegan { port: String, reason: DropReason, total: u64 },
    /// So many events came too fast to be told.
    Lost { count: u64 },
    /// The last one: the reader does not read as fast as events come.
    TooSlow,
    /// The last one: the switch has ended. The reader's end says so.
    SwitchGone,
}

/// An event as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// [`VERSION`].
    pub version: u32,
    /// When, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Name of the switch.
    pub switch: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Events that are yet to be told.
#[derive(Debug, Default)]
pub struct EventLog {
    is_on: bool,
    pending: Vec<Event>,
    lost: u64,
    movers: FxHashMap<(Vid, Mac), (Instant, u32)>,
}

impl EventLog {
    /// Does somebody listen?
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Begins or ends listening; what was not told is forgotten with the end.
    pub fn listen(&mut self, is_on: bool) {
        match is_on {
            true => self.is_on = true,
            false => *self = Self::default(),
        }
    }

    /// Something happened.
    pub fn push(&mut self, event: Event) {
        if !self.is_on {
            return;
        }
        if self.pending.len() < MAX_PENDING {
            self.pending.push(event);
        } else {
            self.lost += 1;
        }
    }

    /// A station moved from the port called `was` to the one called `port`.
    pub(crate) fn moved(&mut self, now: Instant, vlan: Vid, mac: Mac, port: &str, was: &str) {
        if !self.is_on {
            return;
        }
        let (port, was) = (port.to_owned(), was.to_owned());
        self.push(Event::StationMoved { vlan, mac, port: port.clone(), was: was.clone() });
        if self.movers.len() >= MAX_MOVERS {
            self.movers.retain(|_, (since, _)| now.saturating_duration_since(*since) < FLAP_WINDOW);
        }
        if self.movers.len() >= MAX_MOVERS && !self.movers.contains_key(&(vlan, mac)) {
            return;
        }
        let (since, moves) = self.movers.entry((vlan, mac)).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= FLAP_WINDOW {
            (*since, *moves) = (now, 0);
        }
        *moves += 1;
        let moves = *moves;
        // Once per window.
        if moves == FLAP_MOVES {
            self.push(Event::StationFlapping { vlan, mac, port, was, moves });
        }
    }

    /// What happened since the last call.
    pub fn take(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.pending);
        let count = std::mem::take(&mut self.lost);
        if count > 0 {
            events.push(Event::Lost { count });
        }
        events
    }
}

/// Tells where drops begin.
#[derive(Debug, Default)]
pub struct DropWatch {
    /// Of each port and reason that ever dropped: how many, and when that was seen to grow.
    known: FxHashMap<(PortId, DropReason), (u64, Option<Instant>)>,
    is_begun: bool,
}

impl DropWatch {
    /// Looks at all ports; gives the drops that began since the last look. The first look gives none.
    pub fn look(&mut self, now: Instant, switch: &Switch) -> Vec<Event> {
        let mut events = Vec::new();
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        self.known.retain(|(id, _), _| switch.port(*id).is_some());
        for (id, port) in switch.ports() {
            for (reason, total) in port.counters.all_drops() {
                let (before, grown) = self.known.entry((id, reason)).or_insert((0, None));
                // The number may be another port's by now, and count from zero.
                *before = (*before).min(total);
                if total == *before {
                    continue;
                }
                *before = total;
                let was_quiet = grown.is_none_or(|at| now.saturating_duration_since(at) >= DROP_QUIET);
                *grown = is_begun.then_some(now);
                if is_begun && was_quiet {
                    events.push(Event::DropsBegan { port: port.name.clone(), reason, total });
                }
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::VnetHdr;
    use crate::port::Offloads;
    use crate::switch::Egress;

    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn switch() -> (Switch, Vec<PortId>) {
        let mut switch = Switch::new(Duration::from_secs(300));
        switch.events_mut().listen(true);
        let add = |name| switch.add_port(name, PortVlans::default(), Offloads::ALL).unwrap();
        let ports = ["a", "b"].map(add).to_vec();
        (switch, ports)
    }

    fn hear(switch: &mut Switch, now: Instant, port: PortId, station: u16) {
        let [x, y] = station.to_be_bytes();
        let frame = [&[0xFF; 6][..], &[2, 0, 0, 0, x, y], &[0x88, 0xB5, 0, 0]].concat();
        switch.handle_frame(now, port, &VnetHdr::default(), &frame, &mut Egress::new());
    }

    fn names(events: &[Event]) -> Vec<String> {
        let name = |e: &Event| serde_json::to_value(e).unwrap()["event"].as_str().unwrap().to_owned();
        events.iter().map(name).collect()
    }

    #[test]
    fn a_station_s_life() {
        let (now, (mut switch, ports)) = (start(), switch());
        hear(&mut switch, now, ports[0], 1);
        hear(&mut switch, now, ports[0], 1);
        hear(&mut switch, now, ports[1], 1);
        switch.handle_timeout(now + Duration::from_secs(400));
        let events = switch.events_mut().take();
        let expected = ["port_added", "port_added", "station_learned", "station_moved", "station_aged"];
        assert_eq!(names(&events), expected);
        let told = Told { version: VERSION, time_ms: 5, switch: "lan".into(), event: events[3].clone() };
        let text = r#"{"version":1,"time_ms":5,"switch":"lan","event":"station_moved","vlan":1,"mac":"02:00:00:00:00:01","port":"b","was":"a"}"#;
        assert_eq!(serde_json::to_string(&told).unwrap(), text);
        assert_eq!(serde_json::from_str::<Told>(text).unwrap(), told);
    }

    #[test]
    fn a_station_on_two_ports_flaps() {
        let (now, (mut switch, ports)) = (start(), switch());
        switch.events_mut().take();
        (0..20).for_each(|i| hear(&mut switch, now, ports[i % 2], 1));
        let events = names(&switch.events_mut().take());
        assert_eq!(events.iter().filter(|e| *e == "station_flapping").count(), 1);
        // Moves that are far apart are none.
        for i in 0..20 {
            hear(&mut switch, now + FLAP_WINDOW * (i as u32 + 1), ports[i % 2], 1);
        }
        assert!(!names(&switch.events_mut().take()).iter().any(|e| e == "station_flapping"));
    }

    #[test]
    fn the_log_is_bounded_and_off_without_listeners() {
        let (now, (mut switch, ports)) = (start(), switch());
        (0..3000).for_each(|station| hear(&mut switch, now, ports[0], station));
        let events = switch.events_mut().take();
        assert_eq!(events.len(), MAX_PENDING + 1);
        assert_eq!(events.last(), Some(&Event::Lost { count: 3002 - MAX_PENDING as u64 }));
        switch.events_mut().listen(false);
        hear(&mut switch, now, ports[1], 1);
        assert_eq!(switch.events_mut().take(), []);
    }

    #[test]
    fn drops_begin_and_begin_again() {
        let (now, (mut switch, ports)) = (start(), switch());
        let mut watch = DropWatch::default();
        switch.dropped(ports[0], DropReason::Full);
        assert_eq!(watch.look(now, &switch), [], "older than the watch");
        switch.dropped(ports[0], DropReason::Full);
        let began = Event::DropsBegan { port: "a".into(), reason: DropReason::Full, total: 2 };
        assert_eq!(watch.look(now + DROP_LOOK, &switch), [began]);
        switch.dropped(ports[0], DropReason::Full);
        assert_eq!(watch.look(now + 2 * DROP_LOOK, &switch), [], "they go on");
        switch.dropped(ports[0], DropReason::Full);
        assert_eq!(watch.look(now + DROP_QUIET + 3 * DROP_LOOK, &switch).len(), 1);
    }
}
