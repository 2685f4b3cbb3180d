//! Two tunnels and the network between them.

use std::net::Ipv4Addr;

use super::super::{STACK_MAC, TUNNEL_MAC};
use super::peer::{ASK_AGAIN, BETWEEN_QUESTIONS, SLOW_TICK};
use super::*;

/// Where they are.
const AT: [&str; 2] = ["192.0.2.1:1000", "192.0.2.2:2000"];

fn at(number: usize) -> SocketAddr {
    AT[number].parse().unwrap()
}

fn public(private: [u8; 32]) -> String {
    Key(PublicKey::from(&StaticSecret::from(private)).to_bytes()).to_text()
}

/// One end of a pair: its packets are from 10.9.0.(1 + number).
fn config(number: u8, more: &str) -> Config {
    let other = 1 - number;
    Config::parse(&format!(
        "[Interface]\nPrivateKey={}\nAddress=10.9.0.{}/24\n[Peer]\nPublicKey={}\nAllowedIPs=10.9.0.{}/32,fd09::{}/128\n\
         Endpoint={}\n{more}",
        Key([number + 1; 32]).to_text(),
        number + 1,
        public([other + 1; 32]),
        other + 1,
        other + 1,
        AT[usize::from(other)],
    ))
    .unwrap()
}

struct World {
    now: Instant,
    ends: [Tunnel; 2],
}

type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

impl World {
    #[expect(clippy::disallowed_methods, reason = "some moment to begin with")]
    fn new(more: [&str; 2]) -> Self {
        let end = |number: u8| Tunnel::new(&config(number, more[usize::from(number)]), 0xFF_FFFF, &[]);
        Self { now: Instant::now(), ends: [end(0), end(1)] }
    }

    /// What an end wants to send, one datagram after the other.
    fn sent(&mut self, from: usize) -> Datagrams {
        let outbox = &mut self.ends[from].outbox;
        let mut all = Vec::new();
        for (train, bytes) in outbox.trains() {
            all.extend(bytes.chunks(usize::from(train.segment)).map(|one| (train.to, one.to_vec())));
        }
        outbox.clear();
        all
    }

    /// The packets that came out of an end.
    fn came(&mut self, to: usize) -> Vec<Vec<u8>> {
        let inbox = &mut self.ends[to].inbox;
        let all = inbox.frames().map(|(_, frame)| frame[HEADER_LEN..].to_vec()).collect();
        inbox.clear();
        all
    }

    fn hear(&mut self, to: usize, from: SocketAddr, datagrams: &Datagrams) {
        for (_, datagram) in datagrams {
            self.ends[to].handle_datagram(self.now, from, datagram);
        }
    }

    /// Datagrams go back and forth until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..10 {
            for from in [0, 1] {
                let sent = self.sent(from);
                self.hear(1 - from, at(from), &sent);
            }
        }
    }

    fn send(&mut self, from: usize, packet: &[u8]) {
        let frame = frame(packet);
        self.ends[from].handle_frame(self.now, &VnetHdr::default(), &frame);
    }

    /// A packet goes from one end to the other.
    fn passes(&mut self, from: usize) -> bool {
        let packet = udp(from as u8 + 1, 2 - from as u8, b"across");
        self.send(from, &packet);
        self.settle();
        let came = self.came(1 - from);
        came == [packet]
    }
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    [&TUNNEL_MAC[..], &STACK_MAC, &kind.to_be_bytes(), packet].concat()
}

/// A UDP packet between addresses of 10.9.0.0/24, whose checksums nobody here looks at.
fn udp(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, from, 10, 9, 0, to];
    packet.extend([0, 7, 0, 7, 0, 8 + payload.len() as u8, 0, 0]);
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

#[test]
fn the_first_packets_wait_for_the_handshake_and_then_pass() {
    let mut world = World::new(["", ""]);
    for byte in 0..3 {
        world.send(0, &udp(1, 2, &[byte]));
    }
    let first = world.sent(0);
    assert_eq!((first.len(), first[0].1[0], first[0].0), (1, INITIATION, at(1)));
    world.hear(1, at(0), &first);
    world.settle();
    assert_eq!(world.came(1), [0, 1, 2].map(|byte| udp(1, 2, &[byte])));
    assert!(world.passes(0) && world.passes(1));
    for (end, other) in [(0, 1), (1, 0)] {
        let info = &world.ends[end].peers(world.now)[0];
        assert_eq!((info.endpoint, info.handshake_s), (Some(at(other)), Some(0)));
        assert!(info.sent > 148 && info.received > 92);
        assert_eq!(world.ends[end].dropped(), Dropped::default());
    }
}

#[test]
fn packets_are_filled_up_and_cut_to_size_again() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0));
    world.send(0, &udp(1, 2, b"odd"));
    let sent = world.sent(0);
    // 31 bytes of packet, 32 with padding, 32 of WireGuard.
    assert_eq!(sent[0].1.len(), 64);
    world.hear(1, at(0), &sent);
    assert_eq!(world.came(1), [udp(1, 2, b"odd")]);
}

#[test]
fn what_is_replayed_or_changed_is_dropped() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0));
    world.send(0, &udp(1, 2, b"once"));
    let sent = world.sent(0);
    world.hear(1, at(0), &sent);
    assert_eq!(world.came(1).len(), 1);
    world.hear(1, at(0), &sent);
    assert_eq!((world.came(1).len(), world.ends[1].dropped().not_authentic), (0, 1));
    world.send(0, &udp(1, 2, b"again"));
    let sent = world.sent(0);
    for byte in 0..sent[0].1.len() {
        let mut changed = sent.clone();
        changed[0].1[byte] ^= 0x10;
        // Nor does it tell where the peer is.
        world.hear(1, at(1), &changed);
        assert!(world.came(1).is_empty() && world.sent(1).is_empty(), "byte {byte}");
    }
    assert_eq!(world.ends[1].peers(world.now)[0].endpoint, Some(at(0)));
    world.hear(1, at(0), &sent);
    assert_eq!(world.came(1).len(), 1);
}

#[test]
fn a_handshake_with_a_wrong_mac_or_replayed_is_not_answered() {
    let mut world = World::new(["", ""]);
    world.send(0, &udp(1, 2, b"x"));
    let first = world.sent(0);
    let mut changed = first.clone();
    changed[0].1[120] ^= 1;
    world.hear(1, at(0), &changed);
    assert!(world.sent(1).is_empty());
    world.hear(1, at(0), &first);
    assert_eq!(world.sent(1).len(), 1);
    // Its timestamp is not newer.
    world.hear(1, at(0), &first);
    assert!(world.sent(1).is_empty());
    assert_eq!(world.ends[1].dropped().not_authentic, 2);
}

#[test]
fn a_stranger_is_not_answered_nor_one_with_another_preshared_key() {
    let psk = |byte: u8| format!("PresharedKey={}\n", Key([byte; 32]).to_text());
    let mut world = World::new([&psk(1), &psk(2)]);
    assert!(!world.passes(0) && !world.passes(1));
    let mut world = World::new([&psk(3), &psk(3)]);
    assert!(world.passes(0));
    let mut strangers = config(0, "");
    strangers.private_key = Key([9; 32]);
    world.ends[0] = Tunnel::new(&strangers, 7, &[]);
    assert!(!world.passes(0));
}

#[test]
fn who_is_heard_elsewhere_is_answered_there() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0));
    let elsewhere: SocketAddr = "[2001:db8::7]:9".parse().unwrap();
    world.send(0, &udp(1, 2, b"moved"));
    let sent = world.sent(0);
    world.hear(1, elsewhere, &sent);
    assert_eq!(world.came(1).len(), 1);
    world.send(1, &udp(2, 1, b"there"));
    assert_eq!(world.sent(1)[0].0, elsewhere);
}

#[test]
fn a_peer_sends_from_its_allowed_addresses_only_and_gets_what_is_for_them() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0));
    // From 10.9.0.3, which is not the peer's.
    world.send(0, &udp(3, 2, b"forged"));
    world.settle();
    assert_eq!((world.came(1).len(), world.ends[1].dropped().not_allowed), (0, 1));
    // To 10.9.0.4, which is nobody's.
    world.send(0, &udp(1, 4, b"lost"));
    assert_eq!((world.sent(0).len(), world.ends[0].dropped().no_peer), (0, 1));
    let v6 = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0xfd; 16], &[0xfd; 16]].concat();
    world.send(0, &v6);
    assert_eq!(world.ends[0].dropped().no_peer, 2);
    for bad in [&b"\x45"[..], &[0x45; 19], &[0x60; 39]] {
        world.send(0, bad);
    }
    let arp = [&[0xFF; 6][..], &STACK_MAC, &[8, 6], &[0; 28]].concat();
    world.ends[0].handle_frame(world.now, &VnetHdr::default(), &arp);
    assert_eq!((world.sent(0).len(), world.ends[0].dropped().malformed), (0, 4));
}

#[test]
fn the_longest_prefix_wins() {
    let text = format!(
        "[Interface]\nPrivateKey={}\n[Peer]\nPublicKey={}\nAllowedIPs=0.0.0.0/0\nEndpoint=192.0.2.1:1\n\
         [Peer]\nPublicKey={}\nAllowedIPs=10.9.0.0/24\nEndpoint=192.0.2.2:2\n\
         [Peer]\nPublicKey={}\nAllowedIPs=10.9.0.7/32\n",
        Key([1; 32]).to_text(),
        public([2; 32]),
        public([3; 32]),
        public([4; 32]),
    );
    let mut world = World::new(["", ""]);
    world.ends[0] = Tunnel::new(&Config::parse(&text).unwrap(), 0, &[]);
    let mut elsewhere = udp(1, 1, b"");
    elsewhere[16..20].copy_from_slice(&Ipv4Addr::new(8, 8, 8, 8).octets());
    world.send(0, &elsewhere);
    world.send(0, &udp(1, 8, b""));
    let to: Vec<u16> = world.sent(0).iter().map(|(to, _)| to.port()).collect();
    assert_eq!(to, [1, 2]);
    // Nobody knows where the third one is.
    world.send(0, &udp(1, 7, b""));
    assert_eq!((world.sent(0).len(), world.ends[0].dropped().no_endpoint), (0, 1));
}

#[test]
fn under_load_only_who_shows_a_cookie_is_answered() {
    let mut world = World::new(["", ""]);
    // Handshakes of somebody who knows our public key, from anywhere.
    for _ in 0..=2 * HANDSHAKES {
        let mut other = Tunnel::new(&config(0, ""), 5, &[]);
        other.handle_frame(world.now, &VnetHdr::default(), &frame(&udp(1, 2, b"")));
        std::mem::swap(&mut other, &mut world.ends[0]);
        let sent = world.sent(0);
        world.hear(1, at(0), &sent);
    }
    let kinds: Vec<u8> = world.sent(1).iter().map(|(_, datagram)| datagram[0]).collect();
    assert!(kinds.contains(&COOKIE), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&COOKIE));
    // With the cookie it is answered, although the load goes on.
    let mut end = Tunnel::new(&config(0, ""), 5, &[]);
    end.handle_frame(world.now, &VnetHdr::default(), &frame(&udp(1, 2, b"")));
    world.ends[0] = end;
    let sent = world.sent(0);
    world.hear(1, at(0), &sent);
    let cookie = world.sent(1);
    assert_eq!(cookie[0].1[0], COOKIE);
    world.hear(0, at(1), &cookie);
    let Tunnel { peers, outbox, .. } = &mut world.ends[0];
    let room = outbox.room(HANDSHAKE_LEN).unwrap();
    let TunnResult::WriteToNetwork(again) = peers[0].tunn.format_handshake_initiation(room, true) else {
        panic!("no second attempt")
    };
    let again = again.to_vec();
    world.ends[1].handle_datagram(world.now, at(0), &again);
    assert_eq!(world.sent(1)[0].1[0], RESPONSE);
}

#[test]
fn a_new_session_takes_over_without_a_loss() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0) && world.passes(1));
    for round in 0..20 {
        let from = round % 2;
        let Tunnel { peers, outbox, .. } = &mut world.ends[from];
        let room = outbox.room(HANDSHAKE_LEN).unwrap();
        let TunnResult::WriteToNetwork(first) = peers[0].tunn.format_handshake_initiation(room, true) else {
            panic!("no handshake")
        };
        let len = first.len();
        outbox.commit(at(1 - from), len);
        // Data of the old session meanwhile.
        assert!(world.passes(1 - from) && world.passes(from), "round {round}");
    }
}

#[test]
fn a_peer_that_was_restarted_is_met_again() {
    let mut world = World::new(["", ""]);
    assert!(world.passes(0));
    world.ends[1] = Tunnel::new(&config(1, ""), 77, &[]);
    // It knows nothing of the session; its own packet begins a new one.
    world.send(0, &udp(1, 2, b"lost"));
    let sent = world.sent(0);
    world.hear(1, at(0), &sent);
    assert!(world.came(1).is_empty());
    assert!(world.passes(1) && world.passes(0));
}

#[test]
fn a_keepalive_begins_a_handshake_by_itself() {
    let mut world = World::new(["PersistentKeepalive=25", ""]);
    assert!(world.ends[0].poll_timeout().is_none());
    let now = world.now;
    world.ends[0].handle_timeout(now);
    world.ends[1].handle_timeout(now);
    assert_eq!(world.ends[0].poll_timeout(), Some(now + TICK));
    // Without one nothing is sent, and nothing is to be done.
    assert!(world.sent(1).is_empty() && world.ends[1].poll_timeout().is_none());
    world.settle();
    assert_eq!(world.ends[0].peers(now)[0].handshake_s, Some(0));
    world.ends[0].handle_timeout(now + TICK);
    assert_eq!(world.ends[0].poll_timeout(), Some(now + TICK + SLOW_TICK));
}

#[test]
fn names_are_asked_for_again_when_nobody_answers() {
    let mut named = config(0, "");
    named.peers[0].endpoint = "vpn.example:7".parse().ok();
    let mut world = World::new(["", ""]);
    world.ends[0] = Tunnel::new(&named, 0, &[]);
    let mut now = world.now;
    world.ends[0].handle_timeout(now);
    let asked = std::mem::take(&mut world.ends[0].unresolved);
    assert_eq!((asked.len(), asked[0].0, asked[0].1.host.as_str()), (1, 0, "vpn.example"));
    world.ends[0].handle_resolved(now, 0, at(1));
    world.send(0, &udp(1, 2, b""));
    assert_eq!(world.sent(0)[0].0, at(1));
    now += ASK_AGAIN;
    world.ends[0].handle_timeout(now);
    assert!(world.ends[0].unresolved.is_empty(), "not so soon after the last question");
    now += BETWEEN_QUESTIONS;
    world.ends[0].handle_timeout(now);
    assert_eq!(world.ends[0].unresolved.len(), 1);
    let moved: SocketAddr = "192.0.2.9:7".parse().unwrap();
    world.ends[0].handle_resolved(now, 0, moved);
    assert_eq!(world.ends[0].peers(now)[0].endpoint, Some(moved));
    // A number that is none.
    world.ends[0].handle_resolved(now, 5, moved);
}
