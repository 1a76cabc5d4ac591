//! What a commit waits for, and what it says when that does not come.

use super::*;

#[test]
fn a_backup_that_does_not_answer_gets_company() {
    let channels = group(3);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    let first = session.commit().expect("committed").confirmed[0].clone();
    let frozen = channels.iter().position(|channel| channel.local() == first).expect("a member");
    // Messages of one sender are handled one after another: while this one is, the backup hears nothing of the owner.
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let block = move |_: &tribes::Message| {
        // It ends with an error, when the other end goes.
        let _ = released.lock().expect("nobody panics").recv();
    };
    let _blocked = channels[frozen].on_message(block);
    drop(channels[0].send_with([first.clone()], "wait", tribes::SendOptions::NONE));
    session.set("cart", "full").expect("allowed");
    let receipt = session.commit().expect("another member takes it");
    assert_eq!(receipt.confirmed, [channels[3 - frozen].local()]);
    assert_eq!(managers[0].at_risk(), [session.id()], "the holder itself has not got it");
    drop(release);
    until("it has", || managers[0].at_risk().is_empty());
    until("the other lets go", || managers[3 - frozen].statistics().guests == 0);
}

#[test]
fn a_commit_that_asks_for_at_least_so_many_copies_fails_where_they_cannot_be() {
    let hub = Hub::new();
    let channel = member(&hub);
    let manager =
        BackupManager::builder("/shop").backups(2).commit_timeout(Duration::from_millis(50)).start(&channel).expect("it starts");
    assert!(manager.wait_ready(PATIENCE));
    let mut session = manager.create().expect("room");
    session.set("cart", "full").expect("allowed");
    let alone = session.commit_with(Confirm::AtLeast(1)).expect_err("there is nobody");
    let CommitError::Unconfirmed { receipt, needed: 1 } = alone else { panic!("{alone}") };
    assert!(receipt.confirmed.is_empty());
    assert_eq!(session.commit_with(Confirm::Copies(1)).expect("nobody is asked").confirmed, []);
    assert!(manager.get(&session.id()).expect("an answer").is_some(), "the change is made");
    session.set("cart", "empty").expect("allowed");
    assert_eq!(
        session.commit_with(Confirm::AtLeast(3)),
        Err(CommitError::TooFewCopies { asked: 3, copies: 2 }),
        "so many can never be"
    );
    assert!(session.is_dirty(), "nothing has happened");
    session.discard();
    let error = BackupManager::builder("/blog").confirm(Confirm::AtLeast(2)).start(&channel).expect_err("one copy is kept");
    assert!(matches!(error, StartError::TooFewCopies { asked: 2, copies: 1, .. }), "{error}");
    let error = ReplicatedMap::builder("stock").copies(0).confirm(Confirm::AtLeast(1)).start(&channel).expect_err("no copy");
    assert!(matches!(error, StartError::TooFewCopies { asked: 1, copies: 0, .. }), "{error}");
}

#[test]
fn a_commit_that_asks_for_at_least_one_copy_waits_for_somebody_to_come() {
    let hub = Hub::new();
    let channel = member(&hub);
    let manager = DeltaManager::builder("/shop").confirm(Confirm::AtLeast(1)).commit_timeout(PATIENCE);
    let manager = manager.start(&channel).expect("it starts");
    assert!(manager.wait_ready(PATIENCE));
    let mut session = manager.create().expect("room");
    let committing = session.start_commit().wait_timeout(Duration::from_millis(20)).expect_err("there is nobody");
    let other = member(&hub);
    let other_manager = DeltaManager::builder("/shop").start(&other).expect("it starts");
    assert_eq!(committing.wait().expect("somebody has come").confirmed, [other.local()]);
    assert!(other_manager.get(&session.id()).expect("an answer").is_some());
}

#[test]
fn who_waits_is_told_when_the_manager_stops() {
    let channels = group(2);
    let managers = backups(&channels);
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let block = move |_: &tribes::Message| {
        // It ends with an error, when the other end goes.
        let _ = released.lock().expect("nobody panics").recv();
    };
    let _blocked = channels[1].on_message(block);
    drop(channels[0].send_with([channels[1].local()], "wait", tribes::SendOptions::NONE));
    let mut session = managers[0].create().expect("room");
    let committing = session.start_commit().wait_timeout(Duration::from_millis(10)).expect_err("nobody answers");
    let waiting = thread::spawn(move || session.commit_with(Confirm::All).and_then(|_| session.change_id()));
    managers[0].stop();
    assert_eq!(committing.wait(), Err(CommitError::Stopped));
    assert_eq!(waiting.join().expect("no panic"), Err(CommitError::Stopped));
    drop(release);
}
