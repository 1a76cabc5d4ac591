//! An interceptor of one's own: a label on every message, so that a test cluster and the real one never hear each other, though
//! they share a network.
//!
//! ```text
//! cargo run --example custom_interceptor
//! ```

use std::error::Error;
use std::sync::mpsc;

use bytes::Bytes;
use tribes::interceptors::{MessageDispatch, TcpFailureDetector};
use tribes::membership::memory::Hub;
use tribes::stack::{Context, Inbound, Interceptor, Outbound, StackBuilder};
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};
use tribes::{GroupChannel, Message, SendOptions};

/// Adds a label to what is sent, takes it off what is received, and rejects what has another.
struct Label(&'static str);

impl Interceptor for Label {
    fn name(&self) -> &'static str {
        "Label"
    }

    fn outbound(&mut self, cx: &mut Context<'_>, mut msg: Outbound) {
        msg.message.body_mut().push_back(self.0);
        cx.send(msg);
    }

    fn inbound(&mut self, cx: &mut Context<'_>, mut msg: Inbound) {
        let label = msg.message.body_mut().pop_back(self.0.len());
        if label == Some(Bytes::from_static(self.0.as_bytes())) {
            cx.deliver(msg);
        } else {
            msg.reply.reject();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let hub = Hub::new();
    let member = |label| {
        let stack = StackBuilder::new().push(Label(label)).push(MessageDispatch::default()).push(TcpFailureDetector::default());
        let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind(([127, 0, 0, 1], 0).into()));
        GroupChannel::builder().membership(hub.membership()).receiver(receiver).stack(stack).start()
    };
    let (anna, ben, intruder) = (member("#live")?, member("#live")?, member("#test")?);

    let (heard, hears) = mpsc::channel();
    let _listener = ben.on_message(move |message: &Message| heard.send(message.bytes()));

    anna.send([ben.local()], "hello ben", SendOptions::SYNC_ACK)?;
    let text = hears.recv()?;
    assert_eq!(text, "hello ben", "the label is gone");
    println!("ben heard from anna: {text:?}");

    let error = intruder.send([ben.local()], "hello?", SendOptions::SYNC_ACK).expect_err("another label");
    println!("the intruder is told: {error}");
    assert!(hears.try_recv().is_err(), "ben's listener never saw it");
    Ok(())
}
