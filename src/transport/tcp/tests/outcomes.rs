//! What becomes of a message: delivered, rejected, refused, timed out, or left when the sender stops.

use super::*;

#[test]
fn every_option_is_delivered_attended_and_queued() {
    // Who looks for its acknowledgement until it comes, who sleeps at once, and who does as it is by default.
    for config in [patient(), patient().busy_poll(Duration::ZERO), patient().busy_poll(LONG)] {
        let server = Server::new(|_, _| Does::Answer);
        let node = Node::new(config);
        for options in [0, 2, 4, 6, 8, 10, 14] {
            assert!(node.call(&[&server.member], options, "attended").is_ok(), "{options}");
            assert!(finish(node.queue(&[&server.member], options, "queued")).is_ok(), "{options}");
        }
        assert!(server.seen(14).iter().all(|seen| seen.connection == 0), "one connection per destination");
        let stats = node.sender.stats();
        assert_eq!((stats.connections, stats.connected, stats.frames, stats.failed, stats.resent), (1, 1, 14, 0, 0));
    }
}

#[test]
fn a_rejected_message_fails_once_and_is_not_sent_again() {
    let server = Server::new(|_, message| if message.body() == &b"bad"[..] { Does::Reject } else { Does::Answer });
    let node = Node::new(patient());
    let faults = causes(node.call(&[&server.member], 6, "bad"));
    assert!(matches!(faults[..], [(_, FaultCause::Rejected)]));
    assert!(node.call(&[&server.member], 6, "good").is_ok());
    assert_eq!(server.seen(2).len(), 2);
    assert!(node.lost.try_recv().is_err(), "the member is well");
}

#[test]
fn one_dead_destination_among_three_fails_alone_and_quickly() {
    let (one, two, dead) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Answer), refusing());
    let node = Node::new(patient());
    let begin = now();
    let faults = causes(node.call(&[&one.member, &dead, &two.member], 6, "hello"));
    assert!(matches!(&faults[..], [(member, FaultCause::Connect(_))] if *member == dead));
    assert!(now() - begin < LONG / 2, "it does not wait for a time-out");
    assert_eq!((one.seen(1).len(), two.seen(1).len()), (1, 1));
    node.lost(&dead);
}

#[test]
fn a_mute_destination_times_out_alone() {
    let (well, mute) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Nothing));
    let timeout = Duration::from_millis(300);
    let node = Node::new(TcpSenderConfig::default().timeout(timeout));
    let faults = causes(node.call(&[&mute.member, &well.member], 6, "hello"));
    assert!(matches!(&faults[..], [(member, FaultCause::Timeout(limit))] if *member == mute.member && *limit == timeout));
    node.lost(&mute.member);
    assert_eq!(mute.seen(1).len(), 1, "a message that timed out is not sent again");
    // Nobody calls for this one.
    assert!(matches!(causes(finish(node.queue(&[&mute.member], 2, "again")))[..], [(_, FaultCause::Timeout(_))]));
    assert!(node.call(&[&well.member], 6, "still well").is_ok());
}

#[test]
fn sixteen_mebibytes_arrive_whole() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let body: Bytes = (0..16 << 20).map(|at: u32| (at >> 7) as u8).collect::<Vec<_>>().into();
    assert!(node.call(&[&server.member], 6, body.clone()).is_ok());
    assert!(finish(node.queue(&[&server.member], 0, body.clone())).is_ok());
    assert!(server.seen(2).iter().all(|seen| seen.body == body));
}

#[test]
fn what_is_too_large_or_too_much_is_refused_at_once() {
    let node = Node::new(patient().max_message(100).queue(2, 1 << 20));
    let faults = causes(node.call(&[&refusing()], 2, vec![0; 101]));
    assert!(matches!(faults[..], [(_, FaultCause::TooLarge { size: 101, limit: 100 })]));
    let blocked = Blocked::new();
    let node = Node::new(patient().queue(2, 1 << 30));
    let (server, sendings) = (&blocked.member, blocked.fill(&node));
    let full = (0..3).map(|_| node.queue(&[server], 0, "more")).last().expect("three");
    assert!(matches!(causes(finish(full))[..], [(_, FaultCause::QueueFull)]));
    node.sender.disconnect(server);
    sendings.into_iter().for_each(|sending| drop(finish(sending)));
}

/// A listener that accepts and never reads.
struct Blocked {
    member: Member,
    listener: TcpListener,
}

impl Blocked {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self { member: Member::new(listener.local_addr().expect("bound")), listener }
    }

    /// Sends more than the socket buffers hold, and waits until it is taken.
    fn fill(&self, node: &Node) -> Vec<Sending> {
        let sending = node.queue(&[&self.member], 0, vec![0; 64 << 20]);
        let _ = self.listener.accept().expect("a connection");
        let begin = now();
        while node.sender.stats().bytes == 0 {
            assert!(now() - begin < LONG, "nothing is written");
            thread::yield_now();
        }
        vec![sending]
    }
}

#[test]
fn a_destination_that_does_not_read_delays_no_other() {
    let (blocked, well) = (Blocked::new(), Server::new(|_, _| Does::Answer));
    let node = Node::new(patient());
    let stuck = blocked.fill(&node);
    for _ in 0..100 {
        assert!(node.call(&[&well.member], 6, "hello").is_ok());
        assert!(finish(node.queue(&[&well.member], 2, "hello")).is_ok());
    }
    let mixed = node.send(&[&blocked.member, &well.member], 6, "both", Urgency::Attended);
    well.seen(201);
    assert!(stuck.iter().all(|sending| !sending.is_done()) && !mixed.is_done());
    node.sender.disconnect(&blocked.member);
    assert!(matches!(&causes(finish(mixed))[..], [(member, _)] if *member == blocked.member));
}

#[test]
fn a_destination_that_does_not_read_times_out() {
    let blocked = Blocked::new();
    let node = Node::new(TcpSenderConfig::default().timeout(Duration::from_millis(300)));
    let sending = node.queue(&[&blocked.member], 0, vec![0; 64 << 20]);
    let (_open, _) = blocked.listener.accept().expect("a connection");
    assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Timeout(_))]));
    node.lost(&blocked.member);
}

#[test]
fn stop_writes_and_awaits_what_is_queued() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..1000).map(|at| node.queue(&[&server.member], at % 2 * 2, vec![7; 1000])).collect();
    node.sender.stop(LONG);
    assert!(sendings.iter().all(Sending::is_done));
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    assert!(matches!(causes(node.call(&[&server.member], 2, "late"))[..], [(_, FaultCause::Stopped)]));
    assert_eq!(server.seen(1000).len(), 1000);
}

#[test]
fn stop_reports_what_it_could_not_send() {
    let mute = Server::new(|_, _| Does::Nothing);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..10).map(|_| node.queue(&[&mute.member], 2, "hello")).collect();
    mute.seen(10);
    node.sender.stop(Duration::from_millis(20));
    for sending in sendings {
        assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Stopped)]));
    }
    node.sender.start(LinkSink::new(|_| {})).expect_err("a sender starts once");
}

#[test]
fn disconnect_fails_what_is_owed_and_a_later_send_connects_again() {
    let server = Server::new(|connection, _| if connection == 0 { Does::Nothing } else { Does::Answer });
    let node = Node::new(patient());
    let sending = node.queue(&[&server.member], 2, "hello");
    server.seen(1);
    node.sender.disconnect(&server.member);
    assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Connection(_))]));
    assert!(node.call(&[&server.member], 2, "again").is_ok());
}
