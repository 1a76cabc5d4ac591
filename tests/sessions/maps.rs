//! A map for data that is no session.

use tribes::map::{MapBuilder, MapEvent};
use tribes::session::Version;

use super::*;

fn maps(channels: &[GroupChannel], set: impl Fn(MapBuilder) -> MapBuilder) -> Vec<ReplicatedMap> {
    let start = |channel| set(ReplicatedMap::builder("stock")).start(channel).expect("it starts");
    let maps: Vec<_> = channels.iter().map(start).collect();
    for map in &maps {
        assert!(map.wait_ready(PATIENCE));
        until("all are known", || map.statistics().members == channels.len() - 1);
    }
    maps
}

#[test]
fn what_nobody_uses_is_gone_after_its_time_to_live() {
    let channels = group(2);
    let expired = Arc::new(Mutex::new(Vec::new()));
    let maps = maps(&channels, |builder| {
        let expired = Arc::clone(&expired);
        let note = move |event: &MapEvent| {
            if let MapEvent::Expired { key, remote, .. } = event {
                expired.lock().expect("nobody panics").push((key.clone(), *remote));
            }
        };
        builder.ttl(Duration::from_millis(600)).expiry_interval(Duration::from_millis(50)).on_event(note)
    });
    let gone = |key: &'static str| maps.iter().all(|map| !map.keys().contains(&key.into()));
    let put = || ["idle", "used"].map(|key| maps[0].put(key, "1").expect("put"));
    put();
    until("one is gone, and not the one that is used", || {
        let used = maps[1].contains("used").expect("an answer");
        if !used {
            // It was too long until this was asked. Once more.
            put();
        }
        used && gone("idle")
    });
    assert_eq!(maps[1].get("idle").expect("an answer"), None);
    until("the other is gone as well, when nobody uses it", || gone("used"));
    for told in [("used".into(), false), ("used".into(), true)] {
        until("it is told", || expired.lock().expect("nobody panics").contains(&told));
    }
}

#[test]
fn a_map_can_be_everywhere() {
    let channels = group(3);
    for set in [MapBuilder::copies_everywhere, |builder: MapBuilder| builder.copies(usize::MAX)] {
        let maps = maps(&channels, set);
        for number in 0..10_u32 {
            let receipt = maps[0].put(number.to_string(), "here").expect("put");
            assert_eq!((receipt.wanted, receipt.confirmed.len()), (2, 0), "nobody is waited for");
        }
        for map in &maps {
            until("it has all", || map.len() == 10);
            assert_eq!(map.statistics().guests, 0);
            until("nothing is at risk", || map.at_risk().is_empty());
        }
        assert!(maps[1].put_with("last", "here", Confirm::All).expect("put").is_met());
        maps.iter().for_each(ReplicatedMap::stop);
    }
}

#[test]
fn listeners_of_a_map_hear_what_happens_and_where() {
    let channels = group(2);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let maps = maps(&channels, |builder| builder.confirm(Confirm::All));
    let listen = |at: usize| {
        let heard = Arc::clone(&heard);
        maps[at].on_event(move |event| {
            let what = match event {
                MapEvent::Put { key, value, remote, .. } => {
                    (format!("{} = {}", String::from_utf8_lossy(key), String::from_utf8_lossy(&value.value)), *remote)
                }
                MapEvent::Removed { key, remote, .. } => (format!("{} is out", String::from_utf8_lossy(key)), *remote),
                other => (format!("{other:?}"), true),
            };
            heard.lock().expect("nobody panics").push((at, what.0, what.1));
        })
    };
    let (first, second) = (listen(0), listen(1));
    maps[0].put("pears", "3").expect("put");
    maps[0].put("pears", "2").expect("put");
    maps[0].remove("pears").expect("removed");
    until("all is told", || heard.lock().expect("nobody panics").len() == 6);
    let told: Vec<_> = std::mem::take(&mut *heard.lock().expect("nobody panics"));
    for at in 0..2 {
        let told: Vec<_> = told.iter().filter(|told| told.0 == at).map(|told| (told.1.as_str(), told.2)).collect();
        assert_eq!(told, [("pears = 3", at == 1), ("pears = 2", at == 1), ("pears is out", at == 1)]);
    }
    drop(first);
    maps[0].put("apples", "1").expect("put");
    until("it is told", || !heard.lock().expect("nobody panics").is_empty());
    assert_eq!(*heard.lock().expect("nobody panics"), [(1, "apples = 1".to_owned(), true)], "who left hears no more");
    drop(second);
}

#[test]
fn of_two_values_put_at_once_one_is_lost_and_told() {
    let channels = group(2);
    let conflicts = Arc::new(Mutex::new(Vec::new()));
    let maps = maps(&channels, |builder| {
        let conflicts = Arc::clone(&conflicts);
        let note = move |event: &MapEvent| {
            if let MapEvent::Conflict { key, kept, lost, .. } = event {
                conflicts.lock().expect("nobody panics").push((key.clone(), kept.clone(), lost.clone()));
            }
        };
        builder.on_event(note)
    });
    maps[0].put("pears", "3").expect("put");
    let releases = [block(&channels[1], &channels[0]), block(&channels[0], &channels[1])];
    maps[0].put_with("pears", "2", Confirm::None).expect("put");
    maps[1].put_with("pears", "4", Confirm::None).expect("put");
    drop(releases);
    until("it is told", || !conflicts.lock().expect("nobody panics").is_empty());
    let (key, kept, lost) = conflicts.lock().expect("nobody panics")[0].clone();
    assert_eq!(key, "pears");
    assert!(kept.version > lost.version);
    let mut both = [kept.value.clone(), lost.value];
    both.sort_unstable();
    assert_eq!(both, ["2", "4"]);
    for map in &maps {
        until("both agree", || map.get("pears").expect("an answer").as_ref() == Some(&kept.value));
    }
}

#[test]
fn a_key_is_taken_out_on_a_condition() {
    let channels = group(3);
    let maps = maps(&channels, |builder| builder);
    let version = |key: &str| maps[0].find(key).wait().expect("an answer").map(|found| found.version);
    // Some of them are decided here, some elsewhere.
    for number in 0..12_u32 {
        let key = number.to_string();
        maps[0].put(&key, "first").expect("put");
        let first = version(&key).expect("it is there");
        maps[1].replace_if(&key, Some(first), "second").expect("it is still so");
        let outcome = maps[2].remove_if(&key, first);
        assert!(matches!(outcome, Err(ReplaceError::Conflict { current: Some(current) }) if current > first), "{outcome:?}");
        until("the second is seen", || version(&key).is_some_and(|version| version > first));
        let second = version(&key).expect("it is there");
        let receipt = maps[2].remove_if(&key, second).expect("it is still so");
        assert!(!receipt.confirmed.is_empty());
        for map in &maps {
            until("it is gone", || map.find(&key).wait().expect("an answer").is_none());
        }
        assert_eq!(maps[1].remove_if(&key, first), Err(ReplaceError::Absent));
        assert_eq!(maps[1].replace_if(&key, Some(first), "third"), Err(ReplaceError::Absent));
        maps[1].replace_if(&key, None, "third").expect("there is nothing");
        until("it is back", || version(&key).is_some_and(|version: Version| version > first));
    }
    for map in &maps {
        until("all are whole", || map.at_risk().is_empty() && map.statistics().guests == 0);
    }
    assert_eq!(maps.iter().map(ReplicatedMap::len).sum::<usize>(), 24, "an owner and a copy of each");
}

#[test]
fn a_map_is_shared_by_all() {
    let channels = group(3);
    let maps: Vec<_> =
        channels.iter().map(|channel| ReplicatedMap::builder("stock").start(channel).expect("it starts")).collect();
    for map in &maps {
        assert!(map.wait_ready(PATIENCE));
        until("all are known", || map.statistics().members == 2);
    }
    for number in 0..30_u32 {
        let map = &maps[number as usize % 3];
        let receipt = map.put(number.to_string(), number.to_string()).expect("put");
        assert!(receipt.is_met());
    }
    for map in &maps {
        for number in 0..30_u32 {
            assert_eq!(map.get(number.to_string()).expect("an answer").as_deref(), Some(number.to_string().as_bytes()));
        }
    }
    assert!(maps[0].put("", "nothing").is_err());
    let found = maps[1].find("7").wait().expect("an answer").expect("it is there");
    maps[2].replace_if("7", Some(found.version), "seven").expect("it is still so");
    assert!(matches!(maps[0].replace_if("7", Some(found.version), "six"), Err(ReplaceError::Conflict { .. })));
    assert!(matches!(maps[0].replace_if("7", None, "six"), Err(ReplaceError::Conflict { .. })));
    maps[0].replace_if("new", None, "here").expect("there was none");
    assert_eq!(maps[1].get("new").expect("an answer").as_deref(), Some(&b"here"[..]));
    maps[1].remove("7").expect("removed");
    for map in &maps {
        until("it is gone", || !map.contains("7").expect("an answer"));
    }
    assert!(maps[0].drain(PATIENCE).is_empty());
    channels[0].stop();
    for map in &maps[1..] {
        assert_eq!(map.get("8").expect("an answer").as_deref(), Some(&b"8"[..]));
    }
}
