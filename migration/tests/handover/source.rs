//! The source's engine as the model has it: the table of its states, each function named as that of the engine.

use super::parts::{Attempt, Fate, Generation, Input, Message, Outputs, Part, Parting, Step, Told};

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Idle,
    Connecting,
    Negotiating,
    StartingLog,
    /// The first round is on its way, or the question that follows a stop called back where no round is made.
    Round,
    /// Any time before the next stop: the engine's Sending, Draining, Harvesting and Resting.
    PreCopy,
    Pausing,
    Harvesting,
    Saving,
    Verifying,
    Resuming,
    Committing,
    Unknown(Asking),
    /// The guest runs at the target; `None`: and the connection stands.
    Serving(Option<Asking>),
    Releasing,
    Aborting,
    Finished,
}

/// How far asking the target has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asking {
    Waiting,
    Connecting,
    Asked,
    Forgotten,
}

/// What goes before the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    PreCopy,
    PostCopy,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) attempt: Attempt,
    pub(crate) generation: Generation,
    pub(crate) mode: Mode,
    pub(crate) state: State,
    pub(crate) link: bool,
    /// The step that is outstanding.
    pub(crate) step: Option<Step>,
    /// What the engine holds of the right to run.
    pub(crate) permit: Option<Generation>,
    /// What is left of it to a person at the end.
    pub(crate) held: Option<Generation>,
    pub(crate) log: bool,
    pub(crate) recalls: u8,
    /// Pages were declared absent.
    pub(crate) absent: bool,
    /// What the target said that it lacks when it was asked.
    lacks: Option<bool>,
}

type Outs = Outputs<()>;

impl Source {
    pub(crate) const fn begin(attempt: Attempt, generation: Generation, mode: Mode) -> Self {
        Self {
            attempt,
            generation,
            mode,
            state: State::Idle,
            link: false,
            step: None,
            permit: None,
            held: None,
            log: false,
            recalls: 0,
            absent: false,
            lacks: None,
        }
    }

    const fn is_before_commit(&self) -> bool {
        !matches!(
            self.state,
            State::Committing
                | State::Unknown(_)
                | State::Serving(_)
                | State::Releasing
                | State::Finished
                | State::Aborting
        )
    }

    /// Whether the guest stands still for a stop that can be called back.
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, State::Harvesting | State::Saving | State::Verifying)
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

    fn on_link_up(&mut self, out: &mut Outs) {
        match self.state {
            State::Connecting => {
                self.link = true;
                self.say(out, Message::Begin { attempt: self.attempt, generation: self.generation });
                self.state = State::Negotiating;
            }
            State::Unknown(Asking::Connecting | Asking::Waiting) => {
                self.link = true;
                self.state = State::Unknown(Asking::Asked);
                self.say(out, Message::Resolve(self.attempt));
            }
            State::Serving(Some(Asking::Connecting | Asking::Waiting)) => {
                self.link = true;
                self.state = State::Serving(Some(Asking::Asked));
                self.say(out, Message::Resolve(self.attempt));
            }
            _ => {}
        }
    }

    fn on_link_down(&mut self, out: &mut Outs) {
        self.link = false;
        match self.state {
            State::Committing => {
                self.state = State::Unknown(Asking::Waiting);
                out.tells.push(Told::CommitUnknown);
            }
            State::Unknown(Asking::Connecting | Asking::Asked) => {
                self.state = State::Unknown(Asking::Waiting)
            }
            State::Serving(asking) => {
                self.lacks = None;
                if asking.is_none() {
                    out.tells.push(Told::Interrupted);
                }
                if asking != Some(Asking::Forgotten) {
                    self.state = State::Serving(Some(Asking::Waiting));
                }
            }
            State::Idle | State::Unknown(_) | State::Releasing | State::Aborting | State::Finished => {}
            _ => self.abort_lost(out),
        }
    }

    fn reconnect(&mut self, out: &mut Outs) {
        match &mut self.state {
            State::Unknown(asking) | State::Serving(Some(asking)) => *asking = Asking::Connecting,
            _ => unreachable!("nothing to ask in {self:?}"),
        }
        out.connects = true;
    }

    fn on_silence(&mut self, out: &mut Outs) {
        if self.is_before_commit() {
            self.abort_lost(out);
        } else if matches!(self.state, State::Committing | State::Unknown(_) | State::Serving(_)) {
            self.hang_up(out);
            self.on_link_down(out);
        }
    }

    fn on_bad_stream(&mut self, out: &mut Outs) {
        if self.is_before_commit() {
            self.abort(out);
        } else {
            self.hang_up(out);
            self.on_link_down(out);
        }
    }

    fn abort(&mut self, out: &mut Outs) {
        if self.is_before_commit() {
            self.say(out, Message::Abort);
            self.close(out);
            self.unwind(out);
        }
    }

    fn abort_lost(&mut self, out: &mut Outs) {
        self.hang_up(out);
        self.unwind(out);
    }

    fn unwind(&mut self, out: &mut Outs) {
        self.state = State::Aborting;
        self.undo(out);
    }

    fn undo(&mut self, out: &mut Outs) {
        if self.step.is_some() {
            return;
        }
        if let Some(generation) = self.permit.take() {
            self.act(out, Step::Run(generation));
        } else if self.log {
            self.act(out, Step::StopLog);
        } else {
            self.state = State::Finished;
            out.tells.push(Told::Aborted);
        }
    }

    fn reclaim(&mut self, out: &mut Outs) {
        self.hang_up(out);
        self.unwind(out);
    }

    fn commit(&mut self, out: &mut Outs) {
        self.say(out, Message::Commit(self.generation + 1));
        self.state = State::Committing;
    }

    fn let_go(&mut self, out: &mut Outs) {
        self.permit = None;
        self.say(out, Message::Release);
        self.close(out);
        self.state = State::Releasing;
        self.act(out, Step::Discard);
    }

    fn serve(&mut self, out: &mut Outs) {
        if matches!(self.state, State::Serving(_)) {
            out.tells.push(Told::Reconnected);
        }
        self.permit = None;
        self.state = State::Serving(None);
        if self.lacks.take() != Some(false) {
            self.say(out, Message::Pages);
        }
        self.say(out, Message::Pushed);
    }

    fn on_owned(&mut self, out: &mut Outs, lacks: bool) {
        if self.absent {
            self.lacks = Some(lacks);
            self.serve(out);
        } else {
            self.let_go(out);
        }
    }

    fn recall(&mut self, out: &mut Outs) {
        self.say(out, Message::Recall);
        self.absent = false;
        self.state = State::Resuming;
        self.resume(out);
    }

    fn resume(&mut self, out: &mut Outs) {
        if self.step.is_none()
            && let Some(generation) = self.permit.take()
        {
            self.act(out, Step::Run(generation));
        }
    }

    fn on_message(&mut self, out: &mut Outs, message: Message) {
        if !self.link {
            return;
        }
        let state = self.state;
        let is_asked = matches!(state, State::Unknown(Asking::Asked));
        match message {
            Message::Abort => match state {
                State::Releasing | State::Finished | State::Aborting => self.hang_up(out),
                State::Serving(_) => {
                    self.hang_up(out);
                    self.on_link_down(out);
                }
                _ => self.reclaim(out),
            },
            Message::Reply { accepts: true } if state == State::Negotiating => {
                self.state = State::StartingLog;
                self.act(out, Step::StartLog);
            }
            Message::Progress if state == State::Round => self.state = State::PreCopy,
            Message::Progress => {}
            Message::Verified { stop } if state == State::Verifying && stop == self.recalls => {
                self.commit(out)
            }
            Message::Verified { stop }
                if stop < self.recalls || stop == self.recalls && state == State::Resuming => {}
            Message::Committed(generation) if is_asked || state == State::Committing => {
                if generation != self.generation + 1 {
                    self.on_bad_stream(out);
                } else if self.absent {
                    self.serve(out);
                } else {
                    self.let_go(out);
                }
            }
            Message::Returned if is_asked || state == State::Committing => self.reclaim(out),
            Message::Complete if state == State::Serving(None) => self.let_go(out),
            Message::Outcome(fate) if is_asked || state == State::Serving(Some(Asking::Asked)) => {
                match (fate, state) {
                    (Fate::Prepared, State::Unknown(_)) => self.commit(out),
                    (Fate::Starting, State::Unknown(_)) => {}
                    (Fate::Owned { lacks }, _) => self.on_owned(out, lacks),
                    (Fate::Unknown, _) => {
                        self.hang_up(out);
                        let (state, told) = match state {
                            State::Serving(_) => (State::Serving(Some(Asking::Forgotten)), Told::TargetLost),
                            _ => (State::Unknown(Asking::Forgotten), Told::TargetForgot),
                        };
                        self.state = state;
                        out.tells.push(told);
                    }
                    _ => self.on_bad_stream(out),
                }
            }
            _ => self.on_bad_stream(out),
        }
    }

    fn on_done(&mut self, out: &mut Outs, step: Step) {
        match step {
            Step::StartLog => self.log = true,
            Step::StopLog => self.log = false,
            Step::Pause => self.permit = Some(self.generation),
            _ => {}
        }
        match (self.state, step) {
            (State::Aborting, _) => self.undo(out),
            (State::Releasing, Step::Discard) => {
                self.state = State::Finished;
                out.tells.push(Told::Completed);
            }
            (State::StartingLog, Step::StartLog) => {
                self.state = match self.mode {
                    Mode::PreCopy => State::Round,
                    Mode::PostCopy => State::PreCopy,
                };
                if self.mode == Mode::PreCopy {
                    self.say(out, Message::Round);
                }
            }
            (State::Pausing, Step::Pause) => {
                self.state = State::Harvesting;
                self.act(out, Step::Harvest);
            }
            (State::Harvesting, Step::Harvest) => {
                self.state = State::Saving;
                self.act(out, Step::Save);
            }
            (State::Saving, Step::Save) => {
                self.state = State::Verifying;
                self.absent = self.mode == Mode::PostCopy;
                let seal = Message::Seal { stop: self.recalls, work: 0, absent: self.absent };
                self.say(out, seal);
            }
            (State::Resuming, Step::Harvest | Step::Save) => self.resume(out),
            (State::Resuming, Step::Run(_)) => {
                self.recalls += 1;
                self.state = State::PreCopy;
                if self.mode == Mode::PostCopy {
                    // Without pages: how long does an answer take?
                    self.state = State::Round;
                    self.say(out, Message::Round);
                }
                out.tells.push(Told::Recalled);
            }
            _ => unreachable!("{step:?} in {self:?}"),
        }
    }

    fn on_failed(&mut self, out: &mut Outs, step: Step) {
        match (self.state, step) {
            (State::Aborting, Step::Run(generation)) => {
                self.held = Some(generation);
                out.tells.push(Told::Held);
                self.undo(out);
            }
            (State::Aborting, _) => self.undo(out),
            (_, Step::Run(generation)) => {
                self.permit = Some(generation);
                self.abort(out);
            }
            _ => self.abort(out),
        }
    }

    fn on_input(&mut self, out: &mut Outs, input: Input) {
        match input {
            Input::Start => {
                self.state = State::Connecting;
                out.connects = true;
            }
            Input::LinkUp => self.on_link_up(out),
            Input::LinkDown => self.on_link_down(out),
            Input::Silence => self.on_silence(out),
            Input::Message(message) => self.on_message(out, message),
            Input::Done(step) => {
                self.step = None;
                self.on_done(out, step);
            }
            Input::Failed(step) => {
                self.step = None;
                self.on_failed(out, step);
            }
            Input::Cancel if self.is_before_commit() => self.abort(out),
            Input::Cancel if self.state == State::Aborting => {}
            Input::Cancel => out.tells.push(Told::CancelTooLate),
            Input::Stop => {
                self.state = State::Pausing;
                self.act(out, Step::Pause);
            }
            Input::Overrun => self.recall(out),
            Input::AskAgain => self.reconnect(out),
            Input::Retry => {
                self.hang_up(out);
                self.on_link_down(out);
                self.reconnect(out);
            }
            Input::Reclaim => match self.state {
                State::Serving(Some(_)) => {
                    self.hang_up(out);
                    self.permit = Some(self.generation + 2);
                    self.unwind(out);
                }
                State::Unknown(_) => {
                    self.permit = Some(self.generation + 2);
                    self.reclaim(out);
                }
                _ => {}
            },
            Input::Release => match self.state {
                State::Serving(Some(_)) => {
                    self.hang_up(out);
                    self.let_go(out);
                }
                State::Unknown(_) => self.let_go(out),
                _ => {}
            },
            Input::TakeOver | Input::HoldExpires => {}
        }
    }
}

impl Part for Source {
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
        self.held.take()
    }
}
