//! Real clients in views on the default network, and their servers on the host: a namespace of the test's own.
//!
//! Each test runs the same command in a view on a kernel stack and on a smol stack, of root and of an ordinary user.
//! Nothing leaves the machine: the far addresses are the host namespace's own.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::binaries::go_program;
use tests::{Cmd, Running, SOON, User, World, wait_until};

/// Somebody far away, and the names of it.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HOSTS: &str = "192.0.2.1 far.example\n2001:db8::1 far6.example\n127.0.0.1 localhost\n";
/// A client may take this long.
const LIMIT: Duration = Duration::from_secs(60);

/// A host with far addresses, where every user may serve on any port, and a view on it for each kind.
fn each(test: impl Fn(&World, &dyn Fn(&str) -> Cmd)) {
    for kind in ["kernel", "smol"] {
        for &user in User::all() {
            eprintln!("on a {kind} stack as {user:?}");
            let mut world = World::new(user);
            if !world.has_own_host() {
                eprintln!("not tested: the host's network is not the test's");
                continue;
            }
            for at in ["192.0.2.1/32", "2001:db8::1/128"] {
                world.administer(&["ip", "addr", "add", at, "dev", "lo"]);
            }
            world.administer(&["sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=1"]);
            let hosts = world.write("hosts", HOSTS);
            world.bind_mount(&hosts, Path::new("/etc/hosts"));
            if user == User::Ordinary {
                // Some want to know who their user is.
                let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
                let (uid, home) = (world.uid(), world.home());
                let own = format!("{passwd}viewtest:x:{uid}:{uid}::{}:/bin/bash\n", home.display());
                let passwd = world.write("passwd", &own);
                world.bind_mount(&passwd, Path::new("/etc/passwd"));
            }
            let run = |script: &str| world.run(["--kind", kind, "--", "bash", "-euc", script]).limit(LIMIT);
            test(&world, &run);
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

#[test]
fn curl_by_http_1_and_by_h2_over_tls() {
    each(|world, run| {
        world.write("page", "hello from afar\n");
        let key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert \
                   -days 2 -subj /CN=far.example -addext subjectAltName=DNS:far.example,DNS:far6.example 2>&1";
        world.cmd("sh").args(["-c", key]).run().ok();
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
            run(&format!("ping -c 2 -i 0.2 -W 5 {at}")).run().ok().says("2 received");
            run(&format!("traceroute -n -w 2 -q 1 -m 5 {at}")).run().ok().says(at);
        }
    });
}
