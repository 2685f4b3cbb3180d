//! bind(2): who may have which name.

use super::*;

#[test]
fn placeholder() {
    let mut world = World::alone();
    let id = world.udp(0);
    assert_eq!(world.bind(0, id, "127.0.0.1:53"), Ok(()));
}
