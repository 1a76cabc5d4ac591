//! What a person or a program types.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tribes::{GroupChannel, Member, Receipt, SendError, SendOptions};

use crate::flags;
use crate::report::{Blasted, Report, now};

/// Runs one line; `false` ends the tool.
pub(crate) fn run(line: &str, channel: &GroupChannel, report: &Arc<Report>) -> Result<bool, Box<dyn Error>> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "" => {}
        "members" => report.members(channel.members().iter()),
        "send" => {
            let (options, text) = rest.split_once(' ').unwrap_or((rest, ""));
            send(channel, report, everybody(channel), options.parse()?, text);
        }
        "to" => {
            let mut words = rest.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (address, options, text) = (flags::address(word())?, word().parse()?, word());
            let member = channel.members().by_address(address).cloned().ok_or_else(|| format!("no member at {address}"))?;
            send(channel, report, vec![member], options, text);
        }
        "blast" => {
            let words: Vec<_> = rest.split_whitespace().collect();
            let [options, size, count, ref threads @ ..] = words[..] else {
                return Err("blast OPTIONS SIZE COUNT [THREADS]".into());
            };
            let threads = threads.first().map_or(Ok(1), |threads| threads.parse())?;
            report.blasted(&blast(channel, options.parse()?, size.parse()?, count.parse()?, threads));
        }
        "payload" => channel.set_payload(flags::latin(rest))?,
        "domain" => channel.set_domain(flags::latin(rest))?,
        "stats" => report.stats(&channel.stats()),
        "quit" => return Ok(false),
        unknown => return Err(format!("unknown command {unknown}; --help lists them").into()),
    }
    Ok(true)
}

/// Sends one message and reports its outcome when it is known, so that a slow member does not hold up the next line.
fn send(channel: &GroupChannel, report: &Arc<Report>, members: Vec<Member>, options: SendOptions, text: &str) {
    let (report, destinations, start) = (Arc::clone(report), members.len(), now());
    let sending = channel.send_with(members, text.as_bytes().to_vec(), options);
    sending.on_complete(move |outcome| match outcome {
        Ok(receipt) => report.sent(options, receipt.id, destinations, start.elapsed()),
        Err(error) => report.failed(options, &error),
    });
}

/// Sends `count` messages from some threads, each waiting for one before the next, or with `async` queueing them.
fn blast(channel: &GroupChannel, options: SendOptions, size: usize, count: u64, threads: u64) -> Blasted {
    let members = everybody(channel);
    let (failed, first, start) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)), now());
    // Every message holds a clone; the receiver's end comes with the last outcome.
    let (open, all_known) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for thread in 0..threads.max(1) {
            let (members, failed, first, open) = (&members, &failed, &first, open.clone());
            scope.spawn(move || {
                for sequence in (thread..count).step_by(threads.max(1) as usize) {
                    let (failed, first, open) = (Arc::clone(failed), Arc::clone(first), open.clone());
                    let note = move |outcome: Result<Receipt, SendError>| {
                        if let Err(error) = outcome {
                            failed.fetch_add(1, Ordering::Relaxed);
                            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                        drop(open);
                    };
                    if options.contains(SendOptions::ASYNC) {
                        channel.send_with(members.clone(), body(sequence, size), options).on_complete(note);
                    } else {
                        note(channel.send(members.clone(), body(sequence, size), options));
                    }
                }
            });
        }
    });
    drop(open);
    let _ = all_known.recv();
    let (took, failed) = (start.elapsed(), failed.load(Ordering::Relaxed));
    let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    Blasted { options, count, failed, destinations: members.len(), took, first }
}

fn everybody(channel: &GroupChannel) -> Vec<Member> {
    channel.members().iter().cloned().collect()
}

/// Eight bytes of the sequence number where they fit, then words of a xorshift generator that starts from it: a receiver can tell
/// which message it is, and that it is whole.
fn body(sequence: u64, size: usize) -> Bytes {
    let mut body = Vec::with_capacity(size + 8);
    if size >= 8 {
        body.extend(sequence.to_be_bytes());
    }
    let mut state = sequence + 1;
    while body.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend(state.to_be_bytes());
    }
    body.truncate(size);
    body.into()
}
