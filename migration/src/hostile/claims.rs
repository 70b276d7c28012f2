//! What a peer may claim of itself, of the guest and of what has come, and may not.

use std::string::ToString;
use std::vec;

use super::{
    Host, MIGRATION, PAGES, Said, committed_without_a_page, encode, guest, phase, say, sealed_source, target,
    target_that,
};
use crate::bitmap::PageBitmap;
use crate::guest::GuestDescription;
use crate::io::{Channel, Command, Input, Output};
use crate::permit::{Generation, GuestId};
use crate::ram::Page;
use crate::target::Target;
use crate::time::Instant;
use crate::wire::absent::Walk;
use crate::wire::control::{Committed, Complete, Control, Pushed, Seal, Verified};
use crate::wire::hello::Hello;
use crate::wire::opening::{Greeting, Opening};

/// What a target says to a source that announces `announced` and then describes a guest.
fn described(announced: GuestId, guest: &GuestDescription) -> Host<Target> {
    let mut host = target();
    host.give(Input::LinkUp(Channel::MAIN));
    let opening = Opening::Begin { migration: MIGRATION, guest: announced };
    let hello = Hello::new(guest, 1000);
    let mut first = Greeting { opening, version_min: 1, version_max: 1 }.encode().to_vec();
    first.extend(encode(&Said::Control(Control::Hello(hello)), &mut 0));
    host.give(Input::Bytes(Channel::MAIN, &first));
    host
}

#[test]
fn a_name_that_could_talk_to_a_terminal_is_refused() {
    assert!(described(guest().id, &guest()).ram.is_some(), "it would be built");
    for name in ["\x1b[2J", "linux\nlinux moved to b", "a\u{9b}b", "\0"] {
        let host = described(guest().id, &GuestDescription { name: name.to_string(), ..guest() });
        assert!(host.ram.is_none() && host.engine.is_finished(), "{name:?}");
    }
}

#[test]
fn the_guest_is_the_one_that_was_announced() {
    let host = described(GuestId([9; 16]), &guest());
    assert!(host.ram.is_none() && host.engine.is_finished());
}

#[test]
fn no_page_is_left_behind_for_a_host_that_cannot_wait() {
    for post_copy in [true, false] {
        let mut host = target_that(post_copy);
        host.give(Input::LinkUp(Channel::MAIN));
        let (opening, mut sequence) = (Opening::Begin { migration: MIGRATION, guest: guest().id }, 0);
        let mut first = Greeting { opening, version_min: 1, version_max: 1 }.encode().to_vec();
        let hello = Control::Hello(Hello::new(&guest(), 1000));
        first.extend(encode(&Said::Control(hello), &mut sequence));
        host.give(Input::Bytes(Channel::MAIN, &first));
        let mut absent = PageBitmap::empty(PAGES);
        absent.insert(Page(5));
        let mut buffer = vec![0; 64 * 1024];
        let length = Walk::default().next(&absent, sequence, &mut buffer).unwrap();
        sequence += 1;
        host.give(Input::Bytes(Channel::MAIN, &buffer[..length]));
        let digest = {
            let mut identities =
                crate::identity::Identities::new(PAGES, crate::identity::Identity::ZERO).unwrap();
            identities.set(Page(5), crate::identity::Identity::UNKNOWN);
            super::guest_digest(identities.sum(), PAGES, super::section_digest(&[]))
        };
        say(&mut host, Control::Seal(Seal { digest, sections: 0, stop: 0, absent: 1 }), &mut sequence);
        assert_eq!(host.ram.is_some(), post_copy);
    }
}

/// A source whose guest runs at the target, and the number of the next frame to it.
fn serving() -> (Host<crate::Source>, u32) {
    let (mut host, mut sequence) = sealed_source(crate::Mode::PostCopy);
    say(&mut host, Control::Verified(Verified { restore_ns: 0, stop: 0 }), &mut sequence);
    let generation = Generation::FIRST.next().0;
    say(&mut host, Control::Committed(Committed { generation, run_ns: 0 }), &mut sequence);
    assert_eq!(phase(&host), crate::Phase::PostCopy);
    (host, sequence)
}

/// The source must not say "verified".
#[test]
fn a_source_hears_that_the_digests_differ() {
    for differs in [false, true] {
        let (mut host, mut sequence) = serving();
        let complete = Complete {
            is_ended: differs,
            differs,
            filling_ns: 0,
            waits: 0,
            median_ns: 0,
            p99_ns: 0,
            longest_ns: 0,
            total_ns: 0,
        };
        for _ in 0..200 {
            host.now += 50_000_000;
            host.give(Input::Timeout);
            say(&mut host, Control::Progress(super::Progress { bytes: u64::MAX, rounds: 1 }), &mut sequence);
        }
        say(&mut host, Control::Complete(complete), &mut sequence);
        let status = host.engine.status(Instant::from_nanos(host.now));
        assert_eq!(status.post_copy.map(|post_copy| post_copy.is_whole), Some(!differs));
    }
}

#[test]
fn a_target_says_that_the_digests_differ() {
    let (mut host, mut sequence) = committed_without_a_page(2);
    say(&mut host, Control::Pushed(Pushed { digest: 1 }), &mut sequence);
    let page = Said::Pages(vec![(crate::wire::record::Record::Zero { first: Page(5), count: 1 }, 0, true)]);
    let (now, bytes) = (Instant::from_nanos(host.now), encode(&page, &mut sequence));
    let ram = host.ram.as_mut().unwrap();
    host.engine.handle_input(now, Input::Bytes(Channel::MAIN, &bytes), ram);
    let mut buffer = vec![0; crate::OUTPUT_BYTES_MIN];
    let mut said = vec![];
    for _ in 0..20 {
        match host.engine.poll_output(now, &mut buffer, ram) {
            crate::io::Output::Transmit { len, .. } => said.extend_from_slice(&buffer[..len]),
            crate::io::Output::Timeout(_) => break,
            _ => {}
        }
    }
    // The last key of the word's map, and its value: true.
    assert!(said.ends_with(&[7, 0xf5]), "{said:x?}");
}

/// The main connection is heard, the urgent one is not: what was sent on that may be lost, and only the target knows.
#[test]
fn an_urgent_connection_that_falls_silent_has_the_source_ask_what_is_lacking() {
    let (mut host, mut sequence) = serving();
    host.give(Input::LinkUp(Channel::URGENT));
    for _ in 0..200 {
        host.now += 200_000_000;
        say(&mut host, Control::Ping, &mut sequence);
        host.give(Input::Timeout);
        if phase(&host) == crate::Phase::Recovering {
            return;
        }
    }
    panic!("it goes on as if nothing had happened");
}

/// It holds a place that others wait for, and memory.
#[test]
fn a_source_that_only_shows_that_it_is_alive_is_given_up() {
    let mut silent = target();
    silent.give(Input::LinkUp(Channel::MAIN));
    let opening = Opening::Begin { migration: MIGRATION, guest: guest().id };
    silent.give(Input::Bytes(Channel::MAIN, &Greeting { opening, version_min: 1, version_max: 2 }.encode()));
    let (receiving, sequence) = super::receiving_target();
    let (mut prepared, mut after_seal) = super::receiving_target();
    say(&mut prepared, super::seal(&[], 0), &mut after_seal);
    let hosts = [(silent, 0, 30), (receiving, sequence, 600), (prepared, after_seal, 600)];
    for (mut host, mut sequence, seconds) in hosts {
        let began_at = host.now;
        while !host.engine.is_finished() {
            host.now += 1_000_000_000;
            host.give(Input::Timeout);
            say(&mut host, Control::Ping, &mut sequence);
            assert!(host.now - began_at < (seconds + 3) * 1_010_000_000, "it has its place for ever");
        }
        assert!(host.now - began_at >= seconds * 1_000_000_000, "it may take its time");
    }
}

#[test]
fn device_state_is_bounded_by_what_a_guest_has() {
    for (sections, is_taken) in [(2, true), (3, false)] {
        let (mut host, mut sequence) = super::receiving_target();
        for id in 0..sections {
            let bytes = vec![1; 9000];
            let total = 70 << 10;
            for offset in (0..total).step_by(9000) {
                let bytes = bytes[..bytes.len().min((total - offset) as usize)].to_vec();
                let part = Said::Section { id, total, offset, bytes };
                host.give(Input::Bytes(Channel::MAIN, &encode(&part, &mut sequence)));
            }
        }
        assert_eq!(host.ram.is_some(), is_taken, "{sections} sections of 70 KiB");
    }
}

/// A person knows more than the hosts do: that an attempt to connect leads nowhere, or that an answer will not come.
#[test]
fn a_person_who_has_a_target_asked_again_does_not_wait_for_what_is_under_way() {
    let (mut host, mut sequence) = serving();
    let connects = |host: &mut Host<crate::Source>| {
        let (mut hung_up, mut connects) = (0, 0);
        loop {
            let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
            match host.engine.poll_output(now, &mut [], ram) {
                Output::Connect(Channel::MAIN) => connects += 1,
                Output::HangUp(Channel::MAIN) => hung_up += 1,
                Output::Timeout(_) => return (hung_up, connects),
                _ => {}
            }
        }
    };
    let retry = |host: &mut Host<crate::Source>| {
        assert!(host.engine.heeds(Command::Retry));
        let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
        host.engine.handle_input(now, Input::Command(Command::Retry), ram);
        connects(host)
    };
    say(&mut host, Control::Ping, &mut sequence);
    assert_eq!(retry(&mut host), (1, 1), "the connection stands, he thinks that it does not");
    assert_eq!(retry(&mut host), (0, 1), "it is being made");
    host.engine.handle_input(Instant::from_nanos(host.now), Input::LinkUp(Channel::MAIN), &mut crate::NoRam);
    assert_eq!(retry(&mut host), (1, 1), "it is asked and does not answer");
    host.engine.handle_input(
        Instant::from_nanos(host.now),
        Input::LinkDown(Channel::MAIN),
        &mut crate::NoRam,
    );
    assert_eq!(retry(&mut host), (0, 1), "the next try is not due");
}

#[test]
fn a_guest_that_runs_elsewhere_dirties_nothing_here() {
    let (host, _) = serving();
    assert_eq!(host.engine.status(Instant::from_nanos(host.now)).dirty_pages_per_second, 0);
}

/// Each is noted, whether there is anything in it or not.
#[test]
fn empty_sections_are_bounded_too() {
    let (mut host, mut sequence) = super::receiving_target();
    for id in 0..2000 {
        let part = Said::Section { id, total: 0, offset: 0, bytes: vec![] };
        host.give(Input::Bytes(Channel::MAIN, &encode(&part, &mut sequence)));
    }
    assert!(host.ram.is_none());
}
