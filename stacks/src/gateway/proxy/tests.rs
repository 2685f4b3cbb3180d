//! Conversations with proxies, as they should be and as they should not.

use proptest::prelude::*;

use super::*;

fn credentials() -> Credentials {
    "ann:s3:cret\n".parse().unwrap()
}

/// Shows a handshake what comes, in pieces of `size` bytes; what it sent, how much it took.
fn talk(handshake: &mut Handshake, come: &[u8], size: usize) -> (Vec<u8>, usize) {
    let (mut sent, mut taken, mut seen) = (Vec::new(), 0, 0);
    loop {
        sent.extend_from_slice(handshake.outgoing());
        handshake.sent(usize::MAX);
        if handshake.outcome().is_some() {
            return (sent, taken);
        }
        let count = handshake.handle(&come[taken..seen]);
        taken += count;
        if count == 0 && handshake.outcome().is_none() {
            if seen == come.len() {
                return (sent, taken);
            }
            seen = come.len().min(seen + size);
        }
    }
}

const FAR: Host<'static> = Host::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

#[test]
fn proxies_as_text_and_back() {
    for text in [
        "socks5:10.0.0.1:1080",
        "socks5:[fd00::1]:1080",
        "http:proxy.example.org:3128[auth /etc/proxy secret]",
        "socks5:[fd00::1]:9050[auth a]",
    ] {
        assert_eq!(text.parse::<Via>().unwrap().to_string(), text);
    }
    for wrong in [
        "socks5:",
        "socks5:x",
        "socks5:x:0",
        "socks5:x:70000",
        "socks4:x:1",
        "http::80",
        "http:a b:80",
        "http:[x]:80",
        "socks5:x:1[auth ]",
        "socks5:x:1[auth a",
        "socks5:x:1[user a]",
        "socks5:ann:pw@x:1",
    ] {
        assert!(wrong.parse::<Via>().unwrap_err().contains("no proxy"), "{wrong}");
    }
}

#[test]
fn credentials_are_the_first_line_and_never_printed() {
    assert_eq!(credentials(), Credentials { user: "ann".into(), password: "s3:cret".into() });
    for wrong in ["", "ann", ":x", "ann:", "\nann:x", &format!("{}:x", "a".repeat(256))] {
        assert!(wrong.parse::<Credentials>().is_err(), "{wrong}");
    }
    for protocol in [Protocol::Socks5, Protocol::Http] {
        let handshake = Handshake::new(protocol, Some(&credentials()), Wish::Connect(FAR, 80));
        assert!(!format!("{handshake:?} {:?}", credentials()).contains("ann"));
    }
}

#[test]
fn socks_takes_its_replies_and_nothing_of_the_stream() {
    let reply = [5, 0, 0, 1, 10, 0, 0, 9, 0x1F, 0x90];
    for size in [1, 3, 100] {
        let mut plain = Handshake::new(Protocol::Socks5, None, Wish::Connect(Host::Name("a.example"), 443));
        let (sent, taken) = talk(&mut plain, &[&[5, 0], &reply[..], b"stream"].concat(), size);
        assert_eq!(sent, [&[5, 1, 0, 5, 1, 0, 3, 9], &b"a.example"[..], &[1, 0xBB]].concat());
        assert_eq!((taken, plain.outcome()), (12, Some(Ok(8080))));

        let mut known = Handshake::new(Protocol::Socks5, Some(&credentials()), Wish::Connect(FAR, 80));
        let (sent, taken) = talk(&mut known, &[&[5, 2, 1, 0], &reply[..], b"stream"].concat(), size);
        let password = [&[5, 2, 0, 2, 1, 3], &b"ann"[..], &[7], b"s3:cret"].concat();
        assert_eq!(sent, [&password[..], &[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]].concat());
        assert_eq!((taken, known.outcome().unwrap().is_ok()), (14, true));
    }
}

#[test]
fn an_association_says_at_which_port_datagrams_go() {
    let mut handshake = Handshake::new(Protocol::Socks5, None, Wish::Associate { v4: false });
    let reply = [&[5, 0, 5, 0, 0, 4][..], &[0; 16], &[0x12, 0x34]].concat();
    let (sent, _) = talk(&mut handshake, &reply, 4);
    assert_eq!(sent[3..], [&[5, 3, 0, 4][..], &[0; 18]].concat());
    assert_eq!(handshake.outcome(), Some(Ok(0x1234)));
    let never = Handshake::new(Protocol::Http, None, Wish::Associate { v4: true });
    assert_eq!(never.outcome(), Some(Err(Errno::EACCES)));
}

#[test]
fn refusals_are_errnos() {
    let socks = |come: &[u8]| {
        let mut handshake = Handshake::new(Protocol::Socks5, Some(&credentials()), Wish::Connect(FAR, 80));
        talk(&mut handshake, come, 100);
        handshake.outcome()
    };
    for (come, errno) in [
        (&[5, 0xFF][..], Errno::EACCES),
        (&[5, 2, 1, 1], Errno::EACCES),
        (&[5, 0, 5, 2, 0], Errno::EACCES),
        (&[5, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0], Errno::ENETUNREACH),
        (&[5, 0, 5, 4, 0], Errno::EHOSTUNREACH),
        (&[5, 0, 5, 5, 0], Errno::ECONNREFUSED),
        (&[5, 0, 5, 8, 0], Errno::EAFNOSUPPORT),
        (&[4, 0], Errno::ECONNRESET),
        (&[5, 9], Errno::ECONNRESET),
        (&[5, 0, 5, 0, 0, 9], Errno::ECONNRESET),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Errno::ECONNRESET),
    ] {
        assert_eq!(socks(come), Some(Err(errno)), "{come:?}");
    }
    // A method that was not offered.
    let mut plain = Handshake::new(Protocol::Socks5, None, Wish::Connect(FAR, 80));
    talk(&mut plain, &[5, 2], 2);
    assert_eq!(plain.outcome(), Some(Err(Errno::ECONNRESET)));
    for (come, errno) in [
        ("HTTP/1.1 407 Who?\r\n\r\n", Errno::EACCES),
        ("HTTP/1.0 504 \r\nA: b\r\n\r\n", Errno::EHOSTUNREACH),
        ("HTTP/1.0 502\r\n\r\n", Errno::ECONNREFUSED),
        ("HTTP/2 200 x\r\n\r\n", Errno::ECONNRESET),
        ("SSH-2.0", Errno::ECONNRESET),
        (&format!("HTTP/1.1 200 {}", "x".repeat(MAX_MESSAGE)), Errno::ECONNRESET),
    ] {
        let mut handshake = Handshake::new(Protocol::Http, None, Wish::Connect(FAR, 80));
        talk(&mut handshake, come.as_bytes(), 1 << 20);
        assert_eq!(handshake.outcome(), Some(Err(errno)), "{come:?}");
    }
}

#[test]
fn connect_asks_by_name_and_takes_the_head() {
    for size in [1, 7, 1000] {
        let mut handshake =
            Handshake::new(Protocol::Http, Some(&credentials()), Wish::Connect(Host::Name("a.b"), 443));
        let come = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n\r\nstream";
        let (sent, taken) = talk(&mut handshake, come, size);
        let head = "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\nProxy-Authorization: Basic YW5uOnMzOmNyZXQ=\r\n\r\n";
        assert_eq!(String::from_utf8(sent).unwrap(), head);
        assert_eq!((come.len() - taken, handshake.outcome()), (6, Some(Ok(0))));
    }
    let v6 = Host::Address("2001:db8::1".parse().unwrap());
    let handshake = Handshake::new(Protocol::Http, None, Wish::Connect(v6, 80));
    assert!(handshake.outgoing().starts_with(b"CONNECT [2001:db8::1]:80 HTTP"));
    let evil = Handshake::new(Protocol::Http, None, Wish::Connect(Host::Name("a\r\nb"), 80));
    assert_eq!((evil.outgoing(), evil.outcome()), (&[][..], Some(Err(Errno::EHOSTUNREACH))));
}

proptest! {
    #[test]
    fn whatever_comes_is_taken_in_bounds(
        come in prop::collection::vec(any::<u8>(), 0..80), right in 0..4usize, http: bool, size in 1..9usize
    ) {
        let right = [&[][..], &[5, 0], &[5, 2, 1, 0], b"HTTP/1.1 "][right];
        let come = [right, &come].concat();
        let protocol = if http { Protocol::Http } else { Protocol::Socks5 };
        let outcome = |size| {
            let mut handshake = Handshake::new(protocol, Some(&credentials()), Wish::Connect(FAR, 80));
            let (_, taken) = talk(&mut handshake, &come, size);
            (taken <= come.len(), handshake.outcome())
        };
        prop_assert!(outcome(size).0);
        // It does not matter in which pieces it comes.
        prop_assert_eq!(outcome(size).1, outcome(1000).1);
    }

    #[test]
    fn heads_of_datagrams_are_read_as_they_were_written(v6: u128, v4: bool, port: u16, name in "[a-z.]{0,255}") {
        let address: IpAddr = if v4 { Ipv4Addr::from(v6 as u32).into() } else { Ipv6Addr::from(v6).into() };
        let host = if name.is_empty() { Host::Address(address) } else { Host::Name(&name) };
        let mut bytes = [0; MAX_HEAD];
        let length = Head { host, port }.write(&mut bytes);
        prop_assert_eq!(Head::read(&bytes[..length]), Some((Head { host, port }, length)));
        for short in 0..length {
            prop_assert_eq!(Head::read(&bytes[..short]), None);
        }
    }

    #[test]
    fn any_text_is_a_proxy_or_none(text in "(socks5|http):[\\[\\]a-z0-9.:/ ]{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(via) = text.parse::<Via>() {
            prop_assert_eq!(via.to_string().parse::<Via>(), Ok(via));
        }
        let _ = Head::read(&bytes);
    }
}
