//! The referee: each probe runs natively first, then in a view, and must see the same.
//!
//! `cargo test -p tests --test conformance -- --nocapture` prints the table of the manual. With
//! `CONFORMANCE=self` the "view" is a second native run: a check of the probes themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::binaries::{Linkage, c_probe, rust_probe};
use tests::compare::compare;
use tests::known::{self, Difference};
use tests::{Outcome, Status, Subject, User, World};

const LIMIT: Duration = Duration::from_secs(120);

fn run(subject: Subject, user: User, program: &Path) -> Outcome {
    let world = World::new(user);
    let program = world.install(program, "probe");
    subject.command(&world, user, &program, &[]).limit(LIMIT).run()
}

fn referee(view: Subject, probe: &str, linkage: Option<Linkage>, program: PathBuf) {
    let view = match std::env::var_os("CONFORMANCE") {
        Some(subject) if subject == "self" => Subject::Native,
        _ => view,
    };
    let variant = linkage.map_or_else(|| "Rust".into(), |linkage| format!("{linkage:?}"));
    let mut failures = String::new();
    for &user in User::all() {
        let native = run(Subject::Native, user, &program);
        assert_eq!(native.status, Status::Exited(0), "native {probe}:\n{}{}", native.stdout, native.stderr);
        assert!(!native.stdout.is_empty(), "{probe} observes nothing");
        let viewed = run(view, user, &program);
        let applies = |d: &&Difference| d.when.applies(user, linkage);
        let known: Vec<_> = known::differences(view).into_iter().filter(|d| applies(&d)).collect();
        let report = compare(probe, &native.stdout, &viewed.stdout, &known);
        println!("{}", report.summary(&format!("{probe} ({variant}, {user:?}, {view})")));
        if viewed.status != native.status || !report.is_clean() {
            let how = format!("{:?} {}", viewed.status, viewed.stderr.trim());
            failures += &format!("{probe} ({variant}) as {user:?}, ended {how}\n{}", report.failures());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn referee_of_c(view: Subject, probe: &str, linkage: Linkage) {
    referee(view, probe, Some(linkage), c_probe(probe, linkage));
}

macro_rules! probes {
    (c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*;) => {
        mod kernel { probes! { @on View; c: $($name)*; i386: $($short)*; rust: $($bin)*; } }
        mod ruled { probes! { @on Ruled; c: $($name)*; i386: $($short)*; rust: $($bin)*; } }
        mod ruled_smol { probes! { @on RuledSmol; c: $($name)*; i386: $($short)*; rust: $($bin)*; } }
        mod smol { probes! { @on Smol; c: $($name)*; i386: $($short)*; rust: $($bin)*; } }
        // Static programs, and i386's, load no library.
        mod smol_shim { probes! { @loading Shimmed; c: $($name)*; rust: $($bin)*; } }
        mod alone { probes! { @loading Alone; c: $($name)*; rust: $($bin)*; } }
        mod alone_smol { probes! { @loading AloneSmol; c: $($name)*; rust: $($bin)*; } }
        mod linked { probes! { @linked Linked; $($name)* } }
        mod linked_smol { probes! { @linked LinkedSmol; $($name)* } }
    };
    (@loading $view:ident; c: $($name:ident)*; rust: $($bin:ident)*;) => {
        use super::{Linkage, Subject, referee, referee_of_c, rust_probe};
        probes! { @dynamic $view; c: $($name)*; rust: $($bin)*; }
    };
    (@linked $view:ident; $($name:ident)*) => {
        use super::{Linkage, Subject, referee_of_c};
        mod dynamic {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee_of_c(super::Subject::$view, name, super::Linkage::Msocket);
            })*
        }
        mod fixed {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee_of_c(super::Subject::$view, name, super::Linkage::StaticMsocket);
            })*
        }
    };
    (@on $view:ident; c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*;) => {
        use super::{Linkage, Subject, referee, referee_of_c, rust_probe};
        probes! { @dynamic $view; c: $($name)*; rust: $($bin)*; }
        mod fixed {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee_of_c(super::Subject::$view, name, super::Linkage::Static);
            })*
        }
        mod i386 {
            $(#[test] fn $short() {
                let name = stringify!($short);
                super::referee_of_c(super::Subject::$view, name, super::Linkage::Static32);
            })*
        }
    };
    (@dynamic $view:ident; c: $($name:ident)*; rust: $($bin:ident)*;) => {
        mod dynamic {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee_of_c(super::Subject::$view, name, super::Linkage::Dynamic);
            })*
        }
        mod rust {
            $(#[test] fn $bin() {
                let name = stringify!($bin);
                super::referee(super::Subject::$view, name, None, super::rust_probe(name));
            })*
        }
    };
}

probes! {
    c: families tcp_connect tcp_data tcp_listen udp lite icmp packet netlink links options interfaces names unix
       descriptors children threads signals bindrace ownns uring foreign badptr;
    i386: families tcp_connect udp interfaces netlink badptr signals;
    rust: probe_std probe_poll;
}
