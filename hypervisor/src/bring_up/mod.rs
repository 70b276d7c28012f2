#![expect(unsafe_code, reason = "the first steps of each processor")]
//! From the loader's jump to a loop on every CPU.

use alloc::boxed::Box;
use core::time::Duration;

use godwit_boot::handoff::BootInfo;
use log::LevelFilter;
use x86_64::PhysAddr;

use crate::arch::{apic, fpu, gdt, idt, interrupts as interrupt_flag, percpu, serial};
use crate::host;
use crate::mm::mmio::Window;
use crate::mm::stack;
use crate::platform::acpi::Firmware;
use crate::platform::processor::Processor;
use crate::platform::{self, Platform, interrupts, pci, time};

pub mod memory;
pub mod panic;
pub mod processors;

/// The local APIC's timer is measured for this part of a second.
const TIMER_MEASUREMENTS_PER_SECOND: u64 = 100;

/// Brings the host up on the boot CPU and enters its loop.
///
/// # Safety
/// Called once, by the boot CPU, in the state that [`godwit_boot::handoff`] describes.
pub unsafe fn start(info: &'static BootInfo) -> ! {
    // SAFETY: the first thing that the boot CPU does.
    unsafe { percpu::install_boot(apic::initial_id()) };
    // SAFETY: the boot CPU's own tables, with interrupts off.
    unsafe { gdt::boot_tables().load(gdt::boot_stacks()) };
    idt::load();
    fpu::enable();
    serial::initialise();
    platform::log::initialise(LevelFilter::Debug);
    if let Err(mismatch) = info.check() {
        panic!("cannot start: {mismatch}");
    }
    // SAFETY: the handoff is checked, and this is the only call.
    unsafe { memory::initialise(info) };
    let stack = stack::allocate().expect("a host that cannot spare one stack cannot do anything");
    // SAFETY: the new stack is unused, and nothing on the old one is needed any more.
    unsafe { stack::switch_to(stack, continue_on_guarded_stack, info) }
}

fn continue_on_guarded_stack(info: &'static BootInfo) -> ! {
    // SAFETY: the loader took the root pointer from the firmware; tables lie in RAM, which is mapped.
    let firmware = unsafe { Firmware::read(info.rsdp) }.unwrap_or_else(|error| {
        log::warn!("{error}: assuming what every PC has");
        Firmware::assumed()
    });
    let reference = time::initialise(info.handoff_tsc, firmware.pm_timer);
    let clock = *time::clock().expect("the clock was just set up");
    let kilohertz = clock.frequency_hz() / 1000;
    log::info!("TSC at {}.{:03} MHz, by {reference}", kilohertz / 1000, kilohertz % 1000);
    apic::enable(|| {
        Window::map(PhysAddr::new_truncate(firmware.local_apic), apic::WINDOW_LENGTH)
            .expect("a host that cannot spare a page for its interrupt controller cannot do anything")
    });
    apic::calibrate_timer(clock.frequency_hz() / TIMER_MEASUREMENTS_PER_SECOND);
    if !interrupts::initialise(&firmware) {
        log::warn!("the serial port has no interrupt: it is polled");
    }
    let functions = pci::scan(&pci::Access);
    let pause = |microseconds| time::pause(Duration::from_micros(microseconds));
    let cpus = processors::start(&firmware.processors, firmware.processors_are, host::run_other, pause);
    let processor = Processor::ask();
    let platform = Platform { info, firmware, functions, processor, cpus, clock };
    interrupt_flag::enable();
    host::run(Box::leak(Box::new(platform)))
}
