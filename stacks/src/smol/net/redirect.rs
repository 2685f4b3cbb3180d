//! Redirects that arrived (RFC 1122 clause 3.2.2.2, RFC 4861 clause 8.3): a router names a better one.
//!
//! # Theory of operation
//! Believed only by hosts (accept_redirects is off for routers), only from the router in use for the
//! destination, only for a neighbour on the same link, and only about a packet of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use super::icmp::is_one_host;
use super::icmp_error::control;
use super::neighbours::Heard;
use super::routes::Hop;
use super::{Delivery, Net, Packet, Path, Wish};
use crate::config::Mac;
use crate::smol::tables::{IfIndex, Nud, RouteKind};

impl Net {
    /// ip_do_redirect.
    pub(super) fn redirected_v4<'f>(&mut self, now: Instant, packet: Packet<'f>) -> Delivery<'f> {
        if let (Some(gateway), Some(quoted)) = (packet.payload.get(4..8), packet.payload.get(8..)) {
            let gateway = IpAddr::V4(Ipv4Addr::new(gateway[0], gateway[1], gateway[2], gateway[3]));
            if let Some(destination) = self.quoted_destination(quoted).filter(IpAddr::is_ipv4) {
                self.redirect(now, &packet, destination, gateway);
            }
        }
        Delivery::Packet(packet)
    }

    /// rt6_do_redirect. `way`: destination, and who is nearer to it.
    pub(super) fn redirected_v6(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        (destination, target): (Ipv6Addr, Ipv6Addr),
        mac: Option<Mac>,
        quoted: Option<&[u8]>,
    ) {
        let from_router = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
        let on_link = target == destination;
        if !from_router || !is_one_host(destination) || !(on_link || target.is_unicast_link_local()) {
            return;
        }
        let ours = quoted.and_then(|quoted| self.quoted_destination(quoted));
        if ours != Some(IpAddr::V6(destination)) {
            return;
        }
        if self.redirect(now, packet, IpAddr::V6(destination), IpAddr::V6(target)) {
            let heard = Heard {
                mac,
                state: Nud::Stale,
                replace: true,
                doubt: true,
                create: true,
                router: (!on_link).then_some(true),
            };
            self.heard(now, packet.link, IpAddr::V6(target), &heard);
        }
    }

    /// Tells a sender on the link that `path` leads back to it (ip_rt_send_redirect, ndisc_send_redirect).
    pub(super) fn send_redirect(&mut self, now: Instant, packet: &Packet<'_>, path: &Path) {
        if !self.is_neighbour(packet.link, packet.source) || !self.rations.allow(now, packet.source, false) {
            return;
        }
        match (packet.destination, path.next_hop) {
            (IpAddr::V4(_), IpAddr::V4(gateway)) => {
                let wish = Wish { link: Some(packet.link), ..Wish::default() };
                let Ok(back) = self.route(packet.source, &wish) else { return };
                let [a, b, c, d] = gateway.octets();
                let head = [5, 1, 0, 0, a, b, c, d];
                let payload = &packet.payload[..packet.payload.len().min(8)];
                let datagram = control(packet.source);
                let _ = self.send(now, &back, &datagram, &[&head, &packet.header, payload]);
            }
            (IpAddr::V6(destination), IpAddr::V6(target)) => {
                if target != destination && !target.is_unicast_link_local() {
                    return;
                }
                self.send_redirect_v6(now, packet, destination, target);
            }
            _ => {}
        }
    }

    fn send_redirect_v6(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        destination: Ipv6Addr,
        target: Ipv6Addr,
    ) {
        let (Some(own), IpAddr::V6(to)) = (self.link_local(packet.link), packet.source) else { return };
        let mut message = vec![137, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message.extend(destination.octets());
        let known = self.tables.neighbours.get(&(packet.link, IpAddr::V6(target)));
        if let Some(mac) = known.and_then(|neighbour| neighbour.mac) {
            message.extend([2, 1]);
            message.extend(mac.0);
        }
        // What fits the smallest MTU, in units of eight bytes.
        let quoted = [&*packet.header, &*packet.payload].concat();
        let room = (1280 - 40 - message.len() - 8) & !7;
        let len = quoted.len().min(room) & !7;
        message.extend([4, (len / 8 + 1) as u8, 0, 0, 0, 0, 0, 0]);
        message.extend(&quoted[..len]);
        self.send_control_v6(now, packet.link, None, (own, to), 255, &[], &mut message);
    }

    fn redirect(&mut self, now: Instant, packet: &Packet<'_>, destination: IpAddr, to: IpAddr) -> bool {
        if self.tables.forwarding || packet.mac.is_none() {
            return false;
        }
        let wish = Wish { link: Some(packet.link), ..Wish::default() };
        let Ok(path) = self.route(destination, &wish) else { return false };
        let in_use = path.link == packet.link && path.next_hop == packet.source && !path.local;
        if !in_use || path.next_hop == to || !self.is_neighbour(packet.link, to) {
            return false;
        }
        self.set_gateway(now, destination, packet.link, to);
        true
    }

    /// Is the address another's, and on this link?
    fn is_neighbour(&self, link: IfIndex, address: IpAddr) -> bool {
        if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
            return self.index().owned(address).is_empty();
        }
        let index = self.index();
        let here = |hop: &Hop| hop.link == Some(link) && hop.gateway.is_none();
        // A host that a router redirects to directly need not be on a prefix of ours in IPv6.
        let on_link = index.find(address, here).map(|(hop, _)| hop.kind);
        on_link.map_or_else(|| address.is_ipv6(), |kind| kind == RouteKind::Unicast)
    }
}
