//! Sessions that survive: three member processes hold some hundred sessions that change all the time. One member is killed, then all
//! are restarted one after another; each request looks whether it finds what was confirmed last, and after each blow all sessions are read
//! through all members. Ends by itself, with an error when anything was lost.
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
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(group: &str, listen: &str) -> Result<(), Box<dyn Error>> {
    member::serve(group.parse()?, listen.parse()?)
}

fn tell_the_story() -> Result<(), Box<dyn Error>> {
    // Tomcat's multicast address, at a port that nobody uses now: two examples do not meet.
    let port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    let mut all = Cluster::start(SocketAddr::from(([228, 0, 0, 4], port)))?;
    all.until_ready()?;
    all.tell("anna, ben and carol have started and found each other");
    all.loading = true;
    all.until_copied()?;
    all.tell(&format!("{SESSIONS} sessions created; from now on they change all the time"));
    all.go_on(Duration::from_millis(2000))?;

    all.kill(BEN)?;
    all.tell("ben is killed in the middle of its work (SIGKILL)");
    all.verify()?;
    all.until_copied()?;
    all.tell("anna and carol have made the missing copies");
    all.go_on(Duration::from_millis(1000))?;
    all.restart(BEN)?;
    all.tell("ben is back and holds its share again");
    all.go_on(Duration::from_millis(1000))?;

    all.tell("now a rolling restart: each hands over, leaves and comes back");
    for (member, name) in NAMES.iter().enumerate() {
        all.drain(member)?;
        all.tell(&format!("{name} has handed over its sessions and left"));
        all.verify()?;
        all.go_on(Duration::from_millis(800))?;
        all.restart(member)?;
        all.tell(&format!("{name} is back and holds its share again"));
        all.go_on(Duration::from_millis(1000))?;
    }
    all.verify()?;
    all.conclude()
}
