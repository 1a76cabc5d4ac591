//! Who is compared: raw TCP, this crate, Redis, and the maps of Apache Tribes on Debian's jar.

use std::env;
use std::process::Command;

use crate::node::{Node, Problem, free_port};
use crate::{java, redis_side};

/// One column of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Raw,
    Ours,
    Redis,
    /// What is under Tomcat's `BackupManager`.
    Lazy,
    /// What is under Tomcat's `ReplicatedContext`.
    Replicated,
}

impl Side {
    pub(crate) const ALL: [Self; 5] = [Self::Raw, Self::Ours, Self::Redis, Self::Lazy, Self::Replicated];
    /// Those that ours is divided by.
    pub(crate) const COMPARED: [Self; 4] = [Self::Raw, Self::Redis, Self::Lazy, Self::Replicated];

    /// The word by which the harness calls itself, or the Java program, as a node of this side.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Ours => "ours",
            Self::Redis => "redis",
            Self::Lazy => "lazy",
            Self::Replicated => "replicated",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw TCP",
            Self::Ours => "ours",
            Self::Redis => "Redis",
            Self::Lazy => "LazyReplicatedMap",
            Self::Replicated => "ReplicatedMap",
        }
    }
}

/// Starts nodes.
pub(crate) struct Launcher {
    classpath: Option<String>,
    redis: bool,
    busy_poll: bool,
}

impl Launcher {
    pub(crate) fn new(java: bool, redis: bool, busy_poll: bool) -> Self {
        let classpath = match java.then(|| java::compile("MapsBench")) {
            None => None,
            Some(Ok(classpath)) => Some(classpath),
            Some(Err(problem)) => {
                eprintln!("SKIPPED, the maps of Tribes: {problem}");
                None
            }
        };
        let installed = redis && redis_side::version().is_some();
        if redis && !installed {
            eprintln!("SKIPPED, Redis: there is no redis-server; Debian's package of this name holds it");
        }
        Self { classpath, redis: installed, busy_poll }
    }

    pub(crate) fn has(&self, side: Side) -> bool {
        match side {
            Side::Raw | Side::Ours => true,
            Side::Redis => self.redis,
            Side::Lazy | Side::Replicated => self.classpath.is_some(),
        }
    }

    /// A node that listens at a free port.
    pub(crate) fn start(&self, side: Side, role: &str, number: usize, flags: &[String]) -> Result<Node, Problem> {
        let (mut command, port) = match (side, &self.classpath) {
            (Side::Lazy | Side::Replicated, Some(classpath)) => {
                let mut command = Command::new("java");
                command.args(["-Xmx2g", "-cp", classpath, "MapsBench", side.word()]);
                // Tribes would advertise port 0.
                (command, free_port()?)
            }
            (Side::Lazy | Side::Replicated, None) => return Err("Tribes is not installed".into()),
            (Side::Raw | Side::Ours | Side::Redis, _) => {
                let mut command = Command::new(env::current_exe()?);
                command.args(["node", side.word(), role]);
                (command, 0)
            }
        };
        command.args(["--listen", &format!("127.0.0.1:{port}")]).args(flags);
        if side == Side::Ours && !self.busy_poll {
            command.arg("--no-busy-poll");
        }
        let name = format!("{} {role} {number}", side.title());
        Node::spawn(name.clone(), &mut command).map_err(|problem| format!("{name}: {problem}").into())
    }
}
