//! What the stack costs: nanoseconds per message, and what each layer adds.
//!
//! `cargo bench --bench stack`. With `--smoke`, and without `--bench` among its arguments (as `cargo test` calls it), everything runs once,
//! briefly.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tribes::interceptors::{MessageDispatch, TcpFailureDetector};
use tribes::stack::{Context, Event, Inbound, Interceptor, Outbound, Output, Probe, Reply, Stack, StackBuilder, Time};
use tribes::{Leg, Member, Message, SendOptions, Sending, UniqueId};

fn main() {
    let has = |wanted: &str| std::env::args().any(|arg| arg == wanted);
    let rounds = if has("--bench") && !has("--smoke") { 40 } else { 1 };
    let layers = 8;
    println!("{:<44} {:>10} {:>14}", "1 KiB body, one destination, ns per message", "down", "up");
    let bare = report("no layers", rounds, StackBuilder::new());
    let mut stack = StackBuilder::new();
    for name in ["1", "2", "3", "4", "5", "6", "7", "8"].into_iter().take(layers) {
        stack = stack.push(Counting { name, messages: 0 });
    }
    let eight = report("8 layers that count messages", rounds, stack);
    let per_layer = |eight: f64, bare: f64| (eight - bare) / 8.0;
    println!("{:<44} {:>10.1} {:>14.1}", "  each", per_layer(eight.0, bare.0), per_layer(eight.1, bare.1));
    report("TcpFailureDetector", rounds, StackBuilder::new().push(TcpFailureDetector::default()));
    report("MessageDispatch", rounds, StackBuilder::new().push(MessageDispatch::default()));
    let skipped = StackBuilder::new().push_for(SendOptions::SECURE, Counting { name: "skipped", messages: 0 });
    report("a layer bound to options, skipped", rounds, skipped);
    println!();
    println!("{:<44} {:>10.1}", "asynchronous send, with its gate", gated(rounds));
}

/// A layer as users write them: does a little, passes on.
struct Counting {
    name: &'static str,
    messages: u64,
}

impl Interceptor for Counting {
    fn name(&self) -> &'static str {
        self.name
    }

    fn outbound(&mut self, cx: &mut Context<'_>, msg: Outbound) {
        self.messages += 1;
        cx.send(msg);
    }

    fn inbound(&mut self, cx: &mut Context<'_>, msg: Inbound) {
        self.messages += 1;
        cx.deliver(msg);
    }
}

fn report(name: &str, rounds: u32, builder: StackBuilder) -> (f64, f64) {
    let mut rig = Rig::new(builder);
    let (down, up) = (rig.down(rounds), rig.up(rounds));
    println!("{name:<44} {down:>10.1} {up:>14.1}");
    (down, up)
}

/// Gate, stack and settling of an asynchronous message.
fn gated(rounds: u32) -> f64 {
    let mut rig = Rig::new(StackBuilder::new().push(MessageDispatch::default()).push(TcpFailureDetector::default()));
    let gates = rig.stack.gates().to_vec();
    let (peer, body, time) = (rig.peer.clone(), rig.body.clone(), rig.time);
    let options = SendOptions::ASYNC | SendOptions::BYTE_MESSAGE;
    best_of(rounds, || {
        let (sending, mut legs) = Sending::new(UniqueId::from_bytes([1; 16]), [peer.clone()]);
        for (bits, gate) in &gates {
            if options.contains(*bits) {
                (legs, _) = gate.enter(options, body.len(), legs);
            }
        }
        rig.stack.handle_send(time, Outbound::new(message(options, &peer, &body), legs));
        rig.settle();
        drop(sending);
    })
}

struct Rig {
    stack: Stack,
    peer: Member,
    body: Bytes,
    time: Time,
}

impl Rig {
    fn new(builder: StackBuilder) -> Self {
        let member = |port| Member::new(([127, 0, 0, 1], port).into());
        let time = Time { instant: now(), epoch_millis: 0 };
        let mut stack = builder.build(member(4000), 1).expect("the layers fit");
        stack.handle_event(time, Event::Added(member(4001)));
        while let Some(output) = stack.poll_output() {
            if let Output::Probe { layer, member, .. } = output {
                stack.handle_probed(time, layer, &member, Probe::Alive);
            }
        }
        Self { stack, peer: member(4001), body: Bytes::from(vec![7; 1024]), time }
    }

    fn down(&mut self, rounds: u32) -> f64 {
        let (peer, body, time) = (self.peer.clone(), self.body.clone(), self.time);
        best_of(rounds, || {
            let legs = vec![Leg::detached(peer.clone())];
            self.stack.handle_send(time, Outbound::new(message(SendOptions::BYTE_MESSAGE, &peer, &body), legs));
            self.settle();
        })
    }

    fn up(&mut self, rounds: u32) -> f64 {
        let (peer, body, time) = (self.peer.clone(), self.body.clone(), self.time);
        best_of(rounds, || {
            let msg = Inbound::new(message(SendOptions::BYTE_MESSAGE, &peer, &body), Reply::none());
            self.stack.handle_receive(time, msg);
            self.settle();
        })
    }

    fn settle(&mut self) {
        while let Some(output) = self.stack.poll_output() {
            if let Output::Transmit(msg) = black_box(output) {
                msg.legs.into_iter().for_each(Leg::delivered);
            }
        }
    }
}

fn message(options: SendOptions, sender: &Member, body: &Bytes) -> Message {
    Message::from_parts(UniqueId::from_bytes([1; 16]), options, 0, sender.clone(), body.clone().into())
}

/// Nanoseconds per call in the best of the rounds: the others were disturbed.
fn best_of(rounds: u32, mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 10_000;
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let start = now();
        (0..CALLS).for_each(|_| call());
        best = best.min(now() - start);
    }
    best.as_secs_f64() * 1e9 / f64::from(CALLS)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
fn now() -> Instant {
    Instant::now()
}
