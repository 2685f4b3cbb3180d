//! What advertisements bring, prolong and take away.

use proptest::prelude::*;

use super::*;
use crate::config::Mac;
use crate::smol::tables::LinkKind;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);

fn tables() -> (Tables, IfIndex) {
    let mut tables = Tables::new();
    let link = tables.add_link(0, "eth0", LinkKind::Ethernet, Mac(MAC)).unwrap();
    tables.set_up(link, true).unwrap();
    (tables, link)
}

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

fn prefix(net: &str, valid_s: u32, preferred_s: u32) -> Prefix {
    Prefix { net: net.parse().unwrap(), on_link: true, autonomous: true, valid_s, preferred_s }
}

fn said(lifetime_s: u16, prefixes: &[Prefix]) -> Advertisement {
    Advertisement { lifetime_s, prefixes: prefixes.to_vec(), ..Advertisement::default() }
}

fn chosen(tables: &Tables, link: IfIndex) -> Vec<Address> {
    tables.addresses_of(link).filter(|it| it.protocol == PROTOCOL_ADDRESS).cloned().collect()
}

fn routers(tables: &Tables) -> Vec<IpAddr> {
    tables.routes.iter().filter(|it| it.protocol == PROTOCOL_RA).filter_map(|it| it.gateway).collect()
}

#[test]
fn a_router_lives_as_long_as_it_says() {
    let ((mut tables, link), t0) = (tables(), start());
    let other: Ipv6Addr = "fe80::2".parse().unwrap();
    tables.advertised(t0, link, ROUTER, &said(600, &[]), false);
    tables.advertised(t0, link, other, &said(900, &[]), false);
    assert_eq!(routers(&tables), [IpAddr::V6(ROUTER), IpAddr::V6(other)]);
    tables.advertised(t0 + Duration::from_secs(500), link, ROUTER, &said(600, &[]), false);
    tables.expire(t0 + Duration::from_secs(900));
    assert_eq!(routers(&tables), [IpAddr::V6(ROUTER)]);
    tables.advertised(t0, link, ROUTER, &said(0, &[]), false);
    assert!(routers(&tables).is_empty());
    for n in 0..100 {
        tables.advertised(t0, link, Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 1, n), &said(600, &[]), false);
    }
    assert_eq!(routers(&tables).len(), MOST);
}

#[test]
fn an_address_is_chosen_prolonged_and_withdrawn() {
    let ((mut tables, link), t0) = (tables(), start());
    let at = |seconds| t0 + Duration::from_secs(seconds);
    tables.advertised(t0, link, ROUTER, &said(600, &[prefix("fd00:1::/64", 86_400, 3600)]), false);
    let [address] = &chosen(&tables, link)[..] else { panic!("{:?}", tables.addresses) };
    assert_eq!(address.net, "fd00:1::ff:fe00:1/64".parse::<IpNet>().unwrap());
    assert!(address.flags & ifa_flags::TENTATIVE != 0);
    assert_eq!((address.preferred_until, address.valid_until), (Some(at(3600)), Some(at(86_400))));
    let on_link = |tables: &Tables| tables.routes.iter().any(|it| it.to == "fd00:1::/64".parse().unwrap());
    assert!(on_link(&tables));
    // Withdrawn: not preferred any more at once, but good for two hours yet.
    tables.advertised(at(10), link, ROUTER, &said(600, &[prefix("fd00:1::/64", 0, 0)]), false);
    tables.expire(at(10));
    let [address] = &chosen(&tables, link)[..] else { panic!("{:?}", tables.addresses) };
    assert!(address.flags & ifa_flags::DEPRECATED != 0);
    assert_eq!(address.valid_until, Some(at(7210)));
    // Again, with less than two hours left: that does not make it longer, nor shorter.
    tables.advertised(at(1000), link, ROUTER, &said(600, &[prefix("fd00:1::/64", 60, 60)]), false);
    let [address] = &chosen(&tables, link)[..] else { panic!("{:?}", tables.addresses) };
    assert!(address.flags & ifa_flags::DEPRECATED == 0);
    assert_eq!(address.valid_until, Some(at(7210)));
    tables.expire(at(7210));
    assert!(chosen(&tables, link).is_empty() && !on_link(&tables));
    for n in 0..100 {
        tables.advertised(t0, link, ROUTER, &said(0, &[prefix(&format!("fd00:2:{n:x}::/64"), 9, 9)]), false);
    }
    assert_eq!(chosen(&tables, link).len(), MOST);
}

#[test]
fn what_somebody_made_is_left_alone() {
    let ((mut tables, link), t0) = (tables(), start());
    let net: IpNet = "fd00:1::ff:fe00:1/64".parse().unwrap();
    tables.add_address(Address::new(link, net), Mode::ADD).unwrap();
    let made = tables.clone();
    tables.advertised(t0, link, ROUTER, &said(0, &[prefix("fd00:1::/64", 60, 60)]), false);
    assert_eq!(tables.addresses, made.addresses);
    // But for the configuration's, which came from this very advertisement.
    tables.advertised(t0, link, ROUTER, &said(0, &[prefix("fd00:1::/64", 60, 60)]), true);
    assert_eq!(chosen(&tables, link)[0].valid_until, Some(t0 + Duration::from_secs(60)));
}

#[test]
fn a_network_without_addresses_is_on_the_link() {
    let ((mut tables, link), t0) = (tables(), start());
    let mut managed = prefix("fd00:1::/64", 60, 60);
    managed.autonomous = false;
    tables.advertised(t0, link, ROUTER, &said(600, &[managed]), false);
    assert!(chosen(&tables, link).is_empty());
    let route = tables.routes.iter().find(|it| it.to == IpNet::V6(managed.net)).unwrap();
    assert_eq!((route.metric, route.expires), (METRIC_PREFIX, Some(t0 + Duration::from_secs(60))));
    managed.valid_s = 0;
    tables.advertised(t0, link, ROUTER, &said(600, &[managed]), false);
    assert!(tables.routes.iter().all(|it| it.to != IpNet::V6(managed.net)));
}

proptest! {
    #[test]
    fn anything_may_be_said(
        acts in prop::collection::vec((0..9u16, any::<u16>(), 0..40u16, any::<(u32, u32)>(), any::<(bool, bool)>(), 0..100_000u64), 0..60)
    ) {
        let ((mut tables, link), mut now) = (tables(), start());
        for (router, lifetime_s, net, (valid_s, preferred_s), (on_link, autonomous), later) in acts {
            now += Duration::from_secs(later);
            let net = Ipv6Net::new(Ipv6Addr::new(0xFD00, net, 0, 0, 0, 0, 0, 0), 64).unwrap();
            let said = said(lifetime_s, &[Prefix { net, on_link, autonomous, valid_s, preferred_s }]);
            tables.advertised(now, link, Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, router), &said, false);
            tables.expire(now);
            prop_assert!(tables.next_expiry().is_none_or(|at| at > now));
            prop_assert!(chosen(&tables, link).len() <= MOST);
            prop_assert!(tables.routes.iter().filter(|it| it.protocol == PROTOCOL_RA).count() <= MOST);
        }
    }
}
