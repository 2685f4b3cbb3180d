//! The referee: each probe runs natively first, then in a view, and must see the same.
//!
//! `cargo test -p tests --test conformance -- --nocapture` prints a line for each run; the manual's
//! table of them all is doc/results.md. With
//! `CONFORMANCE=self` the "view" is a second native run: a check of the probes themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::binaries::{Linkage, c_probe, rust_probe};
use tests::compare::compare;
use tests::known::{self, Difference};
use tests::plan::WAYS;
use tests::{Outcome, Status, Subject, User, World};

const LIMIT: Duration = Duration::from_secs(120);

fn run(subject: Subject, user: User, program: &Path) -> Outcome {
    let world = World::new(user);
    let program = world.install(program, "probe");
    subject.command(&world, user, &program, &[]).limit(LIMIT).run()
}

fn referee(view: Subject, probe: &str, linkage: Option<Linkage>, program: PathBuf) {
    let planned = WAYS.iter().filter(|way| way.subject == view);
    assert!(planned.flat_map(|way| way.linkages(probe)).any(|planned| planned == linkage), "not in the plan");
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
    ($probes:tt $($module:ident: $programs:ident $view:ident;)*) => {
        $(mod $module { probes! { @$programs $view $probes } })*
    };
    (@loading $view:ident { c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*; }) => {
        probes! { @as dynamic Dynamic $view $($name)* }
        probes! { @rust $view $($bin)* }
    };
    (@linked $view:ident { c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*; }) => {
        probes! { @as dynamic Msocket $view $($name)* }
        probes! { @as fixed StaticMsocket $view $($name)* }
    };
    (@on $view:ident { c: $($name:ident)*; i386: $($short:ident)*; rust: $($bin:ident)*; }) => {
        probes! { @as dynamic Dynamic $view $($name)* }
        probes! { @as fixed Static $view $($name)* }
        probes! { @as i386 Static32 $view $($short)* }
        probes! { @rust $view $($bin)* }
    };
    (@as $module:ident $linkage:ident $view:ident $($name:ident)*) => {
        mod $module {
            use crate::{Linkage, Subject, referee_of_c};
            $(#[test] fn $name() { referee_of_c(Subject::$view, stringify!($name), Linkage::$linkage); })*
        }
    };
    (@rust $view:ident $($name:ident)*) => {
        mod rust {
            use crate::{Subject, referee, rust_probe};
            $(#[test] fn $name() {
                let name = stringify!($name);
                referee(Subject::$view, name, None, rust_probe(name));
            })*
        }
    };
}

tests::plan!(probes);
