//! The receiving half of an endpoint.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Endpoint, Inbox, Shared, lock};
use crate::transport::{Listening, MessageSink, Receiver, ReceiverStats};

/// Receives what is sent to its address on a [`Network`](super::Network).
///
/// Listeners run on a thread for each sender, so that a slow one delays no other.
#[derive(Debug)]
pub struct MemoryReceiver {
    network: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    /// Of links that are closed by now.
    past: ReceiverStats,
}

impl MemoryReceiver {
    pub(super) fn new(network: Arc<Shared>, endpoint: Arc<Endpoint>) -> Self {
        Self { network, endpoint, past: ReceiverStats::default() }
    }
}

impl Receiver for MemoryReceiver {
    fn start(&mut self, sink: MessageSink) -> io::Result<Listening> {
        if self.endpoint.is_crashed() {
            return Err(ErrorKind::NetworkDown.into());
        }
        let newest = self.network.lock().endpoint(self.endpoint.address);
        let mut listening = lock(&self.endpoint.listening);
        if listening.is_some() || newest.is_none_or(|newest| !Arc::ptr_eq(&newest, &self.endpoint)) {
            return Err(ErrorKind::AddrInUse.into());
        }
        *listening = Some(Inbox { sink, links: Vec::new(), past: ReceiverStats::default() });
        Ok(Listening::tcp(self.endpoint.address))
    }

    fn stop(&mut self) {
        self.past = self.stats();
        self.past.connections = 0;
        self.endpoint.stop_listening();
    }

    fn stats(&self) -> ReceiverStats {
        let mut stats = self.past;
        if let Some(inbox) = &*lock(&self.endpoint.listening) {
            let now = inbox.stats();
            stats.connections = inbox.links.iter().filter(|link| !link.is_closed()).count();
            stats.accepted += now.accepted;
            stats.messages += now.messages;
            stats.bytes += now.bytes;
        }
        stats
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inbox {
    /// Forgets links that have ended, but not what they did.
    pub(super) fn sweep(&mut self) {
        let ended: Vec<_> = self.links.extract_if(.., |link| link.is_closed()).collect();
        for link in ended {
            self.past.accepted += 1;
            self.past.messages += link.messages.load(Ordering::Relaxed);
            self.past.bytes += link.bytes.load(Ordering::Relaxed);
        }
    }

    fn stats(&self) -> ReceiverStats {
        let mut stats = self.past;
        stats.accepted += self.links.len() as u64;
        for link in &self.links {
            stats.messages += link.messages.load(Ordering::Relaxed);
            stats.bytes += link.bytes.load(Ordering::Relaxed);
        }
        stats
    }
}
