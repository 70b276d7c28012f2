//! Undoing an attempt: the guest runs on, unthrottled, its dirty log off.

use alloc::boxed::Box;

use super::Source;
use super::state::{Marks, Stake, State};
use crate::io::{Event, GuestAction, GuestEvent, Step};
use crate::reason::{AbortReason, GuestFailure};
use crate::status::Phase;
use crate::time::Instant;
use crate::wire::control::Control;
use crate::wire::reasons::AbortBody;

impl Source {
    /// Ends the attempt before the commit.
    pub(super) fn abort(&mut self, now: Instant, reason: AbortReason) {
        if !self.is_before_commit() {
            return;
        }
        match reason {
            AbortReason::LinkLost | AbortReason::PeerSilent(_) => self.endpoint.hang_up(),
            _ => {
                self.endpoint.say(Control::Abort(AbortBody::to_wire(&reason)));
                self.endpoint.close();
            }
        }
        self.unwind_with(now, reason);
    }

    /// Undoes what was done to the guest, from any state in which it is ours.
    pub(super) fn unwind_with(&mut self, now: Instant, reason: AbortReason) {
        let permit = match core::mem::replace(&mut self.state, State::Finished) {
            State::Stopped(_, permit)
            | State::Committing(Stake::Guest(permit))
            | State::Unknown(_, Stake::Guest(permit)) => Some(permit),
            State::Resuming(permit) => permit,
            _ => None,
        };
        // A permit that was about to be handed out must not get lost.
        let permit = match self.endpoint.withdraw() {
            Some(GuestAction::Run(withdrawn)) => Some(withdrawn),
            _ => permit,
        };
        self.endpoint.enter(Phase::Aborting);
        self.state = State::Aborting(reason, permit.or(self.held.take()));
        self.undo(now);
    }

    /// The next thing to undo, unless a step is still outstanding.
    pub(super) fn undo(&mut self, now: Instant) {
        let State::Aborting(_, permit) = &mut self.state else { return };
        if self.endpoint.outstanding().is_some() {
            return;
        }
        if let Some(permit) = permit.take() {
            self.endpoint.act(GuestAction::Run(permit));
        } else if !self.tidy() {
            self.finish(now);
        }
    }

    /// Asks for the next thing to undo at a guest that runs here; whether there is one.
    pub(super) fn tidy(&mut self) -> bool {
        if self.throttle != 0 {
            self.throttle_wanted = 0;
            self.endpoint.act(GuestAction::Throttle(0));
        } else if self.log_is_on {
            self.endpoint.act(GuestAction::StopDirtyLog);
        } else {
            return false;
        }
        true
    }

    /// A step of tidying up could not be done; what it was to undo is not tried again.
    pub(super) fn on_untidied(&mut self, step: Step, failure: GuestFailure) {
        match step {
            // It was to be made stronger when that was given up: what there was before is still to be taken off.
            Step::Throttle if self.throttle_wanted > 0 => return,
            Step::Throttle => self.throttle = 0,
            Step::StopDirtyLog => self.log_is_on = false,
            _ => return,
        }
        if !Self::is_gone(&failure) {
            self.endpoint.tell(Event::CleanupFailed(step, failure));
        }
    }

    /// A step that was outstanding at the abort, or one of the undoing, is done or has failed.
    pub(super) fn on_undone(&mut self, now: Instant, event: GuestEvent) {
        match event {
            GuestEvent::Paused(paused) => {
                self.marks.paused = Some(now);
                if let State::Aborting(_, permit) = &mut self.state {
                    *permit = Some(paused);
                }
            }
            GuestEvent::Running => self.marks.ended = Some(now),
            GuestEvent::RunFailed(permit, failure) => {
                self.held = Some(permit);
                self.endpoint.tell(Event::Held(failure));
            }
            GuestEvent::Failed(step, failure) => self.on_untidied(step, failure),
            _ => {}
        }
        self.undo(now);
    }

    fn finish(&mut self, now: Instant) {
        self.ended_at = Some(now);
        if self.marks.paused.is_none() {
            // It was asked for, and did not come to it.
            self.marks = Marks::default();
        }
        if let State::Aborting(reason, _) = core::mem::replace(&mut self.state, State::Finished) {
            self.sender = self.sender.take().map(super::sender::Sender::into_summary);
            self.endpoint.enter(Phase::Aborted);
            self.last_word = Some(Event::Aborted(reason, Box::new(self.report(now))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::GuestDescription;
    use crate::io::{Command, Input, Output};
    use crate::permit::{Generation, GuestId, MigrationId, RunPermit};
    use crate::policy::{Compression, Mode, Policy, Purpose};
    use crate::ram::{NoRam, RamLayout, RamRange};
    use crate::source::SourceConfig;
    use crate::source::sender::Sender;
    use crate::source::state::Stopped;

    fn source() -> Source {
        let guest = GuestDescription {
            id: GuestId([1; 16]),
            generation: Generation::FIRST,
            name: "g".into(),
            layout: RamLayout::new(&[RamRange { first_frame: 0, frames: 1 }]).unwrap(),
            vcpus: 1,
            features: std::vec![],
            tsc_hz: 1,
            configuration: std::vec![],
        };
        let (migration, policy) = (MigrationId([2; 16]), Policy::default());
        Source::new(SourceConfig { migration, guest, policy, purpose: Purpose::Move })
    }

    #[test]
    fn the_last_word_comes_also_while_the_network_takes_nothing() {
        let mut source = source();
        source.handle_input(Instant::ORIGIN, Input::Command(Command::Cancel), &mut NoRam);
        loop {
            match source.poll_output(Instant::ORIGIN, &mut [], &mut NoRam) {
                Output::Event(Event::Aborted(AbortReason::Cancelled, _)) => return,
                Output::Timeout(_) => panic!("it never says how it ended"),
                _ => {}
            }
        }
    }

    /// A stronger throttle is asked for, the attempt is cancelled, and that step fails: the weaker one is still on.
    #[test]
    fn a_throttle_comes_off_also_if_a_stronger_one_fails_meanwhile() {
        let mut source = source();
        (source.throttle, source.throttle_wanted, source.state) = (20, 35, State::Throttling);
        source.endpoint.act(GuestAction::Throttle(35));
        let mut asked = |input: Option<Input<'_>>| {
            input.into_iter().for_each(|input| source.handle_input(Instant::ORIGIN, input, &mut NoRam));
            loop {
                match source.poll_output(Instant::ORIGIN, &mut [], &mut NoRam) {
                    Output::Guest(GuestAction::Throttle(percent)) => return Some(percent),
                    Output::Timeout(_) => return None,
                    _ => {}
                }
            }
        };
        assert_eq!(asked(None), Some(35));
        assert_eq!(asked(Some(Input::Command(Command::Cancel))), None, "one step at a time");
        let failed = || GuestEvent::Failed(Step::Throttle, GuestFailure::OutOfMemory);
        assert_eq!(asked(Some(Input::Guest(failed()))), Some(0));
        assert_eq!(asked(Some(Input::Guest(failed()))), None, "what cannot be undone is not tried again");
        assert!(source.is_finished());
    }

    #[test]
    fn a_guest_that_was_never_stopped_has_no_downtime() {
        let mut source = source();
        (source.state, source.marks.asked) = (State::Pausing, Some(Instant::ORIGIN));
        source.endpoint.act(GuestAction::Pause);
        let now = Instant::from_nanos(5_000_000_000);
        source.handle_input(now, Input::Command(Command::Cancel), &mut NoRam);
        loop {
            match source.poll_output(now, &mut [], &mut NoRam) {
                Output::Event(Event::Aborted(_, report)) => {
                    return assert_eq!(
                        (report.downtime.total, report.stops.count),
                        (core::time::Duration::ZERO, 0)
                    );
                }
                Output::Timeout(_) => panic!("it never says how it ended"),
                _ => {}
            }
        }
    }

    /// A person wants all of it before the switch, while the guest is being stopped for one.
    #[test]
    fn a_switch_that_is_not_wanted_any_more_is_none() {
        for (mode, is_switch) in [(Mode::PostCopy, true), (Mode::PreCopy, false)] {
            let mut source = source();
            source.sender = Some(Sender::new(1, Compression::Off).unwrap());
            (source.serving.why, source.serving.is_offered) = (Some(crate::Why::Asked), true);
            source.state = State::Stopped(Stopped::Saving, RunPermit::for_new_guest(GuestId([1; 16])));
            source.endpoint.act(GuestAction::SaveState);
            while !matches!(source.poll_output(Instant::ORIGIN, &mut [], &mut NoRam), Output::Timeout(_)) {}
            let policy = Policy { mode, ..Policy::default() };
            source.handle_input(Instant::ORIGIN, Input::Command(Command::Tune(policy)), &mut NoRam);
            let saved = GuestEvent::StateSaved(std::vec![]);
            source.handle_input(Instant::ORIGIN, Input::Guest(saved), &mut NoRam);
            assert_eq!((source.serving.absent > 0, source.serving.why.is_some()), (is_switch, is_switch));
            assert_eq!(matches!(source.state, State::Resuming(_)), !is_switch, "it runs on here");
        }
    }
}
