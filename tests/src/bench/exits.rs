//! Round trips through VM exits, as the bare-metal guest sees them.

use anyhow::{Context, Result, ensure};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::Plan;
use crate::config::GuestConfig;
use crate::machine::Kind;

/// Behaviour of the guest, the name in its output, the figure, its limit in ticks.
const LOOPS: [(&str, &str, &str, f64); 4] = [
    ("cpuid-loop", "cpuid", "CPUID exit (bare transition 75, Linux KVM 1,049)", 250.0),
    ("rdmsr-loop", "rdmsr", "RDMSR exit (Linux KVM 1,171)", 300.0),
    ("port-loop", "port", "port write to a device model (QEMU/KVM 5,231)", 600.0),
    ("apic-loop", "apic", "local APIC read by MMIO (QEMU/KVM 7,577)", 1_500.0),
];

/// Measures all of them on one boot.
///
/// # Errors
/// The host or a guest did not do what it should.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let mut plan = Plan::new("bench-exits", kind, 1);
    for (behaviour, ..) in LOOPS {
        plan = plan.guest(0, GuestConfig::bare(behaviour, behaviour));
    }
    let mut cluster = plan.start()?;
    cluster.wait_for_prompts()?;
    let host = &mut cluster.hosts[0];
    let mut rows = Vec::new();
    for (behaviour, name, figure, limit) in LOOPS {
        host.succeed(&format!("vm start {behaviour}"))?;
        let line = host.attach(behaviour, &format!("{name}: "), GUEST_TIMEOUT)?;
        host.detach()?;
        ensure!(line.contains("mean"), "{line}");
        let mean = line.split("mean ").nth(1).and_then(|rest| rest.split(' ').next());
        let ticks: f64 = mean.context("no mean")?.parse().with_context(|| line.clone())?;
        rows.push(Row::at_most(figure, ticks, limit, " ticks"));
        // It may have ended by itself.
        host.command(&format!("vm stop {behaviour}"), GUEST_TIMEOUT)?;
    }
    Ok(rows)
}
