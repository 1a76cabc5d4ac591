//! The last step of a message that came in.

use std::sync::Arc;

use crate::channel::contexts::{self, Contexts, Routed};
use crate::channel::listeners::MessageListeners;
use crate::channel::stats::Counters;
use crate::completion::UserCode;
use crate::stack::Inbound;

/// What it takes to hand a message to the listeners, or to its context, on whichever thread.
pub(super) struct Delivery {
    pub(super) listeners: Arc<MessageListeners>,
    pub(super) contexts: Arc<Contexts>,
    pub(super) counters: Counters,
}

impl Delivery {
    pub(super) fn deliver(&self, msg: Inbound) {
        if contexts::is_for_context(msg.message.body()) {
            return self.deliver_to_context(msg);
        }
        self.counters.delivered.add(1);
        let _user_code = UserCode::enter();
        match self.listeners.deliver(&msg.message) {
            Ok(()) => msg.reply.accept(),
            Err(error) => {
                self.counters.rejected.add(1);
                log::warn!("a listener rejected message {} of {}: {error}", msg.message.id(), msg.message.sender());
                msg.reply.reject();
            }
        }
    }

    fn deliver_to_context(&self, msg: Inbound) {
        let _user_code = UserCode::enter();
        let routed = self.contexts.route(&msg.message);
        match routed {
            Routed::Accepted | Routed::Rejected => self.counters.delivered.add(1),
            Routed::Unknown => self.counters.unknown_context.add(1),
        }
        if routed == Routed::Accepted {
            msg.reply.accept();
        } else {
            self.counters.rejected.add(u64::from(routed == Routed::Rejected));
            msg.reply.reject();
        }
    }
}
