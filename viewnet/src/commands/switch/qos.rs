//! `switch qos` and `switch reserve`: priorities, rates, queues and promises.
//!
//! A port's settings are set as a whole in the protocol; `qos set` reads the present ones and changes what was given.

use clap::Subcommand;
use switch::client::Client;
use switch::client::Request;
use switch::client::traffic::{PortQos, QosInfo, QosSet, QueueInfo, ReserveAdd, ReserveInfo, ReserveRm};
use switch::guard::{Exceed, Police};
use switch::qos::priority::{PcpMap, PriorityRules};
use switch::qos::queues::{Class, Shape};
use switch::qos::rate::{Rate, bytes};
use switch::qos::reserve::Reservation;
use switch::vlan::Vid;

use super::change::request;
use super::{OrOff, Target};
use crate::exit::{Failure, call_failed};
use crate::runtime::Runtime;
use crate::tables::{print, print_json, table};

const ASK: &str = "cannot ask the switch";

#[derive(Debug, Subcommand)]
pub(super) enum Qos {
    /// List the ports with priorities, rates or queues, and what the queues did
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a port; what is not given stays
    Set {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Make it a plain port again
    Rm {
        #[command(flatten)]
        target: Target,
        /// The port's name
        port: String,
    },
}

/// What `qos set` may change.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Settings {
    /// Priority of frames without tag, 0 to 7
    #[arg(long, value_name = "PCP", value_parser = clap::value_parser!(u8).range(0..=7))]
    default_pcp: Option<u8>,
    /// Believe the priority in tags, or give every frame the default
    #[arg(long, value_name = "YES", action = clap::ArgAction::Set)]
    trust: Option<bool>,
    /// What each priority of an arriving tag means: eight numbers, as 0,1,2,3,4,5,6,7
    #[arg(long, value_name = "MAP")]
    map_in: Option<PcpMap>,
    /// What is written into a leaving tag for each priority
    #[arg(long, value_name = "MAP")]
    map_out: Option<PcpMap>,
    /// Rate of arriving frames, as 50M; what is more is dropped. `off` for none
    #[arg(long, value_name = "RATE")]
    police: Option<OrOff<Rate>>,
    /// Bytes that may arrive at once
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    police_burst: Option<u32>,
    /// What happens to arriving frames beyond the rate: `drop`, or `mark` them to be dropped first
    #[arg(long, value_name = "ACTION", value_parser = exceed())]
    exceed: Option<Exceed>,
    /// Rate of leaving frames, as 100M; what is more waits. `off` for none
    #[arg(long, value_name = "RATE")]
    rate: Option<OrOff<Rate>>,
    /// Bytes that may leave at once [default: what leaves in 5 ms]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    burst: Option<u32>,
    /// Queues, lowest first, each with a weight, or strict, and maybe a rate of its own: as 1,4@20M,strict@50M
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    classes: Vec<Class>,
    /// The queue of each priority, from 0 [default: as 802.1Q recommends]
    #[arg(long, value_name = "MAP")]
    map: Option<PcpMap>,
    /// Bytes each queue holds [default: what leaves in 50 ms]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    queue_bytes: Option<u32>,
    /// How much of the rate may be reserved, in percent [default: 75]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    reservable: Option<u8>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Reserve {
    /// List what is promised, and what is free
    Ls {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Promise a VLAN a rate on a port; refused if it does not fit
    Add {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        place: Place,
        /// What it gets, whatever the others do: as 100M
        #[arg(long, value_name = "RATE")]
        rate: Rate,
        /// What it gets at most
        #[arg(long, value_name = "RATE")]
        max: Option<Rate>,
    },
    /// Take a promise back
    Rm {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        place: Place,
    },
}

/// Where a promise is kept.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The VLAN, 1 to 4094
    #[arg(long, value_name = "VID")]
    vlan: Vid,
    /// The port's name
    #[arg(long, value_name = "PORT")]
    port: String,
}

/// Reads `drop` or `mark`.
pub(super) fn exceed() -> impl clap::builder::TypedValueParser<Value = Exceed> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    PossibleValuesParser::new(["drop", "mark"]).map(|word| match word.as_str() {
        "mark" => Exceed::Mark,
        _ => Exceed::Drop,
    })
}

pub(super) fn run_qos(command: Qos, runtime: &Runtime) -> Result<(), Failure> {
    const WHAT: &str = "cannot change the port";
    match command {
        Qos::Ls { target, json } => {
            let ports = target.connect(runtime)?.qos().map_err(|e| call_failed(ASK, e))?;
            if json { print_json(&ports) } else { print(&qos_tables(&ports)) }
        }
        Qos::Rm { target, port } => {
            let qos = PortQos::default();
            request(&target, runtime, WHAT, &Request::QosSet(QosSet { port, qos }))
        }
        Qos::Set { target, port, settings } => {
            let mut client = target.connect(runtime)?;
            let qos = settings.apply(present(&mut client, &port)?)?;
            client.call(&Request::QosSet(QosSet { port, qos })).map_err(|e| call_failed(WHAT, e))
        }
    }
}

pub(super) fn run_reserve(command: Reserve, runtime: &Runtime) -> Result<(), Failure> {
    match command {
        Reserve::Ls { target, json } => {
            let list = target.connect(runtime)?.reservations().map_err(|e| call_failed(ASK, e))?;
            if json { print_json(&list) } else { print(&reserve_table(&list)) }
        }
        Reserve::Add { target, place, rate, max } => {
            let reservation = Reservation { vid: place.vlan, rate, max };
            let add = ReserveAdd { port: place.port, reservation };
            request(&target, runtime, "cannot reserve", &Request::ReserveAdd(add))
        }
        Reserve::Rm { target, place } => {
            let rm = ReserveRm { port: place.port, vid: place.vlan };
            request(&target, runtime, "cannot release", &Request::ReserveRm(rm))
        }
    }
}

/// A port's settings as they are; the switch itself says so if there is no such port.
fn present(client: &mut Client, port: &str) -> Result<PortQos, Failure> {
    let ports = client.qos().map_err(|e| call_failed(ASK, e))?;
    Ok(ports.into_iter().find(|info| info.port == port).map(|info| info.qos).unwrap_or_default())
}

impl Settings {
    /// The settings after this change.
    fn apply(self, present: PortQos) -> Result<PortQos, Failure> {
        let was = present.priority;
        let priority = PriorityRules {
            default_pcp: self.default_pcp.unwrap_or(was.default_pcp),
            trust: self.trust.unwrap_or(was.trust),
            ingress: self.map_in.unwrap_or(was.ingress),
            egress: self.map_out.unwrap_or(was.egress),
        };
        let police = police(present.police, self.police, self.police_burst, self.exceed)?;
        let mut shape = present.shape.unwrap_or_default();
        if let Some(rate) = self.rate {
            shape.rate = rate.0;
        }
        shape.burst_bytes = self.burst.or(shape.burst_bytes);
        if !self.classes.is_empty() {
            shape.classes = self.classes;
            // That of other classes would hardly fit.
            shape.map = None;
        }
        shape.map = self.map.or(shape.map);
        shape.queue_bytes = self.queue_bytes.or(shape.queue_bytes);
        shape.reservable_percent = self.reservable.unwrap_or(shape.reservable_percent);
        let is_plain = shape.rate.is_none() && shape.classes == Shape::default().classes;
        Ok(PortQos { priority, police, shape: (!is_plain).then_some(shape) })
    }
}

/// A policer after a change.
pub(super) fn police(
    present: Option<Police>,
    rate: Option<OrOff<Rate>>,
    burst_bytes: Option<u32>,
    exceed: Option<Exceed>,
) -> Result<Option<Police>, Failure> {
    let rate = match rate {
        Some(OrOff(None)) => return Ok(None),
        Some(OrOff(rate)) => rate,
        None => present.map(|police| police.rate),
    };
    match (rate, burst_bytes.is_some() || exceed.is_some()) {
        (Some(rate), _) => Ok(Some(Police {
            rate,
            burst_bytes: burst_bytes.or_else(|| present.and_then(|police| police.burst_bytes)),
            exceed: exceed.or_else(|| present.map(|police| police.exceed)).unwrap_or_default(),
        })),
        (None, false) => Ok(None),
        (None, true) => {
            Err(Failure::new("cannot limit arriving frames", "there is no rate").hint("give the rate, too"))
        }
    }
}

/// A policer in a table.
pub(super) fn police_cell(police: Option<Police>) -> String {
    police.map_or_else(
        || "-".to_owned(),
        |p| match p.exceed {
            Exceed::Drop => p.rate.to_string(),
            Exceed::Mark => format!("{}, then marked", p.rate),
        },
    )
}

fn qos_tables(ports: &[QosInfo]) -> String {
    let port_row = |info: &QosInfo| {
        let PortQos { priority, police, shape } = &info.qos;
        let map = |map: PcpMap| if map == PcpMap::IDENTITY { "-".to_owned() } else { map.to_string() };
        let rate = shape.as_ref().and_then(|shape| shape.rate);
        [
            info.port.clone(),
            priority.default_pcp.to_string(),
            if priority.trust { "yes" } else { "no" }.to_owned(),
            map(priority.ingress),
            map(priority.egress),
            police_cell(*police),
            rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
        ]
    };
    let heads = ["PORT", "PCP", "TRUST", "IN", "OUT", "POLICED", "RATE"];
    let mut text = table(heads, ports.iter().map(port_row));
    let queues = ports.iter().flat_map(|info| info.queues.iter().enumerate().map(move |(n, q)| (info, n, q)));
    let queue_row = |(info, number, queue): (&QosInfo, usize, &QueueInfo)| {
        let is_of_class =
            |pcp: &u8| info.classes_by_pcp.is_some_and(|map| usize::from(map.of(*pcp)) == number);
        let pcps: Vec<String> = (0..8).filter(is_of_class).map(|pcp| pcp.to_string()).collect();
        [
            info.port.clone(),
            queue.vid.map_or_else(|| number.to_string(), |vid| format!("vlan {vid}")),
            queue.class.map_or_else(|| "reserved".to_owned(), |class| class.to_string()),
            if queue.vid.is_some() || pcps.is_empty() { "-".to_owned() } else { pcps.join(",") },
            queue.counters.tx_frames.to_string(),
            queue.counters.tx_bytes.to_string(),
            queue.counters.dropped.to_string(),
            queue.waiting_frames.to_string(),
        ]
    };
    if ports.iter().any(|info| !info.queues.is_empty()) {
        let heads = ["PORT", "QUEUE", "SERVED", "PCP", "TX", "TX BYTES", "DROPPED", "WAITING"];
        text.push('\n');
        text.push_str(&table(heads, queues.map(queue_row)));
    }
    text
}

fn reserve_table(list: &[ReserveInfo]) -> String {
    let free = |bps: u64| Rate::from_bps(bps).map_or_else(|| "-".to_owned(), |rate| rate.to_string());
    let row = |info: &ReserveInfo| {
        [
            info.port.clone(),
            info.reservation.vid.to_string(),
            info.reservation.rate.to_string(),
            info.reservation.max.map_or_else(|| "-".to_owned(), |max| max.to_string()),
            info.counters.tx_frames.to_string(),
            info.counters.tx_bytes.to_string(),
            info.counters.dropped.to_string(),
            free(info.free_bps),
        ]
    };
    let heads = ["PORT", "VLAN", "RESERVED", "AT MOST", "TX", "TX BYTES", "DROPPED", "FREE ON PORT"];
    table(heads, list.iter().map(row))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        settings: Settings,
    }

    fn apply(present: PortQos, text: &str) -> PortQos {
        let words = std::iter::once("set").chain(text.split(' '));
        Typed::try_parse_from(words).unwrap().settings.apply(present).unwrap()
    }

    #[test]
    fn what_is_not_given_stays() {
        let first = apply(PortQos::default(), "--rate 100M --classes 1,4,strict --police 50M");
        let shape = first.shape.clone().unwrap();
        assert_eq!(shape.classes, [Class::weight(1), Class::weight(4), Class::STRICT]);
        let second = apply(first.clone(), "--default-pcp 5 --trust false --exceed mark");
        assert_eq!(second.shape, first.shape);
        assert_eq!((second.priority.default_pcp, second.priority.trust), (5, false));
        assert_eq!(second.police.map(|p| p.exceed), Some(Exceed::Mark));
        let third = apply(second, "--rate off --classes 1 --police off");
        assert_eq!((third.shape, third.police), (None, None));
    }
}
