//! Addresses and answers, there and back.

use proptest::prelude::*;

use super::*;

/// `web.example`, and `www.web.example` by way of a pointer to it.
const WEB: &[u8] = b"\x03web\x07example\0";

fn question(kind: u16, flags: u16) -> Vec<u8> {
    let head = [7, flags, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    [&head, WEB, &[kind, IN].map(u16::to_be_bytes).concat()].concat()
}

/// A record with a name as it stands in the message.
fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let words = [kind, IN, 0, 60, data.len() as u16].map(u16::to_be_bytes).concat();
    [name, &words, data].concat()
}

fn answer(records: &[Vec<u8>], flags: u16) -> Vec<u8> {
    let mut message = question(A, flags);
    message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    [message, records.concat()].concat()
}

#[test]
fn addresses_go_there_and_back() {
    let v4 = Ipv4Addr::new(192, 0, 2, 33);
    assert_eq!(embed(v4).to_string(), "64:ff9b::c000:221");
    assert_eq!(extract(embed(v4)), Some(v4));
    assert_eq!(extract("64:ff9b:1::1".parse().unwrap()), None);
}

#[test]
fn questions_for_ipv6_become_questions_for_ipv4() {
    assert_eq!(as_v4(&question(AAAA, 0x0100)), Some(question(A, 0x0100)));
    assert_eq!(as_v4(&question(A, 0x0100)), None);
    assert_eq!(as_v4(&question(AAAA, 0x0110)), None, "whoever verifies itself");
}

#[test]
fn names_are_written_out_and_addresses_embedded() {
    // A CNAME whose target ends in a pointer, and an address that points to that target.
    let target = [&b"\x03www"[..], &[0xC0, 12]].concat();
    let place = (question(A, 0).len() + 2 + FIXED) as u8;
    let asked = [0xC0, 12];
    let records = [
        record(&asked, CNAME, &target),
        record(&[0xC0, place], A, &[192, 0, 2, 1]),
        record(&asked, A, &[192, 0, 2, 2]),
    ];
    let said = as_v6(&answer(&records, 0x81A0), 512).unwrap();
    let full = [b"\x03www", WEB].concat();
    let embedded = |last| embed(Ipv4Addr::new(192, 0, 2, last)).octets();
    let mut expected = question(AAAA, 0x8180);
    expected[7] = 3;
    expected.extend(record(&asked, CNAME, &full));
    expected.extend(record(&full, AAAA, &embedded(1)));
    expected.extend(record(&asked, AAAA, &embedded(2)));
    assert_eq!(said, expected);
}

#[test]
fn no_answer_stays_whole_and_a_long_one_is_cut() {
    let mut none = question(A, 0x8183);
    none[9] = 1;
    none.extend(record(&[0xC0, 16], 6, &[0; 22]));
    let said = as_v6(&none, 512).unwrap();
    assert_eq!((said.len(), &said[none.len() - 34..]), (none.len(), &none[none.len() - 34..]));
    let records = vec![record(&[0xC0, 12], A, &[192, 0, 2, 1]); 30];
    let said = as_v6(&answer(&records, 0x8180), 512).unwrap();
    assert_eq!((said.len(), said[2] & 2, &said[6..8]), (question(A, 0).len(), 2, &[0, 0][..]));
}

proptest! {
    #[test]
    fn anything_may_come(
        tail in prop::collection::vec(any::<u8>(), 0..120), count in 0u16..5, longest in 0usize..600,
    ) {
        let mut message = question(A, 0x8180);
        message[6..8].copy_from_slice(&count.to_be_bytes());
        message.extend(tail);
        let said = as_v6(&message, longest).unwrap();
        prop_assert!(count == 0 || said.len() <= longest.max(question(A, 0).len()));
        let _ = (as_v4(&message[4..]), as_v6(&message[4..], 512));
    }
}
