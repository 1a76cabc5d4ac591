//! What the tool prints, for a person or as JSON lines for a program.

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufWriter, Write};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tribes::stack::{Departure, Event};
use tribes::{ChannelStats, Fault, Member, Message, SendError, SendOptions, UniqueId};

use crate::json::Json;

/// Prints from any thread, in the order of the calls.
pub(crate) struct Report {
    json: bool,
    start: Instant,
    lines: SyncSender<Option<String>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    received: Mutex<Received>,
}

/// What came in, in a form that two ends can compare.
#[derive(Default)]
struct Received {
    messages: u64,
    bytes: u64,
    crc_xor: u32,
    ids: HashSet<UniqueId>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        let (lines, incoming) = mpsc::sync_channel::<Option<String>>(4096);
        // Thousands of lines a second go out in few writes, and a single one at once: flush when there is nothing more to write.
        let writer = std::thread::spawn(move || {
            let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            let mut next = incoming.recv().ok();
            while let Some(Some(line)) = next {
                let written = writeln!(out, "{line}");
                next = incoming.try_recv().ok();
                if next.is_none() {
                    if written.and_then(|()| out.flush()).is_err() {
                        std::process::exit(2); // nobody reads us any more
                    }
                    next = incoming.recv().ok();
                }
            }
            let _ = out.flush();
        });
        Self { json, start: now(), lines, writer: Mutex::new(Some(writer)), received: Mutex::default() }
    }

    pub(crate) fn started(&self, local: &Member) {
        self.print(
            || member(Json::event("started"), local),
            || format!("listening as {}; type `members`, `send OPTIONS TEXT` or `quit` (--help says more)", describe(local)),
        );
    }

    pub(crate) fn stopped(&self) {
        self.print(|| Json::event("stopped"), || "left the group".to_owned());
    }

    pub(crate) fn membership(&self, event: &Event) {
        match event {
            Event::Added(new) => {
                self.print(|| member(Json::event("member_added"), new), || format!("+ joined  {}", describe(new)))
            }
            Event::Updated(changed) => {
                self.print(|| member(Json::event("member_updated"), changed), || format!("~ changed {}", describe(changed)))
            }
            Event::Removed(gone, departure) => {
                self.print(
                    || member(Json::event("member_removed"), gone).text("departure", how(*departure)),
                    || format!("- {:7} {}", how(*departure), describe(gone)),
                );
            }
            _ => {}
        }
    }

    pub(crate) fn members<'a>(&self, members: impl Iterator<Item = &'a Member> + Clone) {
        self.print(
            || Json::event("members").list("members", members.clone().map(|there| member(Json::new(), there))),
            || {
                let lines: Vec<_> = members.clone().map(|there| format!("\n            {}", describe(there))).collect();
                format!("{} other members{}", lines.len(), lines.concat())
            },
        );
    }

    /// A message came in. Fails when its text begins with `fail_on`.
    pub(crate) fn message(&self, message: &Message, fail_on: Option<&str>) -> Result<(), &'static str> {
        let body = message.bytes();
        let crc32 = crc32fast::hash(&body);
        {
            let mut received = lock(&self.received);
            received.messages += 1;
            received.bytes += body.len() as u64;
            received.crc_xor ^= crc32;
            received.ids.insert(message.id());
        }
        let text = (body.len() <= 200).then(|| std::str::from_utf8(&body).ok()).flatten();
        let text = text.filter(|text| !text.chars().any(char::is_control));
        let fails = fail_on.is_some_and(|prefix| text.is_some_and(|text| text.starts_with(prefix)));
        self.print(
            || {
                let mut line = Json::event("message").value("from", member(Json::new(), message.sender()).end());
                line = line.value("options", message.options().bits()).text("id", message.id());
                line = line.value("len", body.len()).text("crc32", format_args!("{crc32:08x}"));
                if let Some(text) = text {
                    line = line.text("text", text);
                }
                if fails { line.value("threw", true) } else { line }
            },
            || {
                let shown = text.map_or_else(|| format!("{} bytes, crc32 {crc32:08x}", body.len()), |text| format!("{text:?}"));
                let failed = if fails { ", and failed on it" } else { "" };
                format!("> {} sent {shown} [{}]{failed}", message.sender().address(), message.options())
            },
        );
        if fails { Err("told to fail on such a message") } else { Ok(()) }
    }

    /// All of one or more messages with these options arrived, as far as the options ask.
    pub(crate) fn sent(&self, options: SendOptions, id: UniqueId, destinations: usize, took: Duration) {
        self.print(
            || {
                let line = Json::event("sent").value("options", options.bits()).value("count", 1).value("ms", took.as_millis());
                line.value("destinations", destinations).text("id", id)
            },
            || match destinations {
                0 => "  nobody is there to send to".to_owned(),
                _ => format!("  sent to {destinations} in {took:.1?}"),
            },
        );
    }

    pub(crate) fn failed(&self, options: SendOptions, error: &SendError) {
        self.print(
            || {
                let line = Json::event("failed").value("options", options.bits()).list("faulty", faulty(&error.faults));
                line.text("error", error).text("id", error.id)
            },
            || format!("! {error}"),
        );
    }

    /// The end of a blast: how many of `count` messages failed, and why the first of them did.
    pub(crate) fn blasted(&self, sum: &Blasted) {
        let Blasted { options, count, failed, destinations, took, first } = sum;
        self.print(
            || {
                let line = Json::event("sent").value("options", options.bits()).value("count", count).value("failed", failed);
                let line = line.value("ms", took.as_millis()).value("destinations", destinations);
                match first {
                    Some(error) => line.text("error", error).list("faulty", faulty(&error.faults)),
                    None => line,
                }
            },
            || {
                let rate = *count as f64 / took.as_secs_f64();
                let why = first.as_ref().map(|error| format!(", the first because {error}")).unwrap_or_default();
                format!("  sent {count} to {destinations} in {took:.1?} ({rate:.0}/s); {failed} failed{why}")
            },
        );
    }

    pub(crate) fn stats(&self, stats: &ChannelStats) {
        let received = lock(&self.received);
        let Received { messages, bytes, crc_xor, ids } = &*received;
        self.print(
            || {
                let line = Json::event("stats").value("received", messages).value("bytes", bytes);
                let line = line.text("crc_xor", format_args!("{crc_xor:08x}")).value("distinct", ids.len());
                line.value("channel", channel(stats).end())
            },
            || format!("received {messages} messages ({} distinct), {bytes} bytes\n{stats:#?}", ids.len()),
        );
    }

    pub(crate) fn error(&self, error: &dyn Error) {
        self.print(|| Json::event("error").text("error", error), || format!("! {error}"));
    }

    /// Writes what is left. Nothing is printed afterwards.
    pub(crate) fn finish(&self) {
        let _ = self.lines.send(None);
        let writer = lock(&self.writer).take();
        writer.map(JoinHandle::join);
    }

    fn print(&self, json: impl FnOnce() -> Json, plain: impl FnOnce() -> String) {
        let line = if self.json { json().end() } else { format!("{:9.3} s {}", self.start.elapsed().as_secs_f64(), plain()) };
        let _ = self.lines.send(Some(line));
    }
}

/// The end of a blast.
pub(crate) struct Blasted {
    pub(crate) options: SendOptions,
    pub(crate) count: u64,
    pub(crate) failed: u64,
    pub(crate) destinations: usize,
    pub(crate) took: Duration,
    pub(crate) first: Option<SendError>,
}

fn member(line: Json, member: &Member) -> Json {
    let line = line.text("host", member.address().ip()).value("port", member.address().port()).text("id", member.id());
    let line = line.text("domain", from_latin(member.domain())).text("payload", from_latin(member.payload()));
    line.value("udp_port", member.udp_address().map_or(-1, |address| i32::from(address.port())))
}

fn channel(stats: &ChannelStats) -> Json {
    let ChannelStats { members, sent, received, delivered, duplicates, rejected, sender, receiver, .. } = stats;
    let line = Json::new().value("members", members).value("sent", sent).value("received", received);
    let line = line.value("delivered", delivered).value("duplicates", duplicates).value("rejected", rejected);
    let line = line.value("connections_out", sender.connections).value("resent", sender.resent).value("failed", sender.failed);
    let line = line.value("pending", sender.pending).value("connections_in", receiver.connections);
    line.value("refused", receiver.refused).value("limited", receiver.limited).value("malformed", receiver.malformed)
}

fn faulty(faults: &[Fault]) -> impl Iterator<Item = Json> {
    faults.iter().map(|Fault { member, cause, .. }| {
        let line = Json::new().text("host", member.address().ip()).value("port", member.address().port());
        line.text("id", member.id()).text("cause", cause)
    })
}

fn describe(member: &Member) -> String {
    let mut text = format!("{} ", member.address());
    for (name, value) in [("domain", member.domain()), ("payload", member.payload())] {
        if !value.is_empty() {
            text += &format!("{name} {:?} ", from_latin(value));
        }
    }
    if let Some(address) = member.udp_address() {
        text += &format!("udp {} ", address.port());
    }
    text + &format!("id {}", member.id())
}

fn how(departure: Departure) -> &'static str {
    match departure {
        Departure::Left => "left",
        Departure::Failed => "failed",
        Departure::Identified => "identified",
        _ => "gone",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[expect(clippy::disallowed_methods, reason = "a tool for a person, who sees how long things take")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
