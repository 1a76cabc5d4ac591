//! The interceptors that ship with the crate, one file each.
//!
//! | interceptor | what it does | Tribes |
//! | --- | --- | --- |
//! | [`MessageDispatch`] | bounds what is queued by asynchronous sends | `MessageDispatchInterceptor` |
//! | [`TcpFailureDetector`] | shows only members that answer, and finds out when one does not | `TcpFailureDetector` |
//!
//! Both leave the bytes on the wire as they are. Without a stack of its own a channel has both, in this order.

mod message_dispatch;
mod tcp_failure_detector;

pub use message_dispatch::{DispatchMonitor, DispatchStats, MessageDispatch, WhenFull};
pub use tcp_failure_detector::{DetectorMonitor, DetectorStats, TcpFailureDetector};
