//! How long packets may be, inside and outside, and links without /dev/net/tun.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tests::{User, World};

use super::peer::Peer;
use super::{TALK, each_kind, json, python};

#[test]
fn a_way_that_is_narrow_farther_on_is_no_obstacle() {
    for &user in User::all() {
        for (kind, endpoint) in [("kernel", "203.0.113.2:51820"), ("smol", "[2001:db8:9::2]:51820")] {
            let world = World::new(user);
            let Some(peer) = Peer::beyond(&world, 1300) else { return };
            peer.begin();
            let _servers = peer.servers();
            peer.file(&world, "office.conf", &[("203.0.113.2:51820", endpoint)]);
            let seen = peer.capture(|| {
                python(&world, kind, &[], TALK).limit(Duration::from_secs(60)).run().ok().says("talked");
            });
            // The tunnel's MTU is not that of the way: whole datagrams are longer than it is wide. Over IPv4 they are cut
            // where it becomes narrow, over IPv6 where they begin.
            let long = |line: &&String| {
                let length = line.rsplit(' ').next().and_then(|word| word.parse().ok());
                length.is_some_and(|length: u32| length > 1300)
            };
            let whole = seen.iter().filter(|line| !line.contains("frag")).filter(long).count();
            let cut = seen.iter().filter(|line| line.contains("frag")).count();
            match kind {
                "kernel" => assert!(whole > 10 && cut == 0, "{whole} {cut}"),
                _ => assert!(cut > 100, "{whole} {cut}"),
            }
        }
    }
}

#[test]
fn the_mtu_is_that_of_the_route_to_the_peer() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let shown = |more: &[&str]| {
            let script = "import socket; print(open('/sys/class/net/wg0/mtu').read())";
            let link = python(world, kind, more, script).run().ok().stdout;
            link.trim().to_owned()
        };
        world.administer(&["ip", "link", "set", "v0", "mtu", "1400"]);
        assert_eq!(shown(&[]), "1320");
        // That of the route, not of the device; IPv6 has 1280 at least.
        world.administer(&["ip", "route", "add", "192.0.2.2/32", "dev", "v0", "mtu", "1300"]);
        assert_eq!(shown(&[]), "1280");
        peer.file(world, "office.conf", &[("Address", "MTU = 1390\nAddress")]);
        assert_eq!(shown(&[]), "1390");
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        assert_eq!(json(world.viewnet(["vpn", "show", "office", "--json"]).run())["mtu"], 1390);
        world.viewnet(["vpn", "down", "office"]).run().ok();
    });
}

#[test]
fn what_may_not_be_cut_and_is_too_long_is_refused() {
    each_kind(|world, peer, kind| {
        peer.begin();
        let _servers = peer.servers();
        let script = "
import errno, socket, subprocess
for at, header, level, option in (('10.9.0.1', 28, socket.IPPROTO_IP, 10), ('fd09::1', 48, socket.IPPROTO_IPV6, 23)):
    v6 = ':' in at
    u = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(30)
    u.setsockopt(level, option, 2); u.connect((at, 7007))  # IP_PMTUDISC_DO
    assert u.getsockopt(level, 24 if v6 else 14) == 1420   # IP_MTU
    u.send(bytes(1420 - header)); assert len(u.recv(9999)) == 1420 - header
    try: u.sendto(bytes(1421 - header), (at, 7007)); print('sent')
    except OSError as e: print(errno.errorcode[e.errno])
    ping = ['ping', '-c', '1', '-W', '9', '-M', 'do', '-s', str(1420 - header), at]
    subprocess.run(ping, check=True, stdout=-3)
    ping[-2] = str(1421 - header)
    print(subprocess.run(ping, stdout=-3, stderr=-3).returncode != 0)";
        let said = python(world, kind, &[], script).run().ok().stdout;
        assert_eq!(said, "EMSGSIZE\nTrue\nEMSGSIZE\nTrue\n");
    });
}

#[test]
fn without_dev_net_tun_a_tunnel_is_as_good() {
    for kind in ["kernel", "smol"] {
        let mut world = World::new(User::Ordinary);
        world.forbid_tun();
        let closed = world.folder().join("tun");
        fs::write(&closed, "").unwrap();
        fs::set_permissions(&closed, Permissions::from_mode(0o600)).unwrap();
        world.bind_mount(&closed, Path::new("/dev/net/tun"));
        let Some(peer) = Peer::new(&world) else { return };
        peer.begin();
        let _servers = peer.servers();
        let refused = world.cmd("cat").args(["/dev/net/tun"]).run();
        assert!(refused.stderr.contains("Permission denied"), "{}", refused.stderr);
        python(&world, kind, &[], TALK).run().ok().says("talked");
        world.viewnet(["vpn", "up", "office.conf", "--kind", kind]).run().ok();
        let talk = ["vpn", "run", "office", "--", "python3", "-c", TALK];
        world.viewnet(talk).limit(Duration::from_secs(40)).run().ok().says("talked");
        world.viewnet(["vpn", "down", "office"]).run().ok();
    }
}
