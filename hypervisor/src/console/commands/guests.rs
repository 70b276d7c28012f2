//! `vm`: guests.

use alloc::string::{String, ToString};
use core::fmt::{self, Write as _};

use super::super::format::{Bytes, Span};
use super::super::host::Host;
use super::super::output::Output;
use super::super::parse::VmAction;
use super::super::table::{Align, Table};
use super::super::view::{GuestView, VmxView};
use super::{CommandError, Next, guest_named};

const PAGE_BYTES: u64 = 4096;

/// `vm list`.
pub(super) fn list(host: &dyn Host, out: &mut Output) -> fmt::Result {
    if let VmxView::Unavailable(why) = host.machine().vmx {
        writeln!(out, "guests cannot run here: {why}")?;
    }
    let guests = host.guests();
    if guests.is_empty() {
        return writeln!(out, "no guests: godwit.toml names none, and none has arrived");
    }
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("MEMORY", Align::Right),
        ("VCPUS", Align::Right),
        ("CPU", Align::Right),
        ("UPTIME", Align::Right),
        ("EXITS", Align::Right),
        ("", Align::Left),
    ]);
    for guest in guests {
        table.row([
            guest.name,
            guest.state.to_string(),
            Bytes(guest.memory_bytes).to_string(),
            guest.vcpus.to_string(),
            guest.cpu.map_or(String::from("-"), |cpu| cpu.to_string()),
            Span(guest.uptime).to_string(),
            guest.exits.to_string(),
            guest.reason.unwrap_or_default(),
        ]);
    }
    table.print(out)
}

/// `vm info|start|stop|pause|resume|console GUEST`.
pub(super) fn act(
    action: VmAction,
    name: &str,
    host: &mut dyn Host,
    out: &mut Output,
) -> Result<Next, CommandError> {
    let name = guest_named(name, host)?;
    match action {
        VmAction::Info => {
            if let Some(guest) = host.guests().into_iter().find(|guest| guest.name == name) {
                info(&guest, out)?;
            }
        }
        VmAction::Start => {
            host.start(&name)?;
            writeln!(out, "{name} starts; 'vm console {name}' attaches to it")?;
        }
        VmAction::Stop => {
            host.stop(&name)?;
            writeln!(out, "{name} is stopped")?;
        }
        VmAction::Pause => {
            host.pause(&name)?;
            writeln!(out, "{name} is paused; 'vm resume {name}' lets it go on")?;
        }
        VmAction::Resume => {
            host.resume(&name)?;
            writeln!(out, "{name} goes on")?;
        }
        VmAction::Console => return Ok(Next::Attach(name)),
    }
    Ok(Next::Prompt)
}

/// What of its memory has not come, and who waits for it.
fn absent(guest: &GuestView, out: &mut Output) -> fmt::Result {
    if guest.absent_pages > 0 {
        let bytes = Bytes(guest.absent_pages as u64 * PAGE_BYTES);
        let outlook = if guest.absent_are_lost { "lost" } else { "still to come" };
        writeln!(out, "absent pages  {} ({bytes}) {outlook}", guest.absent_pages)?;
    }
    for (vcpu, page) in &guest.waits {
        writeln!(out, "waits         virtual CPU {vcpu} for the page at guest-physical {page:#x}")?;
    }
    Ok(())
}

fn info(guest: &GuestView, out: &mut Output) -> fmt::Result {
    writeln!(out, "name          {}", guest.name)?;
    write!(out, "state         {}", guest.state)?;
    match &guest.reason {
        Some(reason) => writeln!(out, ": {reason}")?,
        None => writeln!(out)?,
    }
    writeln!(out, "memory        {}", Bytes(guest.memory_bytes))?;
    writeln!(out, "virtual CPUs  {}", guest.vcpus)?;
    if let Some(cpu) = guest.cpu {
        writeln!(out, "runs on CPU   {cpu}")?;
    }
    writeln!(out, "uptime        {}", Span(guest.uptime))?;
    if let Some(entered) = guest.entered {
        writeln!(out, "entered       {} after the loader's handoff", Span(entered))?;
    }
    writeln!(out, "kernel        {}", guest.kernel)?;
    writeln!(out, "command line  {}", guest.command_line)?;
    if let Some(origin) = &guest.arrived_from {
        writeln!(out, "arrived from  {origin}")?;
    }
    absent(guest, out)?;
    writeln!(out, "VM exits      {}", guest.exits)?;
    for (cause, count) in &guest.exits_by_cause {
        writeln!(out, "  {cause:<22}{count:>12}")?;
    }
    Ok(())
}
