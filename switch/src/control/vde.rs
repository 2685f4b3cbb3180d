//! Requests and answers about the numbers of ports, and the programs that speak VDE.

use serde::{Deserialize, Serialize};

use crate::vlan::PortVlans;

/// `vde_keep`: keeps a number for VDE's programs. What is absent stays; at first all users may have it, if they ask
/// for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VdeKeep {
    /// The number, from 1.
    pub number: u32,
    /// The VLAN rules of the port that is there, or of the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlans: Option<PortVlans>,
    /// May a program that asks for no number get it?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<bool>,
    /// Whose programs may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Owner>,
    /// Whose members' programs may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Owner>,
}

/// A user or a group by number, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", untagged)]
pub enum Owner {
    /// This one.
    Id(u32),
    /// It is not looked at.
    Any(Any),
}

/// The word `any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Any {
    /// The only one.
    Any,
}

impl Owner {
    /// The number, if one is meant.
    pub fn id(self) -> Option<u32> {
        match self {
            Self::Id(id) => Some(id),
            Self::Any(Any::Any) => None,
        }
    }
}

/// A number that is kept, or at which programs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdeInfo {
    /// The number.
    pub number: u32,
    /// The port that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Is it kept when they are gone?
    pub kept: bool,
    /// May a program that asks for no number get it?
    pub allocatable: bool,
    /// Whose programs may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Whose members' programs may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// VLAN rules.
    pub vlans: PortVlans,
    /// Whose programs are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_user: Option<u32>,
    /// The programs, by their numbers.
    pub endpoints: Vec<VdeEndpoint>,
}

/// A program at a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VdeEndpoint {
    /// Its number there, from 1.
    pub endpoint: u32,
    /// What it says of itself.
    pub peer: String,
}
