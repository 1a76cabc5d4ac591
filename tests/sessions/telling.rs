//! What listeners and statistics tell.

use tribes::session::{Field, SessionId, Written};

use super::*;

/// Clocks are read in milliseconds, and not all at one moment.
const ROUNDING: Duration = Duration::from_millis(20);

/// What one member hears.
type Heard = Arc<Mutex<Vec<SessionEvent>>>;

/// A session that both of two members hold, and what each hears of it.
fn shared_session(channels: &[GroupChannel]) -> (Vec<BackupManager>, Vec<Heard>, SessionId) {
    let heard: Vec<Heard> = channels.iter().map(|_| Heard::default()).collect();
    let start = |at: usize| {
        let heard = Arc::clone(&heard[at]);
        let note = move |event: &SessionEvent| heard.lock().expect("nobody panics").push(event.clone());
        BackupManager::builder("/shop").on_event(note).start(&channels[at]).expect("it starts")
    };
    let managers: Vec<_> = (0..channels.len()).map(start).collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("committed");
    (managers, heard, session.id())
}

#[test]
fn of_two_writes_at_once_one_is_lost_and_told_with_its_field() {
    let channels = group(2);
    let (managers, heard, id) = shared_session(&channels);
    // Neither hears of the other's change before it has made its own.
    let releases = [block(&channels[1], &channels[0]), block(&channels[0], &channels[1])];
    for (manager, user) in managers.iter().zip(["anna", "ben"]) {
        let mut session = manager.get(&id).expect("an answer").expect("it is here");
        session.set("cart", format!("of {user}")).expect("allowed");
        session.set_principal(Some(user));
        session.set_auth_type(Some("FORM"));
        session.commit_with(Confirm::None).expect("made");
    }
    drop(releases);
    let lost = || -> Vec<(SessionId, Written, Written)> {
        let heard = heard.iter().flat_map(|heard| heard.lock().expect("nobody panics").clone());
        heard
            .filter_map(|event| match event {
                SessionEvent::Conflict { id, kept, lost, .. } => Some((id, kept, lost)),
                _ => None,
            })
            .collect()
    };
    let of = |field: Field<'_>| lost().into_iter().find(|(_, kept, _)| kept.field() == field);
    for field in [Field::Attribute("cart"), Field::Principal, Field::AuthType] {
        until("it is told", || of(field).is_some());
        let (session, kept, lost) = of(field).expect("it was told");
        assert_eq!((session, lost.field()), (id, field));
        assert!(kept.version > lost.version);
        let name = if field == Field::Attribute("cart") { Some("cart") } else { None };
        assert_eq!((kept.name(), lost.name()), (name, name));
        assert!(!format!("{kept:?} {lost:?}").contains("\\0"), "no name that is nobody's business");
    }
    let (_, kept, lost) = of(Field::Principal).expect("it was told");
    let mut both = [kept.value, lost.value].map(|value| value.expect("it was set"));
    both.sort_unstable();
    assert_eq!(both, ["anna", "ben"]);
    assert!(managers.iter().map(|manager| manager.statistics().conflicts).sum::<u64>() >= 3);
}

#[test]
fn another_id_is_told_as_that_and_is_no_end() {
    let channels = group(2);
    let (managers, heard, old) = shared_session(&channels);
    let mut session = managers[0].get(&old).expect("an answer").expect("it is here");
    let created = session.created();
    let age = Duration::from_millis(300);
    until("it has lived for a while", || created.elapsed().is_ok_and(|lived| lived >= age + ROUNDING));
    session.change_id().expect("changed");
    let new = session.id();
    for (at, heard) in heard.iter().enumerate() {
        let told = || {
            let heard = heard.lock().expect("nobody panics");
            heard.iter().any(|event| matches!(event, SessionEvent::IdChanged { old: was, id, remote, .. } if (*was, *id, *remote) == (old, new, at == 1)))
        };
        until("it is told", told);
    }
    for manager in &managers {
        let statistics = manager.statistics();
        assert_eq!((statistics.ended, statistics.active, statistics.longest_life), (0, 1, Duration::ZERO));
    }
    session.invalidate().expect("ended");
    for (manager, heard) in managers.iter().zip(&heard) {
        until("it has ended", || manager.statistics().ended == 1);
        let statistics = manager.statistics();
        assert!(statistics.longest_life >= age, "from its creation: {:?}", statistics.longest_life);
        until("that is told", || matches!(heard.lock().expect("nobody panics").last(), Some(SessionEvent::Invalidated { .. })));
        let heard = heard.lock().expect("nobody panics");
        let kinds: Vec<_> = heard.iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 3, "created, another id, invalidated: {heard:?}");
    }
}

#[test]
fn lives_are_counted_and_measured() {
    let channels = group(2);
    let (managers, _, id) = shared_session(&channels);
    let created = managers[0].get(&id).expect("an answer").expect("it is here").created();
    let age = Duration::from_millis(60);
    until("it has lived for a while", || created.elapsed().is_ok_and(|lived| lived >= age + ROUNDING));
    managers[1].invalidate(&id).expect("ended");
    let mut short = managers[0].create().expect("room");
    short.commit().expect("committed");
    short.invalidate().expect("ended");
    for manager in &managers {
        until("both have ended", || manager.statistics().ended == 2);
        let statistics = manager.statistics();
        assert!(statistics.longest_life >= age);
        assert!(statistics.average_life >= age / 2 && statistics.average_life <= statistics.longest_life);
    }
}

#[test]
fn what_comes_from_others_is_counted_and_what_is_held_is_measured() {
    let channels = group(2);
    let managers = backups(&channels);
    let empty = managers[1].statistics();
    assert_eq!((empty.entries, empty.held_bytes, empty.replicated), (0, 0, 0));
    let mut session = managers[0].create().expect("room");
    session.set("page", vec![7; 100_000]).expect("allowed");
    session.commit().expect("committed");
    session.set("cart", "full").expect("allowed");
    session.commit().expect("committed");
    let statistics = managers[1].statistics();
    assert_eq!((statistics.replicated, statistics.duplicates, statistics.entries), (2, 0, 1));
    assert!((100_000..110_000).contains(&statistics.held_bytes), "{}", statistics.held_bytes);
    session.invalidate().expect("ended");
    let statistics = managers[1].statistics();
    assert_eq!((statistics.replicated, statistics.entries, statistics.active), (3, 1, 0), "its end is remembered");
    assert!(statistics.held_bytes < 10_000);
}

#[test]
fn what_comes_twice_is_counted() {
    let channels = group(3);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    let first = session.commit().expect("committed").confirmed[0].clone();
    let backup = channels.iter().position(|channel| channel.local() == first).expect("a member");
    let other = 3 - backup;
    let release = block(&channels[backup], &channels[0]);
    session.set("cart", "full").expect("allowed");
    let receipt = session.commit().expect("another member takes it");
    assert_eq!(receipt.confirmed, [channels[other].local()]);
    // That one hands it over, so it comes to the backup before what the owner has sent is heard.
    until("the other has handed over", || managers[other].statistics().guests == 0);
    assert_eq!(managers[backup].statistics().duplicates, 0);
    drop(release);
    until("it has come once more", || managers[backup].statistics().duplicates > 0);
}

#[test]
fn changes_that_nobody_commits_are_counted() {
    let channels = group(1);
    let managers = backups(&channels);
    let dropped = || managers[0].statistics().uncommitted_drops;
    drop(managers[0].create().expect("room"));
    assert_eq!(dropped(), 1);
    let mut session = managers[0].create().expect("room");
    session.set("cart", "full").expect("allowed");
    let receipt = session.commit().expect("alone, all the same");
    assert!(!receipt.is_met() && receipt.confirmed.is_empty());
    assert_eq!(managers[0].at_risk(), [session.id()]);
    session.remove("cart").expect("allowed");
    assert!(session.is_dirty());
    let id = session.id();
    drop(session);
    assert_eq!(dropped(), 2);
    let mut session = managers[0].get(&id).expect("an answer").expect("it is there");
    assert_eq!(text(&session, "cart").as_deref(), Some("full"));
    session.set("cart", "empty").expect("allowed");
    session.discard();
    drop(session);
    assert_eq!(dropped(), 2);
    let statistics = managers[0].statistics();
    assert_eq!((statistics.created, statistics.active, statistics.owned, statistics.members), (1, 1, 1, 0));
}

#[test]
fn listeners_hear_of_what_happens_in_order() {
    let channels = group(2);
    let (tell, told) = mpsc::channel();
    let managers: Vec<_> = channels
        .iter()
        .enumerate()
        .map(|(at, channel)| {
            let tell = Mutex::new(tell.clone());
            let note = move |event: &SessionEvent| {
                let what = match event {
                    SessionEvent::Created { .. } => "created".to_owned(),
                    SessionEvent::Changed { written, .. } => format!("changed {}", written[0].name().expect("an attribute")),
                    SessionEvent::IdChanged { .. } => "another id".to_owned(),
                    SessionEvent::Invalidated { .. } => "invalidated".to_owned(),
                    other => format!("{other:?}"),
                };
                assert_eq!(event.is_remote(), at == 1);
                drop(tell.lock().expect("nobody panics").send((at, what)));
            };
            DeltaManager::builder("/shop").confirm(Confirm::All).on_event(note).start(channel).expect("it starts")
        })
        .collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    session.set("a", "1").expect("allowed");
    session.commit().expect("committed");
    session.set("b", "2").expect("allowed");
    session.commit().expect("committed");
    session.invalidate().expect("removed");
    let mut heard = [Vec::new(), Vec::new()];
    for _ in 0..8 {
        let (at, what) = told.recv_timeout(PATIENCE).expect("an event");
        heard[at].push(what);
    }
    let expected = ["created", "changed a", "changed b", "invalidated"];
    assert_eq!(heard, [expected, expected]);
}
