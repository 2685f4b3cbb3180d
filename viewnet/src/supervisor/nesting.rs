//! Views inside the view: what a nested `viewnet run` asks for, and when such a view ends.

use std::os::fd::AsFd;
use std::time::Instant;

use msocket_proto::line::{Refusal, Reply};
use nix::errno::Errno;
use stacks::kernel::SetUpError;
use stacks::serve::{converse, is_name};

use super::{MAX_VIEWS, NESTED_CHECK, Supervisor};
use crate::launch::{Ruled, StackSpec};
use crate::nested::{self, Nested};
use crate::views::{OWN, Source, View};

impl Supervisor {
    /// A control line of a nested command has something to say.
    pub(super) fn converse(&mut self, token: u64) {
        let Some((mut line, tid)) = self.controls.remove(&token) else { return };
        let open = converse(&mut line, |line, request, _| match request {
            nested::Request::View { name, stack, ruled } => match self.nest(tid, &name, &stack, &ruled) {
                Ok(view) => {
                    let marker = format!("{}.{view}", std::process::id());
                    line.send(&Reply::Ok(Nested { marker }), &[])
                }
                Err(error) => line.send(&Reply::<()>::Error(error.into()), &[]),
            },
            nested::Request::Board { secret } => {
                match self.smol.as_mut().and_then(|smol| smol.host.board(&secret)) {
                    Some(file) => line.send(&Reply::Ok(()), &[file.as_fd()]),
                    None => line
                        .send(&Reply::<()>::Error(Refusal::new("cannot show it", "it is none of ours")), &[]),
                }
            }
            nested::Request::File(file) => {
                match self.with_known(tid, |known, target| known.file(target, &file)) {
                    Ok(file) => line.send(&Reply::Ok(()), &[file.as_fd()]),
                    Err(errno) => {
                        let refusal = Refusal::new("cannot open it", errno.desc());
                        let told = errno != Errno::EOPNOTSUPP;
                        line.send(
                            &Reply::<()>::Error(if told { refusal.errno(errno as i32) } else { refusal }),
                            &[],
                        )
                    }
                }
            }
        });
        if open {
            self.controls.insert(token, (line, tid));
        }
    }

    fn nest(&mut self, tid: i32, name: &str, stack: &StackSpec, ruled: &Ruled) -> Result<u64, SetUpError> {
        let refused = |why| Refusal::new("cannot make a view", why).errno(libc::EPERM);
        let seen = self.eye.inspect(tid, Some(std::process::id())).map_err(|e| refused(e.desc()))?;
        // What follows is done with our rights: whoever gave them up shall not have them back.
        if !seen.home_user || seen.euid != self.owner {
            return Err(refused("the caller is not the user who runs the outer view")
                .hint("run viewnet as that user")
                .into());
        }
        if !seen.home_network {
            return Err(refused("the caller has left the outer view's network for one of its own")
                .hint("run viewnet before it does so")
                .into());
        }
        if self.views.count() > MAX_VIEWS {
            return Err(refused("there are too many views inside this one").hint("end some of them").into());
        }
        if !is_name(name) {
            return Err(refused("its name is none").hint("use 1 to 32 letters, digits and `._-`").into());
        }
        if let Some(config) = stack.config() {
            config.clone().checked().map_err(|e| e.refusal("cannot use the configuration"))?;
        }
        let Some(root) = seen.ancestors.first().copied() else {
            return Err(Refusal::new("cannot make a view", "the caller is gone").into());
        };
        self.allow(stack, ruled)?;
        let (views, now) = (Some(std::process::id()), Instant::now());
        let mut target = self.eye.target(tid, views, now);
        let outer = self.views.of(tid, now, self.owner, &mut target).map_err(|e| refused(e.desc()))?.view();
        let outer = outer.unwrap_or(OWN);
        let mut view = View { root: Some(root), outer, ..View::new(name, Source::Gone) };
        let id = self.views.nest(View { root: Some(root), outer, ..View::new(name, Source::Gone) });
        match self.fill(&mut view, id, stack, ruled, root) {
            Ok(()) => {
                self.views.set(id, view);
                Ok(id)
            }
            Err(error) => {
                self.views.remove(id);
                self.release(view);
                Err(error)
            }
        }
    }

    /// Whether a nested view can have these stacks and rules.
    fn allow(&self, stack: &StackSpec, ruled: &Ruled) -> Result<(), Refusal> {
        if ruled.rules.stacks().len() != ruled.stacks.len() {
            return Err(Refusal::new("cannot make a view", "its rules name other stacks than it has"));
        }
        if std::iter::once(stack).chain(&ruled.stacks).any(|stack| *stack == StackSpec::Host) {
            return Err(Refusal::new("cannot use the host's network", "this is already inside a view")
                .hint("run it outside of the view, or name the host's network in a rule of the outer view"));
        }
        let sees_destinations = self.table.iter().any(|row| row.name == "bind");
        if ruled.rules.steer() && !sees_destinations {
            return Err(Refusal::new(
                "cannot use rules on destinations",
                "this is inside a view whose filter does not send them",
            )
            .hint(
                "start the outer view with such a rule of its own, e.g. --rule 'to 0.0.0.0/0,::/0 via own'",
            ));
        }
        Ok(())
    }

    /// As [`Self::is_done`], for a nested view without processes; its clock starts at the first look.
    fn is_view_done(&mut self, id: u64) -> bool {
        let Some((_, view)) = self.views.iter_mut().find(|(known, _)| **known == id) else { return true };
        let since = *view.ended.get_or_insert_with(Instant::now);
        match view.source {
            Source::Served(stack) if self.server.users(stack) > 0 => {
                view.ended = None;
                false
            }
            Source::Served(stack) => self.is_done(stack, since),
            Source::Smol { stack, shared: false }
                if self.smol.as_ref().is_some_and(|smol| smol.host.users(stack) > 0) =>
            {
                view.ended = None;
                false
            }
            Source::Smol { stack, shared: false } => self.is_smol_done(stack, since),
            _ => true,
        }
    }

    /// Ends the nested views that have no processes left.
    pub(super) fn clear_nested(&mut self) {
        let now = Instant::now();
        if !self.views.nested() || self.next_nested_check.is_some_and(|at| now < at) {
            return;
        }
        self.next_nested_check = Some(now + NESTED_CHECK);
        let roots = self.views.roots();
        let Ok(living) = self.eye.living(roots.clone()) else { return };
        for (id, _) in roots.into_iter().filter(|(id, _)| !living.contains(id)) {
            // Views inside of it may ask it.
            if self.views.is_outer(id) || !self.is_view_done(id) {
                continue;
            }
            if let Some(view) = self.views.remove(id) {
                self.release(view);
            }
        }
    }

    /// Lets go of the stacks of a view that has ended.
    fn release(&mut self, view: View) {
        let View { source, stacks, name, .. } = view;
        for source in std::iter::once(source).chain(stacks) {
            match source {
                Source::Served(stack) => {
                    self.server.remove(stack);
                    let _ = self.eye.forget(&self.runtime.stack(&name));
                }
                Source::Smol { stack, shared: false } => {
                    if let Some(smol) = &mut self.smol {
                        smol.host.remove(stack);
                        let _ = self.eye.forget(&self.runtime.stack(&name));
                    }
                }
                _ => {}
            }
        }
    }
}
