//! Leaving the firmware and entering the hypervisor.
#![expect(unsafe_code, reason = "boot services end, page tables change and control moves to another image")]

use core::{arch::asm, mem};

use godwit_boot::{
    handoff::{BootInfo, DIRECT_MAP, PhysicalRange, RegionKind},
    paging::{self, Access, AddressSpace, Caching, LARGE_PAGE, Largest, Mapping, PAGE, TableMemory},
};
use uefi::{
    boot::{self, MemoryType},
    mem::memory_map::{MemoryMap, MemoryMapMut},
};
use x86_64::registers::{
    control::{Cr0, Cr0Flags, Cr3, Cr4},
    model_specific::{Efer, EferFlags},
};

use crate::{
    files::LoadError,
    handoff::Preparation,
    memory::{Pages, Tables, region_kind},
};

/// Stack for the hypervisor's first steps, until it has its own.
const STACK: u64 = 64 << 10;

/// The time stamp counter.
pub(crate) fn read_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and firmware runs us in ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Enters the hypervisor; comes back only if that cannot be prepared.
pub(crate) fn leave(mut preparation: Preparation) -> LoadError {
    let (space, stack_top) = match map(&mut preparation) {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let Some(layout) = preparation.layout else {
        return LoadError::Volume(uefi::Status::NOT_READY);
    };
    let info_address = DIRECT_MAP + preparation.address();
    // SAFETY: no protocol, event or pool allocation is used from here on; what is still held is forgotten.
    let mut firmware_map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    // SAFETY: an interrupt handler of the firmware must not run any more.
    unsafe { asm!("cli", options(nomem, nostack)) };
    firmware_map.sort();
    describe_memory(preparation.info(), &firmware_map);
    mem::forget(firmware_map);
    // SAFETY: both bits only make the tables below mean what they say.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE)) };
    // SAFETY: the loader writes to nothing that its tables map read-only.
    unsafe { Cr0::update(|flags| flags.insert(Cr0Flags::WRITE_PROTECT)) };
    preparation.info().handoff_tsc = read_tsc();
    // SAFETY: the tables map this code and stack as the firmware's did (their lower half is the same), the
    // image, and the new stack; `entry` never returns.
    unsafe {
        asm!(
            "mov cr3, {tables}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "cld",
            "call {entry}",
            "ud2",
            tables = in(reg) space.root(),
            stack = in(reg) stack_top,
            entry = in(reg) layout.entry,
            in("rdi") info_address,
            options(noreturn)
        )
    }
}

/// Builds the page tables that the handoff promises; also returns the top of the new stack.
fn map(preparation: &mut Preparation) -> Result<(AddressSpace, u64), LoadError> {
    paging::check_levels(Cr4::read_raw()).map_err(LoadError::Levels)?;
    let memory = &mut Tables;
    let space = AddressSpace::new(memory).map_err(LoadError::Tables)?;
    // What runs now must go on running: the firmware's lower half, where memory is mapped one to one.
    let firmware = Cr3::read().0.start_address().as_u64();
    for index in 0..256 {
        let entry = memory.read(firmware, index);
        memory.write(space.root(), index, entry);
    }
    map_image(preparation, space)?;
    let stack = Pages::allocate(STACK, RegionKind::LOADER).map_err(|e| LoadError::Memory(e.status()))?;
    let mut firmware_map =
        boot::memory_map(MemoryType::LOADER_DATA).map_err(|error| LoadError::Memory(error.status()))?;
    firmware_map.sort();
    // Large pages, rounded out, each once. That also covers what is allocated between now and the exit.
    let mut done = 0;
    for entry in firmware_map.entries().filter(|entry| region_kind(entry.ty).is_ram()) {
        let start = (entry.phys_start & !(LARGE_PAGE - 1)).max(done);
        let end = (entry.phys_start + entry.page_count * PAGE).next_multiple_of(LARGE_PAGE);
        if start < end {
            let mapping = Mapping {
                linear: DIRECT_MAP + start,
                physical: start,
                length: end - start,
                access: Access::ReadWrite,
                caching: Caching::WriteBack,
            };
            space.map(memory, mapping, Largest::Large).map_err(LoadError::Tables)?;
            done = end;
        }
    }
    preparation.info().direct_map_end = done;
    Ok((space, DIRECT_MAP + stack.range().end()))
}

fn map_image(preparation: &mut Preparation, space: AddressSpace) -> Result<(), LoadError> {
    let Some(layout) = preparation.layout else { return Ok(()) };
    let image = preparation.info().image.start;
    for segment in layout.segments.as_slice() {
        let mapping = Mapping {
            linear: layout.base + segment.offset,
            physical: image + segment.offset,
            length: segment.length,
            access: segment.access,
            caching: Caching::WriteBack,
        };
        space.map(&mut Tables, mapping, Largest::Large).map_err(LoadError::Tables)?;
    }
    Ok(())
}

/// Puts the firmware's map, sorted, into the handoff.
fn describe_memory(info: &mut BootInfo, map: &impl MemoryMap) {
    for entry in map.entries() {
        let range = PhysicalRange { start: entry.phys_start, length: entry.page_count * PAGE };
        info.add_region(range, region_kind(entry.ty));
    }
}
