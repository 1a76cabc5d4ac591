//! The member program: a channel, a manager, and commands on standard input. Lives in the test executable, which starts itself.
//!
//! A command is `TAG VERB ...`, its answer `= TAG ...`. What the load reports is said in `ledger`.

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tribes::GroupChannel;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::session::{Session, SessionId, route};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

use crate::manager::Manager;

/// The environment variable that makes the test executable a member: `MANAGER LISTEN GROUP INTERFACE`.
pub(crate) const PLAN: &str = "TRIBES_TEST_MEMBER";

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Lives as the plan says until the other end of standard input is gone.
pub(crate) fn live(plan: &str) -> Outcome<()> {
    let mut words = plan.split(' ');
    let mut next = || words.next().ok_or("the plan is too short");
    let (manager, listen, group, interface) = (next()?, next()?, next()?, next()?);
    let multicast = MulticastConfig::default()
        .group(group.parse::<SocketAddr>()?)
        .interface(interface.parse::<IpAddr>()?)
        .frequency(Duration::from_millis(100))
        .drop_time(Duration::from_secs(2));
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
        for line in std::io::stdin().lines() {
            let line = line?;
            let words: Vec<_> = line.split(' ').collect();
            let [tag, verb, arguments @ ..] = &words[..] else { return Err("a command is a tag and a verb".into()) };
            let answer = match *verb {
                "stop" => {
                    self.unload();
                    channel.stop();
                    say(&format!("= {tag} stopped"));
                    return Ok(());
                }
                "members" => Ok(channel.members().as_slice().len().to_string()),
                "load" => self.load(arguments),
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

    /// `load THREADS NAME NEEDED CREATED ID...`: threads that change one attribute of these sessions, and of so many more each
    /// that they create, and report what was confirmed by enough members.
    fn load(&mut self, arguments: &[&str]) -> Outcome<String> {
        let [threads, name, needed, created, ids @ ..] = arguments else { return Err("too short".into()) };
        let (threads, needed, created) = (threads.parse()?, needed.parse()?, created.parse()?);
        for thread in 0..threads {
            let load = Load { manager: Arc::clone(&self.manager), name: (*name).to_owned(), needed, created };
            let mine = ids.iter().skip(thread).step_by(threads).map(|id| id.parse().map(|id| (id, 0)));
            let (mine, stop) = (mine.collect::<Result<Vec<_>, _>>()?, Arc::clone(&self.stop));
            self.load.push(thread::spawn(move || load.run(mine, &stop)));
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
    name: String,
    needed: usize,
    created: usize,
}

impl Load {
    /// With each session goes the value that this thread had confirmed last.
    fn run(&self, mut sessions: Vec<(SessionId, u64)>, stop: &AtomicBool) {
        let mut left = self.created;
        while !stop.load(Ordering::Relaxed) {
            if left > 0 {
                left -= 1;
                match self.manager.create().and_then(|session| self.write(session, 1)) {
                    Ok(id) => sessions.push((id, 1)),
                    Err(error) => say(&format!("- {error}")),
                }
            }
            for (id, last) in &mut sessions {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match self.change(id, *last) {
                    Ok(value) => *last = value,
                    Err(error) => say(&format!("- {error}")),
                }
            }
        }
    }

    fn change(&self, id: &SessionId, last: u64) -> Outcome<u64> {
        let Some(session) = self.manager.get(id)? else {
            say(&format!("! session {id} is not found any more"));
            return Err("not found".into());
        };
        let found = number(&session, &self.name);
        if found < last {
            say(&format!("! session {id} is at {found}, after {last} was confirmed to the same thread"));
        }
        let value = found.max(last) + 1;
        self.write(session, value).map(|_| value)
    }

    fn write(&self, mut session: Session, value: u64) -> Outcome<SessionId> {
        session.set(&self.name, value.to_string())?;
        let receipt = session.commit()?;
        if receipt.confirmed.len() < self.needed {
            return Err(format!("confirmed by {} members", receipt.confirmed.len()).into());
        }
        let id = session.id();
        say(&format!("+ {id} {} {value}", self.name));
        Ok(id)
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
