//! What an application does: a channel, a manager on it, and threads that serve requests. Here a request is a line of standard input,
//! `VERB NUMBER ID VALUE`, and its answer is a line of standard output, `VERB NUMBER ...`.

use std::error::Error;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tribes::GroupChannel;
use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::session::BackupManager;
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

/// Threads that serve requests.
const WORKERS: usize = 8;

/// Serves until it is drained, is killed, or the driver is gone.
pub(crate) fn serve(group: SocketAddr, listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let multicast = MulticastConfig::default().group(group).interface(Ipv4Addr::LOCALHOST);
    let channel = GroupChannel::builder()
        .membership(Multicast::new(multicast))
        .receiver(TcpReceiver::new(TcpReceiverConfig::default().bind(listen)))
        .start()?;
    // Each session on its owner and on one backup; a commit returns when a backup has confirmed it.
    let sessions = BackupManager::builder("/shop").backups(1).start(&channel)?;
    say(&format!("listens {}", channel.local().address()));
    if !sessions.wait_ready(Duration::from_secs(10)) {
        return Err("the others did not send what they have".into());
    }
    say("ready");

    let worker = |_| {
        let (requests, taken) = mpsc::channel::<String>();
        let sessions = sessions.clone();
        let thread = thread::spawn(move || taken.iter().for_each(|request| answer(&sessions, &request)));
        (requests, thread)
    };
    let workers: Vec<_> = (0..WORKERS).map(worker).collect();
    for (line, number) in std::io::stdin().lines().zip(0..) {
        match &*line? {
            "drain" => {
                for (requests, thread) in workers {
                    drop(requests);
                    thread.join().map_err(|_| "a worker panicked")?;
                }
                // What only this member holds goes to the others; then it may go, too.
                let drained = sessions.drain(Duration::from_secs(5));
                say(&format!("drained {}", drained.remaining.len()));
                return Ok(());
            }
            "holds" => {
                let (held, at_risk) = (sessions.statistics(), sessions.at_risk().len());
                say(&format!("holds {} {} {at_risk}", held.owned, held.backup));
            }
            request => workers[number % WORKERS].0.send(request.to_owned())?,
        }
    }
    Ok(())
}

fn answer(sessions: &BackupManager, request: &str) {
    let words: Vec<_> = request.split(' ').collect();
    let answer = respond(sessions, words[0], words[2], words[3]).unwrap_or_else(|error| format!("failed: {error}"));
    say(&format!("{} {} {answer}", words[0], words[1]));
}

/// What was found (`-` for nothing), and for a change also the id and how many other members have confirmed it.
fn respond(sessions: &BackupManager, verb: &str, id: &str, value: &str) -> Result<String, Box<dyn Error>> {
    let known = if verb == "create" { Some(sessions.create()?) } else { sessions.get(&id.parse()?)? };
    let Some(mut session) = known else { return Ok("gone".to_owned()) };
    let found = session.get("cart").map_or_else(|| "-".to_owned(), |cart| String::from_utf8_lossy(&cart).into_owned());
    if verb == "read" {
        return Ok(found);
    }
    session.set("cart", value.to_owned())?;
    let receipt = session.commit()?;
    Ok(format!("{found} {} {}", session.id(), receipt.confirmed.len()))
}

/// Says a line to the driver. When that is gone, so is this process.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
