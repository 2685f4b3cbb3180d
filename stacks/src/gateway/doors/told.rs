//! What is said of doors: which there are, and why one cannot be had.

use std::net::{IpAddr, SocketAddr};

use msocket_proto::line::Refusal;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Door, Doors, target};
use crate::gateway::holder;
use crate::gateway::publish::{MAX_PORTS, Transport};

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The stack that it leads to.
    pub stack: String,
    /// TCP or UDP.
    pub transport: Transport,
    /// The host's address and port.
    pub listen: SocketAddr,
    /// The stack's address and port.
    pub inside: SocketAddr,
    /// Because a program listens there.
    pub auto: bool,
    /// Connections that came in, or clients whose datagrams did.
    pub clients: u64,
    /// Why it is not open; absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A stack whose listeners' ports are published as they come and go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Its name.
    pub stack: String,
    /// The host's address; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

impl Doors {
    /// Whose ports are published as they come and go.
    pub(in crate::gateway) fn watched(&self) -> Vec<Watched> {
        let watched = self.publications.values().filter_map(|it| {
            let address = it.auto.as_ref()?.address();
            Some(Watched { stack: it.inside.stack.clone(), address })
        });
        watched.collect()
    }

    /// What is published.
    pub(in crate::gateway) fn published(&self) -> Vec<Published> {
        let open = self.doors.iter().flatten().filter_map(|door| {
            let inside = &self.publications.get(&door.publication)?.inside;
            Some(Published {
                stack: inside.stack.clone(),
                transport: door.transport,
                listen: door.listen,
                inside: SocketAddr::new(target(inside, door.listen.is_ipv4())?, door.port),
                auto: door.auto,
                clients: door.clients,
                failure: None,
            })
        });
        let failed = self.publications.values().flat_map(|it| {
            it.auto.iter().flat_map(|auto| auto.failures()).filter_map(|(listen, why)| {
                Some(Published {
                    stack: it.inside.stack.clone(),
                    transport: Transport::Tcp,
                    listen,
                    inside: SocketAddr::new(target(&it.inside, listen.is_ipv4())?, listen.port()),
                    auto: true,
                    clients: 0,
                    failure: Some(why.to_owned()),
                })
            })
        });
        open.chain(failed).collect()
    }

    /// Why a port is not published. `look`: also for who has it.
    pub(super) fn refusal(
        &self,
        what: String,
        transport: Transport,
        listen: SocketAddr,
        errno: Errno,
        look: bool,
    ) -> Refusal {
        let (why, hint) = match errno {
            Errno::EADDRINUSE => {
                let meets = |door: &&Door| {
                    let (a, b) = (door.listen, listen);
                    let ips = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
                    door.transport == transport && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && ips
                };
                let ours = self.doors.iter().flatten().find(meets).and_then(|door| {
                    self.publications
                        .get(&door.publication)
                        .map(|it| format!("it is published for {}", it.inside.stack))
                });
                let found = || if look { holder::of(transport, listen) } else { None };
                let why = ours.or_else(|| found().map(|who| format!("{who} has it")));
                (
                    why.unwrap_or_else(|| "another program has it".into()),
                    "take another port of the host".into(),
                )
            }
            Errno::EACCES => (
                "ports below 1024 are root's".into(),
                format!(
                    "take another port, or have an administrator set the sysctl net.ipv4.ip_unprivileged_port_start={}",
                    listen.port()
                ),
            ),
            Errno::EADDRNOTAVAIL => {
                (format!("the host has no address {}", listen.ip()), "`ip addr` shows those it has".into())
            }
            Errno::ENOSPC => (
                format!("there are more than {MAX_PORTS} published ports"),
                "`viewnet publish ls` shows them, `viewnet publish rm` ends some".into(),
            ),
            errno => return Refusal::system(what, errno),
        };
        Refusal::new(what, why).hint(hint).errno(errno as i32)
    }
}
