//! The roles of this crate, with its defaults but for the addresses.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tribes::GroupChannel;
use tribes::membership::memory::Hub;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::session::{BackupManager, DeltaManager, Manager, ManagerBuilder, SessionId};

use crate::load::{self, Until, value};
use crate::members::{SIZE, numbers};
use crate::node::{Problem, free_port, now, pause};
use crate::proxy::Proxy;
use crate::role::{Flags, Round, commands, over_tcp, print};

const CONTEXT: &str = "bench";
const ATTRIBUTE: &str = "a";
/// For what takes long on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(role: &str, flags: &Flags<'_>) -> Result<(), Problem> {
    match role {
        "member" if flags.one("--kind") == Some("delta") => member(flags, || DeltaManager::builder(CONTEXT)),
        "member" => member(flags, || BackupManager::builder(CONTEXT)),
        "messages" => messages(flags),
        "bytes" => bytes(flags),
        other => Err(format!("there is no role {other:?}").into()),
    }
}

// ---- member

struct Member<K> {
    manager: Manager<K>,
    /// The sessions made here.
    ids: Vec<SessionId>,
    /// What the next value begins with.
    next: u64,
}

/// A member of its own. `benches/java/MapsBench.java` tells what the commands are.
fn member<K: 'static>(flags: &Flags<'_>, builder: impl Fn() -> ManagerBuilder<K>) -> Result<(), Problem> {
    let group = flags.one("--group").ok_or("a member needs --group")?.parse()?;
    let config = MulticastConfig::default().group(group).interface(Ipv4Addr::LOCALHOST);
    let listen = flags.one("--listen").unwrap_or("127.0.0.1:0");
    let channel = over_tcp(listen.parse()?, flags).membership(Multicast::new(config)).start()?;
    print!({"event": "waiting"});
    let mut member = None;
    commands(|command| {
        if let Some(member) = &mut member {
            return Member::obey(member, command);
        }
        let [others] = numbers(command)?;
        while channel.members().len() < others {
            pause(Duration::from_millis(10));
        }
        let start = now();
        let manager = builder().start(&channel)?;
        if !manager.wait_ready(PATIENCE) {
            return Err("not ready".into());
        }
        print!({"event": "ready", "seconds": start.elapsed().as_secs_f64(), "count": manager.statistics().active});
        member = Some(Member { manager, ids: Vec::new(), next: 0 });
        Ok(())
    })?;
    channel.stop();
    Ok(())
}

impl<K: 'static> Member<K> {
    fn obey(&mut self, command: &str) -> Result<(), Problem> {
        match command.split(' ').next().unwrap_or_default() {
            "fill" => self.fill(numbers(command)?),
            "commit" => {
                let [count, threads, size] = numbers(command)?;
                commit(&self.manager, &self.ids, threads, size, self.next, Until::Count(count)).print();
                self.next += count as u64;
                Ok(())
            }
            "load" => {
                let [millis, threads, size] = numbers(command)?;
                let (manager, ids, next) = (self.manager.clone(), self.ids.clone(), self.next);
                let until = Until::Time(Duration::from_millis(millis as u64));
                print!({"event": "started"});
                thread::spawn(move || commit(&manager, &ids, threads, size, next, until).print());
                Ok(())
            }
            "read" => self.read(numbers(command)?),
            "missing" => self.missing(numbers(command)?),
            "count" => {
                let statistics = self.manager.statistics();
                print!({"event": "count", "count": statistics.active, "members": statistics.members});
                Ok(())
            }
            other => Err(format!("there is no command {other:?}").into()),
        }
    }

    fn fill(&mut self, [count, threads, size]: [usize; 3]) -> Result<(), Problem> {
        let (start, manager, next) = (now(), &self.manager, self.next);
        let made = thread::scope(|scope| {
            let make = |share: usize, first: u64| {
                (0..share as u64).map(|number| make(manager, size, first + number)).collect::<Result<Vec<_>, _>>()
            };
            let share = |place: usize| count * (place + 1) / threads - count * place / threads;
            let threads: Vec<_> = (0..threads)
                .map(|place| scope.spawn(move || make(share(place), next + (count * place / threads) as u64)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect::<Result<Vec<_>, _>>()
        })?;
        self.ids.extend(made.into_iter().flatten());
        self.next += count as u64;
        print!({"event": "filled", "seconds": start.elapsed().as_secs_f64()});
        Ok(())
    }

    fn read(&self, [count]: [usize; 1]) -> Result<(), Problem> {
        let (start, mut found) = (now(), 0);
        for number in 0..count {
            let session = self.manager.get(&self.ids[number % self.ids.len()])?;
            found += usize::from(session.is_some_and(|session| session.get(ATTRIBUTE).is_some()));
        }
        print!({"event": "reads", "seconds": start.elapsed().as_secs_f64(), "found": found});
        Ok(())
    }

    fn missing(&self, [count, from]: [usize; 2]) -> Result<(), Problem> {
        let mut present = 0;
        for id in self.manager.session_ids() {
            let value = self.manager.get(&id)?.and_then(|session| session.get(ATTRIBUTE));
            let number = value.and_then(|value| value.get(..8).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes));
            present += usize::from(number.is_some_and(|number| number >= from as u64));
        }
        print!({"event": "missing", "missing": count.saturating_sub(present)});
        Ok(())
    }
}

fn make<K>(manager: &Manager<K>, size: usize, number: u64) -> Result<SessionId, String> {
    let mut session = manager.create().map_err(|error| error.to_string())?;
    session.set(ATTRIBUTE, value(size, number)).map_err(|error| error.to_string())?;
    session.commit().map_err(|error| error.to_string())?;
    Ok(session.id())
}

/// One changed attribute, as a request changes it: the session is looked up, changed and committed.
fn change<K>(manager: &Manager<K>, id: &SessionId, name: &str, value: Vec<u8>) -> Result<(), String> {
    let session = manager.get(id).map_err(|error| error.to_string())?;
    let mut session = session.ok_or_else(|| "the session is gone".to_owned())?;
    session.set(name, value).map_err(|error| error.to_string())?;
    session.commit().map_err(|error| error.to_string())?;
    Ok(())
}

fn commit<K>(manager: &Manager<K>, ids: &[SessionId], threads: usize, size: usize, next: u64, until: Until) -> Round {
    let lanes = (0..threads)
        .map(|_| |number: usize| change(manager, &ids[number % ids.len()], ATTRIBUTE, value(size, next + number as u64)));
    load::run(lanes.collect(), until)
}

// ---- what is on the wire

/// Many members in one process, so that all messages can be counted.
fn messages(flags: &Flags<'_>) -> Result<(), Problem> {
    let members: usize = flags.number("--members", 2)?;
    let hub = Hub::new();
    let channels =
        (0..members).map(|_| Ok(over_tcp((Ipv4Addr::LOCALHOST, 0).into(), flags).membership(hub.membership()).start()?));
    let channels = channels.collect::<Result<Vec<_>, Problem>>()?;
    let managers = managers(&channels)?;
    let mut ids = Vec::new();
    for manager in &managers {
        let made = (0..16).map(|number| make(manager, SIZE, number)).collect::<Result<Vec<_>, _>>()?;
        ids.push(made);
    }
    print!({"event": "waiting"});
    commands(|command| {
        let [count] = numbers(command)?;
        let sent = || channels.iter().map(|channel| channel.stats().sent).sum::<u64>();
        let before = sent();
        for number in 0..count {
            let place = number % members;
            change(&managers[place], &ids[place][number / members % 16], ATTRIBUTE, value(SIZE, number as u64))?;
        }
        print!({"event": "messages", "per_commit": (sent() - before) as f64 / count as f64});
        Ok(())
    })
}

fn managers(channels: &[GroupChannel]) -> Result<Vec<BackupManager>, Problem> {
    let managers = channels.iter().map(|channel| BackupManager::builder(CONTEXT).start(channel));
    let managers = managers.collect::<Result<Vec<_>, _>>()?;
    let start = now();
    for manager in &managers {
        if !manager.wait_ready(PATIENCE) {
            return Err("not ready".into());
        }
        while manager.statistics().members + 1 < channels.len() {
            if start.elapsed() > PATIENCE {
                return Err("the members do not find each other".into());
            }
            pause(Duration::from_millis(10));
        }
    }
    Ok(managers)
}

/// Two members, each behind a proxy that counts; sessions of 50 KiB.
fn bytes(flags: &Flags<'_>) -> Result<(), Problem> {
    const ATTRIBUTES: usize = 50;
    let hub = Hub::new();
    let (mut channels, mut proxies) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let proxy = Proxy::start(listen)?;
        let builder = over_tcp(listen, flags).membership(hub.membership()).advertise(proxy.address());
        channels.push(builder.start()?);
        proxies.push(proxy);
    }
    let managers = managers(&channels)?;
    let mut session = managers[0].create()?;
    let id = session.id();
    for number in 0..ATTRIBUTES {
        session.set(&format!("attribute-{number}"), value(SIZE, 0))?;
    }
    if !session.commit()?.is_met() {
        return Err("the backup is missing".into());
    }
    let proxies = Arc::new(proxies);
    print!({"event": "waiting"});
    commands(|command| {
        let [count] = numbers(command)?;
        let passed = || proxies.iter().map(Proxy::bytes).sum::<u64>();
        let before = passed();
        for number in 0..count {
            change(&managers[0], &id, &format!("attribute-{}", number % ATTRIBUTES), value(SIZE, number as u64))?;
        }
        print!({"event": "bytes", "per_commit": (passed() - before) as f64 / count as f64});
        Ok(())
    })
}
