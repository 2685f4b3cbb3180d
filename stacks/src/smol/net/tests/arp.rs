//! ARP, and the neighbours' states over it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::errno::Errno;
use switch::offload::VnetHdr;

use super::world::*;
use crate::config::Mac;
use crate::smol::net::Wish;
use crate::smol::net::neighbours::MAX_NEIGHBOURS;
use crate::smol::tables::{Change, Neighbour, Nud};

const ARP: u16 = 0x0806;

/// An ARP packet in a frame.
fn arp(to: Mac, operation: u8, source: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let head: &[u8] = &[0, 1, 8, 0, 6, 4, 0, operation];
    let body = [&source.0.0[..], &source.1, &target.0.0, &target.1].concat();
    [&to.0[..], &source.0.0, &ARP.to_be_bytes(), head, &body].concat()
}

fn state(world: &World, at: usize, address: &str) -> Option<Nud> {
    let key = (ETH, address.parse().unwrap());
    world.nets[at].tables.neighbours.get(&key).map(|neighbour| neighbour.state)
}

#[test]
fn pings_of_both_families_go_there_and_back() {
    for plain in [false, true] {
        let mut world = World::pair();
        world.plain = plain;
        for to in ["10.0.0.2", "fd00::2", "10.0.0.1", "fd00::1", "127.0.0.1", "127.1.2.3", "::1"] {
            assert_eq!(ping(&mut world, 0, to, 56), 1, "{to}");
        }
    }
}

#[test]
fn a_question_for_our_address_is_answered_and_teaches_who_asked() {
    let mut world = World::pair();
    let ask = |target| arp(Mac([0xFF; 6]), 1, (mac(9), [10, 0, 0, 9]), (Mac([0; 6]), target));
    world.deliver(0, &VnetHdr::default(), &ask([10, 0, 0, 77]));
    assert!(world.sent(0, ARP).is_empty(), "not our address");
    assert_eq!(state(&world, 0, "10.0.0.9"), None);
    world.deliver(0, &VnetHdr::default(), &ask([10, 0, 0, 1]));
    let answers = world.sent(0, ARP);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0], arp(mac(9), 2, (mac(1), [10, 0, 0, 1]), (mac(9), [10, 0, 0, 9]))[14..]);
    assert_eq!(state(&world, 0, "10.0.0.9"), Some(Nud::Stale));
    // The loopback's addresses are nobody's business.
    world.deliver(0, &VnetHdr::default(), &ask([127, 0, 0, 1]));
    assert_eq!(world.sent(0, ARP).len(), 1);
}

#[test]
fn packets_wait_for_their_neighbour_and_leave_in_order() {
    let mut world = World::pair();
    for n in 0..10 {
        world.send(0, &datagram("10.0.0.2", 99), &[n; 20]).unwrap();
    }
    assert_eq!(state(&world, 0, "10.0.0.2"), Some(Nud::Incomplete));
    world.run(Duration::from_millis(10));
    let got: Vec<_> = world.take(1).iter().map(|packet| packet.payload[0]).collect();
    assert_eq!(got, (0..10).collect::<Vec<_>>());
    assert_eq!(world.sent(0, ARP).len(), 1, "one question is enough");
    assert_eq!(state(&world, 0, "10.0.0.2"), Some(Nud::Reachable));
}

#[test]
fn the_oldest_go_when_too_many_bytes_wait() {
    let mut world = World::pair();
    world.loss = 1000;
    for n in 0..200u8 {
        world.send(0, &datagram("10.0.0.2", 99), &[n; 1400]).unwrap();
    }
    world.loss = 0;
    world.run(Duration::from_secs(2));
    let got: Vec<_> = world.take(1).iter().map(|packet| packet.payload[0]).collect();
    assert_eq!(got, (51..200).collect::<Vec<_>>(), "212,992 bytes are 149 packets of 1420");
}

#[test]
fn who_does_not_answer_is_asked_thrice_and_reported_and_asked_again() {
    let mut world = World::pair();
    for round in 1..=2 {
        world.send(0, &datagram("10.0.0.66", 17), &udp(b"hello")).unwrap();
        world.run(Duration::from_millis(2900));
        assert_eq!(world.sent(0, ARP).len(), round * 3);
        assert!(world.inboxes[0].errors.is_empty());
        world.run(Duration::from_millis(200));
        let (error, quoted) = world.inboxes[0].errors.pop().unwrap();
        assert_eq!((error.errno, error.fatal, error.icmp), (Errno::EHOSTUNREACH, false, (3, 1)));
        assert_eq!(error.destination, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66)));
        assert_eq!(quoted[8..], *b"hello");
        assert_eq!(state(&world, 0, "10.0.0.66"), Some(Nud::Failed));
    }
}

#[test]
fn a_dead_neighbour_delays_nobody_else() {
    let mut world = World::new(30);
    for (number, net) in world.nets.iter_mut().enumerate() {
        add_address(net, ETH, &format!("10.0.0.{}/24", number + 1));
    }
    world.drain();
    world.send(0, &datagram("10.0.0.99", 99), b"x").unwrap();
    for number in 2..=30 {
        world.send(0, &datagram(&format!("10.0.0.{number}"), 99), b"x").unwrap();
    }
    world.run(Duration::from_millis(20));
    assert!((1..30).all(|number| world.inboxes[number].packets.len() == 1));
}

#[test]
fn a_stale_neighbour_is_used_and_asked_unless_confirmed() {
    for confirmed in [false, true] {
        let mut world = World::pair();
        assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
        world.run(Duration::from_secs(60));
        assert_eq!(state(&world, 0, "10.0.0.2"), Some(Nud::Stale));
        world.log.clear();
        let path = world.send(0, &datagram("10.0.0.2", 99), b"x").unwrap();
        assert_eq!(state(&world, 0, "10.0.0.2"), Some(Nud::Delay));
        world.run(Duration::from_secs(1));
        assert_eq!(
            world.take(1).iter().filter(|packet| packet.protocol == 99).count(),
            1,
            "it does not wait"
        );
        if confirmed {
            let now = world.now;
            world.nets[0].confirm(now, &path);
        }
        world.run(Duration::from_secs(5));
        assert_eq!(state(&world, 0, "10.0.0.2"), Some(Nud::Reachable));
        let asked: Vec<_> = world
            .log
            .iter()
            .filter(|sent| sent.from == 0 && sent.frame[12] == 8 && sent.frame[13] == 6)
            .collect();
        assert_eq!(asked.len(), usize::from(!confirmed));
        assert!(asked.iter().all(|sent| sent.frame[..6] == mac(2).0), "it alone is asked");
    }
}

#[test]
fn of_two_answers_the_first_one_holds() {
    let mut world = World::pair();
    world.send(0, &datagram("10.0.0.9", 99), b"x").unwrap();
    let answer = |number| arp(mac(1), 2, (mac(number), [10, 0, 0, 9]), (mac(1), [10, 0, 0, 1]));
    let known = |world: &World| world.nets[0].tables.neighbours[&(ETH, "10.0.0.9".parse().unwrap())].mac;
    world.deliver(0, &VnetHdr::default(), &answer(9));
    world.deliver(0, &VnetHdr::default(), &answer(10));
    assert_eq!(known(&world), Some(mac(9)));
    world.run(Duration::from_secs(2));
    world.deliver(0, &VnetHdr::default(), &answer(10));
    assert_eq!(known(&world), Some(mac(10)));
    // An announcement needs no patience.
    let announcement = arp(Mac([0xFF; 6]), 1, (mac(11), [10, 0, 0, 9]), (Mac([0; 6]), [10, 0, 0, 9]));
    world.deliver(0, &VnetHdr::default(), &announcement);
    assert_eq!(known(&world), Some(mac(11)));
    assert_eq!(state(&world, 0, "10.0.0.9"), Some(Nud::Stale));
}

#[test]
fn nobody_is_remembered_for_talking_to_others() {
    let mut world = World::pair();
    let announcement = arp(Mac([0xFF; 6]), 1, (mac(11), [10, 0, 0, 9]), (Mac([0; 6]), [10, 0, 0, 9]));
    world.deliver(0, &VnetHdr::default(), &announcement);
    let group =
        arp(Mac([0xFF; 6]), 1, (Mac([1, 0, 0, 0, 0, 1]), [10, 0, 0, 9]), (Mac([0; 6]), [10, 0, 0, 1]));
    world.deliver(0, &VnetHdr::default(), &group);
    assert!(world.nets[0].tables.neighbours.is_empty());
}

#[test]
fn the_table_is_bounded_and_makes_room() {
    let mut world = World::pair();
    add_address(&mut world.nets[0], ETH, "10.9.0.1/16");
    world.drain();
    let fill = |world: &mut World, from: u16| {
        (from..from + 1500)
            .filter(|n| {
                world.send(0, &datagram(&format!("10.9.{}.{}", n / 250 + 1, n % 250 + 1), 99), b"x").is_ok()
            })
            .count()
    };
    assert_eq!(fill(&mut world, 0), MAX_NEIGHBOURS, "all are being asked for: nobody can go");
    assert_eq!(world.nets[0].neighbours.len(), MAX_NEIGHBOURS);
    world.run(Duration::from_secs(10));
    assert_eq!(fill(&mut world, 2000), MAX_NEIGHBOURS);
    assert_eq!(world.nets[0].neighbours.len(), MAX_NEIGHBOURS);
    assert_eq!(world.nets[0].tables.neighbours.len(), MAX_NEIGHBOURS);
}

#[test]
fn an_entry_made_by_hand_is_used_as_it_is() {
    let mut world = World::pair();
    let now = world.now;
    let key = (ETH, "10.0.0.2".parse().unwrap());
    let by_hand = Neighbour { mac: Some(mac(2)), state: Nud::Permanent, router: false, updated: now };
    world.nets[0].tables.neighbours.insert(key, by_hand.clone());
    world.nets[0].tables.changes.push_back(Change::Neighbour(key.0, key.1, by_hand.clone()));
    world.drain();
    assert_eq!(world.send(0, &datagram("10.0.0.2", 99), b"x").map(|path| path.link), Ok(ETH));
    world.run(Duration::from_millis(10));
    assert_eq!(world.take(1).len(), 1);
    assert!(world.sent(0, ARP).is_empty());
    // An answer does not change it; taking it away does.
    let answer = arp(mac(1), 2, (mac(9), [10, 0, 0, 2]), (mac(1), [10, 0, 0, 1]));
    world.deliver(0, &VnetHdr::default(), &answer);
    assert_eq!(world.nets[0].tables.neighbours[&key].mac, Some(mac(2)));
    world.nets[0].tables.neighbours.remove(&key);
    world.nets[0].tables.changes.push_back(Change::NeighbourGone(key.0, key.1, by_hand));
    world.drain();
    world.send(0, &datagram("10.0.0.2", 99), b"x").unwrap();
    world.drain();
    assert_eq!(world.sent(0, ARP).len(), 1);
}

#[test]
fn neighbours_go_with_their_link() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    world.nets[0].tables.links.get_mut(&ETH).unwrap().up = false;
    world.nets[0].tables.changes.push_back(Change::Link(ETH));
    world.drain();
    assert!(world.nets[0].tables.neighbours.is_empty());
    let path = world.nets[0].route("10.0.0.2".parse().unwrap(), &Wish::default());
    assert_eq!(path, Err(Errno::ENETUNREACH));
    let frame = arp(mac(1), 1, (mac(2), [10, 0, 0, 2]), (mac(1), [10, 0, 0, 1]));
    world.log.clear();
    world.deliver(0, &VnetHdr::default(), &frame);
    assert!(world.log.is_empty(), "a link that is down hears nothing");
}

#[test]
fn an_address_is_announced_once_its_link_runs() {
    let mut world = World::new(2);
    let link = |world: &mut World, carrier| {
        world.nets[0].tables.links.get_mut(&ETH).unwrap().carrier = carrier;
        world.nets[0].tables.changes.push_back(Change::Link(ETH));
        world.drain();
    };
    link(&mut world, false);
    add_address(&mut world.nets[0], ETH, "10.0.0.1/24");
    world.drain();
    assert!(world.sent(0, ARP).is_empty());
    link(&mut world, true);
    link(&mut world, true);
    let announcement = arp(Mac([0xFF; 6]), 1, (mac(1), [10, 0, 0, 1]), (Mac([0; 6]), [10, 0, 0, 1]));
    assert_eq!(world.sent(0, ARP), [announcement[14..].to_vec()]);
}

#[test]
fn an_idle_stack_has_no_deadlines() {
    let mut world = World::pair();
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
    assert_eq!(ping(&mut world, 0, "fd00::2", 8), 1);
    world.run(Duration::from_secs(200));
    assert!(world.nets.iter().all(|net| net.poll_timeout().is_none()));
}
