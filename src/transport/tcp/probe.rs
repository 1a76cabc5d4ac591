//! Probes: whether a member answers, found out by connecting to it, and by sending it something if asked to.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use bytes::{Buf, Bytes};
use mio::{Interest, Registry, Token};
use socket2::Socket;

use super::config::TcpSenderConfig;
use super::conn;
use crate::member::Member;
use crate::stack::{Probe, ProbeRequest};
use crate::transport::ProbeDone;

/// A probe that was asked for.
pub(super) struct Wanted {
    pub(super) member: Member,
    pub(super) request: ProbeRequest,
    pub(super) done: ProbeDone,
}

/// The probes that run.
#[derive(Default)]
pub(super) struct Probing {
    running: HashMap<usize, Running>,
}

struct Running {
    stream: mio::net::TcpStream,
    /// Another handle of the same socket, until it is connected.
    opening: Option<Socket>,
    unsent: Bytes,
    expect_answer: bool,
    request: ProbeRequest,
    deadline: Instant,
    done: ProbeDone,
}

impl Probing {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.values().map(|probe| probe.deadline).min()
    }

    pub(super) fn start(&mut self, key: usize, wanted: Wanted, config: &TcpSenderConfig, registry: &Registry, now: Instant) {
        let Wanted { member, request, done } = wanted;
        let opened = conn::open(member.address(), config).and_then(|socket| {
            let mut stream = mio::net::TcpStream::from_std(TcpStream::from(socket.try_clone()?));
            registry.register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
            Ok((socket, stream))
        });
        match opened {
            Ok((socket, stream)) => {
                let probe = Running {
                    stream,
                    opening: Some(socket),
                    unsent: request.frame.clone(),
                    expect_answer: request.expect_answer,
                    deadline: now + request.connect_timeout,
                    request,
                    done,
                };
                self.running.insert(key, probe);
            }
            Err(error) => done(outcome(&error)),
        }
    }

    /// Something happened on the socket of a probe.
    pub(super) fn event(&mut self, key: usize, registry: &Registry, now: Instant) {
        let Some(probe) = self.running.get_mut(&key) else { return };
        let result = match probe.go_on(now) {
            Ok(None) => return,
            Ok(Some(result)) => result,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => outcome(&error),
        };
        self.finish(key, registry, result);
    }

    /// Ends the probes whose time is over.
    pub(super) fn expire(&mut self, now: Instant, registry: &Registry) {
        let over: Vec<_> = self.running.iter().filter(|(_, probe)| probe.deadline <= now).map(|(key, _)| *key).collect();
        for key in over {
            self.finish(key, registry, Probe::Unreachable);
        }
    }

    /// Ends all, and those that never started.
    pub(super) fn end(self, waiting: VecDeque<Wanted>) {
        let waiting = waiting.into_iter().map(|wanted| wanted.done);
        for done in self.running.into_values().map(|probe| probe.done).chain(waiting) {
            done(Probe::Unreachable);
        }
    }

    fn finish(&mut self, key: usize, registry: &Registry, result: Probe) {
        let Some(mut probe) = self.running.remove(&key) else { return };
        if let Err(error) = registry.deregister(&mut probe.stream) {
            log::debug!("the socket of a probe was not registered: {error}");
        }
        (probe.done)(result);
    }
}

impl Running {
    fn go_on(&mut self, now: Instant) -> io::Result<Option<Probe>> {
        if let Some(socket) = &self.opening {
            let Some(opened) = conn::opened(socket) else { return Ok(None) };
            opened?;
            self.opening = None;
            self.deadline = now + self.request.answer_timeout;
        }
        while !self.unsent.is_empty() {
            let count = self.stream.write(&self.unsent)?;
            self.unsent.advance(count);
        }
        if !self.expect_answer {
            return Ok(Some(Probe::Alive));
        }
        let count = self.stream.read(&mut [0; 64])?;
        Ok(Some(if count == 0 { Probe::Unreachable } else { Probe::Alive }))
    }
}

fn outcome(error: &io::Error) -> Probe {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Probe::Refused,
        _ => Probe::Unreachable,
    }
}
