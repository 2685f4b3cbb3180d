//! A program of a topology.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stacks::gateway::publish::Publish;

use crate::rules::Rules;

/// A program in a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// A stack of the file, the path of another, `host` or `none`; absent: one of its own, by a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stack: Option<String>,
    /// A file of wg-quick(8): its stack is its own, and goes through that tunnel, as `run --vpn` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vpn: Option<PathBuf>,
    /// The program and its arguments, or a line for the shell.
    pub(crate) command: CommandLine,
    /// Variables beside those that `up` has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) environment: BTreeMap<String, String>,
    /// Where it starts; absent: the folder of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    /// Whether it is started again when it ends.
    #[serde(default)]
    pub(crate) restart: Restart,
    /// Programs that must be started before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) after: Vec<String>,
    /// Rules of its view, as `run --rule` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<String>,
    /// Ports of the host that lead to it while it runs, as `run --publish` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) publish: Vec<Publish>,
}

impl Program {
    /// Where it runs, in words.
    pub(crate) fn place(&self) -> String {
        match (&self.stack, &self.vpn) {
            (Some(stack), _) => stack.clone(),
            (None, Some(file)) => format!("a stack of its own by {}", file.display()),
            (None, None) => "a stack of its own".to_owned(),
        }
    }

    /// Every stack that it uses, by name: its own, and those to which its rules lead.
    pub(crate) fn stacks(&self) -> Vec<String> {
        // They were read when the file was.
        let rules = Rules::try_from(self.rules.clone()).unwrap_or_default();
        self.stack.iter().chain(rules.stacks()).cloned().collect()
    }
}

/// Whether a program is started again when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restart {
    /// It is not.
    #[default]
    Never,
    /// If its status was not 0.
    OnFailure,
    /// Whatever its status.
    Always,
}

/// What is executed: never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandLine {
    /// A program and its arguments.
    Words(Vec<String>),
    /// A line for sh(1).
    Shell(String),
}

impl CommandLine {
    /// As execvp(3) takes it.
    pub(crate) fn words(&self) -> Vec<String> {
        match self {
            Self::Words(words) => words.clone(),
            Self::Shell(line) => vec!["sh".into(), "-c".into(), line.clone()],
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(&words.join(" ")),
            Self::Shell(line) => f.write_str(line),
        }
    }
}

impl Serialize for CommandLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Words(words) => words.serialize(serializer),
            Self::Shell(line) => line.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = CommandLine;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of a program and its arguments, or a line for the shell")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<CommandLine, E> {
                match line.trim() {
                    "" => Err(E::custom("the command is empty")),
                    line => Ok(CommandLine::Shell(line.to_owned())),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<CommandLine, A::Error> {
                let mut words: Vec<String> = Vec::new();
                while let Some(word) = seq.next_element()? {
                    words.push(word);
                }
                match words.first() {
                    Some(program) if !program.is_empty() => Ok(CommandLine::Words(words)),
                    _ => Err(de::Error::custom("the command is empty")),
                }
            }
        }
        deserializer.deserialize_any(Words)
    }
}
