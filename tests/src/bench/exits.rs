//! Round trips through VM exits, as the bare-metal guest sees them.

use anyhow::{Context, Result, ensure};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::Plan;
use crate::config::GuestConfig;
use crate::figures::value;
use crate::machine::Kind;
use crate::suite::eventually;

/// The name in the guest's output, the figure, its limit in ticks.
const LOOPS: [(&str, &str, f64); 4] = [
    ("cpuid", "CPUID exit (bare transition 75, Linux KVM 1,049)", 250.0),
    ("rdmsr", "RDMSR exit (Linux KVM 1,171)", 300.0),
    ("port", "port write to a device model (QEMU/KVM 5,231)", 600.0),
    ("apic", "local APIC read by MMIO (QEMU/KVM 7,577)", 1_500.0),
];
const GUEST: &str = "bench";

/// Measures all of them in one guest.
///
/// # Errors
/// The host or the guest did not do what it should.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let mut cluster =
        Plan::new("bench-exits", kind, 1).guest(0, GuestConfig::bare(GUEST, "bench")).start()?;
    cluster.wait_for_prompts()?;
    let host = &mut cluster.hosts[0];
    host.succeed(&format!("vm start {GUEST}"))?;
    // Nobody looks at the console while the guest measures.
    eventually(GUEST_TIMEOUT, || {
        let (state, row) = host.guest_state(GUEST)?.context("it is not listed")?;
        ensure!(state != "running" && state != "starting", "it has not ended: {row}");
        Ok(())
    })?;
    host.attach(GUEST, "", GUEST_TIMEOUT)?;
    let rows = LOOPS.iter().map(|(name, figure, limit)| {
        let line = host.serial().expect_line(&format!("bench {name} "), GUEST_TIMEOUT)?;
        let ticks = |name: &str| -> Result<f64> {
            let text = value(&line, name).with_context(|| line.clone())?;
            text.parse().with_context(|| line.clone())
        };
        Ok(Row::at_most(figure, ticks("median")?, *limit, " ticks").with_spread(ticks("min")?, ticks("max")?))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    host.detach()?;
    Ok(rows)
}
