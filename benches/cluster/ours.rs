//! The roles of this crate, with its defaults but for the addresses.

use std::collections::VecDeque;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use tribes::interceptors::MessageDispatch;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::stack::{Event, StackBuilder};
use tribes::transport::blocking::{BlockingReceiver, BlockingReceiverConfig, BlockingSender, BlockingSenderConfig};
use tribes::{ChannelBuilder, GroupChannel, Member, Message, Parts, SendError, SendOptions, Sending, UniqueId, wire};

use crate::node::{Problem, epoch_millis, now};
use crate::raw;
use crate::role::{Flags, Round, commands, over_tcp, print};

pub(crate) fn run(role: &str, flags: &Flags<'_>, blocking: bool) -> Result<(), Problem> {
    match role {
        "sink" => sink(builder(flags, blocking)?),
        "source" => source(builder(flags, blocking)?, flags),
        "member" => member(builder(flags, blocking)?, flags),
        other => Err(format!("there is no role {other:?}").into()),
    }
}

fn builder(flags: &Flags<'_>, blocking: bool) -> Result<ChannelBuilder, Problem> {
    let listen = flags.one("--listen").unwrap_or("127.0.0.1:0").parse()?;
    Ok(if blocking {
        let receiver = BlockingReceiver::new(BlockingReceiverConfig::default().bind(listen));
        GroupChannel::builder().receiver(receiver).sender(BlockingSender::new(BlockingSenderConfig::default()))
    } else {
        over_tcp(listen, flags)
    })
}

/// As a Tribes source and sink have it: no failure detector, for there is no membership.
fn dispatch_only() -> StackBuilder {
    StackBuilder::new().push(MessageDispatch::default())
}

// ---- sink

/// What has arrived since the last reset, and when the first and the last of the expected messages did.
struct Counter {
    epoch: Instant,
    expected: AtomicU64,
    count: AtomicU64,
    bytes: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Counter {
    fn arrived(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        if before == 0 {
            self.first.store(self.nanos(), Ordering::Relaxed);
        }
        if before + 1 == self.expected.load(Ordering::Relaxed) {
            self.last.store(self.nanos(), Ordering::Relaxed);
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(now().duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn reset(&self, expected: u64) {
        self.expected.store(expected, Ordering::Relaxed);
        for cell in [&self.bytes, &self.first, &self.last, &self.count] {
            cell.store(0, Ordering::Release);
        }
    }
}

fn sink(builder: ChannelBuilder) -> Result<(), Problem> {
    let channel = builder.stack(dispatch_only()).start_parts(Parts::RECEIVE)?;
    let counter = Arc::new(Counter {
        epoch: now(),
        expected: AtomicU64::new(u64::MAX),
        count: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        first: AtomicU64::new(0),
        last: AtomicU64::new(0),
    });
    let counted = Arc::clone(&counter);
    let _subscription = channel.on_message(move |message| counted.arrived(message.body().len()));
    let local = channel.local();
    print!({"event": "ready", "host": local.address().ip(), "port": local.address().port(), "id": local.id()});
    commands(|command| {
        match command.strip_prefix("reset") {
            Some(expected) => counter.reset(expected.trim().parse().unwrap_or(u64::MAX)),
            None => print!({
                "event": "report",
                "count": counter.count.load(Ordering::Acquire),
                "bytes": counter.bytes.load(Ordering::Acquire),
                "first_ns": counter.first.load(Ordering::Acquire),
                "last_ns": counter.last.load(Ordering::Acquire),
            }),
        }
        Ok(())
    })?;
    channel.stop();
    Ok(())
}

// ---- source

fn source(builder: ChannelBuilder, flags: &Flags<'_>) -> Result<(), Problem> {
    let options = SendOptions::from_bits(flags.number("--options", 2)?);
    let size: usize = flags.number("--size", 1024)?;
    let count: usize = flags.number("--count", 10_000)?;
    let threads: usize = flags.number("--threads", 1)?;
    let warmup: usize = flags.number("--warmup", 0)?;
    let members = flags.all("--to").map(target).collect::<Result<Vec<_>, _>>()?;
    let channel = builder.stack(dispatch_only()).start_parts(Parts::RECEIVE | Parts::SEND)?;
    let body = Bytes::from(vec![b'x'; size]);
    let message = Message::from_parts(channel.local().id(), options, 0, channel.local(), body.clone().into());
    if wire::frame::encoded_len(&message) != size + raw::OVERHEAD {
        return Err("raw TCP would carry other bytes than a frame has".into());
    }
    let round = |count: usize| {
        let times = Mutex::new(Vec::with_capacity(count));
        let fate = Fate::default();
        let start = now();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mine = if options.contains(SendOptions::ASYNC) {
                        queue(&channel, &members, &body, options, count / threads, &fate)
                    } else {
                        wait(&channel, &members, &body, options, count / threads, &fate)
                    };
                    times.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
                });
            }
        });
        let elapsed = start.elapsed();
        let (failed, error) = fate.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        Round::new(elapsed, times.into_inner().unwrap_or_else(PoisonError::into_inner)).with_failures(failed, error)
    };
    round(warmup);
    print!({"event": "ready"});
    commands(|_| {
        round(count).print();
        Ok(())
    })?;
    channel.stop();
    Ok(())
}

/// How many sends failed, and the first word why.
#[derive(Default)]
struct Fate(Mutex<(u64, String)>);

impl Fate {
    fn note(&self, error: &SendError) {
        let mut fate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fate.0 += 1;
        if fate.1.is_empty() {
            fate.1 = error.to_string();
        }
    }
}

/// A member as the harness writes it: `HOST:PORT:ID`.
fn target(text: &str) -> Result<Member, Box<dyn Error>> {
    let (address, id) = text.rsplit_once(':').ok_or("a target is HOST:PORT:ID")?;
    let number = u128::from_str_radix(id, 16)?;
    Ok(Member::new(address.parse()?).with_id(UniqueId::from_bytes(number.to_be_bytes())))
}

/// One send after another, each waited for and timed.
fn wait(channel: &GroupChannel, members: &[Member], body: &Bytes, options: SendOptions, count: usize, fate: &Fate) -> Vec<u64> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = now();
        let outcome = channel.send(members.iter().cloned(), body.clone(), options);
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if let Err(error) = outcome {
            fate.note(&error);
        }
    }
    times
}

/// Queues as fast as the channel takes them, and looks at every outcome, later. Single sends are not timed.
fn queue(channel: &GroupChannel, members: &[Member], body: &Bytes, options: SendOptions, count: usize, fate: &Fate) -> Vec<u64> {
    let mut open: VecDeque<Sending> = VecDeque::new();
    let note = |sending: Sending| {
        if let Err(error) = sending.wait() {
            fate.note(&error);
        }
    };
    for _ in 0..count {
        open.push_back(channel.send_with(members.iter().cloned(), body.clone(), options));
        while open.front().is_some_and(Sending::is_done) {
            open.pop_front().into_iter().for_each(note);
        }
    }
    open.into_iter().for_each(note);
    vec![0; count]
}

// ---- member

fn member(builder: ChannelBuilder, flags: &Flags<'_>) -> Result<(), Problem> {
    let group = flags.one("--group").ok_or("a member needs --group")?.parse()?;
    let config = MulticastConfig::default().group(group).interface(Ipv4Addr::LOCALHOST);
    let builder = builder.membership(Multicast::new(config));
    if flags.has("--wait") {
        print!({"event": "waiting"});
        let mut word = String::new();
        std::io::stdin().read_line(&mut word)?;
        if word.trim() != "go" {
            return Ok(());
        }
    }
    let channel = builder.start()?;
    let told = Mutex::new(Vec::new());
    let tell = move |name: &str, member: &Member| {
        // A member that came between the start and the subscription would else be told twice.
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told.contains(member);
        match name {
            "member_added" if known => return,
            "member_added" => told.push(member.clone()),
            _ => told.retain(|known| known != member),
        }
        print!({
            "event": name, "t_ms": epoch_millis(),
            "host": member.address().ip(), "port": member.address().port(), "id": member.id(),
        });
    };
    let tell = Arc::new(tell);
    let teller = Arc::clone(&tell);
    let _subscription = channel.on_membership(move |event| match event {
        Event::Added(member) => teller("member_added", member),
        Event::Removed(member, _) => teller("member_removed", member),
        _ => {}
    });
    for member in channel.members().iter() {
        tell("member_added", member);
    }
    commands(|command| {
        if command == "send" {
            let members = channel.members();
            let failed = channel
                .send(members.iter().cloned(), vec![0; 64], SendOptions::ACK)
                .map_or_else(|error| error.faults.len(), |_| 0);
            print!({"event": "sent", "members": members.iter().count(), "failed": failed});
        }
        Ok(())
    })?;
    channel.stop();
    Ok(())
}
