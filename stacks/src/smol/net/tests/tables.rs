//! The network layer over tables that change as Linux's do.

use std::time::Duration;

use super::world::*;
use crate::smol::net::{Net, Wish};
use crate::smol::tables::{Address, LOOPBACK, LinkKind, Mode};

/// A world of stacks whose interfaces and addresses were made by the tables' own rules.
fn world(stacks: u8) -> World {
    let mut world = World::new(stacks);
    for number in 0..stacks {
        let mut net = Net::new([number; 32], world.now);
        net.tables.set_up(LOOPBACK, true).unwrap();
        let eth = net.tables.add_link(0, "eth0", LinkKind::Ethernet, mac(number + 1)).unwrap();
        assert_eq!(eth, ETH);
        net.tables.set_carrier(ETH, true).unwrap();
        net.tables.set_up(ETH, true).unwrap();
        for text in [format!("10.0.0.{}/24", number + 1), format!("fd00::{}/64", number + 1)] {
            net.tables.add_address(Address::new(ETH, text.parse().unwrap()), Mode::ADD).unwrap();
        }
        world.nets[usize::from(number)] = net;
    }
    world
}

#[test]
fn addresses_become_usable_and_stacks_talk() {
    let mut world = world(2);
    for to in ["127.0.0.1", "::1", "10.0.0.1", "10.0.0.2"] {
        assert_eq!(ping(&mut world, 0, to, 3000), 1, "{to}");
    }
    for to in ["fd00::1", "fd00::2"] {
        assert_eq!(ping(&mut world, 0, to, 3000), 1, "{to}");
    }
    let wish = Wish { link: Some(ETH), ..Wish::default() };
    let path = world.nets[0].route("fe80::9".parse().unwrap(), &wish).unwrap();
    assert!(path.source.to_string().starts_with("fe80::"));
    // Down and up again: nothing is left over, everything comes back.
    world.nets[0].tables.set_up(ETH, false).unwrap();
    world.run(Duration::from_secs(1));
    assert!(world.nets[0].tables.neighbours.is_empty());
    assert!(world.nets[0].route("10.0.0.2".parse().unwrap(), &Wish::default()).is_err());
    world.nets[0].tables.set_up(ETH, true).unwrap();
    world.run(Duration::from_secs(3));
    assert_eq!(ping(&mut world, 0, "10.0.0.2", 8), 1);
}

#[test]
fn two_stacks_with_one_address_notice() {
    let mut world = world(2);
    world.run(Duration::from_secs(5));
    world.nets[1].tables.add_address(Address::new(ETH, "fd00::1/64".parse().unwrap()), Mode::ADD).unwrap();
    world.run(Duration::from_secs(5));
    let all = &world.nets[1].tables.addresses;
    let failed = all.iter().find(|have| have.net.addr().to_string() == "fd00::1");
    assert!(failed.is_none_or(|have| have.flags & libc::IFA_F_DADFAILED != 0));
    assert_eq!(ping(&mut world, 0, "fd00::2", 8), 1);
}
