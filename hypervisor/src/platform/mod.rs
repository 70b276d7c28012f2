//! The machine around the processors: what the firmware's tables say, what sits on the PCI buses, the clock,
//! the log, interrupt lines, and how to reset it.
//!
//! [`Platform`] holds what bring-up found; it never changes afterwards. [`acpi`] turns the firmware's tables into
//! plain values; [`pci`] finds functions and says which interrupt each one's pin raises; [`interrupts`] connects
//! them; [`time`] is the host's clock, a calibrated TSC; [`log`] keeps the last messages.

use alloc::vec::Vec;

use godwit_boot::handoff::BootInfo;

pub mod acpi;
pub mod files;
pub mod interrupts;
pub mod log;
pub mod pci;
pub mod processor;
pub mod reset;
pub mod time;
pub mod wall_clock;

/// What bring-up found.
#[derive(Debug)]
pub struct Platform {
    /// What the loader handed over, with the configuration.
    pub info: &'static BootInfo,
    /// What the firmware's tables say.
    pub firmware: acpi::Firmware,
    /// The functions on the PCI buses.
    pub functions: Vec<pci::Function>,
    /// What the processors are.
    pub processor: processor::Processor,
    /// CPUs that run; their numbers are below this.
    pub cpus: usize,
    /// The clock.
    pub clock: time::Clock,
}

impl Platform {
    /// Connects the interrupt of `function` to the running CPU; `None` if it must be polled.
    #[must_use]
    pub fn connect(&self, function: &pci::Function) -> Option<interrupts::Line> {
        interrupts::connect(&pci::interrupt::candidates(&self.functions, function, &self.firmware))
    }

    /// Writes what was found to the log.
    pub fn describe(&self) {
        ::log::info!("{} CPUs: {}", self.cpus, self.processor);
        for function in &self.functions {
            ::log::info!("PCI {function}");
        }
    }

    /// Resets the machine, once all output has left.
    pub fn reset(&self) -> ! {
        crate::arch::serial::flush();
        reset::machine(self.firmware.reset)
    }
}
