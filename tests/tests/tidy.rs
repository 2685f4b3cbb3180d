//! The house rules that a compiler does not check: CONTRIBUTING.md, as tests.
//!
//! Each test names every line that breaks its rule. Files that `.gitignore` names are left out.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

/// Where `unsafe` may live: files, folders (with a slash at the end), and the probes, which must pass bad pointers.
const UNSAFE_ROOMS: &[&str] = &[
    "switch/src/ports/shared.rs",
    "switch/src/ports/sys.rs",
    "stacks/src/kernel/sys.rs",
    "stacks/src/smol/pump/memory.rs",
    "stacks/src/smol/tcp/slab.rs",
    "viewnet/src/sys/",
    "msocket/src/sys.rs",
    "msocket/capi/src/ffi.rs",
    "libvnet-preload/src/absent.rs",
    "libvnet-preload/src/hooks.rs",
    "libvnet-preload/interpose/src/hooks.rs",
    "libvnet-preload/interpose/src/sys.rs",
    "libvnet-preload/interpose/src/sys/",
    "tests/src/sys.rs",
    "tests/src/bin/probe_",
];

/// Who may import whom of ours; `tests` and `examples` may import anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("viewnet", &["stacks", "switch", "msocket-proto"]),
    ("stacks", &["switch", "msocket-proto"]),
    ("switch", &["msocket-proto"]),
    ("interpose", &["msocket-proto"]),
    ("libvnet-preload", &["interpose"]),
    ("msocket", &["stacks", "msocket-proto"]),
    ("msocket-capi", &["msocket", "interpose"]),
    ("msocket-proto", &[]),
    ("xtask", &[]),
];
/// Crates that nobody imports.
const LEAVES: &[&str] = &["viewnet", "tests", "examples", "xtask"];

/// Most lines of a source file.
const SOURCE_LINES: usize = 600;
/// Most lines of a file of tests.
const TEST_LINES: usize = 900;

/// Most lines of a function.
const FUNCTION_LINES: usize = 70;

/// A file of the repository.
struct File {
    /// Its path from the repository's root.
    name: String,
    text: String,
}

impl File {
    fn is_test(&self) -> bool {
        self.name.ends_with("/tests.rs") || self.name.contains("/tests/")
    }

    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository's root")
}

/// Every text file with one of these endings.
fn files(endings: &[&str]) -> Vec<File> {
    let root = root();
    let ignored = fs::read_to_string(root.join(".gitignore")).expect(".gitignore");
    let ignored: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('/')).collect();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("below the root").to_str().expect("UTF-8").to_owned();
            if ignored.contains(&name.as_str()) || name == ".git" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).expect("a text file");
                files.push(File { name, text });
            }
        }
    }
    assert!(!files.is_empty(), "no {endings:?} in {}", root.display());
    files
}

#[track_caller]
fn assert_none(rule: &str, broken: impl IntoIterator<Item = String>) {
    let mut list = String::new();
    for line in broken {
        let _ = write!(list, "\n  {line}");
    }
    assert!(list.is_empty(), "{rule}:{list}");
}

#[test]
fn unsafe_lives_in_its_rooms() {
    let in_room = |name: &str| {
        UNSAFE_ROOMS.iter().any(|room| {
            let whole = room.ends_with(".rs");
            if whole { name == *room } else { name.starts_with(room) }
        })
    };
    let forms = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "unsafe trait",
        "allow(unsafe_code",
        "expect(unsafe_code",
    ];
    let this = "tests/tests/tidy.rs";
    let mut broken = Vec::new();
    for file in files(&[".rs"]).into_iter().filter(|file| !in_room(&file.name) && file.name != this) {
        let hits = file.code().filter(|(_, line)| forms.iter().any(|form| line.contains(form)));
        broken.extend(hits.map(|(at, _)| format!("{}:{at}", file.name)));
    }
    assert_none("unsafe outside its rooms", broken);
}

#[test]
fn imports_follow_the_arrows() {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().expect("cargo metadata");
    let ours: Vec<_> = metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    let mut broken = Vec::new();
    for package in metadata.workspace_packages() {
        let arrows = ARROWS.iter().find(|(name, _)| package.name.as_str() == *name).map(|(_, to)| *to);
        if arrows.is_none() && !["tests", "examples"].contains(&package.name.as_str()) {
            broken.push(format!("{} has no line in ARROWS", package.name));
        }
        for dependency in package.dependencies.iter().filter(|dependency| ours.contains(&dependency.name)) {
            let to = dependency.name.as_str();
            if LEAVES.contains(&to) || arrows.is_some_and(|arrows| !arrows.contains(&to)) {
                broken.push(format!("{} → {to}", package.name));
            }
        }
    }
    assert_none("imports against the arrows", broken);
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    let manifests = files(&["/Cargo.toml"]).into_iter().filter(|file| !file.name.starts_with("fuzz/"));
    let without = manifests.filter(|file| !file.text.contains("[lints]\nworkspace = true"));
    assert_none("no `[lints] workspace = true`", without.map(|file| file.name));
}

#[test]
fn every_source_file_says_what_it_is() {
    let mute = files(&[".rs"]).into_iter().filter(|file| !file.text.starts_with("//!"));
    assert_none("files that do not open with //!", mute.map(|file| file.name));
}

#[test]
fn files_stay_small() {
    let long = files(&[".rs"]).into_iter().filter_map(|file| {
        let lines = file.text.lines().count();
        let limit = if file.is_test() { TEST_LINES } else { SOURCE_LINES };
        (lines > limit).then(|| format!("{}: {lines} lines, at most {limit}", file.name))
    });
    assert_none("files to split", long);
}

#[test]
fn functions_end_in_sight() {
    let mut broken = Vec::new();
    for file in files(&[".rs"]) {
        let lines: Vec<_> = file.text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| opens_function(line)) {
            let indent = &line[..line.len() - line.trim_start().len()];
            // A body ends with a brace; a trait's function without one ends where its head does.
            let is_end = |line: &&str| {
                let line = line.strip_prefix(indent).unwrap_or_default();
                line == "}" || line.starts_with(')') && line.ends_with(';')
            };
            let length = lines[at..].iter().position(is_end).map_or(1, |end| end + 1);
            if length > FUNCTION_LINES {
                broken.push(format!("{}:{}: {length} lines, at most {FUNCTION_LINES}", file.name, at + 1));
            }
        }
    }
    assert_none("functions to split", broken);
}

/// A line like `pub(crate) const fn name(…) … {`, or the first of several that end so.
fn opens_function(line: &str) -> bool {
    let before = line.trim_start().split(' ').take_while(|word| *word != "fn");
    let modifiers = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    let one_line = line.ends_with(';') || line.ends_with('}');
    line.contains("fn ") && !one_line && before.into_iter().all(|word| modifiers.contains(&word))
}

#[test]
fn nothing_is_left_to_be_done() {
    // Put together here, so that this file passes its own test.
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let bare_ignore = concat!("#[ign", "ore]");
    let mut broken = Vec::new();
    for file in files(&[".rs", ".toml", ".md", ".c", ".h", ".sh", ".py", ".go"]) {
        let hits =
            file.text.lines().enumerate().filter(|(_, line)| {
                words.iter().any(|word| line.contains(word)) || line.contains(bare_ignore)
            });
        broken.extend(hits.map(|(at, line)| format!("{}:{}: {}", file.name, at + 1, line.trim())));
    }
    assert_none("unfinished, or ignored without a reason", broken);
}

#[test]
fn no_path_of_one_machine() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let mut broken = Vec::new();
    for file in files(&[".rs", ".toml", ".md", ".c", ".h", ".sh", ".py", ".go", "PACKAGES", ".ci/run"]) {
        for (at, line) in file.text.lines().enumerate() {
            let starts = paths.iter().flat_map(|path| line.match_indices(path)).map(|(start, _)| start);
            let absolute = |start: usize| {
                line[..start].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"_-./".contains(c))
            };
            if starts.into_iter().any(absolute) {
                broken.push(format!("{}:{}: {}", file.name, at + 1, line.trim()));
            }
        }
    }
    assert_none("paths of one machine", broken);
}

#[test]
fn every_dependency_has_a_version_and_a_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]\n").nth(1).expect("a section of dependencies");
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let broken = lines.filter(|line| {
        let names_one = !line.trim().is_empty() && !line.contains("path = ");
        let reason = line.split_once(" # ").is_some_and(|(_, reason)| !reason.trim().is_empty());
        names_one && (!reason || line.contains("\"*\""))
    });
    assert_none("dependencies without a version or a reason", broken.map(str::to_owned));
}

#[test]
fn packages_are_sorted_and_reasoned() {
    let list = fs::read_to_string(root().join("tests/PACKAGES")).expect("tests/PACKAGES");
    let names: Vec<_> = list.lines().filter_map(|line| line.split('#').next()).map(str::trim).collect();
    assert!(names.is_sorted(), "tests/PACKAGES is not sorted");
    assert_none(
        "packages without a reason",
        list.lines().filter(|line| !line.contains(" # ")).map(str::to_owned),
    );
}
