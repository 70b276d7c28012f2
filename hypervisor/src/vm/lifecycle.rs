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
    /// It runs while its memory goes to another host, unless a person paused it before.
    MovingOut {
        /// A person paused it, and it stays so wherever it comes to be.
        paused: bool,
    },
    /// It stands still for the last part of its way to another host, or until a migration that failed lets it go on.
    Stunned {
        /// A person paused it.
        paused: bool,
    },
    /// It comes from another host and has not run here.
    MovingIn {
        /// A person paused it there.
        paused: bool,
    },
    /// It ended.
    Stopped(StopReason),
}

/// What can happen to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It may run: a new machine, one that has arrived, one whose migration failed. One that a person paused stays so.
    Start,
    /// A person lets it go on.
    Resume,
    /// Keep it from running.
    Pause,
    /// Its dirty log was started for a migration.
    BeginMove,
    /// Its dirty log was stopped.
    EndMove,
    /// Keep it from running for the last part of its migration.
    Stun,
    /// Its state has come from another host.
    Arrive {
        /// A person paused it there.
        paused: bool,
    },
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
            Self::MovingOut { paused: false } => "moving out",
            Self::MovingOut { paused: true } => "paused, moving out",
            Self::Stunned { .. } => "stunned",
            Self::MovingIn { .. } => "moving in",
            Self::Stopped(_) => "stopped",
        })
    }
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.input {
            Input::Start | Input::Resume => "run",
            Input::Pause => "be paused",
            Input::BeginMove => "be moved",
            Input::EndMove => "end a move",
            Input::Stun => "be stunned",
            Input::Arrive { .. } => "arrive",
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
        matches!(self, Self::Running | Self::MovingOut { paused: false })
    }

    /// Whether a person paused it.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        matches!(
            self,
            Self::Paused
                | Self::MovingOut { paused: true }
                | Self::Stunned { paused: true }
                | Self::MovingIn { paused: true }
        )
    }

    /// The state after `input`.
    ///
    /// # Errors
    /// [`Impossible`] if that cannot happen now.
    pub fn after(self, input: Input) -> Result<Self, Impossible> {
        match (self, input) {
            // The first reason stands.
            (Self::Stopped(reason), Input::Stop(_) | Input::EndMove) => Ok(Self::Stopped(reason)),
            (_, Input::Stop(reason)) => Ok(Self::Stopped(reason)),
            (Self::Created | Self::Paused | Self::Running, Input::Start | Input::Resume) => Ok(Self::Running),
            (Self::MovingIn { paused }, Input::Start) => Ok(Self::at_rest(paused)),
            (Self::Stunned { paused } | Self::MovingOut { paused }, Input::Start) => {
                Ok(Self::MovingOut { paused })
            }
            (Self::MovingOut { .. }, Input::Resume) => Ok(Self::MovingOut { paused: false }),
            (Self::Running | Self::Paused, Input::Pause) => Ok(Self::Paused),
            (Self::Running, Input::BeginMove) => Ok(Self::MovingOut { paused: false }),
            (Self::Paused, Input::BeginMove) => Ok(Self::MovingOut { paused: true }),
            (Self::MovingOut { paused }, Input::EndMove) => Ok(Self::at_rest(paused)),
            (Self::Stunned { .. }, Input::EndMove) => Ok(Self::Paused),
            (
                state @ (Self::Running | Self::Paused | Self::Created | Self::MovingIn { .. }),
                Input::EndMove,
            ) => Ok(state),
            (Self::MovingOut { paused } | Self::Stunned { paused }, Input::Stun) => {
                Ok(Self::Stunned { paused })
            }
            (Self::MovingIn { .. }, Input::Arrive { paused }) => Ok(Self::MovingIn { paused }),
            (state, input) => Err(Impossible { state, input }),
        }
    }

    /// Where a machine is that is not on its way.
    const fn at_rest(paused: bool) -> Self {
        if paused { Self::Paused } else { Self::Running }
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
        assert_eq!(walk(&[Input::Start, Input::Pause, Input::Resume]), State::Running);
    }

    #[test]
    fn a_migration_that_fails_leaves_the_machine_running() {
        let moved = [Input::Start, Input::BeginMove, Input::Stun];
        assert_eq!(walk(&moved), State::Stunned { paused: false });
        let back = walk(&moved).after(Input::Start).unwrap().after(Input::EndMove).unwrap();
        assert_eq!(back, State::Running);
    }

    #[test]
    fn a_machine_that_a_person_paused_never_runs_on_its_way() {
        let mut state = walk(&[Input::Start, Input::Pause]);
        // A stop that is called back, another, and an attempt that fails.
        for input in [Input::BeginMove, Input::Stun, Input::Start, Input::Stun, Input::Start] {
            state = state.after(input).unwrap();
            assert!(!state.runs() && state.is_paused(), "{state}");
        }
        let resumed = state.clone().after(Input::Resume).unwrap();
        assert!(resumed.runs(), "but a person may let it go on");
        assert_eq!(resumed.after(Input::EndMove), Ok(State::Running));
        assert_eq!(state.after(Input::EndMove), Ok(State::Paused));
        for paused in [false, true] {
            let arriving = State::MovingIn { paused: !paused }.after(Input::Arrive { paused }).unwrap();
            assert!(!arriving.runs());
            assert_eq!(arriving.after(Input::Start).unwrap().is_paused(), paused, "at the target");
        }
    }

    #[test]
    fn a_stop_that_is_called_back_leaves_the_machine_on_its_way_and_it_can_be_stunned_again() {
        let on_its_way = walk(&[Input::Start, Input::BeginMove, Input::Stun, Input::Start]);
        assert_eq!(on_its_way, State::MovingOut { paused: false }, "its dirty log is still on");
        assert_eq!(on_its_way.after(Input::Stun), Ok(State::Stunned { paused: false }));
    }

    #[test]
    fn a_migrated_machine_has_ended_here_for_good() {
        let gone = State::Stunned { paused: false }.after(Input::Stop(StopReason::Migrated)).unwrap();
        assert_eq!(gone, State::Stopped(StopReason::Migrated));
        let error = gone.clone().after(Input::Start).unwrap_err();
        assert_eq!(error.to_string(), "a guest that is stopped cannot run");
        assert_eq!(gone.clone().after(Input::Stop(StopReason::Requested)), Ok(gone));
    }

    #[test]
    fn a_person_cannot_pause_a_machine_on_its_way() {
        assert!(State::MovingOut { paused: false }.after(Input::Pause).is_err());
        assert!(State::MovingIn { paused: false }.after(Input::Pause).is_err());
    }

    proptest! {
        #[test]
        fn a_stopped_machine_never_runs_again(choices: Vec<u8>) {
            let mut state = State::Created;
            let mut stopped = false;
            for choice in choices {
                let input = match choice % 8 {
                    0 => Input::Start,
                    5 => Input::Resume,
                    6 => Input::Arrive { paused: choice > 127 },
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
