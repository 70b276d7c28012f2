//! The target's engine as the model has it: the table of its states, each function named as that of the engine.

use super::parts::{Attempt, Fate, Generation, Input, Message, Outputs, Part, Parting, Step, Told};

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Opening,
    Building,
    Receiving,
    Restoring,
    Prepared,
    Held,
    /// By whose word, and whether the guest was held before.
    Starting {
        by: Decider,
        was_held: bool,
    },
    /// Whether the connection was lost and the source has not asked since.
    Filling {
        recovers: bool,
    },
    Forsaking,
    Owner,
    Aborting,
    Disowned,
    Released,
    Stranger,
}

/// Who decided that the guest is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decider {
    Source,
    Person,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) attempt: Attempt,
    /// Of the guest at the source.
    pub(crate) generation: Generation,
    pub(crate) state: State,
    pub(crate) link: bool,
    /// The step that is outstanding.
    pub(crate) step: Option<Step>,
    is_built: bool,
    /// Device state waits until an earlier one is restored.
    to_restore: bool,
    stop: u8,
    /// Pages are absent.
    pub(crate) lacks: bool,
    is_filled_later: bool,
    /// A person has given up what had not come.
    pub(crate) is_forsaken: bool,
}

type Outs = Outputs<()>;

impl Target {
    pub(crate) const fn opening() -> Self {
        Self {
            attempt: 0,
            generation: 0,
            state: State::Opening,
            link: false,
            step: None,
            is_built: false,
            to_restore: false,
            stop: 0,
            lacks: false,
            is_filled_later: false,
            is_forsaken: false,
        }
    }

    /// Whether the session may drop it.
    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self.state, State::Disowned | State::Released | State::Stranger)
    }

    /// Whether a source that begins anew has it cancelled: its phase is `CommitUnknown`.
    pub(crate) const fn is_undecided(&self) -> bool {
        matches!(self.state, State::Held | State::Starting { was_held: true, .. })
    }

    /// Whether it is being undone, or was.
    pub(crate) const fn is_undone(&self) -> bool {
        matches!(self.state, State::Aborting | State::Disowned)
    }

    /// Whether the guest is complete here and can be run, or runs.
    pub(crate) const fn has_guest(&self) -> bool {
        matches!(
            self.state,
            State::Prepared
                | State::Held
                | State::Starting { .. }
                | State::Filling { .. }
                | State::Forsaking
                | State::Owner
        )
    }

    const fn is_incomplete(&self) -> bool {
        matches!(self.state, State::Opening | State::Building | State::Receiving | State::Restoring)
    }

    fn say(&self, out: &mut Outs, message: Message) {
        if self.link && out.parting.is_none() {
            out.says.push((message, ()));
        }
    }

    fn act(&mut self, out: &mut Outs, step: Step) {
        self.step = Some(step);
        out.asks = Some(step);
    }

    fn hang_up(&mut self, out: &mut Outs) {
        if self.link {
            out.says.clear();
            out.parting = Some(Parting::HangUp);
        }
        self.link = false;
    }

    fn close(&mut self, out: &mut Outs) {
        if self.link {
            out.parting = Some(Parting::Close);
        }
        self.link = false;
    }

    fn abort(&mut self, out: &mut Outs) {
        if matches!(self.state, State::Prepared | State::Held) || self.is_incomplete() {
            self.say(out, Message::Abort);
            self.close(out);
            self.unwind(out);
        }
    }

    fn unwind(&mut self, out: &mut Outs) {
        self.to_restore = false;
        self.state = State::Aborting;
        self.undo(out);
    }

    fn undo(&mut self, out: &mut Outs) {
        if self.step.is_some() {
            return;
        }
        if self.is_built {
            self.act(out, Step::Discard);
        } else {
            self.state = State::Disowned;
            out.tells.push(Told::Aborted);
        }
    }

    fn hold(&mut self, out: &mut Outs) {
        if self.state == State::Prepared {
            self.state = State::Held;
            out.tells.push(Told::CommitUnknown);
        }
    }

    fn on_interrupted(&mut self, out: &mut Outs) {
        if self.state == (State::Filling { recovers: false }) {
            self.state = State::Filling { recovers: true };
            out.tells.push(Told::Interrupted);
        }
    }

    fn on_link_up(&mut self, out: &mut Outs) {
        self.link = true;
        match self.state {
            State::Building | State::Receiving | State::Restoring => self.abort(out),
            State::Prepared => self.hold(out),
            _ => {}
        }
    }

    fn on_link_down(&mut self, out: &mut Outs) {
        self.link = false;
        if self.is_incomplete() {
            return self.abort(out);
        }
        self.hold(out);
        self.on_interrupted(out);
    }

    fn on_bad_stream(&mut self, out: &mut Outs) {
        if self.is_incomplete() {
            self.abort(out);
        } else {
            self.hang_up(out);
            self.on_link_down(out);
        }
    }

    fn restore(&mut self, out: &mut Outs) {
        if self.step.is_none() && core::mem::take(&mut self.to_restore) {
            self.act(out, Step::Restore);
        }
    }

    fn run(&mut self, out: &mut Outs, by: Decider) {
        self.state = State::Starting { by, was_held: self.state == State::Held };
        self.act(out, Step::Run(self.generation + 1));
    }

    fn on_running(&mut self, out: &mut Outs) {
        let is_filling = self.lacks;
        if is_filling {
            self.is_filled_later = true;
            self.state = State::Filling { recovers: false };
            if !self.link {
                self.on_interrupted(out);
            }
        } else {
            self.state = State::Owner;
        }
        out.tells.push(Told::Arrived(self.generation + 1));
        self.say(out, Message::Committed(self.generation + 1));
    }

    fn on_run_failed(&mut self, out: &mut Outs, by: Decider) {
        if by == Decider::Person {
            self.state = State::Held;
            out.tells.push(Told::Held);
            return self.say(out, Message::Outcome(Fate::Prepared));
        }
        self.say(out, Message::Returned);
        self.close(out);
        self.unwind(out);
    }

    fn released(&mut self, out: &mut Outs) {
        self.state = State::Released;
        self.close(out);
        out.tells.push(Told::Completed);
    }

    fn answer(&mut self, out: &mut Outs, attempt: Attempt) {
        if self.attempt != attempt {
            self.say(out, Message::Outcome(Fate::Unknown));
            self.close(out);
            self.state = State::Stranger;
            return;
        }
        let outcome = match self.state {
            State::Prepared | State::Held => {
                self.hold(out);
                Fate::Prepared
            }
            State::Starting { .. } => Fate::Starting,
            State::Filling { .. } => {
                self.state = State::Filling { recovers: false };
                Fate::Owned { lacks: self.lacks }
            }
            State::Forsaking | State::Owner | State::Released => Fate::Owned { lacks: false },
            State::Aborting | State::Disowned => {
                self.say(out, Message::Abort);
                return self.close(out);
            }
            _ => return self.hang_up(out),
        };
        self.say(out, Message::Outcome(outcome));
        if self.is_forsaken && self.state == State::Owner {
            // It needs nothing, which is all that the source has to know.
            self.say(out, Message::Complete);
        }
    }

    fn on_message(&mut self, out: &mut Outs, message: Message) {
        if !self.link {
            return;
        }
        match (message, self.state) {
            (Message::Begin { attempt, generation }, State::Opening) => {
                self.attempt = attempt;
                self.generation = generation;
                self.state = State::Building;
                self.act(out, Step::Build);
            }
            (Message::Resolve(attempt), _) => self.answer(out, attempt),
            (Message::Abort, _) => {
                self.hang_up(out);
                if self.is_incomplete() || matches!(self.state, State::Prepared | State::Held) {
                    self.unwind(out);
                } else {
                    self.on_link_down(out);
                }
            }
            (Message::Round, State::Receiving) => self.say(out, Message::Progress),
            (Message::Seal { stop, absent, .. }, State::Receiving) => {
                self.stop = stop;
                self.lacks = absent;
                self.state = State::Restoring;
                self.to_restore = true;
                self.restore(out);
            }
            (Message::Recall, State::Receiving | State::Restoring | State::Prepared) => {
                self.to_restore = false;
                self.lacks = false;
                self.state = State::Receiving;
            }
            (Message::Commit(generation), State::Prepared | State::Held)
                if generation == self.generation + 1 =>
            {
                self.run(out, Decider::Source);
            }
            (Message::Pages, State::Filling { .. }) => self.lacks = false,
            (Message::Pushed, State::Filling { .. }) if !self.lacks => {
                self.state = State::Owner;
                self.say(out, Message::Complete);
                self.act(out, Step::Settle);
            }
            (Message::Pushed, State::Owner) if self.is_filled_later => self.say(out, Message::Complete),
            (Message::Release, State::Owner) => self.released(out),
            _ => self.on_bad_stream(out),
        }
    }

    fn on_done(&mut self, out: &mut Outs, step: Step) {
        match (self.state, step) {
            (State::Building, Step::Build) => {
                self.is_built = true;
                self.state = State::Receiving;
                self.say(out, Message::Reply { accepts: true });
            }
            (State::Aborting, _) => {
                match step {
                    Step::Build => self.is_built = true,
                    Step::Discard => self.is_built = false,
                    _ => {}
                }
                self.undo(out);
            }
            (State::Restoring, Step::Restore) if self.to_restore => self.restore(out),
            (State::Restoring, Step::Restore) => {
                self.state = State::Prepared;
                self.say(out, Message::Verified { stop: self.stop });
            }
            (State::Starting { .. }, Step::Run(_)) => self.on_running(out),
            (State::Forsaking, Step::Forsake) => {
                if self.lacks {
                    out.tells.push(Told::MemoryLost);
                }
                self.is_forsaken = true;
                self.lacks = false;
                self.state = State::Owner;
            }
            // Of a stop that was called back; or nothing that decides.
            (State::Receiving, Step::Restore) | (_, Step::Settle) => {}
            _ => unreachable!("{step:?} in {self:?}"),
        }
    }

    fn on_failed(&mut self, out: &mut Outs, step: Step) {
        match (self.state, step) {
            (State::Building, Step::Build) => {
                self.say(out, Message::Reply { accepts: false });
                self.close(out);
                self.unwind(out);
            }
            (State::Restoring | State::Receiving, Step::Restore) => self.abort(out),
            (State::Starting { by, .. }, Step::Run(_)) => self.on_run_failed(out, by),
            (State::Aborting, _) => self.undo(out),
            _ => unreachable!("{step:?} fails in {self:?}"),
        }
    }

    fn on_input(&mut self, out: &mut Outs, input: Input) {
        match input {
            Input::LinkUp => self.on_link_up(out),
            Input::LinkDown => self.on_link_down(out),
            Input::Silence => self.on_bad_stream(out),
            Input::Message(message) => self.on_message(out, message),
            Input::Done(step) => {
                self.step = None;
                self.on_done(out, step);
            }
            Input::Failed(step) => {
                self.step = None;
                self.on_failed(out, step);
            }
            Input::Cancel if self.has_guest() && !matches!(self.state, State::Prepared | State::Held) => {
                out.tells.push(Told::CancelTooLate);
            }
            Input::Cancel if self.state == State::Released => out.tells.push(Told::CancelTooLate),
            Input::Cancel | Input::HoldExpires => self.abort(out),
            Input::TakeOver if self.state == State::Held => self.run(out, Decider::Person),
            Input::TakeOver => {
                if matches!(self.state, State::Filling { .. }) && !self.link {
                    self.state = State::Forsaking;
                    self.act(out, Step::Forsake);
                }
            }
            Input::Start
            | Input::Reclaim
            | Input::Release
            | Input::Stop
            | Input::Overrun
            | Input::AskAgain
            | Input::Retry => {}
        }
    }
}

impl Part for Target {
    type Model = Self;
    type Bytes = ();
    type Guest = ();

    fn new(model: Self) -> Self {
        model
    }

    fn model(&self) -> &Self {
        self
    }

    fn take(&mut self, input: Input, _: Option<()>, _: Option<&mut ()>) -> Outs {
        let mut out = Outs::default();
        self.on_input(&mut out, input);
        out
    }

    fn leave_permit(&mut self, _: &mut ()) -> Option<Generation> {
        None
    }
}
