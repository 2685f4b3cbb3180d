//! The referee: each probe runs natively first, then in a view, and must see the same.
//!
//! `cargo test -p tests --test conformance -- --nocapture` prints the table of the manual. With
//! `CONFORMANCE=self` the "view" is a second native run: a check of the probes themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::binaries::{Linkage, c_probe, rust_probe};
use tests::compare::compare;
use tests::known::DIFFERENCES;
use tests::{Outcome, Status, Subject, User, World};

const LIMIT: Duration = Duration::from_secs(120);

fn run(subject: Subject, user: User, program: &Path) -> Outcome {
    let world = World::new(user);
    let program = world.install(program, "probe");
    subject.command(&world, user, &program, &[]).limit(LIMIT).run()
}

fn referee(probe: &str, variant: &str, program: PathBuf) {
    let view = match std::env::var_os("CONFORMANCE") {
        Some(subject) if subject == "self" => Subject::Native,
        _ => Subject::View,
    };
    let known = if view == Subject::View { DIFFERENCES } else { &[] };
    let mut failures = String::new();
    for &user in User::all() {
        let native = run(Subject::Native, user, &program);
        assert_eq!(native.status, Status::Exited(0), "native {probe}:\n{}{}", native.stdout, native.stderr);
        assert!(!native.stdout.is_empty(), "{probe} observes nothing");
        let viewed = run(view, user, &program);
        let report = compare(probe, &native.stdout, &viewed.stdout, known);
        println!("{}", report.summary(&format!("{probe} ({variant}, {user:?})")));
        if viewed.status != native.status || !report.is_clean() {
            let how = format!("{:?} {}", viewed.status, viewed.stderr.trim());
            failures += &format!("{probe} ({variant}) as {user:?}, ended {how}\n{}", report.failures());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

macro_rules! probes {
    (c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*;) => {
        mod dynamic {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee(name, "dynamic", super::c_probe(name, super::Linkage::Dynamic));
            })*
        }
        mod fixed {
            $(#[test] fn $name() {
                let name = stringify!($name);
                super::referee(name, "static", super::c_probe(name, super::Linkage::Static));
            })*
        }
        mod i386 {
            $(#[test] fn $short() {
                let name = stringify!($short);
                super::referee(name, "i386", super::c_probe(name, super::Linkage::Static32));
            })*
        }
        mod rust {
            $(#[test] fn $bin() {
                let name = stringify!($bin);
                super::referee(name, "rust", super::rust_probe(name));
            })*
        }
    };
}

probes! {
    c: families tcp_connect tcp_data tcp_listen udp icmp packet netlink options interfaces names unix
       descriptors children threads signals bindrace ownns uring foreign badptr;
    i386: families tcp_connect udp interfaces netlink badptr signals;
    rust: probe_std probe_poll;
}
