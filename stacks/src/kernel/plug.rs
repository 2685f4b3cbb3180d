//! Plugging an interface of a kernel stack into a switch.

use std::path::Path;

use msocket::line::Refusal;

use super::namespace::NetNamespace;
use crate::config::PortVlan;

/// A port of a switch that lasts as long as this value.
#[derive(Debug)]
pub(super) struct Plug {}

/// Makes interface `name` in `namespace`, where this process is, and plugs it in.
pub(super) fn plug(
    _namespace: &NetNamespace,
    _stack: &str,
    _name: &str,
    _path: &Path,
    switch: &str,
    _vlan: &PortVlan,
) -> Result<Plug, Refusal> {
    Err(Refusal::new(format!("cannot plug into {switch}"), "soon"))
}
