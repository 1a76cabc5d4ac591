//! How a process and its application deal with each other.

use std::time::Instant;

use super::Process;
use crate::testing::simulator::application::{AppContext, Application, Host, Make};
use crate::testing::simulator::ledger::Ledger;
use crate::testing::simulator::world::World;

impl Process {
    /// Gets an application. It starts here.
    pub(in super::super) fn host_app(&mut self, world: &mut World, ledger: &mut Ledger, make: &Make) {
        let time = self.clock.time(world.now);
        self.host = Some(Host::new(make, world.random(), time, &self.member, self.stack.view()));
        self.call(world, |app, cx| app.start(cx));
        self.settle(world, ledger);
    }

    pub(in super::super) fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// Tells the application what has become known, and that its time has come.
    pub(super) fn tick_app(&mut self, world: &mut World, ledger: &mut Ledger) {
        let Some(host) = &mut self.host else { return };
        if host.hears().is_some_and(|at| at <= world.now) {
            for heard in host.unheard() {
                heard.note(world, self.pid);
                self.call(world, |app, cx| heard.tell(app, cx));
            }
            self.settle(world, ledger);
        }
        let now = self.clock.time(world.now).instant;
        if !self.is_app_due(now) {
            self.spins = 0;
            return;
        }
        const ENOUGH: u32 = 10_000;
        self.spins = if self.spun_at == world.now { self.spins + 1 } else { 0 };
        self.spun_at = world.now;
        assert!(self.spins < ENOUGH, "the application of {} is due again and again at {:?}", self.member, world.now);
        self.call(world, |app, cx| app.timeout(cx));
        self.settle(world, ledger);
    }

    fn is_app_due(&self, now: Instant) -> bool {
        self.host.as_ref().and_then(|host| host.app().poll_timeout()).is_some_and(|at| at <= now)
    }

    /// Calls the application, if there is one. What it wants is carried out when the process [settles](Self::settle).
    pub(super) fn call<R>(
        &mut self,
        world: &World,
        call: impl FnOnce(&mut dyn Application, &mut AppContext<'_>) -> R,
    ) -> Option<R> {
        let time = self.clock.time(world.now);
        let host = self.host.as_mut()?;
        Some(host.call(time, &self.member, self.stack.view(), call))
    }

    /// Calls the application from outside.
    pub(in super::super) fn with_app<R>(
        &mut self,
        world: &mut World,
        ledger: &mut Ledger,
        call: impl FnOnce(&mut dyn Application, &mut AppContext<'_>) -> R,
    ) -> Option<R> {
        let result = self.call(world, call);
        self.settle(world, ledger);
        result
    }

    /// Sends what the application wants sent.
    pub(super) fn post(&mut self, world: &mut World, ledger: &mut Ledger) {
        let Some(host) = &mut self.host else { return };
        let (letters, outcomes) = (host.letters(), host.outcomes().clone());
        for letter in letters {
            let (id, legs) = ledger.posted(world, self.pid, &letter, &outcomes);
            self.submit(world, id, legs, letter.body, letter.options);
        }
    }
}
