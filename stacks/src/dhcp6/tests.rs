//! Messages: what is written is read as it was, and nothing that comes does harm.

use super::*;
use proptest::prelude::*;

fn duid() -> impl Strategy<Value = Option<Duid>> {
    prop::option::of(prop::collection::vec(any::<u8>(), DUID).prop_map(|bytes| Duid::new(&bytes).unwrap()))
}

fn ia() -> impl Strategy<Value = Ia> {
    let address = (any::<u128>(), any::<u32>(), any::<u32>()).prop_map(|(address, a, b)| IaAddress {
        address: address.into(),
        preferred_s: a.min(b),
        valid_s: a.max(b),
    });
    let addresses = prop::collection::vec(address, 0..MAX_IAS);
    (any::<[u32; 3]>(), addresses, any::<u16>()).prop_map(|([id, renew_s, rebind_s], addresses, status)| Ia {
        id,
        renew_s,
        rebind_s,
        addresses,
        status: Status(status),
    })
}

prop_compose! {
    fn message()(
        kind in 1..=11u8,
        (id, elapsed, preference, refresh_s) in any::<(u32, Option<u16>, Option<u8>, Option<u32>)>(),
        (client, server) in (duid(), duid()),
        ias in prop::collection::vec(ia(), 0..MAX_IAS),
        prefixes in prop::collection::vec(any::<u32>(), 0..MAX_IAS),
        (status, rapid_commit, asked) in any::<(u16, bool, Vec<u16>)>(),
        lists in prop::collection::vec(prop::collection::vec(any::<u128>().prop_map(Ipv6Addr::from), 0..MAX_LISTED), 3),
        domains in prop::collection::vec("[a-z0-9-]{1,63}(\\.[a-z0-9_]{1,20}){0,4}", 0..MAX_LISTED),
        name in prop::option::of("[a-z]{1,63}(\\.[a-z]{1,9}){0,2}"),
    ) -> Message {
        let [nameservers, sntp, ntp] = lists.try_into().expect("three");
        Message {
            client, server, ias, prefixes, status: Status(status), rapid_commit, asked, elapsed, preference,
            nameservers, domains, sntp, ntp, refresh_s, name,
            ..Message::new(Kind::of(kind).expect("one of them"), id)
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message()) {
        prop_assert_eq!(Message::parse(&message.bytes()), Some(message));
    }

    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1..=11u8) {
        let _ = Message::parse(&bytes);
        if let Some(message) = Message::parse(&[&[kind, 0, 0, 1], &bytes[..]].concat()) {
            prop_assert_eq!(Message::parse(&message.bytes()), Some(message));
        }
    }

    #[test]
    fn what_is_cut_is_none(message in message(), cut in 1..4usize) {
        let bytes = message.bytes();
        prop_assume!(bytes.len() > 4);
        prop_assert_eq!(Message::parse(&bytes[..bytes.len() - cut]), None);
    }
}

#[test]
fn duids_are_read_as_they_are_written() {
    let duid = Duid::of_mac([2, 0, 0, 0, 0, 7]);
    assert_eq!(duid.to_string(), "00:03:00:01:02:00:00:00:00:07");
    assert_eq!((duid.to_string().parse(), duid.mac()), (Ok(duid), Some([2, 0, 0, 0, 0, 7])));
    let with_time: Duid = "00:01:00:01:2a:00:00:00:02:00:00:00:00:08".parse().unwrap();
    assert_eq!(with_time.mac(), Some([2, 0, 0, 0, 0, 8]));
    for wrong in ["", "00", "00:01", "0:1:2:3", "00:03:00:01:+2:00", "xx:yy:zz"] {
        assert!(wrong.parse::<Duid>().is_err(), "{wrong}");
    }
}

#[test]
fn names_that_could_be_anything_are_left_out() {
    let mut message = Message::new(Kind::Reply, 1);
    message.domains = vec!["a b.example".into(), "lan.example".into()];
    message.name = Some("x\ny".into());
    let read = Message::parse(&message.bytes()).unwrap();
    assert_eq!((read.domains, read.name), (Vec::new(), None));
}
