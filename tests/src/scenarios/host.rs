//! One host with a network and no guests: shell, machine, network.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{LAB_ADDRESS, LAB_NAME, PING_TIMEOUT, answers_pings, lab_peer, strangers};
use crate::cluster::{Cluster, Plan};
use crate::host::COMMAND_TIMEOUT;
use crate::machine::Kind;
use crate::suite::{Check, Group};
use crate::switch::Conditions;

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "host", kind, weight: 1, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut plan = Plan::new("host", kind, 1);
    plan.hosts[0].config.peers.push((LAB_NAME.to_owned(), LAB_ADDRESS.to_string()));
    plan
}

const CHECKS: &[Check] = &[
    Check { name: "help names the commands", run: help },
    Check { name: "a slip gets a useful answer", run: slips },
    Check { name: "the line editor edits, recalls and completes", run: editing },
    Check { name: "processors, memory, devices and log are shown", run: machine },
    Check { name: "the network is shown, and that the migration port is open", run: network },
    Check { name: "it answers pings", run: |cluster| answers_pings(cluster, 0, 10) },
    Check { name: "it pings others", run: pings },
    Check { name: "it answers pings on a slow and lossy wire", run: bad_wire },
    Check { name: "it survives a cut wire", run: cut_wire },
    Check { name: "it survives strangers on the migration port", run: strangers::on_the_port },
    Check {
        name: "it turns away who would leave pages with it and means harm, and says why",
        run: strangers::with_pages,
    },
];

fn help(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].succeed("help")?;
    for command in ["vm", "migrate", "net", "mem", "cpu", "pci", "log", "reboot"] {
        ensure!(text.lines().any(|line| line.trim_start().starts_with(command)), "no {command} in:\n{text}");
    }
    Ok(())
}

fn slips(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    for (typed, answer) in [
        ("migrat linux b", "did you mean 'migrate'"),
        ("vm strat linux", "did you mean 'start'"),
        ("vm start nobody", "no guest named 'nobody'"),
        ("migrate nobody lab", "no guest named 'nobody'"),
    ] {
        let text = host.command(typed, COMMAND_TIMEOUT)?;
        ensure!(text.contains("error: ") && text.contains(answer), "{typed}: {text}");
    }
    Ok(())
}

fn editing(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    // Left arrow, backspace: "heXlp" with the X removed.
    let text = host.command("heXlp\x1b[D\x1b[D\x7f", COMMAND_TIMEOUT)?;
    ensure!(text.contains("migrate"), "an edited line was not understood: {text}");
    let text = host.command("\x1b[A", COMMAND_TIMEOUT)?;
    ensure!(text.contains("migrate"), "the arrow key did not recall the last line: {text}");
    let text = host.command("versi\t", COMMAND_TIMEOUT)?;
    ensure!(text.contains("Godwit"), "Tab did not complete: {text}");
    Ok(())
}

fn machine(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    let text = host.succeed("cpu")?;
    ensure!(text.contains("guests can run here"), "{text}");
    let online = text.lines().filter(|line| line.contains("online")).count();
    ensure!(online == 2, "two processors, but:\n{text}");
    let text = host.succeed("mem")?;
    ensure!(text.contains("free") && text.contains("hypervisor"), "{text}");
    let text = host.succeed("pci")?;
    let card = text.lines().find(|line| line.contains("network controller")).context("no network card")?;
    ensure!(!card.trim_end().ends_with('-'), "no driver has taken the card: {card}");
    let text = host.succeed("log 50")?;
    ensure!(text.lines().count() > 1, "the log is empty: {text}");
    Ok(())
}

fn network(cluster: &mut Cluster) -> Result<()> {
    let text = cluster.hosts[0].succeed("net")?;
    for part in ["b0:c4:20:00:00:01", "10.0.0.1/24", "up", "7100", "OPEN and UNAUTHENTICATED"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    Ok(())
}

fn pings(cluster: &mut Cluster) -> Result<()> {
    let mut peer = lab_peer(cluster);
    let host = &mut cluster.hosts[0];
    // The peer is new on the wire, while the host may remember an earlier one by that name and not ask for it.
    // smoltcp drops an answer to a neighbour whose address it has yet to find, so the peer finds it first.
    peer.ping(host.address, PING_TIMEOUT).context("before the host asks")?;
    let text = std::thread::scope(|scope| {
        let command = scope.spawn(|| host.command("ping lab", COMMAND_TIMEOUT));
        while !command.is_finished() {
            peer.serve(Duration::from_millis(50));
        }
        command.join().map_err(|_| anyhow::anyhow!("the thread that types has panicked"))?
    })?;
    ensure!(text.contains("4 of 4 answered"), "{text}");
    Ok(())
}

fn bad_wire(cluster: &mut Cluster) -> Result<()> {
    let port = cluster.hosts[0].port.context("no port")?;
    let delay = Duration::from_millis(50);
    let conditions = Conditions { loss: 0.05, delay, bandwidth_bits: Some(1_000_000), cut: false };
    cluster.switch.set(port, conditions);
    let mut peer = lab_peer(cluster);
    let address = cluster.hosts[0].address;
    let attempts = 20;
    let times: Vec<_> =
        (0..attempts).filter_map(|_| peer.ping(address, Duration::from_secs(3)).ok()).collect();
    cluster.switch.mend(port);
    ensure!(times.len() >= attempts * 3 / 4, "{} of {attempts} answered", times.len());
    ensure!(times.iter().all(|time| *time >= 2 * delay), "faster than the wire: {times:?}");
    Ok(())
}

fn cut_wire(cluster: &mut Cluster) -> Result<()> {
    let port = cluster.hosts[0].port.context("no port")?;
    let address = cluster.hosts[0].address;
    let mut peer = lab_peer(cluster);
    cluster.switch.cut(port);
    let cut = peer.ping(address, Duration::from_secs(1));
    cluster.switch.mend(port);
    ensure!(cut.is_err(), "a ping crossed a cut wire");
    peer.ping(address, PING_TIMEOUT).context("after the wire was mended")?;
    Ok(())
}
