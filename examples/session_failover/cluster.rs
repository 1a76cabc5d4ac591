//! The member processes, and the load balancer before them: it keeps each session on one member as long as that is there, sends
//! one request of it at a time, and remembers which change was confirmed last.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::screen::Screen;
use crate::{NAMES, SESSIONS};

type Outcome = Result<(), Box<dyn Error>>;

/// The whole example ends by then, one way or the other.
const LIMIT: Duration = Duration::from_secs(28);
/// So long a session that is not as it should be is read again, before it is called lost.
const READ_AGAIN: Duration = Duration::from_secs(3);
/// Requests that are under way together.
const WINDOW: usize = 32;

pub(crate) struct Cluster {
    group: SocketAddr,
    start: Instant,
    drawn: Instant,
    nodes: Vec<Node>,
    said: (Sender<Line>, Receiver<Line>),
    carts: Vec<Cart>,
    /// Sessions without a request under way.
    idle: VecDeque<usize>,
    /// Whether sessions are created and changed all the time.
    pub(crate) loading: bool,
    /// Until then, what is read and not as it should be is read again.
    patience: Instant,
    totals: Totals,
    screen: Screen,
}

/// From which member, and what it says; nothing is the end of it.
type Line = (usize, Option<String>);

/// A session as its user sees it.
#[derive(Default)]
struct Cart {
    id: String,
    /// The change that was sent last, and the one that was confirmed last: that one, or a newer, must be found.
    tried: u64,
    confirmed: u64,
    /// Which member serves it, and since when that one owes an answer.
    home: usize,
    asked: Option<Instant>,
    /// What was confirmed was not found, at least once.
    lost: bool,
}

pub(crate) struct Node {
    child: Child,
    input: ChildStdin,
    address: String,
    pub(crate) state: State,
    pub(crate) owned: usize,
    pub(crate) backups: usize,
    /// Of the sessions it knows, those that have too few copies.
    at_risk: usize,
    /// How often it was asked for these three, and has told them.
    asked: usize,
    told: usize,
    ended: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Starting,
    Serving,
    Draining,
    Left,
    Killed,
}

#[derive(Default)]
struct Totals {
    confirmed: u64,
    /// Answered with an error.
    failed: u64,
    /// Not answered: the member was killed.
    cut_off: u64,
    killed: u64,
    restarted: u64,
    /// How often what a session has was compared with what was confirmed.
    compared: u64,
    lost: u64,
    slowest: Duration,
}

impl Cluster {
    pub(crate) fn start(group: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let said = mpsc::channel();
        let spawn = |member| Node::spawn(member, group, "127.0.0.1:4000", &said.0);
        let nodes = (0..NAMES.len()).map(spawn).collect::<Result<_, _>>()?;
        let carts = (0..SESSIONS).map(|number| Cart { home: number % NAMES.len(), ..Cart::default() }).collect();
        let (idle, totals) = ((0..SESSIONS).collect(), Totals::default());
        Ok(Self {
            group,
            start: now(),
            drawn: now(),
            nodes,
            said,
            carts,
            idle,
            loading: false,
            patience: now(),
            totals,
            screen: Screen::default(),
        })
    }

    /// Ends a process without a word, in the middle of its work.
    pub(crate) fn kill(&mut self, member: usize) -> Outcome {
        self.nodes[member].child.kill()?;
        self.nodes[member].state = State::Killed;
        // What it has answered counts; what it has not, is sent to others.
        self.until("its last words are read", |all| all.nodes[member].ended)?;
        for (number, cart) in self.carts.iter_mut().enumerate().filter(|(_, cart)| cart.home == member) {
            if cart.asked.take().is_some() {
                self.idle.push_back(number);
                self.totals.cut_off += 1;
            }
        }
        self.totals.killed += 1;
        Ok(())
    }

    /// Sends a member no more requests, has it hand over what it holds, and waits until it has left.
    pub(crate) fn drain(&mut self, member: usize) -> Outcome {
        self.nodes[member].state = State::Draining;
        writeln!(self.nodes[member].input, "drain")?;
        self.until("it has left", |all| all.nodes[member].ended)
    }

    /// Starts a member again, at its old address.
    pub(crate) fn restart(&mut self, member: usize) -> Outcome {
        self.nodes[member] = Node::spawn(member, self.group, &self.nodes[member].address, &self.said.0)?;
        self.totals.restarted += 1;
        self.until_ready()?;
        self.until_copied()
    }

    pub(crate) fn until_ready(&mut self) -> Outcome {
        self.until("all are ready", |all| all.serving().count() == NAMES.len())
    }

    /// Waits until each session has an owner and a backup, and each member that serves a share of both.
    pub(crate) fn until_copied(&mut self) -> Outcome {
        self.look()?;
        self.until("each session is there twice", |all| {
            let (owned, backups) = all.nodes.iter().fold((0, 0), |sum, node| (sum.0 + node.owned, sum.1 + node.backups));
            let shared = all.serving().all(|member| all.nodes[member].owned.min(all.nodes[member].backups) > 0);
            shared && owned.min(backups) >= SESSIONS && all.carts.iter().all(|cart| cart.confirmed > 0)
        })
    }

    /// Lets some time pass; less of it on a machine that is so busy that all takes longer.
    pub(crate) fn go_on(&mut self, time: Duration) -> Outcome {
        let end = now() + if self.start.elapsed() < LIMIT / 3 { time } else { time / 4 };
        self.until("time passes", |_| now() >= end)
    }

    /// Lets the requests end, and reads each session through each member that serves, as things are now.
    pub(crate) fn verify(&mut self) -> Outcome {
        let loaded = std::mem::replace(&mut self.loading, false);
        self.until("all requests are answered", |all| all.idle.len() == SESSIONS)?;
        let readers: Vec<_> = self.serving().collect();
        for member in &readers {
            self.patience = now() + READ_AGAIN;
            self.idle.clear();
            for number in 0..SESSIONS {
                self.read(*member, number);
            }
            self.until("all sessions are read", |all| all.idle.len() == SESSIONS)?;
        }
        let names: Vec<_> = readers.iter().map(|member| NAMES[*member]).collect();
        let names = match &names[..] {
            [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
            few => few.concat(),
        };
        let lost = if self.totals.lost == 0 { "none".to_owned() } else { self.totals.lost.to_string() };
        self.tell(&format!("all {SESSIONS} sessions read through {names}: {lost} lost"));
        self.loading = loaded;
        if self.totals.lost > 0 { self.conclude() } else { Ok(()) }
    }

    fn read(&mut self, member: usize, number: usize) {
        // Who is dead does not answer, and is found out by that.
        let _ = writeln!(self.nodes[member].input, "read {number} {} -", self.carts[number].id);
    }

    pub(crate) fn tell(&mut self, event: &str) {
        let event = format!("{:6.2} s  {event}", self.start.elapsed().as_secs_f64());
        self.screen.tell(&event, &self.nodes);
        self.draw();
    }

    /// Waits until each has said what it holds now, and not a moment ago.
    fn look(&mut self) -> Outcome {
        let asked: Vec<_> = self.nodes.iter().map(|node| node.asked).collect();
        self.until("all say what they hold", |all| all.serving().all(|member| all.nodes[member].told > asked[member]))
    }

    /// Goes on until something has happened.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Outcome {
        while !done(self) {
            if self.start.elapsed() > LIMIT {
                return Err(format!("not in time: {what}").into());
            }
            if self.loading {
                self.send_requests();
            }
            if self.drawn.elapsed() > Duration::from_millis(50) {
                self.draw();
                self.drawn = now();
                for node in self.nodes.iter_mut().filter(|node| node.state == State::Serving && node.told == node.asked) {
                    let _ = writeln!(node.input, "holds");
                    node.asked += 1;
                }
            }
            if let Ok((member, line)) = self.said.1.recv_timeout(Duration::from_millis(20)) {
                self.hear(member, line.as_deref())?;
            }
        }
        Ok(())
    }

    fn send_requests(&mut self) {
        let serving: Vec<_> = self.serving().collect();
        while SESSIONS - self.idle.len() < WINDOW {
            let Some(number) = self.idle.pop_front() else { break };
            let cart = &mut self.carts[number];
            if !serving.contains(&cart.home) {
                cart.home = serving[number % serving.len()];
            }
            cart.tried += 1;
            cart.asked = Some(now());
            let (verb, id) = if cart.id.is_empty() { ("create", "-") } else { ("change", &cart.id[..]) };
            // Who is dead does not answer, and is found out by that.
            let _ = writeln!(self.nodes[cart.home].input, "{verb} {number} {id} {}", cart.tried);
        }
    }

    fn hear(&mut self, member: usize, line: Option<&str>) -> Outcome {
        let node = &mut self.nodes[member];
        let Some(line) = line else {
            (node.ended, node.owned, node.backups) = (true, 0, 0);
            let expected = matches!(node.state, State::Left | State::Killed);
            return if expected { Ok(()) } else { Err(format!("{} has ended", NAMES[member]).into()) };
        };
        match *line.splitn(4, ' ').collect::<Vec<_>>() {
            ["listens", at] => node.address = at.to_owned(),
            ["ready"] => node.state = State::Serving,
            ["holds", owned, backups, at_risk] => {
                (node.owned, node.backups, node.at_risk) = (owned.parse()?, backups.parse()?, at_risk.parse()?);
                node.told += 1;
            }
            ["drained", "0"] => node.state = State::Left,
            [verb @ ("create" | "change"), number, ref answer @ ..] => self.take_change(verb, number.parse()?, &answer.join(" ")),
            ["read", number, ref answer @ ..] => self.take_read(member, number.parse()?, &answer.join(" ")),
            _ => return Err(format!("{} says: {line}", NAMES[member]).into()),
        }
        Ok(())
    }

    fn take_change(&mut self, verb: &str, number: usize, answer: &str) {
        let (cart, totals) = (&mut self.carts[number], &mut self.totals);
        self.idle.push_back(number);
        if let Some(asked) = cart.asked.take() {
            totals.slowest = totals.slowest.max(asked.elapsed());
        }
        let words: Vec<_> = answer.split(' ').collect();
        if words[0] == "failed:" {
            totals.failed += 1;
            return;
        }
        // What was there before this change.
        let expected = cart.confirmed..=cart.tried - 1;
        if let [_, id, copies] = words[..] {
            cart.id = id.to_owned();
            if copies != "0" {
                cart.confirmed = cart.tried;
                totals.confirmed += 1;
            }
        }
        if verb == "change" {
            self.compare(number, words[0], &expected);
        }
    }

    fn take_read(&mut self, member: usize, number: usize, found: &str) {
        let expected = self.carts[number].confirmed..=self.carts[number].tried;
        // Just after a crash a member may not get an answer from another, or an old one.
        if !is_within(found, &expected) && now() < self.patience {
            return self.read(member, number);
        }
        self.idle.push_back(number);
        self.compare(number, found, &expected);
    }

    /// A session must have what was confirmed last, or what was sent since and not confirmed.
    fn compare(&mut self, number: usize, found: &str, expected: &RangeInclusive<u64>) {
        self.totals.compared += 1;
        if is_within(found, expected) || self.carts[number].lost {
            return;
        }
        self.carts[number].lost = true;
        self.totals.lost += 1;
        if self.totals.lost == 1 {
            let id = &self.carts[number].id;
            let found = if found.parse::<u64>().is_ok() { format!("is at {found}") } else { "is gone".to_owned() };
            self.tell(&format!("LOST: {id} was confirmed at {} and {found}", expected.start()));
        }
    }

    fn serving(&self) -> impl Iterator<Item = usize> {
        (0..NAMES.len()).filter(|member| self.nodes[*member].state == State::Serving)
    }

    fn draw(&mut self) {
        let Totals { confirmed, failed, lost, .. } = self.totals;
        self.screen.draw(&self.nodes, &format!("{confirmed} changes confirmed, {failed} failed, {lost} sessions lost"));
    }

    /// What one wants to know at a glance, and whether it is well.
    pub(crate) fn conclude(&mut self) -> Outcome {
        self.loading = false;
        if self.totals.lost == 0 {
            self.look()?;
            self.until("each session has its copies", |all| all.serving().all(|member| all.nodes[member].at_risk == 0))?;
        }
        self.draw();
        let took = self.start.elapsed();
        let Totals { confirmed, failed, cut_off, killed, restarted, compared, lost, slowest } = self.totals;
        println!("\nIn {:.1} seconds:", took.as_secs_f64());
        println!("  {SESSIONS:7} sessions, each with an owner and one backup");
        println!("  {killed:7} member killed, {restarted} restarts");
        println!("  {confirmed:7} changes confirmed by a backup, the slowest after {} ms", slowest.as_millis());
        println!("  {failed:7} changes failed with an error");
        println!("  {cut_off:7} changes cut off by the kill, and sent again to another member");
        println!("  {compared:7} checks that a session still had its last confirmed change");
        println!("  {lost:7} sessions lost");
        if lost > 0 {
            return Err(format!("{lost} of {SESSIONS} sessions were lost, or went back in time").into());
        }
        println!("\n{}", self.screen.green("Every change that was confirmed is there."));
        Ok(())
    }
}

/// Whether a session has one of these values.
fn is_within(found: &str, expected: &RangeInclusive<u64>) -> bool {
    // Nothing was confirmed yet.
    let nothing = found == "-" || found == "gone";
    let fits = |found: u64| expected.contains(&found);
    if nothing { *expected.start() == 0 } else { found.parse().is_ok_and(fits) }
}

impl Node {
    fn spawn(member: usize, group: SocketAddr, listen: &str, said: &Sender<Line>) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args([&group.to_string(), listen]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
        let said = said.clone();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok).map(Some).chain([None]);
            lines.for_each(|line| drop(said.send((member, line))));
        });
        let (address, state) = (listen.to_owned(), State::Starting);
        Ok(Self { child, input, address, state, owned: 0, backups: 0, at_risk: 0, asked: 0, told: 0, ended: false })
    }
}

/// Whatever happens, no process stays behind.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the times that are shown, and the limit")]
fn now() -> Instant {
    Instant::now()
}
