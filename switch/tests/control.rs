//! The control socket: what lives how long, and what a hostile peer can do.

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Namespace, Served, any_port, eventually, isolated};
use msocket_proto::line::{CallError, Refusal, sweep};
use switch::client::{Attach, Client, Kind, MacFilter, Request};
use switch::serve::{self, Options};
use switch::vlan::Vid;

fn port_names(client: &mut Client) -> Vec<String> {
    client.ports().unwrap().into_iter().map(|p| p.name).collect()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> Refusal {
    match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_port_lives_as_long_as_its_connection() {
    isolated("a_port_lives_as_long_as_its_connection", || {
        let served = Served::new(None);
        let namespaces: Vec<Namespace> = (0..4).map(|_| Namespace::new()).collect();
        let mut fds = namespaces.iter().map(any_port);
        let mut next = || fds.next().unwrap();
        let mut watcher = served.client();

        let (fd, kind) = next();
        let mut attached = served.client().attach(fd, &Attach::new(kind)).unwrap();
        let (fd, _) = next();
        attached.attach(fd, &Attach { name: Some("second".into()), ..Attach::new(kind) }).unwrap();
        assert_eq!(attached.ports(), ["p1", "second"]);
        let (fd, _) = next();
        let taken = Attach { name: Some("second".into()), ..Attach::new(kind) };
        assert_eq!(refusal(served.client().attach(&fd, &taken)).errno, Some(libc::EEXIST));
        let lingering = Attach { name: Some("stays".into()), linger: true, ..Attach::new(kind) };
        attached.attach(fd, &lingering).unwrap();

        // The connection changes hands; nothing happens to the ports.
        let line = attached.into_line();
        let mut client = Client::from_line(line).unwrap();
        assert_eq!(port_names(&mut client), ["p1", "second", "stays"]);
        drop(client);
        eventually("ports go with their connection", || port_names(&mut watcher) == ["stays"]);

        // Gone by request, and by the end of its interface.
        watcher.call::<()>(&Request::PortRm { port: "stays".into() }).unwrap();
        assert!(port_names(&mut watcher).is_empty());
        let (fd, _) = next();
        let _attached = served.client().attach(fd, &Attach::new(kind)).unwrap();
        namespaces[3].sh("ip link set eth0 up && ip link del eth0");
        eventually("a port goes with its interface", || port_names(&mut watcher).is_empty());
    });
}

#[test]
fn a_dying_tap_leaves_nothing_behind() {
    isolated("a_dying_tap_leaves_nothing_behind", || {
        if !common::has_tap() {
            return;
        }
        let served = Served::new(None);
        let namespaces: Vec<Namespace> = (0..10).map(|_| Namespace::new()).collect();
        let dying = Attach { dying: true, ..Attach::new(Kind::Tap) };
        let mut attached = served.client().attach(namespaces[0].tap(), &dying).unwrap();
        namespaces[1..].iter().for_each(|ns| {
            attached.attach(ns.tap(), &dying).unwrap();
        });
        drop(attached);
        let mut watcher = served.client();
        eventually("the ports are gone", || port_names(&mut watcher).is_empty());
    });
}

#[test]
fn descriptors_of_other_kinds_are_refused() {
    let served = Served::new(None);
    let mut client = served.client();
    let (pair, _other) = UnixStream::pair().unwrap();
    let fds: [OwnedFd; 4] = [
        std::fs::File::open("/dev/null").unwrap().into(),
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        pair.into(),
        std::io::pipe().unwrap().0.into(),
    ];
    for fd in &fds {
        for kind in [Kind::Tap, Kind::Packet] {
            refusal(client.add_port(fd, &Attach::new(kind)));
        }
    }
    let mut line = client.into_line();
    let request = Request::PortAdd(Attach::new(Kind::Tap));
    refusal(line.call::<_, ()>(&request, &[]));
    refusal(line.call::<_, ()>(&request, &[fds[0].as_fd(), fds[1].as_fd()]));
}

#[test]
fn requests_and_refusals() {
    let served = Served::new(None);
    let mut client = served.client();
    let hello = client.hello().unwrap();
    assert_eq!((hello.version, hello.name.as_str()), (switch::control::VERSION, "test"));
    let vid = Vid::new(7).unwrap();
    client.call::<()>(&Request::VlanAdd { vid, name: "lab".into() }).unwrap();
    assert_eq!(client.vlans().unwrap()[0].name, "lab");
    client.call::<()>(&Request::VlanRm { vid }).unwrap();
    assert!(client.vlans().unwrap().is_empty());
    client.call::<()>(&Request::Set(age(10))).unwrap();
    assert_eq!(client.show().unwrap().age_s, 10);
    refusal(client.call::<()>(&Request::Set(age(0))));
    refusal(client.call::<()>(&Request::VlanAdd { vid, name: "\x1b[31m".into() }));
    let nowhere = MacFilter { port: Some("nowhere".into()), ..MacFilter::default() };
    assert_eq!(refusal(client.stations(nowhere.clone())).errno, Some(libc::ENOENT));
    refusal(client.call::<usize>(&Request::MacFlush(nowhere)));
    refusal(client.call::<()>(&Request::PortRm { port: "nowhere".into() }));
    refusal(client.call::<()>(&Request::PortSet {
        port: "nowhere".into(),
        vlans: None,
        rename: None,
        peers: None,
    }));
    assert_eq!(client.call::<usize>(&Request::MacFlush(MacFilter::default())).unwrap(), 0);
}

#[test]
fn garbage_gets_an_error_and_nobody_else_notices() {
    let served = Served::new(None);
    let mut good = served.client();
    let mut garbage = UnixStream::connect(&served.path).unwrap();
    garbage.write_all(b"{]\n\xFF\xFE\n{\"op\":\"reboot\"}\n\n{\"op\":\"hello\"}\n").unwrap();
    garbage.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = String::new();
    while text.lines().filter(|line| line.ends_with('}')).count() < 5 {
        let mut bytes = [0; 4096];
        let n = garbage.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    assert_eq!(text.matches("{\"error\":").count(), 4, "{text}");
    assert_eq!(text.matches("{\"ok\":").count(), 1, "{text}");

    // A line without end is cut off.
    let mut endless = UnixStream::connect(&served.path).unwrap();
    endless.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let refused = (0..100).any(|_| endless.write_all(&[b'x'; 64 << 10]).is_err());
    assert!(refused, "an endless line was taken");
    assert_eq!(good.hello().unwrap().name, "test");
}

#[test]
fn one_who_does_not_read_neither_stalls_nor_grows_the_switch() {
    let served = Served::new(None);
    let mut good = served.client();
    let mut deaf = UnixStream::connect(&served.path).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let requests = "{\"op\":\"show\"}\n".repeat(1000);
    let mut sent = 0;
    // The switch stops reading when its answers pile up, so the socket fills.
    for _ in 0..200 {
        match deaf.write(requests.as_bytes()) {
            Ok(n) => sent += n,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(sent < 100 * requests.len(), "the switch went on reading");
    for _ in 0..100 {
        assert_eq!(good.hello().unwrap().name, "test");
    }
    // Once it reads, it gets its answers.
    deaf.set_nonblocking(false).unwrap();
    deaf.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = vec![0; 4096];
    for _ in 0..100 {
        assert!(deaf.read(&mut text).unwrap() > 0);
    }
}

#[test]
fn an_unused_switch_ends_and_takes_its_socket_along() {
    // On a machine that has much to do it may have ended before we come.
    let (mut served, client) = loop {
        let served = Served::new(Some(Duration::from_millis(300)));
        if let Ok(mut client) = Client::connect(&served.path)
            && client.hello().is_ok()
        {
            break (served, client);
        }
    };
    std::thread::sleep(Duration::from_millis(500));
    assert!(served.path.exists(), "ended while in use");
    drop(client);
    served.join();
    assert!(!served.path.exists());
}

/// Whoever comes at the last moment is served, or turned away in a way that says "start another".
#[test]
fn a_switch_that_is_just_ending_answers_or_is_gone() {
    let (mut answered, mut gone) = (0, 0);
    for round in 0..200 {
        let mut served = Served::new(Some(Duration::from_millis(3)));
        std::thread::sleep(Duration::from_micros(2500 + round * 10));
        match Client::connect(&served.path) {
            Ok(mut client) => match client.hello() {
                Ok(_) => {
                    answered += 1;
                    client.show().expect("a switch in use does not end");
                    assert!(served.path.exists());
                }
                Err(e) => {
                    assert!(switch::client::is_gone(&e), "{e:?}");
                    gone += 1;
                }
            },
            Err(e) => {
                use std::io::ErrorKind::{ConnectionRefused, NotFound};
                assert!(matches!(e.kind(), NotFound | ConnectionRefused), "{e:?}");
                gone += 1;
            }
        }
        served.join();
        assert!(!served.path.exists());
    }
    eprintln!("{answered} answered, {gone} gone");
}

#[test]
fn down_is_answered_after_the_socket_is_gone() {
    let mut served = Served::new(None);
    served.client().down().unwrap();
    assert!(!served.path.exists());
    served.join();
}

#[test]
fn of_many_starters_one_wins() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("race");
        if round % 2 == 0 {
            // A dead switch's socket lies in the way.
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        }
        let options = Options { age: Duration::from_secs(1), ..Options::new("race", &path) };
        let start = |_| {
            let options = options.clone();
            std::thread::Builder::new().spawn(move || serve::Server::new(&options, None)).unwrap()
        };
        let threads: Vec<_> = (0..8).map(start).collect();
        let outcomes: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
        let in_use = |o: &Result<_, std::io::Error>| {
            o.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
        };
        assert_eq!(outcomes.iter().filter(|o| in_use(o)).count(), 7);
        UnixStream::connect(&options.path).expect("the winner has the path");
        assert!(!sweep(&options.path).unwrap());
        drop(outcomes);
        assert!(!options.path.exists());
    }
}

fn age(age_s: u64) -> switch::client::Settings {
    switch::client::Settings { age_s: Some(age_s), ..Default::default() }
}

#[test]
fn every_request_to_a_switch_is_in_the_manual() {
    let unknown = serde_json::from_str::<Request>("{\"op\":\"\"}").unwrap_err().to_string();
    let known: Vec<&str> = unknown.split('`').skip(3).step_by(2).collect();
    assert!(known.contains(&"hello") && known.contains(&"down"), "{unknown}");
    let page = include_str!("../../doc/switch.md");
    let (_, table) = page.split_once("## Control protocol").expect("the chapter");
    let rows: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    for op in known {
        let word = format!("`{op}`");
        assert!(
            rows.iter().any(|row| row.split(" | ").next().is_some_and(|cell| cell.contains(&word))),
            "{op}"
        );
    }
    assert!(table.contains(&format!("`version` (now {})", switch::control::VERSION)));
}
