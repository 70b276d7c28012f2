//! What people ask of guests that are ending or being moved.

use alloc::boxed::Box;
use alloc::sync::Arc;

use godwit_boot::handoff::BootInfo;
use godwit_migration::{
    Generation, GuestAction, GuestDescription, GuestEvent, GuestFailure, GuestId, Page, PageBitmap,
    RamLayout, RamRange, Refusal, RunPermit, Step,
};

use super::*;
use crate::migrate::{GuestHouse, Lodging};
use crate::platform::{acpi, processor, time};
use crate::vm::builder::{self, Begun};
use crate::vm::handle::{Reply, Shared, VmHandle};
use crate::vm::memory::testing::HeapBlocks;
use crate::vm::memory::{BLOCK_BYTES, GuestRam};
use crate::vm::site::Work;
use crate::vm::vcpu;

const NAME: &str = "linux";

/// A host on which no machine can be built, which is found out last.
fn host() -> Guests {
    host_with(Err("this is a test".into()))
}

fn host_with(machines: Result<&'static vm::platform::Platform, String>) -> Guests {
    let firmware = acpi::Firmware {
        processors: Vec::new(),
        processors_are: acpi::Certainty::Assumed,
        local_apic: 0,
        io_apics: Vec::new(),
        overrides: Vec::new(),
        pm_timer: None,
        reset: None,
        configuration_spaces: Vec::new(),
    };
    let platform = Platform {
        info: Box::leak(Box::new(BootInfo::EMPTY)),
        firmware,
        functions: Vec::new(),
        processor: processor::Processor::default(),
        cpus: 2,
        clock: time::Clock::new(0, 1_000_000_000),
    };
    Guests::new(Box::leak(Box::new(platform)), machines)
}

/// A host with a guest in `state` that came from another one, and its machine, whose owner the test is.
fn host_with_guest(state: State) -> (Guests, VmHandle) {
    let mut guests = host();
    let ram = GuestRam::new(&mut HeapBlocks { left: 1 }, BLOCK_BYTES, 1).unwrap();
    let moving_in = State::MovingIn { paused: false };
    let handle = Arc::new(Shared::new(NAME, 1, Arc::new(ram), moving_in, 1, |_| {}));
    let mut record = Record::arriving(guests.new_key(), "b");
    record.set_name(NAME);
    record.attach(Arc::clone(&handle));
    let mut absent = PageBitmap::empty(512);
    absent.insert(Page(3));
    godwit_migration::GuestRam::set_absent(record.ram_mut(), &absent).unwrap();
    handle.publish(&state);
    guests.records.push(record);
    (guests, handle)
}

/// A host with a guest in `record` whose machine is being built, and the work that is the test's.
fn host_that_builds(mut record: Record, begun: Begun) -> (Guests, Work) {
    let mut guests = host_with(Ok(Box::leak(Box::new(vcpu::tests::platform()))));
    let (building, work) = start::tests::building(begun);
    record.set_name(NAME);
    record.build(building);
    guests.records.push(record);
    (guests, work)
}

/// A guest that the configuration names.
fn configured() -> Record {
    let guest = Box::leak(Box::new(godwit_boot::config::Guest::FILLER));
    Record::configured(Key(1), guest)
}

fn refused(guest: &str) -> Result<(), GuestError> {
    Err(GuestError::Migrating(guest.into()))
}

/// The migration would write what of the old guest's memory still comes into the new one.
#[test]
fn a_guest_is_not_started_before_its_old_machine_is_let_go_of_and_its_migration_knows() {
    let (mut guests, handle) = host_with_guest(State::Running);
    guests.stop(NAME).unwrap();
    assert!(matches!(handle.take_command(), Some(Command::Stop(_))));
    handle.publish(&State::Stopped(StopReason::Requested));
    handle.answer(Reply::Done);
    guests.poll(Instant::ZERO);
    let ending = GuestError::Ending(NAME.into());
    assert_eq!(ending.to_string(), "linux is just ending: try again");
    assert_eq!(guests.start(NAME), Err(ending.clone()), "its owner runs another guest");
    handle.close();
    assert_eq!(guests.start(NAME), Err(ending), "nobody has noticed");
    guests.poll(Instant::ZERO);
    assert_eq!(guests.start(NAME), refused(NAME), "its migration has not heard of it");
    let record = &mut guests.records[0];
    assert!(matches!(record.next_event(), Some(GuestEvent::Ended)));
    record.set_errand(None);
    assert_eq!(guests.start(NAME), Err(GuestError::NoGuests("this is a test".into())));
}

/// Why a guest of that name cannot come.
fn refusal_of_namesake(guests: &mut Guests) -> GuestFailure {
    let wanted = GuestDescription {
        id: GuestId([9; 16]),
        generation: Generation::FIRST,
        name: NAME.into(),
        layout: RamLayout::new(&[RamRange { first_frame: 0, frames: 512 }]).unwrap(),
        vcpus: 1,
        features: Vec::new(),
        tsc_hz: 1,
        configuration: Vec::new(),
    };
    let key = guests.arriving("b");
    guests.begin(key, GuestAction::Build(wanted));
    let event = Lodging::poll(guests, key);
    guests.done(key);
    let Some(GuestEvent::Failed(Step::Build, why)) = event else { panic!("{event:?}") };
    why
}

/// A stopped guest of the host is replaced by one of its name that comes; that is no reason to let go of a machine.
#[test]
fn a_guest_does_not_come_where_one_of_its_name_is_just_ending() {
    let (mut guests, handle) = host_with_guest(State::Stopped(StopReason::Requested));
    guests.records[0].set_errand(None);
    let there = GuestFailure::Refused([Refusal::AlreadyThere].into());
    assert_eq!(refusal_of_namesake(&mut guests), there);
    handle.close();
    guests.poll(Instant::ZERO);
    let none = GuestFailure::Host("this is a test".into());
    assert_eq!(refusal_of_namesake(&mut guests), none);
}

/// What ended here, and whose last host still has to be answered about it, is not replaced by one of its name: commands for that
/// name would then be the other's.
#[test]
fn a_guest_does_not_come_where_the_migration_of_one_of_its_name_is_still_open() {
    let (mut guests, handle) = host_with_guest(State::Running);
    guests.stop(NAME).unwrap();
    let _ = handle.take_command();
    handle.publish(&State::Stopped(StopReason::Requested));
    handle.answer(Reply::Done);
    handle.close();
    guests.poll(Instant::ZERO);
    assert!(guests.records[0].handle().is_none() && guests.records[0].is_migrating());
    assert_eq!(refusal_of_namesake(&mut guests), GuestFailure::Refused([Refusal::StillOpen].into()));
    let words = Refusal::StillOpen.to_string();
    assert!(words.contains("'migrate status' there") && words.contains("'migrate release' there"), "{words}");
    guests.records[0].set_errand(None);
    assert_eq!(refusal_of_namesake(&mut guests), GuestFailure::Host("this is a test".into()));
}

#[test]
#[should_panic(expected = "let go of")]
fn a_machine_never_takes_the_place_of_one_that_is_not_let_go_of() {
    let (mut guests, handle) = host_with_guest(State::Running);
    handle.publish(&State::Stopped(StopReason::Requested));
    guests.records[0].attach(handle);
}

/// It is the only one: without it the guest would never run again.
#[test]
fn a_refused_resume_does_not_lose_the_permit() {
    let (mut guests, handle) = host_with_guest(State::Paused);
    let record = &mut guests.records[0];
    record.hold_permit(RunPermit::for_new_guest(GuestId([7; 16])));
    record.set_errand(Some(Errand::Leaving));
    assert_eq!(guests.resume(NAME), refused(NAME));
    guests.records[0].set_errand(None);
    guests.resume(NAME).unwrap();
    assert!(matches!(handle.take_command(), Some(Command::Run(Some(_)))));
}

#[test]
fn a_resume_for_which_there_is_no_room_does_not_lose_the_permit() {
    let (mut guests, handle) = host_with_guest(State::Paused);
    guests.records[0].set_errand(None);
    (0..20).for_each(|_| guests.resume(NAME).unwrap());
    guests.records[0].hold_permit(RunPermit::for_new_guest(GuestId([7; 16])));
    guests.resume(NAME).unwrap();
    while handle.take_command().is_some() {
        handle.answer(Reply::Done);
        guests.poll(Instant::ZERO);
    }
    guests.resume(NAME).unwrap();
    assert!(matches!(handle.take_command(), Some(Command::Run(Some(_)))));
}

#[test]
fn a_guest_that_starts_is_nothing_else_yet_and_can_be_stopped() {
    let mut record = configured();
    record.origin.arrived_from = Some("b".into());
    let (mut guests, work) = host_that_builds(record, builder::tests::starting());
    let rest = work.go_on(|| true).unwrap();
    guests.poll(Instant::ZERO);
    let record = &guests.records[0];
    assert_eq!(record.origin().arrived_from, None, "that was an earlier one of its name");
    assert_eq!((record.standing(), record.owner(), record.handle().is_some()), {
        (Standing::Starting, Some(1), false)
    });
    assert_eq!(record.building().unwrap().site().to_string(), "3 % of its memory is ready");
    assert_eq!((guests.memory_bytes(), guests.names_on(1)), (BLOCK_BYTES, std::vec![NAME.to_string()]));
    for (action, outcome) in [("start", guests.start(NAME)), ("pause", guests.pause(NAME))] {
        let guest = NAME.into();
        assert_eq!(outcome, Err(GuestError::Standing { guest, standing: Standing::Starting, action }));
    }
    assert!(guests.leaving(NAME, &godwit_migration::Purpose::Move).is_err());
    guests.stop(NAME).unwrap();
    assert_eq!(guests.records[0].standing(), Standing::Stopped);
    assert_eq!(guests.start(NAME), Err(GuestError::Ending(NAME.into())), "its memory is not back yet");
    assert!(guests.stop(NAME).is_err(), "once is enough");
    assert!(rest.go_on(|| true).is_none());
    guests.poll(Instant::ZERO);
    let ended = Ended { guest: NAME.into(), reason: StopReason::Requested };
    assert_eq!((guests.next_ended(), guests.next_ended()), (Some(ended), None));
    assert_eq!((guests.memory_bytes(), guests.records[0].has_machine()), (0, false));
    guests.poll(Instant::ZERO);
    assert_eq!(guests.next_ended(), None);
}

#[test]
fn a_guest_whose_machine_comes_to_nothing_ends_and_it_is_said_once() {
    let (mut guests, work) = host_that_builds(configured(), builder::tests::starting());
    work.refuse();
    guests.poll(Instant::ZERO);
    let ended = Ended { guest: NAME.into(), reason: StopReason::NotTaken };
    assert_eq!((guests.next_ended(), guests.next_ended()), (Some(ended), None));
    assert_eq!((guests.records[0].standing(), guests.memory_bytes()), (Standing::Stopped, 0));
    assert_eq!(guests.records[0].last_end(), Some(&StopReason::NotTaken));
}

#[test]
fn a_guest_that_is_built_to_arrive_is_its_migrations_and_is_answered_when_its_memory_is_back() {
    let (mut guests, work) = host_that_builds(Record::arriving(Key(1), "b"), builder::tests::incoming());
    let work = work.go_on(|| true).unwrap();
    assert_eq!(guests.records[0].standing(), Standing::Arriving);
    assert_eq!((guests.stop(NAME), guests.start(NAME).is_err()), (refused(NAME), true));
    assert!(Lodging::poll(&mut guests, Key(1)).is_none());
    guests.give_up(Key(1));
    assert_eq!(guests.stop(NAME), refused(NAME), "it is still the migration's");
    guests.poll(Instant::ZERO);
    assert!(Lodging::poll(&mut guests, Key(1)).is_none(), "the memory is not back");
    assert!(work.go_on(|| true).is_none());
    guests.poll(Instant::ZERO);
    let event = Lodging::poll(&mut guests, Key(1));
    assert!(matches!(event, Some(GuestEvent::Failed(Step::Build, GuestFailure::Host(_)))), "{event:?}");
    guests.done(Key(1));
    guests.poll(Instant::ZERO);
    assert!(guests.records.is_empty() && guests.next_ended().is_none());
}

#[test]
fn what_keeps_an_arriving_guest_s_machine_from_being_built_is_its_migration_s_answer() {
    let (mut guests, work) = host_that_builds(Record::arriving(Key(1), "b"), builder::tests::incoming());
    work.refuse();
    guests.poll(Instant::ZERO);
    let Some(GuestEvent::Failed(Step::Build, why)) = Lodging::poll(&mut guests, Key(1)) else { panic!() };
    assert_eq!(why, GuestFailure::Host("the CPU that was to run it runs no guests".into()));
}
