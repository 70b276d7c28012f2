//! From the kernel's entry to the shell: as a guest, and directly on the same machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{GUEST_TIMEOUT, Row};
use crate::cluster::Plan;
use crate::config::GuestConfig;
use crate::figures::{Exits, span, value};
use crate::guest::LinuxFiles;
use crate::host::{GUEST_PROMPT, Host};
use crate::machine::kvm_exits::KvmExits;
use crate::machine::{Kind, Machine, Spec};
use crate::suite::eventually;
use crate::{direct, guest, scratch};

/// Memory of the guest, and of the machine without a hypervisor.
const MEMORY_MIB: u64 = 256;
/// Nothing waits for a network here, so a second may be long.
const IPS: u64 = 100_000_000;
const LIMIT: f64 = 1.07;
const GUEST: &str = "linux";

/// From the loader's handoff to the first instruction of a guest that starts with the host.
const ENTRY_TICKS_MAX: f64 = 50e6;

/// Exits of the boot as a guest in parts of those of KVM.
const EXITS_RATIO_MAX: f64 = 0.5;
/// By its own clock the guest has done by then what its shell still had to do.
const SETTLED: Duration = Duration::from_secs(3);
/// Then its exits are counted for at least so long.
const IDLE: Duration = Duration::from_secs(5);

/// Measures both, one after the other.
///
/// # Errors
/// One did not come to its shell.
pub fn measure(kind: Kind) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let boot_exits = boots(kind, &mut rows)?;
    let kvm = under_kvm().context("under KVM")?;
    let name = "VM exits that KVM takes for the same, kernel entry to shell";
    rows.push(Row::reference(name, kvm.exits.total.to_string()).with_details(&kvm.exits.causes()));
    rows.push(Row::reference("… of its firmware before", kvm.firmware.to_string()));
    let ratio = boot_exits as f64 / kvm.exits.total as f64;
    rows.push(Row::at_most("VM exits to the shell / KVM's", ratio, EXITS_RATIO_MAX, ""));
    Ok(rows)
}

/// As a guest and directly; the exits of the guest's boot.
fn boots(kind: Kind, rows: &mut Vec<Row>) -> Result<u64> {
    let without = directly(kind).context("directly")?;
    let Guest { entered_ticks, ready_ticks, boot_exits, idle_exits } =
        as_guest(kind).context("as a guest")?;
    let ratio = ready_ticks as f64 / without as f64;
    let idle_rate = idle_exits.total as f64 / idle_exits.uptime.as_secs_f64();
    let million = |ticks: u64| format!("{:.0} M ticks", ticks as f64 / 1e6);
    rows.extend([
        Row::reference("Linux, kernel entry to shell, directly", million(without)),
        Row::reference("Linux, kernel entry to shell, as a guest", million(ready_ticks)),
        Row::at_most("… as a guest / directly (QEMU/KVM 1.07)", ratio, LIMIT, ""),
        Row::at_most(
            "UEFI handoff to the guest's first instruction",
            entered_ticks,
            ENTRY_TICKS_MAX,
            " ticks",
        ),
        Row::reference("VM exits, kernel entry to the shell's prompt", boot_exits.total.to_string())
            .with_details(&boot_exits.causes()),
        Row::reference("VM exits in an idle second of the guest", format!("{idle_rate:.1}"))
            .with_details(&format!("in {:.1} s: {}", idle_exits.uptime.as_secs_f64(), idle_exits.causes())),
    ]);
    Ok(boot_exits.total)
}

/// Starts a machine of `kind` that boots the kernel without a hypervisor of ours under it.
fn start(kind: Kind, name: &str) -> Result<Box<dyn Machine>> {
    let linux = guest::linux(&guest::cache())?;
    let disk = scratch::directory(&format!("{name}-disk"))?.join("disk.img");
    // The processor claims a frequency that the emulator does not keep.
    let frequency =
        if kind == Kind::Bochs { format!(" tsc_early_khz={}", IPS / 1_000) } else { String::new() };
    direct::disk(&disk, &linux, &format!("{}{frequency}", command_line()))?;
    let mut spec = Spec::new(name, &disk);
    (spec.cpus, spec.ips, spec.memory_mib) = (1, IPS, MEMORY_MIB as u32);
    kind.start(&spec)
}

/// The same boot as KVM's guest.
struct UnderKvm {
    /// Until the kernel is entered.
    firmware: u64,
    /// From there to its shell.
    exits: KvmExits,
}

fn under_kvm() -> Result<UnderKvm> {
    let mut machine = start(Kind::kvm(), "bench-kvm")?;
    machine.serial().expect_line(direct::ENTERED, GUEST_TIMEOUT)?;
    // The kernel does not wait meanwhile: some of its exits count as the firmware's.
    let firmware = machine.kvm_exits()?;
    machine.serial().expect_line(LinuxFiles::READY, GUEST_TIMEOUT)?;
    let exits = machine.kvm_exits()?.since(&firmware);
    Ok(UnderKvm { firmware: firmware.total, exits })
}

fn directly(kind: Kind) -> Result<u64> {
    let mut machine = start(kind, "bench-direct")?;
    let entered = machine.serial().expect_line(direct::ENTERED, GUEST_TIMEOUT)?;
    let ready = machine.serial().expect_line(LinuxFiles::READY, GUEST_TIMEOUT)?;
    Ok(ticks(&ready, "tsc_ready")?.saturating_sub(ticks(&entered, "tsc")?))
}

/// What was measured of the guest.
struct Guest {
    /// From the handoff to its first instruction.
    entered_ticks: f64,
    /// From there to its shell.
    ready_ticks: u64,
    /// Exits on that way.
    boot_exits: Exits,
    /// Exits while it idles.
    idle_exits: Exits,
}

fn as_guest(kind: Kind) -> Result<Guest> {
    let mut config = GuestConfig::linux(GUEST, MEMORY_MIB);
    (config.command_line, config.start) = (command_line(), true);
    let mut plan = Plan::new("bench-boot", kind, 1).guest(0, config);
    plan.hosts[0].ips = IPS;
    let mut cluster = plan.start()?;
    cluster.wait_for_prompts()?;
    let host = &mut cluster.hosts[0];
    let ready = host.attach(GUEST, LinuxFiles::READY, GUEST_TIMEOUT)?;
    host.serial().expect(GUEST_PROMPT, GUEST_TIMEOUT)?;
    host.detach()?;
    // Figures may be a second old, but not those of a guest that has just been paused.
    host.succeed(&format!("vm pause {GUEST}"))?;
    eventually(GUEST_TIMEOUT, || host.expect_state(GUEST, "paused").map(|_| ()))?;
    let info = host.succeed(&format!("vm info {GUEST}"))?;
    host.succeed(&format!("vm resume {GUEST}"))?;
    let entered = info.lines().find_map(|line| span(line.strip_prefix("entered")?.split("after").next()?));
    let entered = entered.with_context(|| format!("no first entry in: {info}"))?;
    let boot_exits = exits_of(&info)?;
    let idle_exits = idle(host, &boot_exits)?;
    Ok(Guest {
        entered_ticks: entered.as_secs_f64() * IPS as f64,
        // A guest's time stamp counter starts at zero.
        ready_ticks: ticks(&ready, "tsc_ready")?,
        boot_exits,
        idle_exits,
    })
}

/// The guest's exits while nobody wants anything of it.
fn idle(host: &mut Host, ready: &Exits) -> Result<Exits> {
    let settled = exits_after(host, ready, SETTLED)?;
    Ok(exits_after(host, &settled, IDLE)?.since(&settled))
}

/// The guest's exits once `time` has passed for it since `earlier`.
fn exits_after(host: &mut Host, earlier: &Exits, time: Duration) -> Result<Exits> {
    let mut exits = Exits::default();
    eventually(GUEST_TIMEOUT, || {
        exits = exits_of(&host.succeed(&format!("vm info {GUEST}"))?)?;
        ensure!(exits.since(earlier).uptime >= time, "the guest's clock has come to {:?}", exits.uptime);
        Ok(())
    })?;
    Ok(exits)
}

fn exits_of(info: &str) -> Result<Exits> {
    Exits::parse(info).with_context(|| format!("no exits in: {info}"))
}

/// Without the data, whose computation has no exits and would only hide the difference, and without the kernel's
/// messages: the emulated port takes 86 µs for each byte, a guest's port none, so they would flatter the guest.
fn command_line() -> String {
    format!("{} loglevel=0 godwit.data_mib=0", LinuxFiles::COMMAND_LINE)
}

fn ticks(line: &str, name: &str) -> Result<u64> {
    let text = value(line, name).with_context(|| format!("no {name} in: {line}"))?;
    text.parse().with_context(|| line.to_owned())
}
