//! A guest without an operating system. Its command line names a behaviour and its numbers, for example
//! `cpuid 1000` or `pattern 2048 20000`; everything it has to say goes to COM1, one line at a time.
//!
//! It enters by Linux's boot protocols ([`hardware`]), so whatever boots a bzImage boots it. When it has done what it
//! was asked to do it halts with interrupts off, which a hypervisor takes for the guest's end.

#![no_std]
#![no_main]

mod behaviour;
mod console;
mod echo;
mod hardware;
mod pattern;

use core::panic::PanicInfo;

use behaviour::Call;
use console::line;

/// Called by the entry stub with the physical address of the boot parameters.
extern "C" fn start(boot_parameters: u64) -> ! {
    hardware::take_over();
    let command_line = hardware::CommandLine::read(boot_parameters);
    let mut words = command_line.text().split_ascii_whitespace();
    let name = words.next().unwrap_or("");
    let number = |word: Option<&str>| word.and_then(|w| w.parse().ok()).unwrap_or(0);
    let (first, second) = (words.next(), words.next());
    line!("bare: {name}");
    let rsdp = hardware::rsdp(boot_parameters);
    match behaviour::find(name) {
        Some(run) => run(&Call { first: number(first), second: number(second), rsdp }),
        None => line!("bare: no behaviour {name:?}"),
    }
    line!("bare: done");
    hardware::stop()
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    line!("bare: {info}");
    hardware::stop()
}
