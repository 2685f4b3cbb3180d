//! Recipes of the repository, run by hand as by `.ci/run`: `cargo xtask RECIPE`.
//!
//! # Theory of operation
//! One table, [`RECIPES`]: a name, what it does, and the function that does it. A recipe prints each command
//! before it runs it and ends at the first that fails. Nothing here depends on a crate, so that the recipes
//! build in a second on a fresh machine.

mod command;
mod deny;
mod packages;

use std::process::ExitCode;
use std::time::Instant;

use command::{Cmd, Outcome, cargo, root, target};

type Recipe = (&'static str, &'static str, fn(&[String]) -> Outcome);

/// What is off by default and tested all the same.
const FEATURES: &str = "--features=msocket/tokio";

/// In the order of `ci`'s steps, then those that are run by hand only.
const RECIPES: &[Recipe] = &[
    ("fmt", "format the sources; `fmt --check` only looks", fmt),
    ("lint", "clippy on every target, warnings are errors", lint),
    ("doc", "the documentation, private items too, warnings are errors", doc),
    (
        "deny",
        "licences, bans and sources of our dependencies, and advisories where they can be had",
        deny::run,
    ),
    (
        "test",
        "install the Debian packages the tests need, build viewnet, run all tests; arguments go to cargo test",
        test,
    ),
    ("ci", "fmt --check, lint, doc, deny, test", ci),
    (
        "fuzz-smoke",
        "run each fuzz target for 60 s, or as many as given (needs a nightly toolchain)",
        fuzz_smoke,
    ),
    ("packages", "install (root) or name (others) the Debian packages the tests need", packages_only),
    ("man", "write target/man/viewnet.1", man),
    ("completions", "write target/completions for bash, zsh and fish", completions),
    ("pkg-config", "write target/msocket.pc for an installation in PREFIX (/usr/local)", pkg_config),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let Some((_, _, recipe)) = RECIPES.iter().find(|(known, ..)| *known == name) else {
        eprintln!("usage: cargo xtask RECIPE\n");
        for (name, about, _) in RECIPES {
            eprintln!("  {name:12} {about}");
        }
        return ExitCode::from(2);
    };
    match recipe(&rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask {name}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn fmt(args: &[String]) -> Outcome {
    cargo(["fmt", "--all", "--"]).args(args).run()
}

fn lint(_: &[String]) -> Outcome {
    cargo(["clippy", "--workspace", "--all-targets", FEATURES, "--", "-D", "warnings"]).run()
}

/// Links to private items are fine: the private items are in this documentation.
fn doc(_: &[String]) -> Outcome {
    cargo(["doc", "--workspace", FEATURES, "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private-intra-doc-links")
        .run()
}

/// The tests get the release binary; their own code stays in the dev profile, whose checks they need.
fn test(args: &[String]) -> Outcome {
    packages::install(&root().join("tests/PACKAGES"))?;
    cargo(["build", "--release"]).run()?;
    cargo(["test", "--workspace", "--no-fail-fast", FEATURES])
        .env("VIEWNET_BIN", target().join("release/viewnet"))
        .args(args)
        .run()
}

fn ci(_: &[String]) -> Outcome {
    for step in [&["fmt", "--check"][..], &["lint"], &["doc"], &["deny"], &["test"]] {
        let start = Instant::now();
        cargo(["xtask"]).args(step).run()?;
        eprintln!("xtask {}: passed in {} s\n", step[0], start.elapsed().as_secs());
    }
    Ok(())
}

/// cargo-fuzz builds with a sanitizer, which only a nightly compiler has.
fn fuzz_smoke(args: &[String]) -> Outcome {
    let seconds = args.first().map_or("60", String::as_str);
    let fuzz = |words: &[&str]| Cmd::new("rustup").args(["run", "nightly", "cargo", "fuzz"]).args(words);
    let listed = fuzz(&["list"]).output().map_err(|why| {
        format!("{why}; it needs `rustup toolchain install nightly` and `cargo install --locked cargo-fuzz`")
    })?;
    for target in String::from_utf8_lossy(&listed).lines() {
        let limit = format!("-max_total_time={seconds}");
        fuzz(&["run", target, "--", &limit, "-rss_limit_mb=4096"]).run()?;
    }
    Ok(())
}

fn packages_only(_: &[String]) -> Outcome {
    packages::install(&root().join("tests/PACKAGES"))
}

fn man(_: &[String]) -> Outcome {
    let folder = target().join("man");
    viewnet_writes(&["man"], &folder, "viewnet.1")
}

fn completions(_: &[String]) -> Outcome {
    let folder = target().join("completions");
    for (shell, file) in [("bash", "viewnet.bash"), ("zsh", "_viewnet"), ("fish", "viewnet.fish")] {
        viewnet_writes(&["completions", shell], &folder, file)?;
    }
    Ok(())
}

fn pkg_config(args: &[String]) -> Outcome {
    let prefix = args.first().map_or("/usr/local", String::as_str);
    let failed = |path: &std::path::Path, error| format!("{}: {error}", path.display());
    let (from, to) = (root().join("msocket/msocket.pc.in"), target().join("msocket.pc"));
    let text = std::fs::read_to_string(&from).map_err(|error| failed(&from, error))?;
    let text = text.replace("@PREFIX@", prefix).replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    std::fs::write(&to, text).map_err(|error| failed(&to, error))?;
    eprintln!("{}", to.display());
    Ok(())
}

/// Keeps what `viewnet ARGS` prints as `folder/file`.
fn viewnet_writes(args: &[&str], folder: &std::path::Path, file: &str) -> Outcome {
    let text = cargo(["run", "--quiet", "-p", "viewnet", "--"]).args(args).output()?;
    let path = folder.join(file);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    eprintln!("{}", path.display());
    Ok(())
}
