use alloc::boxed::Box;
use alloc::sync::Arc;

use godwit_migration::{GuestFailure, GuestRam as _, PageBitmap};
use godwit_vmx::exit::REASONS;

use super::*;
use crate::exits::cpuid_features::WORDS;
use crate::vm::absent::Wait;
use crate::vm::handle::Shared;
use crate::vm::memory::BLOCK_BYTES;
use crate::vm::memory::testing::HeapBlocks;

/// A guest that comes from another host, and its machine, whose owner the test is.
fn arriving() -> (Record, VmHandle) {
    let ram = GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
    let handle =
        Arc::new(Shared::new("linux", 1, Arc::new(ram), State::MovingIn { paused: false }, 0, |_| {}));
    let mut record = Record::arriving(Key(1), "b");
    record.attach(Arc::clone(&handle));
    (record, handle)
}

fn permit() -> RunPermit {
    RunPermit::for_new_guest(GuestId([7; 16]))
}

fn figures(tsc: u64) -> Reply {
    Reply::Figures(Box::new(Figures {
        exits: [0; REASONS],
        wild_accesses: 0,
        run_ticks: 0,
        tsc,
        throttle: 0,
        dirty_source: "",
        first_entry_tsc: 0,
    }))
}

/// Its next migration would take the permit that it runs by for a stranger's.
#[test]
fn a_guest_that_is_started_again_begins_with_its_first_generation() {
    let (mut record, _handle) = arriving();
    record.generation = Generation::FIRST.next().next();
    let shown = Shown { features: crate::exits::cpuid_features::FeatureSet([0; WORDS]), tsc_hz: 1 };
    let permit = record.begin_life(GuestId([3; 16]), shown);
    assert_eq!((permit.guest(), permit.generation()), (record.id, record.generation));
    assert_eq!((record.id, record.generation), (GuestId([3; 16]), Generation::FIRST));
    assert_eq!(record.origin().shown, Some(shown));
}

#[test]
fn an_arrived_guest_has_figures_as_soon_as_it_runs() {
    let (mut record, handle) = arriving();
    record.order_step(Step::Run, Command::Run(Some(permit())));
    assert!(matches!(handle.take_command(), Some(Command::Run(_))));
    handle.publish(&State::Running);
    handle.answer(Reply::Done);
    record.poll();
    assert!(matches!(record.events.pop_front(), Some(GuestEvent::Running)));
    assert!(matches!(handle.take_command(), Some(Command::Inspect)));
    handle.answer(figures(77));
    record.poll();
    assert!(record.is_migrating(), "its session is not over");
    assert_eq!(record.figures().map(|figures| figures.tsc), Some(77));
    record.ask_for_figures();
    record.poll();
    assert!(matches!(handle.take_command(), Some(Command::Inspect)), "and from then on");
}

#[test]
fn a_guest_is_its_peoples_once_it_has_arrived_and_not_while_it_leaves_or_is_copied() {
    let (mut record, handle) = arriving();
    assert!(record.is_withheld());
    handle.publish(&State::Running);
    assert!(record.is_migrating() && !record.is_withheld(), "its source has not let go yet");
    for errand in [Errand::Leaving, Errand::Copied] {
        record.set_errand(Some(errand));
        assert!(record.is_withheld(), "{errand:?}");
    }
    record.set_errand(None);
    assert!(!record.is_withheld());
}

#[test]
fn a_resumed_or_paused_guest_shows_no_old_figures() {
    let (mut record, handle) = arriving();
    handle.publish(&State::Running);
    record.order(Command::Pause);
    assert!(matches!(handle.take_command(), Some(Command::Pause)));
    handle.publish(&State::Paused);
    handle.answer(Reply::Done);
    record.poll();
    assert!(matches!(handle.take_command(), Some(Command::Inspect)));
}

#[test]
fn a_machine_that_stands_still_for_a_move_is_not_asked() {
    for state in [State::MovingIn { paused: false }, State::Stunned { paused: false }] {
        let (mut record, handle) = arriving();
        handle.publish(&state);
        record.ask_for_figures();
        record.poll();
        assert!(handle.take_command().is_none(), "{state}");
    }
}

#[test]
fn all_that_waits_for_a_machine_that_ended_is_answered() {
    let (mut record, handle) = arriving();
    record.order_step(Step::Throttle, Command::Throttle(10));
    record.order_step(Step::Run, Command::Run(Some(permit())));
    record.order_step(Step::Discard, Command::Stop(StopReason::Migrated));
    handle.publish(&State::Stopped(StopReason::Shutdown));
    assert_eq!(record.notice_end(), None, "its owner has not let go of it");
    handle.close();
    assert_eq!(record.notice_end(), Some(StopReason::Shutdown));
    let mut next = || record.events.pop_front();
    assert!(matches!(next(), Some(GuestEvent::Failed(Step::Throttle, GuestFailure::Gone))));
    assert!(matches!(next(), Some(GuestEvent::RunFailed(_, GuestFailure::Gone))));
    assert!(matches!(next(), Some(GuestEvent::Discarded)));
    assert!(matches!(next(), Some(GuestEvent::Ended)));
    assert!(next().is_none());
    assert_eq!(record.standing(), Standing::Stopped);
}

#[test]
fn a_step_begun_after_the_end_is_answered_too() {
    let (mut record, handle) = arriving();
    handle.publish(&State::Stopped(StopReason::Reset));
    handle.close();
    record.order_step(Step::Pause, Command::Stun);
    let event = record.events.pop_front();
    assert!(matches!(event, Some(GuestEvent::Failed(Step::Pause, GuestFailure::Gone))));
}

#[test]
fn discarding_a_machine_that_ends_meanwhile_succeeds() {
    let (mut record, handle) = arriving();
    record.order_step(Step::Discard, Command::Stop(StopReason::Migrated));
    handle.close();
    record.poll();
    assert!(matches!(record.events.pop_front(), Some(GuestEvent::Discarded)));
}

#[test]
fn a_new_machine_is_not_asked_for_the_answers_of_the_one_before() {
    let (mut record, ended) = arriving();
    record.order(Command::Stop(StopReason::Requested));
    ended.publish(&State::Stopped(StopReason::Requested));
    ended.close();
    assert_eq!(record.notice_end(), Some(StopReason::Requested));
    let (_, handle) = arriving();
    record.attach(Arc::clone(&handle));
    record.order(Command::Run(None));
    assert!(matches!(handle.take_command(), Some(Command::Run(None))));
}

#[test]
fn a_step_does_not_wait_for_figures() {
    let (mut record, handle) = arriving();
    handle.publish(&State::MovingOut { paused: false });
    record.ask_for_figures();
    record.order_step(Step::Pause, Command::Stun);
    assert!(matches!(handle.take_command(), Some(Command::Stun)));
}

/// A guest that runs here and of whose memory three pages have not come.
fn filling() -> (Record, VmHandle) {
    let (mut record, handle) = arriving();
    record.name = "linux".into();
    let mut absent = PageBitmap::empty(512);
    [3, 4, 500].into_iter().for_each(|page| absent.insert(Page(page)));
    record.ram_mut().set_absent(&absent).unwrap();
    assert!(!record.is_filling(), "it is not here before it runs");
    handle.publish(&State::Running);
    (record, handle)
}

#[test]
fn what_is_waited_for_is_told_once_and_not_before_the_guest_runs() {
    let (mut record, handle) = filling();
    record.order_step(Step::Run, Command::Run(Some(permit())));
    let _ = handle.take_command();
    let ram = handle.ram().unwrap();
    assert_eq!(ram.absent().wait(0, 500), Wait::Noted);
    assert!(record.next_event().is_none(), "the answer comes first");
    handle.answer(Reply::Done);
    record.poll();
    assert!(matches!(record.next_event(), Some(GuestEvent::Running)));
    assert!(matches!(record.next_event(), Some(GuestEvent::PageWanted(Page(500)))));
    assert!(record.next_event().is_none() && record.is_waiting());
    record.ram_mut().publish(Page(500));
    assert!(!record.is_waiting() && record.is_filling());
}

#[test]
fn a_guest_whose_memory_is_still_arriving_is_not_moved_on() {
    let (mut record, handle) = filling();
    let why = record.incomplete().unwrap();
    assert_eq!(
        why.to_string(),
        "linux cannot be moved on yet: 3 pages of its memory are still arriving from b"
    );
    for page in [3, 4, 500] {
        record.ram_mut().publish(Page(page));
    }
    assert!(record.incomplete().is_some(), "not before it is settled");
    handle.ram().unwrap().absent().forsake();
    assert_eq!(record.incomplete(), Some(NotMovable::Incomplete("linux".into())));
    handle.ram().unwrap().absent().clear();
    assert_eq!(record.incomplete(), None);
}

#[test]
fn a_session_learns_that_a_person_stopped_the_guest_whose_memory_it_brings() {
    let (mut record, handle) = filling();
    handle.publish(&State::Stopped(StopReason::Requested));
    handle.close();
    assert_eq!(record.notice_end(), Some(StopReason::Requested));
    assert!(matches!(record.next_event(), Some(GuestEvent::Ended)));
}

#[test]
fn a_guest_that_stops_for_a_lost_page_has_answered_before() {
    let (mut record, handle) = filling();
    record.order_step(Step::Forsake, Command::Forsake);
    assert!(matches!(handle.take_command(), Some(Command::Forsake)));
    handle.answer(Reply::Done);
    let reason = StopReason::PageLost {
        page: godwit_vmx::addr::Gpa::new(0x3000),
        rip: godwit_vmx::addr::Gva::new(0x10),
    };
    handle.publish(&State::Stopped(reason.clone()));
    handle.close();
    assert_eq!(record.notice_end(), Some(reason));
    assert!(matches!(record.next_event(), Some(GuestEvent::Forsaken)));
    assert!(matches!(record.next_event(), Some(GuestEvent::Ended)));
}
