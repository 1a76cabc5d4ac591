//! A group that lives for a few seconds: three members in this process find each other, talk, and fail on purpose; then one
//! leaves, and one that joined in a process of its own is killed. Ends by itself, with an error when anything did not happen.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```

use std::collections::BTreeSet;
use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::stack::{Departure, Event};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
use tribes::{ChannelBuilder, GroupChannel, Member, Message, SendOptions};

const MANY: u64 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, name, group] = &arguments[..] {
        return live_until_killed(name, group.parse()?);
    }
    // Tomcat's multicast address, at a port that nobody uses now: two quickstarts do not meet.
    let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    let group = SocketAddr::from(([228, 0, 0, 4], port));
    println!("Three members in this process, on multicast group {group} of the loopback interface:\n");
    let (lines, read) = mpsc::channel();
    let mut story = Story { start: now(), read, told: BTreeSet::new() };
    let anna = join("anna", group, &lines)?;
    let ben = join("ben", group, &lines)?;
    let carol = join("carol", group, &lines)?;
    story.wait_for(["anna", "ben", "carol"].iter().flat_map(|name| {
        let others = ["anna", "ben", "carol"].into_iter().filter(move |other| other != name);
        others.map(move |other| format!("{name:5} sees {other}"))
    }))?;

    story.tell("anna  sends \"hello\" to all and waits until their listeners have handled it");
    let receipt = anna.send_all("hello", SendOptions::SYNC_ACK)?;
    story.wait_for(["ben   got \"hello\" from anna".into(), "carol got \"hello\" from anna".into()])?;
    story.tell(&format!("anna  knows that {} members have it", receipt.delivered));

    story.tell("anna  sends \"trouble\", and ben's listener will fail on it");
    let error = anna.send_all("trouble", SendOptions::SYNC_ACK).err().ok_or("the failure was not seen")?;
    story.wait_for(["carol got \"trouble\" from anna".into()])?;
    story.tell(&format!("anna  is told: {error}"));

    let start = now();
    let queued = SendOptions::ACK | SendOptions::ASYNC;
    let body = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let sendings: Vec<_> = (0..MANY).map(|number| anna.send_with([ben.local()], body(number), queued)).collect();
    for sending in sendings {
        sending.wait()?;
    }
    story.wait_for(["ben   got them all, in order".into()])?;
    story.tell(&format!("anna  queued {MANY} messages to ben; all were acknowledged within {:.1?}", start.elapsed()));

    story.tell("carol leaves");
    carol.stop();
    story.wait_for(["anna  is told that carol left".into(), "ben   is told that carol left".into()])?;

    let mut dave = Process::spawn("dave", group)?;
    story.tell(&format!("dave  joins, in process {}", dave.0.id()));
    story.wait_for(["anna  sees dave".into(), "ben   sees dave".into()])?;
    // An open connection that ends is a reason to look at once. Without one, its silence is noticed after the drop time of 3 s.
    for member in [&anna, &ben] {
        member.send_all("hello dave", SendOptions::ACK)?;
    }
    dave.0.kill()?;
    let start = now();
    story.tell("dave  is killed, without a goodbye");
    story.wait_for(["anna  is told that dave failed".into()])?;
    story.tell(&format!("anna  knew {:.0?} after it", start.elapsed()));
    story.wait_for(["ben   is told that dave failed".into()])?;
    println!("\nAll went as it should. Next: `cargo run --release --example node -- --help`, one member as a tool.");
    Ok(())
}

/// Starts a member that tells what it sees and hears.
fn join(name: &'static str, group: SocketAddr, lines: &Sender<String>) -> Result<GroupChannel, Box<dyn Error>> {
    let (told, next) = (lines.clone(), AtomicU64::new(0));
    let on_message = move |message: &Message| {
        let body = message.bytes();
        if let Ok(number) = body[..].try_into().map(u64::from_be_bytes) {
            // One of very many: count them, and look whether they are in order.
            let in_order = next.fetch_add(1, Ordering::Relaxed) == number;
            return if !in_order {
                Err("out of order")
            } else {
                let _ = (number + 1 == MANY).then(|| told.send(format!("{name:5} got them all, in order")));
                Ok(())
            };
        }
        let text = String::from_utf8_lossy(&body);
        if name == "ben" && text == "trouble" {
            return Err("ben does not like trouble");
        }
        let _ = told.send(format!("{name:5} got {text:?} from {}", name_of(message.sender())));
        Ok(())
    };
    let told = lines.clone();
    let on_membership = move |event: &Event| {
        let _ = match event {
            Event::Added(member) => told.send(format!("{name:5} sees {}", name_of(member))),
            Event::Removed(member, Departure::Left) => told.send(format!("{name:5} is told that {} left", name_of(member))),
            Event::Removed(member, _) => told.send(format!("{name:5} is told that {} failed", name_of(member))),
            _ => Ok(()),
        };
    };
    let channel = builder(name, group).on_message(on_message).on_membership(on_membership).start()?;
    lines.send(format!("{name:5} receives at {}", channel.local().address()))?;
    Ok(channel)
}

fn builder(name: &str, group: SocketAddr) -> ChannelBuilder {
    let loopback = Ipv4Addr::LOCALHOST;
    let membership = Multicast::new(MulticastConfig::default().group(group).interface(loopback));
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind((loopback, 4000).into()));
    GroupChannel::builder().membership(membership).receiver(receiver).payload(name.to_owned())
}

/// In this example a member's payload is its name.
fn name_of(member: &Member) -> String {
    String::from_utf8_lossy(member.payload()).into_owned()
}

/// A member in a process of its own, which ends when this one does.
struct Process(Child);

impl Process {
    fn spawn(name: &str, group: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let myself = std::env::current_exe()?;
        Ok(Self(Command::new(myself).args([name, &group.to_string()]).stdin(Stdio::piped()).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn live_until_killed(name: &str, group: SocketAddr) -> Result<(), Box<dyn Error>> {
    let _channel = builder(name, group).start()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Prints what happens, with the time, and waits for what must happen.
struct Story {
    start: Instant,
    read: Receiver<String>,
    told: BTreeSet<String>,
}

impl Story {
    fn tell(&self, line: &str) {
        println!("{:8.3} s  {line}", self.start.elapsed().as_secs_f64());
    }

    fn wait_for(&mut self, lines: impl IntoIterator<Item = String>) -> Result<(), Box<dyn Error>> {
        let mut missing: BTreeSet<_> = lines.into_iter().filter(|line| !self.told.contains(line)).collect();
        while !missing.is_empty() {
            let line = self.read.recv_timeout(Duration::from_secs(10)).map_err(|_| format!("did not happen: {missing:?}"))?;
            missing.remove(&line);
            if self.told.insert(line.clone()) {
                self.tell(&line);
            }
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the times that are printed")]
fn now() -> Instant {
    Instant::now()
}
