//! Peers of and around a spool that know the protocol and mean harm.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{Spool, SpoolConfig, SpoolEvent};
use crate::heap::{HostShare, Room};
use crate::hostile::{
    GUEST, MIGRATION, PAGES, Ram, Said, encode, filling_target, said, serving_source, serving_source_at,
};
use crate::io::{Channel, Command, Event, Input, OUTPUT_BYTES_MIN, Output};
use crate::policy::SpoolPolicy;
use crate::ram::PAGE_BYTES;
use crate::reason::{AbortReason, Refusal, StreamFault};
use crate::status::Phase;
use crate::time::Instant;
use crate::wire::control::Control;
use crate::wire::deposit::Deposit;
use crate::wire::opening::{Greeting, Opening};

/// Pages that the source says it will leave.
const ABSENT: u32 = 9;

struct Host {
    spool: Spool,
    store: Ram,
    now: u64,
    connects: u32,
    ends: u32,
    turned_away: Vec<AbortReason>,
}

impl Host {
    fn new() -> Self {
        let config = SpoolConfig {
            incarnation: 1,
            room: Room { ram_bytes: 1 << 20, heap_bytes: 1 << 20 },
            share: HostShare::default(),
            closed: None,
            policy: SpoolPolicy::default(),
        };
        let store = Ram(vec![[0; PAGE_BYTES]; PAGES as usize]);
        Self { spool: Spool::new(config), store, now: 0, connects: 0, ends: 0, turned_away: Vec::new() }
    }

    fn give(&mut self, input: Input<'_>) {
        self.now += 1_000_000;
        let now = Instant::from_nanos(self.now);
        self.spool.handle_input(now, input, &mut self.store);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        for _ in 0..300 {
            match self.spool.poll_output(now, &mut buffer, &mut self.store) {
                Output::Timeout(_) if self.spool.poll_spool(now, &mut buffer, &mut self.store) == 0 => return,
                Output::Connect(_) => self.connects += 1,
                Output::Event(Event::Spool(SpoolEvent::Over(_))) => self.ends += 1,
                Output::Event(Event::Spool(SpoolEvent::TurnedAway(why))) => self.turned_away.push(why),
                Output::Guest(action) => panic!("a spool has no guest: {action:?}"),
                _ => {}
            }
        }
        panic!("it never comes to rest");
    }

    /// A source comes, and leaves four pages from the third on.
    fn is_left_pages(&mut self) {
        let mut sequence = self.meet_source();
        let record = crate::wire::record::Record::Raw { first: crate::ram::Page(3), count: 4 };
        self.give(Input::Bytes(
            Channel::SPOOL,
            &encode(&Said::Pages(vec![(record, 7, true)]), &mut sequence),
        ));
    }

    /// The source comes and says what it will leave; the number of its next frame.
    fn meet_source(&mut self) -> u32 {
        self.give(Input::LinkUp(Channel::SPOOL));
        let opening = Opening::Spool { migration: MIGRATION, guest: GUEST };
        let mut first = Greeting { opening, version_min: 1, version_max: 1 }.encode().to_vec();
        let mut sequence = 0;
        first.extend(encode(&Said::Control(deposit(PAGES, ABSENT)), &mut sequence));
        self.give(Input::Bytes(Channel::SPOOL, &first));
        sequence
    }
}

pub(crate) fn deposit(pages: u32, absent: u32) -> Control {
    Control::Deposit(Deposit {
        guest: "g".into(),
        pages,
        absent,
        target: "b".into(),
        address: vec![1; 6],
        peer_timeout_ms: 1000,
    })
}

#[test]
fn what_is_too_much_is_refused_and_takes_no_memory() {
    for (pages, absent) in [(u32::MAX - 1, 1), (1000, 1000), (0, 0), (5, 6), (u32::MAX - 1, u32::MAX - 1)] {
        let mut host = Host::new();
        host.give(Input::LinkUp(Channel::SPOOL));
        let opening = Opening::Spool { migration: MIGRATION, guest: GUEST };
        let mut first = Greeting { opening, version_min: 1, version_max: 1 }.encode().to_vec();
        first.extend(encode(&Said::Control(deposit(pages, absent)), &mut 0));
        host.give(Input::Bytes(Channel::SPOOL, &first));
        assert!(host.spool.is_finished() && host.ends == 1, "{absent} of {pages} pages");
        let is_possible = 1 <= absent && absent <= pages;
        let [AbortReason::Refused(_) | AbortReason::Stream(StreamFault::Value)] = host.turned_away[..] else {
            panic!("nobody is told why {absent} of {pages} pages are not kept: {:?}", host.turned_away);
        };
        assert_eq!(matches!(host.turned_away[0], AbortReason::Refused(_)), is_possible);
    }
}

#[test]
fn a_guest_whose_sets_the_heap_cannot_spare_is_refused_and_what_is_promised_is_owed() {
    let mut host = Host::new();
    host.spool.set_room(Room { ram_bytes: 1 << 40, heap_bytes: 1 << 20 });
    host.give(Input::LinkUp(Channel::SPOOL));
    let before = host.spool.heap_owed();
    let opening = Opening::Spool { migration: MIGRATION, guest: GUEST };
    let mut first = Greeting { opening, version_min: 1, version_max: 1 }.encode().to_vec();
    first.extend(encode(&Said::Control(deposit(1 << 24, 1)), &mut 0));
    host.give(Input::Bytes(Channel::SPOOL, &first));
    let [AbortReason::Refused(refusals)] = &host.turned_away[..] else { panic!("{:?}", host.turned_away) };
    let [Refusal::Heap { needed_bytes, free_bytes: 0x10_0000 }] = refusals[..] else {
        panic!("{refusals:?}")
    };
    // Four sets of a bit for each page.
    assert!((8 << 20..9 << 20).contains(&needed_bytes), "{needed_bytes}");
    assert!(host.spool.is_finished() && host.spool.heap_owed() == 0);

    let mut host = Host::new();
    host.meet_source();
    assert_eq!(host.spool.heap_owed(), before, "all that it needs for so few pages it has");
    assert_eq!(host.spool.ram_owed(), u64::from(ABSENT) * PAGE_BYTES as u64);
}

#[test]
fn what_is_not_the_protocol_is_told_and_what_is_here_stays() {
    let mut host = Host::new();
    host.is_left_pages();
    host.give(Input::Bytes(Channel::SPOOL, &[0xa5; 24]));
    assert!(matches!(host.turned_away[..], [AbortReason::Stream(_)]), "{:?}", host.turned_away);
    assert!(!host.spool.has_source() && !host.spool.is_finished() && host.spool.pages() == 4);
}

/// A person redirects the source between its word to the spool and the spool's answer.
#[test]
fn a_spool_hears_of_another_target_as_soon_as_it_takes_a_second_word() {
    let mut host = serving_source();
    host.give(Input::Timeout);
    let order = crate::SpoolOrder { target: "c".into(), address: vec![2; 6] };
    let said = |host: &mut crate::hostile::Host<crate::Source>| {
        let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
        let (mut buffer, mut all) = (vec![0; OUTPUT_BYTES_MIN], vec![]);
        loop {
            match host.engine.poll_spool(now, &mut buffer, ram) {
                0 => return all,
                len => all.extend_from_slice(&buffer[..len]),
            }
        }
    };
    let names = |bytes: &[u8]| bytes.windows(6).filter(|at| **at == [2; 6]).count();
    let mut buffer = vec![0; OUTPUT_BYTES_MIN];
    while host.engine.poll_spool(Instant::from_nanos(host.now), &mut buffer, host.ram.as_mut().unwrap()) > 0 {
    }
    host.engine.retarget(order);
    assert_eq!(names(&said(&mut host)), 0, "its answer is to come first");
    let reply = crate::wire::hello::Reply {
        version: 1,
        refusals: vec![],
        incarnation: 1,
        peer_timeout_ms: 1000,
        post_copy: false,
    };
    host.give(Input::Bytes(Channel::SPOOL, &encode(&Said::Control(Control::Reply(reply)), &mut 0)));
    assert_eq!(names(&said(&mut host)), 1);
}

/// What is here is the only place where it is if the source dies next.
#[test]
fn a_spool_without_memory_left_offers_what_it_has() {
    let mut host = Host::new();
    host.is_left_pages();
    let failure = crate::ram::RamFailure::OutOfMemory(crate::ram::Page(8));
    host.spool.on_bad_source(Instant::from_nanos(host.now), &AbortReason::Ram(failure));
    // The connection is closed by this side: nobody tells that it is gone.
    host.now += 4_000_000_000;
    host.give(Input::Timeout);
    assert_eq!((host.connects, host.spool.pages()), (1, 4));
}

#[test]
fn a_person_who_has_the_target_asked_again_does_not_wait_for_what_is_under_way() {
    let mut host = Host::new();
    host.is_left_pages();
    host.give(Input::LinkDown(Channel::SPOOL));
    for connects in 1..4 {
        assert!(host.spool.heeds(Command::Retry));
        host.give(Input::Command(Command::Retry));
        assert_eq!(host.connects, connects, "after a grace, while it is being made, while it is asked");
        if connects == 2 {
            host.give(Input::LinkUp(Channel::MAIN));
        }
    }
}

/// The target has taken all in, and has not said so of the whole; the spool has died and come back. If the source dies now
/// only a spool can tell the target that all is there.
#[test]
fn a_spool_that_forgot_hears_again_that_all_is_there() {
    let (mut host, mut main) = serving_source_at();
    host.give(Input::Timeout);
    let said = |host: &mut crate::hostile::Host<crate::Source>| {
        let (now, ram) = (Instant::from_nanos(host.now), host.ram.as_mut().unwrap());
        let (mut buffer, mut all) = (vec![0; OUTPUT_BYTES_MIN], vec![]);
        loop {
            match host.engine.poll_spool(now, &mut buffer, ram) {
                0 => return all,
                len => all.extend_from_slice(&buffer[..len]),
            }
        }
    };
    let pushed = |bytes: &[u8]| {
        let header = [crate::wire::frame::Kind::Pushed as u8, 0, 1, 0];
        bytes.windows(4).filter(|at| *at == header).count()
    };
    let reply = || {
        Control::Reply(crate::wire::hello::Reply {
            version: 1,
            refusals: vec![],
            incarnation: 1,
            peer_timeout_ms: 1000,
            post_copy: false,
        })
    };
    for _ in 0..200 {
        let taken = Control::Progress(crate::wire::control::Progress { bytes: u64::MAX, rounds: 9 });
        host.give(Input::Bytes(Channel::MAIN, &encode(&Said::Control(taken), &mut main)));
    }
    for _ in 0..2 {
        said(&mut host);
        host.give(Input::Bytes(Channel::SPOOL, &encode(&Said::Control(reply()), &mut 0)));
        assert_eq!(pushed(&said(&mut host)), 1);
        host.give(Input::LinkDown(Channel::SPOOL));
        host.now += 2_000_000_000;
        host.give(Input::Timeout);
    }
}

/// What asks for a page is to be seen soon, from when the target takes pages until it has all that are here.
#[test]
fn a_guest_may_wait_for_a_page_while_the_target_takes_them() {
    let mut host = Host::new();
    host.is_left_pages();
    host.give(Input::LinkDown(Channel::SPOOL));
    host.now += 4_000_000_000;
    host.give(Input::Timeout);
    host.give(Input::LinkUp(Channel::MAIN));
    let mut lacks = crate::bitmap::PageBitmap::empty(PAGES);
    lacks.insert(crate::ram::Page(3));
    let mut buffer = vec![0; crate::OUTPUT_BYTES_MIN];
    let len = crate::wire::absent::Walk::default().next(&lacks, 0, &mut buffer).unwrap();
    host.give(Input::Bytes(Channel::MAIN, &buffer[..len]));
    assert!(!host.spool.is_after_switch());
    let owned = crate::wire::control::Outcome { fate: crate::wire::control::Fate::Owned, incarnation: 1 };
    let said = encode(&Said::Control(Control::Outcome(owned)), &mut 1);
    let now = crate::time::Instant::from_nanos(host.now);
    host.spool.handle_input(now, Input::Bytes(Channel::MAIN, &said), &mut host.store);
    assert!(host.spool.is_after_switch());
    host.give(Input::Timeout);
    assert!(!host.spool.is_after_switch(), "it has all that is here");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_spool_survives_any_source_and_keeps_no_more_than_was_agreed(
        all in prop::collection::vec(said(), 0..40),
        again in any::<bool>(),
    ) {
        let mut host = Host::new();
        let mut sequence = host.meet_source();
        for said in &all {
            host.give(Input::Bytes(Channel::SPOOL, &encode(said, &mut sequence)));
            if again && !host.spool.has_source() && !host.spool.is_finished() {
                sequence = host.meet_source();
            }
            let written = host.store.0.iter().filter(|page| **page != [0; PAGE_BYTES]).count();
            prop_assert!(written <= ABSENT as usize, "{} pages take up memory", written);
        }
        host.give(Input::LinkDown(Channel::SPOOL));
        host.give(Input::Command(Command::Release));
        prop_assert!(host.spool.is_finished() && host.ends == 1);
    }

    #[test]
    fn a_spool_survives_any_target(all in prop::collection::vec(said(), 0..40), honest in any::<bool>()) {
        let mut host = Host::new();
        let mut sequence = host.meet_source();
        let record = crate::wire::record::Record::Raw { first: crate::ram::Page(3), count: 4 };
        host.give(Input::Bytes(Channel::SPOOL, &encode(&Said::Pages(vec![(record, 7, true)]), &mut sequence)));
        prop_assert_eq!(host.spool.pages(), 4);
        host.give(Input::LinkDown(Channel::SPOOL));
        host.now += 4_000_000_000;
        host.give(Input::Timeout);
        prop_assert_eq!(host.connects, 1);
        host.give(Input::LinkUp(Channel::MAIN));
        let mut sequence = 0;
        if honest {
            let owned = crate::wire::control::Outcome { fate: crate::wire::control::Fate::Owned, incarnation: 1 };
            host.give(Input::Bytes(Channel::MAIN, &encode(&Said::Control(Control::Outcome(owned)), &mut sequence)));
        }
        for said in &all {
            host.give(Input::Bytes(Channel::MAIN, &encode(said, &mut sequence)));
        }
        prop_assert!(host.spool.is_finished() || host.spool.pages() == 4);
    }

    #[test]
    fn a_target_survives_any_spool_and_what_the_guest_has_stays(all in prop::collection::vec(said(), 0..40)) {
        // Page 5 is absent, and the source is lost.
        let mut host = filling_target();
        host.give(Input::LinkDown(Channel::MAIN));
        host.give(Input::LinkUp(Channel::SPOOL));
        let opening = Opening::Offer { migration: MIGRATION, guest: GUEST };
        host.give(Input::Bytes(Channel::SPOOL, &Greeting { opening, version_min: 1, version_max: 1 }.encode()));
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        while host.engine.poll_spool(Instant::from_nanos(host.now), &mut buffer, &mut crate::ram::NoRam) > 0 {}
        let mut sequence = 0;
        for said in &all {
            host.give(Input::Bytes(Channel::SPOOL, &encode(said, &mut sequence)));
        }
        prop_assert!(host.permit.is_some() && host.runs == 1);
        let ram = host.ram.as_ref().expect("it runs");
        let changed: Vec<usize> = (0..PAGES as usize).filter(|page| ram.0[*page] != [0; PAGE_BYTES]).collect();
        prop_assert!(changed.iter().all(|page| *page == 5), "{:?}", changed);
    }

    #[test]
    fn a_source_survives_any_spool_and_serves_on(all in prop::collection::vec(said(), 0..40)) {
        let mut host = serving_source();
        host.give(Input::Timeout);
        let mut sequence = 0;
        for said in &all {
            host.give(Input::LinkUp(Channel::SPOOL));
            host.give(Input::Bytes(Channel::SPOOL, &encode(said, &mut sequence)));
        }
        let phase = host.engine.status(Instant::from_nanos(host.now)).phase;
        prop_assert_eq!(phase, Phase::PostCopy);
    }
}
