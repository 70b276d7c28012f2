//! `clone`: a copy under another name, while the guest goes on.

use core::time::Duration;
use std::string::String;

use godwit_migration::Phase;

use super::fake::migration;
use super::migrate::{failure, moved};
use super::person::Person;
use crate::console::Notice;
use crate::console::view::{Aftermath, MigrationView, Remark, Side};

fn cloned() -> Notice {
    let Notice::Moved(mut report) = moved(Side::Source) else { panic!("that is what it says") };
    report.copy = Some("web".into());
    report.report.downtime.commit = Duration::ZERO;
    Notice::Moved(report)
}

fn cloning(phase: Phase) -> MigrationView {
    MigrationView { copy: Some("web".into()), ..migration(phase, 2, 30) }
}

#[test]
fn a_clone_shows_its_phases_and_ends_with_one_line() {
    let mut person = Person::new();
    person.types("clone linux b --name web\r");
    person.waits(20);
    for phase in [Phase::PreCopy, Phase::Verifying, Phase::Committing] {
        person.host.migrations = alloc::vec![cloning(phase)];
        person.waits(400);
    }
    person.host.migrations.clear();
    person.host.notices.push_back(cloned());
    assert_eq!(
        person.sees(),
        "a> clone linux b --name web
cloning linux to b as web; Ctrl-C comes back to the prompt, the clone goes on
connecting with b
pre-copy 2: sent 30.0 MiB, left 12.0 MiB, dirty 400K/s, wire 9.00M/s, 1.3 s
verifying: sent 30.0 MiB, left 12.0 MiB
committing: sent 30.0 MiB, left 12.0 MiB
pages: 23558 zero, 210 whole, 9000 compressed, 120 known, 11 unchanged; 41 while stopped
downtime: 41 ms = pause 1.0 ms + dirty log 2.0 ms + last pages 10 ms
  + devices 3.0 ms + running again 20 ms
digest: 0123456789abcdef at both ends
linux cloned to b as web: total 12.3 s, downtime 41 ms, rounds 4, sent 38.2 MiB, verified
a>"
    );
    assert_eq!(person.host.asked, ["clone linux b web []"]);
}

#[test]
fn a_copy_is_named_after_its_guest_unless_it_is_said_otherwise() {
    let mut person = Person::new();
    person.asks("clone linux b --downtime-limit 1s\x03");
    person.types("clone linux b --downtime-limit 1s\r\x03");
    assert_eq!(person.host.asked, ["clone linux b linux-clone [Downtime(1s)]"]);
    assert!(
        person
            .asks("clone linux b --name linux")
            .ends_with("error: the copy cannot be named 'linux': choose a name of its own with --name\na>")
    );
    assert!(person.asks("clone linx b").contains("did you mean 'linux'?"));
    assert!(person.asks("clone linux c").contains("no host named 'c'"));
    assert_eq!(person.host.asked.len(), 1, "nothing was begun");
}

#[test]
fn a_clone_is_seen_tuned_and_cancelled_as_a_move_is() {
    let mut person = Person::new();
    person.types("clone linux b --name web\r");
    person.host.migrations = alloc::vec![cloning(Phase::PreCopy)];
    person.waits(20);
    person.types("\x03");
    let shown = person.sees();
    assert!(
        shown.ends_with(
            "the clone of linux to b goes on: 'migrate status' shows it, 'migrate cancel linux' ends it\na>"
        ),
        "{shown}"
    );
    let status = person.asks("migrate status");
    assert!(status.contains("\nlinux to b as web: clone, pre-copy, round 2, for 4.0 s\n"), "{status}");
    let limit = person.asks("migrate set bandwidth 80mbit");
    assert!(limit.ends_with("the clone of linux: at most 9.54 MiB/s\na>"), "{limit}");
    let cancelled = person.asks("migrate cancel");
    assert!(cancelled.ends_with("the clone of linux is being cancelled\na>"), "{cancelled}");
}

#[test]
fn who_is_attached_to_a_guest_stays_so_when_it_has_been_cloned() {
    let mut person = Person::new();
    person.types("vm console linux\r");
    person.sees();
    person.host.notices.push_back(cloned());
    person.host.guest_writes("linux", "still here");
    let shown = person.sees();
    assert!(shown.contains("still here") && !shown.contains("detached"), "{shown}");
}

#[test]
fn a_clone_that_fails_or_hangs_says_that_the_guest_goes_on() {
    let told = |notice: &Notice| {
        let mut text = String::new();
        super::super::report::notice(notice, &mut text).unwrap();
        text
    };
    let Notice::MigrationFailed(mut failed) = failure(Aftermath::GoesOn) else { panic!("it failed") };
    failed.copy = Some("web".into());
    assert_eq!(
        told(&Notice::MigrationFailed(failed)),
        "clone of linux to b as web failed: b does not answer; the guest goes on here (knock)\n"
    );
    let remark = Remark::CopyUnknown;
    assert_eq!(
        told(&Notice::Migration { guest: "linux".into(), peer: "b".into(), remark }),
        "linux: b was told to run the copy and did not answer; linux goes on here, and\n  b is asked until it does \
         ('migrate cancel linux' ends that)\n"
    );
}
