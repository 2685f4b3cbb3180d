//! Reading addresses; what moves is tested with real stacks.

use super::*;

#[test]
fn addresses_are_read_as_the_kernel_does() {
    let v4 = [&2u16.to_ne_bytes()[..], &80u16.to_be_bytes(), &[10, 0, 0, 1], &[0; 8]].concat();
    assert_eq!(address(&v4, false), Some(("10.0.0.1".parse().unwrap(), 80)));
    let mut mapped = [&10u16.to_ne_bytes()[..], &80u16.to_be_bytes(), &[0; 4]].concat();
    mapped.extend(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
    mapped.extend([0; 4]);
    assert_eq!(address(&mapped, false), Some(("10.0.0.1".parse().unwrap(), 80)));
    let unspec = [&[0, 0], &v4[2..]].concat();
    assert_eq!((address(&unspec, false), address(&unspec, true)), (None, address(&v4, true)));
    for length in 0..8 {
        assert_eq!(address(&v4[..length], true), None);
    }
    assert_eq!(address(&mapped[..20], true), None);
}

#[test]
fn the_oldest_binding_is_forgotten() {
    let mut bound = Bound::default();
    for inode in 0..=MAX_BOUND as u64 {
        bound.insert(inode, Binding { any_port: true, sent: false, placed: false });
    }
    assert_eq!(bound.0.len(), MAX_BOUND);
    assert!(!bound.0.contains_key(&0));
}
