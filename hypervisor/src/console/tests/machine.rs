//! Commands that look at the machine and the network.

use core::net::{Ipv4Addr, SocketAddrV4};

use super::fake::FakeHost;
use super::person::Person;
use crate::console::view::{MigrationPort, StreamView, VmxView};

#[test]
fn memory_cpus_and_devices_are_shown() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("mem"),
        "a> mem
total          512 MiB
free           360 MiB
guests         128 MiB
hypervisor    24.0 MiB  heap 1.00 MiB of 8.00 MiB
node 0         512 MiB  360 MiB free
a>"
    );
    assert_eq!(
        person.asks("cpu"),
        "a> cpu
Example CPU, time-stamp counter at 3500 MHz
VMX is on: EPT, PML
CPU  APIC  STATE   BUSY  GUESTS
  0     0  online   7 %
  1     2  online   7 %  linux
a>"
    );
    assert_eq!(
        person.asks("pci"),
        "a> pci
ADDRESS       ID         KIND         DRIVER
0000:00:00.0  8086:100e  host bridge  -
0000:00:02.0  8086:100e  Ethernet     e1000
0000:00:1f.0  8086:100e  class ff01   -
a>"
    );
}

#[test]
fn the_log_is_filtered_and_cannot_move_the_cursor() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("log"),
        "a> log\n[    1.234] INFO  net: link is up\n[    1.234] WARN  net: odd?[2J frame\na>"
    );
    assert_eq!(person.asks("log warn 5"), "a> log warn 5\n[    1.234] WARN  net: odd?[2J frame\na>");
    assert_eq!(person.asks("log error"), "a> log error\nnothing of that level in the log\na>");
}

#[test]
fn the_network_says_whether_the_migration_port_is_open() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("net"),
        "a> net
card       e1000, 52:54:00:00:00:01
link       up, 1000 Mbit/s
address    10.0.0.1/24
sent       12 frames, 2.93 KiB, 0 dropped
received   20 frames, 8.79 KiB, 1 dropped
migration  closed: no guest can come here; 'listen = true' under [migration] opens it
streams    none
a>"
    );
    let net = person.host.net.as_mut().unwrap();
    net.migration_port = MigrationPort::Open(7100);
    net.streams.push(StreamView {
        purpose: "linux to b".into(),
        remote: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7100),
        state: "established",
        sent_bytes: 1 << 20,
        received_bytes: 80,
    });
    let shown = person.asks("net");
    assert!(shown.contains("migration  port 7100 is OPEN and UNAUTHENTICATED: whoever"), "{shown}");
    assert!(
        shown.ends_with(
            "STREAM      WITH           STATE            SENT  RECEIVED
linux to b  10.0.0.2:7100  established  1.00 MiB      80 B
a>"
        ),
        "{shown}"
    );
}

#[test]
fn without_a_network_or_vmx_it_says_what_is_missing() {
    let vmx = VmxView::Unavailable("this CPU has no VMX".into());
    let mut person = Person::unread(FakeHost { net: None, vmx, ..FakeHost::default() });
    person.sees();
    let answer = "error: there is no network: no network card was found\na>";
    for line in ["net", "ping 10.0.0.2", "ping nobody"] {
        assert!(person.asks(line).ends_with(answer), "{line}");
    }
    assert!(person.asks("vm list").contains("\nguests cannot run here: this CPU has no VMX\nNAME"));
    assert!(person.asks("cpu").contains("\nguests cannot run here: this CPU has no VMX\nCPU"));
}

#[test]
fn ping_shows_answers_and_counts() {
    let mut person = Person::new();
    person.types("ping b\r");
    person.waits(3_000);
    assert_eq!(
        person.sees(),
        "a> ping b
10.0.0.2: answer 1 in 830 us
10.0.0.2: answer 2 in 830 us
10.0.0.2: answer 3 in 830 us
10.0.0.2: answer 4 in 830 us
10.0.0.2: 4 of 4 answered
a>"
    );
}

#[test]
fn ping_gives_up_and_can_be_given_up() {
    let mut person = Person::unread(FakeHost { answers_pings: false, ..FakeHost::default() });
    person.sees();
    person.types("ping 10.0.0.9\rversion\r");
    person.waits(2_100);
    assert_eq!(person.sees(), "a> ping 10.0.0.9\n10.0.0.9: no answer to 1 within 2.0 s\n");
    person.types("\x03");
    assert_eq!(person.sees(), "10.0.0.9: 0 of 1 answered\na>", "what was typed ahead is called off too");
}

#[test]
fn a_restart_does_not_lose_guests_unasked() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("reboot"),
        "a> reboot\nerror: linux would be lost; stop or move them first, or 'reboot force'\na>"
    );
    assert!(person.host.asked.is_empty());
    assert_eq!(person.asks("reboot force"), "a> reboot force\nrestarting\na>");
    assert_eq!(person.host.asked, ["reboot"]);
}
