//! The image under genuine KVM: hosts that are nested hypervisors, cards of both kinds, and guests that move between two of
//! them. One more without guests only shows that more run beside each other, and is turned off then.
//!
//! Host a has a named processor model without PML, host b the processor that KVM runs on. A guest that starts at a may move
//! to b, which has every feature of the model and more, and back, since it goes on seeing what it saw first.
//!
//! KVM checks what Bochs forgives, above all stale translations, and offers less. Its own log is the last check.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::linux::{LINUX, quiet_kernel, run, start, uptime};
use super::moves::{SWEEPER, guest_sweeps};
use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::host::COMMAND_TIMEOUT;
use crate::machine::{Kind, Nic, kvm_log};
use crate::suite::{Check, Group};

const SWEEP_TIMEOUT: Duration = Duration::from_secs(300);
/// In Bochs a MiB on the wire takes some ten seconds of a processor of one's own.
const MOVE_TIMEOUT: Duration = Duration::from_secs(1_200);
/// RAM of a host: firmware, hypervisor and one guest of 128 MiB.
const HOST_MEMORY_MIB: u32 = 384;
/// RAM of a host without guests.
const SMALL_HOST_MEMORY_MIB: u32 = 192;
/// Hosts that stay; the other is turned off once it has been seen.
const STAYING: usize = 2;
/// QEMU leaves out what the processor lacks.
const WITHOUT_PML: &str = "Skylake-Client-noTSX-IBRS,+vmx,vmx-pml=off";

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "nested", kind, weight: 1, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut linux = GuestConfig::linux(LINUX, 128);
    // Less to move: the data is incompressible, and so are the kernel's and the RAM disk's images left in free memory.
    linux.command_line.push_str(" godwit.data_mib=1 init_on_free=1");
    let sweeper = GuestConfig { memory_mib: 32, vcpus: 2, ..GuestConfig::bare(SWEEPER, "pair 32 800000") };
    let mut plan = Plan::new("nested", kind, STAYING + 1).guest(0, linux).guest(0, sweeper);
    for (index, host) in plan.hosts.iter_mut().enumerate() {
        host.memory_mib = if index < STAYING { HOST_MEMORY_MIB } else { SMALL_HOST_MEMORY_MIB };
        // In Bochs all of them share one, where a host's second only waits for its first: a move takes half as long again.
        host.cpus = if kind == Kind::KvmInBochs { 1 } else { 2 };
    }
    plan.hosts[1].nic = Some(Nic::VirtioNet);
    plan.hosts[0].cpu_model = Some(WITHOUT_PML.to_owned());
    plan
}

const CHECKS: &[Check] = &[
    Check { name: "guests can run, with PML and without", run: capabilities },
    Check { name: "the console helps and refuses", run: console },
    Check { name: "an e1000 and a virtio-net card reach each other", run: pings },
    Check { name: "one host more answers, on its console and on the wire", run: one_more },
    Check { name: "Linux boots to its shell", run: |cluster| start(&mut cluster.hosts[0]) },
    Check { name: "Linux moves without PML while a program rewrites memory", run: linux_moves },
    Check { name: "a bare-metal guest that rewrites memory moves, and back with PML", run: sweeper_moves },
    Check { name: "KVM's log holds no complaint", run: quiet_kvm },
];

fn capabilities(cluster: &mut Cluster) -> Result<()> {
    for (index, has_pml) in [(0, false), (1, true)] {
        let text = cluster.hosts[index].succeed("cpu")?;
        let guests = text.lines().find(|line| line.contains("guests can run here")).context(text.clone())?;
        println!("     {}: {guests}", cluster.hosts[index].name);
        ensure!(guests.contains("EPT dirty flags") && guests.contains("PML") == has_pml, "{guests}");
    }
    Ok(())
}

fn console(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[1];
    let text = host.succeed("help")?;
    ensure!(text.contains("migrate"), "{text}");
    let text = host.command("vm strat linux", COMMAND_TIMEOUT)?;
    ensure!(text.contains("did you mean 'start'"), "{text}");
    Ok(())
}

fn pings(cluster: &mut Cluster) -> Result<()> {
    for (index, other) in [(0, "b"), (1, "a")] {
        let text = cluster.hosts[index].succeed(&format!("ping {other}"))?;
        ensure!(text.contains("4 of 4 answered"), "{text}");
    }
    Ok(())
}

fn one_more(cluster: &mut Cluster) -> Result<()> {
    // Whatever comes of it, it is turned off, not to take its share of the one processor.
    let mut more = cluster.hosts.split_off(STAYING);
    for host in &mut more {
        let text = host.succeed("version")?;
        ensure!(text.contains(&format!("on {}, up ", host.name)), "{text}");
        let text = host.succeed("ping a")?;
        ensure!(text.contains("4 of 4 answered"), "{text}");
    }
    let text = cluster.hosts[1].succeed("ping c")?;
    ensure!(text.contains("4 of 4 answered"), "{text}");
    Ok(())
}

fn linux_moves(cluster: &mut Cluster) -> Result<()> {
    for host in &mut cluster.hosts {
        host.succeed("migrate set downtime 2000ms")?;
    }
    let [a, b] = &mut cluster.hosts[..] else { anyhow::bail!("two hosts are wanted") };
    let output = run(a, "pattern start 1 10", SWEEP_TIMEOUT)?;
    ensure!(output.contains("pattern: started"), "{output}");
    let before = uptime(a)?;
    let moved = a.migrate(LINUX, "b", MOVE_TIMEOUT)?.moved()?;
    println!("     {}", moved.line);
    b.expect_state(LINUX, "running")?;
    let after = uptime(b)?;
    ensure!(after >= before, "uptime was {before} and is {after}");
    let output = run(b, "pattern check", SWEEP_TIMEOUT)?;
    ensure!(output.contains("violations=0"), "{output}");
    let output = run(b, "verify", SWEEP_TIMEOUT)?;
    ensure!(output.contains("verify: ok"), "{output}");
    quiet_kernel(b)?;
    b.succeed("vm stop linux").map(|_| ())
}

fn sweeper_moves(cluster: &mut Cluster) -> Result<()> {
    cluster.hosts[0].succeed(&format!("vm start {SWEEPER}"))?;
    guest_sweeps(&mut cluster.hosts[0], SWEEPER)?;
    for (from, to, name) in [(0, 1, "b"), (1, 0, "a")] {
        let moved = cluster.hosts[from].migrate(SWEEPER, name, MOVE_TIMEOUT)?.moved()?;
        println!("     {}", moved.line);
        cluster.hosts[to].expect_state(SWEEPER, "running")?;
        guest_sweeps(&mut cluster.hosts[to], SWEEPER)?;
    }
    // It never halts, and would keep the processor from whoever reads the log.
    cluster.hosts[0].succeed(&format!("vm stop {SWEEPER}")).map(|_| ())
}

fn quiet_kvm(cluster: &mut Cluster) -> Result<()> {
    for host in &mut cluster.hosts {
        let log = host.machine.kvm_log()?;
        let complaints = kvm_log::complaints(&log);
        ensure!(complaints.is_empty(), "under host {}:\n{}", host.name, complaints.join("\n"));
    }
    Ok(())
}
