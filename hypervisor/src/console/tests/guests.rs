//! `vm`, and attaching to a guest.

use alloc::vec;

use super::fake::log_line;
use super::person::Person;
use crate::console::Notice;
use crate::console::view::GuestState;

#[test]
fn guests_are_listed_and_shown() {
    let mut person = Person::new();
    person.host.guests[1].reason = Some("powered off".into());
    assert_eq!(
        person.asks("vm list"),
        "a> vm list
NAME   STATE     MEMORY  VCPUS  CPU  UPTIME  EXITS
linux  running  128 MiB      1    1  12.3 s   4711
idle   stopped  128 MiB      1    -  12.3 s   4711  powered off
a>"
    );
    assert_eq!(
        person.asks("vm info idle"),
        "a> vm info idle
name          idle
state         stopped: powered off
memory        128 MiB
virtual CPUs  1
uptime        12.3 s
entered       2.5 s after the loader's handoff
kernel        vmlinuz
command line  console=ttyS0 quiet
VM exits      4711
  external interrupt            4000
  CPUID                          711
a>"
    );
    person.host.guests.clear();
    assert_eq!(
        person.asks("vm list"),
        "a> vm list\nno guests: godwit.toml names none, and none has arrived\na>"
    );
}

#[test]
fn a_guest_whose_memory_is_still_arriving_shows_what_is_missing_and_who_waits() {
    let mut person = Person::new();
    let guest = &mut person.host.guests[0];
    (guest.absent_pages, guest.arrived_from) = (1_280, Some("b".into()));
    guest.waits = vec![(0, 0x123_4000)];
    let shown = person.asks("vm info linux");
    assert!(
        shown.contains(
            "arrived from  b
absent pages  1280 (5.00 MiB) still to come
waits         virtual CPU 0 for the page at guest-physical 0x1234000
VM exits"
        ),
        "{shown}"
    );
    person.host.guests[0].absent_are_lost = true;
    assert!(person.asks("vm info linux").contains("absent pages  1280 (5.00 MiB) lost"));
}

#[test]
fn a_guests_life_is_changed_and_refusals_say_why() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("vm start linux"),
        "a> vm start linux\nerror: cannot start linux: it is running\na>"
    );
    assert!(person.asks("vm pause linux").ends_with("linux is paused; 'vm resume linux' lets it go on\na>"));
    assert!(person.asks("vm resume linux").ends_with("linux goes on\na>"));
    assert!(person.asks("vm stop linux").ends_with("linux is stopped\na>"));
    assert_eq!(person.host.guests[0].state, GuestState::Stopped);
}

#[test]
fn attaching_shows_the_last_lines_and_the_way_back() {
    let mut person = Person::new();
    person.host.guest_writes("linux", "[    0.000000] Linux version 6.1\r\nlogin: ");
    person.sees();
    person.types("vm console linux\r");
    assert_eq!(
        person.sees(),
        "a> vm console linux
[linux is running; Ctrl-] then . comes back]
[    0.000000] Linux version 6.1
login:"
    );
    person.types("root\r\x03");
    assert_eq!(person.host.typed, b"root\r\x03");
    person.host.guest_writes("linux", "root\r\n# ");
    assert_eq!(person.sees(), "login: root\n#");
    person.types("\x1d.");
    assert_eq!(person.sees(), "#\n[detached from linux]\na>");
    person.types("vm console linux\r");
    assert!(
        person.sees().ends_with("Linux version 6.1\nlogin: root\n#"),
        "what came while attached is kept too"
    );
}

#[test]
fn the_escape_can_be_sent_and_explained() {
    let mut person = Person::new();
    person.types("vm console linux\r");
    person.sees();
    person.types("\x1d\x1d");
    assert_eq!(person.host.typed, b"\x1d");
    person.types("\x1dx");
    assert_eq!(person.sees(), "\n[Ctrl-] then . comes back, Ctrl-] twice sends one]\n");
    person.types("\x1dq");
    assert!(person.sees().ends_with("\n[detached from linux]\na>"));
}

#[test]
fn the_way_back_works_when_the_guest_takes_nothing() {
    let mut person = Person::new();
    person.host.appetite = 0;
    person.types("vm console linux\r");
    for _ in 0..10 {
        person.types(&"x".repeat(100));
    }
    person.types("\x1d.");
    assert!(person.sees().ends_with("[detached from linux]\na>"));
}

#[test]
fn what_happens_meanwhile_is_told_on_the_way_back() {
    let mut person = Person::new();
    person.types("vm console linux\r");
    person.sees();
    person.host.log_lines.push_back(log_line(log::Level::Warn, "link is down"));
    person.host.notices.push_back(Notice::GuestEnded { guest: "idle".into(), reason: "powered off".into() });
    assert_eq!(person.sees(), "", "nothing of the host comes between the guest's output");
    person.types("\x1d.");
    assert_eq!(
        person.sees(),
        "\n[detached from linux]\nidle ended: powered off\n[1 log lines came meanwhile: 'log' shows them]\na>"
    );
}

#[test]
fn a_guest_that_ends_gives_the_terminal_back() {
    let mut person = Person::new();
    person.types("vm console linux\r");
    person.sees();
    person.host.guest_writes("linux", "reboot: Power down\r\n");
    person.host.notices.push_back(Notice::GuestEnded { guest: "linux".into(), reason: "powered off".into() });
    assert_eq!(person.sees(), "reboot: Power down\n\n[detached from linux]\nlinux ended: powered off\na>");
}
