//! An engine that is told anything, for fuzzing.

use std::time::Duration;

use super::change::Change;
use super::codec::{self, Names};
use super::config::{Config, Copies};
use super::message::Want;
use super::{Engine, Outcome, Output};
use crate::id::{Capabilities, UniqueId};
use crate::member::Member;
use crate::stack::Time;

/// An engine with a few entries and a peer gets messages that the peer made up: each is a length, a kind, and that many bytes. It must not
/// panic, and must not hold more than what it was sent and its own entries.
pub(crate) fn session_messages(mut data: &[u8]) {
    let member =
        |port, random| Member::new(([127, 0, 0, 1], port).into()).with_id(UniqueId::from_random(Capabilities::ALL, random));
    let (local, peer) = (member(4000, 1), member(4001, 2));
    let mut time = Time { instant: crate::clock::now(), epoch_millis: 1_790_000_000_000 };
    let config = Config { copies: Copies::Everywhere, max_entries: 64, ..Config::default() };
    let mut engine = Engine::new(config, local, time);
    engine.member_added(time, &peer);
    for number in 0..16_u8 {
        let change = Change::Create { lease: Duration::from_secs(2), attributes: vec![("a".into(), Some("value".into()))] };
        // Sixteen entries fit.
        let _ = engine.commit(time, &[number; 16], change, Want::None);
    }
    let mut names = Names::default();
    while let [length, kind, rest @ ..] = data {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let mut bytes = Vec::from(codec::MAGIC);
        bytes.extend([1, *kind]);
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend(body);
        if let Ok(message) = codec::decode(&mut names, 0, &bytes) {
            let again = codec::decode(&mut names, 0, &codec::encode(0, &message));
            assert_eq!(again, Ok(message), "what is read is written so that it is read alike");
        }
        let _ = engine.receive(time, &peer, &bytes);
        time.instant += Duration::from_millis(300);
        time.epoch_millis += 300;
        engine.timeout(time);
        let mut outputs = 0;
        while let Some(output) = engine.poll_output() {
            outputs += 1;
            assert!(outputs < 10_000, "one message has few consequences");
            if let Output::Send(send) = output
                && let Some(token) = send.token
            {
                let outcome = if body.len() % 2 == 0 { Outcome::Accepted } else { Outcome::Failed };
                send.to.iter().for_each(|to| engine.sent(time, token, to, outcome));
            }
        }
        assert!(engine.table.len() <= 64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec::tests::any_message;
    use super::super::codec::{HEADER, encode};

    proptest! {
        #[test]
        fn whatever_a_message_holds_an_engine_stands_it(messages in proptest::collection::vec(any_message(), 1..12)) {
            let mut data = Vec::new();
            for bytes in messages.iter().map(|message| encode(0, message)) {
                if let Ok(length) = u8::try_from(bytes.len() - HEADER) {
                    data.extend([length, bytes[5]]);
                    data.extend(&bytes[HEADER..]);
                }
            }
            super::session_messages(&data);
        }

        #[test]
        fn whatever_a_peer_says_an_engine_stands(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            super::session_messages(&data);
        }

        #[test]
        fn whatever_a_peer_says_in_short_an_engine_stands(parts in proptest::collection::vec((1..16_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let data: Vec<u8> = parts.into_iter().flat_map(|(kind, body)| [vec![body.len() as u8, kind], body].concat()).collect();
            super::session_messages(&data);
        }
    }
}
