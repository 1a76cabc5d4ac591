//! The TCP transport: non-blocking, few threads, a window of frames in flight, callers that write and read for themselves.

mod acks;
mod busy_poll;
mod config;
mod conn;
mod link;
mod outbox;
mod peer;
mod probe;
mod reactor;
mod receiver;
mod sender;
mod standby;

#[cfg(test)]
mod tests;

pub use config::TcpSenderConfig;
pub use receiver::{TcpReceiver, TcpReceiverConfig};
pub use sender::TcpSender;
