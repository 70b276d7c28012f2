//! `mem`, `cpu`, `pci`, `log`, `version`: the machine itself.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::{self, Write as _};

use super::super::format::{Bytes, Span, printable};
use super::super::host::Host;
use super::super::output::Output;
use super::super::table::{Align, Table};
use super::super::view::{HeapView, LogLine, VmxView};

/// `mem`.
pub(super) fn memory(host: &dyn Host, out: &mut Output) -> fmt::Result {
    let memory = host.memory();
    let HeapView { used_bytes, total_bytes, spare_bytes } = memory.heap;
    writeln!(out, "total       {:>10}", Bytes(memory.total_bytes).to_string())?;
    writeln!(out, "free        {:>10}", Bytes(memory.free_bytes).to_string())?;
    writeln!(out, "guests      {:>10}", Bytes(memory.guest_bytes).to_string())?;
    writeln!(out, "files       {:>10}", Bytes(memory.file_bytes).to_string())?;
    writeln!(
        out,
        "hypervisor  {:>10}  heap {} of {}, {} to spare",
        Bytes(memory.hypervisor_bytes).to_string(),
        Bytes(used_bytes),
        Bytes(total_bytes),
        Bytes(spare_bytes)
    )?;
    let (deepest, size) = (Bytes(memory.stacks.deepest_bytes), Bytes(memory.stacks.size_bytes));
    writeln!(out, "stacks      {:>10}  of a CPU's {size} at the most", deepest.to_string())?;
    Ok(())
}

/// `cpu`.
pub(super) fn cpus(host: &dyn Host, out: &mut Output) -> fmt::Result {
    let machine = host.machine();
    let megahertz = machine.tsc_hz / 1_000_000;
    writeln!(
        out,
        "{}, time-stamp counter at {megahertz} MHz",
        printable(&machine.brand).collect::<String>()
    )?;
    match &machine.vmx {
        VmxView::Ready(features) => writeln!(out, "guests can run here, with {}", features.join(", "))?,
        VmxView::Unavailable(why) => writeln!(out, "guests cannot run here: {why}")?,
    }
    let mut table = Table::new([
        ("CPU", Align::Right),
        ("APIC", Align::Right),
        ("STATE", Align::Left),
        ("IN GUESTS", Align::Right),
        ("HOST", Align::Right),
        ("IDLE", Align::Right),
        ("GUESTS", Align::Left),
    ]);
    let percent = |share: Option<u8>| share.map_or(String::from("-"), |share| format!("{share} %"));
    for cpu in machine.cpus {
        table.row([
            cpu.index.to_string(),
            cpu.apic_id.to_string(),
            cpu.state.to_string(),
            percent(cpu.load.map(|load| load.guests_percent)),
            percent(cpu.load.map(|load| load.host_percent)),
            percent(cpu.load.map(|load| load.idle_percent)),
            cpu.guests.join(" "),
        ]);
    }
    table.print(out)
}

/// `pci`.
pub(super) fn pci(host: &dyn Host, out: &mut Output) -> fmt::Result {
    let functions = host.pci();
    if functions.is_empty() {
        return writeln!(out, "no PCI functions");
    }
    let mut table = Table::new([
        ("ADDRESS", Align::Left),
        ("ID", Align::Left),
        ("KIND", Align::Left),
        ("DRIVER", Align::Left),
    ]);
    for f in functions {
        table.row([
            f.address,
            format!("{:04x}:{:04x}", f.vendor_id, f.device_id),
            String::from(f.kind),
            String::from(f.driver.unwrap_or("-")),
        ]);
    }
    table.print(out)
}

/// `log [N] [LEVEL]`.
pub(super) fn log(lines: usize, level: log::LevelFilter, host: &dyn Host, out: &mut Output) -> fmt::Result {
    let found = host.log(lines, level);
    if found.is_empty() {
        return writeln!(out, "nothing of that level in the log");
    }
    found.iter().try_for_each(|line| writeln!(out, "{}", log_line(line)))
}

/// A line of the log as it is shown.
pub(in super::super) fn log_line(line: &LogLine) -> String {
    let at = line.at;
    let mut text = format!("[{:5}.{:03}] {:<5} ", at.as_secs(), at.subsec_millis(), line.level);
    text.extend(printable(&line.text));
    text
}

/// `version`.
pub(super) fn version(host: &dyn Host, out: &mut Output) -> fmt::Result {
    let version = host.version();
    writeln!(
        out,
        "Godwit {} ({}) on {}, up {}",
        version.version,
        version.profile,
        host.name(),
        Span(version.uptime)
    )
}
