//! The urgent connection: what overtakes the main one on it, and what it is answered by.

use std::vec;

use super::{
    Engine, GUEST, Host, MIGRATION, Said, committed_without_a_page, encode, phase, say, sealed_source,
    serving_source,
};
use crate::io::{Channel, Command, GuestAction, GuestEvent, Input, Output};
use crate::permit::Generation;
use crate::ram::{NoRam, PAGE_BYTES, Page};
use crate::target::Target;
use crate::time::Instant;
use crate::wire::VERSION_MAX;
use crate::wire::control::{Committed, Control, Progress, Pushed, Verified, Want};
use crate::wire::opening::{Greeting, Opening};
use crate::wire::record::Record;

#[test]
fn a_page_may_be_asked_for_before_the_word_that_the_guest_runs_has_come() {
    let (mut host, mut sequence) = sealed_source(crate::Mode::PostCopy);
    say(&mut host, Control::Verified(Verified { restore_ns: 0, stop: 0 }), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::Committing);
    let want = encode(&Said::Control(Control::Want(Want { page: 3 })), &mut 0);
    host.give(Input::Bytes(Channel::URGENT, &want));
    let generation = Generation::FIRST.next().0;
    let runs = encode(&Said::Control(Control::Committed(Committed { generation, run_ns: 0 })), &mut sequence);
    let Host { engine, ram: Some(ram), now, .. } = &mut host else {
        panic!("it is kept until the target has it")
    };
    let now = Instant::from_nanos(*now);
    engine.input(now, Input::Bytes(Channel::MAIN, &runs), ram);
    assert_eq!(engine.status(now).phase, crate::Phase::PostCopy, "the connections are whole");
    let mut buffer = vec![0; crate::OUTPUT_BYTES_MIN];
    let mut said = || engine.poll_urgent(now, &mut buffer, ram);
    assert!((1..PAGE_BYTES).contains(&said()), "how the connection begins");
    assert!(said() > PAGE_BYTES, "the page");
    assert!(engine.is_after_switch());
}

fn urgent_connection_comes(host: &mut Host<Target>) {
    host.give(Input::LinkUp(Channel::URGENT));
    let opening = Opening::Urgent { migration: MIGRATION, guest: GUEST };
    let greeting = Greeting { opening, version_min: 1, version_max: 1 }.encode();
    host.give(Input::Bytes(Channel::URGENT, &greeting));
}

fn absent_page_comes(host: &mut Host<Target>) {
    let page = Said::Pages(vec![(Record::Zero { first: Page(5), count: 1 }, 0, true)]);
    host.give(Input::Bytes(Channel::URGENT, &encode(&page, &mut 0)));
}

/// To a source of version 1 that word is nonsense.
#[test]
fn the_urgent_connection_is_acknowledged_from_version_2_on() {
    for (version_max, is_acknowledged) in [(1, false), (2, true), (9, true)] {
        let mut host = committed_without_a_page(version_max).0;
        urgent_connection_comes(&mut host);
        absent_page_comes(&mut host);
        let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
        let mut buffer = vec![0; crate::OUTPUT_BYTES_MIN];
        let said = host.engine.poll_urgent(now, &mut buffer, ram);
        assert_eq!(said > 0, is_acknowledged, "version {version_max}");
        assert_eq!(host.engine.poll_urgent(now, &mut buffer, ram), 0, "once");
    }
}

/// Only its own guest would suffer from it.
#[test]
fn a_target_that_acknowledges_what_was_never_sent_on_the_urgent_connection_is_served_on() {
    let mut host = serving_source();
    host.give(Input::LinkUp(Channel::URGENT));
    let mut sequence = 0;
    for bytes in [0, 1, u64::MAX, 7] {
        let progress = Control::Progress(Progress { bytes, rounds: u32::MAX });
        host.give(Input::Bytes(Channel::URGENT, &encode(&Said::Control(progress), &mut sequence)));
        assert_eq!(phase(&host), crate::Phase::PostCopy);
    }
}

#[test]
fn the_word_that_all_was_sent_may_come_before_the_last_page() {
    let (mut host, mut sequence) = committed_without_a_page(VERSION_MAX);
    let phase = |host: &Host<Target>| host.engine.status(Instant::from_nanos(host.now)).phase;
    urgent_connection_comes(&mut host);
    assert!(host.engine.is_after_switch());
    say(&mut host, Control::Pushed(Pushed { digest: 0 }), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::PostCopy, "the connections are whole");
    absent_page_comes(&mut host);
    assert_eq!(phase(&host), crate::Phase::Completed);
    assert!(!host.engine.is_after_switch());
}

/// The main connection is lost, and of the urgent one nothing is heard yet: what is wanted must not go astray there.
#[test]
fn nothing_is_asked_for_on_the_urgent_connection_of_a_source_that_is_lost() {
    let mut host = committed_without_a_page(VERSION_MAX).0;
    urgent_connection_comes(&mut host);
    host.give(Input::LinkDown(Channel::MAIN));
    offer_comes(&mut host);
    host.give(Input::Guest(GuestEvent::PageWanted(Page(5))));
    let (now, mut buffer) = (Instant::from_nanos(host.now), vec![0; crate::OUTPUT_BYTES_MIN]);
    assert_eq!(host.engine.poll_urgent(now, &mut buffer, &mut NoRam), 0, "nobody hears it there");
    let mut said = || host.engine.poll_spool(now, &mut buffer, &mut NoRam);
    assert!(said() > 0, "the spool is asked");
    host.give(Input::LinkDown(Channel::URGENT));
    let status = host.engine.status(Instant::from_nanos(host.now));
    assert_eq!(status.phase, crate::Phase::PostCopy, "the spool serves the guest");
    assert_eq!(status.post_copy.map(|post_copy| post_copy.interruptions), Some(1));
}

/// A spool offers pages, and hears what is lacking.
fn offer_comes(host: &mut Host<Target>) {
    host.give(Input::LinkUp(Channel::SPOOL));
    let opening = Opening::Offer { migration: MIGRATION, guest: GUEST };
    let greeting = Greeting { opening, version_min: 1, version_max: 1 }.encode();
    host.give(Input::Bytes(Channel::SPOOL, &greeting));
    let (now, mut buffer) = (Instant::from_nanos(host.now), vec![0; crate::OUTPUT_BYTES_MIN]);
    while host.engine.poll_spool(now, &mut buffer, &mut NoRam) > 0 {}
}

/// It was made before the main connection was lost, and comes behind that.
#[test]
fn an_urgent_connection_that_comes_late_is_dropped() {
    let mut host = committed_without_a_page(VERSION_MAX).0;
    host.give(Input::LinkDown(Channel::MAIN));
    urgent_connection_comes(&mut host);
    offer_comes(&mut host);
    host.give(Input::Guest(GuestEvent::PageWanted(Page(5))));
    let (now, mut buffer) = (Instant::from_nanos(host.now), vec![0; crate::OUTPUT_BYTES_MIN]);
    assert_eq!(host.engine.poll_urgent(now, &mut buffer, &mut NoRam), 0, "nobody hears it there");
    assert!(host.engine.poll_spool(now, &mut buffer, &mut NoRam) > 0, "the spool is asked");
}

/// The source has made the main connection anew, and is yet to make the urgent one: what was there before is no more.
#[test]
fn what_is_wanted_does_not_go_on_the_urgent_connection_of_before() {
    let mut host = committed_without_a_page(VERSION_MAX).0;
    urgent_connection_comes(&mut host);
    host.give(Input::Guest(GuestEvent::PageWanted(Page(5))));
    host.give(Input::LinkUp(Channel::MAIN));
    let opening = Opening::Resolve { migration: MIGRATION, guest: GUEST };
    host.give(Input::Bytes(Channel::MAIN, &Greeting { opening, version_min: 1, version_max: 2 }.encode()));
    let (now, mut buffer) = (Instant::from_nanos(host.now), vec![0; crate::OUTPUT_BYTES_MIN]);
    assert_eq!(host.engine.poll_urgent(now, &mut buffer, &mut NoRam), 0, "nobody hears it there");
    host.give(Input::LinkDown(Channel::URGENT));
    let status = host.engine.status(Instant::from_nanos(host.now));
    assert_eq!(status.phase, crate::Phase::PostCopy, "the connection stands");
}

/// What was taken out of the pages still to be sent must not be forgotten.
#[test]
fn a_page_that_cannot_be_read_for_who_waits_for_it_is_not_lost() {
    let mut host = serving_source();
    host.give(Input::LinkUp(Channel::URGENT));
    let (now, mut buffer) = (Instant::from_nanos(host.now), vec![0; crate::OUTPUT_BYTES_MIN]);
    let ram = host.ram.as_mut().unwrap();
    while host.engine.poll_urgent(now, &mut buffer, ram) > 0 {}
    ram.0.truncate(30);
    let want = encode(&Said::Control(Control::Want(Want { page: 35 })), &mut 0);
    host.engine.handle_input(now, Input::Bytes(Channel::URGENT, &want), ram);
    assert_eq!(host.engine.poll_urgent(now, &mut buffer, ram), 0);
    assert_eq!(host.engine.status(now).phase, crate::Phase::Recovering, "the target is asked what it lacks");
}

/// What a person gave up needs no source any more when the guest ends, also if it ends meanwhile.
#[test]
fn a_guest_that_ends_while_its_lost_memory_is_given_up_is_let_go_of() {
    for ends_before in [true, false] {
        let mut host = committed_without_a_page(VERSION_MAX).0;
        host.give(Input::LinkDown(Channel::MAIN));
        let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
        let engine = &mut host.engine;
        engine.handle_input(now, Input::Command(Command::TakeOver), ram);
        while !matches!(engine.poll_output(now, &mut [], ram), Output::Timeout(_)) {}
        let mut events = [GuestEvent::Forsaken, GuestEvent::Ended];
        if ends_before {
            events.reverse();
        }
        events.into_iter().for_each(|event| engine.handle_input(now, Input::Guest(event), ram));
        assert!(engine.is_finished(), "it ends before: {ends_before}");
    }
}

/// The source lives after all, and has asked meanwhile: it has the guest again, or commits.
#[test]
fn a_source_that_asks_while_a_person_has_its_guest_run_in_vain_hears_that_it_is_held() {
    let (mut host, mut sequence) = super::receiving_target();
    say(&mut host, super::seal(&[], 0), &mut sequence);
    host.give(Input::LinkDown(Channel::MAIN));
    let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
    let engine = &mut host.engine;
    let drain = |engine: &mut Target, ram: &mut super::Ram| {
        let (mut permit, mut said, mut buffer) = (None, vec![], vec![0; crate::OUTPUT_BYTES_MIN]);
        loop {
            match engine.poll_output(now, &mut buffer, ram) {
                Output::Guest(GuestAction::Run(it)) => permit = Some(it),
                Output::Transmit { len, .. } => said.extend_from_slice(&buffer[..len]),
                Output::Timeout(_) => return (permit, said),
                _ => {}
            }
        }
    };
    engine.handle_input(now, Input::Command(Command::TakeOver), ram);
    let permit = drain(engine, ram).0.expect("a person says so");
    engine.handle_input(now, Input::LinkUp(Channel::MAIN), ram);
    let opening = Opening::Resolve { migration: MIGRATION, guest: GUEST };
    let greeting = Greeting { opening, version_min: 1, version_max: 2 }.encode();
    engine.handle_input(now, Input::Bytes(Channel::MAIN, &greeting), ram);
    // The fate stands behind the header, a map and its key: that of a guest that is being started, then of one that is held.
    assert_eq!(drain(engine, ram).1[24..27], [0xa2, 0, 3]);
    let failure = crate::GuestFailure::OutOfMemory;
    engine.handle_input(now, Input::Guest(GuestEvent::RunFailed(permit, failure)), ram);
    let said = drain(engine, ram).1;
    assert_eq!(said.get(24..27), Some(&[0xa2, 0, 0][..]));
    assert_eq!(engine.status(now).phase, crate::Phase::CommitUnknown);
}
