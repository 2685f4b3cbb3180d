//! Connections in somebody else's name.

use super::*;

/// Engine 0 is the router of engine 1 and stands for everybody.
fn routed() -> World {
    let now = start();
    let router = "eth0=none,ip=10.0.0.1/24,ip=fd00::1/64,mac=02:00:00:00:00:01";
    let inside = "eth0=none,ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,gw=fd00::1,mac=02:00:00:00:00:02";
    let mut world = World::of(vec![engine(router, 1, now), engine(inside, 2, now)], now);
    world.engines[0].stand_for_others(now, &OWNER).unwrap();
    world.run(ms(10));
    world
}

fn call(world: &mut World, from: &str, to: &str) -> Result<SocketId, Errno> {
    let ends = (from.parse().unwrap(), to.parse().unwrap());
    world.engines[0].connect_as(world.now, ends, &OWNER)
}

#[test]
fn the_peer_sees_whom_it_is_for() {
    for (from, to) in [
        ("192.0.2.9:4000", "10.0.0.2:80"),
        ("[2001:db8::9]:4000", "[fd00::2]:80"),
        ("10.0.0.1:4000", "10.0.0.2:80"),
    ] {
        let mut world = routed();
        let server = world.server(1, to);
        let id = call(&mut world, from, to).unwrap();
        assert!(world.engines[0].status(id).connecting);
        world.run(ms(200));
        let accepted = world.accept(1, server).expect("connected");
        assert_eq!(world.peer(1, accepted), Ok(from.parse().unwrap()));
        assert!(world.engines[0].status(id).connected && !world.engines[0].status(id).connecting);
        assert_eq!(world.write(0, id, b"hello"), 5);
        world.write(1, accepted, b"world");
        world.run(ms(200));
        assert_eq!((world.read(0, id), world.read(1, accepted)), (b"world".to_vec(), b"hello".to_vec()));
        // There can be no second one of the same names, but one of others.
        assert_eq!(call(&mut world, from, to), Err(Errno::EADDRNOTAVAIL));
        let other = call(&mut world, &from.replace("4000", "4001"), to).unwrap();
        let any = call(&mut world, &from.replace("4000", "0"), to).unwrap();
        for id in [id, other, any] {
            world.close(0, id);
        }
        world.close(1, accepted);
        world.run(Duration::from_secs(1800));
        // Nothing is left but the listener for all.
        assert_eq!(world.engines[0].sockets(), 1);
    }
}

#[test]
fn nobody_there_is_an_error() {
    let mut world = routed();
    let refused = call(&mut world, "192.0.2.9:4000", "10.0.0.2:81").unwrap();
    let nobody = call(&mut world, "192.0.2.9:4000", "10.0.0.7:81").unwrap();
    world.run(Duration::from_secs(10));
    assert_eq!(world.engines[0].status(refused).error, Some(Errno::ECONNREFUSED));
    assert_eq!(world.engines[0].status(nobody).error, Some(Errno::EHOSTUNREACH));
    for id in [refused, nobody] {
        world.close(0, id);
    }
    assert_eq!(world.engines[0].sockets(), 1);
}
