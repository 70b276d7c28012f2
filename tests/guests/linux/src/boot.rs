//! What happens between the mounts and the shell: data, daemons, the line that says "ready".

use std::fs;
use std::process::ExitCode;

use crate::{data, heartbeat, options, pattern, tsc};

/// `guest boot TSC_AT_INIT`.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let options = options::read();
    if options.data_mib > 0 {
        match data::create(options.data_mib) {
            Ok(sum) => println!("guest: data {} MiB sum {sum:016x}", options.data_mib),
            Err(error) => println!("guest: the data could not be written: {error}"),
        }
    }
    if let Some((mib, rate)) = options.pattern
        && let Err(error) = pattern::start(mib, rate)
    {
        println!("guest: the pattern could not be started: {error}");
    }
    if let Some(seconds) = options.heartbeat_s
        && let Err(error) = heartbeat::start(seconds)
    {
        println!("guest: the heartbeat could not be started: {error}");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let tsc_init = arguments.first().map_or("0", String::as_str);
    let tsc_ready = tsc::now();
    let boot = options.start_tsc.map(|start| format!(" boot_ticks={}", tsc_ready.wrapping_sub(start)));
    let line = format!(
        "guest: ready kernel={} uptime={} tsc_init={tsc_init} tsc_ready={tsc_ready}{}",
        release.trim(),
        heartbeat::uptime(),
        boot.unwrap_or_default()
    );
    println!("{line}");
    // In the kernel's log too: there the kernel's own clock stands beside it. The console has it already.
    let _ = fs::write("/dev/kmsg", format!("<7>{line}\n"));
    ExitCode::SUCCESS
}
