//! The commands about ports: created and kept, for whom, and their endpoints.

use nix::errno::Errno;

use super::commands::{Done, EXISTS, IN_USE, INVALID, NO_SUCH, Trouble, number, two_numbers};
use super::{Context, Who, show};
use crate::port::{MAX_PORTS, PortId};
use crate::vlan::PortVlans;

/// What has a port's number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A port, whether or not its number is kept.
    Port(PortId),
    /// Nobody is there, but the number is kept.
    Kept(PortId),
    /// Nothing.
    Free(PortId),
}

pub(super) fn place(context: &Context<'_>, number: i64) -> Result<Place, Trouble> {
    let index = u32::try_from(number).ok().filter(|n| (1..=context.switch.numbers()).contains(n));
    let id = PortId::new(index.ok_or(INVALID)? - 1);
    Ok(match context.switch.port(id) {
        Some(_) => Place::Port(id),
        None if context.switch.place(id).is_some() => Place::Kept(id),
        None => Place::Free(id),
    })
}

/// Changes a port's VLAN rules, or those that are kept of its number.
pub(super) fn change(
    context: &mut Context<'_>,
    place: Place,
    rules: impl FnOnce(&PortVlans) -> PortVlans,
) -> Done {
    match place {
        Place::Port(id) => {
            let now = &context.switch.port(id).ok_or(NO_SUCH)?.vlans;
            let new = rules(now);
            if new != *now {
                context.switch.set_vlans(id, new);
            }
        }
        Place::Kept(id) => {
            let kept = context.switch.keep_place(id).map_err(|_| INVALID)?;
            kept.vlans = rules(&kept.vlans);
        }
        Place::Free(_) => return Err(NO_SUCH),
    }
    Ok(())
}

pub(super) fn set_count(context: &mut Context<'_>, argument: &str) -> Done {
    let switch = &mut *context.switch;
    let ids = switch.ports().map(|(id, _)| id).chain(switch.places().map(|(id, _)| id));
    let highest = ids.map(|id| id.index() as i64 + 1).max().unwrap_or(0);
    match number(argument) {
        n if n <= 0 || n > MAX_PORTS as i64 => Err(INVALID),
        n if n < highest => Err(IN_USE),
        n => {
            switch.set_numbers(n as u32);
            Ok(())
        }
    }
}

pub(super) fn print(context: &mut Context<'_>, argument: &str, all: bool, out: &mut String) -> Done {
    if argument.is_empty() {
        show::every_port(context, all, out);
        return Ok(());
    }
    match place(context, number(argument))? {
        Place::Kept(id) if all => show::port(context, id, out),
        Place::Port(id) => show::port(context, id, out),
        Place::Kept(_) | Place::Free(_) => return Err(NO_SUCH),
    }
    Ok(())
}

pub(super) fn create(context: &mut Context<'_>, argument: &str) -> Done {
    match place(context, number(argument))? {
        Place::Free(id) => context.switch.keep_place(id).map(|_| ()).map_err(|_| INVALID),
        Place::Port(_) | Place::Kept(_) => Err(EXISTS),
    }
}

pub(super) fn create_any(context: &mut Context<'_>, _: &str, out: &mut String) -> Done {
    let numbers = 1..=i64::from(context.switch.numbers());
    let mut free = numbers.filter(|n| matches!(place(context, *n), Ok(Place::Free(_))));
    let n = free.next().ok_or_else(|| Trouble::of(Errno::ENOSPC as i32))?;
    drop(free);
    show::line(out, format_args!("Port {n:04}"));
    create(context, &n.to_string())
}

pub(super) fn remove(context: &mut Context<'_>, argument: &str) -> Done {
    match place(context, number(argument))? {
        Place::Kept(id) => {
            context.switch.release_place(id);
            Ok(())
        }
        Place::Port(_) => Err(IN_USE),
        Place::Free(_) => Err(NO_SUCH),
    }
}

/// What is said of a port outlives it: its number is kept from now on.
fn said_of(context: &mut Context<'_>, number: i64, say: impl FnOnce(&mut crate::switch::Place)) -> Done {
    match place(context, number)? {
        Place::Free(_) => Err(NO_SUCH),
        Place::Port(id) | Place::Kept(id) => context.switch.keep_place(id).map(say).map_err(|_| INVALID),
    }
}

pub(super) fn set_allocatable(context: &mut Context<'_>, argument: &str) -> Done {
    let (port, allocatable) = two_numbers(argument)?;
    said_of(context, port, |place| place.allocatable = allocatable != 0)
}

pub(super) fn set_user(context: &mut Context<'_>, argument: &str) -> Done {
    let (port, user) = whom(context, argument, Who::User)?;
    said_of(context, port, |place| place.user = user)
}

pub(super) fn set_group(context: &mut Context<'_>, argument: &str) -> Done {
    let (port, group) = whom(context, argument, Who::Group)?;
    said_of(context, port, |place| place.group = group)
}

/// A port's number, and a user's or a group's, given by number or name; none for `NONE` and `ANY`.
fn whom<'a>(
    context: &Context<'_>,
    argument: &'a str,
    who: impl Fn(&'a str) -> Who<&'a str>,
) -> Result<(i64, Option<u32>), Trouble> {
    let (port, name) = argument.split_once(' ').ok_or(INVALID)?;
    let (port, _) = two_numbers(&format!("{port} 0"))?;
    let name = name.trim_start_matches(' ');
    let is_known = !matches!(place(context, port)?, Place::Free(_));
    let found = match (context.ports.find(who(name)), name) {
        _ if !is_known => return Err(NO_SUCH),
        (Some(id), _) => Some(id),
        (None, "NONE" | "ANY") => None,
        // As atoi(3): what follows the number is passed over.
        (None, name) if name.starts_with(|c: char| c.is_ascii_digit()) => {
            Some(u32::try_from(number(name)).map_err(|_| INVALID)?)
        }
        _ => return Err(INVALID),
    };
    Ok((port, found))
}

pub(super) fn close(context: &mut Context<'_>, argument: &str) -> Done {
    let (port, endpoint) = two_numbers(argument)?;
    let Place::Port(id) = place(context, port)? else { return Err(NO_SUCH) };
    let endpoint = u32::try_from(endpoint).map_err(|_| NO_SUCH)?;
    context.ports.close(context.switch, id, endpoint).then_some(()).ok_or(NO_SUCH)
}

pub(super) fn reset_counters(context: &mut Context<'_>, argument: &str) -> Done {
    let port = match argument {
        "" => None,
        n => match place(context, number(n))? {
            Place::Port(id) => Some(id),
            Place::Kept(_) | Place::Free(_) => return Ok(()),
        },
    };
    context.switch.reset_counters(port);
    Ok(())
}
