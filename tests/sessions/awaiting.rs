//! What a task uses: nothing here blocks but where the outcome of something is awaited.

use tribes::session::CommitReceipt;

use super::*;

#[test]
fn a_session_is_changed_renamed_and_ended_without_blocking() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "full").expect("allowed");
    let met = |receipt: CommitReceipt| assert!(receipt.is_met(), "{receipt}");
    met(block_on(session.start_commit_with(Confirm::AtLeast(1))).expect("committed"));
    let old = session.id();
    session.set_principal(Some("anna"));
    let committing = session.start_change_id();
    assert_ne!(session.id(), old, "at once");
    met(block_on(committing).expect("changed"));
    for manager in &managers {
        assert!(block_on(manager.find(&old)).expect("an answer").is_none());
        let found = block_on(manager.find(&session.id())).expect("an answer").expect("it goes on");
        assert_eq!((text(&found, "cart").as_deref(), found.principal().as_deref()), (Some("full"), Some("anna")));
    }
    let id = session.id();
    met(block_on(session.start_invalidate()).expect("ended"));
    for manager in &managers {
        assert!(block_on(manager.find(&id)).expect("an answer").is_none());
    }
    let statistics = managers[0].statistics();
    let unknown = managers[0].create().expect("room");
    assert_eq!(block_on(unknown.start_invalidate()).expect("nobody knew it").wanted, 0);
    assert_eq!(managers[0].statistics(), statistics, "and nobody hears of it");
}

#[test]
fn a_value_is_replaced_on_a_condition_without_blocking() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    block_on(session.start_replace_if("count", None, Some("1".into()))).expect("a new session is committed first");
    let first = session.version("count");
    assert_eq!(text(&session, "count").as_deref(), Some("1"), "the handle shows it");
    for manager in &managers {
        let mut found = manager.get(&session.id()).expect("an answer").expect("it is there");
        let seen = found.version("count");
        let more = format!("{}1", text(&found, "count").expect("it is there"));
        let receipt = block_on(found.start_replace_if("count", seen, Some(more.clone().into()))).expect("it is still so");
        assert!(receipt.is_met());
        assert_eq!(text(&found, "count"), Some(more));
    }
    let outcome = session.start_replace_if("count", first, None).wait_timeout(PATIENCE).expect("in time");
    assert!(matches!(outcome, Err(ReplaceError::Conflict { current: Some(_) })), "{outcome:?}");
    let refused = block_on(session.start_replace_if("\0count", None, None));
    assert_eq!(refused, Err(ReplaceError::Set(SetError::Reserved)));
}

#[test]
fn who_replaces_a_value_of_a_new_session_is_told_that_it_could_not_be_made() {
    let hub = Hub::new();
    let channel = member(&hub);
    let builder = BackupManager::builder("/shop").confirm(Confirm::AtLeast(1)).commit_timeout(Duration::from_millis(50));
    let manager = builder.start(&channel).expect("it starts");
    let mut session = manager.create().expect("room");
    session.set("cart", "full").expect("allowed");
    let error = block_on(session.start_replace_if("count", None, Some("1".into()))).expect_err("nobody confirms");
    assert!(matches!(error, ReplaceError::NotCreated(CommitError::Unconfirmed { .. })), "{error}");
    let found = manager.get(&session.id()).expect("an answer").expect("it is made all the same");
    assert_eq!((text(&found, "cart").as_deref(), text(&found, "count")), (Some("full"), None));
    let mut session = manager.create().expect("room");
    let error = session.replace_if("count", None, Some("1".into())).expect_err("nobody confirms");
    assert!(matches!(error, ReplaceError::NotCreated(CommitError::Unconfirmed { .. })), "{error}");
}

#[test]
fn a_map_is_changed_without_blocking() {
    let channels = group(2);
    let maps: Vec<_> =
        channels.iter().map(|channel| ReplicatedMap::builder("stock").start(channel).expect("it starts")).collect();
    maps.iter().for_each(|map| assert!(block_on(map.when_ready())));
    until("all are known", || maps.iter().all(|map| map.statistics().members == 1));
    assert!(block_on(maps[0].start_put_with("pears", "3", Confirm::AtLeast(1))).expect("put").is_met());
    assert!(matches!(block_on(maps[0].start_put("", "nothing")), Err(CommitError::Key(0))));
    let found = block_on(maps[1].find("pears")).expect("an answer").expect("it is there");
    block_on(maps[1].start_replace_if("pears", Some(found.version), "2")).expect("it is still so");
    let outcome = maps[0].start_replace_if("pears", Some(found.version), "1").wait_timeout(PATIENCE).expect("in time");
    assert!(matches!(outcome, Err(ReplaceError::Conflict { .. })), "{outcome:?}");
    assert!(block_on(maps[0].start_remove("pears")).expect("removed").is_met());
    let found = maps[1].find("pears").wait_timeout(PATIENCE).expect("in time");
    assert_eq!(found.expect("an answer"), None);
    maps[0].stop();
    assert_eq!(block_on(maps[0].start_put("pears", "3")), Err(CommitError::Stopped));
    assert_eq!(block_on(maps[0].start_remove("pears")), Err(CommitError::Stopped));
    assert_eq!(block_on(maps[0].start_replace_if("pears", None, "3")), Err(ReplaceError::Stopped));
}

#[test]
fn who_awaits_a_member_to_be_ready_is_told_when_it_is_or_will_not_be() {
    let hub = Hub::new();
    let (first, closed) = without_transfers(&hub);
    let joining = member(&hub);
    let start = |channel| DeltaManager::builder("/shop").confirm(Confirm::None).start(channel).expect("it starts");
    let manager = start(&first);
    assert!(block_on(manager.when_ready()), "alone, it has all there is");
    assert!(block_on(manager.when_ready()), "and still");
    manager.create().expect("room").commit().expect("made");
    let joiner = start(&joining);
    let never = joiner.when_ready();
    drop(joiner.when_ready());
    assert!(!joiner.ready(), "it gets nothing");
    joiner.stop();
    assert!(!block_on(never));
    assert!(!block_on(joiner.when_ready()));
    let joiner = start(&joining);
    let waiting = joiner.when_ready();
    closed.store(false, Ordering::Relaxed);
    assert!(block_on(waiting));
    assert_eq!(joiner.statistics().active, 1);
}

#[test]
fn who_looks_for_a_session_can_stop_waiting_and_go_on_later() {
    let channels = group(3);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    let backup = session.commit().expect("committed").confirmed[0].clone();
    let stranger = channels[1..].iter().position(|channel| channel.local() != backup).expect("three members") + 1;
    let found = managers[stranger].find(&session.id()).wait_timeout(PATIENCE).expect("in time");
    assert!(found.expect("an answer").is_some());
    let found = managers[0].find(&session.id()).wait_timeout(Duration::ZERO).expect("it is here");
    assert!(found.expect("an answer").is_some());
    let release = block(&channels[stranger], &channels[0]);
    let release_too = block(&channels[stranger], &channels[3 - stranger]);
    let finding = managers[stranger].find(&session.id());
    if let Err(finding) = finding.wait_timeout(Duration::from_millis(20)) {
        drop((release, release_too));
        assert!(finding.wait().expect("an answer").is_some());
    }
}
