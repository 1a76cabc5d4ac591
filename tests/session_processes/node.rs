//! A member in a process of its own, as its test sees it: commands in, answers out, and what its load reports in a ledger.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::member;

/// How long anything may take before the test fails. Generous: a loaded machine is no bug.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// How often a member is started on another port, should it not start.
const STARTS: usize = 3;

/// How a group of members is set up.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// What `Manager::start` knows.
    pub(crate) manager: String,
    multicast_port: u16,
    /// Where each member listens, by its number.
    ports: Arc<Mutex<HashMap<u16, u16>>>,
    /// What runs before the program: nothing, or the way into a network namespace.
    prefix: Vec<String>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Group {
    /// A group at a multicast port that no other test uses.
    pub(crate) fn new(manager: &str) -> Self {
        let multicast_port =
            UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()).expect("a UDP port is free").port();
        Self { manager: manager.to_owned(), multicast_port, ports: Arc::default(), prefix: Vec::new(), ledger: Arc::default() }
    }

    /// The same group, seen from a network namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        let prefix = ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec();
        Self { prefix, ..self.clone() }
    }

    /// Starts the member of this number, always at the same port, and waits until it listens.
    pub(crate) fn start(&self, number: u16) -> Node {
        self.start_at(number, "127.0.0.1")
    }

    pub(crate) fn start_at(&self, number: u16, host: &str) -> Node {
        self.begin_at(number, host).listening(|| self.begin_again_at(number, host))
    }

    /// Starts these members at the same moment, and waits until they listen.
    pub(crate) fn start_together(&self, numbers: impl IntoIterator<Item = u16>) -> Vec<Node> {
        let host = "127.0.0.1";
        let begun: Vec<_> = numbers.into_iter().map(|number| self.begin_at(number, host)).collect();
        begun
            .into_iter()
            .map(|node| {
                let number = node.number;
                node.listening(|| self.begin_again_at(number, host))
            })
            .collect()
    }

    /// Starts members 0, 1, … together and waits until all are ready.
    pub(crate) fn start_all(&self, members: u16) -> Vec<Node> {
        let nodes = self.start_together(0..members);
        nodes.iter().for_each(Node::wait_ready);
        meet(&nodes.iter().collect::<Vec<_>>());
        nodes
    }

    fn begin_at(&self, number: u16, host: &str) -> Node {
        let port = *self.ports.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_insert_with(free_port);
        let plan = format!("{} {host}:{port} 228.0.0.4:{} {host}", self.manager, self.multicast_port);
        Node::spawn(number, &plan, &self.prefix, &self.ledger)
    }

    /// Somebody else has taken the port meanwhile.
    fn begin_again_at(&self, number: u16, host: &str) -> Node {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.begin_at(number, host)
    }
}

/// A port that is free now. It is below the range from which the system takes ports for outgoing connections: when its process dies it
/// stays free, but for other tests.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // A hundred for each test process: who still looks for a member that has died must not find one of another group at its port.
    let start = u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    let next = || 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    (0..10_000).map(|_| next()).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a port is free")
}

/// Waits until each of these has all the others, and no more, as participants.
pub(crate) fn meet(nodes: &[&Node]) {
    for node in nodes {
        node.poll("the members meet", || (node.ask("members") == (nodes.len() - 1).to_string()).then_some(()));
    }
}

/// A running member. Killed when dropped.
pub(crate) struct Node {
    pub(crate) number: u16,
    /// The id of this process as a member: one that is started again has another.
    pub(crate) process: String,
    child: Child,
    input: Mutex<Option<ChildStdin>>,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    answers: Mutex<Answers>,
    news: Condvar,
}

#[derive(Default)]
struct Answers {
    next: u64,
    given: HashMap<String, String>,
    ended: bool,
}

impl Node {
    fn spawn(number: u16, plan: &str, prefix: &[String], ledger: &Arc<Ledger>) -> Self {
        let program = std::env::current_exe().expect("the test has a path");
        let mut command = match prefix {
            [] => Command::new(program),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let mut child = command
            .args(["--exact", "member_process", "--ignored", "--nocapture", "--quiet"])
            .env(member::PLAN, plan)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let heard = Arc::new(Heard::default());
        let reader = std::thread::spawn({
            let (heard, ledger) = (Arc::clone(&heard), Arc::clone(ledger));
            move || heard.read(number, BufReader::new(output), &ledger)
        });
        Self { number, process: String::new(), child, input: Mutex::new(input), heard, reader: Some(reader) }
    }

    /// Waits until it listens. When it cannot, for its port is not free any more, another one is started.
    fn listening(mut self, mut again: impl FnMut() -> Self) -> Self {
        for _ in 0..STARTS {
            match self.try_ask("hello") {
                Some(process) => {
                    self.process = process;
                    return self;
                }
                None => self = again(),
            }
        }
        panic!("{self:?} does not start");
    }

    /// Types a command, and waits for its answer.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|| panic!("{self:?} gave no answer to {:?}", &command[..command.len().min(80)]))
    }

    /// As [`ask`](Self::ask), of a member that may be dead or stopped.
    pub(crate) fn try_ask(&self, command: &str) -> Option<String> {
        let tag = {
            let mut answers = self.heard.lock();
            answers.next += 1;
            answers.next.to_string()
        };
        {
            let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            let input = input.as_mut()?;
            writeln!(input, "{tag} {command}").and_then(|()| input.flush()).ok()?;
        }
        let deadline = now() + DEADLINE;
        let mut answers = self.heard.lock();
        loop {
            if let Some(answer) = answers.given.remove(&tag) {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(now());
            if answers.ended || left.is_zero() {
                return None;
            }
            answers = self.heard.news.wait_timeout(answers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks again until there is an answer.
    pub(crate) fn poll<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = now() + DEADLINE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(now() < deadline, "{self:?}: in vain: {what}; {}", self.ask("statistics"));
            pause();
        }
    }

    pub(crate) fn wait_ready(&self) {
        assert_eq!(self.ask("ready"), "true", "{self:?} is not ready");
    }

    /// Creates a session with attributes, like `user=bob`, and returns its id.
    pub(crate) fn create(&self, attributes: &str) -> String {
        let answer = self.ask(&format!("create {attributes}"));
        let (id, _) = answer.split_once(' ').unwrap_or_else(|| panic!("{self:?} did not create a session: {answer}"));
        id.to_owned()
    }

    /// Sets an attribute, and expects so many confirmations at least.
    pub(crate) fn set(&self, id: &str, name: &str, value: &str, confirmed: usize) {
        let answer = self.ask(&format!("set {id} {name} {value}"));
        let number = answer.strip_prefix("confirmed ").and_then(|number| number.parse().ok());
        assert!(number.is_some_and(|number: usize| number >= confirmed), "{self:?}, {confirmed} wanted: {answer}");
    }

    /// An attribute; `-` when there is none, `gone` when there is no session.
    pub(crate) fn get(&self, id: &str, name: &str) -> String {
        self.ask(&format!("get {id} {name}"))
    }

    /// Waits until an attribute has this value.
    pub(crate) fn wait_for(&self, id: &str, name: &str, value: &str) {
        let mut found = String::new();
        let deadline = now() + DEADLINE;
        while now() < deadline {
            found = self.get(id, name);
            if found == value {
                return;
            }
            pause();
        }
        panic!("{self:?}: {name} of {id} is {found} and not {value}; {}", self.ask("statistics"));
    }

    pub(crate) fn statistic(&self, name: &str) -> u64 {
        let all = self.ask("statistics");
        let mut pairs = all.split(' ').filter_map(|pair| pair.split_once('='));
        let value = pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is not in {all}"))
    }

    /// The sessions that it holds.
    pub(crate) fn ids(&self) -> BTreeSet<String> {
        self.ask("ids").split_whitespace().map(str::to_owned).collect()
    }

    /// Waits until no session here has fewer copies than wanted.
    pub(crate) fn wait_settled(&self) {
        self.poll("everything has its copies", || self.ask("at_risk").is_empty().then_some(()));
    }

    /// Kills the process and returns when all that it said has been read.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Kills both at the same moment.
    pub(crate) fn kill_with(mut self, mut other: Self) {
        let _ = self.child.kill();
        let _ = other.child.kill();
        self.end();
        other.end();
    }

    /// Leaves in an orderly way: the process ends by itself.
    pub(crate) fn stop(mut self) {
        self.ask("stop");
        *self.input.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let deadline = now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(now() < deadline, "{self:?} has stopped, and does not end");
            pause();
        };
        assert!(status.success(), "{self:?} ended with {status}");
    }

    /// Stops the process where it stands; the system goes on accepting connections for it.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        // Each of its threads may go on for a moment.
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|state| state.starts_with(" T"));
        self.poll("it stands still", || {
            tasks().flat_map(|task| std::fs::read_to_string(task.path().join("stat"))).all(stopped).then_some(())
        });
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("`kill` is there");
        assert!(status.success());
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
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {} (process {})", self.number, self.child.id())
    }
}

impl Heard {
    fn read(&self, number: u16, output: impl BufRead, ledger: &Ledger) {
        // What is not ours is the test harness's.
        for line in output.lines().map_while(Result::ok) {
            if let Some((tag, answer)) = line.strip_prefix("= ").and_then(|line| line.split_once(' ')) {
                self.lock().given.insert(tag.to_owned(), answer.to_owned());
                self.news.notify_all();
            } else {
                ledger.hear(number, &line);
            }
        }
        self.lock().ended = true;
        self.news.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::disallowed_methods, reason = "the deadline of a test")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "between two questions to another process, which cannot call back")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
