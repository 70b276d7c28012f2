//! The host as a whole: what each CPU's loop does.

use godwit_boot::handoff::BootInfo;

use crate::arch::serial;
use crate::mm::{frames, heap};

/// The boot CPU's loop.
pub fn run(info: &'static BootInfo) -> ! {
    banner(info);
    loop {
        crate::arch::interrupts::wait();
    }
}

fn banner(info: &BootInfo) {
    let ram = frames::get().statistics();
    let heap = heap::statistics();
    let name = info.configuration.host_name.as_str();
    let text = alloc::format!(
        "\r\nGodwit {}: host {name}, {} MiB of RAM free, heap {} KiB\r\n{}\r\n",
        env!("CARGO_PKG_VERSION"),
        (ram.free * frames::FRAME_SIZE) >> 20,
        heap.size >> 10,
        info.problem.as_str(),
    );
    serial::write(text.as_bytes());
}
