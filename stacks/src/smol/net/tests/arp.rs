//! ARP and the neighbours' states over it.

use std::time::Duration;

use super::world::*;

#[test]
fn pings_of_both_families_go_there_and_back() {
    for plain in [false, true] {
        let mut world = World::pair();
        world.plain = plain;
        for to in ["10.0.0.2", "fd00::2", "10.0.0.1", "fd00::1", "127.0.0.1", "127.1.2.3", "::1"] {
            assert_eq!(ping(&mut world, 0, to, 56), 1, "{to}");
        }
        world.run(Duration::from_secs(100));
    }
}
