//! The machine's processes as /proc tells them: who descends from whom, and CPU time.
//!
//! Read: proc_pid_stat(5).

use std::collections::HashMap;

/// Processes that are looked at most; a machine has fewer (kernel.pid_max is 4,194,304 at most, by default 32,768).
const MAX_PROCESSES: usize = 65_536;

/// Processes by their number.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_pid: HashMap<i32, Process>,
    children: HashMap<i32, Vec<i32>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    name: String,
    parent: i32,
    ticks: u64,
}

impl Processes {
    /// Reads /proc.
    pub(super) fn read() -> Self {
        let mut all = Self::default();
        let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(pid).take(MAX_PROCESSES) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            // One that ends while we look is none.
            if let Some(process) = stat.ok().as_deref().and_then(parse) {
                all.add(pid, process);
            }
        }
        all
    }

    fn add(&mut self, pid: i32, process: Process) {
        self.children.entry(process.parent).or_default().push(pid);
        self.by_pid.insert(pid, process);
    }

    /// Its name.
    pub(super) fn name(&self, pid: i32) -> Option<String> {
        self.by_pid.get(&pid).map(|process| process.name.clone())
    }

    /// How many processes descend from `pid`, itself included, and their CPU time in clock ticks. What lost its parent
    /// is not among them.
    pub(super) fn below(&self, pid: i32) -> (usize, u64) {
        let (mut count, mut ticks, mut todo) = (0, 0, vec![pid]);
        // Whoever is its own ancestor, in a list that was not read at one moment, must not keep us.
        while let Some(pid) = todo.pop().filter(|_| count <= self.by_pid.len()) {
            let Some(process) = self.by_pid.get(&pid) else { continue };
            count += 1;
            ticks += process.ticks;
            todo.extend(self.children.get(&pid).into_iter().flatten());
        }
        (count, ticks)
    }
}

/// The line of `stat`; a name may have any characters, and ends with the last `)`.
fn parse(stat: &str) -> Option<Process> {
    let (begin, rest) = stat.rsplit_once(')')?;
    let name = begin.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first here is field 3; ppid is field 4, utime 14, stime 15.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let name = name.chars().filter(|c| !c.is_control()).collect();
    Some(Process { name, parent: i32::try_from(number(4)?).ok()?, ticks: number(14)? + number(15)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_anything() {
        let line = "7 (a) (b) S 3 7 7 0 -1 4194560 1 2 3 4 100 23 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse(line), Some(Process { name: "a) (b".into(), parent: 3, ticks: 123 }));
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn descendants_are_counted() {
        let mut all = Processes::default();
        for (pid, parent) in [(2, 1), (3, 2), (4, 3), (5, 1), (6, 6)] {
            all.add(pid, Process { name: String::new(), parent, ticks: 10 });
        }
        assert_eq!(all.below(2), (3, 30));
        assert_eq!(all.below(9), (0, 0));
        assert!(all.below(6).0 > 0, "and it ends");
        assert!(Processes::read().below(std::process::id() as i32).0 >= 1);
    }
}
