//! The commands: their paths, their arguments, what they do.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::ports::{Place, change, place};
use super::{After, Context, debug, ports, show, tree};
use crate::frame::Mac;
use crate::port::PortId;
use crate::vlan::{Egress, PortVlans, Vid, VidSet};

/// The console's number for frames without a VLAN.
const NO_VLAN: i64 = 0;

/// Why a command failed: an errno, in the words that glibc has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble(Errno);

impl Trouble {
    pub(super) fn of(errno: i32) -> Self {
        Self(Errno::from_raw(errno))
    }

    fn words(self) -> &'static str {
        match self.0 {
            // nix adds "on transport endpoint".
            Errno::EOPNOTSUPP => "Operation not supported",
            other => other.desc(),
        }
    }
}

pub(super) type Done = Result<(), Trouble>;

pub(super) const INVALID: Trouble = Trouble(Errno::EINVAL);
pub(super) const NO_SUCH: Trouble = Trouble(Errno::ENXIO);
pub(super) const EXISTS: Trouble = Trouble(Errno::EEXIST);
pub(super) const IN_USE: Trouble = Trouble(Errno::EADDRINUSE);
const NOT_HERE: Trouble = Trouble(Errno::EOPNOTSUPP);
pub(super) const NOT_FOUND: Trouble = Trouble(Errno::ENOENT);

/// How a command is done.
enum Does {
    /// It is the head of a menu.
    Menu,
    /// It answers with text.
    Shows(fn(&mut Context<'_>, &str, &mut String) -> Done),
    /// It answers whether it succeeded.
    Acts(fn(&mut Context<'_>, &str) -> Done),
    /// It ends or loads something.
    Ends(fn(&str) -> After),
}

struct Command {
    path: &'static str,
    syntax: &'static str,
    help: &'static str,
    does: Does,
}

const fn command(path: &'static str, syntax: &'static str, help: &'static str, does: Does) -> Command {
    Command { path, syntax, help, does }
}

use Does::{Acts, Ends, Menu, Shows};

const RULE: &str = "============";

/// In the order of `help`.
static COMMANDS: &[Command] = &[
    command("ds", RULE, "DATA SOCKET MENU", Menu),
    command("ds/showinfo", "", "show ds info", Shows(show::sockets)),
    command("help", "[arg]", "Help (limited to arg when specified)", Shows(help)),
    command("logout", "", "logout from this mgmt terminal", Ends(|_| After::Logout)),
    command("shutdown", "", "shutdown of the switch", Ends(|_| After::Shutdown)),
    command("showinfo", "", "show switch version and info", Shows(show::switch)),
    command("load", "path", "load a configuration script", Ends(|path| After::Load(PathBuf::from(path)))),
    command("debug", RULE, "DEBUG MENU", Menu),
    command("debug/list", "", "list debug categories", Shows(debug::list)),
    command("debug/add", "dbgpath", "enable debug info for a given category", Acts(debug::add)),
    command("debug/del", "dbgpath", "disable debug info for a given category", Acts(debug::del)),
    command("plugin", RULE, "PLUGINS MENU", Menu),
    command("plugin/list", "", "list plugins", Shows(show::no_plugins)),
    command("plugin/add", "library", "load a plugin", Acts(|_, _| Err(NOT_HERE))),
    command("plugin/del", "name", "unload a plugin", Acts(|_, _| Err(NOT_FOUND))),
    command("hash", RULE, "HASH TABLE MENU", Menu),
    command("hash/showinfo", "", "show hash info", Shows(show::hash)),
    command("hash/setsize", "N", "change hash size", Acts(hash_size)),
    command("hash/setgcint", "N", "change garbage collector interval", Acts(hash_interval)),
    command("hash/setexpire", "N", "change hash entries expire time", Acts(hash_expire)),
    command("hash/setminper", "N", "minimum persistence time", Acts(hash_hold)),
    command("hash/print", "", "print the hash table", Shows(show::stations)),
    command("hash/find", "MAC [VLAN]", "MAC lookup", Shows(find_station)),
    command("fstp", RULE, "FAST SPANNING TREE MENU", Menu),
    command("fstp/showinfo", "", "show fstp info", Shows(tree::info)),
    command("fstp/setfstp", "0/1", "Fast spanning tree protocol 1=ON 0=OFF", Shows(tree::set)),
    command("fstp/setedge", "VLAN PORT 1/0", "Define an edge port for a vlan 1=Y 0=N", Acts(tree::set_edge)),
    command("fstp/bonus", "VLAN PORT COST", "set the port bonus for a vlan", Acts(tree::set_bonus)),
    command("fstp/print", "[N]", "print fst data for the defined vlan", Shows(tree::print)),
    command("port", RULE, "PORT STATUS MENU", Menu),
    command("port/showinfo", "", "show port info", Shows(show::ports)),
    command("port/setnumports", "N", "set the number of ports", Acts(ports::set_count)),
    command("port/sethub", "0/1", "1=HUB 0=switch", Acts(set_hub)),
    command("port/setvlan", "N VLAN", "set port VLAN (untagged)", Acts(set_vlan)),
    command(
        "port/createauto",
        "",
        "create a port with an automatically allocated id (inactive|notallocatable)",
        Shows(ports::create_any),
    ),
    command("port/create", "N", "create the port N (inactive|notallocatable)", Acts(ports::create)),
    command("port/remove", "N", "remove the port N", Acts(ports::remove)),
    command(
        "port/allocatable",
        "N 0/1",
        "Is the port allocatable as unnamed? 1=Y 0=N",
        Acts(ports::set_allocatable),
    ),
    command("port/setuser", "N user", "access control: set user", Acts(ports::set_user)),
    command("port/setgroup", "N user", "access control: set group", Acts(ports::set_group)),
    command("port/epclose", "N ID", "remove the endpoint port N/id ID", Acts(ports::close)),
    command("port/resetcounter", "[N]", "reset the port (N) counters", Acts(ports::reset_counters)),
    command(
        "port/print",
        "[N]",
        "print the port/endpoint table",
        Shows(|c, arg, out| ports::print(c, arg, false, out)),
    ),
    command(
        "port/allprint",
        "[N]",
        "print the port/endpoint table (including inactive port)",
        Shows(|c, arg, out| ports::print(c, arg, true, out)),
    ),
    command("vlan", RULE, "VLAN MANAGEMENT MENU", Menu),
    command("vlan/create", "N", "create the VLAN with tag N", Acts(create_vlan)),
    command("vlan/remove", "N", "remove the VLAN with tag N", Acts(remove_vlan)),
    command("vlan/addport", "N PORT", "add port to the vlan N (tagged)", Acts(add_to_vlan)),
    command("vlan/delport", "N PORT", "delete port from the vlan N (tagged)", Acts(take_from_vlan)),
    command(
        "vlan/print",
        "[N]",
        "print the list of defined vlan",
        Shows(|c, arg, out| print_vlans(c, arg, false, out)),
    ),
    command(
        "vlan/allprint",
        "[N]",
        "print the list of defined vlan (including inactive port)",
        Shows(|c, arg, out| print_vlans(c, arg, true, out)),
    ),
];

/// Does the command on `line`, and writes its answer behind what is in `out`; an empty line and a comment have none.
pub fn run(context: &mut Context<'_>, line: &str, out: &mut String) -> After {
    let line = line.trim_start_matches([' ', '\t']);
    if line.is_empty() || line.starts_with('#') {
        return After::Prompt;
    }
    let (path, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = argument.trim_matches([' ', '\t']);
    let done = match COMMANDS.iter().find(|command| command.path == path).map(|command| &command.does) {
        None | Some(Menu) => Err(Trouble(Errno::ENOSYS)),
        Some(Ends(what)) => return what(argument),
        Some(Acts(act)) => act(context, argument),
        Some(Shows(show)) => {
            out.push_str("0000 DATA END WITH '.'\n");
            let done = show(context, argument, out);
            out.push_str(".\n");
            done
        }
    };
    finish(done, out);
    After::Prompt
}

/// The line that ends every answer.
pub(super) fn finish(done: Done, out: &mut String) {
    let _ = match done {
        Ok(()) => writeln!(out, "1000 Success"),
        Err(trouble) => writeln!(out, "1{:03} {}", trouble.0 as i32, trouble.words()),
    };
}

fn help(_: &mut Context<'_>, prefix: &str, out: &mut String) -> Done {
    let head = [("COMMAND PATH", "SYNTAX", "HELP"), ("------------", "--------------", "------------")];
    let rows = COMMANDS.iter().filter(|command| command.path.starts_with(prefix));
    let rows = head.into_iter().chain(rows.map(|command| (command.path, command.syntax, command.help)));
    rows.for_each(|(path, syntax, help)| show::line(out, format_args!("{path:<18} {syntax:<15} {help}")));
    Ok(())
}

/// Our table has room for more than any that was asked for.
fn hash_size(context: &mut Context<'_>, argument: &str) -> Done {
    if number(argument) <= 0 {
        return Err(INVALID);
    }
    context.switch.flush(None, None);
    Ok(())
}

fn hash_interval(context: &mut Context<'_>, argument: &str) -> Done {
    context.memory.gc_s = number(argument);
    Ok(())
}

fn hash_hold(context: &mut Context<'_>, argument: &str) -> Done {
    let hold = u64::try_from(number(argument)).ok().filter(|hold| *hold <= 1_000_000);
    context.switch.set_hold(Duration::from_secs(hold.ok_or(INVALID)?));
    Ok(())
}

/// A hub has no spanning tree.
fn set_hub(context: &mut Context<'_>, argument: &str) -> Done {
    let hub = number(argument) != 0;
    if hub {
        tree::turn(context, false);
    }
    context.switch.set_hub(hub);
    Ok(())
}

fn hash_expire(context: &mut Context<'_>, argument: &str) -> Done {
    let age = u64::try_from(number(argument)).ok().filter(|age| (1..=1_000_000).contains(age));
    context.switch.set_age(Duration::from_secs(age.ok_or(INVALID)?));
    Ok(())
}

fn find_station(context: &mut Context<'_>, argument: &str, out: &mut String) -> Done {
    let mut words = argument.split_whitespace();
    let mac = mac(words.next().unwrap_or_default()).ok_or(INVALID)?;
    let vlan = words.next().map_or(NO_VLAN, number);
    let vid = vid(vlan).ok_or(Trouble(Errno::ENODEV))?;
    let mut all = context.switch.stations(context.now);
    let (_, _, entry) =
        all.find(|station| (station.0, station.1) == (vid, mac)).ok_or(Trouble(Errno::ENODEV))?;
    show::station(context.now, vid, mac, entry, out);
    Ok(())
}

/// No untagged VLAN: frames without tag are dropped.
const NONE_AT_ALL: i64 = 4095;

fn set_vlan(context: &mut Context<'_>, argument: &str) -> Done {
    let (port, vlan) = two_numbers(argument)?;
    let place = place(context, port)?;
    let native = if vlan == NONE_AT_ALL { None } else { Some(known_vlan(context, vlan)?) };
    change(context, place, |now| match (now, native) {
        (PortVlans::Access { .. }, Some(vid)) => PortVlans::Access { vid },
        (PortVlans::Access { .. }, None) => PortVlans::Trunk { native, allowed: VidSet::none() },
        (PortVlans::Trunk { native: old, allowed }, _) => {
            let mut allowed = allowed.clone();
            old.iter().for_each(|old| allowed.remove(*old));
            native.iter().for_each(|vid| allowed.insert(*vid));
            plain(PortVlans::Trunk { native, allowed })
        }
        (PortVlans::Hybrid { pvid, allowed, untagged }, _) => {
            let mut untagged = untagged.clone();
            pvid.iter().for_each(|old| untagged.remove(*old));
            native.iter().for_each(|vid| untagged.insert(*vid));
            PortVlans::Hybrid { pvid: native, allowed: allowed.clone(), untagged }
        }
        (PortVlans::Tunnel { .. }, Some(vid)) => PortVlans::Tunnel { vid },
        // All of a customer's frames are in the VLAN.
        (PortVlans::Tunnel { vid }, None) => PortVlans::Tunnel { vid: *vid },
        (PortVlans::Service { allowed, .. }, _) => PortVlans::Service { native, allowed: allowed.clone() },
    })
}

/// A trunk of one VLAN without tag is a port as it was at first.
fn plain(vlans: PortVlans) -> PortVlans {
    match vlans {
        PortVlans::Trunk { native: Some(vid), allowed } if allowed.iter().all(|other| other == vid) => {
            PortVlans::Access { vid }
        }
        other => other,
    }
}

fn add_to_vlan(context: &mut Context<'_>, argument: &str) -> Done {
    let (vlan, port) = two_numbers(argument)?;
    let (place, vid) = (place(context, port)?, known_vlan(context, vlan)?);
    change(context, place, |now| {
        let native = now.pvid();
        if native == Some(vid) {
            return now.clone();
        }
        let mut now = match now {
            PortVlans::Access { vid } => PortVlans::Trunk { native, allowed: VidSet::from_iter([*vid]) },
            other => other.clone(),
        };
        match &mut now {
            PortVlans::Trunk { allowed, .. }
            | PortVlans::Hybrid { allowed, .. }
            | PortVlans::Service { allowed, .. } => allowed.insert(vid),
            // What is in one VLAN as a whole stays there.
            PortVlans::Access { .. } | PortVlans::Tunnel { .. } => {}
        }
        now
    })
}

fn take_from_vlan(context: &mut Context<'_>, argument: &str) -> Done {
    let (vlan, port) = two_numbers(argument)?;
    let (place, vid) = (place(context, port)?, known_vlan(context, vlan)?);
    let rules = match place {
        Place::Port(id) => context.switch.port(id).map(|port| &port.vlans),
        Place::Kept(id) => context.switch.place(id).map(|place| &place.vlans),
        Place::Free(_) => None,
    };
    if rules.ok_or(NO_SUCH)?.pvid() == Some(vid) {
        return Err(IN_USE);
    }
    change(context, place, |now| match now {
        PortVlans::Trunk { native, allowed } => {
            let mut allowed = allowed.clone();
            allowed.remove(vid);
            plain(PortVlans::Trunk { native: *native, allowed })
        }
        PortVlans::Hybrid { pvid, allowed, untagged } => {
            let (mut allowed, mut untagged) = (allowed.clone(), untagged.clone());
            allowed.remove(vid);
            untagged.remove(vid);
            PortVlans::Hybrid { pvid: *pvid, allowed, untagged }
        }
        PortVlans::Service { native, allowed } => {
            let mut allowed = allowed.clone();
            allowed.remove(vid);
            PortVlans::Service { native: *native, allowed }
        }
        PortVlans::Access { .. } | PortVlans::Tunnel { .. } => now.clone(),
    })
}

fn create_vlan(context: &mut Context<'_>, argument: &str) -> Done {
    let vid = vid(number(argument)).filter(|vid| *vid != Vid::DEFAULT).ok_or(INVALID)?;
    if is_known(context, vid) {
        return Err(EXISTS);
    }
    context.switch.name_vlan(vid, "");
    Ok(())
}

fn remove_vlan(context: &mut Context<'_>, argument: &str) -> Done {
    let vid = known_vlan(context, number(argument))?;
    let switch = &mut *context.switch;
    // A trunk of all VLANs is in none by name.
    let carries_all = |id| switch.port(id).is_some_and(|port| port.vlans.carries_all().is_some());
    let mut members = switch.members(vid).filter(|(id, _)| !carries_all(*id));
    let is_used = members.next().is_some() || switch.places().any(|(_, place)| place.vlans.carries(vid));
    drop(members);
    if is_used || vid == Vid::DEFAULT {
        return Err(IN_USE);
    }
    switch.remove_vlan(vid).map_err(|_| IN_USE)
}

fn print_vlans(context: &mut Context<'_>, argument: &str, all: bool, out: &mut String) -> Done {
    for vid in chosen(context, argument)? {
        show::vlan(context, vid, all, out);
    }
    Ok(())
}

/// The VLAN that is named, or all there are.
pub(super) fn chosen(context: &Context<'_>, argument: &str) -> Result<Vec<Vid>, Trouble> {
    match argument {
        "" => {
            let others = context.switch.vlans().filter(|vid| *vid != Vid::DEFAULT);
            Ok(std::iter::once(Vid::DEFAULT).chain(others).collect())
        }
        n => Ok(vec![known_vlan(context, number(n))?]),
    }
}

/// The console's number of a port.
pub(super) fn number_of(id: PortId) -> u32 {
    id.index() as u32 + 1
}

/// The VLAN of the console's number; 0 is that of ports that were told nothing, so it has no 1.
fn vid(number: i64) -> Option<Vid> {
    match number {
        NO_VLAN => Some(Vid::DEFAULT),
        n => u16::try_from(n).ok().and_then(Vid::new).filter(|vid| *vid != Vid::DEFAULT),
    }
}

pub(super) fn known_vlan(context: &Context<'_>, number: i64) -> Result<Vid, Trouble> {
    if !(0..=i64::from(Vid::MAX)).contains(&number) {
        return Err(INVALID);
    }
    vid(number).filter(|vid| is_known(context, *vid)).ok_or(NO_SUCH)
}

fn is_known(context: &Context<'_>, vid: Vid) -> bool {
    vid == Vid::DEFAULT
        || context.switch.vlan_name(vid).is_some()
        || context.switch.vlan_counters(vid).rx_frames > 0
        || context.switch.members(vid).any(|(_, egress)| egress == Egress::Untagged)
}

/// As atoi(3): the number at the start of the text, 0 if there is none.
pub(super) fn number(text: &str) -> i64 {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    // What does not fit is no number of anything here.
    let value = digits[..end].parse().unwrap_or(if end == 0 { 0 } else { i64::MAX });
    if text.starts_with('-') { -value } else { value }
}

/// As scanf(3) reads `%i %i`: decimal, 0x and octal numbers.
pub(super) fn two_numbers(text: &str) -> Result<(i64, i64), Trouble> {
    let read = |word: &str| {
        let (sign, digits) = word.strip_prefix('-').map_or((1, word), |digits| (-1, digits));
        let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
        let value = match (hexadecimal, digits.strip_prefix('0').filter(|rest| !rest.is_empty())) {
            (Some(digits), _) => i64::from_str_radix(digits, 16),
            (None, Some(digits)) => i64::from_str_radix(digits, 8),
            (None, None) => digits.parse(),
        };
        value.map(|value| sign * value).map_err(|_| INVALID)
    };
    let mut words = text.split_whitespace();
    Ok((read(words.next().ok_or(INVALID)?)?, read(words.next().ok_or(INVALID)?)?))
}

/// Six numbers in hexadecimal with colons or dots between them.
fn mac(text: &str) -> Option<Mac> {
    let mut octets = [0; 6];
    let mut parts = text.split(if text.contains(':') { ':' } else { '.' });
    for octet in &mut octets {
        *octet = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(octets))
}
