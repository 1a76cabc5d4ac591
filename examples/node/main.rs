//! One member as a tool, the netcat of a group: joins a cluster of Tomcat's or ours, shows what happens, sends what you type.
//!
//! ```text
//! cargo run --release --example node -- --interface 127.0.0.1          (in two terminals; then type: send use_ack hello)
//! cargo run --release --example node -- --help
//! ```
//!
//! `flags` reads the command line, `commands` what is typed, `report` prints: for a person, or as JSON (`json`) for a program.

mod commands;
mod flags;
mod json;
mod report;

use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::Arc;

use tribes::membership::multicast::{Multicast, MulticastConfig};
use tribes::membership::static_members::StaticMembers;
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig, TcpSender, TcpSenderConfig};
use tribes::transport::udp::{UdpConfig, UdpTransport};
use tribes::{GroupChannel, Message, Parts};

use crate::flags::Flags;
use crate::report::Report;

fn main() -> ExitCode {
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if flags.help {
        print!("{}", flags::HELP);
        return ExitCode::SUCCESS;
    }
    let report = Arc::new(Report::new(flags.json));
    let outcome = run(&flags, &report);
    if let Err(problem) = &outcome {
        report.error(problem.as_ref());
    }
    report.finish();
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(flags: &Flags, report: &Arc<Report>) -> Result<(), Box<dyn Error>> {
    let mut builder = GroupChannel::builder()
        .receiver(TcpReceiver::new(match flags.listen_address() {
            Some(address) => TcpReceiverConfig::default().bind(address),
            None => TcpReceiverConfig::default(),
        }))
        .sender(TcpSender::new(TcpSenderConfig::default().timeout(flags.timeout)))
        .domain(flags.domain.clone())
        .payload(flags.payload.clone());
    if let Some(port) = flags.udp_port {
        let mut config = UdpConfig::default().port(port);
        if let Some(address) = flags.listen_address() {
            config = config.host(address.ip());
        }
        builder = builder.udp(UdpTransport::new(config));
    }
    builder = if flags.members.is_empty() {
        let mut config = MulticastConfig::default().group(flags.group);
        if let Some(address) = flags.interface {
            config = config.interface(address);
        }
        builder.membership(Multicast::new(config))
    } else {
        builder.membership(StaticMembers::new(flags.members.iter().copied()))
    };
    let parts = if flags.observe { Parts::RECEIVE | Parts::SEND | Parts::OBSERVE } else { Parts::ALL };
    let (events, messages, fail_on) = (Arc::clone(report), Arc::clone(report), flags.fail_on.clone());
    let channel = builder
        .on_membership(move |event| events.membership(event))
        .on_message(move |message: &Message| messages.message(message, fail_on.as_deref()))
        .start_parts(parts)?;
    report.started(&channel.local());

    for line in std::io::stdin().lock().lines() {
        match commands::run(line?.trim_end(), &channel, report) {
            Ok(true) => {}
            Ok(false) => break,
            Err(problem) => report.error(problem.as_ref()),
        }
    }
    channel.stop();
    report.stopped();
    Ok(())
}
