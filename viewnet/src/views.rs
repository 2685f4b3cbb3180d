//! Views: which stack answers for which thread.
//!
//! # Theory of operation
//! A supervisor has one view of its own and one for each nested `viewnet run` inside it. A thread belongs
//! to the nested view whose root process is its nearest ancestor (the innermost, where one process became the
//! root of several); an orphan, whose ancestors are gone, to
//! the one named in the environment it was started with; else to the supervisor's own view. A thread that
//! is in another network namespace than viewnet was started in belongs to none: it has made one of its own.
//! What is known of a thread is looked up at its first call and believed for [`BELIEF`]; unshare(2) and
//! setns(2), the ways to change it, are trapped and end the belief at once.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use stacks::remote::RemoteStack;
use stacks::serve::{Server, StackId};
use stacks::smol::call::Caller as Who;
use stacks::stack::{FilePlace, Kind, SocketSpec, Stack};

use crate::eye::BELIEF;
use crate::handlers::{Caller, is_of_the_machine};
use crate::smol::{Hosts, SmolId, machine_socket};
use crate::target::Target;

/// Most threads we remember; past that all are looked up again.
const MAX_THREADS: usize = 4096;

/// The view a supervisor was started for.
pub(crate) const OWN: u64 = 0;

/// Where a view's sockets come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A stack that this supervisor serves.
    Served(StackId),
    /// The same, but it is another view's too.
    Shared(StackId),
    /// A stack in a library, which this supervisor runs.
    Smol {
        /// Which.
        stack: SmolId,
        /// It is another view's too, and ends with that.
        shared: bool,
    },
    /// A stack of somebody else: its maker here, and the membership that ends with it.
    Joined(Box<dyn Stack + 'static>, Option<RemoteStack>),
    /// The view with this number, around this one.
    Around(u64),
    /// A stack that has gone: ENETDOWN.
    Gone,
}

/// One view.
#[derive(Debug)]
pub(crate) struct View {
    /// Its name.
    pub(crate) name: String,
    /// Where its sockets come from.
    pub(crate) source: Source,
    /// Root process, for a nested view.
    pub(crate) root: Option<i32>,
    /// When its processes were first found to have ended.
    pub(crate) ended: Option<Instant>,
    /// Families whose sockets come from another stack, by that stack's number.
    pub(crate) defaults: BTreeMap<i32, u64>,
}

/// A thread that asks for the sockets of other stacks than its view's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    /// Its view, if it has one.
    pub(crate) view: Option<u64>,
    /// Its process.
    pub(crate) pid: i32,
    /// It is of the user who owns the stacks.
    pub(crate) owner: bool,
    /// It has that user's rights as well.
    pub(crate) rights: bool,
}

/// Whose sockets a thread gets.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// Those of a view's own source.
    View(u64),
    /// Those of a stack that was joined for msocket().
    Stack(u64),
}

/// All views of a supervisor.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: HashMap<u64, View>,
    threads: HashMap<i32, Thread>,
    last: u64,
}

/// What is known of a thread.
#[derive(Debug, Clone, Copy)]
struct Thread {
    /// Its view, if it has one.
    view: Option<u64>,
    pid: i32,
    uid: u32,
    /// Whether it is of the user who owns the stacks.
    owner: bool,
    /// Whether it has that user's rights as well.
    rights: bool,
    seen: Instant,
}

impl View {
    /// One that has just begun.
    pub(crate) fn of(name: &str, source: Source, root: Option<i32>) -> Self {
        Self { name: name.into(), source, root, ended: None, defaults: BTreeMap::new() }
    }
}

impl Thread {
    /// As stacks in a library know it; the descriptor is the call's.
    fn who(&self) -> Who {
        Who { pid: self.pid, uid: self.uid, fd: -1, rights: self.rights }
    }
}

impl Views {
    /// Adds the supervisor's own view.
    pub(crate) fn own(view: View) -> Self {
        Self { views: HashMap::from([(OWN, view)]), ..Self::default() }
    }

    /// Adds a nested view; every thread is looked up anew.
    pub(crate) fn nest(&mut self, view: View) -> u64 {
        self.last += 1;
        self.threads.clear();
        self.views.insert(self.last, view);
        self.last
    }

    /// Removes a view.
    pub(crate) fn remove(&mut self, id: u64) -> Option<View> {
        self.threads.clear();
        self.views.remove(&id)
    }

    /// All of them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&u64, &mut View)> {
        self.views.iter_mut()
    }

    /// The nested ones with their root processes.
    pub(crate) fn roots(&self) -> Vec<(u64, i32)> {
        self.views.iter().filter_map(|(id, view)| Some((*id, view.root?))).collect()
    }

    /// Whether there are nested ones.
    pub(crate) fn nested(&self) -> bool {
        self.views.len() > 1
    }

    /// The stacks that are the default of some family somewhere.
    pub(crate) fn defaults(&self) -> Vec<u64> {
        self.views.values().flat_map(|view| view.defaults.values().copied()).collect()
    }

    /// Whether the view was made for the defaults of this process.
    pub(crate) fn is_default_of(&self, id: u64, pid: i32) -> bool {
        let view = self.views.get(&id);
        view.is_some_and(|view| view.root == Some(pid) && matches!(view.source, Source::Around(_)))
    }

    /// Gives families of a view a stack of their own.
    pub(crate) fn set_defaults(&mut self, id: u64, families: &[i32], stack: u64) {
        if let Some(view) = self.views.get_mut(&id) {
            view.defaults.extend(families.iter().map(|family| (*family, stack)));
        }
    }

    /// Where the sockets of a family come from. A view that is around another one has the lower number.
    fn find(&self, mut id: u64, family: i32) -> Option<Found> {
        loop {
            let view = self.views.get(&id)?;
            if let Some(stack) = view.defaults.get(&family) {
                return Some(Found::Stack(*stack));
            }
            match view.source {
                Source::Around(around) => id = around,
                _ => return Some(Found::View(id)),
            }
        }
    }

    /// How many there are, our own included.
    pub(crate) fn count(&self) -> usize {
        self.views.len()
    }

    /// What there is to know of a thread.
    fn of(&mut self, tid: i32, now: Instant, owner: u32, target: &mut dyn Target) -> Result<Thread, Errno> {
        if let Some(known) = self.threads.get(&tid).copied()
            && now.duration_since(known.seen) < BELIEF
        {
            return Ok(known);
        }
        let seen = target.inspect()?;
        let view = seen.home_network.then(|| {
            let by_root =
                |pid: &i32| self.views.iter().filter(|(_, v)| v.root == Some(*pid)).map(|(id, _)| *id).max();
            let nearest = seen.ancestors.iter().find_map(by_root);
            nearest.or_else(|| seen.marker.filter(|id| self.views.contains_key(id))).unwrap_or(OWN)
        });
        if self.threads.len() >= MAX_THREADS {
            self.threads.clear();
        }
        let rights = seen.has_rights(owner);
        let by_owner = seen.home_user && seen.euid == owner;
        let thread = Thread { view, pid: seen.pid, uid: seen.euid, owner: by_owner, rights, seen: now };
        self.threads.insert(tid, thread);
        Ok(thread)
    }
}

/// One thread of the program, for the handlers.
pub(crate) struct Known<'a> {
    /// The views.
    pub(crate) views: &'a mut Views,
    /// The stacks this supervisor serves.
    pub(crate) server: &'a mut Server,
    /// Whoever runs its stacks in a library, if it has any.
    pub(crate) smol: Option<&'a mut Hosts>,
    /// The stacks that were joined for msocket().
    pub(crate) stacks: &'a mut BTreeMap<u64, Source>,
    /// The thread.
    pub(crate) tid: i32,
    /// The time of the call.
    pub(crate) now: Instant,
    /// Owner of the stacks.
    pub(crate) owner: u32,
    /// Makes a control line for the thread.
    pub(crate) open_control: &'a mut dyn FnMut(i32) -> Result<OwnedFd, Errno>,
}

impl Known<'_> {
    fn source(&mut self, family: i32) -> Option<&mut Source> {
        let thread = self.views.threads.get(&self.tid)?;
        let found = self.views.find(thread.view?, family)?;
        self.found(found)
    }

    fn found(&mut self, found: Found) -> Option<&mut Source> {
        match found {
            Found::View(id) => self.views.views.get_mut(&id).map(|view| &mut view.source),
            Found::Stack(id) => self.stacks.get_mut(&id),
        }
    }

    /// Who asks, for msocket().
    pub(crate) fn asker(&mut self, target: &mut dyn Target) -> Result<Asker, Errno> {
        let thread = self.views.of(self.tid, self.now, self.owner, target)?;
        Ok(Asker { view: thread.view, pid: thread.pid, owner: thread.owner, rights: thread.rights })
    }

    /// A socket of a stack that was joined for msocket().
    pub(crate) fn socket_of(&mut self, stack: u64, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        self.make(Found::Stack(stack), spec)
    }

    /// A file about the network of the thread. EOPNOTSUPP: it has left for a network of its own.
    pub(crate) fn file(
        &mut self,
        target: &mut dyn Target,
        place: FilePlace,
        path: &str,
    ) -> Result<OwnedFd, Errno> {
        let view = self.views.of(self.tid, self.now, self.owner, target)?.view;
        view.ok_or(Errno::EOPNOTSUPP)?;
        // As with what is asked of interfaces.
        match self.source(libc::AF_INET) {
            Some(Source::Served(stack) | Source::Shared(stack)) => {
                let stack = *stack;
                self.server.kernel(stack).ok_or(Errno::ENETDOWN)?.file(place, path)
            }
            Some(Source::Smol { stack, .. }) => {
                let stack = *stack;
                self.smol.as_mut().ok_or(Errno::ENETDOWN)?.file(stack, place, path)
            }
            Some(Source::Joined(stack, _)) => stack.file(place, path),
            Some(Source::Around(_) | Source::Gone) | None => Err(Errno::ENETDOWN),
        }
    }

    fn make(&mut self, found: Found, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        match self.found(found) {
            Some(Source::Served(stack) | Source::Shared(stack)) => {
                let stack = *stack;
                self.server.kernel(stack).ok_or(Errno::ENETDOWN)?.socket(spec)
            }
            Some(Source::Smol { .. }) if is_of_the_machine(spec) => machine_socket(spec),
            Some(Source::Smol { stack, .. }) => {
                let stack = *stack;
                let who = self.views.threads.get(&self.tid).map(Thread::who).ok_or(Errno::ENETDOWN)?;
                self.smol.as_mut().ok_or(Errno::ENETDOWN)?.socket(stack, spec, &who)
            }
            Some(Source::Joined(stack, _)) => stack.socket(spec),
            Some(Source::Around(_) | Source::Gone) | None => Err(Errno::ENETDOWN),
        }
    }
}

impl Caller for Known<'_> {
    fn stack(&mut self, target: &mut dyn Target) -> Result<Option<Kind>, Errno> {
        if self.views.of(self.tid, self.now, self.owner, target)?.view.is_none() {
            return Ok(None);
        }
        // What is asked is where the interfaces are.
        match self.source(libc::AF_INET) {
            Some(Source::Served(_) | Source::Shared(_)) => Ok(Some(Kind::Kernel)),
            Some(Source::Smol { .. }) => Ok(Some(Kind::Smol)),
            Some(Source::Joined(stack, _)) => Ok(Some(stack.kind())),
            Some(Source::Around(_) | Source::Gone) | None => Err(Errno::ENETDOWN),
        }
    }

    fn socket(&mut self, spec: SocketSpec) -> Result<OwnedFd, Errno> {
        let view = self.views.threads.get(&self.tid).and_then(|thread| thread.view);
        let found = view.and_then(|view| self.views.find(view, spec.domain)).ok_or(Errno::ENETDOWN)?;
        self.make(found, spec)
    }

    fn identity(&mut self, target: &mut dyn Target) -> Result<Who, Errno> {
        self.views.of(self.tid, self.now, self.owner, target).map(|thread| thread.who())
    }

    fn forget(&mut self) {
        self.views.threads.remove(&self.tid);
    }

    fn owner(&self) -> u32 {
        self.owner
    }

    fn control(&mut self) -> Result<OwnedFd, Errno> {
        (self.open_control)(self.tid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Pretend;
    use stacks::none::NoStack;

    fn view(root: Option<i32>) -> View {
        View {
            name: "v".into(),
            source: Source::Joined(Box::new(NoStack), None),
            root,
            ended: None,
            defaults: BTreeMap::new(),
        }
    }

    fn of(views: &mut Views, target: &mut Pretend, tid: i32) -> Option<u64> {
        views.of(tid, Instant::now(), 1000, target).unwrap().view
    }

    #[test]
    fn nearest_root_wins_then_the_marker_then_our_own() {
        let mut views = Views::own(view(None));
        let (outer, inner) = (views.nest(view(Some(10))), views.nest(view(Some(20))));
        let mut target = Pretend::default();
        assert_eq!(of(&mut views, &mut target, 1), Some(OWN));
        target.inspection.ancestors = vec![30, 20, 10, 1];
        assert_eq!(of(&mut views, &mut target, 2), Some(inner));
        target.inspection.ancestors = vec![10, 1];
        target.inspection.marker = Some(inner);
        assert_eq!(of(&mut views, &mut target, 3), Some(outer));
        target.inspection.ancestors = vec![40, 1];
        assert_eq!(of(&mut views, &mut target, 4), Some(inner));
        target.inspection.marker = Some(99);
        assert_eq!(of(&mut views, &mut target, 5), Some(OWN));
    }

    #[test]
    fn a_default_is_of_its_families_and_all_else_of_the_view_around() {
        let mut views = Views::own(view(None));
        let outer = views.nest(View::of("outer", Source::Around(OWN), Some(10)));
        let inner = views.nest(View::of("inner", Source::Around(outer), Some(20)));
        views.set_defaults(outer, &[libc::AF_INET, libc::AF_INET6], 1);
        views.set_defaults(inner, &[libc::AF_INET], 2);
        let stack = |family| match views.find(inner, family) {
            Some(Found::Stack(stack)) => Some(stack),
            Some(Found::View(OWN)) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!([libc::AF_INET, libc::AF_INET6, libc::AF_PACKET].map(stack), [Some(2), Some(1), None]);
        assert!(views.is_default_of(inner, 20) && !views.is_default_of(inner, 10));
        assert_eq!(views.defaults().len(), 3);
    }

    #[test]
    fn a_thread_with_a_network_of_its_own_has_no_view_and_is_looked_up_again_when_told() {
        let mut views = Views::own(view(None));
        let mut target = Pretend::default();
        assert_eq!(of(&mut views, &mut target, 1), Some(OWN));
        target.inspection.home_network = false;
        assert_eq!(of(&mut views, &mut target, 1), Some(OWN), "believed for a while");
        views.threads.remove(&1);
        assert_eq!(of(&mut views, &mut target, 1), None);
    }
}
