//! What the roles have in common: flags, the channel of ours, commands on standard input, answers on standard output.

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use tribes::{ChannelBuilder, GroupChannel};

use crate::node::Problem;

/// `--name value` pairs; a name may come several times, and may stand without a value.
pub(crate) struct Flags<'a>(pub(crate) &'a [String]);

impl Flags<'_> {
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.windows(2).filter(move |pair| pair[0] == name).map(|pair| pair[1].as_str())
    }

    pub(crate) fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str, standard: T) -> Result<T, Problem> {
        match self.one(name) {
            None => Ok(standard),
            Some(text) => text.parse().map_err(|_| format!("{name} {text} is no number").into()),
        }
    }
}

/// A channel over TCP, whose threads look before they sleep unless the flags say `--no-busy-poll`.
pub(crate) fn over_tcp(listen: SocketAddr, flags: &Flags<'_>) -> ChannelBuilder {
    let (mut receiver, mut sender) = (TcpReceiverConfig::default().bind(listen), TcpSenderConfig::default());
    if flags.has("--no-busy-poll") {
        (receiver, sender) = (receiver.busy_poll(Duration::ZERO), sender.busy_poll(Duration::ZERO));
    }
    GroupChannel::builder().receiver(TcpReceiver::new(receiver)).sender(TcpSender::new(sender))
}

/// Hands each command to `run`, until `quit` or the end of the input, which is the end of the harness.
pub(crate) fn commands(mut run: impl FnMut(&str) -> Result<(), Problem>) -> Result<(), Problem> {
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "quit" => break,
            command => run(command)?,
        }
    }
    Ok(())
}

/// Prints one flat JSON object. Values are printed as text unless they are numbers.
macro_rules! print_json {
    ({ $($key:literal: $value:expr),+ $(,)? }) => {{
        let fields = [$(format!("\"{}\":{}", $key, $crate::role::json(&$value.to_string()))),+];
        let mut out = std::io::stdout().lock();
        // Nobody listens any more: the end of the input will end this process.
        let _ = std::io::Write::write_all(&mut out, format!("{{{}}}\n", fields.join(",")).as_bytes());
        let _ = std::io::Write::flush(&mut out);
    }};
}
pub(crate) use print_json as print;

pub(crate) fn json(value: &str) -> String {
    let number = value.parse::<f64>().is_ok_and(f64::is_finite) && !value.starts_with("0x") && value.len() < 20;
    if number { value.to_owned() } else { format!("\"{}\"", value.replace(['"', '\\', '\n'], " ")) }
}

/// What one measured run of a source came to.
pub(crate) struct Round {
    elapsed: Duration,
    /// Nanoseconds of each send, sorted.
    times: Vec<u64>,
    failed: u64,
    error: String,
}

impl Round {
    pub(crate) fn new(elapsed: Duration, mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        Self { elapsed, times, failed: 0, error: String::new() }
    }

    pub(crate) fn with_failures(self, failed: u64, error: String) -> Self {
        Self { failed, error, ..self }
    }

    pub(crate) fn print(&self) {
        let at = |thousandths: usize| {
            let index = (self.times.len() * thousandths / 1000).min(self.times.len().saturating_sub(1));
            self.times.get(index).copied().unwrap_or_default()
        };
        let seconds = self.elapsed.as_secs_f64();
        print!({
            "event": "round", "count": self.times.len(), "seconds": seconds,
            "p50_ns": at(500), "p99_ns": at(990), "p999_ns": at(999), "max_ns": at(1000),
            "failed": self.failed, "error": self.error,
        });
    }
}
