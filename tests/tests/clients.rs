//! Real clients in views on the default network, and their servers on the host: a namespace of the test's own.
//!
//! Each test runs the same command in a view on a kernel stack and on a smol stack, of root and of an ordinary user.
//! Nothing leaves the machine: the far addresses are the host namespace's own.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::binaries::{go_program, rust_probe};
use tests::{Cmd, Running, SOON, User, World, wait_until};

/// Somebody far away, and the names of it.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HOSTS: &str = "192.0.2.1 far.example\n2001:db8::1 far6.example\n127.0.0.1 localhost\n";
/// A client may take this long.
const LIMIT: Duration = Duration::from_secs(60);

/// A host with far addresses, where every user may serve on any port, and a view on it for each kind.
fn each(test: impl Fn(&World, &dyn Fn(&str) -> Cmd)) {
    each_kind(|world, kind| {
        for at in ["192.0.2.1/32", "2001:db8::1/128"] {
            world.administer(&["ip", "addr", "add", at, "dev", "lo"]);
        }
        let run = |script: &str| world.run(["--kind", kind, "--", "bash", "-euc", script]).limit(LIMIT);
        test(world, &run);
    });
}

/// A host where every user may serve on any port, once for each kind of stack.
fn each_kind(test: impl Fn(&World, &str)) {
    for kind in ["kernel", "smol"] {
        for &user in User::all() {
            eprintln!("on a {kind} stack as {user:?}");
            let mut world = World::new(user);
            if !world.has_own_host() {
                eprintln!("not tested: the host's network is not the test's");
                continue;
            }
            world.administer(&["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=1"]);
            let hosts = world.write("hosts", HOSTS);
            world.bind_mount(&hosts, Path::new("/etc/hosts"));
            let nameserver = world.write("resolv.conf", "nameserver 127.0.0.1\n");
            world.bind_mount(&nameserver, Path::new("/etc/resolv.conf"));
            if user == User::Ordinary {
                // Some want to know who their user is.
                let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
                let (uid, home) = (world.uid(), world.home());
                let own = format!("{passwd}viewtest:x:{uid}:{uid}::{}:/bin/bash\n", home.display());
                let passwd = world.write("passwd", &own);
                world.bind_mount(&passwd, Path::new("/etc/passwd"));
            }
            test(&world, kind);
        }
    }
}

/// A server, once somebody listens on its port.
fn serve(world: &World, port: u16, script: &str) -> Running {
    let server = world.cmd("bash").args(["-euc", script]).limit(LIMIT).start();
    let look = format!("ss -Hlntu sport = {port}");
    let listens = || !world.cmd("sh").args(["-c", &look]).run().ok().stdout.is_empty();
    assert!(wait_until(SOON, listens), "{}\n{}", server.stdout(), server.stderr());
    server
}

fn end(server: Running) {
    server.kill(Signal::SIGTERM);
    server.kill_group();
    server.wait();
}

/// A certificate of the far names in the file `cert`, its key in `key`.
fn certify(world: &World) {
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert \
                -days 2 -subj /CN=far.example -addext subjectAltName=DNS:far.example,DNS:far6.example \
                -addext basicConstraints=critical,CA:false 2>&1";
    world.cmd("sh").args(["-c", make]).run().ok();
}

#[test]
fn curl_by_http_1_and_by_h2_over_tls() {
    each(|world, run| {
        world.write("page", "hello from afar\n");
        certify(world);
        let plain = serve(world, 8000, "exec python3 -m http.server --bind :: 8000");
        let secure = serve(world, 443, "exec nghttpd -d . 443 key cert");
        run("curl -sS http://far.example:8000/page").run().ok().says("hello from afar");
        run("curl -sS --cacert cert -w '%{http_version}' https://far.example/page")
            .run()
            .ok()
            .says("afar\n2");
        run("curl -sS --cacert cert -w '%{http_version}' https://far6.example/page")
            .run()
            .ok()
            .says("afar\n2");
        // Many at once on one connection.
        let many = "nghttp -n -m 20 https://far.example/page -s | grep -c ' 200 ' || true";
        assert_eq!(run(many).run().ok().stdout.trim(), "20");
        end(plain);
        end(secure);
    });
}

#[test]
fn apt_updates_and_downloads_from_an_index() {
    each(|world, run| {
        let index = "mkdir -p repo package/DEBIAN lists/partial cache/archives/partial; \
            printf 'Package: greeting\\nVersion: 1\\nArchitecture: all\\nMaintainer: nobody <n@far.example>\\nDescription: hello\\n' >package/DEBIAN/control; \
            dpkg-deb -b package repo/greeting_1_all.deb >&2; cd repo; \
            (cat ../package/DEBIAN/control; printf 'Filename: ./greeting_1_all.deb\\nSize: %s\\nSHA256: %s\\n\\n' \
             $(stat -c %s greeting_1_all.deb) $(sha256sum greeting_1_all.deb | cut -d' ' -f1)) >Packages; \
            echo 'deb [trusted=yes] http://far.example:8001/ ./' >../sources.list; : >../status";
        world.cmd("bash").args(["-euc", index]).run().ok();
        let server = serve(world, 8001, "cd repo; exec python3 -m http.server 8001");
        let apt = "o='-o Dir::Etc=. -o Dir::Etc::sourcelist=sources.list -o Dir::Etc::sourceparts=- -o Dir::State=. \
                   -o Dir::State::status=status -o Dir::Cache=cache -o APT::Sandbox::User= -o Debug::NoLocking=1'; \
                   apt-get $o -qq update; apt-get $o -qq download greeting; ls";
        let home = world.home();
        let apt = apt.replace("=.", &format!("={}", home.display()));
        let apt = ["status", "cache", "sources.list"].iter().fold(apt, |text, name| {
            text.replace(&format!("={name}"), &format!("={}/{name}", home.display()))
        });
        run(&apt).run().ok().says("greeting_1_all.deb");
        end(server);
    });
}

#[test]
fn pip_downloads_from_an_index() {
    each(|world, run| {
        // A package with nothing in it.
        let wheel = "
import os, zipfile
os.makedirs('index/simple/greeting')
name = 'greeting-1.0-py3-none-any.whl'
with zipfile.ZipFile('index/' + name, 'w') as wheel:
    info = 'greeting-1.0.dist-info/'
    wheel.writestr('greeting.py', 'print(\"hello\")\\n')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
open('index/simple/greeting/index.html', 'w').write('<a href=\"/%s\">%s</a>' % (name, name))
";
        world.cmd("python3").args(["-c", wheel]).run().ok();
        let server = serve(world, 8003, "cd index; exec python3 -m http.server --bind :: 8003");
        for name in ["far.example", "far6.example"] {
            let pip = format!(
                "pip3 download -q --no-cache-dir --disable-pip-version-check --no-deps -d {name} \
                 --index-url http://{name}:8003/simple --trusted-host {name} greeting; ls {name}"
            );
            run(&pip).run().ok().says("greeting-1.0-py3-none-any.whl");
        }
        end(server);
    });
}

#[test]
fn a_page_by_quic() {
    each(|world, run| {
        certify(world);
        world.install(&rust_probe("quic"), "quic");
        let server = serve(world, 4433, "exec quic serve [::]:4433 cert key");
        for (name, at) in [("far.example", FAR[0]), ("far6.example", FAR[1])] {
            let said = run(&format!("quic get cert {name} {name}:4433 / /3000000 /7")).run().ok();
            // Whole datagrams came through, as QUIC found by itself.
            assert_eq!(said.stdout, format!("you are {at}\n3000000\nqqqqqqq\ndatagrams of 1452\n"));
        }
        end(server);
    });
}

/// A host that has one family or both, a view that has one, and what leads it there.
struct OneFamily {
    host: &'static [&'static str],
    gateway: &'static [&'static str],
    /// A server that has a page, and whom it is to be asked for.
    far: &'static str,
    name: &'static str,
    /// Whom dig asks for which record, and what the answer is.
    dig: [&'static str; 2],
    /// Nobody leads there.
    nowhere: &'static str,
}

const ONE_FAMILY: &[OneFamily] = &[
    OneFamily {
        host: &FAR,
        gateway: &["--ip", "10.0.2.1/24"],
        far: "192.0.2.1",
        name: "four.example",
        dig: ["@192.0.2.1 four.example A", "192.0.2.1"],
        nowhere: "[2001:db8::1]",
    },
    OneFamily {
        host: &FAR,
        gateway: &["--ip", "fd00:10:0:2::1/64"],
        far: "2001:db8::1",
        name: "six.example",
        dig: ["@2001:db8::1 six.example AAAA", "2001:db8::1"],
        nowhere: "192.0.2.1",
    },
    OneFamily {
        host: &FAR,
        gateway: &["--ip", "fd00:10:0:2::1/64", "--dns64", "always"],
        far: "192.0.2.1",
        name: "four.example",
        dig: ["four.example AAAA", "64:ff9b::c000:201"],
        nowhere: "192.0.2.1",
    },
    OneFamily {
        host: &["192.0.2.1"],
        gateway: &["--ip", "fd00:10:0:2::1/64"],
        far: "192.0.2.1",
        name: "four.example",
        dig: ["four.example AAAA", "64:ff9b::c000:201"],
        nowhere: "192.0.2.1",
    },
    // In place of a translator in the host's network, the translated address itself.
    OneFamily {
        host: &["64:ff9b::c000:201"],
        gateway: &["--ip", "10.0.2.1/24"],
        far: "64:ff9b::c000:201",
        name: "four.example",
        dig: ["@192.0.2.1 four.example A", "192.0.2.1"],
        nowhere: "[64:ff9b::c000:201]",
    },
];

#[test]
fn views_and_hosts_of_one_family() {
    for case in ONE_FAMILY {
        eprintln!("a host with {:?}, a gateway with {:?}", case.host, case.gateway);
        each_kind(|world, kind| {
            let v6 = case.host.iter().any(|at| at.contains(':'));
            world.administer(&[
                "sysctl",
                "-qw",
                &format!("net.ipv6.conf.all.disable_ipv6={}", u8::from(!v6)),
            ]);
            for at in case.host {
                world.administer(&["ip", "addr", "add", at, "dev", "lo"]);
                // Those beyond are there, too: a gateway looks for a way.
                let net = if at.contains(':') { "64:ff9b::/96" } else { "198.51.100.0/24" };
                world.administer(&["ip", "route", "replace", net, "dev", "lo"]);
            }
            world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
            world.write("page", "hello from afar\n");
            let names = format!(
                "exec dnsmasq -k -C /dev/null -R -h --user=root --pid-file= --local=/example/ --bind-interfaces \
                 --listen-address=127.0.0.1,{} --host-record=four.example,192.0.2.1 --host-record=six.example,2001:db8::1",
                case.host.join(",")
            );
            let names = serve(world, 53, &names);
            let script = format!("exec python3 -m http.server --bind {} 8004", case.far);
            let pages = serve(world, 8004, &script);
            world.viewnet(["switch", "up", "lan"]).run().ok();
            world.viewnet(["gateway", "up", "--switch", "lan"]).args(case.gateway).run().ok();
            let [question, answer] = case.dig;
            let script = format!(
                "dig +short {question}; curl -sS http://{name}:8004/page; ping -c 1 -W 5 {name} | grep -c '1 received'; \
                 curl -s -m 5 http://{}:8004/page || echo error $?",
                case.nowhere,
                name = case.name,
            );
            let view = ["--kind", kind, "--link", "switch:lan,ip=auto", "--", "bash", "-euc", &script];
            let said = world.run(view).limit(LIMIT).run().ok().stdout;
            assert_eq!(said, format!("{answer}\nhello from afar\n1\nerror 7\n"));
            world.viewnet(["gateway", "down", "--switch", "lan"]).run().ok();
            world.viewnet(["switch", "down", "lan"]).run().ok();
            end(pages);
            end(names);
        });
    }
}

#[test]
fn git_clones_and_pushes() {
    each(|world, run| {
        let make = "git init -q --bare far.git; git -C far.git config http.receivepack true; touch far.git/git-daemon-export-ok";
        world.cmd("bash").args(["-euc", make]).run().ok();
        let daemon = "exec git daemon --reuseaddr --export-all --enable=receive-pack --base-path=.";
        let server = serve(world, 9418, daemon);
        let script = "git config --global user.email v@far.example; git config --global user.name view; \
            git clone -q git://far.example/far.git one; cd one; head -c 3000000 /dev/urandom >big; git add big; \
            git commit -qm big; git push -q origin HEAD:main; cd ..; \
            git clone -q -b main git://far6.example/far.git two; cmp one/big two/big && echo same";
        run(script).run().ok().says("same");
        end(server);
    });
}

#[test]
fn ssh_logs_in() {
    each(|world, run| {
        let home = world.home().display().to_string();
        let keys = "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; cp key.pub authorized";
        world.cmd("bash").args(["-euc", keys]).run().ok();
        let config = format!(
            "Port 2222\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\nStrictModes no\nUsePAM no\n\
             PidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
        );
        world.write("sshd_config", &config);
        // Root's sshd wants a folder that only its service makes.
        let sshd = "sshd='/usr/sbin/sshd -D -e -f sshd_config'; [ $UID = 0 ] || exec $sshd; \
                    exec unshare -m sh -c \"mount -t tmpfs none /run; mkdir /run/sshd; exec $sshd\"";
        let server = serve(world, 2222, sshd);
        let ssh = "ssh -F none -i ~/key -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
                   -o BatchMode=yes -o LogLevel=ERROR far.example";
        run(&format!("{ssh} 'echo through $SSH_CONNECTION; head -c 2000000 /dev/zero' | wc -c"))
            .run()
            .ok()
            .says("2000");
        run(&format!("{ssh} 'echo from $SSH_CONNECTION'")).run().ok().says("from 192.0.2.1 ");
        end(server);
    });
}

#[test]
fn node_and_go_fetch_by_name() {
    each(|world, run| {
        world.write("page", "hello from afar\n");
        world.install(&go_program("net"), "gonet");
        let server = serve(world, 8002, "exec python3 -m http.server --bind :: 8002");
        let node = "node -e 'fetch(\"http://far6.example:8002/page\").then(r => r.text()).then(t => process.stdout.write(t))'";
        run(node).run().ok().says("hello from afar");
        run("gonet get http://far.example:8002/page").run().ok().says("hello from afar");
        end(server);
    });
}

#[test]
fn the_time_is_asked_for() {
    each(|world, run| {
        world.write(
            "server.conf",
            "local stratum 3\nallow all\nport 1123\ncmdport 0\nbindcmdaddress /\npidfile server.pid\n",
        );
        let server = serve(world, 1123, "exec chronyd -U -d -x -f server.conf");
        for name in ["far.example", "far6.example"] {
            let ask = format!(
                "chronyd -U -Q -t 20 -f /dev/null 'server {name} port 1123 iburst maxsamples 1' 'cmdport 0' 'bindcmdaddress /' 'pidfile client.pid' 2>&1"
            );
            run(&ask).run().ok().says("System clock wrong by");
        }
        end(server);
    });
}

#[test]
fn a_datagram_and_a_route_of_every_kind() {
    each(|world, run| {
        world.administer(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
        for at in FAR {
            run(&format!("ping -c 2 -i 0.2 -W 20 {at}")).run().ok().says("2 received");
            run(&format!("traceroute -n -w 20 -q 1 -m 5 {at}")).run().ok().says(at);
        }
    });
}
