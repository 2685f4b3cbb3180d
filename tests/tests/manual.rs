//! The manual says what the code does: the accepted differences from Linux, the calls that are trapped, the commands.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use tests::Subject;
use tests::binaries::viewnet;
use tests::known::{Difference, RULED, differences as known};
use tests::plan::{Found, WAYS, Way, probes};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What a subject on a smol stack has besides the view.
fn besides(subject: Subject) -> Vec<Difference> {
    let smol = known(Subject::Smol).len();
    known(subject).split_off(smol)
}

/// doc/differences.md as the table of accepted differences makes it.
fn differences() -> String {
    let mut page = String::from(
        "# What a program can see that differs\n\n\
         The probes under `tests/probes` run natively and in a view; whatever they see must be the same, but for this\n\
         table. It is made from `tests/src/known.rs` (`UPDATE=1 cargo test -p tests --test manual`), and the referee\n\
         fails on any difference that is not in it. `*` stands for anything. How many there are of each probe in each\n\
         way to run it is in [results.md](results.md).\n\n\
",
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('*', "\\*");
    for (title, list) in [
        ("On a kernel stack", known(Subject::View)),
        ("On a kernel stack, in a view with rules: besides", RULED.to_vec()),
        ("On a smol stack", known(Subject::Smol)),
        ("By the preloaded library alone", known(Subject::Alone)),
        (
            "By the preloaded library alone, on a smol stack: besides those of a smol stack",
            besides(Subject::AloneSmol),
        ),
        ("By libmsocket without a supervisor, on a kernel stack", known(Subject::Linked)),
        (
            "By libmsocket without a supervisor, on a smol stack: besides those of a smol stack",
            besides(Subject::LinkedSmol),
        ),
    ] {
        let _ = writeln!(page, "\n## {title}\n");
        page.push_str(
            "| probe | observation | natively | in a view | why |\n| --- | --- | --- | --- | --- |\n",
        );
        for d in list {
            let row = [d.probe, d.key, d.native, d.view, d.reason].map(cell).join(" | ");
            let _ = writeln!(page, "| {row} |");
        }
    }
    page
}

/// doc/results.md as the plan and the table of accepted differences make it.
fn results() -> String {
    let mut page = String::from(
        "# What the probes see, in each way to run them\n\n\
         Each row is a probe of `tests/probes` or `tests/src/bin`, each column a way to run it. Each is run natively\n\
         first, as an ordinary user and, where the tests may, as root, and then in that way: what it prints must be\n\
         the same, line by line, but for the accepted differences in [differences.md](differences.md). The table is\n\
         made from `tests/src/plan.rs`, from which the referee's tests are made as well, and from `tests/src/known.rs`\n\
         (`UPDATE=1 cargo test -p tests --test manual`); the referee\n\
         (`cargo test -p tests --test conformance`) fails on a difference that is not accepted, and on one that is\n\
         accepted and no longer there.\n\n\
         - **same**: whatever the probe sees is what it sees natively.\n\
         - **5**: that many of the listed differences are there, to all users and programs or to some.\n\
         - **5 + 2?**: 2 more that show where the kernel or chance has it, and at other times do not.\n\
         - **-**: the probe does not run so: nothing is loaded into static programs, nor into i386's.\n\n",
    );
    let mut row = |cells: Vec<String>| {
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    };
    let line = |first: &str, native: &str, cell: &dyn Fn(Way) -> String| {
        [first.to_owned(), native.to_owned()].into_iter().chain(WAYS.iter().map(|&way| cell(way))).collect()
    };
    row(line("probe", "natively", &|way| way.subject.to_string()));
    row(line("---", "---", &|_| "---".into()));
    row(line("*programs*", "*all*", &|way| format!("*{}*", way.programs())));
    for probe in probes() {
        row(line(probe, "reference", &|way| {
            way.found(probe).map_or_else(|| "-".into(), |found| found.to_string())
        }));
    }
    page
}

fn check_page(path: &str, page: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(root().join(path), page).expect("written");
    }
    assert_eq!(read(path), page, "run with UPDATE=1 to write it anew");
}

#[test]
fn the_differences_are_in_the_manual() {
    check_page("doc/differences.md", &differences());
}

#[test]
fn the_results_are_in_the_manual() {
    check_page("doc/results.md", &results());
}

/// A difference that no run looks for would stand there for ever.
#[test]
fn all_differences_are_of_probes_that_run() {
    for &way in WAYS {
        for d in known(way.subject) {
            let found = way.found(d.probe).unwrap_or_default();
            assert_ne!(found, Found::default(), "{}: {} {}", way.subject, d.probe, d.key);
        }
    }
}

#[test]
fn the_trapped_calls_are_in_the_manual() {
    // io_uring_setup is the one more.
    check_calls("viewnet/src/handlers/mod.rs", "const TABLE", "## Calls\n", 1);
    check_calls("viewnet/src/handlers/mod.rs", "const STEERED", "## Calls with rules\n", 0);
    check_calls("viewnet/src/handlers/smol/mod.rs", "const TABLE", "## Calls on a smol stack\n", 1);
}

fn check_calls(source: &str, table: &str, heading: &str, more: usize) {
    let source = read(source);
    let table = source.split(table).nth(1).expect("the table").split("];").next().expect("its end");
    let trapped: Vec<&str> =
        table.split("name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(trapped.len() >= 5, "{trapped:?}");
    let manual = read("doc/views.md");
    let listed =
        manual.split(heading).nth(1).expect("a list of calls").split("\n## ").next().expect("its end");
    for call in &trapped {
        assert!(listed.contains(&format!("| `{call}` |")), "doc/views.md does not list {call}");
    }
    let rows = listed.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, trapped.len() + more, "doc/views.md lists calls that are not trapped");
}

/// The pages with commands to be typed.
fn pages() -> Vec<(String, String)> {
    let pages = std::fs::read_dir(root().join("doc")).expect("doc").flatten();
    let names =
        pages.filter_map(|page| page.file_name().into_string().ok()).map(|name| format!("doc/{name}"));
    let names = names.filter(|name| name.ends_with(".md")).chain(["README.md".into()]);
    names.map(|name| (read(&name), name)).map(|(text, name)| (name, text)).collect()
}

/// The commands of a line, in words, as a shell sees them: quotes hold together, `;`, `&` and `|` part, `#` ends.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut word, mut quote) = (vec![vec![]], String::new(), None);
    for c in line.chars().chain([' ']) {
        match quote {
            Some(end) if c == end => quote = None,
            None if "'\"".contains(c) => quote = Some(c),
            None if c == '#' && word.is_empty() => break,
            None if " ;&|".contains(c) => {
                let command = commands.last_mut().expect("one at least");
                command.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                if c != ' ' {
                    commands.push(vec![]);
                }
            }
            _ => word.push(c),
        }
    }
    commands
}

#[test]
fn commands_of_the_manual_are_there() {
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut help = move |command: &[String]| {
        let run =
            || std::process::Command::new(viewnet()).args(command).arg("--help").output().expect("viewnet");
        let known = helps.entry(command.to_vec());
        known.or_insert_with(|| String::from_utf8(run().stdout).expect("text")).clone()
    };
    let mut count = 0;
    for (page, text) in pages() {
        let text = text.replace("\\\n", " ");
        let typed =
            text.lines().filter(|line| line.starts_with("    viewnet ") || line.starts_with("viewnet "));
        for words in typed.flat_map(commands).filter(|words| words.first().is_some_and(|it| it == "viewnet"))
        {
            let mut command = vec![];
            let is_one_of =
                |word: &str, help: &str| help.lines().any(|it| it.starts_with(&format!("  {word} ")));
            let mut rest = words[1..].iter();
            while let Some(word) = rest.clone().next().filter(|word| is_one_of(word, &help(&command))) {
                command.push(word.clone());
                rest.next();
            }
            assert!(!command.is_empty(), "{page}: {words:?}: no such command");
            let help = help(&command);
            for option in rest.take_while(|word| *word != "--").filter(|word| word.starts_with("--")) {
                let name = option.split('=').next().expect("a first part");
                let is_there =
                    help.split(|c: char| c != '-' && !c.is_alphanumeric()).any(|word| word == name);
                assert!(is_there, "{page}: {words:?}: there is no {name}");
            }
            count += 1;
        }
    }
    assert!(count > 100, "{count} commands were looked at");
}

#[test]
fn the_manuals_topology_is_one() {
    let manual = read("doc/topology.md");
    let file = manual.split("```toml\n").nth(1).expect("a topology").split("```").next().expect("its end");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lab.toml");
    std::fs::write(&path, file).expect("write");
    let drawn = std::process::Command::new(viewnet()).arg("graph").arg(&path).output().expect("viewnet");
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
}
