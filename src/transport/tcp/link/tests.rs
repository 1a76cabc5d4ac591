//! Tables of what a link decides.

use super::*;
use crate::id::UniqueId;
use crate::message::Body;
use crate::options::SendOptions;

const ACK: u32 = 2;
const NO_ACK: u32 = 0;
const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn message(options: u32, body: &[u8]) -> Message {
    let sender = Member::new(([127, 0, 0, 1], 1).into());
    let (id, options) = (UniqueId::from_bytes([1; 16]), SendOptions::from_bits(options));
    Message::from_parts(id, options, 0, sender, Body::from(body.to_vec()))
}

#[expect(clippy::disallowed_methods, reason = "a test needs some point in time to start from")]
pub(crate) fn start() -> Instant {
    Instant::now()
}

pub(crate) fn pending(message: Message) -> Pending {
    let leg = Leg::detached(message.sender().clone());
    Pending::new(message, leg, start(), false)
}

fn rust_member() -> Member {
    Member::new(([127, 0, 0, 1], 2).into()).with_id(UniqueId::for_member(Capabilities::ALL))
}

fn tribes_member() -> Member {
    rust_member().with_id(UniqueId::random())
}

/// A link with a connection, and a driver that writes all it gets.
struct Driven {
    link: Link,
    now: Instant,
    position: u64,
    /// The bodies that were written, in order.
    wire: Vec<u8>,
    /// Written in part, when the driver is told to stop half way.
    half: Vec<Pending>,
}

impl Driven {
    fn new(config: &TcpSenderConfig) -> Self {
        Self::to(&rust_member(), config)
    }

    fn to(member: &Member, config: &TcpSenderConfig) -> Self {
        let mut link = Link::new(member, config);
        let now = start();
        link.connected(now);
        Self { link, now, position: 0, wire: Vec::new(), half: Vec::new() }
    }

    /// Submits messages whose bodies are one byte each, and a handle for each.
    fn submit(&mut self, messages: &[(u32, u8)]) -> Vec<Sending> {
        let submit = |(options, body): &(u32, u8)| {
            let (sending, mut legs) = Sending::new(UniqueId::from_bytes([*body; 16]), [rust_member()]);
            let leg = legs.pop().expect("one member");
            let refused = self.link.submit(Pending::new(message(*options, &[*body]), leg, self.now, false));
            assert!(refused.is_none());
            sending
        };
        messages.iter().map(submit).collect()
    }

    /// Writes what can be taken; what wants no acknowledgement is settled, unless only a part is `written`.
    fn drive(&mut self, written: bool) {
        let mut taken = Vec::new();
        self.link.take(|pending| taken.push(pending));
        for mut pending in taken {
            self.wire.push(pending.message.bytes()[0]);
            self.position += pending.len as u64;
            pending.end = self.position;
            match (pending.awaits_ack(), written) {
                (true, _) => self.link.launch(pending),
                (false, true) => pending.leg.delivered(),
                (false, false) => self.half.push(pending),
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let (pending, delivered) = self.link.answered(answer).expect("an answer is due");
        if delivered {
            pending.leg.delivered()
        } else {
            pending.leg.fail(FaultCause::Rejected)
        }
        self.link.alive(self.now);
    }

    /// Loses the connection; tells how many are sent again.
    fn lose(&mut self, loss: &Loss) -> u64 {
        let (failed, again) = self.link.lost(loss, self.now, std::mem::take(&mut self.half));
        failed.into_iter().for_each(|(leg, cause)| leg.fail(cause));
        again
    }

    fn reconnect(&mut self) {
        self.link.connected(self.now);
        self.position = 0;
    }

    fn wire(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire)
    }
}

fn cause(sending: Sending) -> FaultCause {
    assert!(sending.is_done());
    sending.wait().expect_err("failed").faults.remove(0).cause
}

#[test]
fn the_window_holds_back_what_wants_an_acknowledgement_and_what_comes_behind_it() {
    let mut link = Driven::new(&TcpSenderConfig::default().window(2, 1 << 20));
    let sendings = link.submit(&[(NO_ACK, 0), (ACK, 1), (ACK, 2), (NO_ACK, 3), (ACK, 4), (NO_ACK, 5)]);
    link.drive(true);
    assert_eq!(link.wire(), [0, 1, 2, 3]);
    assert!(!link.link.can_take());
    link.answer(Answer::Ack);
    link.drive(true);
    assert_eq!(link.wire(), [4, 5]);
    assert!(sendings[..2].iter().all(Sending::is_done) && !sendings[2].is_done());
    link.answer(Answer::Ack);
    link.answer(Answer::FailAck);
    assert!(link.link.is_quiet());
    assert!(link.link.answered(Answer::Ack).is_none(), "no answer is due");
    assert!(matches!(cause(sendings.into_iter().nth(4).expect("six")), FaultCause::Rejected));
}

#[test]
fn a_message_above_the_whole_window_goes_alone() {
    let mut link = Driven::new(&TcpSenderConfig::default().window(100, 10));
    let _sendings = link.submit(&[(ACK, 1), (ACK, 2)]);
    for count in 1..=2 {
        link.drive(true);
        assert_eq!(link.wire(), [count]);
        link.answer(Answer::Ack);
    }
}

#[test]
fn a_tribes_member_gets_nothing_before_it_answered() {
    let mut link = Driven::to(&tribes_member(), &TcpSenderConfig::default());
    let _sendings = link.submit(&[(NO_ACK, 0), (NO_ACK, 1), (ACK, 2), (NO_ACK, 3), (ACK, 4)]);
    for expected in [&[0, 1, 2][..], &[3, 4]] {
        link.drive(true);
        assert_eq!(link.wire(), expected);
        link.drive(true);
        assert!(link.wire().is_empty());
        link.answer(Answer::Ack);
    }
}

#[test]
fn a_negative_answer_counts_as_delivered_when_so_configured() {
    let mut link = Driven::new(&TcpSenderConfig::default().fail_on_negative_ack(false));
    let sending = link.submit(&[(ACK, 1)]).remove(0);
    link.drive(true);
    link.answer(Answer::FailAck);
    assert!(sending.wait().is_ok());
}

#[test]
fn what_a_lost_connection_held_comes_again_in_its_old_order() {
    let mut link = Driven::new(&TcpSenderConfig::default());
    let sendings = link.submit(&[(ACK, 1), (NO_ACK, 2), (ACK, 3)]);
    link.drive(true);
    link.answer(Answer::Ack);
    let more = link.submit(&[(NO_ACK, 4), (ACK, 5), (NO_ACK, 6)]);
    link.drive(false);
    let last = link.submit(&[(ACK, 7)]);
    link.wire();
    assert_eq!(link.lose(&Loss::Connection(ErrorKind::ConnectionReset)), 4);
    assert!(link.link.wants_connection(link.now));
    link.reconnect();
    link.drive(true);
    assert_eq!(link.wire(), [3, 4, 5, 6, 7], "2 was written wholly and wanted no answer");
    (0..3).for_each(|_| link.answer(Answer::Ack));
    for sending in sendings.into_iter().chain(more).chain(last) {
        assert!(sending.wait().is_ok());
    }
}

#[test]
fn a_message_is_sent_again_only_so_often() {
    for retries in 0..3 {
        let mut link = Driven::new(&TcpSenderConfig::default().max_retry_attempts(retries));
        let sending = link.submit(&[(ACK, 1)]).remove(0);
        for _ in 0..retries {
            link.drive(true);
            assert_eq!(link.lose(&Loss::Connection(ErrorKind::ConnectionReset)), 1);
            link.reconnect();
        }
        link.drive(true);
        assert_eq!(link.lose(&Loss::Connection(ErrorKind::ConnectionReset)), 0);
        assert_eq!(link.wire().len(), 1 + retries as usize);
        assert!(matches!(cause(sending), FaultCause::Connection(ErrorKind::ConnectionReset)));
    }
}

#[test]
fn only_silence_counts_not_the_length_of_the_queue() {
    let mut link = Driven::new(&TcpSenderConfig::default().timeout(3 * SECOND));
    let _sendings = link.submit(&[(ACK, 1), (ACK, 2), (ACK, 3)]);
    link.drive(true);
    for _ in 0..2 {
        link.now += 2 * SECOND;
        assert!(!link.link.is_overdue(link.now));
        link.answer(Answer::Ack);
    }
    assert_eq!(link.link.deadline(), Some(link.now + 3 * SECOND));
    assert!(!link.link.is_overdue(link.now + 2 * SECOND));
    assert!(link.link.is_overdue(link.now + 3 * SECOND));
}

#[test]
fn silence_fails_what_waited_as_long_and_the_rest_comes_again() {
    let mut link = Driven::new(&TcpSenderConfig::default().timeout(3 * SECOND));
    let mut sendings = link.submit(&[(ACK, 1)]);
    link.drive(true);
    link.now += 2 * SECOND;
    sendings.extend(link.submit(&[(ACK, 2)]));
    link.drive(true);
    link.now += SECOND;
    assert!(link.link.is_overdue(link.now));
    assert_eq!(link.lose(&Loss::Silence), 1);
    assert!(matches!(cause(sendings.remove(0)), FaultCause::Timeout(limit) if limit == 3 * SECOND));
    link.reconnect();
    link.drive(true);
    assert_eq!(link.wire(), [1, 2, 2]);
    assert_eq!(link.link.deadline(), Some(link.now + 2 * SECOND), "its own three seconds are not prolonged");
    link.now += 2 * SECOND;
    assert_eq!(link.lose(&Loss::Silence), 0);
    assert!(matches!(cause(sendings.remove(0)), FaultCause::Timeout(_)));
}

#[test]
fn silence_fails_what_is_queued_behind_a_full_window_too() {
    let mut link = Driven::new(&TcpSenderConfig::default().window(1, 1 << 20).timeout(3 * SECOND));
    let sendings = link.submit(&[(ACK, 1), (ACK, 2), (NO_ACK, 3)]);
    link.drive(true);
    link.now += 3 * SECOND;
    assert_eq!(link.lose(&Loss::Silence), 0);
    assert!(link.link.is_quiet());
    for sending in sendings {
        assert!(matches!(cause(sending), FaultCause::Timeout(_)));
    }
}

#[test]
fn a_socket_that_takes_nothing_is_silence_and_taking_some_is_not() {
    let mut link = Driven::new(&TcpSenderConfig::default().timeout(3 * SECOND));
    let _sendings = link.submit(&[(NO_ACK, 1)]);
    link.drive(false);
    assert_eq!(link.link.deadline(), None);
    link.link.blocked(link.now);
    assert!(!link.link.can_take() && !link.link.is_quiet());
    assert_eq!(link.link.deadline(), Some(link.now + 3 * SECOND));
    link.link.alive(link.now + SECOND);
    assert_eq!(link.link.deadline(), Some(link.now + 4 * SECOND));
    link.link.unblocked();
    assert_eq!(link.link.deadline(), None);
}

#[test]
fn connecting_is_tried_again_at_once_then_after_growing_pauses_and_then_all_fail() {
    let config = TcpSenderConfig::default().timeout(100 * SECOND).connect_timeout(SECOND);
    let config = config.max_retry_attempts(5).backoff(SECOND, 3 * SECOND);
    let mut link = Driven { link: Link::new(&rust_member(), &config), ..Driven::new(&config) };
    let sendings = link.submit(&[(ACK, 1), (NO_ACK, 2)]);
    for pause in [0, 1, 2, 3, 3] {
        assert!(link.link.wants_connection(link.now));
        link.link.connecting(link.now);
        assert_eq!(link.link.deadline(), Some(link.now + SECOND));
        assert!(!link.link.wants_connection(link.now));
        assert!(link.link.connect_failed(ErrorKind::ConnectionRefused, link.now).is_empty());
        let next = link.now + pause * SECOND;
        assert_eq!(link.link.phase(), Phase::Waiting(next));
        assert_eq!(link.link.wants_connection(link.now), pause == 0);
        link.now = next;
    }
    let failed = link.link.connect_failed(ErrorKind::ConnectionRefused, link.now);
    failed.into_iter().for_each(|(leg, cause)| leg.fail(cause));
    for sending in sendings {
        assert!(matches!(cause(sending), FaultCause::Connect(ErrorKind::ConnectionRefused)));
    }
    assert!(link.link.is_quiet() && link.link.phase() == Phase::Idle);
}

#[test]
fn a_message_that_was_sent_before_may_have_arrived_though_nobody_listens_now() {
    let mut link = Driven::new(&TcpSenderConfig::default());
    let sending = link.submit(&[(ACK, 1)]).remove(0);
    link.drive(true);
    link.lose(&Loss::Connection(ErrorKind::UnexpectedEof));
    for _ in 0..2 {
        let failed = link.link.connect_failed(ErrorKind::ConnectionRefused, link.now);
        failed.into_iter().for_each(|(leg, cause)| leg.fail(cause));
    }
    assert!(matches!(cause(sending), FaultCause::Connection(ErrorKind::ConnectionRefused)));
}

#[test]
fn a_connection_retires_after_so_many_messages_when_all_are_answered() {
    let mut link = Driven::new(&TcpSenderConfig::default().keep_alive_count(2));
    let _sendings = link.submit(&[(ACK, 1), (NO_ACK, 2), (ACK, 3)]);
    link.drive(true);
    assert_eq!(link.wire(), [1, 2]);
    assert!(!link.link.is_retired(), "an answer is due");
    link.answer(Answer::Ack);
    assert!(link.link.is_retired());
    assert_eq!(link.lose(&Loss::Retired), 0);
    assert!(link.link.wants_connection(link.now));
    link.reconnect();
    link.drive(true);
    assert_eq!(link.wire(), [3]);
}

#[test]
fn a_connection_is_closed_when_it_is_old_or_was_idle() {
    let mut link = Driven::new(&TcpSenderConfig::default().idle_timeout(60 * SECOND));
    let begin = link.now;
    assert!(!link.link.review(begin), "just opened");
    assert!(!link.link.review(begin + 59 * SECOND));
    assert!(link.link.review(begin + 60 * SECOND));
    let _sendings = link.submit(&[(NO_ACK, 1)]);
    link.drive(true);
    assert!(!link.link.review(begin + 61 * SECOND), "used since");
    let _unanswered = link.submit(&[(ACK, 2)]);
    assert!(!link.link.review(begin + 121 * SECOND), "something is queued");
    link.drive(true);
    link.answer(Answer::Ack);
    assert!(!link.link.review(begin + 122 * SECOND), "used since");
    assert!(link.link.review(begin + 182 * SECOND));
    let mut link = Driven::new(&TcpSenderConfig::default().keep_alive_time(SECOND));
    link.link.review(link.now);
    assert!(!link.link.is_retired());
    link.link.review(link.now + SECOND);
    assert!(link.link.is_retired());
}

#[test]
fn a_kept_connection_is_opened_without_a_message_and_never_idle() {
    let config = TcpSenderConfig::default().idle_timeout(SECOND).connect_timeout(SECOND);
    let mut link = Link::new(&rust_member(), &config);
    let now = start();
    assert!(!link.wants_connection(now));
    link.keep(now);
    assert!(link.wants_connection(now) && link.is_quiet());
    link.connecting(now);
    link.keep(now);
    assert!(!link.wants_connection(now + SECOND), "one at a time");
    assert_eq!(link.deadline(), Some(now + SECOND));
    assert!(link.connect_failed(ErrorKind::ConnectionRefused, now).is_empty(), "no message failed");
    assert!(link.stands_by() && !link.wants_connection(now + 4 * SECOND) && link.wants_connection(now + 5 * SECOND));
    link.connecting(now);
    link.connected(now);
    assert!(!link.review(now) && !link.review(now + 1000 * SECOND), "not idle");
    // The peer closes it; a message would not wait.
    let (failed, again) = link.lost(&Loss::Connection(ErrorKind::UnexpectedEof), now, Vec::new());
    assert!(failed.is_empty() && again == 0);
    assert!(!link.wants_connection(now + 9 * SECOND) && link.wants_connection(now + 10 * SECOND));
    assert!(link.submit(pending(message(ACK, b"1"))).is_none());
    assert!(link.wants_connection(now));
}

#[test]
fn what_we_close_ourselves_is_not_opened_again_without_a_message() {
    let mut link = Link::new(&rust_member(), &TcpSenderConfig::default().keep_alive_time(Duration::ZERO));
    let now = start();
    for loss in [Loss::Retired, Loss::Closed(FaultCause::Stopped)] {
        link.keep(now);
        link.connecting(now);
        link.connected(now);
        link.review(now);
        assert!(link.is_retired());
        link.lost(&loss, now, Vec::new());
        assert!(!link.stands_by() && !link.wants_connection(now + 1000 * SECOND));
    }
}

#[test]
fn the_queue_is_bounded_in_messages_and_bytes_but_takes_any_one() {
    let config = TcpSenderConfig::default();
    let submit = |link: &mut Link, size: usize| link.submit(pending(message(0, &vec![0; size]))).is_none();
    let mut link = Link::new(&rust_member(), &config.clone().queue(2, usize::MAX));
    assert_eq!([0; 3].map(|size| submit(&mut link, size)), [true, true, false]);
    let mut link = Link::new(&rust_member(), &config.queue(100, 1000));
    assert_eq!([2000, 0].map(|size| submit(&mut link, size)), [true, false]);
    assert_eq!(link.connect_failed(ErrorKind::ConnectionRefused, start()).len(), 0);
    assert_eq!(link.connect_failed(ErrorKind::ConnectionRefused, start()).len(), 1);
    assert_eq!([500, 200, 700].map(|size| submit(&mut link, size)), [true, true, false]);
}

#[test]
fn closing_for_good_fails_everything_with_the_reason() {
    let mut link = Driven::new(&TcpSenderConfig::default().window(1, 1 << 20));
    let sendings = link.submit(&[(NO_ACK, 1), (ACK, 2), (ACK, 3)]);
    link.drive(false);
    assert_eq!(link.lose(&Loss::Closed(FaultCause::Stopped)), 0);
    for sending in sendings {
        assert!(matches!(cause(sending), FaultCause::Stopped));
    }
}
