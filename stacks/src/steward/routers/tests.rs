//! What is done about what routers say: a client that asks, a nameserver that is asked as long as it is one.

use std::collections::VecDeque;
use std::net::IpAddr;

use nix::errno::Errno;

use super::*;
use crate::config::{Link, StackConfig};
use crate::dhcp6::client::Change;
use crate::dhcp6::server::Server;
use crate::dhcp6::{Kind, Message};
use crate::gateway::advertise::advertisement;
use crate::gateway::dhcp::{Dhcp6, Said};
use crate::steward::Steward;
use crate::steward::nameserver::Nameserver;
use crate::steward::renewal;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);

/// Sockets are numbers; what is sent to whom, what was changed, and what routers say.
#[derive(Debug, Default)]
struct World {
    sockets: usize,
    open_v6: Option<usize>,
    said: Vec<(SocketAddr, Vec<u8>)>,
    answers: VecDeque<Vec<u8>>,
    advertised: VecDeque<Vec<u8>>,
    heard: usize,
    changes: Vec<Change>,
}

impl World {
    fn add(&mut self) -> Result<usize, Errno> {
        self.sockets += 1;
        Ok(self.sockets)
    }

    /// The last message of the client.
    fn asked(&self) -> Option<Message> {
        self.said.iter().rev().find(|(to, _)| to.port() == SERVER).and_then(|(_, it)| Message::parse(it))
    }
}

impl Sockets for World {
    type Id = usize;

    fn datagrams(&mut self, _: Option<SocketAddr>, _: SocketAddr) -> Result<usize, Errno> {
        self.add()
    }
    fn listener(&mut self, _: SocketAddr) -> Result<usize, Errno> {
        self.add()
    }
    fn connection(&mut self, _: SocketAddr) -> Result<usize, Errno> {
        self.add()
    }
    fn accept(&mut self, _: usize) -> Option<usize> {
        None
    }
    fn receive(&mut self, socket: usize, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let answer = Some(&mut self.answers).filter(|_| self.open_v6 == Some(socket))?.pop_front()?;
        buffer[..answer.len()].copy_from_slice(&answer);
        Some((answer.len(), SocketAddr::new(ROUTER.into(), SERVER)))
    }
    fn send(&mut self, _: usize, to: SocketAddr, data: &[u8]) {
        self.said.push((to, data.to_vec()));
    }
    fn read(&mut self, _: usize, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }
    fn write(&mut self, _: usize, _: &[u8]) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }
    fn finish(&mut self, _: usize) {}
    fn client(&mut self, _: &str) -> Result<usize, Errno> {
        self.add()
    }
    fn change(&mut self, _: &str, _: &renewal::Change) {}
    fn client_v6(&mut self, _: &str) -> Result<usize, Errno> {
        let socket = self.add()?;
        self.open_v6 = Some(socket);
        Ok(socket)
    }
    fn routers(&mut self, _: &str) -> Result<usize, Errno> {
        self.add()
    }
    fn advertisement(&mut self, _: usize, buffer: &mut [u8]) -> Option<(usize, Ipv6Addr)> {
        let said = self.advertised.pop_front()?;
        buffer[..said.len()].copy_from_slice(&said);
        Some((said.len(), ROUTER))
    }
    fn heard(&mut self, _: &str, _: &Heard) {
        self.heard += 1;
    }
    fn change_v6(&mut self, _: Instant, _: &str, change: &Change) {
        self.changes.push(change.clone());
    }
    fn close(&mut self, socket: usize) {
        if self.open_v6 == Some(socket) {
            self.open_v6 = None;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn said(nameserver: Option<&str>, dhcp: Dhcp6) -> Vec<u8> {
    let nameserver = nameserver.map(|text| text.parse().unwrap());
    advertisement([2, 0, 0, 0, 0, 1], 1500, "fd00::1/64".parse().unwrap(), nameserver, dhcp)
}

/// A steward of an interface that heard this before there was a stack, and asks that nameserver.
fn steward(now: Instant, world: &mut World, heard: &[u8], ask: &str) -> Steward<usize> {
    let mut interface = InterfaceConfig::new("eth0", Link::switch("lan", None));
    interface.mac = Some(MAC);
    interface.heard = Some(Heard { router: ROUTER, said: Advertisement::parse(heard).unwrap() });
    let nameserver = Nameserver { at: vec!["127.0.0.53".parse().unwrap()], ask: ask.parse().unwrap() };
    let config =
        StackConfig { interfaces: vec![interface], nameserver: Some(nameserver), ..Default::default() };
    Steward::new(now, world, &config, 7).unwrap().unwrap()
}

#[test]
fn an_address_is_asked_for_where_a_router_says_so() {
    let (t0, mut world) = (start(), World::default());
    let mut steward = steward(t0, &mut world, &said(None, Dhcp6::Off), "10.0.2.1");
    assert_eq!(steward.poll_timeout(), None);
    world.advertised.push_back(said(None, Dhcp6::Stateful));
    steward.turn(t0, &mut world);
    assert_eq!((world.heard, world.asked().map(|it| it.kind)), (1, Some(Kind::Solicit)));
    let mut server = Server::new("fd00::1/64".parse().unwrap(), [2, 0, 0, 0, 0, 1], true, Said::default());
    let asked = world.said.pop().unwrap().1;
    world.answers.push_back(server.handle(t0, &asked).unwrap());
    steward.turn(t0, &mut world);
    let [Change::Got(None, lease)] = &world.changes[..] else { panic!("{:?}", world.changes) };
    assert_eq!(steward.left_v6(t0, "eth0"), Some(lease.valid_s.into()));
    // Nobody waits for anything: the port is a program's.
    assert_eq!(world.open_v6, None);
    // The router's other word makes no other client.
    world.advertised.push_back(said(None, Dhcp6::Stateless));
    steward.turn(t0, &mut world);
    assert!(steward.left_v6(t0, "eth0").is_some());
    steward.end(t0, &mut world);
    assert_eq!(world.asked().map(|it| it.kind), Some(Kind::Release));
    assert_eq!((world.open_v6, steward.left_v6(t0, "eth0")), (None, None));
}

#[test]
fn names_are_asked_for_where_a_router_names_nobody() {
    let (t0, mut world) = (start(), World::default());
    let mut one = steward(t0, &mut world, &said(Some("fd00::53"), Dhcp6::Stateless), "fd00::53");
    one.turn(t0, &mut world);
    assert_eq!(world.asked(), None);
    let mut other = steward(t0, &mut world, &said(None, Dhcp6::Stateless), "fd00::53");
    other.turn(t0, &mut world);
    assert_eq!(world.asked().map(|it| it.kind), Some(Kind::InformationRequest));
    let mut server = Server::new("fd00::1/64".parse().unwrap(), [2, 0, 0, 0, 0, 1], false, Said::default());
    let asked = world.said.pop().unwrap().1;
    world.answers.push_back(server.handle(t0, &asked).unwrap());
    other.turn(t0, &mut world);
    assert_eq!(other.stub.unwrap().server().ip(), "fd00::1".parse::<IpAddr>().unwrap());
}

#[test]
fn a_nameserver_that_is_withdrawn_is_asked_no_more() {
    let (t0, mut world) = (start(), World::default());
    let mut steward = steward(t0, &mut world, &said(Some("fd00::53"), Dhcp6::Off), "fd00::53");
    let asked = |steward: &Steward<usize>| steward.stub.as_ref().unwrap().server().ip().to_string();
    // Another one: the first is one yet.
    world.advertised.push_back(said(Some("fd00::54"), Dhcp6::Off));
    steward.turn(t0, &mut world);
    assert_eq!(asked(&steward), "fd00::53");
    // Of the first one nothing is heard any more.
    let later = t0 + Duration::from_secs(599);
    world.advertised.push_back(said(Some("fd00::54"), Dhcp6::Off));
    steward.turn(later, &mut world);
    assert_eq!(asked(&steward), "fd00::53");
    steward.turn(t0 + Duration::from_secs(600), &mut world);
    assert_eq!(asked(&steward), "fd00::54");
    // The last one is kept: there is no better.
    steward.turn(t0 + Duration::from_secs(10_000), &mut world);
    assert_eq!(asked(&steward), "fd00::54");
    for n in 0..50 {
        world.advertised.push_back(said(Some(&format!("fd00::{n:x}")), Dhcp6::Off));
        steward.turn(later, &mut world);
    }
    assert!(steward.listeners[0].nameservers(later).count() <= MAX_NAMESERVERS);
}
