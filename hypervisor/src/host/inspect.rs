//! The machine for a person: memory, CPUs, PCI.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::load::LoadMeter;
use crate::arch::time_account::Spent;
use crate::arch::{percpu, tsc};
use crate::console::view::{CpuState, CpuView, HeapView, MachineView, MemView, PciView, StackView, VmxView};
use crate::guests::Guests;
use crate::mm::{frames, heap, stack};
use crate::platform::Platform;
use crate::vm;

/// Physical memory, of which guests have `guest_bytes`.
pub(super) fn memory(platform: &Platform, guest_bytes: u64) -> MemView {
    let ram = frames::get().statistics();
    let heap = heap::statistics();
    let (given, free_bytes) = (ram.total * frames::FRAME_SIZE, ram.free * frames::FRAME_SIZE);
    let image_bytes = platform.info.image.length;
    let file_bytes = platform.info.files.as_slice().iter().map(|file| file.content.length).sum();
    MemView {
        total_bytes: given + image_bytes + file_bytes,
        free_bytes,
        hypervisor_bytes: (given + image_bytes).saturating_sub(free_bytes + guest_bytes),
        guest_bytes,
        file_bytes,
        heap: HeapView {
            used_bytes: heap.used as u64,
            total_bytes: heap.size as u64,
            spare_bytes: heap.spare() as u64,
        },
        stacks: StackView { deepest_bytes: stack::deepest(), size_bytes: stack::SIZE },
    }
}

/// What each CPU has spent so far, with its index.
pub(super) fn spent() -> Vec<(usize, Spent)> {
    let now = tsc::read();
    percpu::all().map(|cpu| (cpu.index(), cpu.time().spent(now))).collect()
}

/// The CPUs. Those that the firmware lists and that do not run are shown too.
pub(super) fn machine(platform: &Platform, load: &LoadMeter, guests: &Guests) -> MachineView {
    let now = tsc::read();
    let mut cpus: Vec<CpuView> = percpu::all()
        .map(|cpu| CpuView {
            index: cpu.index() as u32,
            apic_id: cpu.apic_id(),
            state: CpuState::Online,
            load: load.load(cpu.index(), cpu.time().spent(now)),
            guests: guests.names_on(cpu.index()),
        })
        .collect();
    let absent =
        platform.firmware.processors.iter().filter(|id| percpu::all().all(|cpu| cpu.apic_id() != **id));
    for &apic_id in absent {
        cpus.push(CpuView {
            index: cpus.len() as u32,
            apic_id,
            state: CpuState::Offline,
            load: None,
            guests: Vec::new(),
        });
    }
    MachineView {
        brand: platform.processor.name.as_str().to_string(),
        tsc_hz: platform.clock.frequency_hz(),
        vmx: vmx(),
        cpus,
    }
}

/// Whether guests can run.
pub(super) fn vmx() -> VmxView {
    let capabilities = match vm::host::probe() {
        Ok(capabilities) => capabilities,
        Err(error) => return VmxView::Unavailable(error.to_string()),
    };
    match vm::controls::Controls::negotiate(&capabilities) {
        Err(error) => VmxView::Unavailable(error.to_string()),
        Ok(_) => {
            let mut features = alloc::vec!["EPT", "unrestricted guest", "preemption timer"];
            let optional = [
                (capabilities.has_ept_dirty(), "EPT dirty flags"),
                (capabilities.has_pml(), "PML"),
                (capabilities.has_virtual_eoi(), "EOI virtualization"),
            ];
            features.extend(optional.iter().filter(|(has, _)| *has).map(|(_, name)| *name));
            VmxView::Ready(features)
        }
    }
}

/// The PCI functions; `card` is the network card's index and its driver's name.
pub(super) fn pci(platform: &Platform, card: Option<(usize, &'static str)>) -> Vec<PciView> {
    let functions = platform.functions.iter().enumerate();
    functions
        .map(|(index, function)| PciView {
            address: function.address.to_string(),
            vendor_id: function.vendor,
            device_id: function.device,
            kind: function.kind(),
            driver: card.filter(|(number, _)| *number == index).map(|(_, driver)| driver),
        })
        .collect()
}
