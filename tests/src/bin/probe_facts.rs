//! A probe: everything a process inherits that has nothing to do with the network. A view must not change it.

use std::fs;

fn main() {
    let own = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    for (name, value) in std::env::vars_os() {
        println!("env {}: {}", name.display(), value.display());
    }
    for (i, arg) in std::env::args_os().enumerate() {
        println!("arg {i}: {}", arg.display());
    }
    println!("cwd: {}", std::env::current_dir().expect("cwd").display());
    let wanted = [
        "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd",
    ];
    for line in own("status").lines() {
        if let Some((name, value)) = line.split_once(':')
            && (wanted.contains(&name) || name == "CapAmb" || name == "Name")
        {
            println!("{name}: {}", value.trim());
        }
    }
    let stat = own("stat");
    let fields: Vec<_> = stat.rsplit(") ").next().expect("stat").split(' ').collect();
    let pid = std::process::id().to_string();
    println!("group leader: {}", fields[2] == pid);
    println!("session leader: {}", fields[3] == pid);
    println!("nice: {}", fields[16]);
    println!("oom_score_adj: {}", own("oom_score_adj").trim());
    println!("cgroup: {}", own("cgroup").trim().replace('\n', " "));
    println!("timerslack: {}", own("timerslack_ns").trim());
    for line in own("limits").lines().skip(1) {
        println!("limit {}", line.split_whitespace().collect::<Vec<_>>().join(" ").replacen(' ', ": ", 2));
    }
    for name in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).expect("namespace");
        println!("namespace {name}: {}", link.display());
    }
    let mut fds: Vec<i32> = fs::read_dir("/proc/self/fd")
        .expect("fds")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect::<Vec<_>>()
        .into_iter()
        .filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
        .collect();
    fds.sort_unstable();
    println!("descriptors: {fds:?}");
    println!("children: {:?}", own(&format!("task/{pid}/children")));
}
