//! The life of a virtual machine: a pure state machine.

use core::fmt;

use crate::exits::StopReason;

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Built, never run.
    Created,
    /// Its processors run.
    Running,
    /// A person paused it.
    Paused,
    /// It runs while its memory goes to another host.
    MovingOut,
    /// It stands still for the last part of its way to another host, or until a migration that failed lets it go on.
    Stunned,
    /// It comes from another host and has not run here.
    MovingIn,
    /// It ended.
    Stopped(StopReason),
}

/// What can happen to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Let it run: a new machine, a paused one, one that has arrived, one whose migration failed.
    Run,
    /// Keep it from running.
    Pause,
    /// Its dirty log was started for a migration.
    BeginMove,
    /// Its dirty log was stopped.
    EndMove,
    /// Keep it from running for the last part of its migration.
    Stun,
    /// It ends.
    Stop(StopReason),
}

/// A step that is not possible from where the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impossible {
    /// Where the machine is.
    pub state: State,
    /// What was tried.
    pub input: Input,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::MovingOut => "moving out",
            Self::Stunned => "stunned",
            Self::MovingIn => "moving in",
            Self::Stopped(_) => "stopped",
        })
    }
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.input {
            Input::Run => "run",
            Input::Pause => "be paused",
            Input::BeginMove => "be moved",
            Input::EndMove => "end a move",
            Input::Stun => "be stunned",
            Input::Stop(_) => "be stopped",
        };
        write!(f, "a guest that is {} cannot {verb}", self.state)
    }
}

impl core::error::Error for Impossible {}

impl State {
    /// Whether its processors are to run.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self, Self::Running | Self::MovingOut)
    }

    /// The state after `input`.
    ///
    /// # Errors
    /// [`Impossible`] if that cannot happen now.
    pub fn after(self, input: Input) -> Result<Self, Impossible> {
        match (self, input) {
            (Self::Stopped(reason), input @ (Input::Run | Input::Pause | Input::BeginMove | Input::Stun)) => {
                Err(Impossible { state: Self::Stopped(reason), input })
            }
            // The first reason stands.
            (Self::Stopped(reason), Input::Stop(_) | Input::EndMove) => Ok(Self::Stopped(reason)),
            (_, Input::Stop(reason)) => Ok(Self::Stopped(reason)),
            (Self::Created | Self::Paused | Self::MovingIn | Self::Running, Input::Run) => Ok(Self::Running),
            (Self::Stunned | Self::MovingOut, Input::Run) => Ok(Self::MovingOut),
            (Self::Running | Self::Paused, Input::Pause) => Ok(Self::Paused),
            (Self::Running, Input::BeginMove) => Ok(Self::MovingOut),
            (Self::Paused, Input::BeginMove) => Ok(Self::Stunned),
            (Self::MovingOut, Input::EndMove) => Ok(Self::Running),
            (Self::Stunned, Input::EndMove) => Ok(Self::Paused),
            (Self::MovingOut | Self::Stunned, Input::Stun) => Ok(Self::Stunned),
            (Self::Created, Input::BeginMove) => {
                Err(Impossible { state: Self::Created, input: Input::BeginMove })
            }
            (state @ (Self::Running | Self::Paused | Self::Created | Self::MovingIn), Input::EndMove) => {
                Ok(state)
            }
            (
                state @ (Self::Created | Self::MovingIn | Self::MovingOut | Self::Stunned),
                input @ (Input::Pause | Input::BeginMove),
            )
            | (
                state @ (Self::Created | Self::MovingIn | Self::Running | Self::Paused),
                input @ Input::Stun,
            ) => Err(Impossible { state, input }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn walk(inputs: &[Input]) -> State {
        inputs.iter().fold(State::Created, |state, input| state.after(input.clone()).unwrap())
    }

    #[test]
    fn a_machine_runs_pauses_and_goes_on() {
        assert_eq!(walk(&[Input::Run, Input::Pause, Input::Run]), State::Running);
    }

    #[test]
    fn a_migration_that_fails_leaves_the_machine_running() {
        let moved = [Input::Run, Input::BeginMove, Input::Stun];
        assert_eq!(walk(&moved), State::Stunned);
        let back = State::Stunned.after(Input::Run).unwrap().after(Input::EndMove).unwrap();
        assert_eq!(back, State::Running);
    }

    #[test]
    fn a_stop_that_is_called_back_leaves_the_machine_on_its_way_and_it_can_be_stunned_again() {
        let on_its_way = [Input::Run, Input::BeginMove, Input::Stun, Input::Run];
        assert_eq!(walk(&on_its_way), State::MovingOut, "its dirty log is still on");
        assert_eq!(State::MovingOut.after(Input::Stun), Ok(State::Stunned));
    }

    #[test]
    fn a_migrated_machine_has_ended_here_for_good() {
        let gone = State::Stunned.after(Input::Stop(StopReason::Migrated)).unwrap();
        assert_eq!(gone, State::Stopped(StopReason::Migrated));
        let error = gone.clone().after(Input::Run).unwrap_err();
        assert_eq!(error.to_string(), "a guest that is stopped cannot run");
        assert_eq!(gone.clone().after(Input::Stop(StopReason::Requested)), Ok(gone));
    }

    #[test]
    fn a_person_cannot_pause_a_machine_on_its_way() {
        assert!(State::MovingOut.after(Input::Pause).is_err());
        assert!(State::MovingIn.after(Input::Pause).is_err());
    }

    proptest! {
        #[test]
        fn a_stopped_machine_never_runs_again(choices: Vec<u8>) {
            let mut state = State::Created;
            let mut stopped = false;
            for choice in choices {
                let input = match choice % 6 {
                    0 => Input::Run,
                    1 => Input::Pause,
                    2 => Input::BeginMove,
                    3 => Input::EndMove,
                    4 => Input::Stun,
                    _ => Input::Stop(StopReason::Requested),
                };
                stopped |= matches!(input, Input::Stop(_));
                state = match state.after(input) {
                    Ok(state) => state,
                    Err(error) => error.state,
                };
                prop_assert_eq!(matches!(state, State::Stopped(_)), stopped);
                prop_assert!(!(stopped && state.runs()));
            }
        }
    }

    use std::vec::Vec;
}
