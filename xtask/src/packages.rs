//! The Debian packages that the tests need: `tests/PACKAGES`, one `name  # reason` a line.
//!
//! Root installs what is missing; anybody else is told what is missing, why, and the command that installs
//! it. On a system without dpkg the list is shown, and the tests go on: they name what they lack.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Cmd, Outcome};

/// Debian's hook that decides whether a package may start its service; 101 is "no".
const POLICY: &str = "/usr/sbin/policy-rc.d";

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    reason: String,
}

/// Makes sure that the packages of `list` are there.
pub(crate) fn install(list: &Path) -> Outcome {
    let text =
        fs::read_to_string(list).map_err(|error| format!("cannot read {}: {error}", list.display()))?;
    let wanted = parse(&text)?;
    let names = wanted.iter().map(|package| package.name.as_str());
    let query = Cmd::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(names);
    let Some(known) = query.printed() else {
        eprintln!("no dpkg here: the tests need what Debian calls");
        tell(&wanted);
        return Ok(());
    };
    let missing = missing(wanted, &known);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name.as_str()).collect();
    if !is_root() {
        tell(&missing);
        return Err(format!(
            "the packages above are missing; run `sudo apt-get install --no-install-recommends {}`",
            names.join(" ")
        ));
    }
    let _policy = Policy::forbid_services();
    let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["update", "--quiet"]).run()?;
    apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(names).run()
}

fn parse(text: &str) -> Outcome<Vec<Package>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_once('#') {
            Some((name, reason)) if !name.trim().is_empty() && !reason.trim().is_empty() => {
                Ok(Package { name: name.trim().to_owned(), reason: reason.trim().to_owned() })
            }
            _ => Err(format!("`{line}` is not `name  # reason`")),
        })
        .collect()
}

/// Those of `wanted` that dpkg-query does not call installed.
fn missing(wanted: Vec<Package>, known: &str) -> Vec<Package> {
    let installed: BTreeSet<&str> =
        known.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    wanted.into_iter().filter(|package| !installed.contains(package.name.as_str())).collect()
}

fn tell(packages: &[Package]) {
    for Package { name, reason } in packages {
        eprintln!("  {name:20} {reason}");
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// While it lives no package starts a service: the tests start their own servers, in views. Should we be
/// killed before we can take the hook away, it forbids nothing any more, as our process is gone.
#[derive(Debug)]
struct Policy {
    ours: Option<PathBuf>,
}

impl Policy {
    fn forbid_services() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = PathBuf::from(POLICY);
        let hook = format!("#!/bin/sh\n[ -d /proc/{} ] && exit 101\nexit 0\n", std::process::id());
        let written = !path.exists()
            && fs::write(&path, hook).is_ok()
            && fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).is_ok();
        Self { ours: written.then_some(path) }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Some(path) = &self.ours {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_reason() {
        let packages = parse("# tools\ncurl  # web client\n\n  socat# relay\n").unwrap();
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[1], Package { name: "socat".to_owned(), reason: "relay".to_owned() });
        assert!(parse("curl\n").is_err());
        assert!(parse("curl #\n").is_err());
    }

    #[test]
    fn only_what_is_not_installed_is_missing() {
        let wanted = parse("curl # a\nsocat # b\nnginx-light # c\n").unwrap();
        let left = missing(wanted, "curl installed\nsocat config-files\n");
        let names: Vec<_> = left.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["socat", "nginx-light"]);
    }
}
