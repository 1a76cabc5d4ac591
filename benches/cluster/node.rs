//! A node of the benchmark: a child process that takes commands on its standard input and prints one flat JSON object a line.
//!
//! Raw TCP, this crate and Tribes speak the same commands and answers (see `benches/java/TribesBench.java`), so that a case is
//! written once. What a node costs is read from `/proc` by the harness, for all of them alike.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Why a case could not be measured.
pub(crate) type Problem = Box<dyn std::error::Error>;

/// One child process. It is killed, by its own process id, when it is dropped.
pub(crate) struct Node {
    name: String,
    child: Child,
    commands: ChildStdin,
    lines: Receiver<Line>,
}

impl Node {
    pub(crate) fn spawn(name: String, command: &mut Command) -> Result<Self, Problem> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(Line(line))));
        Ok(Self { name, child, commands, lines })
    }

    /// Writes a command.
    pub(crate) fn tell(&mut self, command: &str) -> Result<(), Problem> {
        writeln!(self.commands, "{command}").map_err(|error| format!("{} takes no commands: {error}", self.name).into())
    }

    /// Waits for a line of this event; others are skipped.
    pub(crate) fn expect(&self, event: &str, within: Duration) -> Result<Line, Problem> {
        let start = now();
        loop {
            match self.lines.recv_timeout(within.saturating_sub(start.elapsed())) {
                Ok(line) if line.text("event") == Some(event) => return Ok(line),
                Ok(line) if line.text("event").is_none() => eprintln!("{}: {}", self.name, line.0),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{} did not report {event:?} within {within:?}", self.name).into());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("{} ended before {event:?}", self.name).into()),
            }
        }
    }

    /// Writes a command and waits for its answer.
    pub(crate) fn ask(&mut self, command: &str, event: &str, within: Duration) -> Result<Line, Problem> {
        self.tell(command)?;
        self.expect(event, within)
    }

    /// What the process has cost until now.
    pub(crate) fn usage(&self) -> Result<Usage, Problem> {
        Usage::of(self.child.id())
    }

    /// Kills the process with signal 9, so that it cannot say goodbye.
    pub(crate) fn kill(&mut self) -> Result<(), Problem> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A flat JSON object whose strings hold no escapes: all that the nodes print.
pub(crate) struct Line(String);

impl Line {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let quoted = format!("\"{key}\":");
        let rest = &self.0[self.0.find(&quoted)? + quoted.len()..];
        match rest.strip_prefix('"') {
            Some(text) => text.split('"').next(),
            None => rest.split([',', '}']).next(),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, Problem> {
        let text = self.text(key).ok_or_else(|| format!("no {key:?} in {}", self.0))?;
        text.parse().map_err(|_| format!("{key:?} is no number in {}", self.0).into())
    }
}

/// What a process costs, from `/proc`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User and system time together. Its unit is the tick of 10 ms.
    pub(crate) cpu: f64,
    /// The same of the threads that live now, in nanoseconds where the kernel keeps such statistics; for idle processes.
    pub(crate) fine_cpu: f64,
    pub(crate) resident_mib: f64,
    pub(crate) threads: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self, Problem> {
        const TICKS_A_SECOND: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the command's name in parentheses, and may hold anything.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        let cpu = (ticks(11) + ticks(12)) / TICKS_A_SECOND;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
        };
        Ok(Self {
            cpu,
            fine_cpu: scheduled(pid).unwrap_or(cpu),
            resident_mib: field("VmRSS") / 1024.0,
            threads: field("Threads"),
        })
    }
}

/// The seconds that the living threads of a process have run.
fn scheduled(pid: u32) -> Option<f64> {
    let mut nanos = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanos += text.split_whitespace().next()?.parse::<f64>().ok()?;
    }
    Some(nanos / 1e9)
}

/// A TCP port that was free a moment ago, for nodes that cannot be told to take any.
pub(crate) fn free_port() -> Result<u16, Problem> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A UDP port that was free a moment ago, for a multicast group of our own.
pub(crate) fn free_udp_port() -> Result<u16, Problem> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970: the clock that several processes share.
#[expect(clippy::disallowed_methods, reason = "events of several processes are compared")]
pub(crate) fn epoch_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

#[expect(clippy::disallowed_methods, reason = "between two looks at another process, or while an idle one is watched")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
