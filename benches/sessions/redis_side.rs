//! Redis: Debian's server, which the harness starts and stops, and the client that Rust programs use.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, Connection, cmd};

use crate::Plan;
use crate::load::{self, Until, value};
use crate::members::{numbers, port_of};
use crate::node::{Node, Problem, Usage, free_port, now, pause};
use crate::role::{Flags, commands, print};
use crate::side::Side;

const SERVER: &str = "redis-server";

/// What the server calls itself, if there is one.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(SERVER).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

/// A server that keeps nothing on disk. It is killed, by its own process id, when it is dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub(crate) fn start(plan: &Plan) -> Result<Self, Problem> {
        let port = free_port()?;
        let mut command = Command::new(SERVER);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let server = Self { child, port };
        let start = now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > plan.patience {
                return Err(format!("{SERVER} does not listen at port {port}").into());
            }
            pause(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// A process that speaks to it, with as many connections.
    pub(crate) fn client(&self, plan: &Plan, connections: usize) -> Result<Node, Problem> {
        let flags = ["--port", &self.port.to_string(), "--connections", &connections.to_string()].map(str::to_owned);
        let node = plan.launcher.start(Side::Redis, "client", 1, &flags)?;
        node.expect("waiting", plan.patience)?;
        Ok(node)
    }

    pub(crate) fn usage(&self) -> Result<Usage, Problem> {
        Usage::of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role of a client. Its commands are those of our own nodes.
pub(crate) fn client(flags: &Flags<'_>) -> Result<(), Problem> {
    let client = Client::open(format!("redis://127.0.0.1:{}/", port_of(flags)?))?;
    let connections: usize = flags.number("--connections", 1)?;
    let mut connections = (0..connections).map(|_| client.get_connection()).collect::<Result<Vec<_>, _>>()?;
    let mut keys = 0;
    print!({"event": "waiting"});
    commands(|command| {
        match command.split(' ').next().unwrap_or_default() {
            "fill" => {
                let [count, threads, size] = numbers(command)?;
                keys = count;
                let start = now();
                set(&mut connections, threads, count, keys, size);
                print!({"event": "filled", "seconds": start.elapsed().as_secs_f64()});
            }
            "commit" => {
                let [count, threads, size] = numbers(command)?;
                set(&mut connections, threads, count, keys, size).print();
            }
            "read" => {
                let [count] = numbers(command)?;
                let (start, mut found) = (now(), 0);
                for number in 0..count {
                    let value: Option<Vec<u8>> = cmd("GET").arg(key(number % keys)).query(&mut connections[0])?;
                    found += usize::from(value.is_some());
                }
                print!({"event": "reads", "seconds": start.elapsed().as_secs_f64(), "found": found});
            }
            other => return Err(format!("there is no command {other:?}").into()),
        }
        Ok(())
    })
}

/// As long as a session's id.
fn key(number: usize) -> String {
    format!("session:{number:014}")
}

fn set(connections: &mut [Connection], threads: usize, count: usize, keys: usize, size: usize) -> crate::role::Round {
    let lanes = connections.iter_mut().take(threads).map(|connection| {
        move |number: usize| {
            let value = value(size, number as u64);
            cmd("SET").arg(key(number % keys)).arg(&value[..]).query::<()>(connection).map_err(|error| error.to_string())
        }
    });
    load::run(lanes.collect(), Until::Count(count))
}
