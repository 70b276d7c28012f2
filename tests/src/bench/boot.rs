//! From the kernel's entry to the shell: as a guest, and directly on the same machine.

use anyhow::{Context, Result};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::Plan;
use crate::config::GuestConfig;
use crate::figures::{span, value};
use crate::guest::LinuxFiles;
use crate::machine::{Kind, Spec};
use crate::{direct, guest, scratch};

/// Memory of the guest, and of the machine without a hypervisor.
const MEMORY_MIB: u64 = 128;
/// Nothing waits for a network here, so a second may be long.
const IPS: u64 = 100_000_000;
const LIMIT: f64 = 1.07;

/// From the loader's handoff to the first instruction of a guest that starts with the host.
const ENTRY_TICKS_MAX: f64 = 50e6;

/// Measures both, one after the other.
///
/// # Errors
/// One did not come to its shell.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let without = directly(kind).context("directly")?;
    let (entered, as_guest) = as_guest(kind).context("as a guest")?;
    let ratio = as_guest as f64 / without as f64;
    let million = |ticks: u64| format!("{:.0} M ticks", ticks as f64 / 1e6);
    Ok(vec![
        Row::reference("Linux, kernel entry to shell, directly", million(without)),
        Row::reference("Linux, kernel entry to shell, as a guest", million(as_guest)),
        Row::at_most("… as a guest / directly (QEMU/KVM 1.07)", ratio, LIMIT, ""),
        Row::at_most("UEFI handoff to the guest's first instruction", entered, ENTRY_TICKS_MAX, " ticks"),
    ])
}

fn directly(kind: Kind) -> Result<u64> {
    let linux = guest::linux(&guest::cache())?;
    let disk = scratch::directory("bench-direct-disk")?.join("disk.img");
    // The processor claims a frequency that the emulator does not keep.
    let frequency =
        if kind == Kind::Bochs { format!(" tsc_early_khz={}", IPS / 1_000) } else { String::new() };
    direct::disk(&disk, &linux, &format!("{}{frequency}", command_line()))?;
    let mut spec = Spec::new("bench-direct", &disk);
    (spec.cpus, spec.ips, spec.memory_mib) = (1, IPS, MEMORY_MIB as u32);
    let mut machine = kind.start(&spec)?;
    let entered = machine.serial().expect_line(direct::ENTERED, GUEST_TIMEOUT)?;
    let ready = machine.serial().expect_line(LinuxFiles::READY, GUEST_TIMEOUT)?;
    Ok(ticks(&ready, "tsc_ready")?.saturating_sub(ticks(&entered, "tsc")?))
}

/// Ticks from the handoff to its first instruction, and from there to its shell.
fn as_guest(kind: Kind) -> Result<(f64, u64)> {
    let mut config = GuestConfig::linux("linux", MEMORY_MIB);
    (config.command_line, config.start) = (command_line(), true);
    let mut plan = Plan::new("bench-boot", kind, 1).guest(0, config);
    plan.hosts[0].ips = IPS;
    let mut cluster = plan.start()?;
    cluster.wait_for_prompts()?;
    let host = &mut cluster.hosts[0];
    let ready = host.attach("linux", LinuxFiles::READY, GUEST_TIMEOUT)?;
    host.detach()?;
    let info = host.succeed("vm info linux")?;
    let entered = info.lines().find_map(|line| span(line.strip_prefix("entered")?.split("after").next()?));
    let entered = entered.with_context(|| format!("no first entry in: {info}"))?;
    // A guest's time stamp counter starts at zero.
    Ok((entered.as_secs_f64() * IPS as f64, ticks(&ready, "tsc_ready")?))
}

/// Without the data, whose computation has no exits and would only hide the difference.
fn command_line() -> String {
    format!("{} godwit.data_mib=0", LinuxFiles::COMMAND_LINE)
}

fn ticks(line: &str, name: &str) -> Result<u64> {
    let text = value(line, name).with_context(|| format!("no {name} in: {line}"))?;
    text.parse().with_context(|| line.to_owned())
}
