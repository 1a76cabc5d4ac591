//! Messages keep their order, come once, and share a connection that may break.

use super::*;

#[test]
fn what_a_lost_connection_held_is_sent_again_in_order_with_the_same_ids() {
    let server = Server::new(|connection, message| match (connection, &message.bytes()[..]) {
        (0, b"3") => Does::Close,
        _ => Does::Answer,
    });
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..10).map(|count| node.queue(&[&server.member], 2, count.to_string())).collect();
    let ids: Vec<_> = sendings.iter().map(Sending::id).collect();
    for sending in sendings {
        assert!(finish(sending).is_ok());
    }
    let seen = server.seen(11);
    let second: Vec<_> = seen.iter().filter(|seen| seen.connection == 1).map(|seen| seen.id).collect();
    assert_eq!(second, ids[10 - second.len()..], "in order, ids kept");
    assert!(second.contains(&ids[3]), "the one that closed the connection was not answered");
    node.lost(&server.member);
    assert_eq!(node.sender.stats().connected, 2);
}

#[test]
fn a_new_connection_waits_until_the_peer_has_read_the_old_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let member = Member::new(listener.local_addr().unwrap()).with_id(UniqueId::for_member(Capabilities::ALL));
    let node = Node::new(patient().keep_alive_count(Some(2)));
    let sent: Vec<_> = (0..4u8).map(|number| node.queue(&[&member], 0, vec![number])).collect();
    let (old, _) = listener.accept().unwrap();
    let mut old_reads = &old;
    old_reads.read_to_end(&mut Vec::new()).expect("its end comes behind what was written");
    // It has not told the sender yet that it is through.
    let (done, told) = mpsc::channel();
    let next = thread::spawn(move || {
        let (next, _) = listener.accept().unwrap();
        (told.try_recv().is_ok(), next)
    });
    let since = now();
    while since.elapsed() < Duration::from_millis(100) {
        assert!(!next.is_finished(), "the next connection came before the old one was read");
        thread::yield_now();
    }
    done.send(()).unwrap();
    drop(old);
    let (in_order, mut next) = next.join().unwrap();
    assert!(in_order);
    next.read_to_end(&mut Vec::new()).unwrap();
    for sending in sent {
        finish(sending).expect("written");
    }
}

#[test]
fn messages_keep_their_order_when_the_connection_is_replaced() {
    struct Slow(Arc<(Mutex<Vec<u32>>, Condvar)>);
    impl MessageHandler for Slow {
        fn message(&self, msg: Inbound) {
            // Long enough for another thread to overtake.
            (0..20).for_each(|_| thread::yield_now());
            let number = u32::from_be_bytes(msg.message.bytes()[..].try_into().unwrap());
            self.0.0.lock().unwrap().push(number);
            self.0.1.notify_all();
        }

        fn disconnected(&self, _member: &Member) {}
    }
    let handled = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let mut receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().unwrap()));
    let listening = receiver.start(MessageSink::new(Arc::new(Slow(Arc::clone(&handled))))).unwrap();
    let member = Member::new(listening.address.unwrap()).with_id(UniqueId::for_member(Capabilities::ALL));
    let node = Node::new(patient().keep_alive_count(Some(3)));
    for number in 0..600u32 {
        node.queue(&[&member], [0, 0, 2][number as usize % 3], number.to_be_bytes().to_vec()).on_complete(|outcome| {
            outcome.expect("it arrives");
        });
    }
    let (handled, changed) = &*handled;
    let (handled, timeout) =
        changed.wait_timeout_while(handled.lock().unwrap(), LONG, |handled| handled.len() < 600).expect("no panic");
    assert!(!timeout.timed_out(), "{} came", handled.len());
    assert!(handled.iter().copied().eq(0..600), "{handled:?}");
    assert!(node.sender.stats().connected > 100, "{:?}", node.sender.stats());
    drop(handled);
}

#[test]
fn a_peer_that_always_closes_gets_each_message_twice_at_most() {
    let server = Server::new(|_, _| Does::Close);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..3).map(|count| node.queue(&[&server.member], 6, count.to_string())).collect();
    for sending in sendings {
        assert!(matches!(causes(finish(sending))[..], [(_, FaultCause::Connection(_))]));
    }
    let seen = server.seen(2);
    assert_eq!(seen.iter().filter(|seen| seen.body == "0").count(), 2);
}

#[test]
fn junk_from_a_peer_ends_the_connection() {
    let server = Server::new(|connection, _| if connection == 0 { Does::Junk } else { Does::Answer });
    let node = Node::new(patient());
    assert!(node.call(&[&server.member], 2, "asked").is_ok(), "sent again on another connection");
    node.lost(&server.member);
    // An acknowledgement that nobody asked for is junk as well.
    let server = Server::new(|connection, _| if connection == 0 { Does::Reject } else { Does::Answer });
    assert!(node.call(&[&server.member], 0, "not asked").is_ok());
    node.lost(&server.member);
}

#[test]
fn callers_of_eight_threads_share_one_connection() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for count in 0..200 {
                    assert!(node.call(&[&server.member], if count % 2 == 0 { 2 } else { 6 }, vec![1; 1024]).is_ok());
                }
            });
        }
    });
    assert!(server.seen(1600).iter().all(|seen| seen.connection == 0));
    assert_eq!(node.sender.stats().pending, 0);
}

#[test]
fn callers_and_queued_messages_do_not_wait_for_each_other() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..300).for_each(|_| assert!(node.call(&[&server.member], 6, "call").is_ok())));
            scope.spawn(|| {
                let queued: Vec<_> = (0..2000).map(|at| node.queue(&[&server.member], at % 4, vec![2; 100])).collect();
                queued.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
            });
        }
    });
    assert_eq!(server.seen(4600).len(), 4600);
}

#[test]
fn queued_messages_keep_their_order() {
    let server = Server::new(|_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..5000u32)
        .map(|count| {
            let size = if count % 500 == 0 { 300_000 } else { 10 };
            let mut body = BytesMut::zeroed(size);
            body[..4].copy_from_slice(&count.to_be_bytes());
            node.queue(&[&server.member], [0, 2, 6][count as usize % 3], body.freeze())
        })
        .collect();
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    let seen = server.seen(5000);
    assert!(seen.iter().zip(0u32..).all(|(seen, count)| seen.body[..4] == count.to_be_bytes()));
}

#[test]
fn a_tribes_member_never_sees_a_frame_before_it_answered_the_one_before() {
    let server = Server::with_id(UniqueId::from_bytes([0x44; 16]), |_, _| Does::Answer);
    let node = Node::new(patient());
    let sendings: Vec<_> = (0..100).map(|_| node.queue(&[&server.member], 6, "one at a time")).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| assert!(node.call(&[&server.member], 2, "call").is_ok())));
        }
    });
    sendings.into_iter().for_each(|sending| assert!(finish(sending).is_ok()));
    let seen = server.seen(300);
    assert!(seen.iter().all(|seen| seen.behind == 0));
}
