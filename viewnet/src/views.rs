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

use msocket_proto::proto::File;
use nix::errno::Errno;
use stacks::remote::RemoteStack;
use stacks::serve::{Server, StackId};
use stacks::smol::call::Caller as Who;
use stacks::stack::{Kind, SocketSpec, Stack};

use crate::eye::BELIEF;
use crate::handlers::{Caller, is_of_the_machine};
use crate::rules::{Destination, MAX_STACKS, Rules, Target as To};
use crate::smol::{Hosts, SmolId, machine_socket};
use crate::steer::{Bound, Chosen, Fresh};
use crate::target::Target;

/// Most threads we remember; past that all are looked up again.
const MAX_THREADS: usize = 4096;

/// The view a supervisor was started for.
pub(crate) const OWN: u64 = 0;
/// In place of a view's number, for stacks that were joined for msocket().
const JOINED: u64 = u64::MAX;

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
    /// The network that viewnet was started in.
    Host,
    /// Whatever the view around this one says.
    Outer,
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
    /// Which stack answers what.
    pub(crate) rules: Rules,
    /// The stacks that its rules name, in their order.
    pub(crate) stacks: Vec<Source>,
    /// Families whose sockets come from a stack that was joined for msocket().
    pub(crate) defaults: BTreeMap<i32, u64>,
    /// The view around it.
    pub(crate) outer: u64,
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

/// A stack of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    view: u64,
    /// Of those that its rules name; absent: the one that it has without rules.
    place: Option<usize>,
}

impl At {
    /// The stack that a view has without rules.
    pub(crate) fn own(view: u64) -> Self {
        Self { view, place: None }
    }

    /// A stack that its rules name.
    pub(crate) fn named(view: u64, place: usize) -> Self {
        Self { view, place: Some(place) }
    }

    /// A stack that was joined for msocket().
    pub(crate) fn joined(id: u64) -> Self {
        Self { view: JOINED, place: Some(id as usize) }
    }

    /// A number that no other stack of this supervisor has.
    pub(crate) fn number(self) -> u64 {
        self.view * (MAX_STACKS as u64 + 1) + self.place.map_or(0, |place| place as u64 + 1)
    }

    /// The stack of that number.
    pub(crate) fn of_number(number: u64) -> Self {
        let (view, place) = (number / (MAX_STACKS as u64 + 1), number % (MAX_STACKS as u64 + 1));
        Self { view, place: place.checked_sub(1).map(|place| place as usize) }
    }
}

impl View {
    /// A view without rules.
    pub(crate) fn new(name: &str, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            root: None,
            ended: None,
            rules: Rules::default(),
            stacks: Vec::new(),
            defaults: BTreeMap::new(),
            outer: OWN,
        }
    }
}

/// All views of a supervisor.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: HashMap<u64, View>,
    threads: HashMap<i32, Thread>,
    last: u64,
    /// The stacks that were joined for msocket(), by number.
    pub(crate) joined: BTreeMap<u64, Source>,
    /// The namespaces of stacks that are the kernel's, as far as they were asked for (SO_NETNS_COOKIE).
    pub(crate) cookies: BTreeMap<At, Option<u64>>,
    /// What fresh sockets are like, lately.
    pub(crate) fresh: Fresh,
    /// Sockets that were bound by their programs.
    pub(crate) bound: Bound,
    /// Sockets that were made on a stack because of an msocket(), for as long as rules look at destinations.
    pub(crate) chosen: Chosen,
}

/// What is known of a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
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

impl Thread {
    /// Its view.
    pub(crate) fn view(self) -> Option<u64> {
        self.view
    }

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

    /// Puts a nested view, now that it is known, in its place.
    pub(crate) fn set(&mut self, id: u64, view: View) {
        self.views.insert(id, view);
    }

    /// Whether another view is inside of it and depends on it.
    pub(crate) fn is_outer(&self, id: u64) -> bool {
        self.views.iter().any(|(inner, view)| *inner != id && view.outer == id)
    }

    /// Removes a view.
    pub(crate) fn remove(&mut self, id: u64) -> Option<View> {
        self.threads.clear();
        self.cookies.retain(|at, _| at.view != id);
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
        view.is_some_and(|view| view.root == Some(pid) && matches!(view.source, Source::Outer))
    }

    /// Gives families of a view a stack of their own.
    pub(crate) fn set_defaults(&mut self, id: u64, families: &[i32], stack: u64) {
        if let Some(view) = self.views.get_mut(&id) {
            view.defaults.extend(families.iter().map(|family| (*family, stack)));
        }
    }

    /// How many there are, our own included.
    pub(crate) fn count(&self) -> usize {
        self.views.len()
    }

    /// Where a stack's sockets come from.
    pub(crate) fn source(&mut self, at: At) -> Option<&mut Source> {
        if at.view == JOINED {
            return self.joined.get_mut(&(at.place? as u64));
        }
        let view = self.views.get_mut(&at.view)?;
        match at.place {
            None => Some(&mut view.source),
            Some(place) => view.stacks.get_mut(place),
        }
    }

    /// The stack that the rules of a view, and of those around it, choose; for a new socket of a family, also its
    /// defaults of msocket().
    fn choose(&self, mut view: u64, family: Option<i32>, choice: impl Fn(&Rules) -> To) -> Result<At, Errno> {
        loop {
            let here = self.views.get(&view).ok_or(Errno::ENETDOWN)?;
            if let Some(stack) = family.and_then(|family| here.defaults.get(&family)) {
                return Ok(At::joined(*stack));
            }
            let (at, source) = match choice(&here.rules) {
                To::Fail(errno) => return Err(errno),
                To::Own => (At::own(view), Some(&here.source)),
                To::Stack(place) => (At::named(view, place), here.stacks.get(place)),
            };
            match source {
                // A view around another one has the smaller number.
                Some(Source::Outer) if here.outer < view => view = here.outer,
                Some(_) => return Ok(at),
                None => return Err(Errno::ENETDOWN),
            }
        }
    }

    /// The stack that makes the sockets of a family.
    pub(crate) fn default_of(&self, view: u64, family: i32) -> Result<At, Errno> {
        let inet = [libc::AF_INET, libc::AF_INET6].contains(&family);
        self.choose(view, Some(family), |rules| match rules.default_of(family) {
            // What goes nowhere by default still goes where a rule says.
            To::Fail(_) if inet => To::Own,
            target => target,
        })
    }

    /// The stack that answers a destination. Defaults of msocket() are those of new sockets only.
    pub(crate) fn decide(&self, view: u64, destination: &Destination) -> Result<At, Errno> {
        self.choose(view, None, |rules| rules.decide(destination))
    }

    /// The stack for a socket that is bound to a port; `None`: the one that has the address.
    pub(crate) fn decide_bind(&self, mut view: u64, local: &Destination) -> Result<Option<At>, Errno> {
        loop {
            let here = self.views.get(&view).ok_or(Errno::ENETDOWN)?;
            let inner = matches!(here.source, Source::Outer) && here.outer < view;
            match here.rules.decide_bind(local) {
                // What is the view's own is that of the one around it.
                None | Some(To::Own) if inner => view = here.outer,
                None => return Ok(None),
                Some(To::Fail(errno)) => return Err(errno),
                Some(To::Own) => return Ok(Some(At::own(view))),
                Some(To::Stack(place)) => return Ok(Some(At::named(view, place))),
            }
        }
    }

    /// All stacks that the sockets of a view can be on.
    pub(crate) fn places(&self, mut view: u64) -> Vec<At> {
        let mut places = Vec::new();
        while let Some(here) = self.views.get(&view) {
            places.push(At::own(view));
            places.extend((0..here.stacks.len()).map(|place| At::named(view, place)));
            if !matches!(here.source, Source::Outer) || here.outer >= view {
                break;
            }
            view = here.outer;
        }
        places
    }

    /// Whether a socket's stack can depend on where it goes.
    pub(crate) fn steers(&self, mut view: u64) -> bool {
        while let Some(here) = self.views.get(&view) {
            if here.rules.steer() {
                return true;
            }
            if !matches!(here.source, Source::Outer) || here.outer >= view {
                break;
            }
            view = here.outer;
        }
        false
    }

    /// Whether any view's sockets can be on several stacks by where they go.
    pub(crate) fn any_steers(&self) -> bool {
        self.views.values().any(|view| view.rules.steer())
    }

    /// What there is to know of a thread.
    pub(crate) fn of(
        &mut self,
        tid: i32,
        now: Instant,
        owner: u32,
        target: &mut dyn Target,
    ) -> Result<Thread, Errno> {
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
    /// Who asks, for msocket().
    pub(crate) fn asker(&mut self, target: &mut dyn Target) -> Result<Asker, Errno> {
        let thread = self.views.of(self.tid, self.now, self.owner, target)?;
        Ok(Asker { view: thread.view, pid: thread.pid, owner: thread.owner, rights: thread.rights })
    }

    /// The thread's view, if it has one.
    pub(crate) fn view(&mut self, target: &mut dyn Target) -> Result<Option<u64>, Errno> {
        self.views.of(self.tid, self.now, self.owner, target).map(|thread| thread.view)
    }

    /// A file about the network of the thread. EOPNOTSUPP: it has left for a network of its own, or has the host's.
    pub(crate) fn file(&mut self, target: &mut dyn Target, file: &File) -> Result<OwnedFd, Errno> {
        let view = self.view(target)?.ok_or(Errno::EOPNOTSUPP)?;
        // As with what is asked of interfaces.
        let at = self.views.default_of(view, libc::AF_INET)?;
        match self.views.source(at) {
            Some(Source::Served(stack) | Source::Shared(stack)) => {
                let stack = *stack;
                self.server.kernel(stack).ok_or(Errno::ENETDOWN)?.file(file)
            }
            Some(Source::Smol { stack, .. }) => {
                let stack = *stack;
                self.smol.as_mut().ok_or(Errno::ENETDOWN)?.file(stack, file)
            }
            Some(Source::Joined(stack, _)) => stack.file(file),
            Some(Source::Host) => Err(Errno::EOPNOTSUPP),
            Some(Source::Gone | Source::Outer) | None => Err(Errno::ENETDOWN),
        }
    }

    /// A socket of a stack.
    pub(crate) fn make(
        &mut self,
        at: At,
        spec: SocketSpec,
        target: &mut dyn Target,
    ) -> Result<OwnedFd, Errno> {
        let made = self.make_at(at, spec, target)?;
        if at.view == JOINED && self.views.any_steers() {
            self.views.chosen.insert(&made);
        }
        Ok(made)
    }

    fn make_at(&mut self, at: At, spec: SocketSpec, target: &mut dyn Target) -> Result<OwnedFd, Errno> {
        match self.views.source(at) {
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
            Some(Source::Host) => target.host_socket(spec),
            Some(Source::Gone | Source::Outer) | None => Err(Errno::ENETDOWN),
        }
    }
}

impl Caller for Known<'_> {
    fn stack(&mut self, family: i32, target: &mut dyn Target) -> Result<Option<Kind>, Errno> {
        let Some(view) = self.view(target)? else { return Ok(None) };
        let at = self.views.default_of(view, family)?;
        match self.views.source(at) {
            Some(Source::Served(_) | Source::Shared(_)) => Ok(Some(Kind::Kernel)),
            Some(Source::Smol { .. }) => Ok(Some(Kind::Smol)),
            Some(Source::Joined(stack, _)) => Ok(Some(stack.kind())),
            Some(Source::Host) => Ok(None),
            Some(Source::Gone | Source::Outer) | None => Err(Errno::ENETDOWN),
        }
    }

    fn socket(&mut self, spec: SocketSpec, target: &mut dyn Target) -> Result<OwnedFd, Errno> {
        let view = self.view(target)?.ok_or(Errno::ENETDOWN)?;
        let at = self.views.default_of(view, spec.domain)?;
        self.make(at, spec, target)
    }

    fn is_on_host(&mut self, target: &mut dyn Target) -> Result<bool, Errno> {
        let Some(view) = self.view(target)? else { return Ok(false) };
        let host = [libc::AF_INET, libc::AF_INET6].map(|family| {
            let at = self.views.default_of(view, family);
            at.is_ok_and(|at| matches!(self.views.source(at), Some(Source::Host)))
        });
        Ok(host == [true, true])
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
        View { root, ..View::new("v", Source::Joined(Box::new(NoStack), None)) }
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
        let inside = |outer, root| View { root: Some(root), outer, ..View::new("v", Source::Outer) };
        let outer = views.nest(inside(OWN, 10));
        let inner = views.nest(inside(outer, 20));
        views.set_defaults(outer, &[libc::AF_INET, libc::AF_INET6], 1);
        views.set_defaults(inner, &[libc::AF_INET], 2);
        let stack = |family| views.default_of(inner, family);
        let expected = [At::joined(2), At::joined(1), At::own(OWN)].map(Ok);
        assert_eq!([libc::AF_INET, libc::AF_INET6, libc::AF_PACKET].map(stack), expected);
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
