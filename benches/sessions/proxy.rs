//! A TCP proxy that counts: what passes through it is what is on the wire, frames and acknowledgements included.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::node::Problem;

/// Passes on what comes to [`address`](Self::address), both ways, until the process ends.
pub(crate) struct Proxy {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> Result<Self, Problem> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, bytes) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&bytes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A target that does not answer is seen as a connection that ends.
                let _ = join(stream, target, &counter);
            }
        });
        Ok(Self { address, bytes })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has passed through, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
}

fn join(near: TcpStream, target: SocketAddr, counter: &Arc<AtomicU64>) -> std::io::Result<()> {
    let far = TcpStream::connect(target)?;
    for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
        to.set_nodelay(true)?;
        let counter = Arc::clone(counter);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                counter.fetch_add(read as u64, Ordering::Release);
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
