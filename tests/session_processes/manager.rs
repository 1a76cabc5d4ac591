//! Either manager, and what the commands do with it.

use std::time::Duration;

use tribes::GroupChannel;
use tribes::session::{BackupManager, Confirm, DeltaManager, Session, SessionId};

use crate::member::{Outcome, named, text};

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
    /// `backup1`: an owner and one backup; `delta`: everywhere, and a commit waits for all; `delta-one`: it waits for one.
    pub(crate) fn start(kind: &str, channel: &GroupChannel) -> Outcome<Self> {
        Ok(match kind.strip_prefix("backup") {
            Some(copies) => Self::Backup(BackupManager::builder("/shop").backups(copies.parse()?).start(channel)?),
            None => {
                let confirm = if kind == "delta-one" { Confirm::Copies(1) } else { Confirm::All };
                Self::Delta(DeltaManager::builder("/shop").confirm(confirm).start(channel)?)
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
            ("hello", []) => Ok("hello".to_owned()),
            ("ready", []) => Ok(either!(self, manager => manager.wait_ready(Duration::from_secs(30))).to_string()),
            ("create", attributes) => {
                let mut session = self.create()?;
                for (name, value) in attributes.iter().filter_map(|pair| pair.split_once('=')) {
                    session.set(name, value.to_owned())?;
                }
                let receipt = session.commit()?;
                Ok(format!("{} {}", session.id(), receipt.confirmed.len()))
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
            ("ids", []) => Ok(listed(either!(self, manager => manager.session_ids()))),
            ("at_risk", []) => Ok(listed(either!(self, manager => manager.at_risk()))),
            ("drain", [millis]) => {
                let deadline = Duration::from_millis(millis.parse()?);
                let drained = either!(self, manager => manager.drain(deadline));
                Ok(format!("left {}", drained.remaining.len()))
            }
            ("statistics", []) => {
                let now = either!(self, manager => manager.statistics());
                Ok(format!("active={} expired={} conflicts={}", now.active, now.expired, now.conflicts))
            }
            _ => Err(format!("{verb} is no command, or has other arguments").into()),
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Session) -> Outcome<()>) -> Outcome<String> {
        let mut session = self.get(&named(id)?)?.ok_or("gone")?;
        change(&mut session)?;
        Ok(format!("confirmed {}", session.commit()?.confirmed.len()))
    }

    /// All attributes of all these sessions that there are: `ID:NAME=VALUE,NAME=VALUE ...`.
    fn read(&self, ids: &[&str]) -> Outcome<String> {
        let mut all = String::new();
        for id in ids {
            // While members fail, nobody may have an answer for a moment; that is no loss yet.
            let mut found = self.get(&named(id)?);
            for _ in 0..READ_AGAIN {
                let Err(_) = found else { break };
                found = self.get(&named(id)?);
            }
            if let Some(session) = found? {
                let pairs: Vec<_> = session.names().map(|name| format!("{name}={}", text(&session, name))).collect();
                all.push_str(&format!("{id}:{} ", pairs.join(",")));
            }
        }
        Ok(all)
    }
}

/// Each time-out of a get takes seconds.
const READ_AGAIN: usize = 3;

fn listed(ids: impl IntoIterator<Item = SessionId>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ")
}
