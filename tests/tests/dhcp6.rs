//! DHCPv6 and router advertisements: our server with a client of others, our client with servers of others, and what
//! routers say later. The network is a switch, whoever is on it a view.

use std::time::Duration;

use serde_json::Value;
use tests::{Outcome, Running, SOON, Status, User, World, each_user, wait_until};

/// A stack of each kind.
const KINDS: [&str; 2] = ["kernel1", "smol1"];

fn json(outcome: Outcome) -> Value {
    serde_json::from_str(&outcome.ok().stdout).unwrap()
}

fn interface(world: &World, stack: &str) -> Value {
    let shown = json(world.viewnet(["stack", "show", stack, "--json"]).run());
    shown["interfaces"].as_array().unwrap().iter().find(|it| it["name"] == "eth0").unwrap().clone()
}

/// Whether the interface of a stack has an address that begins, or ends, like this.
fn has(world: &World, stack: &str, part: &str) -> bool {
    interface(world, stack)["addresses"].to_string().contains(part)
}

fn stack_up(world: &World, name: &str, more: &str) -> Outcome {
    let link = format!("switch:lan,{more}");
    let kind = name.trim_end_matches('1');
    world.viewnet(["stack", "up", name, "--kind", kind, "--link", &link]).run()
}

fn ip(world: &World, stack: &str, args: &[&str]) -> String {
    world.run(["--stack", stack, "--", "ip", "-6"]).args(args).run().ok().stdout
}

/// With a switch and a gateway that run.
fn each_gateway(options: &[&str], test: impl Fn(&World)) {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        world.viewnet(["gateway", "up", "--switch", "lan"]).args(options).run().ok();
        test(&world);
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn a_stack_gets_an_address_and_gives_it_back() {
    let options = ["--dhcp6", "stateful", "--lease", "12", "--static", "smol1=fd00:10:0:2::77"];
    each_gateway(&options, |world| {
        let leases =
            || json(world.viewnet(["gateway", "show", "--switch", "lan", "--json"]).run())["leases"].clone();
        for (kind, how) in [(KINDS[0], "auto"), (KINDS[1], "dhcp6")] {
            stack_up(world, kind, &format!("ip={how}")).ok();
            let it = interface(world, kind);
            let given = if kind == KINDS[1] { "\"fd00:10:0:2::77/128\"" } else { "\"fd00:10:0:2::1" };
            assert!(it["addresses"].to_string().contains(given), "{kind}: {it}");
            // The one that it chose itself is there, too.
            assert!(it["addresses"].to_string().contains("/64"), "{kind}: {it}");
            assert!(it["lease_v6_s"].as_u64().is_some_and(|left| left <= 12), "{kind}: {it}");
            assert!(ip(world, kind, &["route"]).contains("default via fe80::1 dev eth0"), "{kind}");
        }
        world.viewnet(["stack", "show", KINDS[1]]).run().ok().says("leased by DHCPv6 for ");
        // Longer than the lease.
        std::thread::sleep(Duration::from_secs(14));
        for kind in KINDS {
            let it = interface(world, kind);
            assert!(
                it["addresses"].to_string().contains("/128") && !it["lease_v6_s"].is_null(),
                "{kind}: {it}"
            );
        }
        // IPv4's of `ip=auto`, and IPv6's of both.
        assert_eq!(leases(), 3);
        for kind in KINDS {
            world.viewnet(["stack", "down", kind]).run().ok();
        }
        assert!(wait_until(SOON, || leases() == 1), "{}", leases());
        // So does a view, at its end.
        for kind in KINDS {
            let options = ["--kind", kind.trim_end_matches('1'), "--link", "switch:lan,ip=dhcp6", "--"];
            world.run(options).args(["ip", "-6", "address"]).run().ok().says("/128");
            assert!(wait_until(SOON, || leases() == 1), "{kind}: {}", leases());
        }
    });
}

#[test]
fn who_wants_dhcpv6_hears_that_there_is_none() {
    each_gateway(&[], |world| {
        for kind in KINDS {
            let refused = stack_up(world, kind, "ip=dhcp6").code(1);
            assert!(refused.stderr.contains("nobody there gives addresses"), "{}", refused.stderr);
            assert!(refused.stderr.contains("--dhcp6 stateful"), "{}", refused.stderr);
        }
        let idle = ["gateway", "up", "--switch", "lan2", "--static", "web=fd00:10:0:2::7"];
        let refused = world.viewnet(idle).run().code(1);
        assert!(refused.stderr.contains("add --dhcp6 stateful"), "{}", refused.stderr);
    });
}

#[test]
fn a_lease_that_nobody_renews_ends() {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let up = |ip: &str| {
            let options = ["--dhcp6", "stateful", "--lease", "8", "--ip", ip];
            world.viewnet(["gateway", "up", "--switch", "lan"]).args(options).run().ok();
        };
        up("fd00:1::1/64");
        for kind in KINDS {
            stack_up(&world, kind, "ip=dhcp6").ok();
            assert!(has(&world, kind, "fd00:1::1"));
        }
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        for kind in KINDS {
            let lost = || !has(&world, kind, "/128") && interface(&world, kind)["lease_v6_s"].is_null();
            assert!(wait_until(Duration::from_secs(15), lost), "{kind}: {}", interface(&world, kind));
        }
        // Another network: another address, and the router's word for it.
        up("fd00:2::1/64");
        for kind in KINDS {
            let moved = || has(&world, kind, "/128") && has(&world, kind, "fd00:2::1");
            assert!(wait_until(Duration::from_secs(75), moved), "{kind}: {}", interface(&world, kind));
            world.viewnet(["stack", "down", kind]).run().ok();
        }
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

/// What dhclient-script(8) would do of it that a client needs: to wait until the link-local address is there. What was told
/// goes where the test looks.
const SCRIPT: &str = r#"#!/bin/bash
if [ "$reason" = PREINIT6 ]; then
    for n in $(seq 100); do
        ip -6 address show dev "$interface" scope link | grep -v tentative | grep -q inet6 && break
        sleep 0.1
    done
fi
if [ -n "$new_ip6_address" ]; then ip -6 address replace "$new_ip6_address/128" dev "$interface"; fi
if [ -n "$old_ip6_address" ] && [ -z "$new_ip6_address" ]; then ip -6 address del "$old_ip6_address/128" dev "$interface"; fi
echo "$reason [${new_ip6_address}] [${new_dhcp6_name_servers}] [${new_dhcp6_domain_search}] [${new_dhcp6_sntp_servers}]" >>TOLD
"#;

#[test]
fn a_client_of_others_gets_addresses_and_names() {
    let options = ["--dhcp6", "stateful", "--domain", "lan.example", "--ntp", "fd00::123"];
    each_gateway(&options, |world| {
        let told = world.home().join("told");
        let script = world.write("script", &SCRIPT.replace("TOLD", &told.display().to_string()));
        world.cmd("chmod").args(["755", &script.display().to_string()]).run().ok();
        let config = "also request dhcp6.name-servers, dhcp6.domain-search, dhcp6.sntp-servers;\n";
        let config = world.write("dhclient.conf", config).display().to_string();
        let home = world.home().display().to_string();
        for kind in KINDS {
            stack_up(world, kind, "ip=10.0.2.2/24").ok();
            let dhclient = |args: &[&str]| {
                let (pid, leases) = (format!("{home}/{kind}.pid"), format!("{home}/{kind}.leases"));
                let script = script.display().to_string();
                let _ = std::fs::remove_file(world.home().join("told"));
                let files = ["-1", "-v", "-sf", &script, "-cf", &config, "-pf", &pid, "-lf", &leases];
                let run = world
                    .run(["--stack", kind, "--", "dhclient", "-6"])
                    .args(args)
                    .args(files)
                    .args(["eth0"]);
                let done = run.limit(Duration::from_secs(60)).run();
                let told = std::fs::read_to_string(world.home().join("told")).unwrap_or_default();
                assert_eq!(done.status, Status::Exited(0), "{kind} {args:?}: {told}\n{}", done.stderr);
                told
            };
            let told = dhclient(&["-S"]);
            let names = "[fd00:10:0:2::1] [lan.example.] [fd00::123]";
            assert!(told.contains(&format!("[] {names}")), "{kind}: {told}");
            // It goes to the background and ends with its stack, or as it is told.
            let told = dhclient(&[]);
            assert!(told.contains("BOUND6 [fd00:10:0:2::1") && told.contains(names), "{kind}: {told}");
            assert!(has(world, kind, "/128"));
            let told = dhclient(&["-r"]);
            assert!(told.contains("RELEASE6"), "{kind}: {told}");
            world.viewnet(["stack", "down", kind, "--force"]).run().ok();
        }
        let shown = json(world.viewnet(["gateway", "show", "--switch", "lan", "--json"]).run());
        assert_eq!(shown["leases"], 0, "{shown}");
    });
}

/// dnsmasq as router and DHCPv6 server of the network fd00:1::/64, in a view of its own.
fn dnsmasq(world: &World, range: &str) -> Running {
    let link = "switch:lan,ip=fd00:1::53/64";
    let range = format!("--dhcp-range={range}");
    let server = world
        .run([
            "--kind",
            "kernel",
            "--link",
            link,
            "--",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
        ])
        .args(["--port=0", "--no-hosts", "--no-resolv", "--pid-file=", "--log-facility=-", "--leasefile-ro"])
        .args(["--enable-ra", "--ra-param=eth0,4", "--log-dhcp", "--user=root", &range])
        .args(["--dhcp-option=option6:dns-server,[fd00:1::53]"])
        .limit(Duration::from_secs(120))
        .start();
    // It says this once it is there.
    let there = || server.stderr().contains("DHCPv6") || server.stderr().contains("router advertisement");
    assert!(wait_until(Duration::from_secs(20), there), "{}", server.stderr());
    server
}

#[test]
fn servers_of_others_are_understood() {
    // It needs rights over its network that only root's programs have.
    if !User::all().contains(&User::Root) {
        return eprintln!("not tested: dnsmasq is not root");
    }
    let world = World::new(User::Root);
    world.viewnet(["switch", "up", "lan"]).run().ok();
    for (range, how, expected) in [
        ("fd00:1::a0,fd00:1::af,64,2m", "auto", "\"fd00:1::a"),
        ("fd00:1::a0,fd00:1::af,64,2m", "dhcp6", "\"fd00:1::a"),
        ("fd00:1::a0,fd00:1::af,slaac,64,2m", "auto", "\"fd00:1::a"),
        ("fd00:1::,ra-stateless", "auto", "/64\""),
    ] {
        let server = dnsmasq(&world, range);
        for kind in KINDS {
            let up = stack_up(&world, kind, &format!("ip={how}"));
            assert_eq!(
                up.status,
                Status::Exited(0),
                "{range} {how} {kind}: {}\n{}",
                up.stderr,
                server.stderr()
            );
            let it = interface(&world, kind);
            assert!(
                it["addresses"].to_string().contains(expected),
                "{range} {how} {kind}: {it}\n{}",
                server.stderr()
            );
            assert!(ip(&world, kind, &["route"]).contains("default via fe80::"), "{range} {kind}");
            world.run(["--stack", kind, "--", "ping", "-c1", "-W5", "fd00:1::53"]).run().ok();
            world.viewnet(["stack", "down", kind]).run().ok();
        }
        server.kill_group();
        server.wait();
    }
    world.viewnet(["switch", "down", "lan"]).run().ok();
}

/// A router that says what it is told, a line each: lifetime, network, valid, preferred, nameserver, its lifetime.
const ROUTER: &str = r#"
import ipaddress, socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
i = socket.if_nametoindex('eth0')
packed = lambda text: ipaddress.ip_address(text).packed
print('up', flush=True)
for line in sys.stdin:
    life, net, valid, preferred, dns, dnslife = line.split()
    m = struct.pack('>BBHBBHII', 134, 0, 0, 64, 0, int(life), 0, 0)
    m += struct.pack('>BBBBIII', 3, 4, 64, 0xC0, int(valid), int(preferred), 0) + packed(net)
    m += struct.pack('>BBHI', 25, 3, 0, int(dnslife)) + packed(dns)
    s.sendto(m, ('ff02::1', 0, 0, i))
    print('said', flush=True)
"#;

#[test]
fn what_routers_say_later_is_heard() {
    each_user(|world| {
        world.viewnet(["switch", "up", "lan"]).run().ok();
        let options = ["gateway", "up", "--switch", "lan", "--ip", "fd00:1::1/64", "--dhcp6", "off"];
        world.viewnet(options).run().ok();
        let link = "switch:lan,mac=02:00:00:00:00:09,ip=fd00:1::9/64";
        let mut router = world
            .run(["--kind", "kernel", "--link", link, "--", "python3", "-uc", ROUTER])
            .keep_stdin()
            .limit(Duration::from_secs(120))
            .start();
        router.until("up");
        for kind in KINDS {
            stack_up(&world, kind, "ip=auto").ok();
        }
        // The same is to be seen in both: the kernel is the referee.
        let mut both = |line: &str, seen: &dyn Fn(&str) -> bool| {
            // Before its own address is settled the router cannot speak.
            let heard = (0..20).any(|_| {
                router.tell(line);
                wait_until(Duration::from_secs(3), || KINDS.iter().all(|kind| seen(kind)))
            });
            let shown = KINDS.map(|kind| ip(&world, kind, &["address"]) + &ip(&world, kind, &["route"]));
            assert!(heard, "{line}\n{}\n{}", shown.join("\n"), router.stderr());
        };
        let address = |kind: &str, args: &[&str]| {
            ip(&world, kind, &[&["address", "show", "dev", "eth0"], args].concat())
        };
        let from_it = |kind: &str| ip(&world, kind, &["route"]).contains("via fe80::ff:fe00:9 dev eth0");
        // Another router, another network.
        both("600 fd00:2:: 3600 3600 fd00:2::53 600", &|kind| {
            address(kind, &[]).contains("inet6 fd00:2::") && from_it(kind)
        });
        // It is no router any more, and its network is not to be used for what is new.
        both("0 fd00:2:: 3600 0 fd00:2::53 0", &|kind| {
            address(kind, &["deprecated"]).contains("inet6 fd00:2::") && !from_it(kind)
        });
        // What the first one said before there was a stack is prolonged, and withdrawn, as well.
        both("0 fd00:1:: 100 100 fd00:2::53 0", &|kind| {
            address(kind, &[])
                .lines()
                .any(|line| line.contains("valid_lft 72") || line.contains("valid_lft 71"))
        });
        both("0 fd00:1:: 7300 0 fd00:2::53 0", &|kind| {
            address(kind, &["deprecated"]).contains("inet6 fd00:1::")
        });
        router.kill_group();
        router.wait();
        for kind in KINDS {
            world.viewnet(["stack", "down", kind]).run().ok();
        }
        world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
        world.viewnet(["switch", "down", "lan"]).run().ok();
    });
}

#[test]
fn an_address_of_a_smol_stack_ends_as_one_of_the_kernel_does() {
    each_user(|world| {
        for kind in KINDS {
            let script = "ip address add fd00::7/64 dev lo valid_lft 2 preferred_lft 1
                for n in $(seq 50); do ip -6 address show dev lo | grep -q fd00::7 || { echo over; exit; }; sleep 0.2; done";
            world
                .alone(["--kind", kind.trim_end_matches('1'), "--", "bash", "-euc", script])
                .run()
                .ok()
                .says("over");
        }
    });
}
