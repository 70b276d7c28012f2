//! Machines that lack something: VMX, a network card, a configuration that can be read. The host comes up to its shell
//! and says what is missing.

use anyhow::{Result, ensure};

use super::{PING_TIMEOUT, answers_pings, lab_peer};
use crate::cluster::{BOOT_TIMEOUT, Cluster, Plan};
use crate::config::GuestConfig;
use crate::host::COMMAND_TIMEOUT;
use crate::machine::{Kind, Nic, OnReset};
use crate::peer::PeerError;
use crate::suite::{Check, Group};

/// The name of a host whose configuration does not name it.
const DEFAULT_NAME: &str = "godwit";

pub(super) fn groups() -> Vec<Group> {
    let kind = Kind::QemuTcg;
    vec![
        Group { name: "without-vmx", kind, weight: 1, plan: without_vmx, checks: WITHOUT_VMX },
        Group { name: "without-configuration", kind, weight: 1, plan: misconfigured, checks: MISCONFIGURED },
    ]
}

fn without_vmx(kind: Kind) -> Plan {
    let mut plan = Plan::new("without-vmx", kind, 2).guest(0, GuestConfig::bare("hello", "hello"));
    plan.hosts[0].config.migration = None;
    plan.hosts[0].on_reset = OnReset::Restart;
    plan.hosts[1].nic = Some(Nic::VirtioNet);
    plan
}

fn misconfigured(kind: Kind) -> Plan {
    let mut plan = Plan::new("misconfigured", kind, 1);
    let host = &mut plan.hosts[0];
    host.raw_config = Some("[host]\nname = \"a\"\n\n[network]\nadress = \"10.0.0.1/24\"\n".to_owned());
    host.config.name = DEFAULT_NAME.to_owned();
    host.nic = None;
    plan
}

const WITHOUT_VMX: &[Check] = &[
    Check { name: "it says that guests cannot run, and why", run: says_why },
    Check { name: "starting a guest is refused with the reason", run: refuses_guests },
    Check { name: "both processors are up", run: processors },
    Check { name: "a person can work at the console", run: typing },
    Check { name: "the virtio card of the other host is driven", run: virtio_card },
    Check { name: "both answer pings", run: pings },
    Check { name: "the migration port is closed unless asked for", run: closed_port },
    // Here, because Bochs 2.7 with two processors loses its clock in a reset.
    Check { name: "reboot restarts the machine", run: reboot },
];

/// Keys, and what they must lead to. The cursor keys edit and recall.
const KEYS: &[(&str, &str)] = &[
    ("vers\t\r", "on a, up "),
    ("vm lst\x1b[D\x1b[Di\r", "hello"),
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
];

const MISCONFIGURED: &[Check] = &[
    Check { name: "it names file, line and key, and what is expected", run: names_the_mistake },
    Check { name: "it says that there is no network", run: no_network },
];

fn says_why(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].succeed("cpu")?;
    ensure!(text.contains("guests cannot run here: ") && text.contains("VMX"), "{text}");
    Ok(())
}

fn refuses_guests(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].command("vm start hello", COMMAND_TIMEOUT)?;
    ensure!(text.contains("error: ") && text.contains("VMX"), "{text}");
    Ok(())
}

fn processors(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].succeed("cpu")?;
    let online = text.lines().filter(|line| line.contains("online")).count();
    ensure!(online == 2, "two processors, but:\n{text}");
    Ok(())
}

fn typing(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    for (keys, expected) in KEYS {
        host.serial().write(keys.as_bytes())?;
        host.serial().expect(expected, COMMAND_TIMEOUT)?;
    }
    host.wait_for_prompt(COMMAND_TIMEOUT).map(|_| ())
}

fn pings(cluster: &mut Cluster) -> Result<()> {
    [0, 1].into_iter().try_for_each(|index| answers_pings(cluster, index, 10))
}

fn closed_port(cluster: &mut Cluster) -> Result<()> {
    let mut peer = lab_peer(cluster);
    let outcome = peer.connect(cluster.hosts[0].address, 7_100, PING_TIMEOUT);
    ensure!(matches!(outcome, Err(PeerError::Reset)), "{outcome:?}");
    let text = cluster.hosts[0].succeed("net")?;
    ensure!(text.contains("closed"), "{text}");
    Ok(())
}

fn reboot(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.serial().send_line("reboot")?;
    host.serial().expect("restarting", COMMAND_TIMEOUT)?;
    host.wait_for_prompt(BOOT_TIMEOUT)?;
    answers_pings(cluster, 0, 3)
}

fn virtio_card(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[1].succeed("net")?;
    ensure!(text.contains("virtio") && text.contains("b0:c4:20:00:00:02"), "{text}");
    Ok(())
}

fn names_the_mistake(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].serial().text();
    for part in ["godwit.toml", "5", "adress", "address"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

fn no_network(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].command("net", COMMAND_TIMEOUT)?;
    ensure!(text.contains("network") || text.contains("card"), "{text}");
    Ok(())
}
