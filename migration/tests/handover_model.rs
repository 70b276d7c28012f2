//! The hand-over, exhaustively: every order in which messages, losses, steps that fail, crashes and a person's words can
//! come, within bounds.
//!
//! # What is modelled
//! Two hosts, the connections between them, a guest, a person ([`handover::world`]). A connection may break at any time:
//! then any part of what is under way in either direction still arrives, each end learns of it at any later time, from
//! the network or by the other's silence, and the source connects anew or fails to. Steps of the guest's life cycle take
//! any time and may fail. A host that dies loses all memory, and is back at once or later. A person begins attempts,
//! cancels, has a target asked again, and says the words that no host can: `Reclaim`, `Release`, `TakeOver`. Time is
//! any: each time-out may come whenever it is armed.
//!
//! # Why there is a model beside the engines
//! The engines are neither `Clone` nor `Hash`, on purpose: they hold a `RunPermit`. Exploring them by replay would have
//! to take a digest of what can be seen of them for their state, and would call two states equal that are not. So the
//! tables of their states are written down once more, small enough to be read beside `docs/migration-protocol.md`
//! ([`handover::source`], [`handover::target`]), and `stateright` explores those. A model proves nothing of code that it
//! has drifted from: the same world is therefore played by the engines themselves ([`handover::parts::Cast`]), with the
//! bytes that they make, and at each step they must say, ask for and tell what the model does. That is done along ways
//! through the model until every input that an engine gets in any of its states has been given to it, and along random
//! ways for what lies in the engine deeper than the model sees.
//!
//! # What is left out
//! The second connection for pages that somebody waits for (its loss is the loss of both), pages waited for, throttling,
//! a guest that ends by itself, a stop that becomes a switch half-way, estimates, damaged frames, back-pressure: the seeded
//! simulation has these. Cleaning up (discarding, stopping the log) does not fail. A guest has one migration at a time,
//! and does not go on to a third host.

mod handover;

use handover::Handover;
use handover::graph::Graph;
use handover::parts::{Abstract, Input, Message};
use handover::replay::{self, Gone};
use handover::source::Mode;
use handover::world::actions::{Word, Words};
use handover::world::{Action, Left, Outcome, Right, World};
use stateright::{Checker, Model};

/// What may happen in the whole of it.
const ALL: Left = Left { attempts: 2, crashes: 2, cuts: 2, failures: 1, cancels: 1, recalls: 1 };
/// What may happen where every way is looked at: much in one attempt, or less in two.
const DEEP: Left = Left { attempts: 1, ..ALL };
const WIDE: Left = Left { crashes: 1, cuts: 1, failures: 0, cancels: 0, ..ALL };
/// And where a person is wrong.
const FEW: Left = Left { attempts: 1, crashes: 1, cuts: 1, failures: 0, cancels: 0, recalls: 1 };

const WALKS: u32 = 1500;

const STEP: Action = Action::SourceStep(Outcome::Done);
const TARGET_STEP: Action = Action::TargetStep(1, Outcome::Done);

#[test]
fn whatever_dies_and_is_lost_one_host_owns_the_guest() {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let checker = Handover { left: ALL, words: Words::True }.checker().threads(workers).spawn_bfs().join();
    println!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1_500_000, "the model has shrunk");
}

#[test]
fn the_hosts_come_to_an_end_by_themselves_or_tell_a_person_whose_word_leads_out() {
    for left in [DEEP, WIDE] {
        let graph = Graph::explore(&Handover { left, words: Words::True });
        println!("{} states, {} ways between them", graph.states.len(), graph.edges.len());
        let by_hosts = |action: Action| !action.is_fault() && !action.is_word();
        let settles = graph.reaches(is_settled, by_hosts);
        let stuck = settles.iter().position(|settles| !settles);
        assert!(stuck.is_none(), "they do not: {}", graph.tell(stuck.unwrap_or(0) as u32));
        let runs = graph.reaches(|state| state.guest_runs(), |action| !action.is_fault());
        let is_dead = |&state: &usize| !runs[state] && !is_given_up(&graph.states[state]);
        let dead = (0..graph.states.len()).find(is_dead);
        assert!(dead.is_none(), "nobody can ever run it: {}", graph.tell(dead.unwrap_or(0) as u32));
    }
}

/// Whether nothing more need happen, or a person knows that it is his turn.
fn is_settled(state: &World<Abstract>) -> bool {
    state.guest_runs() || state.awaits_a_word() || state.is_lost()
}

/// Whether no host has the guest, or one that has it complete is being told to drop it by a source that has died since.
fn is_given_up(state: &World<Abstract>) -> bool {
    state.is_lost() || state.source_has_died && state.is_saying(|message| message == Message::Abort)
}

#[test]
fn the_engines_do_what_the_model_does() {
    std::panic::set_hook(Box::new(|info| println!("{info}")));
    for left in [DEEP, WIDE] {
        let graph = Graph::explore(&Handover { left, words: Words::True });
        let Gone { ways, steps, local } = replay::go_everywhere(left, &graph);
        println!("{steps} steps on {ways} ways, {local} different inputs in different states of an engine");
    }
    let Gone { ways, steps, .. } = replay::wander(ALL, Words::True, WALKS);
    println!("{steps} steps on {ways} random ways");
}

/// The shortest way to two guests of one generation, as it was once: the target had run the guest before it died, and the
/// source took it back in the generation before, from which the next target would have made that of the dead one again.
#[test]
fn a_guest_that_is_taken_back_goes_on_above_the_generation_that_may_have_run() {
    let stop = [Action::Stop, STEP, STEP, STEP, Action::ToTarget(0), TARGET_STEP, Action::ToSource(0)];
    let begin = [Action::Start(Mode::PostCopy), Action::Connected, Action::ToTarget(0), TARGET_STEP];
    let commit = [Action::ToTarget(0), TARGET_STEP, Action::CrashTarget];
    let reclaim = [Action::SourceNotices(0, Input::LinkDown), Action::Reclaim, STEP];
    let way = [&begin[..], &[Action::ToSource(0), STEP], &stop, &commit, &reclaim].concat();
    let world = replay::go_way(FEW, &way);
    assert_eq!(world.here.map(|guest| guest.right), Some(Right::Running(3)));
}

/// What comes of a word that is not true.
struct Harm {
    two_run: bool,
    lost_without_a_crash: bool,
}

fn harm(word: Word) -> Harm {
    let graph = Graph::explore(&Handover { left: FEW, words: Words::False(word) });
    Harm {
        two_run: graph.states.iter().any(|state| state.runners() > 1),
        lost_without_a_crash: graph.states.iter().any(|it| it.is_lost() && it.left.crashes == FEW.crashes),
    }
}

#[test]
fn a_false_word_does_the_harm_that_is_documented() {
    let Harm { two_run, lost_without_a_crash } = harm(Word::Reclaim);
    assert!(two_run && !lost_without_a_crash, "the guest is taken back while it runs at the target");
    let Harm { two_run, lost_without_a_crash } = harm(Word::TakeOver);
    assert!(two_run && !lost_without_a_crash, "the guest is run at the target while it runs at the source");
    let Harm { two_run, lost_without_a_crash } = harm(Word::Release);
    assert!(!two_run && lost_without_a_crash, "the last copy is freed");
}
