//! The machine's interrupt controllers, and the lines of devices.
//!
//! A device's interrupt does no work by itself: its handler masks the line, notes that it was raised and wakes
//! the CPU. The driver is polled by the CPU's loop, which then lets the line interrupt again:
//!
//! ```text
//! if line.take_raised() { card.poll(now); line.rearm(); }
//! ```

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use x86_64::PhysAddr;

use super::acpi::Firmware;
use super::pci::Candidates;
use crate::arch::idt::{self, vector};
use crate::arch::ioapic::{self, IoApic};
use crate::arch::{apic, port, serial};
use crate::mm::mmio::Window;
use crate::sync::{Level, Lock};

/// Lines given out at most.
const LINES_MAX: usize = 16;
/// Data ports of the two legacy controllers.
const LEGACY_MASKS: [u16; 2] = [0x21, 0xa1];

#[derive(Debug)]
struct Controllers {
    io_apics: Vec<IoApic<Window>>,
    /// Global interrupts by line.
    lines: ArrayVec<ArrayVec<u32, 2>, LINES_MAX>,
}

static CONTROLLERS: Lock<Controllers> =
    Lock::new(Level::Interrupts, Controllers { io_apics: Vec::new(), lines: ArrayVec::new_const() });
static RAISED: [AtomicBool; LINES_MAX] = [const { AtomicBool::new(false) }; LINES_MAX];

/// The interrupt of one device.
#[derive(Debug)]
pub struct Line(usize);

/// Masks the legacy controllers, finds the I/O APICs and connects the serial port; tells whether that has an
/// interrupt.
pub fn initialise(firmware: &Firmware) -> bool {
    for mask in LEGACY_MASKS {
        port::write_u8(mask, 0xff);
    }
    let open = |io_apic: &super::acpi::IoApic| {
        let window = Window::map(PhysAddr::new_truncate(io_apic.address), ioapic::WINDOW_LENGTH).ok()?;
        IoApic::new(window, io_apic.first_interrupt)
    };
    let io_apics = firmware.io_apics.iter().filter_map(open).collect();
    CONTROLLERS.lock().io_apics = io_apics;
    for other in [vector::KICK, vector::TIMER, vector::SPURIOUS] {
        idt::set_handler(other, |_| {});
    }
    idt::set_handler(vector::SERIAL, serial::interrupt);
    let (interrupt, signal) = firmware.isa_interrupt(serial::ISA_INTERRUPT);
    let controllers = CONTROLLERS.lock();
    let connected =
        controllers.io_apics.iter().any(|io| io.route(interrupt, signal, vector::SERIAL, apic::id()));
    drop(controllers);
    if connected {
        serial::connect();
    }
    connected
}

/// Connects the device that may raise any of the global interrupts in `candidates` to the running CPU.
/// `None` if no controller has such an interrupt: the device has to be polled.
pub fn connect(candidates: &Candidates) -> Option<Line> {
    let mut controllers = CONTROLLERS.lock();
    let index = controllers.lines.len();
    if controllers.lines.is_full() {
        return None;
    }
    let vector = vector::LINES + index as u8;
    idt::set_handler(vector, raised);
    let target = apic::id();
    let routed = candidates.iter().filter(|&&(interrupt, signal)| {
        controllers.io_apics.iter().any(|io_apic| io_apic.route(interrupt, signal, vector, target))
    });
    let line: ArrayVec<u32, 2> = routed.map(|candidate| candidate.0).collect();
    if line.is_empty() {
        return None;
    }
    controllers.lines.push(line);
    Some(Line(index))
}

fn raised(vector: u8) {
    let index = usize::from(vector - vector::LINES);
    let controllers = CONTROLLERS.lock();
    controllers.change(index, IoApic::mask);
    RAISED[index].store(true, Ordering::Release);
}

impl Controllers {
    fn change(&self, line: usize, change: fn(&IoApic<Window>, u32)) {
        for &interrupt in self.lines.get(line).into_iter().flatten() {
            self.io_apics.iter().for_each(|io_apic| change(io_apic, interrupt));
        }
    }
}

impl Line {
    /// Whether the device has interrupted since this was last asked. The line is masked from then until
    /// [`Self::rearm`].
    #[must_use]
    pub fn take_raised(&self) -> bool {
        RAISED[self.0].swap(false, Ordering::Acquire)
    }

    /// Whether the device has interrupted and nobody has taken note.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        RAISED[self.0].load(Ordering::Acquire)
    }

    /// Lets the device interrupt again.
    pub fn rearm(&self) {
        CONTROLLERS.lock().change(self.0, IoApic::unmask);
    }
}
