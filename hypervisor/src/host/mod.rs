//! The host as a whole: what each CPU's loop does.
//!
//! A loop runs with interrupts on, so that input is queued and output flows while it works. Before it waits it
//! turns them off, looks whether anything has become due, and only then waits: [`interrupts::wait`].

use crate::arch::{interrupts, percpu, serial};
use crate::mm::{frames, heap};
use crate::platform::Platform;

/// The boot CPU's loop.
pub fn run(platform: &'static Platform) -> ! {
    banner(platform);
    loop {
        let mut bytes = [0; 64];
        let count = serial::read(&mut bytes);
        serial::write(&bytes[..count]);
        if bytes[..count].contains(&b'!') {
            platform.reset();
        }
        interrupts::disable();
        if !serial::has_input() {
            interrupts::wait();
        }
        interrupts::enable();
    }
}

/// The loop of every other CPU.
pub fn run_other() -> ! {
    log::info!("CPU {} runs", percpu::index());
    loop {
        interrupts::wait();
    }
}

fn banner(platform: &Platform) {
    let Platform { info, processor, functions, cpus, .. } = platform;
    let ram = frames::get().statistics();
    log::info!("{cpus} CPUs: {processor}");
    log::info!(
        "{} MiB of RAM free, heap {} KiB",
        (ram.free * frames::FRAME_SIZE) >> 20,
        heap::statistics().size >> 10
    );
    for function in functions {
        log::info!("PCI {function}");
    }
    for problem in info.problem.as_str().lines() {
        log::error!("{problem}");
    }
    let name = info.configuration.host_name.as_str();
    let text = alloc::format!("\r\nGodwit {}: host {name}\r\n", env!("CARGO_PKG_VERSION"));
    serial::write(text.as_bytes());
}
