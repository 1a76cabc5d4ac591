//! Probes: a few threads that connect, each to one member after another.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;

use super::connection::is_timeout;
use super::lock;
use crate::member::Member;
use crate::stack::{Probe, ProbeRequest};
use crate::transport::ProbeDone;

/// Probes that run at once.
const MAX_RUNNING: usize = 16;
/// Probes that wait; those on top of them find nobody.
const MAX_WAITING: usize = 1024;

#[derive(Default)]
pub(super) struct Probes(Mutex<State>);

#[derive(Default)]
struct State {
    running: usize,
    waiting: VecDeque<(Member, ProbeRequest, ProbeDone)>,
    stopped: bool,
}

impl Probes {
    pub(super) fn start(self: &Arc<Self>, member: Member, request: ProbeRequest, done: ProbeDone) {
        let mut state = lock(&self.0);
        if state.stopped || state.waiting.len() >= MAX_WAITING {
            drop(state);
            return done(Probe::Unreachable);
        }
        state.waiting.push_back((member, request, done));
        if state.running == MAX_RUNNING {
            return;
        }
        let probes = Arc::clone(self);
        match thread::Builder::new().name("tribes-probe".into()).spawn(move || probes.run()) {
            Ok(_) => state.running += 1,
            Err(error) => {
                log::warn!("no thread for a probe: {error}");
                let own = if state.running == 0 { state.waiting.pop_back() } else { None };
                drop(state);
                if let Some((.., done)) = own {
                    done(Probe::Unreachable);
                }
            }
        }
    }

    /// Those that wait find nobody; those that run end by their time-outs.
    pub(super) fn stop(&self) {
        let waiting = {
            let mut state = lock(&self.0);
            state.stopped = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(.., done)| done(Probe::Unreachable));
    }

    fn run(&self) {
        loop {
            let next = {
                let mut state = lock(&self.0);
                let next = state.waiting.pop_front();
                state.running -= usize::from(next.is_none());
                next
            };
            let Some((member, request, done)) = next else { return };
            done(probe(&member, &request).unwrap_or_else(|error| match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Probe::Refused,
                _ => Probe::Unreachable,
            }));
        }
    }
}

fn probe(member: &Member, request: &ProbeRequest) -> io::Result<Probe> {
    let mut stream = TcpStream::connect_timeout(&member.address(), request.connect_timeout)?;
    stream.set_write_timeout(Some(request.answer_timeout))?;
    stream.write_all(&request.frame)?;
    if !request.expect_answer {
        return Ok(Probe::Alive);
    }
    stream.set_read_timeout(Some(request.answer_timeout))?;
    match stream.read(&mut [0; 64]) {
        Ok(0) => Ok(Probe::Unreachable),
        Ok(_) => Ok(Probe::Alive),
        Err(error) if is_timeout(error.kind()) => Ok(Probe::Unreachable),
        Err(error) => Err(error),
    }
}
