//! What can be set on a manager and on a session, and what it does.

use std::time::SystemTime;

use tribes::session::Notify;

use super::*;

#[test]
fn who_is_logged_in_and_how_is_kept_beside_the_attributes() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.set("principal", "an attribute").expect("allowed");
    session.set_principal(Some("anna"));
    session.set_auth_type(Some("FORM"));
    session.commit().expect("committed");
    let mut found = managers[1].get(&session.id()).expect("an answer").expect("it is there");
    assert_eq!((found.principal().as_deref(), found.auth_type().as_deref()), (Some("anna"), Some("FORM")));
    assert_eq!(found.names().collect::<Vec<_>>(), ["principal"]);
    found.clear().expect("allowed");
    assert_eq!((found.names().count(), found.auth_type().as_deref()), (0, Some("FORM")), "it is no attribute");
    found.set_auth_type(None);
    found.commit().expect("committed");
    let found = managers[0].get(&session.id()).expect("an answer").expect("it is there");
    assert_eq!((found.principal().as_deref(), found.auth_type()), (Some("anna"), None));
}

#[test]
fn attributes_are_listed_with_what_the_handle_has_changed() {
    let channels = group(1);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        session.set(name, value).expect("allowed");
    }
    session.commit().expect("made");
    session.remove("a").expect("allowed");
    session.remove("nothing").expect("allowed");
    session.set("b", "20").expect("allowed");
    session.set("d", "4").expect("allowed");
    let listed = |session: &Session| session.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect::<Vec<_>>();
    let of = |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    let expected: Vec<_> = of(&[("b", "20"), ("c", "3"), ("d", "4")]);
    assert_eq!(listed(&session), expected);
    assert!(session.contains("d") && !session.contains("a") && !session.contains("\0principal"));
    session.commit().expect("made");
    assert_eq!(listed(&session), expected);
    session.clear().expect("allowed");
    assert_eq!(listed(&session), []);
    session.commit().expect("made");
    assert_eq!(managers[0].get(&session.id()).expect("an answer").expect("it is there").names().count(), 0);
}

#[test]
fn a_handle_whose_change_is_refused_is_as_it_was() {
    let channels = group(1);
    let manager = BackupManager::builder("small").max_bytes(8000).start(&channels[0]).expect("the name is free");
    let mut session = manager.create().expect("room");
    session.set("a", "1").expect("allowed");
    session.commit().expect("made");
    session.set("b", vec![0; 10_000]).expect("allowed");
    for refused in [session.commit(), session.start_commit().wait()] {
        assert_eq!(refused.expect_err("there is no room"), CommitError::Full);
        assert!(session.is_dirty() && session.is_valid());
        assert_eq!((session.get("a").as_deref(), session.get("b").map(|b| b.len())), (Some(&b"1"[..]), Some(10_000)));
    }
    session.set("b", "2").expect("allowed");
    session.commit().expect("made");
    let found = manager.get(&session.id()).expect("an answer").expect("it is there");
    assert_eq!(found.iter().map(|(name, value)| (name, &value[..])).collect::<Vec<_>>(), [("a", &b"1"[..]), ("b", b"2")]);
}

#[test]
fn a_session_that_has_ended_takes_no_changes() {
    let channels = group(1);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("made");
    managers[0].invalidate(&session.id()).expect("ended");
    assert!(!session.is_valid());
    assert_eq!(session.expires_in(), Some(Duration::ZERO));
    session.set("cart", "full").expect("the handle has not learnt it");
    assert_eq!(session.commit(), Err(CommitError::Removed));
    assert_eq!(session.set("cart", "full"), Err(SetError::Ended));
    assert_eq!(session.remove("cart"), Err(SetError::Ended));
    assert_eq!(session.clear(), Err(SetError::Ended));
    session.set_principal(Some("anna"));
    session.set_max_inactive(None);
    assert!(!session.is_dirty() && session.principal().is_none() && session.max_inactive().is_some());
    assert_eq!(session.replace_if("cart", None, None), Err(ReplaceError::Absent));
    assert_eq!(session.change_id(), Err(CommitError::Removed));
    let mut session = managers[0].create().expect("room");
    assert_eq!(session.remove("\0principal"), Err(SetError::Reserved), "as set");
    session.discard();
    assert_eq!(session.set("cart", "full"), Err(SetError::Ended), "nobody will ever know of it");
}

#[test]
fn a_session_tells_how_long_it_lives() {
    let channels = group(2);
    let hour = Duration::from_secs(3600);
    let start = |channel| BackupManager::builder("/shop").max_inactive(hour).start(channel).expect("it starts");
    let managers: Vec<_> = channels.iter().map(start).collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    let nearly = |left: Option<Duration>, of: Duration| left.is_some_and(|left| left <= of && left > of - PATIENCE);
    assert!(session.max_inactive() == Some(hour) && nearly(session.expires_in(), hour));
    session.set_max_inactive(hour * 2);
    assert!(nearly(session.expires_in(), hour * 2), "not committed yet");
    session.commit().expect("committed");
    for manager in &managers {
        let found = manager.get(&session.id()).expect("an answer").expect("it is there");
        assert!(found.max_inactive() == Some(hour * 2) && nearly(found.expires_in(), hour * 2));
    }
    session.set_max_inactive(None);
    session.commit().expect("committed");
    let found = managers[1].get(&session.id()).expect("an answer").expect("it is there");
    assert_eq!((found.max_inactive(), found.expires_in()), (None, None));
    for short in [Duration::ZERO, Duration::from_nanos(1)] {
        session.set_max_inactive(short);
        assert_eq!(session.max_inactive(), Some(Duration::from_millis(1)), "{short:?} is not for ever");
    }
    session.discard();
}

#[test]
fn a_time_of_zero_is_not_for_ever() {
    let channels = group(1);
    let builder = DeltaManager::builder("/shop").max_inactive(Duration::ZERO).expiry_interval(Duration::from_millis(50));
    let manager = builder.start(&channels[0]).expect("it starts");
    assert!(manager.wait_ready(PATIENCE));
    let mut session = manager.create().expect("room");
    session.commit().expect("made");
    until("it has expired", || !session.is_valid());
    let manager = DeltaManager::builder("/blog").max_inactive(None).start(&channels[0]).expect("it starts");
    assert_eq!(manager.create().map(|mut session| (session.max_inactive(), session.discard())), Ok((None, ())));
}

#[test]
fn an_access_is_noted_without_reading() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("committed");
    let found = managers[1].get(&session.id()).expect("an answer").expect("it is there");
    let touches: [(&Session, &dyn Fn()); 3] = [
        (&session, &|| session.touch()),
        (&session, &|| managers[0].touch(&session.id())),
        (&found, &|| managers[1].touch(&session.id())),
    ];
    for (handle, touch) in touches {
        // Time passes all the while: without an access less and less of it is left.
        until("there is more time than before", || {
            let before = handle.expires_in();
            touch();
            handle.expires_in() > before
        });
    }
    let gone = managers[0].create().expect("room").id();
    managers[0].touch(&gone);
    assert!(!managers[0].session_ids().contains(&gone), "that makes none");
}

#[test]
fn backups_everywhere_are_waited_for_and_then_nothing_is_at_risk() {
    for everywhere in [true, false] {
        let channels = group(3);
        let start = |channel| {
            let builder = BackupManager::builder("/shop");
            let builder = if everywhere { builder.backups_everywhere() } else { builder.backups(usize::MAX) };
            builder.start(channel).expect("it starts")
        };
        let managers: Vec<_> = channels.iter().map(start).collect();
        all_ready(&managers);
        let mut session = managers[0].create().expect("room");
        let receipt = session.commit().expect("committed");
        assert_eq!((receipt.wanted, receipt.confirmed.len(), receipt.is_met()), (2, 2, true));
        assert_eq!(managers[0].at_risk(), []);
    }
}

#[test]
fn who_drains_creates_nothing() {
    let channels = group(2);
    let managers = backups(&channels);
    let mut session = managers[0].create().expect("room");
    session.commit().expect("committed");
    // The other one hears nothing: so this one cannot hand over, and drains as long as it may.
    let release = block(&channels[1], &channels[0]);
    thread::scope(|scope| {
        let draining = scope.spawn(|| managers[0].drain(PATIENCE));
        let refused = |error: CreateError| managers[0].create().is_err_and(|refused| refused == error);
        until("it drains", || refused(CreateError::Draining));
        assert!(managers[0].get(&session.id()).expect("an answer").is_some(), "what is there is served");
        drop(release);
        assert_eq!(draining.join().expect("no panic").remaining, []);
        assert!(refused(CreateError::Stopped));
    });
}

#[test]
fn who_cannot_get_everything_in_time_serves_all_the_same() {
    let hub = Hub::new();
    let (first, closed) = without_transfers(&hub);
    let joining = member(&hub);
    let manager = DeltaManager::builder("/shop").start(&first).expect("it starts");
    assert!(manager.wait_ready(PATIENCE));
    let mut session = manager.create().expect("room");
    session.set("cart", "full").expect("allowed");
    session.commit().expect("made");
    let builder = DeltaManager::builder("/shop").transfer_timeout(Duration::from_millis(700));
    let joiner = builder.start(&joining).expect("it starts");
    assert!(joiner.wait_ready(PATIENCE), "when the time is over");
    assert_eq!(joiner.statistics().active, 0, "it has got nothing");
    let found = joiner.get(&session.id()).expect("an answer").expect("somebody has it");
    assert_eq!(text(&found, "cart").as_deref(), Some("full"));
    let mut another = manager.create().expect("room");
    another.commit().expect("made");
    closed.store(false, Ordering::Relaxed);
    until("the rest has come", || joiner.statistics().active == 2);
}

#[test]
fn listeners_hear_of_other_members_what_they_want_to_hear() {
    let channels = group(4);
    let heard: Vec<_> = channels.iter().map(|_| Arc::new(Mutex::new(Vec::new()))).collect();
    let wanted = [Notify::ALL, Notify::LOCAL, Notify::REMOTE_SESSIONS, Notify::REMOTE_ATTRIBUTES | Notify::CONFLICTS];
    let managers: Vec<_> = (0..4)
        .map(|at| {
            let heard = Arc::clone(&heard[at]);
            let note = move |event: &SessionEvent| {
                let what = match event {
                    SessionEvent::Created { .. } => "created",
                    SessionEvent::Changed { .. } => "changed",
                    SessionEvent::IdChanged { .. } => "another id",
                    SessionEvent::Invalidated { .. } => "invalidated",
                    _ => "something else",
                };
                heard.lock().expect("nobody panics").push((what, event.is_remote()));
            };
            let builder = DeltaManager::builder("/shop").confirm(Confirm::All).notify(wanted[at]).on_event(note);
            builder.start(&channels[at]).expect("it starts")
        })
        .collect();
    all_ready(&managers);
    let mut session = managers[0].create().expect("room");
    session.set("a", "1").expect("allowed");
    session.commit().expect("committed");
    session.change_id().expect("changed");
    session.invalidate().expect("ended");
    // All have heard of all that by now; what they do themselves comes last.
    managers.iter().for_each(|manager| drop(manager.create().expect("room").commit().expect("committed")));
    let sessions = |remote| [("created", remote), ("another id", remote), ("invalidated", remote)];
    let expected = [
        vec![("created", false), ("changed", false), ("another id", false), ("invalidated", false)],
        vec![],
        sessions(true).to_vec(),
        vec![("changed", true)],
    ];
    for at in 0..4 {
        until("the last one is heard", || heard[at].lock().expect("nobody panics").contains(&("created", false)));
        let mut heard = heard[at].lock().expect("nobody panics").clone();
        heard.truncate(expected[at].len());
        assert_eq!(heard, expected[at], "{:?}", wanted[at]);
    }
    assert_eq!(heard[1].lock().expect("nobody panics").len(), 1, "its own");
    assert!(heard[3].lock().expect("nobody panics").iter().all(|(what, remote)| *remote == (*what == "changed")));
}

/// The sessions of a web framework: text, and a time at which they end.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    id: u128,
    data: String,
    expires: SystemTime,
}

/// What a web framework asks of a store of sessions, as tower-sessions does with other types.
struct FrameworkStore(BackupManager);

type Failed = Box<dyn std::error::Error>;

#[expect(clippy::disallowed_methods, reason = "the framework has a clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

impl FrameworkStore {
    async fn create(&self, record: &mut Record) -> Result<(), Failed> {
        let session = self.0.create()?;
        record.id = session.id().into();
        Self::write(session, record).await
    }

    async fn save(&self, record: &Record) -> Result<(), Failed> {
        let session = self.0.find(&record.id.into()).await?.ok_or("the session has ended")?;
        Self::write(session, record).await
    }

    async fn load(&self, id: u128) -> Result<Option<Record>, Failed> {
        let Some(session) = self.0.find(&id.into()).await? else { return Ok(None) };
        let data = text(&session, "data").ok_or("it is no session of this framework")?;
        let expires = wall_clock() + session.expires_in().ok_or("it never ends")?;
        Ok(Some(Record { id, data, expires }))
    }

    async fn delete(&self, id: u128) -> Result<(), Failed> {
        self.0.start_invalidate(&id.into()).await?;
        Ok(())
    }

    async fn write(mut session: Session, record: &Record) -> Result<(), Failed> {
        session.set("data", record.data.clone())?;
        session.set_max_inactive(record.expires.duration_since(wall_clock()).unwrap_or_default());
        session.start_commit().await?;
        Ok(())
    }
}

#[test]
fn a_store_for_a_web_framework_can_be_built_on_it() {
    let channels = group(2);
    let stores: Vec<_> = backups(&channels).into_iter().map(FrameworkStore).collect();
    let expires = wall_clock() + Duration::from_secs(600);
    let mut record = Record { id: 0, data: "a cart".into(), expires };
    block_on(Box::pin(stores[0].create(&mut record))).expect("created");
    let read = |at: usize| block_on(Box::pin(stores[at].load(record.id))).expect("an answer");
    for at in 0..2 {
        let found = read(at).expect("it is there");
        assert_eq!((found.id, &found.data), (record.id, &record.data));
        let apart = found.expires.duration_since(expires).unwrap_or_else(|error| error.duration());
        assert!(apart < PATIENCE, "{apart:?}");
    }
    record.data = "two carts".into();
    block_on(Box::pin(stores[1].save(&record))).expect("saved");
    assert_eq!(read(1).expect("it is there").data, "two carts");
    until("the other has it", || read(0).expect("it is there").data == "two carts");
    block_on(Box::pin(stores[1].delete(record.id))).expect("deleted");
    until("it is gone", || read(0).is_none() && read(1).is_none());
    assert!(block_on(Box::pin(stores[0].save(&record))).is_err());
}

#[test]
fn filters_and_limits_say_no() {
    let channels = group(1);
    let manager = DeltaManager::builder("/shop")
        .max_active(1)
        .attribute_name_filter(|name| !name.starts_with("local."))
        .attribute_value_filter(|_, value| value.len() <= 4)
        .start(&channels[0])
        .expect("it starts");
    let mut session = manager.create().expect("room");
    assert_eq!(session.set("local.cache", ""), Err(SetError::Filtered { name: "local.cache".into() }));
    assert_eq!(session.set("page", "12345"), Err(SetError::Filtered { name: "page".into() }));
    assert_eq!(session.set("\0principal", "eve"), Err(SetError::Reserved));
    session.set("page", "1234").expect("allowed");
    session.commit().expect("made");
    assert_eq!(manager.create().expect_err("one is enough"), CreateError::TooMany { limit: 1 });
    assert_eq!(manager.statistics().rejected, 1);
}

#[cfg(feature = "serde")]
#[test]
fn values_of_other_types_outlive_a_change_of_the_type() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Old {
        articles: Vec<u32>,
        dropped: bool,
    }
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct New {
        articles: Vec<u32>,
        #[serde(default)]
        coupon: Option<String>,
    }
    let channels = group(1);
    let mut session = deltas(&channels)[0].create().expect("room");
    assert_eq!(session.get_as::<New>("cart"), Ok(None));
    session.set_as("cart", &Old { articles: vec![4711], dropped: true }).expect("allowed");
    session.set("text", "no number").expect("allowed");
    assert_eq!(session.get_as("cart"), Ok(Some(New { articles: vec![4711], coupon: None })));
    assert_eq!(session.get_as::<Vec<u64>>("text").expect_err("no list").name, "text");
    session.commit().expect("made");
}
