//! The screen at 80x24, larger, and as small as it gets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use switch::client::{Kind, PortInfo};
use switch::port::{DropReason, Offloads};
use switch::vlan::PortVlans;

use super::*;
use crate::commands::top::sample::View;

fn port(name: &str, bytes: u64) -> PortInfo {
    PortInfo {
        name: name.into(),
        kind: Kind::Tap,
        link: true,
        vlans: PortVlans::default(),
        offloads: Offloads::ALL,
        stp: None,
        linger: false,
        peer: String::new(),
        vxlan: None,
        rx_frames: bytes / 1000,
        rx_bytes: bytes,
        tx_frames: bytes / 2000,
        tx_bytes: bytes / 2,
        stations: 1,
        drops: BTreeMap::from([(DropReason::Full, bytes / 100_000)]),
        shut: None,
    }
}

/// Two switches; `n` says how far they have counted.
fn sample(begin: Instant, n: u64) -> Sample {
    let show = |name: &str| {
        let text = format!(
            r#"{{"name":"{name}","pid":4711,"uptime_s":3700,"age_s":300,"ports":2,"vlans":1,"stations":3,
            "stations_refused":0,"connections":2}}"#
        );
        serde_json::from_str(&text).unwrap()
    };
    let switch = |name: &str, ports| switch::metrics::Snapshot {
        show: show(name),
        ports,
        vlans: Vec::new(),
        mirrors: Vec::new(),
    };
    let view = |pid, ticks| View {
        name: format!("run-{pid}"),
        pid,
        stack: "web".into(),
        command: Some("nginx".into()),
        processes: 3,
        ticks,
    };
    Sample {
        at: begin + Duration::from_secs(n),
        switches: vec![
            switch("lan", vec![port("web.eth0", 1_000_000 * n), port("db.eth0", 250_000_000 * n)]),
            switch("dmz", vec![port("a-very-long-name-of-a-port.eth0", 0)]),
        ],
        stacks: Vec::new(),
        views: vec![view(100, 50 * n), view(200, 0)],
    }
}

fn lines(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let begin = Instant::now();
    let (before, now) = (sample(begin, 1), sample(begin, 2));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let table = Table::of(state.tab(), &now, Some(&before));
    terminal.draw(|frame| draw(frame, state, &now, table)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

fn press(state: &mut State, keys: &str) {
    for c in keys.chars() {
        let code = if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) };
        state.handle_key(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

#[test]
fn ports_at_80x24() {
    let lines = lines(&mut State::default(), 80, 24);
    let expected = [
        " viewnet top  2 switches  3 ports  0 stacks  2 views",
        "  1 Ports   2 Switches   3 Stacks   4 Views",
        "PORT                  KIND   VLANS      RX bit/s TX bit/s RX fr/s TX fr/s DROP/s",
        "dmz:a-very-long-name- tap    access 1          0        0       0       0      0",
        "lan:db.eth0           tap    access 1      2.00G    1.00G    250k    125k  2.50k",
        "lan:web.eth0          tap    access 1      8.00M    4.00M   1.00k     500     10",
    ];
    assert_eq!(lines[..6], expected);
    assert_eq!(lines[23], KEYS.trim_end());
    assert!(lines[6..23].iter().all(String::is_empty));
}

#[test]
fn sorted_filtered_and_paused() {
    let mut state = State::default();
    press(&mut state, "sss");
    assert!(lines(&mut state, 80, 24)[3].starts_with("lan:db.eth0"), "the most is first");
    press(&mut state, "r");
    assert!(lines(&mut state, 80, 24)[3].starts_with("dmz:"));
    press(&mut state, "/web\np");
    let shown = lines(&mut state, 80, 24);
    assert!(shown[1].ends_with("paused  filter: web"), "{}", shown[1]);
    assert!(shown[3].starts_with("lan:web.eth0") && shown[4].is_empty());
    press(&mut state, "/x\n");
    assert_eq!(lines(&mut state, 80, 24)[3], " nothing has the filter's text");
}

#[test]
fn the_other_tabs() {
    let mut state = State::default();
    press(&mut state, "2");
    let shown = lines(&mut state, 80, 24);
    assert!(shown[2].starts_with("SWITCH") && shown[2].ends_with("MOVE/s"), "{}", shown[2]);
    assert!(
        shown[4].starts_with("lan") && shown[4].contains("1h1m") && shown[4].contains("2.01G"),
        "{}",
        shown[4]
    );
    press(&mut state, "3");
    assert_eq!(lines(&mut state, 80, 24)[3], " no stacks");
    press(&mut state, "4");
    let shown = lines(&mut state, 80, 24);
    assert!(
        shown[3].starts_with("run-100") && shown[3].contains("50.0") && shown[3].ends_with("nginx"),
        "{}",
        shown[3]
    );
    press(&mut state, "?");
    assert!(lines(&mut state, 80, 24).iter().any(|line| line.contains(" keys ")));
}

#[test]
fn any_size_is_drawn() {
    for (width, height) in [(200, 60), (40, 10), (20, 4), (3, 2), (1, 1)] {
        for keys in ["", "2", "3", "4", "?"] {
            let mut state = State::default();
            press(&mut state, keys);
            lines(&mut state, width, height);
        }
    }
    let mut state = State::default();
    state.handle_key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
    let shown = lines(&mut state, 80, 6);
    assert!(shown[4].starts_with("lan:web.eth0"), "scrolled to the end: {shown:?}");
}
