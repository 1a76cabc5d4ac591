//! The member program: a channel, a manager, and commands on standard input. Lives in the test executable, which starts itself.
//!
//! A command is `TAG VERB ...`, its answer `= TAG ...`. What the load reports is said in `ledger`.

use std::collections::VecDeque;
use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tribes::GroupChannel;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::session::{CommitReceipt, Session, SessionId, route};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

use crate::manager::Manager;

/// The environment variable that makes the test executable a member: `MANAGER LISTEN GROUP INTERFACE`.
pub(crate) const PLAN: &str = "TRIBES_TEST_MEMBER";

/// The manager that has nothing set, on a membership that has not either.
pub(crate) const DEFAULT: &str = "delta-default";

/// The attribute that tells what a session's id was.
pub(crate) const RENAMED_FROM: &str = "was";

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Lives as the plan says until the other end of standard input is gone.
pub(crate) fn live(plan: &str) -> Outcome<()> {
    let mut words = plan.split(' ');
    let mut next = || words.next().ok_or("the plan is too short");
    let (manager, listen, group, interface) = (next()?, next()?, next()?, next()?);
    let mut multicast = MulticastConfig::default().group(group.parse::<SocketAddr>()?).interface(interface.parse::<IpAddr>()?);
    if manager != DEFAULT {
        // Many members die and come back in these tests.
        multicast = multicast.frequency(Duration::from_millis(100)).drop_time(Duration::from_secs(2));
    }
    let channel = GroupChannel::builder()
        .membership(Multicast::new(multicast))
        .receiver(TcpReceiver::new(TcpReceiverConfig::default().bind(listen.parse()?).auto_bind(1)))
        .start()?;
    let member = Member { manager: Arc::new(Manager::start(manager, &channel)?), stop: Arc::default(), load: Vec::new() };
    member.serve(&channel)
}

struct Member {
    manager: Arc<Manager>,
    /// Ends the load.
    stop: Arc<AtomicBool>,
    load: Vec<JoinHandle<()>>,
}

impl Member {
    fn serve(mut self, channel: &GroupChannel) -> Outcome<()> {
        // The harness has begun a line.
        say("");
        let process = channel.local().id().to_string();
        for line in std::io::stdin().lines() {
            let line = line?;
            let words: Vec<_> = line.split(' ').collect();
            let [tag, verb, arguments @ ..] = &words[..] else { return Err("a command is a tag and a verb".into()) };
            let answer = match *verb {
                "hello" => Ok(process.clone()),
                "stop" => {
                    self.unload();
                    channel.stop();
                    say(&format!("= {tag} stopped"));
                    return Ok(());
                }
                "members" => Ok(channel.members().as_slice().len().to_string()),
                "load" => self.load(&process, arguments),
                "unload" => {
                    self.unload();
                    Ok("done".to_owned())
                }
                verb => self.manager.answer(verb, arguments),
            };
            let answer = answer.unwrap_or_else(|error| format!("error: {error}"));
            say(&format!("= {tag} {answer}"));
        }
        Ok(())
    }

    /// `load THREADS NAME NEEDED MOST PAUSE SEED ID=LAST...`: threads that change one attribute of these sessions, of which `LAST` was
    /// confirmed last, and create, rename and invalidate some, so that there are about `MOST`; between requests they rest for `PAUSE`
    /// milliseconds. They report what was confirmed by enough members.
    fn load(&mut self, process: &str, arguments: &[&str]) -> Outcome<String> {
        let [threads, name, needed, most, pause, seed, known @ ..] = arguments else { return Err("too short".into()) };
        let (threads, most, seed): (_, usize, usize) = (threads.parse()?, most.parse()?, seed.parse()?);
        let load = Arc::new(Load {
            manager: Arc::clone(&self.manager),
            process: process.to_owned(),
            name: (*name).to_owned(),
            needed: needed.parse()?,
            most: most / threads,
            pause: Duration::from_millis(pause.parse()?),
            stop: Arc::clone(&self.stop),
        });
        for thread in 0..threads {
            let load = Arc::clone(&load);
            let mine = known.iter().skip(thread).step_by(threads).map(|pair| {
                let (id, last) = pair.split_once('=').ok_or("a session, and what was confirmed last")?;
                Outcome::Ok((id.parse()?, last.parse()?))
            });
            let mine = mine.collect::<Outcome<VecDeque<_>>>()?;
            self.load.push(thread::spawn(move || load.run(mine, seed + thread)));
        }
        Ok("loading".to_owned())
    }

    fn unload(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.load.drain(..).for_each(|thread| thread.join().expect("the load does not panic"));
        self.stop.store(false, Ordering::Relaxed);
    }
}

struct Load {
    manager: Arc<Manager>,
    process: String,
    name: String,
    needed: usize,
    /// Sessions that each thread has.
    most: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
}

/// After so many changes a session is created.
const PACE: usize = 8;
/// Of so many that are created, one gets another id.
const RENAMED: usize = 3;

impl Load {
    /// With each session, oldest first, goes the value of this member's attribute that was confirmed last.
    fn run(&self, mut sessions: VecDeque<(SessionId, u64)>, seed: usize) {
        let mut at = seed;
        for turn in seed.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if !self.pause.is_zero() {
                thread::park_timeout(self.pause);
            }
            if turn.is_multiple_of(PACE) {
                self.report(|| self.create(&mut sessions, (turn / PACE).is_multiple_of(RENAMED)));
            }
            // Twice as often, as others have created some as well.
            if turn % (PACE / 2) == 1 {
                self.report(|| self.invalidate_oldest(&mut sessions));
            }
            if sessions.is_empty() {
                continue;
            }
            at = (at + 1) % sessions.len();
            let (id, last) = sessions[at];
            self.report(|| {
                match self.change(&id, last)? {
                    Some(value) => sessions[at].1 = value,
                    None => _ = sessions.remove(at),
                }
                Ok(())
            });
        }
    }

    fn report(&self, act: impl FnOnce() -> Outcome<()>) {
        if let Err(error) = act() {
            say(&format!("- {error}"));
        }
    }

    fn create(&self, sessions: &mut VecDeque<(SessionId, u64)>, renamed: bool) -> Outcome<()> {
        let mut session = self.manager.create()?;
        let old = session.id();
        if renamed {
            // Before it is known: nobody else is to write to it meanwhile, as a rename knows what its member has seen.
            say(&format!("~ {old} rename"));
        }
        self.write(&mut session, 1)?;
        if renamed {
            session.set(RENAMED_FROM, old.to_string())?;
            let receipt = session.change_id()?;
            self.confirmed(&format!("> {old} {}", session.id()), &receipt)?;
        }
        sessions.push_back((session.id(), 1));
        Ok(())
    }

    /// What was written; `None` when there is no such session.
    fn change(&self, id: &SessionId, last: u64) -> Outcome<Option<u64>> {
        let name = &self.name;
        let Some(mut session) = self.manager.get(id)? else {
            say(&format!("! {id} {name} is not found, after {last} was confirmed"));
            return Ok(None);
        };
        let found = number(&session, name);
        if found < last {
            say(&format!("! {id} {name} is {found}, after {last} was confirmed"));
        }
        let value = found.max(last) + 1;
        self.write(&mut session, value)?;
        Ok(Some(value))
    }

    fn write(&self, session: &mut Session, value: u64) -> Outcome<()> {
        session.set(&self.name, value.to_string())?;
        let receipt = session.commit()?;
        self.confirmed(&format!("+ {} {} {value}", session.id(), self.name), &receipt)
    }

    /// Invalidates one, should there be too many.
    fn invalidate_oldest(&self, sessions: &mut VecDeque<(SessionId, u64)>) -> Outcome<()> {
        while sessions.len() > self.most {
            let (id, _) = sessions.pop_front().expect("there are some");
            // The others have the same oldest ones, and may have been faster.
            if let Some(session) = self.manager.get(&id)? {
                say(&format!("~ {id} invalidate"));
                let receipt = session.invalidate()?;
                return self.confirmed(&format!("x {id}"), &receipt);
            }
        }
        Ok(())
    }

    /// Reports what enough members have confirmed, and which.
    fn confirmed(&self, what: &str, receipt: &CommitReceipt) -> Outcome<()> {
        let others: String = receipt.confirmed.iter().map(|member| format!(",{}", member.id())).collect();
        if receipt.confirmed.len() < self.needed {
            return Err(format!("confirmed by {} members", receipt.confirmed.len()).into());
        }
        say(&format!("{what} {}{others}", self.process));
        Ok(())
    }
}

/// An attribute as a number; 0 when it is not there.
fn number(session: &Session, name: &str) -> u64 {
    text(session, name).parse().unwrap_or_default()
}

pub(crate) fn text(session: &Session, name: &str) -> String {
    session.get(name).map_or_else(|| "-".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

/// The session that a cookie names, with a route or without.
pub(crate) fn named(cookie: &str) -> Outcome<SessionId> {
    Ok(route::strip(cookie).0.parse()?)
}

/// Writes a line, whole. When nobody reads, the test is gone, and so is this.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
