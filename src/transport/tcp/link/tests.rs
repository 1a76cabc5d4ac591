//! Tables of what a link decides.

use super::*;
use crate::id::UniqueId;
use crate::message::Body;
use crate::options::SendOptions;

pub(crate) fn message(options: u32, body: &[u8]) -> Message {
    let sender = Member::new(([127, 0, 0, 1], 1).into());
    Message::from_parts(UniqueId::from_bytes([1; 16]), SendOptions::from_bits(options), 0, sender, Body::from(body.to_vec()))
}

#[expect(clippy::disallowed_methods, reason = "a test needs some point in time to start from")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn pending(message: Message) -> Pending {
    let leg = Leg::detached(message.sender().clone());
    Pending::new(message, leg, start(), false)
}
