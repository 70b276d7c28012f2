//! `migrate`: the progress line, its end, and what can be done meanwhile.

use core::time::Duration;
use std::string::String;

use godwit_migration::{
    Downtime, PageCounts, Phase, PostCopy, Prediction, Recall, Report, Stage, Stops, Waits, Why,
};

use super::fake::migration;
use super::person::Person;
use crate::console::Notice;
use crate::console::view::{Aftermath, MigrationFailure, MigrationReport, Remark, Side};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn moved(side: Side) -> Notice {
    let downtime = Downtime {
        pause: ms(1),
        harvest: ms(2),
        pages: ms(10),
        save: ms(3),
        verify: ms(20),
        commit: ms(5),
        restore: ms(2),
        start: ms(1),
        total: ms(41),
    };
    let stops = Stops { count: 1, longest: downtime.total, total: downtime.total, recalled: [0; 6] };
    let report = Report {
        total: ms(12_300),
        downtime,
        stops,
        post_copy: None,
        rounds: 4,
        pages: PageCounts { zero: 23_558, raw: 210, compressed: 9_000, referenced: 120, unchanged: 11 },
        pages_in_downtime: 41,
        bytes_sent: 40_055_603,
        bytes_received: 40_055_603,
        throttle_percent_peak: 0,
        digest: 0x0123_4567_89ab_cdef,
    };
    let (guest, peer) = ("linux".into(), "b".into());
    let copy = None;
    Notice::Moved(std::boxed::Box::new(MigrationReport { guest, copy, peer, side, report, estimate: None }))
}

pub(super) fn failure(aftermath: Aftermath) -> Notice {
    Notice::MigrationFailed(MigrationFailure {
        guest: "linux".into(),
        copy: None,
        peer: "b".into(),
        reason: "b does not answer".into(),
        advice: (aftermath == Aftermath::GoesOn).then_some("knock"),
        aftermath,
    })
}

#[test]
fn what_went_after_the_switch_is_told_with_its_waits() {
    let mut notice = moved(Side::Source);
    let Notice::Moved(report) = &mut notice else { panic!("it moved") };
    report.report.post_copy = Some(PostCopy {
        why: Some(Why::Stalled { left: 900, sent: 1000 }),
        pages: 900,
        filling: ms(1200),
        waits: Waits { count: 14, median: ms(2), p99: ms(4), longest: ms(5), total: ms(30) },
        interruptions: 1,
        is_whole: true,
        spool: None,
    });
    let mut text = String::new();
    super::super::report::notice(&notice, &mut text).unwrap();
    assert!(text.ends_with("sent 38.2 MiB, verified\n"), "{text}");
    let Notice::Moved(report) = &mut notice else { panic!("it moved") };
    report.report.post_copy.as_mut().unwrap().is_whole = false;
    let mut not_whole = String::new();
    super::super::report::notice(&notice, &mut not_whole).unwrap();
    assert!(not_whole.ends_with("sent 38.2 MiB, not whole\n"), "{not_whole}");
    let told = "after the switch: 900 pages, since rounds did not pay: 1000 sent, 900 dirty again\n  \
                last page after 1.2 s; the guest waited 14 times\n  \
                waits: p50 2.0 ms, p99 4.0 ms, max 5.0 ms, 30 ms in all\n  \
                the connection was lost, times: 1\n";
    assert!(text.contains(told), "{text}");
}

#[test]
fn what_was_expected_stands_above_what_came_of_it() {
    let mut notice = moved(Side::Source);
    let Notice::Moved(report) = &mut notice else { panic!("it moved") };
    report.estimate = Some(Prediction {
        ends: true,
        total: ms(11_000),
        downtime: ms(50),
        bytes: 38 << 20,
        rounds: 3,
        after_switch: 0,
        why: None,
    });
    let mut text = String::new();
    super::super::report::notice(&notice, &mut text).unwrap();
    let told = "estimated: total 11.0 s, downtime 50 ms, rounds 3, sent 38.0 MiB\n\
                linux moved to b: total 12.3 s, downtime 41 ms, rounds 4, sent 38.2 MiB, verified\n";
    assert!(text.ends_with(told), "{text}");
}

#[test]
fn lost_memory_is_named_by_address() {
    let ranges = std::vec![(0x1000, 2), (0x1_0000_0000, 1)];
    let notice = Notice::MemoryLost { guest: "linux".into(), peer: "a".into(), pages: 5, ranges };
    let mut text = String::new();
    super::super::report::notice(&notice, &mut text).unwrap();
    let told = "linux: 5 pages were still at a and are lost; it stops if it touches one:\n  0x1000, 2 pages\n  \
                0x100000000, 1 pages\n  and 2 more\n";
    assert_eq!(text, told);
}

#[test]
fn a_move_shows_its_phases_and_ends_with_one_line() {
    let mut person = Person::new();
    person.types("migrate linux b\r");
    person.waits(20);
    for (phase, round, sent) in [
        (Phase::PreCopy, 1, 10),
        (Phase::PreCopy, 2, 30),
        (Phase::StopAndCopy, 2, 38),
        (Phase::Committing, 2, 38),
    ] {
        person.host.migrations = alloc::vec![migration(phase, round, sent)];
        person.waits(400);
    }
    person.host.migrations.clear();
    person.host.notices.push_back(moved(Side::Source));
    assert_eq!(
        person.sees(),
        "a> migrate linux b
moving linux to b; Ctrl-C comes back to the prompt, the move goes on
connecting with b
pre-copy 2: sent 30.0 MiB, left 12.0 MiB, dirty 400K/s, wire 9.00M/s, 1.3 s
stop-and-copy: sent 38.0 MiB, left 12.0 MiB
committing: sent 38.0 MiB, left 12.0 MiB
pages: 23558 zero, 210 whole, 9000 compressed, 120 known, 11 unchanged; 41 while stopped
downtime: 41 ms = pause 1.0 ms + dirty log 2.0 ms + last pages 10 ms
  + devices 3.0 ms + verify 20 ms + commit 5.0 ms
  the target's part: restore 2.0 ms of verify, start 1.0 ms of commit
digest: 0123456789abcdef at both ends
linux moved to b: total 12.3 s, downtime 41 ms, rounds 4, sent 38.2 MiB, verified
a>"
    );
}

#[test]
fn stops_in_vain_are_told_when_they_happen_in_the_status_and_at_the_end() {
    let mut person = Person::new();
    let ms = Duration::from_millis;
    let recall = Recall { stage: Stage::Pages, stood_still: ms(301), recalls: 1 };
    let remark = Remark::Recalled(recall);
    person.host.notices.push_back(Notice::Migration { guest: "linux".into(), peer: "b".into(), remark });
    assert_eq!(
        person.sees(),
        "linux: stop 1 was called back after 301 ms, while the last pages were sent; it runs here, the migration goes on
a>"
    );
    let stops = Stops { count: 3, longest: ms(301), total: ms(642), recalled: [0, 0, 0, 1, 1, 0] };
    let mut view = migration(Phase::PreCopy, 9, 38);
    view.status.stops = stops;
    person.host.migrations = alloc::vec![view];
    let status = person.asks("migrate status");
    let line = "stops: 3, 642 ms in all, the longest 301 ms; called back: \
                1 while the last pages were sent, 1 while the target verified\n";
    assert!(status.ends_with(&alloc::format!("left\n  {line}a>")), "{status}");
    person.host.migrations.clear();
    let Notice::Moved(mut moved) = moved(Side::Source) else { panic!("it says what has moved") };
    moved.report.stops = stops;
    person.host.notices.push_back(Notice::Moved(moved));
    let shown = person.sees();
    assert!(shown.contains(&alloc::format!("at both ends\n{line}linux moved")), "{shown}");
    assert!(shown.contains("downtime 41 ms, stops 3, rounds 4, sent"), "{shown}");
}

#[test]
fn a_failure_says_that_the_guest_goes_on() {
    let mut person = Person::new();
    person.types("migrate linux b\r");
    person.waits(20);
    person.sees();
    person.host.migrations.clear();
    person.host.notices.push_back(failure(Aftermath::GoesOn));
    assert_eq!(
        person.sees(),
        "connecting with b\nmigration of linux to b failed: b does not answer; the guest goes on here (knock)\na>"
    );
}

#[test]
fn ctrl_c_comes_back_and_the_move_goes_on() {
    let mut person = Person::new();
    person.types("migrate linux b\r");
    person.waits(20);
    person.host.migrations = alloc::vec![migration(Phase::PreCopy, 1, 10)];
    person.waits(20);
    person.sees();
    person.types("\x03");
    assert_eq!(
        person.sees(),
        "pre-copy 1: sent 10.0 MiB, left 12.0 MiB, dirty 400K/s, wire 9.00M/s, 1.3 s
the move of linux to b goes on: 'migrate status' shows it, 'migrate cancel linux' ends it
a>"
    );
    assert_eq!(
        person.asks("migrate status"),
        "a> migrate status
linux to b: pre-copy, round 1, for 4.0 s
  sent 10.0 MiB, left 12.0 MiB
  wire 9.00 MiB/s (no cap), dirty rate 400 KiB/s
  mode auto, downtime at most 300 ms, 250 ms if it stopped now; about 1.3 s left
a>"
    );
    let (downtime, limit) = (Some(Duration::from_millis(900)), Duration::from_millis(300));
    let (rounds, sent, left, next) = (1, 2560, 3072, godwit_migration::Next::Round);
    let judgement = godwit_migration::Judgement { rounds, sent, left, downtime, limit, next };
    person.host.migrations[0].status.judgement = Some(judgement);
    let why = "round 1 sent 2560 pages and left 3072: another, since a stop would take 900 ms, not 300 ms";
    let status = person.asks("migrate status");
    assert!(status.ends_with(&alloc::format!("left\n  {why}\na>")), "{status}");
    person.types("vm li");
    person.host.notices.push_back(moved(Side::Source));
    let shown = person.sees();
    assert!(shown.ends_with("sent 38.2 MiB, verified\na> vm li"), "{shown}");
}

#[test]
fn behind_the_switch_status_tells_what_is_known_and_nothing_of_cancelling() {
    let post_copy = PostCopy {
        why: Some(Why::Asked),
        pages: 900,
        filling: ms(1200),
        waits: Waits::default(),
        interruptions: 0,
        is_whole: false,
        spool: None,
    };
    let mut person = Person::new();
    person.types("migrate linux b\r");
    person.waits(20);
    let mut view = migration(Phase::PostCopy, 1, 10);
    view.status.post_copy = Some(post_copy);
    person.host.migrations = alloc::vec![view.clone()];
    person.waits(20);
    person.sees();
    person.types("\x03");
    assert!(person.sees().ends_with("the move of linux to b goes on: 'migrate status' shows it\na>"));
    let status = person.asks("migrate status");
    assert!(
        status.contains("\n  after the switch: 900 pages, as was asked for; for 1.2 s now\n"),
        "{status}"
    );
    let waits = Waits { count: 14, median: ms(2), p99: ms(4), longest: ms(5), total: ms(30) };
    view.side = Side::Target;
    view.status.post_copy = Some(PostCopy { why: None, waits, ..post_copy });
    person.host.migrations = alloc::vec![view];
    let told = "  after the switch: 900 pages, for 1.2 s now; the guest has waited 14 times\n  \
                waits: p50 2.0 ms, p99 4.0 ms, max 5.0 ms, 30 ms in all\n";
    assert!(person.asks("migrate status").contains(told));
}

#[test]
fn a_move_is_cancelled_and_tuned_by_name_or_as_the_only_one() {
    let mut person = Person::new();
    assert!(person.asks("migrate cancel").ends_with("error: no guest is being moved\na>"));
    assert!(
        person
            .asks("migrate set downtime 100")
            .ends_with("moves from now on: a downtime of at most 100 ms\na>")
    );
    person.host.migrations = alloc::vec![migration(Phase::PreCopy, 1, 10)];
    assert!(
        person.asks("migrate set bandwidth 80mbit").ends_with("the move of linux: at most 9.54 MiB/s\na>")
    );
    assert!(person.asks("migrate cancel").ends_with("the move of linux is being cancelled\na>"));
    person.host.migrations.push(crate::console::view::MigrationView {
        guest: "idle".into(),
        ..migration(Phase::PreCopy, 1, 10)
    });
    assert!(
        person
            .asks("migrate cancel")
            .ends_with("error: several guests are being moved; name one: linux, idle\na>")
    );
    assert!(person.asks("migrate cancel idle").ends_with("the move of idle is being cancelled\na>"));
    assert_eq!(
        person.host.asked,
        [
            "tune None Downtime(100ms)",
            "tune Some(\"linux\") Bandwidth(Some(10000000))",
            "cancel linux",
            "cancel idle"
        ]
    );
}

#[test]
fn an_arrival_is_told_above_the_line_that_is_being_typed() {
    let mut person = Person::new();
    person.types("vm");
    person.sees();
    person.host.notices.push_back(moved(Side::Target));
    person.host.notices.push_back(failure(Aftermath::Discarded));
    assert_eq!(
        person.sees(),
        "linux arrived from b: total 12.3 s, received 38.2 MiB, digest 0123456789abcdef, verified
migration of linux from b failed: b does not answer; what had arrived is discarded
a> vm"
    );
}

#[test]
fn a_move_takes_an_attached_terminal_back() {
    let mut person = Person::new();
    person.types("vm console linux\r");
    person.sees();
    person.host.notices.push_back(moved(Side::Source));
    let shown = person.sees();
    assert!(shown.starts_with("\n[detached from linux]\npages: "), "{shown}");
    assert!(shown.ends_with("verified\na>"), "{shown}");
}

#[test]
fn a_move_that_vanishes_does_not_hold_the_prompt() {
    let mut person = Person::new();
    person.types("migrate linux b\r");
    person.host.migrations.clear();
    person.waits(6_000);
    assert!(person.sees().ends_with("the move of linux is over, and nothing says how: see 'log'\na>"));
}

#[test]
fn a_lost_commit_is_explained_and_decided() {
    let mut person = Person::new();
    let remark = Remark::TargetForgot;
    person.host.notices.push_back(Notice::Migration { guest: "linux".into(), peer: "b".into(), remark });
    assert_eq!(
        person.sees(),
        "linux: b does not know whether it ran it: it was restarted, or was not asked
  before ('migrate recover linux HOST' asks another); decide:
  'migrate reclaim linux' if no other host runs it: it goes on here
  'migrate release linux' if another runs it: this host lets go of it
a>"
    );
    assert!(person.asks("migrate reclaim linux").ends_with("linux goes on here\na>"));
    assert!(person.asks("migrate release linx").contains("did you mean 'linux'?"));
    assert!(
        person
            .asks("migrate stauts linux")
            .contains("no guest named 'stauts'; did you mean 'migrate status'?")
    );
    assert_eq!(person.host.asked, ["Reclaim linux"]);
}

/// What is told of a lost host names the words that decide at the end where it is told, and no others.
#[test]
fn whoever_loses_the_other_host_is_told_which_words_decide() {
    let words = [
        "'migrate recover linux'",
        "'migrate reclaim linux'",
        "'migrate release linux'",
        "'migrate takeover linux'",
    ];
    for (remark, decide) in [
        (Remark::CommitUnknown, &words[1..3]),
        (Remark::CommitAwaited, &words[3..]),
        (Remark::TargetCutOff, &words[..2]),
        (Remark::SourceCutOff, &words[3..]),
        (Remark::TargetLost, &words[1..3]),
        (Remark::TargetForgot, &words[1..3]),
    ] {
        let notice = Notice::Migration { guest: "linux".into(), peer: "b".into(), remark };
        let mut text = String::new();
        super::super::report::notice(&notice, &mut text).unwrap();
        for word in words {
            assert_eq!(text.contains(word), decide.contains(&word), "{remark:?}: {word} in {text}");
        }
        assert!(text.lines().all(|line| line.len() <= 84), "{text}");
    }
}
