//! Our nodes and the real Apache Tribes in one group, each in a process of its own: `examples/node` and `java/TribesNode.java`
//! on Debian's `libtomcat10-java`. Both read the same commands and print the same JSON lines.
//!
//! Without Java or the jars every test says that it is skipped, and passes; with `TRIBES_REQUIRE_INTEROP=1`, as CI sets it, it fails.

#![cfg(unix)]

mod node;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tribes::GroupChannel;
use tribes::membership::static_members::StaticMembers;
use tribes::session::BackupManager;
use tribes::transport::tcp::{TcpReceiver, TcpReceiverConfig};

use node::Kind::{Java, Rust};
use node::{DEADLINE, Network, Node, Received, blast_body};

/// What a send can ask for: nothing, received, handled by the listeners; each also queued.
const OPTIONS: [u32; 6] = [0, 2, 6, 8, 10, 14];

#[test]
fn members_find_each_other_and_follow_changes_and_goodbyes() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &["--domain", "staging", "--payload", "from java"]);
    let rust = net.start(Rust, &["--domain", "staging", "--payload", "from rust"]);
    let described = |text: &'static str| move |member: &Value| member["domain"] == "staging" && member["payload"] == text;
    let member = rust.wait_for_member(&java, described("from java"));
    assert_eq!(member["udp_port"], java.started()["udp_port"]);
    let member = java.wait_for_member(&rust, described("from rust"));
    assert_eq!(member["udp_port"], rust.started()["udp_port"]);

    rust.command("payload changed in rust");
    java.wait_for_member(&rust, |member| member["payload"] == "changed in rust");
    java.command("payload changed in java");
    java.command("domain production");
    rust.wait_for_member(&java, |member| member["payload"] == "changed in java" && member["domain"] == "production");
    // A Tribes member never changes the domain of a member that it knows; messages tell the new one.
    rust.command("domain production");
    let mark = java.mark();
    rust.send("send 6 from another domain");
    let message = java.wait_from(mark, |event| event["text"] == "from another domain");
    assert_eq!(message["from"]["domain"], "production");

    // Only who takes part is seen; an observer sees all.
    let observer = net.start(Rust, &["--observe"]);
    observer.wait_for_member(&java, |_| true);
    observer.wait_for_member(&rust, |_| true);
    let mark = java.mark();
    observer.send("send 6 from an observer");
    java.wait_from(mark, |event| event["text"] == "from an observer");
    assert_eq!(java.ask("members", is("members"))["members"].as_array().map(Vec::len), Some(1));
    observer.quit();

    let (mark, port) = (java.mark(), rust.port());
    rust.quit();
    java.wait_for_departure(mark, &port);
    let rust = net.start(Rust, &[]);
    rust.wait_for_member(&java, |_| true);
    let (mark, port) = (rust.mark(), java.port());
    java.quit();
    assert_eq!(rust.wait_for_departure(mark, &port)["departure"], "left");
}

#[test]
fn a_killed_member_is_missed_and_found_again_under_the_same_address() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &[]);
    let rust = net.start(Rust, &[]);
    meet(&java, &rust);

    let (mark, port, address) = (java.mark(), rust.port(), rust.address());
    rust.kill();
    java.wait_for_departure(mark, &port);
    let rust = net.start(Rust, &["--listen", &address]);
    assert_eq!(rust.port(), port);
    meet(&java, &rust);

    let (mark, port, address) = (rust.mark(), java.port(), java.address());
    java.kill();
    assert_eq!(rust.wait_for_departure(mark, &port)["departure"], "failed");
    let java = net.start(Java, &["--listen", &address]);
    assert_eq!(java.port(), port);
    meet(&java, &rust);
}

#[test]
fn messages_of_every_option_and_size_arrive_whole() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &[]);
    let rust = net.start(Rust, &[]);
    meet(&java, &rust);
    for (from, to) in [(&java, &rust), (&rust, &java)] {
        for options in OPTIONS {
            for size in [0, 1, 8, 1000, 65_536, 1 << 20, 16 << 20] {
                let case = format!("{:?} to {:?}, options {options}, {size} bytes", from.kind, to.kind);
                let crc32 = format!("{:08x}", crc32fast::hash(&blast_body(0, size)));
                let mark = to.mark();
                let sent = from.ask(&format!("blast {options} {size} 1"), is("sent"));
                assert_eq!(sent["failed"], 0, "{case}: {sent}");
                let message = to.wait_from(mark, is("message"));
                assert_eq!(message["len"], size, "{case}");
                assert_eq!(message["crc32"], crc32.as_str(), "{case}");
                assert_eq!(message["options"], options | 1, "{case}: both mark bodies as bytes");
                assert_eq!(message["from"]["id"], from.id().as_str(), "{case}");
            }
        }
    }
    // Text is text on either side.
    for options in ["0", "use_ack", "sync,use_ack,async"] {
        let mark = java.mark();
        assert_eq!(rust.send(&format!("to {} {options} grüße \"quoted\"", java.address()))["event"], "sent");
        java.wait_from(mark, |event| event["text"] == "grüße \"quoted\"");
        let mark = rust.mark();
        assert_eq!(java.send(&format!("to {} {options} grüße \"quoted\"", rust.address()))["event"], "sent");
        rust.wait_from(mark, |event| event["text"] == "grüße \"quoted\"");
    }
    // A static member needs no multicast.
    let isolated = net.start(Rust, &["--member", &java.address()]);
    isolated.poll(|node| (!node.ask("members", is("members"))["members"].as_array()?.is_empty()).then_some(()));
    let mark = java.mark();
    assert_eq!(isolated.send("send 6 by a static member")["event"], "sent");
    java.wait_from(mark, |event| event["text"] == "by a static member");
}

#[test]
fn tribes_nodes_at_listed_addresses_are_greeted_and_take_no_part_in_sessions() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let membership = StaticMembers::default();
    let list = membership.handle();
    let receiver = TcpReceiver::new(TcpReceiverConfig::default().bind("127.0.0.1:0".parse().expect("an address")));
    let channel = GroupChannel::builder().membership(membership).receiver(receiver).start().expect("it starts");
    let shown = |node: &Node| {
        let port = node.port();
        channel.members().iter().find(|member| port == member.address().port()).cloned()
    };
    // This one does not know us, and has nothing to say.
    let silent = net.start(Java, &[]);
    list.add(silent.address().parse::<SocketAddr>().expect("an address"));
    silent.poll(|node| shown(node));
    let manager = BackupManager::builder("/shop").start(&channel).expect("it starts");
    silent.wait_from(0, is("message"));
    assert!(manager.wait_ready(DEADLINE), "what does not answer is not waited for long");
    let mut session = manager.create().expect("room");
    assert_eq!(session.commit().expect("alone, all the same").confirmed, []);
    assert!(shown(&silent).is_some_and(|member| member.is_placeholder()));

    // This one has us on its own list.
    let us = channel.local().address();
    let known = net.start(Java, &["--member", &format!("{us}:{}", channel.local().id())]);
    list.add(known.address().parse::<SocketAddr>().expect("an address"));
    known.poll(|node| {
        node.send(&format!("to {us} 6 it is me"));
        shown(node).filter(|member| member.id().to_string() == node.id())
    });
    session.set("cart", "full").expect("allowed");
    assert_eq!(session.commit().expect("still alone").confirmed, []);
    assert_eq!(manager.statistics().members, 0);
}

#[test]
fn datagrams_arrive_whole_one_to_one_and_to_the_group() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    // A Tribes sender that holds a TCP connection to a member cannot send it a datagram: have it close after each message.
    let java = net.start(Java, &["--keep-alive-count", "0"]);
    let rust = net.start(Rust, &[]);
    meet(&java, &rust);
    for (from, to) in [(&java, &rust), (&rust, &java)] {
        // 0x20 is UDP, with acknowledgements too; 0x40 is multicast, which has none.
        for options in [0x20, 0x22, 0x26, 0x28, 0x40, 0x48] {
            for size in [0, 8, 1000, 60_000] {
                let case = format!("{:?} to {:?}, options {options}, {size} bytes", from.kind, to.kind);
                let crc32 = format!("{:08x}", crc32fast::hash(&blast_body(0, size)));
                let mark = to.mark();
                // A datagram may get lost, even here: it is sent again then.
                let message = to.poll(|to| {
                    let sent = from.ask(&format!("blast {options} {size} 1"), is("sent"));
                    assert_eq!(sent["failed"], 0, "{case}: {sent}");
                    to.find(mark, Duration::from_secs(2), is("message"))
                });
                assert_eq!(message["len"], size, "{case}");
                assert_eq!(message["crc32"], crc32.as_str(), "{case}");
                assert_eq!(message["options"], options | 1, "{case}");
            }
        }
    }
}

#[test]
fn ten_thousand_messages_of_eight_threads_arrive_once_each() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &[]);
    let rust = net.start(Rust, &[]);
    meet(&java, &rust);
    for (from, to) in [(&java, &rust), (&rust, &java)] {
        for options in OPTIONS {
            let case = format!("{:?} to {:?}, options {options}", from.kind, to.kind);
            let expected = to.received().and_blast(1024, 10_000);
            let sent = from.ask(&format!("blast {options} 1024 10000 8"), is("sent"));
            assert_eq!(sent["failed"], 0, "{case}: {sent}");
            let mut last = Received::default();
            let arrived = to.poll(|to| {
                last = to.received();
                (last.messages >= expected.messages).then_some(last)
            });
            assert_eq!(arrived, expected, "{case}");
        }
    }
}

#[test]
fn a_listener_that_fails_is_a_failed_send_on_the_other_side() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &[]);
    let rust = net.start(Rust, &[]);
    meet(&java, &rust);
    for (from, to) in [(&java, &rust), (&rust, &java)] {
        let case = format!("{:?} to {:?}", from.kind, to.kind);
        for options in [6, 14] {
            let mark = to.mark();
            let failed = from.send(&format!("send {options} throw on this"));
            assert_eq!(failed["event"], "failed", "{case}, options {options}: {failed}");
            assert_eq!(ports(&failed["faulty"]), [to.port()], "{case}: {failed}");
            to.wait_from(mark, |event| event["threw"] == true);
        }
        // Who asks for less does not learn of it.
        for options in [0, 2, 8, 10] {
            let mark = to.mark();
            assert_eq!(from.send(&format!("send {options} throw on this"))["event"], "sent", "{case}, options {options}");
            to.wait_from(mark, |event| event["threw"] == true);
        }
        // The member is as good as before.
        let mark = to.mark();
        assert_eq!(from.send("send 6 and go on")["event"], "sent", "{case}");
        to.wait_from(mark, |event| event["text"] == "and go on");
        assert_eq!(from.ask("members", is("members"))["members"].as_array().map(Vec::len), Some(1), "{case}");
    }
}

#[test]
fn one_dead_destination_among_three_is_the_only_one_to_fail() {
    let Some(_turn) = turn() else { return };
    let net = Network::new();
    let java = net.start(Java, &["--timeout", "3000"]);
    let rust = net.start(Rust, &["--timeout", "3000"]);
    let third = net.start(Rust, &[]);
    let dead = net.start(Rust, &[]);
    for node in [&java, &rust] {
        node.poll(|node| (node.ask("members", is("members"))["members"].as_array()?.len() == 3).then_some(()));
    }
    meet(&java, &third);
    meet(&java, &dead);
    // The system still accepts connections for it, so it stays a member, but it will not answer.
    dead.freeze();
    for (from, to) in [(&java, &rust), (&rust, &java)] {
        let (mark, third_mark) = (to.mark(), third.mark());
        let text = format!("two of three, from {:?}", from.kind);
        let failed = from.send(&format!("send 2 {text}"));
        assert_eq!(failed["event"], "failed", "{failed}");
        assert_eq!(ports(&failed["faulty"]), [dead.port()], "{failed}");
        to.wait_from(mark, |event| event["text"] == text.as_str());
        third.wait_from(third_mark, |event| event["text"] == text.as_str());
    }
    // Now it is dead for good: whoever sends is told, until it is no member any more, and all others get everything.
    let port = dead.port();
    let (java_mark, third_mark, rust_mark) = (java.mark(), third.mark(), rust.mark());
    dead.kill();
    let mut sent = 0;
    loop {
        sent += 1;
        let outcome = rust.send(&format!("send 2 after the death {sent}"));
        if outcome["event"] == "sent" {
            break;
        }
        assert_eq!(ports(&outcome["faulty"]), std::slice::from_ref(&port), "{outcome}");
    }
    rust.wait_for_departure(rust_mark, &port);
    java.wait_for_departure(java_mark, &port);
    for (node, mark) in [(&java, java_mark), (&third, third_mark)] {
        node.wait_from(mark, |event| event["text"] == format!("after the death {sent}").as_str());
        let texts = node.texts_since(mark);
        assert!((1..=sent).all(|number| texts.contains(&format!("after the death {number}"))), "{:?}: {texts:?}", node.kind);
    }
}

/// Waits until both are members to each other, and a message has gone each way.
fn meet(one: &Node, other: &Node) {
    one.wait_for_member(other, |_| true);
    other.wait_for_member(one, |_| true);
    for (from, to) in [(one, other), (other, one)] {
        let text = format!("hello from {:?}", from.kind);
        let mark = to.mark();
        let outcome = from.send(&format!("to {} 6 {text}", to.address()));
        assert_eq!(outcome["event"], "sent", "{outcome}");
        to.wait_from(mark, |event| event["text"] == text.as_str());
    }
}

fn is(name: &str) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == name
}

fn ports(members: &Value) -> Vec<Value> {
    members.as_array().expect("a list").iter().map(|member| member["port"].clone()).collect()
}

/// The right to run: one test at a time, so that few virtual machines run together. None where they cannot.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if let Some(missing) = node::missing() {
        let required = std::env::var("TRIBES_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
        assert!(!required, "interop is required, but {missing}");
        eprintln!("skipped: {missing}");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}
