//! Either manager, and what the commands do with it.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use tribes::GroupChannel;
use tribes::session::{BackupManager, Confirm, DeltaManager, Session, SessionId};

use crate::member::{DEFAULT, Outcome, RENAMED_FROM, named, text};

pub(crate) enum Manager {
    Backup(BackupManager),
    Delta(DeltaManager),
}

/// The same of either.
macro_rules! either {
    ($manager:expr, $inner:ident => $what:expr) => {
        match $manager {
            Manager::Backup($inner) => $what,
            Manager::Delta($inner) => $what,
        }
    };
}

impl Manager {
    /// `backup1`: an owner and one backup; `delta`: everywhere, and a commit waits for all; `delta-one`: it waits for one; `delta-default`:
    /// it waits for none, as nothing is set at all.
    pub(crate) fn start(kind: &str, channel: &GroupChannel) -> Outcome<Self> {
        let delta = DeltaManager::builder("/shop");
        Ok(match kind {
            DEFAULT => Self::Delta(delta.start(channel)?),
            "delta" => Self::Delta(delta.confirm(Confirm::All).start(channel)?),
            "delta-one" => Self::Delta(delta.confirm(Confirm::Copies(1)).start(channel)?),
            kind => {
                let copies = kind.strip_prefix("backup").ok_or_else(|| format!("{kind} is no manager"))?;
                Self::Backup(BackupManager::builder("/shop").backups(copies.parse()?).start(channel)?)
            }
        })
    }

    pub(crate) fn create(&self) -> Outcome<Session> {
        Ok(either!(self, manager => manager.create()?))
    }

    pub(crate) fn get(&self, id: &SessionId) -> Outcome<Option<Session>> {
        Ok(either!(self, manager => manager.get(id)?))
    }

    /// Does what a command says.
    pub(crate) fn answer(&self, verb: &str, arguments: &[&str]) -> Outcome<String> {
        match (verb, arguments) {
            ("is_ready", []) => Ok(either!(self, manager => manager.ready()).to_string()),
            ("ready", []) => Ok(either!(self, manager => manager.wait_ready(Duration::from_secs(30))).to_string()),
            ("create", attributes) => {
                let mut session = self.create()?;
                for (name, value) in attributes.iter().filter_map(|pair| pair.split_once('=')) {
                    session.set(name, value.to_owned())?;
                }
                let receipt = session.commit()?;
                Ok(format!("{} {}", session.id(), receipt.confirmed.len()))
            }
            ("create_each", [count, name]) => self.each(count.parse()?, |session, number| {
                session.set(name, number.to_string())?;
                session.commit()?;
                Ok(())
            }),
            ("count_each", [count, name, most]) => {
                let most: usize = most.parse()?;
                self.each(count.parse()?, |session, _| {
                    for value in 1..=most {
                        *session = self.get(&session.id())?.ok_or("gone")?;
                        session.set(name, value.to_string())?;
                        session.commit()?;
                    }
                    Ok(())
                })
            }
            ("set", [id, name, value]) => self.change(id, |session| Ok(session.set(name, (*value).to_owned())?)),
            ("lease", [id, millis]) => {
                let lease = Duration::from_millis(millis.parse()?);
                self.change(id, |session| {
                    session.set_max_inactive(lease);
                    Ok(())
                })
            }
            ("get", [id, name]) => Ok(self.get(&named(id)?)?.map_or_else(|| "gone".to_owned(), |session| text(&session, name))),
            ("invalidate", [id]) => {
                self.get(&named(id)?)?.ok_or("gone")?.invalidate()?;
                Ok("invalidated".to_owned())
            }
            ("change_id", [id]) => {
                let mut session = self.get(&named(id)?)?.ok_or("gone")?;
                session.change_id()?;
                Ok(session.id().to_string())
            }
            ("read", ids) => self.read(ids),
            ("renamed", ids) => self.renamed(ids),
            ("ids", []) => Ok(listed(either!(self, manager => manager.session_ids()))),
            ("at_risk", []) => Ok(listed(either!(self, manager => manager.at_risk()))),
            ("drain", [millis]) => {
                let deadline = Duration::from_millis(millis.parse()?);
                let drained = either!(self, manager => manager.drain(deadline));
                Ok(format!("left {}", drained.remaining.len()))
            }
            ("statistics", []) => {
                let now = either!(self, manager => manager.statistics());
                let (active, expired, conflicts) = (now.active, now.expired, now.conflicts);
                let (missing, late) = (now.bases_missing, now.late_updates);
                Ok(format!("active={active} expired={expired} conflicts={conflicts} bases_missing={missing} late={late}"))
            }
            _ => Err(format!("{verb} is no command, or has other arguments").into()),
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Session) -> Outcome<()>) -> Outcome<String> {
        let mut session = self.get(&named(id)?)?.ok_or("gone")?;
        change(&mut session)?;
        Ok(format!("confirmed {}", session.commit()?.confirmed.len()))
    }

    /// Creates so many sessions on several threads, does something more with each, and tells their ids.
    fn each(&self, count: usize, more: impl Fn(&mut Session, usize) -> Outcome<()> + Sync) -> Outcome<String> {
        let one = |number| {
            let mut session = self.create()?;
            session.commit()?;
            more(&mut session, number)?;
            Outcome::Ok(session.id())
        };
        let some = |thread| {
            let mine = (0..count).skip(thread).step_by(REQUESTS);
            mine.map(|number| Ok((number, one(number)?))).collect::<Outcome<Vec<_>>>().map_err(|error| error.to_string())
        };
        let all = thread::scope(|scope| {
            let threads: Vec<_> = (0..REQUESTS).map(|thread| scope.spawn(move || some(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>, _>>()
        });
        let all: BTreeMap<_, _> = all?.into_iter().flatten().collect();
        Ok(listed(all.into_values()))
    }

    /// All attributes of all these sessions that there are: `ID:NAME=VALUE,NAME=VALUE ...`.
    fn read(&self, ids: &[&str]) -> Outcome<String> {
        let mut all = String::new();
        for id in ids {
            if let Some(session) = self.get_again(&named(id)?)? {
                let pairs: Vec<_> = session.names().map(|name| format!("{name}={}", text(&session, name))).collect();
                all.push_str(&format!("{id}:{} ", pairs.join(",")));
            }
        }
        Ok(all)
    }

    /// Which sessions of this member had one of these ids: `OLD=NEW ...`.
    fn renamed(&self, ids: &[&str]) -> Outcome<String> {
        let mut all = String::new();
        for id in either!(self, manager => manager.session_ids()) {
            let Some(session) = self.get_again(&id)? else { continue };
            let old = text(&session, RENAMED_FROM);
            if ids.contains(&&*old) {
                all.push_str(&format!("{old}={id} "));
            }
        }
        Ok(all)
    }

    /// While members fail, nobody may have an answer for a moment; that is no loss yet.
    fn get_again(&self, id: &SessionId) -> Outcome<Option<Session>> {
        let mut found = self.get(id);
        for _ in 0..READ_AGAIN {
            let Err(_) = found else { break };
            found = self.get(id);
        }
        found
    }
}

/// Requests that are served at once.
const REQUESTS: usize = 8;

/// Each time-out of a get takes seconds.
const READ_AGAIN: usize = 3;

fn listed(ids: impl IntoIterator<Item = SessionId>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}
