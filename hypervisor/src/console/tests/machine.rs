//! Commands that look at the machine and the network.

use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;

use super::fake::FakeHost;
use super::person::Person;
use crate::console::PingEvent;
use crate::console::view::{GuestState, MigrationPort, MigrationView, Side, StreamView, VmxView};
use godwit_migration::Phase;

#[test]
fn memory_cpus_and_devices_are_shown() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("mem"),
        "a> mem
total          512 MiB
free           360 MiB
guests         128 MiB
files         12.0 MiB
hypervisor    24.0 MiB  heap 1.00 MiB of 8.00 MiB, 5.00 MiB to spare
stacks        80.0 KiB  of a CPU's 256 KiB at the most
a>"
    );
    assert_eq!(
        person.asks("cpu"),
        "a> cpu
Example CPU, time-stamp counter at 3500 MHz
guests can run here, with EPT, PML
CPU  APIC  STATE   IN GUESTS  HOST  IDLE  GUESTS
  0     0  online        0 %   7 %  93 %
  1     2  online       60 %   7 %  33 %  linux
a>"
    );
    assert_eq!(
        person.asks("pci"),
        "a> pci
ADDRESS       ID         KIND         DRIVER
0000:00:00.0  8086:100e  host bridge  -
0000:00:02.0  8086:100e  Ethernet     e1000
a>"
    );
}

#[test]
fn the_log_is_filtered_and_cannot_move_the_cursor() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("log"),
        "a> log\n[    1.234] INFO  link is up\n[    1.234] WARN  odd?[2J frame\na>"
    );
    assert_eq!(person.asks("log warn 5"), "a> log warn 5\n[    1.234] WARN  odd?[2J frame\na>");
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
        remote: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 7100),
        local_port: 49_152,
        state: "open".into(),
        queued_bytes: 1 << 20,
        unread_bytes: 80,
    });
    let shown = person.asks("net");
    assert!(shown.contains("migration  port 7100 is OPEN and UNAUTHENTICATED: whoever"), "{shown}");
    assert!(
        shown.ends_with(
            "STREAM WITH     PORT    QUEUED  UNREAD  STATE
10.0.0.2:7100  49152  1.00 MiB    80 B  open
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
    let round_trip = Duration::from_micros(830);
    person.host.pings.extend([
        PingEvent::Answer { sequence: 1, round_trip },
        PingEvent::Silence { sequence: 2 },
        PingEvent::Answer { sequence: 3, round_trip },
        PingEvent::Answer { sequence: 4, round_trip },
        PingEvent::Finished,
    ]);
    assert_eq!(
        person.sees(),
        "a> ping b
10.0.0.2: answer 1 in 830 us
10.0.0.2: no answer to 2
10.0.0.2: answer 3 in 830 us
10.0.0.2: answer 4 in 830 us
10.0.0.2: 3 of 4 answered
a>"
    );
    assert_eq!(person.host.asked, ["ping 10.0.0.2 4"]);
}

#[test]
fn ping_can_be_given_up() {
    let mut person = Person::new();
    person.types("ping 10.0.0.9\rversion\r");
    person.host.pings.push_back(PingEvent::Silence { sequence: 1 });
    assert_eq!(person.sees(), "a> ping 10.0.0.9\n10.0.0.9: no answer to 1\n");
    person.types("\x03");
    assert_eq!(person.sees(), "10.0.0.9: 0 of 1 answered\na>", "what was typed ahead is called off too");
    assert_eq!(person.host.asked, ["ping 10.0.0.9 4", "stop ping"]);
}

#[test]
fn a_restart_does_not_lose_guests_unasked() {
    let mut person = Person::new();
    assert_eq!(
        person.asks("reboot"),
        "a> reboot\nerror: linux would be lost; stop or move them first, or 'reboot force'\na>"
    );
    assert!(person.host.asked.is_empty());
    person.host.guests.iter_mut().for_each(|guest| guest.state = GuestState::Stopped);
    let kept = super::fake::migration(Phase::Spooling, 0, 0);
    person.host.migrations.push(MigrationView { side: Side::Spool, ..kept });
    assert!(person.asks("reboot").contains("error: pages of linux are kept here for b and would be lost; "));
    assert!(person.host.asked.is_empty());
    assert_eq!(person.asks("reboot force"), "a> reboot force\nrestarting\na>");
    assert_eq!(person.host.asked, ["reboot"]);
}
