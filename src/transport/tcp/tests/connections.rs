//! How connections come, are kept and go, and what probes find.

use super::*;

#[test]
fn the_end_of_an_idle_connection_is_noticed_at_once() {
    let server = Server::new(|_, message| if message.body() == &b"last"[..] { Does::Close } else { Does::Answer });
    let node = Node::new(patient());
    for _ in 0..50 {
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
    }
    assert!(node.call(&[&server.member], 0, "last").is_ok());
    node.lost(&server.member);
    assert!(node.call(&[&server.member], 2, "and there it is again").is_ok());
}

/// A peer that says nothing: its listener, and what it is called.
fn silent_peer() -> (TcpListener, Member) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let member = Member::new(listener.local_addr().expect("bound")).with_id(UniqueId::for_member(Capabilities::ALL));
    (listener, member)
}

/// Waits until the sender has tried to connect to whom it was asked to: it takes requests in their order, and a port of the loopback
/// interface answers or refuses before the next that is asked.
fn attempted(node: &Node, member: &Member) {
    for _ in 0..2 {
        let (report, outcome) = mpsc::channel();
        let done = Box::new(move |probe| report.send(probe).expect("the test waits"));
        node.sender.probe(member, ProbeRequest::connect(LONG), done);
        outcome.recv_timeout(LONG).expect("an outcome");
    }
}

#[test]
fn the_end_of_a_member_that_was_never_sent_to_is_noticed() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    let (stream, _) = listener.accept().expect("the sender connects");
    assert!(node.lost.try_recv().is_err());
    drop(stream);
    node.lost(&member);
    assert_eq!(node.sender.stats().failed, 0);
}

#[test]
fn messages_take_the_connection_that_is_kept_and_it_is_not_closed_for_being_idle() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient().idle_timeout(Duration::ZERO));
    let begin = now();
    while node.sender.stats().connections == 0 {
        assert!(now() - begin < LONG, "not connected");
        node.sender.connect(&server.member);
        thread::yield_now();
    }
    for options in [0, 2, 6] {
        node.sender.heartbeat();
        attempted(&node, &server.member);
        node.sender.connect(&server.member);
        assert!(node.call(&[&server.member], options, "attended").is_ok());
        assert!(finish(node.queue(&[&server.member], options, "queued")).is_ok());
    }
    assert!(server.seen(6).iter().all(|seen| seen.connection == 0), "one connection per destination");
    let stats = node.sender.stats();
    assert_eq!((stats.connections, stats.connected, stats.failed, stats.resent), (1, 1, 0, 0));
    assert!(node.lost.try_recv().is_err());
}

#[test]
fn a_peer_that_closes_what_is_idle_is_left_in_peace() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    drop(listener.accept().expect("the sender connects"));
    node.lost(&member);
    for _ in 0..20 {
        node.sender.heartbeat();
        attempted(&node, &member);
    }
    assert!(node.sender.stats().connected < 3, "{:?}", node.sender.stats());
    assert!(node.lost.try_iter().count() < 3, "no storm");
}

#[test]
fn a_member_that_cannot_be_connected_to_fails_nothing_and_is_not_suspect() {
    let (dead, node) = (refusing(), Node::new(patient()));
    node.sender.connect(&dead);
    attempted(&node, &dead);
    assert_eq!((node.sender.stats().failed, node.sender.stats().pending), (0, 0));
    assert!(node.lost.try_recv().is_err(), "only what was there can be lost");
    assert!(matches!(causes(node.call(&[&dead], 6, "hello"))[..], [(_, FaultCause::Connect(_))]));
    node.lost(&dead);
}

#[test]
fn disconnect_closes_the_kept_connection_for_good() {
    let (listener, member) = silent_peer();
    let node = Node::new(patient());
    node.sender.connect(&member);
    let (mut stream, _) = listener.accept().expect("the sender connects");
    node.sender.disconnect(&member);
    assert_eq!(stream.read(&mut [0; 1]).expect("an orderly end"), 0);
    node.sender.heartbeat();
    attempted(&node, &member);
    assert_eq!(node.sender.stats().connections, 0);
    assert!(node.lost.try_recv().is_err(), "we closed it ourselves");
}

#[test]
fn a_placeholder_and_whom_it_stands_for_share_one_connection() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let placeholder = Member::placeholder(server.member.address());
    node.sender.connect(&placeholder);
    for _ in 0..2 {
        for member in [&placeholder, &server.member] {
            assert!(node.call(&[member], 6, "attended").is_ok());
            assert!(finish(node.queue(&[member], 2, "queued")).is_ok());
        }
        node.sender.connect(&server.member);
    }
    assert!(server.seen(8).iter().all(|seen| seen.connection == 0));
    assert_eq!((node.sender.stats().connections, node.sender.stats().connected), (1, 1));
    node.sender.disconnect(&placeholder);
    assert!(node.call(&[&server.member], 6, "attended").is_ok(), "it is the member's by now");
    assert_eq!(node.sender.stats().connected, 1);
}

#[test]
fn no_connection_is_kept_where_none_is_wanted() {
    let (_listener, member) = silent_peer();
    let node = Node::new(patient().keep_connected(false));
    node.sender.connect(&member);
    attempted(&node, &member);
    assert_eq!(node.sender.stats().connected, 0);
}

#[test]
fn connections_are_closed_after_so_many_messages_or_so_long() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient().keep_alive_count(10));
    for count in 0..40 {
        assert!(node.call(&[&server.member], count % 2 * 2, "hello").is_ok());
    }
    let seen = server.seen(40);
    for connection in 0..4 {
        assert_eq!(seen.iter().filter(|seen| seen.connection == connection).count(), 10);
    }
    for config in [patient().idle_timeout(Duration::ZERO), patient().keep_alive_time(Duration::ZERO)] {
        let node = Node::new(config);
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
        let begin = now();
        while node.sender.stats().connections > 0 {
            assert!(now() - begin < LONG, "still connected");
            node.sender.heartbeat();
            thread::yield_now();
        }
        assert!(node.call(&[&server.member], 2, "hello").is_ok());
        assert!(node.lost.try_recv().is_err(), "we closed it ourselves");
    }
}

#[test]
fn probes_tell_alive_from_refused_from_mute() {
    let (well, mute, dead) = (Server::new(|_, _| Does::Answer), Server::new(|_, _| Does::Nothing), refusing());
    let node = Node::new(patient().max_probes(2));
    let (report, outcome) = mpsc::channel();
    let probe = |member: &Member, request: ProbeRequest| {
        let report = report.clone();
        node.sender.probe(member, request, Box::new(move |probe| report.send(probe).expect("the test waits")));
        outcome.recv_timeout(LONG).expect("an outcome")
    };
    let message = Message::from_parts(
        UniqueId::from_bytes([9; 16]),
        SendOptions::ACK,
        0,
        Member::new(local()),
        Body::from(Bytes::from_static(b"probe")),
    );
    let mut asking = ProbeRequest::connect(LONG);
    asking.frame = frame::to_bytes(&message);
    asking.expect_answer = true;
    asking.answer_timeout = Duration::from_millis(100);
    assert_eq!(probe(&well.member, ProbeRequest::connect(LONG)), Probe::Alive);
    assert_eq!(probe(&mute.member, ProbeRequest::connect(LONG)), Probe::Alive);
    assert_eq!(probe(&dead, ProbeRequest::connect(LONG)), Probe::Refused);
    assert_eq!(probe(&mute.member, asking.clone()), Probe::Unreachable);
    asking.answer_timeout = LONG;
    assert_eq!(probe(&well.member, asking), Probe::Alive);
    for _ in 0..50 {
        let report = report.clone();
        let done = Box::new(move |probe| report.send(probe).expect("the test waits"));
        node.sender.probe(&well.member, ProbeRequest::connect(LONG), done);
    }
    for _ in 0..50 {
        assert_eq!(outcome.recv_timeout(LONG), Ok(Probe::Alive));
    }
}
