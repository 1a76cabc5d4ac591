//! Members that drain, stop or are alone, and what becomes of their sessions.

use super::*;

#[test]
fn a_member_that_drains_leaves_nothing_behind() {
    let channels = group(3);
    let managers = backups(&channels);
    let ids: Vec<_> = (0..60)
        .map(|number| {
            let mut session = managers[number % 3].create().expect("room");
            session.set("number", number.to_string()).expect("allowed");
            session.commit_with(Confirm::None).expect("made");
            session.id()
        })
        .collect();
    let drained = managers[0].drain(PATIENCE);
    assert_eq!(drained.remaining, []);
    assert!(drained.moved > 0);
    channels[0].stop();
    for (number, id) in ids.iter().enumerate() {
        for manager in &managers[1..] {
            let found = manager.get(id).expect("an answer").unwrap_or_else(|| panic!("{id:?} is lost"));
            assert_eq!(text(&found, "number"), Some(number.to_string()));
        }
    }
    until("there are two copies of each", || managers[1..].iter().all(|manager| manager.at_risk().is_empty()));
}

#[test]
fn a_member_that_stops_is_done_without() {
    let channels = group(3);
    let managers = backups(&channels);
    managers[2].stop();
    until("it has left", || managers[..2].iter().all(|manager| manager.statistics().members == 1));
    for _ in 0..20 {
        let mut session = managers[0].create().expect("room");
        let receipt = session.commit().expect("committed");
        assert_eq!(receipt.confirmed, [channels[1].local()]);
        assert!(managers[1].get(&session.id()).expect("an answer").is_some());
    }
    let again = BackupManager::builder("/shop").start(&channels[2]).expect("the name is free");
    assert!(again.wait_ready(PATIENCE));
    until("it is back", || again.statistics().active > 0);
    until("the others count on it", || managers[..2].iter().all(|manager| manager.statistics().members == 2));
    for _ in 0..20 {
        managers[0].create().expect("room").commit().expect("committed");
    }
    // 27 of 40 on average, when all are handed over; fewer than 6 never.
    until("it holds its share", || again.statistics().active > 5);
}

#[test]
fn sessions_end_with_their_manager_where_that_is_asked_for() {
    let channels = group(2);
    let start = |channel| DeltaManager::builder("/shop").expire_on_shutdown(true).start(channel).expect("it starts");
    let managers: Vec<_> = channels.iter().map(start).collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    session.commit_with(Confirm::All).expect("committed");
    managers[0].stop();
    until("it has ended", || managers[1].get(&session.id()).expect("an answer").is_none());
    assert_eq!(managers[1].statistics().ended, 1);
    assert!(matches!(managers[0].get(&session.id()), Err(GetError::Stopped)));
}

#[test]
fn who_is_alone_does_not_wait_to_hand_over() {
    let channels = group(1);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("made");
    let drained = managers[0].drain(Duration::from_secs(3600));
    assert_eq!((drained.moved, drained.remaining), (0, vec![session.id()]));
}

#[test]
fn the_last_handle_of_a_manager_may_be_in_its_own_listener() {
    let (ended, has_ended) = mpsc::channel();
    thread::spawn(move || {
        let channel = member(&Hub::new());
        let manager = BackupManager::builder("/shop").start(&channel).expect("it starts");
        let again = manager.clone();
        let events = manager.on_event(move |event| drop(again.get(&event.id())));
        // The application's own handle goes first, then the subscription with the listener.
        drop(manager);
        drop(events);
        ended.send(()).expect("somebody waits");
    });
    assert_eq!(has_ended.recv_timeout(PATIENCE), Ok(()), "it does not wait for itself");
}
