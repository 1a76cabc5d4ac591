//! The limit: plain blocking TCP that carries as many bytes as the frames would have, and does nothing else.
//!
//! Acknowledged traffic is a ping-pong of whole frames and 21-byte answers. Unacknowledged traffic is a stream in large writes
//! that ends in one answer. A connection begins with five bytes: the mode, and the length of a frame.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::node::{Problem, now};
use crate::role::{Flags, Round, commands, print};

/// What Tribes adds to a body: frame, message and the sender's Member package with an IPv4 address.
pub(crate) const OVERHEAD: usize = 135;
const ACK: [u8; 21] = *b"FLT2002\x00\x00\x00\x03\x06\x02\x03TLF2003";
const PING_PONG: u8 = b'p';
const STREAM: u8 = b's';
/// One write of a stream of small frames, and one read of any stream.
const BUFFER: usize = 256 * 1024;

pub(crate) fn run(role: &str, flags: &Flags<'_>) -> Result<(), Problem> {
    match role {
        "sink" => sink(flags),
        "source" => source(flags),
        other => Err(format!("raw TCP has no role {other:?}").into()),
    }
}

#[derive(Default)]
struct Counter {
    frames: AtomicU64,
    bytes: AtomicU64,
}

fn sink(flags: &Flags<'_>) -> Result<(), Problem> {
    let listener = TcpListener::bind(flags.one("--listen").unwrap_or("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let counter = Arc::new(Counter::default());
    let counted = Arc::clone(&counter);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            // The end of the connection is an error like any other: the thread is done.
            thread::spawn(move || serve(stream, &counted));
        }
    });
    print!({"event": "ready", "host": address.ip(), "port": address.port(), "id": "none"});
    commands(|command| {
        match command {
            "report" => {
                let (count, bytes) = (counter.frames.load(Ordering::Acquire), counter.bytes.load(Ordering::Acquire));
                print!({"event": "report", "count": count, "bytes": bytes, "first_ns": 0, "last_ns": 0});
            }
            _ => {
                counter.frames.store(0, Ordering::Release);
                counter.bytes.store(0, Ordering::Release);
            }
        }
        Ok(())
    })
}

fn serve(mut stream: TcpStream, counter: &Counter) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [mode, length @ ..] = head;
    let frame = u32::from_be_bytes(length) as usize;
    let count = |frames: u64| {
        counter.bytes.fetch_add(frames * (frame - OVERHEAD) as u64, Ordering::Release);
        counter.frames.fetch_add(frames, Ordering::Release);
    };
    if mode == PING_PONG {
        let mut buffer = vec![0; frame];
        loop {
            stream.read_exact(&mut buffer)?;
            count(1);
            stream.write_all(&ACK)?;
        }
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut frames = [0; 8];
        stream.read_exact(&mut frames)?;
        let frames = u64::from_be_bytes(frames);
        let mut left = frames * frame as u64;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match stream.read(&mut buffer[..room])? {
                0 => return Ok(()),
                read => left -= read as u64,
            }
        }
        count(frames);
        stream.write_all(&ACK)?;
    }
}

fn source(flags: &Flags<'_>) -> Result<(), Problem> {
    let options: u32 = flags.number("--options", 2)?;
    let frame = flags.number("--size", 1024)? + OVERHEAD;
    let count: usize = flags.number("--count", 10_000)?;
    let threads: usize = flags.number("--threads", 1)?;
    let warmup: usize = flags.number("--warmup", 0)?;
    let mode = if options & 2 == 0 { STREAM } else { PING_PONG };

    let mut lanes = Vec::new();
    for _ in 0..threads {
        let mut streams = Vec::new();
        for target in flags.all("--to") {
            let (address, _) = target.rsplit_once(':').ok_or("a target is HOST:PORT:ID")?;
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.write_all(&[mode])?;
            stream.write_all(&u32::try_from(frame)?.to_be_bytes())?;
            streams.push(stream);
        }
        lanes.push(streams);
    }
    let mut round = |count: usize| -> Result<Round, Problem> {
        if mode == STREAM { stream(&mut lanes[0][0], frame, count) } else { ping_pong(&mut lanes, frame, count) }
    };
    round(warmup)?;
    print!({"event": "ready"});
    commands(|_| {
        round(count)?.print();
        Ok(())
    })
}

/// Each thread writes to all its connections, then reads all answers.
fn ping_pong(lanes: &mut [Vec<TcpStream>], frame: usize, count: usize) -> Result<Round, Problem> {
    let share = count / lanes.len();
    let times = Mutex::new(Vec::with_capacity(count));
    let problem = Mutex::new(None);
    let start = now();
    thread::scope(|scope| {
        for lane in lanes {
            let (times, problem) = (&times, &problem);
            scope.spawn(move || {
                let mut mine = Vec::with_capacity(share);
                match exchange(lane, frame, share, &mut mine) {
                    Ok(()) => times.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine),
                    Err(error) => *problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                }
            });
        }
    });
    let elapsed = start.elapsed();
    match problem.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(Round::new(elapsed, times.into_inner().unwrap_or_else(PoisonError::into_inner))),
    }
}

fn exchange(lane: &mut [TcpStream], frame: usize, count: usize, times: &mut Vec<u64>) -> std::io::Result<()> {
    let bytes = vec![b'x'; frame];
    let mut answer = [0; ACK.len()];
    for _ in 0..count {
        let start = now();
        for stream in lane.iter_mut() {
            stream.write_all(&bytes)?;
        }
        for stream in lane.iter_mut() {
            stream.read_exact(&mut answer)?;
        }
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// Small frames leave many to a write, large ones one by one.
fn stream(stream: &mut TcpStream, frame: usize, count: usize) -> Result<Round, Problem> {
    let at_once = (BUFFER / frame).max(1);
    let bytes = vec![b'x'; at_once * frame];
    let start = now();
    stream.write_all(&(count as u64).to_be_bytes())?;
    let mut left = count;
    while left > 0 {
        let frames = left.min(at_once);
        stream.write_all(&bytes[..frames * frame])?;
        left -= frames;
    }
    stream.read_exact(&mut [0; ACK.len()])?;
    Ok(Round::new(start.elapsed(), vec![0; count]))
}
