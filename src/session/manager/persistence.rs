//! What a manager does with a store.

use std::time::Duration;

use crate::session::engine::Keeping;

/// What goes to the [store](super::ManagerBuilder::store) of a manager, and when. By default: all sessions, when the manager stops.
///
/// ```
/// use std::time::Duration;
/// use tribes::session::Persistence;
///
/// let persistence = Persistence::default().max_resident(10_000).min_idle_swap(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing until a builder has it"]
pub struct Persistence {
    pub(super) save_on_shutdown: bool,
    pub(super) keeping: Keeping,
}

impl Default for Persistence {
    fn default() -> Self {
        Self { save_on_shutdown: true, keeping: Keeping::default() }
    }
}

impl Persistence {
    /// Whether [`stop`](super::Manager::stop) saves all sessions that this member holds, those that are copies of others' included, and
    /// what it has to remember of ended ones; after [`drain`](super::Manager::drain), what could not be handed over. Default: yes.
    pub fn save_on_shutdown(mut self, save: bool) -> Self {
        self.save_on_shutdown = save;
        self
    }

    /// How many sessions are in memory with their attributes. Of more, those that were accessed longest ago are swapped out:
    /// their attributes are in the store only, until somebody wants them. This bounds memory, but not at every moment: it is
    /// looked after once a second, and sooner when it is exceeded by more than an eighth. Default: any number.
    pub fn max_resident(mut self, sessions: usize) -> Self {
        self.keeping.max_resident = Some(sessions);
        self
    }

    /// What was accessed less long ago is not swapped out, even above [`max_resident`](Self::max_resident). Default: zero.
    pub fn min_idle_swap(mut self, idle: Duration) -> Self {
        self.keeping.min_idle = idle;
        self
    }

    /// What was not accessed for so long is swapped out, however few sessions there are, unless
    /// [`min_idle_swap`](Self::min_idle_swap) is longer. Default: never.
    pub fn max_idle_swap(mut self, idle: Duration) -> Self {
        self.keeping.max_idle = Some(idle);
        self
    }

    /// What was not accessed for so long is saved, once for each change or access, and stays in memory. Default: never.
    pub fn idle_backup(mut self, idle: Duration) -> Self {
        self.keeping.backup = Some(idle);
        self
    }
}
