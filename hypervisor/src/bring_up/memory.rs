#![expect(unsafe_code, reason = "taking possession of RAM by the loader's map")]
//! Takes the RAM over from the loader: free frames, the hypervisor's own page tables, the heap.

use godwit_boot::handoff::{BootInfo, DIRECT_MAP, IMAGE_BASE, PhysicalRange, Region, RegionKind};
use godwit_boot::paging::{Access, AddressSpace, Caching, Largest, Mapping};
use x86_64::PhysAddr;

use crate::arch::cpu::cpuid;
use crate::mm::frames::{self, Chunk, FRAME_SIZE, Frames};
use crate::mm::paging::{self, DirectTables};
use crate::mm::{direct, heap};

unsafe extern "C" {
    safe static __image_start: u8;
    safe static __text_start: u8;
    safe static __text_end: u8;
    safe static __rodata_start: u8;
    safe static __rodata_end: u8;
    safe static __data_start: u8;
    safe static __data_end: u8;
}

/// Sets frames, page tables and heap up.
///
/// # Panics
/// If the host has not even the RAM for these.
///
/// # Safety
/// Called once, while the loader's page tables are in use and its map tells the truth.
pub unsafe fn initialise(info: &BootInfo) {
    let map = info.memory_map.as_slice();
    // SAFETY: by the contract.
    unsafe { add_frames(map) };
    let tables = build_tables(info);
    // SAFETY: the new tables map the image, with its stack, and all RAM as the loader's do.
    unsafe { paging::switch_to(tables) };
    let (start, length) =
        heap::place(&mut frames::get()).expect("a host with RAM for guests has contiguous RAM for a heap");
    // SAFETY: the frames were free until now.
    unsafe { heap::initialise(start, length) };
}

/// # Safety
/// As [`initialise`].
unsafe fn add_frames(map: &[Region]) {
    let count = frames::chunks_needed(map);
    let bytes = ((count * size_of::<Chunk>()) as u64).next_multiple_of(FRAME_SIZE);
    let place = place_for(map, bytes).expect("a host with RAM has a piece for the description of its RAM");
    let start = direct::at(PhysAddr::new(place.start)).as_mut_ptr::<Chunk>();
    for index in 0..count {
        // SAFETY: one of `count` chunks in a usable region of sufficient size.
        let chunk = unsafe { start.add(index) };
        // SAFETY: as above; nobody else uses it.
        unsafe { chunk.write(Chunk::NONE) };
    }
    // SAFETY: `count` chunks were just written there, and the frames are never given out.
    let mut frames = Frames::new(unsafe { core::slice::from_raw_parts_mut(start, count) });
    for region in map.iter().filter(|region| region.kind == RegionKind::USABLE) {
        let begin = if region.range.contains(place.start) { place.end() } else { region.range.start };
        frames.add(PhysAddr::new(begin), PhysAddr::new(region.range.end()));
    }
    frames::initialise(frames);
}

/// The start of the first usable region above 1 MiB with `bytes` bytes.
fn place_for(map: &[Region], bytes: u64) -> Option<PhysicalRange> {
    map.iter()
        .filter(|region| region.kind == RegionKind::USABLE && region.range.start >= 1 << 20)
        .find(|region| region.range.length >= bytes)
        .map(|region| PhysicalRange { start: region.range.start, length: bytes })
}

fn build_tables(info: &BootInfo) -> AddressSpace {
    let space = AddressSpace::new(&mut DirectTables).expect("the first frame of a host");
    let map = |linear, physical, length, access, largest| {
        let mapping = Mapping { linear, physical, length, access, caching: Caching::WriteBack };
        space.map(&mut DirectTables, mapping, largest).expect("segments and RAM are whole pages and apart");
    };
    let segments = [
        (&__text_start, &__text_end, Access::ReadExecute),
        (&__rodata_start, &__rodata_end, Access::Read),
        (&__data_start, &__data_end, Access::ReadWrite),
    ];
    for (start, end, access) in segments {
        let start = core::ptr::from_ref(start) as u64;
        let length = core::ptr::from_ref(end) as u64 - start;
        map(start, info.image.start + (start - IMAGE_BASE), length, access, Largest::Large);
    }
    let largest = if has_huge_pages() { Largest::Huge } else { Largest::Large };
    for range in ram(info.memory_map.as_slice()) {
        map(DIRECT_MAP + range.start, range.start, range.length, Access::ReadWrite, largest);
    }
    space
}

/// CPUID leaf 0x8000_0001, EDX bit 26: 1 GiB pages.
fn has_huge_pages() -> bool {
    cpuid(0x8000_0001, 0).edx & 1 << 26 != 0
}

/// Ranges of RAM, neighbours merged.
fn ram(map: &[Region]) -> impl Iterator<Item = PhysicalRange> {
    let mut regions = map.iter().filter(|region| region.kind.is_ram()).map(|region| region.range).peekable();
    core::iter::from_fn(move || {
        let mut range = regions.next()?;
        while let Some(next) = regions.next_if(|next| next.start == range.end()) {
            range.length += next.length;
        }
        Some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn region(start: u64, length: u64, kind: RegionKind) -> Region {
        Region::new(PhysicalRange { start, length }, kind)
    }

    #[test]
    fn neighbouring_ram_is_mapped_in_one_piece() {
        let map = [
            region(0, 0xa0000, RegionKind::USABLE),
            region(0xa0000, 0x60000, RegionKind::RESERVED),
            region(0x10_0000, 0x10_0000, RegionKind::USABLE),
            region(0x20_0000, 0x1000, RegionKind::IMAGE),
        ];
        let ranges: Vec<_> = ram(&map).map(|range| (range.start, range.length)).collect();
        assert_eq!(ranges, [(0, 0xa0000), (0x10_0000, 0x10_1000)]);
    }

    #[test]
    fn the_description_of_ram_lies_above_the_first_mebibyte() {
        let map =
            [region(0x1000, 0x9f000, RegionKind::USABLE), region(0x10_0000, 0x4000, RegionKind::USABLE)];
        assert_eq!(place_for(&map, 0x4000).map(|range| range.start), Some(0x10_0000));
        assert_eq!(place_for(&map, 0x5000), None);
    }
}
