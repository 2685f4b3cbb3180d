//! Tunnels as text, in the words of wg(8).

use stacks::wg::serve::Description;
use stacks::wg::tunnel::PeerInfo;

use crate::exit::Failure;
use crate::tables::{print, table};

/// One line each.
pub(super) fn list(tunnels: &[Description]) -> Result<(), Failure> {
    let rows = tunnels.iter().map(|it| {
        let newest = it.peers.iter().filter_map(|peer| peer.handshake_s).min();
        let (received, sent) =
            it.peers.iter().fold((0, 0), |(rx, tx), peer| (rx + peer.received, tx + peer.sent));
        [
            name(it),
            it.plugged.clone().unwrap_or_else(|| "-".into()),
            it.peers.len().to_string(),
            newest.map_or_else(|| "never".into(), ago),
            bytes(received),
            bytes(sent),
            it.file.clone(),
        ]
    });
    print(&table(["NAME", "USED BY", "PEERS", "HANDSHAKE", "RECEIVED", "SENT", "FILE"], rows))
}

/// As `wg show`.
pub(super) fn show(tunnels: &[Description]) -> Result<(), Failure> {
    let texts: Vec<String> = tunnels.iter().map(one).collect();
    print(&texts.join("\n"))
}

fn one(it: &Description) -> String {
    let mut text = format!("interface: {}\n", name(it));
    let mut line = |what: &str, value: String| {
        if !value.is_empty() {
            text += &format!("  {what}: {value}\n");
        }
    };
    line("public key", it.public_key.to_text());
    line("private key", "(hidden)".into());
    line("listening port", it.listen_port.to_string());
    line("fwmark", if it.fwmark == 0 { String::new() } else { format!("{:#x}", it.fwmark) });
    line("addresses", joined(&it.addresses));
    line("nameservers", joined(&it.dns));
    line("mtu", it.mtu.to_string());
    line("used by", it.plugged.clone().unwrap_or_default());
    line("process", it.pid.to_string());
    line("file", it.file.clone());
    let dropped = &it.dropped;
    let reasons = [
        ("for nobody", dropped.no_peer),
        ("to an unknown endpoint", dropped.no_endpoint),
        ("not authentic", dropped.not_authentic),
        ("from addresses not allowed", dropped.not_allowed),
        ("malformed", dropped.malformed),
        ("without room", dropped.no_room),
    ];
    let reasons: Vec<String> =
        reasons.iter().filter(|(_, count)| *count > 0).map(|(why, n)| format!("{n} {why}")).collect();
    line("dropped", reasons.join(", "));
    it.peers.iter().for_each(|peer| text += &format!("\n{}", self::peer(peer)));
    text
}

fn peer(peer: &PeerInfo) -> String {
    let mut text = format!("peer: {}\n", peer.public_key.to_text());
    let mut line = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("  {what}: {value}\n");
        }
    };
    line("preshared key", peer.preshared.then(|| "(hidden)".into()));
    line("endpoint", peer.endpoint.map(|it| it.to_string()));
    let allowed = joined(&peer.allowed_ips).replace(' ', ", ");
    line("allowed ips", Some(if allowed.is_empty() { "(none)".into() } else { allowed }));
    line("latest handshake", peer.handshake_s.map(ago));
    let moved = (peer.received, peer.sent) != (0, 0);
    line("transfer", moved.then(|| format!("{} received, {} sent", bytes(peer.received), bytes(peer.sent))));
    line("persistent keepalive", peer.keepalive.map(|seconds| format!("every {}", spell(seconds.into()))));
    text
}

fn name(it: &Description) -> String {
    it.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn joined(of: &[impl ToString]) -> String {
    of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn ago(seconds: u64) -> String {
    if seconds == 0 { "now".into() } else { format!("{} ago", spell(seconds)) }
}

/// `1 hour, 2 minutes, 3 seconds`
fn spell(seconds: u64) -> String {
    let units = [("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, size) in units {
        let count = left / size;
        left %= size;
        if count > 0 {
            parts.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        }
    }
    parts.join(", ")
}

/// In KiB and so on, two digits behind the point.
fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.2} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_wg_spells_it() {
        assert_eq!(spell(93_784), "1 day, 2 hours, 3 minutes, 4 seconds");
        assert_eq!((ago(0), ago(61)), ("now".into(), "1 minute, 1 second ago".into()));
        assert_eq!(
            (bytes(1023), bytes(1536), bytes(5 << 30)),
            ("1023 B".into(), "1.50 KiB".into(), "5.00 GiB".into())
        );
    }
}
