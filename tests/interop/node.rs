//! A member in a process of its own, ours or Java's: lines in, JSON lines out.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take before the test fails. Generous: a loaded machine is no bug.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The jars of Debian's `libtomcat10-java`.
const JARS: [&str; 2] = ["/usr/share/java/tomcat10-tribes.jar", "/usr/share/java/tomcat10-juli.jar"];

/// Which implementation a node runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Java,
    Rust,
}

/// A multicast group, and ports, that no other test uses.
pub(crate) struct Network {
    group: u16,
    base: u16,
    started: Cell<u16>,
}

impl Network {
    pub(crate) fn new() -> Self {
        let group = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()).expect("a UDP port is free").port();
        // Below the range from which the system takes ports for outgoing connections, so that a port that died stays dead.
        let free = |base: &u16| (0..100).all(|offset| TcpListener::bind(("127.0.0.1", base + offset)).is_ok());
        let start = group % 200;
        let base = (0..200).map(|step| 10_000 + (start + step) % 200 * 100).find(free).expect("100 ports in a row are free");
        Self { group, base, started: Cell::new(0) }
    }

    /// Starts a node and waits until it says that it is there.
    pub(crate) fn start(&self, kind: Kind, flags: &[&str]) -> Node {
        let node = Node::spawn(kind, &self.flags(kind, flags));
        node.wait_from(0, |event| event["event"] == "started");
        node
    }

    fn flags(&self, kind: Kind, flags: &[&str]) -> Vec<String> {
        let group = format!("228.0.0.4:{}", self.group);
        let mut all: Vec<String> = ["--json", "--interface", "127.0.0.1", "--group", &group].map(str::to_owned).to_vec();
        if !flags.contains(&"--listen") {
            all.extend(["--listen".to_owned(), format!("127.0.0.1:{}", self.base)]);
        }
        // One each: Tribes shares a UDP port with whoever else has it, and one of them gets everything.
        let udp = self.base + 50 + self.started.get();
        self.started.set(self.started.get() + 1);
        all.extend(["--udp-port".to_owned(), udp.to_string()]);
        if !flags.contains(&"--timeout") {
            // Longer than either's default: 16 MiB take their time on a loaded machine.
            all.extend(["--timeout", "20000"].map(str::to_owned));
        }
        let fail_on = if kind == Kind::Java { "--throw-on" } else { "--fail-on" };
        all.extend([fail_on.to_owned(), "throw".to_owned()]);
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        all
    }
}

/// A running node. Killed when dropped; its last events are printed when the test fails.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    child: Child,
    /// Behind a lock, so that a test can talk to two nodes in turns.
    input: Mutex<Option<ChildStdin>>,
    events: Arc<Events>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Events {
    seen: Mutex<Seen>,
    news: Condvar,
}

#[derive(Default)]
struct Seen {
    all: Vec<Value>,
    ended: bool,
}

impl Node {
    fn spawn(kind: Kind, flags: &[String]) -> Self {
        let mut command = match kind {
            Kind::Java => java(),
            Kind::Rust => Command::new(example()),
        };
        let mut child = command
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let events = Arc::new(Events::default());
        let reader = std::thread::spawn({
            let events = Arc::clone(&events);
            move || events.read(BufReader::new(output))
        });
        Self { kind, child, input: Mutex::new(input), events, reader: Some(reader) }
    }

    /// Types a line.
    pub(crate) fn command(&self, line: &str) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let input = input.as_mut().expect("the node was not told to quit");
        writeln!(input, "{line}").and_then(|()| input.flush()).expect("the node reads");
    }

    /// Types a line and waits for an event that comes after it.
    pub(crate) fn ask(&self, line: &str, wanted: impl FnMut(&Value) -> bool) -> Value {
        let mark = self.mark();
        self.command(line);
        self.wait_from(mark, wanted)
    }

    /// Sends, and returns the `sent` or `failed` event that says how it went.
    pub(crate) fn send(&self, line: &str) -> Value {
        self.ask(line, |event| event["event"] == "sent" || event["event"] == "failed")
    }

    /// The events so far, as a place to wait from.
    pub(crate) fn mark(&self) -> usize {
        self.events.lock().all.len()
    }

    /// Waits for an event at or after a mark.
    pub(crate) fn wait_from(&self, mark: usize, wanted: impl FnMut(&Value) -> bool) -> Value {
        let found = self.find(mark, DEADLINE, wanted);
        found.unwrap_or_else(|| panic!("{:?} node: what was waited for did not come", self.kind))
    }

    /// Waits for an event at or after a mark that may never come.
    pub(crate) fn find(&self, mark: usize, time: Duration, mut wanted: impl FnMut(&Value) -> bool) -> Option<Value> {
        let deadline = now() + time;
        let mut next = mark;
        let mut seen = self.events.lock();
        loop {
            while let Some(event) = seen.all.get(next) {
                if wanted(event) {
                    return Some(event.clone());
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(now());
            if seen.ended || left.is_zero() {
                return None;
            }
            seen = self.events.news.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the node lists a member at this node's address with these properties.
    pub(crate) fn wait_for_member(&self, other: &Self, wanted: impl Fn(&Value) -> bool) -> Value {
        let (port, id) = (other.port(), other.id());
        self.poll(|node| {
            let members = node.ask("members", |event| event["event"] == "members");
            let found = members["members"].as_array().expect("a list").iter().find(|member| member["port"] == port).cloned();
            found.filter(|member| member["id"] == id.as_str() && wanted(member))
        })
    }

    /// Asks again until there is an answer.
    pub(crate) fn poll<T>(&self, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = now() + DEADLINE;
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(now() < deadline, "{:?} node: what was polled for did not come", self.kind);
            pause();
        }
    }

    /// Waits until the node says, after a mark, that the member at this port is gone.
    pub(crate) fn wait_for_departure(&self, mark: usize, port: &Value) -> Value {
        self.wait_from(mark, |event| event["event"] == "member_removed" && event["port"] == *port)
    }

    /// What the node has received: messages, distinct ids, bytes, and the checksums of all bodies combined.
    pub(crate) fn received(&self) -> Received {
        let stats = self.ask("stats", |event| event["event"] == "stats");
        Received {
            messages: stats["received"].as_u64().expect("a number"),
            distinct: stats["distinct"].as_u64().expect("a number"),
            bytes: stats["bytes"].as_u64().expect("a number"),
            crc_xor: u32::from_str_radix(stats["crc_xor"].as_str().expect("hex"), 16).expect("hex"),
        }
    }

    /// The texts of the messages after a mark.
    pub(crate) fn texts_since(&self, mark: usize) -> BTreeSet<String> {
        let seen = self.events.lock();
        seen.all[mark..].iter().filter_map(|event| event["text"].as_str().map(str::to_owned)).collect()
    }

    pub(crate) fn port(&self) -> Value {
        self.started()["port"].clone()
    }

    pub(crate) fn id(&self) -> String {
        self.started()["id"].as_str().expect("text").to_owned()
    }

    /// The address as on a command line.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub(crate) fn started(&self) -> Value {
        self.wait_from(0, |event| event["event"] == "started")
    }

    /// Tells the node to leave, and waits until its process has ended well.
    pub(crate) fn quit(mut self) {
        self.command("quit");
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wait_from(0, |event| event["event"] == "stopped");
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{:?} node ended with {status}", self.kind);
    }

    /// Kills the process, without any goodbye.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Stops the process where it stands; the system goes on accepting connections for it. Killed when dropped.
    pub(crate) fn freeze(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-STOP", &pid]).status().expect("`kill` is there");
        assert!(status.success());
        // Each of its threads may go on for a moment.
        let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|state| state.starts_with(" T"));
        let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        self.poll(|_| tasks().flat_map(|task| std::fs::read_to_string(task.path().join("stat"))).all(stopped).then_some(()));
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let seen = self.events.lock();
            eprintln!("--- {:?} node, process {}, its last events of {}:", self.kind, self.child.id(), seen.all.len());
            for event in &seen.all[seen.all.len().saturating_sub(12)..] {
                eprintln!("    {event}");
            }
        }
    }
}

impl Events {
    fn read(&self, output: impl BufRead) {
        for line in output.lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "event": "not JSON", "line": line }));
            self.lock().all.push(event);
            self.news.notify_all();
        }
        self.lock().ended = true;
        self.news.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a node has received.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Received {
    pub(crate) messages: u64,
    pub(crate) distinct: u64,
    pub(crate) bytes: u64,
    pub(crate) crc_xor: u32,
}

impl Received {
    /// With another blast of this size and number received whole, each message once.
    pub(crate) fn and_blast(self, size: usize, count: u64) -> Self {
        Self {
            messages: self.messages + count,
            distinct: self.distinct + count,
            bytes: self.bytes + count * size as u64,
            crc_xor: (0..count).fold(self.crc_xor, |all, sequence| all ^ crc32fast::hash(&blast_body(sequence, size))),
        }
    }
}

/// The body of one message of a blast, made here once more, independently of both nodes.
pub(crate) fn blast_body(sequence: u64, size: usize) -> Vec<u8> {
    let mut body = if size >= 8 { sequence.to_be_bytes().to_vec() } else { Vec::new() };
    let mut state = sequence + 1;
    while body.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_be_bytes();
        body.extend_from_slice(&word[..word.len().min(size - body.len())]);
    }
    body
}

/// Why the Java side cannot run here, if it cannot.
pub(crate) fn missing() -> Option<String> {
    if let Some(jar) = JARS.iter().find(|jar| !std::path::Path::new(jar).exists()) {
        return Some(format!("{jar} is missing (Debian: libtomcat10-java)"));
    }
    let there = |tool: &str| Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    ["javac", "java"]
        .into_iter()
        .find(|tool| !there(tool))
        .map(|tool| format!("{tool} is missing (Debian: openjdk-17-jdk-headless)"))
}

/// A Java virtual machine with our node, compiled once.
fn java() -> Command {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    let classes = CLASSES.get_or_init(|| {
        let classes = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("interop-java");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/java/TribesNode.java");
        let compiled = Command::new("javac").args(["-nowarn", "-cp", &JARS.join(":"), "-d"]).arg(&classes).arg(source).status();
        assert!(compiled.is_ok_and(|status| status.success()), "{source} does not compile");
        classes
    });
    let mut command = Command::new("java");
    // Little and simple: it lives for seconds, beside others.
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp"]);
    command.arg(format!("{}:{}", JARS.join(":"), classes.display())).arg("TribesNode");
    command
}

/// `examples/node`, which cargo builds before it runs the tests.
fn example() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let node = profile.join("examples").join("node");
    assert!(node.exists(), "{} is missing: run `cargo build --example node`", node.display());
    node
}

#[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "between two questions to another process, which cannot call back")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
