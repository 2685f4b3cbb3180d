//! What the referee runs: which probes, and in which ways.
//!
//! The one list. The referee makes its tests of it (a test is `way::linkage::probe`), and the manual its table of
//! results: what is added here and not in the table, or the other way round, is a failure of a test.

use std::fmt;

use crate::binaries::Linkage;
use crate::known::{Difference, When, differences};
use crate::subject::Subject;
use crate::world::User;

/// Gives the lists to a macro: the probes (those in C, of these the ones that are run as i386 programs too, those in
/// Rust), then a line for each way: the module of its tests, the programs it is for, and the subject. Programs are `on`
/// a view whatever they are, there is something `loading` into them, as into dynamic ones alone, or those in C are
/// `linked` with libmsocket.
#[macro_export]
macro_rules! plan {
    ($with:ident) => {
        $with! {
            {
                c: families tcp_connect tcp_data tcp_listen udp lite icmp packet netlink links options interfaces names
                   unix descriptors children threads signals bindrace ownns uring foreign badptr;
                i386: families tcp_connect udp interfaces netlink badptr signals;
                rust: probe_std probe_poll;
            }
            kernel: on View;
            ruled: on Ruled;
            smol: on Smol;
            ruled_smol: on RuledSmol;
            smol_shim: loading Shimmed;
            alone: loading Alone;
            alone_smol: loading AloneSmol;
            linked: linked Linked;
            linked_smol: linked LinkedSmol;
        }
    };
}

/// A way in which the referee runs programs.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Where they run.
    pub subject: Subject,
    /// Which.
    programs: Programs,
}

/// What a way is for.
#[derive(Debug, Clone, Copy)]
struct Programs {
    c: &'static [Linkage],
    i386: bool,
    rust: bool,
}

#[expect(non_upper_case_globals, reason = "named as in the plan")]
impl Programs {
    const on: Self = Self { c: &[Linkage::Dynamic, Linkage::Static], i386: true, rust: true };
    const loading: Self = Self { c: &[Linkage::Dynamic], i386: false, rust: true };
    const linked: Self = Self { c: &[Linkage::Msocket, Linkage::StaticMsocket], i386: false, rust: false };
}

macro_rules! lists {
    (
        { c: $($c:ident)*; i386: $($short:ident)*; rust: $($rust:ident)*; }
        $($module:ident: $programs:ident $subject:ident;)*
    ) => {
        const C: &[&str] = &[$(stringify!($c)),*];
        const I386: &[&str] = &[$(stringify!($short)),*];
        const RUST: &[&str] = &[$(stringify!($rust)),*];
        /// All ways.
        pub const WAYS: &[Way] =
            &[$(Way { subject: Subject::$subject, programs: Programs::$programs }),*];
    };
}

plan!(lists);

/// Whether the probe runs there; natively all do.
pub fn is_run(subject: Subject, probe: &str) -> bool {
    let ways = || WAYS.iter().filter(|way| way.subject == subject);
    ways().next().is_none() || ways().any(|way| !way.linkages(probe).is_empty())
}

/// All probes.
pub fn probes() -> impl Iterator<Item = &'static str> {
    C.iter().chain(RUST).copied()
}

/// What the referee finds, and accepts, where a probe has run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Differences that are there in each run or in those of some users or programs.
    pub always: usize,
    /// Those that show where the kernel or chance has it.
    pub at_times: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.always, self.at_times) {
            (0, 0) => f.write_str("same"),
            (always, 0) => write!(f, "{always}"),
            (always, at_times) => write!(f, "{always} + {at_times}?"),
        }
    }
}

impl Way {
    /// How the probe is built there, without a linkage if it is in Rust; nothing: it does not run.
    pub fn linkages(self, probe: &str) -> Vec<Option<Linkage>> {
        let Programs { c, i386, rust } = self.programs;
        let c = if C.contains(&probe) { c } else { &[] };
        let i386 = (i386 && I386.contains(&probe)).then_some(Some(Linkage::Static32));
        let rust = (rust && RUST.contains(&probe)).then_some(None);
        c.iter().copied().map(Some).chain(i386).chain(rust).collect()
    }

    /// The words for all that runs there.
    pub fn programs(self) -> String {
        let words = self.programs.c.iter().map(|linkage| format!("{linkage:?}").to_lowercase());
        let more = [(self.programs.i386, "i386"), (self.programs.rust, "Rust")];
        words.chain(more.into_iter().filter(|m| m.0).map(|m| m.1.into())).collect::<Vec<_>>().join(", ")
    }

    /// What is accepted of a probe; `None` if it does not run there.
    pub fn found(self, probe: &str) -> Option<Found> {
        const USERS: [User; 2] = [User::Ordinary, User::Root];
        let runs = self.linkages(probe);
        let shows = |when: When| runs.iter().any(|&run| USERS.iter().any(|&user| when.applies(user, run)));
        let known = differences(self.subject);
        let count = |maybe: bool| {
            let counted =
                |d: &&Difference| d.probe == probe && shows(d.when) && (d.when == When::Maybe) == maybe;
            known.iter().filter(counted).count()
        };
        (!runs.is_empty()).then(|| Found { always: count(false), at_times: count(true) })
    }
}
