//! Who is compared: raw TCP, this crate over its transports, and Apache Tribes on Debian's jar.

use std::env;
use std::process::Command;

use crate::java;
use crate::node::{Node, Problem, free_port};

/// One column of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Raw,
    Ours,
    Blocking,
    Tribes,
}

impl Side {
    pub(crate) const ALL: [Self; 4] = [Self::Raw, Self::Ours, Self::Blocking, Self::Tribes];
    /// Those that ours is divided by.
    pub(crate) const COMPARED: [Self; 2] = [Self::Raw, Self::Tribes];

    /// The word by which the harness calls itself as a node of this side.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ours => "ours",
            Self::Blocking => "blocking",
            Self::Tribes => "tribes",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw TCP",
            Self::Ours => "ours",
            Self::Blocking => "ours, blocking",
            Self::Tribes => "Tribes",
        }
    }
}

/// Starts nodes.
pub(crate) struct Launcher {
    classpath: Option<String>,
    pin: Pin,
    busy_poll: bool,
}

/// Which processors the nodes may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pin {
    Free,
    /// All on one processor: no thread ever wakes on another.
    Same,
    /// Sources on one, the rest on another.
    Split,
}

impl Launcher {
    pub(crate) fn new(java: bool, pin: Pin, busy_poll: bool) -> Self {
        let classpath = match java.then(|| java::compile("TribesBench")) {
            None => None,
            Some(Ok(classpath)) => Some(classpath),
            Some(Err(problem)) => {
                eprintln!("without Tribes: {problem}");
                None
            }
        };
        Self { classpath, pin, busy_poll }
    }

    pub(crate) fn has(&self, side: Side) -> bool {
        match side {
            Side::Raw | Side::Ours | Side::Blocking => true,
            Side::Tribes => self.classpath.is_some(),
        }
    }

    /// A node that listens at a free port.
    pub(crate) fn start(&self, side: Side, role: &str, number: usize, flags: &[String]) -> Result<Node, Problem> {
        let mut words = match (side, &self.classpath) {
            (Side::Tribes, Some(classpath)) => ["java", "-cp", classpath, "TribesBench", role].map(str::to_owned).to_vec(),
            (Side::Tribes, None) => return Err("Tribes is not installed".into()),
            _ => {
                let exe = env::current_exe()?.to_string_lossy().into_owned();
                vec![exe, "node".to_owned(), side.word().to_owned(), role.to_owned()]
            }
        };
        let processor = match self.pin {
            Pin::Free => None,
            Pin::Split if role == "source" => Some("1"),
            Pin::Same | Pin::Split => Some("0"),
        };
        if let Some(processor) = processor {
            words.splice(..0, ["taskset", "-c", processor].map(str::to_owned));
        }
        // Tribes would advertise port 0.
        words.extend(["--listen".to_owned(), format!("127.0.0.1:{}", if side == Side::Tribes { free_port()? } else { 0 })]);
        words.extend_from_slice(flags);
        if side == Side::Ours && !self.busy_poll {
            words.push("--no-busy-poll".to_owned());
        }
        let name = format!("{} {role} {number}", side.title());
        let (program, arguments) = words.split_first().expect("there is a program");
        Node::spawn(name.clone(), Command::new(program).args(arguments)).map_err(|problem| format!("{name}: {problem}").into())
    }
}
