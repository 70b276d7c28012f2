//! Hosts that die and come back without memory, and the person who decides what only a person can.

use std::time::Duration;

use godwit_migration::{Command, Impatience, Input, Phase};

use super::third::Client;
use super::{Happening, World};

impl World {
    pub(crate) fn crash_source(&mut self, back_after: Duration) {
        self.spool_inherits();
        self.source.is_alive = false;
        self.source.incarnation += 1;
        self.source.guest = None;
        self.source.still_since = None;
        self.source.engine = None;
        self.source.verdict = None;
        self.source.connecting = [None; 2];
        for connection in std::mem::take(&mut self.source.connection).into_iter().flatten() {
            self.close(connection, false);
        }
        self.after(back_after, Happening::Reboot { is_source: true });
    }

    pub(crate) fn crash_target(&mut self, back_after: Duration) {
        self.target.is_alive = false;
        self.target.incarnation += 1;
        self.target.guest = None;
        self.target.guest_of = None;
        self.waits_for.clear();
        self.third_leave(Client::Spool, false);
        self.spool.inherited = None;
        self.spool.was_whole = false;
        for index in 0..self.target.slots.len() {
            self.target.slots[index].engine = None;
            let connections = std::mem::take(&mut self.target.slots[index].connection);
            for connection in connections.into_iter().flatten() {
                self.connections[connection].target_thinks_up = false;
                self.close(connection, true);
            }
        }
        self.after(back_after, Happening::Reboot { is_source: false });
    }

    pub(crate) fn reboot(&mut self, is_source: bool) {
        if is_source {
            self.source.is_alive = true;
        } else {
            self.target.is_alive = true;
        }
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn make_peace(&mut self) {
        self.plan.faults.clear();
        self.plan.dies_when_spooled = None;
        self.is_peaceful = true;
        self.plan.policy.impatience = Impatience::StopAnyway;
        self.target.is_alive = true;
        self.frozen_until = self.now;
        self.partitioned_until = self.now;
    }

    /// A person looks after what only a person can decide.
    pub(crate) fn operate(&mut self) {
        if self.source.target_forgot {
            let runs_there = self.target_guest_runs();
            let command = if runs_there { Command::Release } else { Command::Reclaim };
            self.note(format!("a person decides {command:?}"));
            if let (Command::Reclaim, Some(guest)) = (command, &self.source.guest) {
                // What the guest did at a target that died with it is gone: a person knows that and decides.
                self.truth.pages.clone_from(&guest.ram.pages);
            }
            self.give_source(Input::Command(command));
        }
        if self.source.engine.is_none() || self.plan.gives_up_early {
            for index in 0..self.target.slots.len() {
                // As long as a third host has something, it may still come.
                let may_come = !self.spool.is_at_rest() && !self.plan.gives_up_early;
                if self.target.slots[index].phase() == Some(Phase::Recovering) && !may_come {
                    self.give_target(index, Input::Command(Command::TakeOver));
                }
                if self.target.slots[index].phase() == Some(Phase::CommitUnknown) {
                    let command = if self.random.one_in(2) { Command::TakeOver } else { Command::Cancel };
                    self.note(format!("a person decides {command:?}"));
                    self.give_target(index, Input::Command(command));
                }
            }
        }
        self.after(Duration::from_secs(10), Happening::Operator);
    }
}
