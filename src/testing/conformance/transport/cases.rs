//! The promises, one function each.

use std::time::Duration;

use super::Suite;
use super::node::{Handling, PATIENCE, cause, settled};
use crate::completion::FaultCause;
use crate::options::{Acknowledgement, SendOptions};
use crate::stack::{Probe, ProbeRequest};

/// The option words that Tribes users choose among.
const OPTIONS: [u32; 7] = [0, 2, 4, 6, 8, 10, 14];

pub(super) fn arrives_as_sent(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    for options in OPTIONS {
        // An unknown bit must survive, and so must a body in several pieces.
        let mut body = crate::message::Body::from("first ");
        body.push_back("second");
        let options = options | 0x4000_0000;
        let receipt = a.send(&[&b], options, body).expect("delivered");
        assert_eq!(receipt.delivered, 1);
        let message = b.inbox.next();
        assert_eq!(message.bytes(), "first second");
        assert_eq!(message.id(), receipt.id);
        assert_eq!(message.options(), SendOptions::from_bits(options) | suite.profile.options);
        assert!(message.sender().same_value(&a.member));
    }
    let stats = b.received();
    assert!(stats.messages >= OPTIONS.len() as u64, "{stats:?}");
    assert_eq!(stats.malformed, 0, "{stats:?}");
}

pub(super) fn receipt_before_handling(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    b.inbox.set(Handling::Block);
    assert!(settled(a.begin(&[&b], 2, "x")).is_ok(), "acknowledged though the listener blocks");
    b.inbox.until_blocked();
    b.inbox.set(Handling::Accept);
    b.inbox.next();
}

pub(super) fn answered_when_handled(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    b.inbox.set(Handling::Keep);
    for options in OPTIONS {
        let sending = a.begin(&[&b], options, "x");
        let mut kept = b.inbox.until_kept(1);
        let inbound = kept.remove(0);
        let awaited = SendOptions::from_bits(options).acknowledgement() == Acknowledgement::Processed;
        assert_eq!(inbound.reply.is_awaited(), awaited, "options {options}");
        if awaited {
            assert!(!sending.is_done(), "done before the listener is");
        }
        drop(inbound);
        assert!(settled(sending).is_ok(), "options {options}");
    }
}

pub(super) fn rejection(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    b.inbox.set(Handling::Reject);
    for _ in 0..3 {
        assert!(matches!(cause(a.send(&[&b], 6, "x")), FaultCause::Rejected));
    }
    b.inbox.set(Handling::Accept);
    assert!(a.send(&[&b], 6, "x").is_ok());
    assert_eq!(b.inbox.drain(), 4, "a message that was rejected has arrived, and is not sent again");
}

pub(super) fn order(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    let count = 1000_u32;
    let sendings: Vec<_> =
        (0..count).map(|number| a.begin(&[&b], [0, 2, 6, 2][number as usize % 4], number_body(number))).collect();
    for number in 0..count {
        assert_eq!(body_number(&b.inbox.next().bytes()), number);
    }
    sendings.into_iter().for_each(|sending| assert!(settled(sending).is_ok()));
    assert!(a.send(&[&b], 6, "the end").is_ok());
    assert_eq!(b.inbox.drain(), 1, "no duplicates");
}

pub(super) fn sizes(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    let max = suite.profile.max_body;
    // A prime length: no piece of a body looks like the piece a power of two further on.
    let pattern: Vec<u8> = (0..251).collect();
    let sizes = [0, 1, 2, 7, 1000, 4095, 65_372, 65_536, 1 << 20, 16 << 20, max];
    for size in sizes.into_iter().filter(|size| *size <= max) {
        for options in [0, 2, 6] {
            let body = pattern.repeat(size / pattern.len() + 1)[..size].to_vec();
            assert!(a.send(&[&b], options, body.clone()).is_ok(), "{size} bytes with options {options}");
            assert!(b.inbox.next().bytes() == body, "{size} bytes with options {options} changed on the way");
        }
    }
}

pub(super) fn too_large(suite: &Suite<'_>) {
    if !suite.profile.bounded {
        return;
    }
    let [a, b] = suite.nodes();
    for options in [0, 2] {
        let body = vec![0; suite.profile.max_body + 1];
        assert!(matches!(cause(a.send(&[&b], options, body)), FaultCause::TooLarge { .. }));
    }
    assert!(a.send(&[&b], 2, "x").is_ok());
}

pub(super) fn dead_among_three(suite: &Suite<'_>) {
    let [a, b, dead, d] = suite.nodes();
    dead.stop_receiver();
    for options in if suite.profile.stream { &[0, 2, 6][..] } else { &[2, 6] } {
        let error = a.send(&[&b, &dead, &d], *options, "x").expect_err("one is dead");
        assert_eq!(error.destinations, 3);
        assert_eq!(error.faults.len(), 1, "{error}");
        assert_eq!(error.faults[0].member, dead.member);
        b.inbox.next();
        d.inbox.next();
        if suite.profile.stream {
            a.inbox.until_lost(&dead.member);
        }
    }
}

pub(super) fn slow_among_three(suite: &Suite<'_>) {
    let [a, b, slow, d] = suite.nodes();
    slow.inbox.set(Handling::Block);
    let stuck = a.begin(&[&slow], 6, "x");
    slow.inbox.until_blocked();
    for _ in 0..20 {
        assert!(a.send(&[&b, &d], 6, "x").is_ok());
    }
    assert!(!stuck.is_done(), "nobody has handled it");
    slow.inbox.set(Handling::Accept);
    assert!(settled(stuck).is_ok());
}

pub(super) fn probes(suite: &Suite<'_>) {
    let [a, b, dead] = suite.nodes();
    dead.stop_receiver();
    assert_eq!(a.probe(&b, ProbeRequest::connect(PATIENCE)), Probe::Alive);
    assert_eq!(a.probe(&dead, ProbeRequest::connect(PATIENCE)), Probe::Refused);
    a.sender.stop(Duration::ZERO);
    assert_ne!(a.probe(&b, ProbeRequest::connect(PATIENCE)), Probe::Alive, "a stopped sender connects to nobody");
}

pub(super) fn probe_with_answer(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    let mut request = ProbeRequest::connect(PATIENCE);
    request.frame = a.probe_frame();
    request.expect_answer = true;
    assert_eq!(a.probe(&b, request), Probe::Alive);
    assert_eq!(b.inbox.next().bytes(), "probe");
    // A message without acknowledgement is never answered, so the time runs out.
    let plain = crate::message::Message::from_parts(
        crate::id::UniqueId::from_bytes([9; 16]),
        SendOptions::NONE,
        0,
        a.member.clone(),
        "silent".into(),
    );
    let mut request = ProbeRequest::connect(PATIENCE);
    request.frame = crate::wire::frame::to_bytes(&plain);
    request.expect_answer = true;
    request.answer_timeout = Duration::from_millis(50);
    assert_eq!(a.probe(&b, request), Probe::Unreachable);
}

pub(super) fn many_threads(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    let (threads, each) = (8_u32, 200_u32);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (a, b) = (&a, &b);
            scope.spawn(move || {
                for number in 0..each {
                    let options = if number % 2 == 0 { 6 } else { 2 };
                    a.send(&[b], options, number_body(thread << 16 | number)).expect("delivered");
                }
            });
        }
    });
    let mut next = vec![0; threads as usize];
    for _ in 0..threads * each {
        let number = body_number(&b.inbox.next().bytes());
        let (thread, number) = (number as usize >> 16, number & 0xffff);
        assert_eq!(number, next[thread], "each waited for the one before, so none can be overtaken");
        next[thread] += 1;
    }
    assert_eq!(b.inbox.drain(), 0, "no duplicates");
}

pub(super) fn disconnect(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    b.inbox.set(Handling::Keep);
    let sendings: Vec<_> = (0..20).map(|_| a.begin(&[&b], 6, "x")).collect();
    let kept = b.inbox.until_kept(1);
    a.sender.disconnect(&b.member);
    for sending in sendings {
        assert!(settled(sending).is_err(), "nobody answered");
    }
    drop(kept);
    b.inbox.set(Handling::Accept);
    assert!(a.send(&[&b], 6, "x").is_ok(), "a member that is sent to again is connected to again");
}

pub(super) fn stop_drains(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    // No more than a datagram socket's buffer holds.
    let sendings: Vec<_> = (0..50).map(|number| a.begin(&[&b], 2, number_body(number))).collect();
    a.sender.stop(PATIENCE);
    for sending in sendings {
        assert!(sending.is_done(), "stop returns when everything is settled");
        assert!(settled(sending).is_ok());
    }
    let received = std::iter::repeat_with(|| b.inbox.next()).take(50).count();
    assert_eq!(received, 50);
}

pub(super) fn stop_settles(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    b.inbox.set(Handling::Keep);
    let sendings: Vec<_> = (0..20).map(|_| a.begin(&[&b], 6, "x")).collect();
    let _unanswered = b.inbox.until_kept(1);
    a.sender.stop(Duration::from_millis(10));
    for sending in sendings {
        assert!(sending.is_done(), "stop returns when everything is settled");
        assert!(settled(sending).is_err());
    }
    for options in [0, 2, 6] {
        assert!(matches!(cause(a.send(&[&b], options, "x")), FaultCause::Stopped));
    }
    a.sender.stop(PATIENCE);
}

pub(super) fn stopped_receiver(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    assert!(a.send(&[&b], 6, "x").is_ok());
    let sendings: Vec<_> = (0..100).map(|_| a.begin(&[&b], 0, "x")).collect();
    b.stop_receiver();
    b.inbox.drain();
    sendings.into_iter().for_each(|sending| drop(settled(sending)));
    assert!(a.send(&[&b], 2, "x").is_err());
    assert_eq!(b.inbox.drain(), 0, "nothing after the stop");
    b.stop_receiver();
}

pub(super) fn ends_are_told(suite: &Suite<'_>) {
    let [a, b, c] = suite.nodes();
    assert!(a.send(&[&b, &c], 2, "x").is_ok());
    c.inbox.next();
    c.stop_receiver();
    // Some notice at once, some at the next send.
    let _ = a.send(&[&c], 2, "x");
    a.inbox.until_lost(&c.member);
    b.inbox.next();
    a.sender.stop(Duration::ZERO);
    b.inbox.until_disconnected(&a.member);
}

pub(super) fn successor(suite: &Suite<'_>) {
    let [a, b] = suite.nodes();
    assert!(a.send(&[&b], 6, "x").is_ok());
    b.inbox.next();
    b.stop_receiver();
    assert!(a.send(&[&b], 2, "x").is_err());
    let next = suite.node();
    assert!(a.send(&[&next], 6, "x").is_ok());
    assert_eq!(next.inbox.next().bytes(), "x");
    assert_eq!(b.inbox.drain(), 0);
}

fn number_body(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn body_number(body: &[u8]) -> u32 {
    u32::from_be_bytes(body.try_into().expect("four bytes"))
}
