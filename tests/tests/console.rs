//! A person at the real console: keys over the serial line of a machine that needs no VMX.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use godwit_tests::cluster::{Cluster, Plan};
use godwit_tests::machine::{Availability, Kind};

const ANSWER: Duration = Duration::from_secs(60);

/// Two hosts with their prompts shown; or what is missing, by name.
fn hosts() -> Option<Cluster> {
    if let Availability::Missing(why) = Kind::QemuTcg.availability() {
        eprintln!("MISSING: {why}: the console was not tried");
        return None;
    }
    let mut cluster = Plan::new("console", Kind::QemuTcg, 2).start().unwrap();
    cluster.wait_for_prompts().unwrap();
    Some(cluster)
}

/// Types keys at the first host's console and waits for what they must lead to.
fn type_and_see(cluster: &mut Cluster, keys: &str, expected: &str) {
    let serial = cluster.hosts[0].machine.serial();
    serial.send(keys).unwrap();
    serial.expect(expected, ANSWER).unwrap();
}

#[test]
fn a_person_can_work_at_the_console() {
    let Some(mut cluster) = hosts() else { return };
    for (keys, expected) in [
        ("vers\t\r", "on a, up "),
        // The cursor keys edit and recall.
        ("vm lst\x1b[D\x1b[Di\r", "no guests: "),
        ("\x1b[A\x1b[A\r", "on a, up "),
        ("junk\x15mem\r", "hypervisor "),
        ("gone\x03", "^C"),
        ("vm st\t", "start  stop"),
        ("\x15migrat linux b\r", "did you mean 'migrate'?"),
        ("vm start linx\r", "no guest named 'linx'"),
        ("net\r", "10.0.0.1/24"),
        ("cpu\r", "guests cannot run here: "),
        ("pci\r", "e1000"),
        ("log 1 error\r", "nothing of that level in the log"),
        ("ping b\r", "10.0.0.2: 4 of 4 answered"),
        ("ping 10.0.0.99\r", "10.0.0.99: no answer to 1"),
        ("\x03", "10.0.0.99: 0 of 1 answered"),
        ("reboot\r", "restarting"),
    ] {
        type_and_see(&mut cluster, keys, expected);
    }
}
