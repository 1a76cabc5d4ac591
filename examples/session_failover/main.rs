//! Sessions that survive: three member processes hold some hundred sessions that change all the time. One member is killed, then all
//! are restarted one after another, and each session is looked up again. Ends by itself, with an error when anything was lost.
//!
//! ```text
//! cargo run --release --example session_failover
//! ```
//!
//! Read `member` first: that is what an application does. The rest is the experiment: `cluster` starts such processes and is their load
//! balancer, `screen` draws.

mod cluster;
mod member;
mod screen;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use cluster::Cluster;

/// Sessions that are created, and changed all the time.
const SESSIONS: usize = 300;
const NAMES: [&str; 3] = ["anna", "ben", "carol"];
/// The killed one.
const BEN: usize = 1;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    let outcome = match &arguments[..] {
        [_, group, listen] => serve(group, listen),
        _ => tell_the_story(),
    };
    if let Err(error) = &outcome {
        eprintln!("\nFAILED: {error}");
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(group: &str, listen: &str) -> Result<(), Box<dyn Error>> {
    member::serve(group.parse()?, listen.parse()?)
}

fn tell_the_story() -> Result<(), Box<dyn Error>> {
    // Tomcat's multicast address, at a port that nobody uses now: two examples do not meet.
    let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    let mut all = Cluster::start(SocketAddr::from(([228, 0, 0, 4], port)))?;
    all.until_ready()?;
    all.tell("three processes have found each other");
    all.loading = true;
    all.until_copied()?;
    all.tell(&format!("{SESSIONS} sessions are there, each with an owner and a backup; they are changed all the time"));
    all.go_on(Duration::from_millis(2500))?;

    all.kill(BEN)?;
    all.tell("ben was killed, with SIGKILL, in the middle of its work");
    all.until_copied()?;
    all.tell("anna and carol have taken over: each session has an owner and a backup again");
    all.go_on(Duration::from_millis(1500))?;
    all.verify()?;
    all.restart(BEN)?;
    all.tell("ben is back, with its share");
    all.go_on(Duration::from_millis(1500))?;

    all.tell("now a rolling restart, as for a new release: one after another hands over, leaves, and comes back");
    for (member, name) in NAMES.iter().enumerate() {
        all.drain(member)?;
        all.tell(&format!("{name} has handed over, and left"));
        all.go_on(Duration::from_millis(600))?;
        all.restart(member)?;
        all.tell(&format!("{name} is back, with its share"));
        all.go_on(Duration::from_millis(900))?;
    }
    all.verify()?;
    all.conclude()
}
