//! How kind the simulated network is.

use std::time::Duration;

/// How the network of a [`Simulator`](super::Simulator) behaves. By default it is fast and loses nothing.
///
/// Shares are between 0 and 1.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub(super) latency: (Duration, Duration),
    pub(super) loss: f64,
    pub(super) duplicates: f64,
    pub(super) stalls: f64,
    pub(super) breaks: f64,
    pub(super) settle_within: Duration,
}

impl SimConfig {
    /// How long a packet takes, at least and at most. Default: 0.1 to 0.5 ms.
    #[must_use]
    pub fn latency(mut self, least: Duration, most: Duration) -> Self {
        self.latency = (least, most.max(least));
        self
    }

    /// The share of datagrams that are lost: heartbeats, goodbyes, multicast messages. Default: 0.
    #[must_use]
    pub fn loss(mut self, share: f64) -> Self {
        self.loss = share;
        self
    }

    /// The share of datagrams that arrive twice. Default: 0.
    #[must_use]
    pub fn duplicates(mut self, share: f64) -> Self {
        self.duplicates = share;
        self
    }

    /// The share of packets that take up to 100 times as long as the others. It puts datagrams out of order; the bytes of a
    /// connection stay in order and wait behind. Default: 0.
    #[must_use]
    pub fn stalls(mut self, share: f64) -> Self {
        self.stalls = share;
        self
    }

    /// The share of frames and acknowledgements at which their connection is reset, before or after they arrive. Default: 0.
    #[must_use]
    pub fn breaks(mut self, share: f64) -> Self {
        self.breaks = share;
        self
    }

    /// How long a send may take until its outcome is known. Default: 12 s, as the simulated sender gives up after 10 s.
    #[must_use]
    pub fn settle_within(mut self, bound: Duration) -> Self {
        self.settle_within = bound;
        self
    }
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            latency: (Duration::from_micros(100), Duration::from_micros(500)),
            loss: 0.0,
            duplicates: 0.0,
            stalls: 0.0,
            breaks: 0.0,
            settle_within: Duration::from_secs(12),
        }
    }
}
